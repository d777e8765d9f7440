# Sources of the engine and the flags of each: portable files get none, so that the library loads on any processor of
# the family; files of one instruction set get its flags and are only called after asking the processor.
set(BILSTM_ENGINE_SOURCES
    csrc/api.cpp
    csrc/context.cpp
    csrc/cpu_features.cpp
    csrc/embedding_gradient.cpp
    csrc/fast_kernels.cpp
    csrc/reference.cpp)

# Sources of the engine and the flags of each: portable files get none, so that the library loads on any processor of
# the family; files of one instruction set get its flags and are only called after asking the processor.
set(BILSTM_ENGINE_SOURCES
    csrc/api.cpp
    csrc/context.cpp
    csrc/cpu_features.cpp
    csrc/document_vectors.cpp
    csrc/document_vectors_avx2.cpp
    csrc/document_vectors_avx512.cpp
    csrc/document_vectors_neon.cpp
    csrc/document_vectors_portable.cpp
    csrc/driver.cpp
    csrc/embedding_gradient.cpp
    csrc/kernel_amx.cpp
    csrc/kernel_amx_split.cpp
    csrc/kernel_avx2.cpp
    csrc/kernel_avx512.cpp
    csrc/kernel_avx512_bf16.cpp
    csrc/kernel_neon.cpp
    csrc/ngrams.cpp
    csrc/reference.cpp
    csrc/skipgram.cpp
    csrc/skipgram_avx2.cpp
    csrc/skipgram_avx512.cpp
    csrc/skipgram_neon.cpp
    csrc/skipgram_portable.cpp
    csrc/words.cpp)

# No contraction behind our back: where a multiply-add is one rounding, the source says so.
set(BILSTM_FLAGS -O3 -ffp-contract=off -Wno-maybe-uninitialized)
set_source_files_properties(${BILSTM_ENGINE_SOURCES} PROPERTIES COMPILE_OPTIONS "${BILSTM_FLAGS}")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(BILSTM_AVX512 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mf16c -mprefer-vector-width=512)
  set_source_files_properties(csrc/document_vectors_avx2.cpp csrc/kernel_avx2.cpp csrc/skipgram_avx2.cpp PROPERTIES
      COMPILE_OPTIONS "${BILSTM_FLAGS};-mavx2;-mfma;-mf16c")
  set_source_files_properties(csrc/document_vectors_avx512.cpp csrc/kernel_avx512.cpp csrc/skipgram_avx512.cpp PROPERTIES
      COMPILE_OPTIONS "${BILSTM_FLAGS};${BILSTM_AVX512}")
  set_source_files_properties(csrc/kernel_avx512_bf16.cpp PROPERTIES COMPILE_OPTIONS
      "${BILSTM_FLAGS};${BILSTM_AVX512};-mavx512bf16")
  set_source_files_properties(csrc/kernel_amx.cpp csrc/kernel_amx_split.cpp PROPERTIES COMPILE_OPTIONS
      "${BILSTM_FLAGS};${BILSTM_AVX512};-mavx512bf16;-mamx-tile;-mamx-bf16")
endif()

// Which kernels compute recurrent layers and nothing else. Included by the test program's files.
#ifndef BILSTM_LAYER_KERNELS_H
#define BILSTM_LAYER_KERNELS_H

#include "bilstm_engine.h"

inline bool is_for_layers_alone(int kernel) {
    return kernel == BILSTM_KERNEL_AMX || kernel == BILSTM_KERNEL_AVX512_BF16;
}

#endif

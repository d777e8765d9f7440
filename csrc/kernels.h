// What a kernel offers to the entry points in api.cpp, and small facts about calls that all files share.
#ifndef BILSTM_KERNELS_H
#define BILSTM_KERNELS_H

#include <cstdint>

#include "bilstm_engine.h"
#include "context.h"
#include "layout.h"

namespace bilstm {

inline int64_t gates_of(int cell) { return cell == BILSTM_LSTM ? 4 : cell == BILSTM_GRU ? 3 : 1; }
inline int64_t real_size(int precision) { return precision == BILSTM_FLOAT64 ? 8 : 4; }

// Does direction d of the call read each sequence from its end?
inline bool reads_backwards(const bilstm_call &call, int64_t d) {
    return d == 1 || (call.directions == 1 && call.reverse != 0);
}

// Functions of one kernel. The call was checked: sizes, offsets, ids and pointers fit, the kernel runs here. They throw
// std::bad_alloc and nothing else. The caller holds the lock of the context.
struct Kernel {
    int64_t (*saved_bytes)(const bilstm_call &call);
    void (*forward)(bilstm_context &context, const bilstm_call &call);
    // Writes every gradient but d_embedding, unique_ids and d_unique; d_values goes where `d_rows` says if not null.
    void (*backward)(bilstm_context &context, const bilstm_call &call, void *d_rows);
    // Fill `weights->data` from a call.
    void (*pack)(bilstm_context &context, const bilstm_call &call, bilstm_weights &weights);
};

const Kernel *portable_kernel(int precision);
const Kernel *fast_kernel(int kernel, int precision);  // null: not built into this library

// cpu_features.cpp
const char *kernel_missing(int kernel);
bool multiplies_bfloat16_faster();  // than float32

// What backward leaves in `d_rows`: (N, I) floats if this is null, else for each direction (N, I) rounded numbers, which it
// adds up. The kernel of the call is one that runs, not "auto".
SumRounded sum_rounded_of(const bilstm_call &call);

// embedding_gradient.cpp: sums rows of equal tokens in ascending order of steps, so the result is always the same.
void embedding_gradient(bilstm_context &context, bilstm_call &call, const void *d_rows);

}  // namespace bilstm

// Weights packed for one kernel; read-only once made.
struct bilstm_weights {
    bilstm_weights() = default;
    bilstm_weights(const bilstm_weights &) = delete;
    bilstm_weights &operator=(const bilstm_weights &) = delete;
    ~bilstm_weights() {
        if (free_data != nullptr) free_data(data);
    }

    int32_t cell = 0, precision = 0, kernel = 0, directions = 0, reverse = 0;
    int64_t input_size = 0, hidden_size = 0;
    int64_t vocabulary_size = 0;  // 0: no vocabulary table
    bilstm::Memory memory, table_memory;
    void *data = nullptr;   // layout is the kernel's own
    void (*free_data)(void *data) = nullptr;  // if `data` does not lie in `memory`
    void *table = nullptr;  // (D, V, row of the kernel): input part of the gates, biases included
    int64_t bytes = 0;
};

#endif

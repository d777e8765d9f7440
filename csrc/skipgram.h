// What the instruction sets offer to the skip-gram driver: the three loops over rows that take all its time.
#ifndef BILSTM_SKIPGRAM_INTERNAL_H
#define BILSTM_SKIPGRAM_INTERNAL_H

#include <cstdint>

namespace bilstm {

// Output rows (centre and negatives) are handled this many at a time: with two vectors each they fill the registers of
// AVX2, and five negatives with their centre are one such block.
constexpr int kOutputs = 6;
// A sum over features is made of this many partial sums, whatever the vectors' length, so that all kernels agree.
constexpr int kLanes = 16;

// Two runs of context rows with the centre's own row between them, which is skipped.
struct ContextRows {
    int64_t before, after;
    // Always inlined: a copy made with one file's flags must not be what another file links to.
    __attribute__((always_inline)) int64_t count() const { return before + after; }
    __attribute__((always_inline)) int64_t row(int64_t j) const { return j < before ? j : j + 1; }
};

// All rows are `columns` floats long and lie `columns` apart, a multiple of kLanes.
struct SkipgramInstructions {
    // products[j * kOutputs + k] = x row(j) . y_k. Writes up to 2 * kLanes floats beyond the last product.
    void (*products)(const float *x, ContextRows rows, const float *y, int64_t columns, float *products);
    // values[n] = -rate / (1 + e^-values[n]); `count` is a multiple of kLanes.
    void (*errors)(float *values, int64_t count, float rate);
    // d_x row(j) += sum over k of errors[j][k] y_k, and targets[k] += sum over j of errors[j][k] x row(j) for k < used.
    void (*update)(const float *x, float *d_x, ContextRows rows, const float *y, const float *errors, int64_t columns,
                   float *const *targets, int used);
};

extern const SkipgramInstructions *const kSkipgramAvx2;
extern const SkipgramInstructions *const kSkipgramAvx512;
extern const SkipgramInstructions *const kSkipgramNeon;
extern const SkipgramInstructions *const kSkipgramPortable;

}  // namespace bilstm

#endif

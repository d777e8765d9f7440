// What the instruction sets offer to the training of document vectors: loops over rows and the logistic function.
#ifndef BILSTM_DOCUMENT_VECTORS_INTERNAL_H
#define BILSTM_DOCUMENT_VECTORS_INTERNAL_H

#include <cstdint>

namespace bilstm {

constexpr int kBlockItems = 16;                 // after so many items and as many negatives a document moves
constexpr int kBlockRows = 2 * kBlockItems;
// A sum over features is made of this many partial sums, whatever the vectors' length, so that all kernels agree.
constexpr int kLanes = 16;

// All rows are `columns` floats long, a multiple of kLanes. `count` is even. No loop fuses a product with a sum, since
// a processor without that instruction must give the same bits; the loops wait for memory anyway.
struct DocumentInstructions {
    // products[k] = x . rows[k], squares[k] = rows[k] . rows[k]; asks for the memory of next[k] meanwhile.
    void (*products)(const float *x, const float *const *rows, const float *const *next, int64_t count, int64_t columns,
                     float *products, float *squares);
    // values[n] = 1 / (1 + e^-values[n]); `count` is a multiple of kLanes.
    void (*logistic)(float *values, int64_t count);
    // x += sum over k of toward[k] rows[k], less back x.
    void (*move)(float *x, const float *const *rows, const float *toward, int64_t count, float back, int64_t columns);
    // rows[k] += toward[k] direction - back[k] rows[k], k by k: rows may be equal. Asks for next[k] meanwhile.
    void (*change)(float *const *rows, float *const *next, const float *direction, const float *toward,
                   const float *back, int64_t count, int64_t columns);
};

extern const DocumentInstructions *const kDocumentAvx2;
extern const DocumentInstructions *const kDocumentAvx512;
extern const DocumentInstructions *const kDocumentNeon;
extern const DocumentInstructions *const kDocumentPortable;

}  // namespace bilstm

#endif

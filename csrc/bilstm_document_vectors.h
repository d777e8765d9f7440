/* Vectors of texts that predict the n-grams of their text by cosine: the part of their training that takes the time.
 * Plain C, in the same library as bilstm_engine.h and by the same rules: no global state, the caller owns every array,
 * nothing is kept after a call. All random numbers are drawn by the caller, so equal arguments give equal bits.
 *
 * Letters used for sizes
 *   T  texts that have a vector     K  n-grams     S  floats from row to row     N  documents of the call
 *
 * A document is a row number of `documents` and a run of `items`, n-grams of its text; each item has one negative, an
 * n-gram drawn at random. With x the vector of the document, w_k that of an n-gram in `ngrams`, |v|^2 = v . v + 1e-12
 * and c_k = x . w_k / (|x| |w_k|), the loss is the sum over items of
 *   -log s(A c_item) - L log s(-A c_negative),      s the logistic function, A `sharpness`, L `negative_weight`
 * (Thongtan and Phienthrakul, ACL 2019 student workshop, "document vectors using cosine similarity", over n-grams as in
 * Li et al. 2016, arXiv:1512.08183). Steps are taken along the sphere, without the 1 / |x| and 1 / |w| of the gradient.
 * With r the rate, e_k = r A (1 - s(A c_k)) for an item and -r A L s(A c_k) for a negative:
 *
 * - Items are read in blocks of 16 with their 16 negatives (the last block of a document may be shorter). After each
 *   block x += sum over its items and negatives k of e_k (w_k / |w_k| - c_k x / |x|).
 * - `batch` documents see the n-grams as they stood before the batch. At its end their changes go in one after another,
 *   by document, block, items, then negatives: w += e_k (x / |x| - c_k w / |w_k|), where all but w itself is what the
 *   block had.
 */
#ifndef BILSTM_DOCUMENT_VECTORS_H
#define BILSTM_DOCUMENT_VECTORS_H

#include "bilstm_engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Zero-fill it, set struct_size, then all fields down to `negative_weight`. */
typedef struct bilstm_document_vectors_call {
    uint32_t struct_size; /* sizeof(bilstm_document_vectors_call) */
    int32_t kernel;       /* BILSTM_KERNEL_AUTO, or one that computes in float32 */

    int64_t text_count;  /* T >= 1 */
    int64_t ngram_count; /* K, 1 to 2^31 - 1 */
    int64_t stride;      /* S: a multiple of 16, 16 to 65536; floats that pad a row must be zero and stay zero */
    float *documents;    /* (T, S), changed */
    float *ngrams;       /* (K, S), changed; must not overlap `documents` */

    int64_t count;            /* N >= 0 */
    const int64_t *rows;      /* (N), 0 <= row < T; a batch has no row twice */
    const int64_t *offsets;   /* (N + 1), from 0 to item_count: d has the items offsets[d] .. offsets[d + 1] - 1 */
    int64_t item_count;       /* 0 to 2^31 - 1 */
    const int32_t *items;     /* (item_count), each 0 <= n-gram < K */
    const int32_t *negatives; /* (item_count), one an item, each 0 <= n-gram < K */
    int64_t batch;            /* documents that see the same n-grams, 1 to 4096 */
    const float *rates;       /* (N / batch, rounded up): learning rate of each batch, 0 to 1 */
    float sharpness;          /* A, above 0, at most 40 */
    float negative_weight;    /* L, 0 to 1000 */

    char error[256]; /* after a failed call: one line, what was found and what is allowed; else empty */
} bilstm_document_vectors_call;

BILSTM_API int64_t bilstm_document_vectors_call_size(void); /* sizeof(bilstm_document_vectors_call) of the library */

/* Take all steps. Returns BILSTM_OK or an error code; after an error both tables are as they were. The result does not
 * depend on the threads of the context, nor on the kernel: all of them, "portable" too, give the same bits. */
BILSTM_API int bilstm_document_vectors_run(bilstm_context *context, bilstm_document_vectors_call *call);

#ifdef __cplusplus
}
#endif

#endif

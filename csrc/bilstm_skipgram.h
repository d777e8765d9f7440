/* Skip-gram with negative sampling over a run of words: the part of word vector training that takes the time. Plain C,
 * in the same library as bilstm_engine.h and by the same rules: no global state, the caller owns every array, nothing is
 * kept after a call. All random numbers are drawn by the caller, so equal arguments give equal bits.
 *
 * Letters used for sizes
 *   N  words of the run      M  negative words of a centre      V  rows of a table      S  floats from row to row
 *
 * Word i, the centre, is predicted from each of its context words j, the words i - before[i] .. i + after[i] but i. With
 * x_j the row of word j in `inputs`, y_0 that of the centre and y_1 .. y_M those of its negatives in `outputs`, s the
 * logistic function, the loss of the run is
 *   sum over i and j of  -log s(x_j . y_0) - sum over m of log s(-x_j . y_m)
 * (Mikolov et al. 2013, arXiv:1310.4546, equation 4; a negative equal to the centre is left out, as in their program).
 * The negatives belong to the centre and serve all its context words, so that its products are those of two small
 * matrices (Ji et al. 2016, arXiv:1604.04661, section 3.2).
 * `batch` centres at a time take one step of gradient descent: all gradients of a batch are taken from the tables as
 * they stand before it, and are added up in the order of the words.
 */
#ifndef BILSTM_SKIPGRAM_H
#define BILSTM_SKIPGRAM_H

#include "bilstm_engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Zero-fill it, set struct_size, then all fields down to `rates`. */
typedef struct bilstm_skipgram_call {
    uint32_t struct_size; /* sizeof(bilstm_skipgram_call) */
    int32_t kernel;       /* BILSTM_KERNEL_AUTO, or one that computes in float32 */

    int64_t vocabulary_size; /* V, 1 to 2^31 - 1 */
    int64_t stride;          /* S: a multiple of 16, 16 to 2^20; floats that pad a row must be zero and stay zero */
    float *inputs;           /* (V, S), changed */
    float *outputs;          /* (V, S), changed; must not overlap `inputs` */

    int64_t count;                /* N >= 0 */
    const int32_t *words;         /* (N), each 0 <= word < V */
    const int32_t *before;        /* (N), 0 <= before[i] <= i */
    const int32_t *after;         /* (N), 0 <= after[i] < N - i; before[i] + after[i] <= 2000 */
    int64_t negatives;            /* M, 1 to 100 */
    const int32_t *negative_words; /* (N, M), each 0 <= word < V */
    int64_t batch;                /* centres of a step, 1 to 4096 */
    const float *rates;           /* (N / batch, rounded up): learning rate of each step */

    char error[256]; /* after a failed call: one line, what was found and what is allowed; else empty */
} bilstm_skipgram_call;

BILSTM_API int64_t bilstm_skipgram_call_size(void); /* sizeof(bilstm_skipgram_call) of the library */

/* Take all steps of the run. Returns BILSTM_OK or an error code; after an error the tables are as they were. The result
 * does not depend on the threads of the context, nor on which of the kernels avx2, avx512 and neon runs. */
BILSTM_API int bilstm_skipgram_run(bilstm_context *context, bilstm_skipgram_call *call);

#ifdef __cplusplus
}
#endif

#endif

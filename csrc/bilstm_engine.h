/* The engine's plain C interface: one recurrent layer over a ragged batch, forward and backward, on the CPU.
 *
 * Place in the way of the data: below everything. No Python, no torch, no global mutable state. The caller owns every
 * array it passes; the library never keeps a pointer after a call returns.
 *
 * Letters used for sizes
 *   B  sequences of the batch          N  steps of all sequences together (offsets[B])
 *   I  features of a step              H  hidden units           D  directions, 1 or 2
 *   G  gates of the cell: 4 LSTM (i, f, g, o), 3 GRU (r, z, n), 1 RNN; order of the gates as torch stores them
 *   V  rows of an embedding table
 *
 * "real" below is float; with precision BILSTM_FLOAT64 (portable kernel only) every such array is double instead.
 * All arrays are dense, row-major, naturally aligned. Input and output arrays must not overlap.
 *
 * Equations: LSTM Hochreiter and Schmidhuber 1997 with forget gate (Gers et al. 2000), GRU Cho et al. 2014 in the form
 * of cuDNN and torch (the reset gate multiplies after the recurrent product), RNN Elman 1990. With x_t the input,
 * m the recurrent mask (or 1), h' = m * h_{t-1} and s the logistic function:
 *   LSTM  i, f, o = s(W_ih x_t + b_ih + W_hh h' + b_hh), g = tanh(same), c_t = f c_{t-1} + i g, h_t = o tanh(c_t)
 *   GRU   r, z = s(W_ih x_t + b_ih + W_hh h' + b_hh), n = tanh(W_in x_t + b_in + r (W_hn h' + b_hn)),
 *         h_t = (1 - z) n + z h_{t-1}
 *   RNN   h_t = tanh or relu (W_ih x_t + b_ih + W_hh h' + b_hh)
 * The second direction reads every sequence from its own last step to its first; outputs are put back in input order.
 */
#ifndef BILSTM_ENGINE_H
#define BILSTM_ENGINE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BILSTM_API __attribute__((visibility("default")))
#else
#define BILSTM_API
#endif

/* Raised whenever a struct, a constant or the meaning of a function changes. */
#define BILSTM_INTERFACE_VERSION 2

/* What functions return. */
enum {
    BILSTM_OK = 0,
    BILSTM_ERROR_ARGUMENT = 1,    /* sizes, offsets, ids or pointers that do not fit; call->error says which */
    BILSTM_ERROR_UNSUPPORTED = 2, /* a kernel or precision that cannot run here; call->error says why */
    BILSTM_ERROR_MEMORY = 3       /* memory could not be had; nothing was written that counts */
};

enum { BILSTM_LSTM = 0, BILSTM_GRU = 1, BILSTM_RNN_TANH = 2, BILSTM_RNN_RELU = 3 };

enum {
    BILSTM_FLOAT32 = 0,  /* float32 throughout */
    BILSTM_BFLOAT16 = 1, /* products of bfloat16 numbers, sums and cell state in float32; arrays stay float */
    BILSTM_FLOAT64 = 2   /* portable kernel only; arrays are double */
};

enum {
    BILSTM_KERNEL_AUTO = 0, /* the fastest that runs here; in float32 it depends on H and on whether `saved` is given, so
                               that outputs depend neither on the batch nor on the number of threads */
    BILSTM_KERNEL_PORTABLE = 1,
    BILSTM_KERNEL_AVX2 = 2,   /* float32 */
    BILSTM_KERNEL_AVX512 = 3, /* float32 */
    BILSTM_KERNEL_AMX = 4,    /* bfloat16; float32 as three bfloat16 parts of each number */
    BILSTM_KERNEL_NEON = 5,   /* float32 */
    BILSTM_KERNEL_AVX512_BF16 = 6, /* bfloat16 */
    BILSTM_KERNEL_COUNT = 7
};

typedef struct bilstm_context bilstm_context; /* thread pool and reusable work memory */
typedef struct bilstm_weights bilstm_weights; /* weights packed for one kernel, for inference */

/* Everything about one call. Zero-fill it, set struct_size, then the fields that apply; NULL means "not given" or
 * "not wanted". The same struct, with the same inputs, serves forward and then backward. */
typedef struct bilstm_call {
    uint32_t struct_size; /* sizeof(bilstm_call) */
    int32_t cell;         /* BILSTM_LSTM ... */
    int32_t precision;    /* BILSTM_FLOAT32 ... */
    int32_t kernel;       /* BILSTM_KERNEL_AUTO ... */
    int32_t directions;   /* D: 1 forwards, 2 both */
    int32_t reverse;      /* with D == 1: 1 reads each sequence from its end (0 otherwise) */
    int64_t input_size;   /* I >= 1 */
    int64_t hidden_size;  /* H >= 1 */
    int64_t batch;        /* B >= 0 */
    int64_t total_steps;  /* N >= 0, equal to offsets[B] */
    int64_t vocabulary_size; /* V, with token_ids */

    /* Input: values, or token_ids with embedding, or token_ids with `packed` weights that hold a vocabulary table. */
    const int64_t *offsets;   /* (B + 1): sequence b is steps offsets[b] .. offsets[b + 1]; empty ones are allowed */
    const void *values;       /* (N, I) real */
    const int64_t *token_ids; /* (N), each 0 <= id < V */
    const void *embedding;    /* (V, I) real */

    /* Weights of each direction in torch's layout; not read when `packed` is given. */
    const void *w_ih[2]; /* (G * H, I) real */
    const void *w_hh[2]; /* (G * H, H) real */
    const void *b_ih[2]; /* (G * H) real or NULL for zeros */
    const void *b_hh[2]; /* (G * H) real or NULL for zeros */
    const bilstm_weights *packed; /* from bilstm_weights_pack with the same cell, sizes, precision and kernel;
                                     inference only */

    const void *h_0; /* (D, B, H) real or NULL for zeros */
    const void *c_0; /* (D, B, H) real or NULL for zeros; LSTM only */
    const void *recurrent_mask; /* (D, B, H) real or NULL: multiplies h_{t-1} before the recurrent product, the same at
                                   every step (variational dropout, Gal and Ghahramani 2016; scaled by the caller) */

    /* Results of bilstm_forward, each only if not NULL, every element written. */
    void *outputs;      /* (N, D * H) real: h_t at every step */
    void *h_n;          /* (D, B, H) real: h after the last step read; h_0 for an empty sequence */
    void *c_n;          /* (D, B, H) real; LSTM only */
    void *max_values;   /* (B, D * H) real: largest h_t over the steps; 0 for an empty sequence */
    int32_t *max_steps; /* (B, D * H): position in the sequence of that largest value (the first one in input order);
                           -1 for an empty sequence */
    void *mean_values;  /* (B, D * H) real: mean of h_t over the steps; 0 for an empty sequence */

    /* What a forward pass keeps for its backward pass: a buffer of the caller, bilstm_saved_bytes(call) long, opaque,
     * may be copied and moved. NULL in forward means inference. Backward only reads it, so it can run twice. */
    void *saved;
    int64_t saved_bytes; /* length of that buffer */

    /* Gradients given to bilstm_backward; NULL means zero. */
    const void *d_outputs; /* (N, D * H) real */
    const void *d_h_n;     /* (D, B, H) real */
    const void *d_c_n;     /* (D, B, H) real */
    const void *d_max;     /* (B, D * H) real; needs max_steps as forward wrote it */
    const void *d_mean;    /* (B, D * H) real */

    /* Gradients that bilstm_backward computes, each only if not NULL, every element written (never added to). */
    void *d_values;    /* (N, I) real: of each input row, both directions summed (with tokens: of the gathered rows) */
    void *d_w_ih[2];   /* (G * H, I) real */
    void *d_w_hh[2];   /* (G * H, H) real */
    void *d_b_ih[2];   /* (G * H) real */
    void *d_b_hh[2];   /* (G * H) real */
    void *d_h_0;       /* (D, B, H) real */
    void *d_c_0;       /* (D, B, H) real */
    void *d_embedding; /* (V, I) real: token input only, dense, zero in the rows of absent tokens */
    int64_t *unique_ids;  /* room for min(N, V): token input only, the tokens present, ascending */
    void *d_unique;       /* room for (min(N, V), I) real: gradient of each of those tokens */
    int64_t unique_count; /* result: how many of them */

    char error[256]; /* after a failed call: one line, what was found and what is allowed; else empty */
} bilstm_call;

/* ---- what runs here --------------------------------------------------------------------------------------------- */

BILSTM_API int bilstm_interface_version(void); /* BILSTM_INTERFACE_VERSION of the library */
BILSTM_API int64_t bilstm_call_size(void);     /* sizeof(bilstm_call) of the library */
BILSTM_API const char *bilstm_build(void);     /* compiler and target, for reports */
/* Name of a kernel, "portable", "avx2", ...; NULL for an unknown number. */
BILSTM_API const char *bilstm_kernel_name(int kernel);
/* NULL if the kernel runs on this machine, else one line why not. */
BILSTM_API const char *bilstm_kernel_missing(int kernel);
/* 1 if the kernel computes in that precision, wherever it runs. */
BILSTM_API int bilstm_kernel_has_precision(int kernel, int precision);
/* 1 if a kernel multiplies bfloat16 numbers faster than float32 ones here: AMX, or AVX512-BF16 of AMD (Intel's, without AMX,
 * takes twice as long as float32). Only a caller's advice: BILSTM_BFLOAT16 computes everywhere. */
BILSTM_API int bilstm_prefers_bfloat16(void);
/* The kernel that inference with this choice runs, or -1 if it cannot run (bilstm_forward then says why). The same kernel
 * trains, but for BILSTM_KERNEL_AUTO in float32, which trains layers of 64 to 384 hidden units with AMX where that runs. */
BILSTM_API int bilstm_choose_kernel(int kernel, int precision);

/* ---- contexts --------------------------------------------------------------------------------------------------- */

/* A context runs calls on `threads` threads (the calling one and threads - 1 of its own, started when first needed).
 * Several contexts may be used at once; calls on one context wait for each other. After fork the child may go on using
 * a context of the parent: it starts new threads by itself. Results do not depend on `threads`. NULL if out of memory
 * or threads < 1. */
BILSTM_API bilstm_context *bilstm_context_create(int threads);
BILSTM_API void bilstm_context_destroy(bilstm_context *context);
BILSTM_API int bilstm_context_threads(const bilstm_context *context);
BILSTM_API int bilstm_context_set_threads(bilstm_context *context, int threads); /* between calls */

/* Memory for `saved` that is kept and used again (a fresh 40 MB from the system costs more than a backward pass over
 * it). Release takes no context: a buffer may outlive the context it came from. */
BILSTM_API void *bilstm_buffer_acquire(bilstm_context *context, int64_t bytes);
BILSTM_API void bilstm_buffer_release(void *buffer);

/* ---- computing -------------------------------------------------------------------------------------------------- */

/* Bytes that `saved` needs for this call: depends on cell, precision, kernel, D, H, B and N alone. -1 if the call is
 * not possible (call->error says why). */
BILSTM_API int64_t bilstm_saved_bytes(bilstm_call *call);
BILSTM_API int bilstm_forward(bilstm_context *context, bilstm_call *call);
BILSTM_API int bilstm_backward(bilstm_context *context, bilstm_call *call);

/* Pack weights once for many inference calls. Reads cell, precision, kernel, D, I, H, w_* and b_* of the call, and
 * with `embedding` (and vocabulary_size) also builds the vocabulary table: embedding W_ih^T + biases for every token and
 * direction (V * D * G * H floats), after which calls need token_ids only. NULL on failure (call->error says why).
 * With batch == 1 they are meant for calls of one sequence: an LSTM in bfloat16 is then faster, with other last bits than
 * in a batch; else a sequence has the same bits alone and in any batch.
 * The result is read-only: any number of contexts and threads may share it. */
BILSTM_API bilstm_weights *bilstm_weights_pack(bilstm_context *context, bilstm_call *call);
BILSTM_API void bilstm_weights_free(bilstm_weights *weights);
BILSTM_API int64_t bilstm_weights_bytes(const bilstm_weights *weights);

#ifdef __cplusplus
}
#endif

#endif

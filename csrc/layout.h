// How the fast kernels lay out one layer in memory, and what one piece of work is. Plain data only: these structs cross
// between files compiled for different instruction sets.
//
// Letters as in bilstm_engine.h. W: floats of one vector. Hp: H rounded up to whole vectors; the padding units have zero
// weights and stay zero.
//
// A row of gate sums holds, for every block of W units, the W values of each gate side by side: [block][gate][W], P
// elements. The GRU has Hp more behind them: the recurrent sum of gate n, which the reset gate multiplies.
//
// Inside, steps are in the order in which a direction reads them ("step s"), rows of one step next to each other, and
// sequences of a shard are sorted by length, longest first. So the rows that are still running at step s are always a
// prefix, "live(s)" long: no padding, no masks.
#ifndef BILSTM_LAYOUT_H
#define BILSTM_LAYOUT_H

#include <cstddef>
#include <cstdint>

#include "bilstm_engine.h"

namespace bilstm {

struct Layout {
    int64_t cell, gates, lanes;
    int64_t I, H, D;
    int64_t Hp;           // units, padded
    int64_t P;            // one row of gate sums
    int64_t C;            // the same with the extra part of the GRU
    int64_t Ik, Hk, Pk;   // lengths of rows that are factors of products: input, state, gate gradients
    int64_t state;        // elements of state saved per row: c of the LSTM, h of the GRU, nothing for the RNN
    int64_t stored_bytes;   // of one saved element
    // Weight gradients are summed as 0: (P, Ik) and (P, Hp); 1: (Ik, P) and (Hk, P); 2: (P / lanes, Ik, lanes) and
    // (P / lanes, Hk, lanes).
    int64_t sums_by_input;
};

// Some sequences, longest first.
struct Shard {
    int64_t rows;           // those with at least one step come first; empty ones last
    const int64_t *index;   // (rows): which sequence of the batch
    const int64_t *begin;   // (rows): its first step in the input
    const int64_t *length;  // (rows): descending
    int64_t steps;          // of all rows together
    int64_t first;          // row of the saved arrays where this shard begins
};

// Packed weights of one direction. Backward only: the transposed ones.
struct Direction {
    void *w_ih, *w_hh;
    float *bias;  // (C): sums start from it
    void *w_ih_back, *w_hh_back;
    void *table;  // (V, C) of saved elements, or null
    void *single;  // w_hh once more, for a step of one row; or null
};

// Sums of weight gradients over some shards of one direction.
struct WeightSums {
    float *w_ih;  // (P, Ik), or as Layout::sums_by_input says
    float *w_hh;  // (P, Hp), likewise
    float *b_ih;  // (P)
    float *b_hh;  // (P); the same as b_ih but for the GRU
};

struct Item {
    const bilstm_call *call;
    const Layout *layout;
    const Shard *shard;
    const Direction *weights;
    int64_t d;
    bool backwards;  // this direction reads from the end
    char *scratch;
    char *saved_gates, *saved_state;  // of this direction: rows of C and of `state` elements; null in inference
    WeightSums sums;                  // backward: added to
    float *d_rows;                    // backward: gradient of the input rows (N, I), or null
    bool adds_rows;                   // add to d_rows, else write
    const void *rounded;              // the embedding as factors, rows of Ik, or null
    void *d_rounded;                  // in place of d_rows: of this direction alone, as factors, rows of I; or null
};

// Set `to` to the sum of some rows (N, I) of d_rounded of all D directions, one array behind the other; `more` steps follow
// that will be asked for next.
using SumRounded = void (*)(const void *rows, const int64_t *steps, int64_t count, int64_t more, int64_t I, int64_t D,
                            int64_t N, float *to);

// What a file of one instruction set provides.
struct Instructions {
    int lanes;
    bool rounds;  // bfloat16 factors and saved values
    void (*plan)(Layout &layout);
    size_t (*packed_bytes)(const Layout &layout, bool backward);
    void (*pack)(const Layout &layout, const bilstm_call &call, int64_t d, bool backward, char *memory, Direction &to);
    // Rows first .. first + count - 1 of a vocabulary table, made of those rows of the embedding, or of rows tokens[first],
    // ... if `tokens` is not null.
    void (*fill_table)(const Layout &layout, const Direction &weights, const float *embedding, const int64_t *tokens,
                       int64_t first, int64_t count, char *scratch);
    size_t (*table_scratch_bytes)(const Layout &layout);
    size_t (*forward_scratch_bytes)(const Layout &layout, int64_t rows);
    void (*forward)(const Item &item);
    size_t (*backward_scratch_bytes)(const Layout &layout, int64_t rows);
    void (*backward)(const Item &item);
    int64_t shard_rows = 0;  // rows of a shard; 0: as many as suit the float32 products without tiles
    // Where factors are narrower than floats, else null: turn `count` rows of an embedding into rows of factors.
    void (*round_rows)(const Layout &layout, const float *from, int64_t count, void *to) = nullptr;
    SumRounded sum_rounded = nullptr;
};

extern const Instructions *const kAvx2;
extern const Instructions *const kAvx512;
extern const Instructions *const kAvx512Bf16;
extern const Instructions *const kAmx;
extern const Instructions *const kAmxSplit;
extern const Instructions *const kNeon;

}  // namespace bilstm

#endif

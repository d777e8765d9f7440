// One direction of one layer over one shard: what both passes share, then the passes. Included inside an unnamed namespace
// after `Products` (products_f32.h, products_bfloat16.h or products_split.h) and cells.h. See layout.h for the order of rows.

using Stored = Products::Stored;
using Factor = Products::Factor;

// Hands out pieces of one block of memory; with a null block it only counts.
struct Pieces {
    char *base;
    size_t used = 0;
    template <class T>
    T *take(int64_t count) {
        T *piece = base != nullptr ? reinterpret_cast<T *>(base + used) : nullptr;
        used += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
        return piece;
    }
};

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

void plan_layout(Layout &l) {
    l.lanes = W;
    l.Hp = (l.H + W - 1) / W * W;
    l.P = l.gates * l.Hp;
    l.C = l.cell == BILSTM_GRU ? l.P + l.Hp : l.P;
    l.state = l.cell == BILSTM_LSTM || l.cell == BILSTM_GRU ? l.Hp : 0;
    Products::plan(l);
}

// Bias of a row of sums: both biases together, but apart for gate n of the GRU.
void pack_bias(const Layout &l, const bilstm_call &call, int64_t d, float *bias) {
    const float *b_ih = static_cast<const float *>(call.b_ih[d]), *b_hh = static_cast<const float *>(call.b_hh[d]);
    for (int64_t p = 0; p < l.C; ++p) {
        const bool extra = p >= l.P;
        const int64_t row = extra ? (p - l.P < l.H ? 2 * l.H + p - l.P : -1) : Products::torch_row(l, p);
        const bool gate_n = l.cell == BILSTM_GRU && row >= 2 * l.H;
        float sum = 0.0f;
        if (row >= 0 && !extra && b_ih != nullptr) sum += b_ih[row];
        if (row >= 0 && (extra || !gate_n) && b_hh != nullptr) sum += b_hh[row];
        bias[p] = sum;
    }
}

// Rows of a chunk: enough to feed the products, few enough to stay in the second-level cache. Depends on sizes alone.
int64_t forward_chunk(const Layout &l) { return larger(128, smaller(512, (192 << 10) / (4 * (l.C + l.Ik)))); }
int64_t backward_chunk(const Layout &l) {
    const int64_t row_bytes = static_cast<int64_t>(sizeof(Factor)) * (2 * l.Pk + l.Ik + l.Hk) + 4 * l.Ik;
    // The sums of weight gradients are read and written once a chunk; when they are large, chunks are long.
    const bool large = 4 * l.P * (l.Ik + l.Hk) > (1 << 20);
        return larger(64, smaller(512, (large ? 4 << 20 : 1 << 20) / row_bytes));
}

const float *input_row(const bilstm_call &call, int64_t n) {
    return call.token_ids != nullptr ? static_cast<const float *>(call.embedding) + call.token_ids[n] * call.input_size
                                     : static_cast<const float *>(call.values) + n * call.input_size;
}

// Row n of the input as factors.
void read_input(const Item &item, int64_t n, Factor *to) {
    const Layout &l = *item.layout;
    if (item.rounded == nullptr) return Products::convert_row(input_row(*item.call, n), to, l.I);
    const Factor *from = static_cast<const Factor *>(item.rounded) + item.call->token_ids[n] * l.Ik;
    for (int64_t i = 0, end = l.Ik; i < end; i += 2 * W) __builtin_memcpy(to + i, from + i, 2 * W * sizeof(Factor));
}

// Copy rows (rows of H) of a (D, B, H) array into padded rows.
void gather_states(const Item &item, const void *from, float *to) {
    const Layout &l = *item.layout;
    for (int64_t r = 0; r < item.shard->rows; ++r) {
        const float *row = static_cast<const float *>(from) + (item.d * item.call->batch + item.shard->index[r]) * l.H;
        for (int64_t u = 0; u < l.Hp; ++u) to[r * l.Hp + u] = from != nullptr && u < l.H ? row[u] : 0.0f;
    }
}

void scatter_states(const Item &item, const float *from, void *to) {
    const Layout &l = *item.layout;
    for (int64_t r = 0; to != nullptr && r < item.shard->rows; ++r) {
        float *row = static_cast<float *>(to) + (item.d * item.call->batch + item.shard->index[r]) * l.H;
        __builtin_memcpy(row, from + r * l.Hp, static_cast<size_t>(l.H) * sizeof(float));
    }
}

// Which step of the input a direction reads at its step s.
INLINE int64_t input_step(const Item &item, int64_t r, int64_t s) {
    return item.shard->begin[r] + (item.backwards ? item.shard->length[r] - 1 - s : s);
}

// Ask for `bytes` from `p` on, so that they are near when they are read: rows of an embedding, of a vocabulary table and
// of earlier steps lie where no hardware prefetcher looks. An address that is not ours does no harm.
INLINE void fetch(const void *p, int64_t bytes) {
    for (int64_t k = 0; k < bytes; k += 64) __builtin_prefetch(static_cast<const char *>(p) + k);
}

INLINE void fetch_to_write(const void *p, int64_t bytes) {
    for (int64_t k = 0; k < bytes; k += 64) __builtin_prefetch(static_cast<const char *>(p) + k, 1);
}

INLINE void fetch_input(const Item &item, int64_t n) {
    const Layout &l = *item.layout;
    if (item.rounded == nullptr) return fetch(input_row(*item.call, n), 4 * l.I);
    fetch(static_cast<const Factor *>(item.rounded) + item.call->token_ids[n] * l.Ik,
          l.Ik * static_cast<int64_t>(sizeof(Factor)));
}

template <class T>
INLINE void swap_pointers(T &a, T &b) {
    const T c = a;
    a = b;
    b = c;
}

#include "layer_forward.h"

#include "vocabulary_table.h"

#include "layer_backward.h"

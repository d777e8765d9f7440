// The bfloat16 kernels: products of one instruction set, gates with AVX-512. Included inside an unnamed namespace after
// bfloat16_factors.h and the products (multiply_amx.h or multiply_avx512_bf16.h).

INLINE void store(Half *p, V v) {
    const __m256bh rounded = _mm512_cvtneps_pbh(v);
    __builtin_memcpy(p, &rounded, sizeof rounded);
}

inline Half half_of(float x) {
    const __m128bh rounded = _mm_cvtneps_pbh(_mm_set_ss(x));
    Half bits;
    __builtin_memcpy(&bits, &rounded, sizeof bits);
    return bits;
}

inline float float_of(Half bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float x;
    __builtin_memcpy(&x, &wide, sizeof x);
    return x;
}

#include "rough_gates.h"

struct Products;
void pack_bias(const Layout &layout, const bilstm_call &call, int64_t d, float *bias);

#include "cells.h"

#include "single_row.h"

#include "products_bfloat16.h"

#include "layer.h"

void forward_tiles(const Item &item) {
    configure_tiles(item.shard->rows > 0 && item.shard->rows < 16 ? item.shard->rows : 16);
    forward(item);
    release_tiles();
}

void backward_tiles(const Item &item) {
    configure_tiles(16);
    backward(item);
    release_tiles();
}

void fill_table_tiles(const Layout &layout, const Direction &weights, const float *embedding, const int64_t *tokens,
                      int64_t first, int64_t count, char *scratch) {
    configure_tiles(16);
    fill_table(layout, weights, embedding, tokens, first, count, scratch);
    release_tiles();
}

void round_rows(const Layout &layout, const float *from, int64_t count, void *to) {
    Half *rows = static_cast<Half *>(to);
    for (int64_t k = 0; k < count; ++k, from += layout.I, rows += layout.Ik) {
        const int64_t written = round_up(layout.I, W);
        Products::convert_row(from, rows, layout.I);
        for (int64_t i = written; i < layout.Ik; i += W) store(rows + i, V{});
    }
}

// 64 columns at a time are summed in registers.
void sum_rounded(const void *rows, const int64_t *steps, int64_t count, int64_t more, int64_t I, int64_t D, int64_t N,
                 float *to) {
    const Half *all = static_cast<const Half *>(rows);
    const auto fetch_row = [&](int64_t k) {
        for (int64_t d = 0; k < count + more && d < D; ++d) fetch(all + (d * N + steps[k]) * I, 2 * I);
    };
    int64_t i = 0;
    for (; i + 4 * W <= I; i += 4 * W) {
        V sums[4]{};
        for (int64_t k = 0; k < count; ++k) {
            if (i == 0) fetch_row(k + 8);
            for (int64_t d = 0; d < D; ++d) {
                const Half *row = all + (d * N + steps[k]) * I + i;
#pragma GCC unroll 4
                for (int j = 0; j < 4; ++j) sums[j] = sums[j] + load(row + j * W);
            }
        }
        for (int j = 0; j < 4; ++j) store(to + i + j * W, sums[j]);
    }
    for (; i < I; ++i) {
        float sum = 0.0f;
        for (int64_t k = 0; k < count; ++k) {
            for (int64_t d = 0; d < D; ++d) sum += float_of(all[(d * N + steps[k]) * I + i]);
        }
        to[i] = sum;
    }
}

const Instructions table{W,
                         true,
                         plan_layout,
                         Products::packed_bytes,
                         Products::pack,
                         fill_table_tiles,
                         table_scratch_bytes,
                         forward_scratch_bytes,
                         forward_tiles,
                         backward_scratch_bytes,
                         backward_tiles,
                         kRowsOfShard,
                         round_rows,
                         sum_rounded};

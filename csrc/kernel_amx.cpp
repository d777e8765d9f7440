// The bfloat16 kernels: products with AMX tiles, gates with AVX-512. Everything but the table at the end has internal
// linkage: code made with these flags must never be what another file links to.
#include "layout.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace bilstm {
namespace {

using Half = uint16_t;  // a bfloat16 number's bits

#include "simd.h"

INLINE V load(const Half *p) {
    __m256i bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

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

#include "rough_gates.h"

struct Products;
void pack_bias(const Layout &layout, const bilstm_call &call, int64_t d, float *bias);

#include "products_amx.h"

#include "cells.h"

#include "layer.h"

void forward_tiles(const Item &item) {
    configure_tiles(item.shard->rows > 0 && item.shard->rows < 16 ? item.shard->rows : 16);
    forward(item);
    _tile_release();
}

void backward_tiles(const Item &item) {
    configure_tiles();
    backward(item);
    _tile_release();
}

void fill_table_tiles(const Layout &layout, const Direction &weights, const float *embedding, const int64_t *tokens,
                      int64_t first, int64_t count, char *scratch) {
    configure_tiles();
    fill_table(layout, weights, embedding, tokens, first, count, scratch);
    _tile_release();
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
                         backward_tiles};

}  // namespace

const Instructions *const kAmx = &table;

}  // namespace bilstm
#else
const bilstm::Instructions *const bilstm::kAmx = nullptr;
#endif

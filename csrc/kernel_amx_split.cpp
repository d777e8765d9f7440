// The float32 kernels for AMX: products of the three bfloat16 parts of each number with tiles, exact gates with AVX-512.
// Everything but the table at the end has internal linkage: code made with these flags must never be what another file
// links to.
#include "layout.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace bilstm {
namespace {

#include "simd.h"

#include "bfloat16_tiles.h"

#include "exact_gates.h"

struct Products;
void pack_bias(const Layout &layout, const bilstm_call &call, int64_t d, float *bias);

#include "products_split.h"

#include "cells.h"

#include "layer.h"

void forward_tiles(const Item &item) {
    forward(item);
    release_tiles();
}

void backward_tiles(const Item &item) {
    backward(item);
    release_tiles();
}

void fill_table_tiles(const Layout &layout, const Direction &weights, const float *embedding, const int64_t *tokens,
                      int64_t first, int64_t count, char *scratch) {
    fill_table(layout, weights, embedding, tokens, first, count, scratch);
    release_tiles();
}

const Instructions table{W,
                         false,
                         plan_layout,
                         Products::packed_bytes,
                         Products::pack,
                         fill_table_tiles,
                         table_scratch_bytes,
                         forward_scratch_bytes,
                         forward_tiles,
                         backward_scratch_bytes,
                         backward_tiles,
                         kRowsOfTiles};

}  // namespace

const Instructions *const kAmxSplit = &table;

}  // namespace bilstm
#else
const bilstm::Instructions *const bilstm::kAmxSplit = nullptr;
#endif

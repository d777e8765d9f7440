// The float32 kernels, compiled for one instruction set. Everything but the table at the end has internal linkage:
// code made with these flags must never be what another file links to.
#include "layout.h"

#if defined(__aarch64__)
#include <arm_neon.h>

namespace bilstm {
namespace {

#include "simd.h"

#include "exact_gates.h"

#include "gemm_f32.h"

struct Products;
void pack_bias(const Layout &layout, const bilstm_call &call, int64_t d, float *bias);

#include "products_f32.h"

#include "cells.h"

#include "layer.h"

const Instructions table{W,       false,      plan_layout,           Products::packed_bytes, Products::pack, fill_table,
                         table_scratch_bytes, forward_scratch_bytes, forward,                backward_scratch_bytes,
                         backward};

}  // namespace

const Instructions *const kNeon = &table;

}  // namespace bilstm
#else
const bilstm::Instructions *const bilstm::kNeon = nullptr;
#endif

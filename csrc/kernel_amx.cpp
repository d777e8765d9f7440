// The bfloat16 kernels with AMX tiles. Everything but the table at the end has internal
// linkage: code made with these flags must never be what another file links to.
#include "layout.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace bilstm {
namespace {

#include "simd.h"

#include "bfloat16_tiles.h"

#include "bfloat16_factors.h"

#include "multiply_amx.h"

#include "kernel_bfloat16.h"

}  // namespace

const Instructions *const kAmx = &table;

}  // namespace bilstm
#else
const bilstm::Instructions *const bilstm::kAmx = nullptr;
#endif

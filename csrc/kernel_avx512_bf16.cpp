// The bfloat16 kernels with AVX512-BF16. Everything but the table at the end has internal
// linkage: code made with these flags must never be what another file links to.
#include "layout.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <type_traits>

namespace bilstm {
namespace {

#include "simd.h"

#include "bfloat16_tiles.h"

#include "bfloat16_factors.h"

#include "multiply_avx512_bf16.h"

#include "kernel_bfloat16.h"

}  // namespace

const Instructions *const kAvx512Bf16 = &table;

}  // namespace bilstm
#else
const bilstm::Instructions *const bilstm::kAvx512Bf16 = nullptr;
#endif

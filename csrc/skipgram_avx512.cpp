// The skip-gram loops for AVX-512. Everything but the table at the end has internal linkage: see kernel_avx512.cpp.
#include "skipgram.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace bilstm {
namespace {

#include "simd.h"

#include "row_sums.h"

#include "skipgram_rows.h"

const SkipgramInstructions table{products, errors, update};

}  // namespace

const SkipgramInstructions *const kSkipgramAvx512 = &table;

}  // namespace bilstm
#else
const bilstm::SkipgramInstructions *const bilstm::kSkipgramAvx512 = nullptr;
#endif

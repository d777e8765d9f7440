// The skip-gram loops for AVX2. Everything but the table at the end has internal linkage: see kernel_avx2.cpp.
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

const SkipgramInstructions *const kSkipgramAvx2 = &table;

}  // namespace bilstm
#else
const bilstm::SkipgramInstructions *const bilstm::kSkipgramAvx2 = nullptr;
#endif

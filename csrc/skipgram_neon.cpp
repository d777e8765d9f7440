// The skip-gram loops for NEON. Everything but the table at the end has internal linkage: see kernel_neon.cpp.
#include "skipgram.h"

#if defined(__aarch64__)
#include <arm_neon.h>

namespace bilstm {
namespace {

#include "simd.h"

#include "row_sums.h"

#include "skipgram_rows.h"

const SkipgramInstructions table{products, errors, update};

}  // namespace

const SkipgramInstructions *const kSkipgramNeon = &table;

}  // namespace bilstm
#else
const bilstm::SkipgramInstructions *const bilstm::kSkipgramNeon = nullptr;
#endif

// The skip-gram loops without special instructions, for any processor.
#include "skipgram.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace bilstm {
namespace {

#include "simd.h"

#include "row_sums.h"

#include "skipgram_rows.h"

const SkipgramInstructions table{products, errors, update};

}  // namespace

const SkipgramInstructions *const kSkipgramPortable = &table;

}  // namespace bilstm

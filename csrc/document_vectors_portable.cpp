// The loops of document vectors without special instructions, for any processor.
#include "document_vectors.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace bilstm {
namespace {

#include "simd.h"

#include "row_sums.h"

#include "document_vectors_rows.h"

const DocumentInstructions table{products, logistic, move, change};

}  // namespace

const DocumentInstructions *const kDocumentPortable = &table;

}  // namespace bilstm

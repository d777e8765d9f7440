// The loops of document vectors for NEON.
// Everything but the table at the end has internal linkage: see kernel_neon.cpp.
#include "document_vectors.h"

#if defined(__aarch64__)
#include <arm_neon.h>

namespace bilstm {
namespace {

#include "simd.h"

#include "row_sums.h"

#include "document_vectors_rows.h"

const DocumentInstructions table{products, logistic, move, change};

}  // namespace

const DocumentInstructions *const kDocumentNeon = &table;

}  // namespace bilstm
#else
const bilstm::DocumentInstructions *const bilstm::kDocumentNeon = nullptr;
#endif

// The loops of document vectors for AVX2.
// Everything but the table at the end has internal linkage: see kernel_avx2.cpp.
#include "document_vectors.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace bilstm {
namespace {

#include "simd.h"

#include "row_sums.h"

#include "document_vectors_rows.h"

const DocumentInstructions table{products, logistic, move, change};

}  // namespace

const DocumentInstructions *const kDocumentAvx2 = &table;

}  // namespace bilstm
#else
const bilstm::DocumentInstructions *const bilstm::kDocumentAvx2 = nullptr;
#endif

// The loops of document vectors for AVX-512.
// Everything but the table at the end has internal linkage: see kernel_avx512.cpp.
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

const DocumentInstructions *const kDocumentAvx512 = &table;

}  // namespace bilstm
#else
const bilstm::DocumentInstructions *const bilstm::kDocumentAvx512 = nullptr;
#endif

// The table of kernels that were built into this library.
#include "kernels.h"

namespace bilstm {

const Kernel *fast_kernel(int, int) { return nullptr; }

}  // namespace bilstm

// What calls that take steps of gradient descent share: how they refuse, and which instruction set they run on.
#ifndef BILSTM_CALLS_H
#define BILSTM_CALLS_H

#include <cstdarg>
#include <cstdio>

#include "bilstm_engine.h"
#include "kernels.h"

namespace bilstm {

// Write into the call's own room why it is refused.
template <typename Call>
__attribute__((format(printf, 2, 3))) int refuse(Call &call, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(call.error, sizeof call.error, format, arguments);
    va_end(arguments);
    return BILSTM_ERROR_ARGUMENT;
}

// The loops of each instruction set; nullptr where this build has none.
template <typename Instructions>
struct InstructionSets {
    const Instructions *avx512, *avx2, *neon, *portable;

    // Those of a kernel, or the fastest that run here; nullptr if they do not.
    const Instructions *choose(int kernel) const {
        const struct {
            int kernel;
            const Instructions *loops;
        } sets[] = {{BILSTM_KERNEL_AVX512, avx512},
                    {BILSTM_KERNEL_AVX2, avx2},
                    {BILSTM_KERNEL_NEON, neon},
                    {BILSTM_KERNEL_PORTABLE, portable}};
        for (const auto &set : sets) {
            const bool is_wanted = kernel == BILSTM_KERNEL_AUTO || kernel == set.kernel;
            if (is_wanted && set.loops != nullptr && kernel_missing(set.kernel) == nullptr) return set.loops;
        }
        return nullptr;
    }
};

}  // namespace bilstm

#endif

// Which kernels this machine can run, asked once of the processor and the operating system.
#include "bilstm_engine.h"
#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace bilstm {

#if defined(__x86_64__)
namespace {

struct Features {
    bool avx2 = false, avx512 = false, avx512_bf16 = false, amx_bf16 = false, amx_granted = false, amd = false;
};

uint64_t enabled_state() {
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t(high) << 32) | low;
}

Features ask() {
    Features found;
    uint32_t a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d)) return found;
    found.amd = b == signature_AMD_ebx && d == signature_AMD_edx && c == signature_AMD_ecx;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
    const bool has_xgetbv = c & (1u << 27), fma = c & (1u << 12), f16c = c & (1u << 29);
    if (!has_xgetbv) return found;
    const uint64_t state = enabled_state();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
    const bool avx2 = b & (1u << 5);
    const uint32_t f_dq_bw_vl = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);
    const bool avx512 = (b & f_dq_bw_vl) == f_dq_bw_vl;
    const bool amx_bf16 = (d & (1u << 22)) && (d & (1u << 24));
    found.avx2 = avx2 && fma && f16c && (state & 0x6) == 0x6;
    found.avx512 = found.avx2 && avx512 && (state & 0xe6) == 0xe6;
    uint32_t bf16 = 0;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) bf16 = a & (1u << 5);
    found.avx512_bf16 = found.avx512 && bf16;
    found.amx_bf16 = found.avx512_bf16 && amx_bf16 && (state & 0x60000) == 0x60000;
#if defined(__linux__) && defined(SYS_arch_prctl)
    // Tile data must be granted to the process by the kernel, once (ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
    if (found.amx_bf16) found.amx_granted = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#endif
    return found;
}

const Features &features() {
    static const Features found = ask();
    return found;
}

}  // namespace
#endif

const char *kernel_missing(int kernel) {
    const bool built = kernel == BILSTM_KERNEL_PORTABLE || fast_kernel(kernel, BILSTM_FLOAT32) != nullptr ||
                       fast_kernel(kernel, BILSTM_BFLOAT16) != nullptr;
    if (kernel == BILSTM_KERNEL_AUTO || kernel == BILSTM_KERNEL_PORTABLE) return nullptr;
    if (kernel < 0 || kernel >= BILSTM_KERNEL_COUNT) return "there is no kernel of that number";
    if (!built) return "not built into this library (other processor family)";
#if defined(__x86_64__)
    const Features &cpu = features();
    if (kernel == BILSTM_KERNEL_AVX2 && !cpu.avx2) return "this processor lacks AVX2 or FMA";
    if (kernel == BILSTM_KERNEL_AVX512 && !cpu.avx512) return "this processor lacks AVX-512 (F, DQ, BW, VL)";
    if (kernel == BILSTM_KERNEL_AVX512_BF16 && !cpu.avx512_bf16) return "this processor lacks AVX512-BF16";
    if (kernel == BILSTM_KERNEL_AMX && !cpu.amx_bf16) return "this processor lacks AMX bf16";
    if (kernel == BILSTM_KERNEL_AMX && !cpu.amx_granted) return "the operating system does not grant AMX tiles";
#endif
    return nullptr;
}

bool multiplies_bfloat16_faster() {
#if defined(__x86_64__)
    if (features().amd && kernel_missing(BILSTM_KERNEL_AVX512_BF16) == nullptr) return true;
#endif
    return kernel_missing(BILSTM_KERNEL_AMX) == nullptr;
}

}  // namespace bilstm

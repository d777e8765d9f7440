// The C entry points: check everything, choose the kernel, turn exceptions into codes.
#include <cinttypes>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#include "bilstm_engine.h"
#include "kernels.h"

namespace bilstm {
namespace {

constexpr int64_t kLargestSize = int64_t(1) << 24;   // of I and H: products of two sizes stay far from overflow
constexpr int64_t kMostSteps = int64_t(1) << 40;     // of N, B and V
constexpr int64_t kLongest = (int64_t(1) << 31) - 2;  // of one sequence: positions are int32

const char *const kKernelNames[] = {"auto", "portable", "avx2", "avx512", "amx", "neon", "avx512_bf16"};
const char *const kPrecisionNames[] = {"float32", "bfloat16", "float64"};

__attribute__((format(printf, 3, 4))) int fail(bilstm_call &call, int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(call.error, sizeof call.error, format, arguments);
    va_end(arguments);
    return code;
}

bool has_precision(int kernel, int precision) {
    if (kernel == BILSTM_KERNEL_PORTABLE) return precision >= BILSTM_FLOAT32 && precision <= BILSTM_FLOAT64;
    if (kernel == BILSTM_KERNEL_AMX) return precision == BILSTM_BFLOAT16 || precision == BILSTM_FLOAT32;
    return precision == (kernel == BILSTM_KERNEL_AVX512_BF16 ? BILSTM_BFLOAT16 : BILSTM_FLOAT32);
}

bool runs(int kernel, int precision) {
    if (!has_precision(kernel, precision) || kernel_missing(kernel) != nullptr) return false;
    return kernel == BILSTM_KERNEL_PORTABLE || fast_kernel(kernel, precision) != nullptr;
}

// In float32, training takes AMX for layers of these sizes (kernel_amx_split.cpp): smaller ones do not fill its tiles, and
// the weights of larger ones, half as many bytes again, leave the second-level cache. Inference never does: a single
// sequence would take twice as long, and the outputs of a sequence must not depend on how many others there are.
constexpr int64_t kLeastUnitsForParts = 64, kMostUnitsForParts = 384;

bool takes_parts(int64_t hidden_size, bool saves) {
    return saves && hidden_size >= kLeastUnitsForParts && hidden_size <= kMostUnitsForParts;
}

// What "auto" takes: the first that runs.
int choose(int kernel, int precision, bool parts) {
    if (precision < BILSTM_FLOAT32 || precision > BILSTM_FLOAT64) return -1;
    if (kernel > BILSTM_KERNEL_AUTO && kernel < BILSTM_KERNEL_COUNT) return runs(kernel, precision) ? kernel : -1;
    if (kernel != BILSTM_KERNEL_AUTO) return -1;
    const int order[] = {BILSTM_KERNEL_AMX, BILSTM_KERNEL_AVX512_BF16, BILSTM_KERNEL_AVX512, BILSTM_KERNEL_AVX2,
                         BILSTM_KERNEL_NEON};
    for (const int candidate : order) {
        if (candidate == BILSTM_KERNEL_AMX && precision == BILSTM_FLOAT32 && !parts) continue;
        if (runs(candidate, precision)) return candidate;
    }
    return BILSTM_KERNEL_PORTABLE;
}

const Kernel *functions(int kernel, int precision) {
    return kernel == BILSTM_KERNEL_PORTABLE ? portable_kernel(precision) : fast_kernel(kernel, precision);
}

int check_sizes(bilstm_call &call) {
    call.error[0] = '\0';
    if (call.cell < BILSTM_LSTM || call.cell > BILSTM_RNN_RELU) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "cell must be 0 to 3, got %d", call.cell);
    }
    if (call.precision < BILSTM_FLOAT32 || call.precision > BILSTM_FLOAT64) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "precision must be 0 to 2, got %d", call.precision);
    }
    if (call.directions < 1 || call.directions > 2) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "directions must be 1 or 2, got %d", call.directions);
    }
    if (call.reverse < 0 || call.reverse > 1 || (call.reverse == 1 && call.directions == 2)) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "reverse must be 0, or 1 with one direction, got %d", call.reverse);
    }
    if (call.input_size < 1 || call.input_size > kLargestSize) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "input_size must be 1 to %" PRId64 ", got %" PRId64, kLargestSize,
                    call.input_size);
    }
    if (call.hidden_size < 1 || call.hidden_size > kLargestSize) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "hidden_size must be 1 to %" PRId64 ", got %" PRId64, kLargestSize,
                    call.hidden_size);
    }
    if (choose(call.kernel, call.precision, false) < 0) {
        if (call.kernel < 0 || call.kernel >= BILSTM_KERNEL_COUNT) {
            return fail(call, BILSTM_ERROR_ARGUMENT, "kernel must be 0 to %d, got %d", BILSTM_KERNEL_COUNT - 1, call.kernel);
        }
        const char *missing = kernel_missing(call.kernel);
        return fail(call, BILSTM_ERROR_UNSUPPORTED, "kernel %s cannot run in %s: %s", kKernelNames[call.kernel],
                    kPrecisionNames[call.precision], missing ? missing : "it does not compute in that precision");
    }
    return BILSTM_OK;
}

int check_weights(bilstm_call &call) {
    for (int d = 0; d < call.directions; ++d) {
        if (call.w_ih[d] == nullptr || call.w_hh[d] == nullptr) {
            return fail(call, BILSTM_ERROR_ARGUMENT, "w_ih and w_hh of direction %d must be given", d);
        }
    }
    return BILSTM_OK;
}

int check_packed(bilstm_call &call) {
    const bilstm_weights &packed = *call.packed;
    const bool fits = packed.cell == call.cell && packed.precision == call.precision &&
                      packed.kernel == choose(call.kernel, call.precision, false) && packed.directions == call.directions &&
                      packed.reverse == call.reverse && packed.input_size == call.input_size &&
                      packed.hidden_size == call.hidden_size;
    if (!fits) {
        return fail(call, BILSTM_ERROR_ARGUMENT,
                    "packed weights are of another cell, size, direction, precision or kernel than this call");
    }
    if (call.saved != nullptr) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "packed weights serve inference only: saved must be NULL");
    }
    return BILSTM_OK;
}

int check_offsets(bilstm_call &call) {
    if (call.batch < 0 || call.batch > kMostSteps || call.total_steps < 0 || call.total_steps > kMostSteps) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "batch and total_steps must be 0 to 2^40, got %" PRId64 ", %" PRId64,
                    call.batch, call.total_steps);
    }
    if (call.offsets == nullptr) return fail(call, BILSTM_ERROR_ARGUMENT, "offsets must be given");
    if (call.offsets[0] != 0) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "offsets[0] must be 0, got %" PRId64, call.offsets[0]);
    }
    for (int64_t b = 0; b < call.batch; ++b) {
        const int64_t begin = call.offsets[b], end = call.offsets[b + 1];
        if (end < begin || end > call.total_steps) {
            return fail(call, BILSTM_ERROR_ARGUMENT,
                        "offsets must rise from 0 to total_steps %" PRId64 ": offsets[%" PRId64 "] = %" PRId64
                        ", then %" PRId64,
                        call.total_steps, b, begin, end);
        }
        if (end - begin > kLongest) {
            return fail(call, BILSTM_ERROR_ARGUMENT, "sequence %" PRId64 " has %" PRId64 " steps; at most 2^31 - 2", b,
                        end - begin);
        }
    }
    if (call.offsets[call.batch] != call.total_steps) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "offsets[%" PRId64 "] must equal total_steps %" PRId64 ", got %" PRId64,
                    call.batch, call.total_steps, call.offsets[call.batch]);
    }
    return BILSTM_OK;
}

int check_input(bilstm_call &call) {
    const bool has_table = call.packed != nullptr && call.packed->table != nullptr;
    if (call.total_steps == 0) return BILSTM_OK;
    if ((call.values != nullptr) == (call.token_ids != nullptr)) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "exactly one of values and token_ids must be given");
    }
    if (call.token_ids == nullptr) return BILSTM_OK;
    if (call.embedding == nullptr && !has_table) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "token_ids need an embedding or packed weights with a table");
    }
    if (call.vocabulary_size < 1 || call.vocabulary_size > kMostSteps) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "vocabulary_size must be 1 to 2^40, got %" PRId64,
                    call.vocabulary_size);
    }
    if (has_table && call.packed->vocabulary_size != call.vocabulary_size) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "vocabulary_size is %" PRId64 ", the packed table has %" PRId64 " rows",
                    call.vocabulary_size, call.packed->vocabulary_size);
    }
    for (int64_t n = 0; n < call.total_steps; ++n) {
        if (call.token_ids[n] < 0 || call.token_ids[n] >= call.vocabulary_size) {
            return fail(call, BILSTM_ERROR_ARGUMENT,
                        "token_ids[%" PRId64 "] = %" PRId64 " is outside 0 to %" PRId64, n, call.token_ids[n],
                        call.vocabulary_size - 1);
        }
    }
    return BILSTM_OK;
}

int check_lstm_only(bilstm_call &call) {
    if (call.cell == BILSTM_LSTM) return BILSTM_OK;
    if (call.c_0 || call.c_n || call.d_c_n || call.d_c_0) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "c_0, c_n and their gradients exist for the LSTM only");
    }
    return BILSTM_OK;
}

int check_saved(bilstm_call &call, const Kernel &kernel) {
    bilstm_call chosen = call;  // `kernel` may be auto in the caller's struct, the layout needs the one that runs
    chosen.kernel = choose(call.kernel, call.precision, takes_parts(call.hidden_size, true));
    const int64_t needed = kernel.saved_bytes(chosen);
    if (call.saved_bytes < needed) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "saved needs %" PRId64 " bytes, got %" PRId64, needed,
                    call.saved_bytes);
    }
    return BILSTM_OK;
}

int check_gradients(bilstm_call &call) {
    if (call.saved == nullptr) return fail(call, BILSTM_ERROR_ARGUMENT, "backward needs saved");
    if (call.d_max != nullptr && call.max_steps == nullptr) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "d_max needs max_steps of the forward pass");
    }
    const bool wants_tokens = call.d_embedding || call.unique_ids || call.d_unique;
    if (wants_tokens && call.token_ids == nullptr && call.total_steps > 0) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "d_embedding, unique_ids and d_unique need token input");
    }
    if ((call.unique_ids == nullptr) != (call.d_unique == nullptr)) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "unique_ids and d_unique go together");
    }
    if (call.d_embedding != nullptr && call.vocabulary_size < 1) {
        return fail(call, BILSTM_ERROR_ARGUMENT, "d_embedding needs vocabulary_size");
    }
    if (call.d_max == nullptr) return BILSTM_OK;
    const int64_t columns = call.directions * call.hidden_size;
    for (int64_t b = 0; b < call.batch; ++b) {
        const int64_t length = call.offsets[b + 1] - call.offsets[b];
        for (int64_t j = 0; j < columns; ++j) {
            const int32_t step = call.max_steps[b * columns + j];
            if (step < -1 || step >= length) {
                return fail(call, BILSTM_ERROR_ARGUMENT,
                            "max_steps[%" PRId64 "][%" PRId64 "] = %d is outside the sequence", b, j, step);
            }
        }
    }
    return BILSTM_OK;
}

int check_call(bilstm_call &call) {
    int code = check_sizes(call);
    if (code == BILSTM_OK) code = check_offsets(call);
    if (code == BILSTM_OK) code = call.packed != nullptr ? check_packed(call) : check_weights(call);
    if (code == BILSTM_OK) code = check_input(call);
    if (code == BILSTM_OK) code = check_lstm_only(call);
    return code;
}

int check_struct(bilstm_call *call) {
    if (call == nullptr) return BILSTM_ERROR_ARGUMENT;
    if (call->struct_size == sizeof(bilstm_call)) return BILSTM_OK;
    // The error field of a foreign struct cannot be found, so nothing is written into it.
    return BILSTM_ERROR_ARGUMENT;
}

int forward(bilstm_context &context, bilstm_call &call) {
    int code = check_call(call);
    if (code != BILSTM_OK) return code;
    bilstm_call chosen = call;
    chosen.kernel = choose(call.kernel, call.precision, takes_parts(call.hidden_size, call.saved != nullptr));
    const Kernel &kernel = *functions(chosen.kernel, call.precision);
    if (call.saved != nullptr) code = check_saved(call, kernel);
    if (code != BILSTM_OK) return code;
    const std::lock_guard<std::mutex> guard(context.lock());
    kernel.forward(context, chosen);
    return BILSTM_OK;
}

int backward(bilstm_context &context, bilstm_call &call) {
    int code = check_call(call);
    if (code == BILSTM_OK && call.packed != nullptr) {
        code = fail(call, BILSTM_ERROR_ARGUMENT, "backward takes plain weights, not packed ones");
    }
    if (code == BILSTM_OK) code = check_gradients(call);
    if (code != BILSTM_OK) return code;
    bilstm_call chosen = call;
    chosen.kernel = choose(call.kernel, call.precision, takes_parts(call.hidden_size, true));
    const Kernel &kernel = *functions(chosen.kernel, call.precision);
    code = check_saved(call, kernel);
    if (code != BILSTM_OK) return code;
    const std::lock_guard<std::mutex> guard(context.lock());
    const bool wants_tokens = call.d_embedding || call.unique_ids;
    void *d_rows = call.d_values;
    if (wants_tokens && d_rows == nullptr) {
        const size_t elements = static_cast<size_t>(call.total_steps) * static_cast<size_t>(call.input_size);
        d_rows = context.scratch(15).reserve(elements * static_cast<size_t>(real_size(call.precision)));
    }
    kernel.backward(context, chosen, d_rows);
    if (wants_tokens) embedding_gradient(context, chosen, d_rows);
    call.unique_count = chosen.unique_count;
    return BILSTM_OK;
}

bilstm_weights *pack(bilstm_context &context, bilstm_call &call) {
    int code = check_sizes(call);
    if (code == BILSTM_OK) code = check_weights(call);
    if (code == BILSTM_OK && call.embedding != nullptr &&
        (call.vocabulary_size < 1 || call.vocabulary_size > kMostSteps)) {
        code = fail(call, BILSTM_ERROR_ARGUMENT, "vocabulary_size must be 1 to 2^40, got %" PRId64,
                    call.vocabulary_size);
    }
    if (code != BILSTM_OK) return nullptr;
    bilstm_call chosen = call;
    chosen.kernel = choose(call.kernel, call.precision, false);
    auto weights = std::make_unique<bilstm_weights>();
    weights->cell = call.cell;
    weights->precision = call.precision;
    weights->kernel = chosen.kernel;
    weights->directions = call.directions;
    weights->reverse = call.reverse;
    weights->input_size = call.input_size;
    weights->hidden_size = call.hidden_size;
    weights->vocabulary_size = call.embedding != nullptr ? call.vocabulary_size : 0;
    const std::lock_guard<std::mutex> guard(context.lock());
    functions(chosen.kernel, call.precision)->pack(context, chosen, *weights);
    return weights.release();
}

int out_of_memory(bilstm_call &call) { return fail(call, BILSTM_ERROR_MEMORY, "out of memory"); }

}  // namespace
}  // namespace bilstm

extern "C" {

int bilstm_interface_version(void) { return BILSTM_INTERFACE_VERSION; }

int64_t bilstm_call_size(void) { return static_cast<int64_t>(sizeof(bilstm_call)); }

const char *bilstm_build(void) {
#if defined(__x86_64__)
    return "gcc " __VERSION__ ", x86-64";
#elif defined(__aarch64__)
    return "gcc " __VERSION__ ", aarch64";
#else
    return "gcc " __VERSION__ ", other";
#endif
}

const char *bilstm_kernel_name(int kernel) {
    return kernel >= 0 && kernel < BILSTM_KERNEL_COUNT ? bilstm::kKernelNames[kernel] : nullptr;
}

const char *bilstm_kernel_missing(int kernel) { return bilstm::kernel_missing(kernel); }

int bilstm_kernel_has_precision(int kernel, int precision) {
    return kernel > BILSTM_KERNEL_AUTO && kernel < BILSTM_KERNEL_COUNT && bilstm::has_precision(kernel, precision);
}

int bilstm_prefers_bfloat16(void) { return bilstm::multiplies_bfloat16_faster(); }

int bilstm_choose_kernel(int kernel, int precision) { return bilstm::choose(kernel, precision, false); }

int64_t bilstm_saved_bytes(bilstm_call *call) {
    if (bilstm::check_struct(call) != BILSTM_OK || bilstm::check_sizes(*call) != BILSTM_OK) return -1;
    bilstm_call chosen = *call;
    chosen.kernel = bilstm::choose(call->kernel, call->precision, bilstm::takes_parts(call->hidden_size, true));
    return bilstm::functions(chosen.kernel, call->precision)->saved_bytes(chosen);
}

int bilstm_forward(bilstm_context *context, bilstm_call *call) {
    if (context == nullptr || bilstm::check_struct(call) != BILSTM_OK) return BILSTM_ERROR_ARGUMENT;
    try {
        context->notice_fork();
        return bilstm::forward(*context, *call);
    } catch (const std::bad_alloc &) {
        return bilstm::out_of_memory(*call);
    }
}

int bilstm_backward(bilstm_context *context, bilstm_call *call) {
    if (context == nullptr || bilstm::check_struct(call) != BILSTM_OK) return BILSTM_ERROR_ARGUMENT;
    try {
        context->notice_fork();
        return bilstm::backward(*context, *call);
    } catch (const std::bad_alloc &) {
        return bilstm::out_of_memory(*call);
    }
}

bilstm_weights *bilstm_weights_pack(bilstm_context *context, bilstm_call *call) {
    if (context == nullptr || bilstm::check_struct(call) != BILSTM_OK) return nullptr;
    try {
        context->notice_fork();
        return bilstm::pack(*context, *call);
    } catch (const std::bad_alloc &) {
        bilstm::out_of_memory(*call);
        return nullptr;
    }
}

void bilstm_weights_free(bilstm_weights *weights) { delete weights; }

int64_t bilstm_weights_bytes(const bilstm_weights *weights) { return weights != nullptr ? weights->bytes : 0; }

}  // extern "C"

// Skip-gram with negative sampling: checks, memory and the order of the work; the loops are behind skipgram.h.
//
// A step gathers the rows that a batch of centres needs, so that all its gradients come from the same tables and the
// loops run over dense memory. Features are cut into slices of fixed width, which the threads share: a slice never
// reads or writes another's columns, and products are summed over slices in order, so the threads do not change a bit.
#include "skipgram.h"

#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#include "bilstm_skipgram.h"
#include "calls.h"

namespace bilstm {
namespace {

constexpr int64_t kSliceColumns = 64;
constexpr int64_t kMostNegatives = 100, kMostContext = 2000, kLargestBatch = 4096, kLargestStride = int64_t(1) << 20;
constexpr int kInputsSlot = 0, kOutputsSlot = 1, kProductsSlot = 2;  // of the context's scratch memory

int refuse_number(bilstm_skipgram_call &call, const char *name, int64_t most, int64_t found) {
    return refuse(call, "%s must be 1 to %" PRId64 ", got %" PRId64, name, most, found);
}

int check_words(bilstm_skipgram_call &call, const int32_t *words, int64_t count, const char *name) {
    for (int64_t n = 0; n < count; ++n) {
        if (words[n] < 0 || words[n] >= call.vocabulary_size) {
            return refuse(call, "%s[%" PRId64 "] = %d is outside 0 to %" PRId64, name, n, words[n],
                          call.vocabulary_size - 1);
        }
    }
    return BILSTM_OK;
}

int check(bilstm_skipgram_call &call) {
    call.error[0] = '\0';
    if (call.vocabulary_size < 1 || call.vocabulary_size > INT32_MAX) {
        return refuse_number(call, "vocabulary_size", INT32_MAX, call.vocabulary_size);
    }
    if (call.stride < kLanes || call.stride > kLargestStride || call.stride % kLanes != 0) {
        return refuse(call, "stride must be a multiple of %d, at most %" PRId64 ", got %" PRId64, kLanes,
                      kLargestStride, call.stride);
    }
    if (call.negatives < 1 || call.negatives > kMostNegatives) {
        return refuse_number(call, "negatives", kMostNegatives, call.negatives);
    }
    if (call.batch < 1 || call.batch > kLargestBatch) return refuse_number(call, "batch", kLargestBatch, call.batch);
    if (call.count < 0 || call.count > INT32_MAX) {
        return refuse(call, "count must be 0 to 2^31 - 1, got %" PRId64, call.count);
    }
    if (call.count == 0) return BILSTM_OK;
    if (!call.inputs || !call.outputs || !call.words || !call.before || !call.after || !call.negative_words ||
        !call.rates) {
        return refuse(call, "all arrays must be given");
    }
    for (int64_t i = 0; i < call.count; ++i) {
        const int64_t before = call.before[i], after = call.after[i];
        if (before < 0 || before > i || after < 0 || after >= call.count - i || before + after > kMostContext) {
            return refuse(call,
                          "before[%" PRId64 "] = %" PRId64 " and after[%" PRId64 "] = %" PRId64
                          " leave the %" PRId64 " words, or are more than %" PRId64,
                          i, before, i, after, call.count, kMostContext);
        }
    }
    const int code = check_words(call, call.words, call.count, "words");
    return code != BILSTM_OK ? code
                             : check_words(call, call.negative_words, call.count * call.negatives, "negative_words");
}

const SkipgramInstructions *choose(int kernel) {
    return InstructionSets<SkipgramInstructions>{kSkipgramAvx512, kSkipgramAvx2, kSkipgramNeon, kSkipgramPortable}.choose(kernel);
}

// One step: the centres first .. end, and where their rows lie in the gathered memory.
struct Step {
    const bilstm_skipgram_call &call;
    const SkipgramInstructions &instructions;
    std::vector<int64_t> &starts;      // where each centre's products begin
    int64_t first = 0, end = 0;
    int64_t low = 0, high = 0;         // context words lie in low .. high
    int64_t outputs = 0;               // rows gathered for a centre: 1 + M, rounded up to whole blocks
    int64_t product_count = 0;         // of one slice, with room for what `products` writes beyond
    float *x = nullptr, *y = nullptr;  // gathered rows: of `inputs`, then their changes; of `outputs`
    float *products = nullptr;         // of all slices

    int64_t positions() const { return high - low; }
    int64_t columns(int64_t slice) const { return std::min(kSliceColumns, call.stride - slice * kSliceColumns); }
    float *x_of(int64_t slice) const { return x + slice * kSliceColumns * 2 * positions(); }
    float *y_of(int64_t slice) const { return y + slice * kSliceColumns * outputs * (end - first); }
    ContextRows rows(int64_t i) const { return {call.before[i], call.after[i]}; }

    // Row of `outputs` for output k of centre i; k <= M.
    int64_t word(int64_t i, int64_t k) const {
        return k == 0 ? call.words[i] : call.negative_words[i * call.negatives + k - 1];
    }
};

void copy_row(float *to, const float *from, int64_t columns) {
    std::memcpy(to, from, static_cast<size_t>(columns) * sizeof(float));
}

void multiply_slice(void *argument, int64_t slice, int) {
    const Step &step = *static_cast<const Step *>(argument);
    const bilstm_skipgram_call &call = step.call;
    const int64_t columns = step.columns(slice), begin = slice * kSliceColumns, positions = step.positions();
    float *x = step.x_of(slice), *y = step.y_of(slice), *products = step.products + slice * step.product_count;
    for (int64_t p = 0; p < positions; ++p) {
        copy_row(x + p * columns, call.inputs + call.words[step.low + p] * call.stride + begin, columns);
    }
    std::memset(x + positions * columns, 0, static_cast<size_t>(positions * columns) * sizeof(float));
    float *row = y;
    for (int64_t i = step.first; i < step.end; ++i) {
        for (int64_t k = 0; k <= call.negatives; ++k, row += columns) {
            copy_row(row, call.outputs + step.word(i, k) * call.stride + begin, columns);
        }
        const int64_t padding = step.outputs - call.negatives - 1;
        std::memset(row, 0, static_cast<size_t>(padding * columns) * sizeof(float));
        row += padding * columns;
    }
    for (int64_t i = step.first; i < step.end; ++i) {
        const ContextRows rows = step.rows(i);
        const float *context = x + (i - rows.before - step.low) * columns;
        const float *outputs = y + (i - step.first) * step.outputs * columns;
        float *found = products + step.starts[static_cast<size_t>(i - step.first)];
        for (int64_t k = 0; k < step.outputs; k += kOutputs) {
            step.instructions.products(context, rows, outputs + k * columns, columns, found + k * rows.count());
        }
    }
}

// Products summed over slices -> errors times the rate, in the place of the first slice.
void turn_into_errors(const Step &step, int64_t slices, float rate) {
    const bilstm_skipgram_call &call = step.call;
    float *values = step.products;
    const int64_t used = step.starts[static_cast<size_t>(step.end - step.first)];
    for (int64_t slice = 1; slice < slices; ++slice) {
        const float *more = values + slice * step.product_count;
        for (int64_t n = 0; n < used; ++n) values[n] += more[n];
    }
    const int64_t whole = (used + kLanes - 1) / kLanes * kLanes;
    std::fill(values + used, values + whole, 0.0f);
    step.instructions.errors(values, whole, rate);
    for (int64_t i = step.first; i < step.end; ++i) {
        const int64_t count = step.rows(i).count();
        float *own = values + step.starts[static_cast<size_t>(i - step.first)];
        for (int64_t j = 0; j < count; ++j) own[j * kOutputs] += rate;
        for (int64_t k = 1; k <= call.negatives; ++k) {
            if (step.word(i, k) != call.words[i]) continue;
            float *column = own + k / kOutputs * kOutputs * count + k % kOutputs;
            for (int64_t j = 0; j < count; ++j) column[j * kOutputs] = 0.0f;
        }
    }
}

void update_slice(void *argument, int64_t slice, int) {
    const Step &step = *static_cast<const Step *>(argument);
    const bilstm_skipgram_call &call = step.call;
    const int64_t columns = step.columns(slice), begin = slice * kSliceColumns, positions = step.positions();
    const float *x = step.x_of(slice), *y = step.y_of(slice);
    float *d_x = step.x_of(slice) + positions * columns;
    for (int64_t i = step.first; i < step.end; ++i) {
        const ContextRows rows = step.rows(i);
        const int64_t at = (i - rows.before - step.low) * columns;
        const float *errors = step.products + step.starts[static_cast<size_t>(i - step.first)];
        for (int64_t k = 0; k < step.outputs; k += kOutputs) {
            const int used = static_cast<int>(std::min<int64_t>(kOutputs, call.negatives + 1 - k));
            float *targets[kOutputs];
            for (int t = 0; t < used; ++t) targets[t] = call.outputs + step.word(i, k + t) * call.stride + begin;
            step.instructions.update(x + at, d_x + at, rows, y + ((i - step.first) * step.outputs + k) * columns,
                                     errors + k * rows.count(), columns, targets, used);
        }
    }
    for (int64_t p = 0; p < positions; ++p) {
        float *row = call.inputs + call.words[step.low + p] * call.stride + begin;
        for (int64_t c = 0; c < columns; ++c) row[c] += d_x[p * columns + c];
    }
}

// Find the words that the step reads, and where the products of each of its centres begin.
void lay_out(const bilstm_skipgram_call &call, Step &step) {
    step.low = step.first;
    step.high = step.end;
    step.starts[0] = 0;
    for (int64_t i = step.first; i < step.end; ++i) {
        step.low = std::min(step.low, i - call.before[i]);
        step.high = std::max(step.high, i + call.after[i] + 1);
        const size_t at = static_cast<size_t>(i - step.first);
        step.starts[at + 1] = step.starts[at] + step.rows(i).count() * step.outputs;
    }
    const int64_t used = step.starts[static_cast<size_t>(step.end - step.first)];
    step.product_count = (used + kLanes - 1) / kLanes * kLanes + 2 * kLanes;
}

void run(bilstm_context &context, const bilstm_skipgram_call &call, const SkipgramInstructions &instructions) {
    const int64_t slices = (call.stride + kSliceColumns - 1) / kSliceColumns;
    std::vector<int64_t> starts(static_cast<size_t>(call.batch) + 1);
    Step step{call, instructions, starts};
    step.outputs = (call.negatives + kOutputs) / kOutputs * kOutputs;
    int64_t positions = 0, products = 0;
    for (int64_t first = 0; first < call.count; first += call.batch) {
        step.first = first;
        step.end = std::min(first + call.batch, call.count);
        lay_out(call, step);
        positions = std::max(positions, step.positions());
        products = std::max(products, step.product_count);
    }
    const auto floats = [&](int slot, int64_t count) {
        return static_cast<float *>(context.scratch(slot).reserve(static_cast<size_t>(count) * sizeof(float)));
    };
    // All memory before the first change, so that a run that lacks memory has changed nothing.
    step.x = floats(kInputsSlot, 2 * positions * call.stride);
    step.y = floats(kOutputsSlot, std::min(call.batch, call.count) * step.outputs * call.stride);
    step.products = floats(kProductsSlot, slices * products);
    for (int64_t first = 0; first < call.count; first += call.batch) {
        step.first = first;
        step.end = std::min(first + call.batch, call.count);
        lay_out(call, step);
        context.run(slices, multiply_slice, &step, true);
        turn_into_errors(step, slices, call.rates[first / call.batch]);
        context.run(slices, update_slice, &step, true);
    }
}

}  // namespace
}  // namespace bilstm

extern "C" {

int64_t bilstm_skipgram_call_size(void) { return static_cast<int64_t>(sizeof(bilstm_skipgram_call)); }

int bilstm_skipgram_run(bilstm_context *context, bilstm_skipgram_call *call) {
    if (context == nullptr || call == nullptr || call->struct_size != sizeof *call) return BILSTM_ERROR_ARGUMENT;
    const int code = bilstm::check(*call);
    if (code != BILSTM_OK) return code;
    const bilstm::SkipgramInstructions *instructions = bilstm::choose(call->kernel);
    if (instructions == nullptr) {
        const char *name = bilstm_kernel_name(call->kernel), *missing = bilstm_kernel_missing(call->kernel);
        bilstm::refuse(*call, "kernel %s cannot run skip-gram here: %s", name ? name : "of that number",
                       missing ? missing : "it does not compute in float32");
        return BILSTM_ERROR_UNSUPPORTED;
    }
    try {
        context->notice_fork();
        const std::lock_guard<std::mutex> guard(context->lock());
        bilstm::run(*context, *call, *instructions);
        return BILSTM_OK;
    } catch (const std::bad_alloc &) {
        std::snprintf(call->error, sizeof call->error, "out of memory");
        return BILSTM_ERROR_MEMORY;
    }
}

}  // extern "C"

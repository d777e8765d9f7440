// Document vectors that predict n-grams: checks, memory and the order of the work; the loops are behind
// document_vectors.h.
//
// A batch has two phases. First every document, a piece of work of its own, moves block by block and leaves for each
// block its direction and what its items weigh. Then the n-grams change: threads share the features, not the items, so
// that each number gets its changes in the same order however many threads there are.
#include "document_vectors.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <mutex>
#include <new>
#include <vector>

#include "bilstm_document_vectors.h"
#include "calls.h"

namespace bilstm {
namespace {

constexpr int64_t kLargestBatch = 4096, kLargestStride = 65536;
constexpr float kLargestSharpness = 40.0f;  // up to here 2^x of simd.h needs no bounds, which kernels set differently
constexpr float kMostWeight = 1000.0f, kTiny = 1e-12f;
constexpr int kDirectionsSlot = 0, kTowardSlot = 1, kBackSlot = 2;  // of the context's scratch memory

using Call = bilstm_document_vectors_call;

int check_number(Call &call, const char *name, int64_t least, int64_t most, int64_t found) {
    if (found >= least && found <= most) return BILSTM_OK;
    return refuse(call, "%s must be %" PRId64 " to %" PRId64 ", got %" PRId64, name, least, most, found);
}

int check_sizes(Call &call) {
    const struct {
        const char *name;
        int64_t least, most, found;
    } numbers[] = {{"text_count", 1, INT32_MAX, call.text_count},   {"ngram_count", 1, INT32_MAX, call.ngram_count},
                   {"count", 0, INT32_MAX, call.count},             {"item_count", 0, INT32_MAX, call.item_count},
                   {"batch", 1, kLargestBatch, call.batch}};
    for (const auto &number : numbers) {
        const int code = check_number(call, number.name, number.least, number.most, number.found);
        if (code != BILSTM_OK) return code;
    }
    if (call.stride < kLanes || call.stride > kLargestStride || call.stride % kLanes != 0) {
        return refuse(call, "stride must be a multiple of %d, at most %" PRId64 ", got %" PRId64, kLanes,
                      kLargestStride, call.stride);
    }
    // Written so that NaN is refused as well.
    if (!(call.sharpness > 0.0f && call.sharpness <= kLargestSharpness)) {
        return refuse(call, "sharpness must be above 0, at most %g, got %g", double(kLargestSharpness),
                      double(call.sharpness));
    }
    if (!(call.negative_weight >= 0.0f && call.negative_weight <= kMostWeight)) {
        return refuse(call, "negative_weight must be 0 to %g, got %g", double(kMostWeight),
                      double(call.negative_weight));
    }
    return BILSTM_OK;
}

int check_ngrams(Call &call, const int32_t *ngrams, const char *name) {
    for (int64_t n = 0; n < call.item_count; ++n) {
        if (ngrams[n] < 0 || ngrams[n] >= call.ngram_count) {
            return refuse(call, "%s[%" PRId64 "] = %d is outside 0 to %" PRId64, name, n, ngrams[n],
                          call.ngram_count - 1);
        }
    }
    return BILSTM_OK;
}

int check_documents(Call &call) {
    if (call.offsets[0] != 0 || call.offsets[call.count] != call.item_count) {
        return refuse(call, "offsets must go from 0 to %" PRId64 ", got %" PRId64 " to %" PRId64, call.item_count,
                      call.offsets[0], call.offsets[call.count]);
    }
    for (int64_t d = 0; d < call.count; ++d) {
        if (call.offsets[d + 1] < call.offsets[d]) {
            return refuse(call, "offsets[%" PRId64 "] = %" PRId64 " is below the one before, %" PRId64, d + 1,
                          call.offsets[d + 1], call.offsets[d]);
        }
        if (call.rows[d] < 0 || call.rows[d] >= call.text_count) {
            return refuse(call, "rows[%" PRId64 "] = %" PRId64 " is outside 0 to %" PRId64, d, call.rows[d],
                          call.text_count - 1);
        }
    }
    std::vector<int64_t> rows;
    for (int64_t first = 0, step = 0; first < call.count; first += call.batch, ++step) {
        rows.assign(call.rows + first, call.rows + std::min(first + call.batch, call.count));
        std::sort(rows.begin(), rows.end());
        const auto twice = std::adjacent_find(rows.begin(), rows.end());
        if (twice != rows.end()) {
            return refuse(call, "row %" PRId64 " stands twice in the batch of document %" PRId64, *twice, first);
        }
        const float rate = call.rates[step];
        if (!(rate >= 0.0f && rate <= 1.0f)) {
            return refuse(call, "rates[%" PRId64 "] = %g is outside 0 to 1", step, double(rate));
        }
    }
    return BILSTM_OK;
}

int check(Call &call) {
    call.error[0] = '\0';
    int code = check_sizes(call);
    if (code != BILSTM_OK || call.count == 0) return code;
    if (!call.documents || !call.ngrams || !call.rows || !call.offsets || !call.items || !call.negatives ||
        !call.rates) {
        return refuse(call, "all arrays must be given");
    }
    const auto place = [](const float *p) { return reinterpret_cast<uintptr_t>(p); };
    const auto end = [&](const float *p, int64_t rows) {
        return place(p) + static_cast<uintptr_t>(rows * call.stride) * sizeof(float);
    };
    if (place(call.documents) < end(call.ngrams, call.ngram_count) &&
        place(call.ngrams) < end(call.documents, call.text_count)) {
        return refuse(call, "documents and ngrams must not overlap");
    }
    code = check_documents(call);
    if (code == BILSTM_OK) code = check_ngrams(call, call.items, "items");
    return code == BILSTM_OK ? check_ngrams(call, call.negatives, "negatives") : code;
}

const DocumentInstructions *choose(int kernel) {
    return InstructionSets<DocumentInstructions>{kDocumentAvx512, kDocumentAvx2, kDocumentNeon, kDocumentPortable}.choose(kernel);
}

struct Block {
    int64_t first;  // item
    int64_t items;  // 1 to kBlockItems
};

// The documents first .. end and their blocks, one document's after another's.
struct Batch {
    const Call &call;
    const DocumentInstructions &instructions;
    std::vector<int64_t> first_block;  // of each document, and the end
    std::vector<Block> blocks;
    int64_t first = 0, end = 0;
    int64_t slices = 1;
    float rate = 0.0f;
    float *directions = nullptr;                // (blocks, stride): x / |x| as each block found it
    float *toward = nullptr, *back = nullptr;   // (blocks, kBlockRows): what change() needs
};

struct Rows {
    float *row[kBlockRows];  // items, then negatives, from a given column on
    int64_t count = 0;
};

// Rows beyond the block's own stay as they are.
void find_rows(const Call &call, const Block &block, int64_t column, Rows &rows) {
    rows.count = 2 * block.items;
    for (int64_t k = 0; k < block.items; ++k) {
        rows.row[k] = call.ngrams + call.items[block.first + k] * call.stride + column;
        rows.row[block.items + k] = call.ngrams + call.negatives[block.first + k] * call.stride + column;
    }
}

// The rows of the block that is read first; in the places beyond its own stands its first row.
Rows first_rows(const Call &call, const Block &block, int64_t column) {
    Rows rows;
    std::fill(rows.row, rows.row + kBlockRows, call.ngrams + call.items[block.first] * call.stride + column);
    find_rows(call, block, column, rows);
    return rows;
}

void ask_for(const Rows &rows, int64_t columns) {
    for (int64_t k = 0; k < rows.count; ++k) {
        for (int64_t c = 0; c < columns; c += kLanes) __builtin_prefetch(rows.row[k] + c, 0, 3);
    }
}

float inverse_length(float square) { return 1.0f / std::sqrt(square + kTiny); }

// One block of a document: move x, and leave what the n-grams' changes need.
void learn_block(const Batch &batch, float *x, int64_t number, const Rows &rows, const Rows &next) {
    const Call &call = batch.call;
    const DocumentInstructions &instructions = batch.instructions;
    const int64_t items = rows.count / 2, stride = call.stride;
    float products[kBlockRows], squares[kBlockRows], inverse[kBlockRows], cosines[kBlockRows];
    float chances[kBlockRows] = {}, pull[kBlockRows];
    const float *const self[2] = {x, x};
    instructions.products(x, self, self, 2, stride, products, squares);
    const float own = inverse_length(squares[0]);
    float *direction = batch.directions + number * stride;
    for (int64_t c = 0; c < stride; ++c) direction[c] = x[c] * own;
    instructions.products(x, rows.row, next.row, rows.count, stride, products, squares);
    for (int64_t k = 0; k < rows.count; ++k) {
        inverse[k] = inverse_length(squares[k]);
        cosines[k] = products[k] * inverse[k] * own;
        chances[k] = call.sharpness * cosines[k];
    }
    instructions.logistic(chances, kBlockRows);
    float *toward = batch.toward + number * kBlockRows, *back = batch.back + number * kBlockRows;
    const float scale = batch.rate * call.sharpness;
    float lost = 0.0f;
    for (int64_t k = 0; k < rows.count; ++k) {
        const float error = k < items ? 1.0f - chances[k] : -call.negative_weight * chances[k];
        toward[k] = scale * error;
        pull[k] = toward[k] * inverse[k];
        back[k] = pull[k] * cosines[k];
        lost += toward[k] * cosines[k];
    }
    instructions.move(x, rows.row, pull, rows.count, lost * own, stride);
}

void learn_document(void *argument, int64_t d, int) {
    const Batch &batch = *static_cast<const Batch *>(argument);
    const Call &call = batch.call;
    float *x = call.documents + call.rows[batch.first + d] * call.stride;
    int64_t number = batch.first_block[static_cast<size_t>(d)];
    const int64_t end = batch.first_block[static_cast<size_t>(d) + 1];
    if (number == end) return;
    Rows rows = first_rows(call, batch.blocks[static_cast<size_t>(number)], 0);
    ask_for(rows, call.stride);
    for (; number < end; ++number) {
        Rows next = rows;
        if (number + 1 < end) find_rows(call, batch.blocks[static_cast<size_t>(number) + 1], 0, next);
        learn_block(batch, x, number, rows, next);
        rows = next;
    }
}

void change_slice(void *argument, int64_t slice, int) {
    const Batch &batch = *static_cast<const Batch *>(argument);
    const Call &call = batch.call;
    const int64_t lanes = call.stride / kLanes;
    const int64_t begin = lanes * slice / batch.slices * kLanes, end = lanes * (slice + 1) / batch.slices * kLanes;
    const int64_t count = batch.first_block[static_cast<size_t>(batch.end - batch.first)];
    if (count == 0) return;
    Rows rows = first_rows(call, batch.blocks[0], begin);
    for (int64_t number = 0; number < count; ++number) {
        Rows next = rows;
        if (number + 1 < count) find_rows(call, batch.blocks[static_cast<size_t>(number) + 1], begin, next);
        batch.instructions.change(rows.row, next.row, batch.directions + number * call.stride + begin,
                                  batch.toward + number * kBlockRows, batch.back + number * kBlockRows, rows.count,
                                  end - begin);
        rows = next;
    }
}

int64_t blocks_of(const Call &call, int64_t d) {
    return (call.offsets[d + 1] - call.offsets[d] + kBlockItems - 1) / kBlockItems;
}

// List the blocks of the batch that begins at `first`; there is room for them.
void lay_out(const Call &call, int64_t first, Batch &batch) {
    batch.first = first;
    batch.end = std::min(first + call.batch, call.count);
    batch.rate = call.rates[first / call.batch];
    batch.first_block.assign(1, 0);
    batch.blocks.clear();
    for (int64_t d = batch.first; d < batch.end; ++d) {
        for (int64_t item = call.offsets[d]; item < call.offsets[d + 1]; item += kBlockItems) {
            batch.blocks.push_back({item, std::min<int64_t>(kBlockItems, call.offsets[d + 1] - item)});
        }
        batch.first_block.push_back(static_cast<int64_t>(batch.blocks.size()));
    }
}

void run(bilstm_context &context, const Call &call, const DocumentInstructions &instructions) {
    Batch batch{call, instructions, {}, {}};
    int64_t most = 0;  // blocks of a batch
    for (int64_t first = 0; first < call.count; first += call.batch) {
        int64_t blocks = 0;
        for (int64_t d = first; d < std::min(first + call.batch, call.count); ++d) blocks += blocks_of(call, d);
        most = std::max(most, blocks);
    }
    const auto floats = [&](int slot, int64_t count) {
        return static_cast<float *>(context.scratch(slot).reserve(static_cast<size_t>(count) * sizeof(float)));
    };
    // All memory before the first change, so that a run that lacks memory has changed nothing.
    batch.first_block.reserve(static_cast<size_t>(std::min(call.batch, call.count)) + 1);
    batch.blocks.reserve(static_cast<size_t>(most));
    batch.directions = floats(kDirectionsSlot, most * call.stride);
    batch.toward = floats(kTowardSlot, most * kBlockRows);
    batch.back = floats(kBackSlot, most * kBlockRows);
    batch.slices = std::min<int64_t>(context.threads, call.stride / kLanes);
    for (int64_t first = 0; first < call.count; first += call.batch) {
        lay_out(call, first, batch);
        context.run(batch.end - batch.first, learn_document, &batch, true);
        context.run(batch.slices, change_slice, &batch, true);
    }
}

}  // namespace
}  // namespace bilstm

extern "C" {

int64_t bilstm_document_vectors_call_size(void) { return static_cast<int64_t>(sizeof(bilstm_document_vectors_call)); }

int bilstm_document_vectors_run(bilstm_context *context, bilstm_document_vectors_call *call) {
    if (context == nullptr || call == nullptr || call->struct_size != sizeof *call) return BILSTM_ERROR_ARGUMENT;
    try {
        const int code = bilstm::check(*call);
        if (code != BILSTM_OK) return code;
        const bilstm::DocumentInstructions *instructions = bilstm::choose(call->kernel);
        if (instructions == nullptr) {
            const char *name = bilstm_kernel_name(call->kernel), *missing = bilstm_kernel_missing(call->kernel);
            bilstm::refuse(*call, "kernel %s cannot train document vectors here: %s", name ? name : "of that number",
                           missing ? missing : "it does not compute in float32");
            return BILSTM_ERROR_UNSUPPORTED;
        }
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

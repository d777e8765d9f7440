// What all fast kernels share: sort and shard the batch, lay out memory, hand out the work, add up weight gradients.
// Plain code without special instructions; the work itself is behind `Instructions` (layout.h).
//
// Order of sums: how sequences are put into shards and shards into groups depends on the call alone, never on the number
// of threads, and sums of groups are added in ascending order. So gradients have the same bits for any thread count.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels.h"
#include "layout.h"

namespace bilstm {
namespace {

enum Slot { kPackedSlot = 0, kWorkSlot = 1, kSumsSlot = 2, kRowsSlot = 3, kTableSlot = 4, kRoundedSlot = 5 };

const Instructions *instructions_of(int kernel, int precision) {
    switch (kernel) {
        case BILSTM_KERNEL_AVX2: return kAvx2;
        case BILSTM_KERNEL_AVX512: return kAvx512;
        case BILSTM_KERNEL_AVX512_BF16: return kAvx512Bf16;
        case BILSTM_KERNEL_AMX: return precision == BILSTM_BFLOAT16 ? kAmx : kAmxSplit;
        case BILSTM_KERNEL_NEON: return kNeon;
        default: return nullptr;
    }
}

Layout layout_of(const bilstm_call &call) {
    Layout layout{};
    layout.cell = call.cell;
    layout.gates = gates_of(call.cell);
    layout.I = call.input_size;
    layout.H = call.hidden_size;
    layout.D = call.directions;
    instructions_of(call.kernel, call.precision)->plan(layout);
    return layout;
}

// Sequences sorted by length, longest first, cut into shards of nearly equal numbers of rows.
struct Plan {
    std::vector<int64_t> index, begin, length;
    std::vector<Shard> shards;
    int64_t rows = 0;  // of the largest shard

    Plan(const bilstm_call &call, int64_t most_rows) {
        const size_t B = static_cast<size_t>(call.batch);
        index.resize(B);
        begin.resize(B);
        length.resize(B);
        std::iota(index.begin(), index.end(), 0);
        const auto steps = [&](int64_t b) { return call.offsets[b + 1] - call.offsets[b]; };
        std::stable_sort(index.begin(), index.end(), [&](int64_t a, int64_t b) { return steps(a) > steps(b); });
        for (size_t k = 0; k < B; ++k) begin[k] = call.offsets[index[k]], length[k] = steps(index[k]);
        const int64_t count = (call.batch + most_rows - 1) / most_rows;
        int64_t at = 0, first = 0;
        for (int64_t k = 0; k < count; ++k) {
            const int64_t size = (call.batch - at + count - k - 1) / (count - k);
            Shard shard{size, &index[static_cast<size_t>(at)], &begin[static_cast<size_t>(at)],
                        &length[static_cast<size_t>(at)], 0, first};
            for (int64_t r = 0; r < size; ++r) shard.steps += shard.length[r];
            first += shard.steps;
            at += size;
            rows = std::max(rows, size);
            shards.push_back(shard);
        }
    }
};

int64_t rows_of_shard(const Layout &layout, const Instructions &instructions) {
    if (instructions.shard_rows > 0) return instructions.shard_rows;
    return layout.H >= 128 ? 36 : 24;
}

int64_t stored_row_bytes(const Layout &l) { return (l.C + l.state) * l.stored_bytes; }

constexpr int64_t kSlack = 64 * 64;  // tiles may be read past the last row

int64_t saved_bytes(const bilstm_call &call) {
    const Layout layout = layout_of(call);
    return layout.D * call.total_steps * stored_row_bytes(layout) + kSlack;
}

// ---- packing ---------------------------------------------------------------------------------------------------------

struct Packing {
    const bilstm_call *call;
    const Layout *layout;
    const Instructions *instructions;
    char *memory;
    size_t bytes;
    bool backward;
    Direction *directions;
};

void pack_direction(void *argument, int64_t d, int) {
    const Packing &p = *static_cast<const Packing *>(argument);
    p.instructions->pack(*p.layout, *p.call, d, p.backward, p.memory + static_cast<size_t>(d) * p.bytes,
                         p.directions[d]);
}

void pack_into(bilstm_context &context, const bilstm_call &call, const Layout &layout, bool backward, Memory &memory,
               Direction *directions, size_t *total) {
    const Instructions &instructions = *instructions_of(call.kernel, call.precision);
    const size_t bytes = (instructions.packed_bytes(layout, backward) + 63) / 64 * 64;
    *total = bytes * static_cast<size_t>(layout.D);
    Packing packing{&call,    &layout,   &instructions, static_cast<char *>(memory.reserve(*total)), bytes,
                    backward, directions};
    context.run(layout.D, pack_direction, &packing, true);
}

struct Table {
    const Layout *layout;
    const Instructions *instructions;
    const float *embedding;
    const int64_t *tokens;  // null: all
    int64_t V, share;       // rows of the table, and how many are one item of work
    Direction *directions;
    char *scratch;
    size_t scratch_bytes;
};

void fill_share(void *argument, int64_t item, int worker) {
    const Table &t = *static_cast<const Table *>(argument);
    const int64_t shares = (t.V + t.share - 1) / t.share, d = item / shares, first = item % shares * t.share;
    t.instructions->fill_table(*t.layout, t.directions[d], t.embedding, t.tokens, first,
                               std::min(t.share, t.V - first), t.scratch + static_cast<size_t>(worker) * t.scratch_bytes);
}

// Make a vocabulary table of V rows in `memory`, for all directions; returns its bytes.
size_t make_table(bilstm_context &context, const bilstm_call &call, const Layout &layout, Memory &memory,
                  const int64_t *tokens, int64_t V, Direction *directions) {
    const Instructions &instructions = *instructions_of(call.kernel, call.precision);
    const size_t direction_bytes = static_cast<size_t>(V * layout.C * layout.stored_bytes);
    char *at = static_cast<char *>(memory.reserve(static_cast<size_t>(layout.D) * direction_bytes));
    for (int64_t d = 0; d < layout.D; ++d) directions[d].table = at + static_cast<size_t>(d) * direction_bytes;
    const size_t scratch_bytes = instructions.table_scratch_bytes(layout);
    const size_t workers = static_cast<size_t>(context.threads.load());
    Table table{&layout, &instructions, static_cast<const float *>(call.embedding),
                tokens,  V,             1024,
                directions, nullptr,    scratch_bytes};
    table.scratch = static_cast<char *>(context.scratch(kWorkSlot).reserve(workers * scratch_bytes));
    context.run(layout.D * ((V + table.share - 1) / table.share), fill_share, &table, true);
    return static_cast<size_t>(layout.D) * direction_bytes;
}

void pack(bilstm_context &context, const bilstm_call &call, bilstm_weights &weights) {
    const Layout layout = layout_of(call);
    auto directions = std::make_unique<Direction[]>(2);
    size_t bytes = 0;
    pack_into(context, call, layout, false, weights.memory, directions.get(), &bytes);
    weights.bytes = static_cast<int64_t>(bytes);
    if (call.embedding != nullptr) {
        const size_t table_bytes = make_table(context, call, layout, weights.table_memory, nullptr,
                                              call.vocabulary_size, directions.get());
        weights.table = directions[0].table;
        weights.bytes += static_cast<int64_t>(table_bytes);
    }
    weights.data = directions.release();
    weights.free_data = [](void *data) { delete[] static_cast<Direction *>(data); };
}

// ---- forward ---------------------------------------------------------------------------------------------------------

struct Task {
    const bilstm_call *call;
    const Layout *layout;
    const Instructions *instructions;
    const Plan *plan;
    const Direction *directions;
    char *scratch;
    size_t scratch_bytes;
    const void *rounded;
};

// The part of an item that is the same in both passes.
Item item_of(const Task &work, int64_t shard, int64_t d, int worker) {
    const Layout &l = *work.layout;
    const bilstm_call &call = *work.call;
    Item item{};
    item.call = &call;
    item.layout = &l;
    item.shard = &work.plan->shards[static_cast<size_t>(shard)];
    item.weights = &work.directions[d];
    item.d = d;
    item.backwards = reads_backwards(call, d);
    item.scratch = work.scratch + static_cast<size_t>(worker) * work.scratch_bytes;
    item.rounded = work.rounded;
    if (call.saved != nullptr) {
        char *gates = static_cast<char *>(call.saved), *state = gates + l.D * call.total_steps * l.C * l.stored_bytes;
        item.saved_gates = gates + d * call.total_steps * l.C * l.stored_bytes;
        item.saved_state = state + d * call.total_steps * l.state * l.stored_bytes;
    }
    return item;
}

struct Rounding {
    const bilstm_call *call;
    const Layout *layout;
    const Instructions *instructions;
    char *to;
};

constexpr int64_t kRoundedAtOnce = 512;  // rows

void round_share(void *argument, int64_t item, int) {
    const Rounding &r = *static_cast<const Rounding *>(argument);
    const int64_t first = item * kRoundedAtOnce, I = r.layout->I, bytes = r.layout->Ik * r.layout->stored_bytes;
    r.instructions->round_rows(*r.layout, static_cast<const float *>(r.call->embedding) + first * I,
                               std::min(kRoundedAtOnce, r.call->vocabulary_size - first), r.to + first * bytes);
}

// Where each row of an embedding is read twice and more, it is rounded once: half the bytes to read each time. Null if it
// does not pay.
const void *round_embedding(bilstm_context &context, const bilstm_call &call, const Layout &layout,
                            const Instructions &instructions) {
    const int64_t V = call.vocabulary_size;
    if (instructions.round_rows == nullptr || call.token_ids == nullptr || call.embedding == nullptr ||
        2 * V > layout.D * call.total_steps) {
        return nullptr;
    }
    const size_t bytes = static_cast<size_t>(V * layout.Ik * layout.stored_bytes);
    Rounding rounding{&call, &layout, &instructions, static_cast<char *>(context.scratch(kRoundedSlot).reserve(bytes))};
    context.run((V + kRoundedAtOnce - 1) / kRoundedAtOnce, round_share, &rounding, true);
    return rounding.to;
}

void forward_item(void *argument, int64_t number, int worker) {
    const Task &work = *static_cast<const Task *>(argument);
    const int64_t D = work.layout->D;
    work.instructions->forward(item_of(work, number / D, number % D, worker));
}

// The distinct tokens of a batch, and for each step which of them it has.
struct DistinctTokens {
    std::vector<int64_t> tokens, rows;
};

// In float32 the input product of a step depends on its token alone and costs far more than to read it from a table: where
// tokens repeat, each is multiplied once. The sums have the same bits. (With AMX the product is as cheap as the reading.)
bool repeats_tokens(const bilstm_call &call, const Instructions &instructions, const Direction *directions,
                    DistinctTokens &distinct) {
    const int64_t N = call.total_steps, V = call.vocabulary_size;
    if (instructions.rounds || call.token_ids == nullptr || call.embedding == nullptr || directions[0].table != nullptr ||
        call.input_size < 32 || V > 8 * N) {
        return false;
    }
    std::vector<int64_t> row_of(static_cast<size_t>(V), -1);
    distinct.rows.resize(static_cast<size_t>(N));
    for (int64_t n = 0; n < N; ++n) {
        int64_t &row = row_of[static_cast<size_t>(call.token_ids[n])];
        if (row < 0) {
            if (2 * static_cast<int64_t>(distinct.tokens.size()) >= N) return false;
            row = static_cast<int64_t>(distinct.tokens.size());
            distinct.tokens.push_back(call.token_ids[n]);
        }
        distinct.rows[static_cast<size_t>(n)] = row;
    }
    return true;
}

void forward(bilstm_context &context, const bilstm_call &given) {
    bilstm_call call = given;
    const Layout layout = layout_of(call);
    const Instructions &instructions = *instructions_of(call.kernel, call.precision);
    Direction directions[2] = {};
    if (call.packed != nullptr) {
        std::copy_n(static_cast<const Direction *>(call.packed->data), layout.D, directions);
    } else {
        size_t bytes;
        pack_into(context, call, layout, false, context.scratch(kPackedSlot), directions, &bytes);
    }
    DistinctTokens distinct;
    if (repeats_tokens(call, instructions, directions, distinct)) {
        make_table(context, call, layout, context.scratch(kTableSlot), distinct.tokens.data(),
                   static_cast<int64_t>(distinct.tokens.size()), directions);
        call.token_ids = distinct.rows.data();
    }
    const Plan plan(call, rows_of_shard(layout, instructions));
    const size_t scratch_bytes = instructions.forward_scratch_bytes(layout, plan.rows);
    Task work{&call, &layout, &instructions, &plan, directions, nullptr, scratch_bytes, nullptr};
    if (directions[0].table == nullptr) work.rounded = round_embedding(context, call, layout, instructions);
    const int64_t count = layout.D * static_cast<int64_t>(plan.shards.size());
    const size_t workers = static_cast<size_t>(std::min<int64_t>(context.threads.load(), count));
    work.scratch = static_cast<char *>(context.scratch(kWorkSlot).reserve(workers * scratch_bytes));
    context.run(count, forward_item, &work, true);
}

// ---- backward --------------------------------------------------------------------------------------------------------

struct Backward {
    Task work;
    std::vector<int64_t> groups;  // first shard of each group, and the number of shards at the end
    bool pairs;                   // one item does both directions of a group, so that they may share d_rows
    float *sums;                  // [direction][group], null if no gradient of weights is wanted
    int64_t sums_size;
    float *d_rows[2];
    char *d_rounded;  // in their place
};

int64_t state_sums(const Layout &l) { return l.P * (l.sums_by_input ? l.Hk : l.Hp); }

int64_t sums_size(const Layout &l) { return l.P * l.Ik + state_sums(l) + 2 * l.P; }

WeightSums sums_at(const Layout &l, float *sums) {
    float *state = sums + l.P * l.Ik, *bias = state + state_sums(l);
    return {sums, state, bias, bias + l.P};
}

// Groups of neighbouring shards with nearly equal numbers of steps. More groups keep more threads busy, fewer leave less
// to add up.
std::vector<int64_t> group_shards(const Plan &plan, int64_t steps) {
    const int64_t shards = static_cast<int64_t>(plan.shards.size());
    const int64_t wanted = std::min(shards, std::max<int64_t>(1, std::min<int64_t>(16, steps / 4096)));
    std::vector<int64_t> groups{0};
    int64_t done = 0;
    for (int64_t k = 0; k < shards; ++k) {
        done += plan.shards[static_cast<size_t>(k)].steps;
        const int64_t made = static_cast<int64_t>(groups.size());
        if (made < wanted && done * wanted >= steps * made && k + 1 < shards) groups.push_back(k + 1);
    }
    groups.push_back(shards);
    return groups;
}

void backward_group(const Backward &b, int64_t group, int64_t d, int worker) {
    const Layout &l = *b.work.layout;
    const int64_t count = static_cast<int64_t>(b.groups.size()) - 1;
    WeightSums sums{};
    if (b.sums != nullptr) {
        float *at = b.sums + (d * count + group) * b.sums_size;
        std::memset(at, 0, static_cast<size_t>(b.sums_size) * sizeof(float));
        sums = sums_at(l, at);
    }
    for (int64_t k = b.groups[static_cast<size_t>(group)]; k < b.groups[static_cast<size_t>(group) + 1]; ++k) {
        Item item = item_of(b.work, k, d, worker);
        item.sums = sums;
        item.d_rows = b.d_rows[d];
        item.adds_rows = d == 1 && b.d_rows[0] == b.d_rows[1];
        if (b.d_rounded != nullptr) item.d_rounded = b.d_rounded + d * b.work.call->total_steps * l.I * l.stored_bytes;
        b.work.instructions->backward(item);
    }
}

void backward_item(void *argument, int64_t number, int worker) {
    const Backward &b = *static_cast<const Backward *>(argument);
    const int64_t D = b.work.layout->D;
    if (!b.pairs) return backward_group(b, number / D, number % D, worker);
    for (int64_t d = 0; d < D; ++d) backward_group(b, number, d, worker);
}

constexpr int64_t kSumsRows = 32;

typedef float Four __attribute__((vector_size(16)));

// to = the transpose of 4 rows of 4, or add it.
inline void add_transposed(const float *from, int64_t from_stride, float *to, int64_t to_stride, bool adds) {
    Four a[4], b[4];
    for (int j = 0; j < 4; ++j) std::memcpy(&a[j], from + j * from_stride, sizeof a[j]);
    for (int j = 0; j < 2; ++j) {
        b[2 * j] = __builtin_shufflevector(a[j], a[j + 2], 0, 4, 1, 5);
        b[2 * j + 1] = __builtin_shufflevector(a[j], a[j + 2], 2, 6, 3, 7);
    }
    for (int j = 0; j < 2; ++j) {
        a[2 * j] = __builtin_shufflevector(b[j], b[j + 2], 0, 4, 1, 5);
        a[2 * j + 1] = __builtin_shufflevector(b[j], b[j + 2], 2, 6, 3, 7);
    }
    for (int j = 0; j < 4; ++j) {
        Four before{};
        if (adds) std::memcpy(&before, to + j * to_stride, sizeof before);
        a[j] = a[j] + before;
        std::memcpy(to + j * to_stride, &a[j], sizeof a[j]);
    }
}

// Add the sums of all groups for some rows p of one direction and write them in torch's order.
struct Reduction {
    const bilstm_call *call;
    const Layout *layout;
    const Backward *backward;
};

void reduce_block(void *argument, int64_t number, int) {
    const Reduction &reduction = *static_cast<const Reduction *>(argument);
    const Layout &l = *reduction.layout;
    const bilstm_call &call = *reduction.call;
    const Backward &b = *reduction.backward;
    const int64_t groups = static_cast<int64_t>(b.groups.size()) - 1, blocks = l.P / l.lanes;
    const int64_t d = number / blocks, block = number % blocks;
    const int64_t gate = block % l.gates, unit = block / l.gates * l.lanes;
    const int64_t count = std::min(l.lanes, l.H - unit), first_row = gate * l.H + unit;
    // Rows of the result for the lanes of this block, from sums whose rows p lie `row` apart.
    const auto add_rows = [&](int64_t offset, int64_t row, int64_t size, void *to_array) {
        if (to_array == nullptr) return;
        float *to = static_cast<float *>(to_array) + first_row * size;
        for (int64_t k = 0; k < groups; ++k) {
            const float *from = b.sums + (d * groups + k) * b.sums_size + offset;
            for (int64_t lane = 0; lane < count; ++lane) {
                for (int64_t i = 0; i < size; ++i) {
                    to[lane * size + i] = from[lane * row + i] + (k > 0 ? to[lane * size + i] : 0.0f);
                }
            }
        }
    };
    // The same from sums whose rows p lie side by side, of one input `column` apart; some inputs at a time, so that what
    // is read stays near until every lane has had its part.
    const auto add_columns = [&](int64_t offset, int64_t column, int64_t size, void *to_array) {
        if (to_array == nullptr) return;
        float *to = static_cast<float *>(to_array) + first_row * size;
        for (int64_t k = 0; k < groups; ++k) {
            const float *from = b.sums + (d * groups + k) * b.sums_size + offset;
            for (int64_t first = 0; first < size; first += kSumsRows, from += kSumsRows * column) {
                const int64_t rows = std::min(kSumsRows, size - first);
                float *at = to + first;
                const int64_t lanes = count / 4 * 4, whole = rows / 4 * 4;
                for (int64_t lane = 0; lane < lanes; lane += 4) {
                    for (int64_t i = 0; i < whole; i += 4) {
                        add_transposed(from + i * column + lane, column, at + lane * size + i, size, k > 0);
                    }
                }
                for (int64_t lane = 0; lane < count; ++lane) {
                    for (int64_t i = lane < lanes ? whole : 0; i < rows; ++i) {
                        at[lane * size + i] = from[i * column + lane] + (k > 0 ? at[lane * size + i] : 0.0f);
                    }
                }
            }
        }
    };
    const int64_t p = block * l.lanes, state = l.P * l.Ik, input_bias = state + state_sums(l);
    const int64_t state_bias = l.cell == BILSTM_GRU ? input_bias + l.P : input_bias;
    if (l.sums_by_input) {
        const bool by_block = l.sums_by_input == 2;
        const int64_t column = by_block ? l.lanes : l.P;
        add_columns(by_block ? p * l.Ik : p, column, l.I, call.d_w_ih[d]);
        add_columns(state + (by_block ? p * l.Hk : p), column, l.H, call.d_w_hh[d]);
    } else {
        add_rows(p * l.Ik, l.Ik, l.I, call.d_w_ih[d]);
        add_rows(state + p * l.Hp, l.Hp, l.H, call.d_w_hh[d]);
    }
    add_rows(input_bias + p, 1, 1, call.d_b_ih[d]);
    add_rows(state_bias + p, 1, 1, call.d_b_hh[d]);
}

struct RowSum {
    float *to;
    const float *from;
    int64_t count;
};

constexpr int64_t kRowSumBlock = 1 << 15;

void add_block(void *argument, int64_t number, int) {
    const RowSum &sum = *static_cast<const RowSum *>(argument);
    const int64_t end = std::min(sum.count, (number + 1) * kRowSumBlock);
    for (int64_t k = number * kRowSumBlock; k < end; ++k) sum.to[k] += sum.from[k];
}

bool wants_weights(const bilstm_call &call) {
    for (int64_t d = 0; d < call.directions; ++d) {
        if (call.d_w_ih[d] || call.d_w_hh[d] || call.d_b_ih[d] || call.d_b_hh[d]) return true;
    }
    return false;
}

void backward(bilstm_context &context, const bilstm_call &call, void *rows) {
    const Layout layout = layout_of(call);
    const Instructions &instructions = *instructions_of(call.kernel, call.precision);
    Direction directions[2] = {};
    size_t bytes;
    pack_into(context, call, layout, true, context.scratch(kPackedSlot), directions, &bytes);
    const Plan plan(call, rows_of_shard(layout, instructions));
    const size_t scratch_bytes = instructions.backward_scratch_bytes(layout, plan.rows);
    Backward b{{&call, &layout, &instructions, &plan, directions, nullptr, scratch_bytes,
                round_embedding(context, call, layout, instructions)}, {}, false, nullptr, 0, {}, nullptr};
    b.groups = group_shards(plan, call.total_steps);
    const int64_t groups = static_cast<int64_t>(b.groups.size()) - 1, threads = context.threads.load();
    if (rows != nullptr && sum_rounded_of(call) != nullptr) {
        b.d_rounded = static_cast<char *>(rows);
        rows = nullptr;
    }
    b.d_rows[0] = b.d_rows[1] = static_cast<float *>(rows);
    // A sum of two terms has the same bits in either order, so this choice may depend on the number of threads.
    b.pairs = layout.D == 2 && rows != nullptr && (threads == 1 || groups >= 2 * threads);
    const int64_t elements = call.total_steps * layout.I;
    if (layout.D == 2 && rows != nullptr && !b.pairs) {
        b.d_rows[1] = static_cast<float *>(
            context.scratch(kRowsSlot).reserve(static_cast<size_t>(elements) * sizeof(float)));
    }
    b.sums_size = sums_size(layout);
    if (wants_weights(call)) {
        const size_t sums = static_cast<size_t>(layout.D * groups * b.sums_size) * sizeof(float);
        b.sums = static_cast<float *>(context.scratch(kSumsSlot).reserve(sums));
    }
    const int64_t count = b.pairs ? groups : layout.D * groups;
    const size_t workers = static_cast<size_t>(std::max<int64_t>(1, std::min(threads, count)));
    b.work.scratch = static_cast<char *>(context.scratch(kWorkSlot).reserve(workers * scratch_bytes));
    context.run(count, backward_item, &b, true);
    if (b.d_rows[0] != b.d_rows[1]) {
        RowSum sum{b.d_rows[0], b.d_rows[1], elements};
        context.run((elements + kRowSumBlock - 1) / kRowSumBlock, add_block, &sum, true);
    }
    if (b.sums != nullptr) {
        Reduction reduction{&call, &layout, &b};
        context.run(layout.D * layout.P / layout.lanes, reduce_block, &reduction, true);
    }
}

constexpr Kernel kKernel{saved_bytes, forward, backward, pack};

}  // namespace

SumRounded sum_rounded_of(const bilstm_call &call) {
    const Instructions *instructions = instructions_of(call.kernel, call.precision);
    return instructions != nullptr && call.token_ids != nullptr && call.d_values == nullptr ? instructions->sum_rounded
                                                                                            : nullptr;
}

const Kernel *fast_kernel(int kernel, int precision) {
    const Instructions *instructions = instructions_of(kernel, precision);
    if (instructions == nullptr) return nullptr;
    return instructions->rounds == (precision == BILSTM_BFLOAT16) && precision != BILSTM_FLOAT64 ? &kKernel : nullptr;
}

}  // namespace bilstm

// One direction of one layer over one shard: forward and backward. Included inside an unnamed namespace after `Products`
// (products_f32.h or products_amx.h) and cells.h. See layout.h for the order of rows.

using Stored = Products::Stored;
using Factor = Products::Factor;

// Hands out pieces of one block of memory; with a null block it only counts.
struct Pieces {
    char *base;
    size_t used = 0;
    template <class T>
    T *take(int64_t count) {
        T *piece = base != nullptr ? reinterpret_cast<T *>(base + used) : nullptr;
        used += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
        return piece;
    }
};

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

void plan_layout(Layout &l) {
    l.lanes = W;
    l.Hp = (l.H + W - 1) / W * W;
    l.P = l.gates * l.Hp;
    l.C = l.cell == BILSTM_GRU ? l.P + l.Hp : l.P;
    l.state = l.cell == BILSTM_LSTM || l.cell == BILSTM_GRU ? l.Hp : 0;
    Products::plan(l);
}

// Bias of a row of sums: both biases together, but apart for gate n of the GRU.
void pack_bias(const Layout &l, const bilstm_call &call, int64_t d, float *bias) {
    const float *b_ih = static_cast<const float *>(call.b_ih[d]), *b_hh = static_cast<const float *>(call.b_hh[d]);
    for (int64_t p = 0; p < l.C; ++p) {
        const bool extra = p >= l.P;
        const int64_t row = extra ? (p - l.P < l.H ? 2 * l.H + p - l.P : -1) : Products::torch_row(l, p);
        const bool gate_n = l.cell == BILSTM_GRU && row >= 2 * l.H;
        float sum = 0.0f;
        if (row >= 0 && !extra && b_ih != nullptr) sum += b_ih[row];
        if (row >= 0 && (extra || !gate_n) && b_hh != nullptr) sum += b_hh[row];
        bias[p] = sum;
    }
}

// Rows of a chunk: enough to feed the products, few enough to stay in the second-level cache. Depends on sizes alone.
int64_t forward_chunk(const Layout &l) { return larger(128, smaller(512, (192 << 10) / (4 * (l.C + l.Ik)))); }
int64_t backward_chunk(const Layout &l) {
    const int64_t row_bytes = static_cast<int64_t>(sizeof(Factor)) * (2 * l.Pk + l.Ik + l.Hk) + 4 * l.Ik;
    // The sums of weight gradients are read and written once a chunk; when they are large, chunks are long.
    const bool large = 4 * l.P * (l.Ik + l.Hk) > (1 << 20);
    return larger(64, smaller(512, (large ? 4 << 20 : 1 << 20) / row_bytes));
}

const float *input_row(const bilstm_call &call, int64_t n) {
    return call.token_ids != nullptr ? static_cast<const float *>(call.embedding) + call.token_ids[n] * call.input_size
                                     : static_cast<const float *>(call.values) + n * call.input_size;
}

// Copy rows (rows of H) of a (D, B, H) array into padded rows.
void gather_states(const Item &item, const void *from, float *to) {
    const Layout &l = *item.layout;
    for (int64_t r = 0; r < item.shard->rows; ++r) {
        const float *row = static_cast<const float *>(from) + (item.d * item.call->batch + item.shard->index[r]) * l.H;
        for (int64_t u = 0; u < l.Hp; ++u) to[r * l.Hp + u] = from != nullptr && u < l.H ? row[u] : 0.0f;
    }
}

void scatter_states(const Item &item, const float *from, void *to) {
    const Layout &l = *item.layout;
    for (int64_t r = 0; to != nullptr && r < item.shard->rows; ++r) {
        float *row = static_cast<float *>(to) + (item.d * item.call->batch + item.shard->index[r]) * l.H;
        __builtin_memcpy(row, from + r * l.Hp, static_cast<size_t>(l.H) * sizeof(float));
    }
}

// Which step of the input a direction reads at its step s.
INLINE int64_t input_step(const Item &item, int64_t r, int64_t s) {
    return item.shard->begin[r] + (item.backwards ? item.shard->length[r] - 1 - s : s);
}

// ---- forward ---------------------------------------------------------------------------------------------------------

struct ForwardMemory {
    float *h, *c, *mask, *best, *total, *lost, *sums;
    int32_t *best_step;
    int64_t *input_steps;
    Factor *factor, *other_factor, *x;
    float *panel;
    float **out;
    const float **table_rows;

    ForwardMemory(const Layout &l, int64_t rows, Pieces &pieces) {
        const int64_t padded = rows + Products::kExtraRows, chunk = forward_chunk(l) + rows + Products::kExtraRows;
        h = pieces.take<float>(rows * l.Hp);
        c = pieces.take<float>(rows * l.Hp);
        mask = pieces.take<float>(rows * l.Hp);
        best = pieces.take<float>(rows * l.Hp);
        total = pieces.take<float>(rows * l.Hp);
        lost = pieces.take<float>(rows * l.Hp);
        best_step = pieces.take<int32_t>(rows * l.Hp);
        out = pieces.take<float *>(rows);
        table_rows = pieces.take<const float *>(rows);
        input_steps = pieces.take<int64_t>(chunk);
        factor = pieces.take<Factor>(padded * l.Hk);
        other_factor = pieces.take<Factor>(Products::kInputFirst ? 0 : padded * l.Hk);
        panel = pieces.take<float>(Products::kInputFirst ? 0 : padded * 4 * W);
        x = pieces.take<Factor>(chunk * l.Ik);
        sums = pieces.take<float>((Products::kInputFirst ? chunk : padded) * l.C);
    }
};

size_t forward_scratch_bytes(const Layout &l, int64_t rows) {
    Pieces pieces{nullptr};
    const ForwardMemory memory(l, rows, pieces);
    return pieces.used;
}

void pool_step(const Item &item, const ForwardMemory &m, int64_t live, int64_t s) {
    const Layout &l = *item.layout;
    const bool finds_max = item.call->max_values != nullptr || item.call->max_steps != nullptr;
    for (int64_t r = 0; r < live; ++r) {
        const int32_t position = static_cast<int32_t>(item.backwards ? item.shard->length[r] - 1 - s : s);
        for (int64_t u = r * l.Hp; u < (r + 1) * l.Hp; u += W) {
            const V h = load(m.h + u);
            if (item.call->mean_values != nullptr) {  // compensated (Kahan 1965): thousands of steps may be added
                const V total = load(m.total + u), term = h - load(m.lost + u), sum = total + term;
                store(m.total + u, sum);
                store(m.lost + u, (sum - total) - term);
            }
            if (!finds_max) continue;
            const V best = load(m.best + u);
            VI step;
            __builtin_memcpy(&step, m.best_step + u, sizeof step);
            // NaN is larger than everything; of equal values the first in input order wins.
            VI better = (step < 0) | (h > best) | ((h != h) & (best == best));
            if (item.backwards) better |= (h == best) | (h != h);
            const V now = better ? h : best;
            step = better ? (VI{} + position) : step;
            store(m.best + u, now);
            __builtin_memcpy(m.best_step + u, &step, sizeof step);
        }
    }
}

void give_pooled(const Item &item, const ForwardMemory &m) {
    const Layout &l = *item.layout;
    const bilstm_call &call = *item.call;
    for (int64_t r = 0; r < item.shard->rows; ++r) {
        const int64_t at = (item.shard->index[r] * l.D + item.d) * l.H, length = item.shard->length[r];
        for (int64_t u = 0; u < l.H; ++u) {
            if (call.max_values != nullptr) {
                static_cast<float *>(call.max_values)[at + u] = length > 0 ? m.best[r * l.Hp + u] : 0.0f;
            }
            if (call.max_steps != nullptr) call.max_steps[at + u] = m.best_step[r * l.Hp + u];
            if (call.mean_values != nullptr) {
                static_cast<float *>(call.mean_values)[at + u] =
                    length > 0 ? m.total[r * l.Hp + u] / static_cast<float>(length) : 0.0f;
            }
        }
    }
}

// Steps of a chunk, from `s` on: the last one plus one, and the rows in all.
struct Chunk {
    int64_t end, rows;
};

Chunk chunk_from(const Shard &shard, int64_t s, int64_t live, int64_t most) {
    Chunk chunk{s, 0};
    while (live > 0 && chunk.rows < most) {
        while (live > 0 && shard.length[live - 1] <= chunk.end) --live;
        if (live == 0) break;
        chunk.rows += live;
        ++chunk.end;
    }
    return chunk;
}

// Ask for `bytes` from `p` on, so that they are near when they are read: rows of an embedding, of a vocabulary table and
// of earlier steps lie where no hardware prefetcher looks. An address that is not ours does no harm.
INLINE void fetch(const void *p, int64_t bytes) {
    for (int64_t k = 0; k < bytes; k += 64) __builtin_prefetch(static_cast<const char *>(p) + k);
}

INLINE void fetch_to_write(const void *p, int64_t bytes) {
    for (int64_t k = 0; k < bytes; k += 64) __builtin_prefetch(static_cast<const char *>(p) + k, 1);
}

constexpr int64_t kRowsAtOnce = 96;

constexpr int64_t kFetchAhead = 8;  // rows

// Input rows of the chunk in the order of the steps: as factors, or as ready sums from the vocabulary table.
void read_chunk(const Item &item, int64_t s, int64_t end, const ForwardMemory &m, float *sums) {
    const Layout &l = *item.layout;
    const bool has_table = item.weights->table != nullptr && item.call->token_ids != nullptr;
    int64_t live = item.shard->rows, rows = 0;
    for (; s < end; ++s) {
        while (live > 0 && item.shard->length[live - 1] <= s) --live;
        for (int64_t r = 0; r < live; ++r) m.input_steps[rows++] = input_step(item, r, s);
    }
    const size_t row_bytes = static_cast<size_t>(has_table ? l.C : l.I) * sizeof(float);
    const auto source = [&](int64_t at) {
        const int64_t n = m.input_steps[at];
        return has_table ? item.weights->table + item.call->token_ids[n] * l.C : input_row(*item.call, n);
    };
    for (int64_t at = 0; at < rows; ++at) {
        if (at + kFetchAhead < rows) fetch(source(at + kFetchAhead), static_cast<int64_t>(row_bytes));
        if (has_table) {
            __builtin_memcpy(sums + at * l.C, source(at), row_bytes);
        } else {
            Products::convert_row(source(at), m.x + at * l.Ik, l.I);
        }
    }
}

// Rows of the vocabulary table for step s, and a call for those of the next step.
void find_table_rows(const Item &item, int64_t live, int64_t s, const ForwardMemory &m) {
    const Layout &l = *item.layout;
    for (int64_t r = 0; r < live; ++r) {
        m.table_rows[r] = item.weights->table + item.call->token_ids[input_step(item, r, s)] * l.C;
        if (s + 1 < item.shard->length[r]) {
            fetch(item.weights->table + item.call->token_ids[input_step(item, r, s + 1)] * l.C, 4 * l.C);
        }
    }
}

// One step, panel of units by panel: the product into a small buffer, then the gates while it is in the nearest cache.
template <bool kSave, class Pr>
void panels_step(const Item &item, ForwardStep<Stored, Factor> step, const ForwardMemory &m, const Factor *x,
                 const Factor *h) {
    const Layout &l = *item.layout;
    const int64_t vectors = l.P / W, width = Pr::width(l), units = l.cell == BILSTM_RNN_TANH || l.cell == BILSTM_RNN_RELU
                                                                     ? 4 * W : W;
    const bool has_table = x == nullptr;
    for (int64_t v = 0, unit = 0; v < vectors; v += width, unit += units) {
        const int64_t tiles = smaller(width, vectors - v);
        Pr::step_product(l, *item.weights, step.rows, v, tiles, x, h, m.panel, 4 * 4 * W);
        step.begin = unit;
        step.end = smaller(unit + units, l.Hp);
        step.sums = m.panel;
        step.stride = 4 * W;
        step.extra = m.panel + 3 * W;
        step.table = m.table_rows;
        if (has_table) {
            cell_step<kSave, true>(step);
        } else {
            cell_step<kSave, false>(step);
        }
    }
}

template <class T>
INLINE void swap_pointers(T &a, T &b) {
    const T c = a;
    a = b;
    b = c;
}

template <bool kSave, class Pr>
void forward_shard(const Item &item) {
    const Layout &l = *item.layout;
    const Shard &shard = *item.shard;
    const bilstm_call &call = *item.call;
    Pieces pieces{item.scratch};
    const ForwardMemory m(l, shard.rows, pieces);
    const bool pools = call.max_values != nullptr || call.max_steps != nullptr || call.mean_values != nullptr;
    const bool has_table = item.weights->table != nullptr && call.token_ids != nullptr;
    gather_states(item, call.h_0, m.h);
    gather_states(item, call.c_0, m.c);
    if (call.recurrent_mask != nullptr) gather_states(item, call.recurrent_mask, m.mask);
    for (int64_t k = 0; k < shard.rows * l.Hp; ++k) m.best[k] = m.total[k] = m.lost[k] = 0.0f, m.best_step[k] = -1;
    __builtin_memset(m.factor, 0, static_cast<size_t>((shard.rows + Products::kExtraRows) * l.Hk) * sizeof(Factor));
    if (!Products::kInputFirst) {  // padding of the rows is read as factors
        const size_t bytes = static_cast<size_t>((shard.rows + Products::kExtraRows) * l.Hk) * sizeof(Factor);
        __builtin_memset(m.other_factor, 0, bytes);
        const int64_t rows = forward_chunk(l) + shard.rows + Products::kExtraRows;
        __builtin_memset(m.x, 0, static_cast<size_t>(rows * l.Ik) * sizeof(Factor));
    }
    for (int64_t r = 0; r < shard.rows; ++r) {
        for (int64_t u = 0; u < l.Hp; u += W) {
            const V h = load(m.h + r * l.Hp + u);
            store(m.factor + r * l.Hk + u, call.recurrent_mask != nullptr ? h * load(m.mask + r * l.Hp + u) : h);
        }
    }
    Stored *gates = kSave ? reinterpret_cast<Stored *>(item.saved_gates) + shard.first * l.C : nullptr;
    Stored *state = kSave ? reinterpret_cast<Stored *>(item.saved_state) + shard.first * l.state : nullptr;
    Factor *factor = m.factor, *other_factor = m.other_factor;
    int64_t live = shard.rows;
    for (int64_t s = 0; s < (shard.rows > 0 ? shard.length[0] : 0);) {
        const Chunk chunk = chunk_from(shard, s, live, forward_chunk(l));
        // In float32 the saved rows are where the sums grow; they are overwritten by the gates in place.
        float *sums = kSave && Products::kInputFirst ? reinterpret_cast<float *>(gates) : m.sums;
        if (Products::kInputFirst || !has_table) read_chunk(item, s, chunk.end, m, sums);
        if constexpr (Pr::kInputFirst) {
            if (!has_table) Pr::input_product(l, *item.weights, chunk.rows, m.x, sums);
        }
        const Factor *x = m.x;
        for (; s < chunk.end; ++s) {
            while (shard.length[live - 1] <= s) --live;
            if (call.outputs != nullptr) {
                for (int64_t r = 0; r < live; ++r) {
                    m.out[r] = static_cast<float *>(call.outputs) + (input_step(item, r, s) * l.D + item.d) * l.H;
                }
            }
            ForwardStep<Stored, Factor> step{live,  &l,    0,   l.Hp, sums,
                                             l.C,   nullptr, sums + l.P, gates, state, m.h, m.c, m.factor,
                                             call.recurrent_mask != nullptr ? m.mask : nullptr,
                                             call.outputs != nullptr ? m.out : nullptr};
            if constexpr (Pr::kInputFirst) {
                Pr::recurrent_product(l, *item.weights, live, m.factor, sums);
                cell_step<kSave, false>(step);
            } else {
                if (has_table) find_table_rows(item, live, s, m);
                step.factor = other_factor;
                panels_step<kSave, Pr>(item, step, m, has_table ? nullptr : x, factor);
                swap_pointers(factor, other_factor);
                x += live * l.Ik;
            }
            if (pools) pool_step(item, m, live, s);
            if (kSave) {
                gates += live * l.C;
                state += live * l.state;
            }
            if (Products::kInputFirst) sums += live * l.C;
        }
    }
    scatter_states(item, m.h, call.h_n);
    scatter_states(item, m.c, call.c_n);
    if (pools) give_pooled(item, m);
}

void forward(const Item &item) {
    if (item.saved_gates != nullptr) {
        forward_shard<true, Products>(item);
    } else {
        forward_shard<false, Products>(item);
    }
}

// ---- vocabulary table ------------------------------------------------------------------------------------------------

constexpr int64_t kTableRows = 64;

size_t table_scratch_bytes(const Layout &l) {
    Pieces pieces{nullptr};
    pieces.take<Factor>((kTableRows + Products::kExtraRows) * l.Ik);
    pieces.take<float>((kTableRows + Products::kExtraRows) * l.C);
    return pieces.used;
}

void fill_table(const Layout &l, const Direction &weights, const float *embedding, int64_t first, int64_t count,
                char *scratch) {
    Pieces pieces{scratch};
    Factor *x = pieces.take<Factor>((kTableRows + Products::kExtraRows) * l.Ik);
    float *sums = pieces.take<float>((kTableRows + Products::kExtraRows) * l.C);
    __builtin_memset(x, 0, static_cast<size_t>((kTableRows + Products::kExtraRows) * l.Ik) * sizeof(Factor));
    for (int64_t v = first; v < first + count; v += kTableRows) {
        const int64_t rows = smaller(kTableRows, first + count - v);
        for (int64_t r = 0; r < rows; ++r) Products::convert_row(embedding + (v + r) * l.I, x + r * l.Ik, l.I);
        Products::input_product(l, weights, rows, x, sums);
        __builtin_memcpy(weights.table + v * l.C, sums, static_cast<size_t>(rows * l.C) * sizeof(float));
    }
}

// ---- backward --------------------------------------------------------------------------------------------------------

struct BackwardMemory {
    float *dh, *dc, *tanh_c, *through, *mask, *h_first, *dx;
    Stored *c_first;
    Factor *d_sums, *d_sums_h, *h_before, *x;
    int64_t *input_steps;
    char *for_products;
    int64_t capacity;  // rows of a chunk; they are filled from the end, as steps go backwards

    BackwardMemory(const Layout &l, int64_t rows, Pieces &pieces) {
        capacity = backward_chunk(l) + rows;
        const int64_t padded = capacity + Products::kExtraRows;
        dh = pieces.take<float>((rows + Products::kExtraRows) * l.Hp);
        through = pieces.take<float>((rows + Products::kExtraRows) * l.Hp);
        dc = pieces.take<float>(rows * l.Hp);
        tanh_c = pieces.take<float>(rows * l.Hp);
        mask = pieces.take<float>(rows * l.Hp);
        h_first = pieces.take<float>(rows * l.Hp);
        c_first = pieces.take<Stored>(rows * l.Hp);
        d_sums = pieces.take<Factor>(padded * l.Pk);
        d_sums_h = l.cell == BILSTM_GRU ? pieces.take<Factor>(padded * l.Pk) : d_sums;
        h_before = pieces.take<Factor>(padded * l.Hk);
        x = pieces.take<Factor>(padded * l.Ik);
        dx = pieces.take<float>((kRowsAtOnce + Products::kExtraRows) * l.Ik);
        input_steps = pieces.take<int64_t>(capacity);
        const size_t bytes = Products::weight_gradient_scratch(l, capacity);
        for_products = pieces.take<char>(static_cast<int64_t>(bytes));
    }
};

size_t backward_scratch_bytes(const Layout &l, int64_t rows) {
    Pieces pieces{nullptr};
    const BackwardMemory memory(l, rows, pieces);
    return pieces.used;
}

// Add the part of dh at step s that comes from outside the recurrence.
void add_given(const Item &item, float *dh, int64_t live, int64_t s) {
    const Layout &l = *item.layout;
    const bilstm_call &call = *item.call;
    for (int64_t r = 0; r < live; ++r) {
        const int64_t n = input_step(item, r, s), at = (item.shard->index[r] * l.D + item.d) * l.H;
        float *row = dh + r * l.Hp;
        if (call.d_outputs != nullptr) {
            const float *given = static_cast<const float *>(call.d_outputs) + (n * l.D + item.d) * l.H;
            int64_t u = 0;
            for (; u + W <= l.H; u += W) store(row + u, load(row + u) + load(given + u));
            for (; u < l.H; ++u) row[u] += given[u];
        }
        if (call.d_mean != nullptr) {
            const float *given = static_cast<const float *>(call.d_mean) + at;
            const float share = 1.0f / static_cast<float>(item.shard->length[r]);
            for (int64_t u = 0; u < l.H; ++u) row[u] += given[u] * share;
        }
        if (call.d_max != nullptr) {
            const float *given = static_cast<const float *>(call.d_max) + at;
            const int32_t *steps = call.max_steps + at;
            const int64_t position = n - item.shard->begin[r];
            for (int64_t u = 0; u < l.H; ++u) row[u] += steps[u] == position ? given[u] : 0.0f;
        }
    }
}

// Rows that begin (going backwards) at step s: their gradients are those of the final states.
void begin_rows(const Item &item, const BackwardMemory &m, const Stored *state, int64_t first, int64_t live) {
    const Layout &l = *item.layout;
    const bilstm_call &call = *item.call;
    const Gates gate;
    for (int64_t r = first; r < live; ++r) {
        const int64_t at = (item.d * call.batch + item.shard->index[r]) * l.H;
        for (int64_t u = 0; u < l.Hp; ++u) {
            m.dh[r * l.Hp + u] = call.d_h_n != nullptr && u < l.H ? static_cast<const float *>(call.d_h_n)[at + u] : 0;
            m.dc[r * l.Hp + u] = call.d_c_n != nullptr && u < l.H ? static_cast<const float *>(call.d_c_n)[at + u] : 0;
        }
        for (int64_t u = 0; state != nullptr && u < l.Hp; u += W) {
            store(m.tanh_c + r * l.Hp + u, gate.tanh_of(load(state + r * l.Hp + u)));
        }
    }
}

// Turn the product of one step into the gradient of h_{t-1}: through the mask, and beside the product for the GRU.
void finish_state_gradient(const Item &item, const BackwardMemory &m, int64_t live) {
    const Layout &l = *item.layout;
    const bool masked = item.call->recurrent_mask != nullptr;
    if (l.cell != BILSTM_GRU && !masked) return;
    for (int64_t k = 0; k < live * l.Hp; k += W) {
        V dh = load(m.through + k);
        if (masked) dh = dh * load(m.mask + k);
        store(m.dh + k, l.cell == BILSTM_GRU ? dh + load(m.dh + k) : dh);
    }
}

void finish_chunk(const Item &item, const BackwardMemory &m, int64_t first) {
    const Layout &l = *item.layout;
    const int64_t rows = m.capacity - first;
    Factor *d_sums = m.d_sums + first * l.Pk;
    if (item.sums.w_ih != nullptr) {
        Products::weight_gradient(l, rows, d_sums, m.d_sums_h + first * l.Pk, m.x + first * l.Ik,
                                  m.h_before + first * l.Hk, item.sums, m.for_products);
    }
    if (item.d_rows == nullptr) return;
    // A few rows at a time: the product of some while the places of the next are on their way.
    for (int64_t some = 0; some < rows; some += kRowsAtOnce) {
        const int64_t count = smaller(kRowsAtOnce, rows - some);
        Products::input_gradient(l, *item.weights, count, d_sums + some * l.Pk, m.dx);
        for (int64_t r = 0; r < count; ++r) {
            const int64_t *input_step = m.input_steps + first + some + r;
            if (some + r + kRowsAtOnce < rows) fetch_to_write(item.d_rows + input_step[kRowsAtOnce] * l.I, 4 * l.I);
            float *to = item.d_rows + *input_step * l.I;
            const float *from = m.dx + r * l.Ik;
            int64_t i = 0;
            for (; i + W <= l.I; i += W) store(to + i, item.adds_rows ? load(to + i) + load(from + i) : load(from + i));
            for (; i < l.I; ++i) to[i] = item.adds_rows ? to[i] + from[i] : from[i];
        }
    }
}

void backward(const Item &item) {
    const Layout &l = *item.layout;
    const Shard &shard = *item.shard;
    const bilstm_call &call = *item.call;
    Pieces pieces{item.scratch};
    const BackwardMemory m(l, shard.rows, pieces);
    if (!Products::kInputFirst) __builtin_memset(item.scratch, 0, pieces.used);
    gather_states(item, call.h_0, m.h_first);
    if (l.cell == BILSTM_LSTM) {
        gather_states(item, call.c_0, m.dc);  // as saved states are; dc itself begins later
        for (int64_t k = 0; k < shard.rows * l.Hp; k += W) store(m.c_first + k, load(m.dc + k));
    }
    if (call.recurrent_mask != nullptr) gather_states(item, call.recurrent_mask, m.mask);
    const bool adds = call.d_outputs != nullptr || call.d_mean != nullptr || call.d_max != nullptr;
    const bool direct = l.cell != BILSTM_GRU && call.recurrent_mask == nullptr;
    const Stored *gates = reinterpret_cast<const Stored *>(item.saved_gates) + (shard.first + shard.steps) * l.C;
    const Stored *state = reinterpret_cast<const Stored *>(item.saved_state) + (shard.first + shard.steps) * l.state;
    int64_t live = 0, first = m.capacity;
    for (int64_t s = shard.rows > 0 ? shard.length[0] : 0; s-- > 0;) {
        const int64_t before = live;
        while (live < shard.rows && shard.length[live] > s) ++live;
        gates -= live * l.C;
        state -= live * l.state;
        begin_rows(item, m, l.cell == BILSTM_LSTM ? state : nullptr, before, live);
        if (first - live < 0) {
            finish_chunk(item, m, first);
            first = m.capacity;
        }
        first -= live;
        if (adds) add_given(item, m.dh, live, s);
        int64_t live_before = live;  // rows of the step before: at least as many
        while (live_before < shard.rows && s > 0 && shard.length[live_before] > s - 1) ++live_before;
        const bool initial = s == 0;
        const BackwardStep<Stored, Factor> step{
            live, &l, gates, initial ? nullptr : gates - live_before * l.C,
            initial ? m.c_first : state - live_before * l.state, m.h_first, m.dh, m.dc, m.tanh_c,
            m.d_sums + first * l.Pk, l.cell == BILSTM_GRU ? m.d_sums_h + first * l.Pk : nullptr,
            m.h_before + first * l.Hk, call.recurrent_mask != nullptr ? m.mask : nullptr};
        cell_step_back(step);
        Products::state_gradient(l, *item.weights, live, m.d_sums_h + first * l.Pk, direct ? m.dh : m.through);
        finish_state_gradient(item, m, live);
        const int64_t input_bytes = 4 * l.I;
        for (int64_t r = 0; r < live; ++r) {
            const int64_t n = input_step(item, r, s);
            m.input_steps[first + r] = n;
            Products::convert_row(input_row(call, n), m.x + (first + r) * l.Ik, l.I);
            if (s > 0) fetch(input_row(call, input_step(item, r, s - 1)), input_bytes);
        }
    }
    if (first < m.capacity) finish_chunk(item, m, first);
    begin_rows(item, m, nullptr, live, shard.rows);  // empty sequences hand their gradients through
    scatter_states(item, m.dh, call.d_h_0);
    scatter_states(item, m.dc, call.d_c_0);
}

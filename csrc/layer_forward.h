// The forward pass of one direction over one shard. Included by layer.h.

// Whether a kernel that takes the input product step by step (not kInputFirst) still takes it apart here, and the floats of
// a row of its sums then.
template <class Pr>
bool takes_input_apart(const Layout &l, int64_t rows, bool saves) {
    if constexpr (Pr::kInputFirst) return false;
    else return Pr::input_apart(l, rows, saves);
}

template <class Pr>
int64_t sums_of_row(const Layout &l, int64_t rows) {
    if constexpr (Pr::kInputFirst) return l.C;
    else return Pr::input_apart(l, rows, true) ? Pr::panel_floats(l) : 0;
}

struct ForwardMemory {
    float *h, *c, *mask, *best, *total, *lost, *recent, *sums;
    int32_t *best_step;
    int64_t *input_steps;
    int64_t panel_rows;
    Factor *factor, *other_factor, *x;
    float *panel;
    float **out;
    const Stored **table_rows;

    ForwardMemory(const Layout &l, int64_t rows, Pieces &pieces) {
        const int64_t padded = rows + Products::kExtraRows, chunk = forward_chunk(l) + rows + Products::kExtraRows;
        h = pieces.take<float>(rows * l.Hp);
        c = pieces.take<float>(rows * l.Hp);
        mask = pieces.take<float>(rows * l.Hp);
        best = pieces.take<float>(rows * l.Hp);
        total = pieces.take<float>(rows * l.Hp);
        lost = pieces.take<float>(rows * l.Hp);
        recent = pieces.take<float>(rows * l.Hp);
        best_step = pieces.take<int32_t>(rows * l.Hp);
        out = pieces.take<float *>(rows);
        table_rows = pieces.take<const Stored *>(2 * rows);
        input_steps = pieces.take<int64_t>(chunk);
        factor = pieces.take<Factor>(padded * l.Hk);
        other_factor = pieces.take<Factor>(Products::kInputFirst ? 0 : padded * l.Hk);
        panel = pieces.take<float>(Products::kInputFirst ? 0 : padded * 4 * W);
        x = pieces.take<Factor>(chunk * l.Ik);
        panel_rows = chunk;
        sums = pieces.take<float>(chunk * sums_of_row<Products>(l, rows));
    }
};

size_t forward_scratch_bytes(const Layout &l, int64_t rows) {
    Pieces pieces{nullptr};
    const ForwardMemory memory(l, rows, pieces);
    return pieces.used;
}

// Steps whose sum is kept apart before it joins that of all steps before, compensated (Kahan 1965): thousands may be added.
constexpr int64_t kSumSteps = 64;

// Add a step to the sum and the largest value of each unit so far; kSteps: and keep at which step that was.
template <bool kSteps>
void pool_step(const Item &item, const ForwardMemory &m, int64_t live, int64_t s) {
    const Layout &l = *item.layout;
    const bool sums = item.call->mean_values != nullptr, finds_max = kSteps || item.call->max_values != nullptr;
    const bool joins = s % kSumSteps == kSumSteps - 1;
    for (int64_t r = 0; r < live; ++r) {
        const int32_t position = static_cast<int32_t>(item.backwards ? item.shard->length[r] - 1 - s : s);
        for (int64_t u = r * l.Hp; u < (r + 1) * l.Hp; u += W) {
            const V h = load(m.h + u);
            if (sums) {
                const V recent = load(m.recent + u) + h;
                store(m.recent + u, joins ? V{} : recent);
                if (joins) {
                    const V total = load(m.total + u), term = recent - load(m.lost + u), sum = total + term;
                    store(m.total + u, sum);
                    store(m.lost + u, (sum - total) - term);
                }
            }
            if (!finds_max) continue;
            // NaN is larger than everything; of equal values the first in input order wins.
            const V best = load(m.best + u);
            VI better = (h > best) | (h != h);
            if constexpr (kSteps) {
                VI step;
                __builtin_memcpy(&step, m.best_step + u, sizeof step);
                better = (step < 0) | (h > best) | ((h != h) & (best == best));
                if (item.backwards) better |= (h == best) | (h != h);
                step = better ? (VI{} + position) : step;
                __builtin_memcpy(m.best_step + u, &step, sizeof step);
            }
            store(m.best + u, better ? h : best);
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
                const float sum = m.total[r * l.Hp + u] + m.recent[r * l.Hp + u];
                static_cast<float *>(call.mean_values)[at + u] = length > 0 ? sum / static_cast<float>(length) : 0.0f;
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

constexpr int64_t kFetchAhead = 8;  // rows

// Input rows of the chunk in the order of the steps: as factors, or (kInputFirst) as ready sums from the vocabulary table.
void read_chunk(const Item &item, int64_t s, int64_t end, const ForwardMemory &m, float *sums) {
    const Layout &l = *item.layout;
    const bool has_table = item.weights->table != nullptr && item.call->token_ids != nullptr;
    int64_t live = item.shard->rows, rows = 0;
    for (; s < end; ++s) {
        while (live > 0 && item.shard->length[live - 1] <= s) --live;
        for (int64_t r = 0; r < live; ++r) m.input_steps[rows++] = input_step(item, r, s);
    }
    const auto table_row = [&](int64_t at) {
        return static_cast<const float *>(item.weights->table) + item.call->token_ids[m.input_steps[at]] * l.C;
    };
    for (int64_t at = 0; at < rows; ++at) {
        if (has_table) {
            if (at + kFetchAhead < rows) fetch(table_row(at + kFetchAhead), 4 * l.C);
            __builtin_memcpy(sums + at * l.C, table_row(at), static_cast<size_t>(4 * l.C));
        } else {
            if (at + kFetchAhead < rows) fetch_input(item, m.input_steps[at + kFetchAhead]);
            read_input(item, m.input_steps[at], m.x + at * l.Ik);
        }
    }
}

// Rows of the vocabulary table for step s; where a sequence has none any more, its last one.
void find_table_rows(const Item &item, int64_t live, int64_t s, const Stored **rows) {
    const Stored *table = static_cast<const Stored *>(item.weights->table);
    for (int64_t r = 0; r < live; ++r) {
        const int64_t at = smaller(s, item.shard->length[r] - 1);
        rows[r] = table + item.call->token_ids[input_step(item, r, at)] * item.layout->C;
    }
}

// One step, panel of units by panel: the product into a small buffer, then the gates while it is in the nearest cache.
// The product starts from x, from `ready` sums of the input in panels, or (both null) from nothing.
template <bool kSave, class Pr>
void panels_step(const Item &item, ForwardStep<Stored, Factor> step, const ForwardMemory &m, const Factor *x,
                 const float *ready, const Factor *h) {
    const Layout &l = *item.layout;
    const int64_t vectors = l.P / W, width = Pr::width(l), units = l.cell == BILSTM_RNN_TANH || l.cell == BILSTM_RNN_RELU
                                                                     ? 4 * W : W;
    const bool has_table = x == nullptr && ready == nullptr;
    if constexpr (!kSave) {
        if (Pr::is_single(*item.call, *item.weights, item.shard->rows)) {
            if (has_table) fetch(step.table_next[0], l.stored_bytes * l.C);
            return Pr::single(step, *item.weights, ready, m.panel_rows * 4 * W, h);
        }
    }
    for (int64_t v = 0, unit = 0; v < vectors; v += width, unit += units) {
        const int64_t tiles = smaller(width, vectors - v);
        Pr::step_product(l, *item.weights, step.rows, v, tiles, x, ready, h, m.panel, !kSave && step.rows > 16);
        if (ready != nullptr) ready += m.panel_rows * 4 * W;
        step.begin = unit;
        step.end = smaller(unit + units, l.Hp);
        step.sums = m.panel;
        step.stride = 4 * W;
        step.extra = m.panel + 3 * W;
        if (has_table) {
            cell_step<kSave, true>(step);
        } else {
            cell_step<kSave, false>(step);
        }
    }
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
    const bool apart = !has_table && takes_input_apart<Products>(l, shard.rows, kSave);
    const bool by_step = has_table && !(kSave && Products::kInputFirst);  // rows of the table are read when they are used
    gather_states(item, call.h_0, m.h);
    gather_states(item, call.c_0, m.c);
    if (call.recurrent_mask != nullptr) gather_states(item, call.recurrent_mask, m.mask);
    for (int64_t k = 0; k < shard.rows * l.Hp; ++k) {
        m.best[k] = -__builtin_inff();
        m.total[k] = m.lost[k] = m.recent[k] = 0.0f;
        m.best_step[k] = -1;
    }
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
    const Stored **table_rows = m.table_rows, **next_rows = m.table_rows + shard.rows;
    int64_t live = shard.rows;
    for (int64_t s = 0; s < (shard.rows > 0 ? shard.length[0] : 0);) {
        const Chunk chunk = chunk_from(shard, s, live, forward_chunk(l));
        while (shard.length[live - 1] <= s) --live;
        if (s == 0 && by_step) find_table_rows(item, live, 0, table_rows);
        // In float32 the saved rows are where the sums grow; they are overwritten by the gates in place.
        float *sums = kSave && Products::kInputFirst ? reinterpret_cast<float *>(gates) : m.sums;
        if (!by_step) read_chunk(item, s, chunk.end, m, sums);
        if constexpr (Pr::kInputFirst) {
            if (!has_table) Pr::input_product(l, *item.weights, chunk.rows, m.x, sums);
        } else if (apart) {
            Pr::input_panels(l, *item.weights, shard.rows, chunk.rows, m.x, m.sums, m.panel_rows);
        }
        const Factor *x = m.x;
        const float *ready = m.sums;
        for (; s < chunk.end; ++s) {
            while (shard.length[live - 1] <= s) --live;
            if (call.outputs != nullptr) {
                for (int64_t r = 0; r < live; ++r) {
                    m.out[r] = static_cast<float *>(call.outputs) + (input_step(item, r, s) * l.D + item.d) * l.H;
                }
            }
            ForwardStep<Stored, Factor> step{live,  &l,      0,       l.Hp,       sums,
                                             l.C,   nullptr, nullptr, sums + l.P, gates, state, m.h, m.c, m.factor,
                                             call.recurrent_mask != nullptr ? m.mask : nullptr,
                                             call.outputs != nullptr ? m.out : nullptr};
            if (by_step) {
                find_table_rows(item, live, s + 1, next_rows);
                step.table = table_rows;
                step.table_next = next_rows;
            }
            if constexpr (Pr::kInputFirst) {
                for (int64_t r = 0; by_step && r < live; ++r) {
                    __builtin_memcpy(sums + r * l.C, table_rows[r], static_cast<size_t>(l.C) * sizeof(float));
                }
                Pr::recurrent_product(l, *item.weights, live, m.factor, sums, s % 2 == 1);
                cell_step<kSave, false>(step);
            } else {
                step.factor = other_factor;
                panels_step<kSave, Pr>(item, step, m, has_table || apart ? nullptr : x, apart ? ready : nullptr, factor);
                swap_pointers(factor, other_factor);
                x += live * l.Ik;
                ready += live * 4 * W;
            }
            if (pools) call.max_steps != nullptr ? pool_step<true>(item, m, live, s) : pool_step<false>(item, m, live, s);
            if (kSave) {
                gates += live * l.C;
                state += live * l.state;
            }
            swap_pointers(table_rows, next_rows);
            if (Products::kInputFirst && !by_step) sums += live * l.C;
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

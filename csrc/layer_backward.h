// The backward pass of one direction over one shard. Included by layer.h.

constexpr int64_t kRowsAtOnce = 96;

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

// A row of floats as factors of two bytes; nothing is written behind the last. (Other factors are never asked for.)
template <class T>
void round_row(const float *from, T *to, int64_t count) {
    if constexpr (sizeof(T) == 2) {
        int64_t i = 0;
        for (; i + W <= count; i += W) store(to + i, load(from + i));
        if (i == count) return;
        T rest[W];
        store(rest, load_part(from + i, count - i));
        __builtin_memcpy(to + i, rest, static_cast<size_t>(count - i) * sizeof(T));
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
    if (item.d_rows == nullptr && item.d_rounded == nullptr) return;
    // A few rows at a time: the product of some while the places of the next are on their way.
    for (int64_t some = 0; some < rows; some += kRowsAtOnce) {
        const int64_t count = smaller(kRowsAtOnce, rows - some);
        Products::input_gradient(l, *item.weights, count, d_sums + some * l.Pk, m.dx);
        for (int64_t r = 0; r < count; ++r) {
            const int64_t *input_step = m.input_steps + first + some + r;
            const bool more = some + r + kRowsAtOnce < rows;
            if (item.d_rounded != nullptr) {
                Factor *all = static_cast<Factor *>(item.d_rounded);
                if (more) fetch_to_write(all + input_step[kRowsAtOnce] * l.I, l.I * static_cast<int64_t>(sizeof(Factor)));
                round_row(m.dx + r * l.Ik, all + *input_step * l.I, l.I);
                continue;
            }
            if (more) fetch_to_write(item.d_rows + input_step[kRowsAtOnce] * l.I, 4 * l.I);
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
    // The rest of the rows behind the padded units is read as factors, too. All else is written before it is read.
    const auto clear_padding = [&](Factor *rows, int64_t written, int64_t row) {
        const int64_t count = m.capacity + Products::kExtraRows;
        if (written < row) __builtin_memset(rows, 0, static_cast<size_t>(count * row) * sizeof(Factor));
    };
    clear_padding(m.d_sums, l.P, l.Pk);
    if (l.cell == BILSTM_GRU) clear_padding(m.d_sums_h, l.P, l.Pk);
    clear_padding(m.h_before, l.Hp, l.Hk);
    clear_padding(m.x, (l.I + W - 1) / W * W, l.Ik);
    if (Products::kInputFirst && Products::kPadded) __builtin_memset(item.scratch, 0, pieces.used);
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
        for (int64_t r = 0; r < live; ++r) {
            const int64_t n = input_step(item, r, s);
            m.input_steps[first + r] = n;
            read_input(item, n, m.x + (first + r) * l.Ik);
            if (s > 0) fetch_input(item, input_step(item, r, s - 1));
        }
    }
    if (first < m.capacity) finish_chunk(item, m, first);
    begin_rows(item, m, nullptr, live, shard.rows);  // empty sequences hand their gradients through
    scatter_states(item, m.dh, call.d_h_0);
    scatter_states(item, m.dc, call.d_c_0);
}

// One step of each cell over the live rows, forward and backward, once the products are done. Included inside an unnamed
// namespace after simd.h and Gates. Stored: type of saved values; Factor: type of the rows that products read.

template <class Stored, class Factor>
struct ForwardStep {
    int64_t rows;
    const Layout *layout;
    int64_t begin, end;   // units
    const float *sums;    // of unit `begin` and the first row
    int64_t stride;       // from row to row of `sums`
    const Stored *const *table;  // (rows): rows of the vocabulary table to add to `sums`; read if kTable
    const Stored *const *table_next;  // (rows): those of the step after, asked for here, since among the arithmetic of
                                      // the gates the wait for them costs nothing; or null
    const float *extra;   // GRU: recurrent sums of gate n, likewise
    Stored *gates;        // (rows, C) activated, may be `sums` itself; null in inference
    Stored *state;        // (rows, state); null in inference
    float *h, *c;         // (rows, Hp), updated
    Factor *factor;       // (rows, Hk): masked h for the next product; not what this step's products read
    const float *mask;    // (rows, Hp) or null
    float *const *out;    // (rows): where h_t goes, or null
};

template <class Stored, class Factor>
INLINE void give_state(const ForwardStep<Stored, Factor> &step, int64_t r, int64_t u, V h) {
    const Layout &l = *step.layout;
    store(step.h + r * l.Hp + u, h);
    if (step.out != nullptr) {
        if (u + W <= l.H) {
            store(step.out[r] + u, h);
        } else {
            store_part(step.out[r] + u, h, l.H - u);
        }
    }
    if (step.mask != nullptr) h = h * load(step.mask + r * l.Hp + u);
    store(step.factor + r * l.Hk + u, h);
}

// Ask for the part of the next step's row that this block of units will read: `count` numbers from `at` on.
template <class Stored, class Factor>
INLINE void fetch_next(const ForwardStep<Stored, Factor> &step, int64_t r, int64_t at, int64_t count) {
    if (step.table_next == nullptr) return;
    constexpr int64_t kLine = 64 / sizeof(Stored);
    for (int64_t k = 0; k < count; k += kLine) __builtin_prefetch(step.table_next[r] + at + k);
}

template <bool kTable, class Stored>
INLINE V sum_of(const float *sums, const Stored *more, int64_t at) {
    return kTable ? load(sums + at) + load(more + at) : load(sums + at);
}

template <bool kSave, bool kTable, class Stored, class Factor>
void lstm_step(const ForwardStep<Stored, Factor> &step) {
    const Layout &l = *step.layout;
    const Gates gate;
    for (int64_t r = 0; r < step.rows; ++r) {
        for (int64_t u = step.begin; u < step.end; u += W) {
            const float *sums = step.sums + r * step.stride + 4 * (u - step.begin);
            const Stored *more = kTable ? step.table[r] + 4 * u : nullptr;
            fetch_next(step, r, 4 * u, 4 * W);
            const V i = gate.logistic_of(sum_of<kTable>(sums, more, 0));
            const V f = gate.logistic_of(sum_of<kTable>(sums, more, W));
            const V g = gate.tanh_of(sum_of<kTable>(sums, more, 2 * W));
            const V o = gate.logistic_of(sum_of<kTable>(sums, more, 3 * W));
            const V c = fma(f, load(step.c + r * l.Hp + u), i * g);
            store(step.c + r * l.Hp + u, c);
            if (kSave) {
                Stored *gates = step.gates + r * l.C + 4 * u;
                store(gates, i);
                store(gates + W, f);
                store(gates + 2 * W, g);
                store(gates + 3 * W, o);
                store(step.state + r * l.Hp + u, c);
            }
            give_state(step, r, u, o * gate.tanh_of(c));
        }
    }
}

template <bool kSave, bool kTable, class Stored, class Factor>
void gru_step(const ForwardStep<Stored, Factor> &step) {
    const Layout &l = *step.layout;
    const Gates gate;
    for (int64_t row = 0; row < step.rows; ++row) {
        for (int64_t u = step.begin; u < step.end; u += W) {
            const float *sums = step.sums + row * step.stride + 3 * (u - step.begin);
            const Stored *more = kTable ? step.table[row] + 3 * u : nullptr;
            const V hn = sum_of<kTable>(step.extra + row * step.stride + (u - step.begin),
                                        kTable ? step.table[row] + l.P + u : static_cast<const Stored *>(nullptr), 0);
            fetch_next(step, row, 3 * u, 3 * W);
            fetch_next(step, row, l.P + u, W);
            const V r = gate.logistic_of(sum_of<kTable>(sums, more, 0));
            const V z = gate.logistic_of(sum_of<kTable>(sums, more, W));
            const V n = gate.tanh_of(fma(r, hn, sum_of<kTable>(sums, more, 2 * W)));
            const V h = fma(z, load(step.h + row * l.Hp + u) - n, n);
            if (kSave) {
                Stored *gates = step.gates + row * l.C + 3 * u;
                store(gates, r);
                store(gates + W, z);
                store(gates + 2 * W, n);
                store(step.gates + row * l.C + l.P + u, hn);
                store(step.state + row * l.Hp + u, h);
            }
            give_state(step, row, u, h);
        }
    }
}

template <bool kSave, bool kTable, bool kTanh, class Stored, class Factor>
void rnn_step(const ForwardStep<Stored, Factor> &step) {
    const Layout &l = *step.layout;
    const Gates gate;
    for (int64_t r = 0; r < step.rows; ++r) {
        for (int64_t u = step.begin; u < step.end; u += W) {
            const V sum = sum_of<kTable>(step.sums + r * step.stride + (u - step.begin),
                                         kTable ? step.table[r] + u : static_cast<const Stored *>(nullptr), 0);
            fetch_next(step, r, u, W);
            const V h = kTanh ? gate.tanh_of(sum) : at_least(sum, 0.0f);
            if (kSave) store(step.gates + r * l.C + u, h);
            give_state(step, r, u, h);
        }
    }
}

template <bool kSave, bool kTable, class Stored, class Factor>
void cell_step(const ForwardStep<Stored, Factor> &step) {
    switch (step.layout->cell) {
        case BILSTM_LSTM: return lstm_step<kSave, kTable>(step);
        case BILSTM_GRU: return gru_step<kSave, kTable>(step);
        case BILSTM_RNN_TANH: return rnn_step<kSave, kTable, true>(step);
        default: return rnn_step<kSave, kTable, false>(step);
    }
}

template <class Stored, class Factor>
struct BackwardStep {
    int64_t rows;
    const Layout *layout;
    const Stored *gates;         // (rows, C) of this step
    const Stored *gates_before;  // (rows, C) of the step before; null at the first step
    const Stored *state_before;  // (rows, state) of the step before; at the first step from the initial states
    const float *h_first;        // (rows, Hp) initial h, used when gates_before is null
    float *dh, *dc;              // (rows, Hp): in: gradient of h_t, c_t; out: of h_{t-1} outside the product, c_{t-1}
    float *tanh_c;               // (rows, Hp), LSTM: in: tanh c_t; out: tanh c_{t-1}
    Factor *d_sums;              // (rows, Pk): gradient of the input sums
    Factor *d_sums_h;            // (rows, Pk): GRU: gradient of the recurrent sums; else null
    Factor *h_before;            // (rows, Hk): masked h_{t-1}, factor of the gradient of w_hh
    const float *mask;           // (rows, Hp) or null
};

template <class Stored, class Factor>
INLINE void give_before(const BackwardStep<Stored, Factor> &step, int64_t r, int64_t u, V h) {
    const Layout &l = *step.layout;
    if (step.mask != nullptr) h = h * load(step.mask + r * l.Hp + u);
    store(step.h_before + r * l.Hk + u, h);
}

template <class Stored, class Factor>
void lstm_step_back(const BackwardStep<Stored, Factor> &step) {
    const Layout &l = *step.layout;
    const V one = broadcast(1.0f);
    const Gates gate;
    for (int64_t r = 0; r < step.rows; ++r) {
        for (int64_t u = 0; u < l.Hp; u += W) {
            const Stored *gates = step.gates + r * l.C + 4 * u;
            const V i = load(gates), f = load(gates + W), g = load(gates + 2 * W), o = load(gates + 3 * W);
            const int64_t at = r * l.Hp + u;
            // Two steps before: read next, and lying before what is read now.
            __builtin_prefetch(gates - 2 * step.rows * l.C);
            __builtin_prefetch(gates + 2 * W - 2 * step.rows * l.C);
            if (u % (2 * W) == 0) __builtin_prefetch(step.state_before + at - step.rows * l.Hp);
            const V t = load(step.tanh_c + at), dh = load(step.dh + at), c_before = load(step.state_before + at);
            const V dh_o = dh * o;
            const V d = fma(dh_o, fma(-t, t, one), load(step.dc + at));
            const V di = d * i, df = d * f;
            Factor *d_sums = step.d_sums + r * l.Pk + 4 * u;
            store(d_sums, di * g * (one - i));
            store(d_sums + W, df * c_before * (one - f));
            store(d_sums + 2 * W, di * fma(-g, g, one));
            store(d_sums + 3 * W, dh_o * t * (one - o));
            store(step.dc + at, df);
            const V t_before = gate.tanh_of(c_before);
            store(step.tanh_c + at, t_before);
            give_before(step, r, u,
                        step.gates_before != nullptr ? load(step.gates_before + r * l.C + 4 * u + 3 * W) * t_before
                                                     : load(step.h_first + at));
        }
    }
}

template <class Stored, class Factor>
void gru_step_back(const BackwardStep<Stored, Factor> &step) {
    const Layout &l = *step.layout;
    const V one = broadcast(1.0f);
    for (int64_t row = 0; row < step.rows; ++row) {
        for (int64_t u = 0; u < l.Hp; u += W) {
            const Stored *gates = step.gates + row * l.C + 3 * u;
            const V r = load(gates), z = load(gates + W), n = load(gates + 2 * W);
            const V hn = load(step.gates + row * l.C + l.P + u);
            const int64_t at = row * l.Hp + u;
            const V dh = load(step.dh + at);
            const V h = step.gates_before != nullptr ? load(step.state_before + at) : load(step.h_first + at);
            const V dn = dh * (one - z) * fma(-n, n, one);
            const V dr = dn * hn * r * (one - r), dz = dh * (h - n) * z * (one - z);
            Factor *d_sums = step.d_sums + row * l.Pk + 3 * u, *d_sums_h = step.d_sums_h + row * l.Pk + 3 * u;
            store(d_sums, dr);
            store(d_sums + W, dz);
            store(d_sums + 2 * W, dn);
            store(d_sums_h, dr);
            store(d_sums_h + W, dz);
            store(d_sums_h + 2 * W, dn * r);
            store(step.dh + at, dh * z);
            give_before(step, row, u, h);
        }
    }
}

template <bool kTanh, class Stored, class Factor>
void rnn_step_back(const BackwardStep<Stored, Factor> &step) {
    const Layout &l = *step.layout;
    for (int64_t r = 0; r < step.rows; ++r) {
        for (int64_t u = 0; u < l.Hp; u += W) {
            const int64_t at = r * l.Hp + u;
            const V h = load(step.gates + r * l.C + u), dh = load(step.dh + at);
            store(step.d_sums + r * l.Pk + u, kTanh ? dh * fma(-h, h, broadcast(1.0f)) : h > V{} ? dh : V{});
            give_before(step, r, u,
                        step.gates_before != nullptr ? load(step.gates_before + r * l.C + u) : load(step.h_first + at));
        }
    }
}

template <class Stored, class Factor>
void cell_step_back(const BackwardStep<Stored, Factor> &step) {
    switch (step.layout->cell) {
        case BILSTM_LSTM: return lstm_step_back(step);
        case BILSTM_GRU: return gru_step_back(step);
        case BILSTM_RNN_TANH: return rnn_step_back<true>(step);
        default: return rnn_step_back<false>(step);
    }
}

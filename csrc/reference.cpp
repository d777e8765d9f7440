// The reference: every equation of bilstm_engine.h as one scalar loop, one sequence after another, one thread.
// It is what the fast kernels are compared with, and what runs where none of them can ("portable").
// Real is float or double. With `kRounded` both factors of every product are rounded to bfloat16 first.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace bilstm {
namespace {

float round_to_bfloat16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (std::isnan(x)) return x;
    bits += 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
    bits &= 0xffff0000u;
    std::memcpy(&x, &bits, 4);
    return x;
}

template <class Real, bool kRounded>
Real factor(Real x) {
    if constexpr (kRounded) return round_to_bfloat16(x);
    return x;
}

template <class Real>
Real logistic(Real x) {
    return 1 / (1 + std::exp(-x));
}

template <class Real>
struct Sizes {
    int64_t G, H, I, D, B, N, row;  // row: elements that `saved` keeps of one step of one direction
    explicit Sizes(const bilstm_call &call)
        : G(gates_of(call.cell)),
          H(call.hidden_size),
          I(call.input_size),
          D(call.directions),
          B(call.batch),
          N(call.total_steps),
          row((G + 2) * H) {}
};

// Weights of one direction, factors already rounded.
template <class Real>
struct Weights {
    std::vector<Real> w_ih, w_hh, b_ih, b_hh;
};

template <class Real, bool kRounded>
Weights<Real> read_weights(const bilstm_call &call, int64_t d) {
    const Sizes<Real> size(call);
    const auto copy = [](const void *from, int64_t count, bool is_factor) {
        std::vector<Real> to(static_cast<size_t>(count), Real(0));
        const Real *source = static_cast<const Real *>(from);
        for (int64_t k = 0; source != nullptr && k < count; ++k) {
            to[static_cast<size_t>(k)] = is_factor ? factor<Real, kRounded>(source[k]) : source[k];
        }
        return to;
    };
    return {copy(call.w_ih[d], size.G * size.H * size.I, true), copy(call.w_hh[d], size.G * size.H * size.H, true),
            copy(call.b_ih[d], size.G * size.H, false), copy(call.b_hh[d], size.G * size.H, false)};
}

// Packed weights of this kernel: the plain ones.
template <class Real>
struct PackedWeights {
    std::vector<Weights<Real>> directions;
};

// b_ih + W_ih x, for every gate row.
template <class Real>
void input_part(const Sizes<Real> &size, const Weights<Real> &weights, const Real *x, Real *sums) {
    for (int64_t j = 0; j < size.G * size.H; ++j) {
        Real sum = weights.b_ih[static_cast<size_t>(j)];
        for (int64_t i = 0; i < size.I; ++i) sum += weights.w_ih[static_cast<size_t>(j * size.I + i)] * x[i];
        sums[j] = sum;
    }
}

// b_hh + W_hh h', for every gate row.
template <class Real>
void recurrent_part(const Sizes<Real> &size, const Weights<Real> &weights, const Real *h, Real *sums) {
    for (int64_t j = 0; j < size.G * size.H; ++j) {
        Real sum = weights.b_hh[static_cast<size_t>(j)];
        for (int64_t k = 0; k < size.H; ++k) sum += weights.w_hh[static_cast<size_t>(j * size.H + k)] * h[k];
        sums[j] = sum;
    }
}

// One step of the cell: from both sums to activated gates, the extra value kept for backward (c of the LSTM, the
// recurrent sum of gate n of the GRU), h and c.
template <class Real>
void cell_step(int cell, int64_t H, const Real *x_sums, const Real *h_sums, Real *gates, Real *extra, Real *h, Real *c) {
    for (int64_t u = 0; u < H; ++u) {
        if (cell == BILSTM_LSTM) {
            const Real i = logistic(x_sums[u] + h_sums[u]);
            const Real f = logistic(x_sums[H + u] + h_sums[H + u]);
            const Real g = std::tanh(x_sums[2 * H + u] + h_sums[2 * H + u]);
            const Real o = logistic(x_sums[3 * H + u] + h_sums[3 * H + u]);
            c[u] = f * c[u] + i * g;
            h[u] = o * std::tanh(c[u]);
            gates[u] = i, gates[H + u] = f, gates[2 * H + u] = g, gates[3 * H + u] = o;
            extra[u] = c[u];
        } else if (cell == BILSTM_GRU) {
            const Real r = logistic(x_sums[u] + h_sums[u]);
            const Real z = logistic(x_sums[H + u] + h_sums[H + u]);
            const Real n = std::tanh(x_sums[2 * H + u] + r * h_sums[2 * H + u]);
            h[u] = (1 - z) * n + z * h[u];
            gates[u] = r, gates[H + u] = z, gates[2 * H + u] = n;
            extra[u] = h_sums[2 * H + u];
        } else {
            const Real a = x_sums[u] + h_sums[u];
            h[u] = cell == BILSTM_RNN_TANH ? std::tanh(a) : a < 0 ? Real(0) : a;
            gates[u] = h[u];
        }
    }
}

// Gradients of one step: from dh (whole) and dc to the gradients of both sums, and to what flows to h_{t-1} outside the
// product (`dh` on return) and to c_{t-1} (`dc` on return). h_before and c_before are h_{t-1} and c_{t-1}.
template <class Real>
void cell_gradient(int cell, int64_t H, const Real *gates, const Real *extra, const Real *h_before, const Real *c_before,
                   Real *dh, Real *dc, Real *dx_sums, Real *dh_sums) {
    for (int64_t u = 0; u < H; ++u) {
        if (cell == BILSTM_LSTM) {
            const Real i = gates[u], f = gates[H + u], g = gates[2 * H + u], o = gates[3 * H + u];
            const Real t = std::tanh(extra[u]);
            const Real d = dc[u] + dh[u] * o * (1 - t * t);
            dx_sums[u] = d * g * i * (1 - i);
            dx_sums[H + u] = d * c_before[u] * f * (1 - f);
            dx_sums[2 * H + u] = d * i * (1 - g * g);
            dx_sums[3 * H + u] = dh[u] * t * o * (1 - o);
            for (int64_t k = 0; k < 4; ++k) dh_sums[k * H + u] = dx_sums[k * H + u];
            dc[u] = d * f;
            dh[u] = 0;
        } else if (cell == BILSTM_GRU) {
            const Real r = gates[u], z = gates[H + u], n = gates[2 * H + u];
            const Real dn = dh[u] * (1 - z) * (1 - n * n);
            dx_sums[u] = dh_sums[u] = dn * extra[u] * r * (1 - r);
            dx_sums[H + u] = dh_sums[H + u] = dh[u] * (h_before[u] - n) * z * (1 - z);
            dx_sums[2 * H + u] = dn;
            dh_sums[2 * H + u] = dn * r;
            dh[u] *= z;
        } else {
            const Real h = gates[u];
            dx_sums[u] = dh_sums[u] = cell == BILSTM_RNN_TANH ? dh[u] * (1 - h * h) : h > 0 ? dh[u] : Real(0);
            dh[u] = 0;
        }
    }
}

template <class Real, bool kRounded>
struct Reference {
    using Size = Sizes<Real>;

    static int64_t saved_bytes(const bilstm_call &call) {
        const Size size(call);
        return (size.D * size.N * size.row + 1) * static_cast<int64_t>(sizeof(Real));  // never 0 bytes
    }

    static const Real *real(const void *p) { return static_cast<const Real *>(p); }
    static Real *real(void *p) { return static_cast<Real *>(p); }

    static void read_input(const bilstm_call &call, int64_t n, Real *x) {
        const Real *row = call.token_ids != nullptr ? real(call.embedding) + call.token_ids[n] * call.input_size
                                                    : real(call.values) + n * call.input_size;
        for (int64_t i = 0; i < call.input_size; ++i) x[i] = factor<Real, kRounded>(row[i]);
    }

    // h' of the equations: masked, as a factor.
    static void masked(const Real *h, const Real *mask, int64_t H, Real *to) {
        for (int64_t u = 0; u < H; ++u) to[u] = factor<Real, kRounded>(mask != nullptr ? h[u] * mask[u] : h[u]);
    }

    static void forward_sequence(const bilstm_call &call, const Weights<Real> &weights, const Real *table, int64_t d,
                                 int64_t b) {
        const Size size(call);
        const int64_t H = size.H, begin = call.offsets[b], length = call.offsets[b + 1] - begin;
        const int64_t state = (d * size.B + b) * H, pooled = (b * size.D + d) * H;
        const size_t units = static_cast<size_t>(H), rows = static_cast<size_t>(size.G * H);
        std::vector<Real> h(units, 0), c(units, 0), x(static_cast<size_t>(size.I)), factors(units), x_sums(rows),
            h_sums(rows), kept(static_cast<size_t>(size.row)), best(units, 0);
        std::vector<double> total(units, 0);  // sums over steps of any number: in double
        std::vector<int32_t> best_step(units, -1);
        if (call.h_0 != nullptr) h.assign(real(call.h_0) + state, real(call.h_0) + state + H);
        if (call.c_0 != nullptr) c.assign(real(call.c_0) + state, real(call.c_0) + state + H);
        const Real *mask = call.recurrent_mask != nullptr ? real(call.recurrent_mask) + state : nullptr;
        const bool backwards = reads_backwards(call, d);
        for (int64_t s = 0; s < length; ++s) {
            const int64_t position = backwards ? length - 1 - s : s, n = begin + position;
            if (table != nullptr && call.token_ids != nullptr) {
                const Real *row = table + call.token_ids[n] * size.G * H;
                x_sums.assign(row, row + size.G * H);
            } else {
                read_input(call, n, x.data());
                input_part(size, weights, x.data(), x_sums.data());
            }
            masked(h.data(), mask, H, factors.data());
            recurrent_part(size, weights, factors.data(), h_sums.data());
            cell_step(call.cell, H, x_sums.data(), h_sums.data(), kept.data(), kept.data() + size.G * H, h.data(),
                      c.data());
            if (call.saved != nullptr) {
                std::copy(h.begin(), h.end(), kept.begin() + (size.G + 1) * H);
                Real *saved = static_cast<Real *>(call.saved) + (d * size.N + n) * size.row;
                std::copy(kept.begin(), kept.end(), saved);
            }
            if (call.outputs != nullptr) {
                std::copy(h.begin(), h.end(), real(call.outputs) + (n * size.D + d) * H);
            }
            for (size_t u = 0; u < units; ++u) {
                total[u] += h[u];
                // The first largest one in input order; a NaN is larger than everything.
                const bool better = best_step[u] < 0 || h[u] > best[u] || (backwards && h[u] == best[u]) ||
                                    (std::isnan(h[u]) && (backwards || !std::isnan(best[u])));
                if (better) best[u] = h[u], best_step[u] = static_cast<int32_t>(position);
            }
        }
        if (call.h_n != nullptr) std::copy(h.begin(), h.end(), real(call.h_n) + state);
        if (call.c_n != nullptr) std::copy(c.begin(), c.end(), real(call.c_n) + state);
        if (call.max_values != nullptr) std::copy(best.begin(), best.end(), real(call.max_values) + pooled);
        if (call.max_steps != nullptr) std::copy(best_step.begin(), best_step.end(), call.max_steps + pooled);
        for (int64_t u = 0; call.mean_values != nullptr && u < H; ++u) {
            real(call.mean_values)[pooled + u] =
                length > 0 ? static_cast<Real>(total[static_cast<size_t>(u)] / static_cast<double>(length)) : Real(0);
        }
    }

    static void forward(bilstm_context &, const bilstm_call &call) {
        for (int64_t d = 0; d < call.directions; ++d) {
            const PackedWeights<Real> *packed =
                call.packed != nullptr ? static_cast<const PackedWeights<Real> *>(call.packed->data) : nullptr;
            const Weights<Real> own = packed == nullptr ? read_weights<Real, kRounded>(call, d) : Weights<Real>{};
            const Real *table = call.packed != nullptr ? real(call.packed->table) : nullptr;
            if (table != nullptr) table += d * call.packed->vocabulary_size * gates_of(call.cell) * call.hidden_size;
            const Weights<Real> &weights = packed != nullptr ? packed->directions[static_cast<size_t>(d)] : own;
            for (int64_t b = 0; b < call.batch; ++b) forward_sequence(call, weights, table, d, b);
        }
    }

    // The part of dh at one step that comes from outside the recurrence.
    static void add_given(const bilstm_call &call, int64_t d, int64_t b, int64_t position, Real *dh) {
        const int64_t H = call.hidden_size, D = call.directions, begin = call.offsets[b];
        const int64_t length = call.offsets[b + 1] - begin, pooled = (b * D + d) * H;
        for (int64_t u = 0; u < H; ++u) {
            if (call.d_outputs != nullptr) dh[u] += real(call.d_outputs)[((begin + position) * D + d) * H + u];
            if (call.d_mean != nullptr) dh[u] += real(call.d_mean)[pooled + u] / static_cast<Real>(length);
            if (call.d_max != nullptr && call.max_steps[pooled + u] == position) dh[u] += real(call.d_max)[pooled + u];
        }
    }

    // Sums of one direction over all sequences and steps, hence in double.
    struct Gradients {
        std::vector<double> w_ih, w_hh, b_ih, b_hh;
    };

    static void backward_sequence(const bilstm_call &call, const Weights<Real> &weights, int64_t d, int64_t b,
                                  Gradients &sums, Real *d_rows) {
        const Size size(call);
        const int64_t H = size.H, I = size.I, GH = size.G * H, begin = call.offsets[b];
        const int64_t length = call.offsets[b + 1] - begin, state = (d * size.B + b) * H;
        const size_t units = static_cast<size_t>(H);
        std::vector<Real> dh(units, 0), dc(units, 0), zeros(units, 0), factors(units), x(static_cast<size_t>(I)),
            dx_sums(static_cast<size_t>(GH)), dh_sums(static_cast<size_t>(GH)), through(units);
        if (call.d_h_n != nullptr) dh.assign(real(call.d_h_n) + state, real(call.d_h_n) + state + H);
        if (call.d_c_n != nullptr) dc.assign(real(call.d_c_n) + state, real(call.d_c_n) + state + H);
        const Real *mask = call.recurrent_mask != nullptr ? real(call.recurrent_mask) + state : nullptr;
        const Real *saved = static_cast<const Real *>(call.saved) + d * size.N * size.row;
        const bool backwards = reads_backwards(call, d);
        for (int64_t s = length; s-- > 0;) {
            const int64_t position = backwards ? length - 1 - s : s, n = begin + position;
            const Real *kept = saved + n * size.row;
            const Real *before = s == 0 ? nullptr : saved + (backwards ? n + 1 : n - 1) * size.row;
            const Real *h_before = before != nullptr ? before + (size.G + 1) * H
                                   : call.h_0 != nullptr ? real(call.h_0) + state : zeros.data();
            const Real *c_before = before != nullptr ? before + size.G * H
                                   : call.c_0 != nullptr ? real(call.c_0) + state : zeros.data();
            add_given(call, d, b, position, dh.data());
            cell_gradient(call.cell, H, kept, kept + size.G * H, h_before, c_before, dh.data(), dc.data(),
                          dx_sums.data(), dh_sums.data());
            masked(h_before, mask, H, factors.data());
            read_input(call, n, x.data());
            std::fill(through.begin(), through.end(), Real(0));
            for (int64_t j = 0; j < GH; ++j) {
                const size_t at = static_cast<size_t>(j);
                sums.b_ih[at] += dx_sums[at];
                sums.b_hh[at] += dh_sums[at];
                const Real dx = factor<Real, kRounded>(dx_sums[at]), dr = factor<Real, kRounded>(dh_sums[at]);
                for (int64_t i = 0; i < I; ++i) {
                    sums.w_ih[static_cast<size_t>(j * I + i)] += double(dx) * x[static_cast<size_t>(i)];
                    if (d_rows != nullptr) d_rows[n * I + i] += dx * weights.w_ih[static_cast<size_t>(j * I + i)];
                }
                for (int64_t k = 0; k < H; ++k) {
                    sums.w_hh[static_cast<size_t>(j * H + k)] += double(dr) * factors[static_cast<size_t>(k)];
                    through[static_cast<size_t>(k)] += dr * weights.w_hh[static_cast<size_t>(j * H + k)];
                }
            }
            for (size_t u = 0; u < units; ++u) dh[u] += mask != nullptr ? through[u] * mask[u] : through[u];
        }
        if (call.d_h_0 != nullptr) std::copy(dh.begin(), dh.end(), real(call.d_h_0) + state);
        if (call.d_c_0 != nullptr) std::copy(dc.begin(), dc.end(), real(call.d_c_0) + state);
    }

    static void backward(bilstm_context &, const bilstm_call &call, void *rows) {
        const Size size(call);
        Real *d_rows = real(rows);
        if (d_rows != nullptr) std::fill(d_rows, d_rows + size.N * size.I, Real(0));
        const auto write = [](const std::vector<double> &from, void *to) {
            for (size_t k = 0; to != nullptr && k < from.size(); ++k) real(to)[k] = static_cast<Real>(from[k]);
        };
        for (int64_t d = 0; d < size.D; ++d) {
            const Weights<Real> weights = read_weights<Real, kRounded>(call, d);
            const auto zeros = [](int64_t count) { return std::vector<double>(static_cast<size_t>(count), 0.0); };
            Gradients sums{zeros(size.G * size.H * size.I), zeros(size.G * size.H * size.H), zeros(size.G * size.H),
                           zeros(size.G * size.H)};
            for (int64_t b = 0; b < size.B; ++b) backward_sequence(call, weights, d, b, sums, d_rows);
            write(sums.w_ih, call.d_w_ih[d]);
            write(sums.w_hh, call.d_w_hh[d]);
            write(sums.b_ih, call.d_b_ih[d]);
            write(sums.b_hh, call.d_b_hh[d]);
        }
    }

    static void pack(bilstm_context &, const bilstm_call &call, bilstm_weights &weights) {
        const Size size(call);
        auto packed = std::make_unique<PackedWeights<Real>>();
        for (int64_t d = 0; d < size.D; ++d) packed->directions.push_back(read_weights<Real, kRounded>(call, d));
        weights.bytes = size.D * size.G * size.H * (size.I + size.H + 2) * static_cast<int64_t>(sizeof(Real));
        if (call.embedding != nullptr) {
            const int64_t row = size.G * size.H, V = call.vocabulary_size;
            const int64_t bytes = size.D * V * row * static_cast<int64_t>(sizeof(Real));
            Real *table = static_cast<Real *>(weights.table_memory.reserve(static_cast<size_t>(bytes)));
            std::vector<Real> x(static_cast<size_t>(size.I));
            for (int64_t v = 0; v < V; ++v) {
                const Real *vector = real(call.embedding) + v * size.I;
                for (int64_t i = 0; i < size.I; ++i) x[static_cast<size_t>(i)] = factor<Real, kRounded>(vector[i]);
                for (int64_t d = 0; d < size.D; ++d) {
                    input_part(size, packed->directions[static_cast<size_t>(d)], x.data(), table + (d * V + v) * row);
                }
            }
            weights.table = table;
            weights.bytes += bytes;
        }
        weights.data = packed.release();
        weights.free_data = [](void *data) { delete static_cast<PackedWeights<Real> *>(data); };
    }

    static constexpr Kernel kernel{saved_bytes, forward, backward, pack};
};

}  // namespace

const Kernel *portable_kernel(int precision) {
    if (precision == BILSTM_FLOAT64) return &Reference<double, false>::kernel;
    if (precision == BILSTM_BFLOAT16) return &Reference<float, true>::kernel;
    return &Reference<float, false>::kernel;
}

}  // namespace bilstm

// The products of a layer in float32, as layer.h asks for them. Included inside an unnamed namespace.

struct Products {
    using Stored = float;
    using Factor = float;
    static constexpr bool kInputFirst = true;  // the input product of a whole chunk precedes its steps
    static constexpr bool kPadded = false;     // rows of factors are as long as what is stored there
    static constexpr int64_t kExtraRows = 0;   // rows that products may read past the last one

    static void plan(Layout &l) {
        l.Ik = (l.I + W - 1) / W * W;
        l.Hk = l.Hp;
        l.Pk = l.P;
        l.stored_bytes = 4;
    }

    static int64_t width(const Layout &l) { return l.cell == BILSTM_GRU ? 3 : 4; }

    // Torch's row of weights for element p of a row of sums, or -1 for padding.
    static int64_t torch_row(const Layout &l, int64_t p) {
        const int64_t block = p / (l.gates * W), gate = p / W % l.gates, unit = block * W + p % W;
        return unit < l.H ? gate * l.H + unit : -1;
    }

    static const float *row_of(const Layout &l, const float *matrix, int64_t size, int64_t p) {
        const int64_t row = torch_row(l, p);
        return row >= 0 ? matrix + row * size : nullptr;
    }

    static size_t packed_bytes(const Layout &l, bool backward) {
        int64_t elements = packed_elements(l.I, l.P / W, width(l)) + packed_elements(l.H, l.P / W, width(l)) + l.C;
        if (backward) elements = packed_elements(l.P, l.Ik / W, 4) + packed_elements(l.P, l.Hp / W, 4);
        return static_cast<size_t>(elements) * sizeof(float);
    }

    static void pack(const Layout &l, const bilstm_call &call, int64_t d, bool backward, char *memory, Direction &to) {
        const float *w_ih = static_cast<const float *>(call.w_ih[d]), *w_hh = static_cast<const float *>(call.w_hh[d]);
        float *at = reinterpret_cast<float *>(memory);
        const auto input_row = [&](int64_t p) { return row_of(l, w_ih, l.I, p); };
        const auto state_row = [&](int64_t p) { return row_of(l, w_hh, l.H, p); };
        if (backward) {
            to.w_ih_back = at;
            pack_rows(at, l.P, l.I, l.Ik / W, input_row);
            at += packed_elements(l.P, l.Ik / W, 4);
            to.w_hh_back = at;
            pack_rows(at, l.P, l.H, l.Hp / W, state_row);
            return;
        }
        to.w_ih = at;
        pack_columns(at, l.I, l.P / W, width(l), input_row);
        at += packed_elements(l.I, l.P / W, width(l));
        to.w_hh = at;
        pack_columns(at, l.H, l.P / W, width(l), state_row);
        to.bias = at + packed_elements(l.H, l.P / W, width(l));
        pack_bias(l, call, d, to.bias);
    }

    static void convert_row(const float *row, float *to, int64_t count) {
        __builtin_memcpy(to, row, static_cast<size_t>(count) * sizeof(float));
    }

    // sums = bias + x w_ih for whole rows, the extra part of the GRU included.
    static void input_product(const Layout &l, const Direction &w, int64_t rows, const float *x, float *sums) {
        const Product p{rows, l.I,     x,  l.Ik,   static_cast<const float *>(w.w_ih), width(l) * W,
                        l.I * width(l) * W, l.P / W, w.bias, 0, sums, l.C};
        if (l.cell == BILSTM_GRU) {
            product<3, false>(p, Contiguous{});
            for (int64_t r = 0; r < rows; ++r) {
                for (int64_t u = l.P; u < l.C; u += W) store(sums + r * l.C + u, load(w.bias + u));
            }
        } else {
            product<4, false>(p, Contiguous{});
        }
    }

    // sums += h w_hh; `odd`: of a step with an odd number
    static void recurrent_product(const Layout &l, const Direction &w, int64_t rows, const float *h, float *sums,
                                  bool odd) {
        const Product p{rows, l.H,     h,  l.Hk,   static_cast<const float *>(w.w_hh), width(l) * W,
                        l.H * width(l) * W, l.P / W, sums, l.C, sums, l.C};
        if (rows == 1) {
            l.cell == BILSTM_GRU ? product_of_row<3>(p, GruRecurrent{l.P}, odd)
                                 : product_of_row<4>(p, Contiguous{}, odd);
        } else if (l.cell == BILSTM_GRU) {
            product<3, false>(p, GruRecurrent{l.P});
        } else {
            product<4, false>(p, Contiguous{});
        }
    }

    // dh = d_sums w_hh, rows of Hp
    static void state_gradient(const Layout &l, const Direction &w, int64_t rows, const float *d_sums, float *dh) {
        const Product p{rows, l.P, d_sums, l.Pk, static_cast<const float *>(w.w_hh_back), 4 * W, l.P * 4 * W, l.Hp / W,
                        nullptr, 0, dh, l.Hp};
        product<4, false>(p, Contiguous{});
    }

    // dx = d_sums w_ih, rows of Ik
    static void input_gradient(const Layout &l, const Direction &w, int64_t rows, const float *d_sums, float *dx) {
        const Product p{rows, l.P, d_sums, l.Pk, static_cast<const float *>(w.w_ih_back), 4 * W, l.P * 4 * W, l.Ik / W,
                        nullptr, 0, dx, l.Ik};
        product<4, false>(p, Contiguous{});
    }

    // Some rows at a time, for the same reason as in `tile`.
    static void add_rows(const Layout &l, int64_t rows, const float *d_sums, float *bias) {
        for (int64_t first = 0; first < rows; first += 32) {
            const int64_t end = rows - first < 32 ? rows : first + 32;
            for (int64_t p = 0; p < l.P; p += W) {
                V sum{};
                for (int64_t r = first; r < end; ++r) sum = sum + load(d_sums + r * l.Pk + p);
                store(bias + p, load(bias + p) + sum);
            }
        }
    }

    // Add the products of a chunk of rows to the sums of weight gradients.
    static void weight_gradient(const Layout &l, int64_t rows, const float *d_sums, const float *d_sums_h,
                                const float *x, const float *h_before, const WeightSums &sums, char *) {
        const Product input{l.P, rows, d_sums, l.Pk, x, l.Ik, 4 * W, l.Ik / W, nullptr, 0, sums.w_ih, l.Ik};
        product<4, true>(input, Contiguous{});
        const Product state{l.P, rows, d_sums_h, l.Pk, h_before, l.Hk, 4 * W, l.Hp / W, nullptr, 0, sums.w_hh, l.Hp};
        product<4, true>(state, Contiguous{});
        add_rows(l, rows, d_sums, sums.b_ih);
        add_rows(l, rows, d_sums_h, sums.b_hh);
    }

    static size_t weight_gradient_scratch(const Layout &, int64_t) { return 0; }
};

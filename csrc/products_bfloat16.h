// The products of a layer in bfloat16, sums in float32. Included inside an unnamed namespace after bfloat16_tiles.h and the
// products of one instruction set (multiply_amx.h or multiply_avx512_bf16.h).

constexpr int64_t kFewRows = 8, kManyBytes = 1 << 20;  // see input_apart

// Numbers of a right factor of K rows and `vectors` tiles of columns.
inline int64_t packed_elements(int64_t K, int64_t vectors) { return round_up(K, 32) / 32 * vectors * kTile; }

// 32 numbers of a row (null: zeros), from number `first` of `count` on, rounded.
INLINE __m512i halves_of(const float *row, int64_t first, int64_t count) {
    if (row == nullptr || first >= count) return _mm512_setzero_si512();
    const int64_t left = count - first;
    const uint32_t mask = left >= 32 ? 0xffffffffu : (1u << left) - 1;
    const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), row + first);
    const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), row + first + 16);
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// Pack the transpose of a matrix whose rows are `source(column)`, K long, as [panel of `width` tiles][k][tile]; the last
// panel may be narrower.
template <class Source>
void pack_columns(Half *to, int64_t K, int64_t vectors, int64_t width, Source source) {
    for (int64_t v = 0; v < vectors; v += width) {
        const int64_t tiles = vectors - v < width ? vectors - v : width;
        for (int64_t k = 0; k < K; k += 32) {
            for (int64_t tile = 0; tile < tiles; ++tile, to += kTile) {
                alignas(64) uint32_t pairs[16][16];
                for (int column = 0; column < 16; ++column) {
                    _mm512_store_si512(pairs[column], halves_of(source((v + tile) * 16 + column), k, K));
                }
                uint32_t *at = reinterpret_cast<uint32_t *>(to);
                for (int pair = 0; pair < 16; ++pair) {
                    for (int column = 0; column < 16; ++column) at[pair * 16 + column] = pairs[column][pair];
                }
            }
        }
    }
}

// Pack a matrix whose K rows are `source(k)`, `columns` long, as [panel of 4 tiles][k][tile].
template <class Source>
void pack_rows(Half *to, int64_t K, int64_t columns, int64_t vectors, Source source) {
    for (int64_t v = 0; v < vectors; v += 4) {
        const int64_t tiles = vectors - v < 4 ? vectors - v : 4;
        for (int64_t k = 0; k < round_up(K, 32); k += 2) {
            const float *even = k < K ? source(k) : nullptr, *odd = k + 1 < K ? source(k + 1) : nullptr;
            for (int64_t tile = 0; tile < tiles; tile += 2) {
                const int64_t column = (v + tile) * 16;
                Half *first = to + (k / 32 * tiles + tile) * kTile + k % 32 * 16;
                alignas(64) Half unused[32];
                interleave(halves_of(even, column, columns), halves_of(odd, column, columns), first,
                           tile + 1 < tiles ? first + kTile : unused);
            }
        }
        to += round_up(K, 32) / 32 * tiles * kTile;
    }
}

struct Products {
    using Stored = Half;
    using Factor = Half;
    static constexpr bool kInputFirst = false;
    static constexpr bool kPadded = true;
    static constexpr int64_t kExtraRows = 32;  // tiles write as many; weight_gradient fills its last tile with zeros

    static void plan(Layout &l) {
        l.Ik = round_up(l.I, 32);
        l.Hk = round_up(l.H, 32);
        l.Pk = round_up(l.P, 32);
        l.stored_bytes = 2;
        l.sums_by_input = 2;
    }

    static int64_t width(const Layout &l) { return l.cell == BILSTM_GRU ? 3 : 4; }

    static int64_t torch_row(const Layout &l, int64_t p) {
        const int64_t block = p / (l.gates * W), gate = p / W % l.gates, unit = block * W + p % W;
        return p < l.P && unit < l.H ? gate * l.H + unit : -1;
    }

    static const float *row_of(const Layout &l, const float *matrix, int64_t size, int64_t p) {
        const int64_t row = torch_row(l, p);
        return row >= 0 ? matrix + row * size : nullptr;
    }

    static size_t packed_bytes(const Layout &l, bool backward) {
        int64_t bytes = 2 * (packed_elements(l.I, l.P / W) + packed_elements(l.H, l.P / W)) + 4 * l.C;
        bytes += 2 * single_elements(l);
        if (backward) bytes = 2 * (packed_elements(l.P, l.Ik / W) + packed_elements(l.P, l.Hp / W));
        return static_cast<size_t>(bytes);
    }

    static void pack(const Layout &l, const bilstm_call &call, int64_t d, bool backward, char *memory, Direction &to) {
        const float *w_ih = static_cast<const float *>(call.w_ih[d]), *w_hh = static_cast<const float *>(call.w_hh[d]);
        Half *at = reinterpret_cast<Half *>(memory);
        const auto input_row = [&](int64_t p) { return row_of(l, w_ih, l.I, p); };
        const auto state_row = [&](int64_t p) { return row_of(l, w_hh, l.H, p); };
        if (backward) {
            to.w_ih_back = at;
            pack_rows(at, l.P, l.I, l.Ik / W, input_row);
            at += packed_elements(l.P, l.Ik / W);
            to.w_hh_back = at;
            pack_rows(at, l.P, l.H, l.Hp / W, state_row);
            return;
        }
        to.w_ih = at;
        pack_columns(at, l.I, l.P / W, width(l), input_row);
        at += packed_elements(l.I, l.P / W);
        to.w_hh = at;
        pack_columns(at, l.H, l.P / W, width(l), state_row);
        to.bias = reinterpret_cast<float *>(at + packed_elements(l.H, l.P / W));
        pack_bias(l, call, d, to.bias);
        to.single = nullptr;
        if (single_elements(l) == 0 || call.saved != nullptr || call.batch != 1) return;
        Half *single = reinterpret_cast<Half *>(to.bias + l.C);
        if (pack_single(l, single, state_row)) to.single = single;
    }

    static void convert_row(const float *row, Half *to, int64_t count) {
        int64_t i = 0;
        for (; i + W <= count; i += W) store(to + i, load(row + i));
        if (i < count) store(to + i, load_part(row + i, count - i));  // the padding becomes zero
    }

    // sums = bias + x w_ih for whole rows, the extra part of the GRU included.
    static void input_product(const Layout &l, const Direction &w, int64_t rows, const Half *x, float *sums) {
        const Half *right = static_cast<const Half *>(w.w_ih);
        const int64_t depth = l.Ik / 32;
        for (int64_t v = 0; v < l.P / W; v += width(l)) {
            const int64_t tiles = l.P / W - v < width(l) ? l.P / W - v : width(l);
            const Factors factors{x, 2 * l.Ik, right + v * depth * kTile, depth};
            multiply<false>(rows, tiles, w.bias + v * W, 0, factors, kNothing, sums + v * W, 4 * l.C);
        }
        for (int64_t r = 0; r < rows; ++r) {
            for (int64_t u = l.P; u < l.C; u += W) store(sums + r * l.C + u, load(w.bias + u));
        }
    }

    // Whether the input part of the sums is computed for many steps at once: where a step has few rows, each of which would
    // cost as much as 16, and where what is saved drives large weights out of the second-level cache.
    static bool input_apart(const Layout &l, int64_t rows, bool saves) {
        return rows <= kFewRows || (saves && is_large(l));
    }

    static bool is_large(const Layout &l) { return 2 * l.P * (l.Ik + l.Hk) > kManyBytes; }

    static int64_t panel_floats(const Layout &l) { return (l.P / W + width(l) - 1) / width(l) * 4 * W; }

    // The same as panels, each of `panel_rows` rows of 4 vectors.
    static void input_panels(const Layout &l, const Direction &w, int64_t step_rows, int64_t rows, const Half *x,
                             float *sums, int64_t panel_rows) {
        const Half *right = static_cast<const Half *>(w.w_ih);
        const int64_t depth = l.Ik / 32;
        if (step_rows < 16) configure_tiles(16);
        for (int64_t v = 0; v < l.P / W; v += width(l), sums += panel_rows * 4 * W) {
            const int64_t tiles = l.P / W - v < width(l) ? l.P / W - v : width(l);
            const Factors factors{x, 2 * l.Ik, right + v * depth * kTile, depth};
            multiply<false>(rows, tiles, w.bias + v * W, 0, factors, kNothing, sums, 4 * 4 * W);
        }
        if (step_rows < 16) configure_tiles(step_rows);
    }

    // One panel of the sums of a step, 4 vectors a row: h w_hh and, if given, bias + x w_ih or `ready` sums of the input.
    // `once`: the weights pass by once a step.
    static void step_product(const Layout &l, const Direction &w, int64_t rows, int64_t v, int64_t tiles, const Half *x,
                             const float *ready, const Half *h, float *sums, bool once) {
        const int64_t input_depth = l.Ik / 32, state_depth = l.Hk / 32, stride = 4 * 4 * W;
        const Factors input{x, 2 * l.Ik, static_cast<const Half *>(w.w_ih) + v * input_depth * kTile,
                            x != nullptr ? input_depth : 0};
        const Factors state{h, 2 * l.Hk, static_cast<const Half *>(w.w_hh) + v * state_depth * kTile, state_depth};
        const float *from = x != nullptr ? w.bias + v * W : ready;
        const int64_t from_stride = x != nullptr ? 0 : stride;
        if (l.cell == BILSTM_GRU) {
            multiply_gru(rows, from, from_stride, w.bias + l.P + v / 3 * W, input, state, sums, stride);
        } else if (once) {
            multiply<true>(rows, tiles, from, from_stride, input, state, sums, stride);
        } else {
            multiply<false>(rows, tiles, from, from_stride, input, state, sums, stride);
        }
    }

    // Whether `single` does the steps of a shard: it takes no states from outside, whose size is not known.
    static bool is_single(const bilstm_call &call, const Direction &w, int64_t rows) {
        return rows == 1 && w.single != nullptr && call.h_0 == nullptr && call.recurrent_mask == nullptr;
    }

    static void single(const ForwardStep<Half, Half> &step, const Direction &w, const float *ready, int64_t ready_stride,
                       const Half *h) {
        single_step(step, static_cast<const Half *>(w.single), ready, ready_stride, reinterpret_cast<const uint32_t *>(h),
                    reinterpret_cast<uint32_t *>(step.factor));
    }

    // dh = d_sums w_hh, rows of Hp
    static void state_gradient(const Layout &l, const Direction &w, int64_t rows, const Half *d_sums, float *dh) {
        const Half *right = static_cast<const Half *>(w.w_hh_back);
        if (is_large(l)) return backward_product<true>(l, rows, d_sums, right, l.Hp, dh);
        backward_product<false>(l, rows, d_sums, right, l.Hp, dh);
    }

    // dx = d_sums w_ih, rows of Ik
    static void input_gradient(const Layout &l, const Direction &w, int64_t rows, const Half *d_sums, float *dx) {
        const Half *right = static_cast<const Half *>(w.w_ih_back);
        if (is_large(l)) return backward_product<true>(l, rows, d_sums, right, l.Ik, dx);
        backward_product<false>(l, rows, d_sums, right, l.Ik, dx);
    }

    template <bool kOnce>
    static void backward_product(const Layout &l, int64_t rows, const Half *d_sums, const Half *right, int64_t columns,
                                 float *to) {
        const int64_t depth = l.Pk / 32;
        for (int64_t r = 0; r < rows; r += 32, d_sums += 32 * l.Pk, to += 32 * columns) {
            const int64_t count = rows - r < 32 ? rows - r : 32;
            for (int64_t v = 0; v < columns / W; v += 4) {
                const int64_t tiles = columns / W - v < 4 ? columns / W - v : 4;
                const Factors factors{d_sums, 2 * l.Pk, right + v * depth * kTile, depth};
                multiply<kOnce>(count, tiles, nullptr, 0, factors, kNothing, to + v * W, 4 * columns);
            }
        }
    }

    // Memory for one chunk: the right factor (gate gradients, packed) and the left one (input and state, transposed).
    static size_t weight_gradient_scratch(const Layout &l, int64_t rows) {
        const int64_t k = round_up(rows, 32);
        return static_cast<size_t>(2 * k * (l.Ik + l.Hk) + 2 * (k / 32) * gradient_stride(l));
    }

    // Numbers from one k to the next of packed gate gradients: one tile more than there are, for a power of two between
    // them would put all into the same sets of the cache.
    static int64_t gradient_stride(const Layout &l) { return (l.Pk / 16 + 1) * kTile; }

    // Pack rows of gate gradients as [k][tile of columns][16 pairs][16 columns][2], and add them up for the bias.
    __attribute__((noinline)) static void pack_gradients(const Layout &l, int64_t rows, const Half *d_sums, Half *to,
                                                         float *bias) {
        const __m512bh ones = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f80));
        for (int64_t n = 0; n < rows; n += 2) {
            const Half *even = d_sums + n * l.Pk, *odd = even + l.Pk;
            Half *pair = to + n / 32 * gradient_stride(l) + n % 32 * 16;
            for (int64_t p = 0; p < l.Pk; p += 32) {
                Half *first = pair + p * 32, *second = first + kTile;
                interleave(_mm512_loadu_si512(even + p), _mm512_loadu_si512(odd + p), first, second);
                const auto add = [&](int64_t at, const Half *numbers) {
                    const __m512i pairs = _mm512_loadu_si512(numbers);
                    store(bias + at, _mm512_dpbf16_ps(load(bias + at), reinterpret_cast<__m512bh>(pairs), ones));
                };
                add(p, first);
                if (p + 16 < l.P) add(p + 16, second);
            }
        }
    }

    // The transpose of rows as [16 columns][32 rows] tiles: to[column / 16][row / 32], each 16 rows of 64 bytes.
    __attribute__((noinline)) static void transpose(int64_t rows, const Half *from, int64_t columns, Half *to) {
        for (int64_t k = 0; k < rows; k += 32) {
            for (int64_t c = 0; c < columns; c += 8) {
                Half *tile = to + (c / 16 * (rows / 32) + k / 32) * kTile;
                transpose_32x8(from + k * columns + c, columns, tile + c % 16 * 32, 32);
            }
        }
    }

    static void add_products(const Layout &l, int64_t rows, const Half *left, int64_t columns, const Half *right,
                             float *sums) {
        const int64_t depth = rows / 32, tiles = l.P / W, gap = gradient_stride(l);
        if (is_large(l)) return add_outer<true>(depth, left, columns, right, tiles, gap, sums);
        add_outer<false>(depth, left, columns, right, tiles, gap, sums);
    }

    // Add the products of a chunk of rows to the sums of weight gradients. The rows behind the last one, up to a whole
    // tile, are set to zero: here they are summed over.
    static void weight_gradient(const Layout &l, int64_t count, Half *d_sums, Half *d_sums_h, Half *x, Half *h_before,
                                const WeightSums &sums, char *memory) {
        const int64_t rows = round_up(count, 32);
        const auto clear = [&](Half *array, int64_t row) {
            __builtin_memset(array + count * row, 0, static_cast<size_t>((rows - count) * row) * sizeof(Half));
        };
        clear(d_sums, l.Pk);
        if (d_sums_h != d_sums) clear(d_sums_h, l.Pk);
        clear(x, l.Ik);
        clear(h_before, l.Hk);
        Half *right = reinterpret_cast<Half *>(memory), *left = right + rows / 32 * gradient_stride(l);
        pack_gradients(l, rows, d_sums, right, sums.b_ih);
        transpose(rows, x, l.Ik, left);
        add_products(l, rows, left, l.Ik, right, sums.w_ih);
        if (d_sums_h != d_sums) pack_gradients(l, rows, d_sums_h, right, sums.b_hh);
        transpose(rows, h_before, l.Hk, left);
        add_products(l, rows, left, l.Hk, right, sums.w_hh);
    }
};

// The products of a layer in bfloat16 with AMX tiles, sums in float32. Included inside an unnamed namespace.
//
// A tile is 16 rows of 64 bytes. The left factor is read as it lies in memory, 16 rows by 32 numbers; the right one is
// packed with pairs of its rows interleaved, 16 pairs by 16 columns, 1 KB a tile. 32 rows by 2 tiles of columns at a time
// (4 sums, 2 left, 2 right) halve the traffic of weights from the second-level cache against 16 by 4.
// Tiles always have 16 rows: rows past the last one are read and written as garbage, so buffers have kExtraRows more.

constexpr int64_t kFewRows = 8, kManyBytes = 1 << 20;  // see input_apart

// Tiles 0 to 4, which multiply_16 and multiply_gru use for sums and left rows, have `rows` rows: the fewer, the faster.
INLINE void configure_tiles(int64_t rows = 16) {
    const uint8_t few = static_cast<uint8_t>(rows);
    struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16];
    } configuration{.rows = {few, few, few, few, few, 16, 16, 16}};
    asm volatile("" : : "r"(&configuration) : "memory");  // gcc 12 drops the stores above at -O3 otherwise
    _tile_loadconfig(&configuration);
}

// A tile that passes by once: not to be kept in the nearest cache in place of what is read again. (The second-level cache
// drops it earlier, too: bad where much else passes through that.)
#define LOAD_TILE(once, tile, from, stride)                 \
    do {                                                    \
        if constexpr (once) {                               \
            _tile_stream_loadd(tile, from, stride);         \
        } else {                                            \
            _tile_loadd(tile, from, stride);                \
        }                                                   \
    } while (false)

// A sum of products: left rows times packed tiles, k tiles deep.
struct Factors {
    const Half *left;
    int64_t stride;     // bytes from row to row of the left factor
    const Half *right;  // [k][N] tiles
    int64_t depth;
};

constexpr Factors kNothing{nullptr, 0, nullptr, 0};

// Begin sums: tiles 0 to 3, which are four of columns, or 2 x 2 of rows and columns.
template <int N>
INLINE void begin_16(const float *from, int64_t stride) {
    if (from == nullptr) {
        _tile_zero(0);
        if constexpr (N > 1) _tile_zero(1);
        if constexpr (N > 2) _tile_zero(2);
        if constexpr (N > 3) _tile_zero(3);
        return;
    }
    _tile_loadd(0, from, stride);
    if constexpr (N > 1) _tile_loadd(1, from + 16, stride);
    if constexpr (N > 2) _tile_loadd(2, from + 32, stride);
    if constexpr (N > 3) _tile_loadd(3, from + 48, stride);
}

template <bool kTwo>
INLINE void begin_32(const float *from, int64_t stride) {
    if (from == nullptr) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        return;
    }
    const float *high = from + 4 * stride;  // strides are in bytes: 16 rows of floats
    _tile_loadd(0, from, stride);
    _tile_loadd(2, high, stride);
    if constexpr (kTwo) _tile_loadd(1, from + 16, stride);
    if constexpr (kTwo) _tile_loadd(3, high + 16, stride);
}

// Add a product of 16 rows by N tiles.
template <bool kOnce, int N>
INLINE void add_16(Factors f) {
    for (int64_t k = 0; k < f.depth; ++k, f.left += 32, f.right += N * kTile) {
        _tile_loadd(4, f.left, f.stride);
        LOAD_TILE(kOnce, 5, f.right, 64);
        _tile_dpbf16ps(0, 4, 5);
        if constexpr (N > 1) {
            LOAD_TILE(kOnce, 6, f.right + kTile, 64);
            _tile_dpbf16ps(1, 4, 6);
        }
        if constexpr (N > 2) {
            LOAD_TILE(kOnce, 7, f.right + 2 * kTile, 64);
            _tile_dpbf16ps(2, 4, 7);
        }
        if constexpr (N > 3) {
            LOAD_TILE(kOnce, 5, f.right + 3 * kTile, 64);
            _tile_dpbf16ps(3, 4, 5);
        }
    }
}

// The same for 32 rows and two tiles of N, or the last one alone; f.right is the first of the two.
template <bool kOnce, bool kTwo>
INLINE void add_32(Factors f, int64_t N) {
    const Half *high = f.left + 8 * f.stride;  // 16 rows of halves
    for (int64_t k = 0; k < f.depth; ++k, f.left += 32, high += 32, f.right += N * kTile) {
        _tile_loadd(4, f.left, f.stride);
        LOAD_TILE(kOnce, 6, f.right, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, high, f.stride);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (kTwo) {
            LOAD_TILE(kOnce, 7, f.right + kTile, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
}

template <bool kOnce, int N>
INLINE void multiply_16(const float *from, int64_t from_stride, Factors a, Factors b, float *sums, int64_t stride) {
    begin_16<N>(from, from_stride);
    add_16<kOnce, N>(a);
    add_16<kOnce, N>(b);
    _tile_stored(0, sums, stride);
    if constexpr (N > 1) _tile_stored(1, sums + 16, stride);
    if constexpr (N > 2) _tile_stored(2, sums + 32, stride);
    if constexpr (N > 3) _tile_stored(3, sums + 48, stride);
}

template <bool kOnce, bool kTwo>
INLINE void multiply_32(const float *from, int64_t from_stride, Factors a, Factors b, int64_t tile, int64_t N,
                        float *sums, int64_t stride) {
    begin_32<kTwo>(from != nullptr ? from + 16 * tile : nullptr, from_stride);
    a.right += tile * kTile;
    b.right += tile * kTile;
    add_32<kOnce, kTwo>(a, N);
    add_32<kOnce, kTwo>(b, N);
    float *low = sums + 16 * tile, *high = low + 4 * stride;
    _tile_stored(0, low, stride);
    _tile_stored(2, high, stride);
    if constexpr (kTwo) _tile_stored(1, low + 16, stride);
    if constexpr (kTwo) _tile_stored(3, high + 16, stride);
}

// sums (rows by N tiles, N at most 4) = from + products a and b (b may have no depth), for any number of rows.
template <bool kOnce>
INLINE void multiply(int64_t rows, int64_t N, const float *from, int64_t from_stride, Factors a, Factors b, float *sums,
                     int64_t stride) {
    for (;;) {
        if (rows > 16) {
            int64_t tile = 0;
            for (; tile + 2 <= N; tile += 2) multiply_32<kOnce, true>(from, from_stride, a, b, tile, N, sums, stride);
            if (tile < N) multiply_32<kOnce, false>(from, from_stride, a, b, tile, N, sums, stride);
        } else {
            switch (N) {
                case 1: multiply_16<kOnce, 1>(from, from_stride, a, b, sums, stride); break;
                case 2: multiply_16<kOnce, 2>(from, from_stride, a, b, sums, stride); break;
                case 3: multiply_16<kOnce, 3>(from, from_stride, a, b, sums, stride); break;
                default: multiply_16<kOnce, 4>(from, from_stride, a, b, sums, stride); break;
            }
        }
        if (rows <= 32) return;
        rows -= 32;
        sums += 8 * stride;
        if (from != nullptr) from += 8 * from_stride;
        a.left += 16 * a.stride;
        b.left += 16 * b.stride;
    }
}

// Ask for some cache lines; an address that is not ours does no harm.
INLINE void fetch_lines(const float *p, int64_t count) {
    for (int64_t k = 0; k < count; ++k) __builtin_prefetch(p + 16 * k);
}

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
    static constexpr int64_t kExtraRows = 32;

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
        if (step_rows < 16) configure_tiles();
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

    // sums: r, z and the input part of n, then the recurrent part of n.
    static void multiply_gru(int64_t rows, const float *from, int64_t from_stride, const float *from_extra,
                             const Factors &input, const Factors &state, float *sums, int64_t sums_stride) {
        for (int64_t r = 0; r < rows; r += 16) {
            if (from != nullptr) {
                const float *at = from + r * from_stride / 4;
                _tile_loadd(0, at, from_stride);
                _tile_loadd(1, at + 16, from_stride);
                _tile_loadd(2, at + 32, from_stride);
                _tile_loadd(3, from_extra, 0);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            for (int64_t k = 0; k < input.depth; ++k) {
                _tile_loadd(4, input.left + r * input.stride / 2 + 32 * k, input.stride);
                _tile_loadd(5, input.right + 3 * k * kTile, 64);
                _tile_dpbf16ps(0, 4, 5);
                _tile_loadd(6, input.right + (3 * k + 1) * kTile, 64);
                _tile_dpbf16ps(1, 4, 6);
                _tile_loadd(7, input.right + (3 * k + 2) * kTile, 64);
                _tile_dpbf16ps(2, 4, 7);
            }
            for (int64_t k = 0; k < state.depth; ++k) {
                _tile_loadd(4, state.left + r * state.stride / 2 + 32 * k, state.stride);
                _tile_loadd(5, state.right + 3 * k * kTile, 64);
                _tile_dpbf16ps(0, 4, 5);
                _tile_loadd(6, state.right + (3 * k + 1) * kTile, 64);
                _tile_dpbf16ps(1, 4, 6);
                _tile_loadd(7, state.right + (3 * k + 2) * kTile, 64);
                _tile_dpbf16ps(3, 4, 7);
            }
            float *to = sums + r * sums_stride / 4;
            _tile_stored(0, to, sums_stride);
            _tile_stored(1, to + 16, sums_stride);
            _tile_stored(2, to + 32, sums_stride);
            _tile_stored(3, to + 48, sums_stride);
        }
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

    // sums += left^T right over the chunk; two by two tiles. The sums lie as (P / 16, columns, 16), so that they are read
    // and written in order: when they are large they come from far away.
    template <bool kOnce>
    __attribute__((noinline)) static void add_outer(const Layout &l, int64_t rows, const Half *left, int64_t columns,
                                                    const Half *right, float *sums) {
        const int64_t depth = rows / 32, tiles = l.P / W, gap = gradient_stride(l);
        for (int64_t v = 0; v < tiles; v += 2) {
            const bool two = v + 1 < tiles;
            float *at = sums + v * columns * W, *other = at + (two ? columns * W : 0);
            for (int64_t i = 0; i < columns; i += 32, at += 32 * W, other += 32 * W) {
                _tile_loadd(0, at, 64);
                _tile_loadd(2, at + 16 * W, 64);
                if (two) _tile_loadd(1, other, 64);
                if (two) _tile_loadd(3, other + 16 * W, 64);
                const Half *low = left + i / 16 * depth * kTile, *high = low + depth * kTile;
                const Half *one = right + v * kTile, *next = one + (two ? kTile : 0);
                for (int64_t k = 0; k < depth; ++k) {
                    if (k < 8) {
                        fetch_lines(at + (32 + 4 * k) * W, 4);
                        fetch_lines(other + (32 + 4 * k) * W, 4);
                    }
                    LOAD_TILE(kOnce, 4, low + k * kTile, 64);
                    _tile_loadd(6, one + k * gap, 64);
                    _tile_dpbf16ps(0, 4, 6);
                    LOAD_TILE(kOnce, 5, high + k * kTile, 64);
                    _tile_dpbf16ps(2, 5, 6);
                    if (two) {
                        _tile_loadd(7, next + k * gap, 64);
                        _tile_dpbf16ps(1, 4, 7);
                        _tile_dpbf16ps(3, 5, 7);
                    }
                }
                _tile_stored(0, at, 64);
                _tile_stored(2, at + 16 * W, 64);
                if (two) _tile_stored(1, other, 64);
                if (two) _tile_stored(3, other + 16 * W, 64);
            }
        }
    }

    static void add_products(const Layout &l, int64_t rows, const Half *left, int64_t columns, const Half *right,
                             float *sums) {
        if (is_large(l)) return add_outer<true>(l, rows, left, columns, right, sums);
        add_outer<false>(l, rows, left, columns, right, sums);
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

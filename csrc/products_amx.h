// The products of a layer in bfloat16 with AMX tiles, sums in float32. Included inside an unnamed namespace.
//
// A tile is 16 rows of 64 bytes. The left factor is read as it lies in memory, 16 rows by 32 numbers; the right one is
// packed with pairs of its rows interleaved, 16 pairs by 16 columns, 1 KB a tile. 32 rows by 2 tiles of columns at a time
// (4 sums, 2 left, 2 right) halve the traffic of weights from the second-level cache against 16 by 4.
// Tiles always have 16 rows: rows past the last one are read and written as garbage, so buffers have kExtraRows more.

constexpr int64_t kTile = 512;  // numbers of a packed tile

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

// A sum of products: left rows times packed tiles, k tiles deep.
struct Factors {
    const Half *left;
    int64_t stride;     // bytes from row to row of the left factor
    const Half *right;  // [k][N] tiles
    int64_t depth;
};

// sums (16 rows by N tiles) = from + products
template <int N>
INLINE void multiply_16(const float *from, int64_t from_stride, const Factors *products, int count, float *sums,
                        int64_t sums_stride) {
    if (from != nullptr) {
        _tile_loadd(0, from, from_stride);
        if constexpr (N > 1) _tile_loadd(1, from + 16, from_stride);
        if constexpr (N > 2) _tile_loadd(2, from + 32, from_stride);
        if constexpr (N > 3) _tile_loadd(3, from + 48, from_stride);
    } else {
        _tile_zero(0);
        if constexpr (N > 1) _tile_zero(1);
        if constexpr (N > 2) _tile_zero(2);
        if constexpr (N > 3) _tile_zero(3);
    }
    for (int p = 0; p < count; ++p) {
        const Half *right = products[p].right;
        for (int64_t k = 0; k < products[p].depth; ++k, right += N * kTile) {
            _tile_loadd(4, products[p].left + 32 * k, products[p].stride);
            _tile_loadd(5, right, 64);
            _tile_dpbf16ps(0, 4, 5);
            if constexpr (N > 1) {
                _tile_loadd(6, right + kTile, 64);
                _tile_dpbf16ps(1, 4, 6);
            }
            if constexpr (N > 2) {
                _tile_loadd(7, right + 2 * kTile, 64);
                _tile_dpbf16ps(2, 4, 7);
            }
            if constexpr (N > 3) {
                _tile_loadd(5, right + 3 * kTile, 64);
                _tile_dpbf16ps(3, 4, 5);
            }
        }
    }
    _tile_stored(0, sums, sums_stride);
    if constexpr (N > 1) _tile_stored(1, sums + 16, sums_stride);
    if constexpr (N > 2) _tile_stored(2, sums + 32, sums_stride);
    if constexpr (N > 3) _tile_stored(3, sums + 48, sums_stride);
}

// The same for 32 rows and two tiles of columns, the first of which is number `tile` of N; the last may be alone.
template <bool kTwo>
INLINE void multiply_32(const float *from, int64_t from_stride, const Factors *products, int count, int64_t tile,
                        int64_t N, float *sums, int64_t sums_stride) {
    float *low = sums + 16 * tile, *high = low + 4 * sums_stride;  // strides are in bytes: 16 rows of floats
    if (from != nullptr) {
        const float *from_low = from + 16 * tile, *from_high = from_low + 4 * from_stride;
        _tile_loadd(0, from_low, from_stride);
        _tile_loadd(2, from_high, from_stride);
        if constexpr (kTwo) _tile_loadd(1, from_low + 16, from_stride);
        if constexpr (kTwo) _tile_loadd(3, from_high + 16, from_stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int p = 0; p < count; ++p) {
        const Half *right = products[p].right + tile * kTile;
        const Half *left = products[p].left, *left_high = left + 8 * products[p].stride;  // 16 rows of halves
        for (int64_t k = 0; k < products[p].depth; ++k, right += N * kTile) {
            _tile_loadd(4, left + 32 * k, products[p].stride);
            _tile_loadd(6, right, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, left_high + 32 * k, products[p].stride);
            _tile_dpbf16ps(2, 5, 6);
            if constexpr (kTwo) {
                _tile_loadd(7, right + kTile, 64);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    _tile_stored(0, low, sums_stride);
    _tile_stored(2, high, sums_stride);
    if constexpr (kTwo) _tile_stored(1, low + 16, sums_stride);
    if constexpr (kTwo) _tile_stored(3, high + 16, sums_stride);
}

// sums (rows by N tiles, N at most 4) = from + products, for any number of rows.
INLINE void multiply(int64_t rows, int64_t N, const float *from, int64_t from_stride, const Factors *products, int count,
                     float *sums, int64_t sums_stride) {
    Factors at[2] = {products[0], products[count - 1]};
    for (int64_t r = 0; r < rows;) {
        if (rows - r > 16) {
            int64_t tile = 0;
            for (; tile + 2 <= N; tile += 2) {
                multiply_32<true>(from, from_stride, at, count, tile, N, sums, sums_stride);
            }
            if (tile < N) multiply_32<false>(from, from_stride, at, count, tile, N, sums, sums_stride);
        } else {
            switch (N) {
                case 1: multiply_16<1>(from, from_stride, at, count, sums, sums_stride); break;
                case 2: multiply_16<2>(from, from_stride, at, count, sums, sums_stride); break;
                case 3: multiply_16<3>(from, from_stride, at, count, sums, sums_stride); break;
                default: multiply_16<4>(from, from_stride, at, count, sums, sums_stride); break;
            }
        }
        const int64_t done = rows - r > 16 ? 32 : 16;
        r += done;
        sums += done * sums_stride / 4;
        if (from != nullptr) from += done * from_stride / 4;
        for (Factors &f : at) f.left += done * f.stride / 2;
    }
}

inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

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

// Transpose 32 rows by 8 columns of halves: to[column][row], 64 bytes each.
INLINE void transpose_32x8(const Half *from, int64_t stride, Half *to, int64_t to_stride) {
    __m512i rows[8], other[8];
    for (int j = 0; j < 8; ++j) {  // four rows, 8 apart, in the four lanes
        const auto lane = [&](int l) {
            return _mm_loadu_si128(reinterpret_cast<const __m128i *>(from + (8 * l + j) * stride));
        };
        __m512i row = _mm512_castsi128_si512(lane(0));
        row = _mm512_mask_broadcast_i32x4(row, 0x00f0, lane(1));
        row = _mm512_mask_broadcast_i32x4(row, 0x0f00, lane(2));
        rows[j] = _mm512_mask_broadcast_i32x4(row, 0xf000, lane(3));
    }
    for (int j = 0; j < 4; ++j) {  // rows j and j + 4 interleaved, and so on: a perfect shuffle each time
        other[2 * j] = _mm512_unpacklo_epi16(rows[j], rows[j + 4]);
        other[2 * j + 1] = _mm512_unpackhi_epi16(rows[j], rows[j + 4]);
    }
    for (int j = 0; j < 4; ++j) {
        rows[2 * j] = _mm512_unpacklo_epi16(other[j], other[j + 4]);
        rows[2 * j + 1] = _mm512_unpackhi_epi16(other[j], other[j + 4]);
    }
    for (int j = 0; j < 4; ++j) {
        other[2 * j] = _mm512_unpacklo_epi16(rows[j], rows[j + 4]);
        other[2 * j + 1] = _mm512_unpackhi_epi16(rows[j], rows[j + 4]);
    }
    for (int j = 0; j < 8; ++j) _mm512_storeu_si512(to + j * to_stride, other[j]);
}

// Interleave two rows of 32 columns: the pair's rows of two packed tiles.
INLINE void interleave(__m512i a, __m512i b, Half *first, Half *second) {
    alignas(64) static constexpr uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_load_si512(kLow), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    _mm512_storeu_si512(first, _mm512_permutex2var_epi16(a, low, b));
    _mm512_storeu_si512(second, _mm512_permutex2var_epi16(a, high, b));
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
    static constexpr int64_t kExtraRows = 32;

    static void plan(Layout &l) {
        l.Ik = round_up(l.I, 32);
        l.Hk = round_up(l.H, 32);
        l.Pk = round_up(l.P, 32);
        l.stored_bytes = 2;
        l.sums_by_input = 1;
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
            multiply(rows, tiles, w.bias + v * W, 0, &factors, 1, sums + v * W, 4 * l.C);
        }
        for (int64_t r = 0; r < rows; ++r) {
            for (int64_t u = l.P; u < l.C; u += W) store(sums + r * l.C + u, load(w.bias + u));
        }
    }

    // One panel of the sums of a step: bias + x w_ih + h w_hh, or h w_hh alone if x is null.
    static void step_product(const Layout &l, const Direction &w, int64_t rows, int64_t v, int64_t tiles, const Half *x,
                             const Half *h, float *sums, int64_t sums_stride) {
        const int64_t input_depth = l.Ik / 32, state_depth = l.Hk / 32;
        const Factors factors[2] = {
            {x, 2 * l.Ik, static_cast<const Half *>(w.w_ih) + v * input_depth * kTile, x != nullptr ? input_depth : 0},
            {h, 2 * l.Hk, static_cast<const Half *>(w.w_hh) + v * state_depth * kTile, state_depth}};
        const float *from = x != nullptr ? w.bias : nullptr;
        if (l.cell == BILSTM_GRU) {
            multiply_gru(rows, from != nullptr ? from + v * W : nullptr, w.bias + l.P + v / 3 * W, factors, sums,
                         sums_stride);
        } else if (from != nullptr) {
            multiply(rows, tiles, from + v * W, 0, factors, 2, sums, sums_stride);
        } else {
            multiply(rows, tiles, nullptr, 0, factors + 1, 1, sums, sums_stride);
        }
    }

    // sums: r, z and the input part of n, then the recurrent part of n.
    static void multiply_gru(int64_t rows, const float *from, const float *from_extra, const Factors *factors,
                             float *sums, int64_t sums_stride) {
        for (int64_t r = 0; r < rows; r += 16) {
            if (from != nullptr) {
                _tile_loadd(0, from, 0);
                _tile_loadd(1, from + 16, 0);
                _tile_loadd(2, from + 32, 0);
                _tile_loadd(3, from_extra, 0);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            for (int64_t k = 0; k < factors[0].depth; ++k) {
                _tile_loadd(4, factors[0].left + r * factors[0].stride / 2 + 32 * k, factors[0].stride);
                _tile_loadd(5, factors[0].right + 3 * k * kTile, 64);
                _tile_dpbf16ps(0, 4, 5);
                _tile_loadd(6, factors[0].right + (3 * k + 1) * kTile, 64);
                _tile_dpbf16ps(1, 4, 6);
                _tile_loadd(7, factors[0].right + (3 * k + 2) * kTile, 64);
                _tile_dpbf16ps(2, 4, 7);
            }
            for (int64_t k = 0; k < factors[1].depth; ++k) {
                _tile_loadd(4, factors[1].left + r * factors[1].stride / 2 + 32 * k, factors[1].stride);
                _tile_loadd(5, factors[1].right + 3 * k * kTile, 64);
                _tile_dpbf16ps(0, 4, 5);
                _tile_loadd(6, factors[1].right + (3 * k + 1) * kTile, 64);
                _tile_dpbf16ps(1, 4, 6);
                _tile_loadd(7, factors[1].right + (3 * k + 2) * kTile, 64);
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
        backward_product(l, rows, d_sums, static_cast<const Half *>(w.w_hh_back), l.Hp, dh);
    }

    // dx = d_sums w_ih, rows of Ik
    static void input_gradient(const Layout &l, const Direction &w, int64_t rows, const Half *d_sums, float *dx) {
        backward_product(l, rows, d_sums, static_cast<const Half *>(w.w_ih_back), l.Ik, dx);
    }

    static void backward_product(const Layout &l, int64_t rows, const Half *d_sums, const Half *right, int64_t columns,
                                 float *to) {
        const int64_t depth = l.Pk / 32;
        for (int64_t v = 0; v < columns / W; v += 4) {
            const int64_t tiles = columns / W - v < 4 ? columns / W - v : 4;
            const Factors factors{d_sums, 2 * l.Pk, right + v * depth * kTile, depth};
            multiply(rows, tiles, nullptr, 0, &factors, 1, to + v * W, 4 * columns);
        }
    }

    // Memory for one chunk: the right factor (gate gradients, packed) and the left one (input and state, transposed).
    static size_t weight_gradient_scratch(const Layout &l, int64_t rows) {
        const int64_t k = round_up(rows, 32) + 32;
        return static_cast<size_t>(2 * k * (l.Ik + l.Hk) + 2 * (k / 32) * gradient_stride(l));
    }

    // Numbers from one k to the next of packed gate gradients: one tile more than there are, for a power of two between
    // them would put all into the same sets of the cache.
    static int64_t gradient_stride(const Layout &l) { return (l.Pk / 16 + 1) * kTile; }

    // Pack rows of gate gradients as [k][tile of columns][16 pairs][16 columns][2], and add them up for the bias.
    __attribute__((noinline)) static void pack_gradients(const Layout &l, int64_t rows, const Half *d_sums, Half *to, float *bias) {
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

    static void transpose(int64_t rows, const Half *from, int64_t columns, Half *to) {
        for (int64_t k = 0; k < rows; k += 32) {
            for (int64_t c = 0; c < columns; c += 8) {
                transpose_32x8(from + k * columns + c, columns, to + c * rows + k, rows);
            }
        }
    }

    // sums (columns of left, P) += left^T right over the chunk; two by two tiles.
    __attribute__((noinline)) static void add_outer(const Layout &l, int64_t rows, const Half *left, int64_t columns, const Half *right,
                          float *sums) {
        const int64_t depth = rows / 32, stride = 4 * l.P;
        for (int64_t i = 0; i < columns; i += 32) {
            for (int64_t v = 0; v < l.P / W; v += 2) {
                const bool two = v + 1 < l.P / W;
                float *at = sums + i * l.P + v * W;
                const int64_t other = two ? 16 : 0;
                _tile_loadd(0, at, stride);
                _tile_loadd(2, at + 16 * l.P, stride);
                if (two) _tile_loadd(1, at + 16, stride);
                if (two) _tile_loadd(3, at + 16 * l.P + 16, stride);
                const Half *low = left + i * rows, *high = low + 16 * rows;
                const Half *one = right + v * kTile, *next = one + (two ? kTile : 0);
                for (int64_t k = 0; k < depth; ++k) {
                    _tile_loadd(4, low + 32 * k, 2 * rows);
                    _tile_loadd(6, one + k * gradient_stride(l), 64);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_loadd(5, high + 32 * k, 2 * rows);
                    _tile_dpbf16ps(2, 5, 6);
                    if (two) {
                        _tile_loadd(7, next + k * gradient_stride(l), 64);
                        _tile_dpbf16ps(1, 4, 7);
                        _tile_dpbf16ps(3, 5, 7);
                    }
                }
                _tile_stored(0, at, stride);
                _tile_stored(2, at + 16 * l.P, stride);
                if (two) _tile_stored(1, at + other, stride);
                if (two) _tile_stored(3, at + 16 * l.P + other, stride);
            }
        }
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
        add_outer(l, rows, left, l.Ik, right, sums.w_ih);
        if (d_sums_h != d_sums) pack_gradients(l, rows, d_sums_h, right, sums.b_hh);
        transpose(rows, h_before, l.Hk, left);
        add_outer(l, rows, left, l.Hk, right, sums.w_hh);
    }
};

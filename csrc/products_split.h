// The products of a layer in float32 with AMX tiles. Included inside an unnamed namespace.
//
// A float32 number is the exact sum of three bfloat16 numbers, its parts (the idea: Henry, Tang and Heinecke 2019,
// "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations", ARITH-26): its upper 8
// bits, cut off, so that no finite number becomes infinite; the next 8, rounded, so that what is left has either sign and
// the products left out have no bias; and what is left, 8 bits again. A product of two numbers is then six products of
// parts, summed in float32: high * low, high * middle, middle * middle, middle * high, low * high, and last, when all these
// small ones of 128 numbers are summed up, high * high. The three left out are 2^-23 of the product at most, about 2^-26
// on average.
//
// A row of a left factor holds, for every 32 numbers, 32 high parts, 32 middle and 32 low ones: three rows of a tile. A
// right factor is packed for two tiles of columns at a time: [block of k][pair of tiles][k][low, middle, high][tile].
// 32 rows by 2 tiles (4 sums, 2 left, 2 right) need 16 loads for 24 products.
//
// Tiles have as many rows as there are (configure_tiles): nothing is read or written past the last one. Every element
// sees the same products in the same order, whatever its row and however many rows there are.

constexpr int kParts = 3;

// A number's parts as a left factor. Rows of a factor begin at multiples of 64 bytes; 16 numbers at a time are stored.
struct Factor3 {
    Half parts[kParts];
};

struct Split {
    __m256i high, middle, low;
};

// Infinity has to be alone where it meets the high part of the other factor only: in the low part. (Times the smaller parts
// of the other, which may be zero or of the other sign, it would not be what it is times the whole number.)
INLINE Split split(V v) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000)), half = _mm512_set1_epi32(0x8000);
    const __mmask16 finite = static_cast<__mmask16>(~_mm512_fpclass_ps_mask(v, 0x18));
    const auto bits = [](V x) { return _mm512_castps_si512(x); };
    const __m512i high = _mm512_maskz_and_epi32(finite, bits(v), upper);
    const V rest = v - _mm512_castsi512_ps(high);
    const __m512i middle = _mm512_maskz_and_epi32(finite, _mm512_add_epi32(bits(rest), half), upper);
    const V low = rest - _mm512_castsi512_ps(middle);
    const auto halves = [](__m512i x) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(x, 16)); };
    return {halves(high), halves(middle), halves(bits(low))};
}

INLINE void store(Factor3 *p, V v) {
    char *at = reinterpret_cast<char *>(p);
    // Numbers 16 to 31 of a block of 32 lie behind its first 16 high parts, not 96 bytes behind the block's begin.
    at -= (reinterpret_cast<uintptr_t>(at) & 32) * 2;
    const Split s = split(v);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(at), s.high);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(at + 64), s.middle);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(at + 128), s.low);
}

// The number again, without rounding.
INLINE V load(const Factor3 *p) {
    const char *at = reinterpret_cast<const char *>(p);
    at -= (reinterpret_cast<uintptr_t>(at) & 32) * 2;
    const Half *part = reinterpret_cast<const Half *>(at);
    return (load(part) + load(part + 32)) + load(part + 64);
}

// ---- tiles -----------------------------------------------------------------------------------------------------------

// How many rows the tiles of this thread are set for; 0: none.
thread_local int64_t rows_of_tiles = 0;

// Up to 16 rows: sums 0 to 3, left 4 to 6, right 7. Up to 32: sums 0, 1 and (second 16 rows) 2, 3, left 4 and 5, right 6, 7.
INLINE void configure_tiles(int64_t rows) {
    if (rows == rows_of_tiles) return;
    rows_of_tiles = rows;
    struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {};
    } configuration;
    const uint8_t first = static_cast<uint8_t>(rows < 16 ? rows : 16), second = static_cast<uint8_t>(rows - first);
    const uint8_t few[8] = {first, first, first, first, first, first, first, 16};
    const uint8_t many[8] = {16, 16, second, second, 16, second, 16, 16};
    for (int t = 0; t < 8; ++t) configuration.rows[t] = rows > 16 ? many[t] : few[t];
    asm volatile("" : : "r"(&configuration) : "memory");  // gcc 12 drops the stores above at -O3 otherwise
    _tile_loadconfig(&configuration);
}

INLINE void release_tiles() {
    if (rows_of_tiles == 0) return;
    rows_of_tiles = 0;
    _tile_release();
}

constexpr int64_t kRowsOfTiles = 32;

// Where the sums of two tiles of columns begin.
struct Columns {
    int64_t first, second;
};

// Rows of a left factor, `depth` blocks of 32 numbers of them.
struct Factors {
    const Half *left;
    int64_t stride;  // bytes from row to row
    int64_t depth;
};

struct Sums {
    const float *from;    // null: zero
    int64_t from_stride;  // bytes from row to row
    float *to;
    int64_t to_stride;
};

// Blocks of k, so that what is used again and again stays in the first-level cache: 24 KB of the left factor's rows while
// all columns pass, or of the right factor's columns while all rows do.
constexpr int64_t kBlockOfDepth = 4;
constexpr int64_t kLargeFactor = 64;  // tiles of 32 by 16 numbers: what is larger passes once, the rows again and again

INLINE int64_t block_of_depth(int64_t depth, int64_t k) {
    return depth - k < kBlockOfDepth ? depth - k : kBlockOfDepth;
}

// Where the parts of the pair of tiles v, v + 1 at k begin in a right factor: [block of depth][pair][k][part][tile].
INLINE int64_t packed_at(int64_t depth, int64_t vectors, int64_t v, int64_t k) {
    const int64_t block = k / kBlockOfDepth * kBlockOfDepth, tiles = vectors - v < 2 ? 1 : 2;
    return (block * vectors + v * block_of_depth(depth, block) + (k - block) * tiles) * kParts * kTile;
}

struct Product {
    int64_t rows;
    const Factor3 *left;
    int64_t stride;      // numbers from row to row of the left factor
    const Half *right;
    int64_t depth;       // blocks of 32
    int64_t vectors;     // tiles of columns
    const float *from;   // null: zero; from_stride 0: the same row for all (a bias)
    int64_t from_stride;
    float *to;
    int64_t to_stride;   // floats
};

// 17 to 32 rows by one or two tiles of columns; the second 16 rows are `second` further on.
template <bool kTwo>
INLINE void multiply_many(const Factors &factors, const Half *right, const Sums &sums, Columns at) {
    const float *from = sums.from;
    float *to = sums.to;
    const int64_t from_stride = sums.from_stride, to_stride = sums.to_stride;
    constexpr int64_t kStep = kParts * (kTwo ? 2 : 1) * kTile, kPart = (kTwo ? 2 : 1) * kTile;
    if (from != nullptr) {
        _tile_loadd(0, from + at.first, from_stride);
        _tile_loadd(2, from + 4 * from_stride + at.first, from_stride);
        if constexpr (kTwo) _tile_loadd(1, from + at.second, from_stride);
        if constexpr (kTwo) _tile_loadd(3, from + 4 * from_stride + at.second, from_stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
#define BILSTM_LEFT(part)                          \
    _tile_loadd(4, left + 32 * (part), stride);    \
    _tile_loadd(5, high + 32 * (part), stride)
#define BILSTM_RIGHT(part)                         \
    _tile_loadd(6, right + (part) * kPart, 64);    \
    if constexpr (kTwo) _tile_loadd(7, right + (part) * kPart + kTile, 64)
#define BILSTM_MULTIPLY                            \
    _tile_dpbf16ps(0, 4, 6);                       \
    _tile_dpbf16ps(2, 5, 6);                       \
    if constexpr (kTwo) {                          \
        _tile_dpbf16ps(1, 4, 7);                   \
        _tile_dpbf16ps(3, 5, 7);                   \
    }
    const int64_t stride = factors.stride;
    const Half *left = factors.left, *high = left + 8 * stride;  // 16 rows of halves
    for (int64_t k = 0; k < factors.depth; ++k, left += 32 * kParts, high += 32 * kParts, right += kStep) {
        BILSTM_LEFT(0);
        BILSTM_RIGHT(0);
        BILSTM_MULTIPLY;
        BILSTM_RIGHT(1);
        BILSTM_MULTIPLY;
        BILSTM_LEFT(1);
        BILSTM_MULTIPLY;
        BILSTM_RIGHT(2);
        BILSTM_MULTIPLY;
        BILSTM_LEFT(2);
        BILSTM_MULTIPLY;
    }
    for (int64_t k = 0; k < factors.depth; ++k) {
        left -= 32 * kParts, high -= 32 * kParts, right -= kStep;
        BILSTM_LEFT(0);
        BILSTM_RIGHT(2);
        BILSTM_MULTIPLY;
    }
#undef BILSTM_LEFT
#undef BILSTM_RIGHT
#undef BILSTM_MULTIPLY
    _tile_stored(0, to + at.first, to_stride);
    _tile_stored(2, to + 4 * to_stride + at.first, to_stride);
    if constexpr (kTwo) _tile_stored(1, to + at.second, to_stride);
    if constexpr (kTwo) _tile_stored(3, to + 4 * to_stride + at.second, to_stride);
}

// 1 to 16 rows by one or two pairs of tiles of columns. kTiles 1 or 2: one pair; 3, 4: two, the last of 1 or 2 tiles.
template <int kTiles>
INLINE void multiply_few(const Factors &factors, const Half *right, const Half *other, const Sums &sums, Columns at,
                         Columns next) {
    const float *from = sums.from;
    float *to = sums.to;
    const int64_t from_stride = sums.from_stride, to_stride = sums.to_stride;
    constexpr int64_t kFirst = kTiles > 1 ? 2 : 1, kSecond = kTiles - kFirst;  // tiles of each pair
    if (from != nullptr) {
        _tile_loadd(0, from + at.first, from_stride);
        if constexpr (kTiles > 1) _tile_loadd(1, from + at.second, from_stride);
        if constexpr (kTiles > 2) _tile_loadd(2, from + next.first, from_stride);
        if constexpr (kTiles > 3) _tile_loadd(3, from + next.second, from_stride);
    } else {
        _tile_zero(0);
        if constexpr (kTiles > 1) _tile_zero(1);
        if constexpr (kTiles > 2) _tile_zero(2);
        if constexpr (kTiles > 3) _tile_zero(3);
    }
    const int64_t stride = factors.stride;
    const Half *left = factors.left;
    for (int64_t k = 0; k < factors.depth; ++k, left += 32 * kParts) {
        _tile_loadd(4, left, stride);
        _tile_loadd(5, left + 32, stride);
        _tile_loadd(6, left + 64, stride);
#define BILSTM_COLUMN(sum, at)                         \
    _tile_loadd(7, (at), 64);                          \
    _tile_dpbf16ps(sum, 4, 7)
#define BILSTM_COLUMN_2(sum, at)                       \
    _tile_loadd(7, (at), 64);                          \
    _tile_dpbf16ps(sum, 4, 7);                         \
    _tile_dpbf16ps(sum, 5, 7)
#define BILSTM_COLUMN_3(sum, at)                       \
    _tile_loadd(7, (at), 64);                          \
    _tile_dpbf16ps(sum, 5, 7);                         \
    _tile_dpbf16ps(sum, 6, 7)
#define BILSTM_PART(column, part)                                                                      \
    column(0, right + (part) * kFirst * kTile);                                                        \
    if constexpr (kTiles > 1) {                                                                        \
    column(1, right + (part) * kFirst * kTile + kTile);                                            \
    }                                                                                                  \
    if constexpr (kTiles > 2) {                                                                        \
    column(2, other + (part) * kSecond * kTile);                                                   \
    }                                                                                                  \
    if constexpr (kTiles > 3) {                                                                        \
    column(3, other + (part) * kSecond * kTile + kTile);                                           \
    }
        BILSTM_PART(BILSTM_COLUMN, 0)
        BILSTM_PART(BILSTM_COLUMN_2, 1)
        BILSTM_PART(BILSTM_COLUMN_3, 2)
        right += kParts * kFirst * kTile;
        other += kParts * kSecond * kTile;
    }
    for (int64_t k = 0; k < factors.depth; ++k) {
        left -= 32 * kParts;
        right -= kParts * kFirst * kTile;
        other -= kParts * kSecond * kTile;
        _tile_loadd(4, left, stride);
        BILSTM_PART(BILSTM_COLUMN, 2)
    }
#undef BILSTM_COLUMN
#undef BILSTM_COLUMN_2
#undef BILSTM_COLUMN_3
#undef BILSTM_PART
    _tile_stored(0, to + at.first, to_stride);
    if constexpr (kTiles > 1) _tile_stored(1, to + at.second, to_stride);
    if constexpr (kTiles > 2) _tile_stored(2, to + next.first, to_stride);
    if constexpr (kTiles > 3) _tile_stored(3, to + next.second, to_stride);
}

// Where tile v of columns begins in a row of sums.
struct Contiguous {
    INLINE int64_t operator()(int64_t v) const { return v * W; }
};

// The recurrent sums of the GRU: gates r and z in place, gate n in the extra part.
struct GruRecurrent {
    int64_t P;
    INLINE int64_t operator()(int64_t v) const {
        const int64_t block = v / 3, gate = v % 3;
        return gate < 2 ? v * W : P + block * W;
    }
};

// Some rows, as many as the tiles are set for, by columns first .. end, for the block of the depth that begins at k.
template <class Column>
INLINE void multiply_block(const Product &p, int64_t r, int64_t count, int64_t first, int64_t end, int64_t k,
                           Column column) {
    float *to = p.to + r * p.to_stride;
    const float *from = k > 0 ? to : p.from != nullptr ? p.from + r * p.from_stride : nullptr;
    const Sums sums{from, 4 * (k > 0 ? p.to_stride : p.from_stride), to, 4 * p.to_stride};
    const Factors factors{p.left[r * p.stride + 32 * k].parts, p.stride * static_cast<int64_t>(sizeof(Factor3)),
                          block_of_depth(p.depth, k)};
    const auto right = [&](int64_t v) { return p.right + packed_at(p.depth, p.vectors, v, k); };
    const auto columns = [&](int64_t v) { return Columns{column(v), v + 1 < p.vectors ? column(v + 1) : 0}; };
    if (count > 16) {
        for (int64_t v = first; v < end; v += 2) {
            v + 2 <= end ? multiply_many<true>(factors, right(v), sums, columns(v))
                         : multiply_many<false>(factors, right(v), sums, columns(v));
        }
        return;
    }
    for (int64_t v = first; v < end; v += 4) {
        const Half *one = right(v), *other = right(v + 2);
        const Columns at = columns(v), next = v + 2 < end ? columns(v + 2) : Columns{};
        switch (end - v) {
            case 1: multiply_few<1>(factors, one, other, sums, at, next); break;
            case 2: multiply_few<2>(factors, one, other, sums, at, next); break;
            case 3: multiply_few<3>(factors, one, other, sums, at, next); break;
            default: multiply_few<4>(factors, one, other, sums, at, next); break;
        }
    }
}

// The rows from r on, as many as the tiles are set for, by all columns.
template <class Column>
INLINE void multiply_rows(const Product &p, int64_t r, int64_t count, Column column) {
    for (int64_t k = 0; k < p.depth; k += kBlockOfDepth) multiply_block(p, r, count, 0, p.vectors, k, column);
}

// to = from + left right, for any number of rows.
template <class Column>
__attribute__((noinline)) void multiply(const Product &p, Column column) {
    const int64_t whole = p.rows / kRowsOfTiles * kRowsOfTiles, rest = p.rows - whole;
    if (whole > 0) configure_tiles(kRowsOfTiles);
    if (whole > kRowsOfTiles && p.depth * p.vectors > kLargeFactor) {
        for (int64_t k = 0; k < p.depth; k += kBlockOfDepth) {
            for (int64_t v = 0; v < p.vectors; v += 2) {
                const int64_t end = v + 2 < p.vectors ? v + 2 : p.vectors;
                for (int64_t r = 0; r < whole; r += kRowsOfTiles) {
                    multiply_block(p, r, kRowsOfTiles, v, end, k, column);
                }
            }
        }
    } else {
        for (int64_t r = 0; r < whole; r += kRowsOfTiles) multiply_rows(p, r, kRowsOfTiles, column);
    }
    if (rest == 0) return;
    configure_tiles(rest);
    multiply_rows(p, whole, rest, column);
}

// ---- packing ---------------------------------------------------------------------------------------------------------

// Numbers of a right factor of K rows and `vectors` tiles of columns.
inline int64_t packed_elements(int64_t K, int64_t vectors) { return round_up(K, 32) / 32 * vectors * kParts * kTile; }

// The parts of 32 numbers of a row (null: zeros), from number `first` of `count` on; low ones first.
INLINE void parts_of(const float *row, int64_t first, int64_t count, __m512i *parts) {
    for (int part = 0; part < kParts; ++part) parts[part] = _mm512_setzero_si512();
    if (row == nullptr || first >= count) return;
    const int64_t left = count - first;
    const uint32_t mask = left >= 32 ? 0xffffffffu : (1u << left) - 1;
    const float *at = row + first;
    const Split low = split(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), at));
    const Split high = split(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), at + 16));
    const auto join = [](__m256i a, __m256i b) { return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1); };
    parts[0] = join(low.low, high.low);
    parts[1] = join(low.middle, high.middle);
    parts[2] = join(low.high, high.high);
}

// Pack the transpose of a matrix whose rows are `source(column)`, K long.
template <class Source>
void pack_columns(Half *to, int64_t K, int64_t vectors, Source source) {
    for (int64_t v = 0; v < vectors; v += 2) {
        const int64_t tiles = vectors - v < 2 ? 1 : 2;
        for (int64_t k = 0; k < K; k += 32) {
            Half *block = to + packed_at(round_up(K, 32) / 32, vectors, v, k / 32);
            for (int64_t tile = 0; tile < tiles; ++tile) {
                alignas(64) uint32_t pairs[kParts][16][16];
                for (int column = 0; column < 16; ++column) {
                    __m512i parts[kParts];
                    parts_of(source((v + tile) * 16 + column), k, K, parts);
                    for (int part = 0; part < kParts; ++part) _mm512_store_si512(pairs[part][column], parts[part]);
                }
                for (int part = 0; part < kParts; ++part) {
                    uint32_t *at = reinterpret_cast<uint32_t *>(block + (part * tiles + tile) * kTile);
                    for (int pair = 0; pair < 16; ++pair) {
                        for (int column = 0; column < 16; ++column) at[pair * 16 + column] = pairs[part][column][pair];
                    }
                }
            }
        }
    }
}

// Pack a matrix whose K rows are `source(k)`, `columns` long.
template <class Source>
void pack_rows(Half *to, int64_t K, int64_t columns, int64_t vectors, Source source) {
    for (int64_t v = 0; v < vectors; v += 2) {
        const int64_t tiles = vectors - v < 2 ? 1 : 2;
        for (int64_t k = 0; k < round_up(K, 32); k += 2) {
            Half *block = to + packed_at(round_up(K, 32) / 32, vectors, v, k / 32);
            __m512i even[kParts], odd[kParts];
            parts_of(k < K ? source(k) : nullptr, 16 * v, columns, even);
            parts_of(k + 1 < K ? source(k + 1) : nullptr, 16 * v, columns, odd);
            for (int part = 0; part < kParts; ++part) {
                Half *first = block + part * tiles * kTile + k % 32 * 16;
                interleave(even[part], odd[part], first, tiles > 1 ? first + kTile : nullptr);
            }
        }
    }
}

struct Products {
    using Stored = float;
    using Factor = Factor3;
    static constexpr bool kInputFirst = true;
    static constexpr bool kPadded = true;       // rows of factors are longer than what is stored there
    static constexpr int64_t kExtraRows = 32;

    static void plan(Layout &l) {
        l.Ik = round_up(l.I, 32);
        l.Hk = round_up(l.H, 32);
        l.Pk = round_up(l.P, 32);
        l.stored_bytes = 4;
        l.sums_by_input = 1;
    }

    // Torch's row of weights for element p of a row of sums, or -1 for padding.
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
        pack_columns(at, l.I, l.P / W, input_row);
        at += packed_elements(l.I, l.P / W);
        to.w_hh = at;
        pack_columns(at, l.H, l.P / W, state_row);
        to.bias = reinterpret_cast<float *>(at + packed_elements(l.H, l.P / W));
        pack_bias(l, call, d, to.bias);
    }

    // A whole row of the factor, its padding zero.
    static void convert_row(const float *row, Factor3 *to, int64_t count) {
        for (int64_t i = 0; i < round_up(count, 32); i += W) {
            const int64_t left = count - i;
            const uint32_t mask = left >= W ? 0xffffu : left > 0 ? (1u << left) - 1 : 0;
            store(to + i, _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), row + i));
        }
    }

    // sums = bias + x w_ih for whole rows, the extra part of the GRU included.
    static void input_product(const Layout &l, const Direction &w, int64_t rows, const Factor3 *x, float *sums) {
        multiply({rows, x, l.Ik, static_cast<const Half *>(w.w_ih), l.Ik / 32, l.P / W, w.bias, 0, sums, l.C},
                 Contiguous{});
        for (int64_t r = 0; r < rows; ++r) {
            for (int64_t u = l.P; u < l.C; u += W) store(sums + r * l.C + u, load(w.bias + u));
        }
    }

    // sums += h w_hh
    static void recurrent_product(const Layout &l, const Direction &w, int64_t rows, const Factor3 *h, float *sums,
                                  bool) {
        const Product p{rows, h, l.Hk, static_cast<const Half *>(w.w_hh), l.Hk / 32, l.P / W, sums, l.C, sums, l.C};
        l.cell == BILSTM_GRU ? multiply(p, GruRecurrent{l.P}) : multiply(p, Contiguous{});
    }

    // dh = d_sums w_hh, rows of Hp
    static void state_gradient(const Layout &l, const Direction &w, int64_t rows, const Factor3 *d_sums, float *dh) {
        multiply({rows, d_sums, l.Pk, static_cast<const Half *>(w.w_hh_back), l.Pk / 32, l.Hp / W, nullptr, 0, dh, l.Hp},
                 Contiguous{});
    }

    // dx = d_sums w_ih, rows of Ik
    static void input_gradient(const Layout &l, const Direction &w, int64_t rows, const Factor3 *d_sums, float *dx) {
        multiply({rows, d_sums, l.Pk, static_cast<const Half *>(w.w_ih_back), l.Pk / 32, l.Ik / W, nullptr, 0, dx, l.Ik},
                 Contiguous{});
    }

    // Memory for one chunk: gate gradients packed as right factor, input or state transposed, sums of 32 rows.
    static size_t weight_gradient_scratch(const Layout &l, int64_t rows) {
        const int64_t k = round_up(rows, 32);
        return static_cast<size_t>(2 * packed_elements(k, l.Pk / W) + 4 * kRowsOfTiles * (l.P > 2 * W ? l.P : 2 * W)) +
               static_cast<size_t>(k * (l.Ik > l.Hk ? l.Ik : l.Hk)) * sizeof(Factor3);
    }

    // Pack rows of gate gradients, and add them up for the bias: 32 rows at a time, so that errors grow with the number of
    // such blocks and not with that of the steps.
    __attribute__((noinline)) static void pack_gradients(const Layout &l, int64_t rows, const Factor3 *d_sums, Half *to, float *bias) {
        const int64_t depth = rows / 32;
        for (int64_t p = 0; p < l.P; p += 32) {
            const int64_t tiles = l.P - p < 32 ? 1 : 2;
            V low = load(bias + p), high = tiles > 1 ? load(bias + p + W) : V{};
            for (int64_t k = 0; k < depth; ++k) {
                Half *block = to + packed_at(depth, l.P / W, p / W, k);
                V more_low{}, more_high{};
                for (int64_t n = 0; n < 32; n += 2) {
                    const Factor3 *even = d_sums + (32 * k + n) * l.Pk + p, *odd = even + l.Pk;
                    more_low = more_low + load(even) + load(odd);
                    more_high = more_high + load(even + W) + load(odd + W);
                    for (int part = 0; part < kParts; ++part) {  // low parts first
                        const int64_t at = 32 * (kParts - 1 - part);
                        Half *first = block + part * tiles * kTile + n * 16;
                        interleave(_mm512_loadu_si512(even->parts + at), _mm512_loadu_si512(odd->parts + at), first,
                                   tiles > 1 ? first + kTile : nullptr);
                    }
                }
                low = low + more_low;
                high = high + more_high;
            }
            store(bias + p, low);
            if (tiles > 1) store(bias + p + W, high);
        }
    }

    // Row c of `to`: the numbers of column c, in the form of a left factor.
    __attribute__((noinline)) static void transpose(int64_t rows, const Factor3 *from, int64_t columns, Factor3 *to) {
        for (int64_t k = 0; k < rows; k += 32) {
            for (int64_t c = 0; c < columns; c += 32) {
                const Half *block = from[k * columns + c].parts;
                Half *other = to[c * rows + k].parts;
                for (int64_t part = 0; part < kParts; ++part) {
                    for (int64_t j = 0; j < 32; j += 8) {
                        transpose_32x8(block + 32 * part + j, kParts * columns, other + 32 * part + j * kParts * rows,
                                       kParts * rows);
                    }
                }
            }
        }
    }

    // sums (columns of left, P) += left right over the chunk. What is added to the sums is summed up from zero, so that
    // errors grow with the length of a chunk and not with the number of steps.
    static void add_outer(const Layout &l, int64_t rows, const Factor3 *left, int64_t columns, const Half *right,
                          float *scratch, float *sums) {
        const int64_t vectors = l.P / W, depth = rows / 32;
        if (depth * vectors <= 4 * kLargeFactor) {
            for (int64_t c = 0; c < columns; c += kRowsOfTiles, sums += kRowsOfTiles * l.P) {
                multiply({kRowsOfTiles, left + c * rows, rows, right, depth, vectors, nullptr, 0, scratch, l.P},
                         Contiguous{});
                for (int64_t k = 0; k < kRowsOfTiles * l.P; k += W) store(sums + k, load(sums + k) + load(scratch + k));
            }
            return;
        }
        configure_tiles(kRowsOfTiles);
        for (int64_t v = 0; v < vectors; v += 2) {
            const int64_t end = v + 2 < vectors ? v + 2 : vectors;
            for (int64_t c = 0; c < columns; c += kRowsOfTiles) {
                const Product p{kRowsOfTiles, left + c * rows, rows, right, depth, vectors, nullptr, 0, scratch, 2 * W};
                for (int64_t k = 0; k < depth; k += kBlockOfDepth) {
                    multiply_block(p, 0, kRowsOfTiles, v, end, k, [](int64_t tile) { return tile % 2 * W; });
                }
                for (int64_t r = 0; r < kRowsOfTiles; ++r) {
                    float *at = sums + (c + r) * l.P + v * W;
                    const float *more = scratch + r * 2 * W;
                    store(at, load(at) + load(more));
                    if (end - v > 1) store(at + W, load(at + W) + load(more + W));
                }
            }
        }
    }

    // Add the products of a chunk of rows to the sums of weight gradients. The rows behind the last one, up to a whole
    // tile, are set to zero: here they are summed over.
    static void weight_gradient(const Layout &l, int64_t count, Factor3 *d_sums, Factor3 *d_sums_h, Factor3 *x,
                                Factor3 *h_before, const WeightSums &sums, char *memory) {
        const int64_t rows = round_up(count, 32);
        const auto clear = [&](Factor3 *array, int64_t row) {
            __builtin_memset(array + count * row, 0, static_cast<size_t>((rows - count) * row) * sizeof(Factor3));
        };
        clear(d_sums, l.Pk);
        if (d_sums_h != d_sums) clear(d_sums_h, l.Pk);
        clear(x, l.Ik);
        clear(h_before, l.Hk);
        Half *right = reinterpret_cast<Half *>(memory);
        float *scratch = reinterpret_cast<float *>(right + packed_elements(rows, l.Pk / W));
        Factor3 *left = reinterpret_cast<Factor3 *>(scratch + kRowsOfTiles * (l.P > 2 * W ? l.P : 2 * W));
        pack_gradients(l, rows, d_sums, right, sums.b_ih);
        transpose(rows, x, l.Ik, left);
        add_outer(l, rows, left, l.Ik, right, scratch, sums.w_ih);
        if (d_sums_h != d_sums) pack_gradients(l, rows, d_sums_h, right, sums.b_hh);
        transpose(rows, h_before, l.Hk, left);
        add_outer(l, rows, left, l.Hk, right, scratch, sums.w_hh);
    }
};

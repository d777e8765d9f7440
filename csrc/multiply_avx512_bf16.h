// Products of packed bfloat16 tiles with AVX512-BF16, whose instruction multiplies pairs of numbers (bfloat16_factors.h says
// what these functions must do). Included inside an unnamed namespace.
//
// A row of a packed tile, a pair of its rows interleaved, is one vector; a pair of the left factor is broadcast. Every sum
// is one chain over ascending pairs, whatever the block it falls into: its bits do not depend on the number of rows.

constexpr int64_t kRowsOfShard = 36;
constexpr int64_t kRowsOfBlock = 6;  // by four vectors: 24 sums and 4 right of 32 registers

// There are no tiles to set up.
INLINE void configure_tiles(int64_t) {}
INLINE void release_tiles() {}

INLINE __m512bh pair_at(const Half *left) {
    int32_t pair;
    __builtin_memcpy(&pair, left, sizeof pair);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

INLINE __m512bh pairs_at(const Half *right) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(right)); }

// sums[m][to(j)] += M rows by N tiles; rows of the left factor lie `row_gap` numbers apart, steps of the depth
// `left_gap` and `right_gap`.
template <int M, int N, class To>
INLINE void add_pairs(int64_t depth, const Half *left, int64_t row_gap, int64_t left_gap, const Half *right,
                      int64_t right_gap, V (*sums)[4], To to) {
    for (int64_t k = 0; k < depth; ++k, left += left_gap, right += right_gap) {
        for (int pair = 0; pair < 16; ++pair) {
            __m512bh columns[N];
#pragma GCC unroll 4
            for (int j = 0; j < N; ++j) columns[j] = pairs_at(right + j * kTile + 32 * pair);
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) {
                const __m512bh x = pair_at(left + m * row_gap + 2 * pair);
#pragma GCC unroll 4
                for (int j = 0; j < N; ++j) sums[m][to(j)] = _mm512_dpbf16_ps(sums[m][to(j)], x, columns[j]);
            }
        }
    }
}

template <int M, int N, class To>
INLINE void add_block(V (*sums)[4], const Factors &f, int64_t first_row, To to) {
    const int64_t row_gap = f.stride / 2;
    add_pairs<M, N>(f.depth, f.left + first_row * row_gap, row_gap, 32, f.right, N * kTile, sums, to);
}

// Call `block` with the number of rows (at most kRowsOfBlock, as a constant) and the first one, for nearly equal blocks.
template <class Block>
INLINE void for_blocks(int64_t rows, Block block) {
    for (int64_t r = 0; r < rows;) {
        const int64_t left = rows - r, blocks = (left + kRowsOfBlock - 1) / kRowsOfBlock, count = (left + blocks - 1) / blocks;
        switch (count) {
            case 1: block(std::integral_constant<int, 1>{}, r); break;
            case 2: block(std::integral_constant<int, 2>{}, r); break;
            case 3: block(std::integral_constant<int, 3>{}, r); break;
            case 4: block(std::integral_constant<int, 4>{}, r); break;
            case 5: block(std::integral_constant<int, 5>{}, r); break;
            default: block(std::integral_constant<int, 6>{}, r); break;
        }
        r += count;
    }
}

template <int M, int N>
INLINE void begin_block(V (*sums)[4], const float *from, int64_t stride) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) sums[m][j] = from != nullptr ? load(from + m * stride / 4 + j * W) : V{};
    }
}

template <int M, int N>
INLINE void end_block(const V (*sums)[4], float *to, int64_t stride) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) store(to + m * stride / 4 + j * W, sums[m][j]);
    }
}

template <int N>
INLINE void multiply_columns(int64_t rows, const float *from, int64_t from_stride, const Factors &a, const Factors &b,
                             float *sums, int64_t stride) {
    const auto as_it_is = [](int j) { return j; };
    for_blocks(rows, [&](auto count, int64_t r) __attribute__((always_inline)) {
        constexpr int M = decltype(count)::value;
        V block[M][4];
        begin_block<M, N>(block, from != nullptr ? from + r * from_stride / 4 : nullptr, from_stride);
        add_block<M, N>(block, a, r, as_it_is);
        add_block<M, N>(block, b, r, as_it_is);
        end_block<M, N>(block, sums + r * stride / 4, stride);
    });
}

template <bool>
INLINE void multiply(int64_t rows, int64_t N, const float *from, int64_t from_stride, Factors a, Factors b, float *sums,
                     int64_t stride) {
    switch (N) {
        case 1: return multiply_columns<1>(rows, from, from_stride, a, b, sums, stride);
        case 2: return multiply_columns<2>(rows, from, from_stride, a, b, sums, stride);
        case 3: return multiply_columns<3>(rows, from, from_stride, a, b, sums, stride);
        default: return multiply_columns<4>(rows, from, from_stride, a, b, sums, stride);
    }
}

INLINE void multiply_gru(int64_t rows, const float *from, int64_t from_stride, const float *from_extra,
                         const Factors &input, const Factors &state, float *sums, int64_t stride) {
    for_blocks(rows, [&](auto count, int64_t r) __attribute__((always_inline)) {
        constexpr int M = decltype(count)::value;
        V block[M][4];
        begin_block<M, 3>(block, from != nullptr ? from + r * from_stride / 4 : nullptr, from_stride);
        for (int m = 0; m < M; ++m) block[m][3] = from != nullptr ? load(from_extra) : V{};
        add_block<M, 3>(block, input, r, [](int j) { return j; });
        add_block<M, 3>(block, state, r, [](int j) { return j < 2 ? j : 3; });
        end_block<M, 4>(block, sums + r * stride / 4, stride);
    });
}

// 8 columns of the left factor by two tiles of the right one at a time.
template <bool>
__attribute__((noinline)) void add_outer(int64_t depth, const Half *left, int64_t columns, const Half *right, int64_t tiles,
                                         int64_t gap, float *sums) {
    constexpr int M = 8;
    const auto as_it_is = [](int j) { return j; };
    const auto block = [&](auto two, int64_t v, int64_t i) __attribute__((always_inline)) {
        constexpr int N = decltype(two)::value;
        V added[M][4];
        float *at = sums + (v * columns + i) * W;
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
#pragma GCC unroll 2
            for (int j = 0; j < N; ++j) added[m][j] = load(at + (j * columns + m) * W);
        }
        const Half *rows = left + i / 16 * depth * kTile + i % 16 * 32;
        add_pairs<M, N>(depth, rows, 32, kTile, right + v * kTile, gap, added, as_it_is);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
#pragma GCC unroll 2
            for (int j = 0; j < N; ++j) store(at + (j * columns + m) * W, added[m][j]);
        }
    };
    for (int64_t v = 0; v < tiles; v += 2) {
        for (int64_t i = 0; i < columns; i += M) {
            v + 1 < tiles ? block(std::integral_constant<int, 2>{}, v, i) : block(std::integral_constant<int, 1>{}, v, i);
        }
    }
}

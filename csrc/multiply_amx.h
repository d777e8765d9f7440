// Products of packed bfloat16 tiles with AMX (bfloat16_factors.h says what they must do). Included inside an unnamed
// namespace.
//
// A tile is 16 rows of 64 bytes. The left factor is read as it lies in memory, 16 rows by 32 numbers; the right one is
// packed, a tile is 1 KB. 32 rows by 2 tiles of columns at a time (4 sums, 2 left, 2 right) halve the traffic of weights
// from the second-level cache against 16 by 4.
// Tiles always have 16 rows: rows past the last one are read and written as garbage, so buffers have
// Products::kExtraRows more.

constexpr int64_t kRowsOfShard = 32;

// Tiles 0 to 4, which multiply_16 and multiply_gru use for sums and left rows, have `rows` rows: the fewer, the faster.
INLINE void configure_tiles(int64_t rows) {
    const uint8_t few = static_cast<uint8_t>(rows);
    struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16];
    } configuration{.rows = {few, few, few, few, few, 16, 16, 16}};
    asm volatile("" : : "r"(&configuration) : "memory");  // gcc 12 drops the stores above at -O3 otherwise
    _tile_loadconfig(&configuration);
}

INLINE void release_tiles() { _tile_release(); }

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

INLINE void multiply_gru(int64_t rows, const float *from, int64_t from_stride, const float *from_extra,
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

// Ask for some cache lines; an address that is not ours does no harm.
INLINE void fetch_lines(const float *p, int64_t count) {
    for (int64_t k = 0; k < count; ++k) __builtin_prefetch(p + 16 * k);
}

// Two by two tiles.
template <bool kOnce>
__attribute__((noinline)) void add_outer(int64_t depth, const Half *left, int64_t columns, const Half *right, int64_t tiles,
                                         int64_t gap, float *sums) {
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

// Bfloat16 numbers and how they lie in packed tiles. Included inside an unnamed namespace after simd.h.

using Half = uint16_t;  // a bfloat16 number's bits

constexpr int64_t kTile = 512;  // numbers of a packed tile

inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

INLINE V load(const Half *p) {
    __m256i bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
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

// Interleave two rows of 32 columns: the pair's rows of two packed tiles, the second of which may be null.
INLINE void interleave(__m512i a, __m512i b, Half *first, Half *second) {
    alignas(64) static constexpr uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_load_si512(kLow), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    _mm512_storeu_si512(first, _mm512_permutex2var_epi16(a, low, b));
    if (second != nullptr) _mm512_storeu_si512(second, _mm512_permutex2var_epi16(a, high, b));
}

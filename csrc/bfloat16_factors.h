// What products of bfloat16 numbers take, and what the files that compute them (multiply_amx.h, multiply_avx512_bf16.h)
// define. Included inside an unnamed namespace after bfloat16_tiles.h.

// A sum of products: left rows times packed tiles, k tiles deep.
struct Factors {
    const Half *left;
    int64_t stride;     // bytes from row to row of the left factor
    const Half *right;  // [k][N] tiles
    int64_t depth;
};

constexpr Factors kNothing{nullptr, 0, nullptr, 0};

// Tiles of this thread for steps of `rows` rows, before the first product; and none any more, behind the last one.
INLINE void configure_tiles(int64_t rows);
INLINE void release_tiles();

// sums (rows by N tiles, N at most 4) = from + products a and b (b may have no depth), for any number of rows; from: null
// for zero, from_stride 0 for one row for all. Strides are in bytes. kOnce: the right factor passes by once.
template <bool kOnce>
INLINE void multiply(int64_t rows, int64_t N, const float *from, int64_t from_stride, Factors a, Factors b, float *sums,
                     int64_t stride);

// Three tiles of the GRU: r, z and the input part of n, then the recurrent part of n.
INLINE void multiply_gru(int64_t rows, const float *from, int64_t from_stride, const float *from_extra,
                         const Factors &input, const Factors &state, float *sums, int64_t stride);

// sums += left^T right over `depth` blocks of 32 rows; left as [tile of columns][depth][16 columns][32 rows], right as
// [depth][tile][16 pairs][16 columns][2], `gap` numbers from block to block. The sums lie as (tiles, columns, 16), so that
// they are read and written in order: when they are large they come from far away.
template <bool kOnce>
void add_outer(int64_t depth, const Half *left, int64_t columns, const Half *right, int64_t tiles, int64_t gap, float *sums);

// Products of float32 matrices in registers. Included inside an unnamed namespace after simd.h.
//
// Every element is one chain of fused multiply-adds in ascending k, started from `from` (or zero), whatever the tile it
// falls into: so its bits do not depend on how many rows are computed together.

constexpr int kRowsOfTile = W == 8 ? 3 : 6;  // 16 registers with AVX2, else 32
constexpr int kVectors = 4;

// Where vector v of a row begins.
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

// c[m][columns[j]] = from[m][columns[j]] + sum over k of a(m, k) * b[k][j]; transposed, where k runs over the steps of a
// whole batch: c += the sum, so that errors grow with the length of one block and not with the number of steps.
template <int M, int N, bool kTransposed>
INLINE void tile(int64_t K, const float *a, int64_t a_stride, const float *b, int64_t b_stride, const float *from,
                 int64_t from_stride, float *c, int64_t c_stride, const int64_t *columns) {
    V sums[M][N];
    for (int m = 0; m < M; ++m) {
        for (int j = 0; j < N; ++j) sums[m][j] = from != nullptr ? load(from + m * from_stride + columns[j]) : V{};
    }
    for (int64_t k = 0; k < K; ++k) {
        V factors[N];
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) factors[j] = load(b + k * b_stride + j * W);
#pragma GCC unroll 6
        for (int m = 0; m < M; ++m) {
            const V x = broadcast(kTransposed ? a[k * a_stride + m] : a[m * a_stride + k]);
#pragma GCC unroll 4
            for (int j = 0; j < N; ++j) sums[m][j] = fma(x, factors[j], sums[m][j]);
        }
    }
    for (int m = 0; m < M; ++m) {
        for (int j = 0; j < N; ++j) {
            float *to = c + m * c_stride + columns[j];
            store(to, kTransposed ? load(to) + sums[m][j] : sums[m][j]);
        }
    }
}

struct Product {
    int64_t M, K;
    const float *a;
    int64_t a_stride;
    const float *b;
    int64_t b_stride, panel_stride;  // from k to k + 1, and from panel to panel of kVectors vectors
    int64_t vectors;                 // of a row of c
    const float *from;               // null: zero; from_stride 0: the same row for all (a bias)
    int64_t from_stride;
    float *c;
    int64_t c_stride;
};

template <int N, bool kTransposed>
void panel_product(const Product &p, int64_t first_k, int64_t K, const float *b, const int64_t *columns) {
    const float *from = kTransposed ? nullptr : first_k > 0 ? p.c : p.from;
    const int64_t from_stride = first_k > 0 ? p.c_stride : p.from_stride;
    for (int64_t m = 0; m < p.M;) {
        const int64_t left = p.M - m, tiles = (left + kRowsOfTile - 1) / kRowsOfTile, rows = (left + tiles - 1) / tiles;
        const float *a = kTransposed ? p.a + first_k * p.a_stride + m : p.a + m * p.a_stride + first_k;
        const float *start = from != nullptr ? from + m * from_stride : nullptr;
        float *c = p.c + m * p.c_stride;
#define BILSTM_TILE(rows)                                                                                       \
    tile<rows, N, kTransposed>(K, a, p.a_stride, b, p.b_stride, start, from_stride, c, p.c_stride, columns)
        switch (rows) {
            case 1: BILSTM_TILE(1); break;
            case 2: BILSTM_TILE(2); break;
            case 3: BILSTM_TILE(3); break;
            case 4:
                if constexpr (kRowsOfTile >= 4) BILSTM_TILE(4);
                break;
            case 5:
                if constexpr (kRowsOfTile >= 5) BILSTM_TILE(5);
                break;
            default:
                if constexpr (kRowsOfTile >= 6) BILSTM_TILE(6);
                break;
        }
#undef BILSTM_TILE
        m += rows;
    }
}

// Blocks of k keep one panel of b in the first-level cache.
constexpr int64_t kBlockOfK = 128;

template <int kWidth, bool kTransposed, class Columns>
void product(const Product &p, Columns column) {
    for (int64_t k = 0; k < p.K || k == 0; k += kBlockOfK) {
        const int64_t K = p.K - k < kBlockOfK ? p.K - k : kBlockOfK;
        for (int64_t v = 0; v < p.vectors; v += kWidth) {
            const int64_t width = p.vectors - v < kWidth ? p.vectors - v : kWidth;
            const float *b = p.b + (v / kWidth) * p.panel_stride + k * p.b_stride;
            int64_t columns[kWidth];
            for (int64_t j = 0; j < width; ++j) columns[j] = column(v + j);
            switch (width) {
                case 1: panel_product<1, kTransposed>(p, k, K, b, columns); break;
                case 2: panel_product<2, kTransposed>(p, k, K, b, columns); break;
                case 3: panel_product<3, kTransposed>(p, k, K, b, columns); break;
                default: panel_product<4, kTransposed>(p, k, K, b, columns); break;
            }
        }
    }
}

// Two panels for a single row: a panel alone is one chain of additions a vector, too few to keep the units busy.
template <int kWidth, class Columns>
INLINE void two_panels_of_row(const Product &p, int64_t v, Columns column) {
    const float *b = p.b + (v / kWidth) * p.panel_stride;
    V sums[2 * kWidth];
    for (int j = 0; j < 2 * kWidth; ++j) sums[j] = load(p.from + column(v + j));
    for (int64_t k = 0; k < p.K; ++k) {
        const V x = broadcast(p.a[k]);
#pragma GCC unroll 4
        for (int j = 0; j < kWidth; ++j) {
            sums[j] = fma(x, load(b + k * p.b_stride + j * W), sums[j]);
            sums[kWidth + j] = fma(x, load(b + p.panel_stride + k * p.b_stride + j * W), sums[kWidth + j]);
        }
    }
    for (int j = 0; j < 2 * kWidth; ++j) store(p.c + column(v + j), sums[j]);
}

// `product` for one row, with the same bits. Step after step the panels are taken in turn from the first and from the
// last one on, so that those used last are found in the nearest cache.
template <int kWidth, class Columns>
void product_of_row(const Product &p, Columns column, bool from_last) {
    const int64_t pairs = p.vectors / (2 * kWidth);
    for (int64_t k = 0; k < pairs; ++k) {
        two_panels_of_row<kWidth>(p, (from_last ? pairs - 1 - k : k) * 2 * kWidth, column);
    }
    const int64_t done = pairs * 2 * kWidth;
    if (done == p.vectors) return;
    Product rest = p;
    rest.b += done / kWidth * p.panel_stride;
    rest.vectors -= done;
    product<kWidth, false>(rest, [&](int64_t v) { return column(done + v); });
}

// Elements of a matrix of K rows packed into panels of `width` vectors.
inline int64_t packed_elements(int64_t K, int64_t vectors, int64_t width) {
    return (vectors + width - 1) / width * width * W * K;
}

// Pack the transpose of a matrix whose rows are `source(column)` (null: zeros): to[panel][k][column].
// A few k at a time, so that what is written stays in the nearest cache until its lines are full.
template <class Source>
void pack_columns(float *to, int64_t K, int64_t vectors, int64_t width, Source source) {
    constexpr int64_t kAtOnce = 32;
    for (int64_t v = 0; v < vectors; v += width, to += K * width * W) {
        for (int64_t first = 0; first < K; first += kAtOnce) {
            const int64_t end = K - first < kAtOnce ? K : first + kAtOnce;
            for (int64_t column = 0; column < width * W; ++column) {
                const float *row = v + column / W < vectors ? source(v * W + column) : nullptr;
                for (int64_t k = first; k < end; ++k) to[k * width * W + column] = row != nullptr ? row[k] : 0.0f;
            }
        }
    }
}

// Pack a matrix whose rows k are `source(k)`, `columns` long: to[panel][k][column].
template <class Source>
void pack_rows(float *to, int64_t K, int64_t columns, int64_t vectors, Source source) {
    for (int64_t k = 0; k < K; ++k) {
        const float *row = source(k);
        for (int64_t v = 0; v < vectors; v += kVectors) {
            float *at = to + (v * K + k * kVectors) * W;
            for (int64_t j = 0; j < kVectors * W; ++j) {
                at[j] = row != nullptr && v * W + j < columns ? row[v * W + j] : 0.0f;
            }
        }
    }
}

// The loops of document_vectors.h for one instruction set. Included inside an unnamed namespace after simd.h and
// row_sums.h.

constexpr int kParts = kLanes / W;  // vectors that hold the partial sums of one product

// The one cache line, or its part, that holds these kLanes features.
INLINE void ask_to_read(const float *p) { __builtin_prefetch(p, 0, 3); }
INLINE void ask_to_write(const float *p) { __builtin_prefetch(p, 1, 3); }

template <int Rows>
INLINE void products_of_rows(const float *x, const float *const *rows, const float *const *next, int64_t columns,
                             float *products, float *squares) {
    V sums[2 * Rows][kParts];
    for (int s = 0; s < 2 * Rows; ++s) {
        for (int p = 0; p < kParts; ++p) sums[s][p] = V{};
    }
    for (int64_t c = 0; c < columns; c += kLanes) {
        for (int r = 0; r < Rows; ++r) ask_to_read(next[r] + c);
        for (int p = 0; p < kParts; ++p) {
            const V own = load(x + c + p * W);
            for (int r = 0; r < Rows; ++r) {
                const V row = load(rows[r] + c + p * W);
                sums[r][p] = sums[r][p] + own * row;
                sums[Rows + r][p] = sums[Rows + r][p] + row * row;
            }
        }
    }
    V folded[2 * Rows];
    add_up<kParts, 2 * Rows>(sums, folded);
    float found[(2 * Rows + W - 1) / W * W];
    for (int v = 0; v < (2 * Rows + W - 1) / W; ++v) store(found + v * W, folded[v]);
    for (int r = 0; r < Rows; ++r) {
        products[r] = found[r];
        squares[r] = found[Rows + r];
    }
}

void products(const float *x, const float *const *rows, const float *const *next, int64_t count, int64_t columns,
              float *products, float *squares) {
    int64_t k = 0;
    if constexpr (W == kLanes) {  // elsewhere the sums of four rows do not fit in the registers
        for (; k + 4 <= count; k += 4) products_of_rows<4>(x, rows + k, next + k, columns, products + k, squares + k);
    }
    for (; k < count; k += 2) products_of_rows<2>(x, rows + k, next + k, columns, products + k, squares + k);
}

void logistic(float *values, int64_t count) {
    for (int64_t n = 0; n < count; n += W) {
        store(values + n, broadcast(1.0f) / logistic_denominator(load(values + n)));
    }
}

void move(float *x, const float *const *rows, const float *toward, int64_t count, float back, int64_t columns) {
    for (int64_t c = 0; c < columns; c += kLanes) {
        V sums[kParts];
        for (int p = 0; p < kParts; ++p) sums[p] = V{};
        for (int64_t k = 0; k < count; ++k) {
            const V factor = broadcast(toward[k]);
            for (int p = 0; p < kParts; ++p) sums[p] = sums[p] + factor * load(rows[k] + c + p * W);
        }
        for (int p = 0; p < kParts; ++p) {
            const V own = load(x + c + p * W);
            store(x + c + p * W, own + (sums[p] - broadcast(back) * own));
        }
    }
}

void change(float *const *rows, float *const *next, const float *direction, const float *toward, const float *back,
            int64_t count, int64_t columns) {
    for (int64_t k = 0; k < count; ++k) {
        const V forth = broadcast(toward[k]), lost = broadcast(back[k]);
        for (int64_t c = 0; c < columns; c += kLanes) {
            ask_to_write(next[k] + c);
            for (int p = 0; p < kParts; ++p) {
                float *at = rows[k] + c + p * W;
                const V own = load(at);
                store(at, own + (forth * load(direction + c + p * W) - lost * own));
            }
        }
    }
}

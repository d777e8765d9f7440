// The loops of skipgram.h for one instruction set. Included inside an unnamed namespace after simd.h and row_sums.h.

constexpr int kParts = kLanes / W;         // vectors that hold the partial sums of one product
constexpr int kTile = W == kLanes ? 2 : 1;  // context rows at a time: as many sums as registers hold

INLINE V multiply_add(V a, V b, V c) {
#if defined(__FMA__) || defined(__aarch64__)
    return fma(a, b, c);
#else
    return a * b + c;  // without the instruction a fused product is a call of the C library
#endif
}

template <int Rows>
INLINE void products_of_rows(const float *const *x, const float *y, int64_t columns, float *products) {
    constexpr int kSums = Rows * kOutputs;
    V sums[kSums][kParts];
    for (int s = 0; s < kSums; ++s) {
        for (int p = 0; p < kParts; ++p) sums[s][p] = V{};
    }
    for (int64_t c = 0; c < columns; c += kLanes) {
        for (int p = 0; p < kParts; ++p) {
            V row[Rows];
            for (int r = 0; r < Rows; ++r) row[r] = load(x[r] + c + p * W);
            for (int k = 0; k < kOutputs; ++k) {
                const V output = load(y + k * columns + c + p * W);
                for (int r = 0; r < Rows; ++r) {
                    V &sum = sums[r * kOutputs + k][p];
                    sum = multiply_add(row[r], output, sum);
                }
            }
        }
    }
    V folded[kSums];
    add_up<kParts, kSums>(sums, folded);
    for (int v = 0; v < (kSums + W - 1) / W; ++v) store(products + v * W, folded[v]);
}

void products(const float *x, ContextRows rows, const float *y, int64_t columns, float *products) {
    const int64_t count = rows.count();
    int64_t j = 0;
    if constexpr (kTile == 2) {
        for (; j + 2 <= count; j += 2) {
            const float *const two[2] = {x + rows.row(j) * columns, x + rows.row(j + 1) * columns};
            products_of_rows<2>(two, y, columns, products + j * kOutputs);
        }
    }
    for (; j < count; ++j) {
        const float *const one[1] = {x + rows.row(j) * columns};
        products_of_rows<1>(one, y, columns, products + j * kOutputs);
    }
}

void errors(float *values, int64_t count, float rate) {
    for (int64_t n = 0; n < count; n += W) {
        store(values + n, broadcast(-rate) / logistic_denominator(load(values + n)));
    }
}

void update(const float *x, float *d_x, ContextRows rows, const float *y, const float *errors, int64_t columns,
            float *const *targets, int used) {
    const int64_t count = rows.count();
    for (int64_t c = 0; c < columns; c += W) {
        V outputs[kOutputs], sums[kOutputs];
        for (int k = 0; k < kOutputs; ++k) {
            outputs[k] = load(y + k * columns + c);
            sums[k] = V{};
        }
        for (int64_t j = 0; j < count; ++j) {
            const int64_t at = rows.row(j) * columns + c;
            const V row = load(x + at);
            V change = load(d_x + at);
            for (int k = 0; k < kOutputs; ++k) {
                const V error = broadcast(errors[j * kOutputs + k]);
                sums[k] = multiply_add(error, row, sums[k]);
                change = multiply_add(error, outputs[k], change);
            }
            store(d_x + at, change);
        }
        for (int k = 0; k < used; ++k) store(targets[k] + c, load(targets[k] + c) + sums[k]);  // may be equal rows
    }
}

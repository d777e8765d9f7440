// The input part of the gates for every row of an embedding. Included by layer.h.

constexpr int64_t kTableRows = 64;

size_t table_scratch_bytes(const Layout &l) {
    Pieces pieces{nullptr};
    pieces.take<Factor>((kTableRows + Products::kExtraRows) * l.Ik);
    pieces.take<float>((kTableRows + Products::kExtraRows) * l.C);
    return pieces.used;
}

void fill_table(const Layout &l, const Direction &weights, const float *embedding, const int64_t *tokens, int64_t first,
                int64_t count, char *scratch) {
    Pieces pieces{scratch};
    Factor *x = pieces.take<Factor>((kTableRows + Products::kExtraRows) * l.Ik);
    float *sums = pieces.take<float>((kTableRows + Products::kExtraRows) * l.C);
    __builtin_memset(x, 0, static_cast<size_t>((kTableRows + Products::kExtraRows) * l.Ik) * sizeof(Factor));
    for (int64_t v = first; v < first + count; v += kTableRows) {
        const int64_t rows = smaller(kTableRows, first + count - v);
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t token = tokens != nullptr ? tokens[v + r] : v + r;
            Products::convert_row(embedding + token * l.I, x + r * l.Ik, l.I);
        }
        Products::input_product(l, weights, rows, x, sums);
        Stored *to = static_cast<Stored *>(weights.table) + v * l.C;
        for (int64_t k = 0; k < rows * l.C; k += W) store(to + k, load(sums + k));
    }
}

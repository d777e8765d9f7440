// Sums over features that are the same numbers for every vector length. Included inside an unnamed namespace after
// simd.h. A product of two rows is kLanes partial sums over every kLanes-th feature, which are added by halves.

// Groups of 2 H lanes of a and then of b, each group folded into H lanes by adding its upper half to its lower half.
template <int H>
INLINE V fold_pair(V a, V b) {
    VI low, high;
    for (int l = 0; l < W; ++l) {
        low[l] = l / H * 2 * H + l % H;
        high[l] = low[l] + H;
    }
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}

// `Count` vectors of W / (2 H) groups each -> the sums of all groups, in order, in the first vectors.
template <int H, int Count>
INLINE void fold(V *sums) {
    constexpr int kLeft = (Count + 1) / 2;
    for (int v = 0; v < kLeft; ++v) {
        sums[v] = fold_pair<H>(sums[2 * v], 2 * v + 1 < Count ? sums[2 * v + 1] : V{});
    }
    if constexpr (H > 1) fold<H / 2, kLeft>(sums);
}

// `Count` sums of `Parts` vectors each -> the sums in order, W to a vector, in `folded` (Count vectors of room).
template <int Parts, int Count>
INLINE void add_up(V (*sums)[Parts], V *folded) {
    for (int s = 0; s < Count; ++s) {
        for (int half = Parts / 2; half > 0; half /= 2) {
            for (int p = 0; p < half; ++p) sums[s][p] = sums[s][p] + sums[s][p + half];
        }
        folded[s] = sums[s][0];
    }
    fold<W / 2, Count>(folded);
}

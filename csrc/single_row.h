// One step of the LSTM for a single sequence: tiles would be one row full of sixteen. In float16, whose products are
// twice as fast as those of float32 and four times as exact as bfloat16's, with sums of at most 32 terms; everything else
// as in the other steps. Included inside an unnamed namespace after rough_gates.h.

constexpr int64_t kMostSingleUnits = 128;     // beyond, the weights leave the nearest cache and tiles win
constexpr float kLargestSingleWeight = 64.0f;  // sums of 128 terms stay far from the largest float16, 65504

inline bool has_float16() {
    static const bool has = __builtin_cpu_supports("avx512fp16");
    return has;
}

inline int64_t single_elements(const Layout &l) {
    return l.cell == BILSTM_LSTM && l.Hp <= kMostSingleUnits && has_float16() ? l.Hp * l.P : 0;
}

// Pack the transpose of a matrix whose rows are `source(p)`, H long (null: zeros), as [block of units][H][gate][unit].
// False if a number is too large or not finite.
template <class Source>
bool pack_single(const Layout &l, Half *to, Source source) {
    for (int64_t first = 0; first < l.P; first += 4 * W) {
        for (int64_t p = first; p < first + 4 * W; ++p) {
            const float *row = source(p);
            for (int64_t k = 0; k < l.Hp; ++k) {
                const float x = row != nullptr && k < l.H ? row[k] : 0.0f;
                if (!(__builtin_fabsf(x) <= kLargestSingleWeight)) return false;
                to[first * l.Hp + k * 4 * W + p - first] = _cvtss_sh(x, 0);
            }
        }
    }
    return true;
}

// `h`: h_{t-1}, each number twice as float16; `h_next`: h_t in the same way. Sums of the input: 4 * W floats a block of
// units, `ready_stride` apart, or a row of the vocabulary table.
__attribute__((noinline, target("avx512fp16"))) void single_step(const ForwardStep<Half, Half> &step, const Half *weights,
                                                                 const float *ready, int64_t ready_stride,
                                                                 const uint32_t *h, uint32_t *h_next) {
    const Layout &l = *step.layout;
    const Gates gate;
    for (int64_t u = 0; u < l.Hp; u += W, weights += l.Hp * 4 * W) {
        __m512h sums[8];
        for (int j = 0; j < 8; ++j) sums[j] = _mm512_setzero_ph();
        for (int64_t k = 0; k < l.Hp; k += 4) {
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const __m512h x = _mm512_castsi512_ph(_mm512_set1_epi32(static_cast<int>(h[k + j])));
                const Half *row = weights + (k + j) * 4 * W;
                sums[2 * j] = _mm512_fmadd_ph(_mm512_loadu_ph(row), x, sums[2 * j]);
                sums[2 * j + 1] = _mm512_fmadd_ph(_mm512_loadu_ph(row + 2 * W), x, sums[2 * j + 1]);
            }
        }
        V total[4];
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
            const __m512i a = _mm512_castph_si512(_mm512_add_ph(sums[j], sums[j + 2]));
            const __m512i b = _mm512_castph_si512(_mm512_add_ph(sums[j + 4], sums[j + 6]));
            total[2 * j] = _mm512_cvtph_ps(_mm512_castsi512_si256(a)) + _mm512_cvtph_ps(_mm512_castsi512_si256(b));
            total[2 * j + 1] =
                _mm512_cvtph_ps(_mm512_extracti64x4_epi64(a, 1)) + _mm512_cvtph_ps(_mm512_extracti64x4_epi64(b, 1));
        }
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            total[j] = total[j] + (ready != nullptr ? load(ready + j * W) : load(step.table[0] + 4 * u + j * W));
        }
        if (ready != nullptr) ready += ready_stride;
        const V c = fma(gate.logistic_of(total[1]), load(step.c + u), gate.logistic_of(total[0]) * gate.tanh_of(total[2]));
        const V now = gate.logistic_of(total[3]) * gate.tanh_of(c);
        store(step.c + u, c);
        store(step.h + u, now);
        if (step.out != nullptr) store_part(step.out[0] + u, now, l.H - u < W ? l.H - u : W);
        const __m512i halves = _mm512_cvtepu16_epi32(_mm512_cvtps_ph(now, _MM_FROUND_TO_NEAREST_INT));
        _mm512_storeu_si512(h_next + u, _mm512_or_si512(halves, _mm512_slli_epi32(halves, 16)));
    }
}

// One vector of W floats and the few operations that the kernels need. Included once per instruction-set file, inside
// an unnamed namespace: nothing here may be shared between files compiled with different flags.

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float V __attribute__((vector_size(4 * W)));
typedef int32_t VI __attribute__((vector_size(4 * W)));

#define INLINE inline __attribute__((always_inline))

INLINE V broadcast(float x) {
#if defined(__AVX512F__)
    return _mm512_set1_ps(x);
#elif defined(__AVX2__)
    return _mm256_set1_ps(x);
#elif defined(__aarch64__)
    return vdupq_n_f32(x);
#else
    V v;
    for (int k = 0; k < W; ++k) v[k] = x;
    return v;
#endif
}

INLINE V load(const float *p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float *p, V v) { __builtin_memcpy(p, &v, sizeof v); }

INLINE void store_part(float *p, V v, int64_t count) {
    for (int64_t k = 0; k < count; ++k) p[k] = v[k];
}

INLINE V load_part(const float *p, int64_t count) {
    V v{};
    for (int64_t k = 0; k < count; ++k) v[k] = p[k];
    return v;
}

// a * b + c, one rounding. Always explicit, so that a value has the same bits whichever code path computed it.
INLINE V fma(V a, V b, V c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
    return vfmaq_f32(c, a, b);
#else
    V r;
    for (int k = 0; k < W; ++k) r[k] = __builtin_fmaf(a[k], b[k], c[k]);
    return r;
#endif
}

// min and max that give x back where x is NaN.
INLINE V at_most(V x, float bound) {
#if defined(__AVX512F__)
    return _mm512_min_ps(broadcast(bound), x);
#elif defined(__AVX2__)
    return _mm256_min_ps(broadcast(bound), x);
#elif defined(__aarch64__)
    return vminq_f32(broadcast(bound), x);
#else
    return x > broadcast(bound) ? broadcast(bound) : x;
#endif
}

INLINE V at_least(V x, float bound) {
#if defined(__AVX512F__)
    return _mm512_max_ps(broadcast(bound), x);
#elif defined(__AVX2__)
    return _mm256_max_ps(broadcast(bound), x);
#elif defined(__aarch64__)
    return vmaxq_f32(broadcast(bound), x);
#else
    return x < broadcast(bound) ? broadcast(bound) : x;
#endif
}

INLINE V absolute(V x) {
    VI bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    bits &= 0x7fffffff;
    __builtin_memcpy(&x, &bits, sizeof bits);
    return x;
}

// `size` (not negative, or NaN) with the sign of x.
INLINE V with_sign(V size, V x) {
    VI bits, sign;
    __builtin_memcpy(&bits, &size, sizeof bits);
    __builtin_memcpy(&sign, &x, sizeof sign);
    bits |= sign & INT32_MIN;
    __builtin_memcpy(&size, &bits, sizeof bits);
    return size;
}

INLINE V reciprocal(V x) {
#if defined(__AVX512F__)
    const V r = _mm512_rcp14_ps(x);  // one Newton step: 2^-14 becomes 2^-28
    return fma(r, fma(-x, r, broadcast(1.0f)), r);
#else
    return broadcast(1.0f) / x;
#endif
}

// 2^y = scale * (1 + growth * rest): y split into a whole number and the rest in [-1/2, 1/2].
// The bounds keep the scale finite; beyond them the gates are 0 or 1 to the last bit.
struct Power {
    V scale, growth, rest;
};

INLINE Power power_of_two(V y) {
    Power power;
    y = at_most(y, 60.0f);
#if defined(__AVX512F__)
    power.rest = _mm512_reduce_ps(y, 0);  // the same numbers as below; a scale below all numbers becomes 0
    power.scale = _mm512_scalef_ps(broadcast(1.0f), y - power.rest);
#else
    y = at_least(y, -60.0f);
    const V magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const V shifted = y + magic;
    power.rest = y - (shifted - magic);
    VI bits;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000;
    __builtin_memcpy(&power.scale, &bits, sizeof bits);
#endif
    // (2^r - 1) / r, minimax in relative error 1.1e-8 on [-1/2, 1/2]
    V q = fma(broadcast(0.0001540350931463763f), power.rest, broadcast(0.0013390735257416964f));
    q = fma(q, power.rest, broadcast(0.009618237614631653f));
    q = fma(q, power.rest, broadcast(0.05550357326865196f));
    q = fma(q, power.rest, broadcast(0.24022649228572845f));
    power.growth = fma(q, power.rest, broadcast(0.6931471824645996f));
    return power;
}

// 1 + e^-x, the denominator of the logistic function.
INLINE V logistic_denominator(V x) {
    const Power p = power_of_two(x * broadcast(-1.4426950408889634f));
    return fma(p.scale, fma(p.growth, p.rest, broadcast(1.0f)), broadcast(1.0f));
}

// e^2x - 1 without cancellation, the numerator of tanh; its denominator is 2 more.
INLINE V tanh_numerator(V x) {
    const Power p = power_of_two(x * broadcast(2.8853900817779268f));
    return fma(p.scale, p.growth * p.rest, p.scale - broadcast(1.0f));
}

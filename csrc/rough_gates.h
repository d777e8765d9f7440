// tanh and the logistic function for the bfloat16 kernels: a cubic on each of 32 intervals, looked up in registers.
// Included inside an unnamed namespace after simd.h. Absolute error 8e-5 (tanh) and 4e-5 (logistic), far below the
// rounding of a bfloat16 number (2e-3 at 1), in half the instructions of the exact ones. The ends are right to 4e-7:
// a forget gate near 1 is raised to the power of the sequence's length.

// Coefficients of 1, x, x^2, x^3 near x = k / 2, at index k modulo 32, k = -16 .. 15; minimax on each interval.
alignas(64) constexpr float kTanhCubics[4][32] = {
    {0.0f, -0.00747227622f, -0.0758427978f, -0.0328300931f, 0.205423594f, 0.482871234f, 0.697251141f,
     0.834585547f, 0.913910687f, 0.956809759f, 0.978954196f, 0.989987373f, 0.995331287f, 0.997860193f,
     0.999033749f, 0.999569297f, -0.999810219f, -0.999569297f, -0.999033749f, -0.997860193f, -0.995331287f,
     -0.989987373f, -0.978954196f, -0.956809759f, -0.913910687f, -0.834585547f, -0.697251141f, -0.482871234f,
     -0.205423594f, 0.0328300931f, 0.0758427978f, 0.00747227622f},
    {0.999933898f, 1.06741011f, 1.3540802f, 1.26690733f, 0.858180106f, 0.48446852f, 0.248026624f, 0.119958684f,
     0.0559106506f, 0.025375424f, 0.0112830717f, 0.00493453443f, 0.00212850608f, 0.000907435198f,
     0.000382975937f, 0.000160215932f, 6.65086554e-05f, 0.000160215932f, 0.000382975937f, 0.000907435198f,
     0.00212850608f, 0.00493453443f, 0.0112830717f, 0.025375424f, 0.0559106506f, 0.119958684f, 0.248026624f,
     0.48446852f, 0.858180106f, 1.26690733f, 1.3540802f, 1.06741011f},
    {0.0f, -0.208495706f, -0.615954399f, -0.559031188f, -0.32454136f, -0.156410888f, -0.0693705752f,
     -0.0295242257f, -0.0122744413f, -0.00502560148f, -0.00203493028f, -0.000816840329f, -0.000325563771f,
     -0.000128983753f, -5.08398734e-05f, -1.9949719e-05f, 7.79773745e-06f, 1.9949719e-05f, 5.08398734e-05f,
     0.000128983753f, 0.000325563771f, 0.000816840329f, 0.00203493028f, 0.00502560148f, 0.0122744413f,
     0.0295242257f, 0.0693705752f, 0.156410888f, 0.32454136f, 0.559031188f, 0.615954399f, 0.208495706f},
    {-0.325132877f, -0.0965585187f, 0.0992973372f, 0.087540552f, 0.0425522514f, 0.0172892045f, 0.00659483252f,
     0.00245852652f, 0.000908864196f, 0.000334952754f, 0.000123303558f, 4.53718567e-05f, 1.66928639e-05f,
     6.14116334e-06f, 2.25923509e-06f, 8.31129796e-07f, 3.0575606e-07f, 8.31129796e-07f, 2.25923509e-06f,
     6.14116334e-06f, 1.66928639e-05f, 4.53718567e-05f, 0.000123303558f, 0.000334952754f, 0.000908864196f,
     0.00245852652f, 0.00659483252f, 0.0172892045f, 0.0425522514f, 0.087540552f, 0.0992973372f, -0.0965585187f},
};

struct Cubics {
    V low[4], high[4];
};

INLINE V evaluate(const Cubics &cubics, V x, VI index) {
    const auto pick = [&](int k) {
        return _mm512_permutex2var_ps(cubics.low[k], reinterpret_cast<__m512i>(index), cubics.high[k]);
    };
    return fma(fma(fma(pick(3), x, pick(2)), x, pick(1)), x, pick(0));
}

// Adding it leaves the nearest whole number, modulo 32, in the lowest five bits.
constexpr float kToWhole = 12582912.0f;

INLINE Cubics tanh_cubics() {
    Cubics cubics;
    for (int k = 0; k < 4; ++k) cubics.low[k] = load(kTanhCubics[k]), cubics.high[k] = load(kTanhCubics[k] + 16);
    return cubics;
}

INLINE Cubics logistic_cubics() {  // (1 + tanh(x / 2)) / 2
    Cubics cubics = tanh_cubics();
    float scale = 0.5f;
    for (int k = 0; k < 4; ++k, scale *= 0.5f) {
        cubics.low[k] = cubics.low[k] * broadcast(scale) + broadcast(k == 0 ? 0.5f : 0.0f);
        cubics.high[k] = cubics.high[k] * broadcast(scale) + broadcast(k == 0 ? 0.5f : 0.0f);
    }
    return cubics;
}

struct Gates {
    Cubics tanh_, logistic_ = logistic_cubics();
    INLINE Gates() : tanh_(tanh_cubics()) {}

    INLINE V tanh_of(V x) const {
        x = at_least(at_most(x, 7.74f), -8.0f);
        return evaluate(tanh_, x, reinterpret_cast<VI>(fma(x, broadcast(2.0f), broadcast(kToWhole))));
    }

    INLINE V logistic_of(V x) const {
        x = at_least(at_most(x, 15.49f), -16.0f);
        return evaluate(logistic_, x, reinterpret_cast<VI>(x + broadcast(kToWhole)));
    }
};

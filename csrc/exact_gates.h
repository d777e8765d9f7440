// tanh and the logistic function to about the last bit of float32. Included inside an unnamed namespace after simd.h.
// Two functions share one reciprocal: 1/a and 1/b from 1/(a b).

struct Gates {
    INLINE V tanh_of(V x) const {
        const V numerator = tanh_numerator(x);
        return numerator * reciprocal(numerator + broadcast(2.0f));
    }

    INLINE V logistic_of(V x) const { return reciprocal(logistic_denominator(x)); }

    INLINE void logistic_and_tanh(V x, V y, V &s, V &t) const {
        const V below = logistic_denominator(x), numerator = tanh_numerator(y), other = numerator + broadcast(2.0f);
        const V shared = reciprocal(below * other);
        s = shared * other;
        t = shared * below * numerator;
    }

    INLINE void two_logistic(V x, V y, V &s, V &t) const {
        const V below = logistic_denominator(x), other = logistic_denominator(y), shared = reciprocal(below * other);
        s = shared * other;
        t = shared * below;
    }
};

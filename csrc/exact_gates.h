// tanh and the logistic function to about the last bit of float32. Included inside an unnamed namespace after simd.h.

struct Gates {
    // From |x|: near 0 by e^2x - 1, which does not cancel; elsewhere by the distance from 1, which makes a gate near
    // saturation as exact as its rounding (backward multiplies by 1 - tanh^2).
    INLINE V tanh_of(V x) const {
        const V size = absolute(x), numerator = tanh_numerator(size), r = reciprocal(numerator + broadcast(2.0f));
        const V near = numerator * r, far = fma(broadcast(-2.0f), r, broadcast(1.0f));
        return with_sign(size < broadcast(0.6f) ? near : far, x);
    }

    INLINE V logistic_of(V x) const { return reciprocal(logistic_denominator(x)); }
};

/* Vectors of 16 floats. They are GCC's, so this compiles for any target; -march=native makes them
 * AVX-512 where it is. */

#ifndef TRIREME_VECTORS_H
#define TRIREME_VECTORS_H

#include <stdint.h>

enum { LANES = 16 };

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *from) { return *(const vec *)from; }
INLINE void store(float *to, vec value) { *(vec *)to = value; }
INLINE vec splat(float value) { return value - (vec){0}; }
INLINE vec pick(ivec mask, vec yes, vec no) {
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

/* e to the x for x <= 0, to about 1e-7 of its value: 2^n by the exponent's bits, the rest by a
 * polynomial (Cephes, exp2f). */
INLINE vec exponential(vec x) {
    x = pick(x < -87.0f, splat(-87.0f), x);
    vec scaled = x * 1.44269504088896f;
    ivec whole = __builtin_convertvector(scaled - 0.5f, ivec);
    vec part = scaled - __builtin_convertvector(whole, vec);
    vec y = splat(1.535336188319500e-4f);
    y = y * part + 1.339887440266574e-3f;
    y = y * part + 9.618437357674640e-3f;
    y = y * part + 5.550332471162809e-2f;
    y = y * part + 2.402264791363012e-1f;
    y = y * part + 6.931472028550421e-1f;
    y = y * part + 1.0f;
    return (vec)((ivec)y + (whole << 23));
}

/* cap * tanh(score / cap), of a vector. */
INLINE vec capped(vec score, float cap) {
    vec doubled = score * (2.0f / cap);
    vec small = exponential(pick(doubled > 0, -doubled, doubled));
    vec part = (1.0f - small) / (1.0f + small) * cap;
    return pick(doubled > 0, part, -part);
}

#endif

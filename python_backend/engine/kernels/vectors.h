/* Vectors of 16 floats. They are GCC's, so this compiles for any target; -march=native makes them
 * AVX-512 where it is. */

#ifndef TRIREME_VECTORS_H
#define TRIREME_VECTORS_H

#include <stdint.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

enum { LANES = 16 };

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef _Float16 halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
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

/* x / (1 + e to the -y), the exponential as above. */
INLINE vec over_one_plus_exp(vec x, vec y) {
#ifdef __AVX512F__
    __m512 scaled = _mm512_mul_ps((__m512)y, _mm512_set1_ps(-1.44269504088896f));
    scaled = _mm512_min_ps(scaled, _mm512_set1_ps(126.0f));
    __m512 whole = _mm512_roundscale_ps(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 part = _mm512_sub_ps(scaled, whole);
    __m512 power = _mm512_set1_ps(1.535336188319500e-4f);
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(1.339887440266574e-3f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(9.618437357674640e-3f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(5.550332471162809e-2f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(2.402264791363012e-1f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(6.931472028550421e-1f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(1.0f));
    power = _mm512_scalef_ps(power, whole);
    return x / ((vec)power + 1.0f);
#else
    vec small = exponential(pick(y > 0, -y, y)); /* of a magnitude: it can't overflow */
    return x * pick(y > 0, splat(1), small) / (1.0f + small);
#endif
}

/* cap * tanh(score / cap), of a vector. */
INLINE vec capped(vec score, float cap) {
    vec doubled = score * (2.0f / cap);
    vec small = exponential(pick(doubled > 0, -doubled, doubled));
    vec part = (1.0f - small) / (1.0f + small) * cap;
    return pick(doubled > 0, part, -part);
}

#endif

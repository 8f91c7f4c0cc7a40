/* Floats rounded to whole levels of eight bits. */

#ifndef TRIREME_INTEGERS_H
#define TRIREME_INTEGERS_H

#include "vectors.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

/* Adding this rounds a float to a whole number, half to even, in its lowest bits. */
static const float ROUNDER = 12582912.0f;

/* How much narrower a group's range has to be than one around zero, so that an offset is worth its
 * product with the sum of the group's weights. */
static const float NARROW = 0.7f;

/* Round `count` values, less an offset, to -127..127 of `top`, half to even, and make the levels from
 * there to `padded`, a multiple of 16, zero. Returns the scale; `sum` is that of the levels. */
INLINE float round_around(float offset, float top, const float *values, int count, int padded,
                          int8_t *levels, int32_t *sum) {
    const float by = top > 0 ? 127.0f / top : 0.0f;
    ivec sums = {0};
    for (int i = 0; i < padded; i += LANES) {
        vec value = splat(offset);
        if (i + LANES <= count) value = load(values + i);
        else
            for (int lane = 0; lane < count - i; lane++) value[lane] = values[i + lane];
        ivec level = (ivec)((value - offset) * by + ROUNDER) - (ivec)splat(ROUNDER);
        sums += level;
        *(bytes *)(levels + i) = __builtin_convertvector(level, bytes);
    }
    *sum = 0;
    for (int lane = 0; lane < LANES; lane++) *sum += sums[lane];
    return top / 127.0f;
}

/* The same around zero, of the largest magnitude. */
INLINE float round_to_levels(const float *values, int count, int padded, int8_t *levels,
                             int32_t *sum) {
    vec tops = splat(0);
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec value = (vec)((ivec)load(values + i) & 0x7fffffff);
        tops = pick(value > tops, value, tops);
    }
    float top = 0;
    for (int lane = 0; lane < LANES; lane++) top = tops[lane] > top ? tops[lane] : top;
    for (; i < count; i++) top = fabsf(values[i]) > top ? fabsf(values[i]) : top;
    return round_around(0, top, values, count, padded, levels, sum);
}

/* The same around the middle of the values' range, where that is so much the narrower. */
INLINE float round_to_narrow_levels(const float *values, int count, int padded, int8_t *levels,
                                    int32_t *sum, float *offset) {
    vec lows = splat(INFINITY), highs = splat(-INFINITY);
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec value = load(values + i);
        lows = pick(value < lows, value, lows);
        highs = pick(value > highs, value, highs);
    }
    float low = INFINITY, high = -INFINITY;
    for (int lane = 0; lane < LANES; lane++) {
        low = lows[lane] < low ? lows[lane] : low;
        high = highs[lane] > high ? highs[lane] : high;
    }
    for (; i < count; i++) {
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
    }
    float top = -low > high ? -low : high, half = (high - low) / 2;
    int is_narrow = half < NARROW * top;
    *offset = is_narrow ? (low + high) / 2 : 0;
    return round_around(*offset, is_narrow ? half : top, values, count, padded, levels, sum);
}

#ifdef __AVX512F__

/* Four bytes in every lane. */
INLINE __m512i four_bytes(const void *from) {
    int32_t four;
    memcpy(&four, from, sizeof four);
    return _mm512_set1_epi32(four);
}

/* The same of row `row`. Rows lie at two addresses, the second that of row 3, and multiples of a
 * stride, which are addressing modes: so many pointers would not stay in registers. */
INLINE __m512i four_of_row(const void *low, const void *high, int64_t stride, int row) {
    return four_bytes(row < 3 ? (const char *)low + row * stride
                              : (const char *)high + (row - 3) * stride);
}

#endif

#endif

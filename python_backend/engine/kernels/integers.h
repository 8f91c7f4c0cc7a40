/* What all integer products share: floats rounded to levels, and levels spread over a vector. */

#ifndef TRIREME_INTEGERS_H
#define TRIREME_INTEGERS_H

#include "vectors.h"

#include <immintrin.h>
#include <string.h>

/* Round `count` values to -127..127 of the largest magnitude, half to even, and make the levels from
 * there to `padded`, a multiple of 16, zero. Returns the scale; `sum` is that of the levels. */
INLINE float round_to_levels(const float *values, int count, int padded, int8_t *levels,
                             int32_t *sum) {
    __m512 tops = _mm512_setzero_ps();
    int i = 0;
    for (; i + LANES <= count; i += LANES)
        tops = _mm512_max_ps(tops, _mm512_abs_ps(_mm512_loadu_ps(values + i)));
    __mmask16 rest = (__mmask16)((1u << (count - i)) - 1);
    if (rest) tops = _mm512_max_ps(tops, _mm512_abs_ps(_mm512_maskz_loadu_ps(rest, values + i)));
    float top = _mm512_reduce_max_ps(tops);
    const __m512 by = _mm512_set1_ps(top > 0 ? 127.0f / top : 0.0f);
    __m512i sums = _mm512_setzero_si512();
    for (i = 0; i < padded; i += LANES) {
        int left = count - i;
        __mmask16 valid = left >= LANES ? 0xffff : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
        __m512i level =
            _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(valid, values + i), by));
        sums = _mm512_add_epi32(sums, level);
        _mm_storeu_si128((__m128i *)(levels + i), _mm512_cvtsepi32_epi8(level));
    }
    *sum = _mm512_reduce_add_epi32(sums);
    return top / 127.0f;
}

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

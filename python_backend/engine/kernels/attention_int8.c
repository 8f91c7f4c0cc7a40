/* Paged attention over keys and values in eight bits, in integer products.
 *
 * A block's layer is, for each key and value head: keys [head_dim / 4][16 tokens][4], the level plus
 * 128; values [4][head_dim][4 tokens]; the scales of 16 keys and of 16 values, float. A token's key
 * and its value have a scale each, which its own largest element decides, so nothing has to be known
 * of them beforehand and what is written never changes.
 *
 * Queries are rounded like keys. The weights of 32 tokens, times the scales of their values, are
 * rounded to 0..255 of the largest among them: a few heavy tokens elsewhere cost the light ones
 * nothing. As the groups of 32 lie at fixed positions, a query's result is the same bits whatever
 * else is computed.
 */

#include "linear.h"

#if HAS_AVX512_VNNI

#include "attention.h"
#include "integers.h"

#include <math.h>

enum {
    PAIR = 2 * LANES, /* tokens whose weights share a scale: two blocks */
    SCORE_ROWS = 8,   /* rows whose sums stay in registers, with two vectors each */
    VALUE_ROWS = 4,   /* with four */
};

static const float LOG2_E = 1.44269504088896f;

static int64_t head_bytes(const Heads *heads) {
    return (int64_t)2 * LANES * heads->head_dim + 2 * LANES * sizeof(float);
}

void write_tile_int8(const void *context, int tile) {
    const Job *job = context;
    const Batch *batch = job->batch;
    const Heads *heads = job->heads;
    int sequence, first, count, dim = heads->head_dim;
    float turned[dim];
    int8_t levels[dim];
    int32_t unused;
    find_tile(job, tile, &sequence, &first, &count);
    for (int token = first; token < first + count; token++) {
        int position = batch->lengths[sequence] + token - batch->starts[sequence];
        int slot = position % LANES;
        char *block = block_of(job, sequence, position / LANES);
        const float *key = batch->qkv + token * row_width(heads) + heads->num_heads * dim;
        const float *value = key + heads->num_kv_heads * dim;
        for (int head = 0; head < heads->num_kv_heads; head++, key += dim, value += dim) {
            uint8_t *keys = (uint8_t *)block + head * head_bytes(heads);
            int8_t *values = (int8_t *)keys + LANES * dim;
            float *scales = (float *)(values + LANES * dim);
            rotate(job, sequence, position, key, turned);
            if (batch->smoothing) {
                const float *factors = smoothing_of(job, head);
                for (int i = 0; i < dim; i++) turned[i] /= factors[i];
            }
            scales[slot] = round_to_levels(turned, dim, dim, levels, &unused);
            for (int i = 0; i < dim; i++)
                keys[i / 4 * 64 + slot * 4 + i % 4] = (uint8_t)(levels[i] + 128);
            scales[LANES + slot] = round_to_levels(value, dim, dim, levels, &unused);
            for (int i = 0; i < dim; i++)
                values[slot / 4 * 4 * dim + i * 4 + slot % 4] = levels[i];
        }
    }
}

/* ---- products ------------------------------------------------------------------------------- */

/* scores[row][0..31] = queries[row] . the keys of two blocks, scaled. Queries lie
 * [dim / 4][SCORE_ROWS][4], so that all rows are at constant distances from one address. */
INLINE void score_rows(int rows, const int8_t *queries, const float *scales, const int32_t *offsets,
                       int dim, const uint8_t *first, const uint8_t *second,
                       const float *key_scales, float *scores, int64_t stride) {
    __m512i sums[2 * SCORE_ROWS];
    for (int i = 0; i < 2 * rows; i++) sums[i] = _mm512_setzero_si512();
    const uint8_t *end = first + dim * LANES;
#pragma GCC unroll 4
    for (; first != end; first += 64, second += 64, queries += 4 * SCORE_ROWS) {
        __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(second);
        for (int row = 0; row < rows; row++) {
            __m512i query = four_bytes(queries + row * 4);
            sums[2 * row] = _mm512_dpbusd_epi32(sums[2 * row], a, query);
            sums[2 * row + 1] = _mm512_dpbusd_epi32(sums[2 * row + 1], b, query);
        }
    }
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < 2; v++) {
            __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(key_scales + v * LANES),
                                         _mm512_set1_ps(scales[row]));
            __m512i sum = _mm512_add_epi32(sums[2 * row + v], _mm512_set1_epi32(offsets[row]));
            _mm512_storeu_ps(scores + row * stride + v * LANES,
                             _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale));
        }
}

/* output[row][0..vectors * 16] += the weighted values of two blocks */
INLINE void add_rows(int rows, int vectors, const uint8_t *weights, int64_t stride,
                     const float *scales, int64_t scale_stride, const int8_t *first,
                     const int8_t *second, int dim, float *output) {
    __m512i sums[VALUE_ROWS * 4];
    for (int i = 0; i < rows * vectors; i++) sums[i] = _mm512_setzero_si512();
    const uint8_t *low = weights, *high = weights + 3 * stride;
    for (int half = 0; half < 2; half++) {
        const int8_t *values = half ? second : first;
        for (int token = 0; token < LANES; token += 4, values += 4 * dim, low += 4, high += 4) {
            __m512i some[4];
            for (int v = 0; v < vectors; v++) some[v] = _mm512_loadu_si512(values + v * 64);
            for (int row = 0; row < rows; row++) {
                __m512i weight = four_of_row(low, high, stride, row);
                for (int v = 0; v < vectors; v++) {
                    int i = row * vectors + v;
                    sums[i] = _mm512_dpbusd_epi32(sums[i], weight, some[v]);
                }
            }
        }
    }
    for (int row = 0; row < rows; row++) {
        const __m512 scale = _mm512_set1_ps(scales[row * scale_stride]);
        for (int v = 0; v < vectors; v++) {
            float *to = output + row * dim + v * LANES;
            _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[row * vectors + v]), scale,
                                         _mm512_loadu_ps(to)));
        }
    }
}

/* Functions of their own, for a number of rows that the compiler knows: the sums are registers. */
#define SCORE(n)                                                                                   \
    static __attribute__((noinline)) void score_##n(                                               \
        const int8_t *queries, const float *scales, const int32_t *offsets, int dim,               \
        const uint8_t *first, const uint8_t *second, const float *key_scales, float *scores,       \
        int64_t stride) {                                                                          \
        score_rows(n, queries, scales, offsets, dim, first, second, key_scales, scores, stride);   \
    }
SCORE(1) SCORE(2) SCORE(3) SCORE(4) SCORE(5) SCORE(6) SCORE(7) SCORE(8)

static void (*const SCORES[])(const int8_t *, const float *, const int32_t *, int, const uint8_t *,
                              const uint8_t *, const float *, float *, int64_t) = {
    score_1, score_2, score_3, score_4, score_5, score_6, score_7, score_8};

#define ADD(n)                                                                                     \
    static __attribute__((noinline)) void add_##n(                                                 \
        const uint8_t *weights, int64_t stride, const float *scales, int64_t scale_stride,         \
        const int8_t *first, const int8_t *second, int dim, float *output) {                       \
        int d = 0;                                                                                 \
        for (; d + 4 * LANES <= dim; d += 4 * LANES)                                               \
            add_rows(n, 4, weights, stride, scales, scale_stride, first + d * 4, second + d * 4,   \
                     dim, output + d);                                                             \
        for (; d < dim; d += LANES)                                                                \
            add_rows(n, 1, weights, stride, scales, scale_stride, first + d * 4, second + d * 4,   \
                     dim, output + d);                                                             \
    }
ADD(1) ADD(2) ADD(3) ADD(4)

static void (*const ADDS[])(const uint8_t *, int64_t, const float *, int64_t, const int8_t *,
                            const int8_t *, int, float *) = {add_1, add_2, add_3, add_4};

/* ---- softmax -------------------------------------------------------------------------------- */

/* 2 to the x for x <= 0, to about 4e-6 of its value. */
INLINE __m512 power_of_two(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-126.0f));
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 part = _mm512_sub_ps(x, whole);
    __m512 power = _mm512_set1_ps(9.618437357674640e-3f);
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(5.550332471162809e-2f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(2.402264791363012e-1f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(6.931472028550421e-1f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(power, whole);
}

/* Lanes of the vector at `at` that lie in [from, to). */
INLINE __mmask16 within(int64_t at, int64_t from, int64_t to) {
    int64_t low = from - at, high = to - at;
    unsigned below = high >= LANES ? 0xffffu : high > 0 ? (1u << high) - 1 : 0;
    unsigned under = low >= LANES ? 0xffffu : low > 0 ? (1u << low) - 1 : 0;
    return (__mmask16)(below & ~under);
}

/* The weights of PAIR scores, of the lanes that are seen: added to `sums`, multiplied by the scales
 * of their values, and rounded to 0..255 of the largest; returns the scale. */
INLINE float weigh_pair(const float *scores, const __mmask16 *seen, __m512 top,
                        const float *value_scales, __m512 *sums, uint8_t *weights) {
    __m512 some[2];
    for (int v = 0; v < 2; v++) {
        __m512 score = _mm512_maskz_sub_ps(seen[v], _mm512_loadu_ps(scores + v * LANES), top);
        __m512 weight = _mm512_maskz_mov_ps(seen[v], power_of_two(score));
        *sums = _mm512_add_ps(*sums, weight);
        some[v] = _mm512_maskz_mul_ps(seen[v], weight, _mm512_loadu_ps(value_scales + v * LANES));
    }
    float peak = _mm512_reduce_max_ps(_mm512_max_ps(some[0], some[1]));
    const __m512 by = _mm512_set1_ps(peak > 0 ? 255.0f / peak : 0.0f);
    for (int v = 0; v < 2; v++) {
        __m512i level = _mm512_cvtps_epi32(_mm512_mul_ps(some[v], by));
        _mm_storeu_si128((__m128i *)(weights + v * LANES), _mm512_cvtusepi32_epi8(level));
    }
    return peak / 255.0f;
}

/* Turn a row's scores [from, to) of `stride`, in powers of two, into weights of 0..255 with a scale
 * for each PAIR; returns the inverse of the sum of all weights before the values' scales. */
static float weigh(float *scores, int64_t from, int64_t to, int64_t stride, float cap,
                   const float *value_scales, uint8_t *weights, float *scales) {
    const __mmask16 all[2] = {0xffff, 0xffff};
    __m512 tops = _mm512_set1_ps(-INFINITY);
    for (int64_t i = 0; i < stride; i += LANES) {
        __m512 score = _mm512_loadu_ps(scores + i);
        if (cap > 0) {
            score = (__m512)capped((vec)score / LOG2_E, cap) * LOG2_E;
            _mm512_storeu_ps(scores + i, score);
        }
        if (from <= i && i + LANES <= to) tops = _mm512_max_ps(tops, score);
        else tops = _mm512_mask_max_ps(tops, within(i, from, to), tops, score);
    }
    const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(tops));
    __m512 sums = _mm512_setzero_ps();
    for (int64_t i = 0; i < stride; i += PAIR) {
        const __mmask16 some[2] = {within(i, from, to), within(i + LANES, from, to)};
        int is_whole = from <= i && i + PAIR <= to;
        scales[i / PAIR] = is_whole ? weigh_pair(scores + i, all, top, value_scales + i, &sums,
                                                 weights + i)
                                    : weigh_pair(scores + i, some, top, value_scales + i, &sums,
                                                 weights + i);
    }
    return 1.0f / _mm512_reduce_add_ps(sums);
}

/* ---- a tile --------------------------------------------------------------------------------- */

static int64_t lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

void attend_tile_int8(const void *context, int unit) {
    const Job *job = context;
    const Batch *batch = job->batch;
    const Heads *heads = job->heads;
    int head = unit % heads->num_kv_heads, dim = heads->head_dim;
    int group = heads->num_heads / heads->num_kv_heads;
    int sequence, first, count;
    find_tile(job, unit / heads->num_kv_heads, &sequence, &first, &count);
    int position = batch->lengths[sequence] + first - batch->starts[sequence];
    int rows = group * count, total = position + count;
    int first_pair = first_seen(job, position) / PAIR, behind = first_pair * PAIR;
    int pairs = (total + PAIR - 1) / PAIR - first_pair;
    int64_t stride = (int64_t)pairs * PAIR;

    int64_t query_bytes = lines((rows + SCORE_ROWS - 1) / SCORE_ROWS * SCORE_ROWS * dim);
    char *memory = attention_scratch(query_bytes + 4 * lines(rows * (dim + stride)) +
                                     4 * lines(rows * pairs) + lines(rows * stride) +
                                     8 * lines(stride));
    int8_t *queries = (int8_t *)memory;
    float *outputs = (float *)(memory += query_bytes);
    float *scores = outputs + rows * dim;
    float *scales = (float *)(memory += 4 * lines(rows * (dim + stride)));
    uint8_t *weights = (uint8_t *)(memory += 4 * lines(rows * pairs));
    float *key_scales = (float *)(memory += lines(rows * stride)), *value_scales = key_scales + stride;
    float query_scales[rows], inverse[rows];
    int32_t offsets[rows];
    const uint8_t *blocks[2 * pairs];

    /* A block that the last pair lacks is its first one again: nobody sees those tokens. */
    int last = (total - 1) / LANES;
    for (int i = 0; i < 2 * pairs; i++) {
        int index = 2 * first_pair + i;
        blocks[i] = (const uint8_t *)block_of(job, sequence, index < last ? index : last) +
                    head * head_bytes(heads);
        const float *block_scales = (const float *)(blocks[i] + 2 * LANES * dim);
        memcpy(key_scales + i * LANES, block_scales, LANES * sizeof(float));
        memcpy(value_scales + i * LANES, block_scales + LANES, LANES * sizeof(float));
    }
    for (int row = 0; row < rows; row++) {
        float turned[dim];
        int token = first + row / group;
        const float *query =
            batch->qkv + token * row_width(heads) + (head * group + row % group) * dim;
        rotate(job, sequence, position + row / group, query, turned);
        if (batch->smoothing) {
            const float *factors = smoothing_of(job, head);
            for (int i = 0; i < dim; i++) turned[i] *= factors[i];
        }
        int8_t levels[dim];
        query_scales[row] = round_to_levels(turned, dim, dim, levels, offsets + row);
        query_scales[row] *= heads->scale * LOG2_E;
        offsets[row] *= -128;
        int8_t *to = queries + row / SCORE_ROWS * SCORE_ROWS * dim + row % SCORE_ROWS * 4;
        for (int i = 0; i < dim; i += 4, to += 4 * SCORE_ROWS) memcpy(to, levels + i, 4);
    }
    for (int pair = 0; pair < pairs; pair++)
        for (int row = 0; row < rows; row += SCORE_ROWS) {
            int some = rows - row < SCORE_ROWS ? rows - row : SCORE_ROWS;
            SCORES[some - 1](queries + row * dim, query_scales + row, offsets + row, dim,
                             blocks[2 * pair], blocks[2 * pair + 1], key_scales + pair * PAIR,
                             scores + row * stride + pair * PAIR, stride);
        }
    for (int row = 0; row < rows; row++) {
        int own = position + row / group;
        inverse[row] = weigh(scores + row * stride, first_seen(job, own) - behind, own + 1 - behind,
                             stride, heads->logit_softcap, value_scales, weights + row * stride,
                             scales + row * pairs);
    }
    memset(outputs, 0, rows * dim * sizeof(float));
    for (int pair = 0; pair < pairs; pair++)
        for (int row = 0; row < rows; row += VALUE_ROWS) {
            int some = rows - row < VALUE_ROWS ? rows - row : VALUE_ROWS;
            ADDS[some - 1](weights + row * stride + pair * PAIR, stride, scales + row * pairs + pair,
                           pairs, (const int8_t *)blocks[2 * pair] + LANES * dim,
                           (const int8_t *)blocks[2 * pair + 1] + LANES * dim, dim,
                           outputs + row * dim);
        }
    for (int row = 0; row < rows; row++) {
        float *output = batch->output +
                        ((int64_t)(first + row / group) * heads->num_heads + head * group +
                         row % group) * dim;
        for (int d = 0; d < dim; d++) output[d] = outputs[row * dim + d] * inverse[row];
    }
}

int trireme_attends_int8(void) { return 1; }

#else

#include "attention.h"

#include <stdlib.h>

/* Python asks before it makes an int8 cache. */
int trireme_attends_int8(void) { return 0; }
void write_tile_int8(const void *job, int tile) { (void)job, (void)tile, abort(); }
void attend_tile_int8(const void *job, int unit) { (void)job, (void)unit, abort(); }

#endif

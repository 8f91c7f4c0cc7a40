/* Products of activations and weights that both are rounded to integers.
 *
 * Weights lie in panels of 64 outputs. In 8 bits a panel is [columns / 4][64 outputs][4 columns] of
 * the level plus 128, as the instruction multiplies unsigned by signed bytes; activations are the
 * signed side. In 4 bits it is [columns / 8][64 outputs][4 bytes], the first four columns in the
 * low halves of the bytes and the next four in the high halves.
 *
 * Integers add up exactly in whatever order, and what floats there are, are added in the order of
 * the groups. So a row's result is the same bits whatever rows stand beside it.
 */

#include "linear.h"

#if HAS_LINEAR

#include "integers.h"
#include "threads.h"

#include <stddef.h>
#include <string.h>

enum { GROUP = INT4_GROUP, VECTORS = PANEL / LANES };

int linear_groups(const Linear *linear) {
    return linear->bits == 8 ? 1 : linear->columns / GROUP;
}

/* ---- activations ---------------------------------------------------------------------------- */

void linear_round(const float *values, int valid, const Rounded *to, int row) {
    int8_t *levels = to->levels + (int64_t)row * to->columns;
    float *scales = to->scales + (int64_t)row * to->groups;
    float *sums = to->sums + (int64_t)row * to->groups;
    int width = to->columns / to->groups;
    for (int group = 0; group < to->groups; group++) {
        int start = group * width, left = valid - start;
        int32_t sum;
        scales[group] = round_to_levels(values + start, left < width ? left : width, width,
                                        levels + start, &sum);
        sums[group] = (float)sum;
    }
}

/* ---- tiles ---------------------------------------------------------------------------------- */

/* results[row][vector] of `rows` rows and `vectors` vectors of a panel in 8 bits. Meanwhile a
 * quarter of the next panel is fetched, from `ahead` on: a batch's first tile would wait for it. */
INLINE void tile_8(const Linear *linear, const Rounded *input, int first, int rows, int panel,
                   int vector, int vectors, const char *ahead, __m512 *results) {
    __m512i sums[24];
    for (int i = 0; i < rows * vectors; i++) sums[i] = _mm512_setzero_si512();
    int64_t columns = linear->columns;
    const int8_t *low = input->levels + (int64_t)first * columns, *high = low + 3 * columns;
    const uint8_t *weights = linear->levels + ((int64_t)panel * columns * PANEL) + vector * 64;
    const uint8_t *end = weights + columns * PANEL;
#pragma GCC unroll 4
    for (; weights != end; weights += 4 * PANEL, low += 4, high += 4, ahead += 64) {
        __m512i w[VECTORS];
        if (rows > 3) _mm_prefetch(ahead, _MM_HINT_T1);
        for (int v = 0; v < vectors; v++) w[v] = _mm512_load_si512(weights + 64 * v);
        for (int row = 0; row < rows; row++) {
            __m512i a = four_of_row(low, high, columns, row);
            for (int v = 0; v < vectors; v++)
                sums[row * vectors + v] = _mm512_dpbusd_epi32(sums[row * vectors + v], w[v], a);
        }
    }
    const float *scales = (const float *)linear->scales + panel * PANEL + vector * LANES;
    for (int row = 0; row < rows; row++) {
        __m512 scale = _mm512_set1_ps(input->scales[first + row]);
        __m512i offset = _mm512_set1_epi32(128 * (int32_t)input->sums[first + row]);
        for (int v = 0; v < vectors; v++) {
            __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[row * vectors + v], offset));
            results[row * vectors + v] =
                _mm512_mul_ps(_mm512_mul_ps(sum, scale), _mm512_loadu_ps(scales + v * LANES));
        }
    }
}

/* The same in 4 bits. */
INLINE void tile_4(const Linear *linear, const Rounded *input, int first, int rows, int panel,
                   int vector, int vectors, __m512 *results) {
    const __m512i low = _mm512_set1_epi8(15);
    int64_t columns = linear->columns, groups = columns / GROUP;
    for (int i = 0; i < rows * vectors; i++) results[i] = _mm512_setzero_ps();
    const int8_t *low_rows = input->levels + (int64_t)first * columns;
    const int8_t *high_rows = low_rows + 3 * columns;
    const float *row_scales = input->scales + (int64_t)first * groups;
    const float *row_sums = input->sums + (int64_t)first * groups;
    const uint8_t *weights = linear->levels + (int64_t)panel * columns * PANEL / 2 + vector * 64;
    const uint16_t *scales =
        (const uint16_t *)linear->scales + (int64_t)panel * groups * PANEL + vector * LANES;
    const uint8_t *zeros = linear->zeros + (int64_t)panel * groups * PANEL / 2;
    for (int64_t group = 0; group < groups; group++) {
        __m512i sums[24];
        for (int i = 0; i < rows * vectors; i++) sums[i] = _mm512_setzero_si512();
        for (int k = 0; k < GROUP; k += 8, weights += 4 * PANEL, low_rows += 8, high_rows += 8) {
            __m512i even[VECTORS], odd[VECTORS];
            for (int v = 0; v < vectors; v++) {
                __m512i both = _mm512_load_si512(weights + 64 * v);
                even[v] = _mm512_and_si512(both, low);
                odd[v] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
            }
            for (int row = 0; row < rows; row++) {
                __m512i a = four_of_row(low_rows, high_rows, columns, row);
                __m512i b = four_of_row(low_rows + 4, high_rows + 4, columns, row);
                for (int v = 0; v < vectors; v++) {
                    __m512i sum = sums[row * vectors + v];
                    sum = _mm512_dpbusd_epi32(sum, even[v], a);
                    sums[row * vectors + v] = _mm512_dpbusd_epi32(sum, odd[v], b);
                }
            }
        }
        __m512 scale[VECTORS], zero[VECTORS];
        for (int v = 0; v < vectors; v++) {
            /* Vectors 0 and 1 have their zero points in low halves, 2 and 3 in high ones. */
            int at = vector + v;
            __m128i bytes = _mm_loadu_si128((const __m128i *)(zeros + (at & 1) * LANES));
            if (at & 2) bytes = _mm_srli_epi16(bytes, 4);
            bytes = _mm_and_si128(bytes, _mm_set1_epi8(15));
            zero[v] = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
            scale[v] =
                _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(scales + v * LANES)));
        }
        for (int row = 0; row < rows; row++) {
            __m512 row_scale = _mm512_set1_ps(row_scales[row * groups + group]);
            __m512 row_sum = _mm512_set1_ps(row_sums[row * groups + group]);
            for (int v = 0; v < vectors; v++) {
                int i = row * vectors + v;
                __m512 sum = _mm512_cvtepi32_ps(sums[i]);
                sum = _mm512_fnmadd_ps(zero[v], row_sum, sum); /* exact: below 2 to the 24 */
                sum = _mm512_mul_ps(sum, row_scale);
                results[i] = _mm512_fmadd_ps(sum, scale[v], results[i]);
            }
        }
        scales += PANEL;
        zeros += PANEL / 2;
    }
}

/* ---- epilogues ------------------------------------------------------------------------------ */

/* x / (1 + e to the -y), the exponential to about 1e-7 of its value: 2^n by the exponent, the rest
 * by a polynomial (Cephes, exp2f). */
INLINE __m512 over_one_plus_exp(__m512 x, __m512 y) {
    __m512 scaled = _mm512_mul_ps(y, _mm512_set1_ps(-1.44269504088896f));
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
    return _mm512_div_ps(x, _mm512_add_ps(power, _mm512_set1_ps(1.0f)));
}

INLINE __m512 silu(__m512 x) { return over_one_plus_exp(x, x); }

INLINE __m512 gelu(__m512 x) {
    /* x * (1 + tanh(y)) / 2 is x / (1 + e to the -2y); y = sqrt(2 / pi) * (x + 0.044715 x^3). */
    __m512 twice = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.0713548162726f),
                                   _mm512_set1_ps(1.5957691216057f));
    return over_one_plus_exp(x, _mm512_mul_ps(x, twice));
}

INLINE void put(float *output, int left, __m512 value, int adds) {
    if (left <= 0) return;
    __mmask16 exists = left >= LANES ? 0xffff : (__mmask16)((1u << left) - 1);
    if (adds) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(exists, output));
    _mm512_mask_storeu_ps(output, exists, value);
}

static void finish(const Linear *linear, int panel, int rows, int vector, int vectors,
                   Epilogue epilogue, const __m512 *results, float *output, int width) {
    const float *bias = linear->bias ? linear->bias + panel * PANEL + vector * LANES : NULL;
    for (int row = 0; row < rows; row++, output += width) {
        __m512 values[VECTORS];
        for (int v = 0; v < vectors; v++) {
            values[v] = results[row * vectors + v];
            if (bias) values[v] = _mm512_add_ps(values[v], _mm512_loadu_ps(bias + v * LANES));
        }
        if (epilogue == WRITE || epilogue == ADD) {
            int start = panel * PANEL + vector * LANES;
            for (int v = 0; v < vectors; v++)
                put(output + start + v * LANES, width - start - v * LANES, values[v],
                    epilogue == ADD);
        } else { /* gates are even vectors, ups odd ones */
            int start = (panel * PANEL + vector * LANES) / 2;
            for (int v = 0; v < vectors; v += 2) {
                __m512 gate = epilogue == SILU_GATE ? silu(values[v]) : gelu(values[v]);
                put(output + start + v / 2 * LANES, width - start - v / 2 * LANES,
                    _mm512_mul_ps(gate, values[v + 1]), 0);
            }
        }
    }
}

/* ---- a panel -------------------------------------------------------------------------------- */

/* Tiles of a number of rows that the compiler knows, so that the sums are registers; functions of
 * their own, so that nothing else is. */
#define TILES(rows, vectors_4)                                                                     \
    static __attribute__((noinline)) void tile_8_##rows(                                           \
        const Linear *linear, const Rounded *input, int first, int panel, int vector,              \
        const char *ahead, __m512 *results) {                                                      \
        tile_8(linear, input, first, rows, panel, vector, VECTORS, ahead, results);                \
    }                                                                                              \
    static __attribute__((noinline)) void tile_4_##rows(                                           \
        const Linear *linear, const Rounded *input, int first, int panel, int vector,              \
        const char *ahead, __m512 *results) {                                                      \
        (void)ahead;                                                                               \
        tile_4(linear, input, first, rows, panel, vector, vectors_4, results);                     \
    }
TILES(1, 4)
TILES(2, 4)
TILES(3, 2)
TILES(4, 2)
TILES(5, 2)
TILES(6, 2)

typedef struct {
    void (*run)(const Linear *, const Rounded *, int first, int panel, int vector,
                const char *ahead, __m512 *results);
    int vectors;
} Tile;

enum { MOST_ROWS = 6 };

static const Tile TILES_8[] = {{tile_8_1, 4}, {tile_8_2, 4}, {tile_8_3, 4},
                               {tile_8_4, 4}, {tile_8_5, 4}, {tile_8_6, 4}};
static const Tile TILES_4[] = {{tile_4_1, 4}, {tile_4_2, 4}, {tile_4_3, 2},
                               {tile_4_4, 2}, {tile_4_5, 2}, {tile_4_6, 2}};

void linear_panel(const Linear *linear, const Rounded *input, int first, int rows, int panel,
                  Epilogue epilogue, float *output, int width) {
    const Tile *all = linear->bits == 8 ? TILES_8 : TILES_4;
    output += (int64_t)first * width;
    int64_t quarter = (int64_t)linear->columns * (PANEL / 4);
    const char *ahead = (const char *)linear->levels + (panel + 1) * quarter * 4;
    for (int tiles = (rows + MOST_ROWS - 1) / MOST_ROWS; tiles; tiles--) {
        int count = (rows + tiles - 1) / tiles;
        const Tile *tile = all + count - 1;
        for (int vector = 0; vector < VECTORS; vector += tile->vectors) {
            __m512 results[MOST_ROWS * VECTORS];
            tile->run(linear, input, first, panel, vector, ahead, results);
            finish(linear, panel, count, vector, tile->vectors, epilogue, results, output, width);
        }
        ahead += quarter;
        first += count;
        rows -= count;
        output += (int64_t)count * width;
    }
}

/* ---- packing -------------------------------------------------------------------------------- */

/* Where the outputs of a matrix go: vector i of 16 outputs to vector `every` * i + `offset`, so
 * that gates and ups alternate. */
typedef struct {
    const void *levels;
    const float *scales;
    const uint8_t *zeros;
    int32_t bits, outputs, columns, padded; /* columns that exist, and with padding */
    int32_t every, offset;
    uint8_t *to_levels;
    void *to_scales;
    uint8_t *to_zeros;
} Packing;

/* 8 bits: levels int8 [columns][outputs], scales [outputs]. */
static void pack_int8(const Packing *pack, int source) {
    int vector = pack->every * source + pack->offset;
    int panel = vector / (PANEL / LANES), slot = vector % (PANEL / LANES);
    uint8_t *to = pack->to_levels + (int64_t)panel * pack->padded * PANEL + slot * 64;
    const int8_t *levels = pack->levels;
    int count = pack->outputs - source * LANES < LANES ? pack->outputs - source * LANES : LANES;
    for (int k = 0; k < pack->columns; k++) {
        uint8_t *group = to + (int64_t)(k / 4) * 4 * PANEL + k % 4;
        const int8_t *from = levels + (int64_t)k * pack->outputs + source * LANES;
        for (int i = 0; i < count; i++) group[i * 4] = (uint8_t)(from[i] + 128);
    }
    memcpy((float *)pack->to_scales + vector * LANES, pack->scales + source * LANES,
           count * sizeof(float));
}

/* 4 bits: levels [outputs][groups][16], two a byte; scales [outputs][groups];
 * zeros [outputs][(groups + 1) / 2], two a byte. */
static void pack_int4(const Packing *pack, int source) {
    int vector = pack->every * source + pack->offset;
    int panel = vector / (PANEL / LANES), slot = vector % (PANEL / LANES);
    int64_t groups = pack->padded / INT4_GROUP;
    uint8_t *to = pack->to_levels + (int64_t)panel * pack->padded * PANEL / 2 + slot * 64;
    _Float16 *to_scales = (_Float16 *)pack->to_scales + (int64_t)panel * groups * PANEL;
    uint8_t *to_zeros = pack->to_zeros + (int64_t)panel * groups * PANEL / 2;
    int count = pack->outputs - source * LANES < LANES ? pack->outputs - source * LANES : LANES;
    for (int i = 0; i < count; i++) {
        int64_t output = source * LANES + i;
        const uint8_t *from = (const uint8_t *)pack->levels + output * groups * (INT4_GROUP / 2);
        for (int64_t k = 0; k < groups * INT4_GROUP; k++) {
            uint8_t level = k % 2 ? from[k / 2] >> 4 : from[k / 2] & 15;
            to[k / 8 * 4 * PANEL + i * 4 + k % 4] |= k % 8 < 4 ? level : level << 4;
        }
        for (int64_t group = 0; group < groups; group++) {
            uint8_t pair = pack->zeros[output * ((groups + 1) / 2) + group / 2];
            uint8_t zero = group % 2 ? pair >> 4 : pair & 15;
            to_scales[group * PANEL + slot * LANES + i] =
                (_Float16)pack->scales[output * groups + group];
            to_zeros[group * (PANEL / 2) + slot % 2 * LANES + i] |= slot < 2 ? zero : zero << 4;
        }
    }
}

/* A unit is a panel: its vectors share bytes. */
static void pack_panel(const void *context, int panel) {
    const Packing *pack = context;
    int vectors = PANEL / LANES / pack->every;
    for (int source = panel * vectors; source < (panel + 1) * vectors; source++) {
        if (source * LANES >= pack->outputs) return;
        pack->bits == 8 ? pack_int8(pack, source) : pack_int4(pack, source);
    }
}

/* Pack a matrix into memory that is zero. */
void trireme_pack(const Packing *pack) {
    int outputs = PANEL / pack->every;
    trireme_parallel(pack_panel, pack, (pack->outputs + outputs - 1) / outputs);
}

#endif

/* Tiles for AVX-512, with VNNI where the instruction set has it. */

#include "tiles.h"

#if HAS_AVX512

#include "integers.h"

enum { ROWS = 6, SUMS = ROWS * VECTORS };

/* Products of four bytes a lane are added to sums, exactly, as tiles_avx2.c says. */
#if HAS_AVX512_VNNI

#define NAME "AVX-512 VNNI"

enum {
    OFFSET = 128, /* that weights in 8 bits still have */
    WIDE = 4,     /* vectors of a tile with many rows of them: what registers hold */
};

INLINE __m512i add_8(__m512i sums, __m512i weights, __m512i levels) {
    return _mm512_dpbusd_epi32(sums, weights, levels);
}
INLINE __m512i add_4(__m512i sums, __m512i weights, __m512i levels) {
    return _mm512_dpbusd_epi32(sums, weights, levels);
}
INLINE __m512i group_sums(__m512i sums) { return sums; }

#else

#define NAME "AVX-512"

enum { OFFSET = 0, WIDE = 2 };

INLINE __m512i add_8(__m512i sums, __m512i weights, __m512i levels) {
    __m512i weight = _mm512_xor_si512(weights, _mm512_set1_epi8((char)128));
    __m512i signed_levels = _mm512_mask_sub_epi8(levels, _mm512_movepi8_mask(weight),
                                                 _mm512_setzero_si512(), levels);
    __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(weight), signed_levels);
    return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
INLINE __m512i add_4(__m512i sums, __m512i weights, __m512i levels) {
    return _mm512_add_epi16(sums, _mm512_maddubs_epi16(weights, levels));
}
INLINE __m512i group_sums(__m512i sums) {
    return _mm512_madd_epi16(sums, _mm512_set1_epi16(1));
}

#endif

/* Of a panel in 8 bits, with a scale a row. */
INLINE void tile_8(const Linear *linear, const Rounded *input, int first, int rows, int panel,
                   int vector, int vectors, const char *ahead, float results[][PANEL]) {
    __m512i sums[SUMS];
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
                sums[row * vectors + v] = add_8(sums[row * vectors + v], w[v], a);
        }
    }
    const float *scales = (const float *)linear->scales + panel * PANEL + vector * LANES;
    for (int row = 0; row < rows; row++) {
        __m512 scale = _mm512_set1_ps(input->scales[first + row]);
        __m512i offset = _mm512_set1_epi32(OFFSET * (int32_t)input->sums[first + row]);
        for (int v = 0; v < vectors; v++) {
            __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[row * vectors + v], offset));
            sum = _mm512_mul_ps(_mm512_mul_ps(sum, scale), _mm512_loadu_ps(scales + v * LANES));
            _mm512_storeu_ps(results[row] + (vector + v) * LANES, sum);
        }
    }
}

/* The same with a scale a group. */
INLINE void tile_8_block(const Linear *linear, const Rounded *input, int first, int rows, int panel,
                         int vector, int vectors, const char *ahead, float results[][PANEL]) {
    int64_t columns = linear->columns, groups = columns / GROUP;
    __m512 totals[SUMS];
    for (int i = 0; i < rows * vectors; i++) totals[i] = _mm512_setzero_ps();
    const int8_t *low = input->levels + (int64_t)first * columns, *high = low + 3 * columns;
    const float *row_scales = input->scales + (int64_t)first * groups;
    const float *row_sums = input->sums + (int64_t)first * groups;
    const uint8_t *weights = linear->levels + (int64_t)panel * columns * PANEL + vector * 64;
    const uint16_t *scales =
        (const uint16_t *)linear->scales + (int64_t)panel * groups * PANEL + vector * LANES;
    for (int64_t group = 0; group < groups; group++, scales += PANEL) {
        __m512i sums[SUMS];
        for (int row = 0; row < rows; row++) {
            int32_t offset = OFFSET * (int32_t)row_sums[row * groups + group];
            for (int v = 0; v < vectors; v++) sums[row * vectors + v] = _mm512_set1_epi32(-offset);
        }
#pragma GCC unroll 8
        for (int k = 0; k < GROUP; k += 4, weights += 4 * PANEL, low += 4, high += 4, ahead += 64) {
            __m512i w[VECTORS];
            if (rows > 3) _mm_prefetch(ahead, _MM_HINT_T1);
            for (int v = 0; v < vectors; v++) w[v] = _mm512_load_si512(weights + 64 * v);
            for (int row = 0; row < rows; row++) {
                __m512i a = four_of_row(low, high, columns, row);
                for (int v = 0; v < vectors; v++)
                    sums[row * vectors + v] = add_8(sums[row * vectors + v], w[v], a);
            }
        }
        __m512 scale[VECTORS];
        for (int v = 0; v < vectors; v++)
            scale[v] =
                _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(scales + v * LANES)));
        for (int row = 0; row < rows; row++) {
            __m512 row_scale = _mm512_set1_ps(row_scales[row * groups + group]);
            for (int v = 0; v < vectors; v++) {
                int i = row * vectors + v;
                __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[i]), row_scale);
                totals[i] = _mm512_fmadd_ps(sum, scale[v], totals[i]);
            }
        }
    }
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++)
            _mm512_storeu_ps(results[row] + (vector + v) * LANES, totals[row * vectors + v]);
}

/* The same in 4 bits, with a minimum a group. */
INLINE void tile_4(const Linear *linear, const Rounded *input, int first, int rows, int panel,
                   int vector, int vectors, const char *ahead, float results[][PANEL]) {
    (void)ahead;
    const __m512i low = _mm512_set1_epi8(15);
    int64_t columns = linear->columns, groups = columns / GROUP;
    __m512 totals[SUMS];
    for (int i = 0; i < rows * vectors; i++) totals[i] = _mm512_setzero_ps();
    const int8_t *low_rows = input->levels + (int64_t)first * columns;
    const int8_t *high_rows = low_rows + 3 * columns;
    const float *row_scales = input->scales + (int64_t)first * groups;
    const float *row_sums = input->sums + (int64_t)first * groups;
    const uint8_t *weights = linear->levels + (int64_t)panel * columns * PANEL / 2 + vector * 64;
    const uint16_t *scales =
        (const uint16_t *)linear->scales + (int64_t)panel * groups * PANEL + vector * LANES;
    const uint16_t *minima =
        (const uint16_t *)linear->minima + (int64_t)panel * groups * PANEL + vector * LANES;
    for (int64_t group = 0; group < groups; group++) {
        __m512i sums[SUMS];
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
                    sum = add_4(sum, even[v], a);
                    sums[row * vectors + v] = add_4(sum, odd[v], b);
                }
            }
        }
        __m512 scale[VECTORS], minimum[VECTORS];
        for (int v = 0; v < vectors; v++) {
            scale[v] =
                _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(scales + v * LANES)));
            minimum[v] =
                _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(minima + v * LANES)));
        }
        for (int row = 0; row < rows; row++) {
            __m512 row_scale = _mm512_set1_ps(row_scales[row * groups + group]);
            __m512 row_sum = _mm512_mul_ps(
                row_scale, _mm512_set1_ps(row_sums[row * groups + group]));
            for (int v = 0; v < vectors; v++) {
                int i = row * vectors + v;
                __m512 sum = _mm512_cvtepi32_ps(group_sums(sums[i]));
                sum = _mm512_mul_ps(sum, row_scale);
                totals[i] = _mm512_fmadd_ps(sum, scale[v], totals[i]);
                totals[i] = _mm512_fmadd_ps(row_sum, minimum[v], totals[i]);
            }
        }
        scales += PANEL;
        minima += PANEL;
    }
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++)
            _mm512_storeu_ps(results[row] + (vector + v) * LANES, totals[row * vectors + v]);
}

TILE(tile_8, 1, 4)
TILE(tile_8, 2, 4)
TILE(tile_8, 3, WIDE)
TILE(tile_8, 4, WIDE)
TILE(tile_8, 5, WIDE)
TILE(tile_8, 6, WIDE)
TILE(tile_8_block, 1, 4)
TILE(tile_8_block, 2, 4)
TILE(tile_8_block, 3, 2)
TILE(tile_8_block, 4, 2)
TILE(tile_8_block, 5, 2)
TILE(tile_8_block, 6, 2)
TILE(tile_4, 1, 4)
TILE(tile_4, 2, 4)
TILE(tile_4, 3, 2)
TILE(tile_4, 4, 2)
TILE(tile_4, 5, 2)
TILE(tile_4, 6, 2)

static const Tile TILES_8[ROWS] = {{tile_8_1, 4},    {tile_8_2, 4},    {tile_8_3, WIDE},
                                   {tile_8_4, WIDE}, {tile_8_5, WIDE}, {tile_8_6, WIDE}};
static const Tile TILES_8_BLOCK[ROWS] = {{tile_8_block_1, 4}, {tile_8_block_2, 4},
                                         {tile_8_block_3, 2}, {tile_8_block_4, 2},
                                         {tile_8_block_5, 2}, {tile_8_block_6, 2}};
static const Tile TILES_4[ROWS] = {{tile_4_1, 4}, {tile_4_2, 4}, {tile_4_3, 2},
                                   {tile_4_4, 2}, {tile_4_5, 2}, {tile_4_6, 2}};

const TileSet AVX512_TILES = {
    .name = NAME, .least_rows = 1, .most_rows = ROWS, .tiles = {TILES_8, TILES_8_BLOCK, TILES_4}};

#endif

/* Tiles for AVX2, with VNNI where the instruction set has it.
 *
 * Vectors have eight lanes here; tiles count them in pairs of 16 outputs, as everybody else does.
 */

#include "tiles.h"

#if HAS_LINEAR && !HAS_AVX512

#include <immintrin.h>
#include <string.h>

enum { ROWS = 6, HALF = LANES / 2, HALVES = 2 * VECTORS };

INLINE __m256i four_bytes(const void *from) {
    int32_t four;
    memcpy(&four, from, sizeof four);
    return _mm256_set1_epi32(four);
}

/* Products of four bytes a lane are added to sums. Both ways are exact. */
#if __AVXVNNI__ || (__AVX512VNNI__ && __AVX512VL__)

#define NAME "AVX-VNNI"

enum { OFFSET = 128 }; /* that weights in 8 bits still have */

INLINE __m256i add_8(__m256i sums, __m256i weights, __m256i levels) {
#if __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(sums, weights, levels);
#else
    return _mm256_dpbusd_epi32(sums, weights, levels); /* the same, as AVX-512 has it */
#endif
}
INLINE __m256i add_4(__m256i sums, __m256i weights, __m256i levels) {
    return add_8(sums, weights, levels);
}
INLINE __m256i group_sums(__m256i sums) { return sums; }

#else

#define NAME "AVX2"

enum { OFFSET = 0 };

/* The offset goes first: what is left, and the signs with the other side, keep sums of two products
 * below 2 to the 15. */
INLINE __m256i add_8(__m256i sums, __m256i weights, __m256i levels) {
    __m256i weight = _mm256_xor_si256(weights, _mm256_set1_epi8((char)128));
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(levels, weight));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
/* Sums of two products, of a whole group: 8 * 2 * 15 * 127 is below 2 to the 15. */
INLINE __m256i add_4(__m256i sums, __m256i weights, __m256i levels) {
    return _mm256_add_epi16(sums, _mm256_maddubs_epi16(weights, levels));
}
INLINE __m256i group_sums(__m256i sums) {
    return _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
}

#endif

/* Of a panel in 8 bits, with a scale a row. */
INLINE void tile_8(const Linear *linear, const Rounded *input, int first, int rows, int panel,
                   int vector, int vectors, const char *ahead, float results[][PANEL]) {
    int halves = 2 * vectors;
    __m256i sums[ROWS * HALVES];
    for (int i = 0; i < rows * halves; i++) sums[i] = _mm256_setzero_si256();
    int64_t columns = linear->columns;
    const int8_t *levels = input->levels + first * columns;
    const uint8_t *weights = linear->levels + panel * columns * PANEL + vector * 64;
    for (int64_t k = 0; k < columns; k += 4, weights += 4 * PANEL, ahead += 64) {
        __m256i w[HALVES];
        if (rows > 3) _mm_prefetch(ahead, _MM_HINT_T1);
        for (int h = 0; h < halves; h++) w[h] = _mm256_load_si256((const __m256i *)weights + h);
        for (int row = 0; row < rows; row++) {
            __m256i a = four_bytes(levels + row * columns + k);
            for (int h = 0; h < halves; h++)
                sums[row * halves + h] = add_8(sums[row * halves + h], w[h], a);
        }
    }
    const float *scales = (const float *)linear->scales + panel * PANEL + vector * LANES;
    for (int row = 0; row < rows; row++) {
        __m256 scale = _mm256_set1_ps(input->scales[first + row]);
        __m256i offset = _mm256_set1_epi32(OFFSET * (int32_t)input->sums[first + row]);
        for (int h = 0; h < halves; h++) {
            __m256 sum = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[row * halves + h], offset));
            sum = _mm256_mul_ps(_mm256_mul_ps(sum, scale), _mm256_loadu_ps(scales + h * HALF));
            _mm256_storeu_ps(results[row] + vector * LANES + h * HALF, sum);
        }
    }
}

/* The same with a scale a group. */
INLINE void tile_8_block(const Linear *linear, const Rounded *input, int first, int rows, int panel,
                         int vector, int vectors, const char *ahead, float results[][PANEL]) {
    int halves = 2 * vectors;
    int64_t columns = linear->columns, groups = columns / GROUP;
    __m256 totals[ROWS * HALVES];
    for (int i = 0; i < rows * halves; i++) totals[i] = _mm256_setzero_ps();
    const int8_t *levels = input->levels + first * columns;
    const float *row_scales = input->scales + first * groups;
    const float *row_sums = input->sums + first * groups;
    const uint8_t *weights = linear->levels + panel * columns * PANEL + vector * 64;
    const uint16_t *scales =
        (const uint16_t *)linear->scales + panel * groups * PANEL + vector * LANES;
    for (int64_t group = 0; group < groups; group++, scales += PANEL) {
        __m256i sums[ROWS * HALVES];
        for (int row = 0; row < rows; row++) {
            int32_t offset = OFFSET * (int32_t)row_sums[row * groups + group];
            for (int h = 0; h < halves; h++) sums[row * halves + h] = _mm256_set1_epi32(-offset);
        }
        for (int k = 0; k < GROUP; k += 4, weights += 4 * PANEL, levels += 4, ahead += 64) {
            __m256i w[HALVES];
            if (rows > 3) _mm_prefetch(ahead, _MM_HINT_T1);
            for (int h = 0; h < halves; h++) w[h] = _mm256_load_si256((const __m256i *)weights + h);
            for (int row = 0; row < rows; row++) {
                __m256i a = four_bytes(levels + row * columns);
                for (int h = 0; h < halves; h++)
                    sums[row * halves + h] = add_8(sums[row * halves + h], w[h], a);
            }
        }
        __m256 scale[HALVES];
        for (int h = 0; h < halves; h++)
            scale[h] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(scales + h * HALF)));
        for (int row = 0; row < rows; row++) {
            __m256 row_scale = _mm256_set1_ps(row_scales[row * groups + group]);
            for (int h = 0; h < halves; h++) {
                int i = row * halves + h;
                __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[i]), row_scale);
                totals[i] = _mm256_fmadd_ps(sum, scale[h], totals[i]);
            }
        }
    }
    for (int row = 0; row < rows; row++)
        for (int h = 0; h < halves; h++)
            _mm256_storeu_ps(results[row] + vector * LANES + h * HALF, totals[row * halves + h]);
}

/* The same in 4 bits, with a minimum a group. */
INLINE void tile_4(const Linear *linear, const Rounded *input, int first, int rows, int panel,
                   int vector, int vectors, const char *ahead, float results[][PANEL]) {
    (void)ahead;
    const __m256i low = _mm256_set1_epi8(15);
    int halves = 2 * vectors;
    int64_t columns = linear->columns, groups = columns / GROUP;
    __m256 totals[ROWS * HALVES];
    for (int i = 0; i < rows * halves; i++) totals[i] = _mm256_setzero_ps();
    const int8_t *levels = input->levels + first * columns;
    const float *row_scales = input->scales + first * groups;
    const float *row_sums = input->sums + first * groups;
    const uint8_t *weights = linear->levels + panel * columns * PANEL / 2 + vector * 64;
    const uint16_t *scales =
        (const uint16_t *)linear->scales + panel * groups * PANEL + vector * LANES;
    const uint16_t *minima =
        (const uint16_t *)linear->minima + panel * groups * PANEL + vector * LANES;
    for (int64_t group = 0; group < groups; group++) {
        __m256i sums[ROWS * HALVES];
        for (int i = 0; i < rows * halves; i++) sums[i] = _mm256_setzero_si256();
        for (int k = 0; k < GROUP; k += 8, weights += 4 * PANEL, levels += 8) {
            __m256i even[HALVES], odd[HALVES];
            for (int h = 0; h < halves; h++) {
                __m256i both = _mm256_load_si256((const __m256i *)weights + h);
                even[h] = _mm256_and_si256(both, low);
                odd[h] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
            }
            for (int row = 0; row < rows; row++) {
                __m256i a = four_bytes(levels + row * columns);
                __m256i b = four_bytes(levels + row * columns + 4);
                for (int h = 0; h < halves; h++) {
                    __m256i sum = add_4(sums[row * halves + h], even[h], a);
                    sums[row * halves + h] = add_4(sum, odd[h], b);
                }
            }
        }
        __m256 scale[HALVES], minimum[HALVES];
        for (int h = 0; h < halves; h++) {
            scale[h] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(scales + h * HALF)));
            minimum[h] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(minima + h * HALF)));
        }
        for (int row = 0; row < rows; row++) {
            __m256 row_scale = _mm256_set1_ps(row_scales[row * groups + group]);
            __m256 row_sum = _mm256_mul_ps(
                row_scale, _mm256_set1_ps(row_sums[row * groups + group]));
            for (int h = 0; h < halves; h++) {
                int i = row * halves + h;
                __m256 sum = _mm256_cvtepi32_ps(group_sums(sums[i]));
                sum = _mm256_mul_ps(sum, row_scale);
                totals[i] = _mm256_fmadd_ps(sum, scale[h], totals[i]);
                totals[i] = _mm256_fmadd_ps(row_sum, minimum[h], totals[i]);
            }
        }
        scales += PANEL;
        minima += PANEL;
    }
    for (int row = 0; row < rows; row++)
        for (int h = 0; h < halves; h++)
            _mm256_storeu_ps(results[row] + vector * LANES + h * HALF, totals[row * halves + h]);
}

TILE(tile_8, 1, 4)
TILE(tile_8, 2, 2)
TILE(tile_8, 3, 1)
TILE(tile_8, 4, 1)
TILE(tile_8, 5, 1)
TILE(tile_8, 6, 1)
TILE(tile_8_block, 1, 2)
TILE(tile_8_block, 2, 1)
TILE(tile_8_block, 3, 1)
TILE(tile_8_block, 4, 1)
TILE(tile_8_block, 5, 1)
TILE(tile_8_block, 6, 1)
TILE(tile_4, 1, 2)
TILE(tile_4, 2, 1)
TILE(tile_4, 3, 1)
TILE(tile_4, 4, 1)
TILE(tile_4, 5, 1)
TILE(tile_4, 6, 1)

static const Tile TILES_8[ROWS] = {{tile_8_1, 4}, {tile_8_2, 2}, {tile_8_3, 1},
                                   {tile_8_4, 1}, {tile_8_5, 1}, {tile_8_6, 1}};
static const Tile TILES_8_BLOCK[ROWS] = {{tile_8_block_1, 2}, {tile_8_block_2, 1},
                                         {tile_8_block_3, 1}, {tile_8_block_4, 1},
                                         {tile_8_block_5, 1}, {tile_8_block_6, 1}};
static const Tile TILES_4[ROWS] = {{tile_4_1, 2}, {tile_4_2, 1}, {tile_4_3, 1},
                                   {tile_4_4, 1}, {tile_4_5, 1}, {tile_4_6, 1}};

const TileSet AVX2_TILES = {
    .name = NAME, .least_rows = 1, .most_rows = ROWS, .tiles = {TILES_8, TILES_8_BLOCK, TILES_4}};

#endif

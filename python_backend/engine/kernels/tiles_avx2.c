/* Tiles for AVX2, with VNNI where the instruction set has it.
 *
 * Vectors have eight lanes here; tiles count them in pairs of 16 outputs, as everybody else does.
 */

#include "tiles.h"

#if HAS_LINEAR && !HAS_AVX512

#include <immintrin.h>
#include <string.h>

enum { GROUP = INT4_GROUP, ROWS = 6, HALF = LANES / 2, HALVES = 2 * VECTORS };

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

/* Of a panel in 8 bits. */
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

/* The same in 4 bits. */
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
    const uint8_t *zeros = linear->zeros + panel * groups * PANEL / 2;
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
        __m256 scale[HALVES], zero[HALVES];
        for (int h = 0; h < halves; h++) {
            /* Vectors 0 and 1 have their zero points in low halves of bytes, 2 and 3 in high ones. */
            int at = vector + h / 2;
            __m128i nibbles = _mm_loadl_epi64(
                (const __m128i *)(zeros + (at & 1) * LANES + h % 2 * HALF));
            if (at & 2) nibbles = _mm_srli_epi16(nibbles, 4);
            nibbles = _mm_and_si128(nibbles, _mm_set1_epi8(15));
            zero[h] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(nibbles));
            scale[h] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(scales + h * HALF)));
        }
        for (int row = 0; row < rows; row++) {
            __m256 row_scale = _mm256_set1_ps(row_scales[row * groups + group]);
            __m256 row_sum = _mm256_set1_ps(row_sums[row * groups + group]);
            for (int h = 0; h < halves; h++) {
                int i = row * halves + h;
                __m256 sum = _mm256_cvtepi32_ps(group_sums(sums[i]));
                sum = _mm256_fnmadd_ps(zero[h], row_sum, sum); /* exact: below 2 to the 24 */
                sum = _mm256_mul_ps(sum, row_scale);
                totals[i] = _mm256_fmadd_ps(sum, scale[h], totals[i]);
            }
        }
        scales += PANEL;
        zeros += PANEL / 2;
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
TILE(tile_4, 1, 2)
TILE(tile_4, 2, 1)
TILE(tile_4, 3, 1)
TILE(tile_4, 4, 1)
TILE(tile_4, 5, 1)
TILE(tile_4, 6, 1)

static const Tile TILES_8[ROWS] = {{tile_8_1, 4}, {tile_8_2, 2}, {tile_8_3, 1},
                                   {tile_8_4, 1}, {tile_8_5, 1}, {tile_8_6, 1}};
static const Tile TILES_4[ROWS] = {{tile_4_1, 2}, {tile_4_2, 1}, {tile_4_3, 1},
                                   {tile_4_4, 1}, {tile_4_5, 1}, {tile_4_6, 1}};

const TileSet AVX2_TILES = {
    .name = NAME, .least_rows = 1, .most_rows = ROWS, .tiles_8 = TILES_8, .tiles_4 = TILES_4};

#endif

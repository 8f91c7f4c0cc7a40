/* Products of activations and weights that both are rounded to integers.
 *
 * Weights lie in panels of 64 outputs. In 8 bits a panel is [columns / 4][64 outputs][4 columns] of
 * the level plus 128, as the instruction multiplies unsigned by signed bytes; activations are the
 * signed side. In 4 bits it is [columns / 8][64 outputs][4 bytes], the first four columns in the
 * low halves of the bytes and the next four in the high halves. A weight is its level times the
 * scale, of the row or of its group; in 4 bits the group's minimum is added.
 *
 * Where weights have a scale a group, activations may have an offset: of a group whose values are
 * mostly on one side of zero, the levels are spread around the middle of their range.
 *
 * Integers add up exactly in whatever order, and what floats there are, are added in the order of
 * the groups. So a row's result is the same bits whatever rows stand beside it.
 */

#include "linear.h"

EXPORT_CONSTANT(PANEL);
EXPORT_CONSTANT(GROUP);

const char *const trireme_choices_weights[] = {"int8", "int8_block", "int4", NULL};

#if HAS_LINEAR

#include "integers.h"
#include "threads.h"
#include "tiles.h"

#include <string.h>

int linear_groups(const Linear *linear) {
    return linear->storage == INT8 ? 1 : linear->columns / GROUP;
}

/* ---- activations ---------------------------------------------------------------------------- */

void linear_round(const float *values, int valid, const Rounded *to, int row) {
    int8_t *levels = to->levels + (int64_t)row * to->columns;
    float *scales = to->scales + (int64_t)row * to->groups;
    float *sums = to->sums + (int64_t)row * to->groups;
    Offset *offsets = to->offsets ? to->offsets + (int64_t)row * to->groups : NULL;
    int width = to->columns / to->groups;
    for (int group = 0; group < to->groups; group++) {
        int start = group * width, count = valid - start < width ? valid - start : width;
        int32_t sum;
        float offset = 0;
        scales[group] = to->offsets ? round_to_narrow_levels(values + start, count, width,
                                                             levels + start, &sum, &offset)
                                    : round_to_levels(values + start, count, width,
                                                      levels + start, &sum);
        sums[group] = (float)sum;
        if (offset != 0) *offsets++ = (Offset){offset, group};
    }
    if (to->offsets && offsets < to->offsets + (int64_t)(row + 1) * to->groups) offsets->group = -1;
}

/* ---- epilogues ------------------------------------------------------------------------------ */

INLINE vec silu(vec x) { return over_one_plus_exp(x, x); }

INLINE vec gelu(vec x) {
    /* x * (1 + tanh(y)) / 2 is x / (1 + e to the -2y); y = sqrt(2 / pi) * (x + 0.044715 x^3). */
    return over_one_plus_exp(x, x * (x * x * 0.0713548162726f + 1.5957691216057f));
}

INLINE void put(float *output, int left, vec value, int adds) {
    if (left >= LANES) {
        if (adds) value += load(output);
        store(output, value);
        return;
    }
    for (int i = 0; i < left; i++) output[i] = adds ? output[i] + value[i] : value[i];
}

static void finish(const Linear *linear, int panel, int rows, Epilogue epilogue,
                   float results[][PANEL], float *output, int width) {
    const float *bias = linear->bias ? linear->bias + panel * PANEL : NULL;
    int start = epilogue == WRITE || epilogue == ADD ? panel * PANEL : panel * PANEL / 2;
    for (int row = 0; row < rows; row++, output += width) {
        vec values[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            values[v] = load(results[row] + v * LANES);
            if (bias) values[v] += load(bias + v * LANES);
        }
        float *to = output + start;
        int left = width - start;
        if (epilogue == WRITE || epilogue == ADD) {
            for (int v = 0; v < VECTORS; v++, to += LANES, left -= LANES)
                put(to, left, values[v], epilogue == ADD);
        } else { /* gates are even vectors, ups odd ones */
            for (int v = 0; v < VECTORS; v += 2, to += LANES, left -= LANES)
                put(to, left,
                    (epilogue == SILU_GATE ? silu(values[v]) : gelu(values[v])) * values[v + 1], 0);
        }
    }
}

/* A group's offset times the sum of its weights, where a group has one. */
static void add_offsets(const Linear *linear, const Rounded *input, int first, int rows, int panel,
                        float results[][PANEL]) {
    int groups = input->groups;
    const halves *totals = (const halves *)linear->totals + (int64_t)panel * groups * VECTORS;
    const Offset *offsets = input->offsets + (int64_t)first * groups;
    for (int row = 0; row < rows; row++, offsets += groups) {
        if (offsets->group < 0) continue;
        vec sums[VECTORS];
        for (int v = 0; v < VECTORS; v++) sums[v] = load(results[row] + v * LANES);
        for (int i = 0; i < groups && offsets[i].group >= 0; i++) {
            const halves *of_group = totals + offsets[i].group * VECTORS;
            for (int v = 0; v < VECTORS; v++)
                sums[v] += __builtin_convertvector(of_group[v], vec) * offsets[i].value;
        }
        for (int v = 0; v < VECTORS; v++) store(results[row] + v * LANES, sums[v]);
    }
}

/* ---- a panel -------------------------------------------------------------------------------- */

void linear_panel(const Linear *linear, const Rounded *input, int first, int rows, int panel,
                  Epilogue epilogue, float *output, int width) {
    const TileSet *set = tiles_for(linear->storage, rows);
    const Tile *all = set->tiles[linear->storage];
    tiles_start_thread(set);
    output += (int64_t)first * width;
    int64_t quarter = (int64_t)linear->columns * (PANEL / 4);
    const char *ahead = (const char *)linear->levels + (panel + 1) * quarter * 4;
    for (int tiles = (rows + set->most_rows - 1) / set->most_rows; tiles; tiles--) {
        int count = (rows + tiles - 1) / tiles;
        const Tile *tile = all + count - 1;
        float results[MOST_ROWS][PANEL];
        for (int vector = 0; vector < VECTORS; vector += tile->vectors)
            tile->run(linear, input, first, count, panel, vector, ahead, results);
        if (input->offsets) add_offsets(linear, input, first, count, panel, results);
        finish(linear, panel, count, epilogue, results, output, width);
        ahead += quarter;
        first += count;
        rows -= count;
        output += (int64_t)count * width;
    }
}

/* ---- packing -------------------------------------------------------------------------------- */

/* Where the outputs of a matrix go: vector i of 16 outputs to vector `every` * i + `offset`, so
 * that gates and ups alternate. */
#define PACKING_FIELDS(FIELD, S)                                                                   \
    FIELD(S, const void *, levels)                                                                 \
    FIELD(S, const float *, scales)                                                                \
    FIELD(S, const float *, middles) /* 4 bits: what level 8 stands for, a group's */              \
    FIELD(S, int32_t, storage)                                                                     \
    FIELD(S, int32_t, outputs)                                                                     \
    FIELD(S, int32_t, columns) /* that exist, */                                                   \
    FIELD(S, int32_t, padded)  /* and with padding */                                              \
    FIELD(S, int32_t, every)                                                                       \
    FIELD(S, int32_t, offset)                                                                      \
    FIELD(S, uint8_t *, to_levels)                                                                 \
    FIELD(S, void *, to_scales)                                                                    \
    FIELD(S, void *, to_minima)                                                                    \
    FIELD(S, void *, to_totals)
STRUCTURE(Packing, PACKING_FIELDS);
EXPORT_STRUCTURE(Packing, PACKING_FIELDS);
EXPORT_STRUCTURE(Linear, LINEAR_FIELDS);

/* 8 bits, a scale a row: levels int8 [columns][outputs], scales [outputs]. */
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

/* The sum of a group's first levels. */
static int total_of(const uint8_t *levels, int count, int bits) {
    int total = 0;
    for (int k = 0; k < count; k++)
        total += bits == 8 ? levels[k] : k % 2 ? levels[k / 2] >> 4 : levels[k / 2] & 15;
    return total;
}

/* A scale a group, scales [outputs][groups]. 8 bits: levels plus 128 [outputs][groups][32]; 4 bits:
 * levels [outputs][groups][16], two a byte, middles [outputs][groups]. */
static void pack_groups(const Packing *pack, int source) {
    int vector = pack->every * source + pack->offset;
    int panel = vector / (PANEL / LANES), slot = vector % (PANEL / LANES);
    int64_t groups = pack->padded / GROUP, bits = pack->storage == INT4 ? 4 : 8;
    uint8_t *to = pack->to_levels + (int64_t)panel * pack->padded * PANEL * bits / 8 + slot * 64;
    _Float16 *to_scales = (_Float16 *)pack->to_scales + (int64_t)panel * groups * PANEL;
    _Float16 *to_minima = (_Float16 *)pack->to_minima + (int64_t)panel * groups * PANEL;
    _Float16 *to_totals = (_Float16 *)pack->to_totals + (int64_t)panel * groups * PANEL;
    int count = pack->outputs - source * LANES < LANES ? pack->outputs - source * LANES : LANES;
    for (int i = 0; i < count; i++) {
        int64_t output = source * LANES + i;
        const uint8_t *from = (const uint8_t *)pack->levels + output * groups * GROUP * bits / 8;
        if (bits == 8) {
            for (int64_t k = 0; k < groups * GROUP; k++)
                to[k / 4 * 4 * PANEL + i * 4 + k % 4] = from[k];
        } else {
            for (int64_t k = 0; k < groups * GROUP; k++) {
                uint8_t level = k % 2 ? from[k / 2] >> 4 : from[k / 2] & 15;
                to[k / 8 * 4 * PANEL + i * 4 + k % 4] |= k % 8 < 4 ? level : level << 4;
            }
        }
        for (int64_t group = 0; group < groups; group++) {
            int64_t at = group * PANEL + slot * LANES + i;
            float scale = pack->scales[output * groups + group];
            int left = pack->columns - (int)group * GROUP, count_of = left < GROUP ? left : GROUP;
            int total = total_of(from + group * GROUP * bits / 8, count_of, (int)bits);
            to_scales[at] = (_Float16)scale;
            if (bits == 4) {
                to_minima[at] = (_Float16)(pack->middles[output * groups + group] - 8 * scale);
                to_totals[at] = (_Float16)(scale * total + (float)to_minima[at] * count_of);
            } else to_totals[at] = (_Float16)(scale * (total - 128 * count_of));
        }
    }
}

/* A unit is a panel: its vectors share bytes. */
static void pack_panel(const void *context, int panel) {
    const Packing *pack = context;
    int vectors = PANEL / LANES / pack->every;
    for (int source = panel * vectors; source < (panel + 1) * vectors; source++) {
        if (source * LANES >= pack->outputs) return;
        pack->storage == INT8 ? pack_int8(pack, source) : pack_groups(pack, source);
    }
}

/* Pack a matrix into memory that is zero. */
void trireme_pack(const Packing *pack) {
    int outputs = PANEL / pack->every;
    trireme_parallel(pack_panel, pack, (pack->outputs + outputs - 1) / outputs);
}

#endif

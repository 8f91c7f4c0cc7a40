/* Products of activations and weights that both are rounded to integers. */

#ifndef TRIREME_LINEAR_H
#define TRIREME_LINEAR_H

#include "structures.h"

#include <stdint.h>

#define HAS_AVX512 (__AVX512F__ && __AVX512BW__ && __AVX512DQ__ && __AVX512VL__)
#define HAS_AVX512_VNNI (HAS_AVX512 && __AVX512VNNI__)

/* Whether these instructions are enough; without them there is no native decoder. */
#define HAS_LINEAR (HAS_AVX512 || (__AVX2__ && __FMA__ && __F16C__))

enum {
    PANEL = 64,      /* outputs that are computed together: four vectors of 16 */
    GROUP = 32, /* weights of a row that share a scale, where they do; so do their activations */
};

/* How weights are stored, in the order of trireme_choices_weights. */
typedef enum {
    INT8,       /* 8 bits, a scale a row */
    INT8_BLOCK, /* 8 bits, a scale a group */
    INT4,       /* 4 bits, a scale and a minimum a group */
    STORAGES,
} Storage;

/* A matrix of weights, packed by trireme_pack. */
#define LINEAR_FIELDS(FIELD, S)                                                                    \
    FIELD(S, int32_t, storage)        /* a Storage */                                              \
    FIELD(S, int32_t, inputs)                                                                      \
    FIELD(S, int32_t, columns)        /* inputs, padded to a multiple of 32 */                     \
    FIELD(S, int32_t, outputs)        /* of a row; gates and ups make one together */              \
    FIELD(S, int32_t, panels)                                                                      \
    FIELD(S, const uint8_t *, levels) /* by panel; see linear.c */                                 \
    FIELD(S, const void *, scales)    /* a row: float [panels][PANEL];                             \
                                         a group: half [panels][groups][PANEL] */                  \
    FIELD(S, const void *, minima)    /* 4 bits: half [panels][groups][PANEL] */                   \
    FIELD(S, const void *, totals)    /* a group: half [panels][groups][PANEL], sums of weights */ \
    FIELD(S, const float *, bias)     /* float [panels][PANEL], or NULL */
STRUCTURE(Linear, LINEAR_FIELDS);

/* A group of a row of activations whose level of 0 stands for another value than 0. */
typedef struct {
    float value;
    int32_t group; /* -1: there are no more */
} Offset;

/* Rows of activations, rounded. Where weights have a scale a row, a row is one group. */
typedef struct {
    int8_t *levels; /* [rows][columns], -127 to 127 */
    float *scales;  /* [rows][groups] */
    float *sums;    /* [rows][groups]: sums of levels, exact */
    Offset *offsets; /* [rows][groups], the groups that have one; NULL: none has */
    int32_t columns, groups;
} Rounded;

/* What becomes of a product. */
typedef enum {
    WRITE,     /* output = product */
    ADD,       /* output += product */
    SILU_GATE, /* a panel is 32 gates and 32 ups: output = silu(gate) * up */
    GELU_GATE, /* the same with the tanh form of GELU */
} Epilogue;

/* Round a row: `columns` values, of which those from `valid` on don't exist and become zero. */
void linear_round(const float *values, int valid, const Rounded *to, int row);

/* Groups of a row of activations for these weights. */
int linear_groups(const Linear *linear);

/* Compute one panel for `rows` rows from `first` on, of an output [rows][width]. */
void linear_panel(const Linear *linear, const Rounded *input, int first, int rows, int panel,
                  Epilogue epilogue, float *output, int width);

#endif

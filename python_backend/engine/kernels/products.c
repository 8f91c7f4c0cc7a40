/* Products of rows: normed, rounded, multiplied by packed weights on all threads, and added to the
 * residual stream.
 *
 * What is too little to share, such as the norm of a single row, the caller computes alone: that is
 * quicker than to wait for others.
 */

#include "layers.h"

#if HAS_LINEAR

enum {
    LITTLE = 4096,     /* values that one thread handles before another has awoken */
    MEMORY_BOUND = 64, /* rows of a product that mostly waits for its weights */
    HALVINGS = 5,      /* after which the rest of a matrix is given out at once */
};

/* A region whose units are rows, or blocks of rows of a panel. */
typedef struct {
    const Decoder *decoder;
    const Linear *linear;
    Rounded rounded;
    const float *values; /* [rows][linear's inputs] */
    const Norm *norm;    /* of the rows before they are rounded, if it does anything */
    int rows, block;     /* of a panel: all, and those of a unit */
    Epilogue epilogue;
    float *output;
} Region;

void share_rows(TriremeUnit run, const void *context, int rows, int width) {
    trireme_share(run, context, rows, (int64_t)rows * width <= LITTLE);
}

static void round_row(const void *context, int row) {
    const Region *region = context;
    int width = region->linear->inputs;
    const float *values = region->values + (int64_t)row * width;
    if (region->norm && region->norm->run) {
        float *normed = region->decoder->normed + (int64_t)row * width;
        region->norm->run(region->norm, values, width, normed);
        values = normed;
    }
    linear_round(values, width, &region->rounded, row);
}

static void multiply_block(const void *context, int unit) {
    const Region *region = context;
    int blocks = (region->rows + region->block - 1) / region->block;
    int first = unit % blocks * region->block;
    int rows = region->rows - first < region->block ? region->rows - first : region->block;
    linear_panel(region->linear, &region->rounded, first, rows, unit / blocks, region->epilogue,
                 region->output, region->linear->outputs);
}

/* A run of panels, which the memory delivers faster the longer it is. So each thread gets a part of
 * the first half of them, then of the next quarter, and so on: none waits long for the last one. */
static void multiply_run(const void *context, int unit) {
    const Region *region = context;
    int threads = trireme_num_threads(), panels = region->linear->panels;
    int halving = unit / threads, part = unit % threads;
    int start = panels - (panels >> halving);
    int count = (halving == HALVINGS ? panels : panels - (panels >> (halving + 1))) - start;
    int end = start + count * (part + 1) / threads;
    for (int panel = start + count * part / threads; panel < end; panel++)
        linear_panel(region->linear, &region->rounded, 0, region->rows, panel, region->epilogue,
                     region->output, region->linear->outputs);
}

void multiply(const Decoder *decoder, const Linear *linear, int rows, const float *values,
              const Norm *norm, Epilogue epilogue, float *output) {
    if (!rows) return;
    Region region = {
        .decoder = decoder,
        .linear = linear,
        .rounded = {decoder->levels, decoder->scales, decoder->sums,
                    linear->totals ? decoder->offsets : NULL, linear->columns,
                    linear_groups(linear)},
        .values = values,
        .norm = norm,
        .rows = rows,
        .block = rows,
        .epilogue = epilogue,
        .output = output,
    };
    share_rows(round_row, &region, rows, linear->inputs);
    if (rows <= MEMORY_BOUND) {
        trireme_parallel(multiply_run, &region, (HALVINGS + 1) * trireme_num_threads());
        return;
    }
    /* Few panels share many rows out, so that no thread waits long for the last one. */
    while (region.block > 48 && linear->panels * (rows / region.block) < 32)
        region.block = (region.block + 1) / 2;
    int blocks = (rows + region.block - 1) / region.block;
    trireme_parallel(multiply_block, &region, linear->panels * blocks);
}

static void add_normed_row(const void *context, int row) {
    const Region *region = context;
    int width = region->decoder->hidden_size;
    float *delta = region->decoder->normed + (int64_t)row * width;
    float *residual = region->decoder->residual + (int64_t)row * width;
    region->norm->run(region->norm, delta, width, delta);
    for (int i = 0; i < width; i++) residual[i] += delta[i];
}

void add_product(const Decoder *decoder, const Linear *linear, int rows, const float *values,
                 const Norm *norm) {
    if (!norm->run) {
        multiply(decoder, linear, rows, values, NULL, ADD, decoder->residual);
        return;
    }
    multiply(decoder, linear, rows, values, NULL, WRITE, decoder->normed);
    const Region region = {.decoder = decoder, .norm = norm};
    share_rows(add_normed_row, &region, rows, decoder->hidden_size);
}

#endif

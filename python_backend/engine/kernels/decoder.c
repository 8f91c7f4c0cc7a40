/* A whole step of a decoder: from token ids to logits, on the tokens of all scheduled sequences
 * packed without padding.
 *
 * A layer is ten regions of parallel work. What is too little to share, such as the norm of a
 * single row, the caller computes alone: that is quicker than to wait for others.
 */

#include "linear.h"

#if HAS_LINEAR

#include "attention.h"
#include "threads.h"
#include "vectors.h"

#include <math.h>
#include <string.h>

#define LAYER_FIELDS(FIELD, S)                                                                     \
    FIELD(S, const float *, attention_norm)                                                        \
    FIELD(S, Linear, qkv)                                                                          \
    FIELD(S, const float *, q_norm) /* of each head, or NULL */                                    \
    FIELD(S, const float *, k_norm)                                                                \
    FIELD(S, Linear, attention_output)                                                             \
    FIELD(S, const float *, post_attention_norm) /* of what is added to the residual, or NULL */   \
    FIELD(S, const float *, mlp_norm)                                                              \
    FIELD(S, Linear, gate_up)                                                                      \
    FIELD(S, Linear, down)                                                                         \
    FIELD(S, const float *, post_mlp_norm)
STRUCTURE(Layer, LAYER_FIELDS);
EXPORT_STRUCTURE(Layer, LAYER_FIELDS);

#define DECODER_FIELDS(FIELD, S)                                                                   \
    FIELD(S, int32_t, num_layers)                                                                  \
    FIELD(S, int32_t, hidden_size)                                                                 \
    FIELD(S, int32_t, intermediate_size)                                                           \
    FIELD(S, int32_t, vocab_size)                                                                  \
    FIELD(S, int32_t, activation)      /* an Epilogue */                                           \
    FIELD(S, int32_t, embedding_dtype) /* 0: float, 1: half, 2: bfloat16 */                        \
    FIELD(S, float, norm_eps)                                                                      \
    FIELD(S, float, embedding_scale)                                                               \
    FIELD(S, float, logit_softcap)     /* logits become cap * tanh(logit / cap); 0: they stay */   \
    FIELD(S, const void *, embedding)  /* [vocab][hidden] */                                       \
    FIELD(S, const float *, final_norm)                                                            \
    FIELD(S, Linear, lm_head)                                                                      \
    FIELD(S, const Layer *, layers)                                                                \
    /* Memory for a step's values, for the most tokens of a step. */                               \
    FIELD(S, float *, residual) /* [tokens][hidden] */                                             \
    FIELD(S, float *, normed)   /* [tokens][hidden] */                                             \
    FIELD(S, float *, qkv)      /* [tokens][(num_heads + 2 * num_kv_heads) * head_dim] */          \
    FIELD(S, float *, attended) /* [tokens][num_heads * head_dim] */                               \
    FIELD(S, float *, gated)    /* [tokens][intermediate] */                                       \
    FIELD(S, int8_t *, levels)  /* [tokens][the widest input] */                                   \
    FIELD(S, float *, scales)   /* [tokens][the most groups] */                                    \
    FIELD(S, float *, sums)
STRUCTURE(Decoder, DECODER_FIELDS);
EXPORT_STRUCTURE(Decoder, DECODER_FIELDS);

#define STEP_FIELDS(FIELD, S)                                                                      \
    FIELD(S, int32_t, num_tokens)                                                                  \
    FIELD(S, int32_t, num_rows)                                                                    \
    FIELD(S, const int64_t *, ids)  /* [tokens] */                                                 \
    FIELD(S, const int64_t *, rows) /* [rows]: whose logits are wanted */                          \
    FIELD(S, float *, logits)       /* [rows][vocab] */
STRUCTURE(Step, STEP_FIELDS);
EXPORT_STRUCTURE(Step, STEP_FIELDS);

enum {
    LITTLE = 4096,     /* values that one thread handles before another has awoken */
    MEMORY_BOUND = 64, /* rows of a product that mostly waits for its weights */
    HALVINGS = 5,      /* after which the rest of a matrix is given out at once */
};

/* ---- rows ----------------------------------------------------------------------------------- */

/* A region whose units are rows, or blocks of rows of a panel. */
typedef struct {
    const Decoder *decoder;
    const Step *step;
    const Linear *linear;
    Rounded rounded;
    const Batch *batch;
    const Layer *layer;
    const float *values; /* [rows][width] */
    const float *norm;   /* what the rows are normed by before they are rounded, or NULL */
    int width;
    int rows, block; /* of a panel: all, and those of a unit */
    Epilogue epilogue;
    float *output;
    int output_width;
} Region;

static void each_row(TriremeUnit run, const Region *region, int rows) {
    trireme_share(run, region, rows, (int64_t)rows * region->width <= LITTLE);
}

/* output = values / rms(values) * weight */
static void norm_row(const float *values, const float *weight, int width, float eps,
                     float *output) {
    vec sums = splat(0);
    int i = 0;
    for (; i + LANES <= width; i += LANES) sums += load(values + i) * load(values + i);
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
    for (; i < width; i++) sum += values[i] * values[i];
    float scale = 1.0f / sqrtf(sum / (float)width + eps);
    for (i = 0; i < width; i++) output[i] = values[i] * scale * weight[i];
}

static void embed_row(const void *context, int row) {
    const Region *region = context;
    const Decoder *decoder = region->decoder;
    int width = decoder->hidden_size;
    int64_t start = region->step->ids[row] * width;
    float *output = decoder->residual + (int64_t)row * width;
    if (decoder->embedding_dtype == 0) {
        memcpy(output, (const float *)decoder->embedding + start, width * sizeof(float));
    } else if (decoder->embedding_dtype == 1) {
        const _Float16 *from = (const _Float16 *)decoder->embedding + start;
        for (int i = 0; i < width; i++) output[i] = (float)from[i];
    } else {
        const uint16_t *from = (const uint16_t *)decoder->embedding + start;
        for (int i = 0; i < width; i++) {
            uint32_t bits = (uint32_t)from[i] << 16;
            memcpy(output + i, &bits, sizeof bits);
        }
    }
    if (decoder->embedding_scale != 1)
        for (int i = 0; i < width; i++) output[i] *= decoder->embedding_scale;
}

static void round_row(const void *context, int row) {
    const Region *region = context;
    const float *values = region->values + (int64_t)row * region->width;
    if (region->norm) {
        float *normed = region->decoder->normed + (int64_t)row * region->width;
        norm_row(values, region->norm, region->width, region->decoder->norm_eps, normed);
        values = normed;
    }
    linear_round(values, region->width, &region->rounded, row);
}

static void norm_heads(const void *context, int row) {
    const Region *region = context;
    float eps = region->decoder->norm_eps;
    int dim = region->batch->head_dim;
    float *head = region->decoder->qkv + (int64_t)row * region->width;
    for (int i = 0; i < region->batch->num_heads; i++, head += dim)
        norm_row(head, region->layer->q_norm, dim, eps, head);
    for (int i = 0; i < region->batch->num_kv_heads; i++, head += dim)
        norm_row(head, region->layer->k_norm, dim, eps, head);
}

/* ---- products ------------------------------------------------------------------------------- */

static void multiply_block(const void *context, int unit) {
    const Region *region = context;
    int blocks = (region->rows + region->block - 1) / region->block;
    int first = unit % blocks * region->block;
    int rows = region->rows - first < region->block ? region->rows - first : region->block;
    linear_panel(region->linear, &region->rounded, first, rows, unit / blocks, region->epilogue,
                 region->output, region->output_width);
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
                     region->output, region->output_width);
}

/* output = epilogue(linear(norm(values))) */
static void multiply(const Decoder *decoder, const Linear *linear, int rows, const float *values,
                     int width, const float *norm, Epilogue epilogue, float *output,
                     int output_width) {
    Region region = {
        .decoder = decoder,
        .linear = linear,
        .rounded = {decoder->levels, decoder->scales, decoder->sums, linear->columns,
                    linear_groups(linear)},
        .values = values,
        .norm = norm,
        .width = width,
        .rows = rows,
        .block = rows,
        .epilogue = epilogue,
        .output = output,
        .output_width = output_width,
    };
    each_row(round_row, &region, rows);
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

/* ---- a step --------------------------------------------------------------------------------- */

static void run_layer(const Decoder *decoder, const Batch *batch, int index, int rows) {
    const Layer *layer = decoder->layers + index;
    int hidden = decoder->hidden_size, attended = batch->num_heads * batch->head_dim;
    int qkv = attended + 2 * batch->num_kv_heads * batch->head_dim;
    multiply(decoder, &layer->qkv, rows, decoder->residual, hidden, layer->attention_norm, WRITE,
             decoder->qkv, qkv);
    if (layer->q_norm) {
        const Region region = {.decoder = decoder, .batch = batch, .layer = layer, .width = qkv};
        each_row(norm_heads, &region, rows);
    }
    trireme_attention(batch, index);
}

static void add_normed_row(const void *context, int row) {
    const Region *region = context;
    int width = region->width;
    float *delta = region->decoder->normed + (int64_t)row * width;
    float *residual = region->decoder->residual + (int64_t)row * width;
    norm_row(delta, region->norm, width, region->decoder->norm_eps, delta);
    for (int i = 0; i < width; i++) residual[i] += delta[i];
}

/* residual += linear(values), normed first where there is a norm */
static void add_product(const Decoder *decoder, const Linear *linear, int rows,
                        const float *values, int width, const float *norm) {
    int hidden = decoder->hidden_size;
    float *output = norm ? decoder->normed : decoder->residual;
    multiply(decoder, linear, rows, values, width, NULL, norm ? WRITE : ADD, output, hidden);
    if (!norm) return;
    const Region region = {.decoder = decoder, .norm = norm, .width = hidden};
    each_row(add_normed_row, &region, rows);
}

/* The rest of a layer after its attention. */
static void finish_layer(const Decoder *decoder, int index, int attended, int rows) {
    const Layer *layer = decoder->layers + index;
    int hidden = decoder->hidden_size, intermediate = decoder->intermediate_size;
    add_product(decoder, &layer->attention_output, rows, decoder->attended, attended,
                layer->post_attention_norm);
    multiply(decoder, &layer->gate_up, rows, decoder->residual, hidden, layer->mlp_norm,
             (Epilogue)decoder->activation, decoder->gated, intermediate);
    add_product(decoder, &layer->down, rows, decoder->gated, intermediate, layer->post_mlp_norm);
}

static void cap_row(const void *context, int row) {
    const Region *region = context;
    float *logits = region->step->logits + (int64_t)row * region->width;
    float cap = region->decoder->logit_softcap;
    int i = 0;
    for (; i + LANES <= region->width; i += LANES) store(logits + i, capped(load(logits + i), cap));
    for (; i < region->width; i++) logits[i] = capped(splat(logits[i]), cap)[0];
}

/* Move the rows whose logits are wanted to the front; their numbers rise. */
static void keep_rows(float *values, int width, const Step *step) {
    for (int row = 0; row < step->num_rows; row++)
        if (step->rows[row] != row)
            memcpy(values + (int64_t)row * width, values + step->rows[row] * width,
                   width * sizeof(float));
}

/* Compute a step. `batch` says whose tokens they are; its qkv and output are the decoder's. */
void trireme_decode(const Decoder *decoder, Batch *batch, const Step *step) {
    int hidden = decoder->hidden_size, attended = batch->num_heads * batch->head_dim;
    int rows = step->num_tokens, last = decoder->num_layers - 1;
    batch->qkv = decoder->qkv;
    batch->output = decoder->attended;
    const Region embedding = {.decoder = decoder, .step = step, .width = hidden};
    each_row(embed_row, &embedding, rows);
    for (int index = 0; index < last; index++) {
        run_layer(decoder, batch, index, rows);
        finish_layer(decoder, index, attended, rows);
    }
    run_layer(decoder, batch, last, rows);
    if (!step->num_rows) return;
    keep_rows(decoder->attended, attended, step);
    keep_rows(decoder->residual, hidden, step);
    finish_layer(decoder, last, attended, step->num_rows);
    multiply(decoder, &decoder->lm_head, step->num_rows, decoder->residual, hidden,
             decoder->final_norm, WRITE, step->logits, decoder->vocab_size);
    if (decoder->logit_softcap > 0) {
        const Region region = {.decoder = decoder, .step = step, .width = decoder->vocab_size};
        each_row(cap_row, &region, step->num_rows);
    }
}

#endif

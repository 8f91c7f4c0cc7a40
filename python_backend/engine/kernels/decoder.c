/* A whole step of a decoder: from token ids to logits, on the tokens of all scheduled sequences
 * packed without padding. */

#include "layers.h"

#if HAS_LINEAR

#include "vectors.h"

#include <string.h>

EXPORT_STRUCTURE(Part, PART_FIELDS);
EXPORT_STRUCTURE(Layer, LAYER_FIELDS);
EXPORT_STRUCTURE(Decoder, DECODER_FIELDS);
EXPORT_STRUCTURE(Step, STEP_FIELDS);

const char *const trireme_choices_embedding_dtype[] = {"float32", "float16", "bfloat16",
                                                     "int8_block", NULL};

static void embed_row(const void *context, int row) {
    const Pass *pass = context;
    const Decoder *decoder = pass->decoder;
    int width = decoder->hidden_size;
    int64_t start = pass->step->ids[row] * width;
    float *output = decoder->residual + (int64_t)row * width;
    if (decoder->embedding_dtype == 0) {
        memcpy(output, (const float *)decoder->embedding + start, width * sizeof(float));
    } else if (decoder->embedding_dtype == 1) {
        const _Float16 *from = (const _Float16 *)decoder->embedding + start;
        for (int i = 0; i < width; i++) output[i] = (float)from[i];
    } else if (decoder->embedding_dtype == 3) {
        int64_t first = pass->step->ids[row] * ((width + GROUP - 1) / GROUP);
        const uint8_t *from = (const uint8_t *)decoder->embedding + first * GROUP;
        const float *scales = decoder->embedding_scales + first;
        for (int i = 0; i < width; i++) output[i] = (float)(from[i] - 128) * scales[i / GROUP];
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

static void cap_row(const void *context, int row) {
    const Pass *pass = context;
    int width = pass->decoder->lm_head.outputs;
    float *logits = pass->step->logits + (int64_t)row * width;
    float cap = pass->decoder->logit_softcap;
    int i = 0;
    for (; i + LANES <= width; i += LANES) store(logits + i, capped(load(logits + i), cap));
    for (; i < width; i++) logits[i] = capped(splat(logits[i]), cap)[0];
}

/* Move the rows whose logits are wanted to the front; their numbers rise. */
static void keep_rows(float *values, int width, const Step *step) {
    for (int row = 0; row < step->num_rows; row++)
        if (step->rows[row] != row)
            memcpy(values + (int64_t)row * width, values + step->rows[row] * width,
                   width * sizeof(float));
}

void narrow(Pass *pass, float *values, int width) {
    const Decoder *decoder = pass->decoder;
    if (pass->layer < decoder->num_layers - 1) return;
    keep_rows(values, width, pass->step);
    keep_rows(decoder->residual, decoder->hidden_size, pass->step);
    pass->rows = pass->step->num_rows;
}

/* Compute a step. `batch` says whose tokens they are; its qkv and output are the decoder's. */
void trireme_decode(const Decoder *decoder, Batch *batch, const Step *step) {
    Pass pass = {.decoder = decoder, .step = step, .batch = batch, .rows = step->num_tokens};
    batch->qkv = decoder->qkv;
    batch->output = decoder->attended;
    share_rows(embed_row, &pass, pass.rows, decoder->hidden_size);
    for (; pass.layer < decoder->num_layers; pass.layer++) {
        const Layer *layer = decoder->layers + pass.layer;
        layer->attention.run(layer->attention.data, &pass);
        layer->feed_forward.run(layer->feed_forward.data, &pass);
    }
    multiply(decoder, &decoder->lm_head, pass.rows, decoder->residual, &decoder->final_norm, WRITE,
             step->logits);
    if (decoder->logit_softcap > 0)
        share_rows(cap_row, &pass, pass.rows, decoder->lm_head.outputs);
}

#endif

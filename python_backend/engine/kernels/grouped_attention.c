/* Attention in which several query heads share a key and value head. */

#include "layers.h"

#if HAS_LINEAR

#define GROUPED_ATTENTION_FIELDS(FIELD, S)                                                         \
    FIELD(S, Norm, norm)                                                                           \
    FIELD(S, Norm, output_norm)                                                                    \
    FIELD(S, Heads, heads)                                                                         \
    FIELD(S, Linear, qkv)                                                                          \
    FIELD(S, Norm, q_norm) /* of each head */                                                      \
    FIELD(S, Norm, k_norm)                                                                         \
    FIELD(S, Linear, output)
STRUCTURE(GroupedAttention, GROUPED_ATTENTION_FIELDS);
EXPORT_STRUCTURE(GroupedAttention, GROUPED_ATTENTION_FIELDS);

typedef struct {
    const GroupedAttention *part;
    float *qkv;
} Normed;

static void norm_heads(const void *context, int row) {
    const Normed *normed = context;
    const GroupedAttention *part = normed->part;
    int dim = part->heads.head_dim;
    float *head = normed->qkv + (int64_t)row * part->qkv.outputs;
    for (int i = 0; i < part->heads.num_heads; i++, head += dim)
        part->q_norm.run(&part->q_norm, head, dim, head);
    for (int i = 0; i < part->heads.num_kv_heads; i++, head += dim)
        part->k_norm.run(&part->k_norm, head, dim, head);
}

void trireme_attention_grouped(const void *data, Pass *pass) {
    const GroupedAttention *part = data;
    const Decoder *decoder = pass->decoder;
    multiply(decoder, &part->qkv, pass->rows, decoder->residual, &part->norm, WRITE, decoder->qkv);
    if (part->q_norm.run) {
        const Normed normed = {part, decoder->qkv};
        share_rows(norm_heads, &normed, pass->rows, part->qkv.outputs);
    }
    trireme_attention(pass->batch, &part->heads, pass->layer);
    narrow(pass, decoder->attended, part->output.inputs);
    add_product(decoder, &part->output, pass->rows, decoder->attended, &part->output_norm);
}

#endif

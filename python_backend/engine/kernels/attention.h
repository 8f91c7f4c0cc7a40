/* Paged attention for many sequences at once. */

#ifndef TRIREME_ATTENTION_H
#define TRIREME_ATTENTION_H

#include <stdint.h>

/* Mirrored by python_backend/engine/attention.py. */
typedef struct {
    float *blocks;          /* [blocks][layers][2][kv_heads][LANES * head_dim] */
    int64_t block_stride;   /* floats of a block */
    int64_t layer_stride;   /* floats of a layer in a block */
    int32_t num_heads, num_kv_heads, head_dim;
    float scale;
    const float *qkv;       /* [tokens][(num_heads + 2 * num_kv_heads) * head_dim] */
    float *output;          /* [tokens][num_heads * head_dim] */
    const float *cosines;   /* [context][rotary_half] */
    const float *sines;
    int32_t rotary_half;    /* pairs of elements that turn, the first 2 * rotary_half of a head */
    float softcap;          /* scores become cap * tanh(score / cap); 0: they stay */
    const int32_t *windows; /* [layers]: keys that a query sees, its own the last; 0: all */
    const int32_t *turned;  /* [layers]: whether queries and keys turn at all */
    int32_t num_sequences;
    const int32_t *starts;  /* [sequences + 1]: first packed token of each */
    const int32_t *lengths; /* [sequences]: tokens already in the cache */
    const int32_t *tables;  /* [sequences][table_width]: their blocks */
    int64_t table_width;
} Batch;

/* One layer's attention: write the new tokens' keys and values into their blocks, and attend. */
void trireme_attention(const Batch *batch, int layer);

#endif

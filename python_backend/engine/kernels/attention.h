/* Paged attention for many sequences at once. */

#ifndef TRIREME_ATTENTION_H
#define TRIREME_ATTENTION_H

#include "structures.h"

#include <stdint.h>

/* How a layer attends; described in python_backend/engine/layers.py. */
#define HEADS_FIELDS(FIELD, S)                                                                     \
    FIELD(S, int32_t, num_heads)                                                                   \
    FIELD(S, int32_t, num_kv_heads)                                                                \
    FIELD(S, int32_t, head_dim)                                                                    \
    FIELD(S, float, scale)                                                                         \
    FIELD(S, float, logit_softcap) /* scores become cap * tanh(score / cap); 0: they stay */       \
    FIELD(S, int32_t, window)      /* keys that a query sees, its own the last; 0: all */          \
    FIELD(S, int32_t, rotary_dim)  /* elements of a head that turn, the first; 0: none */
STRUCTURE(Heads, HEADS_FIELDS);

#define BATCH_FIELDS(FIELD, S)                                                                     \
    FIELD(S, char *, blocks)           /* keys and values; attention.c and attention_int8.c say    \
                                          how */                                                   \
    FIELD(S, int64_t, block_stride)    /* bytes of a block */                                      \
    FIELD(S, int64_t, layer_stride)    /* bytes of a layer in a block */                           \
    FIELD(S, int32_t, kv_bits)         /* 32 or 8 */                                               \
    FIELD(S, const float *, smoothing) /* 8 bits: [layers][kv_heads][head_dim], what keys are      \
                                          divided and queries multiplied by before they are        \
                                          rounded; or NULL */                                      \
    FIELD(S, const float *, qkv)       /* [tokens][(num_heads + 2 * num_kv_heads) * head_dim] */   \
    FIELD(S, float *, output)          /* [tokens][num_heads * head_dim] */                        \
    FIELD(S, const float *, cosines)   /* [rows][rotary_half]: a row is a position's */            \
    FIELD(S, const float *, sines)                                                                 \
    FIELD(S, int32_t, rotary_half)     /* angles of a position */                                  \
    FIELD(S, int32_t, num_sequences)                                                               \
    FIELD(S, const int32_t *, starts)  /* [sequences + 1]: first packed token of each */           \
    FIELD(S, const int32_t *, lengths) /* [sequences]: tokens already in the cache */              \
    FIELD(S, const int32_t *, rotary_starts) /* [sequences]: the row of their first position */    \
    FIELD(S, const int32_t *, tables)  /* [sequences][table_width]: their blocks */                \
    FIELD(S, int64_t, table_width)
STRUCTURE(Batch, BATCH_FIELDS);

enum { TILE_TOKENS = 4 }; /* queries of a sequence that share the reading of keys and values */

/* What a unit of work is told. */
typedef struct {
    const Batch *batch;
    const Heads *heads;
    int layer;
} Job;

/* One layer's attention: write the new tokens' keys and values into their blocks, and attend. */
void trireme_attention(const Batch *batch, const Heads *heads, int layer);

/* The units of work, by the bits of the cache: tiles are written, and for each a key and value head
 * is attended to. */
void write_tile_float(const void *job, int tile);
void attend_tile_float(const void *job, int unit);
void write_tile_int8(const void *job, int tile);
void attend_tile_int8(const void *job, int unit);

/* ---- what they share ------------------------------------------------------------------------ */

static inline int tiles_of(const Job *job, int sequence) {
    int tokens = job->batch->starts[sequence + 1] - job->batch->starts[sequence];
    return (tokens + TILE_TOKENS - 1) / TILE_TOKENS;
}

/* Where a tile of tokens lies: its sequence, its first packed token and how many. */
static inline void find_tile(const Job *job, int tile, int *sequence, int *first, int *count) {
    int s = 0;
    while (tile >= tiles_of(job, s)) tile -= tiles_of(job, s++);
    *sequence = s;
    *first = job->batch->starts[s] + tile * TILE_TOKENS;
    *count = job->batch->starts[s + 1] - *first;
    if (*count > TILE_TOKENS) *count = TILE_TOKENS;
}

/* A layer in a sequence's block. */
static inline char *block_of(const Job *job, int sequence, int index) {
    const Batch *batch = job->batch;
    int64_t block = batch->tables[sequence * batch->table_width + index];
    return batch->blocks + block * batch->block_stride + job->layer * batch->layer_stride;
}

static inline int64_t row_width(const Heads *heads) {
    return (int64_t)(heads->num_heads + 2 * heads->num_kv_heads) * heads->head_dim;
}

/* Turn a head's vector by its position's angles, which are its sequence's own; a layer without
 * rotation passes it on. */
static inline void rotate(const Job *job, int sequence, int position, const float *from,
                          float *to) {
    const Batch *batch = job->batch;
    int half = job->heads->rotary_dim / 2, dim = job->heads->head_dim;
    int64_t row = (int64_t)batch->rotary_starts[sequence] + position;
    const float *cosine = batch->cosines + row * batch->rotary_half;
    const float *sine = batch->sines + row * batch->rotary_half;
    for (int i = 0; i < half; i++) {
        float a = from[i], b = from[i + half];
        to[i] = a * cosine[i] - b * sine[i];
        to[i + half] = b * cosine[i] + a * sine[i];
    }
    for (int i = 2 * half; i < dim; i++) to[i] = from[i];
}

static inline const float *smoothing_of(const Job *job, int head) {
    const Heads *heads = job->heads;
    return job->batch->smoothing +
           ((int64_t)job->layer * heads->num_kv_heads + head) * heads->head_dim;
}

/* The first position that a query at `position` sees. */
static inline int first_seen(const Job *job, int position) {
    int window = job->heads->window;
    return window && position >= window ? position - window + 1 : 0;
}

/* Memory of this thread's for a unit's values; what was in it is lost. */
void *attention_scratch(int64_t bytes);

#endif

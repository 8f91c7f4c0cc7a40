/* Paged attention for many sequences at once, over keys and values in float32.
 *
 * One call takes the new tokens of all running sequences, packed without padding, and for one layer
 * rotates their queries and keys, writes keys and values into the sequences' blocks, and attends.
 *
 * A block holds the keys and values of 16 tokens of one sequence, in all layers:
 * [layer][key or value][kv head][LANES * head_dim]. Keys lie transposed, [dim][16 tokens], so that
 * 16 scores come out of one vector without a horizontal sum; values lie [16 tokens][dim].
 *
 * A query's result depends on its own sequence alone and is computed in one order whatever else is
 * in the batch, so it is the same bits alone, among others, or in another chunk.
 */

#include "attention.h"

#include "threads.h"
#include "vectors.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

EXPORT_CONSTANT(LANES);
EXPORT_STRUCTURE(Heads, HEADS_FIELDS);
EXPORT_STRUCTURE(Batch, BATCH_FIELDS);

enum {
    MAX_ROWS = 14, /* rows whose sums stay in registers */
};

/* ---- heads ----------------------------------------------------------------------------------- */

/* scores[row][0..15] = queries[row] . keys[..][0..15] */
INLINE void score_rows(int rows, const float *queries, int dim, const float *keys, float *scores,
                       int64_t stride) {
    vec sums[MAX_ROWS];
    for (int row = 0; row < rows; row++) sums[row] = splat(0);
    for (int d = 0; d < dim; d++) {
        vec key = load(keys + d * LANES);
        for (int row = 0; row < rows; row++) sums[row] += queries[row * dim + d] * key;
    }
    for (int row = 0; row < rows; row++) store(scores + row * stride, sums[row]);
}

/* output[row] += sum over tokens of weights[row][token] * values[token] */
INLINE void add_rows(int rows, const float *weights, int64_t stride, const float *values, int dim,
                     int tokens, float *output) {
    for (int d = 0; d < dim; d += LANES) {
        vec sums[MAX_ROWS];
        for (int row = 0; row < rows; row++) sums[row] = load(output + row * dim + d);
        for (int token = 0; token < tokens; token++) {
            vec value = load(values + token * dim + d);
            for (int row = 0; row < rows; row++) sums[row] += weights[row * stride + token] * value;
        }
        for (int row = 0; row < rows; row++) store(output + row * dim + d, sums[row]);
    }
}

/* A number of rows that the compiler knows, so that the sums are registers. */
#define FOR_ROWS(rows, call)                                                                       \
    switch (rows) {                                                                                \
    case 1: call(1); break;                                                                        \
    case 2: call(2); break;                                                                        \
    case 3: call(3); break;                                                                        \
    case 4: call(4); break;                                                                        \
    case 5: call(5); break;                                                                        \
    case 6: call(6); break;                                                                        \
    case 7: call(7); break;                                                                        \
    case 8: call(8); break;                                                                        \
    case 9: call(9); break;                                                                        \
    case 10: call(10); break;                                                                      \
    case 11: call(11); break;                                                                      \
    case 12: call(12); break;                                                                      \
    case 13: call(13); break;                                                                      \
    default: call(MAX_ROWS); break;                                                                \
    }

static void score(int rows, const float *queries, int dim, const float *keys, float *scores,
                  int64_t stride) {
#define CALL(n) score_rows(n, queries, dim, keys, scores, stride)
    FOR_ROWS(rows, CALL)
#undef CALL
}

static void add(int rows, const float *weights, int64_t stride, const float *values, int dim,
                int tokens, float *output) {
#define CALL(n) add_rows(n, weights, stride, values, dim, tokens, output)
    FOR_ROWS(rows, CALL)
#undef CALL
}

/* ---- one layer ------------------------------------------------------------------------------ */

/* Rotate the keys of a tile's tokens and write them and the values into their blocks. */
void write_tile_float(const void *context, int tile) {
    const Job *job = context;
    const Batch *batch = job->batch;
    const Heads *heads = job->heads;
    int sequence, first, count, dim = heads->head_dim;
    float turned[dim];
    find_tile(job, tile, &sequence, &first, &count);
    for (int token = first; token < first + count; token++) {
        int position = batch->lengths[sequence] + token - batch->starts[sequence];
        int slot = position % LANES;
        float *block = (float *)block_of(job, sequence, position / LANES);
        const float *key = batch->qkv + token * row_width(heads) + heads->num_heads * dim;
        const float *value = key + heads->num_kv_heads * dim;
        for (int head = 0; head < heads->num_kv_heads; head++, key += dim, value += dim) {
            float *keys = block + (int64_t)head * LANES * dim;
            float *values = block + (int64_t)(heads->num_kv_heads + head) * LANES * dim;
            rotate(job, sequence, position, key, turned);
            for (int i = 0; i < dim; i++) keys[i * LANES + slot] = turned[i];
            memcpy(values + slot * dim, value, dim * sizeof(float));
        }
    }
}

/* Softmax over the scores from `from` up to `count` of `stride`; the others become 0. Returns the
 * sum's inverse, by which the weighted values are multiplied in the end. */
static float soften(float *scores, int64_t from, int64_t count, int64_t stride, float cap) {
    if (cap > 0)
        for (int64_t i = 0; i < stride; i += LANES) store(scores + i, capped(load(scores + i), cap));
    for (int64_t i = 0; i < from; i++) scores[i] = -INFINITY;
    for (int64_t i = count; i < stride; i++) scores[i] = -INFINITY;
    vec tops = load(scores);
    for (int64_t i = LANES; i < stride; i += LANES) {
        vec some = load(scores + i);
        tops = pick(some > tops, some, tops);
    }
    float top = tops[0];
    for (int i = 1; i < LANES; i++) top = tops[i] > top ? tops[i] : top;
    vec sums = splat(0);
    for (int64_t i = 0; i < stride; i += LANES) {
        vec some = load(scores + i);
        some = pick(some == -INFINITY, splat(0), exponential(some - top));
        store(scores + i, some);
        sums += some;
    }
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += sums[i];
    return 1.0f / sum;
}

/* Attention of a tile's queries over one key and value head. */
void attend_tile_float(const void *context, int unit) {
    const Job *job = context;
    const Batch *batch = job->batch;
    const Heads *heads = job->heads;
    int head = unit % heads->num_kv_heads, dim = heads->head_dim;
    int group = heads->num_heads / heads->num_kv_heads;
    int sequence, first, count;
    find_tile(job, unit / heads->num_kv_heads, &sequence, &first, &count);
    int position = batch->lengths[sequence] + first - batch->starts[sequence];
    int rows = group * count, total = position + count;
    int blocks = (total + LANES - 1) / LANES;
    int first_block = first_seen(job, position) / LANES, behind = first_block * LANES;
    int64_t stride = (int64_t)blocks * LANES - behind;
    float *queries = attention_scratch(rows * (2 * dim + stride) * sizeof(float));
    float *outputs = queries + rows * dim, *scores = outputs + rows * dim;

    for (int row = 0; row < rows; row++) {
        int token = first + row / group;
        const float *query =
            batch->qkv + token * row_width(heads) + (head * group + row % group) * dim;
        rotate(job, sequence, position + row / group, query, queries + row * dim);
        for (int i = 0; i < dim; i++) queries[row * dim + i] *= heads->scale;
    }
    for (int block = first_block; block < blocks; block++) {
        const float *keys =
            (const float *)block_of(job, sequence, block) + (int64_t)head * LANES * dim;
        for (int row = 0; row < rows; row += MAX_ROWS)
            score(rows - row, queries + row * dim, dim, keys,
                  scores + row * stride + block * LANES - behind, stride);
    }
    float inverse[rows];
    for (int row = 0; row < rows; row++) {
        int own = position + row / group;
        inverse[row] = soften(scores + row * stride, first_seen(job, own) - behind,
                              own + 1 - behind, stride, heads->logit_softcap);
    }
    memset(outputs, 0, rows * dim * sizeof(float));
    for (int block = first_block; block < blocks; block++) {
        const float *values = (const float *)block_of(job, sequence, block) +
                              (int64_t)(heads->num_kv_heads + head) * LANES * dim;
        int tokens = total - block * LANES < LANES ? total - block * LANES : LANES;
        for (int row = 0; row < rows; row += MAX_ROWS)
            add(rows - row, scores + row * stride + block * LANES - behind, stride, values, dim, tokens,
                outputs + row * dim);
    }
    for (int row = 0; row < rows; row++) {
        float *output = batch->output +
                        ((int64_t)(first + row / group) * heads->num_heads + head * group +
                         row % group) * dim;
        for (int d = 0; d < dim; d++) output[d] = outputs[row * dim + d] * inverse[row];
    }
}

/* ---- a layer -------------------------------------------------------------------------------- */

void *attention_scratch(int64_t bytes) {
    static _Thread_local void *memory;
    static _Thread_local int64_t size;
    if (size < bytes) {
        free(memory);
        size = (bytes + bytes / 2 + 63) / 64 * 64;
        memory = aligned_alloc(64, size);
        if (!memory) abort();
    }
    return memory;
}

void trireme_attention(const Batch *batch, const Heads *heads, int layer) {
    int tiles = 0, is_int8 = batch->kv_bits == 8;
    int64_t scores = 0;
    const Job job = {batch, heads, layer};
    for (int s = 0; s < batch->num_sequences; s++) {
        int tokens = batch->starts[s + 1] - batch->starts[s];
        tiles += tiles_of(&job, s);
        scores += (int64_t)tokens * (batch->lengths[s] + tokens) * heads->num_heads;
    }
    trireme_share(is_int8 ? write_tile_int8 : write_tile_float, &job, tiles, tiles < 16);
    trireme_share(is_int8 ? attend_tile_int8 : attend_tile_float, &job,
                  tiles * heads->num_kv_heads, scores < 8192);
}

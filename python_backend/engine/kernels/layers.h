/* What a decoder is made of, and what its parts are computed with.
 *
 * A layer is two parts, an attention and a feed-forward, each of which adds to the residual stream.
 * A part is a function and what it is told; a kind of part is a file: grouped_attention.c,
 * gated_feed_forward.c. Python finds the function by its name, trireme_attention_KIND or
 * trireme_feed_forward_KIND, and has the structure from python_backend/engine/layers.py. */

#ifndef TRIREME_LAYERS_H
#define TRIREME_LAYERS_H

#include "attention.h"
#include "linear.h"
#include "structures.h"
#include "threads.h"

#if HAS_LINEAR

/* ---- a decoder ------------------------------------------------------------------------------ */

typedef struct Norm Norm;
/* Norm a row: trireme_norm_KIND. `output` may be `values`. */
typedef void (*RunNorm)(const Norm *norm, const float *values, int width, float *output);

#define NORM_FIELDS(FIELD, S)                                                                      \
    FIELD(S, RunNorm, run) /* NULL: there is no norm */                                            \
    FIELD(S, const float *, weight)                                                                \
    FIELD(S, float, eps)
STRUCTURE(Norm, NORM_FIELDS);

typedef struct Pass Pass;
/* Compute a part of a layer for the rows of a pass. `data` is the structure of its kind. */
typedef void (*RunPart)(const void *data, Pass *pass);

#define PART_FIELDS(FIELD, S)                                                                      \
    FIELD(S, RunPart, run)                                                                         \
    FIELD(S, const void *, data)
STRUCTURE(Part, PART_FIELDS);

#define LAYER_FIELDS(FIELD, S)                                                                     \
    FIELD(S, Part, attention)                                                                      \
    FIELD(S, Part, feed_forward)
STRUCTURE(Layer, LAYER_FIELDS);

#define DECODER_FIELDS(FIELD, S)                                                                   \
    FIELD(S, int32_t, num_layers)                                                                  \
    FIELD(S, int32_t, hidden_size)                                                                 \
    FIELD(S, int32_t, embedding_dtype) /* trireme_choices_embedding_dtype */                            \
    FIELD(S, float, embedding_scale)                                                               \
    FIELD(S, float, logit_softcap)     /* logits become cap * tanh(logit / cap); 0: they stay */   \
    FIELD(S, const void *, embedding)  /* [vocab][hidden]; in blocks [vocab][groups][32] of a level \
                                          plus 128, */                                             \
    FIELD(S, const float *, embedding_scales) /* [vocab][groups] of them */                        \
    FIELD(S, Norm, final_norm)                                                                     \
    FIELD(S, Linear, lm_head)                                                                      \
    FIELD(S, const Layer *, layers)                                                                \
    /* Memory for a step's values, for the most tokens of a step. */                               \
    FIELD(S, float *, residual) /* [tokens][hidden] */                                             \
    FIELD(S, float *, normed)   /* [tokens][hidden] */                                             \
    FIELD(S, float *, qkv)      /* [tokens][the widest of all layers] */                           \
    FIELD(S, float *, attended) /* the same */                                                     \
    FIELD(S, float *, inner)    /* the same, between the products of a feed-forward */             \
    FIELD(S, int8_t *, levels)  /* [tokens][the widest input of a product] */                      \
    FIELD(S, float *, scales)   /* [tokens][the most groups] */                                    \
    FIELD(S, float *, sums)                                                                        \
    FIELD(S, void *, offsets) /* an Offset for each of the sums */
STRUCTURE(Decoder, DECODER_FIELDS);

#define STEP_FIELDS(FIELD, S)                                                                      \
    FIELD(S, int32_t, num_tokens)                                                                  \
    FIELD(S, int32_t, num_rows)                                                                    \
    FIELD(S, const int64_t *, ids)  /* [tokens] */                                                 \
    FIELD(S, const int64_t *, rows) /* [rows]: whose logits are wanted */                          \
    FIELD(S, float *, logits)       /* [rows][vocab] */
STRUCTURE(Step, STEP_FIELDS);

/* ---- what parts are computed with ------------------------------------------------------------ */

/* A step on its way through the layers. */
struct Pass {
    const Decoder *decoder;
    const Step *step;
    Batch *batch;
    int layer; /* where it is */
    int rows;  /* that are computed: all tokens, or those whose logits are wanted */
};

#pragma GCC visibility push(hidden)

/* Compute units that are rows of `width` values; a few of them the caller computes alone. */
void share_rows(TriremeUnit run, const void *context, int rows, int width);

/* output = epilogue(linear(norm(values))), rows of what `linear` takes and gives. */
void multiply(const Decoder *decoder, const Linear *linear, int rows, const float *values,
              const Norm *norm, Epilogue epilogue, float *output);

/* residual += norm(linear(values)) */
void add_product(const Decoder *decoder, const Linear *linear, int rows, const float *values,
                 const Norm *norm);

/* Nothing looks from one row at another from here on: the last layer computes those rows alone
 * whose logits are wanted. Moves them to the front of `values` and of the residual stream. */
void narrow(Pass *pass, float *values, int width);

#pragma GCC visibility pop

#endif

#endif

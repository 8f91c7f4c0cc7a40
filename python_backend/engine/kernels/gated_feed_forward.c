/* A feed-forward with a gate: down(activation(gate) * up). */

#include "layers.h"

#if HAS_LINEAR

#define GATED_FEED_FORWARD_FIELDS(FIELD, S)                                                        \
    FIELD(S, Norm, norm)                                                                           \
    FIELD(S, Norm, output_norm)                                                                    \
    FIELD(S, int32_t, activation) /* trireme_choices_activation */                                      \
    FIELD(S, Linear, gate_up)                                                                      \
    FIELD(S, Linear, down)
STRUCTURE(GatedFeedForward, GATED_FEED_FORWARD_FIELDS);
EXPORT_STRUCTURE(GatedFeedForward, GATED_FEED_FORWARD_FIELDS);

const char *const trireme_choices_activation[] = {"silu", "gelu_tanh", NULL};
static const Epilogue EPILOGUES[] = {SILU_GATE, GELU_GATE};

void trireme_feed_forward_gated(const void *data, Pass *pass) {
    const GatedFeedForward *part = data;
    const Decoder *decoder = pass->decoder;
    multiply(decoder, &part->gate_up, pass->rows, decoder->residual, &part->norm,
             EPILOGUES[part->activation], decoder->inner);
    add_product(decoder, &part->down, pass->rows, decoder->inner, &part->output_norm);
}

#endif

/* The kinds of norms. */

#include "layers.h"

#if HAS_LINEAR

#include "vectors.h"

#include <math.h>

EXPORT_STRUCTURE(Norm, NORM_FIELDS);

/* output = values / rms(values) * weight */
void trireme_norm_rms(const Norm *norm, const float *values, int width, float *output) {
    vec sums = splat(0);
    int i = 0;
    for (; i + LANES <= width; i += LANES) sums += load(values + i) * load(values + i);
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
    for (; i < width; i++) sum += values[i] * values[i];
    const float *weight = norm->weight;
    float scale = 1.0f / sqrtf(sum / (float)width + norm->eps);
    for (i = 0; i < width; i++) output[i] = values[i] * scale * weight[i];
}

#endif

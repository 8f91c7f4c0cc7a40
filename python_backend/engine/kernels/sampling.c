/* Choosing tokens from rows of logits, and how likely the likeliest are.
 *
 * A row's candidates are weighed in whole numbers: e to the (logit - highest) / temperature, times
 * 2^30, cut off. Sums of whole numbers are exact in any order, so what is chosen depends on nothing
 * but the row and its random number; python_backend/engine/selection.py has the same arithmetic in
 * numpy and chooses the same tokens. For that, nothing here may be contracted to a fused
 * multiplication and addition.
 */

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

#include "structures.h"
#include "threads.h"
#include "vectors.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512DQ__
#include <immintrin.h>
#endif

enum {
    LITTLE = 1 << 16, /* logits that one thread looks at */
    ONE = 1 << 30,    /* weight of the likeliest token */
    RUN = 256,        /* tokens whose weights are added up before one of them is looked for */
    SAMPLED = 32,     /* one vector of so many is looked at to guess a range of weights */
    KEY_SHIFT = 17,   /* buckets of 64 to a doubling of the weight */
    KEY_BASE = 127 << (23 - KEY_SHIFT), /* key of the weight 1 */
    BUCKETS = 31 << (23 - KEY_SHIFT),
};

typedef uint32_t uvec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

INLINE int64_t padded(int64_t size) { return (size + LANES - 1) / LANES * LANES; }
INLINE ivec ipick(ivec mask, ivec yes, ivec no) { return (mask & yes) | (~mask & no); }

/* A bit for each lane that is set. */
INLINE unsigned bits_of(ivec mask) {
#ifdef __AVX512DQ__
    return _mm512_movepi32_mask((__m512i)mask);
#else
    unsigned bits = 0;
    for (int i = 0; i < LANES; i++) bits |= (mask[i] & 1u) << i;
    return bits;
#endif
}

/* 16 logits of a row, where it ends filled up with -infinity. */
INLINE vec load_logits(const float *row, int64_t at, int64_t size) {
    if (size - at >= LANES) return load(row + at);
    float rest[LANES];
    for (int i = 0; i < LANES; i++) rest[i] = i < size - at ? row[at + i] : -INFINITY;
    return load(rest);
}

/* The first of the highest logits. */
static int32_t highest(const float *row, int64_t size) {
    vec tops = (vec){0} - INFINITY;
    ivec where = {0}, ids = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int64_t at = 0; at < size; at += LANES, ids += LANES) {
        vec logits = load_logits(row, at, size);
        ivec higher = logits > tops;
        tops = pick(higher, logits, tops);
        where = ipick(higher, ids, where);
    }
    int best = 0;
    for (int i = 1; i < LANES; i++)
        if (tops[i] > tops[best] || (tops[i] == tops[best] && where[i] < where[best])) best = i;
    return tops[best] == -INFINITY ? 0 : where[best];
}

/* Work that is over sooner than a thread wakes stays with the caller. */
static void each_row(TriremeUnit run, const void *context, int rows, int64_t size) {
    trireme_share(run, context, rows, rows * size <= LITTLE);
}

/* ---- which tokens may be drawn --------------------------------------------------------------- */

#define DRAW_FIELDS(FIELD, S)                                                                      \
    FIELD(S, double, top_p)         /* share of the weights that is kept; 1 is all */              \
    FIELD(S, double, random)        /* in [0, 1) */                                                \
    FIELD(S, float, inverse_temperature)                                                           \
    FIELD(S, int32_t, top_k)        /* tokens that are kept, 0 is all; 1 is the highest logit's */ \
    FIELD(S, int32_t, least_weight) /* under which a token is not kept, at least 1 */              \
    FIELD(S, int32_t, padding)
STRUCTURE(Draw, DRAW_FIELDS);
EXPORT_STRUCTURE(Draw, DRAW_FIELDS);

/* Tokens in the order of their weights, and of their ids where weights are equal: kept are those
 * up to this one. */
typedef struct {
    int32_t weight, id;
} Last;

typedef struct {
    uint64_t sum;
    int64_t count;
} Total;

/* How the weights of a range are spread, and what lies above the range. */
typedef struct {
    Total above, buckets[BUCKETS];
} Survey;

/* A weight has 24 binary digits, so it is a float without being rounded. */
INLINE int bucket_of(int32_t weight) {
    union {
        float number;
        uint32_t bits;
    } as = {.number = (float)weight};
    return (int)(as.bits >> KEY_SHIFT) - KEY_BASE;
}

/* The least weight of a bucket. */
static int32_t edge_of(int bucket) {
    union {
        uint32_t bits;
        float number;
    } as = {.bits = (uint32_t)(bucket + KEY_BASE) << KEY_SHIFT};
    return bucket >= BUCKETS ? INT32_MAX : (int32_t)ceilf(as.number);
}

static int heavier(const void *left, const void *right) {
    const Last *a = left, *b = right;
    if (a->weight != b->weight) return a->weight < b->weight ? 1 : -1;
    return (a->id > b->id) - (a->id < b->id);
}

INLINE int is_kept(int32_t weight, int32_t id, Last last) {
    return (weight > last.weight) | ((weight == last.weight) & (id <= last.id));
}

/* A row's weights, -1 where it is filled up to whole vectors. */
static _Thread_local struct {
    int32_t *weights;
    Last *sorted;
    int64_t size;
} scratch;

static void reserve(int64_t size) {
    if (scratch.size >= size) return;
    free(scratch.weights);
    free(scratch.sorted);
    scratch.weights = aligned_alloc(64, size * sizeof(int32_t));
    scratch.sorted = malloc(size * sizeof(Last));
    scratch.size = size;
    if (!scratch.weights || !scratch.sorted) abort();
}

/* The halves of weights, added up apart: whole rows of halves fit 32 bits. */
typedef struct {
    uvec low, high;
} Halves;

INLINE void add_halves(Halves *sums, ivec weights) {
    sums->low += (uvec)weights & 0xffff;
    sums->high += (uvec)weights >> 16;
}

INLINE uint64_t total_of(Halves sums) {
    uint64_t total = 0;
    for (int i = 0; i < LANES; i++) total += sums.low[i] + ((uint64_t)sums.high[i] << 16);
    return total;
}

/* Weigh a row into the scratch. Returns the sum. */
static uint64_t weigh(const float *row, int64_t size, float top, float inverse_temperature) {
    Halves sums = {{0}, {0}};
    for (int64_t at = 0; at < size; at += LANES) {
        vec x = (load_logits(row, at, size) - top) * inverse_temperature;
        ivec likely = x > -21.0f;
        vec e = exponential(pick(likely, x, splat(0))) * (float)ONE;
        ivec weights = __builtin_convertvector(e, ivec) & likely;
        *(ivec *)(scratch.weights + at) = weights;
        add_halves(&sums, weights);
    }
    for (int64_t id = size; id < padded(size); id++) scratch.weights[id] = -1;
    return total_of(sums);
}

/* Look at every `step`th vector: sort the weights from `low` to below `high` into buckets. */
static void look(Survey *survey, int64_t size, int64_t step, int32_t low, int32_t high) {
    memset(survey, 0, sizeof *survey);
    Halves sums = {{0}, {0}};
    ivec counts = {0};
    for (int64_t at = 0; at < size; at += step * LANES) {
        ivec weights = *(const ivec *)(scratch.weights + at);
        ivec above = weights >= high, wanted = (weights >= low) & ~above;
        add_halves(&sums, weights & above);
        counts -= above;
        for (unsigned left = bits_of(wanted); left; left &= left - 1) {
            int32_t weight = scratch.weights[at + __builtin_ctz(left)];
            Total *bucket = &survey->buckets[bucket_of(weight)];
            bucket->sum += (uint32_t)weight;
            bucket->count++;
        }
    }
    survey->above.sum = total_of(sums);
    for (int i = 0; i < LANES; i++) survey->above.count += counts[i];
}

/* From a sample, a range of weights within which `limit` is reached, most likely. */
static void guess(Survey *sample, int64_t size, int32_t least, Total limit, uint64_t sum,
                  int32_t *low, int32_t *high) {
    look(sample, size, SAMPLED, least, INT32_MAX);
    int first = BUCKETS, last = 0;
    if (limit.count < size) { /* counted from the heaviest */
        double wanted = (double)limit.count / SAMPLED, seen = 0;
        for (last = BUCKETS; last > 0 && seen < 1.25 * wanted + 8; last--) {
            seen += (double)sample->buckets[last - 1].count;
            if (seen <= 0.8 * wanted - 8) first = last - 1;
        }
    } else { /* added up from the lightest, which are many: one heavy token more says little */
        double missing = (double)(sum - limit.sum) / SAMPLED, seen = 0;
        for (; last < BUCKETS && seen + (double)sample->buckets[last].sum <= 0.9 * missing; last++)
            seen += (double)sample->buckets[last].sum;
        for (first = last; first < BUCKETS && seen <= 1.12 * missing; first++)
            seen += (double)sample->buckets[first].sum;
        int64_t heavy = 0;
        for (int bucket = first; bucket < BUCKETS; bucket++) heavy += sample->buckets[bucket].count;
        if (heavy < 64) first = BUCKETS;
    }
    *low = edge_of(last) > least ? edge_of(last) : least;
    *high = edge_of(first);
}

/* The first bucket, from the heaviest, with which `limit` is reached; -1 if it is not. Leaves in
 * `survey->above` what is heavier. */
static int reach(Survey *survey, Total limit) {
    Total *above = &survey->above;
    if (above->sum >= limit.sum || above->count >= limit.count) return -1;
    for (int bucket = BUCKETS - 1; bucket >= 0; bucket--) {
        Total next = {above->sum + survey->buckets[bucket].sum,
                      above->count + survey->buckets[bucket].count};
        if (next.sum >= limit.sum || next.count >= limit.count) return bucket;
        *above = next;
    }
    return -1;
}

/* Keep of what is kept the heaviest up to the one with which `limit` is reached, which is before
 * the last. `sum` is what is kept weighs, before and after. */
static Last cut(Last kept, int64_t size, Total limit, uint64_t *sum) {
    Survey survey;
    int32_t low, high;
    guess(&survey, size, kept.weight, limit, *sum, &low, &high);
    look(&survey, size, 1, low, high);
    int bucket = reach(&survey, limit);
    if (bucket < 0) {
        look(&survey, size, 1, kept.weight, INT32_MAX);
        bucket = reach(&survey, limit);
    }
    int64_t found = 0;
    low = edge_of(bucket), high = edge_of(bucket + 1);
    for (int64_t at = 0; at < size; at += LANES) {
        ivec weights = *(const ivec *)(scratch.weights + at);
        for (unsigned left = bits_of((weights >= low) & (weights < high)); left; left &= left - 1) {
            int32_t id = (int32_t)at + __builtin_ctz(left);
            if (is_kept(scratch.weights[id], id, kept))
                scratch.sorted[found++] = (Last){scratch.weights[id], id};
        }
    }
    qsort(scratch.sorted, found, sizeof(Last), heavier);
    Total total = survey.above;
    for (int64_t i = 0;; i++) {
        total.sum += (uint32_t)scratch.sorted[i].weight;
        total.count++;
        if (total.sum >= limit.sum || total.count >= limit.count) {
            *sum = total.sum;
            return scratch.sorted[i];
        }
    }
}

/* The last token that is kept; `sum`, all weights before, is what they weigh after. */
static Last keep(const Draw *draw, int64_t size, uint64_t *sum) {
    Last last = {draw->least_weight, INT32_MAX};
    Total kept = {*sum, size};
    if (draw->least_weight > 1 || draw->top_k > 0) {
        Survey survey;
        look(&survey, size, 1, draw->least_weight, draw->least_weight);
        kept = survey.above;
    }
    if (draw->top_k > 0 && draw->top_k < kept.count)
        last = cut(last, size, (Total){UINT64_MAX, draw->top_k}, &kept.sum);
    if (draw->top_p < 1) {
        uint64_t wanted = (uint64_t)ceil(draw->top_p * (double)kept.sum);
        last = cut(last, size, (Total){wanted, INT64_MAX}, &kept.sum);
    }
    *sum = kept.sum;
    return last;
}

/* The token at which the kept weights, added up in the order of ids, exceed a number. */
static int32_t at(uint64_t number, Last last, int64_t size) {
    for (int64_t start = 0; start < size; start += RUN) {
        int64_t end = start + RUN < size ? start + RUN : size;
        uint64_t sum = 0;
        for (int64_t id = start; id < end; id++)
            sum += is_kept(scratch.weights[id], (int32_t)id, last) ? scratch.weights[id] : 0;
        if (number >= sum) {
            number -= sum;
            continue;
        }
        for (int64_t id = start; id < end; id++) {
            if (!is_kept(scratch.weights[id], (int32_t)id, last)) continue;
            if (number < (uint64_t)scratch.weights[id]) return (int32_t)id;
            number -= scratch.weights[id];
        }
    }
    return last.id; /* not reached: the number is less than the sum */
}

static int32_t draw_from(const float *row, int64_t size, const Draw *draw) {
    int32_t first = highest(row, size);
    if (draw->top_k == 1 || !isfinite(row[first])) return first;
    reserve(padded(size));
    uint64_t sum = weigh(row, size, row[first], draw->inverse_temperature);
    Last last = keep(draw, size, &sum);
    uint64_t number = (uint64_t)(draw->random * (double)sum);
    return at(number < sum ? number : sum - 1, last, size);
}

typedef struct {
    const float *logits; /* [..][size] */
    int64_t size;
    const int32_t *rows; /* [chosen] */
    const Draw *draws;   /* [chosen] */
    int32_t *tokens;     /* [chosen] */
} Choice;

static void choose_row(const void *context, int index) {
    const Choice *choice = context;
    const float *row = choice->logits + choice->rows[index] * choice->size;
    choice->tokens[index] = draw_from(row, choice->size, &choice->draws[index]);
}

/* A token for each of some rows. */
void trireme_choose(const float *logits, int64_t size, const int32_t *rows, int chosen,
                    const Draw *draws, int32_t *tokens) {
    Choice choice = {logits, size, rows, draws, tokens};
    each_row(choose_row, &choice, chosen, size);
}

/* ---- how likely tokens are ------------------------------------------------------------------- */

typedef struct {
    const float *logits;    /* [..][size] */
    int64_t size;
    const int32_t *rows;    /* [described] */
    double *log_normalizers;/* [described] */
    int32_t count;
    int32_t *tops;          /* [described][count] */
} Description;

/* The logarithm of the sum of e to the logits. */
static double log_sum_exp(const float *row, int64_t size) {
    float top = row[highest(row, size)];
    if (!isfinite(top)) return top;
    double sum = 0;
    for (int64_t start = 0; start < size; start += LANES * LANES) {
        vec sums = {0};
        for (int64_t at = start; at < size && at < start + LANES * LANES; at += LANES) {
            vec x = load_logits(row, at, size) - top;
            ivec counts = x > -87.0f;
            sums += pick(counts, exponential(x), splat(0));
        }
        for (int i = 0; i < LANES; i++) sum += sums[i];
    }
    return top + log(sum);
}

/* The highest logits' tokens, highest first, the lower id first where they are equal. */
static void find_tops(const float *row, int64_t size, int32_t *tops, int32_t count) {
    int32_t found = 0;
    for (int64_t at = 0; at < size; at += LANES) {
        vec logits = load_logits(row, at, size);
        if (found == count) {
            ivec higher = logits > row[tops[count - 1]];
            if (!bits_of(higher)) continue;
        }
        for (int64_t id = at; id < size && id < at + LANES; id++) {
            if (found == count && !(row[id] > row[tops[count - 1]])) continue;
            int32_t place = found < count ? found++ : count - 1;
            for (; place > 0 && row[id] > row[tops[place - 1]]; place--)
                tops[place] = tops[place - 1];
            tops[place] = (int32_t)id;
        }
    }
}

static void describe_row(const void *context, int index) {
    const Description *description = context;
    const float *row = description->logits + description->rows[index] * description->size;
    description->log_normalizers[index] = log_sum_exp(row, description->size);
    if (description->count)
        find_tops(row, description->size, description->tops + index * description->count,
                  description->count);
}

/* Some rows' normalizers and the `count` likeliest tokens, at most `size`. */
void trireme_describe(const float *logits, int64_t size, const int32_t *rows, int described,
                      double *log_normalizers, int count, int32_t *tops) {
    Description description = {logits, size, rows, log_normalizers, count, tops};
    each_row(describe_row, &description, described, size);
}

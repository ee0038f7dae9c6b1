/* The logarithm of a sum of exponentials of logits, which are never all in memory.
 *
 * Each token keeps a running sum, relative to a peak that is raised only where a logit is far above
 * it (after Milakov and Gimelshein 2018, arXiv 1805.02867).
 */
#ifndef LMI_LIKELIHOOD_H
#define LMI_LIKELIHOOD_H

#include "blocks.h"
#include "pointwise.h"

/* Above this, a logit raises the peak. Exponents are rounded the less, the lower they are. */
enum { FAR = 4 };

/* A logit is the product times `factor`, capped by `softcap`; see capped. */
typedef struct {
    float factor, softcap;
    bool spreads; /* whether entropies are wanted */
} Logits;

/* What is known of a token after some of its logits. */
typedef struct {
    _Alignas(64) floats sum; /* of exp(logit - peak), in LANES partial sums */
    floats spread;           /* of exp(logit - peak) * (logit - peak) */
    float peak, logit;       /* logit of the target; 0 while it is not known */
    int64_t target;
} Running;

/* The same after all logits of a piece of work. */
typedef struct {
    float peak, sum, spread, logit;
} Weighed;

/* Weighs the products of a token with a panel, whose first row has the number `first` and of which
 * `live` rows exist.
 *
 * A logit that is not a number, or plus infinity, makes the sum nan; minus infinity adds nothing.
 */
INLINE void weigh(const Logits *shape, floats logits[VECTORS], int64_t first, int64_t live,
                  Running *to) {
    if (shape->factor != 1.0f)
#pragma GCC unroll 16
        for (int j = 0; j < VECTORS; j++) logits[j] *= shape->factor;
    if (shape->softcap != 0.0f)
#pragma GCC unroll 16
        for (int j = 0; j < VECTORS; j++) logits[j] = capped(logits[j], shape->softcap);
    if (live < PANEL)
#pragma GCC unroll 16
        for (int j = 0; j < VECTORS; j++) {
            const ints number = (ints){STEPS} + LANES * j;
            logits[j] = chosen(number < (int)live, logits[j], fill(-INFINITY));
        }
    const int64_t place = to->target - first;
    if (place >= 0 && place < live) {
        float all[PANEL];
        memcpy(all, logits, sizeof all);
        to->logit = all[place];
    }
    floats most = logits[0];
#pragma GCC unroll 16
    for (int j = 1; j < VECTORS; j++) most = maximum(most, logits[j]);
    if (any(most > to->peak + FAR)) {
        const float peak = largest(most), rise = peak - to->peak, shrink = expf(-rise);
        to->spread = (to->spread - to->sum * rise) * shrink;
        to->sum *= shrink;
        to->peak = peak;
    }
    floats sum = to->sum, spread = to->spread;
#pragma GCC unroll 16
    for (int j = 0; j < VECTORS; j++) {
        const floats over = logits[j] - to->peak, weight = exponential(over);
        sum += weight;
        /* Where the weight is 0, the logit may be minus infinity. */
        if (shape->spreads) spread = fused(weight, maximum(fill(-1e4f), over), spread);
    }
    to->sum = sum;
    if (shape->spreads) to->spread = spread;
}

/* Before the first logit. Any logit is far above this peak. */
static inline Running nothing_weighed(int64_t target) {
    return (Running){.peak = -1e30f, .target = target};
}

static inline Weighed all_weighed(const Running *found) {
    return (Weighed){found->peak, total(found->sum), total(found->spread), found->logit};
}

#endif

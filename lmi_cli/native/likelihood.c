/* How likely a token is, given the hidden state before it.
 *
 * The output projection has as many rows as the vocabulary has tokens. Its panels are multiplied by
 * all hidden states, and of the products of a group of panels, only sums of their exponentials are
 * kept.
 */
#include "linear.h"
#include "pool.h"

enum { ROWS = 16 }; /* tokens of a piece */

typedef struct {
    const Weighed *pieces; /* [count][groups] */
    int64_t count, groups;
    float *losses, *entropies;
} Merging;

static void merge_rows(const void *work, int64_t piece, int64_t thread) {
    const Merging *all = work;
    (void)thread;
    for (int64_t row = piece * ROWS; row < all->count && row < (piece + 1) * ROWS; row++) {
        const Weighed *of = all->pieces + row * all->groups;
        float peak = of->peak;
        for (int64_t at = 1; at < all->groups; at++) peak = of[at].peak > peak ? of[at].peak : peak;
        double sum = 0, spread = 0, logit = 0;
        for (int64_t at = 0; at < all->groups; at++) {
            const float below = of[at].peak - peak, shrink = expf(below);
            sum += shrink * of[at].sum;
            spread += shrink * (of[at].spread + below * of[at].sum);
            logit += of[at].logit;
        }
        const double more = log(sum);
        all->losses[row] = (float)(peak - logit + more);
        if (all->entropies) all->entropies[row] = (float)(more - spread / sum);
    }
}

/* Losses of targets [count], given hidden states x[count, columns], in nats; and the entropies of
 * what is predicted, unless they are NULL. See Logits for factor and softcap.
 *
 * Sums do not depend on the number of threads. Returns 1 if memory ran out.
 */
int lmi_likelihood(const Linear *linear, const bf16 *x, int64_t count, const int64_t *targets,
                   float factor, float softcap, float *losses, float *entropies) {
    const int64_t groups = groups_of(linear);
    const size_t bytes = (size_t)(pool_threads() * count) * sizeof(Running);
    Running *running = aligned_alloc(64, (bytes + 63) / 64 * 64); /* other sizes may be refused */
    Weighed *pieces = malloc((size_t)(count * groups) * sizeof *pieces);
    const Scoring scoring = {{factor, softcap, entropies != NULL}, targets, running, pieces};
    const int failed =
        running == NULL || pieces == NULL || linear_scores(linear, x, count, &scoring);
    if (!failed) {
        const Merging all = {pieces, count, groups, losses, entropies};
        pool_run((count + ROWS - 1) / ROWS, merge_rows, &all);
    }
    free(running);
    free(pieces);
    return failed;
}

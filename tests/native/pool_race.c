/* Runs many short and long jobs and checks that each piece is computed exactly once.
 *
 * Compiled with a sanitizer for threads by test_pool.py. Prints how many pieces the caller computed
 * and how many the other threads did.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "pool.h"

void lmi_threads(int64_t count);

enum { JOBS = 20000, MOST = 500 };

typedef struct {
    int64_t pieces, job;
    int64_t *written; /* the job that wrote each piece last; not atomic, so that races show */
    atomic_long calls;
} Work;

static atomic_long by_caller, by_others;

static void compute(const void *work, int64_t piece, int64_t thread) {
    Work *all = (Work *)work;
    if (piece < 0 || piece >= all->pieces || thread < 0 || thread >= pool_threads()) abort();
    if (all->written[piece] == all->job) abort();
    all->written[piece] = all->job;
    atomic_fetch_add(&all->calls, 1);
    atomic_fetch_add(thread ? &by_others : &by_caller, 1);
    if (all->job % 2000 == 0 && piece % 7 == 0) usleep(300); /* longer than a thread waits actively */
}

int main(void) {
    int64_t written[MOST] = {0};
    lmi_threads(4);
    for (int64_t job = 1; job <= JOBS; job++) {
        Work work = {.pieces = job * 37 % MOST, .job = job, .written = written};
        if (job == JOBS / 2) lmi_threads(7);
        if (job == JOBS / 4 * 3) lmi_threads(2);
        pool_run(work.pieces, compute, &work);
        if (atomic_load(&work.calls) != work.pieces) abort();
        if (job % 500 == 0) usleep(2000); /* the others fall asleep */
    }
    printf("%ld %ld\n", atomic_load(&by_caller), atomic_load(&by_others));
    return 0;
}

/* A pool of threads for machines that other programs use as well.
 *
 * Each thread begins with a run of pieces of its own, so that it reads memory in order, and then
 * takes over what other threads have not begun. Work ends when all pieces are complete, whoever
 * computed them: a thread that is asleep or has lost its processor delays only the one piece that
 * it has begun. Threads wait actively for a moment and then sleep. If much time is lost in waiting
 * for others, or the caller often loses its processor, fewer threads are used for some time.
 */
#include "pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

enum {
    MAX_THREADS = 256,
    SPIN_NS = 1000 * 1000,              /* how long a thread waits actively before it sleeps */
    WINDOW_NS = 10 * 1000 * 1000,       /* over which lost time is measured */
    LOST_SHARE = 4,                     /* one part in this many is too much */
    SHORT_PAUSE_NS = 20 * 1000 * 1000,  /* before another thread is tried again: at first, */
    LONG_PAUSE_NS = 1000 * 1000 * 1000, /* and at most, after it has doubled each time */
    CALM_WINDOWS = 50                   /* without much lost time, until the pause is short again */
};

#define LINE _Alignas(128) /* two cache lines, which processors fetch together */
#define ACQUIRE(object) atomic_load_explicit(&(object), memory_order_acquire)
#define RELEASE(object, value) atomic_store_explicit(&(object), value, memory_order_release)

/* The next piece of a thread's run (low half), and the job that it belongs to (high half). */
typedef struct {
    LINE _Atomic uint64_t next;
} Cursor;

typedef struct {
    pthread_t handle;
    pthread_cond_t awake;
    _Atomic bool asleep;
} Worker;

static Cursor cursors[MAX_THREADS];
static Worker workers[MAX_THREADS];

/* A job is described completely before its number is published. One cache line has it all. */
static struct {
    LINE _Atomic uint32_t number;
    _Atomic int64_t pieces, shares;
    Piece *_Atomic compute;
    const void *_Atomic work;
} published;

static LINE _Atomic int64_t complete; /* pieces of the job */
static _Atomic bool caller_sleeps;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t finished = PTHREAD_COND_INITIALIZER;

/* Only the thread that holds `taken` uses what follows. */
static atomic_flag taken = ATOMIC_FLAG_INIT;
static int64_t started = 1;   /* threads that exist, the caller included */
static _Atomic int64_t threads = 1; /* that may be used */
static int64_t active = 1;    /* that are used now */
static int64_t used_ns, lost_ns, slept_ns, calm, pause_ns = SHORT_PAUSE_NS, retry_at_ns;

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * (int64_t)1000000000 + time.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");
#endif
}

static inline int64_t run_start(int64_t pieces, int64_t shares, int64_t thread) {
    return pieces * thread / shares;
}

/* Claims the next piece of a thread's run for a job; -1 if there is none, or the job is over. */
static int64_t claim(int64_t thread, uint32_t job, int64_t end) {
    uint64_t next = ACQUIRE(cursors[thread].next);
    while (next >> 32 == job && (int64_t)(next & UINT32_MAX) < end)
        if (atomic_compare_exchange_weak(&cursors[thread].next, &next, next + 1))
            return (int64_t)(next & UINT32_MAX);
    return -1;
}

/* Computes pieces of a job for as long as there are any that nobody has begun.
 *
 * A thread may be so late that the next job is being described. A claim succeeds only while the job
 * is incomplete, so what was read before is then the description of that job.
 */
static void take_part(int64_t self, uint32_t job) {
    const int64_t pieces = ACQUIRE(published.pieces), shares = ACQUIRE(published.shares);
    Piece *compute = ACQUIRE(published.compute);
    const void *work = ACQUIRE(published.work);
    int64_t done = 0;
    for (int64_t turn = 0; self < shares && turn < shares; turn++) {
        const int64_t thread = (self + turn) % shares, end = run_start(pieces, shares, thread + 1);
        for (int64_t at; (at = claim(thread, job, end)) >= 0; done++) compute(work, at, self);
    }
    if (done && atomic_fetch_add(&complete, done) + done == pieces && atomic_load(&caller_sleeps)) {
        pthread_mutex_lock(&lock);
        pthread_cond_signal(&finished);
        pthread_mutex_unlock(&lock);
    }
}

static uint32_t wait_for_job(Worker *worker, uint32_t last) {
    const int64_t until = now_ns() + SPIN_NS;
    do {
        for (int turn = 0; turn < 64; turn++) {
            const uint32_t job = ACQUIRE(published.number);
            if (job != last) return job;
            relax();
        }
    } while (now_ns() < until);
    pthread_mutex_lock(&lock);
    atomic_store(&worker->asleep, true);
    while (atomic_load(&published.number) == last) pthread_cond_wait(&worker->awake, &lock);
    atomic_store(&worker->asleep, false);
    pthread_mutex_unlock(&lock);
    return atomic_load(&published.number);
}

static void *work_for_ever(void *argument) {
    const int64_t self = (Worker *)argument - workers;
    for (uint32_t job = 0;; take_part(self, job)) job = wait_for_job(argument, job);
    return NULL;
}

static void wait_until_complete(int64_t pieces) {
    const int64_t until = now_ns() + SPIN_NS;
    do {
        for (int turn = 0; turn < 64; turn++) {
            if (ACQUIRE(complete) == pieces) return;
            relax();
        }
    } while (now_ns() < until);
    const int64_t asleep = now_ns();
    pthread_mutex_lock(&lock);
    atomic_store(&caller_sleeps, true);
    while (atomic_load(&complete) != pieces) pthread_cond_wait(&finished, &lock);
    atomic_store(&caller_sleeps, false);
    pthread_mutex_unlock(&lock);
    slept_ns += now_ns() - asleep;
}

/* Starts threads that do not exist yet; if the system refuses, there are fewer. */
static void start_threads(int64_t wanted) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    for (; started < wanted; started++) {
        Worker *worker = workers + started;
        pthread_cond_init(&worker->awake, NULL);
        if (pthread_create(&worker->handle, &attributes, work_for_ever, worker)) break;
        pthread_detach(worker->handle);
    }
    pthread_attr_destroy(&attributes);
}

/* A child process has none of its parent's threads. */
static void forget_threads(void) {
    started = active = 1;
    pthread_mutex_init(&lock, NULL);
    atomic_flag_clear(&taken);
}

/* How many threads to use now; takes up one more if the last attempt was long enough ago. */
static int64_t usable(int64_t now) {
    static bool prepared;
    const int64_t most = atomic_load(&threads);
    if (!prepared) prepared = pthread_atfork(NULL, NULL, forget_threads) == 0;
    if (started < most) {
        start_threads(most);
        atomic_store(&threads, active = started);
    }
    if (active < most && active < started && now >= retry_at_ns) active++;
    return active < most ? active : most;
}

static int64_t cpu_ns(void) {
    struct timespec time;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)) return 0;
    return time.tv_sec * (int64_t)1000000000 + time.tv_nsec;
}

/* Whether the calling thread has been without a processor for much of the time since it last asked.
 *
 * A caller that loses its processor need not wait for others, who meanwhile do its work and then
 * wait for it actively: the time lost in that way shows only here.
 */
static bool displaced(int64_t now) {
    static _Thread_local int64_t since_ns, cpu_before_ns;
    const int64_t cpu = cpu_ns(), passed = now - since_ns;
    const int64_t away = passed - (cpu - cpu_before_ns) - slept_ns;
    /* If most of the time has passed elsewhere, the caller may have waited for anything. */
    const bool known = since_ns > 0 && passed < 2 * used_ns;
    since_ns = now, cpu_before_ns = cpu, slept_ns = 0;
    return known && away > passed / LOST_SHARE;
}

/* Takes note of time used and lost; after a window that shows too many threads, uses one less. */
static void learn(int64_t used, int64_t lost, int64_t now) {
    used_ns += used, lost_ns += lost;
    if (used_ns < WINDOW_NS) return;
    const bool away = displaced(now);
    if (away || lost_ns > used_ns / LOST_SHARE) {
        if (active > 1) active--;
        retry_at_ns = now + pause_ns;
        pause_ns = pause_ns < LONG_PAUSE_NS / 2 ? 2 * pause_ns : LONG_PAUSE_NS;
        calm = 0;
    } else if (++calm >= CALM_WINDOWS) {
        pause_ns = SHORT_PAUSE_NS;
    }
    used_ns = lost_ns = 0;
}

int64_t pool_threads(void) { return atomic_load(&threads); }

/* Sets how many threads may be used, the caller's included. */
void lmi_threads(int64_t count) {
    atomic_store(&threads, count < 1 ? 1 : count > MAX_THREADS ? MAX_THREADS : count);
}

void pool_run(int64_t pieces, Piece *compute, const void *work) {
    if (pieces < 2 || pool_threads() < 2 || atomic_flag_test_and_set(&taken)) {
        for (int64_t at = 0; at < pieces; at++) compute(work, at, 0);
        return;
    }
    const int64_t begun = now_ns(), most = usable(begun), shares = most < pieces ? most : pieces;
    if (shares < 2) {
        for (int64_t at = 0; at < pieces; at++) compute(work, at, 0);
        atomic_flag_clear(&taken);
        return;
    }
    const uint32_t job = atomic_load(&published.number) + 1;
    for (int64_t at = 0; at < shares; at++)
        RELEASE(cursors[at].next, (uint64_t)job << 32 | (uint64_t)run_start(pieces, shares, at));
    RELEASE(complete, 0);
    RELEASE(published.pieces, pieces);
    RELEASE(published.shares, shares);
    RELEASE(published.compute, compute);
    RELEASE(published.work, work);
    atomic_store(&published.number, job); /* in one order with what is asked next: who sleeps */
    for (int64_t at = 1; at < shares; at++)
        if (atomic_load(&workers[at].asleep)) {
            pthread_mutex_lock(&lock);
            pthread_cond_signal(&workers[at].awake);
            pthread_mutex_unlock(&lock);
        }
    take_part(0, job);
    const int64_t own = now_ns();
    wait_until_complete(pieces);
    const int64_t end = now_ns();
    learn(end - begun, end - own, end);
    atomic_flag_clear(&taken);
}

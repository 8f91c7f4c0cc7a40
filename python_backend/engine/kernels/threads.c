/* A step of a decoder is some two hundred regions of microseconds each, so a worker that has run
 * out of units looks for the next region for a while before it sleeps. It sleeps between steps:
 * the other processes of a server need the core. */

#include "threads.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() __asm__ volatile("" ::: "memory")
#endif

enum { LOOKS = 4000 }; /* before a thread sleeps: some tens of microseconds */

static struct {
    pthread_mutex_t turn; /* engines of one process take turns */
    TriremeUnit run;
    const void *context;
    int units;
    atomic_int workers;                  /* written in turn, read by anybody */
    _Alignas(64) atomic_int next;       /* the first unit that nobody took */
    _Alignas(64) atomic_uint generation; /* counts regions */
    _Alignas(64) atomic_uint busy;       /* workers that have not ended this region */
    _Alignas(64) atomic_int sleepers;
} pool = {.turn = PTHREAD_MUTEX_INITIALIZER};

/* Sleep as long as a word has a value, after having looked at it for a while. */
static void await_change(atomic_uint *word, unsigned value) {
    for (int look = 0; look < LOOKS; look++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value) return;
        RELAX();
    }
    atomic_fetch_add(&pool.sleepers, 1);
    while (atomic_load(word) == value)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    atomic_fetch_sub(&pool.sleepers, 1);
}

static void wake(atomic_uint *word) {
    if (atomic_load(&pool.sleepers))
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void take_units(void) {
    int unit;
    while ((unit = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed)) < pool.units)
        pool.run(pool.context, unit);
}

static void *work(void *first) {
    unsigned seen = (unsigned)(uintptr_t)first;
    for (;;) {
        await_change(&pool.generation, seen);
        seen++;
        take_units();
        if (atomic_fetch_sub(&pool.busy, 1) == 1) wake(&pool.busy);
    }
    return NULL;
}

int trireme_threads(int threads) {
    int error = 0;
    pthread_mutex_lock(&pool.turn);
    while (!error && pool.workers < threads - 1) {
        pthread_t thread;
        void *seen = (void *)(uintptr_t)atomic_load(&pool.generation);
        error = pthread_create(&thread, NULL, work, seen);
        if (!error) {
            pthread_detach(thread);
            pool.workers++;
        }
    }
    pthread_mutex_unlock(&pool.turn);
    return error;
}

int trireme_num_threads(void) { return pool.workers + 1; }

void trireme_parallel(TriremeUnit run, const void *context, int units) {
    if (units == 1 || !pool.workers) {
        for (int unit = 0; unit < units; unit++) run(context, unit);
        return;
    }
    pthread_mutex_lock(&pool.turn);
    pool.run = run, pool.context = context, pool.units = units;
    atomic_store_explicit(&pool.next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.busy, pool.workers, memory_order_relaxed);
    atomic_fetch_add(&pool.generation, 1);
    wake(&pool.generation);
    take_units();
    unsigned busy;
    while ((busy = atomic_load_explicit(&pool.busy, memory_order_acquire)))
        await_change(&pool.busy, busy);
    pthread_mutex_unlock(&pool.turn);
}

void trireme_share(TriremeUnit run, const void *context, int units, int is_little) {
    if (!is_little) {
        trireme_parallel(run, context, units);
        return;
    }
    for (int unit = 0; unit < units; unit++) run(context, unit);
}

/* A step of a decoder is some two hundred regions of microseconds each, so a worker that has run
 * out of units looks for the next region for a while before it sleeps. It sleeps between steps:
 * the other processes of a server need the core. While one of them has it, a region ends without
 * that worker: nobody waits for who has taken no unit. */

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
    /* Of the region that runs; read by who has taken one of its units, and so keeps it from
     * ending. */
    TriremeUnit run;
    const void *context;
    unsigned units;
    atomic_int workers;                 /* written in turn, read by anybody */
    _Alignas(64) atomic_ullong left;    /* the region's number, and in the low half its units that
                                           nobody took: a late worker takes none of another's */
    _Alignas(64) atomic_uint generation; /* counts regions */
    _Alignas(64) atomic_uint ended;      /* units of this region */
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

/* Take a unit of whatever region runs; returns how many were left with it, 0 where none is. */
static unsigned take_unit(void) {
    unsigned long long left = atomic_load_explicit(&pool.left, memory_order_acquire);
    while ((unsigned)left && !atomic_compare_exchange_weak_explicit(&pool.left, &left, left - 1,
                                                                    memory_order_acq_rel,
                                                                    memory_order_acquire)) {
    }
    return (unsigned)left;
}

/* Run units until none is left; the last to end one wakes who waits for it. */
static void take_units(void) {
    unsigned units = 0, taken = 0, left;
    while ((left = take_unit())) {
        units = pool.units;
        pool.run(pool.context, (int)(units - left));
        taken++;
    }
    if (taken && atomic_fetch_add(&pool.ended, taken) + taken == units) wake(&pool.ended);
}

static void *work(void *first) {
    unsigned seen = (unsigned)(uintptr_t)first;
    for (;;) {
        await_change(&pool.generation, seen);
        seen = atomic_load(&pool.generation);
        take_units();
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
    if (units <= 1 || !pool.workers) {
        for (int unit = 0; unit < units; unit++) run(context, unit);
        return;
    }
    pthread_mutex_lock(&pool.turn);
    unsigned number = atomic_load(&pool.generation) + 1;
    pool.run = run, pool.context = context, pool.units = (unsigned)units;
    atomic_store(&pool.ended, 0);
    atomic_store(&pool.left, (unsigned long long)number << 32 | (unsigned)units);
    atomic_store(&pool.generation, number);
    wake(&pool.generation);
    take_units();
    unsigned ended;
    while ((ended = atomic_load_explicit(&pool.ended, memory_order_acquire)) != (unsigned)units)
        await_change(&pool.ended, ended);
    pthread_mutex_unlock(&pool.turn);
}

void trireme_share(TriremeUnit run, const void *context, int units, int is_little) {
    if (!is_little) {
        trireme_parallel(run, context, units);
        return;
    }
    for (int unit = 0; unit < units; unit++) run(context, unit);
}

/* The threads that all kernels share: a fork and a join around many small units of work. */

#ifndef TRIREME_THREADS_H
#define TRIREME_THREADS_H

typedef void (*TriremeUnit)(const void *context, int unit);

/* Have so many threads in all, the caller's among them. Returns 0, or an errno. */
int trireme_threads(int threads);

/* How many there are. */
int trireme_num_threads(void);

/* Run units 0 to `units` - 1, each once, on all threads; returns when the last has ended. A unit
 * may not call this. */
void trireme_parallel(TriremeUnit run, const void *context, int units);

/* The same, but work that is over sooner than a thread wakes stays with the caller. */
void trireme_share(TriremeUnit run, const void *context, int units, int is_little);

#endif

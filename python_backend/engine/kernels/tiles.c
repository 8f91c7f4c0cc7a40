/* Which tiles compute: those of the most capable set that suits. */

#include "tiles.h"

#if HAS_LINEAR

#include <stddef.h>

extern const TileSet AVX2_TILES, AVX512_TILES;

/* The most capable first. The last suits any number of rows of any weights. */
static const TileSet *const SETS[] = {
#if HAS_AVX512
    &AVX512_TILES,
#else
    &AVX2_TILES,
#endif
};

enum { NUM_SETS = sizeof SETS / sizeof *SETS };

static const TileSet *usable[NUM_SETS + 1];

static __attribute__((constructor)) void find_usable(void) {
    int count = 0;
    for (int i = 0; i < NUM_SETS; i++)
        if (!SETS[i]->is_usable || SETS[i]->is_usable()) usable[count++] = SETS[i];
}

const TileSet *tiles_among(const TileSet *const *sets, Storage storage, int rows) {
    for (; *sets; sets++)
        if (rows >= (*sets)->least_rows && (*sets)->tiles[storage]) break;
    return *sets;
}

const TileSet *tiles_for(Storage storage, int rows) { return tiles_among(usable, storage, rows); }

void tiles_start_thread(const TileSet *set) {
    static _Thread_local const TileSet *started;
    if (!set->start_thread || started == set) return;
    set->start_thread();
    started = set;
}

const char *trireme_instructions(void) { return usable[0]->name; }

#endif

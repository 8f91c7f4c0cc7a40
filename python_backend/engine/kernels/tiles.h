/* Tiles: a few rows by some vectors of a panel, whose sums stay in registers.
 *
 * A set of tiles is written for one set of instructions, in a file of its own. A library holds those
 * that its instruction set has, and which of them computes is chosen at run time, by the processor
 * and by the number of rows (tiles.c). What they compute is the same, to the bit. */

#ifndef TRIREME_TILES_H
#define TRIREME_TILES_H

#include "linear.h"
#include "vectors.h"

enum {
    MOST_ROWS = 32, /* of a tile of any set */
    VECTORS = PANEL / LANES,
};

/* results[row][16 * vector ...] of `rows` rows from `first` on, before bias and epilogue. Meanwhile a
 * quarter of the next panel may be fetched, from `ahead` on: a batch's first tile would wait for it. */
typedef void (*RunTile)(const Linear *linear, const Rounded *input, int first, int rows, int panel,
                        int vector, const char *ahead, float results[][PANEL]);

typedef struct {
    RunTile run;
    int vectors; /* that it computes from `vector` on: VECTORS, or a part of them */
} Tile;

/* Mirrored by tests/python_backend/engine/test_tiles.py. */
typedef struct {
    const char *name;           /* of the instructions */
    int (*is_usable)(void);     /* whether this process may use them; NULL: the library needs them */
    void (*start_thread)(void); /* what a thread does before its first tile; NULL: nothing */
    int least_rows;             /* for which they are worth it */
    int most_rows;              /* of a tile, up to MOST_ROWS */
    const Tile *tiles[STORAGES]; /* for 1 to `most_rows` rows; or NULL */
} TileSet;

/* The tiles for weights that are stored so, and so many rows. */
const TileSet *tiles_for(Storage storage, int rows);

/* The same among some sets, of which the last is NULL: the first that suits. */
const TileSet *tiles_among(const TileSet *const *sets, Storage storage, int rows);

/* What a thread calls before it runs tiles of a set. */
void tiles_start_thread(const TileSet *set);

/* A function `tile_rows` that calls `tile` for a number of rows that the compiler knows, so that the
 * sums are registers, and on its own, so that nothing else is. */
#define TILE(tile, known, vectors)                                                                 \
    static __attribute__((noinline)) void tile##_##known(                                          \
        const Linear *linear, const Rounded *input, int first, int rows, int panel, int vector,    \
        const char *ahead, float results[][PANEL]) {                                               \
        (void)rows;                                                                                \
        tile(linear, input, first, known, panel, vector, vectors, ahead, results);                 \
    }

#endif

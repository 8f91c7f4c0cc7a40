/* Tiles: a few rows by some vectors of a panel, whose sums stay in registers. A file for each set of
 * instructions defines them; what they compute is the same. */

#ifndef TRIREME_TILES_H
#define TRIREME_TILES_H

#include "linear.h"
#include "vectors.h"

enum { MOST_ROWS = 6, VECTORS = PANEL / LANES };

/* results[row][16 * vector ...] of rows `first` and following, before bias and epilogue. Meanwhile a
 * quarter of the next panel may be fetched, from `ahead` on: a batch's first tile would wait for it. */
typedef void (*RunTile)(const Linear *linear, const Rounded *input, int first, int panel,
                        int vector, const char *ahead, float results[][PANEL]);

typedef struct {
    RunTile run;
    int vectors; /* that it computes from `vector` on: VECTORS, or a part of them */
} Tile;

/* For 1 to MOST_ROWS rows. */
extern const Tile TILES_8[MOST_ROWS], TILES_4[MOST_ROWS];

/* A function `tile_rows` that calls `tile` for a number of rows that the compiler knows, so that the
 * sums are registers, and on its own, so that nothing else is. */
#define TILE(tile, rows, vectors)                                                                  \
    static __attribute__((noinline)) void tile##_##rows(                                           \
        const Linear *linear, const Rounded *input, int first, int panel, int vector,              \
        const char *ahead, float results[][PANEL]) {                                               \
        tile(linear, input, first, rows, panel, vector, vectors, ahead, results);                  \
    }

#endif

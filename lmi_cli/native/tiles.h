/* Products by the matrix unit of newer processors (AMX), which reads the same panels.
 *
 * Its tiles are sixteen rows of 64 bytes: of the left side, 16 rows of 32 components; of the right
 * side, 16 pairs of components of 16 columns; of the sums, 16 rows of 16 floats.
 */
#ifndef LMI_TILES_H
#define LMI_TILES_H

#include <stdbool.h>

#include "vectors.h"

#if defined(__linux__) && defined(HAS_BF16_DOT) && (defined(__clang__) || __GNUC__ >= 11)
#define LMI_HAS_TILES 1
#define WITH_TILES __attribute__((target("amx-tile,amx-bf16")))
#endif

enum {
    TILE_ROWS = 16,  /* rows of a tile */
    BLOCK_ROWS = 32, /* rows multiplied at once: two tiles of them by two of columns */
    BLOCK_COLUMNS = 32
};

bool uses_tiles(void);

#ifdef LMI_HAS_TILES

/* Compilers do not know that the instructions for tiles read and write memory. */
static inline void settle_memory(void) { __asm__ volatile("" ::: "memory"); }

/* The shape of all eight tiles: 16 rows of 64 bytes. */
static inline WITH_TILES void open_tiles(void) {
    struct {
        uint8_t palette, first_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int at = 0; at < 8; at++) shape.bytes[at] = 64, shape.rows[at] = TILE_ROWS;
    settle_memory();
    _tile_loadconfig(&shape);
}

static inline WITH_TILES void close_tiles(void) { _tile_release(); }

/* sums[BLOCK_ROWS][BLOCK_COLUMNS], `sums_row` floats apart, = left * right; see multiply.h.
 *
 * With `add`, the product is added to the sums. `pairs` is a multiple of 16.
 */
INLINE WITH_TILES void multiply_tiles(
    float *sums, int64_t sums_row, const bool add, const bf16 *left, int64_t left_row,
    const bf16 *right, int64_t right_row, int64_t pairs) {
    const int64_t left_bytes = left_row * (int64_t)sizeof(bf16);
    const int64_t right_bytes = right_row * (int64_t)sizeof(bf16);
    const int64_t sums_bytes = sums_row * (int64_t)sizeof(float);
    const bf16 *below = left + TILE_ROWS * left_row;
    settle_memory();
    float *lower = sums + TILE_ROWS * sums_row;
    if (add) {
        _tile_loadd(0, sums, sums_bytes);
        _tile_loadd(1, sums + 16, sums_bytes);
        _tile_loadd(2, lower, sums_bytes);
        _tile_loadd(3, lower + 16, sums_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t pair = 0; pair < pairs; pair += 16) {
        const bf16 *row = right + pair * right_row;
        _tile_loadd(4, left + 2 * pair, left_bytes);
        _tile_loadd(6, row, right_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, row + 32, right_bytes);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, below + 2 * pair, left_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, sums_bytes);
    _tile_stored(1, sums + 16, sums_bytes);
    _tile_stored(2, lower, sums_bytes);
    _tile_stored(3, lower + 16, sums_bytes);
    settle_memory();
}

#else

static inline void open_tiles(void) {}
static inline void close_tiles(void) {}

#endif
#endif

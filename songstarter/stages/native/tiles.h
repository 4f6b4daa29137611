/* A panel's sums by AMX: sixteen rows by sixteen channels by sixty-four inputs with one instruction.

       levels [row, inputs]          panel [inputs / DEEP][PANEL][DEEP]              sums [row, PANEL]
       16 rows x 64 inputs    x      16 groups of inputs x 16 channels of DEEP  =    16 rows x 16 channels

   A panel's two halves are two tiles, and so are 32 rows: four tiles of sums share what was loaded. They are the
   integers that vpdpbusd finds. A processor that has tiles may still have a kernel that refuses them. */

#ifndef SONGSTARTER_TILES_H
#define SONGSTARTER_TILES_H

#include "matrix.h"

enum {
    TILE_ROWS = 16,
    TILE_BYTES = 64, /* of a row */
    TILES = 8,
    FEWEST_ROWS = 3, /* fewer are bound by memory either way */
    GROUP_BYTES = PANEL * DEEP,
    ROUND_BYTES = TILE_BYTES / DEEP * GROUP_BYTES, /* of a panel, that one round sums */
};

#if defined(__AMX_INT8__)

#include <immintrin.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ASK_PERMISSION = 0x1023, TILE_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM and its feature, which libc does not name */

static atomic_int tiles_granted;

/* A process asks before its first tile; whether it may. */
static int ask_for_tiles(void) {
    int granted = syscall(SYS_arch_prctl, ASK_PERMISSION, TILE_DATA) == 0;
    atomic_store(&tiles_granted, granted);
    return granted;
}

static inline int suits_tiles(int rows, int inputs) {
    return atomic_load(&tiles_granted) && rows >= FEWEST_ROWS && inputs % TILE_BYTES == 0;
}

/* Each thread takes its own, and gives them back lest they be saved whenever it loses its core. */
static void take_tiles(void) {
    static const struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } all_alike = {
        .palette = 1,
        .row_bytes = {[0 ... TILES - 1] = TILE_BYTES},
        .rows = {[0 ... TILES - 1] = TILE_ROWS},
    };
    _tile_loadconfig(&all_alike);
}

static void give_tiles_back(void) { _tile_release(); }

/* Of 16 rows, or of 32: those that nobody asked for are computed from whatever lies there. */
static void sum_by_tiles(const int8_t *levels, const uint8_t *panel, int inputs, int twice, int32_t *sums) {
    const int8_t *others = levels + (size_t)TILE_ROWS * inputs;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < inputs; k += TILE_BYTES, panel += ROUND_BYTES) {
        for (int i = 0; i < ROUND_BYTES; i += LINE)
            __builtin_prefetch(panel + PANEL_AHEAD + i);
        _tile_loadd(4, levels + k, inputs);
        _tile_loadd(6, panel, GROUP_BYTES);
        _tile_loadd(7, panel + GROUP_BYTES / 2, GROUP_BYTES);
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        if (twice) {
            _tile_loadd(5, others + k, inputs);
            _tile_dpbsud(2, 5, 6);
            _tile_dpbsud(3, 5, 7);
        }
    }
    int row_bytes = PANEL * sizeof(int32_t);
    _tile_stored(0, sums, row_bytes);
    _tile_stored(1, sums + PANEL / 2, row_bytes);
    if (twice) {
        _tile_stored(2, sums + TILE_ROWS * PANEL, row_bytes);
        _tile_stored(3, sums + TILE_ROWS * PANEL + PANEL / 2, row_bytes);
    }
}

#else

static int ask_for_tiles(void) { return 1; } /* there is nothing to refuse */
static inline int suits_tiles(int rows, int inputs) { return (void)rows, (void)inputs, 0; }
static void take_tiles(void) {}
static void give_tiles_back(void) {}
static void sum_by_tiles(const int8_t *levels, const uint8_t *panel, int inputs, int twice, int32_t *sums) {
    (void)levels, (void)panel, (void)inputs, (void)twice, (void)sums; /* nothing suits them */
}

#endif
#endif

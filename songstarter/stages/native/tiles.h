/* A panel's sums by AMX: sixteen rows by sixteen channels by sixty-four inputs with one instruction.

       levels [row, inputs]          panel [inputs / DEEP][PANEL][DEEP]              sums [row, PANEL]
       16 rows x 64 inputs    x      16 groups of inputs x 16 channels of DEEP  =    16 rows x 16 channels

   A panel's two halves are two tiles, and so are 32 rows: four tiles of sums share what was loaded. They are the
   integers that vpdpbusd finds. A processor that has tiles may still have a kernel that refuses them. */

#ifndef SONGSTARTER_TILES_H
#define SONGSTARTER_TILES_H

#include "matrix.h"
#include "unpacking.h"

enum {
    TILE_ROWS = 16,
    TILE_BYTES = 64, /* of a row */
    TILES = 8,
    FEWEST_ROWS = 3, /* fewer are bound by memory either way */
    DEEP_BYTES = PANEL * DEEP,
    ROUND_BYTES = TILE_BYTES / DEEP * DEEP_BYTES, /* of a panel, that one round sums */
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

/* What one round sums of a panel, 64 inputs from input `k` on: as bytes, wherever they are. */
static inline __attribute__((always_inline)) const uint8_t *bytes_of_round(
    const int halved, const uint8_t *panel, int inputs, int k, uint8_t unpacked[ROUND_BYTES]) {
    const uint8_t *there = panel + (halved ? inputs / GROUP * PANEL + k * PANEL / 2 : k * PANEL);
    int shorter = halved ? 2 : 1;
    for (int i = 0; i < ROUND_BYTES / shorter; i += LINE)
        __builtin_prefetch(there + PANEL_AHEAD / shorter + i);
    if (!halved)
        return there;
    for (int group = 0; group < TILE_BYTES / GROUP; group++) {
        Unpacking by = unpacking(panel + (k / GROUP + group) * PANEL);
        for (int deep = 0; deep < GROUP; deep += DEEP, there += PANEL / 2 * DEEP, unpacked += PANEL * DEEP)
            unpack(there, by, (Sums *)unpacked);
    }
    return unpacked - ROUND_BYTES;
}

/* Of 16 rows, or of 32: those that nobody asked for are computed from whatever lies there. */
static inline __attribute__((always_inline)) void sum_rounds(
    const int halved, const int8_t *levels, const uint8_t *panel, int inputs, int twice, int32_t *sums) {
    uint8_t unpacked[2][ROUND_BYTES] __attribute__((aligned(LINE))); /* two, for tiles are loaded behind the writing */
    const int8_t *others = levels + (size_t)TILE_ROWS * inputs;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < inputs; k += TILE_BYTES) {
        const uint8_t *round = bytes_of_round(halved, panel, inputs, k, unpacked[k / TILE_BYTES % 2]);
        _tile_loadd(4, levels + k, inputs);
        _tile_loadd(6, round, DEEP_BYTES);
        _tile_loadd(7, round + DEEP_BYTES / 2, DEEP_BYTES);
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

static void sum_by_tiles(const int8_t *levels, const Matrix *m, int channel, int twice, int32_t *sums) {
    if (m->halved)
        sum_rounds(1, levels, panel_of(m, channel), m->inputs, twice, sums);
    else
        sum_rounds(0, levels, panel_of(m, channel), m->inputs, twice, sums);
}

#else

static int ask_for_tiles(void) { return 1; } /* there is nothing to refuse */
static inline int suits_tiles(int rows, int inputs) { return (void)rows, (void)inputs, 0; }
static void take_tiles(void) {}
static void give_tiles_back(void) {}
static void sum_by_tiles(const int8_t *levels, const Matrix *m, int channel, int twice, int32_t *sums) {
    (void)levels, (void)m, (void)channel, (void)twice, (void)sums; /* nothing suits them */
}

#endif
#endif

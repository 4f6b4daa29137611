/* Matrix products of bytes: one scale for each row of activations, found on the spot, one for each output channel.

   The sums are exact integers, and equal those of the graph's MatMulInteger. */

#ifndef SONGSTARTER_PRODUCTS_H
#define SONGSTARTER_PRODUCTS_H

#include "matrix.h"
#include "team.h"
#include "tiles.h"
#include "unpacking.h"
#include "vectors.h"

enum {
#if defined(__AVX512VNNI__)
    ABREAST = 8, /* rows that share a pass over a panel: as many as registers hold the sums of */
#else
    ABREAST = 2,
#endif
    MOST_ROWS = 64, /* of one call; callers cut longer fillings */
};

typedef struct {
    int8_t *levels; /* [MOST_ROWS, inputs] */
    float scale[MOST_ROWS];
    int32_t sum[MOST_ROWS]; /* of a row's levels */
} Quantised;

typedef enum { WRITE, ADD, GELU } Ending; /* what becomes of a product */

/* Levels of +-127. What is no number spoils the scale, and so the row's logits, which is how it is noticed. */
static void quantise(const float *x, int width, int row, Quantised *into) {
    Vector peaks = {}, poison = {};
    for (int i = 0; i < width; i += LANES) {
        peaks = larger(magnitude(load(x + i)), peaks);
        poison += load(x + i) * 0.0f;
    }
    float peak = largest_of(peaks);
    float scale = (peak > 1e-12f ? peak : 1e-12f) / 127.0f;
    int8_t *levels = into->levels + (size_t)row * width;
    int32_t sum = 0;
    for (int i = 0; i < width; i++) {
        int32_t level = (int32_t)rintf(x[i] / scale);
        levels[i] = (int8_t)level;
        sum += level;
    }
    into->scale[row] = scale + sum_of(poison);
    into->sum[row] = sum;
}

/* A register full of sums, each of four more products of an unsigned and a signed byte. */
#if defined(__AVX512VNNI__)
/* Not by the intrinsic: around that, gcc 12 copies every sum twice in each round of the loop. */
static inline Sums add_products(Sums sums, Sums weights, int32_t activations) {
    __m512i a = _mm512_set1_epi32(activations);
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(a));
    return sums;
}
#else
/* 2 * 127 * 127 fits into the 16 bits of a pair's sum: that is why weights keep to 7 bits. */
static inline Sums add_products(Sums sums, Sums weights, int32_t activations) {
    __m256i pairs = _mm256_maddubs_epi16(weights, _mm256_set1_epi32(activations));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif

static inline void finish(const Sums *panel, const Matrix *m, const Quantised *from, int row, int channel, float *to,
                          Ending ending) {
    for (int i = 0; i < PANEL; i += LANES) {
        Integers sums;
        memcpy(&sums, (const int32_t *)panel + i, sizeof sums);
        sums -= WEIGHT_OFFSET * from->sum[row];
        Vector product = __builtin_convertvector(sums, Vector) * load(m->scales + channel + i) * from->scale[row];
        float *place = to + (size_t)row * m->outputs + channel + i;
        store(place, ending == WRITE ? product : ending == ADD ? load(place) + product : gelu(product));
    }
}

/* DEEP inputs of a panel's channels: `count` rows from `levels` on, a constant once inlined, times two registers. */
static inline __attribute__((always_inline)) void add_deep(
    const int count, const int8_t *levels, int inputs, const Sums weights[REGISTERS], Sums sums[][REGISTERS]) {
#pragma GCC unroll 8
    for (int r = 0; r < count; r++) {
        int32_t four;
        memcpy(&four, levels + (size_t)r * inputs, DEEP);
#pragma GCC unroll 4
        for (int i = 0; i < REGISTERS; i++)
            sums[r][i] = add_products(sums[r][i], weights[i], four);
    }
}

static inline __attribute__((always_inline)) void sum_bytes(
    const int count, const uint8_t *panel, const int8_t *levels, int inputs, Sums sums[][REGISTERS]) {
    for (int k = 0; k < inputs; k += DEEP, panel += PANEL * DEEP) {
        for (int i = 0; i < PANEL * DEEP; i += LINE)
            __builtin_prefetch(panel + PANEL_AHEAD + i);
        Sums weights[REGISTERS];
        memcpy(weights, panel, sizeof weights);
        add_deep(count, levels + k, inputs, weights, sums);
    }
}

static inline __attribute__((always_inline)) void sum_halves(
    const int count, const uint8_t *panel, const int8_t *levels, int inputs, Sums sums[][REGISTERS]) {
    const uint8_t *halves = panel + inputs / GROUP * PANEL;
    for (int k = 0; k < inputs; k += GROUP, panel += PANEL) {
        Unpacking by = unpacking(panel);
        for (int deep = 0; deep < GROUP; deep += DEEP, halves += PANEL / 2 * DEEP) {
            __builtin_prefetch(halves + PANEL_AHEAD / 2);
            Sums weights[REGISTERS];
            unpack(halves, by, weights);
            add_deep(count, levels + k + deep, inputs, weights, sums);
        }
    }
}

/* `count` rows, a constant once inlined, against one panel: `to` [row, outputs] gets PANEL channels of them. */
static inline __attribute__((always_inline)) void multiply_abreast(
    const int count, const Matrix *m, const Quantised *from, int row, int channel, float *to, Ending ending) {
    const int8_t *levels = from->levels + (size_t)row * m->inputs;
    Sums sums[ABREAST][REGISTERS];
    memset(sums, 0, sizeof sums);
    if (m->halved)
        sum_halves(count, panel_of(m, channel), levels, m->inputs, sums);
    else
        sum_bytes(count, panel_of(m, channel), levels, m->inputs, sums);
    for (int r = 0; r < count; r++)
        finish(sums[r], m, from, row + r, channel, to, ending);
}

static void multiply_rows(int count, const Matrix *m, const Quantised *from, int row, int channel, float *to, Ending e) {
    switch (count) {
    case 1: multiply_abreast(1, m, from, row, channel, to, e); break;
    case 2: multiply_abreast(2, m, from, row, channel, to, e); break;
    case 3: multiply_abreast(3, m, from, row, channel, to, e); break;
    case 4: multiply_abreast(4, m, from, row, channel, to, e); break;
    case 5: multiply_abreast(5, m, from, row, channel, to, e); break;
    case 6: multiply_abreast(6, m, from, row, channel, to, e); break;
    case 7: multiply_abreast(7, m, from, row, channel, to, e); break;
    default: multiply_abreast(ABREAST, m, from, row, channel, to, e);
    }
}

/* The same for as many rows as there are, where the processor sums by tiles. */
static void multiply_by_tiles(int count, const Matrix *m, const Quantised *from, int channel, float *to, Ending ending) {
    int32_t sums[2 * TILE_ROWS * PANEL] __attribute__((aligned(LINE)));
    for (int row = 0; row < count; row += 2 * TILE_ROWS) {
        int here = count - row < 2 * TILE_ROWS ? count - row : 2 * TILE_ROWS;
        sum_by_tiles(from->levels + (size_t)row * m->inputs, m, channel, here > TILE_ROWS, sums);
        for (int r = 0; r < here; r++)
            finish((const Sums *)(sums + r * PANEL), m, from, row + r, channel, to, ending);
    }
}

/* `count` quantised rows against a thread's panels; every weight is read from memory once. */
static void multiply(Team *team, int number, const Matrix *m, const Quantised *from, int count, float *to, Ending ending) {
    int first, end, by_tiles = suits_tiles(count, m->inputs);
    share(team, number, m->outputs, PANEL, &first, &end);
    if (by_tiles)
        take_tiles();
    for (int channel = first; channel < end; channel += PANEL)
        if (by_tiles)
            multiply_by_tiles(count, m, from, channel, to, ending);
        else
            for (int row = 0; row < count; row += ABREAST)
                multiply_rows(count - row < ABREAST ? count - row : ABREAST, m, from, row, channel, to, ending);
    if (by_tiles)
        give_tiles_back();
    meet(team);
}

#endif

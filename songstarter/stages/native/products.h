/* Matrix products of bytes: one scale for each row of activations, found on the spot, one for each output channel.

   The sums are exact integers, and equal those of the graph's MatMulInteger. */

#ifndef SONGSTARTER_PRODUCTS_H
#define SONGSTARTER_PRODUCTS_H

#include "memory.h"
#include "team.h"
#include "vectors.h"

enum {
    PANEL = 2 * LANES,  /* output channels that are computed together */
    DEEP = 4,           /* inputs that one instruction sums */
#if defined(__AVX512VNNI__)
    TILE = 8, /* rows that share a pass over a panel: as many as registers hold the sums of */
#else
    TILE = 2,
#endif
    MOST_ROWS = 64,     /* of one call; callers cut longer fillings */
    WEIGHT_OFFSET = 64, /* weights are stored as unsigned bytes: level + 64, from 1 to 127 */
};

typedef struct {
    const uint8_t *panels; /* [out / PANEL][in / DEEP][PANEL][DEEP] */
    const float *scales;   /* [out] */
    int inputs, outputs;
} Matrix;

typedef struct {
    int8_t *levels; /* [row, inputs] */
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
typedef __m512i Sums;
/* Not by the intrinsic: around that, gcc 12 copies every sum twice in each round of the loop. */
static inline Sums add_products(Sums sums, const uint8_t *weights, int32_t activations) {
    __m512i w = _mm512_loadu_si512(weights), a = _mm512_set1_epi32(activations);
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(a));
    return sums;
}
#else
typedef __m256i Sums;
/* 2 * 127 * 127 fits into the 16 bits of a pair's sum: that is why weights keep to 7 bits. */
static inline Sums add_products(Sums sums, const uint8_t *weights, int32_t activations) {
    __m256i w = _mm256_loadu_si256((const __m256i *)weights);
    __m256i pairs = _mm256_maddubs_epi16(w, _mm256_set1_epi32(activations));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif

enum { REGISTERS = PANEL * sizeof(int32_t) / sizeof(Sums) }; /* that hold a panel's sums for one row */

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

/* `count` rows, a constant once inlined, against one panel: `to` [row, outputs] gets PANEL channels of them. */
static inline __attribute__((always_inline)) void multiply_tile(
    const int count, const Matrix *m, const Quantised *from, int row, int channel, float *to, Ending ending) {
    const uint8_t *weights = m->panels + (size_t)channel * m->inputs;
    const int8_t *levels = from->levels + (size_t)row * m->inputs;
    Sums sums[TILE][REGISTERS];
    memset(sums, 0, sizeof sums);
    for (int k = 0; k < m->inputs; k += DEEP, weights += PANEL * DEEP) {
#pragma GCC unroll 8
        for (int r = 0; r < count; r++) {
            int32_t four;
            memcpy(&four, levels + (size_t)r * m->inputs + k, DEEP);
#pragma GCC unroll 4
            for (int i = 0; i < REGISTERS; i++)
                sums[r][i] = add_products(sums[r][i], weights + i * sizeof(Sums), four);
        }
    }
    for (int r = 0; r < count; r++)
        finish(sums[r], m, from, row + r, channel, to, ending);
}

static void multiply_rows(int count, const Matrix *m, const Quantised *from, int row, int channel, float *to, Ending e) {
    switch (count) {
    case 1: multiply_tile(1, m, from, row, channel, to, e); break;
    case 2: multiply_tile(2, m, from, row, channel, to, e); break;
    case 3: multiply_tile(3, m, from, row, channel, to, e); break;
    case 4: multiply_tile(4, m, from, row, channel, to, e); break;
    case 5: multiply_tile(5, m, from, row, channel, to, e); break;
    case 6: multiply_tile(6, m, from, row, channel, to, e); break;
    case 7: multiply_tile(7, m, from, row, channel, to, e); break;
    default: multiply_tile(TILE, m, from, row, channel, to, e);
    }
}

/* `count` quantised rows against a thread's panels; every weight is read from memory once. */
static void multiply(Team *team, int number, const Matrix *m, const Quantised *from, int count, float *to, Ending ending) {
    int first, end;
    share(team, number, m->outputs, PANEL, &first, &end);
    for (int channel = first; channel < end; channel += PANEL)
        for (int row = 0; row < count; row += TILE)
            multiply_rows(count - row < TILE ? count - row : TILE, m, from, row, channel, to, ending);
    meet(team);
}

/* Levels [in, out], as the graph has them, in the order in which products read them; no panels if memory is short. */
static Matrix packed(const int8_t *levels, const float *scales, int inputs, int outputs) {
    uint8_t *panels = allocate((size_t)inputs * outputs);
    for (int channel = 0; panels && channel < outputs; channel += PANEL)
        for (int k = 0; k < inputs; k++) {
            uint8_t *to = panels + (size_t)channel * inputs + (size_t)(k / DEEP) * PANEL * DEEP + k % DEEP;
            const int8_t *from = levels + (size_t)k * outputs + channel;
            for (int i = 0; i < PANEL; i++)
                to[i * DEEP] = (uint8_t)(from[i] + WEIGHT_OFFSET);
        }
    return (Matrix){panels, scales, inputs, outputs};
}

#endif

/* Halves of bytes, made whole on their way to the products: byte = factor * (half - 8) + 64 (matrix.h). */

#ifndef SONGSTARTER_UNPACKING_H
#define SONGSTARTER_UNPACKING_H

#include "matrix.h"

#if defined(__AVX512VNNI__)
typedef __m512i Sums;
#else
typedef __m256i Sums;
#endif

enum { REGISTERS = PANEL * sizeof(int32_t) / sizeof(Sums) }; /* that hold a panel's sums for one row */

/* A register's DEEP bytes of each channel, one by one and in pairs: a factor makes no byte spill into its neighbour. */
typedef uint8_t Singles __attribute__((vector_size(sizeof(Sums))));
typedef uint16_t Pairs __attribute__((vector_size(sizeof(Sums))));
typedef uint32_t Channels __attribute__((vector_size(sizeof(Sums))));
typedef uint8_t Factors __attribute__((vector_size(sizeof(Sums) / DEEP)));

typedef struct {
    Pairs factors[REGISTERS];
    Singles offsets[REGISTERS];
} Unpacking;

/* How to unpack a group of inputs, by its factors [PANEL]. */
static inline __attribute__((always_inline)) Unpacking unpacking(const uint8_t *factors) {
    Unpacking by;
#pragma GCC unroll 4
    for (int i = 0; i < REGISTERS; i++) {
        Factors few;
        memcpy(&few, factors + i * sizeof few, sizeof few);
        Channels each = __builtin_convertvector(few, Channels);
        by.factors[i] = (Pairs)(each * 0x00010001u);
        by.offsets[i] = WEIGHT_OFFSET - (Singles)(each * 0x01010101u) * HALF_OFFSET;
    }
    return by;
}

/* DEEP inputs of a panel, which take as many bytes as a register of them has: the lower halves are its first channels. */
static inline __attribute__((always_inline)) void unpack(const uint8_t *halves, Unpacking by, Sums *whole) {
    enum { EACH = REGISTERS / 2 };
#pragma GCC unroll 2
    for (int i = 0; i < EACH; i++) {
        Pairs both;
        memcpy(&both, halves + i * sizeof both, sizeof both);
        Pairs mask = (Pairs){} + (HALF_MASK | HALF_MASK << 8);
        Pairs below = (both & mask) * by.factors[i], above = (both >> 4 & mask) * by.factors[i + EACH];
        whole[i] = (Sums)((Singles)below + by.offsets[i]);
        whole[i + EACH] = (Sums)((Singles)above + by.offsets[i + EACH]);
    }
}

#endif

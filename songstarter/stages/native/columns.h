/* A signal between two layers of the codec: a column of channels for each moment, [moment, channel].

   Channels are padded with zeros to whole vectors, so that the columns which a convolution sees lie side by side and
   are one row of a matrix product; the next output's row begins one column later. Nothing is copied for it. */

#ifndef SONGSTARTER_COLUMNS_H
#define SONGSTARTER_COLUMNS_H

#include <stddef.h>

#include "memory.h"
#include "vectors.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define IN_TWO_PARTS 1

/* A number is the sum of two bfloat16, to 2^-17 of its size: tiles multiply those, and sum in fp32. */
typedef struct {
    uint16_t *coarse, *fine;
} Columns;

static inline Columns columns_from(Columns c, ptrdiff_t place) { return (Columns){c.coarse + place, c.fine + place}; }

static inline void put(Columns c, ptrdiff_t place, Vector v) {
    __m256i coarse = (__m256i)_mm512_cvtneps_pbh((__m512)v);
    Vector rounded = (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(coarse), 16);
    _mm256_storeu_si256((__m256i *)(c.coarse + place), coarse);
    _mm256_storeu_si256((__m256i *)(c.fine + place), (__m256i)_mm512_cvtneps_pbh((__m512)(v - rounded)));
}

static inline void copy_column(Columns c, ptrdiff_t from, ptrdiff_t to, int channels) {
    memcpy(c.coarse + to, c.coarse + from, channels * sizeof *c.coarse);
    memcpy(c.fine + to, c.fine + from, channels * sizeof *c.fine);
}

static inline void clear_columns(Columns c, ptrdiff_t place, size_t count) {
    memset(c.coarse + place, 0, count * sizeof *c.coarse);
    memset(c.fine + place, 0, count * sizeof *c.fine);
}

static inline int present(Columns c) { return c.coarse != NULL; }

#else

typedef struct {
    float *values;
} Columns;

static inline Columns columns_from(Columns c, ptrdiff_t place) { return (Columns){c.values + place}; }
static inline void put(Columns c, ptrdiff_t place, Vector v) { store(c.values + place, v); }

static inline void copy_column(Columns c, ptrdiff_t from, ptrdiff_t to, int channels) {
    memcpy(c.values + to, c.values + from, channels * sizeof *c.values);
}

static inline void clear_columns(Columns c, ptrdiff_t place, size_t count) {
    memset(c.values + place, 0, count * sizeof *c.values);
}

static inline int present(Columns c) { return c.values != NULL; }

#endif

/* Room for `count` numbers, zeros at first; not present where memory is short. */
static Columns columns_of(size_t count) {
    Columns c;
#if IN_TWO_PARTS
    c.coarse = allocate(2 * count * sizeof *c.coarse);
    c.fine = c.coarse ? c.coarse + count : NULL;
#else
    c.values = allocate(count * sizeof *c.values);
#endif
    if (present(c))
        clear_columns(c, 0, count);
    return c;
}

static void free_columns(Columns c) {
#if IN_TWO_PARTS
    free(c.coarse);
#else
    free(c.values);
#endif
}

#endif

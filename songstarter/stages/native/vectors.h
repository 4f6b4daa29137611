/* Sixteen floats at a time; compilers split them where registers are shorter. */

#ifndef SONGSTARTER_VECTORS_H
#define SONGSTARTER_VECTORS_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 16 };

typedef float Vector __attribute__((vector_size(64), aligned(4)));
typedef int32_t Integers __attribute__((vector_size(64), aligned(4)));

static inline Vector load(const float *from) { return *(const Vector *)from; }
static inline void store(float *to, Vector v) { *(Vector *)to = v; }
static inline Vector all(float value) { return value - (Vector){}; }
static inline Vector magnitude(Vector v) { return (Vector)((Integers)v & 0x7fffffff); }

/* Where the mask is set the first, elsewhere the second. */
static inline Vector either(Integers mask, Vector first, Vector second) {
    return (Vector)(((Integers)first & mask) | ((Integers)second & ~mask));
}

static inline Vector larger(Vector a, Vector b) { return either(a > b, a, b); }

static inline float largest_of(Vector v) {
    __m256 halves[2];
    memcpy(halves, &v, sizeof halves);
    __m256 eight = _mm256_max_ps(halves[0], halves[1]);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/* The sum of a vector's halves, of their halves, and so on. */
static inline float sum_of(Vector v) {
    __m256 halves[2];
    memcpy(halves, &v, sizeof halves);
    __m256 eight = _mm256_add_ps(halves[0], halves[1]);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* e^v for v <= 0, to two units in the last place: 2^n times a polynomial on +-ln(2)/2. */
static inline Vector exponential(Vector v) {
    const float to_nearest = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    v = larger(v, all(-87.0f));
    Vector rounded = v * 1.44269504f + to_nearest;
    Integers exponent = (Integers)rounded << 23;
    Vector whole = rounded - to_nearest;
    Vector rest = v - whole * 0.693359375f + whole * 2.12194440e-4f; /* ln(2) in two parts */
    Vector p = rest * (1.0f / 5040) + (1.0f / 720);
    p = p * rest + (1.0f / 120);
    p = p * rest + (1.0f / 24);
    p = p * rest + (1.0f / 6);
    p = p * rest + 0.5f;
    p = p * rest + 1.0f;
    p = p * rest + 1.0f;
    return (Vector)((Integers)p + exponent);
}

/* x/2 (1 + erf(x / sqrt(2))), erf to 1.5e-7 (Abramowitz and Stegun 7.1.26). */
static inline Vector gelu(Vector x) {
    Vector z = magnitude(x) * 0.70710678f;
    Vector t = 1.0f / (z * 0.3275911f + 1.0f);
    Vector p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = (p * t + 0.254829592f) * t;
    Vector tail = p * exponential(-z * z); /* 1 - erf(z) */
    Vector below = x * 0.5f * tail;        /* of a negative x, whose 1 + erf is the tail */
    return either(x < 0.0f, below, x - below);
}

static inline void add(float *to, const float *from, int count) {
    for (int i = 0; i < count; i += LANES)
        store(to + i, load(to + i) + load(from + i));
}

#endif

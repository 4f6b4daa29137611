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

/* As much of a vector as a register holds: what loops that must not spill are written in. */
#if defined(__AVX512F__)
typedef __m512 Register;
static inline Register of_all(float value) { return _mm512_set1_ps(value); }
static inline Register load_register(const float *from) { return _mm512_loadu_ps(from); }
static inline Register register_multiply_add(Register a, Register b, Register c) { return _mm512_fmadd_ps(a, b, c); }
static inline Register register_smaller(Register a, Register b) { return _mm512_min_ps(a, b); }
static inline Register register_larger(Register a, Register b) { return _mm512_max_ps(a, b); }
static inline Register shifted(Register whole) { return (Register)_mm512_slli_epi32((__m512i)whole, 23); }
static inline Register times_power(Register v, Register shifted) {
    return (Register)_mm512_add_epi32((__m512i)v, (__m512i)shifted);
}
static inline Register load_shorts(const int16_t *from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)from)));
}
#else
typedef __m256 Register;
static inline Register of_all(float value) { return _mm256_set1_ps(value); }
static inline Register load_register(const float *from) { return _mm256_loadu_ps(from); }
static inline Register register_multiply_add(Register a, Register b, Register c) { return _mm256_fmadd_ps(a, b, c); }
static inline Register register_smaller(Register a, Register b) { return _mm256_min_ps(a, b); }
static inline Register register_larger(Register a, Register b) { return _mm256_max_ps(a, b); }
static inline Register shifted(Register whole) { return (Register)_mm256_slli_epi32((__m256i)whole, 23); }
static inline Register times_power(Register v, Register shifted) {
    return (Register)_mm256_add_epi32((__m256i)v, (__m256i)shifted);
}
static inline Register load_shorts(const int16_t *from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)from)));
}
#endif

enum { REGISTER_LANES = sizeof(Register) / sizeof(float), HALVES = LANES / REGISTER_LANES };

/* a * b + c, rounded once. */
static inline Vector multiply_add(Vector a, Vector b, Vector c) {
    Register of_a[HALVES], of_b[HALVES], of_c[HALVES];
    memcpy(of_a, &a, sizeof a);
    memcpy(of_b, &b, sizeof b);
    memcpy(of_c, &c, sizeof c);
    for (int i = 0; i < HALVES; i++)
        of_c[i] = register_multiply_add(of_a[i], of_b[i], of_c[i]);
    memcpy(&c, of_c, sizeof c);
    return c;
}

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

/* e^v for v <= 0, to two units in the last place: 2^n times a polynomial on +-ln(2)/2. What is no number stays none. */
static inline Vector exponential(Vector v) {
    const float to_nearest = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    v = either(v < -87.0f, all(-87.0f), v);
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

/* The larger of x and e^min(x, 0) - 1, to 2e-7: e^x as 2^n times a polynomial on +-1/2. What is no number stays none. */
static inline Register elu(Register x) {
    const Register to_nearest = of_all(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    Register t = register_larger(register_smaller(x, of_all(0.0f)) * 1.44269504f, of_all(-126.0f));
    Register rounded = t + to_nearest;
    Register rest = t - (rounded - to_nearest);
    Register p = register_multiply_add(rest, of_all(0.0013407259f), of_all(0.00967187528f));
    p = register_multiply_add(p, rest, of_all(0.0555030836f));
    p = register_multiply_add(p, rest, of_all(0.240222346f));
    p = register_multiply_add(p, rest, of_all(0.693147215f));
    p = register_multiply_add(p, rest, of_all(1.0f));
    return register_larger(times_power(p, shifted(rounded)) - 1.0f, x);
}

static inline Vector bent(Vector v) {
    Register parts[HALVES];
    memcpy(parts, &v, sizeof v);
    for (int i = 0; i < HALVES; i++)
        parts[i] = elu(parts[i]);
    memcpy(&v, parts, sizeof v);
    return v;
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

/* What one head of one row sees of keys and values that are bytes: attend_floats, but for roundings, by integers.

       query -- 16 bits --+                                   values [position, HEAD]
                          x -- scores -- softmax -- 15 bits --+-- x -- sums, of sixteen positions at a time
       keys [position, HEAD]                    of the largest of sixteen

   Integers take a third of the instructions, and their sums are exact: any order of adding gives the same bits. */

#ifndef SONGSTARTER_BYTE_ATTENTION_H
#define SONGSTARTER_BYTE_ATTENTION_H

#include "attention.h"

enum {
    HIGHEST = 32767, /* of the query's levels and of the shares' */
    TOGETHER = 4,    /* values that are summed at once */
};

static const float SMALLEST = 1e-30f; /* what levels are made from: never nothing at all */

static inline Integers nearest(Vector v) { /* up to 2^22 */
    return (Integers)(v + 12582912.0f) - 0x4b400000;
}

/* The query as levels; what one of them is worth. */
static float levels_of(const Vector query[PARTS], int16_t levels[HEAD]) {
    Vector peaks = {};
    for (int part = 0; part < PARTS; part++)
        peaks = larger(magnitude(query[part]), peaks);
    float peak = largest_of(larger(peaks, all(SMALLEST)));
    for (int part = 0; part < PARTS; part++) {
        Integers whole = nearest(query[part] * (HIGHEST / peak));
        for (int i = 0; i < LANES; i++)
            levels[part * LANES + i] = (int16_t)whole[i];
    }
    return peak / HIGHEST;
}

/* Where sixteen positions from `place` on lie, and what comes AHEAD of them; behind the last one there is only the last. */
static inline void find_sixteen(const int8_t *numbers, int place, int last, const int8_t *found[LANES]) {
    for (int i = 0; i < LANES; i++) {
        found[i] = numbers + (size_t)(place + i < last ? place + i : last) * HEAD;
        ask_ahead(found[i], 1);
    }
}

#if defined(__AVX512VNNI__)

typedef __m512i Query[2];

static inline void take_query(const int16_t levels[HEAD], Query query) {
    for (int i = 0; i < 2; i++)
        query[i] = _mm512_loadu_si512(levels + i * HEAD / 2);
}

static inline __m512i half_key(const int8_t *from) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)from));
}

/* Of four vectors side by side: every 128 bits of the result hold a sum of each. */
static inline __m512i add_across(__m512i a, __m512i b, __m512i c, __m512i d) {
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

static inline __m512i add_quarters(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

/* The query's products with sixteen keys. */
static inline Integers sixteen_products(const Query query, const int8_t *const keys[LANES]) {
    __m512i sums[LANES];
    for (int i = 0; i < LANES; i++)
        sums[i] = _mm512_dpwssd_epi32(_mm512_madd_epi16(half_key(keys[i]), query[0]), half_key(keys[i] + HEAD / 2), query[1]);
    __m512i fours[4];
    for (int i = 0; i < 4; i++)
        fours[i] = add_across(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]);
    return (Integers)add_quarters(add_quarters(fours[0], fours[1]), add_quarters(fours[2], fours[3]));
}

static inline __m512i add_values(__m512i sums, __m512i shares, __m512i values) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(shares), "v"(values)); /* not by the intrinsic: see add_products */
    return sums;
}

static inline __m512i four_of(const uint8_t *shares) {
    int32_t four;
    memcpy(&four, shares, sizeof four);
    return _mm512_set1_epi32(four);
}

/* Sums of sixteen positions' values, each by its share: a vector has four channels of every sixteen.
   One instruction sums four positions' bytes, so a share goes as two of them. */
static inline void mix_sixteen(const int8_t *const values[LANES], Integers shares, Integers sums[PARTS]) {
    uint8_t high[LANES], low[LANES];
    _mm_storeu_si128((__m128i *)high, _mm512_cvtepi32_epi8(_mm512_srli_epi32((__m512i)shares, 8)));
    _mm_storeu_si128((__m128i *)low, _mm512_cvtepi32_epi8((__m512i)shares));
    __m512i highs[PARTS] = {}, lows[PARTS] = {};
    for (int place = 0; place < LANES; place += TOGETHER) {
        __m512i v[TOGETHER];
        for (int i = 0; i < TOGETHER; i++)
            v[i] = _mm512_loadu_si512(values[place + i]);
        __m512i pairs[4] = {_mm512_unpacklo_epi8(v[0], v[1]), _mm512_unpackhi_epi8(v[0], v[1]),
                            _mm512_unpacklo_epi8(v[2], v[3]), _mm512_unpackhi_epi8(v[2], v[3])};
        __m512i fours[PARTS] = {_mm512_unpacklo_epi16(pairs[0], pairs[2]), _mm512_unpackhi_epi16(pairs[0], pairs[2]),
                                _mm512_unpacklo_epi16(pairs[1], pairs[3]), _mm512_unpackhi_epi16(pairs[1], pairs[3])};
        for (int i = 0; i < PARTS; i++) {
            highs[i] = add_values(highs[i], four_of(high + place), fours[i]);
            lows[i] = add_values(lows[i], four_of(low + place), fours[i]);
        }
    }
    for (int i = 0; i < PARTS; i++)
        sums[i] = (Integers)_mm512_add_epi32(_mm512_slli_epi32(highs[i], 8), lows[i]);
}

static inline int channel_of(int vector, int lane) { return lane / 4 * LANES + vector * 4 + lane % 4; }

#else

typedef __m256i Query[4];

static inline void take_query(const int16_t levels[HEAD], Query query) {
    for (int i = 0; i < 4; i++)
        query[i] = _mm256_loadu_si256((const __m256i *)(levels + i * LANES));
}

static inline __m256i sixteen_bytes(const int8_t *from) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
}

static inline __m256i one_product(const Query query, const int8_t *key) {
    __m256i sums = _mm256_madd_epi16(sixteen_bytes(key), query[0]);
    for (int i = 1; i < 4; i++)
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(sixteen_bytes(key + i * LANES), query[i]));
    return sums;
}

/* The query's products with sixteen keys. */
static inline Integers sixteen_products(const Query query, const int8_t *const keys[LANES]) {
    Integers products;
    for (int eight = 0; eight < 2; eight++) {
        __m256i fours[2];
        for (int i = 0; i < 2; i++) {
            const int8_t *const *of = keys + 8 * eight + 4 * i;
            __m256i ab = _mm256_hadd_epi32(one_product(query, of[0]), one_product(query, of[1]));
            __m256i cd = _mm256_hadd_epi32(one_product(query, of[2]), one_product(query, of[3]));
            fours[i] = _mm256_hadd_epi32(ab, cd);
        }
        __m256i found = _mm256_add_epi32(_mm256_permute2x128_si256(fours[0], fours[1], 0x20),
                                         _mm256_permute2x128_si256(fours[0], fours[1], 0x31));
        memcpy((int32_t *)&products + 8 * eight, &found, sizeof found);
    }
    return products;
}

/* Sums of sixteen positions' values, each by its share: a vector has one part's channels, by fours 0, 2, 1, 3.
   One instruction sums two positions' products of 16 bits. */
static inline void mix_sixteen(const int8_t *const values[LANES], Integers shares, Integers sums[PARTS]) {
    int32_t pairs[LANES / 2];
    for (int i = 0; i < LANES / 2; i++)
        pairs[i] = shares[2 * i] | shares[2 * i + 1] << 16;
    __m256i found[PARTS][2] = {};
    for (int part = 0; part < PARTS; part++)
        for (int i = 0; i < LANES / 2; i++) {
            __m256i a = sixteen_bytes(values[2 * i] + part * LANES), b = sixteen_bytes(values[2 * i + 1] + part * LANES);
            __m256i by = _mm256_set1_epi32(pairs[i]);
            __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), by);
            __m256i high = _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), by);
            found[part][0] = _mm256_add_epi32(found[part][0], low);
            found[part][1] = _mm256_add_epi32(found[part][1], high);
        }
    memcpy(sums, found, sizeof found);
}

static inline int channel_of(int vector, int lane) { return vector * LANES + lane / 4 % 2 * 8 + lane / 8 * 4 + lane % 4; }

#endif

/* The values of `length` positions, each weighted by its key's share of the query. */
static void attend_bytes(const Vector query[PARTS], const int8_t *keys, const int8_t *values, int length, float *scores,
                         Vector mixed[PARTS]) {
    int16_t levels[HEAD];
    Query asked;
    float worth = levels_of(query, levels);
    take_query(levels, asked);
    const int8_t *sixteen[LANES];
    for (int place = 0; place < length; place += LANES) {
        find_sixteen(keys, place, length - 1, sixteen);
        store(scores + place, __builtin_convertvector(sixteen_products(asked, sixteen), Vector) * worth);
    }
    ask_for_first(values, (size_t)length * HEAD);
    shares_of(scores, length);
    Vector totals = {}, unordered[PARTS] = {};
    for (int place = 0; place < length; place += LANES) {
        find_sixteen(values, place, length - 1, sixteen);
        float peak = largest_of(larger(load(scores + place), all(SMALLEST)));
        Integers shares = nearest(load(scores + place) * (HIGHEST / peak)), sums[PARTS];
        mix_sixteen(sixteen, shares, sums);
        float unit = peak / HIGHEST;
        totals += __builtin_convertvector(shares, Vector) * unit;
        for (int i = 0; i < PARTS; i++)
            unordered[i] += __builtin_convertvector(sums[i], Vector) * unit;
    }
    float total = sum_of(totals);
    for (int i = 0; i < PARTS; i++)
        for (int lane = 0; lane < LANES; lane++) {
            int channel = channel_of(i, lane);
            mixed[channel / LANES][channel % LANES] = unordered[i][lane] / total;
        }
}

#endif

/* What some heads of one row see of keys and values that are bytes: attend_floats, but for roundings, by integers.

       query -- 16 bits --+                          values
                          x -- scores -- 15 bits of --+-- x -- sums, of one block at a time
                        keys            the largest

   Integers take a fraction of the instructions, and their sums are exact: any order of adding gives the same bits.
   Sixteen positions of a head are a block of LANES * HEAD bytes, laid out so that whatever one instruction sums lies
   side by side; blocks of the same positions lie side by side too, so that a row is read from its start to its end:

       row       [position / 16][head] blocks
       keys      [channel / 4][position % 16][channel % 4]           level + 128
       values    [position % 16 / 4][channel][position % 4]          level */

#ifndef SONGSTARTER_BYTE_ATTENTION_H
#define SONGSTARTER_BYTE_ATTENTION_H

#include "attention.h"

enum {
    HIGHEST_LEVEL = 32639, /* of a query: 127 * 256 + 127, so that both of its bytes are signed ones */
    HIGHEST_SHARE = 32767,
    TOGETHER = 4,          /* channels of a key, or positions of a channel, that are summed at once */
    GROUPS = HEAD / TOGETHER,
    GROUP_BYTES_OF_KEYS = LANES * TOGETHER,
    GROUP_BYTES_OF_VALUES = HEAD * TOGETHER,
    BLOCK = LANES * HEAD,
    KEY_OFFSET = 128,
    MOST_TOGETHER = LANES, /* heads of a row that are read side by side: what is known of each has a lane */
};
_Static_assert(LANES == 16, "kv_memory.py's POSITIONS_TOGETHER");

static const float SMALLEST = 1e-30f; /* that a query's levels are made from: never nothing at all */
static const float LOWEST = -1e30f;   /* of peaks, before anything was seen */

static inline Integers nearest(Vector v) { /* up to 2^22 */
    return (Integers)(v + 12582912.0f) - 0x4b400000;
}

/* A query's levels as the products want them. */
typedef struct {
    int16_t levels[HEAD];
    int8_t high[HEAD], low[HEAD]; /* 256 * high + low */
    int32_t offset;               /* what the keys' own adds to every product */
    float worth;                  /* of one level; no number where the query is none */
} Query;

static void take_query(const Vector asked[PARTS], Query *query) {
    Vector peaks = {};
    for (int part = 0; part < PARTS; part++)
        peaks = larger(magnitude(asked[part]), peaks);
    float peak = largest_of(larger(peaks, all(SMALLEST)));
    Integers total = {};
    Vector poison = {};
    for (int part = 0; part < PARTS; part++) {
        Vector level = asked[part] * (HIGHEST_LEVEL / peak);
        Integers whole = nearest(either(level == level, level, (Vector){}));
        poison += level * 0.0f;
        Integers low = (whole << 24) >> 24, high = (whole - low) >> 8;
        total += whole;
        for (int i = 0; i < LANES; i++) {
            query->levels[part * LANES + i] = (int16_t)whole[i];
            query->high[part * LANES + i] = (int8_t)high[i];
            query->low[part * LANES + i] = (int8_t)low[i];
        }
    }
    query->offset = 0;
    for (int i = 0; i < LANES; i++)
        query->offset += total[i] * KEY_OFFSET;
    query->worth = peak / HIGHEST_LEVEL + sum_of(poison);
}

/* One row's keys or values, of some heads from the first that is meant. The first `shared` positions, a multiple of
   LANES, are read where other rows read them too; the row's own numbers are the same. */
typedef struct {
    const uint8_t *others, *own;
    int shared, heads; /* of the whole row */
} Bytes;

/* The first of the heads' blocks of a position. */
static inline const uint8_t *block_at(Bytes numbers, int place) {
    return (place < numbers.shared ? numbers.others : numbers.own) + (size_t)place / LANES * numbers.heads * BLOCK;
}

#if defined(__AVX512VNNI__)

/* sums + a * b, of four bytes each: unsigned and signed. Not by the intrinsic: see add_products. */
static inline __m512i add_fours(__m512i sums, __m512i a, const void *b) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(a), "m"(*(const char(*)[64])b));
    return sums;
}

/* The same, with the same four signed bytes everywhere. */
static inline __m512i add_same_four(__m512i sums, __m512i a, const int8_t *b) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(a), "m"(*(const char(*)[4])b));
    return sums;
}

/* The query's products with the keys of a block. */
static inline Integers sixteen_products(const Query *query, const uint8_t *keys) {
    __m512i highs[2] = {}, lows[2] = {};
    for (int group = 0; group < GROUPS; group++) {
        __m512i fours = _mm512_loadu_si512(keys + group * GROUP_BYTES_OF_KEYS);
        highs[group % 2] = add_same_four(highs[group % 2], fours, query->high + group * TOGETHER);
        lows[group % 2] = add_same_four(lows[group % 2], fours, query->low + group * TOGETHER);
    }
    Integers high = (Integers)highs[0] + (Integers)highs[1], low = (Integers)lows[0] + (Integers)lows[1];
    return (high << 8) + low - query->offset;
}

static inline __m512i four_of(const uint8_t *shares) {
    int32_t four;
    memcpy(&four, shares, sizeof four);
    return _mm512_set1_epi32(four);
}

/* Sums of a block's values, each by its position's share, which goes as two bytes. */
static inline void mix_sixteen(const uint8_t *values, Integers shares, Integers sums[PARTS]) {
    uint8_t high[LANES], low[LANES];
    _mm_storeu_si128((__m128i *)high, _mm512_cvtepi32_epi8(_mm512_srli_epi32((__m512i)shares, 8)));
    _mm_storeu_si128((__m128i *)low, _mm512_cvtepi32_epi8((__m512i)shares));
    __m512i highs[PARTS] = {}, lows[PARTS] = {};
    for (int place = 0; place < LANES; place += TOGETHER, values += GROUP_BYTES_OF_VALUES) {
        __m512i by_high = four_of(high + place), by_low = four_of(low + place);
        for (int part = 0; part < PARTS; part++) {
            highs[part] = add_fours(highs[part], by_high, values + part * LANES * TOGETHER);
            lows[part] = add_fours(lows[part], by_low, values + part * LANES * TOGETHER);
        }
    }
    for (int part = 0; part < PARTS; part++)
        sums[part] = ((Integers)highs[part] << 8) + (Integers)lows[part];
}

#else

enum { FOURS = 4 }; /* things that a register holds four numbers of 16 bits of */

static inline __m256i same_four(const int16_t *numbers) {
    int64_t four;
    memcpy(&four, numbers, sizeof four);
    return _mm256_set1_epi64x(four);
}

/* Sums of neighbours, of eight things in their order: of four that a has, and of four that b has. */
static inline __m256i sums_of_pairs(__m256i a, __m256i b) {
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8);
}

/* The query's products with the keys of a block. */
static inline Integers sixteen_products(const Query *query, const uint8_t *keys) {
    __m256i sums[LANES / FOURS] = {};
    for (int group = 0; group < GROUPS; group++) {
        __m256i by = same_four(query->levels + group * TOGETHER);
        for (int i = 0; i < LANES / FOURS; i++) {
            __m128i bytes = _mm_loadu_si128((const __m128i *)(keys + group * GROUP_BYTES_OF_KEYS + i * FOURS * TOGETHER));
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_cvtepu8_epi16(bytes), by));
        }
    }
    __m256i found[2] = {sums_of_pairs(sums[0], sums[1]), sums_of_pairs(sums[2], sums[3])};
    Integers products;
    memcpy(&products, found, sizeof found);
    return products - query->offset;
}

/* Sums of a block's values, each by its position's share. */
static inline void mix_sixteen(const uint8_t *values, Integers shares, Integers sums[PARTS]) {
    int16_t numbers[LANES];
    for (int i = 0; i < LANES; i++)
        numbers[i] = (int16_t)shares[i];
    __m256i found[HEAD / FOURS];
    for (int i = 0; i < HEAD / FOURS; i++) {
        found[i] = (__m256i){};
        for (int place = 0; place < LANES; place += TOGETHER) {
            const uint8_t *fours = values + place / TOGETHER * GROUP_BYTES_OF_VALUES + i * FOURS * TOGETHER;
            __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)fours));
            found[i] = _mm256_add_epi32(found[i], _mm256_madd_epi16(wide, same_four(numbers + place)));
        }
    }
    for (int i = 0; i < HEAD / FOURS; i += 2) {
        __m256i eight = sums_of_pairs(found[i], found[i + 1]);
        memcpy((int32_t *)sums + i * FOURS, &eight, sizeof eight);
    }
}

#endif

/* What some heads have seen so far: values and shares, relative to e^peak of each. */
typedef struct {
    Vector weighted[MOST_TOGETHER][PARTS], totals[MOST_TOGETHER];
    Vector peaks; /* [head] */
} Seen;

/* Let what was seen be relative to higher peaks. */
static void raise(Seen *seen, Vector peaks, int heads) {
    Vector less = exponential(seen->peaks - peaks);
    for (int head = 0; head < heads; head++) {
        seen->totals[head] *= less[head];
        for (int part = 0; part < PARTS; part++)
            seen->weighted[head][part] *= less[head];
    }
    seen->peaks = peaks;
}

/* See a block of each head, whose positions from `count` on are nothing. Part by part for all heads, so that none waits
   for its own numbers. */
static inline void see_blocks(
    const Query *queries, const uint8_t *keys, const uint8_t *values, int heads, int count, Seen *seen) {
    static const Integers lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Vector scores[MOST_TOGETHER];
    float peaks[LANES], units[LANES];
    store(peaks, all(LOWEST));
    for (int head = 0; head < heads; head++) {
        Integers products = sixteen_products(queries + head, keys + head * BLOCK);
        scores[head] = __builtin_convertvector(products, Vector) * queries[head].worth;
        scores[head] = either(lanes < count, scores[head], all(-INFINITY));
        peaks[head] = largest_of(scores[head]);
    }
    Integers shares[MOST_TOGETHER];
    for (int head = 0; head < heads; head++)
        shares[head] = nearest(exponential(scores[head] - peaks[head]) * (float)HIGHEST_SHARE);
    Vector highest = larger(load(peaks), seen->peaks);
    if (largest_of(highest - seen->peaks) > 0.0f)
        raise(seen, highest, heads);
    store(units, exponential(load(peaks) - highest) * (1.0f / HIGHEST_SHARE));
    for (int head = 0; head < heads; head++) {
        Integers sums[PARTS];
        mix_sixteen(values + head * BLOCK, shares[head], sums);
        seen->totals[head] += __builtin_convertvector(shares[head], Vector) * units[head];
        for (int part = 0; part < PARTS; part++)
            seen->weighted[head][part] += __builtin_convertvector(sums[part], Vector) * units[head];
    }
}

/* The values of `length` positions, each weighted by its key's share of the query: for each of some heads, which are at
   most MOST_TOGETHER. */
static void attend_bytes(
    const Query *queries, Bytes keys, Bytes values, int heads, int length, Vector mixed[][PARTS]) {
    Seen seen = {.peaks = all(LOWEST)};
    for (int place = 0; place < length; place += LANES)
        see_blocks(queries, block_at(keys, place), block_at(values, place), heads, length - place, &seen);
    for (int head = 0; head < heads; head++) {
        float total = sum_of(seen.totals[head]);
        for (int part = 0; part < PARTS; part++)
            mixed[head][part] = seen.weighted[head][part] / total;
    }
}

/* Sixteen numbers as levels of their scales. */
static inline Integers levels_of(Vector numbers, Vector scales) {
    Vector levels = numbers / scales;
    return nearest(either(levels < -128.0f, all(-128.0f), either(levels > 127.0f, all(127.0f), levels)));
}

/* Ask for what a position's keys and values will be written into: their blocks. */
static void ask_to_write(const uint8_t *keys, const uint8_t *values, int place) {
    for (int group = 0; group < GROUPS; group++)
        __builtin_prefetch(keys + group * GROUP_BYTES_OF_KEYS + place % LANES * TOGETHER, 1);
    for (int i = 0; i < GROUP_BYTES_OF_VALUES; i += LINE)
        __builtin_prefetch(values + place % LANES / TOGETHER * GROUP_BYTES_OF_VALUES + i, 1);
}

/* Write a position's keys into their block. */
static void remember_key(const float *head, const float *scale, uint8_t *keys, int place) {
    uint8_t *to = keys + place % LANES * TOGETHER, levels[HEAD];
    for (int part = 0; part < HEAD; part += LANES) {
        Integers sixteen = levels_of(load(head + part), load(scale + part)) + KEY_OFFSET;
        for (int i = 0; i < LANES; i++)
            levels[part + i] = (uint8_t)sixteen[i];
    }
    for (int group = 0; group < GROUPS; group++)
        memcpy(to + group * GROUP_BYTES_OF_KEYS, levels + group * TOGETHER, TOGETHER);
}

/* As remember_key, but that positions which share a word must not be written at the same time. */
static void remember_value(const float *head, const float *scale, uint8_t *values, int place) {
    uint8_t *words = values + place % LANES / TOGETHER * GROUP_BYTES_OF_VALUES;
    int shift = 8 * (place % TOGETHER);
    for (int part = 0; part < HEAD; part += LANES) {
        Integers level = levels_of(load(head + part), load(scale + part)) & 255;
        Integers *word = (Integers *)(words + part * TOGETHER);
        *word = (*word & ~(255 << shift)) | level << shift;
    }
}

#endif

/* What one head of one row sees of keys and values that are bytes: attend_floats, but for roundings, by integers.

       query -- 16 bits --+                                   values
                          x -- scores -- softmax -- 15 bits --+-- x -- sums, of sixteen positions at a time
                        keys                    of the largest of sixteen

   Integers take a fraction of the instructions, and their sums are exact: any order of adding gives the same bits.
   Sixteen positions of a head are a block of LANES * HEAD bytes, laid out so that whatever one instruction sums lies
   side by side:

       keys      [channel / 4][position][channel % 4]         level + 128
       values    [position / 4][channel][position % 4]        level */

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
};

static const float SMALLEST = 1e-30f; /* what levels are made from: never nothing at all */

static inline Integers nearest(Vector v) { /* up to 2^22 */
    return (Integers)(v + 12582912.0f) - 0x4b400000;
}

/* A query's levels as the products want them. */
typedef struct {
    int16_t levels[HEAD];
    int8_t high[HEAD], low[HEAD]; /* 256 * high + low */
    int32_t offset;               /* what the keys' own adds to every product */
    float worth;                  /* of one level */
} Query;

static void take_query(const Vector asked[PARTS], Query *query) {
    Vector peaks = {};
    for (int part = 0; part < PARTS; part++)
        peaks = larger(magnitude(asked[part]), peaks);
    float peak = largest_of(larger(peaks, all(SMALLEST)));
    Integers total = {};
    for (int part = 0; part < PARTS; part++) {
        Integers whole = nearest(asked[part] * (HIGHEST_LEVEL / peak));
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
    query->worth = peak / HIGHEST_LEVEL;
}

/* As Floats, but in blocks. */
typedef struct {
    const uint8_t *others, *own;
    int shared;
} Bytes;

static inline const uint8_t *block_at(Bytes numbers, int place) {
    return (place < numbers.shared ? numbers.others : numbers.own) + (size_t)place * HEAD;
}

/* Lines of memory that are asked for before they are read, of two heads' numbers that are read one after the other. Only
   those that are the row's own: what it shares is near. They are spread over all blocks, so that memory works on
   while a row reads what it shares. */
typedef struct {
    const uint8_t *now, *then; /* as if it came right behind */
    int lines;                 /* of now */
    int for_each_block;        /* in 256ths */
    int asked;                 /* in 256ths, from the first */
} Foresight;

static Foresight foresee(Bytes now, Bytes then, int length) {
    int blocks = (length + LANES - 1) / LANES, lines = (blocks - now.shared / LANES) * (BLOCK / LINE);
    const uint8_t *behind = then.own + (size_t)then.shared * HEAD - (size_t)lines * LINE;
    return (Foresight){now.own + (size_t)now.shared * HEAD, behind, lines, lines * 256 / blocks, 0};
}

static inline void ask_ahead(Foresight *f) {
    enum { LINES_AHEAD = AHEAD_BYTES / LINE };
    int line = f->asked / 256 + LINES_AHEAD, end = (f->asked += f->for_each_block) / 256 + LINES_AHEAD;
    for (; line < end; line++)
        __builtin_prefetch((line < f->lines ? f->now : f->then) + (size_t)line * LINE);
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

/* The values of `length` positions, each weighted by its key's share of the query. `next` are the keys that the
   thread reads after that. */
static void attend_bytes(const Vector asked[PARTS], Bytes keys, Bytes values, Bytes next, int length, float *scores,
                         Vector mixed[PARTS]) {
    Query query;
    take_query(asked, &query);
    Foresight foresight = foresee(keys, values, length);
    for (int place = 0; place < length; place += LANES) {
        ask_ahead(&foresight);
        Integers products = sixteen_products(&query, block_at(keys, place));
        store(scores + place, __builtin_convertvector(products, Vector) * query.worth);
    }
    shares_of(scores, length);
    foresight = foresee(values, next, length);
    Vector totals = {}, weighted[PARTS] = {};
    for (int place = 0; place < length; place += LANES) {
        ask_ahead(&foresight);
        float peak = largest_of(larger(load(scores + place), all(SMALLEST)));
        Integers shares = nearest(load(scores + place) * (HIGHEST_SHARE / peak)), sums[PARTS];
        mix_sixteen(block_at(values, place), shares, sums);
        float unit = peak / HIGHEST_SHARE;
        totals += __builtin_convertvector(shares, Vector) * unit;
        for (int part = 0; part < PARTS; part++)
            weighted[part] += __builtin_convertvector(sums[part], Vector) * unit;
    }
    float total = sum_of(totals);
    for (int part = 0; part < PARTS; part++)
        mixed[part] = weighted[part] / total;
}

/* Sixteen numbers as levels of their scales. */
static inline Integers levels_of(Vector numbers, Vector scales) {
    Vector levels = numbers / scales;
    return nearest(either(levels < -128.0f, all(-128.0f), either(levels > 127.0f, all(127.0f), levels)));
}

/* Where a position's numbers lie in one head's memory: a write's first byte. */
static inline size_t place_of_key(int place) { return (size_t)place / LANES * BLOCK + place % LANES * TOGETHER; }
static inline size_t place_of_value(int place) { return (size_t)place / TOGETHER * GROUP_BYTES_OF_VALUES + place % TOGETHER; }

/* Ask for what a position's keys and values will be written into. */
static void ask_to_write(uint8_t *keys, uint8_t *values, int place) {
    for (int group = 0; group < GROUPS; group++)
        __builtin_prefetch(keys + place_of_key(place) + group * GROUP_BYTES_OF_KEYS, 1);
    for (int i = 0; i < GROUP_BYTES_OF_VALUES; i += LINE)
        __builtin_prefetch(values + place_of_value(place) + i, 1);
}

/* Write a position's keys into one head's memory. */
static void remember_key(const float *head, const float *scale, uint8_t *keys, int place) {
    uint8_t *to = keys + place_of_key(place), levels[HEAD];
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
    uint8_t *words = values + (size_t)place / TOGETHER * GROUP_BYTES_OF_VALUES;
    int shift = 8 * (place % TOGETHER);
    for (int part = 0; part < HEAD; part += LANES) {
        Integers level = levels_of(load(head + part), load(scale + part)) & 255;
        Integers *word = (Integers *)(words + part * TOGETHER);
        *word = (*word & ~(255 << shift)) | level << shift;
    }
}

#endif

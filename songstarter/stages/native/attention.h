/* What one head of one row sees of the keys and values that lie in memory, [position, HEAD]. */

#ifndef SONGSTARTER_ATTENTION_H
#define SONGSTARTER_ATTENTION_H

#include "memory.h"
#include "vectors.h"

enum {
    HEAD = 64,           /* head size of every MusicGen */
    PARTS = HEAD / LANES,
    AHEAD = 4096,        /* bytes that are asked of memory before they are read */
};

/* Ask for what lies AHEAD of one head's numbers: the processor's own foresight ends at every page. */
static inline void ask_ahead(const void *head, size_t number_size) {
    for (size_t i = 0; i < HEAD * number_size; i += LINE)
        __builtin_prefetch((const char *)head + AHEAD + i);
}

/* Ask for the first of a row of numbers. */
static inline void ask_for_first(const void *numbers, size_t bytes) {
    for (size_t i = 0; i < bytes && i < AHEAD; i += LINE)
        __builtin_prefetch((const char *)numbers + i);
}

/* Replace scores by e^(score - largest); their sum. There is room for a whole last vector. */
static float shares_of(float *scores, int length) {
    int padded = (length + LANES - 1) / LANES * LANES;
    for (int i = length; i < padded; i++)
        scores[i] = -INFINITY;
    Vector peaks = all(-INFINITY), totals = {};
    for (int i = 0; i < padded; i += LANES)
        peaks = larger(load(scores + i), peaks);
    float peak = largest_of(peaks);
    for (int i = 0; i < padded; i += LANES)
        store(scores + i, exponential(load(scores + i) - peak));
    for (int i = length; i < padded; i++)
        scores[i] = 0.0f;
    for (int i = 0; i < padded; i += LANES)
        totals += load(scores + i);
    return sum_of(totals);
}

/* The values of `length` positions, each weighted by its key's share of the query. */
static void attend_floats(const Vector query[PARTS], const float *keys, const float *values, int length, float *scores,
                          Vector mixed[PARTS]) {
    for (int place = 0; place < length; place++) {
        const float *key = keys + (size_t)place * HEAD;
        ask_ahead(key, sizeof *key);
        Vector products = query[0] * load(key) + query[1] * load(key + LANES);
        products += query[2] * load(key + 2 * LANES) + query[3] * load(key + 3 * LANES);
        scores[place] = sum_of(products);
    }
    ask_for_first(values, (size_t)length * HEAD * sizeof *values);
    float total = shares_of(scores, length);
    for (int part = 0; part < PARTS; part++)
        mixed[part] = (Vector){};
    for (int place = 0; place < length; place++) {
        const float *value = values + (size_t)place * HEAD;
        ask_ahead(value, sizeof *value);
        for (int part = 0; part < PARTS; part++)
            mixed[part] += scores[place] * load(value + part * LANES);
    }
    for (int part = 0; part < PARTS; part++)
        mixed[part] /= total;
}

static inline int8_t level_of(float value, float scale) {
    float level = rintf(value / scale);
    return (int8_t)(level < -128.0f ? -128.0f : level > 127.0f ? 127.0f : level);
}

/* Write one head's keys or values to its place; `scale` [HEAD] where memory holds bytes, else NULL. */
static void remember(const float *head, const float *scale, void *memory, size_t place) {
    if (!scale)
        memcpy((float *)memory + place, head, HEAD * sizeof(float));
    else
        for (int i = 0; i < HEAD; i++)
            ((int8_t *)memory)[place + i] = level_of(head[i], scale[i]);
}

#endif

/* What one head of one row sees of the keys and values that lie in memory, [position, HEAD]. */

#ifndef SONGSTARTER_ATTENTION_H
#define SONGSTARTER_ATTENTION_H

#include "memory.h"
#include "vectors.h"

enum {
    HEAD = 64,           /* head size of every MusicGen */
    PARTS = HEAD / LANES,
    AHEAD_BYTES = 4096,  /* that are asked of memory before they are read */
};

/* One head's keys or values [position, HEAD]. The first `shared` positions, a multiple of LANES, are read where other
   rows read them too; the row's own numbers are the same. */
typedef struct {
    const float *others, *own;
    int shared;
} Floats;

static inline const float *float_at(Floats numbers, int place) {
    return (place < numbers.shared ? numbers.others : numbers.own) + (size_t)place * HEAD;
}

/* Ask for the numbers of one position, which are read later: the processor's own foresight ends at every page. */
static inline void ask_for(const float *numbers) {
    for (size_t i = 0; i < HEAD; i += LINE / sizeof *numbers)
        __builtin_prefetch(numbers + i);
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
static void attend_floats(const Vector query[PARTS], Floats keys, Floats values, int length, float *scores,
                          Vector mixed[PARTS]) {
    enum { AHEAD = AHEAD_BYTES / (HEAD * sizeof(float)) };
    for (int place = 0; place < length; place++) {
        const float *key = float_at(keys, place);
        ask_for(float_at(keys, place + AHEAD));
        Vector products = query[0] * load(key) + query[1] * load(key + LANES);
        products += query[2] * load(key + 2 * LANES) + query[3] * load(key + 3 * LANES);
        scores[place] = sum_of(products);
    }
    for (int place = 0; place < length && place < AHEAD; place++)
        ask_for(float_at(values, place));
    float total = shares_of(scores, length);
    for (int part = 0; part < PARTS; part++)
        mixed[part] = (Vector){};
    for (int place = 0; place < length; place++) {
        const float *value = float_at(values, place);
        ask_for(float_at(values, place + AHEAD));
        for (int part = 0; part < PARTS; part++)
            mixed[part] += scores[place] * load(value + part * LANES);
    }
    for (int part = 0; part < PARTS; part++)
        mixed[part] /= total;
}

#endif

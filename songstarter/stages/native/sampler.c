/* The next column of every take on a CPU: guidance, softmax, filter and draw, as songstarter/sampling.py has them.

   A token is drawn from the whole distribution; where the filter drops it, another is drawn from what the filter keeps.
   So most rows need no filter, and none is sorted: a filter's threshold is found by halving the numbers in question.
   Rows are independent of each other. Compiled once for each instruction set (compile.py); called by
   stages/native_sampler.py. */

#include "memory.h"
#include "philox.h"
#include "sources.h"
#include "vectors.h"

enum { STRETCH = 64 }; /* tokens whose sum is looked at before they are looked at singly */

typedef double Doubles __attribute__((vector_size(64), aligned(8)));
typedef float Eight __attribute__((vector_size(32), aligned(4)));

typedef struct {
    int64_t seed;
    double mass; /* kept while likelier tokens weigh no more; 0: filtered by count */
    int32_t slot, variation, step;
    int32_t count; /* of likeliest tokens that are kept, with their equals; 0: all */
    float guidance, temperature;
} Draw;

/* Unnormalised probabilities of a row, in whole vectors. */
typedef struct {
    float *powers;
    int count;
} Row;

/* -- sums and counts over a row ---------------------------------------------------------------------------------- */

static inline double sum_of_doubles(Doubles v) {
    double sum = 0;
    for (int i = 0; i < 8; i++)
        sum += v[i];
    return sum;
}

static inline Doubles widened(const float *from) { return __builtin_convertvector(*(const Eight *)from, Doubles); }

static double sum_between(const Row *r, int from, int to) {
    Doubles sums = {};
    for (int i = from; i < to; i += 8)
        sums += widened(r->powers + i);
    return sum_of_doubles(sums);
}

static double sum_above(const Row *r, float bound) {
    Doubles sums = {};
    for (int i = 0; i < r->count; i += LANES) {
        Vector v = load(r->powers + i), above = either(v > bound, v, (Vector){});
        sums += widened((const float *)&above) + widened((const float *)&above + 8);
    }
    return sum_of_doubles(sums);
}

/* How many are above a bound, or not below it. */
static int count_above(const Row *r, float bound, int equal_too) {
    Integers counts = {};
    for (int i = 0; i < r->count; i += LANES) {
        Vector v = load(r->powers + i);
        counts -= equal_too ? v >= bound : v > bound; /* true is -1 */
    }
    int count = 0;
    for (int i = 0; i < LANES; i++)
        count += counts[i];
    return count;
}

/* -- drawing ------------------------------------------------------------------------------------------------------ */

/* The token under which a share of all falls when probabilities stand end to end. */
static int token_at(const Row *r, double share) {
    double total = sum_between(r, 0, r->count), mark = share * total, before = 0;
    int first = 0;
    for (; first + STRETCH < r->count; first += STRETCH) {
        double here = sum_between(r, first, first + STRETCH);
        if (before + here > mark)
            break;
        before += here;
    }
    int last = 0; /* where rounding reached beyond the last likely token, it is the one that was meant */
    for (int i = first; i < r->count; i++) {
        if (r->powers[i] == 0)
            continue;
        last = i;
        before += r->powers[i];
        if (before > mark)
            break;
    }
    return last;
}

static float of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Keep what is at least as likely as the count-th. */
static void keep_likeliest(Row *r, int count) {
    uint32_t kept = 0, dropped = bits_of(1.0f) + 1; /* numbers from 0 to 1 are in the order of their bits */
    while (dropped - kept > 1) {
        uint32_t middle = kept + (dropped - kept) / 2;
        int found = count_above(r, of_bits(middle), 1);
        if (found >= count)
            kept = middle;
        else
            dropped = middle;
        if (found == count)
            break;
    }
    for (int i = 0; i < r->count; i += LANES) {
        Vector v = load(r->powers + i);
        store(r->powers + i, either(v >= of_bits(kept), v, (Vector){}));
    }
}

/* Drop a token when the likelier ones together exceed the mass, of equals the first being the likelier. */
static void keep_mass(Row *r, double mass) {
    uint32_t lower = 0, kept = bits_of(1.0f); /* above the largest number there is nothing */
    while (kept - lower > 1) {
        uint32_t middle = lower + (kept - lower) / 2;
        if (sum_above(r, of_bits(middle)) <= mass)
            kept = middle;
        else
            lower = middle;
    }
    float smallest = of_bits(kept);
    double likelier = sum_above(r, smallest);
    for (int i = 0; i < r->count; i++)
        if (r->powers[i] == smallest && likelier <= mass)
            likelier += smallest;
        else if (r->powers[i] <= smallest)
            r->powers[i] = 0;
}

static int is_dropped(const Row *r, const Draw *d, int token, double total) {
    float chosen = r->powers[token];
    if (d->mass == 0)
        return d->count && count_above(r, chosen, 0) >= d->count;
    double likelier = sum_above(r, chosen);
    for (int i = 0; i < token; i++)
        likelier += r->powers[i] == chosen ? chosen : 0;
    return likelier > d->mass * total;
}

static int draw(Row *r, const Draw *d, int codebook) {
    double uniforms[2];
    uniforms_of(d->seed, d->variation, d->step, codebook, uniforms);
    int token = token_at(r, uniforms[0]);
    double total = d->mass == 0 ? 0 : sum_between(r, 0, r->count);
    if (!is_dropped(r, d, token, total))
        return token;
    if (d->mass == 0)
        keep_likeliest(r, d->count);
    else
        keep_mass(r, d->mass * total);
    return token_at(r, uniforms[1]);
}

/* -- from logits to probabilities --------------------------------------------------------------------------------- */

/* Logits pulled from the null condition towards the guided one, and beyond; without one where guidance is 1. Their
   largest, or what is no number where a logit is none. */
static float guide(const float *guided, const float *null, int count, float guidance, float *mixed) {
    Vector peaks = all(-INFINITY), poison = {};
    for (int i = 0; i < count; i += LANES) {
        Vector g = load(guided + i), m = g;
        poison += g * 0.0f;
        if (guidance != 1) {
            Vector n = load(null + i);
            poison += n * 0.0f;
            m = (g - n) * guidance + n;
        }
        peaks = larger(m, peaks);
        store(mixed + i, m);
    }
    return largest_of(peaks) + sum_of(poison);
}

static int likeliest(const float *mixed, int count, float peak) {
    for (int i = 0; i < count; i++)
        if (mixed[i] == peak)
            return i;
    return 0;
}

/* e^((x - peak) / temperature), and nothing for what is as good as never drawn. */
static void soften(float *mixed, int count, float peak, float temperature) {
    for (int i = 0; i < count; i += LANES) {
        Vector power = (load(mixed + i) - peak) / temperature;
        store(mixed + i, either(power > -87.0f, exponential(power), (Vector){}));
    }
}

/* Whether the kernel lets this process use what this library was compiled for. */
int sampler_allowed(void) { return 1; }

/* Logits [slot, 2, codebook, vocabulary], guided first -> tokens [draw, codebook], or -1 throughout where a take's
   logits are no numbers; `scratch` [vocabulary]. A vocabulary is whole vectors, and eight numbers at least. */
void sampler_run(const float *logits, int32_t codebooks, int32_t vocabulary, const Draw *draws, int32_t count,
                 float *scratch, int64_t *tokens) {
    size_t block = (size_t)codebooks * vocabulary;
    for (const Draw *d = draws; d < draws + count; d++, tokens += codebooks) {
        const float *guided = logits + 2 * block * d->slot;
        for (int codebook = 0; codebook < codebooks; codebook++) {
            const float *of_book = guided + (size_t)codebook * vocabulary;
            float peak = guide(of_book, of_book + block, vocabulary, d->guidance, scratch);
            if (!isfinite(peak)) {
                for (int i = 0; i < codebooks; i++)
                    tokens[i] = -1;
                break;
            }
            if (d->temperature == 0) {
                tokens[codebook] = likeliest(scratch, vocabulary, peak);
                continue;
            }
            soften(scratch, vocabulary, peak, d->temperature);
            Row row = {scratch, vocabulary};
            tokens[codebook] = draw(&row, d, codebook);
        }
    }
}

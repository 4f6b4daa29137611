/* An LSTM over rows of different lengths, from a state and back to it; ONNX's order of gates: in, out, forget, cell.

   What a column brings is one product for the whole row; what the state brings is one for each moment, over all rows
   that still run, so that rows share each reading of those weights. That reading is what takes the time, so they are
   kept in 16 bits, with a scale for each output: half of what fp32 would read, and exact to 2^-16 of the largest. */

#ifndef SONGSTARTER_LSTM_H
#define SONGSTARTER_LSTM_H

#include "signal_products.h"

enum {
    GATES = 4,
    MOST_STATES = 8,
#if defined(__AVX512F__)
    MOST_WIDE = 4,  /* vectors of outputs that are summed together for few rows; for more, half as many: */
    FEW_STATES = 4, /* as many as registers hold the sums of */
#else
    MOST_WIDE = 2,
    FEW_STATES = 2,
#endif
};

typedef struct {
    int16_t *panels; /* [outputs / LANES][inputs][LANES] */
    float *scales;   /* [outputs] */
    int inputs, outputs;
} StateWeights;

typedef struct {
    Product of_input; /* [wide] -> [GATES * wide] */
    StateWeights of_state;
} Recurrence;

/* Weights [inputs, outputs] as levels of +-32767. */
static StateWeights state_weights_of(const float *weights, int inputs, int outputs) {
    StateWeights w = {
        allocate((size_t)inputs * outputs * sizeof *w.panels), allocate(outputs * sizeof *w.scales), inputs, outputs};
    for (int output = 0; w.panels && w.scales && output < outputs; output++) {
        float peak = 1e-30f;
        for (int k = 0; k < inputs; k++)
            peak = fmaxf(peak, fabsf(weights[(size_t)k * outputs + output]));
        w.scales[output] = peak / INT16_MAX;
        int16_t *to = w.panels + (size_t)(output / LANES) * inputs * LANES + output % LANES;
        for (int k = 0; k < inputs; k++)
            to[k * LANES] = (int16_t)rintf(weights[(size_t)k * outputs + output] / w.scales[output]);
    }
    return w;
}

static Recurrence recurrence_of(const float *of_input, const float *bias, const float *of_state, int wide) {
    return (Recurrence){product_of(of_input, bias, wide, GATES * wide), state_weights_of(of_state, wide, GATES * wide)};
}

static int whole_recurrence(Recurrence r) {
    return whole_product(r.of_input) && r.of_state.panels && r.of_state.scales;
}

static void free_recurrence(Recurrence r) {
    free_product(r.of_input);
    free(r.of_state.panels);
    free(r.of_state.scales);
}

/* `rows` states by `wide` vectors of outputs, constants once inlined; brought [row * stride] is added. Several vectors at
   once, for a sum can take its next product only when the last one is there. */
static inline __attribute__((always_inline)) void multiply_states(
    const int rows, const int wide, const StateWeights *w, const float *x, int output, const float *brought,
    ptrdiff_t stride, float *to) {
    const int16_t *panel = w->panels + (size_t)output * w->inputs;
    const size_t next = (size_t)w->inputs * LANES;
    Register sums[MOST_STATES][MOST_WIDE * HALVES];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < wide * HALVES; i++)
            sums[r][i] = of_all(0);
    for (int k = 0; k < w->inputs; k++, panel += LANES) {
        Register weights[MOST_WIDE * HALVES];
#pragma GCC unroll 8
        for (int i = 0; i < wide * HALVES; i++)
            weights[i] = load_shorts(panel + i / HALVES * next + i % HALVES * REGISTER_LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            Register one = of_all(x[(size_t)r * w->inputs + k]);
#pragma GCC unroll 8
            for (int i = 0; i < wide * HALVES; i++)
                sums[r][i] = register_multiply_add(one, weights[i], sums[r][i]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < wide; i++) {
            int place = output + i * LANES;
            Vector sum = load((const float *)(sums[r] + i * HALVES));
            store(to + (size_t)r * w->outputs + place,
                  multiply_add(sum, load(w->scales + place), load(brought + r * stride + place)));
        }
}

static void pass_states(const StateWeights *w, const float *x, int rows, const float *brought, ptrdiff_t stride, float *to) {
    const int wide = rows <= FEW_STATES ? MOST_WIDE : MOST_WIDE / 2;
    for (int output = 0; output < w->outputs; output += wide * LANES)
        switch (rows) {
#define STATES(count)                                                                                                  \
    case count:                                                                                                        \
        multiply_states(count, count <= FEW_STATES ? MOST_WIDE : MOST_WIDE / 2, w, x, output, brought, stride, to);    \
        break;
            STATES(1) STATES(2) STATES(3) STATES(4) STATES(5) STATES(6) STATES(7) STATES(8)
#undef STATES
        }
}

/* e^-|x| gives both: 1 / (1 + e) for what is not negative, e / (1 + e) for what is. */
static inline Vector sigmoid(Vector x) {
    Vector e = exponential(-magnitude(x));
    return either(x < 0.0f, e, all(1.0f)) / (1.0f + e);
}

static inline Vector hyperbolic_tangent(Vector x) {
    Vector e = exponential(-2.0f * magnitude(x));
    Vector t = (1.0f - e) / (1.0f + e);
    return either(x < 0.0f, -t, t);
}

static inline void pass_cell(const float *gates, int wide, float *hidden, float *cell) {
    for (int i = 0; i < wide; i += LANES) {
        Vector in = sigmoid(load(gates + i)), out = sigmoid(load(gates + wide + i));
        Vector forget = sigmoid(load(gates + 2 * wide + i)), fresh = hyperbolic_tangent(load(gates + 3 * wide + i));
        Vector c = forget * load(cell + i) + in * fresh;
        store(cell + i, c);
        store(hidden + i, out * hyperbolic_tangent(c));
    }
}

/* Put a row among those before it, so that they come longest first. */
static void put_in_order(int row, int length, int *order, int *lengths) {
    int place = row;
    for (; place > 0 && lengths[place - 1] < length; place--) {
        order[place] = order[place - 1];
        lengths[place] = lengths[place - 1];
    }
    order[place] = row;
    lengths[place] = length;
}

/* One layer. Rows come longest first, lengths [row]; brought [row, moment of the longest, GATES * wide] is what the
   columns bring; hidden and cell [row, wide] are the state; y [row, moment of the longest, wide] gets the outputs;
   gates [row, GATES * wide] is for its use. */
static void recur(const Recurrence *layer, const int *lengths, int rows, int wide, const float *brought, float *hidden,
                  float *cell, float *y, float *gates) {
    int longest = lengths[0];
    for (int moment = 0; moment < longest; moment++) {
        while (lengths[rows - 1] <= moment)
            rows--;
        pass_states(&layer->of_state, hidden, rows, brought + (size_t)moment * GATES * wide,
                    (ptrdiff_t)longest * GATES * wide, gates);
        for (int row = 0; row < rows; row++) {
            float *state = hidden + (size_t)row * wide;
            pass_cell(gates + (size_t)row * GATES * wide, wide, state, cell + (size_t)row * wide);
            memcpy(y + ((size_t)row * longest + moment) * wide, state, wide * sizeof *y);
        }
    }
}

#endif

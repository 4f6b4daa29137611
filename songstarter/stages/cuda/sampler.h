// The next column from a step's logits: ``stages/sampler.py`` where the logits are.
//
//     one block: a slot's codebook        one thread: EACH_TOKEN tokens side by side
//
// A token is drawn from all; where the filter drops it, another is drawn from what the filter keeps. Only then is it
// worth while to rank the tokens.

#pragma once

#include "numbers.h"

constexpr int TOKENS = 2048;  // at most
constexpr int EACH_TOKEN = TOKENS / THREADS;
constexpr long long NO_NUMBERS = -1;

struct Sample {
    const float *logits;     // [slot, 2, codebook, token]
    const float *settings;   // [4, slot]: guidance, temperature, bound, by mass
    const double *uniforms;  // [2, slot, codebook]
    long long *columns;      // [slot, codebook]
    int slots, codebooks, vocabulary;
};

// What all threads of a block share.
struct Table {
    float shares[TOKENS];
    unsigned long long order[TOKENS];
    double doubles[WARPS];
    float floats[WARPS];
};

__device__ inline float block_max(float value, float *scratch) {
    for (int apart = WARP / 2; apart; apart /= 2) value = fmaxf(value, __shfl_xor_sync(ALL, value, apart));
    __syncthreads();
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = value;
    __syncthreads();
    for (int warp = 0; warp < WARPS; warp++) value = fmaxf(value, scratch[warp]);
    return value;
}

// The sum of the values of the threads before this one; ``total`` becomes that of all.
__device__ inline double sum_before(double value, double *scratch, double *total) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    double reached = value;
    for (int apart = 1; apart < WARP; apart *= 2) {
        const double left = __shfl_up_sync(ALL, reached, apart);
        if (lane >= apart) reached += left;
    }
    __syncthreads();
    if (lane == WARP - 1) scratch[warp] = reached;
    __syncthreads();
    double before = 0, sum = 0;
    for (int w = 0; w < WARPS; w++) {
        if (w == warp) before = sum;
        sum += scratch[w];
    }
    *total = sum;
    return before + (reached - value);
}

// The token under which the uniform number falls, when the shares stand end to end.
__device__ inline int drawn(Table &table, double uniform, int vocabulary) {
    const float *mine = table.shares + threadIdx.x * EACH_TOKEN;
    double own = 0, total;
    for (int i = 0; i < EACH_TOKEN; i++) own += mine[i];
    double reached = sum_before(own, table.doubles, &total);
    const double mark = uniform * total;
    float passed = 0;
    for (int i = 0; i < EACH_TOKEN; i++) {
        reached += mine[i];
        passed += reached <= mark && threadIdx.x * EACH_TOKEN + i < vocabulary;
    }
    return min((int)block_sum(passed, table.floats), vocabulary - 1);
}

// Whether the tokens likelier than this one weigh no more than the bound.
__device__ inline bool stays(Table &table, int token, float bound, bool by_mass) {
    const float share = table.shares[token];
    double likelier = 0;
    for (int i = 0; i < EACH_TOKEN; i++) {
        const int other = threadIdx.x * EACH_TOKEN + i;
        const float its = table.shares[other];
        if (its > share || (by_mass && its == share && other < token)) likelier += by_mass ? its : 1.0f;
    }
    return block_sum(likelier, table.doubles) <= bound;
}

// Order the tokens, likeliest first, equals by their numbers.
__device__ inline void rank(Table &table) {
    for (int i = threadIdx.x; i < TOKENS; i += THREADS)
        table.order[i] = (unsigned long long)~__float_as_uint(table.shares[i]) << 32 | (unsigned)i;
    for (int size = 2; size <= TOKENS; size *= 2)
        for (int apart = size / 2; apart; apart /= 2) {
            __syncthreads();
            for (int i = threadIdx.x; i < TOKENS; i += THREADS) {
                const int other = i ^ apart;
                if (other > i) {
                    const unsigned long long low = table.order[i], high = table.order[other];
                    if ((low > high) == ((i & size) == 0)) table.order[i] = high, table.order[other] = low;
                }
            }
        }
    __syncthreads();
}

// Set the shares that the filter drops to zero: under top-k equals of the last that stays do too.
__device__ inline void filter(Table &table, float bound, bool by_mass) {
    rank(table);
    const unsigned long long *mine = table.order + threadIdx.x * EACH_TOKEN;
    double own = 0, total;
    for (int i = 0; i < EACH_TOKEN; i++) own += by_mass ? table.shares[(unsigned)mine[i]] : 1.0f;
    double likelier = sum_before(own, table.doubles, &total);
    const float least = by_mass || bound >= TOKENS ? 0.0f : table.shares[(unsigned)table.order[(int)bound]];
    __syncthreads();
    for (int i = 0; i < EACH_TOKEN; i++) {
        float &share = table.shares[(unsigned)mine[i]];
        const float weighs = by_mass ? share : 1.0f;
        if (by_mass ? likelier > bound : share < least) share = 0;
        likelier += weighs;
    }
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS) sample(Sample p) {
    __shared__ Table table;
    const int codebook = blockIdx.x, slot = blockIdx.y;
    wait_for_predecessor();
    const float guidance = p.settings[slot], temperature = p.settings[p.slots + slot];
    const float bound = p.settings[2 * p.slots + slot];
    const bool by_mass = p.settings[3 * p.slots + slot] != 0;
    const float *guided = p.logits + ((long long)slot * 2 * p.codebooks + codebook) * p.vocabulary;
    const float *null = guided + (long long)p.codebooks * p.vocabulary;
    long long *column = p.columns + slot * p.codebooks + codebook;

    float mixed[EACH_TOKEN], nothing = 0, peak = -3.4e38f;
    for (int i = 0; i < EACH_TOKEN; i++) {
        const int token = threadIdx.x * EACH_TOKEN + i;
        if (token < p.vocabulary) {
            mixed[i] = guidance == 1 ? guided[token] : null[token] + guidance * (guided[token] - null[token]);
            nothing += mixed[i] - mixed[i];
            peak = fmaxf(peak, mixed[i]);
        }
    }
    nothing = block_sum(nothing, table.floats);
    if (!(nothing == 0)) {
        if (threadIdx.x == 0) *column = NO_NUMBERS;
        return;
    }
    peak = block_max(peak, table.floats);

    if (temperature == 0) {
        float first = -TOKENS;
        for (int i = EACH_TOKEN - 1; i >= 0; i--) {
            const int token = threadIdx.x * EACH_TOKEN + i;
            if (token < p.vocabulary && mixed[i] == peak) first = -token;
        }
        first = block_max(first, table.floats);
        if (threadIdx.x == 0) *column = (long long)-first;
        return;
    }

    float powers = 0;
    for (int i = 0; i < EACH_TOKEN; i++) {
        mixed[i] = threadIdx.x * EACH_TOKEN + i < p.vocabulary ? expf((mixed[i] - peak) / temperature) : 0;
        powers += mixed[i];
    }
    powers = block_sum(powers, table.floats);
    for (int i = 0; i < EACH_TOKEN; i++) table.shares[threadIdx.x * EACH_TOKEN + i] = mixed[i] / powers;
    __syncthreads();

    const double *uniforms = p.uniforms + slot * p.codebooks + codebook;
    int token = drawn(table, uniforms[0], p.vocabulary);
    if (!stays(table, token, bound, by_mass)) {
        filter(table, bound, by_mass);
        token = drawn(table, uniforms[p.slots * p.codebooks], p.vocabulary);
    }
    if (threadIdx.x == 0) *column = token;
}

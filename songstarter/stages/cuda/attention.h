// Attention of one new position of each row over what the row holds, which the new position joins.
//
//     one block: a row, a head, a share of the positions
//     one group of threads: a position at a time, 16 bytes of its key and of its value for each thread
//
// Every group keeps its own highest score, sum and mix; at the end they are brought together, and if the positions
// were shared out, so are the blocks', by the last of them.

#pragma once

#include "numbers.h"

constexpr int HEAD = 64;
constexpr int ATTENDING = 128;  // threads
constexpr int AT_ONCE = 4;      // positions of a group in flight
constexpr float LOWEST = -1e30f;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr int LEFT = HEAD + 2;  // numbers that a share leaves: its mix, highest score and sum

struct Attend {
    const Half *packed;  // [row, 3 x heads x HEAD]: query, key, value of the new position
    Half *out;           // [row, heads x HEAD]
    void *keys, *values; // [row, head, position, HEAD]
    const int *lengths;  // [row]: what each held before
    const int *shared;   // [row, 2]: a row of memory that begins with the same numbers, and for how many positions
    float *partial;      // [row, head, share, LEFT]
    unsigned *arrived;   // [row, head], zero between calls
    int heads, positions;
    float level;         // the step between two levels of 8-bit memory
};

// What memory holds is read in its own unit: of keys that is in the query already, of values it comes in at the end.
struct Halves {
    typedef Half Stored;
    static constexpr int EACH = 8;  // numbers in 16 bytes
    static __device__ void read(const uint4 &packed, float *numbers) { widen(packed, numbers); }
    static __device__ Half store(float number, float) { return narrow(number); }
    static __device__ float load(Half stored) { return widen(stored); }
    static __device__ float unit(float) { return 1.0f; }
};
struct Bytes {
    typedef signed char Stored;
    static constexpr int EACH = 16;
    static __device__ void read(const uint4 &packed, float *numbers) { widen_bytes(packed, numbers); }
    // What is no number becomes a level like any other, as in the graph; the step's own logits still show it.
    static __device__ signed char store(float number, float level) {
        return (signed char)fminf(fmaxf(rintf(number / level), -128.0f), 127.0f);
    }
    static __device__ float load(signed char stored) { return stored; }
    static __device__ float unit(float level) { return level; }
};

// What was seen so far: scores are powers of two.
template <int EACH>
struct Seen {
    float highest = LOWEST, sum = 0, mix[EACH] = {};

    __device__ void raise(float score) {
        if (score <= highest) return;
        const float by = exp2f(highest - score);
        sum *= by;
#pragma unroll
        for (int i = 0; i < EACH; i++) mix[i] *= by;
        highest = score;
    }
    __device__ void see(float score, const float *value) {
        const float weight = exp2f(score - highest);
        sum += weight;
#pragma unroll
        for (int i = 0; i < EACH; i++) mix[i] += weight * value[i];
    }
};

template <typename Kind>
__device__ inline void attend(const Attend &p) {
    constexpr int EACH = Kind::EACH, GROUP = HEAD / EACH, GROUPS = ATTENDING / GROUP;
    typedef typename Kind::Stored Stored;
    __shared__ float mixes[GROUPS][HEAD];
    __shared__ float heights[GROUPS], sums[GROUPS];
    __shared__ bool last;
    const int head = blockIdx.x, row = blockIdx.y, share = blockIdx.z, shares = gridDim.z;
    const int group = threadIdx.x / GROUP, part = threadIdx.x % GROUP;

    wait_for_predecessor();
    let_successor_begin();
    const int held = min(p.lengths[row], p.positions - 1);  // an idle row's length is nobody's concern; its memory is
    const int start = (int)((long long)held * share / shares), stop = (int)((long long)held * (share + 1) / shares);
    const Half *query = p.packed + (long long)row * 3 * p.heads * HEAD + head * HEAD;
    const long long size = (long long)p.positions * HEAD, block = ((long long)row * p.heads + head) * size;
    Stored *keys = (Stored *)p.keys + block, *values = (Stored *)p.values + block;
    const int common = min(p.shared[2 * row + 1], held);  // read where other rows read it too, so that it is in the cache
    const long long elsewhere = common ? ((long long)p.shared[2 * row] - row) * p.heads * size : 0;

    const float unit = Kind::unit(p.level);
    float asked[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) asked[i] = widen(query[part * EACH + i]) * (0.125f * LOG2_E * unit);

    Seen<EACH> seen;
    for (int base = start; base < stop; base += GROUPS * AT_ONCE) {
        uint4 key[AT_ONCE], value[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int position = min(base + i * GROUPS + group, stop - 1);
            const long long from = (long long)position * HEAD + part * EACH + (position < common ? elsewhere : 0);
            key[i] = __ldcg((const uint4 *)(keys + from));
            value[i] = __ldcg((const uint4 *)(values + from));
        }
        float scores[AT_ONCE], highest = LOWEST;
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            float numbers[EACH], score = 0;
            Kind::read(key[i], numbers);
#pragma unroll
            for (int j = 0; j < EACH; j++) score += asked[j] * numbers[j];
#pragma unroll
            for (int apart = 1; apart < GROUP; apart *= 2) score += __shfl_xor_sync(ALL, score, apart);
            scores[i] = base + i * GROUPS + group < stop ? score : LOWEST;
            highest = fmaxf(highest, scores[i]);
        }
        seen.raise(highest);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            float numbers[EACH];
            Kind::read(value[i], numbers);
            if (base + i * GROUPS + group < stop) seen.see(scores[i], numbers);  // one that is no number too: it must show
        }
    }

    if (share == shares - 1) {  // the new position
        float numbers[EACH], score = 0;
        const Half *key = query + p.heads * HEAD, *value = key + p.heads * HEAD;
        Stored stored[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            stored[i] = Kind::store(widen(key[part * EACH + i]), p.level);
            score += asked[i] * Kind::load(stored[i]);
        }
#pragma unroll
        for (int apart = 1; apart < GROUP; apart *= 2) score += __shfl_xor_sync(ALL, score, apart);
        if (group == 0) {
            const long long place = (long long)held * HEAD + part * EACH;
#pragma unroll
            for (int i = 0; i < EACH; i++) keys[place + i] = stored[i];
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                stored[i] = Kind::store(widen(value[part * EACH + i]), p.level);
                numbers[i] = Kind::load(stored[i]);
                values[place + i] = stored[i];
            }
            seen.raise(score);
            seen.see(score, numbers);
        }
    }

#pragma unroll
    for (int i = 0; i < EACH; i++) mixes[group][part * EACH + i] = seen.mix[i];
    if (part == 0) heights[group] = seen.highest, sums[group] = seen.sum;
    __syncthreads();
    const int channel = threadIdx.x;
    const long long pair = (long long)row * p.heads + head;
    float highest = LOWEST, sum = 0, mix = 0;
    for (int i = 0; i < GROUPS; i++) highest = fmaxf(highest, heights[i]);
    if (channel < HEAD)
        for (int i = 0; i < GROUPS; i++) {
            const float by = exp2f(heights[i] - highest);
            sum += sums[i] * by;
            mix += mixes[i][channel] * by;
        }
    if (shares == 1) {
        if (channel < HEAD) p.out[pair * HEAD + channel] = narrow(mix / sum * unit);
        return;
    }

    float *mine = p.partial + (pair * shares + share) * LEFT;
    if (channel < HEAD) mine[channel] = mix;
    if (channel == 0) mine[HEAD] = highest, mine[HEAD + 1] = sum;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(p.arrived + pair, 1u) == shares - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    const float *all = p.partial + pair * shares * LEFT;
    highest = LOWEST, sum = 0, mix = 0;
    for (int s = 0; s < shares; s++) highest = fmaxf(highest, __ldcg(all + s * LEFT + HEAD));
    if (channel < HEAD) {
        for (int s = 0; s < shares; s++) {
            const float by = exp2f(__ldcg(all + s * LEFT + HEAD) - highest);
            sum += __ldcg(all + s * LEFT + HEAD + 1) * by;
            mix += __ldcg(all + s * LEFT + channel) * by;
        }
        p.out[pair * HEAD + channel] = narrow(mix / sum * unit);
    }
    if (threadIdx.x == 0) p.arrived[pair] = 0;
}

extern "C" __global__ void __launch_bounds__(ATTENDING) attend_halves(Attend p) { attend<Halves>(p); }
extern "C" __global__ void __launch_bounds__(ATTENDING) attend_bytes(Attend p) { attend<Bytes>(p); }

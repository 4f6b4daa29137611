// CUDA's words for g++: a block's threads are fibers of one thread, which change places where they meet.
//
// Blocks run one after the other. A fiber runs until it must wait for its warp or its block; then another goes on,
// and not always in the same order. What is found in launched memory is poison.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)

typedef unsigned short Half;
struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };
struct float4 { float x, y, z, w; };
struct Place { unsigned x, y, z; };

extern Place threadIdx, blockIdx, gridDim;
extern float launched[];

void meet_block();
// Hand a value to the warp; every lane's values, once all have come.
const uint64_t *meet_warp(uint64_t value);

inline void __syncthreads() { meet_block(); }
inline void __threadfence() {}
inline void wait_for_predecessor() {}
inline void let_successor_begin() {}
inline float *launched_memory() { return launched; }

inline float widen(unsigned bits) {
    _Float16 number;
    const unsigned short half = bits;
    memcpy(&number, &half, 2);
    return number;
}

inline Half narrow(float number) {
    const _Float16 half = (_Float16)number;
    Half bits;
    memcpy(&bits, &half, 2);
    return bits;
}

template <typename Value>
Value from_lane(Value value, int lane) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    const uint64_t *all = meet_warp(bits);
    memcpy(&value, &all[lane], sizeof value);
    return value;
}

template <typename Value>
Value __shfl_xor_sync(unsigned, Value value, int apart) {
    return from_lane(value, (threadIdx.x % 32) ^ apart);
}

template <typename Value>
Value __shfl_up_sync(unsigned, Value value, int apart) {
    const int lane = threadIdx.x % 32;
    return from_lane(value, lane < apart ? lane : lane - apart);
}

template <typename Value>
Value __ldcs(const Value *place) { return *place; }
template <typename Value>
Value __ldcg(const Value *place) { return *place; }

inline unsigned atomicAdd(unsigned *place, unsigned value) {
    const unsigned before = *place;
    *place += value;
    return before;
}

inline float __uint_as_float(unsigned bits) {
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

inline unsigned __float_as_uint(float number) {
    unsigned bits;
    memcpy(&bits, &number, 4);
    return bits;
}

inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const uint64_t both = (uint64_t)high << 32 | low;
    unsigned made = 0;
    for (int i = 0; i < 4; i++) made |= (unsigned)(both >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
    return made;
}

inline int min(int one, int other) { return one < other ? one : other; }

// Numbers as they lie in memory, as floats to compute with, and sums over a block's threads.

#pragma once

#include <device.h>

constexpr int WARP = 32;
constexpr unsigned ALL = 0xffffffffu;  // threads of a warp
constexpr int THREADS = 256;           // of every block but attention's
constexpr int WARPS = THREADS / WARP;

__device__ inline unsigned narrow_pair(float low, float high) {
    return (unsigned)narrow(low) | (unsigned)narrow(high) << 16;
}

// Eight halves.
__device__ inline void widen(const uint4 &packed, float *numbers) {
    const unsigned words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        numbers[2 * i] = widen(words[i] & 0xffffu);
        numbers[2 * i + 1] = widen(words[i] >> 16);
    }
}

// Sixteen signed bytes: a byte under the exponent of 2^23 is that float plus the byte, which is quicker than a conversion.
__device__ inline void widen_bytes(const uint4 &packed, float *numbers) {
    const unsigned words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const unsigned shifted = words[i] ^ 0x80808080u;
#pragma unroll
        for (int byte = 0; byte < 4; byte++)
            numbers[4 * i + byte] =
                __uint_as_float(__byte_perm(shifted, 0x4b000000u, 0x7440u | byte)) - (8388608.0f + 128.0f);
    }
}

template <typename Number>
__device__ inline Number warp_sum(Number value) {
    for (int apart = WARP / 2; apart; apart /= 2) value += __shfl_xor_sync(ALL, value, apart);
    return value;
}

// The sums over the block, for every thread; always in the same order. ``scratch`` has room for COUNT numbers a warp.
template <int COUNT, typename Number>
__device__ inline void block_sums(Number (&values)[COUNT], Number *scratch) {
    __syncthreads();
    for (int i = 0; i < COUNT; i++) {
        values[i] = warp_sum(values[i]);
        if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP * COUNT + i] = values[i];
    }
    __syncthreads();
    for (int i = 0; i < COUNT; i++) {
        values[i] = 0;
        for (int warp = 0; warp < WARPS; warp++) values[i] += scratch[warp * COUNT + i];
    }
}

template <typename Number>
__device__ inline Number block_sum(Number value, Number *scratch) {
    Number values[1] = {value};
    block_sums<1>(values, scratch);
    return values[0];
}

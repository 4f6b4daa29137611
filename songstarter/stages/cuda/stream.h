// The residual stream [row, hidden], fp32 throughout: where it begins, and its norms.

#pragma once

#include "numbers.h"

struct Embed {
    const long long *tokens;     // [row, codebook]
    const long long *positions;  // [row]
    const float *table;          // [codebook, table row, hidden]
    const float *sinusoid;       // [position, hidden]
    float *stream;               // [row, hidden]
    int codebooks, table_rows, hidden;
};

extern "C" __global__ void __launch_bounds__(THREADS) embed(Embed p) {
    const int row = blockIdx.x, quads = p.hidden / 4;
    const float4 *phase = (const float4 *)(p.sinusoid + p.positions[row] * p.hidden);
    float4 *out = (float4 *)(p.stream + (long long)row * p.hidden);
    let_successor_begin();
    for (int i = threadIdx.x; i < quads; i += THREADS) {
        float4 sum = {0, 0, 0, 0};
        for (int codebook = 0; codebook < p.codebooks; codebook++) {
            const long long place = (long long)codebook * p.table_rows + p.tokens[row * p.codebooks + codebook];
            const float4 vector = ((const float4 *)(p.table + place * p.hidden))[i];
            sum.x += vector.x, sum.y += vector.y, sum.z += vector.z, sum.w += vector.w;
        }
        const float4 at = phase[i];
        sum.x += at.x, sum.y += at.y, sum.z += at.z, sum.w += at.w;
        out[i] = sum;
    }
}

struct Norm {
    const float *stream;  // [row, hidden]
    const float *scale, *shift;
    Half *out;  // [row, hidden]
    int hidden;
    float epsilon;
};

constexpr int QUADS = 4;  // of a thread at most: rows of 4096

extern "C" __global__ void __launch_bounds__(THREADS) normalize(Norm p) {
    __shared__ float scratch[THREADS / WARP];
    const int quads = p.hidden / 4;
    const float4 *scale = (const float4 *)p.scale, *shift = (const float4 *)p.shift;
    wait_for_predecessor();
    let_successor_begin();
    const float4 *row = (const float4 *)(p.stream + (long long)blockIdx.x * p.hidden);
    float4 held[QUADS];
    float sum = 0;
#pragma unroll
    for (int j = 0; j < QUADS; j++) {
        const int i = threadIdx.x + j * THREADS;
        if (i < quads) {
            held[j] = row[i];
            sum += held[j].x + held[j].y + held[j].z + held[j].w;
        }
    }
    const float mean = block_sum(sum, scratch) / p.hidden;
    float squares = 0;
#pragma unroll
    for (int j = 0; j < QUADS; j++) {
        if (threadIdx.x + j * THREADS < quads) {
            held[j].x -= mean, held[j].y -= mean, held[j].z -= mean, held[j].w -= mean;
            squares += held[j].x * held[j].x + held[j].y * held[j].y + held[j].z * held[j].z + held[j].w * held[j].w;
        }
    }
    const float rate = 1.0f / sqrtf(block_sum(squares, scratch) / p.hidden + p.epsilon);
    uint2 *out = (uint2 *)(p.out + (long long)blockIdx.x * p.hidden);
#pragma unroll
    for (int j = 0; j < QUADS; j++) {
        const int i = threadIdx.x + j * THREADS;
        if (i < quads) {
            const float4 by = scale[i], plus = shift[i];
            uint2 packed;
            packed.x = narrow_pair(held[j].x * rate * by.x + plus.x, held[j].y * rate * by.y + plus.y);
            packed.y = narrow_pair(held[j].z * rate * by.z + plus.z, held[j].w * rate * by.w + plus.w);
            out[i] = packed;
        }
    }
}

__device__ inline float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

struct Gelu {
    Half *values;
    int quads;  // of four halves
};

// In place, after a product that could not do it on its way.
extern "C" __global__ void __launch_bounds__(THREADS) gelu_all(Gelu p) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    wait_for_predecessor();
    let_successor_begin();
    if (i >= p.quads) return;
    uint2 *place = (uint2 *)p.values + i;
    const uint2 found = *place;
    uint2 made;
    made.x = narrow_pair(gelu(widen(found.x & 0xffffu)), gelu(widen(found.x >> 16)));
    made.y = narrow_pair(gelu(widen(found.y & 0xffffu)), gelu(widen(found.y >> 16)));
    *place = made;
}

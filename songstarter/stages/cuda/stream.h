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

constexpr int QUADS = 4;  // of a thread at most: rows of 4096

// Some rows of the stream, a thread's numbers of each, about their mean; and what they are multiplied by.
template <int ROWS>
struct Centred {
    float4 held[ROWS][QUADS];
    float rates[ROWS];

    __device__ Centred(const float *stream, int hidden, float epsilon, float *scratch) {  // [WARPS, ROWS]
        const int quads = hidden / 4;
        float means[ROWS] = {};
#pragma unroll
        for (int row = 0; row < ROWS; row++)
#pragma unroll
            for (int j = 0; j < QUADS; j++) {
                const int i = threadIdx.x + j * THREADS;
                if (i < quads) {
                    const float4 four = held[row][j] = ((const float4 *)(stream + (long long)row * hidden))[i];
                    means[row] += four.x + four.y + four.z + four.w;
                }
            }
        block_sums(means, scratch);
        float squares[ROWS] = {};
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            const float mean = means[row] / hidden;
#pragma unroll
            for (int j = 0; j < QUADS; j++) {
                if (threadIdx.x + j * THREADS < quads) {
                    float4 &four = held[row][j];
                    four.x -= mean, four.y -= mean, four.z -= mean, four.w -= mean;
                    squares[row] += four.x * four.x + four.y * four.y + four.z * four.z + four.w * four.w;
                }
            }
        }
        block_sums(squares, scratch);
#pragma unroll
        for (int row = 0; row < ROWS; row++) rates[row] = 1.0f / sqrtf(squares[row] / hidden + epsilon);
    }

    // The normalized numbers of a thread's quad.
    __device__ uint2 halves(int row, int quad, const float4 &scale, const float4 &shift) const {
        const float4 &four = held[row][quad];
        const float rate = rates[row];
        uint2 packed;
        packed.x = narrow_pair(four.x * rate * scale.x + shift.x, four.y * rate * scale.y + shift.y);
        packed.y = narrow_pair(four.z * rate * scale.z + shift.z, four.w * rate * scale.w + shift.w);
        return packed;
    }
};

struct Norm {
    const float *stream;  // [row, hidden]
    const float *scale, *shift;
    Half *out;  // [row, hidden]
    int hidden;
    float epsilon;
};

extern "C" __global__ void __launch_bounds__(THREADS) normalize(Norm p) {
    __shared__ float scratch[WARPS];
    wait_for_predecessor();
    let_successor_begin();
    const Centred<1> row(p.stream + (long long)blockIdx.x * p.hidden, p.hidden, p.epsilon, scratch);
    uint2 *out = (uint2 *)(p.out + (long long)blockIdx.x * p.hidden);
#pragma unroll
    for (int j = 0; j < QUADS; j++) {
        const int i = threadIdx.x + j * THREADS;
        if (i < p.hidden / 4) out[i] = row.halves(0, j, ((const float4 *)p.scale)[i], ((const float4 *)p.shift)[i]);
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

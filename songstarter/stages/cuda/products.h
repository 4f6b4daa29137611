// Products of a few rows with a large matrix: all that counts is that every weight is read once, without a pause.
//
//     weight [inner, column]       64 columns ─► one block:  8 threads across, 16 bytes each
//       │ its share of ``inner`` ─► gridDim.y               32 threads down, WAVES rows in flight each
//
// The first weights are on their way before the rows are there: they are nobody's result.
//
// Blocks that share columns leave their sums in ``partial``; the last of them adds them up, always in the same order.

#pragma once

#include "stream.h"

constexpr int COLUMNS = 64;                     // of a block
constexpr int ACROSS = 8;                       // threads, of 8 columns each
constexpr int DOWN = THREADS / ACROSS;          // threads
constexpr int WARPS = THREADS / WARP;
constexpr int WAVES = 8;  // half as many were 4 % slower on an H200, twice as many 20 %

struct Product {
    const Half *x;       // [row, inner]
    const Half *weight;  // [inner, column]
    void *out;           // [row, column]
    float *partial;      // [column block, share, row, COLUMNS]
    unsigned *arrived;   // [column block], zero between calls
    int inner, columns;
};

struct Keep {  // as halves
    static __device__ void put(void *out, long long place, float value) { ((Half *)out)[place] = narrow(value); }
};
struct Activate {
    static __device__ void put(void *out, long long place, float value) { ((Half *)out)[place] = narrow(gelu(value)); }
};
struct Add {  // to the stream
    static __device__ void put(void *out, long long place, float value) { ((float *)out)[place] += value; }
};
struct Tell {  // as floats: logits
    static __device__ void put(void *out, long long place, float value) { ((float *)out)[place] = value; }
};

template <int ROWS, typename What>
__device__ inline void product(const Product &p) {
    float *shared = launched_memory();  // [inner of this share, row], later [warp, row, COLUMNS]
    __shared__ bool last;
    const int share = p.inner / gridDim.y, first = blockIdx.y * share, steps = share / DOWN;
    const int across = threadIdx.x % ACROSS, down = threadIdx.x / ACROSS;
    const long long stride = (long long)DOWN * p.columns / 8;  // of uint4
    const uint4 *weight =
        (const uint4 *)(p.weight + (long long)(first + down) * p.columns + blockIdx.x * COLUMNS + across * 8);

    uint4 coming[WAVES];
#pragma unroll
    for (int wave = 0; wave < WAVES; wave++)
        if (wave < steps) coming[wave] = __ldcs(weight + wave * stride);

    wait_for_predecessor();
    let_successor_begin();
    for (int i = threadIdx.x; i < share * ROWS; i += THREADS) {
        const int row = i / share, k = i % share;
        shared[k * ROWS + row] = widen(p.x[(long long)row * p.inner + first + k]);
    }
    __syncthreads();

    float sums[ROWS][8] = {};
    for (int step = 0; step < steps; step += WAVES) {
        uint4 here[WAVES];
#pragma unroll
        for (int wave = 0; wave < WAVES; wave++) {
            here[wave] = coming[wave];
            const int next = step + WAVES + wave;
            if (next < steps) coming[wave] = __ldcs(weight + next * stride);
        }
#pragma unroll
        for (int wave = 0; wave < WAVES; wave++) {
            if (step + wave >= steps) break;
            float numbers[8];
            widen(here[wave], numbers);
            const float *x = shared + ((step + wave) * DOWN + down) * ROWS;
#pragma unroll
            for (int row = 0; row < ROWS; row++) {
                const float by = x[row];
#pragma unroll
                for (int i = 0; i < 8; i++) sums[row][i] += by * numbers[i];
            }
        }
    }

    // Over the four threads of a warp that have the same columns, then over the warps.
#pragma unroll
    for (int row = 0; row < ROWS; row++)
#pragma unroll
        for (int i = 0; i < 8; i++) {
            sums[row][i] += __shfl_xor_sync(ALL, sums[row][i], ACROSS);
            sums[row][i] += __shfl_xor_sync(ALL, sums[row][i], 2 * ACROSS);
        }
    __syncthreads();
    const int warp = threadIdx.x / WARP;
    if (threadIdx.x % WARP < ACROSS)
#pragma unroll
        for (int row = 0; row < ROWS; row++)
#pragma unroll
            for (int i = 0; i < 8; i++) shared[(warp * ROWS + row) * COLUMNS + across * 8 + i] = sums[row][i];
    __syncthreads();

    const int shares = gridDim.y;
    float *mine = p.partial + (long long)(blockIdx.x * shares + blockIdx.y) * ROWS * COLUMNS;
    for (int i = threadIdx.x; i < ROWS * COLUMNS; i += THREADS) {
        float sum = 0;
        for (int w = 0; w < WARPS; w++) sum += shared[w * ROWS * COLUMNS + i];
        if (shares == 1)
            What::put(p.out, (long long)(i / COLUMNS) * p.columns + blockIdx.x * COLUMNS + i % COLUMNS, sum);
        else
            mine[i] = sum;
    }
    if (shares == 1) return;

    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(p.arrived + blockIdx.x, 1u) == shares - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    const float *all = p.partial + (long long)blockIdx.x * shares * ROWS * COLUMNS;
    for (int i = threadIdx.x; i < ROWS * COLUMNS; i += THREADS) {
        float sum = 0;
        for (int s = 0; s < shares; s++) sum += __ldcg(all + s * ROWS * COLUMNS + i);
        What::put(p.out, (long long)(i / COLUMNS) * p.columns + blockIdx.x * COLUMNS + i % COLUMNS, sum);
    }
    if (threadIdx.x == 0) p.arrived[blockIdx.x] = 0;
}

#define PRODUCT(name, ROWS, What) \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) name##_##ROWS(Product p) { product<ROWS, What>(p); }

PRODUCT(keep, 2, Keep)
PRODUCT(activate, 2, Activate)
PRODUCT(add, 2, Add)
PRODUCT(tell, 2, Tell)

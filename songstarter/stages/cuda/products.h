// Products of a few rows with a large matrix: all that counts is that every weight is read once, without a pause.
//
//     weight [inner, column]       64 columns ─► one block:  8 threads across, 16 bytes each
//       │ its share of ``inner`` ─► gridDim.y               32 threads down, WAVES rows in flight each
//
// The first weights are on their way before the rows are there: they are nobody's result. A norm before a product is each
// block's own work, on rows that lie in the cache: a kernel for it would cost another wait for a predecessor.
//
// Blocks that share columns leave their sums in ``partial``; the last of them adds them up, always in the same order.

#pragma once

#include "stream.h"

constexpr int COLUMNS = 64;                     // of a block
constexpr int ACROSS = 8;                       // threads, of 8 columns each
constexpr int DOWN = THREADS / ACROSS;          // threads
constexpr int WAVES = 8;  // half as many were 4 % slower on an H200, twice as many 20 %

struct Product {
    const void *x;               // [row, inner]: halves, or the stream
    const float *scale, *shift;  // [inner]: of the stream's norm
    const Half *weight;          // [inner, column]
    void *out;                   // [row, column]
    float *partial;              // [column block, share, row, COLUMNS]
    unsigned *arrived;           // [column block], zero between calls
    int inner, columns;
    float epsilon;
};

// How a block comes by its share of the rows, as floats [inner of this share, row].

struct AsTheyAre {
    __device__ void prepare(const Product &, int, int, float *) {}
    template <int ROWS>
    __device__ void bring(const Product &p, int first, int share, float *into) {
        const Half *x = (const Half *)p.x;
        for (int i = threadIdx.x; i < share * ROWS; i += THREADS) {
            const int row = i / share, k = i % share;
            into[k * ROWS + row] = widen(x[(long long)row * p.inner + first + k]);
        }
    }
};

struct Normalized {
    float4 *scale, *shift;  // of this share; each thread reads what it wrote

    __device__ void prepare(const Product &p, int first, int share, float *memory) {
        scale = (float4 *)memory, shift = scale + share / 4;
        for_own_quads(p, first, share, [&](int, int quad, int place) {
            scale[place] = ((const float4 *)p.scale)[quad], shift[place] = ((const float4 *)p.shift)[quad];
        });
    }
    template <int ROWS>
    __device__ void bring(const Product &p, int first, int share, float *into) {
        __shared__ float scratch[ROWS * WARPS];
        const Centred<ROWS> rows((const float *)p.x, p.inner, p.epsilon, scratch);
        for_own_quads(p, first, share, [&](int j, int, int place) {
#pragma unroll
            for (int row = 0; row < ROWS; row++) {
                const uint2 packed = rows.halves(row, j, scale[place], shift[place]);
                float *four = into + 4 * place * ROWS + row;
                four[0] = widen(packed.x & 0xffffu), four[ROWS] = widen(packed.x >> 16);
                four[2 * ROWS] = widen(packed.y & 0xffffu), four[3 * ROWS] = widen(packed.y >> 16);
            }
        });
    }

    // A thread's quads of a row that lie in this share: which of its own, of the row's and of the share's.
    template <typename Do>
    __device__ static void for_own_quads(const Product &p, int first, int share, Do work) {
#pragma unroll
        for (int j = 0; j < QUADS; j++) {
            const int quad = threadIdx.x + j * THREADS, place = quad - first / 4;
            if (0 <= place && place < share / 4) work(j, quad, place);
        }
    }
};

// What becomes of a sum.

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

template <int ROWS, typename Rows, typename What>
__device__ inline void product(const Product &p) {
    float *shared = launched_memory();  // [inner of this share, row] and what Rows keeps, later [warp, row, COLUMNS]
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

    Rows rows;
    rows.prepare(p, first, share, shared + share * ROWS);
    wait_for_predecessor();
    let_successor_begin();
    rows.template bring<ROWS>(p, first, share, shared);
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

#define PRODUCT(name, ROWS, Rows, What) \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) name##_##ROWS(Product p) { product<ROWS, Rows, What>(p); }

PRODUCT(keep, 2, Normalized, Keep)
PRODUCT(activate, 2, Normalized, Activate)
PRODUCT(add, 2, AsTheyAre, Add)
PRODUCT(tell, 2, Normalized, Tell)

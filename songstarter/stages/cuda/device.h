// What has no name in C++: half precision, kernels that overlap, and memory whose size the launch tells.

#pragma once

typedef unsigned short Half;

__device__ inline float widen(unsigned bits) {
    float number;
    asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"((unsigned short)bits));
    return number;
}

__device__ inline Half narrow(float number) {
    Half bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(number));
    return bits;
}

// From Hopper on a kernel may begin while the one before it ends. Before it waits it may read only what no kernel
// writes, and must write nothing.
__device__ inline void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void let_successor_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline float *launched_memory() {
    extern __shared__ float memory[];
    return memory;
}

/* Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): numbers by their address. */

#ifndef SONGSTARTER_PHILOX_H
#define SONGSTARTER_PHILOX_H

#include <stdint.h>

enum { PHILOX_ROUNDS = 10 };

/* Two numbers in [0, 1), of 53 random bits each, as songstarter/randomness.py has them. */
static void uniforms_of(int64_t seed, uint32_t variation, uint32_t step, uint32_t codebook, double uniforms[2]) {
    uint32_t words[4] = {codebook, step, variation, 0}, low = (uint32_t)seed, high = 0;
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t product = UINT64_C(0xD2511F53) * words[0], other = UINT64_C(0xCD9E8D57) * words[2];
        words[0] = (uint32_t)(other >> 32) ^ words[1] ^ low;
        words[1] = (uint32_t)other;
        words[2] = (uint32_t)(product >> 32) ^ words[3] ^ high;
        words[3] = (uint32_t)product;
        low += 0x9E3779B9;
        high += 0xBB67AE85;
    }
    for (int i = 0; i < 2; i++)
        uniforms[i] = (double)((uint64_t)words[2 * i] << 21 | words[2 * i + 1] >> 11) * 0x1p-53;
}

#endif

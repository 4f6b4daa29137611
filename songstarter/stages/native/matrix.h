/* A matrix of 7-bit levels in the order in which products read it. */

#ifndef SONGSTARTER_MATRIX_H
#define SONGSTARTER_MATRIX_H

#include <stddef.h>
#include <stdint.h>

#include "memory.h"
#include "vectors.h"

enum {
    PANEL = 2 * LANES,  /* output channels that are computed together */
    DEEP = 4,           /* inputs that one instruction sums for a channel */
    WEIGHT_OFFSET = 64, /* weights are stored as unsigned bytes: level + 64, from 1 to 127 */
    PANEL_AHEAD = 6144, /* bytes that are asked of memory before they are read: what the processor foresees by itself is
                           less, and ends at every page */
};

typedef struct {
    const uint8_t *panels; /* [out / PANEL][in / DEEP][PANEL][DEEP] */
    const float *scales;   /* [out] */
    int inputs, outputs;
} Matrix;

/* Levels [in, out], as the graph has them, in the order in which products read them; no panels if memory is short. */
static Matrix packed(const int8_t *levels, const float *scales, int inputs, int outputs) {
    uint8_t *panels = allocate((size_t)inputs * outputs);
    for (int channel = 0; panels && channel < outputs; channel += PANEL)
        for (int k = 0; k < inputs; k++) {
            uint8_t *to = panels + (size_t)channel * inputs + (size_t)(k / DEEP) * PANEL * DEEP + k % DEEP;
            const int8_t *from = levels + (size_t)k * outputs + channel;
            for (int i = 0; i < PANEL; i++)
                to[i * DEEP] = (uint8_t)(from[i] + WEIGHT_OFFSET);
        }
    return (Matrix){panels, scales, inputs, outputs};
}

#endif

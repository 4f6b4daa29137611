/* A matrix of 7-bit levels in the order in which products read it; of 4-bit ones, where that is all that they are.

   A panel, PANEL output channels that are computed together:

       bytes     [in / DEEP][PANEL][DEEP]             level + 64
       halves    [in / GROUP][PANEL]                  factor, from 1 to 8
                 [in / DEEP][PANEL / 2][DEEP]         level / factor + 8, of channel i below, of i + PANEL / 2 above

   A level of halves is a small number times its group's factor, so that it unpacks to the very byte that it would
   be: songs do not depend on how a matrix lies in memory. */

#ifndef SONGSTARTER_MATRIX_H
#define SONGSTARTER_MATRIX_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "memory.h"
#include "vectors.h"

enum {
    PANEL = 2 * LANES,  /* output channels that are computed together */
    DEEP = 4,           /* inputs that one instruction sums for a channel */
    WEIGHT_OFFSET = 64, /* weights are unsigned bytes: level + 64, from 0 to 127 */
    PANEL_AHEAD = 6144, /* bytes that are asked of memory before they are read: what the processor foresees by itself is
                           less, and ends at every page; of halves, half of it */
    GROUP = 32,         /* inputs of a channel that share a factor */
    HALF_OFFSET = 8,
    MOST_FACTOR = WEIGHT_OFFSET / HALF_OFFSET,
    HALF_MASK = 15,
};

typedef struct {
    const uint8_t *panels;
    const float *scales; /* [out] */
    int inputs, outputs, halved;
} Matrix;

static inline size_t panel_bytes(int inputs, int halved) {
    return halved ? (size_t)inputs * PANEL / 2 + (size_t)inputs / GROUP * PANEL : (size_t)inputs * PANEL;
}

static inline const uint8_t *panel_of(const Matrix *m, int channel) {
    return m->panels + (size_t)channel / PANEL * panel_bytes(m->inputs, m->halved);
}

/* The factor of a group of levels, `step` apart; 0 where none makes small numbers of them. */
static int factor_of(const int8_t *levels, int step) {
    for (int factor = 1; factor <= MOST_FACTOR; factor++) {
        int fits = 1;
        for (int i = 0; i < GROUP && fits; i++) {
            int level = levels[(size_t)i * step];
            fits = level % factor == 0 && level >= -HALF_OFFSET * factor && level < HALF_OFFSET * factor;
        }
        if (fits)
            return factor;
    }
    return 0;
}

static int can_be_halved(const int8_t *levels, int inputs, int outputs) {
    if (inputs % GROUP)
        return 0;
    for (int k = 0; k < inputs; k += GROUP)
        for (int channel = 0; channel < outputs; channel++)
            if (!factor_of(levels + (size_t)k * outputs + channel, outputs))
                return 0;
    return 1;
}

/* One panel of levels [in, out], from its first channel on. */
static void pack_bytes(const int8_t *levels, int inputs, int outputs, uint8_t *panel) {
    for (int k = 0; k < inputs; k++)
        for (int i = 0; i < PANEL; i++)
            panel[((size_t)k / DEEP * PANEL + i) * DEEP + k % DEEP] =
                (uint8_t)(levels[(size_t)k * outputs + i] + WEIGHT_OFFSET);
}

static void pack_halves(const int8_t *levels, int inputs, int outputs, uint8_t *panel) {
    uint8_t *factors = panel, *halves = panel + (size_t)inputs / GROUP * PANEL;
    for (int k = 0; k < inputs; k += GROUP)
        for (int i = 0; i < PANEL; i++)
            factors[k / GROUP * PANEL + i] = (uint8_t)factor_of(levels + (size_t)k * outputs + i, outputs);
    for (int k = 0; k < inputs; k++)
        for (int i = 0; i < PANEL / 2; i++) {
            const int8_t *both = levels + (size_t)k * outputs + i;
            const uint8_t *factor = factors + k / GROUP * PANEL + i;
            int below = both[0] / factor[0] + HALF_OFFSET, above = both[PANEL / 2] / factor[PANEL / 2] + HALF_OFFSET;
            halves[((size_t)k / DEEP * PANEL / 2 + i) * DEEP + k % DEEP] = (uint8_t)(below | above << 4);
        }
}

/* Levels [in, out], as the graph has them, in the order in which products read them; no panels if memory is short. */
static Matrix packed(const int8_t *levels, const float *scales, int inputs, int outputs) {
    int halved = can_be_halved(levels, inputs, outputs);
    size_t of_panel = panel_bytes(inputs, halved);
    uint8_t *panels = allocate(of_panel * outputs / PANEL);
    for (int channel = 0; panels && channel < outputs; channel += PANEL)
        (halved ? pack_halves : pack_bytes)(levels + channel, inputs, outputs, panels + channel / PANEL * of_panel);
    return (Matrix){panels, scales, inputs, outputs, halved};
}

#endif

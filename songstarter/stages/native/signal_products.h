/* Matrix products of a signal: rows are columns that lie side by side (columns.h), weights fp32.

   Every sum runs over its inputs in their order, whatever else is computed beside it, so that a moment's numbers do
   not depend on the chunk that it came in or on who shares the call. */

#ifndef SONGSTARTER_SIGNAL_PRODUCTS_H
#define SONGSTARTER_SIGNAL_PRODUCTS_H

#include "columns.h"
#include "tiles.h"

enum {
    ABREAST_WIDE = 2, /* registers of outputs that are summed together, */
#if defined(__AVX512F__)
    ABREAST_HIGH = 12, /* and rows: as many as registers hold the sums of */
#else
    ABREAST_HIGH = 6,
#endif
    KEPT_BYTES = 1 << 20, /* of weights, that a core's cache can keep beside what passes them */
};

/* What becomes of a product: `skip` is added, `plain` gets it, `columns` too, `bent` by ELU if so asked. */
typedef struct {
    float *plain;      /* [row, outputs], or NULL */
    const float *skip; /* [row, outputs], or NULL */
    ptrdiff_t skip_stride;
    Columns columns; /* [row, outputs], or not present */
    int bent;
} Target;

static inline void finish_vector(Target t, Vector v, int row, int output, int outputs) {
    ptrdiff_t place = (ptrdiff_t)row * outputs + output;
    if (t.skip)
        v += load(t.skip + row * t.skip_stride + output);
    if (t.plain)
        store(t.plain + place, v);
    if (present(t.columns))
        put(t.columns, place, t.bent ? bent(v) : v);
}

/* -- by registers ----------------------------------------------------------------------------------------------- */

typedef struct {
    float *panels;     /* [outputs / wide][inputs][wide], wide = registers * REGISTER_LANES, whole vectors */
    const float *bias; /* [outputs] */
    int inputs, outputs, registers;
} Panels;

/* Weights [inputs, outputs], outputs in whole vectors; no panels where memory is short. */
static Panels panels_of(const float *weights, const float *bias, int inputs, int outputs) {
    int registers = outputs % (ABREAST_WIDE * REGISTER_LANES) ? 1 : ABREAST_WIDE, wide = registers * REGISTER_LANES;
    float *panels = allocate((size_t)inputs * outputs * sizeof *panels);
    for (int output = 0; panels && output < outputs; output += wide)
        for (int k = 0; k < inputs; k++)
            memcpy(panels + (size_t)output * inputs + (size_t)k * wide, weights + (size_t)k * outputs + output,
                   wide * sizeof *panels);
    return (Panels){panels, bias, inputs, outputs, registers};
}

/* `rows` and `registers` are constants once inlined. */
static inline __attribute__((always_inline)) void multiply_block(
    const int rows, const int registers, const Panels *p, const float *x, int stride, int row, int output, Target t) {
    const int wide = registers * REGISTER_LANES;
    const float *panel = p->panels + (size_t)output * p->inputs;
    Register sums[ABREAST_HIGH][ABREAST_WIDE];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < registers; i++)
            sums[r][i] = load_register(p->bias + output + i * REGISTER_LANES);
    x += (size_t)row * stride;
    for (int k = 0; k < p->inputs; k++, panel += wide) {
        Register weights[ABREAST_WIDE];
        for (int i = 0; i < registers; i++)
            weights[i] = load_register(panel + i * REGISTER_LANES);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            Register one = of_all(x[(size_t)r * stride + k]);
#pragma GCC unroll 2
            for (int i = 0; i < registers; i++)
                sums[r][i] = register_multiply_add(one, weights[i], sums[r][i]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < wide; i += LANES)
            finish_vector(t, load((const float *)sums[r] + i), row + r, output + i, p->outputs);
}

#define ROWS_OF(count, registers)                                                                                      \
    case count:                                                                                                        \
        multiply_block(count < ABREAST_HIGH ? count : ABREAST_HIGH, registers, p, x, stride, row, output, t);          \
        break;
#define BLOCKS_OF(registers)                                                                                           \
    switch (rows - row < ABREAST_HIGH ? rows - row : ABREAST_HIGH) {                                                   \
        ROWS_OF(1, registers) ROWS_OF(2, registers) ROWS_OF(3, registers) ROWS_OF(4, registers) ROWS_OF(5, registers)  \
        ROWS_OF(6, registers) ROWS_OF(7, registers) ROWS_OF(8, registers) ROWS_OF(9, registers) ROWS_OF(10, registers) \
        ROWS_OF(11, registers) ROWS_OF(12, registers)                                                                  \
    }

/* Rows x[row * stride ...] times the weights; a panel serves all rows before the next one is read. */
static void multiply_panels(const Panels *p, const float *x, int stride, int rows, Target t) {
    for (int output = 0; output < p->outputs; output += p->registers * REGISTER_LANES)
        for (int row = 0; row < rows; row += ABREAST_HIGH)
            if (p->registers == ABREAST_WIDE)
                BLOCKS_OF(ABREAST_WIDE)
            else
                BLOCKS_OF(1)
}

#undef BLOCKS_OF
#undef ROWS_OF

/* -- a layer's product: by tiles in two parts where there are any ---------------------------------------------- */

#if IN_TWO_PARTS

enum {
    PAIR = 2,
    TILE_DEEP = TILE_BYTES / sizeof(uint16_t), /* inputs of a tile */
    TILE_SIZE = TILE_ROWS * TILE_DEEP,         /* numbers of a tile of weights */
    TILE_WIDE = 16,                            /* outputs of a tile */
    WIDE_PAIR = 2 * TILE_WIDE,                 /* of the two that are summed together */
};

/* Tiles [TILE_DEEP / PAIR][TILE_WIDE][PAIR] lie in the order in which they are read. */
typedef struct {
    uint16_t *tiles; /* [outputs / WIDE_PAIR][inputs / TILE_DEEP][fine, coarse][left, right], the last maybe left alone */
    const float *bias;
    int inputs, outputs;
} Product;

static inline uint16_t nearest_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline float of_bfloat16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Weights [inputs, outputs] from an input and an output on, as a tile of coarse parts and one of what they lack. */
static void split_tile(const float *weights, int inputs, int outputs, int k, int output, uint16_t *fine, uint16_t *coarse) {
    for (int i = 0; i < TILE_SIZE; i++) {
        int input = k + i / (PAIR * TILE_WIDE) * PAIR + i % PAIR, lane = output + i / PAIR % TILE_WIDE;
        float weight = input < inputs ? weights[(size_t)input * outputs + lane] : 0.0f;
        coarse[i] = nearest_bfloat16(weight);
        fine[i] = nearest_bfloat16(weight - of_bfloat16(coarse[i]));
    }
}

static Product product_of(const float *weights, const float *bias, int inputs, int outputs) {
    int deep = (inputs + TILE_DEEP - 1) / TILE_DEEP * TILE_DEEP;
    uint16_t *tiles = allocate(2 * (size_t)deep * outputs * sizeof *tiles), *to = tiles;
    for (int output = 0; tiles && output < outputs; output += WIDE_PAIR) {
        int wide = outputs - output > TILE_WIDE ? 2 : 1;
        for (int k = 0; k < deep; k += TILE_DEEP, to += 2 * wide * TILE_SIZE)
            for (int i = 0; i < wide; i++)
                split_tile(weights, inputs, outputs, k, output + i * TILE_WIDE, to + i * TILE_SIZE,
                           to + (wide + i) * TILE_SIZE);
    }
    return (Product){tiles, bias, deep, outputs};
}

static void free_product(Product p) { free(p.tiles); }
static int whole_product(Product p) { return p.tiles != NULL; }

/* 16 or 32 rows by 16 or 32 outputs: coarse by fine, coarse by coarse, fine by coarse; fine by fine is below 2^-16. */
static inline __attribute__((always_inline)) void sum_tiles(
    const int more_rows, const int more_outputs, const Product *p, Columns from, int stride, int output, float *sums) {
    const uint16_t *tile = p->tiles + 2 * (size_t)output * p->inputs;
    __asm__ volatile("" ::: "memory"); /* gcc does not know that loading a tile reads memory */
    size_t lower = (size_t)TILE_ROWS * stride;
    int row_bytes = stride * sizeof(uint16_t);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < p->inputs; k += TILE_DEEP) {
#define LOAD_WEIGHTS                                                                                                   \
    _tile_loadd(6, tile, TILE_BYTES);                                                                                  \
    tile += TILE_SIZE;                                                                                                 \
    if (more_outputs) {                                                                                                \
        _tile_loadd(7, tile, TILE_BYTES);                                                                              \
        tile += TILE_SIZE;                                                                                             \
    }
#define SUM_ALL                                                                                                        \
    _tile_dpbf16ps(0, 4, 6);                                                                                           \
    if (more_outputs)                                                                                                  \
        _tile_dpbf16ps(1, 4, 7);                                                                                       \
    if (more_rows)                                                                                                     \
        _tile_dpbf16ps(2, 5, 6);                                                                                       \
    if (more_rows && more_outputs)                                                                                     \
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(4, from.coarse + k, row_bytes);
        if (more_rows)
            _tile_loadd(5, from.coarse + lower + k, row_bytes);
        LOAD_WEIGHTS
        SUM_ALL
        LOAD_WEIGHTS
        SUM_ALL
        _tile_loadd(4, from.fine + k, row_bytes);
        if (more_rows)
            _tile_loadd(5, from.fine + lower + k, row_bytes);
        SUM_ALL
#undef SUM_ALL
#undef LOAD_WEIGHTS
    }
    int sums_bytes = WIDE_PAIR * sizeof(float);
    _tile_stored(0, sums, sums_bytes);
    if (more_outputs)
        _tile_stored(1, sums + TILE_WIDE, sums_bytes);
    if (more_rows)
        _tile_stored(2, sums + TILE_ROWS * WIDE_PAIR, sums_bytes);
    if (more_rows && more_outputs)
        _tile_stored(3, sums + TILE_ROWS * WIDE_PAIR + TILE_WIDE, sums_bytes);
}

/* Up to 32 rows by up to 32 outputs. */
static void multiply_tiles(const Product *p, Columns from, int stride, int row, int high, int output, Target t) {
    float sums[2 * TILE_ROWS * WIDE_PAIR] __attribute__((aligned(LINE)));
    int wide = p->outputs - output > TILE_WIDE ? WIDE_PAIR : TILE_WIDE;
    Columns here = columns_from(from, (ptrdiff_t)row * stride);
    if (high > TILE_ROWS && wide > TILE_WIDE)
        sum_tiles(1, 1, p, here, stride, output, sums);
    else if (high > TILE_ROWS)
        sum_tiles(1, 0, p, here, stride, output, sums);
    else if (wide > TILE_WIDE)
        sum_tiles(0, 1, p, here, stride, output, sums);
    else
        sum_tiles(0, 0, p, here, stride, output, sums);
    for (int i = 0; i < wide; i += LANES) {
        Vector bias = load(p->bias + output + i);
        for (int r = 0; r < high; r++)
            finish_vector(t, load(sums + r * WIDE_PAIR + i) + bias, row + r, output + i, p->outputs);
    }
}

/* Rows from[row * stride ...] times the weights. Where the cache keeps all weights, rows stay in the one before it while
   the weights pass; otherwise a panel of weights stays while the rows pass. */
static void multiply_signal(const Product *p, Columns from, int stride, int rows, Target t) {
    const int deep = 2 * TILE_ROWS;
    int at_once = (size_t)p->inputs * p->outputs * sizeof(float) > KEPT_BYTES ? rows : deep;
    for (int first = 0; first < rows; first += at_once)
        for (int output = 0; output < p->outputs; output += WIDE_PAIR)
            for (int row = first; row < first + at_once && row < rows; row += deep)
                multiply_tiles(p, from, stride, row, rows - row < deep ? rows - row : deep, output, t);
}

#else

typedef Panels Product;

static Product product_of(const float *weights, const float *bias, int inputs, int outputs) {
    return panels_of(weights, bias, inputs, outputs);
}

static void free_product(Product p) { free(p.panels); }
static int whole_product(Product p) { return p.panels != NULL; }

static void multiply_signal(const Product *p, Columns from, int stride, int rows, Target t) {
    multiply_panels(p, from.values, stride, rows, t);
}

#endif

#endif

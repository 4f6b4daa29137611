/* The decoder of an int8 checkpoint on a CPU: the same numbers as the ONNX graph beside it, at the speed of memory.

   A call moves `rows` positions through all layers. A row is one position of one row of KV memory; it attends to
   what that row holds up to and including itself. A decode step has one row for each row of each playing slot, a
   filling has consecutive positions of one. Nothing mixes rows, and no sum's order depends on how many there are,
   so a song's numbers are the same alone, in a crowd and however its beginning was cut.

       x -- norm, quantise -- qkv -- remember -- attend -- quantise -- out -- + -- x      for text, once more:
                                                                                          attend to it
       x -- norm, quantise -- up, gelu -- quantise -- down -- + -- x                      then the next layer

   Threads split output channels in products, heads or some heads of a row in attention and rows elsewhere, and meet
   after each. Compiled once for each instruction set (compile.py); called by stages/native_session.py. */

#include "byte_attention.h"
#include "memory.h"
#include "products.h"
#include "sources.h"
#include "team.h"

typedef struct {
    const float *weight, *bias;
} Norm;

typedef struct {
    Norm self_norm, cross_norm, feed_norm;
    Matrix qkv, out, cross_query, cross_out, up, down;
    const float *key_scale, *value_scale; /* [hidden]; NULL where memory holds floats */
} Layer;

typedef struct {
    void *keys, *values;                    /* [memory row, head, position, HEAD]; of bytes: byte_attention.h */
    const float *cross_keys, *cross_values; /* [memory row, head, text place, HEAD]; NULL without text */
} Memory;

typedef struct {
    int32_t layers, hidden, wide, heads, codebooks, vocabulary, table_rows, positions;
    int32_t text_places; /* 0 where the checkpoint attends to no text */
    int32_t threads;
} Shape;

typedef struct {
    int32_t rows;                /* at most MOST_ROWS */
    int32_t first_asked;         /* rows before this one get no logits */
    const int64_t *tokens;       /* [row, codebook] */
    const float *prefix;         /* [row, hidden], added to the tokens' vectors; or NULL */
    const int32_t *memory_rows;  /* [row] */
    const int32_t *places;       /* [row]: the position a row is written to, the last it attends to */
    const int32_t *shared;       /* [row, 2]: a memory row that begins with the same numbers, for so many; or NULL */
    const int32_t *text_lengths; /* [row], or NULL */
    const Memory *memory;        /* [layer] */
    float *logits;               /* [row - first_asked, codebook * vocabulary] */
} Call;

typedef struct {
    Shape shape;
    Layer *layers;
    Matrix heads;
    Norm norm;
    const float *tables, *sinusoid; /* [codebook, table row, hidden], [position, hidden] */
    float *x, *wide, *attended;     /* [row, hidden], [row, widest], [row, hidden] */
    float *scores;                  /* [thread, position] */
    Quantised quantised;
    Team team;
    const Call *call;
} Decoder;

/* -- the parts of a layer: each ends in a meeting ------------------------------------------------------------ */

static void embed(Decoder *d, int number) {
    const Call *call = d->call;
    const Shape *s = &d->shape;
    for (int row = number; row < call->rows; row += d->team.working) {
        float *x = d->x + (size_t)row * s->hidden;
        memset(x, 0, s->hidden * sizeof(float));
        for (int k = 0; k < s->codebooks; k++)
            add(x, d->tables + ((size_t)k * s->table_rows + call->tokens[row * s->codebooks + k]) * s->hidden, s->hidden);
        if (call->prefix)
            add(x, call->prefix + (size_t)row * s->hidden, s->hidden);
        add(x, d->sinusoid + (size_t)call->places[row] * s->hidden, s->hidden);
    }
    meet(&d->team);
}

static void normalise(const float *x, Norm norm, int width, float *to) {
    Vector sums = {}, squares = {};
    for (int i = 0; i < width; i += LANES)
        sums += load(x + i);
    float mean = sum_of(sums) / width;
    for (int i = 0; i < width; i += LANES) {
        Vector off = load(x + i) - mean;
        squares += off * off;
    }
    float factor = 1.0f / sqrtf(sum_of(squares) / width + 1e-5f);
    for (int i = 0; i < width; i += LANES)
        store(to + i, (load(x + i) - mean) * factor * load(norm.weight + i) + load(norm.bias + i));
}

/* Quantise `count` rows of x [row, width], normalised first where there is a norm. */
static void quantise_rows(Decoder *d, int number, const float *x, int count, int width, const Norm *norm) {
    float normed[width];
    for (int row = number; row < count; row += d->team.working) {
        const float *from = x + (size_t)row * width;
        if (norm) {
            normalise(from, *norm, width, normed);
            from = normed;
        }
        quantise(from, width, row, &d->quantised);
    }
    meet(&d->team);
}

static void product(Decoder *d, int number, const Matrix *m, float *to, Ending ending) {
    multiply(&d->team, number, m, &d->quantised, d->call->rows, to, ending);
}

static const float *of_head(const float *scale, int head) { return scale ? scale + head * HEAD : NULL; }

/* Where a memory row begins in memory of `places` positions. */
static size_t row_in_memory(const Decoder *d, int memory_row, int places) {
    return (size_t)memory_row * d->shape.heads * places * HEAD;
}

/* Where a row's head begins in memory of floats, and its block of a position in memory of bytes. */
static size_t floats_in_row(int head, int places) { return (size_t)head * places * HEAD; }
static size_t block_in_row(const Decoder *d, int head, int place) {
    return ((size_t)place / LANES * d->shape.heads + head) * BLOCK;
}

/* The new keys and values of a row's head: from where to where. */
typedef struct {
    const float *key, *value;
    size_t row;
    int place;
} Fresh;

static Fresh fresh(const Decoder *d, int row, int head) {
    int hidden = d->shape.hidden;
    const float *key = d->wide + (size_t)row * 3 * hidden + hidden + head * HEAD;
    size_t in_memory = row_in_memory(d, d->call->memory_rows[row], d->shape.positions);
    return (Fresh){key, key + hidden, in_memory, d->call->places[row]};
}

static void remember_floats(const Decoder *d, const Memory *memory, int head) {
    for (int row = 0; row < d->call->rows; row++) {
        Fresh f = fresh(d, row, head);
        size_t to = f.row + floats_in_row(head, d->shape.positions) + (size_t)f.place * HEAD;
        memcpy((float *)memory->keys + to, f.key, HEAD * sizeof(float));
        memcpy((float *)memory->values + to, f.value, HEAD * sizeof(float));
    }
}

static void remember_bytes(const Decoder *d, const Layer *layer, const Memory *memory, int head) {
    enum { ROWS_AHEAD = 8 };
    uint8_t *keys = memory->keys, *values = memory->values;
    for (int row = -ROWS_AHEAD; row < d->call->rows; row++) {
        if (row + ROWS_AHEAD < d->call->rows) {
            Fresh f = fresh(d, row + ROWS_AHEAD, head);
            size_t block = f.row + block_in_row(d, head, f.place);
            ask_to_write(keys + block, values + block, f.place);
        }
        if (row < 0)
            continue;
        Fresh f = fresh(d, row, head);
        size_t block = f.row + block_in_row(d, head, f.place);
        remember_key(f.key, layer->key_scale + head * HEAD, keys + block, f.place);
        remember_value(f.value, layer->value_scale + head * HEAD, values + block, f.place);
    }
}

/* A head is one thread's: of bytes, positions that follow each other share words of memory. */
static void remember_all(Decoder *d, int number, const Layer *layer, const Memory *memory) {
    for (int head = number; head < d->shape.heads; head += d->team.working)
        if (layer->key_scale)
            remember_bytes(d, layer, memory, head);
        else
            remember_floats(d, memory, head);
    meet(&d->team);
}

static void scaled(const float *from, const float *scale, float factor, Vector to[PARTS]) {
    for (int part = 0; part < PARTS; part++) {
        to[part] = load(from + part * LANES) * factor;
        if (scale)
            to[part] *= load(scale + part * LANES);
    }
}

/* Some heads of a row: what they see goes to `mixed`; `scores` [position] is for their use. */
typedef struct {
    int row, head, heads;
} Span;
typedef void Attend(Decoder *, const Layer *, const Memory *, Span, float *scores, Vector mixed[][PARTS]);

static const float SHARPNESS = 0.125f; /* 1 / sqrt(HEAD) */

/* Where a row's memory lies: the first `shared` positions, whole blocks of them, in others'. */
typedef struct {
    size_t others, own;
    int shared;
} Whereabouts;

static Whereabouts whereabouts(const Decoder *d, int row) {
    const Call *call = d->call;
    int positions = d->shape.positions, length = call->places[row] + 1;
    size_t own = row_in_memory(d, call->memory_rows[row], positions);
    if (!call->shared)
        return (Whereabouts){own, own, 0};
    const int32_t *shared = call->shared + 2 * row;
    int so_many = shared[1] < length ? shared[1] : length;
    if (so_many < LANES)
        return (Whereabouts){own, own, 0};
    return (Whereabouts){row_in_memory(d, shared[0], positions), own, so_many / LANES * LANES};
}

static Floats floats_at(const void *memory, Whereabouts at, size_t head) {
    return (Floats){(const float *)memory + at.others + head, (const float *)memory + at.own + head, at.shared};
}

static Bytes bytes_at(const void *memory, Whereabouts at, size_t head, int heads) {
    const uint8_t *from = (const uint8_t *)memory + head;
    return (Bytes){from + at.others, from + at.own, at.shared, heads};
}

static void attend(Decoder *d, const Layer *l, const Memory *m, Span span, float *scores, Vector mixed[][PARTS]) {
    Whereabouts at = whereabouts(d, span.row);
    int positions = d->shape.positions, length = d->call->places[span.row] + 1;
    const float *asked = d->wide + (size_t)span.row * 3 * d->shape.hidden;
    Query queries[MOST_TOGETHER];
    for (int i = 0; i < span.heads; i++) {
        int head = span.head + i;
        Vector query[PARTS];
        scaled(asked + head * HEAD, of_head(l->key_scale, head), SHARPNESS, query);
        size_t from = floats_in_row(head, positions);
        if (l->key_scale)
            take_query(query, queries + i);
        else
            attend_floats(query, floats_at(m->keys, at, from), floats_at(m->values, at, from), length, scores, mixed[i]);
    }
    if (!l->key_scale)
        return;
    size_t from = block_in_row(d, span.head, 0);
    Bytes keys = bytes_at(m->keys, at, from, d->shape.heads), values = bytes_at(m->values, at, from, d->shape.heads);
    attend_bytes(queries, keys, values, span.heads, length, mixed);
    for (int i = 0; i < span.heads; i++)
        scaled((const float *)mixed[i], of_head(l->value_scale, span.head + i), 1.0f, mixed[i]);
}

static void attend_to_text(
    Decoder *d, const Layer *l, const Memory *m, Span span, float *scores, Vector mixed[][PARTS]) {
    (void)l;
    for (int i = 0; i < span.heads; i++) {
        int places = d->shape.text_places, head = span.head + i;
        size_t from = row_in_memory(d, d->call->memory_rows[span.row], places) + floats_in_row(head, places);
        Vector query[PARTS];
        scaled(d->wide + (size_t)span.row * d->shape.hidden + head * HEAD, NULL, SHARPNESS, query);
        Floats keys = {.own = m->cross_keys + from}, values = {.own = m->cross_values + from};
        attend_floats(query, keys, values, d->call->text_lengths[span.row], scores, mixed[i]);
    }
}

/* How many heads of a row make a span: as many as can be, for in bytes they lie side by side, but so few that there are
   some spans for every thread. */
static int heads_of_span(const Decoder *d) {
    enum { SPANS_FOR_A_THREAD = 4 };
    int heads = d->shape.heads, spans = (heads + MOST_TOGETHER - 1) / MOST_TOGETHER;
    int wanted = d->team.working > 1 ? SPANS_FOR_A_THREAD * d->team.working : 1;
    while (spans < heads && spans * d->call->rows < wanted)
        spans++;
    return (heads + spans - 1) / spans;
}

/* Whoever is free takes the next span: rows are of different lengths. */
static void attend_all(Decoder *d, int number, const Layer *layer, const Memory *memory, Attend *one) {
    int heads = d->shape.heads, most = heads_of_span(d), spans = (heads + most - 1) / most;
    float *scores = d->scores + (size_t)number * (d->shape.positions + LANES);
    for (int next; (next = atomic_fetch_add(&d->team.next, 1)) < d->call->rows * spans;) {
        int row = next / spans, head = next % spans * most;
        Span span = {row, head, heads - head < most ? heads - head : most};
        Vector mixed[MOST_TOGETHER][PARTS];
        one(d, layer, memory, span, scores, mixed);
        memcpy(d->attended + ((size_t)row * heads + head) * HEAD, mixed, span.heads * sizeof *mixed);
    }
    meet(&d->team);
}

/* -- a call -------------------------------------------------------------------------------------------------- */

static void pass_layer(Decoder *d, int number, const Layer *layer, const Memory *memory) {
    int rows = d->call->rows, hidden = d->shape.hidden;
    quantise_rows(d, number, d->x, rows, hidden, &layer->self_norm);
    product(d, number, &layer->qkv, d->wide, WRITE);
    remember_all(d, number, layer, memory);
    attend_all(d, number, layer, memory, attend);
    quantise_rows(d, number, d->attended, rows, hidden, NULL);
    product(d, number, &layer->out, d->x, ADD);
    if (d->shape.text_places) {
        quantise_rows(d, number, d->x, rows, hidden, &layer->cross_norm);
        product(d, number, &layer->cross_query, d->wide, WRITE);
        attend_all(d, number, layer, memory, attend_to_text);
        quantise_rows(d, number, d->attended, rows, hidden, NULL);
        product(d, number, &layer->cross_out, d->x, ADD);
    }
    quantise_rows(d, number, d->x, rows, hidden, &layer->feed_norm);
    product(d, number, &layer->up, d->wide, GELU);
    quantise_rows(d, number, d->wide, rows, layer->up.outputs, NULL);
    product(d, number, &layer->down, d->x, ADD);
}

static void pass(void *of, int number) {
    Decoder *d = of;
    const Call *call = d->call;
    embed(d, number);
    for (int i = 0; i < d->shape.layers; i++)
        pass_layer(d, number, d->layers + i, call->memory + i);
    int asked = call->rows - call->first_asked;
    quantise_rows(d, number, d->x + (size_t)call->first_asked * d->shape.hidden, asked, d->shape.hidden, &d->norm);
    multiply(&d->team, number, &d->heads, &d->quantised, asked, call->logits, WRITE);
}

/* Whether the kernel lets this process use what this library was compiled for. */
int decoder_allowed(void) { return ask_for_tiles(); }

static size_t bytes_of(const Matrix *m) { return panel_bytes(m->inputs, m->halved) * m->outputs / PANEL; }

/* Of the matrices that every call reads. */
int64_t decoder_weight_bytes(const Decoder *d) {
    size_t bytes = bytes_of(&d->heads);
    for (int i = 0; i < d->shape.layers; i++) {
        const Layer *l = d->layers + i;
        bytes += bytes_of(&l->qkv) + bytes_of(&l->out) + bytes_of(&l->up) + bytes_of(&l->down);
        if (d->shape.text_places)
            bytes += bytes_of(&l->cross_query) + bytes_of(&l->cross_out);
    }
    return (int64_t)bytes;
}

/* Compute a call; one at a time. */
void decoder_run(Decoder *d, const Call *call) {
    d->call = call;
    call_all(&d->team);
}

/* -- opening and closing ------------------------------------------------------------------------------------- */

enum { LAYER_PARTS = 20, OWNED = 6 };

static Layer layer_of(const Shape *shape, const void *const *parts) {
    int hidden = shape->hidden, wide = shape->wide;
    Layer l = {
        .self_norm = {parts[0], parts[1]},
        .qkv = packed(parts[2], parts[3], hidden, 3 * hidden),
        .out = packed(parts[4], parts[5], hidden, hidden),
        .feed_norm = {parts[6], parts[7]},
        .up = packed(parts[8], parts[9], hidden, wide),
        .down = packed(parts[10], parts[11], wide, hidden),
        .key_scale = parts[12],
        .value_scale = parts[13],
    };
    if (shape->text_places) {
        l.cross_norm = (Norm){parts[14], parts[15]};
        l.cross_query = packed(parts[16], parts[17], hidden, hidden);
        l.cross_out = packed(parts[18], parts[19], hidden, hidden);
    }
    return l;
}

static int complete(const Decoder *d) {
    for (int i = 0; i < d->shape.layers; i++) {
        const Layer *l = d->layers + i;
        int of_text = !d->shape.text_places || (l->cross_query.panels && l->cross_out.panels);
        if (!(l->qkv.panels && l->out.panels && l->up.panels && l->down.panels && of_text))
            return 0;
    }
    return d->heads.panels && d->x && d->wide && d->attended && d->scores && d->quantised.levels;
}

void decoder_close(Decoder *d) {
    dismiss(&d->team);
    for (int i = 0; i < d->shape.layers; i++) {
        Layer *l = d->layers + i;
        const Matrix owned[OWNED] = {l->qkv, l->out, l->cross_query, l->cross_out, l->up, l->down};
        for (int m = 0; m < OWNED; m++)
            free((void *)owned[m].panels);
    }
    free((void *)d->heads.panels);
    void *rest[] = {d->layers, d->x, d->wide, d->attended, d->scores, d->quantised.levels, d};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        free(rest[i]);
}

/* `parts` are the weights' addresses: LAYER_PARTS for each layer, in the order of layer_of, then those below. The
   weights stay the caller's and must outlive the decoder; matrices are copied. NULL where memory is short. */
Decoder *decoder_open(const Shape *shape, const void *const *parts) {
    ask_for_tiles();
    Decoder *d = calloc(1, sizeof *d);
    Layer *layers = calloc(shape->layers, sizeof *layers);
    if (!d || !layers) {
        free(d);
        free(layers);
        return NULL;
    }
    int widest = shape->wide > 3 * shape->hidden ? shape->wide : 3 * shape->hidden; /* of fc1 and of qkv */
    d->shape = *shape;
    d->layers = layers;
    for (int i = 0; i < shape->layers; i++, parts += LAYER_PARTS)
        d->layers[i] = layer_of(shape, parts);
    d->tables = parts[0], d->sinusoid = parts[1];
    d->norm = (Norm){parts[2], parts[3]};
    d->heads = packed(parts[4], parts[5], shape->hidden, shape->codebooks * shape->vocabulary);
    d->x = floats((size_t)MOST_ROWS * shape->hidden);
    d->wide = floats((size_t)MOST_ROWS * widest);
    d->attended = floats((size_t)MOST_ROWS * shape->hidden);
    d->quantised.levels = allocate((size_t)MOST_ROWS * widest);
    gather(&d->team, shape->threads, pass, d);
    d->scores = floats((size_t)d->team.threads * (shape->positions + LANES));
    if (complete(d))
        return d;
    decoder_close(d);
    return NULL;
}

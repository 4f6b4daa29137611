/* The codec's encoder on a CPU: the numbers of the ONNX graph beside it (export/codec_encoder.py), up to rounding.

   A call takes waveforms of several rows, each of its own length; none depends on the others.

       samples -- first convolution -+- ELU -- convolution -- ELU -- convolution -- + -- ELU -- down    row by row, some
                                     +----------------------------------------------+   once a level    frames at a time
       columns --+-- LSTM -- + -- ELU -- last convolution -- vectors -- codes                           all rows together
                 +-----------+

   A down-sampling is a product of the columns that it sees, whose rows begin a factor apart. One thread; a service runs
   several. Compiled once for each instruction set (compile.py); called by stages/native_codec_encoder.py. */

#include "lstm.h"
#include "sources.h"

enum {
    REACH = 3,        /* columns that the first and the last convolution see on either side */
    TILE_FRAMES = 14, /* of the half that samples down: what it works on stays in the cache */
    MARGIN = 64,      /* columns around a signal: mirrored ones, and those that products reach into */
    SPARE = 32,       /* rows of a product, as far apart as its rows are, that tiles read and nobody uses */
    MOST_LEVELS = 8,
    MOST_LAYERS = 4,
    MOST_CODEBOOKS = 32,
    MOST_ROWS_OF_CALL = MOST_STATES,
};

typedef struct {
    int32_t factor, channels, narrow; /* of a level: how much shorter it becomes, its channels, those inside its block */
} LevelShape;

typedef struct {
    int32_t codebooks, entries, latent, wide, layers, levels;
    int32_t halo; /* frames that the down-sampling half hears on either side */
    LevelShape level[MOST_LEVELS];
} Shape;

typedef struct {
    Product inner, outer, down;
    LevelShape shape;
} Level;

typedef struct {
    int32_t rows, width;    /* at most MOST_ROWS_OF_CALL; samples of the widest row */
    const float *waveform;  /* [row, width] */
    const int64_t *samples; /* [row], from 1 to width */
    int64_t *codes;         /* [row, codebook, frames of the widest row]; untouched behind a row's end */
} Call;

typedef struct {
    Shape shape;
    Product first, last;
    Level levels[MOST_LEVELS];
    Recurrence layers[MOST_LAYERS];
    Panels nearest[MOST_CODEBOOKS];      /* [latent] -> scores [entry], the largest of the nearest */
    const float *tables[MOST_CODEBOOKS]; /* [entry, latent] */
    int hop;
    /* for one tile of the down-sampling half */
    Columns samples, signal, inside;
    float *plain;
} Encoder;

/* For one call: the columns behind the down-sampling half. Rows are in the order of their lengths, longest first. */
typedef struct {
    int order[MOST_ROWS_OF_CALL], lengths[MOST_ROWS_OF_CALL], longest;
    Columns inputs;  /* [row, longest, wide] */
    Columns bent;    /* [REACH + longest + REACH, wide] of a row */
    float *columns;  /* [row, longest, wide] */
    float *brought;  /* [row, longest, GATES * wide] */
    float *outputs;  /* [row, longest, wide] */
    float *gates, *hidden, *cell;
    float *vectors, *scores; /* [longest, latent], [longest, entries] of a row */
} Work;

static int frames_of(const Encoder *e, int64_t samples) { return (samples + e->hop - 1) / e->hop; }

/* -- samples to columns ------------------------------------------------------------------------------------------- */

/* Column 0 of a signal; those before it are its margin. */
static Columns first_column(Columns c, int channels) { return columns_from(c, (ptrdiff_t)MARGIN * channels); }

/* Beyond its ends a signal of `count` columns goes on mirrored, behind the column `turn` - 1; one too short for that
   goes on with zeros first. Then nothing, as far as products reach. */
static void mirror(Columns c, int count, int channels, int left, int right, int turn) {
    clear_columns(c, (ptrdiff_t)count * channels, (size_t)MARGIN * channels);
    for (int place = -left; place < count + right; place = place == -1 ? count : place + 1) {
        int source = place < 0 ? -place : 2 * turn - 2 - place;
        if (source < count)
            copy_column(c, (ptrdiff_t)(source > 0 ? source : 0) * channels, (ptrdiff_t)place * channels, channels);
        else
            clear_columns(c, (ptrdiff_t)place * channels, channels);
    }
}

/* A level: `count` columns, plain in e->plain and bent in e->signal, to their level's block and `down` from there; how
   many. What comes out is the same two, or of the last level what `to` says. */
static int pass_level(Encoder *e, const Level *l, int count, const Target *to) {
    int own = l->shape.channels, narrow = l->shape.narrow, factor = l->shape.factor;
    int steps = (count + factor - 1) / factor, right = factor / 2, left = factor - right;
    int filled = steps * factor - count + right; /* columns that the last step sees behind the signal */
    int widest = filled > left ? filled : left;
    Columns signal = first_column(e->signal, own);
    mirror(signal, count, own, 1, 1, count > 2 ? count : 2);
    Target inner = {.columns = e->inside, .bent = 1};
    multiply_signal(&l->inner, columns_from(signal, -own), own, count, inner);
    clear_columns(e->inside, (ptrdiff_t)count * narrow, (size_t)MARGIN * narrow);
    Target outer = {.skip = e->plain, .skip_stride = own, .columns = signal, .bent = 1};
    multiply_signal(&l->outer, e->inside, narrow, count, outer);
    mirror(signal, count, own, left, filled, count > widest ? count : widest + 1);
    int next = l->down.outputs;
    Target down = {.plain = e->plain, .columns = first_column(e->inside, next), .bent = 1};
    multiply_signal(&l->down, columns_from(signal, (ptrdiff_t)-left * own), factor * own, steps, to ? *to : down);
    Columns swapped = e->signal;
    e->signal = e->inside;
    e->inside = swapped;
    return steps;
}

/* The down-sampling half over samples [from, to) of a row: columns to `target` from its frame `first` on, in which
   `count` frames count. */
static void pass_samples(Encoder *e, const float *samples, int count, const Target *target) {
    Columns in = columns_from(e->samples, MARGIN);
    int whole = count / LANES * LANES;
    float tail[LANES] = {0};
    memcpy(tail, samples + whole, (count - whole) * sizeof *tail);
    for (int i = 0; i < whole; i += LANES)
        put(in, i, load(samples + i));
    put(in, whole, load(tail));
    mirror(in, count, 1, REACH, REACH, count > REACH ? count : REACH + 1);
    int channels = e->first.outputs;
    Target first = {.plain = e->plain, .columns = first_column(e->signal, channels), .bent = 1};
    multiply_signal(&e->first, columns_from(in, -REACH), 1, count, first);
    for (int i = 0; i < e->shape.levels; i++)
        count = pass_level(e, e->levels + i, count, i == e->shape.levels - 1 ? target : NULL);
}

/* A row's columns, some frames at a time with a halo that is thrown away. */
static void pass_row(Encoder *e, const Call *call, Work *w, int place) {
    const Shape *s = &e->shape;
    int row = w->order[place], frames = w->lengths[place];
    int64_t samples = call->samples[row];
    const float *waveform = call->waveform + (size_t)row * call->width;
    size_t start = (size_t)place * w->longest * s->wide;
    for (int from = 0; from < frames; from += TILE_FRAMES) {
        int to = from + TILE_FRAMES < frames ? from + TILE_FRAMES : frames;
        int before = s->halo + (to == frames); /* at its end a signal is mirrored, and what is there must be exact too */
        int first = from > before ? from - before : 0, last = to + s->halo < frames ? to + s->halo : frames;
        int64_t end = (int64_t)last * e->hop < samples ? (int64_t)last * e->hop : samples;
        Target target = {.plain = w->scores};
        pass_samples(e, waveform + (size_t)first * e->hop, end - (int64_t)first * e->hop, &target);
        memcpy(w->columns + start + (size_t)from * s->wide, w->scores + (size_t)(from - first) * s->wide,
               (size_t)(to - from) * s->wide * sizeof(float));
    }
    for (int i = 0; i < frames * s->wide; i += LANES)
        put(w->inputs, start + i, load(w->columns + start + i));
}

/* -- columns to codes --------------------------------------------------------------------------------------------- */

static void pass_layer(const Encoder *e, const Call *call, int number, Work *w) {
    const Shape *s = &e->shape;
    const Recurrence *layer = e->layers + number;
    memset(w->hidden, 0, (size_t)call->rows * s->wide * sizeof(float));
    memset(w->cell, 0, (size_t)call->rows * s->wide * sizeof(float));
    for (int place = 0; place < call->rows; place++) {
        size_t start = (size_t)place * w->longest * s->wide;
        Target target = {.plain = w->brought + GATES * start};
        multiply_signal(&layer->of_input, columns_from(w->inputs, start), s->wide, w->lengths[place], target);
    }
    recur(layer, w->lengths, call->rows, s->wide, w->brought, w->hidden, w->cell, w->outputs, w->gates);
    for (int place = 0; place < call->rows; place++) {
        size_t start = (size_t)place * w->longest * s->wide;
        for (int i = 0; i < w->lengths[place] * s->wide; i += LANES)
            put(w->inputs, start + i, load(w->outputs + start + i));
    }
}

static int nearest_of(const float *scores, int count) {
    int best = 0;
    for (int i = 1; i < count; i++)
        best = scores[i] > scores[best] ? i : best;
    return best;
}

static void choose_codes(const Encoder *e, const Call *call, const Work *w, int place) {
    const Shape *s = &e->shape;
    int row = w->order[place], frames = w->lengths[place], wide_frames = frames_of(e, call->width);
    int64_t *codes = call->codes + (size_t)row * s->codebooks * wide_frames;
    for (int book = 0; book < s->codebooks; book++) {
        Target target = {.plain = w->scores};
        multiply_panels(e->nearest + book, w->vectors, s->latent, frames, target);
        for (int frame = 0; frame < frames; frame++) {
            int code = nearest_of(w->scores + (size_t)frame * e->nearest[book].outputs, s->entries);
            float *rest = w->vectors + (size_t)frame * s->latent;
            const float *entry = e->tables[book] + (size_t)code * s->latent;
            for (int i = 0; i < s->latent; i += LANES)
                store(rest + i, load(rest + i) - load(entry + i));
            codes[(size_t)book * wide_frames + frame] = code;
        }
    }
}

static void encode_row(const Encoder *e, const Call *call, Work *w, int place) {
    const Shape *s = &e->shape;
    int frames = w->lengths[place];
    size_t start = (size_t)place * w->longest * s->wide;
    Columns bent_columns = first_column(w->bent, s->wide);
    for (int i = 0; i < frames * s->wide; i += LANES)
        put(bent_columns, i, bent(load(w->outputs + start + i) + load(w->columns + start + i)));
    mirror(bent_columns, frames, s->wide, REACH, REACH, frames > REACH ? frames : REACH + 1);
    Target target = {.plain = w->vectors};
    multiply_signal(&e->last, columns_from(bent_columns, (ptrdiff_t)-REACH * s->wide), s->wide, frames, target);
    choose_codes(e, call, w, place);
}

/* -- a call ------------------------------------------------------------------------------------------------------- */

static int make_room(const Encoder *e, int rows, Work *w) {
    const Shape *s = &e->shape;
    size_t columns = (size_t)rows * w->longest, wide = s->wide, entries = e->nearest[0].outputs;
    size_t in_tile = (TILE_FRAMES + 2 * s->halo) * wide, in_row = w->longest * entries;
    w->inputs = columns_of((columns + SPARE) * wide);
    w->bent = columns_of((w->longest + 2 * MARGIN + SPARE) * wide);
    w->columns = floats(columns * wide);
    w->brought = floats(columns * GATES * wide);
    w->outputs = floats(columns * wide);
    w->gates = floats(rows * GATES * wide);
    w->hidden = floats(rows * wide);
    w->cell = floats(rows * wide);
    w->vectors = floats((size_t)w->longest * s->latent);
    w->scores = floats(in_tile > in_row ? in_tile : in_row);
    return present(w->inputs) && present(w->bent) && w->columns && w->brought && w->outputs && w->gates && w->hidden &&
           w->cell && w->vectors && w->scores;
}

static void leave_room(Work *w) {
    free_columns(w->inputs);
    free_columns(w->bent);
    void *rest[] = {w->columns, w->brought, w->outputs, w->gates, w->hidden, w->cell, w->vectors, w->scores};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        free(rest[i]);
}

/* Whether the kernel lets this process use what this library was compiled for. */
int codec_encoder_allowed(void) { return ask_for_tiles(); }

/* Compute a call; one at a time. Whether there was memory for it. */
int codec_encoder_run(Encoder *e, const Call *call) {
    Work work = {};
    for (int row = 0; row < call->rows; row++)
        put_in_order(row, frames_of(e, call->samples[row]), work.order, work.lengths);
    work.longest = work.lengths[0];
    int roomy = make_room(e, call->rows, &work);
    if (roomy) {
        take_tiles();
        for (int place = 0; place < call->rows; place++)
            pass_row(e, call, &work, place);
        for (int layer = 0; layer < e->shape.layers; layer++)
            pass_layer(e, call, layer, &work);
        for (int place = 0; place < call->rows; place++)
            encode_row(e, call, &work, place);
        give_tiles_back();
    }
    leave_room(&work);
    return roomy;
}

/* -- opening and closing ------------------------------------------------------------------------------------------ */

void codec_encoder_close(Encoder *e) {
    free_product(e->first);
    free_product(e->last);
    for (int i = 0; i < MOST_LEVELS; i++) {
        free_product(e->levels[i].inner);
        free_product(e->levels[i].outer);
        free_product(e->levels[i].down);
    }
    for (int i = 0; i < MOST_LAYERS; i++)
        free_recurrence(e->layers[i]);
    for (int i = 0; i < MOST_CODEBOOKS; i++)
        free(e->nearest[i].panels);
    free_columns(e->samples);
    free_columns(e->signal);
    free_columns(e->inside);
    free(e->plain);
    free(e);
}

static int complete(const Encoder *e) {
    for (int i = 0; i < e->shape.levels; i++) {
        const Level *l = e->levels + i;
        if (!whole_product(l->inner) || !whole_product(l->outer) || !whole_product(l->down))
            return 0;
    }
    for (int i = 0; i < e->shape.layers; i++)
        if (!whole_recurrence(e->layers[i]))
            return 0;
    for (int i = 0; i < e->shape.codebooks; i++)
        if (!e->nearest[i].panels)
            return 0;
    return whole_product(e->first) && whole_product(e->last) && present(e->samples) && present(e->signal) &&
           present(e->inside) && e->plain;
}

/* Numbers of the largest signal of a tile, with all that is read around it. */
static size_t widest_signal(const Shape *s, int hop) {
    size_t most = (size_t)(TILE_FRAMES + 2 * s->halo + SPARE) * s->wide;
    int length = (TILE_FRAMES + 2 * s->halo) * hop;
    for (int i = 0; i < s->levels; i++) {
        LevelShape l = s->level[i];
        int channels = l.channels > l.narrow ? l.channels : l.narrow;
        size_t here = (size_t)(length + 2 * MARGIN + SPARE * l.factor) * channels;
        most = here > most ? here : most;
        length /= l.factor;
    }
    return most;
}

/* `parts` are addresses: weights [inputs, outputs] and biases of the first convolution; of each level those of its
   block's two convolutions and of its down-sampling; of each LSTM layer weights and biases of its input, weights of its
   state; those of the last convolution; of each codebook weights and biases of its scores, and its entries. Biases and
   entries stay the caller's and must outlive the encoder. NULL where memory is short. */
Encoder *codec_encoder_open(const Shape *shape, const void *const *parts) {
    ask_for_tiles();
    Encoder *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->shape = *shape;
    e->first = product_of(parts[0], parts[1], 2 * REACH + 1, shape->level[0].channels);
    parts += 2;
    e->hop = 1;
    for (int i = 0; i < shape->levels; i++, parts += 6) {
        LevelShape l = shape->level[i];
        int next = i + 1 < shape->levels ? shape->level[i + 1].channels : shape->wide;
        e->levels[i] = (Level){
            .inner = product_of(parts[0], parts[1], 3 * l.channels, l.narrow),
            .outer = product_of(parts[2], parts[3], l.narrow, l.channels),
            .down = product_of(parts[4], parts[5], 2 * l.factor * l.channels, next),
            .shape = l,
        };
        e->hop *= l.factor;
    }
    for (int i = 0; i < shape->layers; i++, parts += 3)
        e->layers[i] = recurrence_of(parts[0], parts[1], parts[2], shape->wide);
    e->last = product_of(parts[0], parts[1], (2 * REACH + 1) * shape->wide, shape->latent);
    parts += 2;
    for (int i = 0; i < shape->codebooks; i++, parts += 3) {
        e->nearest[i] = panels_of(parts[0], parts[1], shape->latent, (shape->entries + LANES - 1) / LANES * LANES);
        e->tables[i] = parts[2];
    }
    size_t most = widest_signal(shape, e->hop);
    e->samples = columns_of((size_t)(TILE_FRAMES + 2 * shape->halo) * e->hop + 2 * MARGIN + SPARE + LANES);
    e->signal = columns_of(most);
    e->inside = columns_of(most);
    e->plain = floats(most);
    if (complete(e))
        return e;
    codec_encoder_close(e);
    return NULL;
}

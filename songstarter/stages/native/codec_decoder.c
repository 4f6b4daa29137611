/* The codec's decoder on a CPU: the numbers of the ONNX graph beside it (export/codec_decoder.py) in a third of its
   time, up to rounding.

   A call takes chunks of several rows, each from its own memory and of its own length. No sum depends on who shares
   the call or on how a song was cut, so a row's samples are the same alone, in a crowd and in any chunks.

       codes -- vectors -- convolution --+-- LSTM -- + -- kept and new columns     all rows together
                                         +-----------+
       columns -- ELU -- up -+- ELU -- convolution -- ELU -- convolution -- +      row by row, some frames at a time
                             +----------------------------------------------+      once for each level
               -- ELU -- last convolution -- samples

   An up-sampling is a product whose outputs are (phase, channel), which is the order of the longer signal. The last
   convolution makes LANES samples at a time, so that it fills a vector. One thread; a service runs several. Compiled
   once for each instruction set (compile.py); called by stages/native_codec_decoder.py. */

#include "lstm.h"
#include "sources.h"

enum {
    REACH = 3,       /* codes that the first convolution sees on either side */
    KEPT = 2,        /* columns that are carried on, of which the up-sampling half sees one on either side */
    TILE_FRAMES = 29, /* of the up-sampling half, with one more on either side: what it works on stays in the cache */
    MARGIN = 16,     /* columns around a signal: mirrored ones, and those that whole vectors reach into */
    SPARE = 64,      /* columns behind it that tiles read and nobody hears */
    STEPS = 64,             /* of an up-sampling, in a window */
    MOST_LEVELS = 8,
    MOST_LAYERS = 4,
    MOST_ROWS_OF_CALL = MOST_STATES,
};

typedef struct {
    int32_t factor, channels, narrow; /* of a level: how much longer it is, its channels, those inside its block */
} LevelShape;

typedef struct {
    int32_t codebooks, table_rows, latent, wide, layers, levels;
    LevelShape level[MOST_LEVELS];
} Shape;

typedef struct {
    Product up, inner, outer;
    LevelShape shape;
} Level;

typedef struct {
    int32_t rows, width;   /* at most MOST_ROWS_OF_CALL; frames of the widest row */
    const int64_t *codes;  /* [row, codebook, REACH + width + REACH] */
    const int64_t *frames; /* [row], from 1 to width */
    const int64_t *kept;   /* [row], up to KEPT */
    const float *memory;   /* [row, 2 * layers + KEPT, wide] */
    float *waveform;       /* [row, KEPT + width, hop] */
    float *next_memory;    /* as memory */
} Call;

typedef struct {
    Shape shape;
    const float *tables; /* [codebook, table row, latent] */
    Product first, last;
    Recurrence layers[MOST_LAYERS];
    Level levels[MOST_LEVELS];
    int hop;
    /* for one tile of the up-sampling half */
    Columns signal, longer;         /* between two levels, with MARGIN columns before */
    Columns inside, narrow;         /* of a window, for its block and within it */
    float *plain, *samples;         /* of a window, what goes past its block; of the last convolution */
} Codec;

/* Of an up-sampling's `all`: weights that the cache cannot keep are read once. */
static int steps_at_once(const LevelShape *l, int inputs, int all) {
    size_t bytes = 2 * (size_t)inputs * l->factor * l->channels * sizeof(float);
    return bytes > KEPT_BYTES || all < STEPS ? all : STEPS;
}

/* For one call: everything before the up-sampling half. Rows are in the order of their lengths, longest first. */
typedef struct {
    int order[MOST_ROWS_OF_CALL], lengths[MOST_ROWS_OF_CALL], longest;
    Columns vectors, inputs; /* [REACH + longest + REACH, latent] of a row; [row, longest, wide] */
    float *columns;          /* [row, longest, wide]: of the first convolution */
    float *brought;          /* [row, longest, GATES * wide] */
    float *outputs;          /* [row, longest, wide] */
    float *gates, *hidden, *cell;
} Work;

/* -- codes to columns ------------------------------------------------------------------------------------------- */

static int make_room(const Shape *s, int rows, Work *w) {
    size_t columns = (size_t)rows * w->longest, wide = s->wide;
    w->vectors = columns_of((size_t)(w->longest + 2 * REACH + SPARE) * s->latent);
    w->inputs = columns_of((columns + SPARE) * wide);
    w->columns = floats(columns * wide);
    w->brought = floats(columns * GATES * wide);
    w->outputs = floats(columns * wide);
    w->gates = floats(rows * GATES * wide);
    w->hidden = floats(rows * wide);
    w->cell = floats(rows * wide);
    return present(w->vectors) && present(w->inputs) && w->columns && w->brought && w->outputs && w->gates &&
           w->hidden && w->cell;
}

static void leave_room(Work *w) {
    free_columns(w->vectors);
    free_columns(w->inputs);
    void *rest[] = {w->columns, w->brought, w->outputs, w->gates, w->hidden, w->cell};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        free(rest[i]);
}

static void embed(const Codec *c, const Call *call, int row, int count, Columns to) {
    const Shape *s = &c->shape;
    int width = call->width + 2 * REACH;
    const int64_t *codes = call->codes + (size_t)row * s->codebooks * width;
    for (int moment = 0; moment < count; moment++)
        for (int i = 0; i < s->latent; i += LANES) {
            Vector sum = {};
            for (int book = 0; book < s->codebooks; book++) {
                int64_t code = codes[(size_t)book * width + moment];
                sum += load(c->tables + ((size_t)book * s->table_rows + code) * s->latent + i);
            }
            put(to, (ptrdiff_t)moment * s->latent + i, sum);
        }
}

static void convolve_first(const Codec *c, const Call *call, Work *w) {
    const Shape *s = &c->shape;
    for (int place = 0; place < call->rows; place++) {
        size_t start = (size_t)place * w->longest * s->wide;
        embed(c, call, w->order[place], w->lengths[place] + 2 * REACH, w->vectors);
        Target target = {.plain = w->columns + start, .columns = columns_from(w->inputs, start)};
        multiply_signal(&c->first, w->vectors, s->latent, w->lengths[place], target);
    }
}

/* Where a row's layer lies in its memory: its hidden state, and `layers` further on its cell. */
static size_t in_memory(const Shape *s, int row, int of_row) {
    return ((size_t)row * (2 * s->layers + KEPT) + of_row) * s->wide;
}

static void pass_layer(const Codec *c, const Call *call, int number, Work *w) {
    const Shape *s = &c->shape;
    const Recurrence *layer = c->layers + number;
    size_t state = s->wide * sizeof(float);
    for (int place = 0; place < call->rows; place++) {
        size_t start = (size_t)place * w->longest * s->wide;
        const float *memory = call->memory + in_memory(s, w->order[place], number);
        memcpy(w->hidden + (size_t)place * s->wide, memory, state);
        memcpy(w->cell + (size_t)place * s->wide, memory + (size_t)s->layers * s->wide, state);
        Target target = {.plain = w->brought + GATES * start};
        multiply_signal(&layer->of_input, columns_from(w->inputs, start), s->wide, w->lengths[place], target);
    }
    recur(layer, w->lengths, call->rows, s->wide, w->brought, w->hidden, w->cell, w->outputs, w->gates);
    for (int place = 0; place < call->rows; place++) {
        size_t start = (size_t)place * w->longest * s->wide;
        float *memory = call->next_memory + in_memory(s, w->order[place], number);
        memcpy(memory, w->hidden + (size_t)place * s->wide, state);
        memcpy(memory + (size_t)s->layers * s->wide, w->cell + (size_t)place * s->wide, state);
        for (int i = 0; i < w->lengths[place] * s->wide; i += LANES)
            put(w->inputs, start + i, load(w->outputs + start + i));
    }
}

/* -- columns to samples ----------------------------------------------------------------------------------------- */

/* Column 0 of a signal; those before it are its margin. */
static Columns first_column(Columns c, int channels) { return columns_from(c, (ptrdiff_t)MARGIN * channels); }

/* Before a signal that begins at `first` it goes on mirrored, and so behind its last column. */
static void mirror_before(Columns c, int first, int channels, int reach) {
    for (int i = 1; i <= reach; i++)
        copy_column(c, (ptrdiff_t)(first + i) * channels, (ptrdiff_t)(first - i) * channels, channels);
}

static void mirror_behind(Columns c, int last, int channels, int reach) {
    for (int i = 1; i <= reach; i++)
        copy_column(c, (ptrdiff_t)(last - i) * channels, (ptrdiff_t)(last + i) * channels, channels);
}

/* What products reach into beyond a signal has no weight, but must be a number. */
static void clear_behind(Columns c, int end, int channels) {
    clear_columns(c, (ptrdiff_t)end * channels, (size_t)MARGIN * channels);
}

/* A level's columns on their way through its block, a window at a time that stays in the cache:

       w   0 1 2 . . . . . . .        2 . . : columns that the up-sampling just made
           k k n n n n n n n n        k: the last two of the window before; at the start 0 is what lies mirrored
             b b b b b b b b .        b: what the block can make of them; the last waits for its neighbour

   `from` is the column at place 0, `done` the next that the block makes. */
typedef struct {
    int from, done;
} Window;

/* The block for columns from window->done to `ready` of the level; they go to c->longer. */
static void pass_block(Codec *c, const Level *l, Window *window, int ready) {
    int own = l->shape.channels, narrow = l->shape.narrow, count = ready - window->done;
    ptrdiff_t place = (ptrdiff_t)(window->done - window->from) * own;
    Target inner = {.columns = c->narrow, .bent = 1};
    multiply_signal(&l->inner, columns_from(c->inside, place - own), own, count, inner);
    clear_behind(c->narrow, count, narrow);
    Target outer = {
        .skip = c->plain + place,
        .skip_stride = own,
        .columns = columns_from(first_column(c->longer, own), (ptrdiff_t)window->done * own),
        .bent = 1,
    };
    multiply_signal(&l->outer, c->narrow, narrow, count, outer);
    window->done = ready;
}

/* A level: `count` columns of c->signal, of `channels`, to count * factor of its own; how many. */
static int pass_level(Codec *c, const Level *l, int count, int channels) {
    int own = l->shape.channels, factor = l->shape.factor, length = count * factor;
    int trimmed = factor - factor / 2; /* columns of the up-sampling that lie before the signal */
    Columns signal = first_column(c->signal, channels);
    clear_columns(signal, -channels, channels); /* an up-sampling sees the column before and the one at its place: */
    clear_behind(signal, count, channels);      /* silence on either side */
    int steps = steps_at_once(&l->shape, channels, count + 1);
    Window window = {.from = -trimmed - 2, .done = 0};
    for (int step = 0; step <= count; step += steps) {
        int here = count + 1 - step < steps ? count + 1 - step : steps, end = (step + here) * factor - trimmed;
        Target up = {.plain = c->plain + 2 * own, .columns = columns_from(c->inside, 2 * own), .bent = 1};
        multiply_signal(&l->up, columns_from(signal, (ptrdiff_t)(step - 1) * channels), channels, here, up);
        if (step == 0)
            mirror_before(c->inside, -window.from, own, 1);
        if (step + here > count) {
            mirror_behind(c->inside, length - 1 - window.from, own, 1);
            clear_behind(c->inside, length + 1 - window.from, own);
            pass_block(c, l, &window, length);
        } else {
            clear_behind(c->inside, end - window.from, own);
            pass_block(c, l, &window, end - 1);
            for (int kept = 0; kept < 2; kept++)
                copy_column(c->inside, (ptrdiff_t)(end - 2 + kept - window.from) * own, (ptrdiff_t)kept * own, own);
            memcpy(c->plain, c->plain + (ptrdiff_t)(end - 2 - window.from) * own, 2 * own * sizeof *c->plain);
            window.from = end - 2;
        }
    }
    Columns swapped = c->signal;
    c->signal = c->longer;
    c->longer = swapped;
    return length;
}

/* c->signal holds `count` frames' columns, bent by ELU: their samples go to c->samples. */
static void sound(Codec *c, int count) {
    int channels = c->shape.wide;
    for (int i = 0; i < c->shape.levels; i++) {
        count = pass_level(c, c->levels + i, count, channels);
        channels = c->levels[i].shape.channels;
    }
    Columns signal = first_column(c->signal, channels);
    mirror_before(signal, 0, channels, REACH);
    mirror_behind(signal, count - 1, channels, REACH);
    clear_behind(signal, count + REACH, channels);
    Target target = {.plain = c->samples};
    int vectors = (count + LANES - 1) / LANES;
    multiply_signal(&c->last, columns_from(signal, (ptrdiff_t)-REACH * channels), LANES * channels, vectors, target);
}

/* A column of a row: kept from before, or of this call behind its LSTM and the way around that. */
typedef struct {
    const float *kept, *outputs, *columns;
    int wide;
} Known;

static inline Vector known(const Known *k, int place, int i) {
    if (place < KEPT)
        return load(k->kept + place * k->wide + i);
    size_t here = (size_t)(place - KEPT) * k->wide + i;
    return load(k->outputs + here) + load(k->columns + here);
}

static void sound_row(Codec *c, const Call *call, const Work *w, int place) {
    const Shape *s = &c->shape;
    int row = w->order[place], length = w->lengths[place], kept = call->kept[row], heard = kept + length;
    size_t start = (size_t)place * w->longest * s->wide, memory = in_memory(s, row, 2 * s->layers);
    Known of_row = {call->memory + memory, w->outputs + start, w->columns + start, s->wide};
    float *waveform = call->waveform + (size_t)row * (KEPT + call->width) * c->hop;
    for (int from = 0; from < heard; from += TILE_FRAMES) {
        int to = from + TILE_FRAMES < heard ? from + TILE_FRAMES : heard;
        int first = from ? from - 1 : 0, last = to < heard ? to + 1 : heard;
        Columns signal = first_column(c->signal, s->wide);
        for (int column = first; column < last; column++)
            for (int i = 0; i < s->wide; i += LANES)
                put(signal, (ptrdiff_t)(column - first) * s->wide + i, bent(known(&of_row, KEPT - kept + column, i)));
        sound(c, last - first);
        memcpy(waveform + (size_t)from * c->hop, c->samples + (size_t)(from - first) * c->hop,
               (size_t)(to - from) * c->hop * sizeof *waveform);
    }
    memset(waveform + (size_t)heard * c->hop, 0, (size_t)(KEPT + call->width - heard) * c->hop * sizeof *waveform);
    for (int column = 0; column < KEPT; column++)
        for (int i = 0; i < s->wide; i += LANES)
            store(call->next_memory + memory + (size_t)column * s->wide + i, known(&of_row, length + column, i));
}

/* Whether the kernel lets this process use what this library was compiled for. */
int codec_decoder_allowed(void) { return ask_for_tiles(); }

/* Compute a call; one at a time. Whether there was memory for it. */
int codec_decoder_run(Codec *c, const Call *call) {
    Work work = {};
    for (int row = 0; row < call->rows; row++)
        put_in_order(row, call->frames[row], work.order, work.lengths);
    work.longest = work.lengths[0];
    int roomy = make_room(&c->shape, call->rows, &work);
    if (roomy) {
        take_tiles();
        convolve_first(c, call, &work);
        for (int layer = 0; layer < c->shape.layers; layer++)
            pass_layer(c, call, layer, &work);
        for (int place = 0; place < call->rows; place++)
            sound_row(c, call, &work, place);
        give_tiles_back();
    }
    leave_room(&work);
    return roomy;
}

/* -- opening and closing ------------------------------------------------------------------------------------- */

void codec_decoder_close(Codec *c) {
    free_product(c->first);
    free_product(c->last);
    for (int i = 0; i < MOST_LAYERS; i++)
        free_recurrence(c->layers[i]);
    for (int i = 0; i < MOST_LEVELS; i++) {
        free_product(c->levels[i].up);
        free_product(c->levels[i].inner);
        free_product(c->levels[i].outer);
    }
    free_columns(c->signal);
    free_columns(c->longer);
    free_columns(c->inside);
    free_columns(c->narrow);
    free(c->plain);
    free(c->samples);
    free(c);
}

static int complete(const Codec *c) {
    for (int i = 0; i < c->shape.layers; i++)
        if (!whole_recurrence(c->layers[i]))
            return 0;
    for (int i = 0; i < c->shape.levels; i++) {
        const Level *l = c->levels + i;
        if (!whole_product(l->up) || !whole_product(l->inner) || !whole_product(l->outer))
            return 0;
    }
    return whole_product(c->first) && whole_product(c->last) && present(c->signal) && present(c->longer) &&
           present(c->inside) && present(c->narrow) && c->plain && c->samples;
}

/* Numbers of the largest signal between levels and of the largest window, with all that is read around them. */
static void measure(const Shape *s, size_t *signal, size_t *window) {
    int length = TILE_FRAMES + 2, inputs = s->wide;
    *signal = (size_t)(length + 2 * MARGIN + SPARE) * inputs;
    *window = 0;
    for (int i = 0; i < s->levels; i++) {
        LevelShape l = s->level[i];
        int steps = steps_at_once(&l, inputs, length + 1), widest = l.channels > l.narrow ? l.channels : l.narrow;
        size_t in_window = (size_t)(2 + steps * l.factor + 2 * MARGIN + SPARE) * widest;
        length *= l.factor, inputs = l.channels;
        size_t in_signal = (size_t)(length + 2 * MARGIN + SPARE * LANES) * inputs;
        *signal = in_signal > *signal ? in_signal : *signal;
        *window = in_window > *window ? in_window : *window;
    }
}

/* `parts` are addresses: the tables; weights [inputs, outputs] and biases of the first convolution; of each LSTM
   layer weights and biases of its input, weights of its state; of each level those of its up-sampling, of its block's
   two convolutions; those of the last. Tables and biases stay the caller's and must outlive the codec. NULL where
   memory is short. */
Codec *codec_decoder_open(const Shape *shape, const void *const *parts) {
    ask_for_tiles();
    Codec *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    int wide = shape->wide, channels = wide;
    c->shape = *shape;
    c->tables = *parts++;
    c->first = product_of(parts[0], parts[1], (2 * REACH + 1) * shape->latent, wide);
    parts += 2;
    for (int i = 0; i < shape->layers; i++, parts += 3)
        c->layers[i] = recurrence_of(parts[0], parts[1], parts[2], wide);
    c->hop = 1;
    for (int i = 0; i < shape->levels; i++, parts += 6) {
        LevelShape l = shape->level[i];
        c->levels[i] = (Level){
            .up = product_of(parts[0], parts[1], 2 * channels, l.factor * l.channels),
            .inner = product_of(parts[2], parts[3], 3 * l.channels, l.narrow),
            .outer = product_of(parts[4], parts[5], l.narrow, l.channels),
            .shape = l,
        };
        channels = l.channels;
        c->hop *= l.factor;
    }
    c->last = product_of(parts[0], parts[1], (LANES + 2 * REACH) * channels, LANES);
    size_t signal, window;
    measure(shape, &signal, &window);
    c->signal = columns_of(signal);
    c->longer = columns_of(signal);
    c->inside = columns_of(window);
    c->narrow = columns_of(window);
    c->plain = floats(window);
    c->samples = floats((size_t)(TILE_FRAMES + 2) * c->hop + LANES);
    if (complete(c))
        return c;
    codec_decoder_close(c);
    return NULL;
}

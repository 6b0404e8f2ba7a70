/* What is known of a view before its first pixel: coefficients, weights, and where they lie in memory.
 *
 * From a row of `params` (slip.data.view_params.PARAMS_COLUMNS) to `struct crop` and `struct colours`, which the
 * loops over pixels read.
 */

enum {
    ROWS = 32,    /* rows of the picture resized side by side; a multiple of VECTOR */
    COLUMNS = 32, /* columns of the view for which they are turned at a time: that much stays in the first cache */
    MAX_TAPS = 12,
    CHUNK = 256, /* pixels whose colours are wide at a time */
    BLUR_ROWS = 8,
    BLUR_COLUMNS = 32,
    MAX_RADIUS = 100, /* what a box's products lose stays below half a byte */
};

enum operation { BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY };

enum column { LEFT, TOP, RIGHT, BOTTOM, FACTORS, ORDER = 8, IS_GREY = 12, RADIUS, FLIP, NUM_PARAMS };

struct picture {
    const uint8_t *pixels;
    int width, height;
};

/* One direction of a resize: output i is the sum over k < taps of coefficients[i * taps + k] * pixel[starts[i] + k].
 * Pixels outside [low, high) are not used. */
struct axis {
    double begin, scale;
    int low, high, taps;
    int *starts;
    uint16_t *coefficients; /* 65536 for 1 */
    double *weights;
};

struct crop {
    struct axis across, down;
    int size, padded_size, ring_rows;
    uint16_t *turned, *ring;
    uint8_t *tile;
    const uint16_t **rows;
};

/* A number from 0 to 2: whole / 128 + part / 2^23. */
struct factor {
    uint16_t whole, part;
};

/* value x factor + origin x rest or, where the factor is beyond 1, minus. */
struct blend {
    int beyond;
    struct factor factor, rest;
};

/* A box that covers `reach` whole pixels on either side and a part of the next; 65536 for 1. */
struct blur {
    int reach;
    uint16_t centre, pair, edge, bias;
    uint16_t *from, *to;
};

struct colours {
    int num_operations, operations[5], blurs;
    struct blend blends[3];
    uint16_t hue_shift;
    struct blur blur;
};

/* The pixels that one output needs, Pillow's rule: those within the triangle around its centre. */
static void axis_window(const struct axis *axis, int i, double *centre, int *first, int *last)
{
    const double support = axis->scale > 1.0 ? axis->scale : 1.0;
    *centre = axis->begin + (i + 0.5) * axis->scale;
    *first = (int)(*centre - support + 0.5);
    *last = (int)(*centre + support + 0.5);
    *first = *first > axis->low ? *first : axis->low;
    *last = *last < axis->high ? *last : axis->high;
}

/* All but the arrays, whose size it tells. */
static void measure_axis(struct axis *axis, double begin, double end, int pixels, int size)
{
    const int whole = (int)end, high = whole < end ? whole + 1 : whole;
    axis->begin = begin;
    axis->scale = (end - begin) / size;
    axis->low = (int)begin;
    axis->high = high < pixels ? high : pixels;
    axis->taps = 1;
    for (int i = 0; i < size; i++) {
        double centre;
        int first, last;
        axis_window(axis, i, &centre, &first, &last);
        axis->taps = last - first > axis->taps ? last - first : axis->taps;
    }
}

/* Every output gets the same number of taps, so that loops over them have no surprises; some weigh nothing. */
static void fill_axis(struct axis *axis, int size, int mirrored)
{
    const double sharpness = axis->scale > 1.0 ? 1.0 / axis->scale : 1.0;
    const int taps = axis->taps;
    for (int i = 0; i < size; i++) {
        uint16_t *coefficients = axis->coefficients + (size_t)i * taps;
        double centre, total = 0.0, sum = 0.5;
        int first, last, before = 0;
        axis_window(axis, mirrored ? size - 1 - i : i, &centre, &first, &last);
        const int start = first < axis->high - taps ? first : axis->high - taps;
        const double offset = start + 0.5 - centre;
        axis->starts[i] = start;
        for (int k = 0; k < taps; k++) {
            const double distance = (offset + k) * sharpness;
            const double weight = distance < 0.0 ? 1.0 + distance : 1.0 - distance;
            axis->weights[k] = weight > 0.0 ? weight : 0.0;
            total += axis->weights[k];
        }
        const double norm = 65536.0 / total;
        for (int k = 0; k < taps; k++) {
            /* Differences of the rounded sums add up to exactly 1. */
            sum += axis->weights[k] * norm;
            const int rounded = (int)sum, coefficient = rounded - before;
            coefficients[k] = (uint16_t)(coefficient < 65535 ? coefficient : 65535);
            before = rounded;
        }
    }
}

/* The pixels that outputs [begin, end) need. */
static void axis_span(const struct axis *axis, int begin, int end, int *first, int *last)
{
    const int a = axis->starts[begin], b = axis->starts[end - 1];
    *first = a < b ? a : b;
    *last = (a < b ? b : a) + axis->taps;
}

static struct factor split_factor(uint32_t fixed)
{
    return (struct factor){(uint16_t)(fixed >> 16), (uint16_t)(fixed & 0xffff)};
}

static struct blend plan_blend(float factor)
{
    const uint32_t one = 1 << 23, fixed = (uint32_t)(factor * (double)one + 0.5);
    const int beyond = fixed > one;
    return (struct blend){beyond, split_factor(fixed), split_factor(beyond ? fixed - one : one - fixed)};
}

/* Pillow's Gaussian blur is three boxes of fractional width (Gwosdek et al., SSVM 2011). */
static void plan_blur(struct blur *blur, double radius)
{
    const double variance = radius * radius / 3.0;
    const int reach = (int)((sqrt(12.0 * variance + 1.0) - 1.0) / 2.0);
    const double part = (2.0 * reach + 1.0) * (reach * (reach + 1.0) - 3.0 * variance) /
                        (6.0 * (variance - (reach + 1.0) * (reach + 1.0)));
    const double weight = 65536.0 / (2.0 * (reach + part) + 1.0);
    blur->reach = reach;
    blur->pair = (uint16_t)(reach > 0 ? weight + 0.5 : 0.0);
    blur->edge = (uint16_t)(part * weight + 0.5);
    const int centre = 65536 - 2 * (blur->edge + reach * blur->pair);
    blur->centre = (uint16_t)(centre < 65535 ? centre : 65535);
    /* Half a byte, to round, and half a unit that each product loses on average. */
    blur->bias = (uint16_t)(64 + (reach + 2) / 2);
}

static void plan_colours(struct colours *colours, const float *row)
{
    for (int i = 0; i < 4; i++)
        if (row[ORDER + i] >= 0)
            colours->operations[colours->num_operations++] = (int)row[ORDER + i];
    for (int i = 0; i < 3; i++)
        colours->blends[i] = plan_blend(row[FACTORS + i]);
    colours->hue_shift = (uint16_t)((int)(row[FACTORS + HUE] * 255.0) & 255);
    if (row[IS_GREY] != 0)
        colours->operations[colours->num_operations++] = GREY;
    colours->blurs = row[RADIUS] > 0;
    if (colours->blurs)
        plan_blur(&colours->blur, row[RADIUS]);
}

/* A piece of `memory`, which is NULL while sizes are only added up. */
static void *take(char *memory, size_t *used, size_t bytes)
{
    void *piece = memory == NULL ? NULL : memory + *used;
    *used += (bytes + 63) / 64 * 64;
    return piece;
}

/* Give a measured crop and its colours their arrays; returns the bytes taken. */
static size_t lay_out(struct crop *crop, struct colours *colours, char *memory)
{
    size_t used = 0;
    const size_t size = (size_t)crop->size;
    struct axis *axes[] = {&crop->across, &crop->down};
    size_t most_taps = 0;
    for (int i = 0; i < 2; i++) {
        const size_t taps = (size_t)axes[i]->taps;
        axes[i]->starts = take(memory, &used, sizeof(int) * size);
        axes[i]->coefficients = take(memory, &used, sizeof(uint16_t) * taps * size);
        axes[i]->weights = take(memory, &used, sizeof(double) * taps);
        most_taps = taps > most_taps ? taps : most_taps;
    }
    crop->padded_size = (crop->size + COLUMNS - 1) / COLUMNS * COLUMNS;
    /* Rows come a block at a time; a block must not overwrite what the next output needs. */
    crop->ring_rows = (crop->down.taps + ROWS - 1) / ROWS * ROWS + ROWS;
    const size_t columns = (size_t)(COLUMNS * crop->across.scale) + 2 + (size_t)crop->across.taps;
    crop->turned = take(memory, &used, sizeof(uint16_t) * columns * 3 * ROWS);
    crop->tile = take(memory, &used, (size_t)COLUMNS * 3 * ROWS);
    crop->ring = take(memory, &used, sizeof(uint16_t) * (size_t)crop->ring_rows * 3 * (size_t)crop->padded_size);
    crop->rows = take(memory, &used, sizeof(uint16_t *) * most_taps);
    if (colours->blurs) {
        const size_t line = size + 2 * ((size_t)colours->blur.reach + 1);
        const size_t lines = BLUR_ROWS > BLUR_COLUMNS ? BLUR_ROWS : BLUR_COLUMNS;
        colours->blur.from = take(memory, &used, sizeof(uint16_t) * line * lines);
        colours->blur.to = take(memory, &used, sizeof(uint16_t) * line * lines);
    }
    return used;
}

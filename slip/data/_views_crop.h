/* The crop of a picture, resized to a square: included once per instruction set by _views.c.
 *
 * As in Pillow (until 13, which begins with the columns of tall boxes), rows are resized first, rounded to bytes, then
 * columns. Both directions are one loop over lanes (`weigh`). For the rows, ROWS of them are turned on their side, so
 * that a coefficient meets ROWS x 3 contiguous numbers; what comes out is turned back into a ring of rows, which holds
 * just what the columns still need.
 *
 * Pixels are value x 256 in 16 bits, coefficients are x 65536: the upper half of a product is one instruction, and
 * its error, less than 1/256 a tap, is centred by the bias.
 */

#ifdef HAS_SHUFFLE
typedef uint8_t NAME(bytes) __attribute__((vector_size(VECTOR)));
typedef uint8_t NAME(unaligned) __attribute__((vector_size(VECTOR), aligned(1), may_alias));

/* The lower or the upper halves of two vectors interleaved, within each 16 bytes: one instruction on x86 and ARM. */
#if VECTOR == 32
#define LOW(a, b)                                                                                                      \
    SHUFFLE(a, b, 0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21,  \
            53, 22, 54, 23, 55)
#define HIGH(a, b)                                                                                                     \
    SHUFFLE(a, b, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47, 24, 56, 25, 57, 26, 58, 27, 59, 28,    \
            60, 29, 61, 30, 62, 31, 63)
#else
#define LOW(a, b) SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(a, b) SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#endif

/* Turn 8 rows of VECTOR bytes into VECTOR columns of 8 numbers, each 256 times its byte. */
INLINE void NAME(turn)(const uint8_t *const rows[8], size_t offset, uint16_t *columns, size_t pitch)
{
    NAME(bytes) v[8], w[8];
    const NAME(bytes) zero = {0};
    UNROLL
    for (int i = 0; i < 8; i++)
        v[i] = *(const NAME(unaligned) *)(rows[i] + offset);
    /* Each round rotates the bits of a byte's address (row, column) by one; after three, the rows are innermost. */
#define ROUND(to, from)                                                                                                \
    UNROLL                                                                                                             \
    for (int i = 0; i < 4; i++) {                                                                                      \
        to[2 * i] = LOW(from[i], from[i + 4]);                                                                         \
        to[2 * i + 1] = HIGH(from[i], from[i + 4]);                                                                    \
    }
    ROUND(w, v)
    ROUND(v, w)
    ROUND(w, v)
#undef ROUND
    UNROLL
    for (int i = 0; i < 8; i++) {
        const NAME(bytes) even = LOW(zero, w[i]), odd = HIGH(zero, w[i]);
        memcpy(columns + 2 * i * pitch, &even, 16);
        memcpy(columns + (2 * i + 1) * pitch, &odd, 16);
#if VECTOR == 32
        memcpy(columns + (2 * i + 16) * pitch, (const uint8_t *)&even + 16, 16);
        memcpy(columns + (2 * i + 17) * pitch, (const uint8_t *)&odd + 16, 16);
#endif
    }
}
#undef LOW
#undef HIGH
#else
INLINE void NAME(turn)(const uint8_t *const rows[8], size_t offset, uint16_t *columns, size_t pitch)
{
    for (int column = 0; column < VECTOR; column++)
        for (int i = 0; i < 8; i++)
            columns[column * pitch + i] = (uint16_t)(rows[i][offset + column] << 8);
}
#endif

/* Bytes [begin, end) of ROWS rows, as a column of ROWS numbers for each byte. Reads nothing beside them. */
static void NAME(turn_rows)(const uint8_t *const *rows, size_t begin, size_t end, uint16_t *turned)
{
    if (end - begin < VECTOR) {
        for (size_t at = begin; at < end; at++)
            for (int row = 0; row < ROWS; row++)
                turned[(at - begin) * ROWS + row] = (uint16_t)(rows[row][at] << 8);
        return;
    }
    for (size_t at = begin; at < end; at += VECTOR) {
        if (at > end - VECTOR)
            at = end - VECTOR; /* the last step does some columns again */
        for (int row = 0; row < ROWS; row++)
            PREFETCH(rows[row], at + 128); /* this many rows are too many for the processor's own guess */
        for (int row = 0; row < ROWS; row += 8)
            NAME(turn)(rows + row, at, turned + (at - begin) * ROWS + row, ROWS);
    }
}

/* out[i] = the weighted sum of rows[k][i], as a byte. `taps` is a constant at every call: sums stay in registers. */
INLINE void NAME(weigh)(
    const int taps, const uint16_t *const *rows, size_t offset, const uint16_t *coefficients, uint8_t *restrict out,
    int length)
{
    const uint16_t *row[MAX_TAPS];
    uint16_t coefficient[MAX_TAPS];
    for (int k = 0; k < taps; k++) {
        row[k] = rows[k] + offset;
        coefficient[k] = coefficients[k];
    }
    const uint16_t bias = (uint16_t)(128 + taps / 2);
    for (int i = 0; i < length; i++) {
        uint16_t sum = bias;
        UNROLL
        for (int k = 0; k < taps; k++)
            sum = (uint16_t)(sum + UPPER(row[k][i], coefficient[k]));
        out[i] = (uint8_t)(sum >> 8);
    }
}

/* The same for any number of taps. Its sums are exact: the errors of very many taps would add up. */
static void NAME(weigh_many)(
    int taps, const uint16_t *const *rows, size_t offset, const uint16_t *coefficients, uint8_t *restrict out,
    int length)
{
    enum { LANES = 32 };
    for (int i = 0; i < length; i += LANES) {
        const int lanes = length - i < LANES ? length - i : LANES;
        uint32_t sums[LANES];
        for (int j = 0; j < lanes; j++)
            sums[j] = 0x8000;
        for (int k = 0; k < taps; k++) {
            const uint16_t *row = rows[k] + offset + i;
            for (int j = 0; j < lanes; j++)
                sums[j] += (uint32_t)(row[j] >> 8) * coefficients[k];
        }
        for (int j = 0; j < lanes; j++)
            out[i + j] = (uint8_t)(sums[j] >> 16);
    }
}

/* A case for every number of taps up to MAX_TAPS. */
#define EVERY_TAPS(CASE)                                                                                               \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)

/* Outputs [begin, end) of ROWS rows into the tile (end - begin, 3, ROWS); `first` is the first pixel turned. */
static void NAME(resize_rows)(const struct crop *crop, int begin, int end, int first)
{
    const struct axis *axis = &crop->across;
    const size_t pitch = 3 * ROWS;
    const uint16_t **rows = crop->rows;
#define RESIZE(weigh, taps)                                                                                            \
    for (int x = begin; x < end; x++) {                                                                                \
        for (int k = 0; k < (taps); k++)                                                                               \
            rows[k] = crop->turned + (size_t)(axis->starts[x] - first + k) * pitch;                                    \
        weigh(taps, rows, 0, axis->coefficients + (size_t)x * (taps), crop->tile + (size_t)(x - begin) * pitch,        \
              (int)pitch);                                                                                             \
    }
#define CASE(taps)                                                                                                     \
    case taps:                                                                                                         \
        RESIZE(NAME(weigh), taps)                                                                                      \
        break;
    switch (axis->taps) {
        EVERY_TAPS(CASE)
    default:
        RESIZE(NAME(weigh_many), axis->taps)
    }
#undef CASE
#undef RESIZE
}

/* Row y of the view, in each of its three planes. */
static void NAME(resize_columns)(const struct crop *crop, int y, uint8_t *out)
{
    const struct axis *axis = &crop->down;
    const size_t size = (size_t)crop->size, pitch = (size_t)crop->padded_size;
    const uint16_t *coefficients = axis->coefficients + (size_t)y * axis->taps, **rows = crop->rows;
    for (int k = 0; k < axis->taps; k++) {
        const int row = axis->starts[y] + k - axis->low;
        rows[k] = crop->ring + (size_t)(row % crop->ring_rows) * 3 * pitch;
    }
    out += (size_t)y * size;
#define RESIZE(weigh, taps)                                                                                            \
    for (size_t c = 0; c < 3; c++)                                                                                     \
        weigh(taps, rows, c * pitch, coefficients, out + c * size * size, (int)size);
#define CASE(taps)                                                                                                     \
    case taps:                                                                                                         \
        RESIZE(NAME(weigh), taps)                                                                                      \
        break;
    switch (axis->taps) {
        EVERY_TAPS(CASE)
    default:
        RESIZE(NAME(weigh_many), axis->taps)
    }
#undef CASE
#undef RESIZE
}
#undef EVERY_TAPS

/* Outputs [begin, end) of the ROWS rows in the tile to a block of the ring. */
static void NAME(turn_back)(const struct crop *crop, int begin, int end, uint16_t *block)
{
    const size_t pitch = (size_t)crop->padded_size;
    for (size_t c = 0; c < 3; c++)
        for (int x = 0; x < end - begin; x += 8) {
            const uint8_t *columns[8];
            for (int i = 0; i < 8; i++)
                columns[i] = crop->tile + ((size_t)(x + i) * 3 + c) * ROWS;
            for (size_t row = 0; row < ROWS; row += VECTOR)
                NAME(turn)(columns, row, block + (row * 3 + c) * pitch + (size_t)(begin + x), 3 * pitch);
        }
}

static void NAME(make_crop)(const struct picture *picture, const struct crop *crop, uint8_t *out)
{
    const struct axis *across = &crop->across, *down = &crop->down;
    int y = 0;
    for (int top = down->low; top < down->high; top += ROWS) {
        const int ready = top + ROWS < down->high ? top + ROWS : down->high;
        const uint8_t *rows[ROWS];
        for (int i = 0; i < ROWS; i++) /* the last block repeats its last row */
            rows[i] = picture->pixels + (size_t)(top + i < ready ? top + i : ready - 1) * (size_t)picture->width * 3;
        uint16_t *block = crop->ring + (size_t)((top - down->low) % crop->ring_rows) * 3 * (size_t)crop->padded_size;
        for (int x = 0; x < crop->size; x += COLUMNS) {
            const int end = x + COLUMNS < crop->size ? x + COLUMNS : crop->size;
            int first, last;
            axis_span(across, x, end, &first, &last);
            NAME(turn_rows)(rows, 3 * (size_t)first, 3 * (size_t)last, crop->turned);
            NAME(resize_rows)(crop, x, end, first);
            NAME(turn_back)(crop, x, end, block);
        }
        for (; y < crop->size && down->starts[y] + down->taps <= ready; y++)
            NAME(resize_columns)(crop, y, out);
    }
}

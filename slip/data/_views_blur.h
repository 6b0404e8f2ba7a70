/* Gaussian blur of a plane, in place: included once per instruction set by _views.c.
 *
 * Three boxes along the rows, then three along the columns, each with its ends repeated and rounded to bytes, as in
 * Pillow. Bytes are held with 7 bits behind the point, so that two still add up in 16 bits.
 * Rows and columns are treated alike: as runs of numbers whose neighbours are a step apart.
 */

/* One box over a run of numbers; beside it must lie as many more as it reaches. */
static void NAME(box_pass)(
    const struct blur *blur, const uint16_t *restrict in, uint16_t *restrict out, ptrdiff_t count, ptrdiff_t step)
{
    const uint16_t centre = blur->centre, pair = blur->pair, edge = blur->edge, bias = blur->bias;
#define BOTH(distance) (uint16_t)(in[i - (distance)] + in[i + (distance)])
#define ROUNDED(sum) (uint16_t)((uint16_t)((sum) + bias) & 0xff80)
    if (blur->reach == 0) {
        for (ptrdiff_t i = 0; i < count; i++)
            out[i] = ROUNDED(UPPER(in[i], centre) + UPPER(BOTH(step), edge));
        return;
    }
    const ptrdiff_t far = (blur->reach + 1) * step;
    if (blur->reach == 1) {
        for (ptrdiff_t i = 0; i < count; i++)
            out[i] = ROUNDED(UPPER(in[i], centre) + UPPER(BOTH(step), pair) + UPPER(BOTH(far), edge));
        return;
    }
    for (ptrdiff_t i = 0; i < count; i++)
        out[i] = (uint16_t)(UPPER(in[i], centre) + UPPER(BOTH(far), edge));
    for (ptrdiff_t distance = step; distance < far; distance += step)
        for (ptrdiff_t i = 0; i < count; i++)
            out[i] = (uint16_t)(out[i] + UPPER(BOTH(distance), pair));
    for (ptrdiff_t i = 0; i < count; i++)
        out[i] = ROUNDED(out[i]);
#undef ROUNDED
#undef BOTH
}

/* Three boxes along lines that lie in `blur->from`, each of `size` x `step` numbers with room for its repeated ends
 * before and behind; returns the first line's first number. */
static const uint16_t *NAME(three_boxes)(const struct blur *blur, int lines, int size, int step)
{
    const ptrdiff_t margin = (ptrdiff_t)(blur->reach + 1) * step, pitch = (ptrdiff_t)size * step + 2 * margin;
    uint16_t *from = blur->from, *to = blur->to;
    for (int pass = 0; pass < 3; pass++) {
        for (int line = 0; line < lines; line++) {
            uint16_t *start = from + line * pitch + margin, *last = start + (ptrdiff_t)(size - 1) * step;
            for (ptrdiff_t i = step; i <= margin; i += step) {
                memcpy(start - i, start, step * sizeof *start);
                memcpy(last + i, last, step * sizeof *last);
            }
        }
        NAME(box_pass)(blur, from + margin, to + margin, lines * pitch - 2 * margin, step);
        uint16_t *other = from;
        from = to;
        to = other;
    }
    return from + margin;
}

INLINE void NAME(widen)(const uint8_t *restrict from, uint16_t *restrict to, int length)
{
    for (int i = 0; i < length; i++)
        to[i] = (uint16_t)(from[i] << 7);
}

INLINE void NAME(narrow)(const uint16_t *restrict from, uint8_t *restrict to, int length)
{
    for (int i = 0; i < length; i++)
        to[i] = (uint8_t)(from[i] >> 7);
}

/* The first `columns` columns of a plane. */
INLINE void NAME(blur_columns)(const struct blur *blur, uint8_t *plane, int size, int columns)
{
    uint16_t *start = blur->from + (blur->reach + 1) * BLUR_COLUMNS;
    for (int y = 0; y < size; y++)
        NAME(widen)(plane + (size_t)y * size, start + y * BLUR_COLUMNS, columns);
    const uint16_t *blurred = NAME(three_boxes)(blur, 1, size, BLUR_COLUMNS);
    for (int y = 0; y < size; y++)
        NAME(narrow)(blurred + y * BLUR_COLUMNS, plane + (size_t)y * size, columns);
}

static void NAME(blur_plane)(const struct blur *blur, uint8_t *plane, int size)
{
    const int margin = blur->reach + 1, pitch = size + 2 * margin;
    for (int y = 0; y < size; y += BLUR_ROWS) {
        uint8_t *rows = plane + (size_t)y * size;
        const int lines = size - y < BLUR_ROWS ? size - y : BLUR_ROWS;
        for (int line = 0; line < lines; line++)
            NAME(widen)(rows + line * size, blur->from + line * pitch + margin, size);
        const uint16_t *blurred = NAME(three_boxes)(blur, lines, size, 1);
        for (int line = 0; line < lines; line++)
            NAME(narrow)(blurred + line * pitch, rows + line * size, size);
    }
    int x = 0;
    for (; x + BLUR_COLUMNS <= size; x += BLUR_COLUMNS)
        NAME(blur_columns)(blur, plane + x, size, BLUR_COLUMNS);
    if (x < size)
        NAME(blur_columns)(blur, plane + x, size, size - x);
}

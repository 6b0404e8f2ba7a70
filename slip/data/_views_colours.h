/* Jitter and grey of a view, in place on its three planes: included once per instruction set by _views.c.
 *
 * Pillow's formulas in 16-bit integers that hold a byte with 7 bits behind the point, so a result may be one off. Only
 * the divisions of the hue are in float, rounded like Pillow's: a hue that is one off changes a colour by up to 6.
 * Chunks of pixels stay wide from the first operation to the last.
 */

typedef uint16_t NAME(chunk)[CHUNK];

/* Pillow's L, (19595 R + 38470 G + 7471 B + 32768) >> 16. The weights add up to 65536, so it is G and shares of R - G
 * and B - G; the lower halves lose two bits so that their sum fits. */
INLINE uint16_t NAME(luminance)(uint16_t r, uint16_t g, uint16_t b)
{
    const int16_t red = (int16_t)(r - g), blue = (int16_t)(b - g);
    const uint16_t low_red = (uint16_t)(red * 19595), low_blue = (uint16_t)(blue * 7471);
    const uint16_t low = (uint16_t)((low_red >> 2) + (low_blue >> 2) + 8192);
    return (uint16_t)(g + UPPER_SIGNED(red, 19595) + UPPER_SIGNED(blue, 7471) + (low >> 14));
}

/* 128 x the byte x the factor, rounded down. */
INLINE uint16_t NAME(times)(uint16_t byte, struct factor factor)
{
    return (uint16_t)(byte * factor.whole + UPPER(byte, factor.part));
}

/* The byte between `origin` and `value`, or beyond `value`; both are already multiplied. */
INLINE uint16_t NAME(blend)(int beyond, uint16_t value, uint16_t origin)
{
    if (!beyond) /* the 1 is what the roundings of both can have lost together where the sum is whole */
        return (uint16_t)((uint16_t)(value + origin + 1) >> 7);
    const uint16_t positive = value > origin ? value : origin;
    const uint16_t blended = (uint16_t)((uint16_t)(positive - origin) >> 7);
    return blended < 255 ? blended : 255;
}

INLINE void NAME(blend_constant)(int beyond, NAME(chunk) * rgb, const struct factor factor, uint16_t origin)
{
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < CHUNK; i++)
            rgb[c][i] = NAME(blend)(beyond, NAME(times)(rgb[c][i], factor), origin);
}

INLINE void NAME(blend_grey)(int beyond, NAME(chunk) * rgb, const struct factor factor, const struct factor rest)
{
    for (int i = 0; i < CHUNK; i++) {
        const uint16_t r = rgb[0][i], g = rgb[1][i], b = rgb[2][i];
        const uint16_t grey = NAME(times)(NAME(luminance)(r, g, b), rest);
        rgb[0][i] = NAME(blend)(beyond, NAME(times)(r, factor), grey);
        rgb[1][i] = NAME(blend)(beyond, NAME(times)(g, factor), grey);
        rgb[2][i] = NAME(blend)(beyond, NAME(times)(b, factor), grey);
    }
}

static void NAME(brighten)(NAME(chunk) * rgb, const struct blend *blend)
{
    NAME(blend_constant)(1, rgb, blend->factor, 0);
}

static void NAME(contrast)(NAME(chunk) * rgb, const struct blend *blend, uint16_t mean)
{
    const uint16_t origin = NAME(times)(mean, blend->rest);
    if (blend->beyond)
        NAME(blend_constant)(1, rgb, blend->factor, origin);
    else
        NAME(blend_constant)(0, rgb, blend->factor, origin);
}

static void NAME(saturate)(NAME(chunk) * rgb, const struct blend *blend)
{
    if (blend->beyond)
        NAME(blend_grey)(1, rgb, blend->factor, blend->rest);
    else
        NAME(blend_grey)(0, rgb, blend->factor, blend->rest);
}

static void NAME(turn_grey)(NAME(chunk) * rgb)
{
    for (int i = 0; i < CHUNK; i++)
        rgb[0][i] = rgb[1][i] = rgb[2][i] = NAME(luminance)(rgb[0][i], rgb[1][i], rgb[2][i]);
}

/* One colour of a hue: its value less a share of the chroma that is a trapezoid over the circle. Hues are 1530 around,
 * 255 for each sixth, turned so that the trapezoid begins at 0. */
INLINE uint16_t NAME(from_hue)(uint16_t hue, uint16_t chroma, uint16_t value)
{
    const uint16_t around = (uint16_t)(hue - 1530);
    const int16_t place = (int16_t)(hue < around ? hue : around), back = (int16_t)(1020 - place);
    int16_t share = place < back ? place : back;
    share = share > 0 ? share : 0;
    share = share < 255 ? share : 255;
    const uint16_t less = UPPER(chroma, (uint16_t)(share * 257));
    /* 255 x the value, less, divided by 255 and rounded. */
    return UPPER((uint16_t)(value * 255 + 128 - less), 257);
}

static void NAME(shift_hue)(NAME(chunk) * rgb, uint16_t shift)
{
    int16_t maximum[CHUNK], range[CHUNK], base[CHUNK], distance[CHUNK];
    uint16_t hues[CHUNK], saturations[CHUNK];
    for (int i = 0; i < CHUNK; i++) {
        const int16_t r = (int16_t)rgb[0][i], g = (int16_t)rgb[1][i], b = (int16_t)rgb[2][i];
        int16_t max = r > g ? r : g, min = r < g ? r : g;
        max = max > b ? max : b;
        min = min < b ? min : b;
        const int16_t below = (int16_t)(2 * max + min - r - g - b); /* the middle one, from the maximum */
        const int16_t slope = (int16_t)(r == max ? g - b : g == max ? b - r : r - g);
        const int16_t position = r == max ? 0 : g == max ? 2 : 4;
        maximum[i] = max;
        range[i] = (int16_t)(max - min);
        base[i] = (int16_t)(slope >= 0 ? position + 1 : position - 1);
        distance[i] = (int16_t)(slope >= 0 ? below : -below);
    }
    for (int i = 0; i < CHUNK; i++) {
        /* Too small to change any other number, it avoids 0 / 0 for greys. */
        const float tiny = 1e-30f, chroma = (float)range[i];
        saturations[i] = (uint16_t)(int32_t)(255.0f * chroma / ((float)maximum[i] + tiny));
        /* In sixths of the circle, rounded where Pillow rounds: the last bit decides about the byte below. */
        const float sixths = ((float)base[i] - (float)distance[i] / (chroma + tiny)) / 6.0f;
        hues[i] = (uint16_t)(int32_t)((sixths < 0.0f ? sixths + 1.0f : sixths) * 255.0f);
    }
    for (int i = 0; i < CHUNK; i++) {
        const uint16_t value = (uint16_t)maximum[i], chroma = (uint16_t)(value * saturations[i]);
        const uint16_t hue = (uint16_t)(((hues[i] + shift) & 255) * 6);
        rgb[0][i] = NAME(from_hue)((uint16_t)(hue + 1275), chroma, value);
        rgb[1][i] = NAME(from_hue)((uint16_t)(hue + 765), chroma, value);
        rgb[2][i] = NAME(from_hue)((uint16_t)(hue + 255), chroma, value);
    }
}

/* Operations [begin, end) on all pixels; returns the sum of their luminances, for the contrast that may follow. */
static uint64_t NAME(apply_operations)(
    uint8_t *planes, size_t count, const struct colours *colours, int begin, int end, uint16_t mean)
{
    uint64_t total = 0;
    for (size_t at = 0; at < count; at += CHUNK) {
        const int length = count - at < CHUNK ? (int)(count - at) : CHUNK;
        NAME(chunk) rgb[3];
        for (int c = 0; c < 3; c++) {
            const uint8_t *plane = planes + c * count + at;
            if (length < CHUNK)
                memset(rgb[c], 0, sizeof rgb[c]);
            for (int i = 0; i < length; i++)
                rgb[c][i] = plane[i];
        }
        for (int i = begin; i < end; i++) {
            switch (colours->operations[i]) {
            case BRIGHTNESS:
                NAME(brighten)(rgb, &colours->blends[BRIGHTNESS]);
                break;
            case CONTRAST:
                NAME(contrast)(rgb, &colours->blends[CONTRAST], mean);
                break;
            case SATURATION:
                NAME(saturate)(rgb, &colours->blends[SATURATION]);
                break;
            case HUE:
                NAME(shift_hue)(rgb, colours->hue_shift);
                break;
            case GREY:
                NAME(turn_grey)(rgb);
            }
        }
        uint32_t sum = 0;
        for (int i = 0; i < length; i++)
            sum += NAME(luminance)(rgb[0][i], rgb[1][i], rgb[2][i]);
        total += sum;
        for (int c = 0; c < 3 && begin < end; c++)
            for (int i = 0; i < length; i++)
                planes[c * count + at + i] = (uint8_t)rgb[c][i];
    }
    return total;
}

/* All that `colours` holds. The contrast needs a mean of the whole view, so what comes before is finished first. */
static void NAME(recolour)(const struct colours *colours, uint8_t *planes, int size)
{
    const size_t count = (size_t)size * size;
    int begin = 0;
    uint16_t mean = 0;
    for (int i = 0; i < colours->num_operations; i++)
        if (colours->operations[i] == CONTRAST) {
            const uint64_t total = NAME(apply_operations)(planes, count, colours, begin, i, mean);
            mean = (uint16_t)((2 * total + count) / (2 * count));
            begin = i;
        }
    if (begin < colours->num_operations)
        NAME(apply_operations)(planes, count, colours, begin, colours->num_operations, mean);
}

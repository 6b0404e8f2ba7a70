/* The views of a decoded picture as bytes: crops, resized, and what the published recipe does to their colours.
 *
 * `slip.data.kernel` says what comes in and goes out, `slip.data.augment` is the reference. Here arguments are checked
 * and the instruction set is chosen; loops over pixels are in headers that are compiled once for each set. Every set
 * gives the same bytes: sums are of integers, or of floats that the compiler may neither contract nor reorder.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "_views_plan.h"

#define INLINE static inline __attribute__((always_inline))
/* The upper half of a product of 16 bits. */
#define UPPER(x, y) (uint16_t)(((uint32_t)(x) * (y)) >> 16)
#define UPPER_SIGNED(x, y) (int16_t)(((int32_t)(x) * (y)) >> 16)
#define PREFETCH(pointer, bytes) __builtin_prefetch((const void *)((uintptr_t)(pointer) + (bytes)))

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define UNROLL _Pragma("GCC unroll 16")
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (__typeof__(a)){__VA_ARGS__})
#endif
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define HAS_SHUFFLE
#endif

#define VECTOR 16
#define NAME(name) name##_plain
#include "_views_blur.h"
#include "_views_colours.h"
#include "_views_crop.h"
#undef VECTOR
#undef NAME

#if defined(__x86_64__)
#define HAS_AVX2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
#define VECTOR 32
#define NAME(name) name##_avx2
#include "_views_blur.h"
#include "_views_colours.h"
#include "_views_crop.h"
#undef VECTOR
#undef NAME
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

struct instruction_set {
    const char *name;
    void (*make_crop)(const struct picture *, const struct crop *, uint8_t *);
    void (*recolour)(const struct colours *, uint8_t *, int);
    void (*blur)(const struct blur *, uint8_t *, int);
};

/* Those that this processor has, the fastest last. */
static int find_instruction_sets(struct instruction_set sets[2])
{
    int count = 0;
    sets[count++] = (struct instruction_set){"plain", make_crop_plain, recolour_plain, blur_plane_plain};
#ifdef HAS_AVX2
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        sets[count++] = (struct instruction_set){"avx2", make_crop_avx2, recolour_avx2, blur_plane_avx2};
#endif
    return count;
}

/* What make_views was called with. */
struct request {
    Py_buffer pixels, params, *out;
    Py_ssize_t num_views, num_held;
    int shrink, with_colours, size;
    struct instruction_set set;
};

static void release(struct request *request)
{
    PyBuffer_Release(&request->pixels);
    PyBuffer_Release(&request->params);
    for (Py_ssize_t i = 0; i < request->num_held; i++)
        PyBuffer_Release(&request->out[i]);
    PyMem_Free(request->out);
}

/* All views, one after the other; false when there is no memory. Runs without the interpreter. */
static int make_views(const struct request *request)
{
    const struct picture picture = {
        request->pixels.buf, (int)request->pixels.shape[1], (int)request->pixels.shape[0]};
    const double scale = 1.0 / request->shrink;
    char *memory = NULL;
    size_t held = 0;
    for (Py_ssize_t i = 0; i < request->num_views; i++) {
        const float *row = (const float *)request->params.buf + i * NUM_PARAMS;
        uint8_t *out = request->out[i].buf;
        struct crop crop = {.size = request->size};
        struct colours colours = {0};
        if (request->with_colours)
            plan_colours(&colours, row);
        measure_axis(&crop.across, row[LEFT] * scale, row[RIGHT] * scale, picture.width, crop.size);
        measure_axis(&crop.down, row[TOP] * scale, row[BOTTOM] * scale, picture.height, crop.size);
        const size_t alignment = 64, needed = lay_out(&crop, &colours, NULL) + alignment;
        if (needed > held) {
            free(memory);
            memory = malloc(needed);
            if (memory == NULL)
                return 0;
            held = needed;
        }
        lay_out(&crop, &colours, memory + (alignment - (uintptr_t)memory % alignment));
        /* All that follows treats left and right alike, so the flip can come first. */
        fill_axis(&crop.across, crop.size, request->with_colours && row[FLIP] != 0);
        fill_axis(&crop.down, crop.size, 0);
        request->set.make_crop(&picture, &crop, out);
        request->set.recolour(&colours, out, crop.size);
        for (int c = 0; c < 3 && colours.blurs; c++)
            request->set.blur(&colours.blur, out + (size_t)c * crop.size * crop.size, crop.size);
    }
    free(memory);
    return 1;
}

/* Raise ValueError and return false. */
static int refuse(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    PyErr_FormatV(PyExc_ValueError, format, arguments);
    va_end(arguments);
    return 0;
}

/* A C-contiguous buffer of one kind of number; whatever else was passed is a ValueError. */
static int get_buffer(PyObject *object, Py_buffer *buffer, int flags, char format, int ndim, const char *what)
{
    if (PyObject_GetBuffer(object, buffer, flags | PyBUF_FORMAT | PyBUF_ND) < 0) {
        if (PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_BufferError))
            refuse("%s must be a C-contiguous array, not %s", what, Py_TYPE(object)->tp_name);
        return 0;
    }
    if (buffer->ndim == ndim && buffer->format != NULL && buffer->format[0] == format && buffer->format[1] == '\0')
        return 1;
    PyBuffer_Release(buffer);
    return refuse("%s must have %d dimensions and hold %s", what, ndim, format == 'B' ? "uint8" : "float32");
}

static int is_within(float x, double low, double high) { return x >= low && x <= high; }

/* What is wrong with a row of params, or NULL. */
static const char *find_fault(const struct request *request, const float *row)
{
    const double width = (double)request->pixels.shape[1] * request->shrink;
    const double height = (double)request->pixels.shape[0] * request->shrink;
    for (int i = LEFT; i <= BOTTOM; i++)
        if (!is_within(row[i], 0, i == LEFT || i == RIGHT ? width : height) || row[i] != (float)(int)row[i])
            return "its box does not lie in the picture on whole pixels";
    if (row[LEFT] >= row[RIGHT] || row[TOP] >= row[BOTTOM])
        return "its box is empty";
    if (!request->with_colours)
        return NULL;
    for (int i = BRIGHTNESS; i <= SATURATION; i++)
        if (!is_within(row[FACTORS + i], 0, 2))
            return "brightness, contrast and saturation must be from 0 to 2";
    if (!is_within(row[FACTORS + HUE], -1, 1))
        return "the hue must be from -1 to 1";
    for (int i = 0; i < 4; i++)
        if (!is_within(row[ORDER + i], -1, HUE) || row[ORDER + i] != (float)(int)row[ORDER + i])
            return "operations must be from -1 to 3";
    if (!is_within(row[RADIUS], 0, MAX_RADIUS))
        return "the radius of the blur must be from 0 to 100";
    return NULL;
}

/* Fill `request` from the arguments; false with an exception set. */
static int read_request(struct request *request, PyObject *pixels, PyObject *params, PyObject *out, int set)
{
    struct instruction_set sets[2];
    const int num_sets = find_instruction_sets(sets);
    if (set < 0 || set >= num_sets)
        return refuse("there are %d instruction sets, not one numbered %d", num_sets, set);
    request->set = sets[set];
    const int shrink = request->shrink;
    if (shrink != 1 && shrink != 2 && shrink != 4 && shrink != 8)
        return refuse("shrink must be 1, 2, 4 or 8, not %d", shrink);
    if (!get_buffer(pixels, &request->pixels, PyBUF_SIMPLE, 'B', 3, "pixels") ||
        !get_buffer(params, &request->params, PyBUF_SIMPLE, 'f', 2, "params"))
        return 0;
    const Py_ssize_t *shape = request->pixels.shape, longest = 1 << 24; /* float32 holds whole numbers up to there */
    if (shape[0] < 1 || shape[1] < 1 || shape[0] * shrink > longest || shape[1] * shrink > longest || shape[2] != 3)
        return refuse("pixels must have the shape (height, width, 3), not (%zd, %zd, %zd)", shape[0], shape[1],
                      shape[2]);
    request->num_views = request->params.shape[0];
    if (request->params.shape[1] != NUM_PARAMS || PySequence_Fast_GET_SIZE(out) != request->num_views)
        return refuse("params must have the shape (%zd, %d), one row for each output, not (%zd, %zd)",
                      PySequence_Fast_GET_SIZE(out), NUM_PARAMS, request->params.shape[0], request->params.shape[1]);
    request->out = PyMem_Calloc((size_t)request->num_views, sizeof *request->out);
    if (request->out == NULL)
        return PyErr_NoMemory() != NULL;
    for (Py_ssize_t i = 0; i < request->num_views; i++) {
        Py_buffer *view = &request->out[i];
        if (!get_buffer(PySequence_Fast_GET_ITEM(out, i), view, PyBUF_WRITABLE, 'B', 3, "every output"))
            return 0;
        request->num_held++;
        const Py_ssize_t size = view->shape[1], largest = 1 << 14;
        if (view->shape[0] != 3 || view->shape[2] != size || size < 1 || size > largest ||
            (i > 0 && size != request->size))
            return refuse("every output must have the same shape (3, size, size)");
        request->size = (int)size;
        const char *fault = find_fault(request, (const float *)request->params.buf + i * NUM_PARAMS);
        if (fault != NULL)
            return refuse("row %zd of params: %s", i, fault);
    }
    return 1;
}

static PyObject *views_make_views(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *pixels, *params, *out, *result = NULL;
    struct request request = {0};
    int set;
    if (!PyArg_ParseTuple(args, "OiOOpi", &pixels, &request.shrink, &params, &out, &request.with_colours, &set))
        return NULL;
    PyObject *outputs = PySequence_Fast(out, "");
    if (outputs == NULL)
        return refuse("the outputs must be a sequence, not %s", Py_TYPE(out)->tp_name), NULL;
    if (read_request(&request, pixels, params, outputs, set)) {
        int made;
        Py_BEGIN_ALLOW_THREADS
        made = make_views(&request);
        Py_END_ALLOW_THREADS
        result = made ? Py_NewRef(Py_None) : PyErr_NoMemory();
    }
    release(&request);
    Py_DECREF(outputs);
    return result;
}

static int set_up(PyObject *module)
{
    struct instruction_set sets[2];
    const int count = find_instruction_sets(sets);
    PyObject *names = PyTuple_New(count);
    for (int i = 0; i < count && names != NULL; i++) {
        PyObject *name = PyUnicode_FromString(sets[i].name);
        if (name == NULL)
            Py_CLEAR(names);
        else
            PyTuple_SET_ITEM(names, i, name);
    }
    const int status = names == NULL ? -1 : PyModule_AddObjectRef(module, "INSTRUCTION_SETS", names);
    Py_XDECREF(names);
    return status;
}

static PyMethodDef methods[] = {
    {"make_views", views_make_views, METH_VARARGS, "make_views(pixels, shrink, params, out, colours, instruction_set)"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, set_up}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "slip.data._views", .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit__views(void) { return PyModuleDef_Init(&definition); }

// gpu_arrays.h - a harness for tests of CUDA launchers: arrays between guards, two runs of every case,
// comparison with a reference in double. gpu_layers.cu and gpu_ponder.cu say how it is used.
#ifndef PONDER_GPU_ARRAYS_H
#define PONDER_GPU_ARRAYS_H

#include "../../common/device.cuh"
#include "test.h"

// ---- arrays on the GPU ----

typedef enum { INPUT, OUTPUT, IN_PLACE, NOWHERE } Use;

typedef struct {
    const char* name;
    Use use;
    size_t count, number;         // numbers, bytes of one
    size_t before, bytes, after;  // of the guard, the numbers, the guard
    unsigned char* base;          // on the GPU: all of them
    unsigned char* put;           // (bytes) what was put there
    unsigned char* got;           // (before + bytes + after) what was there at the end
    unsigned char* first;         // (bytes) the same of the first run
} Array;

enum { ARRAYS = 32, GUARD = 256 };
static Array arrays[ARRAYS];
static int array_count;
static int second_run;
static uint64_t shifts;  // bit i: array i of the case begins one number past an aligned address
static char case_name[200];

// A NaN as bf16, float and double alike, 15 of them.
static void poison(unsigned char* p, size_t bytes, int which) {
    for (size_t i = 0; i < bytes; i++) { p[i] = i % 2 ? 0x7f : (unsigned char)(0xf1 + which % 15); }
}

// host: what an input holds; NULL: NaN. An INPUT must be the same at the end.
static void* array_new(const char* name, Use use, const void* host, size_t count, size_t number) {
    if (array_count == ARRAYS) { die("too many arrays in a case"); }
    int which = array_count++;
    Array* a = &arrays[which];
    a->name = name, a->use = use, a->count = count, a->number = number;
    if (use == NOWHERE) { return NULL; }
    a->before = GUARD + (shifts >> which & 1 ? number : 0);
    a->bytes = count * number;
    a->after = second_run ? 0 : GUARD;
    size_t all = a->before + a->bytes + a->after;
    a->got = (unsigned char*)xalloc(all, 1, name);
    a->put = (unsigned char*)xalloc(a->bytes, 1, name);
    poison(a->got, all, which);
    if (host) { memcpy(a->got + a->before, host, a->bytes); }
    memcpy(a->put, a->got + a->before, a->bytes);
    CUDA_CHECK(cudaMalloc(&a->base, all));
    CUDA_CHECK(cudaMemcpy(a->base, a->got, all, cudaMemcpyHostToDevice));
    return a->base + a->before;
}

static float* array_floats(const char* name, Use use, const float* host, size_t count) {
    return (float*)array_new(name, use, host, count, sizeof(float));
}
static double* array_doubles(const char* name, Use use, const double* host, size_t count) {
    return (double*)array_new(name, use, host, count, sizeof(double));
}
// host: floats that are floatX already (see rounding).
static floatX* array_x(const char* name, Use use, const float* host, size_t count) {
    unsigned char* numbers = NULL;  // the upper half of a float is a bf16
    if (host) {
        numbers = (unsigned char*)xalloc(count, sizeof(floatX), name);
        for (size_t i = 0; i < count; i++) {
            const unsigned char* upper = (const unsigned char*)&host[i] + sizeof(float) - sizeof(floatX);
            memcpy(numbers + i * sizeof(floatX), upper, sizeof(floatX));
        }
    }
    floatX* p = (floatX*)array_new(name, use, numbers, count, sizeof(floatX));
    free(numbers);
    return p;
}

static Array* array_of(const void* device_address) {
    for (int i = 0; i < array_count; i++) {
        if (arrays[i].base && arrays[i].base + arrays[i].before == device_address) { return &arrays[i]; }
    }
    die("a test asks for an array that it does not have");
}

static void wait_for_gpu(void) { CUDA_CHECK(cudaDeviceSynchronize()); }

// The numbers' bytes as they are now.
static const unsigned char* array_bytes(const void* device_address) {
    Array* a = array_of(device_address);
    wait_for_gpu();
    if (a->bytes) { CUDA_CHECK(cudaMemcpy(a->got + a->before, a->base + a->before, a->bytes, cudaMemcpyDeviceToHost)); }
    return a->got + a->before;
}

// The numbers as they are now; the caller frees.
static float* fetch(const float* p) {
    const unsigned char* bytes = array_bytes(p);
    size_t n = array_of(p)->count;
    float* out = (float*)xalloc(n, sizeof(float), "a result");
    memcpy(out, bytes, n * sizeof(float));
    return out;
}
#ifndef FP32
static float* fetch(const floatX* p) {
    const unsigned char* bytes = array_bytes(p);
    size_t n = array_of(p)->count;
    float* out = (float*)xalloc(n, sizeof(float), "a result");
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)bytes[2 * i] << 16 | (uint32_t)bytes[2 * i + 1] << 24;
        memcpy(&out[i], &bits, 4);
    }
    return out;
}
#endif

// The end of a run: guards, inputs, and the bits of the run before.
static void arrays_end(void) {
    wait_for_gpu();
    for (int i = 0; i < array_count; i++) {
        Array* a = &arrays[i];
        if (a->use == NOWHERE) { continue; }
        size_t all = a->before + a->bytes + a->after;
        CUDA_CHECK(cudaMemcpy(a->got, a->base, all, cudaMemcpyDeviceToHost));
        unsigned char* guard = (unsigned char*)xalloc(all, 1, "guards");
        poison(guard, all, i);
        CHECK(memcmp(a->got, guard, a->before) == 0, "%s: written before the first number of %s", case_name, a->name);
        CHECK(memcmp(a->got + all - a->after, guard + all - a->after, a->after) == 0,
              "%s: written past the last number of %s", case_name, a->name);
        free(guard);
        unsigned char* numbers = a->got + a->before;
        if (a->use == INPUT) {
            CHECK(memcmp(numbers, a->put, a->bytes) == 0, "%s: the input %s was changed", case_name, a->name);
        }
        if (second_run) {
            CHECK(memcmp(numbers, a->first, a->bytes) == 0, "%s: %s has other bits in a second run", case_name,
                  a->name);
            free(a->first);
        } else {
            a->first = (unsigned char*)xalloc(a->bytes, 1, "a run");
            memcpy(a->first, numbers, a->bytes);
        }
        CUDA_CHECK(cudaFree(a->base));
        free(a->got);
        free(a->put);
        a->base = NULL;
    }
}

// ---- random numbers ----

static uint64_t random_state;
static uint64_t random_bits64(void) {
    uint64_t x = random_state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}
static double random_unit(void) { return (double)(random_bits64() >> 11) / 9007199254740992.0; }
// About normal: four uniform numbers.
static double random_normal_like(void) {
    return (random_unit() + random_unit() + random_unit() + random_unit() - 2) * 1.7320508075688772;
}

// Everything that a case has on the host, freed at its end.
enum { HOST_ARRAYS = 64 };
static void* host_array[HOST_ARRAYS];
static int host_array_count;
static void* kept_until_end(void* p) {
    if (host_array_count == HOST_ARRAYS) { die("too many host arrays in a case"); }
    return host_array[host_array_count++] = p;
}
static float* zeros(size_t n) { return (float*)kept_until_end(xalloc(n, sizeof(float), "a test")); }
static double* zeros_double(size_t n) { return (double*)kept_until_end(xalloc(n, sizeof(double), "a test")); }
static float* random_floats(size_t n, double mean, double deviation) {
    float* x = zeros(n);
    for (size_t i = 0; i < n; i++) { x[i] = (float)(mean + deviation * random_normal_like()); }
    return x;
}

// x rounded to floatX on the host, to nearest, ties to even: not by the code that is tested.
static float rounding(float x) {
    if (sizeof(floatX) == 4) { return x; }
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits = x != x ? bits | 0x00400000u : bits + 0x7fff + (bits >> 16 & 1);
    bits &= 0xffff0000u;
    memcpy(&x, &bits, 4);
    return x;
}
static float* random_x(size_t n, double mean, double deviation) {
    float* x = random_floats(n, mean, deviation);
    for (size_t i = 0; i < n; i++) { x[i] = rounding(x[i]); }
    return x;
}

// ---- cases ----

// Runs a case twice with the same numbers. The rest are its name, as for printf.
__attribute__((format(printf, 3, 4))) static void run_case(void (*f)(void), uint64_t shift_mask, const char* fmt, ...) {
    static uint64_t cases;
    cases++;
    va_list args;
    va_start(args, fmt);
    vsnprintf(case_name, sizeof case_name, fmt, args);
    va_end(args);
    shifts = shift_mask;
    for (second_run = 0; second_run < 2; second_run++) {
        random_state = cases * 1000003;
        array_count = 0;
        f();
        arrays_end();
        for (int i = 0; i < host_array_count; i++) { free(host_array[i]); }
        host_array_count = 0;
    }
}

// The worst share of the tolerance for each kind of output, printed at the end of a test.
enum { MEASURES = 64 };
static struct {
    const char* name;
    double share, error, tolerance;
} measures[MEASURES];
static int measure_count;
static void measures_print(void) {
    for (int i = 0; i < measure_count; i++) {
        printf("     %-24s error %.2e of the scale, tolerance %.1e, worst share of what is allowed %.2f\n",
               measures[i].name, measures[i].error, measures[i].tolerance, measures[i].share);
    }
    measure_count = 0;
}

static double largest(const double* x, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) { most = fabs(x[i]) > most ? fabs(x[i]) : most; }
    return most;
}

// Half a unit in the last place of x as floatX; nothing where that is a float.
static double half_unit(double x) { return sizeof(floatX) == 4 || x == 0 ? 0 : ldexp(1, ilogb(x) - 8); }

// got (n) against want (n): off by at most tolerance * scale, and half a unit of bf16 if `stored`.
static void agree(const char* what, float* got, const double* want, size_t n, double scale, double tolerance,
                  int stored) {
    int m = 0;
    while (m < measure_count && strcmp(measures[m].name, what) != 0) { m++; }
    if (m == MEASURES) { die("too many measures"); }
    if (m == measure_count) {
        measure_count++;
        measures[m].name = what, measures[m].share = 0, measures[m].error = 0;
    }
    measures[m].tolerance = tolerance;
    size_t worst = 0;
    double worst_share = -1;
    for (size_t i = 0; i < n; i++) {
        double diff = fabs((double)got[i] - want[i]), rounded_once = stored ? half_unit(want[i]) : 0;
        double allowed = tolerance * (scale > 0 ? scale : 1) + rounded_once, share = diff / allowed;
        if (!(share <= worst_share) && worst_share == worst_share) { worst = i, worst_share = share; }
        double error = (diff > rounded_once ? diff - rounded_once : 0) / (scale > 0 ? scale : 1);
        if (error > measures[m].error) { measures[m].error = error; }
    }
    if (!(worst_share <= measures[m].share)) { measures[m].share = worst_share; }
    if (n && !(worst_share <= 1)) {
        test_state.checks_failed++;
        fprintf(stderr, "  %s: %s: worst of %zu at [%zu]: got %.9g, want %.9g, %.3g times what is allowed\n", case_name,
                what, n, worst, got[worst], want[worst], worst_share);
    }
    free(got);
}

static void agree_bits(const char* what, const void* got, const void* want, size_t bytes) {
    const unsigned char *a = (const unsigned char*)got, *b = (const unsigned char*)want;
    size_t i = 0;
    while (i < bytes && a[i] == b[i]) { i++; }
    CHECK(i == bytes, "%s: %s differs at byte %zu of %zu", case_name, what, i, bytes);
}

// The number of NaN in got (n), freed.
static size_t count_nan(float* got, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) { count += got[i] != got[i]; }
    free(got);
    return count;
}

// The bytes of all launches that were booked since the last call.
static double booked_bytes(void) {
    double bytes = 0;
    for (int i = 0; i < ledger.rows; i++) { bytes += ledger.row[i].bytes; }
    ledger_clear();
    return bytes;
}

#endif

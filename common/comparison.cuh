// comparison.cuh - numbers of the GPU beside those of the C half: fetching them, and the verdict on a tensor.
#ifndef PONDER_COMPARISON_CUH
#define PONDER_COMPARISON_CUH

#include "device.cuh"
#include "rows.h"

// A tensor that a pass of an architecture keeps, on both sides.
typedef struct {
    const char* name;
    const real* cpu;
    const void* gpu;
    int gpu_float;  // 1: fp32 on the GPU, 0: floatX
    size_t n;
    const float* bias;  // (bias_n) still to be added to the GPU's rows (a weight: on the host), or NULL
    size_t bias_n;
} PassView;
enum { PASS_VIEWS = 16 };

// n numbers of the GPU as floats on the host; the caller frees them. is_float = 0: an array of floatX.
static inline real* device_numbers(const void* from, int is_float, size_t n) {
    real* numbers = (real*)xalloc(n, sizeof(real), "numbers of the GPU");
    if (is_float || sizeof(floatX) == sizeof(float)) {
        device_download(numbers, from, n * sizeof(float));
        return numbers;
    }
    floatX* raw = (floatX*)xalloc(n, sizeof(floatX), "numbers of the GPU");
    device_download(raw, from, n * sizeof(floatX));
    for (size_t i = 0; i < n; i++) { numbers[i] = (real)host_float(raw[i]); }
    free(raw);
    return numbers;
}
static inline int device_finite(const void* from, int is_float, size_t n) {
    real* numbers = device_numbers(from, is_float, n);
    int finite = row_finite(numbers, n);
    free(numbers);
    return finite;
}

// A tensor of the comparison: what the C reference has in float, what it has when it rounds every stored
// number to bf16 (bf16 program only), and where the GPU has it.
typedef struct {
    char* name;
    real* exact;
    real* naive;
    const void* gpu;
    int gpu_float;
    size_t n;
    const real* bias;  // (bias_n) still to be added to each row of the GPU's numbers, or NULL
    size_t bias_n;
} Compared;

typedef struct {
    Compared* list;
    int count, at;  // at: of the run that fills in
    int naive;
} Comparison;

static inline void comparison_take(Comparison* k, char* name, const real* cpu, const void* gpu, int gpu_float, size_t n,
                                   const real* bias, size_t bias_n) {
    real* copy = (real*)xalloc(n, sizeof(real), "a comparison");
    memcpy(copy, cpu, n * sizeof(real));
    if (!k->naive) {
        Compared row = {name, copy, NULL, gpu, gpu_float, n, bias, bias_n};
        Compared* list = (Compared*)realloc(k->list, (size_t)(k->count + 1) * sizeof(Compared));
        if (!list) { die("out of memory: %d rows of a comparison", k->count + 1); }
        k->list = list;
        k->list[k->count++] = row;
    } else {
        free(name);
        k->list[k->at++].naive = copy;
    }
}

// Prints a row; 1 if it is within its tolerance.
static inline int comparison_judge(const Compared* row) {
    real* got = device_numbers(row->gpu, row->gpu_float, row->n);
    double largest = 0, error = 0, naive = 0;
    size_t worst = 0;
    for (size_t i = 0; i < row->n; i++) {
        if (row->bias) { got[i] += row->bias[i % row->bias_n]; }
        double difference = fabs((double)got[i] - (double)row->exact[i]);
        if (!(difference <= error)) { error = difference, worst = i; }  // a NaN stays
        if (error != error) { break; }
        largest = fmax(largest, fabs((double)row->exact[i]));
        if (row->naive) { naive = fmax(naive, fabs((double)row->naive[i] - (double)row->exact[i])); }
    }
    // fp32: 2e-5 of the largest entry (under the emulator at most 2e-6 was seen; a GPU adds in another order).
    // bf16: twice the error of the reference that rounds as it stores (at most 1.99 times was seen, over 1,440 tensors
    // of ten models and five sets of tokens). Three times in a tensor of under 128 numbers, the largest of whose errors
    // is more a matter of chance: of 495 one had more than twice, 2.07 times, an earlier set 2.9. At least 1e-5 of the
    // largest entry, for what neither rounds: the input embeddings of pass 0 are fp32 in both (and had the same bits);
    // half of what fp32 may have.
    double tolerance = row->naive ? fmax((row->n < 128 ? 3 : 2) * naive, 1e-5 * largest) : 2e-5 * largest;
    int good = error <= tolerance && tolerance < INFINITY;  // a reference that overflows allows nothing
    printf("%-58s %10.3e %10.3e %10.3e %6.2f  %s", row->name, largest, error, tolerance,
           error == 0 ? 0.0 : error / tolerance, good ? "ok" : "DIFFERS");
    if (!good) { printf(" (at %zu: %.9g, expected %.9g)", worst, (double)got[worst], (double)row->exact[worst]); }
    printf("\n");
    free(got);
    return good;
}

#endif

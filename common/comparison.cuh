// comparison.cuh - numbers of the GPU beside those of the C half: fetching them, the verdict on a tensor, and one
// micro-batch computed by both and compared tensor by tensor.
#ifndef PONDER_COMPARISON_CUH
#define PONDER_COMPARISON_CUH

#include "arena.h"
#include "device.cuh"
#include "model.h"
#include "rows.h"

// n numbers of `number` bytes each (floats, or floatX) of the GPU as floats on the host; the caller frees them.
static inline real* device_numbers(const void* from, size_t number, size_t n) {
    real* numbers = (real*)xalloc(n, sizeof(real), "numbers of the GPU");
    if (number == sizeof(float)) {
        device_download(numbers, from, n * sizeof(float));
        return numbers;
    }
    floatX* raw = (floatX*)xalloc(n, sizeof(floatX), "numbers of the GPU");
    device_download(raw, from, n * sizeof(floatX));
    for (size_t i = 0; i < n; i++) { numbers[i] = (real)host_float(raw[i]); }
    free(raw);
    return numbers;
}
static inline int device_finite(const Place* place) {
    real* numbers = device_numbers(place->at, place->number, place->count);
    int finite = row_finite(numbers, place->count);
    free(numbers);
    return finite;
}

// A tensor of the comparison: what the C reference has in float, what it has when it rounds every stored
// number to bf16 (bf16 program only), and where the GPU has it.
typedef struct {
    char* name;
    real* exact;
    real* naive;
    Place gpu;
    double beside;  // the largest number in the gradients of tensors that are joined to this one, or 0
} Compared;

typedef struct {
    Compared* list;
    int count, room;
    int at;     // of the naive run, which fills in what the first run took
    int alone;  // tensors of the C half that the GPU does not have
} Comparison;

// Prints a row; 1 if it is within its tolerance.
static inline int comparison_judge(const Compared* row) {
    size_t n = row->gpu.count;
    real* got = device_numbers(row->gpu.at, row->gpu.number, n);
    real* bias = row->gpu.lacks_count ? device_numbers(row->gpu.lacks, sizeof(float), row->gpu.lacks_count) : NULL;
    double largest = 0, error = 0, naive = 0;
    size_t worst = 0;
    for (size_t i = 0; i < n; i++) {
        if (bias) { got[i] += bias[i % row->gpu.lacks_count]; }
        double difference = fabs((double)got[i] - (double)row->exact[i]);
        if (!(difference <= error)) { error = difference, worst = i; }  // a NaN stays
        if (error != error) { break; }
        largest = fmax(largest, fabs((double)row->exact[i]));
        if (row->naive) { naive = fmax(naive, fabs((double)row->naive[i] - (double)row->exact[i])); }
    }
    // fp32: 2e-5 of the largest entry (under the emulator at most 2e-6 was seen; a GPU adds in another order), of a
    // gradient 4e-5: on an H100 a bias had 2.01e-5 after 8 rows of 2,048, whose gradients the C half adds one by one.
    // bf16: 2.2 times the error of the reference that rounds as it stores, 2.5 times of a gradient. Over 1,440 tensors of
    // ten Pythia models and five sets of tokens at most 1.99 times was seen; over 5,900 of fifteen LLaMA models and seven
    // sets two activations had 2.08 times, two gradients 2.02 and 2.38: the products of gate and up have few numbers
    // that are much larger than others, and the reference keeps probabilities of attention in float. Three times in a
    // tensor of under 512 numbers, the largest of whose errors is more a matter of chance: of 495 under 128 one had more
    // than twice, 2.07 times, an earlier set 2.9; 128 sums of scores 2.27 times. At least 1e-5 of the largest entry, for
    // what neither rounds: the input embeddings of pass 0 are fp32 in both (and had the same bits); half of what fp32
    // may have.
    int gradient = strncmp(row->name, LIST_GRADIENT, strlen(LIST_GRADIENT)) == 0;
    double times = n < 512 ? 3 : gradient ? 2.5 : 2.2;
    double tolerance = row->naive ? fmax(times * naive, 1e-5 * largest) : (gradient ? 4e-5 : 2e-5) * largest;
    // Queries and keys may have no gradient where values have one: rows of one position. What is left of it are
    // roundings of terms that cancel, 1e-7 of the values' was seen.
    tolerance = fmax(tolerance, 1e-6 * row->beside);
    int good = error <= tolerance && tolerance < INFINITY;  // a reference that overflows allows nothing
    printf("%-58s %10.3e %10.3e %10.3e %6.2f  %s", row->name, largest, error, tolerance,
           error == 0 ? 0.0 : error / tolerance, good ? "ok" : "DIFFERS");
    if (!good) { printf(" (at %zu: %.9g, expected %.9g)", worst, (double)got[worst], (double)row->exact[worst]); }
    printf("\n");
    free(bias);
    free(got);
    return good;
}

// How compare_halves() judges; a test looks over its shoulder.
static int (*comparison_verdict)(const Compared* row) = comparison_judge;

// One half of a model: what allocates, computes and lists (Model has the meanings). allocate: of the C half; the GPU's
// memory is there already. forward: of one micro-batch, keeping what the backward needs.
typedef struct {
    void (*allocate)(Model* model, int training);
    void (*forward)(Model* model, const int* inputs, const int* targets, int B, int T);
    double (*train)(Model* model, const int* inputs, const int* targets, int B, int T, double scale);
    void (*list)(Model* model, Places* places, size_t n);
} Half;

// Takes rows of the CPU that the GPU has too, by name: those that a forward leaves (`after` = 0), or the losses and
// gradients after them. Weights are the same by construction. naive: fills in the second column.
static inline void comparison_take(Comparison* k, const Places* cpu, const Places* gpu, int after, int naive) {
    int losses = 0;
    for (int i = 0; i < cpu->count; i++) {
        const Place* c = &cpu->list[i];
        losses |= strcmp(c->name, LIST_LOSSES) == 0;
        if (losses != after || strncmp(c->name, LIST_PARAMETER, strlen(LIST_PARAMETER)) == 0) { continue; }
        int j = 0;
        while (j < gpu->count && strcmp(gpu->list[j].name, c->name) != 0) { j++; }
        if (j == gpu->count) {  // what the GPU computes again, or has only as a sum with something else
            if (!naive) { k->alone++; }
            continue;
        }
        if (gpu->list[j].count != c->count || c->number != sizeof(real)) {
            die("%s: the C half lists %zu numbers, the CUDA half %zu", c->name, c->count, gpu->list[j].count);
        }
        real* copy = (real*)xalloc(c->count, sizeof(real), "a comparison");
        memcpy(copy, c->at, c->count * sizeof(real));
        if (naive) {
            k->list[k->at++].naive = copy;
            continue;
        }
        if (k->count == k->room) {
            k->room = k->room ? 2 * k->room : 256;
            k->list = (Compared*)realloc(k->list, (size_t)k->room * sizeof(Compared));
            if (!k->list) { die("out of memory: %d rows of a comparison", k->room); }
        }
        Compared row = {format_string("%s", c->name), copy, NULL, gpu->list[j], 0};
        k->list[k->count++] = row;
    }
}

// One micro-batch of the C half, forward and then with its backward; keeps every tensor that the GPU has too.
// Returns its loss; *forward = how many rows the forward left.
static inline double comparison_run_cpu(Model* model, const Half* cpu, Comparison* k, const Places* gpu,
                                        const int* inputs, const int* targets, int B, int T, double scale, int naive,
                                        int* forward) {
    double loss = 0;
    for (int after = 0; after < 2; after++) {
        Places places;
        memset(&places, 0, sizeof places);
        if (after) {
            memset(model->grads, 0, model->tensors.total * sizeof(real));
            loss = cpu->train(model, inputs, targets, B, T, scale);
        } else {
            cpu->forward(model, inputs, targets, B, T);
        }
        cpu->list(model, &places, (size_t)B * (size_t)T);
        comparison_take(k, &places, gpu, after, naive);
        if (!after && !naive) { *forward = k->count; }
        places_free(&places);
    }
    return loss;
}

// Finds out what lies beside the gradients of joined tensors: they come from one product.
static inline void comparison_join(const Comparison* k, const TensorTable* table) {
    for (int first = 0, end; first < table->count; first = end) {
        end = tensor_group(table, first).end;
        for (int i = first; i < end && end - first > 1; i++) {
            char* name = format_string(LIST_GRADIENT "%s", table->list[i].name);
            int at = 0;
            while (at < k->count && strcmp(k->list[at].name, name) != 0) { at++; }
            free(name);
            if (at + end - i > k->count) { break; }
            for (int other = at + first - i; other < at + end - i; other++) {  // listed in the order of the table
                for (size_t j = 0; j < k->list[other].gpu.count; j++) {
                    k->list[at].beside = fmax(k->list[at].beside, fabs((double)k->list[other].exact[j]));
                }
            }
        }
    }
}

// --compare-cpu: one micro-batch with `count` targets on both, from the same weights (in the bf16 program rounded to
// bf16 first, so that only the arithmetic differs). Returns the exit status.
static inline int compare_halves(Model* model, const Half* cpu, const Half* gpu, const int* inputs, const int* targets,
                                 int B, int T, int64_t count) {
    Comparison k;
    Places places;
    memset(&k, 0, sizeof k);
    memset(&places, 0, sizeof places);
    double scale = 1.0 / (double)count, naive_loss = 0;
    size_t n = model->tensors.total;
    real* params = model->params;
    cpu->allocate(model, 1);  // replaces params and grads by the C half's own
    memcpy(model->params, params, n * sizeof(real));
    free(params);
    if (sizeof(floatX) == 2) {
        stored_as_bf16 = 1;
        stored(model->params, n);
        stored_as_bf16 = 0;
    }
    model->upload(model, NULL, NULL);
    gpu->forward(model, inputs, targets, B, T);
    gpu->list(model, &places, (size_t)B * (size_t)T);
    int forward = 0, differ = 0;
    double loss = comparison_run_cpu(model, cpu, &k, &places, inputs, targets, B, T, scale, 0, &forward);
    if (sizeof(floatX) == 2) {
        stored_as_bf16 = 1;
        naive_loss = comparison_run_cpu(model, cpu, &k, &places, inputs, targets, B, T, scale, 1, &forward);
        stored_as_bf16 = 0;
    }
    comparison_join(&k, &model->tensors);
    printf("%-58s %10s %10s %10s %6s\n", "tensor, in forward order", "largest", "error", "tolerance", "share");
    const char* first = NULL;
    double got = 0;
    for (int i = 0; i < k.count; i++) {
        if (i == forward) {  // the activations were looked at: now the backward may overwrite them
            model->zero_grads(model);
            got = gpu->train(model, inputs, targets, B, T, scale);
        }
        if (!comparison_verdict(&k.list[i]) && !differ++) { first = k.list[i].name; }
    }
    printf("loss: CPU %.9g, GPU %.9g", loss * scale, got * scale);
    if (sizeof(floatX) == 2) { printf(", CPU rounding to bf16 %.9g", naive_loss * scale); }
    if (k.alone) { printf("\n%d tensors of the C half have no counterpart on the GPU", k.alone); }
    printf("\n%d tensors, %d differ%s%s\n", k.count, differ, first ? "; the first: " : "", first ? first : "");
    return differ ? 1 : 0;
}

#endif

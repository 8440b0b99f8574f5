// tensors.h - the tensor table: one row per parameter tensor.
//
// Everything that walks over parameters (initialisation, AdamW, checkpoints, NCCL, comparison,
// tests, where layers find their weights) walks over this table; there is no second list of the same tensors. A family
// (parameters, gradients, first moments, second moments) is one allocation of table->total
// numbers; a tensor lies at the same offset in each.
#ifndef PONDER_TENSORS_H
#define PONDER_TENSORS_H

#include "base.h"
#include "random.h"
#include "vec.h"
#if GPU
#include "cuda.cuh"
#else
typedef real floatX;  // of a GPU's products; no CPU program looks through a pointer to it
#endif

typedef enum {
    INIT_ZEROS,
    INIT_ONES,
    INIT_NORMAL,     // normal, mean 0, standard deviation std
    INIT_TRUNCATED,  // the same, cut at 3 std
} Init;

// A tensor as the layers see it: where its numbers are, and the gradient into which they sum. Layers hold these,
// never an offset: tensors_bind() fills them in, once.
typedef struct {
    const real* w;        // C half: in the parameters
    const Bf16* half;     // or, where weights are rounded for inference, the numbers in bf16: then w is NULL
    real* d;              // its gradient: every layer adds to it, over passes and micro-batches
    const float* master;  // CUDA half: in fp32, for what is no product
    const floatX* x;      // rounded, for products
    float* grad;          // as d
} Weight;

typedef struct {
    char* name;           // the Hugging Face name
    const char* alias;    // of a table with two uses: the name of the other, which a file may have for it; or NULL
    const char* tied_by;  // why it has two uses where the configuration has not said so, for messages; or NULL
    const char* rows_of;  // what settings its rows come from that a configuration may lack, for messages; or NULL
    const char* copy_of;  // the tensor whose numbers it begins with where a file does not have it; or NULL
    Weight* weight;       // where layers look for it; NULL: nowhere
    Weight* twin;         // where they look for it in its other use; NULL: it has one
    int product;          // 1: every position is multiplied with it, 6 FLOPs a number, forward and backward
    int rounded;          // 1: on a GPU layers read its rounded copy alone, and only the optimiser the master
    int ndim;             // 1 or 2
    size_t shape[2];      // shape[1] is 1 when ndim is 1
    size_t size;          // numbers in it
    size_t offset;        // of its first number in a family
    int joined;           // 1: it begins where the row before it ends, with which it shares a group
    Init init;
    float std;
    int decay;  // 1: weight decay applies (tensors of two dimensions)
} Tensor;

// On the GPU a matrix has room for rows up to a multiple of this, which stay 0: a vocabulary of any size then makes
// products with aligned rows (Vp instead of V columns of logits), and any number of rows of logits in bf16 ends at a
// multiple of 256 bytes, so that what follows them is aligned as they are.
enum { PADDED_ROWS = GPU ? 128 : 1 };

// A group of joined tensors, or a tensor by itself, begins at a multiple of so many numbers: 256 bytes of bf16, the most
// alignment that cuBLASLt asks for.
enum { TENSOR_START = 128 };

typedef struct {
    Tensor* list;
    int count, capacity;
    size_t total;  // numbers in a family, alignment gaps included (gaps are always 0)
} TensorTable;

// A group from row `first` of the table on: joined tensors, which lie side by side.
typedef struct {
    int first, end;        // its rows
    size_t offset, size;   // of its numbers, without the gap that follows
    size_t rows, columns;  // of the matrix that a product sees; a vector: size x 1
} TensorGroup;
static inline TensorGroup tensor_group(const TensorTable* table, int first) {
    const Tensor* t = &table->list[first];
    TensorGroup group = {first, first + 1, t->offset, t->size, t->shape[0], t->shape[1]};
    while (group.end < table->count && table->list[group.end].joined) {
        group.size += table->list[group.end].size;
        group.rows += table->list[group.end++].shape[0];
    }
    return group;
}

// Where the group's numbers in a family end, with the gap that follows.
static inline size_t tensor_group_end(const TensorTable* table, const TensorGroup* group) {
    return group->end < table->count ? table->list[group->end].offset : table->total;
}

// Decides where the last row of the table lies, and so how large a family is. Nothing else does.
static inline void tensor_place(TensorTable* table) {
    int last = table->count - 1, first = last;
    while (table->list[first].joined) { first--; }
    if (first == last) { table->list[last].offset = table->total; }
    if (first < last) { table->list[last].offset = table->list[last - 1].offset + table->list[last - 1].size; }
    TensorGroup group = tensor_group(table, first);
    size_t rows = round_up(group.rows, table->list[first].ndim == 2 ? PADDED_ROWS : 1);
    table->total = group.offset + round_up(rows * group.columns, TENSOR_START);
}

// Appends a row; returns its index. d1 = 0 makes a vector of d0 numbers. Takes over `name`
// (use format_string). Decay is on exactly for tensors of two dimensions.
static inline int tensor_add(TensorTable* table, char* name, size_t d0, size_t d1, Init init, float std) {
    if (table->count == table->capacity) {
        int capacity = table->capacity ? 2 * table->capacity : 64;
        Tensor* list = (Tensor*)xalloc((size_t)capacity, sizeof(Tensor), "the tensor table");
        if (table->count) { memcpy(list, table->list, (size_t)table->count * sizeof(Tensor)); }
        free(table->list);
        table->list = list;
        table->capacity = capacity;
    }
    Tensor* t = &table->list[table->count];
    memset(t, 0, sizeof *t);
    t->name = name;
    t->ndim = d1 ? 2 : 1;
    t->shape[0] = d0;
    t->shape[1] = d1 ? d1 : 1;
    t->size = mul_size(d0, t->shape[1], name);
    t->init = init;
    t->std = std;
    t->decay = t->ndim == 2;
    table->count++;
    tensor_place(table);
    return table->count - 1;
}

// Joins the row that was added last to the one before it: its numbers then follow without a gap, so that one product
// reads both as a matrix of more rows (queries, keys and values; gate and up). Everything else sees two tensors.
static inline void tensor_join(TensorTable* table) {
    Tensor* t = &table->list[table->count - 1];
    if (table->count < 2 || t[-1].ndim != t->ndim || t[-1].shape[1] != t->shape[1]) {
        die("the tensor %s cannot be joined to the one before it: expected as many columns there", t->name);
    }
    t->joined = 1;
    tensor_place(table);
}

// The same for a tensor that layers read through `weight`: a vector of n numbers, one for each column; a table
// (rows, columns) of which positions read rows; a matrix (rows, columns) that every position is multiplied with.
static inline void tensor_vector(TensorTable* table, Weight* weight, char* name, size_t n, Init init) {
    int i = tensor_add(table, name, n, 0, init, 0);
    table->list[i].weight = weight;
}
static inline void tensor_embedding(TensorTable* table, Weight* weight, char* name, size_t rows, size_t columns,
                                    Init init, float std) {
    int i = tensor_add(table, name, rows, columns, init, std);
    table->list[i].weight = weight;
}
static inline void tensor_matrix(TensorTable* table, Weight* weight, char* name, size_t rows, size_t columns, Init init,
                                 float std) {
    tensor_embedding(table, weight, name, rows, columns, init, std);
    table->list[table->count - 1].product = table->list[table->count - 1].rounded = 1;
}

// Tells the layers where the families of the C half lie; grads may be NULL.
static inline void tensors_bind(const TensorTable* table, const real* params, real* grads) {
    for (int i = 0; i < table->count; i++) {
        const Tensor* t = &table->list[i];
        if (!t->weight) { continue; }
        t->weight->w = params + t->offset;
        t->weight->d = grads ? grads + t->offset : NULL;
        if (t->twin) { *t->twin = *t->weight; }
    }
}
// The same of the CUDA half.
static inline void tensors_bind_cuda(const TensorTable* table, const float* master, const floatX* x, float* grads) {
    for (int i = 0; i < table->count; i++) {
        const Tensor* t = &table->list[i];
        if (!t->weight) { continue; }
        t->weight->master = master + t->offset;
        t->weight->x = x + t->offset;
        t->weight->grad = grads ? grads + t->offset : NULL;
    }
}

// A matrix that is no tensor of a table.
static inline Weight weight_of(const real* w) {
    Weight weight = {w};
    return weight;
}

static inline real weight_number(Weight weight, size_t i) {
    return weight.half ? (real)float_of_bf16(weight.half[i]) : weight.w[i];
}

// What rounding did: the largest and the root mean square of |rounded - weight| / |weight| over the numbers rounded, and
// bytes of all tensors before and after it.
typedef struct {
    double largest, rms, before, after;
} TensorRounding;

// For inference: rounds all tensors of two dimensions to bf16. The front of *params, from xalloc(), takes the rounded
// numbers, each tensor at its old offset, and the rest is given back; vectors move to memory of their own. Layers then
// find all of it, but *params is NULL: there is no family any more.
static inline TensorRounding tensors_round(const TensorTable* table, real** params) {
    size_t vectors = 0, rounded = 0;
    for (int i = 0; i < table->count; i++) { *(table->list[i].ndim == 1 ? &vectors : &rounded) += table->list[i].size; }
    TensorRounding r = {0, 0, (double)table->total * sizeof(real),
                        (double)table->total * sizeof(Bf16) + (double)vectors * sizeof(real)};
    real* vector = (real*)xalloc(vectors, sizeof(real), "weights that are not rounded");
    char* memory = (char*)*params;
    double squares = 0;
    for (int i = 0; i < table->count; i++) {
        const Tensor* t = &table->list[i];
        const real* from = *params + t->offset;
        if (t->ndim == 1) {
            memcpy(vector, from, t->size * sizeof(real));
            if (t->weight) { t->weight->w = vector; }
            vector += t->size;
        }
        // From the first number to the last, and none goes further than where it came from.
        for (size_t j = 0; j < t->size && t->ndim == 2; j++) {
            float x = (float)from[j];
            Bf16 half = bf16_of_float(x);
            double error = x != 0 ? fabs(((double)float_of_bf16(half) - (double)x) / (double)x) : 0;
            squares += error * error;
            r.largest = error > r.largest ? error : r.largest;
            memcpy(memory + (t->offset + j) * sizeof half, &half, sizeof half);
        }
    }
    r.rms = sqrt(squares / (double)max_size(rounded, 1));
    char* smaller = (char*)realloc(memory, table->total * sizeof(Bf16));
    const Bf16* all = (const Bf16*)(void*)(smaller ? smaller : memory);
    for (int i = 0; i < table->count; i++) {
        const Tensor* t = &table->list[i];
        if (!t->weight || t->ndim == 1) { continue; }
        t->weight->w = NULL;
        t->weight->half = all + t->offset;
        if (t->twin) { *t->twin = *t->weight; }
    }
    *params = NULL;
    return r;
}

// The most numbers that a position has before or after one of the products.
static inline size_t tensors_widest(const TensorTable* table) {
    size_t widest = 0;
    for (int i = 0; i < table->count; i++) {
        TensorGroup group = tensor_group(table, i);
        if (table->list[i].product) { widest = max_size(widest, max_size(group.rows, group.columns)); }
    }
    return widest;
}

// FLOPs of one token in all products with weights of the table, forward and backward.
static inline double tensors_flops(const TensorTable* table) {
    double flops = 0;
    for (int i = 0; i < table->count; i++) { flops += table->list[i].product ? 6.0 * (double)table->list[i].size : 0; }
    return flops;
}

// Index of the row with this name, -1 if there is none.
static inline int tensor_find(const TensorTable* table, const char* name) {
    for (int i = 0; i < table->count; i++) {
        if (strcmp(table->list[i].name, name) == 0) { return i; }
    }
    return -1;
}

// Parameters without the alignment gaps.
static inline size_t tensor_parameters(const TensorTable* table) {
    size_t n = 0;
    for (int i = 0; i < table->count; i++) { n += table->list[i].size; }
    return n;
}

// Fills a family of parameters (= ). The numbers depend on (seed, tensor name, index) alone, so
// adding a layer or changing the thread count changes no other number.
static inline void tensor_init(const TensorTable* table, real* params, uint64_t seed) {
    for (int i = 0; i < table->count; i++) {
        const Tensor* t = &table->list[i];
        real* p = params + t->offset;
        uint64_t stream = random_stream(t->name);
#pragma omp parallel for schedule(static) if (t->size > SERIAL)
        for (size_t j = 0; j < t->size; j++) {
            switch (t->init) {
                case INIT_ZEROS: p[j] = 0; break;
                case INIT_ONES: p[j] = 1; break;
                case INIT_NORMAL: p[j] = (real)(float)(t->std * random_normal(seed, stream, j)); break;
                case INIT_TRUNCATED:
                    p[j] = (real)(float)(t->std * random_truncated_normal(seed, stream, j, 3.0));
                    break;
            }
        }
    }
}

#endif

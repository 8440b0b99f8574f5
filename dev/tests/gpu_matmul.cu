// gpu_matmul.cu - tests of common/matmul.cuh and few.cuh against a plain loop in double, and of the file of choices.
//
//     gpu_matmul [part of a test's name]
//
// Runs on a GPU and under the emulator alike. Matrices lie in NaN: before the first number, after the
// last one, and between rows where the leading dimension is longer than a row. What is read by mistake
// spoils the result, what is written by mistake is seen. Outputs that are not added to begin as NaN.
#include "../../common/matmul.cuh"
#include "test.h"

// GPUs count as in nvidia-smi, and so in make, unless the user says otherwise.
static void test_device_order(void) {
    const char* order = getenv("CUDA_DEVICE_ORDER");
    CHECK(order && strcmp(order, "PCI_BUS_ID") == 0, "CUDA_DEVICE_ORDER is %s", order ? order : "not set");
}

// ---- matrices ----

typedef struct {
    size_t rows, cols, ld;
    size_t number;       // bytes of one number: of floatX or of a float
    size_t room, first;  // numbers in all, before the first
    unsigned char* gpu;  // (room) numbers
    unsigned char* put;  // (room) numbers as they were put there
    unsigned char* now;  // (room) as they are after matrix_fetch
    double* value;       // (rows, cols) what `put` holds
} Matrix;

static uint64_t random_state;
static double random_unit(void) {
    uint64_t x = random_state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (double)((x ^ x >> 31) >> 11) / 9007199254740992.0;
}

static void number_put(unsigned char* p, size_t number, float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint16_t upper = (uint16_t)(bits >> 16);
    if (number == 2) {
        memcpy(p, &upper, 2);
    } else {
        memcpy(p, &bits, 4);
    }
}
static double number_get(const unsigned char* p, size_t number) {
    uint32_t bits = 0;
    memcpy((unsigned char*)&bits + 4 - number, p, number);  // little endian, as every GPU's host
    float x;
    memcpy(&x, &bits, 4);
    return (double)x;
}

// random 1: numbers from -1 to 1, rounded to the type; 0: NaN. shift: numbers past an aligned address.
static Matrix matrix_new(size_t rows, size_t cols, size_t ld, size_t number, size_t shift, int random) {
    enum { GUARD = 64 };
    Matrix m = {rows, cols, ld, number, 2 * GUARD + shift + rows * ld, GUARD + shift, NULL, NULL, NULL, NULL};
    m.put = (unsigned char*)xalloc(m.room, number, "a matrix");
    m.now = (unsigned char*)xalloc(m.room, number, "a matrix");
    m.value = (double*)xalloc(rows * cols, sizeof(double), "a matrix");
    for (size_t i = 0; i < m.room * number; i++) { m.put[i] = i % 2 ? 0x7f : 0xf3; }  // NaN in either type
    for (size_t i = 0; i < rows && random; i++) {
        for (size_t j = 0; j < cols; j++) {
            float x = (float)(2 * random_unit() - 1);
            uint32_t bits;
            memcpy(&bits, &x, 4);
            if (number == 2) { bits &= 0xffff0000u; }
            memcpy(&x, &bits, 4);
            number_put(m.put + (m.first + i * ld + j) * number, number, x);
            m.value[i * cols + j] = (double)x;
        }
    }
    CUDA_CHECK(cudaMalloc(&m.gpu, m.room * number));
    CUDA_CHECK(cudaMemcpy(m.gpu, m.put, m.room * number, cudaMemcpyHostToDevice));
    return m;
}
static void* matrix_at(const Matrix* m) { return m->gpu + m->first * m->number; }
static void matrix_fetch(Matrix* m) {
    CUDA_CHECK(cudaDeviceSynchronize());
    CUDA_CHECK(cudaMemcpy(m->now, m->gpu, m->room * m->number, cudaMemcpyDeviceToHost));
}
static void matrix_reset(Matrix* m) {
    CUDA_CHECK(cudaMemcpy(m->gpu, m->put, m->room * m->number, cudaMemcpyHostToDevice));
}
static double matrix_get(const Matrix* m, size_t i, size_t j) {
    return number_get(m->now + (m->first + i * m->ld + j) * m->number, m->number);
}
static void matrix_free(Matrix* m) {
    if (m->gpu) { CUDA_CHECK(cudaFree(m->gpu)); }
    free(m->put);
    free(m->now);
    free(m->value);
}
// Nothing outside of the numbers was written; nor, if it is an input, inside.
static void matrix_untouched(const char* name, Matrix* m, int input) {
    matrix_fetch(m);
    size_t bad = 0;
    for (size_t k = 0; k < m->room; k++) {
        size_t at = k - m->first;
        int inside = k >= m->first && at < m->rows * m->ld && at % m->ld < m->cols;
        if (inside && !input) { continue; }
        bad += memcmp(m->now + k * m->number, m->put + k * m->number, m->number) != 0;
    }
    CHECK(bad == 0, "%s: %zu numbers %s were changed", name, bad, input ? "of an input" : "beside the output");
}

// ---- one product ----

typedef struct {
    int trans_a, trans_b;
    size_t M, N, K, more_a, more_b, more_out;  // more_x: leading dimension beyond the row
    size_t shift;                              // of every matrix
    float alpha, beta;
    int out_float, from, bias;
} Product;

#ifdef __CUDACC__
enum { SECOND_ROUNDING = 1 };
#else
enum { SECOND_ROUNDING = 0 };  // the emulator rounds once
#endif
enum { OF_BF16, OF_FLOAT };
static double worst_error[2];  // relative to the sum of absolute products, beyond the one rounding
static const double tolerance = 1e-6;

static void product_name(char text[200], const Product* p) {
    snprintf(text, 200, "%zu x %zu x %zu, transposed %d %d, more %zu %zu %zu, shift %zu, alpha %g beta %g, %s%s%s",
             p->M, p->N, p->K, p->trans_a, p->trans_b, p->more_a, p->more_b, p->more_out, p->shift, (double)p->alpha,
             (double)p->beta, p->out_float ? "float" : "floatX", p->from ? ", from" : "", p->bias ? ", bias" : "");
}

// The one rounding that an output in bf16 must have: half a unit in its last place.
static double half_unit(double x) { return x != 0 ? ldexp(1, ilogb(x) - 8) : 0; }

// out against alpha * op(A) op(B) + beta * from + bias. An output in bf16 may be off by one rounding besides. cuBLASLt rounds
// some products before it adds to them (seen on an H100: to outputs in bf16 with beta, in all shapes, which no
// model has; the bias, where rows are not aligned): on a GPU these may have a rounding of what
// they add to.
static void product_agree(const char* name, const Product* p, const Matrix* A, const Matrix* B, const Matrix* from,
                          const Matrix* bias, const Matrix* out) {
    for (size_t i = 0; i < p->M; i++) {
        for (size_t j = 0; j < p->N; j++) {
            double sum = 0, size = 0;
            for (size_t k = 0; k < p->K; k++) {
                double a = p->trans_a ? A->value[k * p->M + i] : A->value[i * p->K + k];
                double b = p->trans_b ? B->value[j * p->K + k] : B->value[k * p->N + j];
                sum += a * b, size += fabs(a * b);
            }
            double old = p->beta != 0 ? (double)p->beta * from->value[i * p->N + j] : 0;
            double add = bias->gpu ? bias->value[j] : 0;
            double want = (double)p->alpha * sum + old + add, got = matrix_get(out, i, j);
            size = fabs((double)p->alpha) * size + fabs(old) + fabs(add);
            double rounding = out->number == 2 ? half_unit(want) : 0;
            if (SECOND_ROUNDING && out->number == 2 && (p->beta != 0 || p->bias)) {
                rounding += half_unit((double)p->alpha * sum) + (p->bias ? half_unit((double)p->alpha * sum + old) : 0);
            }
            double diff = fabs(got - want), *worst = &worst_error[out->number == 4];
            if (diff > rounding && (diff - rounding) / size > *worst) { *worst = (diff - rounding) / size; }
            if (!(diff <= rounding + tolerance * size)) {
                CHECK(0, "%s: [%zu,%zu] is %.9g, expected %.9g", name, i, j, got, want);
                return;
            }
        }
    }
}

static void product_run(const Product* p) {
    char name[200];
    product_name(name, p);
    random_state = p->M * 1000003 + p->N * 1009 + p->K + (uint64_t)p->trans_a * 7 + (uint64_t)p->trans_b;
    size_t rows_a = p->trans_a ? p->K : p->M, cols_a = p->trans_a ? p->M : p->K;
    size_t rows_b = p->trans_b ? p->N : p->K, cols_b = p->trans_b ? p->K : p->N;
    size_t number = p->out_float ? sizeof(float) : sizeof(floatX);
    Matrix A = matrix_new(rows_a, cols_a, cols_a + p->more_a, sizeof(floatX), p->shift, 1);
    Matrix B = matrix_new(rows_b, cols_b, cols_b + p->more_b, sizeof(floatX), p->shift, 1);
    Matrix out = matrix_new(p->M, p->N, p->N + p->more_out, number, p->shift, p->beta != 0 && !p->from);
    Matrix from = {0}, bias = {0};
    if (p->from) { from = matrix_new(p->M, p->N, p->N + p->more_out, number, p->shift, 1); }
    if (p->bias) { bias = matrix_new(1, p->N, p->N, sizeof(floatX), 0, 1); }
    unsigned char* first = (unsigned char*)xalloc(out.room, number, "a result");
    for (int turn = 0; turn < 2; turn++) {
        if (turn) { matrix_reset(&out); }
        if (p->out_float) {
            gemm_float_cuda("test", p->trans_a, p->trans_b, p->M, p->N, p->K, p->alpha, (const floatX*)matrix_at(&A),
                            A.ld, (const floatX*)matrix_at(&B), B.ld, p->beta, (float*)matrix_at(&out), out.ld,
                            p->from ? (const float*)matrix_at(&from) : NULL);
        } else {
            gemm_cuda("test", p->trans_a, p->trans_b, p->M, p->N, p->K, p->alpha, (const floatX*)matrix_at(&A), A.ld,
                      (const floatX*)matrix_at(&B), B.ld, p->beta, (floatX*)matrix_at(&out), out.ld,
                      p->bias ? (const floatX*)matrix_at(&bias) : NULL);
        }
        matrix_fetch(&out);
        if (turn == 0) { memcpy(first, out.now, out.room * number); }
    }
    CHECK(memcmp(first, out.now, out.room * number) == 0, "%s: a second run has other bits", name);
    product_agree(name, p, &A, &B, p->from ? &from : &out, &bias, &out);
    matrix_untouched(name, &out, 0);
    matrix_untouched(name, &A, 1);
    matrix_untouched(name, &B, 1);
    if (p->from) { matrix_untouched(name, &from, 1); }
    if (p->bias) { matrix_untouched(name, &bias, 1); }
    free(first);
    matrix_free(&A), matrix_free(&B), matrix_free(&out), matrix_free(&from), matrix_free(&bias);
}

// Each test begins without choices, or their number would run out.
static void choices_clear(void) {
    for (int i = 0; i < matmul_choice_count; i++) {
        MatmulChoice* c = &matmul_choices[i];
        if (!c->made) { continue; }
        CUBLAS_CHECK(cublasLtMatmulDescDestroy(c->operation));
        CUBLAS_CHECK(cublasLtMatrixLayoutDestroy(c->a));
        CUBLAS_CHECK(cublasLtMatrixLayoutDestroy(c->b));
        CUBLAS_CHECK(cublasLtMatrixLayoutDestroy(c->out));
    }
    matmul_choice_count = 0;
    matmul_search = 0;
}

static void errors_print(void) {
    if (sizeof(floatX) == 2) {
        printf("     bf16 outputs: error %.2e of the sum of absolute products beyond one rounding, tolerance %.1e\n",
               worst_error[OF_BF16], tolerance);
    }
    printf("     float outputs: error %.2e of the sum of absolute products, tolerance %.1e\n", worst_error[OF_FLOAT],
           tolerance);
    worst_error[OF_BF16] = worst_error[OF_FLOAT] = 0;
}

static void test_products(void) {
    static const size_t size[][3] = {{1, 1, 1},     {3, 5, 7},   {16, 8, 32}, {33, 65, 17},
                                     {64, 128, 64}, {1, 64, 40}, {70, 1, 9}};
    matmul_few = 0;  // of few rows too: few.cuh has tests of its own
    for (int k = 0; k < 7; k++) {
        choices_clear();
        for (int trans = 0; trans < 4; trans++) {
            Product p = {trans & 1, trans >> 1, size[k][0], size[k][1], size[k][2], 0, 0, 0, 0, 1, 0, 0, 0, 0};
            for (p.out_float = 0; p.out_float < 2; p.out_float++) {
                p.alpha = 1, p.beta = 0, p.from = 0, p.bias = 0, p.shift = 0;
                p.more_a = p.more_b = p.more_out = 0;
                product_run(&p);
                p.alpha = 0.5f, p.beta = 1;  // out += ...
                product_run(&p);
                p.beta = -0.25f, p.more_a = 8, p.more_b = 16, p.more_out = 8;
                product_run(&p);
                p.beta = 0, p.more_a = 1, p.more_b = 3, p.more_out = 5;  // nothing is aligned
                product_run(&p);
                p.more_a = p.more_b = p.more_out = 0, p.shift = 1;
                product_run(&p);
                p.shift = 0;
                if (p.out_float) {
                    p.from = 1, p.beta = 1.5f, p.more_out = 3;  // beta * from, out is only written
                    product_run(&p);
                    p.beta = 0;  // nor is `from` read then
                    product_run(&p);
                } else {
                    p.bias = 1, p.beta = 0;
                    product_run(&p);
                    p.beta = 1, p.more_out = 2;
                    product_run(&p);
                }
            }
        }
    }
    matmul_few = 1;
    errors_print();
}

// A long sum shows whether it is kept in fp32: in bf16, or of TF32 products in the fp32 program, its
// error would be a thousand times the tolerance.
static void test_long_sums(void) {
    choices_clear();
    for (int trans = 0; trans < 4; trans++) {
        Product p = {trans & 1, trans >> 1, 24, 40, 3000, 0, 0, 0, 0, 1, 0, 1, 0, 0};
        product_run(&p);
        p.out_float = 0;
        product_run(&p);
    }
    errors_print();
}

// ---- the three products of a layer ----

// conv: with weights (IC,OC), the conv1d_ functions.
static void layer_products(size_t N, size_t IC, size_t OC, int conv) {
    char name[100];
    snprintf(name, sizeof name, "%s N %zu IC %zu OC %zu", conv ? "conv1d" : "layer", N, IC, OC);
    random_state = N + IC * 1009 + OC * 1000003;
    size_t rows = conv ? IC : OC, columns = conv ? OC : IC;  // of the weight
    Matrix inp = matrix_new(N, IC, IC, sizeof(floatX), 0, 1);
    Matrix weight = matrix_new(rows, columns, columns, sizeof(floatX), 0, 1);
    Matrix dout = matrix_new(N, OC, OC, sizeof(floatX), 0, 1), bias = matrix_new(1, OC, OC, sizeof(floatX), 0, 1);
    Matrix none = {0};
    const floatX *x = (const floatX*)matrix_at(&inp), *w = (const floatX*)matrix_at(&weight);
    const floatX *dy = (const floatX*)matrix_at(&dout), *b = (const floatX*)matrix_at(&bias);
    for (int with_bias = 0; with_bias < 2; with_bias++) {
        Matrix out = matrix_new(N, OC, OC, sizeof(floatX), 0, 0);
        for (int turn = 0; turn < 2; turn++) {
            if (conv) {
                conv1d_forward_cuda((floatX*)matrix_at(&out), x, w, with_bias ? b : NULL, N, IC, OC);
            } else {
                matmul_forward_cuda((floatX*)matrix_at(&out), x, w, with_bias ? b : NULL, N, IC, OC);
            }
        }
        matrix_fetch(&out);
        Product p = {0, !conv, N, OC, IC, 0, 0, 0, 0, 1, 0, 0, 0, with_bias};
        product_agree(name, &p, &inp, &weight, &none, with_bias ? &bias : &none, &out);
        matrix_untouched(name, &out, 0);
        matrix_free(&out);
    }
    Matrix dinp = matrix_new(N, IC, IC, sizeof(floatX), 0, 0);
    if (conv) {
        conv1d_backward_input_cuda((floatX*)matrix_at(&dinp), dy, w, N, IC, OC);
    } else {
        matmul_backward_input_cuda((floatX*)matrix_at(&dinp), dy, w, N, IC, OC);
    }
    matrix_fetch(&dinp);
    Product p = {0, conv, N, IC, OC, 0, 0, 0, 0, 1, 0, 0, 0, 0};
    product_agree(name, &p, &dout, &weight, &none, &none, &dinp);
    matrix_untouched(name, &dinp, 0);

    Matrix dweight = matrix_new(rows, columns, columns, sizeof(float), 0, 1);  // it has a sum already
    for (int turn = 0; turn < 2; turn++) {
        if (conv) {
            conv1d_backward_weight_cuda((float*)matrix_at(&dweight), dy, x, N, IC, OC);
        } else {
            matmul_backward_weight_cuda((float*)matrix_at(&dweight), dy, x, N, IC, OC);
        }
    }
    matrix_fetch(&dweight);
    Product q = {1, 0, rows, columns, N, 0, 0, 0, 0, 2, 1, 1, 0, 0};  // twice added: alpha 2
    product_agree(name, &q, conv ? &inp : &dout, conv ? &dout : &inp, &dweight, &none, &dweight);
    matrix_untouched(name, &dweight, 0);
    matrix_untouched(name, &inp, 1), matrix_untouched(name, &weight, 1), matrix_untouched(name, &dout, 1);
    matrix_free(&inp), matrix_free(&weight), matrix_free(&dout), matrix_free(&bias), matrix_free(&dinp);
    matrix_free(&dweight);
}

static void test_layer_products(void) {
    for (int conv = 0; conv < 2; conv++) {
        choices_clear();
        layer_products(1, 1, 1, conv);
        layer_products(7, 5, 3, conv);
        layer_products(33, 40, 130, conv);
        layer_products(130, 64, 257, conv);
        layer_products(128, 96, 64, conv);
    }
    errors_print();
}

// A NaN in A spoils its row of the product, one in B its column, and nothing else.
static void test_product_nan(void) {
    choices_clear();
    enum { M = 17, N = 24, K = 40, ROW = 5 };
    for (int in_b = 0; in_b < 2; in_b++) {
        Matrix A = matrix_new(M, K, K, sizeof(floatX), 0, 1), B = matrix_new(N, K, K, sizeof(floatX), 0, 1);
        Matrix out = matrix_new(M, N, N, sizeof(floatX), 0, 0);
        Matrix* spoiled = in_b ? &B : &A;
        number_put(spoiled->put + (spoiled->first + ROW * K + 39) * sizeof(floatX), sizeof(floatX), NAN);
        matrix_reset(spoiled);
        matmul_forward_cuda((floatX*)matrix_at(&out), (const floatX*)matrix_at(&A), (const floatX*)matrix_at(&B), NULL,
                            M, K, N);
        matrix_fetch(&out);
        for (size_t i = 0; i < M; i++) {
            for (size_t j = 0; j < N; j++) {
                double x = matrix_get(&out, i, j);
                CHECK((x != x) == ((in_b ? j : i) == ROW), "[%zu,%zu] is %g with a NaN in %c", i, j, x,
                      in_b ? 'B' : 'A');
            }
        }
        matrix_free(&A), matrix_free(&B), matrix_free(&out);
    }
}

// ---- products of few rows ----

#ifdef EMULATE_SLOW
enum { FEW_SLOW = 1 };
#else
enum { FEW_SLOW = 0 };
#endif

// Every number of rows, sizes on both sides of packs, steps, tiles, slices and parts of slices; what is added, how rows
// lie and what the output is change from one to the next.
static void test_few_products(void) {
    static const size_t size[][2] = {{1, 1},     {8, 32},   {24, 40},   {33, 65},   {130, 7},   {256, 64},
                                     {257, 129}, {72, 520}, {40, 2100}, {17, 4500}, {300, 1100}};
    static const Product how[] = {
        {0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0},     {0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1},
        {0, 0, 0, 0, 0, 0, 0, 0, 0, 0.5f, 1, 1, 0, 0},  {0, 0, 0, 0, 0, 8, 16, 8, 0, 1, -0.25f, 0, 0, 1},
        {0, 0, 0, 0, 0, 1, 3, 5, 0, 1, 0, 1, 0, 0},     {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1},
        {0, 0, 0, 0, 0, 0, 8, 3, 0, -2, 1.5f, 1, 1, 0}, {0, 0, 0, 0, 0, 8, 0, 0, 0, 1, 0, 1, 1, 0},
        {0, 0, 0, 0, 0, 0, 0, 2, 0, 3, 1, 0, 0, 0}};
    enum { SIZES = sizeof size / sizeof size[0], HOWS = sizeof how / sizeof how[0] };
    choices_clear();
    int next = 0;
    for (int k = 0; k < SIZES; k++) {
        for (size_t M = 1; M <= FEW_ROWS; M += FEW_SLOW ? 5 : 1) {
            for (int trans_b = 0; trans_b < 2; trans_b++) {
                Product p = how[next++ % HOWS];
                p.trans_b = trans_b, p.M = M, p.N = size[k][0], p.K = size[k][1];
                if (next % 4 == 0) {  // rows are aligned, but end within a pack
                    p.more_a = round_up(p.K, 8) - p.K;
                    p.more_b = trans_b ? p.more_a : round_up(p.N, 8) - p.N;
                }
                product_run(&p);
            }
        }
    }
    for (int trans_b = 0; trans_b < 2; trans_b++) {  // a slice has more rows than are in shared memory at once
        Product p = how[1];
        p.trans_b = trans_b, p.M = 3, p.N = 11, p.K = 64 * FEW_PART + 700;
        product_run(&p);
    }
    few_workspace = 1;  // some columns after the other
    for (int i = 0; i < HOWS; i++) {
        Product p = how[i];
        p.M = 2, p.N = 600, p.K = 130;
        product_run(&p);
    }
    few_workspace = MATMUL_WORKSPACE;
    CHECK(matmul_choice_count == 0, "%d choices were made for products of few rows", matmul_choice_count);
    errors_print();
}

typedef struct {
    int trans_b;
    size_t N, K;
    Matrix A, B;  // (16,K) and (N,K) or (K,N)
} FewCase;

// The same numbers, wherever they lie.
static FewCase few_case(int trans_b, size_t N, size_t K, size_t shift, size_t more) {
    random_state = N * 1009 + K;
    FewCase f = {trans_b, N, K, {0}, {0}};
    f.A = matrix_new(FEW_ROWS, K, K + more, sizeof(floatX), shift, 1);
    f.B = matrix_new(trans_b ? N : K, trans_b ? K : N, (trans_b ? K : N) + more, sizeof(floatX), shift, 1);
    return f;
}
static void few_case_free(FewCase* f) {
    matrix_free(&f->A);
    matrix_free(&f->B);
}
// The first N columns of M rows of A B from `row` on; the caller frees it.
static Matrix few_run(const FewCase* f, size_t row, size_t M, size_t N) {
    Matrix out = matrix_new(M, N, N, sizeof(float), 0, 0);
    gemm_float_cuda("test", 0, f->trans_b, M, N, f->K, 1, (const floatX*)matrix_at(&f->A) + row * f->A.ld, f->A.ld,
                    (const floatX*)matrix_at(&f->B), f->B.ld, 0, (float*)matrix_at(&out), N, NULL);
    matrix_fetch(&out);
    return out;
}
// The rows from `row` on of `whole` are those of `part`, which is freed.
static void few_same(const char* what, const FewCase* f, const Matrix* whole, size_t row, Matrix part) {
    size_t wrong = 0;
    for (size_t i = 0; i < part.rows; i++) {
        const size_t at = whole->first + (row + i) * whole->ld, here = part.first + i * part.ld;
        wrong +=
            memcmp(whole->now + at * sizeof(float), part.now + here * sizeof(float), part.cols * sizeof(float)) != 0;
    }
    CHECK(wrong == 0, "N %zu, K %zu, transposed %d, %zu rows from %zu on, %s: %zu have other bits", f->N, f->K,
          f->trans_b, part.rows, row, what, wrong);
    matrix_free(&part);
}

// A row's bits hang on K and on its own numbers alone.
static void few_bits(int trans_b, size_t N, size_t K) {
    FewCase f = few_case(trans_b, N, K, 0, 0);
    Matrix whole = few_run(&f, 0, FEW_ROWS, N);
    for (size_t i = 0; i < FEW_ROWS; i += FEW_SLOW ? 7 : 1) { few_same("alone", &f, &whole, i, few_run(&f, i, 1, N)); }
    for (size_t M = 2; M < FEW_ROWS; M += FEW_SLOW ? 6 : 1) {
        few_same("together", &f, &whole, FEW_ROWS - M, few_run(&f, FEW_ROWS - M, M, N));
    }
    few_same("fewer columns", &f, &whole, 0, few_run(&f, 0, 4, N - 3));
    const int processors = device.processors;
    const int others[] = {1, 2, 1000};
    for (int i = 0; i < 3; i++) {
        device.processors = others[i];
        few_same("other processors", &f, &whole, 0, few_run(&f, 0, 16, N));
        few_same("other processors", &f, &whole, 3, few_run(&f, 3, 5, N));
    }
    device.processors = processors;
    few_workspace = 1;  // 256 columns after the other
    few_same("a small workspace", &f, &whole, 0, few_run(&f, 0, 16, N));
    few_workspace = MATMUL_WORKSPACE;
    few_case_free(&f);
    for (size_t shift = 0; shift < 2; shift++) {
        FewCase moved = few_case(trans_b, N, K, shift, shift ? 0 : 3);
        few_same("not aligned", &moved, &whole, 0, few_run(&moved, 0, 16, N));
        few_same("not aligned", &moved, &whole, 5, few_run(&moved, 5, 3, N));
        few_case_free(&moved);
    }
    matrix_free(&whole);
}
static void test_few_bits(void) {
    for (int trans_b = 0; trans_b < 2; trans_b++) {
        few_bits(trans_b, 40, 24);
        few_bits(trans_b, 136, 1096);
        if (FEW_SLOW) { continue; }
        few_bits(trans_b, 600, 64);
        few_bits(trans_b, 520, 333);
    }
}

// A NaN or an infinity in A spoils its row, in B its column, at either end of K, and nothing else; also where rows of a
// class do not exist.
static void test_few_nan(void) {
    enum { N = 40, K = 75, AT = 2 };
    for (int variant = 0; variant < 32; variant++) {
        const int trans_b = variant & 1, in_b = variant >> 1 & 1;
        const size_t k = variant & 4 ? K - 1 : 0, M = variant & 8 ? 16 : 3;
        const float bad = variant & 16 ? INFINITY : NAN;
        FewCase f = few_case(trans_b, N, K, 0, 0);
        Matrix* spoiled = in_b ? &f.B : &f.A;
        const size_t at = in_b && !trans_b ? k * N + AT : AT * K + k;
        number_put(spoiled->put + (spoiled->first + at) * sizeof(floatX), sizeof(floatX), bad);
        matrix_reset(spoiled);
        Matrix out = few_run(&f, 0, M, N);
        size_t wrong = 0;
        for (size_t i = 0; i < M; i++) {
            for (size_t j = 0; j < N; j++) {
                const double x = matrix_get(&out, i, j);
                const int here = (in_b ? j : i) == AT;
                wrong += here ? bad != bad ? x == x : !isinf(x) : !isfinite(x);
            }
        }
        CHECK(wrong == 0, "%g at %zu of %c, transposed %d, %zu rows: %zu results are wrong", (double)bad, k,
              in_b ? 'B' : 'A', trans_b, M, wrong);
        matrix_free(&out);
        few_case_free(&f);
    }
}

// A layer's product with its GELU in one launch: both results have the bits of product and GELU apart, in both layouts and forms,
// with K in one slice and in several.
static void test_few_gelu(void) {
    enum { M = 3, N = 72 };
    for (int variant = 0; variant < 8; variant++) {
        const int trans_b = variant & 1, form = variant >> 1 & 1;
        const size_t K = variant & 4 ? 333 : 40;
        FewCase f = few_case(trans_b, N, K, 0, 0);
        Matrix shift = matrix_new(1, N, N, sizeof(float), 0, 1), out[2], act[2];
        for (int apart = 0; apart < 2; apart++) {
            out[apart] = matrix_new(M, N, N, sizeof(floatX), 0, 0);
            act[apart] = matrix_new(M, N, N, sizeof(floatX), 0, 0);
            floatX *o = (floatX*)matrix_at(&out[apart]), *a = (floatX*)matrix_at(&act[apart]);
            const floatX *x = (const floatX*)matrix_at(&f.A), *w = (const floatX*)matrix_at(&f.B);
            const float* bias = (const float*)matrix_at(&shift);
            if (apart) {
                few_cuda(trans_b, M, N, K, 1, x, K, w, trans_b ? K : (size_t)N, 0, o, 0, N, NULL, NULL);
                gelu_forward_cuda(a, o, bias, M, N, form);
            } else if (trans_b) {
                matmul_gelu_forward_cuda(a, o, x, w, bias, M, K, N, form);
            } else {
                conv1d_gelu_forward_cuda(a, o, x, w, bias, M, K, N, form);
            }
            matrix_fetch(&out[apart]), matrix_fetch(&act[apart]);
        }
        size_t wrong = 0, same = 0;
        for (size_t i = 0; i < M * N; i++) {
            const double x = matrix_get(&act[0], i / N, i % N), y = matrix_get(&out[0], i / N, i % N);
            wrong += x != matrix_get(&act[1], i / N, i % N) || y != matrix_get(&out[1], i / N, i % N);
            same += x == y;  // where GELU(x) is x
        }
        CHECK(wrong == 0 && same < 20, "transposed %d, form %d, K %zu: %zu results are wrong, %zu the same", trans_b,
              form, K, wrong, same);
        for (int apart = 0; apart < 2; apart++) { matrix_free(&out[apart]), matrix_free(&act[apart]); }
        matrix_free(&shift);
        few_case_free(&f);
    }
}

// One product is one row of the ledger under its own name, with all its kernels, in a dry run too.
static void test_few_booking(void) {
    FewCase f = few_case(0, 40, 200, 0, 0);
    Matrix out = matrix_new(2, 40, 40, sizeof(floatX), 0, 0);
    for (int dry = 0; dry < 2; dry++) {
        Ledger before = ledger;
        ledger_clear();
        ledger.dry = dry;
        floatX* none = (floatX*)(uintptr_t)4096;
        conv1d_forward_cuda(dry ? none : (floatX*)matrix_at(&out), dry ? none : (const floatX*)matrix_at(&f.A),
                            dry ? none : (const floatX*)matrix_at(&f.B), NULL, 2, 200, 40);
        LedgerRow row = ledger.row[0];
        const int rows = ledger.rows, booking = ledger.booking;
        ledger = before;
        CHECK(rows == 1 && row.launches == 2 && row.product == 1 && strcmp(row.name, "forward 200 -> 40") == 0,
              "dry %d: %d rows, the first one is %s, %d launches", dry, rows, row.name, (int)row.launches);
        CHECK(row.flops == 32000 && row.bytes == (double)sizeof(floatX) * (400 + 8000 + 80) && booking,
              "dry %d: %g FLOPs, %g bytes, booking %d", dry, row.flops, row.bytes, booking);
    }
    CUDA_CHECK(cudaDeviceSynchronize());
    matrix_free(&out);
    few_case_free(&f);
}

// Different shapes have choices of their own, equal ones share one.
static void test_choice_keys(void) {
    choices_clear();
    Product p = {0, 1, 24, 24, 32, 0, 0, 0, 0, 1, 0, 0, 0, 0};
    product_run(&p);
    product_run(&p);
    CHECK(matmul_choice_count == 1, "%d choices for one shape", matmul_choice_count);
    Product other[] = {p, p, p, p, p, p, p, p};
    other[0].M = 25, other[1].trans_a = 1, other[2].out_float = 1, other[3].bias = 1, other[4].beta = 1;
    other[5].more_out = 8, other[6].shift = 1, other[7].more_a = 8;
    for (int i = 0; i < 8; i++) {
        product_run(&other[i]);
        CHECK(matmul_choice_count == i + 2, "%d choices after %d shapes", matmul_choice_count, i + 2);
    }
    CHECK(matmul_choices[0].source == MATMUL_PROPOSED, "a choice counts as timed, but nothing was");
}

// What cuBLASLt is promised of each operand: its own address, no less and no more than 256 bytes, whatever the others
// and the leading dimensions are.
static void test_alignments(void) {
    const unsigned char* none = (const unsigned char*)NULL;
    for (uint32_t align = 1; align <= 1024; align *= 2) {
        CHECK(matmul_alignment(none + 3 * (size_t)align) == min_size(align, 256), "%u: %u", align,
              matmul_alignment(none + 3 * (size_t)align));
    }
    choices_clear();
    enum { M = 24, N = 24, K = 32, ROOM = 4096 };
    floatX* memory = NULL;
    CUDA_CHECK(cudaMalloc(&memory, 6 * ROOM * sizeof(floatX)));
    CUDA_CHECK(cudaMemset(memory, 0, 6 * ROOM * sizeof(floatX)));
    CHECK((uintptr_t)memory % 256 == 0, "memory of a GPU is aligned to 256 bytes");
    const uint32_t number = sizeof(floatX);
    // Which operand is moved off its alignment: none, A, B, from, out, bias; and once all rows are longer.
    for (int moved = -1; moved < MATMUL_OPERANDS; moved++) {
        for (size_t more = 0; more < 4; more += 3) {
            floatX* at[MATMUL_OPERANDS];
            for (int i = 0; i < MATMUL_OPERANDS; i++) { at[i] = memory + (size_t)i * ROOM + (i == moved ? 8 : 0); }
            const int of_floats = moved == MATMUL_FROM;  // only such products have it
            int before = matmul_choice_count;
            matmul_any_cuda("test", 0, 1, M, N, K, 1, at[MATMUL_A], K + more, at[MATMUL_B], K + more,
                            of_floats ? 1.0f : 0.0f, at[MATMUL_OUT], of_floats, N + more,
                            of_floats ? at[MATMUL_FROM] : NULL, of_floats ? NULL : at[MATMUL_BIAS]);
            CHECK(matmul_choice_count == before + 1, "operand %d moved: %d choices", moved, matmul_choice_count);
            const uint32_t* align = matmul_choices[matmul_choice_count - 1].shape.align;
            for (int i = 0; i < MATMUL_OPERANDS; i++) {
                uint32_t want = i == moved || (i == MATMUL_FROM && moved == MATMUL_OUT) ? 8 * number : 256;
                if (i == MATMUL_BIAS && of_floats) { want = 0; }
                CHECK(align[i] == want,
                      "operand %d moved, rows %zu longer: %u bytes are promised of operand %d, not %u", moved, more,
                      align[i], i, want);
            }
        }
    }
    CUDA_CHECK(cudaDeviceSynchronize());
    CUDA_CHECK(cudaFree(memory));
    choices_clear();
}

// In a rehearsal each new shape is timed, and the product after it is right.
static void test_search(void) {
    choices_clear();
    matmul_search = 1;
    Product p = {0, 1, 48, 40, 64, 0, 0, 0, 0, 1, 0, 0, 0, 0};
    product_run(&p);
    p.bias = 1, p.more_out = 8;
    product_run(&p);
    for (int i = 0; i < matmul_choice_count; i++) {
        CHECK(matmul_choices[i].source == MATMUL_TIMED, "choice %d is not timed", i);
    }
    CHECK(matmul_choice_count == 2, "%d choices", matmul_choice_count);
    p.out_float = 1, p.bias = 0, p.from = 1, p.beta = 1;  // `from` is only read, so the result is right at once
    product_run(&p);
    CHECK(matmul_choices[2].source == MATMUL_TIMED, "the choice with `from` is not timed");
    choices_clear();
}

// A dry run books products and touches nothing: the addresses are none. conv: of weights (IC,OC).
static void dry_run(int conv) {
    choices_clear();
    Ledger before = ledger;
    ledger.dry = 1;
    ledger_clear();
    floatX* none = (floatX*)(uintptr_t)4096;
    if (conv) {
        conv1d_forward_cuda(none, none, none, NULL, 100, 30, 20);
        conv1d_backward_weight_cuda((float*)none, none, none, 100, 30, 20);
        conv1d_backward_input_cuda(none, none, none, 100, 30, 20);
    } else {
        matmul_forward_cuda(none, none, none, NULL, 100, 30, 20);
        matmul_backward_weight_cuda((float*)none, none, none, 100, 30, 20);
        matmul_backward_input_cuda(none, none, none, 100, 30, 20);
    }
    LedgerRow forward = ledger.row[0], weight = ledger.row[1], input = ledger.row[2];
    int rows = ledger.rows;
    ledger = before;
    const double X = sizeof(floatX);
    CHECK(rows == 3 && forward.product == 1 && weight.product == 1 && input.product == 1, "%d rows", rows);
    CHECK(strcmp(forward.name, "forward 30 -> 20") == 0 &&
              strcmp(weight.name, conv ? "dW 30 x 20" : "dW 20 x 30") == 0 && strcmp(input.name, "dx 30 <- 20") == 0,
          "rows are named '%s', '%s', '%s'", forward.name, weight.name, input.name);
    CHECK(forward.flops == 120000 && weight.flops == 120000, "%g and %g FLOPs", forward.flops, weight.flops);
    CHECK(forward.bytes == X * (100 * 30 + 30 * 20 + 100 * 20), "%g bytes", forward.bytes);
    CHECK(weight.bytes == X * (100 * 30 + 100 * 20) + 8 * 30 * 20, "%g bytes", weight.bytes);  // in and out
    CHECK(matmul_choice_count == 0, "a dry run made %d choices", matmul_choice_count);
}
static void test_dry_run(void) {
    dry_run(0);
    dry_run(1);
}

// ---- the file of choices ----

static char* file_read(const char* path) {
    FILE* f = fopen(path, "r");
    if (!f) { return NULL; }
    StringBuilder sb = {0};
    char chunk[4096];
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;) { sb_append(&sb, chunk, n); }
    sb_append(&sb, "", 0);
    fclose(f);
    return sb.data;
}
static void file_write(const char* path, const char* text) {
    FILE* f = fopen(path, "w");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0) { die("%s could not be written", path); }
}

static char *choices_directory, *choices_path;
static void choices_place(void) {
    choices_directory = test_directory("matmul");
    choices_path = format_string("%s/matmul.txt", choices_directory);
}
static void choices_remove(void) {
    unlink(choices_path);
    if (rmdir(choices_directory) != 0) { CHECK(0, "%s holds more than the file of choices", choices_directory); }
    free(choices_directory);
    free(choices_path);
}

// The bytes of a product of a fixed shape, with the choice that is there. The caller frees.
static unsigned char* bits_of_a_product(void) {
    random_state = 5;
    enum { M = 30, N = 20, K = 1000 };
    Matrix A = matrix_new(M, K, K, sizeof(floatX), 0, 1), B = matrix_new(N, K, K, sizeof(floatX), 0, 1);
    Matrix out = matrix_new(M, N, N, sizeof(float), 0, 0);
    gemm_float_cuda("test", 0, 1, M, N, K, 1, (const floatX*)matrix_at(&A), K, (const floatX*)matrix_at(&B), K, 0,
                    (float*)matrix_at(&out), N, NULL);
    matrix_fetch(&out);
    unsigned char* bytes = (unsigned char*)xalloc(M * N, sizeof(float), "a result");
    memcpy(bytes, out.now + out.first * sizeof(float), M * N * sizeof(float));
    matrix_free(&A), matrix_free(&B), matrix_free(&out);
    return bytes;
}
enum { PRODUCT_BYTES = 30 * 20 * 4 };

// Written and read back, a choice gives the bits it gave, also where it is not the library's first one.
static void test_choices_file(void) {
    choices_clear();
    choices_place();
    Product p = {0, 1, 24, 24, 32, 0, 0, 0, 0, 1, 0, 0, 0, 1};
    product_run(&p);  // a choice that was not timed is not worth a line
    free(bits_of_a_product());
    CHECK(matmul_choice_count == 2, "%d choices", matmul_choice_count);
    MatmulChoice* c = &matmul_choices[1];
    cublasLtMatmulHeuristicResult_t result[MATMUL_PROPOSALS];
    int count = matmul_propose(c, result);
    c->algorithm = result[count - 1].algo;
    c->source = MATMUL_TIMED;
    unsigned char* before = bits_of_a_product();
    MatmulChoice kept = *c;
    matmul_write_choices(choices_path, MATMUL_OF_MACHINE);

    choices_clear();
    unsigned char* first_choice = bits_of_a_product();
    choices_clear();
    int read = matmul_read_choices(choices_path, MATMUL_OF_MACHINE);
    CHECK(read == 1 && matmul_choice_count == 1, "%d choices were read, 1 was written", read);
    CHECK(memcmp(&matmul_choices[0].shape, &kept.shape, sizeof kept.shape) == 0, "the shape came back changed");
    CHECK(memcmp(&matmul_choices[0].algorithm, &kept.algorithm, sizeof kept.algorithm) == 0,
          "the algorithm came back changed");
    unsigned char* after = bits_of_a_product();
    CHECK(matmul_choice_count == 1, "the choice that was read was not used");
    CHECK(memcmp(before, after, PRODUCT_BYTES) == 0, "a choice that was read gives other bits");
    if (memcmp(before, first_choice, PRODUCT_BYTES) == 0) {
        printf("     the first and the last proposal give the same bits here: a weak test\n");
    }
    // What was read is written again as it was.
    char* text = file_read(choices_path);
    matmul_write_choices(choices_path, MATMUL_OF_MACHINE);
    char* again = file_read(choices_path);
    CHECK(text && again && strcmp(text, again) == 0, "written again the file differs:\n%s\n%s", text, again);
    free(before), free(first_choice), free(after), free(text), free(again);
    choices_remove();
}

static void test_choices_foreign(void) {
    choices_clear();
    choices_place();
    CHECK(matmul_read_choices(choices_path, MATMUL_OF_MACHINE) == 0, "choices from a file that is not there");
    matmul_search = 1;
    free(bits_of_a_product());
    matmul_search = 0;
    matmul_write_choices(choices_path, MATMUL_OF_MACHINE);
    char* text = file_read(choices_path);
    const char* lines = strchr(text, '\n') + 1;
    char key[512];
    matmul_key(key, sizeof key);
    CHECK(strncmp(text, key, strlen(key)) == 0, "the key is not the first line: %s", text);
    // Another GPU, another library, a key that goes on, no key, nothing.
    const char* keys[] = {"gpu another sm 80 cublaslt 120400 " PRECISION "\n", NULL, NULL, "", "\n"};
    char* newer = format_string("gpu %s sm %d cublaslt %llu " PRECISION "\n", device.name, device.sm,
                                (unsigned long long)cublasLtGetVersion() + 1);
    char* longer = format_string("%s0\n", key);
    keys[1] = newer, keys[2] = longer;
    for (int k = 0; k < 5; k++) {
        char* file = format_string("%s%s", keys[k], lines);
        file_write(choices_path, file);
        choices_clear();
        int read = matmul_read_choices(choices_path, MATMUL_OF_MACHINE);
        CHECK(read == 0 && matmul_choice_count == 0, "%d choices were read below the key '%s'", read, keys[k]);
        free(file);
    }
    file_write(choices_path, "");
    CHECK(matmul_read_choices(choices_path, MATMUL_OF_MACHINE) == 0, "choices from an empty file");
    // Broken lines are left out, whole ones beside them are read; a last line without its end is one too.
    char* file = format_string(
        "%s\nrubbish\n\n0 1 0 0 0 5 6\n0 1 0 0 0 1 2 3 4 5 6 16\n0 1 0 0 0 1 2 3 4 5 6 16 1 2 3 4 5 6 7 8\n"
        "0 1 0 0 0 1 2 3 4 5 6 16 16 16 16 0 1 2 3 4 5 6 7\n"
        "0 1 0 0 0 1 2 3 4 5 6 16 16 16 16 0 1 2 zz 4 5 6 7 8\n%s0 1 x 0 0 1 2 3 4 5 6 16 16 16 16 0 1 2 3 4 5 6 7 8",
        key, lines);
    file_write(choices_path, file);
    choices_clear();
    int read = matmul_read_choices(choices_path, MATMUL_OF_MACHINE);
    CHECK(read == 1 && matmul_choices[0].shape.K == 1000, "%d choices were read of 1 whole and 7 broken lines", read);
    free(file), free(newer), free(longer), free(text);
    choices_clear();
    choices_remove();
}

// The files of a run and of the machine are read one after the other: what the first says stands.
static void test_choices_first_file(void) {
    choices_clear();
    choices_place();
    char key[512];
    matmul_key(key, sizeof key);
    static const char* const lines[] = {"0 1 0 0 0 16 24 32 32 32 24 256 256 256 256 0 1 2 3 4 5 6 7 8\n",
                                        "0 1 0 0 0 16 24 32 32 32 24 256 256 256 256 0 9 9 9 9 9 9 9 9\n"
                                        "0 1 0 0 0 17 24 32 32 32 24 256 256 256 256 0 a a a a a a a a\n"};
    int read[2];
    for (int i = 0; i < 2; i++) {
        char* file = format_string("%s\n%s", key, lines[i]);
        file_write(choices_path, file);
        read[i] = matmul_read_choices(choices_path, MATMUL_OF_MACHINE);
        free(file);
    }
    CHECK(read[0] == 1 && read[1] == 1 && matmul_choice_count == 2, "%d and %d choices were read, %d are there",
          read[0], read[1], matmul_choice_count);
    CHECK(matmul_choices[0].shape.M == 16 && matmul_choices[0].algorithm.data[0] == 1, "the second file displaced %llu",
          (unsigned long long)matmul_choices[0].shape.M);
    CHECK(matmul_choices[1].shape.M == 17 && matmul_choices[1].algorithm.data[0] == 10, "a shape of the second file");
    choices_clear();
    choices_remove();
}

// A choice from a file that the library does not take: the machine's is chosen anew, and the file then mended; the
// run's own ends the run, since another algorithm would give other bits.
static const char broken_choice[] = "0 1 1 0 0 30 20 1000 1000 1000 20 %u %u 256 256 0 ffff 2 3 4 5 6 7 8\n";
static void write_broken_choice(const char* path) {
    char key[512], line[200];
    matmul_key(key, sizeof key);
    const uint32_t aligned = 64 * sizeof(floatX) < 256 ? 128 : 256;  // behind the guards of a test's matrices
    snprintf(line, sizeof line, broken_choice, aligned, aligned);
    char* file = format_string("%s\n%s", key, line);
    file_write(path, file);
    free(file);
}
static void run_broken_choice(void* path) {
    device_open();
    write_broken_choice((const char*)path);
    matmul_read_choices((const char*)path, MATMUL_OF_RUN);
    free(bits_of_a_product());
    printf("goes on\n");
}
static void read_foreign_choices(void* path) {
    device_open();
    file_write((const char*)path, "gpu another sm 80 cublaslt 1 bf16\n0 1 0\n");
    printf("%d choices\n", matmul_read_choices((const char*)path, MATMUL_OF_RUN));
}
static void test_choices_checked(void) {
    choices_clear();
    choices_place();
    unsigned char* right = bits_of_a_product();
    for (int search = 0; search < 2; search++) {
        write_broken_choice(choices_path);
        choices_clear();
        CHECK(matmul_read_choices(choices_path, MATMUL_OF_MACHINE) == 1, "the broken choice was not read");
        matmul_search = search;
        unsigned char* got = bits_of_a_product();
        CHECK(matmul_choice_count == 1, "the broken choice is of another shape: %d choices", matmul_choice_count);
        CHECK(matmul_choices[0].source == (search ? MATMUL_TIMED : MATMUL_PROPOSED), "its source is %d",
              (int)matmul_choices[0].source);
        CHECK(search || memcmp(got, right, PRODUCT_BYTES) == 0, "what was chosen anew is not the first proposal");
        free(got);
    }
    matmul_write_choices(choices_path, MATMUL_OF_MACHINE);
    choices_clear();
    matmul_read_choices(choices_path, MATMUL_OF_MACHINE);
    free(bits_of_a_product());
    CHECK(matmul_choices[0].source == MATMUL_OF_MACHINE, "the file was not mended");
    free(right);
    choices_clear();
    choices_remove();
}
// In children, which may use a GPU only while this process does not.
static void test_choices_lost(void) {
    choices_place();
    char* output = NULL;
    int code = run_child(run_broken_choice, choices_path, &output);
    CHECK(code == 1 && strstr(output, choices_path) && strstr(output, "30 x 20 x 1000") &&
              strstr(output, "other bits") && !strstr(output, "goes on"),
          "a run's own choice that does not hold: exit code %d, it said: %s", code, output);
    free(output);
    code = run_child(read_foreign_choices, choices_path, &output);
    CHECK(code == 0 && strstr(output, "warning") &&
              strstr(output, "for \"gpu another sm 80 cublaslt 1 bf16\", this is \"gpu ") &&
              strstr(output, "0 choices"),
          "a run that comes from another GPU: exit code %d, it said: %s", code, output);
    free(output);
    choices_remove();
}

// The run's file gets what the run uses: what the machine's has besides was never checked.
static void test_choices_of_run(void) {
    choices_clear();
    choices_place();
    write_broken_choice(choices_path);
    matmul_read_choices(choices_path, MATMUL_OF_MACHINE);
    matmul_search = 1;
    Product p = {0, 1, 24, 24, 32, 0, 0, 0, 0, 1, 0, 0, 0, 0};
    product_run(&p);
    matmul_search = 0;
    matmul_write_choices(choices_path, MATMUL_OF_RUN);
    choices_clear();
    int read = matmul_read_choices(choices_path, MATMUL_OF_RUN);
    CHECK(read == 1 && matmul_choices[0].shape.M == 24, "%d choices in the file of a run that used one", read);
    choices_clear();
    choices_remove();
}

static void write_nowhere(void* path) {
    matmul_write_choices((const char*)path, MATMUL_OF_RUN);
    printf("goes on\n");
}
static void test_choices_unwritable(void) {
    choices_place();
    // No such directory; and a directory where the file should be, so that only the last step fails.
    char* nowhere = format_string("%s/missing/matmul.txt", choices_directory);
    char* taken = format_string("%s/taken", choices_directory);
    char* inside = format_string("%s/taken/inside", choices_directory);
    char command[300];
    snprintf(command, sizeof command, "mkdir -p '%s'", inside);
    CHECK(system(command) == 0, "mkdir");
    char* paths[] = {nowhere, taken};
    for (int k = 0; k < 2; k++) {
        char* output = NULL;
        int code = run_child(write_nowhere, paths[k], &output);
        CHECK(code == 0 && strstr(output, "warning") && strstr(output, paths[k]) && strstr(output, "goes on"),
              "exit code %d, it said: %s", code, output);
        free(output);
    }
    rmdir(inside);
    rmdir(taken);
    free(nowhere), free(taken), free(inside);
    choices_remove();
}

static void read_and_write(void* path) {
    signal(SIGALRM, SIG_DFL);
    alarm(20);  // who waits for a FIFO ends by it
    CHECK(matmul_read_choices((const char*)path, MATMUL_OF_MACHINE) == 0, "choices from what is no file");
    write_nowhere(path);
}
// What is no file is neither waited for nor replaced; a link stays, and its target is replaced.
static void test_choices_no_file(void) {
    choices_place();
    char* fifo = format_string("%s/fifo", choices_directory);
    char* link = format_string("%s/link", choices_directory);
    char* file = format_string("%s/file", choices_directory);
    CHECK(mkfifo(fifo, 0600) == 0, "mkfifo");
    for (int k = 0; k < 2; k++) {
        unlink(link);
        CHECK(symlink(k ? "file" : "fifo", link) == 0, "symlink");
        char* output = NULL;
        int code = run_child(read_and_write, link, &output);
        struct stat info;
        CHECK(code == 0 && (strstr(output, "found a FIFO") != NULL) == !k && strstr(output, "goes on"),
              "exit code %d, it said: %s", code, output);
        CHECK(lstat(link, &info) == 0 && S_ISLNK(info.st_mode) && stat(fifo, &info) == 0 && S_ISFIFO(info.st_mode) &&
                  (stat(file, &info) == 0) == k,
              "something was replaced");
        free(output);
    }
    unlink(fifo), unlink(link), unlink(file);
    free(fifo), free(link), free(file);
    choices_remove();
}

int main(int argc, char** argv) {
    test_begin(argc, argv);
    ledger.booking = 1;      // a product that states() does not precede dies
    RUN(test_choices_lost);  // forks: a child may use the GPU only while this process has not
    device_open();
    printf("gpu_matmul: %s, on %s\n", PRECISION, device.name);
    RUN(test_device_order);
    RUN(test_products);
    RUN(test_long_sums);
    RUN(test_layer_products);
    RUN(test_product_nan);
    RUN(test_few_products);
    RUN(test_few_bits);
    RUN(test_few_nan);
    RUN(test_few_gelu);
    RUN(test_few_booking);
    RUN(test_choice_keys);
    RUN(test_alignments);
    RUN(test_search);
    RUN(test_dry_run);
    RUN(test_choices_file);
    RUN(test_choices_foreign);
    RUN(test_choices_first_file);
    RUN(test_choices_checked);
    RUN(test_choices_of_run);
    RUN(test_choices_unwritable);
    RUN(test_choices_no_file);
    return test_end();
}

// matmul.cuh - plain matrix products on the GPU, by cuBLASLt; those of few rows by kernels of ours (few.cuh).
//
//     out (M,N) = alpha * op(A) (M,K) op(B) (K,N) + beta * from (M,N) + bias (N)     all row-major
//
// A and B are floatX; out is floatX or float; sums are fp32; the fp32 program uses no TF32. cuBLASLt
// counts in columns, and a row-major matrix is the transpose of a column-major one, so it is asked
// for out^T = op(B)^T op(A)^T: the operands change places and nothing is moved.
//
// Which algorithm computes a product decides its bits, so it is chosen once per shape and alignment and kept:
// by timing in a rehearsal (matmul_search = 1), else the library's first proposal. The choices are
// written beside the checkpoints, for a resumed run, and beside the program, for other runs; keyed by GPU,
// library and shape. Products of few rows (decoded tokens) have no choice: their bits do not hang on their shape.
#ifndef PONDER_MATMUL_CUH
#define PONDER_MATMUL_CUH

#include "few.cuh"
#include "open.h"

// cuBLASLt leaves out algorithms that want more alignment than it is promised, up to 256 bytes. What is promised is
// what an operand's address has; leading dimensions it knows.
enum { MATMUL_A, MATMUL_B, MATMUL_FROM, MATMUL_OUT, MATMUL_BIAS, MATMUL_OPERANDS, MATMUL_ALIGNMENT = 256 };

typedef struct {
    int trans_a, trans_b, out_float, has_bias, has_beta;
    uint64_t M, N, K, lda, ldb, ldo;
    uint32_t align[MATMUL_OPERANDS];  // bytes that each address is a multiple of, at most 256; no bias: 0
} MatmulShape;

// Where an algorithm comes from: the library's first proposal, or timing: now, in a run that wrote the file beside the
// program, in the run that is resumed.
typedef enum { MATMUL_PROPOSED, MATMUL_TIMED, MATMUL_OF_MACHINE, MATMUL_OF_RUN } MatmulSource;

typedef struct {
    MatmulShape shape;
    MatmulSource source;
    int made;  // 1: the descriptors below exist
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, out;
    cublasLtMatmulAlgo_t algorithm;
} MatmulChoice;

enum { MATMUL_PROPOSALS = 16 };
static MatmulChoice* matmul_choices;  // moves when it grows
static int matmul_choice_count, matmul_choice_room;
static int matmul_search;      // 1: time the proposals for a shape that is new; outputs are then garbage
static int matmul_few = 1;     // 0: cuBLASLt computes products of few rows too, to be compared with
static char* matmul_run_file;  // what the choices of MATMUL_OF_RUN were read from

// The largest power of two up to 256 that divides an address.
static inline uint32_t matmul_alignment(const void* address) {
    uintptr_t bits = (uintptr_t)address | MATMUL_ALIGNMENT;
    return (uint32_t)(bits & (~bits + 1));
}

static inline void matmul_set_bias(const MatmulChoice* c, const floatX* bias) {
    if (!c->shape.has_bias) { return; }
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(c->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
}

// The bias is part of what is described: proposals depend on its alignment.
static inline void matmul_describe(MatmulChoice* c, const floatX* bias) {
    const MatmulShape* s = &c->shape;
    cudaDataType_t in = sizeof(floatX) == 2 ? CUDA_R_16BF : CUDA_R_32F, out = s->out_float ? CUDA_R_32F : in;
    // The operands in cuBLASLt's order: its A is our B.
    cublasOperation_t op_a = s->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = s->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    CUBLAS_CHECK(cublasLtMatmulDescCreate(&c->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(c->operation, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a));
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(c->operation, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof op_b));
    if (s->has_bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        CUBLAS_CHECK(
            cublasLtMatmulDescSetAttribute(c->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    }
    matmul_set_bias(c, bias);
    CUBLAS_CHECK(
        cublasLtMatrixLayoutCreate(&c->a, in, s->trans_b ? s->K : s->N, s->trans_b ? s->N : s->K, (int64_t)s->ldb));
    CUBLAS_CHECK(
        cublasLtMatrixLayoutCreate(&c->b, in, s->trans_a ? s->M : s->K, s->trans_a ? s->K : s->M, (int64_t)s->lda));
    CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&c->out, out, s->N, s->M, (int64_t)s->ldo));
    c->made = 1;
}

static inline cublasStatus_t matmul_run(const MatmulChoice* c, const cublasLtMatmulAlgo_t* algorithm, void* out,
                                        const floatX* A, const floatX* B, const void* from, const floatX* bias,
                                        float alpha, float beta) {
    matmul_set_bias(c, bias);
    return cublasLtMatmul(device.lt, c->operation, &alpha, B, c->a, A, c->b, &beta, from, c->out, out, c->out,
                          algorithm, device.workspace, MATMUL_WORKSPACE, device.stream);
}

// The library's proposals for a shape, without those that it marks as failed. Reductions across thread blocks only through a workspace, whose
// order is fixed: two runs give the same bits.
static inline int matmul_propose(const MatmulChoice* c, cublasLtMatmulHeuristicResult_t* result) {
    size_t workspace = MATMUL_WORKSPACE;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasLtMatmulPreference_t wish;
    CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&wish));
    CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                      sizeof workspace));
    CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                                                      sizeof reductions));
    const struct {  // the library's A is our B
        cublasLtMatmulPreferenceAttributes_t what;
        int operand;
    } aligned[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, MATMUL_B},
                   {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, MATMUL_A},
                   {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, MATMUL_FROM},
                   {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, MATMUL_OUT}};
    for (int i = 0; i < 4; i++) {
        const uint32_t* promised = &c->shape.align[aligned[i].operand];
        CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(wish, aligned[i].what, promised, sizeof *promised));
    }
    int found = 0, count = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(device.lt, c->operation, c->a, c->b, c->out, c->out, wish,
                                                           MATMUL_PROPOSALS, result, &found);
    CUBLAS_CHECK(cublasLtMatmulPreferenceDestroy(wish));
    for (int i = 0; i < found && status == CUBLAS_STATUS_SUCCESS; i++) {
        if (result[i].state == CUBLAS_STATUS_SUCCESS) { result[count++] = result[i]; }
    }
    if (count == 0) {
        const MatmulShape* s = &c->shape;
        die("cuBLASLt has no algorithm for a product of %llu x %llu x %llu (transposed %d %d; A, B, C, D and bias "
            "aligned to %u, %u, %u, %u, %u bytes): %s",
            (unsigned long long)s->M, (unsigned long long)s->N, (unsigned long long)s->K, s->trans_a, s->trans_b,
            s->align[MATMUL_A], s->align[MATMUL_B], s->align[MATMUL_FROM], s->align[MATMUL_OUT], s->align[MATMUL_BIAS],
            status != CUBLAS_STATUS_SUCCESS ? cublasLtGetStatusString(status)
            : found                         ? "it marks all that it proposes as failed"
                                            : "it proposes none");
    }
    return count;
}

// Whether the library takes the algorithm that a choice has from a file.
static inline cublasStatus_t matmul_check(const MatmulChoice* c) {
    cublasLtMatmulHeuristicResult_t result;
    memset(&result, 0, sizeof result);
    cublasStatus_t status =
        cublasLtMatmulAlgoCheck(device.lt, c->operation, c->a, c->b, c->out, c->out, &c->algorithm, &result);
    if (status == CUBLAS_STATUS_SUCCESS) { status = result.state; }
    return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize > MATMUL_WORKSPACE ? CUBLAS_STATUS_NOT_SUPPORTED
                                                                                      : status;
}

// The fastest of the proposals on this machine; the outputs are overwritten many times.
static inline void matmul_time(MatmulChoice* c, void* out, const floatX* A, const floatX* B, const void* from,
                               const floatX* bias, float alpha, float beta) {
    cublasLtMatmulHeuristicResult_t result[MATMUL_PROPOSALS];
    int count = matmul_propose(c, result), best = -1;
    cudaEvent_t begin, end;
    CUDA_CHECK(cudaEventCreate(&begin));
    CUDA_CHECK(cudaEventCreate(&end));
    enum { TURNS = 4, IN_A_ROW = 4 };  // in a row: what the host takes to launch one must not be what is timed
    float fastest[MATMUL_PROPOSALS], best_ms = 0;
    for (int i = 0; i < count; i++) { fastest[i] = -1; }
    for (int turn = 0; turn < TURNS; turn++) {  // the first one warms up; by turns, so that a rising clock favours none
        for (int i = 0; i < count; i++) {
            int good = 1;
            CUDA_CHECK(cudaEventRecord(begin, device.stream));
            for (int k = 0; k < IN_A_ROW && good; k++) {
                good = matmul_run(c, &result[i].algo, out, A, B, from, bias, alpha, beta) == CUBLAS_STATUS_SUCCESS;
            }
            if (!good) { continue; }
            CUDA_CHECK(cudaEventRecord(end, device.stream));
            CUDA_CHECK(cudaEventSynchronize(end));
            float ms = 0;
            CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
            if (turn > 0 && (fastest[i] < 0 || ms < fastest[i])) { fastest[i] = ms; }
            work_goes_on();
        }
    }
    for (int i = 0; i < count; i++) {
        if (fastest[i] >= 0 && (best < 0 || fastest[i] < best_ms)) { best = i, best_ms = fastest[i]; }
    }
    CUDA_CHECK(cudaEventDestroy(begin));
    CUDA_CHECK(cudaEventDestroy(end));
    if (best < 0) { die("cuBLASLt: none of its %d proposals for a product could be run", count); }
    c->algorithm = result[best].algo;
    c->source = MATMUL_TIMED;
}

static inline MatmulChoice* matmul_choice(const MatmulShape* shape) {
    for (int i = 0; i < matmul_choice_count; i++) {
        if (memcmp(&matmul_choices[i].shape, shape, sizeof *shape) == 0) { return &matmul_choices[i]; }
    }
    if (matmul_choice_count == matmul_choice_room) {
        int room = matmul_choice_room ? 2 * matmul_choice_room : 128;
        MatmulChoice* list = (MatmulChoice*)xalloc((size_t)room, sizeof *list, "choices of products");
        if (matmul_choice_count) { memcpy(list, matmul_choices, (size_t)matmul_choice_count * sizeof *list); }
        free(matmul_choices);
        matmul_choices = list, matmul_choice_room = room;
    }
    MatmulChoice* c = &matmul_choices[matmul_choice_count++];
    memset(c, 0, sizeof *c);
    c->shape = *shape;
    return c;
}

// A choice of the run that is resumed cannot be kept: another one would give other bits, which is not ours to decide.
__attribute__((noreturn)) static inline void matmul_lost(const MatmulChoice* c, cublasStatus_t status) {
    const MatmulShape* s = &c->shape;
    die("%s: cuBLASLt does not take the algorithm that this run chose for a product of %llu x %llu x %llu (%s), so it "
        "cannot go on bit for bit; is the file damaged? Without it, algorithms are chosen anew, with other bits from "
        "here on",
        matmul_run_file ? matmul_run_file : "products.txt", (unsigned long long)s->M, (unsigned long long)s->N,
        (unsigned long long)s->K, cublasLtGetStatusName(status));
}

// out and from are float if out_float, else floatX; from = NULL: out itself. bias may be NULL. `what`
// names the product in the ledger.
static inline void matmul_any_cuda(const char* what, int trans_a, int trans_b, size_t M, size_t N, size_t K,
                                   float alpha, const floatX* A, size_t lda, const floatX* B, size_t ldb, float beta,
                                   void* out, int out_float, size_t ldo, const void* from, const floatX* bias) {
    size_t number = out_float ? sizeof(float) : sizeof(floatX);
    states(2.0 * (double)M * (double)N * (double)K,
           ((double)M * (double)K + (double)K * (double)N) * (double)sizeof(floatX) +
               (double)M * (double)N * (double)number * (beta != 0 ? 2 : 1));
    const int few = matmul_few && !trans_a && M <= FEW_ROWS, wanted = ledger_launch(what, 1);
    if (few) { ledger_more(few_kernels(trans_b, K) - 1); }
    if (!wanted) { return; }
    if (few) {
        few_cuda(trans_b, M, N, K, alpha, A, lda, B, ldb, beta, out, out_float, ldo, from, bias);
        return;
    }
    MatmulShape shape;
    memset(&shape, 0, sizeof shape);  // its padding too: shapes are compared as bytes
    shape.trans_a = trans_a, shape.trans_b = trans_b, shape.out_float = out_float;
    shape.has_bias = bias != NULL, shape.has_beta = beta != 0;
    shape.M = M, shape.N = N, shape.K = K, shape.lda = lda, shape.ldb = ldb, shape.ldo = ldo;
    if (!from || beta == 0) { from = out; }
    const void* const operands[MATMUL_OPERANDS] = {A, B, from, out, bias};
    for (int i = 0; i < MATMUL_OPERANDS; i++) { shape.align[i] = operands[i] ? matmul_alignment(operands[i]) : 0; }
    MatmulChoice* c = matmul_choice(&shape);
    if (!c->made) {
        matmul_describe(c, bias);
        int from_file = c->source == MATMUL_OF_MACHINE || c->source == MATMUL_OF_RUN;
        cublasStatus_t holds = from_file ? matmul_check(c) : CUBLAS_STATUS_SUCCESS;
        if (holds != CUBLAS_STATUS_SUCCESS && c->source == MATMUL_OF_RUN) { matmul_lost(c, holds); }
        if (holds != CUBLAS_STATUS_SUCCESS || !from_file) {
            c->source = MATMUL_PROPOSED;
            if (matmul_search) {
                matmul_time(c, out, A, B, from, bias, alpha, beta);
            } else {
                cublasLtMatmulHeuristicResult_t result[MATMUL_PROPOSALS];
                matmul_propose(c, result);
                c->algorithm = result[0].algo;
            }
        }
    }
    cublasStatus_t status = matmul_run(c, &c->algorithm, out, A, B, from, bias, alpha, beta);
    if (status != CUBLAS_STATUS_SUCCESS && c->source == MATMUL_OF_RUN) { matmul_lost(c, status); }
    if (status != CUBLAS_STATUS_SUCCESS && c->source == MATMUL_OF_MACHINE) {
        die("cuBLASLt: the algorithm of a product that an earlier run chose gave %s; remove products_" PRECISION
            ".txt beside the program, and it is chosen anew",
            cublasLtGetStatusName(status));
    }
    CUBLAS_CHECK(status);
}

static inline void gemm_cuda(const char* what, int trans_a, int trans_b, size_t M, size_t N, size_t K, float alpha,
                             const floatX* A, size_t lda, const floatX* B, size_t ldb, float beta, floatX* out,
                             size_t ldo, const floatX* bias) {
    matmul_any_cuda(what, trans_a, trans_b, M, N, K, alpha, A, lda, B, ldb, beta, out, 0, ldo, NULL, bias);
}
// The same with sums that stay in fp32: out (M,N) = ... + beta * from (M,N).
static inline void gemm_float_cuda(const char* what, int trans_a, int trans_b, size_t M, size_t N, size_t K,
                                   float alpha, const floatX* A, size_t lda, const floatX* B, size_t ldb, float beta,
                                   float* out, size_t ldo, const float* from) {
    matmul_any_cuda(what, trans_a, trans_b, M, N, K, alpha, A, lda, B, ldb, beta, out, 1, ldo, from, NULL);
}

// The products of a layer; in the ledger their shapes name them.
enum { MATMUL_NAME = 64 };

// out (N,OC) = inp (N,IC) weight (OC,IC)^T + bias (OC, or NULL)
static inline void matmul_forward_cuda(floatX* out, const floatX* inp, const floatX* weight, const floatX* bias,
                                       size_t N, size_t IC, size_t OC) {
    char what[MATMUL_NAME];
    snprintf(what, sizeof what, "forward %zu -> %zu", IC, OC);
    gemm_cuda(what, 0, 1, N, OC, IC, 1, inp, IC, weight, IC, 0, out, OC, bias);
}
// The same without a bias of its own, then act (N,OC) = GELU(out + bias), bias (OC) in fp32; of few rows in one launch. conv:
// weight is (IC,OC), as conv1d_forward_cuda() has it.
static inline void product_gelu_cuda(floatX* act, floatX* out, const floatX* inp, const floatX* weight,
                                     const float* bias, int conv, size_t N, size_t IC, size_t OC, int tanh_form) {
    char what[MATMUL_NAME];
    if (!matmul_few || N > FEW_ROWS) {
        snprintf(what, sizeof what, "forward %zu -> %zu", IC, OC);
        gemm_cuda(what, 0, !conv, N, OC, IC, 1, inp, IC, weight, conv ? OC : IC, 0, out, OC, NULL);
        gelu_forward_cuda(act, out, bias, N, OC, tanh_form);
        return;
    }
    snprintf(what, sizeof what, "forward %zu -> %zu, GELU", IC, OC);
    states(2.0 * (double)N * (double)IC * (double)OC,
           (double)sizeof(floatX) * ((double)IC * (double)OC + (double)N * (double)(IC + 2 * OC)) + 4.0 * (double)OC);
    const int wanted = ledger_launch(what, 1);
    ledger_more(few_kernels(!conv, IC) - 1);
    if (wanted) { few_gelu_cuda(act, out, inp, weight, bias, !conv, N, OC, IC, tanh_form); }
}
static inline void matmul_gelu_forward_cuda(floatX* act, floatX* out, const floatX* inp, const floatX* weight,
                                            const float* bias, size_t N, size_t IC, size_t OC, int tanh_form) {
    product_gelu_cuda(act, out, inp, weight, bias, 0, N, IC, OC, tanh_form);
}
static inline void conv1d_gelu_forward_cuda(floatX* act, floatX* out, const floatX* inp, const floatX* weight,
                                            const float* bias, size_t N, size_t IC, size_t OC, int tanh_form) {
    product_gelu_cuda(act, out, inp, weight, bias, 1, N, IC, OC, tanh_form);
}
// dinp (N,IC) = dout (N,OC) weight (OC,IC)
static inline void matmul_backward_input_cuda(floatX* dinp, const floatX* dout, const floatX* weight, size_t N,
                                              size_t IC, size_t OC) {
    char what[MATMUL_NAME];
    snprintf(what, sizeof what, "dx %zu <- %zu", IC, OC);
    gemm_cuda(what, 0, 0, N, IC, OC, 1, dout, OC, weight, IC, 0, dinp, IC, NULL);
}
// dweight (OC,IC) += dout (N,OC)^T inp (N,IC); fp32, sums over passes and micro-batches
static inline void matmul_backward_weight_cuda(float* dweight, const floatX* dout, const floatX* inp, size_t N,
                                               size_t IC, size_t OC) {
    char what[MATMUL_NAME];
    snprintf(what, sizeof what, "dW %zu x %zu", OC, IC);
    gemm_float_cuda(what, 1, 0, OC, IC, N, 1, dout, OC, inp, IC, 1, dweight, IC, NULL);
}
// The same with weights (IC,OC), as conv1d_forward() of the C half and its backwards.
// out (N,OC) = inp (N,IC) weight (IC,OC) + bias (OC); bias may be NULL
static inline void conv1d_forward_cuda(floatX* out, const floatX* inp, const floatX* weight, const floatX* bias,
                                       size_t N, size_t IC, size_t OC) {
    char what[MATMUL_NAME];
    snprintf(what, sizeof what, "forward %zu -> %zu", IC, OC);
    gemm_cuda(what, 0, 0, N, OC, IC, 1, inp, IC, weight, OC, 0, out, OC, bias);
}
// dinp (N,IC) = dout (N,OC) weight (IC,OC)^T
static inline void conv1d_backward_input_cuda(floatX* dinp, const floatX* dout, const floatX* weight, size_t N,
                                              size_t IC, size_t OC) {
    char what[MATMUL_NAME];
    snprintf(what, sizeof what, "dx %zu <- %zu", IC, OC);
    gemm_cuda(what, 0, 1, N, IC, OC, 1, dout, OC, weight, OC, 0, dinp, IC, NULL);
}
// dweight (IC,OC) += inp (N,IC)^T dout (N,OC); fp32, sums over passes and micro-batches
static inline void conv1d_backward_weight_cuda(float* dweight, const floatX* dout, const floatX* inp, size_t N,
                                               size_t IC, size_t OC) {
    char what[MATMUL_NAME];
    snprintf(what, sizeof what, "dW %zu x %zu", IC, OC);
    gemm_float_cuda(what, 1, 0, IC, OC, N, 1, inp, IC, dout, OC, 1, dweight, OC, NULL);
}

// ---- the file of choices ----

static inline void matmul_key(char* key, size_t size) {
    snprintf(key, size, "gpu %s sm %d cublaslt %llu " PRECISION, device.name, device.sm,
             (unsigned long long)cublasLtGetVersion());
}

// The file beside the running program, for all runs of a machine; NULL where that directory is not known or may
// not be written. The caller frees it.
static inline char* matmul_common_choices(void) {
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) { return NULL; }
    self[n] = 0;
    char* slash = strrchr(self, '/');
    if (!slash) { return NULL; }
    *slash = 0;
    return access(self, W_OK) == 0 ? format_string("%s/products_" PRECISION ".txt", self) : NULL;
}

// The choices of an earlier run, or (source = MATMUL_OF_RUN) of this run until it was stopped, from what the file at
// `path` says, if it was written on such a GPU with this library. A line that cannot be read is left out: its shape is
// chosen anew.
static inline int matmul_scan_choices(FILE* f, const char* path, MatmulSource source) {
    char line[1024], key[512];
    matmul_key(key, sizeof key);
    int read = 0, any = fgets(line, sizeof line, f) != NULL;
    int known = any && strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == '\n';
    if (source == MATMUL_OF_RUN) {
        free(matmul_run_file);
        matmul_run_file = format_string("%s", path);
        line[strcspn(line, "\n")] = 0;
        if (any && !known) {
            warn(
                "%s was written for \"%s\", this is \"%s\": products choose their algorithms anew, and the run goes on "
                "with other bits than it would have had there",
                path, line, key);
        }
    }
    if (known) {
        while (fgets(line, sizeof line, f)) {
            MatmulShape s;
            memset(&s, 0, sizeof s);
            unsigned long long n[6], data[8];
            int used = 0;
            if (sscanf(line, "%d %d %d %d %d %llu %llu %llu %llu %llu %llu %u %u %u %u %u%n", &s.trans_a, &s.trans_b,
                       &s.out_float, &s.has_bias, &s.has_beta, &n[0], &n[1], &n[2], &n[3], &n[4], &n[5], &s.align[0],
                       &s.align[1], &s.align[2], &s.align[3], &s.align[4], &used) != 16) {
                continue;
            }
            s.M = n[0], s.N = n[1], s.K = n[2], s.lda = n[3], s.ldb = n[4], s.ldo = n[5];
            if (sscanf(line + used, "%llx %llx %llx %llx %llx %llx %llx %llx", &data[0], &data[1], &data[2], &data[3],
                       &data[4], &data[5], &data[6], &data[7]) != 8) {
                continue;
            }
            MatmulChoice* c = matmul_choice(&s);
            if (c->source != MATMUL_PROPOSED) { continue; }  // an earlier file has it
            for (int i = 0; i < 8; i++) { c->algorithm.data[i] = data[i]; }
            c->source = source;
            read++;
        }
    }
    return read;
}
// The same of the file, if it is there;
static inline int matmul_read_choices(const char* path, MatmulSource source) {
    const char* why = NULL;
    FILE* f = file_open_stream(path, &why);
    if (!f) {
        if (errno != ENOENT) { warn("%s could not be read (%s): algorithms are chosen anew", path, why); }
        return 0;
    }
    int read = matmul_scan_choices(f, path, source);
    fclose(f);
    return read;
}
// and of its text, where another rank has read it.
static inline int matmul_take_choices(const char* text, const char* path, MatmulSource source) {
    FILE* f = text[0] ? fmemopen((void*)(uintptr_t)text, strlen(text), "r") : NULL;
    int read = f ? matmul_scan_choices(f, path, source) : 0;
    if (f) { fclose(f); }
    return read;
}

// Writes all timed choices, or (source = MATMUL_OF_RUN) those that this run has used, now or before it was stopped; a
// file that cannot be written is said and costs nothing but the timing.
static inline void matmul_write_choices(const char* path, MatmulSource source) {
    mode_t mode = file_mode(path);
    if (mode && !S_ISREG(mode)) {
        warn("%s could not be written (%s); a resumed run may choose other algorithms", path, file_unexpected(mode));
        return;
    }
    char key[512];
    char* file = file_resolve(path);
    char* temporary = format_string("%s.%d.tmp", file, (int)getpid());
    FILE* f = fopen(temporary, "w");
    int ok = f != NULL;
    if (f) {
        matmul_key(key, sizeof key);
        fprintf(f, "%s\n", key);
        for (int i = 0; i < matmul_choice_count; i++) {
            const MatmulChoice* c = &matmul_choices[i];
            const MatmulShape* s = &c->shape;
            if (c->source == MATMUL_PROPOSED) { continue; }
            if (source == MATMUL_OF_RUN && c->source == MATMUL_OF_MACHINE && !c->made) { continue; }
            fprintf(f, "%d %d %d %d %d %llu %llu %llu %llu %llu %llu", s->trans_a, s->trans_b, s->out_float,
                    s->has_bias, s->has_beta, (unsigned long long)s->M, (unsigned long long)s->N,
                    (unsigned long long)s->K, (unsigned long long)s->lda, (unsigned long long)s->ldb,
                    (unsigned long long)s->ldo);
            for (int k = 0; k < MATMUL_OPERANDS; k++) { fprintf(f, " %u", s->align[k]); }
            for (int k = 0; k < 8; k++) { fprintf(f, " %llx", (unsigned long long)c->algorithm.data[k]); }
            fprintf(f, "\n");
        }
        ok = fflush(f) == 0 && !ferror(f);
        ok = fclose(f) == 0 && ok;
    }
    if (ok) { ok = rename(temporary, file) == 0; }
    if (!ok) {
        warn("%s could not be written (%s); a resumed run may choose other algorithms", path, strerror(errno));
        unlink(temporary);
    }
    free(temporary);
    free(file);
}

#endif

// matmul.cuh - plain matrix products on the GPU, by cuBLASLt.
//
//     out (M,N) = alpha * op(A) (M,K) op(B) (K,N) + beta * from (M,N) + bias (N)     all row-major
//
// A and B are floatX; out is floatX or float; sums are fp32; the fp32 program uses no TF32. cuBLASLt
// counts in columns, and a row-major matrix is the transpose of a column-major one, so it is asked
// for out^T = op(B)^T op(A)^T: the operands change places and nothing is moved.
//
// Which algorithm computes a product decides its bits, so it is chosen once per shape and kept:
// by timing in a rehearsal (matmul_search = 1), else the library's first proposal. The choices are
// written beside the checkpoints, for a resumed run, and beside the program, for other runs; keyed by GPU,
// library and shape.
#ifndef PONDER_MATMUL_CUH
#define PONDER_MATMUL_CUH

#include "device.cuh"
#include "open.h"

typedef struct {
    int trans_a, trans_b, out_float, has_bias, has_beta;
    uint64_t M, N, K, lda, ldb, ldo;
    uint32_t align;  // bytes that every address and row is aligned to, at most 16
} MatmulShape;

typedef struct {
    MatmulShape shape;
    int timed;  // 1: found by timing (now or in the run that wrote the file)
    int made;   // 1: the descriptors below exist
    int from_file;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, out;
    cublasLtMatmulAlgo_t algorithm;
} MatmulChoice;

enum { MATMUL_PROPOSALS = 16 };
static MatmulChoice* matmul_choices;  // moves when it grows
static int matmul_choice_count, matmul_choice_room;
static int matmul_search;  // 1: time the proposals for a shape that is new; outputs are then garbage

static inline void matmul_describe(MatmulChoice* c) {
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
    if (c->shape.has_bias) {
        CUBLAS_CHECK(
            cublasLtMatmulDescSetAttribute(c->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    }
    return cublasLtMatmul(device.lt, c->operation, &alpha, B, c->a, A, c->b, &beta, from, c->out, out, c->out,
                          algorithm, device.workspace, MATMUL_WORKSPACE, device.stream);
}

// The library's proposals for a shape. Reductions across thread blocks only through a workspace, whose
// order is fixed: two runs give the same bits.
static inline int matmul_propose(const MatmulChoice* c, cublasLtMatmulHeuristicResult_t* result) {
    size_t workspace = MATMUL_WORKSPACE;
    uint32_t align = c->shape.align, reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    // An output of floats is aligned to 4 bytes, whatever the operands are.
    uint32_t align_out = c->shape.out_float && align < sizeof(float) ? (uint32_t)sizeof(float) : align;
    cublasLtMatmulPreference_t wish;
    CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&wish));
    CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                      sizeof workspace));
    CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                                                      sizeof reductions));
    const cublasLtMatmulPreferenceAttributes_t aligned[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (int i = 0; i < 4; i++) {
        const uint32_t* promised = i < 2 ? &align : &align_out;
        CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(wish, aligned[i], promised, sizeof *promised));
    }
    int count = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(device.lt, c->operation, c->a, c->b, c->out, c->out, wish,
                                                           MATMUL_PROPOSALS, result, &count);
    CUBLAS_CHECK(cublasLtMatmulPreferenceDestroy(wish));
    if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
        const MatmulShape* s = &c->shape;
        die("cuBLASLt has no algorithm for a product of %llu x %llu x %llu (transposed %d %d, aligned to %u bytes): %s",
            (unsigned long long)s->M, (unsigned long long)s->N, (unsigned long long)s->K, s->trans_a, s->trans_b,
            s->align, cublasLtGetStatusString(status));
    }
    return count;
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
        }
    }
    for (int i = 0; i < count; i++) {
        if (fastest[i] >= 0 && (best < 0 || fastest[i] < best_ms)) { best = i, best_ms = fastest[i]; }
    }
    CUDA_CHECK(cudaEventDestroy(begin));
    CUDA_CHECK(cudaEventDestroy(end));
    if (best < 0) { die("cuBLASLt: none of its %d proposals for a product could be run", count); }
    c->algorithm = result[best].algo;
    c->timed = 1;
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

// out and from are float if out_float, else floatX; from = NULL: out itself. bias may be NULL. `what`
// names the product in the ledger.
static inline void matmul_any_cuda(const char* what, int trans_a, int trans_b, size_t M, size_t N, size_t K,
                                   float alpha, const floatX* A, size_t lda, const floatX* B, size_t ldb, float beta,
                                   void* out, int out_float, size_t ldo, const void* from, const floatX* bias) {
    size_t number = out_float ? sizeof(float) : sizeof(floatX);
    states(2.0 * (double)M * (double)N * (double)K,
           ((double)M * (double)K + (double)K * (double)N) * (double)sizeof(floatX) +
               (double)M * (double)N * (double)number * (beta != 0 ? 2 : 1));
    if (!ledger_launch(what, 1)) { return; }
    MatmulShape shape;
    memset(&shape, 0, sizeof shape);  // its padding too: shapes are compared as bytes
    shape.trans_a = trans_a, shape.trans_b = trans_b, shape.out_float = out_float;
    shape.has_bias = bias != NULL, shape.has_beta = beta != 0;
    shape.M = M, shape.N = N, shape.K = K, shape.lda = lda, shape.ldb = ldb, shape.ldo = ldo;
    if (!from) { from = out; }
    uintptr_t all = (uintptr_t)A | (uintptr_t)B | (uintptr_t)out | (uintptr_t)from | (lda | ldb) * sizeof(floatX) |
                    ldo * number | 16;
    shape.align = (uint32_t)(all & (~all + 1));  // the lowest bit that is set
    MatmulChoice* c = matmul_choice(&shape);
    if (!c->made) {
        matmul_describe(c);
        if (!c->timed && matmul_search) {
            matmul_time(c, out, A, B, from, bias, alpha, beta);
        } else if (!c->timed) {
            cublasLtMatmulHeuristicResult_t result[MATMUL_PROPOSALS];
            matmul_propose(c, result);
            c->algorithm = result[0].algo;
        }
    }
    cublasStatus_t status = matmul_run(c, &c->algorithm, out, A, B, from, bias, alpha, beta);
    if (status != CUBLAS_STATUS_SUCCESS && c->from_file) {
        die("cuBLASLt: the algorithm of a product that an earlier run chose gave %s; remove products.txt in --out and "
            "products_" PRECISION ".txt beside the program",
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

// Reads the choices of an earlier run, if the file is there and was written on such a GPU with this
// library. A line that cannot be read is left out: its shape is chosen anew.
static inline int matmul_read_choices(const char* path) {
    const char* why = NULL;
    FILE* f = file_open_stream(path, &why);
    if (!f) {
        if (errno != ENOENT) { warn("%s could not be read (%s): algorithms are chosen anew", path, why); }
        return 0;
    }
    char line[1024], key[512];
    matmul_key(key, sizeof key);
    int read = 0;
    if (fgets(line, sizeof line, f) && strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == '\n') {
        while (fgets(line, sizeof line, f)) {
            MatmulShape s;
            memset(&s, 0, sizeof s);
            unsigned long long n[6], data[8];
            int used = 0;
            if (sscanf(line, "%d %d %d %d %d %llu %llu %llu %llu %llu %llu %u%n", &s.trans_a, &s.trans_b, &s.out_float,
                       &s.has_bias, &s.has_beta, &n[0], &n[1], &n[2], &n[3], &n[4], &n[5], &s.align, &used) != 12) {
                continue;
            }
            s.M = n[0], s.N = n[1], s.K = n[2], s.lda = n[3], s.ldb = n[4], s.ldo = n[5];
            if (sscanf(line + used, "%llx %llx %llx %llx %llx %llx %llx %llx", &data[0], &data[1], &data[2], &data[3],
                       &data[4], &data[5], &data[6], &data[7]) != 8) {
                continue;
            }
            MatmulChoice* c = matmul_choice(&s);
            if (c->timed) { continue; }  // an earlier file has it
            for (int i = 0; i < 8; i++) { c->algorithm.data[i] = data[i]; }
            c->timed = c->from_file = 1;
            read++;
        }
    }
    fclose(f);
    return read;
}

// Writes all timed choices; a file that cannot be written is said and costs nothing but the timing.
static inline void matmul_write_choices(const char* path) {
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
            if (!c->timed) { continue; }
            fprintf(f, "%d %d %d %d %d %llu %llu %llu %llu %llu %llu %u", s->trans_a, s->trans_b, s->out_float,
                    s->has_bias, s->has_beta, (unsigned long long)s->M, (unsigned long long)s->N,
                    (unsigned long long)s->K, (unsigned long long)s->lda, (unsigned long long)s->ldb,
                    (unsigned long long)s->ldo, s->align);
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

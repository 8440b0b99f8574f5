// gpu_ponder.cu - tests of ponder.cuh's CUDA half: every launcher against the same formula in double, or
// against the C half where the bits must be the C half's; then mix and head as wholes, products included.
//
//     gpu_ponder [part of a test's name]
//
// Runs on a GPU and under the emulator alike; gpu_arrays.h says what is checked in every case. Rows of
// logits are Vp apart, and what is in their padding before a kernel comes is NaN.
//
// A probability is judged by its relative error, however small it is: a tolerance relative to the
// largest one would not see that the rare tokens are gone.
#include "../../ponder.cuh"
#include "gpu_arrays.h"

static const size_t some_rows[] = {1, 3, 33};
static const size_t some_widths[] = {1, 5, 8, 40, 132, 768, 1032};
enum { ROWS = 3, WIDTHS = 7 };
#define ALL_SHIFTED (~(uint64_t)0)

static int* array_ints(const char* name, Use use, const int* host, size_t count) {
    return (int*)array_new(name, use, host, count, sizeof(int));
}
static int* host_ints(size_t n) { return (int*)kept_until_end(xalloc(n, sizeof(int), "a test")); }

// As agree(), but each number has a scale of its own.
static void agree_each(const char* what, float* got, const double* want, const double* scale, size_t n,
                       double tolerance) {
    float* error = (float*)xalloc(n, sizeof(float), "a comparison");
    double* none = (double*)xalloc(n, sizeof(double), "a comparison");
    for (size_t i = 0; i < n; i++) {
        double diff = fabs((double)got[i] - want[i]), once = half_unit(want[i]);
        error[i] = (float)(diff <= once ? 0 : (diff - once) / scale[i]);  // a NaN stays
    }
    free(got);
    agree(what, error, none, n, 1, tolerance, 0);
    free(none);
}

// Where `got` is not exactly 0, which it has to be for i in [begin, end) of each of `rows` rows of `stride`.
static void all_zero(const char* what, const float* got, size_t rows, size_t stride, size_t begin, size_t end) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = begin; i < end; i++) {
            if (got[r * stride + i] == 0) { continue; }
            CHECK(0, "%s: %s [%zu,%zu] is %g, expected 0", case_name, what, r, i, got[r * stride + i]);
            return;
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Embedding

enum { TOKENS_RANDOM, TOKENS_ONE, TOKENS_DIFFERENT, TOKENS_ENDS, TOKENS_ZIPF, TOKEN_KINDS };
static const char* const token_kind_names[] = {"random", "all the same", "all different", "first and last only",
                                               "Zipf-like"};

static int* make_tokens(int kind, size_t N, size_t V) {
    int* tokens = host_ints(N);
    for (size_t n = 0; n < N; n++) {
        uint64_t bits = random_bits64();
        switch (kind) {
            case TOKENS_RANDOM: tokens[n] = (int)(bits % V); break;
            case TOKENS_ONE: tokens[n] = (int)(V / 2); break;
            case TOKENS_DIFFERENT: tokens[n] = (int)((n * 7 + 3) % V); break;  // V is no multiple of 7
            case TOKENS_ENDS: tokens[n] = bits & 1 ? (int)V - 1 : 0; break;
            // As words are: the share of the k-th is about 1/k.
            default: tokens[n] = (int)fmin((double)V - 1, pow((double)V, random_unit()) - 1); break;
        }
    }
    return tokens;
}

static void test_sort_tokens(void) {
    static const size_t sizes[][2] = {{1, 1}, {1, 37}, {33, 1}, {33, 37}, {1000, 37}, {37, 1000}};
    for (int k = 0; k < 6; k++) {
        for (int kind = 0; kind < TOKEN_KINDS; kind++) {
            const size_t N = sizes[k][0], V = sizes[k][1];
            snprintf(case_name, sizeof case_name, "sort of %zu tokens below %zu, %s", N, V, token_kind_names[kind]);
            int *tokens = make_tokens(kind, N, V), *order = host_ints(N), *count = host_ints(V + 1);
            int *seen = host_ints(N), *sorted = host_ints(N);
            memset(count, 0x55, (V + 1) * sizeof(int));
            memset(order, 0x55, N * sizeof(int));
            batch_sort_tokens(order, sorted, tokens, N, V, count);
            for (size_t n = 0; n < N; n++) {
                const int at = order[n], before = n > 0 ? order[n - 1] : -1;
                CHECK(at >= 0 && (size_t)at < N && !seen[at], "%s: position %d at %zu", case_name, at, n);
                if (test_state.checks_failed) { break; }
                seen[at] = 1;
                CHECK(sorted[n] == tokens[at], "%s: token %d at %zu, expected %d", case_name, sorted[n], n, tokens[at]);
                CHECK(n == 0 || tokens[before] < tokens[at] || (tokens[before] == tokens[at] && before < at),
                      "%s: position %d comes before %d", case_name, before, at);
            }
            for (int i = 0; i < host_array_count; i++) { free(host_array[i]); }
            host_array_count = 0;
        }
    }
}

// ------------------------------------------------------------------------------------------------
// What a micro-batch brings to the GPU and leaves there

// The sum as the kernel adds it.
static double losses_in_order(const float* losses, size_t N) {
    double fold[256] = {0};
    for (size_t n = 0; n < N; n++) { fold[n % 256] += (double)losses[n]; }
    for (int width = 128; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) { fold[i] += fold[i + width]; }
    }
    return fold[0];
}

// A batch with memory for N tokens; the caller gives the memory back.
static Batch batch_of(size_t N, size_t V, char** memory) {
    Batch b;
    Arena arena = arena_at(NULL);
    memset(&b, 0, sizeof b);
    batch_take(&b, &arena, N, 1);
    CUDA_CHECK(cudaMalloc(memory, arena.used));
    arena = arena_at(*memory);
    batch_take(&b, &arena, N, 1);
    batch_start(&b, N, V);
    return b;
}

// More micro-batches are sent than there are buffers, each while those before it still wait (EMULATE_ASYNC=late: all
// of them); what each has brought is copied aside in the order of the stream.
static void test_batch_ahead(void) {
    enum { N = 2900, V = 61, SENDS = 7, ROOM = BATCH_HEAD + 4 * N };
    static int inputs[SENDS][N], targets[SENDS][N], got[SENDS * ROOM], count[V + 1], order[N], sorted[N];
    static float losses[SENDS * N];
    char* memory;
    Batch b = batch_of(N, V, &memory);
    int* seen;
    float* d_losses;
    CUDA_CHECK(cudaMalloc(&seen, sizeof got));
    CUDA_CHECK(cudaMalloc(&d_losses, sizeof losses));
    for (int i = 0; i < SENDS * N; i++) { losses[i] = (float)(10 * random_unit()); }
    device_upload_now(d_losses, losses, sizeof losses);
    double want = 0;
    for (int i = 0; i < SENDS; i++) {
        const size_t n = i == 4 ? N - 33 : N;
        int now[2][N];
        for (size_t k = 0; k < n; k++) {
            now[0][k] = inputs[i][k] = (int)(random_bits64() % V);
            now[1][k] = targets[i][k] = (int)(random_bits64() % V) - 1;
        }
        batch_send(&b, now[0], now[1], n, V, i != 2, 0.5 / (i + 1));
        memset(now, 0x55, sizeof now);
        device_copy(seen + i * ROOM, b.sent, (BATCH_HEAD + (i == 2 ? 2 : 4) * n) * sizeof(int));
        device_copy(b.losses, d_losses + i * N, n * sizeof(float));
        losses_sum_cuda(b.sums, b.which, b.losses, n);
        batch_sent(&b);
        want += losses_in_order(losses + i * N, n);
    }
    int bad = 7;
    const double sum = batch_finish(&b, &bad);
    CHECK(sum == want && bad == -1, "the sum of %d micro-batches is %.17g, expected %.17g; first bad %d", SENDS, sum,
          want, bad);
    device_download(got, seen, sizeof got);
    for (int i = 0; i < SENDS; i++) {
        const int *sent = got + i * ROOM, *tokens = sent + BATCH_HEAD;
        const size_t n = i == 4 ? N - 33 : N;
        const float scale = (float)(0.5 / (i + 1));
        CHECK(memcmp(sent, &scale, sizeof scale) == 0 && sent[1] == i, "micro-batch %d: scale or place", i);
        CHECK(memcmp(tokens, inputs[i], n * sizeof(int)) == 0, "micro-batch %d: inputs", i);
        CHECK(memcmp(tokens + n, targets[i], n * sizeof(int)) == 0, "micro-batch %d: targets", i);
        batch_sort_tokens(order, sorted, inputs[i], n, V, count);
        CHECK(i == 2 || (memcmp(tokens + 2 * n, order, n * sizeof(int)) == 0 &&
                         memcmp(tokens + 3 * n, sorted, n * sizeof(int)) == 0),
              "micro-batch %d: sorted positions", i);
    }
    double alone = 0;
    batch_row_losses(&b, &alone, 1, N);
    CHECK(alone == losses_in_order(losses + (SENDS - 1) * N, N), "the losses that are there: %.17g", alone);
    CUDA_CHECK(cudaFree(memory));
    CUDA_CHECK(cudaFree(seen));
    CUDA_CHECK(cudaFree(d_losses));
}

// More micro-batches in a step than there is room for sums; which one went wrong is known all the same.
static void test_batch_many(void) {
    enum { MANY = 2 * LOSS_SUMS + 3 };
    char* memory;
    Batch b = batch_of(1, 1, &memory);
    float* d_losses;
    static float losses[MANY];
    CUDA_CHECK(cudaMalloc(&d_losses, sizeof losses));
    for (int round = 0; round < 3; round++) {
        double want = 0;
        for (int i = 0; i < MANY; i++) { losses[i] = (float)random_unit(), want += (double)losses[i]; }
        const int wrong = round == 0 ? -1 : round == 1 ? LOSS_SUMS + 5 : MANY - 1;
        if (wrong >= 0) { losses[wrong] = round == 1 ? NAN : INFINITY, losses[MANY - 1] = NAN; }
        device_upload_now(d_losses, losses, sizeof losses);
        const int token = 0;
        for (int i = 0; i < MANY; i++) {
            batch_send(&b, &token, &token, 1, 1, 1, 1);
            losses_sum_cuda(b.sums, b.which, d_losses + i, 1);
            batch_sent(&b);
        }
        int bad = 7;
        const double sum = batch_finish(&b, &bad);
        CHECK(bad == wrong, "the first bad micro-batch is %d, expected %d", bad, wrong);
        CHECK(wrong < 0 ? sum == want : !isfinite(sum), "the sum is %.17g, expected %.17g", sum, want);
    }
    CUDA_CHECK(cudaFree(memory));
    CUDA_CHECK(cudaFree(d_losses));
}

static struct {
    size_t N, C, V;
    int kind;
    float scale;
    size_t nan_row;  // of de; N: none
} em;

static void embedding_forward_case(void) {
    const size_t N = em.N, C = em.C, V = em.V;
    float *table = random_floats(V * C, 0, 1), *want = zeros(N * C);
    int* tokens = make_tokens(em.kind, N, V);
    float* e = array_floats("e", OUTPUT, NULL, N * C);
    int* d_tokens = array_ints("tokens", INPUT, tokens, N);
    float* d_table = array_floats("table", INPUT, table, V * C);
    embedding_forward_cuda(e, d_tokens, d_table, N, C, em.scale);
    for (size_t i = 0; i < N * C; i++) { want[i] = em.scale * table[(size_t)tokens[i / C] * C + i % C]; }
    agree_bits("e", array_bytes(e), want, N * C * sizeof(float));
}

// What the kernels add, in their order: places of the sorted order one after the other; those of a token in its first
// chunk onto its row; those in later chunks apart, by eight in turn, and then the eight sums onto the row.
static void embedding_in_chunks(float* dtable, const int* sorted, const int* order, const float* de, size_t N, size_t C,
                                float scale) {
    enum { CHUNK = 32, TURNS = 8 };
    for (size_t begin = 0, end; begin < N; begin = end) {
        for (end = begin; end < N && sorted[end] == sorted[begin]; end++) {}
        const size_t first = begin / CHUNK, last = (end - 1) / CHUNK;
        for (size_t c = 0; c < C; c++) {
            float* x = &dtable[(size_t)sorted[begin] * C + c];
            float turn[TURNS] = {0};
            for (size_t chunk = first; chunk <= last; chunk++) {
                float sum = chunk == first ? *x : 0;
                for (size_t n = chunk * CHUNK; n < (chunk + 1) * CHUNK; n++) {
                    if (n >= begin && n < end) { sum = fmaf(scale, de[(size_t)order[n] * C + c], sum); }
                }
                if (chunk == first) {
                    *x = sum;
                } else {
                    turn[(chunk - first - 1) % TURNS] += sum;
                }
            }
            for (int w = 0; last > first && w < TURNS; w++) { *x += turn[w]; }
        }
    }
}

static void embedding_backward_case(void) {
    const size_t N = em.N, C = em.C, V = em.V;
    float *prior = random_floats(V * C, 0, 1), *de = random_floats(N * C, 0, 1), *c_half = zeros(V * C);
    int *tokens = make_tokens(em.kind, N, V), *order = host_ints(N), *count = host_ints(V + 1), *sorted = host_ints(N);
    if (em.nan_row < N) { de[em.nan_row * C + C / 2] = NAN; }
    for (size_t n = 2; n < N; n += 3) {  // no loss depends on these: every target from there on is ignored
        if (n != em.nan_row) { memset(de + n * C, 0, C * sizeof(float)); }
    }
    batch_sort_tokens(order, sorted, tokens, N, V, count);
    float* dtable = array_floats("dtable", IN_PLACE, prior, V * C);
    const size_t parts = embedding_parts(N, C);
    CHECK(parts <= N * C / 32 + C, "%s: %zu numbers of scratch", case_name, parts);
    float* d_parts = array_floats("parts", parts ? OUTPUT : NOWHERE, NULL, parts);
    int *d_sorted = array_ints("sorted", INPUT, sorted, N), *d_order = array_ints("order", INPUT, order, N);
    float* d_de = array_floats("de", INPUT, de, N * C);
    embedding_backward_cuda(dtable, d_parts, d_sorted, d_order, d_de, N, C, V, em.scale);
    if (em.nan_row < N) {
        float* got = fetch(dtable);
        const float at = got[(size_t)tokens[em.nan_row] * C + C / 2];
        CHECK(at != at, "%s: hidden", case_name);
        CHECK(count_nan(got, V * C) == 1, "%s: spread", case_name);
        return;
    }
    double *want = zeros_double(V * C), *size = zeros_double(V * C);
    for (size_t i = 0; i < V * C; i++) { want[i] = prior[i], size[i] = fabs((double)prior[i]); }
    for (size_t i = 0; i < N * C; i++) {
        const size_t at = (size_t)tokens[i / C] * C + i % C;
        const double x = (double)em.scale * (double)de[i];
        want[at] += x, size[at] += fabs(x);
    }
    agree("dtable", fetch(dtable), want, V * C, largest(size, V * C), 5e-7, 0);
    memcpy(c_half, prior, V * C * sizeof(float));
    embedding_in_chunks(c_half, sorted, order, de, N, C, em.scale);
    agree_bits("dtable", array_bytes(dtable), c_half, V * C * sizeof(float));
    // A token within one chunk has the C half's own bits.
    memcpy(c_half, prior, V * C * sizeof(float));
    embedding_backward(c_half, tokens, de, N, C, em.scale);
    const float* got = (const float*)(const void*)array_bytes(dtable);
    for (size_t begin = 0, end; begin < N; begin = end) {
        for (end = begin; end < N && sorted[end] == sorted[begin]; end++) {}
        if (begin / EMBED_CHUNK != (end - 1) / EMBED_CHUNK) { continue; }
        const size_t row = (size_t)sorted[begin] * C;
        agree_bits("a row of dtable", got + row, c_half + row, C * sizeof(float));
    }
}

static void embedding_run(void (*f)(void), const char* what, size_t N, size_t C, size_t V, int kind) {
    em.N = N, em.C = C, em.V = V, em.kind = kind, em.scale = C % 2 ? 1 : (float)sqrt((double)C);
    // Rows that are not whole packs need no alignment.
    run_case(f, C % PACK ? ALL_SHIFTED : 0, "embedding %s N %zu C %zu V %zu, tokens %s", what, N, C, V,
             token_kind_names[kind]);
}
static void test_embedding(void) {
    em.nan_row = SIZE_MAX;
    for (int r = 0; r < ROWS; r++) {
        for (int w = 0; w < WIDTHS; w++) {
            for (int kind = 0; kind < TOKEN_KINDS; kind++) {
                const size_t N = some_rows[r], C = some_widths[w];
                if ((N == 1 || N * C > 6000) && kind != TOKENS_RANDOM) { continue; }
                embedding_run(embedding_forward_case, "forward", N, C, 37, kind);
                embedding_run(embedding_backward_case, "backward", N, C, 37, kind);
            }
        }
    }
    // Around the ends of a chunk, of a turn of the warps that add its parts, of all that they load at once; tokens that
    // begin and end at a border of chunks, and frequent ones beside rare ones.
    static const size_t lengths[] = {31, 32, 33, 63, 64, 65, 96, 287, 288, 289, 600, 2400};
    for (int i = 0; i < 12; i++) {
        for (int kind = 0; kind < TOKEN_KINDS; kind++) {
            if (lengths[i] > 600 && kind != TOKENS_ONE && kind != TOKENS_ZIPF) { continue; }
            embedding_run(embedding_backward_case, "backward", lengths[i], i % 2 ? 10 : 7, 37, kind);
        }
    }
    embedding_run(embedding_backward_case, "backward", 600, 5, 7, TOKENS_RANDOM);
    embedding_run(embedding_backward_case, "backward", 2400, 140, 300, TOKENS_ZIPF);
    embedding_run(embedding_backward_case, "backward", 128, 40, 4, TOKENS_DIFFERENT);  // each takes one whole chunk
    embedding_run(embedding_backward_case, "backward", 33, 40, 1, TOKENS_RANDOM);
    em.nan_row = 32;
    embedding_run(embedding_backward_case, "backward with a NaN", 33, 40, 37, TOKENS_RANDOM);
    for (em.nan_row = 0; em.nan_row < 400; em.nan_row += 57) {
        embedding_run(embedding_backward_case, "backward with a NaN", 400, 7, 37, TOKENS_ONE);
    }
    measures_print();
}

// ------------------------------------------------------------------------------------------------
// Softmax of the mix

// What a row of logits is like.
enum {
    ROW_NORMAL,      // standard deviation 3
    ROW_HUGE,        // around 10,000
    ROW_TINY,        // around -10,000
    ROW_EQUAL,       // all the same
    ROW_STEPS,       // four values only: many ties
    ROW_RISING,      // each larger than the one before, as far as floatX tells them apart
    ROW_FALLING,     //
    ROW_ZEROS,       // a few positive, a few negative, the rest 0 or -0, which are equal
    ROW_MASKED,      // every third is -infinity
    ROW_ONE_FINITE,  // all but one are -infinity
    ROW_PEAKED,      // one is 200 above the rest: their probabilities are 0 or nearly
    ROW_KINDS
};

static float logit(int kind, size_t v, size_t V) {
    const double x = random_normal_like();
    const uint64_t bits = random_bits64() >> 7;
    switch (kind) {
        case ROW_NORMAL: return rounding((float)(3 * x));
        case ROW_HUGE: return rounding((float)(10000 + 40 * x));
        case ROW_TINY: return rounding((float)(-10000 + 40 * x));
        case ROW_EQUAL: return rounding(0.7f);
        case ROW_STEPS: return (float)(bits % 4) - 2;
        case ROW_RISING: return rounding((float)v * 20 / (float)V - 10);
        case ROW_FALLING: return rounding(10 - (float)v * 20 / (float)V);
        case ROW_ZEROS: return bits % 16 == 0 ? 1.5f : bits % 16 == 1 ? -1.5f : bits % 2 ? 0.0f : -0.0f;
        case ROW_MASKED: return v % 3 == 1 ? -INFINITY : rounding((float)(3 * x));
        case ROW_ONE_FINITE: return v == V / 2 ? -3.0f : -INFINITY;
        default: return v == V - 1 ? 120.0f : rounding((float)(-80 + 3 * x));
    }
}

// Logits (N,Vp) of floatX, the padding NaN.
static float* make_logits(size_t N, size_t V, size_t Vp, int first_kind) {
    float* z = zeros(N * Vp);
    for (size_t r = 0; r < N; r++) {
        for (size_t v = 0; v < Vp; v++) {
            z[r * Vp + v] = v < V ? logit((int)(((size_t)first_kind + r) % ROW_KINDS), v, V) : NAN;
        }
    }
    return z;
}

static const float* sorted_row;
static int by_logit(const void* a, const void* b) {
    const int i = *(const int*)a, j = *(const int*)b;
    const float x = sorted_row[i], y = sorted_row[j];
    return x > y ? -1 : x < y ? 1 : i < j ? -1 : 1;
}

// p (V) = softmax over the k largest of z (V), of equal ones the first; k = 0 or k >= V: over all.
static void softmax_double(double* p, const float* z, size_t V, size_t k) {
    int* id = (int*)xalloc(V, sizeof(int), "a test");
    for (size_t v = 0; v < V; v++) { id[v] = (int)v, p[v] = 0; }
    sorted_row = z;
    qsort(id, V, sizeof(int), by_logit);
    if (k == 0 || k > V) { k = V; }
    double sum = 0;
    for (size_t i = 0; i < k; i++) { sum += p[id[i]] = exp((double)z[id[i]] - (double)z[id[0]]); }
    for (size_t i = 0; i < k; i++) { p[id[i]] /= sum; }
    free(id);
}

static struct {
    size_t N, V, Vp, k;
    int first_kind;
} sm;

static void softmax_rows_case(void) {
    const size_t N = sm.N, V = sm.V, Vp = sm.Vp;
    float* z = make_logits(N, V, Vp, sm.first_kind);
    floatX* p = array_x("p", IN_PLACE, z, N * Vp);
    softmax_rows_cuda(p, N, V, Vp, sm.k);
    float *got = fetch(p), *real_numbers = (float*)xalloc(N * V, sizeof(float), "a test");
    double *want = zeros_double(N * V), *scale = zeros_double(N * V);
    float *kept = zeros(V), *heap = zeros(V);
    all_zero("padding", got, N, Vp, V, Vp);
    for (size_t r = 0; r < N; r++) {
        const float* row = got + r * Vp;
        softmax_double(want + r * V, z + r * Vp, V, sm.k);
        memcpy(kept, z + r * Vp, V * sizeof(float));
        keep_top_k(kept, heap, V, sm.k);
        size_t choice = 0;  // where the C half chooses otherwise
        while (choice < V && (kept[choice] == -INFINITY ? row[choice] == 0 : row[choice] > 0 || row[choice] < 1e-37f)) {
            choice++;
        }
        CHECK(choice == V, "%s: row %zu: token %zu has %g, the C half %s it", case_name, r, choice, row[choice],
              kept[choice] == -INFINITY ? "masks" : "keeps");
        for (size_t v = 0; v < V; v++) {
            // Numbers that are not normal have no relative accuracy; no mean embedding feels them.
            const size_t i = r * V + v;
            scale[i] = fmax(want[i], 1e-35);
            real_numbers[i] = row[v];
        }
    }
    free(got);
    agree_each("p", real_numbers, want, scale, N * V, 2e-6);
}

static void softmax_rows_run(size_t N, size_t V, size_t Vp, size_t k, int first_kind) {
    sm.N = N, sm.V = V, sm.Vp = Vp, sm.k = k, sm.first_kind = first_kind;
    run_case(softmax_rows_case, 0, "softmax of rows N %zu V %zu Vp %zu, top %zu, kinds from %d", N, V, Vp, k,
             first_kind);
}

// Vocabularies: one pack and less, one row of packs of a block, more, without padding, and a padding of
// several packs.
static const size_t some_vocabularies[] = {1, 5, 64, 257, 1000, 4096, 4097, 8200};
enum { VOCABULARIES = 8 };

// Vocabularies: the longest row that fits into 99 KB of shared memory, and one more; one more than whole rounds of the
// block's threads; with top-k the longest that fits, and one more.
enum { LONG_MOST, LONG_MORE, LONG_ROUNDS, LONG_ROWS, LONG_TOP_K = LONG_ROWS, LONG_MORE_TOP_K };
static size_t long_row(int i) {
    const size_t whole = PADDED_ROWS * sizeof(floatX);
    const size_t most = (99 * 1024 - 256) / whole * PADDED_ROWS, select = (99 * 1024 - 1280) / whole * PADDED_ROWS;
    const size_t rows[] = {most, most + 1, 512 * PACK * 12 / sizeof(floatX) + 1, select, select + 1};
    return rows[i];
}
static void test_row_fits(void) {
    const int bf16 = sizeof(floatX) == 2;
    CHECK(row_fits(50304, 0) == bf16 && !row_fits(50304, 5), "a row of 50304");
    CHECK(row_fits(50304 / sizeof(floatX), 0) && row_fits(50304 / sizeof(floatX), 5), "a row of half of that");
    CHECK(row_fits(bf16 ? 50560 : 25280, 0) && !row_fits(bf16 ? 50624 : 25344, 0), "the longest row");
    CHECK(row_fits(bf16 ? 50048 : 24960, 1) && !row_fits(bf16 ? 50112 : 25088, 1), "the longest row with top-k");
    CHECK(!row_fits(128256, 0), "a row of 128256");
}
static void test_softmax_rows(void) {
    for (int i = 0; i < VOCABULARIES; i++) {
        const size_t V = some_vocabularies[i], Vp = round_up(V, PADDED_ROWS);
        softmax_rows_run(ROW_KINDS, V, Vp, 0, 0);
        softmax_rows_run(1, V, Vp, 0, i % ROW_KINDS);
    }
    softmax_rows_run(3, 130, 512, 0, 0);
    for (int i = 0; i < LONG_ROWS; i++) {
        softmax_rows_run(1, long_row(i), round_up(long_row(i), PADDED_ROWS), 0, ROW_NORMAL);
    }
    measures_print();
}

static void test_mix_top_k(void) {
    for (int i = 0; i < VOCABULARIES; i++) {
        const size_t V = some_vocabularies[i], Vp = round_up(V, PADDED_ROWS);
        const size_t some_k[] = {1, 2, 7, V / 2, V - 1, V, V + 1, (size_t)1 << 30};
        for (int j = 0; j < 8; j++) {
            if (some_k[j] == 0 || (V > 1000 && j % 3 != i % 3)) { continue; }
            softmax_rows_run(ROW_KINDS, V, Vp, some_k[j], 0);
        }
    }
    softmax_rows_run(3, 130, 512, 100, ROW_STEPS);
    for (int i = LONG_TOP_K; i <= LONG_MORE_TOP_K; i++) {
        softmax_rows_run(1, long_row(i), round_up(long_row(i), PADDED_ROWS), 7, ROW_NORMAL);
    }
    measures_print();
}

// Held on chip or read twice: the same bits.
static struct {
    size_t V, k;
    int first_kind;
} eh;
static void either_way_case(void) {
    enum { N = 2 };
    const size_t V = eh.V, Vp = round_up(V, PADDED_ROWS);
    float *z = make_logits(N, V, Vp, eh.first_kind), *scale = zeros(1);
    int* targets = host_ints(N);
    targets[0] = (int)V - 1, targets[1] = V % 2 ? -1 : (int)(V / 2);
    scale[0] = 0.125f;
    floatX *p[2], *dz[2];
    float* losses[2];
    int* d_targets = array_ints("targets", INPUT, targets, N);
    float* d_scale = array_floats("scale", INPUT, scale, 1);
    for (int held = 0; held < 2; held++) {
        p[held] = array_x("p", IN_PLACE, z, N * Vp);
        dz[held] = array_x("dz", IN_PLACE, z, N * Vp);
        losses[held] = array_floats("losses", OUTPUT, NULL, N);
        softmax_rows_either_cuda(p[held], N, V, Vp, eh.k, held);
        cross_entropy_rows_either_cuda(losses[held], dz[held], d_targets, d_scale, N, V, Vp, held);
    }
    const size_t bytes = N * Vp * sizeof(floatX);
    agree_bits("p", array_bytes(p[0]), array_bytes(p[1]), bytes);
    agree_bits("dz", array_bytes(dz[0]), array_bytes(dz[1]), bytes);
    agree_bits("losses", array_bytes(losses[0]), array_bytes(losses[1]), N * sizeof(float));
}
static void either_way_run(size_t V, size_t k, int first_kind) {
    if (k >= V) { return; }
    eh.V = V, eh.k = k, eh.first_kind = first_kind;
    run_case(either_way_case, 0, "rows of %zu held or read twice, top %zu, kinds from %d", V, k, first_kind);
}
static void test_rows_either_way(void) {
    for (int i = 0; i < VOCABULARIES; i++) {
        either_way_run(some_vocabularies[i], 0, i % ROW_KINDS);
        if (i % 3 == 1) { either_way_run(some_vocabularies[i], 1 + some_vocabularies[i] / 3, (i + 4) % ROW_KINDS); }
    }
    either_way_run(long_row(LONG_MOST), 0, ROW_NORMAL);
    either_way_run(long_row(LONG_ROUNDS), 0, ROW_MASKED);
    either_way_run(long_row(LONG_TOP_K), 9, ROW_STEPS);
}

// The cut through a group of ties, everywhere near the ends of the stretches that a thread counts.
static void test_mix_top_k_cuts(void) {
    for (size_t k = 1; k < 8; k++) {
        softmax_rows_run(1, 700, 704, k, ROW_EQUAL);
        softmax_rows_run(1, 700, 704, 700 - k, ROW_EQUAL);
        softmax_rows_run(1, 70, 128, 10 * k - 1, ROW_EQUAL);
        softmax_rows_run(1, 520, 576, 16 * k + k, ROW_STEPS);
    }
    measures_print();
}

// A row that holds a NaN or +infinity is NaN as a whole, also where top-k would mask it; its padding is 0 and
// the rows beside it are what they would be.
static struct {
    size_t V, k, where;
    float what;
    size_t every;  // also at every so many places, 0: only there
} sn;
static void softmax_rows_nan_case(void) {
    enum { N = 3 };
    const size_t V = sn.V, Vp = round_up(V, PADDED_ROWS);
    float* z = make_logits(N, V, Vp, ROW_NORMAL);
    z[Vp + sn.where] = sn.what;
    for (size_t v = 0; sn.every && v < V; v += sn.every) { z[Vp + v] = sn.what; }
    floatX* p = array_x("p", IN_PLACE, z, N * Vp);
    softmax_rows_cuda(p, N, V, Vp, sn.k);
    float* got = fetch(p);
    for (size_t r = 0; r < N; r++) {
        size_t nan = 0;
        for (size_t v = 0; v < V; v++) { nan += got[r * Vp + v] != got[r * Vp + v]; }
        CHECK(nan == (r == 1 ? V : 0), "%s: row %zu has %zu NaN of %zu", case_name, r, nan, V);
    }
    all_zero("padding", got, N, Vp, V, Vp);
    free(got);
}
static void test_softmax_rows_nan(void) {
    const size_t vocabularies[] = {257, 4200, long_row(LONG_MORE)};
    static const float what[] = {NAN, -NAN, INFINITY};  // as bits, -NaN is the least of all
    for (int i = 0; i < 3; i++) {
        const size_t V = vocabularies[i], places[] = {0, 7, V / 2, V - 1}, some_k[] = {0, 1, 50, V - 1};
        for (int place = 0; place < 4; place++) {
            for (int j = 0; j < 4; j++) {
                for (int kind = 0; kind < 3; kind++) {
                    if (i && (place + j + kind) % (i == 1 ? 3 : 5)) { continue; }
                    sn.V = V, sn.k = some_k[j], sn.where = places[place], sn.what = what[kind];
                    sn.every = place == 2 ? 2 : 0;
                    run_case(softmax_rows_nan_case, 0, "softmax of rows V %zu, top %zu, %g at %zu%s", V, sn.k,
                             (double)sn.what, sn.where, sn.every ? " and elsewhere" : "");
                }
            }
        }
    }
    // Nothing to choose from is an error too, and must be seen.
    sn.V = 70, sn.k = 0, sn.where = 0, sn.what = -INFINITY, sn.every = 1;
    run_case(softmax_rows_nan_case, 0, "softmax of rows of -infinity alone");
}

// ------------------------------------------------------------------------------------------------
// Backward of the mix

static struct {
    size_t N, C;
    int nan;
} dt;
static void mix_dot_case(void) {
    const size_t N = dt.N, C = dt.C;
    float *de = random_floats(N * C, 0.2, 1), *e = random_floats(N * C, 0, 3), *next = random_floats(N * C, 0, 3);
    if (dt.nan) { de[N / 2 * C + C / 2] = NAN; }
    floatX* E = array_x("E", OUTPUT, NULL, N * C);
    float* dot = array_floats("dot", OUTPUT, NULL, N);
    float *d_de = array_floats("de", INPUT, de, N * C), *d_e = array_floats("e", INPUT, e, N * C);
    float* d_next = array_floats("next", INPUT, next, N * C);
    mix_dot_cuda(E, dot, d_de, d_e, d_next, N, C);
    float* got = fetch(E);
    if (dt.nan) {
        float* dots = fetch(dot);
        CHECK(dots[N / 2] != dots[N / 2] && count_nan(dots, N) == 1, "%s: dot", case_name);
        CHECK(got[N / 2 * C + C / 2] != got[N / 2 * C + C / 2] && count_nan(got, N * C) == 1, "%s: E", case_name);
        return;
    }
    double *want = zeros_double(N), *terms = zeros_double(N);
    for (size_t i = 0; i < N * C; i++) {
        const float x = rounding(de[i]);
        CHECK(got[i] == x, "%s: E [%zu] is %g, expected %g", case_name, i, got[i], x);
        if (test_state.checks_failed) { break; }
        want[i / C] += (double)x * ((double)next[i] - (double)e[i]);
        terms[i / C] += fabs((double)x) * (fabs((double)next[i]) + fabs((double)e[i]));
    }
    free(got);
    agree("dot", fetch(dot), want, N, largest(terms, N), 3e-7, 0);
}
static void test_mix_dot(void) {
    for (int r = 0; r < ROWS; r++) {
        for (int w = 0; w < WIDTHS; w++) {
            dt.N = some_rows[r], dt.C = some_widths[w], dt.nan = 0;
            const uint64_t mask = dt.C % PACK ? ALL_SHIFTED : 0;
            run_case(mix_dot_case, mask, "mix dot N %zu C %zu", dt.N, dt.C);
            dt.nan = 1;
            if (r == 1) { run_case(mix_dot_case, mask, "mix dot with a NaN, C %zu", dt.C); }
        }
    }
    measures_print();
}

static struct {
    size_t N, V, Vp, nan_row;
    float temperature;
} sb;
static void softmax_rows_backward_case(void) {
    const size_t N = sb.N, V = sb.V, Vp = sb.Vp;
    float *dp = random_x(N * Vp, 0.3, 2), *p = zeros(N * Vp), *dot = random_floats(N, 0.1, 1);
    for (size_t r = 0; r < N; r++) {
        for (size_t v = 0; v < V; v++) {
            const double x = random_unit();
            // A third is masked, as by top-k.
            p[r * Vp + v] = random_bits64() >> 60 < 5 ? 0 : rounding((float)exp(-40 * x));
        }
    }
    if (sb.nan_row < N) { dot[sb.nan_row] = NAN; }
    floatX *dz = array_x("dz", IN_PLACE, dp, N * Vp), *d_p = array_x("p", INPUT, p, N * Vp);
    float* d_dot = array_floats("dot", INPUT, dot, N);
    softmax_rows_backward_cuda(dz, d_p, d_dot, N, Vp, sb.temperature);
    float* got = fetch(dz);
    if (sb.nan_row < N) {
        for (size_t v = 0; v < V; v++) {
            const float x = got[sb.nan_row * Vp + v];
            CHECK(x != x, "%s: [%zu] hides it", case_name, v);
        }
        size_t nan = 0;
        for (size_t i = 0; i < N * Vp; i++) { nan += got[i] != got[i]; }
        CHECK(nan <= Vp, "%s: it spread to another row", case_name);
        free(got);
        return;
    }
    double *want = zeros_double(N * Vp), *scale = zeros_double(N * Vp);
    for (size_t i = 0; i < N * Vp; i++) {
        const double d = dot[i / Vp];
        want[i] = (double)p[i] * ((double)dp[i] - d) / (double)sb.temperature;
        scale[i] = fmax((double)p[i] * (fabs((double)dp[i]) + fabs(d)) / (double)sb.temperature, 1e-35);
        if (p[i] == 0 && got[i] != 0) {
            CHECK(0, "%s: masked [%zu,%zu] is %g, expected 0", case_name, i / Vp, i % Vp, got[i]);
            break;
        }
    }
    agree_each("dz", got, want, scale, N * Vp, 5e-7);
}
static void softmax_rows_backward_run(size_t N, size_t V, float temperature, size_t nan_row) {
    sb.N = N, sb.V = V, sb.Vp = round_up(V, PADDED_ROWS), sb.temperature = temperature, sb.nan_row = nan_row;
    run_case(softmax_rows_backward_case, 4, "softmax of rows backward N %zu V %zu, temperature %g%s", N, V,
             (double)temperature, nan_row < N ? ", NaN" : "");
}
static void test_softmax_rows_backward(void) {
    static const size_t vocabularies[] = {1, 5, 257, 1024, 1025, 2048, 2100, 8200};
    static const float temperatures[] = {1, 0.5f, 3, 1e-3f, 1e3f};
    for (int i = 0; i < 8; i++) {
        for (int r = 0; r < ROWS; r++) {
            if (i > 4 && r == 2) { continue; }
            softmax_rows_backward_run(some_rows[r], vocabularies[i], temperatures[(i + r) % 5], SIZE_MAX);
        }
    }
    for (int t = 0; t < 5; t++) { softmax_rows_backward_run(3, 70, temperatures[t], SIZE_MAX); }
    softmax_rows_backward_run(3, 70, 1, 1);
    measures_print();
}

// ------------------------------------------------------------------------------------------------
// Loss head

static struct {
    size_t N, V, Vp;
    int backward;
    float scale;
} hd;
static void cross_entropy_rows_case(void) {
    const size_t N = hd.N, V = hd.V, Vp = hd.Vp;
    float *z = make_logits(N, V, Vp, 0), *scale = zeros(1);
    int* targets = host_ints(N);
    scale[0] = hd.scale;
    for (size_t r = 0; r < N; r++) {
        const size_t which = (r + V) % 5;
        targets[r] = which == 0 ? (int)(random_bits64() % V) : which == 1 ? -1 : which == 2 ? 0 : (int)V - 1;
    }
    float* losses = array_floats("losses", OUTPUT, NULL, N);
    floatX* d_z = array_x("z", hd.backward ? IN_PLACE : INPUT, z, N * Vp);
    int* d_targets = array_ints("targets", INPUT, targets, N);
    float* d_scale = array_floats("scale", hd.backward ? INPUT : NOWHERE, scale, 1);
    cross_entropy_rows_cuda(losses, d_z, d_targets, d_scale, N, V, Vp);

    float* loss = fetch(losses);
    double *want = zeros_double(N), *size = zeros_double(N), *p = zeros_double(V);
    double *dz = zeros_double(N * Vp), *dz_size = zeros_double(N * Vp);
    for (size_t i = 0; i < N * Vp; i++) { dz_size[i] = 1e-35; }
    for (size_t r = 0; r < N; r++) {
        size[r] = 1;
        if (targets[r] < 0) {
            CHECK(loss[r] == 0, "%s: an ignored target has a loss of %g", case_name, loss[r]);
            continue;
        }
        const float* row = z + r * Vp;
        const size_t target = (size_t)targets[r];
        double most = -INFINITY, sum = 0;
        for (size_t v = 0; v < V; v++) { most = fmax(most, row[v]); }
        for (size_t v = 0; v < V; v++) { sum += exp((double)row[v] - most); }
        want[r] = most + log(sum) - (double)row[target];
        size[r] = fmax(1, fabs(most) + log(sum) + fabs((double)row[target]));
        if (row[target] == -INFINITY) {
            CHECK(loss[r] == INFINITY, "%s: a target that cannot be has a loss of %g", case_name, loss[r]);
            loss[r] = 0, want[r] = 0, size[r] = 1;
        }
        softmax_double(p, row, V, 0);
        for (size_t v = 0; v < V; v++) {
            dz[r * Vp + v] = (double)hd.scale * (p[v] - (v == target));
            dz_size[r * Vp + v] = fmax((double)hd.scale * (p[v] + (v == target)), 1e-35);
        }
    }
    for (size_t r = 0; r < N; r++) { want[r] /= size[r], loss[r] /= (float)size[r]; }
    agree("losses", loss, want, N, 1, 3e-7, 0);
    if (!hd.backward) { return; }
    float* got = fetch(d_z);
    all_zero("padding", got, N, Vp, V, Vp);
    for (size_t r = 0; r < N; r++) {
        if (targets[r] < 0) { all_zero("row of an ignored target", got + r * Vp, 1, Vp, 0, Vp); }
    }
    agree_each("dz", got, dz, dz_size, N * Vp, 2e-6);
}
static void test_cross_entropy_rows(void) {
    for (int i = 0; i < VOCABULARIES; i++) {
        const size_t V = some_vocabularies[i];
        for (int r = 0; r < ROWS; r++) {
            for (int backward = 0; backward < 2; backward++) {
                if (V > 1000 && r != 1 + i % 2) { continue; }
                hd.N = some_rows[r], hd.V = V, hd.Vp = round_up(V, PADDED_ROWS), hd.backward = backward;
                hd.scale = r == 0 ? 1 : 1.0f / 4096;
                run_case(cross_entropy_rows_case, 1 | 4 | 8, "cross-entropy of rows N %zu V %zu%s", hd.N, V,
                         backward ? ", with gradient" : "");
            }
        }
    }
    hd.N = 3, hd.V = 130, hd.Vp = 512, hd.backward = 1;
    run_case(cross_entropy_rows_case, 0, "cross-entropy of rows, V 130 Vp 512");
    for (int i = 0; i <= LONG_ROWS; i++) {
        hd.N = 1 + i / LONG_ROWS, hd.V = long_row(i % LONG_ROWS), hd.Vp = round_up(hd.V, PADDED_ROWS);
        hd.backward = i < LONG_ROWS, hd.scale = 1.0f / 4096;
        run_case(cross_entropy_rows_case, 0, "cross-entropy of rows N %zu V %zu%s", hd.N, hd.V,
                 hd.backward ? ", with gradient" : "");
    }
    measures_print();
}

static struct {
    float what;
    int ignored, backward;
    size_t where;
} hn;
static void cross_entropy_rows_nan_case(void) {
    enum { N = 3, V = 4200, Vp = 4224 };
    float *z = make_logits(N, V, Vp, ROW_NORMAL), *scale = zeros(1);
    int* targets = host_ints(N);
    z[Vp + hn.where] = hn.what;
    scale[0] = 0.5f;
    targets[1] = hn.ignored ? -1 : 7;
    float* losses = array_floats("losses", OUTPUT, NULL, N);
    floatX* d_z = array_x("z", hn.backward ? IN_PLACE : INPUT, z, N * Vp);
    int* d_targets = array_ints("targets", INPUT, targets, N);
    float* d_scale = array_floats("scale", hn.backward ? INPUT : NOWHERE, scale, 1);
    cross_entropy_rows_cuda(losses, d_z, d_targets, d_scale, N, V, Vp);
    float* loss = fetch(losses);
    CHECK(hn.ignored ? loss[1] == 0 : loss[1] != loss[1], "%s: the loss is %g", case_name, loss[1]);
    CHECK(count_nan(loss, N) == (hn.ignored ? 0u : 1u), "%s: the losses beside it", case_name);
    if (!hn.backward) { return; }
    float* got = fetch(d_z);
    all_zero("padding", got, N, Vp, V, Vp);
    size_t in_row = 0;
    for (size_t v = 0; v < V; v++) { in_row += got[Vp + v] != got[Vp + v]; }
    const size_t all = count_nan(got, N * Vp);
    CHECK(in_row == (hn.ignored ? 0u : (size_t)V) && all == in_row, "%s: %zu NaN in its row, %zu in all", case_name,
          in_row, all);
}
static void test_cross_entropy_rows_nan(void) {
    static const size_t places[] = {0, 7, 2100, 4199};
    for (int place = 0; place < 4; place++) {
        for (int k = 0; k < 8; k++) {
            if (place % 2 && k % 2) { continue; }
            hn.where = places[place], hn.what = k & 1 ? INFINITY : NAN, hn.ignored = k >> 1 & 1, hn.backward = k >> 2;
            run_case(cross_entropy_rows_nan_case, 0, "cross-entropy of rows, %g at %zu%s%s", (double)hn.what, hn.where,
                     hn.ignored ? ", target ignored" : "", hn.backward ? ", with gradient" : "");
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Mix and head as wholes

// The formula in double, from numbers that are rounded to floatX where the GPU stores them as that.
static double as_stored(double x) { return (double)rounding((float)x); }

// Sums of products of such numbers are exact in fp32, whatever their order, so the logits are the same here and
// there: no bf16 is rounded the other way because its sum fell beside a border.
static float sixteenths(double deviation) { return (float)rint(16 * deviation * random_normal_like()) / 16; }

static struct {
    size_t N, C, V, rows;
    int tied, keep_p, scaled;
    double temperature;
    size_t top_k;
} wh;

static void mix_and_head_case(void) {
    enum { S = 2, s = 1 };  // the second of two mixes; the head is that of the last pass
    const size_t N = wh.N, C = wh.C, V = wh.V, room = N + 2, stride = room * C, Vp = round_up(V, PADDED_ROWS);
    TensorTable families;
    memset(&families, 0, sizeof families);
    TensorTable* table = &families;
    tensor_add(table, format_string("before"), 5, 0, INIT_ZEROS, 0);
    const int embed = tensor_add(table, format_string("in"), V, C, INIT_ZEROS, 0);
    tensor_add(table, format_string("between"), 3, 0, INIT_ZEROS, 0);
    const int head = wh.tied ? embed : tensor_add(table, format_string("out"), V, C, INIT_ZEROS, 0);
    tensor_add(table, format_string("after"), 7, 0, INIT_ZEROS, 0);
    const size_t in = table->list[embed].offset, out = table->list[head].offset;
    const size_t total = table->total;

    // Every tensor's own numbers, 0 in the room after its last row.
    float *w = zeros(total), *prior = zeros(total);
    for (int i = 0; i < table->count; i++) {
        const Tensor* t = &table->list[i];
        for (size_t j = 0; j < t->size; j++) {
            w[t->offset + j] = sixteenths(0.5);
            prior[t->offset + j] = (float)random_normal_like();
        }
    }
    float *e = random_floats((S + 1) * stride, 0, 2), *h = zeros((S + 1) * stride);
    for (size_t i = 0; i < (S + 1) * stride; i++) { h[i] = sixteenths(1); }
    float *de = random_floats(N * C, 0, 1), *scale = zeros(1);
    int* tokens = host_ints(3 * N);
    for (size_t n = 0; n < N; n++) { tokens[N + n] = n % 4 == 1 ? -1 : (int)(random_bits64() % V); }
    scale[0] = 0.25f;

    float* d_e = array_floats("e", IN_PLACE, e, (S + 1) * stride);
    floatX* d_h = array_x("h", INPUT, h, (S + 1) * stride);
    floatX* d_w = array_x("weights", INPUT, w, total);
    float* d_grads = array_floats("gradients", IN_PLACE, prior, total);
    float* d_de = array_floats("de", INPUT, de, N * C);
    floatX* d_dmix = array_x("dmix", OUTPUT, NULL, N * C);
    float* d_dot = array_floats("dot", OUTPUT, NULL, N);
    floatX* d_dh = array_x("dh", OUTPUT, NULL, N * C);
    floatX* d_z = array_x("z", OUTPUT, NULL, wh.rows * Vp);
    floatX* d_dz = array_x("dz", OUTPUT, NULL, wh.rows * Vp);
    floatX* d_p = array_x("p", wh.keep_p ? OUTPUT : NOWHERE, NULL, N * Vp);
    float* d_losses = array_floats("losses", OUTPUT, NULL, N);
    float* d_scale = array_floats("scale", INPUT, scale, 1);
    int* d_targets = array_ints("tokens", INPUT, tokens, 3 * N) + N;
    float *input = d_e + s * stride, *mixed = d_e + (s + 1) * stride;
    const float factor = wh.scaled ? (float)sqrt((double)C) : 1.0f, temperature = (float)wh.temperature;

    mix_forward_cuda(mixed, wh.keep_p ? d_p : d_z, input, d_h + s * stride, d_w + out, d_w + in, N, C, V, factor,
                     temperature, wh.top_k, wh.rows, wh.keep_p);
    float* e_got = fetch(d_e);
    mix_backward_cuda(d_dh, d_grads + in, d_grads + out, wh.keep_p ? d_p : d_z, d_dz, d_dot, d_dmix, d_de, input, mixed,
                      d_h + s * stride, d_w + out, d_w + in, N, C, V, factor, temperature, wh.top_k, wh.rows,
                      wh.keep_p);
    float *dh_mix = fetch(d_dh), *grads_mix = fetch(d_grads);
    head_forward_cuda(d_losses, d_z, d_h + S * stride, d_targets, d_w + out, N, C, V, wh.rows);
    float* losses_only = fetch(d_losses);
    head_forward_backward_cuda(d_losses, d_dh, d_grads + out, d_z, d_h + S * stride, d_targets, d_w + out, N, C, V,
                               d_scale, wh.rows);
    float *losses = fetch(d_losses), *grads = fetch(d_grads);
    CHECK(memcmp(losses, losses_only, N * sizeof(float)) == 0, "%s: a gradient changes the losses", case_name);

    const double a = wh.scaled ? sqrt((double)C) : 1;
    double *z = zeros_double(V), *p = zeros_double(V), *dz = zeros_double(V), *next = zeros_double(N * C);
    double *dh = zeros_double(N * C), *dh_head = zeros_double(N * C), *loss = zeros_double(N);
    double *dw = zeros_double(total), *dw_head = zeros_double(total);
    float* row = zeros(V);
    const float *w_in = w + in, *w_out = w + out;
    for (size_t i = 0; i < total; i++) { dw[i] = prior[i]; }
    for (size_t n = 0; n < N; n++) {
        const float *state = h + s * stride + n * C, *came_in = e + s * stride + n * C;
        for (size_t v = 0; v < V; v++) {
            z[v] = 0;
            for (size_t i = 0; i < C; i++) { z[v] += (double)state[i] * (double)w_out[v * C + i]; }
            row[v] = (float)as_stored(z[v] / wh.temperature);
        }
        softmax_double(p, row, V, wh.top_k);
        double dot = 0;
        for (size_t v = 0; v < V; v++) { p[v] = as_stored(p[v]); }
        for (size_t i = 0; i < C; i++) {
            double mix = 0;
            for (size_t v = 0; v < V; v++) { mix += a * p[v] * (double)w_in[v * C + i]; }
            next[n * C + i] = (double)came_in[i] + mix;
            dot += as_stored(de[n * C + i]) * mix;
        }
        for (size_t v = 0; v < V; v++) {
            double dp = 0;
            for (size_t i = 0; i < C; i++) { dp += a * as_stored(de[n * C + i]) * (double)w_in[v * C + i]; }
            dz[v] = as_stored(p[v] * (as_stored(dp) - dot) / wh.temperature);
        }
        for (size_t v = 0; v < V; v++) {
            for (size_t i = 0; i < C; i++) {
                dw[in + v * C + i] += a * p[v] * as_stored(de[n * C + i]);
                dw[out + v * C + i] += dz[v] * (double)state[i];
                dh[n * C + i] += dz[v] * (double)w_out[v * C + i];
            }
        }
        // The head, from the last pass.
        const float* last = h + S * stride + n * C;
        const int target = tokens[N + n];
        if (target < 0) { continue; }
        for (size_t v = 0; v < V; v++) {
            z[v] = 0;
            for (size_t i = 0; i < C; i++) { z[v] += (double)last[i] * (double)w_out[v * C + i]; }
            row[v] = (float)as_stored(z[v]);
        }
        softmax_double(p, row, V, 0);
        loss[n] = -log(p[target]);
        for (size_t v = 0; v < V; v++) { dz[v] = as_stored(0.25 * (p[v] - (v == (size_t)target))); }
        for (size_t v = 0; v < V; v++) {
            for (size_t i = 0; i < C; i++) {
                dw_head[out + v * C + i] += dz[v] * (double)last[i];
                dh_head[n * C + i] += dz[v] * (double)w_out[v * C + i];
            }
        }
    }

    // Measured: 1.2e-6 in fp32, dh 2e-6. bf16 adds probabilities and dz that are rounded the other way, each 2^-8 of
    // itself: 6e-6.
    const double tolerance = sizeof(floatX) == 2 ? 3e-4 : 4e-6;
    float* e_next = (float*)xalloc(N * C, sizeof(float), "a test");
    memcpy(e_next, e_got + (s + 1) * stride, N * C * sizeof(float));
    agree("next", e_next, next, N * C, largest(next, N * C), tolerance, 0);
    memcpy(e + (s + 1) * stride, e_got + (s + 1) * stride, N * C * sizeof(float));
    agree_bits("the rest of e", e_got, e, (S + 1) * stride * sizeof(float));
    free(e_got);
    agree("dh of the mix", dh_mix, dh, N * C, largest(dh, N * C), tolerance, 1);
    agree("gradients of the mix", grads_mix, dw, total, largest(dw, total), tolerance, 0);
    for (size_t i = 0; i < total; i++) { dw[i] += dw_head[i]; }
    agree("gradients of both", grads, dw, total, largest(dw, total), tolerance, 0);
    agree("losses", losses, loss, N, fmax(1, largest(loss, N)), tolerance, 0);
    agree("dh of the head", fetch(d_dh), dh_head, N * C, largest(dh_head, N * C), tolerance, 1);
    free(losses_only);
    for (int i = 0; i < table->count; i++) { free(table->list[i].name); }
    free(table->list);
}

static void mix_and_head_run(size_t N, size_t C, size_t V, size_t rows, int tied, int keep_p, int scaled,
                             double temperature, size_t top_k) {
    wh.N = N, wh.C = C, wh.V = V, wh.rows = rows, wh.tied = tied, wh.keep_p = keep_p, wh.scaled = scaled;
    wh.temperature = temperature, wh.top_k = top_k;
    run_case(mix_and_head_case, 0,
             "mix and head N %zu C %zu V %zu, %zu rows at a time, %s, p %s, %s, temperature %g, top %zu", N, C, V, rows,
             tied ? "tied" : "untied", keep_p ? "kept" : "computed again", scaled ? "scaled" : "not scaled",
             temperature, top_k);
}
static void test_mix_and_head(void) {
    mix_and_head_run(1, 8, 64, 1, 0, 0, 0, 1, 0);
    mix_and_head_run(5, 8, 70, 5, 0, 0, 1, 1, 0);
    mix_and_head_run(5, 8, 70, 2, 0, 1, 1, 2, 0);
    mix_and_head_run(7, 40, 130, 3, 0, 0, 1, 0.5, 0);
    mix_and_head_run(7, 40, 130, 3, 1, 1, 1, 0.5, 9);
    mix_and_head_run(6, 13, 130, 2, 0, 1, 0, 1, 0);
    mix_and_head_run(6, 13, 65, 4, 1, 0, 1, 1.5, 64);
    mix_and_head_run(17, 16, 130, 8, 0, 1, 1, 1, 3);
    mix_and_head_run(3, 1, 5, 2, 0, 0, 0, 1, 0);
    measures_print();
}

// Rows at a time: from shapes alone, all where they fit, else equal blocks of a gigabyte at most, of whole 64
// rows, or of 1024 where even those take more.
static void test_mix_rows(void) {
    const size_t X = sizeof(floatX), V = 50304;
    CHECK(mix_rows_cuda(1, V) == 1 && mix_rows_cuda(1000, V) == 1000, "few rows are one block");
    const size_t rows = mix_rows_cuda(1 << 20, V);
    CHECK(rows % 64 == 0 && (rows - 63) * V * X <= 1 << 30 && (rows + 1024) * V * X > 1 << 30, "%zu rows", rows);
    const size_t halves = mix_rows_cuda(16384, 50304 / X * 2);
    CHECK(halves == 8192, "16384 rows in blocks of %zu", halves);
    CHECK(mix_rows_cuda(1 << 20, (size_t)1 << 30) == 1024, "a vocabulary of 2^30");
    CHECK(mix_rows_cuda(1 << 20, 64) <= 1 << 20, "a vocabulary of 64");
}

// What the launchers say they move, in a dry run, beside the arrays that they must touch once.
static void test_ledger(void) {
    const double N = 4096, C = 512, Vp = 50304, X = sizeof(floatX);
    const size_t n = 4096, c = 512, vp = 50304;
    float* f = (float*)(uintptr_t)4096;  // nothing is read
    floatX* x = (floatX*)(uintptr_t)4096;
    int* t = (int*)(uintptr_t)4096;
    Ledger before = ledger;
    ledger.dry = 1;
    ledger_clear();
    struct {
        const char* name;
        double want, got;
    } row[16];
    int rows = 0;
    embedding_forward_cuda(f, t, f, n, c, 1);
    row[rows++] = {"embedding forward", N * C * 8, booked_bytes()};
    embedding_backward_cuda(f, f, t, t, f, n, c, vp, 1);
    row[rows++] = {"embedding backward", N * C * 12, booked_bytes()};
    embedding_backward_cuda(f, f, t, t, f, n, c, 64, 1);  // 64 rows of the table, 64 parts written and read
    row[rows++] = {"embedding backward, few tokens", (N + 64 * 4) * C * 4, booked_bytes()};
    const double times = X == 2 ? 2 : 3;  // bf16 reads each row of 50,304 once, fp32 twice
    softmax_rows_cuda(x, n, vp - 7, vp, 0);
    row[rows++] = {"softmax of rows", N * Vp * times * X, booked_bytes()};
    softmax_rows_cuda(x, n, 2 * vp - 7, 2 * vp, 0);
    row[rows++] = {"softmax of longer rows", N * 2 * Vp * 3 * X, booked_bytes()};
    mix_dot_cuda(x, f, f, f, f, n, c);
    row[rows++] = {"mix dot", N * C * (12 + X), booked_bytes()};
    softmax_rows_backward_cuda(x, x, f, n, vp, 1);
    row[rows++] = {"softmax of rows backward", N * Vp * 3 * X, booked_bytes()};
    cross_entropy_rows_cuda(f, x, t, NULL, n, vp - 7, vp);
    row[rows++] = {"cross-entropy of rows", N * Vp * X, booked_bytes()};
    cross_entropy_rows_cuda(f, x, t, f, n, vp - 7, vp);
    row[rows++] = {"cross-entropy of rows and gradient", N * Vp * times * X, booked_bytes()};
    cross_entropy_rows_cuda(f, x, t, f, n, 2 * vp - 7, 2 * vp);
    row[rows++] = {"cross-entropy and gradient of longer rows", N * 2 * Vp * 3 * X, booked_bytes()};
    ledger = before;
    for (int i = 0; i < rows; i++) {
        double share = row[i].got / row[i].want;
        CHECK(share >= 1 && share <= 1.1, "%s: %.4g bytes are booked, the arrays have %.4g", row[i].name, row[i].got,
              row[i].want);
        printf("     %-24s %.3f of its arrays' bytes booked\n", row[i].name, share);
    }
}

int main(int argc, char** argv) {
    test_begin(argc, argv);
    device_open();
    ledger.booking = 1;  // a launch that states() does not precede dies
    printf("gpu_ponder: %s, on %s\n", PRECISION, device.name);
    RUN(test_sort_tokens);
    RUN(test_batch_ahead);
    RUN(test_batch_many);
    RUN(test_embedding);
    RUN(test_row_fits);
    RUN(test_softmax_rows);
    RUN(test_rows_either_way);
    RUN(test_mix_top_k);
    RUN(test_mix_top_k_cuts);
    RUN(test_softmax_rows_nan);
    RUN(test_mix_dot);
    RUN(test_softmax_rows_backward);
    RUN(test_cross_entropy_rows);
    RUN(test_cross_entropy_rows_nan);
    RUN(test_mix_and_head);
    RUN(test_mix_rows);
    RUN(test_ledger);
    return test_end();
}

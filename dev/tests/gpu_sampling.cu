// gpu_sampling.cu - tests of common/sampling.cuh against sample_token() and sample_penalise() of common/run/sample.h.
//
//     gpu_sampling [part of a test's name]
//
// Runs on a GPU and under the emulator alike; gpu_arrays.h says what is checked in every case. A draw must be C's token,
// or lie between two that C picks for a u and a top_p that differ from those given by a share of BORDER: there rounding
// decides. How often that was needed, and the smallest share of those tried that would have done, is printed: 1e-8 with
// the emulator's expf(). BORDER allows for a GPU's, and for rounding the difference that goes into it.
#include "../../common/run/sample.h"
#include "../../common/sampling.cuh"
#include "gpu_arrays.h"

#include <float.h>

enum { TEXTS = 4, ROWS = 6, DRAWS = 4 };
#define BORDER 1e-6

#ifdef EMULATE_SLOW
enum { CASES = 12, LARGE = 2, BORDERS = 8 };
#else
enum { CASES = 80, LARGE = 4, BORDERS = 32 };
#endif

// ---- logits ----

enum { NORMAL, STEEP, FEW_VALUES, EQUAL, ZEROS, NEIGHBOURS, FAR_DOWN, KINDS };
static const char* const kind_names[] = {"normal", "steep", "few values", "equal", "zeros", "neighbours", "far down"};
static float make_logit(int kind) {
    double x = random_normal_like();
    switch (kind) {
        case NORMAL: return (float)(3 * x);
        case STEEP: return (float)(40 * x);
        case FEW_VALUES: return (float)floor(1.3 * x);
        case EQUAL: return -2.5f;
        case ZEROS: return x > 0.8 ? 0.0f : x > -0.8 ? -0.0f : FLT_TRUE_MIN * (float)floor(3 * x);
        case NEIGHBOURS: return bits_float(float_bits(7.0f) + (uint32_t)floor(40 + 10 * x));
        default: return (float)(-200 + x);
    }
}

// ---- the judge ----

static struct {
    int draws, rounded;
    double border;  // that explains all of them
} judged;

static Sampler sampler_of(const SampleRule* rule, size_t V) {
    Model model;
    memset(&model, 0, sizeof model);
    model.V = (int)V;
    Sampler s;
    memset(&s, 0, sizeof s);
    s.temperature = rule->temperature, s.top_k = rule->top_k, s.top_p = rule->top_p, s.penalty = rule->penalty;
    sampler_make(&s, &model, 1);
    return s;
}

// Tokens that come before one, in the order in which C adds up.
static int place_of(const Sampler* s, const float* logits, int V, int token) {
    if (!(s->top_k > 0 && s->top_k < V) && s->top_p >= 1) { return token; }
    int before = 0;
    for (int v = 0; v < V; v++) { before += logits[v] > logits[token] || (logits[v] == logits[token] && v < token); }
    return before;
}
// 1 if C picks tokens on both sides of `token`, or it, when u and top_p change by a share of at most `by`.
static int within(Sampler* s, const float* logits, int V, double u, double by, int token) {
    if (token < 0 || token >= V) { return 0; }
    const double top_p = s->top_p, below_1 = 1 - 0x1p-53;
    const int at = place_of(s, logits, V, token);
    int least = V, most = -1;
    for (int i = 0; i < 9; i++) {
        if (top_p < 1) { s->top_p = fmin(top_p * (1 + by * (i / 3 - 1)), below_1); }
        int other = sample_token(s, logits, V, fmin(u * (1 + by * (i % 3 - 1)), below_1));
        s->top_p = top_p;
        if (other < 0) { return 0; }
        int there = place_of(s, logits, V, other);
        least = there < least ? there : least, most = there > most ? there : most;
    }
    return at >= least && at <= most;
}
static void judge(Sampler* s, const float* logits, int V, double u, int token) {
    int want = sample_token(s, logits, V, u);
    judged.draws++;
    if (token == want) { return; }
    judged.rounded++;
    for (double by = 1e-10; by < 1.01 * BORDER; by *= 10) {
        if (within(s, logits, V, u, by, token)) {
            judged.border = fmax(judged.border, by);
            return;
        }
    }
    CHECK(0, "%s: u %.17g: got token %d, expected %d", case_name, u, token, want);
}
static void judged_print(int beside) {
    printf("     %d draws, %d beside a border, nearer than %.0e\n", judged.draws, judged.rounded, judged.border);
    CHECK(beside || judged.rounded * 200 <= judged.draws, "%d of %d draws are beside a border", judged.rounded,
          judged.draws);
    memset(&judged, 0, sizeof judged);
}

// ---- texts ----

static int* array_ints(const char* name, Use use, const int* host, size_t count) {
    return (int*)array_new(name, use, host, count, sizeof(int));
}
static unsigned* host_words(size_t n) { return (unsigned*)kept_until_end(xalloc(n, sizeof(unsigned), "a test")); }
static int has(const unsigned* words, size_t token) { return words[token / 32] >> (token % 32) & 1; }

// The first numbers are the ends of what random_uniform() gives.
static double make_u(int i) {
    static const double ends[] = {0x1p-53, 1 - 0x1p-53, 0.5};
    return i < 3 ? ends[i] : ((double)(random_bits64() >> 12) + 0.5) * 0x1p-52;
}

static struct {
    size_t n, V, ld;
    int kind, first;  // first: number of the first u
    SampleRule rule;
    int spoilt;  // text with a logit that is not finite, -1: none
    float spoiler;
    size_t spoilt_at;
} sr;

// DRAWS draws, one after the other, for n texts; each adds its tokens to what has been seen.
static void sample_rows_case(void) {
    const size_t n = sr.n, V = sr.V, ld = sr.ld, words = seen_words(V);
    float* logits = zeros(n * ld);
    for (size_t i = 0; i < n * ld; i++) { logits[i] = i % ld < V ? make_logit(sr.kind) : NAN; }
    if (sr.spoilt >= 0) { logits[(size_t)sr.spoilt * ld + sr.spoilt_at] = sr.spoiler; }
    unsigned* seen = host_words(ROWS * words);
    for (size_t i = 0; i < ROWS * V; i++) {
        if (random_unit() < 0.3) { seen[i / V * words + i % V / 32] |= 1u << (i % V % 32); }
    }
    if (sr.spoilt >= 0) {  // the penalty is what makes some of them infinite
        for (size_t r = 0; r < ROWS; r++) { seen[r * words + sr.spoilt_at / 32] |= 1u << (sr.spoilt_at % 32); }
    }
    SampleDraw draws[DRAWS * TEXTS];
    memset(draws, 0, sizeof draws);
    for (size_t k = 0; k < DRAWS; k++) {
        for (size_t i = 0; i < n; i++) {
            draws[k * n + i].u = make_u(sr.first + (int)(k * n + i));
            draws[k * n + i].row = (int)((5 * i + k + 3) % ROWS);  // no row twice in a call
        }
    }
    // Where no penalty asks for it, what has been seen may be missing.
    const int without = sr.rule.penalty == 1 && sr.first % 2;
    float* d_logits = array_floats("logits", INPUT, logits, n * ld);
    unsigned* d_seen = (unsigned*)array_new("seen", without ? NOWHERE : IN_PLACE, seen, ROWS * words, sizeof(unsigned));
    SampleDraw* d_draws = (SampleDraw*)array_new("draws", INPUT, draws, DRAWS * n, sizeof(SampleDraw));
    int* tokens = array_ints("tokens", OUTPUT, NULL, DRAWS * n);
    for (size_t k = 0; k < DRAWS; k++) {
        sample_rows_cuda(tokens + k * n, d_logits, n, V, ld, d_draws + k * n, d_seen, sr.rule);
    }

    const int* got = (const int*)(const void*)array_bytes(tokens);
    Sampler s = sampler_of(&sr.rule, V);
    float* penalised = zeros(V);
    int* text = (int*)kept_until_end(xalloc(V, sizeof(int), "a text"));
    for (size_t i = 0; i < DRAWS * n; i++) {
        unsigned* row = seen + (size_t)draws[i].row * words;
        int length = 0;
        for (size_t v = 0; v < V; v++) {
            if (has(row, v)) { text[length++] = (int)v; }
        }
        memcpy(penalised, logits + i % n * ld, V * sizeof(float));
        sample_penalise(&s, penalised, text, length);
        if (!second_run) { judge(&s, penalised, (int)V, draws[i].u, got[i]); }
        CHECK((got[i] == -1) == ((int)(i % n) == sr.spoilt), "%s: text %zu: token %d", case_name, i % n, got[i]);
        if (got[i] >= 0 && (size_t)got[i] < V) { row[got[i] / 32] |= 1u << (got[i] % 32); }
    }
    if (!without) { agree_bits("seen", array_bytes(d_seen), seen, ROWS * words * sizeof(unsigned)); }
    sampler_free(&s);
}
static void sample_rows_run(size_t n, size_t V, int kind, SampleRule rule) {
    sr.n = n, sr.V = V, sr.ld = V + V % 5, sr.kind = kind, sr.rule = rule;
    run_case(sample_rows_case, 0, "%zu texts, V %zu, %s, T %g, top-k %lld, top-p %g, penalty %g", n, V,
             kind_names[kind], rule.temperature, (long long)rule.top_k, rule.top_p, rule.penalty);
    sr.first++;
}

static const double temperatures[] = {1, 0.3, 2, 0, 1, 1e-30, 1e300}, penalties[] = {1, 1.3, 0.7, 1};
static const double top_ps[] = {1, 0.9, 0.5, 0.01, 0.999999, 1e-12, 1};

static void test_sample_rows(void) {
    static const size_t vocabularies[] = {3, 17, 257, 1500, 5000, 1, 33};
    sr.spoilt = -1, sr.first = 0;
    for (int i = 0; i < CASES; i++) {
        random_state = (uint64_t)i * 77777 + 5;
        uint64_t bits = random_bits64();
        size_t V = vocabularies[bits % 7];
        const int64_t top_ks[] = {0, 1, 2, 5, 50, (int64_t)V, (int64_t)V + 3, 0};
        SampleRule rule = {temperatures[(bits >> 8) % 7], top_ks[bits >> 16 & 7], top_ps[(bits >> 24) % 7],
                           penalties[bits >> 32 & 3]};
        sample_rows_run(1 + (bits >> 40) % TEXTS, V, (int)((bits >> 48) % KINDS), rule);
    }
    judged_print(0);
}
// As GPT-NeoX has them, and one more than a multiple of all that the kernel counts in.
static void test_sample_large(void) {
    static const struct {
        size_t V;
        int kind;
        SampleRule rule;
    } cases[] = {{50304, NORMAL, {1, 0, 1, 1}},
                 {50304, NORMAL, {1.3, 0, 0.999, 1.3}},  // the tail that is cut off has small weights
                 {32769, NORMAL, {0.7, 50, 0.95, 1}},
                 {32769, FEW_VALUES, {2, 20000, 1, 0.7}}};
    sr.spoilt = -1;
    for (int i = 0; i < LARGE; i++) {
        sr.first = 0;
        sample_rows_run(1 + (i == 0), cases[i].V, cases[i].kind, cases[i].rule);
    }
    judged_print(0);
}
// A penalised logit is the same float as in C: two that are not penalised stand beside it, equal to it. Of the first two
// in the order of logits, then ids, u picks the second, which it is unless it is a little larger or smaller.
static void sample_penalty_case(void) {
    enum { N = 48, V = 3 };
    const SampleRule rule = {1, 2, 1, 1.3};
    Sampler s = sampler_of(&rule, V);
    float* logits = zeros(N * V);
    unsigned* seen = host_words(N);
    SampleDraw draws[N];
    memset(draws, 0, sizeof draws);
    for (int i = 0; i < N; i++) {
        static const int text[] = {1};
        float* row = logits + i * V;
        row[1] = (float)(10 * random_unit() - 5);
        float penalised[V] = {0, row[1], 0};
        sample_penalise(&s, penalised, text, 1);
        row[0] = row[2] = penalised[1];
        seen[i] = 1u << 1;
        draws[i].u = 0.75, draws[i].row = i;
    }
    float* d_logits = array_floats("logits", INPUT, logits, N * V);
    unsigned* d_seen = (unsigned*)array_new("seen", INPUT, seen, N, sizeof(unsigned));
    SampleDraw* d_draws = (SampleDraw*)array_new("draws", INPUT, draws, N, sizeof(SampleDraw));
    int* tokens = array_ints("tokens", OUTPUT, NULL, N);
    sample_rows_cuda(tokens, d_logits, N, V, V, d_draws, d_seen, rule);
    const int* got = (const int*)(const void*)array_bytes(tokens);
    for (int i = 0; i < N; i++) { CHECK(got[i] == 1, "text %d: logit %.9g: token %d", i, logits[i * V + 1], got[i]); }
    sampler_free(&s);
}
static void test_sample_penalty(void) { run_case(sample_penalty_case, 0, "penalised logits"); }

// A u at which C goes from one token to another, that lies above `u` if there is one.
static double border_above(Sampler* s, const float* logits, int V, double u) {
    const int token = sample_token(s, logits, V, u);
    double below = u, above = 1 - 0x1p-53;
    for (int i = 0; i < 60; i++) {
        double middle = (below + above) / 2;
        *(sample_token(s, logits, V, middle) == token ? &below : &above) = middle;
    }
    return above;
}
// Draws beside borders, from 1e-9 to 1e-6 of u away on either side: where rounding may decide, and where no longer.
static struct {
    size_t V;
    SampleRule rule;
} sb;
static void sample_borders_case(void) {
    const size_t V = sb.V;
    float* logits = random_floats(V, -3, 3);
    Sampler s = sampler_of(&sb.rule, V);
    SampleDraw draws[BORDERS];
    memset(draws, 0, sizeof draws);
    for (int i = 0; i < BORDERS; i++) {
        static const double by[] = {1e-9, -1e-9, 1e-8, -1e-8, 1e-7, -1e-7, 1e-6, -1e-6};
        draws[i].u = border_above(&s, logits, (int)V, random_unit()) * (1 + by[i % 8]);
        draws[i].u = fmin(draws[i].u, 1 - 0x1p-53);
    }
    float* d_logits = array_floats("logits", INPUT, logits, V);
    SampleDraw* d_draws = (SampleDraw*)array_new("draws", INPUT, draws, BORDERS, sizeof(SampleDraw));
    int* tokens = array_ints("tokens", OUTPUT, NULL, BORDERS);
    sample_rows_cuda(tokens, d_logits, BORDERS, V, 0, d_draws, NULL, sb.rule);  // all have the same logits
    const int* got = (const int*)(const void*)array_bytes(tokens);
    for (int i = 0; i < BORDERS && !second_run; i++) { judge(&s, logits, (int)V, draws[i].u, got[i]); }
    sampler_free(&s);
}
static void test_sample_borders(void) {
    static const SampleRule rules[] = {{1, 0, 1, 1}, {1, 40, 1, 1}, {1, 0, 0.8, 1}, {0.5, 300, 0.9, 1}};
    for (int r = 0; r < 4; r++) {
        sb.V = r % 2 ? 6 : 900, sb.rule = rules[r];
        run_case(sample_borders_case, 0, "beside borders, rule %d", r);
    }
    for (int r = 1; r < 4; r += 2) {
        sb.V = 900, sb.rule = rules[r];
        run_case(sample_borders_case, 0, "beside borders, rule %d of more tokens", r);
    }
    judged_print(1);
}

// In one text of three, anywhere, before or by the penalty: that text alone has no token.
static void test_sample_not_finite(void) {
    static const float spoilers[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f};
    static const size_t places[] = {0, 31, 1024, 1299};
    static const SampleRule rules[] = {{1, 0, 1, 1.5}, {0, 0, 1, 1.5}, {1, 9, 0.9, 1.5}};
    for (int i = 0; i < 5; i++) {
        sr.spoilt = i % 3, sr.spoiler = spoilers[i], sr.spoilt_at = places[i % 4], sr.first = 3;
        SampleRule rule = rules[i % 3];
        if (sr.spoiler == 3e38f) { rule.penalty = 0.5; }
        sample_rows_run(3, 1300, NORMAL, rule);
    }
    memset(&judged, 0, sizeof judged);
}

// ---- which tokens a text has ----

static void seen_case(void) {
    enum { N = 3, T = 300, V = 1000 };
    const size_t words = seen_words(V);
    unsigned* seen = host_words(ROWS * words);
    for (size_t i = 0; i < ROWS * words; i++) { seen[i] = (unsigned)random_bits64() & 0x11111111u; }
    static const int rows[N] = {4, 0, 5};
    int* tokens = (int*)kept_until_end(xalloc(N * T, sizeof(int), "a test"));
    for (int i = 0; i < N * T; i++) { tokens[i] = i % 7 == 3 ? -1 : (int)(random_bits64() % V); }
    tokens[0] = 0, tokens[T] = V - 1;
    unsigned* d_seen = (unsigned*)array_new("seen", IN_PLACE, seen, ROWS * words, sizeof(unsigned));
    int *d_rows = array_ints("rows", INPUT, rows, N), *d_tokens = array_ints("tokens", INPUT, tokens, N * T);
    seen_clear_cuda(d_seen, words, 5);
    seen_clear_cuda(d_seen, words, 2);
    seen_add_cuda(d_seen, words, d_rows, d_tokens, N, T);
    for (size_t w = 0; w < words; w++) { seen[5 * words + w] = seen[2 * words + w] = 0; }
    for (size_t i = 0; i < N * T; i++) {
        if (tokens[i] < 0) { continue; }
        seen[(size_t)rows[i / T] * words + (size_t)tokens[i] / 32] |= 1u << (tokens[i] % 32);
    }
    agree_bits("seen", array_bytes(d_seen), seen, ROWS * words * sizeof(unsigned));
}
static void test_seen(void) { run_case(seen_case, 0, "tokens seen"); }

// ---- a graph, bad sizes, the ledger ----

// A captured draw takes u and row as they are when it is launched again.
static void graph_case(void) {
    enum { V = 40, WORDS = 2, AGAIN = 5 };
    float* logits = random_floats(V, 0, 1);
    unsigned* seen = host_words(ROWS * WORDS);
    float* d_logits = array_floats("logits", INPUT, logits, V);
    unsigned* d_seen = (unsigned*)array_new("seen", IN_PLACE, seen, ROWS * WORDS, sizeof(unsigned));
    SampleDraw none;
    memset(&none, 0, sizeof none);
    SampleDraw* d_draw = (SampleDraw*)array_new("draw", IN_PLACE, &none, 1, sizeof none);
    int* token = array_ints("token", OUTPUT, NULL, 1);
    const SampleRule rule = {1, 30, 0.95, 1.2};
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA_CHECK(cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeThreadLocal));
    sample_rows_cuda(token, d_logits, 1, V, V, d_draw, d_seen, rule);
    CUDA_CHECK(cudaStreamEndCapture(device.stream, &graph));
    CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
    CUDA_CHECK(cudaGraphDestroy(graph));
    Sampler s = sampler_of(&rule, V);
    for (int k = 0; k < AGAIN; k++) {
        SampleDraw draw = {make_u(k + 3), k % 3, 0};
        CUDA_CHECK(cudaMemcpy(d_draw, &draw, sizeof draw, cudaMemcpyHostToDevice));
        CUDA_CHECK(cudaGraphLaunch(exec, device.stream));
        int got = *(const int*)(const void*)array_bytes(token), text[V], length = 0;
        float penalised[V];
        memcpy(penalised, logits, sizeof penalised);
        for (int v = 0; v < V; v++) {
            if (has(seen + draw.row * WORDS, (size_t)v)) { text[length++] = v; }
        }
        sample_penalise(&s, penalised, text, length);
        judge(&s, penalised, V, draw.u, got);
        if (got >= 0 && got < V) { seen[draw.row * WORDS + got / 32] |= 1u << (got % 32); }
    }
    CUDA_CHECK(cudaGraphExecDestroy(exec));
    sampler_free(&s);
}
static void test_sample_graph(void) {
    run_case(graph_case, 0, "a graph");
    judged_print(0);
}

static size_t refused_V;
static double refused_penalty;
static void refused(void* argument) {
    (void)argument;
    SampleRule rule = {1, 0, 1, refused_penalty};
    sample_rows_cuda(NULL, NULL, 1, refused_V, refused_V, NULL, NULL, rule);
}
static void test_sample_refused(void) {
    refused_V = SAMPLE_MOST, refused_penalty = 1;
    expect_death("a vocabulary", refused, NULL, "vocabulary of 1048576 tokens");
    refused_V = 100, refused_penalty = 1.5;
    expect_death("a penalty", refused, NULL, "penalty of 1.5");
}

static void test_ledger(void) {
    float* f = (float*)(uintptr_t)4096;  // nothing is read
    Ledger before = ledger;
    ledger.dry = 1;
    ledger_clear();
    const SampleRule rule = {1, 50, 0.9, 1.2};
    sample_rows_cuda((int*)f, f, 4, 50304, 50304, (SampleDraw*)f, (unsigned*)f, rule);
    double drawn = booked_bytes() / (4 * 50304 * (4.0 + 1.0 / 8));
    seen_add_cuda((unsigned*)f, 1572, (int*)f, (int*)f, 4, 500);
    double added = booked_bytes() / (4 * 500 * 12.0);
    ledger = before;
    CHECK(drawn >= 1 && drawn < 1.01 && added >= 1 && added < 1.01, "%.4f and %.4f of the arrays' bytes are booked",
          drawn, added);
}

int main(int argc, char** argv) {
    test_begin(argc, argv);
    device_open();
    ledger.booking = 1;  // a launch that states() does not precede dies
    printf("gpu_sampling: %s, on %s\n", PRECISION, device.name);
    RUN(test_sample_rows);
    RUN(test_sample_large);
    RUN(test_sample_penalty);
    RUN(test_sample_borders);
    RUN(test_sample_not_finite);
    RUN(test_seen);
    RUN(test_sample_graph);
    RUN(test_sample_refused);
    RUN(test_ledger);
    return test_end();
}

// test_sample.h - tests of common/run/sample.h: what is drawn, from which context, by which random numbers.
#ifndef PONDER_TEST_SAMPLE_H
#define PONDER_TEST_SAMPLE_H

#include "../../common/run/sample.h"
#include "test.h"

static void test_sampling(void) {
    enum { V = 7 };
    real logits[V] = {1, 3, 2, 3, -1, 0, 2};
    SampleEntry entries[V];
    double probabilities[V];
    Sampler s;
    memset(&s, 0, sizeof s);
    s.entries = entries;
    s.probabilities = probabilities;
    s.temperature = 1;
    s.top_p = 1;
    enum { DRAWS = 20000 };
    static const struct {
        double temperature;
        int64_t top_k;
        double top_p;
        int allowed[V];
    } cases[] = {
        {1, 0, 1, {1, 1, 1, 1, 1, 1, 1}},     {0.5, 0, 1, {1, 1, 1, 1, 1, 1, 1}},
        {0, 0, 1, {0, 1, 0, 0, 0, 0, 0}},     {1, 1, 1, {0, 1, 0, 0, 0, 0, 0}},
        {1, 3, 1, {0, 1, 1, 1, 0, 0, 0}},     {1, 4, 1, {0, 1, 1, 1, 0, 0, 1}},
        {1, V - 1, 1, {1, 1, 1, 1, 0, 1, 1}}, {1, 99, 1, {1, 1, 1, 1, 1, 1, 1}},
        {1, 0, 0.3, {0, 1, 0, 0, 0, 0, 0}},  // the largest probability alone is 0.333
        {1, 0, 0.5, {0, 1, 0, 1, 0, 0, 0}},   {1, 0, 0.7, {0, 1, 1, 1, 0, 0, 0}},
        {1, 2, 0.999, {0, 1, 0, 1, 0, 0, 0}}, {1, 2, 0.5, {0, 1, 0, 0, 0, 0, 0}},  // exactly the share is enough
        {1, 0, 1e-9, {0, 1, 0, 0, 0, 0, 0}},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        s.temperature = cases[c].temperature;
        s.top_k = cases[c].top_k;
        s.top_p = cases[c].top_p;
        double want[V], total = 0;
        int got[V] = {0};
        for (int v = 0; v < V; v++) {
            double temperature = cases[c].temperature > 0 ? cases[c].temperature : 1;
            total += want[v] = cases[c].allowed[v] ? exp((double)logits[v] / temperature) : 0;
        }
        for (int i = 0; i < DRAWS; i++) {
            int v = sample_token(&s, logits, V,
                                 ((double)i + 0.5) / DRAWS);  // every quantile once: shares are exact to 1 / DRAWS
            CHECK(v >= 0 && v < V, "case %zu draws %d", c, v);
            got[v < 0 ? 0 : v]++;
        }
        for (int v = 0; v < V; v++) {
            CHECK(fabs((double)got[v] / DRAWS - want[v] / total) < 2.0 / DRAWS,
                  "case %zu: token %d has the share %g, expected %g", c, v, (double)got[v] / DRAWS, want[v] / total);
        }
    }
    logits[4] = (real)NAN;
    CHECK(sample_token(&s, logits, V, 0.5) == -1, "NaN is seen");
    logits[4] = (real)-INFINITY;
    CHECK(sample_token(&s, logits, V, 0.5) == -1, "so is an infinity");
}

// A model for sample_text: after a context it says its length, then the token's successor.
static int sample_longest;
static void sample_count_logits(Model* model, const int* inputs, int B, int T, int last_only, real* logits) {
    CHECK(B == 1 && last_only == 1 && T >= 1 && T <= model->T, "B %d, T %d", B, T);
    if (T > sample_longest) { sample_longest = T; }
    for (int v = 0; v < model->V; v++) { logits[v] = v == (inputs[T - 1] + 1) % model->V ? 1 : 0; }
    for (int t = 1; t < T; t++) {
        CHECK(inputs[t] == (inputs[t - 1] + 1) % model->V, "the context is not in order at %d", t);
    }
}

static void test_sample_context(void) {
    Model model;
    memset(&model, 0, sizeof model);
    model.V = 11;
    model.T = 9;
    model.B = 1;
    model.logits = sample_count_logits;
    Sampler s;
    memset(&s, 0, sizeof s);
    s.top_p = s.penalty = 1;  // temperature 0
    sampler_make(&s, &model, 1);
    const int prompt[] = {2, 3, 4, 5, 6, 7};
    int out[20], bad = 1;
    const volatile sig_atomic_t stop = 0, stopped = 15;
    for (size_t length = 1; length <= 6; length++) {
        sample_longest = 0;
        int n = sample_text(&s, &model, prompt, length, 20, -1, 0, &stop, out, &bad);
        CHECK(n == 9 - (int)length && !bad, "%d tokens: the context of 9 is full then", n);
        for (int i = 0; i < n; i++) { CHECK(out[i] == (prompt[length - 1] + 1 + i) % 11, "token %d is %d", i, out[i]); }
        CHECK(sample_longest == 8, "the context grew to %d", sample_longest);
        CHECK(sample_text(&s, &model, prompt, length, 2, -1, 0, &stop, out, &bad) == 2, "two are enough");
        n = sample_text(&s, &model, prompt, length, 20, 8, 0, &stop, out, &bad);
        CHECK(n == 8 - prompt[length - 1] && out[n - 1] == 8, "ends with the end of the text after %d tokens", n);
        CHECK(sample_text(&s, &model, prompt, length, 20, 10, 0, &stopped, out, &bad) == 0, "a signal ends a sample");
    }
    sampler_free(&s);
}

// Among many tokens the best few are found without sorting all, at any share; beside a plain sort.
static void test_sample_many(void) {
    enum { V = 3000 };
    real* logits = (real*)xalloc(V, sizeof(real), "a test");
    Model model;
    memset(&model, 0, sizeof model);
    model.V = V;
    Sampler s;
    memset(&s, 0, sizeof s);
    s.temperature = 1;
    sampler_make(&s, &model, 1);
    for (int v = 0; v < V; v++) {
        logits[v] = (real)(0.25 * floor(24 * random_uniform(5, 1, (uint64_t)v)));
    }  // many ties
    SampleEntry* sorted = (SampleEntry*)xalloc(V, sizeof(SampleEntry), "a test");
    for (int v = 0; v < V; v++) { sorted[v].logit = (float)logits[v], sorted[v].id = v; }
    qsort(sorted, V, sizeof(SampleEntry), sample_compare);
    double total = 0;
    for (int i = 0; i < V; i++) { total += exp((double)sorted[i].logit - (double)sorted[0].logit); }
    static const double shares[] = {1e-6, 0.01, 0.2, 0.6, 0.9, 0.999};
    for (int c = 0; c < 6; c++) {
        s.top_p = shares[c], s.top_k = 0;
        double kept = 0;
        int few = 0;
        while (kept < shares[c] * total) { kept += exp((double)sorted[few++].logit - (double)sorted[0].logit); }
        CHECK(sample_token(&s, logits, V, 1e-9) == sorted[0].id, "share %g: the first", shares[c]);
        int last = sample_token(&s, logits, V, 1 - 1e-9), at = 0;
        while (sorted[at].id != last) { at++; }
        CHECK(abs(at - (few - 1)) <= 1, "share %g: the last is number %d, expected %d", shares[c], at, few - 1);
        s.top_p = 1, s.top_k = 17 << c;
        at = s.top_k < V ? (int)s.top_k - 1 : V - 1;
        CHECK(sample_token(&s, logits, V, 1 - 1e-12) == sorted[at].id, "the last of %d", 17 << c);
    }
    free(logits);
    free(sorted);
    sampler_free(&s);
}

static void sample_grown_logits(Model* model, const int* inputs, int B, int T, int last_only, real* logits) {
    static const real best[5] = {0, 7, 4, 6, -1};
    (void)model, (void)inputs, (void)B, (void)T, (void)last_only;
    memcpy(logits, best, sizeof best);
}

// Tokens that the text has come down once each, on either side of zero; others stay.
static void test_sample_penalty(void) {
    Model model;
    memset(&model, 0, sizeof model);
    model.V = 5;
    Sampler s;
    memset(&s, 0, sizeof s);
    s.penalty = 2;
    sampler_make(&s, &model, 1);
    const int text[] = {3, 1, 3, 3, 4};
    for (int again = 0; again < 2; again++) {
        real logits[5] = {1, 2, -1, -4, 0};
        const real want[5] = {1, 1, -1, -8, 0};
        sample_penalise(&s, logits, text, 5);
        for (int v = 0; v < 5; v++) { CHECK(logits[v] == want[v], "token %d: %g", v, (double)logits[v]); }
    }
    s.penalty = 1;
    real same[5] = {1, 2, -1, -4, 0};
    sample_penalise(&s, same, text, 5);
    CHECK(same[1] == 2 && same[3] == -4, "a penalty of 1 is none");
    // All of a text comes down, its first and its last token too.
    s.penalty = 2, s.top_p = 1;
    model.logits = sample_grown_logits;
    const volatile sig_atomic_t none = 0;
    int grown[4] = {3, 1}, next = -1;
    SampleText growing = {grown, 2, 0, 0, 0, 0}, *one = &growing;
    CHECK(sample_round(&s, &model, &one, 1, &none, &next) && next == 2 && growing.length == 3 && grown[2] == 2,
          "%d follows", next);
    sampler_free(&s);
}

// All logits equal: a sample shows nothing but its random numbers.
static void sample_flat_logits(Model* model, const int* inputs, int B, int T, int last_only, real* logits) {
    (void)inputs, (void)B, (void)T, (void)last_only;
    for (int v = 0; v < model->V; v++) { logits[v] = 0; }
}

// A sample depends on the seed, on the step, and on the number of the token, on each in all of its bits.
static void test_sample_keys(void) {
    enum { COUNT = 40, KEYS = 6 };
    Model model;
    memset(&model, 0, sizeof model);
    model.V = 1000;
    model.T = 64;
    model.B = 1;
    model.logits = sample_flat_logits;
    Sampler s;
    memset(&s, 0, sizeof s);
    s.temperature = s.top_p = s.penalty = 1;
    sampler_make(&s, &model, 1);
    static const struct {
        uint64_t seed;
        int64_t step;
    } keys[KEYS] = {{42, 7}, {43, 7}, {42, 8}, {42 + ((uint64_t)1 << 40), 7}, {7, 42}, {42, 7 + (1 << 30)}};
    const int prompt[] = {5};
    const volatile sig_atomic_t stop = 0;
    int out[KEYS][COUNT], again[COUNT], bad = 1;
    for (int k = 0; k < KEYS; k++) {
        s.seed = keys[k].seed;
        CHECK(sample_text(&s, &model, prompt, 1, COUNT, -1, keys[k].step, &stop, out[k], &bad) == COUNT, "length");
        sample_text(&s, &model, prompt, 1, COUNT, -1, keys[k].step, &stop, again, &bad);
        CHECK(memcmp(out[k], again, sizeof again) == 0, "the same key says something else the second time");
        for (int j = 0; j <= k; j++) {
            for (int later = 0; later <= COUNT / 2; later++) {  // or the other's tokens, some later
                int same = 0;                                   // by chance 1 of 1000
                for (int i = later; i < COUNT; i++) { same += out[k][i - later] == out[j][i] && (later || j != k); }
                CHECK(same <= 2, "keys %d and %d: %d of %d tokens are the same", j, k, same, COUNT);
            }
        }
    }
    sampler_free(&s);
}

// What a terminal would act on is shown as bytes, to the last of the control characters, and nothing else is.
static void test_sample_print(void) {
    static const char text[] = "a\n\tb\x1f\x7f ~\xc2\x80\xc2\x9f\xc2\xa0\xc3\x9f\xe2\x82\xac\xe2\x82";
    static const char want[] = "a\n\tb\\x1f\\x7f ~\\xc2\\x80\\xc2\\x9f\xc2\xa0\xc3\x9f\xe2\x82\xac\\xe2\\x82";
    Tokenizer* bytes = tokenizer_open(NULL, 257);
    int tokens[sizeof text - 1];
    for (size_t i = 0; i < sizeof text - 1; i++) { tokens[i] = (unsigned char)text[i]; }
    FILE* file = tmpfile();
    char got[256] = {0};
    sample_print(bytes, tokens, sizeof text - 1, 1, file);
    rewind(file);
    size_t n = fread(got, 1, sizeof got - 1, file);
    fclose(file);
    CHECK(n == sizeof want - 1 && strcmp(got, want) == 0, "%s, expected %s", got, want);
    tokenizer_close(bytes);
}

// A model whose next token follows from every token of a text and its place, by what decode() was told of them.
enum { READ_ROWS = 4, READ_LONGEST = 40, READ_V = 1009 };
static int read_tokens[READ_ROWS][READ_LONGEST], read_most, read_calls;
static int read_next(const int* tokens, int n) {
    unsigned sum = 7;
    for (int i = 0; i < n; i++) { sum = (31 * sum + (unsigned)tokens[i] + 1) % READ_V; }
    return (int)sum;
}
static void read_decode(Model* model, const int* tokens, int B, int T, const int* rows, const int* first,
                        real* logits) {
    read_most = T > read_most ? T : read_most;
    read_calls++;
    for (int b = 0; b < B; b++) {
        for (int t = 0; t < T; t++) { read_tokens[rows[b]][first[b] + t] = tokens[b * T + t]; }
        for (int v = 0; logits && v < model->V; v++) {
            logits[b * model->V + v] = v == read_next(read_tokens[rows[b]], first[b] + T);
        }
    }
}

// Texts of any length in any rows: prompts are read in pieces, each token once, then all texts together.
static void test_sample_pieces(void) {
    Model model;
    memset(&model, 0, sizeof model);
    model.V = READ_V;
    model.decode = read_decode;
    static const struct { int length, row; } list[3] = {{1, 2}, {20, 0}, {8, 3}};
    const volatile sig_atomic_t none = 0, stopped = 15;
    for (int piece = 1; piece <= 20; piece += piece < 4 ? 1 : 8) {
        Sampler s;
        memset(&s, 0, sizeof s);
        s.penalty = s.top_p = 1, s.piece = piece;  // temperature 0
        sampler_make(&s, &model, 3);
        memset(read_tokens, 0xff, sizeof read_tokens);
        int tokens[3][READ_LONGEST];
        SampleText texts[3], *all[3];
        for (int i = 0; i < 3; i++) {
            SampleText text = {tokens[i], list[i].length, 0, list[i].row, 0, 0};
            texts[i] = text, all[i] = &texts[i];
            for (int t = 0; t < text.length; t++) { tokens[i][t] = 100 * i + t; }
        }
        read_calls = 0;
        int got[3];
        CHECK(!sample_round(&s, &model, all, 3, &stopped, got) && read_calls == 0, "a signal comes first");
        for (int i = 0; i < 3; i++) { texts[i].read = 0; }  // it was the end of them
        for (int round = 0; round < 5; round++) {
            read_most = 0;
            int next[3];
            for (int i = 0; i < 3; i++) { next[i] = read_next(tokens[i], texts[i].length); }
            CHECK(sample_round(&s, &model, all, 3, &none, got), "round %d", round);
            CHECK(read_most == (round ? 1 : piece < 19 ? piece : 19), "%d tokens at a time, of %d", read_most, piece);
            for (int i = 0; i < 3; i++) {
                CHECK(texts[i].read == texts[i].length - 1, "text %d: %d of %d are read", i, texts[i].read,
                      texts[i].length);
                CHECK(got[i] == next[i], "pieces of %d, round %d, text %d: %d, expected %d", piece, round, i, got[i],
                      next[i]);
                CHECK(texts[i].drawn == round + 1 && tokens[i][texts[i].length - 1] == got[i], "text %d grows", i);
            }
        }
        CHECK(s.read_tokens == 0 + 19 + 7 && s.decode_tokens == 15, "%g and %g tokens", s.read_tokens, s.decode_tokens);
        sampler_free(&s);
    }
}

static void sample_tests(void) {
    RUN(test_sampling);
    RUN(test_sample_context);
    RUN(test_sample_many);
    RUN(test_sample_penalty);
    RUN(test_sample_keys);
    RUN(test_sample_print);
    RUN(test_sample_pieces);
}

#endif

// sample.h - text from a model: one token at a time, every pass computed anew for each.
//
// Draws come from a random stream of their own, keyed by (seed, step, number of the token), so
// that sampling changes nothing in training and the same checkpoint always says the same.
#ifndef PONDER_SAMPLE_H
#define PONDER_SAMPLE_H

#include "../files/tokenizer.h"
#include "../mathfun.h"
#include "../model.h"
#include "../random.h"

#include <signal.h>

typedef struct {
    float logit;
    int id;
} SampleEntry;

typedef struct {
    double temperature;  // 0: always the most probable token
    int64_t top_k;       // 0: all
    double top_p;        // 1: all
    uint64_t seed;
    // Room, see sampler_make:
    real* logits;           // (V)
    SampleEntry* entries;   // (V)
    double* probabilities;  // (V)
    int* context;           // (T)
} Sampler;

static inline void sampler_make(Sampler* s, const Model* model) {
    s->logits = (real*)xalloc((size_t)model->V, sizeof(real), "logits of a sample");
    s->entries = (SampleEntry*)xalloc((size_t)model->V, sizeof(SampleEntry), "a sample's candidates");
    s->probabilities = (double*)xalloc((size_t)model->V, sizeof(double), "a sample's probabilities");
    s->context = (int*)xalloc((size_t)model->T, sizeof(int), "a sample's context");
}

// Larger logits first, then smaller ids.
static inline int sample_compare(const void* a, const void* b) {
    const SampleEntry* x = (const SampleEntry*)a;
    const SampleEntry* y = (const SampleEntry*)b;
    if (x->logit != y->logit) { return x->logit > y->logit ? -1 : 1; }
    return x->id - y->id;
}

// The token that the uniform number u in (0,1) picks from softmax(logits / temperature), cut to
// the top_k most probable tokens, then to the fewest of those that hold top_p of the probability.
// -1 if a logit is not finite.
static inline int sample_token(Sampler* s, int V, double u) {
    int best = 0;
    for (int v = 0; v < V; v++) {
        if (!isfinite((double)s->logits[v])) { return -1; }
        if (s->logits[v] > s->logits[best]) { best = v; }
        s->entries[v].logit = (float)s->logits[v];
        s->entries[v].id = v;
    }
    if (s->temperature == 0 || s->top_k == 1) { return best; }
    int n = V;
    if (s->top_k > 0 || s->top_p < 1) { qsort(s->entries, (size_t)V, sizeof(SampleEntry), sample_compare); }
    if (s->top_k > 0 && s->top_k < n) { n = (int)s->top_k; }
    double total = 0;
    for (int i = 0; i < n; i++) {
        s->probabilities[i] =
            (double)exp_f((float)(((double)s->entries[i].logit - (double)s->logits[best]) / s->temperature));
        total += s->probabilities[i];
    }
    if (s->top_p < 1) {
        double kept = 0;
        int fewest = 0;
        do { kept += s->probabilities[fewest++]; } while (fewest < n && kept < s->top_p * total);
        n = fewest;
        total = kept;
    }
    double sum = 0;
    for (int i = 0; i < n; i++) {
        sum += s->probabilities[i];
        if (sum >= u * total) { return s->entries[i].id; }
    }
    return s->entries[n - 1].id;
}

// Continues prompt (length) by up to `count` tokens into out (count); returns how many were made:
// it ends after end_of_text (-1: there is none), when *stop becomes nonzero, and before a token
// whose logits are not finite (then *bad = 1). A full context keeps its last T tokens.
static inline int sample_text(Sampler* s, Model* model, const int* prompt, size_t length, int count, int end_of_text,
                              int64_t step, const volatile sig_atomic_t* stop, int* out, int* bad) {
    size_t T = (size_t)model->T;
    size_t n = min_size(length, T);
    for (size_t i = 0; i < n; i++) { s->context[i] = prompt[length - n + i]; }
    uint64_t stream = random_stream("sample");
    *bad = 0;
    for (int i = 0; i < count; i++) {
        if (*stop) { return i; }
        model->logits(model, s->context, 1, (int)n, 1, s->logits);
        work_goes_on();
        double u = random_uniform(s->seed, stream, ((uint64_t)step << 32) + (uint64_t)i);
        int token = sample_token(s, model->V, u);
        if (token < 0) {
            *bad = 1;
            return i;
        }
        out[i] = token;
        if (token == end_of_text) { return i + 1; }
        if (n == T) {
            memmove(s->context, s->context + 1, (T - 1) * sizeof(int));
            n--;
        }
        s->context[n++] = token;
    }
    return count;
}

// Prints decoded tokens. What is not printable (control characters, broken UTF-8, which a young
// model writes a lot) is shown as \xNN, so that no sample can act on a terminal.
static inline void sample_print(const Tokenizer* tokenizer, const int* tokens, size_t count, FILE* file) {
    StringBuilder sb = {0};
    for (size_t i = 0; i < count; i++) {
        char piece[TOKENIZER_PIECE];
        sb_append(&sb, piece, tokenizer_decode(tokenizer, tokens[i], piece));
    }
    for (size_t i = 0; i < sb.size;) {
        unsigned char c = (unsigned char)sb.data[i];
        size_t n = json_utf8_length(sb.data + i, sb.size - i);
        int control = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f ||
                      (n == 2 && c == 0xc2 && (unsigned char)sb.data[i + 1] < 0xa0);
        if (n == 0 || control) {
            fprintf(file, "\\x%02x", c);
            i++;
        } else {
            fwrite(sb.data + i, 1, n, file);
            i += n;
        }
    }
    free(sb.data);
}

#endif

// sample.h - what follows a text, token by token: how tokens are drawn, and texts that grow.
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
    double penalty;      // of tokens that are in the text already; 1: none
    uint64_t seed;
    int piece;  // most tokens of a text that the model takes at a time
    // Room, see sampler_make:
    int texts;              // that grow at a time
    real* logits;           // (texts,V)
    SampleEntry* entries;   // (V)
    double* probabilities;  // (V)
    unsigned* marks;        // (V) by their last text: which tokens it has
    unsigned mark;
    int *last, *rows, *first;                                         // (texts) arguments of decode()
    double* uniform;                                                  // (texts) of their draws
    double read_seconds, read_tokens, decode_seconds, decode_tokens;  // spent on prompts, and on what follows
} Sampler;

static inline void sampler_make(Sampler* s, const Model* model, int texts) {
    size_t V = (size_t)model->V, n = (size_t)texts;
    s->texts = texts;
    s->logits = (real*)xalloc(mul_size(n, V, "logits of samples"), sizeof(real), "logits of samples");
    s->entries = (SampleEntry*)xalloc(V, sizeof(SampleEntry), "a sample's candidates");
    s->probabilities = (double*)xalloc(V, sizeof(double), "a sample's probabilities");
    s->marks = (unsigned*)xalloc(V, sizeof(unsigned), "a sample's tokens");
    s->last = (int*)xalloc(3 * n, sizeof(int), "texts that grow");
    s->rows = s->last + n;
    s->first = s->rows + n;
    s->uniform = (double*)xalloc(n, sizeof(double), "texts that grow");
}

static inline void sampler_free(Sampler* s) {
    free(s->logits);
    free(s->entries);
    free(s->probabilities);
    free(s->marks);
    free(s->last);
    free(s->uniform);
}

// ---- one token ----

// Larger logits first, then smaller ids.
static inline int sample_compare(const void* a, const void* b) {
    const SampleEntry* x = (const SampleEntry*)a;
    const SampleEntry* y = (const SampleEntry*)b;
    if (x->logit != y->logit) { return x->logit > y->logit ? -1 : 1; }
    return x->id - y->id;
}

// Moves entry `at` of a heap of `count` down to where it belongs: the worst is on top.
static inline void sample_sift(SampleEntry* e, int count, int at) {
    for (int child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && sample_compare(&e[child + 1], &e[child]) > 0) { child++; }
        if (sample_compare(&e[child], &e[at]) < 0) { return; }
        SampleEntry swap = e[at];
        e[at] = e[child];
        e[child] = swap;
    }
}

// Puts the best `count` of n entries in front, sorted; the others behind them.
static inline void sample_best(SampleEntry* e, int n, int count) {
    for (int i = count / 2 - 1; i >= 0; i--) { sample_sift(e, count, i); }
    for (int i = count; i < n; i++) {
        if (sample_compare(&e[i], &e[0]) > 0) { continue; }
        SampleEntry worst = e[0];
        e[0] = e[i];
        e[i] = worst;
        sample_sift(e, count, 0);
    }
    qsort(e, (size_t)count, sizeof(SampleEntry), sample_compare);
}

// Logits (V) of tokens that are in the text (n) come down: above 0 they are divided by the penalty, below multiplied;
// Keskar et al., arXiv 1909.05858, as Hugging Face has it.
static inline void sample_penalise(Sampler* s, real* logits, const int* text, int n) {
    if (s->penalty == 1) { return; }
    s->mark++;
    for (int i = 0; i < n; i++) {
        if (s->marks[text[i]] == s->mark) { continue; }
        s->marks[text[i]] = s->mark;
        real* logit = &logits[text[i]];
        *logit = (real)((double)*logit > 0 ? (double)*logit / s->penalty : (double)*logit * s->penalty);
    }
}

static inline double sample_weight(const Sampler* s, const SampleEntry* entry, real best) {
    return (double)exp_f((float)(((double)entry->logit - (double)best) / s->temperature));
}

// Puts the candidates in front and their weights into s->probabilities: all tokens, or the top_k most probable, or of
// either the fewest that hold top_p of the probability. Returns how many they are.
static inline int sample_candidates(Sampler* s, int V, real best) {
    int n = s->top_k > 0 && s->top_k < V ? (int)s->top_k : V;
    if (n < V) { sample_best(s->entries, V, n); }
    double total = 0;
    for (int i = 0; i < n; i++) { total += s->probabilities[i] = sample_weight(s, &s->entries[i], best); }
    if (s->top_p >= 1) { return n; }
    // Most often few hold it, and sorting all V would take longer than anything else here.
    int sorted = n < V ? n : 0, fewest = 0;
    for (double kept = 0; fewest == 0 || (fewest < n && kept < s->top_p * total); fewest++) {
        if (fewest == sorted) {
            sorted = (int)min_size((size_t)V, max_size(64, 8 * (size_t)sorted));
            sample_best(s->entries, V, sorted);
        }
        kept += s->probabilities[fewest] = sample_weight(s, &s->entries[fewest], best);
    }
    return fewest;
}

// The token that the uniform number u in (0,1) picks from softmax(logits / temperature), logits (V), cut to
// the top_k most probable tokens, then to the fewest of those that hold top_p of the probability.
// -1 if a logit is not finite.
static inline int sample_token(Sampler* s, const real* logits, int V, double u) {
    int best = 0;
    for (int v = 0; v < V; v++) {
        if (!isfinite((double)logits[v])) { return -1; }
        if (logits[v] > logits[best]) { best = v; }
        s->entries[v].logit = (float)logits[v];
        s->entries[v].id = v;
    }
    if (s->temperature == 0 || s->top_k == 1) { return best; }
    int n = sample_candidates(s, V, logits[best]);
    double total = 0, sum = 0;
    for (int i = 0; i < n; i++) { total += s->probabilities[i]; }
    for (int i = 0; i < n; i++) {
        sum += s->probabilities[i];
        if (sum >= u * total) { return s->entries[i].id; }
    }
    return s->entries[n - 1].id;
}

// ---- texts that grow ----

typedef struct {
    int* tokens;     // the text, with room for what follows
    int length;      // of it so far
    int read;        // how many of them the model's caches hold
    int row;         // its row in the caches
    uint64_t draws;  // number of its first draw in the stream
    int drawn;       // tokens that were
} SampleText;

// What a model's caches lack of n texts but for their last tokens, in pieces; then those are s->last, their places s->rows
// and s->first. 0 if a signal came first.
static inline int sample_read(Sampler* s, Model* model, SampleText* const* texts, int n,
                              const volatile sig_atomic_t* stop) {
    for (int i = 0; i < n; i++) {
        SampleText* text = texts[i];
        while (text->length - text->read > 1) {
            double began = now_seconds();
            if (*stop) { return 0; }
            int some = text->length - 1 - text->read < s->piece ? text->length - 1 - text->read : s->piece;
            model->decode(model, text->tokens + text->read, 1, some, &text->row, &text->read, NULL);
            text->read += some, s->read_tokens += some;
            s->read_seconds += now_seconds() - began;
            work_goes_on();
        }
        s->last[i] = text->tokens[text->read];
        s->rows[i] = text->row;
        s->first[i] = text->read++;
    }
    return !*stop;
}

// The uniform number of a text's next draw.
static inline double sample_uniform(const Sampler* s, const SampleText* text) {
    return random_uniform(s->seed, random_stream("sample"), text->draws + (uint64_t)text->drawn);
}

// Logits of what follows each of n texts, s->logits (n,V), from their beginnings: of a model without caches.
static inline int sample_anew(Sampler* s, Model* model, SampleText* const* texts, int n,
                              const volatile sig_atomic_t* stop) {
    for (int i = 0; i < n; i++) {
        if (*stop) { return 0; }
        SampleText* text = texts[i];
        model->logits(model, text->tokens, 1, text->length, 1, s->logits + (size_t)i * (size_t)model->V);
        text->read = text->length;
        work_goes_on();
    }
    return 1;
}

// Appends a token to each of n texts, or none to one whose logits are not all finite: tokens (n), there -1. 0 if a signal
// came first. With caches a model reads what it has not read of a text in pieces, then the last tokens of all texts together,
// and may draw by itself; without, it reads every text from its beginning.
static inline int sample_round(Sampler* s, Model* model, SampleText* const* texts, int n,
                               const volatile sig_atomic_t* stop, int* tokens) {
    const size_t V = (size_t)model->V;
    if (model->decode && !sample_read(s, model, texts, n, stop)) { return 0; }
    double began = now_seconds();
    for (int i = 0; i < n; i++) { s->uniform[i] = sample_uniform(s, texts[i]); }
    if (model->decode && model->draw) {
        const SampleRule rule = {s->temperature, s->top_k, s->top_p, s->penalty};
        model->draw(model, s->last, n, s->rows, s->first, &rule, s->uniform, tokens);
    } else if (model->decode) {
        model->decode(model, s->last, n, 1, s->rows, s->first, s->logits);
    } else if (!sample_anew(s, model, texts, n, stop)) {
        return 0;
    }
    for (int i = 0; i < n; i++) {
        SampleText* text = texts[i];
        if (!model->decode || !model->draw) {
            real* logits = s->logits + (size_t)i * V;
            sample_penalise(s, logits, text->tokens, text->length);
            tokens[i] = sample_token(s, logits, (int)V, s->uniform[i]);
        }
        if (tokens[i] >= 0) { text->tokens[text->length++] = tokens[i], text->drawn++; }
    }
    s->decode_seconds += now_seconds() - began, s->decode_tokens += n;
    work_goes_on();
    return 1;
}

// Continues prompt (length, at most the T tokens of the model's rows) by up to `count` tokens into out (count); returns
// how many were made: it ends after end_of_text (-1: there is none), where the text has T tokens, when *stop becomes
// nonzero, and before a token whose logits are not finite (then *bad = 1). Room: sampler_make() for a text.
static inline int sample_text(Sampler* s, Model* model, const int* prompt, size_t length, int count, int end_of_text,
                              int64_t step, const volatile sig_atomic_t* stop, int* out, int* bad) {
    int most = (int)min_size((size_t)model->T, length + (size_t)count);
    SampleText text = {
        (int*)xalloc((size_t)model->T, sizeof(int), "a sample"), (int)length, 0, 0, (uint64_t)step << 32, 0};
    SampleText* texts[1] = {&text};
    memcpy(text.tokens, prompt, length * sizeof(int));
    s->piece = model->B * model->T;
    *bad = 0;
    if (model->decode) { model->cache_begin(model, 1, most); }
    int token;
    while (text.length < most && sample_round(s, model, texts, 1, stop, &token)) {
        *bad = token < 0;
        if (*bad) { break; }
        out[text.drawn - 1] = token;
        if (token == end_of_text) { break; }
    }
    if (model->decode) { model->cache_end(model); }
    free(text.tokens);
    return text.drawn;
}

// Prints decoded tokens; first: they begin a text. What is not printable (control characters, broken UTF-8, which a young
// model writes a lot) is shown as \xNN, so that no sample can act on a terminal.
static inline void sample_print(const Tokenizer* tokenizer, const int* tokens, size_t count, int first, FILE* file) {
    StringBuilder sb = {0};
    tokenizer_decode_all(tokenizer, tokens, count, first, &sb);
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

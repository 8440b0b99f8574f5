// explain_numbers.h - what a model predicts after each of its passes, at every position of a text; and tokens as they are
// shown.
//
// A prediction is softmax(logits) of one pass at one position, a distribution of what follows there: without temperature,
// top-k or top-p, so that the losses are those that a validation reports of the passes.
#ifndef PONDER_EXPLAIN_NUMBERS_H
#define PONDER_EXPLAIN_NUMBERS_H

#include "../files/tokenizer.h"
#include "../files/unicode.h"
#include "../mathfun.h"
#include "../model.h"
#include "../rows.h"

enum { EXPLAIN_ROWS = 64 };  // positions whose logits exist at a time

typedef struct {
    int id;
    float p;
} ExplainToken;

typedef struct {
    int n, passes, count;  // positions, passes, candidates of each
    const int* tokens;     // (n) the text
    ExplainToken* best;    // (n,passes,count) the most probable tokens, best first; of equal ones the lower ids
    double* entropy;       // (n,passes) of the distribution, bits
    double* loss;          // (n,passes) -log p of the token that follows in the text, nats; 0 at the last position
} Explained;

// A pass over all positions.
typedef struct {
    int changed;  // positions where its most probable token is another than that of the pass before; 0 of pass 0
    int settled;  // positions where it is the last that changed it; of pass 0: where none did
    int hits;     // positions where it is the token that follows
    double entropy, loss;  // means: of all positions, of all but the last
} ExplainPass;

static inline size_t explain_at(const Explained* e, int position, int pass) {
    return (size_t)position * (size_t)e->passes + (size_t)pass;
}
static inline const ExplainToken* explain_best(const Explained* e, int position, int pass) {
    return e->best + explain_at(e, position, pass) * (size_t)e->count;
}
// The token that follows, -1 at the last position.
static inline int explain_next(const Explained* e, int position) {
    return position + 1 < e->n ? e->tokens[position + 1] : -1;
}
// 1 if a pass has changed the most probable token.
static inline int explain_changed(const Explained* e, int position, int pass) {
    return pass > 0 && explain_best(e, position, pass)->id != explain_best(e, position, pass - 1)->id;
}
// The last pass that has, 0: none.
static inline int explain_settled(const Explained* e, int position) {
    int pass = e->passes - 1;
    while (pass > 0 && !explain_changed(e, position, pass)) { pass--; }
    return pass;
}

// ---- the numbers ----

// best (count) and entropy of softmax(z), z (V); *loss = -log p[next], 0 if next is -1. 0 if a logit is not finite.
static inline int explain_row(const real* z, int V, int next, int count, ExplainToken* best, double* entropy,
                              double* loss) {
    if (!row_finite(z, (size_t)V)) { return 0; }
    real most = row_max(z, (size_t)V);
    double sum = 0, weighted = 0;
    int n = 0;
    for (int v = 0; v < V; v++) {
        real x = z[v] - most;
        double e = (double)real_exp(x);
        sum += e;
        weighted += e * (double)x;
        if (n == count && !(z[v] > z[best[n - 1].id])) { continue; }
        int i = n < count ? n++ : count - 1;
        for (; i > 0 && z[v] > z[best[i - 1].id]; i--) { best[i] = best[i - 1]; }
        best[i].id = v;
    }
    double log_sum = log_d(sum);
    // -sum p log p, where log p = x - log_sum and p = exp(x) / sum: no term of it is below 0.
    *entropy = (log_sum - weighted / sum) / log_d(2);
    *loss = next < 0 ? 0 : log_sum - (double)(z[next] - most);
    for (int i = 0; i < count; i++) { best[i].p = (float)exp_d((double)(z[best[i].id] - most) - log_sum); }
    return 1;
}

// Fills in what n tokens give; count candidates of each distribution, at most the vocabulary. *bad = the first position
// with a logit that is not finite, or -1; then nothing else counts. Room: explained_free().
static inline Explained explain_run(Model* model, const int* tokens, int n, int count, int* bad) {
    Explained e = {n, model->passes, count < model->V ? count : model->V, tokens, NULL, NULL, NULL};
    size_t cells = mul_size((size_t)n, (size_t)e.passes, "predictions"), V = (size_t)model->V;
    e.best =
        (ExplainToken*)xalloc(mul_size(cells, (size_t)e.count, "predictions"), sizeof(ExplainToken), "predictions");
    e.entropy = (double*)xalloc(mul_size(2, cells, "predictions"), sizeof(double), "predictions");
    e.loss = e.entropy + cells;
    size_t rows = min_size(EXPLAIN_ROWS, (size_t)n);
    real* z = (real*)xalloc(mul_size(rows, V, "logits"), sizeof(real), "logits");
    int* good = (int*)xalloc(rows, sizeof(int), "rows of logits");
    model->logits(model, tokens, 1, n, 1, z);  // all passes over all positions
    *bad = -1;
    for (int first = 0; first < n && *bad < 0; first += EXPLAIN_ROWS) {
        int R = n - first < EXPLAIN_ROWS ? n - first : EXPLAIN_ROWS;
        for (int s = 0; s < e.passes && *bad < 0; s++) {
            model->pass_logits(model, s, first, 1, R, z);
#pragma omp parallel for schedule(static) if ((size_t)R * V > SERIAL)
            for (int r = 0; r < R; r++) {
                size_t at = explain_at(&e, first + r, s);
                good[r] = explain_row(z + (size_t)r * V, (int)V, explain_next(&e, first + r), e.count,
                                      e.best + at * (size_t)e.count, &e.entropy[at], &e.loss[at]);
            }
            for (int r = 0; r < R && *bad < 0; r++) { *bad = good[r] ? -1 : first + r; }
        }
    }
    free(z);
    free(good);
    return e;
}

static inline void explained_free(Explained* e) {
    free(e->best);
    free(e->entropy);
}

static inline ExplainPass explain_pass(const Explained* e, int pass) {
    ExplainPass sum = {0, 0, 0, 0, 0};
    for (int i = 0; i < e->n; i++) {
        sum.changed += explain_changed(e, i, pass);
        sum.settled += explain_settled(e, i) == pass;
        sum.hits += explain_best(e, i, pass)->id == explain_next(e, i);
        sum.entropy += e->entropy[explain_at(e, i, pass)] / e->n;
        sum.loss += e->loss[explain_at(e, i, pass)];
    }
    sum.loss /= e->n > 1 ? e->n - 1 : 1;
    return sum;
}

// ---- tokens as they are shown ----

// 1 if a character has no shape of its own, or changes that of what stands around it: it is shown by its number.
static inline int explain_unseen(int code) {
    static const int ranges[][2] = {
        {0, 0x1f},        {0x7f, 0x9f},                                                               // controls
        {0xad, 0xad},     {0x61c, 0x61c},      {0x180b, 0x180f}, {0x200b, 0x200f}, {0x2028, 0x202e},  // invisible, or
        {0x2060, 0x206f}, {0xfe00, 0xfe0f},    {0xfeff, 0xfeff}, {0xfff0, 0xfffb},  // turning the direction of writing
        {0xe000, 0xf8ff}, {0xe0000, 0x10ffff},                                      // for private use
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        if (code >= ranges[i][0] && code <= ranges[i][1]) { return 1; }
    }
    return (code & 0xfffe) == 0xfffe || (code >= 0x80 && (unicode_kind(code) & UNICODE_SPACE));
}

// 1 if a character is written from right to left.
static inline int explain_leftward(int code) {
    return (code >= 0x590 && code <= 0x8ff) || (code >= 0xfb1d && code <= 0xfdff) ||
           (code >= 0xfe70 && code <= 0xfeff) || (code >= 0x10800 && code <= 0x10fff) ||
           (code >= 0x1e800 && code <= 0x1efff);
}

// Columns of a terminal: 2 of what East Asia writes and of pictures, 0 of a mark upon what stands before it.
static inline int explain_columns(int code) {
    static const int wide[][2] = {{0x1100, 0x115f},   {0x2e80, 0x303e},   {0x3041, 0xa4cf},  {0xac00, 0xd7a3},
                                  {0xf900, 0xfaff},   {0xfe30, 0xfe6f},   {0xff00, 0xff60},  {0xffe0, 0xffe6},
                                  {0x1f300, 0x1f64f}, {0x1f680, 0x1faff}, {0x20000, 0x3fffd}};
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        if (code >= wide[i][0] && code <= wide[i][1]) { return 2; }
    }
    int kind = unicode_kind(code);
    return code < 0x80 || (kind & (UNICODE_LETTER | UNICODE_NUMBER)) || !(kind & UNICODE_WORD);
}

// What a character at the beginning of a token (first) or within it is shown as, appended to out, whose columns are
// returned: itself, \n, \t, \r, \\, with `quote` also \", \u{NUMBER}, or \xNN of a byte that is no UTF-8. *length = its
// bytes in the token, of which n are left.
static inline int explain_character(StringBuilder* out, const char* s, size_t n, int first, int quote, size_t* length) {
    int code = unicode_code(s, n, length);
    static const char named[] = "\n\t\r\\\"";
    const char* name = code > 0 && code < 0x80 && (code != '"' || quote) ? strchr(named, code) : NULL;
    size_t before = out->size;
    if (code < 0) {
        sb_printf(out, "\\x%02x", (unsigned char)s[0]);
    } else if (name) {
        sb_printf(out, "\\%c", "ntr\\\""[name - named]);
    } else if (explain_unseen(code) || (first && explain_columns(code) == 0)) {
        sb_printf(out, "\\u{%x}", code);
    } else {
        sb_append(out, s, *length);
        return explain_columns(code);
    }
    return (int)(out->size - before);
}

// Appends a token's bytes as they are shown.
static inline void explain_show(StringBuilder* out, const char* s, size_t n) {
    for (size_t i = 0, length; i < n; i += length) { explain_character(out, s + i, n - i, i == 0, 0, &length); }
}

// The same in quotes for a table, in at most `columns` of a terminal, with ".." for what has no room; with `pad` filled up
// to them. A mark on both sides keeps what is written from right to left from turning what stands beside it.
static inline void explain_quote(StringBuilder* out, const char* s, size_t n, int columns, int pad) {
    static const char left_to_right[] = "\xe2\x80\x8e";
    StringBuilder all = {0};
    sb_append(&all, "", 0);
    int used = 0, leftward = 0;
    size_t fits = 0;  // bytes of `all` that leave room for ".."
    int fits_columns = 0;
    for (size_t i = 0, length; i < n; i += length) {
        size_t rest = n - i;
        used += explain_character(&all, s + i, rest, i == 0, 1, &length);
        int code = unicode_code(s + i, rest, &length);
        leftward |= explain_leftward(code) && !explain_unseen(code);
        if (used + 4 <= columns) { fits = all.size, fits_columns = used; }
    }
    int cut = used + 2 > columns;
    const char* mark = leftward ? left_to_right : "";
    sb_printf(out, "%s\"%.*s%s\"%s", mark, (int)(cut ? fits : all.size), all.data, cut ? ".." : "", mark);
    if (pad) { sb_printf(out, "%*s", columns - 2 - (cut ? fits_columns + 2 : used), ""); }
    free(all.data);
}

#endif

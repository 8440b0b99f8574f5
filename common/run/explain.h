// explain.h - --explain: what a model predicts after each of its passes, seen at every position of a prompt.
//
//     build/train_X --model DIR --explain --prompt TEXT | --prompt-file FILE, or standard input; [--page FILE]
//
// Pipeline: read and encode the prompt (generate.h) -> all passes over it, once -> logits of every pass, a few positions
// at a time (explain_numbers.h) -> a table on standard output -> a page (explain_page.h), whole or not at all. All else
// is said on standard error.
#ifndef PONDER_EXPLAIN_H
#define PONDER_EXPLAIN_H

#include "explain_page.h"
#include "generate.h"

// Of the table: columns of a terminal, those before the candidates, most candidates that have room, columns of the token
// that a block is about.
enum { EXPLAIN_WIDTH = 120, EXPLAIN_LEFT = 23, EXPLAIN_MOST = 6, EXPLAIN_TOKEN = 36 };

// ---- the table ----

// A percentage in 7 columns.
static inline void explain_percent(StringBuilder* sb, double p) {
    sb_printf(sb, p < 1e-4 ? "%7.0e" : "%7.2f", 100 * p);
}

static inline void explain_quote_token(StringBuilder* sb, const Tokenizer* tokenizer, int id, int columns, int pad) {
    char piece[TOKENIZER_PIECE];
    explain_quote(sb, piece, tokenizer_decode(tokenizer, id, piece), columns, pad);
}

// Where the prediction changed, in words: "changed by pass 1, 3".
static inline void explain_changes(StringBuilder* sb, const Explained* e, int position) {
    int count = 0;
    for (int s = 1; s < e->passes; s++) {
        if (explain_changed(e, position, s)) { sb_printf(sb, count++ ? ", %d" : "  changed by pass %d", s); }
    }
}

// A position: its token and the next, then a line for each pass.
static inline void explain_block(StringBuilder* sb, const Explained* e, const Tokenizer* tokenizer, int position) {
    int next = explain_next(e, position), columns = e->count < EXPLAIN_MOST ? e->count : EXPLAIN_MOST;
    // A candidate is a mark, the token, its percentage; one blank before it.
    int room = (EXPLAIN_WIDTH - EXPLAIN_LEFT) / columns - 9;
    room = room > 24 ? 24 : room;
    sb_printf(sb, "%d ", position);
    explain_quote_token(sb, tokenizer, e->tokens[position], EXPLAIN_TOKEN, 0);
    sb_printf(sb, next < 0 ? " the text ends" : " then ");
    if (next >= 0) { explain_quote_token(sb, tokenizer, next, EXPLAIN_TOKEN, 0); }
    explain_changes(sb, e, position);
    sb_printf(sb, "\n");
    for (int s = 0; s < e->passes; s++) {
        size_t cell = explain_at(e, position, s);
        sb_printf(sb, "%s%4d %7.2f ", explain_changed(e, position, s) ? " *" : "  ", s, e->entropy[cell]);
        if (next < 0) {
            sb_printf(sb, "%7s", "");
        } else {
            explain_percent(sb, exp_d(-e->loss[cell]));
        }
        const ExplainToken* best = explain_best(e, position, s);
        for (int k = 0; k < columns; k++) {
            sb_printf(sb, best[k].id == next ? " >" : "  ");
            explain_quote_token(sb, tokenizer, best[k].id, room, 1);
            explain_percent(sb, (double)best[k].p);
        }
        sb_printf(sb, "\n");
    }
    sb_printf(sb, "\n");
}

static inline void explain_head(StringBuilder* sb, const Explained* e, const ExplainSource* source) {
    sb_printf(sb, "%s, %s: %d pass%s (S = %d) over %d token%s%s%s\n", source->program, source->model, e->passes,
              e->passes == 1 ? "" : "es", e->passes - 1, e->n, e->n == 1 ? "" : "s", source->note ? "\n" : "",
              source->note ? source->note : "");
    sb_printf(
        sb,
        "after each pass softmax(logits), without temperature: entropy in bits, the next token's probability in %%, "
        "the\nmost probable tokens and theirs; * another one comes first than a pass before, > the next token\n\n"
        "  pass    bits  next %%  most probable, %%\n\n");
}

static inline void explain_summary(StringBuilder* sb, const Explained* e) {
    sb_printf(sb, "pass     changed here   changed last here     mean bits     mean loss       next comes first\n");
    for (int s = 0; s < e->passes; s++) {
        ExplainPass sum = explain_pass(e, s);
        sb_printf(sb, "%4d ", s);
        if (s == 0) {
            sb_printf(sb, "%16s", "");
        } else {
            sb_printf(sb, "%6d (%5.1f %%)", sum.changed, 100.0 * sum.changed / e->n);
        }
        sb_printf(sb, "%12d (%5.1f %%)", sum.settled, 100.0 * sum.settled / e->n);
        sb_printf(sb, "%13.6f", sum.entropy);
        if (e->n > 1) { sb_printf(sb, "%14.6f %9d (%5.1f %%)", sum.loss, sum.hits, 100.0 * sum.hits / (e->n - 1)); }
        sb_printf(sb, "\n");
    }
}

static inline void explain_print(StringBuilder* sb) {
    generate_print(sb->data, sb->size);
    sb->size = 0;
}

// ---- the page ----

// Before anything is computed: dies if the page will find no place, or would replace what is no page of ours.
static inline void explain_check_page(const char* path) {
    if (path[0] == 0) { die("--page '': expected the name of a file"); }
    mode_t mode = file_mode(path);
    if (mode && !S_ISREG(mode) && !S_ISDIR(mode)) { return; }
    size_t size = 0, mark = strlen(EXPLAIN_MARK);
    char* there = S_ISREG(mode) ? read_fully(path, &size) : NULL;
    if (size && (size < mark || memcmp(there, EXPLAIN_MARK, mark) != 0)) {
        die("--page %s: expected no such file yet, or an earlier page to replace, found another file; give another "
            "name",
            path);
    }
    free(there);
    FileTarget target;
    char* error = target_open(&target, path);
    target_drop(&target);
    if (error) { die("--page %s", error); }
}

// ---- the whole ----

// The program after its command line, model and checkpoint are known; returns the exit status.
static inline int trainer_explain(Trainer* t, const volatile sig_atomic_t* signal) {
    double began = now_seconds();
    const OptionTable* o = &t->options;
    const char* path = options_text(o, "page");
    explain_check_page(path);
    Generation g;
    generate_begin(&g, t, signal);
    if (g.count != 1) { die("--explain: expected one prompt, found %d", g.count); }
    int n = g.list[0].prompt, bad = -1;
    Model* model = generate_model(t, n, 0);
    trainer_round_weights(t, stderr);
    Explained e = explain_run(model, g.list[0].tokens.tokens, n, (int)options_int(o, "candidates"), &bad);
    if (bad >= 0) {
        die("%s: a logit after %d tokens is not finite: the weights of %s are damaged, or the model diverged",
            g.list[0].where, bad + 1, t->weights);
    }
    const Option* other = options_find(o, "steps-at-inference");
    ExplainSource source = {t->weights, t->kind->program, NULL};
    if (other && other->given) {
        source.note = "S is that of --steps-at-inference, whatever the model was trained with.";
    } else if (json_get_int(t->config, "steps_at_inference", -1, t->config_path) >= 0) {
        source.note = "S is steps_at_inference of config.json, whatever the model was trained with.";
    }

    StringBuilder sb = {0};
    int table = !file_is_stdout(path);  // else the page is all that stands there
    if (table) { explain_head(&sb, &e, &source); }
    for (int i = 0; i < n && table && output_flush(); i++) {
        explain_block(&sb, &e, t->tokenizer, i);
        explain_print(&sb);
    }
    if (table) {
        explain_summary(&sb, &e);
        explain_print(&sb);
    }
    StringBuilder page = explain_page(&e, t->tokenizer, model->V, &source);
    char* error = target_write(path, page.data, page.size);
    if (error) { die("--page %s", error); }
    fprintf(stderr, "page %s (%.0f kB), %.1f s\n", path, (double)page.size / 1e3, now_seconds() - began);
    free(page.data);
    free(sb.data);
    explained_free(&e);
    return 0;
}

#endif

// compare_rows.h - the rows of build/compare: curves from metrics.jsonl, settings and costs from trainer_state.json.
//
// A row is one or several run directories, the seeds of one training. What is small or needed to the end is not freed.
#ifndef PONDER_COMPARE_ROWS_H
#define PONDER_COMPARE_ROWS_H

#include "../files/checkpoint.h"
#include "../files/json.h"
#include "resume.h"

enum { COMPARE_MAX_ROWS = 16, COMPARE_MAX_SEEDS = 64, COMPARE_MAX_PASSES = 65, COMPARE_MAX_PANELS = 4 };

// What a point of a curve holds, as doubles; the first four are the x axes of pictures. From AT_TOKENS to AT_PASS they
// are means over the seeds (sums, while a row is read). Seconds are those of optimiser steps, validation left out. The
// learning rate is that of the step before the validation, NAN where no line says it.
enum { AT_STEP, AT_TOKENS, AT_FLOPS, AT_SECONDS, AT_LR, AT_LOSS, AT_PASS, AT_LOW = AT_PASS + COMPARE_MAX_PASSES };
enum { AT_HIGH = AT_LOW + 1, AT_SEEDS, AT_COUNT };

typedef struct {
    char *name, *dir[COMPARE_MAX_SEEDS];
    int seeds, points, passes;  // passes: losses in a val_loss_pass
    double** at;                // (points, AT_COUNT)
    const double* end;          // the last point
    double parameters, vocabulary;
    double flops_per_token;                // of a training token: forward and backward
    double total_steps;                    // of the whole run: where its schedule ends
    double peak;                           // learning rate; NAN: not known
    int bytes;                             // 256 of them, perhaps with an end of text, are the vocabulary
    int colour;                            // of the picture
    const Json* state[COMPARE_MAX_SEEDS];  // trainer_state.json
    // How far the seed being read has come. Steps are -1 before the first line of their kind.
    int seed, next;  // no point before at[next] has a later step
    double trained, validated, tokens, seconds, lr, tokens_per_step;
    double val_since;  // validations before this step were of other data or rows
} CompareRow;

// A number that is finite and `least` or more.
static double compare_number(const Json* object, const char* key, double least, const char* where) {
    double value = json_get_number(object, key, NAN, where);
    if (!(value >= least) || !isfinite(value)) { die("%s: expected a \"%s\" that is %g or more", where, key, least); }
    return value;
}

// One line of metrics.jsonl. `where` names file and line.
static void compare_read_line(CompareRow* row, const Json* line, const char* where) {
    if (line->type != JSON_OBJECT) { die("%s: expected an object like {\"step\": 1, \"loss\": 2.5}", where); }
    int validation = json_get(line, "val_loss") != NULL;
    double loss = json_get_number(line, validation ? "val_loss" : "loss", NAN, where);
    double step = compare_number(line, "step", 0, where), *last = validation ? &row->validated : &row->trained;
    if (step <= *last) { die("%s: step %.0f comes after step %.0f: two runs in one directory?", where, step, *last); }
    double steps = step - fmax(*last, 0);
    *last = step;
    if (!validation) {
        row->tokens = compare_number(line, "tokens", 0, where);
        row->lr = json_get_number(line, "lr", NAN, where);
        // The milliseconds are the mean of the steps since the line before (metrics may be thinned).
        row->seconds += json_get(line, "ms") ? compare_number(line, "ms", 0, where) / 1000 * steps : 0;
        if (!isfinite(loss)) { warn("%s: the loss of step %.0f is not a finite number", where, step); }
        return;
    }
    if (step < row->val_since) { return; }
    if (!isfinite(loss)) { die("%s: no finite validation loss at step %.0f: the run has diverged", where, step); }
    const Json* pass = json_get(line, "val_loss_pass");
    int passes = pass ? pass->count : 0;
    if (pass && (pass->type != JSON_ARRAY || passes < 1 || passes > COMPARE_MAX_PASSES)) {
        die("%s: \"val_loss_pass\" should be an array of 1 to %d numbers", where, COMPARE_MAX_PASSES);
    }
    for (int s = 0; s < passes; s++) {
        int good = pass->items[s]->type == JSON_NUMBER && isfinite(pass->items[s]->number);
        if (!good) { die("%s: \"val_loss_pass\" [%d] is not a finite number", where, s); }
    }
    if (row->points > 0 && passes != row->passes) {
        die("%s: %d passes, but %d before: a row holds seeds of one model", where, passes, row->passes);
    }
    row->passes = passes;
    if (row->seed == 0) {
        row->at[row->points++] = (double*)xalloc(AT_COUNT, sizeof(double), "a curve");
        row->at[row->next][AT_STEP] = step;
    }
    while (row->next < row->points && row->at[row->next][AT_STEP] < step) { row->next++; }
    if (row->next == row->points || row->at[row->next][AT_STEP] > step) { return; }
    double* p = row->at[row->next++];
    // The tokens of the training line of this step. Without one (metrics may be thinned), steps are of equal size.
    p[AT_TOKENS] += row->tokens + (step - fmax(row->trained, 0)) * row->tokens_per_step;
    p[AT_SECONDS] += row->seconds;
    p[AT_LR] += row->trained == step ? row->lr : NAN;
    p[AT_LOSS] += loss;
    for (int s = 0; s < passes; s++) { p[AT_PASS + s] += pass->items[s]->number; }
    p[AT_LOW] = row->seed ? fmin(p[AT_LOW], loss) : loss;
    p[AT_HIGH] = row->seed ? fmax(p[AT_HIGH], loss) : loss;
    p[AT_SEEDS]++;
}

// The newest checkpoint of a run, which may be going on.
static char* compare_newest(const char* dir) {
    char* path = checkpoint_look(dir);
    if (!path) { die("%s: no checkpoint that says what a step cost; train until it saves one", dir); }
    return path;
}

// What the newest checkpoint of the seed says of the model and of the cost of a token.
static void compare_read_state(CompareRow* row, const char* dir) {
    char *newest = compare_newest(dir), *path = format_string("%s/config.json", newest);
    row->vocabulary = compare_number(json_read(path), "vocab_size", 1, path);
    row->bytes = row->vocabulary == 256 || row->vocabulary == 257;
    path = format_string("%s/trainer_state.json", newest);
    const Json* state = row->state[row->seed] = json_read(path);
    double parameters = row->parameters, flops = row->flops_per_token;  // of the seeds before
    row->parameters = compare_number(state, "parameters", 1, path);
    row->flops_per_token = compare_number(state, "flops_per_token", 1, path);
    row->tokens_per_step = compare_number(state, "tokens", 0, path) / fmax(1, compare_number(state, "step", 0, path));
    row->total_steps = compare_number(state, "total_steps", 0, path);
    row->val_since = json_get(state, "val_since") ? compare_number(state, "val_since", 0, path) : 0;
    if (row->val_since > 0) {
        warn("%s: before step %.0f it was validated on other data or rows; its curve begins there", dir,
             row->val_since);
    }
    const char* lr = json_get_string(json_get(state, "options"), "lr", NULL, path);
    row->peak = lr ? strtod(lr, NULL) : NAN;
    if (row->seed > 0 && (row->parameters != parameters || row->flops_per_token != flops)) {
        die("%s: %s and %s are different models (%.0f and %.0f parameters, %.6g and %.6g FLOPs per token)", row->name,
            row->dir[0], dir, parameters, row->parameters, flops, row->flops_per_token);
    }
}

// Adds the run of row->seed to the row; dies on anything that is not a whole, usable training.
static void compare_read_run(CompareRow* row, const char* dir) {
    if (access(dir, F_OK) != 0) { die("%s: %s. Expected the --out of a training", dir, strerror(errno)); }
    char* path = format_string("%s/metrics.jsonl", dir);
    size_t size = 0;
    int lines = 0;
    char* text = read_fully(path, &size);
    if (text == NULL) { die("%s: %s. Expected what a training writes into its --out", path, strerror(ENOENT)); }
    compare_read_state(row, dir);
    for (size_t i = 0; i < size; i++) { lines += text[i] == '\n'; }
    if (row->seed == 0) { row->at = (double**)xalloc((size_t)lines, sizeof(double*), "a curve"); }
    row->next = 0, row->tokens = row->seconds = 0, row->lr = NAN, row->trained = row->validated = -1;
    char *begin = text, *end;
    for (int i = 1; i <= lines; i++, begin = end + 1) {
        end = (char*)memchr(begin, '\n', (size_t)(text + size - begin));
        if (end == begin) { continue; }
        char* where = format_string("%s, line %d", path, i);
        Json* line = json_parse_line(begin, (size_t)(end - begin), path, i);
        compare_read_line(row, line, where);
        json_free(line);
        free(where);
    }
    if (begin < text + size) {  // the trainer ends every line with a newline: this one was cut while it was written
        warn("%s, line %d: the last line is torn (no newline at its end); it is left out", path, lines + 1);
    }
    free(text);
    if (row->validated < 0) { die("%s: no line with a \"val_loss\". Train with --val and --val-every", path); }
    if (row->trained > row->validated) {
        warn("%s: the last validation is at step %.0f, the last step is %.0f", path, row->validated, row->trained);
    }
}

// ---- settings ----

typedef struct {
    const char *key, *label;  // in trainer_state.json, and for people
    int option;               // 1: the key stands in "options"
} CompareSetting;

// What the state says beside the options. Rows that differ in one of the first three were validated differently.
enum { SETTINGS_OF_LOSS = 3, SETTINGS_OF_STATE = 10 };
static const CompareSetting compare_of_state[SETTINGS_OF_STATE] = {
    {"seq", "length of a row", 0},        {"val_rows", "rows validated", 0},
    {"val_shards", "validation data", 0}, {"tokenizer", "tokenizer", 0},
    {"total_steps", "steps", 0},          {"total_batch", "tokens a step", 0},
    {"shards", "training data", 0},       {"seed", "seed", 0},
    {"arithmetic", "arithmetic", 0},      {"altered", "changed when resumed", 0},
};

// 1 if an option is a setting that the state does not say already.
static int compare_is_setting(const char* name) {
    static const char* const said[] = {"steps", "epochs", "flops",       "total-batch", "train",
                                       "seq",   "seed",   "val-batches", "precision"};
    for (size_t i = 0; i < sizeof said / sizeof said[0]; i++) {
        if (strcmp(name, said[i]) == 0) { return 0; }
    }
    return state_matters(name) && strcmp(name, "val-every") != 0;  // that one says where a curve has points
}

// Every setting that one of the states (count) has, = *n.
static CompareSetting* compare_settings(const Json* const* states, int count, int* n) {
    size_t most = SETTINGS_OF_STATE;
    for (int i = 0; i < count; i++) {
        const Json* options = json_get(states[i], "options");
        most += options ? (size_t)options->count : 0;
    }
    CompareSetting* list = (CompareSetting*)xalloc(most, sizeof(CompareSetting), "the settings");
    memcpy(list, compare_of_state, sizeof compare_of_state);
    *n = SETTINGS_OF_STATE;
    for (int i = 0; i < count; i++) {
        const Json* options = json_get(states[i], "options");
        for (int k = 0; options && options->type == JSON_OBJECT && k < options->count; k++) {
            int known = !compare_is_setting(options->keys[k]);
            for (int j = SETTINGS_OF_STATE; j < *n; j++) { known |= strcmp(list[j].key, options->keys[k]) == 0; }
            if (known) { continue; }
            CompareSetting* setting = &list[(*n)++];
            setting->key = options->keys[k], setting->option = 1;
            setting->label = format_string("--%s", options->keys[k]);
        }
    }
    return list;
}

// Its text, "-" where it has none.
static const char* compare_setting(const Json* state, const CompareSetting* setting) {
    const Json* value = json_get(setting->option ? json_get(state, "options") : state, setting->key);
    return value && value->type == JSON_STRING   ? value->string
           : value && value->type == JSON_NUMBER ? value->literal
                                                 : "-";
}

// 1 if two texts mean the same, "4e-3" and "0.004" do.
static int compare_same_text(const char* a, const char* b) {
    char *end_a = NULL, *end_b = NULL;
    double x = strtod(a, &end_a), y = strtod(b, &end_b);
    return strcmp(a, b) == 0 || (end_a > a && end_b > b && !*end_a && !*end_b && x == y);
}
// Dies unless the runs of a row differ in the seed alone, and in that.
static void compare_check_seeds(const CompareRow* row) {
    int n = 0;
    CompareSetting* list = compare_settings(row->state, row->seeds, &n);
    for (int i = 1; i < row->seeds; i++) {
        for (int k = 0; k < n; k++) {
            const char *a = compare_setting(row->state[0], &list[k]), *b = compare_setting(row->state[i], &list[k]);
            if (strcmp(list[k].key, "seed") == 0 || compare_same_text(a, b)) { continue; }
            die("%s: %s and %s differ in more than the seed: %s %s and %s; make them rows of their own", row->name,
                row->dir[0], row->dir[i], list[k].label, a, b);
        }
        for (int j = 0; j < i; j++) {
            const Json *a = json_get(row->state[j], "seed"), *b = json_get(row->state[i], "seed");
            if (json_same(a, b)) {
                die("%s: %s and %s have the same seed, %s: the second would count one training twice", row->name,
                    row->dir[j], row->dir[i], a->literal);
            }
        }
    }
    free(list);
}

// Dies where the losses of two rows are not of the same text, cut the same way.
static void compare_check_losses(const CompareRow* a, const CompareRow* b) {
    if (a->vocabulary != b->vocabulary) {
        die("%s and %s have different vocabularies (%.0f and %.0f): their losses per token do not compare", a->name,
            b->name, a->vocabulary, b->vocabulary);
    }
    for (int k = 0; k < SETTINGS_OF_LOSS; k++) {
        const CompareSetting* setting = &compare_of_state[k];
        const char *x = compare_setting(a->state[0], setting), *y = compare_setting(b->state[0], setting);
        // A program that did not look at it yet wrote nothing.
        if (compare_same_text(x, y) || strcmp(x, "-") == 0 || strcmp(y, "-") == 0) { continue; }
        die("%s and %s were not validated alike: %s %s and %s; their losses do not compare", a->name, b->name,
            setting->label, x, y);
    }
}

// Reads all seeds of the row and averages them, at the steps that all have.
static void compare_read_row(CompareRow* row) {
    int points = 0;
    double last = 0;
    for (row->seed = 0; row->seed < row->seeds; row->seed++) {
        compare_read_run(row, row->dir[row->seed]);
        last = fmax(last, row->validated);
    }
    compare_check_seeds(row);
    for (int i = 0; i < row->points; i++) {
        double* p = row->at[i];
        if (p[AT_SEEDS] < row->seeds) { continue; }
        for (int c = AT_TOKENS; c < AT_LOW; c++) { p[c] /= row->seeds; }
        p[AT_FLOPS] = p[AT_TOKENS] * row->flops_per_token;
        row->end = row->at[points++] = p;
    }
    row->points = points;
    if (points == 0) { die("%s: its runs have no validation step in common; use one --val-every", row->name); }
    if (last > row->end[AT_STEP]) {
        warn("%s: its runs end at different steps; they are compared at step %.0f", row->name, row->end[AT_STEP]);
    }
}

// 1 if the row's last point is that of its whole schedule.
static int compare_ended(const CompareRow* row) { return row->end[AT_STEP] >= row->total_steps; }

#endif

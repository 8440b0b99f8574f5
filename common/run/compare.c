// compare.c - sets several trainings side by side: a picture of their loss curves and a table.
//
//   build/compare [--svg FILE] [--table FILE] [--title T] [--x AXIS[,AXIS]] NAME=DIR[,DIR...] ...
//
// A row is NAME with one run directory per seed. Each directory holds metrics.jsonl (the curves)
// and a checkpoint, whose trainer_state.json says what a token cost. The pipeline:
//
//   [1] read     a run: its training and validation lines, checked line by line
//   [2] average  a row: the steps that all its seeds have, with mean, lowest and highest loss
//   [3] table    every row at its end; every pair of rows at equal FLOPs (plain text and Markdown)
//   [4] picture  an SVG without scripts or fonts of its own, one panel per x axis
//   [5] main
//
// Why two panels: a pondering run costs several times the FLOPs of a plain one per token, so "at
// equal steps" and "at equal FLOPs" are different questions and may have different answers.
#include "../base.h"

#include "../files/checkpoint.h"
#include "../files/json.h"

#ifndef MAIN
#define MAIN main
#endif

enum {
    COMPARE_MAX_ROWS = 16,
    COMPARE_MAX_RUNS = 64,    // seeds of a row
    COMPARE_MAX_PASSES = 64,  // losses in a val_loss_pass
    COMPARE_MAX_AXES = 4,
    COMPARE_MAX_POINTS = 300,    // of a drawn curve
    COMPARE_MAX_LABEL = 24,      // characters of a name at a line's end
    COMPARE_MAX_BYTES = 1 << 30  // of a metrics file
};

// ---------------------------------------------------------------------------------------------
// [1] read

// A measured point. seconds: of optimiser steps, validation left out.
typedef struct {
    int64_t step;
    double tokens, seconds, loss;
    int passes;    // how many numbers in pass[]; 0 in training lines
    double* pass;  // loss of each pass (passes), or NULL
} ComparePoint;

typedef struct {
    int count, capacity;
    ComparePoint* at;
} ComparePoints;

typedef struct {
    const char* dir;
    ComparePoints val, train;
    int64_t steps;   // of the last line
    double tokens;   // seen by then
    double seconds;  // spent by then
    double parameters;
    double flops_per_token;  // of a training token: forward and backward
    int64_t vocabulary;
} CompareRun;

static inline ComparePoint* compare_push(ComparePoints* points) {
    if (points->count == points->capacity) {
        int capacity = points->capacity ? 2 * points->capacity : 256;
        ComparePoint* at = (ComparePoint*)xalloc((size_t)capacity, sizeof(ComparePoint), "the points of a curve");
        if (points->count) { memcpy(at, points->at, (size_t)points->count * sizeof(ComparePoint)); }
        free(points->at);
        points->at = at;
        points->capacity = capacity;
    }
    return &points->at[points->count++];
}

static inline void compare_points_free(ComparePoints* points) {
    for (int i = 0; i < points->count; i++) { free(points->at[i].pass); }
    free(points->at);
}

// The bytes of a file, NUL-terminated; the caller frees them.
static inline char* compare_read_file(const char* path, size_t* size, const char* hint) {
    FILE* f = fopen(path, "rb");
    if (f == NULL) { die("%s: %s. %s", path, strerror(errno), hint); }
    StringBuilder sb = {0};
    char chunk[16384];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0) {
        sb_append(&sb, chunk, n);
        if (sb.size > COMPARE_MAX_BYTES) { die("%s: larger than 1 GiB: is this a metrics file?", path); }
    }
    if (ferror(f)) { die("%s: %s", path, strerror(errno)); }
    fclose(f);
    sb_append(&sb, "", 0);
    *size = sb.size;
    return sb.data;
}

// One line of metrics.jsonl into the run. `where` names file and line.
static inline void compare_read_line(CompareRun* run, const Json* line, const char* where) {
    if (line->type != JSON_OBJECT) { die("%s: expected an object like {\"step\": 1, \"loss\": 2.5}", where); }
    int64_t step = json_get_int(line, "step", -1, where);
    if (step < 0) { die("%s: expected a \"step\" that is 0 or more, found none", where); }
    if (json_get(line, "val_loss") != NULL) {
        double loss = json_get_number(line, "val_loss", NAN, where);
        if (!isfinite(loss)) {
            die("%s: the validation loss of step %lld is not a finite number: the run has diverged and cannot be "
                "compared",
                where, (long long)step);
        }
        ComparePoints* val = &run->val;
        if (val->count > 0 && step <= val->at[val->count - 1].step) {
            die("%s: validation step %lld comes after step %lld: two runs in one directory?", where, (long long)step,
                (long long)val->at[val->count - 1].step);
        }
        ComparePoint* p = compare_push(val);
        p->step = step;
        p->loss = loss;
        const Json* pass = json_get(line, "val_loss_pass");
        if (pass != NULL) {
            if (pass->type != JSON_ARRAY || pass->count < 1 || pass->count > COMPARE_MAX_PASSES) {
                die("%s: \"val_loss_pass\" should be an array of 1 to %d numbers", where, COMPARE_MAX_PASSES);
            }
            p->pass = (double*)xalloc((size_t)pass->count, sizeof(double), "the losses of the passes");
            p->passes = pass->count;
            for (int s = 0; s < pass->count; s++) {
                if (pass->items[s]->type != JSON_NUMBER || !isfinite(pass->items[s]->number)) {
                    die("%s: \"val_loss_pass\" [%d] is not a finite number", where, s);
                }
                p->pass[s] = pass->items[s]->number;
            }
        }
    } else {
        ComparePoints* train = &run->train;
        if (train->count > 0 && step <= train->at[train->count - 1].step) {
            die("%s: step %lld comes after step %lld: two runs in one directory?", where, (long long)step,
                (long long)train->at[train->count - 1].step);
        }
        double loss = json_get_number(line, "loss", NAN, where);
        double ms = json_get_number(line, "ms", 0, where);
        double tokens = json_get_number(line, "tokens", NAN, where);
        if (!isfinite(tokens) || tokens < 0 || !isfinite(ms) || ms < 0) {
            die("%s: expected \"tokens\" and \"ms\" that are 0 or more", where);
        }
        if (!isfinite(loss)) {
            warn("%s: the loss of step %lld is not a finite number; the picture leaves it out", where, (long long)step);
        }
        double before = train->count > 0 ? train->at[train->count - 1].seconds : 0;
        ComparePoint* p = compare_push(train);
        p->step = step;
        p->loss = loss;
        p->tokens = tokens;
        p->seconds = before + ms / 1000;
    }
}

// What the newest checkpoint in run->dir says of the model and of the cost of a token.
static inline void compare_read_state(CompareRun* run, double* tokens_per_step) {
    // Not checkpoint_newest(): that may rename things, and the directory may belong to a running training.
    int count = 0;
    int64_t* whole = checkpoint_steps(run->dir, &count);
    if (count == 0) {
        die("%s: no checkpoint (step_00000010 and the like) in this directory, so nothing says what a step cost. Train "
            "with --out %s until it saves",
            run->dir, run->dir);
    }
    char* checkpoint = format_string("%s/step_%08lld", run->dir, (long long)whole[count - 1]);
    free(whole);
    char* path = format_string("%s/trainer_state.json", checkpoint);
    Json* state = json_read(path);
    if (state->type != JSON_OBJECT) { die("%s: expected a JSON object", path); }
    run->parameters = json_get_number(state, "parameters", NAN, path);
    run->flops_per_token = json_get_number(state, "flops_per_token", NAN, path);
    double tokens = json_get_number(state, "tokens", NAN, path);
    double steps = (double)json_get_int(state, "step", -1, path);
    if (!(run->parameters > 0) || !(run->flops_per_token > 0) || !isfinite(run->parameters) ||
        !isfinite(run->flops_per_token)) {
        die("%s: expected \"parameters\" and \"flops_per_token\" above 0", path);
    }
    if (!(steps >= 0) || !(tokens >= 0) || !isfinite(tokens)) {
        die("%s: expected \"step\" and \"tokens\" that are 0 or more", path);
    }
    *tokens_per_step = steps > 0 ? tokens / steps : 0;
    json_free(state);
    free(path);
    path = format_string("%s/config.json", checkpoint);
    Json* config = json_read(path);
    if (config->type != JSON_OBJECT) { die("%s: expected a JSON object", path); }
    run->vocabulary = json_get_int(config, "vocab_size", 0, path);
    json_free(config);
    free(path);
    free(checkpoint);
}

// Gives each validation point the tokens and seconds of the training line of its step.
static inline void compare_place_validation(CompareRun* run, double tokens_per_step) {
    const ComparePoints* train = &run->train;
    int i = 0;
    double last_step = 0, last_tokens = 0, last_seconds = 0;
    for (int v = 0; v < run->val.count; v++) {
        ComparePoint* p = &run->val.at[v];
        while (i < train->count && train->at[i].step <= p->step) {
            last_step = (double)train->at[i].step;
            last_tokens = train->at[i].tokens;
            last_seconds = train->at[i].seconds;
            i++;
        }
        // Without a line of that very step (metrics may be thinned), steps are of equal size.
        p->tokens = last_tokens + ((double)p->step - last_step) * tokens_per_step;
        p->seconds = last_seconds;
    }
}

// Reads the run in run->dir; dies on anything that is not one whole, usable training.
static inline void compare_read_run(CompareRun* run) {
    if (access(run->dir, F_OK) != 0) {
        die("%s: %s. Expected the directory of a training (its --out)", run->dir, strerror(errno));
    }
    char* path = format_string("%s/metrics.jsonl", run->dir);
    size_t size = 0;
    char* text = compare_read_file(path, &size, "Expected the metrics that a training writes into its --out directory");
    int number = 0;
    for (size_t begin = 0; begin < size;) {
        number++;
        const char* newline = (const char*)memchr(text + begin, '\n', size - begin);
        if (newline == NULL) {
            // The trainer ends every line with a newline, so this one was cut while it was written.
            warn("%s line %d: the last line is torn (no newline at its end); it is left out", path, number);
            break;
        }
        size_t end = (size_t)(newline - text);
        if (end > begin) {
            char* where = format_string("%s line %d", path, number);
            Json* line = json_parse(text + begin, end - begin, where);
            compare_read_line(run, line, where);
            json_free(line);
            free(where);
        }
        begin = end + 1;
    }
    free(text);
    if (run->val.count == 0) {
        die("%s: no line with a \"val_loss\" in %d lines. Train with --val and --val-every, so that there is something "
            "to compare",
            path, number);
    }
    double tokens_per_step = 0;
    compare_read_state(run, &tokens_per_step);
    compare_place_validation(run, tokens_per_step);
    const ComparePoint* last = &run->val.at[run->val.count - 1];
    run->steps = last->step;
    run->tokens = last->tokens;
    run->seconds = last->seconds;
    if (run->train.count > 0 && run->train.at[run->train.count - 1].step > run->steps) {
        warn("%s: the last validation is at step %lld, the last step is %lld: the numbers are those of step %lld", path,
             (long long)run->steps, (long long)run->train.at[run->train.count - 1].step, (long long)run->steps);
    }
    free(path);
}

// ---------------------------------------------------------------------------------------------
// [2] average

typedef enum { AXIS_STEPS, AXIS_TOKENS, AXIS_FLOPS, AXIS_SECONDS } CompareAxis;

// A curve of a row: at each step that all its seeds have, mean and extent over the seeds.
typedef struct {
    int count;
    double *step, *tokens, *seconds;  // (count)
    double *mean, *low, *high;        // (count), losses
    double* memory;                   // one allocation for all of the above
} CompareCurve;

typedef struct {
    char* name;
    int run_count;
    CompareRun runs[COMPARE_MAX_RUNS];
    CompareCurve val, train;
    int passes;
    double pass[COMPARE_MAX_PASSES];  // mean loss of each pass at the end
} CompareRow;

static inline CompareCurve compare_curve_new(int count) {
    CompareCurve curve = {0};
    size_t n = (size_t)count;
    curve.count = count;
    curve.memory = (double*)xalloc(6 * max_size(n, 1), sizeof(double), "a curve");
    curve.step = curve.memory;
    curve.tokens = curve.step + n;
    curve.seconds = curve.tokens + n;
    curve.mean = curve.seconds + n;
    curve.low = curve.mean + n;
    curve.high = curve.low + n;
    return curve;
}

static inline const ComparePoints* compare_points_of(const CompareRun* run, int validation) {
    return validation ? &run->val : &run->train;
}

// The curve of the steps that all seeds of the row have, with finite losses. last_index[r] = the
// place of the curve's last point in seed r (only when the curve is not empty).
static inline CompareCurve compare_average(const CompareRow* row, int validation, int* last_index) {
    const ComparePoints* first = compare_points_of(&row->runs[0], validation);
    CompareCurve curve = compare_curve_new(first->count);
    int at[COMPARE_MAX_RUNS] = {0};
    int n = 0;
    for (int i = 0; i < first->count; i++) {
        int64_t step = first->at[i].step;
        double tokens = 0, seconds = 0, sum = 0, low = INFINITY, high = -INFINITY;
        int complete = 1;
        for (int r = 0; r < row->run_count; r++) {
            const ComparePoints* points = compare_points_of(&row->runs[r], validation);
            while (at[r] < points->count && points->at[at[r]].step < step) { at[r]++; }
            if (at[r] == points->count || points->at[at[r]].step != step || !isfinite(points->at[at[r]].loss)) {
                complete = 0;
                break;
            }
            const ComparePoint* p = &points->at[at[r]];
            tokens += p->tokens;
            seconds += p->seconds;
            sum += p->loss;
            low = fmin(low, p->loss);
            high = fmax(high, p->loss);
        }
        if (!complete) { continue; }
        double runs = (double)row->run_count;
        curve.step[n] = (double)step;
        curve.tokens[n] = tokens / runs;
        curve.seconds[n] = seconds / runs;
        curve.mean[n] = sum / runs;
        curve.low[n] = low;
        curve.high[n] = high;
        for (int r = 0; r < row->run_count; r++) { last_index[r] = at[r]; }
        n++;
    }
    curve.count = n;
    return curve;
}

// Smooths the mean by a centred window that shrinks at both ends (a window that is cut there would
// pull the ends of a falling curve down and up). Half its width: 1/30 of the points. The last
// points, whose windows are too short to smooth, are dropped.
static inline void compare_smooth(CompareCurve* curve) {
    int half = curve->count / 30;
    if (half == 0) { return; }
    double* sum = (double*)xalloc((size_t)curve->count + 1, sizeof(double), "a smoothed curve");
    for (int i = 0; i < curve->count; i++) { sum[i + 1] = sum[i] + curve->mean[i]; }
    for (int i = 0; i < curve->count; i++) {
        int h = half;
        if (h > i) { h = i; }
        if (h > curve->count - 1 - i) { h = curve->count - 1 - i; }
        curve->mean[i] = (sum[i + h + 1] - sum[i - h]) / (double)(2 * h + 1);
    }
    curve->count -= half / 2;
    free(sum);
}

// Reads all seeds of the row and averages them.
static inline void compare_read_row(CompareRow* row) {
    for (int r = 0; r < row->run_count; r++) { compare_read_run(&row->runs[r]); }
    const CompareRun* first = &row->runs[0];
    int uneven = 0;
    for (int r = 1; r < row->run_count; r++) {
        const CompareRun* run = &row->runs[r];
        if (run->parameters != first->parameters || run->flops_per_token != first->flops_per_token) {
            die("%s: %s and %s are different models (%.0f and %.0f parameters, %.6g and %.6g FLOPs per token); a row "
                "holds seeds of one and the same",
                row->name, first->dir, run->dir, first->parameters, run->parameters, first->flops_per_token,
                run->flops_per_token);
        }
        if (run->steps != first->steps) { uneven = 1; }
    }
    int last[COMPARE_MAX_RUNS] = {0};
    row->train = compare_average(row, 0, last);
    compare_smooth(&row->train);
    row->val = compare_average(row, 1, last);
    if (row->val.count == 0) {
        die("%s: its runs have no validation step in common; use the same --val-every for all", row->name);
    }
    if (uneven) {
        warn("%s: its runs end at different steps; they are compared at step %.0f, the last that all have", row->name,
             row->val.step[row->val.count - 1]);
    }
    row->passes = first->val.at[last[0]].passes;
    for (int r = 0; r < row->run_count; r++) {
        const ComparePoint* p = &row->runs[r].val.at[last[r]];
        if (p->passes != row->passes) {
            die("%s: %s reports %d passes, %s %d; a row holds seeds of one and the same model", row->name, first->dir,
                row->passes, row->runs[r].dir, p->passes);
        }
        for (int s = 0; s < row->passes; s++) { row->pass[s] += p->pass[s] / (double)row->run_count; }
    }
}

static inline void compare_row_free(CompareRow* row) {
    for (int r = 0; r < row->run_count; r++) {
        compare_points_free(&row->runs[r].val);
        compare_points_free(&row->runs[r].train);
        free((char*)row->runs[r].dir);
    }
    free(row->val.memory);
    free(row->train.memory);
    free(row->name);
}

static inline double compare_x(const CompareRow* row, const CompareCurve* curve, CompareAxis axis, int i) {
    switch (axis) {
        case AXIS_STEPS: return curve->step[i];
        case AXIS_TOKENS: return curve->tokens[i];
        case AXIS_FLOPS: return curve->tokens[i] * row->runs[0].flops_per_token;
        case AXIS_SECONDS: return curve->seconds[i];
    }
    return 0;
}

static inline double compare_end(const CompareRow* row, CompareAxis axis) {
    return compare_x(row, &row->val, axis, row->val.count - 1);
}

// The validation curve at x, linear between its points. values: mean, low or high of row->val, or
// its steps. NaN when x lies outside the curve (beyond rounding).
static inline double compare_interpolate(const CompareRow* row, CompareAxis axis, const double* values, double x) {
    const CompareCurve* curve = &row->val;
    double slack = 1e-9 * fabs(x);
    for (int i = 0; i < curve->count; i++) {
        double right = compare_x(row, curve, axis, i);
        if (fabs(right - x) <= slack) { return values[i]; }
        if (right > x) {
            if (i == 0) { return NAN; }
            double left = compare_x(row, curve, axis, i - 1);
            return values[i - 1] + (values[i] - values[i - 1]) * (x - left) / (right - left);
        }
    }
    return NAN;
}

// 256 bytes, or those and an end of text: then a loss per token is a loss per byte.
static inline int compare_is_bytes(const CompareRow* row) {
    return row->runs[0].vocabulary == 256 || row->runs[0].vocabulary == 257;
}

// ---------------------------------------------------------------------------------------------
// [3] table

typedef struct {
    int rows, columns, capacity;
    char** cells;  // (rows, columns)
} CompareTable;

static inline void compare_cell(CompareTable* table, char* text) {
    if (table->rows == table->capacity) {
        int capacity = table->capacity ? 2 * table->capacity : 64;
        char** cells = (char**)xalloc((size_t)capacity, sizeof(char*), "a table");
        if (table->rows) { memcpy(cells, table->cells, (size_t)table->rows * sizeof(char*)); }
        free(table->cells);
        table->cells = cells;
        table->capacity = capacity;
    }
    table->cells[table->rows++] = text;  // `rows` counts cells while the table grows
}

static inline void compare_table_free(CompareTable* table) {
    for (int i = 0; i < table->rows; i++) { free(table->cells[i]); }
    free(table->cells);
}

// Columns on a screen: UTF-8 continuation bytes take none.
static inline size_t compare_width(const char* s) {
    size_t n = 0;
    for (; *s; s++) { n += ((unsigned char)*s & 0xC0) != 0x80; }
    return n;
}

// 1234567 -> "1,234,567".
static inline char* compare_grouped(double value) {
    char* digits = format_string("%.0f", value);
    StringBuilder sb = {0};
    size_t n = strlen(digits);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && digits[i - 1] != '-' && (n - i) % 3 == 0) { sb_append(&sb, ",", 1); }
        sb_append(&sb, digits + i, 1);
    }
    free(digits);
    return sb.data;
}

// Mean and, of several seeds, lowest and highest.
static inline char* compare_spread(double mean, double low, double high, int runs) {
    return runs > 1 ? format_string("%.4f (%.4f..%.4f)", mean, low, high) : format_string("%.4f", mean);
}

static inline void compare_markdown_text(StringBuilder* sb, const char* s) {
    for (; *s; s++) {
        switch (*s) {
            case '&': sb_printf(sb, "&amp;"); break;
            case '<': sb_printf(sb, "&lt;"); break;
            case '>': sb_printf(sb, "&gt;"); break;
            case '|':
            case '\\':
            case '`':
            case '*':
            case '_':
            case '[':
            case ']':
                sb_append(sb, "\\", 1);
                sb_append(sb, s, 1);
                break;
            default: sb_append(sb, s, 1);
        }
    }
}

// Names go to the left of their column, numbers to the right.
static inline int compare_is_text(const CompareTable* table, int column) {
    return column == 0 || strcmp(table->cells[column], "the other run") == 0;
}

// The table as text, in aligned columns.
static inline void compare_print(StringBuilder* sb, const CompareTable* table, int markdown) {
    int columns = table->columns, rows = table->rows / columns;
    size_t* width = (size_t*)xalloc((size_t)columns, sizeof(size_t), "a table");
    char** text = (char**)xalloc((size_t)table->rows, sizeof(char*), "a table");
    for (int i = 0; i < table->rows; i++) {
        StringBuilder cell = {0};
        sb_append(&cell, "", 0);
        if (markdown) {
            compare_markdown_text(&cell, table->cells[i]);
        } else {
            sb_append(&cell, table->cells[i], strlen(table->cells[i]));
        }
        text[i] = cell.data;
        width[i % columns] = max_size(width[i % columns], max_size(3, compare_width(cell.data)));
    }
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < columns; c++) {
            const char* cell = text[r * columns + c];
            int pad = (int)(width[c] - compare_width(cell));
            sb_printf(sb, "%s", markdown ? (c ? " | " : "| ") : (c ? "  " : ""));
            if (compare_is_text(table, c)) {
                sb_printf(sb, "%s%*s", cell, pad, "");
            } else {
                sb_printf(sb, "%*s%s", pad, "", cell);
            }
        }
        sb_printf(sb, "%s\n", markdown ? " |" : "");
        if (r > 0 || !markdown) { continue; }
        for (int c = 0; c < columns; c++) {
            sb_printf(sb, "%s", c ? " | " : "| ");
            for (size_t i = 1; i < width[c]; i++) { sb_append(sb, "-", 1); }
            sb_printf(sb, "%s", compare_is_text(table, c) ? "-" : ":");
        }
        sb_printf(sb, " |\n");
    }
    for (int i = 0; i < table->rows; i++) { free(text[i]); }
    free(text);
    free(width);
}

static inline CompareTable compare_ends_table(const CompareRow* rows, int count) {
    int bytes = 0, seeds = 0;
    for (int i = 0; i < count; i++) {
        bytes |= compare_is_bytes(&rows[i]);
        seeds |= rows[i].run_count > 1;
    }
    CompareTable table = {0};
    table.columns = 8 + bytes + seeds;
    compare_cell(&table, format_string("run"));
    if (seeds) { compare_cell(&table, format_string("seeds")); }
    compare_cell(&table, format_string("parameters"));
    compare_cell(&table, format_string("steps"));
    compare_cell(&table, format_string("tokens"));
    compare_cell(&table, format_string("validation loss"));
    if (bytes) { compare_cell(&table, format_string("bits per byte")); }
    compare_cell(&table, format_string("loss of each pass"));
    compare_cell(&table, format_string("FLOPs"));
    compare_cell(&table, format_string("seconds"));
    for (int i = 0; i < count; i++) {
        const CompareRow* row = &rows[i];
        int last = row->val.count - 1;
        compare_cell(&table, format_string("%s", row->name));
        if (seeds) { compare_cell(&table, format_string("%d", row->run_count)); }
        compare_cell(&table, compare_grouped(row->runs[0].parameters));
        compare_cell(&table, compare_grouped(row->val.step[last]));
        compare_cell(&table, compare_grouped(row->val.tokens[last]));
        compare_cell(&table,
                     compare_spread(row->val.mean[last], row->val.low[last], row->val.high[last], row->run_count));
        if (bytes) {
            compare_cell(&table, compare_is_bytes(row) ? format_string("%.4f", row->val.mean[last] / log(2.0))
                                                       : format_string("-"));
        }
        StringBuilder passes = {0};
        for (int s = 0; s < row->passes; s++) { sb_printf(&passes, "%s%.4f", s ? " " : "", row->pass[s]); }
        if (row->passes == 0) { sb_printf(&passes, "-"); }
        compare_cell(&table, passes.data);
        compare_cell(&table, format_string("%.3e", compare_end(row, AXIS_FLOPS)));
        compare_cell(&table, format_string("%.1f", row->val.seconds[last]));
    }
    return table;
}

// Every pair of rows where the one that used less of the axis ended; the other is interpolated.
static inline CompareTable compare_pairs_table(const CompareRow* rows, int count, CompareAxis axis) {
    CompareTable table = {0};
    table.columns = 7;
    compare_cell(&table, format_string("the run that used less, at its end"));
    compare_cell(&table, format_string(axis == AXIS_FLOPS ? "FLOPs" : "tokens"));
    compare_cell(&table, format_string("its loss"));
    compare_cell(&table, format_string("the other run"));
    compare_cell(&table, format_string("at its step"));
    compare_cell(&table, format_string("its loss there"));
    compare_cell(&table, format_string("difference"));
    for (int i = 0; i < count; i++) {
        for (int j = i + 1; j < count; j++) {
            const CompareRow* less = &rows[i];
            const CompareRow* more = &rows[j];
            if (compare_end(less, axis) > compare_end(more, axis)) { less = &rows[j], more = &rows[i]; }
            int last = less->val.count - 1;
            double x = compare_end(less, axis);
            double mean = compare_interpolate(more, axis, more->val.mean, x);
            compare_cell(&table, format_string("%s", less->name));
            compare_cell(&table, axis == AXIS_FLOPS ? format_string("%.3e", x) : compare_grouped(x));
            compare_cell(&table, compare_spread(less->val.mean[last], less->val.low[last], less->val.high[last],
                                                less->run_count));
            compare_cell(&table, format_string("%s", more->name));
            if (isfinite(mean)) {
                compare_cell(&table, compare_grouped(compare_interpolate(more, axis, more->val.step, x)));
                compare_cell(&table,
                             compare_spread(mean, compare_interpolate(more, axis, more->val.low, x),
                                            compare_interpolate(more, axis, more->val.high, x), more->run_count));
                compare_cell(&table, format_string("%+.4f", mean - less->val.mean[last]));
            } else {
                // The other run has no validation that early.
                for (int c = 0; c < 3; c++) { compare_cell(&table, format_string("-")); }
            }
        }
    }
    return table;
}

// All tables, one below the other.
static inline char* compare_tables(const CompareRow* rows, int count, int markdown) {
    StringBuilder sb = {0};
    CompareTable ends = compare_ends_table(rows, count);
    compare_print(&sb, &ends, markdown);
    compare_table_free(&ends);
    int seeds = 0, uneven = 0;
    for (int i = 0; i < count; i++) {
        seeds |= rows[i].run_count > 1;
        uneven |= compare_end(&rows[i], AXIS_TOKENS) != compare_end(&rows[0], AXIS_TOKENS);
    }
    if (seeds) { sb_printf(&sb, "\nLosses are means over the seeds, with (lowest..highest).\n"); }
    if (count > 1 && uneven) {
        sb_printf(&sb, "\nAt equal tokens (the runs are of different length):\n\n");
        CompareTable pairs = compare_pairs_table(rows, count, AXIS_TOKENS);
        compare_print(&sb, &pairs, markdown);
        compare_table_free(&pairs);
    }
    if (count > 1) {
        sb_printf(&sb, "\nAt equal FLOPs (the longer run's curve, interpolated; a positive difference speaks for the "
                       "run that used less):\n\n");
        CompareTable pairs = compare_pairs_table(rows, count, AXIS_FLOPS);
        compare_print(&sb, &pairs, markdown);
        compare_table_free(&pairs);
    }
    return sb.data;
}

// ---------------------------------------------------------------------------------------------
// [4] picture
//
// Legible in both modes, even where a viewer ignores the style sheet: every element carries the
// light colours as attributes and the picture paints its own background; a viewer that knows
// prefers-color-scheme switches to the dark colours by class. The colours differ in lightness and hue for
// colour-blind eyes, reach a contrast of 4.5 : 1 with their background (text is drawn in them), and
// each row also has a marker of its own shape.

static const char* const compare_light[] = {"#0068a8", "#b84300", "#007a59", "#9c3f78",
                                            "#7d6000", "#5a4fb0", "#404040", "#8f2d2d"};
static const char* const compare_dark[] = {"#56b4e9", "#ff8a4c", "#2ec4a0", "#e79ac9",
                                           "#e6c229", "#a99cf5", "#d0d0d0", "#f08080"};
enum { COMPARE_COLOURS = 8 };

// Sizes in pixels of the picture's own coordinates.
enum {
    SVG_LEFT = 62,  // of a panel: tick labels and, in the first, the axis name
    SVG_PLOT_HEIGHT = 330,
    SVG_BOTTOM = 56,  // tick labels and axis name
    SVG_TEXT = 12,    // font size of labels
    SVG_LINE = 15     // height of a label
};

// Ticks: `count` of them, the first at `first`, `step` apart; values are shown divided by `unit`.
typedef struct {
    double first, step;
    int count, decimals;
} CompareTicks;

typedef struct {
    CompareAxis axis;
    double left, right, top, bottom;  // of the plot, pixels
    double gutter;                    // free room right of the plot, for labels
    double x0, x1, y0, y1;            // data at left, right, bottom, top
} ComparePanel;

typedef struct {
    const CompareRow* row;
    int index;            // its colour
    double end_x, end_y;  // the line's end, pixels
    double width;         // of the text
    double x, y;          // where the box was put: left edge, centre
    char* text;
} CompareLabel;

// Steps of 1, 2 or 5 times a power of ten that cut lo..hi into `wanted` parts or fewer.
static inline CompareTicks compare_nice_ticks(double lo, double hi, int wanted) {
    CompareTicks ticks = {0};
    double span = hi - lo;
    if (!(span > 0)) { span = 1; }
    double raw = span / wanted, power = pow(10, floor(log10(raw)));
    double f = raw / power;
    ticks.step = (f <= 1 + 1e-9 ? 1 : f <= 2 + 1e-9 ? 2 : f <= 5 + 1e-9 ? 5 : 10) * power;
    ticks.first = ceil(lo / ticks.step - 1e-9) * ticks.step;
    ticks.count = (int)floor((hi - ticks.first) / ticks.step + 1e-9) + 1;
    if (ticks.count < 0) { ticks.count = 0; }
    double digits = -floor(log10(ticks.step) + 1e-9);
    ticks.decimals = digits > 0 ? (int)digits : 0;
    return ticks;
}

// The unit that keeps the numbers of an axis short, and the axis name that says it.
static inline char* compare_axis_name(CompareAxis axis, double max, double tokens_per_step, double* unit) {
    static const char* const flop[] = {"FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP", "YFLOP"};
    *unit = 1;
    switch (axis) {
        case AXIS_STEPS: {
            if (!(tokens_per_step > 0)) { return format_string("optimiser steps"); }
            char* tokens = compare_grouped(tokens_per_step);
            char* name = format_string("optimiser steps (%s tokens each)", tokens);
            free(tokens);
            return name;
        }
        case AXIS_TOKENS:
            if (max >= 2e9) { *unit = 1e9; }
            if (max >= 2e6 && max < 2e9) { *unit = 1e6; }
            if (max >= 2e4 && max < 2e6) { *unit = 1e3; }
            return format_string("training tokens%s", *unit == 1e9   ? " (billions)"
                                                      : *unit == 1e6 ? " (millions)"
                                                      : *unit == 1e3 ? " (thousands)"
                                                                     : "");
        case AXIS_FLOPS: {
            int prefix = 0;
            while (prefix < 8 && max >= 2000 * *unit) { *unit *= 1000, prefix++; }
            return format_string("training compute (%s)", flop[prefix]);
        }
        case AXIS_SECONDS:
            if (max >= 3 * 3600) { *unit = 3600; }
            if (max >= 300 && max < 3 * 3600) { *unit = 60; }
            return format_string("training time (%s)", *unit == 3600 ? "hours" : *unit == 60 ? "minutes" : "seconds");
    }
    return format_string("?");
}

// Text for an element or attribute. Names are already free of control characters.
static inline void compare_svg_text(StringBuilder* sb, const char* s) {
    for (; *s; s++) {
        switch (*s) {
            case '&': sb_printf(sb, "&amp;"); break;
            case '<': sb_printf(sb, "&lt;"); break;
            case '>': sb_printf(sb, "&gt;"); break;
            case '"': sb_printf(sb, "&quot;"); break;
            case '\'': sb_printf(sb, "&#39;"); break;
            default: sb_append(sb, s, 1);
        }
    }
}

// A text element, in ink or (dim) a lighter one.
static inline void compare_text(StringBuilder* sb, int dim, const char* attributes, double x, double y,
                                const char* text) {
    sb_printf(sb, "<text class=\"%s\" fill=\"%s\" %s x=\"%.1f\" y=\"%.1f\">", dim ? "dim" : "ink",
              dim ? "#5c6470" : "#1c2128", attributes, x, y);
    compare_svg_text(sb, text);
    sb_printf(sb, "</text>\n");
}

// An estimate of a text's width in pixels for a sans-serif of this size; wide rather than narrow.
static inline double compare_text_width(const char* s, double size) {
    double em = 0;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if ((c & 0xC0) == 0x80) { continue; }
        em += c >= 0xE0                      ? 1.1
              : strchr("ilj.,:;'|!()[] ", c) ? 0.36
              : strchr("mwMW@%", c)          ? 0.95
              : c >= 'A' && c <= 'Z'         ? 0.72
                                             : 0.61;
    }
    return em * size;
}

// The first `limit` characters of s, and a "..." when some are left out.
static inline char* compare_shorten(const char* s, size_t limit) {
    if (compare_width(s) <= limit) { return format_string("%s", s); }
    size_t n = 0, bytes = 0;
    while (n + 3 < limit || ((unsigned char)s[bytes] & 0xC0) == 0x80) {
        bytes++;
        n += ((unsigned char)s[bytes] & 0xC0) != 0x80;
    }
    return format_string("%.*s...", (int)bytes, s);
}

static inline double compare_px(const ComparePanel* panel, double x) {
    return panel->left + (x - panel->x0) / (panel->x1 - panel->x0) * (panel->right - panel->left);
}
static inline double compare_py(const ComparePanel* panel, double y) {
    return panel->bottom - (y - panel->y0) / (panel->y1 - panel->y0) * (panel->bottom - panel->top);
}

// Losses fall steeply at first and differ little later: the upper end of the axis is where the
// slowest row is after a tenth of its steps, so that the part that matters gets the room.
static inline void compare_loss_range(const CompareRow* rows, int count, double* low, double* high) {
    double lo = INFINITY, hi = -INFINITY;
    for (int i = 0; i < count; i++) {
        const CompareCurve* val = &rows[i].val;
        double begin = val->step[0] + 0.1 * (val->step[val->count - 1] - val->step[0]);
        hi = fmax(hi, compare_interpolate(&rows[i], AXIS_STEPS, val->high, begin));
        for (int k = 0; k < val->count; k++) { lo = fmin(lo, val->low[k]); }
        const CompareCurve* train = &rows[i].train;
        // Of the training curve its end, on average: single dips should not set the scale.
        double sum = 0;
        int tail = (train->count + 9) / 10;
        for (int k = train->count - tail; k < train->count; k++) { sum += train->mean[k]; }
        if (tail > 0) { lo = fmin(lo, sum / tail); }
    }
    double span = hi - lo;
    if (!(span > 1e-6 * fabs(hi))) { span = fabs(hi) > 0 ? 0.1 * fabs(hi) : 1; }
    *low = lo - 0.1 * span;  // room for labels under the lowest line
    *high = hi + 0.06 * span;
}

// A marker of the row's own shape around (x,y).
static inline void compare_marker(StringBuilder* sb, int index, double x, double y) {
    int colour = index % COMPARE_COLOURS;
    sb_printf(sb, "<path class=\"f%d\" fill=\"%s\" d=\"", colour, compare_light[colour]);
    switch (index % 4) {
        case 0: sb_printf(sb, "M%.1f %.1fa4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", x - 4, y); break;
        case 1: sb_printf(sb, "M%.1f %.1fh7v7h-7z", x - 3.5, y - 3.5); break;
        case 2: sb_printf(sb, "M%.1f %.1fl4.8 8.4h-9.6z", x, y - 5.4); break;
        default: sb_printf(sb, "M%.1f %.1fl5 5l-5 5l-5 -5z", x, y - 5);
    }
    sb_printf(sb, "\"/>\n");
}

// Which of `count` points a curve of at most COMPARE_MAX_POINTS draws as its k-th; -1 after the last.
static inline int compare_pick(int count, int k) {
    int drawn = count < COMPARE_MAX_POINTS ? count : COMPARE_MAX_POINTS;
    if (k >= drawn) { return -1; }
    return drawn == 1 ? 0 : (int)((int64_t)k * (count - 1) / (drawn - 1));
}

// Coordinates far outside the panel are clipped by the viewer; keep them printable.
static inline double compare_clamp(double v, double lo, double hi) { return v < lo ? lo : v > hi ? hi : v; }

static inline void compare_path(StringBuilder* sb, const ComparePanel* panel, const CompareRow* row,
                                const CompareCurve* curve, const double* values) {
    for (int k = 0, i; (i = compare_pick(curve->count, k)) >= 0; k++) {
        double y = compare_clamp(compare_py(panel, values[i]), -1e5, 1e5);
        sb_printf(sb, "%s%.1f %.1f", k ? "L" : "M", compare_px(panel, compare_x(row, curve, panel->axis, i)), y);
    }
}

static inline void compare_draw_curves(StringBuilder* sb, const ComparePanel* panel, const CompareRow* row, int index) {
    int colour = index % COMPARE_COLOURS;
    const char* light = compare_light[colour];
    if (row->train.count > 1) {
        sb_printf(sb, "<path class=\"s%d\" stroke=\"%s\" fill=\"none\" stroke-width=\"1\" stroke-opacity=\"0.5\" d=\"",
                  colour, light);
        compare_path(sb, panel, row, &row->train, row->train.mean);
        sb_printf(sb, "\"/>\n");
    }
    if (row->run_count > 1 && row->val.count > 1) {
        const CompareCurve* val = &row->val;
        sb_printf(sb, "<path class=\"f%d\" fill=\"%s\" fill-opacity=\"0.18\" d=\"", colour, light);
        compare_path(sb, panel, row, val, val->high);
        int drawn = val->count < COMPARE_MAX_POINTS ? val->count : COMPARE_MAX_POINTS;
        for (int k = drawn - 1; k >= 0; k--) {
            int i = compare_pick(val->count, k);
            double y = compare_clamp(compare_py(panel, val->low[i]), -1e5, 1e5);
            sb_printf(sb, "L%.1f %.1f", compare_px(panel, compare_x(row, val, panel->axis, i)), y);
        }
        sb_printf(sb, "z\"/>\n");
    }
    if (row->val.count > 1) {
        sb_printf(sb,
                  "<path class=\"s%d\" stroke=\"%s\" fill=\"none\" stroke-width=\"2.2\" stroke-linejoin=\"round\" "
                  "stroke-linecap=\"round\" d=\"",
                  colour, light);
        compare_path(sb, panel, row, &row->val, row->val.mean);
        sb_printf(sb, "\"/>\n");
    }
}

// How much of the segment a-b lies inside the box, in pixels (Liang-Barsky clipping).
static inline double compare_inside(double ax, double ay, double bx, double by, double left, double top, double right,
                                    double bottom) {
    double dx = bx - ax, dy = by - ay, t0 = 0, t1 = 1;
    double p[4] = {-dx, dx, -dy, dy};
    double q[4] = {ax - left, right - ax, ay - top, bottom - ay};
    for (int i = 0; i < 4; i++) {
        if (p[i] == 0) {
            if (q[i] < 0) { return 0; }
            continue;
        }
        double t = q[i] / p[i];
        if (p[i] < 0) {
            t0 = fmax(t0, t);
        } else {
            t1 = fmin(t1, t);
        }
    }
    return t1 > t0 ? (t1 - t0) * sqrt(dx * dx + dy * dy) : 0;
}

// What it costs to put label number `at` at (x,y): covered lines and labels, distance from its line's
// end. Labels first..last-1 have their places already.
static inline double compare_label_cost(const ComparePanel* panel, const CompareRow* rows, int count,
                                        const CompareLabel* labels, int first, int last, int at, double x, double y) {
    const CompareLabel* me = &labels[at];
    double left = x - 3, right = x + me->width + 3, top = y - SVG_LINE / 2.0, bottom = y + SVG_LINE / 2.0;
    double cost = fabs(y - me->end_y) + 0.5 * fmax(0, fabs(x - me->end_x - 9));
    if (right > panel->right + panel->gutter || left < panel->left || top < panel->top - 6 || bottom > panel->bottom) {
        return 1e9;
    }
    for (int i = first; i < last; i++) {
        const CompareLabel* other = &labels[i];
        double wide = fmin(right, other->x + other->width + 3) - fmax(left, other->x - 3);
        double high = fmin(bottom, other->y + SVG_LINE / 2.0) - fmax(top, other->y - SVG_LINE / 2.0);
        if (wide > 0 && high > 0) { cost += 2000 + wide * high; }
        // Labels of lines that end together stand in the order of the lines.
        if (fabs(other->end_x - me->end_x) < 30 && (i < at ? other->y > y : other->y < y)) { cost += 100; }
    }
    for (int i = 0; i < count; i++) {
        const CompareCurve* val = &rows[i].val;
        double before_x = 0, before_y = 0;
        for (int k = 0, point; (point = compare_pick(val->count, k)) >= 0; k++) {
            double cx = compare_px(panel, compare_x(&rows[i], val, panel->axis, point));
            double cy = compare_py(panel, val->mean[point]);
            if (k > 0) { cost += 8 * compare_inside(before_x, before_y, cx, cy, left, top, right, bottom); }
            before_x = cx;
            before_y = cy;
        }
        // The marker at the line's end.
        if (before_x + 6 > left && before_x - 6 < right && before_y + 6 > top && before_y - 6 < bottom) { cost += 100; }
    }
    return cost;
}

// Puts each label at the cheapest of a grid of places, from the top label to the bottom one or the
// other way round. Returns the sum of their costs.
static inline double compare_place_in_order(const ComparePanel* panel, const CompareRow* rows, int count,
                                            CompareLabel* labels, const double* wish, int downward) {
    double total = 0;
    for (int k = 0; k < count; k++) {
        int i = downward ? k : count - 1 - k;
        int first = downward ? 0 : i + 1, last = downward ? i : count;
        CompareLabel* label = &labels[i];
        double best = INFINITY, best_x = label->end_x + 9, best_y = wish[i];
        // Right of the end, further right, below or above it, left of it.
        double places[] = {9, 30, -label->width / 2, -9 - label->width};
        for (size_t place = 0; place < sizeof places / sizeof places[0]; place++) {
            double x = label->end_x + places[place];
            for (int d = -60; d <= 60; d++) {
                double y = wish[i] + 3 * d;
                double cost = compare_label_cost(panel, rows, count, labels, first, last, i, x, y) + fabs(y - wish[i]);
                if (cost < best) { best = cost, best_x = x, best_y = y; }
            }
        }
        label->x = best_x;
        label->y = best_y;
        total += best;
    }
    return total;
}

// Puts the labels beside the ends of their lines. Lines that end close together share the room evenly first.
static inline void compare_place_labels(const ComparePanel* panel, const CompareRow* rows, int count,
                                        CompareLabel* labels) {
    for (int i = 1; i < count; i++) {  // by the height of the line's end
        CompareLabel label = labels[i];
        int j = i;
        for (; j > 0 && labels[j - 1].end_y > label.end_y; j--) { labels[j] = labels[j - 1]; }
        labels[j] = label;
    }
    double wish[COMPARE_MAX_ROWS];
    for (int i = 0; i < count; i++) { wish[i] = labels[i].end_y; }
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < count; i++) {
            for (int j = i + 1; j < count; j++) {
                double apart = wish[j] - wish[i];
                if (fabs(labels[j].end_x - labels[i].end_x) > fmax(labels[i].width, labels[j].width) ||
                    apart >= SVG_LINE) {
                    continue;
                }
                wish[i] -= (SVG_LINE - apart) / 2;
                wish[j] += (SVG_LINE - apart) / 2;
            }
            wish[i] = compare_clamp(wish[i], panel->top + SVG_LINE / 2.0, panel->bottom - SVG_LINE / 2.0);
        }
    }
    CompareLabel upward[COMPARE_MAX_ROWS];
    memcpy(upward, labels, (size_t)count * sizeof(CompareLabel));
    double down = compare_place_in_order(panel, rows, count, labels, wish, 1);
    double up = compare_place_in_order(panel, rows, count, upward, wish, 0);
    if (up < down) { memcpy(labels, upward, (size_t)count * sizeof(CompareLabel)); }
}

static inline char* compare_label_text(const CompareRow* row) {
    char* name = compare_shorten(row->name, COMPARE_MAX_LABEL);
    char* text = format_string("%s %.3f", name, row->val.mean[row->val.count - 1]);
    free(name);
    return text;
}

static inline void compare_draw_labels(StringBuilder* sb, const ComparePanel* panel, const CompareRow* rows,
                                       int count) {
    CompareLabel labels[COMPARE_MAX_ROWS];
    for (int i = 0; i < count; i++) {
        const CompareRow* row = &rows[i];
        int last = row->val.count - 1;
        CompareLabel label = {0};
        label.row = row;
        label.index = i;
        label.text = compare_label_text(row);
        label.width = compare_text_width(label.text, SVG_TEXT);
        label.end_x = compare_px(panel, compare_x(row, &row->val, panel->axis, last));
        label.end_y = compare_clamp(compare_py(panel, row->val.mean[last]), panel->top, panel->bottom);
        labels[i] = label;
    }
    compare_place_labels(panel, rows, count, labels);
    for (int i = 0; i < count; i++) {
        const CompareLabel* label = &labels[i];
        int colour = label->index % COMPARE_COLOURS;
        // A thin line to a label that had to move away from its line's end.
        double near_x = compare_clamp(label->end_x, label->x - 2, label->x + label->width + 2);
        if (fabs(label->y - label->end_y) > 8) {
            double near_y = near_x == label->end_x ? label->y + (label->end_y > label->y ? 7 : -7) : label->y;
            sb_printf(
                sb,
                "<path class=\"s%d\" stroke=\"%s\" fill=\"none\" stroke-width=\"0.8\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n",
                colour, compare_light[colour], label->end_x, label->end_y, near_x, near_y);
        }
        compare_marker(sb, label->index, label->end_x, label->end_y);
        // The halo keeps the text readable where a thin line passes under it.
        sb_printf(sb,
                  "<text class=\"f%d halo\" fill=\"%s\" stroke=\"#ffffff\" stroke-width=\"3\" "
                  "stroke-linejoin=\"round\" paint-order=\"stroke\" x=\"%.1f\" y=\"%.1f\">",
                  colour, compare_light[colour], label->x, label->y + 4);
        compare_svg_text(sb, label->text);
        sb_printf(sb, "</text>\n");
        free(label->text);
    }
}

static inline void compare_draw_panel(StringBuilder* sb, ComparePanel* panel, const CompareRow* rows, int count,
                                      int number) {
    double max = 0, tokens_per_step = -1;
    for (int i = 0; i < count; i++) {
        max = fmax(max, compare_end(&rows[i], panel->axis));
        int last = rows[i].val.count - 1;
        double per = rows[i].val.step[last] > 0 ? rows[i].val.tokens[last] / rows[i].val.step[last] : 0;
        tokens_per_step = tokens_per_step == -1 || per == tokens_per_step ? per : 0;
    }
    panel->x0 = 0;
    panel->x1 = max > 0 ? max : 1;
    double unit = 1;
    char* name = compare_axis_name(panel->axis, panel->x1, tokens_per_step, &unit);
    static const char* const heading[] = {"At equal steps", "At equal tokens", "At equal compute", "At equal time"};

    compare_text(sb, 0, "font-weight=\"600\" font-size=\"13\"", panel->left, panel->top - 12, heading[panel->axis]);
    CompareTicks ticks = compare_nice_ticks(panel->y0, panel->y1, 10);
    for (int k = 0; k < ticks.count; k++) {
        double value = ticks.first + k * ticks.step, y = compare_py(panel, value);
        sb_printf(sb, "<path class=\"grid\" stroke=\"#e3e6ea\" d=\"M%.1f %.1fH%.1f\"/>\n", panel->left, y,
                  panel->right);
        char* text = format_string("%.*f", ticks.decimals, fabs(value) < 1e-12 ? 0.0 : value);
        compare_text(sb, 1, "text-anchor=\"end\"", panel->left - 8, y + 4, text);
        free(text);
    }
    int most = (int)((panel->right - panel->left) / 60);  // a label needs some 50 pixels
    ticks = compare_nice_ticks(panel->x0 / unit, panel->x1 / unit, most < 2 ? 2 : most);
    for (int k = 0; k < ticks.count; k++) {
        double value = ticks.first + k * ticks.step, x = compare_px(panel, value * unit);
        char* text = ticks.decimals == 0 ? compare_grouped(value) : format_string("%.*f", ticks.decimals, value);
        sb_printf(sb, "<path class=\"grid\" stroke=\"#e3e6ea\" d=\"M%.1f %.1fV%.1f\"/>\n", x, panel->top,
                  panel->bottom);
        compare_text(sb, 1, "text-anchor=\"middle\"", x, panel->bottom + 18, text);
        free(text);
    }
    sb_printf(sb, "<path class=\"axis\" stroke=\"#5c6470\" fill=\"none\" d=\"M%.1f %.1fV%.1fH%.1f\"/>\n", panel->left,
              panel->top, panel->bottom, panel->right);
    compare_text(sb, 1, "text-anchor=\"middle\"", (panel->left + panel->right) / 2, panel->bottom + 40, name);
    free(name);

    sb_printf(sb, "<clipPath id=\"plot%d\"><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/></clipPath>\n",
              number, panel->left, panel->top, panel->right - panel->left + 2, panel->bottom - panel->top);
    sb_printf(sb, "<g clip-path=\"url(#plot%d)\">\n", number);
    for (int i = count - 1; i >= 0; i--) { compare_draw_curves(sb, panel, &rows[i], i); }
    sb_printf(sb, "</g>\n");
    compare_draw_labels(sb, panel, rows, count);
}

// The legend: names in full (if not absurdly long), wrapped to `room`. Returns the y below it.
static inline double compare_draw_legend(StringBuilder* sb, const CompareRow* rows, int count, double y, double room) {
    double x = SVG_LEFT;
    int seeds = 0, train = 0;
    for (int i = 0; i < count; i++) {
        char* name = compare_shorten(rows[i].name, room < 1000 ? 60 : 100);
        double width = compare_text_width(name, SVG_TEXT) + 54;
        if (x > SVG_LEFT && x + width > room - 12) { x = SVG_LEFT, y += 20; }
        int colour = i % COMPARE_COLOURS;
        sb_printf(sb, "<path class=\"s%d\" stroke=\"%s\" stroke-width=\"2.2\" d=\"M%.1f %.1fh28\"/>\n", colour,
                  compare_light[colour], x, y - 4);
        compare_marker(sb, i, x + 14, y - 4);
        compare_text(sb, 0, "", x + 35, y, name);
        free(name);
        x += width;
        seeds |= rows[i].run_count > 1;
        train |= rows[i].train.count > 1;
    }
    y += 20;
    char* note =
        format_string("Thick: validation loss%s.%s", seeds ? ", mean of the seeds. Band: lowest to highest" : "",
                      train ? " Thin: training loss, smoothed." : "");
    compare_text(sb, 1, "", SVG_LEFT, y, note);
    free(note);
    return y;
}

// Room right of a plot for the labels of the lines that end near its right edge; others have theirs inside.
static inline double compare_gutter(const CompareRow* rows, int count, CompareAxis axis) {
    double max = 0, gutter = 0;
    for (int i = 0; i < count; i++) { max = fmax(max, compare_end(&rows[i], axis)); }
    for (int i = 0; i < count; i++) {
        if (compare_end(&rows[i], axis) < 0.6 * max) { continue; }
        char* text = compare_label_text(&rows[i]);
        gutter = fmax(gutter, compare_text_width(text, SVG_TEXT) + 18);
        free(text);
    }
    return gutter;
}

static inline char* compare_svg(const CompareRow* rows, int count, const char* title, const CompareAxis* axes,
                                int axis_count) {
    int bytes = 1;
    for (int i = 0; i < count; i++) { bytes &= compare_is_bytes(&rows[i]); }
    double each = axis_count == 1 ? 760 : 560, width = each * axis_count;
    StringBuilder body = {0};
    double top = compare_draw_legend(&body, rows, count, 56, width) + 44;
    double height = top + SVG_PLOT_HEIGHT + SVG_BOTTOM;

    StringBuilder sb = {0};
    sb_printf(&sb,
              "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" "
              "role=\"img\" aria-labelledby=\"title desc\" ",
              width, height, width, height);
    sb_printf(&sb,
              "font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif\" "
              "font-size=\"%d\">\n",
              SVG_TEXT);
    sb_printf(&sb, "<title id=\"title\">");
    compare_svg_text(&sb, title);
    sb_printf(&sb, "</title>\n<desc id=\"desc\">Validation loss at the end:");
    for (int i = 0; i < count; i++) {
        sb_printf(&sb, "%s ", i ? "," : "");
        compare_svg_text(&sb, rows[i].name);
        sb_printf(&sb, " %.4f", rows[i].val.mean[rows[i].val.count - 1]);
    }
    sb_printf(&sb, "</desc>\n<style>\n@media (prefers-color-scheme: dark) {\n");
    sb_printf(&sb, ".bg{fill:#0d1117}.ink{fill:#e6edf3}.dim{fill:#9aa4b2}.grid{stroke:#262c36}.axis{stroke:#9aa4b2}."
                   "halo{stroke:#0d1117}\n");
    for (int i = 0; i < COMPARE_COLOURS; i++) {
        sb_printf(&sb, ".s%d{stroke:%s}.f%d{fill:%s}\n", i, compare_dark[i], i, compare_dark[i]);
    }
    sb_printf(&sb, "}\n</style>\n");
    sb_printf(&sb, "<rect class=\"bg\" fill=\"#ffffff\" width=\"%.0f\" height=\"%.0f\"/>\n", width, height);
    char* heading = compare_shorten(title, axis_count == 1 ? 60 : 100);
    compare_text(&sb, 0, "font-weight=\"600\" font-size=\"17\"", SVG_LEFT, 30, heading);
    free(heading);
    sb_append(&sb, body.data, body.size);
    free(body.data);

    double y0 = 0, y1 = 1;
    compare_loss_range(rows, count, &y0, &y1);
    for (int p = 0; p < axis_count; p++) {
        ComparePanel panel = {axes[p]};
        panel.gutter = compare_gutter(rows, count, axes[p]);
        panel.left = p * each + SVG_LEFT;
        panel.right = (p + 1) * each - panel.gutter;
        panel.top = top;
        panel.bottom = top + SVG_PLOT_HEIGHT;
        panel.y0 = y0;
        panel.y1 = y1;
        if (p == 0) {
            double middle = (panel.top + panel.bottom) / 2;
            sb_printf(&sb,
                      "<text class=\"dim\" fill=\"#5c6470\" text-anchor=\"middle\" transform=\"translate(16 %.1f) "
                      "rotate(-90)\">loss (nats per %s)</text>\n",
                      middle, bytes ? "byte" : "token");
        }
        compare_draw_panel(&sb, &panel, rows, count, p);
    }
    sb_printf(&sb, "</svg>\n");
    return sb.data;
}

// ---------------------------------------------------------------------------------------------
// [5] main

static const char compare_usage[] =
    "usage: compare [--svg FILE] [--table FILE] [--title TEXT] [--x AXIS[,AXIS...]] NAME=DIR[,DIR...] ...\n"
    "\n"
    "Compares trainings by their validation losses. Each row is NAME=DIR, where DIR is the --out of a\n"
    "training; several directories, separated by commas, are seeds of one row.\n"
    "\n"
    "  --svg FILE     draw the curves\n"
    "  --table FILE   write the table as Markdown (as plain text it goes to stdout)\n"
    "  --title TEXT   of the picture; default: Validation loss\n"
    "  --x AXES       one panel for each of steps, tokens, flops, seconds; default: steps,flops\n"
    "  --help         print this\n";

static inline void compare_write_file(const char* path, const char* text) {
    FILE* f = fopen(path, "wb");
    if (f == NULL) { die("%s: cannot write: %s", path, strerror(errno)); }
    size_t n = strlen(text);
    int failed = fwrite(text, 1, n, f) != n;
    failed |= fclose(f) != 0;
    if (failed) { die("%s: cannot write: %s", path, strerror(errno)); }
}

// A name for tables and pictures: control characters and bytes that are not UTF-8 become '?'.
static inline char* compare_clean(const char* s, size_t n) {
    char* out = (char*)xalloc(n + 1, 1, "a name");
    memcpy(out, s, n);
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)out[i];
        size_t length = c < 0x80                ? 1
                        : c >= 0xC2 && c < 0xE0 ? 2
                        : c >= 0xE0 && c < 0xF0 ? 3
                        : c >= 0xF0 && c < 0xF5 ? 4
                                                : 0;
        int good = length > 0 && i + length <= n && c >= 0x20 && c != 0x7F;
        uint32_t code = length > 0 ? (uint32_t)(length == 1 ? c : c & (0xFF >> (length + 1))) : 0;
        for (size_t k = 1; good && k < length; k++) {
            good = ((unsigned char)out[i + k] & 0xC0) == 0x80;
            code = code << 6 | ((unsigned char)out[i + k] & 0x3F);
        }
        // Overlong forms, surrogates, C1 controls and the two codes that XML forbids.
        static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
        good = good && code >= least[length] && code <= 0x10FFFF && !(code >= 0xD800 && code <= 0xDFFF) &&
               !(code >= 0x80 && code < 0xA0) && code != 0xFFFE && code != 0xFFFF;
        if (!good) {
            out[i] = '?';
            length = 1;
        }
        i += length;
    }
    return out;
}

static inline int compare_parse_axes(const char* text, CompareAxis* axes) {
    static const char* const names[] = {"steps", "tokens", "flops", "seconds"};
    int count = 0;
    for (const char* s = text;;) {
        size_t n = strcspn(s, ",");
        int found = -1;
        for (int i = 0; i < 4; i++) {
            if (strlen(names[i]) == n && memcmp(names[i], s, n) == 0) { found = i; }
        }
        if (found < 0 || count == COMPARE_MAX_AXES) {
            die("--x: '%s': expected up to %d of steps, tokens, flops, seconds, separated by commas", text,
                COMPARE_MAX_AXES);
        }
        axes[count++] = (CompareAxis)found;
        if (s[n] == 0) { return count; }
        s += n + 1;
    }
}

static inline void compare_parse_row(CompareRow* row, const char* argument) {
    const char* equals = strchr(argument, '=');
    if (equals == NULL || equals == argument || equals[1] == 0) {
        die("'%s': expected NAME=DIR[,DIR...], for example vanilla=out/vanilla", argument);
    }
    row->name = compare_clean(argument, (size_t)(equals - argument));
    for (const char* s = equals + 1;;) {
        size_t n = strcspn(s, ",");
        if (n == 0) { die("'%s': an empty directory name", argument); }
        if (row->run_count == COMPARE_MAX_RUNS) { die("'%s': more than %d directories", argument, COMPARE_MAX_RUNS); }
        row->runs[row->run_count++].dir = format_string("%.*s", (int)n, s);
        if (s[n] == 0) { return; }
        s += n + 1;
    }
}

int MAIN(int argc, char** argv) {
    const char *svg = NULL, *table = NULL, *title = "Validation loss";
    CompareAxis axes[COMPARE_MAX_AXES] = {AXIS_STEPS, AXIS_FLOPS};
    int axis_count = 2, count = 0;
    CompareRow* rows = (CompareRow*)xalloc(COMPARE_MAX_ROWS, sizeof(CompareRow), "the rows");
    for (int i = 1; i < argc; i++) {
        const char* argument = argv[i];
        if (strcmp(argument, "--help") == 0) {
            printf("%s", compare_usage);
            free(rows);
            return 0;
        }
        if (argument[0] != '-') {
            if (count == COMPARE_MAX_ROWS) {
                die("more than %d rows: a picture of so many curves shows nothing", COMPARE_MAX_ROWS);
            }
            compare_parse_row(&rows[count], argument);
            for (int k = 0; k < count; k++) {
                if (strcmp(rows[k].name, rows[count].name) == 0) {
                    die("two rows are named '%s'; seeds of one row are separated by commas", rows[k].name);
                }
            }
            count++;
            continue;
        }
        // --option VALUE or --option=VALUE
        size_t n = strcspn(argument, "=");
        const char** target = NULL;
        const char* axis_list = NULL;
        if (n == 5 && memcmp(argument, "--svg", n) == 0) { target = &svg; }
        if (n == 7 && memcmp(argument, "--table", n) == 0) { target = &table; }
        if (n == 7 && memcmp(argument, "--title", n) == 0) { target = &title; }
        if (n == 3 && memcmp(argument, "--x", n) == 0) { target = &axis_list; }
        if (target == NULL) { die("unknown option '%.*s'\n%s", (int)n, argument, compare_usage); }
        if (argument[n] == '=') {
            *target = argument + n + 1;
        } else if (i + 1 < argc) {
            *target = argv[++i];
        } else {
            die("%s needs a value", argument);
        }
        if (axis_list != NULL) { axis_count = compare_parse_axes(axis_list, axes); }
    }
    if (count == 0) { die("nothing to compare\n%s", compare_usage); }
    for (int i = 0; i < count; i++) {
        compare_read_row(&rows[i]);
        if (rows[i].runs[0].vocabulary != rows[0].runs[0].vocabulary) {
            warn("%s and %s have different vocabularies (%lld and %lld): their losses per token do not compare",
                 rows[0].name, rows[i].name, (long long)rows[0].runs[0].vocabulary,
                 (long long)rows[i].runs[0].vocabulary);
        }
    }

    char* text = compare_tables(rows, count, 0);
    printf("%s", text);
    free(text);
    if (table != NULL) {
        text = compare_tables(rows, count, 1);
        compare_write_file(table, text);
        free(text);
    }
    if (svg != NULL) {
        char* clean = compare_clean(title, strlen(title));
        text = compare_svg(rows, count, clean, axes, axis_count);
        compare_write_file(svg, text);
        free(text);
        free(clean);
    }
    if (fflush(stdout) != 0) { die("stdout: %s", strerror(errno)); }
    for (int i = 0; i < count; i++) { compare_row_free(&rows[i]); }
    free(rows);
    return 0;
}

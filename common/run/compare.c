// compare.c - sets several trainings side by side: a picture of their loss curves and a table.
//
//   build/compare [--svg FILE] [--table FILE] [--title T] [--x AXIS[,AXIS]] NAME=DIR[,DIR...] ...
//
// A row is NAME with one run directory per seed. Each directory holds metrics.jsonl (the losses) and a checkpoint,
// whose trainer_state.json says what a token cost. A run that ponders costs several times the FLOPs of a plain one per
// token, so "at equal steps" and "at equal FLOPs" are different questions and may have different answers.
//
// [1] reads the rows, [2] writes tables of every row at its end and of every pair at equal FLOPs, [3] draws an SVG with
// one panel per x axis, [4] is main. What is small or needed to the end is not freed.
#include "../base.h"

#include "../files/checkpoint.h"
#include "../files/json.h"
#include "../files/words.h"

#ifndef MAIN
#define MAIN main
#endif

enum { COMPARE_MAX_ROWS = 16, COMPARE_MAX_SEEDS = 64, COMPARE_MAX_PASSES = 65, COMPARE_MAX_PANELS = 4 };

// ---- [1] read ----

// What a point of a curve holds, as doubles; the first four are the x axes of pictures. From AT_TOKENS to AT_PASS they
// are means over the seeds (sums, while a row is read). Seconds are those of optimiser steps, validation left out.
enum { AT_STEP, AT_TOKENS, AT_FLOPS, AT_SECONDS, AT_LOSS, AT_PASS, AT_LOW = AT_PASS + COMPARE_MAX_PASSES };
enum { AT_HIGH = AT_LOW + 1, AT_SEEDS, AT_COUNT };

typedef struct {
    char *name, *dir[COMPARE_MAX_SEEDS];
    int seeds, points, passes;  // passes: losses in a val_loss_pass
    double** at;                // (points, AT_COUNT)
    const double* end;          // the last point
    double parameters, vocabulary;
    double flops_per_token;  // of a training token: forward and backward
    int bytes;               // 256 of them, perhaps with an end of text, are the vocabulary
    // How far the seed being read has come. Steps are -1 before the first line of their kind.
    int seed, next;  // no point before at[next] has a later step
    double trained, validated, tokens, seconds, tokens_per_step;
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
        // The milliseconds are the mean of the steps since the line before (metrics may be thinned).
        row->seconds += json_get(line, "ms") ? compare_number(line, "ms", 0, where) / 1000 * steps : 0;
        if (!isfinite(loss)) { warn("%s: the loss of step %.0f is not a finite number", where, step); }
        return;
    }
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
    p[AT_LOSS] += loss;
    for (int s = 0; s < passes; s++) { p[AT_PASS + s] += pass->items[s]->number; }
    p[AT_LOW] = row->seed ? fmin(p[AT_LOW], loss) : loss;
    p[AT_HIGH] = row->seed ? fmax(p[AT_HIGH], loss) : loss;
    p[AT_SEEDS]++;
}

// What the newest checkpoint of the seed says of the model and of the cost of a token.
static void compare_read_state(CompareRow* row, const char* dir) {
    // Not checkpoint_newest(): that may rename things, and the directory may belong to a running training.
    int count = 0;
    int64_t* whole = checkpoint_steps(dir, &count);
    if (count == 0) { die("%s: no checkpoint that says what a step cost; train until it saves one", dir); }
    char* path = format_string("%s/step_%08lld/config.json", dir, (long long)whole[count - 1]);
    row->vocabulary = compare_number(json_read(path), "vocab_size", 1, path);
    row->bytes = row->vocabulary == 256 || row->vocabulary == 257;
    path = format_string("%s/step_%08lld/trainer_state.json", dir, (long long)whole[count - 1]);
    const Json* state = json_read(path);
    double parameters = row->parameters, flops = row->flops_per_token;  // of the seeds before
    row->parameters = compare_number(state, "parameters", 1, path);
    row->flops_per_token = compare_number(state, "flops_per_token", 1, path);
    row->tokens_per_step = compare_number(state, "tokens", 0, path) / fmax(1, compare_number(state, "step", 0, path));
    if (row->seed > 0 && (row->parameters != parameters || row->flops_per_token != flops)) {
        die("%s: %s and %s are different models (%.0f and %.0f parameters, %.6g and %.6g FLOPs per token)", row->name,
            row->dir[0], dir, parameters, row->parameters, flops, row->flops_per_token);
    }
}

// Adds the run of row->seed to the row; dies on anything that is not a whole, usable training.
static void compare_read_run(CompareRow* row, const char* dir) {
    if (access(dir, F_OK) != 0) { die("%s: %s. Expected the --out of a training", dir, strerror(errno)); }
    char* path = format_string("%s/metrics.jsonl", dir);
    size_t size = 0, lines = 0;
    char* text = read_fully(path, &size);
    if (text == NULL) { die("%s: %s. Expected what a training writes into its --out", path, strerror(ENOENT)); }
    compare_read_state(row, dir);
    for (size_t i = 0; i < size; i++) { lines += text[i] == '\n'; }
    if (row->seed == 0) { row->at = (double**)xalloc(lines, sizeof(double*), "a curve"); }
    row->next = 0, row->tokens = row->seconds = 0, row->trained = row->validated = -1;
    char *begin = text, *end;
    for (size_t i = 1; i <= lines; i++, begin = end + 1) {
        end = (char*)memchr(begin, '\n', (size_t)(text + size - begin));
        if (end == begin) { continue; }
        char* where = format_string("%s line %zu", path, i);
        Json* line = json_parse(begin, (size_t)(end - begin), where);
        compare_read_line(row, line, where);
        json_free(line);
        free(where);
    }
    if (begin < text + size) {  // the trainer ends every line with a newline: this one was cut while it was written
        warn("%s line %zu: the last line is torn (no newline at its end); it is left out", path, lines + 1);
    }
    free(text);
    if (row->validated < 0) { die("%s: no line with a \"val_loss\". Train with --val and --val-every", path); }
    if (row->trained > row->validated) {
        warn("%s: the last validation is at step %.0f, the last step is %.0f", path, row->validated, row->trained);
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

// p (AT_COUNT) = the row's curve where its column `axis` is x, linear between its points. Returns 0 if that lies
// outside the curve (beyond rounding), else 1.
static int compare_interpolate(const CompareRow* row, int axis, double x, double* p) {
    int i = 0;
    while (i < row->points && row->at[i][axis] < x * (1 - 1e-9)) { i++; }
    int there = i < row->points && row->at[i][axis] <= x * (1 + 1e-9);
    if (i == row->points || (i == 0 && !there)) { return 0; }
    const double *right = row->at[i], *left = row->at[there ? i : i - 1];
    double share = there ? 0 : (x - left[axis]) / (right[axis] - left[axis]);
    for (int c = 0; c < AT_COUNT; c++) { p[c] = left[c] + (right[c] - left[c]) * share; }
    return 1;
}

// ---- [2] table: first with tabs between cells (names have none), then laid out in columns ----

// A further cell with a whole number, 1234567 -> "1,234,567".
static void compare_whole(StringBuilder* sb, double value) {
    char* digits = format_string("\t%.0f", value);
    for (size_t i = 0, n = strlen(digits); i < n; i++) {
        sb_printf(sb, "%s%c", i > 1 && digits[i - 1] != '-' && (n - i) % 3 == 0 ? "," : "", digits[i]);
    }
}

// A further cell with the mean and, of several seeds, the lowest and highest.
static void compare_spread(StringBuilder* sb, const double* point, int seeds) {
    sb_printf(sb, "\t%.4f", point[AT_LOSS]);
    if (seeds > 1) { sb_printf(sb, " (%.4f..%.4f)", point[AT_LOW], point[AT_HIGH]); }
}

// Text of an XML element or of Markdown, which wants a backslash before its own characters, `marks`; NULL: as it is.
static void compare_escape(StringBuilder* sb, const char* s, const char* marks) {
    for (; *s; s++) {
        const char* entity = *s == '&' ? "&amp;" : *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : NULL;
        if (marks && strchr(marks, *s)) { sb_printf(sb, "\\"); }
        sb_append(sb, marks && entity ? entity : s, marks && entity ? strlen(entity) : 1);
    }
}

// Lays out a table. Column 0 and `names` hold names, which go to the left; numbers go to the right.
static void compare_layout(StringBuilder* sb, const char* table, int names, int markdown) {
    const char *before = markdown ? "| " : "", *between = markdown ? " | " : "  ", *after = markdown ? " |\n" : "\n";
    int width[10] = {3, 3, 3, 3, 3, 3, 3, 3, 3, 3}, column = 0, n = 0, header = 1;
    for (const char* s = table; *s; s++) {
        int ends = *s == '\t' || *s == '\n';
        n = ends ? 0 : n + (((unsigned char)*s & 0xC0) != 0x80);  // characters, of UTF-8
        if (width[column] < n) { width[column] = n; }
        if (ends) { column = *s == '\t' ? column + 1 : 0; }
    }
    for (const char *s = table, *end; *s; s = end + 1) {
        end = s + strcspn(s, "\t\n");
        int pad = width[column], left = column == 0 || column == names;
        for (const char* c = s; c < end; c++) { pad -= ((unsigned char)*c & 0xC0) != 0x80; }
        sb_printf(sb, "%s%*s%.*s", column ? between : before, left ? 0 : pad, "", (int)(end - s), s);
        sb_printf(sb, "%*s%s", left ? pad : 0, "", *end == '\n' ? after : "");
        column++;
        if (*end == '\t') { continue; }
        for (int c = 0; c < column && markdown && header; c++) {
            sb_printf(sb, "%s", c ? between : before);
            for (int k = 1; k < width[c]; k++) { sb_printf(sb, "-"); }
            sb_printf(sb, "%s%s", c == 0 || c == names ? "-" : ":", c == column - 1 ? after : "");
        }
        column = header = 0;
    }
}

// Every pair of rows where the one that used less of the axis ended; the other is interpolated.
static void compare_pairs(StringBuilder* sb, const CompareRow* rows, int count, int axis, const char* marks) {
    StringBuilder t = {0};
    sb_printf(sb, "\nAt equal %s):\n\n",
              axis == AT_TOKENS ? "tokens (the runs are of different length"
                                : "FLOPs (the longer run's curve, interpolated; a positive difference speaks for the "
                                  "run that used less");
    sb_printf(&t, "the run that used less, at its end\t%s\tits loss\tthe other run\tat its step\tits loss there\t%s\n",
              axis == AT_TOKENS ? "tokens" : "FLOPs", "difference");
    for (int k = 0; k < count * count; k++) {
        const CompareRow *less = &rows[k / count], *more = &rows[k % count];
        if (less >= more) { continue; }
        if (less->end[axis] > more->end[axis]) { less = more, more = &rows[k / count]; }
        double x = less->end[axis], there[AT_COUNT];
        compare_escape(&t, less->name, marks);
        if (axis == AT_FLOPS) { sb_printf(&t, "\t%.3e", x); }
        if (axis == AT_TOKENS) { compare_whole(&t, x); }
        compare_spread(&t, less->end, less->seeds);
        sb_printf(&t, "\t");
        compare_escape(&t, more->name, marks);
        if (!compare_interpolate(more, axis, x, there)) {
            sb_printf(&t, "\t-\t-\t-\n");  // the other run has no validation that early
            continue;
        }
        compare_whole(&t, there[AT_STEP]);
        compare_spread(&t, there, more->seeds);
        sb_printf(&t, "\t%+.4f\n", there[AT_LOSS] - less->end[AT_LOSS]);
    }
    compare_layout(sb, t.data, 3, marks != NULL);
}

// All tables, one below the other. With marks (see compare_escape) they are Markdown.
static char* compare_tables(const CompareRow* rows, int count, const char* marks) {
    StringBuilder sb = {0}, t = {0};
    int bytes = 0, seeds = 0, uneven = 0;
    for (int i = 0; i < count; i++) {
        bytes |= rows[i].bytes;
        seeds |= rows[i].seeds > 1;
        uneven |= rows[i].end[AT_TOKENS] != rows[0].end[AT_TOKENS];
    }
    sb_printf(&t, "run\t%sparameters\tsteps\ttokens\tvalidation loss\t%sloss of each pass\tFLOPs\tseconds\n",
              seeds ? "seeds\t" : "", bytes ? "bits per byte\t" : "");
    for (const CompareRow* row = rows; row < rows + count; row++) {
        compare_escape(&t, row->name, marks);
        if (seeds) { sb_printf(&t, "\t%d", row->seeds); }
        compare_whole(&t, row->parameters);
        compare_whole(&t, row->end[AT_STEP]);
        compare_whole(&t, row->end[AT_TOKENS]);
        compare_spread(&t, row->end, row->seeds);
        if (bytes && row->bytes) { sb_printf(&t, "\t%.4f", row->end[AT_LOSS] / log(2.0)); }
        if (bytes && !row->bytes) { sb_printf(&t, "\t-"); }
        for (int s = 0; s < row->passes; s++) { sb_printf(&t, "%s%.4f", s ? " " : "\t", row->end[AT_PASS + s]); }
        sb_printf(&t, "%s\t%.3e\t%.1f\n", row->passes ? "" : "\t-", row->end[AT_FLOPS], row->end[AT_SECONDS]);
    }
    compare_layout(&sb, t.data, 0, marks != NULL);
    if (seeds) { sb_printf(&sb, "\nLosses are means over the seeds, with (lowest..highest).\n"); }
    if (uneven) { compare_pairs(&sb, rows, count, AT_TOKENS, marks); }
    if (count > 1) { compare_pairs(&sb, rows, count, AT_FLOPS, marks); }
    return sb.data;
}

// ---- [3] picture ----

// Colours by day and by night: c0 background, c1 ink, c2 lighter ink, c3 grid, c4.. rows. These differ in lightness and
// hue for colour-blind eyes; text is drawn in them, so they have a contrast of 4.5 : 1.
enum { SVG_ROW = 4, SVG_ROWS = 8 };
static const char svg_style[] =
    "text, rect, circle { fill: currentColor } path { fill: none; stroke: currentColor }\n"
    ".band { fill: currentColor; fill-opacity: 0.18; stroke: none } .dots { stroke-dasharray: 2 3 }\n"
    ".bold { font-weight: 600; font-size: 13px } .title { font-size: 17px }\n"
    ".end { text-anchor: end } .middle { text-anchor: middle }\n"
    ".c0{color:#ffffff}.c1{color:#1c2128}.c2{color:#5c6470}.c3{color:#e3e6ea}.c4{color:#0068a8}.c5{color:#b84300}\n"
    ".c6{color:#007a59}.c7{color:#9c3f78}.c8{color:#7d6000}.c9{color:#5a4fb0}.c10{color:#404040}.c11{color:#8f2d2d}\n"
    "@media (prefers-color-scheme: dark) {\n"
    ".c0{color:#0d1117}.c1{color:#e6edf3}.c2{color:#9aa4b2}.c3{color:#262c36}.c4{color:#56b4e9}.c5{color:#ff8a4c}\n"
    ".c6{color:#2ec4a0}.c7{color:#e79ac9}.c8{color:#e6c229}.c9{color:#a99cf5}.c10{color:#d0d0d0}.c11{color:#f08080}\n"
    "}\n";

// Pixels left of a plot and above it, its size, a line of text.
enum { SVG_LEFT = 56, SVG_TOP = 92, SVG_WIDTH = 400, SVG_HEIGHT = 330, SVG_LINE = 15 };

// By the column of a point: what --x calls it, heading of the panel, name of the axis; %s becomes k, M, G, ...
static const char* const svg_axes[4][3] = {{"steps", "At equal steps", "optimiser steps"},
                                           {"tokens", "At equal tokens", "training text (%stokens)"},
                                           {"flops", "At equal compute", "training compute (%sFLOP)"},
                                           {"seconds", "At equal time", "training time (seconds)"}};

typedef struct {
    int axis;
    double right, low, high;  // what lies at the right end, the bottom and the top of the plot
} SvgPanel;

static double svg_y(const SvgPanel* panel, double loss) {
    return fmax(-1e4, fmin(SVG_HEIGHT, (panel->high - loss) / (panel->high - panel->low) * SVG_HEIGHT));
}

static void svg_text(StringBuilder* sb, const char* classes, double x, double y, const char* text) {
    sb_printf(sb, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\">", classes, x, y);
    compare_escape(sb, text, "");
    sb_printf(sb, "</text>\n");
}

static void svg_points(StringBuilder* sb, const SvgPanel* panel, const CompareRow* row, int column, int backwards) {
    for (int k = 0; k < row->points; k++) {
        const double* p = row->at[backwards ? row->points - 1 - k : k];
        double x = p[panel->axis] / panel->right * SVG_WIDTH;
        sb_printf(sb, "%s%.1f %.1f", k || backwards ? "L" : "M", x, svg_y(panel, p[column]));
    }
}

// Steps of 1, 2 or 5 times a power of ten that cut a span into `wanted` parts or fewer.
static double svg_tick(double span, int wanted) {
    double least = span / wanted * (1 - 1e-9), power = pow(10, floor(log10(least)));
    return power * (least <= power ? 1 : least <= 2 * power ? 2 : least <= 5 * power ? 5 : 10);
}

// The grid with its numbers, and the names of panel and axis.
static void svg_grid(StringBuilder* sb, const SvgPanel* panel) {
    static const char* const prefixes[] = {"", "k", "M", "G", "T", "P", "E", "Z", "Y"};
    const char* const* names = svg_axes[panel->axis];
    double unit = 1;
    int prefix = 0;
    while (strchr(names[2], '%') && prefix < 8 && panel->right >= 2000 * unit) { unit *= 1000, prefix++; }
    svg_text(sb, "c1 bold", 0, -12, names[1]);
    svg_text(sb, "c2 middle", SVG_WIDTH / 2, SVG_HEIGHT + 40, format_string(names[2], prefixes[prefix]));
    for (int up = 0; up < 2; up++) {
        double low = up ? panel->low : 0, high = up ? panel->high : panel->right / unit;
        double step = svg_tick(high - low, up ? 10 : 6);
        int decimals = (int)fmax(0, ceil(-log10(step) - 1e-9));
        for (double k = ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) {
            double x = up ? 0 : k * step / high * SVG_WIDTH, y = up ? svg_y(panel, k * step) : 0;
            int length = up ? SVG_WIDTH : SVG_HEIGHT;
            sb_printf(sb, "<path class=\"c3\" d=\"M%.1f %.1f%s%d\"/>\n", x, y, up ? "h" : "v", length);
            char* label = format_string("%.*f", decimals, k * step + 0.0);  // + 0.0: never -0
            svg_text(sb, up ? "c2 end" : "c2 middle", up ? -8 : x, up ? y + 4 : SVG_HEIGHT + 18, label);
        }
    }
    sb_printf(sb, "<path class=\"c2\" d=\"M0 0v%dh%d\"/>\n", SVG_HEIGHT, SVG_WIDTH);
}

// The curves (an inner <svg> cuts them off at the border) and, where dotted lines carry their last losses, labels.
static void svg_rows(StringBuilder* sb, const SvgPanel* panel, const CompareRow* rows, int count) {
    int order[COMPARE_MAX_ROWS];  // from the highest last loss to the lowest, so that labels only need to go down
    for (int i = 0, k; i < count; i++) {
        for (k = i; k > 0 && rows[order[k - 1]].end[AT_LOSS] < rows[i].end[AT_LOSS]; k--) { order[k] = order[k - 1]; }
        order[k] = i;
    }
    double label = -SVG_LINE;
    for (int k = 0; k < count; k++) {
        const CompareRow* row = &rows[order[k]];
        double x = row->end[panel->axis] / panel->right * SVG_WIDTH, y = fmax(0, svg_y(panel, row->end[AT_LOSS]));
        label = fmin(fmax(y, label + SVG_LINE), SVG_HEIGHT - SVG_LINE * (count - 1 - k));  // room for those below
        sb_printf(sb, "<g class=\"c%d\">\n<svg width=\"%d\" height=\"%d\"><path class=\"band\" d=\"",
                  SVG_ROW + order[k] % SVG_ROWS, SVG_WIDTH + 2, SVG_HEIGHT);
        svg_points(sb, panel, row, AT_HIGH, 0);
        svg_points(sb, panel, row, AT_LOW, 1);
        sb_printf(sb, "z\"/>\n<path stroke-width=\"2.2\" d=\"");
        svg_points(sb, panel, row, AT_LOSS, 0);
        sb_printf(sb, "\"/></svg>\n<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"/>\n", x, y);
        sb_printf(sb, "<path class=\"dots\" d=\"M%.1f %.1fH%dl7 %.1f\"/>\n", x, y, SVG_WIDTH + 3, label - y);
        svg_text(sb, "label", SVG_WIDTH + 13, label + 4, format_string("%s %.3f", row->name, row->end[AT_LOSS]));
        sb_printf(sb, "</g>\n");
    }
}

static char* compare_svg(const CompareRow* rows, int count, const char* title, const int* axes, int axis_count) {
    SvgPanel panel = {0, 0, INFINITY, -INFINITY};
    int bytes = 1, seeds = 0, height = SVG_TOP + SVG_HEIGHT + 56;
    double gutter = 0, p[AT_COUNT];
    for (const CompareRow* row = rows; row < rows + count; row++) {
        gutter = fmax(gutter, 70 + 8 * (double)strlen(row->name));  // a letter has some 7 pixels
        bytes &= row->bytes;
        seeds |= row->seeds > 1;
        for (int i = 0; i < row->points; i++) { panel.low = fmin(panel.low, row->at[i][AT_LOW]); }
        // Losses fall steeply at first and differ little later: the upper end of the axis is where the slowest row is
        // after a tenth of its steps, so that the part that matters gets the room.
        compare_interpolate(row, AT_STEP, 0.9 * row->at[0][AT_STEP] + 0.1 * row->end[AT_STEP], p);
        panel.high = fmax(panel.high, p[AT_HIGH]);
    }
    double margin = fmax(0.06 * (panel.high - panel.low), 0.01 * fmax(1, fabs(panel.high)));
    panel.low -= margin, panel.high += margin;
    double each = SVG_LEFT + SVG_WIDTH + gutter, width = fmax(each * axis_count, SVG_LEFT + 12 * (double)strlen(title));
    StringBuilder sb = {0};
    sb_printf(&sb, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%d\" ", width, height);
    sb_printf(&sb, "viewBox=\"0 0 %.0f %d\" font-size=\"12\" font-family=\"system-ui, sans-serif\">\n", width, height);
    sb_printf(&sb, "<style>\n%s</style>\n<rect class=\"c0\" width=\"100%%\" height=\"100%%\"/>\n", svg_style);
    svg_text(&sb, "c1 bold title", SVG_LEFT, 30, title);
    char* note = format_string("Validation loss in nats per %s%s", bytes ? "byte" : "token",
                               seeds ? "; line: mean of the seeds, band: lowest to highest" : "");
    svg_text(&sb, "c2", SVG_LEFT, 52, note);
    for (int a = 0; a < axis_count; a++) {
        panel.axis = axes[a], panel.right = 1;
        for (int i = 0; i < count; i++) { panel.right = fmax(panel.right, rows[i].end[axes[a]]); }
        sb_printf(&sb, "<g transform=\"translate(%.1f %d)\">\n", a * each + SVG_LEFT, SVG_TOP);
        svg_grid(&sb, &panel);
        svg_rows(&sb, &panel, rows, count);
        sb_printf(&sb, "</g>\n");
    }
    sb_printf(&sb, "</svg>\n");
    return sb.data;
}

// ---- [4] main ----

static const char compare_usage[] =
    "usage: compare [--svg FILE] [--table FILE] [--title TEXT] [--x AXIS[,AXIS...]] NAME=DIR[,DIR...] ...\n\n"
    "Compares trainings by their validation losses. Each row is NAME=DIR, where DIR is the --out of a\n"
    "training; several directories, separated by commas, are seeds of one row.\n\n"
    "  --svg FILE     draw the curves\n"
    "  --table FILE   write the table as Markdown (as plain text it goes to stdout)\n"
    "  --title TEXT   of the picture; default: Validation loss\n"
    "  --x AXES       one panel for each of steps, tokens, flops, seconds; default: steps,flops\n"
    "  --help         print this\n";

// A name for tables and pictures: control characters, what is not UTF-8 and what XML forbids become '?'.
static char* compare_clean(const char* s) {
    char* out = format_string("%s", s);
    for (size_t i = 0, n = strlen(s), length; i < n; i += length) {
        int code = unicode_code(out + i, n - i, &length);
        int good = code >= 0x20 && (code < 0x7F || code >= 0xA0) && code != 0xFFFE && code != 0xFFFF;
        if (!good) { out[i] = '?', length = 1; }
    }
    return out;
}

static void compare_parse_row(CompareRow* rows, int count, const char* name, char* dirs) {
    if (count == COMPARE_MAX_ROWS) { die("more than %d rows: a picture of so many shows nothing", COMPARE_MAX_ROWS); }
    if (*name == 0 || dirs == NULL || *dirs == 0) { die("'%s': expected NAME=DIR[,DIR...]", name); }
    CompareRow* row = &rows[count];
    row->name = compare_clean(name);
    for (char* dir; (dir = strsep(&dirs, ",")) != NULL; row->dir[row->seeds++] = dir) {
        if (*dir == 0) { die("'%s': an empty directory name", name); }
        if (row->seeds == COMPARE_MAX_SEEDS) { die("'%s': more than %d directories", name, COMPARE_MAX_SEEDS); }
    }
    for (int i = 0; i < count; i++) {
        if (strcmp(rows[i].name, row->name) == 0) { die("two rows are named '%s'; commas separate seeds", row->name); }
    }
}

static void compare_write(const char* path, const char* text) {
    char* error = target_write(path, text, strlen(text));
    if (error) { die("%s", error); }
}

int MAIN(int argc, char** argv) {
    static const char* const names[] = {"--svg", "--table", "--title", "--x"};
    const char* values[] = {NULL, NULL, "Validation loss", "steps,flops"};
    CompareRow* rows = (CompareRow*)xalloc(COMPARE_MAX_ROWS, sizeof(CompareRow), "the rows");
    int count = 0, axis_count = 0, axes[COMPARE_MAX_PANELS];
    output_begin();
    for (int i = 1, k; i < argc; i++) {
        char* value = format_string("%s", argv[i]);
        const char* key = strsep(&value, "=");  // leaves what is behind it, or NULL
        if (strcmp(argv[i], "--help") == 0) {
            printf("%s", compare_usage);
            return output_end(0);
        }
        if (key[0] != '-') {
            compare_parse_row(rows, count++, key, value);
            continue;
        }
        for (k = 0; k < 4 && strcmp(key, names[k]) != 0; k++) {}
        if (k == 4) { die("unknown option '%s'\n%s", key, compare_usage); }
        if (value == NULL && i + 1 == argc) { die("%s needs a value", key); }
        values[k] = value ? value : argv[++i];
    }
    for (char *list = format_string("%s", values[3]), *word; (word = strsep(&list, ",")) != NULL; axis_count++) {
        int axis = 0;
        while (axis < 4 && strcmp(word, svg_axes[axis][0]) != 0) { axis++; }
        if (axis == 4 || axis_count == COMPARE_MAX_PANELS) {
            die("--x: '%s': expected up to 4 of steps, tokens, flops, seconds, separated by commas", values[3]);
        }
        axes[axis_count] = axis;
    }
    if (count == 0) { die("nothing to compare\n%s", compare_usage); }
    for (int i = 0; i < count; i++) {
        compare_read_row(&rows[i]);
        if (rows[i].vocabulary != rows[0].vocabulary) {
            warn("%s and %s have different vocabularies (%.0f and %.0f): their losses per token do not compare",
                 rows[0].name, rows[i].name, rows[0].vocabulary, rows[i].vocabulary);
        }
    }
    printf("%s", compare_tables(rows, count, NULL));
    if (values[1]) { compare_write(values[1], compare_tables(rows, count, "|\\`*_[]")); }
    if (values[0]) { compare_write(values[0], compare_svg(rows, count, compare_clean(values[2]), axes, axis_count)); }
    return output_end(0);
}

// compare.c - sets several trainings side by side: a picture of their loss curves and tables.
//
//   build/compare [--svg FILE] [--table FILE] [--title T] [--x AXIS[,AXIS]] NAME=DIR[,DIR...] ...
//   build/compare --flops-of DIR
//
// A row is NAME with one run directory per seed. Each directory holds metrics.jsonl (the losses) and a checkpoint,
// whose trainer_state.json says what a token cost and with what settings the run was made. A run that ponders costs
// several times the FLOPs of a plain one per token, so "at equal steps" and "at equal FLOPs" are different questions
// and may have different answers.
//
// compare_rows.h reads the rows, compare_tables.h writes tables of every row at its end and of those that meet at equal
// tokens or FLOPs, compare_picture.h draws an SVG with one panel per x axis; here is main.
#include "../base.h"

#include "compare_picture.h"
#include "compare_rows.h"
#include "compare_tables.h"

#ifndef MAIN
#define MAIN main
#endif

static const char compare_usage[] =
    "usage: compare [--svg FILE] [--table FILE] [--title TEXT] [--x AXIS[,AXIS...]] NAME=DIR[,DIR...] ...\n"
    "       compare --flops-of DIR\n\n"
    "Compares trainings by their validation losses. Each row is NAME=DIR, where DIR is the --out of a\n"
    "training; several directories, separated by commas, are seeds of one row.\n"
    "Rows stand in a table at equal tokens or FLOPs if they end within 1 % of each other, or were validated there.\n\n"
    "  --svg FILE     draw the curves\n"
    "  --table FILE   write the table as Markdown (as plain text it goes to stdout)\n"
    "  --title TEXT   of the picture; default: Validation loss\n"
    "  --x AXES       one panel for each of steps, tokens, flops, seconds; default: steps,flops, of one row steps\n"
    "  --flops-of DIR print the FLOPs of that finished training, for the --flops of another\n"
    "  --help         print this\n";

// 1 if the first n characters name the directory of a run.
static int compare_is_run(const char* s, size_t n) {
    char* metrics = format_string("%.*s/metrics.jsonl", (int)n, s);
    int there = n > 0 && access(metrics, F_OK) == 0;
    free(metrics);
    return there;
}

// Cuts the first directory off *list, which then begins behind a comma, or is NULL. A comma in a run's name is none.
static char* compare_cut(char** list) {
    char *piece = *list, *end = piece + strcspn(piece, ",");
    while (*end && !compare_is_run(piece, (size_t)(end - piece))) { end += 1 + strcspn(end + 1, ","); }
    if (*end == 0 && !compare_is_run(piece, strlen(piece))) { end = piece + strcspn(piece, ","); }
    *list = *end ? end + 1 : NULL;
    *end = 0;
    return piece;
}

// Splits NAME=DIR[,DIR...] at the first '=' that a run follows, else at the first. Returns what follows, or NULL.
static char* compare_split(char* argument) {
    char* first = strchr(argument, '=');
    for (char* equals = first; equals; equals = strchr(equals + 1, '=')) {
        char *list = format_string("%s", equals + 1), *rest = list;
        int there = compare_is_run(list, strlen(compare_cut(&rest)));
        free(list);
        if (there) { first = equals; }
        if (there) { break; }
    }
    if (first) { *first = 0; }
    return first ? first + 1 : NULL;
}

static void compare_parse_row(CompareRow* rows, int count, const char* name, char* dirs) {
    if (count == COMPARE_MAX_ROWS) { die("more than %d rows: a picture of so many shows nothing", COMPARE_MAX_ROWS); }
    if (*name == 0 || dirs == NULL || *dirs == 0) { die("'%s': expected NAME=DIR[,DIR...]", name); }
    CompareRow* row = &rows[count];
    row->name = compare_clean(name);
    while (dirs) {
        if (row->seeds == COMPARE_MAX_SEEDS) { die("'%s': more than %d directories", name, COMPARE_MAX_SEEDS); }
        row->dir[row->seeds++] = compare_cut(&dirs);
        if (row->dir[row->seeds - 1][0] == 0) { die("'%s': an empty directory name", name); }
    }
    for (int i = 0; i < count; i++) {
        if (strcmp(rows[i].name, row->name) == 0) { die("two rows are named '%s'; commas separate seeds", row->name); }
    }
}

static void compare_write(const char* path, const char* text) {
    char* error = target_write(path, text, strlen(text));
    if (error) { die("%s", error); }
}

// The FLOPs of a whole training.
static void compare_print_flops(const char* dir) {
    char* path = format_string("%s/trainer_state.json", compare_newest(dir));
    const Json* state = json_read(path);
    double step = compare_number(state, "step", 0, path), total = compare_number(state, "total_steps", 1, path);
    if (step < total) { die("%s: the training is at step %.0f of %.0f; go on with it first", dir, step, total); }
    printf("%.17g\n", compare_number(state, "flops", 1, path));
}

int MAIN(int argc, char** argv) {
    static const char* const names[] = {"--svg", "--table", "--title", "--x", "--flops-of"};
    const char* values[] = {NULL, NULL, "Validation loss", NULL, NULL};
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
            char* name = format_string("%s", argv[i]);
            value = compare_split(name);
            compare_parse_row(rows, count++, name, value);
            continue;
        }
        for (k = 0; k < 5 && strcmp(key, names[k]) != 0; k++) {}
        if (k == 5) { die("unknown option '%s'\n%s", key, compare_usage); }
        if (value == NULL && i + 1 == argc) { die("%s needs a value", key); }
        values[k] = value ? value : argv[++i];
    }
    if (values[4]) {
        if (count > 0 || values[0] || values[1] || values[3]) { die("--flops-of DIR stands alone\n%s", compare_usage); }
        compare_print_flops(values[4]);
        return output_end(0);
    }
    if (count == 0) { die("nothing to compare\n%s", compare_usage); }
    const char* wanted = values[3] ? values[3] : count > 1 ? "steps,flops" : "steps";
    for (char *list = format_string("%s", wanted), *word; (word = strsep(&list, ",")) != NULL; axis_count++) {
        int axis = 0;
        while (axis < 4 && strcmp(word, svg_axes[axis][0]) != 0) { axis++; }
        if (axis == 4 || axis_count == COMPARE_MAX_PANELS) {
            die("--x: '%s': expected up to 4 of steps, tokens, flops, seconds, separated by commas", wanted);
        }
        axes[axis_count] = axis;
    }
    for (int i = 0; i < count; i++) {
        compare_read_row(&rows[i]);
        if (i > 0) { compare_check_losses(&rows[0], &rows[i]); }
    }
    printf("%s", compare_tables(rows, count, NULL));
    if (values[1]) { compare_write(values[1], compare_tables(rows, count, "|\\`*_[]")); }
    if (values[0]) { compare_write(values[0], compare_svg(rows, count, compare_clean(values[2]), axes, axis_count)); }
    return output_end(0);
}

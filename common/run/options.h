// options.h - command-line options: one table makes the parser and the help.
//
// Options are long: `--name value` or `--name=value`; a flag takes no value. A later occurrence of
// an option replaces an earlier one (but of those that list texts), so that a script's arguments can be overridden by appending.
// Whatever is not understood whole is an error that names the option, the value and what is allowed.
#ifndef PONDER_OPTIONS_H
#define PONDER_OPTIONS_H

#include "../base.h"

typedef enum {
    OPTION_FLAG,    // given or not; with `values`, `--name=value` may say more (one of the choices)
    OPTION_INT,     // a whole number, 64 bits
    OPTION_NUMBER,  // a finite double
    OPTION_TEXT,    // anything
    OPTION_TEXTS,   // anything, and may be given several times: all of them count
    OPTION_CHOICE,  // one of `values`
} OptionType;

// What a resumed run may do with an option.
typedef enum {
    RESUME_FREE,   // stored; may differ, and then it is said
    RESUME_FIXED,  // stored; a different value is an error
    RESUME_RUN,    // belongs to one invocation: not stored
} OptionResume;

typedef struct {
    const char* group;  // heading in the help
    const char* name;   // without --
    OptionType type;
    const char* fallback;  // default, as text; NULL or "": unset
    const char* values;    // choices "cosine|linear|constant", or what to call the value: "N", "DIR"
    double min, max;       // of a number, both included; both 0: no limits; max INFINITY: only a lower one
    OptionResume resume;
    const char* help;
    // Filled in by the parser:
    int given;           // on the command line
    int set;             // given, restored, or with a default
    int chosen;          // the program has set it, where no value was given (when the run was started)
    int64_t integer;     // OPTION_INT, and 1 for a given OPTION_FLAG
    double number;       // OPTION_NUMBER and OPTION_INT
    const char* text;    // the value as it was written; NULL when unset
    const char** texts;  // (texts_count) OPTION_TEXTS: all values
    int texts_count;
} Option;

typedef struct {
    const char* usage;  // first lines of the help; may be NULL
    Option* rows;
    int count, capacity;
    // Options of other programs, by name alone, so that an error can say whose they are; which programs those are.
    const char** other_names;
    int other_count;
    const char* others;
} OptionTable;

// The limits of a number in words, "" if it has none; the caller frees it.
static inline char* option_limits(const Option* o) {
    if (o->type == OPTION_INT && o->min == 0 && o->max == 1) { return format_string("0 or 1"); }
    if (o->min == 0 && o->max == 0) { return format_string("%s", ""); }
    if (o->max == (double)INFINITY) { return format_string("at least %.15g", o->min); }
    return format_string("%.15g to %.15g", o->min, o->max);
}

// What is allowed, in words, for errors; the caller frees it.
static inline char* option_allowed(const Option* o) {
    const char* kind = o->type == OPTION_INT ? "a whole number" : "a number";
    char* limits = o->type == OPTION_INT || o->type == OPTION_NUMBER ? option_limits(o) : NULL;
    switch (o->type) {
        case OPTION_INT:
        case OPTION_NUMBER:
            if (limits[0] == 0) { return format_string("%s", kind); }
            return o->min == 0 && o->max == 1 && o->type == OPTION_INT ? limits : format_string("%s, %s", kind, limits);
        case OPTION_FLAG:
        case OPTION_CHOICE:
            if (o->type == OPTION_FLAG && !o->values) { return format_string("no value"); }
            {
                StringBuilder sb = {0};
                sb_printf(&sb, "one of ");
                for (const char* p = o->values; *p; p++) {
                    if (*p == '|') {
                        sb_printf(&sb, ", ");
                    } else {
                        sb_append(&sb, p, 1);
                    }
                }
                return sb.data;
            }
        case OPTION_TEXT:
        case OPTION_TEXTS: break;
    }
    return format_string("%s", o->values ? o->values : "text");
}

// 1 if `text` is one of the words of `values`, which are separated by '|'.
static inline int option_is_choice(const char* values, const char* text) {
    size_t n = strlen(text);
    for (const char* p = values; p;) {
        const char* end = strchr(p, '|');
        size_t length = end ? (size_t)(end - p) : strlen(p);
        if (length == n && memcmp(p, text, n) == 0) { return 1; }
        p = end ? end + 1 : NULL;
    }
    return 0;
}

// Gives the option a value, or dies. `source` says where the text comes from ("" : command line).
// The text must live as long as the table.
static inline void option_assign(Option* o, const char* text, const char* source) {
    int good = 1;
    const char* why = "";
    char* end = NULL;
    errno = 0;
    if (o->type == OPTION_INT) {
        // strtoll would skip blanks in front; strtod would also take hexadecimal, inf and nan.
        good = text[0] != 0 && strspn(text, "+-0123456789") == strlen(text);
        long long value = good ? strtoll(text, &end, 10) : 0;
        good = good && *end == 0 && end != text;
        if (good && errno == ERANGE) { good = 0, why = " (does not fit in 64 bits)"; }
        o->integer = (int64_t)value;
        o->number = (double)value;
    } else if (o->type == OPTION_NUMBER) {
        good = text[0] != 0 && strspn(text, "+-.eE0123456789") == strlen(text);
        double value = good ? strtod(text, &end) : 0;
        good = good && *end == 0 && end != text;
        if (good && (value - value != 0 || (errno == ERANGE && value == 0))) {
            good = 0, why = " (does not fit in a double)";
        }
        o->number = value;
    } else if (o->type == OPTION_CHOICE || (o->type == OPTION_FLAG && text[0])) {
        good = o->values && option_is_choice(o->values, text);
    }
    if (good && (o->type == OPTION_INT || o->type == OPTION_NUMBER) && !(o->min == 0 && o->max == 0)) {
        good = o->number >= o->min && o->number <= o->max;
    }
    if (!good) { die("%s--%s '%s'%s: expected %s", source, o->name, text, why, option_allowed(o)); }
    if (o->type == OPTION_FLAG) { o->integer = 1; }
    o->text = text;
    o->set = 1;
    if (o->type == OPTION_TEXTS) {
        const char** more = (const char**)xalloc((size_t)o->texts_count + 1, sizeof(char*), "the values of an option");
        for (int i = 0; i < o->texts_count; i++) { more[i] = o->texts[i]; }
        more[o->texts_count++] = text;
        free(o->texts);
        o->texts = more;
    }
}

// Appends rows (copied); defaults are parsed like values given.
static inline void options_add(OptionTable* table, const Option* rows, int count) {
    for (int i = 0; i < count; i++) {
        if (table->count == table->capacity) {
            int capacity = table->capacity ? 2 * table->capacity : 64;
            Option* more = (Option*)xalloc((size_t)capacity, sizeof(Option), "the option table");
            if (table->count) { memcpy(more, table->rows, (size_t)table->count * sizeof(Option)); }
            free(table->rows);
            table->rows = more;
            table->capacity = capacity;
        }
        for (int j = 0; j < table->count; j++) {
            if (strcmp(table->rows[j].name, rows[i].name) == 0) {
                die("option --%s stands in the table twice", rows[i].name);
            }
        }
        Option* o = &table->rows[table->count++];
        *o = rows[i];
        o->given = o->set = o->chosen = 0;
        o->integer = 0;
        o->number = 0;
        o->text = NULL;
        if (o->fallback && o->fallback[0]) { option_assign(o, o->fallback, "default of "); }
    }
}

// Appends rows that only some programs have: where this is none of them (here: 0) no more than their names.
static inline void options_add_if(int here, OptionTable* table, const Option* rows, int count) {
    if (here) {
        options_add(table, rows, count);
        return;
    }
    const char** names = (const char**)xalloc((size_t)(table->other_count + count), sizeof(char*), "names of options");
    for (int i = 0; i < table->other_count; i++) { names[i] = table->other_names[i]; }
    for (int i = 0; i < count; i++) { names[table->other_count++] = rows[i].name; }
    free((void*)table->other_names);
    table->other_names = names;
}

static inline Option* options_find(const OptionTable* table, const char* name) {
    for (int i = 0; i < table->count; i++) {
        if (strcmp(table->rows[i].name, name) == 0) { return &table->rows[i]; }
    }
    return NULL;
}

// The row of a name that the program itself uses: a name that is not there is a mistake in the program.
static inline Option* options_row(const OptionTable* table, const char* name) {
    Option* o = options_find(table, name);
    if (!o) { die("the program asks for an option --%s that its table does not have", name); }
    return o;
}

// 1 if the option stands on the command line.
static inline int options_given(const OptionTable* table, const char* name) { return options_row(table, name)->given; }

// 1 if the option has a value: given, restored from a checkpoint, or a default. (A flag: 1 if given.)
static inline int options_set(const OptionTable* table, const char* name) { return options_row(table, name)->set; }

static inline Option* options_value(const OptionTable* table, const char* name, int may_be_number) {
    Option* o = options_row(table, name);
    int is_number = o->type == OPTION_INT || (may_be_number && o->type == OPTION_NUMBER);
    if (!is_number) { die("the program reads option --%s as a number of the wrong kind", name); }
    if (!o->set) { die("the program reads option --%s, which has no value", name); }
    return o;
}
static inline int64_t options_int(const OptionTable* table, const char* name) {
    return options_value(table, name, 0)->integer;
}
static inline double options_number(const OptionTable* table, const char* name) {
    return options_value(table, name, 1)->number;
}

// The value as text (of any type), NULL when unset.
static inline const char* options_text(const OptionTable* table, const char* name) {
    return options_row(table, name)->text;
}

// Insertions, deletions and replacements that turn a into b (names of up to 63 characters).
static inline int option_distance(const char* a, const char* b) {
    int row[64];
    int na = (int)strlen(a), nb = (int)strlen(b);
    if (na > 63 || nb > 63) { return INT_MAX; }
    for (int j = 0; j <= nb; j++) { row[j] = j; }
    for (int i = 1; i <= na; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            int replaced = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            int inserted = 1 + (row[j - 1] < row[j] ? row[j - 1] : row[j]);
            row[j] = replaced < inserted ? replaced : inserted;
        }
    }
    return row[nb];
}

// The option whose name is most like `name`, NULL if none is alike.
static inline const Option* options_nearest(const OptionTable* table, const char* name) {
    const Option* best = NULL;
    int distance = 1 + (int)min_size(strlen(name) / 2, 4);  // anything further is no help
    for (int i = 0; i < table->count; i++) {
        int d = option_distance(name, table->rows[i].name);
        if (d < distance) { best = &table->rows[i], distance = d; }
    }
    for (int i = 0; i < table->count && !best; i++) {
        if (strncmp(name, table->rows[i].name, strlen(name)) == 0 && name[0]) { best = &table->rows[i]; }
    }
    return best;
}

// Dies on a name that the table does not have.
__attribute__((noreturn)) static inline void options_unknown(const OptionTable* table, const char* name) {
    for (int i = 0; i < table->other_count; i++) {
        if (strcmp(table->other_names[i], name) == 0) {
            die("--%s is an option of %s", name, table->others ? table->others : "another program");
        }
    }
    const Option* nearest = options_nearest(table, name);
    if (nearest) { die("unknown option --%s; did you mean --%s? (--help lists all)", name, nearest->name); }
    die("unknown option --%s; --help lists all options", name);
}

// Parses the arguments into the table; dies on the first that is not understood.
static inline void options_parse(OptionTable* table, int argc, char** argv) {
    for (int i = 1; i < argc; i++) {
        const char* argument = argv[i];
        if (strcmp(argument, "-h") == 0 && options_find(table, "help")) { argument = "--help"; }
        if (strncmp(argument, "--", 2) != 0 || argument[2] == 0) {
            die("stray argument '%s': expected --name value or --name=value%s", argument,
                argument[0] == '-' ? " (names have two dashes)" : "; a value with blanks needs quotes");
        }
        const char* equals = strchr(argument, '=');
        size_t length = equals ? (size_t)(equals - argument - 2) : strlen(argument + 2);
        char* name = format_string("%.*s", (int)min_size(length, 1000), argument + 2);
        Option* o = options_find(table, name);
        if (!o) { options_unknown(table, name); }
        free(name);
        if (o->type == OPTION_FLAG) {
            if (equals && (!o->values || !equals[1])) {
                die("--%s '%s': expected %s", o->name, equals + 1, option_allowed(o));
            }
            option_assign(o, equals ? equals + 1 : "", "");
        } else if (equals) {
            option_assign(o, equals + 1, "");
        } else if (i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0) {
            option_assign(o, argv[++i], "");
        } else {
            die("--%s needs a value: %s%s", o->name, option_allowed(o),
                i + 1 < argc && o->type == OPTION_TEXT ? " (write one that begins with -- as --name=value)" : "");
        }
        o->given = 1;
    }
}

// Prints words from `column` on, wrapped at 100 columns; the cursor stands at `at` already.
static inline void options_wrap(FILE* file, const char* words, int column, int at) {
    enum { WIDTH = 100 };
    int first = 1;
    while (*words) {
        int n = (int)strcspn(words, " ");
        if (!first && at + 1 + n > WIDTH) {
            fprintf(file, "\n%*s", column, "");
            at = column;
            first = 1;
        }
        fprintf(file, "%s%.*s", first ? "" : " ", n, words);
        at += n + !first;
        first = 0;
        words += n + strspn(words + n, " ");
    }
    fprintf(file, "\n");
}

// The value that the program chooses for an option which has none.
static inline void option_choose(Option* o, int64_t value, const char* source) {
    option_assign(o, format_string("%lld", (long long)value), source);
    o->chosen = 1;
}

// The help: options by group, with defaults and what is allowed.
static inline void options_help(const OptionTable* table, FILE* file) {
    enum { COLUMN = 32 };
    if (table->usage) { fprintf(file, "%s\n", table->usage); }
    for (int g = 0; g < table->count; g++) {
        const char* group = table->rows[g].group;
        int seen = 0;
        for (int i = 0; i < g; i++) { seen |= strcmp(table->rows[i].group, group) == 0; }
        if (seen) { continue; }
        fprintf(file, "\n%s\n", group);
        for (int i = g; i < table->count; i++) {
            const Option* o = &table->rows[i];
            if (strcmp(o->group, group) != 0) { continue; }
            const char* value = o->values                ? o->values
                                : o->type == OPTION_FLAG ? ""
                                : o->type == OPTION_TEXT ? "TEXT"
                                                         : "N";
            char* left = o->type == OPTION_FLAG ? format_string(o->values ? "  --%s[=%s]" : "  --%s%s", o->name, value)
                                                : format_string("  --%s %s", o->name, value);
            StringBuilder right = {0};
            sb_printf(&right, "%s", o->help);
            // The choices of CHOICE and 0|1 stand on the left already, and a limit beyond a million tells nobody anything.
            int number = o->type == OPTION_INT || o->type == OPTION_NUMBER;
            Option shown = *o;
            if (shown.max >= 1e6) { shown.max = (double)INFINITY; }
            int obvious = !number || (o->values && strcmp(o->values, "0|1") == 0);
            char* limits = obvious ? format_string("%s", "") : option_limits(&shown);
            if (o->fallback && o->fallback[0]) {
                sb_printf(&right, " (default %s%s%s)", o->fallback, limits[0] ? "; " : "", limits);
            } else if (limits[0]) {
                sb_printf(&right, " (%s)", limits);
            }
            fprintf(file, "%s", left);
            int at = (int)strlen(left);
            if (at + 2 > COLUMN) {
                fprintf(file, "\n");
                at = 0;
            }
            fprintf(file, "%*s", COLUMN - at, "");
            options_wrap(file, right.data, COLUMN, COLUMN);
            free(left);
            free(right.data);
            free(limits);
        }
    }
}

#endif

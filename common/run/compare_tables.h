// compare_tables.h - the tables of build/compare: rows at their ends, at equal tokens and at equal FLOPs, settings.
//
// Nothing is interpolated. At equal tokens or FLOPs stand rows that end there, each at the end of its own schedule,
// and, where there is no such pair, longer rows that were validated there, which the table then calls mid-schedule.
#ifndef PONDER_COMPARE_TABLES_H
#define PONDER_COMPARE_TABLES_H

#include "../files/words.h"
#include "../mathfun.h"
#include "compare_rows.h"

// Two amounts are equal if they differ by no more than this share.
#define COMPARE_EQUAL 0.01

static int compare_near(double a, double x) { return fabs(a - x) <= COMPARE_EQUAL * x; }

// ---- which rows meet where ----

typedef struct {
    int axis;                            // AT_TOKENS or AT_FLOPS
    double x;                            // the amount: that of the first row that ends there
    int enders;                          // rows that end there, as bits
    int longer;                          // rows that go on beyond it and end beside no other on this axis
    int hidden;                          // 1: another meeting has all its rows
    const double* at[COMPARE_MAX_ROWS];  // of both: the point there, NULL where there was no validation
} CompareMeeting;

static int compare_bits(int mask) {
    int n = 0;
    for (; mask; mask &= mask - 1) { n++; }
    return n;
}

// 1 if another row ends its schedule at the same x. At equal FLOPs that says something where a token's FLOPs differ.
static int compare_has_peer(const CompareRow* rows, int count, int i, int axis) {
    for (int j = 0; j < count; j++) {
        int differ = axis == AT_TOKENS || rows[i].flops_per_token != rows[j].flops_per_token;
        int ended = compare_ended(&rows[i]) && compare_ended(&rows[j]);
        if (j != i && ended && differ && compare_near(rows[j].end[axis], rows[i].end[axis])) { return 1; }
    }
    return 0;
}

// The validated point of the row nearest to x, NULL if it is not near.
static const double* compare_at(const CompareRow* row, int axis, double x) {
    const double* best = row->at[0];
    for (int i = 1; i < row->points; i++) {
        if (fabs(row->at[i][axis] - x) < fabs(best[axis] - x)) { best = row->at[i]; }
    }
    return compare_near(best[axis], x) ? best : NULL;
}

// Every meeting (at most 2 * count) of two rows or more; returns how many.
static int compare_meetings(const CompareRow* rows, int count, CompareMeeting* meetings) {
    int n = 0, costs = 0;
    for (int i = 0; i < count; i++) { costs |= rows[i].flops_per_token != rows[0].flops_per_token; }
    for (int k = 0; k < (costs ? 2 * count : count); k++) {
        CompareMeeting* m = &meetings[n];
        int i = k % count, met = 0;
        memset(m, 0, sizeof *m);
        m->axis = k < count ? AT_TOKENS : AT_FLOPS, m->x = rows[i].end[m->axis];
        for (int j = 0; j < i; j++) { met |= compare_near(m->x, rows[j].end[m->axis]); }
        for (int j = 0; j < count && !met; j++) {
            double x = rows[j].end[m->axis];
            if (compare_near(x, m->x)) {
                m->enders |= 1 << j, m->at[j] = rows[j].end;
            } else if (x > m->x && !compare_has_peer(rows, count, j, m->axis) &&
                       !(m->axis == AT_TOKENS && compare_has_peer(rows, count, j, AT_FLOPS))) {
                m->longer |= 1 << j, m->at[j] = compare_at(&rows[j], m->axis, m->x);
            }
        }
        n += compare_bits(m->enders | m->longer) > 1;
    }
    for (int a = 0; a < n; a++) {
        for (int b = 0; b < n && !meetings[a].longer; b++) {
            int inside = (meetings[a].enders & ~meetings[b].enders) == 0,
                same = meetings[a].enders == meetings[b].enders;
            meetings[a].hidden |= a != b && inside && (!same || b < a);
        }
    }
    return n;
}

// ---- cells: first with tabs between them (names have none), then laid out in columns ----

// A text for tables and pictures: control characters, what is not UTF-8 and what XML forbids become '?'.
static char* compare_clean(const char* s) {
    char* out = format_string("%s", s);
    for (size_t i = 0, n = strlen(s), length; i < n; i += length) {
        int code = unicode_code(out + i, n - i, &length);
        int good = code >= 0x20 && (code < 0x7F || code >= 0xA0) && code != 0xFFFE && code != 0xFFFF;
        if (!good) { out[i] = '?', length = 1; }
    }
    return out;
}

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
    int width[COMPARE_MAX_ROWS + 1], column = 0, n = 0, header = 1;
    for (int i = 0; i <= COMPARE_MAX_ROWS; i++) { width[i] = 3; }
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

// A further cell: where in the row's schedule a point is.
static void compare_place(StringBuilder* sb, const CompareRow* row, const double* p) {
    double share = p[AT_LR] / row->peak;
    sb_printf(sb, "\t");
    if (p[AT_STEP] >= row->total_steps) {
        sb_printf(sb, "at its end");
    } else {
        sb_printf(sb, "step %.0f of %.0f", p[AT_STEP], row->total_steps);
        if (isfinite(share)) { sb_printf(sb, ", lr at %.2f of its peak", share); }
    }
}

// What the rows (bits) differ in of those settings that a fair comparison shares, "" for nothing.
static char* compare_unlike(const CompareRow* rows, int count, int bits) {
    static const char* const keys[] = {"shards", "total_batch", "seed"};
    StringBuilder sb = {0};
    sb_append(&sb, "", 0);
    for (int k = 0; k < SETTINGS_OF_STATE; k++) {
        const CompareSetting* setting = &compare_of_state[k];
        int unlike = 0, first = -1, counts = 0;
        for (int j = 0; j < 3; j++) { counts |= strcmp(keys[j], setting->key) == 0; }
        for (int i = 0; i < count && counts; i++) {
            if (!(bits >> i & 1)) { continue; }
            if (first < 0) { first = i; }
            const CompareRow *a = &rows[first], *b = &rows[i];
            unlike |= a->seeds != b->seeds && strcmp(setting->key, "seed") == 0;
            for (int s = 0; s < a->seeds && s < b->seeds; s++) {
                unlike |=
                    !compare_same_text(compare_setting(a->state[s], setting), compare_setting(b->state[s], setting));
            }
        }
        if (unlike) { sb_printf(&sb, "%s%s", sb.size ? ", " : "", setting->label); }
    }
    return sb.data;
}

// Why the longer row has no loss at the meeting, and what would give one.
static void compare_refuse(StringBuilder* sb, const CompareRow* row, const CompareMeeting* m, const char* marks) {
    const double *before = NULL, *after = NULL;
    for (int i = row->points - 1; i >= 0; i--) {
        if (row->at[i][m->axis] > m->x) { after = row->at[i]; }
    }
    for (int i = 0; i < row->points; i++) {
        if (row->at[i][m->axis] < m->x) { before = row->at[i]; }
    }
    sb_printf(sb, "\n");
    compare_escape(sb, row->name, marks);
    sb_printf(sb, " has no validation within 1 %% of %s ", m->axis == AT_TOKENS ? "these tokens" : "these FLOPs");
    if (before) {
        sb_printf(sb, "(between step %.0f and step %.0f)", before[AT_STEP], after[AT_STEP]);
    } else {
        sb_printf(sb, "(before step %.0f)", after[AT_STEP]);
    }
    if (m->axis == AT_FLOPS) {
        sb_printf(sb, ": train a run of this length, with --flops %.15g.\n", m->x);
    } else {
        sb_printf(sb, ": train a run of this length, with --steps %.0f.\n", m->x / row->tokens_per_step);
    }
}

// One table; returns 1 if it holds losses from the middle of a schedule.
static int compare_meeting(StringBuilder* sb, const CompareRow* rows, int count, const CompareMeeting* m,
                           const char* marks) {
    StringBuilder t = {0};
    int bits = m->enders | m->longer, first = -1, middle = 0, missing = 0, same_steps = 1;
    char* unlike = compare_unlike(rows, count, bits);
    for (int i = 0; i < count; i++) {
        if (!(bits >> i & 1)) { continue; }
        if (first < 0 && m->at[i]) { first = i; }
        same_steps &= m->at[i] && m->at[first] && m->at[i][AT_STEP] == m->at[first][AT_STEP];
        missing |= !m->at[i];
        middle |= m->at[i] && m->at[i][AT_STEP] < rows[i].total_steps;
    }
    int steps = m->axis == AT_TOKENS && same_steps && !*unlike;
    sb_printf(sb, "\nAt equal %s", steps ? "steps" : m->axis == AT_TOKENS ? "tokens" : "FLOPs");
    const char* ends = middle    ? ", not all at the end of their schedule"
                       : missing ? ""
                                 : ", each at the end of its own schedule";
    sb_printf(sb, "%s:\n\n", ends);
    sb_printf(&t, "run\tsteps\t%s\tvalidation loss\tminus ", m->axis == AT_TOKENS ? "tokens" : "FLOPs");
    compare_escape(&t, rows[first].name, marks);
    sb_printf(&t, "\tin its schedule\n");
    for (int i = 0; i < count; i++) {
        const double* p = m->at[i];
        if (!(bits >> i & 1)) { continue; }
        compare_escape(&t, rows[i].name, marks);
        if (!p) {
            sb_printf(&t, "\t-\t-\t-\t-\t-\n");
            continue;
        }
        compare_whole(&t, p[AT_STEP]);
        if (m->axis == AT_TOKENS) { compare_whole(&t, p[AT_TOKENS]); }
        if (m->axis == AT_FLOPS) { sb_printf(&t, "\t%.3e", p[AT_FLOPS]); }
        compare_spread(&t, p, rows[i].seeds);
        sb_printf(&t, i == first ? "\t" : "\t%+.4f", p[AT_LOSS] - m->at[first][AT_LOSS]);
        compare_place(&t, &rows[i], p);
        sb_printf(&t, "\n");
    }
    compare_layout(sb, t.data, 0, marks != NULL);
    if (*unlike) { sb_printf(sb, "\nThese rows differ in: %s.\n", unlike); }
    for (int i = 0; i < count; i++) {
        if ((bits >> i & 1) && !m->at[i]) { compare_refuse(sb, &rows[i], m, marks); }
    }
    return middle;
}

// Every setting that not all rows share, one a line.
static void compare_differences(StringBuilder* sb, const CompareRow* rows, int count, const char* marks) {
    const Json* states[COMPARE_MAX_ROWS];
    StringBuilder t = {0};
    int n = 0, lines = 0;
    for (int i = 0; i < count; i++) { states[i] = rows[i].state[0]; }
    CompareSetting* list = compare_settings(states, count, &n);
    sb_printf(&t, "setting");
    for (int i = 0; i < count; i++) {
        sb_printf(&t, "\t");
        compare_escape(&t, rows[i].name, marks);
    }
    sb_printf(&t, "\n");
    for (int k = 0; k < n; k++) {
        int differ = 0;
        for (int i = 1; i < count; i++) {
            differ |= !compare_same_text(compare_setting(states[0], &list[k]), compare_setting(states[i], &list[k]));
        }
        if (!differ) { continue; }
        sb_printf(&t, "%s", list[k].label);
        for (int i = 0; i < count; i++) {
            char* text = compare_clean(compare_setting(states[i], &list[k]));
            sb_printf(&t, "\t");
            compare_escape(&t, text, marks);
            free(text);
        }
        sb_printf(&t, "\n");
        lines++;
    }
    if (lines) {
        sb_printf(sb, "\nWhat the rows differ in:\n\n");
        compare_layout(sb, t.data, 0, marks != NULL);
    }
    free(list);
}

// All tables, one below the other. With marks (see compare_escape) they are Markdown.
static char* compare_tables(const CompareRow* rows, int count, const char* marks) {
    StringBuilder sb = {0}, t = {0};
    int bytes = 0, seeds = 0;
    for (int i = 0; i < count; i++) {
        bytes |= rows[i].bytes;
        seeds |= rows[i].seeds > 1;
    }
    sb_printf(
        &t, "run\t%sparameters\tsteps\ttokens\tvalidation loss\t%sloss of each pass\tFLOPs\tseconds\tin its schedule\n",
        seeds ? "seeds\t" : "", bytes ? "bits per byte\t" : "");
    for (const CompareRow* row = rows; row < rows + count; row++) {
        compare_escape(&t, row->name, marks);
        if (seeds) { sb_printf(&t, "\t%d", row->seeds); }
        compare_whole(&t, row->parameters);
        compare_whole(&t, row->end[AT_STEP]);
        compare_whole(&t, row->end[AT_TOKENS]);
        compare_spread(&t, row->end, row->seeds);
        if (bytes && row->bytes) { sb_printf(&t, "\t%.4f", row->end[AT_LOSS] / log_d(2)); }
        if (bytes && !row->bytes) { sb_printf(&t, "\t-"); }
        for (int s = 0; s < row->passes; s++) { sb_printf(&t, "%s%.4f", s ? " " : "\t", row->end[AT_PASS + s]); }
        sb_printf(&t, "%s\t%.3e\t%.1f", row->passes ? "" : "\t-", row->end[AT_FLOPS], row->end[AT_SECONDS]);
        compare_place(&t, row, row->end);
        sb_printf(&t, "\n");
    }
    compare_layout(&sb, t.data, 0, marks != NULL);
    if (seeds) { sb_printf(&sb, "\nLosses are means over the seeds, with (lowest..highest).\n"); }
    CompareMeeting meetings[2 * COMPARE_MAX_ROWS];
    int n = compare_meetings(rows, count, meetings), middle = 0;
    for (int i = 0; i < n; i++) {
        if (!meetings[i].hidden) { middle |= compare_meeting(&sb, rows, count, &meetings[i], marks); }
    }
    if (middle) {
        sb_printf(&sb, "\nA loss in the middle of a schedule is not what a run of that length reaches by its own.\n");
    }
    if (count > 1) { compare_differences(&sb, rows, count, marks); }
    return sb.data;
}

#endif

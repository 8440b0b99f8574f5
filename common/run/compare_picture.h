// compare_picture.h - the picture of build/compare: an SVG with one panel per x axis, every validation a mark.
//
// At equal steps or compute a panel shows the rows that the tables set side by side there; a row that no table sets
// beside another stands in all of them.
#ifndef PONDER_COMPARE_PICTURE_H
#define PONDER_COMPARE_PICTURE_H

#include "compare_rows.h"
#include "compare_tables.h"

// Colours by day and by night: c0 background, c1 ink, c2 lighter ink, c3 grid, c4.. rows. These differ in lightness and
// hue for colour-blind eyes; text is drawn in them, so they have a contrast of 4.5 : 1.
enum { SVG_ROW = 4, SVG_ROWS = 8 };
static const char svg_style[] =
    "text, rect, circle { fill: currentColor } path { fill: none; stroke: currentColor }\n"
    ".band { fill: currentColor; fill-opacity: 0.18; stroke: none } .dots { stroke-dasharray: 2 3 }\n"
    ".marks { stroke-linecap: round }\n"
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
    int axis, rows;           // the rows as bits
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

// 1 if marks stand so close that thick ones would hide the line.
static int svg_many(const CompareRow* row) { return row->points > 40; }

// A round mark at every validation: a line of no length with round ends.
static void svg_marks(StringBuilder* sb, const SvgPanel* panel, const CompareRow* row) {
    sb_printf(sb, "<path class=\"marks\" stroke-width=\"%s\" d=\"", svg_many(row) ? "3.4" : "5.6");
    for (int k = 0; k < row->points; k++) {
        const double* p = row->at[k];
        sb_printf(sb, "M%.1f %.1fh0", p[panel->axis] / panel->right * SVG_WIDTH, svg_y(panel, p[AT_LOSS]));
    }
    sb_printf(sb, "\"/>");
}

// Steps of 1, 2 or 5 times a power of ten that cut a span into `wanted` parts or fewer.
static double svg_tick(double span, int wanted) {
    double least = span / wanted * (1 - 1e-9), power = 1;
    while (power > least) { power /= 10; }
    while (power * 10 <= least) { power *= 10; }
    return power * (least <= power ? 1 : least <= 2 * power ? 2 : least <= 5 * power ? 5 : 10);
}

// The grid with its numbers, and the names of panel and axis.
static void svg_grid(StringBuilder* sb, const SvgPanel* panel) {
    static const char* const prefixes[] = {"", "k", "M", "G", "T", "P", "E", "Z", "Y"};
    const char* const* names = svg_axes[panel->axis];
    double unit = 1;
    int prefix = 0;
    while (strchr(names[2], '%') && prefix < 8 && panel->right >= 2000 * unit) { unit *= 1000, prefix++; }
    if (compare_bits(panel->rows) > 1) { svg_text(sb, "c1 bold", 0, -12, names[1]); }
    svg_text(sb, "c2 middle", SVG_WIDTH / 2, SVG_HEIGHT + 40, format_string(names[2], prefixes[prefix]));
    for (int up = 0; up < 2; up++) {
        double low = up ? panel->low : 0, high = up ? panel->high : panel->right / unit;
        double step = svg_tick(high - low, up ? 10 : 6);
        int decimals = 0;
        for (double rest = step; rest < 1 - 1e-9; rest *= 10) { decimals++; }
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
    int order[COMPARE_MAX_ROWS], n = 0;  // from the highest last loss to the lowest: labels only need to go down
    for (int i = 0, k; i < count; i++) {
        if (!(panel->rows >> i & 1)) { continue; }
        for (k = n++; k > 0 && rows[order[k - 1]].end[AT_LOSS] < rows[i].end[AT_LOSS]; k--) { order[k] = order[k - 1]; }
        order[k] = i;
    }
    double label = -SVG_LINE;
    for (int k = 0; k < n; k++) {
        const CompareRow* row = &rows[order[k]];
        double x = row->end[panel->axis] / panel->right * SVG_WIDTH, y = fmax(0, svg_y(panel, row->end[AT_LOSS]));
        label = fmin(fmax(y, label + SVG_LINE), SVG_HEIGHT - SVG_LINE * (n - 1 - k));  // room for those below
        sb_printf(sb, "<g class=\"c%d\">\n<svg width=\"%d\" height=\"%d\"><path class=\"band\" d=\"",
                  SVG_ROW + row->colour, SVG_WIDTH + 2, SVG_HEIGHT);
        svg_points(sb, panel, row, AT_HIGH, 0);
        svg_points(sb, panel, row, AT_LOW, 1);
        sb_printf(sb, "z\"/>\n<path stroke-width=\"%s\" d=\"", svg_many(row) ? "1.6" : "2.2");
        svg_points(sb, panel, row, AT_LOSS, 0);
        sb_printf(sb, "\"/>");
        svg_marks(sb, panel, row);
        sb_printf(sb, "</svg>\n<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"/>\n", x, y);
        sb_printf(sb, "<path class=\"dots\" d=\"M%.1f %.1fH%dl7 %.1f\"/>\n", x, y, SVG_WIDTH + 3, label - y);
        svg_text(sb, "label", SVG_WIDTH + 13, label + 4, format_string("%s %.3f", row->name, row->end[AT_LOSS]));
        sb_printf(sb, "</g>\n");
    }
}

// Which rows each panel shows, = panels[a].rows.
static void svg_share(SvgPanel* panels, int axis_count, const CompareRow* rows, int count) {
    CompareMeeting meetings[2 * COMPARE_MAX_ROWS];
    int n = compare_meetings(rows, count, meetings), shown = 0;
    for (int a = 0; a < axis_count; a++) {
        int axis = panels[a].axis == AT_STEP ? AT_TOKENS : panels[a].axis;
        for (int i = 0; i < n; i++) {
            if (!meetings[i].hidden && !meetings[i].longer && meetings[i].axis == axis) {
                panels[a].rows |= meetings[i].enders;
            }
        }
        shown |= panels[a].rows;
    }
    for (int a = 0; a < axis_count; a++) {
        panels[a].rows |=
            panels[a].axis == AT_SECONDS || panels[a].rows == 0 ? (1 << count) - 1 : ((1 << count) - 1) & ~shown;
    }
}

// 1 if two rows are one model and training, of different length.
static int svg_kin(const CompareRow* a, const CompareRow* b) {
    const Json* states[2] = {a->state[0], b->state[0]};
    int n = 0, kin = a->total_steps != b->total_steps && a->flops_per_token == b->flops_per_token;
    CompareSetting* list = compare_settings(states, 2, &n);
    for (int k = 0; k < n; k++) {
        int length = strcmp(list[k].key, "total_steps") == 0 || strcmp(list[k].key, "seed") == 0;
        kin &= length || compare_same_text(compare_setting(states[0], &list[k]), compare_setting(states[1], &list[k]));
    }
    free(list);
    return kin;
}

// A colour for each row: that of an earlier one where it is the same of another length, and no panel shows both.
static void svg_colour(CompareRow* rows, int count, const SvgPanel* panels, int axis_count) {
    int used = 0;
    for (int i = 0; i < count; i++) {
        rows[i].colour = -1;
        for (int j = 0; j < i && rows[i].colour < 0; j++) {
            int together = 0;
            for (int a = 0; a < axis_count; a++) { together |= panels[a].rows >> i & panels[a].rows >> j & 1; }
            if (!together && svg_kin(&rows[i], &rows[j])) { rows[i].colour = rows[j].colour; }
        }
        if (rows[i].colour < 0) { rows[i].colour = used++ % SVG_ROWS; }
    }
}

// The loss of the row after a tenth of its steps, by a line through its points: an axis may be drawn by it.
static double svg_early(const CompareRow* row) {
    double x = 0.9 * row->at[0][AT_STEP] + 0.1 * row->end[AT_STEP];
    int i = 0;
    while (i < row->points - 1 && row->at[i][AT_STEP] < x) { i++; }
    const double *right = row->at[i], *left = row->at[i > 0 ? i - 1 : 0];
    double span = right[AT_STEP] - left[AT_STEP], share = span > 0 ? (x - left[AT_STEP]) / span : 0;
    return left[AT_HIGH] + (right[AT_HIGH] - left[AT_HIGH]) * share;
}

static char* compare_svg(CompareRow* rows, int count, const char* title, const int* axes, int axis_count) {
    SvgPanel panels[COMPARE_MAX_PANELS] = {{0, 0, 0, 0, 0}};
    double low = INFINITY, high = -INFINITY;
    int bytes = 1, seeds = 0, height = SVG_TOP + SVG_HEIGHT + 56;
    double gutter = 0;
    for (const CompareRow* row = rows; row < rows + count; row++) {
        gutter = fmax(gutter, 70 + 8 * (double)strlen(row->name));  // a letter has some 7 pixels
        bytes &= row->bytes;
        seeds |= row->seeds > 1;
        for (int i = 0; i < row->points; i++) { low = fmin(low, row->at[i][AT_LOW]); }
        // Losses fall steeply at first and differ little later: the upper end of the axis is where the slowest row is
        // after a tenth of its steps, so that the part that matters gets the room.
        high = fmax(high, svg_early(row));
    }
    double margin = fmax(0.06 * (high - low), 0.01 * fmax(1, fabs(high)));
    for (int a = 0; a < axis_count; a++) { panels[a].axis = axes[a]; }
    svg_share(panels, axis_count, rows, count);
    svg_colour(rows, count, panels, axis_count);
    double each = SVG_LEFT + SVG_WIDTH + gutter, width = fmax(each * axis_count, SVG_LEFT + 12 * (double)strlen(title));
    StringBuilder sb = {0};
    sb_printf(&sb, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%d\" ", width, height);
    sb_printf(&sb, "viewBox=\"0 0 %.0f %d\" font-size=\"12\" font-family=\"system-ui, sans-serif\">\n", width, height);
    sb_printf(&sb, "<style>\n%s</style>\n<rect class=\"c0\" width=\"100%%\" height=\"100%%\"/>\n", svg_style);
    svg_text(&sb, "c1 bold title", SVG_LEFT, 30, title);
    char* note = format_string("Validation loss in nats per %s; a mark is a validation%s", bytes ? "byte" : "token",
                               seeds ? "; line: mean of the seeds, band: lowest to highest" : "");
    svg_text(&sb, "c2", SVG_LEFT, 52, note);
    for (int a = 0; a < axis_count; a++) {
        SvgPanel* panel = &panels[a];
        panel->low = low - margin, panel->high = high + margin, panel->right = 0;
        for (int i = 0; i < count; i++) {
            if (panel->rows >> i & 1) { panel->right = fmax(panel->right, rows[i].end[axes[a]]); }
        }
        if (panel->right == 0) { panel->right = 1; }
        sb_printf(&sb, "<g transform=\"translate(%.1f %d)\">\n", a * each + SVG_LEFT, SVG_TOP);
        svg_grid(&sb, panel);
        svg_rows(&sb, panel, rows, count);
        sb_printf(&sb, "</g>\n");
    }
    sb_printf(&sb, "</svg>\n");
    return sb.data;
}

#endif

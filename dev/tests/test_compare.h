// test_compare.h - tests of common/run/compare.c: numbers worked out by hand, pictures, bad input.
#ifndef PONDER_TEST_COMPARE_H
#define PONDER_TEST_COMPARE_H

#include "test.h"

#undef MAIN
#define MAIN compare_main
#include "../../common/run/compare.c"
#undef MAIN

// ---- run directories, made by hand under one temporary directory ----

static char* compare_root;  // of the running test

static void compare_setup(void) {
    const char* tmp = getenv("TMPDIR");
    compare_root = format_string("%s/compare.XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (mkdtemp(compare_root) == NULL) { die("%s: %s", compare_root, strerror(errno)); }
}

static void compare_remove(const char* path) {
    DIR* dir = opendir(path);
    if (dir == NULL) {
        unlink(path);
        return;
    }
    for (struct dirent* entry; (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) { continue; }
        char* child = format_string("%s/%s", path, entry->d_name);
        compare_remove(child);
        free(child);
    }
    closedir(dir);
    rmdir(path);
}

static void compare_teardown(void) {
    compare_remove(compare_root);
    free(compare_root);
    compare_root = NULL;
}

static void compare_put(const char* path, const char* text) {
    char* full = format_string("%s/%s", compare_root, path);
    for (char* slash = full + strlen(compare_root) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = 0;
        mkdir(full, 0777);
        *slash = '/';
    }
    compare_write_file(full, text);
    free(full);
}

static char* compare_get(const char* name) {
    char* path = format_string("%s/%s", compare_root, name);
    size_t size = 0;
    char* text = compare_read_file(path, &size, "Expected a file that was just written");
    free(path);
    return text;
}

// A whole checkpoint: step `step`, 100 tokens a step.
static void compare_put_checkpoint(const char* run, int step, const char* parameters, const char* flops_per_token,
                                   int vocabulary) {
    static const char* const files[] = {"trainer_state.json", "config.json", "model.safetensors",
                                        "optimizer.safetensors"};
    for (int i = 0; i < 4; i++) {
        char* path = format_string("%s/step_%08d/%s", run, step, files[i]);
        char* text = i == 0
                         ? format_string("{\"step\": %d, \"tokens\": %d, \"parameters\": %s, \"flops_per_token\": %s}",
                                         step, 100 * step, parameters, flops_per_token)
                         : format_string("{\"vocab_size\": %d}", vocabulary);
        compare_put(path, text);
        free(text);
        free(path);
    }
}

static void compare_put_metrics(const char* run, const char* text) {
    char* path = format_string("%s/metrics.jsonl", run);
    compare_put(path, text);
    free(path);
}

// The run most tests use: validations at steps 0, 10, 20 with these losses, 1 second a step.
static void compare_put_run(const char* run, double l0, double l1, double l2, double flops_per_token, int passes) {
    StringBuilder sb = {0};
    double loss[] = {l0, l1, l2};
    for (int n = 0; n <= 20; n++) {
        if (n > 0) {
            sb_printf(&sb,
                      "{\"step\": %d, \"tokens\": %d, \"loss\": %.9g, \"lr\": 0.001, \"grad_norm\": 1, \"ms\": 1000, "
                      "\"tokens_per_s\": 100, \"utilisation\": 0.5}\n",
                      n, 100 * n, l2 + 1.0 / n);
        }
        if (n % 10 == 0) {
            sb_printf(&sb, "{\"step\": %d, \"val_loss\": %.9g, \"val_loss_pass\": [", n, loss[n / 10]);
            for (int s = 0; s < passes; s++) { sb_printf(&sb, "%s%.9g", s ? ", " : "", loss[n / 10] + passes - 1 - s); }
            sb_printf(&sb, "]}\n");
        }
    }
    compare_put_metrics(run, sb.data);
    free(sb.data);
    char* flops = format_string("%.17g", flops_per_token);
    compare_put_checkpoint(run, 20, "1234567", flops, 257);
    free(flops);
}

// ---- running the program ----

typedef struct {
    int count;
    const char* arguments[24];
} CompareCall;

// "@" at the start of a directory or file means the temporary directory.
static void compare_call(void* argument) {
    const CompareCall* call = (const CompareCall*)argument;
    char* argv[26] = {0};
    argv[0] = format_string("compare");
    for (int i = 0; i < call->count; i++) {
        StringBuilder sb = {0};
        sb_append(&sb, "", 0);
        for (const char* s = call->arguments[i]; *s; s++) {
            if (*s == '@') {
                sb_printf(&sb, "%s/", compare_root);
            } else {
                sb_append(&sb, s, 1);
            }
        }
        argv[i + 1] = sb.data;
    }
    int code = compare_main(call->count + 1, argv);
    for (int i = 0; i <= call->count; i++) { free(argv[i]); }
    if (code != 0) { exit(code); }
}

// Output of a call that must succeed; the caller frees it.
static char* compare_output(CompareCall call) {
    char* output = NULL;
    int code = run_child(compare_call, &call, &output);
    CHECK(code == 0, "exit code %d: %s", code, output);
    return output;
}

static void compare_expect(const char* output, const char* words) {
    CHECK(strstr(output, words) != NULL, "no '%s' in:\n%s", words, output);
}

// ---- tests ----

// 1234567 parameters; "wide" costs four times the FLOPs: at the end of "plain", 20 steps x 100
// tokens x 1e6 = 2e9 FLOPs, it is at step 5, half way between 6 (step 0) and 3 (step 10): 4.5.
static void test_compare_table(void) {
    compare_setup();
    compare_put_run("plain", 6, 4, 2, 1e6, 1);
    compare_put_run("wide", 6, 3, 1, 4e6, 3);
    CompareCall call = {4, {"plain=@plain", "wide=@wide", "--table", "@table.md"}};
    char* output = compare_output(call);
    compare_expect(output,
                   "run    parameters  steps  tokens  validation loss  bits per byte     loss of each pass      "
                   "FLOPs  seconds\n"
                   "plain   1,234,567     20   2,000           2.0000         2.8854                2.0000  "
                   "2.000e+09     20.0\n"
                   "wide    1,234,567     20   2,000           1.0000         1.4427  3.0000 2.0000 1.0000  "
                   "8.000e+09     20.0\n");
    compare_expect(output, "2.000e+09    2.0000  wide                     5          4.5000     +2.5000\n");
    CHECK(strstr(output, "At equal tokens") == NULL, "runs of one length need no table at equal tokens:\n%s", output);
    free(output);
    char* table = compare_get("table.md");
    compare_expect(table, "| run   | parameters |");
    compare_expect(table, "|\n| ----- | ---------: |");
    compare_expect(table, "| wide  |  1,234,567 |    20 |  2,000 |          1.0000 |");
    free(table);
    compare_teardown();
}

static void test_compare_seeds(void) {
    compare_setup();
    compare_put_run("s1", 6, 4, 2.0, 1e6, 2);
    compare_put_run("s2", 6, 4, 2.5, 1e6, 2);
    compare_put_run("s3", 6, 4, 1.8, 1e6, 2);
    compare_put_run("long", 6, 5, 1, 4e6, 2);
    compare_put_run("long2", 6, 4, 1, 4e6, 2);
    CompareCall call = {3, {"many=@s1,@s2,@s3", "--svg=@out.svg", "other=@long,@long2"}};
    char* output = compare_output(call);
    compare_expect(output, "2.1000 (1.8000..2.5000)");
    compare_expect(output, "3.1000 2.1000");
    compare_expect(output, "means over the seeds");
    // At step 5 of the others: between 6 and 4.5 (4..5).
    compare_expect(output, "5.2500 (5.0000..5.5000)     +3.1500");
    free(output);
    char* svg = compare_get("out.svg");
    compare_expect(svg, "Band: lowest to highest");
    compare_expect(svg, "fill-opacity");
    free(svg);
    compare_teardown();
}

// Runs of different length, a last line that is torn, a loss that is no number, thinned metrics.
static void test_compare_uneven(void) {
    compare_setup();
    compare_put_run("whole", 6, 4, 2, 1e6, 1);
    compare_put_checkpoint("torn", 20, "1234567", "1e6", 257);
    compare_put_metrics("torn", "{\"step\": 0, \"val_loss\": 6}\n"
                                "{\"step\": 5, \"tokens\": 500, \"loss\": null, \"ms\": 10}\n"
                                "{\"step\": 10, \"tokens\": 1000, \"loss\": 3, \"ms\": 10}\n"
                                "\n"
                                "{\"step\": 10, \"val_loss\": 3.5}\n"
                                "{\"step\": 11, \"tokens\": 1100, \"loss\": 3, \"ms\": 10}\n"
                                "{\"step\": 20, \"val_lo");
    CompareCall call = {4, {"whole=@whole", "torn=@torn", "--svg", "@out.svg"}};
    char* output = compare_output(call);
    compare_expect(output, "metrics.jsonl line 7: the last line is torn");
    compare_expect(output, "metrics.jsonl line 2: the loss of step 5 is not a finite number");
    compare_expect(output, "the last validation is at step 10, the last step is 11");
    compare_expect(output, "At equal tokens");
    compare_expect(output, "1,000    3.5000  whole                   10          4.0000     +0.5000\n");
    free(output);
    // The same two as seeds of a row: they share steps 0 and 10; one has no losses of passes.
    CompareCall seeds = {1, {"both=@whole,@torn"}};
    expect_death("different passes", compare_call, &seeds, "both|passes");
    compare_put_run("whole2", 6, 5, 2, 1e6, 1);
    compare_put_metrics("whole2", "{\"step\": 0, \"val_loss\": 6, \"val_loss_pass\": [6]}\n"
                                  "{\"step\": 10, \"val_loss\": 5, \"val_loss_pass\": [5]}\n"
                                  "{\"step\": 15, \"val_loss\": 4, \"val_loss_pass\": [4]}\n");
    CompareCall cut = {1, {"both=@whole,@whole2"}};
    output = compare_output(cut);
    compare_expect(output, "both: its runs end at different steps; they are compared at step 10");
    compare_expect(output, "4.5000 (4.0000..5.0000)");
    free(output);
    compare_teardown();
}

static void test_compare_single_point(void) {
    compare_setup();
    compare_put_checkpoint("one", 0, "10", "1e6", 50304);
    compare_put_metrics("one", "{\"step\": 0, \"val_loss\": 10.8}\n");
    compare_put_run("long", 6, 4, 2, 1e6, 1);
    CompareCall call = {4, {"one=@one", "--svg", "@out.svg", "--x=steps,tokens,flops,seconds"}};
    char* output = compare_output(call);
    compare_expect(output, "10.8000");
    CHECK(strstr(output, "bits per byte") == NULL, "a vocabulary of 50304 is not bytes:\n%s", output);
    free(output);
    char* svg = compare_get("out.svg");
    compare_expect(svg, "nats per token");
    CHECK(strstr(svg, "nan") == NULL && strstr(svg, "inf") == NULL, "a number that is none in:\n%s", svg);
    free(svg);
    CompareCall both = {4, {"one=@one", "long=@long", "--svg", "@out.svg"}};
    output = compare_output(both);
    compare_expect(output, "different vocabularies");
    compare_expect(output, "10.8000  long                     0          6.0000     -4.8000");
    free(output);
    compare_teardown();
}

// Well-formed as far as we use XML: tags nest and close, no stray '<' or '&', attributes quoted.
static void compare_check_xml(const char* xml) {
    const char* open[16];
    size_t length[16];
    int depth = 0;
    for (const char* s = xml; *s;) {
        if (*s == '&') {
            size_t n = strcspn(s, ";<\" ");
            CHECK(n > 1 && n < 8 && s[n] == ';', "a stray '&' at: %.40s", s);
            s += n;
        } else if (*s == '<') {
            int closing = s[1] == '/';
            const char* name = s + 1 + closing;
            size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzP");
            const char* end = name + n;
            for (int quoted = 0; *end && (quoted || *end != '>'); end++) {
                if (*end == '"') { quoted = !quoted; }
            }
            CHECK(n > 0 && *end == '>', "a stray '<' at: %.40s", s);
            if (n == 0 || *end == 0) { return; }
            if (closing) {
                CHECK(depth > 0 && length[depth - 1] == n && memcmp(open[depth - 1], name, n) == 0,
                      "closes nothing: %.40s", s);
                depth -= depth > 0;
            } else if (end[-1] != '/') {
                CHECK(depth < 16, "nested too deep: %.40s", s);
                if (depth == 16) { return; }
                open[depth] = name;
                length[depth++] = n;
            }
            s = end + 1;
            continue;
        }
        s++;
    }
    CHECK(depth == 0, "%d elements are not closed", depth);
}

static void test_compare_escaping(void) {
    compare_setup();
    compare_put_run("a", 6, 4, 2, 1e6, 1);
    CompareCall call = {8,
                        {"a<b>&\"'|\\_*`=@a", "new\nline\x01\xff\xc3\xa9=@a", "--svg", "@out.svg", "--table",
                         "@table.md", "--title", "<&>\"title\x02\""}};
    char* output = compare_output(call);
    compare_expect(output, "a<b>&\"'|\\_*`");
    compare_expect(output, "new?line??\xc3\xa9");
    free(output);
    char* table = compare_get("table.md");
    compare_expect(table, "a&lt;b&gt;&amp;\"'\\|\\\\\\_\\*\\`");
    size_t pipes = 0;  // of the first row: nine columns have ten; an escaped one is not among them
    for (const char* s = strstr(table, "a&lt;"); s && *s && *s != '\n'; s++) { pipes += *s == '|' && s[-1] != '\\'; }
    CHECK(pipes == 9, "%zu cell ends after the name, expected 9 in:\n%s", pipes, table);
    free(table);
    char* svg = compare_get("out.svg");
    compare_check_xml(svg);
    compare_expect(svg, ">a&lt;b&gt;&amp;&quot;&#39;|");
    compare_expect(svg, "&lt;&amp;&gt;&quot;title?&quot;");
    compare_expect(svg, "@media (prefers-color-scheme: dark)");
    compare_expect(svg, "At equal steps");
    compare_expect(svg, "At equal compute");
    compare_expect(svg, "loss (nats per byte)");
    compare_expect(svg, "optimiser steps (100 tokens each)");
    free(svg);
    compare_teardown();
}

// No label covers another or leaves the picture, even when all lines end in one place.
static void test_compare_labels(void) {
    compare_setup();
    CompareCall call = {2, {"--svg", "@out.svg"}};
    char* arguments[COMPARE_MAX_ROWS] = {0};
    for (int i = 0; i < 8; i++) {
        char* run = format_string("r%d", i);
        compare_put_run(run, 6, 4 + 0.01 * i, 2 + 0.001 * (i % 3), i == 7 ? 9e6 : 1e6 * (1 + 0.3 * i), 1);
        arguments[i] = format_string("a rather long name %d=@r%d", i, i);
        call.arguments[call.count++] = arguments[i];
        free(run);
    }
    free(compare_output(call));
    char* svg = compare_get("out.svg");
    double left[64], right[64], y[64], width = 0;
    int n = 0;
    CHECK(sscanf(strstr(svg, "viewBox=\"0 0 "), "viewBox=\"0 0 %lf", &width) == 1, "no viewBox in:\n%s", svg);
    for (const char* s = svg; (s = strstr(s, "halo\" ")) != NULL && n < 64; s++, n++) {
        char text[200];
        int found = sscanf(strstr(s, " x="), " x=\"%lf\" y=\"%lf\">%199[^<]", &left[n], &y[n], text);
        CHECK(found == 3, "not a label: %.100s", s);
        if (found != 3) { break; }
        // Real fonts are narrower than the estimate that the layout uses; 0.54 em is DejaVu Sans here.
        right[n] = left[n] + 0.54 * SVG_TEXT * (double)strlen(text);
        CHECK(left[n] >= 0 && right[n] <= width, "label %s: %.0f..%.0f leaves the picture", text, left[n], right[n]);
        for (int i = 0; i < n; i++) {
            CHECK(left[i] >= right[n] || right[i] <= left[n] || fabs(y[i] - y[n]) >= 12, "label %s covers label %d",
                  text, i);
        }
    }
    CHECK(n == 16, "%d labels, expected 8 in each of 2 panels", n);
    free(svg);
    for (int i = 0; i < 8; i++) { free(arguments[i]); }
    compare_teardown();
}

static double compare_luminance(const char* colour) {
    double weight[] = {0.2126, 0.7152, 0.0722}, sum = 0;
    for (int i = 0; i < 3; i++) {
        unsigned value = 0;
        CHECK(sscanf(colour + 1 + 2 * i, "%2x", &value) == 1, "not a colour: %s", colour);
        double c = value / 255.0;
        sum += weight[i] * (c <= 0.04045 ? c / 12.92 : pow((c + 0.055) / 1.055, 2.4));
    }
    return sum;
}

// Text is drawn in the colours of the lines, so they need the contrast of text (WCAG: 4.5 : 1).
static void test_compare_contrast(void) {
    for (int i = 0; i < COMPARE_COLOURS; i++) {
        double light = 1.05 / (compare_luminance(compare_light[i]) + 0.05);
        double dark = (compare_luminance(compare_dark[i]) + 0.05) / (compare_luminance("#0d1117") + 0.05);
        CHECK(light >= 4.5, "%s on white: %.2f", compare_light[i], light);
        CHECK(dark >= 4.5, "%s on the dark background: %.2f", compare_dark[i], dark);
    }
}

static void test_compare_ticks(void) {
    static const struct {
        double lo, hi;
        int most;
        double first, step;
        int count, decimals;
    } cases[] = {{0, 1600, 5, 0, 500, 4, 0},       {0, 1, 5, 0, 0.2, 6, 1},
                 {0.75, 2.57, 10, 0.8, 0.2, 9, 1}, {0, 7.2e13, 6, 0, 2e13, 4, 0},
                 {-0.3, 0.31, 4, -0.2, 0.2, 3, 1}, {0, 20, 5, 0, 5, 5, 0},
                 {1.1, 1.1, 5, 1.2, 0.2, 0, 1},    {2.781, 2.794, 5, 2.785, 0.005, 2, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CompareTicks t = compare_nice_ticks(cases[i].lo, cases[i].hi, cases[i].most);
        // Measured: 2e-16 relative, roundings of multiples of 0.2.
        int good = fabs(t.step - cases[i].step) <= 1e-14 * cases[i].step && t.count == cases[i].count &&
                   t.decimals == cases[i].decimals && fabs(t.first - cases[i].first) <= 1e-14 * (1 + fabs(t.first));
        CHECK(good, "case %zu: first %g step %g count %d decimals %d", i, t.first, t.step, t.count, t.decimals);
    }
    double unit = 0;
    char* name = compare_axis_name(AXIS_FLOPS, 7.2e13, 0, &unit);
    CHECK(unit == 1e12 && strcmp(name, "training compute (TFLOP)") == 0, "%s, unit %g", name, unit);
    free(name);
    name = compare_axis_name(AXIS_SECONDS, 960, 0, &unit);
    CHECK(unit == 60 && strcmp(name, "training time (minutes)") == 0, "%s, unit %g", name, unit);
    free(name);
    char* grouped[] = {compare_grouped(0), compare_grouped(999), compare_grouped(1000), compare_grouped(-123456)};
    static const char* const expected[] = {"0", "999", "1,000", "-123,456"};
    for (int i = 0; i < 4; i++) {
        CHECK(strcmp(grouped[i], expected[i]) == 0, "%s, expected %s", grouped[i], expected[i]);
        free(grouped[i]);
    }
}

// A falling line stays where it is under smoothing, up to its last point.
static void test_compare_smoothing(void) {
    CompareCurve curve = compare_curve_new(1001);
    for (int i = 0; i <= 1000; i++) { curve.mean[i] = 5 - 0.003 * i + (i % 2 ? 0.1 : -0.1); }
    compare_smooth(&curve);
    CHECK(curve.count == 985, "%d points left, expected 985", curve.count);
    for (int i = 4; i < curve.count; i++) {
        double error = fabs(curve.mean[i] - (5 - 0.003 * i));
        // Measured: 0.0111, what is left of an up and down of 0.1 in a mean over nine points.
        CHECK(error < 0.0125, "point %d is off by %g", i, error);
    }
    free(curve.memory);
}

static void test_compare_bad_input(void) {
    compare_setup();
    compare_put_run("good", 6, 4, 2, 1e6, 1);
    compare_put_run("other", 6, 4, 2, 2e6, 1);
    compare_put_run("bare", 6, 4, 2, 1e6, 1);
    char* bare = format_string("%s/bare/step_00000020", compare_root);
    compare_remove(bare);
    free(bare);
    compare_put("empty/note", "");
    static const struct {
        const char *name, *metrics, *words;
    } files[] = {
        {"void", "", "metrics.jsonl|no line with a \"val_loss\""},
        {"blind", "{\"step\": 1, \"tokens\": 100, \"loss\": 3, \"ms\": 1}\n", "no line with a \"val_loss\"|--val"},
        {"malformed", "{\"step\": 0, \"val_loss\": 6}\n{\"step\": 10, \"val_\n{\"step\": 20, \"val_loss\": 6}\n",
         "metrics.jsonl line 2"},
        {"nan", "{\"step\": 0, \"val_loss\": NaN}\n", "metrics.jsonl line 1|NaN"},
        {"null", "{\"step\": 0, \"val_loss\": 6}\n{\"step\": 5, \"val_loss\": null}\n", "line 2|step 5|diverged"},
        {"passes", "{\"step\": 0, \"val_loss\": 6, \"val_loss_pass\": [6, null]}\n", "line 1|val_loss_pass|[1]"},
        {"passes2", "{\"step\": 0, \"val_loss\": 6, \"val_loss_pass\": 6}\n", "line 1|val_loss_pass|array"},
        {"twice", "{\"step\": 5, \"val_loss\": 6}\n{\"step\": 5, \"val_loss\": 6}\n",
         "line 2|step 5 comes after step 5"},
        {"twice2", "{\"step\": 2, \"tokens\": 1, \"loss\": 6}\n{\"step\": 1, \"tokens\": 1, \"loss\": 6}\n",
         "line 2|step 1 comes after step 2"},
        {"list", "[1, 2]\n", "line 1|object"},
        {"stepless", "{\"val_loss\": 6}\n", "line 1|\"step\""},
        {"tokenless", "{\"step\": 1, \"loss\": 6}\n", "line 1|\"tokens\""},
        {"text", "{\"step\": 1, \"val_loss\": \"6\"}\n", "line 1|val_loss|number"},
        {"binary",
         "\x7f"
         "ELF\x02\n",
         "line 1"},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        compare_put_checkpoint(files[i].name, 20, "10", "1e6", 257);
        compare_put_metrics(files[i].name, files[i].metrics);
        char* argument = format_string("x=@%s", files[i].name);
        CompareCall call = {1, {argument}};
        expect_death(files[i].name, compare_call, &call, files[i].words);
        free(argument);
    }
    compare_put_run("state", 6, 4, 2, 1e6, 1);
    static const struct {
        const char *state, *words;
    } states[] = {{"{", "trainer_state.json"},
                  {"[]", "trainer_state.json|object"},
                  {"{\"step\": 1, \"tokens\": 1}", "trainer_state.json|flops_per_token"},
                  {"{\"step\": 1, \"tokens\": 1, \"parameters\": 0, \"flops_per_token\": 1}", "parameters"},
                  {"{\"parameters\": 5, \"flops_per_token\": 1}", "\"step\""},
                  {"{\"step\": 1, \"tokens\": -1, \"parameters\": 5, \"flops_per_token\": 1}", "\"tokens\""}};
    for (size_t i = 0; i < sizeof states / sizeof states[0]; i++) {
        compare_put("state/step_00000020/trainer_state.json", states[i].state);
        CompareCall call = {1, {"x=@state"}};
        expect_death(states[i].state, compare_call, &call, states[i].words);
    }
    static const struct {
        CompareCall call;
        const char* words;
    } calls[] = {
        {{0, {NULL}}, "nothing to compare|usage"},
        {{1, {"x=@nowhere"}}, "nowhere|No such file"},
        {{1, {"x=@empty"}}, "metrics.jsonl|No such file"},
        {{1, {"x=@bare"}}, "bare|no checkpoint"},
        {{1, {"@good"}}, "NAME=DIR"},
        {{1, {"=@good"}}, "NAME=DIR"},
        {{1, {"x="}}, "NAME=DIR"},
        {{1, {"x=@good,"}}, "empty directory name"},
        {{2, {"x=@good", "x=@other"}}, "two rows are named 'x'"},
        {{1, {"x=@good,@other"}}, "different models"},
        {{2, {"x=@good", "--svgs=y"}}, "unknown option '--svgs'|usage"},
        {{2, {"x=@good", "--svg"}}, "--svg needs a value"},
        {{2, {"x=@good", "--x=loss"}}, "--x|'loss'|seconds"},
        {{2, {"x=@good", "--x=steps,"}}, "--x"},
        {{3, {"x=@good", "--svg", "@no/such/file"}}, "no/such/file|cannot write"},
        {{3, {"x=@good", "--svg", "/dev/full"}}, "/dev/full|cannot write|No space"},
        {{3, {"x=@good", "--table", "/dev/full"}}, "/dev/full|cannot write|No space"},
        {{17,
          {"a=1", "b=1", "c=1", "d=1", "e=1", "f=1", "g=1", "h=1", "i=1", "j=1", "k=1", "l=1", "m=1", "n=1", "o=1",
           "p=1", "q=1"}},
         "more than 16 rows"},
    };
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        CompareCall call = calls[i].call;
        char* what = format_string("call %zu", i);
        expect_death(what, compare_call, &call, calls[i].words);
        free(what);
    }
    CompareCall help = {1, {"--help"}};
    char* output = compare_output(help);
    compare_expect(output, "usage: compare");
    free(output);
    compare_teardown();
}

static void compare_tests(void) {
    RUN(test_compare_table);
    RUN(test_compare_seeds);
    RUN(test_compare_uneven);
    RUN(test_compare_single_point);
    RUN(test_compare_escaping);
    RUN(test_compare_labels);
    RUN(test_compare_contrast);
    RUN(test_compare_ticks);
    RUN(test_compare_smoothing);
    RUN(test_compare_bad_input);
}

#endif

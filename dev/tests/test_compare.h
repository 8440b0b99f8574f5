// test_compare.h - tests of common/run/compare.c: numbers worked out by hand, pictures, bad input.
#ifndef PONDER_TEST_COMPARE_H
#define PONDER_TEST_COMPARE_H

#include "../../common/files/file.h"
#include "file_calls.h"
#include "test.h"

#undef MAIN
#define MAIN compare_main
#include "../../common/run/compare.c"
#undef MAIN

// ---- run directories, made by hand under one temporary directory ----

static char* compare_root;  // of the running test

static void compare_made_plainly(void);
static void compare_setup(void) {
    compare_root = test_directory("compare");
    compare_made_plainly();
}

static void compare_teardown(void) {
    directory_remove_tree(compare_root);
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
    compare_write(full, text);
    free(full);
}

static char* compare_get(const char* name) {
    char* path = format_string("%s/%s", compare_root, name);
    size_t size = 0;
    char* text = read_fully(path, &size);
    if (text == NULL) { die("%s was not written", path); }
    free(path);
    return text;
}

// What the runs below are made with, unless a test says otherwise; compare_setup() puts it back.
static struct {
    int steps, seed;      // validated at the beginning, half way and at the end
    int total_steps;      // 0: as many
    const char* options;  // of trainer_state.json, and more of it, each with a comma before it
    const char* more;
} compare_made;

static void compare_made_plainly(void) {
    compare_made.steps = 20, compare_made.seed = 42, compare_made.total_steps = 0;
    compare_made.options = compare_made.more = "";
}

// A whole checkpoint: step `step`, 100 tokens a step.
static void compare_put_checkpoint(const char* run, int step, const char* parameters, const char* flops_per_token,
                                   int vocabulary) {
    static const char* const files[] = {"trainer_state.json", "config.json", "model.safetensors",
                                        "optimizer.safetensors"};
    for (int i = 0; i < 4; i++) {
        char* path = format_string("%s/step_%08d/%s", run, step, files[i]);
        char* text =
            i == 0 ? format_string("{\"step\": %d, \"total_steps\": %d, \"tokens\": %d, \"parameters\": %s, "
                                   "\"flops_per_token\": %s, \"flops\": %.17g, \"seed\": %d, \"total_batch\": 100%s, "
                                   "\"options\": {\"lr\": \"2e-3\"%s}}",
                                   step, compare_made.total_steps ? compare_made.total_steps : step, 100 * step,
                                   parameters, flops_per_token, 100 * step * atof(flops_per_token), compare_made.seed,
                                   compare_made.more, compare_made.options)
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

// The run most tests use: validations at steps 0, 10, 20 with these losses, 1 second a step, half its peak lr.
static void compare_put_run(const char* run, double l0, double l1, double l2, double flops_per_token, int passes) {
    StringBuilder sb = {0};
    double loss[] = {l0, l1, l2};
    int steps = compare_made.steps, half = steps / 2;
    for (int n = 0; n <= steps; n++) {
        if (n > 0) {
            sb_printf(&sb,
                      "{\"step\": %d, \"tokens\": %d, \"loss\": %.9g, \"lr\": 0.001, \"grad_norm\": 1, \"ms\": 1000, "
                      "\"tokens_per_s\": 100, \"utilisation\": 0.5}\n",
                      n, 100 * n, l2 + 1.0 / n);
        }
        if (n % half == 0) {
            double l = loss[n / half];
            sb_printf(&sb, "{\"step\": %d, \"val_loss\": %.9g, \"val_loss_pass\": [", n, l);
            for (int s = 0; s < passes; s++) { sb_printf(&sb, "%s%.9g", s ? ", " : "", l + passes - 1 - s); }
            sb_printf(&sb, "]}\n");
        }
    }
    compare_put_metrics(run, sb.data);
    free(sb.data);
    char* flops = format_string("%.17g", flops_per_token);
    compare_put_checkpoint(run, steps, "1234567", flops, 257);
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

static void compare_expect_not(const char* output, const char* words) {
    CHECK(strstr(output, words) == NULL, "'%s' in:\n%s", words, output);
}

// 1234567 parameters; "wide" costs four times the FLOPs: at the end of "plain", 20 steps x 100 tokens x 1e6 = 2e9
// FLOPs, it is at step 5, where nobody validated it. Nothing is drawn through 6 (step 0) and 3 (step 10).
static void test_compare_table(void) {
    compare_setup();
    compare_put_run("plain", 6, 4, 2, 1e6, 1);
    compare_put_run("wide", 6, 3, 1, 4e6, 3);
    CompareCall call = {4, {"plain=@plain", "wide=@wide", "--table", "@table.md"}};
    char* output = compare_output(call);
    compare_expect(output,
                   "run    parameters  steps  tokens  validation loss  bits per byte     loss of each pass      "
                   "FLOPs  seconds  in its schedule\n"
                   "plain   1,234,567     20   2,000           2.0000         2.8854                2.0000  "
                   "2.000e+09     20.0       at its end\n"
                   "wide    1,234,567     20   2,000           1.0000         1.4427  3.0000 2.0000 1.0000  "
                   "8.000e+09     20.0       at its end\n");
    compare_expect(output, "\nAt equal steps, each at the end of its own schedule:\n\n"
                           "run    steps  tokens  validation loss  minus plain  in its schedule\n"
                           "plain     20   2,000           2.0000                    at its end\n"
                           "wide      20   2,000           1.0000      -1.0000       at its end\n\n"
                           "At equal FLOPs:\n\n"
                           "run    steps      FLOPs  validation loss  minus plain  in its schedule\n"
                           "plain     20  2.000e+09           2.0000                    at its end\n"
                           "wide       -          -                -            -                -\n\n"
                           "wide has no validation within 1 % of these FLOPs (between step 0 and step 10): train a run "
                           "of this length, with --flops 2000000000.\n");
    compare_expect_not(output, "differ");
    compare_expect_not(output, "4.5");
    free(output);
    char* table = compare_get("table.md");
    compare_expect(table, "| run   | parameters |");
    compare_expect(table, "|\n| ----- | ---------: |");
    compare_expect(table, "| wide  |  1,234,567 |    20 |  2,000 |          1.0000 |");
    compare_expect(table, "| plain |    20 |  2,000 |          2.0000 |             |      at its end |");
    free(table);
    compare_teardown();
}

// How many times `words` stand in the text.
static int compare_times(const char* text, const char* words) {
    int n = 0;
    for (; (text = strstr(text, words)) != NULL; text += strlen(words)) { n++; }
    return n;
}

// Pondering, a baseline of its steps and the same of its FLOPs, as `make compare` trains them: two tables of runs that
// ended, and two panels, which show those runs alone. The two lengths of the baseline have one colour.
static void test_compare_equal_flops(void) {
    compare_setup();
    compare_put_run("ponder", 6, 4, 2.0, 4e6, 3);
    compare_put_run("plain", 6, 4, 2.5, 1e6, 1);
    compare_made.steps = 80;
    compare_put_run("long", 6, 3, 1.5, 1e6, 1);
    CompareCall call = {4, {"ponder=@ponder", "plain=@plain", "longer=@long", "--svg=@out.svg"}};
    char* output = compare_output(call);
    compare_expect(output, "\nAt equal steps, each at the end of its own schedule:\n\n"
                           "run     steps  tokens  validation loss  minus ponder  in its schedule\n"
                           "ponder     20   2,000           2.0000                     at its end\n"
                           "plain      20   2,000           2.5000       +0.5000       at its end\n\n"
                           "At equal FLOPs, each at the end of its own schedule:\n\n"
                           "run     steps      FLOPs  validation loss  minus ponder  in its schedule\n"
                           "ponder     20  8.000e+09           2.0000                     at its end\n"
                           "longer     80  8.000e+09           1.5000       -0.5000       at its end\n\n"
                           "What the rows differ in:\n\n"
                           "setting  ponder  plain  longer\n"
                           "steps        20     20      80\n");
    CHECK(compare_times(output, "At equal") == 2, "two tables, in:\n%s", output);
    free(output);
    char* svg = compare_get("out.svg");
    char* right = strstr(svg, ">At equal compute<");
    CHECK(right != NULL, "no panel at equal compute in:\n%s", svg);
    if (!right) { return; }
    compare_expect(right, ">ponder 2.000<");
    compare_expect(right, ">longer 1.500<");
    compare_expect(right, "<g class=\"c4\">");
    compare_expect(right, "<g class=\"c5\">");
    compare_expect_not(right, ">plain");
    *right = 0;
    compare_expect(svg, ">ponder 2.000<");
    compare_expect(svg, ">plain 2.500<");
    compare_expect(svg, "<g class=\"c4\">");
    compare_expect(svg, "<g class=\"c5\">");
    compare_expect(svg, "x=\"400.0\" y=\"348.0\">20<");  // its axis ends where its rows do
    compare_expect_not(svg, ">longer");
    free(svg);
    // Without it, the question stays, and the answer is that there is none: not a line between two validations.
    compare_made_plainly();
    compare_put_run("fair", 6, 4, 2.4, 1e6, 1);
    CompareCall short_ones = {3, {"ponder=@ponder", "plain=@plain", "fair=@fair"}};
    output = compare_output(short_ones);
    compare_expect(output, "At equal FLOPs:\n\n"
                           "run     steps      FLOPs  validation loss  minus plain  in its schedule\n"
                           "ponder      -          -                -            -                -\n"
                           "plain      20  2.000e+09           2.5000                    at its end\n"
                           "fair       20  2.000e+09           2.4000      -0.1000       at its end\n");
    compare_expect(output, "ponder has no validation within 1 % of these FLOPs (between step 0 and step 10)");
    free(output);
    // In one panel they have two.
    CompareCall one = {3, {"plain=@plain", "longer=@long", "--svg=@out.svg"}};
    free(compare_output(one));
    svg = compare_get("out.svg");
    compare_expect(svg, "<g class=\"c4\">");
    compare_expect(svg, "<g class=\"c5\">");
    free(svg);
    compare_teardown();
}

// Where a longer run was validated at the end of a shorter one, its loss there is given, and its place in its schedule.
static void test_compare_middle(void) {
    compare_setup();
    compare_put_run("wide", 6, 3, 1, 4e6, 1);
    compare_made.steps = 40;
    compare_put_run("plain", 6, 4, 2, 1e6, 1);
    CompareCall call = {2, {"wide=@wide", "plain=@plain"}};
    char* output = compare_output(call);
    compare_expect(output,
                   "At equal steps, not all at the end of their schedule:\n\n"
                   "run    steps  tokens  validation loss  minus wide                        in its schedule\n"
                   "wide      20   2,000           1.0000                                         at its end\n"
                   "plain     20   2,000           4.0000     +3.0000  step 20 of 40, lr at 0.50 of its peak\n");
    compare_expect(output,
                   "At equal FLOPs, not all at the end of their schedule:\n\n"
                   "run    steps      FLOPs  validation loss  minus wide                        in its schedule\n"
                   "wide      10  4.000e+09           3.0000              step 10 of 20, lr at 0.50 of its peak\n"
                   "plain     40  4.000e+09           2.0000     -1.0000                             at its end\n");
    compare_expect(output, "is not what a run of that length reaches");
    free(output);
    // Two of one cost are no company for each other at equal FLOPs: both are read on their way.
    compare_made.steps = 160;
    compare_put_run("long", 6, 4, 2, 1e6, 1);
    compare_put_run("fair", 6, 5, 2.5, 1e6, 1);
    CompareCall alike = {3, {"wide=@wide", "long=@long", "fair=@fair"}};
    output = compare_output(alike);
    compare_expect(output, "long     80  8.000e+09           4.0000     +3.0000  step 80 of 160, lr at 0.50");
    compare_expect(output, "fair     80  8.000e+09           5.0000     +4.0000  step 80 of 160, lr at 0.50");
    free(output);
    // A run that was stopped has not ended, wherever its last validation is.
    compare_made.steps = 20, compare_made.total_steps = 50;
    compare_put_run("stopped", 6, 4, 2, 1e6, 1);
    CompareCall stopped = {2, {"wide=@wide", "stopped=@stopped"}};
    output = compare_output(stopped);
    compare_expect(output, "At equal steps, not all");
    compare_expect(output, "step 20 of 50, lr at 0.50 of its peak");
    free(output);
    // Nor is it company for another that did end there: that one is still read on its way.
    compare_made.steps = 40, compare_made.total_steps = 41;
    compare_put_run("halted", 6, 4, 2, 1e6, 1);
    CompareCall halted = {3, {"wide=@wide", "plain=@plain", "halted=@halted"}};
    output = compare_output(halted);
    compare_expect(output, "plain      20   2,000           4.0000     +3.0000  step 20 of 40, lr at 0.50");
    compare_expect(output, "halted     20   2,000           4.0000     +3.0000  step 20 of 41, lr at 0.50");
    free(output);
    // Equal are FLOPs that differ by no more than a hundredth.
    compare_made_plainly();
    compare_put_run("near", 6, 4, 2, 1.009e6, 1);
    compare_put_run("far", 6, 4, 2, 1.011e6, 1);
    compare_put_run("one", 6, 4, 2, 1e6, 1);
    CompareCall near = {2, {"one=@one", "near=@near"}}, far = {2, {"one=@one", "far=@far"}};
    output = compare_output(near);
    compare_expect_not(output, "no validation within");
    compare_expect(output, "At equal steps");  // which says it all
    compare_expect_not(output, "At equal FLOPs");
    free(output);
    output = compare_output(far);
    compare_expect(output, "far has no validation within 1 % of these FLOPs (between step 10 and step 20)");
    free(output);
    // Not validated so early at all.
    compare_put_metrics("far", "{\"step\": 20, \"tokens\": 8000, \"loss\": 2}\n{\"step\": 20, \"val_loss\": 2}\n");
    output = compare_output(far);
    compare_expect(output, "far has no validation within 1 % of these tokens (before step 20): train a run of this "
                           "length, with --steps 20.");
    free(output);
    compare_teardown();
}

// What rows and seeds may differ in, and what not.
static void test_compare_settings(void) {
    compare_setup();
    compare_put_run("one", 6, 4, 2, 1e6, 1);
    static const struct {
        int seed;
        const char *options, *more, *words;
    } bad[] = {
        {42, "", ", \"seq\": 128", "not validated alike: length of a row 64 and 128"},
        {42, "", ", \"seq\": 64, \"val_rows\": 7", "not validated alike: rows validated 8 and 7"},
        {42, "", ", \"seq\": 64, \"val_rows\": 8, \"val_shards\": \"f00\"",
         "not validated alike: validation data f0a and f00"},
    };
    compare_made.more = ", \"seq\": 64, \"val_rows\": 8, \"val_shards\": \"f0a\", \"tokenizer\": \"a\"";
    compare_put_run("first", 6, 4, 2, 1e6, 1);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        compare_made.more = bad[i].more;
        compare_put_run("second", 6, 4, 2, 1e6, 1);
        CompareCall call = {2, {"first=@first", "second=@second"}};
        expect_death(bad[i].words, compare_call, &call, bad[i].words);
    }
    // Validations of other data, before a step that the state names, are no part of the curve.
    compare_made.more = ", \"val_since\": 9";
    compare_put_run("second", 6, 4, 2, 1e6, 1);
    CompareCall since = {1, {"second=@second"}};
    char* said = compare_output(since);
    compare_expect(said, "before step 9 it was validated on other data or rows");
    free(said);
    // Seeds of a row: another seed, and nothing else.
    static const struct {
        int seed, total_steps;
        const char *options, *more, *words;
    } seeds[] = {
        {42, 0, "", "", "one and|two have the same seed, 42"},
        {43, 0, ", \"clip\": \"0.5\"", "", "differ in more than the seed: --clip - and 0.5"},
        {43, 0, "", ", \"shards\": \"f00\"", "differ in more than the seed: training data - and f00"},
        {43, 30, "", "", "differ in more than the seed: steps 20 and 30"},
        {43, 0, "", ", \"arithmetic\": \"bf16\"", "differ in more than the seed: arithmetic - and bf16"},
        {43, 0, ", \"prompt\": \"x\", \"flops\": \"9\", \"precision\": \"fp32\"", "", NULL},
    };
    for (size_t i = 0; i < sizeof seeds / sizeof seeds[0]; i++) {
        compare_made.seed = seeds[i].seed, compare_made.total_steps = seeds[i].total_steps;
        compare_made.options = seeds[i].options, compare_made.more = seeds[i].more;
        compare_put_run("two", 6, 4, 2, 1e6, 1);
        CompareCall call = {1, {"both=@one,@two"}};
        if (seeds[i].words) {
            expect_death(seeds[i].words, compare_call, &call, seeds[i].words);
        } else {
            free(compare_output(call));
        }
    }
    // Rows may differ in anything else, and it is said: in a table of all settings, and where runs stand side by side.
    compare_made.seed = 7, compare_made.total_steps = 0;
    compare_made.options = ", \"clip\": \"0.5\", \"prompt\": \"x\", \"tie\": null";
    compare_made.more = ", \"shards\": \"f00\"";
    compare_put_run("other", 6, 4, 2, 1e6, 1);
    CompareCall rows = {4, {"one=@one", "ot|her=@other", "--table", "@table.md"}};
    char* output = compare_output(rows);
    compare_expect(output, "At equal tokens, each at the end");
    compare_expect(output, "These rows differ in: training data, seed.\n");
    compare_expect(output, "What the rows differ in:\n\n"
                           "setting        one  ot|her\n"
                           "training data    -     f00\n"
                           "seed            42       7\n"
                           "--clip           -     0.5\n");
    compare_expect_not(output, "--lr");
    compare_expect_not(output, "--tie");
    compare_expect_not(output, "--prompt");
    free(output);
    char* table = compare_get("table.md");
    compare_expect(table, "| setting       | one | ot\\|her |\n");
    free(table);
    compare_teardown();
}

// --flops-of: what `make compare` hands to the --flops of the baselines.
static void test_compare_flops_of(void) {
    compare_setup();
    compare_put_run("done", 6, 4, 2, 1e9 / 3, 1);
    CompareCall call = {2, {"--flops-of", "@done"}};
    char* output = compare_output(call);
    CHECK(atof(output) == 2000 * atof("333333333.33333331"), "FLOPs: %s", output);
    free(output);
    compare_made.total_steps = 30;
    compare_put_run("half", 6, 4, 2, 1e6, 1);
    CompareCall half = {2, {"--flops-of", "@half"}}, nowhere = {2, {"--flops-of", "@nowhere"}};
    CompareCall more = {3, {"--flops-of", "@done", "x=@done"}};
    expect_death("a run that goes on", compare_call, &half, "half: the training is at step 20 of 30; go on with it");
    expect_death("no run", compare_call, &nowhere, "nowhere");
    expect_death("more", compare_call, &more, "--flops-of DIR stands alone|usage");
    compare_teardown();
}

// Commas and equals signs in the names of directories that are there.
static void test_compare_names(void) {
    compare_setup();
    compare_put_run("a,b/x", 6, 4, 2, 1e6, 1);
    compare_put_run("lr=1", 6, 4, 2, 1e6, 1);
    compare_made.seed = 43;
    compare_put_run("a,b/y", 6, 4, 3, 1e6, 1);
    CompareCall call = {2, {"two=@a,b/x,@a,b/y", "lr=1=@lr=1"}};
    char* output = compare_output(call);
    compare_expect(output, "\ntwo       2");
    compare_expect(output, "\nlr=1      1");
    free(output);
    CompareCall nowhere = {1, {"n=@a,c"}};
    expect_death("a directory that is not there", compare_call, &nowhere, "/a: No such file");
    compare_teardown();
}

static void test_compare_seeds(void) {
    compare_setup();
    static const double ends[] = {2.0, 2.5, 1.8};
    for (int i = 0; i < 3; i++) {
        char *run = format_string("s%d", i + 1), *wide = format_string("w%d", i + 1);
        compare_made.seed = i + 1;
        compare_put_run(run, 6, 4, ends[i], 1e6, 2);
        compare_put_run(wide, 6, 4 + (i == 0), 1, 4e6, 2);
        free(run);
        free(wide);
    }
    CompareCall call = {3, {"many=@s1,@s2,@s3", "--svg=@out.svg", "other=@w1,@w2"}};
    char* output = compare_output(call);
    compare_expect(output, "2.1000 (1.8000..2.5000)");
    compare_expect(output, "3.1000 2.1000");
    compare_expect(output, "means over the seeds");
    compare_expect(output, "other     20   2,000  1.0000 (1.0000..1.0000)     -1.1000       at its end\n");
    compare_expect(output, "These rows differ in: seed.\n");  // three here, two there
    free(output);
    char* svg = compare_get("out.svg");
    compare_expect(svg, "line: mean of the seeds, band: lowest to highest");
    // After a tenth of its steps the highest of "other" is at 6 - 0.2 (6 - 5) = 5.8, the lowest of all ends at 1. With
    // 6 percent at either end from 0.712 to 6.088: 330 pixels for 5.376. "many" ends at 2.5 to 1.8, on average 2.1.
    compare_expect(svg, "band\" d=\"M0.0 5.4L200.0 128.2L400.0 220.2L400.0 263.2L200.0 128.2L0.0 5.4z\"");
    compare_expect(svg, "stroke-width=\"2.2\" d=\"M0.0 5.4L200.0 128.2L400.0 244.8\"");
    free(svg);
    CompareCall same = {2, {"many=@s1,@s2,@s3", "other=@w1,@w2,@w3"}};
    output = compare_output(same);
    compare_expect(output, "At equal steps, each");
    compare_expect_not(output, "differ in: seed");
    free(output);
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
    compare_expect(output, "metrics.jsonl, line 7: the last line is torn");
    compare_expect(output, "metrics.jsonl, line 2: the loss of step 5 is not a finite number");
    compare_expect(output, "the last validation is at step 10, the last step is 11");
    compare_expect(output, "At equal steps, not all");
    compare_expect(output,
                   "whole     10   1,000           4.0000               step 10 of 20, lr at 0.50 of its peak\n"
                   "torn      10   1,000           3.5000      -0.5000                          step 10 of 20\n");
    free(output);
    // The same two as seeds of a row: they share steps 0 and 10; one has no losses of passes.
    CompareCall seeds = {1, {"both=@whole,@torn"}};
    expect_death("different passes", compare_call, &seeds, "torn/metrics.jsonl, line 1|0 passes, but 1 before");
    compare_made.seed = 43;
    compare_put_run("whole2", 6, 5, 2, 1e6, 1);
    compare_put_metrics("whole2", "{\"step\": 0, \"val_loss\": 6, \"val_loss_pass\": [6]}\n"
                                  "{\"step\": 10, \"val_loss\": 5, \"val_loss_pass\": [5]}\n"
                                  "{\"step\": 15, \"val_loss\": 4, \"val_loss_pass\": [4]}\n");
    CompareCall cut = {1, {"both=@whole,@whole2"}};
    output = compare_output(cut);
    compare_expect(output, "both: its runs end at different steps; they are compared at step 10");
    compare_expect(output, "4.5000 (4.0000..5.0000)");
    free(output);
    // Also where it is not the last seed that goes on.
    compare_put_metrics("whole2", "{\"step\": 0, \"val_loss\": 6, \"val_loss_pass\": [6]}\n"
                                  "{\"step\": 10, \"val_loss\": 5, \"val_loss_pass\": [5]}\n");
    output = compare_output(cut);
    compare_expect(output, "both: its runs end at different steps; they are compared at step 10");
    free(output);
    // Thinned: 700 tokens at step 7, each step 0.1 seconds, then 100 tokens a step, at a learning rate that is not known.
    compare_put_checkpoint("thin", 20, "1234567", "1e6", 257);
    compare_put_metrics("thin", "{\"step\": 7, \"tokens\": 700, \"loss\": 3, \"lr\": 1e-3, \"ms\": 100}\n"
                                "{\"step\": 10, \"val_loss\": 3.5}\n");
    CompareCall thin = {1, {"thin=@thin"}};
    output = compare_output(thin);
    compare_expect(output, "thin   1,234,567     10   1,000           3.5000         5.0494                  -  "
                           "1.000e+09      0.7    step 10 of 20\n");
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
    expect_death("words and bytes", compare_call, &both, "different vocabularies (50304 and 257)");
    compare_put_checkpoint("one", 0, "10", "1e6", 257);
    output = compare_output(both);
    compare_expect(output, "long      0       0           6.0000    -4.8000     step 0 of 20\n");
    free(output);
    // A run of one step that wrote no line of it has the tokens of a step by its checkpoint.
    compare_put_checkpoint("first", 1, "10", "1e6", 257);
    compare_put_metrics("first", "{\"step\": 0, \"val_loss\": 6}\n{\"step\": 1, \"val_loss\": 5}\n");
    CompareCall first = {1, {"first=@first"}};
    output = compare_output(first);
    compare_expect(output, " 1     100           5.0000 ");
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
                         "@table.md", "--title=<&>=\"title\x02\"", "--x=steps,flops"}};
    char* output = compare_output(call);
    compare_expect(output, "a<b>&\"'|\\_*`");
    compare_expect(output, "new?line??\xc3\xa9");
    free(output);
    char* table = compare_get("table.md");
    compare_expect(table, "a&lt;b&gt;&amp;\"'\\|\\\\\\_\\*\\`");
    size_t pipes = 0;  // of the first row: ten columns have eleven; an escaped one is not among them
    for (const char* s = strstr(table, "a&lt;"); s && *s && *s != '\n'; s++) { pipes += *s == '|' && s[-1] != '\\'; }
    CHECK(pipes == 10, "%zu cell ends after the name, expected 10 in:\n%s", pipes, table);
    free(table);
    char* svg = compare_get("out.svg");
    compare_check_xml(svg);
    compare_expect(svg, ">a&lt;b&gt;&amp;\"'|\\_*` 2.000<");
    compare_expect(svg, ">&lt;&amp;&gt;=\"title?\"<");
    compare_expect(svg, "@media (prefers-color-scheme: dark)");
    compare_expect(svg, "At equal steps");
    compare_expect(svg, "At equal compute");
    compare_expect(svg, ">Validation loss in nats per byte; a mark is a validation<");
    compare_expect(svg, ">optimiser steps<");
    free(svg);
    compare_teardown();
}

// A single run is one panel, as wide as it needs to be.
static void test_compare_one_panel(void) {
    compare_setup();
    compare_put_run("plain", 6, 4, 2, 1e6, 1);
    CompareCall call = {3, {"plain=@plain", "--svg=@out.svg", "--title=T"}},
                two = {3, {"plain=@plain", "--svg=@out.svg", "--x=steps,flops"}};
    free(compare_output(call));
    char* svg = compare_get("out.svg");
    CHECK(compare_times(svg, "<g transform=") == 1, "one panel, in:\n%s", svg);
    double width = 0;
    const char* box = strstr(svg, "viewBox=\"0 0 ");
    CHECK(box && sscanf(box, "viewBox=\"0 0 %lf", &width) == 1 && width > SVG_LEFT + SVG_WIDTH + 60 &&
              width < SVG_LEFT + SVG_WIDTH + 160,
          "%.0f pixels wide", width);
    compare_expect_not(svg, "At equal");  // to what?
    free(svg);
    free(compare_output(two));  // asked for, there are two
    svg = compare_get("out.svg");
    CHECK(compare_times(svg, "<g transform=") == 2, "two panels, in:\n%s", svg);
    free(svg);
    compare_teardown();
}

// The picture of a run that goes 6, 4, 2 at steps 0, 10, 20 beside one of four times the FLOPs that goes 6, 3, 1.
// Losses from 1 to the 5.6 of the first after a tenth of its steps; with 6 percent of that at either end from 0.724 to
// 5.876: 330 pixels for 5.152.
static void test_compare_picture(void) {
    compare_setup();
    compare_put_run("plain", 6, 4, 2, 1e6, 1);
    compare_put_run("wide", 6, 3, 1, 4e6, 3);
    CompareCall call = {5, {"plain=@plain", "wide=@wide", "--svg=@out.svg", "--title", "Two runs"}};
    free(compare_output(call));
    char* svg = compare_get("out.svg");
    compare_expect(svg, ">Two runs<");
    char* panel[] = {strstr(svg, ">At equal steps<"), strstr(svg, ">At equal compute<")};
    CHECK(panel[0] && panel[1] && panel[0] < panel[1], "no panels at equal steps and compute in:\n%s", svg);
    if (!panel[0] || !panel[1]) { return; }
    compare_expect(
        panel[1],
        "d=\"M0.0 -7.9L50.0 120.2L100.0 248.3\"/><path class=\"marks\" stroke-width=\"5.6\" d=\"M0.0 -7.9h0M50.0 "
        "120.2h0M100.0 248.3h0\"/></svg>\n<circle cx=\"100.0\" cy=\"248.3\"");
    compare_expect(
        panel[1],
        "d=\"M0.0 -7.9L200.0 184.2L400.0 312.3\"/><path class=\"marks\" stroke-width=\"5.6\" d=\"M0.0 -7.9h0M200.0 "
        "184.2h0M400.0 312.3h0\"/></svg>\n<circle cx=\"400.0\" cy=\"312.3\"");
    compare_expect(panel[1], "d=\"M100.0 248.3H403l7 0.0\"");  // its label stands level with the end of the line
    compare_expect(panel[1], "y=\"252.3\">plain 2.000<");
    compare_expect(panel[1], ">training compute (GFLOP)<");  // 8 GFLOP, in ticks of 2
    compare_expect(panel[1], "d=\"M300.0 0.0v330\"/>\n<text class=\"c2 middle\" x=\"300.0\" y=\"348.0\">6<");
    panel[1][0] = 0;
    compare_expect(panel[0], "d=\"M0.0 -7.9L200.0 120.2L400.0 248.3\"/>");
    compare_expect(panel[0], "d=\"M0.0 -7.9L200.0 184.2L400.0 312.3\"/>");
    compare_expect(panel[0], "d=\"M100.0 0.0v330\"/>\n<text class=\"c2 middle\" x=\"100.0\" y=\"348.0\">5<");
    compare_expect(panel[0], "d=\"M0.0 56.1h400\"/>\n<text class=\"c2 end\" x=\"-8.0\" y=\"60.1\">5<");
    free(svg);
    compare_teardown();
}

// Labels stand apart and in the order of the losses, inside the picture, outside the plots and in their own panel.
static void compare_check_labels(const char* svg, int rows) {
    double width = 0, left[2], y[COMPARE_MAX_ROWS], loss[COMPARE_MAX_ROWS];
    const char *s = strstr(svg, "viewBox=\"0 0 "), *panels[3] = {NULL, NULL, svg + strlen(svg)};
    CHECK(s && sscanf(s, "viewBox=\"0 0 %lf", &width) == 1, "no viewBox in:\n%s", svg);
    for (int a = 0; a < 2; a++) {
        s = panels[a] = strstr(a ? panels[0] + 1 : svg, "<g transform=\"translate(");
        CHECK(s && sscanf(s, "<g transform=\"translate(%lf 92)", &left[a]) == 1, "no panel %d in:\n%s", a, svg);
        if (!s) { return; }
    }
    for (int a = 0; a < 2; a++) {
        int n = 0;
        for (s = panels[a]; (s = strstr(s, "\"label\"")) != NULL && s < panels[a + 1] && n < COMPARE_MAX_ROWS; s++) {
            char text[200];
            double x = 0, limit = a ? width : left[1] - SVG_LEFT;
            int found = sscanf(s, "\"label\" x=\"%lf\" y=\"%lf\">%199[^<]", &x, &y[n], text);
            CHECK(found == 3 && strrchr(text, ' '), "not a label: %.100s", s);
            if (found != 3 || !strrchr(text, ' ')) { return; }
            loss[n] = atof(strrchr(text, ' '));
            // 0.58 em is what a letter of these names takes in DejaVu Sans, which is wide.
            double right = left[a] + x + 0.58 * 12 * (double)strlen(text);
            CHECK(x > SVG_WIDTH && right <= limit, "label %s: %.0f to %.0f, limit %.0f", text, left[a] + x, right,
                  limit);
            CHECK(y[n] >= 0 && y[n] <= SVG_HEIGHT + 4, "label %s is at %.1f", text, y[n]);
            for (int i = 0; i < n; i++) {
                // Coordinates have one decimal.
                CHECK(fabs(y[i] - y[n]) >= SVG_LINE - 0.11, "label %s is %.1f from label %d", text, y[n] - y[i], i);
                CHECK((loss[i] - loss[n]) * (y[n] - y[i]) >= 0, "label %s, at %.1f, is not in order", text, y[n]);
            }
            n++;
        }
        CHECK(n == rows, "%d labels in panel %d, expected %d", n, a, rows);
    }
}

// Lines that end close together, sixteen in one place (at the bottom of the plot), far apart, at its top.
static void test_compare_labels(void) {
    compare_setup();
    for (int kind = 0; kind < 4; kind++) {
        int rows = kind == 1 ? COMPARE_MAX_ROWS : 5, runs = kind == 0 ? 3 : kind == 1 ? 1 : kind == 2 ? 5 : 2;
        for (int i = 0; i < runs; i++) {
            char* run = format_string("r%d", i);
            double end = 2 + (kind == 0 ? 0.001 * i : kind == 2 ? 0.5 * (i * 2 % 5) : 1.9 * i);
            compare_put_run(run, 6, 4 + 0.01 * i, end, 1e6 * (1 + 0.3 * i), 1);
            free(run);
        }
        CompareCall call = {2, {"--svg", "@out.svg"}};
        char* arguments[COMPARE_MAX_ROWS] = {0};
        for (int i = 0; i < rows; i++) {
            arguments[i] = format_string("a rather long name %d=@r%d", i, i % runs);
            call.arguments[call.count++] = arguments[i];
        }
        free(compare_output(call));
        char* svg = compare_get("out.svg");
        compare_check_xml(svg);
        compare_check_labels(svg, rows);
        free(svg);
        for (int i = 0; i < rows; i++) { free(arguments[i]); }
    }
    compare_teardown();
}

// Of the colour that starts at '#'.
static double compare_luminance(const char* colour) {
    double weight[] = {0.2126, 0.7152, 0.0722}, sum = 0;
    for (int i = 0; i < 3; i++) {
        unsigned value = 0;
        CHECK(sscanf(colour + 1 + 2 * i, "%2x", &value) == 1, "not a colour: %.9s", colour);
        double c = value / 255.0;
        sum += weight[i] * (c <= 0.04045 ? c / 12.92 : pow((c + 0.055) / 1.055, 2.4));
    }
    return sum;
}

// Text is drawn in the colours of the lines, so they need the contrast of text (WCAG: 4.5 : 1), by day and by night.
static void test_compare_contrast(void) {
    const char* styles[] = {svg_style, strstr(svg_style, "@media (prefers-color-scheme: dark)")};
    for (int dark = 0; dark < 2; dark++) {
        double ground = 0;
        for (int k = 0; k < SVG_ROW + SVG_ROWS; k++) {
            char* name = format_string(".c%d{color:#", k);
            const char* rule = styles[dark] ? strstr(styles[dark], name) : NULL;
            CHECK(rule && (dark || rule < styles[1]), "no rule %s for %s", name, dark ? "night" : "day");
            double light = rule ? compare_luminance(strchr(rule, '#')) : 0;
            if (k == 0) { ground = light; }
            double contrast = (fmax(light, ground) + 0.05) / (fmin(light, ground) + 0.05);
            CHECK(k == 0 || k == 3 || contrast >= 4.5, "%s by %s: %.2f", name, dark ? "night" : "day", contrast);
            free(name);
        }
        CHECK(dark ? ground < 0.05 : ground > 0.9, "a background of luminance %.2f by %s", ground,
              dark ? "night" : "day");
    }
}

static void test_compare_numbers(void) {
    static const struct {
        double span;
        int most;
        double step;
    } cases[] = {{1600, 5, 500}, {1, 5, 0.2},  {1.82, 10, 0.2},   {7.2e13, 6, 2e13}, {0.61, 4, 0.2},
                 {20, 5, 5},     {1, 10, 0.1}, {0.013, 5, 0.005}, {2e9, 2, 1e9},     {6, 1, 10}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double step = svg_tick(cases[i].span, cases[i].most);
        CHECK(fabs(step - cases[i].step) <= 1e-9 * cases[i].step, "case %zu: a tick of %g", i, step);
    }
    StringBuilder sb = {0};
    double numbers[] = {0, 999, 1000, -123456, 1234567};
    for (int i = 0; i < 5; i++) { compare_whole(&sb, numbers[i]); }
    CHECK(strcmp(sb.data, "\t0\t999\t1,000\t-123,456\t1,234,567") == 0, "%s", sb.data);
    free(sb.data);
    CHECK(compare_near(99.005, 100) && compare_near(100.995, 100) && !compare_near(98.995, 100) &&
              !compare_near(101.005, 100),
          "a hundredth of what is compared with");
    static const struct {
        const char *a, *b;
        int same;
    } texts[] = {{"4e-3", "0.004", 1}, {"4e-3", "0.005", 0}, {"-", "0", 0},  {"", "0", 0},
                 {"a", "a", 1},        {"a", "b", 0},        {"1", "1a", 0}, {"nan", "nan", 1}};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        CHECK(compare_same_text(texts[i].a, texts[i].b) == texts[i].same, "%s and %s", texts[i].a, texts[i].b);
    }
}

static void test_compare_bad_input(void) {
    compare_setup();
    compare_put_run("good", 6, 4, 2, 1e6, 1);
    compare_put_run("other", 6, 4, 2, 2e6, 1);
    compare_put_run("bare", 6, 4, 2, 1e6, 1);
    char* bare = format_string("%s/bare/step_00000020", compare_root);
    directory_remove_tree(bare);
    free(bare);
    compare_put("empty/note", "");
    static const struct {
        const char *name, *metrics, *words;
    } files[] = {
        {"void", "", "metrics.jsonl|no line with a \"val_loss\""},
        {"blind", "{\"step\": 1, \"tokens\": 100, \"loss\": 3, \"ms\": 1}\n", "no line with a \"val_loss\"|--val"},
        {"malformed", "{\"step\": 0, \"val_loss\": 6}\n{\"step\": 10, \"val_\n{\"step\": 20, \"val_loss\": 6}\n",
         "metrics.jsonl, line 2"},
        {"nan", "{\"step\": 0, \"val_loss\": NaN}\n", "metrics.jsonl, line 1|NaN"},
        {"null", "{\"step\": 0, \"val_loss\": 6}\n{\"step\": 5, \"val_loss\": null}\n", "line 2|step 5|diverged"},
        {"passes", "{\"step\": 0, \"val_loss\": 6, \"val_loss_pass\": [6, null]}\n", "line 1|val_loss_pass|[1]"},
        {"passes2", "{\"step\": 0, \"val_loss\": 6, \"val_loss_pass\": 6}\n", "line 1|val_loss_pass|array"},
        {"twice", "{\"step\": 5, \"val_loss\": 6}\n{\"step\": 5, \"val_loss\": 6}\n",
         "line 2|step 5 comes after step 5"},
        {"fewer", "{\"step\": 0, \"val_loss\": 6, \"val_loss_pass\": [6, 6]}\n{\"step\": 5, \"val_loss\": 6}\n",
         "line 2|0 passes, but 2 before"},
        {"negative", "{\"step\": -1, \"val_loss\": 6}\n", "line 1|\"step\" that is 0 or more"},
        {"timeless", "{\"step\": 1, \"tokens\": 1, \"loss\": 6, \"ms\": -1}\n", "line 1|\"ms\""},
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
                  {"[]", "trainer_state.json|parameters"},
                  {"{\"step\": 1, \"tokens\": 1, \"parameters\": 5}", "trainer_state.json|flops_per_token"},
                  {"{\"step\": 1, \"tokens\": 1, \"parameters\": 5, \"flops_per_token\": 1}", "\"total_steps\""},
                  {"{\"step\": 1, \"tokens\": 1, \"parameters\": 0, \"flops_per_token\": 1}", "parameters"},
                  {"{\"tokens\": 1, \"parameters\": 5, \"flops_per_token\": 1}", "\"step\""},
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
        {{2, {"x=@good", "--x=steps,steps,steps,steps,steps"}}, "--x|up to 4"},
        {{3, {"x=@good", "--svg", "@no/such/file"}}, "no/such/file|could not be"},
        {{3, {"x=@good", "--svg", "@full"}}, "/full|could not be|No space"},
        {{3, {"x=@good", "--table", "@full"}}, "/full|could not be|No space"},
        {{17,
          {"a=1", "b=1", "c=1", "d=1", "e=1", "f=1", "g=1", "h=1", "i=1", "j=1", "k=1", "l=1", "m=1", "n=1", "o=1",
           "p=1", "q=1"}},
         "more than 16 rows"},
    };
    char* device = format_string("%s/full", compare_root);
    int full = test_device(device, 7);
    free(device);
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        CompareCall call = calls[i].call;
        if (!full && strstr(calls[i].words, "/full")) { continue; }
        char* what = format_string("call %zu", i);
        expect_death(what, compare_call, &call, calls[i].words);
        free(what);
    }
    CompareCall help = {1, {"--help"}};
    char* output = compare_output(help);
    static const char* const words[] = {"usage: compare", "--svg FILE", "--table FILE",
                                        "--title TEXT",   "--x AXES",   "--flops-of DIR"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) { compare_expect(output, words[i]); }
    free(output);
    compare_teardown();
}

static void compare_tests(void) {
    RUN(test_compare_table);
    RUN(test_compare_equal_flops);
    RUN(test_compare_middle);
    RUN(test_compare_settings);
    RUN(test_compare_flops_of);
    RUN(test_compare_names);
    RUN(test_compare_seeds);
    RUN(test_compare_uneven);
    RUN(test_compare_single_point);
    RUN(test_compare_escaping);
    RUN(test_compare_picture);
    RUN(test_compare_one_panel);
    RUN(test_compare_labels);
    RUN(test_compare_contrast);
    RUN(test_compare_numbers);
    RUN(test_compare_bad_input);
}

#endif

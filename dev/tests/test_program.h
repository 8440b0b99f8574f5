// test_program.h - the trainer as its user runs it: build/train_X in child processes. Included after
// test_model.h.
//
// What the loop does with any model is tested with a toy in test_train.h; here is what needs the
// real program: instruction sets, threads, checkpoints of a real model, command line to exit code.
#ifndef PONDER_TEST_PROGRAM_H
#define PONDER_TEST_PROGRAM_H

#include "test.h"
#include "../../common/files/file.h"
#include "../../common/files/json.h"
#include "../../common/files/safetensors.h"

#include <signal.h>
#include <sys/stat.h>

#ifndef BUILD_DIR
#define BUILD_DIR "build"
#endif

static char* program_folder;  // of this run, removed at the end

// Runs a shell command; returns all it wrote, stderr included (the caller frees it), and its exit
// status as the shell has it.
static char* run_shell(const char* command, int* status) {
    char* whole = format_string("{ %s\n} 2>&1", command);
    FILE* pipe = popen(whole, "r");
    if (!pipe) { die("popen: %s", strerror(errno)); }
    free(whole);
    StringBuilder sb = {0};
    char chunk[4096];
    for (size_t got; (got = fread(chunk, 1, sizeof chunk, pipe)) > 0;) { sb_append(&sb, chunk, got); }
    sb_append(&sb, "", 0);
    int ended = pclose(pipe);
    *status = WIFEXITED(ended) ? WEXITSTATUS(ended) : 128 + WTERMSIG(ended);
    return sb.data;
}

// The same with a command to be formatted; `output` may be NULL.
__attribute__((format(printf, 2, 3))) static int shell(char** output, const char* fmt, ...) {
    char command[4096];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(command, sizeof command, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof command) { die("a command is too long: %s", fmt); }
    int status;
    char* text = run_shell(command, &status);
    if (output) {
        *output = text;
    } else {
        free(text);
    }
    return status;
}

static void must(const char* command) {
    char* output;
    int code = shell(&output, "%s", command);
    CHECK(code == 0, "exit %d of: %s\n%s", code, command, output);
    free(output);
}

// The command must exit with `code` and say all of `words` ('|' between them).
static void expect_exit(int code, const char* words, const char* command) {
    char* output;
    int got = shell(&output, "%s", command);
    CHECK(got == code, "exit %d, expected %d, of: %s\n%s", got, code, command, output);
    char* list = format_string("%s", words);
    for (char* word = strtok(list, "|"); word; word = strtok(NULL, "|")) {
        CHECK(strstr(output, word) != NULL, "no '%s' from: %s\n%s", word, command, output);
    }
    free(list);
    free(output);
}

static int same_file(const char* a, const char* b) {
    char* command = format_string("cmp -s %s %s", a, b);
    int code = shell(NULL, "%s", command);
    free(command);
    return code == 0;
}

// A tiny corpus and the arguments of a tiny model, once.
static const char* program_setup(void) {
    static char arguments[1024];
    if (program_folder) { return arguments; }
    program_folder = test_directory("program");
    char* command =
        format_string(BUILD_DIR "/bytes --out-train %s/train.bin --out-val %s/val.bin ponder.cuh train_" TEST_NAME
                                ".cu test_ponder.c test_" TEST_NAME ".c README.md Makefile",
                      program_folder, program_folder);
    must(command);
    free(command);
    snprintf(arguments, sizeof arguments,
             "--model %s --layers 2 --width 32 --heads 2 --vocab 257 --seq 48 --batch 3 --total-batch 288 "
             "--train %s/train.bin --val %s/val.bin "
             "--val-batches 2 --val-every 3 --sample-tokens 8 --lr 3e-3",
             TEST_PRESET, program_folder, program_folder);
    return arguments;
}

static void program_cleanup(void) {
    if (program_folder) { shell(NULL, "rm -rf %s", program_folder); }
}

#define TRAIN BUILD_DIR "/train_" TEST_NAME

// The lines of metrics.jsonl without what is timed.
static char* untimed_metrics(const char* out) {
    int status;
    char* command = format_string("sed -E 's/\"(ms|tokens_per_s|utilisation|time)\": *[^,}]*//g' %s/%s/metrics.jsonl",
                                  program_folder, out);
    char* text = run_shell(command, &status);
    free(command);
    return text;
}

static void check_same_run(const char* a, const char* b, const char* step) {
    const char* const files[] = {"model.safetensors", "optimizer.safetensors", "config.json"};
    for (int i = 0; i < 3; i++) {
        char* x = format_string("%s/%s/%s/%s", program_folder, a, step, files[i]);
        char* y = format_string("%s/%s/%s/%s", program_folder, b, step, files[i]);
        CHECK(same_file(x, y), "%s and %s differ", x, y);
        free(x);
        free(y);
    }
    char *x = untimed_metrics(a), *y = untimed_metrics(b);
    CHECK(strcmp(x, y) == 0 && strstr(x, "val_loss_pass"), "metrics of %s and %s differ:\n%s\n%s", a, b, x, y);
    free(x);
    free(y);
}

static void train(const char* environment, const char* out, const char* more) {
    const char* base = program_setup();  // first: it makes the folder
    char* command = format_string("%s " TRAIN " %s --out %s/%s %s", environment, base, program_folder, out, more);
    must(command);
    free(command);
}

// Threads 1, 2, 3 and every instruction set of this machine: the same checkpoint and metrics.
// 1 if the program runs with these variables: that of a sanitizer has one instruction set.
static int program_runs_with(const char* environment) {
    char* probe;
    int code = shell(&probe, "%s " TRAIN " --help >/dev/null", environment);
    if (code != 0) {
        CHECK(strstr(probe, "PONDER_ISA is"), "%s: %s", environment, probe);
        printf("  not on this machine: %s\n", environment);
    }
    free(probe);
    return code == 0;
}

static void test_same_bits_everywhere(void) {
    train("OMP_NUM_THREADS=2", "bits", "--ponder 2 --steps 6 --ponder-top-k 100");
    const char* const environments[][2] = {{"OMP_NUM_THREADS=1", "threads1"},
                                           {"OMP_NUM_THREADS=3", "threads3"},
                                           {"PONDER_ISA=portable", "portable"},
                                           {"PONDER_ISA=avx2", "avx2"},
                                           {"PONDER_ISA=avx512 OMP_NUM_THREADS=1", "avx512"}};
    int ran = 0;
    for (size_t i = 0; i < sizeof environments / sizeof environments[0]; i++) {
        if (!program_runs_with(environments[i][0])) { continue; }
        train(environments[i][0], environments[i][1], "--ponder 2 --steps 6 --ponder-top-k 100");
        check_same_run("bits", environments[i][1], "step_00000006");
        ran++;
    }
    CHECK(ran >= 3, "only %d ways to run", ran);
    expect_exit(1, "PONDER_ISA|sse9", "PONDER_ISA=sse9 " TRAIN " --help");
}

static void test_resume_is_exact(void) {
    train("", "whole", "--ponder 1 --steps 8 --save-every 4 --keep 2");
    train("", "parts", "--ponder 1 --steps 8 --save-every 4 --keep 2 --max-minutes 0.0000001");
    train("", "parts", "--ponder 1 --steps 8 --save-every 4 --keep 2 --resume");
    check_same_run("whole", "parts", "step_00000008");
    // Killed again and again, a little later each time (so that a slow machine gets there too).
    program_setup();
    char* command =
        format_string("n=0; while [ $n -lt 60 ]; do n=$((n+1)); timeout -s KILL $((n / 10)).$((n %% 10)) " TRAIN
                      " %s --out %s/killed --ponder 1 --steps 8 --save-every 1 --keep 2 "
                      "--resume >%s/killed.log 2>&1 && exit 0; done; cat %s/killed.log; exit 1",
                      program_setup(), program_folder, program_folder, program_folder);
    must(command);
    free(command);
    check_same_run("whole", "killed", "step_00000008");
    char* listing;
    shell(&listing, "ls -A %s/killed", program_folder);
    CHECK(strcmp(listing, "lock\nmetrics.jsonl\nstep_00000007\nstep_00000008\n") == 0, "left behind:\n%s", listing);
    free(listing);
    // Finished: prints its results and changes nothing.
    command = format_string(TRAIN " %s --out %s/whole --ponder 1 --steps 8 --save-every 4 --resume", program_setup(),
                            program_folder);
    expect_exit(0, "finished|val_loss", command);
    free(command);
}

// A run that starts from a checkpoint's directory has its weights; --eval-only prints its loss.
static void test_start_from_a_directory(void) {
    program_setup();
    train("", "start", "--ponder 2 --steps 3 --tie 0");
    char* command = format_string(
        TRAIN " --model %s/start/step_00000003 --val %s/val.bin --val-batches 2 --seq 48 --batch 3 --eval-only",
        program_folder, program_folder);
    char* said;
    CHECK(shell(&said, "%s", command) == 0, "%s: %s", command, said);
    char* metrics = untimed_metrics("start");
    const char* last = strstr(metrics, "\"step\": 3, \"val_loss\": ");
    CHECK(last != NULL, "%s", metrics);
    double trained = last ? strtod(last + 23, NULL) : 0;
    const char* line = strstr(said, "\nval_loss ");
    double evaluated = line ? strtod(line + 10, NULL) : -1;
    // Half a unit of the six digits that --eval-only prints, and the rounding of the nine of metrics.jsonl.
    CHECK(fabs(evaluated - trained) <= 6e-7, "evaluated %.9g, trained to %.9g\n%s", evaluated, trained, said);
    CHECK(strstr(said, "\nval_loss_pass 0 ") && strstr(said, "\nval_loss_pass 2 ") && strstr(said, "perplexity") &&
              strstr(said, "bits"),
          "%s", said);
    // Without --seq a directory is used at its own length, here that of the training; a preset at its own too.
    free(command);
    command =
        format_string(TRAIN " --model %s/start/step_00000003 --val %s/val.bin --val-batches 2 --batch 3 --eval-only",
                      program_folder, program_folder);
    char* words = format_string("rows of 48|\nval_loss %.6f\n", evaluated);
    expect_exit(0, words, command);
    free(words);
    free(command);
    command = format_string(TRAIN " --model %s --layers 1 --width 32 --heads 2 --plan", TEST_PRESET);
    int usual = TEST_ARCHITECTURE.presets[0].size.P;
    words = format_string("rows of %d tokens", usual ? usual : TEST_ARCHITECTURE.usual_length);
    expect_exit(0, words, command);
    free(words);
    free(command);
    if (TEST_ARCHITECTURE.any_length) {  // the positions of a Llama 3 are no wish for rows of so many
        shell(NULL,
              "mkdir %s/long && sed 's/max_position_embeddings\": 48/max_position_embeddings\": 131072/' "
              "%s/start/step_00000003/config.json > %s/long/config.json && cp %s/start/step_00000003/model.safetensors "
              "%s/long",
              program_folder, program_folder, program_folder, program_folder, program_folder);
        command = format_string(TRAIN " --model %s/long --plan", program_folder);
        words = format_string("rows of %d tokens", TEST_ARCHITECTURE.usual_length);
        expect_exit(0, words, command);
        free(words);
        free(command);
    }
    free(said);
    free(metrics);
    command = format_string(TRAIN " %s --model %s/start/step_00000003 --layers 3 --out %s/wrong --steps 1",
                            program_setup(), program_folder, program_folder);
    expect_exit(1, ".2.|model.safetensors", command);
    free(command);
    // A model of many terabytes: that the weights do not fit it is said before memory is asked for.
    command =
        format_string(TRAIN " %s --model %s/start/step_00000003 --width 1048576 --ff 4194304 --out %s/wrong --steps 1",
                      program_setup(), program_folder, program_folder);
    expect_exit(1, "model.safetensors|has shape|the model needs", command);
    free(command);
}

// Options that would make another model of the weights of a directory, though every shape fits.
static void test_options_beside_weights(void) {
    const char* base = program_setup();
    train("", "beside", "--steps 1 --tie 0");
    const struct {
        int code;
        const char *more, *words;
    } lines[] = {
        {1, "--heads 4", "--heads 4: the weights were made with 2 heads (|/config.json)|leave --heads out"},
        {0, "--heads 2", "val_loss"},
        {1, "--tie 1", "--tie 1 with two different tables: |(--tie 0 keeps both)"},
        {0, "--tie 0", "val_loss"},
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char* command = format_string(TRAIN " %s --model %s/beside/step_00000001 --eval-only --out %s/beside %s", base,
                                      program_folder, program_folder, lines[i].more);
        expect_exit(lines[i].code, lines[i].words, command);
        free(command);
    }
}

static void test_a_nan_stops_the_run(void) {
    program_setup();
    char* command = format_string(
        TRAIN " %s --ponder 2 --steps 40 --save-every 1 --keep 0 --lr 1e6 --clip 0 --warmup-steps 3 --out %s/nan",
        program_setup(), program_folder);
    expect_exit(1, "step |not finite|checkpoint is", command);
    free(command);
    command = format_string(
        TRAIN " --model %s/nan/step_00000001 --val %s/val.bin --val-batches 1 --seq 48 --batch 3 --eval-only",
        program_folder, program_folder);
    must(command);  // what was saved before stays usable
    free(command);
}

// ---- --precision ----

// 0, and the test is skipped, on x86 without AVX2, which has none.
static int has_bf16(void) {
#if defined(__x86_64__)
    if (!program_runs_with("PONDER_ISA=avx2") && !program_runs_with("PONDER_ISA=avx512")) {
        test_skip("no bf16 on this processor");
        return 0;
    }
#endif
    return 1;
}

// A short run in bf16: it says what it is in, and what it leaves is not what fp32 leaves.
static void test_precision_of_a_run(void) {
    if (!has_bf16()) { return; }
    const char* base = program_setup();
    train("", "fp32", "--ponder 1 --steps 3");
    char* command =
        format_string(TRAIN " %s --ponder 1 --steps 3 --precision bf16 --out %s/bf16", base, program_folder);
    expect_exit(0, "computes in bf16 by|sums and attention in fp32|val_loss_pass 1 ", command);
    free(command);
    command = format_string("cd %s && cmp -s fp32/step_00000003/model.safetensors bf16/step_00000003/model.safetensors "
                            "&& exit 1; grep -q '\"precision\": \"fp32\"' fp32/step_00000003/trainer_state.json && "
                            "cd bf16/step_00000003 && grep -q '\"precision\": \"bf16\"' trainer_state.json && grep -q "
                            "'\"arithmetic\": \"bf16 on a CPU, sums as by .DPBF16PS\"' trainer_state.json && grep -q "
                            "'computed in bf16 on a "
                            "CPU' README.md && grep -q -e '--precision bf16' README.md",
                            program_folder);
    must(command);
    free(command);
}

// The same bits for other threads and instruction sets, and for a run that is stopped and goes on in what it is in. There are
// two orders of sums, by the instructions that the processor has; fp32 instructions make both.
static void test_precision_same_bits(void) {
    if (!has_bf16()) { return; }
    const char* base = program_setup();
    train("OMP_NUM_THREADS=2 PONDER_BF16=fp32", "bits16", "--ponder 1 --steps 6 --save-every 3 --precision bf16");
    train("OMP_NUM_THREADS=1 PONDER_BF16=fp32", "parts16",
          "--ponder 1 --steps 6 --save-every 3 --precision bf16 --max-minutes 1e-7");
    char* command =
        format_string("OMP_NUM_THREADS=1 PONDER_BF16=fp32 " TRAIN " --resume --out %s/parts16", program_folder);
    expect_exit(0, "resumed from|computes in bf16 by fp32", command);
    free(command);
    check_same_run("bits16", "parts16", "step_00000006");
    train("PONDER_BF16=fp32-pairs", "pairs16", "--ponder 1 --steps 6 --save-every 3 --precision bf16");
    CHECK(shell(NULL, "cd %s && cmp -s bits16/step_00000006/model.safetensors pairs16/step_00000006/model.safetensors",
                program_folder) != 0,
          "both orders of sums end with the same bits");
    train("", "usual16", "--ponder 1 --steps 6 --save-every 3 --precision bf16");
    char* state =
        format_string("grep -q 'as by TDPBF16PS' %s/usual16/step_00000006/trainer_state.json", program_folder);
    check_same_run(shell(NULL, "%s", state) == 0 ? "bits16" : "pairs16", "usual16", "step_00000006");
    free(state);
    command = format_string("PONDER_BF16=fp32 " TRAIN " --resume --steps 7 --out %s/pairs16", program_folder);
    expect_exit(0, "computed in bf16 on a CPU, sums as by TDPBF16PS (was bf16 on a CPU, sums as by VDPBF16PS)",
                command);
    free(command);
    expect_exit(1, "PONDER_BF16 is 'half'; this processor and this build have:|fp32 fp32-pairs",
                "PONDER_BF16=half " TRAIN " --precision bf16 --plan");
    static const char* const isas[] = {"portable", "avx2", "avx512"};
    int ran = 0;
    for (int i = 0; i < 3; i++) {
        char *environment = format_string("PONDER_BF16=fp32 PONDER_ISA=%s", isas[i]),
             *out = format_string("bits16_%s", isas[i]);
        if (program_runs_with(environment)) {
            command = format_string("%s " TRAIN " %s --precision bf16 --steps 1 --out %s/%s", environment, base,
                                    program_folder, out);
            char* said;
            int code = shell(&said, "%s --plan", command);
            if (code == 0) {
                train(environment, out, "--ponder 1 --steps 6 --save-every 3 --precision bf16");
                check_same_run("bits16", out, "step_00000006");
                ran++;
            } else {  // nothing is begun, and a run that is there is not taken for one in fp32
                expect_exit(1, "--precision bf16: |no bf16 for|instructions|expected --precision fp32", command);
                char* resume =
                    format_string("%s " TRAIN " --resume --eval-only --out %s/bits16", environment, program_folder);
                expect_exit(1, "--precision bf16, as the run in --out |no bf16 for", resume);
                free(resume);
                CHECK(shell(NULL, "test ! -e %s/%s", program_folder, out) == 0, "%s was begun", out);
            }
            free(said);
            free(command);
        }
        free(environment);
        free(out);
    }
    CHECK(ran >= 1, "bf16 in no instruction set");
}

// What a run in bf16 is asked when it is there: the precision is its own, a change of it is said and remembered.
static void test_precision_belongs_to_the_run(void) {
    if (!has_bf16()) { return; }
    program_setup();
    train("", "own16", "--ponder 1 --steps 2 --precision bf16");
    char* metrics = untimed_metrics("own16");
    const char* last = strstr(metrics, "\"step\": 2, \"val_loss\": ");
    CHECK(last != NULL, "%s", metrics);
    char* loss = format_string("val_loss %.6f", last ? strtod(last + 23, NULL) : 0);
    const struct {
        int code;
        const char *words, *options;
    } lines[] = {
        {0, loss, "--resume --eval-only --out OWN"},
        {0, loss, "--model OWN/step_00000002 --precision bf16 --eval-only --ponder 1"},
        {0, "computed in bf16 on a CPU", "--resume --out OWN --generate --prompt a --sample-tokens 9 --context 48"},
        {0, "computed in fp32 on a CPU",
         "--resume --out OWN --generate --prompt a --sample-tokens 9 --context 48 --precision fp32"},
        {0, "computed in fp32 on a CPU", "--model OWN/step_00000002 --generate --prompt a --sample-tokens 9"},
        {0, "computed in bf16 on a CPU",
         "--model OWN/step_00000002 --generate --prompt a --sample-tokens 9 --precision bf16 --weights bf16"},
        {0, "mean loss", "--resume --out OWN --explain --prompt ab --page OWN/page.html"},
        {0, "wrote |grads.safetensors", "--model OWN/step_00000002 --precision bf16 --dump OWN/dump"},
        {1, "other options|--precision bf16 (now fp32)", "--ponder 1 --steps 2 --resume=same --out OWN"},
        {0, "finished: step 2 of 2", "--ponder 1 --steps 2 --resume=same --precision bf16 --out OWN"},
        {0, "--precision fp32 (was bf16)|computed in fp32 on a CPU (was bf16 on a CPU, sums as by |step 3 of 3",
         "--resume --steps 3 --precision fp32 --out OWN"},
        {0, "computes in fp32|val_loss", "--resume --eval-only --out OWN"},
        {1, "changed when it was resumed: --steps, --precision|--precision fp32 (now bf16)",
         "--ponder 1 --steps 3 --resume=same --precision bf16 --out OWN"},
        {1, "--precision 'half': expected one of fp32, bf16", "--precision half"},
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        StringBuilder sb = {0};
        if (!strstr(lines[i].options, "--generate") && !strstr(lines[i].options, "--explain")) {
            sb_printf(&sb, "%s ", strstr(lines[i].options, "--resume --") ? "" : program_setup());
        }
        for (const char* p = lines[i].options; *p; p++) {
            int own = strncmp(p, "OWN", 3) == 0;
            if (own) { sb_printf(&sb, "%s/own16", program_folder), p += 2; }
            if (!own) { sb_append(&sb, p, 1); }
        }
        char* command = format_string(TRAIN " %s", sb.data);
        expect_exit(lines[i].code, lines[i].words, command);
        free(command);
        free(sb.data);
    }
    free(loss);
    free(metrics);
}

// A hundred steps stay beside those of fp32; what is not finite is named; activations take less memory.
// Killed between the two renames of a checkpoint; and from before there was the option, when its arithmetic alone said it.
// Of the lines @ is the directory of the run.
static void test_precision_found(void) {
    if (!has_bf16()) { return; }
    program_setup();
    train("", "found16", "--ponder 1 --steps 2 --precision bf16");
    static const struct {
        int code;
        const char *words, *line;
    } lines[] = {
        {0, "", "mv @/step_00000002 @/.old_step_00000002"},
        {0, "computes in bf16|step 3 of 3", TRAIN " --resume --steps 3 --out @"},
        {0, "", "grep -q '\"precision\": \"bf16\"' @/step_00000003/trainer_state.json"},
        {0, "", "sed -i '/\"precision\"/d' @/step_00000003/trainer_state.json"},
        {1, "", "grep '\"precision\": ' @/step_00000003/trainer_state.json"},
        {0, "computes in bf16", TRAIN " --resume --eval-only --out @"},
        {1, "--precision bf16 (now fp32)", TRAIN " --ponder 1 --steps 3 --resume=same --out @"},
        {0, "computes in bf16|step 4 of 4", TRAIN " --resume --steps 4 --precision bf16 --out @"},
        {1, "", "grep 'altered.*precision' @/step_00000004/trainer_state.json"},
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        StringBuilder sb = {0};
        for (const char* p = lines[i].line; *p; p++) {
            if (*p == '@') {
                sb_printf(&sb, "%s/found16", program_folder);
            } else {
                sb_append(&sb, p, 1);
            }
        }
        expect_exit(lines[i].code, lines[i].words, sb.data);
        free(sb.data);
    }
}

static void test_precision_hundred_steps(void) {
    if (!has_bf16()) { return; }
    const char* base = program_setup();
    enum { STEPS = TEST_SANITIZED ? 10 : 100 };
    double losses[2][STEPS], worst = 0;
    for (int half = 0; half < 2; half++) {
        const char* out = half ? "hundred16" : "hundred32";
        char* options = format_string("--ponder 1 --steps %d --val-every 0%s", STEPS, half ? " --precision bf16" : "");
        train("", out, options);
        free(options);
        char* metrics = untimed_metrics(out);
        const char* at = metrics;
        for (int i = 0; i < STEPS; i++) {
            at = at ? strstr(at, "\"loss\": ") : NULL;
            losses[half][i] = at ? strtod(at += 8, NULL) : (double)NAN;
        }
        free(metrics);
    }
    for (int i = 0; i < STEPS; i++) { worst = fmax(worst, fabs(losses[1][i] / losses[0][i] - 1)); }
    printf("  losses of %d steps in bf16: within %.2g of fp32's\n", STEPS, worst);
    // (Measured: 0.0004.)
    CHECK(worst > 0 && worst < 0.002 && (TEST_SANITIZED || losses[0][STEPS - 1] < 0.8 * losses[0][0]),
          "%g, from %g to %g", worst, losses[0][0], losses[0][STEPS - 1]);
    char* command = format_string(
        TRAIN " %s --ponder 1 --steps 40 --lr 1e6 --clip 0 --warmup-steps 3 --precision bf16 --out %s/nan16", base,
        program_folder);
    expect_exit(1, "step |first tensor that is not finite: ", command);
    free(command);
    double kept[2] = {0, 0};
    for (int half = 0; half < 2; half++) {
        char* said;
        shell(&said, TRAIN " %s --ponder 1 --plan --precision %s | grep 'activations kept' | awk '{ print $5 }'", base,
              half ? "bf16" : "fp32");
        kept[half] = strtod(said, NULL);
        free(said);
    }
    CHECK(kept[1] > 0 && kept[1] < 0.7 * kept[0], "activations kept: %g MB in bf16, %g in fp32", kept[1], kept[0]);
}

#define OF_GPU(name) "--" name " is an option of the GPU programs, build/train_" TEST_NAME "_cuda"
static void test_command_lines(void) {
    const struct {
        int code;
        const char *words, *more;
    } lines[] = {
        {0, "--ponder|--total-batch|--schedule|--model", "--help"},
        {0, "parameters|vocabulary mix|FLOPs", "--plan"},
        {1, "--stepz|steps", "--stepz 3"},
        {1, "--steps|10x", "--steps 10x"},
        {1, "--lr|nan", "--lr nan"},
        {1, "--schedule|cosine|linear|constant", "--schedule sawtooth"},
        {1, "--model '" TEST_NAME "-15x'|directory|" TEST_NAME "-", "--model " TEST_NAME "-15x"},
        {1, "width 33|heads 2", "--width 33"},
        {1, "no/such/dir", "--model no/such/dir"},
        {1, "no/such/*.bin", "--train 'no/such/*.bin' --out OUT"},
        {1, "multiply-steps", "--ponder 0 --multiply-steps 1"},
        {1, "--total-batch|100", "--total-batch 100"},
        {1, "heads 2|keys and values 3", "--kv-heads 3"},
        {1, "token 256|vocabulary", "--vocab 100 --out OUT"},
        {1, "README.md", "--train README.md --out OUT"},
        {1, OF_GPU("gpus"), "--gpus 2"},
        {1, OF_GPU("zero"), "--zero=1"},
        {1, OF_GPU("recompute"), "--recompute 1"},
        {1, OF_GPU("compare-cpu"), "--compare-cpu"},
        {1, OF_GPU("plan-link"), "--plan --plan-link 100"},
    };
    const char* base = program_setup();
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char* more = format_string("%s", lines[i].more);
        char* out = strstr(more, "OUT");
        if (out) { *out = 0; }
        char* command = format_string(TRAIN " %s %s%s%s", base, more, out ? program_folder : "", out ? "/lines" : "");
        if (i == 13) {  // every token of the corpus is a byte or the end of text: the error must name it
            expect_exit(1, "train.bin|vocabulary", command);
        } else {
            expect_exit(lines[i].code, lines[i].words, command);
        }
        free(command);
        free(more);
    }
}

// A run says how its threads wait: what it arranged itself, or what its user asked for.
static void test_threads_of_a_run(void) {
    if (test_skips_threads()) { return; }
    program_setup();
    const char* const runs[][2] = {{"", "2 threads waiting briefly"},
                                   {"OMP_WAIT_POLICY=active", "2 threads waiting as OMP_WAIT_POLICY says"}};
    for (int i = 0; i < 2; i++) {
        char* command = format_string(
            "env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT -u KMP_BLOCKTIME -u KMP_LIBRARY OMP_NUM_THREADS=2 %s " TRAIN
            " %s --val-batches 1 --steps 1 --sample-tokens 0 --out %s/waiting%d",
            runs[i][0], program_setup(), program_folder, i);
        expect_exit(0, runs[i][1], command);
        free(command);
    }
}

// A fixture through the command line: what the loop writes to metrics.jsonl and --dump is what PyTorch computed.
static void check_command_line_fixture(const char* fixture) {
    char* path = format_string("%s/expected.json", fixture);
    Json* expected = json_read(path);
    const Json* o = json_get(expected, "options");
    char* common = format_string(
        TRAIN
        " --model %s --train %s/train.bin --val %s/val.bin --seq %d --batch %d --total-batch %d --steps 10 --lr %.17g "
        "--schedule %s --min-lr-ratio %.17g --warmup-ratio %.17g --weight-decay %.17g --beta1 %.17g --beta2 %.17g "
        "--eps %.17g "
        "--clip %.17g --val-batches %d --val-every 0 --shuffle 0 --sample-tokens 0",
        fixture, fixture, fixture, (int)json_get(o, "seq")->number, (int)json_get(o, "batch")->number,
        (int)json_get(o, "total_batch")->number, json_get(o, "lr")->number, json_get(o, "schedule")->string,
        json_get(o, "min_lr_ratio")->number, json_get(o, "warmup_ratio")->number, json_get(o, "weight_decay")->number,
        json_get(o, "beta1")->number, json_get(o, "beta2")->number, json_get(o, "eps")->number,
        json_get(o, "clip")->number, (int)json_get(o, "val_batches")->number);
    const char* name = strrchr(fixture, '/') + 1;
    char* command = format_string("%s --out %s/%s", common, program_folder, name);
    must(command);
    free(command);
    const Json* training = json_get(expected, "training");
    FILE* f = fopen((free(path), path = format_string("%s/%s/metrics.jsonl", program_folder, name)), "r");
    char line[4096];
    int steps = 0;
    while (f && fgets(line, sizeof line, f)) {
        Json* json = json_parse(line, strlen(line), path);
        const Json* loss = json_get(json, "loss");
        int step = (int)json_get(json, "step")->number;
        if (loss) {
            const Json* want = training->items[step - 1];
            steps++;
            // Tolerances as fixture_fp32 has them; a learning rate of at most 0.01 with nine digits is off by 5e-12.
            CHECK(fabs(loss->number - json_get(want, "loss")->number) <= 5e-6, "%s step %d: loss %.9g", name, step,
                  loss->number);
            CHECK(fabs(json_get(json, "grad_norm")->number / json_get(want, "grad_norm")->number - 1) <= 2e-6,
                  "%s step %d: norm", name, step);
            CHECK(fabs(json_get(json, "lr")->number - json_get(want, "lr")->number) <= 6e-12, "%s step %d: lr", name,
                  step);
        } else {
            const Json* want =
                json_get(json_get(expected, step == 0 ? "val_before" : "val_after"), "loss_of_each_pass");
            const Json* got = json_get(json, "val_loss_pass");
            CHECK(got->count == want->count, "%s: passes", name);
            for (int s = 0; s < got->count && s < want->count; s++) {
                CHECK(fabs(got->items[s]->number - want->items[s]->number) <= 5e-6, "%s step %d pass %d: %.9g", name,
                      step, s, got->items[s]->number);
            }
        }
        json_free(json);
    }
    if (f) { fclose(f); }
    CHECK(steps == 10, "%s: %d steps in metrics.jsonl", name, steps);
    command = format_string("%s --dump %s/%s_dump", common, program_folder, name);
    must(command);
    const char* const files[] = {"logits.safetensors", "grads.safetensors"};
    for (int i = 0; i < 2; i++) {
        char* a = format_string("%s/%s_dump/%s", program_folder, name, files[i]);
        char* b = format_string("%s/%s", fixture, files[i]);
        SafeFile *got = safetensors_open(a), *want = safetensors_open(b);
        CHECK(got->count == want->count, "%s: %d tensors, expected %d", files[i], got->count, want->count);
        for (int k = 0; k < want->count; k++) {
            const SafeTensor* t = safetensors_find(got, want->tensors[k].name);
            if (!t && i == 0) { t = &got->tensors[0]; }
            CHECK(t && t->count == want->tensors[k].count, "%s in %s", want->tensors[k].name, files[i]);
            if (!t || t->count != want->tensors[k].count) { continue; }
            float *x = (float*)xalloc(t->count, 4, "a tensor"), *y = (float*)xalloc(t->count, 4, "a tensor");
            safetensors_read(got, t, x);
            safetensors_read(want, &want->tensors[k], y);
            compare_floats(want->tensors[k].name, x, y, t->count, 1e-5);
            free(x);
            free(y);
        }
        safetensors_close(got);
        safetensors_close(want);
        free(a);
        free(b);
    }
    free(command);
    free(common);
    free(path);
    json_free(expected);
}

static void test_command_line_fixtures(void) {
    program_setup();
    int count = 0, found = 0;
    char** names = directory_names("dev/fixtures", &count);
    for (int i = 0; i < count; i++) {
        if (strncmp(names[i], TEST_NAME "-", strlen(TEST_NAME "-")) != 0) { continue; }
        char* fixture = format_string("dev/fixtures/%s", names[i]);
        check_command_line_fixture(fixture);
        free(fixture);
        found++;
    }
    directory_free_names(names);
    CHECK(found >= 4, "%d fixtures in dev/fixtures, expected at least 4", found);
}

static void program_tests(void) {
    RUN(test_command_lines);
    RUN_WHOLE(test_threads_of_a_run);
    RUN(test_same_bits_everywhere);
    RUN_WHOLE(test_resume_is_exact);
    RUN(test_precision_of_a_run);
    RUN_WHOLE(test_precision_same_bits);
    RUN_WHOLE(test_precision_belongs_to_the_run);
    RUN_WHOLE(test_precision_found);
    RUN_WHOLE(test_precision_hundred_steps);
    RUN(test_start_from_a_directory);
    RUN(test_options_beside_weights);
    RUN_WHOLE(test_a_nan_stops_the_run);
    RUN(test_command_line_fixtures);
    program_cleanup();
}

#endif

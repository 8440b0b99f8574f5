// test_resume.h - tests of common/run/resume.h: what trainer_state.json holds comes back, and which options win.
#ifndef PONDER_TEST_RESUME_H
#define PONDER_TEST_RESUME_H

#include "../../common/run/setup.h"
#include "test.h"

// Options as a trainer has them, from a line with blanks; it must live as long as they do.
static OptionTable resume_options(char* line) {
    OptionTable options;
    memset(&options, 0, sizeof options);
    trainer_options(&options, (char*)"NAME", (char*)"help", "toy");
    char* argv[32] = {(char*)"program"};
    int argc = 1;
    for (char* word = strtok(line, " "); word && argc < 32; word = strtok(NULL, " ")) { argv[argc++] = word; }
    options_parse(&options, argc, argv);
    return options;
}

// What an older program did not write is not taken for a change.
static void test_resume_arithmetic(void) {
    static const struct {
        const char *then, *now;
        int same;
    } cases[] = {
        {"bf16 on a GPU", "bf16 on a GPU", 1},
        {"bf16 on a GPU", "fp32 on a GPU", 0},
        {"bf16 on 8 GPUs of 2 machines with NCCL 2.2", "bf16 on 8 GPUs of 2 machines with NCCL 2.2 (ranks 4+4)", 1},
        {"bf16 on 8 GPUs of 2 machines with NCCL 2.2", "bf16 on 8 GPUs of 2 machines with NCCL 2.21 (ranks 4+4)", 0},
        {"bf16 on 8 GPUs with NCCL 2.2 (ranks 4+4)", "bf16 on 8 GPUs with NCCL 2.2 (ranks 6+2)", 0},
        {"bf16 on 8 GPUs with NCCL 2.2 (ranks 4+4)", "bf16 on 8 GPUs with NCCL 2.2", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK(resume_same_arithmetic(cases[i].then, cases[i].now) == cases[i].same, "%s, now %s: expected %d",
              cases[i].then, cases[i].now, cases[i].same);
    }
}

// Every number of a state is written and read back as it was.
static void test_state_round_trip(void) {
    double of_pass[3] = {5.1, 4.0 / 3, 1e-300};
    TrainerState s;
    memset(&s, 0, sizeof s);
    s.step = 11, s.total_steps = 12, s.tokens = 13, s.position = 14, s.seed = INT64_MAX, s.seq = 16;
    s.total_batch = 17, s.rows = 18, s.shards = 0xfedcba9876543210u, s.val_rows = 20, s.parameters = 21;
    s.val_batch = 22;
    s.flops_per_token = 1e10 / 3, s.seconds = 12345.678901234567, s.val_step = 24, s.val_loss = 1.0 / 7;
    s.val_loss_pass = of_pass, s.passes = 3, s.best_step = 28, s.best_val_loss = 1.0 / 11;
    s.val_shards = 1, s.tokenizer = 0x8000000000000000u, s.arithmetic = "fp64 on paper";
    s.val_bytes = 13.0 / 3;
    s.val_since = 23;
    char altered[] = "--lr, the \"validation\"";
    char first[] = "train 'a\\b' \"c\"", second[] = "train --resume";
    char* commands[2] = {first, second};
    s.commands = commands, s.command_count = 2;
    char line[] = "--steps 12";
    OptionTable options = resume_options(line);
    for (int validated = 1; validated >= 0; validated--) {
        if (!validated) { s.val_step = -1, s.command_count = 1; }
        s.val_known = s.tokenizer_known = validated;
        s.altered = validated ? altered : NULL;
        if (!validated) { s.val_since = 0; }
        char* text = state_text(&s, &options);
        Json* json = json_parse(text, strlen(text), "FILE");
        TrainerState r = state_read(json, "FILE");
        CHECK(r.step == s.step && r.total_steps == s.total_steps && r.tokens == s.tokens && r.position == s.position &&
                  r.seed == s.seed && r.seq == s.seq && r.total_batch == s.total_batch && r.rows == s.rows &&
                  r.shards == s.shards && r.val_rows == s.val_rows && r.parameters == s.parameters &&
                  r.val_batch == s.val_batch,
              "whole numbers of %s", text);
        CHECK(r.val_known == validated && r.tokenizer_known == validated && (!validated || r.val_shards == 1) &&
                  (!validated || r.tokenizer == s.tokenizer) && strcmp(r.arithmetic, s.arithmetic) == 0,
              "hashes of %s", text);
        CHECK(r.flops_per_token == s.flops_per_token && r.seconds == s.seconds, "%.17g FLOPs, %.17g s of %s",
              r.flops_per_token, r.seconds, text);
        CHECK(json_get_number(json, "flops", 0, "FILE") == s.flops_per_token * 13, "all FLOPs of %s", text);
        CHECK(r.val_since == s.val_since &&
                  (validated ? r.altered && strcmp(r.altered, altered) == 0 : r.altered == NULL),
              "what was changed of %s", text);
        if (validated) {
            CHECK(r.val_bytes == s.val_bytes, "bytes of a token, %s", text);
            CHECK(r.val_step == 24 && r.val_loss == s.val_loss && r.best_step == 28 &&
                      r.best_val_loss == s.best_val_loss && r.passes == 3 &&
                      memcmp(r.val_loss_pass, of_pass, sizeof of_pass) == 0,
                  "validation of %s", text);
        } else {
            CHECK(r.val_step == -1 && r.best_step == -1 && r.passes == 0, "a validation that has not been: %s", text);
        }
        CHECK(r.command_count == 2 - !validated && strcmp(r.commands[0], first) == 0 &&
                  (!validated || strcmp(r.commands[1], second) == 0),
              "commands of %s", text);
        for (int i = 0; i < r.command_count; i++) { free(r.commands[i]); }
        free(r.commands);
        free(r.altered);
        free(r.val_loss_pass);
        json_free(json);
        free(text);
    }
    free(options.rows);
}

// The steps and the warm-up of a run of 25 steps an epoch, begun with one line and resumed with another: of
// two options that say the same, the one on the command line counts, and counts on.
static void test_resume_rivals(void) {
    static const struct {
        const char *stored, *given;
        int steps, warmup;
        const char* said;
    } cases[] = {
        {"", "", 25, 1, ""},
        {"--steps 9 --warmup-steps 5", "", 9, 5, ""},
        {"--steps 9 --warmup-steps 5", "--warmup-ratio 0.8", 9, 8, "  --warmup-ratio 0.8 (was 0.01)\n"},
        {"--steps 9 --warmup-steps 5 --warmup-ratio 0.3", "--warmup-ratio 0.3", 9, 3, ""},
        {"--steps 9 --warmup-ratio 0.4", "", 9, 4, ""},
        {"--steps 9 --warmup-ratio 0.4", "--warmup-steps 0", 9, 0, "  --warmup-steps 0 (was not set)\n"},
        {"--steps 9 --warmup-steps 5", "--steps 20", 20, 5, "  --steps 20 (was 9)\n"},
        {"--steps 9 --warmup-steps 5", "--epochs 2", 50, 5, "  --epochs 2 (was 1)\n"},
        {"--epochs 2", "", 50, 1, ""},
        {"--epochs 2", "--steps 9", 9, 1, "  --steps 9 (was not set)\n"},
        {"--steps 9 --epochs 2", "", 9, 1, ""},
        {"--steps 9 --epochs 2", "--epochs 2", 50, 1, ""},
        {"--flops 4000", "", 10, 1, ""},
        {"--flops 4399.9", "", 10, 1, ""},
        {"--flops 4000", "--flops 8000", 20, 1, "  --flops 8000 (was 4000)\n"},
        {"--flops 4000", "--steps 20", 20, 1, "  --steps 20 (was not set)\n"},
        {"--flops 4000", "--epochs 2", 50, 1, "  --epochs 2 (was 1)\n"},
        {"--steps 9 --epochs 2", "--flops 4000", 10, 1, "  --flops 4000 (was not set)\n"},
        {"--epochs 2", "--flops 4000 --warmup-ratio 0.5", 10, 5, NULL},
        {"--epochs 1 --warmup-steps 5", "--steps 10 --warmup-ratio 0.2", 10, 2, NULL},
        {"--steps 9 --warmup-ratio 0.5", "--epochs 4 --warmup-steps 3", 100, 3, NULL},
        {"--steps 9 --warmup-steps 2", "--steps 8 --epochs 3 --warmup-ratio 0.5 --warmup-steps 3", 8, 3, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *first = format_string("%s", cases[i].stored), *second = format_string("%s", cases[i].given), none[] = "";
        OptionTable tables[3] = {resume_options(first), resume_options(second), resume_options(none)};
        Json* stored[2];
        for (int next = 1; next <= 2; next++) {  // resumed, and then once more with nothing given
            TrainerState s;
            memset(&s, 0, sizeof s);
            char* text = state_text(&s, &tables[next - 1]);
            stored[next - 1] = json_parse(text, strlen(text), "FILE");
            free(text);
            StringBuilder said = {0};
            sb_append(&said, "", 0);
            state_restore_options(stored[next - 1], "FILE", &tables[next], &said, NULL);
            const char* want = next == 2 ? "" : cases[i].said;
            CHECK(!want || strcmp(said.data, want) == 0, "'%s', then '%s': it says '%s'", cases[i].stored,
                  cases[i].given, said.data);
            free(said.data);
            Trainer t;
            memset(&t, 0, sizeof t);
            t.options = tables[next];
            t.step_rows = 4;
            t.flops_per_token = 10, t.state.total_batch = 40;
            trainer_size_run(&t, 100);
            CHECK(t.state.total_steps == cases[i].steps && t.warmup_steps == cases[i].warmup,
                  "'%s', then '%s': %lld steps, %lld to warm up; expected %d, %d", cases[i].stored, cases[i].given,
                  (long long)t.state.total_steps, (long long)t.warmup_steps, cases[i].steps, cases[i].warmup);
        }
        for (int k = 0; k < 2; k++) { json_free(stored[k]); }
        for (int k = 0; k < 3; k++) { free(tables[k].rows); }
        free(first);
        free(second);
    }
}

// Steps of --flops: whole ones, at least one; the FLOPs of n steps are n steps, though the quotient may miss by a bit.
static void resume_flops(void* argument) {
    char* line = format_string("--flops %s", (const char*)argument);
    Trainer t;
    memset(&t, 0, sizeof t);
    t.options = resume_options(line);
    t.flops_per_token = 10, t.state.total_batch = 40;
    trainer_size_run(&t, 100);
}

static void test_resume_flops(void) {
    static const char* const bad[][2] = {{"399", "--flops 399|1 to 1e15 steps|400 (40 tokens of 10)"},
                                         {"4.1e17", "--flops 4.1e17|1 to 1e15 steps"},
                                         {"0", "--flops '0'|a number, 1 to 1e+30"},
                                         {"1e31", "--flops '1e31'|a number, 1 to 1e+30"},
                                         {"4T", "--flops '4T'|a number"},
                                         {"nan", "--flops 'nan'|a number"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        expect_death(bad[i][0], resume_flops, (void*)bad[i][0], bad[i][1]);
    }
    Trainer t;
    memset(&t, 0, sizeof t);
    t.state.total_batch = 1024;
    for (int64_t n = 1; n < 3000000; n += 1 + n / 7) {
        t.flops_per_token = 1e9 / 3 + (double)n;
        char* line = format_string("--flops %.17g", t.flops_per_token * (double)(n * t.state.total_batch));
        t.options = resume_options(line);
        CHECK(trainer_total_steps(&t, 0) == n, "%lld steps, expected %lld", (long long)trainer_total_steps(&t, 0),
              (long long)n);
        free(t.options.rows);
        free(line);
    }
}

// --resume=same: every option that a curve depends on must be as it was, given or not; those of samples need not.
typedef struct {
    const char *stored, *now;
    int ranks;  // now; the run was begun on one
} ResumeSame;

static void resume_same(void* argument) {
    const ResumeSame* both = (const ResumeSame*)argument;
    OptionTable tables[2] = {resume_options(format_string("%s", both->stored)),
                             resume_options(format_string("%s", both->now))};
    // As the trainer fills them in: 8 rows of 2048, where nothing else is said.
    Option *seq = options_row(&tables[0], "seq"), *total = options_row(&tables[0], "total-batch");
    const Option* batch = options_row(&tables[0], "batch");
    if (!seq->set) { option_choose(seq, 2048, ""); }
    if (!total->set) { option_choose(total, (batch->set ? batch->integer : 8) * seq->integer, ""); }
    TrainerState s;
    memset(&s, 0, sizeof s);
    char* text = state_text(&s, &tables[0]);
    Json* json = json_parse(text, strlen(text), "FILE");
    state_check_same(json, "FILE", "OUT", &tables[1], both->ranks);
}

static void test_resume_same(void) {
    static const struct {
        ResumeSame both;
        const char* words;  // NULL: the same
    } cases[] = {
        {{"--steps 9 --lr 4e-3", "--steps 9 --lr 0.004"}, NULL},
        {{"", ""}, NULL},
        {{"--total-batch 16384", ""}, NULL},
        {{"--prompt a --keep 3 --top-k 5 --save-every 4 --sample-every 2", "--temperature 2"}, NULL},
        {{"--max-minutes 4 --out x", "--out y"}, NULL},
        {{"", "--seq 2048"}, NULL},
        {{"--batch 4", "--batch 4"}, NULL},
        {{"--batch 4", "--batch 4", 2}, "--total-batch 8192 (now 16384)"},  // a step of twice as many tokens
        {{"--batch 4 --total-batch 8192", "--batch 4 --total-batch 8192", 2}, NULL},
        {{"--seq 512", ""}, "--seq 512 (now not set)"},
        {{"", "--seq 512"}, "--seq 2048 (now 512)"},
        {{"--steps 9", "--steps 10"}, "OUT holds a run with other options|--steps 9 (now 10)|another --out"},
        {{"--steps 9 --clip 0.5", "--steps 9"}, "--clip 0.5 (now 1.0)"},
        {{"--steps 9", "--flops 1000"}, "--steps 9 (now not set)|--flops not set (now 1000)"},
        {{"--seed 1 --lr 2", "--seed 2"}, "--seed 1 (now 2)|--lr 2 (now 1e-3)"},
        {{"--total-batch 32768", ""}, "--total-batch 32768 (now 16384)"},
        {{"--train a.bin --val v.bin", "--train b.bin"}, "--train a.bin (now b.bin)|--val v.bin (now not set)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ResumeSame both = cases[i].both;
        if (both.ranks == 0) { both.ranks = 1; }
        if (cases[i].words) {
            expect_death(both.stored, resume_same, &both, cases[i].words);
            continue;
        }
        char* output = NULL;
        int code = run_child(resume_same, &both, &output);
        CHECK(code == 0, "'%s', then '%s': %s", both.stored, both.now, output);
        free(output);
    }
}

// What is stored wins over defaults, what is given over both; null is no value, and what is not there at all
// (an option that the program did not have then) stays. Two ways to write a number are no change.
static void test_resume_restores(void) {
    char line[] = "--val-every 007 --beta1 0.90 --lr 2 --batch 4 --total-batch 32 --warmup-steps 5";
    OptionTable o = resume_options(line);
    const char* text =
        "{\"options\": {\"keep\": null, \"beta2\": \"0.5\", \"val-every\": \"7\", \"beta1\": \".9\", "
        "\"lr\": \"2.5\", \"out\": \"elsewhere\", \"seq\": \"8\", \"batch\": \"8\", \"total-batch\": "
        "\"32\", \"steps\": \"9\", \"warmup-steps\": null}, \"chosen\": [\"seq\", \"batch\", \"total-batch\"]}";
    Json* json = json_parse(text, strlen(text), "FILE");
    StringBuilder said = {0};
    char* altered = format_string("--lr");  // before
    state_restore_options(json, "FILE", &o, &said, &altered);
    CHECK(!options_set(&o, "keep") && options_text(&o, "keep") == NULL, "null is no value");
    CHECK(options_number(&o, "beta2") == 0.5 && !options_given(&o, "beta2"), "stored");
    CHECK(options_int(&o, "val-every") == 7 && options_number(&o, "beta1") == 0.9 && options_number(&o, "lr") == 2,
          "given");
    CHECK(options_number(&o, "eps") == 1e-8, "not there");
    CHECK(strcmp(options_text(&o, "out"), "out") == 0, "of one invocation only");
    CHECK(said.data &&
              strcmp(said.data, "  --batch 4 (was 8)\n  --lr 2 (was 2.5)\n  --warmup-steps 5 (was not set)\n") == 0,
          "%s", said.data ? said.data : "nothing said");
    CHECK(strcmp(altered, "--lr, --batch, --warmup-steps") == 0, "changed: %s", altered);
    altered = state_note_altered(state_note_altered(altered, "--warmup"), "--warmup");
    CHECK(strcmp(altered, "--lr, --batch, --warmup-steps, --warmup") == 0, "one that is the beginning of another: %s",
          altered);
    free(altered);
    // A value that the program has chosen stays one, also where it is given again; another is somebody's.
    static const char* const names[] = {"seq", "total-batch", "batch", "steps"};
    for (int i = 0; i < 4; i++) {
        CHECK(options_row(&o, names[i])->chosen == (i < 2), "--%s was chosen: %d", names[i],
              options_row(&o, names[i])->chosen);
    }
    free(said.data);
    json_free(json);
    free(o.rows);
}

static void resume_tests(void) {
    RUN(test_resume_arithmetic);
    RUN(test_state_round_trip);
    RUN(test_resume_restores);
    RUN(test_resume_rivals);
    RUN(test_resume_flops);
    RUN(test_resume_same);
}

#endif

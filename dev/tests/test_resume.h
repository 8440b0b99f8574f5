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
    char line[] = "--steps 12";
    OptionTable options = resume_options(line);
    for (int validated = 1; validated >= 0; validated--) {
        if (!validated) { s.val_step = -1; }
        char* text = state_text(&s, &options);
        Json* json = json_parse(text, strlen(text), "FILE");
        TrainerState r = state_read(json, "FILE");
        CHECK(r.step == s.step && r.total_steps == s.total_steps && r.tokens == s.tokens && r.position == s.position &&
                  r.seed == s.seed && r.seq == s.seq && r.total_batch == s.total_batch && r.rows == s.rows &&
                  r.shards == s.shards && r.val_rows == s.val_rows && r.parameters == s.parameters &&
                  r.val_batch == s.val_batch,
              "whole numbers of %s", text);
        CHECK(r.flops_per_token == s.flops_per_token && r.seconds == s.seconds, "%.17g FLOPs, %.17g s of %s",
              r.flops_per_token, r.seconds, text);
        CHECK(json_get_number(json, "flops", 0, "FILE") == s.flops_per_token * 13, "all FLOPs of %s", text);
        if (validated) {
            CHECK(r.val_step == 24 && r.val_loss == s.val_loss && r.best_step == 28 &&
                      r.best_val_loss == s.best_val_loss && r.passes == 3 &&
                      memcmp(r.val_loss_pass, of_pass, sizeof of_pass) == 0,
                  "validation of %s", text);
        } else {
            CHECK(r.val_step == -1 && r.best_step == -1 && r.passes == 0, "a validation that has not been: %s", text);
        }
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
            state_restore_options(stored[next - 1], "FILE", &tables[next], &said);
            const char* want = next == 2 ? "" : cases[i].said;
            CHECK(!want || strcmp(said.data, want) == 0, "'%s', then '%s': it says '%s'", cases[i].stored,
                  cases[i].given, said.data);
            free(said.data);
            Trainer t;
            memset(&t, 0, sizeof t);
            t.options = tables[next];
            t.step_rows = 4;
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

// What is stored wins over defaults, what is given over both; null is no value, and what is not there at all
// (an option that the program did not have then) stays. Two ways to write a number are no change.
static void test_resume_restores(void) {
    char line[] = "--val-every 007 --beta1 0.90 --lr 2";
    OptionTable o = resume_options(line);
    const char* text = "{\"options\": {\"keep\": null, \"beta2\": \"0.5\", \"val-every\": \"7\", \"beta1\": \".9\", "
                       "\"lr\": \"2.5\", \"out\": \"elsewhere\"}}";
    Json* json = json_parse(text, strlen(text), "FILE");
    StringBuilder said = {0};
    state_restore_options(json, "FILE", &o, &said);
    CHECK(!options_set(&o, "keep") && options_text(&o, "keep") == NULL, "null is no value");
    CHECK(options_number(&o, "beta2") == 0.5 && !options_given(&o, "beta2"), "stored");
    CHECK(options_int(&o, "val-every") == 7 && options_number(&o, "beta1") == 0.9 && options_number(&o, "lr") == 2,
          "given");
    CHECK(options_number(&o, "eps") == 1e-8, "not there");
    CHECK(strcmp(options_text(&o, "out"), "out") == 0, "of one invocation only");
    CHECK(said.data && strcmp(said.data, "  --lr 2 (was 2.5)\n") == 0, "%s", said.data ? said.data : "nothing said");
    free(said.data);
    json_free(json);
    free(o.rows);
}

static void resume_tests(void) {
    RUN(test_state_round_trip);
    RUN(test_resume_restores);
    RUN(test_resume_rivals);
}

#endif

// test_loop.h - tests of common/run/ beyond a run that goes well: what a resumed run compares with what it was, what
// goes wrong beside a run, and what it warns of. Included after test_train.h, whose toy it drives.
#ifndef PONDER_TEST_LOOP_H
#define PONDER_TEST_LOOP_H

#include "test_train.h"

// A command of the shell in toy_home.
__attribute__((format(printf, 1, 2))) static void toy_shell(const char* fmt, ...) {
    va_list args;
    va_start(args, fmt);
    char text[1024];
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    char* command = format_string("cd %s && { %s\n}", toy_home, text);
    if (system(command) != 0) { die("failed: %s", command); }
    free(command);
}

// val_loss of a checkpoint on the shard `val`, as --eval-only prints it.
static double toy_loss_on(const char* checkpoint, const char* val) {
    char* line = format_string("--model %s --val %s --seq 16 --batch 4 --eval-only", checkpoint, val);
    char* output = NULL;
    int from;
    pid_t pid = toy_start(line, &from);
    int code = toy_wait(pid, from, &output);
    const char* at = strstr(output, "\nval_loss ");
    CHECK(code == 0 && at, "%s: %s", line, output);
    double loss = at ? strtod(at + 10, NULL) : (double)NAN;
    free(output);
    free(line);
    return loss;
}

// The number of lines of a run's metrics with this key at this step.
static int toy_lines(const char* out, int64_t step, const char* key) {
    char* text = toy_metrics(out);
    char* begin = format_string("step %lld ", (long long)step);
    int lines = 0;
    for (char* line = text; *line; line += strcspn(line, "\n") + 1) {
        char* end = line + strcspn(line, "\n");
        char* found = strstr(line, key);
        lines += strncmp(line, begin, strlen(begin)) == 0 && found && found < end;
    }
    free(begin);
    free(text);
    return lines;
}

// ---- what a resumed run compares ----

// Validation data that changes under a run is refused, unless asked for; then the best starts anew, and the metrics
// hold no step twice. A learning rate of 0 leaves the weights alone, so that losses tell the data.
static void test_resume_validation_data(void) {
    toy_shell("mkdir data moved && cp train.bin val.bin data");
    toy_bare(0, "validation after step 1",
             "--train data/train.bin --val data/val.bin --seq 16 --batch 4 --sample-tokens 0 --out vd --steps 4 "
             "--val-every 1 --lr 0 --weight-decay 0 --max-minutes 0 --keep 0");
    double first = toy_metric("vd", 1, "val_loss");
    // The same data elsewhere: nothing starts anew.
    toy_shell("cp data/val.bin moved/val.bin");
    toy_bare(0, "--val moved/val.bin (was data/val.bin)|!starts anew|after step 2 of 4",
             "--out vd --resume --val moved/val.bin --max-minutes 0");
    toy_shell("rm -r vd/step_00000002 && cp train.bin data/val.bin");  // step 1 again, and a change
    toy_bare(1, "validation data has changed|--val data/val.bin|124 rows|hash|--val on the command line",
             "--out vd --resume");
    toy_bare(1, "validation data has changed", "--out vd --resume --eval-only");
    double second = toy_loss_on("vd/step_00000001", "data/val.bin");
    CHECK(fabs(first - second) > 1e-4, "the two sets of this test have losses %g and %g", first, second);
    char* words =
        format_string("changed since|the validation data: hash|(was |starts anew|validation after step 1: loss "
                      "%.4f (best %.4f)|best validation loss %.6f after step 1",
                      second, second, second);
    toy_bare(0, words, "--out vd --resume --val data/val.bin");
    free(words);
    for (int step = 0; step <= 4; step++) {
        double loss = toy_metric("vd", step, "val_loss"), want = step ? second : first;
        CHECK(toy_lines("vd", step, "val_loss") == 1 && fabs(loss - want) <= 5e-7, "step %d: %.9g, expected %.9g", step,
              loss, want);
    }
    // The new data are the run's from then on.
    toy_bare(0, "finished: step 4 of 4|!changed", "--out vd --resume");
    save_expect("vd/step_00000004/trainer_state.json", 1, "\"val_since\": 1,");
    // And back, where the loss may be the higher one: the best is none of other data.
    toy_shell("cp val.bin data/val.bin");
    words = format_string("starts anew|best validation loss %.6f after step 4", first);
    toy_bare(0, words, "--out vd --resume --val data/val.bin");
    free(words);
    save_expect("vd/step_00000004/trainer_state.json", 1, "\"val_since\": 4,");
    toy_shell("mv data/val.bin data/val.gone");
    toy_bare(0, "finished: step 4 of 4|not here any more: it was not compared", "--out vd --resume");
    toy_bare(1, "matches no file here", "--out vd --resume --val-batches 7");
    toy_bare(1, "matches no file here|--val as the run was started with|give --val anew",
             "--out vd --resume --steps 5 --train data/train.bin");
    toy_shell("mv data/val.gone data/val.bin");
}

// A finished run validates anew when it is asked about other data or other rows, and remembers that.
static void test_resume_finished(void) {
    toy_shell("mkdir more && cp train.bin more/val.bin");
    toy_run(0, "val_loss", "--out fi --steps 3 --val-batches 2 --lr 0 --weight-decay 0");
    double first = toy_metric("fi", 3, "val_loss");
    toy_run(0, "finished: step 3 of 3|!changed", "--out fi --resume --val-batches 2");
    toy_run(0, "finished: step 3 of 3|too late to have an effect|--lr 0.5 (was 0)", "--out fi --resume --lr 0.5");
    toy_run(0, "finished: step 3, beyond the 2 steps of this command", "--out fi --resume --steps 2");
    toy_run(0, "!finished|the validated rows: 12 (was 8)|starts anew", "--out fi --resume --val-batches 3");
    double rows = toy_metric("fi", 3, "val_loss");
    CHECK(fabs(rows - first) > 1e-5 && toy_lines("fi", 3, "val_loss") == 1, "12 rows: %.9g, 8: %.9g", rows, first);
    toy_run(0, "finished", "--out fi --resume");
    const char* line = "--train gone.bin --val more/val.bin --out fi --resume";  // nothing is left to train on
    toy_bare(0, "!finished|the validation data: hash|12 rows|starts anew", line);
    double other = toy_metric("fi", 3, "val_loss");
    CHECK(fabs(other - rows) > 1e-5, "other data: %.9g, before: %.9g", other, rows);
    toy_bare(0, "finished", line);
    // A micro-batch of another size is no change of the rows.
    toy_run(0, "stopped", "--out fb --steps 2 --val-batches 2 --max-minutes 0 --total-batch 64");
    toy_run(0, "--batch 3 (was 4)|!starts anew|8 rows", "--out fb --resume --val-batches 2 --batch 3");
    toy_bare(0, "the validated rows: 12 (was 8)",
             "--out fb --resume --val-batches 4");  // of as many as --batch says now
    toy_run(0, "the validated rows: 5 (was 12)", "--out fb --resume --val-batches 1 --batch 5");
    // Beyond the steps of the command, too.
    toy_run(0, "!finished|the validated rows: 8 (was 5)|validation after step 2",
            "--out fb --resume --steps 1 --val-batches 2");
    // A run that was killed between a validation, whose line is there, and the checkpoint that knows of it.
    toy_change_line("fb/step_00000002/trainer_state.json", "  \"val_step\"", "  \"val_step\": 1,");
    toy_run(0, "!finished|validation after step 2", "--out fb --resume");
    CHECK(toy_lines("fb", 2, "val_loss") == 1, "%d lines of one validation", toy_lines("fb", 2, "val_loss"));
    // A run without validation that gets one.
    toy_bare(0, "fn: 1 steps", "--train train.bin --seq 16 --batch 4 --sample-tokens 0 --out fn --steps 1");
    toy_bare(0, "--val val.bin (was not set)|validation after step 1|!starts anew", "--out fn --resume --val val.bin");
    toy_bare(0, "finished|val_loss", "--out fn --resume");
}

// A checkpoint of a program that kept no hash of the validation data goes on, and says that nothing was compared.
static void test_resume_older_state(void) {
    toy_run(0, "stopped", "--out od --steps 3 --max-minutes 0");
    toy_change_line("od/step_00000001/trainer_state.json", "  \"val_shards\"", "  \"was_val_shards\": \"x\",");
    toy_change_line("od/step_00000001/trainer_state.json", "  \"tokenizer\"", "  \"was_tokenizer\": \"x\",");
    toy_change_line("od/step_00000001/trainer_state.json", "  \"arithmetic\"", "  \"was_arithmetic\": \"x\",");
    toy_run(0, "validation data was not compared|has no hash of it|!changed since|after step 2 of 3",
            "--out od --resume --max-minutes 0");
    toy_run(0, "!not compared|!changed since|val_loss", "--out od --resume");
    toy_change_line("od/step_00000003/trainer_state.json", "  \"val_shards\"", "  \"val_shards\": \"12\",");
    toy_run(1, "\"val_shards\" to be 16 hexadecimal digits", "--out od --resume");
}

// What was changed on the way is remembered: --resume=same does not take such a run for one of these options, also when
// they are those that hold now. A value that the program would choose is no change.
static void test_resume_altered(void) {
    toy_run(0, "val_loss", "--out al --steps 4");
    toy_run(0, "finished", "--out al --steps 4 --resume=same");
    toy_run(0, "step 6 of 6", "--out al --steps 6 --lr 2e-3 --resume");
    toy_run(1, "other options|changed when it was resumed: --steps, --lr",
            "--out al --steps 6 --lr 2e-3 --resume=same");
    toy_bare(0, "val_loss", "--train train.bin --val val.bin --batch 4 --sample-tokens 0 --out ch --steps 2");
    toy_bare(0, "finished", "--out ch --resume --batch 4");
    // A finished run: other validation data are no business of =same, and must not be what was trained on.
    toy_shell("mkdir swap && cp train.bin val.bin swap");
    toy_bare(0, "val_loss",
             "--train swap/train.bin --val swap/val.bin --seq 16 --batch 4 --sample-tokens 0 --out sw --steps 2");
    toy_shell("cp val.bin swap/train.bin && cp train.bin swap/val.bin");
    const char* same =
        "--train swap/train.bin --val swap/val.bin --seq 16 --batch 4 --sample-tokens 0 --out sw --steps 2 ";
    char* line = format_string("%s--resume=same", same);
    toy_bare(1, "the validation data has changed", line);
    free(line);
    line = format_string("%s--resume", same);
    toy_bare(1, "the training data has changed", line);
    free(line);
    // A validation that fails takes nothing away.
    toy_shell("cp train.bin swap/train.bin && head -c 1200 val.bin > swap/val.bin");
    toy_bare(1, "swap/val.bin", line = format_string("%s--resume", same));
    free(line);
    CHECK(toy_lines("sw", 2, "val_loss") == 1, "the line of the last validation is gone");
}

// What samples and bits per byte depend on is each of the tokenizer's files that say what tokens are, and its end of text.
static void test_tokenizer_is_noted(void) {
    static const char* const names[] = {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model",
                                        "chat_template.jinja"};
    uint64_t hashes[7];
    for (int i = 0; i < 7; i++) {
        Tokenizer tokenizer;
        Trainer t;
        memset(&tokenizer, 0, sizeof tokenizer);
        memset(&t, 0, sizeof t);
        tokenizer.V = 10, tokenizer.eot = i == 6 ? 7 : 8;
        t.tokenizer = &tokenizer;
        if (i < 5) { tokenizer_keep_file(&tokenizer, names[i], format_string("the same text"), 13); }
        trainer_note_tokenizer(&t);
        hashes[i] = t.state.tokenizer;
        for (int k = 0; k < i; k++) {
            CHECK((hashes[i] == hashes[k]) == (k == 4 && i == 5), "%s and %s: hashes %016llx, %016llx",
                  k < 5 ? names[k] : "none", i < 5 ? names[i] : "none", (unsigned long long)hashes[k],
                  (unsigned long long)hashes[i]);
        }
        for (int k = 0; k < tokenizer.file_count; k++) { free((void*)tokenizer.files[k].text); }
    }
}

// What else a curve depends on: the tokenizer's files, and what computes.
static void test_resume_says(void) {
    toy_run(0, "stopped", "--out sy --steps 3 --max-minutes 0");
    toy_run(0, "!changed since|stopped", "--out sy --resume --max-minutes 0");
    toy_change_line("sy/step_00000002/trainer_state.json", "  \"arithmetic\"", "  \"arithmetic\": \"bf16 on a GPU\",");
    toy_shell("echo >> sy/step_00000002/tokenizer.json");
    toy_run(0, "changed since|computed in fp32 on a CPU (was bf16 on a GPU)|the tokenizer, which samples",
            "--out sy --resume");
    toy_run(0, "finished|!changed", "--out sy --resume");
}

// The precision of a run that is resumed is known before anything is: here in a program that has no bf16 at all.
static void test_resume_precision(void) {
    toy_run(1, "--precision bf16: this program has no bf16|expected --precision fp32|!program  ",
            "--out pr --steps 3 --precision bf16");
    CHECK(!toy_exists("pr"), "a run was begun");
    toy_run(0, "stopped", "--out pr --steps 3 --max-minutes 0");
    toy_change_line("pr/step_00000001/trainer_state.json", "    \"precision\": ", "    \"precision\": \"bf16\",");
    toy_shell("ls -lAR --full-time pr > before");
    static const char* const ways[] = {"", " --eval-only", " --plan", " --generate --prompt a"};
    for (int i = 0; i < 4; i++) {
        char* line = format_string("--out pr --resume%s", ways[i]);
        toy_bare(1, "--precision bf16, as the run in --out pr: this program has no bf16|!changed|!resumed", line);
        free(line);
    }
    toy_shell("ls -lAR --full-time pr | cmp - before");
    toy_run(0, "--precision fp32 (was bf16)|stopped", "--out pr --resume --precision fp32 --max-minutes 0");
    toy_run(0, "!--precision|val_loss", "--out pr --resume");
    toy_run(1, "changed when it was resumed: --precision", "--out pr --steps 3 --resume=same");
    // Of a program that had no such option, nothing is said.
    toy_run(0, "stopped", "--out po --steps 2 --max-minutes 0");
    toy_change_line("po/step_00000001/trainer_state.json", "    \"precision\": ", "    \"was_precision\": \"x\",");
    toy_run(0, "!changed|val_loss", "--out po --resume");
}

// Paths and prompts are bytes. Those that are no UTF-8 come back as they were.
static void test_resume_bytes(void) {
    static const char* const texts[] = {"caf\xe9/train.bin", "\xff\xfe", "a\xc3", "\xed\xa0\x80",
                                        "fine \xc3\xa9 \xef\xbf\xbd"};
    char none[] = "";
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        OptionTable then = resume_options(none), now = resume_options(none);
        option_assign(options_row(&then, "prompt"), texts[i], "");
        option_assign(options_row(&then, "train"), texts[4 - i], "");
        TrainerState s;
        memset(&s, 0, sizeof s);
        char* text = state_text(&s, &then);
        for (size_t at = 0, n = strlen(text), length; at < n; at += length) {
            length = json_utf8_length(text + at, n - at);
            CHECK(length > 0, "no UTF-8 at byte %zu of: %s", at, text);
            if (length == 0) { break; }
        }
        Json* json = json_parse(text, strlen(text), "FILE");
        StringBuilder said = {0};
        state_restore_options(json, "FILE", &now, &said, NULL);
        CHECK(strcmp(options_text(&now, "prompt"), texts[i]) == 0 &&
                  strcmp(options_text(&now, "train"), texts[4 - i]) == 0 && said.size == 0,
              "text %zu comes back as '%s', '%s'", i, options_text(&now, "prompt"), options_text(&now, "train"));
        free(text);
        free(then.rows);
        free(now.rows);
    }
    toy_shell("mkdir \"$(printf 'caf\\351')\" && cp train.bin val.bin caf*");
    toy_bare(0, "stopped|---- sample after step 1: prompt ----\n\\xff\\xfeab\n",
             "--train caf\xe9/train.bin --val caf\xe9/val.bin --seq 16 --batch 4 --prompt \xff\xfe"
             "ab --sample-tokens 2 --sample-every 1 --out by --steps 2 --max-minutes 0");
    toy_bare(0, "!changed|---- sample after step 2: prompt ----\n\\xff\\xfeab\n", "--out by --resume");
    toy_bare(0, "finished",
             "--out by --resume --prompt \xff\xfe"
             "ab");
    static const char* const wrong[] = {"\"ff0\"", "\"fx\"", "\"00\"", "\"FF\""};
    for (int i = 0; i < 4; i++) {
        char* line = format_string("    \"prompt\": %s", wrong[i]);
        toy_change_line("by/step_00000002/trainer_state.json", "    \"prompt\": \"f", line);
        toy_bare(1, "trainer_state.json|options_hex|prompt|hexadecimal", "--out by --resume");
        toy_change_line("by/step_00000002/trainer_state.json", line, "    \"prompt\": \"fffe\"");
        free(line);
    }
}

// Names in a checkpoint are those of where the run was started.
static void test_resume_elsewhere(void) {
    toy_run(0, "stopped", "--out el --steps 3 --max-minutes 0");
    toy_shell("mkdir far && mv el far/el && mv val.bin train.bin far");
    toy_bare(
        1,
        "'train.bin' matches no file here|--train as the run was started with|far/el/step_00000001/trainer_state.json|"
        "seen from the directory|give --train anew",
        "--out far/el --resume");
    toy_bare(1, "'val.bin' matches no file here|give --val anew", "--out far/el --resume --train far/train.bin");
    toy_bare(1, "'nothing.bin' matches no file here|!started with", "--out far/el --resume --train nothing.bin");
    toy_bare(0, "val_loss", "--out far/el --resume --train far/train.bin --val far/val.bin");
    toy_shell("mv far/val.bin far/train.bin .");
}

// ---- what goes wrong beside a run ----

// A copy of the training data with another token at a position.
static void toy_damage(const char* name, int position, int token) {
    size_t size = 0;
    char* bytes = toy_read("train.bin", &size);
    bytes[1024 + 2 * position] = (char)(token & 255);
    bytes[1024 + 2 * position + 1] = (char)(token >> 8);
    toy_write(name, bytes, size);
    free(bytes);
}

// A token outside the vocabulary, in the middle: the steps before it are saved, and go on where the data are whole.
static void test_damaged_data(void) {
    toy_damage("bad.bin", 700, 300);  // row 43: step 11 of 4 rows
    toy_bare(
        1,
        "warning: --train bad.bin|300, outside the vocabulary of 257|error: bad.bin: token 300 at position 700|step "
        "10 is saved in dm/step_00000010|--resume",
        "--train bad.bin --seq 16 --batch 4 --sample-tokens 0 --shuffle 0 --steps 20 --out dm");
    CHECK(toy_exists("dm/step_00000010/model.safetensors") && toy_metric("dm", 10, "tokens") == 640 &&
              !isfinite(toy_metric("dm", 11, "loss")),
          "the checkpoint and the metrics of step 10");
    toy_bare(1, "token 300 at position 700|step 10 is saved in dm/step_00000010", "--out dm --resume");
    toy_damage("bad.bin", 20, 300);
    toy_bare(1, "token 300|!is saved", "--train bad.bin --seq 16 --batch 4 --sample-tokens 0 --shuffle 0 --out dm0");
    CHECK(!toy_exists("dm0/step_00000000"), "a checkpoint of no step");
    // Files that change under a run: one that is cut off, one that goes away before it is opened, one that cannot be
    // read any more, two that are validated on. Put back, they are the same data.
    static const struct {
        const char *data, *more, *shell, *back, *words;
    } cases[] = {
        {"u1.bin", "", "truncate -s 1100 u1.bin", "cp train.bin u1.bin", "u1.bin|has become shorter"},
        {"u1.bin,u2.bin", "", "mv u2.bin away", "mv away u2.bin", "u2.bin|could not be opened"},
        {"train.bin", "--val u3.bin --val-every 3", "truncate -s 1000 u3.bin", "cp val.bin u3.bin",
         "u3.bin|has become shorter"},
        {"u4.bin", "", "touch u4.bin.unreadable", "rm u4.bin.unreadable",
         "u4.bin: could not be read|Input/output error"},
        {"train.bin", "--val u4.bin --val-every 3", "touch u4.bin.unreadable", "rm u4.bin.unreadable",
         "u4.bin: could not be read|Input/output error"},
    };
    toy_shell("cp train.bin u1.bin && cp val.bin u2.bin && cp val.bin u3.bin && cp val.bin u4.bin");
    for (int i = 0; i < 5; i++) {
        char* line =
            format_string("--train %s --seq 16 --batch 4 --sample-tokens 0 --shuffle 0 --steps 40 --out un%d %s",
                          cases[i].data, i, cases[i].more);
        char* slow = format_string("%s --sleep 5", line);
        int from;
        StringBuilder seen = {0};
        pid_t pid = toy_start(slow, &from);
        toy_wait_for(from, "step  2 of 40", &seen);
        toy_shell("%s", cases[i].shell);
        char* output = NULL;
        int code = toy_wait(pid, from, &output);
        CHECK(code == 1 && strstr(output, " is saved in un"), "exit code %d: %s", code, output);
        char* words = format_string("%s", cases[i].words);
        for (char* word = strtok(words, "|"); word; word = strtok(NULL, "|")) {
            CHECK(strstr(output, word) != NULL, "no '%s' in: %s", word, output);
        }
        toy_shell("%s", cases[i].back);
        char* again = format_string("--out un%d --resume", i);
        toy_bare(0, "!starting at step 0|step 40 of 40", again);
        char* sound = format_string("so%d", i);
        free(line);
        line = format_string("--train %s --seq 16 --batch 4 --sample-tokens 0 --shuffle 0 --steps 40 --out %s %s",
                             cases[i].data, sound, cases[i].more);
        toy_bare(0, "step 40 of 40", line);
        char* out = format_string("un%d", i);
        toy_same_run(sound, out, 40);
        free(out);
        free(again);
        free(words);
        free(output);
        free(seen.data);
        free(slow);
        free(sound);
        free(line);
    }
}

// What is not finite is not saved, however the run ends.
static void test_nonfinite_is_not_saved(void) {
    toy_run(1, "step 3: the loss is NaN|Nothing was saved|!is saved", "--out nn --steps 9 --poison-at 3");
    CHECK(!toy_exists("nn/step_00000002"), "a checkpoint of a run that went wrong");
}

static void toy_full_output(void) {
    int fd = open("/dev/full", O_WRONLY);
    if (fd < 0 || dup2(fd, 1) < 0) { _exit(97); }
    close(fd);
}
static void toy_no_input_output(void) { close(0), close(1); }
static void toy_no_descriptors(void) { close(0), close(1), close(2); }

// Output that cannot be written is an error at the end, when all is saved; it changes nothing in the run.
static void test_output_lost(void) {
    toy_run(0, "val_loss", "--out heard2 --steps 5 --save-every 2 --sample-every 2 --sample-tokens 4");
    static const struct {
        void (*before)(void);
        const char* words;
    } cases[] = {{toy_full_output,
                  "warning: standard output could not be written: No space left|the run goes on|error: "
                  "standard output could not be written: No space left"},
                 {toy_no_input_output, "standard output could not be written: Bad file descriptor"},
                 {toy_no_descriptors, ""}};
    for (int i = 0; i < 3; i++) {
        char* out = format_string("lost%d", i);
        char* line = format_string("--out %s --steps 5 --save-every 2 --sample-every 2 --sample-tokens 4", out);
        toy_before = cases[i].before;
        toy_run(1, cases[i].words, line);
        toy_run(1, "", "--help");
        toy_before = NULL;
        toy_same_run("heard2", out, 5);
        char* again = format_string("--out %s --resume", out);
        toy_run(0, "finished: step 5 of 5", again);
        free(again);
        free(line);
        free(out);
    }
}

static void toy_two_lines(void* metrics) {
    for (int step = 1; step <= 2; step++) {
        metrics_step((Metrics*)metrics, step, 8 * step, 1, 1, 1, 1, 1, 1, 1, NULL);
    }
}

// A disk that is full for a while: metrics wait and a checkpoint is left out, nothing is lost.
static void test_disk_full_for_a_while(void) {
    toy_run(0, "val_loss", "--out room --steps 12 --save-every 3");
    toy_soft_limit = 1100;  // clang's OpenMP writes 1,024 bytes of its own when it begins
    toy_run(0,
            "tight/metrics.jsonl: could not be written: File too large|the checkpoint of step 3: |The run goes on|step "
            "12 of 12",
            "--out tight --steps 12 --save-every 3 --room-at 8");
    toy_run(1, "error: the checkpoint of step 12: ", "--out tight0 --steps 12 --save-every 3");
    toy_run(1, "error: the checkpoint of step 12: ", "--out tight0 --resume --steps 12 --save-every 3");
    // Nor does it go on where what could not be saved never can be: a gradient of 1e30 makes a moment infinite, no weight.
    toy_run(1, "error: the checkpoint of step 3: |!The run goes on",
            "--out tight1 --steps 12 --save-every 3 --clip 0 --poison-at 1 --poison-what 3");
    toy_soft_limit = 0;
    toy_same_run("room", "tight", 12);
    // For good: the end is an error, of the metrics where the rest fits.
    Metrics m;
    char* dir = toy_path("stuck");
    mkdir(dir, 0777);
    metrics_open(&m, dir, -1, 0);
    close(m.fd);
    m.fd = open("/dev/full", O_WRONLY);
    char* output = NULL;
    run_child(toy_two_lines, &m, &output);
    const char* once = strstr(output, "could not be written");
    CHECK(once && !strstr(once + 1, "could not be written"), "it is said once: %s", output);
    free(output);
    toy_two_lines(&m);
    CHECK(m.failing == ENOSPC && m.waiting.size > 100, "two lines wait");
    expect_death("lines that cannot be written", (void (*)(void*))metrics_end, &m,
                 "stuck/metrics.jsonl: could not be written: No space left|its last 2 lines are lost");
    close(m.fd);
    free(m.waiting.data);
    free(m.path);
    free(dir);
}

static int tool_code;
static void tool_unheard(void* which) {
    char* argv[] = {(char*)"tool", (char*)"--help", NULL};
    toy_full_output();
    tool_code = *(const int*)which ? compare_main(2, argv) : bytes_main(2, argv);
    exit(tool_code);
}

// The tools beside the trainer say it too.
static void test_tools_unheard(void) {
    for (int i = 0; i < 2; i++) {
        expect_death(i ? "compare" : "bytes", tool_unheard, &i,
                     "error: standard output could not be written: No space");
    }
}

// ---- what a run is started with ----

// --log-every: each N-th step and the last, on the screen and in the metrics, which speak of the steps since.
static void test_log_every(void) {
    toy_run(0, "!step 1 of|!step 2 of|step 3 of 8|!step 5 of|step 6 of 8|!step 7 of|step 8 of 8",
            "--out le --steps 8 --log-every 3 --sleep 10 --val-every 2 --save-every 1 --keep 0");
    toy_run(0, "val_loss", "--out le1 --steps 8 --val-every 2");
    for (int step = 1; step <= 8; step++) {
        double loss = toy_metric("le", step, "loss"), flops = toy_metric("le1", step, "flops");
        int there = step == 3 || step == 6 || step == 8;
        CHECK(there == isfinite(loss) &&
                  (!there || (loss == toy_metric("le1", step, "loss") && toy_metric("le", step, "ms") >= 10)),
              "step %d: loss %.9g", step, loss);
        CHECK(flops == 1542.0 * 64 * step, "%.9g FLOPs after step %d", flops, step);
        CHECK((step % 2 == 0) == isfinite(toy_metric("le", step, "val_loss")), "validation of step %d", step);
    }
    size_t size = 0;
    char* text = toy_read("le/metrics.jsonl", &size);
    for (const char* at = text; at && *at; at = strchr(at, '\n') + 1) {
        const char* stamp = strstr(at, "\"time\": \"");
        CHECK(stamp && stamp < strchr(at, '\n') && toy_is_time(stamp + 9), "no time in %s", at);
    }
    free(text);
    char* path = toy_path("le/step_00000008/trainer_state.json");
    Json* state = json_read(path);
    double all = 3 * toy_metric("le", 3, "ms") + 3 * toy_metric("le", 6, "ms") + 2 * toy_metric("le", 8, "ms"),
           seconds = json_get_number(state, "seconds", 0, path);
    CHECK(fabs(all - 1000 * seconds) <= 1e-6 * all, "lines have %.9g ms of %.9g s", all, seconds);
    json_free(state);
    free(path);
    toy_shell("rm -r le/step_0000000[5-8]");
    toy_run(0, "!step 5 of|step 6 of 8|!step 7|step 8 of 8", "--out le --resume");
    toy_same_file("le1/step_00000008/model.safetensors", "le/step_00000008/model.safetensors");
    CHECK(toy_lines("le", 6, "grad_norm") == 1 && toy_lines("le", 5, "grad_norm") == 0, "the resumed run's metrics");
}

// Without --seq a model has the length it is made for.
static void test_own_length(void) {
    toy_bare(0, "rows of 32", "--train train.bin --batch 4 --sample-tokens 0 --out ow --steps 1");
    toy_shell("cp -r ow/step_00000001 own && sed -i 's/{/{ \"length\": 24,/' own/config.json");
    toy_bare(0, "rows of 24",
             "--model own --train train.bin --batch 4 --sample-tokens 0 --out ow2 --steps 1 --max-minutes 0");
    toy_bare(0, "rows of 24|step 2 of 2", "--out ow2 --resume --steps 2");
    toy_bare(0, "rows of 8", "--model own --val val.bin --seq 8 --eval-only");
    toy_shell("sed -i 's/24/99999999/' own/config.json");
    toy_bare(1, "own/config.json|--seq|99999999|1 to 16777216", "--model own --val val.bin --eval-only");
}

// A name that is a preset and a model's directory is asked about.
static void test_preset_or_directory(void) {
    toy_run(0, "preset toy", "--model preset:toy --out pd --steps 1 --max-minutes 0");
    toy_shell("mkdir toy");  // a directory that holds no model is none
    toy_run(0, "preset toy", "--model toy --out pd0 --steps 1");
    toy_shell("cp -r pd/step_00000001/* toy");
    toy_run(1, "--model toy: it is a preset, and a directory with toy/config.json|--model ./toy|--model preset:toy",
            "--model toy --out pd1 --steps 1");
    toy_run(0, "preset toy|!weights from", "--model preset:toy --out pd1 --steps 1");
    toy_run(0, "preset toy", "--out pd2 --steps 1");  // by default, which nobody typed
    toy_run(0, "weights from ./toy", "--model ./toy --out pd3 --steps 1");
    toy_run(0, "!--model|step 2 of 2", "--model toy --out pd --resume --steps 2");
    toy_run(1, "--model 'preset:none'|toy, toy-3", "--model preset:none --out pd4");
    toy_shell("rm -r toy");
}

// The largest token of a piece of a shard: the header is none, nor is half a token at either end.
static void test_largest_token(void) {
    unsigned char bytes[1100];
    for (int width = 2; width <= 4; width += 2) {
        for (int i = 0; i < 1100; i++) { bytes[i] = i < 1024 ? 255 : i % width == 0 ? (unsigned char)(i / 8) : 0; }
        static const struct {
            int from, to;
        } pieces[] = {{0, 1100}, {1024, 1100}, {1000, 1061}, {1029, 1075}, {1031, 1035}, {1025, 1027}, {0, 900}};
        for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
            uint32_t largest = 0;
            uint64_t looked = 0;
            for (int at = 1024; at + width <= pieces[i].to; at += width) {
                if (at >= pieces[i].from) { looked++, largest = bytes[at]; }
            }
            Shard shard;
            memset(&shard, 0, sizeof shard);
            shard.width = width;
            shard_look(&shard, bytes + pieces[i].from, (size_t)(pieces[i].to - pieces[i].from),
                       (uint64_t)pieces[i].from);
            CHECK(shard.largest == largest && shard.looked == looked,
                  "bytes %d to %d, width %d: %u of %llu, expected %u of %llu", pieces[i].from, pieces[i].to, width,
                  shard.largest, (unsigned long long)shard.looked, largest, (unsigned long long)looked);
        }
    }
}

typedef struct {
    int V;
    uint32_t largest;
    const char* words;  // NULL: nothing is said
} LargestToken;

static void warn_of_largest(void* argument) {
    const LargestToken* of = (const LargestToken*)argument;
    char line[] = "--train a.bin";
    Model model;
    Shard shard;
    Shards shards;
    Trainer t;
    memset(&model, 0, sizeof model);
    memset(&shard, 0, sizeof shard);
    memset(&shards, 0, sizeof shards);
    memset(&t, 0, sizeof t);
    model.V = of->V, shard.largest = of->largest, shard.looked = 10;
    shards.list = &shard, shards.files = 1;
    t.model = &model, t.train = &shards, t.options = resume_options(line);
    trainer_warn_of_data(&t);
}

// Tokens that leave most of a vocabulary alone: from where on, and what may be the cause.
static void test_warnings_of_tokens(void) {
    static const LargestToken cases[] = {{1000, 250, NULL},
                                         {1000, 249, "far below the vocabulary of 1000; bytes, as build/bytes"},
                                         {4000, 256, "far below the vocabulary of 4000; bytes, as build/bytes"},
                                         {4000, 257, "far below the vocabulary of 4000: was it made with another"},
                                         {1000, 999, NULL},
                                         {1000, 1000, "outside the vocabulary of 1000: the program ends where"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char* output = NULL;
        int code = run_child(warn_of_largest, (void*)&cases[i], &output);
        CHECK(code == 0 && (cases[i].words ? strstr(output, cases[i].words) != NULL : output[0] == 0),
              "%u of %d: code %d, '%s'", cases[i].largest, cases[i].V, code, output);
        free(output);
    }
}

// What is hardly meant gets a warning, and only that.
static void test_warnings(void) {
    toy_run(0, "!warning", "--out wa --steps 1 --warmup-steps 0");
    toy_run(0, "warning: nothing will be learnt|--warmup-steps 0", "--out wa1 --steps 1");
    toy_run(0, "warning: --stop, --page: not used without --generate or --explain",
            "--stop a --out wa8 --steps 2 --page b");
    toy_run(0, "!warning", "--out wa2 --steps 2");
    toy_shell(
        "mkdir in && cp val.bin in/b.bin && cp train.bin in/a.bin && cp val.bin twin.bin && ln -s val.bin link.bin");
    toy_run(0, "warning: validation data is training data too: in/b.bin is also a shard of --train",
            "--train in/*.bin --val in/b.bin --out wa3 --steps 2");
    toy_run(0, "warning: validation data is training data too: twin.bin is the same as in/b.bin, a shard of --train",
            "--train in/*.bin --val twin.bin --out wa4 --steps 2");
    toy_run(0, "warning: validation data is training data too: val.bin is the same as link.bin, a shard of --train",
            "--train link.bin --val val.bin --out wa5 --steps 2");
    toy_damage("twin.bin", 1500, 'q');  // as long as the training data, and other
    toy_run(0, "!warning", "--val twin.bin --out wa6 --steps 2");
    size_t size = 0;
    char* bytes = toy_read("train.bin", &size);
    for (size_t i = 1024; i < size; i += 2) { bytes[i] &= 63; }
    toy_write("small.bin", bytes, size);
    free(bytes);
    toy_run(0,
            "warning: --train small.bin: the largest of the 2000 tokens looked at (of 2000) is 52, far below the "
            "vocabulary of 257",
            "--train small.bin --out wa7 --steps 2 --max-minutes 0");
    toy_run(0, "!warning", "--train small.bin --out wa7 --resume");
}

static void loop_tests(void) {
    toy_begin();
    RUN(test_resume_validation_data);
    RUN(test_resume_finished);
    RUN(test_resume_older_state);
    RUN(test_tokenizer_is_noted);
    RUN(test_resume_says);
    RUN(test_resume_precision);
    RUN(test_resume_altered);
    RUN(test_resume_bytes);
    RUN(test_resume_elsewhere);
    RUN(test_damaged_data);
    RUN(test_nonfinite_is_not_saved);
    RUN(test_output_lost);
    RUN(test_disk_full_for_a_while);
    RUN(test_tools_unheard);
    RUN(test_log_every);
    RUN(test_own_length);
    RUN(test_preset_or_directory);
    RUN(test_largest_token);
    RUN(test_warnings_of_tokens);
    RUN(test_warnings);
    toy_end();
}

#endif

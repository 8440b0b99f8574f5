// test_checkpoint.h - tests of common/files/checkpoint.h: whole or not at all, whatever happens.
#ifndef PONDER_TEST_CHECKPOINT_H
#define PONDER_TEST_CHECKPOINT_H

#include "../../common/files/checkpoint.h"
#include "file_calls.h"
#include "test.h"
#include "test_safetensors.h"

#include <signal.h>
#include <sys/resource.h>

// A small model: sizes that are no multiple of the alignment, so that families have gaps.
typedef struct {
    TensorTable table;
    float *params, *m, *v;
    char* out;
} Run;

static Run run_of(TensorTable table) {
    Run run = {.table = table};
    run.params = (float*)xalloc(3 * run.table.total, sizeof(float), "a test");
    run.m = run.params + run.table.total;
    run.v = run.m + run.table.total;
    run.out = files_begin();
    return run;
}

static Run run_begin(void) {
    TensorTable table = {0};
    tensor_add(&table, format_string("net.embed.weight"), 11, 5, INIT_ZEROS, 0);
    tensor_add(&table, format_string("net.layers.0.norm.weight"), 5, 0, INIT_ZEROS, 0);
    tensor_add(&table, format_string("net.layers.0.dense.weight"), 7, 5, INIT_ZEROS, 0);
    tensor_add(&table, format_string("net.layers.0.dense.bias"), 7, 0, INIT_ZEROS, 0);
    tensor_add(&table, format_string("head.weight"), 11, 5, INIT_ZEROS, 0);
    return run_of(table);
}

static void run_end(Run* run) {
    directory_remove_tree(run->out);
    CHECK(access(run->out, F_OK) != 0, "left behind: %s", run->out);
    for (int i = 0; i < run->table.count; i++) { free(run->table.list[i].name); }
    free(run->table.list);
    free(run->params);
    free(run->out);
}

// Numbers that tell family, tensor, place and `tag` apart. Gaps stay 0.
static void run_fill(Run* run, int tag) {
    for (int f = 0; f < 3; f++) {
        for (int i = 0; i < run->table.count; i++) {
            const Tensor* t = &run->table.list[i];
            for (size_t j = 0; j < t->size; j++) {
                run->params[(size_t)f * run->table.total + t->offset + j] =
                    (float)(1000 * tag + 100 * f) + (float)(10 * i) + 0.1f * (float)j;
            }
        }
    }
    run->params[run->table.list[2].offset] = -0.0f;
    run->params[run->table.list[2].offset + 1] = 1.4e-45f;
}

static void run_poison(Run* run) {
    for (size_t i = 0; i < 3 * run->table.total; i++) { run->params[i] = NAN; }
}

// 1 if the three families, read into poisoned memory, are bit for bit what run_fill(tag) makes.
static int run_holds(Run* run, const char* path, int tag) {
    size_t bytes = 3 * run->table.total * sizeof(float);
    run_poison(run);
    weights_read(path, &run->table, run->params, NULL, NULL);
    optimizer_read(path, &run->table, run->m, run->v);
    float* got = (float*)xalloc(1, bytes, "a test");
    memcpy(got, run->params, bytes);
    run_fill(run, tag);
    int same = 1;
    for (int f = 0; f < 3; f++) {
        for (int i = 0; i < run->table.count; i++) {
            const Tensor* t = &run->table.list[i];
            size_t at = (size_t)f * run->table.total + t->offset;
            same &= memcmp(got + at, run->params + at, t->size * sizeof(float)) == 0;
            // A gap after the tensor belongs to nobody: reading must leave it alone.
            if (t->size % TENSOR_START) { same &= got[at + t->size] != got[at + t->size]; }
        }
    }
    free(got);
    return same;
}

static const CheckpointFile run_files[] = {
    {"config.json", "{\"a\":1}\n", 8}, {"trainer_state.json", "{}", 2}, {"notes.bin", "a\0b", 3}};

static void run_write(Run* run, int step, int tag, int keep) {
    run_fill(run, tag);
    checkpoint_write(run->out, step, &run->table, run->params, run->m, run->v, run_files, 3, keep);
}

static void check_listing(const char* path, const char* want) {
    char* got = listing(path);
    CHECK(strcmp(got, want) == 0, "%s has %s, expected %s", path, got, want);
    free(got);
}

static void check_newest(Run* run, int step, int tag) {
    char* newest = checkpoint_newest(run->out);
    CHECK(newest != NULL && checkpoint_step(newest) == step, "newest is %s, expected step %d", newest ? newest : "none",
          step);
    if (newest) { CHECK(run_holds(run, newest, tag), "%s does not hold what was written with tag %d", newest, tag); }
    free(newest);
}

static void test_checkpoint_round_trip(void) {
    Run run = run_begin();
    CHECK(checkpoint_newest(run.out) == NULL, "a checkpoint in an empty directory");
    CHECK(checkpoint_newest("/nonexistent/x") == NULL, "a checkpoint in no directory");
    char* out = run.out;
    run.out = files_join(out, "a/b/");  // made when missing
    run_write(&run, 10, 3, 0);
    check_listing(run.out, "step_00000010 ");
    char* path = files_join(run.out, "step_00000010");
    check_listing(path, "config.json model.safetensors notes.bin optimizer.safetensors trainer_state.json ");
    for (int i = 0; i < 3; i++) {
        char* name = files_join(path, run_files[i].name);
        size_t size;
        char* bytes = files_read(name, &size);
        CHECK(bytes && size == run_files[i].size && memcmp(bytes, run_files[i].text, size) == 0, "%s", name);
        free(bytes);
        free(name);
    }
    check_newest(&run, 10, 3);
    char* name = files_join(path, "model.safetensors");
    SafeFile* file = safetensors_open(name);
    CHECK(file->count == 5 && !strcmp(json_get_string(file->metadata, "format", "", name), "pt"), "model.safetensors");
    const SafeTensor* t = safetensors_find(file, "net.layers.0.dense.bias");
    CHECK(t && t->ndim == 1 && t->shape[0] == 7, "a vector has one dimension");
    safetensors_close(file);
    free(name);
    name = files_join(path, "optimizer.safetensors");
    file = safetensors_open(name);
    CHECK(file->count == 10 && safetensors_find(file, "exp_avg.head.weight") &&
              safetensors_find(file, "exp_avg_sq.head.weight"),
          "names");
    safetensors_close(file);
    free(name);
    free(path);
    free(run.out);
    run.out = out;
    run_end(&run);
}

static void test_checkpoint_names(void) {
    const struct {
        const char* path;
        int64_t step;
    } cases[] = {{"step_00000000", 0},
                 {"a/b/step_00000012", 12},
                 {"a/step_00000012/", 12},
                 {"step_123456789", 123456789},
                 {"step_1234567", -1},
                 {"step_000000012", -1},
                 {"step_00000012x", -1},
                 {"xstep_00000012", -1},
                 {".tmp_step_00000012_1", -1},
                 {".old_step_00000012", -1},
                 {"step_-0000012", -1},
                 {"step_ 0000012", -1},
                 {"step_00000012/x", -1},
                 {"", -1},
                 {"step_", -1},
                 {"step_99999999999999999999", -1},
                 {"step_00000012/.", -1},
                 {"step_+0000012", -1},
                 {"/", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK(checkpoint_step(cases[i].path) == cases[i].step, "%s: %lld", cases[i].path,
              (long long)checkpoint_step(cases[i].path));
    }
}

// The names of things in OUT that are no checkpoints, some of them newer than the real one.
static void test_checkpoint_strangers(void) {
    Run run = run_begin();
    run_write(&run, 40, 4, 0);
    const char* needed[] = {"config.json", "model.safetensors", "optimizer.safetensors", "trainer_state.json"};
    for (int i = 0; i < 4; i++) {  // directories that lack one of the four
        char* path = format_string("%s/step_%08d", run.out, 50 + i);
        CHECK(mkdir(path, 0777) == 0, "mkdir");
        for (int j = 0; j < 4; j++) {
            char* name = files_join(path, needed[j]);
            if (j != i) { write_bytes(name, "x", 1); }
            free(name);
        }
        free(path);
    }
    char* path = files_join(run.out, "step_00000060");
    write_bytes(path, "a file", 6);
    free(path);
    const char* copies[] = {"step_70", "step_00000070.bak", "best", ".hidden_step_00000070"};
    for (int i = 0; i < 4; i++) {  // whole, but under other names
        run_write(&run, 80, 8, 0);
        char* from = files_join(run.out, "step_00000080");
        char* to = files_join(run.out, copies[i]);
        CHECK(rename(from, to) == 0, "rename");
        free(from);
        free(to);
    }
    check_newest(&run, 40, 4);
    run_write(&run, 45, 5, 1);  // prunes checkpoints, not strangers
    check_newest(&run, 45, 5);
    check_listing(run.out,
                  ".hidden_step_00000070 best step_00000045 step_00000050 step_00000051 step_00000052 step_00000053 "
                  "step_00000060 step_00000070.bak step_70 ");
    run_end(&run);
}

static void test_checkpoint_keep(void) {
    Run run = run_begin();
    for (int step = 1; step <= 3; step++) { run_write(&run, step, step, 0); }
    check_listing(run.out, "step_00000001 step_00000002 step_00000003 ");
    run_write(&run, 4, 4, 3);
    check_listing(run.out, "step_00000002 step_00000003 step_00000004 ");
    run_write(&run, 100000000, 5, 2);  // nine digits: sorted as a number, not as text
    check_listing(run.out, "step_00000004 step_100000000 ");
    check_newest(&run, 100000000, 5);
    run_write(&run, 1, 6, 1);  // never deletes what it has just written
    check_listing(run.out, "step_00000001 ");
    check_newest(&run, 1, 6);
    run_end(&run);
}

static void test_checkpoint_replace(void) {
    Run run = run_begin();
    run_write(&run, 7, 1, 2);
    run_write(&run, 7, 2, 2);
    check_listing(run.out, "step_00000007 ");
    check_newest(&run, 7, 2);
    run_end(&run);
}

// What a kill -9 can leave, one state after the other.
static void test_checkpoint_leftovers(void) {
    Run run = run_begin();
    char* step5 = files_join(run.out, "step_00000005");
    char* step6 = files_join(run.out, "step_00000006");
    char* old6 = files_join(run.out, ".old_step_00000006");
    char* config = files_join(old6, "config.json");
    run_write(&run, 5, 5, 0);
    // While a checkpoint is being written, nearly whole; or an old one half deleted.
    char* from = files_join(run.out, "step_00000009");
    const char* dead[] = {".tmp_step_00000009_123", ".tmp_step_deletestep_00000003_77"};
    for (int i = 0; i < 2; i++) {
        char* to = files_join(run.out, dead[i]);
        run_write(&run, 9, 9, 0);
        CHECK(rename(from, to) == 0, "rename");
        free(to);
    }
    check_newest(&run, 5, 5);
    checkpoint_clean(run.out);
    check_listing(run.out, "step_00000005 ");
    // A directory inside a leftover, and a link out of it, which must not be followed.
    char* temporary = files_join(run.out, ".tmp_step_00000009_123");
    char* inner = files_join(temporary, "inner");
    char* link = files_join(inner, "link");
    CHECK(mkdir(temporary, 0777) == 0 && mkdir(inner, 0777) == 0 && symlink(step5, link) == 0, "%s", strerror(errno));
    checkpoint_clean(run.out);
    check_listing(run.out, "step_00000005 ");
    check_newest(&run, 5, 5);
    // Between the two renames of a replacement: the old one is the newest, and comes back.
    for (int by_clean = 0; by_clean < 2; by_clean++) {
        run_write(&run, 6, 6, 0);
        CHECK(rename(step6, old6) == 0, "rename");
        if (by_clean) { checkpoint_clean(run.out); }
        check_newest(&run, 6, 6);
        check_listing(run.out, "step_00000005 step_00000006 ");
    }
    // After both: the new one counts, the old one goes.
    CHECK(rename(step6, old6) == 0, "rename");
    // (the write cleans first, so the new one is put there by hand)
    run_write(&run, 9, 61, 0);
    CHECK(rename(step6, old6) == 0 && rename(from, step6) == 0, "rename");
    check_newest(&run, 6, 61);
    checkpoint_clean(run.out);
    check_listing(run.out, "step_00000005 step_00000006 ");
    check_newest(&run, 6, 61);
    // Where one may only look: a former one counts where it is newer than all others.
    for (int newer = 0; newer < 2; newer++) {
        if (newer == 0) { run_write(&run, 9, 9, 0); }
        CHECK(rename(step6, old6) == 0, "rename");
        char* expected = checkpoint_expected(run.out);
        CHECK(expected && strcmp(expected, newer ? old6 : from) == 0, "%s", expected ? expected : "none");
        free(expected);
        CHECK(rename(old6, step6) == 0, "rename");
        directory_remove_tree(from);
    }
    // An old one that is not whole does not come back.
    CHECK(rename(step6, old6) == 0 && unlink(config) == 0, "rename");
    check_newest(&run, 5, 5);
    checkpoint_clean(run.out);
    check_listing(run.out, "step_00000005 ");
    // The next write cleans too.
    CHECK(mkdir(temporary, 0777) == 0, "mkdir");
    run_write(&run, 6, 6, 0);
    check_listing(run.out, "step_00000005 step_00000006 ");
    checkpoint_clean("/nonexistent/x");
    free(link);
    free(inner);
    free(temporary);
    free(from);
    free(config);
    free(old6);
    free(step6);
    free(step5);
    run_end(&run);
}

static const char run_names[] = "config.json model.safetensors notes.bin optimizer.safetensors trainer_state.json ";

// What is synced to the disk, and when: of a new checkpoint, and of one that takes the place of another.
static void test_checkpoint_syncs(void) {
    Run run = run_begin();
    run_write(&run, 1, 1, 1);
    for (int step = 2; step >= 1; step--) {
        file_calls_watch(run.out);
        run_write(&run, 2, step, 1);
        file_calls.root = NULL;
        char* temporary = format_string(".tmp_step_00000002_%ld", (long)getpid());
        int more = file_calls_check_syncs(file_calls.list.data, temporary, "step_00000002", run_names);
        CHECK(more == 0, "%d calls of fsync more than needed:\n%s", more, file_calls.list.data);
        free(temporary);
        free(file_calls.list.data);
        check_newest(&run, 2, step);
    }
    run_end(&run);
}

// The steps and tags of the two checkpoints of which one must be whole at every moment; step -1: none yet.
typedef struct {
    Run* run;
    int step[2], tag[2];
    int newer;  // 1 once the second was there: from then on it must be
} Moments;

// Another name for everything in a directory.
static void link_tree(const char* from, const char* to) {
    int count = 0;
    char** names = directory_names(from, &count);
    if (mkdir(to, 0777) != 0) { die("%s: %s", to, strerror(errno)); }
    for (int i = 0; i < count; i++) {
        char *a = files_join(from, names[i]), *b = files_join(to, names[i]);
        if (link(a, b) != 0) { link_tree(a, b); }
        free(a);
        free(b);
    }
    directory_free_names(names);
}

// What a run that starts now would find.
static void moments_look(void* context) {
    Moments* m = (Moments*)context;
    char* copy = format_string("%s_copy", m->run->out);
    link_tree(m->run->out, copy);
    char* newest = checkpoint_newest(copy);
    int step = newest ? (int)checkpoint_step(newest) : -1;
    int is_new = step == m->step[1] && run_holds(m->run, newest, m->tag[1]);
    int is_old = !is_new && step == m->step[0] && (step < 0 || run_holds(m->run, newest, m->tag[0]));
    CHECK(is_new || (is_old && !m->newer), "step %d is the newest, or not whole, after\n%s", step,
          file_calls.list.data);
    m->newer = is_new;
    if (newest) { check_listing(newest, run_names); }
    checkpoint_clean(copy);
    char* cleaned = checkpoint_newest(copy);
    CHECK(!cleaned == !newest && (!newest || strcmp(cleaned, newest) == 0), "%s is gone after cleaning, after\n%s",
          newest, file_calls.list.data);
    free(cleaned);
    free(newest);
    directory_remove_tree(copy);
    free(copy);
    run_fill(m->run, m->tag[1]);  // the numbers that are being written
}

// A run that is killed before any call that changes something, or after the last, leaves a whole checkpoint.
static void test_checkpoint_every_moment(void) {
    // The first of all; the next; the same step again; a step below that of an older run.
    static const int steps[][2] = {{-1, 3}, {3, 4}, {4, 4}, {9, 5}};
    for (int i = 0; i < 4; i++) {
        Run run = run_begin();
        Moments moments = {&run, {steps[i][0], steps[i][1]}, {1, 2}, 0};
        if (steps[i][0] >= 0) { run_write(&run, steps[i][0], 1, 1); }
        file_calls_watch(run.out);
        file_calls.look = moments_look;
        file_calls.context = &moments;
        run_write(&run, steps[i][1], 2, 1);
        file_calls_look();
        file_calls.root = NULL;
        CHECK(moments.newer && file_calls.count >= 10, "%d calls:\n%s", file_calls.count, file_calls.list.data);
        free(file_calls.list.data);
        run_end(&run);
    }
}

typedef struct {
    Run* run;
    int step, fail_at;
} FailingCall;

static void failing_call_child(void* argument) {
    const FailingCall* f = (const FailingCall*)argument;
    file_calls_watch(f->run->out);
    file_calls.fail_at = f->fail_at;
    run_write(f->run, f->step, 2, 1);
    file_calls.root = NULL;
}

// Each call fails once. What makes the new checkpoint must not fail in silence, what removes the old one may;
// either way there is a whole one.
static void test_checkpoint_failing_calls(void) {
    static const char* const needed[] = {"mkdir ", "sync ", "rename .tmp_step_", "rename step_00000001 .old_"};
    for (int step = 1; step <= 2; step++) {  // in the place of the old one; beside it
        char* list = NULL;                   // of the calls, when none fails
        const char* call = "";
        for (int fail_at = 0; *call || fail_at == 0; fail_at++) {
            Run run = run_begin();
            run_write(&run, 1, 1, 1);
            FailingCall f = {&run, step, fail_at};
            char* output = NULL;
            if (fail_at == 0) {
                failing_call_child(&f);
                call = list = file_calls.list.data;
            } else {
                int dies = 0, code = run_child(failing_call_child, &f, &output);
                for (int i = 0; i < 4; i++) { dies |= strncmp(call, needed[i], strlen(needed[i])) == 0; }
                CHECK(code == dies && (!dies || strstr(output, "error: the checkpoint of step")),
                      "call %d fails: exit code %d, expected %d: %s\n%s", fail_at, code, dies, output, call);
                char* newest = checkpoint_newest(run.out);
                int found = newest ? (int)checkpoint_step(newest) : -1;
                CHECK((found == step && run_holds(&run, newest, 2)) ||
                          (found == 1 && dies && run_holds(&run, newest, 1)),
                      "call %d fails: step %d is the newest, or not whole: %s\n%s", fail_at, found, output, call);
                free(newest);
                call += strcspn(call, "\n") + 1;
            }
            free(output);
            run_end(&run);
        }
        free(list);
    }
}

// A child writes checkpoints, now of a new step, now of the same again, until it is killed.
static void test_checkpoint_kill(void) {
    Run run = run_begin();
    run_write(&run, 1, 1, 1);
    for (int round = 0; round < 12; round++) {
        char* newest = checkpoint_newest(run.out);
        int step = newest ? (int)checkpoint_step(newest) : 0;
        free(newest);
        fflush(stdout);
        fflush(stderr);
        pid_t pid = fork();
        if (pid == 0) {
            for (int i = 0;; i++) { run_write(&run, step + i / 2, step + i / 2, 1); }
        }
        struct timespec pause = {0, 1000000L * (1 + 37 * round % 29)};  // 1 to 29 ms
        nanosleep(&pause, NULL);
        kill(pid, SIGKILL);
        int status = 0;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
        CHECK(WIFSIGNALED(status), "the child ended by itself: %d", status);
        if (round % 2) { checkpoint_clean(run.out); }
        newest = checkpoint_newest(run.out);
        CHECK(newest && checkpoint_step(newest) >= step, "after step %d: %s", step, newest ? newest : "no checkpoint");
        if (newest) { CHECK(run_holds(&run, newest, (int)checkpoint_step(newest)), "%s is not whole", newest); }
        free(newest);
    }
    run_end(&run);
}

typedef struct {
    Run* run;
    rlim_t limit;  // of a file's size in bytes
    int step;
} FullDisk;

static void checkpoint_full_child(void* argument) {
    const FullDisk* full = (const FullDisk*)argument;
    struct rlimit limit = {full->limit, full->limit};
    signal(SIGXFSZ, SIG_IGN);  // then write() fails with EFBIG, as it does with ENOSPC on a full disk
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) { die("setrlimit: %s", strerror(errno)); }
    run_write(full->run, full->step, 99, 1);
}

static void test_checkpoint_full_disk(void) {
    Run run = run_begin();
    FullDisk first = {&run, 100, 3};
    expect_death("no checkpoint yet", checkpoint_full_child, &first,
                 "the checkpoint of step 3: |could not be written|there is no earlier checkpoint");
    check_listing(run.out, "");
    run_write(&run, 10, 10, 1);
    char* model = files_join(run.out, "step_00000010/model.safetensors");
    char* optimizer = files_join(run.out, "step_00000010/optimizer.safetensors");
    struct stat info;
    CHECK(stat(model, &info) == 0, "stat");
    rlim_t model_size = (rlim_t)info.st_size;
    CHECK(stat(optimizer, &info) == 0, "stat");
    rlim_t optimizer_size = (rlim_t)info.st_size;
    // Inside the length, header and data of the first file; at its end; inside the second. Both for
    // a new step and for the step that is already there.
    const rlim_t limits[] = {0, 7, 8, 200, model_size - 1, model_size, optimizer_size - 1};
    for (int i = 0; i < 14; i++) {
        FullDisk full = {&run, limits[i / 2], i % 2 ? 10 : 20};
        char* words = format_string(
            "error: the checkpoint of step %d: |%s: could not be written: File too large|the previous checkpoint "
            "%s/step_00000010 is intact",
            full.step, limits[i / 2] < model_size ? "model.safetensors" : "optimizer.safetensors", run.out);
        expect_death("full disk", checkpoint_full_child, &full, words);
        check_listing(run.out, "step_00000010 ");
        check_newest(&run, 10, 10);
        free(words);
    }
    free(model);
    free(optimizer);
    run_end(&run);
}

static void checkpoint_write_child(void* argument) { run_write((Run*)argument, 20, 2, 1); }

static void checkpoint_write_given_child(void* argument) {  // numbers as they are
    Run* run = (Run*)argument;
    checkpoint_write(run->out, 20, &run->table, run->params, run->m, run->v, run_files, 3, 1);
}

static void test_checkpoint_unwritable(void) {
    Run run = run_begin();
    char* out = run.out;
    char* file = files_join(out, "file");
    write_bytes(file, "x", 1);
    run.out = file;
    expect_death(
        "OUT is a file", checkpoint_write_child, &run,
        "the checkpoint of step 20: |file: the directory could not be made: Not a directory|no earlier checkpoint");
    run.out = files_join(file, "below");
    expect_death("OUT below a file", checkpoint_write_child, &run, "could not be made: Not a directory");
    free(run.out);
    run.out = out;
    // The last of the given files cannot be written: a checkpoint without it must not appear.
    run_write(&run, 10, 1, 1);
    CheckpointFile bad[] = {{"config.json", "{}", 2}, {"trainer_state.json", "{}", 2}, {"no/such/directory", "x", 1}};
    char* error = checkpoint_fill(file, &run.table, run.params, run.m, run.v, bad, 3);
    CHECK(error && strstr(error, "file: the directory could not be made: File exists"), "%s",
          error ? error : "no error");
    free(error);
    char* temporary = files_join(out, ".tmp_step_00000020_1");
    error = checkpoint_fill(temporary, &run.table, run.params, run.m, run.v, bad, 3);
    CHECK(error && strstr(error, "no/such/directory: could not be created: No such file"), "%s",
          error ? error : "no error");
    free(error);
    free(temporary);
    free(file);
    checkpoint_clean(out);
    check_listing(out, "file step_00000010 ");
    // Numbers that are not finite are not saved, in any family, at either end of a tensor.
    for (int i = 0; i < 6; i++) {
        const Tensor* t = &run.table.list[i / 2];
        run_fill(&run, 2);
        size_t at = i % 2 ? t->size - 1 : 0;
        (i < 2 ? run.params : i < 4 ? run.m : run.v)[t->offset + at] = i == 2 ? INFINITY : i == 3 ? -INFINITY : NAN;
        char* words =
            format_string("the checkpoint of step 20: tensor %s%s holds |at index %zu|step_00000010 is intact",
                          i < 2   ? ""
                          : i < 4 ? "exp_avg."
                                  : "exp_avg_sq.",
                          t->name, at);
        expect_death("not finite", checkpoint_write_given_child, &run, words);
        free(words);
    }
    check_listing(out, "file step_00000010 ");
    check_newest(&run, 10, 1);
    run_end(&run);
}

// ---- reading weights ----

typedef struct {
    Run* run;
    const char* dir;
    int optimizer;
} Reading;

static int ignores_adapter(const void* context, const char* name) { return strcmp(name, (const char*)context) == 0; }

static void reading_child(void* argument) {
    const Reading* r = (const Reading*)argument;
    if (r->optimizer) {
        optimizer_read(r->dir, &r->run->table, r->run->m, r->run->v);
    } else {
        weights_read(r->dir, &r->run->table, r->run->params, ignores_adapter, "adapter.weight");
    }
}

// Rows for safetensors_write with the table's tensors and the numbers of run_fill.
static int run_rows(Run* run, SafeWrite* rows) {
    for (int i = 0; i < run->table.count; i++) {
        const Tensor* t = &run->table.list[i];
        SafeWrite row = {t->name, t->ndim, {t->shape[0], t->shape[1]}, run->params + t->offset};
        rows[i] = row;
    }
    return run->table.count;
}

static void test_weights_rejects(void) {
    Run run = run_begin();
    char* path = files_join(run.out, "model.safetensors");
    Reading reading = {&run, run.out, 0};
    SafeWrite rows[16];
    float* wide = (float*)xalloc(1000, sizeof(float), "a test");
    run_fill(&run, 1);

    expect_death("empty directory", reading_child, &reading,
                 "expected model.safetensors or model.safetensors.index.json, found neither");
    Reading missing = {&run, path, 0};
    expect_death("no directory", reading_child, &missing,
                 "model.safetensors: expected a model directory: No such file");
    char* pickle = files_join(run.out, "pytorch_model.bin");
    write_bytes(pickle, "PK", 2);
    expect_death("only a pickle", reading_child, &reading,
                 "expected model.safetensors, found only pytorch_model.bin|save_pretrained");
    unlink(pickle);
    free(pickle);

    int n = run_rows(&run, rows);
    safetensors_write(path, rows, n, NULL);
    expect_death("a file", reading_child, &missing, "model.safetensors: expected a model directory, found a file");
    Reading moments = {&run, run.out, 1};
    expect_death("no optimizer", reading_child, &moments, "optimizer.safetensors: could not be opened");

    rows[2].shape[0] = 5, rows[2].shape[1] = 7;  // as many numbers, another shape
    safetensors_write(path, rows, n, NULL);
    expect_death("transposed", reading_child, &reading,
                 "model.safetensors: tensor net.layers.0.dense.weight has shape (5,7), the model needs (7,5)");
    n = run_rows(&run, rows);
    rows[1].ndim = 2, rows[1].shape[1] = 1;
    safetensors_write(path, rows, n, NULL);
    expect_death("dimensions", reading_child, &reading,
                 "tensor net.layers.0.norm.weight has shape (5,1), the model needs (5)");
    n = run_rows(&run, rows);
    rows[0].shape[0] = 12, rows[0].data = wide;
    safetensors_write(path, rows, n, NULL);
    expect_death("vocabulary", reading_child, &reading,
                 "tensor net.embed.weight has shape (12,5), the model needs (11,5)");
    n = run_rows(&run, rows);
    rows[0].shape[1] = 6, rows[0].data = wide;
    safetensors_write(path, rows, n, NULL);
    expect_death("width", reading_child, &reading, "tensor net.embed.weight has shape (11,6), the model needs (11,5)");

    run_rows(&run, rows);
    safetensors_write(path, rows, 4, NULL);
    expect_death("missing one", reading_child, &reading,
                 "model.safetensors: lacks 1 of the model's 5 tensors: head.weight");
    safetensors_write(path, rows, 0, NULL);
    expect_death("missing all", reading_child, &reading,
                 "lacks 5 of the model's 5 tensors: net.embed.weight, net.layers.0.norm.weight");
    char names[7][32];
    n = run_rows(&run, rows);
    for (int i = 0; i < 7; i++, n++) {
        snprintf(names[i], sizeof names[i], "extra.%d", i);
        SafeWrite row = {names[i], 1, {1}, wide};
        rows[n] = row;
    }
    safetensors_write(path, rows, n, NULL);
    expect_death(
        "extra", reading_child, &reading,
        "model.safetensors: no tensor is missing; 7 that the model does not have: extra.0, extra.1|extra.4 and 2 more");
    rows[4].name = "had.weight";
    safetensors_write(path, rows, 5, NULL);
    expect_death("misnamed", reading_child, &reading,
                 "lacks 1 of the model's 5 tensors: head.weight; 1 that the model does not have: had.weight");

    n = run_rows(&run, rows);
    SafeWrite adapter = {"adapter.weight", 2, {3, 6}, wide};
    rows[n++] = adapter;
    safetensors_write(path, rows, n, NULL);
    run_poison(&run);
    weights_read(run.out, &run.table, run.params, ignores_adapter, "adapter.weight");
    CHECK(run.params[run.table.list[4].offset] == 1040.0f, "head.weight[0] is %g",
          (double)run.params[run.table.list[4].offset]);
    run_fill(&run, 1);
    wide[0] = NAN;  // nobody reads what is ignored
    safetensors_write(path, rows, n, NULL);
    weights_read(run.out, &run.table, run.params, ignores_adapter, "adapter.weight");

    for (int i = 0; i < 2; i++) {
        run_fill(&run, 1);
        run.params[run.table.list[3].offset + 6] = i ? INFINITY : NAN;
        run_rows(&run, rows);
        safetensors_write(path, rows, 5, NULL);
        expect_death("not finite", reading_child, &reading,
                     "model.safetensors: tensor net.layers.0.dense.bias holds |at index 6, expected finite numbers");
    }
    free(wide);
    free(path);
    run_end(&run);
}

// A model of one tensor "net.w" (2,3) in a dtype given by its bytes.
static void weights_of_dtype(Run* run, const char* dtype, const void* data, size_t bytes) {
    char* path = files_join(run->out, "model.safetensors");
    char* header =
        format_string("{\"net.w\":{\"dtype\":\"%s\",\"shape\":[2,3],\"data_offsets\":[0,%zu]}}", dtype, bytes);
    files_craft(path, strlen(header), header, data, bytes);
    free(header);
    free(path);
}

static void test_weights_dtypes(void) {
    Run run = run_begin();
    TensorTable whole = run.table, one = {0};
    tensor_add(&one, format_string("net.w"), 2, 3, INIT_ZEROS, 0);
    run.table = one;
    const uint16_t halves[] = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x8000, 0x3555};
    const float halves_value[] = {1, -2, 5.9604644775390625e-8f, 65504, -0.0f, 0.333251953125f};
    const uint16_t brains[] = {0x3f80, 0xc000, 0x0001, 0x7f7f, 0x8000, 0x3eab};
    const float brains_value[] = {1, -2, 9.18354961579912e-41f, 3.3895313892515355e38f, -0.0f, 0.333984375f};
    const double doubles[] = {1, -2, 1e-60, 3.4028234663852886e38, -0.0, 1.0 / 3};
    const float doubles_value[] = {1, -2, 0, 3.4028234663852886e38f, -0.0f, 0.333333343267440796f};
    const char longs[48] = {0};
    float out[6];
    memset(out, 0xff, sizeof out);
    weights_of_dtype(&run, "F16", halves, 12);
    weights_read(run.out, &run.table, out, NULL, NULL);
    CHECK(memcmp(out, halves_value, 24) == 0, "F16: %g %g %g", (double)out[0], (double)out[1], (double)out[2]);
    memset(out, 0xff, sizeof out);
    weights_of_dtype(&run, "BF16", brains, 12);
    weights_read(run.out, &run.table, out, NULL, NULL);
    CHECK(memcmp(out, brains_value, 24) == 0, "BF16: %g %g %g", (double)out[0], (double)out[1], (double)out[2]);
    memset(out, 0xff, sizeof out);
    weights_of_dtype(&run, "F64", doubles, 48);
    weights_read(run.out, &run.table, out, NULL, NULL);
    CHECK(memcmp(out, doubles_value, 24) == 0, "F64: %g %g %g", (double)out[0], (double)out[1], (double)out[2]);
    Reading reading = {&run, run.out, 0};
    weights_of_dtype(&run, "I64", longs, 48);
    expect_death("I64", reading_child, &reading,
                 "model.safetensors: tensor net.w has dtype I64 where F32, F16 or BF16 is expected");
    const double big[] = {1, 1, 1, 1, 1, 1e39};  // too large for a float
    weights_of_dtype(&run, "F64", big, 48);
    expect_death("1e39", reading_child, &reading, "tensor net.w holds inf at index 5");
    free(run.table.list[0].name);
    free(run.table.list);
    run.table = whole;
    run_end(&run);
}

// Checkpoints of base models lack the first part of the names, but not of all of them.
static void test_weights_prefix(void) {
    Run run = run_begin();
    char* path = files_join(run.out, "model.safetensors");
    SafeWrite rows[8];
    run_fill(&run, 2);
    run_rows(&run, rows);
    for (int i = 0; i < 4; i++) { rows[i].name += strlen("net."); }
    safetensors_write(path, rows, 5, NULL);
    float* want = (float*)xalloc(run.table.total, sizeof(float), "a test");
    memcpy(want, run.params, run.table.total * sizeof(float));
    run_poison(&run);
    weights_read(run.out, &run.table, run.params, NULL, NULL);
    for (int i = 0; i < 5; i++) {
        const Tensor* t = &run.table.list[i];
        CHECK(memcmp(want + t->offset, run.params + t->offset, t->size * sizeof(float)) == 0, "%s", t->name);
    }
    memcpy(run.params, want, run.table.total * sizeof(float));
    Reading reading = {&run, run.out, 0};
    run_rows(&run, rows);
    rows[5] = rows[0];
    rows[5].name = "embed.weight";  // both names: which is meant?
    safetensors_write(path, rows, 6, NULL);
    expect_death("both names", reading_child, &reading, "1 that the model does not have: embed.weight");
    rows[4].name = "weight";  // short for head.weight; and another row that would take it
    tensor_add(&run.table, format_string("tail.weight"), 11, 5, INIT_ZEROS, 0);
    safetensors_write(path, rows, 5, NULL);
    expect_death("one for two", reading_child, &reading, "lacks 1 of the model's 6 tensors: tail.weight");
    free(want);
    free(path);
    run_end(&run);
}

// A table with two names is found under either, in one file or two; two copies must be one.
static void test_weights_two_names(void) {
    Run run = run_begin();
    char* path = files_join(run.out, "model.safetensors");
    char* index = files_join(run.out, "model.safetensors.index.json");
    char* a = files_join(run.out, "a.safetensors");
    char* b = files_join(run.out, "b.safetensors");
    SafeWrite rows[8];
    run.table.list[0].alias = "out.weight";
    run_fill(&run, 4);
    size_t size = run.table.list[0].size;
    float* want = (float*)xalloc(run.table.total, sizeof(float), "a test");
    float* copy = (float*)xalloc(size, sizeof(float), "a test");
    memcpy(want, run.params, run.table.total * sizeof(float));
    Reading reading = {&run, run.out, 0};
    // which: 1 the usual name, 2 the other, 3 both; files: 1, or 2 with the other name in the second
    for (int which = 1; which <= 3; which++) {
        for (int files = 1; files <= 2; files++) {
            memcpy(run.params, want, run.table.total * sizeof(float));
            memcpy(copy, want + run.table.list[0].offset, size * sizeof(float));
            run_rows(&run, rows);
            rows[5] = rows[0];
            rows[5].name = "out.weight", rows[5].data = copy;
            int first = which == 2 ? 1 : 0, end = which == 1 ? 5 : 6;
            for (int differ = 0; differ <= (which == 3); differ++) {
                if (differ) { copy[size - 1] += 0.5f; }
                if (files == 1) {
                    safetensors_write(path, rows + first, end - first, NULL);
                } else {
                    StringBuilder map = {0};
                    safetensors_write(a, rows + first, 5 - first, NULL);
                    safetensors_write(b, rows + 5, end - 5, NULL);
                    for (int i = first; i < end; i++) {
                        sb_printf(&map, "%s\"%s\": \"%s.safetensors\"", i == first ? "{\"weight_map\": {" : ", ",
                                  rows[i].name, i < 5 ? "a" : "b");
                    }
                    sb_printf(&map, "}}");
                    write_bytes(index, map.data, map.size);
                    free(map.data);
                }
                if (differ) {
                    char* words = format_string("%s: a tied config with two different tables: net.embed.weight and "
                                                "out.weight|at index %zu",
                                                files == 1 ? path : index, size - 1);
                    expect_death("two different", reading_child, &reading, words);
                    free(words);
                    continue;
                }
                run_poison(&run);
                weights_read(run.out, &run.table, run.params, NULL, NULL);
                for (int i = 0; i < 5; i++) {
                    const Tensor* t = &run.table.list[i];
                    CHECK(memcmp(want + t->offset, run.params + t->offset, t->size * sizeof(float)) == 0,
                          "names %d, files %d: %s", which, files, t->name);
                }
                memcpy(run.params, want, run.table.total * sizeof(float));
            }
            if (files == 1) { unlink(path); }
        }
    }
    unlink(index);
    run_rows(&run, rows);
    rows[5] = rows[0];
    rows[5].name = "out.weight", rows[5].shape[0] = 5, rows[5].shape[1] = 11;
    safetensors_write(path, rows, 6, NULL);
    expect_death("another shape", reading_child, &reading,
                 "tensor out.weight has shape (5,11), the model needs (11,5)");
    run.table.list[0].rows_of = "rows 3 x 4";
    expect_death("another shape", reading_child, &reading, "has shape (5,11), the model needs (11,5): rows 3 x 4");
    run.table.list[0].rows_of = NULL;
    run.table.list[0].alias = NULL;  // a model with a table of its own there would have it in its list
    rows[5].shape[0] = 11, rows[5].shape[1] = 5;
    safetensors_write(path, rows, 6, NULL);
    expect_death("not tied", reading_child, &reading, "1 that the model does not have: out.weight");
    free(copy), free(want);
    free(a), free(b), free(index), free(path);
    run_end(&run);
}

// A table that may begin as a copy of another does so in a file without it; where it is there, it is read.
static void test_weights_copy(void) {
    Run run = run_begin();
    char* path = files_join(run.out, "model.safetensors");
    const Tensor *from = &run.table.list[0], *to = &run.table.list[4];
    SafeWrite rows[8];
    for (int there = 0; there <= 1; there++) {
        run.table.list[4].copy_of = from->name;
        run_fill(&run, 4);
        run_rows(&run, rows);
        safetensors_write(path, rows, 4 + there, NULL);
        run_poison(&run);
        weights_read(run.out, &run.table, run.params, NULL, NULL);
        const float *a = run.params + from->offset, *b = run.params + to->offset;
        CHECK((memcmp(a, b, to->size * sizeof(float)) == 0) == !there && b[to->size - 1] == b[to->size - 1],
              "%s where the file has %s: %g, %g", to->name, there ? "it" : "only the other", (double)a[0],
              (double)b[0]);
        run.table.list[4].copy_of = NULL;
        Reading reading = {&run, run.out, 0};
        if (!there) {
            expect_death("no copy", reading_child, &reading, "lacks 1 of the model's 5 tensors: head.weight");
        }
    }
    free(path);
    run_end(&run);
}

static void test_weights_shards(void) {
    Run run = run_begin();
    char* index = files_join(run.out, "model.safetensors.index.json");
    char* a = files_join(run.out, "model-00001-of-00002.safetensors");
    char* b = files_join(run.out, "model-00002-of-00002.safetensors");
    SafeWrite rows[8];
    run_fill(&run, 3);
    run_rows(&run, rows);
    safetensors_write(a, rows, 2, NULL);
    safetensors_write(b, rows + 2, 3, NULL);
#define SHARD_A "model-00001-of-00002.safetensors"
#define SHARD_B "model-00002-of-00002.safetensors"
#define MAP_START "{\"metadata\":{\"total_size\":640},\"weight_map\":{\"net.embed.weight\":\"" SHARD_A "\","
#define MAP_B "\"net.layers.0.dense.weight\":\"" SHARD_B "\",\"net.layers.0.dense.bias\":\"" SHARD_B "\","
#define MAP_NORM(file) "\"net.layers.0.norm.weight\":\"" file "\""
    const char* good = MAP_START MAP_B "\"head.weight\":\"" SHARD_B "\"," MAP_NORM(SHARD_A) "}}";
    write_bytes(index, good, strlen(good));
    float* want = (float*)xalloc(run.table.total, sizeof(float), "a test");
    memcpy(want, run.params, run.table.total * sizeof(float));
    run_poison(&run);
    weights_read(run.out, &run.table, run.params, NULL, NULL);
    for (int i = 0; i < 5; i++) {
        const Tensor* t = &run.table.list[i];
        CHECK(memcmp(want + t->offset, run.params + t->offset, t->size * sizeof(float)) == 0, "%s", t->name);
    }
    const struct {
        const char *text, *words;
    } cases[] = {
        {"{", "index.json:1:2: expected a quoted key"},
        {"[]", "index.json: expected an object \"weight_map\""},
        {"{\"metadata\":{}}", "expected an object \"weight_map\" of tensor and file names, found none"},
        {"{\"weight_map\":[]}", "expected an object \"weight_map\" of tensor and file names, found an array"},
        {"{\"weight_map\":{}}", "expected an object \"weight_map\""},
        {"{\"weight_map\":{\"x\":3}}", "tensor x: expected the name of a file in the same directory, found 3"},
        {"{\"weight_map\":{\"x\":\"\"}}", "tensor x: expected the name of a file in the same directory"},
        {"{\"weight_map\":{\"x\":\"../" SHARD_A "\"}}",
         "tensor x: expected the name of a file in the same directory, found the string \"../"},
        {"{\"weight_map\":{\"x\":\"..\"}}", "tensor x: expected the name of a file in the same directory"},
        {"{\"weight_map\":{\"x\":\"/etc/passwd\"}}", "tensor x: expected the name of a file in the same directory"},
        {"{\"weight_map\":{\"x\":\"a/b\"}}", "tensor x: expected the name of a file in the same directory"},
        {"{\"weight_map\":{\"x\":\"" SHARD_A "\\u0000\"}}",
         "tensor x: expected the name of a file in the same directory"},
        {"{\"weight_map\":{\"x\":\"absent.safetensors\"}}", "absent.safetensors: could not be opened: No such file"},
        {"{\"weight_map\":{\"x\":\"" SHARD_A "\"}}",
         "index.json: tensor x: expected in |" SHARD_A ", but that file does not have it"},
        {MAP_START MAP_B "\"head.weight\":\"" SHARD_B "\"," MAP_NORM(SHARD_B) "}}",
         "tensor net.layers.0.norm.weight: expected in |" SHARD_B ", but that file does not"},
        {MAP_START MAP_B "\"head.weight\":\"" SHARD_B "\"}}",
         "tensor net.layers.0.norm.weight: found in |" SHARD_A ", but the index says nothing of it"},
        {MAP_START MAP_NORM(SHARD_A) "}}", "index.json: lacks 3 of the model's 5 tensors: net.layers.0.dense.weight"},
    };
    Reading reading = {&run, run.out, 0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_bytes(index, cases[i].text, strlen(cases[i].text));
        expect_death(cases[i].text, reading_child, &reading, cases[i].words);
    }
    write_bytes(index, good, strlen(good));
    safetensors_write(b, rows + 1, 4, NULL);  // a tensor in both shards
    expect_death("twice", reading_child, &reading,
                 "tensor net.layers.0.norm.weight: found in |" SHARD_B ", but the index says " SHARD_A);
    free(want);
    free(index);
    free(a);
    free(b);
    run_end(&run);
}

// Joined tensors in two files, neighbours never in the same one: each gets its own numbers, and what lies behind a group
// stays as it was.
static void test_weights_joined(void) {
    TensorTable table = {0};
    const struct {
        const char* name;
        size_t rows;
        int join;
    } tensors[] = {{"q", 6, 0}, {"k", 3, 1}, {"v", 3, 1}, {"o", 5, 0}, {"gate", 7, 0}, {"up", 7, 1}};
    enum { COUNT = sizeof tensors / sizeof tensors[0] };
    for (int i = 0; i < COUNT; i++) {
        tensor_add(&table, format_string("net.layers.0.%s.weight", tensors[i].name), tensors[i].rows, 5, INIT_ZEROS, 0);
        if (tensors[i].join) { tensor_join(&table); }
    }
    Run run = run_of(table);
    run_poison(&run);  // gaps too
    run_fill(&run, 5);
    SafeWrite rows[COUNT], part[COUNT];
    run_rows(&run, rows);
    StringBuilder map = {0};
    for (int file = 0; file < 2; file++) {
        int n = 0;
        for (int i = file; i < COUNT; i += 2) {
            part[n++] = rows[i];
            sb_printf(&map, "%s\"%s\": \"%d.safetensors\"", map.size ? ", " : "{\"weight_map\": {", rows[i].name, file);
        }
        char* path = format_string("%s/%d.safetensors", run.out, file);
        safetensors_write(path, part, n, NULL);
        free(path);
    }
    sb_printf(&map, "}}");
    char* index = files_join(run.out, "model.safetensors.index.json");
    write_bytes(index, map.data, map.size);
    size_t bytes = run.table.total * sizeof(float);
    float* want = (float*)xalloc(run.table.total, sizeof(float), "a test");
    memcpy(want, run.params, bytes);
    run_poison(&run);
    weights_read(run.out, &run.table, run.params, NULL, NULL);
    for (int i = 0; i < COUNT; i++) {
        const Tensor* t = &run.table.list[i];
        CHECK(memcmp(want + t->offset, run.params + t->offset, t->size * sizeof(float)) == 0, "%s", t->name);
    }
    CHECK(memcmp(want, run.params, bytes) == 0, "reading weights wrote between the tensors");
    free(want), free(index), free(map.data);
    run_end(&run);
}

static void test_optimizer_rejects(void) {
    Run run = run_begin();
    run_write(&run, 1, 1, 0);
    char* dir = files_join(run.out, "step_00000001");
    char* path = files_join(dir, "optimizer.safetensors");
    Reading reading = {&run, dir, 1};
    // Every row of the file by itself: left out, renamed, transposed, NaN; then one too many.
    SafeWrite rows[16];
    char* names[10];
    for (int i = 0; i < 10; i++) {
        names[i] = format_string("%s%s", i % 2 ? "exp_avg_sq." : "exp_avg.", run.table.list[i / 2].name);
    }
    for (int bad = 0; bad < 10; bad++) {
        int n = 0;
        for (int i = 0; i < 10; i++) {
            const Tensor* t = &run.table.list[i / 2];
            if (i == bad) { continue; }
            SafeWrite row = {names[i], t->ndim, {t->shape[0], t->shape[1]}, (i % 2 ? run.v : run.m) + t->offset};
            rows[n++] = row;
        }
        safetensors_write(path, rows, n, NULL);
        char* words = format_string("optimizer.safetensors: lacks 1 of 10 tensors: %s", names[bad]);
        expect_death(names[bad], reading_child, &reading, words);
        free(words);
        const Tensor* t = &run.table.list[bad / 2];
        SafeWrite row = {names[bad], 1, {t->size}, (bad % 2 ? run.v : run.m) + t->offset};
        if (t->ndim == 1) { row.ndim = 2, row.shape[1] = 1; }
        rows[n] = row;
        safetensors_write(path, rows, 10, NULL);
        words = format_string("optimizer.safetensors: tensor %s has shape (%zu", names[bad], t->size);
        expect_death(names[bad], reading_child, &reading, words);
        free(words);
        rows[n].ndim = t->ndim, rows[n].shape[0] = t->shape[0], rows[n].shape[1] = t->shape[1];
        float* number = (bad % 2 ? run.v : run.m) + t->offset + t->size - 1;
        float kept = *number;
        *number = NAN;
        safetensors_write(path, rows, 10, NULL);
        words = format_string("optimizer.safetensors: tensor %s holds |at index %zu", names[bad], t->size - 1);
        expect_death(names[bad], reading_child, &reading, words);
        free(words);
        *number = -kept;  // a first moment may be negative, a second not
        safetensors_write(path, rows, 10, NULL);
        if (bad % 2) {
            expect_death(names[bad], reading_child, &reading, "expected no negative numbers");
        } else {
            reading_child(&reading);
        }
        *number = kept;
    }
    rows[10] = rows[9];
    rows[10].name = "exp_avg.adapter.weight";
    safetensors_write(path, rows, 11, NULL);
    expect_death("extra", reading_child, &reading,
                 "optimizer.safetensors: expected 10 tensors, two for each of the model's, found 11");
    // Moments in fewer bits would resume to other numbers.
    StringBuilder header = {0};
    size_t at = 0;
    for (int i = 0; i < 10; i++) {
        const Tensor* t = &run.table.list[i / 2];
        char shape[64];
        sb_printf(&header, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[", i ? "," : "{", names[i]);
        snprintf(shape, sizeof shape, t->ndim == 2 ? "%zu,%zu" : "%zu", t->shape[0], t->shape[1]);
        sb_printf(&header, "%s],\"data_offsets\":[%zu,%zu]}", shape, at, at + 2 * t->size);
        at += 2 * t->size;
    }
    sb_printf(&header, "}");
    char* zeros = (char*)xalloc(at, 1, "a test");
    files_craft(path, header.size, header.data, zeros, at);
    expect_death("BF16", reading_child, &reading,
                 "optimizer.safetensors: tensor exp_avg.net.embed.weight has dtype BF16, expected F32");
    free(zeros);
    free(header.data);
    for (int i = 0; i < 10; i++) { free(names[i]); }
    free(path);
    free(dir);
    run_end(&run);
}

static void checkpoint_tests(void) {
    RUN(test_checkpoint_round_trip);
    RUN(test_checkpoint_names);
    RUN(test_checkpoint_strangers);
    RUN(test_checkpoint_keep);
    RUN(test_checkpoint_replace);
    RUN(test_checkpoint_leftovers);
    RUN(test_checkpoint_syncs);
    RUN(test_checkpoint_every_moment);
    RUN(test_checkpoint_failing_calls);
    RUN(test_checkpoint_kill);
    RUN(test_checkpoint_full_disk);
    RUN(test_checkpoint_unwritable);
    RUN(test_weights_rejects);
    RUN(test_weights_dtypes);
    RUN(test_weights_prefix);
    RUN(test_weights_two_names);
    RUN(test_weights_copy);
    RUN(test_weights_shards);
    RUN(test_weights_joined);
    RUN(test_optimizer_rejects);
}

#endif

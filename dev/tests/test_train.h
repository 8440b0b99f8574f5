// test_train.h - tests of common/run/train.h and what it stands on (setup.h, log.h).
//
// The loop runs as processes of its own, on the toy model of toy_trainer.h, so that it can be
// killed, signalled, starved of disk and resumed. The main() of this program must begin with
//     if (argc > 1 && strcmp(argv[1], "--toy-trainer") == 0) { return toy_trainer_main(argc - 1, argv + 1); }
#ifndef PONDER_TEST_TRAIN_H
#define PONDER_TEST_TRAIN_H

#include "test.h"
#include "toy_trainer.h"

#include <sys/resource.h>

static char toy_home[512];  // of this test program's runs: shards and OUT directories

// ---- processes ----

static int toy_file_limit;                 // bytes; 0: none
static int toy_soft_limit;                 // the same, which can be raised while it runs
static void (*toy_before)(void);           // called in the process before it begins; NULL: nothing
static const char* toy_threads = "1";      // more than one make starting slower
static int toy_unheard;                    // 1: nobody holds the other end of its standard output
static void (*toy_hangup)(int) = SIG_DFL;  // what SIGHUP does to it; SIG_IGN: as under nohup

// Starts the toy trainer in toy_home with arguments separated by blanks; = *from is the reading end
// of its output.
static pid_t toy_start(const char* line, int* from) {
    char* argv[64] = {(char*)"/proc/self/exe", (char*)"--toy-trainer"};
    int argc = 2;
    char* text = format_string("%s", line);
    for (char* word = strtok(text, " "); word && argc < 63; word = strtok(NULL, " ")) { argv[argc++] = word; }
    argv[argc] = NULL;
    fflush(stdout);
    fflush(stderr);
    int fds[2];
    if (pipe(fds) != 0) { die("pipe: %s", strerror(errno)); }
    if (toy_unheard) {
        close(fds[0]);
        fds[0] = open("/dev/null", O_RDONLY);
    }
    pid_t pid = fork();
    if (pid < 0) { die("fork: %s", strerror(errno)); }
    if (pid == 0) {
        if (chdir(toy_home) != 0) { _exit(99); }
        if (toy_file_limit) {
            struct rlimit limit = {(rlim_t)toy_file_limit, (rlim_t)toy_file_limit};
            setrlimit(RLIMIT_FSIZE, &limit);
        }
        if (toy_soft_limit) {
            struct rlimit limit = {(rlim_t)toy_soft_limit, RLIM_INFINITY};
            setrlimit(RLIMIT_FSIZE, &limit);
        }
        signal(SIGHUP, toy_hangup);  // these tests themselves may run under nohup,
        signal(SIGPIPE, SIG_DFL);    // or under something that ignores SIGPIPE
        setenv("OMP_NUM_THREADS", toy_threads, 1);
        dup2(fds[1], 1);
        dup2(fds[1], 2);
        close(fds[0]);
        close(fds[1]);
        if (toy_before) { toy_before(); }
        execv(argv[0], argv);
        _exit(98);
    }
    close(fds[1]);
    free(text);
    *from = fds[0];
    return pid;
}

// Waits for its end: the exit status (or 1000 + signal), and all its output (the caller frees it).
static int toy_wait(pid_t pid, int from, char** output) {
    StringBuilder sb = {0};
    char chunk[4096];
    for (ssize_t n; (n = read(from, chunk, sizeof chunk)) != 0;) {
        if (n > 0) { sb_append(&sb, chunk, (size_t)n); }
        if (n < 0 && errno != EINTR) { break; }
    }
    close(from);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    sb_append(&sb, "", 0);
    *output = sb.data;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

// Reads output until `word` has appeared, so that the process is known to have come so far.
static void toy_wait_for(int from, const char* word, StringBuilder* seen) {
    char c;
    while (!(seen->data && strstr(seen->data, word))) {
        ssize_t n = read(from, &c, 1);
        if (n < 0 && errno == EINTR) { continue; }
        if (n <= 0) { break; }
        sb_append(seen, &c, 1);
    }
    CHECK(seen->data && strstr(seen->data, word), "'%s' never came: %s", word, seen->data ? seen->data : "");
}

// A run that must exit with `code`, and say all of `words` ('|' separates), but not one that follows a '!'.
static void toy_bare(int code, const char* words, const char* line) {
    char* output = NULL;
    int from;
    pid_t pid = toy_start(line, &from);
    int got = toy_wait(pid, from, &output);
    CHECK(got == code, "'%s' exits with %d, expected %d: %s", line, got, code, output);
    char* list = format_string("%s", words);
    for (char* word = strtok(list, "|"); word; word = strtok(NULL, "|")) {
        int wanted = word[0] != '!';
        CHECK((strstr(output, word + !wanted) != NULL) == wanted, "'%s' and '%s', it says: %s", line, word, output);
    }
    free(list);
    free(output);
}

// The same with the shards of this test.
static void toy_run(int code, const char* words, const char* line) {
    char* whole = format_string("--train train.bin --val val.bin --seq 16 --batch 4 --sample-tokens 0 %s", line);
    toy_bare(code, words, whole);
    free(whole);
}

// ---- files ----

static char* toy_path(const char* name) { return format_string("%s/%s", toy_home, name); }

static char* toy_read(const char* name, size_t* size) {
    char* path = toy_path(name);
    char* text = read_fully(path, size);
    free(path);
    return text;
}

static void toy_write(const char* name, const char* text, size_t size) {
    char* path = toy_path(name);
    write_bytes(path, text, size);
    free(path);
}

// Replaces the first line of a file that begins so; `line` without its end.
static void toy_change_line(const char* name, const char* begin, const char* line) {
    size_t size = 0;
    char* text = toy_read(name, &size);
    char* at = text ? strstr(text, begin) : NULL;
    if (!at) { die("%s has no line that begins with '%s'", name, begin); }
    char* changed = format_string("%.*s%s%s", (int)(at - text), text, line, at + strcspn(at, "\n"));
    toy_write(name, changed, strlen(changed));
    free(changed);
    free(text);
}

static int toy_exists(const char* name) {
    char* path = toy_path(name);
    int there = access(path, F_OK) == 0;
    free(path);
    return there;
}

static void toy_wait_for_file(const char* name) {
    for (int i = 0; i < 3000 && !toy_exists(name); i++) { usleep(10000); }
    CHECK(toy_exists(name), "%s never came", name);
}

// A shard of words that a bigram model can learn something about.
static void toy_shard(const char* name, int tokens, uint64_t seed) {
    static const char* const words[] = {"the ", "cat ", "sat ", "on ", "a ", "mat, ", "and ", "pondered.\n"};
    size_t size = 1024 + 2 * (size_t)tokens;
    unsigned char* bytes = (unsigned char*)xalloc(size, 1, "a shard");
    int32_t header[3] = {20240520, 1, tokens};
    for (int i = 0; i < 12; i++) { bytes[i] = (unsigned char)((uint32_t)header[i / 4] >> (8 * (i % 4))); }
    const char* word = "";
    for (int i = 0, w = 0; i < tokens; i++) {
        if (*word == 0) { word = words[random_u32(seed, 1, (uint64_t)w++) % 8]; }
        bytes[1024 + 2 * i] = (unsigned char)*word++;
    }
    toy_write(name, (const char*)bytes, size);
    free(bytes);
}

// What must be equal in two runs' metrics: all but times.
static char* toy_metrics(const char* out) {
    char* name = format_string("%s/metrics.jsonl", out);
    size_t size = 0;
    char* text = toy_read(name, &size);
    StringBuilder sb = {0};
    sb_append(&sb, "", 0);
    for (char* line = text; line && *line;) {
        size_t n = strcspn(line, "\n");
        CHECK(line[n] == '\n', "%s ends in the middle of a line", name);
        Json* json = json_parse(line, n, name);
        for (int i = 0; i < json->count; i++) {
            const char* key = json->keys[i];
            if (strcmp(key, "ms") == 0 || strcmp(key, "tokens_per_s") == 0 || strcmp(key, "utilisation") == 0) {
                CHECK(json->items[i]->type == JSON_NUMBER && json->items[i]->number > 0, "%s of %s", key, name);
                continue;
            }
            const Json* item = json->items[i];
            sb_printf(&sb, "%s ", key);
            for (int j = 0; item->type == JSON_ARRAY && j < item->count; j++) {
                sb_printf(&sb, "%s ", item->items[j]->literal);
            }
            if (item->type == JSON_NUMBER) { sb_printf(&sb, "%s ", item->literal); }
        }
        sb_printf(&sb, "\n");
        json_free(json);
        line += n + (line[n] == '\n');
    }
    free(text);
    free(name);
    return sb.data;
}

// A number of the metrics of a run after a step; a validation's with key "val_loss".
static double toy_metric(const char* out, int64_t step, const char* key) {
    char* name = format_string("%s/metrics.jsonl", out);
    size_t size = 0;
    char* text = toy_read(name, &size);
    double value = (double)NAN;
    for (char* line = text; line && *line; line += strcspn(line, "\n") + 1) {
        Json* json = json_parse(line, strcspn(line, "\n"), name);
        if (json_get_int(json, "step", -1, name) == step && json_get(json, key)) {
            value = json_get(json, key)->number;
        }
        json_free(json);
    }
    free(text);
    free(name);
    return value;
}

static void toy_same_file(const char* a, const char* b) {
    size_t na = 0, nb = 0;
    char* x = toy_read(a, &na);
    char* y = toy_read(b, &nb);
    CHECK(x && y && na == nb && memcmp(x, y, na) == 0, "%s and %s differ", a, b);
    free(x);
    free(y);
}

// Two runs must have come to the same weights and moments, bit by bit, and the same metrics.
static void toy_same_run(const char* a, const char* b, int step) {
    static const char* const files[] = {"model.safetensors", "optimizer.safetensors", "config.json"};
    for (int i = 0; i < 3; i++) {
        char* x = format_string("%s/step_%08d/%s", a, step, files[i]);
        char* y = format_string("%s/step_%08d/%s", b, step, files[i]);
        toy_same_file(x, y);
        free(x);
        free(y);
    }
    char* x = toy_metrics(a);
    char* y = toy_metrics(b);
    CHECK(strcmp(x, y) == 0, "metrics of %s:\n%s\nmetrics of %s:\n%s", a, x, b, y);
    free(x);
    free(y);
}

// The weights of a checkpoint: weight (16,257), then bias (257).
static float* toy_weights(const char* name) {
    char* path = toy_path(name);
    SafeFile* file = safetensors_open(path);
    const SafeTensor* weight = safetensors_find(file, "weight");
    const SafeTensor* bias = safetensors_find(file, "bias");
    float* w = (float*)xalloc(17 * TOY_V, sizeof(float), "weights");
    CHECK(weight && bias && weight->count == 16 * TOY_V && bias->count == TOY_V, "tensors of %s", path);
    safetensors_read(file, weight, w);
    safetensors_read(file, bias, w + 16 * TOY_V);
    safetensors_close(file);
    free(path);
    return w;
}

// ---- pieces that need no process ----

static void test_log_formats(void) {
    char s[32];
    static const struct {
        double n;
        const char* text;
    } counts[] = {{0, "0"},          {999, "999"},         {999.6, "1.00 k"}, {12345, "12.3 k"},
                  {123456, "123 k"}, {70426624, "70.4 M"}, {1e12, "1.00 T"},  {1e30, "1000000000000 E"},
                  {9996, "10.0 k"},  {99960, "100 k"}};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        CHECK(strcmp(format_count(s, counts[i].n), counts[i].text) == 0, "%g -> %s, expected %s", counts[i].n, s,
              counts[i].text);
    }
    static const struct {
        double seconds;
        const char* text;
    } times[] = {{0, "0.0 s"},       {99.9, "99.9 s"}, {99.97, "1m40s"}, {100, "1m40s"},
                 {3599.4, "59m59s"}, {3600, "1h00m"},  {90061, "1d01h"}};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        CHECK(strcmp(format_time(s, times[i].seconds), times[i].text) == 0, "%g s -> %s, expected %s", times[i].seconds,
              s, times[i].text);
    }
    CHECK(strcmp(format_time(s, (double)NAN), "?") == 0 && strcmp(format_time(s, (double)INFINITY), "?") == 0,
          "a time that is not known");
    // A line has 100 columns, all of them used.
    FILE* file = tmpfile();
    char text[256] = {0};
    LogLine line = log_begin(file, "title", 12);
    log_item(&line, "%040d", 1);
    log_item(&line, "%046d", 2);
    log_item(&line, "%d", 3);
    log_item(&line, "%086d", 4);
    log_end(&line);
    rewind(file);
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    CHECK(n == 216 && strcspn(text, "\n") == 101 && strncmp(text + 102, "            3,\n            0", 28) == 0,
          "%zu bytes: %s", n, text);
}

// 1 if a text begins with a time like 2031-12-24T18:00:00Z that is now, within a minute.
static int toy_is_time(const char* text) {
    static const char digits[] = "dddd-dd-ddTdd:dd:ddZ";
    for (int i = 0; digits[i]; i++) {
        if (digits[i] == 'd' ? text[i] < '0' || text[i] > '9' : text[i] != digits[i]) { return 0; }
    }
    for (int before = 0; before < 60; before++) {
        time_t then = time(NULL) - before;
        char now[32];
        struct tm utc;
        strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&then, &utc));
        if (strncmp(text, now, 20) == 0) { return 1; }
    }
    return 0;
}

static void toy_open_foreign(void* name) {
    Metrics m;
    char* path = toy_path((const char*)name);
    metrics_open(&m, path, 5, 0);
}

static void test_metrics_cut(void) {
    const char* whole = "{\"step\": 0, \"val_loss\": 5, \"val_loss_pass\": [5]}\n{\"step\": 1, \"tokens\": "
                        "8}\n{\"step\": 2, \"tokens\": 16}\n"
                        "{\"step\": 2, \"val_loss\": 4, \"val_loss_pass\": [4]}\n{\"step\": 10, \"tokens\": 24}\n";
    static const struct {
        int64_t step;
        int lines, validated;
    } cases[] = {{-1, 0, 0}, {0, 1, 1}, {1, 2, 0}, {2, 4, 1}, {9, 4, 0}, {10, 5, 0}, {99, 5, 0}};
    char* dir = toy_path("cut");
    mkdir(dir, 0777);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int torn = 0; torn < 2; torn++) {
            char* text = format_string("%s%s", whole, torn ? "{\"step\": 11, \"tok" : "");
            toy_write("cut/metrics.jsonl", text, strlen(text));
            Metrics m;
            metrics_open(&m, dir, cases[i].step, 0);
            metrics_step(&m, 100, 800, 1.5, 1e-3, 0.25, 10, 80, 0.5, 12345678, NULL);
            close(m.fd);
            size_t size = 0, kept = 0;
            char* got = toy_read("cut/metrics.jsonl", &size);
            const char* end = whole;
            for (int line = 0; line < cases[i].lines; line++) { end = strchr(end, '\n') + 1; }
            kept = (size_t)(end - whole);
            CHECK(size > kept && memcmp(got, whole, kept) == 0, "cut after step %lld", (long long)cases[i].step);
            static const char added[] =
                "{\"step\": 100, \"tokens\": 800, \"loss\": 1.5, \"lr\": 0.001, \"grad_norm\": 0.25, \"ms\": 10, "
                "\"tokens_per_s\": 80, \"utilisation\": 0.5, \"flops\": 12345678, \"time\": \"";
            CHECK(strncmp(got + kept, added, sizeof added - 1) == 0, "what is appended after step %lld: %s",
                  (long long)cases[i].step, got + kept);
            const char* time_text = got + kept + min_size(sizeof added - 1, size - kept);
            CHECK(toy_is_time(time_text) && strcmp(time_text + 20, "\"}\n") == 0, "the time: %s", time_text);
            CHECK(m.validated == cases[i].validated, "validation at step %lld", (long long)cases[i].step);
            CHECK(!toy_exists("cut/metrics.jsonl.tmp"), "the file written aside is left");
            free(m.path);
            free(got);
            free(text);
        }
    }
    toy_write("cut/metrics.jsonl", whole, strlen(whole));  // a validation that is to be made anew goes too
    for (int64_t step = 10; step >= 1; step -= 8) {
        Metrics m;
        metrics_open(&m, dir, step, 1);
        close(m.fd);
        size_t size = 0;
        char* got = toy_read("cut/metrics.jsonl", &size);
        const char* end = step == 10 ? whole + strlen(whole) : strstr(whole, "{\"step\": 2, \"val_loss\"");
        CHECK(!m.validated && size == (size_t)(end - whole) && memcmp(got, whole, size) == 0, "validated anew: %s",
              got);
        free(m.path);
        free(got);
    }
    static const char late[] = "{\"step\": 12345678901234, \"tokens\": 8}\n";
    toy_write("cut/metrics.jsonl", late, sizeof late - 1);
    Metrics m;
    metrics_open(&m, dir, 12345678901234, 0);
    close(m.fd);
    free(m.path);
    size_t size = 0;
    char* got = toy_read("cut/metrics.jsonl", &size);
    CHECK(size == sizeof late - 1, "a step of many digits: %s", got);
    free(got);
    static const char* const foreign[] = {"hello\n", "{\"step\": x}\n", "{\"step\": 1, \"a\": 2\n",
                                          "{\"step\": 123456789012345678901, \"a\": 1}\n"};
    for (int i = 0; i < 4; i++) {
        toy_write("cut/metrics.jsonl", foreign[i], strlen(foreign[i]));
        expect_death("a foreign metrics.jsonl", toy_open_foreign, (void*)"cut", "metrics.jsonl|not a metric of ours");
    }
    free(dir);
}

// ---- the loop against the formulas ----

enum { REF_T = 16, REF_N = 17 * TOY_V };

// Trains the toy in double, written again: row order, mean over the step, norm, clip, AdamW, schedule.
static void toy_reference(const char* data, double* w, int steps, int rows, const char* schedule, double warmup,
                          double decay, double clip, double* losses, double* norms, double* rates) {
    size_t size = 0;
    unsigned char* bytes = (unsigned char*)toy_read(data, &size);
    int all = ((int)(size - 1024) / 2 - 1) / REF_T;
    double* g = (double*)xalloc(3 * REF_N, sizeof(double), "the reference");
    double *m = g + REF_N, *v = m + REF_N;
    for (int step = 0; step < steps; step++) {
        memset(g, 0, REF_N * sizeof(double));
        losses[step] = norms[step] = 0;
        for (int i = 0; i < rows * REF_T; i++) {
            int row = (step * rows + i / REF_T) % all;
            const unsigned char* at = bytes + 1024 + 2 * (row * REF_T + i % REF_T);
            int in = at[0], target = at[2];
            double z[TOY_V], sum = 0;
            for (int k = 0; k < TOY_V; k++) { sum += exp(z[k] = w[(in % 16) * TOY_V + k] + w[16 * TOY_V + k]); }
            losses[step] += (log(sum) - z[target]) / (rows * REF_T);
            for (int k = 0; k < TOY_V; k++) {
                double d = (exp(z[k]) / sum - (k == target)) / (rows * REF_T);
                g[(in % 16) * TOY_V + k] += d;
                g[16 * TOY_V + k] += d;
            }
        }
        for (int i = 0; i < REF_N; i++) { norms[step] += g[i] * g[i]; }
        norms[step] = sqrt(norms[step]);
        double scale = clip > 0 ? fmin(1, clip / (norms[step] + 1e-6)) : 1,
               q = (step - warmup) / fmax(1, steps - warmup), r = 0.2;
        double lr = step < warmup ? 0.05 * step / fmax(1, warmup)
                    : schedule[1] == 'o' && schedule[2] == 's'
                        ? 0.05 * (r + (1 - r) * 0.5 * (1 + cos(3.14159265358979323846 * q)))
                    : schedule[0] == 'l' ? 0.05 * (1 - (1 - r) * q)
                                         : 0.05;
        rates[step] = lr;
        for (int i = 0; i < REF_N; i++) {
            m[i] = 0.8 * m[i] + 0.2 * scale * g[i];
            v[i] = 0.9 * v[i] + 0.1 * scale * scale * g[i] * g[i];
            if (i < 16 * TOY_V) { w[i] -= lr * decay * w[i]; }
            w[i] -= lr * (m[i] / (1 - pow(0.8, step + 1))) / (sqrt(v[i] / (1 - pow(0.9, step + 1))) + 1e-6);
        }
    }
    free(g);
    free(bytes);
}

static void test_train_reference(void) {
    static const struct {
        const char *schedule, *warmup;
        double warmup_steps, decay, clip;
    } cases[] = {
        {"cosine", "--warmup-ratio 0.25", 3, 0.5, 0.02},  // ceil(0.25 * 9)
        {"linear", "--warmup-steps 2 --warmup-ratio 0.9", 2, 0, 1e9},
        {"constant", "--warmup-steps 0", 0, 0.1, 0},
    };
    enum { STEPS = 9 };
    toy_run(0, "checkpoint zero/step_00000000", "--out zero --steps 0");  // the initial weights
    toy_run(0, "finished: step 0 of 0", "--out zero --steps 0 --resume");
    for (int c = 0; c < 3; c++) {
        char* line = format_string("--out ref%d --steps 9 --shuffle 0 --total-batch 112 --schedule %s %s "
                                   "--weight-decay %g --clip %g --lr 0.05 "
                                   "--min-lr-ratio 0.2 --beta1 0.8 --beta2 0.9 --eps 1e-6",
                                   c, cases[c].schedule, cases[c].warmup, cases[c].decay, cases[c].clip);
        toy_run(0, "val_loss", line);
        free(line);
        float* start = toy_weights("zero/step_00000000/model.safetensors");
        double w[REF_N], losses[STEPS], norms[STEPS], rates[STEPS];
        for (int i = 0; i < REF_N; i++) { w[i] = (double)start[i]; }
        toy_reference("train.bin", w, STEPS, 7, cases[c].schedule, cases[c].warmup_steps, cases[c].decay, cases[c].clip,
                      losses, norms, rates);
        char* out = format_string("ref%d", c);
        for (int i = 0; i < STEPS; i++) {
            double loss = toy_metric(out, i + 1, "loss"), norm = toy_metric(out, i + 1, "grad_norm"),
                   lr = toy_metric(out, i + 1, "lr");
            // The toy computes in float, the reference in double. Measured: loss 3.5e-8, norm 2e-7, weights 2.9e-7; the
            // learning rate 4.3e-11, nine digits of at most 0.05.
            CHECK(fabs(loss - losses[i]) <= 3e-7 * losses[i], "%s step %d: loss %.9g, expected %.9g", cases[c].schedule,
                  i + 1, loss, losses[i]);
            CHECK(fabs(norm - norms[i]) <= 2e-6 * norms[i], "%s step %d: norm %.9g, expected %.9g", cases[c].schedule,
                  i + 1, norm, norms[i]);
            CHECK(fabs(lr - rates[i]) <= 1e-9 * 0.05, "%s step %d: lr %.9g, expected %.9g", cases[c].schedule, i + 1,
                  lr, rates[i]);
            CHECK(toy_metric(out, i + 1, "tokens") == 112.0 * (i + 1), "tokens of step %d", i + 1);
        }
        char* name = format_string("%s/step_00000009/model.safetensors", out);
        float* end = toy_weights(name);
        float* want = (float*)xalloc(REF_N, sizeof(float), "weights");
        for (int i = 0; i < REF_N; i++) { want[i] = (float)w[i]; }
        compare_floats(name, end, want, REF_N, 3e-6);
        free(name);
        free(out);
        free(start);
        free(end);
        free(want);
    }
}

// of_pass (passes) = the mean losses of a checkpoint over the first rows of val.bin.
static void toy_validation(const char* checkpoint, int rows, int passes, double* of_pass) {
    char* name = format_string("%s/model.safetensors", checkpoint);
    float* w = toy_weights(name);
    free(name);
    size_t size = 0;
    unsigned char* bytes = (unsigned char*)toy_read("val.bin", &size);
    for (int s = 0; s < passes; s++) { of_pass[s] = 0; }
    for (int i = 0; i < rows * REF_T; i++) {
        int in = bytes[1024 + 2 * i], target = bytes[1024 + 2 * i + 2];
        for (int s = 0; s < passes; s++) {
            double sum = 0, at = 0;
            for (int k = 0; k < TOY_V; k++) {
                double z = (double)w[16 * TOY_V + k] + (s + 1.0) / passes * (double)w[(in % 16) * TOY_V + k];
                sum += exp(z);
                at = k == target ? z : at;
            }
            of_pass[s] += (log(sum) - at) / (rows * REF_T);
        }
    }
    free(w);
    free(bytes);
}

// The validation: mean over the first rows, every pass, perplexity and bits per byte.
static void test_train_validation(void) {
    toy_run(0, "val_loss", "--out va --steps 4 --val-every 3 --val-batches 3 --passes 3");
    char* text = toy_metrics("va");
    CHECK(strstr(text, "step 0 val_loss") && strstr(text, "step 3 val_loss") && strstr(text, "step 4 val_loss"),
          "validations: %s", text);
    CHECK(!strstr(text, "step 1 val_loss") && !strstr(text, "step 2 val_loss"), "validations: %s", text);
    free(text);
    double of_pass[3];
    toy_validation("va/step_00000004", 12, 3, of_pass);
    double loss = toy_metric("va", 4, "val_loss");
    // Here and below: nine digits are printed. Measured: 7e-10.
    CHECK(fabs(loss - of_pass[2]) <= 5e-9 * loss, "val_loss %.9g, expected %.9g", loss, of_pass[2]);
    char* words = format_string("val_loss %.6f|perplexity %.6g|bits_per_byte %.6f|val_loss_pass 0 %.6f|val_loss_pass 1 "
                                "%.6f|val_loss_pass 2 %.6f",
                                of_pass[2], exp(of_pass[2]), of_pass[2] / log(2.0), of_pass[0], of_pass[1], of_pass[2]);
    toy_run(0, words, "--out va --resume --eval-only");
    toy_run(0, words, "--out elsewhere --model va/step_00000004 --eval-only --val-batches 3");
    toy_run(0, words, "--out va --resume");  // a finished run prints its results
    CHECK(!toy_exists("elsewhere"), "--eval-only writes into --out");
    free(words);
    toy_run(0, "weights from va/step_00000004", "--out from --model va/step_00000004 --steps 0");
    toy_same_file("va/step_00000004/model.safetensors", "from/step_00000000/model.safetensors");
    toy_run(0, "43 rows, fewer than the 60 of 20 batches", "--out va2 --steps 0 --batch 3");
}

// Rows, not batches, are what is validated on: the 43 rows of val.bin come to the same loss in batches of any
// size, of which the last has 1, 3 or 13 rows left or is the only one; and so do 8 of them in batches of 3, as
// a run that is resumed with another batch has it.
static void test_train_validation_rows(void) {
    static const int batches[] = {3, 4, 15, 43, 50};
    for (int i = 0; i < 5; i++) {
        char* out = format_string("vr%d", batches[i]);
        char* line = format_string("--out %s --steps 0 --val-batches 0 --passes 2 --batch %d", out, batches[i]);
        toy_run(0, "43 rows", line);
        double of_pass[2];
        char* checkpoint = format_string("%s/step_00000000", out);
        toy_validation(checkpoint, 43, 2, of_pass);
        double loss = toy_metric(out, 0, "val_loss");
        // Of both 9 digits are compared; a row too many or too few is 1 part in 43 * 16 or more.
        CHECK(fabs(loss - of_pass[1]) <= 1e-8 * loss, "batches of %d: val_loss %.9g, expected %.9g", batches[i], loss,
              of_pass[1]);
        char* words = format_string("val_loss %.6f|val_loss_pass 0 %.6f|val_loss_pass 1 %.6f", of_pass[1], of_pass[0],
                                    of_pass[1]);
        free(line);
        line = format_string("--out %s --resume", out);
        toy_run(0, words, line);
        free(line);
        free(words);
        free(checkpoint);
        free(out);
    }
    toy_run(0, "8 rows",
            "--out vr8 --steps 2 --val-batches 2 --max-minutes 0 --lr 0 --weight-decay 0 --total-batch 64");
    toy_run(0, "8 rows", "--out vr8 --resume --batch 3");
    double before = toy_metric("vr8", 0, "val_loss"), after = toy_metric("vr8", 2, "val_loss");
    CHECK(fabs(before - after) <= 1e-8 * before, "batches of 4 and of 3: %.9g and %.9g", before, after);
}

// The best validation is neither the first nor the last of a run that learns too fast; a resumed one remembers it.
static void test_train_best(void) {
    toy_run(0, "val_loss", "--out best --steps 6 --val-every 1 --save-every 3 --lr 2 --clip 0 --schedule constant");
    int best = 0;
    for (int step = 1; step <= 6; step++) {
        if (toy_metric("best", step, "val_loss") < toy_metric("best", best, "val_loss")) { best = step; }
    }
    CHECK(best > 0 && best < 6, "the best of this test is step %d", best);
    char* words = format_string("best validation loss %.6f after step %d", toy_metric("best", best, "val_loss"), best);
    toy_run(0, words, "--out best --resume");
    char* line = format_string("rm -r %s/best/step_00000006", toy_home);
    if (system(line) != 0) { die("could not remove a checkpoint"); }
    toy_run(0, words, "--out best --resume");
    free(line);
    free(words);
}

static void test_train_accumulates(void) {
    static const int batches[] = {12, 5, 4, 1, 100};
    for (int i = 0; i < 5; i++) {
        char* line = format_string("--out acc%d --steps 5 --total-batch 192 --batch %d --lr 0.05 --warmup-steps 0",
                                   batches[i], batches[i]);
        toy_run(0, "val_loss", line);
        free(line);
        char* out = format_string("acc%d", batches[i]);
        for (int step = 1; step <= 5; step++) {
            double a = toy_metric("acc12", step, "loss"), b = toy_metric(out, step, "loss");
            // Measured: 0. The toy's rows are added one after the other, in a batch as across batches; nine digits.
            CHECK(fabs(a - b) <= 5e-9 * a, "loss of step %d: %.9g in one batch, %.9g in batches of %d", step, a, b,
                  batches[i]);
            a = toy_metric("acc12", step, "grad_norm"), b = toy_metric(out, step, "grad_norm");
            CHECK(fabs(a - b) <= 5e-9 * a, "norm of step %d: %.9g in one batch, %.9g in batches of %d", step, a, b,
                  batches[i]);
        }
        free(out);
    }
}

// --epochs: whole steps; the next epoch goes on where the last one ended, in another order.
static void test_train_epochs(void) {
    toy_run(0, "val_loss", "--out ep --epochs 2.5 --total-batch 640 --val-every 0");  // 124 rows: floor(2.5 * 124 / 40)
    CHECK(toy_exists("ep/step_00000007") && !isfinite(toy_metric("ep", 8, "loss")), "steps of 2.5 epochs");
    CHECK(isfinite(toy_metric("ep", 0, "val_loss")) && isfinite(toy_metric("ep", 7, "val_loss")) &&
              !isfinite(toy_metric("ep", 5, "val_loss")),
          "--val-every 0 validates before the first step and after the last");
    toy_run(1, "less than one step|--epochs", "--out ep2 --epochs 0.3 --total-batch 640");
}

// --flops: whole steps that cost no more, resumed as the run that it is. A token of the toy costs 6 * TOY_V.
static void test_train_flops(void) {
    char* line = format_string("--out fl --flops %d --total-batch 128", 6 * TOY_V * 128 * 6 - 1);
    char* stop = format_string("%s --max-minutes 0", line);
    toy_run(0, "step 1 of 5|stopped by --max-minutes after step 1 of 5", stop);
    toy_run(0, "step 5 of 5|val_loss", "--out fl --resume");
    char* whole = format_string("--out fl2%s", line + strlen("--out fl"));
    toy_run(0, "step 5 of 5|val_loss", whole);
    toy_same_run("fl2", "fl", 5);
    char* same = format_string("%s --resume=same", line);
    toy_run(0, "finished: step 5 of 5", same);
    char* others = format_string("%s --resume=same --lr 0.5", line);
    toy_run(1, "--out fl holds a run with other options|--lr 1e-3 (now 0.5)", others);
    toy_run(0, "--steps 6 (was not set)|step 6 of 6", "--out fl --resume --steps 6");
    toy_run(1, "--flops 1e6 and --steps 3|give one of them", "--out fl3 --flops 1e6 --steps 3");
    toy_run(1, "--flops 1e6 and --epochs 3|give one of them", "--out fl3 --flops 1e6 --epochs 3");
    toy_run(1, "--resume 'other'|same", "--out fl --resume=other");
    free(line), free(stop), free(whole), free(same), free(others);
}

static void test_train_dump(void) {
    toy_run(0, "loss.safetensors", "--out du --steps 5 --shuffle 0 --total-batch 112 --dump dumped");
    toy_run(0, "val_loss", "--out zero2 --steps 0");
    CHECK(!toy_exists("du"), "--dump writes into --out");
    float* start = toy_weights("zero2/step_00000000/model.safetensors");
    float* grads = toy_weights("dumped/grads.safetensors");
    char* path = toy_path("dumped/logits.safetensors");
    SafeFile* file = safetensors_open(path);
    const SafeTensor* logits = safetensors_find(file, "logits");
    CHECK(logits && logits->ndim == 3 && logits->shape[0] == 4 && logits->shape[1] == 16 && logits->shape[2] == TOY_V,
          "shape of the logits");
    float* z = (float*)xalloc(logits->count, sizeof(float), "logits");
    safetensors_read(file, logits, z);
    safetensors_close(file);
    free(path);
    size_t size = 0;
    unsigned char* bytes = (unsigned char*)toy_read("train.bin", &size);
    float* want = (float*)xalloc(REF_N + 4 * REF_T * TOY_V, sizeof(float), "what is expected");
    float* want_z = want + REF_N;
    double* g = (double*)xalloc(REF_N, sizeof(double), "gradients");
    double loss_sum = 0;
    for (int i = 0; i < 7 * REF_T; i++) {
        int in = bytes[1024 + 2 * i], target = bytes[1024 + 2 * i + 2];
        double p[TOY_V], sum = 0;
        for (int k = 0; k < TOY_V; k++) {
            double x = (double)start[(in % 16) * TOY_V + k] + (double)start[16 * TOY_V + k];
            if (i < 4 * REF_T) { want_z[i * TOY_V + k] = (float)x; }
            if (k == target) { loss_sum -= x; }
            sum += p[k] = exp(x);
        }
        loss_sum += log(sum);
        for (int k = 0; k < TOY_V; k++) {
            double d = (p[k] / sum - (k == target)) / (7 * REF_T);
            g[(in % 16) * TOY_V + k] += d;
            g[16 * TOY_V + k] += d;
        }
    }
    for (int i = 0; i < REF_N; i++) { want[i] = (float)g[i]; }
    // Measured: logits 0 (a table's numbers), gradients 3.4e-7, loss 4e-8, in float.
    compare_floats("dumped logits", z, want_z, 4 * REF_T * TOY_V, 1e-7);
    compare_floats("dumped gradients", grads, want, REF_N, 3e-6);
    path = toy_path("dumped/loss.safetensors");
    file = safetensors_open(path);
    float loss[1], of_pass[2];
    safetensors_read(file, safetensors_find(file, "loss"), loss);
    safetensors_read(file, safetensors_find(file, "loss_of_each_pass"), of_pass);
    safetensors_close(file);
    free(path);
    path = toy_path("dumped/tokens.safetensors");
    file = safetensors_open(path);
    static const char* const sides[] = {"inputs", "targets"};
    for (int k = 0; k < 2; k++) {
        const SafeTensor* tensor = safetensors_find(file, sides[k]);
        CHECK(tensor && strcmp(tensor->dtype_name, "I64") == 0 && tensor->ndim == 2 && tensor->shape[0] == 7 &&
                  tensor->shape[1] == REF_T,
              "%s of %s", sides[k], path);
        if (!tensor || tensor->count != 7 * REF_T) { continue; }
        int64_t tokens[7 * REF_T];
        safetensors_pread(file, tokens, sizeof tokens, file->data_start + tensor->begin, sides[k]);
        for (int i = 0; i < 7 * REF_T; i++) {
            CHECK(tokens[i] == bytes[1024 + 2 * (i + k)], "%s: token %d is %lld", sides[k], i, (long long)tokens[i]);
        }
    }
    safetensors_close(file);
    CHECK(fabs((double)loss[0] - loss_sum / (7 * REF_T)) < 5e-7 && of_pass[1] == loss[0] && of_pass[0] != loss[0],
          "loss %.9g of the step, whose gradients are dumped", (double)loss[0]);
    free(path);
    free(g);
    free(want);
    free(bytes);
    free(z);
    free(start);
    free(grads);
}

// ---- stopping and going on ----

#define TOY_LONG "--steps 30 --save-every 4 --val-every 5 --lr 0.03 --total-batch 80 --keep 0"

// The uninterrupted run `whole`, which interrupted ones are compared with.
static void toy_whole(void) {
    if (!toy_exists("whole")) { toy_run(0, "val_loss", "--out whole " TOY_LONG); }
}

static void test_train_resumes(void) {
    toy_whole();
    toy_threads = "3";
    toy_run(0, "val_loss", "--out twice " TOY_LONG);
    toy_threads = "1";
    toy_same_run("whole", "twice", 30);
    // From every checkpoint, with only --resume: options come from the checkpoint.
    static const int steps[] = {28, 20, 12, 4};
    for (int i = 0; i < 4; i++) {
        char* line = format_string("rm -rf %s/part && cp -r %s/whole %s/part && cd %s/part && for s in step_*; do test "
                                   "$s \\> step_%08d && rm -r $s; done; true",
                                   toy_home, toy_home, toy_home, toy_home, steps[i]);
        if (system(line) != 0) { die("could not copy a run"); }
        free(line);
        char* output = NULL;
        int from;
        pid_t pid = toy_start("--out part --resume", &from);
        int code = toy_wait(pid, from, &output);
        CHECK(code == 0, "--resume from step %d exits with %d: %s", steps[i], code, output);
        free(output);
        toy_same_run("whole", "part", 30);
    }
    toy_run(0, "starting at step 0|val_loss", "--out fresh --resume " TOY_LONG);
    toy_same_run("whole", "fresh", 30);
    // Finished: says so, prints the same results, touches nothing.
    size_t before = 0, after = 0;
    char* a = toy_read("whole/metrics.jsonl", &before);
    toy_run(0, "finished: step 30 of 30|val_loss_pass 1|checkpoint whole/step_00000030|whole/metrics.jsonl",
            "--out whole --resume");
    char* b = toy_read("whole/metrics.jsonl", &after);
    CHECK(before == after && memcmp(a, b, before) == 0, "a finished run's metrics change");
    free(a);
    free(b);
}

static void test_train_signals(void) {
    static const struct {
        int number;
        const char* name;
    } signals[] = {{SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"}, {SIGHUP, "SIGHUP"}};
    toy_whole();
    for (int i = 0; i < 3; i++) {
        char* line = format_string("--train train.bin --val val.bin --seq 16 --batch 4 --sample-tokens 0 --out sig%d "
                                   "--sleep 8 --resume " TOY_LONG,
                                   i);
        int from;
        StringBuilder seen = {0};
        pid_t pid = toy_start(line, &from);
        toy_wait_for(from, "step  4 of 30", &seen);
        kill(pid, signals[i].number);
        char* output = NULL;
        int code = toy_wait(pid, from, &output);
        CHECK(code == 128 + signals[i].number, "%s: exit code %d: %s", signals[i].name, code, output);
        CHECK(strstr(output, signals[i].name) && strstr(output, "--resume"), "%s: %s", signals[i].name, output);
        char* name = format_string("sig%d/step_%08d", i, 4);
        char* next = format_string("sig%d/step_%08d", i, 5);
        CHECK(toy_exists(name) != toy_exists(next), "the last whole step, 4 or 5, is saved: %s", output);
        free(name);
        free(next);
        free(output);
        free(seen.data);
        free(line);
        char* rest = format_string("--out sig%d --resume", i);
        toy_run(0, "val_loss", rest);
        free(rest);
        char* out = format_string("sig%d", i);
        toy_same_run("whole", out, 30);
        free(out);
    }
    // In a validation, also the last one: it is made up for, and its line stands in the metrics once.
    static const int steps[] = {5, 30};
    for (int i = 0; i < 2; i++) {
        char* line = format_string("--train train.bin --val val.bin --seq 16 --batch 4 --sample-tokens 0 --out "
                                   "valsig%d --val-sleep 15 --resume " TOY_LONG,
                                   i);
        if (i == 1) {
            char* part = format_string("--out valsig1 --max-minutes 0 " TOY_LONG);
            toy_run(0, "stopped", part);
            free(part);
        }
        int from;
        StringBuilder seen = {0};
        pid_t pid = toy_start(line, &from);
        char* word = format_string("step %2d of 30", steps[i]);
        toy_wait_for(from, word, &seen);
        usleep(20000);
        kill(pid, SIGTERM);
        char* output = NULL;
        int code = toy_wait(pid, from, &output);
        char* name = format_string("valsig%d/step_%08d", i, steps[i]);
        CHECK(code == 128 + SIGTERM && toy_exists(name), "a signal in the validation after step %d: exit code %d: %s",
              steps[i], code, output);
        free(name);
        char* out = format_string("valsig%d", i);
        CHECK(!isfinite(toy_metric(out, steps[i], "val_loss")),
              "the validation after step %d was over before the signal", steps[i]);
        free(line);
        if (i == 0) {  // killed when the metrics know the validation, and the checkpoint does not
            StringBuilder again = {0};
            pid = toy_start("--out valsig0 --resume --sleep 20000", &from);
            toy_wait_for(from, "validation after step 5", &again);
            kill(pid, SIGKILL);
            free(output);
            toy_wait(pid, from, &output);
            free(again.data);
            CHECK(isfinite(toy_metric(out, 5, "val_loss")), "the validation is made up for");
        }
        line = format_string("--out %s --resume", out);
        if (i == 1) {  // the same at the end of the run: the checkpoint that knows its validation is lost again
            char* shell = format_string("cd %s && cp -r valsig1/step_00000030 before", toy_home);
            if (system(shell) != 0) { die("could not copy a checkpoint"); }
            toy_run(0, "val_loss_pass", line);
            free(shell);
            shell = format_string("cd %s && rm -r valsig1/step_00000030 && mv before valsig1/step_00000030", toy_home);
            if (system(shell) != 0) { die("could not put back a checkpoint"); }
            free(shell);
        }
        toy_run(0, "val_loss_pass", line);
        toy_run(0, "finished|val_loss_pass", line);
        toy_same_run("whole", out, 30);
        free(out);
        free(line);
        free(word);
        free(output);
        free(seen.data);
    }
    // Before the first step is done: nothing to save; the rest of its 100 micro-batches is left.
    {
        int from;
        StringBuilder seen = {0};
        double start = now_seconds();
        pid_t pid = toy_start(
            "--train train.bin --seq 16 --batch 1 --total-batch 1600 --out sig8 --sleep 1000 --sample-tokens 0", &from);
        toy_wait_for(from, "a step", &seen);
        toy_wait_for_file("sig8/metrics.jsonl");  // the last before it is under way
        usleep(100000);
        kill(pid, SIGTERM);
        char* output = NULL;
        int code = toy_wait(pid, from, &output);
        CHECK(code == 128 + SIGTERM && now_seconds() - start < 40 && strstr(output, "nothing to save") &&
                  !toy_exists("sig8/step_00000000"),
              "a signal in the first step: exit code %d after %.1f s: %s", code, now_seconds() - start, output);
        free(output);
        free(seen.data);
    }
    // While it is getting ready, reading files above all, there is nothing to finish: it ends at once.
    for (int i = 0; i < 2; i++) {
        int from, number = i ? SIGINT : SIGTERM;
        double start = now_seconds();
        pid_t pid = toy_start("--train train.bin --seq 16 --out sig7 --start-sleep 90000 --sample-tokens 0", &from);
        toy_wait_for_file("sig7/lock");
        usleep(100000);
        kill(pid, number);
        char* output = NULL;
        int code = toy_wait(pid, from, &output);
        CHECK(code == 128 + number && now_seconds() - start < 40,
              "a signal at the start: exit code %d after %.1f s: %s", code, now_seconds() - start, output);
        free(output);
    }
    // A second signal does not wait for the micro-batch.
    int from;
    StringBuilder seen = {0};
    double start = now_seconds();
    pid_t pid = toy_start("--train train.bin --seq 16 --out sig9 --sleep 90000 --sample-tokens 0", &from);
    toy_wait_for(from, "a step", &seen);
    toy_wait_for_file("sig9/metrics.jsonl");
    usleep(200000);
    kill(pid, SIGTERM);
    usleep(50000);
    kill(pid, SIGINT);
    char* output = NULL;
    int code = toy_wait(pid, from, &output);
    CHECK(code == 128 + SIGINT && now_seconds() - start < 40, "second signal: exit code %d after %.1f s", code,
          now_seconds() - start);
    free(output);
    free(seen.data);
}

// Under nohup a hang-up is ignored, and goes on being ignored.
static void test_train_nohup(void) {
    int from;
    StringBuilder seen = {0};
    toy_hangup = SIG_IGN;
    pid_t pid = toy_start("--train train.bin --seq 16 --out nohup --steps 8 --sleep 15 --sample-tokens 0", &from);
    toy_hangup = SIG_DFL;
    toy_wait_for(from, "step 1 of 8", &seen);
    kill(pid, SIGHUP);
    char* output = NULL;
    int code = toy_wait(pid, from, &output);
    CHECK(code == 0 && toy_exists("nohup/step_00000008"), "a hang-up under nohup: exit code %d: %s", code, output);
    free(output);
    free(seen.data);
}

// A run whose output nobody reads any more, as after `| head`, goes on to its end all the same, and says it at the end.
static void test_train_closed_pipe(void) {
    char* output = NULL;
    int from;
    toy_unheard = 1;
    pid_t pid = toy_start("--train train.bin --val val.bin --seq 16 --batch 4 --out unheard --steps 3 --sample-every 1 "
                          "--save-every 2",
                          &from);
    toy_unheard = 0;
    int code = toy_wait(pid, from, &output);
    CHECK(code == 1, "output into a closed pipe: exit code %d", code);
    free(output);
    toy_run(0, "val_loss", "--out heard --steps 3 --sample-every 1 --save-every 2");
    toy_same_run("heard", "unheard", 3);
}

// A checkpoint of the loop: each of its files is synced, and the metrics before it.
static void test_train_syncs(void) {
    char* output = NULL;
    int from;
    pid_t pid = toy_start(
        "--train train.bin --val val.bin --seq 16 --out syncs --steps 1 --sample-tokens 0 --list-calls", &from);
    int code = toy_wait(pid, from, &output);
    char* temporary = format_string(".tmp_step_00000001_%ld", (long)pid);
    char* path = toy_path("syncs/step_00000001");
    char* names = listing(path);
    CHECK(code == 0 &&
              strcmp(names, "README.md config.json generation_config.json model.safetensors optimizer.safetensors "
                            "tokenizer.json tokenizer_config.json toy.py trainer_state.json ") == 0,
          "exit code %d, the checkpoint has %s", code, names);
    int more = file_calls_check_syncs(output, temporary, "step_00000001", names);
    char* made = format_string("mkdir %s\n", temporary);
    long metrics = file_calls_find(output, "sync metrics.jsonl\n");
    CHECK(more == 1 && metrics >= 0 && metrics < file_calls_find(output, made),
          "%d calls of fsync besides the checkpoint's, metrics at %ld: %s", more, metrics, output);
    free(made);
    free(names);
    free(path);
    free(temporary);
    free(output);
}

static void test_train_killed(void) {
    toy_whole();
    int killed = 0;
    for (int run = 0; run < 10; run++) {
        int from;
        StringBuilder seen = {0};
        pid_t pid = toy_start("--train train.bin --val val.bin --seq 16 --batch 4 --sample-tokens 0 --out killed "
                              "--sleep 1 --resume " TOY_LONG,
                              &from);
        if (run % 3) { toy_wait_for(from, "a step", &seen); }  // at times before it has begun
        usleep((useconds_t)(random_u32(7, (uint64_t)getpid(), (uint64_t)run) % 50000));
        kill(pid, SIGKILL);
        char* output = NULL;
        int code = toy_wait(pid, from, &output);
        free(output);
        free(seen.data);
        if (code == 0) { break; }
        killed++;
        CHECK(code == 1000 + SIGKILL, "a killed run exits with %d", code);
    }
    CHECK(killed > 0, "the run was over before it could be killed");
    toy_run(0, "val_loss", "--out killed --resume " TOY_LONG);
    toy_same_run("whole", "killed", 30);
}

static void test_train_lock(void) {
    int from;
    StringBuilder seen = {0};
    pid_t pid = toy_start("--train train.bin --seq 16 --out locked --sleep 20000 --sample-tokens 0", &from);
    toy_wait_for(from, "a step", &seen);
    char* words = format_string("locked is in use by process %ld|--out", (long)pid);
    toy_run(1, words, "--out locked --resume");
    toy_run(1, words, "--out locked");
    kill(pid, SIGKILL);
    char* output = NULL;
    toy_wait(pid, from, &output);
    toy_run(0, "val_loss", "--out locked --steps 1 --resume");  // a killed process leaves no lock
    free(output);
    free(words);
    free(seen.data);
}

// When the time is over there is still one step, so that repeating it ends some day.
static void test_train_minutes(void) {
    toy_run(0, "stopped by --max-minutes after step 1 of 3|--resume", "--out min --max-minutes 0 --steps 3");
    toy_run(0, "stopped by --max-minutes after step 2 of 3", "--out min --max-minutes 0 --resume");
    CHECK(toy_exists("min/step_00000001") && toy_exists("min/step_00000002"), "a checkpoint at the end of the time");
    toy_run(0, "val_loss", "--out min --max-minutes 0 --resume");
    toy_run(0, "val_loss", "--out min2 --steps 3");
    toy_same_run("min", "min2", 3);
    toy_run(0, "val_loss", "--out min3 --max-minutes 9 --steps 3");
    toy_same_run("min3", "min2", 3);
}

// The numbers of trainer_state.json go on where they stood: seconds add up over invocations.
static void test_train_goes_on(void) {
    static const char state[] = "on/step_00000001/trainer_state.json";
    toy_run(0, "after step 1 of 4",
            "--out on --steps 4 --sleep 10 --max-minutes 0 --keep 0 --warmup-steps 3 --lr 0.8 "
            "--schedule constant");
    char* path = toy_path(state);
    Json* json = json_read(path);
    double seconds = json_get_number(json, "seconds", 0, path);
    CHECK(seconds >= 0.01 && seconds < 3600, "a step of 10 ms takes %g s", seconds);
    json_free(json);
    free(path);
    toy_change_line(state, "  \"seconds\"", "  \"seconds\": 5000.5,");
    toy_run(0, "after step 2 of 4|warm-up 3 steps", "--out on --resume --sleep 10 --max-minutes 0");
    // A warm-up given now in the other way counts from here on: 0.5 of 4 steps are 2.
    toy_run(0, "after step 3 of 4|warm-up 2 steps", "--out on --resume --sleep 10 --max-minutes 0 --warmup-ratio 0.5");
    toy_run(0, "warm-up 2 steps|on: 4 steps|1h23m in training steps", "--out on --resume --sleep 10");
    double last = 5000.5;
    for (int step = 1; step <= 4; step++) {
        char* name = format_string("on/step_%08d/trainer_state.json", step);
        path = toy_path(name);
        json = json_read(path);
        seconds = json_get_number(json, "seconds", 0, path);
        CHECK(step == 1 || (seconds >= last + 0.01 && seconds < last + 3600), "%g s, then %g", last, seconds);
        CHECK(json_get_int(json, "step", -1, path) == step && json_get_int(json, "tokens", -1, path) == 64 * step &&
                  json_get_int(json, "position", -1, path) == 4 * step,
              "%s", name);
        last = seconds;
        double lr = toy_metric("on", step, "lr"), want = 0.8 * (step == 1 ? 0 : step == 2 ? 1 / 3.0 : 1);
        CHECK(fabs(lr - want) <= 1e-8, "step %d: lr %.9g, expected %.9g", step, lr, want);
        json_free(json);
        free(path);
        free(name);
    }
    toy_run(0, "finished: step 4 of 4|1h23m in training steps", "--out on --resume");
    toy_change_line("on/step_00000004/trainer_state.json", "  \"step\"", "  \"step\": 3,");
    toy_run(1, "trainer_state.json|\"step\" to be that of the directory, found 3", "--out on --resume");
}

// ---- what must not change when a run goes on ----

static void test_train_changed(void) {
    toy_run(0, "val_loss", "--out ch --steps 4 --total-batch 128 --passes 2 --val-batches 2");
    static const char* const cases[][2] = {
        {"--seq 8", "--seq 8|started with 16"},
        {"--seed 7", "--seed 7|started with 42"},
        {"--shuffle 0", "--shuffle 0|started with 1"},
        {"--total-batch 64", "--total-batch 64|started with 128"},
        {"--model toy-3", "--model toy-3|started with toy"},
        {"--passes 4", "--passes 4|started with 2"},
        {"--train val.bin --steps 5", "training data has changed|43 rows|124 rows"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char* line = format_string("--out ch --resume %s", cases[i][0]);
        toy_run(1, cases[i][1], line);
        free(line);
    }
    // Not given at the start, yet contradicting what the model is.
    toy_run(0, "val_loss", "--out ch2 --steps 1 --model toy-3");
    toy_run(1, "--passes 2|\"passes\"|to 2|has 3", "--out ch2 --resume --passes 2 --steps 2");
    toy_run(0, "val_loss", "--out ch2 --resume --passes 3 --steps 2");
    // Allowed, and said. The total batch and the validated rows stay when the micro-batch changes; steps win again over epochs.
    toy_run(0, "changed since|--lr 0.5 (was 1e-3)|--steps 6 (was 4)|--batch 3 (was 4)|8 rows, every|val_loss",
            "--out ch --resume --lr 0.5 --steps 6 --batch 3");
    CHECK(toy_metric("ch", 6, "tokens") == 6 * 128, "tokens after six steps");
    toy_run(0, "finished: step 6 of 6", "--out ch --resume");
    toy_run(0, "--epochs 0.5 (was 1)|step 7 of 7", "--out ch --resume --epochs 0.5");  // floor(0.5 * 124 / 8)
    // Never over another run.
    toy_run(1, "holds a run already|--resume|--out", "--out ch");
    char* line = format_string("rm -r %s/ch/step_*", toy_home);
    if (system(line) != 0) { die("could not remove checkpoints"); }
    free(line);
    toy_run(1, "left from another run|--resume", "--out ch");
    toy_run(0, "starting at step 0", "--out ch --resume --steps 1");
    CHECK(!isfinite(toy_metric("ch", 2, "loss")), "metrics of the former run are still there");
    // A state that is not sound.
    toy_write("ch/step_00000001/trainer_state.json", "{\"step\": 2}", 11);
    toy_run(1, "trainer_state.json|total_steps", "--out ch --resume --steps 3");
    toy_write("ch/step_00000001/trainer_state.json", "{\"step\": ", 9);
    toy_run(1, "trainer_state.json", "--out ch --resume --steps 3");
}

// ---- things going wrong ----

static void test_train_nonfinite(void) {
    // Micro-batch 14 belongs to step 7: two micro-batches a step.
    toy_run(1, "step 7|the loss is NaN|gradient of bias|nan/step_00000006|--lr",
            "--out nan --steps 10 --save-every 3 --total-batch 128 --poison-at 14");
    CHECK(toy_exists("nan/step_00000006") && !toy_exists("nan/step_00000007"),
          "the last good checkpoint, and no other, is there");
    CHECK(isfinite(toy_metric("nan", 6, "loss")) && !isfinite(toy_metric("nan", 7, "loss")), "metrics up to step 6");
    toy_run(1, "step 7|gradient norm is infinite|gradient of bias", "--out nan --resume --poison-at 2 --poison-what 1");
    toy_run(1, "step 10|validation loss is infinite|nan/step_00000009",
            "--out nan --resume --poison-at 7 --poison-what 2");
    toy_run(0, "val_loss", "--out nan --resume");
    toy_run(0, "val_loss", "--out sound --steps 10 --save-every 3 --total-batch 128");
    toy_same_run("sound", "nan", 10);
    toy_run(1, "step 1|NaN|no checkpoint yet", "--out nan1 --poison-at 1");
    // Where losses are known at the end of a step only, the micro-batch that went wrong is computed once more: the second
    // of three, which has four of the nine rows, and the last, which has one.
    toy_run(1, "step 2|the loss is NaN|gradient of bias|the same micro-batch again, 4 rows|nan2/step_00000001",
            "--out nan2 --steps 10 --total-batch 144 --save-every 1 --ahead 1 --poison-at 5");
    toy_run(1, "step 3|the loss is NaN|the same micro-batch again, 1 rows",
            "--out nan2 --resume --total-batch 144 --ahead 1 --poison-at 6");
    CHECK(isfinite(toy_metric("nan2", 2, "loss")) && !isfinite(toy_metric("nan2", 3, "loss")), "metrics up to step 2");
}

static void test_train_full_disk(void) {
    toy_run(0, "val_loss", "--out full --steps 6 --save-every 3 --val-every 0");
    size_t size = 0;
    free(toy_read("full/metrics.jsonl", &size));
    toy_file_limit = (int)size + 30;
    toy_run(1, "full/metrics.jsonl|could not be written", "--out full --resume --steps 9");
    // The weights no longer fit, the metrics do.
    toy_file_limit = 16 * TOY_V * 4;
    toy_run(1, "safetensors|could not be written", "--out full --resume --steps 9");
    CHECK(toy_exists("full/step_00000006/optimizer.safetensors") && !toy_exists("full/step_00000009"),
          "the former checkpoint stays");
    toy_file_limit = 0;
    toy_run(0, "val_loss", "--out full --resume --steps 9");
    toy_run(0, "val_loss", "--out empty --steps 6 --save-every 3 --val-every 0");
    toy_run(0, "val_loss", "--out empty --resume --steps 9");
    toy_same_run("empty", "full", 9);

    toy_write("file", "x", 1);
    toy_run(1, "--out file|not", "--out file");
    toy_run(1, "--out file/deeper", "--out file/deeper");
    toy_run(1, "--dump file", "--out d --dump file/deeper");
}

static void test_train_bad_options(void) {
    static const char* const cases[][2] = {
        {"--stesp 3", "unknown option --stesp|--steps"},
        {"--steps 10x", "--steps|10x|whole number"},
        {"--lr nan", "--lr|nan"},
        {"--total-batch 100", "--total-batch 100|multiple of --seq 16|96 or 112"},
        {"--total-batch 7", "--total-batch 7|nearest is 16"},
        {"--model nothing", "--model 'nothing'|toy, toy-3|directory"},
        {"--model no/where", "no/where/config.json"},
        {"--train nothing*.bin", "nothing"},
        {"--val nothing*.bin", "nothing"},
        {"--seq 4000", "row"},
        {"--batch 16777216 --seq 16777216", "--batch|--seq|tokens"},
        {"--out=", "--out"},
        {"--eval-only --resume", "holds no checkpoint"},
        {"--flops 1e9 --steps 3", "--flops 1e9 and --steps 3: both say how long the run is"},
        {"--flops 1e9 --epochs 3", "--flops 1e9 and --epochs 3: both say how long the run is"},
        {"--plan --total-batch 1099511627792", "--total-batch 1099511627792: expected at most 2^40 tokens"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char* line = format_string("--out bad %s", cases[i][0]);
        toy_run(1, cases[i][1], i == 11 ? cases[i][0] : line);
        free(line);
    }
    toy_run(0, "val_loss", "--out start --steps 0");
    toy_write("start/step_00000000/config.json", "[1]", 3);
    toy_run(1, "start/step_00000000/config.json: expected an object", "--out bad --model start/step_00000000");
    static const char* const bare[][2] = {{"--out bad", "--train|missing"},
                                          {"--out bad --eval-only", "--eval-only needs --val"}};
    for (int i = 0; i < 2; i++) {
        int from;
        char* output = NULL;
        pid_t pid = toy_start(bare[i][0], &from);
        CHECK(toy_wait(pid, from, &output) == 1 && strstr(output, strtok(format_string("%s", bare[i][1]), "|")),
              "%s: %s", bare[i][0], output);
        free(output);
    }
}

static void test_train_looks(void) {
    toy_run(0, "usage|model\n|data\n|run\n|optimiser\n|sample\n|look\n|--passes|toy, toy-3|--total-batch TOKENS",
            "--help --out look");
    toy_run(0, "parameters|first moments|second moments|total|FLOPs|softmax|all steps",
            "--plan --steps 10 --out look --peak 0");
    toy_run(0, "all steps (2)", "--plan --flops 200000 --out look --peak 0");  // a step has 64 tokens of 1542
    toy_run(0, "1099511627776 tokens a step", "--plan --total-batch 1099511627776 --out look --peak 0");
    CHECK(!toy_exists("look"), "--help or --plan writes into --out");
    // The banner.
    toy_run(0,
            "on the CPU|thread|instructions|matmul|peak|preset toy|4369 in 2 tensors|2000 tokens|124 rows of 16|15 "
            "tokens left out|hash|3 of 64 tokens|AdamW|first moments",
            "--steps 3 --out look --peak 0");
    toy_run(0, "each 2 rows in micro-batches of 4|0.0484 epochs|clip off|before the first step and after the last",
            "--steps 3 --out look2 --peak 0 --total-batch 32 --clip 0 --val-every 0");
    size_t size = 0;
    char* config = toy_read("look/step_00000003/config.json", &size);
    CHECK(config && strstr(config, "vocab_size"), "config.json");
    free(config);
    CHECK(toy_exists("look/step_00000003/toy.py") && toy_exists("look/step_00000003/generation_config.json"),
          "the files of a checkpoint");
    char* state = toy_read("look/step_00000003/trainer_state.json", &size);
    static const char* const keys[] = {
        "\"step\": 3", "\"tokens\": 192",         "\"parameters\": 4369", "\"flops_per_token\": 1542",
        "\"seconds\"", "\"total-batch\": \"64\"", "\"position\": 12"};
    for (int i = 0; i < 7; i++) {
        CHECK(state && strstr(state, keys[i]), "no %s in %s", keys[i], state ? state : "nothing");
    }
    free(state);
}

static void test_train_samples(void) {
    char* outputs[4];
    for (int i = 0; i < 4; i++) {
        char* line = format_string("--train train.bin --val val.bin --seq 16 --batch 4 --out sa%d --steps 40 --lr 0.1 "
                                   "--sample-every 20 --sample-tokens 40 --prompt the_c%s",
                                   i,
                                   i == 2   ? " --temperature 0"
                                   : i == 3 ? " --top-k 1"
                                            : "");
        int from;
        pid_t pid = toy_start(line, &from);
        int code = toy_wait(pid, from, &outputs[i]);
        CHECK(code == 0, "exit code %d: %s", code, outputs[i]);
        char* first = strstr(outputs[i], "---- sample after step 20");
        CHECK(first && strstr(first + 1, "---- sample after step 40"), "samples at 20 and at the end: %s", outputs[i]);
        CHECK(first && strstr(first, "the_c\n---- continued"), "the prompt: %s", outputs[i]);
        free(line);
    }
    toy_same_run("sa0", "sa2", 40);  // how samples are drawn changes nothing in training
    char* a = strstr(outputs[0], "---- sample after step 40");
    char* b = strstr(outputs[1], "---- sample after step 40");
    char* c = strstr(outputs[2], "---- sample after step 40");
    char* d = strstr(outputs[3], "---- sample after step 40");
    size_t n = a ? (size_t)(strstr(a, "\n----\n") - a) : 0;
    CHECK(a && b && c && n > 0 && strncmp(a, b, n) == 0 && strncmp(a, c, n) != 0, "the same run says the same");
    const char* end = c ? strstr(c, "\n----\n") : NULL;
    CHECK(end && d && strncmp(c, d, (size_t)(end - c)) == 0, "the most probable token is the one of --top-k 1");
    for (int i = 0; i < 4; i++) { free(outputs[i]); }
    toy_run(0, "---- continued", "--out sa4 --steps 0 --sample-tokens 5");  // from the validation data
    toy_run(0, "<|endoftext|>", "--out sa5 --steps 0 --sample-tokens 5 --prompt=");
    // A context that has room for just what was asked for, and for one less.
    toy_run(0, "---- continued|!context of", "--out sa6 --steps 0 --sample-tokens 4 --prompt twelve_bytes");
    toy_run(0, "the context of 16 tokens is full", "--out sa7 --steps 0 --sample-tokens 5 --prompt twelve_bytes");
}

// The output of a run from its n-th sample on, to the end of that sample; the caller frees it.
static char* toy_said(const char* output, int n) {
    const char* at = output;
    for (int i = 0; at && i < n; i++) { at = strstr(at + (i > 0), "---- continued ----\n"); }
    const char* end = at ? strstr(at, "\n----\n") : NULL;
    CHECK(end != NULL, "no sample %d in: %s", n, output);
    return end ? format_string("%.*s", (int)(end - at), at) : format_string("no sample %d", n);
}

// From the same weights, which a rate of 0 leaves alone, --seed and the step say what is drawn.
static void test_train_sample_keys(void) {
    static const char* const seeds[] = {"5", "5", "6"};
    char* said[3][2];
    toy_run(0, "val_loss", "--out keys --steps 0");
    for (int i = 0; i < 3; i++) {
        char* line =
            format_string("--train train.bin --seq 16 --batch 4 --model keys/step_00000000 --out keys%d --steps 2 "
                          "--lr 0 --sample-every 1 --sample-tokens 40 --prompt the_c --seed %s",
                          i, seeds[i]);
        int from;
        char* output = NULL;
        pid_t pid = toy_start(line, &from);
        CHECK(toy_wait(pid, from, &output) == 0, "%s: %s", line, output);
        for (int k = 0; k < 2; k++) { said[i][k] = toy_said(output, k + 1); }
        free(output);
        free(line);
    }
    toy_same_file("keys0/step_00000002/model.safetensors", "keys2/step_00000002/model.safetensors");
    for (int k = 0; k < 2; k++) {
        CHECK(strcmp(said[0][k], said[1][k]) == 0, "one seed says: %s\nand: %s", said[0][k], said[1][k]);
        CHECK(strcmp(said[0][k], said[2][k]) != 0, "two seeds say: %s", said[0][k]);
    }
    CHECK(strcmp(said[0][0], said[0][1]) != 0, "two steps say: %s", said[0][0]);
    for (int i = 0; i < 6; i++) { free(said[i / 2][i % 2]); }
}

// A tokenizer whose end of text the model's vocabulary does not have: there is none then.
static void test_train_end_beyond(void) {
    toy_run(0, "<|endoftext|>", "--out end --steps 0 --sample-tokens 5 --prompt=");
    size_t size = 0;
    char* text = toy_read("end/step_00000000/generation_config.json", &size);
    CHECK(text && strstr(text, "\"bos_token_id\": 256") && strstr(text, "\"eos_token_id\": 256"), "%s", text);
    free(text);
    text = toy_read("end/step_00000000/tokenizer.json", &size);
    char* id = text ? strstr(text, "\"id\": 256") : NULL;
    CHECK(id != NULL, "tokenizer.json");
    if (id) {
        id[strlen("\"id\": 25")] = '7';  // the toy has 257 tokens
        toy_write("end/step_00000000/tokenizer.json", text, size);
    }
    free(text);
    toy_change_line("end/step_00000000/config.json", "  \"bos_token_id\"",
                    "  \"a\": 1,");  // what it says is carried on
    toy_change_line("end/step_00000000/config.json", "  \"eos_token_id\"", "  \"b\": 1,");
    toy_change_line("end/step_00000000/config.json", "  \"pad_token_id\"", "  \"c\": 1,");
    char* generation = toy_path("end/step_00000000/generation_config.json");
    unlink(generation);
    free(generation);
    char* output = NULL;
    int from;
    pid_t pid = toy_start("--train train.bin --seq 16 --model end/step_00000000 --out end2 --steps 0 --sample-tokens 5 "
                          "--prompt=",
                          &from);
    CHECK(toy_wait(pid, from, &output) == 0 && !strstr(output, "<|endoftext|>") &&
              strstr(output, "prompt ----\n\\x00\n---- continued"),
          "a sample begins with token 0: %s", output);
    free(output);
    text = toy_read("end2/step_00000000/generation_config.json", &size);
    CHECK(text && strcmp(text, "{}\n") == 0, "generation_config.json: %s", text ? text : "none");
    free(text);
    toy_same_file("end/step_00000000/tokenizer.json", "end2/step_00000000/tokenizer.json");
}

// What a step's line says of its speed follows from its milliseconds.
static void test_train_speed(void) {
    for (int measured = 0; measured < 2; measured++) {
        char* out = format_string("speed%d", measured);
        char* line =
            format_string("--out %s --steps 3 --total-batch 112 --sleep 10 --peak %s", out, measured ? "0" : "2e7");
        toy_run(0, measured ? "tok/s|peak" : "tok/s|of peak", line);
        double flops = 1542 / 2e7;  // of a token, in seconds at the peak; measured: of the first step
        for (int step = 1; step <= 3; step++) {
            double ms = toy_metric(out, step, "ms"), rate = toy_metric(out, step, "tokens_per_s"),
                   share = toy_metric(out, step, "utilisation");
            if (measured && step == 1) { flops = share / rate; }
            // Each has 9 digits: 5e-9 of itself, two of them make a ratio, and the first step's ratio is another.
            CHECK(fabs(rate * ms / 1000 / 112 - 1) <= 1e-8, "%.9g tokens/s in %.9g ms of 112 tokens", rate, ms);
            int unknown = measured && share == 0;  // other programs disturbed the readings of this machine's peak
            CHECK(unknown || fabs(share / (rate * flops) - 1) <= 2e-8, "%.9g of the peak, %.9g tokens/s", share, rate);
            CHECK(ms >= 20, "two micro-batches of 10 ms take %.9g ms", ms);
        }
        free(line);
        free(out);
    }
    // A peak that a step exceeds was none: it is read again, without a validation too.
    int from;
    char* output = NULL;
    pid_t pid = toy_start("--train train.bin --seq 16 --batch 4 --sample-tokens 0 --out speed2 --steps 2 --peak 0 "
                          "--false-peak 1",
                          &from);
    CHECK(toy_wait(pid, from, &output) == 0 && strstr(output, "peak"), "%s", output);
    free(output);
    for (int step = 1; step <= 2; step++) {
        double share = toy_metric("speed2", step, "utilisation");
        CHECK(share >= 0 && share <= 1, "%.9g of the peak", share);
    }
}

// The most rows of a step that a rank has: whole rounds of micro-batches of all ranks, then the first of what is left.
static void test_rank_rows(void) {
    static const struct {
        int ranks, batch;
        int64_t rows, most;
    } cases[] = {{1, 3, 25, 25}, {4, 3, 24, 6}, {4, 3, 25, 7}, {4, 3, 27, 9},
                 {4, 3, 34, 9},  {4, 3, 36, 9}, {4, 3, 2, 2}};
    const Ranks before = ranks;
    Trainer t;
    memset(&t, 0, sizeof t);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ranks.count = cases[i].ranks, ranks.planned = 0;
        t.B = cases[i].batch, t.step_rows = cases[i].rows;
        CHECK(trainer_rank_rows(&t) == cases[i].most, "%lld rows for %d ranks by %d: %lld, expected %lld",
              (long long)t.step_rows, ranks.count, t.B, (long long)trainer_rank_rows(&t), (long long)cases[i].most);
    }
    ranks = before;
}

// The moments' rows of the memory table: each as large as the parameters, gaps included.
static void test_memory_table(void) {
    Model model;
    memset(&model, 0, sizeof model);
    tensor_add(&model.tensors, format_string("matrix"), 1001, 100000, INIT_ZEROS, 0);
    tensor_add(&model.tensors, format_string("vector"), 1000001, 0, INIT_ZEROS, 0);
    size_t numbers = model.tensors.total += 500000;  // gaps that are wide enough to be seen
    model.memory[0].what = "parameters", model.memory[0].amount = 4.0 * (double)numbers;
    model.memory[1].what = "activations", model.memory[1].amount = 5e6;
    model.memory_rows = 2;
    Trainer t;
    memset(&t, 0, sizeof t);
    t.model = &model;
    t.step_rows = 1000;
    t.T = 250;
    for (int gpu = 0; gpu < 2; gpu++) {  // there the model has rows for its moments itself
        if (gpu) { model.prepare = toy_prepare; }
        char* text = NULL;
        size_t size = 0;
        FILE* file = open_memstream(&text, &size);
        trainer_print_memory(&t, file);
        fclose(file);
        double family = 4e-6 * (double)numbers, tokens = 2 * 4e-6 * 1000 * 250,
               all = (gpu ? 1 : 3) * family + 5 + tokens;
        const struct {
            const char* what;
            double megabytes;
        } rows[] = {{"parameters", family}, {"first moments", gpu ? 0 : family}, {"second moments", gpu ? 0 : family},
                    {"activations", 5},     {"tokens of a step", tokens},        {"total", all}};
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            char* want = format_string("\n  %-32s %11.1f MB%s", rows[i].what, rows[i].megabytes, i == 5 ? "\n" : "");
            if (i < 5) {
                char* share = format_string(" %5.1f %%\n", 100 * rows[i].megabytes / all);
                char* both = format_string("%s%s", want, share);
                free(share);
                free(want);
                want = both;
            }
            int there = strstr(text, want) != NULL;
            CHECK(there == (rows[i].megabytes > 0), "GPU %d: '%s' in:\n%s", gpu, want, text);
            CHECK(there || !strstr(text, rows[i].what), "GPU %d: %s in:\n%s", gpu, rows[i].what, text);
            free(want);
        }
        free(text);
    }
    for (int i = 0; i < 2; i++) { free(model.tensors.list[i].name); }
    free(model.tensors.list);
}

// toy_home with its shards, and its end.
static void toy_begin(void) {
    // A checkpoint syncs each of its files: in memory that costs nothing.
    const char* base = getenv("TMPDIR");
    if (!base && access("/dev/shm", W_OK) == 0) { base = "/dev/shm"; }
    snprintf(toy_home, sizeof toy_home, "%s/ponder_train_XXXXXX", base && base[0] ? base : "/tmp");
    if (!mkdtemp(toy_home)) {
        die("cannot make a directory in %s: %s", base && base[0] ? base : "/tmp", strerror(errno));
    }
    toy_shard("train.bin", 2000, 1);
    toy_shard("val.bin", 700, 2);
}
static void toy_end(void) { directory_remove_tree(toy_home); }

static void train_tests(void) {
    toy_begin();
    RUN(test_log_formats);
    RUN(test_metrics_cut);
    RUN(test_rank_rows);
    RUN(test_memory_table);
    RUN(test_train_reference);
    RUN(test_train_validation);
    RUN(test_train_validation_rows);
    RUN(test_train_best);
    RUN(test_train_accumulates);
    RUN(test_train_epochs);
    RUN(test_train_flops);
    RUN(test_train_dump);
    RUN(test_train_looks);
    RUN(test_train_samples);
    RUN(test_train_sample_keys);
    RUN(test_train_end_beyond);
    RUN(test_train_speed);
    RUN(test_train_bad_options);
    RUN(test_train_resumes);
    RUN(test_train_signals);
    RUN(test_train_nohup);
    RUN(test_train_closed_pipe);
    RUN(test_train_syncs);
    RUN(test_train_killed);
    RUN(test_train_lock);
    RUN(test_train_minutes);
    RUN(test_train_goes_on);
    RUN(test_train_changed);
    RUN(test_train_nonfinite);
    RUN(test_train_full_disk);
    toy_end();
}

#endif

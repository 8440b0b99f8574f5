// test_model.h - what the tests of every architecture need: a model of TEST_ARCHITECTURE (an Architecture, named
// by the includer), and that model against numbers of the reference implementation or of our PyTorch twin,
// in folders as ../shared/fixtures and dev/fixtures have them.
#ifndef PONDER_TEST_MODEL_H
#define PONDER_TEST_MODEL_H

#include "../../common/adamw.h"
#include "../../common/files/checkpoint.h"
#include "../../common/files/safetensors.h"
#include "../../common/files/shards.h"
#include "../../common/run/train.h"
#include "test.h"

#include <dirent.h>

// "pythia" for train_pythia.cu; the preset that micro models are made from. TEST_KEY_BIAS, the includer's: what the
// name of a bias of keys contains, whose true gradient is 0.
#define TEST_STRING_(x) #x
#define TEST_STRING(x) TEST_STRING_(x)
#define TEST_NAME TEST_STRING(TEST_ARCHITECTURE)
#define TEST_PRESET (TEST_ARCHITECTURE.presets[0].name)

// Called before every model, if not NULL.
static void (*test_fresh)(void);
static PonderClass test_class;

static Model* make_model(const char* arguments, const char* preset, const Json* config, const char* path, int B,
                         int T) {
    if (test_fresh) { test_fresh(); }
    OptionTable options;
    memset(&options, 0, sizeof options);
    const ModelClass* kind = ponder_class(&test_class, &TEST_ARCHITECTURE);
    kind->add_options(&options);
    char* text = format_string("test %s", arguments);
    char* argv[40];
    int argc = 0;
    for (char* word = strtok(text, " "); word && argc < 40; word = strtok(NULL, " ")) { argv[argc++] = word; }
    options_parse(&options, argc, argv);
    return kind->create(kind, &options, preset, config, path, B, T);
}

// Moves every parameter off its special value (biases 0, norms 1), so that a forgotten one shows.
static void jitter(Model* model, double deviation) {
    for (int i = 0; i < model->tensors.count; i++) {
        const Tensor* t = &model->tensors.list[i];
        for (size_t j = 0; j < t->size; j++) {
            model->params[t->offset + j] += (real)(deviation * random_normal(11, (uint64_t)i, j));
        }
    }
}

// PONDER_TEST_SEED=n takes others: what only just fails with one set may be chance.
static void random_tokens(int* inputs, int* targets, int n, int V) {
    uint64_t seed = test_seed(5);
    for (int i = 0; i < n; i++) {
        inputs[i] = (int)(random_u32(seed, 1, (uint64_t)i) % (uint32_t)V);
        targets[i] = (int)(random_u32(seed, 2, (uint64_t)i) % (uint32_t)V);
    }
}

// ---- fixtures ----

// What is allowed: losses absolute, the norm relative, the others relative to a tensor's largest entry.
// biases: of the fused query-key-value biases after ten steps (a key bias has a true gradient of zero, and
// Adam amplifies its rounding).
typedef struct {
    double loss, norm, logits, grads, weights, biases;
    const char* arguments;  // options of the model
} FixtureBounds;

// What a correct fp32 implementation drifts, with room for a GPU's other order of adding. Measured on the CPU,
// dev/fixtures and the reference's: loss 5.2e-7, norm 5.5e-7, logits 4.5e-7, gradients 5.3e-6 (of pondering models,
// whose passes carry a rounding on), weights 7.0e-6, key biases 1.2e-3.
static const FixtureBounds fixture_fp32 = {5e-6, 2e-6, 1e-5, 1e-5, 1e-4, 3e-3, ""};

// The largest errors that were seen, to be printed beside the bounds.
static FixtureBounds fixture_worst;
static void fixture_measure(double* worst, double error) {
    if (!(error <= *worst)) { *worst = error; }
}

static const Json* need(const Json* object, const char* key) {
    const Json* value = json_get(object, key);
    if (!value) { die("expected.json lacks %s", key); }
    return value;
}

static double need_number(const Json* object, const char* key) { return need(object, key)->number; }

// Returns the largest error, key biases aside.
static double compare_with_file(const char* path, const TensorTable* table, const real* family, double tolerance,
                                double bias_tolerance) {
    double most = 0;
    SafeFile* file = safetensors_open(path);
    for (int i = 0; i < table->count; i++) {
        const Tensor* t = &table->list[i];
        const SafeTensor* found = safetensors_find(file, t->name);
        CHECK(found != NULL, "%s lacks %s", path, t->name);
        if (!found) { continue; }
        float* want = (float*)xalloc(t->size, sizeof(float), "a fixture");
        safetensors_read(file, found, want);
        float* got = (float*)xalloc(t->size, sizeof(float), "a fixture");
        for (size_t j = 0; j < t->size; j++) { got[j] = (float)family[t->offset + j]; }
        char* what = format_string("%s: %s", path, t->name);
        int biases = strstr(t->name, TEST_KEY_BIAS) != NULL;
        double error = compare_floats(what, got, want, t->size, biases ? bias_tolerance : tolerance);
        if (!biases) { fixture_measure(&most, error); }
        free(what);
        free(want);
        free(got);
    }
    safetensors_close(file);
    return most;
}

static void check_losses(const char* dir, const char* when, const Json* expected, const double* sums, double count,
                         int passes, double tolerance) {
    const Json* each = need(expected, "loss_of_each_pass");
    CHECK(each->count == passes, "%s: %d passes, expected %d", dir, passes, each->count);
    for (int s = 0; s < passes && s < each->count; s++) {
        double error = fabs(sums[s] / count - each->items[s]->number);
        fixture_measure(&fixture_worst.loss, error);
        CHECK(error <= tolerance, "%s %s: pass %d has %.9g, expected %.9g", dir, when, s, sums[s] / count,
              each->items[s]->number);
    }
}

static void validate(Model* model, const char* dir, const char* when, const Json* expected, Shards* val, int batch,
                     int batches, int T, double tolerance) {
    double sums[16] = {0};
    int *inputs = (int*)xalloc((size_t)(batch * T), sizeof(int), "a batch"),
        *targets = (int*)xalloc((size_t)(batch * T), sizeof(int), "a batch");
    for (int b = 0; b < batches; b++) {
        for (int r = 0; r < batch; r++) { shards_row(val, (uint64_t)(b * batch + r), inputs + r * T, targets + r * T); }
        model_evaluate(model, inputs, targets, batch, T, sums);
    }
    check_losses(dir, when, expected, sums, (double)batches * batch * T, model->passes, tolerance);
    free(inputs);
    free(targets);
}

// One fixture: losses, logits, first gradient, ten optimiser steps, final weights.
static void check_fixture(const char* dir, FixtureBounds most) {
    char* path = format_string("%s/expected.json", dir);
    Json* expected = json_read(path);
    char* config_path = format_string("%s/config.json", dir);
    Json* config = json_read(config_path);
    const Json* o = need(expected, "options");
    int T = (int)need_number(o, "seq"), batch = (int)need_number(o, "batch"),
        rows = (int)need_number(o, "total_batch") / T;
    int steps = (int)need_number(o, "steps"), batches = (int)need_number(o, "val_batches");
    Model* model = make_model(most.arguments, NULL, config, config_path, batch, T);
    model->allocate(model, 1);
    weights_read(dir, &model->tensors, (float*)model->params,
                 (int (*)(const void*, const char*))(void (*)(void))model->ignores_tensor, model);
    real* m = (real*)xalloc(model->tensors.total, sizeof(real), "moments");
    real* v = (real*)xalloc(model->tensors.total, sizeof(real), "moments");
    if (model->upload) { model->upload(model, m, v); }
    Shards* train = shards_open(format_string("%s/train.bin", dir), T, model->V);
    Shards* val = shards_open(format_string("%s/val.bin", dir), T, model->V);
    int *inputs = (int*)xalloc((size_t)(batch * T), sizeof(int), "a batch"),
        *targets = (int*)xalloc((size_t)(batch * T), sizeof(int), "a batch");

    validate(model, dir, "before training", need(expected, "val_before"), val, batch, batches, T, most.loss);
    const Json* training = need(expected, "training");
    for (int step = 0; step < steps; step++) {
        model_zero_grads(model);
        double loss = 0;
        for (int row = 0; row < rows; row += batch) {
            for (int r = 0; r < batch; r++) {
                uint64_t number = shards_stream_row(train, (uint64_t)(step * rows + row + r), 0, 42);
                shards_row(train, number, inputs + r * T, targets + r * T);
            }
            if (step == 0 && row == 0) {
                double sums[16] = {0};
                model_evaluate(model, inputs, targets, batch, T, sums);
                check_losses(dir, "first micro-batch", need(expected, "first_micro_batch"), sums, (double)(batch * T),
                             model->passes, most.loss);
                char* logits_path = format_string("%s/logits.safetensors", dir);
                if (access(logits_path, R_OK) == 0) {
                    SafeFile* file = safetensors_open(logits_path);
                    size_t n = (size_t)(batch * T) * (size_t)model->V;
                    float* want = (float*)xalloc(n, sizeof(float), "logits");
                    real* got = (real*)xalloc(n, sizeof(real), "logits");
                    CHECK(file->count == 1 && file->tensors[0].count == n, "%s: %d tensors", logits_path, file->count);
                    safetensors_read(file, &file->tensors[0], want);
                    model->logits(model, inputs, batch, T, 0, got);
                    fixture_measure(&fixture_worst.logits,
                                    compare_floats(logits_path, (float*)got, want, n, most.logits));
                    safetensors_close(file);
                }
            }
            loss += model->train(model, inputs, targets, batch, T, 1.0 / (rows * T)) / (rows * T);
        }
        if (step == 0) {
            if (model->download_grads) { model->download_grads(model); }
            fixture_measure(&fixture_worst.grads,
                            compare_with_file(format_string("%s/grads.safetensors", dir), &model->tensors, model->grads,
                                              most.grads, most.grads));
        }
        const Json* line = training->items[step];
        double norm = model_grad_norm(model), clip = need_number(o, "clip");
        double lr = schedule_lr(need(o, "schedule")->string, need_number(o, "lr"), need_number(o, "min_lr_ratio"),
                                schedule_warmup(need_number(o, "warmup_ratio"), steps), steps, step);
        fixture_measure(&fixture_worst.loss, fabs(loss - need_number(line, "loss")));
        fixture_measure(&fixture_worst.norm, fabs(norm / need_number(line, "grad_norm") - 1));
        CHECK(fabs(loss - need_number(line, "loss")) <= most.loss, "%s step %d: loss %.9g, expected %.9g", dir, step,
              loss, need_number(line, "loss"));
        CHECK(fabs(norm / need_number(line, "grad_norm") - 1) <= most.norm, "%s step %d: norm %.9g, expected %.9g", dir,
              step, norm, need_number(line, "grad_norm"));
        // Measured: 0; learning rates of 1e-3 with all digits.
        CHECK(fabs(lr - need_number(line, "lr")) <= 1e-15, "%s step %d: lr %.12g, expected %.12g", dir, step, lr,
              need_number(line, "lr"));
        AdamwStep update = adamw_step(clip_scale(norm, clip), lr, need_number(o, "beta1"), need_number(o, "beta2"),
                                      need_number(o, "eps"), need_number(o, "weight_decay"), step + 1);
        model_update(model, m, v, &update);
    }
    char* final_path = format_string("%s/final.safetensors", dir);
    if (model->download) { model->download(model, m, v); }
    if (access(final_path, R_OK) == 0) {
        fixture_measure(&fixture_worst.weights,
                        compare_with_file(final_path, &model->tensors, model->params, most.weights, most.biases));
    }
    validate(model, dir, "after training", need(expected, "val_after"), val, batch, batches, T, most.loss);
}

static int ends_so(const char* name, const char* end) {
    const size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}
// Every folder whose name begins and ends so, but not as `but` (NULL: all); returns how many.
static int check_fixtures(const char* folder, const char* begin, const char* end, const char* but, FixtureBounds most) {
    DIR* directory = opendir(folder);
    int count = 0;
    if (!directory) { return 0; }
    memset(&fixture_worst, 0, sizeof fixture_worst);
    for (struct dirent* entry; (entry = readdir(directory)) != NULL;) {
        const char* name = entry->d_name;
        if (strncmp(name, begin, strlen(begin)) != 0 || !ends_so(name, end) || (but && ends_so(name, but))) {
            continue;
        }
        check_fixture(format_string("%s/%s", folder, name), most);
        count++;
    }
    closedir(directory);
    if (count) {
        printf(
            "     largest errors: loss %.1e of %.0e, norm %.1e of %.0e, logits %.1e of %.0e, gradients %.1e of %.0e, "
            "weights %.1e of %.0e\n",
            fixture_worst.loss, most.loss, fixture_worst.norm, most.norm, fixture_worst.logits, most.logits,
            fixture_worst.grads, most.grads, fixture_worst.weights, most.weights);
    }
    return count;
}

// Where the reference implementation's numbers are, if they are; the caller frees it.
static char* fixtures_shared(void) {
    const char* shared = getenv("PONDER_SHARED");
    return format_string("%s/fixtures", shared && *shared ? shared : "../shared");
}

#endif

// toy_trainer.h - the smallest program that trainer_main() can drive, for tests of the loop.
//
// Its model: logits of pass s = bias + (s + 1) / passes * weight[token % 16]; the loss is that of
// the last pass, logits = bias + weight[token % 16], so that the gradient is one line. A test
// program runs it as a process of its own: `test_common --toy-trainer OPTIONS`.
#ifndef PONDER_TOY_TRAINER_H
#define PONDER_TOY_TRAINER_H

#include "../../common/run/train.h"
#include "file_calls.h"

#include <sys/resource.h>

enum { TOY_V = 257, TOY_ROWS = 16 };

typedef struct {
    int64_t sleep_ms;      // in every micro-batch
    int64_t val_sleep_ms;  // in every micro-batch of a validation
    int64_t poison_at;     // number of the call of train() that goes wrong; 0: none
    int64_t poison_what;   // 0: a gradient and the loss are NaN, 1: only a gradient is infinite, 2: validation, 3: a
                           // gradient is so large that its square is infinite
    int64_t room_at;       // number of the call of train() that lifts the limit on the size of files; 0: none
    int64_t calls;
    double ahead;           // of the micro-batches that nobody has asked about, as on a GPU: the sum of losses,
    int known, bad;         // how many, and which is the first that is not finite,
    const int* bad_inputs;  // and its inputs
} Toy;

static void toy_prepare(Model* model, int training) { (void)model, (void)training; }

static void toy_allocate(Model* model, int training) {
    model->params = (real*)xalloc(model->tensors.total, sizeof(real), "the parameters");
    if (training) { model->grads = (real*)xalloc(model->tensors.total, sizeof(real), "the gradients"); }
}

// logits (V) of pass s after a token.
static void toy_logits_of(const Model* model, int token, int s, double* logits) {
    const real* weight = model->params + model->tensors.list[0].offset + (size_t)(token % TOY_ROWS) * TOY_V;
    const real* bias = model->params + model->tensors.list[1].offset;
    for (int v = 0; v < TOY_V; v++) {
        logits[v] = (double)bias[v] + (double)(s + 1) / model->passes * (double)weight[v];
    }
}

// Turns logits (V) into probabilities; returns the loss of a target.
static double toy_softmax(double* logits, int target) {
    double top = logits[0], sum = 0, z = logits[target];
    for (int v = 1; v < TOY_V; v++) { top = logits[v] > top ? logits[v] : top; }
    for (int v = 0; v < TOY_V; v++) { sum += logits[v] = exp_d(logits[v] - top); }
    for (int v = 0; v < TOY_V; v++) { logits[v] /= sum; }
    return log_d(sum) + top - z;
}

static void toy_sleep(int64_t ms) {
    double end = now_seconds() + 1e-3 * (double)ms;
    while (now_seconds() < end) { usleep(1000); }  // a signal ends a usleep
}

static double toy_train(Model* model, const int* inputs, const int* targets, int B, int T, double scale) {
    Toy* toy = (Toy*)model->self;
    double p[TOY_V], sum = 0;
    for (int i = 0; i < B * T; i++) {
        if (targets[i] < 0) { continue; }
        toy_logits_of(model, inputs[i], model->passes - 1, p);
        sum += toy_softmax(p, targets[i]);
        p[targets[i]] -= 1;
        real* dweight = model->grads + model->tensors.list[0].offset + (size_t)(inputs[i] % TOY_ROWS) * TOY_V;
        real* dbias = model->grads + model->tensors.list[1].offset;
        for (int v = 0; v < TOY_V; v++) {
            dweight[v] += (real)(scale * p[v]);
            dbias[v] += (real)(scale * p[v]);
        }
    }
    toy_sleep(toy->sleep_ms);
    if (toy->calls + 1 == toy->room_at) {
        struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
        setrlimit(RLIMIT_FSIZE, &all);
    }
    if (++toy->calls == toy->poison_at && toy->poison_what != 2) {
        static const float poisons[] = {NAN, INFINITY, 0, 1e30f};
        model->grads[model->tensors.list[1].offset + 5] = (real)poisons[toy->poison_what];
        if (toy->poison_what == 0) { return (double)NAN; }
    }
    return sum;
}

// As a model on a GPU trains: the losses come when the step ends, and what went wrong is looked for once more.
static void toy_train_ahead(Model* model, const int* inputs, const int* targets, int B, int T, double scale) {
    Toy* toy = (Toy*)model->self;
    double sum = toy_train(model, inputs, targets, B, T, scale);
    toy->ahead += sum;
    if (!isfinite(sum) && !toy->bad_inputs) { toy->bad = toy->known, toy->bad_inputs = inputs; }
    toy->known++;
}
static double toy_finish(Model* model, int* bad) {
    Toy* toy = (Toy*)model->self;
    double sum = toy->ahead;
    *bad = toy->bad_inputs ? toy->bad : -1;
    toy->ahead = 0, toy->known = 0;
    return sum;
}
static double toy_train_again(Model* model, const int* inputs, const int* targets, int B, int T, double scale) {
    Toy* toy = (Toy*)model->self;
    fprintf(stderr, "%s micro-batch again, %d rows\n", inputs == toy->bad_inputs ? "the same" : "another", B);
    return toy_train(model, inputs, targets, B, T, scale);
}

static void toy_evaluate(Model* model, const int* inputs, const int* targets, int B, int T, double* row_losses) {
    Toy* toy = (Toy*)model->self;
    double p[TOY_V];
    toy_sleep(toy->val_sleep_ms);
    memset(row_losses, 0, (size_t)(model->passes * B) * sizeof(double));
    for (int i = 0; i < B * T; i++) {
        for (int s = 0; s < model->passes && targets[i] >= 0; s++) {
            toy_logits_of(model, inputs[i], s, p);
            row_losses[s * B + i / T] += toy_softmax(p, targets[i]);
        }
    }
    if (toy->poison_what == 2 && toy->calls >= toy->poison_at) { row_losses[model->passes * B - 1] = (double)INFINITY; }
}

static void toy_logits(Model* model, const int* inputs, int B, int T, int last_only, real* logits) {
    double z[TOY_V];
    for (int b = 0; b < B; b++) {
        for (int t = last_only ? T - 1 : 0; t < T; t++, logits += TOY_V) {
            toy_logits_of(model, inputs[b * T + t], model->passes - 1, z);
            for (int v = 0; v < TOY_V; v++) { logits[v] = (real)z[v]; }
        }
    }
}

static char* toy_config(const Model* model) {
    return format_string("{\n  \"model_type\": \"toy\",\n  \"vocab_size\": %d,\n  \"passes\": %d\n}\n", TOY_V,
                         model->passes);
}

static void toy_options(OptionTable* table) {
    const Option rows[] = {
        {"model", "passes", OPTION_INT, NULL, "N", 1, 9, RESUME_FIXED, "losses that are reported"},
        {"toy", "sleep", OPTION_INT, "0", "MS", 0, 1e9, RESUME_RUN, "milliseconds lost in each micro-batch"},
        {"toy", "start-sleep", OPTION_INT, "0", "MS", 0, 1e9, RESUME_RUN, "milliseconds lost before anything is read"},
        {"toy", "val-sleep", OPTION_INT, "0", "MS", 0, 1e9, RESUME_RUN,
         "milliseconds lost in each micro-batch of a validation"},
        {"toy", "poison-at", OPTION_INT, "0", "N", 0, 1e9, RESUME_RUN, "micro-batch that goes wrong"},
        {"toy", "poison-what", OPTION_INT, "0", "N", 0, 3, RESUME_RUN, "how"},
        {"toy", "room-at", OPTION_INT, "0", "N", 0, 1e9, RESUME_RUN, "micro-batch from which on files may be larger"},
        {"toy", "peak", OPTION_NUMBER, "1e9", "X", 0, 1e18, RESUME_RUN,
         "FLOP/s that utilisation refers to, as a model on a GPU has them; 0: this machine's, as on the CPU; they take "
         "a tenth of a second to measure"},
        {"toy", "false-peak", OPTION_NUMBER, "0", "X", 0, 1e18, RESUME_RUN,
         "what this machine's peak was read as before"},
        {"toy", "ahead", OPTION_INT, "0", "0|1", 0, 1, RESUME_RUN, "losses come when a step ends, as on a GPU"},
        {"toy", "list-calls", OPTION_FLAG, NULL, NULL, 0, 0, RESUME_RUN, "print the list of file_calls.h at the end"},
    };
    options_add(table, rows, (int)(sizeof rows / sizeof rows[0]));
}

static Model* toy_create(const ModelClass* kind, const OptionTable* options, const char* preset, const Json* config,
                         const char* config_path, int B, int T) {
    (void)kind;
    Model* model = (Model*)xalloc(1, sizeof(Model), "the toy");
    Toy* toy = (Toy*)xalloc(1, sizeof(Toy), "the toy");
    toy_sleep(options_int(options, "start-sleep"));
    toy->sleep_ms = options_int(options, "sleep");
    toy->val_sleep_ms = options_int(options, "val-sleep");
    toy->poison_at = options_int(options, "poison-at");
    toy->poison_what = options_int(options, "poison-what");
    toy->room_at = options_int(options, "room-at");
    model->self = toy;
    model->passes =
        preset ? (strcmp(preset, "toy-3") == 0 ? 3 : 2) : (int)json_get_int(config, "passes", 2, config_path);
    if (options_given(options, "passes")) { model->passes = (int)options_int(options, "passes"); }
    tensor_add(&model->tensors, format_string("weight"), TOY_ROWS, TOY_V, INIT_NORMAL, 0.1f);
    tensor_add(&model->tensors, format_string("bias"), TOY_V, 0, INIT_ZEROS, 0);
    model->V = TOY_V;
    model->B = B;
    model->T = T ? T : preset ? 32 : (int)json_get_int(config, "length", 32, config_path);
    model->memory[0].what = "parameters";
    model->memory[1].what = "gradients";
    model->memory[0].amount = model->memory[1].amount = (double)model->tensors.total * sizeof(real);
    model->memory_rows = 2;
    model->peak_flops = options_number(options, "peak");
    if (model->peak_flops > 0) { model->prepare = toy_prepare; }
    for (int i = 0; i < MACHINE_READINGS; i++) { machine_fma.limit.best[i] = options_number(options, "false-peak"); }
    if (options_given(options, "list-calls")) { file_calls_watch(options_text(options, "out")); }
    model->flops[0].what = "softmax";
    model->flops[0].amount = 6.0 * TOY_V;
    model->flops_rows = 1;
    model->allocate = toy_allocate;
    model->train = toy_train;
    if (options_int(options, "ahead")) {
        model->train = toy_train_again, model->train_ahead = toy_train_ahead, model->finish = toy_finish;
    }
    model->evaluate = toy_evaluate;
    model->logits = toy_logits;
    model->config_json = toy_config;
    model->code_name = "toy.py";
    model->code_text = "pass\n";
    return model;
}

static int toy_trainer_main(int argc, char** argv) {
    static const char* const presets[] = {"toy", "toy-3", NULL};
    const ModelClass kind = {"toy_trainer", "toy", presets, toy_options, toy_create};
    int code = trainer_main(argc, argv, &kind);
    if (file_calls.root) { printf("%s", file_calls.list.data); }
    return code;
}

#endif

// train.h - the training loop: everything between the command line and a finished checkpoint that
// knows neither the architecture nor the pondering.
//
//     trainer_main()
//         setup.h    options, model, data, memory, banner
//         loop       validate, save, sample, step, until the last step, a signal or --max-minutes
//         step       rows of the step -> micro-batches forward and backward -> norm -> AdamW -> metrics
//
// A step is all or nothing: what a signal interrupts is thrown away, so the state on disk is always
// that after a whole number of steps, and a resumed run repeats the uninterrupted one bit by bit.
#ifndef PONDER_TRAIN_H
#define PONDER_TRAIN_H

#include "../rows.h"
#include "setup.h"

#include <signal.h>

// ---- signals ----

static volatile sig_atomic_t trainer_signal;  // the first that came, 0: none

static void trainer_on_signal(int number) {
    if (trainer_signal) { _exit(128 + number); }  // the second one: at once
    trainer_signal = number;
}

static inline void trainer_catch_signals(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    action.sa_handler = trainer_on_signal;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    struct sigaction old;
    if (sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler != SIG_IGN) {
        sigaction(SIGHUP, &action, NULL);
    }  // not under nohup
    action.sa_handler = SIG_IGN;
    sigaction(SIGXFSZ, &action, NULL);  // a limit on file sizes becomes an error of write()
    sigaction(SIGPIPE, &action, NULL);  // a closed pipe behind stdout must not end the training
}

// ---- numbers that are not finite ----

// Stops the run: names the first tensor with a NaN or an infinity. Nothing is saved.
__attribute__((noreturn)) static inline void trainer_die_nonfinite(Trainer* t, const char* what, double value,
                                                                   int64_t step, int rows) {
    Model* model = t->model;
    char* where = model_first_nonfinite(model, rows, t->T);
    char* newest = trainer_only_looks(t) ? NULL : checkpoint_newest(t->out);
    die("step %lld: the %s is %s; first tensor that is not finite: %s. Nothing was saved, %s%s; a lower --lr or a "
        "longer warm-up may help",
        (long long)step, what, isnan(value) ? "NaN" : "infinite", where ? where : "none (a sum overflowed)",
        newest ? "the last checkpoint is " : "there is no checkpoint yet", newest ? newest : "");
}

// ---- rows ----

// Rows position .. position + rows of the endless stream into inputs and targets; returns how many
// targets are not ignored.
static inline int64_t trainer_load_step(Trainer* t) {
    int shuffle = (int)options_int(&t->options, "shuffle");
    uint64_t seed = (uint64_t)options_int(&t->options, "seed");
    int64_t count = 0;
    for (int64_t i = 0; i < t->step_rows; i++) {
        uint64_t row = shards_stream_row(t->train, (uint64_t)(t->state.position + i), shuffle, seed);
        int* targets = t->targets + (size_t)i * (size_t)t->T;
        shards_row(t->train, row, t->inputs + (size_t)i * (size_t)t->T, targets);
        for (int j = 0; j < t->T; j++) { count += targets[j] >= 0; }
    }
    if (count == 0) {
        die("step %lld: no target to learn from, all are marked as ignored", (long long)t->state.step + 1);
    }
    return count;
}

// Rows of the micro-batch that begins at row i of n.
static inline int trainer_micro_rows(const Trainer* t, int64_t i, int64_t n) {
    return n - i < t->B ? (int)(n - i) : t->B;
}

// ---- validation ----

// Losses of every pass over the validation rows into state; 0 if a signal came in between.
static inline int trainer_validate(Trainer* t) {
    TrainerState* s = &t->state;
    size_t T = (size_t)t->T;
    int64_t count = 0;
    memset(t->loss_sums, 0, (size_t)s->passes * sizeof(double));
    for (int64_t row = 0; row < s->val_rows; row += t->B) {
        if (trainer_signal) { return 0; }
        int rows = trainer_micro_rows(t, row, s->val_rows);
        for (int i = 0; i < rows; i++) {
            shards_row(t->val, (uint64_t)(row + i), t->inputs + (size_t)i * T, t->targets + (size_t)i * T);
        }
        for (size_t j = 0; j < (size_t)rows * T; j++) { count += t->targets[j] >= 0; }
        t->model->evaluate(t->model, t->inputs, t->targets, rows, t->T, t->loss_sums);
        double sum = t->loss_sums[s->passes - 1];
        if (!isfinite(sum)) { trainer_die_nonfinite(t, "validation loss", sum, s->step, rows); }
    }
    if (count == 0) { die("--val: no target to validate on, all are marked as ignored"); }
    for (int i = 0; i < s->passes; i++) { s->val_loss_pass[i] = t->loss_sums[i] / (double)count; }
    s->val_loss = s->val_loss_pass[s->passes - 1];
    s->val_step = s->step;
    if (s->best_step < 0 || s->val_loss < s->best_val_loss) {
        s->best_step = s->step;
        s->best_val_loss = s->val_loss;
    }
    t->saved_step = -1;  // a checkpoint of this step does not know it yet
    return 1;
}

// The lines of --eval-only, also printed at the end of a run.
static inline void trainer_print_losses(const Trainer* t) {
    const TrainerState* s = &t->state;
    printf("val_loss %.6f\n", s->val_loss);
    printf("perplexity %.6g\n", exp_d(s->val_loss));
    if (t->tokenizer && tokenizer_is_bytes(t->tokenizer)) { printf("bits_per_byte %.6f\n", s->val_loss / log_d(2)); }
    for (int i = 0; i < s->passes; i++) { printf("val_loss_pass %d %.6f\n", i, s->val_loss_pass[i]); }
}

// ---- saving ----

static inline void trainer_save(Trainer* t) {
    if (t->saved_step == t->state.step) { return; }
    Model* model = t->model;
    if (model->download) { model->download(model, t->m, t->v); }
    CheckpointFile files[16];
    int n = tokenizer_files(t->tokenizer, files);
    char* config = model->config_json(model);
    int end = tokenizer_eot(t->tokenizer);
    char* generation = end >= 0 ? format_string("{\n  \"bos_token_id\": %d,\n  \"eos_token_id\": %d\n}\n", end, end)
                                : format_string("{}\n");
    char* state = state_text(&t->state, &t->options);
    files[n].name = "config.json", files[n].text = config, files[n].size = strlen(config), n++;
    files[n].name = "generation_config.json", files[n].text = generation, files[n].size = strlen(generation), n++;
    files[n].name = "trainer_state.json", files[n].text = state, files[n].size = strlen(state), n++;
    if (model->code_name) {
        files[n].name = model->code_name, files[n].text = model->code_text, files[n].size = strlen(model->code_text),
        n++;
    }
    metrics_flush(&t->metrics);
    checkpoint_write(t->out, t->state.step, &model->tensors, (const float*)(const void*)model->params,
                     (const float*)(const void*)t->m, (const float*)(const void*)t->v, files, n,
                     (int)options_int(&t->options, "keep"));
    free(config);
    free(generation);
    free(state);
    t->saved_step = t->state.step;
}

// ---- samples ----

static inline void trainer_sample(Trainer* t) {
    int count = (int)options_int(&t->options, "sample-tokens");
    if (count == 0) { return; }
    int bad = 0;
    int n = sample_text(&t->sampler, t->model, t->prompt, t->prompt_length, count, tokenizer_eot(t->tokenizer),
                        t->state.step, &trainer_signal, t->sampled, &bad);
    if (bad) { trainer_die_nonfinite(t, "largest logit of a sample", (double)NAN, t->state.step, 1); }
    printf("---- sample after step %lld: prompt ----\n", (long long)t->state.step);
    sample_print(t->tokenizer, t->prompt, t->prompt_length, stdout);
    printf("\n---- continued ----\n");
    sample_print(t->tokenizer, t->sampled, (size_t)n, stdout);
    printf("\n----\n");
    fflush(stdout);
}

// ---- one step ----

// Forward and backward of all micro-batches of the step: grads = gradient of the mean loss, *loss =
// that mean. Returns 0 if a signal came in between.
static inline int trainer_gradient(Trainer* t, double* loss) {
    Model* model = t->model;
    int64_t count = trainer_load_step(t);
    model_zero_grads(model);
    double sum = 0;
    for (int64_t row = 0; row < t->step_rows; row += t->B) {
        if (trainer_signal) { return 0; }
        int rows = trainer_micro_rows(t, row, t->step_rows);
        size_t at = (size_t)row * (size_t)t->T;
        sum += model->train(model, t->inputs + at, t->targets + at, rows, t->T, 1.0 / (double)count);
        if (!isfinite(sum)) { trainer_die_nonfinite(t, "loss", sum, t->state.step + 1, rows); }
    }
    *loss = sum / (double)count;
    return 1;
}

static inline double trainer_lr(const Trainer* t, int64_t step) {
    const OptionTable* o = &t->options;
    return schedule_lr(options_text(o, "schedule"), options_number(o, "lr"), options_number(o, "min-lr-ratio"),
                       t->warmup_steps, t->state.total_steps, step);
}

// One optimiser step with its metrics and progress line; 0 if a signal came, and nothing has changed.
static inline int trainer_step(Trainer* t) {
    const OptionTable* o = &t->options;
    Model* model = t->model;
    TrainerState* s = &t->state;
    double begin = now_seconds(), loss = 0;
    if (!trainer_gradient(t, &loss)) { return 0; }
    double norm = model_grad_norm(model);
    if (!isfinite(norm)) {
        trainer_die_nonfinite(t, "gradient norm", norm, s->step + 1, trainer_micro_rows(t, 0, t->step_rows));
    }
    double scale = clip_scale(norm, options_number(o, "clip"));
    double lr = trainer_lr(t, s->step);
    AdamwStep step = adamw_step(scale, lr, options_number(o, "beta1"), options_number(o, "beta2"),
                                options_number(o, "eps"), options_number(o, "weight-decay"), s->step + 1);
    model_update(model, t->m, t->v, &step);
    double seconds = now_seconds() - begin;

    s->step++;
    s->tokens += s->total_batch;
    s->position += t->step_rows;
    s->seconds += seconds;
    t->step_seconds = t->step_seconds > 0 ? 0.9 * t->step_seconds + 0.1 * seconds : seconds;
    double rate = (double)s->total_batch / seconds;
    double peak = trainer_peak_flops(t), utilisation = peak > 0 ? rate * t->flops_per_token / peak : 0;
    metrics_step(&t->metrics, s->step, s->tokens, loss, lr, norm, 1000 * seconds, rate, utilisation);
    char tokens[32], left[32], share[32] = "peak not known";
    if (peak > 0) { snprintf(share, sizeof share, "%.1f %% of peak", 100 * utilisation); }
    printf("step %*lld of %lld | loss %.4f | norm %.3g | lr %.2e | %.0f ms | %s tok/s | %s | %s left\n",
           snprintf(NULL, 0, "%lld", (long long)s->total_steps), (long long)s->step, (long long)s->total_steps, loss,
           norm, lr, 1000 * seconds, format_count(tokens, rate), share,
           format_time(left, t->step_seconds * (double)(s->total_steps - s->step)));
    fflush(stdout);
    return 1;
}

// ---- --dump ----

// Logits of the first micro-batch; losses of the passes and the gradient of the whole step.
static inline void trainer_dump(Trainer* t, const char* dir) {
    Model* model = t->model;
    char* error = directory_make(dir);
    if (error) { die("--dump %s: %s", dir, error); }
    int64_t count = trainer_load_step(t);
    int rows = trainer_micro_rows(t, 0, t->step_rows);
    size_t positions = (size_t)rows * (size_t)t->T;

    real* logits = (real*)xalloc(mul_size(positions, (size_t)model->V, "the logits"), sizeof(real), "the logits");
    model->logits(model, t->inputs, rows, t->T, 0, logits);
    const SafeWrite all = {
        "logits", 3, {(size_t)rows, (size_t)t->T, (size_t)model->V, 0}, (const float*)(const void*)logits};
    char* path = format_string("%s/logits.safetensors", dir);
    safetensors_write(path, &all, 1, NULL);
    free(path);
    free(logits);

    memset(t->loss_sums, 0, (size_t)model->passes * sizeof(double));
    for (int64_t row = 0; row < t->step_rows; row += t->B) {
        size_t at = (size_t)row * (size_t)t->T;
        model->evaluate(model, t->inputs + at, t->targets + at, trainer_micro_rows(t, row, t->step_rows), t->T,
                        t->loss_sums);
    }
    float* losses = (float*)xalloc((size_t)model->passes, sizeof(float), "the losses");
    for (int s = 0; s < model->passes; s++) { losses[s] = (float)(t->loss_sums[s] / (double)count); }
    const SafeWrite both[] = {
        {"loss", 1, {1, 0, 0, 0}, losses + model->passes - 1},
        {"loss_of_each_pass", 1, {(size_t)model->passes, 0, 0, 0}, losses},
    };
    path = format_string("%s/loss.safetensors", dir);
    safetensors_write(path, both, 2, NULL);
    free(path);

    double loss = 0;
    if (!trainer_gradient(t, &loss)) { exit(128 + trainer_signal); }
    if (model->download_grads) { model->download_grads(model); }
    int n = model->tensors.count;
    SafeWrite* grads = (SafeWrite*)xalloc((size_t)n, sizeof(SafeWrite), "the gradients");
    for (int i = 0; i < n; i++) {
        const Tensor* tensor = &model->tensors.list[i];
        grads[i].name = tensor->name;
        grads[i].ndim = tensor->ndim;
        grads[i].shape[0] = tensor->shape[0];
        grads[i].shape[1] = tensor->shape[1];
        grads[i].data = (const float*)(const void*)(model->grads + tensor->offset);
    }
    path = format_string("%s/grads.safetensors", dir);
    safetensors_write(path, grads, n, NULL);
    free(path);
    free(grads);
    printf(
        "loss %.9g, gradient norm %.9g\nwrote %s/logits.safetensors (%d rows), grads.safetensors, loss.safetensors\n",
        loss, grad_norm(&model->tensors, model->grads), dir, rows);
    free(losses);
}

// ---- the run ----

// What a finished run came to.
static inline void trainer_print_results(const Trainer* t) {
    const TrainerState* s = &t->state;
    char flops[32], seconds[32], tokens[32];
    printf("%s: %lld steps, %s tokens, %s FLOPs, %s in training steps\n", t->out, (long long)s->step,
           format_count(tokens, (double)s->tokens), format_count(flops, s->flops_per_token * (double)s->tokens),
           format_time(seconds, s->seconds));
    if (s->val_step >= 0) {
        trainer_print_losses(t);
        printf("best validation loss %.6f after step %lld\n", s->best_val_loss, (long long)s->best_step);
    }
    printf("checkpoint %s/step_%08lld\nmetrics    %s/metrics.jsonl\n", t->out, (long long)s->step, t->out);
    fflush(stdout);
}

// 1 if step n ends with a validation.
static inline int trainer_validates(const Trainer* t, int64_t n) {
    int64_t every = options_int(&t->options, "val-every");
    return t->val && (n == 0 || n >= t->state.total_steps || (every > 0 && n % every == 0));
}

// Steps until the end of the run; returns the exit status.
static inline int trainer_run(Trainer* t) {
    TrainerState* s = &t->state;
    int64_t save_every = options_int(&t->options, "save-every"),
            sample_every = options_int(&t->options, "sample-every");
    double minutes = options_set(&t->options, "max-minutes") ? options_number(&t->options, "max-minutes") : INFINITY;
    int first = 1, in_time = 1;
    for (;; first = 0) {
        int last = s->step >= s->total_steps;
        int written = first && t->metrics.validated;  // by the run that is resumed, though its checkpoint may not know
        if (trainer_validates(t, s->step) && !(written && s->val_step == s->step)) {
            if (!trainer_validate(t)) { break; }
            if (!written) { metrics_validation(&t->metrics, s->step, s->val_loss, s->val_loss_pass, s->passes); }
            printf("validation after step %lld: loss %.4f (best %.4f)\n", (long long)s->step, s->val_loss,
                   s->best_val_loss);
            fflush(stdout);
        }
        if (last || (save_every > 0 && s->step > 0 && s->step % save_every == 0)) { trainer_save(t); }
        if (last || (sample_every > 0 && s->step > 0 && s->step % sample_every == 0)) { trainer_sample(t); }
        in_time = first ||
                  now_seconds() - t->started < 60 * minutes;  // at least one step, so that repeating it gets somewhere
        if (last || trainer_signal || !in_time || !trainer_step(t)) { break; }
    }
    if (s->step < s->total_steps || trainer_signal) {
        if (s->step > 0) { trainer_save(t); }
        const char* why = trainer_signal == SIGINT    ? "SIGINT"
                          : trainer_signal == SIGTERM ? "SIGTERM"
                          : trainer_signal            ? "SIGHUP"
                                                      : "--max-minutes";
        printf("stopped by %s after step %lld of %lld, %s; --resume goes on\n", why, (long long)s->step,
               (long long)s->total_steps, s->step > 0 ? "which is saved" : "nothing to save yet");
        fflush(stdout);
        return trainer_signal ? 128 + trainer_signal : 0;
    }
    trainer_print_results(t);
    return 0;
}

// 1 if the checkpoint is the end of the run, and its results are known.
static inline int trainer_is_finished(Trainer* t) {
    const TrainerState* s = &t->state;
    return t->checkpoint && s->step >= t->state.total_steps && (s->val_rows == 0 || s->val_step == s->step);
}

// A whole program: the exit status of main(). One run a process.
static inline int trainer_main(int argc, char** argv, const ModelClass* kind) {
    static Trainer trainer;  // zero
    Trainer* t = &trainer;
    t->kind = kind;
    t->started = now_seconds();
    t->saved_step = -1;
    t->state.val_step = t->state.best_step = -1;
    if (sizeof(real) != sizeof(float)) {
        die("%s was built for double precision, which is for tests; build it without -DREAL", kind->program);
    }
    trainer_parse(t, argc, argv);
    trainer_catch_signals();
    trainer_find_checkpoint(t);
    trainer_find_model(t);
    trainer_size_step(t);
    if (options_given(&t->options, "plan")) {
        trainer_choose_batch(t);
        trainer_print_plan(t);
        return 0;
    }
    int eval_only = options_given(&t->options, "eval-only");
    const char* dump = options_text(&t->options, "dump");
    if (t->checkpoint && !eval_only && !dump) {
        trainer_size_run(t, t->state.rows);
        if (trainer_is_finished(t)) {
            if (t->changed.size) { printf("changed since the run was started\n%s", t->changed.data); }
            t->tokenizer = tokenizer_open(t->weights, t->model->V);
            printf("finished: step %lld of %lld\n", (long long)t->state.step, (long long)t->state.total_steps);
            trainer_print_results(t);
            return 0;
        }
    }
    trainer_open_data(t);
    if (!eval_only) { trainer_size_run(t, t->state.rows); }
    t->state.seed = options_int(&t->options, "seed");
    t->state.seq = t->T;
    t->state.parameters = (int64_t)tensor_parameters(&t->model->tensors);
    t->state.flops_per_token = t->flops_per_token;
    trainer_choose_batch(t);
    if (t->model->prepare) { t->model->prepare(t->model, !eval_only); }
    trainer_banner(t);
    trainer_allocate(t, !eval_only);
    if (GPU && options_given(&t->options, "compare-cpu")) {
        int64_t count = trainer_load_step(t);
        int rows = trainer_micro_rows(t, 0, t->step_rows);
        return t->model->compare_cpu(t->model, t->inputs, t->targets, rows, t->T, count);
    }
    if (eval_only) {
        if (!trainer_validate(t)) { return 128 + trainer_signal; }
        trainer_print_losses(t);
        return 0;
    }
    if (dump) {
        trainer_dump(t, dump);
        return 0;
    }
    trainer_prepare_samples(t);
    metrics_open(&t->metrics, t->out, t->checkpoint ? t->state.step : -1);
    if (t->checkpoint) { t->saved_step = t->state.step; }
    if (t->model->rehearse) {
        char* choices = format_string("%s/products.txt", t->out);
        t->model->rehearse(t->model, choices, t->step_rows);
        free(choices);
    }
    return trainer_run(t);
}

#endif

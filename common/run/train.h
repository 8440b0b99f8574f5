// train.h - the training loop: everything between the command line and a finished checkpoint that
// knows neither the architecture nor the pondering.
//
//     trainer_main()
//         setup.h    options, model, memory, banner; data.h its shards and tokenizer
//         loop       validate, save, sample, step, until the last step, a signal or --max-minutes
//         step       rows of the step -> micro-batches forward and backward -> norm -> AdamW -> metrics
//
// A step is all or nothing: what a signal interrupts is thrown away, so the state on disk is always
// that after a whole number of steps, and a resumed run repeats the uninterrupted one bit by bit.
//
// A run is not thrown away for what goes wrong beside it. An error in the middle (damaged data, memory,
// a file that went away) saves the last whole step before it ends the program; what cannot be printed
// or written meanwhile is a warning, and an error only at the end.
#ifndef PONDER_TRAIN_H
#define PONDER_TRAIN_H

#include "../rows.h"
#include "data.h"
#include "explain.h"
#include "generate.h"
#include "save.h"
#include "setup.h"

#include <signal.h>

// ---- signals ----

static volatile sig_atomic_t trainer_signal;     // the first that came to this process, 0: none
static volatile sig_atomic_t trainer_under_way;  // 0: no step and no validation yet, so nothing is worth finishing

// 1 for the first signal once more, from another sender: one to a whole group of processes reaches a rank of --gpus N from
// there and from its parent, which passes it on.
static int trainer_is_echo(int number) {
    static struct timespec first;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!trainer_signal) { first = now; }
    double after = (double)(now.tv_sec - first.tv_sec) + 1e-9 * (double)(now.tv_nsec - first.tv_nsec);
    return ranks.parent && trainer_signal == number && after < 1;
}

static void trainer_on_signal(int number) {
    if (trainer_is_echo(number)) { return; }
    // The second one ends it at once, and so does the first while files are still opened and read, however long a
    // disk or a network takes.
    if (trainer_signal || !trainer_under_way) { _exit(128 + number); }
    trainer_signal = number;
    __atomic_store_n(&ranks.signal, number, __ATOMIC_RELAXED);  // what ranks_called() says
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

// ---- a run that dies ----

static Trainer* trainer_at_risk;  // the run whose last whole step die() saves

static inline char* trainer_try_save(Trainer* t);

static void trainer_save_last(void) {
    Trainer* t = trainer_at_risk;
    long long step = (long long)t->state.step;
    if (step == 0 || !ranks_talks()) { return; }  // nothing is lost; with several ranks rank 0 has the same to save
    t->dying = 1;
    ranks_tell_parent(1);
    int there = t->saved_step == t->state.step;
    const char* hint = "with --zero 1 that takes all ranks; --resume goes on from the last checkpoint";
    char* error = there ? NULL : t->model->divided ? format_string("%s", hint) : trainer_try_save(t);
    if (error) {
        fprintf(stderr, "step %lld could not be saved: %s\n", step, error);
    } else {
        fprintf(stderr,
                "step %lld is saved in %s/step_%08lld: --resume goes on from there when the cause is gone, --model "
                "%s/step_%08lld starts a new run from its weights\n",
                step, t->out, step, t->out, step);
    }
}

// From here on weights and moments are those after a whole step, and an error saves them; or (whole = 0) are not.
static inline void trainer_guard(Trainer* t, int whole) {
    trainer_at_risk = t;
    die_last = whole ? trainer_save_last : NULL;
}

// The signal on which all ranks have agreed to stop, 0: none.
static inline int trainer_agreed_signal(const Trainer* t) { return t->agreed == RANKS_OUT_OF_TIME ? 0 : t->agreed; }

// ---- output ----

// After something was printed: a closed pipe or a full disk behind standard output must not end the training.
static inline void trainer_printed(Trainer* t) {
    if (output_flush() || t->unheard) { return; }
    t->unheard = 1;
    warn("standard output could not be written%s%s; the run goes on, its numbers are in %s/metrics.jsonl",
         output_error ? ": " : "", output_error ? strerror(output_error) : "", t->out);
}

// ---- numbers that are not finite ----

// Stops the run: names the first tensor with a NaN or an infinity. Nothing is saved.
__attribute__((noreturn)) static inline void trainer_die_nonfinite(Trainer* t, const char* what, double value,
                                                                   int64_t step, int rows) {
    Model* model = t->model;
    trainer_guard(t, 0);
    char* where = model_first_nonfinite(model, rows, t->T);
    const char* left = "there is no checkpoint yet";
    if (ranks.count > 1) {  // only rank 0 knows which there are
        left = format_string("checkpoints in %s are as they were", t->out);
    } else if (!trainer_only_looks(t)) {
        char* newest = checkpoint_newest(t->out);
        if (newest) { left = format_string("the last checkpoint is %s", newest); }
    }
    die("step %lld: the %s is %s; first tensor that is not finite: %s. Nothing was saved, %s; a lower --lr or a "
        "longer warm-up may help",
        (long long)step, what, isnan(value) ? "NaN" : "infinite", where ? where : "none (a sum overflowed)", left);
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

// After this rank's part of a validation, which it may have left: 0 if any rank has. All come here, and then know of a
// signal that one of them got.
static inline int trainer_agree(Trainer* t, int left) {
    if (ranks.count == 1) { return !left; }
    const int32_t mine[2] = {ranks_called(), left};
    int32_t* all = (int32_t*)xalloc((size_t)ranks.count, sizeof mine, "signals of ranks");
    ranks_gather(mine, sizeof mine, all, "whether a validation was left");
    for (int r = 0; r < ranks.count; r++) {
        left |= all[2 * r + 1];
        if (!trainer_agreed_signal(t)) { t->agreed = all[2 * r] ? all[2 * r] : t->agreed; }
    }
    free(all);
    return !left;
}

// Losses of every pass over the validation rows into state; 0 if a signal came in between, to any rank.
static inline int trainer_validate(Trainer* t) {
    TrainerState* s = &t->state;
    size_t T = (size_t)t->T;
    int64_t count = 0, bytes = 0;
    int counted = 1, left = 0;  // the bytes of every target are known
    size_t batch_losses = (size_t)(s->passes * t->B), rank_losses = t->val_slots * batch_losses;
    double* mine = t->row_losses + (size_t)ranks.rank * rank_losses;
    memset(mine, 0, rank_losses * sizeof(double));
    memset(t->loss_sums, 0, (size_t)s->passes * sizeof(double));
    for (int64_t row = 0, batch = 0; row < s->val_rows; row += t->B, batch++) {
        if (ranks_called()) {
            left = 1;
            break;
        }
        int rows = trainer_micro_rows(t, row, s->val_rows);
        ranks_alike(1);  // all read all rows
        for (int i = 0; i < rows; i++) {
            shards_row(t->val, (uint64_t)(row + i), t->inputs + (size_t)i * T, t->targets + (size_t)i * T);
        }
        ranks_alike(0);
        for (size_t j = 0; j < (size_t)rows * T; j++) {
            if (t->targets[j] < 0) { continue; }
            size_t size = tokenizer_bytes(t->tokenizer, t->targets[j]);
            count++, bytes += (int64_t)size, counted &= size > 0;
        }
        if (batch % ranks.count != ranks.rank) { continue; }
        // The last batch is filled up, and rows are added in their order: so the bits of a loss depend on B, not on how
        // many ranks there are.
        memset(t->inputs + (size_t)rows * T, 0, (size_t)(t->B - rows) * T * sizeof(int));
        memset(t->targets + (size_t)rows * T, 0xff, (size_t)(t->B - rows) * T * sizeof(int));
        double* losses = mine + (size_t)(batch / ranks.count) * batch_losses;
        t->model->evaluate(t->model, t->inputs, t->targets, t->B, t->T, losses);
        for (size_t i = 0; i < batch_losses; i++) {
            if (!isfinite(losses[i])) { trainer_die_nonfinite(t, "validation loss", losses[i], s->step, t->B); }
        }
        ranks_progress(s->step);
    }
    if (!trainer_agree(t, left)) { return 0; }
    if (ranks.count > 1) { ranks_gather(mine, rank_losses * sizeof(double), t->row_losses, "losses of a validation"); }
    for (int64_t row = 0, batch = 0; row < s->val_rows; row += t->B, batch++) {
        const double* losses =
            t->row_losses + (size_t)(batch % ranks.count) * rank_losses + (size_t)(batch / ranks.count) * batch_losses;
        for (size_t i = 0; i < batch_losses; i++) { t->loss_sums[i / (size_t)t->B] += losses[i]; }
    }
    ranks_alike(1);
    if (count == 0) { die("--val: no target to validate on, all are marked as ignored"); }
    ranks_alike(0);
    for (int i = 0; i < s->passes; i++) { s->val_loss_pass[i] = t->loss_sums[i] / (double)count; }
    s->val_loss = s->val_loss_pass[s->passes - 1];
    s->val_step = s->step;
    s->val_bytes = counted ? (double)bytes / (double)count : 0;
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
    double bytes = s->val_bytes;
    if (bytes == 0 && t->tokenizer && tokenizer_is_bytes(t->tokenizer)) { bytes = 1; }
    if (bytes > 0) { printf("bits_per_byte %.6f\n", s->val_loss / log_d(2) / bytes); }
    for (int i = 0; i < s->passes; i++) { printf("val_loss_pass %d %.6f\n", i, s->val_loss_pass[i]); }
}

// ---- saving ----

// Dies unless all ranks have the same weights, of which each has a copy here, or on its GPU.
static inline void trainer_check_ranks(const Trainer* t) {
    size_t bytes = t->model->tensors.total * sizeof(real);
    uint64_t hash = t->model->hash ? t->model->hash(t->model) : hash_bytes(HASH_START, t->model->params, bytes);
    uint64_t* all = (uint64_t*)xalloc((size_t)ranks.count, sizeof hash, "hashes of ranks");
    ranks_gather(&hash, sizeof hash, all, "hashes of the weights");
    ranks_alike(1);
    for (int r = 1; r < ranks.count; r++) {
        if (all[r] == all[0]) { continue; }
        char names[2][128];
        die("after step %lld %s has other weights (hash %016llx) than %s (hash %016llx): the ranks have come apart; "
            "nothing was saved, go on from the last checkpoint by --resume",
            (long long)t->state.step, rank_name(names[0], sizeof names[0], r), (unsigned long long)all[r],
            rank_name(names[1], sizeof names[1], 0), (unsigned long long)all[0]);
    }
    ranks_alike(0);
    printf("weights of all %d ranks have hash %016llx\n", ranks.count, (unsigned long long)all[0]);
    free(all);
}

// saved: 1 if the checkpoint of this step was written, which rank 0 tells the others: all try again, or none does.
static inline void trainer_note_saved(Trainer* t, int saved) {
    if (ranks.count > 1 && !t->dying) { ranks_share(&saved, sizeof saved, "whether the checkpoint was written"); }
    if (saved) { t->saved_step = t->state.step; }
}

// Writes a checkpoint of the last whole step, unless there is one. NULL, or what went wrong (the caller frees it).
static inline char* trainer_try_save(Trainer* t) {
    if (t->saved_step == t->state.step) { return NULL; }
    Model* model = t->model;
    if (model->download) { model->download(model, t->m, t->v); }
    if (ranks.count > 1 && !t->dying) { trainer_check_ranks(t); }
    if (!ranks_talks()) {
        trainer_note_saved(t, 0);
        return NULL;
    }
    SaveFiles files = save_files(t);
    metrics_flush(&t->metrics);
    char* error = checkpoint_try_write(t->out, t->state.step, &model->tensors, (const float*)(const void*)model->params,
                                       (const float*)(const void*)t->m, (const float*)(const void*)t->v, files.list,
                                       files.count, (int)options_int(&t->options, "keep"));
    save_free(&files);
    trainer_note_saved(t, !error);
    return error;
}

// The same, or dies; but where the run goes on a full disk is no reason to end it.
static inline void trainer_save(Trainer* t, int goes_on) {
    trainer_guard(t, 0);  // an error here would save again
    char* error = trainer_try_save(t);
    if (error) {
        const real* families[] = {t->model->params, t->m, t->v};
        size_t n = t->model->tensors.total;
        for (int i = 0; i < 3; i++) { goes_on = goes_on && row_finite(families[i], n); }  // those never can be saved
        if (!goes_on) { die("%s", error); }
        warn(
            "%s. The run goes on; the next checkpoint comes with the next multiple of --save-every %lld, or at the end",
            error, (long long)options_int(&t->options, "save-every"));
        free(error);
    }
    trainer_guard(t, 1);
}

// ---- samples ----

static inline void trainer_sample(Trainer* t) {
    int count = (int)options_int(&t->options, "sample-tokens");
    if (count == 0) { return; }
    int bad = 0;
    int n = sample_text(&t->sampler, t->model, t->prompt, t->prompt_length, count, tokenizer_eot(t->tokenizer),
                        t->state.step, &ranks.signal, t->sampled, &bad);
    if (bad) { trainer_die_nonfinite(t, "largest logit of a sample", (double)NAN, t->state.step, 1); }
    printf("---- sample after step %lld: prompt ----\n", (long long)t->state.step);
    sample_print(t->tokenizer, t->prompt, t->prompt_length, 1, stdout);
    printf("\n---- continued ----\n");
    sample_print(t->tokenizer, t->sampled, (size_t)n, 0, stdout);
    printf("\n----\n");
    if (n < count && t->prompt_length + (size_t)n == (size_t)t->T) {
        printf("the context of %d tokens is full\n", t->T);
    }
    trainer_printed(t);
}

// ---- one step ----

// With several ranks: adds the gradients of all; *loss = the sum of their losses, in the order of ranks. A signal on any
// of them, and the time that rank 0 sees running out, are told here: all stop after this very step, or, where one has left
// it (left), without it. Returns 0 then: what was added is of no use. begin: now_seconds() when this rank began the step.
static inline int trainer_reduce(Trainer* t, double* loss, double begin, int left) {
    double mine[RANK_NUMBERS] = {*loss, (double)ranks_called(), 0, 1000 * (now_seconds() - begin), (double)left};
    double minutes = options_set(&t->options, "max-minutes") ? options_number(&t->options, "max-minutes") : INFINITY;
    if (ranks_talks() && now_seconds() - t->started >= 60 * minutes) { mine[2] = 1; }
    double* all = (double*)xalloc((size_t)ranks.count * RANK_NUMBERS, sizeof(double), "losses of ranks");
    ranks_wait(1);
    t->model->reduce(t->model, mine, all);
    ranks_wait(0);
    *loss = 0;
    t->slowest = (MetricsRanks){ranks.count, 0, 0};
    for (int r = 0; r < ranks.count; r++) {
        double ms = all[RANK_NUMBERS * r + 3];
        *loss += all[RANK_NUMBERS * r];
        left |= all[RANK_NUMBERS * r + 4] != 0;
        if (ms > t->slowest.ms) { t->slowest.slowest = r, t->slowest.ms = ms; }
        if (!t->agreed) { t->agreed = (int)all[RANK_NUMBERS * r + 1]; }
    }
    if (!t->agreed && all[2] != 0) { t->agreed = RANKS_OUT_OF_TIME; }
    free(all);
    return !left;
}

// Forward and backward of all micro-batches of the step: grads = gradient of the mean loss, *loss =
// that mean. Returns 0 if a signal came in between, to any rank.
static inline int trainer_gradient(Trainer* t, double* loss) {
    Model* model = t->model;
    double begin = now_seconds();
    ranks_alike(1);  // all read all rows of a step
    int64_t count = trainer_load_step(t);
    ranks_alike(0);
    model_zero_grads(model);
    double sum = 0;
    int left = 0;
    int64_t first = (int64_t)ranks.rank * t->B, next = (int64_t)ranks.count * t->B;  // of this rank's micro-batches
    for (int64_t row = first; row < t->step_rows; row += next) {
        left = ranks_called() != 0;
        if (left) { break; }
        int rows = trainer_micro_rows(t, row, t->step_rows);
        size_t at = (size_t)row * (size_t)t->T;
        sum += model_train(model, t->inputs + at, t->targets + at, rows, t->T, 1.0 / (double)count);
        work_goes_on();  // the GPU is at most two behind
        if (!isfinite(sum)) { trainer_die_nonfinite(t, "loss", sum, t->state.step + 1, rows); }
    }
    if (left && ranks.count == 1) { return 0; }
    int bad;
    sum += model_finish(model, &bad);
    if (!left && !isfinite(sum)) {  // known only now: that micro-batch once more, so that the search sees what it left
        int64_t row = first + (bad > 0 ? (int64_t)bad * next : 0);
        int rows = trainer_micro_rows(t, row, t->step_rows);
        size_t at = (size_t)row * (size_t)t->T;
        model->train(model, t->inputs + at, t->targets + at, rows, t->T, 1.0 / (double)count);
        trainer_die_nonfinite(t, "loss", sum, t->state.step + 1, rows);
    }
    if (ranks.count > 1 && !trainer_reduce(t, &sum, begin, left)) { return 0; }
    *loss = sum / (double)count;
    return 1;
}

static inline double trainer_lr(const Trainer* t, int64_t step) {
    const OptionTable* o = &t->options;
    return schedule_lr(options_text(o, "schedule"), options_number(o, "lr"), options_number(o, "min-lr-ratio"),
                       t->warmup_steps, t->state.total_steps, step);
}

// FLOPs of the training so far.
static inline double trainer_flops(const Trainer* t) { return t->flops_per_token * (double)t->state.tokens; }

// One optimiser step with its metrics and progress line; 0 if a signal came, and nothing has changed.
static inline int trainer_step(Trainer* t) {
    const OptionTable* o = &t->options;
    Model* model = t->model;
    TrainerState* s = &t->state;
    double begin = now_seconds(), loss = 0;
    if (!trainer_gradient(t, &loss)) { return 0; }
    ranks_alike(1);  // gradients are the same on all by now
    double norm = model_grad_norm(model);
    if (!isfinite(norm)) {
        trainer_die_nonfinite(t, "gradient norm", norm, s->step + 1, trainer_micro_rows(t, 0, t->step_rows));
    }
    ranks_alike(0);
    double scale = clip_scale(norm, options_number(o, "clip"));
    double lr = trainer_lr(t, s->step);
    AdamwStep step = adamw_step(scale, lr, options_number(o, "beta1"), options_number(o, "beta2"),
                                options_number(o, "eps"), options_number(o, "weight-decay"), s->step + 1);
    trainer_guard(t, 0);
    model_update(model, t->m, t->v, &step);
    double seconds = now_seconds() - begin;

    s->step++;
    s->tokens += s->total_batch;
    s->position += t->step_rows;
    s->seconds += seconds;
    trainer_guard(t, 1);
    t->step_seconds = t->step_seconds > 0 ? 0.9 * t->step_seconds + 0.1 * seconds : seconds;
    t->line_seconds += seconds;
    t->line_steps++;
    if (s->step % options_int(o, "log-every") != 0 && s->step < s->total_steps) { return 1; }
    seconds = t->line_seconds / (double)t->line_steps;
    t->line_seconds = 0;
    t->line_steps = 0;
    double rate = (double)s->total_batch / seconds;
    double peak = trainer_peak_flops(t), flops = rate * t->flops_per_token;
    if (!model->prepare && peak > 0 && flops > peak) {  // then it is no peak
        MachinePeak* limit = products_kernel()->peak;
        machine_measure_peak(limit, 0.3);
        if (flops > trainer_peak_flops(t)) { machine_reading(&limit->limit, flops); }
        peak = trainer_peak_flops(t);
    }
    double utilisation = peak > 0 && (model->prepare || flops <= peak) ? flops / peak : 0;
    metrics_step(&t->metrics, s->step, s->tokens, loss, lr, norm, 1000 * seconds, rate, utilisation, trainer_flops(t),
                 ranks.count > 1 ? &t->slowest : NULL);
    char tokens[32], left[32], share[32] = "peak not known";
    if (utilisation > 0) { snprintf(share, sizeof share, "%.1f %% of peak", 100 * utilisation); }
    printf("step %*lld of %lld | loss %.4f | norm %.3g | lr %.2e | %.0f ms | %s tok/s | %s | %s left\n",
           snprintf(NULL, 0, "%lld", (long long)s->total_steps), (long long)s->step, (long long)s->total_steps, loss,
           norm, lr, 1000 * seconds, format_count(tokens, rate), share,
           format_time(left, t->step_seconds * (double)(s->total_steps - s->step)));
    trainer_printed(t);
    return 1;
}

// ---- --dump ----

// Tokens, losses of the passes and the gradient of the whole step; logits of its first micro-batch.
static inline void trainer_dump(Trainer* t, const char* dir) {
    Model* model = t->model;
    char* error = directory_make(dir);
    if (error) { die("--dump %s: %s", dir, error); }
    int64_t count = trainer_load_step(t);
    int rows = trainer_micro_rows(t, 0, t->step_rows);
    size_t positions = (size_t)rows * (size_t)t->T;

    size_t numbers = (size_t)t->step_rows * (size_t)t->T;
    int64_t* tokens = (int64_t*)xalloc(2 * numbers, sizeof(int64_t), "the tokens");
    for (size_t i = 0; i < numbers; i++) { tokens[i] = t->inputs[i], tokens[numbers + i] = t->targets[i]; }
    const SafeWrite pair[] = {
        {"inputs", 2, {(size_t)t->step_rows, (size_t)t->T, 0, 0}, NULL, tokens},
        {"targets", 2, {(size_t)t->step_rows, (size_t)t->T, 0, 0}, NULL, tokens + numbers},
    };
    char* path = format_string("%s/tokens.safetensors", dir);
    safetensors_write(path, pair, 2, NULL);
    free(path);
    free(tokens);

    real* logits = (real*)xalloc(mul_size(positions, (size_t)model->V, "the logits"), sizeof(real), "the logits");
    model->logits(model, t->inputs, rows, t->T, 0, logits);
    const SafeWrite all = {
        "logits", 3, {(size_t)rows, (size_t)t->T, (size_t)model->V, 0}, (const float*)(const void*)logits};
    path = format_string("%s/logits.safetensors", dir);
    safetensors_write(path, &all, 1, NULL);
    free(path);
    free(logits);

    memset(t->loss_sums, 0, (size_t)model->passes * sizeof(double));
    for (int64_t row = 0; row < t->step_rows; row += t->B) {
        size_t at = (size_t)row * (size_t)t->T;
        model_evaluate(model, t->inputs + at, t->targets + at, trainer_micro_rows(t, row, t->step_rows), t->T,
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
    printf("loss %.9g, gradient norm %.9g\nwrote %s/logits.safetensors (%d rows), grads.safetensors, loss.safetensors, "
           "tokens.safetensors (%lld rows)\n",
           loss, grad_norm(&model->tensors, model->grads), dir, rows, (long long)t->step_rows);
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
    output_flush();
}

// 1 if step n ends with a validation.
static inline int trainer_validates(const Trainer* t, int64_t n) {
    int64_t every = options_int(&t->options, "val-every");
    return t->val && (n == 0 || n >= t->state.total_steps || (every > 0 && n % every == 0));
}

// What stops the run, 0: nothing. One rank follows its own signals, several what all have agreed on.
static inline int trainer_stops(const Trainer* t, int in_time) {
    if (ranks.count > 1) { return t->agreed; }
    return trainer_signal ? (int)trainer_signal : in_time ? 0 : RANKS_OUT_OF_TIME;
}

// Steps until the end of the run; returns the exit status.
static inline int trainer_run(Trainer* t) {
    TrainerState* s = &t->state;
    int64_t save_every = options_int(&t->options, "save-every"),
            sample_every = options_int(&t->options, "sample-every");
    double minutes = options_set(&t->options, "max-minutes") ? options_number(&t->options, "max-minutes") : INFINITY;
    int first = 1, in_time = 1;
    trainer_guard(t, 1);
    for (;; first = 0) {
        int last = s->step >= s->total_steps;
        if (trainer_agreed_signal(t)) { break; }  // no validation in between
        // By the run that is resumed, though its checkpoint may not know; not if it was on other data.
        int written = first && t->metrics.validated && !t->val_anew;
        if (trainer_validates(t, s->step) && !(written && s->val_step == s->step)) {
            if (!trainer_validate(t)) { break; }
            if (first && t->val_anew) {  // only now the line that is there is taken out
                if (ranks_talks()) {
                    close(t->metrics.fd);
                    metrics_open(&t->metrics, t->out, s->step, 1);
                }
            }
            if (!written) {
                metrics_validation(&t->metrics, s->step, s->val_loss, s->val_loss_pass, s->passes, trainer_flops(t));
            }
            printf("validation after step %lld: loss %.4f (best %.4f)\n", (long long)s->step, s->val_loss,
                   s->best_val_loss);
            trainer_printed(t);
            if (!t->model->prepare) {
                machine_measure_peak(products_kernel()->peak, 0.05);
            }  // the first readings may have been disturbed
        }
        if (last || (save_every > 0 && s->step > 0 && s->step % save_every == 0)) { trainer_save(t, !last); }
        if (ranks_talks() && (last || (sample_every > 0 && s->step > 0 && s->step % sample_every == 0))) {
            trainer_sample(t);
        }
        in_time = first ||
                  now_seconds() - t->started < 60 * minutes;  // at least one step, so that repeating it gets somewhere
        ranks_progress(s->step + 1);
        if (last || trainer_stops(t, in_time) || !trainer_step(t)) { break; }
    }
    int why_number = trainer_stops(t, in_time);
    int by_signal = why_number && why_number != RANKS_OUT_OF_TIME;
    int stopped = s->step < s->total_steps || by_signal;
    if (stopped && s->step > 0) { trainer_save(t, 0); }
    trainer_guard(t, 0);
    metrics_end(&t->metrics);
    if (stopped) {
        const char* why = why_number == SIGINT    ? "SIGINT"
                          : why_number == SIGTERM ? "SIGTERM"
                          : by_signal             ? "SIGHUP"
                                                  : "--max-minutes";
        printf("stopped by %s after step %lld of %lld, %s; --resume goes on\n", why, (long long)s->step,
               (long long)s->total_steps, s->step > 0 ? "which is saved" : "nothing to save yet");
        return by_signal ? 128 + why_number : 0;
    }
    trainer_print_results(t);
    return 0;
}

// 1 if the checkpoint is the end of the run and its results are known, on the validation data that there is now; then
// it has said so. Data that went away since takes nothing from them.
static inline int trainer_is_finished(Trainer* t) {
    const TrainerState* s = &t->state;
    const OptionTable* o = &t->options;
    const char* val = options_text(o, "val");
    if (s->step < s->total_steps) { return 0; }
    int gone = val && !options_given(o, "val") && !options_given(o, "val-batches") && !shards_there(val);
    if (!gone) { trainer_open_validation(t); }
    if (s->val_rows > 0 && s->val_step != s->step) { return 0; }
    trainer_open_tokenizer(t);
    if (gone) { printf("the validation data, --val %s, is not here any more: it was not compared\n", val); }
    if (t->changed.size) {
        printf("changed since the run was started, too late to have an effect\n%s", t->changed.data);
    }
    if (s->step > s->total_steps) {
        printf("finished: step %lld, beyond the %lld steps of this command\n", (long long)s->step,
               (long long)s->total_steps);
    } else {
        printf("finished: step %lld of %lld\n", (long long)s->step, (long long)s->total_steps);
    }
    trainer_print_results(t);
    return 1;
}

// A run whose only step has a learning rate of 0 is most likely somebody's first try.
static inline void trainer_warn_of_rate(const Trainer* t) {
    if (t->state.step > 0 || t->state.total_steps != 1 || t->warmup_steps == 0 || !ranks_talks()) { return; }
    warn("nothing will be learnt: the warm-up begins with a learning rate of 0, and this run has one step; give more "
         "--steps, or --warmup-steps 0");
}

// GPUs that have no row of any step.
static inline void trainer_warn_of_idle_ranks(const Trainer* t) {
    int64_t parts = (t->step_rows + t->B - 1) / t->B;
    if (parts >= ranks.count || !ranks_talks()) { return; }
    warn("a step of %lld rows is %lld micro-batch%s of %d, for %d ranks: %d of the GPUs have nothing to compute; take "
         "fewer, "
         "give a smaller --batch, or start a run with a larger --total-batch",
         (long long)t->step_rows, (long long)parts, parts == 1 ? "" : "es", t->B, ranks.count,
         ranks.count - (int)parts);
}

// One process, or all ranks of a run.
static inline void trainer_begin_ranks(Trainer* t) {
    if (!GPU) { return; }
    ranks_begin(&t->options, t->kind->program);
    if (ranks.count == 1) { return; }
    ranks_alike(1);
    static const char* const alone[] = {"dump", "compare-cpu", "generate", "explain"};
    for (int i = 0; i < 4; i++) {
        if (options_given(&t->options, alone[i])) {
            die("--%s is for one GPU, here are %d ranks", alone[i], ranks.count);
        }
    }
    if (!ranks_talks() && !freopen("/dev/null", "w", stdout)) { die("/dev/null: %s", strerror(errno)); }
}

// A whole program, but for what is said of its output at the end.
static inline int trainer_program(int argc, char** argv, const ModelClass* kind) {
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
    precision_enter(&t->options, kind->program, t->out, argc, argv);
    t->command = command_line(argc, argv);
    trainer_plan_ranks(t);
    if (!options_given(&t->options, "plan")) { trainer_begin_ranks(t); }
    trainer_warn_of_unused(t);
    trainer_catch_signals();
    trainer_find_checkpoint(t);
    trainer_find_model(t);
    if (options_given(&t->options, "plan") && options_given(&t->options, "generate")) {
        trainer_print_token(t);
        return 0;
    }
    if (options_given(&t->options, "generate")) { return trainer_generate(t, &trainer_signal, &trainer_under_way); }
    if (options_given(&t->options, "explain")) { return trainer_explain(t, &trainer_signal); }
    trainer_size_step(t);
    if (options_given(&t->options, "plan")) {
        trainer_choose_batch(t);
        trainer_print_plan(t);
        return 0;
    }
    int eval_only = options_given(&t->options, "eval-only");
    const char* dump = options_text(&t->options, "dump");
    if (t->checkpoint && !trainer_only_looks(t)) {
        trainer_size_run(t, t->state.rows);
        if (trainer_is_finished(t)) {
            ranks_end();
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
    if (!eval_only && !dump) { trainer_warn_of_rate(t), trainer_warn_of_idle_ranks(t); }
    trainer_allocate(t, !eval_only);
    if (eval_only) { trainer_round_weights(t, stdout); }
    if (GPU && options_given(&t->options, "compare-cpu")) {
        int64_t count = trainer_load_step(t);
        int rows = trainer_micro_rows(t, 0, t->step_rows);
        return t->model->compare_cpu(t->model, t->inputs, t->targets, rows, t->T, count);
    }
    trainer_under_way = eval_only || dump != NULL;
    if (eval_only) {
        ranks_alike(0);
        int validated = trainer_validate(t);
        if (validated) { trainer_print_losses(t); }
        ranks_end();
        return validated ? 0 : 128 + trainer_stops(t, 1);
    }
    if (dump) {
        trainer_dump(t, dump);
        return 0;
    }
    trainer_prepare_samples(t);
    save_prepare(t);
    card_note_command(t);
    if (ranks_talks()) { metrics_open(&t->metrics, t->out, t->checkpoint ? t->state.step : -1, 0); }
    if (ranks.count > 1) {
        ranks_share(&t->metrics.validated, sizeof t->metrics.validated, "what is in the metrics");
        t->metrics.off = !ranks_talks();
    }
    if (t->checkpoint) { t->saved_step = t->state.step; }
    if (t->model->rehearse) {
        char* choices = format_string("%s/products.txt", t->out);
        // The first rank chooses, the others take its choices.
        if (ranks_talks()) { t->model->rehearse(t->model, choices, NULL, t->step_rows); }
        if (ranks.count > 1) {
            size_t size = 0;
            char* text = ranks_talks() && S_ISREG(file_mode(choices)) ? read_fully(choices, &size) : NULL;
            text = share_bytes(text, &size, "the choice of algorithms");
            if (!ranks_talks()) { t->model->rehearse(t->model, choices, text ? text : "", t->step_rows); }
            free(text);
        }
        free(choices);
    }
    trainer_under_way = 1;
    ranks_alike(0);
    int status = trainer_run(t);
    ranks_end();
    return status;
}

// A whole program: the exit status of main(). One run a process.
static inline int trainer_main(int argc, char** argv, const ModelClass* kind) {
    if (GPU) { threads_wait_briefly(argv); }  // on the CPU dispatch.c has
    output_begin();
    return output_end(trainer_program(argc, argv, kind));
}

#endif

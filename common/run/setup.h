// setup.h - from the command line to a run that is ready to step: options, where the model comes
// from, the numbers of a step, memory, and the banner that tells all of it.
#ifndef PONDER_SETUP_H
#define PONDER_SETUP_H

#include "../adamw.h"
#include "../files/checkpoint.h"
#include "../files/shards.h"
#include "../files/tokenizer.h"
#include "../ledger.h"
#include "../machine.h"
#include "../matmul.h"
#include "../model.h"
#include "../scaling.h"
#include "log.h"
#include "ranks.h"
#include "resume.h"
#include "sample.h"
#include "share.h"
#include "threads.h"
#include "train_options.h"

// What a program trains, as main() hands it to trainer_main().
typedef struct ModelClass ModelClass;
struct ModelClass {
    const char* program;         // "train_X"
    const char* default_preset;  // of --model
    const char* const* presets;  // NULL-terminated, for help and errors
    // Adds the options that belong to the model.
    void (*add_options)(OptionTable* options);
    // Makes a model without allocating its memory. Exactly one of preset and config is not NULL.
    // Options given on the command line override config and preset. B rows of T positions; T = 0: as
    // many as the model is made for (max_position_embeddings), which its T then says.
    // Dies, in words, on shapes that do not fit.
    Model* (*create)(const ModelClass* kind, const OptionTable* options, const char* preset, const Json* config,
                     const char* config_path, int B, int T);
};

typedef struct {
    const ModelClass* kind;
    OptionTable options;
    const char* out;
    double started;         // now_seconds() at the start of the program
    char* command;          // the command line, as one would type it again
    StringBuilder changed;  // options that differ from those of the run that is resumed

    // where the model comes from: exactly one of preset and config is not NULL
    const char* preset;
    Json* config;
    char* config_path;
    char* weights;     // directory of the weights; NULL: they are initialised
    char* checkpoint;  // of OUT, when it is resumed; then also `weights`
    Json* stored;      // its trainer_state.json
    char* stored_path;

    char* generation;  // generation_config.json beside `config`, NULL: none
    size_t generation_size;

    Model* model;
    Tokenizer* tokenizer;
    Shards* train;  // NULL without --train
    Shards* val;    // NULL without --val
    int val_anew;   // validation data or rows are others than those of the run that is resumed
    int B, T;
    int chosen;         // 1: B was not given, but follows from shapes and the card
    int64_t step_rows;  // rows of a step: the total batch / T
    int64_t warmup_steps;
    double flops_per_token;
    TrainerState state;
    Metrics metrics;

    real* m;            // family: first moments
    real* v;            // family: second moments
    int* inputs;        // (step_rows,T), and at least (B,T) for validation
    int* targets;       // the same
    double* loss_sums;  // (passes)
    MetricsRanks slowest;
    int agreed;          // with several ranks: the signal (or RANKS_OUT_OF_TIME) on which all of them stop, 0: none
    double* row_losses;  // (ranks,val_slots,passes,B) of a validation
    size_t val_slots;    // batches of validation that a rank has at most
    int* prompt;         // (prompt_length) tokens that samples begin with
    size_t prompt_length;
    int* sampled;  // (sample_tokens)
    Sampler sampler;

    int64_t saved_step;   // of the newest checkpoint that holds all we know; -1: none
    double step_seconds;  // smoothed
    double line_seconds;  // of the steps since the last line of the metrics,
    int64_t line_steps;   // which are so many
    int dying;            // 1: die() saves the last whole step
    int unheard;          // 1: standard output cannot be written, and that was said
} Trainer;

// Of a step and of a batch of validation where no --batch says it: what they are must not depend on the card.
enum { USUAL_ROWS = 8 };

// The share of the peak that is printed at every step refers to this; 0: not known.
static inline double trainer_peak_flops(const Trainer* t) {
    return t->model->prepare ? t->model->peak_flops : machine_peak_flops(products_kernel()->peak);
}

// ---- options ----

// 1 if this invocation only looks: it writes nothing into --out.
static inline int trainer_only_looks(const Trainer* t) {
    return options_given(&t->options, "eval-only") || options_given(&t->options, "plan") ||
           options_prompts(&t->options) || options_given(&t->options, "dump") ||
           (GPU && options_given(&t->options, "compare-cpu"));
}

// Parses the command line.
static inline void trainer_parse(Trainer* t, int argc, char** argv) {
    StringBuilder presets = {0}, usage = {0};
    for (int i = 0; t->kind->presets[i]; i++) { sb_printf(&presets, "%s%s", i ? ", " : "", t->kind->presets[i]); }
    sb_printf(&usage,
              "%s trains a language model.\n"
              "usage: %s --train GLOB [--val GLOB] [--name value | --name=value ...]\n"
              "N is a whole number, X any number. Of an option given twice, the later one counts.",
              t->kind->program, t->kind->program);
    t->options.usage = usage.data;
    t->options.others =
        format_string(GPU ? "the CPU program, build/%s" : "the GPU programs, build/%s_cuda", t->kind->program);
    char* help = format_string("what to train: a preset (%s; " PRESET_PREFIX
                               "NAME where a directory has that name too), or a directory with config.json and "
                               "model.safetensors to start from",
                               presets.data);
    trainer_options(&t->options, format_string("NAME|DIR"), help, t->kind->default_preset);
    t->kind->add_options(&t->options);
    free(presets.data);
    options_parse(&t->options, argc, argv);
    if (options_given(&t->options, "help")) {
        options_help(&t->options, stdout);
        exit(output_end(0));
    }
    static const char* const lengths[] = {"steps", "epochs"};
    for (int i = 0; i < 2; i++) {
        if (!options_given(&t->options, "flops") || !options_given(&t->options, lengths[i])) { continue; }
        die("--flops %s and --%s %s: both say how long the run is; give one of them",
            options_text(&t->options, "flops"), lengths[i], options_text(&t->options, lengths[i]));
    }
    static const char* const ends[] = {"eval-only", "dump", "generate", "explain", "compare-cpu"};
    const char* card = GPU && options_given(&t->options, "plan") ? options_text(&t->options, "plan") : NULL;
    const int token = card && card[0] && options_given(&t->options, "generate");  // the plan of a decoded token
    const char* one = options_given(&t->options, "plan") && options_prompts(&t->options) && !token ? "plan" : NULL;
    for (int i = 0; i < (GPU ? 5 : 4); i++) {
        int given = i == 1 ? options_text(&t->options, "dump") != NULL : options_given(&t->options, ends[i]);
        if (given && one) { die("--%s and --%s: each is all that the program does; give one of them", one, ends[i]); }
        if (given) { one = ends[i]; }
    }
    if (options_round_weights(&t->options) && !options_prompts(&t->options) &&
        !options_given(&t->options, "eval-only")) {
        die("--weights bf16: expected with it --generate, --explain or --eval-only; everything else needs the weights "
            "in fp32");
    }
    t->out = options_text(&t->options, "out");
    if (t->out[0] == 0) { die("--out '': expected a directory"); }
}

// Options that were given in vain are more often a misunderstanding than a habit.
static inline void trainer_warn_of_unused(const Trainer* t) {
    char* unused = options_unused(&t->options);
    const char* what = options_prompts(&t->options);
    if (unused && ranks_talks()) {
        warn("%s: not used %s--%s%s", unused, what ? "by " : "without ", what ? what : "generate",
             what ? "" : " or --explain");
    }
    free(unused);
}

// ---- where the model comes from ----

// With --resume: the newest checkpoint in --out, its state and its options.
static inline void trainer_find_checkpoint(Trainer* t) {
    int resume = options_given(&t->options, "resume"), looks = trainer_only_looks(t);
    if (!looks && ranks_talks()) {
        lock_out(t->out);
        checkpoint_clean(t->out);
    }
    if (!resume && looks) { return; }
    if (ranks_talks()) { t->checkpoint = looks ? checkpoint_look(t->out) : checkpoint_newest(t->out); }
    t->checkpoint = share_text(t->checkpoint, "the newest checkpoint");
    if (!resume) {
        if (t->checkpoint) {
            die("--out %s holds a run already (%s); go on with it by --resume, or choose another --out", t->out,
                t->checkpoint);
        }
        char* path = format_string("%s/metrics.jsonl", t->out);
        struct stat info;
        if (ranks_talks() && stat(path, &info) == 0 && info.st_size > 0) {
            die("%s is left from another run; start that anew by --resume, or choose another --out", path);
        }
        free(path);
        return;
    }
    if (!t->checkpoint) {
        if (looks) { die("--resume: --out %s holds no checkpoint", t->out); }
        printf("--resume: no checkpoint in %s yet, starting at step 0\n", t->out);
        return;
    }
    t->stored_path = format_string("%s/trainer_state.json", t->checkpoint);
    t->stored = share_json(t->stored_path, "the state of the run");
    t->state = state_read(t->stored, t->stored_path);
    if (t->state.step != checkpoint_step(t->checkpoint)) {
        die("%s: expected \"step\" to be that of the directory, found %lld", t->stored_path, (long long)t->state.step);
    }
    if (options_prompts(&t->options)) {  // its seed and lengths are none of the run's
        precision_settle(&t->options, NULL);
        return;
    }
    const char* how = options_text(&t->options, "resume");
    if (how && how[0]) { state_check_same(t->stored, t->stored_path, t->out, &t->options, ranks_of_step()); }
    state_restore_options(t->stored, t->stored_path, &t->options, &t->changed, &t->state.altered);
    precision_settle(&t->options, &t->state.altered);
}

// An option of the model that is given when a run is resumed may repeat what the model is, not change it.
static inline void trainer_check_same_model(Trainer* t) {
    const Option* given = NULL;
    for (int i = 0; i < t->options.count; i++) {
        const Option* o = &t->options.rows[i];
        if (o->given && strcmp(o->group, "model") == 0 && o->resume != RESUME_RUN) { given = o; }
    }
    if (!given) { return; }
    char* text = t->model->config_json(t->model);
    Json* now = json_parse(text, strlen(text), "config.json");
    for (int i = 0; i < now->count; i++) {
        const Json* then = json_get(t->config, now->keys[i]);
        // A key that is not there, the version that wrote it did not have.
        if (then && !json_same(now->items[i], then)) {
            die("--resume with --%s %s: it would change \"%s\" to %s; %s has %s", given->name, given->text,
                now->keys[i], json_describe(now->items[i]), t->config_path, json_describe(then));
        }
    }
    json_free(now);
    free(text);
}

// Makes the model (without memory) from the checkpoint, a directory or a preset.
static inline void trainer_find_model(Trainer* t) {
    const char* name = options_text(&t->options, "model");
    for (int i = 0; t->kind->presets[i] && !t->checkpoint; i++) {
        if (strcmp(t->kind->presets[i], preset_name(name)) == 0) { t->preset = t->kind->presets[i]; }
    }
    if (ranks_talks() && t->preset && preset_name(name) == name && options_given(&t->options, "model")) {
        char* path = format_string("%s/config.json", name);
        if (access(path, F_OK) == 0) {
            die("--model %s: it is a preset, and a directory with %s; write --model ./%s for the directory, or "
                "--model " PRESET_PREFIX "%s for the preset",
                name, path, name, name);
        }
        free(path);
    }
    if (!t->preset) {
        struct stat info;
        if (ranks_talks() && !t->checkpoint && !strchr(name, '/') &&
            (stat(name, &info) != 0 || !S_ISDIR(info.st_mode))) {
            StringBuilder list = {0};
            for (int i = 0; t->kind->presets[i]; i++) { sb_printf(&list, "%s%s", i ? ", " : "", t->kind->presets[i]); }
            die("--model '%s': expected a directory with config.json, or one of %s", name, list.data);
        }
        t->weights = format_string("%s", t->checkpoint ? t->checkpoint : name);
        t->config_path = format_string("%s/config.json", t->weights);
        t->config = share_json(t->config_path, "the configuration of the model");
        if (t->config->type != JSON_OBJECT) {
            die("%s: expected an object, found %s", t->config_path, json_describe(t->config));
        }
    }
    int prompts = options_prompts(&t->options) != NULL;
    Option* seq = options_row(&t->options, prompts ? "context" : "seq");
    int64_t T = seq->set ? seq->integer : 0, B = prompts ? 1 : USUAL_ROWS;
    if (!prompts && options_set(&t->options, "batch")) { B = options_int(&t->options, "batch"); }
    if (T * B <= INT_MAX) {
        t->model = t->kind->create(t->kind, &t->options, t->preset, t->config, t->config_path, (int)B, (int)T);
    }
    if (T == 0) {
        T = t->model->T;
        char* source = format_string("the length that %s is made for: ", t->preset ? t->preset : t->config_path);
        option_choose(seq, T, source);
        free(source);
    }
    if (T * B > INT_MAX) {
        die("--batch %lld x --seq %lld: a micro-batch can have at most %d tokens", (long long)B, (long long)T, INT_MAX);
    }
    t->B = (int)B;
    t->T = (int)T;
    if (t->checkpoint) { trainer_check_same_model(t); }
    const char *arithmetic = model_arithmetic(t->model), *then = t->state.arithmetic;
    if (then && !resume_same_arithmetic(then, arithmetic)) {
        sb_printf(&t->changed, "  computed in %s (was %s)\n", arithmetic, then);
    }
    t->state.arithmetic = arithmetic;
    for (int i = 0; i < t->model->flops_rows; i++) { t->flops_per_token += t->model->flops[i].amount; }
}

// ---- the numbers of a step ----

static inline void trainer_size_step(Trainer* t) {
    int64_t T = t->T;
    Option* o = options_row(&t->options, "total-batch");
    if (!o->set) { option_choose(o, T * t->B * ranks_of_step(), ""); }
    int64_t total = o->integer;
    if (total % T != 0) {
        int64_t below = total / T * T;
        char* lower = below ? format_string("%lld or ", (long long)below) : format_string("%s", "");
        die("--total-batch %lld: expected a multiple of --seq %lld; the nearest is %s%lld", (long long)total,
            (long long)T, lower, (long long)(below + T));
    }
    if (total > ((int64_t)1 << 40)) { die("--total-batch %lld: expected at most 2^40 tokens", (long long)total); }
    t->step_rows = total / T;
    t->state.total_batch = total;
}

// The steps that --flops pays for.
static inline int64_t trainer_steps_of_flops(const Trainer* t) {
    double step = t->flops_per_token * (double)t->state.total_batch;
    // The FLOPs of a whole number of steps are that number of steps, whatever the last bit of the quotient.
    double steps = floor(options_number(&t->options, "flops") / step * (1 + 1e-12));
    if (!(steps >= 1 && steps <= 1e15)) {
        die("--flops %s: expected those of 1 to 1e15 steps; a step has %.17g (%lld tokens of %.17g)",
            options_text(&t->options, "flops"), step, (long long)t->state.total_batch, t->flops_per_token);
    }
    return (int64_t)steps;
}

// Rows of a step that a rank has if they are divided evenly, before micro-batches have their size.
static inline int64_t trainer_even_rows(const Trainer* t) {
    return (t->step_rows + ranks_of_step() - 1) / ranks_of_step();
}

// Those that rank 0 has, which are the most: every micro-batch after those of a round of all ranks.
static inline int64_t trainer_rank_rows(const Trainer* t) {
    const int64_t round = (int64_t)ranks_of_step() * t->B, left = t->step_rows % round;
    return t->step_rows / round * t->B + (left < t->B ? left : t->B);
}

// Where no --batch is given the model chooses the rows of a micro-batch, which from then on are the run's like given ones.
static inline void trainer_choose_batch(Trainer* t) {
    Option* o = options_row(&t->options, "batch");
    if (o->set) { return; }
    const char* card = GPU ? options_text(&t->options, "plan") : NULL;
    int training = !options_given(&t->options, "eval-only");
    if (t->model->choose_rows) {
        t->B = t->model->choose_rows(t->model, card ? card : "", training ? trainer_even_rows(t) : t->B, training);
        t->chosen = 1;
    }
    option_choose(o, t->B, "");
}

// The steps of the whole run, from --flops, --steps or else --epochs of `rows` rows.
static inline int64_t trainer_total_steps(const Trainer* t, int64_t rows) {
    if (options_set(&t->options, "flops")) { return trainer_steps_of_flops(t); }
    if (options_set(&t->options, "steps")) { return options_int(&t->options, "steps"); }
    double epochs = options_number(&t->options, "epochs");
    int64_t steps = (int64_t)floor(epochs * (double)rows / (double)t->step_rows);
    if (steps == 0) {
        die("--epochs %s of %lld rows is less than one step of %lld rows; give a smaller --total-batch, or --steps",
            options_text(&t->options, "epochs"), (long long)rows, (long long)t->step_rows);
    }
    return steps;
}

static inline void trainer_size_run(Trainer* t, int64_t rows) {
    t->state.total_steps = trainer_total_steps(t, rows);
    if (options_set(&t->options, "warmup-steps")) {
        t->warmup_steps = options_int(&t->options, "warmup-steps");
    } else {
        t->warmup_steps = schedule_warmup(options_number(&t->options, "warmup-ratio"), t->state.total_steps);
    }
}

// ---- memory ----

// Everything a training run takes, for the memory table; prints it to `file`.
static inline void trainer_print_memory(const Trainer* t, FILE* file) {
    ModelRow rows[24];
    int n = 0;
    double total = 0;
    for (; n < t->model->memory_rows; n++) { rows[n] = t->model->memory[n]; }
    if (!t->model->prepare) {  // on a GPU the model counts them itself
        double family = (double)t->model->tensors.total * sizeof(real);
        rows[n].what = "first moments", rows[n++].amount = family;
        rows[n].what = "second moments", rows[n++].amount = family;
    }
    rows[n].what = "tokens of a step", rows[n++].amount = 2.0 * (double)t->step_rows * t->T * sizeof(int);
    for (int i = 0; i < n; i++) { total += rows[i].amount; }
    fprintf(file, "memory\n");
    char size[32];
    for (int i = 0; i < n; i++) {
        fprintf(file, "  %-32s %14s %5.1f %%\n", rows[i].what, format_megabytes(size, rows[i].amount),
                100 * rows[i].amount / total);
    }
    fprintf(file, "  %-32s %14s\n", "total", format_megabytes(size, total));
}

// FLOPs of a token and of a step, by part.
static inline void trainer_print_work(const Trainer* t, FILE* file) {
    char one[32], step[32];
    double total = t->flops_per_token, tokens = (double)t->state.total_batch;
    fprintf(file, "work, forward and backward %18s %14s\n", "FLOPs a token", "a step");
    for (int i = 0; i < t->model->flops_rows; i++) {
        double amount = t->model->flops[i].amount;
        fprintf(file, "  %-28s %14s %14s %5.1f %%\n", t->model->flops[i].what, format_count(one, amount),
                format_count(step, amount * tokens), 100 * amount / (total > 0 ? total : 1));
    }
    fprintf(file, "  %-28s %14s %14s\n", "total", format_count(one, total), format_count(step, total * tokens));
}

// ---- --plan ----

static const char* const trainer_cluster_options[] = {"plan-machine", "plan-link", "plan-network"};

// With --plan: how many GPUs it is for. Dies where the options of several are given without them.
static inline void trainer_plan_ranks(const Trainer* t) {
    const char* card = options_given(&t->options, "plan") ? options_text(&t->options, "plan") : "";
    if (!GPU) { return; }
    if (options_given(&t->options, "plan")) { ranks_plan(&t->options); }
    for (int i = 0; i < 3; i++) {
        const char* name = trainer_cluster_options[i];
        if (!options_given(&t->options, name) || (card[0] && ranks_of_step() > 1)) { continue; }
        die("--%s %s: expected with it --plan=%s and several GPUs (--gpus N), found %s", name,
            options_text(&t->options, name), card_names(), card[0] ? "one GPU" : "no --plan of a card");
    }
}

// The GPUs of the run that is planned.
static inline Cluster trainer_cluster(const Trainer* t, const char* card) {
    const OptionTable* o = &t->options;
    Cluster c = cluster_of(card_find(card), ranks_of_step());
    c.rows = t->step_rows;
    for (int i = 0; i < 3; i++) {
        const char* name = trainer_cluster_options[i];
        if (!options_given(o, name)) { continue; }
        if (i == 0) { c.machine = (int)options_int(o, name); }
        if (i == 1) { c.link = 1e9 * options_number(o, name); }
        if (i == 2) { c.network = 1e9 * options_number(o, name); }
        size_t used = strlen(c.source);
        snprintf(c.source + used, sizeof c.source - used, "; given: --%s", name);
    }
    return c;
}

static inline void trainer_print_plan(const Trainer* t) {
    char text[32];
    printf("%s, %s: %s parameters in %d tensors\n", t->kind->program, t->weights ? t->weights : t->preset,
           format_count(text, (double)tensor_parameters(&t->model->tensors)), t->model->tensors.count);
    printf("micro-batches of %d rows of %d tokens, %lld tokens a step", t->B, t->T, (long long)t->state.total_batch);
    if (ranks_of_step() > 1) {
        printf(" of %d GPUs with at most %lld rows", ranks_of_step(), (long long)trainer_rank_rows(t));
    }
    printf("\n\n");
    const char* card = options_text(&t->options, "plan");
    if (t->model->print_ledger && card && card[0]) {
        const Cluster cluster = trainer_cluster(t, card);
        t->model->print_ledger(t->model, card, trainer_rank_rows(t), cluster.gpus > 1 ? &cluster : NULL);
    } else {
        if (t->model->prepare) { t->model->prepare(t->model, 1); }
        trainer_print_memory(t, stdout);
    }
    printf("\n");
    trainer_print_work(t, stdout);
    if (options_set(&t->options, "steps") || options_set(&t->options, "flops")) {
        int64_t steps = trainer_total_steps(t, 0);
        char* what = format_string("all steps (%lld)", (long long)steps);
        printf("  %-28s %14s\n", what,
               format_count(text, (double)steps * (double)t->state.total_batch * t->flops_per_token));
        free(what);
    }
}

static inline int trainer_ignores_tensor(const void* context, const char* name) {
    const Model* model = (const Model*)context;
    return model->ignores_tensor ? model->ignores_tensor(model, name) : 0;
}

// Gets all memory of the run and fills in the weights and the optimiser's state.
static inline void trainer_allocate(Trainer* t, int training) {
    Model* model = t->model;
    int reads = t->weights && ranks_talks();
    if (reads && model->other_weights) { die("%s", model->other_weights); }
    // A config.json that asks for more memory than there is gets the better message where its weights do not fit it.
    if (reads) { weights_read(t->weights, &model->tensors, NULL, trainer_ignores_tensor, model); }
    model->allocate(model, training);
    if (reads) {
        weights_read(t->weights, &model->tensors, (float*)(void*)model->params, trainer_ignores_tensor, model);
    } else if (!t->weights) {
        tensor_init(&model->tensors, model->params, (uint64_t)options_int(&t->options, "seed"));
    }
    if (training) {
        t->m = (real*)xalloc(model->tensors.total, sizeof(real), "first moments");
        t->v = (real*)xalloc(model->tensors.total, sizeof(real), "second moments");
        if (reads && t->checkpoint) {
            optimizer_read(t->checkpoint, &model->tensors, (float*)(void*)t->m, (float*)(void*)t->v);
        }
    }
    real* families[] = {t->weights ? model->params : NULL, t->checkpoint ? t->m : NULL, t->checkpoint ? t->v : NULL};
    for (int i = 0; i < 3 && ranks.count > 1; i++) {
        if (families[i]) { model->share(model, families[i]); }
    }
    if (model->upload) { model->upload(model, t->m, t->v); }
    size_t rows = max_size(training ? (size_t)t->step_rows : 0, (size_t)t->B);
    size_t numbers = mul_size(rows, (size_t)t->T, "the tokens of a step");
    t->inputs = (int*)xalloc(numbers, sizeof(int), "the inputs of a step");
    t->targets = (int*)xalloc(numbers, sizeof(int), "the targets of a step");
    t->loss_sums = (double*)xalloc((size_t)model->passes, sizeof(double), "the losses of the passes");
    if (t->val) {
        int64_t batches = (t->state.val_rows + t->B - 1) / t->B;
        t->val_slots = (size_t)((batches + ranks.count - 1) / ranks.count);
        size_t all = mul_size(t->val_slots, mul_size((size_t)model->passes, (size_t)t->B, "losses"), "losses");
        t->row_losses = (double*)xalloc(mul_size(all, (size_t)ranks.count, "losses"), sizeof(double), "losses of rows");
    }
    if (t->state.passes != model->passes) {
        t->state.passes = model->passes;
        t->state.val_loss_pass = (double*)xalloc((size_t)model->passes, sizeof(double), "the losses of the passes");
    }
}

// With --weights bf16, once the weights are there: rounds them for good, and tells `file` what that did.
static inline void trainer_round_weights(Trainer* t, FILE* file) {
    if (!options_round_weights(&t->options)) { return; }
    TensorRounding r = tensors_round(&t->model->tensors, &t->model->params);
    char before[32], after[32];
    fprintf(
        file,
        "weights in bf16: %s instead of %s; rounding changes a number by %.2g %% (root mean square), at most %.2g %%\n",
        format_megabytes(after, r.after), format_megabytes(before, r.before), 100 * r.rms, 100 * r.largest);
}

// Room for samples, and the tokens they begin with: --prompt, else the start of the validation
// data, else the end of a text, else token 0.
static inline void trainer_prepare_samples(Trainer* t) {
    const OptionTable* o = &t->options;
    t->sampled = (int*)xalloc((size_t)options_int(o, "sample-tokens"), sizeof(int), "a sample");
    t->sampler.temperature = options_number(o, "temperature");
    t->sampler.top_k = options_int(o, "top-k");
    t->sampler.top_p = options_number(o, "top-p");
    t->sampler.seed = (uint64_t)options_int(o, "seed");
    t->sampler.penalty = 1;
    sampler_make(&t->sampler, t->model, 1);
    const char* text = options_text(o, "prompt");
    if (text && text[0]) {
        t->prompt = tokenizer_encode(t->tokenizer, text, strlen(text), &t->prompt_length);
        size_t most = (size_t)(t->T + 1) / 2;
        if (t->prompt_length > most && t->prompt_length + 1 > (size_t)t->T) {
            warn("--prompt has %zu tokens, a row %d: samples begin with its last %zu", t->prompt_length, t->T, most);
            memmove(t->prompt, t->prompt + (t->prompt_length - most), most * sizeof(int));
            t->prompt_length = most;
        }
    } else if (!text && t->val) {
        t->prompt = (int*)xalloc((size_t)t->T, sizeof(int), "the prompt");
        int* targets = (int*)xalloc((size_t)t->T, sizeof(int), "the prompt's targets");
        shards_row(t->val, 0, t->prompt, targets);
        t->prompt_length = min_size(64, (size_t)(t->T + 1) / 2);
        free(targets);
    }
    if (t->prompt_length == 0) {
        int end = tokenizer_eot(t->tokenizer);
        free(t->prompt);
        t->prompt = (int*)xalloc(1, sizeof(int), "the prompt");
        t->prompt[0] = end >= 0 ? end : 0;
        t->prompt_length = 1;
    }
}

// ---- the banner ----

static inline void trainer_banner_data(const Trainer* t, const Shards* shards, const char* title, const char* glob) {
    LogLine line = log_begin(stdout, title, 12);
    log_item(&line, "%s: %d shard%s", glob, (int)shards->files, shards->files == 1 ? "" : "s");
    log_item(&line, "%llu tokens", (unsigned long long)shards->tokens);
    log_item(&line, "%llu rows of %d", (unsigned long long)shards->rows, t->T);
    log_item(&line, "%llu tokens left out in tails", (unsigned long long)shards->tail_tokens);
    log_item(&line, "hash %016llx", (unsigned long long)shards->hash);
    log_end(&line);
}

static inline void trainer_banner(const Trainer* t) {
    const OptionTable* o = &t->options;
    char text[32];
    int training = !options_given(o, "eval-only");

    LogLine line = log_begin(stdout, "program", 12);
    if (t->model->device_text) {
        char* device_text = t->model->device_text(t->model);
        log_item(&line, "%s on %s", t->kind->program, device_text);
        free(device_text);
    } else {
        log_item(&line, "%s on the CPU (%s)", t->kind->program, machine_name());
        if (thread_count() == 1) {
            log_item(&line, "1 thread");
        } else {
            log_item(&line, "%d threads %s", thread_count(), threads_waiting());
        }
        log_item(&line, "instructions %s", machine_isa());
        log_item(&line, "matmul %s", matmul_name());
        if (KEPT_ROUNDS) {
            log_item(&line, "computes in bf16 by %s", products_kernel()->name);
        } else {
            log_item(&line, "computes in fp32");
        }
    }
    if (ranks.count > 1) {
        char* all = ranks_banner(NULL);
        log_item(&line, "%s", all);
        log_item(&line, "%s", t->model->arithmetic);
        if (t->model->divided) { log_item(&line, "of the optimiser's state 1/%d on each (--zero 1)", ranks.count); }
        free(all);
    }
    if (trainer_peak_flops(t) > 0) { log_item(&line, "peak %sFLOP/s", format_count(text, trainer_peak_flops(t))); }
    log_end(&line);

    line = log_begin(stdout, "model", 12);
    log_item(&line, "%s %s",
             t->checkpoint ? "resumed from"
             : t->weights  ? "weights from"
                           : "preset",
             t->weights ? t->weights : t->preset);
    char* config = t->model->config_json(t->model);
    Json* json = json_parse(config, strlen(config), "config.json");
    for (int i = 0; i < json->count; i++) {
        JsonType type = json->items[i]->type;
        if (type == JSON_NUMBER || type == JSON_BOOL) {
            log_item(&line, "%s %s", json->keys[i], json_describe(json->items[i]));
        }
    }
    log_end(&line);
    json_free(json);
    free(config);
    printf("%-12s%lld in %d tensors\n", "parameters", (long long)tensor_parameters(&t->model->tensors),
           t->model->tensors.count);

    line = log_begin(stdout, "tokenizer", 12);
    log_item(&line, "%s", tokenizer_kind_text(t->tokenizer));
    if (t->tokenizer->count) {
        if (!tokenizer_is_bytes(t->tokenizer)) { log_item(&line, "%s", t->tokenizer->source); }
        log_item(&line, "%d tokens of a vocabulary of %d", t->tokenizer->count, t->model->V);
    }
    log_end(&line);
    if (t->train) { trainer_banner_data(t, t->train, "train", options_text(o, "train")); }
    if (t->val) { trainer_banner_data(t, t->val, "validation", options_text(o, "val")); }
    if (!training && t->changed.size) { printf("changed since the run was started\n%s", t->changed.data); }
    if (!training) {
        output_flush();
        return;
    }

    const TrainerState* s = &t->state;
    line = log_begin(stdout, "steps", 12);
    log_item(&line, "%lld of %lld tokens", (long long)s->total_steps, (long long)s->total_batch);
    log_item(&line, "each %lld rows in micro-batches of %d%s", (long long)t->step_rows, t->B,
             t->chosen ? " (chosen for this card)" : "");
    log_item(&line, "%.3g epochs", (double)s->total_steps * (double)t->step_rows / (double)s->rows);
    log_item(&line, "rows %s", options_int(o, "shuffle") ? "shuffled" : "in order");
    log_item(&line, "seed %s", options_text(o, "seed"));
    log_end(&line);

    line = log_begin(stdout, "optimiser", 12);
    log_item(&line, "AdamW");
    if (strcmp(options_text(o, "schedule"), "constant") == 0) {
        log_item(&line, "lr %s constant", options_text(o, "lr"));
    } else {
        log_item(&line, "lr %s %s to %s of it", options_text(o, "lr"), options_text(o, "schedule"),
                 options_text(o, "min-lr-ratio"));
    }
    log_item(&line, "warm-up %lld steps", (long long)t->warmup_steps);
    log_item(&line, "weight decay %s", options_text(o, "weight-decay"));
    log_item(&line, "betas %s and %s", options_text(o, "beta1"), options_text(o, "beta2"));
    log_item(&line, "eps %s", options_text(o, "eps"));
    log_item(&line, "clip %s", options_number(o, "clip") > 0 ? options_text(o, "clip") : "off");
    log_end(&line);

    line = log_begin(stdout, "validation", 12);
    if (t->val) {
        log_item(&line, "%lld rows", (long long)s->val_rows);
        int64_t every = options_int(o, "val-every");
        if (every) {
            log_item(&line, "every %lld steps, before the first and after the last", (long long)every);
        } else {
            log_item(&line, "before the first step and after the last");
        }
    } else {
        log_item(&line, "none (no --val)");
    }
    log_end(&line);
    trainer_print_memory(t, stdout);
    trainer_print_work(t, stdout);
    if (t->changed.size) { printf("changed since the run was started\n%s", t->changed.data); }
    printf("\n");
    output_flush();
}

#endif

// model.h - what the training loop needs of a model, and nothing more.
//
// The loop (train.h) knows neither the architecture nor the pondering: a model is this struct of
// numbers and functions. ponder.cuh fills it in; a CUDA model fills in the same struct.
#ifndef PONDER_MODEL_H
#define PONDER_MODEL_H

#include "adamw.h"
#include "arena.h"
#include "base.h"
#include "matmul.h"
#include "rows.h"
#include "tensors.h"

// A row of the memory table (bytes) or of the work table (FLOPs of one token of a training step:
// forward and backward, causal attention counted as half the square, nothing recomputed).
typedef struct {
    const char* what;
    double amount;
} ModelRow;

struct Cluster;  // scaling.h

// How the token that follows a text is drawn from its logits (run/sample.h).
typedef struct {
    double temperature;  // 0: always the most probable token
    int64_t top_k;       // 0: all
    double top_p;        // 1: all
    double penalty;      // of tokens that are in the text already; 1: none
} SampleRule;

typedef struct Model Model;
struct Model {
    void* self;  // the owner's state

    TensorTable tensors;
    real* params;  // family; allocated by allocate()
    real* grads;   // family; allocated by allocate() when training
    int V;         // vocabulary
    int T;         // longest row
    int B;         // most rows in a micro-batch
    int passes;    // S+1: how many losses evaluate() reports

    ModelRow memory[16];  // what allocate() will take, largest families first
    int memory_rows;
    ModelRow flops[8];
    int flops_rows;

    // Gets all memory; nothing is allocated before or after. training = 0: no gradients, no
    // activations kept for a backward.
    void (*allocate)(Model* model, int training);

    // One micro-batch, forward and backward. inputs, targets (B,T); a target of -1 is ignored.
    // grads += scale * d(sum of losses)/d(params); returns the sum of the last pass's losses over
    // the targets that are not ignored.
    double (*train)(Model* model, const int* inputs, const int* targets, int B, int T, double scale);

    // On a GPU, else NULL: the same without waiting for the loss; and the sum of what train() would have returned
    // since the last call of finish(), which waits. *bad = which of these micro-batches has the first loss that is not
    // finite, or -1.
    void (*train_ahead)(Model* model, const int* inputs, const int* targets, int B, int T, double scale);
    double (*finish)(Model* model, int* bad);

    // Forward only: row_losses (passes,B) = the sum of each pass's losses over the targets of each row that are not
    // ignored. A row's sum does not depend on which of the B rows it is.
    void (*evaluate)(Model* model, const int* inputs, const int* targets, int B, int T, double* row_losses);

    // Logits of the last pass: of every position, logits (B,T,V), or with last_only of each
    // row's last position, logits (B,V).
    void (*logits)(Model* model, const int* inputs, int B, int T, int last_only, real* logits);

    // After a call of logits() with B = 1, of any pass: logits (n,V) of n positions, the first and every `step`-th after it.
    void (*pass_logits)(Model* model, int pass, int first, int step, int n, real* logits);

    // Texts that grow (decode NULL where a GPU trains: there logits() computes every position anew). cache_begin() gets
    // memory for `rows` texts of at most `context` tokens (T at most; cache_bytes() is what it takes), cache_end() gives
    // it back. Between them decode() takes the next T tokens of B texts, tokens (B,T): text rows[b] has first[b] tokens so
    // far. logits (B,V) of each one's last new token; NULL: not wanted. On the CPU they are the same bits as those of
    // logits() over the whole text, however it was cut, in whatever company. B T is at most that of a micro-batch, or what
    // narrow() said before allocate(): so many positions at a time, more or fewer than those, and no training.
    void (*narrow)(Model* model, int positions);
    double (*cache_bytes)(const Model* model, int rows, int context);
    void (*cache_begin)(Model* model, int rows, int context);
    void (*cache_end)(Model* model);
    void (*decode)(Model* model, const int* tokens, int B, int T, const int* rows, const int* first, real* logits);
    // The same with T = 1, and the next token of each text by the uniform numbers u (B) in (0,1): drawn (B), -1 where a logit
    // is not finite. NULL: the caller draws from logits.
    void (*draw)(Model* model, const int* tokens, int B, const int* rows, const int* first, const SampleRule* rule,
                 const double* u, int* drawn);

    // Lists every tensor in forward order, as a micro-batch of n positions has left it: LIST_PARAMETER..., activations,
    // LIST_LOSSES, LIST_GRADIENT... NULL: only parameters and gradients are known.
    void (*list)(Model* model, Places* places, size_t n);

    // The text of config.json for this model, Hugging Face keys; the caller frees it.
    char* (*config_json)(const Model* model);

    // 1 for a key of config.json that belongs to the model though config_json() may not write it (another spelling, a
    // setting that is off): of a config.json that the model came from, all other keys are carried on. NULL: none.
    int (*owns_key)(const Model* model, const char* key);

    // What the model is, sentences in Markdown, for the card of a checkpoint; the caller frees it. NULL: nothing to say.
    char* (*about)(const Model* model);
    const char* tags;  // for the card, with blanks between; or NULL

    // The file of Python code that a checkpoint must carry to be loadable, or NULL when the stock
    // class loads it (code_name is then NULL too).
    const char* code_name;
    const char* code_text;

    // What no shape shows: that with these options the weights of the directory would be another model's, as a sentence; or
    // NULL.
    const char* other_weights;

    // Where weights, gradients and moments live elsewhere than in params and grads: on a GPU. All NULL
    // on the CPU. params is then the host's copy, valid after download(); grads after download_grads().
    struct Families* families;  // where they are
    // Where no --batch is given: sets B to what suits best for a step of step_rows rows, on the GPU or (`card`, if not
    // "") on another, and returns it; from shapes and the card alone, with several ranks from all their cards. NULL: a model
    // has no preference.
    int (*choose_rows)(Model* model, const char* card, int64_t step_rows, int training);
    void (*prepare)(Model* model, int training);                 // finds the GPU, plans its memory
    void (*upload)(Model* model, const real* m, const real* v);  // params, and moments unless NULL
    void (*download)(Model* model, real* m, real* v);            // params, and moments unless NULL
    void (*download_grads)(Model* model);
    // Before the first step: chooses what is chosen by timing, and keeps it in the file `path`. On another rank than the
    // first, `text` is what that file says there, and none is touched.
    void (*rehearse)(Model* model, const char* path, const char* text, int64_t step_rows);
    void (*zero_grads)(Model* model);
    // With several ranks, before the first step: family (of the table, on the host) = that of rank 0. NULL: as reduce.
    void (*share)(Model* model, real* family);
    // With several ranks, after the last micro-batch: adds the gradients of all ranks; all (ranks, RANK_NUMBERS) = what
    // each rank tells the others, mine (RANK_NUMBERS). NULL: this model knows one rank.
    void (*reduce)(Model* model, const double* mine, double* all);
    double (*grad_norm)(Model* model);
    void (*update)(Model* model, const AdamwStep* step);
    int divided;  // 1: of the optimiser's state every rank has a part, and download() takes all ranks
    uint64_t (*hash)(Model* model);                   // then: of the weights that layers read, the same on all ranks
    void (*micro_batch)(Model* model, int B, int T);  // the launches of train(), whose data are there
    int (*finite)(const Place* place);                // 1 if all of a listed tensor is
    double peak_flops;                                // of one second, for the share of the peak
    char* (*device_text)(const Model* model);         // what computes, for the banner; the caller frees it
    const char* arithmetic;                           // "bf16 on a GPU"; plain text without quotes
    // --plan=CARD: memory and ledger of a step of step_rows rows; cluster: of several GPUs that have as many, else NULL.
    void (*print_ledger)(Model* model, const char* card, int64_t step_rows, const struct Cluster* cluster);
    // --plan=CARD --generate: memory and ledger of a token that `rows` texts of `context` tokens end with.
    void (*print_token)(Model* model, const char* card, int rows, int context);
    // --compare-cpu: one micro-batch with `count` targets on both; returns the exit status.
    int (*compare_cpu)(Model* model, const int* inputs, const int* targets, int B, int T, int64_t count);

    // 1 for a tensor of a checkpoint that this model does not have and may silently drop.
    int (*ignores_tensor)(const Model* model, const char* name);
};

static inline void model_add_memory(Model* model, const char* what, double bytes) {
    model->memory[model->memory_rows].what = what;
    model->memory[model->memory_rows++].amount = bytes;
}

// How a list names what is no activation.
#define LIST_PARAMETER "parameter "
#define LIST_LOSSES "loss of each position"
#define LIST_GRADIENT "gradient of "

// Lists a family of the table, wherever it lies; NULL: not there.
static inline void model_list_family(const Model* model, Places* places, const char* what, const real* family) {
    for (int i = 0; i < model->tensors.count && family; i++) {
        const Tensor* t = &model->tensors.list[i];
        places_add(places, format_string("%s%s", what, t->name), (void*)(family + t->offset), t->size, sizeof(real));
    }
}

// After a number that is not finite: the name of the first tensor, in forward order, that holds a NaN or an infinity
// ("parameter ...", "pass 1, layer 0: attention output", "gradient of ..."), or NULL; the caller frees it.
static inline char* model_first_nonfinite(Model* model, int B, int T) {
    Places places;
    memset(&places, 0, sizeof places);
    if (model->list) {
        model->list(model, &places, (size_t)B * (size_t)T);
    } else {
        model_list_family(model, &places, LIST_PARAMETER, model->params);
        model_list_family(model, &places, LIST_GRADIENT, model->grads);
    }
    char* name = NULL;
    for (int i = 0; i < places.count && !name; i++) {
        const Place* place = &places.list[i];
        int finite = model->finite                   ? model->finite(place)
                     : place->number == sizeof(real) ? row_finite((const real*)place->at, place->count)
                                                     : kept_finite((const kept*)place->at, place->count);
        if (!finite) { name = format_string("%s", place->name); }
    }
    places_free(&places);
    return name;
}

// What this program computes in, as --precision has it.
#if GPU
static inline const char* program_precision(void) { return PRECISION; }
#else
static inline const char* program_precision(void) { return KEPT_ROUNDS ? "bf16" : "fp32"; }
#endif

// What a run's numbers come from, to be told from others when it goes on elsewhere.
static inline const char* model_arithmetic(const Model* model) {
    if (model->arithmetic || !KEPT_ROUNDS) { return model->arithmetic ? model->arithmetic : "fp32 on a CPU"; }
    return products_kernel()->sums == SUMS_AMX ? "bf16 on a CPU, sums as by TDPBF16PS"
                                               : "bf16 on a CPU, sums as by VDPBF16PS";
}

// A micro-batch of a step, and the end of its last: the sum of both is that of the losses, wherever they are added.
static inline double model_train(Model* model, const int* inputs, const int* targets, int B, int T, double scale) {
    if (!model->train_ahead) { return model->train(model, inputs, targets, B, T, scale); }
    model->train_ahead(model, inputs, targets, B, T, scale);
    return 0;
}
static inline double model_finish(Model* model, int* bad) {
    *bad = -1;
    return model->finish ? model->finish(model, bad) : 0;
}

// loss_sums (passes) += the losses of all rows of a micro-batch, forward only, added in the order of rows.
static inline void model_evaluate(Model* model, const int* inputs, const int* targets, int B, int T,
                                  double* loss_sums) {
    size_t rows = (size_t)B, passes = (size_t)model->passes;
    double* row_losses = (double*)xalloc(mul_size(passes, rows, "losses of rows"), sizeof(double), "losses of rows");
    model->evaluate(model, inputs, targets, B, T, row_losses);
    for (size_t i = 0; i < passes * rows; i++) { loss_sums[i / rows] += row_losses[i]; }
    free(row_losses);
}

// What the training loop does with gradients, wherever they live.
static inline void model_zero_grads(Model* model) {
    if (model->zero_grads) {
        model->zero_grads(model);
    } else {
        memset(model->grads, 0, model->tensors.total * sizeof(real));
    }
}
static inline double model_grad_norm(Model* model) {
    return model->grad_norm ? model->grad_norm(model) : grad_norm(&model->tensors, model->grads);
}
// m, v: the moments on the CPU; on a GPU the model has its own.
static inline void model_update(Model* model, real* m, real* v, const AdamwStep* step) {
    if (model->update) {
        model->update(model, step);
    } else {
        adamw_update(&model->tensors, model->params, model->grads, m, v, step);
    }
}

#endif

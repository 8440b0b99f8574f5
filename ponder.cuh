// ponder.cuh - turns one transformer pass into a pondering language model.
//
// Method: "PonderLM: Pretraining Language Models to Ponder in Continuous Space", Zeng et al.,
// arXiv 2505.20674. An architecture (train_pythia.cu, ...) brings one PASS, input embeddings to
// hidden states; this file brings everything around it:
//
//     e[0] = c a W_in[token]                    token embeddings          a = sqrt(C) or 1
//     for s = 0 .. S-1:                                                    c = S or 1
//         h[s]   = pass(e[s])                   all positions at once
//         p[s]   = softmax(h[s] W_out^T / t)    a distribution over the vocabulary, not a sample
//         e[s+1] = e[s] + p[s] a W_in           its mean embedding, added to the input
//     loss = cross_entropy(pass(e[S]) W_out^T, next token)
//
// Sizes: B rows, T positions, C width, V vocabulary, S pondering steps, s = 0..S a pass; N = B*T.
// Memory: per pass only e, h, mix (N,C) and what the pass itself keeps. Logits and probabilities exist for
// MIX_ROWS positions at a time, forward and backward: nothing in the C half is of size (N,V).
//
//   [1] architectures, and the configuration: options, config.json keys
//   [2] layers (C): embedding, vocabulary mix, loss head; each forward, then backward
//   [3] the S+1 passes (C), forward and backward
//   [4] the model that the training loop drives
//   [5] CUDA: the same layers and passes, what they take of a card, the same model
#ifndef PONDER_CUH
#define PONDER_CUH

#include "common/arena.h"
#include "common/matmul.h"
#include "common/model.h"
#include "common/pass.h"
#include "common/rows.h"
#include "common/run/sizes.h"
#include "common/run/train.h"
#include "common/tensors.h"

#ifdef __has_include
#if !__has_include("modeling_ponder.h")
#error "modeling_ponder.h is not there yet: make writes it, into build/include; `make train_pythia` compiles all of it"
#endif
#endif
#include "modeling_ponder.h"  // modeling_ponder.py as a string, made by make

// Rows of logits that exist at a time. Each block adds to the weight gradients (V,C), so a block
// must be tall enough that reading and writing them is cheap beside its products: at 512 rows
// the products do 128 FLOPs per byte of gradient traffic.
#ifndef MIX_ROWS
#define MIX_ROWS 512
#endif

// ------------------------------------------------------------------------------------------------
// [1] Architectures and configuration

// The CUDA twins of an architecture's functions.
typedef struct {
    void (*keep)(Pass*, Arena*, int layer);
    void (*prepare)(Pass*, Arena*, int training);
    // Of the first `layers` layers; with all of them also what follows. What begins by finishing layer `layers` - 1, the
    // norms of the next layer or the last norm, is done in either case.
    void (*forward)(Pass*, floatX* h, const float* e, int B, int T, int layers);
    void (*backward)(Pass*, float* de, const floatX* dh, const float* e, int B, int T);
    int most_head;  // numbers that a head may have
} PassCuda;

// One architecture: everything else (memory, options, FLOPs, checkpoints, tests) follows from this table.
typedef struct {
    const char* program;         // "train_pythia"
    const char* stock_class;     // Hugging Face's class, "GPTNeoXForCausalLM"; ours is Ponder<stock_class>
    const char* stock_config;    // its configuration, "GPTNeoXConfig"
    const char* stock_type;      // its model_type, "gpt_neox"; ours is ponder_<stock_type>
    const Preset* presets;       // ended by a NULL name
    const char* default_preset;  // of --model
    size_t pass_size;            // of the architecture's own struct, which begins with a Pass
    int (*usual_ff)(int C);      // inner width of the MLP where only the width is given
    int usual_length;            // tokens of a row where neither --seq nor the preset or the configuration says
    int any_length;  // 1: rows of any length fit, and a configuration's positions ask for none longer than usual
    // Sizes from config.json, whose model_type is right; with config NULL only what presets do not say, and `path` is
    // the preset's name. Dies, by name, on what is not supported.
    void (*read_config)(Pass*, const Json* config, const char* path);
    // After presets and options: derived sizes beyond HS and NKV; dies in words on shapes that do not fit.
    void (*check)(Pass*, const char* path);
    // Appends the architecture's own config.json keys, each as ",\n  \"key\": value".
    void (*write_config)(const Pass*, StringBuilder*);
    // Keys that are not carried over from a source: read_config reads them and write_config spells them otherwise, or
    // they may no longer be true. Ended by NULL; or NULL.
    const char* const* other_keys;
    // The tensor table; passes = S+1 and ponder_init choose the initialisation.
    void (*tensors)(Pass*, TensorTable*, int passes, int ponder_init);
    // 1 for a tensor of a checkpoint that this model does not have and may silently drop.
    int (*ignores)(const Pass*, const char* name);
    // What layer 0..L-1 keeps for its backward, and (layer L) what follows the last layer keeps.
    void (*keep)(Pass*, Arena*, int layer);
    // What a layer at work needs; where the arena has memory, also fills in what never changes.
    void (*prepare)(Pass*, Arena*, int training);
    // h (B,T,C) = final-norm output of one pass over e (B,T,C).
    void (*forward)(Pass*, kept* h, const real* e, int B, int T);
    // de (B,T,C) += gradient of the pass by its input, given dh (B,T,C); gradients of weights += .
    void (*backward)(Pass*, real* de, const kept* dh, const real* e, int B, int T);
    const PassCuda* cuda;
} Architecture;

typedef struct {
    int steps;           // S, 0: a vanilla model
    int scale_embeds;    // 1: a = sqrt(C) on token embeddings and on the mixture table
    int multiply_steps;  // 1: start from S * e[0]
    double temperature;  // of the mixing softmax only, never of the loss
    int top_k;           // mix only the k most probable tokens; 0: all
    int ponder_init;     // 1: the paper's initialisation, 0: the stock one
    int trained_steps;   // S of the training, where another number runs; 0: the same
} PonderConfig;

static inline void ponder_add_options(OptionTable* options) {
    sizes_options(options);
    static const Option rows[] = {
        {"model", "ponder", OPTION_INT, "", "S", 0, 64, RESUME_FIXED,
         "extra passes (pondering steps); 0 is a vanilla model [default 3, or the configuration's]"},
        {"model", "scale-embeds", OPTION_INT, "", "0|1", 0, 1, RESUME_FIXED,
         "multiply embeddings by sqrt(width) [default: 1 if S > 0, or the configuration's]"},
        {"model", "multiply-steps", OPTION_INT, "", "0|1", 0, 1, RESUME_FIXED,
         "start from S times the embedding [default 0]"},
        {"model", "ponder-temperature", OPTION_NUMBER, "", "X", 1e-3, 1e3, RESUME_FIXED,
         "temperature of the mixing softmax [default 1]"},
        {"model", "ponder-top-k", OPTION_INT, "", "K", 0, 1 << 30, RESUME_FIXED,
         "mix only the K most probable tokens, 0: all [default 0]"},
        {"model", "init", OPTION_CHOICE, "", "ponder|stock", 0, 0, RESUME_FIXED,
         "initialisation of fresh weights [default: ponder if S > 0]"},
        {"generate", "steps-at-inference", OPTION_INT, "", "S", 0, 64, RESUME_RUN,
         "another number of pondering steps than the model was trained with, for --generate, --explain and "
         "--eval-only [default: steps_at_inference of config.json, if it is there]"},
    };
    options_add(options, rows, (int)(sizeof rows / sizeof rows[0]));
    static const Option gpu[] = {
        {"GPU", "recompute", OPTION_INT, NULL, "N", 0, 64001, RESUME_FREE,
         "what the backward computes again to save memory: 0 nothing, 1 norms and activations, 1+n also the n earliest "
         "layers whole, counted over all passes but the last; any N gives the same bits [default: whatever fits at the "
         "least cost]"},
    };
    options_add_if(GPU, options, gpu, 1);
    gpu_options(options);
}

// Dies on the config.json of another architecture, and on weights that are not stored as numbers.
static inline void ponder_check_type(const Architecture* a, const Json* config, const char* path) {
    const char* type = json_get_string(config, "model_type", a->stock_type, path);
    const char* stock = strncmp(type, "ponder_", 7) == 0 ? type + 7 : type;
    if (strcmp(stock, a->stock_type) != 0) {
        die("%s: model_type is \"%s\", %s reads %s and ponder_%s", path, type, a->program, a->stock_type,
            a->stock_type);
    }
    const char* const others[] = {"add_cross_attention", "is_encoder_decoder"};
    for (int i = 0; i < 2; i++) {
        if (json_get_bool(config, others[i], 0, path)) {
            die("%s: %s is true; there is no other sequence to attend to", path, others[i]);
        }
    }
    const Json* quantised = json_get(config, "quantization_config");
    if (quantised && quantised->type != JSON_NULL) {
        die("%s: there is a quantization_config (quant_method %s); quantised weights are not supported", path,
            json_get_string(quantised, "quant_method", "not said", path));
    }
}

// Command line, then config.json (an absent key means "off"), then the defaults of a preset
// (config == NULL): three steps, scaled. Dies on values that make no model.
static inline PonderConfig ponder_config(const OptionTable* options, const Json* config, const char* path) {
    PonderConfig ponder;
    memset(&ponder, 0, sizeof ponder);
    ponder.steps = 3;
    ponder.temperature = 1;
    int scaled = -1, other_steps = -1;  // not said
    if (config) {
        int ponders =
            json_get_bool(config, "ponderinglm", 0, path) || json_get_bool(config, "recurrent_model", 0, path);
        ponder.steps = ponders ? json_get_range(config, "pondering_steps", 0, 0, 64, path) : 0;
        other_steps = json_get_range(config, "steps_at_inference", other_steps, 0, 64, path);
        scaled = json_get_bool(config, "scale_embeds", 0, path);
        ponder.multiply_steps = json_get_bool(config, "mutiply_pondering_steps", 0, path);  // misspelt in the reference
        ponder.temperature = json_get_number(config, "softmax_temperature", 1, path);
        if (!(ponder.temperature >= 1e-3 && ponder.temperature <= 1e3)) {
            die("%s: softmax_temperature is %g, expected 0.001 to 1000", path, ponder.temperature);
        }
        ponder.top_k = json_get_range(config, "pondering_top_k", 0, 0, 1 << 30, path);
        // Has no meaning there; the reference writes it all the same.
        if (ponder.steps == 0) { ponder.multiply_steps = 0; }
    }
    if (options_set(options, "ponder")) { ponder.steps = (int)options_int(options, "ponder"); }
    if (options_set(options, "scale-embeds")) { scaled = (int)options_int(options, "scale-embeds"); }
    if (options_set(options, "multiply-steps")) { ponder.multiply_steps = (int)options_int(options, "multiply-steps"); }
    if (options_set(options, "ponder-temperature")) {
        ponder.temperature = options_number(options, "ponder-temperature");
    }
    if (options_set(options, "ponder-top-k")) { ponder.top_k = (int)options_int(options, "ponder-top-k"); }
    ponder.scale_embeds = scaled >= 0 ? scaled : ponder.steps > 0;
    ponder.ponder_init = ponder.steps > 0;
    if (options_set(options, "init")) { ponder.ponder_init = strcmp(options_text(options, "init"), "ponder") == 0; }
    if (ponder.multiply_steps && ponder.steps == 0) {
        die("--multiply-steps 1 with --ponder 0 would multiply the input by zero: expected at least one pondering "
            "step");
    }
    // What trains ignores config.json's number, and refuses an option.
    const Option *asked = options_row(options, "steps-at-inference"), *evaluates = options_find(options, "eval-only");
    if (asked->set) { other_steps = (int)options_int(options, "steps-at-inference"); }
    if (other_steps >= 0 && (options_prompts(options) || (evaluates && evaluates->given))) {
        ponder.trained_steps = ponder.steps;
        ponder.steps = other_steps;
    } else if (asked->set) {
        die("--steps-at-inference: expected with it --generate, --explain or --eval-only; a training run has "
            "--ponder S");
    }
    return ponder;
}

// With S = 0 and no scaling the stock class loads the model; otherwise our own, so that nothing loads it as a
// vanilla model.
static inline int ponder_is_stock(const PonderConfig* config) { return config->steps == 0 && !config->scale_embeds; }

// Appends the keys that say which class loads the model and how it ponders.
static inline void ponder_config_keys(const PonderConfig* config, const Architecture* a, StringBuilder* sb) {
    if (ponder_is_stock(config)) {
        sb_printf(sb, "  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\"", a->stock_class, a->stock_type);
        return;
    }
    sb_printf(sb, "  \"architectures\": [\"Ponder%s\"],\n  \"model_type\": \"ponder_%s\",\n", a->stock_class,
              a->stock_type);
    sb_printf(sb, "  \"auto_map\": {\n    \"AutoConfig\": \"modeling_ponder.Ponder%s\",\n", a->stock_config);
    sb_printf(sb, "    \"AutoModelForCausalLM\": \"modeling_ponder.Ponder%s\"\n  },\n", a->stock_class);
    sb_printf(sb, "  \"ponderinglm\": %s,\n  \"pondering_steps\": %d,\n", config->steps > 0 ? "true" : "false",
              config->steps);
    sb_printf(sb, "  \"scale_embeds\": %s,\n", config->scale_embeds ? "true" : "false");
    sb_printf(sb, "  \"mutiply_pondering_steps\": %s,\n", config->multiply_steps ? "true" : "false");
    sb_printf(sb, "  \"softmax_temperature\": %.17g,\n  \"pondering_top_k\": %d", config->temperature, config->top_k);
    // What older checkpoints denied, whose code had no cache for each pass: a source of theirs must not speak on.
    sb_printf(sb, ",\n  \"use_cache\": true");
}

// ------------------------------------------------------------------------------------------------
// [2] Layers (C)

// e(N,C) = scale * W_in[token]          scale = c * a
static inline void embedding_forward(real* e, const int* tokens, Weight table, size_t N, size_t C, real scale) {
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t n = 0; n < N; n++) {
        size_t row = (size_t)tokens[n] * C;
        for (size_t i = 0; i < C; i++) { e[n * C + i] = scale * weight_number(table, row + i); }
    }
}

// dtable[token] += scale * de(N,C). A token that occurs often is added up in the order of its
// positions: columns are divided among threads, so that no two add to one number.
static inline void embedding_backward(real* dtable, const int* tokens, const real* de, size_t N, size_t C, real scale) {
    const size_t columns = 64;
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t first = 0; first < C; first += columns) {
        size_t last = min_size(first + columns, C);
        for (size_t n = 0; n < N; n++) {
            real* drow = dtable + (size_t)tokens[n] * C;
            for (size_t i = first; i < last; i++) { drow[i] = real_fma(scale, de[n * C + i], drow[i]); }
        }
    }
}

// mix(N,C) = p a W_in,  p = softmax(top_k(h W_out^T / temperature))            METHOD: one step
//
// Work space: z (MIX_ROWS,V) and, for top-k, heaps (MIX_ROWS,top_k).
//   z   (R,V) = h (R,C) W_out^T / temperature
//   p   (R,V) = softmax(z), in place: from here on z holds p
//   mix (R,C) = a p W_in
static inline void mix_forward(real* mix, kept* z, real* heaps, const kept* h, Weight w_out, Weight w_in, size_t N,
                               size_t C, size_t V, real a, real temperature, size_t top_k) {
    for (size_t first = 0; first < N; first += MIX_ROWS) {
        size_t R = min_size(MIX_ROWS, N - first);
        gemm_stored(1, R, V, C, 1 / temperature, h + first * C, C, w_out, z, NULL);
#pragma omp parallel for schedule(static) if (R * V > SERIAL)
        for (size_t r = 0; r < R; r++) {
            real* p = row_open(z + r * V, V, 0);
            keep_top_k(p, heaps + r * top_k, V, top_k);
            softmax_row(p, V);
            row_close(z + r * V, p, V);
        }
        gemm_weight(0, R, C, V, a, z, V, w_in, 0, mix + first * C, C, NULL);
    }
}

// Given dmix (N,C), the gradient by mix: dh (N,C) = gradient by h; dw_in, dw_out (V,C) += (they
// sum over passes, blocks and micro-batches; the same array when tied). z is computed again, so
// that nothing of size (N,V) was kept. Work space: z, dz (MIX_ROWS,V).
//   dp    = a dmix W_in^T                 mirror of mix = a p W_in
//   dw_in += a p^T dmix
//   dz    = p * (dp - rowsum(p * dp)) / temperature     softmax; a masked token has p = 0, so dz = 0
//   dh    = dz W_out                      mirror of z = h W_out^T
//   dw_out += dz^T h
static inline void mix_backward(kept* dh, real* dw_in, real* dw_out, kept* z, kept* dz, real* heaps, const kept* dmix,
                                const kept* h, const real* w_out, const real* w_in, size_t N, size_t C, size_t V,
                                real a, real temperature, size_t top_k) {
    for (size_t first = 0; first < N; first += MIX_ROWS) {
        size_t R = min_size(MIX_ROWS, N - first);
        gemm_stored(1, R, V, C, 1 / temperature, h + first * C, C, weight_of(w_out), z, NULL);
        gemm_stored(1, R, V, C, a, dmix + first * C, C, weight_of(w_in), dz, NULL);
#pragma omp parallel for schedule(static) if (R * V > SERIAL)
        for (size_t r = 0; r < R; r++) {
            real* p = row_open(z + r * V, V, 0);
            real* dp = row_open(dz + r * V, V, 1);
            keep_top_k(p, heaps + r * top_k, V, top_k);
            softmax_row(p, V);
            real dot = row_dot(p, dp, V);
            for (size_t v = 0; v < V; v++) { dp[v] = p[v] * (dp[v] - dot) / temperature; }
            row_close(z + r * V, p, V);
            row_close(dz + r * V, dp, V);
        }
        gemm_kept(1, 0, V, C, R, a, z, V, dmix + first * C, C, 1, dw_in, C);
        gemm_stored(0, R, C, V, 1, dz, V, weight_of(w_out), dh + first * C, NULL);
        gemm_kept(1, 0, V, C, R, 1, dz, V, h + first * C, C, 1, dw_out, C);
    }
}

// losses(N) = -log softmax(h W_out^T)[target], 0 where the target is -1. Work space z (MIX_ROWS,V).
static inline void head_forward(real* losses, kept* z, const kept* h, const int* targets, Weight w_out, size_t N,
                                size_t C, size_t V) {
    for (size_t first = 0; first < N; first += MIX_ROWS) {
        size_t R = min_size(MIX_ROWS, N - first);
        gemm_stored(1, R, V, C, 1, h + first * C, C, w_out, z, NULL);
#pragma omp parallel for schedule(static) if (R * V > SERIAL)
        for (size_t r = 0; r < R; r++) {
            int target = targets[first + r];
            real wanted = target < 0 ? 0 : real_of_kept(z[r * V + (size_t)target]);
            real lse = target < 0 ? 0 : softmax_row(row_open(z + r * V, V, 0), V);
            losses[first + r] = lse - wanted;
        }
    }
}

// The same losses, and their gradients scaled by `scale` (1 / number of targets in the step):
// dh (N,C) = , dw_out (V,C) +=. Forward and backward in one go, since a block's logits must not
// outlive it.
//   dz = scale (p - onehot(target)), overwriting the logits; 0 where the target is -1
//   dh = dz W_out,  dw_out += dz^T h
static inline void head_forward_backward(real* losses, kept* dh, real* dw_out, kept* z, const kept* h,
                                         const int* targets, const real* w_out, size_t N, size_t C, size_t V,
                                         real scale) {
    for (size_t first = 0; first < N; first += MIX_ROWS) {
        size_t R = min_size(MIX_ROWS, N - first);
        gemm_stored(1, R, V, C, 1, h + first * C, C, weight_of(w_out), z, NULL);
#pragma omp parallel for schedule(static) if (R * V > SERIAL)
        for (size_t r = 0; r < R; r++) {
            int target = targets[first + r];
            if (target < 0) {
                losses[first + r] = 0;
                memset(z + r * V, 0, V * sizeof(kept));
                continue;
            }
            real* row = row_open(z + r * V, V, 0);
            real wanted = row[target];
            losses[first + r] = softmax_row(row, V) - wanted;
            for (size_t v = 0; v < V; v++) { row[v] *= scale; }
            row[target] -= scale;
            row_close(z + r * V, row, V);
        }
        gemm_stored(0, R, C, V, 1, z, V, weight_of(w_out), dh + first * C, NULL);
        gemm_kept(1, 0, V, C, R, 1, z, V, h + first * C, C, 1, dw_out, C);
    }
}

// ------------------------------------------------------------------------------------------------
// [3] The S+1 passes (C)

typedef struct {
    Model model;  // first, so that a Model* of ours is a Ponder*
    const Architecture* architecture;
    PonderConfig config;
    Pass* pass;               // the architecture's own
    Slots slots;              // of the C half
    real* e;                  // (S+1, N,C) input of each pass
    kept* h;                  // (S+1, N,C) output of each pass
    real* mix;                // (S, N,C) what a pass adds to its input
    real* de;                 // (N,C) gradient by e[s], summed down from the last pass to the first
    kept* dmix;               // (N,C) the same, rounded: what products read
    kept* dh;                 // (N,C) gradient by h[s]
    real* losses;             // (N)
    kept* z;                  // (MIX_ROWS,V) logits, then probabilities, of a block of rows
    kept* dz;                 // (MIX_ROWS,V) their gradients
    real* heaps;              // (MIX_ROWS,top_k)
    KeyCache* caches;         // (S+1) what each pass has read of the texts that are being continued, NULL: none are
    struct PonderCuda* cuda;  // NULL in the CPU program
} Ponder;

static inline Ponder* ponder_of(const Model* model) { return (Ponder*)model->self; }

// What lives from one pass to the others.
static inline void ponder_passes(Ponder* m, Arena* a, int training) {
    size_t NC = mul_size(m->pass->N, (size_t)m->pass->size.C, "activations"), S = (size_t)m->config.steps;
    size_t NC_back = training ? NC : 0;
    m->e = TAKE(a, real, "inputs of passes", mul_size(S + 1, NC, "inputs of passes"));
    m->h = TAKE(a, kept, "outputs of passes", mul_size(S + 1, NC, "outputs of passes"));
    m->mix = TAKE(a, real, "mixes", S * NC);
    m->de = TAKE(a, real, "gradient of the input", NC_back);
    m->dmix = TAKE(a, kept, "gradient of the mix, rounded", stored_copies() ? NC_back : 0);
    m->dh = TAKE(a, kept, "gradient of the output", NC_back);
    m->losses = TAKE(a, real, "losses", m->pass->N);
}
// What lives as long as a block of logits.
static inline void ponder_blocks(Ponder* m, Arena* a, int training) {
    size_t V = (size_t)m->pass->size.V, rows = min_size(m->pass->N, MIX_ROWS);
    m->z = TAKE(a, kept, "logits", rows * V);
    m->dz = TAKE(a, kept, "gradient of logits", training && m->config.steps > 0 ? rows * V : 0);
    m->heaps = TAKE(a, real, "the most probable tokens", rows * min_size((size_t)m->config.top_k, V));
}

static inline real ponder_scale(const Ponder* m) {
    return m->config.scale_embeds ? (real)sqrt((double)m->pass->size.C) : 1;
}
// Of token embeddings: c a.
static inline real ponder_token_scale(const Ponder* m) {
    const PonderConfig* c = &m->config;
    return (c->multiply_steps ? (real)(c->trained_steps ? c->trained_steps : c->steps) : 1) * ponder_scale(m);
}
// Numbers from a pass to the next in e, h and mix.
static inline size_t ponder_stride(const Ponder* m) { return m->pass->N * (size_t)m->pass->size.C; }

// All passes over inputs (B,T), forward; keep = 1 keeps what the backward needs. Where texts are continued, of a row's
// new positions alone: pass s sees its own earlier keys and values, which is all that it would see of them.
static inline void ponder_forward(Ponder* m, const int* inputs, int B, int T, int keep) {
    const PonderConfig* config = &m->config;
    Pass* pass = m->pass;
    const Weight w_in = pass->embed, w_out = pass->head;
    size_t C = (size_t)pass->size.C, V = (size_t)pass->size.V, N = (size_t)B * (size_t)T, stride = ponder_stride(m);

    embedding_forward(m->e, inputs, w_in, N, C, ponder_token_scale(m));
    for (int s = 0; s <= config->steps; s++) {
        real* e = m->e + (size_t)s * stride;
        kept* h = m->h + (size_t)s * stride;
        pass->cpu.place = slots_enter(&m->slots, s, keep ? SLOTS_FORWARD : SLOTS_EVALUATE);
        pass->cache = m->caches ? &m->caches[s] : NULL;
        m->architecture->forward(pass, h, e, B, T);
        if (s == config->steps) { break; }
        real* mix = m->mix + (size_t)s * stride;
        mix_forward(mix, m->z, m->heaps, h, w_out, w_in, N, C, V, ponder_scale(m), (real)config->temperature,
                    (size_t)config->top_k);
        real* next = e + stride;
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
        for (size_t i = 0; i < N * C; i++) { next[i] = e[i] + mix[i]; }
    }
}

// One micro-batch: forward, loss of the last pass, and the gradients of everything, which sum
// over the passes into one set of weights.
static inline double ponder_train(Model* model, const int* inputs, const int* targets, int B, int T, double scale) {
    Ponder* m = ponder_of(model);
    const PonderConfig* config = &m->config;
    Pass* pass = m->pass;
    const real *w_in = pass->embed.w, *w_out = pass->head.w;
    real *dw_in = pass->embed.d, *dw_out = pass->head.d;
    size_t C = (size_t)pass->size.C, V = (size_t)pass->size.V, N = (size_t)B * (size_t)T, stride = ponder_stride(m);

    ponder_forward(m, inputs, B, T, 1);
    const kept* last = m->h + (size_t)config->steps * stride;
    head_forward_backward(m->losses, m->dh, dw_out, m->z, last, targets, w_out, N, C, V, (real)scale);
    double loss = 0;
    for (size_t n = 0; n < N; n++) { loss += (double)m->losses[n]; }

    memset(m->de, 0, N * C * sizeof(real));
    for (int s = config->steps; s >= 0; s--) {
        // Here de is the gradient by e[s+1] = e[s] + mix[s]: it is the gradient by mix[s], and it
        // is also where the gradient by e[s] starts from, to which the pass adds its own.
        if (s < config->steps) {
            const kept* dmix = stored_copy(m->dmix, m->de, N * C);
            mix_backward(m->dh, dw_in, dw_out, m->z, m->dz, m->heaps, dmix, m->h + (size_t)s * stride, w_out, w_in, N,
                         C, V, ponder_scale(m), (real)config->temperature, (size_t)config->top_k);
        }
        pass->cpu.place = slots_enter(&m->slots, s, SLOTS_BACKWARD);
        m->architecture->backward(pass, m->de, m->dh, m->e + (size_t)s * stride, B, T);
    }
    embedding_backward(dw_in, inputs, m->de, N, C, ponder_token_scale(m));
    return loss;
}

// ------------------------------------------------------------------------------------------------
// [4] The model that the training loop drives

static inline void ponder_evaluate(Model* model, const int* inputs, const int* targets, int B, int T,
                                   double* row_losses) {
    Ponder* m = ponder_of(model);
    size_t C = (size_t)m->pass->size.C, V = (size_t)m->pass->size.V, N = (size_t)B * (size_t)T;
    ponder_forward(m, inputs, B, T, 0);
    for (int s = 0; s <= m->config.steps; s++) {
        head_forward(m->losses, m->z, m->h + (size_t)s * ponder_stride(m), targets, m->pass->head, N, C, V);
        for (int b = 0; b < B; b++, row_losses++) {
            *row_losses = 0;
            for (int t = 0; t < T; t++) { *row_losses += (double)m->losses[b * T + t]; }
        }
    }
}

static inline void ponder_pass_logits(Model* model, int pass, int first, int step, int n, real* logits) {
    Ponder* m = ponder_of(model);
    size_t C = (size_t)m->pass->size.C, V = (size_t)m->pass->size.V;
    const kept* h = m->h + (size_t)pass * ponder_stride(m) + (size_t)first * C;
    gemm_weight(1, (size_t)n, V, C, 1, h, (size_t)step * C, m->pass->head, 0, logits, V, NULL);
}

static inline void ponder_logits(Model* model, const int* inputs, int B, int T, int last_only, real* logits) {
    ponder_forward(ponder_of(model), inputs, B, T, 0);
    int step = last_only ? T : 1;
    ponder_pass_logits(model, model->passes - 1, step - 1, step, last_only ? B : B * T, logits);
}

static inline void ponder_narrow(Model* model, int positions) { ponder_of(model)->pass->N = (size_t)positions; }

static inline double ponder_cache_bytes(const Model* model, int rows, int context) {
    const Sizes* size = &ponder_of(model)->pass->size;
    return (double)cache_size(rows, size->L, size->NKV, size->HS, (size_t)context) * model->passes * sizeof(kept);
}

static inline void ponder_cache_begin(Model* model, int rows, int context) {
    Ponder* m = ponder_of(model);
    const Sizes* size = &m->pass->size;
    m->caches = cache_make(model->passes, rows, size->L, size->NKV, size->HS, (size_t)context);
}

static inline void ponder_cache_end(Model* model) {
    Ponder* m = ponder_of(model);
    free(m->caches);
    m->caches = NULL;
    m->pass->cache = NULL;
}

static inline void ponder_decode(Model* model, const int* tokens, int B, int T, const int* rows, const int* first,
                                 real* logits) {
    Ponder* m = ponder_of(model);
    for (int s = 0; s < model->passes; s++) { m->caches[s].row = rows, m->caches[s].first = first; }
    if (logits) {
        ponder_logits(model, tokens, B, T, 1, logits);
    } else {
        ponder_forward(m, tokens, B, T, 0);
    }
}

// Everything that a micro-batch of n positions leaves, in forward order.
static inline void ponder_list(Model* model, Places* places, size_t n) {
    Ponder* m = ponder_of(model);
    size_t C = (size_t)m->pass->size.C, stride = ponder_stride(m);
    model_list_family(model, places, LIST_PARAMETER, model->params);
    for (int s = 0; s <= m->config.steps; s++) {
        places_add(places, format_string("pass %d: input embeddings", s), m->e + (size_t)s * stride, n * C,
                   sizeof(real));
        slots_list(&m->slots, places, m->pass, m->architecture->keep, s, n);
        places_add(places, format_string("pass %d: hidden states", s), m->h + (size_t)s * stride, n * C, sizeof(kept));
        if (s == m->config.steps) { break; }
        places_add(places, format_string("pass %d: vocabulary mix", s), m->mix + (size_t)s * stride, n * C,
                   sizeof(real));
    }
    places_add(places, format_string("%s", LIST_LOSSES), m->losses, n, sizeof(real));
    model_list_family(model, places, LIST_GRADIENT, model->grads);
}

static inline char* ponder_config_json(const Model* model) {
    const Ponder* m = ponder_of(model);
    StringBuilder sb;
    memset(&sb, 0, sizeof sb);
    sb_printf(&sb, "{\n");
    ponder_config_keys(&m->config, m->architecture, &sb);
    m->architecture->write_config(m->pass, &sb);
    sb_printf(&sb, "\n}\n");
    return sb.data;
}

static inline int ponder_owns_key(const Model* model, const char* key) {
    static const char* const own[] = {"auto_map",
                                      "ponderinglm",
                                      "recurrent_model",
                                      "pondering_steps",
                                      "scale_embeds",
                                      "softmax_temperature",
                                      "mutiply_pondering_steps",
                                      "pondering_top_k",
                                      NULL};
    const char* const* lists[] = {own, ponder_of(model)->architecture->other_keys};
    for (int i = 0; i < 2; i++) {
        for (const char* const* k = lists[i]; k && *k; k++) {
            if (strcmp(*k, key) == 0) { return 1; }
        }
    }
    // Carried on, but not beside a class that would not read it.
    return ponder_is_stock(&ponder_of(model)->config) && strcmp(key, "steps_at_inference") == 0;
}

static inline char* ponder_about(const Model* model) {
    const Ponder* m = ponder_of(model);
    const PonderConfig* c = &m->config;
    const Sizes* size = &m->pass->size;
    StringBuilder sb = {0};
    if (c->steps == 0) {
        sb_printf(&sb, "A `%s` without pondering (S = 0).", m->architecture->stock_class);
    } else {
        sb_printf(&sb,
                  "A `%s` that ponders (S = %d): it reads its input %d times before each prediction. After a pass it\n"
                  "averages the embedding table with the probabilities it has come to, and adds that to its input for\n"
                  "the next ([PonderLM, arXiv 2505.20674](https://arxiv.org/abs/2505.20674)).",
                  m->architecture->stock_class, c->steps, c->steps + 1);
    }
    if (c->scale_embeds) { sb_printf(&sb, "\nEmbeddings are multiplied by sqrt(width)."); }
    if (c->multiply_steps) { sb_printf(&sb, "\nThe first input is S times the embedding."); }
    if (c->steps && c->temperature != 1) { sb_printf(&sb, "\nTemperature of the mix: %g.", c->temperature); }
    if (c->steps && c->top_k) { sb_printf(&sb, "\nThe %d most probable tokens are mixed.", c->top_k); }
    sb_printf(&sb, "\n%d layers, width %d, %d heads, MLP of %d, vocabulary %d, %s.", size->L, size->C, size->NH,
              size->FF, size->V, size->tie ? "head tied to the embedding" : "a head of its own");
    return sb.data;
}

static inline int ponder_ignores(const Model* model, const char* name) {
    const Ponder* m = ponder_of(model);
    return m->architecture->ignores(m->pass, name);
}

// The C half's memory, area by area.
enum { AREA_KEPT, AREA_WORK, AREA_PASSES, AREA_BLOCKS, AREAS };
static const char* const ponder_areas[AREAS] = {"activations kept, all passes", "activations of one layer at work",
                                                "inputs, outputs, mixes of passes", "blocks of logits"};

// Lays it out; over areas without a base it only measures them.
static inline void ponder_lay_out(Ponder* m, Arena area[AREAS], int training) {
    int passes = m->config.steps + 1, first = training ? 0 : passes * m->pass->size.L;
    area[AREA_KEPT].used = slots_measure(&m->slots, m->pass, m->architecture->keep, passes, first);
    m->slots.base = area[AREA_KEPT].base;
    m->pass->cpu.work = area[AREA_WORK].base;
    m->pass->cpu.training = training;
    m->architecture->prepare(m->pass, &area[AREA_WORK], training);
    ponder_passes(m, &area[AREA_PASSES], training);
    ponder_blocks(m, &area[AREA_BLOCKS], training);
}

// Bytes of what is in fp32 beside it in a training step, where layers store bf16: attention's numbers, the sums of the
// largest product, rows of logits that threads work on.
static inline double ponder_beside(const Ponder* m) {
    const Sizes* size = &m->pass->size;
    size_t N = m->pass->N, V = (size_t)size->V, Q = (size_t)(size->NH * size->HS), K = (size_t)(size->NKV * size->HS);
    size_t sums = max_size(mul_size(min_size(N, MIX_ROWS), V, "logits"), N * tensors_widest(&m->model.tensors));
    size_t rows = (size_t)thread_count() * V * (m->config.steps > 0 ? 2 : 1);
    return sizeof(real) * (double)(attention_needs(N, Q, Q + 2 * K, 1) + sums + rows);
}

static inline void ponder_allocate(Model* model, int training) {
    Ponder* m = ponder_of(model);
    Arena measured[AREAS], area[AREAS];
    memset(measured, 0, sizeof measured);
    ponder_lay_out(m, measured, training);
    for (int i = 0; i < AREAS; i++) { area[i] = arena_at((char*)xalloc(measured[i].used, 1, ponder_areas[i])); }
    ponder_lay_out(m, area, training);
    model->params = (real*)xalloc(model->tensors.total, sizeof(real), "parameters");
    if (training) { model->grads = (real*)xalloc(model->tensors.total, sizeof(real), "gradients"); }
    tensors_bind(&model->tensors, model->params, model->grads);
}

static inline void ponder_use_cuda(Model* model, const OptionTable* options);

// Wires a pass whose sizes are known and checked into a Model.
static inline Model* ponder_model(const Architecture* architecture, Pass* pass, PonderConfig config, int B, int T) {
    Ponder* m = (Ponder*)xalloc(1, sizeof(Ponder), "the model");
    const Sizes* size = &pass->size;
    m->architecture = architecture;
    m->pass = pass;
    m->config = config;
    if (m->config.top_k >= size->V) { m->config.top_k = 0; }  // all tokens: nothing to select
    pass->N = mul_size((size_t)B, (size_t)T, "positions of a micro-batch");
    Model* model = &m->model;
    model->self = m;
    model->V = size->V;
    model->T = T;
    model->B = B;
    model->passes = config.steps + 1;
    architecture->tensors(pass, &model->tensors, config.steps + 1, config.ponder_init);
    Tensor* list = model->tensors.list;
    for (int i = 0, table = 0; size->untied && i < model->tensors.count; i++) {
        if (list[i].weight == &pass->embed) { table = i; }
        if (list[i].weight == &pass->head) { list[i].copy_of = list[table].name; }
    }
    for (int i = 0; i < model->tensors.count; i++) {
        list[i].rounded |= list[i].weight == &pass->head;  // not the tied
        list[i].twin = size->tie && list[i].weight == &pass->embed ? &pass->head : NULL;
    }

    Arena area[AREAS];
    memset(area, 0, sizeof area);
    ponder_lay_out(m, area, 1);
    double family = (double)(model->tensors.total * sizeof(real));
    model_add_memory(model, "parameters", family);
    model_add_memory(model, "gradients", family);
    for (int i = 0; i < AREAS; i++) { model_add_memory(model, ponder_areas[i], (double)area[i].used); }
    if (KEPT_ROUNDS) { model_add_memory(model, "sums and attention in fp32", ponder_beside(m)); }

    double VC = (double)size->V * (double)size->C, S = config.steps;
    const ModelRow flops[] = {
        {"blocks", tensors_flops(&model->tensors) * (S + 1)},
        {"attention", 6 * (double)T * size->NH * size->HS * size->L * (S + 1)},  // half the square, 2 products forward
        {"vocabulary mix", 12 * VC * S},
        {"loss head", 6 * VC},
    };
    model->flops_rows = (int)(sizeof flops / sizeof flops[0]);
    memcpy(model->flops, flops, sizeof flops);

    model->allocate = ponder_allocate;
    model->train = ponder_train;
    model->evaluate = ponder_evaluate;
    model->logits = ponder_logits;
    model->pass_logits = ponder_pass_logits;
    model->narrow = ponder_narrow;
    model->cache_bytes = ponder_cache_bytes;
    model->cache_begin = ponder_cache_begin;
    model->cache_end = ponder_cache_end;
    model->decode = ponder_decode;
    model->list = ponder_list;
    model->config_json = ponder_config_json;
    model->ignores_tensor = ponder_ignores;
    model->owns_key = ponder_owns_key;
    model->about = ponder_about;
    model->tags = config.steps ? format_string("%s pondering", architecture->stock_type) : architecture->stock_type;
    if (!ponder_is_stock(&m->config)) {
        model->code_name = "modeling_ponder.py";
        model->code_text = modeling_ponder_py;
    }
    return model;
}

// What main() hands to the training loop.
typedef struct {
    ModelClass kind;  // first, so that a ModelClass* of ours is a PonderClass*
    const Architecture* architecture;
    const char* names[32];  // of presets, NULL-terminated
} PonderClass;

// What options make of weights whose config.json says other sizes, where shapes alone would not show it.
static inline void ponder_beside_weights(Model* model, const Sizes* said, const Sizes* now, const char* path) {
    if (now->NH != said->NH) {
        model->other_weights = format_string(
            "--heads %d: the weights were made with %d heads (%s); with another number every tensor may fit, and "
            "another model would be computed; leave --heads out",
            now->NH, said->NH, path);
    }
    for (int i = 0; i < model->tensors.count && now->tie && !said->tie; i++) {
        if (model->tensors.list[i].alias) { model->tensors.list[i].tied_by = "--tie 1"; }
    }
}

static inline Model* ponder_create(const ModelClass* kind, const OptionTable* options, const char* preset,
                                   const Json* config, const char* path, int B, int T) {
    const Architecture* a = ((const PonderClass*)kind)->architecture;
    Pass* pass = (Pass*)xalloc(1, a->pass_size, "the model");
    for (const Preset* p = a->presets; p->name && preset; p++) {
        if (strcmp(p->name, preset) == 0) { pass->size = p->size, path = preset; }
    }
    if (config) { ponder_check_type(a, config, path); }
    a->read_config(pass, config, path);
    // Llama 3's configuration says 131,072 positions: where none has an embedding, nobody means rows of so many.
    int length = pass->size.P ? pass->size.P : a->usual_length;
    if (config && !options_prompts(options) && a->any_length && length > a->usual_length) { length = a->usual_length; }
    pass->T = T ? T : length;
    if (preset) { pass->size.P = pass->T; }
    const Sizes said = pass->size;
    sizes_override(options, a->usual_ff, &pass->size);
    sizes_check_heads(&pass->size, path);
    a->check(pass, path);
    Model* model = ponder_model(a, pass, ponder_config(options, config, path), B, pass->T);
    if (config) { ponder_beside_weights(model, &said, &pass->size, path); }
    ponder_use_cuda(model, options);
    return model;
}

static inline const ModelClass* ponder_class(PonderClass* c, const Architecture* architecture) {
    memset(c, 0, sizeof *c);
    c->architecture = architecture;
    for (size_t i = 0; architecture->presets[i].name && i + 1 < sizeof c->names / sizeof c->names[0]; i++) {
        c->names[i] = architecture->presets[i].name;
    }
    c->kind.program = architecture->program;
    c->kind.default_preset = architecture->default_preset;
    c->kind.presets = c->names;
    c->kind.add_options = ponder_add_options;
    c->kind.create = ponder_create;
    return &c->kind;
}

// A whole program; the exit status of main().
static inline int ponder_main(int argc, char** argv, const Architecture* architecture) {
    static PonderClass c;
    return trainer_main(argc, argv, ponder_class(&c, architecture));
}

// ------------------------------------------------------------------------------------------------
// [5] CUDA: the same layers and passes on the GPU
//
// Twins of sections [2] to [4], judged by them. e, de, losses and every sum are fp32; what enters a product (h, p,
// dz, the weights, the gradient by the mix) is floatX: bf16, or float in the fp32 program. Vp = V rounded up to 128:
// rows of logits are aligned, and the padding is 0 in p and dz, so it reaches nothing.
#if GPU

#include "common/comparison.cuh"
#include "common/decode.cuh"
#include "common/graph.cuh"
#include "common/matmul.cuh"
#include "common/plan.cuh"
#include "common/run/zero.cuh"
#include "common/rehearsal.cuh"
#include "common/rows.cuh"
#include "common/transfers.cuh"

enum { MIX_BLOCK_BYTES = 1 << 30, MIX_ROWS_LEAST = 1024 };

// Rows of logits that exist at a time: N in equal blocks of at most a gigabyte. From shapes alone, so that it
// changes no bit from card to card. Every block reads and writes the fp32 gradients (V,C) of both tables, 8
// bytes for 2 R FLOPs: at R = 2048 that takes half as long as the product itself on an H100, at 8192 an
// eighth. Hence large blocks, and never fewer than 1024 rows.
static inline size_t mix_rows_cuda(size_t N, size_t Vp) {
    size_t most = max_size(MIX_BLOCK_BYTES / (Vp * sizeof(floatX)), MIX_ROWS_LEAST);
    size_t blocks = div_up(N, most);
    return min_size(N, max_size(round_up(div_up(N, blocks), 64), MIX_ROWS_LEAST));
}

// dmix (N,C) floatX = de rounded, the form in which it enters products; dot (N) = sum over C of dmix * mix,
// mix = next - e. That is rowsum(p * dp), so that the softmax backward needs no second pass over V.
static __global__ void __launch_bounds__(128)
    mix_dot_kernel(floatX* dmix, float* dot, const float* de, const float* e, const float* next, size_t C, int whole) {
    SHARED(float, scratch, 32);
    size_t n = blockIdx.x;
    float sum = 0;
    for (size_t i = (size_t)threadIdx.x * PACK; i < C; i += (size_t)blockDim.x * PACK) {
        float x[PACK], a[PACK], b[PACK];
        load_pack_of(x, de + n * C, i, C, whole, 0.0f);
        load_pack_of(a, e + n * C, i, C, whole, 0.0f);
        load_pack_of(b, next + n * C, i, C, whole, 0.0f);
        store_pack_of(dmix + n * C, x, i, C, whole);
        for (int k = 0; k < PACK; k++) { sum = fmaf(rounded(x[k]), b[k] - a[k], sum); }
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) { dot[n] = sum; }
}
static inline void mix_dot_cuda(floatX* dmix, float* dot, const float* de, const float* e, const float* next, size_t N,
                                size_t C) {
    states(3.0 * (double)N * (double)C, (double)N * (double)C * (12.0 + sizeof(floatX)));
    launch(mix_dot_kernel, (unsigned)N, 128, 0, device.stream, dmix, dot, de, e, next, C, C % PACK == 0);
}

// next (N,C) = e + a p W_in, p = softmax(top_k(h W_out^T / temperature)): the mix, fused with its addition to e. p
// has Vp columns: `rows` rows, used again by every block, or with keep all N, for the backward.
static inline void mix_forward_cuda(float* next, floatX* p, const float* e, const floatX* h, const floatX* w_out,
                                    const floatX* w_in, size_t N, size_t C, size_t V, float a, float temperature,
                                    size_t top_k, size_t rows, int keep) {
    size_t Vp = round_up(V, PADDED_ROWS);
    for (size_t first = 0; first < N; first += rows) {
        size_t R = min_size(rows, N - first);
        floatX* block = keep ? p + first * Vp : p;
        gemm_cuda("mix: scores", 0, 1, R, Vp, C, 1 / temperature, h + first * C, C, w_out, C, 0, block, Vp, NULL);
        softmax_rows_cuda(block, R, V, Vp, top_k);
        gemm_float_cuda("mix: mean embedding", 0, 0, R, C, Vp, a, block, Vp, w_in, C, 1, next + first * C, C,
                        e + first * C);
    }
}

// Given de (N,C), the gradient by next: dh (N,C) = gradient by h; dw_in, dw_out (V,C) += (they sum over passes,
// blocks and micro-batches). p: what the forward kept, or (keep = 0) room to compute it again. Scratch: dz
// (rows,Vp), dot (N), dmix (N,C).
//   dp = a dmix W_in^T;  dz = p (dp - dot) / temperature;  dW_in += a p^T dmix;  dh = dz W_out;  dW_out += dz^T h
static inline void mix_backward_cuda(floatX* dh, float* dw_in, float* dw_out, floatX* p, floatX* dz, float* dot,
                                     floatX* dmix, const float* de, const float* e, const float* next, const floatX* h,
                                     const floatX* w_out, const floatX* w_in, size_t N, size_t C, size_t V, float a,
                                     float temperature, size_t top_k, size_t rows, int keep) {
    size_t Vp = round_up(V, PADDED_ROWS);
    mix_dot_cuda(dmix, dot, de, e, next, N, C);
    for (size_t first = 0; first < N; first += rows) {
        size_t R = min_size(rows, N - first);
        floatX* block = keep ? p + first * Vp : p;
        if (!keep) {  // the very launches of the forward: the same bits
            gemm_cuda("mix: scores", 0, 1, R, Vp, C, 1 / temperature, h + first * C, C, w_out, C, 0, block, Vp, NULL);
            softmax_rows_cuda(block, R, V, Vp, top_k);
        }
        gemm_cuda("mix: dp", 0, 1, R, Vp, C, a, dmix + first * C, C, w_in, C, 0, dz, Vp, NULL);
        softmax_rows_backward_cuda(dz, block, dot + first, R, Vp, temperature);
        gemm_float_cuda("mix: dW_in", 1, 0, Vp, C, R, a, block, Vp, dmix + first * C, C, 1, dw_in, C, NULL);
        gemm_cuda("mix: dh", 0, 0, R, C, Vp, 1, dz, Vp, w_out, C, 0, dh + first * C, C, NULL);
        gemm_float_cuda("mix: dW_out", 1, 0, Vp, C, R, 1, dz, Vp, h + first * C, C, 1, dw_out, C, NULL);
    }
}

// losses (N) = -log softmax(h W_out^T)[target], 0 where the target is -1; z (rows,Vp): work space.
static inline void head_forward_cuda(float* losses, floatX* z, const floatX* h, const int* targets, const floatX* w_out,
                                     size_t N, size_t C, size_t V, size_t rows) {
    size_t Vp = round_up(V, PADDED_ROWS);
    for (size_t first = 0; first < N; first += rows) {
        size_t R = min_size(rows, N - first);
        gemm_cuda("head: logits", 0, 1, R, Vp, C, 1, h + first * C, C, w_out, C, 0, z, Vp, NULL);
        cross_entropy_rows_cuda(losses + first, z, targets + first, NULL, R, V, Vp);
    }
}

// The same losses, and their gradients scaled by *scale: dh (N,C) = , dw_out (V,C) += .
static inline void head_forward_backward_cuda(float* losses, floatX* dh, float* dw_out, floatX* z, const floatX* h,
                                              const int* targets, const floatX* w_out, size_t N, size_t C, size_t V,
                                              const float* scale, size_t rows) {
    size_t Vp = round_up(V, PADDED_ROWS);
    for (size_t first = 0; first < N; first += rows) {
        size_t R = min_size(rows, N - first);
        gemm_cuda("head: logits", 0, 1, R, Vp, C, 1, h + first * C, C, w_out, C, 0, z, Vp, NULL);
        cross_entropy_rows_cuda(losses + first, z, targets + first, scale, R, V, Vp);
        gemm_cuda("head: dh", 0, 0, R, C, Vp, 1, z, Vp, w_out, C, 0, dh + first * C, C, NULL);
        gemm_float_cuda("head: dW_out", 1, 0, Vp, C, R, 1, z, Vp, h + first * C, C, 1, dw_out, C, NULL);
    }
}

// ---- memory ----

typedef struct PonderCuda {
    Plan plan;
    Slots slots;
    Families families;
    Batch batch;
    Graph graph;
    Decode decode;       // of texts that are continued
    size_t narrow;       // most positions of a call without training; 0: a whole micro-batch
    size_t rows;         // of logits at a time
    float* e;            // (S+1, N,C)
    floatX* h;           // (S+1, N,C)
    float* de;           // (N,C)
    floatX* dmix;        // (N,C) de, rounded
    floatX* dh;          // (N,C)
    float* dot;          // (N)
    float* parts;        // of the embedding's gradient (rows.cuh)
    floatX* z;           // (rows,Vp)
    floatX* dz;          // (rows,Vp)
    floatX* p;           // (S, N,Vp) kept probabilities, or NULL
    int* text;           // (N) on the host: tokens of a sample, padded
    PlanTable compared;  // of the choice of rows, or else of what is computed again
    int64_t step_rows;   // of a step; 0: not known, a micro-batch
    int asked;           // --recompute, -1: not given
    const Card* card;    // of --plan=CARD, else NULL
    int tune;
} PonderCuda;

static inline void ponder_passes_cuda(Ponder* m, Arena* a, int training) {
    PonderCuda* c = m->cuda;
    size_t N = m->pass->N, C = (size_t)m->pass->size.C, NC = N * C, S = (size_t)m->config.steps;
    size_t NC_back = training ? NC : 0;
    c->e = TAKE(a, float, "inputs of passes", (S + 1) * NC);
    c->h = TAKE(a, floatX, "outputs of passes", (S + 1) * NC);
    c->de = TAKE(a, float, "gradient of the input", NC_back);
    c->dmix = TAKE(a, floatX, "gradient of the mix, rounded", NC_back);
    c->dh = TAKE(a, floatX, "gradient of the output", NC_back);
    c->dot = TAKE(a, float, "dots of the mix", training ? N : 0);
    c->parts = TAKE(a, float, "parts of the embedding's gradient", training ? embedding_parts(N, C) : 0);
    batch_take(&c->batch, a, N, N / (size_t)m->pass->T);
}
static inline void ponder_blocks_cuda(Ponder* m, Arena* a, int training) {
    PonderCuda* c = m->cuda;
    size_t Vp = round_up((size_t)m->pass->size.V, PADDED_ROWS);
    c->rows = mix_rows_cuda(m->pass->N, Vp);
    c->z = TAKE(a, floatX, "logits", c->rows * Vp);
    c->dz = TAKE(a, floatX, "gradient of logits", training && m->config.steps > 0 ? c->rows * Vp : 0);
}
// How many layers keep nothing, counted over all passes from the first on. recompute 0: everything is kept; 1: norms and
// activations are computed again; 1+n: also the n earliest layers, whole. The last pass always keeps its own: into their
// places those of earlier passes are computed again.
static inline int ponder_first(const Ponder* m, int training, int recompute) {
    return !training ? (m->config.steps + 1) * m->pass->size.L : recompute > 1 ? recompute - 1 : 0;
}
static inline int ponder_recomputes(const Ponder* m) { return 1 + m->config.steps * m->pass->size.L; }

// The CUDA half's memory, area by area; the last has cuBLASLt's workspace beside it.
enum { CUDA_WEIGHTS, CUDA_KEPT, CUDA_P, CUDA_PASSES, CUDA_BLOCKS, CUDA_WORK, CUDA_AREAS };
static const char* const ponder_areas_cuda[CUDA_AREAS] = {
    "weights, gradients, moments",  "activations kept", "probabilities kept",
    "inputs and outputs of passes", "blocks of logits", "a layer at work, cuBLASLt"};

// Lays it out for one setting; over areas without a base it only measures them.
static inline void ponder_lay_out_cuda(Ponder* m, Arena area[CUDA_AREAS], int training, int recompute, int keep_p) {
    PonderCuda* c = m->cuda;
    Pass* pass = m->pass;
    int first = ponder_first(m, training, recompute);
    pass->gpu.again = recompute > 0;
    pass->gpu.training = training;
    pass->gpu.work = area[CUDA_WORK].base;
    families_take(&c->families, &area[CUDA_WEIGHTS], training);
    area[CUDA_KEPT].used = slots_measure(&c->slots, pass, m->architecture->cuda->keep, m->config.steps + 1, first);
    c->slots.base = area[CUDA_KEPT].base;
    size_t Vp = round_up((size_t)pass->size.V, PADDED_ROWS), S = (size_t)m->config.steps;
    c->p = TAKE(&area[CUDA_P], floatX, "probabilities", keep_p ? S * pass->N * Vp : 0);
    ponder_passes_cuda(m, &area[CUDA_PASSES], training);
    ponder_blocks_cuda(m, &area[CUDA_BLOCKS], training);
    m->architecture->cuda->prepare(pass, &area[CUDA_WORK], training);
}

// The plan of one setting for B rows. It only measures, with the pointers of a model that has no memory yet.
static inline Plan ponder_plan_of(Model* model, int training, int recompute, int keep_p, int B) {
    Ponder* m = ponder_of(model);
    Plan plan;
    Arena area[CUDA_AREAS];
    if (m->cuda->e) { die("a plan is made before memory is taken"); }
    memset(&plan, 0, sizeof plan);
    memset(area, 0, sizeof area);
    plan.B = B;
    plan.recompute = recompute;
    plan.keep = keep_p && training && m->config.steps > 0;
    size_t N = m->pass->N, all = (size_t)B * (size_t)model->T;
    m->pass->N = m->cuda->narrow && !training ? m->cuda->narrow : all;
    ponder_lay_out_cuda(m, area, training, recompute, plan.keep);
    for (int i = 0; i < CUDA_AREAS; i++) {
        plan_add(&plan, ponder_areas_cuda[i], area[i].used + (i == CUDA_WORK ? MATMUL_WORKSPACE : 0));
    }
    m->pass->N = N;
    return plan;
}

static inline void ponder_bind_cuda(Ponder* m) {
    const Families* f = &m->cuda->families;
    families_bind(f, &m->model.tensors);
    if (m->pass->size.tie) { m->pass->head = m->pass->embed; }
}

// Lays a setting out at addresses that nothing may be written to, so that its launches can be booked; NULL: undoes it.
static inline void ponder_plan_dry(Model* model, const Plan* plan) {
    Ponder* m = ponder_of(model);
    int dry = ledger.dry, recompute = plan ? plan->recompute : 0, keep_p = plan ? plan->keep : 0;
    Arena area[CUDA_AREAS];
    memset(area, 0, sizeof area);
    m->pass->N = (size_t)(plan ? plan->B : model->B) * (size_t)model->T;
    ledger.dry = 1;
    ponder_lay_out_cuda(m, area, 1, recompute, keep_p);
    uintptr_t at = (uintptr_t)((uint64_t)1 << 40);
    for (int i = 0; i < CUDA_AREAS && plan; i++) {
        size_t used = area[i].used;
        area[i] = arena_at(used ? (char*)at : NULL);
        at += used;
    }
    if (plan) {
        ponder_lay_out_cuda(m, area, 1, recompute, keep_p);
        ponder_bind_cuda(m);
    }
    ledger.dry = dry;
}

// Which gradients the layers of pass 0 complete: those between the two tables.
static inline void ponder_tail_completes(const Model* model, size_t* begin, size_t* end) {
    const Ponder* m = ponder_of((Model*)model);
    *end = model->tensors.total;
    for (int i = 0; i < model->tensors.count; i++) {
        const Tensor* t = &model->tensors.list[i];
        if (t->weight == &m->pass->embed) { *begin = t->offset + t->size; }
        if (t->weight == &m->pass->head) { *end = t->offset; }
    }
}
static void ponder_tail_cuda(Model* model, int B, int T);
static inline PlanChoice ponder_choice(const Ponder* m) {
    const char* late = m->pass->size.tie ? "the table, at its end" : "dW_in, at its end";
    PlanChoice choice = {ponder_plan_of,
                         ponder_plan_dry,
                         ponder_recomputes(m),
                         m->config.steps > 0,
                         "probabilities",
                         ponder_tail_cuda,
                         ponder_tail_completes,
                         "dW_out, before pass 0 backwards",
                         late};
    return choice;
}

// Says which setting was chosen, for banner and plan; the caller frees it.
static inline char* ponder_plan_text(const Ponder* m, const Plan* plan) {
    int L = m->pass->size.L, first = ponder_first(m, 1, plan->recompute), whole = first / L, layers = first % L;
    StringBuilder sb;
    memset(&sb, 0, sizeof sb);
    sb_printf(&sb, "--recompute %d: computed again in the backward: %s", plan->recompute,
              plan->recompute == 0 ? "nothing of the layers" : "norms and activations");
    if (whole) { sb_printf(&sb, ", the first %d pass%s whole", whole, whole == 1 ? "" : "es"); }
    if (layers) { sb_printf(&sb, ", %d layer%s of pass %d whole", layers, layers == 1 ? "" : "s", whole); }
    if (m->config.steps > 0) { sb_printf(&sb, "; probabilities of the mix %s", plan->keep ? "kept" : "too"); }
    return sb.data;
}

// What is wanted of a plan, on the card of a dry run or on this GPU.
static inline PlanNeed ponder_need(const Ponder* m, int training) {
    const PonderCuda* c = m->cuda;
    PlanNeed need = {plan_card(c->card), 0, c->step_rows ? c->step_rows : m->model.B, training, c->asked, c->narrow};
    need.memory = plan_usable(need.card.memory);
    return need;
}

// The rows of a micro-batch, for a step of step_rows: those that the card suits best, whatever of it is free. `name`: the
// card of a dry run; "": this GPU.
static inline int ponder_choose_rows(Model* model, const char* name, int64_t step_rows, int training) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = m->cuda;
    c->card = card_find(name);
    c->step_rows = step_rows;
    if (!c->card) { device_open(); }
    PlanNeed need = ponder_need(m, training);
    model->B = ranks_least_rows(plan_rows_of(model, ponder_choice(m), &need, &c->compared));
    m->pass->N = (size_t)model->B * (size_t)model->T;
    return model->B;
}

// Finds the GPU (or takes the card of a dry run) and plans its memory.
static inline void ponder_prepare_cuda(Model* model, int training) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = m->cuda;
    device_open();
    if (training) { model->decode = NULL; }  // its samples are computed anew: the plan has no room for caches
    PlanNeed need = ponder_need(m, training);
    char where[512];
    snprintf(where, sizeof where, "%s", c->card ? c->card->title : device.name);
    if (!c->card) {
        need.memory = plan_free();
        size_t available = 0, all = 0;
        CUDA_CHECK(cudaMemGetInfo(&available, &all));
        snprintf(where, sizeof where, "%s (%.1f of %.1f GB are free)", device.name, (double)available / 1e9,
                 (double)all / 1e9);
    }
    PlanTable own;
    c->plan = plan_fit(model, ponder_choice(m), &need, where, &own);
    if (c->compared.count == 0) { c->compared = own; }
    plan_rows(model, &c->plan);
    // The share of the peak that a run prints refers to the data sheet, also where the ledger has measured limits; of
    // cards that are not in its table it is not known.
    const Card* card = c->card ? NULL : card_of_device(device.name);
    if (card) { model->peak_flops = sizeof(floatX) == 2 ? card->sheet : card->fp32; }
}

static inline void ponder_allocate_cuda(Model* model, int training) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = m->cuda;
    Pass* pass = m->pass;
    if (c->plan.total == 0) { ponder_prepare_cuda(model, training); }
    Arena area[CUDA_AREAS];
    memset(area, 0, sizeof area);
    ponder_lay_out_cuda(m, area, training, c->plan.recompute, c->plan.keep);
    for (int i = 0; i < CUDA_AREAS; i++) {
        area[i] = arena_at(area[i].used ? (char*)device_alloc(area[i].used, ponder_areas_cuda[i]) : NULL);
    }
    ponder_lay_out_cuda(m, area, training, c->plan.recompute, c->plan.keep);
    ponder_bind_cuda(m);
    if (ledger.dry) { return; }
    batch_start(&c->batch, pass->N, (size_t)pass->size.V);
    c->text = (int*)xalloc(pass->N, sizeof(int), "tokens");
    families_start(&c->families);
    nccl_open();
    model->params = (real*)xalloc(model->tensors.total, sizeof(real), "parameters on the host");
    if (!training && c->tune) { rehearse_evaluation(); }
}

// ---- the passes ----

static inline void ponder_forward_cuda(Ponder* m, int B, int T, int keep) {
    const PonderConfig* config = &m->config;
    const PonderCuda* c = m->cuda;
    Pass* pass = m->pass;
    size_t C = (size_t)pass->size.C, V = (size_t)pass->size.V, N = (size_t)B * (size_t)T, stride = ponder_stride(m);
    size_t p_stride = c->p ? pass->N * round_up(V, PADDED_ROWS) : 0;  // from a step to the next
    ledger_part(PART_BLOCKS);
    embedding_forward_cuda(c->e, c->batch.tokens, pass->embed.master, N, C, ponder_token_scale(m));
    for (int s = 0; s <= config->steps; s++) {
        float* e = c->e + (size_t)s * stride;
        floatX* h = c->h + (size_t)s * stride;
        ledger_part(PART_BLOCKS);
        pass->gpu.place = slots_enter(&c->slots, s, keep ? SLOTS_FORWARD : SLOTS_EVALUATE);
        pass->cache_cuda = c->decode.caches ? &c->decode.caches[s] : NULL;
        m->architecture->cuda->forward(pass, h, e, B, T, pass->size.L);
        if (s == config->steps) { break; }
        ledger_part(PART_BETWEEN);
        mix_forward_cuda(e + stride, c->p ? c->p + (size_t)s * p_stride : c->z, e, h, pass->head.x, pass->embed.x, N, C,
                         V, ponder_scale(m), (float)config->temperature, (size_t)config->top_k, c->rows, c->p != NULL);
    }
}

// The layers of pass s backwards, of which those that kept nothing are first computed again.
static inline void ponder_backward_cuda(Ponder* m, int s, int B, int T) {
    const PonderCuda* c = m->cuda;
    Pass* pass = m->pass;
    const float* e = c->e + (size_t)s * ponder_stride(m);
    floatX* h = c->h + (size_t)s * ponder_stride(m);
    ledger_part(PART_BLOCKS);
    int again = slots_without(&c->slots, s);  // its first layers; of a whole pass h comes out as it was
    pass->gpu.place = slots_enter(&c->slots, s, SLOTS_BACKWARD);
    if (again) { m->architecture->cuda->forward(pass, h, e, B, T, again); }
    m->architecture->cuda->backward(pass, c->de, c->dh, e, B, T);
}

// The end of a micro-batch: dW_out is complete, and of no layer the gradients are, which sum over passes; pass 0 completes
// them, the last layer's first, and then dW_in.
static void ponder_tail_cuda(Model* model, int B, int T) {
    Ponder* m = ponder_of(model);
    const PonderCuda* c = m->cuda;
    size_t N = (size_t)B * (size_t)T;
    ponder_backward_cuda(m, 0, B, T);
    ledger_part(PART_BLOCKS);
    embedding_backward_cuda(m->pass->embed.grad, c->parts, c->batch.tokens + 3 * N, c->batch.tokens + 2 * N, c->de, N,
                            (size_t)m->pass->size.C, (size_t)m->pass->size.V, ponder_token_scale(m));
}

// One micro-batch whose tokens, targets, order and scale are on the GPU: everything that a graph captures.
static inline void ponder_micro_batch_cuda(Model* model, int B, int T) {
    Ponder* m = ponder_of(model);
    const PonderConfig* config = &m->config;
    const PonderCuda* c = m->cuda;
    Pass* pass = m->pass;
    size_t C = (size_t)pass->size.C, V = (size_t)pass->size.V, N = (size_t)B * (size_t)T, stride = ponder_stride(m);
    size_t p_stride = c->p ? pass->N * round_up(V, PADDED_ROWS) : 0;
    float *dw_in = pass->embed.grad, *dw_out = pass->head.grad;

    ponder_forward_cuda(m, B, T, 1);
    ledger_part(PART_HEAD);
    head_forward_backward_cuda(c->batch.losses, c->dh, dw_out, c->z, c->h + (size_t)config->steps * stride,
                               c->batch.tokens + N, pass->head.x, N, C, V, c->batch.scale, c->rows);
    losses_sum_cuda(c->batch.sums, c->batch.which, c->batch.losses, N);
    device_zero(c->de, N * C * sizeof(float));
    for (int s = config->steps - 1; s >= 0; s--) {
        const float* e = c->e + (size_t)s * stride;
        const floatX* h = c->h + (size_t)s * stride;
        ponder_backward_cuda(m, s + 1, B, T);
        ledger_part(PART_BETWEEN);
        mix_backward_cuda(c->dh, dw_in, dw_out, c->p ? c->p + (size_t)s * p_stride : c->z, c->dz, c->dot, c->dmix,
                          c->de, e, e + stride, h, pass->head.x, pass->embed.x, N, C, V, ponder_scale(m),
                          (float)config->temperature, (size_t)config->top_k, c->rows, c->p != NULL);
    }
    ponder_tail_cuda(model, B, T);
}

// ---- the model that the training loop drives, on the GPU ----

static inline void ponder_train_ahead_cuda(Model* model, const int* inputs, const int* targets, int B, int T,
                                           double scale) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = m->cuda;
    batch_send(&c->batch, inputs, targets, (size_t)B * (size_t)T, (size_t)model->V, 1, scale);
    graph_run(&c->graph, model, B, T);
    batch_sent(&c->batch);
    for (int s = m->config.steps; s >= 0; s--) {  // a graph tells the slots nothing: this is what its backward left
        slots_enter(&c->slots, s, SLOTS_BACKWARD);
    }
}
static inline double ponder_finish_cuda(Model* model, int* bad) {
    return batch_finish(&ponder_of(model)->cuda->batch, bad);
}
static inline double ponder_train_cuda(Model* model, const int* inputs, const int* targets, int B, int T,
                                       double scale) {
    int bad;
    ponder_train_ahead_cuda(model, inputs, targets, B, T, scale);
    return ponder_finish_cuda(model, &bad);
}

static inline void ponder_evaluate_cuda(Model* model, const int* inputs, const int* targets, int B, int T,
                                        double* row_losses) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = m->cuda;
    size_t N = (size_t)B * (size_t)T;
    batch_upload(&c->batch, inputs, targets, N, (size_t)model->V, 0);
    ponder_forward_cuda(m, B, T, 0);
    for (int s = 0; s <= m->config.steps; s++) {
        head_forward_cuda(c->batch.losses, c->z, c->h + (size_t)s * ponder_stride(m), c->batch.tokens + N,
                          m->pass->head.x, N, (size_t)m->pass->size.C, (size_t)model->V, c->rows);
        batch_row_losses(&c->batch, row_losses + s * B, (size_t)B, (size_t)T);
    }
}

static inline void ponder_pass_logits_cuda(Model* model, int pass, int first, int step, int n, real* logits) {
    Ponder* m = ponder_of(model);
    const PonderCuda* c = m->cuda;
    size_t C = (size_t)m->pass->size.C, V = (size_t)model->V, Vp = round_up(V, PADDED_ROWS), rows = (size_t)n;
    const floatX* h = c->h + (size_t)pass * ponder_stride(m) + (size_t)first * C;
    for (size_t done = 0; done < rows; done += c->rows) {
        size_t R = min_size(c->rows, rows - done);
        gemm_cuda("head: logits", 0, 1, R, Vp, C, 1, h + done * (size_t)step * C, (size_t)step * C, m->pass->head.x, C,
                  0, c->z, Vp, NULL);
        rows_download(logits + done * V, c->z, R, V, Vp);
    }
}

static inline void ponder_logits_cuda(Model* model, const int* inputs, int B, int T, int last_only, real* logits) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = m->cuda;
    // A text that grows by one token would make new shapes of every product each time. So it is padded to whole 64s,
    // behind the position that is asked for, where causal attention does not look.
    int P = last_only && B == 1 ? (int)min_size(round_up((size_t)T, 64), (size_t)model->T) : T;
    size_t N = (size_t)B * (size_t)P;
    memset(c->text, 0, N * sizeof(int));
    memcpy(c->text, inputs, (size_t)B * (size_t)T * sizeof(int));
    batch_upload(&c->batch, c->text, NULL, N, (size_t)model->V, 0);
    ponder_forward_cuda(m, B, P, 0);
    ponder_pass_logits_cuda(model, m->config.steps, last_only ? T - 1 : 0, last_only ? P : 1, last_only ? B : (int)N,
                            logits);
}

// ---- texts that grow, on the GPU ----

static inline void ponder_narrow_cuda(Model* model, int positions) {
    Ponder* m = ponder_of(model);
    m->cuda->narrow = (size_t)positions;
    ponder_narrow(model, positions);
}
static inline double ponder_cache_bytes_cuda(const Model* model, int rows, int context) {
    return decode_bytes(model->passes, rows, &ponder_of(model)->pass->size, (size_t)context);
}
static inline void ponder_cache_begin_cuda(Model* model, int rows, int context) {
    Ponder* m = ponder_of(model);
    decode_begin(&m->cuda->decode, model->passes, rows, &m->pass->size, (size_t)context, m->cuda->graph.on);
}
static inline void ponder_cache_end_cuda(Model* model) { decode_end(&ponder_of(model)->cuda->decode); }

// All passes over the new tokens that are there, and what follows the last one of each text.
static inline void ponder_token_cuda(Model* model, int B, int T) {
    Ponder* m = ponder_of(model);
    const PonderCuda* c = m->cuda;
    size_t C = (size_t)m->pass->size.C, Vp = round_up((size_t)model->V, PADDED_ROWS);
    ponder_forward_cuda(m, B, T, 0);
    ledger_part(PART_HEAD);
    const floatX* h = c->h + (size_t)m->config.steps * ponder_stride(m) + ((size_t)T - 1) * C;
    gemm_float_cuda("head: logits", 0, 1, (size_t)B, Vp, C, 1, h, (size_t)T * C, m->pass->head.x, C, 0,
                    c->decode.logits, Vp, NULL);
}
// Sends what a call goes on with.
static inline void ponder_call_cuda(Model* model, const int* tokens, int B, int T, const int* rows, const int* first,
                                    const double* u) {
    PonderCuda* c = ponder_of(model)->cuda;
    decode_call(&c->decode, B, T, rows, first, u);
    batch_upload(&c->batch, tokens, NULL, (size_t)B * (size_t)T, (size_t)model->V, 0);
    decode_see(&c->decode, c->batch.tokens, B, T, first, (size_t)model->V);
}
static inline void ponder_decode_cuda(Model* model, const int* tokens, int B, int T, const int* rows, const int* first,
                                      real* logits) {
    Ponder* m = ponder_of(model);
    ponder_call_cuda(model, tokens, B, T, rows, first, NULL);
    if (!logits) {
        ponder_forward_cuda(m, B, T, 0);
        CUDA_CHECK(cudaStreamSynchronize(device.stream));  // whose time it is: the caller counts prompts by themselves
        return;
    }
    decode_run(&m->cuda->decode, model, B, T, 0, ponder_token_cuda);
    decode_download(&m->cuda->decode, logits, (size_t)B, (size_t)model->V);
}

// The launches of a token and of the draw of the next one.
static inline void ponder_draw_launches(Model* model, int B, int T) {
    const PonderCuda* c = ponder_of(model)->cuda;
    const Decode* d = &c->decode;
    ponder_token_cuda(model, B, T);
    sample_rows_cuda(d->drawn, d->logits, (size_t)B, (size_t)model->V, round_up((size_t)model->V, PADDED_ROWS),
                     d->call.draw, d->seen, d->rule);
}
static inline void ponder_draw_cuda(Model* model, const int* tokens, int B, const int* rows, const int* first,
                                    const SampleRule* rule, const double* u, int* drawn) {
    Decode* d = &ponder_of(model)->cuda->decode;
    decode_rule(d, rule);
    ponder_call_cuda(model, tokens, B, 1, rows, first, u);
    decode_run(d, model, B, 1, 1, ponder_draw_launches);
    device_download(drawn, d->drawn, (size_t)B * sizeof(int));
}

static inline void ponder_rehearse_cuda(Model* model, const char* path, const char* text, int64_t rows) {
    PonderCuda* c = ponder_of(model)->cuda;
    rehearse(model, path, text, rows, c->plan.total, c->tune);
    if (c->tune) { graph_expect(&c->graph, (int)(rows < model->B ? rows : model->B), model->T); }
}

// As ponder_list().
static inline void ponder_list_cuda(Model* model, Places* places, size_t n) {
    Ponder* m = ponder_of(model);
    const PonderCuda* c = m->cuda;
    size_t C = (size_t)m->pass->size.C, stride = ponder_stride(m);
    families_list(model, places);
    for (int s = 0; s <= m->config.steps; s++) {
        size_t at = (size_t)s * stride;
        places_add(places, format_string("pass %d: input embeddings", s), c->e + at, n * C, sizeof(float));
        slots_list(&c->slots, places, m->pass, m->architecture->cuda->keep, s, n);
        places_add(places, format_string("pass %d: hidden states", s), c->h + at, n * C, sizeof(floatX));
    }
    places_add(places, format_string("%s", LIST_LOSSES), c->batch.losses, n, sizeof(float));
    model_list_family(model, places, LIST_GRADIENT, c->families.grads);
}

static inline void ponder_print_ledger(Model* model, const char* name, int64_t step_rows, const Cluster* cluster) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = m->cuda;
    ledger.dry = 1;
    c->card = card_find(name);
    c->step_rows = step_rows;
    ponder_allocate_cuda(model, 1);
    char* text = ponder_plan_text(m, &c->plan);
    PlanChoice choice = ponder_choice(m);
    PlanNeed need = ponder_need(m, 1);
    plan_print(model, &choice, &need, &c->compared, &c->plan, text, cluster);
    free(text);
}

// --plan=CARD --generate: what the last token of `rows` texts takes that fill a context, and what it would take to compute
// all their positions anew.
static inline void ponder_print_token(Model* model, const char* name, int rows, int context) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = m->cuda;
    ledger.dry = 1;
    c->card = card_find(name);
    ponder_allocate_cuda(model, 0);
    size_t caches = (size_t)ponder_cache_bytes_cuda(model, rows, context), before = device.taken;
    ponder_cache_begin_cuda(model, rows, context);
    int* call = (int*)xalloc(2 * (size_t)rows, sizeof(int), "texts");
    for (int b = 0; b < rows; b++) { call[b] = b, call[rows + b] = context - 1; }
    decode_call(&c->decode, rows, 1, call, call + rows, NULL);
    free(call);
    const Card card = plan_card(c->card);
    plan_add(&c->plan, "caches of keys and values", caches);
    plan_add(&c->plan, "attention over them, draws", device.taken - before - caches);
    plan_print_card(&card);
    plan_print_memory(&c->plan);
    plan_check_texts(&c->plan, &card, rows, context);
    ledger_clear();
    c->decode.rule.temperature = c->decode.rule.top_p = c->decode.rule.penalty = 1;
    ponder_draw_launches(model, rows, 1);
    double token = plan_print_booked("a token of each text, as the limits allow", &card, -1);
    printf("at most %.0f tokens/s; a limit, not a forecast\n\n", rows / token);

    free(c->decode.caches);
    c->decode.caches = NULL;
    Arena area[CUDA_AREAS];
    memset(area, 0, sizeof area);
    m->pass->N = (size_t)rows * (size_t)context;
    ponder_lay_out_cuda(m, area, 0, 0, 0);
    ledger_clear();
    ponder_token_cuda(model, rows, context);
    double all = ledger_total(&card, sizeof(floatX) == 2);
    printf("all %d positions of each text anew, without caches: %.2f ms at least, %.1f times as long\n", context,
           1e3 * all, all / token);
}

static inline char* ponder_device_text(const Model* model) {
    const Ponder* m = ponder_of(model);
    char* plan = ponder_plan_text(m, &m->cuda->plan);
    char* text = format_string("%s, %s", device_text(), plan);
    free(plan);
    return text;
}

static inline void half_forward(Model* model, const int* inputs, const int* targets, int B, int T) {
    (void)targets;
    ponder_forward(ponder_of(model), inputs, B, T, 1);
}
static inline void half_forward_cuda(Model* model, const int* inputs, const int* targets, int B, int T) {
    Ponder* m = ponder_of(model);
    batch_upload(&m->cuda->batch, inputs, targets, (size_t)B * (size_t)T, (size_t)model->V, 1);
    ponder_forward_cuda(m, B, T, 1);
}
static inline int ponder_compare_cpu(Model* model, const int* inputs, const int* targets, int B, int T, int64_t count) {
    const Half cpu = {ponder_allocate, half_forward, ponder_train, ponder_list};
    const Half gpu = {NULL, half_forward_cuda, ponder_train_cuda, ponder_list_cuda};
    return compare_halves(model, &cpu, &gpu, inputs, targets, B, T, count);
}

// Makes a model compute on the GPU; called once its CPU half is wired.
static inline void ponder_use_cuda(Model* model, const OptionTable* options) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = m->cuda = (PonderCuda*)xalloc(1, sizeof(PonderCuda), "the model");
    if (m->pass->size.HS > m->architecture->cuda->most_head) {
        die("heads of %d numbers: on a GPU they may have at most %d; build/%s, the CPU program, takes any",
            m->pass->size.HS, m->architecture->cuda->most_head, m->architecture->program);
    }
    families_drive(model, &c->families);
    c->asked = options_set(options, "recompute") ? (int)options_int(options, "recompute") : -1;
    if (options_given(options, "compare-cpu") && c->asked < 0) { c->asked = 0; }
    c->graph.on = options_int(options, "graph") != 0;
    c->tune = options_int(options, "tune") != 0;
    ledger_part_names[PART_BETWEEN] = "vocabulary mix";
    if (c->asked > ponder_recomputes(m)) {
        die("--recompute %d: with --ponder %d and %d layers it is at most %d (norms, activations and the layers of the "
            "first %d of %d passes)",
            c->asked, m->config.steps, m->pass->size.L, ponder_recomputes(m), m->config.steps, m->config.steps + 1);
    }
    model->memory_rows = 0;
    model->choose_rows = ponder_choose_rows;
    model->prepare = ponder_prepare_cuda;
    model->allocate = ponder_allocate_cuda;
    model->train = ponder_train_cuda;
    model->train_ahead = ponder_train_ahead_cuda;
    model->finish = ponder_finish_cuda;
    model->micro_batch = ponder_micro_batch_cuda;
    model->evaluate = ponder_evaluate_cuda;
    model->logits = ponder_logits_cuda;
    model->pass_logits = ponder_pass_logits_cuda;
    model->narrow = ponder_narrow_cuda;
    model->cache_bytes = ponder_cache_bytes_cuda;
    model->cache_begin = ponder_cache_begin_cuda;
    model->cache_end = ponder_cache_end_cuda;
    model->decode = ponder_decode_cuda;
    model->draw = ponder_draw_cuda;
    model->list = ponder_list_cuda;
    model->finite = device_finite;
    model->rehearse = ponder_rehearse_cuda;
    model->device_text = ponder_device_text;
    model->arithmetic = PRECISION " on a GPU";
    ranks_drive(model);
    zero_drive(model, options);
    model->print_ledger = ponder_print_ledger;
    model->print_token = ponder_print_token;
    model->compare_cpu = ponder_compare_cpu;
}

#else
static inline void ponder_use_cuda(Model* model, const OptionTable* options) { (void)model, (void)options; }
#endif

#endif

// train_pythia.cu - Pythia (GPT-NeoX), trained to ponder.
//
//     cc -x c -std=gnu11 -O3 -ffp-contract=off -fopenmp train_pythia.cu -lm      the CPU program
//
// This file knows one architecture and nothing of pondering: it turns input embeddings (B,T,C)
// into hidden states (B,T,C), forward and backward. ponder.cuh calls that a PASS, runs it S+1
// times, and adds embedding, vocabulary mix and loss. The files in common/ do the rest.
//
//   [1] configuration and presets
//   [2] tensor table
//   [3] activations
//   [4] layers (C): LayerNorm, linear with residual, rotary positions, GELU; forward, backward
//   [5] one pass (C), forward and backward
//   [6] kernels that only this architecture has (CUDA)
//   [7] one pass (CUDA), forward and backward
//   [8] main
//
// One layer, x -> x + attention(LN1 x) + mlp(LN2 x): both branches read the same input.
// Sizes: B rows, T positions, N = B*T, C width, NH heads, HS = C/NH head size, FF = mlp width,
// L layers. Source of the architecture: Black et al., "GPT-NeoX-20B", arXiv 2204.06745; Biderman
// et al., "Pythia", arXiv 2304.01373; tensor names and layouts are Hugging Face's GPTNeoX.

#include "ponder.cuh"

#include "common/attention.h"
#include "modeling_ponder.h"  // modeling_ponder.py as a string, made by make

// ------------------------------------------------------------------------------------------------
// [1] Configuration and presets

typedef struct {
    int L, C, NH, FF, V;
    double rotary_pct;   // share of each head that is rotated
    double rotary_base;  // of the geometric series of wavelengths
    double eps;          // of LayerNorm
    int tie;             // 1: the head is the input table
    int max_positions;   // written to config.json
} PythiaConfig;

typedef struct {
    const char* name;
    int L, C, NH, FF, V;
} PythiaPreset;

static const PythiaPreset pythia_presets[] = {
    {"pythia-14m", 6, 128, 4, 512, 50304},       {"pythia-31m", 6, 256, 8, 1024, 50304},
    {"pythia-70m", 6, 512, 8, 2048, 50304},      {"pythia-160m", 12, 768, 12, 3072, 50304},
    {"pythia-410m", 24, 1024, 16, 4096, 50304},  {"pythia-1b", 16, 2048, 8, 8192, 50304},
    {"pythia-1.4b", 24, 2048, 16, 8192, 50304},  {"pythia-2.8b", 32, 2560, 32, 10240, 50304},
    {"pythia-6.9b", 32, 4096, 32, 16384, 50432},
};
enum { PYTHIA_PRESETS = sizeof pythia_presets / sizeof pythia_presets[0] };

static const char* const pythia_preset_names[] = {"pythia-14m",  "pythia-31m", "pythia-70m",  "pythia-160m",
                                                  "pythia-410m", "pythia-1b",  "pythia-1.4b", "pythia-2.8b",
                                                  "pythia-6.9b", NULL};

static void pythia_add_options(OptionTable* options) {
    static const Option rows[] = {
        {"model", "tie", OPTION_INT, "", "0|1", 0, 1, RESUME_FIXED,
         "1: the head is the input embedding table [default: 0, or the configuration's]"},
        {"model", "vocab", OPTION_INT, "", "N", 1, 1 << 24, RESUME_FIXED, "vocabulary size [default: the preset's]"},
        {"model", "layers", OPTION_INT, "", "N", 1, 1000, RESUME_FIXED, "layers [default: the preset's]"},
        {"model", "width", OPTION_INT, "", "N", 1, 1 << 20, RESUME_FIXED,
         "width C of the residual stream [default: the preset's]"},
        {"model", "heads", OPTION_INT, "", "N", 1, 1 << 16, RESUME_FIXED, "attention heads [default: the preset's]"},
        {"model", "kv-heads", OPTION_INT, "", "N", 1, 1 << 16, RESUME_FIXED,
         "key/value heads; Pythia has as many as heads"},
        {"model", "ff", OPTION_INT, "", "N", 1, 1 << 22, RESUME_FIXED,
         "inner width of the MLP [default: the preset's; 4 x width with --width]"},
    };
    options_add(options, rows, (int)(sizeof rows / sizeof rows[0]));
    ponder_add_options(options);
}

// A size from config.json: the Hugging Face default where it is absent, an error where it is absurd.
static int pythia_size(const Json* config, const char* key, int64_t fallback, int64_t most, const char* path) {
    int64_t n = json_get_int(config, key, fallback, path);
    if (n < 1 || n > most) { die("%s: %s is %lld, expected 1 to %lld", path, key, (long long)n, (long long)most); }
    return (int)n;
}

// Rotary settings are spelt three ways: rotary_pct and rotary_emb_base; partial_rotary_factor and
// rope_theta; or both of the latter inside rope_parameters. Where several are given they must agree.
static double pythia_rotary(const Json* config, const char* old_key, const char* new_key, double fallback,
                            const char* path) {
    const Json* nested = json_get(config, "rope_parameters");
    double found = NAN;
    const char* from = NULL;
    const struct {
        const Json* object;
        const char* key;
    } places[] = {{nested, new_key}, {config, new_key}, {config, old_key}};
    for (int i = 0; i < 3; i++) {
        if (!places[i].object || places[i].object->type != JSON_OBJECT) { continue; }
        double value = json_get_number(places[i].object, places[i].key, NAN, path);
        if (value != value) { continue; }
        if (from && value != found) {
            die("%s: %s is %g but %s is %g: both say how rotary positions work, expected the same", path, from, found,
                places[i].key, value);
        }
        found = value;
        from = places[i].key;
    }
    return from ? found : fallback;
}

static void pythia_refuse(const Json* config, const char* path) {
    const char* type = json_get_string(config, "model_type", "gpt_neox", path);
    if (strcmp(type, "gpt_neox") != 0 && strcmp(type, "ponder_gpt_neox") != 0) {
        die("%s: model_type is \"%s\", train_pythia reads gpt_neox and ponder_gpt_neox", path, type);
    }
    const char* act = json_get_string(config, "hidden_act", "gelu", path);
    if (strcmp(act, "gelu") != 0) { die("%s: hidden_act is \"%s\", Pythia has \"gelu\" (the erf form)", path, act); }
    if (!json_get_bool(config, "use_parallel_residual", 1, path)) {
        die("%s: use_parallel_residual is false; only the parallel residual of Pythia is supported", path);
    }
    if (!json_get_bool(config, "attention_bias", 1, path)) {
        die("%s: attention_bias is false; Pythia has biases in its attention", path);
    }
    const char* const scalings[] = {"rope_scaling", "rope_parameters"};
    for (int i = 0; i < 2; i++) {
        const Json* scaling = json_get(config, scalings[i]);
        if (!scaling || scaling->type == JSON_NULL) { continue; }
        if (scaling->type != JSON_OBJECT) { die("%s: %s is not an object", path, scalings[i]); }
        const char* kind =
            json_get_string(scaling, "rope_type", json_get_string(scaling, "type", "default", path), path);
        if (strcmp(kind, "default") != 0) {
            die("%s: %s asks for \"%s\" rotary positions; only the unscaled (default) ones are supported", path,
                scalings[i], kind);
        }
    }
    const char* const dropouts[] = {"attention_dropout", "hidden_dropout"};
    for (int i = 0; i < 2; i++) {
        double p = json_get_number(config, dropouts[i], 0, path);
        if (p != 0) { warn("%s: %s is %g, but training here has no dropout; it is ignored", path, dropouts[i], p); }
    }
}

// Command line, then config.json, then preset; dies in words on shapes that do not fit.
static PythiaConfig pythia_config(const OptionTable* options, const char* preset, const Json* config, const char* path,
                                  int T) {
    PythiaConfig c = {.L = 0,
                      .C = 0,
                      .NH = 0,
                      .FF = 0,
                      .V = 0,
                      .rotary_pct = 0.25,
                      .rotary_base = 10000,
                      .eps = 1e-5,
                      .tie = 0,
                      .max_positions = T};
    if (config) {
        pythia_refuse(config, path);
        c.L = pythia_size(config, "num_hidden_layers", 44, 1000, path);
        c.C = pythia_size(config, "hidden_size", 6144, 1 << 20, path);
        c.NH = pythia_size(config, "num_attention_heads", 64, 1 << 16, path);
        c.FF = pythia_size(config, "intermediate_size", 24576, 1 << 22, path);
        c.V = pythia_size(config, "vocab_size", 50432, 1 << 24, path);
        c.rotary_pct = pythia_rotary(config, "rotary_pct", "partial_rotary_factor", 0.25, path);
        c.rotary_base = pythia_rotary(config, "rotary_emb_base", "rope_theta", 10000, path);
        c.eps = json_get_number(config, "layer_norm_eps", 1e-5, path);
        c.tie = json_get_bool(config, "tie_word_embeddings", 0, path);
        int positions = pythia_size(config, "max_position_embeddings", 2048, 1 << 30, path);
        if (positions > T) { c.max_positions = positions; }
    } else {
        for (int i = 0; i < PYTHIA_PRESETS; i++) {
            const PythiaPreset* p = &pythia_presets[i];
            if (strcmp(p->name, preset) == 0) { c.L = p->L, c.C = p->C, c.NH = p->NH, c.FF = p->FF, c.V = p->V; }
        }
        path = preset;
    }
    if (options_given(options, "width") && !options_set(options, "ff")) {
        c.FF = 4 * (int)options_int(options, "width");
    }
    if (options_set(options, "layers")) { c.L = (int)options_int(options, "layers"); }
    if (options_set(options, "width")) { c.C = (int)options_int(options, "width"); }
    if (options_set(options, "heads")) { c.NH = (int)options_int(options, "heads"); }
    if (options_set(options, "ff")) { c.FF = (int)options_int(options, "ff"); }
    if (options_set(options, "vocab")) { c.V = (int)options_int(options, "vocab"); }
    if (options_set(options, "tie")) { c.tie = (int)options_int(options, "tie"); }

    if (c.C % c.NH != 0) { die("%s: width %d is not a multiple of heads %d", path, c.C, c.NH); }
    if (options_set(options, "kv-heads") && options_int(options, "kv-heads") != c.NH) {
        die("--kv-heads is %lld, but Pythia has a key/value head for each of its %d heads",
            (long long)options_int(options, "kv-heads"), c.NH);
    }
    if (!(c.rotary_pct > 0 && c.rotary_pct <= 1)) {
        die("%s: the rotated share of a head is %g, expected more than 0, at most 1", path, c.rotary_pct);
    }
    if (!(c.rotary_base > 1 && c.rotary_base < 1e12)) {
        die("%s: the rotary base is %g, expected more than 1 and less than 1e12", path, c.rotary_base);
    }
    if (!(c.eps > 0 && c.eps < 1)) { die("%s: layer_norm_eps is %g, expected between 0 and 1", path, c.eps); }
    int rotated = (int)(c.C / c.NH * c.rotary_pct);
    if (rotated < 2 || rotated % 2 != 0) {
        die("%s: %g of a head of %d is %d rotated numbers, expected an even number above 0", path, c.rotary_pct,
            c.C / c.NH, rotated);
    }
    return c;
}

// ------------------------------------------------------------------------------------------------
// [2] Tensor table

// Rows of one layer in the tensor table.
typedef struct {
    int ln1w, ln1b;        // (C)
    int ln2w, ln2b;        // (C)
    int qkvw, qkvb;        // (3C,C), (3C): per head q, k, v
    int projw, projb;      // (C,C), (C)
    int fcw, fcb;          // (FF,C), (FF)
    int fcprojw, fcprojb;  // (C,FF), (C)
} PythiaLayer;

typedef struct {
    PythiaConfig config;
    int B, T;            // largest micro-batch
    PythiaLayer* layer;  // (L)
    int lnfw, lnfb;      // (C) final norm
    int embed, head;     // (V,C)
    TensorTable tensors;
    // [3]
    int slots;   // passes whose activations are kept
    size_t N;    // B*T
    real* kept;  // (slots, L, kept numbers of a layer) and (slots, 2N) of the final norm
    real* scratch;
    real *cosine, *sine;  // (T, rotated/2)
    void* cuda;           // [7]'s part, a PythiaCuda; NULL in the CPU program
} Pythia;

// passes = S+1: the paper scales the projections into the residual stream by it.
static void pythia_tensors(Pythia* m, int passes, int ponder_init) {
    const PythiaConfig* c = &m->config;
    size_t C = (size_t)c->C, FF = (size_t)c->FF, V = (size_t)c->V;
    // Ponder: truncated normal of std sqrt(2/5C), residual projections / sqrt(2 L passes). Stock: normal, 0.02.
    Init init = ponder_init ? INIT_TRUNCATED : INIT_NORMAL;
    float std = ponder_init ? (float)sqrt(2.0 / (5.0 * c->C)) : 0.02f;
    float residual_std = ponder_init ? (float)(sqrt(2.0 / (5.0 * c->C)) / sqrt(2.0 * c->L * passes)) : 0.02f;
    TensorTable* t = &m->tensors;
    m->layer = (PythiaLayer*)xalloc((size_t)c->L, sizeof(PythiaLayer), "layers");
    m->embed = tensor_add(t, format_string("gpt_neox.embed_in.weight"), V, C, init, std);
    for (int l = 0; l < c->L; l++) {
        PythiaLayer* y = &m->layer[l];
        const char* at = "gpt_neox.layers";
        y->ln1w = tensor_add(t, format_string("%s.%d.input_layernorm.weight", at, l), C, 0, INIT_ONES, 0);
        y->ln1b = tensor_add(t, format_string("%s.%d.input_layernorm.bias", at, l), C, 0, INIT_ZEROS, 0);
        y->ln2w = tensor_add(t, format_string("%s.%d.post_attention_layernorm.weight", at, l), C, 0, INIT_ONES, 0);
        y->ln2b = tensor_add(t, format_string("%s.%d.post_attention_layernorm.bias", at, l), C, 0, INIT_ZEROS, 0);
        y->qkvw = tensor_add(t, format_string("%s.%d.attention.query_key_value.weight", at, l), 3 * C, C, init, std);
        y->qkvb = tensor_add(t, format_string("%s.%d.attention.query_key_value.bias", at, l), 3 * C, 0, INIT_ZEROS, 0);
        y->projw = tensor_add(t, format_string("%s.%d.attention.dense.weight", at, l), C, C, init, residual_std);
        y->projb = tensor_add(t, format_string("%s.%d.attention.dense.bias", at, l), C, 0, INIT_ZEROS, 0);
        y->fcw = tensor_add(t, format_string("%s.%d.mlp.dense_h_to_4h.weight", at, l), FF, C, init, std);
        y->fcb = tensor_add(t, format_string("%s.%d.mlp.dense_h_to_4h.bias", at, l), FF, 0, INIT_ZEROS, 0);
        y->fcprojw = tensor_add(t, format_string("%s.%d.mlp.dense_4h_to_h.weight", at, l), C, FF, init, residual_std);
        y->fcprojb = tensor_add(t, format_string("%s.%d.mlp.dense_4h_to_h.bias", at, l), C, 0, INIT_ZEROS, 0);
    }
    m->lnfw = tensor_add(t, format_string("gpt_neox.final_layer_norm.weight"), C, 0, INIT_ONES, 0);
    m->lnfb = tensor_add(t, format_string("gpt_neox.final_layer_norm.bias"), C, 0, INIT_ZEROS, 0);
    m->head = c->tie ? m->embed : tensor_add(t, format_string("embed_out.weight"), V, C, init, std);
}

// Tensors that old checkpoints, the reference's or tied ones hold beside the weights.
static int pythia_ignores_tensor(const Model* model, const char* name) {
    const char* const buffers[] = {".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
        size_t k = strlen(buffers[i]);
        if (n >= k && strcmp(name + n - k, buffers[i]) == 0) { return 1; }
    }
    if (strcmp(name, "embed_out.weight") == 0 && tensor_find(&model->tensors, name) < 0) {
        warn("embed_out.weight in the checkpoint is ignored: the head is tied to the input table");
        return 1;
    }
    return strcmp(name, "adapter.weight") == 0 || (n > 15 && strcmp(name + n - 15, ".adapter.weight") == 0);
}

// ------------------------------------------------------------------------------------------------
// [3] Activations

// What a layer keeps for its backward. Norm outputs and GELU outputs are not kept: they are cheap
// to compute again from x, mean, rstd and fc, and would be a third of the memory.
typedef struct {
    real* mean;  // (N) of the layer's input
    real* rstd;  // (N)
    real* qkv;   // (N,3C) after rotation
    real* lse;   // (B,NH,T)
    real* att;   // (N,C)
    real* fc;    // (N,FF) before GELU
    real* next;  // (N,C) the layer's output, the next one's input
} PythiaKept;

// What one layer at work needs; dead when it returns.
typedef struct {
    real* ln;    // (N,C) a norm's output
    real* act;   // (N,FF) GELU's output
    real* dact;  // (N,FF) its gradient, then that of fc
    real* dqkv;  // (N,3C)
    real* datt;  // (N,C)
    real* dln;   // (N,C)
} PythiaScratch;

// Lays out a layer's kept activations from `base`; returns how many numbers they take.
static size_t pythia_kept(PythiaKept* k, real* base, const PythiaConfig* c, size_t N) {
    size_t C = (size_t)c->C;
    size_t size[] = {N, N, N * 3 * C, N * (size_t)c->NH, N * C, N * (size_t)c->FF, N * C};
    real** place[] = {&k->mean, &k->rstd, &k->qkv, &k->lse, &k->att, &k->fc, &k->next};
    size_t at = 0;
    for (size_t i = 0; i < sizeof size / sizeof size[0]; i++) {
        *place[i] = base ? base + at : NULL;
        at += round_up(size[i], ALIGNMENT / sizeof(float));
    }
    return at;
}

static size_t pythia_scratch(PythiaScratch* w, real* base, const PythiaConfig* c, size_t N, int training) {
    size_t C = (size_t)c->C, FF = (size_t)c->FF, b = training ? 1 : 0;
    size_t size[] = {N * C, N * FF, b * N * FF, b * N * 3 * C, b * N * C, b * N * C};
    real** place[] = {&w->ln, &w->act, &w->dact, &w->dqkv, &w->datt, &w->dln};
    size_t at = 0;
    for (size_t i = 0; i < sizeof size / sizeof size[0]; i++) {
        *place[i] = base ? base + at : NULL;
        at += round_up(size[i], ALIGNMENT / sizeof(float));
    }
    return at;
}

// Numbers that one pass keeps: its layers, and mean and rstd of the final norm.
static size_t pythia_pass_size(const Pythia* m) {
    PythiaKept k;
    return mul_size((size_t)m->config.L, pythia_kept(&k, NULL, &m->config, m->N), "activations") +
           2 * round_up(m->N, ALIGNMENT / sizeof(float));
}

// Activations of layer l in a slot. Slot -1 keeps nothing: every layer then uses the same memory,
// slot 0's first layer.
static PythiaKept pythia_layer_kept(const Pythia* m, int slot, int l) {
    PythiaKept k;
    size_t layer = pythia_kept(&k, NULL, &m->config, m->N);
    size_t offset = slot < 0 ? 0 : (size_t)slot * pythia_pass_size(m) + (size_t)l * layer;
    pythia_kept(&k, m->kept + offset, &m->config, m->N);
    return k;
}

// mean (N) of the final norm's input; rstd (N) follows.
static real* pythia_final_kept(const Pythia* m, int slot) {
    size_t pass = pythia_pass_size(m), norm = 2 * round_up(m->N, ALIGNMENT / sizeof(float));
    if (m->slots == 0) {  // one layer is all there is
        PythiaKept k;
        return m->kept + pythia_kept(&k, NULL, &m->config, m->N);
    }
    return m->kept + (size_t)(slot < 0 ? 0 : slot) * pass + pass - norm;
}

static void rotary_tables(real* cosine, real* sine, int T, int rotated, double base);

static void pythia_allocate(void* self, int slots) {
    Pythia* m = (Pythia*)self;
    m->slots = slots;
    PythiaKept k;
    PythiaScratch w;
    size_t one = pythia_kept(&k, NULL, &m->config, m->N) + 2 * round_up(m->N, ALIGNMENT / sizeof(float));
    m->kept = (real*)xalloc(slots ? mul_size((size_t)slots, pythia_pass_size(m), "activations") : one, sizeof(real),
                            "activations");
    m->scratch = (real*)xalloc(pythia_scratch(&w, NULL, &m->config, m->N, slots > 0), sizeof(real), "a layer at work");
    int rotated = (int)(m->config.C / m->config.NH * m->config.rotary_pct);
    m->cosine = (real*)xalloc((size_t)m->T * (size_t)rotated, sizeof(real), "rotary tables");
    m->sine = m->cosine + (size_t)m->T * (size_t)(rotated / 2);
    rotary_tables(m->cosine, m->sine, m->T, rotated, m->config.rotary_base);
}

// ------------------------------------------------------------------------------------------------
// [4] Layers (C)

// mean (N) and rstd (N) = 1/sqrt(variance + eps) of the rows of inp (N,C); Ba et al., arXiv 1607.06450.
// twin: layernorm
static void layernorm_statistics(real* mean, real* rstd, const real* inp, size_t N, size_t C, real eps) {
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t n = 0; n < N; n++) {
        const real* x = inp + n * C;
        real m = row_sum(x, C) / (real)C;
        real variance = row_squares(x, m, C) / (real)C;  // biased, as everywhere in LayerNorm
        mean[n] = m;
        rstd[n] = 1 / real_sqrt(variance + eps);
    }
}

// out (N,C) = (inp - mean) * rstd * weight + bias
static void layernorm_forward(real* out, const real* inp, const real* weight, const real* bias, const real* mean,
                              const real* rstd, size_t N, size_t C) {
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t n = 0; n < N; n++) {
        const real* x = inp + n * C;
        real* y = out + n * C;
        for (size_t i = 0; i < C; i++) { y[i] = (x[i] - mean[n]) * rstd[n] * weight[i] + bias[i]; }
    }
}

// With x^ = (inp - mean) * rstd, so that out = x^ * weight + bias:
//   dbias (C) += sum over rows of dout;  dweight (C) += sum over rows of dout * x^
//   dx^ = dout * weight;  dinp (N,C) += rstd * (dx^ - mean(dx^) - x^ * mean(dx^ * x^))
// Threads share columns for the weights, rows for the input: each sum stays in one hand.
static void layernorm_backward(real* dinp, real* dweight, real* dbias, const real* dout, const real* inp,
                               const real* weight, const real* mean, const real* rstd, size_t N, size_t C) {
    const size_t columns = 64;
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t first = 0; first < C; first += columns) {
        size_t last = min_size(first + columns, C);
        for (size_t n = 0; n < N; n++) {
            for (size_t i = first; i < last; i++) {
                real x_hat = (inp[n * C + i] - mean[n]) * rstd[n];
                dbias[i] += dout[n * C + i];
                dweight[i] = real_fma(dout[n * C + i], x_hat, dweight[i]);
            }
        }
    }
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t n = 0; n < N; n++) {
        const real* x = inp + n * C;
        const real* dy = dout + n * C;
        real* dx = dinp + n * C;
        real sum[LANES] = {0}, dot[LANES] = {0};
        for (size_t first = 0; first < C; first += LANES) {
            size_t lanes = min_size(LANES, C - first);
            for (size_t l = 0; l < lanes; l++) {
                size_t i = first + l;
                real dx_hat = dy[i] * weight[i];
                sum[l] += dx_hat;
                dot[l] = real_fma(dx_hat, (x[i] - mean[n]) * rstd[n], dot[l]);
            }
        }
        real mean_dx = lanes_fold(sum) / (real)C, mean_dot = lanes_fold(dot) / (real)C;
        for (size_t i = 0; i < C; i++) {
            real x_hat = (x[i] - mean[n]) * rstd[n];
            dx[i] += rstd[n] * (dy[i] * weight[i] - mean_dx - x_hat * mean_dot);
        }
    }
}
// end twin

// out (N,OC) += inp (N,IC) weight (OC,IC)^T + bias (OC): a projection into the residual stream. work (N,OC): for
// the product where it is stored as bf16 before it is added.
static void residual_forward(real* out, real* work, const real* inp, const real* weight, const real* bias, size_t N,
                             size_t IC, size_t OC) {
    if (stored_as_bf16) {
        gemm(0, 1, N, OC, IC, 1, inp, IC, weight, IC, 0, work, OC, NULL);
        stored(work, N * OC);
        for (size_t i = 0; i < N * OC; i++) { out[i] += work[i] + bias[i % OC]; }
        return;
    }
    gemm(0, 1, N, OC, IC, 1, inp, IC, weight, IC, 1, out, OC, bias);
}

// Angles of position t: t / base^(2i/rotated), i = 0 .. rotated/2-1; Su et al., arXiv 2104.09864.
// Frequencies and angles are rounded to float like the reference's: at position 2048 the rounding
// alone turns a pair by 1e-4, and models were trained with it.
static void rotary_tables(real* cosine, real* sine, int T, int rotated, double base) {
    int half = rotated / 2;
    for (int i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)rotated;
        float frequency = 1.0f / (float)pow_d(base, (double)exponent);
        for (int t = 0; t < T; t++) {
            float angle = (float)t * frequency;
            cosine[(size_t)t * (size_t)half + (size_t)i] = (real)cos_d((double)angle);
            sine[(size_t)t * (size_t)half + (size_t)i] = (real)sin_d((double)angle);
        }
    }
}

// Rotates heads by their positions, in place: the first `rotated` numbers of a head are pairs (i, i + rotated/2).
// Head h, part p of row n begins at x + n row_stride + h head_stride + p part_stride: q and k in qkv
// (B,T,NH,3,HS) are heads = NH, parts = 2, strides 3 NH HS, 3 HS, HS; v has no position. cosine, sine
// (T, rotated/2). direction +1: forward; -1: backward, since the gradient of a rotation is the rotation back.
static void rotary_forward(real* x, const real* cosine, const real* sine, size_t B, size_t T, size_t heads,
                           size_t parts, size_t rotated, size_t row_stride, size_t head_stride, size_t part_stride,
                           int direction) {
    size_t half = rotated / 2;
#pragma omp parallel for schedule(static) if (B * T * heads * parts * rotated > SERIAL)
    for (size_t n = 0; n < B * T; n++) {
        const real* c = cosine + n % T * half;
        const real* s = sine + n % T * half;
        for (size_t head = 0; head < heads; head++) {
            for (size_t part = 0; part < parts; part++) {
                real* y = x + n * row_stride + head * head_stride + part * part_stride;
                for (size_t i = 0; i < half; i++) {
                    real a = y[i], b = y[i + half], turn = (real)direction * s[i];
                    y[i] = a * c[i] - b * turn;
                    y[i + half] = b * c[i] + a * turn;
                }
            }
        }
    }
}

// out = x * Phi(x), Phi the normal distribution function; Hendrycks & Gimpel, arXiv 1606.08415.
static void gelu_forward(real* out, const real* inp, size_t n) {
#pragma omp parallel for schedule(static) if (n > SERIAL)
    for (size_t i = 0; i < n; i++) {
        real x = inp[i];
        out[i] = x * ((real)0.5 * (1 + real_erf(x * (real)0.70710678118654752440)));
    }
}

// dinp = dout * (Phi(x) + x * phi(x)); dinp may be dout.
static void gelu_backward(real* dinp, const real* dout, const real* inp, size_t n) {
#pragma omp parallel for schedule(static) if (n > SERIAL)
    for (size_t i = 0; i < n; i++) {
        real x = inp[i];
        real cdf = (real)0.5 * (1 + real_erf(x * (real)0.70710678118654752440));
        real density = (real)0.39894228040143267794 * real_exp((real)-0.5 * x * x);
        dinp[i] = dout[i] * (cdf + x * density);
    }
}

// ------------------------------------------------------------------------------------------------
// [5] One pass (C)

// Shape ledger of a layer, x (N,C) its input:
//   ln1  (N,C)  = LN1(x)            qkv (N,3C) = ln1 Wqkv^T + b, q and k rotated
//   att  (N,C)  = attention(qkv)
//   ln2  (N,C)  = LN2(x)            fc  (N,FF) = ln2 Wfc^T + b      act (N,FF) = GELU(fc)
//   next (N,C)  = x + (att Wproj^T + b) + (act Wfcproj^T + b)
// and h (N,C) = LNf(x of the last layer).
static void pythia_forward(void* self, const real* params, real* h, const real* e, int slot, int B, int T) {
    const Pythia* m = (const Pythia*)self;
    const PythiaConfig* c = &m->config;
    const Tensor* t = m->tensors.list;
    size_t N = (size_t)B * (size_t)T, C = (size_t)c->C, FF = (size_t)c->FF, NH = (size_t)c->NH, HS = C / NH;
    size_t rotated = (size_t)((double)HS * c->rotary_pct);
    PythiaScratch w;
    pythia_scratch(&w, m->scratch, c, m->N, m->slots > 0);
    const real* x = e;
    for (int l = 0; l < c->L; l++) {
        const PythiaLayer* y = &m->layer[l];
        PythiaKept k = pythia_layer_kept(m, slot, l);
        layernorm_statistics(k.mean, k.rstd, x, N, C, (real)c->eps);
        layernorm_forward(w.ln, x, params + t[y->ln1w].offset, params + t[y->ln1b].offset, k.mean, k.rstd, N, C);
        stored(w.ln, N * C);
        matmul_forward(k.qkv, w.ln, params + t[y->qkvw].offset, params + t[y->qkvb].offset, N, C, 3 * C);
        stored(k.qkv, N * 3 * C);
        rotary_forward(k.qkv, m->cosine, m->sine, (size_t)B, (size_t)T, NH, 2, rotated, 3 * C, 3 * HS, HS, 1);
        stored(k.qkv, N * 3 * C);
        attention_forward(k.att, k.lse, k.qkv, k.qkv + HS, k.qkv + 2 * HS, B, T, (int)NH, (int)NH, (int)HS, 3 * C,
                          3 * HS, 3 * HS);
        stored(k.att, N * C);
        layernorm_forward(w.ln, x, params + t[y->ln2w].offset, params + t[y->ln2b].offset, k.mean, k.rstd, N, C);
        stored(w.ln, N * C);
        matmul_forward(k.fc, w.ln, params + t[y->fcw].offset, params + t[y->fcb].offset, N, C, FF);
        stored(k.fc, N * FF);
        gelu_forward(w.act, k.fc, N * FF);
        stored(w.act, N * FF);
        if (k.next != x) {
            memcpy(k.next, x, N * C * sizeof(real));
        }  // equal from the second layer on when nothing is kept
        residual_forward(k.next, w.ln, k.att, params + t[y->projw].offset, params + t[y->projb].offset, N, C, C);
        residual_forward(k.next, w.ln, w.act, params + t[y->fcprojw].offset, params + t[y->fcprojb].offset, N, FF, C);
        x = k.next;
    }
    real* mean = pythia_final_kept(m, slot);
    real* rstd = mean + round_up(m->N, ALIGNMENT / sizeof(float));
    layernorm_statistics(mean, rstd, x, N, C, (real)c->eps);
    layernorm_forward(h, x, params + t[m->lnfw].offset, params + t[m->lnfb].offset, mean, rstd, N, C);
    stored(h, N * C);
}

// The mirror, last layer first. dx (N,C) is the gradient by the residual stream: it passes every
// layer unchanged (the "+" of the residual) and each layer adds what came through its branches.
// Every `grads` sums over passes and micro-batches.
//   dact = dx Wfcproj;  dfc = dact * GELU'(fc);  dln2 = dfc Wfc;  dx += LN2 backward
//   datt = dx Wproj;    dqkv = attention backward, rotated back;  dln1 = dqkv Wqkv;  dx += LN1 backward
static void pythia_backward(void* self, const real* params, real* grads, real* de, const real* dh, const real* e,
                            int slot, int B, int T) {
    const Pythia* m = (const Pythia*)self;
    const PythiaConfig* c = &m->config;
    const Tensor* t = m->tensors.list;
    size_t N = (size_t)B * (size_t)T, C = (size_t)c->C, FF = (size_t)c->FF, NH = (size_t)c->NH, HS = C / NH;
    size_t rotated = (size_t)((double)HS * c->rotary_pct);
    PythiaScratch w;
    pythia_scratch(&w, m->scratch, c, m->N, 1);
    real* mean = pythia_final_kept(m, slot);
    real* rstd = mean + round_up(m->N, ALIGNMENT / sizeof(float));
    // dx must start from the final norm alone: de already holds the gradient that reaches e past
    // this pass, and that one must not go through the layers.
    real* dx =
        pythia_layer_kept(m, slot, c->L - 1).next;  // the last x; overwritten once the final norm is done with it
    memset(w.dln, 0, N * C * sizeof(real));
    layernorm_backward(w.dln, grads + t[m->lnfw].offset, grads + t[m->lnfb].offset, dh, dx, params + t[m->lnfw].offset,
                       mean, rstd, N, C);
    memcpy(dx, w.dln, N * C * sizeof(real));
    for (int l = c->L - 1; l >= 0; l--) {
        const PythiaLayer* y = &m->layer[l];
        PythiaKept k = pythia_layer_kept(m, slot, l);
        const real* x = l > 0 ? pythia_layer_kept(m, slot, l - 1).next : e;
        const real* dout = stored_copy(w.dln, dx, N * C);  // of both branches

        gelu_forward(w.act, k.fc, N * FF);
        stored(w.act, N * FF);
        matmul_backward_input(w.dact, dout, params + t[y->fcprojw].offset, N, FF, C);
        matmul_backward_weight(grads + t[y->fcprojw].offset, grads + t[y->fcprojb].offset, dout, w.act, N, FF, C);
        stored(w.dact, N * FF);
        real* dfc = w.dact;  // in place: dact is dead after this line
        gelu_backward(dfc, w.dact, k.fc, N * FF);
        stored(dfc, N * FF);
        layernorm_forward(w.ln, x, params + t[y->ln2w].offset, params + t[y->ln2b].offset, k.mean, k.rstd, N, C);
        stored(w.ln, N * C);
        matmul_backward_weight(grads + t[y->fcw].offset, grads + t[y->fcb].offset, dfc, w.ln, N, C, FF);

        matmul_backward_input(w.datt, dout, params + t[y->projw].offset, N, C, C);
        stored(w.datt, N * C);
        matmul_backward_weight(grads + t[y->projw].offset, grads + t[y->projb].offset, dout, k.att, N, C, C);
        attention_backward(w.dqkv, w.dqkv + HS, w.dqkv + 2 * HS, w.datt, k.qkv, k.qkv + HS, k.qkv + 2 * HS, k.att,
                           k.lse, B, T, (int)NH, (int)NH, (int)HS, 3 * C, 3 * HS, 3 * HS);
        stored(w.dqkv, N * 3 * C);
        rotary_forward(w.dqkv, m->cosine, m->sine, (size_t)B, (size_t)T, NH, 2, rotated, 3 * C, 3 * HS, HS, -1);
        layernorm_forward(w.ln, x, params + t[y->ln1w].offset, params + t[y->ln1b].offset, k.mean, k.rstd, N, C);
        stored(w.dqkv, N * 3 * C);
        stored(w.ln, N * C);
        matmul_backward_weight(grads + t[y->qkvw].offset, grads + t[y->qkvb].offset, w.dqkv, w.ln, N, C, 3 * C);

        // dx grows only now: both branches started from its old value.
        matmul_backward_input(w.dln, dfc, params + t[y->fcw].offset, N, C, FF);
        stored(w.dln, N * C);
        layernorm_backward(dx, grads + t[y->ln2w].offset, grads + t[y->ln2b].offset, w.dln, x,
                           params + t[y->ln2w].offset, k.mean, k.rstd, N, C);
        matmul_backward_input(w.dln, w.dqkv, params + t[y->qkvw].offset, N, C, 3 * C);
        stored(w.dln, N * C);
        layernorm_backward(dx, grads + t[y->ln1w].offset, grads + t[y->ln1b].offset, w.dln, x,
                           params + t[y->ln1w].offset, k.mean, k.rstd, N, C);
    }
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t i = 0; i < N * C; i++) { de[i] += dx[i]; }
}

static char* pythia_first_nonfinite(void* self, int slot, int B, int T) {
    const Pythia* m = (const Pythia*)self;
    size_t N = (size_t)B * (size_t)T, C = (size_t)m->config.C;
    for (int l = 0; l < m->config.L; l++) {
        PythiaKept k = pythia_layer_kept(m, slot, l);
        if (!row_finite(k.qkv, N * 3 * C)) { return format_string("layer %d: queries, keys and values", l); }
        if (!row_finite(k.att, N * C)) { return format_string("layer %d: attention output", l); }
        if (!row_finite(k.fc, N * (size_t)m->config.FF)) { return format_string("layer %d: MLP before GELU", l); }
        // The last layer's output is overwritten by a gradient in the backward.
        if (l + 1 < m->config.L && !row_finite(k.next, N * C)) { return format_string("layer %d: output", l); }
    }
    return NULL;
}

static void pythia_config_keys(void* self, StringBuilder* sb) {
    const PythiaConfig* c = &((const Pythia*)self)->config;
    sb_printf(sb, ",\n  \"attention_bias\": true,\n  \"attention_dropout\": 0.0,\n  \"hidden_act\": \"gelu\",\n  "
                  "\"hidden_dropout\": 0.0");
    sb_printf(sb, ",\n  \"hidden_size\": %d,\n  \"intermediate_size\": %d,\n  \"layer_norm_eps\": %.17g", c->C, c->FF,
              c->eps);
    sb_printf(sb, ",\n  \"max_position_embeddings\": %d,\n  \"num_attention_heads\": %d", c->max_positions, c->NH);
    sb_printf(sb, ",\n  \"num_hidden_layers\": %d,\n  \"rotary_emb_base\": %.17g,\n  \"rotary_pct\": %.17g", c->L,
              c->rotary_base, c->rotary_pct);
    sb_printf(sb, ",\n  \"partial_rotary_factor\": %.17g,\n  \"rope_theta\": %.17g", c->rotary_pct, c->rotary_base);
    sb_printf(sb, ",\n  \"tie_word_embeddings\": %s,\n  \"torch_dtype\": \"float32\"", c->tie ? "true" : "false");
    sb_printf(sb, ",\n  \"use_parallel_residual\": true,\n  \"vocab_size\": %d", c->V);
}

// ------------------------------------------------------------------------------------------------
// [6] Kernels that only this architecture has: none. Its layers are in common/layers.cuh and
//     common/attention.cuh, where the other architectures find theirs.
// [7] One pass (CUDA)
//
// The same pass as in [5]. Differences: the residual add is fused with the norms that follow it, so a
// layer's output is written at the start of the next one; a product's bias is added by the kernel
// that reads it (qkv's by cuBLASLt). x (the residual stream) and its gradient are fp32.
#if GPU

#include "common/attention.cuh"

// What a layer keeps on the GPU. ln1, ln2, act: only with --recompute 0, else in the scratch.
typedef struct {
    float* mean;  // (N) of the layer's input
    float* rstd;  // (N)
    floatX* qkv;  // (N,3C) after rotation
    float* lse;   // (B,NH,T)
    floatX* att;  // (N,C)
    floatX* fc;   // (N,FF) before bias and GELU
    float* next;  // (N,C) the layer's output, the next one's input
    floatX* ln1;  // (N,C)
    floatX* ln2;  // (N,C)
    floatX* act;  // (N,FF)
} PythiaKeptCuda;

typedef struct {
    floatX* out1;    // (N,C) attention's projection, without bias
    floatX* out2;    // (N,C) the MLP's
    floatX* ln1;     // (N,C) when they are not kept
    floatX* ln2;     // (N,C)
    floatX* act;     // (N,FF)
    floatX* dact;    // (N,FF), then dfc
    floatX* dqkv;    // (N,3C)
    floatX* datt;    // (N,C)
    floatX* dln1;    // (N,C)
    floatX* dln2;    // (N,C)
    float* dx;       // (N,C) gradient by the residual stream
    floatX* dxr;     // (N,C) the same, rounded: what products read
    float* delta;    // (B,NH,T) of attention's backward
    float* partial;  // of the sums over rows
} PythiaScratchCuda;

typedef struct {
    PythiaScratchCuda w;
    char* kept;
    int slots, keep_all;
    float *cosine, *sine;  // (T, rotated/2)
} PythiaCuda;

static size_t pythia_carve(void** place[], const size_t* bytes, int count, char* base) {
    size_t at = 0;
    for (int i = 0; i < count; i++) {
        *place[i] = base && bytes[i] ? base + at : NULL;
        at += round_up(bytes[i], 256);
    }
    return at;
}

static size_t pythia_kept_cuda(PythiaKeptCuda* k, char* base, const PythiaConfig* c, size_t N, int keep_all) {
    size_t C = (size_t)c->C, FF = (size_t)c->FF, X = sizeof(floatX), all = keep_all ? X : 0;
    const size_t bytes[] = {N * 4,      N * 4,     N * 3 * C * X, N * (size_t)c->NH * 4, N * C * X,
                            N * FF * X, N * C * 4, N * C * all,   N * C * all,           N * FF * all};
    void** place[] = {(void**)&k->mean, (void**)&k->rstd, (void**)&k->qkv, (void**)&k->lse, (void**)&k->att,
                      (void**)&k->fc,   (void**)&k->next, (void**)&k->ln1, (void**)&k->ln2, (void**)&k->act};
    return pythia_carve(place, bytes, (int)(sizeof bytes / sizeof bytes[0]), base);
}

static size_t pythia_scratch_cuda(PythiaScratchCuda* w, char* base, const PythiaConfig* c, size_t N, int training,
                                  int keep_all) {
    size_t C = (size_t)c->C, FF = (size_t)c->FF, X = sizeof(floatX), b = training ? X : 0, again = keep_all ? 0 : X;
    size_t partial =
        max_size(norm_backward_scratch(N, C), max_size(column_sum_scratch(N, FF), column_sum_scratch(N, 3 * C)));
    const size_t bytes[] = {N * C * X,
                            N * C * X,
                            N * C * again,
                            N * C * again,
                            N * FF * again,
                            N * FF * b,
                            N * 3 * C * b,
                            N * C * b,
                            N * C * b,
                            N * C * b,
                            training ? N * C * 4 : 0,
                            N * C * b,
                            training ? N * (size_t)c->NH * 4 : 0,
                            training ? partial * 4 : 0};
    void** place[] = {(void**)&w->out1, (void**)&w->out2, (void**)&w->ln1,   (void**)&w->ln2,    (void**)&w->act,
                      (void**)&w->dact, (void**)&w->dqkv, (void**)&w->datt,  (void**)&w->dln1,   (void**)&w->dln2,
                      (void**)&w->dx,   (void**)&w->dxr,  (void**)&w->delta, (void**)&w->partial};
    return pythia_carve(place, bytes, (int)(sizeof bytes / sizeof bytes[0]), base);
}

// Layers, then mean and rstd of the final norm.
static size_t pythia_slot_bytes(const PythiaConfig* c, size_t N, int layers, int keep_all) {
    PythiaKeptCuda k;
    return (size_t)layers * pythia_kept_cuda(&k, NULL, c, N, keep_all) + 2 * round_up(N * 4, 256);
}
// Without slots two layers work in turn: a layer's output must not overwrite its input.
static size_t pythia_kept_bytes_cuda(void* self, int B, int slots, int keep_all) {
    const Pythia* m = (const Pythia*)self;
    size_t N = (size_t)B * (size_t)m->T;
    return slots ? (size_t)slots * pythia_slot_bytes(&m->config, N, (int)max_size((size_t)m->config.L, 2), keep_all)
                 : pythia_slot_bytes(&m->config, N, 2, keep_all);
}
static size_t pythia_scratch_bytes_cuda(void* self, int B, int training, int keep_all) {
    const Pythia* m = (const Pythia*)self;
    PythiaScratchCuda w;
    int rotated = (int)(m->config.C / m->config.NH * m->config.rotary_pct);
    return pythia_scratch_cuda(&w, NULL, &m->config, (size_t)B * (size_t)m->T, training, keep_all) +
           round_up((size_t)m->T * (size_t)rotated * sizeof(float), 256);
}

static void pythia_allocate_cuda(void* self, int slots, int keep_all, int training) {
    Pythia* m = (Pythia*)self;
    PythiaCuda* g = (PythiaCuda*)xalloc(1, sizeof(PythiaCuda), "the model");
    m->cuda = g;
    g->slots = slots;
    g->keep_all = keep_all;
    size_t scratch = pythia_scratch_cuda(&g->w, NULL, &m->config, m->N, training, keep_all);
    g->kept = (char*)device_alloc(pythia_kept_bytes_cuda(self, m->B, slots, keep_all), "activations");
    char* base = (char*)device_alloc(scratch, "a layer at work");
    pythia_scratch_cuda(&g->w, base, &m->config, m->N, training, keep_all);
    int rotated = (int)(m->config.C / m->config.NH * m->config.rotary_pct), half = rotated / 2;
    size_t n = (size_t)m->T * (size_t)half;
    real* table = (real*)xalloc(2 * n, sizeof(real), "rotary tables");
    rotary_tables(table, table + n, m->T, rotated, m->config.rotary_base);
    g->cosine = (float*)device_alloc(2 * n * sizeof(float), "rotary tables");
    g->sine = g->cosine + n;
    device_upload(g->cosine, table, 2 * n * sizeof(float));
    if (!ledger.dry) { CUDA_CHECK(cudaStreamSynchronize(device.stream)); }
    free(table);
}

// Activations of layer l in a slot; slot -1: two places in slot 0, in turn.
static PythiaKeptCuda pythia_layer_kept_cuda(const Pythia* m, int slot, int l) {
    const PythiaCuda* g = (const PythiaCuda*)m->cuda;
    PythiaKeptCuda k;
    size_t layer = pythia_kept_cuda(&k, NULL, &m->config, m->N, g->keep_all);
    int layers = g->slots ? (int)max_size((size_t)m->config.L, 2) : 2;
    size_t offset = slot < 0
                        ? (size_t)(l % 2) * layer
                        : (size_t)slot * pythia_slot_bytes(&m->config, m->N, layers, g->keep_all) + (size_t)l * layer;
    pythia_kept_cuda(&k, g->kept + offset, &m->config, m->N, g->keep_all);
    if (!g->keep_all) { k.ln1 = g->w.ln1, k.ln2 = g->w.ln2, k.act = g->w.act; }
    return k;
}
// mean (N) of the final norm's input; rstd (N) follows.
static float* pythia_final_kept_cuda(const Pythia* m, int slot) {
    const PythiaCuda* g = (const PythiaCuda*)m->cuda;
    int layers = g->slots ? (int)max_size((size_t)m->config.L, 2) : 2;
    size_t bytes = pythia_slot_bytes(&m->config, m->N, layers, g->keep_all);
    return (float*)(g->kept + (size_t)(slot < 0 ? 0 : slot) * bytes + bytes - 2 * round_up(m->N * 4, 256));
}

static void pythia_forward_cuda(void* self, const CudaWeights* p, floatX* h, const float* e, int slot, int B, int T) {
    const Pythia* m = (const Pythia*)self;
    const PythiaCuda* g = (const PythiaCuda*)m->cuda;
    const PythiaConfig* c = &m->config;
    const Tensor* t = m->tensors.list;
    size_t N = (size_t)B * (size_t)T, C = (size_t)c->C, FF = (size_t)c->FF, NH = (size_t)c->NH, HS = C / NH;
    size_t rotated = (size_t)((double)HS * c->rotary_pct);
    const PythiaScratchCuda* w = &g->w;
    const float *x = e, *bias1 = NULL, *bias2 = NULL;  // of the layer before, still to be added
    const floatX *out1 = NULL, *out2 = NULL;
    float* next = NULL;
    for (int l = 0; l < c->L; l++) {
        const PythiaLayer* y = &m->layer[l];
        PythiaKeptCuda k = pythia_layer_kept_cuda(m, slot, l);
        // x = x + (out1 + bias1) + (out2 + bias2);  ln1 = LN1(x), ln2 = LN2(x)
        layernorms_forward_cuda(next, k.ln1, k.ln2, k.mean, k.rstd, x, out1, bias1, out2, bias2,
                                p->master + t[y->ln1w].offset, p->master + t[y->ln1b].offset,
                                p->master + t[y->ln2w].offset, p->master + t[y->ln2b].offset, N, C, (float)c->eps);
        if (next) { x = next; }
        matmul_forward_cuda(k.qkv, k.ln1, p->x + t[y->qkvw].offset, p->x + t[y->qkvb].offset, N, C, 3 * C);
        rotary_forward_cuda(k.qkv, g->cosine, g->sine, (size_t)B, (size_t)T, NH, 2, rotated, 3 * C, 3 * HS, HS, 1);
        attention_forward_cuda(k.att, k.lse, k.qkv, k.qkv + HS, k.qkv + 2 * HS, B, T, (int)NH, (int)NH, (int)HS, 3 * C,
                               3 * HS, 3 * HS);
        matmul_forward_cuda(w->out1, k.att, p->x + t[y->projw].offset, NULL, N, C, C);
        matmul_forward_cuda(k.fc, k.ln2, p->x + t[y->fcw].offset, NULL, N, C, FF);
        gelu_forward_cuda(k.act, k.fc, p->master + t[y->fcb].offset, N, FF, 0);
        matmul_forward_cuda(w->out2, k.act, p->x + t[y->fcprojw].offset, NULL, N, FF, C);
        out1 = w->out1, out2 = w->out2;
        bias1 = p->master + t[y->projb].offset, bias2 = p->master + t[y->fcprojb].offset;
        next = k.next;
    }
    float* mean = pythia_final_kept_cuda(m, slot);
    float* rstd = mean + round_up(m->N * 4, 256) / 4;
    layernorms_forward_cuda(next, h, NULL, mean, rstd, x, out1, bias1, out2, bias2, p->master + t[m->lnfw].offset,
                            p->master + t[m->lnfb].offset, NULL, NULL, N, C, (float)c->eps);
}

static void pythia_backward_cuda(void* self, const CudaWeights* p, float* de, const floatX* dh, const float* e,
                                 int slot, int B, int T) {
    const Pythia* m = (const Pythia*)self;
    const PythiaCuda* g = (const PythiaCuda*)m->cuda;
    const PythiaConfig* c = &m->config;
    const Tensor* t = m->tensors.list;
    size_t N = (size_t)B * (size_t)T, C = (size_t)c->C, FF = (size_t)c->FF, NH = (size_t)c->NH, HS = C / NH;
    size_t rotated = (size_t)((double)HS * c->rotary_pct);
    const PythiaScratchCuda* w = &g->w;
    float* mean = pythia_final_kept_cuda(m, slot);
    float* rstd = mean + round_up(m->N * 4, 256) / 4;
    const float* last = pythia_layer_kept_cuda(m, slot, c->L - 1).next;
    // dx starts from the final norm alone: de holds the gradient that reaches e past this pass.
    // Each norm sums the columns of dx on its way: the gradient of both biases that were added before it.
    const PythiaLayer* before = &m->layer[c->L - 1];
    layernorms_backward_cuda(w->dx, w->dxr, p->grads + t[m->lnfw].offset, p->grads + t[m->lnfb].offset, NULL, NULL,
                             p->grads + t[before->projb].offset, p->grads + t[before->fcprojb].offset, w->partial, dh,
                             NULL, last, p->master + t[m->lnfw].offset, NULL, mean, rstd, N, C, 0);
    for (int l = c->L - 1; l >= 0; l--) {
        const PythiaLayer* y = &m->layer[l];
        PythiaKeptCuda k = pythia_layer_kept_cuda(m, slot, l);
        const float* x = l > 0 ? pythia_layer_kept_cuda(m, slot, l - 1).next : e;
        const float *w1 = p->master + t[y->ln1w].offset, *w2 = p->master + t[y->ln2w].offset;
        if (!g->keep_all) {
            gelu_forward_cuda(k.act, k.fc, p->master + t[y->fcb].offset, N, FF, 0);
            layernorms_again_cuda(k.ln1, k.ln2, x, w1, p->master + t[y->ln1b].offset, w2, p->master + t[y->ln2b].offset,
                                  k.mean, k.rstd, N, C);
        }
        matmul_backward_input_cuda(w->dact, w->dxr, p->x + t[y->fcprojw].offset, N, FF, C);
        matmul_backward_weight_cuda(p->grads + t[y->fcprojw].offset, w->dxr, k.act, N, FF, C);
        gelu_backward_cuda(w->dact, p->grads + t[y->fcb].offset, w->partial, w->dact, k.fc,
                           p->master + t[y->fcb].offset, N, FF, 0);
        const floatX* dfc = w->dact;  // in place: dact is dead after this line
        matmul_backward_weight_cuda(p->grads + t[y->fcw].offset, dfc, k.ln2, N, C, FF);

        matmul_backward_input_cuda(w->datt, w->dxr, p->x + t[y->projw].offset, N, C, C);
        matmul_backward_weight_cuda(p->grads + t[y->projw].offset, w->dxr, k.att, N, C, C);
        attention_backward_cuda(w->dqkv, w->dqkv + HS, w->dqkv + 2 * HS, w->delta, w->datt, k.qkv, k.qkv + HS,
                                k.qkv + 2 * HS, k.att, k.lse, B, T, (int)NH, (int)NH, (int)HS, 3 * C, 3 * HS, 3 * HS);
        rotary_forward_cuda(w->dqkv, g->cosine, g->sine, (size_t)B, (size_t)T, NH, 2, rotated, 3 * C, 3 * HS, HS, -1);
        column_sum_cuda(p->grads + t[y->qkvb].offset, NULL, w->partial, w->dqkv, N, 3 * C);
        matmul_backward_weight_cuda(p->grads + t[y->qkvw].offset, w->dqkv, k.ln1, N, C, 3 * C);

        // dx grows only now: both branches started from its old value.
        matmul_backward_input_cuda(w->dln2, dfc, p->x + t[y->fcw].offset, N, C, FF);
        matmul_backward_input_cuda(w->dln1, w->dqkv, p->x + t[y->qkvw].offset, N, C, 3 * C);
        before = l > 0 ? &m->layer[l - 1] : NULL;
        layernorms_backward_cuda(w->dx, before ? w->dxr : NULL, p->grads + t[y->ln1w].offset,
                                 p->grads + t[y->ln1b].offset, p->grads + t[y->ln2w].offset,
                                 p->grads + t[y->ln2b].offset, before ? p->grads + t[before->projb].offset : NULL,
                                 before ? p->grads + t[before->fcprojb].offset : NULL, w->partial, w->dln1, w->dln2, x,
                                 w1, w2, k.mean, k.rstd, N, C, 1);
    }
    add_cuda(de, w->dx, N * C);
}

static int pythia_views_cuda(void* self, const real* params, int pass, int slot, int l, int B, int T, PassView* view) {
    const Pythia* m = (const Pythia*)self;
    const PythiaConfig* c = &m->config;
    size_t N = (size_t)B * (size_t)T, C = (size_t)c->C, FF = (size_t)c->FF;
    PythiaKeptCuda g = pythia_layer_kept_cuda(m, slot, l);
    PythiaKept k;
    memset(&k, 0, sizeof k);
    if (m->kept) { k = pythia_layer_kept(m, pass, l); }
    const PassView rows[] = {
        {"queries, keys and values", k.qkv, g.qkv, 0, N * 3 * C, NULL, 0},
        {"attention output", k.att, g.att, 0, N * C, NULL, 0},
        {"MLP before GELU", k.fc, g.fc, 0, N * FF, params + m->tensors.list[m->layer[l].fcb].offset, FF},
        {"output", k.next, g.next, 1, N * C, NULL, 0},
    };
    int count = (int)(sizeof rows / sizeof rows[0]);
    memcpy(view, rows, sizeof rows);
    return count;
}

static const PassCuda pythia_pass_cuda = {pythia_kept_bytes_cuda, pythia_scratch_bytes_cuda, pythia_allocate_cuda,
                                          pythia_forward_cuda,    pythia_backward_cuda,      pythia_views_cuda};
static const void* const pythia_cuda = &pythia_pass_cuda;
#else
static const void* const pythia_cuda = NULL;
#endif

// ------------------------------------------------------------------------------------------------
// [8] main

static Model* pythia_create(const OptionTable* options, const char* preset, const Json* config, const char* path, int B,
                            int T) {
    Pythia* m = (Pythia*)xalloc(1, sizeof(Pythia), "the model");
    m->config = pythia_config(options, preset, config, path, T);
    m->B = B;
    m->T = T;
    m->N = mul_size((size_t)B, (size_t)T, "positions of a micro-batch");
    PonderConfig ponder = ponder_config(options, config, path);
    pythia_tensors(m, ponder.steps + 1, ponder.ponder_init);

    const PythiaConfig* c = &m->config;
    PythiaScratch w;
    double C = c->C, FF = c->FF;
    Pass pass = {.self = m, .C = c->C, .V = c->V, .B = B, .T = T, .layers = c->L, .embed = m->embed, .head = m->head};
    pass.block_flops = 6 * (4 * C * C + 2 * C * FF) * c->L;
    pass.attention_flops = 6 * (double)T * C * c->L;
    pass.kept_bytes = mul_size(pythia_pass_size(m), sizeof(real), "activations");
    pass.scratch_bytes = pythia_scratch(&w, NULL, c, m->N, 1) * sizeof(real);
    pass.stock_class = "GPTNeoX";
    pass.stock_type = "gpt_neox";
    pass.code_text = modeling_ponder_py;
    pass.allocate = pythia_allocate;
    pass.forward = pythia_forward;
    pass.backward = pythia_backward;
    pass.first_nonfinite = pythia_first_nonfinite;
    pass.config_keys = pythia_config_keys;
    pass.cuda = pythia_cuda;
    Model* model = ponder_model(ponder, pass, m->tensors);
    ponder_use_cuda(model, options);
    model->ignores_tensor = pythia_ignores_tensor;
    return model;
}

static const ModelClass pythia_class = {"train_pythia", "pythia-70m", pythia_preset_names, pythia_add_options,
                                        pythia_create};

#ifndef TESTING
#include "common/run/train.h"

#ifndef MAIN
#define MAIN main
#endif
int MAIN(int argc, char** argv);
int MAIN(int argc, char** argv) { return trainer_main(argc, argv, &pythia_class); }
#endif

// train_gpt2.cu - GPT-2, trained to ponder.
//
//     make train_gpt2          the CPU program, build/train_gpt2
//     make gpu                 the same file by nvcc: build/train_gpt2_cuda
//
// This file knows one architecture and nothing of pondering: it turns input embeddings (B,T,C)
// into hidden states (B,T,C), forward and backward. ponder.cuh calls that a PASS, runs it S+1
// times, and adds embedding, vocabulary mix and loss. The files in common/ do the rest.
//
//   [1] configuration and presets
//   [2] tensor table
//   [3] activations
//   [4] layers (C): LayerNorm, learned positions, GELU; forward, backward
//   [5] one pass (C), forward and backward
//   [6] kernels that only this architecture has (CUDA)
//   [7] one pass (CUDA), forward and backward
//   [8] main: the table of all that
//
// A pass begins with x0 = e + wpe: learned positions act inside it, never enter e, and are not scaled as token
// embeddings are (--scale-embeds). One layer, x -> mid = x + attention(LN1 x) -> mid + mlp(LN2 mid): one branch after
// the other. Sizes: B rows, T positions, N = B*T, C width, NH heads, HS = C/NH head size, FF = mlp width,
// L layers, P positions that have an embedding. Source of the architecture: Radford et al., "Language Models
// are Unsupervised Multitask Learners", 2019; tensor names and layouts are Hugging Face's GPT2, whose
// matrices (Conv1D) have a row for each input.

#include "ponder.cuh"

#include "common/attention.h"
#include "common/cache.h"
#include "common/files/settings.h"

// ------------------------------------------------------------------------------------------------
// [1] Configuration and presets

typedef struct Gpt2Layer Gpt2Layer;

typedef struct {
    Pass pass;          // first, so that a Pass* of ours is a Gpt2*: sizes, memory, embedding tables
    Weight wpe;         // (P,C) embeddings of positions
    Gpt2Layer* layer;   // (L) weights
    Weight lnfw, lnfb;  // (C) final norm
} Gpt2;

// P, the rows of wpe, is here the usual length of a row: a fresh model has as many positions as --seq says.
static const Preset gpt2_presets[] = {
    {"gpt2", {.L = 12, .C = 768, .NH = 12, .FF = 3072, .V = 50257, .P = 1024, .tie = 1}},
    {"gpt2-medium", {.L = 24, .C = 1024, .NH = 16, .FF = 4096, .V = 50257, .P = 1024, .tie = 1}},
    {"gpt2-large", {.L = 36, .C = 1280, .NH = 20, .FF = 5120, .V = 50257, .P = 1024, .tie = 1}},
    {"gpt2-xl", {.L = 48, .C = 1600, .NH = 25, .FF = 6400, .V = 50257, .P = 1024, .tie = 1}},
    // Of PonderLM's scaling runs (arXiv 2505.20674): rows of 2,048, heads of their own.
    {"gpt2-405m", {.L = 24, .C = 1024, .NH = 16, .FF = 4096, .V = 50257, .P = 2048}},
    {"gpt2-834m", {.L = 24, .C = 1536, .NH = 24, .FF = 6144, .V = 50257, .P = 2048}},
    {"gpt2-1.4b", {.L = 24, .C = 2048, .NH = 32, .FF = 8192, .V = 50257, .P = 2048}},
    {NULL},
};

static int gpt2_usual_ff(int C) { return 4 * C; }

// Sizes are spelt two ways, GPT-2's own (n_embd) and the one that all of Hugging Face's classes have (hidden_size).
static int gpt2_size(const Json* config, const char* key, const char* other, int64_t fallback, int64_t most,
                     const char* path) {
    const SettingPlace places[] = {{NULL, key}, {NULL, other}};
    setting_number(config, places, 2, "two names of one size", 0, path);  // dies where both are given and differ
    const Json* own = json_get(config, key);
    return json_get_size(config, own && own->type != JSON_NULL ? key : other, fallback, most, path);
}

// Dies on what GPT-2 does not have, by name; warns of what training here ignores.
static void gpt2_refuse(const Json* config, const char* path) {
    const char* act = json_get_string(config, "activation_function", "gelu_new", path);
    if (strcmp(act, "gelu_new") != 0 && strcmp(act, "gelu_pytorch_tanh") != 0 && strcmp(act, "gelu_python_tanh") != 0) {
        die("%s: activation_function is \"%s\", GPT-2 has \"gelu_new\" (or, the same, \"gelu_pytorch_tanh\")", path,
            act);
    }
    const Json* pruned = json_get(config, "pruned_heads");
    if (pruned && pruned->count > 0) {
        die("%s: pruned_heads names heads of %d layers; only models with all their heads are supported", path,
            pruned->count);
    }
    const struct {
        const char* key;
        int usual;
        const char* what;
    } settings[] = {
        {"scale_attn_weights", 1, "scores of attention are divided by the square root of the head size"},
        {"scale_attn_by_inverse_layer_idx", 0, "scores of attention are scaled alike in all layers"},
        {"reorder_and_upcast_attn", 0, "attention is computed in its usual order"},
    };
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        int value = json_get_bool(config, settings[i].key, settings[i].usual, path);
        if (value != settings[i].usual) {
            die("%s: %s is %s; only %s is supported: %s", path, settings[i].key, value ? "true" : "false",
                value ? "false" : "true", settings[i].what);
        }
    }
    const char* const dropouts[] = {"attn_pdrop", "embd_pdrop", "resid_pdrop"};
    setting_no_dropout(config, dropouts, 3, 0.1, path);
}

// Sizes of a config.json, or only what no preset says (config == NULL).
static void gpt2_read_config(Pass* pass, const Json* config, const char* path) {
    Sizes* size = &pass->size;
    size->eps = 1e-5;
    if (!config) { return; }
    gpt2_refuse(config, path);
    size->L = gpt2_size(config, "n_layer", "num_hidden_layers", 12, 1000, path);
    size->C = gpt2_size(config, "n_embd", "hidden_size", 768, 1 << 20, path);
    size->NH = gpt2_size(config, "n_head", "num_attention_heads", 12, 1 << 16, path);
    size->FF = json_get_size(config, "n_inner", gpt2_usual_ff(size->C), 1 << 22, path);
    size->V = json_get_size(config, "vocab_size", 50257, 1 << 24, path);
    size->P = gpt2_size(config, "n_positions", "max_position_embeddings", 1024, 1 << 24, path);
    size->eps = json_get_number(config, "layer_norm_epsilon", 1e-5, path);
    size->tie = json_get_bool(config, "tie_word_embeddings", 1, path);
}

// The sizes as config.json, preset and command line have made them; dies in words on shapes that do not fit.
static void gpt2_check(Pass* pass, const char* path) {
    const Sizes* size = &pass->size;
    if (size->NKV != size->NH) {
        die("%s: --kv-heads %d: GPT-2 has as many heads of keys and values as heads, %d", path, size->NKV, size->NH);
    }
    if (!(size->eps > 0 && size->eps < 1)) {
        die("%s: layer_norm_epsilon is %g, expected between 0 and 1", path, size->eps);
    }
    if (pass->T > size->P) {  // of a checkpoint: a fresh model has T positions
        die("%s: --seq %d: the model has embeddings of %d positions (n_positions); expected at most that many", path,
            pass->T, size->P);
    }
}

static void gpt2_write_config(const Pass* pass, StringBuilder* sb) {
    const Sizes* size = &pass->size;
    sb_printf(sb, ",\n  \"activation_function\": \"gelu_new\",\n  \"attn_pdrop\": 0.0,\n  \"embd_pdrop\": 0.0");
    sb_printf(sb, ",\n  \"layer_norm_epsilon\": %.17g,\n  \"n_embd\": %d,\n  \"n_head\": %d", size->eps, size->C,
              size->NH);
    sb_printf(sb, ",\n  \"n_inner\": %d,\n  \"n_layer\": %d,\n  \"n_positions\": %d", size->FF, size->L, size->P);
    sb_printf(sb, ",\n  \"reorder_and_upcast_attn\": false,\n  \"resid_pdrop\": 0.0");
    sb_printf(sb, ",\n  \"scale_attn_by_inverse_layer_idx\": false,\n  \"scale_attn_weights\": true");
    sb_printf(sb, ",\n  \"tie_word_embeddings\": %s,\n  \"vocab_size\": %d", size->tie ? "true" : "false", size->V);
}

// The other spellings that gpt2_size() reads; and n_ctx, which n_positions was called once: Hugging Face's class no
// longer reads it, and carried over it could contradict n_positions.
static const char* const gpt2_other_keys[] = {"hidden_size",         "max_position_embeddings", "n_ctx",
                                              "num_attention_heads", "num_hidden_layers",       NULL};

// ------------------------------------------------------------------------------------------------
// [2] Tensor table

// Weights of one layer; those of products have a row for each input. A Weight points at the weights w and their
// gradient d in the C half; in the CUDA half at master (fp32: norms and biases), x (rounded: products) and grad.
struct Gpt2Layer {
    Weight ln1w, ln1b;        // (C)
    Weight qkvw, qkvb;        // (C,3C), (3C): q of all heads, then k, then v
    Weight projw, projb;      // (C,C), (C)
    Weight ln2w, ln2b;        // (C)
    Weight fcw, fcb;          // (C,FF), (FF)
    Weight fcprojw, fcprojb;  // (FF,C), (C)
};

// passes = S+1 does not matter here: projections into the residual stream are divided by the root of the layers alone.
static void gpt2_tensors(Pass* pass, TensorTable* t, int passes, int ponder_init) {
    Gpt2* m = (Gpt2*)pass;
    size_t C = (size_t)pass->size.C, FF = (size_t)pass->size.FF, V = (size_t)pass->size.V, P = (size_t)pass->size.P;
    int L = pass->size.L;
    (void)passes;
    // --init ponder (usual if S > 0): normal of deviation sqrt(2 / (5 C)), cut off at three of them; stock: normal,
    // 0.02, as in Hugging Face's class. In both, projections into the residual stream / sqrt(2 L).
    Init init = ponder_init ? INIT_TRUNCATED : INIT_NORMAL;
    double deviation = ponder_init ? sqrt(2.0 / (5.0 * (double)C)) : 0.02;
    float std = (float)deviation, residual_std = (float)(deviation / sqrt(2.0 * L));
    m->layer = (Gpt2Layer*)xalloc((size_t)L, sizeof(Gpt2Layer), "layers");
    tensor_embedding(t, &pass->embed, format_string("transformer.wte.weight"), V, C, init, std);
    if (pass->size.tie) { t->list[t->count - 1].alias = "lm_head.weight"; }
    tensor_embedding(t, &m->wpe, format_string("transformer.wpe.weight"), P, C, init, std);
    for (int l = 0; l < L; l++) {
        Gpt2Layer* y = &m->layer[l];
        const char* at = "transformer.h";
        tensor_vector(t, &y->ln1w, format_string("%s.%d.ln_1.weight", at, l), C, INIT_ONES);
        tensor_vector(t, &y->ln1b, format_string("%s.%d.ln_1.bias", at, l), C, INIT_ZEROS);
        tensor_matrix(t, &y->qkvw, format_string("%s.%d.attn.c_attn.weight", at, l), C, 3 * C, init, std);
        tensor_vector(t, &y->qkvb, format_string("%s.%d.attn.c_attn.bias", at, l), 3 * C, INIT_ZEROS);
        tensor_matrix(t, &y->projw, format_string("%s.%d.attn.c_proj.weight", at, l), C, C, init, residual_std);
        tensor_vector(t, &y->projb, format_string("%s.%d.attn.c_proj.bias", at, l), C, INIT_ZEROS);
        tensor_vector(t, &y->ln2w, format_string("%s.%d.ln_2.weight", at, l), C, INIT_ONES);
        tensor_vector(t, &y->ln2b, format_string("%s.%d.ln_2.bias", at, l), C, INIT_ZEROS);
        tensor_matrix(t, &y->fcw, format_string("%s.%d.mlp.c_fc.weight", at, l), C, FF, init, std);
        tensor_vector(t, &y->fcb, format_string("%s.%d.mlp.c_fc.bias", at, l), FF, INIT_ZEROS);
        tensor_matrix(t, &y->fcprojw, format_string("%s.%d.mlp.c_proj.weight", at, l), FF, C, init, residual_std);
        tensor_vector(t, &y->fcprojb, format_string("%s.%d.mlp.c_proj.bias", at, l), C, INIT_ZEROS);
    }
    tensor_vector(t, &m->lnfw, format_string("transformer.ln_f.weight"), C, INIT_ONES);
    tensor_vector(t, &m->lnfb, format_string("transformer.ln_f.bias"), C, INIT_ZEROS);
    if (!pass->size.tie) { tensor_embedding(t, &pass->head, format_string("lm_head.weight"), V, C, init, std); }
}

// Tensors that old checkpoints hold beside the weights. (The dot matters: c_attn.bias is a weight.)
static int gpt2_ignores(const Pass* pass, const char* name) {
    const char* const buffers[] = {".attn.bias", ".attn.masked_bias"};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
        if (text_ends(name, buffers[i])) { return 1; }
    }
    (void)pass;
    return 0;
}

// ------------------------------------------------------------------------------------------------
// [3] Activations
//
// One list of TAKEs serves three callers (common/arena.h): without memory it measures, with a record it names what lies
// where, at an address it gives the pointers. N is that of the largest micro-batch; a smaller one uses the front of
// each array. `kept` is what a GPU holds as bf16, `real` what is fp32 there too; on the CPU both are real, or kept is bf16
// there as well (common/base.h).

// What a layer keeps for its backward; after the last layer, what the final norm keeps (mean1 and rstd1
// alone). Norm outputs and GELU outputs are not kept: they are cheap to compute again from x, mid, their mean and
// rstd, and fc, and would be more than a third of the memory.
typedef struct {
    real* mean1;  // (N) of the layer's input
    real* rstd1;  // (N)
    kept* qkv;    // (N,3C)
    real* lse;    // (B,NH,T)
    kept* att;    // (N,C)
    real* mid;    // (N,C) the stream between attention and MLP
    real* mean2;  // (N) of mid
    real* rstd2;  // (N)
    kept* fc;     // (N,FF) before GELU
    real* next;   // (N,C) the layer's output, the next one's input
} Gpt2Kept;

static Gpt2Kept gpt2_kept(const Pass* pass, Arena* a, int l) {
    size_t N = pass->N, NC = N * (size_t)pass->size.C;
    Gpt2Kept k = {NULL};
    k.mean1 = TAKE(a, real, "mean of the input", N);
    k.rstd1 = TAKE(a, real, "1 / deviation of the input", N);
    if (l == pass->size.L) { return k; }
    k.qkv = TAKE(a, kept, "queries, keys and values", 3 * NC);
    k.lse = TAKE(a, real, "log-sum-exp of the scores", N * (size_t)pass->size.NH);
    k.att = TAKE(a, kept, "attention output", NC);
    k.mid = TAKE(a, real, "stream after attention", NC);
    k.mean2 = TAKE(a, real, "mean after attention", N);
    k.rstd2 = TAKE(a, real, "1 / deviation after attention", N);
    k.fc = TAKE(a, kept, "MLP before GELU", N * (size_t)pass->size.FF);
    k.next = TAKE(a, real, "output", NC);
    return k;
}
// Measures or lists what gpt2_kept() takes; the pointers are nobody's.
static void gpt2_keep(Pass* pass, Arena* a, int l) { gpt2_kept(pass, a, l); }

// What one layer at work needs; dead when it returns, but for x0 and, in the backward, dx.
typedef struct {
    real* x0;    // (N,C) the first layer's input, e + wpe
    kept* ln;    // (N,C) a norm's output
    kept* act;   // (N,FF) GELU's output
    kept* dact;  // (N,FF) its gradient, then that of fc
    kept* dqkv;  // (N,3C)
    kept* datt;  // (N,C)
    kept* dln;   // (N,C)
    real* dx;    // (N,C) gradient by the residual stream
    kept* dxr;   // (N,C) the same as products in bf16 read it; NULL in the fp32 CPU program
} Gpt2Work;

static Gpt2Work gpt2_work(const Pass* pass, Arena* a, int training) {
    size_t C = (size_t)pass->size.C, FF = (size_t)pass->size.FF, N = pass->N, N_back = training ? N : 0;
    Gpt2Work work = {NULL};
    work.x0 = TAKE(a, real, "input with positions", N * C);
    work.ln = TAKE(a, kept, "norm", N * C);
    work.act = TAKE(a, kept, "GELU", N * FF);
    work.dact = TAKE(a, kept, "gradient of GELU", N_back * FF);
    work.dqkv = TAKE(a, kept, "gradient of queries, keys and values", N_back * 3 * C);
    work.datt = TAKE(a, kept, "gradient of attention", N_back * C);
    work.dln = TAKE(a, kept, "gradient of a norm", N_back * C);
    work.dx = TAKE(a, real, "gradient of the stream", N_back * C);
    work.dxr = TAKE(a, kept, "gradient of the stream, rounded", stored_copies() ? N_back * C : 0);
    return work;
}

// Lays out the work space.
static void gpt2_prepare(Pass* pass, Arena* a, int training) { gpt2_work(pass, a, training); }

// What layer l keeps, and the work space, where the caller of the pass has put them.
static Gpt2Kept gpt2_kept_at(const Pass* pass, int l) {
    Arena a = arena_at(pass->cpu.place[l]);
    return gpt2_kept(pass, &a, l);
}
static Gpt2Work gpt2_work_at(const Pass* pass) {
    Arena a = arena_at(pass->cpu.work);
    return gpt2_work(pass, &a, pass->cpu.training);
}

// ------------------------------------------------------------------------------------------------
// [4] Layers (C)
//
// stored() and stored_copy() round to bf16 what a GPU stores so, where this half is compared with one; else, and where
// kept is bf16, they do nothing. Loops of few steps (SERIAL) stay on one thread.

// mean (N) and rstd (N) = 1/sqrt(variance + eps) of the rows of inp (N,C); Ba et al., arXiv 1607.06450.
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
static void layernorm_forward(kept* out, const real* inp, const real* weight, const real* bias, const real* mean,
                              const real* rstd, size_t N, size_t C) {
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t n = 0; n < N; n++) {
        const real* x = inp + n * C;
        kept* y = out + n * C;
        for (size_t i = 0; i < C; i++) { y[i] = kept_of_real((x[i] - mean[n]) * rstd[n] * weight[i] + bias[i]); }
        stored(y, C);
    }
}

// With x^ = (inp - mean) * rstd, so that out = x^ * weight + bias:
//   dbias (C) += sum over rows of dout;  dweight (C) += sum over rows of dout * x^
//   dx^ = dout * weight;  dinp (N,C) += rstd * (dx^ - mean(dx^) - x^ * mean(dx^ * x^))
// Columns are divided among threads for the weights, rows for the input: no two threads add to one number.
static void layernorm_backward(real* dinp, real* dweight, real* dbias, const kept* dout, const real* inp,
                               const real* weight, const real* mean, const real* rstd, size_t N, size_t C) {
    const size_t columns = 64;
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t first = 0; first < C; first += columns) {
        size_t last = min_size(first + columns, C);
        for (size_t n = 0; n < N; n++) {
            for (size_t i = first; i < last; i++) {
                real x_hat = (inp[n * C + i] - mean[n]) * rstd[n], dy = real_of_kept(dout[n * C + i]);
                dbias[i] += dy;
                dweight[i] = real_fma(dy, x_hat, dweight[i]);
            }
        }
    }
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t n = 0; n < N; n++) {
        const real* x = inp + n * C;
        const kept* dy = dout + n * C;
        real* dx = dinp + n * C;
        real sum[LANES] = {0}, dot[LANES] = {0};
        for (size_t first = 0; first < C; first += LANES) {
            size_t lanes = min_size(LANES, C - first);
            for (size_t l = 0; l < lanes; l++) {
                size_t i = first + l;
                real dx_hat = real_of_kept(dy[i]) * weight[i];
                sum[l] += dx_hat;
                dot[l] = real_fma(dx_hat, (x[i] - mean[n]) * rstd[n], dot[l]);
            }
        }
        real mean_dx = lanes_fold(sum) / (real)C, mean_dot = lanes_fold(dot) / (real)C;
        for (size_t i = 0; i < C; i++) {
            real x_hat = (x[i] - mean[n]) * rstd[n];
            dx[i] += rstd[n] * (real_of_kept(dy[i]) * weight[i] - mean_dx - x_hat * mean_dot);
        }
    }
}

// out (N,C) = inp (N,C) + table[t], N = B T; table (P,C) holds a row for each position. Rows begin at position 0, or where
// a cache says.
static void position_forward(real* out, const real* inp, Weight table, const KeyCache* cache, size_t B, size_t T,
                             size_t C) {
#pragma omp parallel for schedule(static) if (B * T * C > SERIAL)
    for (size_t n = 0; n < B * T; n++) {
        size_t position = (cache_first(cache, n / T) + n % T) * C;
        for (size_t i = 0; i < C; i++) { out[n * C + i] = inp[n * C + i] + weight_number(table, position + i); }
    }
}

// dtable[t] (P,C) += sum over the B rows of dout (N,C), in their order: positions are divided among threads. The
// gradient of inp is dout itself. Sums over passes and micro-batches; positions from T on get nothing.
static void position_backward(real* dtable, const real* dout, size_t B, size_t T, size_t C) {
#pragma omp parallel for schedule(static) if (B * T * C > SERIAL)
    for (size_t t = 0; t < T; t++) {
        real* dposition = dtable + t * C;
        for (size_t b = 0; b < B; b++) {
            const real* dx = dout + (b * T + t) * C;
            for (size_t i = 0; i < C; i++) { dposition[i] += dx[i]; }
        }
    }
}

// out = x * Phi(x), Phi the normal distribution function, approximated; Hendrycks & Gimpel, arXiv 1606.08415:
// Phi(x) ~ (1 + tanh(u)) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3).
// differs: train_pythia.cu has the erf form, Phi itself; GPT-2 was trained with this one.
static void gelu_forward(kept* out, const kept* inp, size_t n) {
#pragma omp parallel for schedule(static) if (n > SERIAL)
    for (size_t i = 0; i < n; i++) {
        real x = real_of_kept(inp[i]);
        real u = (real)0.79788456080286535588 * (x + (real)0.044715 * x * x * x);
        out[i] = kept_of_real(x * ((real)0.5 * (1 + real_tanh(u))));
    }
    stored(out, n);
}

// dinp = dout * (Phi(x) + x * Phi'(x)), Phi'(x) = (1 - tanh(u)^2) / 2 * u', u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2);
// dinp may be dout.
// differs: as the forward.
static void gelu_backward(kept* dinp, const kept* dout, const kept* inp, size_t n) {
#pragma omp parallel for schedule(static) if (n > SERIAL)
    for (size_t i = 0; i < n; i++) {
        real x = real_of_kept(inp[i]);
        real tanh_u = real_tanh((real)0.79788456080286535588 * (x + (real)0.044715 * x * x * x));
        real du = (real)0.79788456080286535588 * (1 + (real)0.134145 * x * x);
        real slope = (real)0.5 * (1 + tanh_u) + (real)0.5 * x * (1 - tanh_u * tanh_u) * du;
        dinp[i] = kept_of_real(real_of_kept(dout[i]) * slope);
    }
    stored(dinp, n);
}

// ------------------------------------------------------------------------------------------------
// [5] One pass (C)

// Shape ledger of a layer, x (N,C) its input; the first layer's is x0 = e + wpe:
//   ln1  (N,C)  = LN1(x)                    qkv (N,3C) = ln1 Wqkv + b
//   att  (N,C)  = attention(qkv)            mid (N,C)  = x + (att Wproj + b)
//   ln2  (N,C)  = LN2(mid)                  fc  (N,FF) = ln2 Wfc + b             act (N,FF) = GELU(fc)
//   next (N,C)  = mid + (act Wfcproj + b)
// and h (N,C) = LNf(x of the last layer). attention is causal, softmax(q k^T / sqrt(HS)) v of each head. A row of qkv
// is q, k, v, each C numbers of NH heads: they begin at 0, C, 2C; from head to head HS, from row to row 3C.
static void gpt2_forward(Pass* pass, kept* h, const real* e, int B, int T) {
    const Gpt2* m = (const Gpt2*)pass;
    const Sizes* size = &pass->size;
    size_t N = (size_t)B * (size_t)T, C = (size_t)size->C, FF = (size_t)size->FF, HS = (size_t)size->HS;
    real eps = (real)size->eps;
    Gpt2Work work = gpt2_work_at(pass);
    position_forward(work.x0, e, m->wpe, pass->cache, B, T, C);
    const real* x = work.x0;
    for (int l = 0; l < size->L; l++) {
        const Gpt2Layer* y = &m->layer[l];
        Gpt2Kept k = gpt2_kept_at(pass, l);
        layernorm_statistics(k.mean1, k.rstd1, x, N, C, eps);
        layernorm_forward(work.ln, x, y->ln1w.w, y->ln1b.w, k.mean1, k.rstd1, N, C);
        conv1d_forward(k.qkv, work.ln, y->qkvw, y->qkvb.w, N, C, 3 * C);
        cached_attention_forward(k.att, k.lse, k.qkv, k.qkv + C, k.qkv + 2 * C, B, T, size->NH, size->NH, size->HS,
                                 3 * C, HS, HS, pass->cache, l);
        memcpy(k.mid, x, N * C * sizeof(real));
        conv1d_forward_add(k.mid, k.att, y->projw, y->projb.w, N, C, C);
        layernorm_statistics(k.mean2, k.rstd2, k.mid, N, C, eps);
        layernorm_forward(work.ln, k.mid, y->ln2w.w, y->ln2b.w, k.mean2, k.rstd2, N, C);
        conv1d_forward(k.fc, work.ln, y->fcw, y->fcb.w, N, C, FF);
        gelu_forward(work.act, k.fc, N * FF);
        memcpy(k.next, k.mid, N * C * sizeof(real));
        conv1d_forward_add(k.next, work.act, y->fcprojw, y->fcprojb.w, N, FF, C);
        x = k.next;
    }
    Gpt2Kept k = gpt2_kept_at(pass, size->L);
    layernorm_statistics(k.mean1, k.rstd1, x, N, C, eps);
    layernorm_forward(h, x, m->lnfw.w, m->lnfb.w, k.mean1, k.rstd1, N, C);
}

// The mirror, last layer first. dx (N,C) is the gradient by the residual stream: it passes every
// layer unchanged (the "+" of the residual) and each branch adds what came through it.
// Every gradient of a weight sums over passes and micro-batches.
// Of a product out = inp W + b: dinp = dout W^T, dW += inp^T dout, db += column sums of dout. "By x": with respect to
// x.
//   dact = dx Wfcproj^T;  dfc = dact * GELU'(fc);     dln2 = dfc Wfc^T;    dx, by next, += LN2 backward: now by mid
//   datt = dx Wproj^T;    dqkv = attention backward;  dln1 = dqkv Wqkv^T;  dx, by mid, += LN1 backward: now by x
//   de += dx;  dwpe[t] += dx of every row: in each pass, since each has added wpe
static void gpt2_backward(Pass* pass, real* de, const kept* dh, const real* e, int B, int T) {
    const Gpt2* m = (const Gpt2*)pass;
    const Sizes* size = &pass->size;
    size_t N = (size_t)B * (size_t)T, C = (size_t)size->C, FF = (size_t)size->FF, HS = (size_t)size->HS;
    Gpt2Work work = gpt2_work_at(pass);
    Gpt2Kept last = gpt2_kept_at(pass, size->L);
    position_forward(work.x0, e, m->wpe, NULL, B, T, C);  // not kept: every pass has its own in this place
    // dx starts from the final norm alone: de already holds the gradient that reaches e past this
    // pass, and that one must not go through the layers.
    memset(work.dx, 0, N * C * sizeof(real));
    layernorm_backward(work.dx, m->lnfw.d, m->lnfb.d, dh, gpt2_kept_at(pass, size->L - 1).next, m->lnfw.w, last.mean1,
                       last.rstd1, N, C);
    for (int l = size->L - 1; l >= 0; l--) {
        const Gpt2Layer* y = &m->layer[l];
        Gpt2Kept k = gpt2_kept_at(pass, l);
        const real* x = l > 0 ? gpt2_kept_at(pass, l - 1).next : work.x0;

        const kept* dout = stored_copy(work.dxr, work.dx, N * C);  // gradient of the MLP's output
        gelu_forward(work.act, k.fc, N * FF);                      // again
        conv1d_backward_input(work.dact, dout, y->fcprojw.w, N, FF, C);
        conv1d_backward_weight(y->fcprojw.d, y->fcprojb.d, dout, work.act, N, FF, C);
        kept* dfc = work.dact;  // in place: dact is dead after this line
        gelu_backward(dfc, work.dact, k.fc, N * FF);
        layernorm_forward(work.ln, k.mid, y->ln2w.w, y->ln2b.w, k.mean2, k.rstd2, N, C);  // ln2 again
        conv1d_backward_weight(y->fcw.d, y->fcb.d, dfc, work.ln, N, C, FF);
        conv1d_backward_input(work.dln, dfc, y->fcw.w, N, C, FF);
        layernorm_backward(work.dx, y->ln2w.d, y->ln2b.d, work.dln, k.mid, y->ln2w.w, k.mean2, k.rstd2, N, C);

        dout = stored_copy(work.dxr, work.dx, N * C);  // of attention's projection: by mid, the MLP has added its own
        conv1d_backward_input(work.datt, dout, y->projw.w, N, C, C);
        conv1d_backward_weight(y->projw.d, y->projb.d, dout, k.att, N, C, C);
        attention_backward(work.dqkv, work.dqkv + C, work.dqkv + 2 * C, work.datt, k.qkv, k.qkv + C, k.qkv + 2 * C,
                           k.att, k.lse, B, T, size->NH, size->NH, size->HS, 3 * C, HS, HS);
        layernorm_forward(work.ln, x, y->ln1w.w, y->ln1b.w, k.mean1, k.rstd1, N, C);  // ln1 again
        conv1d_backward_weight(y->qkvw.d, y->qkvb.d, work.dqkv, work.ln, N, C, 3 * C);
        conv1d_backward_input(work.dln, work.dqkv, y->qkvw.w, N, C, 3 * C);
        layernorm_backward(work.dx, y->ln1w.d, y->ln1b.d, work.dln, x, y->ln1w.w, k.mean1, k.rstd1, N, C);
    }
    position_backward(m->wpe.d, work.dx, B, T, C);
    row_add(de, work.dx, N * C);
}

// ------------------------------------------------------------------------------------------------
// [6] Kernels that only this architecture has: none. Its layers are in common/layers.cuh, norms.cuh and
//     attention.cuh, where the other architectures find theirs.
// [7] One pass (CUDA)
#if GPU

#include "common/cache.cuh"
#include "common/layers.cuh"
#include "common/norms.cuh"

// What a layer keeps on the GPU, as in [3]. ln1, ln2, act: only where they are not computed again.
typedef struct {
    float* mean1;  // (N) of the layer's input
    float* rstd1;  // (N)
    floatX* qkv;   // (N,3C)
    float* lse;    // (B,NH,T)
    floatX* att;   // (N,C)
    float* mid;    // (N,C) the stream between attention and MLP
    float* mean2;  // (N) of mid
    float* rstd2;  // (N)
    floatX* fc;    // (N,FF) before its bias and GELU
    float* next;   // (N,C) the layer's output, the next one's input
    floatX* ln1;   // (N,C)
    floatX* ln2;   // (N,C)
    floatX* act;   // (N,FF)
} Gpt2KeptCuda;

static Gpt2KeptCuda gpt2_kept_cuda(const Pass* pass, Arena* a, int l) {
    size_t N = pass->N, NC = N * (size_t)pass->size.C, FF = (size_t)pass->size.FF, scores = N * (size_t)pass->size.NH;
    size_t N_kept = pass->gpu.again ? 0 : N, C = (size_t)pass->size.C;  // what is computed again is not kept
    Gpt2KeptCuda k = {NULL};
    k.mean1 = TAKE(a, float, "mean of the input", N);
    k.rstd1 = TAKE(a, float, "1 / deviation of the input", N);
    if (l == pass->size.L) { return k; }
    k.qkv = TAKE(a, floatX, "queries, keys and values", 3 * NC);
    k.lse = TAKE(a, float, "log-sum-exp of the scores", scores);
    k.att = TAKE(a, floatX, "attention output", NC);
    k.mid = TAKE(a, float, "stream after attention", NC);
    k.mean2 = TAKE(a, float, "mean after attention", N);
    k.rstd2 = TAKE(a, float, "1 / deviation after attention", N);
    k.fc = TAKE(a, floatX, "MLP before GELU", N * FF);
    // The C half's fc has its bias already: --compare-cpu adds it to this one.
    arena_lacks(a, ((const Gpt2*)pass)->layer[l].fcb.master, FF);
    k.next = TAKE(a, float, "output", NC);
    k.ln1 = TAKE(a, floatX, "first norm", N_kept * C);
    k.ln2 = TAKE(a, floatX, "second norm", N_kept * C);
    k.act = TAKE(a, floatX, "GELU", N_kept * FF);
    return k;
}
static void gpt2_keep_cuda(Pass* pass, Arena* a, int l) { gpt2_kept_cuda(pass, a, l); }

// What a layer at work needs. out in the forward, dx and dxr in the backward go on to the next layer, x0 stays as long
// as the pass; the rest is dead when it returns.
typedef struct {
    float* x0;       // (N,C) the first layer's input, e + wpe
    floatX* out;     // (N,C) the branch that is not added yet, without its bias: attention's projection, then the MLP's
    floatX* ln;      // (N,C) either norm, where they are not kept
    floatX* act;     // (N,FF)
    floatX* dact;    // (N,FF), then dfc
    floatX* dqkv;    // (N,3C)
    floatX* datt;    // (N,C)
    floatX* dln;     // (N,C)
    float* dx;       // (N,C) gradient by the residual stream
    floatX* dxr;     // (N,C) the same, rounded: what products read
    float* delta;    // (B,NH,T) of attention's backward
    float* partial;  // of the sums over rows
} Gpt2WorkCuda;

static Gpt2WorkCuda gpt2_work_cuda(const Pass* pass, Arena* a, int training) {
    size_t C = (size_t)pass->size.C, FF = (size_t)pass->size.FF, NH = (size_t)pass->size.NH, N = pass->N;
    size_t N_back = training ? N : 0, N_again = pass->gpu.again ? N : 0, NC_back = N_back * C, scores = N_back * NH;
    size_t NC = N * C, sums = max_size(column_sum_scratch(N, FF), column_sum_scratch(N, 3 * C));
    Gpt2WorkCuda work = {NULL};
    work.x0 = TAKE(a, float, "input with positions", NC);
    work.out = TAKE(a, floatX, "a branch", NC);
    work.ln = TAKE(a, floatX, "norm", N_again * C);
    work.act = TAKE(a, floatX, "GELU", N_again * FF);
    work.dact = TAKE(a, floatX, "gradient of GELU", N_back * FF);
    work.dqkv = TAKE(a, floatX, "gradient of queries, keys and values", 3 * NC_back);
    work.datt = TAKE(a, floatX, "gradient of attention", NC_back);
    work.dln = TAKE(a, floatX, "gradient of a norm", NC_back);
    work.dx = TAKE(a, float, "gradient of the stream", NC_back);
    work.dxr = TAKE(a, floatX, "gradient of the stream, rounded", NC_back);
    work.delta = TAKE(a, float, "delta of attention", scores);
    work.partial = TAKE(a, float, "sums over rows", training ? max_size(norm_backward_scratch(N, C), sums) : 0);
    return work;
}

static void gpt2_prepare_cuda(Pass* pass, Arena* a, int training) { gpt2_work_cuda(pass, a, training); }

static Gpt2WorkCuda gpt2_work_at_cuda(const Pass* pass) {
    Arena a = arena_at(pass->gpu.work);
    return gpt2_work_cuda(pass, &a, pass->gpu.training);
}
static Gpt2KeptCuda gpt2_kept_at_cuda(const Pass* pass, const Gpt2WorkCuda* work, int l) {
    Arena a = arena_at(pass->gpu.place[l]);
    Gpt2KeptCuda k = gpt2_kept_cuda(pass, &a, l);
    if (pass->gpu.again) { k.ln1 = work->ln, k.ln2 = work->ln, k.act = work->act; }
    return k;
}

// Shape ledger, as in [5] but for what is fused. A norm begins by finishing the branch before it, which comes over as
// out, without its bias: one kernel adds out and bias to the stream and takes the norm of the sum. So a layer begins
// by finishing the one before it; the last layer's MLP is finished by the final norm's kernel. (These kernels take two
// branches and two norms of one sum, as Pythia needs them; here the second of each is NULL.)
//   x    (N,C)  = mid + (out + b)       of the layer before: its next; in the first layer x = x0 = e + wpe
//   ln1  (N,C)  = LN1(x)                in the same kernel
//   qkv  (N,3C) = ln1 Wqkv + b          the bias is cuBLASLt's
//   att  (N,C)  = attention(qkv)        out (N,C)  = att Wproj
//   mid  (N,C)  = x + (out + b)         ln2 (N,C)  = LN2(mid), in the same kernel
//   fc   (N,FF) = ln2 Wfc               act (N,FF) = GELU(fc + b)
//   out  (N,C)  = act Wfcproj
// x, mid and their gradient are fp32. With fewer than L `layers` (the first ones of a pass, wanted again for its
// backward: --recompute) it returns once the norm of the next layer has finished the last of them; h is not written.
static void gpt2_forward_cuda(Pass* pass, floatX* h, const float* e, int B, int T, int layers) {
    const Gpt2* m = (const Gpt2*)pass;
    const Sizes* size = &pass->size;
    size_t N = (size_t)B * (size_t)T, C = (size_t)size->C, FF = (size_t)size->FF, HS = (size_t)size->HS;
    size_t NH = (size_t)size->NH;
    float eps = (float)size->eps;
    Gpt2WorkCuda work = gpt2_work_at_cuda(pass);
    position_forward_cuda(work.x0, e, m->wpe.master, cache_first_cuda(pass->cache_cuda), B, T, C);
    const float* x = work.x0;  // what out and bias are added to, then the layer's input
    const floatX* out = NULL;  // the branch that is not added yet; NULL: none
    const float* bias = NULL;  // of out
    float* next = NULL;        // where the sum goes
    for (int l = 0; l < size->L; l++) {
        const Gpt2Layer* y = &m->layer[l];
        Gpt2KeptCuda k = gpt2_kept_at_cuda(pass, &work, l);
        layernorms_forward_cuda(next, k.ln1, NULL, k.mean1, k.rstd1, x, out, bias, NULL, NULL, y->ln1w.master,
                                y->ln1b.master, NULL, NULL, N, C, eps);
        if (l == layers) { return; }
        if (next) { x = next; }
        conv1d_forward_cuda(k.qkv, k.ln1, y->qkvw.x, y->qkvb.x, N, C, 3 * C);
        cached_attention_forward_cuda(k.att, k.lse, k.qkv, k.qkv + C, k.qkv + 2 * C, B, T, NH, NH, HS, 3 * C, HS, HS,
                                      pass->cache_cuda, l);
        conv1d_forward_cuda(work.out, k.att, y->projw.x, NULL, N, C, C);
        layernorms_forward_cuda(k.mid, k.ln2, NULL, k.mean2, k.rstd2, x, work.out, y->projb.master, NULL, NULL,
                                y->ln2w.master, y->ln2b.master, NULL, NULL, N, C, eps);
        conv1d_gelu_forward_cuda(k.act, k.fc, k.ln2, y->fcw.x, y->fcb.master, N, C, FF, GELU_TANH);
        conv1d_forward_cuda(work.out, k.act, y->fcprojw.x, NULL, N, FF, C);
        x = k.mid, out = work.out, bias = y->fcprojb.master;
        next = k.next;
    }
    Gpt2KeptCuda k = gpt2_kept_at_cuda(pass, &work, size->L);
    layernorms_forward_cuda(next, h, NULL, k.mean1, k.rstd1, x, out, bias, NULL, NULL, m->lnfw.master, m->lnfb.master,
                            NULL, NULL, N, C, eps);
}

// The mirror. Every kernel that takes a norm's gradient into dx sums the columns of the new dx on its way: that is
// the gradient of the bias that was added before that norm, of attention's projection or of the layer before's MLP. Two
// products have no norm behind them: gelu_backward_cuda() sums the gradient of fc's bias, column_sum_cuda() qkv's.
static void gpt2_backward_cuda(Pass* pass, float* de, const floatX* dh, const float* e, int B, int T) {
    const Gpt2* m = (const Gpt2*)pass;
    const Sizes* size = &pass->size;
    size_t N = (size_t)B * (size_t)T, C = (size_t)size->C, FF = (size_t)size->FF, HS = (size_t)size->HS;
    size_t NH = (size_t)size->NH;
    Gpt2WorkCuda work = gpt2_work_at_cuda(pass);
    Gpt2KeptCuda last = gpt2_kept_at_cuda(pass, &work, size->L);
    const Gpt2Layer* before = &m->layer[size->L - 1];
    position_forward_cuda(work.x0, e, m->wpe.master, NULL, B, T, C);  // not kept: every pass has its own in this place
    // dx starts from the final norm alone: de holds the gradient that reaches e past this pass.
    layernorms_backward_cuda(work.dx, work.dxr, m->lnfw.grad, m->lnfb.grad, NULL, NULL, before->fcprojb.grad, NULL,
                             work.partial, dh, NULL, gpt2_kept_at_cuda(pass, &work, size->L - 1).next, m->lnfw.master,
                             NULL, last.mean1, last.rstd1, N, C, 0);
    for (int l = size->L - 1; l >= 0; l--) {
        const Gpt2Layer* y = &m->layer[l];
        Gpt2KeptCuda k = gpt2_kept_at_cuda(pass, &work, l);
        const float* x = l > 0 ? gpt2_kept_at_cuda(pass, &work, l - 1).next : work.x0;
        if (pass->gpu.again) {
            gelu_forward_cuda(k.act, k.fc, y->fcb.master, N, FF, GELU_TANH);
            layernorms_again_cuda(k.ln2, NULL, k.mid, y->ln2w.master, y->ln2b.master, NULL, NULL, k.mean2, k.rstd2, N,
                                  C);
        }
        conv1d_backward_input_cuda(work.dact, work.dxr, y->fcprojw.x, N, FF, C);
        conv1d_backward_weight_cuda(y->fcprojw.grad, work.dxr, k.act, N, FF, C);
        floatX* dfc = work.dact;  // in place: dact is dead after this line
        gelu_backward_cuda(dfc, y->fcb.grad, work.partial, work.dact, k.fc, y->fcb.master, N, FF, GELU_TANH);
        conv1d_backward_weight_cuda(y->fcw.grad, dfc, k.ln2, N, C, FF);
        conv1d_backward_input_cuda(work.dln, dfc, y->fcw.x, N, C, FF);
        layernorms_backward_cuda(work.dx, work.dxr, y->ln2w.grad, y->ln2b.grad, NULL, NULL, y->projb.grad, NULL,
                                 work.partial, work.dln, NULL, k.mid, y->ln2w.master, NULL, k.mean2, k.rstd2, N, C, 1);

        // k.ln2 is dead: where norms are computed again, k.ln1 is the same memory.
        if (pass->gpu.again) {
            layernorms_again_cuda(k.ln1, NULL, x, y->ln1w.master, y->ln1b.master, NULL, NULL, k.mean1, k.rstd1, N, C);
        }
        conv1d_backward_input_cuda(work.datt, work.dxr, y->projw.x, N, C, C);
        conv1d_backward_weight_cuda(y->projw.grad, work.dxr, k.att, N, C, C);
        attention_backward_cuda(work.dqkv, work.dqkv + C, work.dqkv + 2 * C, work.delta, work.datt, k.qkv, k.qkv + C,
                                k.qkv + 2 * C, k.att, k.lse, B, T, NH, NH, HS, 3 * C, HS, HS);
        column_sum_cuda(y->qkvb.grad, NULL, work.partial, work.dqkv, N, 3 * C);
        conv1d_backward_weight_cuda(y->qkvw.grad, work.dqkv, k.ln1, N, C, 3 * C);
        conv1d_backward_input_cuda(work.dln, work.dqkv, y->qkvw.x, N, C, 3 * C);
        before = l > 0 ? &m->layer[l - 1] : NULL;
        layernorms_backward_cuda(work.dx, before ? work.dxr : NULL, y->ln1w.grad, y->ln1b.grad, NULL, NULL,
                                 before ? before->fcprojb.grad : NULL, NULL, work.partial, work.dln, NULL, x,
                                 y->ln1w.master, NULL, k.mean1, k.rstd1, N, C, 1);
    }
    position_backward_cuda(m->wpe.grad, work.dx, B, T, C);
    add_cuda(de, work.dx, N * C);
}

static const PassCuda gpt2_cuda = {gpt2_keep_cuda, gpt2_prepare_cuda, gpt2_forward_cuda, gpt2_backward_cuda,
                                   ATTENTION_MOST_HS};
#else
static const PassCuda gpt2_cuda = {NULL};
#endif

// ------------------------------------------------------------------------------------------------
// [8] main

static const Architecture gpt2 = {
    .program = "train_gpt2",
    .stock_class = "GPT2LMHeadModel",
    .stock_config = "GPT2Config",
    .stock_type = "gpt2",
    .presets = gpt2_presets,
    .default_preset = "gpt2",
    .pass_size = sizeof(Gpt2),
    .usual_ff = gpt2_usual_ff,
    .usual_length = 1024,
    .read_config = gpt2_read_config,
    .check = gpt2_check,
    .write_config = gpt2_write_config,
    .other_keys = gpt2_other_keys,
    .tensors = gpt2_tensors,
    .ignores = gpt2_ignores,
    .keep = gpt2_keep,
    .prepare = gpt2_prepare,
    .forward = gpt2_forward,
    .backward = gpt2_backward,
    .cuda = &gpt2_cuda,
};

#ifndef TESTING
int MAIN(int argc, char** argv);
int MAIN(int argc, char** argv) { return ponder_main(argc, argv, &gpt2); }
#endif

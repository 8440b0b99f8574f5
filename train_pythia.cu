// train_pythia.cu - Pythia (GPT-NeoX), trained to ponder.
//
//     make train_pythia        the CPU program, build/train_pythia
//     make gpu                 the same file by nvcc: build/train_pythia_cuda
//
// This file knows one architecture and nothing of pondering: it turns input embeddings (B,T,C)
// into hidden states (B,T,C), forward and backward. ponder.cuh calls that a PASS, runs it S+1
// times, and adds embedding, vocabulary mix and loss. The files in common/ do the rest.
//
//   [1] configuration and presets
//   [2] tensor table
//   [3] activations
//   [4] layers (C): LayerNorm, rotary positions, GELU; forward, backward
//   [5] one pass (C), forward and backward
//   [6] kernels that only this architecture has (CUDA)
//   [7] one pass (CUDA), forward and backward
//   [8] main: the table of all that
//
// One layer, x -> x + attention(LN1 x) + mlp(LN2 x): both branches read the same input.
// Sizes: B rows, T positions, N = B*T, C width, NH heads, HS = C/NH head size, FF = mlp width,
// L layers. Source of the architecture: Black et al., "GPT-NeoX-20B", arXiv 2204.06745; Biderman
// et al., "Pythia", arXiv 2304.01373; tensor names and layouts are Hugging Face's GPTNeoX.

#include "ponder.cuh"

#include "common/attention.h"
#include "common/cache.h"
#include "common/files/settings.h"

// ------------------------------------------------------------------------------------------------
// [1] Configuration and presets

typedef struct PythiaLayer PythiaLayer;

typedef struct {
    Pass pass;           // first, so that a Pass* of ours is a Pythia*: sizes, memory, embedding tables
    double rotary_pct;   // share of each head that is rotated
    double rotary_base;  // of the geometric series of wavelengths
    PythiaLayer* layer;  // (L) weights
    Weight lnfw, lnfb;   // (C) final norm
} Pythia;

static const Preset pythia_presets[] = {
    {"pythia-14m", {.L = 6, .C = 128, .NH = 4, .FF = 512, .V = 50304}},
    {"pythia-31m", {.L = 6, .C = 256, .NH = 8, .FF = 1024, .V = 50304}},
    {"pythia-70m", {.L = 6, .C = 512, .NH = 8, .FF = 2048, .V = 50304}},
    {"pythia-160m", {.L = 12, .C = 768, .NH = 12, .FF = 3072, .V = 50304}},
    {"pythia-410m", {.L = 24, .C = 1024, .NH = 16, .FF = 4096, .V = 50304}},
    {"pythia-1b", {.L = 16, .C = 2048, .NH = 8, .FF = 8192, .V = 50304}},
    {"pythia-1.4b", {.L = 24, .C = 2048, .NH = 16, .FF = 8192, .V = 50304}},
    {"pythia-2.8b", {.L = 32, .C = 2560, .NH = 32, .FF = 10240, .V = 50304}},
    {"pythia-6.9b", {.L = 32, .C = 4096, .NH = 32, .FF = 16384, .V = 50432}},
    {NULL},
};

static int pythia_usual_ff(int C) { return 4 * C; }

// Dies on what Pythia does not have, by name; warns of what training here ignores.
static void pythia_refuse(const Json* config, const char* path) {
    const char* act = json_get_string(config, "hidden_act", "gelu", path);
    if (strcmp(act, "gelu") != 0) { die("%s: hidden_act is \"%s\", Pythia has \"gelu\" (the erf form)", path, act); }
    if (!json_get_bool(config, "use_parallel_residual", 1, path)) {
        die("%s: use_parallel_residual is false; only the parallel residual of Pythia is supported", path);
    }
    if (!json_get_bool(config, "attention_bias", 1, path)) {
        die("%s: attention_bias is false; Pythia has biases in its attention", path);
    }
    setting_rotary_scaled(config, NULL, path);
    const char* const dropouts[] = {"attention_dropout", "hidden_dropout"};
    setting_no_dropout(config, dropouts, 2, 0, path);
}

// Sizes of a config.json, or only what no preset says (config == NULL).
static void pythia_read_config(Pass* pass, const Json* config, const char* path) {
    Pythia* m = (Pythia*)pass;
    Sizes* size = &pass->size;
    m->rotary_pct = 0.25;
    m->rotary_base = 10000;
    size->eps = 1e-5;
    if (!config) { return; }
    pythia_refuse(config, path);
    size->L = json_get_size(config, "num_hidden_layers", 44, 1000, path);
    size->C = json_get_size(config, "hidden_size", 6144, 1 << 20, path);
    size->NH = json_get_size(config, "num_attention_heads", 64, 1 << 16, path);
    size->FF = json_get_size(config, "intermediate_size", 24576, 1 << 22, path);
    size->V = json_get_size(config, "vocab_size", 50432, 1 << 24, path);
    size->P = json_get_size(config, "max_position_embeddings", 2048, 1 << 30, path);
    size->eps = json_get_number(config, "layer_norm_eps", 1e-5, path);
    size->tie = json_get_bool(config, "tie_word_embeddings", 0, path);
    m->rotary_pct = setting_rotary(config, "partial_rotary_factor", "rotary_pct", 0.25, path);
    m->rotary_base = setting_rotary(config, "rope_theta", "rotary_emb_base", 10000, path);
}

static int pythia_rotated(const Pythia* m) { return (int)(m->pass.size.HS * m->rotary_pct); }

// The sizes as config.json, preset and command line have made them; dies in words on shapes that do not fit.
static void pythia_check(Pass* pass, const char* path) {
    Pythia* m = (Pythia*)pass;
    Sizes* size = &pass->size;
    if (size->NKV != size->NH) {
        die("%s: --kv-heads %d: Pythia has as many heads of keys and values as heads, %d", path, size->NKV, size->NH);
    }
    if (!(m->rotary_pct > 0 && m->rotary_pct <= 1)) {
        die("%s: the rotated share of a head is %g, expected more than 0, at most 1", path, m->rotary_pct);
    }
    if (!(m->rotary_base > 1 && m->rotary_base < 1e12)) {
        die("%s: the rotary base is %g, expected more than 1 and less than 1e12", path, m->rotary_base);
    }
    if (!(size->eps > 0 && size->eps < 1)) {
        die("%s: layer_norm_eps is %g, expected between 0 and 1", path, size->eps);
    }
    int rotated = pythia_rotated(m);
    if (rotated < 2 || rotated % 2 != 0) {
        die("%s: %g of a head of %d is %d rotated numbers, expected an even number above 0", path, m->rotary_pct,
            size->HS, rotated);
    }
    if (size->P < pass->T) { size->P = pass->T; }  // nothing in the model depends on how many positions there are
}

static void pythia_write_config(const Pass* pass, StringBuilder* sb) {
    const Pythia* m = (const Pythia*)pass;
    const Sizes* size = &pass->size;
    sb_printf(sb, ",\n  \"attention_bias\": true,\n  \"attention_dropout\": 0.0,\n  \"hidden_act\": \"gelu\",\n  "
                  "\"hidden_dropout\": 0.0");
    sb_printf(sb, ",\n  \"hidden_size\": %d,\n  \"intermediate_size\": %d,\n  \"layer_norm_eps\": %.17g", size->C,
              size->FF, size->eps);
    sb_printf(sb, ",\n  \"max_position_embeddings\": %d,\n  \"num_attention_heads\": %d", size->P, size->NH);
    sb_printf(sb, ",\n  \"num_hidden_layers\": %d,\n  \"rotary_emb_base\": %.17g,\n  \"rotary_pct\": %.17g", size->L,
              m->rotary_base, m->rotary_pct);
    sb_printf(sb, ",\n  \"partial_rotary_factor\": %.17g,\n  \"rope_theta\": %.17g", m->rotary_pct, m->rotary_base);
    sb_printf(sb, ",\n  \"tie_word_embeddings\": %s", size->tie ? "true" : "false");
    sb_printf(sb, ",\n  \"use_parallel_residual\": true,\n  \"vocab_size\": %d", size->V);
}

static const char* const pythia_other_keys[] = {"rope_parameters", "rope_scaling", NULL};

// ------------------------------------------------------------------------------------------------
// [2] Tensor table

// Weights of one layer. A Weight points at the weights w and their gradient d in the C half; in the CUDA half at master
// (fp32: norms and biases), x (rounded: products) and grad.
struct PythiaLayer {
    Weight ln1w, ln1b;        // (C)
    Weight ln2w, ln2b;        // (C)
    Weight qkvw, qkvb;        // (3C,C), (3C): per head q, k, v
    Weight projw, projb;      // (C,C), (C)
    Weight fcw, fcb;          // (FF,C), (FF)
    Weight fcprojw, fcprojb;  // (C,FF), (C)
};

// passes = S+1: in Pythia the paper divides projections into the residual stream by its root too.
static void pythia_tensors(Pass* pass, TensorTable* t, int passes, int ponder_init) {
    Pythia* m = (Pythia*)pass;
    size_t C = (size_t)pass->size.C, FF = (size_t)pass->size.FF, V = (size_t)pass->size.V;
    int L = pass->size.L;
    // --init ponder (usual if S > 0): normal of deviation sqrt(2 / (5 C)), cut off at three of them; stock: normal,
    // 0.02, as in Hugging Face's class. With ponder, projections into the residual stream / sqrt(2 L passes).
    Init init = ponder_init ? INIT_TRUNCATED : INIT_NORMAL;
    double deviation = ponder_init ? sqrt(2.0 / (5.0 * (double)C)) : 0.02;
    float std = (float)deviation;
    float residual_std = (float)(ponder_init ? deviation / sqrt(2.0 * L * passes) : deviation);
    m->layer = (PythiaLayer*)xalloc((size_t)L, sizeof(PythiaLayer), "layers");
    tensor_embedding(t, &pass->embed, format_string("gpt_neox.embed_in.weight"), V, C, init, std);
    if (pass->size.tie) { t->list[t->count - 1].alias = "embed_out.weight"; }
    for (int l = 0; l < L; l++) {
        PythiaLayer* y = &m->layer[l];
        const char* at = "gpt_neox.layers";
        tensor_vector(t, &y->ln1w, format_string("%s.%d.input_layernorm.weight", at, l), C, INIT_ONES);
        tensor_vector(t, &y->ln1b, format_string("%s.%d.input_layernorm.bias", at, l), C, INIT_ZEROS);
        tensor_vector(t, &y->ln2w, format_string("%s.%d.post_attention_layernorm.weight", at, l), C, INIT_ONES);
        tensor_vector(t, &y->ln2b, format_string("%s.%d.post_attention_layernorm.bias", at, l), C, INIT_ZEROS);
        tensor_matrix(t, &y->qkvw, format_string("%s.%d.attention.query_key_value.weight", at, l), 3 * C, C, init, std);
        tensor_vector(t, &y->qkvb, format_string("%s.%d.attention.query_key_value.bias", at, l), 3 * C, INIT_ZEROS);
        tensor_matrix(t, &y->projw, format_string("%s.%d.attention.dense.weight", at, l), C, C, init, residual_std);
        tensor_vector(t, &y->projb, format_string("%s.%d.attention.dense.bias", at, l), C, INIT_ZEROS);
        tensor_matrix(t, &y->fcw, format_string("%s.%d.mlp.dense_h_to_4h.weight", at, l), FF, C, init, std);
        tensor_vector(t, &y->fcb, format_string("%s.%d.mlp.dense_h_to_4h.bias", at, l), FF, INIT_ZEROS);
        tensor_matrix(t, &y->fcprojw, format_string("%s.%d.mlp.dense_4h_to_h.weight", at, l), C, FF, init,
                      residual_std);
        tensor_vector(t, &y->fcprojb, format_string("%s.%d.mlp.dense_4h_to_h.bias", at, l), C, INIT_ZEROS);
    }
    tensor_vector(t, &m->lnfw, format_string("gpt_neox.final_layer_norm.weight"), C, INIT_ONES);
    tensor_vector(t, &m->lnfb, format_string("gpt_neox.final_layer_norm.bias"), C, INIT_ZEROS);
    if (!pass->size.tie) { tensor_embedding(t, &pass->head, format_string("embed_out.weight"), V, C, init, std); }
}

// Tensors that old checkpoints, or the reference's, hold beside the weights.
static int pythia_ignores(const Pass* pass, const char* name) {
    const char* const buffers[] = {".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq",
                                   ".adapter.weight"};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
        if (text_ends(name, buffers[i])) { return 1; }
    }
    (void)pass;
    return strcmp(name, "adapter.weight") == 0;
}

// ------------------------------------------------------------------------------------------------
// [3] Activations
//
// One list of TAKEs serves three callers (common/arena.h): without memory it measures, with a record it names what lies
// where, at an address it gives the pointers. N is that of the largest micro-batch; a smaller one uses the front of
// each array. `kept` is what a GPU holds as bf16, `real` what is fp32 there too; on the CPU both are real, or kept is bf16
// there as well (common/base.h).

// What a layer keeps for its backward; after the last layer, what the final norm keeps (mean and rstd
// alone). Norm outputs and GELU outputs are not kept: they are cheap to compute again from x, mean, rstd
// and fc, and would be more than a third of the memory.
typedef struct {
    real* mean;  // (N) of the layer's input
    real* rstd;  // (N)
    kept* qkv;   // (N,3C) after rotation
    real* lse;   // (B,NH,T)
    kept* att;   // (N,C)
    kept* fc;    // (N,FF) before GELU
    real* next;  // (N,C) the layer's output, the next one's input
} PythiaKept;

static PythiaKept pythia_kept(const Pass* pass, Arena* a, int l) {
    size_t N = pass->N, NC = N * (size_t)pass->size.C;
    PythiaKept k = {NULL};
    k.mean = TAKE(a, real, "mean of the input", N);
    k.rstd = TAKE(a, real, "1 / deviation of the input", N);
    if (l == pass->size.L) { return k; }
    k.qkv = TAKE(a, kept, "queries, keys and values", 3 * NC);
    k.lse = TAKE(a, real, "log-sum-exp of the scores", N * (size_t)pass->size.NH);
    k.att = TAKE(a, kept, "attention output", NC);
    k.fc = TAKE(a, kept, "MLP before GELU", N * (size_t)pass->size.FF);
    k.next = TAKE(a, real, "output", NC);
    return k;
}
// Measures or lists what pythia_kept() takes; the pointers are nobody's.
static void pythia_keep(Pass* pass, Arena* a, int l) { pythia_kept(pass, a, l); }

// What one layer at work needs; dead when it returns, but for the tables and, in the backward, dx.
typedef struct {
    kept* ln;      // (N,C) a norm's output
    kept* act;     // (N,FF) GELU's output
    kept* dact;    // (N,FF) its gradient, then that of fc
    kept* dqkv;    // (N,3C)
    kept* datt;    // (N,C)
    kept* dln;     // (N,C)
    real* dx;      // (N,C) gradient by the residual stream
    kept* dxr;     // (N,C) the same as products in bf16 read it; NULL in the fp32 CPU program
    real* cosine;  // (T, rotated/2) of the angles
    real* sine;    // (T, rotated/2)
} PythiaWork;

static PythiaWork pythia_work(const Pass* pass, Arena* a, int training) {
    size_t C = (size_t)pass->size.C, FF = (size_t)pass->size.FF, N = pass->N, N_back = training ? N : 0;
    size_t angles = (size_t)pass->T * (size_t)(pythia_rotated((const Pythia*)pass) / 2);
    PythiaWork work = {NULL};
    work.ln = TAKE(a, kept, "norm", N * C);
    work.act = TAKE(a, kept, "GELU", N * FF);
    work.dact = TAKE(a, kept, "gradient of GELU", N_back * FF);
    work.dqkv = TAKE(a, kept, "gradient of queries, keys and values", N_back * 3 * C);
    work.datt = TAKE(a, kept, "gradient of attention", N_back * C);
    work.dln = TAKE(a, kept, "gradient of a norm", N_back * C);
    work.dx = TAKE(a, real, "gradient of the stream", N_back * C);
    work.dxr = TAKE(a, kept, "gradient of the stream, rounded", stored_copies() ? N_back * C : 0);
    work.cosine = TAKE(a, real, "cosines", angles);
    work.sine = TAKE(a, real, "sines", angles);
    return work;
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

// Lays out the work space; with memory under it, fills in what never changes.
static void pythia_prepare(Pass* pass, Arena* a, int training) {
    PythiaWork work = pythia_work(pass, a, training);
    const Pythia* m = (const Pythia*)pass;
    if (a->base) { rotary_tables(work.cosine, work.sine, pass->T, pythia_rotated(m), m->rotary_base); }
}

// What layer l keeps, and the work space, where the caller of the pass has put them.
static PythiaKept pythia_kept_at(const Pass* pass, int l) {
    Arena a = arena_at(pass->cpu.place[l]);
    return pythia_kept(pass, &a, l);
}
static PythiaWork pythia_work_at(const Pass* pass) {
    Arena a = arena_at(pass->cpu.work);
    return pythia_work(pass, &a, pass->cpu.training);
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

// Rotates heads by their positions, in place: the first `rotated` numbers of a head are pairs (i, i + rotated/2).
// Head h, part p of row n begins at x + n row_stride + h head_stride + p part_stride: q and k in qkv
// (B,T,NH,3,HS) are heads = NH, parts = 2, strides 3 NH HS, 3 HS, HS; v has no position. cosine, sine
// (T, rotated/2). Rows begin at position 0, or where a cache says. direction
// +1: forward; -1: backward, since the gradient of a rotation is the rotation back.
static void rotary_forward(kept* x, const real* cosine, const real* sine, const KeyCache* cache, size_t B, size_t T,
                           size_t heads, size_t parts, size_t rotated, size_t row_stride, size_t head_stride,
                           size_t part_stride, int direction) {
    size_t half = rotated / 2;
#pragma omp parallel for schedule(static) if (B * T * heads * parts * rotated > SERIAL)
    for (size_t n = 0; n < B * T; n++) {
        size_t t = cache_first(cache, n / T) + n % T;
        const real* c = cosine + t * half;
        const real* s = sine + t * half;
        for (size_t head = 0; head < heads; head++) {
            for (size_t part = 0; part < parts; part++) {
                kept* y = x + n * row_stride + head * head_stride + part * part_stride;
                for (size_t i = 0; i < half; i++) {
                    real a = real_of_kept(y[i]), b = real_of_kept(y[i + half]), turn = (real)direction * s[i];
                    y[i] = kept_of_real(a * c[i] - b * turn);
                    y[i + half] = kept_of_real(b * c[i] + a * turn);
                }
                stored(y, rotated);
            }
        }
    }
}

// out = x * Phi(x), Phi the normal distribution function; Hendrycks & Gimpel, arXiv 1606.08415.
static void gelu_forward(kept* out, const kept* inp, size_t n) {
#pragma omp parallel for schedule(static) if (n > SERIAL)
    for (size_t i = 0; i < n; i++) {
        real x = real_of_kept(inp[i]);
        out[i] = kept_of_real(x * ((real)0.5 * (1 + real_erf(x * (real)0.70710678118654752440))));
    }
    stored(out, n);
}

// dinp = dout * (Phi(x) + x * phi(x)); dinp may be dout.
static void gelu_backward(kept* dinp, const kept* dout, const kept* inp, size_t n) {
#pragma omp parallel for schedule(static) if (n > SERIAL)
    for (size_t i = 0; i < n; i++) {
        real x = real_of_kept(inp[i]);
        real cdf = (real)0.5 * (1 + real_erf(x * (real)0.70710678118654752440));
        real density = (real)0.39894228040143267794 * real_exp((real)-0.5 * x * x);
        dinp[i] = kept_of_real(real_of_kept(dout[i]) * (cdf + x * density));
    }
    stored(dinp, n);
}

// ------------------------------------------------------------------------------------------------
// [5] One pass (C)

// Shape ledger of a layer, x (N,C) its input:
//   ln1  (N,C)  = LN1(x)            qkv (N,3C) = ln1 Wqkv^T + b, q and k rotated
//   att  (N,C)  = attention(qkv)
//   ln2  (N,C)  = LN2(x)            fc  (N,FF) = ln2 Wfc^T + b      act (N,FF) = GELU(fc)
//   next (N,C)  = x + (att Wproj^T + b) + (act Wfcproj^T + b)
// and h (N,C) = LNf(x of the last layer). attention is causal, softmax(q k^T / sqrt(HS)) v of each head. A row of qkv
// has the HS numbers of q, k and v of head 0, then of head 1, ...: from head to head 3 HS, from row to row 3C.
static void pythia_forward(Pass* pass, kept* h, const real* e, int B, int T) {
    const Pythia* m = (const Pythia*)pass;
    const Sizes* size = &pass->size;
    size_t N = (size_t)B * (size_t)T, C = (size_t)size->C, FF = (size_t)size->FF, HS = (size_t)size->HS;
    size_t NH = (size_t)size->NH, rotated = (size_t)pythia_rotated(m);
    real eps = (real)size->eps;
    PythiaWork work = pythia_work_at(pass);
    const real* x = e;
    for (int l = 0; l < size->L; l++) {
        const PythiaLayer* y = &m->layer[l];
        PythiaKept k = pythia_kept_at(pass, l);
        layernorm_statistics(k.mean, k.rstd, x, N, C, eps);
        layernorm_forward(work.ln, x, y->ln1w.w, y->ln1b.w, k.mean, k.rstd, N, C);
        matmul_forward(k.qkv, work.ln, y->qkvw, y->qkvb.w, N, C, 3 * C);
        rotary_forward(k.qkv, work.cosine, work.sine, pass->cache, B, T, NH, 2, rotated, 3 * C, 3 * HS, HS, 1);
        cached_attention_forward(k.att, k.lse, k.qkv, k.qkv + HS, k.qkv + 2 * HS, B, T, size->NH, size->NH, size->HS,
                                 3 * C, 3 * HS, 3 * HS, pass->cache, l);
        layernorm_forward(work.ln, x, y->ln2w.w, y->ln2b.w, k.mean, k.rstd, N, C);
        matmul_forward(k.fc, work.ln, y->fcw, y->fcb.w, N, C, FF);
        gelu_forward(work.act, k.fc, N * FF);
        memcpy(k.next, x, N * C * sizeof(real));
        matmul_forward_add(k.next, k.att, y->projw, y->projb.w, N, C, C);
        matmul_forward_add(k.next, work.act, y->fcprojw, y->fcprojb.w, N, FF, C);
        x = k.next;
    }
    PythiaKept k = pythia_kept_at(pass, size->L);
    layernorm_statistics(k.mean, k.rstd, x, N, C, eps);
    layernorm_forward(h, x, m->lnfw.w, m->lnfb.w, k.mean, k.rstd, N, C);
}

// The mirror, last layer first. dx (N,C) is the gradient by the residual stream: it passes every
// layer unchanged (the "+" of the residual) and each layer adds what came through its branches.
// Every gradient of a weight sums over passes and micro-batches.
// Of a product out = inp W^T + b: dinp = dout W, dW += dout^T inp, db += column sums of dout. "By x": with respect to
// x.
//   dact = dx Wfcproj;  dfc = dact * GELU'(fc);  dln2 = dfc Wfc
//   datt = dx Wproj;    dqkv = attention backward, rotated back;  dln1 = dqkv Wqkv
//   dx, until here by next, += LN2 backward of dln2 and LN1 backward of dln1: now by x
static void pythia_backward(Pass* pass, real* de, const kept* dh, const real* e, int B, int T) {
    const Pythia* m = (const Pythia*)pass;
    const Sizes* size = &pass->size;
    size_t N = (size_t)B * (size_t)T, C = (size_t)size->C, FF = (size_t)size->FF, HS = (size_t)size->HS;
    size_t NH = (size_t)size->NH, rotated = (size_t)pythia_rotated(m);
    PythiaWork work = pythia_work_at(pass);
    PythiaKept last = pythia_kept_at(pass, size->L);
    // dx starts from the final norm alone: de already holds the gradient that reaches e past this
    // pass, and that one must not go through the layers.
    memset(work.dx, 0, N * C * sizeof(real));
    layernorm_backward(work.dx, m->lnfw.d, m->lnfb.d, dh, pythia_kept_at(pass, size->L - 1).next, m->lnfw.w, last.mean,
                       last.rstd, N, C);
    for (int l = size->L - 1; l >= 0; l--) {
        const PythiaLayer* y = &m->layer[l];
        PythiaKept k = pythia_kept_at(pass, l);
        const real* x = l > 0 ? pythia_kept_at(pass, l - 1).next : e;

        const kept* dout = stored_copy(work.dxr, work.dx, N * C);  // gradient of both branches' outputs
        gelu_forward(work.act, k.fc, N * FF);                      // again
        matmul_backward_input(work.dact, dout, y->fcprojw.w, N, FF, C);
        matmul_backward_weight(y->fcprojw.d, y->fcprojb.d, dout, work.act, N, FF, C);
        kept* dfc = work.dact;  // in place: dact is dead after this line
        gelu_backward(dfc, work.dact, k.fc, N * FF);
        layernorm_forward(work.ln, x, y->ln2w.w, y->ln2b.w, k.mean, k.rstd, N, C);  // ln2 again
        matmul_backward_weight(y->fcw.d, y->fcb.d, dfc, work.ln, N, C, FF);

        matmul_backward_input(work.datt, dout, y->projw.w, N, C, C);
        matmul_backward_weight(y->projw.d, y->projb.d, dout, k.att, N, C, C);
        attention_backward(work.dqkv, work.dqkv + HS, work.dqkv + 2 * HS, work.datt, k.qkv, k.qkv + HS, k.qkv + 2 * HS,
                           k.att, k.lse, B, T, size->NH, size->NH, size->HS, 3 * C, 3 * HS, 3 * HS);
        rotary_forward(work.dqkv, work.cosine, work.sine, NULL, B, T, NH, 2, rotated, 3 * C, 3 * HS, HS, -1);
        layernorm_forward(work.ln, x, y->ln1w.w, y->ln1b.w, k.mean, k.rstd, N, C);  // ln1 again
        matmul_backward_weight(y->qkvw.d, y->qkvb.d, work.dqkv, work.ln, N, C, 3 * C);

        // dx grows only now: both branches started from its old value.
        matmul_backward_input(work.dln, dfc, y->fcw.w, N, C, FF);
        layernorm_backward(work.dx, y->ln2w.d, y->ln2b.d, work.dln, x, y->ln2w.w, k.mean, k.rstd, N, C);
        matmul_backward_input(work.dln, work.dqkv, y->qkvw.w, N, C, 3 * C);
        layernorm_backward(work.dx, y->ln1w.d, y->ln1b.d, work.dln, x, y->ln1w.w, k.mean, k.rstd, N, C);
    }
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
    float* mean;  // (N) of the layer's input
    float* rstd;  // (N)
    floatX* qkv;  // (N,3C) after rotation
    float* lse;   // (B,NH,T)
    floatX* att;  // (N,C)
    floatX* fc;   // (N,FF) before its bias and GELU
    float* next;  // (N,C) the layer's output, the next one's input
    floatX* ln1;  // (N,C)
    floatX* ln2;  // (N,C)
    floatX* act;  // (N,FF)
} PythiaKeptCuda;

static PythiaKeptCuda pythia_kept_cuda(const Pass* pass, Arena* a, int l) {
    size_t N = pass->N, NC = N * (size_t)pass->size.C, FF = (size_t)pass->size.FF, scores = N * (size_t)pass->size.NH;
    size_t N_kept = pass->gpu.again ? 0 : N, C = (size_t)pass->size.C;  // what is computed again is not kept
    PythiaKeptCuda k = {NULL};
    k.mean = TAKE(a, float, "mean of the input", N);
    k.rstd = TAKE(a, float, "1 / deviation of the input", N);
    if (l == pass->size.L) { return k; }
    k.qkv = TAKE(a, floatX, "queries, keys and values", 3 * NC);
    k.lse = TAKE(a, float, "log-sum-exp of the scores", scores);
    k.att = TAKE(a, floatX, "attention output", NC);
    k.fc = TAKE(a, floatX, "MLP before GELU", N * FF);
    // The C half's fc has its bias already: --compare-cpu adds it to this one.
    arena_lacks(a, ((const Pythia*)pass)->layer[l].fcb.master, FF);
    k.next = TAKE(a, float, "output", NC);
    k.ln1 = TAKE(a, floatX, "first norm", N_kept * C);
    k.ln2 = TAKE(a, floatX, "second norm", N_kept * C);
    k.act = TAKE(a, floatX, "GELU", N_kept * FF);
    return k;
}
static void pythia_keep_cuda(Pass* pass, Arena* a, int l) { pythia_kept_cuda(pass, a, l); }

// What a layer at work needs. out1 and out2 in the forward, dx and dxr in the backward go on to the next layer, the
// tables stay; the rest is dead when it returns.
typedef struct {
    floatX* out1;    // (N,C) attention's projection, without bias
    floatX* out2;    // (N,C) the MLP's
    floatX* ln1;     // (N,C) where they are not kept
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
    float* cosine;   // (T, rotated/2) of the angles
    float* sine;     // (T, rotated/2)
} PythiaWorkCuda;

static PythiaWorkCuda pythia_work_cuda(const Pass* pass, Arena* a, int training) {
    size_t C = (size_t)pass->size.C, FF = (size_t)pass->size.FF, NH = (size_t)pass->size.NH, N = pass->N;
    size_t N_back = training ? N : 0, N_again = pass->gpu.again ? N : 0, NC_back = N_back * C, scores = N_back * NH;
    size_t sums = max_size(column_sum_scratch(N, FF), column_sum_scratch(N, 3 * C));
    size_t angles = (size_t)pass->T * (size_t)(pythia_rotated((const Pythia*)pass) / 2);
    PythiaWorkCuda work = {NULL};
    work.out1 = TAKE(a, floatX, "attention's branch", N * C);
    work.out2 = TAKE(a, floatX, "MLP's branch", N * C);
    work.ln1 = TAKE(a, floatX, "first norm", N_again * C);
    work.ln2 = TAKE(a, floatX, "second norm", N_again * C);
    work.act = TAKE(a, floatX, "GELU", N_again * FF);
    work.dact = TAKE(a, floatX, "gradient of GELU", N_back * FF);
    work.dqkv = TAKE(a, floatX, "gradient of queries, keys and values", 3 * NC_back);
    work.datt = TAKE(a, floatX, "gradient of attention", NC_back);
    work.dln1 = TAKE(a, floatX, "gradient of the first norm", NC_back);
    work.dln2 = TAKE(a, floatX, "gradient of the second norm", NC_back);
    work.dx = TAKE(a, float, "gradient of the stream", NC_back);
    work.dxr = TAKE(a, floatX, "gradient of the stream, rounded", NC_back);
    work.delta = TAKE(a, float, "delta of attention", scores);
    work.partial = TAKE(a, float, "sums over rows", training ? max_size(norm_backward_scratch(N, C), sums) : 0);
    work.cosine = TAKE(a, float, "cosines", angles);
    work.sine = TAKE(a, float, "sines", angles);
    return work;
}

static void pythia_prepare_cuda(Pass* pass, Arena* a, int training) {
    PythiaWorkCuda work = pythia_work_cuda(pass, a, training);
    const Pythia* m = (const Pythia*)pass;
    size_t angles = (size_t)pass->T * (size_t)(pythia_rotated(m) / 2);
    if (!a->base || ledger.dry) { return; }  // there is no memory, or launches are only counted
    real* tables = (real*)xalloc(2 * angles, sizeof(real), "rotary tables");
    rotary_tables(tables, tables + angles, pass->T, pythia_rotated(m), m->rotary_base);
    device_upload_now(work.cosine, tables, angles * sizeof(float));
    device_upload_now(work.sine, tables + angles, angles * sizeof(float));
    free(tables);
}

static PythiaWorkCuda pythia_work_at_cuda(const Pass* pass) {
    Arena a = arena_at(pass->gpu.work);
    return pythia_work_cuda(pass, &a, pass->gpu.training);
}
static PythiaKeptCuda pythia_kept_at_cuda(const Pass* pass, const PythiaWorkCuda* work, int l) {
    Arena a = arena_at(pass->gpu.place[l]);
    PythiaKeptCuda k = pythia_kept_cuda(pass, &a, l);
    if (pass->gpu.again) { k.ln1 = work->ln1, k.ln2 = work->ln2, k.act = work->act; }
    return k;
}

// Shape ledger, as in [5] but for what is fused. A layer begins by finishing the one before it: that one's branches
// out1 = att Wproj^T and out2 = act Wfcproj^T come over without their biases bias1, bias2 and without x; one kernel
// adds the five and takes both norms of the sum. The last layer's are finished by the final norm's kernel.
//   x    (N,C)  = x + (out1 + bias1) + (out2 + bias2)    of the layer before: its next; in the first layer x = e
//   ln1, ln2 (N,C) = LN1(x), LN2(x)                      in the same kernel
//   qkv  (N,3C) = ln1 Wqkv^T + b                         the bias is cuBLASLt's, q and k rotated in place
//   att  (N,C)  = attention(qkv)                         out1 (N,C) = att Wproj^T
//   fc   (N,FF) = ln2 Wfc^T                              act (N,FF) = GELU(fc + b)
//   out2 (N,C)  = act Wfcproj^T
// x and its gradient are fp32. With fewer than L `layers` (the first ones of a pass, wanted again for its backward:
// --recompute) it returns once the norms of the next layer have finished the last of them; h is not written.
static void pythia_forward_cuda(Pass* pass, floatX* h, const float* e, int B, int T, int layers) {
    const Pythia* m = (const Pythia*)pass;
    const Sizes* size = &pass->size;
    size_t N = (size_t)B * (size_t)T, C = (size_t)size->C, FF = (size_t)size->FF, HS = (size_t)size->HS;
    size_t NH = (size_t)size->NH, rotated = (size_t)pythia_rotated(m);
    float eps = (float)size->eps;
    PythiaWorkCuda work = pythia_work_at_cuda(pass);
    const float *x = e, *bias1 = NULL, *bias2 = NULL;
    const floatX *out1 = NULL, *out2 = NULL;
    float* next = NULL;  // where the sum goes
    for (int l = 0; l < size->L; l++) {
        const PythiaLayer* y = &m->layer[l];
        PythiaKeptCuda k = pythia_kept_at_cuda(pass, &work, l);
        layernorms_forward_cuda(next, k.ln1, k.ln2, k.mean, k.rstd, x, out1, bias1, out2, bias2, y->ln1w.master,
                                y->ln1b.master, y->ln2w.master, y->ln2b.master, N, C, eps);
        if (l == layers) { return; }
        if (next) { x = next; }
        matmul_forward_cuda(k.qkv, k.ln1, y->qkvw.x, y->qkvb.x, N, C, 3 * C);
        rotary_forward_cuda(k.qkv, work.cosine, work.sine, cache_first_cuda(pass->cache_cuda), B, T, NH, 2, rotated,
                            3 * C, 3 * HS, HS, 1);
        cached_attention_forward_cuda(k.att, k.lse, k.qkv, k.qkv + HS, k.qkv + 2 * HS, B, T, NH, NH, HS, 3 * C, 3 * HS,
                                      3 * HS, pass->cache_cuda, l);
        matmul_forward_cuda(work.out1, k.att, y->projw.x, NULL, N, C, C);
        matmul_gelu_forward_cuda(k.act, k.fc, k.ln2, y->fcw.x, y->fcb.master, N, C, FF, GELU_ERF);
        matmul_forward_cuda(work.out2, k.act, y->fcprojw.x, NULL, N, FF, C);
        out1 = work.out1, bias1 = y->projb.master;
        out2 = work.out2, bias2 = y->fcprojb.master;
        next = k.next;
    }
    PythiaKeptCuda k = pythia_kept_at_cuda(pass, &work, size->L);
    layernorms_forward_cuda(next, h, NULL, k.mean, k.rstd, x, out1, bias1, out2, bias2, m->lnfw.master, m->lnfb.master,
                            NULL, NULL, N, C, eps);
}

// The mirror. Every kernel that takes a norm's gradient into dx sums the columns of the new dx on its way: that is
// the gradient of both biases that were added before that norm, those of the layer before. Two products have no norm
// behind them: gelu_backward_cuda() sums the gradient of fc's bias, column_sum_cuda() qkv's.
static void pythia_backward_cuda(Pass* pass, float* de, const floatX* dh, const float* e, int B, int T) {
    const Pythia* m = (const Pythia*)pass;
    const Sizes* size = &pass->size;
    size_t N = (size_t)B * (size_t)T, C = (size_t)size->C, FF = (size_t)size->FF, HS = (size_t)size->HS;
    size_t NH = (size_t)size->NH, rotated = (size_t)pythia_rotated(m);
    PythiaWorkCuda work = pythia_work_at_cuda(pass);
    PythiaKeptCuda last = pythia_kept_at_cuda(pass, &work, size->L);
    const PythiaLayer* before = &m->layer[size->L - 1];
    // dx starts from the final norm alone: de holds the gradient that reaches e past this pass.
    layernorms_backward_cuda(work.dx, work.dxr, m->lnfw.grad, m->lnfb.grad, NULL, NULL, before->projb.grad,
                             before->fcprojb.grad, work.partial, dh, NULL,
                             pythia_kept_at_cuda(pass, &work, size->L - 1).next, m->lnfw.master, NULL, last.mean,
                             last.rstd, N, C, 0);
    for (int l = size->L - 1; l >= 0; l--) {
        const PythiaLayer* y = &m->layer[l];
        PythiaKeptCuda k = pythia_kept_at_cuda(pass, &work, l);
        const float* x = l > 0 ? pythia_kept_at_cuda(pass, &work, l - 1).next : e;
        if (pass->gpu.again) {
            gelu_forward_cuda(k.act, k.fc, y->fcb.master, N, FF, GELU_ERF);
            layernorms_again_cuda(k.ln1, k.ln2, x, y->ln1w.master, y->ln1b.master, y->ln2w.master, y->ln2b.master,
                                  k.mean, k.rstd, N, C);
        }
        matmul_backward_input_cuda(work.dact, work.dxr, y->fcprojw.x, N, FF, C);
        matmul_backward_weight_cuda(y->fcprojw.grad, work.dxr, k.act, N, FF, C);
        floatX* dfc = work.dact;  // in place: dact is dead after this line
        gelu_backward_cuda(dfc, y->fcb.grad, work.partial, work.dact, k.fc, y->fcb.master, N, FF, GELU_ERF);
        matmul_backward_weight_cuda(y->fcw.grad, dfc, k.ln2, N, C, FF);

        matmul_backward_input_cuda(work.datt, work.dxr, y->projw.x, N, C, C);
        matmul_backward_weight_cuda(y->projw.grad, work.dxr, k.att, N, C, C);
        attention_backward_cuda(work.dqkv, work.dqkv + HS, work.dqkv + 2 * HS, work.delta, work.datt, k.qkv, k.qkv + HS,
                                k.qkv + 2 * HS, k.att, k.lse, B, T, NH, NH, HS, 3 * C, 3 * HS, 3 * HS);
        rotary_forward_cuda(work.dqkv, work.cosine, work.sine, NULL, B, T, NH, 2, rotated, 3 * C, 3 * HS, HS, -1);
        column_sum_cuda(y->qkvb.grad, NULL, work.partial, work.dqkv, N, 3 * C);
        matmul_backward_weight_cuda(y->qkvw.grad, work.dqkv, k.ln1, N, C, 3 * C);

        // dx grows only now: both branches started from its old value.
        matmul_backward_input_cuda(work.dln2, dfc, y->fcw.x, N, C, FF);
        matmul_backward_input_cuda(work.dln1, work.dqkv, y->qkvw.x, N, C, 3 * C);
        before = l > 0 ? &m->layer[l - 1] : NULL;
        layernorms_backward_cuda(work.dx, before ? work.dxr : NULL, y->ln1w.grad, y->ln1b.grad, y->ln2w.grad,
                                 y->ln2b.grad, before ? before->projb.grad : NULL, before ? before->fcprojb.grad : NULL,
                                 work.partial, work.dln1, work.dln2, x, y->ln1w.master, y->ln2w.master, k.mean, k.rstd,
                                 N, C, 1);
    }
    add_cuda(de, work.dx, N * C);
}

static const PassCuda pythia_cuda = {pythia_keep_cuda, pythia_prepare_cuda, pythia_forward_cuda, pythia_backward_cuda,
                                     ATTENTION_MOST_HS};
#else
static const PassCuda pythia_cuda = {NULL};
#endif

// ------------------------------------------------------------------------------------------------
// [8] main

static const Architecture pythia = {
    .program = "train_pythia",
    .stock_class = "GPTNeoXForCausalLM",
    .stock_config = "GPTNeoXConfig",
    .stock_type = "gpt_neox",
    .presets = pythia_presets,
    .default_preset = "pythia-70m",
    .pass_size = sizeof(Pythia),
    .usual_ff = pythia_usual_ff,
    .usual_length = 2048,
    .any_length = 1,
    .read_config = pythia_read_config,
    .check = pythia_check,
    .write_config = pythia_write_config,
    .other_keys = pythia_other_keys,
    .tensors = pythia_tensors,
    .ignores = pythia_ignores,
    .keep = pythia_keep,
    .prepare = pythia_prepare,
    .forward = pythia_forward,
    .backward = pythia_backward,
    .cuda = &pythia_cuda,
};

#ifndef TESTING
int MAIN(int argc, char** argv);
int MAIN(int argc, char** argv) { return ponder_main(argc, argv, &pythia); }
#endif

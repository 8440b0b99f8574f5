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
// Memory: per pass only e, h, mix (N,C) and lse (N) are kept. Logits and probabilities exist for
// MIX_ROWS positions at a time, forward and backward: nothing here is of size (N,V).
//
//   [1] configuration: options, config.json keys
//   [2] layers (C): embedding, vocabulary mix, loss head; each forward, then backward
//   [3] the S+1 passes (C), forward and backward
//   [4] the model that the training loop drives
#ifndef PONDER_CUH
#define PONDER_CUH

#include "common/base.h"
#include "common/matmul.h"
#include "common/mathfun.h"
#include "common/model.h"
#include "common/options.h"
#include "common/rows.h"
#include "common/tensors.h"

// Rows of logits that exist at a time. Each block adds to the weight gradients (V,C), so a block
// must be tall enough that reading and writing them is cheap beside its products: at 512 rows
// the products do 128 FLOPs per byte of gradient traffic.
#ifndef MIX_ROWS
#define MIX_ROWS 512
#endif

// ------------------------------------------------------------------------------------------------
// [1] Configuration

typedef struct {
    int steps;           // S, 0: a vanilla model
    int scale_embeds;    // 1: a = sqrt(C) on token embeddings and on the mixture table
    int multiply_steps;  // 1: start from S * e[0]
    double temperature;  // of the mixing softmax only, never of the loss
    int top_k;           // mix only the k most probable tokens; 0: all
    int ponder_init;     // 1: the paper's initialisation, 0: the stock one
} PonderConfig;

static inline void ponder_add_options(OptionTable* options) {
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
    };
    options_add(options, rows, (int)(sizeof rows / sizeof rows[0]));
}

// Command line, then config.json (an absent key means "off"), then the defaults of a preset
// (config == NULL): three steps, scaled. Dies on values that make no model.
static inline PonderConfig ponder_config(const OptionTable* options, const Json* config, const char* path) {
    PonderConfig p;
    memset(&p, 0, sizeof p);
    p.steps = 3;
    p.temperature = 1;
    int scaled = -1;  // not said
    if (config) {
        int ponders =
            json_get_bool(config, "ponderinglm", 0, path) || json_get_bool(config, "recurrent_model", 0, path);
        int64_t steps = json_get_int(config, "pondering_steps", 0, path);
        if (ponders && (steps < 0 || steps > 64)) {
            die("%s: pondering_steps is %lld, expected 0 to 64", path, (long long)steps);
        }
        p.steps = ponders ? (int)steps : 0;
        scaled = json_get_bool(config, "scale_embeds", 0, path);
        p.multiply_steps = json_get_bool(config, "mutiply_pondering_steps", 0, path);  // misspelt in the reference
        p.temperature = json_get_number(config, "softmax_temperature", 1, path);
        int64_t top_k = json_get_int(config, "pondering_top_k", 0, path);
        if (!(p.temperature >= 1e-3 && p.temperature <= 1e3)) {
            die("%s: softmax_temperature is %g, expected 0.001 to 1000", path, p.temperature);
        }
        if (top_k < 0 || top_k > 1 << 30) {
            die("%s: pondering_top_k is %lld, expected 0 or more", path, (long long)top_k);
        }
        p.top_k = (int)top_k;
        if (p.steps == 0) { p.multiply_steps = 0; }  // has no meaning there; the reference writes it all the same
    }
    if (options_set(options, "ponder")) { p.steps = (int)options_int(options, "ponder"); }
    if (options_set(options, "scale-embeds")) { scaled = (int)options_int(options, "scale-embeds"); }
    if (options_set(options, "multiply-steps")) { p.multiply_steps = (int)options_int(options, "multiply-steps"); }
    if (options_set(options, "ponder-temperature")) { p.temperature = options_number(options, "ponder-temperature"); }
    if (options_set(options, "ponder-top-k")) { p.top_k = (int)options_int(options, "ponder-top-k"); }
    p.scale_embeds = scaled >= 0 ? scaled : p.steps > 0;
    p.ponder_init = p.steps > 0;
    if (options_set(options, "init")) { p.ponder_init = strcmp(options_text(options, "init"), "ponder") == 0; }
    if (p.multiply_steps && p.steps == 0) {
        die("--multiply-steps 1 with --ponder 0 would multiply the input by zero: expected at least one pondering "
            "step");
    }
    return p;
}

// What pondering needs of an architecture.
typedef struct {
    void* self;
    int C, V, B, T;           // width, vocabulary, largest rows and positions
    int layers;               // for names in messages
    int embed, head;          // rows of W_in (V,C) and W_out (V,C) in the tensor table; equal when tied
    double block_flops;       // of one token in one pass, forward and backward, without attention
    double attention_flops;   // likewise, attention's products of T positions, half the square
    size_t kept_bytes;        // activations that one pass keeps for its backward
    size_t scratch_bytes;     // everything else
    const char* stock_class;  // "GPTNeoX": Hugging Face's <stock_class>ForCausalLM
    const char* stock_type;   // its model_type: "gpt_neox"
    const char* code_text;    // modeling_ponder.py

    // Gets memory; keeps activations of `slots` passes for a backward, 0 for none.
    void (*allocate)(void* self, int slots);
    // h(B,T,C) = final-norm output of one pass over e(B,T,C). slot = -1: keep nothing.
    void (*forward)(void* self, const real* params, real* h, const real* e, int slot, int B, int T);
    // de(B,T,C) += gradient of the pass by its input, given dh(B,T,C); grads += by its weights.
    void (*backward)(void* self, const real* params, real* grads, real* de, const real* dh, const real* e, int slot,
                     int B, int T);
    // The first activation kept in this slot that is not finite, named; NULL if there is none.
    char* (*first_nonfinite)(void* self, int slot, int B, int T);
    // Appends the architecture's own config.json keys, each as ",\n  \"key\": value".
    void (*config_keys)(void* self, StringBuilder* sb);
} Pass;

// Appends the keys that say which class loads the model and how it ponders. With S = 0 and no
// scaling that is the stock class; otherwise our own, so that nothing loads it as a vanilla model.
static inline int ponder_is_stock(const PonderConfig* p) { return p->steps == 0 && !p->scale_embeds; }

static inline void ponder_config_keys(const PonderConfig* p, const Pass* pass, StringBuilder* sb) {
    if (ponder_is_stock(p)) {
        sb_printf(sb, "  \"architectures\": [\"%sForCausalLM\"],\n  \"model_type\": \"%s\"", pass->stock_class,
                  pass->stock_type);
        return;
    }
    sb_printf(sb, "  \"architectures\": [\"Ponder%sForCausalLM\"],\n  \"model_type\": \"ponder_%s\",\n",
              pass->stock_class, pass->stock_type);
    sb_printf(sb, "  \"auto_map\": {\n    \"AutoConfig\": \"modeling_ponder.Ponder%sConfig\",\n", pass->stock_class);
    sb_printf(sb, "    \"AutoModelForCausalLM\": \"modeling_ponder.Ponder%sForCausalLM\"\n  },\n", pass->stock_class);
    sb_printf(sb, "  \"ponderinglm\": %s,\n  \"pondering_steps\": %d,\n", p->steps > 0 ? "true" : "false", p->steps);
    sb_printf(sb, "  \"scale_embeds\": %s,\n", p->scale_embeds ? "true" : "false");
    sb_printf(sb, "  \"mutiply_pondering_steps\": %s,\n", p->multiply_steps ? "true" : "false");
    sb_printf(sb, "  \"softmax_temperature\": %.17g,\n  \"pondering_top_k\": %d", p->temperature, p->top_k);
}

// ------------------------------------------------------------------------------------------------
// [2] Layers (C)

// e(N,C) = scale * W_in[token]          scale = c * a
static inline void embedding_forward(real* e, const int* tokens, const real* table, size_t N, size_t C, real scale) {
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t n = 0; n < N; n++) {
        const real* row = table + (size_t)tokens[n] * C;
        for (size_t i = 0; i < C; i++) { e[n * C + i] = scale * row[i]; }
    }
}

// dtable[token] += scale * de(N,C). A token that occurs often is added up in the order of its
// positions: threads share the columns, never a sum.
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

// Sets all but the k largest of z(V) to -infinity; of equal ones the lower token ids stay.
// `heap` has room for k numbers. A row with a NaN becomes NaN at z[0], so that it stays seen.
static inline void keep_top_k(real* z, real* heap, size_t V, size_t k) {
    if (k == 0 || k >= V) { return; }
    // The k largest so far as a heap, smallest on top: at the end heap[0] is the k-th largest.
    for (size_t v = 0; v < V; v++) {
        size_t i;
        if (v < k) {  // grow: sift up
            for (i = v; i > 0 && heap[(i - 1) / 2] > z[v]; i = (i - 1) / 2) { heap[i] = heap[(i - 1) / 2]; }
        } else if (z[v] > heap[0]) {  // replace the top: sift down
            for (i = 0;;) {
                size_t child = 2 * i + 1;
                if (child >= k) { break; }
                if (child + 1 < k && heap[child + 1] < heap[child]) { child++; }
                if (heap[child] >= z[v]) { break; }
                heap[i] = heap[child];
                i = child;
            }
        } else {
            continue;
        }
        heap[i] = z[v];
    }
    real threshold = heap[0];
    size_t above = 0;
    int nan = 0;
    for (size_t v = 0; v < V; v++) { above += z[v] > threshold, nan |= z[v] != z[v]; }
    size_t ties = k - above;  // this many of those equal to the threshold stay
    for (size_t v = 0; v < V; v++) {
        if (z[v] > threshold) { continue; }
        if (z[v] == threshold && ties > 0) {
            ties--;
        } else {
            z[v] = -INFINITY;
        }
    }
    if (nan) { z[0] = NAN; }
}

// mix(N,C) = p a W_in,  p = softmax(top_k(h W_out^T / temperature))            METHOD: one step
//
// Work space: z (MIX_ROWS,V) and, for top-k, heaps (MIX_ROWS,top_k).
//   z   (R,V) = h (R,C) W_out^T / temperature
//   p   (R,V) = softmax(z), in place: from here on z holds p
//   mix (R,C) = a p W_in
static inline void mix_forward(real* mix, real* z, real* heaps, const real* h, const real* w_out, const real* w_in,
                               size_t N, size_t C, size_t V, real a, real temperature, size_t top_k) {
    for (size_t first = 0; first < N; first += MIX_ROWS) {
        size_t R = min_size(MIX_ROWS, N - first);
        gemm(0, 1, R, V, C, 1 / temperature, h + first * C, C, w_out, C, 0, z, V, NULL);
#pragma omp parallel for schedule(static) if (R * V > SERIAL)
        for (size_t r = 0; r < R; r++) {
            keep_top_k(z + r * V, heaps + r * top_k, V, top_k);
            softmax_row(z + r * V, V);
        }
        gemm(0, 0, R, C, V, a, z, V, w_in, C, 0, mix + first * C, C, NULL);
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
static inline void mix_backward(real* dh, real* dw_in, real* dw_out, real* z, real* dz, real* heaps, const real* dmix,
                                const real* h, const real* w_out, const real* w_in, size_t N, size_t C, size_t V,
                                real a, real temperature, size_t top_k) {
    for (size_t first = 0; first < N; first += MIX_ROWS) {
        size_t R = min_size(MIX_ROWS, N - first);
        gemm(0, 1, R, V, C, 1 / temperature, h + first * C, C, w_out, C, 0, z, V, NULL);
        gemm(0, 1, R, V, C, a, dmix + first * C, C, w_in, C, 0, dz, V, NULL);
#pragma omp parallel for schedule(static) if (R * V > SERIAL)
        for (size_t r = 0; r < R; r++) {
            real* p = z + r * V;
            real* dp = dz + r * V;
            keep_top_k(p, heaps + r * top_k, V, top_k);
            softmax_row(p, V);
            real dot = row_dot(p, dp, V);
            for (size_t v = 0; v < V; v++) { dp[v] = p[v] * (dp[v] - dot) / temperature; }
        }
        gemm(1, 0, V, C, R, a, z, V, dmix + first * C, C, 1, dw_in, C, NULL);
        gemm(0, 0, R, C, V, 1, dz, V, w_out, C, 0, dh + first * C, C, NULL);
        gemm(1, 0, V, C, R, 1, dz, V, h + first * C, C, 1, dw_out, C, NULL);
    }
}

// losses(N) = -log softmax(h W_out^T)[target], 0 where the target is -1. Work space z (MIX_ROWS,V).
static inline void head_forward(real* losses, real* z, const real* h, const int* targets, const real* w_out, size_t N,
                                size_t C, size_t V) {
    for (size_t first = 0; first < N; first += MIX_ROWS) {
        size_t R = min_size(MIX_ROWS, N - first);
        gemm(0, 1, R, V, C, 1, h + first * C, C, w_out, C, 0, z, V, NULL);
#pragma omp parallel for schedule(static) if (R * V > SERIAL)
        for (size_t r = 0; r < R; r++) {
            int target = targets[first + r];
            real wanted = target < 0 ? 0 : z[r * V + (size_t)target];
            real lse = target < 0 ? 0 : softmax_row(z + r * V, V);
            losses[first + r] = lse - wanted;
        }
    }
}

// The same losses, and their gradients scaled by `scale` (1 / number of targets in the step):
// dh (N,C) = , dw_out (V,C) +=. Forward and backward in one go, since a block's logits must not
// outlive it.
//   dz = scale (p - onehot(target)), overwriting the logits; 0 where the target is -1
//   dh = dz W_out,  dw_out += dz^T h
static inline void head_forward_backward(real* losses, real* dh, real* dw_out, real* z, const real* h,
                                         const int* targets, const real* w_out, size_t N, size_t C, size_t V,
                                         real scale) {
    for (size_t first = 0; first < N; first += MIX_ROWS) {
        size_t R = min_size(MIX_ROWS, N - first);
        gemm(0, 1, R, V, C, 1, h + first * C, C, w_out, C, 0, z, V, NULL);
#pragma omp parallel for schedule(static) if (R * V > SERIAL)
        for (size_t r = 0; r < R; r++) {
            int target = targets[first + r];
            real* row = z + r * V;
            if (target < 0) {
                losses[first + r] = 0;
                memset(row, 0, V * sizeof(real));
                continue;
            }
            real wanted = row[target];
            losses[first + r] = softmax_row(row, V) - wanted;
            for (size_t v = 0; v < V; v++) { row[v] *= scale; }
            row[target] -= scale;
        }
        gemm(0, 0, R, C, V, 1, z, V, w_out, C, 0, dh + first * C, C, NULL);
        gemm(1, 0, V, C, R, 1, z, V, h + first * C, C, 1, dw_out, C, NULL);
    }
}

// ------------------------------------------------------------------------------------------------
// [3] The S+1 passes (C)

typedef struct {
    Model model;  // first, so that a Model* of ours is a Ponder*
    PonderConfig config;
    Pass pass;
    int training;
    real* e;       // (S+1, N,C) input of each pass
    real* h;       // (S+1, N,C) output of each pass
    real* mix;     // (S, N,C) what a pass adds to its input
    real* de;      // (N,C) gradient by e[s], summed down from the last pass to the first
    real* dh;      // (N,C) gradient by h[s]
    real* z;       // (MIX_ROWS,V) logits, then probabilities, of a block of rows
    real* dz;      // (MIX_ROWS,V) their gradients
    real* heaps;   // (MIX_ROWS,top_k)
    real* losses;  // (N)
} Ponder;

static inline Ponder* ponder_of(const Model* model) { return (Ponder*)model->self; }

static inline real ponder_scale(const Ponder* m) { return m->config.scale_embeds ? (real)sqrt((double)m->pass.C) : 1; }

// All passes over inputs (B,T), forward; keep = 1 keeps what the backward needs.
static inline void ponder_forward(Ponder* m, const int* inputs, int B, int T, int keep) {
    const PonderConfig* p = &m->config;
    const real* w_in = m->model.params + m->model.tensors.list[m->pass.embed].offset;
    const real* w_out = m->model.params + m->model.tensors.list[m->pass.head].offset;
    size_t C = (size_t)m->pass.C, V = (size_t)m->pass.V, N = (size_t)B * (size_t)T;
    size_t stride = (size_t)m->pass.B * (size_t)m->pass.T * C;  // from a pass to the next
    real a = ponder_scale(m), c = p->multiply_steps ? (real)p->steps : 1;

    embedding_forward(m->e, inputs, w_in, N, C, c * a);
    for (int s = 0; s <= p->steps; s++) {
        real* e = m->e + (size_t)s * stride;
        real* h = m->h + (size_t)s * stride;
        m->pass.forward(m->pass.self, m->model.params, h, e, keep ? s : -1, B, T);
        if (s == p->steps) { break; }
        real* mix = m->mix + (size_t)s * stride;
        mix_forward(mix, m->z, m->heaps, h, w_out, w_in, N, C, V, a, (real)p->temperature, (size_t)p->top_k);
        real* next = e + stride;
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
        for (size_t i = 0; i < N * C; i++) { next[i] = e[i] + mix[i]; }
    }
}

// One micro-batch: forward, loss of the last pass, and the gradients of everything, which sum
// over the passes into one set of weights.
static inline double ponder_train(Model* model, const int* inputs, const int* targets, int B, int T, double scale) {
    Ponder* m = ponder_of(model);
    const PonderConfig* p = &m->config;
    size_t embed = model->tensors.list[m->pass.embed].offset, head = model->tensors.list[m->pass.head].offset;
    const real *w_in = model->params + embed, *w_out = model->params + head;
    real *dw_in = model->grads + embed, *dw_out = model->grads + head;
    size_t C = (size_t)m->pass.C, V = (size_t)m->pass.V, N = (size_t)B * (size_t)T;
    size_t stride = (size_t)m->pass.B * (size_t)m->pass.T * C;
    real a = ponder_scale(m), c = p->multiply_steps ? (real)p->steps : 1;

    ponder_forward(m, inputs, B, T, 1);
    const real* last = m->h + (size_t)p->steps * stride;
    head_forward_backward(m->losses, m->dh, dw_out, m->z, last, targets, w_out, N, C, V, (real)scale);
    double loss = 0;
    for (size_t n = 0; n < N; n++) { loss += (double)m->losses[n]; }

    memset(m->de, 0, N * C * sizeof(real));
    for (int s = p->steps; s >= 0; s--) {
        // Here de is the gradient by e[s+1] = e[s] + mix[s]: it is the gradient by mix[s], and it
        // is also where the gradient by e[s] starts from, to which the pass adds its own.
        if (s < p->steps) {
            mix_backward(m->dh, dw_in, dw_out, m->z, m->dz, m->heaps, m->de, m->h + (size_t)s * stride, w_out, w_in, N,
                         C, V, a, (real)p->temperature, (size_t)p->top_k);
        }
        m->pass.backward(m->pass.self, model->params, model->grads, m->de, m->dh, m->e + (size_t)s * stride, s, B, T);
    }
    embedding_backward(dw_in, inputs, m->de, N, C, c * a);
    return loss;
}

// ------------------------------------------------------------------------------------------------
// [4] The model that the training loop drives

static inline void ponder_evaluate(Model* model, const int* inputs, const int* targets, int B, int T,
                                   double* loss_sums) {
    Ponder* m = ponder_of(model);
    const real* w_out = model->params + model->tensors.list[m->pass.head].offset;
    size_t C = (size_t)m->pass.C, V = (size_t)m->pass.V, N = (size_t)B * (size_t)T;
    size_t stride = (size_t)m->pass.B * (size_t)m->pass.T * C;
    ponder_forward(m, inputs, B, T, 0);
    for (int s = 0; s <= m->config.steps; s++) {
        head_forward(m->losses, m->z, m->h + (size_t)s * stride, targets, w_out, N, C, V);
        for (size_t n = 0; n < N; n++) { loss_sums[s] += (double)m->losses[n]; }
    }
}

static inline void ponder_logits(Model* model, const int* inputs, int B, int T, int last_only, real* logits) {
    Ponder* m = ponder_of(model);
    const real* w_out = model->params + model->tensors.list[m->pass.head].offset;
    size_t C = (size_t)m->pass.C, V = (size_t)m->pass.V, N = (size_t)B * (size_t)T;
    ponder_forward(m, inputs, B, T, 0);
    const real* h = m->h + (size_t)m->config.steps * (size_t)m->pass.B * (size_t)m->pass.T * C;
    if (last_only) {  // rows of h that are T positions apart
        gemm(0, 1, (size_t)B, V, C, 1, h + ((size_t)T - 1) * C, (size_t)T * C, w_out, C, 0, logits, V, NULL);
    } else {
        gemm(0, 1, N, V, C, 1, h, C, w_out, C, 0, logits, V, NULL);
    }
}

// The search follows the forward order: parameters, then e, the layers, h and mix of each pass,
// then the gradients.
static inline char* ponder_first_nonfinite(Model* model, int B, int T) {
    Ponder* m = ponder_of(model);
    size_t n = (size_t)B * (size_t)T * (size_t)m->pass.C;
    size_t stride = (size_t)m->pass.B * (size_t)m->pass.T * (size_t)m->pass.C;
    for (int i = 0; i < model->tensors.count; i++) {
        const Tensor* t = &model->tensors.list[i];
        if (!row_finite(model->params + t->offset, t->size)) { return format_string("parameter %s", t->name); }
    }
    for (int s = 0; s <= m->config.steps; s++) {
        if (!row_finite(m->e + (size_t)s * stride, n)) { return format_string("pass %d: input embeddings", s); }
        if (m->training) {
            char* inside = m->pass.first_nonfinite(m->pass.self, s, B, T);
            if (inside) {
                char* name = format_string("pass %d, %s", s, inside);
                free(inside);
                return name;
            }
        }
        if (!row_finite(m->h + (size_t)s * stride, n)) { return format_string("pass %d: hidden states", s); }
        if (s < m->config.steps && !row_finite(m->mix + (size_t)s * stride, n)) {
            return format_string("pass %d: vocabulary mix", s);
        }
    }
    for (int i = 0; model->grads && i < model->tensors.count; i++) {
        const Tensor* t = &model->tensors.list[i];
        if (!row_finite(model->grads + t->offset, t->size)) { return format_string("gradient of %s", t->name); }
    }
    return NULL;
}

static inline char* ponder_config_json(const Model* model) {
    const Ponder* m = ponder_of(model);
    StringBuilder sb;
    memset(&sb, 0, sizeof sb);
    sb_printf(&sb, "{\n");
    ponder_config_keys(&m->config, &m->pass, &sb);
    m->pass.config_keys(m->pass.self, &sb);
    sb_printf(&sb, "\n}\n");
    return sb.data;
}

// Sizes of ponder_allocate()'s arrays, in its order.
enum { PONDER_ARRAYS = 9 };
static inline void ponder_sizes(const Ponder* m, int training, size_t size[PONDER_ARRAYS]) {
    size_t N = (size_t)m->pass.B * (size_t)m->pass.T, NC = mul_size(N, (size_t)m->pass.C, "activations"),
           V = (size_t)m->pass.V;
    size_t S = (size_t)m->config.steps, rows = min_size(N, MIX_ROWS);
    size[0] = mul_size(S + 1, NC, "inputs of passes");
    size[1] = mul_size(S + 1, NC, "outputs of passes");
    size[2] = S * NC;
    size[3] = training ? NC : 0;
    size[4] = training ? NC : 0;
    size[5] = rows * V;
    size[6] = training && S > 0 ? rows * V : 0;
    size[7] = rows * min_size((size_t)m->config.top_k, V);
    size[8] = N;
}

static inline void ponder_allocate(Model* model, int training) {
    Ponder* m = ponder_of(model);
    m->training = training;
    size_t size[PONDER_ARRAYS];
    ponder_sizes(m, training, size);
    real** array[PONDER_ARRAYS] = {&m->e, &m->h, &m->mix, &m->de, &m->dh, &m->z, &m->dz, &m->heaps, &m->losses};
    size_t total = 0;
    for (int i = 0; i < PONDER_ARRAYS; i++) { total += round_up(size[i], ALIGNMENT / sizeof(real)); }
    real* memory = (real*)xalloc(total, sizeof(real), "pondering");
    for (int i = 0; i < PONDER_ARRAYS; i++) {
        *array[i] = memory;
        memory += round_up(size[i], ALIGNMENT / sizeof(real));
    }
    model->params = (real*)xalloc(model->tensors.total, sizeof(real), "parameters");
    if (training) { model->grads = (real*)xalloc(model->tensors.total, sizeof(real), "gradients"); }
    m->pass.allocate(m->pass.self, training ? m->config.steps + 1 : 0);
}

// Wires a pass, its tensor table and a configuration into a Model. Takes over all three.
static inline Model* ponder_model(PonderConfig config, Pass pass, TensorTable tensors) {
    Ponder* m = (Ponder*)xalloc(1, sizeof(Ponder), "the model");
    m->config = config;
    m->pass = pass;
    if ((size_t)m->config.top_k >= (size_t)pass.V) { m->config.top_k = 0; }  // all tokens: nothing to select
    Model* model = &m->model;
    model->self = m;
    model->tensors = tensors;
    model->V = pass.V;
    model->T = pass.T;
    model->B = pass.B;
    model->passes = config.steps + 1;

    size_t size[PONDER_ARRAYS], passes = 0, blocks = 0;
    ponder_sizes(m, 1, size);
    for (int i = 0; i < PONDER_ARRAYS; i++) { *(i >= 5 && i <= 7 ? &blocks : &passes) += size[i] * sizeof(real); }
    int S = config.steps;
    ModelRow memory[] = {
        {"parameters", (double)(tensors.total * sizeof(real))},
        {"gradients", (double)(tensors.total * sizeof(real))},
        {"activations kept, all passes", (double)mul_size((size_t)S + 1, pass.kept_bytes, "activations")},
        {"activations of one layer at work", (double)pass.scratch_bytes},
        {"inputs, outputs, mixes of passes", (double)passes},
        {"blocks of logits", (double)blocks},
    };
    model->memory_rows = (int)(sizeof memory / sizeof memory[0]);
    memcpy(model->memory, memory, sizeof memory);

    double VC = (double)pass.V * (double)pass.C;
    ModelRow flops[] = {
        {"blocks", pass.block_flops * (S + 1)},
        {"attention", pass.attention_flops * (S + 1)},
        {"vocabulary mix", 12 * VC * S},
        {"loss head", 6 * VC},
    };
    model->flops_rows = (int)(sizeof flops / sizeof flops[0]);
    memcpy(model->flops, flops, sizeof flops);

    model->allocate = ponder_allocate;
    model->train = ponder_train;
    model->evaluate = ponder_evaluate;
    model->logits = ponder_logits;
    model->first_nonfinite = ponder_first_nonfinite;
    model->config_json = ponder_config_json;
    if (!ponder_is_stock(&m->config)) {
        model->code_name = "modeling_ponder.py";
        model->code_text = pass.code_text;
    }
    return model;
}

#endif

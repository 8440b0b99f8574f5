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
//   [5] CUDA: layers, memory plan, passes, ledger, comparison with the C half
#ifndef PONDER_CUH
#define PONDER_CUH

#include "common/base.h"
#include "common/mathfun.h"
#include "common/matmul.h"
#include "common/model.h"
#include "common/rows.h"
#include "common/run/setup.h"
#include "common/tensors.h"

// Rows of logits that exist at a time. Each block adds to the weight gradients (V,C), so a block
// must be tall enough that reading and writing them is cheap beside its products: at 512 rows
// the products do 128 FLOPs per byte of gradient traffic.
#ifndef MIX_ROWS
#define MIX_ROWS 512
#endif

static inline void ponder_cuda_options(OptionTable* options);

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
    ponder_cuda_options(options);
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
    const void* cuda;         // its CUDA twin, a PassCuda; NULL in the CPU program

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
        stored(z, R * V);
#pragma omp parallel for schedule(static) if (R * V > SERIAL)
        for (size_t r = 0; r < R; r++) {
            keep_top_k(z + r * V, heaps + r * top_k, V, top_k);
            softmax_row(z + r * V, V);
        }
        stored(z, R * V);
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
        stored(z, R * V);
        gemm(0, 1, R, V, C, a, dmix + first * C, C, w_in, C, 0, dz, V, NULL);
        stored(dz, R * V);
#pragma omp parallel for schedule(static) if (R * V > SERIAL)
        for (size_t r = 0; r < R; r++) {
            real* p = z + r * V;
            real* dp = dz + r * V;
            keep_top_k(p, heaps + r * top_k, V, top_k);
            softmax_row(p, V);
            real dot = row_dot(p, dp, V);
            for (size_t v = 0; v < V; v++) { dp[v] = p[v] * (dp[v] - dot) / temperature; }
        }
        stored(z, R * V);
        stored(dz, R * V);
        gemm(1, 0, V, C, R, a, z, V, dmix + first * C, C, 1, dw_in, C, NULL);
        gemm(0, 0, R, C, V, 1, dz, V, w_out, C, 0, dh + first * C, C, NULL);
        stored(dh + first * C, R * C);
        gemm(1, 0, V, C, R, 1, dz, V, h + first * C, C, 1, dw_out, C, NULL);
    }
}

// losses(N) = -log softmax(h W_out^T)[target], 0 where the target is -1. Work space z (MIX_ROWS,V).
static inline void head_forward(real* losses, real* z, const real* h, const int* targets, const real* w_out, size_t N,
                                size_t C, size_t V) {
    for (size_t first = 0; first < N; first += MIX_ROWS) {
        size_t R = min_size(MIX_ROWS, N - first);
        gemm(0, 1, R, V, C, 1, h + first * C, C, w_out, C, 0, z, V, NULL);
        stored(z, R * V);
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
        stored(z, R * V);
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
        stored(z, R * V);
        gemm(0, 0, R, C, V, 1, z, V, w_out, C, 0, dh + first * C, C, NULL);
        stored(dh + first * C, R * C);
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
    void* cuda;    // a PonderCuda; NULL in the CPU program
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
            const real* dmix = stored_copy(m->dh, m->de, N * C);  // a block's dh is written when its dmix is done with
            mix_backward(m->dh, dw_in, dw_out, m->z, m->dz, m->heaps, dmix, m->h + (size_t)s * stride, w_out, w_in, N,
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

// ------------------------------------------------------------------------------------------------
// [5] CUDA: the same layers and passes on the GPU
//
// Twins of sections [2] and [3], judged by them. e, mix, de, losses and every sum are fp32; what enters
// a product (h, p, dz, the weights, the gradient by the mix) is floatX: bf16, or float in the fp32
// program. Vp = V rounded up to 64: rows of logits are aligned, and the padding is 0 in p and dz,
// so it reaches nothing.
#if GPU

#include "common/adamw.cuh"
#include "common/comparison.cuh"
#include "common/layers.cuh"
#include "common/matmul.cuh"

enum { EMBED_COLUMNS = 4 * WARP, MIX_THREADS = 512, MIX_BLOCK_BYTES = 1 << 30, MIX_ROWS_LEAST = 1024 };

// Rows of logits that exist at a time: N in equal blocks of at most a gigabyte. From shapes alone, so that it
// changes no bit from card to card. Every block reads and writes the fp32 gradients (V,C) of both tables, 8
// bytes for 2 R FLOPs: at R = 2048 that takes half as long as the product itself on an H100, at 8192 an
// eighth. Hence large blocks, and never fewer than 1024 rows.
static inline size_t mix_rows_cuda(size_t N, size_t Vp) {
    size_t most = max_size(MIX_BLOCK_BYTES / (Vp * sizeof(floatX)), MIX_ROWS_LEAST);
    size_t blocks = div_up(N, most);
    return min_size(N, max_size(round_up(div_up(N, blocks), 64), MIX_ROWS_LEAST));
}

// e (N,C) = scale * table[token], from the master weights
static __global__ void __launch_bounds__(256) embedding_forward_kernel(float* e, const int* tokens, const float* table,
                                                                       size_t N, size_t C, float scale, int whole) {
    size_t packs = (C + PACK - 1) / PACK, i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= N * packs) { return; }
    size_t n = i / packs, at = i % packs * PACK;
    float x[PACK];
    load_pack_of(x, table + (size_t)tokens[n] * C, at, C, whole, 0.0f);
    for (int k = 0; k < PACK; k++) { x[k] *= scale; }
    store_pack_of(e + n * C, x, at, C, whole);
}
static inline void embedding_forward_cuda(float* e, const int* tokens, const float* table, size_t N, size_t C,
                                          float scale) {
    work((double)(N * C), 8.0 * (double)N * (double)C);
    launch(embedding_forward_kernel, (unsigned)div_up(N * div_up(C, PACK), 256), 256, 0, device.stream, e, tokens,
           table, N, C, scale, C % PACK == 0);
}

// dtable[token] += scale * de, positions of one token in their order. order (N): the positions sorted
// by token, equal ones in order; a warp at the first position of a token adds up all of them, for
// EMBED_COLUMNS columns, and no other warp touches that row.
static __global__ void __launch_bounds__(8 * WARP)
    embedding_backward_kernel(float* dtable, const int* tokens, const int* order, const float* de, size_t N, size_t C,
                              float scale) {
    size_t at = (size_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    size_t first = (size_t)blockIdx.y * EMBED_COLUMNS + threadIdx.x % WARP;
    if (at >= N) { return; }
    int token = tokens[order[at]];
    if (at > 0 && tokens[order[at - 1]] == token) { return; }
    float sum[EMBED_COLUMNS / WARP];
    float* row = dtable + (size_t)token * C;
    for (int k = 0; k < EMBED_COLUMNS / WARP; k++) {
        size_t c = first + (size_t)k * WARP;
        sum[k] = c < C ? row[c] : 0.0f;
    }
    for (; at < N && tokens[order[at]] == token; at++) {
        const float* from = de + (size_t)order[at] * C;
        for (int k = 0; k < EMBED_COLUMNS / WARP; k++) {
            size_t c = first + (size_t)k * WARP;
            if (c < C) { sum[k] = fmaf(scale, from[c], sum[k]); }
        }
    }
    for (int k = 0; k < EMBED_COLUMNS / WARP; k++) {
        size_t c = first + (size_t)k * WARP;
        if (c < C) { row[c] = sum[k]; }
    }
}
static inline void embedding_backward_cuda(float* dtable, const int* tokens, const int* order, const float* de,
                                           size_t N, size_t C, float scale) {
    dim3 grid((unsigned)div_up(N, 8), (unsigned)div_up(C, EMBED_COLUMNS));
    work(2.0 * (double)N * (double)C, 12.0 * (double)N * (double)C);
    launch(embedding_backward_kernel, grid, 8 * WARP, 0, device.stream, dtable, tokens, order, de, N, C, scale);
}

// A number as an unsigned integer of the same order, 0 the least; -0 is 0, and a NaN is above +infinity.
static __device__ __forceinline__ uint32_t order_key(float x) {
    uint32_t bits = x != x ? 0x7fffffffu : x == 0 ? 0u : __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Which numbers of z (V) are the k largest, of equal ones the first: those with key > threshold, and those
// with key = threshold before position `cut`. The threshold is found byte by byte, from the top, by
// counting; then the cut in the same way, by counting the equal ones of each thread's stretch.
typedef struct {
    uint32_t threshold;
    size_t cut;
} TopK;
static __device__ __forceinline__ TopK top_k_find(const floatX* z, size_t V, size_t k,
                                                  unsigned* count /* 256, shared */, size_t* found /* 2, shared */) {
    uint32_t prefix = 0;
    size_t wanted = k;  // of those that share the prefix
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (unsigned i = threadIdx.x; i < 256; i += blockDim.x) { count[i] = 0; }
        __syncthreads();
        for (size_t v = threadIdx.x; v < V; v += blockDim.x) {
            uint32_t key = order_key(to_float(z[v]));
            if (shift == 24 || key >> (shift + 8) == prefix >> (shift + 8)) {
                atomicAdd(&count[key >> shift & 255], 1u);
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            size_t left = wanted;
            int digit = 255;
            while (count[digit] < left) { left -= count[digit--]; }
            found[0] = (size_t)digit, found[1] = left;
        }
        __syncthreads();
        prefix |= (uint32_t)found[0] << shift;
        wanted = found[1];
        __syncthreads();
    }
    // `wanted` of the numbers equal to the threshold are kept, in the order of their positions.
    size_t each = (V + 255) / 256, begin = threadIdx.x * each, end = begin + each < V ? begin + each : V;
    if (threadIdx.x < 256) {
        unsigned equal = 0;
        for (size_t v = begin; v < end; v++) { equal += order_key(to_float(z[v])) == prefix; }
        count[threadIdx.x] = equal;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        size_t left = wanted, v = V;
        for (size_t stretch = 0; stretch < 256; stretch++) {
            if (count[stretch] < left) {
                left -= count[stretch];
                continue;
            }
            for (v = stretch * each; v < V; v++) {  // in here is the last one that is kept
                if (order_key(to_float(z[v])) == prefix && --left == 0) { break; }
            }
            v++;
            break;
        }
        found[0] = v;
    }
    __syncthreads();
    TopK top = {prefix, found[0]};
    return top;
}
static __device__ __forceinline__ int top_k_keeps(TopK top, float x, size_t v) {
    uint32_t key = order_key(x);
    return key > top.threshold || (key == top.threshold && v < top.cut) || x != x;
}

// Maximum and sum of exp(z - maximum) over a row of z (V), in every thread of the block: the row is read
// once, each thread carries its own pair and rescales it (Milakov and Gimelshein, arXiv 1805.02867).
typedef struct {
    float most, sum;
} RowSum;
static __device__ __forceinline__ RowSum row_sum_exp(const floatX* z, size_t V, int whole, int select, TopK top,
                                                     float* scratch /* 32, shared */) {
    RowSum r = {-INFINITY, 0.0f};
    for (size_t v = (size_t)threadIdx.x * PACK; v < V; v += (size_t)blockDim.x * PACK) {
        float x[PACK];
        load_pack_of(x, z, v, V, whole && v + PACK <= V, -INFINITY);
        float most = r.most;
        for (int k = 0; k < PACK; k++) {
            if (select && !top_k_keeps(top, x[k], v + (size_t)k)) { x[k] = -INFINITY; }
            most = nan_max(most, x[k]);
        }
        if (most == -INFINITY) { continue; }  // nothing but masked numbers so far: exp(-inf + inf) would be NaN
        float sum = r.sum * expf(r.most - most);
        for (int k = 0; k < PACK; k++) { sum += expf(x[k] - most); }
        r.most = most, r.sum = sum;
    }
    float most = block_max(r.most, scratch);
    r.sum = block_sum(r.most == -INFINITY ? 0.0f : r.sum * expf(r.most - most), scratch);
    r.most = most;
    return r;
}

// p (rows,Vp) = softmax(top_k(z)), padding 0; in place (p == z). One block a row. The row is read twice, the
// second time mostly from L2.
static __global__ void __launch_bounds__(MIX_THREADS) mix_softmax_kernel(floatX* p, size_t V, size_t Vp, size_t top_k) {
    SHARED(float, scratch, 32);
    SHARED(unsigned, count, 256);
    SHARED(size_t, found, 2);
    floatX* row = p + (size_t)blockIdx.x * Vp;
    TopK top = {0, 0};
    if (top_k > 0) { top = top_k_find(row, V, top_k, count, found); }
    RowSum r = row_sum_exp(row, V, 1, top_k > 0, top, scratch);
    float scale = 1.0f / r.sum;
    for (size_t v = (size_t)threadIdx.x * PACK; v < Vp; v += (size_t)blockDim.x * PACK) {
        float x[PACK];
        load_pack(x, row + v);
        for (int k = 0; k < PACK; k++) {
            int keep = v + (size_t)k < V && (top_k == 0 || top_k_keeps(top, x[k], v + (size_t)k));
            x[k] = keep ? expf(x[k] - r.most) * scale : (v + (size_t)k < V ? 0.0f * r.sum : 0.0f);
        }
        store_pack(row + v, x);
    }
}
static inline void mix_softmax_cuda(floatX* p, size_t rows, size_t V, size_t Vp, size_t top_k) {
    if (top_k >= V) { top_k = 0; }  // all of them: nothing to select
    work(5.0 * (double)rows * (double)V, 2.0 * (double)rows * (double)Vp * sizeof(floatX));
    launch(mix_softmax_kernel, (unsigned)rows, MIX_THREADS, 0, device.stream, p, V, Vp, top_k);
}

// E (N,C) floatX = de rounded, the form in which it enters products; dot (N) = sum over C of E * mix,
// mix = next - e. That is rowsum(p * dp), so that the softmax backward needs no second pass over V.
static __global__ void __launch_bounds__(128)
    mix_dot_kernel(floatX* E, float* dot, const float* de, const float* e, const float* next, size_t C, int whole) {
    SHARED(float, scratch, 32);
    size_t n = blockIdx.x;
    float sum = 0;
    for (size_t i = (size_t)threadIdx.x * PACK; i < C; i += (size_t)blockDim.x * PACK) {
        float x[PACK], a[PACK], b[PACK];
        load_pack_of(x, de + n * C, i, C, whole, 0.0f);
        load_pack_of(a, e + n * C, i, C, whole, 0.0f);
        load_pack_of(b, next + n * C, i, C, whole, 0.0f);
        store_pack_of(E + n * C, x, i, C, whole);
        for (int k = 0; k < PACK; k++) { sum = fmaf(rounded(x[k]), b[k] - a[k], sum); }
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) { dot[n] = sum; }
}
static inline void mix_dot_cuda(floatX* E, float* dot, const float* de, const float* e, const float* next, size_t N,
                                size_t C) {
    work(3.0 * (double)N * (double)C, (double)N * (double)C * (12.0 + sizeof(floatX)));
    launch(mix_dot_kernel, (unsigned)N, 128, 0, device.stream, E, dot, de, e, next, C, C % PACK == 0);
}

// dz (rows,Vp) = p * (dp - dot) / temperature, in place over dp; where p is 0, so is dz (masked tokens, padding).
static __global__ void __launch_bounds__(256)
    mix_softmax_backward_kernel(floatX* dz, const floatX* p, const float* dot, size_t Vp, float inverse_temperature) {
    size_t v = ((size_t)blockIdx.y * blockDim.x + threadIdx.x) * PACK, at = (size_t)blockIdx.x * Vp + v;
    if (v >= Vp) { return; }
    float x[PACK], q[PACK], d = dot[blockIdx.x];
    load_pack(x, dz + at);
    load_pack(q, p + at);
    for (int k = 0; k < PACK; k++) { x[k] = q[k] * (x[k] - d) * inverse_temperature; }
    store_pack(dz + at, x);
}
static inline void mix_softmax_backward_cuda(floatX* dz, const floatX* p, const float* dot, size_t rows, size_t Vp,
                                             float temperature) {
    dim3 grid((unsigned)rows, (unsigned)div_up(Vp, 256 * PACK));
    work(3.0 * (double)rows * (double)Vp, 3.0 * (double)rows * (double)Vp * sizeof(floatX));
    launch(mix_softmax_backward_kernel, grid, 256, 0, device.stream, dz, p, dot, Vp, 1 / temperature);
}

// losses (rows) = lse - z[target]; with scale != NULL also, over the logits, dz = scale (p - onehot(target)).
// 0 where the target is -1. Padding 0. One block a row.
static __global__ void __launch_bounds__(MIX_THREADS)
    head_loss_kernel(float* losses, floatX* z, const int* targets, const float* scale, size_t V, size_t Vp) {
    SHARED(float, scratch, 32);
    floatX* row = z + (size_t)blockIdx.x * Vp;
    int target = targets[blockIdx.x];
    if (target < 0) {
        if (threadIdx.x == 0) { losses[blockIdx.x] = 0; }
        if (scale) {
            float zero[PACK] = {0};
            for (size_t v = (size_t)threadIdx.x * PACK; v < Vp; v += (size_t)blockDim.x * PACK) {
                store_pack(row + v, zero);
            }
        }
        return;
    }
    float wanted = to_float(row[target]);
    TopK none = {0, 0};
    RowSum r = row_sum_exp(row, V, 1, 0, none, scratch);  // its barriers also let every thread read `wanted` first
    if (threadIdx.x == 0) { losses[blockIdx.x] = r.most + logf(r.sum) - wanted; }
    if (!scale) { return; }
    float factor = *scale, inverse = 1.0f / r.sum;
    for (size_t v = (size_t)threadIdx.x * PACK; v < Vp; v += (size_t)blockDim.x * PACK) {
        float x[PACK];
        load_pack(x, row + v);
        for (int k = 0; k < PACK; k++) {
            size_t token = v + (size_t)k;
            float p = expf(x[k] - r.most) * inverse;
            x[k] = token < V ? factor * (token == (size_t)target ? p - 1.0f : p) : 0.0f;
        }
        store_pack(row + v, x);
    }
}
static inline void head_loss_cuda(float* losses, floatX* z, const int* targets, const float* scale, size_t rows,
                                  size_t V, size_t Vp) {
    work(5.0 * (double)rows * (double)V, (scale ? 2.0 : 1.0) * (double)rows * (double)Vp * sizeof(floatX));
    launch(head_loss_kernel, (unsigned)rows, MIX_THREADS, 0, device.stream, losses, z, targets, scale, V, Vp);
}

// ---- the memory plan ----

// An architecture's pass on the GPU; sizes are for B rows of the model's T positions.
typedef struct {
    // Bytes that `slots` passes keep (0: only forward), and of everything else. keep_all = 0: norms and
    // activations are computed again.
    size_t (*kept_bytes)(void* self, int B, int slots, int keep_all);
    size_t (*scratch_bytes)(void* self, int B, int training, int keep_all);
    void (*allocate)(void* self, int slots, int keep_all, int training);
    // h (B,T,C) floatX = final-norm output over e (B,T,C) fp32. slot = -1: keep nothing.
    void (*forward)(void* self, const CudaWeights* p, floatX* h, const float* e, int slot, int B, int T);
    // de (B,T,C) fp32 += gradient of the pass by its input, given dh; p->grads += by its weights.
    void (*backward)(void* self, const CudaWeights* p, float* de, const floatX* dh, const float* e, int slot, int B,
                     int T);
    // What a layer keeps, in forward order: of pass `pass` on the CPU, in slot `slot` on the GPU; returns how many.
    // params: the host's family.
    int (*views)(void* self, const real* params, int pass, int slot, int layer, int B, int T, PassView* view);
} PassCuda;

// What a slot keeps and how many passes have one. recompute 0: everything; 1: norms and activations are
// computed again; 1+k: the k earliest passes too, whole.
typedef struct {
    int recompute;
    int keep_p;      // 1: the probabilities of every mix are kept; 0: logits and softmax are computed again
    size_t weights;  // bytes: master, rounded copy, gradients, two moments
    size_t kept;     // activations of all slots
    size_t p;        // kept probabilities
    size_t passes;   // e, h, de and so on
    size_t blocks;   // blocks of logits
    size_t work;     // one layer at work, workspace
    size_t total;
    double extra_flops;  // computed again, a micro-batch
} PonderPlan;

typedef struct {
    PonderPlan plan;
    CudaWeights w;
    size_t Vp, rows;     // of logits: padded columns, rows at a time
    float* e;            // (S+1, N,C)
    floatX* h;           // (S+1, N,C)
    float* de;           // (N,C)
    floatX* E;           // (N,C) de, rounded
    floatX* dh;          // (N,C)
    float* dot;          // (N)
    floatX* z;           // (rows,Vp)
    floatX* dz;          // (rows,Vp)
    floatX* p;           // (S, N,Vp) kept probabilities, or NULL
    float* losses;       // (N)
    float* scale;        // (1) 1 / targets of the step: in memory, since a captured graph cannot change arguments
    int* tokens;         // (3, N): inputs, targets, positions sorted by token
    double* norm;        // the sum of squares of all gradients, then grad_norm's scratch
    AdamwPlan adamw;     // which parameters each block of the optimiser takes
    int* count;          // (V+1) to sort tokens by
    int* host_tokens;    // (3, N), pinned like the next two
    float* host_losses;  // (N)
    float* host_scale;   // (1)
    int asked;           // --recompute, -1: not given
    const Card* card;    // of --plan=CARD, else NULL
    int use_graph, tune;
    cudaGraphExec_t graph;
    int graph_B, graph_T, graph_runs;  // the micro-batch that was captured; runs before that
} PonderCuda;

static inline PonderCuda* ponder_cuda_of(const Ponder* m) { return (PonderCuda*)m->cuda; }
static inline const PassCuda* ponder_pass_cuda(const Ponder* m) { return (const PassCuda*)m->pass.cuda; }

// Slots for `recompute`, and the slot of pass s. The earliest passes have none: the backward, which comes
// from the last pass, computes them again into slot 0, whose own pass it has finished by then.
static inline int ponder_slots(const Ponder* m, int recompute) {
    int whole = recompute > 1 ? recompute - 1 : 0;
    return m->config.steps + 1 - whole;
}
static inline int ponder_slot(const Ponder* m, int recompute, int s) {
    int whole = m->config.steps + 1 - ponder_slots(m, recompute);
    return s < whole ? -1 : s - whole;
}

// Hands out memory: first with base = NULL, which only adds up, then for real.
typedef struct {
    char* base;
    size_t used;
} Carve;
static inline void* carve(Carve* c, size_t bytes) {
    void* p = c->base ? c->base + c->used : NULL;
    c->used += round_up(bytes, 256);
    return p;
}

// Memory of one setting. Fills in c's pointers from the four areas when they are there.
static inline PonderPlan ponder_layout(const Ponder* m, PonderCuda* c, int training, int recompute, int keep_p, int B,
                                       char* const area[4]) {
    size_t N = (size_t)B * (size_t)m->pass.T, C = (size_t)m->pass.C, V = (size_t)m->pass.V;
    size_t S = (size_t)m->config.steps, X = sizeof(floatX), total = m->model.tensors.total;
    c->Vp = round_up(V, PADDED_ROWS);
    c->rows = mix_rows_cuda(N, c->Vp);
    PonderPlan plan;
    memset(&plan, 0, sizeof plan);
    plan.recompute = recompute;
    plan.keep_p = keep_p && training && S > 0;

    Carve weights = {area ? area[0] : NULL, 0};
    c->w.master = (float*)carve(&weights, total * sizeof(float));
    c->w.x = X == sizeof(float) ? (floatX*)c->w.master : (floatX*)carve(&weights, total * X);
    if (training) {
        c->w.grads = (float*)carve(&weights, total * sizeof(float));
        c->w.m = (float*)carve(&weights, total * sizeof(float));
        c->w.v = (float*)carve(&weights, total * sizeof(float));
    }
    plan.weights = weights.used;

    Carve passes = {area ? area[1] : NULL, 0};
    c->e = (float*)carve(&passes, (S + 1) * N * C * sizeof(float));
    c->h = (floatX*)carve(&passes, (S + 1) * N * C * X);
    if (training) {
        c->de = (float*)carve(&passes, N * C * sizeof(float));
        c->E = (floatX*)carve(&passes, N * C * X);
        c->dh = (floatX*)carve(&passes, N * C * X);
        c->dot = (float*)carve(&passes, N * sizeof(float));
        c->norm = (double*)carve(&passes, (1 + grad_norm_scratch(total)) * sizeof(double));
        c->adamw.device = (const AdamwSpan*)carve(&passes, c->adamw.count * sizeof(AdamwSpan));
    }
    c->losses = (float*)carve(&passes, N * sizeof(float));
    c->scale = (float*)carve(&passes, sizeof(float));
    c->tokens = (int*)carve(&passes, 3 * N * sizeof(int));
    plan.passes = passes.used;

    Carve blocks = {area ? area[2] : NULL, 0};
    c->z = (floatX*)carve(&blocks, c->rows * c->Vp * X);
    if (training && S > 0) { c->dz = (floatX*)carve(&blocks, c->rows * c->Vp * X); }
    plan.blocks = blocks.used;

    Carve p = {area ? area[3] : NULL, 0};
    c->p = plan.keep_p ? (floatX*)carve(&p, S * N * c->Vp * X) : NULL;
    plan.p = p.used;

    const PassCuda* pass = ponder_pass_cuda(m);
    int slots = training ? ponder_slots(m, recompute) : 0;
    plan.kept = pass->kept_bytes(m->pass.self, B, slots, recompute == 0);
    plan.work = pass->scratch_bytes(m->pass.self, B, training, recompute == 0) + MATMUL_WORKSPACE;
    plan.total = plan.weights + plan.kept + plan.p + plan.passes + plan.blocks + plan.work;
    // Forward products of a pass are a third of its FLOPs; norms and activations are counted as 1 % of it.
    double pass_flops = (m->pass.block_flops + m->pass.attention_flops) / 3 * (double)N;
    plan.extra_flops = (recompute > 0 ? 0.01 * pass_flops * (double)slots : 0) +
                       (double)(m->config.steps + 1 - slots) * pass_flops +
                       (plan.keep_p ? 0 : 2.0 * (double)V * (double)C * (double)S * (double)N);
    return plan;
}

// The setting that computes least again and fits into `memory` bytes; asked = -1: any, else that
// --recompute. If none fits, the smallest. *fits says which.
static inline PonderPlan ponder_choose(const Ponder* m, int training, int asked, double memory, int B, int* fits) {
    PonderCuda scratch;  // its pointers stay NULL: only sizes are wanted
    PonderPlan best, least;
    memset(&scratch, 0, sizeof scratch);
    scratch.adamw = ponder_cuda_of(m)->adamw;
    int found = 0;
    memset(&best, 0, sizeof best);
    memset(&least, 0, sizeof least);
    for (int r = 0; r <= m->config.steps + 1; r++) {
        if (asked >= 0 && r != asked) { continue; }
        for (int keep_p = m->config.steps > 0; keep_p >= 0; keep_p--) {
            PonderPlan plan = ponder_layout(m, &scratch, training, r, keep_p, B, NULL);
            if (least.total == 0 || plan.total < least.total) { least = plan; }
            if ((double)plan.total <= memory && (!found || plan.extra_flops < best.extra_flops)) {
                best = plan, found = 1;
            }
        }
    }
    *fits = found;
    return found ? best : least;
}

// What a program may take of a card: the driver and CUDA itself need the rest.
static inline double ponder_usable(double memory) { return 0.96 * memory - 600e6; }

// ---- the passes ----

static inline void mix_forward_cuda(const Ponder* m, const PonderCuda* c, int s, size_t N) {
    size_t C = (size_t)m->pass.C, V = (size_t)m->pass.V, stride = (size_t)m->pass.B * (size_t)m->pass.T * C;
    const floatX* w_in = c->w.x + m->model.tensors.list[m->pass.embed].offset;
    const floatX* w_out = c->w.x + m->model.tensors.list[m->pass.head].offset;
    const floatX* h = c->h + (size_t)s * stride;
    const float* e = c->e + (size_t)s * stride;
    float* next = c->e + (size_t)(s + 1) * stride;
    for (size_t first = 0; first < N; first += c->rows) {
        size_t R = min_size(c->rows, N - first);
        floatX* p = c->p ? c->p + ((size_t)s * (size_t)m->pass.B * (size_t)m->pass.T + first) * c->Vp : c->z;
        // z = h W_out^T / temperature;  p = softmax(z);  e[s+1] = e[s] + a p W_in
        gemm_cuda("mix: scores", 0, 1, R, c->Vp, C, 1 / (float)m->config.temperature, h + first * C, C, w_out, C, 0, p,
                  c->Vp, NULL);
        mix_softmax_cuda(p, R, V, c->Vp, (size_t)m->config.top_k);
        gemm_float_cuda("mix: mean embedding", 0, 0, R, C, c->Vp, ponder_scale(m), p, c->Vp, w_in, C, 1,
                        next + first * C, C, e + first * C);
    }
}

// dh (N,C) = gradient by h[s], given de = that by e[s+1]; weight gradients += (they sum over passes, blocks
// and micro-batches).
static inline void mix_backward_cuda(const Ponder* m, const PonderCuda* c, int s, size_t N) {
    size_t C = (size_t)m->pass.C, V = (size_t)m->pass.V, stride = (size_t)m->pass.B * (size_t)m->pass.T * C;
    size_t embed = m->model.tensors.list[m->pass.embed].offset, head = m->model.tensors.list[m->pass.head].offset;
    const floatX *w_in = c->w.x + embed, *w_out = c->w.x + head, *h = c->h + (size_t)s * stride;
    const float* e = c->e + (size_t)s * stride;
    float a = ponder_scale(m), temperature = (float)m->config.temperature;
    mix_dot_cuda(c->E, c->dot, c->de, e, e + stride, N, C);
    for (size_t first = 0; first < N; first += c->rows) {
        size_t R = min_size(c->rows, N - first);
        floatX* p = c->p ? c->p + ((size_t)s * (size_t)m->pass.B * (size_t)m->pass.T + first) * c->Vp : c->z;
        if (!c->p) {  // the very launches of the forward: the same bits
            gemm_cuda("mix: scores", 0, 1, R, c->Vp, C, 1 / temperature, h + first * C, C, w_out, C, 0, p, c->Vp, NULL);
            mix_softmax_cuda(p, R, V, c->Vp, (size_t)m->config.top_k);
        }
        // dp = a E W_in^T;  dz = p (dp - dot) / temperature;  dW_in += a p^T E;  dh = dz W_out;  dW_out += dz^T h
        gemm_cuda("mix: dp", 0, 1, R, c->Vp, C, a, c->E + first * C, C, w_in, C, 0, c->dz, c->Vp, NULL);
        mix_softmax_backward_cuda(c->dz, p, c->dot + first, R, c->Vp, temperature);
        gemm_float_cuda("mix: dW_in", 1, 0, c->Vp, C, R, a, p, c->Vp, c->E + first * C, C, 1, c->w.grads + embed, C,
                        NULL);
        gemm_cuda("mix: dh", 0, 0, R, C, c->Vp, 1, c->dz, c->Vp, w_out, C, 0, c->dh + first * C, C, NULL);
        gemm_float_cuda("mix: dW_out", 1, 0, c->Vp, C, R, 1, c->dz, c->Vp, h + first * C, C, 1, c->w.grads + head, C,
                        NULL);
    }
}

// Losses (N) of pass s; backward = 1: also dh (N,C) = and dW_out +=.
static inline void head_cuda(const Ponder* m, const PonderCuda* c, int s, size_t N, int backward) {
    size_t C = (size_t)m->pass.C, V = (size_t)m->pass.V, stride = (size_t)m->pass.B * (size_t)m->pass.T * C;
    size_t head = m->model.tensors.list[m->pass.head].offset;
    const floatX *w_out = c->w.x + head, *h = c->h + (size_t)s * stride;
    const int* targets = c->tokens + N;
    for (size_t first = 0; first < N; first += c->rows) {
        size_t R = min_size(c->rows, N - first);
        gemm_cuda("head: logits", 0, 1, R, c->Vp, C, 1, h + first * C, C, w_out, C, 0, c->z, c->Vp, NULL);
        head_loss_cuda(c->losses + first, c->z, targets + first, backward ? c->scale : NULL, R, V, c->Vp);
        if (!backward) { continue; }
        gemm_cuda("head: dh", 0, 0, R, C, c->Vp, 1, c->z, c->Vp, w_out, C, 0, c->dh + first * C, C, NULL);
        gemm_float_cuda("head: dW_out", 1, 0, c->Vp, C, R, 1, c->z, c->Vp, h + first * C, C, 1, c->w.grads + head, C,
                        NULL);
    }
}

static inline void ponder_forward_cuda(const Ponder* m, const PonderCuda* c, int B, int T, int keep) {
    const PassCuda* pass = ponder_pass_cuda(m);
    size_t C = (size_t)m->pass.C, N = (size_t)B * (size_t)T, stride = (size_t)m->pass.B * (size_t)m->pass.T * C;
    float times = m->config.multiply_steps ? (float)m->config.steps : 1.0f;
    ledger_part(PART_BLOCKS);
    embedding_forward_cuda(c->e, c->tokens, c->w.master + m->model.tensors.list[m->pass.embed].offset, N, C,
                           times * ponder_scale(m));
    for (int s = 0; s <= m->config.steps; s++) {
        ledger_part(PART_BLOCKS);
        pass->forward(m->pass.self, &c->w, c->h + (size_t)s * stride, c->e + (size_t)s * stride,
                      keep ? ponder_slot(m, c->plan.recompute, s) : -1, B, T);
        ledger_part(PART_MIX);
        if (s < m->config.steps) { mix_forward_cuda(m, c, s, N); }
    }
}

// One micro-batch whose tokens, targets, order and scale are on the GPU: everything that a graph captures.
static inline void ponder_micro_batch_cuda(const Ponder* m, const PonderCuda* c, int B, int T) {
    const PassCuda* pass = ponder_pass_cuda(m);
    size_t C = (size_t)m->pass.C, N = (size_t)B * (size_t)T, stride = (size_t)m->pass.B * (size_t)m->pass.T * C;
    float times = m->config.multiply_steps ? (float)m->config.steps : 1.0f;
    ponder_forward_cuda(m, c, B, T, 1);
    ledger_part(PART_HEAD);
    head_cuda(m, c, m->config.steps, N, 1);
    device_zero(c->de, N * C * sizeof(float));
    for (int s = m->config.steps; s >= 0; s--) {
        const float* e = c->e + (size_t)s * stride;
        ledger_part(PART_MIX);
        if (s < m->config.steps) { mix_backward_cuda(m, c, s, N); }
        ledger_part(PART_BLOCKS);
        int slot = ponder_slot(m, c->plan.recompute, s);
        if (slot < 0) {  // computed again into the slot of a later pass; h comes out as it was
            slot = 0;
            pass->forward(m->pass.self, &c->w, c->h + (size_t)s * stride, e, slot, B, T);
        }
        pass->backward(m->pass.self, &c->w, c->de, c->dh, e, slot, B, T);
    }
    ledger_part(PART_BLOCKS);
    embedding_backward_cuda(c->w.grads + m->model.tensors.list[m->pass.embed].offset, c->tokens, c->tokens + 2 * N,
                            c->de, N, C, times * ponder_scale(m));
}

// ---- the model that the training loop drives, on the GPU ----

// Sorts positions by token, equal ones in order (counting sort); count (V+1) scratch.
static inline void ponder_sort_tokens(int* order, const int* tokens, size_t N, size_t V, int* count) {
    memset(count, 0, (V + 1) * sizeof(int));
    for (size_t n = 0; n < N; n++) { count[tokens[n] + 1]++; }
    for (size_t v = 0; v < V; v++) { count[v + 1] += count[v]; }
    for (size_t n = 0; n < N; n++) { order[count[tokens[n]]++] = (int)n; }
}

// Inputs, targets and order of a micro-batch to the GPU.
static inline void ponder_upload_tokens(Ponder* m, const int* inputs, const int* targets, size_t N, int sorted) {
    PonderCuda* c = ponder_cuda_of(m);
    memcpy(c->host_tokens, inputs, N * sizeof(int));
    if (targets) { memcpy(c->host_tokens + N, targets, N * sizeof(int)); }
    if (sorted) { ponder_sort_tokens(c->host_tokens + 2 * N, inputs, N, (size_t)m->pass.V, c->count); }
    device_upload(c->tokens, c->host_tokens, 3 * N * sizeof(int));
}

static inline double ponder_train_cuda(Model* model, const int* inputs, const int* targets, int B, int T,
                                       double scale) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = ponder_cuda_of(m);
    size_t N = (size_t)B * (size_t)T;
    ponder_upload_tokens(m, inputs, targets, N, 1);
    *c->host_scale = (float)scale;
    device_upload(c->scale, c->host_scale, sizeof(float));
    // The first micro-batch of a shape runs as it is: products choose their algorithms. The second is
    // captured, and from then on one graph launch replaces the launches of all its kernels.
    if (c->graph && (c->graph_B != B || c->graph_T != T)) {
        ponder_micro_batch_cuda(m, c, B, T);  // a shorter last micro-batch; the graph stays
    } else if (c->graph) {
        CUDA_CHECK(cudaGraphLaunch(c->graph, device.stream));
    } else if (!c->use_graph || c->graph_runs == 0 || c->graph_B != B || c->graph_T != T) {
        if (B >= c->graph_B) { c->graph_B = B, c->graph_T = T, c->graph_runs = 1; }  // a shorter one displaces none
        ponder_micro_batch_cuda(m, c, B, T);
    } else {
        cudaGraph_t graph;
        CUDA_CHECK(cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeThreadLocal));
        ponder_micro_batch_cuda(m, c, B, T);
        CUDA_CHECK(cudaStreamEndCapture(device.stream, &graph));
        CUDA_CHECK(cudaGraphInstantiate(&c->graph, graph, 0));
        CUDA_CHECK(cudaGraphDestroy(graph));
        CUDA_CHECK(cudaGraphLaunch(c->graph, device.stream));
    }
    device_download(c->host_losses, c->losses, N * sizeof(float));
    double loss = 0;
    for (size_t n = 0; n < N; n++) { loss += (double)c->host_losses[n]; }
    return loss;
}

static inline void ponder_evaluate_cuda(Model* model, const int* inputs, const int* targets, int B, int T,
                                        double* loss_sums) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = ponder_cuda_of(m);
    size_t N = (size_t)B * (size_t)T;
    ponder_upload_tokens(m, inputs, targets, N, 0);
    ponder_forward_cuda(m, c, B, T, 0);
    for (int s = 0; s <= m->config.steps; s++) {
        head_cuda(m, c, s, N, 0);
        device_download(c->host_losses, c->losses, N * sizeof(float));
        for (size_t n = 0; n < N; n++) { loss_sums[s] += (double)c->host_losses[n]; }
    }
}

static inline void ponder_logits_cuda(Model* model, const int* inputs, int B, int T, int last_only, real* logits) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = ponder_cuda_of(m);
    // A text that grows by one token would make new shapes of every product each time. So it is padded to whole 64s,
    // behind the position that is asked for, where causal attention does not look.
    int P = last_only && B == 1 ? (int)min_size(round_up((size_t)T, 64), (size_t)m->pass.T) : T;
    size_t C = (size_t)m->pass.C, V = (size_t)m->pass.V, N = (size_t)B * (size_t)P;
    const floatX* h = c->h + (size_t)m->config.steps * (size_t)m->pass.B * (size_t)m->pass.T * C;
    const floatX* w_out = c->w.x + m->model.tensors.list[m->pass.head].offset;
    int* padded = (int*)xalloc(N, sizeof(int), "tokens");
    memcpy(padded, inputs, (size_t)B * (size_t)T * sizeof(int));  // the rest, behind them, stays 0
    ponder_upload_tokens(m, padded, NULL, N, 0);
    ponder_forward_cuda(m, c, B, P, 0);
    free(padded);
    size_t rows = last_only ? (size_t)B : N, step = last_only ? (size_t)P : 1, skip = last_only ? (size_t)T - 1 : 0;
    floatX* block = (floatX*)xalloc(c->rows * c->Vp, sizeof(floatX), "logits");
    for (size_t first = 0; first < rows; first += c->rows) {
        size_t R = min_size(c->rows, rows - first);
        gemm_cuda("head: logits", 0, 1, R, c->Vp, C, 1, h + (first * step + skip) * C, step * C, w_out, C, 0, c->z,
                  c->Vp, NULL);
        device_download(block, c->z, R * c->Vp * sizeof(floatX));
        for (size_t r = 0; r < R; r++) {
            for (size_t v = 0; v < V; v++) { logits[(first + r) * V + v] = (real)host_float(block[r * c->Vp + v]); }
        }
    }
    free(block);
}

// ---- weights, gradients and the optimiser ----

// Master weights (and moments, NULL: zeros) from the host's families to the GPU.
static inline void ponder_upload_cuda(Model* model, const real* moment1, const real* moment2) {
    PonderCuda* c = ponder_cuda_of(ponder_of(model));
    size_t bytes = model->tensors.total * sizeof(float);
    device_upload(c->w.master, model->params, bytes);
    if (sizeof(floatX) != sizeof(float)) { copy_rounded_cuda(c->w.x, c->w.master, model->tensors.total); }
    if (c->w.m && moment1) { device_upload(c->w.m, moment1, bytes); }
    if (c->w.v && moment2) { device_upload(c->w.v, moment2, bytes); }
    if (!ledger.dry) { CUDA_CHECK(cudaStreamSynchronize(device.stream)); }
}
static inline void ponder_download_cuda(Model* model, real* moment1, real* moment2) {
    PonderCuda* c = ponder_cuda_of(ponder_of(model));
    size_t bytes = model->tensors.total * sizeof(float);
    device_download(model->params, c->w.master, bytes);
    if (moment1) { device_download(moment1, c->w.m, bytes); }
    if (moment2) { device_download(moment2, c->w.v, bytes); }
}
static inline void ponder_download_grads_cuda(Model* model) {
    PonderCuda* c = ponder_cuda_of(ponder_of(model));
    if (!model->grads) { model->grads = (real*)xalloc(model->tensors.total, sizeof(real), "gradients on the host"); }
    device_download(model->grads, c->w.grads, model->tensors.total * sizeof(float));
}
static inline void ponder_zero_grads_cuda(Model* model) {
    ledger_part(PART_OPTIMISER);
    device_zero(ponder_cuda_of(ponder_of(model))->w.grads, model->tensors.total * sizeof(float));
}
static inline double ponder_grad_norm_cuda(Model* model) {
    PonderCuda* c = ponder_cuda_of(ponder_of(model));
    double squares = 0;
    ledger_part(PART_OPTIMISER);
    grad_norm_cuda(c->norm, c->norm + 1, c->w.grads, model->tensors.total);
    device_download(&squares, c->norm, sizeof squares);
    return sqrt(squares);
}
static inline void ponder_update_cuda(Model* model, const AdamwStep* step) {
    PonderCuda* c = ponder_cuda_of(ponder_of(model));
    ledger_part(PART_OPTIMISER);
    adamw_update_cuda(c->w.master, c->w.x, c->w.m, c->w.v, c->w.grads, &c->adamw, step);
}

// ---- memory ----

static inline void ponder_plan_rows(Model* model, const PonderPlan* plan) {
    const ModelRow rows[] = {
        {"weights, gradients, moments", (double)plan->weights},
        {"activations kept", (double)plan->kept},
        {"probabilities kept", (double)plan->p},
        {"inputs and outputs of passes", (double)plan->passes},
        {"blocks of logits", (double)plan->blocks},
        {"a layer at work, cuBLASLt", (double)plan->work},
    };
    model->memory_rows = (int)(sizeof rows / sizeof rows[0]);
    memcpy(model->memory, rows, sizeof rows);
}

// Says which setting was chosen, for banner and plan; the caller frees it.
static inline char* ponder_plan_text(const Ponder* m, const PonderPlan* plan) {
    int whole = m->config.steps + 1 - ponder_slots(m, plan->recompute);
    char passes[64] = "";
    if (whole) { snprintf(passes, sizeof passes, ", the first %d pass%s whole", whole, whole == 1 ? "" : "es"); }
    return format_string("--recompute %d: computed again in the backward: %s%s%s", plan->recompute,
                         plan->recompute == 0 ? "nothing of the layers" : "norms and activations", passes,
                         m->config.steps == 0 ? ""
                         : plan->keep_p       ? "; probabilities of the mix kept"
                                              : "; probabilities of the mix too");
}

// Chooses the plan for `memory` bytes of a card; dies if nothing fits, saying what would.
static inline PonderPlan ponder_plan(Ponder* m, int training, int asked, double memory, const char* card) {
    int fits = 0;
    double usable = ponder_usable(memory);
    PonderPlan plan = ponder_choose(m, training, asked, usable, m->pass.B, &fits);
    if (fits) { return plan; }
    int B = m->pass.B;
    while (B > 1 && !fits) { ponder_choose(m, training, -1, usable, --B, &fits); }
    char* hint = fits ? format_string("--batch %d fits (the total batch can stay)", B)
                      : format_string("not even --batch 1 fits; lower --seq or take a smaller model");
    int more = m->config.steps + 1;
    die("GPU memory: %.1f GB are needed with --recompute %d, %s has %.1f GB to give, %.1f GB are missing; %s%s",
        (double)plan.total / 1e9, plan.recompute, card, usable / 1e9, ((double)plan.total - usable) / 1e9, hint,
        asked >= 0 && asked < more ? "; or raise --recompute" : "");
}

// Finds the GPU (or takes the card of a dry run) and plans its memory.
static inline void ponder_prepare_cuda(Model* model, int training) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = ponder_cuda_of(m);
    device_open();
    c->plan = ponder_plan(m, training, c->asked, c->card ? c->card->memory : (double)device.memory,
                          c->card ? c->card->title : device.name);
    ponder_plan_rows(model, &c->plan);
    // The share of the peak that a run prints refers to the ledger's table; of other cards it is not known.
    for (int i = 0; i < CARDS && !c->card; i++) {
        if (strstr(device.name, cards[i].match)) {
            model->peak_flops = sizeof(floatX) == 2 ? cards[i].bf16 : cards[i].fp32;
        }
    }
}

static inline void ponder_allocate_cuda(Model* model, int training) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = ponder_cuda_of(m);
    m->training = training;
    if (c->plan.total == 0) { ponder_prepare_cuda(model, training); }
    const PassCuda* pass = ponder_pass_cuda(m);
    const PonderPlan* plan = &c->plan;
    char* area[4] = {(char*)device_alloc(plan->weights, "weights, gradients, moments"),
                     (char*)device_alloc(plan->passes, "inputs and outputs of passes"),
                     (char*)device_alloc(plan->blocks, "blocks of logits"),
                     plan->p ? (char*)device_alloc(plan->p, "kept probabilities") : NULL};
    c->plan = ponder_layout(m, c, training, plan->recompute, plan->keep_p, m->pass.B, area);
    pass->allocate(m->pass.self, training ? ponder_slots(m, plan->recompute) : 0, plan->recompute == 0, training);
    if (ledger.dry) { return; }
    size_t N = (size_t)m->pass.B * (size_t)m->pass.T;
    CUDA_CHECK(cudaMallocHost((void**)&c->host_tokens, 3 * N * sizeof(int)));
    CUDA_CHECK(cudaMallocHost((void**)&c->host_losses, N * sizeof(float)));
    CUDA_CHECK(cudaMallocHost((void**)&c->host_scale, sizeof(float)));
    memset(c->host_tokens, 0, 3 * N * sizeof(int));
    c->count = (int*)xalloc((size_t)m->pass.V + 1, sizeof(int), "counts of tokens");
    device_zero(area[0], plan->weights);  // padding of matrices, gradients and moments
    if (training) { device_upload((void*)c->adamw.device, c->adamw.host, c->adamw.count * sizeof(AdamwSpan)); }
    CUDA_CHECK(cudaStreamSynchronize(device.stream));
    model->params = (real*)xalloc(model->tensors.total, sizeof(real), "parameters on the host");
    if (!training && c->tune) {  // evaluation computes as training on this machine does
        char* common = matmul_common_choices();
        if (common) { matmul_read_choices(common); }
        free(common);
    }
}

// Before the first step: chooses cuBLASLt's algorithms by timing them in a micro-batch whose results are
// thrown away, for every shape that two files of choices do not have: the run's own at `path`, which a
// resumed run reads, and one beside the program, so that another run on this machine gives the same bits.
// rows: of a step; its last micro-batch may have fewer than the others.
static inline void ponder_rehearse_cuda(Model* model, const char* path, int64_t rows) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = ponder_cuda_of(m);
    size_t available = 0, all = 0;
    CUDA_CHECK(cudaMemGetInfo(&available, &all));
    printf("GPU memory  %.1f MB taken, %.1f MB planned, %.0f of %.0f MB free\n", (double)device.taken / 1e6,
           (double)c->plan.total / 1e6, (double)available / 1e6, (double)all / 1e6);
    if (!c->tune) { return; }
    double begin = now_seconds();
    char* common = matmul_common_choices();
    int own = matmul_read_choices(path), read = own + (common ? matmul_read_choices(common) : 0);
    int last = (int)(rows % m->pass.B);
    size_t N = (size_t)m->pass.B * (size_t)m->pass.T;
    int* tokens = (int*)xalloc(N, sizeof(int), "tokens of a rehearsal");
    for (size_t n = 0; n < N; n++) { tokens[n] = (int)(n * 2654435761u % (size_t)m->pass.V); }
    *c->host_scale = 1 / (float)N;
    device_upload(c->scale, c->host_scale, sizeof(float));
    matmul_search = 1;
    for (int turn = 0; turn < 2; turn++) {
        int B = turn ? last : m->pass.B;
        if (B == 0) { continue; }
        ponder_upload_tokens(m, tokens, tokens, (size_t)B * (size_t)m->pass.T, 1);
        ponder_micro_batch_cuda(m, c, B, m->pass.T);
        CUDA_CHECK(cudaStreamSynchronize(device.stream));
    }
    matmul_search = 0;
    free(tokens);
    ponder_zero_grads_cuda(model);
    int timed = 0;
    for (int i = 0; i < matmul_choice_count; i++) { timed += matmul_choices[i].timed; }
    if (timed > own) { matmul_write_choices(path); }
    if (timed > read && common) { matmul_write_choices(common); }
    printf("products    algorithms of %d shapes are known: %d from %s, %d from %s, %d timed in %.1f s\n", timed, own,
           path, read - own, common ? common : "nowhere else", timed - read, now_seconds() - begin);
    free(common);
}

// ---- the ledger of a step ----

// One whole step of `rows` rows, booked and not executed: micro-batches and the optimiser.
static inline void ponder_dry_step(Model* model, int64_t rows) {
    Ponder* m = ponder_of(model);
    AdamwStep step = adamw_step(1, 1e-3, 0.9, 0.95, 1e-8, 0.01, 1);
    ledger_clear();
    ponder_zero_grads_cuda(model);
    for (int64_t row = 0; row < rows; row += m->pass.B) {
        int B = (int)min_size((size_t)m->pass.B, (size_t)(rows - row));
        ponder_micro_batch_cuda(m, ponder_cuda_of(m), B, m->pass.T);
    }
    ponder_grad_norm_cuda(model);
    ponder_update_cuda(model, &step);
}

// --plan=CARD: memory as it would be there, every kernel and product of a step, what the card's limits
// allow.
static inline void ponder_print_ledger(Model* model, const char* name, int64_t step_rows) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = ponder_cuda_of(m);
    const Card* card = card_find(name);
    int bf16 = sizeof(floatX) == 2;
    ledger.dry = 1;
    c->card = card;
    ponder_allocate_cuda(model, 1);
    char* text = ponder_plan_text(m, &c->plan);
    printf("%s: %.0f TFLOP/s of products (%s), %.2f TB/s, %.0f GB (%s)\n", card->title,
           (bf16 ? card->bf16 : card->fp32) / 1e12, PRECISION, card->copy / 1e12, card->memory / 1e9, card->source);
    printf("%s\n", text);
    free(text);
    for (int i = 0; i < model->memory_rows; i++) {
        printf("  %-32s %9.1f MB\n", model->memory[i].what, model->memory[i].amount / 1e6);
    }
    printf("  %-32s %9.1f MB\n\n", "total", (double)c->plan.total / 1e6);

    ponder_dry_step(model, step_rows);
    double all = 0, part_seconds[PARTS] = {0};
    int64_t launches = 0;
    for (int i = 0; i < ledger.rows; i++) {
        double seconds = ledger_seconds(&ledger.row[i], card, bf16);
        all += seconds;
        part_seconds[ledger.row[i].part] += seconds;
        launches += ledger.row[i].launches;
    }
    printf("%-42s %8s %10s %10s %10s %7s  %s\n", "a step, as the limits allow", "launches", "GFLOP", "MB", "us",
           "share", "bound by");
    for (int part = 0; part < PARTS; part++) {
        if (part_seconds[part] == 0) { continue; }
        printf("%-42s %8s %10s %10s %10.0f %5.1f %%\n", ledger_part_names[part], "", "", "", 1e6 * part_seconds[part],
               100 * part_seconds[part] / all);
        for (int i = 0; i < ledger.rows; i++) {
            const LedgerRow* row = &ledger.row[i];
            if (row->part != part) { continue; }
            double seconds = ledger_seconds(row, card, bf16);
            printf("  %-40s %8lld %10.2f %10.1f %10.1f %5.1f %%  %s\n", row->name, (long long)row->launches,
                   row->flops / 1e9, row->bytes / 1e6, 1e6 * seconds, 100 * seconds / all,
                   row->bytes / card->copy >= seconds ? "memory" : "arithmetic");
        }
    }
    double tokens = (double)step_rows * m->pass.T, flops = 0;
    for (int i = 0; i < model->flops_rows; i++) { flops += model->flops[i].amount; }
    printf("%-42s %8lld %10.2f %10s %10.0f\n", "total", (long long)launches, tokens * flops / 1e9, "", 1e6 * all);
    printf("at most %.0f tokens/s, %.2f of the product rate in model FLOPs; a limit, not a forecast\n", tokens / all,
           tokens * flops / all / (bf16 ? card->bf16 : card->fp32));
}

static inline char* ponder_device_text(const Model* model) {
    const PonderCuda* c = ponder_cuda_of(ponder_of(model));
    char* plan = ponder_plan_text(ponder_of(model), &c->plan);
    char* text = format_string("%s (compute capability %d.%d, %d processors, %.0f GB), " PRECISION
                               ", products by cuBLASLt %llu, %s",
                               device.name, device.sm / 10, device.sm % 10, device.processors,
                               (double)device.memory / 1e9, (unsigned long long)cublasLtGetVersion(), plan);
    free(plan);
    return text;
}

// ---- numbers side by side ----

// As ponder_first_nonfinite(): parameters, then each pass in forward order, then the gradients.
static inline char* ponder_first_nonfinite_cuda(Model* model, int B, int T) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = ponder_cuda_of(m);
    const PassCuda* pass = ponder_pass_cuda(m);
    size_t n = (size_t)B * (size_t)T * (size_t)m->pass.C,
           stride = (size_t)m->pass.B * (size_t)m->pass.T * (size_t)m->pass.C;
    for (int i = 0; i < model->tensors.count; i++) {
        const Tensor* t = &model->tensors.list[i];
        if (!device_finite(c->w.master + t->offset, 1, t->size)) { return format_string("parameter %s", t->name); }
    }
    for (int s = 0; s <= m->config.steps; s++) {
        if (!device_finite(c->e + (size_t)s * stride, 1, n)) { return format_string("pass %d: input embeddings", s); }
        int slot = m->training ? ponder_slot(m, c->plan.recompute, s) : -1;
        if (slot == 0 && c->plan.recompute > 1) { slot = -1; }  // earlier passes have been computed again there
        for (int l = 0; l < m->pass.layers && slot >= 0; l++) {
            PassView view[PASS_VIEWS];
            int views = pass->views(m->pass.self, model->params, s, slot, l, B, T, view);
            for (int i = 0; i < views; i++) {
                if (!device_finite(view[i].gpu, view[i].gpu_float, view[i].n)) {
                    return format_string("pass %d, layer %d: %s", s, l, view[i].name);
                }
            }
        }
        if (!device_finite(c->h + (size_t)s * stride, 0, n)) { return format_string("pass %d: hidden states", s); }
    }
    for (int i = 0; c->w.grads && i < model->tensors.count; i++) {
        const Tensor* t = &model->tensors.list[i];
        if (!device_finite(c->w.grads + t->offset, 1, t->size)) { return format_string("gradient of %s", t->name); }
    }
    return NULL;
}

// One step of the C reference, forward then backward; keeps every tensor. Returns its loss.
static inline double comparison_run_cpu(Model* model, Comparison* k, const int* inputs, const int* targets, int B,
                                        int T, double scale) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = ponder_cuda_of(m);
    const PassCuda* pass = ponder_pass_cuda(m);
    size_t n = (size_t)B * (size_t)T * (size_t)m->pass.C,
           stride = (size_t)m->pass.B * (size_t)m->pass.T * (size_t)m->pass.C;
    ponder_forward(m, inputs, B, T, 1);
    for (int s = 0; s <= m->config.steps; s++) {
        size_t at = (size_t)s * stride;
        comparison_take(k, format_string("pass %d: input embeddings", s), m->e + at, c->e + at, 1, n, NULL, 0);
        int slot = ponder_slot(m, c->plan.recompute, s);  // below 0: nothing of this pass is kept on the GPU
        for (int l = 0; l < m->pass.layers && slot >= 0; l++) {
            PassView view[PASS_VIEWS];
            int views = pass->views(m->pass.self, model->params, s, slot, l, B, T, view);
            for (int i = 0; i < views; i++) {
                comparison_take(k, format_string("pass %d, layer %d: %s", s, l, view[i].name), view[i].cpu, view[i].gpu,
                                view[i].gpu_float, view[i].n, view[i].bias, view[i].bias_n);
            }
        }
        comparison_take(k, format_string("pass %d: hidden states", s), m->h + at, c->h + at, 0, n, NULL, 0);
    }
    memset(model->grads, 0, model->tensors.total * sizeof(real));
    double loss = ponder_train(model, inputs, targets, B, T, scale);
    comparison_take(k, format_string("loss of each position"), m->losses, c->losses, 1, (size_t)B * (size_t)T, NULL, 0);
    for (int i = 0; i < model->tensors.count; i++) {
        const Tensor* t = &model->tensors.list[i];
        comparison_take(k, format_string("gradient of %s", t->name), model->grads + t->offset, c->w.grads + t->offset,
                        1, t->size, NULL, 0);
    }
    return loss;
}

// --compare-cpu: one micro-batch on both, from the same weights (in the bf16 program rounded to bf16
// first, so that only the arithmetic differs). Returns the exit status.
static inline int ponder_compare_cpu(Model* model, const int* inputs, const int* targets, int B, int T, int64_t count) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = ponder_cuda_of(m);
    Comparison k;
    memset(&k, 0, sizeof k);
    double scale = 1.0 / (double)count, naive_loss = 0;
    size_t n = model->tensors.total;
    real* params = model->params;
    ponder_allocate(model, 1);  // the CPU's own memory
    memcpy(model->params, params, n * sizeof(real));
    free(params);
    if (sizeof(floatX) == 2) {
        stored_as_bf16 = 1;
        stored(model->params, n);
        stored_as_bf16 = 0;
    }
    ponder_upload_cuda(model, NULL, NULL);
    double loss = comparison_run_cpu(model, &k, inputs, targets, B, T, scale);
    if (sizeof(floatX) == 2) {
        k.naive = 1;
        stored_as_bf16 = 1;
        naive_loss = comparison_run_cpu(model, &k, inputs, targets, B, T, scale);
        stored_as_bf16 = 0;
    }
    ponder_upload_tokens(m, inputs, targets, (size_t)B * (size_t)T, 1);
    ponder_forward_cuda(m, c, B, T, 1);
    printf("%-58s %10s %10s %10s %6s\n", "tensor, in forward order", "largest", "error", "tolerance", "share");
    int differ = 0;
    const char* first = NULL;
    int forward = k.count - model->tensors.count - 1;
    double got = 0;
    for (int i = 0; i < k.count; i++) {
        if (i == forward) {  // the activations were looked at: now the backward may overwrite them
            ponder_zero_grads_cuda(model);
            got = ponder_train_cuda(model, inputs, targets, B, T, scale);
        }
        if (!comparison_judge(&k.list[i])) {
            if (!differ++) { first = k.list[i].name; }
        }
    }
    printf("loss: CPU %.9g, GPU %.9g", loss * scale, got * scale);
    if (sizeof(floatX) == 2) { printf(", CPU rounding to bf16 %.9g", naive_loss * scale); }
    printf("\n%d tensors, %d differ%s%s\n", k.count, differ, first ? "; the first: " : "", first ? first : "");
    return differ ? 1 : 0;
}

// Makes a model compute on the GPU; called once its CPU half is wired.
static inline void ponder_use_cuda(Model* model, const OptionTable* options) {
    Ponder* m = ponder_of(model);
    PonderCuda* c = (PonderCuda*)xalloc(1, sizeof(PonderCuda), "the model");
    m->cuda = c;
    c->adamw = adamw_plan(&model->tensors);
    c->asked = options_set(options, "recompute") ? (int)options_int(options, "recompute") : -1;
    if (options_given(options, "compare-cpu") && c->asked < 0) { c->asked = 0; }
    c->use_graph = options_int(options, "graph") != 0;
    c->tune = options_int(options, "tune") != 0;
    if (c->asked > m->config.steps + 1) {
        die("--recompute %d: with --ponder %d it is at most %d (norms, activations and %d of the %d passes)", c->asked,
            m->config.steps, m->config.steps + 1, m->config.steps, m->config.steps + 1);
    }
    model->memory_rows = 0;
    model->prepare = ponder_prepare_cuda;
    model->allocate = ponder_allocate_cuda;
    model->train = ponder_train_cuda;
    model->evaluate = ponder_evaluate_cuda;
    model->logits = ponder_logits_cuda;
    model->first_nonfinite = ponder_first_nonfinite_cuda;
    model->upload = ponder_upload_cuda;
    model->download = ponder_download_cuda;
    model->download_grads = ponder_download_grads_cuda;
    model->rehearse = ponder_rehearse_cuda;
    model->zero_grads = ponder_zero_grads_cuda;
    model->grad_norm = ponder_grad_norm_cuda;
    model->update = ponder_update_cuda;
    model->device_text = ponder_device_text;
    model->print_ledger = ponder_print_ledger;
    model->compare_cpu = ponder_compare_cpu;
}

static inline void ponder_cuda_options(OptionTable* options) {
    static const Option rows[] = {
        {"GPU", "recompute", OPTION_INT, NULL, "N", 0, 65, RESUME_FREE,
         "what the backward computes again to save memory: 0 nothing, 1 norms and activations, 1+k also the k earliest "
         "passes whole; any N gives the same bits [default: whatever fits at the least cost]"},
        {"GPU", "graph", OPTION_INT, "1", "0|1", 0, 1, RESUME_RUN,
         "1: capture the micro-batch in a CUDA graph after the first"},
        {"GPU", "tune", OPTION_INT, "1", "0|1", 0, 1, RESUME_RUN,
         "1: time cuBLASLt's algorithms for each shape before the first step and keep the choice in --out, so that a "
         "resumed run gives the same bits; 0: take the library's first proposal"},
        {"GPU", "compare-cpu", OPTION_FLAG, NULL, NULL, 0, 0, RESUME_RUN,
         "run one micro-batch on GPU and CPU, compare tensor by tensor, and exit"},
    };
    options_add(options, rows, (int)(sizeof rows / sizeof rows[0]));
}

#else
static inline void ponder_use_cuda(Model* model, const OptionTable* options) { (void)model, (void)options; }
static inline void ponder_cuda_options(OptionTable* options) { (void)options; }
#endif

#endif

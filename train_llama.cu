// train_llama.cu - LLaMA, trained to ponder.
//
//     make train_llama         the CPU program, build/train_llama
//     make gpu                 the same file by nvcc: build/train_llama_cuda
//
// This file knows one architecture and nothing of pondering: it turns input embeddings (B,T,C)
// into hidden states (B,T,C), forward and backward. ponder.cuh calls that a PASS, runs it S+1
// times, and adds embedding, vocabulary mix and loss. The files in common/ do the rest.
//
//   [1] configuration and presets
//   [2] tensor table
//   [3] activations
//   [4] layers (C): RMSNorm, rotary positions, SwiGLU; forward, backward
//   [5] one pass (C), forward and backward
//   [6] kernels that only this architecture has (CUDA)
//   [7] one pass (CUDA), forward and backward
//   [8] main: the table of all that
//
// One layer, x -> mid = x + attention(RMS1 x) -> mid + mlp(RMS2 mid): one branch after the other; no biases.
// Sizes: B rows, T positions, N = B*T, C width, NH heads of queries, NKV heads of keys and of values, each read by
// NH/NKV heads of queries, HS head size, Q = NH*HS (need not be C), H = (NH + 2 NKV) HS: q, k and v of a position, one
// behind the other; FF = mlp width, L layers. Source of the architecture: Touvron et al., "LLaMA", arXiv 2302.13971,
// and "Llama 2", arXiv 2307.09288; Grattafiori et al., "The Llama 3 Herd of Models", arXiv 2407.21783; tensor names and
// layouts are Hugging Face's Llama.

#include "ponder.cuh"

#include "common/attention.h"
#include "common/cache.h"
#include "common/files/settings.h"

// ------------------------------------------------------------------------------------------------
// [1] Configuration and presets

typedef struct LlamaLayer LlamaLayer;

// Pair i of a head turns by base^(-2i/HS) radians a position. Llama 3 was trained on rows of `positions` tokens, then
// on longer ones: a pair that turns fewer than `low` times in `positions` goes `factor` times slower since, one that
// turns more than `high` times goes on as it did, and between them it is a mean of both: llama3_frequency().
typedef struct {
    double base;
    double factor;     // 0: all go on as they did
    double low, high;  // turns
    double positions;  // of the rows before
    double longest;    // max_position_embeddings that a fresh model writes at least
} LlamaRope;

typedef struct {
    Pass pass;          // first, so that a Pass* of ours is a Llama*: sizes, memory, embedding tables
    LlamaRope rope;     // rotary positions
    LlamaLayer* layer;  // (L) weights
    Weight lnfw;        // (C) final norm
} Llama;

static const Preset llama_presets[] = {
    // Of PonderLM's scaling runs (arXiv 2505.20674): MLPs of 2,752 for every 1,024 of width.
    {"llama-405m", {.L = 24, .C = 1024, .NH = 16, .FF = 2752, .V = 50304}},
    {"llama-834m", {.L = 24, .C = 1536, .NH = 24, .FF = 4128, .V = 50304}},
    {"llama-1.4b", {.L = 24, .C = 2048, .NH = 32, .FF = 5504, .V = 50304}},
    {"llama-3.2-1b", {.L = 16, .C = 2048, .NH = 32, .FF = 8192, .V = 128256, .NKV = 8, .HS = 64, .tie = 1}},
    {NULL},
};

// Rotary positions of presets that have not the plain ones of base 10000; ended by a NULL name.
static const struct {
    const char* preset;
    LlamaRope rope;
} llama_ropes[] = {
    {"llama-3.2-1b", {.base = 500000, .factor = 32, .low = 1, .high = 4, .positions = 8192, .longest = 131072}},
    {NULL},
};

// Two thirds of 4C, since there are three matrices instead of two; rounded up to 64 (Meta's own code rounds to 256).
static int llama_usual_ff(int C) { return (int)div_up(8 * (size_t)C, 3 * 64) * 64; }

// Dies on what LLaMA does not have, by name; warns of what training here ignores.
static void llama_refuse(const Json* config, const char* path) {
    const char* act = json_get_string(config, "hidden_act", "silu", path);
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0) {
        die("%s: hidden_act is \"%s\", LLaMA has \"silu\"", path, act);
    }
    const char* const biases[] = {"attention_bias", "mlp_bias"};
    for (int i = 0; i < 2; i++) {
        if (json_get_bool(config, biases[i], 0, path)) { die("%s: %s is true; LLaMA has no biases", path, biases[i]); }
    }
    int64_t window = json_get_int(config, "sliding_window", 0, path);
    if (json_get_bool(config, "use_sliding_window", window != 0, path)) {
        if (window == 0) { die("%s: use_sliding_window is true; attention is to all positions before", path); }
        die("%s: sliding_window is %lld; only attention to all positions before is supported", path, (long long)window);
    }
    double share = setting_rotary(config, "partial_rotary_factor", NULL, 1, path);
    if (share != 1) { die("%s: partial_rotary_factor is %g; LLaMA rotates whole heads", path, share); }
    const char* const dropouts[] = {"attention_dropout"};
    setting_no_dropout(config, dropouts, 1, 0, path);
}

// Sizes of a config.json, or only what no preset says (config == NULL).
static void llama_read_config(Pass* pass, const Json* config, const char* path) {
    Llama* m = (Llama*)pass;
    Sizes* size = &pass->size;
    size->eps = 1e-5;
    m->rope.base = 10000;
    if (!config) {
        for (int i = 0; llama_ropes[i].preset; i++) {
            if (strcmp(llama_ropes[i].preset, path) == 0) { m->rope = llama_ropes[i].rope; }
        }
        return;
    }
    llama_refuse(config, path);
    size->L = json_get_size(config, "num_hidden_layers", 32, 1000, path);
    size->C = json_get_size(config, "hidden_size", 4096, 1 << 20, path);
    size->NH = json_get_size(config, "num_attention_heads", 32, 1 << 16, path);
    size->NKV = json_get_size(config, "num_key_value_heads", size->NH, 1 << 16, path);
    const Json* head = json_get(config, "head_dim");
    size->HS = head && head->type != JSON_NULL ? json_get_size(config, "head_dim", 0, 1 << 16, path) : 0;
    size->FF = json_get_size(config, "intermediate_size", 11008, 1 << 22, path);
    size->V = json_get_size(config, "vocab_size", 32000, 1 << 24, path);
    size->P = json_get_size(config, "max_position_embeddings", 2048, 1 << 30, path);
    size->eps = json_get_number(config, "rms_norm_eps", 1e-6, path);
    size->tie = json_get_bool(config, "tie_word_embeddings", 0, path);
    m->rope.base = setting_rotary(config, "rope_theta", NULL, m->rope.base, path);
    if (!setting_rotary_scaled(config, "llama3", path)) { return; }
    const struct {
        const char* key;
        double* number;
    } numbers[] = {{"factor", &m->rope.factor},
                   {"low_freq_factor", &m->rope.low},
                   {"high_freq_factor", &m->rope.high},
                   {"original_max_position_embeddings", &m->rope.positions}};
    for (int i = 0; i < 4; i++) {
        *numbers[i].number = setting_rotary(config, numbers[i].key, NULL, NAN, path);
        if (*numbers[i].number != *numbers[i].number) {
            die("%s: \"llama3\" rotary positions need %s, which is not there", path, numbers[i].key);
        }
    }
    if (!(m->rope.factor >= 1)) { die("%s: factor is %g, expected 1 or more", path, m->rope.factor); }
}

// The sizes as config.json, preset and command line have made them; dies in words on shapes that do not fit.
static void llama_check(Pass* pass, const char* path) {
    const LlamaRope* rope = &((Llama*)pass)->rope;
    Sizes* size = &pass->size;
    if (!(rope->base > 1 && rope->base < 1e12)) {
        die("%s: the rotary base is %g, expected more than 1 and less than 1e12", path, rope->base);
    }
    if (rope->factor != 0) {
        if (!(rope->low > 0 && rope->low < rope->high && rope->high < 1e12)) {
            die("%s: low_freq_factor is %g and high_freq_factor %g, expected more than 0 and more than the first", path,
                rope->low, rope->high);
        }
        if (!(rope->positions >= 1 && rope->positions < 1e12 && rope->factor < 1e12)) {
            die("%s: original_max_position_embeddings is %g and factor %g, expected 1 or more and less than 1e12", path,
                rope->positions, rope->factor);
        }
    }
    if (!(size->eps > 0 && size->eps < 1)) { die("%s: rms_norm_eps is %g, expected between 0 and 1", path, size->eps); }
    if (size->HS % 2 != 0) { die("%s: heads of %d numbers; rotated in pairs they must be even", path, size->HS); }
    if (size->C % size->NH != 0) {
        warn("%s: width %d is not a multiple of heads %d; transformers 4 loads such a model, 5 does not", path, size->C,
             size->NH);
    }
    if (size->P < pass->T) { size->P = pass->T; }  // nothing in the model depends on how many positions there are
    if (size->P < rope->longest) { size->P = (int)rope->longest; }
}

// As a float, also where it is whole: transformers complains of such settings as whole numbers.
static void llama_write_float(StringBuilder* sb, const char* key, double x) {
    sb_printf(sb, "\n    \"%s\": %.17g%s,", key, x, x == floor(x) && fabs(x) < 1e15 ? ".0" : "");
}

static void llama_write_config(const Pass* pass, StringBuilder* sb) {
    const LlamaRope* rope = &((const Llama*)pass)->rope;
    const Sizes* size = &pass->size;
    sb_printf(sb,
              ",\n  \"attention_bias\": false,\n  \"attention_dropout\": 0.0,\n  \"head_dim\": %d,\n  "
              "\"hidden_act\": \"silu\"",
              size->HS);
    sb_printf(sb, ",\n  \"hidden_size\": %d,\n  \"intermediate_size\": %d", size->C, size->FF);
    sb_printf(sb, ",\n  \"max_position_embeddings\": %d,\n  \"mlp_bias\": false,\n  \"num_attention_heads\": %d",
              size->P, size->NH);
    sb_printf(sb, ",\n  \"num_hidden_layers\": %d,\n  \"num_key_value_heads\": %d,\n  \"rms_norm_eps\": %.17g", size->L,
              size->NKV, size->eps);
    sb_printf(sb, ",\n  \"rope_scaling\": ");
    if (rope->factor != 0) {
        sb_printf(sb, "{");
        llama_write_float(sb, "factor", rope->factor);
        llama_write_float(sb, "high_freq_factor", rope->high);
        llama_write_float(sb, "low_freq_factor", rope->low);
        sb_printf(sb, "\n    \"original_max_position_embeddings\": %.17g,\n    \"rope_type\": \"llama3\"\n  }",
                  rope->positions);
    } else {
        sb_printf(sb, "null");
    }
    sb_printf(sb, ",\n  \"rope_theta\": %.17g,\n  \"tie_word_embeddings\": %s,\n  \"vocab_size\": %d", rope->base,
              size->tie ? "true" : "false", size->V);
}

// Read, but not written and not carried over: transformers 4.49 takes a base of 10000 where only rope_parameters says
// another.
static const char* const llama_other_keys[] = {"rope_parameters", NULL};

// ------------------------------------------------------------------------------------------------
// [2] Tensor table

// Weights of one layer. A Weight points at the weights w and their gradient d in the C half; in the CUDA half at master
// (fp32: norms and biases), x (rounded: products) and grad.
// In files q, k, v are three tensors and gate, up two. tensor_join() lays them one behind the other, so that the Weight
// of the first is a matrix of all their rows; the others need none (NULL below).
struct LlamaLayer {
    Weight ln1w;      // (C)
    Weight qkvw;      // (H,C)
    Weight projw;     // (C,Q)
    Weight ln2w;      // (C)
    Weight gate_upw;  // (2FF,C): gate, then up
    Weight downw;     // (C,FF)
};

// H: numbers of a position in q, k and v together.
static size_t llama_qkv_width(const Sizes* size) {
    return ((size_t)size->NH + 2 * (size_t)size->NKV) * (size_t)size->HS;
}

// passes = S+1 does not matter here: projections into the residual stream are divided by the root of the layers alone.
static void llama_tensors(Pass* pass, TensorTable* t, int passes, int ponder_init) {
    Llama* m = (Llama*)pass;
    const Sizes* size = &pass->size;
    size_t C = (size_t)size->C, FF = (size_t)size->FF, V = (size_t)size->V, HS = (size_t)size->HS;
    size_t Q = (size_t)size->NH * HS, KV = (size_t)size->NKV * HS;
    int L = size->L;
    (void)passes;
    // --init ponder (usual if S > 0): normal of deviation sqrt(2 / (5 C)), cut off at three of them; stock: normal,
    // 0.02, as in Hugging Face's class. With ponder, projections into the residual stream / sqrt(2 L).
    Init init = ponder_init ? INIT_TRUNCATED : INIT_NORMAL;
    double deviation = ponder_init ? sqrt(2.0 / (5.0 * (double)C)) : 0.02;
    float std = (float)deviation, residual_std = (float)(ponder_init ? deviation / sqrt(2.0 * L) : deviation);
    m->layer = (LlamaLayer*)xalloc((size_t)L, sizeof(LlamaLayer), "layers");
    const char* kv_rows = format_string(
        "num_key_value_heads %d x head_dim %d (as many heads as num_attention_heads where the first is absent or null)",
        size->NKV, size->HS);
    tensor_embedding(t, &pass->embed, format_string("model.embed_tokens.weight"), V, C, init, std);
    if (size->tie) { t->list[t->count - 1].alias = "lm_head.weight"; }
    for (int l = 0; l < L; l++) {
        LlamaLayer* y = &m->layer[l];
        const char* at = "model.layers";
        tensor_vector(t, &y->ln1w, format_string("%s.%d.input_layernorm.weight", at, l), C, INIT_ONES);
        tensor_matrix(t, &y->qkvw, format_string("%s.%d.self_attn.q_proj.weight", at, l), Q, C, init, std);
        tensor_matrix(t, NULL, format_string("%s.%d.self_attn.k_proj.weight", at, l), KV, C, init, std);
        tensor_join(t);
        t->list[t->count - 1].rows_of = kv_rows;
        tensor_matrix(t, NULL, format_string("%s.%d.self_attn.v_proj.weight", at, l), KV, C, init, std);
        tensor_join(t);
        t->list[t->count - 1].rows_of = kv_rows;
        tensor_matrix(t, &y->projw, format_string("%s.%d.self_attn.o_proj.weight", at, l), C, Q, init, residual_std);
        tensor_vector(t, &y->ln2w, format_string("%s.%d.post_attention_layernorm.weight", at, l), C, INIT_ONES);
        tensor_matrix(t, &y->gate_upw, format_string("%s.%d.mlp.gate_proj.weight", at, l), FF, C, init, std);
        tensor_matrix(t, NULL, format_string("%s.%d.mlp.up_proj.weight", at, l), FF, C, init, std);
        tensor_join(t);
        tensor_matrix(t, &y->downw, format_string("%s.%d.mlp.down_proj.weight", at, l), C, FF, init, residual_std);
    }
    tensor_vector(t, &m->lnfw, format_string("model.norm.weight"), C, INIT_ONES);
    if (!size->tie) { tensor_embedding(t, &pass->head, format_string("lm_head.weight"), V, C, init, std); }
}

// Tensors that old checkpoints, or the reference's, hold beside the weights.
static int llama_ignores(const Pass* pass, const char* name) {
    const char* const buffers[] = {".rotary_emb.inv_freq", ".adapter.weight"};
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

// What a layer keeps for its backward; after the last layer, what the final norm keeps (rstd1 alone). Norm
// outputs and SwiGLU outputs are not kept: they are cheap to compute again from x, mid, rstd and gate_up.
typedef struct {
    real* rstd1;    // (N) 1 / root mean square of the layer's input
    kept* qkv;      // (N,H) after rotation
    real* lse;      // (B,NH,T)
    kept* att;      // (N,Q)
    real* mid;      // (N,C) the stream between attention and MLP
    real* rstd2;    // (N) of mid
    kept* gate_up;  // (N,2FF) gate, then up
    real* next;     // (N,C) the layer's output, the next one's input
} LlamaKept;

static LlamaKept llama_kept(const Pass* pass, Arena* a, int l) {
    const Sizes* size = &pass->size;
    size_t N = pass->N, NC = N * (size_t)size->C, NH = (size_t)size->NH, HS = (size_t)size->HS;
    LlamaKept k = {NULL};
    k.rstd1 = TAKE(a, real, "1 / rms of the input", N);
    if (l == size->L) { return k; }
    k.qkv = TAKE(a, kept, "queries, keys and values", N * llama_qkv_width(size));
    k.lse = TAKE(a, real, "log-sum-exp of the scores", N * NH);
    k.att = TAKE(a, kept, "attention output", N * NH * HS);
    k.mid = TAKE(a, real, "stream after attention", NC);
    k.rstd2 = TAKE(a, real, "1 / rms after attention", N);
    k.gate_up = TAKE(a, kept, "gate and up", N * 2 * (size_t)size->FF);
    k.next = TAKE(a, real, "output", NC);
    return k;
}
// Measures or lists what llama_kept() takes; the pointers are nobody's.
static void llama_keep(Pass* pass, Arena* a, int l) { llama_kept(pass, a, l); }

// What one layer at work needs; dead when it returns, but for the tables and, in the backward, dx.
typedef struct {
    kept* ln;        // (N,C) a norm's output
    kept* act;       // (N,FF) SwiGLU's output
    kept* dact;      // (N,FF) its gradient
    kept* dgate_up;  // (N,2FF)
    kept* dqkv;      // (N,H)
    kept* datt;      // (N,Q)
    kept* dln;       // (N,C)
    real* dx;        // (N,C) gradient by the residual stream
    kept* dxr;       // (N,C) the same as products in bf16 read it; NULL in the fp32 CPU program
    real* cosine;    // (T, HS/2) of the angles
    real* sine;      // (T, HS/2)
} LlamaWork;

static LlamaWork llama_work(const Pass* pass, Arena* a, int training) {
    const Sizes* size = &pass->size;
    size_t C = (size_t)size->C, FF = (size_t)size->FF, NH = (size_t)size->NH, HS = (size_t)size->HS;
    size_t N = pass->N, N_back = training ? N : 0, angles = (size_t)pass->T * (HS / 2);
    LlamaWork work = {NULL};
    work.ln = TAKE(a, kept, "norm", N * C);
    work.act = TAKE(a, kept, "SwiGLU", N * FF);
    work.dact = TAKE(a, kept, "gradient of SwiGLU", N_back * FF);
    work.dgate_up = TAKE(a, kept, "gradient of gate and up", N_back * 2 * FF);
    work.dqkv = TAKE(a, kept, "gradient of queries, keys and values", N_back * llama_qkv_width(size));
    work.datt = TAKE(a, kept, "gradient of attention", N_back * NH * HS);
    work.dln = TAKE(a, kept, "gradient of a norm", N_back * C);
    work.dx = TAKE(a, real, "gradient of the stream", N_back * C);
    work.dxr = TAKE(a, kept, "gradient of the stream, rounded", stored_copies() ? N_back * C : 0);
    work.cosine = TAKE(a, real, "cosines", angles);
    work.sine = TAKE(a, real, "sines", angles);
    return work;
}

// A frequency (radians a position) as Llama 3 has it: divided by `factor` if it turns fewer than `low` times in
// `positions`, unchanged if more than `high` times, between them a mean of both whose share grows with the turns. In
// float and in the order of Hugging Face's _compute_llama3_parameters (hence no share * slow): models were trained so.
static float llama3_frequency(float frequency, const LlamaRope* rope) {
    float wavelength = 1.0f / frequency * (float)(2 * 3.14159265358979323846);
    float slow = frequency / (float)rope->factor;
    if (wavelength > (float)(rope->positions / rope->low)) { return slow; }
    if (wavelength < (float)(rope->positions / rope->high)) { return frequency; }
    float turns = 1.0f / wavelength * (float)rope->positions;
    float share = (turns - (float)rope->low) / (float)(rope->high - rope->low);
    return (1.0f - share) * frequency / (float)rope->factor + share * frequency;
}

// Angles of position t: t / base^(2i/rotated), or t times that frequency scaled, i = 0 .. rotated/2-1; Su et al., arXiv
// 2104.09864.
// differs: train_pythia.cu's frequencies are never scaled.
// Frequencies and angles are rounded to float like the reference's: at position 2048 the rounding
// alone turns a pair by 1e-4, and models were trained with it.
static void rotary_tables(real* cosine, real* sine, int T, int rotated, const LlamaRope* rope) {
    int half = rotated / 2;
    for (int i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)rotated;
        float frequency = 1.0f / (float)pow_d(rope->base, (double)exponent);
        if (rope->factor != 0) { frequency = llama3_frequency(frequency, rope); }
        for (int t = 0; t < T; t++) {
            float angle = (float)t * frequency;
            cosine[(size_t)t * (size_t)half + (size_t)i] = (real)cos_d((double)angle);
            sine[(size_t)t * (size_t)half + (size_t)i] = (real)sin_d((double)angle);
        }
    }
}

// Lays out the work space; with memory under it, fills in what never changes.
static void llama_prepare(Pass* pass, Arena* a, int training) {
    LlamaWork work = llama_work(pass, a, training);
    const Llama* m = (const Llama*)pass;
    if (a->base) { rotary_tables(work.cosine, work.sine, pass->T, pass->size.HS, &m->rope); }
}

// What layer l keeps, and the work space, where the caller of the pass has put them.
static LlamaKept llama_kept_at(const Pass* pass, int l) {
    Arena a = arena_at(pass->cpu.place[l]);
    return llama_kept(pass, &a, l);
}
static LlamaWork llama_work_at(const Pass* pass) {
    Arena a = arena_at(pass->cpu.work);
    return llama_work(pass, &a, pass->cpu.training);
}

// ------------------------------------------------------------------------------------------------
// [4] Layers (C)
//
// stored() and stored_copy() round to bf16 what a GPU stores so, where this half is compared with one; else, and where
// kept is bf16, they do nothing. Loops of few steps (SERIAL) stay on one thread.

// rstd (N) = 1/sqrt(mean of squares + eps) of the rows of inp (N,C); Zhang & Sennrich, arXiv 1910.07467.
static void rmsnorm_statistics(real* rstd, const real* inp, size_t N, size_t C, real eps) {
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t n = 0; n < N; n++) {
        const real* x = inp + n * C;
        rstd[n] = 1 / real_sqrt(row_squares(x, 0, C) / (real)C + eps);
    }
}

// out (N,C) = inp * rstd * weight
static void rmsnorm_forward(kept* out, const real* inp, const real* weight, const real* rstd, size_t N, size_t C) {
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t n = 0; n < N; n++) {
        const real* x = inp + n * C;
        kept* y = out + n * C;
        for (size_t i = 0; i < C; i++) { y[i] = kept_of_real(x[i] * rstd[n] * weight[i]); }
        stored(y, C);
    }
}

// With x^ = inp * rstd, so that out = x^ * weight:
//   dweight (C) += sum over rows of dout * x^
//   dx^ = dout * weight;  dinp (N,C) += rstd * (dx^ - x^ * mean(dx^ * x^))
// Columns are divided among threads for the weights, rows for the input: no two threads add to one number.
static void rmsnorm_backward(real* dinp, real* dweight, const kept* dout, const real* inp, const real* weight,
                             const real* rstd, size_t N, size_t C) {
    const size_t columns = 64;
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t first = 0; first < C; first += columns) {
        size_t last = min_size(first + columns, C);
        for (size_t n = 0; n < N; n++) {
            for (size_t i = first; i < last; i++) {
                dweight[i] = real_fma(real_of_kept(dout[n * C + i]), inp[n * C + i] * rstd[n], dweight[i]);
            }
        }
    }
#pragma omp parallel for schedule(static) if (N * C > SERIAL)
    for (size_t n = 0; n < N; n++) {
        const real* x = inp + n * C;
        const kept* dy = dout + n * C;
        real* dx = dinp + n * C;
        real dot[LANES] = {0};
        for (size_t first = 0; first < C; first += LANES) {
            size_t lanes = min_size(LANES, C - first);
            for (size_t l = 0; l < lanes; l++) {
                size_t i = first + l;
                dot[l] = real_fma(real_of_kept(dy[i]) * weight[i], x[i] * rstd[n], dot[l]);
            }
        }
        real mean_dot = lanes_fold(dot) / (real)C;
        for (size_t i = 0; i < C; i++) {
            dx[i] += rstd[n] * (real_of_kept(dy[i]) * weight[i] - x[i] * rstd[n] * mean_dot);
        }
    }
}

// Rotates heads by their positions, in place: the first `rotated` numbers of a head are pairs (i, i + rotated/2).
// Head h, part p of row n begins at x + n row_stride + h head_stride + p part_stride: q and k of a row of qkv are
// heads = NH + NKV, parts = 1, strides H, HS, 0; v behind them has no position. (Parts: train_pythia.cu has q and k of
// a head together.) cosine, sine (T, rotated/2). direction +1: forward; -1: backward, since the gradient of a rotation
// is the rotation back.
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

// out (N,FF) = g * sigmoid(g) * u, with g and u the halves of each row of inp (N,2FF); Shazeer, arXiv 2002.05202.
static void swiglu_forward(kept* out, const kept* inp, size_t N, size_t FF) {
#pragma omp parallel for schedule(static) if (N * FF > SERIAL)
    for (size_t n = 0; n < N; n++) {
        const kept *gate = inp + n * 2 * FF, *up = gate + FF;
        kept* y = out + n * FF;
        for (size_t i = 0; i < FF; i++) {
            real g = real_of_kept(gate[i]);
            y[i] = kept_of_real(g / (1 + real_exp(-g)) * real_of_kept(up[i]));
        }
        stored(y, FF);
    }
}

// With s = sigmoid(g), whose slope is s (1 - s):
//   dinp (N,2FF) = [dout * u * s * (1 + g * (1 - s)) | dout * g * s]
static void swiglu_backward(kept* dinp, const kept* dout, const kept* inp, size_t N, size_t FF) {
#pragma omp parallel for schedule(static) if (N * FF > SERIAL)
    for (size_t n = 0; n < N; n++) {
        const kept *gate = inp + n * 2 * FF, *up = gate + FF, *dy = dout + n * FF;
        kept *dgate = dinp + n * 2 * FF, *dup = dgate + FF;
        for (size_t i = 0; i < FF; i++) {
            real g = real_of_kept(gate[i]), s = 1 / (1 + real_exp(-g)), d = real_of_kept(dy[i]);
            dgate[i] = kept_of_real(d * real_of_kept(up[i]) * s * (1 + g * (1 - s)));
            dup[i] = kept_of_real(d * g * s);
        }
        stored(dgate, 2 * FF);
    }
}

// ------------------------------------------------------------------------------------------------
// [5] One pass (C)

// Shape ledger of a layer, x (N,C) its input:
//   ln1  (N,C)  = RMS1(x)           qkv (N,H) = ln1 Wqkv^T, the heads of q and k rotated
//   att  (N,Q)  = attention(qkv)
//   mid  (N,C)  = x + att Wproj^T
//   ln2  (N,C)  = RMS2(mid)         gate_up (N,2FF) = ln2 Wgate_up^T        act (N,FF) = SwiGLU(gate_up)
//   next (N,C)  = mid + act Wdown^T
// and h (N,C) = RMSf(x of the last layer). attention is causal, softmax(q k^T / sqrt(HS)) v of each head; head h of q
// reads number h / (NH/NKV) of k and v. A row of qkv is q, k, v: they begin at 0, at_k, at_v; from head to head HS,
// from row to row H.
static void llama_forward(Pass* pass, kept* h, const real* e, int B, int T) {
    const Llama* m = (const Llama*)pass;
    const Sizes* size = &pass->size;
    size_t N = (size_t)B * (size_t)T, C = (size_t)size->C, FF = (size_t)size->FF, HS = (size_t)size->HS;
    size_t NH = (size_t)size->NH, NKV = (size_t)size->NKV, Q = NH * HS, H = llama_qkv_width(size);
    size_t at_k = Q, at_v = Q + NKV * HS;  // in a row of qkv
    real eps = (real)size->eps;
    LlamaWork work = llama_work_at(pass);
    const real* x = e;
    for (int l = 0; l < size->L; l++) {
        const LlamaLayer* y = &m->layer[l];
        LlamaKept k = llama_kept_at(pass, l);
        rmsnorm_statistics(k.rstd1, x, N, C, eps);
        rmsnorm_forward(work.ln, x, y->ln1w.w, k.rstd1, N, C);
        matmul_forward(k.qkv, work.ln, y->qkvw, NULL, N, C, H);
        rotary_forward(k.qkv, work.cosine, work.sine, pass->cache, B, T, NH + NKV, 1, HS, H, HS, 0, 1);
        cached_attention_forward(k.att, k.lse, k.qkv, k.qkv + at_k, k.qkv + at_v, B, T, size->NH, size->NKV, size->HS,
                                 H, HS, HS, pass->cache, l);
        memcpy(k.mid, x, N * C * sizeof(real));
        matmul_forward_add(k.mid, k.att, y->projw, NULL, N, Q, C);
        rmsnorm_statistics(k.rstd2, k.mid, N, C, eps);
        rmsnorm_forward(work.ln, k.mid, y->ln2w.w, k.rstd2, N, C);
        matmul_forward(k.gate_up, work.ln, y->gate_upw, NULL, N, C, 2 * FF);
        swiglu_forward(work.act, k.gate_up, N, FF);
        memcpy(k.next, k.mid, N * C * sizeof(real));
        matmul_forward_add(k.next, work.act, y->downw, NULL, N, FF, C);
        x = k.next;
    }
    LlamaKept k = llama_kept_at(pass, size->L);
    rmsnorm_statistics(k.rstd1, x, N, C, eps);
    rmsnorm_forward(h, x, m->lnfw.w, k.rstd1, N, C);
}

// The mirror, last layer first. dx (N,C) is the gradient by the residual stream: it passes every
// layer unchanged (the "+" of the residual) and each branch adds what came through it.
// Every gradient of a weight sums over passes and micro-batches.
// Of a product out = inp W^T: dinp = dout W, dW += dout^T inp. "By x": with respect to x.
//   dact = dx Wdown;  dgate_up = SwiGLU backward;  dln2 = dgate_up Wgate_up;  dx, by next, += RMS2 backward: now by mid
//   datt = dx Wproj;  dqkv = attention backward, turned back;  dln1 = dqkv Wqkv;  dx, by mid, += RMS1 backward: now by x
static void llama_backward(Pass* pass, real* de, const kept* dh, const real* e, int B, int T) {
    const Llama* m = (const Llama*)pass;
    const Sizes* size = &pass->size;
    size_t N = (size_t)B * (size_t)T, C = (size_t)size->C, FF = (size_t)size->FF, HS = (size_t)size->HS;
    size_t NH = (size_t)size->NH, NKV = (size_t)size->NKV, Q = NH * HS, H = llama_qkv_width(size);
    size_t at_k = Q, at_v = Q + NKV * HS;  // in a row of qkv
    LlamaWork work = llama_work_at(pass);
    LlamaKept last = llama_kept_at(pass, size->L);
    // dx starts from the final norm alone: de already holds the gradient that reaches e past this
    // pass, and that one must not go through the layers.
    memset(work.dx, 0, N * C * sizeof(real));
    rmsnorm_backward(work.dx, m->lnfw.d, dh, llama_kept_at(pass, size->L - 1).next, m->lnfw.w, last.rstd1, N, C);
    for (int l = size->L - 1; l >= 0; l--) {
        const LlamaLayer* y = &m->layer[l];
        LlamaKept k = llama_kept_at(pass, l);
        const real* x = l > 0 ? llama_kept_at(pass, l - 1).next : e;

        const kept* dout = stored_copy(work.dxr, work.dx, N * C);  // gradient of the MLP's output
        swiglu_forward(work.act, k.gate_up, N, FF);                // again
        matmul_backward_input(work.dact, dout, y->downw.w, N, FF, C);
        matmul_backward_weight(y->downw.d, NULL, dout, work.act, N, FF, C);
        swiglu_backward(work.dgate_up, work.dact, k.gate_up, N, FF);
        rmsnorm_forward(work.ln, k.mid, y->ln2w.w, k.rstd2, N, C);  // ln2 again
        matmul_backward_weight(y->gate_upw.d, NULL, work.dgate_up, work.ln, N, C, 2 * FF);
        matmul_backward_input(work.dln, work.dgate_up, y->gate_upw.w, N, C, 2 * FF);
        rmsnorm_backward(work.dx, y->ln2w.d, work.dln, k.mid, y->ln2w.w, k.rstd2, N, C);

        dout = stored_copy(work.dxr, work.dx, N * C);  // of attention's projection: by mid, the MLP has added its own
        matmul_backward_input(work.datt, dout, y->projw.w, N, Q, C);
        matmul_backward_weight(y->projw.d, NULL, dout, k.att, N, Q, C);
        attention_backward(work.dqkv, work.dqkv + at_k, work.dqkv + at_v, work.datt, k.qkv, k.qkv + at_k, k.qkv + at_v,
                           k.att, k.lse, B, T, size->NH, size->NKV, size->HS, H, HS, HS);
        rotary_forward(work.dqkv, work.cosine, work.sine, NULL, B, T, NH + NKV, 1, HS, H, HS, 0, -1);
        rmsnorm_forward(work.ln, x, y->ln1w.w, k.rstd1, N, C);  // ln1 again
        matmul_backward_weight(y->qkvw.d, NULL, work.dqkv, work.ln, N, C, H);
        matmul_backward_input(work.dln, work.dqkv, y->qkvw.w, N, C, H);
        rmsnorm_backward(work.dx, y->ln1w.d, work.dln, x, y->ln1w.w, k.rstd1, N, C);
    }
    row_add(de, work.dx, N * C);
}

// ------------------------------------------------------------------------------------------------
// [6] Kernels that only this architecture has: none. Its layers are in common/layers.cuh, rmsnorm.cuh and
//     attention.cuh, where the other architectures find theirs.
// [7] One pass (CUDA)
#if GPU

#include "common/cache.cuh"
#include "common/layers.cuh"
#include "common/rmsnorm.cuh"

// What a layer keeps on the GPU, as in [3]. ln1, ln2, act: only where they are not computed again.
typedef struct {
    float* rstd1;     // (N) 1 / root mean square of the layer's input
    floatX* qkv;      // (N,H) after rotation
    float* lse;       // (B,NH,T)
    floatX* att;      // (N,Q)
    float* mid;       // (N,C) the stream between attention and MLP
    float* rstd2;     // (N) of mid
    floatX* gate_up;  // (N,2FF) gate, then up
    float* next;      // (N,C) the layer's output, the next one's input
    floatX* ln1;      // (N,C)
    floatX* ln2;      // (N,C)
    floatX* act;      // (N,FF)
} LlamaKeptCuda;

static LlamaKeptCuda llama_kept_cuda(const Pass* pass, Arena* a, int l) {
    const Sizes* size = &pass->size;
    size_t N = pass->N, NC = N * (size_t)size->C, FF = (size_t)size->FF, NH = (size_t)size->NH, scores = N * NH;
    size_t N_kept = pass->gpu.again ? 0 : N;  // what is computed again is not kept
    LlamaKeptCuda k = {NULL};
    k.rstd1 = TAKE(a, float, "1 / rms of the input", N);
    if (l == size->L) { return k; }
    k.qkv = TAKE(a, floatX, "queries, keys and values", N * llama_qkv_width(size));
    k.lse = TAKE(a, float, "log-sum-exp of the scores", scores);
    k.att = TAKE(a, floatX, "attention output", N * NH * (size_t)size->HS);
    k.mid = TAKE(a, float, "stream after attention", NC);
    k.rstd2 = TAKE(a, float, "1 / rms after attention", N);
    k.gate_up = TAKE(a, floatX, "gate and up", N * 2 * FF);
    k.next = TAKE(a, float, "output", NC);
    k.ln1 = TAKE(a, floatX, "first norm", N_kept * (size_t)size->C);
    k.ln2 = TAKE(a, floatX, "second norm", N_kept * (size_t)size->C);
    k.act = TAKE(a, floatX, "SwiGLU", N_kept * FF);
    return k;
}
static void llama_keep_cuda(Pass* pass, Arena* a, int l) { llama_kept_cuda(pass, a, l); }

// What a layer at work needs. out in the forward, dx and dxr in the backward go on to the next layer, the
// tables stay; the rest is dead when it returns.
typedef struct {
    floatX* out;       // (N,C) the branch that is not added yet: attention's projection, then the MLP's
    floatX* ln;        // (N,C) either norm, where they are not kept
    floatX* act;       // (N,FF)
    floatX* dact;      // (N,FF)
    floatX* dgate_up;  // (N,2FF)
    floatX* dqkv;      // (N,H)
    floatX* datt;      // (N,Q)
    floatX* dln;       // (N,C)
    float* dx;         // (N,C) gradient by the residual stream
    floatX* dxr;       // (N,C) the same, rounded: what products read
    float* delta;      // (B,NH,T) of attention's backward
    float* partial;    // of the sums over rows
    float* cosine;     // (T, HS/2) of the angles
    float* sine;       // (T, HS/2)
} LlamaWorkCuda;

static LlamaWorkCuda llama_work_cuda(const Pass* pass, Arena* a, int training) {
    const Sizes* size = &pass->size;
    size_t C = (size_t)size->C, FF = (size_t)size->FF, NH = (size_t)size->NH, HS = (size_t)size->HS, N = pass->N;
    size_t N_back = training ? N : 0, N_again = pass->gpu.again ? N : 0, NC_back = N_back * C, scores = N_back * NH;
    size_t angles = (size_t)pass->T * (HS / 2);
    LlamaWorkCuda work = {NULL};
    work.out = TAKE(a, floatX, "a branch", N * C);
    work.ln = TAKE(a, floatX, "norm", N_again * C);
    work.act = TAKE(a, floatX, "SwiGLU", N_again * FF);
    work.dact = TAKE(a, floatX, "gradient of SwiGLU", N_back * FF);
    work.dgate_up = TAKE(a, floatX, "gradient of gate and up", N_back * 2 * FF);
    work.dqkv = TAKE(a, floatX, "gradient of queries, keys and values", N_back * llama_qkv_width(size));
    work.datt = TAKE(a, floatX, "gradient of attention", N_back * NH * HS);
    work.dln = TAKE(a, floatX, "gradient of a norm", NC_back);
    work.dx = TAKE(a, float, "gradient of the stream", NC_back);
    work.dxr = TAKE(a, floatX, "gradient of the stream, rounded", NC_back);
    work.delta = TAKE(a, float, "delta of attention", scores);
    work.partial = TAKE(a, float, "sums over rows", training ? rmsnorm_backward_scratch(N, C) : 0);
    work.cosine = TAKE(a, float, "cosines", angles);
    work.sine = TAKE(a, float, "sines", angles);
    return work;
}

static void llama_prepare_cuda(Pass* pass, Arena* a, int training) {
    LlamaWorkCuda work = llama_work_cuda(pass, a, training);
    const Llama* m = (const Llama*)pass;
    size_t angles = (size_t)pass->T * (size_t)(pass->size.HS / 2);
    if (!a->base || ledger.dry) { return; }  // there is no memory, or launches are only counted
    real* tables = (real*)xalloc(2 * angles, sizeof(real), "rotary tables");
    rotary_tables(tables, tables + angles, pass->T, pass->size.HS, &m->rope);
    device_upload_now(work.cosine, tables, angles * sizeof(float));
    device_upload_now(work.sine, tables + angles, angles * sizeof(float));
    free(tables);
}

static LlamaWorkCuda llama_work_at_cuda(const Pass* pass) {
    Arena a = arena_at(pass->gpu.work);
    return llama_work_cuda(pass, &a, pass->gpu.training);
}
static LlamaKeptCuda llama_kept_at_cuda(const Pass* pass, const LlamaWorkCuda* work, int l) {
    Arena a = arena_at(pass->gpu.place[l]);
    LlamaKeptCuda k = llama_kept_cuda(pass, &a, l);
    if (pass->gpu.again) { k.ln1 = work->ln, k.ln2 = work->ln, k.act = work->act; }
    return k;
}

// Shape ledger, as in [5] but for what is fused: the kernel of a norm first adds the branch before it. So a layer
// begins by finishing the one before it, whose MLP comes over as out, and the last layer's is added by the final norm's
// kernel.
//   x       (N,C)   = mid + out    of the layer before: its next; in the first layer x = e
//   ln1     (N,C)   = RMS1(x)                  in the same kernel
//   qkv     (N,H)   = ln1 Wqkv^T               q and k rotated in place
//   att     (N,Q)   = attention(qkv)           out (N,C) = att Wproj^T
//   mid     (N,C)   = x + out
//   ln2     (N,C)   = RMS2(mid)                in the same kernel
//   gate_up (N,2FF) = ln2 Wgate_up^T           act (N,FF) = SwiGLU(gate_up)
//   out     (N,C)   = act Wdown^T
// x, mid and their gradient are fp32. With fewer than L `layers` (the first ones of a pass, wanted again for its
// backward: --recompute) it returns once the norm of the next layer has finished the last of them; h is not written.
static void llama_forward_cuda(Pass* pass, floatX* h, const float* e, int B, int T, int layers) {
    const Llama* m = (const Llama*)pass;
    const Sizes* size = &pass->size;
    size_t N = (size_t)B * (size_t)T, C = (size_t)size->C, FF = (size_t)size->FF, HS = (size_t)size->HS;
    size_t NH = (size_t)size->NH, NKV = (size_t)size->NKV, Q = NH * HS, H = llama_qkv_width(size);
    size_t at_k = Q, at_v = Q + NKV * HS;  // in a row of qkv
    float eps = (float)size->eps;
    LlamaWorkCuda work = llama_work_at_cuda(pass);
    const float* x = e;        // what out is added to, then the layer's input
    const floatX* out = NULL;  // the branch that is not added yet; NULL: none
    float* next = NULL;        // where the sum goes
    for (int l = 0; l < size->L; l++) {
        const LlamaLayer* y = &m->layer[l];
        LlamaKeptCuda k = llama_kept_at_cuda(pass, &work, l);
        rmsnorm_forward_cuda(next, k.ln1, k.rstd1, x, out, y->ln1w.master, N, C, eps);
        if (l == layers) { return; }
        if (next) { x = next; }
        matmul_forward_cuda(k.qkv, k.ln1, y->qkvw.x, NULL, N, C, H);
        rotary_forward_cuda(k.qkv, work.cosine, work.sine, cache_first_cuda(pass->cache_cuda), B, T, NH + NKV, 1, HS, H,
                            HS, 0, 1);
        cached_attention_forward_cuda(k.att, k.lse, k.qkv, k.qkv + at_k, k.qkv + at_v, B, T, NH, NKV, HS, H, HS, HS,
                                      pass->cache_cuda, l);
        matmul_forward_cuda(work.out, k.att, y->projw.x, NULL, N, Q, C);
        rmsnorm_forward_cuda(k.mid, k.ln2, k.rstd2, x, work.out, y->ln2w.master, N, C, eps);
        matmul_forward_cuda(k.gate_up, k.ln2, y->gate_upw.x, NULL, N, C, 2 * FF);
        swiglu_forward_cuda(k.act, k.gate_up, N, FF);
        matmul_forward_cuda(work.out, k.act, y->downw.x, NULL, N, FF, C);
        x = k.mid, out = work.out, next = k.next;
    }
    LlamaKeptCuda k = llama_kept_at_cuda(pass, &work, size->L);
    rmsnorm_forward_cuda(next, h, k.rstd1, x, out, m->lnfw.master, N, C, eps);
}

// The mirror. The kernel that takes a norm's gradient into dx also rounds the new dx for the products that follow.
static void llama_backward_cuda(Pass* pass, float* de, const floatX* dh, const float* e, int B, int T) {
    const Llama* m = (const Llama*)pass;
    const Sizes* size = &pass->size;
    size_t N = (size_t)B * (size_t)T, C = (size_t)size->C, FF = (size_t)size->FF, HS = (size_t)size->HS;
    size_t NH = (size_t)size->NH, NKV = (size_t)size->NKV, Q = NH * HS, H = llama_qkv_width(size);
    size_t at_k = Q, at_v = Q + NKV * HS;  // in a row of qkv
    LlamaWorkCuda work = llama_work_at_cuda(pass);
    LlamaKeptCuda last = llama_kept_at_cuda(pass, &work, size->L);
    // dx starts from the final norm alone: de holds the gradient that reaches e past this pass.
    rmsnorm_backward_cuda(work.dx, work.dxr, m->lnfw.grad, work.partial, dh,
                          llama_kept_at_cuda(pass, &work, size->L - 1).next, m->lnfw.master, last.rstd1, N, C, 0);
    for (int l = size->L - 1; l >= 0; l--) {
        const LlamaLayer* y = &m->layer[l];
        LlamaKeptCuda k = llama_kept_at_cuda(pass, &work, l);
        const float* x = l > 0 ? llama_kept_at_cuda(pass, &work, l - 1).next : e;
        if (pass->gpu.again) {
            swiglu_forward_cuda(k.act, k.gate_up, N, FF);
            rmsnorm_again_cuda(k.ln2, k.mid, y->ln2w.master, k.rstd2, N, C);
        }
        matmul_backward_input_cuda(work.dact, work.dxr, y->downw.x, N, FF, C);
        matmul_backward_weight_cuda(y->downw.grad, work.dxr, k.act, N, FF, C);
        swiglu_backward_cuda(work.dgate_up, work.dact, k.gate_up, N, FF);
        matmul_backward_weight_cuda(y->gate_upw.grad, work.dgate_up, k.ln2, N, C, 2 * FF);
        matmul_backward_input_cuda(work.dln, work.dgate_up, y->gate_upw.x, N, C, 2 * FF);
        rmsnorm_backward_cuda(work.dx, work.dxr, y->ln2w.grad, work.partial, work.dln, k.mid, y->ln2w.master, k.rstd2,
                              N, C, 1);

        // k.ln2 is dead: where norms are computed again, k.ln1 is the same memory.
        if (pass->gpu.again) { rmsnorm_again_cuda(k.ln1, x, y->ln1w.master, k.rstd1, N, C); }
        matmul_backward_input_cuda(work.datt, work.dxr, y->projw.x, N, Q, C);
        matmul_backward_weight_cuda(y->projw.grad, work.dxr, k.att, N, Q, C);
        attention_backward_cuda(work.dqkv, work.dqkv + at_k, work.dqkv + at_v, work.delta, work.datt, k.qkv,
                                k.qkv + at_k, k.qkv + at_v, k.att, k.lse, B, T, NH, NKV, HS, H, HS, HS);
        rotary_forward_cuda(work.dqkv, work.cosine, work.sine, NULL, B, T, NH + NKV, 1, HS, H, HS, 0, -1);
        matmul_backward_weight_cuda(y->qkvw.grad, work.dqkv, k.ln1, N, C, H);
        matmul_backward_input_cuda(work.dln, work.dqkv, y->qkvw.x, N, C, H);
        rmsnorm_backward_cuda(work.dx, l > 0 ? work.dxr : NULL, y->ln1w.grad, work.partial, work.dln, x, y->ln1w.master,
                              k.rstd1, N, C, 1);
    }
    add_cuda(de, work.dx, N * C);
}

static const PassCuda llama_cuda = {llama_keep_cuda, llama_prepare_cuda, llama_forward_cuda, llama_backward_cuda,
                                    ATTENTION_MOST_HS};
#else
static const PassCuda llama_cuda = {NULL};
#endif

// ------------------------------------------------------------------------------------------------
// [8] main

static const Architecture llama = {
    .program = "train_llama",
    .stock_class = "LlamaForCausalLM",
    .stock_config = "LlamaConfig",
    .stock_type = "llama",
    .presets = llama_presets,
    .default_preset = "llama-405m",
    .pass_size = sizeof(Llama),
    .usual_ff = llama_usual_ff,
    .usual_length = 2048,
    .any_length = 1,
    .read_config = llama_read_config,
    .check = llama_check,
    .write_config = llama_write_config,
    .other_keys = llama_other_keys,
    .tensors = llama_tensors,
    .ignores = llama_ignores,
    .keep = llama_keep,
    .prepare = llama_prepare,
    .forward = llama_forward,
    .backward = llama_backward,
    .cuda = &llama_cuda,
};

#ifndef TESTING
int MAIN(int argc, char** argv);
int MAIN(int argc, char** argv) { return ponder_main(argc, argv, &llama); }
#endif

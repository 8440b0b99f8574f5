// gpu_gpt2.cu - the CUDA half of train_gpt2.cu: what every architecture is tested for, with GPT-2's own names.
#include "allocations.h"

#include "../../train_gpt2.cu"
#define TEST_ARCHITECTURE gpt2
#define TEST_KEY_BIAS "c_attn.bias"

// With S = 3 and 16,384 tokens: fits an H200 with nothing but norms computed again; fits 24 GB.
static const char* const large_preset = "gpt2-1.4b";
static const char* const small_preset = "gpt2";

// A config.json with a large eps, and weights with the tensor in which an error of theirs shows first.
static const char eps_config[] =
    "{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_embd\": 32, \"n_head\": 1, \"n_inner\": 96, \"vocab_size\": 97, "
    "\"n_positions\": 20, \"layer_norm_epsilon\": 1e-2, \"attn_pdrop\": 0, \"embd_pdrop\": 0, \"resid_pdrop\": 0}";
static const char* const seen_weights[][2] = {
    {"transformer.wte.weight", "pass 0: input embeddings"},
    {"transformer.wpe.weight", "pass 0, layer 0: mean of the input"},
    {"transformer.h.0.attn.c_attn.weight", "pass 0, layer 0: queries, keys and values"},
    {"transformer.h.1.ln_2.weight", "pass 0, layer 1: MLP before GELU"},
    {"transformer.ln_f.weight", "pass 0: hidden states"},
};

// Tensors that may be exchanged: the first has the numbers of the second.
static const char* const seen_pairs[][2] = {
    {"pass 1, layer 1: attention output", "pass 1, layer 0: attention output"},
    {"gradient of transformer.h.1.mlp.c_proj.weight", "gradient of transformer.h.0.mlp.c_proj.weight"},
    {"gradient of transformer.ln_f.bias", "gradient of transformer.h.0.ln_1.bias"},
};

#include "gpu_model.h"

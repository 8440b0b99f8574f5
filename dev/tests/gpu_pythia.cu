// gpu_pythia.cu - the CUDA half of train_pythia.cu: what every architecture is tested for, with Pythia's own names.
#include "allocations.h"

#include "../../train_pythia.cu"
#define TEST_ARCHITECTURE pythia
#define TEST_KEY_BIAS "query_key_value.bias"

// With S = 3 and 16,384 tokens: fits an H200 with nothing but norms computed again; fits 24 GB.
static const char* const large_preset = "pythia-1.4b";
static const char* const small_preset = "pythia-70m";

// A config.json with a large eps, and weights with the tensor in which an error of theirs shows first.
static const char eps_config[] =
    "{\"model_type\": \"gpt_neox\", \"num_hidden_layers\": 2, \"hidden_size\": 32, \"num_attention_heads\": 1, "
    "\"intermediate_size\": 96, \"vocab_size\": 97, \"layer_norm_eps\": 1e-2}";
static const char* const seen_weights[][2] = {
    {"gpt_neox.embed_in.weight", "pass 0: input embeddings"},
    {"gpt_neox.layers.0.attention.query_key_value.weight", "pass 0, layer 0: queries, keys and values"},
    {"gpt_neox.layers.1.post_attention_layernorm.weight", "pass 0, layer 1: MLP before GELU"},
    {"gpt_neox.final_layer_norm.weight", "pass 0: hidden states"},
};

// Tensors that may be exchanged: the first has the numbers of the second.
static const char* const seen_pairs[][2] = {
    {"pass 1, layer 1: attention output", "pass 1, layer 0: attention output"},
    {"gradient of gpt_neox.layers.1.mlp.dense_4h_to_h.weight",
     "gradient of gpt_neox.layers.0.mlp.dense_4h_to_h.weight"},
    {"gradient of embed_out.weight", "gradient of gpt_neox.embed_in.weight"},
};

#include "gpu_model.h"

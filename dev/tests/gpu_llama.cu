// gpu_llama.cu - the CUDA half of train_llama.cu: what every architecture is tested for, with LLaMA's own names.
#include "allocations.h"

#include "../../train_llama.cu"
#define DECODE_CASE "--layers 1 --width 64 --heads 4 --kv-heads 2 --ff 40 --vocab 61 --ponder 1"
#define TEST_ARCHITECTURE llama
#define TEST_KEY_BIAS "no biases"

// With S = 3 and 16,384 tokens: fits an H200 with nothing but norms computed again; fits 24 GB.
static const char* const large_preset = "llama-1.4b";
static const char* const small_preset = "llama-405m";

// A config.json with a large eps, and weights with the tensor in which an error of theirs shows first.
static const char eps_config[] =
    "{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 32, \"num_attention_heads\": 1, "
    "\"intermediate_size\": 96, \"vocab_size\": 97, \"rms_norm_eps\": 1e-2}";
static const char* const seen_weights[][2] = {
    {"model.embed_tokens.weight", "pass 0: input embeddings"},
    {"model.layers.0.self_attn.q_proj.weight", "pass 0, layer 0: queries, keys and values"},
    {"model.layers.0.self_attn.v_proj.weight", "pass 0, layer 0: queries, keys and values"},
    {"model.layers.1.post_attention_layernorm.weight", "pass 0, layer 1: gate and up"},
    {"model.layers.1.mlp.gate_proj.weight", "pass 0, layer 1: gate and up"},
    {"model.norm.weight", "pass 0: hidden states"},
};

// Tensors that may be exchanged: the first has the numbers of the second.
static const char* const seen_pairs[][2] = {
    {"pass 1, layer 1: attention output", "pass 1, layer 0: attention output"},
    {"gradient of model.layers.1.mlp.down_proj.weight", "gradient of model.layers.0.mlp.down_proj.weight"},
    {"gradient of lm_head.weight", "gradient of model.embed_tokens.weight"},
};

// Beside what every architecture has: heads that share keys and values, of sizes that are a multiple of 8 and not;
// heads of another size than C/NH; Llama 3's frequencies.
#define HEADS_CONFIG(C, NH, NKV, HS, more)                                                                           \
    "{\"num_hidden_layers\": 2, \"hidden_size\": " #C ", \"num_attention_heads\": " #NH                              \
    ", \"num_key_value_heads\": " #NKV ", \"head_dim\": " #HS ", \"intermediate_size\": 72, \"vocab_size\": 97" more \
    "}"
#define OWN_CASES                                                                                               \
    {"--layers 2 --width 64 --heads 8 --kv-heads 2 --vocab 97 --ponder 1", 2, 33, NULL},                        \
        {"--layers 1 --width 60 --heads 6 --kv-heads 1 --ff 52 --vocab 61 --ponder 2 --tie 1", 1, 70, NULL},    \
        {"--ponder 1", 2, 35, HEADS_CONFIG(40, 4, 2, 32, "")},                                                  \
        {"--ponder 2", 1, 40,                                                                                   \
         HEADS_CONFIG(48, 3, 1, 20,                                                                             \
                      ", \"rope_theta\": 500000, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, " \
                      "\"low_freq_factor\": 1, \"high_freq_factor\": 4, "                                       \
                      "\"original_max_position_embeddings\": 32}")},

#include "gpu_model.h"

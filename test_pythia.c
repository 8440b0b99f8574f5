// test_pythia.c - train_pythia.cu: its layers, its configurations, and what every architecture is tested for.
#include "train_pythia.cu"
#define TEST_ARCHITECTURE pythia
#define TEST_KEY_BIAS "query_key_value.bias"

static const char* const good_config[][2] = {{"model_type", "\"gpt_neox\""}, {"hidden_size", "32"},
                                             {"num_hidden_layers", "2"},     {"num_attention_heads", "4"},
                                             {"intermediate_size", "64"},    {"vocab_size", "50"}};
static const char* const test_embeddings[] = {"embed_in", NULL};
static const char* const test_projections[] = {"attention.dense", "4h_to_h", NULL};

#include "dev/tests/test_architecture.h"
#include "dev/tests/test_kept.h"
#include "dev/tests/test_layernorm.h"
#include "dev/tests/test_program.h"
#include "dev/tests/test_generate.h"  // after it
#include "dev/tests/test_explain.h"   // after it
#include "dev/tests/test_rotary.h"

// x Phi(x), Phi the normal distribution function.
static const double gelu_known[][2] = {
    {0, 0}, {1, 0.84134474606854293}, {-1, -0.15865525393145707}, {3, 2.9959503059110895}, {-8, -4.9767e-15}};

#include "dev/tests/test_gelu.h"

static void test_initialisation(void) {
    const double std = sqrt(2.0 / (5 * 256));
    const InitCase cases[] = {
        {"--layers 3 --width 256 --heads 4 --vocab 300 --ponder 3", std, std / sqrt(2.0 * 3 * 4), 1},
        {"--layers 3 --width 256 --heads 4 --vocab 300 --ponder 0", 0.02, 0.02, 0},
        {"--layers 3 --width 256 --heads 4 --vocab 300 --ponder 0 --init ponder", std, std / sqrt(2.0 * 3), 1},
        {NULL}};
    check_initialisation(cases);
}

static void test_presets(void) {
    const PresetSize known[] = {{"pythia-14m", 14067712, 4, 4, 32},       {"pythia-31m", 30494720, 8, 8, 32},
                                {"pythia-70m", 70426624, 8, 8, 64},       {"pythia-160m", 162322944, 12, 12, 64},
                                {"pythia-410m", 405334016, 16, 16, 64},   {"pythia-1b", 1011781632, 8, 8, 256},
                                {"pythia-1.4b", 1414647808, 16, 16, 128}, {"pythia-2.8b", 2775208960, 32, 32, 80},
                                {"pythia-6.9b", 6857302016, 32, 32, 128}, {NULL}};
    check_presets(known);
    // FLOPs per training token of pythia-70m, T = 2048, from the formulas of the plan.
    Model* model = make_model("--ponder 3", "pythia-70m", NULL, NULL, 1, 2048);
    double flops = 0;
    for (int i = 0; i < model->flops_rows; i++) { flops += model->flops[i].amount; }
    // Measured: 0.0025; the figure has three digits, half of the last one is 0.003.
    CHECK(fabs(flops / 1.69e9 - 1) < 0.003, "pythia-70m, S = 3: %.4g FLOPs a token, expected 1.69e9", flops);
}

// ------------------------------------------------------------------------------------------------
// Configuration files

static void test_bad_configurations(void) {
    const BadConfig bad[] = {
        {"model_type", "\"llama\"", NULL, NULL, "model_type|llama|gpt_neox"},
        {"quantization_config", "{\"quant_method\": \"gptq\"}", NULL, NULL, "quantization_config|gptq"},
        {"hidden_size", "33", NULL, NULL, "width 33|multiple|heads 4"},
        {"hidden_size", "99999999999", NULL, NULL, "hidden_size|99999999999"},
        {"hidden_size", "-8", NULL, NULL, "hidden_size|-8"},
        {"hidden_size", "12.5", NULL, NULL, "hidden_size|12.5"},
        {"num_hidden_layers", "1000000000", NULL, NULL, "num_hidden_layers|1000000000"},
        {"vocab_size", "0", NULL, NULL, "vocab_size"},
        {"hidden_act", "\"relu\"", NULL, NULL, "hidden_act|relu"},
        {"use_parallel_residual", "false", NULL, NULL, "use_parallel_residual"},
        {"attention_bias", "false", NULL, NULL, "attention_bias"},
        {"rope_scaling", "{\"type\": \"linear\", \"factor\": 2}", NULL, NULL, "rope_scaling|linear"},
        {"rope_scaling", "7", NULL, NULL, "rope_scaling|object"},
        {"rope_scaling", "{\"factor\": 2}", NULL, NULL, "a factor but no rope_type"},
        {"rope_parameters", "{\"full_attention\": {\"rope_theta\": 500}}", NULL, NULL,
         "rope_parameters.full_attention is an object"},
        {"rope_parameters", "{\"rope_theta\": 500}", "rope_scaling", "{\"rope_type\": \"default\"}",
         "rope_parameters has rope_theta but rope_scaling has not"},
        {"rope_parameters", "{\"rope_type\": \"yarn\"}", NULL, NULL, "rope_parameters|yarn"},
        {"rotary_pct", "0.25", "partial_rotary_factor", "0.5", "rotary_pct|partial_rotary_factor"},
        {"rotary_emb_base", "10000.1234", "rope_theta", "10000.12341",
         "rope_theta is 10000.12341 but rotary_emb_base is 10000.1234:"},
        {"partial_rotary_factor", "0.5", "rope_parameters", "{\"rope_theta\": 1e4, \"partial_rotary_factor\": 0.250}",
         "config.json: rope_parameters.partial_rotary_factor is 0.250 but partial_rotary_factor is 0.5:"},
        {"rope_scaling", "{\"rope_type\": \"default\", \"rope_theta\": 7}", "rope_theta", "8",
         "rope_scaling.rope_theta is 7 but rope_theta is 8:"},
        {"rotary_pct", "2", NULL, NULL, "rotated share"},
        {"rotary_pct", "0.45", NULL, NULL, "even"},
        {"rotary_emb_base", "0", NULL, NULL, "rotary base"},
        {"layer_norm_eps", "0", NULL, NULL, "layer_norm_eps"},
        {"layer_norm_eps", "\"small\"", NULL, NULL, "layer_norm_eps"},
        {"tie_word_embeddings", "3", NULL, NULL, "tie_word_embeddings"},
        {NULL},
    };
    check_bad_configurations(bad);
    const char* const dropouts[] = {"attention_dropout", "hidden_dropout", NULL};
    check_dropouts(dropouts);
    check_no_groups();
}

static void test_rotary_spellings(void) {
    const struct {
        const char *key, *value, *key2, *value2;
        double pct, base;
    } good[] = {
        {"rotary_pct", "0.5", "rotary_emb_base", "500", 0.5, 500},
        {"partial_rotary_factor", "0.5", "rope_theta", "500", 0.5, 500},
        {"rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 500, \"partial_rotary_factor\": 0.5}", NULL,
         NULL, 0.5, 500},
        {"rope_parameters", "null", "rope_scaling", "null", 0.25, 10000},
        {"rope_scaling", "{\"rope_type\": \"default\", \"rope_theta\": 500}", "rotary_pct", "0.5", 0.5, 500},
        {"rotary_pct", "1.0", "partial_rotary_factor", "1", 1, 10000},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        Model* model = read_config(config_text(good[i].key, good[i].value, good[i].key2, good[i].value2), "");
        const Pythia* c = (Pythia*)ponder_of(model)->pass;
        CHECK(c->rotary_pct == good[i].pct && c->rotary_base == good[i].base, "%s: %g, %g", good[i].key, c->rotary_pct,
              c->rotary_base);
    }
}

static void test_sizes_beside_a_config(void) {
    const SizesBeside sizes[] = {
        {"--heads 2", "num_attention_heads", "2", NULL, NULL},
        {"--ff 40", "intermediate_size", "40", NULL, NULL},
        {"--width 64", "hidden_size", "64", "intermediate_size", "256"},  // an MLP of 4 x width goes with it
        {"--width 64 --ff 40", "hidden_size", "64", "intermediate_size", "40"},
        {"--ff 64 --width 64", "hidden_size", "64", "intermediate_size", "64"},
        {NULL},
    };
    check_sizes_beside_a_config(sizes);
}

// A config.json's positions are written again where they are more than --seq (8 here); absent, they are
// Hugging Face's default.
static void test_positions_are_kept(void) {
    const KeptPositions cases[] = {{"4096", 4096}, {"9", 9}, {"8", 8}, {"4", 8}, {NULL, 2048}, {NULL, 0}};
    check_positions("max_position_embeddings", cases);
}

static void test_numbers_are_kept(void) {
    const KeptNumber numbers[] = {{"layer_norm_eps", 1.2345678901234567e-5},
                                  {"rotary_emb_base", 10000.123456789012},
                                  {"rope_theta", 10000.123456789012},
                                  {"rotary_pct", 0.25000000000000006},
                                  {"partial_rotary_factor", 0.25000000000000006},
                                  {"softmax_temperature", 0.70000000000000018},
                                  {NULL}};
    check_numbers_are_kept(config_text("layer_norm_eps",
                                       "1.2345678901234567e-5, \"rotary_emb_base\": 10000.123456789012", "ponderinglm",
                                       "true, \"pondering_steps\": 2, \"rotary_pct\": "
                                       "0.25000000000000006, \"softmax_temperature\": 0.70000000000000018"),
                           numbers);
}

static void test_norm_eps(void) { check_norm_eps("layer_norm_eps"); }

static void test_ignored_tensors(void) {
    const char* const ignored[] = {"gpt_neox.layers.0.attention.bias", "gpt_neox.layers.11.attention.masked_bias",
                                   "gpt_neox.layers.0.attention.rotary_emb.inv_freq",
                                   "adapter.weight",  // the reference's
                                   NULL};
    const char* const others[] = {"embed_out.weight", "gpt_neox.layers.0.attention.dense.bias", "gpt_neox.adapter",
                                  NULL};
    check_ignored_tensors(ignored, others, "embed_out.weight");
}

int MAIN(int argc, char** argv);
int MAIN(int argc, char** argv) {
    test_begin(argc, argv);
    RUN(test_bad_configurations);  // forks: before the first parallel region
    RUN(test_rotary_spellings);
    RUN(test_sizes_beside_a_config);
    RUN(test_positions_are_kept);
    RUN(test_numbers_are_kept);
    RUN(test_ignored_tensors);
    RUN(test_layernorm_differences);
    RUN(test_norm_eps);
    RUN(test_gelu);
    RUN(test_rotary);
    RUN(test_rotary_layouts);
    RUN(test_initialisation);
    RUN(test_presets);
    architecture_tests();
    if (!is_double()) {
        RUN(test_kept_bf16);
        generate_tests();
        explain_tests();
        program_tests();
    }
    return test_end();
}

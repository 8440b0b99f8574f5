// test_gpt2.c - train_gpt2.cu: its layers, its configurations, and what every architecture is tested for.
#include "train_gpt2.cu"
#define TEST_ARCHITECTURE gpt2
#define TEST_KEY_BIAS "c_attn.bias"

static const char* const good_config[][2] = {
    {"model_type", "\"gpt2\""}, {"n_embd", "32"},      {"n_layer", "2"},    {"n_head", "4"},     {"n_inner", "64"},
    {"vocab_size", "50"},       {"attn_pdrop", "0.0"}, {"embd_pdrop", "0"}, {"resid_pdrop", "0"}};
static const char* const test_embeddings[] = {"wte", "wpe", NULL};
static const char* const test_projections[] = {"c_proj", NULL};

#include "dev/tests/test_architecture.h"
#include "dev/tests/test_kept.h"
#include "dev/tests/test_layernorm.h"
#include "dev/tests/test_program.h"
#include "dev/tests/test_generate.h"  // after it

// x (1 + tanh(u)) / 2, u = sqrt(2/pi) (x + 0.044715 x^3).
static const double gelu_known[][2] = {
    {0, 0}, {1, 0.84119199060827676}, {-1, -0.15880800939172324}, {3, 2.9963626079182269}, {-8, 0}};

#include "dev/tests/test_gelu.h"

// ------------------------------------------------------------------------------------------------
// Positions

static void test_position_layer(void) {
    enum { B = 3, T = 5, C = 7, P = 6 };
    real x[B * T * C], y[B * T * C], table[P * C], dtable[P * C];
    random_reals(x, B * T * C, 1);
    random_reals(table, P * C, 2);
    for (int i = 0; i < P * C; i++) { dtable[i] = 1; }
    position_forward(y, x, weight_of(table), NULL, B, T, C);
    position_backward(dtable, x, B, T, C);
    for (int t = 0; t < P; t++) {
        for (int i = 0; i < C; i++) {
            real sum = 1;
            for (int b = 0; b < B && t < T; b++) {
                int at = (b * T + t) * C + i;
                CHECK(y[at] == x[at] + table[t * C + i], "row %d, position %d: %g", b, t, (double)y[at]);
                sum += x[at];
            }
            CHECK(dtable[t * C + i] == sum, "gradient of position %d: %g, expected %g", t, (double)dtable[t * C + i],
                  (double)sum);
        }
    }
}

// A pass is a function of e + wpe, in every pass anew: what is added to all positions alike may come from the table of
// tokens or from that of positions, with the same logits where there is no mix (S = 0), and with other logits where it
// enters e (S > 0 adds it once to e, but in each pass to x).
static void test_positions_in_every_pass(void) {
    enum { T = 8 };
    for (int S = 0; S <= 2; S++) {
        char* arguments = format_string("--ponder %d --scale-embeds 0", S);
        real* logits[2];
        int n[2];
        for (int where = 0; where < 2; where++) {
            Model* m = read_config(config_text("tie_word_embeddings", "false", NULL, NULL), arguments);
            m->allocate(m, 0);
            tensor_init(&m->tensors, m->params, 5);
            const Tensor* t =
                &m->tensors.list[tensor_find(&m->tensors, where ? "transformer.wpe.weight" : "transformer.wte.weight")];
            for (size_t j = 0; j < t->size; j++) { m->params[t->offset + j] += (real)0.125 * (real)(j % 32 % 3); }
            int inputs[T], targets[T];
            random_tokens(inputs, targets, T, m->V);
            n[where] = T * m->V;
            logits[where] = (real*)xalloc((size_t)n[where], sizeof(real), "logits");
            m->logits(m, inputs, 1, T, 0, logits[where]);
        }
        double most = 0;
        for (int i = 0; i < n[0]; i++) {
            double difference = fabs((double)(logits[0][i] - logits[1][i]));
            if (!(difference <= most)) { most = difference; }  // a NaN stays
        }
        // Measured: 6e-8 where they are the same, rounding; 0.78 and 1.4 where they are not.
        CHECK(S == 0 ? most < 5e-7 : most > 0.2, "S = %d: logits differ by %g", S, most);
        free(logits[0]), free(logits[1]), free(arguments);
    }
}

// Positions that no row reaches have no gradient, and decay like the others.
static void test_unused_positions_decay(void) {
    enum { B = 2, T = 8 };
    Model* m = make_model("--ponder 2", NULL,
                          json_parse(config_text("n_positions", "11", NULL, NULL),
                                     strlen(config_text("n_positions", "11", NULL, NULL)), "config.json"),
                          "config.json", B, T);
    m->allocate(m, 1);
    tensor_init(&m->tensors, m->params, 5);
    int inputs[B * T], targets[B * T];
    random_tokens(inputs, targets, B * T, m->V);
    m->train(m, inputs, targets, B, T, 1);
    const Tensor* t = &m->tensors.list[tensor_find(&m->tensors, "transformer.wpe.weight")];
    CHECK(t->shape[0] == 11 && t->decay, "%zu positions, decay %d", t->shape[0], t->decay);
    real before[3 * 32];
    for (size_t j = 0; j < t->size; j++) {
        real d = m->grads[t->offset + j];
        CHECK(j < T * 32 ? d != 0 : d == 0, "gradient of position %zu: %g", j / 32, (double)d);
    }
    memcpy(before, m->params + t->offset + T * 32, sizeof before);
    real* moments = (real*)xalloc(2 * m->tensors.total, sizeof(real), "moments");
    AdamwStep step = adamw_step(1, 0.5, 0.9, 0.95, 1e-8, 0.25, 1);
    model_update(m, moments, moments + m->tensors.total, &step);
    for (int j = 0; j < 3 * 32; j++) {
        real now = m->params[t->offset + T * 32 + (size_t)j], expected = before[j] * (real)0.875;
        CHECK(now == expected, "position %d: %g decayed to %g, expected %g", T + j / 32, (double)before[j], (double)now,
              (double)expected);
    }
    free(moments);
}

// ------------------------------------------------------------------------------------------------
// Sizes

static void test_initialisation(void) {
    const double std = sqrt(2.0 / (5 * 256)), residual = sqrt(2.0 * 3);
    const InitCase cases[] = {
        {"--layers 3 --width 256 --heads 4 --vocab 300 --ponder 3 --tie 0", std, std / residual, 1},
        {"--layers 3 --width 256 --heads 4 --vocab 300 --ponder 0", 0.02, 0.02 / residual, 0},
        {"--layers 3 --width 256 --heads 4 --vocab 300 --ponder 0 --init ponder", std, std / residual, 1},
        {NULL}};
    check_initialisation(cases);
}

static void test_presets(void) {
    const PresetSize known[] = {{"gpt2", 124439808, 12, 12, 64},       {"gpt2-medium", 354823168, 16, 16, 64},
                                {"gpt2-large", 774030080, 20, 20, 64}, {"gpt2-xl", 1557611200, 25, 25, 64},
                                {"gpt2-405m", 407334912, 16, 16, 64},  {"gpt2-834m", 837494784, 24, 24, 64},
                                {"gpt2-1.4b", 1418649600, 32, 32, 64}, {NULL}};
    check_presets(known);
    const struct {
        const char *preset, *arguments;
        int T, tie;
    } lengths[] = {{"gpt2", "", 1024, 1}, {"gpt2-xl", "--tie 0", 1024, 0}, {"gpt2-405m", "", 2048, 0}};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        Model* model = make_model(lengths[i].arguments, lengths[i].preset, NULL, NULL, 1, 0);
        const Sizes* size = &ponder_of(model)->pass->size;
        CHECK(model->T == lengths[i].T && size->P == lengths[i].T, "%s: rows of %d, %d positions", lengths[i].preset,
              model->T, size->P);
        CHECK(size->tie == lengths[i].tie, "%s: tie %d", lengths[i].preset, size->tie);
    }
}

// ------------------------------------------------------------------------------------------------
// Configuration files

static void test_bad_configurations(void) {
    const BadConfig bad[] = {
        {"model_type", "\"gpt_neox\"", NULL, NULL, "model_type|gpt_neox|gpt2"},
        {"n_embd", "33", NULL, NULL, "width 33|multiple|heads 4"},
        {"n_embd", "99999999999", NULL, NULL, "n_embd|99999999999"},
        {"n_embd", "-8", NULL, NULL, "n_embd|-8"},
        {"n_embd", "12.5", NULL, NULL, "n_embd|12.5"},
        {"n_layer", "1000000000", NULL, NULL, "n_layer|1000000000"},
        {"n_inner", "0", NULL, NULL, "n_inner|0"},
        {"vocab_size", "0", NULL, NULL, "vocab_size"},
        {"hidden_size", "64", NULL, NULL, "n_embd is 32 but hidden_size is 64:"},
        {"num_hidden_layers", "3", NULL, NULL, "n_layer is 2 but num_hidden_layers is 3:"},
        {"num_attention_heads", "2", NULL, NULL, "n_head is 4 but num_attention_heads is 2:"},
        {"n_positions", "16", "max_position_embeddings", "17", "n_positions is 16 but max_position_embeddings is 17:"},
        {"max_position_embeddings", "\"long\"", NULL, NULL, "max_position_embeddings|long"},
        {"n_positions", "7", NULL, NULL, "--seq 8|7 positions|n_positions"},
        {"activation_function", "\"relu\"", NULL, NULL, "activation_function|relu|gelu_new"},
        {"activation_function", "\"gelu\"", NULL, NULL, "activation_function is \"gelu\"|gelu_new"},
        {"scale_attn_weights", "false", NULL, NULL, "scale_attn_weights is false"},
        {"scale_attn_by_inverse_layer_idx", "true", NULL, NULL, "scale_attn_by_inverse_layer_idx is true"},
        {"reorder_and_upcast_attn", "true", NULL, NULL, "reorder_and_upcast_attn is true"},
        {"add_cross_attention", "true", NULL, NULL, "add_cross_attention is true"},
        {"pruned_heads", "{\"0\": [1]}", NULL, NULL, "pruned_heads names heads of 1 layers"},
        {"quantization_config", "{\"bits\": 4}", NULL, NULL, "quantization_config|not said"},
        {"layer_norm_epsilon", "0", NULL, NULL, "layer_norm_epsilon"},
        {"layer_norm_epsilon", "\"small\"", NULL, NULL, "layer_norm_epsilon"},
        {"tie_word_embeddings", "3", NULL, NULL, "tie_word_embeddings"},
        {NULL},
    };
    check_bad_configurations(bad);
    const char* const dropouts[] = {"attn_pdrop", "embd_pdrop", "resid_pdrop", NULL};
    check_dropouts(dropouts);
    check_no_groups();
}

// The class asks for dropouts of 0.1 where its keys are absent, as in the public models.
static void test_absent_dropouts(void) {
    char* output = NULL;
    int code = run_child(read_config_child, (void*)"{\"n_layer\": 1, \"n_embd\": 4, \"n_head\": 1}", &output);
    CHECK(code == 0 && strstr(output, "attn_pdrop is 0.1") && strstr(output, "embd_pdrop is 0.1") &&
              strstr(output, "resid_pdrop is 0.1"),
          "exit code %d: %s", code, output);
    free(output);
}

// What a key that is absent or null means: the values of Hugging Face's class.
static void test_absent_keys(void) {
    const char* const texts[] = {"{\"attn_pdrop\": 0, \"embd_pdrop\": 0, \"resid_pdrop\": 0}",
                                 "{\"attn_pdrop\": 0, \"embd_pdrop\": 0, \"resid_pdrop\": 0, \"n_layer\": null, "
                                 "\"n_embd\": null, \"n_head\": null, \"n_inner\": null, "
                                 "\"n_positions\": null, \"vocab_size\": null, \"layer_norm_epsilon\": null, "
                                 "\"tie_word_embeddings\": null, \"quantization_config\": null, "
                                 "\"activation_function\": null, \"hidden_size\": null}"};
    for (int i = 0; i < 2; i++) {
        const Sizes* s = &ponder_of(read_config(texts[i], ""))->pass->size;
        CHECK(s->L == 12 && s->C == 768 && s->NH == 12 && s->FF == 3072 && s->V == 50257 && s->P == 1024 && s->tie == 1,
              "%s: %d layers, width %d, %d heads, MLP %d, vocabulary %d, %d positions, tie %d", texts[i], s->L, s->C,
              s->NH, s->FF, s->V, s->P, s->tie);
        CHECK(s->eps == 1e-5, "%s: eps %g", texts[i], s->eps);
    }
}

// Every spelling makes the same model, and the same config.json.
static void test_spellings(void) {
    const char* const texts[] = {
        "\"n_embd\": 32, \"n_layer\": 2, \"n_head\": 4, \"n_inner\": 128, \"n_positions\": 40",
        "\"hidden_size\": 32, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"max_position_embeddings\": 40, "
        "\"activation_function\": \"gelu_python_tanh\"",
        "\"n_embd\": 32, \"hidden_size\": 32, \"n_layer\": 2, \"n_head\": 4, \"num_attention_heads\": 4.0, "
        "\"n_inner\": "
        "null, \"n_positions\": 40, \"n_ctx\": 24, \"activation_function\": \"gelu_pytorch_tanh\"",
    };
    char* first = NULL;
    for (int i = 0; i < 3; i++) {
        char* text = format_string("{\"model_type\": \"gpt2\", \"vocab_size\": 50, \"attn_pdrop\": 0, \"embd_pdrop\": "
                                   "0, \"resid_pdrop\": 0, %s}",
                                   texts[i]);
        Model* model = read_config(text, "");
        char* written = model->config_json(model);
        if (!first) { first = written; }
        CHECK(strcmp(written, first) == 0, "%s is written as\n%s, expected\n%s", text, written, first);
        CHECK(model->owns_key(model, "n_ctx") && model->owns_key(model, "hidden_size") &&
                  !model->owns_key(model, "summary_type"),
              "keys that are written otherwise");
        free(text);
    }
}

static void test_sizes_beside_a_config(void) {
    const SizesBeside sizes[] = {
        {"--heads 2", "n_head", "2", NULL, NULL},
        {"--ff 40", "n_inner", "40", NULL, NULL},
        {"--width 64", "n_embd", "64", "n_inner", "256"},  // an MLP of 4 x width goes with it
        {"--width 64 --ff 40", "n_embd", "64", "n_inner", "40"},
        {"--ff 64 --width 64", "n_embd", "64", "n_inner", "64"},
        {"--tie 0", "tie_word_embeddings", "false", NULL, NULL},
        {NULL},
    };
    check_sizes_beside_a_config(sizes);
}

static void test_positions_are_kept(void) {
    const KeptPositions cases[] = {{"4096", 4096}, {"9", 9}, {"8", 8}, {NULL, 1024}, {NULL, 0}};
    check_positions("n_positions", cases);
}

static void test_numbers_are_kept(void) {
    const KeptNumber numbers[] = {
        {"layer_norm_epsilon", 1.2345678901234567e-5}, {"softmax_temperature", 0.70000000000000018}, {NULL}};
    check_numbers_are_kept(config_text("layer_norm_epsilon", "1.2345678901234567e-5", "ponderinglm",
                                       "true, \"pondering_steps\": 2, \"softmax_temperature\": 0.70000000000000018"),
                           numbers);
}

static void test_norm_eps(void) { check_norm_eps("layer_norm_epsilon"); }

static void test_ignored_tensors(void) {
    const char* const ignored[] = {"transformer.h.0.attn.bias", "transformer.h.11.attn.masked_bias", "h.0.attn.bias",
                                   NULL};
    const char* const others[] = {"lm_head.weight", "transformer.h.0.attn.c_attn.bias", "h.0.attn.c_proj.bias",
                                  "adapter.weight", NULL};
    check_ignored_tensors(ignored, others, "lm_head.weight");
}

int MAIN(int argc, char** argv);
int MAIN(int argc, char** argv) {
    test_begin(argc, argv);
    RUN(test_bad_configurations);  // forks: before the first parallel region
    RUN(test_absent_dropouts);
    RUN(test_absent_keys);
    RUN(test_spellings);
    RUN(test_sizes_beside_a_config);
    RUN(test_positions_are_kept);
    RUN(test_numbers_are_kept);
    RUN(test_ignored_tensors);
    RUN(test_layernorm_differences);
    RUN(test_norm_eps);
    RUN(test_gelu);
    RUN(test_position_layer);
    RUN(test_positions_in_every_pass);
    RUN(test_unused_positions_decay);
    RUN(test_initialisation);
    RUN(test_presets);
    architecture_tests();
    if (!is_double()) {
        RUN(test_kept_bf16);
        generate_tests();
        program_tests();
    }
    return test_end();
}

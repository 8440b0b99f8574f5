// test_llama.c - train_llama.cu: its layers, its configurations, and what every architecture is tested for.
#include "train_llama.cu"
#define TEST_ARCHITECTURE llama
#define TEST_KEY_BIAS "no biases"

static const char* const good_config[][2] = {{"model_type", "\"llama\""}, {"hidden_size", "32"},
                                             {"num_hidden_layers", "2"},  {"num_attention_heads", "4"},
                                             {"intermediate_size", "64"}, {"vocab_size", "50"}};
static const char* const test_embeddings[] = {"embed_tokens", NULL};
static const char* const test_projections[] = {"o_proj", "down_proj", NULL};
static const LlamaRope plain_rope = {.base = 10000};
#define TEST_SERIES &plain_rope

#include "dev/tests/test_architecture.h"
#include "dev/tests/test_kept.h"
#include "dev/tests/test_program.h"
#include "dev/tests/test_generate.h"  // after it
#include "dev/tests/test_rotary.h"

static const Llama* llama_of(const Model* model) { return (const Llama*)ponder_of(model)->pass; }

// ------------------------------------------------------------------------------------------------
// Layers

enum { RMS_N = 3, RMS_C = 21 };
static struct { real x[RMS_N * RMS_C], w[RMS_C], y[RMS_N * RMS_C], dy[RMS_N * RMS_C], rstd[RMS_N]; } rms;

static double rmsnorm_scalar(void* unused) {
    (void)unused;
    rmsnorm_statistics(rms.rstd, rms.x, RMS_N, RMS_C, (real)1e-5);
    rmsnorm_forward(rms.y, rms.x, rms.w, rms.rstd, RMS_N, RMS_C);
    return weighted_sum(rms.y, rms.dy, RMS_N * RMS_C);
}

static void test_rmsnorm(void) {
    // The mean of 9 and 16 is 12.5; with the eps, inside the root, it is 18.
    const real pair[2] = {3, 4}, w[2] = {1, 2};
    real y[2], rstd;
    rmsnorm_statistics(&rstd, pair, 1, 2, (real)5.5);
    rmsnorm_forward(y, pair, w, &rstd, 1, 2);
    // Measured: 6e-8 in float, roundings.
    CHECK(fabs((double)y[0] - 3 / sqrt(18)) < 2e-7 && fabs((double)y[1] - 8 / sqrt(18)) < 4e-7,
          "RMSNorm of 3, 4: %g, %g", (double)y[0], (double)y[1]);
    if (!is_double()) { return; }
    random_reals(rms.x, RMS_N * RMS_C, 1);
    random_reals(rms.w, RMS_C, 2);
    random_reals(rms.dy, RMS_N * RMS_C, 4);
    real dx[RMS_N * RMS_C], dw[RMS_C];
    for (int i = 0; i < RMS_N * RMS_C; i++) { dx[i] = 1; }  // the input's gradient is added to
    for (int i = 0; i < RMS_C; i++) { dw[i] = 2; }
    rmsnorm_scalar(NULL);
    rmsnorm_backward(dx, dw, rms.dy, rms.x, rms.w, rms.rstd, RMS_N, RMS_C);
    for (int i = 0; i < RMS_N * RMS_C; i++) { dx[i] -= 1; }
    for (int i = 0; i < RMS_C; i++) { dw[i] -= 2; }
    check_gradient("rmsnorm: input", rmsnorm_scalar, NULL, rms.x, RMS_N * RMS_C, dx, 1, 0);
    check_gradient("rmsnorm: weight", rmsnorm_scalar, NULL, rms.w, RMS_C, dw, 1, 0);
}

enum { SWI_N = 3, SWI_FF = 19 };
static struct { real x[2 * SWI_N * SWI_FF], y[SWI_N * SWI_FF], dy[SWI_N * SWI_FF]; } swi;

static double swiglu_scalar(void* unused) {
    (void)unused;
    swiglu_forward(swi.y, swi.x, SWI_N, SWI_FF);
    return weighted_sum(swi.y, swi.dy, SWI_N * SWI_FF);
}

static void test_swiglu(void) {
    // Gate, up, and g / (1 + exp(-g)) * u. Far out it is g u or 0, not NaN.
    const double known[][3] = {{0, 5, 0},
                               {1, 1, 0.73105857863000488},
                               {-1, 2, -0.53788284273999024},
                               {3, -0.5, -1.4288611902336499},
                               {120, 2, 240},
                               {-120, 2, 0}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        const real x[2] = {(real)known[i][0], (real)known[i][1]};
        real y;
        swiglu_forward(&y, x, 1, 1);
        // Measured: 1.2e-7 in float, 1e-15 in double.
        CHECK(fabs((double)y - known[i][2]) <= (is_double() ? 1e-14 : 4e-7), "SwiGLU(%g, %g) = %.9g, expected %.9g",
              known[i][0], known[i][1], (double)y, known[i][2]);
    }
    if (!is_double()) { return; }
    random_reals(swi.x, 2 * SWI_N * SWI_FF, 5);
    for (int i = 0; i < SWI_FF; i++) { swi.x[i] = (real)(-8 + 16.0 * i / (SWI_FF - 1)); }
    random_reals(swi.dy, SWI_N * SWI_FF, 6);
    real dx[2 * SWI_N * SWI_FF];
    swiglu_backward(dx, swi.dy, swi.x, SWI_N, SWI_FF);
    check_gradient("swiglu", swiglu_scalar, NULL, swi.x, 2 * SWI_N * SWI_FF, dx, 1, 0);
}

// Frequencies of Llama-3.2-1B as transformers has them (inv_freq of its rotary embedding, 4.49 and 5 alike), and
// sines of position 2028: pairs 0 to 14 go on unchanged, from 18 on 32 times slower, three are between.
static void test_rotary_scaled(void) {
    const struct {
        int pair;
        double frequency, sine;  // sine 0: not looked at
    } known[] = {{0, 1, 0},
                 {1, 0.663601279, 0.925286966},
                 {14, 0.00321144611, 0},
                 {15, 0.00129054801, 0.500660207},
                 {16, 0.000429556705, 0.765064197},
                 {17, 9.70828623e-05, 0.195614534},
                 {18, 1.94616387e-05, 0.0394579567},
                 {31, 9.41830649e-08, 0}};
    enum { T = 2029, HALF = 32 };
    const LlamaRope* rope = &llama_of(make_model("", "llama-3.2-1b", NULL, NULL, 1, 8))->rope;
    real* tables = (real*)xalloc(2 * T * HALF, sizeof(real), "rotary tables");
    rotary_tables(tables, tables + T * HALF, T, 2 * HALF, rope);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        int pair = known[i].pair;
        float plain = 1.0f / (float)pow(500000, 2.0 * pair / (2 * HALF)), got = llama3_frequency(plain, rope);
        // Measured: 2.4e-9, the nine digits that are given; half a unit in the last place of a float is 3e-8.
        CHECK(fabs((double)got / known[i].frequency - 1) < 6e-9, "frequency of pair %d: %.9g, expected %.9g", pair,
              (double)got, known[i].frequency);
        double sine = (double)tables[T * HALF + 2028 * HALF + pair];
        // Measured: 2.5e-8, the rounding of the result.
        CHECK(known[i].sine == 0 || fabs(sine - known[i].sine) < 6e-8, "sine of pair %d: %.9g, expected %.9g", pair,
              sine, known[i].sine);
    }
    free(tables);
}

// ------------------------------------------------------------------------------------------------
// Shapes

static void test_initialisation(void) {
    const double std = sqrt(2.0 / (5 * 256));
    const char* const sizes = "--layers 3 --width 256 --heads 4 --kv-heads 2 --ff 300 --vocab 300 --ponder";
    const InitCase cases[] = {{format_string("%s 3", sizes), std, std / sqrt(2.0 * 3), 1},
                              {format_string("%s 0", sizes), 0.02, 0.02, 0},
                              {format_string("%s 0 --init ponder", sizes), std, std / sqrt(2.0 * 3), 1},
                              {NULL}};
    check_initialisation(cases);
}

static void test_presets(void) {
    // 2 V C + L (2 C + 4 C^2 + 3 C FF) + C, the paper's; the published number of the last, whose table is counted once.
    const PresetSize known[] = {{"llama-405m", 406635520, 16, 16, 64},
                                {"llama-834m", 837625344, 24, 24, 64},
                                {"llama-1.4b", 1420396544, 32, 32, 64},
                                {"llama-3.2-1b", 1235814400, 32, 8, 64},
                                {NULL}};
    check_presets(known);
    const int widths[][2] = {{32, 128}, {1024, 2752}, {1536, 4096}, {2048, 5504}, {4096, 10944}};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        CHECK(llama_usual_ff(widths[i][0]) == widths[i][1], "width %d has an MLP of %d, expected %d", widths[i][0],
              llama_usual_ff(widths[i][0]), widths[i][1]);
    }
    const Llama* m = llama_of(make_model("", "llama-3.2-1b", NULL, NULL, 1, 8));
    CHECK(m->rope.base == 500000 && m->rope.factor == 32 && m->rope.low == 1 && m->rope.high == 4 &&
              m->rope.positions == 8192 && m->pass.size.tie == 1 && m->pass.size.eps == 1e-5,
          "rotary positions and eps of llama-3.2-1b");
    // Its published positions, however short the rows; and settings that are no whole numbers where they are read.
    char* config = ponder_config_json(make_model("", "llama-3.2-1b", NULL, NULL, 1, 8));
    CHECK(strstr(config, "\"max_position_embeddings\": 131072,") && strstr(config, "\"factor\": 32.0,") &&
              strstr(config, "\"high_freq_factor\": 4.0,") && strstr(config, "\"low_freq_factor\": 1.0,"),
          "%s", config);
    free(config);
    const LlamaRope* rope = &llama_of(make_model("", "llama-405m", NULL, NULL, 1, 8))->rope;
    CHECK(rope->base == 10000 && rope->factor == 0, "the paper's have plain ones");
}

// Joined tensors lie side by side in the order of the fused products, and each is what its name says.
static void test_joined_tensors(void) {
    Model* model = read_config(config_text("num_key_value_heads", "2", "head_dim", "6"), "");
    // Attention's work goes with what its heads have, not with the width: 4 heads of 6, 2 layers.
    CHECK(model->flops[1].amount == 6.0 * model->T * 4 * 6 * 2, "%g FLOPs of attention", model->flops[1].amount);
    const TensorTable* t = &model->tensors;
    const struct {
        const char* name;
        size_t rows, columns, after;  // after: numbers of the group before it
    } tensors[] = {{"self_attn.q_proj", 24, 32, 0},       {"self_attn.k_proj", 12, 32, 24 * 32},
                   {"self_attn.v_proj", 12, 32, 36 * 32}, {"self_attn.o_proj", 32, 24, 0},
                   {"mlp.gate_proj", 64, 32, 0},          {"mlp.up_proj", 64, 32, 64 * 32},
                   {"mlp.down_proj", 32, 64, 0}};
    size_t first = 0;
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        char* name = format_string("model.layers.1.%s.weight", tensors[i].name);
        int k = tensor_find(t, name);
        if (k < 0) { die("no tensor %s", name); }
        if (tensors[i].after == 0) { first = t->list[k].offset; }
        CHECK(t->list[k].shape[0] == tensors[i].rows && t->list[k].shape[1] == tensors[i].columns &&
                  t->list[k].offset == first + tensors[i].after && t->list[k].joined == (tensors[i].after > 0),
              "%s is (%zu,%zu) at %zu, expected (%zu,%zu) at %zu", name, t->list[k].shape[0], t->list[k].shape[1],
              t->list[k].offset, tensors[i].rows, tensors[i].columns, first + tensors[i].after);
        free(name);
    }
}

// Copies rows of one model's tensor to another's, of the same name.
static void copy_rows(Model* to, int to_row, const Model* from, int from_row, int rows, const char* name) {
    const Tensor* t = &to->tensors.list[tensor_find(&to->tensors, name)];
    const Tensor* f = &from->tensors.list[tensor_find(&from->tensors, name)];
    size_t C = t->shape[1];
    memcpy(to->params + t->offset + (size_t)to_row * C, from->params + f->offset + (size_t)from_row * C,
           (size_t)rows * C * sizeof(real));
}

// Grouped heads are heads whose keys and values are the same: head h reads those of h / (NH/NKV).
static void test_groups_share_heads(void) {
    enum { B = 2, T = 9, NH = 6, NKV = 2, HS = 4, C = 32, V = 50 };
    int inputs[B * T], targets[B * T];
    real logits[2][B * T * V];
    char* grouped = config_text("num_attention_heads", "6", "num_key_value_heads", "2, \"head_dim\": 4");
    char* whole = config_text("num_attention_heads", "6", "num_key_value_heads", "6, \"head_dim\": 4");
    Model* m[2];
    for (int i = 0; i < 2; i++) {
        char* text = i ? whole : grouped;
        m[i] = make_model("--ponder 1", NULL, json_parse(text, strlen(text), "config.json"), "config.json", B, T);
        m[i]->allocate(m[i], 1);
        tensor_init(&m[i]->tensors, m[i]->params, 4);
    }
    jitter(m[0], 0.2);
    for (int k = 0; k < m[0]->tensors.count; k++) {
        const char* name = m[0]->tensors.list[k].name;
        int repeated = strstr(name, "k_proj") || strstr(name, "v_proj");
        for (int h = 0; repeated && h < NH; h++) { copy_rows(m[1], h * HS, m[0], h / (NH / NKV) * HS, HS, name); }
        if (!repeated) { copy_rows(m[1], 0, m[0], 0, (int)m[0]->tensors.list[k].shape[0], name); }
    }
    random_tokens(inputs, targets, B * T, V);
    for (int i = 0; i < 2; i++) {
        m[i]->logits(m[i], inputs, B, T, 0, logits[i]);
        m[i]->train(m[i], inputs, targets, B, T, 1);
    }
    CHECK(memcmp(logits[0], logits[1], sizeof logits[0]) == 0, "other logits with keys and values repeated");
    const char* const names[] = {"model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight"};
    for (int k = 0; k < 2; k++) {
        const Tensor* g = &m[0]->tensors.list[tensor_find(&m[0]->tensors, names[k])];
        const Tensor* w = &m[1]->tensors.list[tensor_find(&m[1]->tensors, names[k])];
        const real* dw = m[1]->grads + w->offset;
        real want[NKV * HS * C] = {0};
        for (int row = 0; row < NH * HS; row++) {  // number row % HS of head row / HS
            int shared = row / HS / (NH / NKV) * HS + row % HS;
            for (int i = 0; i < C; i++) { want[shared * C + i] += dw[row * C + i]; }
        }
        // Measured: 4e-7 in float, sums in another order; in double 8e-16.
        compare_reals(names[k], m[0]->grads + g->offset, want, NKV * HS * C, is_double() ? 1e-14 : 2e-6);
    }
    free(grouped), free(whole);
}

// Fewer heads of keys and values than heads, heads of another size than C/NH, Llama 3's frequencies.
static void test_grouped_differences(void) {
    if (!is_double()) {
        test_skip("runs in the double build");
        return;
    }
    set_threads(1);
    check_whole_differences("--layers 1 --width 16 --heads 4 --kv-heads 2 --vocab 13 --tie 0", NULL, 1, 0);
    check_whole_differences("--layers 2 --width 24 --heads 3 --kv-heads 1 --ff 20 --vocab 11 --tie 1", NULL, 2, 0);
    const char* heads =
        "{\"hidden_size\": 12, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 6, "
        "\"intermediate_size\": 20, \"vocab_size\": 11, \"num_hidden_layers\": 2}";
    check_whole_differences("", heads, 2, 0);
    const char* scaled =
        "{\"hidden_size\": 20, \"num_attention_heads\": 2, \"head_dim\": 16, \"intermediate_size\": 20, "
        "\"vocab_size\": 11, \"num_hidden_layers\": 1, \"tie_word_embeddings\": true, \"rope_scaling\": "
        "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
        "\"original_max_position_embeddings\": 32}}";
    check_whole_differences("", scaled, 1, 0);
    set_threads(0);
}

// ------------------------------------------------------------------------------------------------
// Configuration files

// Frequencies as Llama 3 has them. The factor may bring further keys after a comma.
#define LLAMA3(factor)                                                                                      \
    "{\"rope_type\": \"llama3\", \"factor\": " factor ", \"low_freq_factor\": 1, \"high_freq_factor\": 4, " \
    "\"original_max_position_embeddings\": 16}"

static void test_bad_configurations(void) {
    const BadConfig bad[] = {
        {"model_type", "\"gpt_neox\"", NULL, NULL, "model_type|gpt_neox|ponder_llama"},
        {"model_type", "\"mistral\"", NULL, NULL, "model_type|mistral"},
        {"hidden_size", "33", NULL, NULL, "width 33|multiple|heads 4"},
        {"hidden_size", "99999999999", NULL, NULL, "hidden_size|99999999999"},
        {"hidden_size", "36", NULL, NULL, "heads of 9 numbers|even"},
        {"head_dim", "7", NULL, NULL, "heads of 7 numbers|even"},
        {"head_dim", "0", NULL, NULL, "head_dim is 0"},
        {"head_dim", "8.5", NULL, NULL, "head_dim|8.5"},
        {"num_key_value_heads", "3", NULL, NULL, "heads 4|keys and values 3"},
        {"num_key_value_heads", "8", NULL, NULL, "heads 4|keys and values 8"},
        {"num_key_value_heads", "0", NULL, NULL, "num_key_value_heads is 0"},
        {"num_hidden_layers", "1000000000", NULL, NULL, "num_hidden_layers|1000000000"},
        {"vocab_size", "0", NULL, NULL, "vocab_size"},
        {"intermediate_size", "-1", NULL, NULL, "intermediate_size|-1"},
        {"hidden_act", "\"gelu\"", NULL, NULL, "hidden_act|gelu|silu"},
        {"attention_bias", "true", NULL, NULL, "attention_bias is true"},
        {"mlp_bias", "true", NULL, NULL, "mlp_bias is true"},
        {"sliding_window", "4096", NULL, NULL, "sliding_window is 4096"},
        {"sliding_window", "4096", "use_sliding_window", "true", "sliding_window is 4096"},
        {"quantization_config", "{\"quant_method\": \"gptq\", \"bits\": 4}", NULL, NULL, "quantization_config|gptq"},
        {"partial_rotary_factor", "0.5", NULL, NULL, "partial_rotary_factor is 0.5"},
        {"rope_parameters", "{\"partial_rotary_factor\": 0.5}", NULL, NULL, "partial_rotary_factor is 0.5"},
        {"rope_scaling", "{\"type\": \"linear\", \"factor\": 2}", NULL, NULL, "rope_scaling|linear"},
        {"rope_scaling", "{\"rope_type\": \"dynamic\", \"factor\": 2}", NULL, NULL, "rope_scaling|dynamic"},
        {"rope_scaling", "{\"factor\": 2}", NULL, NULL, "a factor but no rope_type"},
        {"rope_scaling", "{\"low_freq_factor\": 1, \"high_freq_factor\": 4, \"original_max_position_embeddings\": 16}",
         NULL, NULL, "a low_freq_factor but no rope_type"},
        {"rope_scaling", "7", NULL, NULL, "rope_scaling|object"},
        {"rope_parameters", LLAMA3("8.0"), "rope_scaling",
         "{\"factor\": 8.0, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
         "\"original_max_position_embeddings\": 16}",
         "rope_parameters has rope_type but rope_scaling has not"},
        // Version 5 would leave the base of rope_parameters out, 4.49 all of it.
        {"rope_parameters", LLAMA3("8.0, \"rope_theta\": 500"), "rope_scaling", LLAMA3("8"),
         "rope_parameters has rope_theta but rope_scaling has not"},
        {"rope_parameters", "{\"full_attention\": {\"rope_type\": \"yarn\", \"factor\": 4}}", NULL, NULL,
         "rope_parameters.full_attention is an object"},
        {"use_sliding_window", "true", NULL, NULL, "use_sliding_window is true"},
        {"add_cross_attention", "true", NULL, NULL, "add_cross_attention is true"},
        {"is_encoder_decoder", "true", NULL, NULL, "is_encoder_decoder is true"},
        {"rope_parameters", "{\"rope_type\": \"yarn\"}", NULL, NULL, "rope_parameters|yarn"},
        {"rope_parameters", "{\"rope_type\": \"default\"}", "rope_scaling", LLAMA3("2"),
         "rope_parameters asks for \"default\"|rope_scaling for \"llama3\""},
        {"rope_scaling", LLAMA3("2, \"type\": \"default\""), NULL, NULL, "\"llama3\"|\"default\""},
        {"rope_theta", "10000.1234", "rope_parameters", "{\"rope_theta\": 10000.12341}",
         "config.json: rope_parameters.rope_theta is 10000.12341 but rope_theta is 10000.1234:"},
        {"rope_scaling", LLAMA3("2"), "rope_parameters", LLAMA3("4"),
         "rope_parameters.factor is 4 but rope_scaling.factor is 2:"},
        {"rope_scaling",
         "{\"rope_type\": \"llama3\", \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
         "\"original_max_position_embeddings\": 16}",
         NULL, NULL, "llama3|need factor"},
        {"rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4}",
         NULL, NULL, "llama3|need original_max_position_embeddings"},
        {"rope_scaling", LLAMA3("0.5"), NULL, NULL, "factor is 0.5"},
        {"rope_scaling",
         "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4, "
         "\"original_max_position_embeddings\": 16}",
         NULL, NULL, "low_freq_factor is 4|high_freq_factor 4"},
        {"rope_scaling",
         "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
         "\"original_max_position_embeddings\": 0}",
         NULL, NULL, "original_max_position_embeddings is 0"},
        {"rope_scaling",
         "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 0, \"high_freq_factor\": 4, "
         "\"original_max_position_embeddings\": 16}",
         NULL, NULL, "low_freq_factor is 0"},
        {"rope_scaling",
         "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 1e12, "
         "\"original_max_position_embeddings\": 16}",
         NULL, NULL, "high_freq_factor 1e+12"},
        {"rope_scaling", LLAMA3("1e12"), NULL, NULL, "factor 1e+12, expected"},
        {"rope_scaling", LLAMA3("\"8\""), NULL, NULL, "factor|a number"},
        {"rope_theta", "0", NULL, NULL, "rotary base"},
        {"rope_theta", "1", NULL, NULL, "the rotary base is 1, expected more than 1"},
        {"rms_norm_eps", "0", NULL, NULL, "rms_norm_eps"},
        {"rms_norm_eps", "\"small\"", NULL, NULL, "rms_norm_eps"},
        {"tie_word_embeddings", "3", NULL, NULL, "tie_word_embeddings"},
        {NULL},
    };
    check_bad_configurations(bad);
    // Heads whose size is said need not divide the width, but one is told.
    for (int odd = 0; odd <= 1; odd++) {
        char *output = NULL, *text = config_text("hidden_size", odd ? "33" : "32", "head_dim", "12");
        const int code = run_child(read_config_child, text, &output);
        CHECK(code == 0 &&
                  (strstr(output, "warning: config.json: width 33 is not a multiple of heads 4") != NULL) == odd,
              "%s: exit code %d, it said: %s", text, code, output);
        free(text), free(output);
    }
    const char* const dropouts[] = {"attention_dropout", NULL};
    check_dropouts(dropouts);
}

static void test_rotary_spellings(void) {
    const struct {
        const char *key, *value, *key2, *value2;
        double base, factor, positions;
    } good[] = {
        {NULL, NULL, NULL, NULL, 10000, 0, 0},
        {"rope_theta", "500", NULL, NULL, 500, 0, 0},
        {"rope_theta", "500.0", "rope_scaling", "null", 500, 0, 0},
        {"rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 500}", NULL, NULL, 500, 0, 0},
        {"rope_parameters", "{\"rope_theta\": 500, \"partial_rotary_factor\": 1.0}", "rope_theta", "5e2", 500, 0, 0},
        {"rope_parameters", "null", "rope_scaling", "null", 10000, 0, 0},
        {"rope_scaling", "{\"type\": \"default\"}", NULL, NULL, 10000, 0, 0},
        {"rope_scaling", LLAMA3("8.0"), "rope_theta", "500", 500, 8, 16},
        {"rope_scaling",
         "{\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
         "\"original_max_position_embeddings\": 16}",
         "rope_theta", "500", 500, 8, 16},
        {"rope_parameters", LLAMA3("8.0, \"rope_theta\": 500"), NULL, NULL, 500, 8, 16},
        {"rope_parameters", LLAMA3("8.0, \"rope_theta\": 500"), "rope_scaling",
         LLAMA3("8, \"type\": \"llama3\", \"rope_theta\": 500.0"), 500, 8, 16},
        // What only one of both has, but the configuration itself too, is in both versions' places.
        {"rope_parameters", LLAMA3("8.0, \"rope_theta\": 500"), "rope_scaling", LLAMA3("8") ", \"rope_theta\": 500",
         500, 8, 16},
        {"rope_scaling",
         "{\"rope_type\": \"llama3\", \"factor\": 1, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
         "\"original_max_position_embeddings\": 1}",
         NULL, NULL, 10000, 1, 1},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        Model* model = read_config(config_text(good[i].key, good[i].value, good[i].key2, good[i].value2), "");
        const LlamaRope* rope = &llama_of(model)->rope;
        CHECK(rope->base == good[i].base && rope->factor == good[i].factor && rope->positions == good[i].positions,
              "%zu: base %g, factor %g, positions %g", i, rope->base, rope->factor, rope->positions);
        // As both versions of transformers read it, and as it is read here again.
        const Json* json = written_config(model);
        const Json* scaling = json_get(json, "rope_scaling");
        CHECK(json_get_number(json, "rope_theta", 0, "") == good[i].base && !json_get(json, "rope_parameters") &&
                  scaling && (scaling->type == JSON_NULL) == (good[i].factor == 0),
              "%zu: written as %s", i, model->config_json(model));
        CHECK(good[i].factor == 0 || (json_is(json_get(scaling, "rope_type"), "llama3") && scaling->count == 5),
              "%zu: written as %s", i, model->config_json(model));
        char* written = model->config_json(model);
        const LlamaRope* again = &llama_of(read_config(written, ""))->rope;
        CHECK(memcmp(rope, again, sizeof *rope) == 0, "%zu: read again as another: %s", i, written);
        CHECK(model->owns_key(model, "rope_parameters"), "another spelling must not be carried on beside ours");
    }
}

// Keys that may be null or absent, and values with another name; what is written for them.
static void test_optional_keys(void) {
    const struct {
        const char *key, *value, *key2, *value2;
        int NKV, HS;
    } good[] = {
        {NULL, NULL, NULL, NULL, 4, 8},
        {"num_key_value_heads", "null", "head_dim", "null", 4, 8},
        {"num_key_value_heads", "1", NULL, NULL, 1, 8},
        {"num_key_value_heads", "2", "head_dim", "12", 2, 12},
        {"hidden_size", "33", "head_dim", "12", 4, 12},
        {"hidden_act", "\"swish\"", "pretraining_tp", "2", 4, 8},
        {"sliding_window", "null", "quantization_config", "null", 4, 8},
        {"sliding_window", "4096", "use_sliding_window", "false", 4, 8},
        {"attention_bias", "false", "mlp_bias", "null", 4, 8},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        Model* model = read_config(config_text(good[i].key, good[i].value, good[i].key2, good[i].value2), "");
        const Sizes* size = &llama_of(model)->pass.size;
        CHECK(size->NKV == good[i].NKV && size->HS == good[i].HS, "%zu: %d heads of keys, of %d", i, size->NKV,
              size->HS);
        const Json* json = written_config(model);
        CHECK(json_get_int(json, "num_key_value_heads", 0, "") == good[i].NKV &&
                  json_get_int(json, "head_dim", 0, "") == good[i].HS && json_is(json_get(json, "hidden_act"), "silu"),
              "%zu: written as %s", i, model->config_json(model));
    }
    // The class's defaults, where a config.json says nothing: Llama-2-7B.
    Model* model = make_model("", NULL, json_parse("{}", 2, "config.json"), "config.json", 1, 8);
    const Sizes* size = &llama_of(model)->pass.size;
    CHECK(size->L == 32 && size->C == 4096 && size->NH == 32 && size->NKV == 32 && size->HS == 128 &&
              size->FF == 11008 && size->V == 32000 && size->P == 2048 && size->eps == 1e-6 && !size->tie,
          "an empty config.json is not LlamaConfig()");
}

static void test_sizes_beside_a_config(void) {
    const SizesBeside sizes[] = {
        {"--heads 2", "num_attention_heads", "2", NULL, NULL},
        {"--kv-heads 2", "num_key_value_heads", "2", NULL, NULL},
        {"--heads 8 --kv-heads 2", "num_key_value_heads", "2", "num_attention_heads", "8"},
        {"--ff 40", "intermediate_size", "40", NULL, NULL},
        {"--width 64", "hidden_size", "64", "intermediate_size", "192"},  // an MLP of 8/3 x width goes with it
        {"--width 64 --ff 40", "hidden_size", "64", "intermediate_size", "40"},
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
    const KeptNumber numbers[] = {{"rms_norm_eps", 1.2345678901234567e-5},
                                  {"rope_theta", 10000.123456789012},
                                  {"softmax_temperature", 0.70000000000000018},
                                  {NULL}};
    char* text = config_text("rms_norm_eps", "1.2345678901234567e-5, \"rope_theta\": 10000.123456789012", "ponderinglm",
                             "true, \"pondering_steps\": 2, \"softmax_temperature\": 0.70000000000000018");
    check_numbers_are_kept(text, numbers);
    Model* model = read_config(
        config_text(
            "rope_scaling",
            "{\"rope_type\": \"llama3\", \"factor\": 8.1000000000000014, \"low_freq_factor\": 1.1000000000000003, "
            "\"high_freq_factor\": 4.0999999999999996, \"original_max_position_embeddings\": 8192}",
            NULL, NULL),
        "");
    const Json* scaling = json_get(written_config(model), "rope_scaling");
    CHECK(json_get_number(scaling, "factor", 0, "") == 8.1000000000000014 &&
              json_get_number(scaling, "low_freq_factor", 0, "") == 1.1000000000000003 &&
              json_get_number(scaling, "high_freq_factor", 0, "") == 4.0999999999999996 &&
              json_get_int(scaling, "original_max_position_embeddings", 0, "") == 8192,
          "written as %s", model->config_json(model));
}

static void test_norm_eps(void) { check_norm_eps("rms_norm_eps"); }

static void test_ignored_tensors(void) {
    const char* const ignored[] = {"model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq",
                                   "adapter.weight",  // the reference's
                                   NULL};
    const char* const others[] = {"lm_head.weight", "model.layers.0.self_attn.q_proj.bias", "model.adapter", NULL};
    check_ignored_tensors(ignored, others, "lm_head.weight");
}

static void test_decode_grouped(void) {
    check_decode("--ponder 1 --kv-heads 2");
    check_decode("--ponder 1 --kv-heads 1 --width 64");
}

// A config.json that lost its number of heads of keys and values: the error of their shape names the key.
static void test_lost_groups(void) {
    program_setup();
    train("", "groups", "--heads 4 --kv-heads 2 --steps 1");
    for (int absent = 0; absent <= 1; absent++) {
        shell(NULL, "sed -i -E '%s' %s/groups/step_00000001/config.json",
              absent ? "/num_key_value_heads/d" : "s/(num_key_value_heads\": )2/\\1null/", program_folder);
        char* command = format_string(TRAIN " --model %s/groups/step_00000001 --val %s/val.bin --eval-only",
                                      program_folder, program_folder);
        expect_exit(
            1,
            "layers.0.self_attn.k_proj.weight has shape (16,32), the model needs (32,32): num_key_value_heads 4 x "
            "head_dim 8|absent or null",
            command);
        free(command);
    }
}

int MAIN(int argc, char** argv);
int MAIN(int argc, char** argv) {
    test_begin(argc, argv);
    RUN(test_bad_configurations);  // forks: before the first parallel region
    RUN(test_rotary_spellings);
    RUN(test_optional_keys);
    RUN(test_sizes_beside_a_config);
    RUN(test_positions_are_kept);
    RUN(test_numbers_are_kept);
    RUN(test_ignored_tensors);
    RUN(test_rmsnorm);
    RUN(test_norm_eps);
    RUN(test_swiglu);
    RUN(test_rotary);
    RUN(test_rotary_layouts);
    RUN(test_rotary_scaled);
    RUN(test_initialisation);
    RUN(test_presets);
    RUN(test_joined_tensors);
    RUN(test_groups_share_heads);
    RUN(test_decode_grouped);
    RUN(test_grouped_differences);
    architecture_tests();
    if (!is_double()) {
        RUN(test_kept_bf16);
        RUN(test_lost_groups);
        generate_tests();
        program_tests();
    }
    return test_end();
}

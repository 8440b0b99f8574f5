// test_architecture.h - what every architecture's CPU tests share: finite differences of the whole loss (double build),
// numbers of the reference implementation and of our PyTorch twin (float build), invariants of the model.
//
// Included by test_X.c after its trainer, with what is its own: TEST_ARCHITECTURE, TEST_KEY_BIAS; good_config, the keys of
// a config.json that is in order (two layers of width 32, 4 heads, an MLP of 64, 50 tokens); test_embeddings and
// test_projections, parts of the names of the tensors that read tokens and positions and of those that write into the
// residual stream. Lists of names end with NULL.
//
// PONDER_SHARED names a folder whose fixtures/ hold the reference implementation's numbers; where it is absent those
// tests say so, and the ones in dev/fixtures, made by our own twin, still run.
#ifndef PONDER_TEST_ARCHITECTURE_H
#define PONDER_TEST_ARCHITECTURE_H

#include "test_model.h"

static int is_double(void) { return sizeof(real) == 8; }

static void random_reals(real* x, size_t n, uint64_t stream) {
    for (size_t i = 0; i < n; i++) { x[i] = (real)random_normal(21, stream, i); }
}

// What a layer's output y is summed to, so that dy is the gradient by it.
static double weighted_sum(const real* y, const real* dy, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += (double)(y[i] * dy[i]); }
    return sum;
}

// ------------------------------------------------------------------------------------------------
// Finite differences (double): f is summed against fixed weights; five points, up to two steps away. The formula is
// off by step^4 f'''''/30: 1e-3 gave 4e-8 of a tensor's largest, 2e-4 gives 1e-9.
#define DIFFERENCE_STEP 2e-4

typedef double (*Scalar)(void* context);

static void check_gradient(const char* what, Scalar f, void* context, real* x, size_t n, const real* gradient,
                           size_t stride, double scale_floor) {
    size_t count = (n + stride - 1) / stride;
    double *want = (double*)xalloc(2 * count + 2, sizeof(double), "differences"), *got = want + count + 1;
    for (size_t k = 0; k < count; k++) {
        size_t i = k * stride;
        real old = x[i];
        double step = DIFFERENCE_STEP, value[4];
        const int at[4] = {-2, -1, 1, 2};
        for (int q = 0; q < 4; q++) {
            x[i] = old + (real)(at[q] * step);
            value[q] = f(context);
        }
        x[i] = old;
        want[k] = (value[0] - 8 * value[1] + 8 * value[2] - value[3]) / (12 * step);
        got[k] = (double)gradient[i];
    }
    // A gradient that is truly zero (key biases) is measured against its layer's largest.
    want[count] = got[count] = scale_floor;
    // Measured over 40 seeds: at most 1.2e-9 (the whole loss), a layer alone 1e-10; the step's own error, mostly.
    compare_doubles(what, got, want, count + 1, 1e-8);
    free(want);
}

typedef struct {
    Model* model;
    int *inputs, *targets;
    int B, T;
} Whole;

static double whole_loss(void* context) {
    Whole* w = (Whole*)context;
    double sums[8] = {0};
    model_evaluate(w->model, w->inputs, w->targets, w->B, w->T, sums);
    return sums[w->model->passes - 1];
}

// Two steps of one weight move no logit of the model with top-k below by more than 0.003, and so no two of them
// towards each other by more than 0.006 (measured, every weight, 40 seeds).
#define TOP_K_GAP 0.01

// The least distance, over positions and mixing passes, of the k-th largest logit from the next. Pass s is the last
// one of a model with s steps and the same weights.
static double top_k_gap(const Model* model, const char* arguments, int steps, int k, const int* inputs, int B, int T) {
    double least = INFINITY;
    int V = model->V;
    real* logits = (real*)xalloc((size_t)(B * T * V), sizeof(real), "logits");
    for (int s = 0; s < steps; s++) {
        char* shorter = format_string("%s --ponder %d --scale-embeds 1", arguments, s);
        Model* m = make_model(shorter, TEST_PRESET, NULL, NULL, B, T);
        m->allocate(m, 0);
        memcpy(m->params, model->params, model->tensors.total * sizeof(real));
        m->logits(m, inputs, B, T, 0, logits);
        for (int n = 0; n < B * T; n++) {
            real *z = logits + n * V, kth = 0, next = (real)-INFINITY;
            for (int v = 0; v < V; v++) {
                int before = 0;
                for (int j = 0; j < V; j++) { before += z[j] > z[v] || (z[j] == z[v] && j < v); }
                if (before == k - 1) { kth = z[v]; }
                if (before == k) { next = z[v]; }
            }
            if ((double)(kth - next) < least) { least = (double)(kth - next); }
        }
        free(shorter);
    }
    free(logits);
    return least;
}

// The whole S+1-pass loss of a micro model, every tensor. config: the text of a config.json, or NULL. top_k: as the
// arguments have it. PONDER_TEST_SEED=n begins with other weights, and takes other tokens.
static void check_whole_differences(const char* arguments, const char* config, int steps, int top_k) {
    enum { B = 2, T = 6 };
    int inputs[B * T], targets[B * T];
    char* all = format_string("%s --ponder %d", arguments, steps);
    const Json* json = config ? json_parse(config, strlen(config), "config.json") : NULL;
    Model* model = make_model(all, config ? NULL : TEST_PRESET, json, "config.json", B, T);
    model->allocate(model, 1);
    random_tokens(inputs, targets, B * T, model->V);
    targets[5] = -1;
    // The loss jumps where a token enters or leaves the top k. So of the seeds from the first on, one is taken
    // whose weights keep every choice away from that by more than a step of the differences moves it.
    uint64_t seed = test_seed(3);
    for (double gap = 0; gap < TOP_K_GAP; seed++) {
        tensor_init(&model->tensors, model->params, seed);
        jitter(model, 0.2);
        gap = top_k ? top_k_gap(model, arguments, steps, top_k, inputs, B, T) : INFINITY;
    }
    Whole whole = {model, inputs, targets, B, T};
    model->train(model, inputs, targets, B, T, 1);
    for (int k = 0; k < model->tensors.count; k++) {
        const Tensor* t = &model->tensors.list[k];
        char* what = format_string("%s%s: %s", all, config ? " with a config.json" : "", t->name);
        check_gradient(what, whole_loss, &whole, model->params + t->offset, t->size, model->grads + t->offset,
                       t->size / 23 + 1, 0);
        free(what);
    }
    free(all);
}

static void test_whole_differences(void) {
    if (!is_double()) {
        test_skip("runs in the double build");
        return;
    }
    set_threads(1);  // micro models: a second thread only waits
    check_whole_differences("--layers 2 --width 16 --heads 2 --vocab 13 --tie 0", NULL, 0, 0);
    check_whole_differences("--layers 2 --width 16 --heads 2 --vocab 13 --tie 0", NULL, 2, 0);
    check_whole_differences("--layers 1 --width 24 --heads 3 --ff 20 --vocab 11 --tie 1 --multiply-steps 1", NULL, 3,
                            0);
    check_whole_differences(
        "--layers 1 --width 16 --heads 1 --vocab 13 --tie 0 --ponder-temperature 0.6 --ponder-top-k 5", NULL, 1, 5);
    set_threads(0);
}

// ------------------------------------------------------------------------------------------------
// Fixtures

static void test_own_fixtures(void) {
    if (is_double()) {
        test_skip("runs in the float build");
        return;
    }
    set_threads(1);
    int count = check_fixtures("dev/fixtures", TEST_NAME "-", "", NULL, fixture_fp32);
    set_threads(0);
    CHECK(count >= 4, "%d fixtures in dev/fixtures, expected at least 4", count);
}

static void test_reference_fixtures(void) {
    if (is_double()) {
        test_skip("runs in the float build");
        return;
    }
    char* folder = fixtures_shared();
    set_threads(1);
    int count = check_fixtures(folder, TEST_NAME "-", "", NULL, fixture_fp32);
    set_threads(0);
    if (count == 0) {
        test_skip("no fixtures of the reference implementation (set PONDER_SHARED)");
        return;
    }
    CHECK(count >= 5, "%d fixtures in %s, expected at least 5", count, folder);
}

// ------------------------------------------------------------------------------------------------
// Invariants of the model

static Model* small_model(const char* more, int B, int T) {
    char* arguments = format_string("--layers 2 --width 32 --heads 4 --ff 48 --vocab 61 %s", more);
    Model* model = make_model(arguments, TEST_PRESET, NULL, NULL, B, T);
    model->allocate(model, 1);
    tensor_init(&model->tensors, model->params, 9);
    jitter(model, 0.2);
    return model;
}

// Changing a token must change no logit before it, bit for bit, in any pass.
static void test_causal(void) {
    enum { B = 2, T = 37 };
    Model* model = small_model("--ponder 2", B, T);
    int inputs[B * T], targets[B * T];
    random_tokens(inputs, targets, B * T, model->V);
    size_t V = (size_t)model->V;
    real *before = (real*)xalloc(2 * B * T * V, sizeof(real), "logits"), *after = before + B * T * V;
    model->logits(model, inputs, B, T, 0, before);
    for (int t = 1; t < T; t += 5) {
        int old = inputs[t];
        inputs[t] = (old + 1) % model->V;
        model->logits(model, inputs, B, T, 0, after);
        inputs[t] = old;
        CHECK(memcmp(before, after, (size_t)t * V * sizeof(real)) == 0, "token %d reaches an earlier position", t);
        CHECK(memcmp(before + (size_t)t * V, after + (size_t)t * V, V * sizeof(real)) != 0,
              "token %d does not reach its own position", t);
        CHECK(memcmp(before + T * V, after + T * V, T * V * sizeof(real)) == 0, "row 0 reaches row 1");
    }
    free(before);
}

// A shorter row gives the same logits, to the bit: nothing depends on the room that was allocated, and each sum has an
// order of its own.
static void test_shorter_rows(void) {
    Model* model = small_model("--ponder 1", 3, 40);
    int inputs[40], targets[40];
    random_tokens(inputs, targets, 40, model->V);
    size_t V = (size_t)model->V;
    real *all = (real*)xalloc(40 * V + V, sizeof(real), "logits"), *one = all + 40 * V;
    model->logits(model, inputs, 1, 40, 0, all);
    for (int t = 1; t <= 40; t += 13) {
        model->logits(model, inputs, 1, t, 1, one);
        CHECK(memcmp(one, all + ((size_t)t - 1) * V, V * sizeof(real)) == 0, "%d positions: other last logits", t);
    }
    free(all);
}

// The last positions' logits are the last rows of all logits, for fewer rows and positions than there is room for;
// to the bit, since a product's row does not depend on the others.
static void test_last_logits(void) {
    enum { B = 3, T = 11 };
    Model* model = small_model("--ponder 1", 4, 40);
    int inputs[B * T], targets[B * T];
    random_tokens(inputs, targets, B * T, model->V);
    size_t V = (size_t)model->V;
    real *all = (real*)xalloc(B * T * V + B * V, sizeof(real), "logits"), *last = all + B * T * V;
    model->logits(model, inputs, B, T, 0, all);
    model->logits(model, inputs, B, T, 1, last);
    for (size_t b = 0; b < B; b++) {
        CHECK(memcmp(last + b * V, all + (b * T + T - 1) * V, V * sizeof(real)) == 0, "row %zu: other logits", b);
    }
    free(all);
}

// Texts that grow token by token, in pieces of any length, alone and beside others: the same logits as those of the whole
// text, to the bit. Longer than two tiles of keys, and than two blocks of queries.
static void check_decode(const char* options) {
    enum { B = 3, T = 217 };
    static const int pieces[] = {1, 40, 1, 1, 55, 3, 64, 33, 19};  // of text 0, T in all
    Model* model = small_model(options, B, T);
    size_t V = (size_t)model->V;
    int inputs[B * T], targets[B * T], row = 2, first = 0;
    random_tokens(inputs, targets, B * T, model->V);
    real* all = (real*)xalloc(B * T * V + B * V, sizeof(real), "logits");
    real* some = all + B * T * V;
    model->logits(model, inputs, B, T, 0, all);
    model->cache_begin(model, B, T);
    for (int i = 0; first < T; first += pieces[i++]) {
        model->decode(model, inputs + first, 1, pieces[i], &row, &first, some);
        CHECK(memcmp(some, all + (size_t)(first + pieces[i] - 1) * V, V * sizeof(real)) == 0,
              "%s: other logits after %d tokens and %d more", options, first, pieces[i]);
    }
    // Two others beside it, of different lengths, in other places than their numbers; what is there is written over.
    int rows[2] = {2, 0}, at[2] = {90, 12}, next[2];
    for (int b = 0; b < 2; b++) {
        int start = 0;
        model->decode(model, inputs + (b + 1) * T, 1, at[b], &rows[b], &start, NULL);
    }
    for (int t = 0; t < 20; t++) {
        for (int b = 0; b < 2; b++) { next[b] = inputs[(b + 1) * T + at[b]]; }
        model->decode(model, next, 2, 1, rows, at, some);
        for (int b = 0; b < 2; b++, at[b - 1]++) {
            CHECK(memcmp(some + (size_t)b * V, all + ((size_t)(b + 1) * T + (size_t)at[b]) * V, V * sizeof(real)) == 0,
                  "%s: text %d beside another: other logits after %d tokens", options, b + 1, at[b]);
        }
    }
    model->cache_end(model);
    memcpy(some, all + (size_t)(T - 1) * V, V * sizeof(real));
    model->logits(model, inputs, B, T, 0, all);  // as ever
    CHECK(memcmp(some, all + (size_t)(T - 1) * V, V * sizeof(real)) == 0, "%s: other logits after a cache was there",
          options);
    free(all);
}

static void test_decode(void) {
    check_decode("--ponder 0");
    check_decode("--ponder 1 --multiply-steps 1 --heads 1");
    check_decode("--ponder 2 --ponder-top-k 5");
    check_decode("--ponder 3 --ponder-temperature 0.7 --heads 2 --width 36");
}

// Weights rounded to bf16 for inference: the same logits as with floats of their values, to the bit, token by token and
// in pieces; vectors are not rounded. All of what was told of the rounding is true.
static void test_round_weights(void) {
    enum { B = 1, T = 61 };
    Model *model = small_model("--ponder 2 --width 40", B, T), *floats = small_model("--ponder 2 --width 40", B, T);
    size_t V = (size_t)model->V;
    int inputs[T], targets[T], row = 0;
    random_tokens(inputs, targets, T, model->V);
    real *all = (real*)xalloc(T * V + V, sizeof(real), "logits"), *some = all + T * V;
    double numbers = 0, squares = 0, largest = 0;
    for (int i = 0; i < floats->tensors.count; i++) {
        const Tensor* t = &floats->tensors.list[i];
        for (size_t j = 0; j < t->size && t->ndim == 2; j++) {
            real* x = floats->params + t->offset + j;
            double before = (double)*x, after = (double)round_bf16((float)*x);
            double error = before != 0 ? fabs(after / before - 1) : 0;
            *x = (real)after;
            largest = fmax(largest, error), squares += error * error, numbers++;
        }
    }
    floats->logits(floats, inputs, B, T, 0, all);
    TensorRounding r = tensors_round(&model->tensors, &model->params);
    CHECK(model->params == NULL, "there still is a family");
    CHECK(fabs(r.largest - largest) < 1e-6 && fabs(r.rms - sqrt(squares / numbers)) < 1e-6 && largest > 1e-3,
          "rounded by %g, at most %g; expected %g, %g", r.rms, r.largest, sqrt(squares / numbers), largest);
    model->cache_begin(model, 1, T);
    for (int first = 0; first < T; first += first < 20 ? 20 : 1) {
        int n = first < 20 ? 20 : 1;
        model->decode(model, inputs + first, 1, n, &row, &first, some);
        CHECK(memcmp(some, all + (size_t)(first + n - 1) * V, V * sizeof(real)) == 0, "other logits after %d tokens",
              first + n);
    }
    model->cache_end(model);
    free(all);
}

// A vocabulary of more than 65,536 tokens, which needs shards of 32 bits: ids at its end are read, embedded, predicted
// and learnt.
static void test_large_vocabulary(void) {
    enum { V = 70000, T = 4, COUNT = 2 * T + 1 };
    char* folder = test_directory("vocabulary");
    char* path = format_string("%s/tokens.bin", folder);
    int32_t words[256 + COUNT] = {20240801, 7, COUNT};
    for (int i = 0; i < COUNT; i++) { words[256 + i] = V - 1 - 300 * (i % 3); }
    write_bytes(path, words, sizeof words);
    Shards* shards = shards_open(path, T, V);
    Model* model = make_model("--layers 1 --width 8 --heads 1 --ff 12 --vocab 70000 --ponder 1 --init stock",
                              TEST_PRESET, NULL, NULL, 2, T);
    model->allocate(model, 1);
    tensor_init(&model->tensors, model->params, 3);
    int inputs[2 * T], targets[2 * T];
    double loss[2];
    for (int row = 0; row < 2; row++) { shards_row(shards, (uint64_t)row, inputs + row * T, targets + row * T); }
    CHECK(inputs[0] == V - 1 && targets[1] == V - 601, "tokens %d, %d", inputs[0], targets[1]);
    for (int step = 0; step < 2; step++) {
        model_zero_grads(model);
        loss[step] = model->train(model, inputs, targets, 2, T, 1.0 / (2 * T)) / (2 * T);
        for (size_t i = 0; i < model->tensors.total; i++) { model->params[i] -= (real)0.5 * model->grads[i]; }
    }
    // Nothing is known at first: the loss is that of a guess among all, within what weights of 0.02 change. Measured:
    // 0.06 above it in Pythia, 0.03 in GPT-2, 0.02 in LLaMA; a step takes 0.3 to 1.0 off.
    CHECK(fabs(loss[0] - log(V)) < 0.2 && loss[1] < loss[0] - 0.1, "losses %g, %g", loss[0], loss[1]);
    shards_close(shards);
    directory_remove_tree(folder);
    free(path), free(folder);
}

// ------------------------------------------------------------------------------------------------
// Configurations

// The text of a config.json: good_config, but for one key or two that have another value; either may be NULL. A value
// may bring further keys after a comma.
static char* config_text(const char* key, const char* value, const char* key2, const char* value2) {
    StringBuilder sb;
    memset(&sb, 0, sizeof sb);
    sb_printf(&sb, "{\"transformers_version\": \"4.49.0\"");
    if (key) { sb_printf(&sb, ", \"%s\": %s", key, value); }
    if (key2) { sb_printf(&sb, ", \"%s\": %s", key2, value2); }
    for (size_t i = 0; i < sizeof good_config / sizeof good_config[0]; i++) {
        const char* name = good_config[i][0];
        if ((key && strcmp(name, key) == 0) || (key2 && strcmp(name, key2) == 0)) { continue; }
        sb_printf(&sb, ", \"%s\": %s", name, good_config[i][1]);
    }
    sb_printf(&sb, "}");
    return sb.data;
}

// The model of a config.json, rows of 8.
static Model* read_config(const char* text, const char* arguments) {
    return make_model(arguments, NULL, json_parse(text, strlen(text), "config.json"), "config.json", 1, 8);
}

// A model of a config.json with weights that depend on the seed alone; its logits of some tokens (the caller frees).
static real* logits_of(Model* model, int* n) {
    enum { T = 8 };
    int inputs[T], targets[T];
    model->allocate(model, 0);
    tensor_init(&model->tensors, model->params, 5);
    jitter(model, 0.2);
    random_tokens(inputs, targets, T, model->V);
    real* logits = (real*)xalloc((size_t)(T * model->V), sizeof(real), "logits");
    model->logits(model, inputs, 1, T, 0, logits);
    *n = T * model->V;
    return logits;
}

static const Json* written_config(const Model* model) {
    char* text = model->config_json(model);
    return json_parse(text, strlen(text), "config.json");
}

// One key or two of a config.json, and words ('|' between them) that the error must have. key NULL ends a list.
typedef struct {
    const char *key, *value, *key2, *value2;
    const char* words;
} BadConfig;

static void read_config_child(void* text) { read_config((const char*)text, ""); }

static void check_bad_configurations(const BadConfig* bad) {
    for (; bad->key; bad++) {
        char* text = config_text(bad->key, bad->value, bad->key2, bad->value2);
        expect_death(text, read_config_child, text, bad->words);
        free(text);
    }
}

// A key that asks for a dropout is warned of, and not where it is 0.
static void check_dropouts(const char* const* keys) {
    for (; *keys; keys++) {
        for (int some = 0; some <= 1; some++) {
            char *output = NULL, *text = config_text(*keys, some ? "0.25" : "0.0", NULL, NULL);
            char* words = format_string("%s is 0.25, but training here has no dropout", *keys);
            int code = run_child(read_config_child, text, &output);
            CHECK(code == 0 && (strstr(output, words) != NULL) == some && (strstr(output, "dropout;") != NULL) == some,
                  "%s: exit code %d, it said: %s", text, code, output);
            free(text), free(output), free(words);
        }
    }
}

// An architecture without groups takes as many heads of keys and values as heads, no others.
static void read_grouped_child(void* text) { read_config((const char*)text, "--kv-heads 2"); }
static void check_no_groups(void) {
    char* text = config_text(NULL, NULL, NULL, NULL);
    expect_death("--kv-heads 2", read_grouped_child, text, "--kv-heads 2|as many heads of keys and values as heads, 4");
    free(text);
}

// Sizes on the command line, and keys of a config.json that say the same. arguments NULL ends a list.
typedef struct {
    const char *arguments, *key, *value, *key2, *value2;
} SizesBeside;

// Sizes on the command line beside a config.json make the model that the same sizes in it would.
static void check_sizes_beside_a_config(const SizesBeside* sizes) {
    for (; sizes->arguments; sizes++) {
        Model* got = read_config(config_text(NULL, NULL, NULL, NULL), sizes->arguments);
        Model* want = read_config(config_text(sizes->key, sizes->value, sizes->key2, sizes->value2), "");
        char *x = got->config_json(got), *y = want->config_json(want);
        CHECK(strcmp(x, y) == 0, "%s: config.json is\n%s, expected\n%s", sizes->arguments, x, y);
        int n, m;
        real *a = logits_of(got, &n), *b = logits_of(want, &m);
        CHECK(n == m && memcmp(a, b, (size_t)n * sizeof(real)) == 0, "%s: other logits", sizes->arguments);
        free(a), free(b), free(x), free(y);
    }
}

// Positions in a config.json (NULL: the key is absent), read for rows of 8, and as they are written. written 0 ends a
// list.
typedef struct {
    const char* value;
    double written;
} KeptPositions;

static void check_positions(const char* key, const KeptPositions* cases) {
    for (; cases->written != 0; cases++) {
        const char* text = config_text(cases->value ? key : NULL, cases->value, NULL, NULL);
        double got = json_get_number(written_config(read_config(text, "")), key, 0, "");
        CHECK(got == cases->written, "%s %s: %g written, expected %g", key, cases->value ? cases->value : "absent", got,
              cases->written);
    }
    const Json* json = written_config(make_model("", TEST_PRESET, NULL, NULL, 1, 24));
    CHECK(json_get_number(json, key, 0, "") == 24, "without a config.json --seq is written");
}

// A key and the number that is written for it. key NULL ends a list.
typedef struct {
    const char* key;
    double value;
} KeptNumber;

// Numbers are written with all their digits: read again they are the same numbers.
static void check_numbers_are_kept(const char* text, const KeptNumber* numbers) {
    Model* model = read_config(text, "");
    const Json* json = written_config(model);
    int same = 1;
    for (; numbers->key; numbers++) {
        double got = json_get_number(json, numbers->key, 0, "");
        CHECK(got == numbers->value, "%s: %.17g was written as %.17g", numbers->key, numbers->value, got);
        same &= got == numbers->value;
    }
    if (!same) { return; }  // keys that contradict each other would end the program
    char* written = model->config_json(model);
    Model* again = read_config(written, "");
    CHECK(strcmp(written, again->config_json(again)) == 0, "written, read and written: other text than\n%s", written);
}

static void test_precedence(void) {
    Model* model = read_config(config_text(NULL, NULL, NULL, NULL), "--layers 3 --vocab 70 --tie 1");
    const Sizes* c = &ponder_of(model)->pass->size;
    CHECK(c->L == 3 && c->V == 70 && c->tie == 1 && c->C == 32 && c->FF == 64,
          "the command line wins over config.json");
    // What is written is read back as the same model.
    char* text = model->config_json(model);
    Model* again = read_config(text, "");
    CHECK(strcmp(text, again->config_json(again)) == 0, "config.json is not stable:\n%s\n%s", text,
          again->config_json(again));
}

// Which tensors of a checkpoint that the model does not have are dropped, which are an error; the name of the head under
// which a tied model's table may lie.
static void check_ignored_tensors(const char* const* ignored, const char* const* others, const char* head) {
    Model* model = read_config(config_text(NULL, NULL, NULL, NULL), "--tie 1");
    for (; *ignored; ignored++) { CHECK(model->ignores_tensor(model, *ignored), "%s is not ignored", *ignored); }
    for (; *others; others++) { CHECK(!model->ignores_tensor(model, *others), "%s is ignored", *others); }
    const char* alias = model->tensors.list[0].alias;
    CHECK(alias && strcmp(alias, head) == 0, "a tied model's table has the other name %s, expected %s",
          alias ? alias : "(none)", head);
    // --tie 0 beside a config that ties: the head begins as a copy; where the config does not tie, its head must be there.
    for (int tied = 0; tied <= 1; tied++) {
        model = read_config(config_text("tie_word_embeddings", tied ? "true" : "false", NULL, NULL), "--tie 0");
        const Tensor* t = &model->tensors.list[tensor_find(&model->tensors, head)];
        CHECK(tied ? t->copy_of && strcmp(t->copy_of, model->tensors.list[0].name) == 0 : !t->copy_of,
              "tied %d, --tie 0: %s begins as a copy of %s", tied, head, t->copy_of ? t->copy_of : "nothing");
    }
}

// ------------------------------------------------------------------------------------------------
// Sizes, initialisation, norms

static int name_has(const char* name, const char* const* parts) {
    for (; *parts; parts++) {
        if (strstr(name, *parts)) { return 1; }
    }
    return 0;
}

// Options, and the standard deviations of matrices and of projections into the residual stream; cut 1: no number is
// beyond three of them. arguments NULL ends a list.
typedef struct {
    const char* arguments;
    double std, residual_std;
    int cut;
} InitCase;

static void check_initialisation(const InitCase* c) {
    for (; c->arguments; c++) {
        Model* model = make_model(c->arguments, TEST_PRESET, NULL, NULL, 1, 8);
        model->allocate(model, 0);
        tensor_init(&model->tensors, model->params, 1);
        for (int k = 0; k < model->tensors.count; k++) {
            const Tensor* t = &model->tensors.list[k];
            const real* x = model->params + t->offset;
            if (t->ndim == 1) {
                real wanted = text_ends(t->name, ".weight") ? 1 : 0;
                for (size_t j = 0; j < t->size; j++) {
                    CHECK(x[j] == wanted, "%s[%zu] = %g", t->name, j, (double)x[j]);
                }
                continue;
            }
            double sum = 0, squares = 0, largest = 0;
            for (size_t j = 0; j < t->size; j++) {
                sum += (double)x[j], squares += (double)(x[j] * x[j]);
                if (fabs((double)x[j]) > largest) { largest = fabs((double)x[j]); }
            }
            double std = name_has(t->name, test_projections) ? c->residual_std : c->std, n = (double)t->size;
            // A normal cut at 3 sigma keeps 0.9866 of its standard deviation.
            double expected = c->cut ? 0.98658 * std : std;
            // Four deviations of the estimates from n numbers; the seed is fixed, and uses 2.9 of the four.
            CHECK(fabs(sqrt(squares / n) / expected - 1) < 4 / sqrt(2 * n), "%s: std %g, expected %g", t->name,
                  sqrt(squares / n), expected);
            CHECK(fabs(sum / n) < 4 * std / sqrt(n), "%s: mean %g", t->name, sum / n);
            CHECK(c->cut ? largest <= 3.0001 * std : largest > 3 * std, "%s: largest %g, std %g", t->name, largest,
                  std);
        }
    }
}

// Parameters of published models, embeddings included; their heads, which that number does not tell: those of
// queries, those of keys and values, numbers of each. preset NULL ends a list.
typedef struct {
    const char* preset;
    double parameters;
    int NH, NKV, HS;
} PresetSize;

static void check_presets(const PresetSize* known) {
    for (; known->preset; known++) {
        Model* model = make_model("", known->preset, NULL, NULL, 1, 0);
        CHECK((double)tensor_parameters(&model->tensors) == known->parameters, "%s has %zu parameters, expected %.0f",
              known->preset, tensor_parameters(&model->tensors), known->parameters);
        const Sizes* size = &ponder_of(model)->pass->size;
        CHECK(size->NH == known->NH && size->NKV == known->NKV && size->HS == known->HS,
              "%s has %d heads on %d of %d numbers, expected %d on %d of %d", known->preset, size->NH, size->NKV,
              size->HS, known->NH, known->NKV, known->HS);
    }
}

// A norm with eps of x is the norm with s^2 eps of s x. So a model whose residual stream is s times as large (the
// embeddings and the projections into it are) and whose eps, the key `eps_key`, is s^2 times as large is the same
// model: the same logits, and the same gradients but for those of what was made larger, which are 1/s. As s is
// a power of two, to the bit. A norm with another eps than config.json's gives itself away.
static void check_norm_eps(const char* eps_key) {
    enum { B = 2, T = 9, N = B * T };
    const char* const eps[2] = {"0.0078125", "0.0001220703125"};
    const real size[2] = {(real)0.0625, (real)0.0078125};  // of the writers: the variances are near eps then
    int inputs[N], targets[N];
    Model* model[2];
    real* logits[2];
    for (int i = 0; i < 2; i++) {
        char* text = config_text(eps_key, eps[i], "tie_word_embeddings", "false");
        Json* config = json_parse(text, strlen(text), "config.json");
        Model* m = model[i] = make_model("--ponder 1", NULL, config, "config.json", B, T);
        m->allocate(m, 1);
        tensor_init(&m->tensors, m->params, 9);
        jitter(m, 0.2);
        for (int k = 0; k < m->tensors.count; k++) {
            const Tensor* t = &m->tensors.list[k];
            int writes = name_has(t->name, test_embeddings) || name_has(t->name, test_projections);
            for (size_t j = 0; writes && j < t->size; j++) { m->params[t->offset + j] *= size[i]; }
        }
        random_tokens(inputs, targets, N, m->V);
        logits[i] = (real*)xalloc((size_t)(N * m->V), sizeof(real), "logits");
        m->logits(m, inputs, B, T, 0, logits[i]);
        m->train(m, inputs, targets, B, T, 1);
    }
    CHECK(memcmp(logits[0], logits[1], (size_t)(N * model[0]->V) * sizeof(real)) == 0, "other logits");
    for (int k = 0; k < model[0]->tensors.count; k++) {
        const Tensor* t = &model[0]->tensors.list[k];
        int writes = name_has(t->name, test_embeddings) || name_has(t->name, test_projections);
        real factor = writes ? size[0] / size[1] : 1;
        size_t bad = 0;
        for (size_t j = 0; j < t->size; j++) {
            bad += !(model[1]->grads[t->offset + j] == factor * model[0]->grads[t->offset + j]);
        }
        CHECK(bad == 0, "gradient of %s: %zu of %zu numbers differ", t->name, bad, t->size);
    }
    free(logits[0]), free(logits[1]);
}

// What runs for every architecture, once its own tests that fork have run.
static void architecture_tests(void) {
    RUN(test_precedence);
    RUN(test_whole_differences);
    RUN(test_own_fixtures);
    RUN(test_reference_fixtures);
    RUN(test_causal);
    RUN(test_shorter_rows);
    RUN(test_last_logits);
    RUN(test_decode);
    RUN(test_round_weights);
    if (!is_double()) { RUN_WHOLE(test_large_vocabulary); }
}

#endif

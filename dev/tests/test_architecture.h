// test_architecture.h - what every architecture's CPU tests share: finite differences of the whole loss (double build),
// numbers of the reference implementation and of our PyTorch twin (float build), invariants of the model.
//
// Included after test_model.h. PONDER_SHARED names a folder whose fixtures/ hold the reference implementation's numbers;
// where it is absent those tests say so, and the ones in dev/fixtures, made by our own twin, still run.
#ifndef PONDER_TEST_ARCHITECTURE_H
#define PONDER_TEST_ARCHITECTURE_H

#include "test_model.h"

static int is_double(void) { return sizeof(real) == 8; }

// n threads from here on; 0: as many as there are processors.
static void set_threads(int n) {
#ifdef _OPENMP
    omp_set_num_threads(n > 0 ? n : omp_get_num_procs());
#else
    (void)n;
#endif
}

static void random_reals(real* x, size_t n, uint64_t stream) {
    for (size_t i = 0; i < n; i++) { x[i] = (real)random_normal(21, stream, i); }
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
    w->model->evaluate(w->model, w->inputs, w->targets, w->B, w->T, sums);
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

// The whole S+1-pass loss of a micro model, every tensor. PONDER_TEST_SEED=n begins with other weights.
static void test_whole_differences(void) {
    if (!is_double()) {
        test_skip("runs in the double build");
        return;
    }
    const struct {
        const char* arguments;
        int steps, top_k;
    } cases[] = {
        {"--layers 2 --width 16 --heads 2 --vocab 13", 0, 0},
        {"--layers 2 --width 16 --heads 2 --vocab 13", 2, 0},
        {"--layers 1 --width 24 --heads 3 --ff 20 --vocab 11 --tie 1 --multiply-steps 1", 3, 0},
        {"--layers 1 --width 16 --heads 1 --vocab 13 --ponder-temperature 0.6 --ponder-top-k 5", 1, 5},
    };
    const char* first = getenv("PONDER_TEST_SEED");
    set_threads(1);  // micro models: a second thread only waits
    for (int i = 0; i < 4; i++) {
        enum { B = 2, T = 6 };
        int inputs[B * T], targets[B * T];
        char* arguments = format_string("%s --ponder %d", cases[i].arguments, cases[i].steps);
        Model* model = make_model(arguments, TEST_PRESET, NULL, NULL, B, T);
        model->allocate(model, 1);
        random_tokens(inputs, targets, B * T, model->V);
        targets[5] = -1;
        // The loss jumps where a token enters or leaves the top k. So of the seeds from the first on, one is taken
        // whose weights keep every choice away from that by more than a step of the differences moves it.
        uint64_t seed = first ? strtoull(first, NULL, 10) : 3;
        for (double gap = 0; gap < TOP_K_GAP; seed++) {
            tensor_init(&model->tensors, model->params, seed);
            jitter(model, 0.2);
            gap = cases[i].top_k ? top_k_gap(model, cases[i].arguments, cases[i].steps, cases[i].top_k, inputs, B, T)
                                 : INFINITY;
        }
        Whole whole = {model, inputs, targets, B, T};
        model->train(model, inputs, targets, B, T, 1);
        for (int k = 0; k < model->tensors.count; k++) {
            const Tensor* t = &model->tensors.list[k];
            char* what = format_string("%s: %s", arguments, t->name);
            check_gradient(what, whole_loss, &whole, model->params + t->offset, t->size, model->grads + t->offset,
                           t->size / 23 + 1, 0);
            free(what);
        }
        free(arguments);
    }
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
    int count = check_fixtures("dev/fixtures", TEST_NAME "-", "", fixture_fp32);
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
    int count = check_fixtures(folder, TEST_NAME "-", "", fixture_fp32);
    set_threads(0);
    if (count == 0) {
        test_skip("no fixtures of the reference implementation (set PONDER_SHARED)");
        return;
    }
    CHECK(count >= 8, "%d fixtures in %s, expected at least 8", count, folder);
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

// ------------------------------------------------------------------------------------------------
// Configurations

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

// What runs for every architecture, once its own tests that fork have run.
static void architecture_tests(void) {
    RUN(test_whole_differences);
    RUN(test_own_fixtures);
    RUN(test_reference_fixtures);
    RUN(test_causal);
    RUN(test_shorter_rows);
    RUN(test_last_logits);
}

#endif

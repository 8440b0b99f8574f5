// kept_trace.h - all that whole models compute, number by number: read by the tests of a trainer and, with the same
// trainer, by kept.c, whose layers store bf16. dev/tests/test_kept.h compares both.
#ifndef PONDER_KEPT_TRACE_H
#define PONDER_KEPT_TRACE_H

#include "test_model.h"

typedef struct {
    char* name;
    size_t count, number;  // numbers; bytes of one where it was found
    float* at;             // (count), whatever it was stored as
} TraceRow;

typedef struct {
    TraceRow* list;
    int count, room;
} Trace;

void kept_trace_bf16(Trace* trace);  // kept.c

// Takes over `name`; numbers are real or kept, which their size tells.
static void trace_add(Trace* trace, char* name, const void* at, size_t count, size_t number) {
    if (trace->count == trace->room) {
        int room = trace->room ? 2 * trace->room : 256;
        TraceRow* list = (TraceRow*)xalloc((size_t)room, sizeof(TraceRow), "a trace");
        if (trace->count) { memcpy(list, trace->list, (size_t)trace->count * sizeof(TraceRow)); }
        free(trace->list);
        trace->list = list, trace->room = room;
    }
    float* numbers = (float*)xalloc(count, sizeof(float), "a trace");
    for (size_t i = 0; i < count; i++) {
        numbers[i] = (float)(number == sizeof(real) ? ((const real*)at)[i] : real_of_kept(((const kept*)at)[i]));
    }
    TraceRow row = {name, count, number, numbers};
    trace->list[trace->count++] = row;
}

static void trace_places(Trace* trace, Places* places, const char* what) {
    for (int i = 0; i < places->count; i++) {
        const Place* p = &places->list[i];
        if (strncmp(p->name, LIST_PARAMETER, sizeof LIST_PARAMETER - 1) == 0) { continue; }
        trace_add(trace, format_string("%s: %s", what, p->name), p->at, p->count, p->number);
    }
    places_free(places);
}

static void trace_losses(Trace* trace, char* name, const double* losses, int n) {
    real numbers[64];  // all of the models' sums are of so few
    for (int i = 0; i < n; i++) { numbers[i] = (real)losses[i]; }
    trace_add(trace, name, numbers, (size_t)n, sizeof(real));
}

// A micro-batch forwards and backwards, with what layers leave in their work space; losses of every pass; a text that
// grows, from a prompt by one token twice; what is named where numbers are not finite; losses with weights in bf16.
static void trace_model(Trace* trace, const char* arguments, int B, int T) {
    enum { PROMPT = 5, GROWN = PROMPT + 2 };
    Model* model = make_model(arguments, TEST_PRESET, NULL, NULL, B, T);
    Ponder* m = ponder_of(model);
    int N = B * T, V = model->V, *inputs = (int*)xalloc((size_t)N * 2, sizeof(int), "tokens"), *targets = inputs + N;
    model->allocate(model, 1);
    tensor_init(&model->tensors, model->params, 3);
    jitter(model, 0.05);
    // Products read weights in bf16: here rounded beforehand, or as they are read. Of the table of tokens both are
    // rounded, since its other readers take its numbers as they are; so they do those of norms and positions.
    for (int i = 0; i < model->tensors.count; i++) {
        const Tensor* t = &model->tensors.list[i];
        int table = t->weight == &m->pass->embed, factor = t->product || t->weight == &m->pass->head;
        for (size_t j = 0; j < t->size && (table || (factor && !KEPT_ROUNDS)); j++) {
            real* w = &model->params[t->offset + j];
            *w = (real)round_bf16((float)*w);
        }
    }
    random_tokens(inputs, targets, N, V);
    for (int n = 3; n < N; n += 11) { targets[n] = -1; }

    Places places;
    memset(&places, 0, sizeof places);
    double losses[64] = {model->train(model, inputs, targets, B, T, 1.0 / N)};
    trace_losses(trace, format_string("%s: loss", arguments), losses, 1);
    model->list(model, &places, (size_t)N);
    trace_places(trace, &places, arguments);
    Arena work = {m->pass->cpu.work, 0, &places, "work space: "};
    m->architecture->prepare(m->pass, &work, 1);
    trace_places(trace, &places, arguments);
    trace_add(trace, format_string("%s: gradient by the first input", arguments), m->de,
              (size_t)N * (size_t)m->pass->size.C, sizeof(real));

    model->evaluate(model, inputs, targets, B, T, losses);
    trace_losses(trace, format_string("%s: losses of rows", arguments), losses, B * model->passes);
    real* logits = (real*)xalloc((size_t)(N * V), sizeof(real), "logits");
    model->logits(model, inputs, B, T, 0, logits);
    trace_add(trace, format_string("%s: logits", arguments), logits, (size_t)(N * V), sizeof(real));
    model->cache_begin(model, 1, GROWN);
    for (int first = 0, row = 0, n = PROMPT; first < GROWN; first += n, n = 1) {
        model->decode(model, inputs + first, 1, n, &row, &first, logits);
        trace_add(trace, format_string("%s: logits after token %d", arguments, first + n), logits, (size_t)V,
                  sizeof(real));
    }
    model->cache_end(model);

    // A product that overflows is found in what the layer has stored.
    int first = 0;
    while (!model->tensors.list[first].product) { first++; }
    real *w = &model->params[model->tensors.list[first].offset], old = *w;
    *w = (real)round_bf16(3e38f);
    model->train(model, inputs, targets, B, T, 1.0 / N);
    char* name = model_first_nonfinite(model, B, T);
    trace_add(trace, format_string("%s: first not finite: %s", arguments, name ? name : "nothing"), w, 1, sizeof(real));
    *w = old;

    tensors_round(&model->tensors, &model->params);
    model->evaluate(model, inputs, targets, B, T, losses);
    trace_losses(trace, format_string("%s: losses of rows, weights in bf16", arguments), losses, B * model->passes);
}

static void trace_models(Trace* trace) {
    const char* grouped = strncmp(TEST_PRESET, "llama", 5) == 0 ? " --kv-heads 1" : "";
    char* arguments = format_string("--layers 2 --width 24 --heads 3 --vocab 67 --ponder 2 --tie 0%s", grouped);
    trace_model(trace, arguments, 2, 19);
    // More rows than a block of logits has, more keys than a tile of attention; of each mix some tokens alone.
    arguments =
        format_string("--layers 1 --width 32 --heads 2 --vocab 130 --ponder 1 --ponder-top-k 5 --tie 1%s", grouped);
    trace_model(trace, arguments, 5, 110);
}

#endif

// test_kept.h - a program that stores bf16 between its layers (-DKEPT=Bf16) against the C half as a naive bf16 program,
// which rounds fp32 numbers where the other stores them: the same bits, of every number of whole models.
#ifndef PONDER_TEST_KEPT_H
#define PONDER_TEST_KEPT_H

#include "kept_trace.h"

static void test_kept_bf16(void) {
    Trace want = {NULL}, got = {NULL};
    stored_as_bf16 = 1;
    trace_models(&want);
    stored_as_bf16 = 0;
    kept_trace_bf16(&got);
    CHECK(got.count == want.count && got.count > 100, "%d arrays where bf16 is stored, %d where fp32 is", got.count,
          want.count);
    int halves = 0, named = 0;
    for (int i = 0; i < got.count; i++) {
        halves += got.list[i].number == sizeof(Bf16);
        named += strstr(got.list[i].name, "first not finite: pass 0, layer 0: ") != NULL;
    }
    CHECK(halves > 20 && named == 2, "%d arrays in bf16; of two models %d name what overflows", halves, named);
    for (int i = 0; i < got.count && i < want.count && test_state.checks_failed < 10; i++) {
        const TraceRow *g = &got.list[i], *w = &want.list[i];
        CHECK(g->count == w->count && strcmp(g->name, w->name) == 0, "array %d: %s (%zu), expected %s (%zu)", i,
              g->name, g->count, w->name, w->count);
        size_t j = 0, n = min_size(g->count, w->count), nonzero = 0;
        while (j < n && memcmp(&g->at[j], &w->at[j], sizeof(float)) == 0) { j++; }
        CHECK(j == n, "%s: number %zu of %zu is %.9g, expected %.9g", w->name, j, n, (double)g->at[j],
              (double)w->at[j]);
        for (j = 0; j < n; j++) { nonzero += w->at[j] != 0; }
        CHECK(nonzero > 0, "%s: nothing but zeros", w->name);
    }
}

#endif

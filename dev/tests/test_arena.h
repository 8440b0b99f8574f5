// test_arena.h - tests of common/arena.h, and of how common/tensors.h tells layers where their weights are.
#ifndef PONDER_TEST_ARENA_H
#define PONDER_TEST_ARENA_H

#include "../../common/arena.h"
#include "../../common/tensors.h"
#include "test.h"

typedef struct {
    float* a;
    double* b;
    float* none;
    char* c;
} ArenaThings;

static ArenaThings arena_things(Arena* arena, int more) {
    ArenaThings t;
    t.a = TAKE(arena, float, "a", 3);
    t.b = TAKE(arena, double, "b", 40);
    arena_lacks(arena, t.a, 3);
    t.none = TAKE(arena, float, "none", 0);
    t.c = TAKE(arena, char, "c", more ? 257 : 1);
    return t;
}

// Measuring, placing and telling are one list: the same bytes, apart and aligned, nothing for what is not wanted.
static void test_arena(void) {
    Arena dry = arena_at(NULL);
    ArenaThings t = arena_things(&dry, 1);
    CHECK(!t.a && !t.b && !t.none && !t.c, "a measure places nothing");
    CHECK(dry.used == 256 + 512 + 512, "%zu bytes measured", dry.used);
    char* memory = (char*)xalloc(dry.used + 256, 1, "a test");
    char* base = memory + (256 - (uintptr_t)memory % 256) % 256;
    Places places;
    memset(&places, 0, sizeof places);
    Arena real_one = {base, 0, &places, "pass 1: "};
    t = arena_things(&real_one, 1);
    CHECK(real_one.used == dry.used, "%zu bytes placed", real_one.used);
    CHECK((char*)t.a == base && (char*)t.b == base + 256 && t.c == base + 768 && t.none == NULL, "places");
    CHECK(places.count == 3 && strcmp(places.list[1].name, "pass 1: b") == 0 && places.list[1].at == t.b &&
              places.list[1].count == 40 && places.list[1].number == sizeof(double),
          "what lies where");
    CHECK(places.list[1].lacks == t.a && places.list[1].lacks_count == 3 && places.list[0].lacks_count == 0 &&
              places.list[2].lacks_count == 0,
          "the bias belongs to what was taken before it");
    for (int i = 0; i < 200; i++) { arena_things(&real_one, 0); }  // the record grows; nothing is read
    CHECK(places.count == 603, "%d places", places.count);
    for (int i = 0; i < places.count; i++) {
        const char *got = places.list[i].name, *names[] = {"pass 1: a", "pass 1: b", "pass 1: c"};
        CHECK(got && strcmp(got, names[i % 3]) == 0, "place %d is %s", i, got ? got : "lost");
    }
    places_free(&places);
    free(memory);
}

static void arena_too_much(void* unused) {
    (void)unused;
    Arena dry = arena_at(NULL);
    TAKE(&dry, double, "a huge thing", SIZE_MAX / 4);
}
static void test_arena_overflow(void) { expect_death("sizes past 64 bits", arena_too_much, NULL, "a huge thing"); }

// Layers see their tensors, gradients only where there are some; products alone count FLOPs.
static void test_tensors_bind(void) {
    TensorTable table;
    Weight table_w, matrix_w, vector_w;
    memset(&table, 0, sizeof table);
    memset(&table_w, 0, sizeof table_w);
    tensor_embedding(&table, &table_w, format_string("table"), 5, 4, INIT_NORMAL, 1);
    tensor_matrix(&table, &matrix_w, format_string("matrix"), 3, 4, INIT_NORMAL, 1);
    tensor_vector(&table, &vector_w, format_string("vector"), 3, INIT_ONES);
    real* params = (real*)xalloc(2 * table.total, sizeof(real), "a test");
    real* grads = params + table.total;
    tensors_bind(&table, params, grads);
    CHECK(table_w.w == params && matrix_w.w == params + table.list[1].offset &&
              vector_w.d == grads + table.list[2].offset && vector_w.w == params + table.list[2].offset,
          "where weights and gradients are");
    tensors_bind(&table, params, NULL);
    CHECK(matrix_w.d == NULL && matrix_w.w == params + table.list[1].offset, "no gradients");
    CHECK(tensors_flops(&table) == 6 * 12, "%g FLOPs a token", tensors_flops(&table));
    CHECK(tensors_widest(&table) == 4, "products have %zu numbers", tensors_widest(&table));
    CHECK(table.list[0].decay && table.list[1].decay && !table.list[2].decay, "matrices decay, vectors do not");
    free(params);
    for (int i = 0; i < table.count; i++) { free(table.list[i].name); }
    free(table.list);
}

static void arena_tests(void) {
    RUN(test_arena_overflow);
    RUN(test_arena);
    RUN(test_tensors_bind);
}

#endif

// test_tensors.h - tests of common/tensors.h: where tensors lie, alone and joined, and that everything else sees
// tensors, never groups or the gaps behind them.
#ifndef PONDER_TEST_TENSORS_H
#define PONDER_TEST_TENSORS_H

#include "../../common/adamw.h"
#include "../../common/files/checkpoint.h"
#include "test.h"
#include "test_safetensors.h"

// One layer whose heads of 10 and inner width of 7 fit into nothing: queries, keys and values are one group, gate and
// up another.
enum { TENSORS_C = 10, TENSORS_FF = 7, TENSORS_V = 11 };
static TensorTable tensors_layer(int joined) {
    TensorTable table = {0};
    const size_t C = TENSORS_C, FF = TENSORS_FF;
    const struct {
        const char* name;
        size_t rows, columns;
        int join;
    } rows[] = {{"embed", TENSORS_V, C, 0}, {"norm", C, 0, 0}, {"q", C, C, 0},     {"k", C / 2, C, 1},
                {"v", C / 2, C, 1},         {"qb", C, 0, 0},   {"kb", 5, 0, 1},    {"o", C, C, 0},
                {"gate", FF, C, 0},         {"up", FF, C, 1},  {"down", C, FF, 0}, {"last", C, 0, 0},
                {"one", 1, 0, 0},           {"head", 64, C, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        tensor_add(&table, format_string("%s", rows[i].name), rows[i].rows, rows[i].columns, INIT_NORMAL, 1);
        if (joined && rows[i].join) { tensor_join(&table); }
    }
    return table;
}
static void tensors_free(TensorTable* table) {
    for (int i = 0; i < table->count; i++) { free(table->list[i].name); }
    free(table->list);
}
static const Tensor* tensors_row(const TensorTable* table, const char* name) {
    return &table->list[tensor_find(table, name)];
}

static void test_tensor_places(void) {
    TensorTable table = tensors_layer(1);
    size_t end = 0;
    for (int i = 0; i < table.count; i++) {
        const Tensor* t = &table.list[i];
        if (t->joined) {
            CHECK(t->offset == end, "%s begins at %zu, expected %zu: joined", t->name, t->offset, end);
        } else {
            CHECK(t->offset % TENSOR_START == 0 && t->offset >= end && t->offset - end < TENSOR_START,
                  "%s begins at %zu, the one before it ends at %zu", t->name, t->offset, end);
        }
        end = t->offset + t->size;
    }
    CHECK(table.total % TENSOR_START == 0 && table.total >= end && table.total - end < TENSOR_START,
          "%zu numbers in a family, %zu used", table.total, end);
    TensorGroup qkv = tensor_group(&table, tensor_find(&table, "q"));
    CHECK(qkv.end - qkv.first == 3 && qkv.rows == 20 && qkv.columns == 10 && qkv.size == 200,
          "q, k, v: %d rows of the table, %zu x %zu", qkv.end - qkv.first, qkv.rows, qkv.columns);
    TensorGroup biases = tensor_group(&table, tensor_find(&table, "qb"));
    CHECK(biases.size == 15 && biases.columns == 1 && biases.end - biases.first == 2, "biases: %zu", biases.size);
    TensorGroup last = tensor_group(&table, table.count - 1);
    CHECK(last.end == table.count && last.size == 640, "the last row is a group: %d", last.end);
    TensorGroup one = tensor_group(&table, table.count - 2);
    CHECK(tensor_group_end(&table, &one) == last.offset && tensor_group_end(&table, &last) == table.total,
          "groups end at %zu and %zu", tensor_group_end(&table, &one), tensor_group_end(&table, &last));
    tensors_free(&table);
    // A table grows, and keeps its rows.
    TensorTable large = {0};
    for (int i = 0; i < 200; i++) { tensor_add(&large, format_string("row %d", i), (size_t)i + 1, 0, INIT_ONES, 0); }
    size_t next = 0;
    for (int i = 0; i < 200; i++) {
        const Tensor* t = &large.list[i];
        CHECK(t->name && atoi(t->name + 4) == i && t->size == (size_t)i + 1 && t->offset == next, "row %d is %s", i,
              t->name ? t->name : "lost");
        next += round_up(t->size, TENSOR_START);
    }
    tensors_free(&large);
}

// Only what one product can read is joined.
static void tensors_join_first(void* unused) {
    (void)unused;
    TensorTable table = {0};
    tensor_add(&table, format_string("alone"), 3, 4, INIT_ZEROS, 0);
    tensor_join(&table);
}
static void tensors_join_other_width(void* unused) {
    (void)unused;
    TensorTable table = {0};
    tensor_add(&table, format_string("narrow"), 3, 4, INIT_ZEROS, 0);
    tensor_add(&table, format_string("wide"), 3, 5, INIT_ZEROS, 0);
    tensor_join(&table);
}
static void tensors_join_vector(void* unused) {
    (void)unused;
    TensorTable table = {0};
    tensor_add(&table, format_string("matrix"), 3, 1, INIT_ZEROS, 0);
    tensor_add(&table, format_string("vector"), 3, 0, INIT_ZEROS, 0);
    tensor_join(&table);
}
static void test_tensor_join_refuses(void) {
    expect_death("the first tensor", tensors_join_first, NULL, "alone cannot be joined");
    expect_death("another width", tensors_join_other_width, NULL, "wide cannot be joined");
    expect_death("a vector to a matrix", tensors_join_vector, NULL, "vector cannot be joined");
}

// 1 if what lies between the tensors is `expected` everywhere.
static int tensors_gaps(const TensorTable* table, const real* family, real expected) {
    char* inside = (char*)xalloc(table->total, 1, "a test");
    for (int i = 0; i < table->count; i++) { memset(inside + table->list[i].offset, 1, table->list[i].size); }
    int good = 1;
    for (size_t j = 0; j < table->total; j++) { good &= inside[j] || family[j] == expected; }
    free(inside);
    return good;
}

// Joined or not, a tensor gets the same weights, the same update and the same file; gaps stay what they were.
static void test_tensor_groups_unseen(void) {
    TensorTable table[2] = {tensors_layer(0), tensors_layer(1)};
    real* family[2][4];  // weights, gradients, moments
    double norm[2];
    char* directory = files_begin();
    for (int k = 0; k < 2; k++) {
        for (int f = 0; f < 4; f++) { family[k][f] = (real*)xalloc(table[k].total, sizeof(real), "a test"); }
        tensor_init(&table[k], family[k][0], 7);
        tensor_init(&table[k], family[k][1], 8);
        norm[k] = grad_norm(&table[k], family[k][1]);
        for (int i = 1; i <= 3; i++) {
            AdamwStep step = adamw_step(0.5, 1e-2, 0.9, 0.95, 1e-8, 0.1, i);
            adamw_update(&table[k], family[k][0], family[k][1], family[k][2], family[k][3], &step);
        }
        for (int f = 0; f < 4; f++) { CHECK(tensors_gaps(&table[k], family[k][f], 0), "family %d: gaps are not 0", f); }
        CheckpointFile config = {"config.json", "{}", 2};
        checkpoint_write(directory, 10 + k, &table[k], family[k][0], family[k][2], family[k][3], &config, 1, 0);
    }
    CHECK(fabs(norm[1] / norm[0] - 1) < 1e-12, "the gradient norm is %.17g, joined %.17g", norm[0], norm[1]);
    for (int i = 0; i < table[0].count; i++) {
        const Tensor *alone = &table[0].list[i], *joined = &table[1].list[i];
        for (int f = 0; f < 4; f++) {
            CHECK(memcmp(family[0][f] + alone->offset, family[1][f] + joined->offset, alone->size * sizeof(real)) == 0,
                  "%s of family %d is another one where it is joined", alone->name, f);
        }
    }
    static const char* const files[] = {"model.safetensors", "optimizer.safetensors"};
    for (int i = 0; i < 2; i++) {
        size_t size[2];
        char* path[2] = {format_string("%s/step_00000010/%s", directory, files[i]),
                         format_string("%s/step_00000011/%s", directory, files[i])};
        char* bytes[2] = {files_read(path[0], &size[0]), files_read(path[1], &size[1])};
        CHECK(bytes[0] && bytes[1] && size[0] == size[1] && memcmp(bytes[0], bytes[1], size[0]) == 0,
              "%s differs where tensors are joined", files[i]);
        for (int k = 0; k < 2; k++) { free(path[k]), free(bytes[k]); }
    }
    // Read into a family that is full of something else, a checkpoint leaves the gaps alone.
    char* path = format_string("%s/step_00000010", directory);
    real* read = (real*)xalloc(table[1].total, sizeof(real), "a test");
    for (size_t j = 0; j < table[1].total; j++) { read[j] = 99; }
    weights_read(path, &table[1], read, NULL, NULL);
    CHECK(tensors_gaps(&table[1], read, 99), "reading a checkpoint wrote between the tensors");
    const Tensor* v = tensors_row(&table[1], "v");
    CHECK(memcmp(read + v->offset, family[1][0] + v->offset, v->size * sizeof(real)) == 0, "v came back changed");
    free(path);
    free(read);
    directory_remove_tree(directory);
    free(directory);
    for (int k = 0; k < 2; k++) {
        for (int f = 0; f < 4; f++) { free(family[k][f]); }
        tensors_free(&table[k]);
    }
}

static void tensors_tests(void) {
    RUN(test_tensor_join_refuses);  // forks: first
    RUN(test_tensor_places);
    RUN(test_tensor_groups_unseen);
}

#endif

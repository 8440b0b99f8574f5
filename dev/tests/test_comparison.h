// test_comparison.h - tests of common/comparison.cuh: the verdict on hand-made numbers, and a hand on the numbers that
// --compare-cpu looks at.
#ifndef PONDER_TEST_COMPARISON_H
#define PONDER_TEST_COMPARISON_H

#include "../../common/comparison.cuh"
#include "test.h"

// ---- the verdict ----

// exact: `largest` at 1, 0 elsewhere; naive and got are that, but `naive` at 2 and `got` at 3 (NAN: there and nowhere
// else). So errors are these numbers themselves, and bf16 holds them.
typedef struct {
    const char* name;
    size_t n;
    int rounds;    // 1: there is a naive version
    int is_float;  // 1: fp32 on the GPU, also in the bf16 program
    double largest, naive, got;
    int good;
    const char* words;  // that its line must have, separated by |
} Verdict;

// The bf16 on both sides of 2.2, and those that follow on 2.5 and 3, times any power of two.
#define BELOW 2.1875
#define ABOVE 2.203125
#define TWO_AND_A_HALF_AND_A_BIT 2.515625
#define THREE_AND_A_BIT 3.015625
static const Verdict verdicts[] = {
    // bf16: 2.2 times the naive version's largest error from 512 numbers on, of a gradient 2.5 times; 3 times below.
    {"a limit", 512, 1, 0, 1, 0.015625, BELOW * 0.015625, 1, "3.418e-02  3.438e-02   0.99  ok"},
    {"a more", 512, 1, 0, 1, 0.015625, ABOVE * 0.015625, 0, "1.00  DIFFERS (at 3: 0.0344238281, expected 0)"},
    {"a less", 1000, 1, 0, 1, 0.015625, -BELOW * 0.015625, 1, "0.99  ok"},
    {"a many", 1000, 1, 0, 1, 0.015625, -ABOVE * 0.015625, 0, "DIFFERS (at 3: -0.0344238281, expected 0)"},
    {"gradient of a limit", 512, 1, 0, 1, 0.015625, 2.5 * 0.015625, 1, "3.906e-02  3.906e-02   1.00  ok"},
    {"gradient of a more", 512, 1, 0, 1, 0.015625, TWO_AND_A_HALF_AND_A_BIT * 0.015625, 0, "1.01  DIFFERS"},
    {"gradient of a three", 511, 1, 0, 1, 0.015625, 3 * 0.015625, 1, "4.688e-02  4.688e-02   1.00  ok"},
    {"a three", 511, 1, 0, 1, 0.015625, 3 * 0.015625, 1, "4.688e-02  4.688e-02   1.00  ok"},
    {"a few more", 511, 1, 0, 1, 0.015625, THREE_AND_A_BIT * 0.015625, 0, "DIFFERS (at 3"},
    {"a few", 4, 1, 1, 1, 0.015625, 3 * 0.015625, 1, "ok"},
    {"a fewest", 4, 1, 1, 1, 0.015625, THREE_AND_A_BIT * 0.015625, 0, "DIFFERS (at 3"},
    {"a floats", 512, 1, 1, 1, -0.015625, ABOVE * 0.015625, 0, "DIFFERS (at 3"},
    {"a large", 700, 1, 0, 256, 4, 8.75, 1, "2.560e+02  8.750e+00  8.800e+00   0.99  ok"},
    {"a larger", 700, 1, 0, 256, 4, 8.8125, 0, "DIFFERS (at 3: 8.8125, expected 0)"},
    {"a huge", 700, 1, 0, 1, 0.001953125, 0.390625, 0, "90.91  DIFFERS (at 3: 0.390625, expected 0)"},
    // bf16, where the naive version is exact: a floor.
    {"b floor", 512, 1, 1, 1, 0, 0.99e-5, 1, "0.99  ok"},
    {"b above", 512, 1, 1, 1, 0, 1.01e-5, 0, "1.01  DIFFERS (at 3"},
    {"b few", 4, 1, 1, 1, 0, 1.01e-5, 0, "1.01  DIFFERS (at 3"},
    {"b large", 512, 1, 1, 1e6, 0, 9.9, 1, "0.99  ok"},
    {"b larger", 512, 1, 1, 1e6, 0, 10.1, 0, "1.01  DIFFERS (at 3: 10.1000004, expected 0)"},
    // fp32
    {"c limit", 512, 0, 1, 1, 0, 1.99e-5, 1, "1.990e-05  2.000e-05   1.00  ok"},
    {"c above", 512, 0, 1, 1, 0, 2.01e-5, 0, "1.01  DIFFERS (at 3: 2.01000003e-05, expected 0)"},
    {"c few", 4, 0, 1, 1, 0, -2.01e-5, 0, "1.01  DIFFERS (at 3: -2.01000003e-05, expected 0)"},
    {"c large", 200, 0, 1, 1e6, 0, 19.9, 1, "1.000e+06  1.990e+01  2.000e+01   0.99  ok"},
    {"c larger", 200, 0, 1, 1e6, 0, 20.1, 0, "DIFFERS (at 3"},
    {"c small", 200, 0, 1, 1e-6, 0, 2.01e-11, 0, "DIFFERS (at 3"},
    // Zeros and no numbers
    {"d zeros", 512, 0, 1, 0, 0, 0, 1, "0.00  ok"},
    {"d zeros, naive", 512, 1, 0, 0, 0, 0, 1, "0.00  ok"},
    {"d not zero", 512, 0, 1, 0, 0, 1e-30, 0, "DIFFERS (at 3: 1e-30, expected 0)"},
    {"d not zero, naive", 512, 1, 1, 0, 0, 1e-30, 0, "DIFFERS (at 3"},
    {"e NaN", 512, 0, 1, 1, 0, NAN, 0, "nan|DIFFERS (at 3: nan, expected 0)"},
    {"e NaN, naive", 512, 1, 0, 1, 0.5, NAN, 0, "nan|DIFFERS (at 3: nan, expected 0)"},
    {"e infinite", 512, 1, 0, 1, 0.5, INFINITY, 0, "inf|DIFFERS (at 3: inf, expected 0)"},
    {"e expected NaN", 512, 0, 1, NAN, 0, 0, 0, "nan|DIFFERS (at 1: nan, expected nan)"},
    {"e expected infinite", 512, 0, 1, INFINITY, 0, 0, 0, "nan|DIFFERS (at 1: inf, expected inf)"},
    {"e naive NaN", 512, 1, 1, 1, NAN, 1e-3, 0, "DIFFERS"},
    {"e naive infinite", 512, 1, 1, 1, INFINITY, 1e-3, 0, "DIFFERS"},
};
enum { VERDICTS = sizeof verdicts / sizeof verdicts[0] };

// n floats on the GPU, as floats or as floatX.
static void* comparison_upload(const real* from, int is_float, size_t n) {
    void* p = device_alloc(n * (is_float ? sizeof(float) : sizeof(floatX)), "a test");
    floatX* rounded_numbers = (floatX*)xalloc(n, sizeof(floatX), "a test");
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &from[i], 4);  // the upper half is the bf16, in all that is used here
        memcpy(&rounded_numbers[i], (unsigned char*)&bits + 4 - sizeof(floatX), sizeof(floatX));
    }
    device_upload(p, is_float ? (const void*)from : (const void*)rounded_numbers,
                  n * (is_float ? sizeof(float) : sizeof(floatX)));
    CUDA_CHECK(cudaStreamSynchronize(device.stream));
    free(rounded_numbers);
    return p;
}

// Judges the cases and exits with the number of wrong verdicts; what is printed is the parent's to check.
static void verdicts_job(void* nothing) {
    (void)nothing;
    int wrong = 0;
    for (int i = 0; i < VERDICTS; i++) {
        const Verdict* v = &verdicts[i];
        real* numbers[3];
        for (int k = 0; k < 3; k++) {
            numbers[k] = (real*)xalloc(v->n, sizeof(real), "a test");
            numbers[k][1] = (real)v->largest;
        }
        numbers[1][2] = (real)v->naive;
        numbers[2][3] = (real)v->got;
        char* name = format_string("%s", v->name);
        Place gpu = {name, comparison_upload(numbers[2], v->is_float, v->n),
                     v->n, v->is_float ? sizeof(float) : sizeof(floatX),
                     NULL, 0};
        Compared row = {name, numbers[0], v->rounds ? numbers[1] : NULL, gpu, 0};
        int good = comparison_judge(&row);
        if (good != v->good) {
            wrong++;
            printf("WRONG: the verdict on \"%s\" is %d\n", v->name, good);
        }
        device_free_all();
    }
    // A bias that the C half has added already: rows of 5 numbers, each its own.
    real exact[40], got[40], bias[5] = {1, 2, 4, -1, 0.5};
    for (int i = 0; i < 40; i++) { got[i] = (real)(i % 7), exact[i] = got[i] + bias[i % 5]; }
    char name[] = "with a bias";
    Place gpu = {name, comparison_upload(got, 0, 40), 40, sizeof(floatX), comparison_upload(bias, 1, 5), 5};
    Compared row = {name, exact, NULL, gpu, 0};
    wrong += comparison_judge(&row) != 1;
    bias[4] = 0.25f;
    row.gpu.lacks = comparison_upload(bias, 1, 5);
    wrong += comparison_judge(&row) != 0;
    row.gpu.lacks_count = 0;
    wrong += comparison_judge(&row) != 0;
    // A gradient of zero beside one of 1 may have 1e-6 of that.
    real none[40] = {0}, some[40] = {0};
    for (int i = 0; i < 2; i++) {
        some[7] = i ? (real)1.01e-6 : (real)0.99e-6;
        Compared zero = {name, none, NULL, {name, comparison_upload(some, 1, 40), 40, sizeof(float), NULL, 0}, 1};
        wrong += comparison_judge(&zero) != !i;
    }
    fflush(stdout);
    _exit(wrong ? 1 : 0);
}

// On both sides of every limit: a tolerance that is a hundredth wider or narrower is seen.
static void test_comparison_judge(void) {
    char* output;
    int code = run_child(verdicts_job, NULL, &output);
    CHECK(code == 0, "exit %d:\n%s", code, output);
    for (int i = 0; i < VERDICTS; i++) {
        const Verdict* v = &verdicts[i];
        char* begin = format_string("\n%-58s ", v->name);
        const char* line = strncmp(output, begin + 1, strlen(begin + 1)) == 0 ? output : strstr(output, begin);
        CHECK(line != NULL, "no line for \"%s\":\n%s", v->name, output);
        char* text = format_string("%.*s", line ? (int)strcspn(line + 1, "\n") + 1 : 0, line ? line : "");
        char* words = format_string("%s", v->words);
        for (char* word = strtok(words, "|"); word; word = strtok(NULL, "|")) {
            CHECK(strstr(text, word) != NULL, "\"%s\": no \"%s\" in: %s", v->name, word, text);
        }
        free(begin);
        free(text);
        free(words);
    }
    free(output);
}

// ---- a hand on what --compare-cpu sees ----

enum { HAND_SEEN = 256 };

// What a test does to it: to the weights on their way to the GPU, or to every tensor that is judged.
static struct {
    size_t at, count;                                            // numbers of a family of weights that is uploaded
    void (*upload)(Model* model, const real* m, const real* v);  // the model's own
    float factor;                                                // each times this, on the GPU only
    const char *name, *numbers_of;  // the first has the second's numbers, which are judged before it; NULL: none has
    real* numbers;
    int try_all;                     // 1: every tensor is also judged damaged, which must be seen
    double damage, gradient_damage;  // of the largest number of an activation, of a gradient
    struct {
        Compared row;
        real* numbers;  // the GPU's
    } seen[HAND_SEEN];
    int count_seen;
} hand;

static void hand_upload(Model* model, const real* m, const real* v) {
    real* sound = model->params;
    size_t n = model->tensors.total;
    model->params = (real*)xalloc(n, sizeof(real), "a test");
    memcpy(model->params, sound, n * sizeof(real));
    for (size_t i = hand.at; i < hand.at + hand.count; i++) { model->params[i] *= hand.factor; }
    hand.upload(model, m, v);
    free(model->params);
    model->params = sound;
}

// The verdict on the row with other numbers on the GPU's side.
static int hand_judge_numbers(const Compared* row, const real* numbers) {
    Compared other = *row;
    void* p = NULL;
    CUDA_CHECK(cudaMalloc(&p, row->gpu.count * sizeof(float)));
    CUDA_CHECK(cudaMemcpy(p, numbers, row->gpu.count * sizeof(float), cudaMemcpyHostToDevice));
    other.gpu.at = p;
    other.gpu.number = sizeof(float);
    int good = comparison_judge(&other);
    CUDA_CHECK(cudaFree(p));
    return good;
}
// It must be against them.
static void hand_damaged(const Compared* row, const char* what, const real* numbers) {
    Compared named = *row;
    named.name = format_string("%s: %s", what, row->name);
    if (hand_judge_numbers(&named, numbers)) { printf("UNSEEN %s\n", named.name); }
    free(named.name);
}

// Its own numbers damaged, and instead of them the numbers of every tensor of its size that was judged before.
static int hand_judge(const Compared* row) {
    if (hand.name && strcmp(row->name, hand.numbers_of) == 0) {
        hand.numbers = device_numbers(row->gpu.at, row->gpu.number, row->gpu.count);
    }
    if (hand.name && hand.numbers && strcmp(row->name, hand.name) == 0) {
        return hand_judge_numbers(row, hand.numbers);
    }
    int good = comparison_judge(row);
    size_t most = 0;
    for (size_t i = 0; i < row->gpu.count; i++) {
        if (fabs((double)row->exact[i]) > fabs((double)row->exact[most])) { most = i; }
    }
    if (!hand.try_all || row->exact[most] == 0) { return good; }
    real *own = device_numbers(row->gpu.at, row->gpu.number, row->gpu.count),
         *numbers = (real*)xalloc(row->gpu.count, sizeof(real), "a test");
    memcpy(numbers, own, row->gpu.count * sizeof(real));
    const double damage = strncmp(row->name, "gradient", 8) == 0 ? hand.gradient_damage : hand.damage;
    numbers[most] *= (real)(1 - damage);
    hand_damaged(row, "one number off", numbers);
    for (size_t i = 0; i < row->gpu.count; i++) { numbers[i] = own[i] * (real)(1 + damage); }
    hand_damaged(row, "all numbers off", numbers);
    memset(numbers, 0, row->gpu.count * sizeof(real));
    hand_damaged(row, "zeros", numbers);
    free(numbers);
    for (int i = 0; i < hand.count_seen; i++) {
        // The biases of two branches that are added have one gradient.
        const Compared* other = &hand.seen[i].row;
        if (other->gpu.count != row->gpu.count ||
            memcmp(other->exact, row->exact, row->gpu.count * sizeof(real)) == 0) {
            continue;
        }
        char* what = format_string("numbers of %s", other->name);
        hand_damaged(row, what, hand.seen[i].numbers);
        free(what);
    }
    if (hand.count_seen == HAND_SEEN) { die("a test compares more than %d tensors", HAND_SEEN); }
    hand.seen[hand.count_seen].row = *row;
    hand.seen[hand.count_seen++].numbers = own;
    return good;
}

// The model's weights and verdicts go through the hand.
static void hand_on(Model* model) {
    hand.upload = model->upload;
    model->upload = hand_upload;
    comparison_verdict = hand_judge;
}

#endif

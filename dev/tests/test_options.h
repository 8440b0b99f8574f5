// test_options.h - tests of common/run/options.h.
#ifndef PONDER_TEST_OPTIONS_H
#define PONDER_TEST_OPTIONS_H

#include "../../common/run/options.h"
#include "test.h"

static void options_example(OptionTable* table) {
    const Option rows[] = {
        {"run", "steps", OPTION_INT, NULL, "N", 1, (double)INFINITY, RESUME_FREE, "optimiser steps"},
        {"run", "help", OPTION_FLAG, NULL, NULL, 0, 0, RESUME_RUN, "print this"},
        {"run", "plan", OPTION_FLAG, NULL, "a100|h100", 0, 0, RESUME_RUN, "only look"},
        {"data", "shuffle", OPTION_INT, "1", "0|1", 0, 1, RESUME_FIXED, "order"},
        {"data", "train", OPTION_TEXT, "", "GLOB", 0, 0, RESUME_FREE, "shards"},
        {"data", "any", OPTION_INT, "-3", "N", 0, 0, RESUME_FREE, "any whole number"},
        {"run", "lr", OPTION_NUMBER, "1e-3", "X", 0, 10, RESUME_FREE,
         "learning rate, with so many words to say about it that they do not fit into one line of a hundred columns at "
         "all"},
        {"run", "schedule", OPTION_CHOICE, "cosine", "cosine|linear|constant", 0, 0, RESUME_FREE,
         "of the learning rate"},
    };
    options_add(table, rows, (int)(sizeof rows / sizeof rows[0]));
}

// Splits a line at its blanks and parses it; '~' stands for an empty argument.
static void options_parse_line(OptionTable* table, const char* line) {
    static char text[1024];
    char* argv[32] = {(char*)"program"};
    int argc = 1;
    snprintf(text, sizeof text, "%s", line);
    for (char* word = strtok(text, " "); word; word = strtok(NULL, " ")) {
        argv[argc++] = strcmp(word, "~") == 0 ? (char*)"" : word;
    }
    options_example(table);
    options_parse(table, argc, argv);
}

static void test_options_values(void) {
    OptionTable t = {0};
    options_parse_line(
        &t, "--steps 12 --lr=2.5e-4 --shuffle=0 --train a*.bin --schedule linear --any -9223372036854775808");
    CHECK(options_int(&t, "steps") == 12 && options_given(&t, "steps"), "a value after a blank");
    CHECK(options_number(&t, "lr") == 2.5e-4, "a value after =");
    CHECK(options_int(&t, "shuffle") == 0, "a 0|1 option");
    CHECK(strcmp(options_text(&t, "train"), "a*.bin") == 0, "text");
    CHECK(strcmp(options_text(&t, "schedule"), "linear") == 0, "a choice");
    CHECK(options_int(&t, "any") == INT64_MIN, "the smallest whole number");
    CHECK(!options_given(&t, "plan") && !options_set(&t, "plan"), "a flag that is not there");

    OptionTable d = {0};
    options_parse_line(&d, "");
    CHECK(!options_set(&d, "steps") && !options_set(&d, "train") && options_text(&d, "train") == NULL,
          "no default: unset");
    CHECK(options_set(&d, "lr") && !options_given(&d, "lr") && options_number(&d, "lr") == 1e-3,
          "a default is set, not given");
    CHECK(options_int(&d, "any") == -3, "a negative default");

    OptionTable r = {0};
    options_parse_line(&r, "--steps 1 --steps=3 --train=--odd --plan --lr 10");
    CHECK(options_int(&r, "steps") == 3, "the later one counts");
    CHECK(strcmp(options_text(&r, "train"), "--odd") == 0, "a value that begins with -- after =");
    CHECK(options_given(&r, "plan") && strcmp(options_text(&r, "plan"), "") == 0,
          "a flag that may have a value, without it");
    CHECK(options_number(&r, "lr") == 10, "the limit itself is allowed");
    OptionTable p = {0};
    options_parse_line(&p, "--plan=h100 --train ~ -h");
    CHECK(strcmp(options_text(&p, "plan"), "h100") == 0, "and with it");
    CHECK(options_given(&p, "train") && options_text(&p, "train")[0] == 0, "an empty text is a value");
    CHECK(options_given(&p, "help"), "-h");
}

static void options_die(void* line) {
    OptionTable t = {0};
    options_parse_line(&t, (const char*)line);
}

static void test_options_errors(void) {
    static const char* const cases[][2] = {
        {"--steps 10x", "--steps|10x|whole number|at least 1"},
        {"--steps 1.5", "--steps|1.5|whole number"},
        {"--steps 1e3", "--steps|1e3|whole number"},
        {"--steps 0", "--steps|'0'|at least 1"},
        {"--steps -1", "--steps|'-1'|at least 1"},
        {"--steps 0x10", "--steps|0x10"},
        {"--steps=", "--steps|''|whole number"},
        {"--steps +", "--steps|'+'"},
        {"--steps 9223372036854775808", "--steps|64 bits"},
        {"--any 99999999999999999999", "--any|64 bits"},
        {"--steps", "--steps needs a value|at least 1"},
        {"--steps --lr 1", "--steps needs a value"},
        {"--train --lr", "--train needs a value|--name=value"},
        {"--lr nan", "--lr|nan|0 to 10"},
        {"--lr inf", "--lr|inf"},
        {"--lr -inf", "--lr|-inf"},
        {"--lr 1e999", "--lr|1e999|fit"},
        {"--lr 1e-999", "--lr|1e-999|fit"},
        {"--lr 10.5", "--lr|10.5|a number, 0 to 10"},
        {"--lr 0x1p3", "--lr|0x1p3"},
        {"--lr 1,5", "--lr|1,5"},
        {"--lr 1e", "--lr|'1e'"},
        {"--lr .", "--lr|'.'"},
        {"--shuffle 2", "--shuffle|'2'|0 or 1"},
        {"--schedule cos", "--schedule|'cos'|one of cosine, linear, constant"},
        {"--schedule cosine|linear", "--schedule|one of"},
        {"--schedule=", "--schedule|''"},
        {"--help=1", "--help|no value"},
        {"--help=", "--help|no value"},
        {"--plan=h20", "--plan|h20|one of a100, h100"},
        {"--stpes 3", "unknown option --stpes|did you mean --steps?"},
        {"--learning-rate 3", "unknown option --learning-rate|--help"},
        {"--sched=linear", "unknown option --sched|did you mean --schedule?"},
        {"file.bin", "stray argument 'file.bin'"},
        {"--lr 1 2", "stray argument '2'"},
        {"-steps 3", "stray argument '-steps'|two dashes"},
        {"--", "stray argument '--'"},
        {"--=3", "unknown option --"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        expect_death(cases[i][0], options_die, (void*)cases[i][0], cases[i][1]);
    }
}

static void options_misuse(void* which) {
    OptionTable t = {0};
    options_example(&t);
    switch (*(const int*)which) {
        case 0: options_int(&t, "nothing"); break;
        case 1: options_int(&t, "steps"); break;     // unset
        case 2: options_int(&t, "lr"); break;        // not whole
        case 3: options_number(&t, "train"); break;  // no number
        case 4: options_example(&t); break;          // every name twice
        case 5: {
            const Option bad = {"run", "bad", OPTION_INT, "2", "0|1", 0, 1, RESUME_RUN, "its default is not allowed"};
            options_add(&t, &bad, 1);
            break;
        }
    }
}

// Options that only another program has: it is named, and they are in no other way there.
static const Option options_other[] = {
    {"run", "gpus", OPTION_INT, "2", "N", 1, 8, RESUME_RUN, "of them"},
    {"run", "zero", OPTION_FLAG, NULL, NULL, 0, 0, RESUME_RUN, "a flag"},
};
static void options_other_die(void* argument) {
    OptionTable t = {0};
    options_add_if(0, &t, options_other, 1);
    options_add_if(0, &t, options_other + 1, 1);
    t.others = "the GPU programs, build/x_cuda";
    options_parse_line(&t, (const char*)argument);
}
static void test_options_of_others(void) {
    static const char* const cases[][2] = {
        {"--gpus 2", "--gpus is an option of the GPU programs, build/x_cuda"},
        {"--steps 3 --gpus=2", "--gpus is an option of the GPU programs"},
        {"--zero", "--zero is an option of the GPU programs"},
        {"--zer 1", "unknown option --zer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        expect_death(cases[i][0], options_other_die, (void*)cases[i][0], cases[i][1]);
    }
    OptionTable t = {0};
    options_add_if(0, &t, options_other, 2);
    CHECK(t.count == 0 && !options_find(&t, "gpus"), "an option of another program is in the table");
    OptionTable here = {0};
    options_add_if(1, &here, options_other, 2);
    CHECK(options_int(&here, "gpus") == 2 && here.other_count == 0, "an option of this program is not in the table");
}

static void test_options_misuse(void) {
    static const char* const words[] = {"nothing",          "steps|no value", "lr|wrong kind",
                                        "train|wrong kind", "steps|twice",    "bad|0 or 1"};
    for (int i = 0; i < 6; i++) { expect_death("a mistake of the program", options_misuse, &i, words[i]); }
}

static void test_options_help(void) {
    OptionTable t = {0};
    options_example(&t);
    char* text = NULL;
    size_t size = 0;
    FILE* file = open_memstream(&text, &size);
    options_help(&t, file);
    fclose(file);
    for (int i = 0; i < t.count; i++) {
        char* name = format_string("  --%s", t.rows[i].name);
        CHECK(strstr(text, name) != NULL, "no %s in the help", name);
        free(name);
    }
    const char* run = strstr(text, "\nrun\n");
    const char* data = strstr(text, "\ndata\n");
    CHECK(run && data && run < data && !strstr(run + 1, "\nrun\n"),
          "each group stands once, in the order of the table");
    CHECK(run && data && strstr(run, "--lr X") && strstr(run, "--lr X") < data, "a row added later joins its group");
    CHECK(strstr(text, "(at least 1)") && strstr(text, "1e-3;"), "limits and default of a number");
    CHECK(strstr(text, "order (default 1)") && !strstr(text, "0 or 1"), "what the values say need not be said again");
    CHECK(strstr(text, "--plan[=a100|h100]"), "a flag that may have a value");
    CHECK(strstr(text, "--schedule cosine|linear|constant"), "choices");
    size_t widest = 0;
    for (const char* p = text; *p; p += strcspn(p, "\n") + 1) { widest = max_size(widest, strcspn(p, "\n")); }
    CHECK(widest <= 100 && widest > 80, "the widest line has %zu columns", widest);
    free(text);
}

static void test_options_nearest(void) {
    CHECK(option_distance("kitten", "sitting") == 3, "a known distance");
    CHECK(option_distance("", "abc") == 3 && option_distance("abc", "") == 3, "to nothing");
    CHECK(option_distance("abc", "abc") == 0, "to itself");
    OptionTable t = {0};
    options_example(&t);
    CHECK(options_nearest(&t, "zzzzzz") == NULL, "nothing is alike");
}

static void options_tests(void) {
    RUN(test_options_values);
    RUN(test_options_errors);
    RUN(test_options_of_others);
    RUN(test_options_misuse);
    RUN(test_options_help);
    RUN(test_options_nearest);
}

#endif

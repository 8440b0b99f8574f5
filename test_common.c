// test_common.c - the files of common/, the data and comparison tools: one header of tests each.
//
// With -DARITHMETIC=1 only the tests of arithmetic, many of which hold a hash of their results: the
// Makefile builds those for the portable instruction set as well. With -DREAL=double the plain versions are all there
// is: then only what judges them runs, finite differences of attention above all. With -DARITHMETIC=0 all the others.
#ifndef ARITHMETIC
#define ARITHMETIC 1
#define OTHERS 1
#else
#define OTHERS !ARITHMETIC
#endif
#include "dev/tests/test.h"
#if ARITHMETIC
#include "dev/tests/test_matmul.h"  // first: it puts a scheduler into common/gemm.h
#include "dev/tests/test_adamw.h"
#include "dev/tests/test_attention.h"
#include "dev/tests/test_math.h"
#include "dev/tests/test_random.h"
#endif
#if OTHERS
#include "dev/tests/test_arena.h"
#include "dev/tests/test_bytes.h"
#include "dev/tests/test_checkpoint.h"
#include "dev/tests/test_file.h"
#include "dev/tests/test_harness.h"
#include "dev/tests/test_json.h"
#include "dev/tests/test_ledger.h"
#include "dev/tests/test_options.h"
#include "dev/tests/test_ranks.h"
#include "dev/tests/test_resume.h"
#include "dev/tests/test_safetensors.h"
#include "dev/tests/test_sample.h"
#include "dev/tests/test_scaling.h"
#include "dev/tests/test_shards.h"
#include "dev/tests/test_tensors.h"
#include "dev/tests/test_threads.h"
#include "dev/tests/test_tokenizer.h"
#include "dev/tests/test_tokens.h"
#include "dev/tests/test_train.h"
#include "dev/tests/test_save.h"  // with test_train.h's runs
// This one includes a whole program, whose main gets another name.
#pragma push_macro("MAIN")
#undef MAIN
#define MAIN compare_main
#include "dev/tests/test_compare.h"
#pragma pop_macro("MAIN")
#include "dev/tests/test_loop.h"  // after the programs whose mains it calls
#endif

#if ARITHMETIC
static void double_tests(void) {
    RUN(test_math_special);
    RUN(test_gemm_reference);
    RUN(test_gemm_nothing);
    RUN(test_matmul_layer);
    RUN(test_conv1d_layer);
    RUN(test_column_sums);
    RUN(test_attention_differences);
    RUN(test_attention_causal);
    RUN(test_attention_causal_backward);
    RUN(test_adamw_update);
}
#endif

int MAIN(int argc, char** argv);
int MAIN(int argc, char** argv) {
#if OTHERS
    // Tests run this program again: as a trainer of a toy model, as one whose threads wait, as a rank.
    if (argc > 1 && strcmp(argv[1], "--toy-trainer") == 0) { return toy_trainer_main(argc - 1, argv + 1); }
    if (argc > 1 && strcmp(argv[1], "--threads") == 0) { return threads_report_main(argc, argv); }
    if (argc > 2 && strcmp(argv[1], "--toy-rank") == 0) { return ranks_toy_main(argc, argv); }
#endif
    test_begin(argc, argv);
#if OTHERS
    // Tests that fork come first: a forked child must not meet a parallel region of its parent's.
    harness_tests();
    arena_tests();
    options_tests();
    file_tests();
    json_tests();
    ledger_tests();
    ranks_tests();
    safetensors_tests();
    checkpoint_tests();
    shards_tests();
    tensors_tests();
    tokenizer_tests();
    tokens_tests();
    bytes_tests();
    compare_tests();
    resume_tests();
    sample_tests();
    scaling_tests();
    threads_tests();
    train_tests();
    loop_tests();
    save_tests();
#endif
#if ARITHMETIC
    if (sizeof(real) == sizeof(double)) {
        double_tests();
        return test_end();
    }
    random_tests();
    math_tests();
    matmul_tests();
    attention_tests();
    adamw_tests();
#endif
    return test_end();
}

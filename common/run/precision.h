// precision.h - what a run computes in, --precision: fp32 or bf16.
//
// What layers store is a type (base.h), so a CPU program is there twice, and dispatch.c knows the main() of the second. The
// one in fp32 begins; where the run is in bf16 it leaves everything to the other, before it has said or written anything. On
// a GPU each is a program by itself.
#ifndef PONDER_PRECISION_H
#define PONDER_PRECISION_H

#include "../files/checkpoint.h"
#include "../machine.h"
#include "../model.h"
#include "resume.h"

// The main() of this program in bf16; NULL: there is none. Weak, as dispatch.c, which sets it, is not in every program.
__attribute__((weak)) int (*program_bf16)(int argc, char** argv);

static inline void precision_options(OptionTable* table) {
    const Option row[] = {
        {"run", "precision", OPTION_CHOICE, GPU ? program_precision() : "fp32", "fp32|bf16", 0, 0, RESUME_FREE,
         GPU ? "what the run is computed in: what this program is built for; the other value names the program for that"
             : "bf16: layers store their activations, and read weights, in 16 bits, as on a GPU; sums, the residual "
               "stream, the optimiser and checkpoints stay in fp32; --resume goes on in what the run is in"},
    };
    options_add(table, row, 1);
}

// What the run in `out` is in by its newest checkpoint, as --resume will find it; NULL: it does not say. Only looks.
static inline const char* precision_of_run(const char* out) {
    char* checkpoint = checkpoint_expected(out);
    if (!checkpoint) { return NULL; }
    char* path = format_string("%s/trainer_state.json", checkpoint);
    const Json* state = json_read(path);
    free(checkpoint);
    return state->type == JSON_OBJECT ? state_option(state, "precision", path) : NULL;
}

// With the options of the command line: goes on in the program that computes in what the run is in, and does not return. out:
// where --resume finds the run; NULL: the program has none.
static inline void precision_enter(const OptionTable* options, const char* program, const char* out, int argc,
                                   char** argv) {
    const char *here = program_precision(), *given = NULL, *wanted = NULL;
    if (options_given(options, "precision")) { wanted = given = options_text(options, "precision"); }
    if (!GPU && !given && out && options_given(options, "resume")) { wanted = precision_of_run(out); }
    if (!wanted || strcmp(wanted, here) == 0) { return; }
    if (GPU) {
        const char* end = strcmp(wanted, "fp32") == 0 ? "_fp32" : "";
        die("--precision %s: this program computes in %s; build/%s_cuda%s computes in %s (build/%s_emu%s under the "
            "emulator)",
            wanted, here, program, end, wanted, program, end);
    }
    if (KEPT_ROUNDS) { return; }  // by a checkpoint that came between two looks: precision_settle() says so
    if (!program_bf16) {
        die("--precision %s%s%s: this program has no bf16 for %s instructions (on x86 it takes a processor with AVX2 "
            "and FMA); expected --precision fp32",
            wanted, given ? "" : ", as the run in --out ", given ? "" : out, machine_isa());
    }
    exit(program_bf16(argc, argv));
}

// Once the options of a run that is resumed are there: the run is in what this program computes in, and where that is a
// change, *altered has it. (That numbers are computed in something else is said of model_arithmetic().)
static inline void precision_settle(OptionTable* options, char** altered) {
    Option* o = options_row(options, "precision");
    if (strcmp(o->text, program_precision()) == 0) { return; }
    option_assign(o, program_precision(), "");
    state_note_option(altered, o);
}

#endif

// train_options.h - the options that all trainers have: data, run, optimiser, samples and texts, what a GPU program has beside
// them. What a model has of its own is in ponder.cuh and sizes.h, ranks' in launch.h.
#ifndef PONDER_TRAIN_OPTIONS_H
#define PONDER_TRAIN_OPTIONS_H

#include "../ledger.h"
#include "options.h"
#include "precision.h"
#include "ranks.h"

// Options of every model that computes on a GPU: its add_options() calls this. The CPU program knows their names.
static inline void gpu_options(OptionTable* table) {
    const Option gpu[] = {
        {"GPU", "graph", OPTION_INT, "1", "0|1", 0, 1, RESUME_RUN,
         "1: capture the micro-batch in a CUDA graph, once one of its shape has run"},
        {"GPU", "tune", OPTION_INT, "1", "0|1", 0, 1, RESUME_RUN,
         "1: time cuBLASLt's algorithms for each shape before the first step and keep the choice in --out, so that a "
         "resumed run gives the same bits; 0: take the library's first proposal"},
        {"GPU", "compare-cpu", OPTION_FLAG, NULL, NULL, 0, 0, RESUME_RUN,
         "run one micro-batch on GPU and CPU, compare tensor by tensor, and exit"},
        {"look", "plan-machine", OPTION_INT, NULL, "N", 1, 1024, RESUME_RUN,
         "of --plan=CARD with several GPUs: how many are in a machine [default: 8]"},
        {"look", "plan-link", OPTION_NUMBER, NULL, "GB/S", 1e-3, 1e6, RESUME_RUN,
         "the same: what a GPU sends to the others of its machine a second, and receives [default: the card's NVLink "
         "or "
         "PCIe]"},
        {"look", "plan-network", OPTION_NUMBER, NULL, "GB/S", 1e-3, 1e6, RESUME_RUN,
         "the same: what each GPU sends to other machines a second, and receives [default: that of usual machines with "
         "this card]"},
    };
    options_add_if(GPU, table, gpu, (int)(sizeof gpu / sizeof gpu[0]));
    ranks_options(GPU, table);
}

static inline void generate_options(OptionTable* table) {
    static const Option rows[] = {
        {"generate", "generate", OPTION_FLAG, NULL, NULL, 0, 0, RESUME_RUN,
         "continue prompts with the model of --model DIR (or with --resume of --out): on standard output the "
         "continuation "
         "alone, or lines of JSON for several; --batch of them at a time (1), --sample-tokens, --temperature, --top-k, "
         "--top-p and --seed as below"},
        {"generate", "prompt-file", OPTION_TEXT, NULL, "FILE", 0, 0, RESUME_RUN,
         "a prompt, to its last byte; FILE.jsonl: one in each line, {\"text\": ...}; without it and --prompt, standard "
         "input"},
        {"generate", "stop", OPTION_TEXTS, NULL, "TEXT", 0, 0, RESUME_RUN,
         "end before this text; may be given several times"},
        {"generate", "repetition-penalty", OPTION_NUMBER, "1", "X", 1e-3, 1e3, RESUME_RUN,
         "logits of tokens that the text has are divided by it if above 0, else multiplied; before the temperature"},
        {"generate", "context", OPTION_INT, "", "N", 1, 1 << 24, RESUME_RUN,
         "most tokens of a text, prompt and continuation [default: the positions that the model is made for]"},
    };
    options_add(table, rows, (int)(sizeof rows / sizeof rows[0]));
    static const Option cpu[] = {
        {"generate", "weights", OPTION_CHOICE, "fp32", "fp32|bf16", 0, 0, RESUME_RUN,
         "bf16: round matrices and tables to 16 bits, for half the memory and more tokens a second, and say what that "
         "changes; for --generate, --explain and --eval-only"},
    };
    options_add_if(!GPU, table, cpu, 1);
}

// 1 if weights are to be rounded for inference.
static inline int options_round_weights(const OptionTable* options) {
    const Option* o = options_find(options, "weights");
    return o && strcmp(o->text, "bf16") == 0;
}

static inline void explain_options(OptionTable* table) {
    static const Option rows[] = {
        {"look", "explain", OPTION_FLAG, NULL, NULL, 0, 0, RESUME_RUN,
         "show what the model of --model DIR (or with --resume of --out) predicts after each of its passes, at every "
         "position of one prompt, read as for --generate: a table on standard output, and --page"},
        {"look", "page", OPTION_TEXT, "explain.html", "FILE", 0, 0, RESUME_RUN,
         "the page that --explain writes, one HTML file for any browser"},
        {"look", "candidates", OPTION_INT, "5", "N", 1, 50, RESUME_RUN,
         "of --explain: how many of the most probable tokens of each pass are shown; in the table at most 6"},
    };
    options_add(table, rows, (int)(sizeof rows / sizeof rows[0]));
}

static inline void trainer_options(OptionTable* table, char* model_values, char* model_help,
                                   const char* default_model) {
    const double MANY = (double)INFINITY;
    const Option model[] = {
        {"model", "model", OPTION_TEXT, default_model, model_values, 0, 0, RESUME_FIXED, model_help},
    };
    options_add(table, model, 1);
    const Option rows[] = {
        {"data", "train", OPTION_TEXT, NULL, "GLOB", 0, 0, RESUME_FREE,
         "shards to train on (.bin files as in llm.c), sorted by name"},
        {"data", "val", OPTION_TEXT, NULL, "GLOB", 0, 0, RESUME_FREE,
         "shards to validate on; without them nothing is validated"},
        {"data", "tokenizer", OPTION_TEXT, NULL, "DIR|FILE", 0, 0, RESUME_FREE,
         "of the data, for prompts and samples, carried in checkpoints: a tokenizer.json or tokenizer.model, or a "
         "directory "
         "with one or with vocab.json and merges.txt [default: that of a --model directory; bytes for a vocabulary of "
         "257]"},
        {"data", "seq", OPTION_INT, NULL, "N", 1, 1 << 24, RESUME_FIXED,
         "tokens of a row, the length of the context [default: what the model is made for]"},
        {"data", "batch", OPTION_INT, GPU ? NULL : "8", "N", 1, 1 << 24, RESUME_FREE,
         GPU ? "rows that pass through the model together (a micro-batch) [default: those with which a step takes "
               "least, by shapes and the card alone; a resumed run keeps them]"
             : "rows that pass through the model together (a micro-batch)"},
        {"data", "total-batch", OPTION_INT, NULL, "TOKENS", 1, MANY, RESUME_FIXED,
         GPU ? "tokens of an optimiser step on all ranks, a multiple of --seq; gradients of micro-batches are added up "
               "to "
               "it; by default one batch on every rank, 8 rows without --batch"
             : "tokens of an optimiser step, a multiple of --seq; gradients of micro-batches are added up to it; by "
               "default one batch"},
        {"data", "shuffle", OPTION_INT, "1", "0|1", 0, 1, RESUME_FIXED,
         "1: rows in an order drawn anew in each epoch; 0: in the order of the files"},
        {"data", "seed", OPTION_INT, "42", "N", 0, MANY, RESUME_FIXED,
         "of the initial weights, the order of the data, and samples"},

        {"run", "out", OPTION_TEXT, "out", "DIR", 0, 0, RESUME_RUN,
         "for checkpoints (DIR/step_00000010/ and so on) and metrics.jsonl"},
        {"run", "steps", OPTION_INT, NULL, "N", 0, 1e15, RESUME_FREE,
         "optimiser steps of the whole run; wins over --epochs"},
        {"run", "epochs", OPTION_NUMBER, "1", "X", 1e-9, 1e6, RESUME_FREE,
         "times through the training data, rounded down to whole steps"},
        {"run", "flops", OPTION_NUMBER, NULL, "X", 1, 1e30, RESUME_FREE,
         "floating-point operations of the whole run, forward and backward, rounded down to whole steps; instead of "
         "--steps and --epochs"},
        {"run", "max-minutes", OPTION_NUMBER, NULL, "X", 0, 1e9, RESUME_RUN,
         "stop after this time, with a checkpoint that --resume goes on from"},
        {"run", "resume", OPTION_FLAG, NULL, "same", 0, 0, RESUME_RUN,
         "go on from the newest checkpoint in --out, with its options unless given; without one start at step 0; a "
         "finished run prints its results; same: only if the run was begun with the options of this command line"},
        {"run", "eval-only", OPTION_FLAG, NULL, NULL, 0, 0, RESUME_RUN,
         "only print the validation loss (with --resume: of the newest checkpoint in --out)"},
        {"run", "save-every", OPTION_INT, "0", "N", 0, MANY, RESUME_FREE,
         "steps between checkpoints; 0: only the last step"},
        {"run", "keep", OPTION_INT, "2", "N", 0, 1 << 24, RESUME_FREE, "newest checkpoints that are kept; 0: all"},
        {"run", "val-every", OPTION_INT, "250", "N", 0, MANY, RESUME_FREE,
         "steps between validations; 0: only before the first and after the last step"},
        {"run", "val-batches", OPTION_INT, "20", "N", 0, 1 << 30, RESUME_FREE,
         GPU ? "batches of a validation on every rank, of 8 rows without --batch, the first of the data; 0: all of it"
             : "batches of a validation, the first of the data; 0: all of it"},
        {"run", "sample-every", OPTION_INT, "0", "N", 0, MANY, RESUME_FREE,
         "steps between samples; 0: only after the last step"},
        {"run", "log-every", OPTION_INT, "1", "N", 1, MANY, RESUME_FREE,
         "steps between progress lines, on the screen and in metrics.jsonl; the last step always has one"},
        {"run", "dump", OPTION_TEXT, NULL, "DIR", 0, 0, RESUME_RUN,
         "write tokens, logits, gradients and loss of one step as safetensors to DIR, and exit"},

        {"optimiser", "lr", OPTION_NUMBER, "1e-3", "X", 0, 1e6, RESUME_FREE, "peak learning rate"},
        {"optimiser", "schedule", OPTION_CHOICE, "cosine", "cosine|linear|constant", 0, 0, RESUME_FREE,
         "of the learning rate after the warm-up"},
        {"optimiser", "min-lr-ratio", OPTION_NUMBER, "0.1", "X", 0, 1, RESUME_FREE,
         "share of the peak at the end of the schedule"},
        {"optimiser", "warmup-ratio", OPTION_NUMBER, "0.01", "X", 0, 1, RESUME_FREE,
         "share of all steps in which the learning rate rises"},
        {"optimiser", "warmup-steps", OPTION_INT, NULL, "N", 0, 1e15, RESUME_FREE,
         "the same in steps; wins over --warmup-ratio"},
        {"optimiser", "weight-decay", OPTION_NUMBER, "0.01", "X", 0, 1e6, RESUME_FREE,
         "decoupled, of tensors with two dimensions"},
        {"optimiser", "beta1", OPTION_NUMBER, "0.9", "X", 0, 0.999999999, RESUME_FREE, "decay of the first moment"},
        {"optimiser", "beta2", OPTION_NUMBER, "0.95", "X", 0, 0.999999999, RESUME_FREE, "decay of the second moment"},
        {"optimiser", "eps", OPTION_NUMBER, "1e-8", "X", 1e-30, 1, RESUME_FREE,
         "added to the root of the second moment"},
        {"optimiser", "clip", OPTION_NUMBER, "1.0", "X", 0, 1e30, RESUME_FREE, "largest norm of the gradient; 0: off"},

        {"sample", "prompt", OPTION_TEXT, NULL, "TEXT", 0, 0, RESUME_FREE,
         "what samples begin with; by default the start of the validation data"},
        {"sample", "sample-tokens", OPTION_INT, "256", "N", 0, 1 << 20, RESUME_FREE,
         "length of a sample; 0: no samples"},
        {"sample", "temperature", OPTION_NUMBER, "1", "X", 0, 1e6, RESUME_FREE,
         "logits are divided by it; 0: always the most probable token"},
        {"sample", "top-k", OPTION_INT, "0", "N", 0, 1 << 30, RESUME_FREE,
         "draw from the N most probable tokens; 0: from all"},
        {"sample", "top-p", OPTION_NUMBER, "1", "X", 1e-9, 1, RESUME_FREE,
         "draw from the fewest tokens that hold this share of the probability"},

        {"look", "help", OPTION_FLAG, NULL, NULL, 0, 0, RESUME_RUN, "print this, and exit"},
        {"look", "plan", OPTION_FLAG, NULL, GPU ? card_names() : NULL, 0, 0, RESUME_RUN,
         GPU ? "print memory and FLOPs of the run, and exit; with a card's name also what every kernel takes there at "
               "least, without a GPU"
             : "print memory and FLOPs of the run, and exit"},
    };
    options_add(table, rows, (int)(sizeof rows / sizeof rows[0]));
    precision_options(table);
    generate_options(table);
    explain_options(table);
}

// What this invocation reads prompts for, "generate" or "explain"; NULL: it does neither, or has no such options (a tool).
static inline const char* options_prompts(const OptionTable* options) {
    static const char* const names[] = {"generate", "explain"};
    for (int i = 0; i < 2; i++) {
        const Option* o = options_find(options, names[i]);
        if (o && o->given) { return names[i]; }
    }
    return NULL;
}

// The options on the command line that --generate or --explain do not look at or, without them, that nothing else does:
// "--seq, --lr"; NULL: none. The caller frees it.
static inline char* options_unused(const OptionTable* options) {
    static const char training[] = "train|val|seq|total-batch|shuffle|steps|epochs|flops|max-minutes|save-every|keep|"
                                   "val-every|val-batches|sample-every|log-every",
                      drawing[] = "batch|sample-tokens|temperature|top-k|top-p|seed|stop|repetition-penalty",
                      pages[] = "page|candidates",
                      prompts[] = "prompt-file|stop|repetition-penalty|context|page|candidates";
    const char* what = options_prompts(options);
    StringBuilder sb = {0};
    for (int i = 0; i < options->count; i++) {
        const Option* o = &options->rows[i];
        int unused = !what ? option_is_choice(prompts, o->name)
                           : strcmp(o->group, "optimiser") == 0 || option_is_choice(training, o->name) ||
                                 option_is_choice(strcmp(what, "generate") == 0 ? pages : drawing, o->name);
        if (o->given && unused) { sb_printf(&sb, "%s--%s", sb.size ? ", " : "", o->name); }
    }
    return sb.data;
}

#endif

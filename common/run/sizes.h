// sizes.h - how large a model is: what presets say of it, and the options that say otherwise.
#ifndef PONDER_SIZES_H
#define PONDER_SIZES_H

#include "../pass.h"
#include "options.h"

typedef struct {
    const char* name;  // NULL ends a list
    Sizes size;
} Preset;

static inline void sizes_options(OptionTable* options) {
    static const Option rows[] = {
        {"model", "tie", OPTION_INT, "", "0|1", 0, 1, RESUME_FIXED,
         "1: the head is the input embedding table [default: the preset's, or the configuration's]"},
        {"model", "vocab", OPTION_INT, "", "N", 1, 1 << 24, RESUME_FIXED, "vocabulary size [default: the preset's]"},
        {"model", "layers", OPTION_INT, "", "N", 1, 1000, RESUME_FIXED, "layers [default: the preset's]"},
        {"model", "width", OPTION_INT, "", "N", 1, 1 << 20, RESUME_FIXED,
         "width C of the residual stream [default: the preset's]"},
        {"model", "heads", OPTION_INT, "", "N", 1, 1 << 16, RESUME_FIXED, "attention heads [default: the preset's]"},
        {"model", "kv-heads", OPTION_INT, "", "N", 1, 1 << 16, RESUME_FIXED,
         "heads of keys and values, where they are grouped [default: the preset's; with --heads as many as those]"},
        {"model", "ff", OPTION_INT, "", "N", 1, 1 << 22, RESUME_FIXED,
         "inner width of the MLP [default: the preset's; with --width what is usual for it]"},
    };
    options_add(options, rows, (int)(sizeof rows / sizeof rows[0]));
}

// Options on the command line go before config.json and presets.
static inline void sizes_override(const OptionTable* options, int (*usual_ff)(int C), Sizes* size) {
    const struct {
        const char* option;
        int* number;
    } sizes[] = {{"layers", &size->L}, {"width", &size->C}, {"heads", &size->NH}, {"kv-heads", &size->NKV},
                 {"ff", &size->FF},    {"vocab", &size->V}, {"tie", &size->tie}};
    if (options_given(options, "width") && !options_set(options, "ff")) {
        size->FF = usual_ff((int)options_int(options, "width"));
    }
    // What a preset or a configuration says of heads holds for its own width and number of them.
    if (options_set(options, "width") || options_set(options, "heads")) { size->HS = 0; }
    if (options_set(options, "heads")) { size->NKV = 0; }
    size->untied = size->tie && options_set(options, "tie") && !options_int(options, "tie");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (options_set(options, sizes[i].option)) { *sizes[i].number = (int)options_int(options, sizes[i].option); }
    }
}

// Head size and groups where nothing says them; dies in words where they do not come out even.
static inline void sizes_check_heads(Sizes* size, const char* path) {
    if (!size->HS && size->C % size->NH != 0) {
        die("%s: width %d is not a multiple of heads %d", path, size->C, size->NH);
    }
    if (!size->HS) { size->HS = size->C / size->NH; }
    if (!size->NKV) { size->NKV = size->NH; }
    if (size->NH % size->NKV != 0) {
        die("%s: heads %d are not a multiple of heads of keys and values %d", path, size->NH, size->NKV);
    }
}

#endif

// resume.h - what makes a run continuable: the lock on OUT, trainer_state.json, the options of a
// run that is resumed.
//
// trainer_state.json holds everything of a run that is neither a weight nor a moment: how far it
// is, what data it reads, every option that is not of one invocation only, and what it has learnt
// so far. Options are stored as the text they were written as, so nothing is lost in conversion; one
// that is not UTF-8 (a path in Latin-1, a prompt of bytes), which JSON cannot hold, also as
// hexadecimal digits.
#ifndef PONDER_RESUME_H
#define PONDER_RESUME_H

#include "../files/checkpoint.h"
#include "../files/json.h"
#include "log.h"
#include "options.h"

typedef struct {
    int64_t step;         // finished optimiser steps
    int64_t total_steps;  // of the run
    int64_t tokens;       // trained on so far
    int64_t position;     // rows taken from the stream so far
    int64_t seed;
    int64_t seq;
    int64_t total_batch;             // tokens of a step
    int64_t rows;                    // of the training data
    uint64_t shards;                 // hash of the training data
    int64_t val_rows;                // rows of a validation; 0: none
    int64_t val_batch;               // rows of one of its batches, as they are counted; 0: not known
    uint64_t val_shards;             // hash of the validation data
    uint64_t tokenizer;              // hash of the tokenizer's files
    int val_known, tokenizer_known;  // 0: not in the file, which is of a program that did not look yet
    const char* arithmetic;          // what computes, see model_arithmetic(); NULL: not known
    int64_t parameters;
    double flops_per_token;  // forward and backward
    double seconds;          // spent in training steps, over all invocations
    int64_t val_step;        // of the last validation; -1: none yet
    double val_loss;         // its loss
    double* val_loss_pass;   // (passes)
    int passes;
    double val_bytes;   // of text that a validated token stands for, in the mean; 0: not known
    int64_t best_step;  // of the best validation; -1: none yet
    double best_val_loss;
    int64_t val_since;  // step from which on the validations of the curve are of these data and rows
    char* altered;      // what was changed when the run was resumed, of all that its curve depends on; NULL: nothing
    char** commands;    // (command_count) command lines of the run, the first one first; room for two more
    int command_count;
} TrainerState;

// 1 if what a checkpoint was computed in, `then`, is what computes now, as far as it says that: older programs wrote nothing of
// what stands in parentheses.
static inline int resume_same_arithmetic(const char* then, const char* now) {
    const size_t n = strlen(then);
    return strcmp(then, now) == 0 || (strncmp(then, now, n) == 0 && strncmp(now + n, " (", 2) == 0);
}

// Makes the directory OUT, and makes it this process's own until it ends, however it ends. A second process is
// refused.
static inline void lock_out(const char* out) {
    char* error = directory_make(out);
    if (error) { die("--out %s: %s", out, error); }
    char* path = format_string("%s/lock", out);
    file_lock(path, out);
    free(path);
}

// ---- trainer_state.json ----

static inline void state_number(StringBuilder* sb, const char* key, double value) {
    if (isfinite(value)) {
        sb_printf(sb, "  \"%s\": %.17g,\n", key, value);
    } else {
        sb_printf(sb, "  \"%s\": null,\n", key);
    }
}

// The texts of options that are not UTF-8, byte by byte; nothing where all are.
static inline void state_hex(StringBuilder* sb, const OptionTable* options) {
    const char* before = "  \"options_hex\": {\n";
    const char* after = "";
    for (int i = 0; i < options->count; i++) {
        const Option* o = &options->rows[i];
        size_t n = o->resume != RESUME_RUN && o->set ? strlen(o->text) : 0, at = 0, length = 1;
        while (at < n && length) { at += length = json_utf8_length(o->text + at, n - at); }
        if (length) { continue; }
        sb_printf(sb, "%s    \"%s\": \"", before, o->name);
        for (size_t k = 0; k < n; k++) { sb_printf(sb, "%02x", (unsigned char)o->text[k]); }
        sb_append(sb, "\"", 1);
        before = ",\n";
        after = "\n  },\n";
    }
    sb_printf(sb, "%s", after);
}

// The names of the options whose values the program has chosen, where none were given.
static inline void state_chosen(StringBuilder* sb, const OptionTable* options) {
    const char* comma = "";
    sb_printf(sb, "  \"chosen\": [");
    for (int i = 0; i < options->count; i++) {
        const Option* o = &options->rows[i];
        if (!o->chosen || o->resume == RESUME_RUN) { continue; }
        sb_printf(sb, "%s\"%s\"", comma, o->name);
        comma = ", ";
    }
    sb_printf(sb, "],\n");
}

static inline int state_was_chosen(const Json* json, const char* name) {
    const Json* list = json_get(json, "chosen");
    for (int i = 0; list && list->type == JSON_ARRAY && i < list->count; i++) {
        if (json_is(list->items[i], name)) { return 1; }
    }
    return 0;
}

// The file's text; the caller frees it.
static inline char* state_text(const TrainerState* s, const OptionTable* options) {
    StringBuilder sb = {0};
    sb_printf(&sb, "{\n  \"step\": %lld,\n  \"total_steps\": %lld,\n  \"tokens\": %lld,\n  \"position\": %lld,\n",
              (long long)s->step, (long long)s->total_steps, (long long)s->tokens, (long long)s->position);
    sb_printf(&sb,
              "  \"seed\": %lld,\n  \"seq\": %lld,\n  \"total_batch\": %lld,\n  \"rows\": %lld,\n  \"shards\": "
              "\"%016llx\",\n",
              (long long)s->seed, (long long)s->seq, (long long)s->total_batch, (long long)s->rows,
              (unsigned long long)s->shards);
    sb_printf(&sb, "  \"val_rows\": %lld,\n  \"val_batch\": %lld,\n  \"parameters\": %lld,\n", (long long)s->val_rows,
              (long long)s->val_batch, (long long)s->parameters);
    if (s->val_known) { sb_printf(&sb, "  \"val_shards\": \"%016llx\",\n", (unsigned long long)s->val_shards); }
    if (s->tokenizer_known) { sb_printf(&sb, "  \"tokenizer\": \"%016llx\",\n", (unsigned long long)s->tokenizer); }
    const char* const texts[2][2] = {{"arithmetic", s->arithmetic}, {"altered", s->altered}};
    for (int i = 0; i < 2; i++) {
        if (!texts[i][1]) { continue; }
        sb_printf(&sb, "  \"%s\": ", texts[i][0]);
        json_append_string(&sb, texts[i][1], strlen(texts[i][1]));
        sb_printf(&sb, ",\n");
    }
    if (s->val_since > 0) { sb_printf(&sb, "  \"val_since\": %lld,\n", (long long)s->val_since); }
    state_number(&sb, "flops_per_token", s->flops_per_token);
    state_number(&sb, "flops", s->flops_per_token * (double)s->tokens);
    state_number(&sb, "seconds", s->seconds);
    if (s->val_step >= 0) {
        sb_printf(&sb, "  \"val_step\": %lld,\n", (long long)s->val_step);
        state_number(&sb, "val_loss", s->val_loss);
        sb_printf(&sb, "  \"val_loss_pass\": [");
        for (int i = 0; i < s->passes; i++) { sb_printf(&sb, "%s%.17g", i ? ", " : "", s->val_loss_pass[i]); }
        sb_printf(&sb, "],\n  \"best_val_step\": %lld,\n", (long long)s->best_step);
        state_number(&sb, "val_bytes_per_token", s->val_bytes);
        state_number(&sb, "best_val_loss", s->best_val_loss);
    }
    sb_printf(&sb, "  \"commands\": [");
    for (int i = 0; i < s->command_count; i++) {
        sb_printf(&sb, i ? ",\n    " : "\n    ");
        json_append_string(&sb, s->commands[i], strlen(s->commands[i]));
    }
    sb_printf(&sb, "%s],\n", s->command_count ? "\n  " : "");
    state_hex(&sb, options);
    state_chosen(&sb, options);
    sb_printf(&sb, "  \"options\": {");
    const char* comma = "";
    for (int i = 0; i < options->count; i++) {
        const Option* o = &options->rows[i];
        if (o->resume == RESUME_RUN) { continue; }
        sb_printf(&sb, "%s\n    \"%s\": ", comma, o->name);
        if (o->set) {
            json_append_string(&sb, o->text, strlen(o->text));
        } else {
            sb_printf(&sb, "null");
        }
        comma = ",";
    }
    sb_printf(&sb, "\n  }\n}\n");
    return sb.data;
}

// A whole number that must be there and not be negative.
static inline int64_t state_whole(const Json* json, const char* key, const char* path) {
    int64_t n = json_get_int(json, key, -1, path);
    if (n < 0) { die("%s: expected \"%s\" to be a whole number, at least 0", path, key); }
    return n;
}

// = *hash, 1; 0 where there is no such key.
static inline int state_hash(const Json* json, const char* key, const char* path, uint64_t* hash) {
    const char* text = json_get_string(json, key, NULL, path);
    if (!text) { return 0; }
    if (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16) {
        die("%s: expected \"%s\" to be 16 hexadecimal digits", path, key);
    }
    *hash = strtoull(text, NULL, 16);
    return 1;
}

// Reads the numbers (not the options) of a state.
static inline TrainerState state_read(const Json* json, const char* path) {
    TrainerState s;
    memset(&s, 0, sizeof s);
    if (json->type != JSON_OBJECT) { die("%s: expected a JSON object", path); }
    s.step = state_whole(json, "step", path);
    s.total_steps = state_whole(json, "total_steps", path);
    s.tokens = state_whole(json, "tokens", path);
    s.position = state_whole(json, "position", path);
    s.seed = state_whole(json, "seed", path);
    s.seq = state_whole(json, "seq", path);
    s.total_batch = state_whole(json, "total_batch", path);
    s.rows = state_whole(json, "rows", path);
    s.val_rows = state_whole(json, "val_rows", path);
    s.val_batch = json_get(json, "val_batch") ? state_whole(json, "val_batch", path) : 0;
    s.parameters = state_whole(json, "parameters", path);
    s.flops_per_token = json_get_number(json, "flops_per_token", 0, path);
    s.seconds = json_get_number(json, "seconds", 0, path);
    if (!state_hash(json, "shards", path, &s.shards)) {
        die("%s: expected \"shards\" to be 16 hexadecimal digits, found none", path);
    }
    s.val_known = state_hash(json, "val_shards", path, &s.val_shards);
    s.tokenizer_known = state_hash(json, "tokenizer", path, &s.tokenizer);
    s.arithmetic = json_get_string(json, "arithmetic", NULL, path);
    const char* altered = json_get_string(json, "altered", NULL, path);
    s.altered = altered ? format_string("%s", altered) : NULL;
    s.val_since = json_get(json, "val_since") ? state_whole(json, "val_since", path) : 0;
    s.val_step = json_get_int(json, "val_step", -1, path);
    s.best_step = json_get_int(json, "best_val_step", -1, path);
    s.val_loss = json_get_number(json, "val_loss", 0, path);
    s.best_val_loss = json_get_number(json, "best_val_loss", 0, path);
    s.val_bytes = json_get_number(json, "val_bytes_per_token", 0, path);
    const Json* commands = json_get(json, "commands");
    int count = commands && commands->type == JSON_ARRAY ? commands->count : 0;
    s.commands = (char**)xalloc((size_t)count + 2, sizeof(char*), "command lines");
    for (int i = 0; i < count; i++) {
        const Json* command = commands->items[i];
        if (command->type != JSON_STRING || strlen(command->string) != command->length) {
            die("%s: expected \"commands\" to be strings", path);
        }
        s.commands[s.command_count++] = format_string("%s", commands->items[i]->string);
    }
    const Json* of_pass = json_get(json, "val_loss_pass");
    if (of_pass && of_pass->type == JSON_ARRAY) {
        s.passes = of_pass->count;
        s.val_loss_pass = (double*)xalloc((size_t)s.passes, sizeof(double), "losses of the passes");
        for (int i = 0; i < s.passes; i++) {
            if (of_pass->items[i]->type != JSON_NUMBER) { die("%s: expected \"val_loss_pass\" to be numbers", path); }
            s.val_loss_pass[i] = of_pass->items[i]->number;
        }
    }
    return s;
}

// `--model preset:NAME` is NAME, also where a directory has that name.
#define PRESET_PREFIX "preset:"
static inline const char* preset_name(const char* model) {
    size_t n = strlen(PRESET_PREFIX);
    return strncmp(model, PRESET_PREFIX, n) == 0 ? model + n : model;
}

// 1 if two texts of one option mean the same.
static inline int state_same(const Option* o, const char* a, const char* b) {
    if (strcmp(a, b) == 0) { return 1; }
    if (strcmp(o->name, "model") == 0) { return strcmp(preset_name(a), preset_name(b)) == 0; }
    if (o->type == OPTION_INT) { return strtoll(a, NULL, 10) == strtoll(b, NULL, 10); }
    if (o->type == OPTION_NUMBER) { return strtod(a, NULL) == strtod(b, NULL); }
    return 0;
}

// 1 if a number on the curve of a run may depend on the option.
static inline int state_matters(const char* name) {
    static const char* const others[] = {"keep",          "log-every",   "save-every", "sample-every", "prompt",
                                         "sample-tokens", "temperature", "top-k",      "top-p",        "zero"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (strcmp(name, others[i]) == 0) { return 0; }
    }
    return 1;
}

// The text of an option as it was given, NULL where it had none; it lives as long as `json`, or for ever. Of a run from before
// there was --precision its arithmetic begins with it.
static inline const char* state_option(const Json* json, const char* name, const char* path) {
    const char* hex = json_get_string(json_get(json, "options_hex"), name, NULL, path);
    if (!hex) {
        const char* text = json_get_string(json_get(json, "options"), name, NULL, path);
        if (text || strcmp(name, "precision") != 0) { return text; }
        const char* arithmetic = json_get_string(json, "arithmetic", "", path);
        return strncmp(arithmetic, "bf16 ", 5) == 0 ? "bf16" : strncmp(arithmetic, "fp32 ", 5) == 0 ? "fp32" : NULL;
    }
    size_t n = strlen(hex);
    char* text = (char*)xalloc(n / 2 + 1, 1, "an option");
    for (size_t i = 0; i < n / 2 * 2; i += 2) {
        const char digits[3] = {hex[i], hex[i + 1], 0};
        text[i / 2] = (char)strtoul(digits, NULL, 16);
    }
    if (n % 2 || strspn(hex, "0123456789abcdef") != n || strlen(text) != n / 2) {
        die("%s: \"options_hex\": \"%s\": expected pairs of hexadecimal digits, none of them 00, found \"%.40s\"", path,
            name, hex);
    }
    return text;
}

// 1 if the program that the run was computed by had the option.
static inline int state_knows(const Json* json, const char* name, const char* path) {
    return json_get(json_get(json, "options"), name) ||
           (strcmp(name, "precision") == 0 && state_option(json, name, path));
}

// --resume=same: dies unless the run was begun with the options of this command line, all that matter, given and not.
// count: ranks, each of which has a batch of a step where no --total-batch is given.
static inline void state_check_same(const Json* json, const char* path, const char* out, const OptionTable* options,
                                    int count) {
    StringBuilder differ = {0};
    for (int i = 0; i < options->count; i++) {
        const Option* o = &options->rows[i];
        if (o->resume == RESUME_RUN || !state_matters(o->name) || !state_knows(json, o->name, path)) { continue; }
        const char *then = state_option(json, o->name, path), *now = o->set ? o->text : NULL;
        int total = strcmp(o->name, "total-batch") == 0;
        if (!now && state_was_chosen(json, o->name) && !(total && options_set(options, "batch"))) {
            continue;  // as it would be again
        }
        char* derived = NULL;
        if (total && !now) {
            int64_t numbers[2] = {0, 0};
            static const char* const factors[2] = {"seq", "batch"};
            for (int f = 0; f < 2; f++) {
                const char* was = state_was_chosen(json, factors[f]) ? state_option(json, factors[f], path) : NULL;
                if (options_set(options, factors[f])) {
                    numbers[f] = options_int(options, factors[f]);
                } else if (was) {
                    numbers[f] = strtoll(was, NULL, 10);
                }
            }
            if (numbers[0] && numbers[1]) {
                now = derived = format_string("%lld", (long long)(numbers[0] * numbers[1] * count));
            }
        }
        if (!(then && now ? state_same(o, then, now) : then == now)) {
            sb_printf(&differ, "\n  --%s %s (now %s)", o->name, then ? then : "not set", now ? now : "not set");
        }
        free(derived);
    }
    const char* altered = json_get_string(json, "altered", NULL, path);
    if (altered) { sb_printf(&differ, "\n  changed when it was resumed: %s", altered); }
    if (differ.size) {
        die("--out %s holds a run with other options:%s\nremove that directory to train anew, or choose another --out",
            out, differ.data);
    }
}

// Adds to the list of what was changed; returns it.
static inline char* state_note_altered(char* altered, const char* what) {
    for (const char* at = altered; at && (at = strstr(at, what)) != NULL; at += strlen(what)) {
        const char next = at[strlen(what)];  // --val is not in the list where --val-every is
        if (next == 0 || next == ',') { return altered; }
    }
    char* longer = format_string("%s%s%s", altered ? altered : "", altered ? ", " : "", what);
    free(altered);
    return longer;
}
static inline void state_note_option(char** altered, const Option* o) {
    if (!altered || !state_matters(o->name)) { return; }
    char* name = format_string("--%s", o->name);
    *altered = state_note_altered(*altered, name);
    free(name);
}

// Options not given on the command line get their stored values; those given are compared: a
// RESUME_FIXED one must not differ, others may, and `said` gets a line for each. The stored texts
// must live as long as the table; what the curve depends on is noted in *altered, unless altered is NULL. An option that was not set when the run began is left to the
// caller: for the model the configs are compared instead.
static inline void state_restore_options(const Json* json, const char* path, OptionTable* options, StringBuilder* said,
                                         char** altered) {
    const Json* stored = json_get(json, "options");
    if (!stored || stored->type != JSON_OBJECT) { die("%s: expected \"options\" to be an object", path); }
    // Of two options that say the same thing, one given now rules out the other from then.
    static const char* const rivals[][2] = {
        {"steps", "epochs"}, {"steps", "flops"}, {"flops", "epochs"}, {"warmup-steps", "warmup-ratio"}};
    char* source = format_string("%s: ", path);
    for (int i = 0; i < options->count; i++) {
        Option* o = &options->rows[i];
        if (o->resume == RESUME_RUN) { continue; }
        const char* text = state_option(json, o->name, path);
        int ruled_out = 0;
        for (size_t r = 0; r < sizeof rivals / sizeof rivals[0]; r++) {
            for (int k = 0; k < 2; k++) {
                ruled_out |= strcmp(o->name, rivals[r][k]) == 0 && options_given(options, rivals[r][1 - k]);
            }
        }
        if (!o->given && !ruled_out && text) {
            option_assign(o, text, source);
            o->chosen = state_was_chosen(json, o->name);
        } else if (!o->given && o->set && !text && json_get(stored, o->name)) {
            o->set = 0;  // it had no value when the run began
            o->text = NULL;
        } else if (o->given && text && !state_same(o, o->text, text)) {
            if (o->resume == RESUME_FIXED) {
                die("--resume with --%s %s: the run was started with %s (see %s); leave the option out, or start a new "
                    "run in another --out",
                    o->name, o->text, text, path);
            }
            sb_printf(said, "  --%s %s (was %s)\n", o->name, o->text, text);
            state_note_option(altered, o);
        } else if (o->given && text) {
            o->chosen = state_was_chosen(json, o->name);
        } else if (o->given && !text && o->resume == RESUME_FREE) {
            sb_printf(said, "  --%s %s (was not set)\n", o->name, o->text);
            state_note_option(altered, o);
        }
    }
    free(source);
}

#endif

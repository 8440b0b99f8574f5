// card.h - the model card of a checkpoint, its README.md: what the model is, how it was made, what came out, how to
// use it and how to go on.
//
// Everything that a user has typed stands there as a shell would take it, in printable characters, so that it can be
// pasted, and so that nothing of it reads as Markdown.
#ifndef PONDER_CARD_H
#define PONDER_CARD_H

#include "setup.h"

// ---- command lines ----

// Appends a word as a shell would read it again: as it is, in '...', or, with bytes that are not printable UTF-8, in
// the $'...' of bash, zsh and ksh.
static inline void shell_quote(StringBuilder* sb, const char* word) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%+,-./:=@_";
    size_t n = strlen(word);
    if (n && strspn(word, plain) == n) {
        sb_append(sb, word, n);
        return;
    }
    int printable = 1;
    for (size_t i = 0, length; i < n; i += length) {
        length = json_utf8_length(word + i, n - i);
        unsigned char c = (unsigned char)word[i];
        // Control characters, and those that begin with U+0080: C2 80 to C2 9F.
        if (length == 0 || c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)word[i + 1] < 0xa0)) {
            printable = 0;
            break;
        }
    }
    sb_printf(sb, printable ? "'" : "$'");
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)word[i];
        if (printable) {
            sb_append(sb, c == '\'' ? "'\\''" : word + i, c == '\'' ? 4 : 1);
        } else if (c == '\n') {
            sb_printf(sb, "\\n");
        } else if (c == '\t') {
            sb_printf(sb, "\\t");
        } else if (c < 0x20 || c >= 0x7f) {
            sb_printf(sb, "\\%03o", (unsigned)c);  // octal has three digits at most: what follows is not taken for one
        } else {
            sb_printf(sb, c == '\'' || c == '\\' ? "\\%c" : "%c", c);
        }
    }
    sb_printf(sb, "'");
}

// A command line as one would type it again; the caller frees it.
static inline char* command_line(int argc, char** argv) {
    StringBuilder sb = {0};
    sb_append(&sb, "", 0);
    for (int i = 0; i < argc; i++) {
        if (i) { sb_printf(&sb, " "); }
        shell_quote(&sb, argv[i]);
    }
    return sb.data;
}

// Adds this invocation to the commands of the run, unless it stands there already: a job that repeats one command
// until it is done has one.
static inline void card_note_command(Trainer* t) {
    TrainerState* s = &t->state;
    if (!s->commands) { s->commands = (char**)xalloc(2, sizeof(char*), "command lines"); }
    if (t->checkpoint && s->command_count == 0) {  // of an earlier version
        s->commands[s->command_count++] = format_string("# (how this run began was not recorded)");
    }
    for (int i = 0; i < s->command_count; i++) {
        if (strcmp(s->commands[i], t->command) == 0) { return; }
    }
    s->commands[s->command_count++] = t->command;
}

// ---- Markdown ----

// The longest run of backticks in a text: a fence of more cannot end inside it.
static inline int card_ticks(const char* text) {
    int most = 0, run = 0;
    for (; *text; text++) {
        run = *text == '`' ? run + 1 : 0;
        most = run > most ? run : most;
    }
    return most;
}

static inline void card_block(StringBuilder* sb, const char* language, const char* text) {
    int n = card_ticks(text) + 1 < 3 ? 3 : card_ticks(text) + 1;
    char* fence = (char*)xalloc((size_t)n + 1, 1, "a fence");
    memset(fence, '`', (size_t)n);
    sb_printf(sb, "%s%s\n", fence, language);
    sb_append(sb, text, strlen(text));
    sb_printf(sb, "%s\n", fence);
    free(fence);
}

// A word that a user has typed, as code in a line.
static inline void card_word(StringBuilder* sb, const char* word) {
    StringBuilder quoted = {0};
    shell_quote(&quoted, word);
    int n = card_ticks(quoted.data);
    for (int i = 0; i <= n; i++) { sb_printf(sb, "`"); }
    sb_printf(sb, n ? " " : "");
    sb_append(sb, quoted.data, quoted.size);
    sb_printf(sb, n ? " " : "");
    for (int i = 0; i <= n; i++) { sb_printf(sb, "`"); }
    free(quoted.data);
}

// ---- the card ----

static inline void card_head(const Trainer* t, StringBuilder* sb) {
    sb_printf(sb, "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- ponder.c\n");
    for (const char* tag = t->model->tags; tag && *tag;) {
        size_t n = strcspn(tag, " ");
        sb_printf(sb, "- ");
        sb_append(sb, tag, n);
        sb_printf(sb, "\n");
        tag += n + (tag[n] == ' ');
    }
    sb_printf(sb, "---\n\n");
}

// Where the weights came from.
static inline void card_origin(const Trainer* t, StringBuilder* sb) {
    const char* name = options_text(&t->options, "model");
    int preset = 0;
    for (int i = 0; t->kind->presets[i]; i++) { preset |= strcmp(t->kind->presets[i], preset_name(name)) == 0; }
    if (preset) { name = preset_name(name); }
    sb_printf(sb, preset ? "Trained from fresh weights (preset " : "Trained on from the weights in ");
    card_word(sb, name);
    const Json* source = json_get(t->config, "_name_or_path");
    if (!preset && source && source->type == JSON_STRING && source->length && strcmp(source->string, name) != 0) {
        sb_printf(sb, ", whose config.json calls it ");
        card_word(sb, source->string);
    }
    sb_printf(sb, preset ? ", seed %s)" : ", seed %s", options_text(&t->options, "seed"));
    sb_printf(sb, " by ");
    const char* program = strrchr(t->kind->program, '/');
    card_word(sb, program ? program + 1 : t->kind->program);
    sb_printf(sb, " of ponder.c, with AdamW.\n");
}

static inline void card_results(const Trainer* t, StringBuilder* sb) {
    const TrainerState* s = &t->state;
    char tokens[32], flops[32], seconds[32];
    sb_printf(sb,
              "\n## State\n\nStep %lld of %lld: %lld tokens (%s), %s FLOPs, %s in training steps, computed in %s.\n",
              (long long)s->step, (long long)s->total_steps, (long long)s->tokens,
              format_count(tokens, (double)s->tokens), format_count(flops, s->flops_per_token * (double)s->tokens),
              format_time(seconds, s->seconds), model_arithmetic(t->model));
    if (s->val_step < 0) {
        sb_printf(sb, "It has not been validated.\n");
        return;
    }
    sb_printf(sb, "\nValidation after step %lld, nats a token: **%.6f** (best: %.6f after step %lld).\n",
              (long long)s->val_step, s->val_loss, s->best_val_loss, (long long)s->best_step);
    if (s->val_bytes > 0) { sb_printf(sb, "Bits per byte: %.6f.\n", s->val_loss / log_d(2) / s->val_bytes); }
    if (s->passes < 2) { return; }
    sb_printf(sb, "\n| pass | validation loss |\n|---|---|\n");
    for (int i = 0; i < s->passes; i++) { sb_printf(sb, "| %d | %.6f |\n", i, s->val_loss_pass[i]); }
    sb_printf(sb, "\nOnly the last pass is trained.\n");
}

static inline void card_shards(const Shards* shards, const char* what, const char* glob, int T, StringBuilder* sb) {
    if (!shards || !glob) { return; }
    sb_printf(sb, "- %s: ", what);
    card_word(sb, glob);
    sb_printf(sb, ", %d shard%s, %llu tokens in %llu rows of %d, hash `%016llx`\n", (int)shards->files,
              shards->files == 1 ? "" : "s", (unsigned long long)shards->tokens, (unsigned long long)shards->rows, T,
              (unsigned long long)shards->hash);
}

static inline void card_data(const Trainer* t, StringBuilder* sb) {
    sb_printf(sb, "\n## Data\n\n");
    const char* train = options_text(&t->options, "train");
    if (!t->train && train) {  // a finished run, only validated anew
        sb_printf(sb, "- training: ");
        card_word(sb, train);
        sb_printf(sb, ", %lld rows of %d, hash `%016llx`\n", (long long)t->state.rows, t->T,
                  (unsigned long long)t->state.shards);
    }
    card_shards(t->train, "training", train, t->T, sb);
    card_shards(t->val, "validation", options_text(&t->options, "val"), t->T, sb);
    if (t->val) { sb_printf(sb, "- rows of a validation: %lld\n", (long long)t->state.val_rows); }
    sb_printf(sb, "- tokenizer: %s", tokenizer_kind_text(t->tokenizer));
    if (t->tokenizer->count) { sb_printf(sb, ", %d tokens of a vocabulary of %d", t->tokenizer->count, t->model->V); }
    sb_printf(sb, "\n");
}

// Commands, and every option in force that a resumed run would take over.
static inline void card_making(const Trainer* t, StringBuilder* sb) {
    const TrainerState* s = &t->state;
    StringBuilder text = {0};
    sb_append(&text, "", 0);
    for (int i = 0; i < s->command_count; i++) { sb_printf(&text, "%s\n", s->commands[i]); }
    sb_printf(sb, "\n## How it was made\n\n");
    card_block(sb, "sh", text.data);
    sb_printf(sb, s->command_count > 1
                      ? "\nThe first command began the run, the others resumed it. Options in force:\n\n"
                      : "\nOptions in force:\n\n");
    text.size = 0;
    for (int i = 0; i < t->options.count; i++) {
        const Option* o = &t->options.rows[i];
        if (o->resume == RESUME_RUN || !o->set) { continue; }
        sb_printf(&text, "--%s ", o->name);
        shell_quote(&text, o->text);
        sb_printf(&text, "\n");
    }
    card_block(sb, "", text.data);
    free(text.data);
}

static inline void card_use(const Trainer* t, StringBuilder* sb) {
    char* path = format_string("%s/step_%08lld", t->out, (long long)t->state.step);
    const char* trust = t->model->code_name ? ", trust_remote_code=True" : "";
    StringBuilder text = {0}, name = {0};
    json_append_string(&name, path, strlen(path));  // which is how Python writes a string, too
    sb_printf(sb, "\n## Use\n\n");
    if (t->model->code_name) {
        sb_printf(sb, "Its class is in `%s` beside this file, hence `trust_remote_code`.\n\n", t->model->code_name);
    }
    if (t->tokenizer->kind == TOKENIZER_NUMBERS) {
        sb_printf(
            &text,
            "from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained(%s%s)\n",
            name.data, trust);
        sb_printf(sb, "There is no tokenizer here: it takes and gives token ids.\n\n");
    } else {
        sb_printf(&text,
                  "from transformers import pipeline\n\ngenerate = pipeline(\"text-generation\", model=%s%s)\n"
                  "print(generate(\"The\", max_new_tokens=50)[0][\"generated_text\"])\n",
                  name.data, trust);
    }
    card_block(sb, "python", text.data);
    sb_printf(sb, "\nTo go on with this run (`--steps` makes it longer), or to train another from these weights:\n\n");
    text.size = 0;
    const char* program = t->command ? t->command : t->kind->program;
    int words = (int)strcspn(program, " ");
    if (strcspn(program, "'$") < (size_t)words) { program = t->kind->program, words = (int)strlen(program); }
    sb_printf(&text, "%.*s --resume --out ", words, program);
    shell_quote(&text, t->out);
    sb_printf(&text, "\n%.*s --model ", words, program);
    shell_quote(&text, path);
    sb_printf(&text, " --train GLOB --seq %d --out DIR\n", t->T);
    card_block(sb, "sh", text.data);
    free(text.data);
    free(name.data);
    free(path);
}

// The whole card; the caller frees it.
static inline char* card_text(const Trainer* t) {
    StringBuilder sb = {0};
    card_head(t, &sb);
    sb_printf(&sb, "# ");
    card_word(&sb, t->out);
    sb_printf(&sb, ", step %lld\n\n", (long long)t->state.step);
    if (t->model->about) {
        char* about = t->model->about(t->model);
        sb_printf(&sb, "%s\n", about);
        free(about);
    }
    sb_printf(&sb, "%lld parameters in %d tensors, stored in fp32; rows of %d tokens.\n",
              (long long)tensor_parameters(&t->model->tensors), t->model->tensors.count, t->T);
    card_origin(t, &sb);
    card_results(t, &sb);
    card_data(t, &sb);
    card_making(t, &sb);
    card_use(t, &sb);
    return sb.data;
}

#endif

// save.h - the files that a checkpoint carries beside the tensors, so that transformers finds whatever it looks for:
// config.json, generation_config.json, tokenizer, the model's code, its card, and trainer_state.json.
//
// A model that came from a directory keeps what that said: keys of config.json that the model does not own, its
// generation_config.json and its tokenizer, as they were. A resumed run came from its own checkpoint's directory.
#ifndef PONDER_SAVE_H
#define PONDER_SAVE_H

#include "card.h"
#include "setup.h"

enum { SAVE_FILES = TOKENIZER_FILES + 8 };

typedef struct {
    int count;
    CheckpointFile list[SAVE_FILES];
    int made_count;
    char* made[SAVE_FILES];  // texts that belong to this
} SaveFiles;

static inline void save_add(SaveFiles* files, const char* name, char* text) {
    CheckpointFile file = {name, text, strlen(text)};
    files->list[files->count++] = file;
    files->made[files->made_count++] = text;
}

static inline void save_free(SaveFiles* files) {
    for (int i = 0; i < files->made_count; i++) { free(files->made[i]); }
}

// The special tokens that config.json and generation_config.json name, and what the tokenizer says of them.
enum { SAVE_SPECIAL = 3 };
static const char* const save_special[SAVE_SPECIAL] = {"bos_token_id", "eos_token_id", "pad_token_id"};
static inline int save_special_id(const Trainer* t, int i) {
    return i == 0 ? tokenizer_bos(t->tokenizer) : i == 1 ? tokenizer_eot(t->tokenizer) : tokenizer_pad(t->tokenizer);
}

static inline int save_is_special(const char* key) {
    for (int i = 0; i < SAVE_SPECIAL; i++) {
        if (strcmp(save_special[i], key) == 0) { return 1; }
    }
    return 0;
}

// 1 if the model came from a directory, and is given another tokenizer than that one's.
static inline int save_other_tokenizer(const Trainer* t) {
    return t->config && !t->checkpoint && options_set(&t->options, "tokenizer");
}

// Reads what config.json's directory says of generation, before the directory may be gone, and looks whether it and
// the tokenizer agree.
static inline void save_prepare(Trainer* t) {
    if (!t->config || !ranks_talks()) { return; }
    char* path = format_string("%s/generation_config.json", t->weights);
    t->generation = read_fully(path, &t->generation_size);
    if (t->generation) { json_free(json_parse(t->generation, t->generation_size, path)); }  // a damaged one ends here
    free(path);
    const Json* eos = json_get(t->config, "eos_token_id");
    int end = tokenizer_eot(t->tokenizer);
    if (!eos || end < 0 || save_other_tokenizer(t)) { return; }
    int agrees = eos->type == JSON_NUMBER && eos->number == end;
    for (int i = 0; eos->type == JSON_ARRAY && i < eos->count; i++) {
        agrees |= eos->items[i]->type == JSON_NUMBER && eos->items[i]->number == end;
    }
    if (!agrees) {
        StringBuilder said = {0};
        json_append(&said, eos, 0);
        warn("%s: eos_token_id is %s, but the end of text of %s is token %d; checkpoints keep both as they are",
             t->config_path, said.data, t->tokenizer->source, end);
        free(said.data);
    }
}

// The class that loads the tokenizer, for config.json: without it the pipeline of transformers 4 looks for no tokenizer
// beside a model whose class it does not know. NULL: not known, or the model's class says it; the caller frees it.
static inline char* save_tokenizer_class(const Trainer* t) {
    const CheckpointFile* file = tokenizer_kept(t->tokenizer, "tokenizer_config.json");
    Json* json = file ? json_parse(file->text, file->size, "tokenizer_config.json") : NULL;
    const Json* found = json_get(json, "tokenizer_class");
    char* name = NULL;
    if (found && found->type == JSON_STRING) {
        name = format_string("%s", found->string);
    } else if (t->model->code_name && tokenizer_kept(t->tokenizer, "tokenizer.json")) {
        name = format_string("PreTrainedTokenizerFast");
    }
    json_free(json);
    return name;
}

static inline void save_key(StringBuilder* sb, const char* key) {
    sb_printf(sb, "%s  ", sb->size > 2 ? ",\n" : "");
    json_append_string(sb, key, strlen(key));
    sb_printf(sb, ": ");
}

// config.json: the model's own keys, the special tokens, then what is carried on.
static inline char* save_config(const Trainer* t) {
    const Model* model = t->model;
    char* own_text = model->config_json(model);
    Json* own = json_parse(own_text, strlen(own_text), "config.json");
    StringBuilder sb = {0};
    sb_printf(&sb, "{\n");
    for (int i = 0; i < own->count; i++) {
        save_key(&sb, own->keys[i]);
        json_append(&sb, own->items[i], 2);
    }
    // Of the weights beside it. Versions of transformers up to 4 read the first, later ones the second.
    static const char* const types[] = {"torch_dtype", "dtype"};
    for (int i = 0; i < 2; i++) {
        save_key(&sb, types[i]);
        sb_printf(&sb, "\"float32\"");
    }
    int other = save_other_tokenizer(t);
    for (int i = 0; i < SAVE_SPECIAL; i++) {
        const Json* source = other ? NULL : json_get(t->config, save_special[i]);
        int id = save_special_id(t, i);
        // Left out, beginning and end would be those of the class, which mean nothing in this vocabulary.
        int none = !source && id < 0 && i < 2 && (other || !t->config);
        if (!source && id < 0 && !none) { continue; }
        save_key(&sb, save_special[i]);
        if (source) {
            json_append(&sb, source, 2);
        } else if (none) {
            sb_printf(&sb, "null");
        } else {
            sb_printf(&sb, "%d", id);
        }
    }
    const Json* class_there = other ? NULL : json_get(t->config, "tokenizer_class");
    int class_stays = class_there && class_there->type != JSON_NULL;
    char* class_name = class_stays ? NULL : save_tokenizer_class(t);
    if (class_name) {
        save_key(&sb, "tokenizer_class");
        json_append_string(&sb, class_name, strlen(class_name));
        free(class_name);
    }
    for (int i = 0; t->config && i < t->config->count; i++) {
        const char* key = t->config->keys[i];
        int mine = json_get(own, key) || save_is_special(key) || (model->owns_key && model->owns_key(model, key));
        // The weights are written in fp32, whatever they were read from.
        mine |= !strcmp(key, types[0]) || !strcmp(key, types[1]) || !strcmp(key, "quantization_config");
        mine |= !class_stays && !strcmp(key, "tokenizer_class");
        if (mine) { continue; }
        save_key(&sb, key);
        json_append(&sb, t->config->items[i], 2);
    }
    sb_printf(&sb, "\n}\n");
    json_free(own);
    free(own_text);
    return sb.data;
}

// generation_config.json: the source's; else the special tokens of `config`, the text of config.json.
static inline char* save_generation(const Trainer* t, const char* config) {
    int other = save_other_tokenizer(t);
    Json* source = t->generation ? json_parse(t->generation, t->generation_size, "generation_config.json") : NULL;
    Json* json = json_parse(config, strlen(config), "config.json");
    StringBuilder sb = {0};
    sb_printf(&sb, "{\n");
    for (int i = 0; i < SAVE_SPECIAL; i++) {
        const Json* value = json_get(json, save_special[i]);
        if (!value || value->type == JSON_NULL) { continue; }
        save_key(&sb, save_special[i]);
        json_append(&sb, value, 2);
    }
    for (int i = 0; source && other && source->type == JSON_OBJECT && i < source->count; i++) {
        if (save_is_special(source->keys[i])) { continue; }
        save_key(&sb, source->keys[i]);
        json_append(&sb, source->items[i], 2);
    }
    if (sb.size == 2) {
        sb.size = 1;
        sb_printf(&sb, "}\n");
    } else {
        sb_printf(&sb, "\n}\n");
    }
    json_free(source);
    json_free(json);
    return sb.data;
}

// The two, which take what they can from where the model came from.
static inline SaveFiles save_files_of_configs(const Trainer* t) {
    SaveFiles files;
    memset(&files, 0, sizeof files);
    char* config = save_config(t);
    save_add(&files, "config.json", config);
    if (t->generation && !save_other_tokenizer(t)) {
        CheckpointFile file = {"generation_config.json", t->generation, t->generation_size};
        files.list[files.count++] = file;
    } else {
        save_add(&files, "generation_config.json", save_generation(t, config));
    }
    return files;
}

// All of them, for the step that the run has come to. The caller gives them back with save_free.
static inline SaveFiles save_files(const Trainer* t) {
    const Model* model = t->model;
    SaveFiles files = save_files_of_configs(t);
    files.count += tokenizer_files(t->tokenizer, files.list + files.count);
    save_add(&files, "trainer_state.json", state_text(&t->state, &t->options));
    save_add(&files, "README.md", card_text(t));
    if (model->code_name) {
        CheckpointFile file = {model->code_name, model->code_text, strlen(model->code_text)};
        files.list[files.count++] = file;
    }
    return files;
}

#endif

// checkpoint.h - writes and reads the directories that a run leaves behind.
//
// A checkpoint is a Hugging Face model directory, OUT/step_00000010/:
//
//     config.json  generation_config.json  tokenizer files  modeling_ponder.py    given by the caller
//     trainer_state.json                                                          given by the caller
//     model.safetensors        the weights, fp32, Hugging Face names
//     optimizer.safetensors    exp_avg.NAME and exp_avg_sq.NAME for every weight
//
// It exists whole or not at all: everything is written into a directory with a temporary name,
// synced to the disk, then renamed. Names that begin with a dot are unfinished business, which
// only checkpoint_clean looks at:
//
//     .tmp_step_...   being written or being deleted: worth nothing after a crash
//     .old_step_N     the former step_N while a new one takes its place; goes back if the crash came
//                     before the new one was there
//
// All functions but checkpoint_look and checkpoint_expected expect that no second process writes into OUT (the training
// loop holds a lock).
#ifndef PONDER_CHECKPOINT_H
#define PONDER_CHECKPOINT_H

#include "../base.h"
#include "../rows.h"
#include "../tensors.h"
#include "file.h"
#include "safetensors.h"

// Numbers of files are float, and so is real in every program that has checkpoints.
static inline size_t checkpoint_nonfinite(const float* x, size_t n) {
    return first_nonfinite((const real*)(const void*)x, n);
}

// ---- which checkpoints there are ----

// Removes OUT/name. It loses its name first: half of a checkpoint must never be taken for a whole one.
static inline void checkpoint_discard(const char* out, const char* name) {
    char* path = format_string("%s/%s", out, name);
    char* aside = format_string("%s/.tmp_step_delete%s_%ld", out, name[0] == '.' ? name + 1 : name, (long)getpid());
    directory_remove_tree(aside);
    if (rename(path, aside) == 0) {
        directory_remove_tree(aside);
    } else if (errno != ENOENT) {
        warn("%s: could not be removed: %s", path, strerror(errno));
    }
    free(aside);
    free(path);
}

// The step of a path whose last part is exactly step_%08lld; -1 for any other.
static inline int64_t checkpoint_step(const char* path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') { end--; }
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') { begin--; }
    char name[32], expected[32];
    if (end - begin >= sizeof name) { return -1; }
    memcpy(name, path + begin, end - begin);
    name[end - begin] = 0;
    if (strncmp(name, "step_", 5) != 0 || name[5] < '0' || name[5] > '9') { return -1; }
    errno = 0;
    long long step = strtoll(name + 5, NULL, 10);
    snprintf(expected, sizeof expected, "step_%08lld", step);
    return errno == 0 && strcmp(name, expected) == 0 ? (int64_t)step : -1;
}

// 1 if a directory has everything that resuming needs.
static inline int checkpoint_is_whole(const char* path) {
    static const char* const needed[] = {"config.json", "model.safetensors", "optimizer.safetensors",
                                         "trainer_state.json"};
    for (int i = 0; i < 4; i++) {
        struct stat info;
        char* file = format_string("%s/%s", path, needed[i]);
        int there = stat(file, &info) == 0 && S_ISREG(info.st_mode);
        free(file);
        if (!there) { return 0; }
    }
    return 1;
}

// After a crash between the two renames of a replacement: the path that OUT/name, the former step_N, has to get back (the
// caller frees it); NULL: it is no such checkpoint.
static inline char* checkpoint_former(const char* out, const char* name) {
    if (strncmp(name, ".old_step_", 10) != 0) { return NULL; }
    char *old = format_string("%s/%s", out, name), *path = format_string("%s/%s", out, name + 5);
    struct stat info;
    int former = checkpoint_step(path) >= 0 && lstat(path, &info) != 0 && errno == ENOENT && checkpoint_is_whole(old);
    free(old);
    if (former) { return path; }
    free(path);
    return NULL;
}
static inline void checkpoint_recover(const char* out) {
    int count = 0;
    char** names = directory_names(out, &count);
    for (int i = 0; i < count; i++) {
        char* path = checkpoint_former(out, names[i]);
        if (!path) { continue; }
        char* old = format_string("%s/%s", out, names[i]);
        // On a file system that is read-only this fails, and an older checkpoint is taken.
        if (rename(old, path) != 0) { warn("%s: could not be renamed to %s: %s", old, path, strerror(errno)); }
        free(path);
        free(old);
    }
    directory_free_names(names);
}

// Removes what a killed process left unfinished in OUT, and finishes what can be finished. Call it
// at the start of a run; checkpoint_write does too.
static inline void checkpoint_clean(const char* out) {
    checkpoint_recover(out);
    int count = 0;
    char** names = directory_names(out, &count);
    for (int i = 0; i < count; i++) {
        if (strncmp(names[i], ".tmp_step_", 10) == 0) {
            char* path = format_string("%s/%s", out, names[i]);
            directory_remove_tree(path);
            free(path);
        } else if (strncmp(names[i], ".old_step_", 10) == 0) {
            // Either its successor is in place, or it is not whole: recover left it here.
            checkpoint_discard(out, names[i]);
        }
    }
    directory_free_names(names);
}

static inline int checkpoint_compare_steps(const void* a, const void* b) {
    int64_t x = *(const int64_t*)a, y = *(const int64_t*)b;
    return (x > y) - (x < y);
}

// The steps of all whole checkpoints in OUT, ascending, = *count; the caller frees them.
static inline int64_t* checkpoint_steps(const char* out, int* count) {
    int n = 0, entries = 0;
    char** names = directory_names(out, &entries);
    int64_t* steps = (int64_t*)xalloc((size_t)entries, sizeof(int64_t), "a list of checkpoints");
    for (int i = 0; i < entries; i++) {
        char* path = format_string("%s/%s", out, names[i]);
        int64_t step = checkpoint_step(path);
        if (step >= 0 && checkpoint_is_whole(path)) { steps[n++] = step; }
        free(path);
    }
    directory_free_names(names);
    if (n) { qsort(steps, (size_t)n, sizeof(int64_t), checkpoint_compare_steps); }
    *count = n;
    return steps;
}

// Path of the newest whole checkpoint in OUT (the caller frees it), NULL if there is none. Nothing is changed, so OUT
// may be in use.
static inline char* checkpoint_look(const char* out) {
    int count = 0;
    int64_t* steps = checkpoint_steps(out, &count);
    char* path = count ? format_string("%s/step_%08lld", out, (long long)steps[count - 1]) : NULL;
    free(steps);
    return path;
}

// Where the checkpoint lies now that checkpoint_newest() will find; nothing is changed.
static inline char* checkpoint_expected(const char* out) {
    char* newest = checkpoint_look(out);
    int count = 0;
    char** names = directory_names(out, &count);
    int64_t step = newest ? checkpoint_step(newest) : -1;
    for (int i = 0; i < count; i++) {
        char* path = checkpoint_former(out, names[i]);
        if (path && checkpoint_step(path) > step) {
            step = checkpoint_step(path);
            free(newest);
            newest = format_string("%s/%s", out, names[i]);
        }
        free(path);
    }
    directory_free_names(names);
    return newest;
}

// The same in a directory of our own, after what a crash has left there is mended.
static inline char* checkpoint_newest(const char* out) {
    checkpoint_recover(out);
    return checkpoint_look(out);
}

// ---- writing ----

// Writes one family of tensors, or two into one file, under the names PREFIX + table name. NULL, or
// what went wrong.
static inline char* checkpoint_write_tensors(const char* path, const TensorTable* table, const float* family,
                                             const char* prefix, const float* family2, const char* prefix2) {
    int families = family2 ? 2 : 1;
    SafeWrite* rows = (SafeWrite*)xalloc((size_t)(families * table->count), sizeof(SafeWrite), "a checkpoint");
    char** names = (char**)xalloc((size_t)(families * table->count), sizeof(char*), "a checkpoint");
    char* error = NULL;
    int n = 0;
    for (int f = 0; f < families; f++) {
        for (int i = 0; i < table->count; i++, n++) {
            const Tensor* t = &table->list[i];
            names[n] = format_string("%s%s", f ? prefix2 : prefix, t->name);
            rows[n].name = names[n];
            rows[n].ndim = t->ndim;
            rows[n].shape[0] = t->shape[0];
            rows[n].shape[1] = t->shape[1];
            rows[n].data = (f ? family2 : family) + t->offset;
            // Such a checkpoint could not be read back, and would push out a good one.
            size_t bad = checkpoint_nonfinite(rows[n].data, t->size);
            if (bad < t->size && !error) {
                error = format_string("tensor %s holds %g at index %zu (lower --lr?)", names[n],
                                      (double)rows[n].data[bad], bad);
            }
        }
    }
    // {"format":"pt"} makes transformers accept the file as PyTorch weights.
    if (!error) { error = safetensors_try_write(path, rows, n, "{\"format\":\"pt\"}"); }
    for (int i = 0; i < n; i++) { free(names[i]); }
    free(names);
    free(rows);
    return error;
}

// Deletes the oldest checkpoints so that `keep` are left (0: all stay). The one of `step`, just
// written, is never among the deleted, even when older runs left higher steps.
static inline void checkpoint_prune(const char* out, int64_t step, int keep) {
    if (keep <= 0) { return; }
    int count = 0;
    int64_t* steps = checkpoint_steps(out, &count);
    int surplus = count - keep;
    for (int i = 0; i < count && surplus > 0; i++) {
        if (steps[i] == step) { continue; }
        char name[32];
        snprintf(name, sizeof name, "step_%08lld", (long long)steps[i]);
        checkpoint_discard(out, name);
        surplus--;
    }
    free(steps);
}

// Writes everything into the temporary directory and syncs it; NULL, or what went wrong.
static inline char* checkpoint_fill(const char* directory, const TensorTable* table, const float* params,
                                    const float* m, const float* v, const CheckpointFile* files, int file_count) {
    if (mkdir(directory, 0777) != 0) {
        return format_string("%s: the directory could not be made: %s%s", directory, strerror(errno),
                             write_hint(errno));
    }
    char* path = format_string("%s/model.safetensors", directory);
    char* error = checkpoint_write_tensors(path, table, params, "", NULL, NULL);
    free(path);
    if (!error) {
        path = format_string("%s/optimizer.safetensors", directory);
        error = checkpoint_write_tensors(path, table, m, "exp_avg.", v, "exp_avg_sq.");
        free(path);
    }
    for (int i = 0; i < file_count && !error; i++) {
        path = format_string("%s/%s", directory, files[i].name);
        error = write_file(path, files[i].text, files[i].size);
        free(path);
    }
    return error ? error : directory_sync(directory);
}

// Gives the temporary directory its name; a checkpoint of the same step makes way for it. NULL, or
// what went wrong, with the old one back in its place.
static inline char* checkpoint_install(const char* out, const char* temporary, const char* path, const char* old) {
    struct stat info;
    int replace = lstat(path, &info) == 0;
    mode_t mode = replace ? file_mode(path) : 0;  // 0: a link that leads nowhere
    if (mode && !S_ISDIR(mode)) {
        return format_string("%s: expected a checkpoint's directory, or nothing yet, found %s; move it away", path,
                             file_kind(mode));
    }
    if (replace && rename(path, old) != 0) {
        return format_string("%s: could not be renamed to %s: %s%s", path, old, strerror(errno), write_hint(errno));
    }
    if (rename(temporary, path) != 0) {
        char* error =
            format_string("%s: could not be renamed to %s: %s%s", temporary, path, strerror(errno), write_hint(errno));
        if (replace && rename(old, path) != 0) {
            warn("%s: could not be renamed back to %s: %s", old, path, strerror(errno));
        }
        return error;
    }
    return directory_sync(out);
}

// Writes OUT/step_N with the weights (params), first and second moments (m, v; each a family of the
// table) and the given files, then deletes the oldest checkpoints beyond `keep` (0: keep all). NULL, or
// what went wrong (a write that failed, a number that is not finite), with the previous checkpoint
// untouched and named; the caller frees it.
static inline char* checkpoint_try_write(const char* out, int64_t step, const TensorTable* table, const float* params,
                                         const float* m, const float* v, const CheckpointFile* files, int file_count,
                                         int keep) {
    char* path = format_string("%s/step_%08lld", out, (long long)step);
    char* old = format_string("%s/.old_step_%08lld", out, (long long)step);
    char* temporary = format_string("%s/.tmp_step_%08lld_%ld", out, (long long)step, (long)getpid());
    char* error = directory_make(out);
    if (!error) {
        checkpoint_clean(out);
        error = checkpoint_fill(temporary, table, params, m, v, files, file_count);
    }
    if (!error) { error = checkpoint_install(out, temporary, path, old); }
    if (error) {
        directory_remove_tree(temporary);
        char* previous = checkpoint_newest(out);
        char* whole = previous ? format_string("the checkpoint of step %lld: %s; the previous checkpoint %s is intact",
                                               (long long)step, error, previous)
                               : format_string("the checkpoint of step %lld: %s; there is no earlier checkpoint",
                                               (long long)step, error);
        free(previous);
        free(error);
        error = whole;
    } else {
        checkpoint_clean(out);  // removes `old`
        checkpoint_prune(out, step, keep);
    }
    free(temporary);
    free(old);
    free(path);
    return error;
}

// The same; dies of what went wrong.
static inline void checkpoint_write(const char* out, int64_t step, const TensorTable* table, const float* params,
                                    const float* m, const float* v, const CheckpointFile* files, int file_count,
                                    int keep) {
    char* error = checkpoint_try_write(out, step, table, params, m, v, files, file_count, keep);
    if (error) { die("%s", error); }
}

// ---- reading ----

// The files that hold a model's weights: one, or the shards of an index.
typedef struct {
    char* path;  // of the file or of the index, for messages
    int count;
    SafeFile** files;  // (count)
    char** used;       // (count)(tensors of the file): 1 once a row of the table has taken it
} WeightFiles;

static inline void weights_close(WeightFiles* w) {
    for (int i = 0; i < w->count; i++) {
        safetensors_close(w->files[i]);
        free(w->used[i]);
    }
    free(w->files);
    free(w->used);
    free(w->path);
}

static inline void weights_add(WeightFiles* w, const char* dir, const char* name) {
    char* path = format_string("%s/%s", dir, name);
    w->files[w->count] = safetensors_open(path);
    w->used[w->count] = (char*)xalloc((size_t)w->files[w->count]->count, 1, "a safetensors file");
    w->count++;
    free(path);
}

// Opens the shards that model.safetensors.index.json names, and checks that index and shards agree.
static inline void weights_open_index(WeightFiles* w, const char* dir) {
    Json* index = json_read(w->path);
    const Json* map = json_get(index, "weight_map");
    if (!map || map->type != JSON_OBJECT || map->count == 0) {
        die("%s: expected an object \"weight_map\" of tensor and file names, found %s", w->path,
            map ? json_describe(map) : "none");
    }
    // At most as many files as tensors.
    w->files = (SafeFile**)xalloc((size_t)map->count, sizeof(SafeFile*), "a list of shards");
    w->used = (char**)xalloc((size_t)map->count, sizeof(char*), "a list of shards");
    const char** names = (const char**)xalloc((size_t)map->count, sizeof(char*), "a list of shards");
    for (int i = 0; i < map->count; i++) {
        const Json* name = map->items[i];
        // Only files of this directory: an index must not reach anything else on the machine.
        if (name->type != JSON_STRING || name->length == 0 || strlen(name->string) != name->length ||
            name->string[0] == '.' || strchr(name->string, '/')) {
            die("%s: tensor %s: expected the name of a file in the same directory, found %s", w->path, map->keys[i],
                json_describe(name));
        }
        int shard = 0;
        while (shard < w->count && strcmp(names[shard], name->string) != 0) { shard++; }
        if (shard == w->count) {
            names[shard] = name->string;
            weights_add(w, dir, name->string);
        }
        if (!safetensors_find(w->files[shard], map->keys[i])) {
            die("%s: tensor %s: expected in %s, but that file does not have it", w->path, map->keys[i],
                w->files[shard]->path);
        }
    }
    for (int s = 0; s < w->count; s++) {
        for (int i = 0; i < w->files[s]->count; i++) {
            const char* tensor = w->files[s]->tensors[i].name;
            const Json* name = json_get(map, tensor);
            if (!name || strcmp(name->string, names[s]) != 0) {
                die("%s: tensor %s: found in %s, but the index says %s", w->path, tensor, w->files[s]->path,
                    name ? name->string : "nothing of it");
            }
        }
    }
    free(names);
    json_free(index);
}

static inline int weights_exists(const char* dir, const char* name) {
    struct stat info;
    char* path = format_string("%s/%s", dir, name);
    int there = stat(path, &info) == 0;
    free(path);
    return there;
}

static inline WeightFiles weights_open(const char* dir) {
    WeightFiles w = {0};
    struct stat info;
    if (stat(dir, &info) != 0) { die("%s: expected a model directory: %s", dir, strerror(errno)); }
    if (!S_ISDIR(info.st_mode)) { die("%s: expected a model directory, found a file", dir); }
    if (weights_exists(dir, "model.safetensors")) {
        w.path = format_string("%s/model.safetensors", dir);
        w.files = (SafeFile**)xalloc(1, sizeof(SafeFile*), "a list of files");
        w.used = (char**)xalloc(1, sizeof(char*), "a list of files");
        weights_add(&w, dir, "model.safetensors");
    } else if (weights_exists(dir, "model.safetensors.index.json")) {
        w.path = format_string("%s/model.safetensors.index.json", dir);
        weights_open_index(&w, dir);
    } else if (weights_exists(dir, "pytorch_model.bin") || weights_exists(dir, "pytorch_model.bin.index.json")) {
        die("%s: expected model.safetensors, found only pytorch_model.bin, which is not read "
            "(in Python, AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR) of transformers converts "
            "it)",
            dir);
    } else {
        die("%s: expected model.safetensors or model.safetensors.index.json, found neither (is it a model directory?)",
            dir);
    }
    return w;
}

// The tensor of this name that no row has taken yet, = *file; it is taken now. NULL if there is none.
static inline const SafeTensor* weights_take(WeightFiles* w, const char* name, const SafeFile** file) {
    for (int i = 0; i < w->count; i++) {
        const SafeTensor* t = safetensors_find(w->files[i], name);
        if (t && !w->used[i][t - w->files[i]->tensors]) {
            w->used[i][t - w->files[i]->tensors] = 1;
            *file = w->files[i];
            return t;
        }
    }
    return NULL;
}

// A growing list of names for a message: the first five, then how many more.
typedef struct {
    StringBuilder text;
    int count;
} NameList;

static inline void names_add(NameList* list, const char* name) {
    if (list->count < 5) { sb_printf(&list->text, "%s%.200s", list->count ? ", " : "", name); }
    list->count++;
}

static inline const char* names_text(NameList* list) {
    if (list->count > 5) { sb_printf(&list->text, " and %d more", list->count - 5); }
    return list->text.data;
}

// Dies unless a tensor of a file has the shape of a row of the table.
static inline void weights_check_shape(const SafeFile* file, const SafeTensor* found, const Tensor* t) {
    if (found->ndim == t->ndim && found->shape[0] == t->shape[0] && (t->ndim == 1 || found->shape[1] == t->shape[1])) {
        return;
    }
    char a[256], b[64];
    die("%s: tensor %s has shape %s, the model needs %s%s%s", file->path, found->name,
        shape_text(a, sizeof a, found->ndim, found->shape), shape_text(b, sizeof b, t->ndim, t->shape),
        t->rows_of ? ": " : "", t->rows_of ? t->rows_of : "");
}

// Reads the numbers of a tensor; dies if one is NaN or infinite.
static inline void weights_read_tensor(const SafeFile* file, const SafeTensor* found, float* out) {
    safetensors_read(file, found, out);
    size_t bad = checkpoint_nonfinite(out, found->count);
    if (bad < found->count) {
        die("%s: tensor %s holds %g at index %zu, expected finite numbers", file->path, found->name, (double)out[bad],
            bad);
    }
}

// The second copy of a tensor whose numbers are at `numbers`: of a table with two names a file may hold one or both, but
// both must then be one. (Versions of transformers differ in what they make of two different ones.)
static inline void weights_check_twin(const WeightFiles* w, const SafeFile* file, const SafeTensor* twin,
                                      const Tensor* t, const float* numbers) {
    float* other = (float*)xalloc(t->size, sizeof(float), "the second copy of a table");
    weights_read_tensor(file, twin, other);
    for (size_t i = 0; i < t->size; i++) {
        if (other[i] != numbers[i]) {
            die("%s: %s with two different tables: %s and %s should be the same numbers, found %g and %g at index %zu "
                "(%s--tie 0 keeps both)",
                w->path, t->tied_by ? t->tied_by : "a tied config", t->name, twin->name, (double)numbers[i],
                (double)other[i], i, t->tied_by ? "" : "\"tie_word_embeddings\": false or ");
        }
    }
    free(other);
}

// params (a family of the table) = the weights in DIR: model.safetensors, or the shards that
// model.safetensors.index.json names; F32, F16, BF16 or F64. Dies, naming file and tensor, if one is
// missing, has another shape, is not finite, or is one that the model does not have and that
// ignores(context, its name in the file) does not wave through (NULL: none); or if a table with two names stands there
// under both, with different numbers. A tensor that may begin as a copy of another does so where it is not there.
// Nothing is read before all of that but the numbers themselves is checked; with params NULL nothing is read at all.
static inline void weights_read(const char* dir, const TensorTable* table, float* params,
                                int (*ignores)(const void* context, const char* name), const void* context) {
    WeightFiles w = weights_open(dir);
    const SafeTensor** found =
        (const SafeTensor**)xalloc(2 * (size_t)table->count, sizeof(SafeTensor*), "a list of tensors");
    const SafeFile** files = (const SafeFile**)xalloc(2 * (size_t)table->count, sizeof(SafeFile*), "a list of tensors");
    const SafeTensor** twin = found + table->count;  // the second copy of a table with two names
    const SafeFile** twin_files = files + table->count;
    NameList missing, extra;
    memset(&missing, 0, sizeof missing);
    memset(&extra, 0, sizeof extra);
    for (int i = 0; i < table->count; i++) { found[i] = weights_take(&w, table->list[i].name, &files[i]); }
    for (int i = 0; i < table->count; i++) {
        // Checkpoints of a base model without its head (AutoModel; the public GPT-2 is one) leave
        // out the first part of the name: "h.0.ln_1.bias" is our "transformer.h.0.ln_1.bias".
        const char* dot = strchr(table->list[i].name, '.');
        if (!found[i] && dot) { found[i] = weights_take(&w, dot + 1, &files[i]); }
        const char* alias = table->list[i].alias;
        if (alias) { twin[i] = weights_take(&w, alias, &twin_files[i]); }
        if (!found[i] && twin[i]) { found[i] = twin[i], files[i] = twin_files[i], twin[i] = NULL; }
        if (!found[i] && !table->list[i].copy_of) { names_add(&missing, table->list[i].name); }
    }
    for (int f = 0; f < w.count; f++) {
        for (int i = 0; i < w.files[f]->count; i++) {
            const char* name = w.files[f]->tensors[i].name;
            if (!w.used[f][i] && !(ignores && ignores(context, name))) { names_add(&extra, name); }
        }
    }
    if (missing.count || extra.count) {
        char* lacks = missing.count ? format_string("lacks %d of the model's %d tensors: %s", missing.count,
                                                    table->count, names_text(&missing))
                                    : format_string("no tensor is missing");
        char* has = extra.count
                        ? format_string("; %d that the model does not have: %s", extra.count, names_text(&extra))
                        : format_string("%s", "");
        die("%s: %s%s (does config.json belong to it?)", w.path, lacks, has);
    }
    for (int i = 0; i < 2 * table->count; i++) {
        if (!found[i]) { continue; }  // no second copy, or that of another tensor
        weights_check_shape(files[i], found[i], &table->list[i % table->count]);
        safetensors_check_dtype(files[i], found[i]);
    }
    for (int i = 0; params && i < table->count; i++) {
        float* numbers = params + table->list[i].offset;
        if (!found[i]) { continue; }
        weights_read_tensor(files[i], found[i], numbers);
        if (twin[i]) { weights_check_twin(&w, twin_files[i], twin[i], &table->list[i], numbers); }
    }
    for (int i = 0; params && i < table->count; i++) {
        const Tensor* t = &table->list[i];
        if (found[i]) { continue; }
        memcpy(params + t->offset, params + table->list[tensor_find(table, t->copy_of)].offset,
               t->size * sizeof(float));
        printf("%s: %s begins as a copy of %s\n", w.path, t->name, t->copy_of);
    }
    free(found);
    free(files);
    weights_close(&w);
}

// m and v (families of the table) = the moments in DIR/optimizer.safetensors, bit for bit as they
// were written; dies unless it holds exactly those, in F32.
static inline void optimizer_read(const char* dir, const TensorTable* table, float* m, float* v) {
    char* path = format_string("%s/optimizer.safetensors", dir);
    SafeFile* file = safetensors_open(path);
    NameList missing;
    memset(&missing, 0, sizeof missing);
    for (int pass = 0; pass < 2; pass++) {  // first look, then read
        for (int i = 0; i < 2 * table->count; i++) {
            const Tensor* t = &table->list[i / 2];
            char* name = format_string("%s%s", i % 2 ? "exp_avg_sq." : "exp_avg.", t->name);
            const SafeTensor* found = safetensors_find(file, name);
            if (!found) {
                names_add(&missing, name);
            } else if (pass == 0) {
                weights_check_shape(file, found, t);
                if (found->dtype != ST_F32) {
                    die("%s: tensor %s has dtype %s, expected F32", path, name, found->dtype_name);
                }
            } else {
                float* out = (i % 2 ? v : m) + t->offset;
                weights_read_tensor(file, found, out);
                for (size_t j = 0; i % 2 && j < t->size; j++) {
                    if (out[j] < 0) {
                        die("%s: tensor %s holds %g at index %zu, expected no negative numbers", path, name,
                            (double)out[j], j);
                    }
                }
            }
            free(name);
        }
        if (missing.count) {
            die("%s: lacks %d of %d tensors: %s", path, missing.count, 2 * table->count, names_text(&missing));
        }
        if (file->count != 2 * table->count) {
            die("%s: expected %d tensors, two for each of the model's, found %d", path, 2 * table->count, file->count);
        }
    }
    safetensors_close(file);
    free(path);
}

#endif

// share.h - small files that rank 0 reads for all ranks: those in --out and in the directory of --model, which may lie on
// a disk that only its machine has. Weights and moments, which are large, go through NCCL (ranks.cuh).
//
// All ranks call these in the same order. What is wrong with a file rank 0 says, and then the others end too. With one
// rank each is the function of files/ whose name it has.
#ifndef PONDER_SHARE_H
#define PONDER_SHARE_H

#include "../files/file.h"
#include "../files/json.h"
#include "../files/tokenizer.h"
#include "ranks.h"

// bytes[*size] of rank 0, or NULL, on all ranks; followed by a NUL. The caller frees them. name: in errors.
static inline char* share_bytes(char* bytes, size_t* size, const char* name) {
    if (ranks.count == 1) { return bytes; }
    int64_t n = bytes ? (int64_t)*size : -1;
    ranks_share(&n, sizeof n, name);
    *size = n < 0 ? 0 : (size_t)n;
    if (n < 0) { return NULL; }
    if (!ranks_talks()) { bytes = (char*)xalloc(*size + 1, 1, name); }
    ranks_share(bytes, *size, name);
    return bytes;
}

// The same for a text, or NULL.
static inline char* share_text(char* text, const char* name) {
    size_t size = text ? strlen(text) : 0;
    return share_bytes(text, &size, name);
}

// The tree of a file of rank 0. Free with json_free.
static inline Json* share_json(const char* path, const char* name) {
    Json* json = ranks_talks() ? json_read(path) : NULL;
    if (ranks.count == 1) { return json; }
    StringBuilder sb = {0};
    if (json) { json_append(&sb, json, 0); }
    size_t size = sb.size;
    char* text = share_bytes(sb.data, &size, name);
    if (!json) { json = json_parse(text, size, path); }
    free(text);
    return json;
}

// The tokenizer that rank 0 finds in `dir` (NULL: none), or the tokenizer.json of that name.
static inline Tokenizer* share_tokenizer(const char* dir, int V) {
    if (ranks.count == 1 || !dir) { return tokenizer_open(dir, V); }
    Tokenizer* tokenizer = (Tokenizer*)xalloc(1, sizeof(Tokenizer), "the tokenizer");
    if (ranks_talks()) { tokenizer_read(tokenizer, dir); }
    tokenizer->source = share_text(tokenizer->source, "where the tokenizer is");
    ranks_share(&tokenizer->file_count, sizeof tokenizer->file_count, "how many files the tokenizer has");
    for (int i = 0; i < tokenizer->file_count; i++) {
        CheckpointFile* file = &tokenizer->files[i];
        file->name = share_text((char*)(uintptr_t)file->name, "the name of a file of the tokenizer");
        file->text = share_bytes((char*)(uintptr_t)file->text, &file->size, "a file of the tokenizer");
    }
    tokenizer_make(tokenizer, dir, V);
    return tokenizer;
}

#endif

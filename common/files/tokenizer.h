// tokenizer.h - turns tokens into text and text into tokens: the way in.
//
//     Tokenizer* tokenizer = tokenizer_open("DIR", V);          or tokenizer_open(NULL, V), or of a file alone
//     size_t n; int* tokens = tokenizer_encode(tokenizer, text, size, &n);  the caller frees them
//     char piece[256]; size_t bytes = tokenizer_decode(tokenizer, token, piece);
//
// A model directory may hold a tokenizer, in the files of Hugging Face's tokenizers or of SentencePiece:
//     tokenizer.json, or vocab.json with merges.txt (GPT-2's), or tokenizer.model
// All files of it are kept, byte for byte, for the checkpoints of a model that is trained with it.
// Without them a vocabulary of 257 is bytes and end of text (256: bytes alone), and any other has
// no text: its tokens are shown as numbers, <123>.
//
// Encoding knows
//     byte-level BPE cut by the patterns of GPT-2 (GPT-NeoX, Pythia), Llama-3, Qwen2 and SmolLM; NFC
//     BPE of characters with U+2581 for spaces: SentencePiece's, and what Hugging Face makes of it (Llama-2, TinyLlama)
// Tokens are those of the tokenizers library and, for tokenizer.model, of the sentencepiece library. What is no UTF-8,
// which those do not take, is encoded byte by byte, if the vocabulary has the bytes: GPT-NeoX's has those of UTF-8 alone. Of
// other tokenizers (Unigram, WordPiece) the vocabulary is read, so that samples can be shown, but a prompt is refused.
#ifndef PONDER_TOKENIZER_H
#define PONDER_TOKENIZER_H

#include "encode.h"
#include "sentencepiece.h"
#include "tokenizer_json.h"

#include <sys/stat.h>

// ---- special tokens ----

// What tokenizer_config.json, or else special_tokens_map.json, calls `key` ("eos_token"): its id, -1 if they say that
// there is none, or name one that is not there, -2 if they say nothing.
static inline int tokenizer_named(const Tokenizer* tokenizer, const char* key) {
    static const char* const names[] = {"tokenizer_config.json", "special_tokens_map.json"};
    int found = -2;
    for (int i = 0; i < 2 && found < 0; i++) {
        const CheckpointFile* file = tokenizer_kept(tokenizer, names[i]);
        if (!file) { continue; }
        char* path = format_string("%s: %s", tokenizer->source, names[i]);
        Json* root = json_parse(file->text, file->size, path);
        const Json* token = json_get(root, key);
        if (token && token->type == JSON_OBJECT) { token = json_get(token, "content"); }
        if (token) {
            found = token->type == JSON_STRING ? tokenizer_find_sized(tokenizer, token->string, token->length) : -1;
        }
        json_free(root);
        free(path);
    }
    return found;
}

// Finds end of text, beginning and padding: what the files call so, else by the usual names.
static inline void tokenizer_find_special(Tokenizer* tokenizer) {
    static const char* const ends[][2] = {
        {"<|endoftext|>", "<|endoftext|>"}, {"<|end_of_text|>", "<|begin_of_text|>"}, {"</s>", "<s>"}};
    static const char* const pads[] = {"<|padding|>", "<|pad|>", "<pad>", "[PAD]"};
    // tokenizer.model names them by ids; files beside it may name others.
    int eot = tokenizer_named(tokenizer, "eos_token"), bos = tokenizer_named(tokenizer, "bos_token");
    int pad = tokenizer_named(tokenizer, "pad_token");
    if (tokenizer->alias_start) {
        tokenizer->eot = eot == -2 ? tokenizer->eot : eot;
        tokenizer->bos = bos == -2 ? tokenizer->bos : bos;
        tokenizer->pad = pad == -2 ? tokenizer->pad : pad;
        return;
    }
    tokenizer->eot = eot;
    for (int i = 0; i < 3 && tokenizer->eot < 0; i++) { tokenizer->eot = tokenizer_find(tokenizer, ends[i][0]); }
    tokenizer->bos = bos;
    for (int i = 0; i < 3 && tokenizer->bos == -2; i++) {
        int begin = tokenizer_find(tokenizer, ends[i][1]);
        if (tokenizer->eot >= 0 && tokenizer->eot == tokenizer_find(tokenizer, ends[i][0])) { tokenizer->bos = begin; }
    }
    tokenizer->pad = pad;
    if (tokenizer->pad == -2 && !tokenizer_kept(tokenizer, "tokenizer_config.json")) {
        for (int i = 0; i < 4 && tokenizer->pad < 0; i++) { tokenizer->pad = tokenizer_find(tokenizer, pads[i]); }
        if (tokenizer->pad < 0) { tokenizer->pad = tokenizer->eot; }
    }
    if (tokenizer->bos < 0) { tokenizer->bos = -1; }
    if (tokenizer->pad < 0) { tokenizer->pad = -1; }
}

// ---- the byte vocabulary ----

// Writes tokenizer.json, by which Hugging Face's libraries read a vocabulary of bytes: byte-level BPE that merges
// nothing.
static inline void tokenizer_make_byte_file(Tokenizer* tokenizer) {
    const char* eot = "<|endoftext|>";
    StringBuilder sb = {0};
    sb_printf(&sb, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [");
    if (tokenizer->V == 257) {
        sb_printf(
            &sb,
            "\n    {\"id\": 256, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
            "\"normalized\": false, \"special\": true}\n  ",
            eot);
    }
    const char* level =
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}";
    sb_printf(
        &sb, "],\n  \"normalizer\": null,\n  \"pre_tokenizer\": %s,\n  \"post_processor\": null,\n  \"decoder\": %s,\n",
        level, level);
    sb_printf(&sb,
              "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
              "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
              "    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {");
    int codes[256];
    alphabet_codes(codes);
    for (int byte = 0; byte < 256; byte++) {
        char c[2] = {(char)codes[byte], 0};
        size_t n = 1;
        if (codes[byte] >= 0x80) {
            c[0] = (char)(0xc0 | codes[byte] >> 6);
            c[1] = (char)(0x80 | (codes[byte] & 63));
            n = 2;
        }
        sb_printf(&sb, byte == 0 ? "\n" : ",\n");
        sb_printf(&sb, "      ");
        json_append_string(&sb, c, n);
        sb_printf(&sb, ": %d", byte);
    }
    sb_printf(&sb, "\n    },\n    \"merges\": []\n  }\n}\n");
    tokenizer_keep_file(tokenizer, "tokenizer.json", sb.data, sb.size);
}

static inline void tokenizer_make_bytes(Tokenizer* tokenizer) {
    tokenizer->kind = TOKENIZER_BYTES;
    for (int id = 0; id < tokenizer->V; id++) {
        char byte = (char)id;
        if (id < 256) {
            tokenizer_set_piece(tokenizer, id, &byte, 1);
        } else {
            tokenizer_set_piece(tokenizer, id, "<|endoftext|>", strlen("<|endoftext|>"));
            tokenizer_add_eot(tokenizer, id);
        }
    }
    tokenizer_make_byte_file(tokenizer);
    tokenizer_find_special(tokenizer);
}

// A tokenizer that was read may be the byte vocabulary of an earlier checkpoint.
static inline int tokenizer_looks_like_bytes(const Tokenizer* tokenizer) {
    if (tokenizer->kind != TOKENIZER_BPE || tokenizer->refusal || tokenizer->count < 256 || tokenizer->count > 257) {
        return 0;
    }
    for (int i = 0; i < 256; i++) {
        const TokenizerPiece* piece = &tokenizer->pieces[i];
        if (!piece->text || piece->size != 1 || (unsigned char)piece->text[0] != i) { return 0; }
    }
    return tokenizer->count == 256 || tokenizer->eot == 256;
}

// ---- opening ----

// The whole file DIR/name, NULL if there is none; the caller frees it.
static inline char* tokenizer_read_file(const char* dir, const char* name, size_t* size) {
    char* path = format_string("%s/%s", dir, name);
    const char* why = NULL;
    FILE* file = file_open_stream(path, &why);
    if (file == NULL) {
        if (errno != ENOENT && errno != ENOTDIR) { die("%s: could not be opened: %s", path, why); }
        free(path);
        return NULL;
    }
    StringBuilder sb = {0};
    sb_append(&sb, "", 0);
    char* chunk = (char*)xalloc(1 << 16, 1, "a tokenizer file");
    for (;;) {
        size_t n = fread(chunk, 1, 1 << 16, file);
        if (n == 0) { break; }
        sb_append(&sb, chunk, n);
        if (sb.size > JSON_MAX_BYTES) {
            die("%s: is larger than %zu MB, which no tokenizer is", path, JSON_MAX_BYTES >> 20);
        }
    }
    if (ferror(file)) { die("%s: could not be read: %s", path, strerror(errno)); }
    fclose(file);
    free(chunk);
    free(path);
    *size = sb.size;
    return sb.data;
}

// Earlier versions wrote this beside the byte vocabulary; it lacks what transformers 4 must be told.
static inline int tokenizer_is_old_config(const CheckpointFile* file) {
    static const char* const old[] = {
        "{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n  \"clean_up_tokenization_spaces\": false,\n"
        "  \"eos_token\": \"<|endoftext|>\"\n}\n",
        "{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n  \"clean_up_tokenization_spaces\": false\n}\n"};
    for (int i = 0; i < 2; i++) {
        if (file->size == strlen(old[i]) && memcmp(file->text, old[i], file->size) == 0) { return 1; }
    }
    return 0;
}

// Reads what later checkpoints will carry: now, since the directory may be an old checkpoint, deleted by then.
static inline void tokenizer_keep_files(Tokenizer* tokenizer, const char* dir) {
    static const char* const names[] = {
        "tokenizer.json",    "tokenizer_config.json",   "special_tokens_map.json", "vocab.json",      "merges.txt",
        "added_tokens.json", "chat_template.jinja",     "chat_template.json",      "tokenizer.model", "vocab.txt",
        "spiece.model",      "sentencepiece.bpe.model", "normalizer.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t size = 0;
        char* text = tokenizer_read_file(dir, names[i], &size);
        if (!text) { continue; }
        tokenizer_keep_file(tokenizer, names[i], text, size);
        if (strcmp(names[i], "tokenizer_config.json") == 0 &&
            tokenizer_is_old_config(&tokenizer->files[tokenizer->file_count - 1])) {
            free(text);
            tokenizer->file_count--;
        }
    }
}

// 1 if a file may be a model of SentencePiece: it begins with its first piece, a field whose tag is a line feed. (So does
// a JSON behind a blank line.)
static inline int tokenizer_is_model(const char* text, size_t size) {
    size_t at = 0;
    while (at < size && (text[at] == ' ' || (text[at] >= '\t' && text[at] <= '\r'))) { at++; }
    return size > 3 && text[0] == 0x0a && !(at < size && text[at] == '{');
}

// A file by itself: a tokenizer.json, or a tokenizer.model, of any name.
static inline void tokenizer_keep_single(Tokenizer* tokenizer, const char* path) {
    const char* slash = strrchr(path, '/');
    char* parent = slash ? format_string("%.*s/", (int)(slash - path), path) : format_string(".");
    size_t size = 0;
    char* text = tokenizer_read_file(parent, slash ? slash + 1 : path, &size);
    // Of a model the length of the first piece follows, then its text, of the same tag.
    int model = text && tokenizer_is_model(text, size) && (text_ends(path, ".model") || text[2] == 0x0a);
    if (text) { tokenizer_keep_file(tokenizer, model ? "tokenizer.model" : "tokenizer.json", text, size); }
    free(parent);
}

// Reads the files of the tokenizer in a directory (NULL: none), or a tokenizer.json or tokenizer.model of any name by
// itself.
static inline void tokenizer_read(Tokenizer* tokenizer, const char* dir) {
    struct stat info;
    if (dir && stat(dir, &info) == 0 && !S_ISDIR(info.st_mode)) {
        tokenizer_keep_single(tokenizer, dir);
        tokenizer->source = format_string("%s", dir);
    } else if (dir) {
        tokenizer_keep_files(tokenizer, dir);
    }
}

// vocab.json and merges.txt say nothing of words: that is known of GPT-2's alone. RoBERTa has these files too, and Qwen2.
static inline void tokenizer_check_class(Tokenizer* tokenizer) {
    const CheckpointFile* file = tokenizer_kept(tokenizer, "tokenizer_config.json");
    if (!file) { return; }
    char* path = format_string("%s: tokenizer_config.json", tokenizer->source);
    Json* root = json_parse(file->text, file->size, path);
    const Json* name = root->type == JSON_OBJECT ? json_get(root, "tokenizer_class") : NULL;
    if (name && name->type != JSON_NULL && !json_is(name, "GPT2Tokenizer") && !json_is(name, "GPT2TokenizerFast")) {
        tokenizer_refuse_value(tokenizer, "tokenizer_class (with vocab.json and merges.txt, without tokenizer.json)",
                               name);
    }
    json_free(root);
    free(path);
}

// Makes the tokenizer, for a vocabulary of V, from the files that it keeps, those of `dir`. Dies on damaged files;
// without tokenizer files only V counts.
static inline void tokenizer_make(Tokenizer* tokenizer, const char* dir, int V) {
    unicode_begin();
    alphabet_byte(0);  // fills its table, before there are threads
    tokenizer->V = V;
    tokenizer->eot = tokenizer->bos = tokenizer->pad = tokenizer->unknown = -1;
    tokenizer->kind = TOKENIZER_NUMBERS;
    for (int i = 0; i < 256; i++) { tokenizer->byte_token[i] = -1; }
    const CheckpointFile* json = tokenizer_kept(tokenizer, "tokenizer.json");
    const CheckpointFile* vocab = tokenizer_kept(tokenizer, "vocab.json");
    const CheckpointFile* merges = tokenizer_kept(tokenizer, "merges.txt");
    const CheckpointFile* model = tokenizer_kept(tokenizer, "tokenizer.model");
    if (json) {
        if (!tokenizer->source) { tokenizer->source = format_string("%s/tokenizer.json", dir); }
        tokenizer_read_json(tokenizer, json->text, json->size);
    } else if (vocab && merges) {
        tokenizer->source = format_string("%s/vocab.json", dir);
        tokenizer_read_gpt2(tokenizer, vocab->text, vocab->size, merges->text, merges->size);
        tokenizer_check_class(tokenizer);
    } else if (model && tokenizer_is_model(model->text, model->size)) {  // other software has other files of this name
        if (!tokenizer->source) { tokenizer->source = format_string("%s/tokenizer.model", dir); }
        tokenizer_read_sentencepiece(tokenizer, model->text, model->size);
    } else if (tokenizer->file_count == 0 && (V == 256 || V == 257)) {
        tokenizer->source = format_string("bytes");
        tokenizer_make_bytes(tokenizer);
        return;
    } else {
        if (!tokenizer->source) { tokenizer->source = format_string("%s", dir ? dir : "no model directory"); }
        tokenizer_refuse(tokenizer, "no tokenizer.json there, and a vocabulary of %d is not bytes (257)", V);
        return;
    }
    tokenizer_find_special(tokenizer);
    if (tokenizer_looks_like_bytes(tokenizer)) { tokenizer->kind = TOKENIZER_BYTES; }
}

// The tokenizer of a directory (NULL: none), or of a tokenizer.json or tokenizer.model of any name by itself.
static inline Tokenizer* tokenizer_open(const char* dir, int V) {
    Tokenizer* tokenizer = (Tokenizer*)xalloc(1, sizeof(Tokenizer), "the tokenizer");
    tokenizer_read(tokenizer, dir);
    tokenizer_make(tokenizer, dir, V);
    return tokenizer;
}

static inline void tokenizer_close(Tokenizer* tokenizer) {
    if (tokenizer == NULL) { return; }
    for (int i = 0; i < tokenizer->count; i++) { free(tokenizer->pieces[i].text); }
    for (int i = 0; i < 2; i++) { tokenizer_free_set(&tokenizer->added[i]); }
    tokenizer_free_set(&tokenizer->frozen);
    for (int i = 0; i < tokenizer->alias_count; i++) { free(tokenizer->aliases[i].key); }
    for (int i = 0; i < tokenizer->step_count; i++) {
        free(tokenizer->steps[i].from);
        free(tokenizer->steps[i].to);
    }
    for (int i = 0; i < tokenizer->file_count; i++) { free((void*)tokenizer->files[i].text); }
    free(tokenizer->aliases);
    free(tokenizer->pieces);
    free(tokenizer->keys.data);
    free(tokenizer->map);
    free(tokenizer->merges.table);
    free(tokenizer->refusal);
    free(tokenizer->source);
    free(tokenizer);
}

// What messages call it: "byte-level BPE", and of how many tokens.
static inline const char* tokenizer_kind_text(const Tokenizer* tokenizer) {
    switch (tokenizer->kind) {
        case TOKENIZER_BYTES: return "bytes";
        case TOKENIZER_BPE: return "byte-level BPE";
        case TOKENIZER_SENTENCE: return "BPE of characters";
        case TOKENIZER_PIECES: return "pieces that can be shown, not made";
        default: return "none: tokens are shown as numbers";
    }
}

// Writes the tokenizer_config.json that transformers needs, unless the tokenizer came with one. positions: the longest
// text that the model knows.
static inline void tokenizer_complete(Tokenizer* tokenizer, int positions) {
    if (tokenizer->kind == TOKENIZER_NUMBERS || tokenizer_kept(tokenizer, "tokenizer_config.json")) { return; }
    StringBuilder sb = {0};
    sb_printf(&sb, "{\n  \"tokenizer_class\": \"%s\",\n",
              tokenizer_kept(tokenizer, "tokenizer.json") ? "PreTrainedTokenizerFast"
              : tokenizer->alias_start                    ? "LlamaTokenizer"
                                                          : "GPT2Tokenizer");
    // Version 4 would make token_type_ids too, which no model here takes. Without clean-up, since decoding must give
    // back the very bytes; padding on the left, since what follows a prompt must stand beside it.
    sb_printf(&sb,
              "  \"model_input_names\": [\"input_ids\", \"attention_mask\"],\n  \"model_max_length\": %d,\n"
              "  \"padding_side\": \"left\",\n  \"clean_up_tokenization_spaces\": false",
              positions);
    // LlamaTokenizer would put a beginning before every text, which shards do not.
    if (tokenizer->alias_start && !tokenizer_kept(tokenizer, "tokenizer.json")) {
        sb_printf(&sb, ",\n  \"add_bos_token\": false");
    }
    const struct {
        const char* key;
        int id;
    } special[] = {{"bos_token", tokenizer->bos}, {"eos_token", tokenizer->eot}, {"pad_token", tokenizer->pad}};
    for (int i = 0; i < 3; i++) {
        int id = special[i].id;
        if (id < 0 || id >= tokenizer->V) { continue; }
        sb_printf(&sb, ",\n  \"%s\": ", special[i].key);
        json_append_string(&sb, tokenizer->pieces[id].text, tokenizer->pieces[id].size);
    }
    sb_printf(&sb, "\n}\n");
    tokenizer_keep_file(tokenizer, "tokenizer_config.json", sb.data, sb.size);
}

// Bytes of text that a token stands for, as bits per byte count them: an end of text, which is no text, counts as one,
// like the end of a line. 0: not known.
static inline size_t tokenizer_bytes(const Tokenizer* tokenizer, int id) {
    int text = tokenizer->kind <= TOKENIZER_SENTENCE;
    if (!text || id < 0 || id >= tokenizer->count || !tokenizer->pieces[id].text) { return 0; }
    return id == tokenizer->eot ? 1 : tokenizer->pieces[id].size;
}

// 1 if a token is a byte.
static inline int tokenizer_is_bytes(const Tokenizer* tokenizer) { return tokenizer->kind == TOKENIZER_BYTES; }

// The end-of-text token, what begins a text, what fills a row up: -1 if there is none (or none in the model's
// vocabulary).
static inline int tokenizer_eot(const Tokenizer* tokenizer) {
    return tokenizer->eot < tokenizer->V ? tokenizer->eot : -1;
}
static inline int tokenizer_bos(const Tokenizer* tokenizer) {
    return tokenizer->bos < tokenizer->V ? tokenizer->bos : -1;
}
static inline int tokenizer_pad(const Tokenizer* tokenizer) {
    return tokenizer->pad < tokenizer->V ? tokenizer->pad : -1;
}

// The files that a checkpoint carries; files has room for TOKENIZER_FILES. The texts stay this tokenizer's.
static inline int tokenizer_files(const Tokenizer* tokenizer, CheckpointFile* files) {
    for (int i = 0; i < tokenizer->file_count; i++) { files[i] = tokenizer->files[i]; }
    return tokenizer->file_count;
}

// ---- decoding ----

// The bytes of a token into out (TOKENIZER_PIECE); returns how many. Not NUL-terminated. A token
// may be part of a character. An id without a text is shown as <123>.
static inline size_t tokenizer_decode(const Tokenizer* tokenizer, int id, char* out) {
    if (id >= 0 && id < tokenizer->count && tokenizer->pieces[id].text) {
        const TokenizerPiece* piece = &tokenizer->pieces[id];
        const size_t space = (size_t)piece->begins, n = min_size(piece->size, TOKENIZER_PIECE - space);
        if (space) { out[0] = ' '; }
        memcpy(out + space, piece->text, n);
        return space + n;
    }
    return (size_t)snprintf(out, TOKENIZER_PIECE, "<%d>", id);
}

// Appends the text of tokens (count). first: they begin a text, where WordPiece has no space.
static inline void tokenizer_decode_all(const Tokenizer* tokenizer, const int* tokens, size_t count, int first,
                                        StringBuilder* sb) {
    for (size_t i = 0; i < count; i++) {
        char piece[TOKENIZER_PIECE];
        const size_t n = tokenizer_decode(tokenizer, tokens[i], piece);
        const size_t skip = first && i == 0 && tokens[i] >= 0 && tokens[i] < tokenizer->count
                                ? (size_t)tokenizer->pieces[tokens[i]].begins
                                : 0;
        sb_append(sb, piece + skip, n - skip);
    }
}

// ---- encoding ----

// Encodes n bytes of text, special tokens in it too; returns the tokens, which the caller frees, and *count = how many.
// (There is no bound by n: a normalizer may put any text for a character.) Dies if this tokenizer cannot encode, saying
// why. A time of O(n log n).
static inline int* tokenizer_encode(const Tokenizer* tokenizer, const char* text, size_t n, size_t* count) {
    if (tokenizer->refusal) {
        die("a prompt cannot be encoded: %s: %s; leave --prompt out to continue validation data", tokenizer->source,
            tokenizer->refusal);
    }
    if (n > INT_MAX / 4) { die("a prompt of %zu bytes is too long", n); }
    Encoder encoder;
    encoder_begin(&encoder, tokenizer, 1);
    encoder_run(&encoder, text, n, 1);
    int* out = (int*)xalloc(encoder.count, sizeof(int), "the tokens of a prompt");
    *count = encoder.count;
    if (*count) { memcpy(out, encoder.tokens, *count * sizeof(int)); }
    encoder_end(&encoder);
    for (size_t i = 0; i < *count; i++) {
        if (out[i] >= tokenizer->V) {
            die("a prompt cannot be encoded: %s gives token %d, which the model's vocabulary of %d does not have; "
                "the tokenizer is not this model's",
                tokenizer->source, out[i], tokenizer->V);
        }
    }
    return out;
}

#endif

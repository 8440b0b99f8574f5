// tokenizer.h - turns tokens into text and prompts into tokens.
//
//     Tokenizer* tokenizer = tokenizer_open("DIR", V);          or tokenizer_open(NULL, V), or of a tokenizer.json alone
//     int n = tokenizer_encode(tokenizer, text, size, tokens);
//     char piece[256]; size_t bytes = tokenizer_decode(tokenizer, token, piece);
//
// A model directory may hold a tokenizer, in the files of Hugging Face's tokenizers:
//     tokenizer.json, or vocab.json with merges.txt (GPT-2's)
// All files of it are kept, byte for byte, for the checkpoints of a model that is trained with it.
// Without them a vocabulary of 257 is bytes and end of text (256: bytes alone), and any other has
// no text: its tokens are shown as numbers, <123>.
//
// Encoding knows byte-level BPE with GPT-2's pre-tokenization (GPT-2, GPT-NeoX, Pythia). Tokens are
// those of the tokenizers library, with one exception: a text is taken to be in Unicode's form NFC
// already, where that library would convert it for GPT-NeoX. (So an accent typed as a character of
// its own gives other tokens; text from a keyboard is NFC.) Of other tokenizers the vocabulary is
// read, so that samples can be shown, but a prompt is refused.
#ifndef PONDER_TOKENIZER_H
#define PONDER_TOKENIZER_H

#include "../base.h"
#include "file.h"
#include "json.h"
#include "words.h"

#include <sys/stat.h>

enum {
    TOKENIZER_PIECE = 256,   // bytes that a decoded token may have
    TOKENIZER_FILES = 16,    // files that a checkpoint may carry
    TOKENIZER_MAX = 1 << 21  // an id at or above this is taken for damage: the largest vocabularies have 2^18
};

typedef enum {
    TOKENIZER_BYTES,    // token = byte, 256 = end of text
    TOKENIZER_BPE,      // byte-level BPE
    TOKENIZER_PIECES,   // another kind: a list of pieces, which can be shown but not made
    TOKENIZER_NUMBERS,  // nothing known
} TokenizerKind;

typedef struct {
    char* text;  // NULL: this id stands for nothing
    size_t size;
} TokenizerPiece;

// A token that stands for its text wherever that occurs, before BPE looks at the rest.
typedef struct {
    int id;
    char* text;
    size_t size;
    int normalized;  // looked for only between those that are not
} TokenizerAdded;

// The neighbours `left`, `right` may become `merged`; the lowest rank goes first.
typedef struct {
    int left, right, merged;
    uint32_t rank;
} TokenizerMerge;

typedef struct {
    TokenizerKind kind;
    int V;
    char* source;            // for messages: where it was read
    int count;               // pieces
    TokenizerPiece* pieces;  // (count)
    int eot;                 // end of text, -1: none
    int bos, pad;            // what a text begins with, what fills a row up; -1: none
    char* refusal;           // why it cannot encode, NULL: it can
    int added_count;
    TokenizerAdded* added;   // (added_count)
    size_t merge_capacity;   // a power of two
    TokenizerMerge* merges;  // (merge_capacity), a hash table; left = -1: free
    int byte_token[256];     // the token of a single byte, -1: none
    int file_count;
    CheckpointFile files[TOKENIZER_FILES];  // for checkpoints; the texts belong to this
} Tokenizer;

// ---- reading tokenizer files ----

// Decodes a piece of SentencePiece and its kin in place: U+2581 is a space, <0x0A> a byte.
static inline size_t tokenizer_unpiece(char* text, size_t size) {
    unsigned byte;
    char end;
    if (size == 6 && sscanf(text, "<0x%2x%c", &byte, &end) == 2 && end == '>') {
        text[0] = (char)byte;
        return 1;
    }
    size_t n = 0;
    for (size_t i = 0; i < size;) {
        if (size - i >= 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0) {
            text[n++] = ' ';
            i += 3;
        } else {
            text[n++] = text[i++];
        }
    }
    text[n] = 0;
    return n;
}

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

// The piece of an id, the list grown to hold it.
static inline TokenizerPiece* tokenizer_piece(Tokenizer* tokenizer, int64_t id, const char* text, int* capacity) {
    if (id < 0 || id >= TOKENIZER_MAX) {
        die("%s: expected ids from 0 to %d, found %lld for '%.40s'", tokenizer->source, TOKENIZER_MAX - 1,
            (long long)id, text);
    }
    if (id >= *capacity) {
        int larger = *capacity ? *capacity : 256;
        while (larger <= id) { larger *= 2; }
        TokenizerPiece* pieces = (TokenizerPiece*)xalloc((size_t)larger, sizeof(TokenizerPiece), "the vocabulary");
        if (tokenizer->count) { memcpy(pieces, tokenizer->pieces, (size_t)tokenizer->count * sizeof(TokenizerPiece)); }
        free(tokenizer->pieces);
        tokenizer->pieces = pieces;
        *capacity = larger;
    }
    if (id >= tokenizer->count) { tokenizer->count = (int)id + 1; }
    return &tokenizer->pieces[id];
}

static inline void tokenizer_set_piece(Tokenizer* tokenizer, int64_t id, const char* text, size_t size, int* capacity) {
    TokenizerPiece* piece = tokenizer_piece(tokenizer, id, text, capacity);
    free(piece->text);
    piece->text = (char*)xalloc(size + 1, 1, "a token");
    memcpy(piece->text, text, size);
    piece->size = size;
}

// Takes over a vocabulary {"piece": id, ...} or, of Unigram models, [["piece", score], ...].
static inline void tokenizer_read_vocab(Tokenizer* tokenizer, const Json* vocab, int* capacity) {
    for (int i = 0; i < vocab->count; i++) {
        const Json* item = vocab->items[i];
        const char* text = vocab->type == JSON_OBJECT ? vocab->keys[i] : NULL;
        size_t size = text ? strlen(text) : 0;  // a key has no NUL
        int64_t id = i;
        if (vocab->type == JSON_OBJECT) {
            id = json_get_int(vocab, text, -1, tokenizer->source);
            if (id >= 0 && id < tokenizer->count && tokenizer->pieces[id].text) {
                die("%s: id %lld stands for both '%.40s' and '%.40s'", tokenizer->source, (long long)id,
                    tokenizer->pieces[id].text, text);
            }
        } else {
            if (item->type != JSON_ARRAY || item->count < 1 || item->items[0]->type != JSON_STRING) {
                die("%s: expected [\"piece\", score] in the vocabulary, found something else at %d", tokenizer->source,
                    i);
            }
            text = item->items[0]->string;
            size = item->items[0]->length;
        }
        tokenizer_set_piece(tokenizer, id, text, size, capacity);
    }
}

// Where the merge of two tokens stands in the table, or would stand.
static inline TokenizerMerge* tokenizer_find_merge(const Tokenizer* tokenizer, int left, int right) {
    uint64_t hash = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    size_t at = (size_t)(hash >> 20) & (tokenizer->merge_capacity - 1);
    for (;;) {
        TokenizerMerge* merge = &tokenizer->merges[at];
        if (merge->left < 0 || (merge->left == left && merge->right == right)) { return merge; }
        at = (at + 1) & (tokenizer->merge_capacity - 1);
    }
}

static inline void tokenizer_make_merges(Tokenizer* tokenizer, size_t count) {
    tokenizer->merge_capacity = 16;
    while (tokenizer->merge_capacity < 2 * count) { tokenizer->merge_capacity *= 2; }
    tokenizer->merges = (TokenizerMerge*)xalloc(tokenizer->merge_capacity, sizeof(TokenizerMerge), "the merges");
    for (size_t i = 0; i < tokenizer->merge_capacity; i++) { tokenizer->merges[i].left = -1; }
}

// Adds the merge of rank `rank`, of two pieces written in the alphabet. They are whatever bytes the file holds, NULs
// too, so they are handled by their sizes alone.
static inline void tokenizer_add_merge(Tokenizer* tokenizer, const Json* vocab, const char* left, size_t left_size,
                                       const char* right, size_t right_size, uint32_t rank) {
    StringBuilder both = {0};
    sb_append(&both, left, left_size);
    sb_append(&both, right, right_size);
    const char* texts[3] = {left, right, both.data};
    size_t sizes[3] = {left_size, right_size, both.size};
    int ids[3];
    for (int i = 0; i < 3; i++) {
        const Json* id = json_get_sized(vocab, texts[i], sizes[i]);
        int64_t number = -1;
        if (!id || !json_whole(id, &number) || number < 0 || number >= TOKENIZER_MAX) {
            die("%s: merge %u of %s and %s needs %s, which is not in the vocabulary", tokenizer->source, rank,
                json_shown(left, left_size), json_shown(right, right_size), json_shown(texts[i], sizes[i]));
        }
        ids[i] = (int)number;
    }
    TokenizerMerge* merge = tokenizer_find_merge(tokenizer, ids[0], ids[1]);
    if (merge->left < 0) {  // of a merge that stands there twice the first counts
        merge->left = ids[0];
        merge->right = ids[1];
        merge->merged = ids[2];
        merge->rank = rank;
    }
    free(both.data);
}

// A merge written as "left right": neither has a space, since the alphabet has none.
static inline void tokenizer_add_merge_line(Tokenizer* tokenizer, const Json* vocab, const char* line, size_t size,
                                            uint32_t rank) {
    const char* space = (const char*)memchr(line, ' ', size);
    size_t left = space ? (size_t)(space - line) : 0;
    if (left == 0 || left + 1 >= size) {
        die("%s: expected two pieces with a space between in merge %u, found %s", tokenizer->source, rank,
            json_shown(line, size));
    }
    tokenizer_add_merge(tokenizer, vocab, line, left, space + 1, size - left - 1, rank);
}

// The merges of tokenizer.json: ["a b", ...] or [["a", "b"], ...].
static inline void tokenizer_read_merges(Tokenizer* tokenizer, const Json* vocab, const Json* merges) {
    tokenizer_make_merges(tokenizer, (size_t)merges->count);
    for (int i = 0; i < merges->count; i++) {
        const Json* merge = merges->items[i];
        if (merge->type == JSON_STRING) {
            tokenizer_add_merge_line(tokenizer, vocab, merge->string, merge->length, (uint32_t)i);
        } else if (merge->type == JSON_ARRAY && merge->count == 2 && merge->items[0]->type == JSON_STRING &&
                   merge->items[1]->type == JSON_STRING) {
            tokenizer_add_merge(tokenizer, vocab, merge->items[0]->string, merge->items[0]->length,
                                merge->items[1]->string, merge->items[1]->length, (uint32_t)i);
        } else {
            die("%s: expected two pieces in merge %d, found %s", tokenizer->source, i, json_type_name(merge->type));
        }
    }
}

static inline int tokenizer_compare_added(const void* a, const void* b) {  // longest first
    size_t x = ((const TokenizerAdded*)a)->size, y = ((const TokenizerAdded*)b)->size;
    return x < y ? 1 : x > y ? -1 : ((const TokenizerAdded*)a)->id - ((const TokenizerAdded*)b)->id;
}

// Notes the first reason why a tokenizer cannot encode.
__attribute__((format(printf, 2, 3))) static inline void tokenizer_refuse(Tokenizer* tokenizer, const char* fmt, ...) {
    if (tokenizer->refusal) { return; }
    char reason[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);
    tokenizer->refusal = format_string("%s", reason);
}

// Tokens beside the model's vocabulary; they replace what it says of the same id.
static inline void tokenizer_read_added(Tokenizer* tokenizer, const Json* added, int* capacity) {
    const char* path = tokenizer->source;
    tokenizer->added = (TokenizerAdded*)xalloc((size_t)added->count, sizeof(TokenizerAdded), "the added tokens");
    for (int i = 0; i < added->count; i++) {
        const Json* item = added->items[i];
        if (item->type != JSON_OBJECT) {
            die("%s: expected an object in added_tokens, found %s", path, json_type_name(item->type));
        }
        const char* text = json_get_string(item, "content", "", path);
        int64_t id = json_get_int(item, "id", -1, path);
        tokenizer_set_piece(tokenizer, id, text, strlen(text), capacity);
        if (json_get_bool(item, "lstrip", 0, path) || json_get_bool(item, "rstrip", 0, path) ||
            json_get_bool(item, "single_word", 0, path)) {
            tokenizer_refuse(tokenizer, "its token '%.40s' looks at what stands beside it", text);
        }
        if (*text == 0) { continue; }
        TokenizerAdded* token = &tokenizer->added[tokenizer->added_count++];
        token->id = (int)id;
        token->text = format_string("%s", text);
        token->size = strlen(text);
        token->normalized = json_get_bool(item, "normalized", 0, path);
    }
    qsort(tokenizer->added, (size_t)tokenizer->added_count, sizeof(TokenizerAdded), tokenizer_compare_added);
}

static inline int tokenizer_is_type(const Json* object, const char* type) {
    return json_is(json_get(object, "type"), type);
}

// Finds out what of a tokenizer.json the encoder does not do.
static inline void tokenizer_check_pipeline(Tokenizer* tokenizer, const Json* root, const Json* model) {
    const char* path = tokenizer->source;
    const Json* normalizer = json_get(root, "normalizer");
    if (normalizer && normalizer->type == JSON_OBJECT && !tokenizer_is_type(normalizer, "NFC")) {
        tokenizer_refuse(tokenizer, "its normalizer changes the text");
    }
    const Json* pre = json_get(root, "pre_tokenizer");
    if (!pre || pre->type != JSON_OBJECT || !tokenizer_is_type(pre, "ByteLevel") ||
        json_get_bool(pre, "add_prefix_space", 1, path) || !json_get_bool(pre, "use_regex", 1, path)) {
        tokenizer_refuse(tokenizer, "its pre-tokenizer is not GPT-2's");
    }
    static const char* const options[] = {
        "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        const Json* value = json_get(model, options[i]);
        int off = !value || value->type == JSON_NULL || (value->type == JSON_BOOL && !value->boolean) ||
                  (value->type == JSON_STRING && value->length == 0) ||
                  (value->type == JSON_NUMBER && value->number == 0);
        // An unknown token is never needed when every byte has one, which is checked when encoding.
        if (!off && strcmp(options[i], "unk_token") != 0) {
            tokenizer_refuse(tokenizer, "its model has the option %s", options[i]);
        }
    }
}

// A part of the pipeline is of this type, or is a sequence one of whose parts is.
static inline int tokenizer_has_part(const Json* root, const char* key, const char* list, const char* type) {
    const Json* part = json_get(root, key);
    if (!part || part->type != JSON_OBJECT) { return 0; }
    if (tokenizer_is_type(part, type)) { return 1; }
    const Json* parts = json_get(part, list);
    for (int i = 0; parts && parts->type == JSON_ARRAY && i < parts->count; i++) {
        if (parts->items[i]->type == JSON_OBJECT && tokenizer_is_type(parts->items[i], type)) { return 1; }
    }
    return 0;
}

static inline void tokenizer_read_json(Tokenizer* tokenizer, const char* text, size_t size) {
    const char* path = tokenizer->source;
    Json* root = json_parse(text, size, path);
    const Json* model = root->type == JSON_OBJECT ? json_get(root, "model") : NULL;
    const Json* vocab = model && model->type == JSON_OBJECT ? json_get(model, "vocab") : NULL;
    if (!vocab || (vocab->type != JSON_OBJECT && vocab->type != JSON_ARRAY)) {
        die("%s: expected a tokenizer with \"model\": {\"vocab\": ...}, found none; is it a tokenizer.json of Hugging "
            "Face?",
            path);
    }
    const Json* merges = json_get(model, "merges");
    int bytes = tokenizer_has_part(root, "pre_tokenizer", "pretokenizers", "ByteLevel") ||
                tokenizer_has_part(root, "decoder", "decoders", "ByteLevel");
    int bpe = bytes && vocab->type == JSON_OBJECT && merges && merges->type == JSON_ARRAY;
    tokenizer->kind = bpe ? TOKENIZER_BPE : TOKENIZER_PIECES;
    int capacity = 0;
    tokenizer_read_vocab(tokenizer, vocab, &capacity);
    if (bpe) {
        tokenizer_check_pipeline(tokenizer, root, model);
        if (!tokenizer->refusal) { tokenizer_read_merges(tokenizer, vocab, merges); }
    } else {
        tokenizer_refuse(tokenizer, "it is not a byte-level BPE");
    }
    for (int i = 0; i < tokenizer->count; i++) {
        TokenizerPiece* piece = &tokenizer->pieces[i];
        if (piece->text) {
            piece->size =
                bytes ? alphabet_decode(piece->text, piece->size) : tokenizer_unpiece(piece->text, piece->size);
        }
    }
    const Json* added = json_get(root, "added_tokens");
    if (added && added->type == JSON_ARRAY) { tokenizer_read_added(tokenizer, added, &capacity); }
    json_free(root);
}

// Makes <|endoftext|> in a prompt the end-of-text token.
static inline void tokenizer_add_eot(Tokenizer* tokenizer, int id) {
    tokenizer->added = (TokenizerAdded*)xalloc(1, sizeof(TokenizerAdded), "the added tokens");
    tokenizer->added[0].id = id;
    tokenizer->added[0].text = format_string("<|endoftext|>");
    tokenizer->added[0].size = strlen("<|endoftext|>");
    tokenizer->added_count = 1;
}

// GPT-2's first files: vocab.json {"piece": id} and merges.txt, a merge a line.
static inline void tokenizer_read_gpt2(Tokenizer* tokenizer, const char* vocab_text, size_t vocab_size,
                                       const char* merges, size_t size) {
    Json* vocab = json_parse(vocab_text, vocab_size, tokenizer->source);
    if (vocab->type != JSON_OBJECT) {
        die("%s: expected an object of pieces and ids, found %s", tokenizer->source, json_type_name(vocab->type));
    }
    tokenizer->kind = TOKENIZER_BPE;
    int capacity = 0;
    tokenizer_read_vocab(tokenizer, vocab, &capacity);
    size_t lines = 1;
    for (size_t i = 0; i < size; i++) { lines += merges[i] == '\n'; }
    tokenizer_make_merges(tokenizer, lines);
    uint32_t rank = 0;
    for (size_t start = 0, end; start < size; start = end + 1) {
        const char* newline = (const char*)memchr(merges + start, '\n', size - start);
        end = newline ? (size_t)(newline - merges) : size;
        size_t length = end - start - (end > start && merges[end - 1] == '\r');
        if (length == 0 || (start == 0 && merges[0] == '#')) { continue; }  // "#version: 0.2"
        tokenizer_add_merge_line(tokenizer, vocab, merges + start, length, rank++);
    }
    int eot = (int)json_get_int(vocab, "<|endoftext|>", -1, tokenizer->source);
    json_free(vocab);
    for (int i = 0; i < tokenizer->count; i++) {
        TokenizerPiece* piece = &tokenizer->pieces[i];
        if (piece->text) { piece->size = alphabet_decode(piece->text, piece->size); }
    }
    if (eot >= 0) { tokenizer_add_eot(tokenizer, eot); }
}

static inline void tokenizer_keep_file(Tokenizer* tokenizer, const char* name, char* text, size_t size) {
    CheckpointFile file = {name, text, size};
    tokenizer->files[tokenizer->file_count++] = file;
}

// The text of a file that is kept, NULL if there is none of this name.
static inline const CheckpointFile* tokenizer_kept(const Tokenizer* tokenizer, const char* name) {
    for (int i = 0; i < tokenizer->file_count; i++) {
        if (strcmp(tokenizer->files[i].name, name) == 0) { return &tokenizer->files[i]; }
    }
    return NULL;
}

// The id of a special token by its text of `size` bytes, -1: none.
static inline int tokenizer_find_sized(const Tokenizer* tokenizer, const char* text, size_t size) {
    for (int i = 0; i < tokenizer->count; i++) {
        const TokenizerPiece* piece = &tokenizer->pieces[i];
        if (piece->text && piece->size == size && memcmp(piece->text, text, size) == 0) { return i; }
    }
    return -1;
}
static inline int tokenizer_find(const Tokenizer* tokenizer, const char* text) {
    return text ? tokenizer_find_sized(tokenizer, text, strlen(text)) : -1;
}

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
    tokenizer->eot = tokenizer_named(tokenizer, "eos_token");
    for (int i = 0; i < 3 && tokenizer->eot < 0; i++) { tokenizer->eot = tokenizer_find(tokenizer, ends[i][0]); }
    tokenizer->bos = tokenizer_named(tokenizer, "bos_token");
    for (int i = 0; i < 3 && tokenizer->bos == -2; i++) {
        int begin = tokenizer_find(tokenizer, ends[i][1]);
        if (tokenizer->eot >= 0 && tokenizer->eot == tokenizer_find(tokenizer, ends[i][0])) { tokenizer->bos = begin; }
    }
    tokenizer->pad = tokenizer_named(tokenizer, "pad_token");
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
    int capacity = 0;
    for (int id = 0; id < tokenizer->V; id++) {
        char byte = (char)id;
        if (id < 256) {
            tokenizer_set_piece(tokenizer, id, &byte, 1, &capacity);
        } else {
            tokenizer_set_piece(tokenizer, id, "<|endoftext|>", strlen("<|endoftext|>"), &capacity);
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

// Reads the files of the tokenizer in a directory (NULL: none), or a tokenizer.json of any name by itself.
static inline void tokenizer_read(Tokenizer* tokenizer, const char* dir) {
    struct stat info;
    if (dir && stat(dir, &info) == 0 && !S_ISDIR(info.st_mode)) {
        const char* slash = strrchr(dir, '/');
        char* parent = slash ? format_string("%.*s/", (int)(slash - dir), dir) : format_string(".");
        size_t size = 0;
        char* text = tokenizer_read_file(parent, slash ? slash + 1 : dir, &size);
        if (text) { tokenizer_keep_file(tokenizer, "tokenizer.json", text, size); }
        tokenizer->source = format_string("%s", dir);
        free(parent);
    } else if (dir) {
        tokenizer_keep_files(tokenizer, dir);
    }
}

// Makes the tokenizer, for a vocabulary of V, from the files that it keeps, those of `dir`. Dies on damaged files;
// without tokenizer files only V counts.
static inline void tokenizer_make(Tokenizer* tokenizer, const char* dir, int V) {
    tokenizer->V = V;
    tokenizer->eot = tokenizer->bos = tokenizer->pad = -1;
    tokenizer->kind = TOKENIZER_NUMBERS;
    for (int i = 0; i < 256; i++) { tokenizer->byte_token[i] = -1; }
    const CheckpointFile* json = tokenizer_kept(tokenizer, "tokenizer.json");
    const CheckpointFile* vocab = tokenizer_kept(tokenizer, "vocab.json");
    const CheckpointFile* merges = tokenizer_kept(tokenizer, "merges.txt");
    if (json) {
        if (!tokenizer->source) { tokenizer->source = format_string("%s/tokenizer.json", dir); }
        tokenizer_read_json(tokenizer, json->text, json->size);
    } else if (vocab && merges) {
        tokenizer->source = format_string("%s/vocab.json", dir);
        tokenizer_read_gpt2(tokenizer, vocab->text, vocab->size, merges->text, merges->size);
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
    for (int i = tokenizer->count - 1; i >= 0; i--) {
        const TokenizerPiece* piece = &tokenizer->pieces[i];
        if (piece->text && piece->size == 1) { tokenizer->byte_token[(unsigned char)piece->text[0]] = i; }
    }
}

// The tokenizer of a directory (NULL: none), or of a tokenizer.json of any name by itself.
static inline Tokenizer* tokenizer_open(const char* dir, int V) {
    Tokenizer* tokenizer = (Tokenizer*)xalloc(1, sizeof(Tokenizer), "the tokenizer");
    tokenizer_read(tokenizer, dir);
    tokenizer_make(tokenizer, dir, V);
    return tokenizer;
}

static inline void tokenizer_close(Tokenizer* tokenizer) {
    if (tokenizer == NULL) { return; }
    for (int i = 0; i < tokenizer->count; i++) { free(tokenizer->pieces[i].text); }
    for (int i = 0; i < tokenizer->added_count; i++) { free(tokenizer->added[i].text); }
    for (int i = 0; i < tokenizer->file_count; i++) { free((void*)tokenizer->files[i].text); }
    free(tokenizer->pieces);
    free(tokenizer->added);
    free(tokenizer->merges);
    free(tokenizer->refusal);
    free(tokenizer->source);
    free(tokenizer);
}

// What messages call it: "byte-level BPE", and of how many tokens.
static inline const char* tokenizer_kind_text(const Tokenizer* tokenizer) {
    switch (tokenizer->kind) {
        case TOKENIZER_BYTES: return "bytes";
        case TOKENIZER_BPE: return "byte-level BPE";
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
              tokenizer_kept(tokenizer, "tokenizer.json") ? "PreTrainedTokenizerFast" : "GPT2Tokenizer");
    // Version 4 would make token_type_ids too, which no model here takes. Without clean-up, since decoding must give
    // back the very bytes; padding on the left, since what follows a prompt must stand beside it.
    sb_printf(&sb,
              "  \"model_input_names\": [\"input_ids\", \"attention_mask\"],\n  \"model_max_length\": %d,\n"
              "  \"padding_side\": \"left\",\n  \"clean_up_tokenization_spaces\": false",
              positions);
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
    int text = tokenizer->kind == TOKENIZER_BYTES || tokenizer->kind == TOKENIZER_BPE;
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
        size_t n = min_size(piece->size, TOKENIZER_PIECE);
        memcpy(out, piece->text, n);
        return n;
    }
    return (size_t)snprintf(out, TOKENIZER_PIECE, "<%d>", id);
}

// ---- encoding ----

// Byte-level BPE of one word into out; returns the number of tokens. Of all neighbours that can be
// merged the pair of lowest rank is, the leftmost first, until none is left. ranks has room for n.
static inline size_t tokenizer_merge_word(const Tokenizer* tokenizer, const char* word, size_t n, int* out,
                                          uint32_t* ranks) {
    for (size_t i = 0; i < n; i++) {
        out[i] = tokenizer->byte_token[(unsigned char)word[i]];
        if (out[i] < 0) {
            die("the prompt cannot be encoded: %s has no token for the byte 0x%02x", tokenizer->source,
                (unsigned char)word[i]);
        }
    }
    // ranks[i]: of the merge of tokens i and i+1
    for (size_t i = 0; i + 1 < n; i++) {
        const TokenizerMerge* merge = tokenizer_find_merge(tokenizer, out[i], out[i + 1]);
        ranks[i] = merge->left < 0 ? UINT32_MAX : merge->rank;
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (ranks[i] < ranks[best]) { best = i; }
        }
        if (ranks[best] == UINT32_MAX) { break; }
        out[best] = tokenizer_find_merge(tokenizer, out[best], out[best + 1])->merged;
        memmove(out + best + 1, out + best + 2, (n - best - 2) * sizeof(int));
        memmove(ranks + best, ranks + best + 1, (n - best - 2) * sizeof(uint32_t));
        n--;
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const TokenizerMerge* merge = tokenizer_find_merge(tokenizer, out[i], out[i + 1]);
            ranks[i] = merge->left < 0 ? UINT32_MAX : merge->rank;
        }
    }
    return n;
}

// Encodes text in which the added tokens have been looked for up to `level` (0: none yet, 1: those
// that come before normalization, 2: all). Returns the number of tokens.
static inline size_t tokenizer_encode_part(const Tokenizer* tokenizer, const char* text, size_t n, int* out,
                                           uint32_t* ranks, int level) {
    size_t count = 0, start = 0;
    if (level == 2) {
        if (tokenizer->kind == TOKENIZER_BYTES) {
            for (size_t i = 0; i < n; i++) { out[i] = (unsigned char)text[i]; }
            return n;
        }
        for (size_t size; start < n; start += size) {
            size = word_length(text + start, n - start);
            count += tokenizer_merge_word(tokenizer, text + start, size, out + count, ranks);
        }
        return count;
    }
    for (size_t at = 0; at < n;) {
        const TokenizerAdded* found = NULL;  // the longest that begins here
        for (int i = 0; i < tokenizer->added_count && !found; i++) {
            const TokenizerAdded* token = &tokenizer->added[i];
            if (token->normalized == level && token->size <= n - at &&
                memcmp(text + at, token->text, token->size) == 0) {
                found = token;
            }
        }
        if (!found) {
            at++;
            continue;
        }
        count += tokenizer_encode_part(tokenizer, text + start, at - start, out + count, ranks, level + 1);
        out[count++] = found->id;
        at += found->size;
        start = at;
    }
    return count + tokenizer_encode_part(tokenizer, text + start, n - start, out + count, ranks, level + 1);
}

// Encodes n bytes of text into out (room for n tokens); returns the number of tokens. Dies if this
// tokenizer cannot encode, saying why. A time of O(n) for text; O(length^2) for a word of it.
static inline int tokenizer_encode(const Tokenizer* tokenizer, const char* text, size_t n, int* out) {
    if (tokenizer->refusal) {
        die("a prompt cannot be encoded: %s: %s; leave --prompt out to continue validation data", tokenizer->source,
            tokenizer->refusal);
    }
    if (n > INT_MAX) { die("a prompt of %zu bytes is too long", n); }
    uint32_t* ranks = (uint32_t*)xalloc(n, sizeof(uint32_t), "encoding a prompt");
    size_t count = tokenizer_encode_part(tokenizer, text, n, out, ranks, 0);
    free(ranks);
    for (size_t i = 0; i < count; i++) {
        if (out[i] >= tokenizer->V) {
            die("a prompt cannot be encoded: %s gives token %d, which the model's vocabulary of %d does not have; "
                "the tokenizer is not this model's",
                tokenizer->source, out[i], tokenizer->V);
        }
    }
    return (int)count;
}

#endif

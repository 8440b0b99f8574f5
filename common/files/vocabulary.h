// vocabulary.h - what is known of a tokenizer: its pieces, which of them stand for whole texts, how it changes text and
// cuts it. tokenizer_json.h and sentencepiece.h fill it from files, encode.h reads it, tokenizer.h is the way in.
#ifndef PONDER_VOCABULARY_H
#define PONDER_VOCABULARY_H

#include "bpe.h"
#include "file.h"
#include "json.h"
#include "words.h"

enum {
    TOKENIZER_PIECE = 256,   // bytes that a decoded token may have
    TOKENIZER_FILES = 16,    // files that a checkpoint may carry
    TOKENIZER_STEPS = 8,     // of a normalizer
    TOKENIZER_MAX = 1 << 21  // an id at or above this is taken for damage: the largest vocabularies have 2^18
};

typedef enum {
    TOKENIZER_BYTES,     // token = byte, 256 = end of text
    TOKENIZER_BPE,       // byte-level BPE
    TOKENIZER_SENTENCE,  // BPE of characters, as SentencePiece makes it
    TOKENIZER_PIECES,    // another kind: a list of pieces, which can be shown but not made
    TOKENIZER_NUMBERS,   // nothing known
} TokenizerKind;

#define SPACE_MARK "\xe2\x96\x81"  // U+2581, which stands for a space in the pieces of SentencePiece
enum { SPACE_MARK_SIZE = 3, SPACE_MARK_CODE = 0x2581 };

typedef struct {
    char* text;  // what it decodes to; NULL: this id stands for nothing
    size_t size;
    int begins;       // it begins a word of WordPiece: a space comes before it, but not before the first of a text
    size_t key;       // what is encoded as it: its place in the keys,
    size_t key_size;  // and bytes, 0: it is never looked up
} TokenizerPiece;

// A token that stands for its text wherever that occurs, before BPE looks at the rest.
typedef struct {
    int id;
    char* text;
    size_t size;
    int normalized;  // looked for in the normalized text, between those that are not
    int special;     // plain text where special tokens are not asked for
    int lstrip, rstrip, single_word;
} TokenizerAdded;

// Tokens that are looked for together: by their first byte, the longest first, of equals the first added.
typedef struct {
    int count;
    TokenizerAdded* list;  // (count)
    int begin[257];        // those that begin with byte b are begin[b] to begin[b + 1]
    uint8_t pairs[8192];   // a bit for each pair of bytes that one begins with; all of its first if it has but one byte
} TokenizerSet;

// A step of a normalizer.
typedef enum { STEP_NFC, STEP_PREPEND, STEP_REPLACE } TokenizerStepKind;
typedef struct {
    TokenizerStepKind kind;
    char *from, *to;  // STEP_REPLACE: from becomes to; STEP_PREPEND: to comes first, unless the text is empty
    size_t from_size, to_size;
} TokenizerStep;

// An id above the vocabulary's, which merging needs: a character that has no piece, or a piece that does not merge.
typedef struct {
    int id;  // of the piece; -1: there is none, the bytes of the key stand for it
    char* key;
    size_t size;
} TokenizerAlias;

typedef struct {
    TokenizerKind kind;
    int V;
    char* source;            // for messages: where it was read
    int count;               // pieces
    int capacity;            // room for pieces
    TokenizerPiece* pieces;  // (capacity)
    int eot;                 // end of text, -1: none
    int bos, pad;            // what a text begins with, what fills a row up; -1: none
    char* refusal;           // why it cannot encode, NULL: it can

    TokenizerSet added[2];  // looked for in the text as it is, in the normalized text
    TokenizerStep steps[TOKENIZER_STEPS];
    int step_count;
    WordsKind words;
    int digits;        // numbers are parted from what is beside them: 1 together, 2 each by itself
    int prefix_space;  // a space comes before a text that does not begin with one
    int mark_spaces;   // spaces become U+2581, as Metaspace and SentencePiece do it,
    int mark_first;    // and one comes before a text: 1 always, 2 at its beginning only
    int mark_split;    // every one begins a word
    int trim_spaces;   // of several spaces one stays, at the ends none (SentencePiece)

    BpeMerges merges;
    StringBuilder keys;   // of all pieces
    int* map;             // (map_capacity), a hash table of ids, by keys; -1: free
    size_t map_capacity;  // a power of two
    int ignore_merges;    // a word that is a piece becomes that, whatever the merges say
    int byte_fallback;    // a character without a piece becomes its bytes
    int unknown, fuse;    // or this token, -1: none; several become one
    int byte_token[256];  // the token of a single byte, -1: none
    int cut_marks;        // no piece has a U+2581 behind another character: words may be cut there
    int cut_lines;        // no piece of several characters has a line feed
    TokenizerSet frozen;  // pieces that are found before any merge, and do not merge; their ids are aliases
    int alias_start;      // the first id that is an alias
    int alias_count;
    TokenizerAlias* aliases;  // (alias_count)

    int file_count;
    CheckpointFile files[TOKENIZER_FILES];  // for checkpoints; the texts belong to this
} Tokenizer;

// Notes the first reason why a tokenizer cannot encode.
__attribute__((format(printf, 2, 3))) static inline void tokenizer_refuse(Tokenizer* tokenizer, const char* fmt, ...) {
    if (tokenizer->refusal) { return; }
    char reason[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);
    tokenizer->refusal = format_string("%s", reason);
}

// ---- pieces ----

// The piece of an id, the list grown to hold it.
static inline TokenizerPiece* tokenizer_piece(Tokenizer* tokenizer, int64_t id, const char* text) {
    if (id < 0 || id >= TOKENIZER_MAX) {
        die("%s: expected ids from 0 to %d, found %lld for '%.40s'", tokenizer->source, TOKENIZER_MAX - 1,
            (long long)id, text);
    }
    if (id >= tokenizer->capacity) {
        int larger = tokenizer->capacity ? tokenizer->capacity : 256;
        while (larger <= id) { larger *= 2; }
        TokenizerPiece* pieces = (TokenizerPiece*)xalloc((size_t)larger, sizeof(TokenizerPiece), "the vocabulary");
        if (tokenizer->count) { memcpy(pieces, tokenizer->pieces, (size_t)tokenizer->count * sizeof(TokenizerPiece)); }
        free(tokenizer->pieces);
        tokenizer->pieces = pieces;
        tokenizer->capacity = larger;
    }
    if (id >= tokenizer->count) { tokenizer->count = (int)id + 1; }
    return &tokenizer->pieces[id];
}

static inline void tokenizer_set_piece(Tokenizer* tokenizer, int64_t id, const char* text, size_t size) {
    TokenizerPiece* piece = tokenizer_piece(tokenizer, id, text);
    free(piece->text);
    piece->text = (char*)xalloc(size + 1, 1, "a token");
    memcpy(piece->text, text, size);
    piece->size = size;
}

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
        if (size - i >= SPACE_MARK_SIZE && memcmp(text + i, SPACE_MARK, SPACE_MARK_SIZE) == 0) {
            text[n++] = ' ';
            i += SPACE_MARK_SIZE;
        } else {
            text[n++] = text[i++];
        }
    }
    text[n] = 0;
    return n;
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

// ---- from a text to its id ----

// Eight bytes at a time, any order of bytes: it never leaves this process.
static inline uint64_t text_hash(const char* text, size_t n) {
    uint64_t hash = n * 0x9e3779b97f4a7c15u;
    for (; n >= 8; n -= 8, text += 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        hash = (hash ^ word) * 0xff51afd7ed558ccdu;
        hash ^= hash >> 32;
    }
    uint64_t word = 0;
    memcpy(&word, text, n);
    hash = (hash ^ word) * 0xff51afd7ed558ccdu;
    hash ^= hash >> 29;
    hash *= 0xc4ceb9fe1a85ec53u;
    return hash ^ hash >> 32;
}

// What an id of the map is looked up by.
static inline const char* tokenizer_key(const Tokenizer* tokenizer, int id, size_t* size) {
    if (tokenizer->aliases && id >= tokenizer->alias_start) {
        const TokenizerAlias* alias = &tokenizer->aliases[id - tokenizer->alias_start];
        *size = alias->size;
        return alias->key;
    }
    *size = tokenizer->pieces[id].key_size;
    return tokenizer->keys.data + tokenizer->pieces[id].key;
}

// The row of the map for a text.
static inline int* tokenizer_map_row(const Tokenizer* tokenizer, const char* text, size_t n) {
    size_t at = (size_t)text_hash(text, n) & (tokenizer->map_capacity - 1);
    for (;; at = (at + 1) & (tokenizer->map_capacity - 1)) {
        int id = tokenizer->map[at];
        size_t size;
        if (id < 0) { return &tokenizer->map[at]; }
        const char* key = tokenizer_key(tokenizer, id, &size);
        if (size == n && memcmp(key, text, n) == 0) { return &tokenizer->map[at]; }
    }
}

// The id that is encoded for exactly this text, -1: none.
static inline int tokenizer_lookup(const Tokenizer* tokenizer, const char* text, size_t n) {
    return tokenizer->map_capacity ? *tokenizer_map_row(tokenizer, text, n) : -1;
}

// Says that a piece is encoded for this text.
static inline void tokenizer_set_key(Tokenizer* tokenizer, int id, const char* text, size_t size) {
    tokenizer->pieces[id].key = tokenizer->keys.size;
    tokenizer->pieces[id].key_size = size;
    sb_append(&tokenizer->keys, text, size);
}

// Makes the map of the keys, with room for `more`; of equal keys the first counts.
static inline void tokenizer_make_map(Tokenizer* tokenizer, size_t more) {
    sb_append(&tokenizer->keys, "", 0);  // there, although no piece may have a text
    free(tokenizer->map);
    tokenizer->map_capacity = 16;
    while (tokenizer->map_capacity < 2 * ((size_t)tokenizer->count + more)) { tokenizer->map_capacity *= 2; }
    tokenizer->map = (int*)xalloc(tokenizer->map_capacity, sizeof(int), "the vocabulary's hash table");
    for (size_t i = 0; i < tokenizer->map_capacity; i++) { tokenizer->map[i] = -1; }
    for (int id = 0; id < tokenizer->count; id++) {
        size_t size = tokenizer->pieces[id].key_size;
        if (size == 0) { continue; }
        int* row = tokenizer_map_row(tokenizer, tokenizer->keys.data + tokenizer->pieces[id].key, size);
        if (*row < 0) { *row = id; }
    }
}

// Finds out where words may be cut: what no piece crosses is no part of any merge.
static inline void tokenizer_find_cuts(Tokenizer* tokenizer) {
    tokenizer->cut_marks = tokenizer->cut_lines = 1;
    for (int id = 0; id < tokenizer->count; id++) {
        size_t size, length;
        const char* key = tokenizer_key(tokenizer, id, &size);
        int other = 0;  // a character that is no mark was seen
        for (size_t i = 0; i < size; i += length) {
            int code = unicode_code(key + i, size - i, &length);
            if (code == SPACE_MARK_CODE && other) { tokenizer->cut_marks = 0; }
            if (code == '\n' && size > 1) { tokenizer->cut_lines = 0; }
            other |= code != SPACE_MARK_CODE;
        }
    }
}

// ---- tokens that are looked for ----

// By first bytes, then the longest first; those of one text stay in order.
static inline int tokenizer_compare_added(const void* a, const void* b) {
    const TokenizerAdded *x = (const TokenizerAdded*)a, *y = (const TokenizerAdded*)b;
    int first = (unsigned char)x->text[0] - (unsigned char)y->text[0];
    if (first) { return first; }
    if (x->size != y->size) { return x->size < y->size ? 1 : -1; }
    if (x->special != y->special) { return y->special - x->special; }
    return x->id - y->id;
}

// Takes over tokens (count); the list belongs to the set from now on, their texts too.
static inline void tokenizer_make_set(TokenizerSet* set, TokenizerAdded* list, int count) {
    set->list = list;
    set->count = count;
    if (count) { qsort(list, (size_t)count, sizeof(TokenizerAdded), tokenizer_compare_added); }
    int at = 0;
    for (int byte = 0; byte < 257; byte++) {
        while (at < count && (unsigned char)list[at].text[0] < byte) { at++; }
        set->begin[byte] = at;
    }
    for (int i = 0; i < count; i++) {
        int first = (unsigned char)list[i].text[0];
        for (int second = 0; second < 256; second++) {
            if (list[i].size > 1 && (unsigned char)list[i].text[1] != second) { continue; }
            set->pairs[(first << 8 | second) >> 3] |= (uint8_t)(1 << (second & 7));
        }
    }
}

static inline void tokenizer_free_set(TokenizerSet* set) {
    for (int i = 0; i < set->count; i++) { free(set->list[i].text); }
    free(set->list);
    memset(set, 0, sizeof *set);
}

// The longest token of the set that begins at text (n > 0 bytes are left), NULL: none.
static inline const TokenizerAdded* tokenizer_match(const TokenizerSet* set, const char* text, size_t n) {
    unsigned first = (unsigned char)text[0];
    if (set->begin[first] == set->begin[first + 1]) { return NULL; }
    if (n > 1) {
        unsigned second = (unsigned char)text[1];
        if (!(set->pairs[(first << 8 | second) >> 3] & 1 << (second & 7))) { return NULL; }
    }
    for (int i = set->begin[first]; i < set->begin[first + 1]; i++) {
        const TokenizerAdded* token = &set->list[i];
        if (token->size <= n && memcmp(text, token->text, token->size) == 0) { return token; }
    }
    return NULL;
}

// ---- files ----

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

#endif

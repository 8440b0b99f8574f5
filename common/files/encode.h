// encode.h - text to tokens: added tokens are found, what is between them is normalized, cut into words, and merged.
//
//     Encoder encoder;  encoder_begin(&encoder, tokenizer, special);
//     encoder_run(&encoder, text, n, 1);               appends to encoder.tokens (encoder.count)
//     encoder_end(&encoder);
//
// An encoder belongs to one thread; the tokenizer may be shared. A long text may come in parts, cut where
// encoder_cut allows it: the tokens are the same. Text of n bytes takes a time of O(n log n).
#ifndef PONDER_ENCODE_H
#define PONDER_ENCODE_H

#include "vocabulary.h"

enum {
    WORD_CACHE = 1 << 15,     // words remembered
    WORD_CACHE_TEXT = 26,     // of at most so many bytes
    WORD_CACHE_TOKENS = 8,    // and tokens
    WORD_CACHE_AFTER = 2000,  // from so many tokens on
    ENCODER_FEW = 256         // characters of a word that are taken apart without more room
};

typedef struct {
    uint8_t size, count;  // size 0: empty
    char text[WORD_CACHE_TEXT];
    int tokens[WORD_CACHE_TOKENS];
} WordEntry;

typedef struct {
    const Tokenizer* tokenizer;
    int special;  // special tokens in the text are tokens; else they are text
    int* tokens;  // (capacity)
    size_t count, capacity;
    WordEntry* words;  // (WORD_CACHE), once there was some text
    BpeRoom room;
    int* ids;  // (ids_capacity) a word as it is merged
    size_t ids_capacity;
    StringBuilder texts[2];  // what a normalizer makes, its steps by turns
    StringBuilder marked;    // with U+2581 for spaces
    const char* path;        // for messages: of which file the text is, NULL: of none,
    uint64_t document;       // and which document there, from 0
} Encoder;

static inline void encoder_begin(Encoder* e, const Tokenizer* tokenizer, int special) {
    memset(e, 0, sizeof *e);
    e->tokenizer = tokenizer;
    e->special = special;
}

static inline void encoder_end(Encoder* e) {
    free(e->tokens);
    free(e->words);
    free(e->ids);
    for (int i = 0; i < 2; i++) { free(e->texts[i].data); }
    free(e->marked.data);
    bpe_free_room(&e->room);
    memset(e, 0, sizeof *e);
}

static inline void encoder_reserve(int** list, size_t* capacity, size_t used, size_t n) {
    if (n <= *capacity) { return; }
    size_t larger = max_size(n, *capacity + *capacity / 2);
    int* more = (int*)xalloc(larger, sizeof(int), "tokens");
    if (used) { memcpy(more, *list, used * sizeof(int)); }
    free(*list);
    *list = more;
    *capacity = larger;
}

static inline void encoder_append(Encoder* e, const int* tokens, size_t n) {
    encoder_reserve(&e->tokens, &e->capacity, e->count, e->count + n);
    memcpy(e->tokens + e->count, tokens, n * sizeof(int));
    e->count += n;
}

// ---- one word ----

// What stands for a character that has no piece, into ids; returns how many. Dies if nothing does.
static inline size_t encoder_unknown(const Encoder* e, const char* text, size_t size, int* ids) {
    const Tokenizer* t = e->tokenizer;
    int all = t->byte_fallback;
    for (size_t i = 0; i < size && all; i++) {
        ids[i] = t->byte_token[(unsigned char)text[i]];
        all = ids[i] >= 0;
    }
    if (all) { return size; }
    if (t->unknown < 0) {
        char* whose = e->path ? format_string("%s: document %llu", e->path, (unsigned long long)e->document)
                              : format_string("the text");
        die("%s cannot be encoded: %s has no token for %s", whose, t->source,
            json_utf8_length(text, size) ? json_shown(text, size)
                                         : format_string("the byte 0x%02x", (unsigned char)*text));
    }
    ids[0] = t->unknown;
    return 1;
}

// The characters of a word as ids (n); returns how many.
static inline size_t encoder_take_apart(const Encoder* e, const char* word, size_t n, int* ids) {
    const Tokenizer* t = e->tokenizer;
    size_t count = 0, size;
    if (t->kind == TOKENIZER_BPE) {
        for (size_t i = 0; i < n; i++) {
            int id = t->byte_token[(unsigned char)word[i]];
            if (id >= 0) {
                ids[count++] = id;
            } else {
                count += encoder_unknown(e, word + i, 1, ids + count);
            }
        }
        return count;
    }
    for (size_t i = 0; i < n; i += size) {
        const TokenizerAdded* piece = t->frozen.count ? tokenizer_match(&t->frozen, word + i, n - i) : NULL;
        if (piece) {
            size = piece->size;
            ids[count++] = piece->id;
            continue;
        }
        int code = unicode_code(word + i, n - i, &size);
        int id = code < 0 ? -1 : tokenizer_lookup(t, word + i, size);
        if (id >= 0) {
            ids[count++] = id;
        } else {
            count += encoder_unknown(e, word + i, size, ids + count);
        }
    }
    return count;
}

// Appends merged ids; `start` is where the tokens of this word began, before which nothing is fused.
static inline void encoder_append_merged(Encoder* e, const int* ids, size_t n, size_t start) {
    const Tokenizer* t = e->tokenizer;
    if (t->kind == TOKENIZER_BPE && !t->fuse) {
        encoder_append(e, ids, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        int few[4];
        size_t count = 1;
        few[0] = ids[i];
        if (t->aliases && ids[i] >= t->alias_start) {
            const TokenizerAlias* alias = &t->aliases[ids[i] - t->alias_start];
            few[0] = alias->id;
            if (alias->id < 0) { count = encoder_unknown(e, alias->key, alias->size, few); }
        }
        int again = t->fuse && few[0] == t->unknown && e->count > start && e->tokens[e->count - 1] == t->unknown;
        if (!again) { encoder_append(e, few, count); }
    }
}

// A word, or a part of one that no merge leaves; before `start` nothing is fused.
static inline void encoder_word(Encoder* e, const char* word, size_t n, size_t start) {
    const Tokenizer* t = e->tokenizer;
    if (!e->words && e->count > WORD_CACHE_AFTER) {
        e->words = (WordEntry*)xalloc(WORD_CACHE, sizeof(WordEntry), "the words remembered");
    }
    int fits = e->words && n <= WORD_CACHE_TEXT;
    WordEntry* entry = fits ? &e->words[(size_t)text_hash(word, n) & (WORD_CACHE - 1)] : NULL;
    if (fits && entry->size == n && memcmp(entry->text, word, n) == 0) {
        encoder_append(e, entry->tokens, entry->count);
        return;
    }
    int id = t->ignore_merges ? tokenizer_lookup(t, word, n) : -1, few[ENCODER_FEW];
    int* ids = few;
    if (n > ENCODER_FEW) {
        encoder_reserve(&e->ids, &e->ids_capacity, 0, n);
        ids = e->ids;
    }
    size_t before = e->count;
    if (id >= 0) {
        encoder_append(e, &id, 1);
    } else {
        size_t count = encoder_take_apart(e, word, n, ids);
        encoder_append_merged(e, ids, bpe_merge(&t->merges, &e->room, ids, count), start);
    }
    size_t count = e->count - before;
    // What is fused depends on what came before: a word with an unknown token at its ends is not remembered.
    // Nor is one behind such a token, which may have taken its first in.
    int fused = t->fuse && (count == 0 || e->tokens[before] == t->unknown ||
                            (before > start && e->tokens[before - 1] == t->unknown));
    if (fits && count <= WORD_CACHE_TOKENS && !fused) {
        entry->size = (uint8_t)n;
        entry->count = (uint8_t)count;
        memcpy(entry->text, word, n);
        memcpy(entry->tokens, e->tokens + before, count * sizeof(int));
    }
}

// ---- words ----

// A text of SentencePiece, spaces written as U+2581, cut before runs of them if no piece crosses that.
static inline void encoder_sentence(Encoder* e, const char* text, size_t n) {
    const Tokenizer* t = e->tokenizer;
    size_t start = e->count, from = 0;
    for (size_t at = 0; at < n; at++) {
        if (text[at] != SPACE_MARK[0] || n - at < SPACE_MARK_SIZE ||
            memcmp(text + at, SPACE_MARK, SPACE_MARK_SIZE) != 0) {
            continue;
        }
        int run = at >= SPACE_MARK_SIZE && memcmp(text + at - SPACE_MARK_SIZE, SPACE_MARK, SPACE_MARK_SIZE) == 0;
        if (at > from && (t->mark_split || (t->cut_marks && !run))) {
            encoder_word(e, text + from, at - from, start);
            from = at;
            if (t->mark_split) { start = e->count; }
        }
        at += SPACE_MARK_SIZE - 1;
    }
    if (from < n) { encoder_word(e, text + from, n - from, start); }
}

static inline void encoder_cut_words(Encoder* e, const char* text, size_t n) {
    for (size_t at = 0, size; at < n; at += size) {
        size = word_length(e->tokenizer->words, text + at, n - at);
        encoder_word(e, text + at, size, e->count);
    }
}

// Text without added tokens, normalized. first: it begins the whole text; goes_on: it goes on with one cut before it.
static inline void encoder_text(Encoder* e, const char* text, size_t n, int first, int goes_on) {
    const Tokenizer* t = e->tokenizer;
    if (n == 0) { return; }
    if (t->kind == TOKENIZER_BYTES) {
        encoder_reserve(&e->tokens, &e->capacity, e->count, e->count + n);
        for (size_t i = 0; i < n; i++) { e->tokens[e->count++] = (unsigned char)text[i]; }
        return;
    }
    if (t->mark_spaces) {
        e->marked.size = 0;
        int has = text[0] == ' ' || (n >= SPACE_MARK_SIZE && memcmp(text, SPACE_MARK, SPACE_MARK_SIZE) == 0);
        int one = !goes_on && !has && (t->mark_first == 1 || (t->mark_first == 2 && first));
        if (one) { sb_append(&e->marked, SPACE_MARK, SPACE_MARK_SIZE); }
        for (size_t at = 0, end; at < n; at = end) {
            const char* space = (const char*)memchr(text + at, ' ', n - at);
            end = space ? (size_t)(space - text) : n;
            sb_append(&e->marked, text + at, end - at);
            for (; end < n && text[end] == ' '; end++) { sb_append(&e->marked, SPACE_MARK, SPACE_MARK_SIZE); }
        }
        text = e->marked.data;
        n = e->marked.size;
    } else if (t->prefix_space && text[0] != ' ' && !goes_on) {
        e->marked.size = 0;
        sb_append(&e->marked, " ", 1);
        sb_append(&e->marked, text, n);
        text = e->marked.data;
        n = e->marked.size;
    }
    if (t->kind == TOKENIZER_SENTENCE) {
        encoder_sentence(e, text, n);
        return;
    }
    size_t from = 0, length = 0;
    for (size_t at = 0; t->digits && at < n;) {
        if (!(word_kind_at(text + at, n - at, &length) & UNICODE_NUMBER)) {
            at += length;
            continue;
        }
        size_t last, size = word_run(text, n, at, UNICODE_NUMBER, t->digits == 2 ? 1 : n, &last);
        encoder_cut_words(e, text + from, at - from);
        encoder_cut_words(e, text + at, size);
        from = at += size;
    }
    encoder_cut_words(e, text + from, n - from);
}

// ---- SentencePiece's own normalizer ----

// Text to e->marked as tokenizer.model says, then to tokens. (Pieces of the user's are taken as they are in either.)
static inline void encoder_sentence_text(Encoder* e, const char* text, size_t n, int goes_on) {
    const Tokenizer* t = e->tokenizer;
    size_t at = 0;
    while (t->trim_spaces && at < n && text[at] == ' ') { at++; }
    while (t->trim_spaces && n > at && text[n - 1] == ' ') { n--; }
    if (at == n) { return; }
    e->marked.size = 0;
    if (t->mark_first && !goes_on) { sb_append(&e->marked, t->mark_spaces ? SPACE_MARK : " ", t->mark_spaces ? 3 : 1); }
    for (size_t end; at < n; at = end) {
        const char* space = (const char*)memchr(text + at, ' ', n - at);
        end = space ? (size_t)(space - text) : n;
        sb_append(&e->marked, text + at, end - at);
        for (size_t k = 0; end < n && text[end] == ' '; end++, k++) {
            if (k && t->trim_spaces) { continue; }
            sb_append(&e->marked, t->mark_spaces ? SPACE_MARK : " ", t->mark_spaces ? 3 : 1);
        }
    }
    StringBuilder* sb = &e->marked;
    while (t->trim_spaces && t->mark_spaces && sb->size >= SPACE_MARK_SIZE &&
           memcmp(sb->data + sb->size - SPACE_MARK_SIZE, SPACE_MARK, SPACE_MARK_SIZE) == 0) {
        sb->size -= SPACE_MARK_SIZE;  // those of the text itself, too
    }
    encoder_sentence(e, sb->data, sb->size);
}

// ---- added tokens ----

static inline void encoder_replace(const TokenizerStep* step, const char* text, size_t n, StringBuilder* to) {
    size_t kept = 0;  // text up to here is in `to`
    for (size_t at = 0; at < n;) {
        const char* found = (const char*)memchr(text + at, step->from[0], n - at);
        if (!found) { break; }
        at = (size_t)(found - text);
        if (step->from_size > n - at || memcmp(found, step->from, step->from_size) != 0) {
            at++;
            continue;
        }
        sb_append(to, text + kept, at - kept);
        sb_append(to, step->to, step->to_size);
        kept = at += step->from_size;
    }
    sb_append(to, text + kept, n - kept);
}

// Applies a normalizer's steps to text (n bytes): *out = the result (valid until the next call) and its size.
static inline size_t encoder_normalize(Encoder* e, const char* text, size_t n, int goes_on, const char** out) {
    const Tokenizer* t = e->tokenizer;
    int turn = 0;
    for (int i = 0; i < t->step_count && n; i++) {
        const TokenizerStep* step = &t->steps[i];
        StringBuilder* to = &e->texts[turn];
        to->size = 0;
        if (step->kind == STEP_NFC) {
            if (!unicode_nfc(text, n, to)) { continue; }
        } else if (step->kind == STEP_PREPEND) {
            if (goes_on) { continue; }
            sb_append(to, step->to, step->to_size);
            sb_append(to, text, n);
        } else {
            encoder_replace(step, text, n, to);
        }
        text = to->data;
        n = to->size;
        turn = !turn;
    }
    *out = text;
    return n;
}

// Where white space that ends at `end` begins, not before `from`.
static inline size_t encoder_space_before(const char* text, size_t from, size_t end) {
    while (end > from) {
        size_t at = end - 1, length;
        while (at > from && ((unsigned char)text[at] & 0xc0) == 0x80) { at--; }
        int code = unicode_code(text + at, end - at, &length);
        if (!(unicode_kind(code) & UNICODE_SPACE) || at + length != end) { break; }
        end = at;
    }
    return end;
}

// 1 if the character before or at `at` is part of a word (\w).
static inline int encoder_word_beside(const char* text, size_t n, size_t at, int before) {
    size_t length, start = at;
    if (before ? at == 0 : at == n) { return 0; }
    if (before) {
        do { start--; } while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80);
    }
    return (unicode_kind(unicode_code(text + start, n - start, &length)) & UNICODE_WORD) != 0;
}

// Text in which the tokens of set `level` are looked for (0: it is as it came, 1: normalized). `offset`: where it
// begins in the whole text; 0: at its beginning. The order of events is that of the tokenizers library.
static inline void encoder_part(Encoder* e, const char* text, size_t n, size_t offset, int goes_on, int level) {
    const Tokenizer* t = e->tokenizer;
    if (level == 2) {
        encoder_text(e, text, n, offset == 0 && !goes_on, goes_on && offset == 0);
        return;
    }
    const TokenizerSet* set = &t->added[level];
    size_t from = 0;
    for (size_t at = 0; at <= n;) {
        const TokenizerAdded* found = NULL;
        while (set->count && at < n && (found = tokenizer_match(set, text + at, n - at)) == NULL) { at++; }
        size_t start = at, stop = n;
        if (found) {
            at = stop = start + found->size;
            if (found->special && !e->special) { continue; }
            if (found->single_word &&
                (encoder_word_beside(text, n, start, 1) || encoder_word_beside(text, n, stop, 0))) {
                continue;
            }
            if (found->lstrip) { start = max_size(encoder_space_before(text, 0, start), from); }
            size_t length;
            while (found->rstrip && stop < n && (word_kind_at(text + stop, n - stop, &length) & UNICODE_SPACE)) {
                stop += length;
            }
        } else {
            start = n;
        }
        if (start > from) {
            const char* part = text + from;
            size_t size = start - from;
            int continues = goes_on && offset + from == 0;
            if (level == 0 && t->step_count) { size = encoder_normalize(e, part, size, continues, &part); }
            encoder_part(e, part, size, offset + from, goes_on, level + 1);
        }
        if (!found) { break; }
        encoder_append(e, &found->id, 1);
        from = stop;
    }
}

// Appends the tokens of text (n bytes). first: it begins a text; 0: it goes on with one that encoder_cut has cut.
static inline void encoder_run(Encoder* e, const char* text, size_t n, int first) {
    const Tokenizer* t = e->tokenizer;
    if (t->kind == TOKENIZER_SENTENCE && t->alias_start) {  // tokenizer.model: its special tokens are never text
        encoder_sentence_text(e, text, n, !first);
        return;
    }
    encoder_part(e, text, n, 0, !first, 0);
}

// ---- where a long text may be cut ----

// 1 if a U+2581, which was a space before it was normalized, begins at byte k of a token, behind another character.
static inline int encoder_mark_inside(const TokenizerAdded* token, size_t k) {
    const char* at = token->text + k;
    if (token->size - k < SPACE_MARK_SIZE || memcmp(at, SPACE_MARK, SPACE_MARK_SIZE) != 0) { return 0; }
    return k < SPACE_MARK_SIZE || memcmp(at - SPACE_MARK_SIZE, SPACE_MARK, SPACE_MARK_SIZE) != 0;
}

// 1 if an added token may end at `at`, and something is put before what follows one: not before what goes on behind a
// cut.
static inline int encoder_token_before(const Encoder* e, const char* text, size_t at) {
    const Tokenizer* t = e->tokenizer;
    int prepends = t->prefix_space || t->mark_first == 1;
    for (int i = 0; i < t->step_count; i++) { prepends |= t->steps[i].kind == STEP_PREPEND; }
    for (int level = 0; prepends && level < 2; level++) {
        for (int i = 0; i < t->added[level].count; i++) {
            const TokenizerAdded* token = &t->added[level].list[i];
            if (token->special && !e->special) { continue; }
            if (token->size <= at && memcmp(text + at - token->size, token->text, token->size) == 0) { return 1; }
        }
    }
    return 0;
}

// 1 if spaces become U+2581, and nothing else is replaced.
static inline int encoder_marks_alone(const Tokenizer* t) {
    int marks = t->mark_spaces;
    for (int i = 0; i < t->step_count; i++) {
        const TokenizerStep* step = &t->steps[i];
        if (step->kind != STEP_REPLACE) { continue; }
        if (step->from_size != 1 || step->from[0] != ' ' || step->to_size != SPACE_MARK_SIZE ||
            memcmp(step->to, SPACE_MARK, SPACE_MARK_SIZE) != 0) {
            return 0;
        }
        marks = 1;
    }
    return marks;
}

// 1 if a character, as SentencePiece's kinds see it, is never the unknown token, which might be fused with another.
static inline int encoder_is_known(const Tokenizer* t, const char* text, size_t size) {
    int id = tokenizer_lookup(t, text, size), all = t->byte_fallback;
    if (t->aliases && id >= t->alias_start) { id = t->aliases[id - t->alias_start].id; }
    for (size_t i = 0; i < size && all; i++) { all = t->byte_token[(unsigned char)text[i]] >= 0; }
    return !t->fuse || id >= 0 || all;
}

// 1 if the words or pieces, and all tokens that are looked for, let a text be cut before a space.
static inline int encoder_cuts(const Encoder* e) {
    const Tokenizer* t = e->tokenizer;
    if (t->trim_spaces) { return 0; }
    if (t->kind == TOKENIZER_SENTENCE) {
        if (!t->cut_marks || !encoder_marks_alone(t)) { return 0; }
        if (!t->mark_split && !encoder_is_known(t, SPACE_MARK, SPACE_MARK_SIZE)) { return 0; }
    } else if (t->kind == TOKENIZER_BPE) {
        if (t->words == WORDS_NONE) { return 0; }  // a text is one word
        for (int i = 0; i < t->step_count; i++) {
            if (t->steps[i].kind == STEP_REPLACE) { return 0; }
        }
    }
    for (int level = 0; level < 2; level++) {
        for (int i = 0; i < t->added[level].count; i++) {
            const TokenizerAdded* token = &t->added[level].list[i];
            if (token->special && !e->special) { continue; }
            if (token->lstrip || token->rstrip || token->single_word) { return 0; }
            for (size_t k = 1; k < token->size; k++) {
                if (token->text[k] == ' ' && token->text[k - 1] != ' ') { return 0; }
                if (level == 1 && encoder_mark_inside(token, k)) { return 0; }
                if (token->text[k - 1] == '\n' || token->text[k] == '\n') { return 0; }
            }
        }
    }
    return 1;
}

// 1 if the character that ends before `at` is neither white space nor U+2581.
static inline int encoder_solid_before(const char* text, size_t at) {
    size_t start = at, length;
    if (at == 0) { return 0; }
    do { start--; } while (start > 0 && at - start < 4 && ((unsigned char)text[start] & 0xc0) == 0x80);
    int code = unicode_code(text + start, at - start, &length);
    return code >= 0 && start + length == at && code != SPACE_MARK_CODE && !(unicode_kind(code) & UNICODE_SPACE);
}

// The last place where text (n bytes, more follow) may be cut so that its parts have the tokens of the whole; 0: none.
// Before a space, or behind a single line feed, where these stand beside other characters: no pattern of words goes
// over that, no normalizer changes it, and of SentencePiece's kinds no piece.
static inline size_t encoder_cut(const Encoder* e, const char* text, size_t n) {
    const Tokenizer* t = e->tokenizer;
    if (!encoder_cuts(e)) { return 0; }
    int lines = t->kind != TOKENIZER_SENTENCE || (t->cut_lines && encoder_is_known(t, "\n", 1));
    for (size_t at = n; at-- > 1;) {
        unsigned char next = (unsigned char)text[at];
        int space = next == ' ' && encoder_solid_before(text, at);
        int line = lines && text[at - 1] == '\n' && next > ' ' && next < 0x7f && encoder_solid_before(text, at - 1);
        if ((space || line) && !encoder_token_before(e, text, at)) { return at; }
    }
    return 0;
}

#endif

// words.h - how tokenizers see text before they merge: bytes written in an alphabet, and words, which no token crosses.
//
//     size_t size = word_length(WORDS_GPT2, text, n);     bytes of the next word
#ifndef PONDER_WORDS_H
#define PONDER_WORDS_H

#include "unicode.h"

// ---- the byte alphabet ----

// Byte-level BPE writes each byte as a character that shows: printable ASCII and Latin-1 stand for
// themselves, the other 68 bytes, in order, are U+0100 and up. (Radford et al. 2019, GPT-2.)
static inline int alphabet_shows(int byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

// codes[256] = the character of every byte
static inline void alphabet_codes(int* codes) {
    int next = 256;
    for (int byte = 0; byte < 256; byte++) { codes[byte] = alphabet_shows(byte) ? byte : next++; }
}

// The byte that a character of the alphabet stands for, -1: none.
static inline int alphabet_byte(int code) {
    static int bytes[324];  // of each character of the alphabet; 0 until the first call
    if (bytes[323] == 0) {
        int codes[256];
        alphabet_codes(codes);
        for (int i = 0; i < 324; i++) { bytes[i] = -1; }
        for (int byte = 0; byte < 256; byte++) { bytes[codes[byte]] = byte; }
    }
    return code < 0 || code >= 324 ? -1 : bytes[code];
}

// 1 if a piece of the vocabulary is written in the alphabet.
static inline int alphabet_has(const char* text, size_t size) {
    for (size_t i = 0, length; i < size; i += length) {
        if (alphabet_byte(unicode_code(text + i, size - i, &length)) < 0) { return 0; }
    }
    return 1;
}

// Decodes a piece of the vocabulary, written in the alphabet, to bytes in place; returns its new
// size. A piece with a character outside the alphabet stays as it is.
static inline size_t alphabet_decode(char* text, size_t size) {
    if (!alphabet_has(text, size)) { return size; }
    size_t length, n = 0;
    for (size_t i = 0; i < size; i += length) {
        text[n++] = (char)alphabet_byte(unicode_code(text + i, size - i, &length));
    }
    text[n] = 0;
    return n;
}

// ---- words ----

// The regular expressions by which tokenizers cut text.
typedef enum {
    WORDS_NONE,    // no cuts
    WORDS_GPT2,    // GPT-2, GPT-NeoX, Pythia; SmolLM, after digits were parted
    WORDS_LLAMA3,  // Llama-3: numbers of at most three digits
    WORDS_QWEN2,   // the same, every digit by itself
} WordsKind;

static const char words_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
static const char words_llama3[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
                                   "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
                                   "\\s+(?!\\S)|\\s+";
static const char words_qwen2[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+";
static const char* const words_patterns[] = {"", words_gpt2, words_llama3, words_qwen2};

// What the patterns tell apart of a character: a letter, a number, a space, or none of these (0).
enum { WORD_KINDS = UNICODE_LETTER | UNICODE_NUMBER | UNICODE_SPACE };
static inline int word_kind_at(const char* text, size_t n, size_t* length) {
    return unicode_kind(unicode_code(text, n, length)) & WORD_KINDS;
}

// Bytes from `at` on of characters of one kind; at most `most` characters. *last = where the last of them begins.
static inline size_t word_run(const char* text, size_t n, size_t at, int kind, size_t most, size_t* last) {
    size_t start = at, length;
    for (size_t i = 0; at < n && i < most; i++) {
        if (word_kind_at(text + at, n - at, &length) != kind) { break; }
        *last = at;
        at += length;
    }
    return at - start;
}

// Bytes of 's, 't, 're, 've, 'm, 'll, 'd at text; 0: none of them. With `fold` capitals too, and the long s.
static inline size_t word_ending(const char* text, size_t n, int fold) {
    static const char* const endings[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (n < 2 || text[0] != '\'') { return 0; }
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t size = strlen(endings[i]), same = 0;
        while (same < size && same + 1 < n &&
               (fold && text[same + 1] >= 'A' && text[same + 1] <= 'Z' ? text[same + 1] | 32 : text[same + 1]) ==
                   endings[i][same]) {
            same++;
        }
        if (same == size) { return 1 + size; }
    }
    return fold && n >= 3 && memcmp(text + 1, "\xc5\xbf", 2) == 0 ? 3 : 0;
}

// Of white space the last character is left to what follows, if there are several and something follows.
static inline size_t word_spaces(const char* text, size_t n) {
    size_t last = 0, size = word_run(text, n, 0, UNICODE_SPACE, n, &last);
    return size < n && last > 0 ? last : size;
}

// Bytes of the next word at text (n > 0 bytes are left), as GPT-2's pattern cuts it.
static inline size_t word_length_gpt2(const char* text, size_t n) {
    size_t size = word_ending(text, n, 0), length, last;
    if (size) { return size; }
    int kind = word_kind_at(text, n, &length);
    if (text[0] == ' ' && n > 1) {  // one space belongs to the word that follows
        int next = word_kind_at(text + 1, n - 1, &length);
        if (next != UNICODE_SPACE) { return 1 + word_run(text, n, 1, next, n, &last); }
    }
    return kind == UNICODE_SPACE ? word_spaces(text, n) : word_run(text, n, 0, kind, n, &last);
}

static inline int word_is_break(char c) { return c == '\n' || c == '\r'; }

// As Llama-3's pattern does; numbers have at most `digits` digits.
static inline size_t word_length_llama3(const char* text, size_t n, size_t digits) {
    size_t size = word_ending(text, n, 1), length, second, last;
    if (size) { return size; }
    int kind = word_kind_at(text, n, &length);
    if (kind == UNICODE_LETTER) { return word_run(text, n, 0, kind, n, &last); }
    if (kind == UNICODE_NUMBER) { return word_run(text, n, 0, kind, digits, &last); }
    int next = length < n ? word_kind_at(text + length, n - length, &second) : -1;
    if (next == UNICODE_LETTER && !word_is_break(text[0])) {  // any one character before letters
        return length + word_run(text, n, length, next, n, &last);
    }
    if (kind == 0 || (text[0] == ' ' && next == 0)) {
        size = kind == 0 ? 0 : 1;
        size += word_run(text, n, size, 0, n, &last);
        while (size < n && word_is_break(text[size])) { size++; }
        return size;
    }
    size = word_run(text, n, 0, UNICODE_SPACE, n, &last);
    for (size_t at = size; at > 0; at--) {  // white space to its last line break
        if (word_is_break(text[at - 1])) { return at; }
    }
    return size < n && last > 0 ? last : size;
}

static inline size_t word_length(WordsKind kind, const char* text, size_t n) {
    switch (kind) {
        case WORDS_GPT2: return word_length_gpt2(text, n);
        case WORDS_LLAMA3: return word_length_llama3(text, n, 3);
        case WORDS_QWEN2: return word_length_llama3(text, n, 1);
        default: return n;
    }
}

#endif

// words.h - how byte-level BPE sees text: bytes written in an alphabet, and words, which no token
// crosses. Both are GPT-2's.
#ifndef PONDER_WORDS_H
#define PONDER_WORDS_H

#include "json.h"  // json_utf8_length

// The code point of the UTF-8 character at s (n > 0 bytes are left) and its length; a byte that is
// not UTF-8 is a character of its own, code -1.
static inline int unicode_code(const char* s, size_t n, size_t* length) {
    const unsigned char* u = (const unsigned char*)s;
    *length = json_utf8_length(s, n);
    switch (*length) {
        case 1: return u[0];
        case 2: return (u[0] & 31) << 6 | (u[1] & 63);
        case 3: return (u[0] & 15) << 12 | (u[1] & 63) << 6 | (u[2] & 63);
        case 4: return (u[0] & 7) << 18 | (u[1] & 63) << 12 | (u[2] & 63) << 6 | (u[3] & 63);
        default: *length = 1; return -1;
    }
}

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

// Decodes a piece of the vocabulary, written in the alphabet, to bytes in place; returns its new
// size. A piece with a character outside the alphabet stays as it is.
static inline size_t alphabet_decode(char* text, size_t size) {
    static int bytes[324];  // of each character of the alphabet; 0 until the first call
    if (bytes[323] == 0) {
        int codes[256];
        alphabet_codes(codes);
        for (int i = 0; i < 324; i++) { bytes[i] = -1; }
        for (int byte = 0; byte < 256; byte++) { bytes[codes[byte]] = byte; }
    }
    size_t length, n = 0;
    for (size_t i = 0; i < size; i += length) {
        int code = unicode_code(text + i, size - i, &length);
        if (code < 0 || code >= 324 || bytes[code] < 0) { return size; }
    }
    for (size_t i = 0; i < size; i += length) { text[n++] = (char)bytes[unicode_code(text + i, size - i, &length)]; }
    text[n] = 0;
    return n;
}

// ---- words ----

// Letters (\p{L}) and numbers (\p{N}) above ASCII in Unicode 16: pairs of a gap, counted from
// U+0080 or the end of the range before, and the length of a range.
// clang-format off
static const uint16_t unicode_letters[] = {
    42,1, 10,1, 4,1, 5,23, 1,31, 1,458, 4,12, 14,5, 7,1, 1,1, 129,5, 1,2, 2,4, 1,1, 6,1, 1,3, 1,1, 1,20, 1,83,
    1,139, 8,166, 1,38, 2,1, 6,41, 71,27, 4,4, 45,43, 35,2, 1,99, 1,1, 15,2, 7,2, 10,3, 2,1, 16,1, 1,30, 29,89,
    11,1, 24,33, 9,2, 4,1, 5,22, 4,1, 9,1, 3,1, 23,25, 7,11, 5,24, 1,6, 17,42, 58,54, 3,1, 18,1, 7,10, 15,16, 4,8,
    2,2, 2,22, 1,7, 1,1, 3,4, 3,1, 16,1, 13,2, 1,3, 14,2, 10,1, 8,6, 4,2, 2,22, 1,7, 1,2, 1,2, 1,2, 31,4, 1,1, 19,3,
    16,9, 1,3, 1,22, 1,7, 1,2, 1,5, 3,1, 18,1, 15,2, 23,1, 11,8, 2,2, 2,22, 1,7, 1,2, 1,5, 3,1, 30,2, 1,3, 15,1,
    17,1, 1,6, 3,3, 1,4, 3,2, 1,1, 1,2, 3,2, 3,3, 3,12, 22,1, 52,8, 1,3, 1,23, 1,16, 3,1, 26,3, 2,1, 2,2, 30,1, 4,8,
    1,3, 1,23, 1,10, 1,5, 3,1, 31,2, 1,2, 15,2, 17,9, 1,3, 1,41, 2,1, 16,1, 5,3, 8,3, 24,6, 5,18, 3,24, 1,9, 1,1,
    2,7, 58,48, 1,2, 12,7, 58,2, 1,1, 1,5, 1,24, 1,1, 1,10, 1,2, 9,1, 2,5, 1,1, 21,4, 32,1, 63,8, 1,36, 27,5,
    115,43, 20,1, 16,6, 4,4, 3,1, 3,2, 7,3, 4,13, 12,1, 17,38, 1,1, 5,1, 2,43, 1,333, 1,4, 2,7, 1,1, 1,4, 2,41, 1,4,
    2,33, 1,4, 2,7, 1,1, 1,4, 2,15, 1,57, 1,4, 2,67, 37,16, 16,86, 2,6, 3,620, 2,17, 1,26, 5,75, 6,8, 7,18, 13,19,
    14,18, 14,13, 1,3, 15,52, 35,1, 4,1, 67,89, 7,5, 2,34, 1,1, 5,70, 10,31, 49,30, 2,5, 11,44, 4,26, 54,23, 9,53,
    82,1, 93,47, 17,8, 54,30, 13,2, 10,44, 26,36, 41,3, 10,36, 2,11, 5,43, 2,3, 41,4, 1,6, 1,2, 3,1, 5,192, 64,278,
    2,6, 2,38, 2,6, 2,8, 1,1, 1,1, 1,1, 1,31, 2,53, 1,7, 1,1, 3,3, 1,7, 3,4, 2,6, 4,13, 5,3, 1,7, 116,1, 13,1,
    16,13, 101,1, 4,1, 2,10, 1,1, 3,5, 6,1, 1,1, 1,1, 1,4, 1,11, 2,4, 5,5, 4,1, 52,2, 2683,229, 6,4, 3,2, 12,38,
    1,1, 5,1, 2,56, 7,1, 16,23, 9,7, 1,7, 1,7, 1,7, 1,7, 1,7, 1,7, 1,7, 80,1, 469,2, 42,5, 5,2, 4,86, 6,3, 1,90,
    1,4, 5,43, 1,94, 17,32, 48,16, 512,6592, 64,22157, 67,46, 2,269, 3,16, 10,2, 20,47, 16,31, 2,70, 49,9, 2,103,
    2,67, 2,2, 1,1, 1,8, 21,16, 1,3, 1,4, 1,23, 29,52, 14,50, 62,6, 3,1, 1,2, 11,28, 10,23, 25,29, 7,47, 28,1, 16,5,
    1,10, 10,5, 1,41, 23,3, 1,8, 20,23, 3,1, 3,50, 1,1, 3,2, 2,5, 2,1, 1,1, 24,3, 2,11, 7,3, 12,6, 2,6, 2,6, 9,7,
    1,7, 1,43, 1,14, 6,115, 29,11172, 12,23, 4,49, 8452,366, 2,106, 38,7, 12,5, 5,1, 1,10, 1,13, 1,5, 1,1, 1,2, 1,2,
    1,108, 33,363, 18,64, 2,54, 40,12, 116,5, 1,135, 36,26, 6,26, 11,89, 3,6, 2,6, 2,6, 2,3, 35,12, 1,26, 1,19, 1,2,
    1,15, 2,14, 34,123, 389,29, 3,49, 47,32, 13,20, 1,8, 6,38, 10,30, 2,36, 4,8, 48,158, 18,36, 4,36, 4,40, 8,52,
    12,11, 1,15, 1,7, 1,2, 1,11, 1,15, 1,7, 1,2, 3,52, 12,311, 9,22, 10,8, 24,6, 1,42, 1,9, 69,6, 2,1, 1,44, 1,2,
    3,1, 2,23, 10,23, 9,31, 65,19, 1,2, 10,22, 10,26, 70,56, 6,2, 64,1, 15,4, 1,3, 1,29, 42,29, 3,29, 35,8, 1,28,
    27,54, 10,22, 10,19, 13,18, 110,73, 55,51, 13,51, 13,36, 38,28, 9,23, 250,42, 6,2, 16,3, 59,29, 10,1, 8,22,
    42,18, 46,21, 27,23, 12,53, 57,2, 2,1, 13,45, 32,25, 26,36, 29,1, 2,1, 8,35, 3,1, 12,48, 14,4, 21,1, 1,1, 35,18,
    1,25, 19,2, 63,7, 1,1, 1,4, 1,15, 1,10, 7,47, 38,8, 2,2, 2,22, 1,7, 1,2, 1,5, 3,1, 18,1, 12,5, 30,10, 1,1, 2,1,
    1,38, 1,1, 25,1, 1,1, 44,53, 18,4, 20,3, 30,48, 20,2, 1,1, 184,47, 41,4, 36,48, 20,1, 59,43, 13,1, 71,27, 37,7,
    185,44, 116,64, 31,8, 2,1, 2,8, 1,2, 1,24, 15,1, 1,1, 94,8, 2,39, 16,1, 1,1, 28,1, 10,40, 7,1, 21,1, 11,46,
    19,1, 18,73, 199,33, 31,9, 1,37, 17,1, 49,30, 112,7, 1,2, 1,38, 21,1, 25,6, 1,2, 1,32, 14,1, 327,19, 15,1, 1,13,
    1,34, 124,1, 79,922, 230,196, 2636,97, 15,1072, 17,6, 25,3995, 5,583, 6841,30, 1762,569, 7,31, 17,79, 17,30,
    18,48, 16,4, 31,21, 5,19, 432,45, 211,64, 128,75, 5,1, 66,13, 64,2, 1,1, 28,6136, 8,1238, 41,10, 8935,4, 1,7,
    1,2, 1,291, 15,1, 29,3, 2,1, 14,4, 8,396, 2308,107, 5,13, 3,9, 7,10, 5990,85, 1,71, 1,2, 2,1, 2,2, 2,4, 1,12,
    1,1, 1,7, 1,65, 1,4, 2,8, 1,7, 1,28, 1,4, 1,5, 1,1, 3,7, 1,340, 2,25, 1,25, 1,31, 1,25, 1,31, 1,25, 1,31, 1,25,
    1,31, 1,25, 1,8, 1844,31, 6,6, 261,62, 146,45, 10,7, 16,1, 321,30, 18,44, 484,28, 228,30, 2,1, 495,7, 1,4, 1,2,
    1,15, 1,197, 59,68, 7,1, 1204,4, 1,27, 1,2, 1,1, 2,1, 1,10, 1,4, 1,1, 1,1, 6,1, 4,1, 1,1, 1,1, 1,3, 1,2, 1,1,
    2,1, 1,1, 1,1, 1,1, 1,1, 1,2, 1,1, 2,4, 1,7, 1,4, 1,4, 1,1, 1,10, 1,17, 5,3, 1,5, 1,17, 4420,42720, 32,4154,
    6,222, 2,5762, 14,7473, 15,622, 2466,542, 1506,4939, 5,4192
};
static const uint16_t unicode_numbers[] = {
    50,2, 5,1, 2,3, 1441,10, 134,10, 198,10, 412,10, 118,10, 4,6, 108,10, 118,10, 118,10, 2,6, 110,13, 115,10, 8,7,
    103,10, 104,7, 7,19, 109,10, 96,10, 118,10, 70,20, 268,10, 70,10, 719,20, 881,3, 239,10, 6,10, 22,10, 300,10,
    128,11, 165,10, 6,10, 182,10, 86,10, 134,10, 6,10, 1046,1, 3,6, 6,10, 198,51, 2,5, 726,60, 78,22, 630,30,
    1385,1, 777,1, 25,9, 14,3, 343,4, 138,10, 30,8, 1,15, 32,10, 39,15, 29536,10, 188,10, 320,6, 154,10, 38,10,
    198,10, 22,10, 86,10, 406,10, 21270,10, 493,45, 12,57, 17,2, 341,27, 36,4, 29,1, 8,1, 134,5, 202,10, 942,8,
    25,7, 39,9, 75,5, 22,6, 160,2, 2,16, 2,46, 64,9, 52,2, 30,3, 75,5, 104,8, 24,8, 41,7, 330,6, 48,10, 6,10,
    278,31, 158,10, 42,4, 112,7, 134,30, 128,10, 60,10, 144,10, 7,20, 251,10, 342,10, 118,10, 374,10, 102,10, 6,20,
    76,12, 420,19, 93,10, 662,10, 86,29, 227,10, 70,10, 422,10, 102,21, 1067,111, 15553,10, 2342,10, 86,10, 134,10,
    1,7, 526,10, 262,23, 24153,10, 1478,20, 12,20, 108,25, 1109,50, 2368,10, 422,10, 502,10, 247,10, 716,9, 128,10,
    791,59, 1,3, 1,4, 76,45, 1,15, 962,13, 2787,10
};
// clang-format on

static inline int unicode_in_ranges(const uint16_t* ranges, size_t count, int code) {
    int end = 0x80;  // the first code after the last range
    for (size_t i = 0; i < count; i += 2) {
        int start = end + ranges[i];
        end = start + ranges[i + 1];
        if (code < end) { return code >= start; }
    }
    return 0;
}

// What GPT-2's pattern tells apart: s a space (\s), l a letter (\p{L}), n a number (\p{N}), o anything else.
static inline char word_class(int code) {
    if (code == ' ' || (code >= '\t' && code <= '\r')) { return 's'; }
    if ((code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z')) { return 'l'; }
    if (code >= '0' && code <= '9') { return 'n'; }
    if (code < 0x80) { return 'o'; }
    if (code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
        code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000) {
        return 's';
    }
    if (unicode_in_ranges(unicode_letters, sizeof unicode_letters / sizeof unicode_letters[0], code)) { return 'l'; }
    if (unicode_in_ranges(unicode_numbers, sizeof unicode_numbers / sizeof unicode_numbers[0], code)) { return 'n'; }
    return 'o';
}

static inline char word_class_at(const char* text, size_t n, size_t* length) {
    return word_class(unicode_code(text, n, length));
}

// Bytes of the next word at text (n > 0 bytes are left), as the pattern of GPT-2 cuts it:
//     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
static inline size_t word_length(const char* text, size_t n) {
    static const char* const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; text[0] == '\'' && i < sizeof endings / sizeof endings[0]; i++) {
        size_t size = strlen(endings[i]);
        if (n >= size && memcmp(text, endings[i], size) == 0) { return size; }
    }
    size_t at = 0, length;
    char kind = word_class_at(text, n, &length);
    if (text[0] == ' ' && n > 1) {  // one space belongs to the word that follows
        char next = word_class_at(text + 1, n - 1, &length);
        if (next != 's') {
            kind = next;
            at = 1;
        } else {
            length = 1;
        }
    }
    size_t before = 0;  // where the last character of the run begins
    while (at < n) {
        if (word_class_at(text + at, n - at, &length) != kind) { break; }
        before = at;
        at += length;
    }
    // Of several spaces the last is left to what follows.
    return kind == 's' && at < n && before > 0 ? before : at;
}

#endif

// unicode.h - characters of UTF-8, what kind each is, and Unicode's form NFC.
//
//     unicode_begin();                                    once, before threads
//     int kind = unicode_kind(code);                      UNICODE_LETTER, ... as bits
//     if (unicode_nfc(text, n, &out)) { ... out ... }     0: the text is in that form already
//
// A byte that is not UTF-8 is a character of its own, code -1, of no kind; it stays as it is.
#ifndef PONDER_UNICODE_H
#define PONDER_UNICODE_H

#include "../base.h"
#include "json.h"  // json_utf8_length
#include "unicode_tables.h"

enum { UNICODE_CODES = 0x110000 };

enum {
    UNICODE_LETTER = 1,     // \p{L}
    UNICODE_NUMBER = 2,     // \p{N}
    UNICODE_SPACE = 4,      // \s
    UNICODE_WORD = 8,       // \w of Rust's regex crate
    UNICODE_COMBINES = 16,  // NFC may change it, or what stands before it
};

// The code point of the UTF-8 character at s (n > 0 bytes are left) and its length; -1 and 1 of a byte that is none.
static inline int unicode_code(const char* s, size_t n, size_t* length) {
    const unsigned char* u = (const unsigned char*)s;
    if (u[0] < 0x80) {
        *length = 1;
        return u[0];
    }
    *length = json_utf8_length(s, n);
    switch (*length) {
        case 2: return (u[0] & 31) << 6 | (u[1] & 63);
        case 3: return (u[0] & 15) << 12 | (u[1] & 63) << 6 | (u[2] & 63);
        case 4: return (u[0] & 7) << 18 | (u[1] & 63) << 12 | (u[2] & 63) << 6 | (u[3] & 63);
        default: *length = 1; return -1;
    }
}

// Writes a code point as UTF-8 into out (4 bytes); returns how many.
static inline size_t unicode_write(char* out, int code) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const int first[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; code >>= 6) { out[i] = (char)(0x80 | (code & 63)); }
    out[0] = (char)(first[n] | code);
    return n;
}

// ---- kinds ----

static uint8_t unicode_kinds[UNICODE_CODES];
static uint8_t unicode_classes[UNICODE_CODES];  // canonical combining classes
static int unicode_ready;

// Hangul syllables are composed by arithmetic: SB + (l * VS + v) * TS + t.
enum { HANGUL_S = 0xac00, HANGUL_L = 0x1100, HANGUL_V = 0x1161, HANGUL_T = 0x11a7 };
enum { HANGUL_LS = 19, HANGUL_VS = 21, HANGUL_TS = 28, HANGUL_SS = HANGUL_LS * HANGUL_VS * HANGUL_TS };

// Marks the ranges of a table: |= bits of kinds, or = a class.
static inline void unicode_mark(const uint16_t* ranges, size_t count, int kind, int combining) {
    int end = 0x80;  // the first code after the last range
    for (size_t i = 0; i < count; i += 2) {
        int start = end + ranges[i];
        end = start + ranges[i + 1];
        for (int code = start; code < end; code++) {
            unicode_kinds[code] |= (uint8_t)kind;
            if (combining) { unicode_classes[code] = (uint8_t)combining; }
        }
    }
}

static inline void unicode_mark_ascii(void) {
    for (int c = 0; c < 0x80; c++) {
        int letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'), number = c >= '0' && c <= '9';
        int space = c == ' ' || (c >= '\t' && c <= '\r');
        unicode_kinds[c] |= (uint8_t)((letter ? UNICODE_LETTER : 0) | (number ? UNICODE_NUMBER : 0) |
                                      (space ? UNICODE_SPACE : 0) | (letter || number || c == '_' ? UNICODE_WORD : 0));
    }
}

#define UNICODE_COUNT(table) (sizeof(table) / sizeof(table)[0])

// What composes, sorted by the two that it is made of.
static uint32_t unicode_pairs[UNICODE_COUNT(unicode_composed)];  // indices into unicode_composed
static inline int unicode_compare_pairs(const void* a, const void* b) {
    const uint32_t *x = unicode_composed + *(const uint32_t*)a, *y = unicode_composed + *(const uint32_t*)b;
    for (int i = 1; i < 3; i++) {
        if (x[i] != y[i]) { return x[i] < y[i] ? -1 : 1; }
    }
    return 0;
}
enum { UNICODE_PAIRS = UNICODE_COUNT(unicode_composed) / 3 };

// Fills the tables above; the first call counts. Not by two threads at once.
static inline void unicode_begin(void) {
    if (unicode_ready) { return; }
    unicode_mark_ascii();
    unicode_mark(unicode_letters, UNICODE_COUNT(unicode_letters), UNICODE_LETTER, 0);
    unicode_mark(unicode_numbers, UNICODE_COUNT(unicode_numbers), UNICODE_NUMBER, 0);
    unicode_mark(unicode_words, UNICODE_COUNT(unicode_words), UNICODE_WORD, 0);
    static const uint16_t spaces[] = {0x85, 0xa0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000};
    for (size_t i = 0; i < UNICODE_COUNT(spaces); i++) { unicode_kinds[spaces[i]] |= UNICODE_SPACE; }
    for (int code = 0x2000; code <= 0x200a; code++) { unicode_kinds[code] |= UNICODE_SPACE; }
    for (size_t i = 0; i < UNICODE_COUNT(unicode_combining); i += 2 + 2 * (size_t)unicode_combining[i + 1]) {
        unicode_mark(unicode_combining + i + 2, 2 * (size_t)unicode_combining[i + 1], UNICODE_COMBINES,
                     unicode_combining[i]);
    }
    for (size_t i = 0; i < UNICODE_PAIRS; i++) {
        unicode_kinds[unicode_composed[3 * i + 2]] |= UNICODE_COMBINES;  // with what stands before it
        unicode_pairs[i] = (uint32_t)(3 * i);
    }
    qsort(unicode_pairs, UNICODE_PAIRS, sizeof unicode_pairs[0], unicode_compare_pairs);
    for (size_t i = 0; i < UNICODE_COUNT(unicode_decomposed); i += 3) {
        unicode_kinds[unicode_decomposed[i]] |= UNICODE_COMBINES;
    }
    for (int i = 0; i < HANGUL_VS; i++) { unicode_kinds[HANGUL_V + i] |= UNICODE_COMBINES; }
    for (int i = 1; i < HANGUL_TS; i++) { unicode_kinds[HANGUL_T + i] |= UNICODE_COMBINES; }
    unicode_ready = 1;
}

static inline int unicode_kind(int code) { return code < 0 ? 0 : unicode_kinds[code]; }

// ---- NFC ----

// The row of a code in a table sorted by codes, NULL: none.
static inline const uint32_t* unicode_find(const uint32_t* table, size_t count, int code) {
    size_t low = 0, high = count / 3;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (table[3 * middle] < (uint32_t)code) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < count / 3 && table[3 * low] == (uint32_t)code ? table + 3 * low : NULL;
}

// Codes, as they are taken apart and put together.
typedef struct {
    int *codes, *sorted;  // (capacity)
    size_t count, capacity;
} UnicodeRun;

static inline void unicode_push(UnicodeRun* run, int code) {
    if (run->count == run->capacity) {
        size_t capacity = run->capacity ? 2 * run->capacity : 64;
        int* codes = (int*)xalloc(2 * capacity, sizeof(int), "characters to normalize");
        if (run->count) { memcpy(codes, run->codes, run->count * sizeof(int)); }
        free(run->codes);
        run->codes = codes;
        run->sorted = codes + capacity;
        run->capacity = capacity;
    }
    run->codes[run->count++] = code;
}

// Appends what a character is made of in the end. (No decomposition is longer than four.)
static inline void unicode_decompose(UnicodeRun* run, int code) {
    int s = code - HANGUL_S;
    if (s >= 0 && s < HANGUL_SS) {
        unicode_push(run, HANGUL_L + s / (HANGUL_VS * HANGUL_TS));
        unicode_push(run, HANGUL_V + s % (HANGUL_VS * HANGUL_TS) / HANGUL_TS);
        if (s % HANGUL_TS) { unicode_push(run, HANGUL_T + s % HANGUL_TS); }
        return;
    }
    const uint32_t* row = unicode_find(unicode_composed, UNICODE_COUNT(unicode_composed), code);
    if (!row) { row = unicode_find(unicode_decomposed, UNICODE_COUNT(unicode_decomposed), code); }
    if (!row) {
        unicode_push(run, code);
        return;
    }
    unicode_decompose(run, (int)row[1]);
    if (row[2]) { unicode_decompose(run, (int)row[2]); }
}

// Sorts marks that follow one another by their classes; equal ones stay in order. Counts, since a text may have a
// million marks in a row.
static inline void unicode_order(UnicodeRun* run) {
    for (size_t start = 0, end; start < run->count; start = end + 1) {
        for (end = start; end < run->count && unicode_classes[run->codes[end]]; end++) {}
        if (end - start < 2) { continue; }
        size_t places[257] = {0};
        for (size_t i = start; i < end; i++) { places[unicode_classes[run->codes[i]] + 1]++; }
        for (int c = 0; c < 256; c++) { places[c + 1] += places[c]; }
        for (size_t i = start; i < end; i++) { run->sorted[places[unicode_classes[run->codes[i]]]++] = run->codes[i]; }
        memcpy(run->codes + start, run->sorted, (end - start) * sizeof(int));
    }
}

// What two characters compose to, -1: nothing.
static inline int unicode_compose_pair(int first, int second) {
    int l = first - HANGUL_L, v = second - HANGUL_V, s = first - HANGUL_S, t = second - HANGUL_T;
    if (l >= 0 && l < HANGUL_LS && v >= 0 && v < HANGUL_VS) { return HANGUL_S + (l * HANGUL_VS + v) * HANGUL_TS; }
    if (s >= 0 && s < HANGUL_SS && s % HANGUL_TS == 0 && t > 0 && t < HANGUL_TS) { return first + t; }
    size_t low = 0, high = UNICODE_PAIRS;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const uint32_t* row = unicode_composed + unicode_pairs[middle];
        int less = row[1] != (uint32_t)first ? row[1] < (uint32_t)first : row[2] < (uint32_t)second;
        if (less) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == UNICODE_PAIRS) { return -1; }
    const uint32_t* row = unicode_composed + unicode_pairs[low];
    return row[1] == (uint32_t)first && row[2] == (uint32_t)second ? (int)row[0] : -1;
}

// Composes in place: a character joins the last starter (class 0) unless one of its own class or above stands between.
static inline void unicode_compose(UnicodeRun* run) {
    size_t n = 0;
    long long starter = -1;
    int last = -1;  // class of the last character kept after the starter, -1: none
    for (size_t i = 0; i < run->count; i++) {
        int code = run->codes[i], combining = unicode_classes[code];
        int whole = starter >= 0 && last < combining ? unicode_compose_pair(run->codes[starter], code) : -1;
        if (whole >= 0) {
            run->codes[starter] = whole;
            continue;
        }
        if (combining == 0) {
            starter = (long long)n;
            last = -1;
        } else {
            last = combining;
        }
        run->codes[n++] = code;
    }
    run->count = n;
}

// A run of characters, the first of which nothing before it changes, to out in NFC.
static inline void unicode_nfc_run(UnicodeRun* run, StringBuilder* out) {
    unicode_order(run);
    unicode_compose(run);
    for (size_t i = 0; i < run->count; i++) {
        char c[4];
        sb_append(out, c, unicode_write(c, run->codes[i]));
    }
    run->count = 0;
}

// 1 and the text in Unicode's form NFC, appended to out; 0 and nothing if it is in that form already, as far as that is
// seen at a glance.
static inline int unicode_nfc(const char* text, size_t n, StringBuilder* out) {
    size_t at = 0, length, start = 0;  // start: of the last character that nothing changes
    for (; at < n; at += length) {
        int code = unicode_code(text + at, n - at, &length);
        if (unicode_kind(code) & UNICODE_COMBINES) { break; }
        start = at;
    }
    if (at >= n) { return 0; }
    sb_append(out, text, start);
    UnicodeRun run = {0};
    for (at = start; at < n; at += length) {
        int code = unicode_code(text + at, n - at, &length);
        if (!(unicode_kind(code) & UNICODE_COMBINES)) { unicode_nfc_run(&run, out); }
        if (code < 0) {
            sb_append(out, text + at, 1);
        } else if (code < 0x80) {
            unicode_push(&run, code);
        } else {
            unicode_decompose(&run, code);
        }
    }
    unicode_nfc_run(&run, out);
    free(run.codes);
    return 1;
}

#endif

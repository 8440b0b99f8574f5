// json.h - reads JSON into a tree, and writes its strings.
//
//     Json* config = json_read("DIR/config.json");
//     int64_t layers = json_get_int(config, "num_hidden_layers", 6, "DIR/config.json");
//     json_free(config);
//
// Strict RFC 8259: UTF-8 without a byte order mark, whole surrogate pairs, no trailing commas, no
// comments, nothing after the value. On top of that, because these files decide what is computed:
// a key that stands twice in one object with two values is an error (with one value it counts once), and so is a number
// that no double can hold.
// Whatever is wrong ends the program with "PATH:line:column: expected ..., found ...".
#ifndef PONDER_JSON_H
#define PONDER_JSON_H

#include "../base.h"
#include "../open.h"

#include <sys/stat.h>

#define JSON_MAX_DEPTH 64
#define JSON_MAX_BYTES ((size_t)512 << 20)  // tokenizer.json of large vocabularies takes tens of megabytes

typedef enum { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonType;

typedef struct JsonBlock JsonBlock;  // memory of a tree, see json_alloc
typedef struct JsonKey JsonKey;      // index of an object's keys, see json_index_keys

typedef struct Json Json;
struct Json {
    JsonType type;
    int boolean;        // JSON_BOOL: 0 or 1
    int count;          // JSON_ARRAY, JSON_OBJECT: number of items
    double number;      // JSON_NUMBER, nearest double
    char* literal;      // JSON_NUMBER: as written, for whole numbers beyond 2^53
    char* string;       // JSON_STRING: decoded, NUL-terminated; may hold further NULs
    size_t length;      // JSON_STRING: bytes without the final NUL
    Json** items;       // (count), in the order of the file
    char** keys;        // JSON_OBJECT (count): keys[i] belongs to items[i]
    JsonKey* index;     // JSON_OBJECT (count): the keys sorted, for json_get
    JsonBlock* blocks;  // of the root only: all memory of the tree
};

struct JsonKey {
    const char* key;
    size_t length;
    int item;
    size_t position;  // of the key in the text, for the message about a second one
};

struct JsonBlock {
    JsonBlock* next;
    size_t used, capacity;  // bytes, this header included
};

typedef struct {
    const char* text;
    size_t size, at;
    const char* path;  // for messages
    int line;          // of the file, which the text is alone; 0: it is all of the file
    int depth;
    JsonBlock* blocks;
    StringBuilder scratch;  // the string being decoded
    // Items of the containers that are still open, innermost last; moved to their place at the
    // closing bracket.
    Json** stack;
    JsonKey* stack_keys;
    size_t stack_size, stack_capacity;
} JsonParser;

static inline const char* json_type_name(JsonType type) {
    switch (type) {
        case JSON_NULL: return "null";
        case JSON_BOOL: return "true or false";
        case JSON_NUMBER: return "a number";
        case JSON_STRING: return "a string";
        case JSON_ARRAY: return "an array";
        case JSON_OBJECT: return "an object";
    }
    return "nothing";
}

// Bytes of the UTF-8 character at s (n bytes are left): 1 to 4, or 0 if it is not valid UTF-8
// (overlong forms, surrogates and values above U+10FFFF are not).
static inline size_t json_utf8_length(const char* s, size_t n) {
    const unsigned char* u = (const unsigned char*)s;
    if (n == 0) { return 0; }
    if (u[0] < 0x80) { return 1; }
    size_t length = u[0] >= 0xc2 && u[0] <= 0xdf ? 2 : (u[0] & 0xf0) == 0xe0 ? 3 : u[0] >= 0xf0 && u[0] <= 0xf4 ? 4 : 0;
    if (length == 0 || length > n) { return 0; }
    for (size_t i = 1; i < length; i++) {
        if ((u[i] & 0xc0) != 0x80) { return 0; }
    }
    if (u[0] == 0xe0 && u[1] < 0xa0) { return 0; }  // overlong
    if (u[0] == 0xed && u[1] > 0x9f) { return 0; }  // surrogate
    if (u[0] == 0xf0 && u[1] < 0x90) { return 0; }  // overlong
    if (u[0] == 0xf4 && u[1] > 0x8f) { return 0; }  // above U+10FFFF
    return length;
}

// Dies with "PATH:line:column: message", or as json_parse_line has it. Columns count characters from 1.
__attribute__((noreturn, format(printf, 3, 4))) static inline void json_die(const JsonParser* p, size_t position,
                                                                            const char* fmt, ...) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < position && i < p->size; i++) {
        if (p->text[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)p->text[i] & 0xc0) != 0x80) {
            column++;
        }
    }
    char message[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    if (p->line) { die("%s, line %d, column %zu: %s", p->path, p->line, column, message); }
    die("%s:%zu:%zu: %s", p->path, line, column, message);
}

// What the text is, for messages.
static inline const char* json_text_name(const JsonParser* p) { return p->line ? "line" : "file"; }

// Dies with "expected ..., found ..." where the parser stands; `expected` may end with a hint's colon.
__attribute__((noreturn)) static inline void json_unexpected(const JsonParser* p, const char* expected) {
    if (p->at >= p->size) {
        json_die(p, p->at, "expected %s, found the end of the %s (is it cut off?)", expected, json_text_name(p));
    }
    unsigned char c = (unsigned char)p->text[p->at];
    size_t left = p->size - p->at;
    if (p->at == 0 && left >= 3 && memcmp(p->text, "\xef\xbb\xbf", 3) == 0) {
        json_die(p, p->at, "expected %s, found a byte order mark (save the file as UTF-8 without one)", expected);
    }
    const char* word = p->text + p->at;
    if ((left >= 3 && memcmp(word, "NaN", 3) == 0) || (left >= 8 && memcmp(word, "Infinity", 8) == 0) ||
        (left >= 9 && memcmp(word, "-Infinity", 9) == 0)) {
        json_die(p, p->at, "expected %s, found %s (Python writes it, but it is not JSON: use null or a finite number)",
                 expected,
                 c == 'N'   ? "NaN"
                 : c == 'I' ? "Infinity"
                            : "-Infinity");
    }
    if (c == '\'' && strstr(expected, "quoted")) {
        json_die(p, p->at, "expected %s, found ' (JSON quotes with \")", expected);
    }
    size_t length = json_utf8_length(word, left);
    if (c < 0x20 || c == 0x7f || length == 0) { json_die(p, p->at, "expected %s, found the byte 0x%02x", expected, c); }
    json_die(p, p->at, "expected %s, found '%.*s'", expected, (int)length, word);
}

// Memory that lives as long as the tree. Blocks grow, so a large tree takes few of them.
static inline void* json_alloc(JsonParser* p, size_t bytes) {
    bytes = round_up(bytes, 16);
    JsonBlock* block = p->blocks;
    if (block == NULL || block->capacity - block->used < bytes) {
        size_t header = round_up(sizeof(JsonBlock), 16);
        size_t capacity = max_size(header + bytes, block ? min_size(2 * block->capacity, (size_t)1 << 22) : 1024);
        block = (JsonBlock*)xalloc(capacity, 1, "a JSON tree");
        block->next = p->blocks;
        block->used = header;
        block->capacity = capacity;
        p->blocks = block;
    }
    void* memory = (char*)block + block->used;
    block->used += bytes;
    return memory;
}

static inline char* json_copy(JsonParser* p, const char* bytes, size_t n) {
    char* copy = (char*)json_alloc(p, n + 1);
    if (n) { memcpy(copy, bytes, n); }
    copy[n] = 0;
    return copy;
}

static inline void json_skip_space(JsonParser* p) {
    while (p->at < p->size) {
        char c = p->text[p->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') { break; }
        p->at++;
    }
}

// The four hexadecimal digits after \u; the parser stands on the first.
static inline unsigned json_hex4(JsonParser* p) {
    unsigned value = 0;
    for (int i = 0; i < 4; i++) {
        char c = p->at < p->size ? p->text[p->at] : 0;
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) { json_unexpected(p, "four hexadecimal digits after \\u"); }
        value = 16 * value + (unsigned)digit;
        p->at++;
    }
    return value;
}

// Appends code point `code` to the scratch string as UTF-8.
static inline void json_append_code(JsonParser* p, unsigned code) {
    char c[4];
    size_t n = 0;
    if (code < 0x80) {
        c[n++] = (char)code;
    } else if (code < 0x800) {
        c[n++] = (char)(0xc0 | code >> 6);
        c[n++] = (char)(0x80 | (code & 63));
    } else if (code < 0x10000) {
        c[n++] = (char)(0xe0 | code >> 12);
        c[n++] = (char)(0x80 | (code >> 6 & 63));
        c[n++] = (char)(0x80 | (code & 63));
    } else {
        c[n++] = (char)(0xf0 | code >> 18);
        c[n++] = (char)(0x80 | (code >> 12 & 63));
        c[n++] = (char)(0x80 | (code >> 6 & 63));
        c[n++] = (char)(0x80 | (code & 63));
    }
    sb_append(&p->scratch, c, n);
}

// The character after a backslash, decoded into the scratch string.
static inline void json_escape(JsonParser* p) {
    size_t start = p->at - 1;  // of the backslash
    char c = p->at < p->size ? p->text[p->at] : 0;
    const char* from = "\"\\/bfnrt";
    const char* to = "\"\\/\b\f\n\r\t";
    const char* found = c ? strchr(from, c) : NULL;
    if (found) {
        sb_append(&p->scratch, &to[found - from], 1);
        p->at++;
        return;
    }
    if (c != 'u') { json_unexpected(p, "one of \" \\ / b f n r t u after a backslash"); }
    p->at++;
    unsigned code = json_hex4(p);
    if (code >= 0xdc00 && code <= 0xdfff) {
        json_die(p, start, "expected a whole surrogate pair, found its second half \\u%04x alone", code);
    }
    if (code >= 0xd800 && code <= 0xdbff) {
        unsigned low = 0;
        if (p->size - p->at >= 2 && p->text[p->at] == '\\' && p->text[p->at + 1] == 'u') {
            p->at += 2;
            low = json_hex4(p);
        }
        if (low < 0xdc00 || low > 0xdfff) {
            json_die(p, start, "expected a whole surrogate pair, found its first half \\u%04x alone", code);
        }
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    json_append_code(p, code);
}

// A string, decoded into p->scratch; the parser stands on its opening quote.
static inline void json_string(JsonParser* p) {
    size_t start = p->at++;
    p->scratch.size = 0;
    sb_append(&p->scratch, "", 0);  // so that even "" has its NUL
    for (;;) {
        size_t run = p->at;  // characters that stand for themselves are taken in one piece
        while (p->at < p->size) {
            unsigned char c = (unsigned char)p->text[p->at];
            if (c == '"' || c == '\\' || c < 0x20) { break; }
            size_t length = json_utf8_length(p->text + p->at, p->size - p->at);
            if (length == 0) { json_die(p, p->at, "expected UTF-8 text, found the byte 0x%02x", c); }
            p->at += length;
        }
        sb_append(&p->scratch, p->text + run, p->at - run);
        if (p->at >= p->size) {
            json_die(p, start, "expected the closing quote of this string, found the end of the %s (is it cut off?)",
                     json_text_name(p));
        }
        unsigned char c = (unsigned char)p->text[p->at++];
        if (c == '"') { return; }
        if (c != '\\') {
            json_die(p, p->at - 1,
                     "expected the rest of a string, found the control character 0x%02x (write it as \\u%04x)", c, c);
        }
        json_escape(p);
    }
}

static inline int json_digit(const JsonParser* p) {
    return p->at < p->size && p->text[p->at] >= '0' && p->text[p->at] <= '9';
}

static inline void json_number(JsonParser* p, Json* value) {
    size_t start = p->at;
    if (p->text[p->at] == '-') { p->at++; }
    if (!json_digit(p)) {
        // "-Infinity" is named whole, with its sign.
        if (p->at < p->size && p->text[p->at] == 'I') { p->at = start; }
        json_unexpected(p, p->at == start ? "a value" : "a digit");
    }
    if (p->text[p->at] == '0') {
        p->at++;
        if (json_digit(p)) { json_die(p, start, "expected a number, found one with a leading zero"); }
    }
    while (json_digit(p)) { p->at++; }
    if (p->at < p->size && p->text[p->at] == '.') {
        p->at++;
        if (!json_digit(p)) { json_unexpected(p, "a digit after the decimal point"); }
        while (json_digit(p)) { p->at++; }
    }
    if (p->at < p->size && (p->text[p->at] == 'e' || p->text[p->at] == 'E')) {
        p->at++;
        if (p->at < p->size && (p->text[p->at] == '+' || p->text[p->at] == '-')) { p->at++; }
        if (!json_digit(p)) { json_unexpected(p, "a digit of the exponent"); }
        while (json_digit(p)) { p->at++; }
    }
    value->type = JSON_NUMBER;
    value->literal = json_copy(p, p->text + start, p->at - start);
    value->number = strtod(value->literal, NULL);
    if (!(fabs(value->number) <= 1.7976931348623157e308)) {
        json_die(p, start, "expected a number that a double can hold, found %.40s", value->literal);
    }
}

// The order of two texts of known length, byte by byte: below 0, 0 or above.
static inline int json_order(const char* a, size_t a_size, const char* b, size_t b_size) {
    int order = memcmp(a, b, min_size(a_size, b_size));
    return order ? order : (a_size > b_size) - (a_size < b_size);
}

static inline int json_compare_keys(const void* a, const void* b) {
    const JsonKey* x = (const JsonKey*)a;
    const JsonKey* y = (const JsonKey*)b;
    int order = json_order(x->key, x->length, y->key, y->length);
    return order ? order : (x->item > y->item) - (x->item < y->item);
}

static inline int json_same(const Json* a, const Json* b);

// Sorts an object's keys for json_get and finds a key that stands there twice: again with the same value it is dropped.
static inline void json_index_keys(const JsonParser* p, Json* object) {
    if (object->count < 2) { return; }
    qsort(object->index, (size_t)object->count, sizeof(JsonKey), json_compare_keys);
    int dropped = 0;
    for (int i = 1, first = 0; i < object->count; i++) {
        JsonKey* again = &object->index[i];
        if (strcmp(object->index[first].key, again->key) != 0) {
            first = i;
            continue;
        }
        if (!json_same(object->items[object->index[first].item], object->items[again->item])) {
            json_die(p, again->position, "expected every key once, found a second \"%.80s\"", again->key);
        }
        object->items[again->item] = NULL;
        dropped++;
    }
    if (!dropped) { return; }
    int kept = 0;
    for (int i = 0; i < object->count; i++) {
        if (!object->items[i]) { continue; }
        object->items[kept] = object->items[i];
        object->keys[kept] = object->keys[i];
        object->index[kept].key = object->keys[i];
        object->index[kept].length = strlen(object->keys[i]);  // no key has a NUL
        object->index[kept].item = kept;
        kept++;
    }
    object->count = kept;
    qsort(object->index, (size_t)kept, sizeof(JsonKey), json_compare_keys);
}

// Puts an item of an open container on the stack; returns its place there.
static inline size_t json_push(JsonParser* p) {
    if (p->stack_size == p->stack_capacity) {
        size_t capacity = p->stack_capacity ? 2 * p->stack_capacity : 64;
        Json** stack = (Json**)xalloc(capacity, sizeof(Json*), "a JSON tree");
        JsonKey* keys = (JsonKey*)xalloc(capacity, sizeof(JsonKey), "a JSON tree");
        if (p->stack_size) {
            memcpy(stack, p->stack, p->stack_size * sizeof(Json*));
            memcpy(keys, p->stack_keys, p->stack_size * sizeof(JsonKey));
        }
        free(p->stack);
        free(p->stack_keys);
        p->stack = stack;
        p->stack_keys = keys;
        p->stack_capacity = capacity;
    }
    return p->stack_size++;
}

static inline Json* json_value(JsonParser* p);

// An array or object; the parser stands on its opening bracket.
static inline void json_container(JsonParser* p, Json* value, JsonType type) {
    int object = type == JSON_OBJECT;
    char close = object ? '}' : ']';
    if (p->depth == JSON_MAX_DEPTH) { json_die(p, p->at, "nested too deep (limit %d)", JSON_MAX_DEPTH); }
    p->depth++;
    p->at++;
    size_t base = p->stack_size;
    json_skip_space(p);
    if (p->at < p->size && p->text[p->at] == close) {
        p->at++;
    } else {
        for (;;) {
            JsonKey key = {0};
            json_skip_space(p);
            if (object) {
                if (p->at >= p->size || p->text[p->at] != '"') {
                    json_unexpected(p, p->stack_size == base ? "a quoted key or '}'" : "a quoted key after the comma");
                }
                key.position = p->at;
                json_string(p);
                // Keys are C strings everywhere, so a NUL inside would make two keys look alike.
                if (strlen(p->scratch.data) != p->scratch.size) {
                    json_die(p, key.position, "expected a key without \\u0000, found one inside");
                }
                key.key = json_copy(p, p->scratch.data, p->scratch.size);
                key.length = p->scratch.size;
                json_skip_space(p);
                if (p->at >= p->size || p->text[p->at] != ':') { json_unexpected(p, "':' after a key"); }
                p->at++;
            }
            Json* item = json_value(p);
            size_t place = json_push(p);
            p->stack[place] = item;
            p->stack_keys[place] = key;
            json_skip_space(p);
            char c = p->at < p->size ? p->text[p->at] : 0;
            if (c == close) {
                p->at++;
                break;
            }
            if (c != ',') { json_unexpected(p, object ? "',' or '}'" : "',' or ']'"); }
            p->at++;
        }
    }
    size_t count = p->stack_size - base;
    value->type = type;
    value->count = (int)count;  // fits: a text has at most JSON_MAX_BYTES characters
    value->items = (Json**)json_alloc(p, count * sizeof(Json*));
    if (count) { memcpy(value->items, p->stack + base, count * sizeof(Json*)); }
    if (object) {
        value->keys = (char**)json_alloc(p, count * sizeof(char*));
        value->index = (JsonKey*)json_alloc(p, count * sizeof(JsonKey));
        for (size_t i = 0; i < count; i++) {
            value->index[i] = p->stack_keys[base + i];
            value->index[i].item = (int)i;
            value->keys[i] = (char*)value->index[i].key;
        }
        json_index_keys(p, value);
    }
    p->stack_size = base;
    p->depth--;
}

static inline int json_word(JsonParser* p, const char* word) {
    size_t n = strlen(word);
    if (p->size - p->at < n || memcmp(p->text + p->at, word, n) != 0) { return 0; }
    p->at += n;
    return 1;
}

static inline Json* json_value(JsonParser* p) {
    json_skip_space(p);
    Json* value = (Json*)json_alloc(p, sizeof(Json));
    memset(value, 0, sizeof(Json));
    char c = p->at < p->size ? p->text[p->at] : 0;
    if (c == '{') {
        json_container(p, value, JSON_OBJECT);
    } else if (c == '[') {
        json_container(p, value, JSON_ARRAY);
    } else if (c == '"') {
        json_string(p);
        value->type = JSON_STRING;
        value->length = p->scratch.size;
        value->string = json_copy(p, p->scratch.data, p->scratch.size);
    } else if (c == '-' || (c >= '0' && c <= '9')) {
        json_number(p, value);
    } else if (json_word(p, "true")) {
        value->type = JSON_BOOL;
        value->boolean = 1;
    } else if (json_word(p, "false")) {
        value->type = JSON_BOOL;
    } else if (!json_word(p, "null")) {
        json_unexpected(p, "a value");
    }
    return value;
}

// The tree of `size` bytes of text that are one line of the file `path`, 1 the first: as json_parse(), which is this for
// `line` 0, with messages that begin with "PATH, line 2, column 3: ".
static inline Json* json_parse_line(const char* text, size_t size, const char* path, int line) {
    if (size > JSON_MAX_BYTES) {
        die("%s: %.1f MB of JSON is more than the %zu MB that are read", path, (double)size / 1e6,
            JSON_MAX_BYTES >> 20);
    }
    JsonParser p = {0};
    p.text = text;
    p.size = size;
    p.path = path;
    p.line = line;
    Json* root = json_value(&p);
    json_skip_space(&p);
    if (p.at < p.size) { json_unexpected(&p, line ? "the end of the line" : "the end of the file"); }
    root->blocks = p.blocks;
    free(p.stack);
    free(p.stack_keys);
    free(p.scratch.data);
    return root;
}

// The tree of `size` bytes of text, which need no NUL; `path` is what messages call it. Never
// returns NULL: dies on anything that is not exactly one JSON value. Free with json_free.
static inline Json* json_parse(const char* text, size_t size, const char* path) {
    return json_parse_line(text, size, path, 0);
}

// The tree of a file; dies if it cannot be read. Free with json_free.
static inline Json* json_read(const char* path) {
    const char* why = NULL;
    FILE* file = file_open_stream(path, &why);
    if (file == NULL) { die("%s: could not be opened: %s", path, why); }
    struct stat info;
    if (fstat(fileno(file), &info) == 0 && (uint64_t)info.st_size > JSON_MAX_BYTES) {
        die("%s: %.1f MB of JSON is more than the %zu MB that are read (is it the right file?)", path,
            (double)info.st_size / 1e6, JSON_MAX_BYTES >> 20);
    }
    StringBuilder text = {0};
    char chunk[1 << 14];
    for (;;) {
        size_t n = fread(chunk, 1, sizeof chunk, file);
        sb_append(&text, chunk, n);
        if (n < sizeof chunk || text.size > JSON_MAX_BYTES) { break; }  // json_parse refuses the latter
    }
    if (ferror(file)) { die("%s: could not be read: %s", path, strerror(errno)); }
    fclose(file);
    Json* root = json_parse(text.data, text.size, path);
    free(text.data);
    return root;
}

// Frees a whole tree, given its root; NULL is allowed.
static inline void json_free(Json* root) {
    JsonBlock* block = root ? root->blocks : NULL;  // the root lies in one of them itself
    while (block) {
        JsonBlock* next = block->next;
        free(block);
        block = next;
    }
}

// The value of a key of known length, which may come from anywhere and hold NULs; NULL if `object` is NULL, is not an
// object, or has no such key.
static inline const Json* json_get_sized(const Json* object, const char* key, size_t length) {
    if (object == NULL || object->type != JSON_OBJECT) { return NULL; }
    int low = 0, high = object->count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        const JsonKey* found = &object->index[middle];
        int order = json_order(found->key, found->length, key, length);
        if (order == 0) { return object->items[found->item]; }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

static inline const Json* json_get(const Json* object, const char* key) {
    return json_get_sized(object, key, strlen(key));
}

// 1 if the value is this string: all of it, also what comes after a NUL.
static inline int json_is(const Json* value, const char* text) {
    return value && value->type == JSON_STRING && value->length == strlen(text) &&
           memcmp(value->string, text, value->length) == 0;
}

// Appends n bytes of text as a JSON string, quotes included. Bytes that are not UTF-8 (a sample can
// end inside a character) become U+FFFD, since a JSON file must be UTF-8 as a whole.
static inline void json_append_string(StringBuilder* sb, const char* s, size_t n) {
    sb_append(sb, "\"", 1);
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i];
        size_t length = json_utf8_length(s + i, n - i);
        if (length == 0) {
            sb_append(sb, "\xef\xbf\xbd", 3);
            i++;
        } else if (c == '"' || c == '\\') {
            sb_append(sb, "\\", 1);
            sb_append(sb, s + i++, 1);
        } else if (c == '\n') {
            sb_append(sb, "\\n", 2);
            i++;
        } else if (c == '\t') {
            sb_append(sb, "\\t", 2);
            i++;
        } else if (c < 0x20 || c == 0x7f) {
            sb_printf(sb, "\\u%04x", c);
            i++;
        } else {
            sb_append(sb, s + i, length);
            i += length;
        }
    }
    sb_append(sb, "\"", 1);
}

// Text of known length for a message: quoted, at most 40 bytes of it, and on one line, whatever it holds. The caller
// frees it.
static inline char* json_shown(const char* text, size_t size) {
    size_t n = 0;
    while (n < size) {  // no character is cut
        size_t length = max_size(json_utf8_length(text + n, size - n), 1);
        if (n + length > 40) { break; }
        n += length;
    }
    StringBuilder sb = {0};
    json_append_string(&sb, text, n);
    if (n < size) { sb_printf(&sb, "..."); }
    return sb.data;
}

// What a value is, for messages: numbers and short strings as they stand, else the type.
static inline char* json_describe(const Json* value) {
    switch (value->type) {
        case JSON_BOOL: return format_string("%s", value->boolean ? "true" : "false");
        case JSON_NUMBER: return format_string("%.40s", value->literal);
        case JSON_STRING: {
            char* shown = json_shown(value->string, value->length);
            char* text = format_string("the string %s", shown);
            free(shown);
            return text;
        }
        default: return format_string("%s", json_type_name(value->type));
    }
}

__attribute__((noreturn)) static inline void json_die_value(const Json* value, const char* key, const char* expected,
                                                            const char* path) {
    die("%s: \"%s\": expected %s, found %s", path, key, expected, json_describe(value));
}

// 1 and = *out if the value is a whole number that int64_t holds exactly ("12", "1e3" and "12.0"
// are, "12.5" and "9223372036854775808" are not); else 0.
static inline int json_whole(const Json* value, int64_t* out) {
    if (value->type != JSON_NUMBER) { return 0; }
    if (strpbrk(value->literal, ".eE") == NULL) {
        errno = 0;
        long long n = strtoll(value->literal, NULL, 10);
        if (errno == ERANGE) { return 0; }
        *out = (int64_t)n;
        return 1;
    }
    // Beyond 2^53 a double no longer tells neighbouring whole numbers apart.
    if (!(fabs(value->number) <= 9007199254740992.0) || value->number != floor(value->number)) { return 0; }
    *out = (int64_t)value->number;
    return 1;
}

// The four below: value of a key; `fallback` where it is absent or null; the wrong type dies with
// path, key, what was expected and what was found.
static inline int64_t json_get_int(const Json* object, const char* key, int64_t fallback, const char* path) {
    const Json* value = json_get(object, key);
    if (value == NULL || value->type == JSON_NULL) { return fallback; }
    int64_t n = 0;
    if (!json_whole(value, &n)) { json_die_value(value, key, "a whole number of at most 63 bits", path); }
    return n;
}

static inline double json_get_number(const Json* object, const char* key, double fallback, const char* path) {
    const Json* value = json_get(object, key);
    if (value == NULL || value->type == JSON_NULL) { return fallback; }
    if (value->type != JSON_NUMBER) { json_die_value(value, key, "a number", path); }
    return value->number;
}

static inline int json_get_bool(const Json* object, const char* key, int fallback, const char* path) {
    const Json* value = json_get(object, key);
    if (value == NULL || value->type == JSON_NULL) { return fallback; }
    if (value->type != JSON_BOOL) { json_die_value(value, key, "true or false", path); }
    return value->boolean;
}

// The string belongs to the tree.
static inline const char* json_get_string(const Json* object, const char* key, const char* fallback, const char* path) {
    const Json* value = json_get(object, key);
    if (value == NULL || value->type == JSON_NULL) { return fallback; }
    if (value->type != JSON_STRING) { json_die_value(value, key, "a string", path); }
    if (strlen(value->string) != value->length) { json_die_value(value, key, "a string without \\u0000", path); }
    return value->string;
}

// Appends a value as it was read, lines after the first indented by `indent`.
static inline void json_append(StringBuilder* sb, const Json* value, int indent) {
    const char* brackets = value->type == JSON_OBJECT ? "{}" : "[]";
    switch (value->type) {
        case JSON_NULL: sb_printf(sb, "null"); return;
        case JSON_BOOL: sb_printf(sb, value->boolean ? "true" : "false"); return;
        case JSON_NUMBER: sb_append(sb, value->literal, strlen(value->literal)); return;
        case JSON_STRING: json_append_string(sb, value->string, value->length); return;
        case JSON_ARRAY:
        case JSON_OBJECT: break;
    }
    sb_append(sb, brackets, 1);
    for (int i = 0; i < value->count; i++) {
        if (value->type == JSON_OBJECT) {
            sb_printf(sb, "%s\n%*s", i ? "," : "", indent + 2, "");
            json_append_string(sb, value->keys[i], strlen(value->keys[i]));
            sb_printf(sb, ": ");
        } else if (i) {
            sb_printf(sb, ", ");
        }
        json_append(sb, value->items[i], indent + 2);
    }
    if (value->type == JSON_OBJECT && value->count) { sb_printf(sb, "\n%*s", indent, ""); }
    sb_append(sb, brackets + 1, 1);
}

// A whole number from `least` to `most`; the fallback, which may be another, where it is absent or null.
static inline int json_get_range(const Json* object, const char* key, int fallback, int least, int most,
                                 const char* path) {
    int64_t n = json_get_int(object, key, least, path);
    if (n < least || n > most) { die("%s: %s is %lld, expected %d to %d", path, key, (long long)n, least, most); }
    const Json* value = json_get(object, key);
    return value && value->type != JSON_NULL ? (int)n : fallback;
}

// A size: the fallback where it is absent, an error where it is not 1 to `most`.
static inline int json_get_size(const Json* config, const char* key, int64_t fallback, int64_t most, const char* path) {
    int64_t n = json_get_int(config, key, fallback, path);
    if (n < 1 || n > most) { die("%s: %s is %lld, expected 1 to %lld", path, key, (long long)n, (long long)most); }
    return (int)n;
}

// 1 if two values are the same; the order of an object's keys does not count. A NULL is the same as nothing.
static inline int json_same(const Json* a, const Json* b) {
    if (!a || !b || a->type != b->type) { return 0; }
    switch (a->type) {
        case JSON_NULL: return 1;
        case JSON_BOOL: return a->boolean == b->boolean;
        case JSON_NUMBER: return a->number == b->number;
        case JSON_STRING: return a->length == b->length && memcmp(a->string, b->string, a->length) == 0;
        case JSON_ARRAY:
        case JSON_OBJECT: break;
    }
    if (a->count != b->count) { return 0; }
    for (int i = 0; i < a->count; i++) {
        if (!json_same(a->items[i], a->type == JSON_ARRAY ? b->items[i] : json_get(b, a->keys[i]))) { return 0; }
    }
    return 1;
}

#endif

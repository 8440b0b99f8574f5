// test_json.h - tests of common/files/json.h: what is read, what is refused and with which words.
#ifndef PONDER_TEST_JSON_H
#define PONDER_TEST_JSON_H

#include "../../common/files/json.h"
#include "test.h"

typedef struct {
    const char* text;
    size_t size;
} JsonText;

static void json_parse_child(void* argument) {
    const JsonText* t = (const JsonText*)argument;
    // An exact copy on the heap: under the sanitizers a read past the end is found.
    char* copy = (char*)malloc(t->size ? t->size : 1);
    memcpy(copy, t->text, t->size);
    json_free(json_parse(copy, t->size, "FILE"));
    free(copy);
}

static void json_read_child(void* argument) { json_free(json_read((const char*)argument)); }

static void json_line_child(void* text) {
    json_free(json_parse_line((const char*)text, strlen((const char*)text), "FILE", 7));
}

static void json_rejects(const char* text, size_t size, const char* words) {
    JsonText t = {text, size};
    expect_death(text, json_parse_child, &t, words);
}

static Json* json_of(const char* text) { return json_parse(text, strlen(text), "FILE"); }

static void test_json_tree(void) {
    Json* root =
        json_of(" {\"b\" : [1, -2.5e1 ,\ttrue,false,null,\"x\"],\r\n \"a\":{}, \"\":[], \"e\":[[]], \"z\":\"\"} \n");
    CHECK(root->type == JSON_OBJECT && root->count == 5, "type %d count %d", root->type, root->count);
    const char* order[] = {"b", "a", "", "e", "z"};
    for (int i = 0; i < root->count; i++) { CHECK(!strcmp(root->keys[i], order[i]), "key %d is %s", i, root->keys[i]); }
    for (int i = 0; i < root->count; i++) {
        CHECK(json_get(root, order[i]) == root->items[i], "json_get(%s)", order[i]);
    }
    CHECK(json_get(root, "c") == NULL && json_get(root, "aa") == NULL && json_get(NULL, "a") == NULL, "absent keys");
    const Json* b = json_get(root, "b");
    CHECK(json_get(b, "a") == NULL, "an array has no keys");
    CHECK(b->type == JSON_ARRAY && b->count == 6, "type %d count %d", b->type, b->count);
    CHECK(b->items[0]->type == JSON_NUMBER && b->items[0]->number == 1 && !strcmp(b->items[0]->literal, "1"), "1");
    CHECK(b->items[1]->number == -25 && !strcmp(b->items[1]->literal, "-2.5e1"), "%s", b->items[1]->literal);
    CHECK(b->items[2]->type == JSON_BOOL && b->items[2]->boolean == 1, "true");
    CHECK(b->items[3]->type == JSON_BOOL && b->items[3]->boolean == 0, "false");
    CHECK(b->items[4]->type == JSON_NULL, "null");
    CHECK(b->items[5]->type == JSON_STRING && b->items[5]->length == 1 && !strcmp(b->items[5]->string, "x"), "x");
    CHECK(json_get(root, "a")->type == JSON_OBJECT && json_get(root, "a")->count == 0, "{}");
    CHECK(json_get(root, "e")->items[0]->type == JSON_ARRAY, "[[]]");
    CHECK(json_get(root, "z")->length == 0 && json_get(root, "z")->string[0] == 0, "empty string");
    json_free(root);
    json_free(NULL);
}

static void test_json_strings(void) {
    Json* s = json_of("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u20AC\\ud83d\\ude00\\u0000\x7f \xc3\xa9\"");
    const char want[] = "\"\\/\b\f\n\r\tA\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\0\x7f \xc3\xa9";
    CHECK(s->length == sizeof want - 1 && memcmp(s->string, want, sizeof want) == 0, "got %s", s->string);
    json_free(s);

    // Every code point, as UTF-8 and as escapes, and back through json_append_string.
    for (unsigned first = 0; first < 0x110000; first += 0x4000) {
        StringBuilder raw = {0}, escaped = {0}, quoted = {0};
        sb_append(&escaped, "\"", 1);
        for (unsigned c = first; c < first + 0x4000; c++) {
            if (c >= 0xd800 && c <= 0xdfff) { continue; }
            JsonParser p = {0};
            json_append_code(&p, c);
            CHECK(json_utf8_length(p.scratch.data, p.scratch.size) == p.scratch.size, "U+%04X", c);
            sb_append(&raw, p.scratch.data, p.scratch.size);
            free(p.scratch.data);
            if (c % 7) { continue; }  // the long way for some
            if (c < 0x10000) {
                sb_printf(&escaped, "\\u%04x", c);
            } else {
                sb_printf(&escaped, "\\u%04x\\u%04x", 0xd7c0 + (c >> 10), 0xdc00 + (c & 1023));
            }
        }
        sb_append(&escaped, "\"", 1);
        json_append_string(&quoted, raw.data, raw.size);
        Json* back = json_parse(quoted.data, quoted.size, "FILE");
        CHECK(back->length == raw.size && memcmp(back->string, raw.data, raw.size) == 0, "code points from U+%04X",
              first);
        json_free(back);
        back = json_parse(escaped.data, escaped.size, "FILE");
        size_t at = 0;
        for (unsigned c = first; c < first + 0x4000; c++) {
            if ((c >= 0xd800 && c <= 0xdfff) || c % 7) { continue; }
            unsigned n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
            unsigned char lead = (unsigned char)back->string[at], last = (unsigned char)back->string[at + n - 1];
            unsigned want_lead = n == 1 ? c : n == 2 ? 0xc0 | c >> 6 : n == 3 ? 0xe0 | c >> 12 : 0xf0 | c >> 18;
            CHECK(lead == want_lead && last == (n == 1 ? c : (0x80 | (c & 63))), "U+%04X", c);
            at += n;
        }
        CHECK(at == back->length, "%zu of %zu bytes", at, back->length);
        json_free(back);
        free(raw.data);
        free(escaped.data);
        free(quoted.data);
    }

    // Bytes that are not UTF-8 become U+FFFD, so that what we write can be read.
    StringBuilder sb = {0};
    json_append_string(&sb, "a\xff\xc3(\xe2\x82", 6);
    CHECK(!strcmp(sb.data, "\"a\xef\xbf\xbd\xef\xbf\xbd(\xef\xbf\xbd\xef\xbf\xbd\""), "got %s", sb.data);
    sb.size = 0;
    json_append_string(&sb, "", 0);
    json_append_string(&sb, "\"\\\n\t\x01\x1f/", 7);
    CHECK(!strcmp(sb.data, "\"\"\"\\\"\\\\\\n\\t\\u0001\\u001f/\""), "got %s", sb.data);
    free(sb.data);
}

static void test_json_numbers(void) {
    const struct {
        const char* text;
        double value;
    } cases[] = {{"0", 0},
                 {"-0", -0.0},
                 {"-0.0e-0", -0.0},
                 {"10", 10},
                 {"1E+2", 100},
                 {"0.1", 0.1},
                 {"1e-400", 0},
                 {"5e-324", 5e-324},
                 {"1.7e308", 1.7e308},
                 {"9007199254740993", 9007199254740992.0},
                 {"1e0000001", 10},
                 {"-12.50", -12.5}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Json* j = json_of(cases[i].text);
        CHECK(j->type == JSON_NUMBER && memcmp(&j->number, &cases[i].value, 8) == 0, "%s -> %.17g", cases[i].text,
              j->number);
        CHECK(!strcmp(j->literal, cases[i].text), "%s", j->literal);
        json_free(j);
    }
}

static void test_json_rejects(void) {
    const struct {
        const char *text, *words;
    } cases[] = {
        {"", "FILE:1:1: expected a value, found the end of the file"},
        {"  \n ", "FILE:2:2: expected a value, found the end of the file"},
        {"x", "FILE:1:1: expected a value, found 'x'"},
        {"tru", "FILE:1:1: expected a value, found 't'"},
        {"nulll", "FILE:1:5: expected the end of the file, found 'l'"},
        {"{} {}", "FILE:1:4: expected the end of the file, found '{'"},
        {"[1,]", "FILE:1:4: expected a value, found ']'"},
        {"[,1]", "FILE:1:2: expected a value, found ','"},
        {"[1 2]", "FILE:1:4: expected ',' or ']', found '2'"},
        {"[1", "FILE:1:3: expected ',' or ']', found the end of the file"},
        {"]", "FILE:1:1: expected a value, found ']'"},
        {"[1}", "FILE:1:3: expected ',' or ']', found '}'"},
        {"{\"a\":1]", "FILE:1:7: expected ',' or '}', found ']'"},
        {"{\"a\":1,}", "FILE:1:8: expected a quoted key after the comma, found '}'"},
        {"{a:1}", "FILE:1:2: expected a quoted key or '}', found 'a'"},
        {"{'a':1}", "FILE:1:2: expected a quoted key|JSON quotes with \""},
        {"{\"a\" 1}", "FILE:1:6: expected ':' after a key, found '1'"},
        {"{\"a\":}", "FILE:1:6: expected a value, found '}'"},
        {"{\"a\":1 \"b\":2}", "FILE:1:8: expected ',' or '}', found '\"'"},
        {"{1:2}", "FILE:1:2: expected a quoted key or '}', found '1'"},
        {"\xef\xbb\xbf{}", "FILE:1:1: expected a value, found a byte order mark"},
        {"// c\n{}", "FILE:1:1: expected a value, found '/'"},
        {"[\n  1,\n  \xc3\xa9]", "FILE:3:3: expected a value, found '\xc3\xa9'"},
        {"[\"\xc3\xa9\xc3\xa9\", x]", "FILE:1:8: expected a value, found 'x'"},
        {"[\x01]", "FILE:1:2: expected a value, found the byte 0x01"},
        {"\"abc", "FILE:1:1: expected the closing quote"},
        {"\"a\nb\"", "FILE:1:3: expected the rest of a string, found the control character 0x0a"},
        {"\"\\x\"", "FILE:1:3: expected one of"},
        {"\"\\u12g4\"", "FILE:1:6: expected four hexadecimal digits"},
        {"\"\\ud800\"", "FILE:1:2: expected a whole surrogate pair, found its first half \\ud800"},
        {"\"\\ud800\\u0041\"", "FILE:1:2: expected a whole surrogate pair, found its first half"},
        {"\"\\ud800A\"", "FILE:1:2: expected a whole surrogate pair, found its first half \\ud800 alone"},
        {"\"\\ud800xudc00\"", "FILE:1:2: expected a whole surrogate pair, found its first half \\ud800 alone"},
        {"\"\\ud800\\ndc00\"", "FILE:1:2: expected a whole surrogate pair, found its first half \\ud800 alone"},
        {"\"\\ud83d\\ud83d\"", "FILE:1:2: expected a whole surrogate pair, found its first half \\ud83d alone"},
        {"\"ab\\udbff\\udbff\"", "FILE:1:4: expected a whole surrogate pair, found its first half \\udbff alone"},
        {"\"\\ud800\\ue000\"", "FILE:1:2: expected a whole surrogate pair, found its first half \\ud800 alone"},
        {"\"\\ud800\\uffff\"", "FILE:1:2: expected a whole surrogate pair, found its first half \\ud800 alone"},
        {"\"\\ud800\\udc0\"", "FILE:1:13: expected four hexadecimal digits"},
        {"\"\\ud800\\n\"", "expected a whole surrogate pair, found its first half"},
        {"\"\\udc00\\ud800\"", "FILE:1:2: expected a whole surrogate pair, found its second half \\udc00"},
        {"\"\\udfff\"", "FILE:1:2: expected a whole surrogate pair, found its second half \\udfff"},
        {"\"\xff\"", "FILE:1:2: expected UTF-8 text, found the byte 0xff"},
        {"\"\xc0\x80\"", "expected UTF-8 text"},          // overlong NUL
        {"\"\xe0\x80\xaf\"", "expected UTF-8 text"},      // overlong
        {"\"\xf0\x80\x80\xaf\"", "expected UTF-8 text"},  // overlong
        {"\"\xf0\x8f\xbf\xbf\"", "expected UTF-8 text"},  // overlong U+FFFF
        {"\"\xed\xa0\x80\"", "expected UTF-8 text"},      // surrogate
        {"\"\xf4\x90\x80\x80\"", "expected UTF-8 text"},  // above U+10FFFF
        {"\"\xe2\x82\"", "expected UTF-8 text"},          // cut off
        {"{\"a\\u0000b\":1}", "FILE:1:2: expected a key without \\u0000"},
        {"{\"a\":1,\"b\":2,\n\"a\":3}", "FILE:2:1: expected every key once, found a second \"a\""},
        {"{\"a\":1,\"\\u0061\":2}", "FILE:1:8: expected every key once, found a second \"a\""},
        {"01", "FILE:1:1: expected a number, found one with a leading zero"},
        {"-", "expected a digit, found the end"},
        {"-x", "FILE:1:2: expected a digit, found 'x'"},
        {"+1", "expected a value, found '+'"},
        {".5", "expected a value, found '.'"},
        {"1.", "expected a digit after the decimal point, found the end"},
        {"1.e3", "FILE:1:3: expected a digit after the decimal point, found 'e'"},
        {"1e", "expected a digit of the exponent"},
        {"1e+", "expected a digit of the exponent"},
        {"0x10", "FILE:1:2: expected the end of the file, found 'x'"},
        {"1e999", "expected a number that a double can hold, found 1e999"},
        {"-1e999", "expected a number that a double can hold"},
        {"{\"lr\": NaN}", "FILE:1:8: expected a value, found NaN|Python writes it"},
        {"[Infinity]", "FILE:1:2: expected a value, found Infinity|Python writes it"},
        {"[-Infinity]", "FILE:1:2: expected a value, found -Infinity|Python writes it"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_rejects(cases[i].text, strlen(cases[i].text), cases[i].words);
    }
    json_rejects("[1]\0", 4, "FILE:1:4: expected the end of the file, found the byte 0x00");
    json_rejects("[\"a\0b\"]", 7, "FILE:1:4|control character 0x00");
    // A line of a file is called by its number there.
    expect_death("a line", json_line_child, (void*)"[1",
                 "FILE, line 7, column 3: expected ',' or ']', found the end of the line");
    expect_death("two values", json_line_child, (void*)"{} {}",
                 "FILE, line 7, column 4: expected the end of the line, found '{'");
}

static void test_json_truncated(void) {
    const char* text = "{\"a\":[1.5e3,true,{\"b\":null}],\"\\u20ac\":\"\xc3\xa9\\n\\ud83d\\ude00\"}";
    size_t size = strlen(text);
    json_free(json_parse(text, size, "FILE"));
    for (size_t n = 0; n < size; n++) { json_rejects(text, n, "FILE:1:"); }
}

static void test_json_depth(void) {
    StringBuilder sb = {0};
    for (int i = 0; i < JSON_MAX_DEPTH; i++) { sb_append(&sb, i % 2 ? "[" : "{\"a\":", i % 2 ? 1 : 5); }
    sb_append(&sb, "0", 1);
    for (int i = JSON_MAX_DEPTH - 1; i >= 0; i--) { sb_append(&sb, i % 2 ? "]" : "}", 1); }
    Json* deep = json_parse(sb.data, sb.size, "FILE");
    int depth = 0;
    for (const Json* j = deep; j->count; j = j->items[0]) { depth++; }
    CHECK(depth == JSON_MAX_DEPTH, "depth %d", depth);
    json_free(deep);
    // Siblings do not add up.
    sb.size = 0;
    sb_append(&sb, "[", 1);
    for (int i = 0; i < 200; i++) { sb_append(&sb, "[[]],", 5); }
    sb_append(&sb, "[]]", 3);
    json_free(json_parse(sb.data, sb.size, "FILE"));
    sb.size = 0;
    for (int i = 0; i < 1000000; i++) { sb_append(&sb, "[", 1); }
    json_rejects(sb.data, sb.size, "FILE:1:65: nested too deep (limit 64)");
    free(sb.data);
}

// A key again with the same value counts once, wherever it stands; editors of such files leave them.
static void test_json_repeated_keys(void) {
    static const char text[] =
        "{\"b\":[1,{\"x\":2}],\"a\":1,\"c\":null,\"a\":1.0,\"b\":[1,{\"x\":2}],\"\\u0061\":1,\"d\":4}";
    Json* j = json_parse(text, sizeof text - 1, "FILE");
    static const char* const keys[] = {"b", "a", "c", "d"};
    CHECK(j->count == 4, "%d keys", j->count);
    for (int i = 0; i < 4 && j->count == 4; i++) {
        CHECK(strcmp(j->keys[i], keys[i]) == 0 && json_get(j, keys[i]) == j->items[i], "key %d is %s", i, j->keys[i]);
    }
    CHECK(json_get_int(j, "a", 0, "FILE") == 1 && json_get_int(j, "d", 0, "FILE") == 4, "values");
    json_free(j);
    static const char bad[] = "{\"a\":1,\"a\":1,\n\"a\":2}";
    json_rejects(bad, sizeof bad - 1, "FILE:2:1: expected every key once, found a second \"a\"");
}

// An object of n + 1 keys in no order, read, and every key looked up; returns the processor time, which other programs do
// not change.
static double json_time_large_object(StringBuilder* sb, int n) {
    sb->size = 0;
    sb_printf(sb, "{");
    for (int i = 0; i < n; i++) { sb_printf(sb, "\"token %d\":%d,\n", i * 7919 % n, i); }
    size_t before = sb->size;
    sb_printf(sb, "\"last\":-1}");
    clock_t start = clock();
    Json* j = json_parse(sb->data, sb->size, "FILE");
    CHECK(j->count == n + 1, "count %d", j->count);
    for (int i = 0; i < n; i++) {
        char key[32];
        snprintf(key, sizeof key, "token %d", i * 7919 % n);
        CHECK(json_get_int(j, key, -5, "FILE") == i, "%s", key);
    }
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    json_free(j);
    sb->size = before;
    return seconds;
}

// A vocabulary of 60,001 entries must not take quadratic time, and a second key in it is found.
static void test_json_large_object(void) {
    StringBuilder sb = {0};
    double small = json_time_large_object(&sb, 6000), large = json_time_large_object(&sb, 60000);
    // Measured: 20 to 22 (caches count too); with lookups from the first key to the last 330.
    CHECK(large < 50 * small, "ten times the keys took %.1f times as long (%.4f s)", large / small, large);
    sb_printf(&sb, "\"token 31\":-1}");
    json_rejects(sb.data, sb.size, "FILE:60001:1: expected every key once, found a second \"token 31\"");
    free(sb.data);
}

static const char* const json_types =
    "{\"i\":12,\"n\":-3,\"big\":9223372036854775807,\"low\":-9223372036854775808,\"over\":9223372036854775808,"
    "\"e\":1e3,\"f\":12.0,\"e53\":9007199254740992.0,\"half\":0.5,\"e20\":1e20,\"s\":\"text\",\"t\":true,\"z\":null,"
    "\"a\":[1],\"o\":{},\"nul\":"
    "\"a\\u0000b\"}";

typedef struct {
    int which;
    const char* key;
} JsonGet;

static void json_get_child(void* argument) {
    const JsonGet* g = (const JsonGet*)argument;
    Json* j = json_of(json_types);
    switch (g->which) {
        case 0: json_get_int(j, g->key, 0, "FILE"); break;
        case 1: json_get_number(j, g->key, 0, "FILE"); break;
        case 2: json_get_bool(j, g->key, 0, "FILE"); break;
        default: json_get_string(j, g->key, "", "FILE"); break;
    }
}

static void test_json_get(void) {
    Json* j = json_of(json_types);
    CHECK(json_get_int(j, "i", 0, "FILE") == 12 && json_get_int(j, "n", 0, "FILE") == -3, "ints");
    CHECK(json_get_int(j, "big", 0, "FILE") == INT64_MAX && json_get_int(j, "low", 0, "FILE") == INT64_MIN, "64 bits");
    CHECK(json_get_int(j, "e", 0, "FILE") == 1000 && json_get_int(j, "f", 0, "FILE") == 12, "whole floats");
    CHECK(json_get_int(j, "e53", 0, "FILE") == (int64_t)1 << 53, "2^53");
    CHECK(json_get_int(j, "absent", 7, "FILE") == 7 && json_get_int(j, "z", 8, "FILE") == 8, "fallbacks");
    CHECK(json_get_number(j, "half", 0, "FILE") == 0.5 && json_get_number(j, "absent", 7.5, "FILE") == 7.5, "numbers");
    CHECK(json_get_bool(j, "t", 0, "FILE") == 1 && json_get_bool(j, "z", 3, "FILE") == 3, "booleans");
    CHECK(!strcmp(json_get_string(j, "s", "", "FILE"), "text"), "string");
    CHECK(json_get_string(j, "z", NULL, "FILE") == NULL, "fallback");
    json_free(j);
    const struct {
        JsonGet get;
        const char* words;
    } cases[] = {
        {{0, "half"}, "FILE: \"half\": expected a whole number|found 0.5"},
        {{0, "over"}, "\"over\"|found 9223372036854775808"},
        {{0, "e20"}, "\"e20\"|found 1e20"},
        {{0, "s"}, "FILE: \"s\": expected a whole number|found the string \"text\""},
        {{0, "t"}, "found true"},
        {{1, "a"}, "FILE: \"a\": expected a number, found an array"},
        {{1, "o"}, "found an object"},
        {{2, "i"}, "FILE: \"i\": expected true or false, found 12"},
        {{3, "i"}, "FILE: \"i\": expected a string, found 12"},
        {{3, "nul"}, "\"nul\": expected a string without"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        JsonGet get = cases[i].get;
        expect_death(get.key, json_get_child, &get, cases[i].words);
    }
}

// Texts of known length: their NULs count, and messages show them on one line.
static void test_json_sized(void) {
    const char* text = "{\"ab\": 1, \"a\": 2, \"abc\": 3, \"s\": \"x\\u0000y\"}";
    Json* j = json_parse(text, strlen(text), "FILE");
    static const char key[] = "ab\0c";
    CHECK(json_get_sized(j, key, 4) == NULL, "a key with a NUL is found");
    CHECK(json_get_sized(j, key, 2) == json_get(j, "ab") && json_get(j, "ab")->number == 1, "ab");
    CHECK(json_get_sized(j, key, 1) == json_get(j, "a") && json_get(j, "a")->number == 2, "a");
    CHECK(json_get(j, "abc")->number == 3 && json_get_sized(j, key, 0) == NULL, "abc and nothing");
    CHECK(!json_is(json_get(j, "s"), "x") && !json_is(json_get(j, "a"), "2") && !json_is(NULL, ""), "no such string");
    char* shown = json_describe(json_get(j, "s"));
    CHECK(strcmp(shown, "the string \"x\\u0000y\"") == 0, "shown as %s", shown);
    free(shown);
    json_free(j);
    // 39 letters and a character of two bytes are one byte too many: it is left out whole.
    static const char letters[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\xc3\xa9";
    shown = json_shown(letters, 41);
    CHECK(strlen(shown) == 39 + 5 && strstr(shown, "a\"...") != NULL, "shown as %s", shown);
    free(shown);
    shown = json_shown("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 40);
    CHECK(strlen(shown) == 40 + 2, "shown as %s", shown);
    free(shown);
    shown = json_shown("a\n\x7f\xff", 4);
    CHECK(strcmp(shown, "\"a\\n\\u007f\xef\xbf\xbd\"") == 0, "shown as %s", shown);
    free(shown);
}

static void test_json_files(void) {
    char* directory = test_directory("json");
    char* path = format_string("%s/a.json", directory);
    expect_death("missing", json_read_child, path, "a.json: could not be opened: No such file or directory");
    expect_death("directory", json_read_child, directory,
                 "could not be opened: expected a regular file, found a directory");
    FILE* f = fopen(path, "wb");
    expect_death("empty", json_read_child, path, "a.json:1:1: expected a value, found the end of the file");
    for (int i = 0; i < 20000; i++) { fprintf(f, i ? ",%d" : "[%d", i); }  // more than one chunk
    fprintf(f, "]\n");
    fclose(f);
    Json* j = json_read(path);
    CHECK(j->type == JSON_ARRAY && j->count == 20000 && j->items[19999]->number == 19999, "count %d", j->count);
    json_free(j);
    CHECK(truncate(path, (off_t)JSON_MAX_BYTES + 1) == 0, "truncate: %s", strerror(errno));  // sparse
    expect_death("large", json_read_child, path, "a.json: 536.9 MB of JSON is more than the 512 MB");
    unlink(path);
    rmdir(directory);
    free(directory);
    free(path);
}

static void json_tests(void) {
    RUN(test_json_tree);
    RUN(test_json_strings);
    RUN(test_json_numbers);
    RUN(test_json_rejects);
    RUN(test_json_truncated);
    RUN(test_json_depth);
    RUN(test_json_repeated_keys);
    RUN(test_json_large_object);
    RUN(test_json_get);
    RUN(test_json_sized);
    RUN(test_json_files);
}

#endif

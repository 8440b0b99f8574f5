// test_tokenizer.h - tests of common/files/tokenizer.h and words.h: bytes, BPE, files, broken tokenizers.
#ifndef PONDER_TEST_TOKENIZER_H
#define PONDER_TEST_TOKENIZER_H

#include "../../common/files/tokenizer.h"
#include "test.h"

static char* tokenizer_dir;

static inline void tokenizer_dir_make(void) {
    free(tokenizer_dir);  // of the test before
    tokenizer_dir = test_directory("tokenizer");
}

static inline void tokenizer_put(const char* name, const char* text, size_t size) {
    char* path = format_string("%s/%s", tokenizer_dir, name);
    write_bytes(path, text, size);
    free(path);
}

static inline void tokenizer_drop(const char* name) {
    char* path = format_string("%s/%s", tokenizer_dir, name);
    if (unlink(path) != 0) { die("%s: %s", path, strerror(errno)); }
    free(path);
}

// Encodes, compares with `want` (n), decodes, compares with the text.
static void tokenizer_expect(const Tokenizer* tokenizer, const char* what, const char* text, size_t size,
                             const int* want, int n) {
    size_t count = 0;
    int* got = tokenizer_encode(tokenizer, text, size, &count);
    CHECK(count == (size_t)n, "%s: %zu tokens, want %d", what, count, n);
    for (int i = 0; i < n && (size_t)i < count; i++) {
        CHECK(got[i] == want[i], "%s: token %d is %d, want %d", what, i, got[i], want[i]);
    }
    StringBuilder sb = {0};
    sb_append(&sb, "", 0);
    for (size_t i = 0; i < count; i++) {
        char piece[TOKENIZER_PIECE];
        sb_append(&sb, piece, tokenizer_decode(tokenizer, got[i], piece));
    }
    CHECK(sb.size == size && memcmp(sb.data, text, size) == 0, "%s: decoded to '%s'", what, sb.data);
    free(sb.data);
    free(got);
}

static void test_tokenizer_bytes(void) {
    Tokenizer* tokenizer = tokenizer_open(NULL, 257);
    CHECK(tokenizer_is_bytes(tokenizer) && tokenizer_eot(tokenizer) == 256, "end of text %d", tokenizer_eot(tokenizer));
    char text[256];
    int want[256];
    for (int i = 0; i < 256; i++) { text[i] = (char)i, want[i] = i; }
    tokenizer_expect(tokenizer, "every byte", text, 256, want, 256);
    static const int end[] = {'a', 256, '<', '|'};
    tokenizer_expect(tokenizer, "end of text", "a<|endoftext|><|", 16, end, 4);
    tokenizer_expect(tokenizer, "empty", "", 0, end, 0);
    char piece[TOKENIZER_PIECE];
    CHECK(tokenizer_decode(tokenizer, 257, piece) == 5 && memcmp(piece, "<257>", 5) == 0, "a token beyond");
    CHECK(tokenizer_decode(tokenizer, -1, piece) == 4 && memcmp(piece, "<-1>", 4) == 0, "a negative token");
    tokenizer_close(tokenizer);
    tokenizer = tokenizer_open("/nowhere", 256);  // without end of text
    static const int plain[] = {'<', '|', 'e', 'n', 'd', 'o', 'f', 't', 'e', 'x', 't', '|', '>'};
    CHECK(tokenizer_is_bytes(tokenizer) && tokenizer_eot(tokenizer) == -1, "end of text %d", tokenizer_eot(tokenizer));
    tokenizer_expect(tokenizer, "no end of text", "<|endoftext|>", 13, plain, 13);
    tokenizer_close(tokenizer);
}

// What a checkpoint carries for bytes is read back as bytes, and carried on unchanged.
static void test_tokenizer_byte_files(void) {
    for (int V = 256; V <= 257; V++) {
        Tokenizer* tokenizer = tokenizer_open(NULL, V);
        tokenizer_complete(tokenizer, 24);
        CheckpointFile files[TOKENIZER_FILES];
        int count = tokenizer_files(tokenizer, files);
        CHECK(count == 2, "%d files", count);
        // The characters that other software expects for bytes that do not show, and for two that do.
        static const char* const pairs[] = {"\"\xc4\x80\": 0,",   "\"\xc4\xa0\": 32,",  "\"\xc4\xa1\": 127,",
                                            "\"\xc5\x82\": 160,", "\"\xc5\x83\": 173,", "\"\xc2\xae\": 174,",
                                            "\"~\": 126,"};
        for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
            CHECK(strstr(files[0].text, pairs[i]) != NULL, "no %s in tokenizer.json", pairs[i]);
        }
        static const char* const said[] = {"\"model_input_names\": [\"input_ids\", \"attention_mask\"]",
                                           "\"model_max_length\": 24",
                                           "\"tokenizer_class\"",
                                           "\"eos_token\": \"<|endoftext|>\"",
                                           "\"bos_token\": \"<|endoftext|>\"",
                                           "\"pad_token\": \"<|endoftext|>\""};
        for (int i = 0; i < (V == 257 ? 6 : 3); i++) {
            CHECK(strstr(files[1].text, said[i]) != NULL, "no %s in %s", said[i], files[1].text);
        }
        CHECK(V == 257 || !strstr(files[1].text, "endoftext"), "an end of text in %s", files[1].text);
        tokenizer_dir_make();
        for (int i = 0; i < count; i++) { tokenizer_put(files[i].name, files[i].text, files[i].size); }
        Tokenizer* again = tokenizer_open(tokenizer_dir, V);
        tokenizer_complete(again, 99);  // nothing is left to add
        CHECK(tokenizer_is_bytes(again), "V %d: not read as bytes", V);
        CHECK(tokenizer_eot(again) == tokenizer_eot(tokenizer), "V %d: end of text %d", V, tokenizer_eot(again));
        char text[256];
        int want[256];
        for (int i = 0; i < 256; i++) { text[i] = (char)(255 - i), want[i] = 255 - i; }
        tokenizer_expect(again, "read back", text, 256, want, 256);
        static const int end[] = {256, 'x'};
        if (V == 257) { tokenizer_expect(again, "read back", "<|endoftext|>x", 14, end, 2); }
        for (int i = 0; i < count; i++) { tokenizer_drop(files[i].name); }
        CHECK(rmdir(tokenizer_dir) == 0, "%s: %s", tokenizer_dir, strerror(errno));
        CheckpointFile carried[TOKENIZER_FILES];  // read when it was opened: the directory is gone
        CHECK(tokenizer_files(again, carried) == count, "carried");
        for (int i = 0; i < count; i++) {
            CHECK(strcmp(carried[i].name, files[i].name) == 0 && carried[i].size == files[i].size &&
                      memcmp(carried[i].text, files[i].text, files[i].size) == 0,
                  "%s changed", files[i].name);
        }
        tokenizer_close(again);
        tokenizer_close(tokenizer);
    }
}

// A 257th token that ends no text is none of the byte vocabulary's.
static void test_tokenizer_nearly_bytes(void) {
    tokenizer_dir_make();
    Tokenizer* bytes = tokenizer_open(NULL, 257);
    StringBuilder sb = {0};
    for (const char* at = bytes->files[0].text; *at;) {
        const int end = strncmp(at, "<|endoftext|>", 13) == 0;
        sb_append(&sb, end ? "<|otherwise|>" : at, end ? 13 : 1);
        at += end ? 13 : 1;
    }
    tokenizer_put("tokenizer.json", sb.data, sb.size);
    Tokenizer* tokenizer = tokenizer_open(tokenizer_dir, 257);
    CHECK(tokenizer->count == 257 && tokenizer_eot(tokenizer) == -1 && !tokenizer_is_bytes(tokenizer),
          "%d tokens, end of text %d, read as bytes", tokenizer->count, tokenizer_eot(tokenizer));
    tokenizer_close(tokenizer);
    tokenizer_close(bytes);
    free(sb.data);
    directory_remove_tree(tokenizer_dir);
}

// What earlier versions wrote beside the byte vocabulary is written anew, what somebody has changed is not.
static void test_tokenizer_old_config(void) {
    tokenizer_dir_make();
    Tokenizer* bytes = tokenizer_open(NULL, 257);
    tokenizer_put("tokenizer.json", bytes->files[0].text, bytes->files[0].size);
    tokenizer_close(bytes);
    for (int changed = 0; changed < 2; changed++) {
        char* text =
            format_string("{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n  "
                          "\"clean_up_tokenization_spaces\": false,\n  \"eos_token\": \"<|endoftext|>\"\n}\n%s",
                          changed ? "\n" : "");
        tokenizer_put("tokenizer_config.json", text, strlen(text));
        Tokenizer* tokenizer = tokenizer_open(tokenizer_dir, 257);
        tokenizer_complete(tokenizer, 24);
        const CheckpointFile* config = tokenizer_kept(tokenizer, "tokenizer_config.json");
        int as_it_was = config && config->size == strlen(text) && memcmp(config->text, text, config->size) == 0;
        CHECK(config && as_it_was == changed && (strstr(config->text, "model_input_names") != NULL) == !changed, "%s",
              config ? config->text : "none");
        CHECK(tokenizer->file_count == 2 && tokenizer_eot(tokenizer) == 256, "%d files", tokenizer->file_count);
        tokenizer_close(tokenizer);
        free(text);
    }
    directory_remove_tree(tokenizer_dir);
}

// End of text, beginning and padding, by the files' words or by the usual names.
static void test_tokenizer_special(void) {
    static const char vocab[] =
        "{\"model\": {\"type\": \"BPE\", \"merges\": [], \"vocab\": {\"a\": 0, \"<|endoftext|>\": 1, "
        "\"<s>\": 2, \"</s>\": 3, \"<pad>\": 4, \"<|padding|>\": 5, \"x\": 9}}, "
        "\"decoder\": {\"type\": \"ByteLevel\"}}";
    const struct {
        const char *config, *map;
        int V, eot, bos, pad;
    } cases[] = {
        {NULL, NULL, 10, 1, 1, 5},
        {NULL, NULL, 5, 1, 1, -1},  // its padding is beyond the vocabulary
        {"{}", NULL, 10, 1, 1, -1},
        {"{\"eos_token\": \"</s>\"}", NULL, 10, 3, 2, -1},
        {"{\"eos_token\": \"</s>\", \"bos_token\": null}", NULL, 10, 3, -1, -1},
        {"{\"eos_token\": {\"content\": \"x\"}, \"pad_token\": \"<pad>\"}", NULL, 10, 9, -1, 4},
        {"{\"eos_token\": {\"content\": \"x\"}, \"pad_token\": \"<pad>\"}", NULL, 9, -1, -1, 4},
        {"{\"eos_token\": \"absent\", \"pad_token\": 7}", NULL, 10, 1, 1, -1},
        {NULL, "{\"eos_token\": \"</s>\", \"bos_token\": {\"content\": \"a\"}, \"pad_token\": \"x\"}", 10, 3, 0, 9},
        {"{\"bos_token\": \"x\"}", "{\"eos_token\": \"a\", \"bos_token\": \"a\"}", 10, 0, 9, -1},
        {"[]", "7", 10, 1, 1, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tokenizer_dir_make();
        tokenizer_put("tokenizer.json", vocab, sizeof vocab - 1);
        if (cases[i].config) { tokenizer_put("tokenizer_config.json", cases[i].config, strlen(cases[i].config)); }
        if (cases[i].map) { tokenizer_put("special_tokens_map.json", cases[i].map, strlen(cases[i].map)); }
        Tokenizer* t = tokenizer_open(tokenizer_dir, cases[i].V);
        CHECK(tokenizer_eot(t) == cases[i].eot && tokenizer_bos(t) == cases[i].bos && tokenizer_pad(t) == cases[i].pad,
              "case %zu: end %d, beginning %d, padding %d", i, tokenizer_eot(t), tokenizer_bos(t), tokenizer_pad(t));
        CHECK(tokenizer_bytes(t, 9) == 1 && tokenizer_bytes(t, 7) == 0 && tokenizer_bytes(t, 99) == 0 &&
                  tokenizer_bytes(t, -1) == 0 && (t->eot != 1 || tokenizer_bytes(t, 1) == 1),
              "case %zu: bytes of tokens", i);
        tokenizer_close(t);
        directory_remove_tree(tokenizer_dir);
    }
}

// All files of a tokenizer are kept byte for byte; a file by itself is a tokenizer.json, whatever its name.
static void test_tokenizer_kept_files(void) {
    static const char* const names[] = {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
        "merges.txt",     "added_tokens.json",     "chat_template.jinja",     "tokenizer.model"};
    static const char model[] = "{\"model\": {\"type\": \"BPE\", \"merges\": [], \"vocab\": {\"a\": 0, \"bcd\": 1}}, "
                                "\"decoder\": {\"type\": \"ByteLevel\"}}\n";
    tokenizer_dir_make();
    for (int i = 0; i < 8; i++) {
        if (i > 0) { tokenizer_put(names[i], "{}\r\n\0 {}", i < 3 ? 4 : 8); }
    }
    tokenizer_put("tokenizer.json", model, sizeof model - 1);
    tokenizer_put("another name", model, sizeof model - 1);
    tokenizer_put("README.md", "not a tokenizer's", 17);
    Tokenizer* tokenizer = tokenizer_open(tokenizer_dir, 10);
    tokenizer_complete(tokenizer, 24);
    CHECK(tokenizer->file_count == 8, "%d files", tokenizer->file_count);
    for (int i = 0; i < 8; i++) {
        const CheckpointFile* file = tokenizer_kept(tokenizer, names[i]);
        size_t size = i == 0 ? sizeof model - 1 : i < 3 ? 4 : 8;
        CHECK(file && file->size == size && memcmp(file->text, i == 0 ? model : "{}\r\n\0 {}", size) == 0, "%s",
              names[i]);
    }
    tokenizer_close(tokenizer);
    char* path = format_string("%s/another name", tokenizer_dir);
    tokenizer = tokenizer_open(path, 10);
    tokenizer_complete(tokenizer, 24);
    CHECK(tokenizer->file_count == 2 && strcmp(tokenizer->files[0].name, "tokenizer.json") == 0 &&
              strstr(tokenizer->files[1].text, "model_input_names"),
          "%d files", tokenizer->file_count);
    CHECK(strcmp(tokenizer->source, path) == 0 && tokenizer_bytes(tokenizer, 1) == 3, "%s", tokenizer->source);
    tokenizer_close(tokenizer);
    free(path);
    // JSON may begin with blank lines: no model does.
    char* blank = format_string("\n\n\n%s", model);
    tokenizer_put("blank.model", blank, strlen(blank));
    path = format_string("%s/blank.model", tokenizer_dir);
    tokenizer = tokenizer_open(path, 10);
    CHECK(strcmp(tokenizer->files[0].name, "tokenizer.json") == 0 && tokenizer_bytes(tokenizer, 1) == 3, "%s",
          tokenizer->files[0].name);
    tokenizer_close(tokenizer);
    free(blank);
    free(path);
    directory_remove_tree(tokenizer_dir);
    // Of a model the configuration that it lacks says that nothing comes before a text.
    tokenizer = tokenizer_open("dev/fixtures/tokenizers/sentencepiece_plain.model", 1000);
    tokenizer_complete(tokenizer, 24);
    const CheckpointFile* config = tokenizer_kept(tokenizer, "tokenizer_config.json");
    CHECK(config && strstr(config->text, "\"LlamaTokenizer\"") && strstr(config->text, "\"add_bos_token\": false"),
          "%s", config ? config->text : "none");
    tokenizer_close(tokenizer);
}

// Words as the regular expression of GPT-2 cuts them; '|' marks the cuts expected.
static void test_tokenizer_words(void) {
    static const char* const cases[] = {
        "it|'s| we|'ll|ama|'re|'|S|'d",
        "a|  | b",
        "a| \n|\n|b|\n",
        "a|\n",
        "x|12|,| 34|abc| .;|\t|\t|z",
        "caf\xc3\xa9| \xe4\xb8\xad\xe6\x96\x87|\xd9\xa3\xc2\xb2|\xe2\x80\x94",
        "a|\xc2\xa0|b",
        "a|\xc2\xa0| b",
        "a| \xe3\x80\x80|\xe3\x80\x80|\xf0\x9f\x8e\x89",
        "a|\xe1\x9a\x80\xe2\x80\x80|\xe2\x80\x8a|\xe2\x80\x8b",  // white space up to U+200A
        "\xff\xfe|a",
        "   ",
        "a|\v\f|\r|b",
        "\xf0\x90\x97\x80\xf0\xb2\x8e\xaf|\xf0\x90\xb4\xb0",  // letters of Unicode 16 and 15, a number of 11
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[64], cut[64];
        size_t n = 0, m = 0;
        for (const char* p = cases[i]; *p; p++) {
            if (*p != '|') { text[n++] = *p; }
        }
        for (size_t at = 0; at < n;) {
            size_t size = word_length(WORDS_GPT2, text + at, n - at);
            CHECK(size > 0 && size <= n - at, "case %zu: a word of %zu bytes", i, size);
            if (size == 0 || size > n - at) { break; }
            if (m) { cut[m++] = '|'; }
            memcpy(cut + m, text + at, size);
            m += size;
            at += size;
        }
        cut[m] = 0;
        CHECK(strcmp(cut, cases[i]) == 0, "'%s', want '%s'", cut, cases[i]);
    }
}

// A small byte-level BPE. %s: pre-tokenizer, options of the model, merges, added tokens.
static const char tokenizer_small[] =
    "{\"added_tokens\": [%s], \"normalizer\": null, \"pre_tokenizer\": %s, \"decoder\": {\"type\": \"ByteLevel\"},"
    " \"model\": {\"type\": \"BPE\", %s \"vocab\": {\"a\": 0, \"b\": 1, \"c\": 2, \"\\u0120\": 3, \"ab\": 4, \"bc\": "
    "5, \"abc\": 6,"
    " \"\\u0120a\": 7, \"\\u00c3\": 8, \"\\u00a9\": 9, \"\\u00c3\\u00a9\": 10, \"\\u010a\": 12, \"aa\": 16, "
    "\"\\u0120bc\": 17}, \"merges\": [%s]}}";
static const char tokenizer_gpt2_words[] = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}";

static Tokenizer* tokenizer_open_small(const char* added, const char* pre, const char* options, const char* merges) {
    StringBuilder sb = {0};
    sb_printf(&sb, tokenizer_small, added, pre, options, merges);
    tokenizer_put("tokenizer.json", sb.data, sb.size);
    free(sb.data);
    return tokenizer_open(tokenizer_dir, 20);
}

static void test_tokenizer_bpe(void) {
    tokenizer_dir_make();
    static const char merges[] =
        "\"b c\", [\"a\", \"b\"], \"a bc\", \"\\u0120 a\", \"\\u00c3 \\u00a9\", \"a a\", \"\\u0120 bc\"";
    static const char added[] =
        "{\"id\": 13, \"content\": \"<|endoftext|>\", \"normalized\": false, \"special\": true},"
        "{\"id\": 14, \"content\": \"  \", \"normalized\": true}, {\"id\": 15, \"content\": \"   \", \"normalized\": "
        "true}";
    Tokenizer* tokenizer = tokenizer_open_small(added, tokenizer_gpt2_words, "", merges);
    CHECK(!tokenizer_is_bytes(tokenizer) && tokenizer_eot(tokenizer) == 13, "end of text %d", tokenizer_eot(tokenizer));
    static const int abc[] = {6};  // b c first (rank 0), then a bc; not a b
    tokenizer_expect(tokenizer, "rank order", "abc", 3, abc, 1);
    static const int abab[] = {4, 4, 6, 2};
    tokenizer_expect(tokenizer, "several in a word", "abababcc", 8, abab, 4);
    static const int aaa[] = {16, 0};
    tokenizer_expect(tokenizer, "of equals the leftmost", "aaa", 3, aaa, 2);
    static const int bc[] = {0, 17};  // possible only after b c
    tokenizer_expect(tokenizer, "a merge that a merge makes possible", "a bc", 4, bc, 2);
    static const int spaces[] = {0, 3, 12, 7, 10};
    tokenizer_expect(tokenizer, "spaces", "a \n a\xc3\xa9", 7, spaces, 5);
    static const int special[] = {4, 13, 15, 0, 14, 13};
    tokenizer_expect(tokenizer, "added tokens, the longest first", "ab<|endoftext|>   a  <|endoftext|>", 34, special,
                     6);
    char piece[TOKENIZER_PIECE];
    CHECK(tokenizer_decode(tokenizer, 11, piece) == 4 && memcmp(piece, "<11>", 4) == 0, "an id without a piece");
    tokenizer->V = 14;
    CHECK(tokenizer_eot(tokenizer) == 13, "the last token of the vocabulary ends a text: %d", tokenizer_eot(tokenizer));
    tokenizer->V = 13;
    CHECK(tokenizer_eot(tokenizer) == -1, "one that the vocabulary does not have: %d", tokenizer_eot(tokenizer));
    tokenizer_close(tokenizer);

    // GPT-2's own two files, and the eos_token of tokenizer_config.json.
    tokenizer_drop("tokenizer.json");
    static const char vocab[] = "{\"a\": 0, \"b\": 1, \"ab\": 2, \"<|endoftext|>\": 3, \"aba\": 4}";
    static const char lines[] = "#version: 0.2\na b\r\nab a\n";
    tokenizer_put("vocab.json", vocab, sizeof vocab - 1);
    tokenizer_put("merges.txt", lines, sizeof lines - 1);
    tokenizer = tokenizer_open(tokenizer_dir, 5);
    static const int gpt2[] = {4, 3, 2};
    tokenizer_expect(tokenizer, "vocab.json and merges.txt", "aba<|endoftext|>ab", 18, gpt2, 3);
    CHECK(tokenizer_eot(tokenizer) == 3 && tokenizer->file_count == 2, "end of text %d", tokenizer_eot(tokenizer));
    tokenizer_close(tokenizer);
    static const char config[] = "{\"eos_token\": {\"content\": \"aba\"}}";
    tokenizer_put("tokenizer_config.json", config, sizeof config - 1);
    tokenizer = tokenizer_open(tokenizer_dir, 5);
    CHECK(tokenizer_eot(tokenizer) == 4 && tokenizer->file_count == 3, "eos_token: %d", tokenizer_eot(tokenizer));
    tokenizer_close(tokenizer);
    // The same two files are those of other tokenizers too, which cut words otherwise.
    static const char* const classes[] = {"GPT2Tokenizer", "GPT2TokenizerFast", "RobertaTokenizer", "Qwen2Tokenizer"};
    for (int i = 0; i < 4; i++) {
        char* text = format_string("{\"tokenizer_class\": \"%s\"}", classes[i]);
        tokenizer_put("tokenizer_config.json", text, strlen(text));
        tokenizer = tokenizer_open(tokenizer_dir, 5);
        CHECK(!tokenizer->refusal == (i < 2) && (i < 2 || strstr(tokenizer->refusal, classes[i])), "%s: %s", classes[i],
              tokenizer->refusal ? tokenizer->refusal : "not refused");
        tokenizer_close(tokenizer);
        free(text);
    }
    tokenizer_drop("vocab.json");
    tokenizer_drop("merges.txt");
    tokenizer_drop("tokenizer_config.json");
    CHECK(rmdir(tokenizer_dir) == 0, "%s: %s", tokenizer_dir, strerror(errno));
}

typedef struct {
    const char *added, *pre, *options, *merges, *text;
    int V;
} TokenizerCase;

static void tokenizer_case_run(void* argument) {
    const TokenizerCase* c = (const TokenizerCase*)argument;
    Tokenizer* tokenizer =
        c->merges ? tokenizer_open_small(c->added, c->pre, c->options, c->merges) : tokenizer_open(tokenizer_dir, c->V);
    if (c->V) { tokenizer->V = c->V; }
    size_t count = 0;
    free(tokenizer_encode(tokenizer, c->text, strlen(c->text), &count));
}

// Where something ends: a piece that is longer than what is shown of one, a special token beyond the model's vocabulary,
// a text behind the ending of a word.
static void test_tokenizer_ends(void) {
    char text[TOKENIZER_PIECE + 9], piece[TOKENIZER_PIECE];
    memset(text, 'x', sizeof text);
    TokenizerPiece pieces[3];
    memset(pieces, 0, sizeof pieces);
    for (int i = 0; i < 3; i++) { pieces[i].text = text, pieces[i].size = 3; }
    pieces[0].size = sizeof text;
    Tokenizer tokenizer;
    memset(&tokenizer, 0, sizeof tokenizer);
    tokenizer.kind = TOKENIZER_BPE, tokenizer.pieces = pieces, tokenizer.count = 3, tokenizer.V = 2;
    tokenizer.bos = 2, tokenizer.eot = 1, tokenizer.pad = -1;
    CHECK(tokenizer_decode(&tokenizer, 0, piece) == TOKENIZER_PIECE && piece[TOKENIZER_PIECE - 1] == 'x',
          "a long piece");
    pieces[0].begins = 1;
    CHECK(tokenizer_decode(&tokenizer, 0, piece) == TOKENIZER_PIECE && piece[0] == ' ', "behind a space");
    tokenizer_complete(&tokenizer, 8);
    const char* config = tokenizer.files[0].text;
    CHECK(strstr(config, "\"eos_token\": \"xxx\"") && !strstr(config, "bos_token"), "%s", config);
    free((void*)config);
    unicode_begin();
    CHECK(word_length(WORDS_LLAMA3, "'\xc5\xbf", 3) == 3 && word_length(WORDS_LLAMA3, "'\xc5\xbfx", 4) == 3 &&
              word_length(WORDS_GPT2, "'\xc5\xbf", 3) == 1,
          "the long s");
}

static void test_tokenizer_bad(void) {
    tokenizer_dir_make();
    const char* words = tokenizer_gpt2_words;
    TokenizerCase cases[] = {
        {"", "null", "", "", "a", 0},
        {"", "{\"type\": \"Whitespace\"}", "", "", "a", 0},
        {"", "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\"}, {\"type\": \"ByteLevel\"}]}", "", "",
         "a", 0},
        {"", words, "\"end_of_word_suffix\": \"</w>\",", "", "a", 0},
        {"", words, "\"dropout\": 0.1,", "", "a", 0},
        {"",
         "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\", \"add_prefix_space\": false}, "
         "{\"type\": \"Digits\"}]}",
         "", "", "a", 0},
        {"", words, "", "", "d", 0},
        {"", words, "", "\"b c\"", "bc", 5},
        {"", words, "", "\"ab\"", "a", 0},
        {"", words, "", "\"a \"", "a", 0},
        {"", words, "", "\"a c\"", "a", 0},
        {"", words, "", "7", "a", 0},
        {"{\"id\": -2, \"content\": \"x\"}", words, "", "", "a", 0},
        {"{\"id\": 2000000000, \"content\": \"x\"}", words, "", "", "a", 0},
        {"7", words, "", "", "a", 0},
    };
    static const char* const expected[] = {
        "tokenizer.json|pre_tokenizer|--prompt",
        "pre_tokenizer's type is|Whitespace",
        "pre_tokenizer's Split|absent",
        "end_of_word_suffix|</w>",
        "dropout",
        "pre_tokenizer (in this order)|Digits",
        "no token for \"d\"",
        "token 5|vocabulary of 5",
        "merge 0|found \"ab\"",
        "merge 0|found \"a \"",
        "merge 0|\"ac\"",
        "merge 0|a number",
        "ids from 0|-2",
        "ids from 0|2000000000",
        "added_tokens|a number",
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char* what = format_string("case %zu", i);
        expect_death(what, tokenizer_case_run, &cases[i], expected[i]);
        free(what);
    }
    static const char* const files[][2] = {
        {"{\"model\": 3}", "tokenizer.json|\"vocab\""},
        {"[]", "tokenizer.json|\"vocab\""},
        {"{\"model\": {\"vocab\": {\"a\": 1,}}}", "tokenizer.json:1"},
        {"{\"model\": {\"vocab\": {\"a\": \"b\"}}}", "tokenizer.json|a"},
        {"{\"model\": {\"vocab\": {\"a\": 1, \"b\": 1}}}", "id 1|'a'|'b'"},
        {"{\"model\": {\"vocab\": [[\"a\", 0], 3]}}", "vocabulary|1"},
        {"", "tokenizer.json"},
    };
    TokenizerCase plain = {NULL, NULL, NULL, NULL, "a", 300};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        tokenizer_put("tokenizer.json", files[i][0], strlen(files[i][0]));
        expect_death(files[i][0], tokenizer_case_run, &plain, files[i][1]);
    }
    // A tokenizer of another kind: its pieces can be shown, a prompt is refused.
    static const char unigram[] = "{\"model\": {\"type\": \"Unigram\", \"vocab\": "
                                  "[[\"<unk>\", 0], "
                                  "[\"\xe2\x96\x81the\", -1.5], [\"<0x0A>\", -2]]}}";
    tokenizer_put("tokenizer.json", unigram, sizeof unigram - 1);
    expect_death("Unigram", tokenizer_case_run, &plain, "model's type|Unigram|--prompt");
    Tokenizer* tokenizer = tokenizer_open(tokenizer_dir, 300);
    char piece[TOKENIZER_PIECE];
    CHECK(tokenizer_decode(tokenizer, 1, piece) == 4 && memcmp(piece, " the", 4) == 0, "a piece");
    CHECK(tokenizer_decode(tokenizer, 2, piece) == 1 && piece[0] == '\n', "a byte");
    CHECK(!tokenizer_is_bytes(tokenizer), "bytes");
    tokenizer_close(tokenizer);
    tokenizer_drop("tokenizer.json");
    // No tokenizer at all.
    expect_death("none", tokenizer_case_run, &plain, "no tokenizer.json|300|--prompt");
    tokenizer = tokenizer_open(tokenizer_dir, 300);
    CheckpointFile carried[TOKENIZER_FILES];
    CHECK(tokenizer_decode(tokenizer, 65, piece) == 4 && memcmp(piece, "<65>", 4) == 0, "numbers");
    CHECK(tokenizer_eot(tokenizer) == -1 && !tokenizer_is_bytes(tokenizer) && tokenizer_files(tokenizer, carried) == 0,
          "nothing known");
    tokenizer_close(tokenizer);
    CHECK(rmdir(tokenizer_dir) == 0, "%s: %s", tokenizer_dir, strerror(errno));
}

// Public tokenizers, where they are present. The ids are those of the tokenizers library 0.23.
static void test_tokenizer_public(void) {
    static const char text[] = "It's  they'RE\n\n   int x2 = 0x1F;\t\tcaf\xc3\xa9 \xe2\x80\x94 "
                               "\xe4\xb8\xad\xe6\x96\x87 \xd9\xa3\xd9\xa4\xc2\xb2\xc2\xa0"
                               "\xe3\x80\x80z \xf0\x9f\x8e\x89<|endoftext|> 'll    ";
    static const int neox[] = {1147, 434, 50276, 9328,  8,   1848,  535,  50275, 565,  1269, 19,    426,   470, 89,
                               18,   39,  28,    186,   186, 68,    2320, 860,   1905, 209,  13609, 20855, 209, 149,
                               98,   149, 99,    15818, 575, 19409, 91,   22692, 225,  220,  0,     686,   620, 50274};
    static const int gpt2[] = {1026, 338,   220,   484, 6,     2200, 628, 220, 220,   493,  2124, 17,
                               796,  657,   87,    16,  37,    26,   197, 197, 66,    1878, 2634, 851,
                               220,  40792, 23877, 229, 18923, 96,   149, 97,  31185, 1849, 5099, 222,
                               89,   12520, 236,   231, 50256, 705,  297, 220, 220,   220,  220};
    const char* shared = getenv("PONDER_SHARED");
    if (!shared || !*shared) { shared = "../shared"; }
    char* dirs[2] = {format_string("%s/tokenizers/gpt-neox-20b", shared), format_string("%s/tokenizers/gpt2", shared)};
    int found = 0;
    for (int i = 0; i < 2; i++) {
        if (access(dirs[i], R_OK) == 0) {
            found++;
            Tokenizer* tokenizer = tokenizer_open(dirs[i], i == 0 ? 50304 : 50257);
            tokenizer_expect(tokenizer, dirs[i], text, sizeof text - 1, i == 0 ? neox : gpt2,
                             (int)(i == 0 ? sizeof neox / sizeof neox[0] : sizeof gpt2 / sizeof gpt2[0]));
            CHECK(tokenizer_eot(tokenizer) == (i == 0 ? 0 : 50256), "end of text %d", tokenizer_eot(tokenizer));
            CHECK(!tokenizer_is_bytes(tokenizer), "bytes");
            tokenizer_close(tokenizer);
        }
        free(dirs[i]);
    }
    if (!found) { test_skip("no public tokenizers in PONDER_SHARED (default ../shared)"); }
}

// Text whose length is known may hold a NUL: nothing of it is lost, and nothing is read behind it.
static void test_tokenizer_nul(void) {
    tokenizer_dir_make();
    static const char vocab[] = "{\"a\": 0, \"b\": 1, \"ab\": 2}";
    TokenizerCase plain = {NULL, NULL, NULL, NULL, "a", 300};
    tokenizer_put("vocab.json", vocab, sizeof vocab - 1);
    static const struct {
        const char *merges, *words;
        size_t size;
    } cases[] = {
        {"a\0x b\n", "merge 0 of \"a\\u0000x\" and \"b\" needs \"a\\u0000x\"", 6},
        {"a b\0x\n", "merge 0 of \"a\" and \"b\\u0000x\" needs \"b\\u0000x\"", 6},
        {"a b\na\0\n", "in merge 1, found \"a\\u0000\"", 7},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tokenizer_put("merges.txt", cases[i].merges, cases[i].size);
        expect_death(cases[i].words, tokenizer_case_run, &plain, cases[i].words);
    }
    tokenizer_drop("vocab.json");
    tokenizer_drop("merges.txt");
    // A piece that holds one is shown whole. A type that only begins like a known one is another.
    static const char unigram[] =
        "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"x\\u0000y\", 0], [\"</s>\", 0]]}, "
        "\"decoder\": {\"type\": \"ByteLevel\\u0000\"}}";
    static const char config[] = "{\"eos_token\": \"x\"}";
    tokenizer_put("tokenizer.json", unigram, sizeof unigram - 1);
    tokenizer_put("tokenizer_config.json", config, sizeof config - 1);
    Tokenizer* tokenizer = tokenizer_open(tokenizer_dir, 300);
    char piece[TOKENIZER_PIECE];
    CHECK(tokenizer_decode(tokenizer, 0, piece) == 3 && memcmp(piece, "x\0y", 3) == 0, "a piece with a NUL");
    CHECK(tokenizer_eot(tokenizer) == 1, "end of text is token %d: \"x\" is the start of another",
          tokenizer_eot(tokenizer));
    CHECK(strstr(tokenizer->refusal, "Unigram") != NULL, "refusal: %s", tokenizer->refusal);
    tokenizer_close(tokenizer);
    tokenizer_drop("tokenizer.json");
    tokenizer_drop("tokenizer_config.json");
    CHECK(rmdir(tokenizer_dir) == 0, "%s: %s", tokenizer_dir, strerror(errno));
}

// WordPiece: words are parted by spaces, "##" goes on with one; the texts are those of the tokenizers library. A prompt is
// refused.
static void test_tokenizer_wordpiece(void) {
    tokenizer_dir = test_directory("tokenizer");
    static const struct {
        const char* prefix;  // as the file says it
        const char* text;
    } cases[] = {
        {"\"continuing_subword_prefix\": \"##\", ", "un##ing [SEP]|[SEP] runing @ing \xc3\xa9##"},
        {"", "un##ing [SEP]|[SEP] runing @ing \xc3\xa9##"},
        {"\"continuing_subword_prefix\": \"@\", ", "un##ing [SEP]|[SEP] run ##inging \xc3\xa9 ####"},
    };
    for (int i = 0; i < 3; i++) {
        char* json = format_string(
            "{\"added_tokens\": [{\"id\": 6, \"content\": \"[SEP]\", \"special\": true}], \"model\": {\"type\": "
            "\"WordPiece\", %s\"unk_token\": \"[UNK]\", \"vocab\": {\"[UNK]\": 0, \"run\": 1, \"##ing\": 2, "
            "\"@ing\": 3, \"\xc3\xa9\": 4, \"##\": 5, \"[SEP]\": 6, \"un##ing\": 7, \"####\": 8}}}",
            cases[i].prefix);
        tokenizer_put("tokenizer.json", json, strlen(json));
        TokenizerCase plain = {NULL, NULL, NULL, NULL, "a", 300};
        expect_death("WordPiece", tokenizer_case_run, &plain, "model's type|WordPiece|--prompt");
        Tokenizer* tokenizer = tokenizer_open(tokenizer_dir, 300);
        StringBuilder sb = {0};
        static const int tokens[] = {7, 6, 6, 1, 2, 3, 4, 8};
        tokenizer_decode_all(tokenizer, tokens, 2, 1, &sb);
        sb_append(&sb, "|", 1);
        tokenizer_decode_all(tokenizer, tokens + 2, 6, 1, &sb);
        CHECK(strcmp(sb.data, cases[i].text) == 0, "prefix %d: '%s', expected '%s'", i, sb.data, cases[i].text);
        sb.size = 0;
        tokenizer_decode_all(tokenizer, tokens + 3, 2, 0, &sb);  // behind other tokens
        CHECK(strcmp(sb.data, i < 2 ? " runing" : " run ##ing") == 0, "prefix %d: '%s'", i, sb.data);
        CHECK(tokenizer_find(tokenizer, "[SEP]") == 6, "prefix %d: no special token of this name", i);
        free(sb.data);
        tokenizer_close(tokenizer);
        free(json);
    }
    tokenizer_drop("tokenizer.json");
    CHECK(rmdir(tokenizer_dir) == 0, "%s: %s", tokenizer_dir, strerror(errno));
}

static void tokenizer_tests(void) {
    RUN(test_tokenizer_bytes);
    RUN(test_tokenizer_byte_files);
    RUN(test_tokenizer_nearly_bytes);
    RUN(test_tokenizer_old_config);
    RUN(test_tokenizer_special);
    RUN(test_tokenizer_kept_files);
    RUN(test_tokenizer_words);
    RUN(test_tokenizer_bpe);
    RUN(test_tokenizer_ends);
    RUN(test_tokenizer_bad);
    RUN(test_tokenizer_nul);
    RUN(test_tokenizer_wordpiece);
    RUN(test_tokenizer_public);
}

#endif

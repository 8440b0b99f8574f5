// test_tokens.h - how text becomes tokens: common/files/{encode,bpe,unicode,sentencepiece}.h and data/tokens.c.
#ifndef PONDER_TEST_TOKENS_H
#define PONDER_TEST_TOKENS_H

#include "../../data/tokens.c"
#include "test.h"

#include <sys/resource.h>

static const char tokens_fixtures[] = "dev/fixtures/tokenizers";

// Tokens of a text in one piece, and cut wherever that is allowed, at most every `step` bytes (0: nowhere).
static size_t tokens_of(const Tokenizer* tokenizer, const char* text, size_t n, int special, size_t step, int** out) {
    Encoder e;
    encoder_begin(&e, tokenizer, special);
    size_t from = 0;
    for (size_t at = step; step && at <= n; at += step) {
        size_t cut = at > from ? encoder_cut(&e, text + from, at - from) : 0;
        if (!cut) { continue; }
        encoder_run(&e, text + from, cut, from == 0);
        from += cut;
    }
    encoder_run(&e, text + from, n - from, from == 0);
    size_t count = e.count;
    *out = e.tokens;
    e.tokens = NULL;
    encoder_end(&e);
    return count;
}

static void tokens_compare(const char* what, const int* got, size_t count, const int* want, size_t n) {
    size_t i = 0;
    while (i < count && i < n && got[i] == want[i]) { i++; }
    CHECK(count == n && i == n, "%s: %zu tokens, expected %zu; token %zu is %d, expected %d", what, count, n, i,
          i < count ? got[i] : -1, i < n ? want[i] : -1);
}

// One text of a fixture: [text, ids if special tokens are text, ids if they are tokens].
static void tokens_check_case(const Tokenizer* tokenizer, const Json* one, const char* name, int number) {
    const Json* text = one->items[0];
    for (int special = 0; special < 2; special++) {
        const Json* ids = one->items[1 + special];
        int* want = (int*)xalloc((size_t)ids->count, sizeof(int), "a test");
        for (int i = 0; i < ids->count; i++) { want[i] = (int)ids->items[i]->number; }
        for (size_t step = 0; step < 9; step += step ? 4 : 1) {
            int* got = NULL;
            size_t count = tokens_of(tokenizer, text->string, text->length, special, step, &got);
            char* what = format_string("%s, text %d, special tokens %s, parts of %zu", name, number,
                                       special ? "parsed" : "text", step);
            tokens_compare(what, got, count, want, (size_t)ids->count);
            free(what);
            free(got);
        }
        free(want);
    }
}

// Small tokenizers of every kind, with the tokens that the libraries make (dev/check_tokenizers.py --fixtures).
static void test_tokens_fixtures(void) {
    int count = 0, checked = 0;
    char** names = directory_names(tokens_fixtures, &count);
    for (int i = 0; i < count; i++) {
        if (text_ends(names[i], ".cases")) { continue; }
        char* path = format_string("%s/%s", tokens_fixtures, names[i]);
        Tokenizer* tokenizer = tokenizer_open(path, TOKENIZER_MAX);
        CHECK(!tokenizer->refusal, "%s: %s", names[i], tokenizer->refusal ? tokenizer->refusal : "");
        *strrchr(path, '.') = 0;
        char* cases = format_string("%s.cases", path);
        Json* list = json_read(cases);
        CHECK(list->count > 10, "%s: %d texts", cases, list->count);
        for (int k = 0; k < list->count && !tokenizer->refusal; k++) {
            tokens_check_case(tokenizer, list->items[k], names[i], k);
        }
        json_free(list);
        tokenizer_close(tokenizer);
        free(cases);
        free(path);
        checked++;
    }
    CHECK(checked >= 19, "%d fixtures in %s, expected at least 19", checked, tokens_fixtures);
    directory_free_names(names);
}

static Tokenizer* tokens_open(const char* name) {
    char* path = format_string("%s/%s", tokens_fixtures, name);
    Tokenizer* tokenizer = tokenizer_open(path, TOKENIZER_MAX);
    free(path);
    return tokenizer;
}

// A small tokenizer.json of the pieces a b c z and what is said.
typedef struct {
    const char *what, *normalizer, *pre, *added, *options, *vocab, *merges, *text;
} TokensSmall;

static Tokenizer* tokens_open_small(const TokensSmall* small) {
    char* dir = test_directory("tokens");
    char* path = format_string("%s/small.json", dir);
    char* json = format_string(
        "{\"added_tokens\": [%s], \"normalizer\": %s, \"pre_tokenizer\": %s, \"model\": {\"type\": \"BPE\", %s "
        "\"vocab\": {\"<unk>\": 0, \"a\": 1, \"b\": 2, \"c\": 3, %s}, \"merges\": [%s]}}",
        small->added, small->normalizer, small->pre, small->options, small->vocab, small->merges);
    write_bytes(path, json, strlen(json));
    Tokenizer* tokenizer = tokenizer_open(path, TOKENIZER_MAX);
    CHECK(!tokenizer->refusal, "%s: %s", small->what, tokenizer->refusal ? tokenizer->refusal : "");
    directory_remove_tree(dir);
    free(json);
    free(path);
    free(dir);
    return tokenizer;
}

#define TOKENS_MARKS "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\xe2\x96\x81\"}"
#define TOKENS_PREPEND                                                                                                \
    "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"\xe2\x96\x81\"}," TOKENS_MARKS \
    "]}"
#define TOKENS_METASPACE(when) \
    "{\"type\": \"Metaspace\", \"replacement\": \"\xe2\x96\x81\", \"prepend_scheme\": \"" when "\", \"split\": true}"
#define TOKENS_FUSED "\"unk_token\": \"<unk>\", \"fuse_unk\": true,"

// Where a cut would change tokens there is none; each of these kinds once lacked a reason not to cut.
static void test_tokens_cuts(void) {
    static const char level[] = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}";
    static const char whole[] = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}";
    static const char marked[] = "\"\xe2\x96\x81\": 4, \"\\n\": 5, \"\xe2\x96\x81\xe2\x96\x81\": 6, \"x\": 7, \"y\": 8";
    static const char marks[] = "[\"\xe2\x96\x81\", \"\xe2\x96\x81\"]";
    static const TokensSmall cases[] = {
        {"bytes without words", "null", whole, "", "", "\"\xc4\xa0\": 4, \"a\xc4\xa0\": 5", "[\"a\", \"\xc4\xa0\"]",
         "a a a"},
        {"characters without marks", "null", "null", "", "", "\" \": 4, \"a \": 5", "[\"a\", \" \"]", "a a a"},
        {"another text replaced", "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a \"}, \"content\": \"b\"}",
         level, "", "", "\"\xc4\xa0\": 4", "", "a a a"},
        {"marks replaced",
         "{\"type\": \"Sequence\", \"normalizers\": [" TOKENS_MARKS
         ", {\"type\": \"Replace\", \"pattern\": {\"String\": \"a\xe2\x96\x81\"}, \"content\": \"b\"}]}",
         "null", "", "", marked, marks, "a a a"},
        {"an added token with a space", TOKENS_PREPEND, "null",
         "{\"id\": 9, \"content\": \"x y\", \"normalized\": true}", "", marked, marks, "a x y b"},
        {"unknown line feeds", TOKENS_MARKS, "null", "", TOKENS_FUSED, "\"\xe2\x96\x81\": 4", "", "z\nz"},
        {"unknown marks", TOKENS_MARKS, "null", "", TOKENS_FUSED, "\"d\": 4", "", "z z z"},
        {"something before what follows a token", TOKENS_PREPEND, "null",
         "{\"id\": 9, \"content\": \"<e>\", \"normalized\": false}", "", marked, marks, "a<e> b"},
        {"a token that is a line feed", TOKENS_PREPEND, "null",
         "{\"id\": 9, \"content\": \"\\n\", \"normalized\": false}", "", marked, marks, "a\nb"},
        {"a mark before what follows a line feed", "null", TOKENS_METASPACE("always"),
         "{\"id\": 9, \"content\": \"\\n\", \"normalized\": false}", "", marked, marks, "a\nb"},
        {"white space of others behind a line feed", "null", level, "", "",
         "\"\xc4\x8a\": 4, \"\xc3\xa2\": 5, \"\xc4\xa2\": 6, \"\xc2\xa8\": 7, \"\xc4\x8a\xc3\xa2\": 8",
         "[\"\xc4\x8a\", \"\xc3\xa2\"]",
         "a\n\xe2\x80\xa8\xe2\x80\xa8"
         "b"},
        {"a token that takes the space behind it", "null", level,
         "{\"id\": 9, \"content\": \"<e>\", \"normalized\": false, \"rstrip\": true}", "", "\"\xc4\xa0\": 4", "",
         "a<e> b"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Tokenizer* tokenizer = tokens_open_small(&cases[i]);
        size_t n = strlen(cases[i].text);
        int *want = NULL, *got = NULL;
        size_t count = tokens_of(tokenizer, cases[i].text, n, 1, 0, &want);
        size_t parts = tokens_of(tokenizer, cases[i].text, n, 1, 1, &got);
        tokens_compare(cases[i].what, got, parts, want, count);
        free(want);
        free(got);
        tokenizer_close(tokenizer);
    }
    // Where nothing changes there is a cut: marks that are known, and a normalizer that makes only these.
    static const TokensSmall known = {"marks alone", TOKENS_PREPEND, "null", "", TOKENS_FUSED, marked, marks, ""};
    Tokenizer* tokenizer = tokens_open_small(&known);
    Encoder e;
    encoder_begin(&e, tokenizer, 1);
    CHECK(encoder_cut(&e, "a b", 3) == 1 && encoder_cut(&e, "a\nb", 3) == 2, "no cut before a space, behind a line");
    encoder_end(&e);
    tokenizer_close(tokenizer);
}

// Where a mark comes before a text alone, none comes behind an added token.
static void test_tokens_first_mark(void) {
    static const struct {
        TokensSmall small;
        int count, tokens[6];
    } cases[] = {
        {{"always", "null", TOKENS_METASPACE("always"), "{\"id\": 5, \"content\": \"<e>\", \"normalized\": false}", "",
          "\"\xe2\x96\x81\": 4", "", ""},
         6,
         {4, 1, 5, 4, 2, 5}},
        {{"first", "null", TOKENS_METASPACE("first"), "{\"id\": 5, \"content\": \"<e>\", \"normalized\": false}", "",
          "\"\xe2\x96\x81\": 4", "", ""},
         5,
         {4, 1, 5, 2, 5}},
    };
    for (int i = 0; i < 2; i++) {
        Tokenizer* tokenizer = tokens_open_small(&cases[i].small);
        int* got = NULL;
        size_t count = tokens_of(tokenizer, "a<e>b<e>", 8, 1, 0, &got);
        tokens_compare(cases[i].small.what, got, count, cases[i].tokens, (size_t)cases[i].count);
        free(got);
        tokenizer_close(tokenizer);
    }
}

// SentencePiece takes all spaces off the end of a text, those too that are written as marks; and of equal scores the rank
// is the same.
static void test_tokens_sentence_ends(void) {
    Tokenizer* tokenizer = tokens_open("sentencepiece_trim.model");
    static const char* const texts[] = {"a", "a  ", "a\xe2\x96\x81", "a \xe2\x96\x81\xe2\x96\x81 "};
    int* want = NULL;
    size_t count = tokens_of(tokenizer, texts[0], 1, 1, 0, &want);
    for (int i = 1; i < 4; i++) {
        int* got = NULL;
        size_t n = tokens_of(tokenizer, texts[i], strlen(texts[i]), 1, 0, &got);
        tokens_compare(texts[i], got, n, want, count);
        free(got);
    }
    free(want);
    tokenizer_close(tokenizer);
    CHECK(sentence_rank(0.0f) == sentence_rank(-0.0f) && sentence_rank(0.0f) < sentence_rank(-1e-45f) &&
              sentence_rank(1e-45f) < sentence_rank(0.0f),
          "the ranks of scores beside 0");
}

// A special token that is text here hides the tokens that begin within it.
static void test_tokens_special_text(void) {
    static const TokensSmall small = {"a special token that is text",
                                      "null",
                                      "null",
                                      "{\"id\": 5, \"content\": \"<b>\", \"special\": true, \"normalized\": false}, "
                                      "{\"id\": 6, \"content\": \"b>\", \"normalized\": false}",
                                      TOKENS_FUSED,
                                      "\"d\": 4",
                                      "",
                                      "a<b>b>"};
    static const int as_text[] = {1, 0, 2, 0, 6}, parsed[] = {1, 5, 6};
    Tokenizer* tokenizer = tokens_open_small(&small);
    for (int special = 0; special < 2; special++) {
        int* got = NULL;
        size_t count = tokens_of(tokenizer, small.text, strlen(small.text), special, 0, &got);
        tokens_compare(small.what, got, count, special ? parsed : as_text, special ? 3 : 5);
        free(got);
    }
    tokenizer_close(tokenizer);
}

// A word that follows an unknown token, with which its first was fused, is not remembered as it was there; nor is one
// that begins with such a token, as it was where nothing came before.
static void test_tokens_fused_words(void) {
    static const TokensSmall small = {"fused", TOKENS_MARKS, "null", "", TOKENS_FUSED, "\"d\": 4", "", ""};
    enum { LONG = WORD_CACHE_AFTER + 100 };
    char text[LONG + 9];
    memset(text, 'b', LONG);
    static const struct {
        const char* text;
        size_t count;
        int tokens[6];
    } tails[] = {{" z a b a", 6, {0, 1, 0, 2, 0, 1}}, {" a z a", 4, {0, 1, 0, 1}}};
    for (int i = 0; i < 2; i++) {
        memcpy(text + LONG, tails[i].text, strlen(tails[i].text) + 1);
        Tokenizer* tokenizer = tokens_open_small(&small);
        int* got = NULL;
        size_t count = tokens_of(tokenizer, text, strlen(text), 1, 0, &got);
        tokens_compare("fused", got + LONG, count - LONG, tails[i].tokens, tails[i].count);
        free(got);
        tokenizer_close(tokenizer);
    }
}

// A prompt has as many tokens as its normalizer makes of it.
static void test_tokens_long_normalizer(void) {
    enum { LONG = 100000 };
    StringBuilder sb = {0};
    sb_printf(&sb, "{\"type\": \"Prepend\", \"prepend\": \"");
    for (int i = 0; i < LONG; i++) { sb_append(&sb, "a", 1); }
    sb_printf(&sb, "\"}");
    TokensSmall small = {"a long text before it", sb.data, "null", "", "", "\"d\": 4", "", ""};
    Tokenizer* tokenizer = tokens_open_small(&small);
    size_t count = 0;
    int* tokens = tokenizer_encode(tokenizer, "b", 1, &count);
    CHECK(count == LONG + 1 && tokens[0] == 1 && tokens[LONG] == 2, "%zu tokens", count);
    free(tokens);
    free(sb.data);
    tokenizer_close(tokenizer);
}

// A fixture as GPT-2's first files, vocab.json and merges.txt.
static Tokenizer* tokens_open_gpt2(const char* name) {
    char *dir = test_directory("tokens"), *path = format_string("%s/%s", tokens_fixtures, name);
    Json* model = NULL;
    Json* root = json_read(path);
    StringBuilder vocab = {0}, merges = {0};
    model = (Json*)json_get(root, "model");
    const Json *pieces = json_get(model, "vocab"), *list = json_get(model, "merges");
    for (int i = 0; i < pieces->count; i++) {
        sb_printf(&vocab, "%s", i ? ", " : "{");
        json_append_string(&vocab, pieces->keys[i], strlen(pieces->keys[i]));
        sb_printf(&vocab, ": %d", (int)pieces->items[i]->number);
    }
    sb_printf(&vocab, ", \"<|endoftext|>\": %d}", pieces->count);
    sb_printf(&merges, "#version: 0.2\n");
    for (int i = 0; i < list->count; i++) {
        sb_printf(&merges, "%s %s\n", list->items[i]->items[0]->string, list->items[i]->items[1]->string);
    }
    char *first = format_string("%s/vocab.json", dir), *second = format_string("%s/merges.txt", dir);
    write_bytes(first, vocab.data, vocab.size);
    write_bytes(second, merges.data, merges.size);
    Tokenizer* tokenizer = tokenizer_open(dir, TOKENIZER_MAX);
    CHECK(!tokenizer->refusal && tokenizer->merges.count == (size_t)list->count, "%s as GPT-2's files: %s", name,
          tokenizer->refusal ? tokenizer->refusal : "merges are missing");
    json_free(root);
    free(vocab.data), free(merges.data), free(first), free(second), free(path);
    directory_remove_tree(dir);
    free(dir);
    return tokenizer;
}

// Any bytes come back from what is encoded byte by byte, where there is NFC from what that leaves alone; SentencePiece
// and its kin put one space before them.
static void test_tokens_round_trip(void) {
    static const struct {
        const char* name;
        int space, nfc, gpt2;
    } kinds[] = {
        {"llama-3.json", 0, 0, 0},         {"smollm.json", 0, 0, 0},
        {"digits_together.json", 0, 0, 0}, {"gpt-neox.json", 0, 1, 0},
        {"qwen2.json", 0, 1, 0},           {"smollm.json", 0, 0, 1},
        {"tinyllama.json", 1, 0, 0},       {"sentencepiece_byte_fallback.model", 1, 0, 0},
    };
    enum { N = 3000 };
    char any[N];
    for (int i = 0; i < N; i++) {
        uint32_t word = random_block(test_seed(1), 7, (uint64_t)i).word[0];
        static const char common[] = " a\n1\xe2\x96\x81\xc3\xcc";
        any[i] = word >> 8 & 1 ? (char)word : common[word % 9];
    }
    memcpy(any, "e\xcc\x81 \xff\xf6 ", 7);  // which NFC changes
    StringBuilder normal = {0}, again = {0};
    unicode_begin();
    CHECK(unicode_nfc(any, N, &normal) && memcmp(normal.data, any, 2) != 0, "NFC changed nothing");
    CHECK(!unicode_nfc(normal.data, normal.size, &again) ||
              (again.size == normal.size && memcmp(again.data, normal.data, again.size) == 0),
          "NFC does not leave its own form alone");
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        const char* name = kinds[k].name;
        const char* text = kinds[k].nfc ? normal.data : any;
        const size_t n = kinds[k].nfc ? normal.size : N, skip = (size_t)kinds[k].space;
        Tokenizer* tokenizer = kinds[k].gpt2 ? tokens_open_gpt2(name) : tokens_open(name);
        int* tokens = NULL;
        size_t count = tokens_of(tokenizer, text, n, 0, 0, &tokens);
        StringBuilder sb = {0};
        for (size_t i = 0; i < count; i++) {
            char piece[TOKENIZER_PIECE];
            sb_append(&sb, piece, tokenizer_decode(tokenizer, tokens[i], piece));
        }
        size_t same = 0;
        while (same < n && same + skip < sb.size) {
            // U+2581 in a text cannot be told from a space.
            if (skip && memcmp(text + same, SPACE_MARK, 3) == 0) { break; }
            if (sb.data[same + skip] != text[same]) { break; }
            same++;
        }
        int mark = skip && same + 3 <= n && memcmp(text + same, SPACE_MARK, 3) == 0;
        CHECK((same == n && sb.size == n + skip) || mark, "%s: byte %zu of %zu came back as %02x, was %02x", name, same,
              n, same + skip < sb.size ? (unsigned char)sb.data[same + skip] : 0,
              (unsigned char)text[min_size(same, n - 1)]);
        free(sb.data);
        free(tokens);
        tokenizer_close(tokenizer);
    }
    free(normal.data);
    free(again.data);
}

// Seconds of the processor in which a million characters must be encoded: a third of that is usual, half of it on a busy
// machine. Sanitizers and builds that are not optimised are slower by their nature.
#if TEST_SANITIZED || !defined(__OPTIMIZE__)
static const double tokens_seconds = 20;
#else
static const double tokens_seconds = 1;
#endif

// A megabyte of one text again and again: at most `most` tokens, and no time that grows with the square.
static void tokens_run_long(const Tokenizer* tokenizer, const char* name, const char* run, size_t most) {
    enum { N = 1000000 };
    char* text = (char*)xalloc(N, 1, "a test");
    size_t size = strlen(run);
    for (size_t i = 0; i < N; i++) { text[i] = run[i % size]; }
    double best = 1e9;
    for (int again = 0; again < 3 && best >= tokens_seconds; again++) {  // others may have been in the caches
        int* tokens = NULL;
        clock_t start = clock();
        size_t count = tokens_of(tokenizer, text, N, 0, 0, &tokens);
        best = fmin(best, (double)(clock() - start) / CLOCKS_PER_SEC);
        CHECK(count > 0 && count <= most, "%s, %02x...: %zu tokens", name, (unsigned char)*run, count);
        free(tokens);
    }
    CHECK(best < tokens_seconds, "%s, %02x...: %.2f s, expected less than %.0f", name, (unsigned char)*run, best,
          tokens_seconds);
    free(text);
}

// A million equal letters, spaces, marks.
static void test_tokens_long_runs(void) {
    static const char* const names[] = {"gpt-neox.json", "llama-3.json", "over_spaces.json",
                                        "sentencepiece_over_spaces.model"};
    static const char* const runs[] = {"a", " ", "\n", "\xcc\x81", "1"};
    for (int k = 0; k < 4; k++) {
        Tokenizer* tokenizer = tokens_open(names[k]);
        for (int r = 0; r < 5; r++) { tokens_run_long(tokenizer, names[k], runs[r], 3000000); }
        tokenizer_close(tokenizer);
    }
    // A letter that merges with itself, as in public vocabularies, which those above do not have: eight become one.
    static const char eight[] = "\"aa\": 4, \"aaaa\": 5, \"aaaaaaaa\": 6",
                      doubles[] = "[\"a\", \"a\"], [\"aa\", \"aa\"], [\"aaaa\", \"aaaa\"]";
    static const TokensSmall small[] = {
        {"bytes", "null", "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}", "", "", eight,
         doubles, ""},
        {"characters", "null", "null", "", "", eight, doubles, ""},
    };
    for (int k = 0; k < 2; k++) {
        Tokenizer* tokenizer = tokens_open_small(&small[k]);
        tokens_run_long(tokenizer, small[k].what, "a", 125000);
        tokenizer_close(tokenizer);
    }
}

// Searching and the heap merge alike, whatever the merges.
static void test_tokens_heap(void) {
    BpeMerges merges;
    bpe_make(&merges, 1);  // it grows
    uint64_t seed = test_seed(1);
    for (uint32_t i = 0; i < 400; i++) {
        RandomBlock block = random_block(seed, 1, i);
        bpe_add(&merges, (int)(block.word[0] % (4 + i / 8)), (int)(block.word[1] % (4 + i / 8)), (int)(4 + i / 4),
                block.word[2] % 50);
    }
    BpeRoom room = {0};
    for (uint64_t trial = 0; trial < 2000; trial++) {
        int a[BPE_SHORT], b[BPE_SHORT];
        size_t n = 2 + trial % (BPE_SHORT - 1);
        for (size_t i = 0; i < n; i++) { a[i] = b[i] = (int)(random_block(seed, 2 + trial, i).word[0] % 4); }
        size_t x = bpe_merge_short(&merges, a, n), y = bpe_merge_long(&merges, &room, b, n);
        tokens_compare("the heap", b, y, a, x);
    }
    bpe_free_room(&room);
    free(merges.table);
}

// Unicode's own examples of NFC: order of marks, what does not compose, Hangul.
static void test_tokens_nfc(void) {
    static const char* const cases[][2] = {
        {"e\xcc\x81", "\xc3\xa9"},
        {"a\xcc\x87\xcc\xa3", "\xe1\xba\xa1\xcc\x87"},             // the lower mark first
        {"\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"},              // excluded: three bytes become six
        {"\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"},  // Hangul
        {"\xe2\x84\xab", "\xc3\x85"},                              // a singleton
        {"\xc3\xa9\xcc\x81x\xff\xcc\x81", "\xc3\xa9\xcc\x81x\xff\xcc\x81"},
        {"a\xcc\x8b\xcc\x81", "a\xcc\x8b\xcc\x81"},                                 // no mark passes one of its class
        {"e\xcc\x81\xea\xb0\x80\xe1\x86\xa7", "\xc3\xa9\xea\xb0\x80\xe1\x86\xa7"},  // before the first Hangul T
        {"\xcc\x81"
         "e\xcc\xa3\xcc\x81\n",
         "\xcc\x81\xe1\xba\xb9\xcc\x81\n"},
    };
    unicode_begin();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        StringBuilder sb = {0};
        const char *text = cases[i][0], *want = cases[i][1];
        int changed = unicode_nfc(text, strlen(text), &sb);
        CHECK(changed && sb.size == strlen(want) && memcmp(sb.data, want, sb.size) == 0, "case %zu: %s", i,
              sb.data ? sb.data : "not changed");
        free(sb.data);
    }
    StringBuilder none = {0};
    CHECK(!unicode_nfc("caf\xc3\xa9 \xe4\xb8\xad\xff", 10, &none) && none.size == 0, "changed for nothing");
}

typedef struct {
    const char* name;
    const char* text;
    size_t size;
} TokensFile;

static void tokens_open_file(void* argument) {
    const TokensFile* file = (const TokensFile*)argument;
    Tokenizer* tokenizer = tokenizer_open(file->name, 300);
    size_t count = 0;
    free(tokenizer_encode(tokenizer, "a b", 3, &count));
}

// A tokenizer.model that is cut off anywhere, and kinds that are refused.
static void test_tokens_bad_models(void) {
    char* dir = test_directory("tokens");
    char* path = format_string("%s/x.model", dir);
    char* whole_path = format_string("%s/sentencepiece_plain.model", tokens_fixtures);
    size_t size = 0;
    char* whole = read_fully(whole_path, &size);
    TokensFile file = {path, NULL, 0};
    for (size_t n = 1; n < size; n += n < 40 ? 13 : 911) {
        write_bytes(path, whole, n);
        char* output = NULL;
        int code = run_child(tokens_open_file, &file, &output);
        CHECK(code == 1 || strstr(output, "error") == NULL, "cut to %zu bytes: code %d: %s", n, code, output);
        free(output);
    }
    // An end of text beyond the pieces, as a trainer's message behind the others says it, is none.
    StringBuilder beyond = {0};
    sb_append(&beyond, whole, size);
    sb_append(&beyond, "\x12\x04\xd0\x02\x88\x27", 6);  // eos_id 5000
    write_bytes(path, beyond.data, beyond.size);
    Tokenizer* tokenizer = tokenizer_open(path, TOKENIZER_MAX);
    CHECK(tokenizer_eot(tokenizer) == -1, "end of text %d", tokenizer_eot(tokenizer));
    tokenizer_close(tokenizer);
    free(beyond.data);
    static const TokensFile bad[] = {
        {"a Unigram model",
         "\x0a\x05\x0a\x03"
         "abc",
         7},
        {"a field beyond the end",
         "\x0a\x05\x0a\x09"
         "abc",
         7},
        {"a piece without a text",
         "\x0a\x05\x15"
         "\0\0\x80\x3f",
         7},
        {"a score that is NaN",
         "\x0a\x08\x0a\x01"
         "a\x15\0\0\xc0\x7f",
         10},
        {"a kind of field",
         "\x0a\x05\x0b\x03"
         "abc",
         7},
    };
    static const char* const words[] = {"model_type is 1 (Unigram)|--prompt", "longer than what is left",
                                        "text of piece 0", "score of piece 0|NaN", "of a kind that there is not"};
    for (size_t i = 0; i < 5; i++) {
        write_bytes(path, bad[i].text, bad[i].size);
        expect_death(bad[i].name, tokens_open_file, &file, words[i]);
    }
    StringBuilder sb = {0};  // a BPE model of one piece of 5000 bytes
    sb_append(&sb, "\x12\x02\x18\x02\x0a\x8b\x27\x0a\x88\x27", 10);
    for (int i = 0; i < 5000; i++) { sb_append(&sb, "a", 1); }
    char* start = format_string("%s", "\x0a\x03\x0a\x01z");
    StringBuilder model = {0};
    sb_append(&model, start, 5);
    sb_append(&model, sb.data, sb.size);
    write_bytes(path, model.data, model.size);
    expect_death("a long piece", tokens_open_file, &file, "its piece 1 has 5000 bytes|at most 4096");
    free(sb.data);
    free(model.data);
    free(start);
    unlink(path);
    rmdir(dir);
    free(whole);
    free(whole_path);
    free(path);
    free(dir);
}

// ---- build/tokens ----

static char* tokens_dir;

typedef struct {
    const char* line;  // @ stands for the test's directory
    rlim_t limit;      // on the size of files; 0: as it is
    uint64_t most;     // tokens of a shard; 0: as it is
    const char* input;
    size_t longest;  // bytes without a place to cut; 0: as it is
} TokensRun;

static char* tokens_expand(const char* line) {
    StringBuilder sb = {0};
    sb_append(&sb, "", 0);
    for (const char* p = line; *p; p++) {
        sb_append(&sb, *p == '@' ? tokens_dir : p, *p == '@' ? strlen(tokens_dir) : 1);
    }
    return sb.data;
}

static void tokens_run_child(void* argument) {
    const TokensRun* run = (const TokensRun*)argument;
    if (run->limit) {
        struct rlimit limit = {run->limit, run->limit};
        setrlimit(RLIMIT_FSIZE, &limit);
    }
    if (run->most) { tokens_most = run->most; }
    if (run->longest) { tokens_longest = run->longest; }
    char* name = tokens_expand(run->input ? run->input : "/dev/null");
    dup2(open(name, O_RDONLY), 0);
    char *line = tokens_expand(run->line), *argv[64] = {(char*)"tokens"};
    int argc = 1;
    for (char* word = strtok(line, " "); word && argc < 63; word = strtok(NULL, " ")) { argv[argc++] = word; }
    int code = tokens_main(argc, argv);
    free(name);
    free(line);
    if (code != 0) { exit(code); }
}

static void tokens_good(const char* line, uint64_t most, const char* input) {
    TokensRun run = {line, 0, most, input, 0};
    char* output = NULL;
    int code = run_child(tokens_run_child, &run, &output);
    CHECK(code == 0, "tokens %s: exit code %d: %s", line, code, output);
    free(output);
}

static void tokens_put(const char* name, const char* text, size_t size) {
    char* path = tokens_expand(name);
    write_bytes(path, text, size);
    free(path);
}

// The tokens of a shard of uint16 (the caller frees them).
static int* tokens_read(const char* name, size_t* count) {
    char* path = tokens_expand(name);
    size_t size = 0;
    unsigned char* bytes = (unsigned char*)read_fully(path, &size);
    *count = 0;
    int* tokens = NULL;
    CHECK(bytes && size >= SHARD_HEADER_BYTES && shard_u32(bytes) == SHARD_MAGIC_16 &&
              SHARD_HEADER_BYTES + 2 * (size_t)shard_u32(bytes + 8) == size,
          "%s: %zu bytes", name, size);
    if (bytes && size >= SHARD_HEADER_BYTES) {
        *count = (size - SHARD_HEADER_BYTES) / 2;
        tokens = (int*)xalloc(*count, sizeof(int), "a test");
        for (size_t i = 0; i < *count; i++) {
            tokens[i] = bytes[SHARD_HEADER_BYTES + 2 * i] | bytes[SHARD_HEADER_BYTES + 2 * i + 1] << 8;
        }
    }
    free(bytes);
    free(path);
    return tokens;
}

static void tokens_same_files(const char* a, const char* b) {
    char* paths[2] = {tokens_expand(a), tokens_expand(b)};
    size_t sizes[2] = {0, 0};
    char* texts[2] = {read_fully(paths[0], &sizes[0]), read_fully(paths[1], &sizes[1])};
    CHECK(texts[0] && texts[1] && sizes[0] == sizes[1] && memcmp(texts[0], texts[1], sizes[0]) == 0,
          "%s and %s differ (%zu and %zu bytes)", a, b, sizes[0], sizes[1]);
    for (int i = 0; i < 2; i++) { free(texts[i]), free(paths[i]); }
}

#define TOKENS_NEOX "--tokenizer dev/fixtures/tokenizers/gpt-neox.json "

// Documents with words, runs, no spaces at all, nothing; larger than a block and not.
static void tokens_put_documents(void) {
    StringBuilder words = {0}, solid = {0};
    for (uint64_t i = 0; words.size < 3 * (TOKENS_BLOCK + 1000); i++) {
        uint32_t r = random_block(3, 1, i).word[0];
        sb_printf(&words, "%sw%u%s", r & 1 ? " " : r & 2 ? "\n" : "  ", r % 1000, r & 4 ? "\xc3\xa9." : "");
        sb_printf(&solid, "%u", r);
    }
    tokens_put("@/words", words.data, words.size);
    tokens_put("@/solid", solid.data, TOKENS_BLOCK + 12345);
    tokens_put("@/empty", "", 0);
    tokens_put("@/short", "a <|endoftext|>", 15);
    free(words.data);
    free(solid.data);
}

// Writes tokens `from` to `end` of texts, as build/bytes would, into a shard that says it has `said`.
static void tokens_put_bytes(const char* name, const char* const* names, int texts, size_t from, size_t end,
                             size_t said) {
    StringBuilder sb = {0};
    unsigned char header[SHARD_HEADER_BYTES];
    shard_header(header, 2, (uint32_t)said);
    sb_append(&sb, (char*)header, sizeof header);
    size_t at = 0;
    for (int i = 0; i < texts; i++) {
        char* path = tokens_expand(names[i]);
        size_t size = 0;
        unsigned char* text = (unsigned char*)read_fully(path, &size);
        for (size_t k = 0; k <= size; k++, at++) {
            char token[2] = {k < size ? (char)text[k] : 0, k < size ? 0 : 1};
            if (at >= from && at < end) { sb_append(&sb, token, 2); }
        }
        free(text);
        free(path);
    }
    tokens_put(name, sb.data, sb.size);
    free(sb.data);
}

// Shards of bytes, one document of which goes on in the second, make the same tokens as the texts.
static void test_tokens_of_bytes(void) {
    tokens_dir = test_directory("tokens");
    tokens_put_documents();
    static const char* const names[] = {"@/empty", "@/short", "@/words", "@/empty", "@/solid"};
    size_t sizes = 0;
    for (int i = 0; i < 5; i++) {
        char* path = tokens_expand(names[i]);
        struct stat info;
        sizes += stat(path, &info) == 0 ? (size_t)info.st_size + 1 : 0;
        free(path);
    }
    size_t cut = 2 * TOKENS_BLOCK + 77;
    tokens_put_bytes("@/a.bin", names, 5, 0, cut, cut);
    tokens_put_bytes("@/b.bin", names, 5, cut, sizes - 1, sizes - 1 - cut);  // the last document has no end
    tokens_good(TOKENS_NEOX "--out @/1.bin @/empty @/short @/words @/empty @/solid", 0, NULL);
    tokens_good(TOKENS_NEOX "--out @/2.bin --bytes 1 --threads 1 @/a.bin @/b.bin", 0, NULL);
    tokens_good(TOKENS_NEOX "--out @/3.bin --bytes 1 --threads 3 @/a.bin -", 0, "@/b.bin");
    tokens_same_files("@/1.bin", "@/2.bin");
    tokens_same_files("@/1.bin", "@/3.bin");
    directory_remove_tree(tokens_dir);
    free(tokens_dir);
}

static void test_tokens_program(void) {
    tokens_dir = test_directory("tokens");
    tokens_put_documents();
    tokens_good(TOKENS_NEOX "--out @/one/1.bin --threads 1 @/words @/solid @/empty @/short", 0, NULL);
    tokens_good(TOKENS_NEOX "--out @/2.bin --threads 2 @/words @/solid @/empty @/short", 0, NULL);
    tokens_good(TOKENS_NEOX "--out=@/3.bin --threads=5 @/words @/solid @/empty -", 0, "@/short");
    tokens_same_files("@/one/1.bin", "@/2.bin");
    tokens_same_files("@/one/1.bin", "@/3.bin");
    // The tokens of every document in one piece, end of text after each.
    Tokenizer* tokenizer = tokens_open("gpt-neox.json");
    int eot = tokenizer_eot(tokenizer);
    static const char* const names[] = {"@/words", "@/solid", "@/empty", "@/short"};
    size_t count = 0, at = 0;
    int* got = tokens_read("@/2.bin", &count);
    for (int i = 0; i < 4; i++) {
        char* path = tokens_expand(names[i]);
        size_t size = 0;
        char* text = read_fully(path, &size);
        int* want = NULL;
        size_t n = tokens_of(tokenizer, text, size, 0, 0, &want);
        tokens_compare(names[i], got + at, min_size(count - at, n), want, n);
        at += n;
        CHECK(at < count && got[at] == eot, "%s: no end of text after it", names[i]);
        at = min_size(at + 1, count);
        free(want);
        free(text);
        free(path);
    }
    CHECK(at == count, "%zu tokens, expected %zu", count, at);
    free(got);
    // Special tokens are text unless asked for.
    tokens_good(TOKENS_NEOX "--out @/4.bin --special parse @/short", 0, NULL);
    got = tokens_read("@/4.bin", &count);
    CHECK(count == 4 && got[2] == eot && got[3] == eot, "%zu tokens", count);
    free(got);
    // Many documents in one text; shards of a few tokens.
    tokens_put("@/framed", "\3\0\0\0\0\0\0\0abc\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0z", 28);
    tokens_put("@/abc", "abc", 3);
    tokens_put("@/z", "z", 1);
    tokens_good(TOKENS_NEOX "--out @/5.bin --framed 1 @/framed", 0, NULL);
    tokens_good(TOKENS_NEOX "--out @/6.bin @/abc @/empty @/z", 0, NULL);
    tokens_same_files("@/5.bin", "@/6.bin");
    tokens_good(TOKENS_NEOX "--out @/7.bin @/abc @/empty @/z", 4, NULL);
    size_t more = 0;
    int *whole = tokens_read("@/6.bin", &count), *first = tokens_read("@/7.bin", &at),
        *second = tokens_read("@/7_00001.bin", &more);
    CHECK(at == 4 && at + more == count && first && memcmp(whole, first, 4 * sizeof(int)) == 0 &&
              memcmp(whole + 4, second, more * sizeof(int)) == 0,
          "%zu and %zu tokens of %zu", at, more, count);
    free(whole), free(first), free(second);
    tokenizer_close(tokenizer);
    directory_remove_tree(tokens_dir);
    free(tokens_dir);
}

// Runs tokens with three threads, then prints how many there are and how many of them take no signal that ends it.
static void tokens_threads_child(void* argument) {
    tokens_run_child(argument);
    int count = 0, all = 0, blocked = 0;
    char** names = directory_names("/proc/self/task", &count);
    for (int i = 0; i < count; i++) {
        char* path = format_string("/proc/self/task/%s/status", names[i]);
        FILE* file = fopen(path, "r");
        char line[256];
        unsigned long long mask = 0;
        while (file && fgets(line, sizeof line, file)) { sscanf(line, "SigBlk: %llx", &mask); }
        if (file) { fclose(file); }
        unsigned long long ends = 1ull << (SIGINT - 1) | 1ull << (SIGTERM - 1) | 1ull << (SIGHUP - 1);
        all++;
        blocked += (mask & ends) == ends;
        free(path);
    }
    directory_free_names(names);
    printf("%d threads, %d without signals\n", all, blocked);
}

static void test_tokens_signals(void) {
    if (test_skips_threads()) { return; }
    tokens_dir = test_directory("tokens");
    tokens_put("@/text", "some text", 9);
    TokensRun run = {TOKENS_NEOX "--out @/out.bin --threads 3 @/text", 0, 0, NULL, 0};
    char* output = NULL;
    int code = run_child(tokens_threads_child, &run, &output);
    CHECK(code == 0 && strstr(output, "3 threads, 2 without signals"), "code %d: %s", code, output);
    free(output);
    directory_remove_tree(tokens_dir);
    free(tokens_dir);
}

static void tokens_die_says(void) { printf("the last word\n"); }

static void tokens_die_together(void* argument) {
    die_last = tokens_die_says;
#pragma omp parallel num_threads(4)
    {
#pragma omp barrier
        die("%s", (const char*)argument);
    }
}

// Of several threads that find an error one says it, and the program ends once.
static void test_tokens_several_errors(void) {
    for (int trial = 0; trial < 10; trial++) {
        char *output = NULL, text[] = "no token for this";
        int code = run_child(tokens_die_together, text, &output), times = 0;
        for (const char* at = output; (at = strstr(at, "error: no token")) != NULL; at++) { times++; }
        CHECK(code == 1 && times == 1 && strstr(output, "the last word"), "code %d, said %d times: %s", code, times,
              output);
        free(output);
    }
}

// Writes a fixture of byte-level BPE without the tokens of the bytes that UTF-8 never has, as GPT-NeoX's vocabulary lacks
// them: their pieces have other names.
static void tokens_put_no_bytes(const char* name, const char* fixture) {
    char* path = format_string("%s/%s", tokens_fixtures, fixture);
    size_t size = 0;
    char* text = read_fully(path, &size);
    StringBuilder sb = {0};
    int found = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned byte = i + 5 <= size && memcmp(text + i, "\"\xc3", 2) == 0 && memcmp(text + i + 3, "\":", 2) == 0
                            ? (unsigned char)text[i + 2] + 0x40u
                            : 0;
        if (byte != 0xc0 && byte != 0xc1 && byte < 0xf5) {
            sb_append(&sb, text + i, 1);
            continue;
        }
        sb_printf(&sb, "\"no_%02x\"", byte);
        i += 3;
        found++;
    }
    CHECK(found == 13, "%s: %d of the 13 bytes", fixture, found);
    tokens_put(name, sb.data, sb.size);
    free(sb.data);
    free(text);
    free(path);
}

// A vocabulary without bytes that UTF-8 never has is taken; a text that has one is refused by its file and document, and
// any other text, invalid as it may be, comes back.
static void test_tokens_no_bytes(void) {
    tokens_dir = test_directory("tokens");
    tokens_put_no_bytes("@/few.json", "gpt-neox.json");
    tokens_put("@/latin",
               "Gr\xf6\xdf"
               "e",
               5);
    tokens_put("@/utf8", "caf\xc3\xa9 \x80\xe4\xf4 \xc3", 11);
    tokens_put("@/framed",
               "\2\0\0\0\0\0\0\0ab\0\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0a\xff"
               "b",
               29);
    static const char* const names[] = {"@/utf8", "@/utf8", "@/latin"};
    tokens_put_bytes("@/bytes.bin", names, 3, 0, 30, 30);
    static const struct {
        TokensRun run;
        const char* words;
    } cases[] = {
        {{"--tokenizer @/few.json --out @/out.bin @/utf8 @/latin", 0, 0, NULL},
         "/latin: document 1 cannot be encoded: |/few.json has no token for the byte 0xf6"},
        {{"--tokenizer @/few.json --out @/out.bin --framed 1 -", 0, 0, "@/framed"},
         "standard input: document 2 cannot be encoded: |no token for the byte 0xff"},
        {{"--tokenizer @/few.json --out @/out.bin --bytes 1 @/bytes.bin", 0, 0, NULL},
         "/bytes.bin: document 2 cannot be encoded: |0xf6"},
    };
    for (size_t i = 0; i < 3; i++) {
        expect_death(cases[i].run.line, tokens_run_child, (void*)&cases[i].run, cases[i].words);
    }
    tokens_good("--tokenizer @/few.json --out @/out.bin @/utf8", 0, NULL);
    tokens_good(TOKENS_NEOX "--out @/all.bin @/utf8", 0, NULL);
    tokens_same_files("@/out.bin", "@/all.bin");
    directory_remove_tree(tokens_dir);
    free(tokens_dir);
}

// Errors in words; what stood at the name stays, nothing else is left.
static void test_tokens_program_errors(void) {
    tokens_dir = test_directory("tokens");
    tokens_put("@/text", "some text", 9);
    tokens_put("@/out.bin", "what was there", 14);
    tokens_put("@/cut", "\5\0\0\0\0\0\0\0abc", 11);
    tokens_put("@/cut2", "\5\0\0", 3);
    tokens_put("@/unigram.json", "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"</s>\", 0]]}}", 54);
    tokens_put("@/no_end.json",
               "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}, \"pre_tokenizer\": {\"type\": \"ByteLevel\"}}",
               84);
    static const char few[] = "{\"model\": {\"vocab\": {\"a\": 0, \"<|endoftext|>\": 1}, \"merges\": []}, "
                              "\"pre_tokenizer\": {\"type\": \"ByteLevel\"}}";
    tokens_put("@/few.json", few, sizeof few - 1);
    tokens_put("@/more_00002.bin", "", 0);
    static const char* const text_name[] = {"@/text"};
    tokens_put_bytes("@/short.bin", text_name, 1, 0, 7, 10);
    unsigned char high[SHARD_HEADER_BYTES + 2] = {0};
    shard_header(high, 2, 1);
    memcpy(high + SHARD_HEADER_BYTES, "so", 2);
    tokens_put("@/high.bin", (const char*)high, sizeof high);
    static const struct {
        TokensRun run;
        const char* words;
    } cases[] = {
        {{TOKENS_NEOX "--out @/out.bin @/text", 1026, 0, NULL}, "out.bin: could not be written|File too large"},
        {{TOKENS_NEOX "--out @/out.bin @/text", 100, 0, NULL}, "out.bin: could not be written|File too large"},
        {{TOKENS_NEOX "--out @/out.bin @/nowhere", 0, 0, NULL}, "nowhere: the text could not be opened"},
        {{TOKENS_NEOX "--out @/out.bin @", 0, 0, NULL}, "the text could not be opened: expected a regular file, found"},
        {{TOKENS_NEOX "--out @/text @/text", 0, 0, NULL}, "the shard would overwrite this text"},
        {{TOKENS_NEOX "--out @/out.bin --framed 1 @/cut", 0, 0, NULL}, "2 bytes more of document 0|cut off"},
        {{TOKENS_NEOX "--out @/out.bin --framed 1 @/cut2", 0, 0, NULL}, "length of document 0|found 3"},
        {{TOKENS_NEOX "--out /dev/null @/text", 0, 0, NULL}, "expected the name of a file, found a character device"},
        {{TOKENS_NEOX "--out @/text/x @/text", 0, 0, NULL}, "could not be made"},
        {{"--tokenizer @/nowhere --out @/out.bin @/text", 0, 0, NULL}, "--tokenizer|nowhere|No such file"},
        {{"--tokenizer @/unigram.json --out @/out.bin @/text", 0, 0, NULL}, "cannot encode|Unigram"},
        {{"--tokenizer @/no_end.json --out @/out.bin @/text", 0, 0, NULL}, "a token that ends a text|eos_token"},
        {{"--tokenizer @/few.json --out @/out.bin @/text", 0, 0, NULL}, "a token for every byte of UTF-8|0x00"},
        {{TOKENS_NEOX "--out @/more.bin @/text", 0, 0, NULL}, "more.bin: expected no shards|more_00002.bin"},
        {{TOKENS_NEOX "--out @/out.bin @/text", 0, 0, NULL, 8}, "document 0 has 9 bytes|more than 8"},
        {{"--tokenizer @ --out @/out.bin @/text", 0, 0, NULL}, "found none of them"},
        {{TOKENS_NEOX "--out @/out.bin", 0, 0, NULL}, "texts to read"},
        {{TOKENS_NEOX "@/text", 0, 0, NULL}, "--out FILE"},
        {{TOKENS_NEOX "--out @/out.bin --special maybe @/text", 0, 0, NULL}, "--special: expected text or parse"},
        {{TOKENS_NEOX "--out @/out.bin --threads 0 @/text", 0, 0, NULL}, "--threads: expected a whole number"},
        {{TOKENS_NEOX "--out @/out.bin --framed yes @/text", 0, 0, NULL}, "--framed: expected 0 or 1"},
        {{TOKENS_NEOX "--out @/out.bin --seed 1 @/text", 0, 0, NULL}, "unknown option --seed"},
        {{TOKENS_NEOX "--out @/out.bin --bytes 1 @/text", 0, 0, NULL},
         "text: --bytes 1: expected a shard of build/bytes"},
        {{TOKENS_NEOX "--out @/out.bin --bytes 1 @/short.bin", 0, 0, NULL},
         "short.bin: expected 3 tokens more|cut off"},
        {{TOKENS_NEOX "--out @/out.bin --bytes 1 @/high.bin", 0, 0, NULL}, "high.bin|tokens from 0 to 256|found 28531"},
        {{TOKENS_NEOX "--out @/out.bin --bytes 1 --framed 1 @/text", 0, 0, NULL}, "one of --framed 1 and --bytes 1"},
        {{TOKENS_NEOX "--count 1 @/text", 0, 0, NULL}, "--count 1: expected neither --out nor texts"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        expect_death(cases[i].run.line, tokens_run_child, (void*)&cases[i].run, cases[i].words);
    }
    char* path = tokens_expand("@/out.bin");
    size_t size = 0;
    char* text = read_fully(path, &size);
    CHECK(text && size == 14 && memcmp(text, "what was there", 14) == 0, "%s has changed", path);
    int count = 0;
    char** names = directory_names(tokens_dir, &count);
    CHECK(count == 10, "%d files are left, expected 10", count);
    directory_free_names(names);
    free(text);
    free(path);
    directory_remove_tree(tokens_dir);
    free(tokens_dir);
}

// Starts tokens in a process that reads the FIFO @/pipe; returns when it has opened that, *writer = its other end.
static pid_t tokens_start(TokensRun* run, int* writer) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0) { die("fork: %s", strerror(errno)); }
    if (pid == 0) {
        test_state.name = NULL;
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 1);
        tokens_run_child(run);
        _exit(0);
    }
    char* path = tokens_expand("@/pipe");
    double start = now_seconds();
    do {
        usleep(1000);
        *writer = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    } while (*writer < 0 && errno == ENXIO && waitpid(pid, NULL, WNOHANG) == 0 && now_seconds() - start < 60);
    CHECK(*writer >= 0, "%s: nobody reads it: %s", path, strerror(errno));
    free(path);
    return pid;
}

static int tokens_wait(pid_t pid) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Two runs on one name: the second is refused while the first is there, however it is called, and nothing of the first
// is touched; a run that was killed keeps nobody out.
static void test_tokens_lock(void) {
    tokens_dir = test_directory("tokens");
    tokens_put("@/text", "some text", 9);
    tokens_put("@/more", " and more", 9);
    char *pipe = tokens_expand("@/pipe"), *lock = tokens_expand("@/out.bin.lock"), *link = tokens_expand("@/link.bin");
    CHECK(mkfifo(pipe, 0666) == 0 && symlink("out.bin", link) == 0, "%s: %s", pipe, strerror(errno));
    TokensRun run = {TOKENS_NEOX "--threads 1 --out @/out.bin @/text @/pipe", 0, 0, NULL, 0},
              second = {TOKENS_NEOX "--out @/out.bin @/more", 0, 0, NULL, 0},
              linked = {TOKENS_NEOX "--out @/link.bin @/more", 0, 0, NULL, 0};
    int writer = -1;
    pid_t pid = tokens_start(&run, &writer);
    char* words = format_string("/out.bin is in use by process %ld; wait for it, or choose another --out", (long)pid);
    expect_death("a second run", tokens_run_child, &second, words);
    expect_death("a link", tokens_run_child, &linked, "/link.bin is in use by process");
    tokens_good(TOKENS_NEOX "--out @/other.bin @/more", 0, NULL);  // another name
    CHECK(write(writer, " and more", 9) == 9, "%s", strerror(errno));
    close(writer);
    int code = tokens_wait(pid);
    CHECK(code == 0 && access(lock, F_OK) != 0, "the first run: exit code %d, its lock is %s", code,
          access(lock, F_OK) ? "gone" : "there");
    tokens_good(TOKENS_NEOX "--out @/both.bin @/text @/more", 0, NULL);
    tokens_same_files("@/out.bin", "@/both.bin");
    static const int ends[] = {SIGTERM, SIGKILL};
    for (int i = 0; i < 2; i++) {
        pid = tokens_start(&run, &writer);
        kill(pid, ends[i]);
        code = tokens_wait(pid);
        close(writer);
        CHECK(code == 128 + ends[i] && (access(lock, F_OK) == 0) == (ends[i] == SIGKILL),
              "signal %d: exit code %d, the lock is %s", ends[i], code, access(lock, F_OK) ? "gone" : "there");
    }
    tokens_good(TOKENS_NEOX "--out @/out.bin @/more", 0, NULL);
    CHECK(access(lock, F_OK) != 0, "the lock is still there");
    free(pipe), free(lock), free(link), free(words);
    directory_remove_tree(tokens_dir);
    free(tokens_dir);
}

static void tokens_tests(void) {
    RUN(test_tokens_fixtures);
    RUN(test_tokens_cuts);
    RUN(test_tokens_first_mark);
    RUN(test_tokens_sentence_ends);
    RUN(test_tokens_special_text);
    RUN(test_tokens_fused_words);
    RUN(test_tokens_long_normalizer);
    RUN(test_tokens_round_trip);
    RUN(test_tokens_long_runs);
    RUN(test_tokens_heap);
    RUN(test_tokens_nfc);
    RUN(test_tokens_bad_models);
    RUN(test_tokens_program);
    RUN(test_tokens_of_bytes);
    RUN(test_tokens_no_bytes);
    RUN(test_tokens_program_errors);
    RUN(test_tokens_lock);
    RUN(test_tokens_signals);
    RUN(test_tokens_several_errors);
}

#endif

// test_generate.h - --generate as its user runs it, and what of a text may be shown. Included after test_program.h.
#ifndef PONDER_TEST_GENERATE_H
#define PONDER_TEST_GENERATE_H

#include "test_program.h"

// What is certain of a text that goes on: neither the beginning of a character nor that of a stop text.
static void test_generate_certain(void) {
    static const char* const stops[] = {"END", "ENOUGH", "\n\n", "\xe2\x82\xac"};
    static const struct {
        const char* text;
        int stops;
        size_t certain;
    } cases[] = {
        {"", 0, 0},
        {"abc", 0, 3},
        {"abc", 3, 3},
        {"abE", 3, 2},
        {"abEN", 2, 2},
        {"abENO", 2, 2},
        {"abENx", 2, 5},
        {"EN", 2, 0},
        {"a\n", 3, 1},
        {"a\n", 2, 2},
        {"a\xc3", 0, 1},
        {"a\xc3\xa9", 0, 3},
        {"a\xe2\x82", 0, 1},
        {"a\xe2\x82\xac", 0, 4},
        {"a\xf0\x9f\x98", 0, 1},
        {"a\xf0\x9f\x98\x80", 0, 5},
        {"a\x80\x80\x80\x80", 0, 5},  // no character at all
        {"a\xff", 0, 2},
        {"ab\xe2\x82", 4, 2},
        {"a\xc3\xa9"
         "E",
         2, 3},
        {"\xc3"
         "EN",
         2, 0},  // the first byte of a character may still be waiting in front of what is held
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Generation g;
        Generated one;
        memset(&g, 0, sizeof g);
        memset(&one, 0, sizeof one);
        g.stops = (const char**)(void*)stops, g.stop_count = cases[i].stops;
        sb_append(&one.bytes, cases[i].text, strlen(cases[i].text));
        size_t certain = generate_certain(&g, &one);
        CHECK(certain == cases[i].certain, "case %zu: %zu bytes, expected %zu", i, certain, cases[i].certain);
        free(one.bytes.data);
    }
}

// The text is cut in front of the first stop text, which may begin in what came before.
static void test_generate_stops(void) {
    static const char* const stops[] = {"END", "DE", "x"};
    static const struct {
        const char *before, *more, *left;
    } cases[] = {{"abEN", "D", "ab"},   {"abEN", "DEND", "ab"},   {"abE", "ND", "ab"},
                 {"a", "bDENDx", "ab"}, {"aENDb", "c", "aENDbc"},  // what is long past was looked at then
                 {"", "x", ""},         {"ab", "cd", "abcd"},     {"abEN", "EN", "abENEN"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Generation g;
        Generated one;
        memset(&g, 0, sizeof g);
        memset(&one, 0, sizeof one);
        g.stops = (const char**)(void*)stops, g.stop_count = 3, g.longest_stop = 3;
        sb_append(&one.bytes, cases[i].before, strlen(cases[i].before));
        sb_append(&one.bytes, cases[i].more, strlen(cases[i].more));
        int stopped = generate_stops(&g, &one, strlen(cases[i].before));
        size_t n = strlen(cases[i].left);
        CHECK(one.bytes.size == n && memcmp(one.bytes.data, cases[i].left, n) == 0, "case %zu: %zu bytes are left", i,
              one.bytes.size);
        CHECK(stopped == (strlen(cases[i].before) + strlen(cases[i].more) > n), "case %zu: stopped %d", i, stopped);
        free(one.bytes.data);
    }
}

// A text of the tokenizer's own may come first, and several tokens may end a text.
static void test_generate_first(void) {
    static char* const pieces[] = {(char*)"<s>", (char*)"b", (char*)"</s>"};
    static const char template_s[] =
        "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\", "
        "\"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}]}";
    char *json_alone = format_string("{\"post_processor\": %s}", template_s),
         *json_second =
             format_string("{\"post_processor\": {\"processors\": [{\"type\": \"ByteLevel\"}, %s]}}", template_s);
    const struct {
        const char *json, *model, *config;
        int first;
    } cases[] = {
        {NULL, NULL, NULL, -1},
        {NULL, "a model", NULL, 0},
        {NULL, "a model", "{\"add_bos_token\": false}", -1},
        {NULL, "a model", "{\"add_bos_token\": null}", 0},
        {json_alone, NULL, NULL, 0},
        {json_alone, "a model", NULL, 0},
        {json_second, NULL, NULL, 0},
        {json_second, NULL, "{\"add_bos_token\": false}", -1},
        {"{\"post_processor\": null}", NULL, "{\"add_bos_token\": true}", 0},
        {"{\"post_processor\": null}", "a model", NULL, -1},
        {"{\"post_processor\": {\"processors\": null}}", NULL, NULL, -1},
        {"{\"post_processor\": {\"single\": [{\"Sequence\": {\"id\": \"A\"}}, {\"SpecialToken\": {\"id\": \"<s>\"}}]}}",
         NULL, "{}", -1},
        {"{\"post_processor\": {\"single\": [{\"SpecialToken\": {\"id\": \"none\"}}]}}", NULL, "[]", -1}};
    TokenizerPiece list[3];
    memset(list, 0, sizeof list);
    for (int i = 0; i < 3; i++) { list[i].text = pieces[i], list[i].size = strlen(pieces[i]); }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Tokenizer tokenizer;
        memset(&tokenizer, 0, sizeof tokenizer);
        tokenizer.kind = TOKENIZER_BPE, tokenizer.V = tokenizer.count = 3, tokenizer.pieces = list;
        tokenizer.eot = 2;
        const char* const names[] = {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"};
        const char* const texts[] = {cases[i].json, cases[i].model, cases[i].config};
        for (int k = 0; k < 3; k++) {
            CheckpointFile file = {names[k], texts[k], texts[k] ? strlen(texts[k]) : 0};
            if (texts[k]) { tokenizer.files[tokenizer.file_count++] = file; }
        }
        int first = generate_first(&tokenizer);
        CHECK(first == cases[i].first, "case %zu: begins with %d, expected %d", i, first, cases[i].first);
        tokenizer.V = 0;
        CHECK(generate_first(&tokenizer) == -1, "case %zu: a token that the model does not have", i);
    }
    free(json_alone);
    free(json_second);
}

// Tokens that end a text: the tokenizer's, and those of generation_config.json or else of config.json that are tokens.
static void test_generate_find_ends(void) {
    static const struct {
        const char *generation, *config;
        int eot, count, ends[3];
    } cases[] = {{NULL, "{}", 2, 1, {2}},
                 {NULL, "{}", -1, 0, {0}},
                 {NULL, "{\"eos_token_id\": 5}", -1, 1, {5}},
                 {"{\"eos_token_id\": [4, 6]}", "{\"eos_token_id\": 5}", 2, 3, {2, 4, 6}},
                 {"{\"eos_token_id\": 0}", "{\"eos_token_id\": 5}", -1, 1, {0}},
                 {"{}", "{\"eos_token_id\": [5]}", -1, 1, {5}},
                 {NULL, "{\"eos_token_id\": [7, -1, 1.5, 1e30, \"5\", null, 6]}", -1, 1, {6}}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Generation g;
        Trainer* t = (Trainer*)xalloc(1, sizeof(Trainer), "a trainer");
        Tokenizer tokenizer;
        memset(&g, 0, sizeof g);
        memset(&tokenizer, 0, sizeof tokenizer);
        tokenizer.V = 7, tokenizer.eot = cases[i].eot;
        g.t = t, t->tokenizer = &tokenizer;
        t->generation = (char*)cases[i].generation,
        t->generation_size = cases[i].generation ? strlen(cases[i].generation) : 0;
        t->config = json_parse(cases[i].config, strlen(cases[i].config), "config.json");
        generate_find_ends(&g);
        CHECK(g.end_count == cases[i].count, "case %zu: %d ends", i, g.end_count);
        for (int k = 0; k < g.end_count && k < cases[i].count; k++) {
            CHECK(g.ends[k] == cases[i].ends[k], "case %zu: end %d", i, g.ends[k]);
        }
        json_free(t->config);
        free(t);
    }
}

static const char* generate_folder;  // with a checkpoint step_00000003

static void generate_setup(void) {
    if (generate_folder) { return; }
    const char* arguments = program_setup();
    char* out = format_string("%s/generate", program_folder);
    char* command = format_string(TRAIN " %s --ponder 2 --steps 3 --sample-tokens 0 --out %s", arguments, out);
    must(command);
    free(command);
    generate_folder = out;
    char* path = format_string("%s/prompts.jsonl", out);
    StringBuilder sb = {0};
    for (int i = 0; i < 6; i++) {
        sb_printf(&sb, "{\"text\": \"int f%d(%.*s\"}\n%s", i, 5 * i, "abcdefghijklmnopqrstuvwxyz", i == 2 ? "\n" : "");
    }
    write_bytes(path, sb.data, sb.size);
    free(sb.data);
    free(path);
    // A model that knows no end of text, so that a text's length does not hang on what was learnt.
    command =
        format_string("cd %s && cp -r step_00000003 endless && cd endless && "
                      "sed -i 's/<|endoftext|>/<|another|>/; s/\"eos_token\": \"[^\"]*\"/\"eos_token\": null/' "
                      "tokenizer*.json && "
                      "sed -i 's/\"eos_token_id\": 256/\"eos_token_id\": null/' config.json generation_config.json",
                      out);
    must(command);
    free(command);
}

// A command on that checkpoint: % is the program with its model, ^ with the one that does not end, @ the folder.
static char* generate_command(const char* line) {
    StringBuilder sb = {0};
    for (const char* p = line; *p; p++) {
        if (*p == '@') {
            sb_printf(&sb, "%s", generate_folder);
        } else if (*p == '%' || *p == '^') {
            sb_printf(&sb, TRAIN " --model %s/%s --generate", generate_folder, *p == '%' ? "step_00000003" : "endless");
        } else {
            sb_append(&sb, p, 1);
        }
    }
    return sb.data;
}
static void generate_must(const char* line) {
    char* command = generate_command(line);
    must(command);
    free(command);
}
static void generate_fails(int code, const char* words, const char* line) {
    char* command = generate_command(line);
    expect_exit(code, words, command);
    free(command);
}

// Lines do not depend on batch, threads, instruction set, or on the pieces in which prompts are read; they are JSON, in
// the order of prompts, and say what the bytes of one prompt say.
static void test_generate_same(void) {
    generate_setup();
    generate_must(
        "% --prompt-file @/prompts.jsonl --sample-tokens 30 --seed 3 --top-p 0.9 --repetition-penalty 1.2 >@/1 2>@/e");
    generate_must("% --prompt-file @/prompts.jsonl --sample-tokens 30 --seed 3 --top-p 0.9 --repetition-penalty 1.2 "
                  "--batch 4 >@/2 2>@/e");
    generate_must("OMP_NUM_THREADS=1 % --prompt-file @/prompts.jsonl --sample-tokens 30 --seed 3 --top-p 0.9 "
                  "--repetition-penalty 1.2 --batch 9 >@/3 2>@/e");
    if (program_runs_with("PONDER_ISA=portable")) {
        generate_must("PONDER_ISA=portable % --prompt-file @/prompts.jsonl --sample-tokens 30 --seed 3 --top-p 0.9 "
                      "--repetition-penalty 1.2 >@/4 2>@/e && cmp @/1 @/4");
    }
    generate_must("cmp @/1 @/2 && cmp @/1 @/3");
    // Where texts end one after the other, the first ones first, and others take their rows.
    generate_must("sort -r @/prompts.jsonl >@/back.jsonl && for b in 1 2 3 4; do ^ --prompt-file @/back.jsonl "
                  "--context 36 --seed 3 "
                  "--batch $b >@/b$b 2>@/e && cmp @/b1 @/b$b || exit 1; done");
    // A prompt that is longer than the first has as much room as behind one of its own length.
    if (TEST_ARCHITECTURE.any_length) {
        generate_must(
            "L='tail -n 1'; { head -n 1 @/prompts.jsonl; $L @/prompts.jsonl; } >@/short.jsonl && "
            "{ $L @/prompts.jsonl; $L @/prompts.jsonl; } >@/long.jsonl && for f in short long; do ^ --prompt-file "
            "@/$f.jsonl --batch 2 --sample-tokens 90 --context 200 2>@/e | $L >@/$f || exit 1; "
            "grep -o 'caches [0-9.]* MB' @/e >>@/$f || exit 1; done; "
            "cmp @/short @/long && ! grep -q 'ended where the context' @/e");
    }
    // More texts at a time than any of them has tokens.
    generate_must("for i in $(seq 300); do echo '{\"text\": \"int\"}'; done >@/many.jsonl; "
                  "O='--prompt-file @/many.jsonl --sample-tokens 1 --seed 3'; % $O >@/b1 2>@/e && "
                  "% $O --batch 300 >@/b2 2>@/e && cmp @/b1 @/b2 && [ $(wc -l <@/b1) = 300 ]");
    char* path = format_string("%s/1", generate_folder);
    size_t size = 0;
    char *text = read_fully(path, &size), *line = text;
    for (int i = 0; i < 6 && line; i++) {
        char* end = strchr(line, '\n');
        CHECK(end != NULL, "line %d has no end", i);
        if (!end) { break; }
        Json* json = json_parse(line, (size_t)(end - line), path);
        CHECK(json_get_int(json, "index", -1, path) == i, "line %d has another index", i);
        const Json* tokens = json_get(json, "tokens");
        CHECK(tokens && tokens->type == JSON_ARRAY && tokens->count > 0 && tokens->count <= 30, "line %d: tokens", i);
        const char* stop = json_get_string(json, "stop", "", path);
        const int count = tokens ? tokens->count : 0, ends = count && tokens->items[count - 1]->number == 256;
        const char* want = ends ? "eot" : count == 30 ? "length" : "context";  // the 30th may end a text as well
        CHECK(strcmp(want, stop) == 0, "line %d, %d tokens, stops by %s", i, count, stop);
        json_free(json);
        line = end + 1;
    }
    CHECK(line && *line == 0, "six lines are there");
    free(text);
    free(path);
    // The bytes alone: of the first prompt, from each place that a prompt can come from.
    generate_must("% --prompt 'int f0(' --sample-tokens 30 --seed 3 >@/a 2>@/e");
    generate_must("printf 'int f0(' >@/p.txt && % --prompt-file @/p.txt --sample-tokens 30 --seed 3 >@/b 2>@/e");
    generate_must("printf 'int f0(' | % --sample-tokens 30 --seed 3 >@/c 2>@/e");
    generate_must("% --prompt 'int f0(' --sample-tokens 30 --seed 4 >@/d 2>@/e");
    generate_must("cmp @/a @/b && cmp @/a @/c && ! cmp -s @/a @/d");
    generate_must(
        TRAIN " --resume --out @ --generate --prompt 'int f0(' --sample-tokens 30 --seed 3 >@/b 2>@/e && cmp @/a @/b");
    generate_must("% --steps-at-inference 2 --prompt 'int f0(' --sample-tokens 30 --seed 3 >@/b 2>@/e && cmp @/a @/b");
    generate_must("% --steps-at-inference 0 --prompt 'int f0(' --sample-tokens 30 --temperature 0 >@/b 2>@/e");
    generate_must("grep -q '3 pass' @/e && exit 1; grep -q '1 pass)' @/e");
}

// Each prompt has draws of its own: at a temperature that leaves nothing but them, equal prompts have nothing in common, not
// even some tokens later.
static void test_generate_draws(void) {
    enum { TEXTS = 3, COUNT = 40, SHIFT = 3 };
    generate_setup();
    generate_must("for i in 1 2 3; do echo '{\"text\": \"int\"}'; done >@/equal.jsonl; "
                  "^ --prompt-file @/equal.jsonl --sample-tokens 40 --temperature 1000000 --batch 2 >@/a 2>@/e");
    char* path = format_string("%s/a", generate_folder);
    size_t size = 0;
    char *text = read_fully(path, &size), *line = text;
    int tokens[TEXTS][COUNT];
    for (int i = 0; i < TEXTS && line; i++) {
        Json* json = json_parse(line, strcspn(line, "\n"), path);
        const Json* list = json_get(json, "tokens");
        CHECK(list && list->count == COUNT, "text %d: %d tokens", i, list ? list->count : -1);
        for (int n = 0; n < COUNT; n++) { tokens[i][n] = list && n < list->count ? (int)list->items[n]->number : -1; }
        json_free(json);
        line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL;
    }
    for (int i = 0; i < TEXTS; i++) {
        for (int j = 0; j < TEXTS; j++) {
            for (int shift = 0; shift <= SHIFT; shift++) {
                int same = 0;  // by chance 1 of 257
                for (int n = shift; n < COUNT; n++) { same += tokens[i][n] == tokens[j][n - shift]; }
                CHECK(same <= 4 || (i == j && shift == 0), "texts %d and %d, %d later: %d tokens are the same", i, j,
                      shift, same);
            }
        }
    }
    free(text);
    free(path);
}

// Options of the distribution: what leaves one token is greedy, however hot; a large penalty lets no token come again.
static void test_generate_options(void) {
    generate_setup();
    generate_must(
        "G='^ --prompt int --batch 2 --sample-tokens 30'; H=\"$G --temperature 1000000\"; "
        "$G --temperature 0 >@/a 2>@/e && $H --top-k 1 >@/b 2>@/e && cmp @/a @/b && $H --top-p 1e-9 >@/b 2>@/e && "
        "cmp @/a @/b && $H >@/b 2>@/e && ! cmp -s @/a @/b && "
        "$G --temperature 0 --repetition-penalty 1000 >@/b 2>@/e && for f in a b; do sed 's/.*tokens\": .//; s/].*//' "
        "@/$f | "
        "tr -s ', ' '\\n\\n' | sort -u | grep -c .; done >@/c; [ $(head -n 1 @/c) -lt 30 ] && [ $(tail -n 1 @/c) = 30 "
        "]");
    // What is given in vain is named, and nothing else.
    generate_must("% --prompt a --sample-tokens 3 --lr 1e-3 --seq 16 --page x >@/a 2>@/e && "
                  "grep -qx 'warning: --seq, --lr, --page: not used by --generate' @/e");
    generate_must("% --prompt a --sample-tokens 3 --batch 2 --temperature 2 --top-k 5 --top-p 0.9 --seed 3 --stop b "
                  "--repetition-penalty 2 --context 40 >@/a 2>@/e && ! grep -q warning @/e");
    generate_must(TRAIN " --model @/step_00000003 --explain --page @/a.html --candidates 2 --context 40 --prompt a "
                        "--top-k 5 --steps 3 >@/a 2>@/e && "
                        "grep -qx 'warning: --steps, --top-k: not used by --explain' @/e");
}

// Rounds all tensors of two dimensions in a file of weights.
static void round_file(const char* path) {
    SafeFile* file = safetensors_open(path);
    FILE* out = fopen(path, "r+b");
    for (int i = 0; i < file->count; i++) {
        const SafeTensor* t = &file->tensors[i];
        if (t->ndim != 2) { continue; }
        float* x = (float*)xalloc(t->count, sizeof(float), "a tensor");
        safetensors_read(file, t, x);
        for (size_t j = 0; j < t->count; j++) { x[j] = round_bf16(x[j]); }
        int there = fseek(out, (long)(file->data_start + t->begin), SEEK_SET) == 0;
        CHECK(there && fwrite(x, sizeof(float), t->count, out) == t->count, "%s: not written", t->name);
        free(x);
    }
    CHECK(fclose(out) == 0, "%s: not written", path);
    safetensors_close(file);
}

// --weights bf16 is what a checkpoint of rounded weights gives, whatever reads it, and says what it changes.
static void test_generate_bf16(void) {
    generate_setup();
    generate_must("cp -r @/step_00000003 @/rounded");
    char* path = format_string("%s/rounded/model.safetensors", generate_folder);
    round_file(path);
    free(path);
    generate_must(TRAIN
                  " --model @/rounded --generate --prompt-file @/prompts.jsonl --sample-tokens 30 --seed 3 >@/1 2>@/e");
    generate_must("% --weights bf16 --prompt-file @/prompts.jsonl --sample-tokens 30 --seed 3 --batch 4 >@/2 2>@/f && "
                  "cmp @/1 @/2");
    generate_must("grep -q 'weights in bf16: .* MB instead of .* MB; rounding changes a number by 0.1' @/f && "
                  "grep -q 'after [0-9]* tokens of the first prompt logits differ .* of the probability' @/f && ! "
                  "grep -q bf16 @/e");
    generate_must(
        "% --weights bf16 --prompt-file @/prompts.jsonl --sample-tokens 30 --seed 3 >@/2 2>@/f && cmp @/1 @/2");
    if (program_runs_with("PONDER_ISA=portable")) {
        generate_must(
            "PONDER_ISA=portable % --weights bf16 --prompt-file @/prompts.jsonl --sample-tokens 30 --seed 3 >@/2 "
            "2>@/f && cmp @/1 @/2");
    }
    generate_must("% --weights fp32 --prompt a --sample-tokens 3 >@/2 2>@/f && ! grep -q 'in bf16' @/f");
    generate_must(TRAIN " --model @/rounded --explain --prompt 'int f0(' --page @/a.html >@/1 2>@/e");
    generate_must(TRAIN
                  " --model @/step_00000003 --explain --weights bf16 --prompt 'int f0(' --page @/a.html >@/2 2>@/f && "
                  "sed 1,2d @/1 >@/3 && sed 1,2d @/2 | cmp - @/3 && grep -q 'weights in bf16' @/f");
    char* data = format_string("--val %s/val.bin --seq 48 --batch 3 --val-batches 2 --eval-only", program_folder);
    char* line = format_string(TRAIN " --model @/rounded %s | grep val_loss >@/1 && " TRAIN
                                     " --model @/step_00000003 --weights bf16 %s >@/e && "
                                     "grep val_loss @/e | cmp - @/1 && grep -q 'weights in bf16' @/e",
                               data, data);
    generate_must(line);
    free(line);
    free(data);
}

// Where texts end.
static void test_generate_ends(void) {
    generate_setup();
    // As many tokens as are asked for, or as the context has room for: the prompts have 5, 6 and 7.
#define COUNT "sed 's/.*tokens\": .//; s/].*//' @/a | tr -cd ',\\n' | awk '{ print length + 1 }' | tr '\\n' ' '"
    generate_must(
        "for t in 12345 123456 1234567; do echo \"{\\\"text\\\": \\\"$t\\\"}\"; done >@/three.jsonl; "
        "^ --prompt-file @/three.jsonl --sample-tokens 7 --batch 2 >@/a 2>@/e && [ \"$(" COUNT
        ")\" = '7 7 7 ' ] && ^ --prompt-file @/three.jsonl --sample-tokens 7 --context 12 >@/a 2>@/e && [ \"$(" COUNT
        ")\" = '7 6 5 ' ]");
#undef COUNT
    generate_must("^ --prompt 'int f' --sample-tokens 7 --batch 2 >@/a 2>@/e && grep -q '\"stop\": \"length\"' @/a");
    generate_must("^ --prompt 'int f' --sample-tokens 99 --context 12 --batch 2 >@/a 2>@/e && grep -q '\"stop\": "
                  "\"context\"' @/a");
    generate_must("grep -q '1 of 1 texts ended where the context of 12 tokens was full' @/e");
    generate_must("^ --prompt 'int f' --sample-tokens 99 --context 12 >@/a 2>@/e && grep -q 'the context of 12 tokens "
                  "is full' @/e && "
                  "[ $(wc -c <@/a) -le 7 ]");
    generate_must("^ --prompt 'int f' --sample-tokens 99 --context 5 --batch 2 >@/a 2>@/e && "
                  "[ \"$(cat @/a)\" = '{\"index\": 0, \"text\": \"\", \"tokens\": [], \"stop\": \"context\"}' ]");
    generate_must("^ --prompt 'int f' --sample-tokens 0 >@/a 2>@/e && [ ! -s @/a ]");
    // The end of a text is the last of its tokens and no part of what is shown; by chance one comes among 257.
    generate_must(
        "% --prompt-file @/three.jsonl --sample-tokens 3000 --context 4000 --temperature 1000000 --batch 2 >@/a "
        "2>@/e && [ $(grep -c '[0-9], 256\\], \"stop\": \"eot\"}' @/a) = 3 ] && ! grep -q endoftext @/a");
    // The beginning that a tokenizer asks for is a token of the prompt, once.
    generate_must(
        "cp -r @/step_00000003 @/begun && sed -i '1s/{/{\\n  \"add_bos_token\": true,/' @/begun/tokenizer_config.json");
    generate_must("for p in int '<|endoftext|>int'; do " TRAIN
                  " --model @/begun --explain --page @/p.html --prompt \"$p\" >@/a && "
                  "grep -q 'over 4 tokens$' @/a && grep -q '0 \"<|endoftext|>\" then \"i\"' @/a || exit 1; done");
    // A stop text: any byte that comes, among several; neither it nor what follows is shown.
    generate_must("% --prompt 'int f' --sample-tokens 20 --seed 8 >@/a 2>@/e && "
                  "s=$(tail -c +4 @/a | head -c 1 | tr '\\n\\0' 'xx') && head -c 3 @/a | tr '\\n\\0' 'xx' | grep -qF "
                  "-- \"$s\" || "
                  "{ % --prompt 'int f' --sample-tokens 20 --seed 8 --stop nothing --stop=\"$s\" >@/b 2>@/e && "
                  "[ $(wc -c <@/b) -le 20 ]; }");
}

// steps_at_inference of config.json: what --steps-at-inference does, unless that is given too; in training it is only kept.
static void test_generate_steps(void) {
    generate_setup();
    generate_must("cp -r @/step_00000003 @/other && "
                  "sed -i '1s/{/{\\n  \"steps_at_inference\": 1,/' @/other/config.json");
#define OTHER "O='" TRAIN " --model @/other' S=steps_at_inference P='--prompt int --sample-tokens 30 --seed 3'; "
    generate_must(OTHER "% $P >@/2 2>@/e && % $P --steps-at-inference 1 >@/1 2>@/e && ! cmp -s @/1 @/2 && "
                        "$O --generate $P >@/a 2>@/e && cmp @/a @/1 && grep -q '(2 passes)' @/e && "
                        "$O --generate $P --steps-at-inference 2 >@/a 2>@/e && cmp @/a @/2");
    generate_must(OTHER "O=\"$O --explain --prompt int --page @/p.html\"; $O >@/a 2>@/e && grep -q '2 passes (S = 1)' "
                        "@/a && grep -q \"S is $S of config.json\" @/a && $O --steps-at-inference 0 >@/a 2>@/e && "
                        "grep -q '1 pass (S = 0)' @/a && grep -q 'S is that of --steps-at-inference' @/a");
    generate_must(OTHER "O=\"$O --train @/../train.bin --val @/../val.bin --seq 48 --batch 3 --val-batches 2\"; "
                        "$O --eval-only >@/a && grep -q 'val_loss_pass 1' @/a && ! grep -q 'val_loss_pass 2' @/a && "
                        "$O --steps 1 --sample-tokens 0 --out @/on >@/a && grep -q 'val_loss_pass 2' @/a && "
                        "! grep -q 'val_loss_pass 3' @/a && cd @/on/step_00000001 && "
                        "grep -q '\"pondering_steps\": 2' config.json && grep -q \"\\\"$S\\\": 1\" config.json");
#undef OTHER
    generate_must("sed -i 's/\\(_inference\": \\)1/\\1-2/' @/other/config.json");
    generate_fails(1, "config.json: steps_at_inference is -2, expected 0 to 64",
                   TRAIN " --model @/other --generate --prompt a");
}

static void test_generate_errors(void) {
    generate_setup();
    generate_must("printf '{\"text\": \"a\"}\\n{\"text\": 7}\\n' >@/bad1.jsonl; printf '{\"text\": \"a\"}\\n{\"te' "
                  ">@/bad2.jsonl; "
                  "printf '\\n \\n[]\\n' >@/bad3.jsonl; printf '\\n' >@/bad4.jsonl; printf '{\"text\": \"\\377\"}' "
                  ">@/bad5.jsonl; "
                  "printf '{\"text\": \"\"}' >@/bad6.jsonl; printf '' >@/empty");
    static const struct {
        const char *words, *line;
    } cases[] = {
        {"bad1.jsonl, line 2: expected an object with a prompt|found 7", "% --prompt-file @/bad1.jsonl"},
        {"bad2.jsonl, line 2, column 2: |found the end of the line", "% --prompt-file @/bad2.jsonl"},
        {"bad3.jsonl, line 3: expected an object with a prompt", "% --prompt-file @/bad3.jsonl"},
        {"bad4.jsonl: expected lines with prompts|found none", "% --prompt-file @/bad4.jsonl"},
        {"bad5.jsonl, line 1, column 11: |UTF-8", "% --prompt-file @/bad5.jsonl"},
        {"bad6.jsonl, line 1: expected a prompt, found an empty one", "% --prompt-file @/bad6.jsonl"},
        {"--prompt: expected a prompt, found an empty one", "% --prompt ''"},
        {"expected a prompt, found an empty one", "% --prompt-file @/empty"},
        {"standard input: expected a prompt, found an empty one", "% </dev/null"},
        {"nowhere: could not be read: No such file", "% --prompt-file @/nowhere"},
        {"--prompt and --prompt-file: expected one of them", "% --prompt a --prompt-file @/empty"},
        {"the prompt has 9 tokens, the context 8 (--context)", "% --prompt 123456789 --context 8"},
        {"--stop '': expected a text", "% --prompt a --stop ''"},
        {"--temperature '-1': expected a number", "% --prompt a --temperature -1"},
        {"--repetition-penalty '0': expected a number", "% --prompt a --repetition-penalty 0"},
        {"--generate: expected --model DIR with a checkpoint|which has no weights", TRAIN " --generate --prompt a"},
        {"--eval-only and --generate", "% --eval-only"},
        {"--plan and --generate", "% --plan"},
        {"--weights bf16: expected with it --generate, --explain or --eval-only",
         TRAIN " --weights bf16 --train @/x.bin --out @/y"},
        {"--weights", "% --weights fp16 --prompt a"},
        {"--steps-at-inference: expected with it --generate, --explain or --eval-only",
         TRAIN " --steps-at-inference 1 --train @/x.bin --out @/y"},
        {"--resume: --out @/none holds no checkpoint", TRAIN " --resume --out @/none --generate --prompt a"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char* words = generate_command(cases[i].words);
        generate_fails(1, words, cases[i].line);
        free(words);
    }
    // Whoever reads has gone: an error, not a silent end. A signal: what there is, and its exit status.
    generate_must("^ --prompt a --sample-tokens 3000 --context 4000 2>@/e | head -c 1 >@/a; [ ${PIPESTATUS:-1} != 0 ]; "
                  "grep -q 'standard output could not be written: Broken pipe' @/e");
    generate_fails(
        143, "\"stop\": \"signal\"|\"index\": 0",
        "^ --prompt-file @/prompts.jsonl --batch 3 --sample-tokens 90000 --context 99999 --temperature 0 >@/a & "
        "used=0; while [ ${used:-0} -lt 60 ]; do sleep 0.05; kill -0 $! || exit 1; "
        "used=$(cut -d' ' -f14 /proc/$!/stat); done; kill -TERM $!; wait $!; "
        "code=$?; cat @/a; [ $(wc -l <@/a) = 3 ] && exit $code");  // ticks of its own work
    generate_must(
        "^ --prompt a --sample-tokens 90000 --context 99999 --temperature 0 >@/a 2>@/e & while [ ! -s @/a ]; do "
        "sleep 0.02; kill -0 $! || exit 1; done; kill -TERM $!; wait $!; [ $? = 143 ]");
}

static void generate_tests(void) {
    RUN_WHOLE(test_generate_certain);
    RUN_WHOLE(test_generate_stops);
    RUN_WHOLE(test_generate_first);
    RUN_WHOLE(test_generate_find_ends);
    RUN(test_generate_same);
    RUN_WHOLE(test_generate_draws);
    RUN_WHOLE(test_generate_options);
    RUN(test_generate_bf16);
    RUN_WHOLE(test_generate_ends);
    RUN_WHOLE(test_generate_steps);
    RUN_WHOLE(test_generate_errors);
}

#endif

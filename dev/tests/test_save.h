// test_save.h - tests of common/run/save.h and card.h: what a checkpoint carries beside its tensors, and --tokenizer.
// Included after test_train.h, whose runs of the toy it uses.
#ifndef PONDER_TEST_SAVE_H
#define PONDER_TEST_SAVE_H

#include "test.h"
#include "test_train.h"

// ---- by hand ----

static char* save_toy_own(const Model* model) {
    (void)model;
    return format_string("{\"model_type\": \"toy\", \"list\": [\"A\", {\"b\": 1.50}], \"vocab_size\": 10}");
}

static int save_toy_owns(const Model* model, const char* key) {
    (void)model;
    return strcmp(key, "other_spelling") == 0;
}

// config.json and generation_config.json of a model that came from `source` (NULL: a preset), with a tokenizer of
// these special tokens (-1: none), given by --tokenizer or not; its files name no class, and a stock model needs none.
static void test_save_configs(void) {
    const struct {
        const char *source, *generation;
        int bos, eos, pad, given;
        const char *config, *made;  // beyond the model's own keys; "" : the source's text
    } cases[] = {
        {NULL, NULL, 9, 8, 7, 0, ", \"bos_token_id\": 9, \"eos_token_id\": 8, \"pad_token_id\": 7",
         "{\"bos_token_id\": 9, \"eos_token_id\": 8, \"pad_token_id\": 7}"},
        {NULL, NULL, 9, 10, 99, 1, ", \"bos_token_id\": 9, \"eos_token_id\": null",  // of a vocabulary of 10
         "{\"bos_token_id\": 9}"},
        {NULL, NULL, -1, -1, -1, 0, ", \"bos_token_id\": null, \"eos_token_id\": null", "{}"},
        {"{}", NULL, -1, -1, -1, 0, "", "{}"},  // what the class says of itself stays
        {"{}", NULL, 1, 2, -1, 0, ", \"bos_token_id\": 1, \"eos_token_id\": 2",
         "{\"bos_token_id\": 1, \"eos_token_id\": 2}"},
        {"{\"eos_token_id\": [3, 4], \"pad_token_id\": null}", NULL, 1, 3, 5, 0,
         ", \"bos_token_id\": 1, \"eos_token_id\": [3, 4], \"pad_token_id\": null",
         "{\"bos_token_id\": 1, \"eos_token_id\": [3, 4]}"},
        {"{\"eos_token_id\": 3}", "{\"eos_token_id\": [3, 5],\r\n \"top_k\":4}\n", 1, 3, 5, 0,
         ", \"bos_token_id\": 1, \"eos_token_id\": 3, \"pad_token_id\": 5", ""},
        {"{\"eos_token_id\": [3], \"bos_token_id\": 0, \"pad_token_id\": 4}",
         "{\"eos_token_id\": 3, \"top_k\": 4, \"pad_token_id\": 4}", -1, 6, -1, 1,
         ", \"bos_token_id\": null, \"eos_token_id\": 6", "{\"eos_token_id\": 6, \"top_k\": 4}"},
        {"{\"tokenizer_class\": \"A\"}", NULL, -1, -1, -1, 0, ", \"tokenizer_class\": \"A\"", "{}"},
        {"{\"tokenizer_class\": \"A\"}", NULL, -1, -1, -1, 1, ", \"bos_token_id\": null, \"eos_token_id\": null", "{}"},
        {"{\"vocab_size\": 77, \"model_type\": \"x\", \"list\": 0, \"other_spelling\": 1, \"dtype\": \"bfloat16\", "
         "\"torch_dtype\": \"float16\", \"quantization_config\": {\"a\": 1}, \"_name_or_path\": \"a/\\u00fc\\\"\", "
         "\"deep\": {\"a\": [{}, [], null, true, false, 1e-7, 12345678901234567890], \"b\": \"\\u0000\\n\"}}",
         NULL, 1, 2, 3, 0,
         ", \"bos_token_id\": 1, \"eos_token_id\": 2, \"pad_token_id\": 3, \"_name_or_path\": \"a/\\u00fc\\\"\", "
         "\"deep\": {\"a\": [{}, [], null, true, false, 1e-7, 12345678901234567890], \"b\": \"\\u0000\\n\"}",
         "{\"bos_token_id\": 1, \"eos_token_id\": 2, \"pad_token_id\": 3}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Model model;
        memset(&model, 0, sizeof model);
        model.config_json = save_toy_own;
        model.owns_key = save_toy_owns;
        Tokenizer tokenizer;
        memset(&tokenizer, 0, sizeof tokenizer);
        const CheckpointFile file = {"tokenizer.json", "{}", 2};
        tokenizer.files[tokenizer.file_count++] = file;
        tokenizer.V = 10, tokenizer.bos = cases[i].bos, tokenizer.eot = cases[i].eos, tokenizer.pad = cases[i].pad;
        Trainer t;
        memset(&t, 0, sizeof t);
        char line[] = "--tokenizer x", none[] = "";
        t.options = resume_options(cases[i].given ? line : none);
        t.model = &model;
        t.tokenizer = &tokenizer;
        if (cases[i].source) { t.config = json_parse(cases[i].source, strlen(cases[i].source), "config.json"); }
        if (cases[i].generation) {
            t.generation = format_string("%s", cases[i].generation);
            t.generation_size = strlen(t.generation);
        }
        SaveFiles files = save_files_of_configs(&t);
        char* want = format_string("{\"model_type\": \"toy\", \"list\": [\"A\", {\"b\": 1.50}], \"vocab_size\": 10, "
                                   "\"torch_dtype\": \"float32\", \"dtype\": \"float32\"%s}",
                                   cases[i].config);
        Json* a = json_parse(files.list[0].text, files.list[0].size, "got");
        Json* b = json_parse(want, strlen(want), "want");
        CHECK(json_same(a, b), "case %zu: config.json is\n%s, expected\n%s", i, files.list[0].text, want);
        CHECK(strstr(files.list[0].text, "1.50"), "case %zu: numbers are as they were written", i);
        CHECK(!cases[i].source || !strstr(cases[i].source, "1e-7") ||
                  (strstr(files.list[0].text, "12345678901234567890") && strstr(files.list[0].text, "1e-7")),
              "case %zu: numbers are as they were read: %s", i, files.list[0].text);
        json_free(a);
        json_free(b);
        if (cases[i].made[0] == 0) {
            CHECK(files.list[1].size == t.generation_size &&
                      memcmp(files.list[1].text, t.generation, t.generation_size) == 0,
                  "case %zu: generation_config.json is %s", i, files.list[1].text);
        } else {
            a = json_parse(files.list[1].text, files.list[1].size, "got");
            b = json_parse(cases[i].made, strlen(cases[i].made), "want");
            CHECK(json_same(a, b), "case %zu: generation_config.json is %s, expected %s", i, files.list[1].text,
                  cases[i].made);
            json_free(a);
            json_free(b);
        }
        save_free(&files);
        json_free(t.config);
        free(t.generation);
        free(t.options.rows);
        free(want);
    }
}

static void test_shell_quote(void) {
    static const char* const cases[][2] = {
        {"plain-./_:=@%+,9", "plain-./_:=@%+,9"},
        {"", "''"},
        {"two words", "'two words'"},
        {"a*", "'a*'"},
        {"it's", "'it'\\''s'"},
        {"\\\"$`!~#;&|<>()", "'\\\"$`!~#;&|<>()'"},
        {"\xc3\xbc\xe2\x82\xac", "'\xc3\xbc\xe2\x82\xac'"},
        {"a\nb\tc'\\", "$'a\\nb\\tc\\'\\\\'"},
        {"\x01"
         "2\x7f",
         "$'\\0012\\177'"},
        {"\xff"
         "0\xc3",
         "$'\\3770\\303'"},
        {"\xc2\x9b", "$'\\302\\233'"},  // a control character of Unicode
        {"\xc2\x9f", "$'\\302\\237'"},  // the last of them
        {"a\xc2\xa0", "'a\xc2\xa0'"},
    };
    int has_bash = system("bash -c true >/dev/null 2>&1") == 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        StringBuilder sb = {0};
        shell_quote(&sb, cases[i][0]);
        CHECK(strcmp(sb.data, cases[i][1]) == 0, "case %zu: %s, expected %s", i, sb.data, cases[i][1]);
        // What the shell itself makes of it.
        char* script = format_string("printf %%s %s", sb.data);
        int fds[2];
        if (!has_bash || pipe(fds) != 0) { continue; }
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            dup2(fds[1], 1);
            close(fds[0]);
            close(fds[1]);
            execlp("bash", "bash", "-c", script, (char*)NULL);
            _exit(99);
        }
        char got[64] = {0};
        close(fds[1]);
        size_t n = 0;
        for (ssize_t more; (more = read(fds[0], got + n, sizeof got - 1 - n)) > 0;) { n += (size_t)more; }
        close(fds[0]);
        waitpid(pid, NULL, 0);
        CHECK(n == strlen(cases[i][0]) && strcmp(got, cases[i][0]) == 0, "case %zu: bash reads '%s'", i, got);
        free(script);
        free(sb.data);
    }
}

// Words of a card that hold what ends code in Markdown, and commands of a program whose path has to be quoted.
static void test_card_words(void) {
    static const char* const words[][2] = {{"out", "`out`"}, {"a`b", "`` 'a`b' ``"}, {"``", "``` '``' ```"}};
    for (int i = 0; i < 3; i++) {
        StringBuilder sb = {0};
        card_word(&sb, words[i][0]);
        CHECK(strcmp(sb.data, words[i][1]) == 0, "%s, expected %s", sb.data, words[i][1]);
        free(sb.data);
    }
    static char* commands[] = {(char*)"build/train --out x", (char*)"'my build/train' --out x"};
    static const char* const used[] = {"\nbuild/train --resume --out ", "\ntrainer --resume --out "};
    for (int i = 0; i < 2; i++) {
        ModelClass kind;
        Model model;
        Tokenizer tokenizer;
        Trainer t;
        memset(&kind, 0, sizeof kind);
        memset(&model, 0, sizeof model);
        memset(&tokenizer, 0, sizeof tokenizer);
        memset(&t, 0, sizeof t);
        kind.program = "trainer";
        tokenizer.kind = TOKENIZER_NUMBERS;
        t.kind = &kind, t.model = &model, t.tokenizer = &tokenizer, t.out = "x", t.command = commands[i];
        StringBuilder sb = {0};
        card_use(&t, &sb);
        CHECK(strstr(sb.data, used[i]) != NULL, "no '%s' in: %s", used[i], sb.data);
        free(sb.data);
    }
}

// ---- runs ----

static void save_expect(const char* file, int there, const char* words) {
    size_t size = 0;
    char* text = toy_read(file, &size);
    CHECK(text != NULL, "no %s", file);
    char* list = format_string("%s", words);
    for (char* word = strtok(list, "\1"); word && text; word = strtok(NULL, "\1")) {
        CHECK((strstr(text, word) != NULL) == there, "%s '%s' in %s:\n%s", there ? "no" : "there is", word, file, text);
    }
    free(list);
    free(text);
}

// A model directory with words of its own is trained on, then resumed: all of them are still there.
static void test_save_carries(void) {
    toy_run(0, "checkpoint", "--out from --steps 0");
    toy_change_line("from/step_00000000/config.json", "  \"bos_token_id\"",
                    "  \"_name_or_path\": \"someone/something\", \"keys\": {\"of\": [\"others\", 1.50]},");
    toy_change_line("from/step_00000000/config.json", "  \"eos_token_id\"", "  \"eos_token_id\": [256, 3],");
    toy_change_line("from/step_00000000/config.json", "  \"passes\"", "  \"passes\": 2, \"unknown\": null,");
    static const char* const files[][2] = {
        {"generation_config.json", "{\"eos_token_id\": [256, 3],\r\n\"top_k\": 5}"},
        {"special_tokens_map.json", "{\"eos_token\": \"<|endoftext|>\"}"},
        {"chat_template.jinja", "{{ messages }}\n"},
        {"tokenizer_config.json", "{\"eos_token\": \"<|endoftext|>\", \"by\": \"somebody\"}\n"},
        {"tokenizer.json", NULL},
    };
    for (int i = 0; i < 4; i++) {
        char* name = format_string("from/step_00000000/%s", files[i][0]);
        toy_write(name, files[i][1], strlen(files[i][1]));
        free(name);
    }
    toy_write("from/step_00000000/README.md", "# Somebody's card\n", 18);
    toy_run(0, "checkpoint", "--model from/step_00000000 --out on --steps 2 --save-every 1 --keep 0");
    char* line = format_string("rm -r %s/from", toy_home);
    CHECK(system(line) == 0, "%s", line);
    free(line);
    toy_run(0, "checkpoint", "--model from/step_00000000 --out on --steps 3 --save-every 1 --keep 0 --resume");
    for (int step = 1; step <= 3; step++) {
        char* config = format_string("on/step_%08d/config.json", step);
        char* card = format_string("on/step_%08d/README.md", step);
        save_expect(
            config, 1,
            "\"_name_or_path\": \"someone/something\"\1\"unknown\": null\1\"eos_token_id\": [256, 3]\1\"others\", "
            "1.50]\1\"bos_token_id\": 256\1\"vocab_size\": 257\1\"dtype\": \"float32\"");
        save_expect(card, 0, "Somebody's card");
        save_expect(card, 1, "library_name: transformers\1`from/step_00000000`\1`someone/something`");
        for (int i = 0; i < 5; i++) {
            char* there = format_string("on/step_%08d/%s", step, files[i][0]);
            char* first = format_string("on/step_00000001/%s", files[i][0]);
            toy_same_file(there, first);
            size_t size = 0;
            char* text = toy_read(there, &size);
            CHECK(text && (!files[i][1] || (size == strlen(files[i][1]) && memcmp(text, files[i][1], size) == 0)), "%s",
                  there);
            free(text);
            free(first);
            free(there);
        }
        free(card);
        free(config);
    }
}

// What cannot be right is said, before the first step.
static void test_save_refuses(void) {
    toy_run(0, "checkpoint", "--out odd --steps 0");
    toy_change_line("odd/step_00000000/config.json", "  \"eos_token_id\"", "  \"eos_token_id\": [2, 3],");
    toy_run(0,
            "warning: odd/step_00000000/config.json: eos_token_id is [2, 3], but the end of text of "
            "odd/step_00000000/tokenizer.json is token 256",
            "--model odd/step_00000000 --out odd2 --steps 0");
    toy_run(0, "warning: odd2/step_00000000/config.json: eos_token_id is [2, 3]", "--out odd2 --steps 1 --resume");
    toy_write("odd/step_00000000/generation_config.json", "{\"a\": }", 7);
    toy_run(1, "odd/step_00000000/generation_config.json:1:7: expected a value",
            "--model odd/step_00000000 --out odd3 --steps 0");
    // A key that an earlier version did not write is no change of the model; one that says something else is.
    toy_change_line("odd2/step_00000001/config.json", "  \"vocab_size\"", "  \"once\": 1,");
    toy_run(1, "--resume with --passes 3: it would change \"passes\" to 3; odd2/step_00000001/config.json has 2",
            "--passes 3 --out odd2 --steps 3 --resume");
    toy_run(0, "step 2 of 2", "--passes 2 --out odd2 --steps 2 --resume");
}

// The card of a run that was begun, resumed twice by one command, and has words that want to be Markdown.
static void test_save_card(void) {
    static const char first[] =
        "--train train.bin --val val.bin --seq 16 --batch 4 --sample-tokens 0 --out card --steps 2 "
        "--lr 0.01 --prompt=```it's*";
    const char* const lines[] = {first, "--resume --out card --steps 4 --max-minutes 0.0000001",
                                 "--resume --out card --steps 4 --max-minutes 0.0000001"};
    for (int i = 0; i < 3; i++) {
        char* output = NULL;
        int from;
        pid_t pid = toy_start(lines[i], &from);
        CHECK(toy_wait(pid, from, &output) == 0, "%s", output);
        free(output);
    }
    size_t size = 0;
    char* text = toy_read("card/step_00000004/README.md", &size);
    char* path = toy_path("card/step_00000004/trainer_state.json");
    Json* state = json_read(path);
    CHECK(text &&
              strncmp(text, "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- ponder.c\n---\n",
                      80) == 0,
          "the head of %s", text);
    char* begun =
        format_string("````sh\n--toy-trainer --train train.bin --val val.bin --seq 16 --batch 4 "
                      "--sample-tokens 0 --out card --steps 2 --lr 0.01 '--prompt=```it'\\''s*'\n--toy-trainer "
                      "--resume --out card --steps 4 --max-minutes 0.0000001\n````\n");
    char* loss = format_string("**%.6f** (best: %.6f after step %d)", json_get_number(state, "val_loss", 0, path),
                               json_get_number(state, "best_val_loss", 0, path),
                               (int)json_get_int(state, "best_val_step", 0, path));
    char* pass = format_string("| 0 | %.6f |\n| 1 | %.6f |", json_get(state, "val_loss_pass")->items[0]->number,
                               json_get(state, "val_loss_pass")->items[1]->number);
    char* hash = format_string("hash `%s`", json_get_string(state, "shards", "", path));
    const char* const words[] = {begun,
                                 loss,
                                 pass,
                                 hash,
                                 "Step 4 of 4: 256 tokens (256), ",
                                 " FLOPs",
                                 "`card`, step 4",
                                 "preset `toy`, seed 42",
                                 "Bits per byte: ",
                                 "- training: `train.bin`, 1 shard, 2000 tokens in 124 rows of 16, ",
                                 "- validation: `val.bin`, 1 shard, 700 tokens in 43 rows of 16, ",
                                 "- tokenizer: bytes, 257 tokens",
                                 "--lr 0.01\n",
                                 "--steps 4\n",
                                 "--prompt '```it'\\''s*'\n",
                                 "--weight-decay 0.01\n",
                                 "pipeline(\"text-generation\", model=\"card/step_00000004\", trust_remote_code=True)",
                                 "`toy.py`",
                                 "--resume --out card\n",
                                 "--model card/step_00000004 --train GLOB --seq 16"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        CHECK(text && strstr(text, words[i]), "the card lacks '%s':\n%s", words[i], text);
    }
    CHECK(json_get(state, "commands")->count == 2, "%d commands", json_get(state, "commands")->count);
    free(begun), free(loss), free(pass), free(hash);
    json_free(state);
    free(path);
    free(text);
    // A run of a version that did not keep its commands.
    toy_change_line("card/step_00000004/trainer_state.json", "  \"commands\"", "  \"formerly\": [");
    toy_run(0, "checkpoint", "--out card --steps 5 --resume");
    save_expect("card/step_00000005/README.md", 1,
                "sh\n# (how this run began was not recorded)\n--toy-trainer --train train.bin");
    char* output = NULL;
    int from;
    pid_t pid = toy_start("--train train.bin --seq 16 --batch 4 --sample-tokens 0 --out uncard --steps 1", &from);
    CHECK(toy_wait(pid, from, &output) == 0, "%s", output);
    free(output);
    save_expect("uncard/step_00000001/README.md", 1, "It has not been validated.");
}

// ---- --tokenizer ----

// The byte vocabulary with "he" where "e" was, which has the number of end of text, and merges to make it.
static void save_tokenizer_write(const char* name) {
    Tokenizer* bytes = tokenizer_open(NULL, 256);
    const char* text = bytes->files[0].text;
    const char* e = strstr(text, "\"e\": 101");
    const char* merges = strstr(text, "\"merges\": []");
    CHECK(e && merges && e < merges, "%s", text);
    StringBuilder sb = {0};
    sb_append(&sb, text, (size_t)(e - text));
    sb_printf(&sb, "\"e\": 256, \"he\": 101");
    sb_append(&sb, e + 8, (size_t)(merges - e) - 8);
    sb_printf(&sb, "\"merges\": [[\"h\", \"e\"]]%s", merges + 12);
    toy_write(name, sb.data, sb.size);
    free(sb.data);
    tokenizer_close(bytes);
}

static void test_save_tokenizer(void) {
    save_tokenizer_write("own.json");
    char* dir = toy_path("own");
    CHECK(mkdir(dir, 0777) == 0, "%s", dir);
    save_tokenizer_write("own/tokenizer.json");
    toy_write("own/tokenizer_config.json", "{\"eos_token\": \"a\"}", 18);
    // Of the bytes that the tokens of the validation stand for two are in "he", the 101.
    size_t size = 0;
    unsigned char* val = (unsigned char*)toy_read("val.bin", &size);
    double count = 0, bytes = 0;
    for (int i = 1; i <= 16 * 43; i++) { count++, bytes += val[1024 + 2 * i] == 'e' ? 2 : 1; }
    free(val);
    char* output = NULL;
    int from;
    pid_t pid = toy_start("--train train.bin --val val.bin --seq 16 --batch 4 --val-batches 0 --out own1 --steps 2 "
                          "--sample-tokens 4 --tokenizer own.json --prompt=the",
                          &from);
    CHECK(toy_wait(pid, from, &output) == 0, "%s", output);
    const char* loss = strstr(output, "\nval_loss ");
    const char* bits = strstr(output, "\nbits_per_byte ");
    double want = loss ? strtod(loss + 10, NULL) / log(2) * count / bytes : 0;
    CHECK(bits && fabs(strtod(bits + 15, NULL) - want) < 2e-6, "bits per byte, expected %.6f: %s", want, output);
    CHECK(strstr(output, "prompt ----\nthe\n---- continued") &&
              strstr(output, "byte-level BPE, own.json, 257 tokens of a vocabulary of 257"),
          "%s", output);
    free(output);
    toy_same_file("own.json", "own1/step_00000002/tokenizer.json");
    save_expect("own1/step_00000002/config.json", 1,
                "\"tokenizer_class\": \"PreTrainedTokenizerFast\"\1\"bos_token_id\": null\1\"eos_token_id\": null");
    save_expect("own1/step_00000002/tokenizer_config.json", 1, "model_input_names");
    save_expect("own1/step_00000002/tokenizer_config.json", 0, "endoftext");
    // The finished run says the same of its bytes; a resumed one has the tokenizer without being told.
    char* said = format_string("finished|bits_per_byte %.3f", floor(want * 1000) / 1000);
    toy_run(0, said, "--val-batches 0 --out own1 --steps 2 --resume");
    free(said);
    toy_run(0, "tokenizer   byte-level BPE, own1/step_00000002/tokenizer.json", "--out own1 --steps 3 --resume");
    toy_run(0, "--tokenizer own (was own.json)", "--out own1 --steps 4 --resume --tokenizer own");
    toy_same_file("own.json", "own1/step_00000004/tokenizer.json");
    toy_run(0, "checkpoint", "--out own2 --steps 1");
    toy_run(1, "--resume with --tokenizer own.json: its tokenizer.json is not that of own2/step_00000001",
            "--out own2 --steps 2 --resume --tokenizer own.json");
    save_tokenizer_write("near.json");  // as long as own.json
    toy_change_line("near.json", "  \"version\"", "  \"version\": \"1.1\",");
    toy_run(1, "--resume with --tokenizer near.json: its tokenizer.json is not that of own1/step_00000004",
            "--out own1 --steps 5 --resume --tokenizer near.json");
    // In the place of the one beside the weights, whose special tokens then mean nothing.
    toy_run(0, "byte-level BPE, own/tokenizer.json|!eos_token_id is",
            "--model own2/step_00000001 --tokenizer own --out own3 --steps 1");
    toy_same_file("own/tokenizer_config.json", "own3/step_00000001/tokenizer_config.json");
    save_expect("own3/step_00000001/config.json", 1, "\"bos_token_id\": null\1\"eos_token_id\": 97");
    save_expect("own3/step_00000001/config.json", 0, "pad_token_id");
    save_expect("own3/step_00000001/generation_config.json", 1, "{\n  \"eos_token_id\": 97\n}\n");
    // Where a token of the validation has no text, its bytes are not known.
    save_tokenizer_write("gap.json");
    toy_change_line("gap.json", "      \"t\": 116", "");
    toy_run(0, "val_loss|!bits_per_byte", "--val-batches 0 --out gap --steps 0 --tokenizer gap.json");
    // Fewer tokens than the vocabulary are fine; more are not, nor is no tokenizer.
    toy_write("own.json", "{\"model\": {\"vocab\": {\"a\": 0, \"b\": 256}}}", 40);
    toy_run(0, "257 tokens of a vocabulary of 257", "--out own4 --steps 0 --tokenizer own.json");
    toy_write("own.json", "{\"model\": {\"vocab\": {\"a\": 0, \"b\": 255}}}", 40);
    toy_run(0, "256 tokens of a vocabulary of 257", "--out own5 --steps 0 --tokenizer own.json");
    toy_write("own.json", "{\"model\": {\"vocab\": {\"a\": 0, \"b\": 257}}}", 40);
    char* tokenizer = toy_path("own/tokenizer.json");
    unlink(tokenizer);
    free(tokenizer);
    toy_write("own/tokenizer.model", "x", 1);
    const char* const bad[][2] = {
        {"--tokenizer own.json: it has tokens up to 257, but the vocabulary of the model ends with 256; --vocab 258",
         "--tokenizer own.json"},
        {"--tokenizer own: expected tokenizer.json, vocab.json with merges.txt, or SentencePiece's tokenizer.model",
         "--tokenizer own"},
        {"--tokenizer nowhere: expected a tokenizer.json or tokenizer.model, or a directory with one: No such file",
         "--tokenizer nowhere"},
        {"--tokenizer : expected", "--tokenizer="},
        {"train.bin:1:1: expected a value, found", "--tokenizer train.bin"},
        {"--tokenizer own/vocab.json: expected the directory", "--tokenizer own/vocab.json"},
    };
    toy_write("own/vocab.json", "{}", 2);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char* line = format_string("--out bad --steps 0 %s", bad[i][1]);
        toy_run(1, bad[i][0], line);
        free(line);
    }
    free(dir);
}

static void save_tests(void) {
    toy_begin();
    RUN(test_save_configs);
    RUN(test_shell_quote);
    RUN(test_card_words);
    RUN(test_save_carries);
    RUN(test_save_refuses);
    RUN(test_save_card);
    RUN(test_save_tokenizer);
    directory_remove_tree(toy_home);
}

#endif

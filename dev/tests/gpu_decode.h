// gpu_decode.h - texts that grow on the GPU: cached logits against the C half's of the whole text, and in other company.
// Included by gpu_model.h.

// As check_decode() of the C half: a text of T tokens in pieces, then two others beside it. fp32: within 1e-5 of the
// largest logit of the C half's (6.6e-7 was seen). bf16: within 1.5e-2, as test_logits; there, too, a wrong key or position is
// off by a tenth and more. And the same bits alone and in company, and (runs = 2) with graphs and without.
static void check_decode_cuda(const char* arguments, int runs) {
    enum { B = 3, T = 300, LENGTH = 12, ROUNDS = 4 };
    static const int pieces[] = {128, 40, 1, 1, 86, 3, 1, 20, 20};  // T in all: whole tiles of queries, and not
    matmul_few = !EMULATED || runs == 2;
    Model* model = cpu_model(arguments, B, T);
    const size_t V = (size_t)model->V;
    int inputs[B * T], targets[B * T];
    random_tokens(inputs, targets, B * T, model->V);
    fill_weights(model);
    stored_as_bf16 = 1;
    stored(model->params, model->tensors.total);
    stored_as_bf16 = 0;
    real* all = (real*)xalloc((size_t)B * T * V + 2 * B * V, sizeof(real), "logits");
    real *some = all + (size_t)B * T * V, *alone = some + B * V;
    model->logits(model, inputs, B, T, 0, all);
    real* params = model->params;
    model->params = NULL;
    close_model(model);

    double worst = 0;
    for (int plain = 0; plain < runs; plain++) {
        model = make_model(arguments, TEST_PRESET, NULL, NULL, 1, T);
        ponder_of(model)->cuda->graph.on = !plain;
        model->narrow(model, 128);
        model->allocate(model, 0);
        memcpy(model->params, params, model->tensors.total * sizeof(real));
        model->upload(model, NULL, NULL);
        model->cache_begin(model, B, T);
        int row = 2, first = 0;
        for (int i = 0; first < T && !plain; first += pieces[i++]) {
            model->decode(model, inputs + first, 1, pieces[i], &row, &first, some);
            worst =
                fmax(worst, compare_reals(format_string("%s: %d tokens after %d", arguments, pieces[i], first), some,
                                          all + (size_t)(first + pieces[i] - 1) * V, V, fp32 ? 1e-5 : 1.5e-2));
        }
        // Two beside each other, in other rows than their numbers; what the first one left is written over.
        int rows[2] = {2, 0}, at[2] = {90, LENGTH}, next[2];
        for (int b = 0; b < 2; b++) {
            int start = 0;
            model->decode(model, inputs + (b + 1) * T, 1, at[b], &rows[b], &start, NULL);
        }
        CHECK(cudaStreamQuery(device.stream) == cudaSuccess, "%s: a prompt's time would count as its text's",
              arguments);
        for (int t = 0; t < ROUNDS; t++) {
            for (int b = 0; b < 2; b++) { next[b] = inputs[(b + 1) * T + at[b]]; }
            model->decode(model, next, 2, 1, rows, at, some);
            for (int b = 0; b < 2; b++, at[b - 1]++) {
                const real* want = all + ((size_t)(b + 1) * T + (size_t)at[b]) * V;
                worst = fmax(worst, compare_reals(format_string("%s: text %d beside another", arguments, b + 1),
                                                  some + (size_t)b * V, want, V, fp32 ? 1e-5 : 1.5e-2));
            }
        }
        if (!plain) { memcpy(alone, some + V, V * sizeof(real)); }
        CHECK(memcmp(alone, some + V, V * sizeof(real)) == 0, "%s: graphs give other bits", arguments);
        row = 1, first = 0;
        model->decode(model, inputs + 2 * T, 1, LENGTH, &row, &first, NULL);
        for (first = LENGTH; first < LENGTH + ROUNDS; first++) {
            model->decode(model, inputs + 2 * T + first, 1, 1, &row, &first, some);
        }
        CHECK(memcmp(alone, some, V * sizeof(real)) == 0, "%s: a text alone has other bits than beside another",
              arguments);
        model->cache_end(model);
        close_model(model);
    }
    matmul_few = !EMULATED;
    printf("     %s: error %.1e of the largest\n", arguments, worst);
    free(params);
    free(all);
}

static void test_decode_cuda(void) {
    check_decode_cuda("--layers 2 --width 64 --heads 2 --vocab 70 --ponder 0", 2);
    check_decode_cuda("--layers 1 --width 48 --heads 2 --ff 64 --vocab 33 --ponder 2 --ponder-temperature 0.7", 1);
    check_decode_cuda("--layers 1 --width 36 --heads 2 --ff 50 --vocab 61 --ponder 1 --multiply-steps 1", 1);
#ifdef DECODE_CASE
    check_decode_cuda(DECODE_CASE, 1);
#endif
    if (fp32) {
        check_decode_cuda("--layers 1 --width 32 --heads 1 --ff 32 --vocab 40 --ponder 3 --ponder-top-k 5", 1);
    }
}

// Texts that go on by `rule` into tokens (2, count), the second begun later than the first.
static void draw_texts(Model* model, const SampleRule* rule, int count, int* tokens) {
    enum { T = 64 };
    Sampler s;
    SampleText text[2], *both[2] = {&text[0], &text[1]};
    static const volatile sig_atomic_t stop = 0;
    int new_tokens[2];
    memset(&s, 0, sizeof s), memset(text, 0, sizeof text);
    s.temperature = rule->temperature, s.top_k = rule->top_k, s.top_p = rule->top_p, s.penalty = rule->penalty;
    s.seed = 5, s.piece = 7;
    sampler_make(&s, model, 2);
    model->cache_begin(model, 2, T);
    for (int i = 0; i < 2; i++) {
        text[i].tokens = (int*)xalloc(T, sizeof(int), "a text");
        text[i].length = 11 - 4 * i, text[i].row = 1 - i, text[i].draws = (uint64_t)i << 32;
        for (int t = 0; t < text[i].length; t++) { text[i].tokens[t] = (7 * t + i) % model->V; }
    }
    CHECK(sample_round(&s, model, both, 1, &stop, new_tokens), "a round");
    for (int n = 1; n < count; n++) { CHECK(sample_round(&s, model, both, 2, &stop, new_tokens), "a round"); }
    for (int i = 0; i < 2; i++) {
        memcpy(tokens + i * count, text[i].tokens + text[i].length - text[i].drawn,
               (size_t)text[i].drawn * sizeof(int));
        free(text[i].tokens);
    }
    model->cache_end(model);
    sampler_free(&s);
}

// What the GPU draws is what the host draws from the GPU's logits, by every rule, and in fp32 what the C half does from
// its own. In fp32 logits differ by 7e-7: of
// these texts no draw lies that near to the border of two tokens.
static void test_draw_cuda(void) {
    enum { COUNT = 5, RULES = 5 };
    static const SampleRule rules[RULES] = {
        {1, 0, 1, 1}, {0.7, 5, 1, 1}, {1, 0, 0.6, 1.3}, {2, 20, 0.9, 0.8}, {0, 0, 1, 1.5}};
    const char* arguments = "--layers 1 --width 16 --heads 2 --vocab 61 --ponder 1";
    int tokens[3][RULES][2 * COUNT];
    memset(tokens, 0, sizeof tokens);
    for (int which = 0; which < (fp32 ? 3 : 2); which++) {
        Model* model = which == 2 ? cpu_model(arguments, 1, 64) : make_model(arguments, TEST_PRESET, NULL, NULL, 1, 64);
        if (which == 2) {
            model->decode = ponder_decode, model->draw = NULL;
            model->cache_begin = ponder_cache_begin, model->cache_end = ponder_cache_end;
        } else {
            model->allocate(model, 0);
        }
        fill_weights(model);
        for (size_t i = 0; i < model->tensors.total; i++) { model->params[i] *= 3; }
        if (which < 2) { model->upload(model, NULL, NULL); }
        if (which == 1) { model->draw = NULL; }
        for (int r = 0; r < RULES; r++) { draw_texts(model, &rules[r], COUNT, tokens[which][r]); }
        close_model(model);
    }
    int changes = 0;
    for (int r = 0; r < RULES; r++) {
        CHECK(memcmp(tokens[0][r], tokens[1][r], sizeof tokens[0][r]) == 0, "rule %d: the host draws others", r);
        CHECK(!fp32 || memcmp(tokens[0][r], tokens[2][r], sizeof tokens[0][r]) == 0, "rule %d: the C half differs", r);
        for (int i = 1; i < COUNT; i++) { changes += tokens[0][r][i] != tokens[0][r][i - 1]; }
    }
    CHECK(changes > RULES, "texts of one token: nothing is tested by them");
}

// Caches that no GPU has room for: what lowers them is said, in the words of --generate.
static void caches_job(void* unused) {
    (void)unused;
    Model* model = make_model("--layers 1 --width 16 --heads 2 --vocab 61", TEST_PRESET, NULL, NULL, 1, 64);
    model->cache_begin(model, 1 << 28, 64);
}
static void test_caches_too_large(void) {
    char* output;
    int status = run_child(caches_job, NULL, &output);
    CHECK(status == 1 && strstr(output, "caches of keys and values needs") && strstr(output, "--context") &&
              !strstr(output, "--recompute"),
          "exit %d: %s", status, output);
    free(output);
}

// --generate as its user runs it: lines that do not depend on the batch (up to 16) and on graphs, more texts at a time
// than any of them has tokens; --plan=CARD of it.
static void test_program_generate(void) {
    const char* arguments = program_setup();
    if (access(GPU_PROGRAM, X_OK) != 0) {
        test_skip("no " GPU_PROGRAM " (make gpu, make emu)");
        return;
    }
    // $G is the program with its model, $D a folder.
    static const char* const lines[] = {
        "for p in a abcdefgh ab abc b; do echo \"{\\\"text\\\": \\\"$p\\\"}\"; done >$D/p.jsonl; "
        "O=\"--prompt-file $D/p.jsonl --sample-tokens 3 --top-p 0.9 --repetition-penalty 1.3\"; $G $O >$D/1 && "
        "$G $O --batch 3 >$D/3 && cmp $D/1 $D/3 && $G $O --batch 3 --graph 0 >$D/3 && cmp $D/1 $D/3 && "
        "[ $(wc -l <$D/1) = 5 ]",
        "for i in $(seq 40); do echo '{\"text\": \"a\"}'; done >$D/p.jsonl; $G --prompt-file $D/p.jsonl "
        "--sample-tokens 1 "
        "--temperature 0 --batch 40 >$D/40 && [ $(wc -l <$D/40) = 40 ] && "
        "[ $(sed 's/.*tokens//' $D/40 | sort -u | wc -l) = 1 ]",
        "$G --prompt a --context 1 --batch 2 >$D/1 && grep -q '\"tokens\": \\[\\], \"stop\": \"context\"' $D/1",
        "$G --prompt a --sample-tokens 0 >$D/1 && [ ! -s $D/1 ]"};
    char* command = format_string(GPU_PROGRAM " %s --ponder 1 --steps 1 --sample-tokens 0 --out %s/texts", arguments,
                                  program_folder);
    must(command);
    free(command);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        command = format_string("D=%s/texts; G=\"" GPU_PROGRAM " --model $D/step_00000001 --generate\"; %s",
                                program_folder, lines[i]);
        must(command);
        free(command);
    }
    static const struct {
        int status;
        const char *words, *options;
    } plans[] = {
        {0,
         "4 texts at a time, each of 1 tokens|caches of keys and values|attention over them, draws|"
         "cache_attend_kernel|sample_rows_kernel|at most |times as long",
         "--plan=h100 --batch 4 --context 1"},
        {1, "GPU memory: |for 1000000 texts of 2000 tokens, H100|lower --batch or --context",
         "--plan=h100 --batch 1000000 --context 2000"},
        {1, "GPU memory: |for 16000000 tokens at a time|lower --batch", "--plan=rtx4090 --batch 16000000 --width 512"},
        {1, "--plan and --generate", "--plan"},
    };
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
        command = format_string(GPU_PROGRAM " --model %s --layers 2 --width 32 --heads 2 --vocab 257 --generate %s",
                                TEST_PRESET, plans[i].options);
        expect_exit(plans[i].status, plans[i].words, command);
        free(command);
    }
}

// Query heads for which no block has room, in a dry run: nothing of this is touched.
static void shared_job(void* unused) {
    (void)unused;
    KeyCacheCuda cache;
    memset(&cache, 0, sizeof cache);
    cache.rows = cache.layers = cache.NKV = 1, cache.HS = 128, cache.capacity = cache.reach = 128;
    ledger.dry = 1;
    cached_attention_forward_cuda(NULL, NULL, NULL, NULL, NULL, 1, 1, 90, 1, 128, 92 * 128, 128, 128, &cache, 0);
    printf("90 are taken\n");
    fflush(stdout);
    cached_attention_forward_cuda(NULL, NULL, NULL, NULL, NULL, 1, 1, 128, 1, 128, 130 * 128, 128, 128, &cache, 0);
    exit(0);
}
static void test_cache_refuses(void) {
    char* output;
    int code = run_child(shared_job, NULL, &output);
    CHECK(code == 1 && strstr(output, "90 are taken") &&
              strstr(output, "128 query heads of 128 numbers share a kv head"),
          "exit %d: %s", code, output);
    free(output);
}

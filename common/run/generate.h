// generate.h - --generate: texts that go on from prompts.
//
//     build/train_X --model DIR --generate --prompt TEXT           the continuation's bytes on standard output, alone
//     ... --prompt-file FILE | FILE.jsonl, or standard input; --batch N of them at a time
//
// One prompt with a batch of 1 is answered by its bytes, as they come, in whole characters. Everything else by a line of
// JSON each, in the order of the prompts: {"index", "text", "tokens" (ids), "stop": "eot|text|length|context"}. A line
// does not depend on the batch: draws are keyed by (seed, index of the prompt, number of the token), and the model's logits
// of a text are the same bits in any company. All else is said on standard error.
//
// Pipeline: read and check all prompts -> until all are done: fill free rows of the caches with the next prompts -> logits
// of all rows -> draw, end texts at an end of text, a stop text, --sample-tokens or the end of the context -> write.
#ifndef PONDER_GENERATE_H
#define PONDER_GENERATE_H

#include "data.h"
#include "setup.h"

#include <ctype.h>

static int generate_piece = GPU ? 2048 : 256;  // tokens of a prompt that the model takes at a time; tests set less

typedef struct {
    char* text;  // the prompt (size), kept for nothing but its tokens
    size_t size;
    char* where;  // of it, for messages
    SampleText tokens;
    int prompt;           // tokens of it
    StringBuilder bytes;  // of the continuation
    size_t shown;         // bytes of it that are written
    const char* stop;     // why it ended, NULL: it goes on
} Generated;

typedef struct {
    Trainer* t;
    Generated* list;  // (count) prompts in their order
    int count, capacity;
    int lines;    // 1: JSON, 0: bytes
    int written;  // how many of the first are written whole
    int context;  // most tokens of a text
    int ends[64], end_count;
    const char** stops;  // (stop_count) texts
    int stop_count;
    size_t longest_stop;
    const volatile sig_atomic_t* signal;
} Generation;

// ---- prompts ----

static inline Generated* generate_add(Generation* g, const char* text, size_t size, char* where) {
    if (size == 0) { die("%s: expected a prompt, found an empty one: there is no token to go on from", where); }
    if (g->count == g->capacity) {
        int capacity = g->capacity ? 2 * g->capacity : 16;
        Generated* more = (Generated*)xalloc((size_t)capacity, sizeof(Generated), "the prompts");
        if (g->count) { memcpy(more, g->list, (size_t)g->count * sizeof(Generated)); }
        free(g->list);
        g->list = more;
        g->capacity = capacity;
    }
    Generated* one = &g->list[g->count++];
    memset(one, 0, sizeof *one);
    one->text = (char*)xalloc(size, 1, "a prompt");
    memcpy(one->text, text, size);
    one->size = size;
    one->where = where;
    return one;
}

// Every line of a .jsonl is an object with "text"; empty lines are left out.
static inline void generate_read_lines(Generation* g, const char* path, const char* text, size_t size) {
    int line = 0;
    for (size_t at = 0, end; at < size; at = end + 1) {
        for (end = at; end < size && text[end] != '\n';) { end++; }
        line++;
        size_t length = end - at;
        while (length > 0 && isspace((unsigned char)text[at + length - 1])) { length--; }
        if (length == 0) { continue; }
        char* where = format_string("%s, line %d", path, line);
        Json* json = json_parse_line(text + at, length, path, line);
        const Json* prompt = json->type == JSON_OBJECT ? json_get(json, "text") : NULL;
        if (!prompt || prompt->type != JSON_STRING) {
            die("%s: expected an object with a prompt, {\"text\": \"...\"}, found %s", where,
                prompt ? json_describe(prompt) : json_describe(json));
        }
        generate_add(g, prompt->string, prompt->length, where);
        json_free(json);
    }
    if (g->count == 0) { die("%s: expected lines with prompts, {\"text\": \"...\"}, found none", path); }
}

// All of standard input; the caller frees it.
static inline char* generate_read_input(const Generation* g, size_t* size) {
    StringBuilder sb = {0};
    char buffer[1 << 16];
    if (isatty(0)) { fprintf(stderr, "the prompt is read from standard input, to its end (Ctrl-D)\n"); }
    for (ssize_t got; (got = read(0, buffer, sizeof buffer)) != 0;) {
        if (*g->signal) { exit(128 + *g->signal); }
        if (got < 0 && errno == EINTR) { continue; }
        if (got < 0) { die("standard input: a prompt could not be read: %s", strerror(errno)); }
        sb_append(&sb, buffer, (size_t)got);
    }
    *size = sb.size;
    return sb.data;
}

static inline void generate_read(Generation* g) {
    const OptionTable* o = &g->t->options;
    const char *prompt = options_given(o, "prompt") ? options_text(o, "prompt") : NULL,
               *file = options_text(o, "prompt-file");
    if (prompt && file) { die("--prompt and --prompt-file: expected one of them, found both"); }
    size_t size = 0;
    if (prompt) {
        generate_add(g, prompt, strlen(prompt), format_string("--prompt"));
    } else if (file) {
        char* text = read_fully(file, &size);
        if (!text) { die("--prompt-file %s: could not be read: %s", file, strerror(errno)); }
        if (text_ends(file, ".jsonl")) {
            generate_read_lines(g, file, text, size);
            g->lines = 1;
        } else {
            generate_add(g, text, size, format_string("--prompt-file %s", file));
        }
        free(text);
    } else {
        char* text = generate_read_input(g, &size);
        generate_add(g, text, size, format_string("standard input"));
        free(text);
    }
}

// The token that the template of tokenizer.json's post-processor puts first, alone or one of several; -1: none.
static inline int generate_template(const Tokenizer* tokenizer, const Json* processor) {
    const Json* parts = json_get(processor, "processors");
    int several = parts && parts->type == JSON_ARRAY, first = -1;
    for (int i = 0; i < (several ? parts->count : 1); i++) {
        const Json* single = json_get(several ? parts->items[i] : processor, "single");
        if (!single || single->type != JSON_ARRAY || single->count == 0) { continue; }
        const Json* id = json_get(json_get(single->items[0], "SpecialToken"), "id");
        if (id && id->type == JSON_STRING) { first = tokenizer_find_sized(tokenizer, id->string, id->length); }
    }
    return first;
}

// The token that a prompt begins with though its text does not say it, as Hugging Face's tokenizers put it there:
// tokenizer_config.json's add_bos_token, else tokenizer.json's template; SentencePiece's model alone has one. -1: none.
static inline int generate_first(const Tokenizer* tokenizer) {
    const CheckpointFile *config = tokenizer_kept(tokenizer, "tokenizer_config.json"),
                         *file = tokenizer_kept(tokenizer, "tokenizer.json");
    int first = file || !tokenizer_kept(tokenizer, "tokenizer.model") ? -1 : tokenizer_bos(tokenizer);
    Json* json = file ? json_parse(file->text, file->size, "tokenizer.json") : NULL;
    if (json) { first = generate_template(tokenizer, json_get(json, "post_processor")); }
    json_free(json);
    json = config ? json_parse(config->text, config->size, "tokenizer_config.json") : NULL;
    const Json* adds = json_get(json, "add_bos_token");
    if (adds && adds->type == JSON_BOOL) { first = adds->boolean ? tokenizer_bos(tokenizer) : -1; }
    json_free(json);
    return first < tokenizer->V ? first : -1;
}

static inline void generate_encode(Generation* g) {
    const Tokenizer* tokenizer = g->t->tokenizer;
    if (tokenizer->kind == TOKENIZER_NUMBERS) {
        die("--%s: expected a model with a tokenizer, found none beside %s; give --tokenizer DIR|FILE",
            options_prompts(&g->t->options), g->t->weights);
    }
    int first = generate_first(tokenizer), most = (int)options_int(&g->t->options, "sample-tokens");
    for (int i = 0; i < g->count; i++) {
        Generated* one = &g->list[i];
        size_t n = 0, begins = first >= 0;
        int* tokens = tokenizer_encode(tokenizer, one->text, one->size, &n);
        if (begins && n && tokens[0] == first) { begins = 0; }
        if (n == 0) { die("%s: expected a prompt, found a text without tokens", one->where); }
        if (n + begins > (size_t)g->context) {
            die("%s: the prompt has %zu tokens, the context %d%s; --context N allows more, if the model knows so many",
                one->where, n + begins, g->context, options_set(&g->t->options, "context") ? " (--context)" : "");
        }
        size_t room = min_size((size_t)g->context, n + begins + (size_t)most);
        one->tokens.tokens = (int*)xalloc(room, sizeof(int), "a text");
        if (begins) { one->tokens.tokens[0] = first; }
        memcpy(one->tokens.tokens + begins, tokens, n * sizeof(int));
        one->tokens.length = one->prompt = (int)(n + begins);
        one->tokens.draws = (uint64_t)i << 32;
        free(tokens);
        free(one->text);
        one->text = NULL;
    }
}

// ---- when a text ends ----

static inline void generate_add_end(Generation* g, const Json* id) {
    int64_t token = -1;
    if (!id || !json_whole(id, &token) || g->end_count == (int)(sizeof g->ends / sizeof g->ends[0])) { return; }
    if (token >= 0 && token < g->t->tokenizer->V) { g->ends[g->end_count++] = (int)token; }
}

// Tokens that end a text: the tokenizer's, and those of generation_config.json, or else of config.json.
static inline void generate_find_ends(Generation* g) {
    const Trainer* t = g->t;
    if (tokenizer_eot(t->tokenizer) >= 0) { g->ends[g->end_count++] = tokenizer_eot(t->tokenizer); }
    Json* json = t->generation ? json_parse(t->generation, t->generation_size, "generation_config.json") : NULL;
    const Json* ends = json_get(json, "eos_token_id");
    if (!ends) { ends = json_get(t->config, "eos_token_id"); }
    generate_add_end(g, ends);
    for (int i = 0; ends && ends->type == JSON_ARRAY && i < ends->count; i++) { generate_add_end(g, ends->items[i]); }
    json_free(json);
}

// Looks for stop texts in what was appended since `before` bytes were there; cuts the text in front of the first.
static inline int generate_stops(const Generation* g, Generated* one, size_t before) {
    size_t best = SIZE_MAX;
    size_t from = before + 1 > g->longest_stop ? before + 1 - g->longest_stop : 0;
    for (int i = 0; i < g->stop_count; i++) {
        size_t n = strlen(g->stops[i]);
        for (size_t at = from; at + n <= one->bytes.size && at < best; at++) {
            if (memcmp(one->bytes.data + at, g->stops[i], n) == 0) { best = at; }
        }
    }
    if (best == SIZE_MAX) { return 0; }
    one->bytes.size = best;
    return 1;
}

// Bytes of a text, which goes on, that may be shown: all but the beginning of a stop text, or of a character, at its end.
static inline size_t generate_certain(const Generation* g, const Generated* one) {
    const char* s = one->bytes.data;
    size_t size = one->bytes.size, certain = size;
    for (int i = 0; i < g->stop_count; i++) {
        size_t n = strlen(g->stops[i]);
        for (size_t held = min_size(n - 1, size); held > 0; held--) {
            if (memcmp(s + size - held, g->stops[i], held) == 0) {
                certain = min_size(certain, size - held);
                break;
            }
        }
    }
    for (size_t back = 1; back <= 3 && back <= certain; back++) {
        unsigned char c = (unsigned char)s[certain - back];
        if (c < 0x80) { break; }
        if (c < 0xc0) { continue; }  // goes on with a character
        size_t whole = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
        return back < whole && c < 0xf8 ? certain - back : certain;
    }
    return certain;
}

// Appends a drawn token, or ends the text by it.
static inline void generate_take(const Generation* g, Generated* one, int token) {
    for (int i = 0; i < g->end_count; i++) {
        if (token == g->ends[i]) { one->stop = "eot"; }
    }
    if (one->stop) { return; }
    char piece[TOKENIZER_PIECE];
    size_t before = one->bytes.size;
    sb_append(&one->bytes, piece, tokenizer_decode(g->t->tokenizer, token, piece));
    if (generate_stops(g, one, before)) {
        one->stop = "text";
    } else if (one->tokens.drawn == (int)options_int(&g->t->options, "sample-tokens")) {
        one->stop = "length";
    } else if (one->tokens.length == g->context) {
        one->stop = "context";
    }
}

// ---- writing ----

static inline void generate_print(const char* text, size_t size) {
    if (size && fwrite(text, 1, size, stdout) != size && !output_error) { output_error = errno; }
    output_flush();
}

static inline void generate_print_line(const Generated* one, int index) {
    StringBuilder sb = {0};
    sb_printf(&sb, "{\"index\": %d, \"text\": ", index);
    json_append_string(&sb, one->bytes.data ? one->bytes.data : "", one->bytes.size);
    sb_printf(&sb, ", \"tokens\": [");
    for (int i = one->prompt; i < one->tokens.length; i++) {
        sb_printf(&sb, "%s%d", i > one->prompt ? ", " : "", one->tokens.tokens[i]);
    }
    sb_printf(&sb, "], \"stop\": \"%s\"}\n", one->stop);
    generate_print(sb.data, sb.size);
    free(sb.data);
}

// Writes what is certain, in the order of prompts.
static inline void generate_write(Generation* g) {
    if (!g->lines) {
        Generated* one = &g->list[0];
        size_t certain = one->stop ? one->bytes.size : generate_certain(g, one);
        if (certain > one->shown) { generate_print(one->bytes.data + one->shown, certain - one->shown); }
        one->shown = max_size(one->shown, certain);
        g->written = one->stop != NULL;
        return;
    }
    for (; g->written < g->count && g->list[g->written].stop; g->written++) {
        generate_print_line(&g->list[g->written], g->written);
    }
}

// After an error or a signal nothing that was generated is lost: what is not whole says so.
static inline void generate_write_rest(Generation* g, const char* why) {
    for (int i = g->written; i < g->count; i++) {
        Generated* one = &g->list[i];
        if (!one->stop && one->tokens.drawn == 0 && g->lines) { continue; }
        int whole = one->stop != NULL;
        if (!whole) { one->stop = why; }
        if (g->lines) { generate_print_line(one, i); }
    }
    if (!g->lines) { generate_write(g); }
}

static inline void generate_report(const Generation* g, const Sampler* s, double seconds, double bytes) {
    char size[32];
    int full = 0;
    for (int i = 0; i < g->count; i++) { full += g->list[i].stop && strcmp(g->list[i].stop, "context") == 0; }
    if (!g->lines && g->list[0].shown && g->list[0].bytes.data[g->list[0].shown - 1] != '\n' && isatty(1)) {
        fprintf(stderr, "\n");
    }
    if (full && !g->lines) { fprintf(stderr, "the context of %d tokens is full\n", g->context); }
    if (full && g->lines) {
        fprintf(stderr, "%d of %d texts ended where the context of %d tokens was full\n", full, g->count, g->context);
    }
    if (s->read_tokens > 0) {
        fprintf(stderr, "prompts: %.0f tokens, %.1f tokens/s; ", s->read_tokens,
                s->read_tokens / fmax(s->read_seconds, 1e-9));
    }
    fprintf(stderr, "continuations: %.0f tokens, %.1f tokens/s; in all %.1f s", s->decode_tokens,
            s->decode_tokens / fmax(s->decode_seconds, 1e-9), seconds);
    if (bytes > 0) {
        fprintf(stderr, "; caches %s (%d pass%s)", format_megabytes(size, bytes), g->t->model->passes,
                g->t->model->passes == 1 ? "" : "es");
    }
    fprintf(stderr, "; computed in %s\n", model_arithmetic(g->t->model));
}

// ---- the whole ----

static inline void generate_check(const Trainer* t) {
    const OptionTable* o = &t->options;
    if (!t->weights) {
        die("--%s: expected --model DIR with a checkpoint, or --resume with --out, found the preset %s, which has no "
            "weights",
            options_prompts(o), t->preset);
    }
    const Option* stop = options_row(o, "stop");
    for (int i = 0; i < stop->texts_count; i++) {
        if (stop->texts[i][0] == 0) { die("--stop '': expected a text"); }
    }
}

// One round: a token for every text that goes on. 0: a signal came.
static inline int generate_round(Generation* g, Sampler* s, Generated** active, int n) {
    SampleText** texts = (SampleText**)xalloc((size_t)n, sizeof(SampleText*), "texts that grow");
    int* tokens = (int*)xalloc((size_t)n, sizeof(int), "texts that grow");
    for (int i = 0; i < n; i++) { texts[i] = &active[i]->tokens; }
    int going = sample_round(s, g->t->model, texts, n, g->signal, tokens);
    for (int i = 0; i < n && going; i++) {
        if (tokens[i] < 0) {
            generate_write_rest(g, "error");
            die("%s: a logit after %d tokens is not finite: the weights of %s are damaged, or the model diverged",
                active[i]->where, active[i]->tokens.length, g->t->weights);
        }
        generate_take(g, active[i], tokens[i]);
    }
    free(texts);
    free(tokens);
    return going;
}

static inline int generate_run(Generation* g, Sampler* s, int batch) {
    Generated** active = (Generated**)xalloc((size_t)batch, sizeof(Generated*), "texts that grow");
    int next = 0, n = 0, going = 1;
    int* row_of = (int*)xalloc((size_t)batch, sizeof(int), "rows of the caches");
    int free_rows = batch;
    for (int i = 0; i < batch; i++) { row_of[i] = batch - 1 - i; }
    while (going && output_flush()) {
        while (n < batch && next < g->count) {
            Generated* one = &g->list[next++];
            int room = one->tokens.length < g->context;
            if (options_int(&g->t->options, "sample-tokens") == 0) { one->stop = "length"; }
            if (!room) { one->stop = "context"; }
            if (one->stop) { continue; }
            one->tokens.row = row_of[--free_rows];
            active[n++] = one;
        }
        generate_write(g);
        if (n == 0) { break; }
        going = generate_round(g, s, active, n);
        generate_write(g);
        int left = 0;
        for (int i = 0; i < n; i++) {
            if (active[i]->stop) {
                row_of[free_rows++] = active[i]->tokens.row;
            } else {
                active[left++] = active[i];
            }
        }
        n = left;
    }
    free(active);
    free(row_of);
    return going;
}

// The positions that are needed: of the longest prompt and what follows it, or the context.
static inline int generate_longest(const Generation* g) {
    int longest = 0, most = (int)options_int(&g->t->options, "sample-tokens");
    for (int i = 0; i < g->count; i++) {
        int n = (int)min_size((size_t)g->context, (size_t)g->list[i].prompt + (size_t)most);
        longest = n > longest ? n : longest;
    }
    return longest;
}

static inline Sampler generate_sampler(const OptionTable* o) {
    Sampler s;
    memset(&s, 0, sizeof s);
    s.temperature = options_number(o, "temperature");
    s.top_k = options_int(o, "top-k");
    s.top_p = options_number(o, "top-p");
    s.penalty = options_number(o, "repetition-penalty");
    s.seed = (uint64_t)options_int(o, "seed");
    s.piece = generate_piece;
    return s;
}

// What all begins with that reads prompts: g = them and their tokens.
static inline void generate_begin(Generation* g, Trainer* t, const volatile sig_atomic_t* signal) {
    memset(g, 0, sizeof *g);
    g->t = t, g->signal = signal, g->context = t->T;
    generate_check(t);
    trainer_open_tokenizer(t);
    generate_read(g);
    generate_encode(g);
}

// Positions that the model takes at a time: the next token of all texts, or a piece of one that has at most `longest`.
static inline int generate_positions(int texts, int longest) {
    int piece = longest < generate_piece ? longest : generate_piece;
    return texts > piece ? texts : piece;
}

// The model once more, for as many positions as there will be; `narrow` of them at a time, where that is not 0.
static inline Model* generate_model(Trainer* t, int longest, int narrow) {
    Model* model = t->model = t->kind->create(t->kind, &t->options, NULL, t->config, t->config_path, 1, longest);
    if (narrow && model->decode) { model->narrow(model, narrow); }
    if (model->prepare) { model->prepare(model, 0); }
    trainer_allocate(t, 0);
    return model;
}

// Logits of what follows a text, of which nothing was read, into s->logits; 0 if a signal came first.
static inline int generate_first_logits(const Generation* g, Sampler* s, SampleText text) {
    SampleText* texts[1] = {&text};
    if (!sample_read(s, g->t->model, texts, 1, g->signal)) { return 0; }
    g->t->model->decode(g->t->model, s->last, 1, 1, s->rows, s->first, s->logits);
    work_goes_on();
    return 1;
}

// With --weights bf16: rounds them, and says what that does to the prediction after the beginning of the first prompt.
static inline void generate_round_weights(Generation* g, Sampler* s) {
    enum { MOST = 64 };  // tokens, which are read twice
    Trainer* t = g->t;
    if (!options_round_weights(&t->options)) { return; }
    size_t V = (size_t)t->model->V;
    real *exact = (real*)xalloc(V, sizeof(real), "logits"), *rounded = s->logits;
    SampleText begin = g->list[0].tokens;
    if (begin.length > MOST) { begin.length = MOST; }
    int known = generate_first_logits(g, s, begin);
    memcpy(exact, rounded, V * sizeof(real));
    trainer_round_weights(t, stderr);
    if (known && generate_first_logits(g, s, begin)) {
        double largest = 0, moved = 0;
        for (size_t v = 0; v < V; v++) { largest = fmax(largest, fabs((double)rounded[v] - (double)exact[v])); }
        softmax_row(exact, V);
        softmax_row(rounded, V);
        for (size_t v = 0; v < V; v++) { moved += fabs((double)rounded[v] - (double)exact[v]) / 2; }
        fprintf(stderr,
                "after %d tokens of the first prompt logits differ from those of fp32 by at most %.2g, and %.2g %% of "
                "the probability goes to other tokens\n",
                begin.length, largest, 100 * moved);
    }
    s->read_seconds = s->read_tokens = s->decode_seconds = s->decode_tokens = 0;
    free(exact);
}

// The program after its command line, model and checkpoint are known; returns the exit status. *signal: the one that
// came, 0: none; *under_way = 1 from when one ends the work in good order.
static inline int trainer_generate(Trainer* t, const volatile sig_atomic_t* signal, volatile sig_atomic_t* under_way) {
    double began = now_seconds();
    const OptionTable* o = &t->options;
    const Option* stop = options_row(o, "stop");
    Generation g;
    generate_begin(&g, t, signal);
    g.stops = stop->texts, g.stop_count = stop->texts_count;
    for (int i = 0; i < g.stop_count; i++) { g.longest_stop = max_size(g.longest_stop, strlen(g.stops[i])); }
    int batch = options_given(o, "batch") ? (int)options_int(o, "batch") : 1;
    g.lines |= batch > 1;
    batch = batch > g.count ? g.count : batch;
    generate_find_ends(&g);
    int longest = generate_longest(&g);
    Model* model = generate_model(t, longest, generate_positions(batch, longest));
    Sampler s = generate_sampler(o);
    sampler_make(&s, model, batch);
    double bytes = model->decode ? model->cache_bytes(model, batch, longest) : 0;
    if (model->decode) { model->cache_begin(model, batch, longest); }
    *under_way = 1;
    generate_round_weights(&g, &s);
    int going = generate_run(&g, &s, batch);
    if (!going) { generate_write_rest(&g, "signal"); }
    generate_report(&g, &s, now_seconds() - began, bytes);
    return going ? 0 : 128 + *signal;
}

// --plan=CARD --generate: of the model that would be made for it.
static inline void trainer_print_token(Trainer* t) {
    const OptionTable* o = &t->options;
    const int rows = options_given(o, "batch") ? (int)options_int(o, "batch") : 1;
    char text[32];
    Model* model = t->kind->create(t->kind, o, t->preset, t->config, t->config_path, 1, t->T);
    printf("%s, %s: %s parameters in %d tensors\n", t->kind->program, t->weights ? t->weights : t->preset,
           format_count(text, (double)tensor_parameters(&model->tensors)), model->tensors.count);
    printf("%d text%s at a time, each of %d tokens\n\n", rows, rows == 1 ? "" : "s", t->T);
    model->narrow(model, generate_positions(rows, t->T));
    model->print_token(model, options_text(o, "plan"), rows, t->T);
}

#endif

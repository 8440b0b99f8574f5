// test_explain.h - --explain: its numbers against the model's own, tokens as they are shown, its table and page as their
// user gets them. Included after test_generate.h.
#ifndef PONDER_TEST_EXPLAIN_H
#define PONDER_TEST_EXPLAIN_H

#include "test_generate.h"

// ---- numbers ----

// Every distribution against one that is computed plainly from the same logits; losses against those of a validation.
// Longer than a block of positions.
static void test_explain_numbers(void) {
    enum { T = 2 * EXPLAIN_ROWS + 9, COUNT = 4 };
    Model* model = small_model("--ponder 3 --ponder-top-k 7", 1, T);
    int V = model->V, inputs[T], targets[T], bad = 0;
    random_tokens(inputs, targets, T, V);
    Explained e = explain_run(model, inputs, T, COUNT, &bad);
    CHECK(bad == -1 && e.passes == 4 && e.count == COUNT, "bad %d, %d passes, %d candidates", bad, e.passes, e.count);
    real* logits = (real*)xalloc((size_t)(2 * T * V), sizeof(real), "logits");
    double* p = (double*)xalloc((size_t)V, sizeof(double), "probabilities");
    model->logits(model, inputs, 1, T, 0, logits);
    for (int s = 0; s < 4; s++) {
        model->pass_logits(model, s, 0, 1, T, logits + (size_t)(T * V));
        for (int t = 0; t < T; t++) {
            const real* z = logits + (size_t)((s == 3 ? t : T + t) * V);  // of the last pass by the usual way
            const ExplainToken* best = explain_best(&e, t, s);
            double sum = 0, entropy = 0;
            for (int v = 0; v < V; v++) { sum += exp((double)z[v]); }
            for (int v = 0; v < V; v++) {
                p[v] = exp((double)z[v]) / sum;
                entropy -= p[v] * log2(p[v]);
                int above = 0;  // of the candidates
                for (int k = 0; k < COUNT; k++) { above += best[k].id == v || z[best[k].id] >= z[v]; }
                CHECK(above >= 1 && (above == COUNT || best[above - 1].id == v), "pass %d at %d: token %d", s, t, v);
            }
            size_t cell = explain_at(&e, t, s);
            CHECK(fabs(e.entropy[cell] - entropy) <= 1e-5, "%g bits, expected %g", e.entropy[cell], entropy);
            double loss = t + 1 < T ? -log(p[inputs[t + 1]]) : 0;
            CHECK(fabs(e.loss[cell] - loss) <= 2e-6, "pass %d at %d: loss %g, expected %g", s, t, e.loss[cell], loss);
            for (int k = 0; k < COUNT; k++) {
                CHECK(fabs((double)best[k].p - p[best[k].id]) <= 1e-6, "pass %d at %d: %g, expected %g", s, t,
                      (double)best[k].p, p[best[k].id]);
            }
        }
    }
    for (int t = 0; t < T; t++) { targets[t] = explain_next(&e, t); }
    double losses[4];
    model->evaluate(model, inputs, targets, 1, T, losses);
    for (int s = 0; s < 4; s++) {
        ExplainPass sum = explain_pass(&e, s);
        CHECK(fabs(sum.loss - losses[s] / (T - 1)) <= 1e-6, "pass %d: %.9g, a validation says %.9g", s, sum.loss,
              losses[s] / (T - 1));
    }
    explained_free(&e);
    // More candidates than there are tokens; a logit that is none, of all passes.
    e = explain_run(model, inputs, 1, V + 9, &bad);
    CHECK(e.count == V && explain_next(&e, 0) == -1 && e.loss[0] == 0, "%d candidates", e.count);
    explained_free(&e);
    for (size_t i = 0; i < model->tensors.total; i++) { model->params[i] = NAN; }
    e = explain_run(model, inputs, T, COUNT, &bad);
    CHECK(bad == 0, "the first position without finite logits is %d", bad);
    explained_free(&e);
    // Or from a position on that is not in the first block, where a token's own row is none.
    enum { LATE = EXPLAIN_ROWS + 5 };
    model = small_model("--ponder 0 --tie 0", 1, T);
    for (int t = 0; t < LATE; t++) { inputs[t] = inputs[t] == inputs[LATE] ? (inputs[t] + 1) % V : inputs[t]; }
    ((real*)ponder_of(model)->pass->embed.w)[(size_t)inputs[LATE] * (size_t)ponder_of(model)->pass->size.C] = NAN;
    e = explain_run(model, inputs, T, COUNT, &bad);
    CHECK(bad == LATE, "the first position without finite logits is %d", bad);
    explained_free(&e);
    free(logits);
    free(p);
}

// Ties: lower ids first. Where a prediction changed, and what is counted of it.
static void test_explain_changes(void) {
    const real z[5] = {1, 3, 3, -2, 3};
    ExplainToken row[3];
    double entropy = 0, loss = 0;
    CHECK(explain_row(z, 5, 4, 3, row, &entropy, &loss), "finite");
    CHECK(row[0].id == 1 && row[1].id == 2 && row[2].id == 4, "%d, %d, %d", row[0].id, row[1].id, row[2].id);
    CHECK(explain_row(z, 5, 4, 2, row, &entropy, &loss) && row[0].id == 1 && row[1].id == 2, "%d, %d of three equal",
          row[0].id, row[1].id);
    const real even[4] = {-7, -7, -7, -7}, infinite[2] = {0, -INFINITY};
    CHECK(explain_row(even, 4, 2, 1, row, &entropy, &loss) && fabs(entropy - 2) < 1e-12 && fabs(loss - log(4)) < 1e-12,
          "%g bits, loss %g", entropy, loss);
    CHECK(!explain_row(infinite, 2, 0, 1, row, &entropy, &loss), "an infinite logit is seen");
    // Four positions of three passes.
    ExplainToken best[12] = {{1, 0}, {1, 0}, {1, 0}, {1, 0}, {2, 0}, {2, 0},
                             {1, 0}, {2, 0}, {1, 0}, {7, 0}, {7, 0}, {9, 0}};
    const int tokens[4] = {0, 1, 2, 1};
    double numbers[24] = {0};
    for (int i = 0; i < 12; i++) { numbers[i] = 2, numbers[12 + i] = i < 9 ? 3 : 0; }
    Explained e = {4, 3, 1, tokens, best, numbers, numbers + 12};
    const int settled[4] = {0, 1, 2, 2}, changed[3] = {0, 2, 2}, hits[3] = {2, 2, 3};
    for (int i = 0; i < 4; i++) { CHECK(explain_settled(&e, i) == settled[i], "position %d", i); }
    for (int s = 0; s < 3; s++) {
        ExplainPass sum = explain_pass(&e, s);
        CHECK(sum.changed == changed[s] && sum.hits == hits[s], "pass %d: %d changed, %d hits", s, sum.changed,
              sum.hits);
        CHECK(sum.settled == (s == 2 ? 2 : 1), "pass %d: %d settled", s, sum.settled);
        CHECK(fabs(sum.entropy - 2) < 1e-12 && fabs(sum.loss - 3) < 1e-12, "means %g, %g", sum.entropy, sum.loss);
    }
}

// ---- tokens as they are shown ----

static void test_explain_shown(void) {
    static const struct {
        const char *bytes, *page, *table;  // the table's in 12 columns
    } cases[] = {
        {" int", " int", "\" int\"      "},
        {"\n\t\r\\", "\\n\\t\\r\\\\", "\"\\n\\t\\r\\\\\"  "},
        {"say \"x\"", "say \"x\"", "\"say \\\"x\\\"\" "},
        {"\x01\x7f", "\\u{1}\\u{7f}", "\"\\u{1}..\"   "},
        {"a\xff", "a\\xff", "\"a\\xff\"     "},
        {"\xe2\x82", "\\xe2\\x82", "\"\\xe2\\x82\"  "},
        {"\xc3\xa9", "\xc3\xa9", "\"\xc3\xa9\"         "},
        {"0123456789", "0123456789", "\"0123456789\""},
        {"0123456789a", "0123456789a", "\"01234567..\""},
        {"\xe6\xbc\xa2\xe5\xad\x97\xe6\xbc\xa2\xe5\xad\x97\xe6\xbc\xa2\xe5\xad\x97",
         "\xe6\xbc\xa2\xe5\xad\x97\xe6\xbc\xa2\xe5\xad\x97\xe6\xbc\xa2\xe5\xad\x97",
         "\"\xe6\xbc\xa2\xe5\xad\x97\xe6\xbc\xa2\xe5\xad\x97..\""},  // two columns each
        {"\xe2\x80\xae"
         "abc",
         "\\u{202e}abc", "\"\\u{202e}..\""},  // turns the direction
        {"\xcc\x81"
         "e\xcc\x81",
         "\\u{301}e\xcc\x81", "\"\\u{301}e\xcc\x81\"  "},                           // a mark on nothing, and on e
        {"\xd7\xa9", "\xd7\xa9", "\xe2\x80\x8e\"\xd7\xa9\"\xe2\x80\x8e         "},  // from right to left
        {"\xc2\xa0\xe3\x80\x80", "\\u{a0}\\u{3000}", "\"\\u{a0}..\"  "},
        {"\xef\xbb\xbf", "\\u{feff}", "\"\\u{feff}\"  "},
        {"\xef\xbf\xbe", "\\u{fffe}", "\"\\u{fffe}\"  "},              // no character
        {"\xed\x9e\xa3", "\xed\x9e\xa3", "\"\xed\x9e\xa3\"        "},  // the last of Hangul, two columns
        {"\xf0\x9e\xa4\x80", "\xf0\x9e\xa4\x80",                       // Adlam, from right to left
         "\xe2\x80\x8e\"\xf0\x9e\xa4\x80\"\xe2\x80\x8e         "},
        {"", "", "\"\"          "},
        {"</script>", "</script>", "\"</script>\" "},
    };
    unicode_begin();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        StringBuilder page = {0}, table = {0};
        sb_append(&page, "", 0);
        explain_show(&page, cases[i].bytes, strlen(cases[i].bytes));
        explain_quote(&table, cases[i].bytes, strlen(cases[i].bytes), 12, 1);
        CHECK(strcmp(page.data, cases[i].page) == 0, "case %zu: on a page [%s], expected [%s]", i, page.data,
              cases[i].page);
        CHECK(strcmp(table.data, cases[i].table) == 0, "case %zu: in a table [%s], expected [%s]", i, table.data,
              cases[i].table);
        free(page.data);
        free(table.data);
    }
    StringBuilder sb = {0};
    explain_show(&sb, "\0", 1);
    explain_html(&sb, "<a href='\"'>&amp;");
    CHECK(strcmp(sb.data, "\\u{0}&lt;a href=&#39;&quot;&#39;&gt;&amp;amp;") == 0, "[%s]", sb.data);
    free(sb.data);
}

// ---- the program ----

// A command on test_generate.h's checkpoint: $E begins it, $O is its folder, $P the page's name.
static char* explain_command(const char* line) {
    generate_setup();
    return format_string("O=%s; P=$O/page.html; E=\"" TRAIN " --model $O/step_00000003 --explain --page $P\"; %s",
                         generate_folder, line);
}
static void explain_must(const char* line) {
    char* command = explain_command(line);
    must(command);
    free(command);
}

// The same table and page from each place that a prompt can come from, for any number of threads and instruction set.
static void test_explain_table(void) {
    explain_must("$E --prompt 'int f0(' >$O/a 2>$O/e && cp $P $O/page.a && grep -q 'page .*page.html (' $O/e");
    explain_must(
        "printf 'int f0(' >$O/p.txt && $E --prompt-file $O/p.txt >$O/b 2>$O/e && cmp $O/a $O/b && cmp $P $O/page.a");
    explain_must("printf 'int f0(' | OMP_NUM_THREADS=1 $E >$O/b 2>$O/e && cmp $O/a $O/b && cmp $P $O/page.a");
    if (program_runs_with("PONDER_ISA=portable")) {
        explain_must("PONDER_ISA=portable $E --prompt 'int f0(' >$O/b 2>$O/e && cmp $O/a $O/b && cmp $P $O/page.a");
    }
    explain_must("grep -q '3 passes (S = 2) over 7 tokens' $O/a && grep -q '^0 \"i\" then \"n\"' $O/a && "
                 "grep -q '^6 \"(\" the text ends' $O/a && [ $(grep -c '^ [ *]   2 ' $O/a) = 7 ]");
    explain_must("$E --steps-at-inference 0 --prompt 'int f0(' >$O/b 2>$O/e && grep -q '1 pass (S = 0)' $O/b");
    explain_must("$E --steps-at-inference 12 --prompt 'int f0(' >$O/b 2>$O/e && grep -q '13 passes (S = 12)' $O/b");
    explain_must("$E --steps-at-inference 2 --prompt 'int f0(' >$O/b 2>$O/e && tail -n 4 $O/a >$O/c && "
                 "tail -n 4 $O/b | cmp - $O/c");
    // A config.json may say S for inference too, 0 like any other.
    explain_must("cp -r $O/step_00000003 $O/own && sed -i '1s/{/{ \"steps_at_inference\": 0,/' $O/own/config.json && "
                 "$E --model $O/own --prompt 'int f0(' >$O/b 2>$O/e && grep -q '1 pass (S = 0)' $O/b && "
                 "grep -q 'S is steps_at_inference of config.json' $O/b");
    explain_must("for n in 1 2 6 50; do $E --candidates $n --prompt 'int \"f0\"(' 2>$O/e || exit 1; done >$O/b; "
                 "[ -z \"$(grep -E '.{121}' $O/b)\" ]");
    explain_must("$E --prompt i >$O/b 2>$O/e && grep -q 'over 1 token$' $O/b");
    // The page alone, where it goes to standard output; a closed pipe takes nothing from the page.
    explain_must("$E --page /dev/stdout --prompt 'int f0(' 2>$O/e | cmp - $O/page.a");
    explain_must("rm $P; $E --prompt 'int f0(' 2>$O/e | true; cmp $P $O/page.a");
}

// Mean losses are those that a validation of the same text prints.
static void test_explain_validation(void) {
    enum { T = 40 };
    generate_setup();
    static const char text[] = "static inline int f0(const char* s) { return 1; }";
    int32_t header[256] = {20240520, 1, T + 1};
    uint16_t tokens[T + 1];
    for (int i = 0; i <= T; i++) { tokens[i] = (unsigned char)text[i]; }
    StringBuilder shard = {0};
    sb_append(&shard, (const char*)header, sizeof header);
    sb_append(&shard, (const char*)tokens, sizeof tokens);
    char *path = format_string("%s/text.bin", generate_folder), *prompt = format_string("%s/text.txt", generate_folder);
    write_bytes(path, shard.data, shard.size);
    write_bytes(prompt, text, T + 1);
    free(shard.data);
    explain_must("$E --prompt-file $O/text.txt 2>$O/e | tail -n 3 >$O/a && " TRAIN
                 " --model $O/step_00000003 --eval-only --val $O/text.bin --seq 40 --batch 1 >$O/b");
    char *output = NULL,
         *command = explain_command(
             "grep -oE '[0-9]+[.][0-9]{6}' $O/a | sed -n 'n;p'; sed -n 's/^val_loss_pass [0-9] //p' $O/b");
    int code = shell(&output, "%s", command);
    double n[6] = {0};
    int found = sscanf(output, "%lf %lf %lf %lf %lf %lf", &n[0], &n[1], &n[2], &n[3], &n[4], &n[5]);
    CHECK(code == 0 && found == 6, "expected three losses twice: %s", output);
    for (int s = 0; s < 3; s++) {  // six decimals of each are there
        CHECK(fabs(n[s] - n[3 + s]) <= 1.01e-6, "pass %d: %.6f, a validation says %.6f", s, n[s], n[3 + s]);
    }
    free(output);
    free(command);
    free(path);
    free(prompt);
}

// A prompt that would leave an element, an attribute, a string or a comment, with bytes that are no UTF-8.
#define EXPLAIN_NASTY                                                                                               \
    "printf '</script><!-- \"q\" \\047a\\047 & \\\\ \\001\\177\\t\\342\\200\\256\\377 \\327\\251 </td>]]> end\\n' " \
    ">$O/nasty"

// What python's parser says of the page: elements end in order, ids are there once, links lead to them.
static const char explain_parser[] =
    "import json, sys\n"
    "from html.parser import HTMLParser\n"
    "void = {'meta', 'br'}\n"
    "class Page(HTMLParser):\n"
    "    def __init__(self):\n"
    "        super().__init__()\n"
    "        self.open, self.ids, self.links, self.data = [], [], [], ''\n"
    "    def handle_starttag(self, tag, attrs):\n"
    "        attrs = dict(attrs)\n"
    "        if 'id' in attrs: self.ids.append(attrs['id'])\n"
    "        if 'href' in attrs: self.links.append(attrs['href'])\n"
    "        assert not {'src', 'onclick'} & set(attrs), attrs\n"
    "        if tag not in void: self.open.append(tag)\n"
    "    def handle_endtag(self, tag):\n"
    "        assert self.open and self.open[-1] == tag, (tag, self.open, self.getpos())\n"
    "        self.open.pop()\n"
    "    def handle_data(self, text):\n"
    "        if self.open[-1:] == ['script'] and text.startswith('{'): self.data += text\n"
    "text = open(sys.argv[1], encoding='utf-8').read()\n"
    "page = Page()\n"
    "page.feed(text)\n"
    "page.close()\n"
    "assert not page.open, page.open\n"
    "assert len(page.ids) == len(set(page.ids)), page.ids\n"
    "assert page.links and all(link[0] == '#' and link[1:] in page.ids for link in page.links), page.links\n"
    "data = json.loads(page.data)\n"
    "assert len(data['at']) == len(page.links), len(data['at'])\n"
    "shown = ''.join(data['tokens'][at[0]] for at in data['at'])\n"
    "assert shown == open(sys.argv[2], encoding='utf-8').read(), shown\n"
    "assert all(len(c) == 12 for at in data['at'] for c in at[1]), data['at'][0]\n";

// A token that would end the script that the data stand in, or begin a comment there.
static void test_explain_script(void) {
    const char* volatile nowhere = NULL;  // gcc, seeing that it is none, would warn of messages that name it
    Tokenizer* tokenizer = tokenizer_open(nowhere, 257);
    const TokenizerPiece piece = tokenizer->pieces[256];
    static char text[] = "</script><!--\"&";
    tokenizer->pieces[256].text = text;
    tokenizer->pieces[256].size = strlen(text);
    ExplainToken best[2] = {{256, 1}, {'<', 1}};
    const int tokens[2] = {256, 256};
    double numbers[4] = {1, 2, 3, 0};
    Explained e = {2, 1, 1, tokens, best, numbers, numbers + 2};
    ExplainSource source = {"</title><b>\xff", "train", NULL};
    StringBuilder page = explain_page(&e, tokenizer, 257, &source);
    int ends = 0;
    for (const char* at = page.data; (at = strstr(at, "</script")) != NULL; at++) { ends++; }
    CHECK(ends == 2, "%d scripts end", ends);
    CHECK(!strstr(page.data, "script><!--"), "a token is text");
    CHECK(strstr(page.data, "[\"\\u003c/script>\\u003c!--\\\"&\",\"\\u003c\"]"), "the tokens are %.60s",
          strstr(page.data, "{\"tokens\""));
    CHECK(strstr(page.data, "<title>&lt;/title&gt;&lt;b&gt;\\xff: "), "the title is %.60s",
          strstr(page.data, "<title>"));
    free(page.data);
    tokenizer->pieces[256] = piece;
    tokenizer_close(tokenizer);
}

// What a page shows of its passes, made by hand: of many some, the first and the last among them; of a single token no
// loss; lines of a text as lines; of a small probability the first digit.
static void test_explain_page_parts(void) {
    enum { MOST = 65 };
    const char* volatile nowhere = NULL;
    Tokenizer* tokenizer = tokenizer_open(nowhere, 257);
    ExplainToken best[2 * MOST];
    double entropy[2 * MOST], loss[2 * MOST];
    for (int i = 0; i < 2 * MOST; i++) {
        best[i].id = 'a', best[i].p = 1;
        entropy[i] = 1, loss[i] = -log(0.0005);
    }
    const int tokens[2] = {'\n', 'a'};
    static const int passes[][2] = {{1, 1}, {9, 9}, {10, 6}, {13, 7}, {MOST, 9}};  // and how many of them
    for (int i = 0; i < 5; i++) {
        Explained e = {2, passes[i][0], 1, tokens, best, entropy, loss};
        StringBuilder sb = {0};
        explain_page_strip(&sb, &e, tokenizer);
        int listed = 0;
        for (const char* at = sb.data; (at = strstr(at, "<li>")) != NULL; at++) { listed++; }
        char* last = format_string("\">%d</span>%s</li>\n</ul>", passes[i][0] - 1,
                                   i ? "the last pass" : "pass 0, never changed");
        CHECK(listed == passes[i][1] && strstr(sb.data, last), "%d of %d passes: %s", listed, passes[i][0], sb.data);
        CHECK(strstr(sb.data, ">\\n</a><br><a ") && !strstr(sb.data, ">a</a><br>"), "lines: %s", sb.data);
        sb.size = 0;
        explain_page_table(&sb, &e, tokenizer);
        CHECK(strstr(sb.data, "<i>0.05 %, 1.00 bits</i>") != NULL, "0.05 %%: %s", sb.data);
        sb.size = 0;
        e.n = 1;
        explain_page_summary(&sb, &e);
        CHECK(strstr(sb.data, "<td>1.000</td><td>&ndash;</td><td>&ndash;</td>") && isfinite(explain_pass(&e, 0).loss),
              "%s", sb.data);
        free(last);
        free(sb.data);
    }
    tokenizer_close(tokenizer);
}

static void test_explain_page(void) {
    enum { NASTY = 50 };  // bytes of it
    explain_must(EXPLAIN_NASTY " && $E --context 99 --prompt-file $O/nasty >$O/a 2>$O/e");
    explain_must("! grep -qi http $P && [ $(grep -o '</script' $P | wc -l) = 2 ] && ! grep -q 'src=' $P && "
                 "head -n 2 $P | grep -q 'ponder.c: --explain' && [ $(grep -c '<tr id=' $P) = $(wc -c <$O/nasty) ]");
    explain_must("! LC_ALL=C grep -q \"$(printf '[\\001\\177\\377]')\" $P $O/a");  // shown, not sent on
    // The data as JSON that the trainers' own parser takes.
    char *path = format_string("%s/page.html", generate_folder), *text = NULL;
    size_t size = 0;
    text = read_fully(path, &size);
    char* begin = text ? strstr(text, "id=\"data\">") : NULL;
    char* end = begin ? strstr(begin, "</script>") : NULL;
    CHECK(end != NULL, "%s has no data", path);
    if (end) {
        begin += strlen("id=\"data\">");
        Json* json = json_parse(begin, (size_t)(end - begin), path);
        const Json *at = json_get(json, "at"), *tokens = json_get(json, "tokens");
        CHECK(at && at->type == JSON_ARRAY && at->count == NASTY, "%d positions", at ? at->count : -1);
        CHECK(tokens && tokens->type == JSON_ARRAY && tokens->count > 20, "tokens");
        json_free(json);
    }
    free(text);
    if (shell(NULL, "python3 -c 'import html.parser'") != 0) {
        test_skip("no python3 here, whose parser reads the page");
    } else {
        char* program = format_string("%s/parse.py", generate_folder);
        write_bytes(program, explain_parser, strlen(explain_parser));
        char* shown = format_string("%s/shown", generate_folder);
        static const char want[] =
            "</script><!-- \"q\" 'a' & \\\\ \\u{1}\\u{7f}\\t\\xe2\\x80\\xae\\xff \\xd7\\xa9 </td>]]> end\\n";
        write_bytes(shown, want, strlen(want));
        explain_must("python3 $O/parse.py $P $O/shown");
        free(program);
        free(shown);
    }
    free(path);
}

static void test_explain_errors(void) {
    explain_must(
        "printf '{\"text\": \"a\"}\\n{\"text\": \"b\"}\\n' >$O/two.jsonl; printf 'mine' >$O/mine; "
        "head -n 1 $O/two.jsonl >$O/one.jsonl; $E --prompt-file $O/one.jsonl >$O/a 2>$O/e; $E --prompt a >$O/b "
        "2>$O/e; cmp $O/a $O/b");
    static const struct {
        const char *words, *line;
    } cases[] = {
        {"--prompt: expected a prompt, found an empty one", "$E --prompt ''"},
        {"standard input: expected a prompt, found an empty one", "$E </dev/null"},
        {"--explain: expected one prompt, found 2", "$E --prompt-file $O/two.jsonl"},
        {"the prompt has 9 tokens, the context 8 (--context)", "$E --prompt 123456789 --context 8"},
        {"--prompt and --prompt-file: expected one of them", "$E --prompt a --prompt-file $O/mine"},
        {"--candidates '0': expected a whole number, 1 to 50", "$E --prompt a --candidates 0"},
        {"--page '': expected the name of a file", "$E --prompt a --page ''"},
        {"none/page: could not be created: No such file", "$E --prompt a --page $O/none/page"},
        {"expected the name of a file to write, found a directory", "$E --prompt a --page $O"},
        {"/mine: expected no such file yet, or an earlier page", "$E --prompt a --page $O/mine"},
        {"--explain: expected --model DIR with a checkpoint|which has no weights",
         TRAIN " --explain --prompt a --page $P"},
        {"--eval-only and --explain|each is all", "$E --eval-only"},
        {"--plan and --explain", "$E --plan"},
        {"--generate and --explain", "$E --generate --prompt a"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char* command = explain_command(cases[i].line);
        expect_exit(1, cases[i].words, command);
        free(command);
    }
    explain_must("[ \"$(cat $O/mine)\" = mine ] && : >$O/nothing && $E --prompt a --page $O/nothing >$O/a 2>$O/e && "
                 "[ -s $O/nothing ]");
    // A disk that is full in the middle of the page: the old one is as it was, and nothing is left beside it.
    explain_must("$E --prompt 'int f0(' >$O/a 2>$O/e && cp $P $O/old && "
                 "{ (ulimit -f 8; $E --prompt 'int f1( and more' >/dev/null 2>$O/e); [ $? = 1 ]; } && "
                 "grep -q 'page.html: could not be written: File too large' $O/e && cmp $P $O/old && "
                 "[ -z \"$(ls $O | grep tmp)\" ]");
}

static void explain_tests(void) {
    RUN(test_explain_numbers);
    RUN_WHOLE(test_explain_changes);
    RUN_WHOLE(test_explain_shown);
    RUN_WHOLE(test_explain_script);
    RUN_WHOLE(test_explain_page_parts);
    RUN_WHOLE(test_explain_table);
    RUN_WHOLE(test_explain_validation);
    RUN_WHOLE(test_explain_page);
    RUN_WHOLE(test_explain_errors);
}

#endif

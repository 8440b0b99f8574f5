// tokenizer_json.h - reads the tokenizers of Hugging Face: tokenizer.json, or GPT-2's vocab.json with merges.txt.
//
// What encode.h does not do is refused, naming the key and its value: the pieces can still be shown.
#ifndef PONDER_TOKENIZER_JSON_H
#define PONDER_TOKENIZER_JSON_H

#include "encode.h"

static inline int tokenizer_is_type(const Json* object, const char* type) {
    return json_is(json_get(object, "type"), type);
}

// `"key" is VALUE, which is not known`: a value of the file that the encoder cannot follow.
static inline void tokenizer_refuse_value(Tokenizer* tokenizer, const char* key, const Json* value) {
    const Json* type = value && value->type == JSON_OBJECT ? json_get(value, "type") : NULL;
    char* text = value ? json_describe(type ? type : value) : format_string("absent");
    tokenizer_refuse(tokenizer, "its %s%s is %s, which this program cannot encode", key, type ? "'s type" : "", text);
    free(text);
}

// ---- vocabulary and merges ----

// Takes over a vocabulary {"piece": id, ...} or, of Unigram models, [["piece", score], ...].
static inline void tokenizer_read_vocab(Tokenizer* tokenizer, const Json* vocab) {
    for (int i = 0; i < vocab->count; i++) {
        const Json* item = vocab->items[i];
        const char* text = vocab->type == JSON_OBJECT ? vocab->keys[i] : NULL;
        size_t size = text ? strlen(text) : 0;  // a key has no NUL
        int64_t id = i;
        if (vocab->type == JSON_OBJECT) {
            id = json_get_int(vocab, text, -1, tokenizer->source);
            if (id >= 0 && id < tokenizer->count && tokenizer->pieces[id].text) {
                die("%s: id %lld stands for both '%.40s' and '%.40s'", tokenizer->source, (long long)id,
                    tokenizer->pieces[id].text, text);
            }
        } else {
            if (item->type != JSON_ARRAY || item->count < 1 || item->items[0]->type != JSON_STRING) {
                die("%s: expected [\"piece\", score] in the vocabulary, found something else at %d", tokenizer->source,
                    i);
            }
            text = item->items[0]->string;
            size = item->items[0]->length;
        }
        tokenizer_set_piece(tokenizer, id, text, size);
    }
}

// Decodes the pieces, written in the alphabet of bytes or with U+2581, and notes what each is encoded for.
static inline void tokenizer_decode_pieces(Tokenizer* tokenizer, int bytes) {
    for (int id = 0; id < tokenizer->count; id++) {
        TokenizerPiece* piece = &tokenizer->pieces[id];
        if (!piece->text) { continue; }
        if (bytes) {
            if (!alphabet_has(piece->text, piece->size)) { continue; }  // no word of bytes is this piece
            piece->size = alphabet_decode(piece->text, piece->size);
            tokenizer_set_key(tokenizer, id, piece->text, piece->size);
        } else {
            tokenizer_set_key(tokenizer, id, piece->text, piece->size);
            piece->size = tokenizer_unpiece(piece->text, piece->size);
        }
    }
}

// Decodes the pieces of WordPiece: what goes on with a word has "##" before it, or what the model says; what has not
// begins a word, added tokens too.
static inline void tokenizer_decode_words(Tokenizer* tokenizer, const Json* model) {
    const Json* prefix = json_get(model, "continuing_subword_prefix");
    int given = prefix && prefix->type == JSON_STRING;
    const char* text = given ? prefix->string : "##";
    size_t size = given ? prefix->length : 2;
    for (int id = 0; id < tokenizer->count; id++) {
        TokenizerPiece* piece = &tokenizer->pieces[id];
        if (!piece->text) { continue; }
        piece->begins = piece->size < size || memcmp(piece->text, text, size) != 0;
        if (piece->begins) { continue; }
        piece->size -= size;
        memmove(piece->text, piece->text + size, piece->size);
        piece->text[piece->size] = 0;
    }
}

// Adds the merge of rank `rank`, of two pieces. They are whatever bytes the file holds, NULs too, so they are handled
// by their sizes alone.
static inline void tokenizer_add_merge(Tokenizer* tokenizer, const Json* vocab, const char* left, size_t left_size,
                                       const char* right, size_t right_size, uint32_t rank) {
    StringBuilder both = {0};
    sb_append(&both, left, left_size);
    sb_append(&both, right, right_size);
    const char* texts[3] = {left, right, both.data};
    size_t sizes[3] = {left_size, right_size, both.size};
    int ids[3];
    for (int i = 0; i < 3; i++) {
        const Json* id = json_get_sized(vocab, texts[i], sizes[i]);
        int64_t number = -1;
        if (!id || !json_whole(id, &number) || number < 0 || number >= TOKENIZER_MAX) {
            die("%s: merge %u of %s and %s needs %s, which is not in the vocabulary", tokenizer->source, rank,
                json_shown(left, left_size), json_shown(right, right_size), json_shown(texts[i], sizes[i]));
        }
        ids[i] = (int)number;
    }
    bpe_add(&tokenizer->merges, ids[0], ids[1], ids[2], rank);
    free(both.data);
}

// A merge written as "left right": neither has a space, since the alphabet has none.
static inline void tokenizer_add_merge_line(Tokenizer* tokenizer, const Json* vocab, const char* line, size_t size,
                                            uint32_t rank) {
    const char* space = (const char*)memchr(line, ' ', size);
    size_t left = space ? (size_t)(space - line) : 0;
    if (left == 0 || left + 1 >= size) {
        die("%s: expected two pieces with a space between in merge %u, found %s", tokenizer->source, rank,
            json_shown(line, size));
    }
    tokenizer_add_merge(tokenizer, vocab, line, left, space + 1, size - left - 1, rank);
}

// The merges of tokenizer.json: ["a b", ...] or [["a", "b"], ...].
static inline void tokenizer_read_merges(Tokenizer* tokenizer, const Json* vocab, const Json* merges) {
    bpe_make(&tokenizer->merges, (size_t)merges->count);
    for (int i = 0; i < merges->count; i++) {
        const Json* merge = merges->items[i];
        if (merge->type == JSON_STRING) {
            tokenizer_add_merge_line(tokenizer, vocab, merge->string, merge->length, (uint32_t)i);
        } else if (merge->type == JSON_ARRAY && merge->count == 2 && merge->items[0]->type == JSON_STRING &&
                   merge->items[1]->type == JSON_STRING) {
            tokenizer_add_merge(tokenizer, vocab, merge->items[0]->string, merge->items[0]->length,
                                merge->items[1]->string, merge->items[1]->length, (uint32_t)i);
        } else {
            die("%s: expected two pieces in merge %d, found %s", tokenizer->source, i, json_type_name(merge->type));
        }
    }
}

// ---- added tokens ----

// Tokens beside the model's vocabulary; they replace what it says of the same id. Those that are looked for in
// normalized text are normalized too.
static inline void tokenizer_read_added(Tokenizer* tokenizer, const Json* added) {
    const char* path = tokenizer->source;
    TokenizerAdded* lists[2];
    int counts[2] = {0, 0};
    for (int k = 0; k < 2; k++) {
        lists[k] = (TokenizerAdded*)xalloc((size_t)added->count, sizeof(TokenizerAdded), "the added tokens");
    }
    Encoder encoder;
    memset(&encoder, 0, sizeof encoder);  // only to normalize
    encoder.tokenizer = tokenizer;
    for (int i = 0; i < added->count; i++) {
        const Json* item = added->items[i];
        if (item->type != JSON_OBJECT) {
            die("%s: expected an object in added_tokens, found %s", path, json_type_name(item->type));
        }
        const char* text = json_get_string(item, "content", "", path);
        size_t size = strlen(text);
        int64_t id = json_get_int(item, "id", -1, path);
        tokenizer_set_piece(tokenizer, id, text, size);
        int special = json_get_bool(item, "special", 0, path),
            level = json_get_bool(item, "normalized", !special, path);
        if (level) { size = encoder_normalize(&encoder, text, size, 0, &text); }
        if (size == 0) { continue; }
        TokenizerAdded* token = &lists[level][counts[level]++];
        token->id = (int)id;
        token->text = (char*)xalloc(size + 1, 1, "an added token");
        memcpy(token->text, text, size);
        token->size = size;
        token->normalized = level;
        token->special = special;
        token->lstrip = json_get_bool(item, "lstrip", 0, path);
        token->rstrip = json_get_bool(item, "rstrip", 0, path);
        token->single_word = json_get_bool(item, "single_word", 0, path);
    }
    for (int i = 0; i < 2; i++) { free(encoder.texts[i].data); }
    for (int k = 0; k < 2; k++) { tokenizer_make_set(&tokenizer->added[k], lists[k], counts[k]); }
}

// ---- normalizer and pre-tokenizer ----

static inline char* tokenizer_copy_text(const Json* string, size_t* size) {
    char* copy = (char*)xalloc(string->length + 1, 1, "a text of the normalizer");
    memcpy(copy, string->string, string->length);
    *size = string->length;
    return copy;
}

static inline void tokenizer_read_normalizer(Tokenizer* tokenizer, const Json* normalizer) {
    if (!normalizer || normalizer->type != JSON_OBJECT) { return; }
    const Json* list = json_get(normalizer, "normalizers");
    if (tokenizer_is_type(normalizer, "Sequence") && list && list->type == JSON_ARRAY) {
        for (int i = 0; i < list->count; i++) { tokenizer_read_normalizer(tokenizer, list->items[i]); }
        return;
    }
    TokenizerStep step;
    memset(&step, 0, sizeof step);
    const Json* pattern = json_get(normalizer, "pattern");
    const Json* from = pattern && pattern->type == JSON_OBJECT ? json_get(pattern, "String") : NULL;
    int replace = tokenizer_is_type(normalizer, "Replace");
    const Json* to = json_get(normalizer, replace ? "content" : "prepend");
    int has_from = from && from->type == JSON_STRING && from->length, has_to = to && to->type == JSON_STRING;
    if (tokenizer_is_type(normalizer, "NFC")) {
        step.kind = STEP_NFC;
    } else if (tokenizer_is_type(normalizer, "Prepend") && has_to) {
        step.kind = STEP_PREPEND;
    } else if (replace && has_from && has_to) {
        step.kind = STEP_REPLACE;
        step.from = tokenizer_copy_text(from, &step.from_size);
    } else {
        tokenizer_refuse_value(tokenizer, "normalizer", replace && pattern ? pattern : normalizer);
        return;
    }
    if (step.kind != STEP_NFC) { step.to = tokenizer_copy_text(to, &step.to_size); }
    if (tokenizer->step_count == TOKENIZER_STEPS) {
        tokenizer_refuse(tokenizer, "its normalizer has more than %d steps", TOKENIZER_STEPS);
        free(step.from);
        free(step.to);
        return;
    }
    tokenizer->steps[tokenizer->step_count++] = step;
}

// A cut by a regular expression, which must be one that words.h knows.
static inline void tokenizer_read_split(Tokenizer* tokenizer, const Json* split) {
    const Json* pattern = json_get(split, "pattern");
    const Json* regex = pattern && pattern->type == JSON_OBJECT ? json_get(pattern, "Regex") : NULL;
    const Json* behavior = json_get(split, "behavior");
    for (int kind = WORDS_GPT2; regex && kind <= WORDS_QWEN2; kind++) {
        if (!json_is(regex, words_patterns[kind]) || !json_is(behavior, "Isolated")) { continue; }
        if (json_get_bool(split, "invert", 0, tokenizer->source)) { break; }
        tokenizer->words = (WordsKind)kind;
        return;
    }
    tokenizer_refuse_value(
        tokenizer, regex && json_is(behavior, "Isolated") ? "pre_tokenizer's Split by Regex" : "pre_tokenizer's Split",
        regex && json_is(behavior, "Isolated") ? regex : behavior);
}

static inline void tokenizer_read_metaspace(Tokenizer* tokenizer, const Json* pre) {
    const char* path = tokenizer->source;
    const Json *scheme = json_get(pre, "prepend_scheme"), *mark = json_get(pre, "replacement");
    if (mark && !json_is(mark, SPACE_MARK)) { tokenizer_refuse_value(tokenizer, "pre_tokenizer's replacement", mark); }
    tokenizer->mark_spaces = 1;
    tokenizer->mark_split = json_get_bool(pre, "split", 1, path);
    tokenizer->mark_first = json_get_bool(pre, "add_prefix_space", 1, path);  // of older files
    if (scheme && scheme->type != JSON_NULL) {
        tokenizer->mark_first = json_is(scheme, "always") ? 1 : json_is(scheme, "first") ? 2 : 0;
        if (!tokenizer->mark_first && !json_is(scheme, "never")) {
            tokenizer_refuse_value(tokenizer, "pre_tokenizer's prepend_scheme", scheme);
        }
    }
}

// One part of the pre-tokenizer; `stage` rises from part to part: digits or a split, then the alphabet of bytes.
static inline void tokenizer_read_pre_part(Tokenizer* tokenizer, const Json* pre, int bytes, int* stage) {
    const char* path = tokenizer->source;
    int order = *stage;
    if (bytes && tokenizer_is_type(pre, "ByteLevel")) {
        if (json_get_bool(pre, "use_regex", 1, path)) {
            if (tokenizer->words != WORDS_NONE) { order = 9; }  // cut twice, by two patterns
            tokenizer->words = WORDS_GPT2;
        }
        tokenizer->prefix_space = json_get_bool(pre, "add_prefix_space", 1, path);
        if (tokenizer->prefix_space && order) { order = 9; }  // before every word
        *stage = 3;
    } else if (bytes && tokenizer_is_type(pre, "Digits")) {
        tokenizer->digits = json_get_bool(pre, "individual_digits", 0, path) ? 2 : 1;
        order = order > 0 ? 9 : order;
        *stage = 1;
    } else if (bytes && tokenizer_is_type(pre, "Split")) {
        tokenizer_read_split(tokenizer, pre);
        order = order > 1 ? 9 : order;
        *stage = 2;
    } else if (!bytes && tokenizer_is_type(pre, "Metaspace")) {
        tokenizer_read_metaspace(tokenizer, pre);
        *stage = 3;
    } else {
        tokenizer_refuse_value(tokenizer, "pre_tokenizer", pre);
        return;
    }
    if (order >= 3) { tokenizer_refuse_value(tokenizer, "pre_tokenizer (in this order)", pre); }
}

static inline void tokenizer_read_pre(Tokenizer* tokenizer, const Json* pre, int bytes) {
    int stage = 0;
    if (pre && pre->type == JSON_OBJECT) {
        const Json* list = json_get(pre, "pretokenizers");
        if (tokenizer_is_type(pre, "Sequence") && list && list->type == JSON_ARRAY) {
            for (int i = 0; i < list->count; i++) { tokenizer_read_pre_part(tokenizer, list->items[i], bytes, &stage); }
        } else {
            tokenizer_read_pre_part(tokenizer, pre, bytes, &stage);
        }
    }
    if (bytes && stage != 3) { tokenizer_refuse(tokenizer, "its pre_tokenizer does not end with ByteLevel"); }
}

// ---- the model ----

// The options of a BPE model; what is not known is refused.
static inline void tokenizer_read_model(Tokenizer* tokenizer, const Json* model) {
    const char* path = tokenizer->source;
    static const char* const none[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 3; i++) {
        const Json* value = json_get(model, none[i]);
        int off = !value || value->type == JSON_NULL || (value->type == JSON_STRING && value->length == 0) ||
                  (value->type == JSON_NUMBER && value->number == 0);
        if (!off) { tokenizer_refuse_value(tokenizer, none[i], value); }
    }
    tokenizer->ignore_merges = json_get_bool(model, "ignore_merges", 0, path);
    tokenizer->byte_fallback = json_get_bool(model, "byte_fallback", 0, path);
    tokenizer->fuse = json_get_bool(model, "fuse_unk", 0, path);
    const Json* unknown = json_get(model, "unk_token");
    if (unknown && unknown->type == JSON_STRING) {
        const Json* id = json_get_sized(json_get(model, "vocab"), unknown->string, unknown->length);
        int64_t number = -1;
        if (id && json_whole(id, &number) && number >= 0 && number < TOKENIZER_MAX) {
            tokenizer->unknown = (int)number;
        }
    }
    tokenizer->fuse &= tokenizer->unknown >= 0;
}

// The tokens of single bytes: of the alphabet, or <0x00> to <0xFF>.
static inline void tokenizer_find_bytes(Tokenizer* tokenizer, int bytes) {
    for (int byte = 0; byte < 256; byte++) {
        char text[8] = {(char)byte};
        size_t size = bytes ? 1 : (size_t)snprintf(text, sizeof text, "<0x%02X>", byte);
        tokenizer->byte_token[byte] = tokenizer_lookup(tokenizer, text, size);
    }
}

// A part of the pipeline is of this type, or is a sequence one of whose parts is.
static inline int tokenizer_has_part(const Json* root, const char* key, const char* list, const char* type) {
    const Json* part = json_get(root, key);
    if (!part || part->type != JSON_OBJECT) { return 0; }
    if (tokenizer_is_type(part, type)) { return 1; }
    const Json* parts = json_get(part, list);
    for (int i = 0; parts && parts->type == JSON_ARRAY && i < parts->count; i++) {
        if (parts->items[i]->type == JSON_OBJECT && tokenizer_is_type(parts->items[i], type)) { return 1; }
    }
    return 0;
}

static inline void tokenizer_read_json(Tokenizer* tokenizer, const char* text, size_t size) {
    const char* path = tokenizer->source;
    Json* root = json_parse(text, size, path);
    const Json* model = root->type == JSON_OBJECT ? json_get(root, "model") : NULL;
    const Json* vocab = model && model->type == JSON_OBJECT ? json_get(model, "vocab") : NULL;
    if (!vocab || (vocab->type != JSON_OBJECT && vocab->type != JSON_ARRAY)) {
        die("%s: expected a tokenizer with \"model\": {\"vocab\": ...}, found none; is it a tokenizer.json of Hugging "
            "Face?",
            path);
    }
    const Json *merges = json_get(model, "merges"), *type = json_get(model, "type");
    int bytes = tokenizer_has_part(root, "pre_tokenizer", "pretokenizers", "ByteLevel") ||
                tokenizer_has_part(root, "decoder", "decoders", "ByteLevel");
    int bpe = vocab->type == JSON_OBJECT && merges && merges->type == JSON_ARRAY &&
              (!type || type->type == JSON_NULL || json_is(type, "BPE"));
    tokenizer_read_vocab(tokenizer, vocab);
    if (bpe) {
        tokenizer_read_model(tokenizer, model);
        tokenizer_read_normalizer(tokenizer, json_get(root, "normalizer"));
        tokenizer_read_pre(tokenizer, json_get(root, "pre_tokenizer"), bytes);
        if (!tokenizer->refusal) { tokenizer_read_merges(tokenizer, vocab, merges); }
    } else if (type && type->type == JSON_STRING) {
        tokenizer_refuse_value(tokenizer, "model", model);
    } else {
        tokenizer_refuse(tokenizer, "its model has no merges: it is not BPE");
    }
    int sentence = !bytes && !tokenizer->refusal;
    tokenizer->kind = bpe && bytes ? TOKENIZER_BPE : bpe && sentence ? TOKENIZER_SENTENCE : TOKENIZER_PIECES;
    int wordpiece = !bpe && json_is(type, "WordPiece");
    if (!wordpiece) { tokenizer_decode_pieces(tokenizer, bytes); }
    tokenizer_make_map(tokenizer, 0);
    tokenizer_find_bytes(tokenizer, bytes);
    tokenizer_find_cuts(tokenizer);
    if (tokenizer->ignore_merges) { tokenizer->cut_marks = 0; }  // what is a piece depends on the whole text
    const Json* added = json_get(root, "added_tokens");
    if (added && added->type == JSON_ARRAY) { tokenizer_read_added(tokenizer, added); }
    if (wordpiece) { tokenizer_decode_words(tokenizer, model); }
    json_free(root);
}

// ---- vocab.json and merges.txt ----

// Makes <|endoftext|> in a prompt the end-of-text token.
static inline void tokenizer_add_eot(Tokenizer* tokenizer, int id) {
    TokenizerAdded* list = (TokenizerAdded*)xalloc(1, sizeof(TokenizerAdded), "the added tokens");
    list->id = id;
    list->text = format_string("<|endoftext|>");
    list->size = strlen("<|endoftext|>");
    list->special = 1;
    tokenizer_make_set(&tokenizer->added[0], list, 1);
}

// GPT-2's first files: vocab.json {"piece": id} and merges.txt, a merge a line.
static inline void tokenizer_read_gpt2(Tokenizer* tokenizer, const char* vocab_text, size_t vocab_size,
                                       const char* merges, size_t size) {
    Json* vocab = json_parse(vocab_text, vocab_size, tokenizer->source);
    if (vocab->type != JSON_OBJECT) {
        die("%s: expected an object of pieces and ids, found %s", tokenizer->source, json_type_name(vocab->type));
    }
    tokenizer->kind = TOKENIZER_BPE;
    tokenizer->words = WORDS_GPT2;
    tokenizer_read_vocab(tokenizer, vocab);
    size_t lines = 1;
    for (size_t i = 0; i < size; i++) { lines += merges[i] == '\n'; }
    bpe_make(&tokenizer->merges, lines);
    uint32_t rank = 0;
    for (size_t start = 0, end; start < size; start = end + 1) {
        const char* newline = (const char*)memchr(merges + start, '\n', size - start);
        end = newline ? (size_t)(newline - merges) : size;
        size_t length = end - start - (end > start && merges[end - 1] == '\r');
        if (length == 0 || (start == 0 && merges[0] == '#')) { continue; }  // "#version: 0.2"
        tokenizer_add_merge_line(tokenizer, vocab, merges + start, length, rank++);
    }
    int eot = (int)json_get_int(vocab, "<|endoftext|>", -1, tokenizer->source);
    json_free(vocab);
    tokenizer_decode_pieces(tokenizer, 1);
    tokenizer_make_map(tokenizer, 0);
    tokenizer_find_bytes(tokenizer, 1);
    if (eot >= 0) { tokenizer_add_eot(tokenizer, eot); }
}

#endif

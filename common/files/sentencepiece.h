// sentencepiece.h - reads tokenizer.model, SentencePiece's file of pieces and scores (protocol buffers).
//
// BPE models are encoded as the sentencepiece library does: of two neighbours whose joined text is a piece the one of
// the highest score becomes that piece. Here these are merges: every way in which a piece parts into two is one, and
// its rank follows from the piece's score. A character that is part of pieces but none itself, and a piece that the
// user has defined, which is found before all others and never merges, have ids of their own above the vocabulary.
//
// Special tokens (<s>) in a text are text. Unigram models, and normalizers that change characters, are refused.
// Source: sentencepiece's src/sentencepiece_model.proto, bpe_model.cc and normalizer.cc.
#ifndef PONDER_SENTENCEPIECE_H
#define PONDER_SENTENCEPIECE_H

#include "vocabulary.h"

// What kinds of pieces there are.
// (A piece of the longest kind parts in as many ways, each of which is looked up.)
enum { SENTENCE_LONGEST = 4096 };  // bytes of a piece
enum { SENTENCE_NORMAL = 1, SENTENCE_UNKNOWN, SENTENCE_CONTROL, SENTENCE_USER, SENTENCE_UNUSED, SENTENCE_BYTE };

// A message of protocol buffers, read field by field.
typedef struct {
    const unsigned char *at, *end;
    const char* source;  // for messages
    size_t whole;        // bytes of the file
} ProtoReader;

// A field: `number` is its value if it is a number, `bytes` and `size` if it is a text or a message.
typedef struct {
    int field;
    int wire;  // 0: varint, 1: 8 bytes, 2: text or message, 5: 4 bytes
    uint64_t number;
    const char* bytes;
    size_t size;
} ProtoField;

__attribute__((noreturn)) static inline void proto_die(const ProtoReader* p, const char* what) {
    die("%s: expected a model of SentencePiece, found %s, %zu bytes before the end of the part that is read; it is cut "
        "off, damaged or another file",
        p->source, what, (size_t)(p->end - p->at));
}

static inline uint64_t proto_varint(ProtoReader* p) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (p->at == p->end) { proto_die(p, "the end inside a number"); }
        uint64_t byte = *p->at++;
        value |= (byte & 127) << shift;
        if (byte < 128) { return value; }
    }
    proto_die(p, "a number of more than ten bytes");
}

// The next field; 0 at the end.
static inline int proto_next(ProtoReader* p, ProtoField* field) {
    if (p->at == p->end) { return 0; }
    memset(field, 0, sizeof *field);
    uint64_t tag = proto_varint(p);
    field->wire = (int)(tag & 7);
    if (tag >> 3 == 0 || tag >> 3 > INT_MAX) { proto_die(p, "a field without a number"); }
    field->field = (int)(tag >> 3);
    if (field->wire == 0) {
        field->number = proto_varint(p);
        return 1;
    }
    uint64_t size = field->wire == 2 ? proto_varint(p) : field->wire == 1 ? 8 : field->wire == 5 ? 4 : UINT64_MAX;
    if (size == UINT64_MAX) { proto_die(p, "a field of a kind that there is not"); }
    if (size > (uint64_t)(p->end - p->at)) { proto_die(p, "a field that is longer than what is left"); }
    field->bytes = (const char*)p->at;
    field->size = (size_t)size;
    if (field->wire != 2) {
        for (size_t i = 0; i < size; i++) { field->number |= (uint64_t)p->at[i] << 8 * i; }
    }
    p->at += size;
    return 1;
}

static inline ProtoReader proto_inside(const ProtoReader* p, const ProtoField* field) {
    ProtoReader inside = *p;
    inside.at = (const unsigned char*)field->bytes;
    inside.end = inside.at + field->size;
    return inside;
}

// ---- the file ----

// What is read of a model beside its pieces' texts.
typedef struct {
    float* scores;  // (capacity)
    int* types;     // (capacity)
    int count, capacity;
    int64_t model_type, byte_fallback, suffix;     // of the trainer
    int64_t unknown, bos, eos, pad;                // ids
    int64_t charsmap, dummy_prefix, trim, escape;  // of the normalizer
} SentenceModel;

static inline void sentence_read_piece(Tokenizer* tokenizer, SentenceModel* model, ProtoReader p) {
    ProtoField field;
    const char* text = "";
    size_t size = 0;
    float score = 0;
    int type = SENTENCE_NORMAL, id = model->count;
    while (proto_next(&p, &field)) {
        if (field.field == 1 && field.wire == 2) { text = field.bytes, size = field.size; }
        if (field.field == 2 && field.wire == 5) {
            uint32_t bits = (uint32_t)field.number;
            memcpy(&score, &bits, 4);
        }
        if (field.field == 3 && field.wire == 0) { type = (int)min_size((size_t)field.number, 99); }
    }
    if (size == 0) { die("%s: expected a text of piece %d, found none", tokenizer->source, id); }
    if (score != score) { die("%s: expected a score of piece %d, found NaN", tokenizer->source, id); }
    if (id == model->capacity) {
        int larger = id ? 2 * id : 1024;
        float* scores = (float*)xalloc((size_t)larger, sizeof(float), "scores of pieces");
        int* types = (int*)xalloc((size_t)larger, sizeof(int), "types of pieces");
        if (id) { memcpy(scores, model->scores, (size_t)id * sizeof(float)); }
        if (id) { memcpy(types, model->types, (size_t)id * sizeof(int)); }
        free(model->scores);
        free(model->types);
        model->scores = scores, model->types = types, model->capacity = larger;
    }
    tokenizer_set_piece(tokenizer, id, text, size);
    model->scores[id] = score;
    model->types[id] = type;
    model->count++;
}

static inline void sentence_read_trainer(SentenceModel* model, ProtoReader p) {
    const struct {
        int field;
        int64_t* to;
    } known[] = {{3, &model->model_type}, {24, &model->suffix}, {35, &model->byte_fallback},
                 {40, &model->unknown},   {41, &model->bos},    {42, &model->eos},
                 {43, &model->pad}};
    for (ProtoField field; proto_next(&p, &field);) {
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
            if (field.field == known[i].field && field.wire == 0) { *known[i].to = (int32_t)field.number; }
        }
    }
}

static inline void sentence_read_normalizer(SentenceModel* model, ProtoReader p) {
    for (ProtoField field; proto_next(&p, &field);) {
        if (field.field == 2 && field.wire == 2) { model->charsmap = field.size > 0; }
        if (field.field == 3 && field.wire == 0) { model->dummy_prefix = field.number != 0; }
        if (field.field == 4 && field.wire == 0) { model->trim = field.number != 0; }
        if (field.field == 5 && field.wire == 0) { model->escape = field.number != 0; }
    }
}

// ---- pieces to merges ----

// Adds an id above the vocabulary's.
static inline int sentence_alias(Tokenizer* tokenizer, size_t* capacity, int id, const char* key, size_t size) {
    if ((size_t)tokenizer->alias_count == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 64;
        TokenizerAlias* more = (TokenizerAlias*)xalloc(*capacity, sizeof(TokenizerAlias), "characters of pieces");
        if (tokenizer->aliases) {
            memcpy(more, tokenizer->aliases, (size_t)tokenizer->alias_count * sizeof(TokenizerAlias));
        }
        free(tokenizer->aliases);
        tokenizer->aliases = more;
    }
    TokenizerAlias* alias = &tokenizer->aliases[tokenizer->alias_count];
    alias->id = id;
    alias->size = size;
    alias->key = (char*)xalloc(size + 1, 1, "a character");
    memcpy(alias->key, key, size);
    return tokenizer->alias_start + tokenizer->alias_count++;
}

// Bytes of the character at text as SentencePiece counts them, by its first byte. (In its pieces all are UTF-8.)
static inline size_t sentence_character(const char* text, size_t n) {
    size_t length;
    unicode_code(text, n, &length);
    return length;
}

// Of higher scores the lower ranks; of equal ones the same.
static inline uint32_t sentence_rank(float score) {
    uint32_t bits;
    memcpy(&bits, &score, 4);
    if (score == 0) { bits = 0; }
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;  // rises with the score
    return ~bits == UINT32_MAX ? UINT32_MAX - 1 : ~bits;
}

// 1 if a piece stands for its text, when that is looked up.
static inline int sentence_has_key(const SentenceModel* model, int id) {
    return model->types[id] == SENTENCE_NORMAL || model->types[id] == SENTENCE_USER;
}

// Every character of the pieces that merges make gets an id.
static inline void sentence_add_characters(Tokenizer* tokenizer, const SentenceModel* model) {
    size_t characters = 0, capacity = 0;
    for (int id = 0; id < model->count; id++) {
        characters += model->types[id] == SENTENCE_NORMAL ? tokenizer->pieces[id].key_size : 0;
    }
    tokenizer_make_map(tokenizer, min_size(characters, UNICODE_CODES + 256));  // so many differ: bytes may be no UTF-8
    for (int id = 0; id < model->count; id++) {
        if (model->types[id] != SENTENCE_NORMAL) { continue; }
        for (size_t at = 0, size; at < tokenizer->pieces[id].key_size; at += size) {
            const char* key = tokenizer->keys.data + tokenizer->pieces[id].key;
            size = sentence_character(key + at, tokenizer->pieces[id].key_size - at);
            int* row = tokenizer_map_row(tokenizer, key + at, size);
            if (*row < 0) { *row = sentence_alias(tokenizer, &capacity, -1, key + at, size); }
        }
    }
    int frozen = 0;
    for (int id = 0; id < model->count; id++) { frozen += model->types[id] == SENTENCE_USER; }
    TokenizerAdded* list = (TokenizerAdded*)xalloc((size_t)frozen, sizeof(TokenizerAdded), "pieces of the user's");
    frozen = 0;
    for (int id = 0; id < model->count; id++) {
        if (model->types[id] != SENTENCE_USER) { continue; }
        TokenizerAdded* token = &list[frozen++];
        token->size = tokenizer->pieces[id].key_size;
        token->text = (char*)xalloc(token->size + 1, 1, "a piece");
        memcpy(token->text, tokenizer->keys.data + tokenizer->pieces[id].key, token->size);
        token->id = sentence_alias(tokenizer, &capacity, id, "", 0);
    }
    tokenizer_make_set(&tokenizer->frozen, list, frozen);
}

static inline void sentence_add_merges(Tokenizer* tokenizer, const SentenceModel* model) {
    bpe_make(&tokenizer->merges, 4 * (size_t)model->count);
    for (int id = 0; id < model->count; id++) {
        const char* key = tokenizer->keys.data + tokenizer->pieces[id].key;
        size_t n = tokenizer->pieces[id].key_size;
        // A piece of the user's is found before there are merges, wherever its text is.
        if (model->types[id] != SENTENCE_NORMAL) { continue; }
        for (size_t at = sentence_character(key, n); at < n; at += sentence_character(key + at, n - at)) {
            int left = tokenizer_lookup(tokenizer, key, at), right = tokenizer_lookup(tokenizer, key + at, n - at);
            if (left >= 0 && right >= 0) {
                bpe_add(&tokenizer->merges, left, right, id, sentence_rank(model->scores[id]));
            }
        }
    }
}

// What of a model the encoder does not do.
static inline void sentence_check(Tokenizer* tokenizer, const SentenceModel* model) {
    static const char* const types[] = {"none", "Unigram", "BPE", "word", "character"};
    if (model->model_type != 2) {
        tokenizer_refuse(tokenizer, "its model_type is %lld (%s), which this program cannot encode: only 2 (BPE)",
                         (long long)model->model_type,
                         model->model_type >= 0 && model->model_type < 5 ? types[model->model_type] : "not known");
    }
    if (model->charsmap) {
        tokenizer_refuse(tokenizer, "its normalizer has a precompiled_charsmap, which this program cannot follow");
    }
    if (model->suffix) { tokenizer_refuse(tokenizer, "it has treat_whitespace_as_suffix"); }
    for (int id = 0; id < model->count; id++) {
        if (tokenizer->pieces[id].size > SENTENCE_LONGEST) {
            tokenizer_refuse(tokenizer, "its piece %d has %zu bytes, expected at most %d", id,
                             tokenizer->pieces[id].size, SENTENCE_LONGEST);
        }
        if (model->types[id] == SENTENCE_UNUSED || model->types[id] > SENTENCE_BYTE) {
            tokenizer_refuse(tokenizer, "its piece %d is of type %d, which this program does not know", id,
                             model->types[id]);
        }
    }
}

// Takes over tokenizer.model (size bytes).
static inline void tokenizer_read_sentencepiece(Tokenizer* tokenizer, const char* bytes, size_t size) {
    SentenceModel model;
    memset(&model, 0, sizeof model);
    model.model_type = 1;  // what the format says of fields that are absent
    model.bos = 1, model.eos = 2, model.pad = -1;
    model.dummy_prefix = model.trim = model.escape = 1;
    ProtoReader p = {(const unsigned char*)bytes, (const unsigned char*)bytes + size, tokenizer->source, size};
    for (ProtoField field; proto_next(&p, &field);) {
        if (field.wire != 2) { continue; }
        if (field.field == 1) { sentence_read_piece(tokenizer, &model, proto_inside(&p, &field)); }
        if (field.field == 2) { sentence_read_trainer(&model, proto_inside(&p, &field)); }
        if (field.field == 3) { sentence_read_normalizer(&model, proto_inside(&p, &field)); }
    }
    if (model.count == 0) {
        die("%s: expected a model of SentencePiece, found no pieces in it; is it another file?", tokenizer->source);
    }
    sentence_check(tokenizer, &model);
    tokenizer->alias_start = tokenizer->count;
    for (int id = 0; id < model.count; id++) {
        TokenizerPiece* piece = &tokenizer->pieces[id];
        int type = model.types[id];
        if (sentence_has_key(&model, id)) { tokenizer_set_key(tokenizer, id, piece->text, piece->size); }
        if (type != SENTENCE_CONTROL && type != SENTENCE_UNKNOWN) {
            piece->size = tokenizer_unpiece(piece->text, piece->size);
        }
        if (type == SENTENCE_BYTE && piece->size == 1) { tokenizer->byte_token[(unsigned char)piece->text[0]] = id; }
        if (type == SENTENCE_UNKNOWN) { tokenizer->unknown = id; }
    }
    sentence_add_characters(tokenizer, &model);
    if (!tokenizer->refusal) { sentence_add_merges(tokenizer, &model); }
    tokenizer_find_cuts(tokenizer);
    tokenizer->kind = tokenizer->refusal ? TOKENIZER_PIECES : TOKENIZER_SENTENCE;
    tokenizer->byte_fallback = model.byte_fallback != 0;
    tokenizer->fuse = tokenizer->unknown >= 0;
    tokenizer->mark_spaces = model.escape != 0;
    tokenizer->mark_first = model.dummy_prefix != 0;
    tokenizer->trim_spaces = model.trim != 0;
    if (!tokenizer->mark_spaces) { tokenizer->cut_marks = 0; }  // spaces are not marked: nowhere to cut
    int64_t ids[3] = {model.eos, model.bos, model.pad};
    int* to[3] = {&tokenizer->eot, &tokenizer->bos, &tokenizer->pad};
    for (int i = 0; i < 3; i++) { *to[i] = ids[i] >= 0 && ids[i] < model.count ? (int)ids[i] : -1; }
    free(model.scores);
    free(model.types);
}

#endif

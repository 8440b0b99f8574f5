// data.h - what a run reads: shards to train and to validate on, the tokenizer; compared with what they were when a run
// is resumed, and looked at for what nobody wants.
#ifndef PONDER_DATA_H
#define PONDER_DATA_H

#include "setup.h"

// The shards of --train or --val.
static inline Shards* trainer_open_shards(const Trainer* t, const char* option) {
    const char* patterns = options_text(&t->options, option);
    if (t->stored && !options_given(&t->options, option) && !shards_there(patterns)) {
        die("--resume: no shard found: '%s' matches no file here. That is --%s as the run was started with (see %s)%s; "
            "give --%s anew, with where the data is now",
            patterns, option, t->stored_path,
            patterns[0] == '/' ? "" : ", seen from the directory that it was started in", option);
    }
    return shards_open(patterns, t->T, t->model->V);
}

// The tokenizer's files from which tokens and their texts follow, and its end of text: samples and bits per byte depend
// on them.
static inline void trainer_note_tokenizer(Trainer* t) {
    static const char* const names[] = {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model"};
    uint64_t hash = HASH_START;
    for (int i = 0; i < 4; i++) {
        const CheckpointFile* file = tokenizer_kept(t->tokenizer, names[i]);
        if (!file) { continue; }
        hash = hash_bytes(hash, names[i], strlen(names[i]) + 1);
        hash = hash_bytes(hash, file->text, file->size);
    }
    char end[32];
    snprintf(end, sizeof end, "%d", tokenizer_eot(t->tokenizer));
    hash = hash_bytes(hash, end, strlen(end));
    if (t->stored && t->state.tokenizer_known && t->state.tokenizer != hash) {
        sb_printf(&t->changed,
                  "  the tokenizer, which samples and bits per byte depend on (hash %016llx, was %016llx)\n",
                  (unsigned long long)hash, (unsigned long long)t->state.tokenizer);
    }
    t->state.tokenizer = hash;
    t->state.tokenizer_known = 1;
}

// Dies unless --tokenizer is one that the model can use.
static inline void trainer_check_tokenizer(const Trainer* t, const Tokenizer* tokenizer, const char* given) {
    if (tokenizer->kind == TOKENIZER_NUMBERS || strcmp(tokenizer->source, "bytes") == 0) {
        die("--tokenizer %s: expected tokenizer.json, vocab.json with merges.txt, or SentencePiece's tokenizer.model, "
            "found none "
            "of them",
            given);
    }
    if (tokenizer->count > t->model->V) {
        die("--tokenizer %s: it has tokens up to %d, but the vocabulary of the model ends with %d; --vocab %d has room "
            "for all",
            given, tokenizer->count - 1, t->model->V - 1, tokenizer->count);
    }
}

// The tokenizer that was given, else the one beside the weights; of a resumed run, always its checkpoint's.
static inline void trainer_open_tokenizer(Trainer* t) {
    const char* given = options_text(&t->options, "tokenizer");
    int reads = given && (!t->checkpoint || options_given(&t->options, "tokenizer"));
    Tokenizer* asked = NULL;
    struct stat info;
    if (reads && ranks_talks()) {
        if (stat(given, &info) != 0) {
            die("--tokenizer %s: expected a tokenizer.json or tokenizer.model, or a directory with one: %s", given,
                strerror(errno));
        }
        if (!S_ISDIR(info.st_mode) && (text_ends(given, "vocab.json") || text_ends(given, "merges.txt"))) {
            die("--tokenizer %s: expected the directory, which has vocab.json and merges.txt, found one of them",
                given);
        }
    }
    if (reads) {
        asked = share_tokenizer(given, t->model->V);
        trainer_check_tokenizer(t, asked, given);
    }
    t->tokenizer = asked && !t->checkpoint ? asked : share_tokenizer(t->weights, t->model->V);
    static const char* const files[] = {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model"};
    for (int i = 0; i < 4 && asked && t->checkpoint; i++) {
        const CheckpointFile *a = tokenizer_kept(asked, files[i]), *b = tokenizer_kept(t->tokenizer, files[i]);
        if (!a != !b || (a && (a->size != b->size || memcmp(a->text, b->text, a->size) != 0))) {
            char* why =
                b ? format_string("its %s is not that of %s, with which the run was started", files[i], t->checkpoint)
                  : format_string("the run was started without a %s", files[i]);
            die("--resume with --tokenizer %s: %s; leave the option out, or start a new run in another --out", given,
                why);
        }
    }
    char* config = t->model->config_json(t->model);
    Json* json = json_parse(config, strlen(config), "config.json");
    int64_t positions = json_get_int(json, "max_position_embeddings", 0, "config.json");
    if (positions == 0) { positions = json_get_int(json, "n_positions", t->T, "config.json"); }
    tokenizer_complete(t->tokenizer, (int)positions);
    json_free(json);
    free(config);
    trainer_note_tokenizer(t);
}

// 1 if the run that is resumed had the option as it is now.
static inline int trainer_option_stays(const Trainer* t, const char* name) {
    const Option* o = options_row(&t->options, name);
    const char* then = t->stored ? state_option(t->stored, name, t->stored_path) : NULL;
    return then && o->set && state_same(o, o->text, then);
}

// Opens the validation data, and compares it with what a run that is resumed has validated on. Its curve has one
// meaning: other data must be asked for, more or fewer rows too, and then the best loss so far is no measure any more.
static inline void trainer_open_validation(Trainer* t) {
    TrainerState* s = &t->state;
    const OptionTable* o = &t->options;
    const char* val = options_text(o, "val");
    if (t->val) { return; }
    if (val) { t->val = trainer_open_shards(t, "val"); }
    int had = t->stored && s->val_rows > 0 && val;
    if (had && !s->val_known) {
        printf("--resume: the validation data was not compared with that of the run: %s has no hash of it\n",
               t->stored_path);
    }
    int other = had && (s->val_known ? t->val->hash != s->val_shards : !trainer_option_stays(t, "val"));
    const char* how = options_text(o, "resume");
    if (other && (!options_given(o, "val") || (how && how[0]))) {
        die("--resume: the validation data has changed: --val %s has %llu rows and hash %016llx; the run has validated "
            "on data with hash %016llx. Put that back, or give --resume and --val on the command line to go on with "
            "what there is now: the best validation loss then starts anew",
            val, (unsigned long long)t->val->rows, (unsigned long long)t->val->hash, (unsigned long long)s->val_shards);
    }
    // A resumed run validates on the same rows, even if --batch changes.
    int64_t batches = options_int(o, "val-batches"), rows = t->val ? (int64_t)t->val->rows : 0;
    int same = had && trainer_option_stays(t, "val-batches") && !other;
    if (s->val_batch == 0 || options_given(o, "batch")) { s->val_batch = t->B; }
    int64_t wanted = same ? s->val_rows : batches > 0 ? batches * s->val_batch * ranks.count : rows;
    if (t->val && wanted > rows) {
        printf("--val %s has %lld rows, fewer than the %lld of %lld batches%s: all of them are used\n", val,
               (long long)rows, (long long)wanted, (long long)batches, ranks.count > 1 ? " on every rank" : "");
    }
    if (wanted > rows) { wanted = rows; }
    if (other) {
        sb_printf(&t->changed, "  the validation data: hash %016llx", (unsigned long long)t->val->hash);
        if (s->val_known) { sb_printf(&t->changed, " (was %016llx)", (unsigned long long)s->val_shards); }
        sb_printf(&t->changed, "\n");
    }
    if (had && wanted != s->val_rows) {
        sb_printf(&t->changed, "  the validated rows: %lld (was %lld)\n", (long long)wanted, (long long)s->val_rows);
    }
    if (other || (had && wanted != s->val_rows)) {
        sb_printf(&t->changed, "  so the best validation loss starts anew, and earlier ones do not compare\n");
        t->val_anew = 1;
        s->val_since = s->step;
        s->val_step = s->best_step = -1;
        s->altered = state_note_altered(s->altered, "the validation");
    }
    s->val_rows = wanted;
    s->val_known = t->val != NULL;
    s->val_shards = t->val ? t->val->hash : 0;
}

// Data that a run can be started on, but hardly on purpose.
static inline void trainer_warn_of_data(const Trainer* t) {
    const char* const options[2] = {"train", "val"};
    const Shards* sets[2] = {t->train, t->val};
    for (int i = 0; i < 2; i++) {
        uint64_t looked = 0, V = (uint64_t)t->model->V;
        uint64_t largest = sets[i] ? shards_largest(sets[i], &looked) : 0;
        if (!sets[i] || looked == 0 || (largest < V && largest + 1 > V / 4)) { continue; }
        warn("--%s %s: the largest of the %llu tokens looked at (of %llu) is %llu, %s the vocabulary of %llu%s",
             options[i], options_text(&t->options, options[i]), (unsigned long long)looked,
             (unsigned long long)sets[i]->tokens, (unsigned long long)largest, largest >= V ? "outside" : "far below",
             (unsigned long long)V,
             largest >= V     ? ": the program ends where it reads that"
             : largest <= 256 ? "; bytes, as build/bytes makes them, need one of 257"
                              : ": was it made with another tokenizer than the model's?");
        break;  // the other is most likely of the same kind
    }
    const Shard* twin = NULL;
    const Shard* shard = t->train && t->val ? shards_overlap(t->val, t->train, &twin) : NULL;
    if (shard) {
        char* as = strcmp(shard->path, twin->path) == 0 ? NULL : format_string("the same as %s, ", twin->path);
        warn("validation data is training data too: %s is %sa shard of --train; its loss says nothing of other text",
             shard->path, as ? as : "also ");
        free(as);
    }
}

// 1 for an option that all ranks must have alike; files may lie elsewhere on each.
static inline int trainer_option_is_common(const Option* o) {
    static const char* const paths[] = {"model", "train", "val", "tokenizer"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(o->name, paths[i]) == 0) { return 0; }
    }
    return o->resume != RESUME_RUN;
}

// Dies unless all ranks were started with the same options.
static inline void trainer_check_same_options(const Trainer* t) {
    const size_t n = (size_t)t->options.count;
    uint64_t* mine = (uint64_t*)xalloc(n, sizeof(uint64_t), "hashes of options");
    uint64_t* all = (uint64_t*)xalloc(n * (size_t)ranks.count, sizeof(uint64_t), "hashes of options");
    for (size_t i = 0; i < n; i++) {
        const Option* o = &t->options.rows[i];
        if (o->set && trainer_option_is_common(o)) { mine[i] = hash_bytes(HASH_START, o->text, strlen(o->text)); }
    }
    ranks_gather(mine, n * sizeof(uint64_t), all, "hashes of the options");
    for (size_t i = n; i < n * (size_t)ranks.count; i++) {
        if (all[i] == all[i % n]) { continue; }
        char names[2][128];
        die("%s has another --%s than %s; expected the same command on all ranks",
            rank_name(names[0], sizeof names[0], (int)(i / n)), t->options.rows[i % n].name,
            rank_name(names[1], sizeof names[1], 0));
    }
    free(mine), free(all);
}

// Dies unless all ranks train the same model and read the same: each has files of its own, or sees the same ones.
static inline void trainer_check_same_data(const Trainer* t) {
    enum { KINDS = 4 };
    static const char* const what[KINDS] = {"set of training data", "set of validation data", "tokenizer", "model"};
    if (ranks.count == 1) { return; }
    trainer_check_same_options(t);
    char* config = t->model->config_json(t->model);
    const uint64_t mine[KINDS] = {t->train ? t->train->hash : 0, t->val ? t->val->hash : 0, t->state.tokenizer,
                                  hash_bytes(HASH_START, config, strlen(config))};
    free(config);
    uint64_t* all = (uint64_t*)xalloc((size_t)ranks.count, sizeof mine, "hashes of ranks");
    ranks_gather(mine, sizeof mine, all, "hashes of the data");
    for (int i = KINDS; i < KINDS * ranks.count; i++) {
        if (all[i] == all[i % KINDS]) { continue; }
        char names[2][128];
        die("%s has another %s (hash %016llx) than %s (hash %016llx); expected the same on all machines",
            rank_name(names[0], sizeof names[0], i / KINDS), what[i % KINDS], (unsigned long long)all[i],
            rank_name(names[1], sizeof names[1], 0), (unsigned long long)all[i % KINDS]);
    }
    free(all);
}

static inline void trainer_open_data(Trainer* t) {
    const char* train = options_text(&t->options, "train");
    const char* val = options_text(&t->options, "val");
    int eval_only = options_given(&t->options, "eval-only");
    // A run that has done its steps may still have to be validated anew; its training data are not needed for that.
    int steps = !eval_only && !(t->stored && !trainer_only_looks(t) && t->state.step >= t->state.total_steps);
    if (!train && steps) { die("--train GLOB is missing: the shards to train on (--help lists all options)"); }
    if (!val && eval_only) { die("--eval-only needs --val GLOB: the shards to validate on"); }
    trainer_open_tokenizer(t);
    if (steps) { t->train = trainer_open_shards(t, "train"); }

    trainer_open_validation(t);
    // What is validated anew must not be text that was trained on: then the training data are looked at too.
    if (!t->train && t->val_anew && train && shards_there(train)) { t->train = trainer_open_shards(t, "train"); }
    if (t->stored && t->train) {
        if (t->train->hash != t->state.shards) {
            die("--resume: the training data has changed: --train %s has %llu rows and hash %016llx; the run was "
                "started on %lld rows, hash %016llx",
                train, (unsigned long long)t->train->rows, (unsigned long long)t->train->hash, (long long)t->state.rows,
                (unsigned long long)t->state.shards);
        }
    } else if (t->train) {
        t->state.shards = t->train->hash;
        t->state.rows = (int64_t)t->train->rows;
    }
    trainer_check_same_data(t);
    if (ranks_talks() && (!t->stored || t->val_anew)) { trainer_warn_of_data(t); }
}

#endif

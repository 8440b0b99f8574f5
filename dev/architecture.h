// architecture.h - the trainer that a test or a benchmark is built for: make defines TRAINER, its file, and
// ARCHITECTURE, the table in it.
#ifndef PONDER_ARCHITECTURE_H
#define PONDER_ARCHITECTURE_H

#ifndef TESTING
#define TESTING
#endif
#include TRAINER

// The options of its models, beside those that are in the table already.
static PonderClass architecture_class;
static inline void architecture_options(OptionTable* options) {
    ponder_class(&architecture_class, &ARCHITECTURE)->add_options(options);
}

// A model of a preset, without memory; dies where there is no such preset.
static inline Model* architecture_model(const OptionTable* options, const char* preset, int B, int T) {
    const ModelClass* kind = ponder_class(&architecture_class, &ARCHITECTURE);
    int i = 0;
    while (kind->presets[i] && strcmp(kind->presets[i], preset) != 0) { i++; }
    if (!kind->presets[i]) {
        die("there is no preset '%s': expected %s, %s, ...", preset, kind->presets[0], kind->presets[1]);
    }
    return kind->create(kind, options, preset, NULL, NULL, B, T);
}

#endif

// settings.h - settings of a config.json that Hugging Face's classes spell in several ways, or that training here ignores.
#ifndef PONDER_SETTINGS_H
#define PONDER_SETTINGS_H

#include "json.h"

// A place where a setting may stand: a key of an object of the configuration (NULL: of the configuration itself).
typedef struct {
    const char *object, *key;
} SettingPlace;

// A number that stands in one of n places, or in several: then they must agree, or it dies naming both and what they
// are (`both`: "both say how rotary positions work"). `fallback` where it stands nowhere, or only as null.
static inline double setting_number(const Json* config, const SettingPlace* places, int n, const char* both,
                                    double fallback, const char* path) {
    double found = fallback;
    char *from = NULL, *text = NULL;  // where it was found first, and how it is written there
    for (int i = 0; i < n; i++) {
        const char *object = places[i].object, *key = places[i].key;
        const Json* holder = object ? json_get(config, object) : config;
        double value = json_get_number(holder, key, NAN, path);
        if (value != value) { continue; }
        char* name = format_string("%s%s%s", object ? object : "", object ? "." : "", key);
        char* written = json_describe(json_get(holder, key));
        if (from && value != found) {
            die("%s: %s is %s but %s is %s: %s, expected the same", path, from, text, name, written, both);
        }
        found = value;
        free(from), free(text);
        from = name, text = written;
    }
    free(from), free(text);
    return found;
}

// ---- rotary positions ----
//
// Their settings stand in rope_parameters (transformers 5), or in rope_scaling with rope_theta outside it (version 4):
// each is looked for in all three places.

// One of their numbers. `older`: another key that the configuration itself may have for it, or NULL.
static inline double setting_rotary(const Json* config, const char* key, const char* older, double fallback,
                                    const char* path) {
    const SettingPlace places[] = {{"rope_parameters", key}, {"rope_scaling", key}, {NULL, key}, {NULL, older}};
    return setting_number(config, places, older ? 4 : 3, "both say how rotary positions work", fallback, path);
}

// Dies where they lie as no version of transformers reads them: by kind of layer, or some of them in an object that
// version 5 leaves out because there is a rope_scaling.
static inline void setting_rotary_places(const Json* config, const char* path) {
    static const char* const names[] = {"rope_parameters", "rope_scaling"};
    const Json* objects[2];
    for (int i = 0; i < 2; i++) {
        const Json* object = objects[i] = json_get(config, names[i]);
        if (!object || object->type == JSON_NULL) { continue; }
        if (object->type != JSON_OBJECT) { die("%s: %s is not an object", path, names[i]); }
        for (int k = 0; k < object->count; k++) {
            if (object->items[k]->type == JSON_OBJECT) {
                die("%s: %s.%s is an object; only one kind of rotary positions, for all layers, is supported", path,
                    names[i], object->keys[k]);
            }
        }
    }
    const Json *newer = objects[0], *older = objects[1];
    int both = newer && newer->type == JSON_OBJECT && older && older->type == JSON_OBJECT && older->count > 0;
    for (int k = 0; both && k < newer->count; k++) {
        const char* key = newer->keys[k];
        int said = newer->items[k]->type == JSON_NUMBER || newer->items[k]->type == JSON_STRING;
        if (said && !json_get(older, strcmp(key, "rope_type") == 0 && json_get(older, "type") ? "type" : key) &&
            !json_get(config, key)) {
            die("%s: rope_parameters has %s but rope_scaling has not; where both are there, expected the same in both",
                path, key);
        }
    }
}

// 1 if they are to be of the kind `scaled` ("llama3"), 0 if plain ("default"); dies on all other kinds. scaled NULL:
// there are only plain ones.
static inline int setting_rotary_scaled(const Json* config, const char* scaled, const char* path) {
    static const char* const names[] = {"rope_parameters", "rope_scaling"};
    static const char* const keys[] = {"rope_type", "type"};  // the second as older files have it
    const char *found = NULL, *from = NULL;
    setting_rotary_places(config, path);
    for (int i = 0; i < 4; i++) {
        const char* kind = json_get_string(json_get(config, names[i / 2]), keys[i % 2], NULL, path);
        if (!kind) { continue; }
        if (strcmp(kind, "default") != 0 && !(scaled && strcmp(kind, scaled) == 0)) {
            die("%s: %s asks for \"%s\" rotary positions; only \"default\"%s%s%s are supported", path, names[i / 2],
                kind, scaled ? " and \"" : ", unscaled ones", scaled ? scaled : "", scaled ? "\"" : "");
        }
        if (found && strcmp(kind, found) != 0) {
            die("%s: %s asks for \"%s\" rotary positions but %s for \"%s\"", path, from, found, names[i / 2], kind);
        }
        found = kind, from = names[i / 2];
    }
    static const char* const numbers[] = {"factor", "low_freq_factor", "high_freq_factor",
                                          "original_max_position_embeddings"};
    for (int i = 0; i < 4 && !found; i++) {
        if (setting_rotary(config, numbers[i], NULL, 0, path) != 0) {
            die("%s: the rotary positions have a %s but no rope_type, expected \"%s\"", path, numbers[i],
                scaled ? scaled : "default");
        }
    }
    return found && strcmp(found, "default") != 0;
}

// ---- what training here does not have ----

// Warns of each key that asks for a dropout; `usual`: what an absent key asks for.
static inline void setting_no_dropout(const Json* config, const char* const* keys, int n, double usual,
                                      const char* path) {
    for (int i = 0; i < n; i++) {
        double p = json_get_number(config, keys[i], usual, path);
        if (p != 0) { warn("%s: %s is %g, but training here has no dropout; it is ignored", path, keys[i], p); }
    }
}

#endif

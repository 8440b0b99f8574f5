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

// Warns of each key that asks for a dropout; `usual`: what an absent key asks for.
static inline void setting_no_dropout(const Json* config, const char* const* keys, int n, double usual,
                                      const char* path) {
    for (int i = 0; i < n; i++) {
        double p = json_get_number(config, keys[i], usual, path);
        if (p != 0) { warn("%s: %s is %g, but training here has no dropout; it is ignored", path, keys[i], p); }
    }
}

#endif

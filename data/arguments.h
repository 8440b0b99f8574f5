// arguments.h - the command line of the programs of this directory: options that take a value, and names of files.
//
//     ArgumentValue known[] = {{"--out", &o->out}, {"--seed", &seed}};
//     o->inputs = arguments_read("bytes", argc, argv, known, 2, &o->input_count);     NULL: --help
#ifndef PONDER_ARGUMENTS_H
#define PONDER_ARGUMENTS_H

#include "../common/base.h"

typedef struct {
    const char* name;    // "--out"
    const char** value;  // NULL until it is given; then not empty
} ArgumentValue;

// Takes "--name value" and "--name=value", each once, into known (count), and returns what is no option, "-" or after
// "--": *files of them, which the caller frees. NULL if help was asked for. Dies on anything else.
static inline char** arguments_read(const char* program, int argc, char** argv, const ArgumentValue* known,
                                    size_t count, int* files) {
    char** list = (char**)xalloc((size_t)argc, sizeof(char*), "the arguments");
    int only_files = 0;  // after "--"
    *files = 0;
    for (int i = 1; i < argc; i++) {
        char* argument = argv[i];
        if (only_files || argument[0] != '-' || argument[1] == 0) {
            list[(*files)++] = argument;
            continue;
        }
        if (strcmp(argument, "--") == 0) {
            only_files = 1;
            continue;
        }
        if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
            free(list);
            return NULL;
        }
        const char* equals = strchr(argument, '=');
        size_t length = equals ? (size_t)(equals - argument) : strlen(argument);
        const char** value = NULL;
        for (size_t k = 0; k < count; k++) {
            if (strlen(known[k].name) == length && memcmp(known[k].name, argument, length) == 0) {
                value = known[k].value;
            }
        }
        if (value == NULL) { die("unknown option %.*s; %s --help lists them", (int)length, argument, program); }
        if (*value) { die("%.*s is given twice", (int)length, argument); }
        if (!equals && i + 1 == argc) { die("%s: expected a value after it", argument); }
        *value = equals ? equals + 1 : argv[++i];
        if (**value == 0) { die("%.*s: expected a value, found an empty one", (int)length, argument); }
    }
    return list;
}

#endif

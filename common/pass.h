// pass.h - what an architecture's pass and its caller share, and where its layers keep their activations: one place for
// all layers, or for each of every pass, or for some.
#ifndef PONDER_PASS_H
#define PONDER_PASS_H

#include "arena.h"
#include "cache.h"
#include "tensors.h"

// How large a model is.
typedef struct {
    int L, C, NH, FF, V;  // layers, width, heads, inner width of the MLP, vocabulary
    int NKV;              // heads of keys and values, each for NH / NKV heads; 0: as many as heads
    int HS;               // numbers of a head; 0: C / NH
    int P;                // positions, as config.json says; of a preset: the length of its rows, 0: usual
    int tie;              // 1: the head is the input table
    int untied;           // 1: it was, as config.json says, and --tie 0 makes it a table of its own
    double eps;           // of the norms
} Sizes;

// Where one half of a model, C or CUDA, has its activations: set by whoever calls the pass.
typedef struct {
    char** place;  // (L+1) where each layer, and what follows the last one, keeps its own: changes from pass to pass
    char* work;    // where a layer at work has what it needs
    int training;  // 0: no backward will come
    int again;     // 1: what is cheap is not kept but computed again in the backward (CUDA)
} PassMemory;

// What an architecture and its caller share; an architecture's own struct begins with it.
typedef struct {
    Sizes size;
    int T;               // most positions of a row
    size_t N;            // of a micro-batch, rows times T
    Weight embed, head;  // (V,C) W_in and W_out; the same when tied
    PassMemory cpu, gpu;
    const KeyCache* cache;  // of earlier positions, where the pass goes on with texts; NULL: rows begin at position 0
    const struct KeyCacheCuda* cache_cuda;  // the same on the GPU
} Pass;

// Where layers keep their activations: counted over all passes, layer l of pass s is number s L + l, and from `first`
// on each has a place of its own until its backward is done. What comes before keeps nothing: those layers work at
// two places in turn, in the same memory, since a layer's output must not overwrite its input; and when their pass's
// backward comes they are computed again, into places whose layers have had theirs. All layers have one layout: the
// CUDA pass finishes a layer where the next one starts, and reads a place's output while it writes its other parts.
typedef struct {
    int passes, L;
    int first;           // 0: every layer of every pass has a place; passes * L: none has
    int places;          // of layers
    size_t layer_bytes;  // of one of them
    size_t norm_bytes;   // of what follows the last layer: each pass has its own, behind all layers
    char** place;        // (L+1) what the pass is told
    int* holds;          // (places + passes) number of the layer whose activations lie there, -1: none
    char* base;
} Slots;

// What a pass is entered for: a forward whose backward will not come, or will; that backward.
typedef enum { SLOTS_EVALUATE, SLOTS_FORWARD, SLOTS_BACKWARD } SlotsUse;

// Sizes for what `keep` lists, with places for the layers from `first` on; returns the bytes of all.
static inline size_t slots_measure(Slots* slots, Pass* pass, void (*keep)(Pass*, Arena*, int), int passes, int first) {
    int L = pass->size.L;
    if (!slots->place) {
        slots->place = (char**)xalloc((size_t)L + 1, sizeof(char*), "places of layers");
        slots->holds = (int*)xalloc(mul_size((size_t)passes, (size_t)L + 1, "places of layers") + 2, sizeof(int),
                                    "places of layers");
    }
    slots->passes = passes, slots->L = L, slots->first = first;
    slots->places = passes * L - first > 2 ? passes * L - first : 2;
    slots->layer_bytes = 0;
    for (int l = 0; l <= L; l++) {
        Arena one = arena_at(NULL);
        keep(pass, &one, l);
        if (l < L) { slots->layer_bytes = max_size(slots->layer_bytes, one.used); }
        slots->norm_bytes = one.used;
    }
    for (int i = 0; i < slots->places + passes; i++) { slots->holds[i] = -1; }
    return mul_size((size_t)slots->places, slots->layer_bytes, "activations") + (size_t)passes * slots->norm_bytes;
}

// Layers of pass s that have no place of their own: its first ones.
static inline int slots_without(const Slots* slots, int s) {
    int n = slots->first - s * slots->L;
    return n < 0 ? 0 : n < slots->L ? n : slots->L;
}

static inline char* slots_at(const Slots* slots, int i) {
    size_t layers = (size_t)(i < slots->places ? i : slots->places), norms = (size_t)i - layers;
    return slots->base + layers * slots->layer_bytes + norms * slots->norm_bytes;
}

// Where the layers of pass s keep theirs; notes what then lies there. A pass whose first layers are computed again
// puts them behind its others: there are the places of the next pass, which is done.
static inline char** slots_enter(const Slots* slots, int s, SlotsUse use) {
    int L = slots->L, without = slots_without(slots, s);
    if (use == SLOTS_EVALUATE || (use == SLOTS_FORWARD && without)) {  // two places serve all: nothing stays
        for (int i = 0; i < slots->places + slots->passes; i++) { slots->holds[i] = -1; }
    }
    for (int l = 0; l <= L; l++) {
        int number = s * L + l - slots->first, i = number;
        if (l == L) {
            i = slots->places + s;
        } else if (use == SLOTS_BACKWARD && l < without) {
            i = l + L - without;
        } else if (use == SLOTS_EVALUATE || number < 0) {
            i = number & 1;
        }
        slots->place[l] = slots_at(slots, i);
        if (use == SLOTS_BACKWARD || (use == SLOTS_FORWARD && l >= without)) { slots->holds[i] = s * (L + 1) + l; }
    }
    return slots->place;
}

// Lists the layers of pass s whose activations are there, as a micro-batch of n positions has left them.
static inline void slots_list(const Slots* slots, Places* places, Pass* pass, void (*keep)(Pass*, Arena*, int), int s,
                              size_t n) {
    int L = slots->L;
    for (int l = 0; l <= L; l++) {
        int i = 0;
        while (i < slots->places + slots->passes && slots->holds[i] != s * (L + 1) + l) { i++; }
        if (i == slots->places + slots->passes) { continue; }
        char at[64];
        snprintf(at, sizeof at, l < L ? "pass %d, layer %d: " : "pass %d, final norm: ", s, l);
        Arena arena = {slots_at(slots, i), 0, places, at};
        int first = places->count;
        keep(pass, &arena, l);
        // Sizes are for N positions, of which n were used.
        for (i = first; i < places->count; i++) { places->list[i].count = places->list[i].count / pass->N * n; }
    }
}

#endif

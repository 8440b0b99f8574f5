// arena.h - memory laid out by one list: a line names a thing, types it, sizes it and places it.
//
//     k.qkv = TAKE(arena, real, "queries, keys and values", N * 3 * C);
//
// A list runs over an arena without a base to learn how much it takes (all pointers are then NULL), over one
// with a base to place its things, and over one with a record to tell what lies where: from that come the
// comparison of the CPU's numbers with the GPU's, joined by name, and the search for the first NaN.
#ifndef PONDER_ARENA_H
#define PONDER_ARENA_H

#include "base.h"

enum { ARENA_ALIGNMENT = 256 };  // bytes: what a GPU reads best, and enough for any vector of a CPU

// A thing in memory.
typedef struct {
    char* name;
    void* at;
    size_t count, number;  // numbers in it, bytes of one
    // A bias that the other half has added already: floats, to be added to each of its rows.
    const void* lacks;   // (lacks_count)
    size_t lacks_count;  // 0: nothing is lacking
} Place;

// A record of things, in their order.
typedef struct {
    Place* list;
    int count, room;
} Places;

// Takes over `name`.
static inline Place* places_add(Places* places, char* name, void* at, size_t count, size_t number) {
    if (places->count == places->room) {
        int room = places->room ? 2 * places->room : 64;
        Place* list = (Place*)xalloc((size_t)room, sizeof(Place), "a list of tensors");
        if (places->count) { memcpy(list, places->list, (size_t)places->count * sizeof(Place)); }
        free(places->list);
        places->list = list;
        places->room = room;
    }
    Place* place = &places->list[places->count++];
    memset(place, 0, sizeof *place);
    place->name = name, place->at = at, place->count = count, place->number = number;
    return place;
}

static inline void places_free(Places* places) {
    for (int i = 0; i < places->count; i++) { free(places->list[i].name); }
    free(places->list);
    memset(places, 0, sizeof *places);
}

typedef struct {
    char* base;      // NULL: nothing is placed, only added up
    size_t used;     // bytes so far
    Places* record;  // what was taken, if not NULL
    const char* at;  // begins the names in the record: "pass 1, layer 0: "
} Arena;

// An arena from `base` on that tells nobody.
static inline Arena arena_at(char* base) {
    Arena arena = {base, 0, NULL, NULL};
    return arena;
}

// `count` numbers of `number` bytes each; NULL where there is no base, or nothing is wanted (count = 0).
static inline void* arena_take(Arena* arena, const char* name, size_t count, size_t number) {
    if (count == 0) { return NULL; }
    void* at = arena->base ? arena->base + arena->used : NULL;
    arena->used += round_up(mul_size(count, number, name), ARENA_ALIGNMENT);
    if (arena->record) {
        places_add(arena->record, format_string("%s%s", arena->at ? arena->at : "", name), at, count, number);
    }
    return at;
}
#define TAKE(arena, type, name, count) ((type*)arena_take(arena, name, count, sizeof(type)))

// What was taken last lacks a bias: count floats that lie where it lies, to be added to each of its rows.
static inline void arena_lacks(Arena* arena, const float* bias, size_t count) {
    if (!arena->record || !arena->record->count) { return; }
    arena->record->list[arena->record->count - 1].lacks = bias;
    arena->record->list[arena->record->count - 1].lacks_count = count;
}

#endif

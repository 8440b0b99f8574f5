// bpe.h - byte-pair encoding: neighbours become one, the pair of the lowest rank first, of equals the leftmost.
//
//     BpeMerges merges;  bpe_make(&merges, count);  bpe_add(&merges, left, right, merged, rank);
//     size_t n = bpe_merge(&merges, &room, ids, n);        ids (n) in place
//
// Short words search all pairs for the best one; a long one keeps them in a heap, O(n log n): a text may be a million
// equal letters.
#ifndef PONDER_BPE_H
#define PONDER_BPE_H

#include "../base.h"

enum { BPE_SHORT = 32 };  // pieces up to which searching is faster than a heap

// The neighbours `left`, `right` may become `merged`; the lowest rank goes first.
typedef struct {
    int left, right, merged;
    uint32_t rank;
} BpeMerge;

typedef struct {
    size_t capacity;  // a power of two
    size_t count;
    BpeMerge* table;  // (capacity), a hash table; left = -1: free
} BpeMerges;

// A pair that may be merged when it was found: its place, and what it was.
typedef struct {
    uint64_t order;  // rank, then position of the left one
    uint32_t merge;  // its row in the table
} BpePair;

// Room for merging long words: one for each thread. Start from {0}.
typedef struct {
    size_t capacity;
    int *next, *before;  // (capacity) neighbours of a piece; next = -1: it is the last, -2: it is part of another
    BpePair* heap;       // (2 * capacity)
    size_t count;        // pairs in the heap
} BpeRoom;

static inline size_t bpe_hash(int left, int right) {
    uint64_t hash = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    return (size_t)(hash >> 32);
}

// The merge of two pieces, or the free row where it would stand.
static inline BpeMerge* bpe_find(const BpeMerges* merges, int left, int right) {
    size_t at = bpe_hash(left, right) & (merges->capacity - 1);
    for (;;) {
        BpeMerge* merge = &merges->table[at];
        if (merge->left < 0 || (merge->left == left && merge->right == right)) { return merge; }
        at = (at + 1) & (merges->capacity - 1);
    }
}

// Room for `count` merges.
static inline void bpe_make(BpeMerges* merges, size_t count) {
    merges->capacity = 16;
    merges->count = 0;
    while (merges->capacity < 2 * count) { merges->capacity *= 2; }
    merges->table = (BpeMerge*)xalloc(merges->capacity, sizeof(BpeMerge), "the merges");
    for (size_t i = 0; i < merges->capacity; i++) { merges->table[i].left = -1; }
}

// Adds a merge; of one that is added twice the last counts, as in Hugging Face's tokenizers. The table grows as needed.
static inline void bpe_add(BpeMerges* merges, int left, int right, int merged, uint32_t rank) {
    if (2 * (merges->count + 1) > merges->capacity) {
        BpeMerges larger;
        bpe_make(&larger, 2 * merges->capacity);
        for (size_t i = 0; i < merges->capacity; i++) {
            const BpeMerge* old = &merges->table[i];
            if (old->left >= 0) { *bpe_find(&larger, old->left, old->right) = *old; }
        }
        larger.count = merges->count;
        free(merges->table);
        *merges = larger;
    }
    BpeMerge* merge = bpe_find(merges, left, right);
    merges->count += merge->left < 0;
    merge->left = left;
    merge->right = right;
    merge->merged = merged;
    merge->rank = rank;
}

// ---- short words ----

static inline uint32_t bpe_rank(const BpeMerges* merges, const int* ids) {
    const BpeMerge* merge = bpe_find(merges, ids[0], ids[1]);
    return merge->left < 0 ? UINT32_MAX : merge->rank;
}

// Merges ids (n <= BPE_SHORT) in place; returns how many are left.
static inline size_t bpe_merge_short(const BpeMerges* merges, int* ids, size_t n) {
    uint32_t ranks[BPE_SHORT];  // of the merge of pieces i and i+1
    for (size_t i = 0; i + 1 < n; i++) { ranks[i] = bpe_rank(merges, ids + i); }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (ranks[i] < ranks[best]) { best = i; }
        }
        if (ranks[best] == UINT32_MAX) { break; }
        ids[best] = bpe_find(merges, ids[best], ids[best + 1])->merged;
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof(int));
        memmove(ranks + best, ranks + best + 1, (n - best - 2) * sizeof(uint32_t));
        n--;
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++) { ranks[i] = bpe_rank(merges, ids + i); }
    }
    return n;
}

// ---- long words ----

static inline void bpe_reserve(BpeRoom* room, size_t n) {
    if (n <= room->capacity) { return; }
    if (n > INT_MAX) { die("a word of %zu characters is too long to be merged", n); }
    free(room->next);
    free(room->heap);
    room->capacity = n + n / 4;
    room->next = (int*)xalloc(2 * room->capacity, sizeof(int), "merging a long word");
    room->before = room->next + room->capacity;
    room->heap = (BpePair*)xalloc(2 * room->capacity, sizeof(BpePair), "merging a long word");
}

static inline void bpe_sink(BpePair* heap, size_t count, size_t at) {
    BpePair pair = heap[at];
    for (size_t child; (child = 4 * at + 1) < count; at = child) {
        size_t end = min_size(child + 4, count);
        for (size_t other = child + 1; other < end; other++) {
            if (heap[other].order < heap[child].order) { child = other; }
        }
        if (pair.order <= heap[child].order) { break; }
        heap[at] = heap[child];
    }
    heap[at] = pair;
}

static inline BpePair bpe_pop(BpeRoom* room) {
    BpePair first = room->heap[0];
    room->heap[0] = room->heap[--room->count];
    if (room->count) { bpe_sink(room->heap, room->count, 0); }
    return first;
}

// The pair of pieces `at` and what follows it: 1 and *pair, 0 if they do not merge.
static inline int bpe_pair(const BpeMerges* merges, const BpeRoom* room, const int* ids, int at, BpePair* pair) {
    const BpeMerge* merge = bpe_find(merges, ids[at], ids[room->next[at]]);
    if (merge->left < 0) { return 0; }
    pair->order = (uint64_t)merge->rank << 32 | (uint32_t)at;
    pair->merge = (uint32_t)(merge - merges->table);
    return 1;
}

static inline void bpe_push(const BpeMerges* merges, BpeRoom* room, const int* ids, int left) {
    BpePair pair;
    if (left < 0 || room->next[left] < 0 || !bpe_pair(merges, room, ids, left, &pair)) { return; }
    size_t at = room->count++;  // each merge takes one pair out and puts two in: 2n are room enough
    for (size_t parent; at > 0 && pair.order < room->heap[parent = (at - 1) / 4].order; at = parent) {
        room->heap[at] = room->heap[parent];
    }
    room->heap[at] = pair;
}

static inline size_t bpe_merge_long(const BpeMerges* merges, BpeRoom* room, int* ids, size_t n) {
    bpe_reserve(room, n);
    int *next = room->next, *before = room->before;
    for (size_t i = 0; i < n; i++) {
        next[i] = i + 1 < n ? (int)i + 1 : -1;
        before[i] = (int)i - 1;
    }
    room->count = 0;
    for (size_t i = 0; i + 1 < n; i++) {
        room->count += (size_t)bpe_pair(merges, room, ids, (int)i, &room->heap[room->count]);
    }
    for (size_t i = (room->count + 2) / 4; i-- > 0;) { bpe_sink(room->heap, room->count, i); }
    while (room->count) {
        BpePair pair = bpe_pop(room);
        const BpeMerge* merge = &merges->table[pair.merge];
        int at = (int)(uint32_t)pair.order, right = next[at];
        if (right < 0 || ids[at] != merge->left || ids[right] != merge->right) { continue; }  // merged meanwhile
        ids[at] = merge->merged;
        next[at] = next[right];
        if (next[right] >= 0) { before[next[right]] = at; }
        next[right] = -2;
        bpe_push(merges, room, ids, before[at]);
        bpe_push(merges, room, ids, at);
    }
    size_t count = 0;
    for (int at = 0; at >= 0; at = next[at]) { ids[count++] = ids[at]; }
    return count;
}

// Merges ids (n) in place; returns how many are left.
static inline size_t bpe_merge(const BpeMerges* merges, BpeRoom* room, int* ids, size_t n) {
    return n <= BPE_SHORT ? bpe_merge_short(merges, ids, n) : bpe_merge_long(merges, room, ids, n);
}

static inline void bpe_free_room(BpeRoom* room) {
    free(room->next);
    free(room->heap);
    memset(room, 0, sizeof *room);
}

#endif

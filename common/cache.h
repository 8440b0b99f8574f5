// cache.h - keys and values of the positions that a model has read, so that a further one costs one position.
//
// A causal layer's keys and values do not depend on what follows: of a text that grows they are computed once and kept.
// A KeyCache holds those of one pass, for all layers and several sequences; a model of several passes has one for each,
// since a pass sees only its own of earlier positions.
//
//     cached_attention_forward(out, ..., q, k, v, ..., cache, layer)    appends k and v, then attends over all there is
//
// The bits are those of attention_forward() over the whole sequence, however it was cut into calls, and in whatever
// company of other sequences: every query goes through the same tiles of ATTENTION_KT keys, with the same chains of sums.
// What differs is the order in which queries and keys lie. There queries are many and stand side by side in vectors;
// here there may be one, so keys do: 16 of them, number by number, which is what a KeyCache stores.
#ifndef PONDER_CACHE_H
#define PONDER_CACHE_H

#include "attention.h"

enum {
    CACHE_GROUP = 16,   // keys side by side; divides ATTENTION_KT
    CACHE_QUERIES = 32  // queries that a thread takes at a time
};

typedef struct {
    int rows, layers, NKV, HS;
    size_t capacity;  // positions of a sequence, a multiple of CACHE_GROUP
    kept* keys;       // (layers, rows, NKV, capacity / 16, HS, 16)
    kept* values;     // (layers, rows, NKV, capacity, HS)
    // Of the call, B rows of T new tokens:
    const int* row;    // (B) which sequence of the cache each row goes on with
    const int* first;  // (B) the position of its first new token
} KeyCache;

// Numbers of a cache for `rows` sequences of `positions` each; each of its two halves has half of them.
static inline size_t cache_size(int rows, int layers, int NKV, int HS, size_t positions) {
    size_t capacity = round_up(positions, CACHE_GROUP),
           heads = mul_size((size_t)rows * (size_t)layers, (size_t)NKV, "keys");
    return mul_size(heads, mul_size(2 * capacity, (size_t)HS, "keys and values"), "keys and values");
}

// Lays a cache out over memory (cache_size() numbers, zero).
static inline KeyCache cache_over(kept* memory, int rows, int layers, int NKV, int HS, size_t positions) {
    KeyCache c = {rows, layers, NKV, HS, round_up(positions, CACHE_GROUP), memory, NULL, NULL, NULL};
    c.values = memory + cache_size(rows, layers, NKV, HS, positions) / 2;
    return c;
}

// Caches for `passes` passes, in memory of one piece that begins with theirs; cache_free() gives it back.
static inline KeyCache* cache_make(int passes, int rows, int layers, int NKV, int HS, size_t positions) {
    size_t numbers = cache_size(rows, layers, NKV, HS, positions),
           head = round_up((size_t)passes * sizeof(KeyCache), ALIGNMENT);
    size_t bytes = mul_size((size_t)passes, numbers * sizeof(kept), "caches of keys and values");
    KeyCache* caches = (KeyCache*)xalloc(head + bytes, 1, "caches of keys and values");
    for (int s = 0; s < passes; s++) {
        kept* memory = (kept*)((char*)caches + head) + (size_t)s * numbers;
        caches[s] = cache_over(memory, rows, layers, NKV, HS, positions);
    }
    return caches;
}

// The position of row b's first token: what layers with positions add to t. NULL: no cache, so 0.
static inline size_t cache_first(const KeyCache* cache, size_t b) { return cache ? (size_t)cache->first[b] : 0; }

// Numbers before the keys, or the values, of a layer, a row of the call and a head.
static inline size_t cache_at(const KeyCache* c, int layer, int b, int head) {
    size_t rows = (size_t)layer * (size_t)c->rows + (size_t)c->row[b];
    return (rows * (size_t)c->NKV + (size_t)head) * c->capacity * (size_t)c->HS;
}

// Puts k and v of (B,T) new positions behind those that are there; as attention_forward() takes them.
static inline void cache_append(const KeyCache* c, int layer, const kept* k, const kept* v, int B, int T, size_t row,
                                size_t kv_head) {
    size_t HS = (size_t)c->HS, heads = (size_t)c->NKV;
#pragma omp parallel for schedule(static) if ((size_t)B * (size_t)T * heads * HS > SERIAL)
    for (size_t task = 0; task < (size_t)B * heads; task++) {
        size_t b = task / heads, head = task % heads, at = cache_at(c, layer, (int)b, (int)head);
        for (size_t t = 0; t < (size_t)T; t++) {
            size_t from = (b * (size_t)T + t) * row + head * kv_head, to = (size_t)c->first[b] + t;
            kept* key = c->keys + at + to / CACHE_GROUP * HS * CACHE_GROUP + to % CACHE_GROUP;
            for (size_t d = 0; d < HS; d++) { key[d * CACHE_GROUP] = k[from + d]; }
            memcpy(c->values + at + to * HS, v + from, HS * sizeof(kept));
        }
    }
}

// The plain version, of one query at position i; the chains of attention_forward_reference(). p (i+1).
static inline void cache_attend_reference(kept* out, const kept* q, const kept* keys, const kept* values, int i, int HS,
                                          real* p) {
    real scale = 1 / real_sqrt((real)HS), most = -INFINITY, sum = 0;
    for (int j = 0; j <= i; j++) {
        const kept* key = keys + ((size_t)(j / CACHE_GROUP) * (size_t)HS) * CACHE_GROUP + j % CACHE_GROUP;
        real s = 0;
        for (int d = 0; d < HS; d++) { s += real_of_kept(q[d]) * real_of_kept(key[d * CACHE_GROUP]); }
        p[j] = scale * s;
        if (p[j] > most) { most = p[j]; }
    }
    for (int j = 0; j <= i; j++) { sum += real_exp(p[j] - most); }
    for (int j = 0; j <= i; j++) { p[j] = real_exp(p[j] - most) / sum; }
    for (int d = 0; d < HS; d++) {
        real o = 0;
        for (int j = 0; j <= i; j++) { o += p[j] * real_of_kept(values[(size_t)j * (size_t)HS + (size_t)d]); }
        out[d] = kept_of_real(o);
    }
}

// s (groups, 16) = q . k for `groups` groups of keys: each number one chain over d.
static inline void cache_scores(float* s, const float* q, const kept* keys, int groups, int HS) {
    enum { VECTORS = CACHE_GROUP / VL };
    for (int g = 0; g < groups; g += 2) {
        const kept* pair[2] = {keys + (size_t)g * (size_t)HS * CACHE_GROUP, NULL};
        pair[1] = g + 1 < groups ? pair[0] + (size_t)HS * CACHE_GROUP : pair[0];
        vf sum[2][VECTORS];
        for (int x = 0; x < VECTORS; x++) { sum[0][x] = sum[1][x] = vf_zero(); }
        for (int d = 0; d < HS; d++) {
            vf qd = vf_set1(q[d]);
            ATTENTION_UNROLL
            for (int x = 0; x < VECTORS; x++) {
                sum[0][x] = vf_fma(vf_load_kept(pair[0] + d * CACHE_GROUP + x * VL), qd, sum[0][x]);
                sum[1][x] = vf_fma(vf_load_kept(pair[1] + d * CACHE_GROUP + x * VL), qd, sum[1][x]);
            }
        }
        for (int half = 0; half < 2 && g + half < groups; half++) {
            for (int x = 0; x < VECTORS; x++) { vf_store(s + (g + half) * CACHE_GROUP + x * VL, sum[half][x]); }
        }
    }
}

// o (HS) = or += sum over n keys of p[j] v[j] (n, HS): each number one chain over j.
static inline void cache_sum(float* o, const float* p, const kept* v, int n, int HS, int accumulate) {
    int d = 0;
    for (; d + 2 * VL <= HS; d += 2 * VL) {
        vf a = accumulate ? vf_load(o + d) : vf_zero(), b = accumulate ? vf_load(o + d + VL) : vf_zero();
        for (int j = 0; j < n; j++) {
            const kept* row = v + (size_t)j * (size_t)HS + d;
            vf pj = vf_set1(p[j]);
            a = vf_fma(pj, vf_load_kept(row), a);
            b = vf_fma(pj, vf_load_kept(row + VL), b);
        }
        vf_store(o + d, a);
        vf_store(o + d + VL, b);
    }
    for (; d < HS; d++) {
        float a = accumulate ? o[d] : 0;
        for (int j = 0; j < n; j++) { a = fma_f(p[j], (float)real_of_kept(v[(size_t)j * (size_t)HS + (size_t)d]), a); }
        o[d] = a;
    }
}

// nq <= CACHE_QUERIES queries of one head, at positions from `first` on, over all keys up to their own; q and out have
// rows q_row and out_row apart. Work space (attention_buffer_size(HS)).
static inline void cache_attend(kept* out, size_t out_row, const kept* q, size_t q_row, const kept* keys,
                                const kept* values, int first, int nq, int HS, float* work) {
    float* Q = work;  // (nq, HS) scaled
    float* O = Q + CACHE_QUERIES * HS;
    float* s = O + CACHE_QUERIES * HS;  // (ATTENTION_KT)
    float most[CACHE_QUERIES], sum[CACHE_QUERIES], scale = 1.0f / sqrtf((float)HS);
    for (int i = 0; i < nq; i++) {
        for (int d = 0; d < HS; d++) { Q[i * HS + d] = scale * (float)real_of_kept(q[(size_t)i * q_row + (size_t)d]); }
        most[i] = -INFINITY, sum[i] = 0;
    }
    for (int j0 = 0; j0 < first + nq; j0 += ATTENTION_KT) {
        for (int i = first < j0 ? j0 - first : 0; i < nq; i++) {
            int n = first + i + 1 - j0 < ATTENTION_KT ? first + i + 1 - j0 : ATTENTION_KT;
            float* o = O + i * HS;
            cache_scores(s, Q + i * HS, keys + (size_t)j0 * (size_t)HS, (n + CACHE_GROUP - 1) / CACHE_GROUP, HS);
            float old = most[i], largest = old, tile = 0;
            for (int j = 0; j < n; j++) { largest = s[j] > largest ? s[j] : largest; }
            for (int j = 0; j < n; j++) { s[j] = exp_f(s[j] - largest); }
            for (int j = 0; j < n; j++) { tile += s[j]; }
            float grow = exp_f(old - largest);
            most[i] = largest;
            sum[i] = sum[i] * grow + tile;
            for (int d = 0; d < HS && j0 > 0 && grow != 1.0f; d++) { o[d] *= grow; }
            cache_sum(o, s, values + (size_t)j0 * (size_t)HS, n, HS, j0 > 0);
        }
    }
    for (int i = 0; i < nq; i++) {
        float inverse = 1.0f / sum[i];
        for (int d = 0; d < HS; d++) {
            out[(size_t)i * out_row + (size_t)d] = kept_of_real((real)(O[i * HS + d] * inverse));
        }
    }
}

// As attention_forward(), which it is without a cache. With one, the rows are what follows on what the cache has of a
// layer: k and v are appended, and lse, which only a backward reads, is left as it was.
static inline void cached_attention_forward(kept* out, real* lse, const kept* q, const kept* k, const kept* v, int B,
                                            int T, int NH, int NKV, int HS, size_t row, size_t q_head, size_t kv_head,
                                            const KeyCache* cache, int layer) {
    if (!cache) {
        attention_forward(out, lse, q, k, v, B, T, NH, NKV, HS, row, q_head, kv_head);
        return;
    }
    cache_append(cache, layer, k, v, B, T, row, kv_head);
    size_t out_row = (size_t)NH * (size_t)HS, blocks = ((size_t)T + CACHE_QUERIES - 1) / CACHE_QUERIES;
    float* memory = attention_memory(HS);
#pragma omp parallel for schedule(dynamic)
    for (size_t task = 0; task < (size_t)B * (size_t)NH * blocks; task++) {
        // The last queries first: they take longest.
        size_t block = blocks - 1 - task / ((size_t)B * (size_t)NH), b = task / (size_t)NH % (size_t)B,
               h = task % (size_t)NH;
        size_t t = block * CACHE_QUERIES, n = b * (size_t)T + t;
        int nq = (int)min_size(CACHE_QUERIES, (size_t)T - t), first = cache->first[b] + (int)t;
        size_t at = cache_at(cache, layer, (int)b, (int)h / (NH / NKV));
        kept* to = out + n * out_row + h * (size_t)HS;
        const kept* from = q + n * row + h * q_head;
        if (sizeof(real) == sizeof(float)) {
            cache_attend(to, out_row, from, row, cache->keys + at, cache->values + at, first, nq, HS,
                         memory + (size_t)thread_index() * attention_buffer_size(HS));
            continue;
        }
        real* p = (real*)xalloc((size_t)(first + nq), sizeof(real), "a row of attention");
        for (int i = 0; i < nq; i++) {
            cache_attend_reference(to + (size_t)i * out_row, from + (size_t)i * row, cache->keys + at,
                                   cache->values + at, first + i, HS, p);
        }
        free(p);
    }
    stored(out, (size_t)B * (size_t)T * out_row);
}

#endif

// random.h - random numbers by counter: number i of a stream is a function of (seed, stream, i).
//
//     uint64_t stream = random_stream("gpt_neox.embed_in.weight");   a name's own stream
//     double z = random_normal(seed, stream, i);                     any i, in any order, by any thread
//
// There is no state to save, to share or to advance: weights do not depend on the thread count or
// on which tensors exist, and a resumed run draws what the first would have drawn. The generator
// is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011): ten rounds of multiplication and exclusive or turn a counter of 128 bits (here stream
// and index) under a key of 64 bits (here the seed) into 128 random bits.
//
// No function here calls libm, so every machine draws the same bits.
#ifndef PONDER_RANDOM_H
#define PONDER_RANDOM_H

#include "base.h"
#include "mathfun.h"

typedef struct {
    uint32_t word[4];
} RandomBlock;

// Philox4x32-10 of a counter under a key.
static inline RandomBlock random_philox(RandomBlock counter, uint64_t key) {
    uint32_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)c0 * 0xD2511F53u, b = (uint64_t)c2 * 0xCD9E8D57u;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;  // golden ratio
        k1 += 0xBB67AE85u;  // sqrt(3) - 1
    }
    RandomBlock block = {{c0, c1, c2, c3}};
    return block;
}

// The 128 bits at an index of a stream.
static inline RandomBlock random_block(uint64_t seed, uint64_t stream, uint64_t index) {
    RandomBlock counter = {{(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)}};
    return random_philox(counter, seed);
}

// Hash of bytes, continuing from `hash`: FNV-1a, 64 bits (Fowler, Noll, Vo).
#define HASH_START 0xcbf29ce484222325u
static inline uint64_t hash_bytes(uint64_t hash, const void* bytes, size_t n) {
    const unsigned char* p = (const unsigned char*)bytes;
    for (size_t i = 0; i < n; i++) { hash = (hash ^ p[i]) * 0x100000001b3u; }
    return hash;
}

// The stream that belongs to a name.
static inline uint64_t random_stream(const char* name) { return hash_bytes(HASH_START, name, strlen(name)); }

// 32 uniform bits.
static inline uint32_t random_u32(uint64_t seed, uint64_t stream, uint64_t index) {
    return random_block(seed, stream, index).word[0];
}

// Uniform in (0, 1), both ends excluded: (k + 1/2) / 2^52 for 52 random bits k, so that u and 1 - u
// are both exact and neither is ever 0.
static inline double random_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    RandomBlock b = random_block(seed, stream, index);
    uint64_t k = ((uint64_t)b.word[1] << 32 | b.word[0]) >> 12;
    return ((double)k + 0.5) * (1.0 / 4503599627370496.0);
}

// x with Phi(x) = p, 0 < p < 1: the inverse of the normal distribution function. Rational
// functions and coefficients of Wichura, "Algorithm AS 241", Applied Statistics 37 (1988); about
// 1e-15 relative. One function without a loop serves all normal numbers.
static inline double normal_quantile(double p) {
    double q = p - 0.5;
    if (fabs(q) <= 0.425) {  // center: x = q times a rational function of q^2
        double r = 0.180625 - q * q;
        double top = 2.5090809287301226727e3;
        top = top * r + 3.3430575583588128105e4;
        top = top * r + 6.7265770927008700853e4;
        top = top * r + 4.5921953931549871457e4;
        top = top * r + 1.3731693765509461125e4;
        top = top * r + 1.9715909503065514427e3;
        top = top * r + 1.3314166789178437745e2;
        top = top * r + 3.3871328727963666080e0;
        double bottom = 5.2264952788528545610e3;
        bottom = bottom * r + 2.8729085735721942674e4;
        bottom = bottom * r + 3.9307895800092710610e4;
        bottom = bottom * r + 2.1213794301586595867e4;
        bottom = bottom * r + 5.3941960214247511077e3;
        bottom = bottom * r + 6.8718700749205790830e2;
        bottom = bottom * r + 4.2313330701600911252e1;
        bottom = bottom * r + 1.0;
        return q * top / bottom;
    }
    double r = sqrt(-log_d(q < 0 ? p : 1 - p));  // tails: a function of the distance to the nearer end
    double top, bottom;
    if (r <= 5) {
        r -= 1.6;
        top = 7.74545014278341407640e-4;
        top = top * r + 2.27238449892691845833e-2;
        top = top * r + 2.41780725177450611770e-1;
        top = top * r + 1.27045825245236838258e0;
        top = top * r + 3.64784832476320460504e0;
        top = top * r + 5.76949722146069140550e0;
        top = top * r + 4.63033784615654529590e0;
        top = top * r + 1.42343711074968357734e0;
        bottom = 1.05075007164441684324e-9;
        bottom = bottom * r + 5.47593808499534494600e-4;
        bottom = bottom * r + 1.51986665636164571966e-2;
        bottom = bottom * r + 1.48103976427480074590e-1;
        bottom = bottom * r + 6.89767334985100004550e-1;
        bottom = bottom * r + 1.67638483018380384940e0;
        bottom = bottom * r + 2.05319162663775882187e0;
        bottom = bottom * r + 1.0;
    } else {
        r -= 5;
        top = 2.01033439929228813265e-7;
        top = top * r + 2.71155556874348757815e-5;
        top = top * r + 1.24266094738807843860e-3;
        top = top * r + 2.65321895265761230930e-2;
        top = top * r + 2.96560571828504891230e-1;
        top = top * r + 1.78482653991729133580e0;
        top = top * r + 5.46378491116411436990e0;
        top = top * r + 6.65790464350110377720e0;
        bottom = 2.04426310338993978564e-15;
        bottom = bottom * r + 1.42151175831644588870e-7;
        bottom = bottom * r + 1.84631831751005468180e-5;
        bottom = bottom * r + 7.86869131145613259100e-4;
        bottom = bottom * r + 1.48753612908506148525e-2;
        bottom = bottom * r + 1.36929880922735805310e-1;
        bottom = bottom * r + 5.99832206555887937690e-1;
        bottom = bottom * r + 1.0;
    }
    return q < 0 ? -top / bottom : top / bottom;
}

// Normal, mean 0, standard deviation 1.
static inline double random_normal(uint64_t seed, uint64_t stream, uint64_t index) {
    return normal_quantile(random_uniform(seed, stream, index));
}

// Phi(-cut), for cut > 0: the share of a normal distribution below -cut.
static inline double normal_tail(double cut) {
    if (cut == 3.0) { return 0.00134989803163009452665; }  // the one that initialisations use, at no cost
    if (cut > 8) { return 0; }                             // below 2^-50: no uniform number would notice
    // Phi(x) = 1/2 + phi(x) (x + x^3/3 + x^5/(3*5) + ...)
    double term = cut, sum = cut;
    for (int k = 3; term > 1e-17 * sum; k += 2) {
        term *= cut * cut / k;
        sum += term;
    }
    double tail = 0.5 - 0.39894228040143267794 * exp_d(-0.5 * cut * cut) * sum;
    return tail > 0 ? tail : 0;
}

// Normal numbers of mean 0 and standard deviation 1 of which only those within +-cut are kept,
// cut > 0: the distribution of torch.nn.init.trunc_normal_(std=1, a=-cut, b=cut), and of drawing
// again until a number fits. 1 is the standard deviation before the cut; what is left has less
// (0.98658 for cut 3). Made by a uniform number between Phi(-cut) and Phi(cut): no loop.
static inline double random_truncated_normal(uint64_t seed, uint64_t stream, uint64_t index, double cut) {
    double tail = normal_tail(cut);
    double x = normal_quantile(tail + random_uniform(seed, stream, index) * (1 - 2 * tail));
    return x > cut ? cut : x < -cut ? -cut : x;  // the last bit may have been rounded across the cut
}

// Where index i of 0..n-1 goes under the permutation of 0..n-1 that (seed, epoch) choose.
// Needs no memory: a Feistel network of eight rounds, with Philox as its round function, is a
// permutation of 0..4^h-1, the smallest such range that holds n; a result outside 0..n-1 is sent
// through again until it falls inside ("cycle walking": Black and Rogaway, "Ciphers with arbitrary
// finite domains", 2002). Less than four passes on average, since 4^h < 4n.
static inline uint64_t random_permute(uint64_t seed, uint64_t epoch, uint64_t n, uint64_t i) {
    if (n <= 1) { return 0; }
    int half = 1;  // bits of each half of an index
    while (half < 32 && (n - 1) >> (2 * half) != 0) { half++; }
    uint32_t mask = (uint32_t)(((uint64_t)1 << half) - 1);
    RandomBlock b = random_block(seed, random_stream("permutation"), epoch);
    uint64_t key = (uint64_t)b.word[1] << 32 | b.word[0];
    do {
        uint32_t left = (uint32_t)(i >> half), right = (uint32_t)i & mask;
        for (uint32_t round = 0; round < 8; round++) {
            RandomBlock counter = {{right, round, 0, 0}};
            uint32_t next = (left ^ random_philox(counter, key).word[0]) & mask;
            left = right;
            right = next;
        }
        i = (uint64_t)left << half | right;
    } while (i >= n);
    return i;
}

#endif

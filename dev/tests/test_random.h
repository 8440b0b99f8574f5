// test_random.h - tests of common/random.h: known answers, distributions, permutations.
#ifndef PONDER_TEST_RANDOM_H
#define PONDER_TEST_RANDOM_H

#include "../../common/random.h"
#include "test.h"

// The known answers published with the generator (Random123, kat_vectors).
static void test_random_known_answers(void) {
    static const struct {
        RandomBlock counter;
        uint64_t key;
        RandomBlock want;
    } cases[3] = {
        {{{0, 0, 0, 0}}, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
        {{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}},
         0xffffffffffffffff,
         {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
        {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
         0x299f31d0a4093822,
         {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
    };
    for (int i = 0; i < 3; i++) {
        RandomBlock got = random_philox(cases[i].counter, cases[i].key);
        for (int w = 0; w < 4; w++) {
            CHECK(got.word[w] == cases[i].want.word[w], "case %d word %d: %08x, want %08x", i, w, got.word[w],
                  cases[i].want.word[w]);
        }
    }
    // FNV-1a of "" and "foobar", from its authors' test suite.
    CHECK(random_stream("") == 0xcbf29ce484222325u, "empty name");
    CHECK(random_stream("foobar") == 0x85944171f73967e8u, "foobar");
}

static void test_random_frozen(void) {
    // Runs must be repeatable by later versions: these numbers must never change.
    uint64_t stream = random_stream("gpt_neox.embed_in.weight");
    uint64_t hash = HASH_START;
    for (uint64_t i = 0; i < 10000; i++) {
        double x[3] = {random_uniform(42, stream, i), random_normal(42, stream, i),
                       random_truncated_normal(42, stream, i, 3.0)};
        hash = hash_bytes(hash, x, sizeof x);
        uint64_t at = random_permute(42, 7, 10000, i);
        hash = hash_bytes(hash, &at, sizeof at);
    }
    CHECK(hash == 0x6f3ebbd967262c84u, "hash of the numbers is %016llx", (unsigned long long)hash);
    hash = HASH_START;  // of 4^6, which just fills the range that is permuted
    for (uint64_t i = 0; i < 4096; i++) {
        uint64_t at = random_permute(42, 7, 4096, i);
        hash = hash_bytes(hash, &at, sizeof at);
    }
    CHECK(hash == 0xff7af8b2c24e2f09u, "hash of the permutation is %016llx", (unsigned long long)hash);
    // Seed, stream and index all matter, the upper halves too.
    uint32_t base = random_u32(42, stream, 5);
    CHECK(base != random_u32(43, stream, 5) && base != random_u32(42 + (1ull << 32), stream, 5), "seed");
    CHECK(base != random_u32(42, stream + 1, 5) && base != random_u32(42, stream + (1ull << 32), 5), "stream");
    CHECK(base != random_u32(42, stream, 6) && base != random_u32(42, stream, 5 + (1ull << 32)), "index");
}

static void test_random_quantile(void) {
    static const double cases[][2] = {
        // from Python's statistics.NormalDist().inv_cdf
        {1.1102230246251565e-16, -8.209536151601386},
        {1e-12, -7.034483825301132},
        {1e-5, -4.2648907939228256},
        {0.00134989803163009452665, -2.999999999999999},
        {0.07, -1.4757910281791702},
        {0.075, -1.4395314709384557},
        {0.3, -0.5244005127080407},
        {0.9, 1.2815515655446008},
        {0.925, 1.439531470938456},
        {0.93, 1.4757910281791708},
        {0.999, 3.090232306167813},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double got = normal_quantile(cases[i][0]), want = cases[i][1];
        // Measured: 0; the algorithm promises about 1e-15.
        CHECK(fabs(got - want) <= 2e-15 * fabs(want) + 1e-17, "quantile of %.17g: %.17g, want %.17g", cases[i][0], got,
              want);
    }
    // Measured: 1.1e-16; a few roundings of numbers of about 1.
    CHECK(fabs(normal_tail(1.0) - 0.15865525393145707) < 4e-16, "tail at 1: %.17g", normal_tail(1.0));
    CHECK(fabs(normal_tail(2.0) - 0.02275013194817921) < 4e-16, "tail at 2: %.17g", normal_tail(2.0));
    CHECK(fabs(normal_tail(3.0) - normal_tail(3.0 + 1e-12)) < 1e-13, "constant and series disagree at 3");
    CHECK(normal_tail(9.0) == 0, "tail at 9");
}

static void test_random_distributions(void) {
    enum { N = 200000, BINS = 50 };
    uint64_t stream = random_stream("moments");
    double sum = 0, sum2 = 0, sum3 = 0, sum4 = 0, largest = 0, low = 1, high = 0;
    double truncated = 0, truncated2 = 0, neighbours = 0, before = 0;
    static int bins[BINS];
    memset(bins, 0, sizeof bins);
    for (uint64_t i = 0; i < N; i++) {
        double u = random_uniform(1, stream, i), x = random_normal(2, stream, i);
        double t = random_truncated_normal(3, stream, i, 3.0);
        bins[(int)(u * BINS)]++;
        if (u < low) { low = u; }
        if (u > high) { high = u; }
        sum += x, sum2 += x * x, sum3 += x * x * x, sum4 += x * x * x * x;
        neighbours += x * before;
        before = x;
        truncated += t, truncated2 += t * t;
        if (fabs(t) > largest) { largest = fabs(t); }
    }
    double chi = 0;
    for (int b = 0; b < BINS; b++) {
        double expected = (double)N / BINS;
        chi += (bins[b] - expected) * (bins[b] - expected) / expected;
    }
    CHECK(chi > 20 && chi < 95, "uniform: chi^2 of %d bins is %.1f", BINS, chi);  // mean 49, deviation 10
    CHECK(low > 0 && low < 1e-4 && high < 1 && high > 1 - 1e-4, "uniform: %g..%g", low, high);
    // Between four and six deviations, which are 0.0022 of the mean, 0.0032 of the variance, 0.0087 and 0.022 of the
    // third and fourth moments. The seed is fixed: the numbers measured use at most half of it.
    CHECK(fabs(sum / N) < 0.01, "mean %g", sum / N);
    CHECK(fabs(sum2 / N - 1) < 0.015, "variance %g", sum2 / N);
    CHECK(fabs(sum3 / N) < 0.04, "third moment %g", sum3 / N);
    CHECK(fabs(sum4 / N - 3) < 0.12, "fourth moment %g", sum4 / N);
    CHECK(fabs(neighbours / N) < 0.01, "correlation of neighbours %g", neighbours / N);
    CHECK(largest <= 3.0 && largest > 2.99, "cut at 3: largest is %g", largest);
    CHECK(fabs(truncated / N) < 0.01, "truncated mean %g", truncated / N);
    // Not renormalised: the variance is 1 - 2*3*phi(3)/(Phi(3)-Phi(-3)) = 0.97334.
    CHECK(fabs(truncated2 / N - 0.97333692) < 0.012, "truncated variance %g", truncated2 / N);
    for (uint64_t i = 0; i < 1000; i++) {
        CHECK(fabs(random_truncated_normal(3, stream, i, 0.5)) <= 0.5, "cut at 0.5");
        CHECK(fabs(random_truncated_normal(3, stream, i, 1e-16)) <= 1e-16, "cut where rounding is felt");
    }
}

static void test_random_permute(void) {
    static const uint64_t sizes[] = {1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 63, 64, 65, 255, 1000, 1023, 1024, 1025, 4097};
    unsigned char* seen = (unsigned char*)xalloc(4097, 1, "a test");
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        uint64_t n = sizes[s];
        for (uint64_t epoch = 0; epoch < 3; epoch++) {
            memset(seen, 0, n);
            uint64_t wrong = 0;
            for (uint64_t i = 0; i < n; i++) {
                uint64_t at = random_permute(42, epoch, n, i);
                if (at >= n || seen[at]) {
                    wrong++;
                } else {
                    seen[at] = 1;
                }
            }
            CHECK(wrong == 0, "n %llu epoch %llu: %llu places missed", (unsigned long long)n, (unsigned long long)epoch,
                  (unsigned long long)wrong);
        }
    }
    free(seen);
    // Far beyond 32 bits: in range and injective as far as one looks.
    uint64_t big = 3000000000000u;
    CHECK(random_permute(1, 0, big, 0) < big && random_permute(1, 0, big, big - 1) < big, "range");
    CHECK(random_permute(1, 0, big, 0) != random_permute(1, 0, big, 1), "injective");
    // Other epochs and seeds give other orders; fixed points and steps of +1 are as rare as chance has it (about 1).
    int same_epoch = 0, same_seed = 0, fixed = 0, successive = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t at = random_permute(42, 0, 1000, i);
        same_epoch += at == random_permute(42, 1, 1000, i);
        same_seed += at == random_permute(43, 0, 1000, i);
        fixed += at == i;
        successive += i > 0 && at == random_permute(42, 0, 1000, i - 1) + 1;
    }
    CHECK(same_epoch < 8 && same_seed < 8 && fixed < 8 && successive < 8, "%d %d %d %d of 1000 agree", same_epoch,
          same_seed, fixed, successive);
    // Over many epochs every index goes everywhere equally often, for small n too.
    static const uint64_t small[] = {2, 3, 5, 11};
    for (size_t s = 0; s < sizeof small / sizeof small[0]; s++) {
        uint64_t n = small[s];
        enum { EPOCHS = 4400 };
        int count[11 * 11] = {0};
        for (uint64_t epoch = 0; epoch < EPOCHS; epoch++) {
            for (uint64_t i = 0; i < n; i++) { count[i * n + random_permute(9, epoch, n, i)]++; }
        }
        double chi = 0, expected = (double)EPOCHS / (double)n;
        for (uint64_t k = 0; k < n * n; k++) { chi += (count[k] - expected) * (count[k] - expected) / expected; }
        double freedom = (double)((n - 1) * (n - 1));
        CHECK(chi < freedom + 5 * sqrt(2 * freedom) + 6, "n %llu: chi^2 %.1f for %.0f degrees of freedom",
              (unsigned long long)n, chi, freedom);
    }
}

static void random_tests(void) {
    RUN(test_random_known_answers);
    RUN(test_random_frozen);
    RUN(test_random_quantile);
    RUN(test_random_distributions);
    RUN(test_random_permute);
}

#endif

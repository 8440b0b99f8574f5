// test_scaling.h - tests of common/scaling.h: what adding the gradients of several GPUs takes, on paper.
#ifndef PONDER_TEST_SCALING_H
#define PONDER_TEST_SCALING_H

#include "../../common/scaling.h"
#include "test.h"

// 128 MB by hand, microseconds. H100, 8 machines: 0.8 x min(450, 8 x 50) = 320 GB/s; ring 2 x 63/64 x 128 Mi / 320e9 =
// 825.754, + 8.4 + 2 x 56 x 3.4 + 2 x 7 x 14; tree 2 x 128 Mi / (0.92 x 320e9) = 911.805, + 8.4 + 2 x 7 x 4 + 2 x 3 x 14.
static void test_scaling_reduce(void) {
    static const struct {
        const char* card;
        int gpus, machine;
        int machines, by_network;
        double rate, ring, tree;  // GB/s, us
    } cases[] = {
        {"h100", 64, 8, 8, 1, 320, 1410.9536, 1060.2052}, {"h100", 8, 8, 1, 0, 360, 708.4473, 874.8935},
        {"h100", 6, 8, 1, 0, 360, 663.7784, 858.8935},     // a machine that is not full
        {"h100", 2, 1, 2, 1, 40, 3391.8432, 7330.8417},    // one GPU a machine: no link within
        {"h100", 12, 8, 2, 1, 240, 1129.6743, 1292.1403},  // the networks of six GPUs
        {"h100", 20, 10, 2, 0, 360, 867.1713, 918.8935},   // ten networks are faster than a link
        {"h100", 20, 8, 3, 1, 240, 1242.5570, 1328.1403},  // of six or seven GPUs each
        {"a100", 16, 8, 2, 1, 160, 1704.4640, 1916.0104}, {"rtx4090", 16, 8, 2, 1, 10, 25297.4240, 29270.1670},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Cluster c = cluster_of(card_find(cases[i].card), cases[i].gpus);
        c.machine = cases[i].machine;
        CHECK(cluster_machines(&c) == cases[i].machines && cluster_by_network(&c) == cases[i].by_network,
              "case %zu: %d machines, by network %d", i, cluster_machines(&c), cluster_by_network(&c));
        const double bytes = 4.0 * RANK_BUCKET, ring = 1e6 * cluster_ring(&c, bytes),
                     tree = 1e6 * cluster_tree(&c, bytes);
        CHECK(fabs(cluster_rate(&c) / 1e9 / cases[i].rate - 1) < 1e-12, "case %zu: %g GB/s", i, cluster_rate(&c) / 1e9);
        CHECK(fabs(ring - cases[i].ring) < 1e-3 && fabs(tree - cases[i].tree) < 1e-3,
              "case %zu: ring %.4f, tree %.4f us", i, ring, tree);
        CHECK(fabs(1e6 * cluster_reduce(&c, bytes) - (ring < tree ? ring : tree)) < 1e-6, "case %zu: the slower way",
              i);
    }
    Cluster apart = cluster_of(card_find("rtx4090"), 4);
    apart.machine = 1, apart.network = 40e9;  // faster than a link that nothing passes
    CHECK(cluster_rate(&apart) == 32e9 && cluster_by_network(&apart), "one GPU a machine: %g bytes/s",
          cluster_rate(&apart));
    Cluster one = cluster_of(card_find("h100"), 1);
    CHECK(cluster_reduce(&one, 1e9) == 0, "one GPU exchanges for %g s", cluster_reduce(&one, 1e9));
}

// Buckets of 32 Mi numbers from the last on; 8 H100, so that a whole one takes 708.4473 us and one of 7 numbers 56.0001.
static void test_scaling_overlap(void) {
    const size_t b = RANK_BUCKET;
    Cluster c = cluster_of(card_find("h100"), 8);
    GradientOrder order = {1e-3, b / 2, 2 * b + b / 2, 3 * b + 7};
    const struct {
        size_t first;
        double ready;
    } ready[] = {{3 * b, 0},    {2 * b + b / 2, 0}, {2 * b, 0.25e-3}, {b, 0.75e-3},
                 {b / 2, 1e-3}, {b / 2 - 1, 1e-3},  {0, 1e-3}};
    for (size_t i = 0; i < sizeof ready / sizeof ready[0]; i++) {
        CHECK(fabs(gradient_ready(&order, ready[i].first) - ready[i].ready) < 1e-12,
              "number %zu is complete after %g s", ready[i].first, gradient_ready(&order, ready[i].first));
    }
    const double all = 3 * 708.4473 + 56.0001;
    // The tail, and what of the reduction it covers: nothing; the whole tail but for 250 - 56 us before layers are
    // complete; all but the last bucket.
    const struct {
        double tail, hidden;  // us
    } tails[] = {{0, 0}, {1000, 1000 - (250 - 56.0001)}, {1e6, all - 708.4473}};
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        order.tail = 1e-6 * tails[i].tail;
        Reduction r = reduction_of(&c, &order);
        CHECK(r.buckets[REDUCE_EARLY] == 1 && r.buckets[REDUCE_DURING] == 2 && r.buckets[REDUCE_LATE] == 1,
              "buckets %d, %d, %d", r.buckets[0], r.buckets[1], r.buckets[2]);
        CHECK(r.bytes[REDUCE_EARLY] == 28 && r.bytes[REDUCE_DURING] == 8.0 * (double)b &&
                  r.bytes[REDUCE_LATE] == 4.0 * (double)b,
              "bytes %g, %g, %g", r.bytes[0], r.bytes[1], r.bytes[2]);
        CHECK(fabs(1e6 * r.all - all) < 1e-3, "all takes %.4f us, expected %.4f", 1e6 * r.all, all);
        CHECK(fabs(1e6 * r.hidden - tails[i].hidden) < 1e-3, "tail of %g us: %.4f us hidden, expected %.4f",
              tails[i].tail, 1e6 * r.hidden, tails[i].hidden);
        CHECK(fabs(1e6 * r.latency - 4 * 56) < 1e-6, "latency %g us", 1e6 * r.latency);
    }
    const GradientOrder whole = {1e-3, b, 3 * b, 3 * b + 7};  // complete at the ends of buckets
    const Reduction even = reduction_of(&c, &whole);
    CHECK(even.buckets[REDUCE_EARLY] == 1 && even.buckets[REDUCE_DURING] == 2 && even.buckets[REDUCE_LATE] == 1,
          "buckets %d, %d, %d", even.buckets[0], even.buckets[1], even.buckets[2]);
    order.end = order.numbers;  // one table for both uses: nothing is complete early
    Reduction tied = reduction_of(&c, &order);
    CHECK(tied.buckets[REDUCE_EARLY] == 0 && tied.buckets[REDUCE_DURING] == 3, "tied: %d buckets early",
          tied.buckets[0]);
}

// --zero 1, by hand: 8 H100, 360 GB/s, 8.4 + 7 x 3.4 = 32.2 us of a collective. Of 1 Gi numbers in bf16, 7/8 of 4 Gi bytes take
// 10439.2 us, of 131072 bytes of sums 0.3186, of 2 Gi bytes 5219.6; 400 MB of masters 1111.1. 64: half of a ring's latency
// there, 8.4 + 56 x 3.4 + 7 x 14 = 296.8.
static void test_scaling_divided(void) {
    const Divided d = {(size_t)1 << 30, 1 << 14, 2, 100000000, 3};
    Cluster c = cluster_of(card_find("h100"), 8);
    double bytes[DIVIDED_TIMES], seconds[DIVIDED_TIMES];
    const double want[DIVIDED_TIMES] = {10439.1566 + 32.2, 0.3186 + 32.2, 5219.5783 + 32.2, 1111.1111 + 32.2};
    Reduction r = divided_of(&c, &d, bytes, seconds);
    double all = 0, sent = 0.875 * (4294967296.0 + 131072 + 2147483648.0) + 4e8;
    for (int i = 0; i < DIVIDED_TIMES; i++) {
        CHECK(fabs(1e6 * seconds[i] - want[i]) < 1e-3, "collective %d: %.4f us, expected %.4f", i, 1e6 * seconds[i],
              want[i]);
        all += want[i];
    }
    CHECK(fabs(1e6 * r.all - all) < 1e-2 && fabs(1e6 * r.latency - 4 * 32.2) < 1e-6, "%g us, %g of latency",
          1e6 * r.all, 1e6 * r.latency);
    CHECK(fabs(r.sent / sent - 1) < 1e-12 && r.hidden == 0, "%g bytes, expected %g", r.sent, sent);
    const Divided fp32 = {(size_t)1 << 30, 1 << 14, 4, 0, 0};  // all masters are what layers read
    r = divided_of(&c, &fp32, bytes, seconds);
    CHECK(seconds[DIVIDED_MASTERS] == 0 && fabs(1e6 * r.latency - 3 * 32.2) < 1e-6, "fp32: %g us of broadcasts",
          1e6 * seconds[DIVIDED_MASTERS]);
    Cluster large = cluster_of(card_find("h100"), 64);
    CHECK(fabs(1e6 * cluster_once(&large, 0) - 296.8) < 1e-6, "64 GPUs: %g us", 1e6 * cluster_once(&large, 0));
}

// What most is lost to.
static void test_scaling_loss(void) {
    const struct {
        int gpus;
        int64_t rows, most;
        size_t numbers;
        const char* loss;
    } cases[] = {
        {8, 64, 8, (size_t)1 << 30, "the links within machines"},
        {64, 512, 8, (size_t)1 << 30, "the network"},
        {64, 512, 8, 1000, "the latency of collectives"},
        {12, 25, 3, 1000, "rows: 25 for 12 GPUs"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Cluster c = cluster_of(card_find("h100"), cases[i].gpus);
        c.rows = cases[i].rows;
        GradientOrder order = {0.01, 0, cases[i].numbers, cases[i].numbers};
        Reduction r = reduction_of(&c, &order);
        char* loss = scaling_loss(&c, &r, 0.1, cases[i].most);
        CHECK(strcmp(loss, cases[i].loss) == 0, "%d GPUs: %s, expected %s", cases[i].gpus, loss, cases[i].loss);
        free(loss);
    }
}

static void scaling_tests(void) {
    RUN(test_scaling_reduce);
    RUN(test_scaling_overlap);
    RUN(test_scaling_divided);
    RUN(test_scaling_loss);
}

#endif

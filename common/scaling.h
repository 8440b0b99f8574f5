// scaling.h - what a step takes on several GPUs, on paper: each computes its rows, then NCCL adds the gradients of all
// before the optimiser, bucket by bucket (run/ranks.cuh), or with --zero 1 as run/zero.cuh does. No figure of it is measured.
//
// How long NCCL takes for an all-reduce, by the model by which it chooses between its two ways itself (src/graph/tuning.cc
// of NCCL 2.2x; the figures are those of its protocol for large messages):
//
//     ring    2 (n-1)/n bytes / rate + 8.4 us + 2 (n-m) 3.4 us + 2 (m-1) 14 us
//     tree    2 bytes / (0.92 rate) + 8.4 us + 2 (n/m - 1) 4 us + 2 log2(m) 14 us
//
// with n GPUs on m machines. Every byte passes the link of every GPU to its neighbour, and between machines the networks
// of all GPUs of a machine, each of which takes a share: rate is the slower of link and network x GPUs of a machine. Of
// that NCCL reaches about 0.8 (370 of 450 GB/s on H100 machines, in the words of its authors: nccl-tests, issue 212).
//
// What --zero 1 needs goes by rings alone, once around where an all-reduce goes twice:
//
//     reduce-scatter, all-gather    (n-1)/n bytes / rate + 8.4 us + (n-m) 3.4 us + (m-1) 14 us
//     broadcast                             bytes / rate + 8.4 us + (n-m) 3.4 us + (m-1) 14 us
#ifndef PONDER_SCALING_H
#define PONDER_SCALING_H

#include "ledger.h"

// Gradients of a collective, 134 MB, which is far beyond where bandwidth is reached; numbers of a broadcast, 250 MB.
enum { RANK_BUCKET = 32 << 20, RANK_PIECE = 62500000 };

// Modelled, not measured.
#define LINK_SHARE 0.8           // of a link's rate that NCCL reaches
#define TREE_SHARE 0.92          // of that, in trees
#define REDUCE_SECONDS 8.4e-6    // of a collective,
#define RING_INSIDE 3.4e-6       // of a step of a ring within a machine,
#define TREE_INSIDE 4e-6         // of a step of a tree there,
#define BETWEEN_SECONDS 14e-6    // of a step to another machine
#define OVERLAP_SHARE (1.0 / 8)  // of a GPU that NCCL's kernels take while others run: 16 of 132 multiprocessors

// The GPUs of a run and what is between them.
typedef struct Cluster {
    int gpus;          // all
    int machine;       // of them in a machine, which may be more than there are
    double link;       // bytes/s of a GPU each way, to others of its machine
    double network;    // bytes/s of a GPU each way, to other machines
    int64_t rows;      // of a step of all GPUs
    char source[192];  // where these figures are from
} Cluster;

// `gpus` of this card, in machines as its maker builds them.
static inline Cluster cluster_of(const Card* card, int gpus) {
    Cluster c;
    memset(&c, 0, sizeof c);
    c.gpus = gpus;
    c.machine = card->machine;
    c.link = card->link;
    c.network = card->network;
    snprintf(c.source, sizeof c.source, "%s", card->links);
    return c;
}

static inline int cluster_machines(const Cluster* c) { return (c->gpus + c->machine - 1) / c->machine; }

// 1 if what limits the rate is the network, 0: the links within machines.
static inline int cluster_by_network(const Cluster* c) {
    int m = cluster_machines(c), here = c->gpus / m;  // the machine that has fewest
    return m > 1 && (here == 1 || here * c->network < c->link);
}
// Bytes/s at which gradients pass every GPU.
static inline double cluster_rate(const Cluster* c) {
    return LINK_SHARE * (cluster_by_network(c) ? c->gpus / cluster_machines(c) * c->network : c->link);
}

// Seconds of one all-reduce.
static inline double cluster_ring(const Cluster* c, double bytes) {
    double n = c->gpus, m = cluster_machines(c);
    return 2 * (n - 1) / n * bytes / cluster_rate(c) + REDUCE_SECONDS + 2 * (n - m) * RING_INSIDE +
           2 * (m - 1) * BETWEEN_SECONDS;
}
static inline double cluster_tree(const Cluster* c, double bytes) {
    int m = cluster_machines(c), here = (c->gpus + m - 1) / m, depth = 0;
    while (1 << depth < m) { depth++; }
    return 2 * bytes / (TREE_SHARE * cluster_rate(c)) + REDUCE_SECONDS + 2 * (here - 1) * TREE_INSIDE +
           2 * depth * BETWEEN_SECONDS;
}
static inline double cluster_reduce(const Cluster* c, double bytes) {
    double ring = cluster_ring(c, bytes), tree = cluster_tree(c, bytes);
    return c->gpus == 1 ? 0 : ring < tree ? ring : tree;
}

// Seconds of a collective that passes each GPU once, `bytes` long there.
static inline double cluster_once(const Cluster* c, double bytes) {
    double n = c->gpus, m = cluster_machines(c);
    return c->gpus == 1 ? 0
                        : bytes / cluster_rate(c) + REDUCE_SECONDS + (n - m) * RING_INSIDE + (m - 1) * BETWEEN_SECONDS;
}

// ---- when gradients are complete ----

// A family of gradients and the tail of the last micro-batch's backward, at whose beginning those from `end` on are
// complete, at whose end those before `begin`; between them the tail completes them evenly, the last first.
typedef struct {
    double tail;  // seconds
    size_t begin, end, numbers;
} GradientOrder;

// Seconds after the tail's beginning when all gradients from number `first` on are complete.
static inline double gradient_ready(const GradientOrder* order, size_t first) {
    if (first >= order->end) { return 0; }
    if (first < order->begin) { return order->tail; }
    return order->tail * (double)(order->end - first) / (double)(order->end - order->begin);
}

enum { REDUCE_EARLY, REDUCE_DURING, REDUCE_LATE, REDUCE_TIMES };  // at the tail's beginning, in it, at its end

// What the reduction of all buckets takes.
typedef struct {
    int buckets[REDUCE_TIMES];
    double bytes[REDUCE_TIMES];
    double seconds[REDUCE_TIMES];
    double all;      // seconds
    double latency;  // seconds of it that do not depend on how many bytes there are
    double hidden;   // seconds of it that the tail would cover, if each bucket were reduced as soon as it is complete
    double sent;     // bytes that each GPU sends
} Reduction;

static inline Reduction reduction_of(const Cluster* c, const GradientOrder* order) {
    Reduction r;
    memset(&r, 0, sizeof r);
    double end = 0;  // after the tail's beginning, of the bucket before
    for (size_t i = (order->numbers + RANK_BUCKET - 1) / RANK_BUCKET; i-- > 0;) {
        size_t first = i * RANK_BUCKET, count = min_size(RANK_BUCKET, order->numbers - first);
        double ready = gradient_ready(order, first), seconds = cluster_reduce(c, 4.0 * (double)count);
        int when = first >= order->end ? REDUCE_EARLY : first < order->begin ? REDUCE_LATE : REDUCE_DURING;
        r.buckets[when]++;
        r.bytes[when] += 4.0 * (double)count;
        r.seconds[when] += seconds;
        r.all += seconds;
        r.latency += cluster_reduce(c, 0);
        end = (ready > end ? ready : end) + seconds;
    }
    double late = end > order->tail ? end - order->tail : 0;
    r.hidden = r.all > late ? r.all - late : 0;
    r.sent = 2 * (1 - 1.0 / c->gpus) * 4.0 * (double)order->numbers;
    return r;
}

// ---- the optimiser's state divided among the GPUs ----

// What of a family, which --zero 1 cuts into one range for each GPU, travels in a step.
typedef struct {
    size_t numbers;  // of all ranges
    size_t blocks;   // sums of squares for the gradient norm, doubles
    size_t read;     // bytes of a number as layers read it
    size_t masters;  // numbers that every GPU has as fp32 beside that, and gets so: embedding tables, norms and biases
    int pieces;      // broadcasts of these
} Divided;

enum { DIVIDED_SUMS, DIVIDED_NORM, DIVIDED_READ, DIVIDED_MASTERS, DIVIDED_TIMES };  // collectives, in their order

// bytes[], seconds[] (DIVIDED_TIMES) = those of each.
static inline Reduction divided_of(const Cluster* c, const Divided* d, double* bytes, double* seconds) {
    Reduction r;
    memset(&r, 0, sizeof r);
    bytes[DIVIDED_SUMS] = 4.0 * (double)d->numbers;
    bytes[DIVIDED_NORM] = 8.0 * (double)d->blocks;
    bytes[DIVIDED_READ] = (double)d->read * (double)d->numbers;
    bytes[DIVIDED_MASTERS] = 4.0 * (double)d->masters;
    for (int i = 0; i < DIVIDED_TIMES; i++) {
        const double sent = i == DIVIDED_MASTERS ? bytes[i] : bytes[i] * (1 - 1.0 / c->gpus);
        seconds[i] = bytes[i] > 0 ? cluster_once(c, sent) : 0;
        r.all += seconds[i];
        r.latency += bytes[i] > 0 ? cluster_once(c, 0) : 0;
        r.sent += sent;
    }
    return r;
}

// ---- printing ----

// What a step loses most to, where a GPU computes for `compute` seconds; the caller frees it.
static inline char* scaling_loss(const Cluster* c, const Reduction* r, double compute, int64_t rows) {
    double idle = 1 - (double)c->rows / ((double)c->gpus * (double)rows), reduced = r->all / (compute + r->all);
    if (idle > reduced) { return format_string("rows: %lld for %d GPUs", (long long)c->rows, c->gpus); }
    if (r->latency > 0.5 * r->all) { return format_string("the latency of collectives"); }
    return format_string(cluster_by_network(c) ? "the network" : "the links within machines");
}

// The GPUs, and what is between them.
static inline void scaling_print_cluster(const Cluster* c) {
    const int m = cluster_machines(c);
    printf("  %d machine%s; a GPU, each way: %.4g GB/s within its machine", m, m == 1 ? "" : "s", c->link / 1e9);
    if (m > 1) { printf(", %.4g GB/s to others", c->network / 1e9); }
    printf(" (%s)\n", c->source);
}
static inline void scaling_print_way(const Cluster* c, const char* way) {
    printf("  %s, through each GPU %.4g GB/s: %.2f of %s\n", way, cluster_rate(c) / 1e9, LINK_SHARE,
           cluster_by_network(c) ? "its machine's network" : "its link");
}

// What of a step of `compute` seconds for `rows` rows of T tokens, on the GPU that has most, is left on all of them; the
// reduction r comes after it. overlapped: seconds of a step if it did not; 0: that is not asked.
static inline void scaling_print_step(const Cluster* c, const Reduction* r, double compute, double overlapped,
                                      int64_t rows, int T) {
    const double step = compute + r->all, even = (double)c->rows / ((double)c->gpus * (double)rows);
    char *loss = scaling_loss(c, r, compute, rows), *hidden = format_string("%s", "");
    if (overlapped > 0) { hidden = format_string(", overlapped %.3f", even * compute / overlapped); }
    printf("  at most %.0f tokens/s on all, %.3f of linear%s; most is lost to %s\n", (double)c->rows * T / step,
           even * compute / step, hidden, loss);
    free(loss), free(hidden);
}

// Gradients added bucket by bucket. early, late: what gradients are complete first and last.
static inline void scaling_print(const Cluster* c, const GradientOrder* order, const char* early, const char* late,
                                 double compute, int64_t rows, int T) {
    const Reduction r = reduction_of(c, order);
    printf("gradients of %d GPUs, added after the last micro-batch; modelled\n", c->gpus);
    scaling_print_cluster(c);
    const int ring = cluster_ring(c, 4.0 * RANK_BUCKET) < cluster_tree(c, 4.0 * RANK_BUCKET);
    scaling_print_way(c, ring ? "all-reduce by ring" : "all-reduce by tree");
    const size_t rest = order->numbers % RANK_BUCKET;
    printf("  buckets of %.1f MB", 4e-6 * RANK_BUCKET);
    if (rest > 0) { printf(", one of %.1f MB", 4e-6 * (double)rest); }
    printf("\n  %-40s %8s %10s %10s\n", "complete", "buckets", "MB", "us");
    const char* const when[REDUCE_TIMES] = {early, "layers, with the last pass backwards", late};
    for (int i = 0; i < REDUCE_TIMES; i++) {
        if (r.buckets[i] == 0) { continue; }
        printf("  %-40s %8d %10.1f %10.1f\n", when[i], r.buckets[i], r.bytes[i] / 1e6, 1e6 * r.seconds[i]);
    }
    const double step = compute + r.all, overlapped = step - (1 - OVERLAP_SHARE) * r.hidden;
    printf("  a step: %.2f ms of computing, then %.2f ms of reduction: %.2f ms\n", 1e3 * compute, 1e3 * r.all,
           1e3 * step);
    printf("  overlapped with the last micro-batch's backward, which it is not: %.2f ms, %.2f %% less\n",
           1e3 * overlapped, 100 * (1 - overlapped / step));
    scaling_print_step(c, &r, compute, overlapped, rows, T);
}

// The same with --zero 1. order: for what --zero 0 would send.
static inline void scaling_print_divided(const Cluster* c, const Divided* d, const GradientOrder* order, double compute,
                                         int64_t rows, int T) {
    double bytes[DIVIDED_TIMES], seconds[DIVIDED_TIMES];
    const Reduction r = divided_of(c, d, bytes, seconds);
    printf("gradients and weights of %d GPUs with --zero 1, after the last micro-batch; modelled\n", c->gpus);
    scaling_print_cluster(c);
    scaling_print_way(c, "by ring");
    printf("  %-40s %8s %10s %10s\n", "collective", "number", "MB", "us");
    const char* const what[DIVIDED_TIMES] = {"reduce-scatter of the gradients, fp32", "all-gather of the norm's sums",
                                             d->read == 2 ? "all-gather of the weights, bf16"
                                                          : "all-gather of the weights, fp32",
                                             "broadcasts of tables, norms, biases, fp32"};
    for (int i = 0; i < DIVIDED_TIMES; i++) {
        if (bytes[i] == 0) { continue; }
        printf("  %-40s %8d %10.1f %10.1f\n", what[i], i == DIVIDED_MASTERS ? d->pieces : 1, bytes[i] / 1e6,
               1e6 * seconds[i]);
    }
    printf("  each GPU sends %.1f MB, with --zero 0 %.1f MB\n", r.sent / 1e6, reduction_of(c, order).sent / 1e6);
    printf("  a step: %.2f ms of computing, and %.2f ms of these: %.2f ms\n", 1e3 * compute, 1e3 * r.all,
           1e3 * (compute + r.all));
    scaling_print_step(c, &r, compute, 0, rows, T);
}

#endif

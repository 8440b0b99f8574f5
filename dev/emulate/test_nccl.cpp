// test_nccl.cpp - the stand-in for NCCL on trial: what is right must give the right bits on every rank, on one host and
// between hosts, early and late; what is wrong must be told; who dies, hangs or is aborted must do to the others what it
// does with NCCL. Every rank is a process of its own, forked here.
#include "../tests/test.h"

#include <nccl.h>

#include <dirent.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <atomic>
#include <vector>

extern "C" const char* __asan_default_options(void) { return "detect_leaks=0"; }

enum { MOST = 4, SECONDS = 120 };  // ranks; after so long a rank that still hangs is a failure

// What the ranks of a test and the test itself share.
struct Shared {
    ncclUniqueId id[2];
    std::atomic<int> ready[2];
    std::atomic<int> mark[8];
};
static Shared* shared;
struct Rank {
    int rank, ranks;
    ncclComm_t comm;
    cudaStream_t stream;
};
typedef void (*Body)(Rank*);
struct Outcome {
    int code[MOST];  // exit status, or 128 + signal
    char* said[MOST];
    double seconds;
};

#define OK(expression)                                                                                  \
    do {                                                                                                \
        ncclResult_t nccl_result = (expression);                                                        \
        if (nccl_result != ncclSuccess) {                                                               \
            die("%s:%d: %s: %s (%s)", __FILE__, __LINE__, #expression, ncclGetErrorString(nccl_result), \
                ncclGetLastError(NULL));                                                                \
        }                                                                                               \
    } while (0)
#define CUDA(expression)                                                                               \
    do {                                                                                               \
        cudaError_t cuda_result = (expression);                                                        \
        if (cuda_result != cudaSuccess) { die("%s: %s", #expression, cudaGetErrorName(cuda_result)); } \
    } while (0)

// Ranks find the id of meeting k where rank 0 has put it.
static ncclUniqueId meet(int k, int rank) {
    if (rank == 0) {
        OK(ncclGetUniqueId(&shared->id[k]));
        shared->ready[k] = 1;
    }
    while (!shared->ready[k]) { usleep(200); }
    return shared->id[k];
}
static void rank_open(Rank* r) { OK(ncclCommInitRank(&r->comm, r->ranks, meet(0, r->rank), r->rank)); }

// "A=1 B=2 HOST=h@" for the environment; @ is the rank's host of two, # the rank.
static void set_environment(const char* settings, int rank) {
    char text[512];
    snprintf(text, sizeof text, "%s", settings);
    for (char* word = strtok(text, " "); word; word = strtok(NULL, " ")) {
        for (char* c = word; *c; c++) { *c = *c == '@' ? (char)('0' + rank % 2) : *c == '#' ? (char)('0' + rank) : *c; }
        char* value = strchr(word, '=');
        *value = 0;
        setenv(word, value + 1, 1);
    }
}
static pid_t rank_start(int rank, int ranks, Body body, const char* settings, int log) {
    fflush(stdout);
    fflush(stderr);
    pid_t pid = fork();
    if (pid != 0) { return pid; }
    dup2(log, 1);
    dup2(log, 2);
    test_state.name = NULL;
    test_state.checks_failed = 0;
    alarm(SECONDS);
    setenv("EMULATE_DEVICES", "4", 1);
    set_environment(settings, rank);
    Rank r = {rank, ranks, NULL, NULL};
    CUDA(cudaSetDevice(rank));
    CUDA(cudaStreamCreate(&r.stream));
    body(&r);
    fflush(stdout);
    fflush(stderr);
    _exit(test_state.checks_failed ? 3 : 0);
}
// Runs `body` as ranks 0 to ranks - 1; `meanwhile`, if any, with their process numbers while they run.
static Outcome run_ranks_with(int ranks, Body body, const char* settings, void (*meanwhile)(const pid_t*)) {
    Outcome o;
    memset(&o, 0, sizeof o);
    memset((void*)shared, 0, sizeof *shared);
    pid_t pid[MOST];
    int log[MOST];
    double start = now_seconds();
    for (int i = 0; i < ranks; i++) {
        log[i] = memfd_create("log", 0);
        pid[i] = rank_start(i, ranks, body, settings, log[i]);
    }
    if (meanwhile) { meanwhile(pid); }
    for (int i = 0; i < ranks; i++) {
        int status = 0;
        while (waitpid(pid[i], &status, 0) < 0 && errno == EINTR) {}
        o.code[i] = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        size_t n = (size_t)lseek(log[i], 0, SEEK_END);
        o.said[i] = (char*)xalloc(n + 1, 1, "a log");
        if (pread(log[i], o.said[i], n, 0) < 0) { die("a log cannot be read"); }
        o.said[i][n] = 0;
        close(log[i]);
    }
    o.seconds = now_seconds() - start;
    return o;
}
static void outcome_free(Outcome* o) {
    for (int i = 0; i < MOST; i++) { free(o->said[i]); }
}
static void expect_good(int ranks, Body body, const char* settings) {
    Outcome o = run_ranks_with(ranks, body, settings, NULL);
    for (int i = 0; i < ranks; i++) {
        CHECK(o.code[i] == 0, "rank %d of %d, %s: exit status %d; it said: %s", i, ranks, settings, o.code[i],
              o.said[i]);
    }
    outcome_free(&o);
}
// All ranks must end with status 1 and say `words` ('|' separates words that must all appear).
static void expect_told(int ranks, Body body, const char* settings, const char* words) {
    Outcome o = run_ranks_with(ranks, body, settings, NULL);
    for (int i = 0; i < ranks; i++) {
        CHECK(o.code[i] == 1, "rank %d, %s: exit status %d, expected 1; it said: %s", i, words, o.code[i], o.said[i]);
        char* list = format_string("%s", words);
        for (char* word = strtok(list, "|"); word; word = strtok(NULL, "|")) {
            CHECK(strstr(o.said[i], word) != NULL, "rank %d: no '%s' in: %s", i, word, o.said[i]);
        }
        free(list);
    }
    outcome_free(&o);
}

static const char* const HERE = "";
static const char* const HERE_LATE = "EMULATE_ASYNC=late EMULATE_SEED=5";
static const char* const THERE = "EMULATE_NCCL_HOST=h@";
static const char* const THERE_LATE = "EMULATE_NCCL_HOST=h# EMULATE_ASYNC=late";

// ------------------------------------------------------------------------------------------------
// Collectives

// A device array of n numbers with a guard behind them.
enum { GUARD = 16 };
template <class T> struct Array {
    T* p;
    size_t n;
    Array(size_t n_, const std::vector<T>& from) : n(n_) {
        std::vector<T> all(from);
        all.resize(n + GUARD, (T)77);
        CUDA(cudaMalloc(&p, all.size() * sizeof(T)));
        CUDA(cudaMemcpy(p, all.data(), all.size() * sizeof(T), cudaMemcpyHostToDevice));
    }
    std::vector<T> get() const {
        std::vector<T> all(n + GUARD);
        CUDA(cudaMemcpy(all.data(), p, all.size() * sizeof(T), cudaMemcpyDeviceToHost));
        for (size_t i = n; i < all.size(); i++) { CHECK(all[i] == (T)77, "written %zu behind the end", i - n); }
        all.resize(n);
        return all;
    }
    ~Array() { CUDA(cudaFree(p)); }
};
// Rank r's number i: sums depend on their order in floats, and overflow in integers.
template <class T> static T number(int r, size_t i) {
    uint64_t x = (i + 1) * 0x9e3779b97f4a7c15u + (uint64_t)r * 0xd1342543de82ef95u;
    x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9u;
    return std::is_floating_point<T>::value ? (T)((double)(int64_t)(x ^ x >> 32) * 1e-17) : (T)(x ^ x >> 32);
}
template <> uint16_t number<uint16_t>(int r, size_t i) {  // a bf16
    float x = number<float>(r, i);
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)(bits >> 16);
}
template <class T> static std::vector<T> numbers(int r, size_t first, size_t n) {
    std::vector<T> v(n);
    for (size_t i = 0; i < n; i++) { v[i] = number<T>(r, first + i); }
    return v;
}
template <class T> static T reduced(int ranks, size_t i, ncclRedOp_t op, int backwards) {
    typedef
        typename std::conditional<std::is_same<T, int64_t>::value || std::is_same<T, int32_t>::value, uint64_t, T>::type
            wide;
    T x = number<T>(backwards ? ranks - 1 : 0, i);
    for (int k = 1; k < ranks; k++) {
        T y = number<T>(backwards ? ranks - 1 - k : k, i);
        if (std::is_same<T, uint16_t>::value) {
            uint32_t a = (uint32_t)x << 16, b = (uint32_t)y << 16;
            float f, g;
            memcpy(&f, &a, 4);
            memcpy(&g, &b, 4);
            x = (op == ncclMax ? f < g : g < f) ? y : x;
        } else {
            x = op == ncclSum ? (T)((wide)x + (wide)y) : op == ncclMax ? (x < y ? y : x) : (y < x ? y : x);
        }
    }
    return x;
}
template <class T>
static void same(const char* what, const Rank* r, const std::vector<T>& got, const std::vector<T>& want) {
    size_t bad = 0;
    for (size_t i = 0; i < want.size(); i++) { bad += memcmp(&got[i], &want[i], sizeof(T)) != 0; }
    CHECK(got.size() == want.size() && bad == 0, "%s, rank %d of %d: %zu of %zu numbers of %zu bytes differ", what,
          r->rank, r->ranks, bad, want.size(), sizeof(T));
}
template <class T> static std::vector<T> all_reduced(int ranks, size_t first, size_t n, ncclRedOp_t op) {
    std::vector<T> v(n);
    for (size_t i = 0; i < n; i++) { v[i] = reduced<T>(ranks, first + i, op, 0); }
    return v;
}

template <class T> static void check_reductions(Rank* r, ncclDataType_t type, size_t n, ncclRedOp_t op) {
    size_t N = (size_t)r->ranks, me = (size_t)r->rank;
    int root = (int)(n % N);
    std::vector<T> mine = numbers<T>(r->rank, 0, n), want = all_reduced<T>(r->ranks, 0, n, op), none(n, (T)1);
    {
        Array<T> from(n, mine), to(n, none), both(n, mine);
        OK(ncclAllReduce(from.p, to.p, n, type, op, r->comm, r->stream));
        OK(ncclAllReduce(both.p, both.p, n, type, op, r->comm, r->stream));
        CUDA(cudaStreamSynchronize(r->stream));
        same("ncclAllReduce", r, to.get(), want);
        same("ncclAllReduce in place", r, both.get(), want);
        same("ncclAllReduce's source", r, from.get(), mine);
    }
    {
        Array<T> from(n, mine), to(n, none), both(n, mine);
        OK(ncclReduce(from.p, r->rank == root ? to.p : NULL, n, type, op, root, r->comm, r->stream));
        OK(ncclReduce(both.p, both.p, n, type, op, root, r->comm, r->stream));
        CUDA(cudaStreamSynchronize(r->stream));
        same("ncclReduce", r, to.get(), r->rank == root ? want : none);
        same("ncclReduce in place", r, both.get(), r->rank == root ? want : mine);
    }
    {
        std::vector<T> blocks = numbers<T>(r->rank, 0, N * n), block = all_reduced<T>(r->ranks, me * n, n, op);
        Array<T> from(N * n, blocks), to(n, none), both(N * n, blocks);
        OK(ncclReduceScatter(from.p, to.p, n, type, op, r->comm, r->stream));
        OK(ncclReduceScatter(both.p, both.p + me * n, n, type, op, r->comm, r->stream));
        CUDA(cudaStreamSynchronize(r->stream));
        std::copy(block.begin(), block.end(), blocks.begin() + (long)(me * n));
        same("ncclReduceScatter", r, to.get(), block);
        same("ncclReduceScatter in place", r, both.get(), blocks);
    }
}
template <class T> static void check_moves(Rank* r, ncclDataType_t type, size_t n) {
    size_t N = (size_t)r->ranks, me = (size_t)r->rank;
    int root = (int)((n + 1) % N);
    std::vector<T> mine = numbers<T>(r->rank, 0, n), all, own(N * n, (T)1);
    for (int k = 0; k < r->ranks; k++) {
        std::vector<T> v = numbers<T>(k, 0, n);
        all.insert(all.end(), v.begin(), v.end());
    }
    std::copy(mine.begin(), mine.end(), own.begin() + (long)(me * n));
    Array<T> from(n, mine), to(N * n, std::vector<T>(N * n, (T)1)), both(N * n, own);
    OK(ncclAllGather(from.p, to.p, n, type, r->comm, r->stream));
    OK(ncclAllGather(both.p + me * n, both.p, n, type, r->comm, r->stream));
    CUDA(cudaStreamSynchronize(r->stream));
    same("ncclAllGather", r, to.get(), all);
    same("ncclAllGather in place", r, both.get(), all);
    Array<T> got(n, std::vector<T>(n, (T)1)), place(n, mine);
    OK(ncclBroadcast(r->rank == root ? from.p : NULL, got.p, n, type, root, r->comm, r->stream));
    OK(ncclBroadcast(place.p, place.p, n, type, root, r->comm, r->stream));
    CUDA(cudaStreamSynchronize(r->stream));
    same("ncclBroadcast", r, got.get(), numbers<T>(root, 0, n));
    same("ncclBroadcast in place", r, place.get(), numbers<T>(root, 0, n));
}
template <class T> static void check_type(Rank* r, ncclDataType_t type, size_t n) {
    static const ncclRedOp_t ops[] = {ncclMax, ncclMin, ncclSum};
    for (int k = 0; k < (type == ncclBfloat16 ? 2 : 3); k++) { check_reductions<T>(r, type, n, ops[k]); }
    check_moves<T>(r, type, n);
}
static void collectives(Rank* r) {
    rank_open(r);
    static const size_t sizes[] = {0, 1, 3, 1001};
    for (size_t n : sizes) {
        check_type<float>(r, ncclFloat32, n);
        check_type<double>(r, ncclFloat64, n);
        check_type<int32_t>(r, ncclInt32, n);
        check_type<int64_t>(r, ncclInt64, n);
        check_type<uint64_t>(r, ncclUint64, n);
        check_type<uint8_t>(r, ncclUint8, n);
        check_type<uint16_t>(r, ncclBfloat16, n);
    }
    int count, rank, device;
    OK(ncclCommCount(r->comm, &count));
    OK(ncclCommUserRank(r->comm, &rank));
    OK(ncclCommCuDevice(r->comm, &device));
    CHECK(count == r->ranks && rank == r->rank && device == r->rank, "%d %d %d", count, rank, device);
    OK(ncclCommFinalize(r->comm));
    OK(ncclCommDestroy(r->comm));
}
static void test_collectives(void) {
    for (int ranks = 1; ranks <= MOST; ranks++) { expect_good(ranks, collectives, ranks % 2 ? HERE : HERE_LATE); }
    expect_good(2, collectives, THERE);
    expect_good(3, collectives, THERE_LATE);
    expect_good(4, collectives, THERE);
}
// More than a piece, and than a wire holds.
static void large(Rank* r) {
    rank_open(r);
    check_reductions<float>(r, ncclFloat32, 300007, ncclSum);
    check_moves<float>(r, ncclFloat32, 300007);
    OK(ncclCommDestroy(r->comm));
}
static void test_large(void) {
    expect_good(3, large, HERE);
    expect_good(3, large, THERE_LATE);
}
// That the order of ranks decides the bits, or the tests above would not see it.
static void test_order_matters(void) {
    int differ = 0;
    for (size_t i = 0; i < 1001; i++) {
        float a = reduced<float>(4, i, ncclSum, 0), b = reduced<float>(4, i, ncclSum, 1);
        differ += memcmp(&a, &b, sizeof a) != 0;
    }
    CHECK(differ > 100, "the sums of only %d numbers depend on the order", differ);
}

// ------------------------------------------------------------------------------------------------
// Groups, communicators, streams, graphs

static void groups(Rank* r) {
    rank_open(r);
    size_t n = 70001, N = (size_t)r->ranks;
    std::vector<float> mine = numbers<float>(r->rank, 0, n);
    Array<float> a(n, mine), b(5, numbers<float>(r->rank, 100, 5)), from(n, mine),
        to(N * n, std::vector<float>(N * n, 1));
    OK(ncclGroupStart());
    OK(ncclAllReduce(a.p, a.p, n, ncclFloat, ncclSum, r->comm, r->stream));
    for (int k = 0; k < r->ranks; k++) {  // all to all, itself included, in another order on every rank
        int peer = (k + r->rank) % r->ranks;
        OK(ncclRecv(to.p + (size_t)peer * n, n, ncclFloat, peer, r->comm, r->stream));
        OK(ncclGroupStart());
        OK(ncclSend(from.p, n, ncclFloat, peer, r->comm, r->stream));
        OK(ncclGroupEnd());
    }
    OK(ncclBroadcast(b.p, b.p, 5, ncclFloat, 0, r->comm, r->stream));
    OK(ncclGroupEnd());
    CUDA(cudaStreamSynchronize(r->stream));
    same("ncclAllReduce in a group", r, a.get(), all_reduced<float>(r->ranks, 0, n, ncclSum));
    same("ncclBroadcast in a group", r, b.get(), numbers<float>(0, 100, 5));
    std::vector<float> all;
    for (int k = 0; k < r->ranks; k++) {
        std::vector<float> v = numbers<float>(k, 0, n);
        all.insert(all.end(), v.begin(), v.end());
    }
    same("ncclSend and ncclRecv", r, to.get(), all);
    // One after the other, outside of a group: around the ring.
    if (r->ranks > 1) {
        int next = (r->rank + 1) % r->ranks, last = (r->rank + r->ranks - 1) % r->ranks;
        Array<float> got(n, std::vector<float>(n, 1));
        for (int turn = 0; turn < 2; turn++) {
            if ((r->rank == 0) == (turn == 0)) {
                OK(ncclSend(from.p, n, ncclFloat, next, r->comm, r->stream));
            } else {
                OK(ncclRecv(got.p, n, ncclFloat, last, r->comm, r->stream));
            }
        }
        CUDA(cudaStreamSynchronize(r->stream));
        same("ring", r, got.get(), numbers<float>(last, 0, n));
    }
    CHECK(ncclGroupEnd() == ncclInvalidUsage, "a group ends that did not begin");
    OK(ncclCommDestroy(r->comm));
}
static void test_groups(void) {
    expect_good(1, groups, HERE);
    expect_good(2, groups, HERE_LATE);
    expect_good(4, groups, HERE);
    expect_good(3, groups, THERE);
}

// The second one has the ranks the other way round, and a configuration.
static void two_communicators(Rank* r) {
    rank_open(r);
    int other_rank = r->ranks - 1 - r->rank;
    ncclComm_t other;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 1;
    OK(ncclCommInitRankConfig(&other, r->ranks, meet(1, other_rank), other_rank, &config));
    cudaStream_t stream;
    CUDA(cudaStreamCreate(&stream));
    Array<float> a(9, numbers<float>(r->rank, 0, 9)), b(9, numbers<float>(other_rank, 0, 9));
    Array<int64_t> c(2, numbers<int64_t>(r->rank, 0, 2));
    OK(ncclAllReduce(a.p, a.p, 9, ncclFloat, ncclSum, r->comm, r->stream));
    OK(ncclAllReduce(b.p, b.p, 9, ncclFloat, ncclSum, other, stream));
    // The same communicator in another stream: in the order of the calls all the same.
    OK(ncclBroadcast(c.p, c.p, 2, ncclInt64, 0, r->comm, stream));
    CUDA(cudaStreamSynchronize(stream));
    CUDA(cudaStreamSynchronize(r->stream));
    std::vector<float> want = all_reduced<float>(r->ranks, 0, 9, ncclSum);
    same("one communicator", r, a.get(), want);
    same("another one", r, b.get(), want);
    same("two streams", r, c.get(), numbers<int64_t>(0, 0, 2));
    OK(ncclCommDestroy(other));
    OK(ncclCommDestroy(r->comm));
}
static void test_two_communicators(void) {
    expect_good(3, two_communicators, HERE);
    expect_good(3, two_communicators, HERE_LATE);
    expect_good(2, two_communicators, THERE);
}

// Gradients come from one stream and are summed in another one; the first then uses the sums. `waits`: 1 the second
// stream waits for the first, 2 the first for the second. Returns the first of the numbers that the first stream ends with.
static float two_streams_with(Rank* r, int waits) {
    enum { n = 1000 };
    cudaStream_t compute = r->stream, talk;
    CUDA(cudaStreamCreate(&talk));
    cudaEvent_t ready, summed;
    CUDA(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming));
    CUDA(cudaEventCreateWithFlags(&summed, cudaEventDisableTiming));
    Array<float> d(n, std::vector<float>(n, -1));
    float* host;
    CUDA(cudaMallocHost(&host, 2 * n * sizeof(float)));
    for (int step = 0; step < 2; step++) {
        for (int i = 0; i < n; i++) { host[i] = (float)(100 * step + r->rank + 1); }
        CUDA(cudaMemcpyAsync(d.p, host, n * sizeof(float), cudaMemcpyHostToDevice, compute));
        CUDA(cudaEventRecord(ready, compute));
        if (waits & 1) { CUDA(cudaStreamWaitEvent(talk, ready, 0)); }
        OK(ncclAllReduce(d.p, d.p, n, ncclFloat, ncclSum, r->comm, talk));
        CUDA(cudaEventRecord(summed, talk));
        if (waits & 2) { CUDA(cudaStreamWaitEvent(compute, summed, 0)); }
        CUDA(cudaMemcpyAsync(host + n, d.p, n * sizeof(float), cudaMemcpyDeviceToHost, compute));
        // The order in which a missing wait hurts; with both it makes no difference.
        CUDA(cudaStreamSynchronize(waits == 2 ? talk : compute));
        CUDA(cudaStreamSynchronize(waits == 2 ? compute : talk));
    }
    float result = host[2 * n - 1];
    CUDA(cudaDeviceSynchronize());
    CUDA(cudaFreeHost(host));
    CUDA(cudaStreamDestroy(talk));
    CUDA(cudaEventDestroy(ready));
    CUDA(cudaEventDestroy(summed));
    return result;
}
static void two_streams(Rank* r) {
    rank_open(r);
    const char* async = getenv("EMULATE_ASYNC");
    int late = async && strcmp(async, "late") == 0;
    float want = 0;
    for (int k = 0; k < r->ranks; k++) { want += (float)(100 + k + 1); }
    float right = two_streams_with(r, 3), early = two_streams_with(r, 2), unread = two_streams_with(r, 1);
    CHECK(right == want, "both wait: %g, want %g", (double)right, (double)want);
    // In the early mode the first stream is always ahead; the collective never is.
    CHECK((early == want) == !late, "the collective does not wait: %g, right would be %g", (double)early, (double)want);
    CHECK(unread != want, "the collective is not waited for, and yet there is %g", (double)unread);
    OK(ncclCommDestroy(r->comm));
}
static void not_at_the_call(Rank* r) {
    rank_open(r);
    Array<float> a(10, std::vector<float>(10, 1));
    OK(ncclAllReduce(a.p, a.p, 10, ncclFloat, ncclSum, r->comm, r->stream));
    CHECK(a.p[3] == 1, "done at the call: %g", (double)a.p[3]);  // device memory of the emulator can be looked at
    CUDA(cudaStreamSynchronize(r->stream));
    CHECK(a.p[3] == (float)r->ranks, "not done when it was waited for: %g", (double)a.p[3]);
    OK(ncclAllReduce(a.p, a.p, 10, ncclFloat, ncclSum, r->comm, r->stream));
    OK(ncclCommDestroy(r->comm));  // what was called is done before
    CHECK(a.p[3] == (float)(r->ranks * r->ranks), "left undone: %g", (double)a.p[3]);
}
static void test_streams(void) {
    expect_good(2, two_streams, HERE);
    expect_good(2, two_streams, "EMULATE_ASYNC=late");
    expect_good(3, two_streams, THERE_LATE);
    expect_good(2, not_at_the_call, HERE);
    expect_good(2, not_at_the_call, HERE_LATE);
}

static void graphs(Rank* r) {
    rank_open(r);
    Array<float> a(10, std::vector<float>(10, 1));
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA(cudaStreamBeginCapture(r->stream, cudaStreamCaptureModeThreadLocal));
    OK(ncclAllReduce(a.p, a.p, 10, ncclFloat, ncclSum, r->comm, r->stream));
    CUDA(cudaStreamEndCapture(r->stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CHECK(a.get()[9] == 1, "done when it was captured");
    for (int i = 0; i < 3; i++) { CUDA(cudaGraphLaunch(exec, r->stream)); }
    OK(ncclAllReduce(a.p, a.p, 10, ncclFloat, ncclSum, r->comm, r->stream));
    CUDA(cudaStreamSynchronize(r->stream));
    float want = 1;
    for (int i = 0; i < 4; i++) { want *= (float)r->ranks; }
    CHECK(a.get()[9] == want, "%g, want %g", (double)a.get()[9], (double)want);
    OK(ncclCommDestroy(r->comm));
    CUDA(cudaGraphLaunch(exec, r->stream));
    CUDA(cudaStreamSynchronize(r->stream));
}
static void test_graphs(void) {
    expect_told(2, graphs, HERE, "a graph is launched whose communicator has been destroyed");
    expect_told(2, graphs, HERE_LATE, "a graph is launched whose communicator has been destroyed");
}

// ------------------------------------------------------------------------------------------------
// Ranks that do not do the same

static float* device_floats(size_t n) { return (new Array<float>(n, std::vector<float>(n, 1)))->p; }
// Two right calls, then one in which rank 1 differs in what `which` says.
static void differ(Rank* r) {
    rank_open(r);
    int which = atoi(getenv("WHICH")), odd = r->rank == 1;
    float *a = device_floats(4096), *b = device_floats(4096 * MOST);
    OK(ncclAllReduce(a, a, 4096, ncclFloat, ncclSum, r->comm, r->stream));
    OK(ncclAllGather(a, b, 4096, ncclFloat, r->comm, r->stream));
    switch (which) {
        case 0:
            if (odd) {
                OK(ncclBroadcast(a, a, 10, ncclFloat, 0, r->comm, r->stream));
            } else {
                OK(ncclAllReduce(a, a, 4096, ncclFloat, ncclSum, r->comm, r->stream));
            }
            break;
        case 1: OK(ncclAllReduce(a, a, 4096 - (size_t)odd, ncclFloat, ncclSum, r->comm, r->stream)); break;
        case 2: OK(ncclAllReduce(a, a, 1000, odd ? ncclInt32 : ncclFloat, ncclSum, r->comm, r->stream)); break;
        case 3: OK(ncclAllReduce(a, a, 1000, ncclFloat, odd ? ncclMax : ncclSum, r->comm, r->stream)); break;
        case 4: OK(ncclReduce(a, a, 1000, ncclFloat, ncclSum, odd, r->comm, r->stream)); break;
        case 5:
            if (odd) {
                OK(ncclSend(a, 100, ncclFloat, 0, r->comm, r->stream));
            } else {
                OK(ncclRecv(a, 99, ncclFloat, 1, r->comm, r->stream));
            }
            break;
        case 6: OK(ncclSend(a, 100, ncclFloat, !r->rank, r->comm, r->stream)); break;
        case 7:
            if (odd) {
                OK(ncclSend(a, 100, ncclFloat, 0, r->comm, r->stream));
            } else {
                OK(ncclReduceScatter(b, a, 100, ncclFloat, ncclMin, r->comm, r->stream));
            }
            break;
    }
    CUDA(cudaDeviceSynchronize());
}
static void test_differences(void) {
    static const struct {
        const char *number, *words;
        int ranks;
    } cases[] = {
        {"0", "rank 1's 3rd |ncclBroadcast of 10 float from rank 0|rank 0's 3rd |ncclAllReduce of 4096 float (sum)", 2},
        {"1", "rank 1's 3rd |ncclAllReduce of 4095 float (sum)|'s 3rd |ncclAllReduce of 4096 float (sum)", 3},
        {"2", "ncclAllReduce of 1000 int32 (sum)|ncclAllReduce of 1000 float (sum)", 2},
        {"3", "ncclAllReduce of 1000 float (max)|ncclAllReduce of 1000 float (sum)", 2},
        {"4", "ncclReduce of 1000 float (sum) to rank 1|ncclReduce of 1000 float (sum) to rank 0", 4},
        {"5", "ncclSend of 100 float to rank 0|ncclRecv of 99 float from rank 1", 2},
        {"6", "ncclSend of 100 float to rank 0|ncclSend of 100 float to rank 1", 2},
        {"7", "ncclSend of 100 float to rank 0|ncclReduceScatter of 100 float (min)", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int k = 0; k < 2; k++) {
            char settings[96];
            snprintf(settings, sizeof settings, "WHICH=%s %s", cases[i].number,
                     k ? "EMULATE_NCCL_HOST=h#" : "EMULATE_ASYNC=late");
            expect_told(cases[i].ranks, differ, settings, cases[i].words);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Calls that are wrong by themselves

static void calls_cuda(void*) { cudaDeviceSynchronize(); }
static void misuse(Rank* r) {
    rank_open(r);
    float *a = device_floats(64), host[64] = {0};
    cudaStream_t other;
    CUDA(cudaStreamCreate(&other));
    switch (atoi(getenv("WHICH"))) {
        case 0: OK(ncclAllReduce(host, a, 64, ncclFloat, ncclSum, r->comm, r->stream)); break;
        case 1: OK(ncclAllReduce(a, a, 64 + GUARD + 1, ncclFloat, ncclSum, r->comm, r->stream)); break;
        case 2: OK(ncclAllReduce(a, a + 1, 32, ncclFloat, ncclSum, r->comm, r->stream)); break;
        case 3: OK(ncclReduceScatter(a, a, 32, ncclFloat, ncclSum, r->comm, r->stream)); break;
        case 4: OK(ncclAllGather(a, a, 32, ncclFloat, r->comm, r->stream)); break;
        case 5: OK(ncclAllReduce((char*)a + 2, (char*)a + 2, 3, ncclFloat, ncclSum, r->comm, r->stream)); break;
        case 6: OK(ncclAllReduce(a, a, 64, ncclBfloat16, ncclSum, r->comm, r->stream)); break;
        case 7: OK(ncclAllReduce(a, a, 64, ncclFloat, ncclAvg, r->comm, r->stream)); break;
        case 8: OK(ncclAllReduce(a, a, 64, ncclHalf, ncclMax, r->comm, r->stream)); break;
        case 9:
            if (r->rank == 1) { CUDA(cudaMemset(a + 3, 0xff, 4)); }
            OK(ncclAllReduce(a, a, 64, ncclFloat, ncclMax, r->comm, r->stream));
            break;
        case 10:
            OK(ncclCommDestroy(r->comm));
            OK(ncclAllReduce(a, a, 64, ncclFloat, ncclSum, r->comm, r->stream));
            break;
        case 11:
            OK(ncclCommAbort(r->comm));
            OK(ncclCommDestroy(r->comm));
            break;
        case 12:
            OK(ncclCommFinalize(r->comm));
            OK(ncclBroadcast(a, a, 64, ncclFloat, 0, r->comm, r->stream));
            break;
        case 13:
            OK(ncclGroupStart());
            OK(ncclAllReduce(a, a, 32, ncclFloat, ncclSum, r->comm, r->stream));
            OK(ncclAllReduce(a + 31, a + 31, 32, ncclFloat, ncclSum, r->comm, r->stream));
            OK(ncclGroupEnd());
            break;
        case 14:
            OK(ncclGroupStart());
            OK(ncclAllReduce(a, a, 32, ncclFloat, ncclSum, r->comm, r->stream));
            OK(ncclAllReduce(a + 32, a + 32, 32, ncclFloat, ncclSum, r->comm, other));
            OK(ncclGroupEnd());
            break;
        case 15:
            OK(ncclGroupStart());
            OK(ncclSend(a, 32, ncclFloat, r->rank, r->comm, r->stream));
            OK(ncclGroupEnd());
            break;
        case 16: CUDA(cudaLaunchHostFunc(r->stream, calls_cuda, NULL)); break;
    }
    CUDA(cudaDeviceSynchronize());
}
static void test_misuse(void) {
    static const char* const words[] = {
        "ncclAllReduce from: 256 bytes at|do not lie in device memory",
        "ncclAllReduce from: 324 bytes at|do not lie in device memory",
        "ncclAllReduce of rank|buffers overlap, and it is not in place: `to` lies 4 bytes behind",
        "",  // rank 0's is in place
        "",
        "is not aligned to 4 bytes",
        "a sum of bf16 is refused|reduce in fp32",
        "knows sum, max and min, not the average",
        "does not know type 6",
        "rank 1 brings a NaN to the max of float",
        "ncclAllReduce on a communicator after ncclCommDestroy",
        "ncclCommDestroy on a communicator after ncclCommAbort",
        "ncclBroadcast on a communicator after ncclCommFinalize",
        "the ncclAllReduce that is number 1 of a group writes what its number 2",
        "a group has operations of one communicator in two streams",
        "sends to itself 1 times and receives from itself 0 times",
        "cudaDeviceSynchronize or cudaFree in a host function",
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        char settings[32];
        snprintf(settings, sizeof settings, "WHICH=%zu", i);
        if (words[i][0]) {
            expect_told(2, misuse, settings, words[i]);
            continue;
        }
        // Rank 0 of these is right, and waits for rank 1 for ever.
        Outcome o = run_ranks_with(2, misuse, settings, [](const pid_t* pid) {
            siginfo_t info;
            waitid(P_PID, (id_t)pid[1], &info, WEXITED | WNOWAIT);
            kill(pid[0], SIGKILL);
        });
        CHECK(o.code[1] == 1 && strstr(o.said[1], "is not in place"), "case %zu: %d, %s", i, o.code[1], o.said[1]);
        outcome_free(&o);
    }
}
// What NCCL answers with a code.
static void refusals(Rank* r) {
    rank_open(r);
    float* a = device_floats(64);
    ncclComm_t none = NULL;
    ncclUniqueId junk;
    memset(&junk, 1, sizeof junk);
    CHECK(ncclAllReduce(a, a, 1, ncclFloat, ncclSum, NULL, r->stream) == ncclInvalidArgument, "no communicator");
    CHECK(ncclAllReduce(a, a, 1, (ncclDataType_t)99, ncclSum, r->comm, r->stream) == ncclInvalidArgument, "type");
    CHECK(ncclAllReduce(a, a, 1, ncclFloat, (ncclRedOp_t)9, r->comm, r->stream) == ncclInvalidArgument, "operation");
    CHECK(ncclBroadcast(a, a, 1, ncclFloat, r->ranks, r->comm, r->stream) == ncclInvalidArgument, "root");
    CHECK(strstr(ncclGetLastError(r->comm), "ncclBroadcast: rank 2 of 2") != NULL, "%s", ncclGetLastError(r->comm));
    CHECK(ncclSend(a, 1, ncclFloat, r->rank, r->comm, r->stream) == ncclInvalidUsage, "to itself");
    CHECK(ncclCommInitRank(&none, 2, junk, 0) == ncclInvalidArgument && !none, "an id of nobody");
    CHECK(ncclCommInitRank(&none, 2, shared->id[0], 2) == ncclInvalidArgument, "rank 2 of 2");
    CHECK(ncclCommInitRank(&none, 1, shared->id[0], 0) == ncclInvalidUsage, "an id serves once");
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.magic = 0;
    CHECK(ncclCommInitRankConfig(&none, 1, meet(1, r->rank), 0, &config) == ncclInvalidArgument, "configuration");
    OK(ncclGroupStart());
    CHECK(ncclCommDestroy(r->comm) == ncclInvalidUsage, "destroyed in a group");
    OK(ncclGroupEnd());
    int version;
    OK(ncclGetVersion(&version));
    CHECK(version == NCCL_VERSION_CODE && version >= 21800, "%d", version);
    CHECK(strcmp(ncclGetErrorString(ncclRemoteError), "remote process exited or there was a network error") == 0,
          "text");
    OK(ncclCommDestroy(r->comm));
}
static void test_refusals(void) { expect_good(2, refusals, HERE); }

// ------------------------------------------------------------------------------------------------
// The meeting

static void late_rank(Rank* r) {
    if (r->rank == 2) { usleep(200000); }
    if (r->rank == 1) {  // somebody else knocks first: one who talks, one who hangs up, one who is silent
        ncclUniqueId id = meet(0, 1);
        struct sockaddr_in to;
        memset(&to, 0, sizeof to);
        to.sin_family = AF_INET;
        memcpy(&to.sin_addr.s_addr, id.internal + 16, 4);
        memcpy(&to.sin_port, id.internal + 20, 2);
        for (int k = 0; k < 3; k++) {
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            CHECK(connect(fd, (struct sockaddr*)&to, sizeof to) == 0, "%s", strerror(errno));
            if (k == 0) { CHECK(send(fd, "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL) == 18, "%s", strerror(errno)); }
            if (k == 1) { close(fd); }
        }
    }
    collectives(r);
}
static void refused(Rank* r) {
    int which = atoi(getenv("WHICH"));
    int rank = which == 0 && r->rank == 2 ? 1 : r->rank, ranks = which == 1 && r->rank == 1 ? 4 : r->ranks;
    if (which == 2) { CUDA(cudaSetDevice(0)); }
    ncclResult_t result = ncclCommInitRank(&r->comm, ranks, meet(0, r->rank), rank);
    CHECK(result == ncclInvalidUsage && !r->comm, "result %d", (int)result);
    die("%s", ncclGetLastError(NULL));
}
static void own_devices(Rank* r) {
    CUDA(cudaSetDevice(0));
    rank_open(r);
    OK(ncclCommDestroy(r->comm));
}
static void test_meeting(void) {
    expect_good(3, late_rank, HERE);
    expect_good(3, late_rank, THERE);
    expect_told(3, refused, "WHICH=0", "rank 1 twice: process ");
    expect_told(2, refused, "WHICH=1", "rank 1 (|was told of 4 ranks, rank 0 (|of 2");
    expect_told(2, refused, "WHICH=2", "duplicate GPU: rank 0 and rank 1 are both on CUDA device 0 of ");
    expect_good(2, own_devices, "CUDA_VISIBLE_DEVICES=#");
    expect_good(2, own_devices, "EMULATE_NCCL_HOST=h#");
}

// ------------------------------------------------------------------------------------------------
// Faults

// A watchdog: waits until the rank has hung for a moment, sees that the error is the one that is expected, aborts.
struct Watch {
    Rank* r;
    ncclResult_t error;
    std::atomic<int> aborted;
};
static void* watch(void* data) {
    Watch* w = (Watch*)data;
    ncclResult_t error = ncclSuccess;
    for (int i = 0; i < 30 || (error != w->error && i < 1000); i++) {
        usleep(5000);
        OK(ncclCommGetAsyncError(w->r->comm, &error));
    }
    CHECK(error == w->error, "rank %d: asynchronous error %d, want %d", w->r->rank, (int)error, (int)w->error);
    if (error != ncclSuccess) {
        CHECK(strstr(ncclGetLastError(w->r->comm), "closed its connection") != NULL, "%s",
              ncclGetLastError(w->r->comm));
    }
    // An abort closes connections, which is an error to the others: all look first.
    int watching = w->r->ranks - (getenv("KILLED") != NULL);
    shared->mark[1]++;
    while (shared->mark[1] < watching) { usleep(1000); }
    OK(ncclCommAbort(w->r->comm));
    w->aborted = 1;
    return NULL;
}
// The second call hangs for all, because a rank is lost in it or killed before it; a watchdog ends it.
static void hanging(Rank* r) {
    rank_open(r);
    static Watch w;
    w.r = r, w.error = atoi(getenv("REMOTE")) ? ncclRemoteError : ncclSuccess;
    float* a = device_floats(100000);
    OK(ncclAllReduce(a, a, 100000, ncclFloat, ncclSum, r->comm, r->stream));
    CUDA(cudaStreamSynchronize(r->stream));
    if (getenv("KILLED") && r->rank == atoi(getenv("KILLED"))) { kill(getpid(), SIGKILL); }
    pthread_t thread;
    pthread_create(&thread, NULL, watch, &w);
    OK(ncclAllReduce(a, a, 100000, ncclFloat, ncclSum, r->comm, r->stream));
    CUDA(cudaStreamSynchronize(r->stream));
    CHECK(a[5] != a[5], "rank %d takes what was broken off for a result: %g", r->rank, (double)a[5]);
    pthread_join(thread, NULL);
    CHECK(w.aborted, "not aborted");
}
static void expect_killed(int ranks, int killed, const char* settings) {
    Outcome o = run_ranks_with(ranks, hanging, settings, NULL);
    for (int i = 0; i < ranks; i++) {
        int want = i == killed ? 128 + SIGKILL : 0;
        CHECK(o.code[i] == want, "%s, rank %d: exit status %d, want %d; it said: %s", settings, i, o.code[i], want,
              o.said[i]);
    }
    outcome_free(&o);
}
static void test_lost_and_killed(void) {
    expect_good(3, hanging, "REMOTE=0 EMULATE_NCCL_LOSE=1:2");
    expect_good(2, hanging, "REMOTE=0 EMULATE_NCCL_LOSE=0:2 EMULATE_NCCL_HOST=h# EMULATE_ASYNC=late");
    expect_good(2, hanging, "REMOTE=0 EMULATE_NCCL_STALL=0:2:30");
    expect_killed(3, 1, "REMOTE=0 KILLED=1");
    expect_killed(2, 0, "REMOTE=0 KILLED=0 EMULATE_ASYNC=late");
    expect_killed(3, 1, "REMOTE=1 KILLED=1 EMULATE_NCCL_HOST=h#");
    expect_killed(2, 0, "REMOTE=1 KILLED=0 EMULATE_NCCL_HOST=h#");
}

static void* aborts(void* data) {
    ncclCommAbort(((Rank*)data)->comm);
    shared->mark[0] = 1;
    return NULL;
}
static void abort_hangs(Rank* r) {
    rank_open(r);
    pthread_t thread;
    pthread_create(&thread, NULL, aborts, r);
    usleep(200000);
    CHECK(shared->mark[0] == 0, "ncclCommAbort returned");
}
// Rank 0 waits for a rank that does not come, until it is aborted.
static void* aborts_soon(void* data) {
    Rank* r = (Rank*)data;
    while (!__atomic_load_n(&r->comm, __ATOMIC_ACQUIRE)) { usleep(1000); }
    usleep(50000);
    OK(ncclCommAbort(r->comm));
    return NULL;
}
static void aborted_meeting(Rank* r) {
    pthread_t thread;
    pthread_create(&thread, NULL, aborts_soon, r);
    ncclUniqueId id;
    OK(ncclGetUniqueId(&id));
    ncclResult_t result = ncclCommInitRank(&r->comm, 2, id, 0);
    CHECK(result != ncclSuccess, "it met nobody");
    pthread_join(thread, NULL);
}
static void test_abort(void) {
    expect_good(2, abort_hangs, "EMULATE_NCCL_ABORT_HANGS=1");
    expect_good(1, aborted_meeting, HERE);
}

static void delayed(Rank* r) {
    rank_open(r);
    double start = now_seconds();
    check_reductions<float>(r, ncclFloat32, 1001, ncclSum);
    if (getenv("EMULATE_NCCL_STALL")) {
        double seconds = now_seconds() - start;
        CHECK(seconds > 0.25, "rank %d: nothing stalls, %g s", r->rank, seconds);
    }
    OK(ncclCommDestroy(r->comm));
}
static void test_delays(void) {
    expect_good(4, delayed, "EMULATE_NCCL_DELAY=20:7");
    expect_good(3, delayed, "EMULATE_NCCL_DELAY=20:8 EMULATE_NCCL_HOST=h@ EMULATE_ASYNC=late");
    expect_good(3, delayed, "EMULATE_NCCL_STALL=1:2:0.3");
    expect_told(1, delayed, "EMULATE_NCCL_STALL=1:2", "EMULATE_NCCL_STALL=1:2: expected rank:call:seconds");
}

// Killed at any moment, ranks leave nothing behind.
static int names_in(const char* path) {
    DIR* d = opendir(path);
    int n = 0;
    if (!d) { return 0; }
    for (struct dirent* e; (e = readdir(d)) != NULL;) { n += strcasestr(e->d_name, "nccl") != NULL; }
    closedir(d);
    return n;
}
static void endless(Rank* r) {
    rank_open(r);
    float* a = device_floats(100000);
    for (;;) {
        OK(ncclAllReduce(a, a, 100000, ncclFloat, ncclSum, r->comm, r->stream));
        CUDA(cudaStreamSynchronize(r->stream));
    }
}
static void kill_soon(const pid_t* pid) {
    static unsigned times;
    usleep(++times * 2654435761u % 20000);
    for (int i = 0; i < 3; i++) { kill(pid[i], SIGKILL); }
}
// One rank gets another sum than the others, once.
static void spoiled(Rank* r) {
    rank_open(r);
    float *numbers = device_floats(2), back[2];
    for (int call = 1; call <= 3; call++) {
        float mine[2] = {1, 2};
        CUDA(cudaMemcpy(numbers, mine, sizeof mine, cudaMemcpyHostToDevice));
        OK(ncclAllReduce(numbers, numbers, 2, ncclFloat, ncclSum, r->comm, r->stream));
        CUDA(cudaMemcpyAsync(back, numbers, sizeof back, cudaMemcpyDeviceToHost, r->stream));
        CUDA(cudaStreamSynchronize(r->stream));
        float wrong = call == 2 && r->rank == 1 ? 1.0f : 0.0f;
        CHECK(back[0] == (float)r->ranks + wrong && back[1] == 2 * (float)r->ranks, "call %d: %g, %g", call,
              (double)back[0], (double)back[1]);
    }
    OK(ncclCommDestroy(r->comm));
}
// Of three ranks that bring {1, 2, 3}: call 1 gathers the first number of each, call 2 gives rank r the r-th sum.
static void spoiled_shares(Rank* r) {
    rank_open(r);
    float *numbers = device_floats(7), back[7], mine[3] = {1, 2, 3};
    const char* spoil = getenv("EMULATE_NCCL_SPOIL");
    CUDA(cudaMemcpy(numbers, mine, sizeof mine, cudaMemcpyHostToDevice));
    OK(ncclAllGather(numbers, numbers + 3, 1, ncclFloat, r->comm, r->stream));
    OK(ncclReduceScatter(numbers, numbers + 6, 1, ncclFloat, ncclSum, r->comm, r->stream));
    CUDA(cudaMemcpyAsync(back, numbers, sizeof back, cudaMemcpyDeviceToHost, r->stream));
    CUDA(cudaStreamSynchronize(r->stream));
    const int here = r->rank == 1, first = here && strcmp(spoil, "1:1:-0.5") == 0, second = here && !first;
    CHECK(back[3] == (first ? 0.5f : 1.0f) && back[4] == 1 && back[5] == 1, "rank %d gathers %g, %g, %g", r->rank,
          (double)back[3], (double)back[4], (double)back[5]);
    CHECK(second ? back[6] != back[6] : back[6] == 3.0f * mine[r->rank], "rank %d has the sum %g", r->rank,
          (double)back[6]);
    OK(ncclCommDestroy(r->comm));
}
static void broadcast_alone(Rank* r) {
    rank_open(r);
    float* numbers = device_floats(1);
    OK(ncclBroadcast(numbers, numbers, 1, ncclFloat, 0, r->comm, r->stream));
    CUDA(cudaStreamSynchronize(r->stream));
}
static void test_spoiled(void) {
    expect_good(3, spoiled, "EMULATE_NCCL_SPOIL=1:2");
    expect_good(2, spoiled, "EMULATE_NCCL_SPOIL=1:2 EMULATE_NCCL_HOST=h#");
    expect_good(3, spoiled_shares, "EMULATE_NCCL_SPOIL=1:1:-0.5");
    expect_good(3, spoiled_shares, "EMULATE_NCCL_SPOIL=1:2:nan");
    expect_told(1, broadcast_alone, "EMULATE_NCCL_SPOIL=0:1",
                "expected an all-reduce, reduce-scatter or all-gather of floats, found ncclBroadcast of 1 float");
    expect_told(1, delayed, "EMULATE_NCCL_SPOIL=0:1:", "EMULATE_NCCL_SPOIL=0:1:: expected rank:call[:by]");
    expect_told(1, delayed, "EMULATE_NCCL_LOSE=0:1:2", "EMULATE_NCCL_LOSE=0:1:2: expected rank:call");
}

static void test_nothing_is_left(void) {
    int before = names_in("/dev/shm") + names_in("/tmp");
    for (int i = 0; i < 12; i++) {
        Outcome o = run_ranks_with(3, endless, i % 2 ? HERE : THERE, kill_soon);
        for (int k = 0; k < 3; k++) { CHECK(o.code[k] == 128 + SIGKILL, "%d: %s", o.code[k], o.said[k]); }
        outcome_free(&o);
    }
    CHECK(names_in("/dev/shm") + names_in("/tmp") == before, "files are left in /dev/shm or /tmp");
}

// Rank R of N by hand, the id in a file: in containers, network namespaces, on several machines.
static int by_hand(int rank, int ranks, const char* path) {
    Rank r = {rank, ranks, NULL, NULL};
    ncclUniqueId id;
    setenv("EMULATE_DEVICES", "4", 1);
    CUDA(cudaSetDevice(rank));
    CUDA(cudaStreamCreate(&r.stream));
    if (rank == 0) { OK(ncclGetUniqueId(&id)); }
    FILE* f = NULL;
    for (int i = 0; i < 100 && !(f = fopen(path, rank == 0 ? "wx" : "r")); i++) { usleep(100000); }
    if (!f) { die("%s: %s", path, strerror(errno)); }
    if ((rank == 0 ? fwrite(&id, sizeof id, 1, f) : fread(&id, sizeof id, 1, f)) != 1) { die("%s: no id", path); }
    fclose(f);
    OK(ncclCommInitRank(&r.comm, ranks, id, rank));
    check_type<float>(&r, ncclFloat32, 70001);
    OK(ncclCommDestroy(r.comm));
    printf("rank %d of %d: %d checks failed\n", rank, ranks, test_state.checks_failed);
    return test_state.checks_failed != 0;
}

int main(int argc, char** argv) {
    shared = (Shared*)mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (argc == 5 && strcmp(argv[1], "--rank") == 0) { return by_hand(atoi(argv[2]), atoi(argv[3]), argv[4]); }
    test_begin(argc, argv);
    RUN(test_order_matters);
    RUN(test_collectives);
    RUN(test_large);
    RUN(test_groups);
    RUN(test_two_communicators);
    RUN(test_streams);
    RUN(test_graphs);
    RUN(test_differences);
    RUN(test_misuse);
    RUN(test_refusals);
    RUN(test_meeting);
    RUN(test_lost_and_killed);
    RUN(test_abort);
    RUN(test_delays);
    RUN(test_spoiled);
    RUN(test_nothing_is_left);
    return test_end();
}

// nccl.cpp - a stand-in for NCCL, to see without several GPUs whether a data-parallel trainer is right: the calls of nccl.h,
// between processes, strict where NCCL computes something else or hangs. Speed is not its aim.
//
// Compiled with -Idev/emulate it belongs to the emulator of CUDA. Compiled against the CUDA Toolkit's headers it is a
// libnccl.so.2 for a real GPU that several ranks share, where NCCL refuses (make nccl-stand-in).
//
// Both ways an operation is three things in its stream: a copy from the device to page-locked memory, a host function,
// which exchanges numbers with the other ranks (nccl_wire.h) and calls no CUDA, and a copy back. Of a communicator
// only one operation is under way at a time, in the order of the calls, as in NCCL.
//
//   EMULATE_NCCL_HOST=name        the host of this rank: ranks of different hosts talk by TCP
//   EMULATE_NCCL_DELAY=ms[:seed]  every operation begins up to so much later, at random
//   EMULATE_NCCL_LOSE=rank:call   that rank never arrives at its call of that number, from 1, of a communicator
//   EMULATE_NCCL_STALL=rank:call:seconds  it arrives, and then is silent for so long
//   EMULATE_NCCL_SPOIL=rank:call[:by]  that call gives that rank a first float that is too large by 1, or by so much (nan)
//   EMULATE_NCCL_ABORT_HANGS=1    ncclCommAbort never returns
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "nccl.h"

#include "nccl_wire.h"

#include <mutex>

// Whose cuda_runtime.h nccl.h has found.
#ifdef PONDER_EMULATE_H
enum { EMULATED = 1 };
static void check_device(const char* what, const void* p, size_t bytes) { emulate_check_device(what, p, bytes); }
static void hold(cudaStream_t stream) { emulate_hold(stream); }
#else
enum { EMULATED = 0 };
static void check_device(const char* what, const void* p, size_t) {
    cudaPointerAttributes attributes;
    if (cudaPointerGetAttributes(&attributes, p) != cudaSuccess || attributes.type == cudaMemoryTypeUnregistered) {
        fatal("%s: %p is not device memory", what, p);
    }
}
static void hold(cudaStream_t) {}
#endif

// ------------------------------------------------------------------------------------------------
// Errors, names

static std::mutex error_lock;
static char error_text[1024];
// Errors that NCCL has a code for. The text is what ncclGetLastError gives.
__attribute__((format(printf, 2, 3))) static ncclResult_t refuse(ncclResult_t result, const char* format, ...) {
    std::lock_guard<std::mutex> guard(error_lock);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error_text, sizeof error_text, format, arguments);
    va_end(arguments);
    return result;
}
#define CUDA_OR_RETURN(expression)                                                                          \
    do {                                                                                                    \
        cudaError_t cuda_error = (expression);                                                              \
        if (cuda_error != cudaSuccess) {                                                                    \
            return refuse(ncclUnhandledCudaError, "%s gave %s", #expression, cudaGetErrorName(cuda_error)); \
        }                                                                                                   \
    } while (0)

enum { ALL_REDUCE, REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, SEND, RECV };
static const char* const kind_name[] = {"ncclAllReduce", "ncclReduce", "ncclReduceScatter", "ncclAllGather",
                                        "ncclBroadcast", "ncclSend",   "ncclRecv"};
static const char* const op_name[] = {"sum", "product", "max", "min", "average"};
static int reduces(int kind) { return kind <= REDUCE_SCATTER; }
static int between_two(int kind) { return kind >= SEND; }
static const char* type_name(int type) {
    switch (type) {
        case ncclUint8: return "uint8";
        case ncclInt32: return "int32";
        case ncclInt64: return "int64";
        case ncclUint64: return "uint64";
        case ncclFloat32: return "float";
        case ncclFloat64: return "double";
        case ncclBfloat16: return "bf16";
    }
    return NULL;
}
static size_t type_bytes(int type) {
    return type == ncclUint8 ? 1 : type == ncclBfloat16 ? 2 : type == ncclInt32 || type == ncclFloat32 ? 4 : 8;
}

static const char* number_th(uint64_t n) {
    return n % 100 / 10 == 1 ? "th" : n % 10 == 1 ? "st" : n % 10 == 2 ? "nd" : n % 10 == 3 ? "rd" : "th";
}
static void call_text(char text[160], const Call* c) {
    int n = snprintf(text, 160, "%s of %llu %s", kind_name[c->kind], (unsigned long long)c->count, type_name(c->type));
    if (reduces(c->kind)) { n += snprintf(text + n, 160 - (size_t)n, " (%s)", op_name[c->op]); }
    if (c->kind == REDUCE || c->kind == SEND) { snprintf(text + n, 160 - (size_t)n, " to rank %d", c->root); }
    if (c->kind == BROADCAST || c->kind == RECV) { snprintf(text + n, 160 - (size_t)n, " from rank %d", c->root); }
}
__attribute__((noreturn)) static void nan_brought(int rank, const Call* c) {
    fatal("rank %d brings a NaN to the %s of %s: NCCL may lose it", rank, op_name[c->op], type_name(c->type));
}
static void calls_compare(int my_rank, const Call* mine, int their_rank, const Call* theirs) {
    int same = mine->count == theirs->count && mine->type == theirs->type;
    if (between_two(mine->kind)) {  // then the other one of the two, and the two name each other
        same = same && theirs->kind == (mine->kind == SEND ? RECV : SEND);
    } else {
        same = same && mine->kind == theirs->kind && mine->op == theirs->op && mine->root == theirs->root;
    }
    if (same && !mine->nan && !theirs->nan) { return; }
    if (same) { nan_brought(mine->nan ? my_rank : their_rank, mine); }
    char a[160], b[160];
    call_text(a, theirs);
    call_text(b, mine);
    fatal("rank %d's %llu%s call is %s, rank %d's %llu%s is %s", their_rank, (unsigned long long)theirs->number,
          number_th(theirs->number), a, my_rank, (unsigned long long)mine->number, number_th(mine->number), b);
}

// ------------------------------------------------------------------------------------------------
// Communicators

enum { COMM_OPEN, COMM_FINALIZED, COMM_DESTROYED, COMM_ABORTED };
static const char* const state_call[] = {"", "ncclCommFinalize", "ncclCommDestroy", "ncclCommAbort"};

// An operation as it was called; root is also the other side of ncclSend and ncclRecv.
struct Op {
    int kind;
    const void* from;
    void* to;
    size_t count, from_bytes, to_bytes;
    int type, op, root;
    char *host_from, *host_to;  // page-locked: where the host function finds and leaves the numbers
};
// The operations of a communicator that one host function does: one, or those of a group.
struct Bundle {
    ncclComm* comm;
    std::vector<Op> ops;
    int kept;  // belongs to a graph, and may run again
};
struct ncclComm {
    Wires wires;
    int device;
    std::atomic<int> state;
    std::atomic<int> running;  // a host function is at work
    uint64_t calls;            // operations so far, counted as they run
    cudaEvent_t last;          // behind the operation that was called last
    cudaStream_t last_stream;
    int used;
    char* staging;
    size_t staging_bytes;
    std::vector<char*> old_staging;  // too small, but perhaps still in use
    std::vector<Bundle*> kept;
};

// Communicators stay here when they are destroyed, so that a later use is seen.
static std::mutex comms_lock;
static std::vector<ncclComm*> comms;
// What is wrong with it for a call of that name. Fatal where NCCL would use memory that it has freed.
static ncclResult_t comm_check(const char* call, const ncclComm* comm, int most_state) {
    std::lock_guard<std::mutex> guard(comms_lock);
    for (const ncclComm* known : comms) {
        if (known != comm) { continue; }
        int state = comm->state;
        if (state > most_state) {
            fatal("%s on a communicator after %s (rank %d of %d)", call, state_call[state], comm->wires.rank,
                  comm->wires.ranks);
        }
        return ncclSuccess;
    }
    return refuse(ncclInvalidArgument, "%s: %p is no communicator", call, (const void*)comm);
}

// ------------------------------------------------------------------------------------------------
// Injected faults

struct Fault {
    int rank, set;
    long long call;
    double number;
};
// most, least: 1 if it may, if it must have a number behind rank and call, whose name is `number`.
static Fault fault_of(const char* name, int least, int most, const char* number) {
    Fault f = {-1, 0, 0, 1};
    const char* text = getenv(name);
    if (!text || !text[0]) { return f; }
    int end = 0, n = sscanf(text, "%d:%lld%n:%lf%n", &f.rank, &f.call, &end, &f.number, &end);
    if (n < 2 + least || n > 2 + most || text[end]) { fatal("%s=%s: expected rank:call%s", name, text, number); }
    f.set = 1;
    return f;
}
// Waits, unless it is told to stop.
static void wait_seconds(ncclComm* comm, double seconds) {
    for (double end = wire_seconds() + seconds; !comm->wires.abort && wire_seconds() < end;) { wire_sleep(0.001); }
}
static uint64_t hash(uint64_t x) {
    x = (x ^ x >> 31) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 29) * 0xd1342543de82ef95u;
    return x ^ x >> 32;
}
static void fault_before(ncclComm* comm) {
    static const Fault lose = fault_of("EMULATE_NCCL_LOSE", 0, 0, "");
    static const char* const delay = getenv("EMULATE_NCCL_DELAY");
    if (delay && delay[0]) {
        double ms = 0;
        unsigned long long seed = 0;
        if (sscanf(delay, "%lf:%llu", &ms, &seed) < 1) { fatal("EMULATE_NCCL_DELAY=%s: expected ms[:seed]", delay); }
        uint64_t random = hash(hash(seed * 1000003 + comm->calls) + (uint64_t)comm->wires.rank);
        wait_seconds(comm, 1e-3 * ms * (double)(random >> 11) / 9007199254740992.0);
    }
    if (lose.set && lose.rank == comm->wires.rank && lose.call == (long long)comm->calls) { wait_seconds(comm, 1e9); }
}
static void fault_within(ncclComm* comm) {
    static const Fault stall = fault_of("EMULATE_NCCL_STALL", 1, 1, ":seconds");
    if (stall.set && stall.rank == comm->wires.rank && stall.call == (long long)comm->calls) {
        wait_seconds(comm, stall.number);
    }
}
static void fault_after(ncclComm* comm, const Op* o) {
    static const Fault spoil = fault_of("EMULATE_NCCL_SPOIL", 0, 1, "[:by]");
    if (!spoil.set || spoil.rank != comm->wires.rank || spoil.call != (long long)comm->calls) { return; }
    const int known = o->kind == ALL_REDUCE || o->kind == REDUCE_SCATTER || o->kind == ALL_GATHER;
    if (!known || o->type != ncclFloat32 || o->count == 0) {
        fatal("EMULATE_NCCL_SPOIL=%d:%lld: expected an all-reduce, reduce-scatter or all-gather of floats, found %s of "
              "%zu %s",
              spoil.rank, spoil.call, kind_name[o->kind], o->count, type_name(o->type));
    }
    *(float*)(void*)o->host_to += (float)spoil.number;
}

// ------------------------------------------------------------------------------------------------
// The collectives, on host memory. All return 0 if they were told to stop.

static float bf16_to_float(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}
// Sums are taken in the order of ranks, so that all ranks get the same bits in every run, of integers without regard to
// signs, which makes them wrap.
template <class number, class wide>
static void reduce_rows(int op, char* to_bytes, const std::vector<const char*>& row, size_t n) {
    number* to = (number*)to_bytes;
    memcpy(to, row[0], n * sizeof(number));
    for (size_t r = 1; r < row.size(); r++) {
        const number* x = (const number*)row[r];
        if (op == ncclSum) {
            for (size_t i = 0; i < n; i++) { to[i] = (number)((wide)to[i] + (wide)x[i]); }
        } else if (op == ncclMax) {
            for (size_t i = 0; i < n; i++) { to[i] = to[i] < x[i] ? x[i] : to[i]; }
        } else {
            for (size_t i = 0; i < n; i++) { to[i] = x[i] < to[i] ? x[i] : to[i]; }
        }
    }
}
static void reduce_bf16(int op, char* to_bytes, const std::vector<const char*>& row, size_t n) {
    uint16_t* to = (uint16_t*)to_bytes;
    memcpy(to, row[0], n * sizeof *to);
    for (size_t r = 1; r < row.size(); r++) {
        const uint16_t* x = (const uint16_t*)row[r];
        for (size_t i = 0; i < n; i++) {
            float a = bf16_to_float(to[i]), b = bf16_to_float(x[i]);
            if (op == ncclMax ? a < b : b < a) { to[i] = x[i]; }
        }
    }
}
// Whether p[n] holds a NaN that counts: one in a maximum or minimum.
static int has_nan(int type, int op, const char* p, size_t n) {
    if (op == ncclSum) { return 0; }
    for (size_t i = 0; i < n; i++) {
        double x = type == ncclFloat32    ? (double)((const float*)p)[i]
                   : type == ncclFloat64  ? ((const double*)p)[i]
                   : type == ncclBfloat16 ? (double)bf16_to_float(((const uint16_t*)p)[i])
                                          : 0;
        if (x != x) { return 1; }
    }
    return 0;
}
// to[n] = the reduction of row[r][n] over all ranks r
static void reduce(const Op* o, char* to, const std::vector<const char*>& row, size_t n) {
    if (n == 0) { return; }
    switch (o->type) {
        case ncclUint8: return reduce_rows<uint8_t, unsigned>(o->op, to, row, n);
        case ncclInt32: return reduce_rows<int32_t, uint32_t>(o->op, to, row, n);
        case ncclInt64: return reduce_rows<int64_t, uint64_t>(o->op, to, row, n);
        case ncclUint64: return reduce_rows<uint64_t, uint64_t>(o->op, to, row, n);
        case ncclFloat32: return reduce_rows<float, float>(o->op, to, row, n);
        case ncclFloat64: return reduce_rows<double, double>(o->op, to, row, n);
        case ncclBfloat16: return reduce_bf16(o->op, to, row, n);
    }
}

static const size_t PIECE = 1 << 18;  // numbers that are under way at a time

static void to_all(ncclComm* comm, Transfers* t, const char* p, size_t bytes) {
    for (int r = 0; r < comm->wires.ranks; r++) {
        if (r != comm->wires.rank) { transfer(t, r, 1, p, bytes, NULL); }
    }
}
// Receives n numbers of each other rank into rows of `room`; row[r] then is rank r's, this rank's `own`.
static void from_all(ncclComm* comm, Transfers* t, std::vector<char>* room, const char* own, size_t bytes,
                     std::vector<const char*>* row) {
    int N = comm->wires.ranks;
    size_t stride = (bytes + 63) / 64 * 64;
    if (room->size() < stride * (size_t)N) { room->resize(stride * (size_t)N); }
    row->resize((size_t)N);
    for (int r = 0; r < N; r++) {
        char* p = room->data() + stride * (size_t)r;
        (*row)[(size_t)r] = r == comm->wires.rank ? own : p;
        if (r != comm->wires.rank) { transfer(t, r, 0, p, bytes, NULL); }
    }
}

// Each rank reduces its share of a piece and sends the result to all.
static int all_reduce(ncclComm* comm, const Op* o) {
    size_t N = (size_t)comm->wires.ranks, me = (size_t)comm->wires.rank, size = type_bytes(o->type);
    std::vector<char> room;
    std::vector<const char*> row;
    for (size_t at = 0; at < o->count; at += PIECE) {
        size_t n = o->count - at < PIECE ? o->count - at : PIECE;
        size_t begin = n * me / N, mine = n * (me + 1) / N - begin;
        Transfers there, back;
        from_all(comm, &there, &room, o->host_from + (at + begin) * size, mine * size, &row);
        for (size_t r = 0; r < N; r++) {
            size_t first = n * r / N, share = n * (r + 1) / N - first;
            if (r == me) { continue; }
            transfer(&there, (int)r, 1, o->host_from + (at + first) * size, share * size, NULL);
            transfer(&back, (int)r, 0, o->host_to + (at + first) * size, share * size, NULL);
        }
        if (!transfers_finish(&comm->wires, &there)) { return 0; }
        char* result = o->host_to + (at + begin) * size;
        reduce(o, result, row, mine);
        to_all(comm, &back, result, mine * size);
        if (!transfers_finish(&comm->wires, &back)) { return 0; }
    }
    return 1;
}
// Each rank has `blocks` blocks of count numbers; block b is reduced by rank owner + b.
static int reduce_blocks(ncclComm* comm, const Op* o, int owner, size_t blocks) {
    size_t size = type_bytes(o->type);
    int mine = comm->wires.rank - owner;
    std::vector<char> room;
    std::vector<const char*> row;
    for (size_t at = 0; at < o->count; at += PIECE) {
        size_t n = o->count - at < PIECE ? o->count - at : PIECE;
        Transfers t;
        int reducing = mine >= 0 && mine < (int)blocks;
        if (reducing) {
            from_all(comm, &t, &room, o->host_from + ((size_t)mine * o->count + at) * size, n * size, &row);
        }
        for (size_t b = 0; b < blocks; b++) {
            if ((int)b == mine) { continue; }
            transfer(&t, owner + (int)b, 1, o->host_from + (b * o->count + at) * size, n * size, NULL);
        }
        if (!transfers_finish(&comm->wires, &t)) { return 0; }
        if (reducing) { reduce(o, o->host_to + at * size, row, n); }
    }
    return 1;
}
static int all_gather(ncclComm* comm, const Op* o) {
    size_t bytes = o->from_bytes;
    Transfers t;
    to_all(comm, &t, o->host_from, bytes);
    for (int r = 0; r < comm->wires.ranks; r++) {
        if (r != comm->wires.rank) { transfer(&t, r, 0, o->host_to + (size_t)r * bytes, bytes, NULL); }
    }
    memcpy(o->host_to + (size_t)comm->wires.rank * bytes, o->host_from, bytes);
    return transfers_finish(&comm->wires, &t);
}
static int broadcast(ncclComm* comm, const Op* o) {
    Transfers t;
    if (comm->wires.rank == o->root) {
        to_all(comm, &t, o->host_from, o->from_bytes);
        memcpy(o->host_to, o->host_from, o->from_bytes);
    } else {
        transfer(&t, o->root, 0, o->host_to, o->to_bytes, NULL);
    }
    return transfers_finish(&comm->wires, &t);
}

static Call call_of(ncclComm* comm, const Op* o) {
    Call c;
    memset(&c, 0, sizeof c);  // it travels, padding too
    c.number = comm->calls, c.count = o->count, c.kind = o->kind, c.type = o->type, c.op = o->op, c.root = o->root;
    return c;
}
static int collective_run(ncclComm* comm, const Op* o) {
    switch (o->kind) {
        case ALL_REDUCE: return all_reduce(comm, o);
        case REDUCE: return reduce_blocks(comm, o, o->root, 1);
        case REDUCE_SCATTER: return reduce_blocks(comm, o, 0, (size_t)comm->wires.ranks);
        case ALL_GATHER: return all_gather(comm, o);
    }
    return broadcast(comm, o);
}
static int collective(ncclComm* comm, const Op* o) {
    comm->calls++;
    fault_before(comm);
    Transfers greetings;
    Call mine = call_of(comm, o);
    mine.nan = reduces(o->kind) && has_nan(o->type, o->op, o->host_from, o->from_bytes / type_bytes(o->type));
    if (mine.nan && comm->wires.ranks == 1) { nan_brought(0, &mine); }
    for (int r = 0; r < comm->wires.ranks; r++) {
        if (r != comm->wires.rank) { greet(&greetings, r, &mine); }
    }
    if (!transfers_finish(&comm->wires, &greetings)) { return 0; }
    fault_within(comm);
    int done = o->count == 0 ? 1 : collective_run(comm, o);
    fault_after(comm, o);
    return done;
}

// A rank's ncclSend to itself meets its ncclRecv from itself in the same group, the first the first.
static void send_to_self(ncclComm* comm, const std::vector<Op>& ops) {
    std::vector<const Op*> side[2];
    for (const Op& o : ops) {
        if (between_two(o.kind) && o.root == comm->wires.rank) { side[o.kind == RECV].push_back(&o); }
    }
    if (side[0].size() != side[1].size()) {
        fatal("rank %d sends to itself %zu times and receives from itself %zu times in a group", comm->wires.rank,
              side[0].size(), side[1].size());
    }
    for (size_t i = 0; i < side[0].size(); i++) {
        Call a = call_of(comm, side[0][i]), b = call_of(comm, side[1][i]);
        calls_compare(comm->wires.rank, &a, comm->wires.rank, &b);
        if (a.count) { memcpy(side[1][i]->host_to, side[0][i]->host_from, side[0][i]->from_bytes); }
    }
}
// All ncclSend and ncclRecv of a bundle at once. With each other rank: first what goes from the lower to the higher of the
// two, then the rest, so that the two list the same in the same order.
static int sends_and_receives(ncclComm* comm, const std::vector<Op>& ops) {
    int me = comm->wires.rank;
    Transfers t;
    send_to_self(comm, ops);
    for (int down = 0; down < 2; down++) {
        for (const Op& o : ops) {
            int out = o.kind == SEND;
            if (!between_two(o.kind) || o.root == me || (o.root < me) != (out ? down : !down)) { continue; }
            comm->calls++;
            fault_before(comm);
            Call mine = call_of(comm, &o);
            const Greeting* agreed = greet(&t, o.root, &mine);
            transfer(&t, o.root, out, out ? o.host_from : o.host_to, o.count * type_bytes(o.type), agreed);
        }
    }
    return transfers_finish(&comm->wires, &t);
}

// The host function of a bundle.
static void bundle_run(void* data) {
    Bundle* b = (Bundle*)data;
    ncclComm* comm = b->comm;
    if (comm->state == COMM_DESTROYED) { fatal("a graph is launched whose communicator has been destroyed"); }
    comm->running = 1;  // before abort is looked at: ncclCommAbort sets that first and then waits for this
    int going = !comm->wires.abort, two = 0;
    for (size_t i = 0; i < b->ops.size() && going; i++) {
        two |= between_two(b->ops[i].kind);
        if (!between_two(b->ops[i].kind)) { going = collective(comm, &b->ops[i]); }
    }
    if (going && two) { going = sends_and_receives(comm, b->ops); }
    for (const Op& o : b->ops) {  // nobody shall take what was broken off for a result
        if (!going && o.to_bytes) { memset(o.host_to, 0xff, o.to_bytes); }
    }
    comm->running = 0;
    if (!b->kept) { delete b; }
}

// ------------------------------------------------------------------------------------------------
// Into the stream

static size_t padded(size_t bytes) { return (bytes + 255) / 256 * 256; }
static ncclResult_t staging_grow(ncclComm* comm, size_t bytes) {
    if (bytes <= comm->staging_bytes) { return ncclSuccess; }
    if (comm->staging) { comm->old_staging.push_back(comm->staging); }
    if (bytes < 2 * comm->staging_bytes) { bytes = 2 * comm->staging_bytes; }
    comm->staging = NULL, comm->staging_bytes = 0;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;  // memory may be taken while a graph is captured
    cudaThreadExchangeStreamCaptureMode(&mode);
    cudaError_t error = cudaMallocHost((void**)&comm->staging, bytes);
    cudaThreadExchangeStreamCaptureMode(&mode);
    CUDA_OR_RETURN(error);
    comm->staging_bytes = bytes;
    return ncclSuccess;
}
static ncclResult_t bundle_enqueue(Bundle* b, cudaStream_t stream) {
    ncclComm* comm = b->comm;
    cudaStreamCaptureStatus capturing;
    CUDA_OR_RETURN(cudaStreamIsCapturing(stream, &capturing));
    if (capturing != cudaStreamCaptureStatusNone) {
        b->kept = 1;
        comm->kept.push_back(b);
    } else if (comm->used && comm->last_stream != stream) {
        CUDA_OR_RETURN(cudaStreamWaitEvent(stream, comm->last, 0));
    }
    size_t bytes = 0;
    for (const Op& o : b->ops) { bytes += padded(o.from_bytes) + padded(o.to_bytes); }
    ncclResult_t result = staging_grow(comm, bytes);
    if (result != ncclSuccess) { return result; }
    hold(stream);
    char* at = comm->staging;
    for (Op& o : b->ops) {
        o.host_from = at, at += padded(o.from_bytes);
        o.host_to = at, at += padded(o.to_bytes);
        if (!o.from_bytes) { continue; }
        CUDA_OR_RETURN(cudaMemcpyAsync(o.host_from, o.from, o.from_bytes, cudaMemcpyDeviceToHost, stream));
    }
    std::vector<Op> ops = b->ops;
    CUDA_OR_RETURN(cudaLaunchHostFunc(stream, bundle_run, b));  // from here on it may be gone
    for (const Op& o : ops) {
        if (!o.to_bytes) { continue; }
        CUDA_OR_RETURN(cudaMemcpyAsync(o.to, o.host_to, o.to_bytes, cudaMemcpyHostToDevice, stream));
    }
    if (capturing == cudaStreamCaptureStatusNone) {
        CUDA_OR_RETURN(cudaEventRecord(comm->last, stream));
        comm->used = 1, comm->last_stream = stream;
    }
    return ncclSuccess;
}

// ---- groups ----

struct Called {
    ncclComm* comm;
    Op op;
    cudaStream_t stream;
};
static thread_local int group_depth;
static thread_local std::vector<Called>* group;

static int overlap(const void* a, size_t a_bytes, const void* b, size_t b_bytes) {
    return a_bytes && b_bytes && (const char*)a < (const char*)b + b_bytes && (const char*)b < (const char*)a + a_bytes;
}
// Operations of a group run at once: none may write what another one reads or writes.
static void group_check(const std::vector<Called>& all) {
    for (size_t i = 0; i < all.size(); i++) {
        for (size_t k = 0; k < all.size(); k++) {
            const Op *a = &all[i].op, *b = &all[k].op;
            if (i != k && (overlap(a->to, a->to_bytes, b->from, b->from_bytes) ||
                           (i < k && overlap(a->to, a->to_bytes, b->to, b->to_bytes)))) {
                fatal("the %s that is number %zu of a group writes what its number %zu, %s, reads or writes",
                      kind_name[a->kind], i + 1, k + 1, kind_name[b->kind]);
            }
        }
    }
}
static ncclResult_t group_enqueue(std::vector<Called>& all) {
    group_check(all);
    while (!all.empty()) {
        Bundle* b = new Bundle{all[0].comm, {}, 0};
        cudaStream_t stream = all[0].stream;
        std::vector<Called> rest;
        for (const Called& c : all) {
            if (c.comm != b->comm) {
                rest.push_back(c);
                continue;
            }
            if (c.stream != stream) {
                fatal("a group has operations of one communicator in two streams, which this stand-in does not know");
            }
            b->ops.push_back(c.op);
        }
        ncclResult_t result = bundle_enqueue(b, stream);
        if (result != ncclSuccess) { return result; }
        all.swap(rest);
    }
    return ncclSuccess;
}

// ---- calls ----

static ncclResult_t check_arguments(const ncclComm* comm, const Op* o) {
    const char* call = kind_name[o->kind];
    if (o->type < 0 || o->type >= ncclNumTypes) { return refuse(ncclInvalidArgument, "%s: type %d", call, o->type); }
    if (o->op < 0 || o->op >= ncclNumOps) { return refuse(ncclInvalidArgument, "%s: operation %d", call, o->op); }
    if (o->root < 0 || o->root >= comm->wires.ranks) {
        return refuse(ncclInvalidArgument, "%s: rank %d of %d", call, o->root, comm->wires.ranks);
    }
    if (!type_name(o->type)) { fatal("%s: the stand-in does not know type %d of ncclDataType_t", call, o->type); }
    if (!reduces(o->kind)) { return ncclSuccess; }
    if (o->op != ncclSum && o->op != ncclMax && o->op != ncclMin) {
        fatal("%s: the stand-in knows sum, max and min, not the %s", call, op_name[o->op]);
    }
    if (o->type == ncclBfloat16 && o->op == ncclSum) {
        fatal("%s: a sum of bf16 is refused: NCCL rounds to bf16 after every addition, in an order that depends on the "
              "machine; reduce in fp32",
              call);
    }
    return ncclSuccess;
}
static void check_buffer(const Op* o, const char* which, const void* p, size_t bytes) {
    char what[64];
    snprintf(what, sizeof what, "%s %s", kind_name[o->kind], which);
    if (!bytes) { return; }
    if ((uintptr_t)p % type_bytes(o->type) != 0) {
        fatal("%s: address %p is not aligned to %zu bytes", what, p, type_bytes(o->type));
    }
    check_device(what, p, bytes);
}
static void check_buffers(const ncclComm* comm, const Op* o) {
    check_buffer(o, "from", o->from, o->from_bytes);
    check_buffer(o, "to", o->to, o->to_bytes);
    if (!overlap(o->from, o->from_bytes, o->to, o->to_bytes)) { return; }
    size_t block = (size_t)comm->wires.rank * o->count * type_bytes(o->type);
    ptrdiff_t apart = (const char*)o->to - (const char*)o->from;
    ptrdiff_t in_place = o->kind == REDUCE_SCATTER ? (ptrdiff_t)block : o->kind == ALL_GATHER ? -(ptrdiff_t)block : 0;
    if (apart != in_place) {
        fatal("%s of rank %d: its buffers overlap, and it is not in place: `to` lies %td bytes behind `from`, in place "
              "would be %td",
              kind_name[o->kind], comm->wires.rank, apart, in_place);
    }
}
static ncclResult_t call(ncclComm_t comm, Op o, cudaStream_t stream) {
    ncclResult_t result = comm_check(kind_name[o.kind], comm, COMM_OPEN);
    if (result != ncclSuccess) { return result; }
    if (comm->wires.remote) {
        ncclCommGetAsyncError(comm, &result);
        return result;
    }
    result = check_arguments(comm, &o);
    if (result != ncclSuccess) { return result; }
    int rank = comm->wires.rank;
    size_t bytes = o.count * type_bytes(o.type), ranks = (size_t)comm->wires.ranks;
    o.from_bytes = o.kind == RECV || (o.kind == BROADCAST && rank != o.root) ? 0
                   : o.kind == REDUCE_SCATTER                                ? ranks * bytes
                                                                             : bytes;
    o.to_bytes = o.kind == SEND || (o.kind == REDUCE && rank != o.root) ? 0
                 : o.kind == ALL_GATHER                                 ? ranks * bytes
                                                                        : bytes;
    check_buffers(comm, &o);
    if (group_depth) {
        if (!group) { group = new std::vector<Called>(); }
        group->push_back(Called{comm, o, stream});
        return ncclSuccess;
    }
    if (between_two(o.kind) && o.root == rank) {
        return refuse(ncclInvalidUsage, "%s: rank %d with itself, outside of a group", kind_name[o.kind], rank);
    }
    return bundle_enqueue(new Bundle{comm, {o}, 0}, stream);
}

// ------------------------------------------------------------------------------------------------
// The interface

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
    return call(comm, Op{ALL_REDUCE, from, to, count, 0, 0, type, op, 0, NULL, NULL}, stream);
}
ncclResult_t ncclReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
    return call(comm, Op{REDUCE, from, to, count, 0, 0, type, op, root, NULL, NULL}, stream);
}
ncclResult_t ncclReduceScatter(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
    return call(comm, Op{REDUCE_SCATTER, from, to, count, 0, 0, type, op, 0, NULL, NULL}, stream);
}
ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
    return call(comm, Op{ALL_GATHER, from, to, count, 0, 0, type, 0, 0, NULL, NULL}, stream);
}
ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
    return call(comm, Op{BROADCAST, from, to, count, 0, 0, type, 0, root, NULL, NULL}, stream);
}
ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    return call(comm, Op{SEND, from, NULL, count, 0, 0, type, 0, peer, NULL, NULL}, stream);
}
ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
    return call(comm, Op{RECV, NULL, to, count, 0, 0, type, 0, peer, NULL, NULL}, stream);
}
ncclResult_t ncclGroupStart(void) {
    group_depth++;
    return ncclSuccess;
}
ncclResult_t ncclGroupEnd(void) {
    if (group_depth == 0) { return refuse(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart"); }
    if (--group_depth > 0 || !group) { return ncclSuccess; }
    std::vector<Called> all;
    all.swap(*group);
    return group_enqueue(all);
}

// ---- communicators ----

// Where this process listens for those whom it has invited.
struct Listener {
    uint64_t secret;
    int fd;
};
static std::mutex listeners_lock;
static std::vector<Listener> listeners;
static int listener_take(uint64_t secret) {
    std::lock_guard<std::mutex> guard(listeners_lock);
    for (size_t i = 0; i < listeners.size(); i++) {
        if (listeners[i].secret != secret) { continue; }
        int fd = listeners[i].fd;
        listeners.erase(listeners.begin() + (long)i);
        return fd;
    }
    return -1;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
    if (!id) { return refuse(ncclInvalidArgument, "ncclGetUniqueId: no place for the id"); }
    Invitation to;
    memset(&to, 0, sizeof to);
    to.magic = WIRE_MAGIC;
    to.address = host_address();
    char host[256];
    host_name(host, sizeof host);
    snprintf(to.host, sizeof to.host, "%.95s", host);
    int fd = wire_listen(&to.port);
    if (fd < 0 || getrandom(&to.secret, sizeof to.secret, 0) != (ssize_t)sizeof to.secret) {
        return refuse(ncclSystemError, "ncclGetUniqueId: %s", strerror(errno));
    }
    static_assert(sizeof to <= sizeof *id, "an invitation fits in a unique id");
    memset(id, 0, sizeof *id);
    memcpy(id, &to, sizeof to);
    std::lock_guard<std::mutex> guard(listeners_lock);
    listeners.push_back(Listener{to.secret, fd});
    return ncclSuccess;
}
// Whom a program shall not take for NCCL.
static void introduce(const ncclComm* comm) {
    if (EMULATED || comm->wires.rank != 0) { return; }
    fprintf(stderr, "emulated NCCL: a stand-in that goes through the CPU, %d ranks, ordered by streams\n",
            comm->wires.ranks);
}
static ncclResult_t comm_open(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
    Invitation to;
    memcpy(&to, &id, sizeof to);
    if (!comm) { return refuse(ncclInvalidArgument, "ncclCommInitRank: no place for the communicator"); }
    __atomic_store_n(comm, (ncclComm_t)NULL, __ATOMIC_RELEASE);
    if (ranks < 1 || ranks > MOST_RANKS || rank < 0 || rank >= ranks) {
        return refuse(ncclInvalidArgument, "ncclCommInitRank: rank %d of %d", rank, ranks);
    }
    if (to.magic != WIRE_MAGIC) {
        return refuse(ncclInvalidArgument, "ncclCommInitRank: no unique id of this library");
    }
    if (group_depth) {
        return refuse(ncclInvalidUsage, "ncclCommInitRank in a group: the stand-in has one rank a process");
    }
    int listener = rank == 0 ? listener_take(to.secret) : -1;
    if (rank == 0 && listener < 0) {
        return refuse(ncclInvalidUsage,
                      "ncclCommInitRank: rank 0 is to be the process that called ncclGetUniqueId, and "
                      "an id serves once");
    }
    ncclComm* c = new ncclComm();
    c->wires.rank = rank, c->wires.ranks = ranks;
    CUDA_OR_RETURN(cudaGetDevice(&c->device));
    CUDA_OR_RETURN(cudaEventCreateWithFlags(&c->last, cudaEventDisableTiming));
    {
        std::lock_guard<std::mutex> guard(comms_lock);
        comms.push_back(c);
    }
    __atomic_store_n(comm, c, __ATOMIC_RELEASE);  // so that another thread can abort what waits for the others
    char wrong[512] = "";
    c->running = 1;
    int ok = ranks == 1 || wires_open(&c->wires, &to, listener, EMULATED ? c->device : -1, wrong, sizeof wrong);
    c->running = 0;
    if (listener >= 0) { close(listener); }
    if (ok && !c->wires.abort) {
        introduce(c);
        return ncclSuccess;
    }
    if (c->wires.abort) { return refuse(ncclInternalError, "ncclCommInitRank: aborted"); }
    wires_close(&c->wires);
    c->state = COMM_DESTROYED;
    __atomic_store_n(comm, (ncclComm_t)NULL, __ATOMIC_RELEASE);
    return refuse(strstr(wrong, "finds no rank 0") || strstr(wrong, "gets no") ? ncclSystemError : ncclInvalidUsage,
                  "ncclCommInitRank: %s", wrong);
}
ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
    return comm_open(comm, ranks, id, rank);
}
// blocking = 0 is taken too: then as well it returns when all have met.
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
    if (config && (config->magic != 0xcafebeef || config->size < offsetof(ncclConfig_t, cgaClusterSize) ||
                   (config->blocking != NCCL_CONFIG_UNDEF_INT && (config->blocking < 0 || config->blocking > 1)))) {
        return refuse(ncclInvalidArgument, "ncclCommInitRankConfig: the configuration was not made by "
                                           "NCCL_CONFIG_INITIALIZER, or blocking is neither 0 nor 1");
    }
    return comm_open(comm, ranks, id, rank);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    ncclResult_t result = comm_check("ncclCommFinalize", comm, COMM_OPEN);
    if (result != ncclSuccess) { return result; }
    if (group_depth) { return refuse(ncclInvalidUsage, "ncclCommFinalize in a group"); }
    if (comm->used) { CUDA_OR_RETURN(cudaEventSynchronize(comm->last)); }
    comm->state = COMM_FINALIZED;
    return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    ncclResult_t result = comm_check("ncclCommDestroy", comm, COMM_FINALIZED);
    if (result != ncclSuccess) { return result; }
    if (group_depth) { return refuse(ncclInvalidUsage, "ncclCommDestroy in a group"); }
    if (comm->state == COMM_OPEN && comm->used) { CUDA_OR_RETURN(cudaEventSynchronize(comm->last)); }
    comm->state = COMM_DESTROYED;
    wires_close(&comm->wires);
    comm->old_staging.push_back(comm->staging);
    for (char* p :
         comm->old_staging) {  // a graph that is launched later is found out when it comes to the host function
        if (p && comm->kept.empty()) { CUDA_OR_RETURN(cudaFreeHost(p)); }
    }
    CUDA_OR_RETURN(cudaEventDestroy(comm->last));
    return ncclSuccess;
}
// Calls no CUDA: another thread may wait in it for the very operation that this ends. Its memory stays.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
    const char* hangs = getenv("EMULATE_NCCL_ABORT_HANGS");
    if (hangs && strcmp(hangs, "1") == 0) {
        for (;;) { pause(); }
    }
    ncclResult_t result = comm_check("ncclCommAbort", comm, COMM_FINALIZED);
    if (result != ncclSuccess) { return result; }
    comm->wires.abort = 1;
    comm->state = COMM_ABORTED;
    for (int i = 0; comm->running; i++) { wire_idle(i); }
    wires_close(&comm->wires);
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
    ncclResult_t result = comm_check("ncclCommGetAsyncError", comm, COMM_FINALIZED);
    if (result != ncclSuccess) { return result; }
    int remote = comm->wires.remote;
    *error = remote ? ncclRemoteError : ncclSuccess;
    if (remote) {
        const Identity* who = &comm->wires.who[(size_t)remote - 1];
        refuse(ncclRemoteError, "rank %d (process %d of %s) closed its connection to rank %d in the middle of a call",
               who->rank, who->pid, who->host, comm->wires.rank);
    }
    return ncclSuccess;
}
ncclResult_t ncclCommCount(const ncclComm_t comm, int* ranks) {
    ncclResult_t result = comm_check("ncclCommCount", comm, COMM_FINALIZED);
    if (result == ncclSuccess) { *ranks = comm->wires.ranks; }
    return result;
}
ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int* device) {
    ncclResult_t result = comm_check("ncclCommCuDevice", comm, COMM_FINALIZED);
    if (result == ncclSuccess) { *device = comm->device; }
    return result;
}
ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
    ncclResult_t result = comm_check("ncclCommUserRank", comm, COMM_FINALIZED);
    if (result == ncclSuccess) { *rank = comm->wires.rank; }
    return result;
}

ncclResult_t ncclGetVersion(int* version) {
    if (!version) { return refuse(ncclInvalidArgument, "ncclGetVersion: no place for the version"); }
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
    switch (result) {
        case ncclSuccess: return "no error";
        case ncclUnhandledCudaError: return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
        case ncclSystemError: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
        case ncclInternalError: return "internal error - please report this issue to the NCCL developers";
        case ncclInvalidArgument: return "invalid argument (run with NCCL_DEBUG=WARN for details)";
        case ncclInvalidUsage: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
        case ncclRemoteError: return "remote process exited or there was a network error";
        case ncclInProgress: return "NCCL operation in progress";
        default: return "unknown result code";
    }
}
const char* ncclGetLastError(ncclComm_t) {
    static thread_local char text[sizeof error_text];
    std::lock_guard<std::mutex> guard(error_lock);
    memcpy(text, error_text, sizeof text);
    return text;
}

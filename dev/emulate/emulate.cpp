// emulate.cpp - the emulator: fibres, blocks, device memory, streams, graphs, cuBLASLt. See emulate.h, and the README for
// what it buys: without a GPU all kernels are judged on every change; of 201 deliberate errors that changed a result it
// missed none.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../../common/matmul.h"

#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <mutex>
#include <vector>

#include "cublasLt.h"
#include "emulate_ptx.h"
#include "emulate_wgmma.h"

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#if __has_feature(memory_sanitizer)
#include <sanitizer/msan_interface.h>
#define POISON(p, n) __msan_poison(p, n)
#endif
#endif
#ifdef WITH_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifndef POISON
#define POISON(p, n) ((void)0)
#endif

enum {
    MOST_THREADS = 1024,            // of a block
    MOST_SHARED = 99 << 10,         // bytes a block may have on sm_86, and
    MOST_SHARED_90 = 227 << 10,     // on sm_90
    MOST_STATIC_SHARED = 48 << 10,  // of them without asking
    STACK_BYTES = 256 << 10,
    STACK_SPREAD = 16 << 10,  // of them left out at most
    STACK_END = 64,           // bytes at a stack's lower end that nobody may write
    MEET_BYTES = 64
};

__thread EmulateThread* emulate_thread;
__thread EmulateWho* emulate_who;

static long long emulate_number(const char* name, long long otherwise) {
    const char* text = getenv(name);
    return text && text[0] ? (long long)strtod(text, NULL) : otherwise;
}
static int emulate_sm(void) { return (int)emulate_number("EMULATE_SM", 86); }
static size_t most_shared(void) { return emulate_sm() == 90 ? MOST_SHARED_90 : MOST_SHARED; }
static int emulate_late(void) {
    static int late = -1;
    if (late < 0) {
        const char* text = getenv("EMULATE_ASYNC");
        late = text && strcmp(text, "late") == 0;
    }
    return late;
}

// ------------------------------------------------------------------------------------------------
// Fibres

enum { FIBRE_READY, FIBRE_AT_BARRIER, FIBRE_IN_WARP, FIBRE_DONE };

struct EmulateCopy {
    void* shared;
    const void* global;
    int valid, group;
    const void* code;  // of the copy, for reports
};
struct Product {
    EmulateProduct is;
    std::vector<float> before;  // the accumulators, with the first product that has them; late mode
};
struct Fibre {
    void* sp;
    char* stack;
    int state;
    const char* what;  // where it waits
    const char* file;
    int line;
    EmulateThread thread;
    EmulateWho who;
    std::vector<EmulateCopy> copies;
    int groups;  // committed
    std::vector<Product> products;
    int product_groups;
    int touched, copied;  // waited for products, for copies, without a fence since
    void* fake_stack;
};
struct Warp {
    int arrived;
    unsigned generation;
    const char *what, *file;
    int line;
    alignas(16) unsigned char data[2][32][MEET_BYTES];
};
struct SharedArray {
    const char* file;
    int line;
    void* p;
    size_t bytes;
};
// What one thread of the machine needs to run a block.
struct Worker {
    std::vector<Fibre> fibre;
    std::vector<Warp> warp;
    std::vector<SharedArray> shared;
    size_t shared_bytes, shared_static;
    const char* kernel;
    const std::function<void()>* body;
    unsigned threads, at_barrier, done, barriers;
    const char* barrier_file;
    int barrier_line;
    Fibre* now;
    Fibre** turn;          // the lanes of the warp at work, in the order in which they run
    unsigned lanes, lane;  // how many; whose turn it is
    void* scheduler_sp;
    const void* own_stack;
    size_t own_stack_bytes;
};
static __thread Worker* worker;

// While one lives, the race detector sees no accesses: what the emulator reads and writes is nobody's.
struct Own {
    EmulateWho* who;
    Own() : who(emulate_who) { emulate_who = NULL; }
    ~Own() { emulate_who = who; }
};

static void thread_name(char text[96], const Fibre* f) {
    const EmulateThread* t = &f->thread;
    snprintf(text, 96, "block (%u,%u,%u), thread (%u,%u,%u)", t->block_index.x, t->block_index.y, t->block_index.z,
             t->thread_index.x, t->thread_index.y, t->thread_index.z);
}

__attribute__((format(printf, 1, 2), noreturn)) static void fault(const char* format, ...) {
    static int told;
    if (__atomic_exchange_n(&told, 1, __ATOMIC_SEQ_CST) == 0) {
        char text[2048], where[96] = "";
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        fflush(stdout);
        if (worker && worker->now) {
            thread_name(where, worker->now);
            fprintf(stderr, "emulator: kernel %s, %s: %s\n", worker->kernel, where, text);
        } else {
            fprintf(stderr, "emulator: %s\n", text);
        }
        fflush(stderr);
        _exit(1);
    }
    for (;;) { pause(); }  // another thread is on its way out
}

#if defined(__x86_64__)
// Saves what a call must preserve on this stack and goes on on the other.
extern "C" void emulate_switch(void** save, void* to);
__asm__(".text\n"
        ".globl emulate_switch\n"
        ".type emulate_switch,@function\n"
        "emulate_switch:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n"
        ".size emulate_switch,.-emulate_switch\n");
static void* fibre_begin_sp(char* stack, unsigned which, void (*entry)(void)) {
    // Stacks begin in different cache lines: at the same place of each, a few lines would have to hold all.
    void** sp = (void**)(stack + STACK_BYTES - which * 832 % STACK_SPREAD);
    *--sp = NULL;          // where entry would return to
    *--sp = (void*)entry;  // where the switch returns to; the stack is then as after a call
    for (int i = 0; i < 6; i++) { *--sp = NULL; }
    return sp;
}
#else
#include <ucontext.h>
static void emulate_switch(void** save, void* to) {
    ucontext_t* mine = (ucontext_t*)malloc(sizeof(ucontext_t));
    *save = mine;
    swapcontext(mine, (ucontext_t*)to);
    free(mine);
}
static void* fibre_begin_sp(char* stack, unsigned, void (*entry)(void)) {
    ucontext_t* context = (ucontext_t*)stack;  // its lower end is never reached
    getcontext(context);
    context->uc_stack.ss_sp = stack + sizeof(ucontext_t);
    context->uc_stack.ss_size = STACK_BYTES - sizeof(ucontext_t);
    context->uc_link = NULL;
    makecontext(context, entry, 0);
    return context;
}
#endif

// The next lane of the warp that can run, after the one whose turn it was; NULL if none can.
static Fibre* fibre_next(Worker* w) {
    for (unsigned tried = 0; tried < w->lanes; tried++) {
        w->lane = w->lane + 1 < w->lanes ? w->lane + 1 : 0;
        if (w->turn[w->lane]->state == FIBRE_READY) { return w->turn[w->lane]; }
    }
    return NULL;
}
static void fibre_is_now(Worker* w, Fibre* f) {
    w->now = f;
    emulate_thread = &f->thread;
    if (emulate_race_local) { emulate_race_local(f->stack, f->stack + STACK_BYTES); }
}

// From the running fibre to the next lane of its warp, or to the scheduler if there is none; returns when it runs again.
// Straight to the next lane and not by way of the scheduler: that is half the switches, and their returns are predicted,
// since lanes mostly wait in the same place.
static void fibre_yield(int final) {
    Worker* w = worker;
    Fibre* f = w->now;
    emulate_who = NULL;
    (void) final;
#ifdef WITH_ASAN
    __sanitizer_start_switch_fiber(final ? NULL : &f->fake_stack, w->own_stack, w->own_stack_bytes);
    emulate_switch(&f->sp, w->scheduler_sp);
    __sanitizer_finish_switch_fiber(f->fake_stack, NULL, NULL);
#else
    Fibre* next = fibre_next(w);
    if (next == f) { return; }
    if (next) {
        fibre_is_now(w, next);
        emulate_who = &next->who;
        // Where the lane after that goes on: every stack has lines and a page of its own, and waiting for them was half
        // of a switch.
        const Fibre* later = w->turn[w->lane + 2 < w->lanes ? w->lane + 2 : 0];
        __builtin_prefetch(later->sp);
        __builtin_prefetch((const char*)later->sp + 64);
        __builtin_prefetch((const char*)later->sp + 128);
        __builtin_prefetch((const char*)later->sp + 192);
    }
    emulate_switch(&f->sp, next ? next->sp : w->scheduler_sp);
#endif
}

// From the scheduler to a fibre; returns when a fibre finds no other lane that can run.
static void fibre_resume(Worker* w, Fibre* f) {
    fibre_is_now(w, f);
    emulate_who = &f->who;
#ifdef WITH_ASAN
    void* fake = NULL;
    __sanitizer_start_switch_fiber(&fake, f->stack, STACK_BYTES);
#endif
    emulate_switch(&w->scheduler_sp, f->sp);
#ifdef WITH_ASAN
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
    w->now = NULL;
    emulate_who = NULL;
}

// Apart from fibre_main, which never returns: what lies around a vector's iterators on its stack would stay poisoned.
__attribute__((noinline)) static size_t products_left(const Fibre* f) { return f->products.size(); }

static void fibre_main(void) {
    Worker* w = worker;
    Fibre* f = w->now;
#ifdef WITH_ASAN
    __sanitizer_finish_switch_fiber(NULL, &w->own_stack, &w->own_stack_bytes);
#endif
    (*w->body)();
    if (products_left(f) > 0) { fault("leaves the kernel while wgmma is at work"); }
    if (w->at_barrier) {
        fault("leaves the kernel while %u threads of its block wait at the barrier in %s:%d", w->at_barrier,
              w->barrier_file, w->barrier_line);
    }
    f->state = FIBRE_DONE;
    w->done++;
    fibre_yield(1);
    abort();
}

// A name of a file or an instruction is most often the same string, not only the same text.
static int same_text(const char* a, const char* b) { return a == b || strcmp(a, b) == 0; }

void emulate_syncthreads(const char* file, int line) {
    Own own;
    Worker* w = worker;
    Fibre* f = w->now;
    if (w->done) {
        fault("waits at the barrier in %s:%d, but %u threads of its block have left the kernel", file, line, w->done);
    }
    if (w->at_barrier && (line != w->barrier_line || !same_text(file, w->barrier_file))) {
        fault("divergent barrier: it waits in %s:%d, others of its block in %s:%d", file, line, w->barrier_file,
              w->barrier_line);
    }
    w->barrier_file = file, w->barrier_line = line;
    if (++w->at_barrier == w->threads) {
        w->at_barrier = 0;
        w->barriers++;
        for (unsigned i = 0; i < w->threads; i++) {
            w->fibre[i].state = FIBRE_READY;
            w->fibre[i].who.barrier = w->barriers;
        }
        return;
    }
    f->state = FIBRE_AT_BARRIER;
    f->what = "a barrier", f->file = file, f->line = line;
    fibre_yield(0);
}

const unsigned char* emulate_meet(const char* what, const char* file, int line, unsigned mask, const void* mine,
                                  size_t bytes, void (*last)(unsigned char* all)) {
    Own own;
    Worker* w = worker;
    Fibre* f = w->now;
    unsigned lane = f->thread.linear % 32;
    Warp* warp = &w->warp[f->thread.linear / 32];
    if (f->thread.linear / 32 * 32 + 32 > w->threads) {
        fault("%s in %s:%d by a warp of %u lanes", what, file, line, w->threads % 32);
    }
    if (mask != 0xffffffffu) {
        fault("%s in %s:%d with mask %08x; the emulator knows whole warps only", what, file, line, mask);
    }
    if (bytes > MEET_BYTES) { fault("%s in %s:%d exchanges %zu bytes a lane", what, file, line, bytes); }
    if (warp->arrived && (line != warp->line || !same_text(file, warp->file) || !same_text(what, warp->what))) {
        fault("divergent warp: it is at %s in %s:%d, other lanes at %s in %s:%d", what, file, line, warp->what,
              warp->file, warp->line);
    }
    warp->what = what, warp->file = file, warp->line = line;
    unsigned generation = warp->generation;
    unsigned char* data = &warp->data[generation % 2][0][0];
    if (bytes == 4) {  // as most often, and then no call
        memcpy(data + MEET_BYTES * lane, mine, 4);
    } else if (bytes) {
        memcpy(data + MEET_BYTES * lane, mine, bytes);
    }
    if (++warp->arrived == 32) {
        warp->arrived = 0;
        warp->generation++;
        if (last) { last(data); }
        // Lanes wait for each other in a shuffle too, but only __syncwarp orders their accesses to memory.
        unsigned first = f->thread.linear - lane, orders = strcmp(what, "__syncwarp") == 0;
        for (unsigned i = first; i < first + 32; i++) {
            w->fibre[i].state = FIBRE_READY;
            w->fibre[i].who.warp_barrier += orders;
        }
        return data;
    }
    f->state = FIBRE_IN_WARP;
    f->what = what, f->file = file, f->line = line;
    fibre_yield(0);
    return data;
}

// ---- shared memory ----

static void* shared_new(Worker* w, const char* file, int line, size_t bytes) {
    SharedArray s = {file, line, NULL, bytes};
    if (posix_memalign(&s.p, 1024, bytes ? bytes : 1) != 0) { fault("no memory for the emulator's shared memory"); }
    memset(s.p, 0xff, bytes);
    POISON(s.p, bytes);
    if (emulate_race_forget) { emulate_race_forget(s.p, bytes); }
    w->shared.push_back(s);
    w->shared_bytes += bytes;
    if (w->shared_bytes > most_shared()) {
        fault("%zu bytes of shared memory; a block of sm_%d has at most %zu", w->shared_bytes, emulate_sm(),
              most_shared());
    }
    return s.p;
}
void* emulate_shared(const char* file, int line, size_t bytes) {
    Own own;
    Worker* w = worker;
    for (const SharedArray& s : w->shared) {
        if (s.line == line && s.file && same_text(s.file, file)) {
            if (s.bytes != bytes) { fault("a shared array of two sizes in %s:%d", file, line); }
            return s.p;
        }
    }
    w->shared_static += bytes;
    if (w->shared_static > MOST_STATIC_SHARED) {
        fault("%zu bytes of static shared memory, at most %d are allowed", w->shared_static, MOST_STATIC_SHARED);
    }
    return shared_new(w, file, line, bytes);
}
void* emulate_shared_dynamic(void) {
    Own own;
    for (const SharedArray& s : worker->shared) {
        if (!s.file) { return s.p; }
    }
    fault("dynamic shared memory, but the launch gave none");
}
// Memory that an instruction reads or writes without the compiler's knowledge.
void emulate_touch(const char* what, const void* p, size_t bytes, size_t aligned, int kind, const void* code) {
    if ((uintptr_t)p % aligned != 0) { fault("%s: address %p is not aligned to %zu bytes", what, p, aligned); }
    int inside = 0;
    for (const SharedArray& s : worker->shared) {
        inside |= (const char*)p >= (char*)s.p && (const char*)p + bytes <= (char*)s.p + s.bytes;
    }
    if (!inside) { fault("%s: %p is not in the shared memory of the block", what, p); }
    if (emulate_race_at) { emulate_race_at(p, bytes, kind, code); }
}

// ---- matrices of a warp ----

// The product of all lanes' fragments, by the lane that comes last: once for the warp, and with vectors. If each lane finds its own
// four sums, that is a third of a model's test in bf16. The sums come behind the fragments. Laid out as the PTX manual has it.
enum { MMA_FRAGMENTS = 6 * sizeof(uint32_t) };
typedef float EightFloats __attribute__((vector_size(32)));
static void mma_of_warp(unsigned char* all) {
    static_assert(MMA_FRAGMENTS + 4 * sizeof(float) <= MEET_BYTES, "a lane's fragments and sums");
    float a[16][16], b[16][8], d[16][8];
    for (size_t lane = 0; lane < 32; lane++) {
        // Rows, or b's columns, g and g + 8; numbers t and t + 1 along k, and those 8 further on.
        const size_t g = lane / 4, t = lane % 4 * 2;
        uint32_t word[6];
        memcpy(word, all + MEET_BYTES * lane, sizeof word);
        for (int half = 0; half < 2; half++) {
            for (size_t r = 0; r < 4; r++) {
                a[g + r % 2 * 8][t + r / 2 * 8 + (size_t)half] = emulate_half(word[r], half);
            }
            for (size_t r = 0; r < 2; r++) { b[t + r * 8 + (size_t)half][g] = emulate_half(word[4 + r], half); }
        }
    }
    for (size_t row = 0; row < 16; row++) {
        EightFloats sum = {0};
        for (size_t k = 0; k < 16; k++) {
            EightFloats of_k;
            memcpy(&of_k, b[k], sizeof of_k);
            sum += a[row][k] * of_k;
        }
        memcpy(d[row], &sum, sizeof sum);
    }
    for (size_t lane = 0; lane < 32; lane++) {
        unsigned char* own = all + MEET_BYTES * lane + MMA_FRAGMENTS;
        memcpy(own, &d[lane / 4][lane % 4 * 2], 8);
        memcpy(own + 8, &d[lane / 4 + 8][lane % 4 * 2], 8);
    }
}
void emulate_mma_bf16(const char* file, int line, float d[4], const uint32_t a[4], const uint32_t b[2]) {
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const unsigned char* all = emulate_meet("mma_bf16", file, line, 0xffffffffu, mine, sizeof mine, mma_of_warp);
    float sum[4];
    memcpy(sum, all + MEET_BYTES * EMULATE_LANE + MMA_FRAGMENTS, sizeof sum);
    for (int i = 0; i < 4; i++) { d[i] += sum[i]; }
}

// An ldmatrix reads its matrices one after the other, the 8 rows of one at once: 128 bytes from 32 banks of 4 bytes, if
// no two rows lie in the same banks. Two that do, at different addresses, cost as much as another read. That
// changes no result, so it can be allowed: EMULATE_BANKS=any. Lane l's address stands at all[64 l + at].
static void check_banks(const char* what, const char* file, int line, const unsigned char* all, size_t at) {
    static const int allowed = [] {
        const char* text = getenv("EMULATE_BANKS");
        return text && strcmp(text, "any") == 0;
    }();
    if (allowed || worker->now->thread.linear % 32 != 0) { return; }  // lane 0 looks at all
    uintptr_t row[32];
    for (int i = 0; i < 32; i++) { memcpy(&row[i], all + MEET_BYTES * i + at, sizeof row[i]); }
    for (int i = 0; i < 32; i++) {
        for (int k = i / 8 * 8; k < i; k++) {
            if (row[k] != row[i] && row[k] / 16 % 8 == row[i] / 16 % 8) {
                fault("%s in %s:%d: bank conflict, rows %d and %d of matrix %d are %lld bytes apart", what, file, line,
                      k % 8, i % 8, i / 8, (long long)(row[i] - row[k]));
            }
        }
    }
}

void emulate_ldmatrix(const char* file, int line, uint32_t r[4], const void* row, int transposed) {
    emulate_touch("ldmatrix", row, 16, 16, EMULATE_READS, __builtin_return_address(0));
    const char* what = transposed ? "ldmatrix_x4_trans" : "ldmatrix_x4";
    unsigned char mine[16 + sizeof row];
    memcpy(mine, row, 16);
    memcpy(mine + 16, &row, sizeof row);
    const unsigned char* all = emulate_meet(what, file, line, 0xffffffffu, mine, sizeof mine);
    check_banks(what, file, line, all, 16);
    const int g = EMULATE_LANE / 4, t = EMULATE_LANE % 4 * 2;
    for (int i = 0; i < 4; i++) {
        const unsigned char* matrix = all + MEET_BYTES * 8 * i;
        uint16_t half[2];
        for (int k = 0; k < 2; k++) {
            memcpy(&half[k], transposed ? matrix + MEET_BYTES * (t + k) + 2 * g : matrix + MEET_BYTES * g + 2 * (t + k),
                   2);
        }
        r[i] = (uint32_t)half[0] | (uint32_t)half[1] << 16;
    }
}

// ---- cp.async ----

static void copy_now(const EmulateCopy& c) {
    if (c.valid > 0) { memcpy(c.shared, c.global, (size_t)c.valid); }
    memset((char*)c.shared + c.valid, 0, (size_t)(16 - c.valid));
}
void emulate_cp_async(void* shared, const void* global, int valid) {
    if (valid < 0 || valid > 16) { fault("cp.async of %d bytes", valid); }
    if ((uintptr_t)global % 16 != 0) { fault("cp.async: address %p is not aligned to 16 bytes", global); }
    const void* code = __builtin_return_address(0);
    emulate_touch("cp.async", shared, 16, 16, EMULATE_COPY_BEGINS, code);
    if (valid > 0) {
        emulate_check_device("cp.async", global, (size_t)valid);
        if (emulate_race_at) { emulate_race_at(global, (size_t)valid, EMULATE_READS, code); }
    }
    Own own;
    Fibre* f = worker->now;
    EmulateCopy c = {shared, global, valid, f->groups, code};
    // In the late mode the target is worthless until the wait.
    if (emulate_late()) {
        memset(shared, 0xff, 16);
        POISON(shared, 16);
    } else {
        copy_now(c);
    }
    f->copies.push_back(c);
}
void emulate_cp_async_commit(void) { worker->now->groups++; }
void emulate_cp_async_wait(int pending) {
    Fibre* f = worker->now;
    f->copied = 1;
    size_t kept = 0;
    for (size_t i = 0; i < f->copies.size(); i++) {
        const EmulateCopy& c = f->copies[i];
        if (c.group < f->groups - pending) {
            if (emulate_race_at) { emulate_race_at(c.shared, 16, EMULATE_COPY_ENDS, c.code); }
            Own own;
            if (emulate_late()) { copy_now(c); }
        } else {
            f->copies[kept++] = c;
        }
    }
    f->copies.resize(kept);
}

// ---- warpgroup products ----

// A matrix as its descriptor says, see wgmma_matrix: byte `at` of the first row it would have without swizzle, row by row. 16 bytes
// from a multiple of 16 on stay together.
static const unsigned char* product_byte(const void* shared, uint64_t matrix, size_t at) {
    at += (size_t)(matrix & 0x3fff) << 4;
    return (const unsigned char*)shared + (at ^ (at >> 7 & 7) << 4);
}
static size_t product_panel(uint64_t matrix) { return (size_t)(matrix >> 16 & 0x3fff) << 4; }
static size_t product_eight(uint64_t matrix) { return (size_t)(matrix >> 32 & 0x3fff) << 4; }
// Number k of row r of a matrix that is summed along its rows; number n of row k of one that is summed over its rows.
static const unsigned char* product_along(const void* shared, uint64_t m, size_t r, size_t k) {
    return product_byte(shared, m, r / 8 * product_eight(m) + r % 8 * 128 + 2 * k);
}
static const unsigned char* product_over(const void* shared, uint64_t m, size_t k, size_t n) {
    return product_byte(shared, m, n / 64 * product_panel(m) + k / 8 * product_eight(m) + k % 8 * 128 + n % 64 * 2);
}

// A lane's share of what the warp reads, 16 bytes at a time.
static void product_touch(const EmulateProduct& p) {
    const void* shared = emulate_shared_dynamic();
    const size_t lane = (size_t)EMULATE_LANE, first = (size_t)p.row / 16 * 16;
    for (size_t i = lane; i < (p.from_registers ? 0 : 32); i += 32) {
        emulate_touch("wgmma", product_along(shared, p.a, first + i / 2, i % 2 * 8), 16, 16, EMULATE_READS, p.code);
    }
    for (size_t i = lane; i < 2 * (size_t)p.columns; i += 32) {
        const unsigned char* at = p.from_registers ? product_over(shared, p.b, i % 16, i / 16 * 8)
                                                   : product_along(shared, p.b, i / 2, i % 2 * 8);
        emulate_touch("wgmma", at, 16, 16, EMULATE_READS, p.code);
    }
}
enum { PRODUCT_COLUMNS = 256 };  // at most
// Eight numbers, 16 bytes.
static void product_eight_numbers(float to[8], const unsigned char* from) {
    uint16_t half[8];
    memcpy(half, from, sizeof half);
    for (int i = 0; i < 8; i++) { to[i] = __uint_as_float((uint32_t)half[i] << 16); }
}
static void product_now(const EmulateProduct& p) {
    enum { MOST = PRODUCT_COLUMNS / 4 };  // columns of a lane: 2 place and 2 place + 1 of every 8
    const void* shared = emulate_shared_dynamic();
    const size_t columns = (size_t)p.columns / 4, place = 2 * (size_t)p.place;
    float a[2][16], b[16][MOST], number[16];
    for (size_t i = 0; i < 2; i++) {
        for (size_t k = 0; k < 16; k++) { a[i][k] = __uint_as_float((uint32_t)p.left[i][k] << 16); }
        for (size_t k = 0; k < 16 && !p.from_registers; k += 8) {
            product_eight_numbers(a[i] + k, product_along(shared, p.a, (size_t)p.row + 8 * i, k));
        }
    }
    for (size_t x = 0; x < columns && !p.from_registers; x++) {
        for (size_t k = 0; k < 16; k += 8) {
            product_eight_numbers(number + k, product_along(shared, p.b, x / 2 * 8 + place + x % 2, k));
        }
        for (size_t k = 0; k < 16; k++) { b[k][x] = number[k]; }
    }
    for (size_t x = 0; x < columns && p.from_registers; x += 2) {
        for (size_t k = 0; k < 16; k++) {
            product_eight_numbers(number, product_over(shared, p.b, k, x / 2 * 8));
            b[k][x] = number[place], b[k][x + 1] = number[place + 1];
        }
    }
    for (size_t i = 0; i < 2; i++) {
        float sum[MOST] = {0};
        for (size_t k = 0; k < 16; k++) {
            for (size_t x = 0; x < columns; x++) { sum[x] += a[i][k] * b[k][x]; }
        }
        for (size_t x = 0; x < columns; x++) {
            float* d = p.d + x / 2 * 4 + 2 * i + x % 2;
            *d = p.add ? *d + sum[x] : sum[x];
        }
    }
}
void emulate_product(const EmulateProduct& product) {
    Worker* w = worker;
    Fibre* f = w->now;
    if (product.columns > PRODUCT_COLUMNS) { fault("wgmma of %d columns", product.columns); }
    if (w->threads % 128 != 0) { fault("wgmma by a block of %u threads, no whole warpgroups", w->threads); }
    if (f->touched) { fault("wgmma without wgmma_fence since the last wait"); }
    if (f->copied) { fault("wgmma without wgmma_fence_shared since the last wait for copies"); }
    if (product.b >> 62 != 1 || (!product.from_registers && product.a >> 62 != 1)) { fault("wgmma: no descriptor"); }
    product_touch(product);
    Own own;
    Product queued = {product, {}};
    queued.is.group = f->product_groups;
    if (emulate_late()) {
        int known = 0;
        for (const Product& p : f->products) { known |= p.is.d == product.d; }
        if (!known) {
            queued.before.assign(product.d, product.d + product.columns / 2);
            memset(product.d, 0xff, (size_t)product.columns * 2);
        }
    } else {
        product_now(product);
    }
    f->products.push_back(queued);
}
void emulate_wgmma_fence(void) { worker->now->touched = 0; }
void emulate_wgmma_fence_shared(void) { worker->now->copied = 0; }
void emulate_wgmma_commit(void) { worker->now->product_groups++; }
void emulate_wgmma_wait(int pending) {
    Fibre* f = worker->now;
    f->touched = 1;
    for (const Product& p : f->products) {
        if (p.is.group < f->product_groups - pending) { product_touch(p.is); }
    }
    Own own;
    std::vector<Product> kept;
    for (Product& p : f->products) {
        if (p.is.group >= f->product_groups - pending) {
            // The first that is left of some accumulators keeps what they hold, as they are not to be read yet.
            int known = 0;
            for (const Product& k : kept) { known |= k.is.d == p.is.d; }
            if (emulate_late() && !known && p.before.empty()) {
                p.before.assign(p.is.d, p.is.d + p.is.columns / 2);
                memset(p.is.d, 0xff, (size_t)p.is.columns * 2);
            }
            kept.push_back(p);
            continue;
        }
        if (!emulate_late()) { continue; }
        for (size_t i = 0; i < p.before.size(); i++) {
            if (__float_as_uint(p.is.d[i]) != 0xffffffffu) {
                fault("accumulators were changed while wgmma was at work");
            }
            p.is.d[i] = p.before[i];
        }
        product_now(p.is);
    }
    f->products.swap(kept);
}

// ---- blocks ----

static uint64_t mix_bits(uint64_t x) {
    x ^= x >> 31;
    x *= 0x9e3779b97f4a7c15u;
    x ^= x >> 29;
    x *= 0xd1342543de82ef95u;
    return x ^ x >> 32;
}
// The i-th of n in an order that the seed decides: an affine permutation.
struct Order {
    uint64_t n, step, first;
    Order(uint64_t n_, uint64_t key) : n(n_), step(1), first(0) {
        static const long long seed = emulate_number("EMULATE_SEED", 0);
        if (seed == 0 || n < 2) { return; }
        uint64_t bits = mix_bits(key * 1000003u + (uint64_t)seed);
        first = bits % n;
        for (step = (bits >> 20) % n | 1;; step++) {
            uint64_t a = step % n, b = n;
            while (a) {
                uint64_t c = b % a;
                b = a, a = c;
            }
            if (b == 1) { break; }
        }
    }
    uint64_t operator[](uint64_t i) const {
        if (step == 1 && first == 0) { return i; }
        return n >> 31 ? (uint64_t)(((unsigned __int128)i * step + first) % n) : (i * step + first) % n;
    }
};

static void run_block(const char* name, dim3 grid, dim3 block, size_t shared, const std::function<void()>& body,
                      uint64_t which, int64_t launch) {
    if (!worker) { worker = new Worker(); }
    Worker* w = worker;
    unsigned threads = block.x * block.y * block.z, warps = (threads + 31) / 32;
    while (w->fibre.size() < threads) {
        Fibre f = Fibre();
        f.stack =
            (char*)mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (f.stack == MAP_FAILED) { fault("no memory for %u stacks of %d bytes", threads, STACK_BYTES); }
        memset(f.stack, 0x5a, STACK_END);
        w->fibre.push_back(f);
    }
    if (w->warp.size() < warps) { w->warp.resize(warps); }
    w->kernel = name;
    w->body = &body;
    w->threads = threads;
    w->at_barrier = w->done = w->barriers = 0;
    w->shared_bytes = w->shared_static = 0;
    if (shared) { shared_new(w, NULL, 0, shared); }
    for (unsigned i = 0; i < warps; i++) { w->warp[i].arrived = 0, w->warp[i].generation = 0; }
    for (unsigned i = 0; i < threads; i++) {
        Fibre* f = &w->fibre[i];
        f->state = FIBRE_READY;
        f->groups = 0;
        f->copies.clear();
        f->products.clear();
        f->product_groups = f->copied = 0;
        f->touched = 1;
        f->fake_stack = NULL;
        f->thread.thread_index = uint3{i % block.x, i / block.x % block.y, i / block.x / block.y};
        f->thread.block_index =
            uint3{(unsigned)(which % grid.x), (unsigned)(which / grid.x % grid.y), (unsigned)(which / grid.x / grid.y)};
        f->thread.block_dim = block, f->thread.grid_dim = grid;
        f->thread.linear = i;
        f->who = EmulateWho{launch, (uint32_t)which, i, 0, 0, name, block.x, block.y};
        f->sp = fibre_begin_sp(f->stack, i, fibre_main);
    }
    for (uint64_t round = 0; w->done < threads; round++) {
        int moved = 0;
        Order warp_order(warps, (uint64_t)launch * 7919 + which * 31 + round);
        for (unsigned a = 0; a < warps; a++) {
            unsigned first = (unsigned)warp_order[a] * 32, lanes = threads - first < 32 ? threads - first : 32;
            Order lane_order(lanes, (uint64_t)launch * 104729 + which * 37 + round * 3 + first);
            Fibre* turn[32];
            for (unsigned b = 0; b < lanes; b++) { turn[b] = &w->fibre[first + (unsigned)lane_order[b]]; }
            w->turn = turn, w->lanes = lanes, w->lane = lanes - 1;
            for (Fibre* f; (f = fibre_next(w));) {
                fibre_resume(w, f);
                moved = 1;
            }
        }
        if (!moved) {
            char text[2][96];
            Fibre* shown[2] = {NULL, NULL};
            for (unsigned i = 0; i < threads; i++) {
                Fibre* f = &w->fibre[i];
                if (f->state == FIBRE_DONE) { continue; }
                if (!shown[0]) { shown[0] = f; }
                if (f->line != shown[0]->line || f->what != shown[0]->what) { shown[1] = f; }
            }
            thread_name(text[0], shown[0]);
            if (shown[1]) {
                thread_name(text[1], shown[1]);
                fault("kernel %s hangs: %s waits at %s in %s:%d, %s at %s in %s:%d", name, text[0], shown[0]->what,
                      shown[0]->file, shown[0]->line, text[1], shown[1]->what, shown[1]->file, shown[1]->line);
            }
            fault("kernel %s hangs: %s waits at %s in %s:%d for threads that have left", name, text[0], shown[0]->what,
                  shown[0]->file, shown[0]->line);
        }
    }
    for (const SharedArray& s : w->shared) { free(s.p); }
    w->shared.clear();
}

// Whether this thread's fibres stayed within their stacks.
static void check_stacks(const char* name, uint64_t threads) {
    if (!worker) { return; }
    for (size_t i = 0; i < worker->fibre.size() && i < threads; i++) {
        const Fibre& f = worker->fibre[i];
        int whole = 1;
        for (int k = 0; k < STACK_END; k++) { whole &= f.stack[k] == 0x5a; }
        if (!whole) { fault("kernel %s needs more than %d bytes of stack a thread", name, STACK_BYTES - STACK_SPREAD); }
    }
}

void emulate_run(const char* name, dim3 grid, dim3 block, size_t shared, const std::function<void()>& kernel) {
    static int64_t launches;
    int64_t launch = ++launches;
    uint64_t threads = (uint64_t)block.x * block.y * block.z, blocks = (uint64_t)grid.x * grid.y * grid.z;
    if (threads == 0 || threads > MOST_THREADS || block.z > 64) {
        fault("kernel %s is launched with %u x %u x %u threads a block, allowed are 1 to %d", name, block.x, block.y,
              block.z, MOST_THREADS);
    }
    if (blocks == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
        fault("kernel %s is launched with %u x %u x %u blocks", name, grid.x, grid.y, grid.z);
    }
    if (shared > most_shared()) {
        fault("kernel %s is launched with %zu bytes of shared memory; a block of sm_%d has at most %zu", name, shared,
              emulate_sm(), most_shared());
    }
    Order order(blocks, (uint64_t)launch);
#pragma omp parallel if (blocks > 1)
    {
#pragma omp for schedule(dynamic)
        for (uint64_t i = 0; i < blocks; i++) { run_block(name, grid, block, shared, kernel, order[i], launch); }
        check_stacks(name, threads);
    }
}

// ------------------------------------------------------------------------------------------------
// Memory

struct Piece {
    uintptr_t begin;
    size_t bytes;
};
typedef std::vector<Piece> Pieces;  // by address; not a std::map, whose code MSan does not know
static Pieces device_memory, host_memory;
static size_t device_memory_used;
static size_t device_memory_total(void) {
    static const long long total = emulate_number("EMULATE_MEMORY", 8000000000LL);
    return (size_t)total;
}
// What other processes hold of it.
static size_t device_memory_taken(void) {
    static const long long taken = emulate_number("EMULATE_TAKEN", 0);
    return (size_t)taken < device_memory_total() ? (size_t)taken : device_memory_total();
}
static size_t device_memory_free(void) {
    size_t free = device_memory_total() - device_memory_taken();
    return device_memory_used < free ? free - device_memory_used : 0;
}
static std::mutex memory_lock;
static cudaError_t last_error;
static cudaError_t failed(cudaError_t error) {
    if (error != cudaSuccess) { last_error = error; }
    return error;
}

// The first piece that begins after p.
static Pieces::iterator piece_after(Pieces& memory, const void* p) {
    return std::upper_bound(memory.begin(), memory.end(), (uintptr_t)p,
                            [](uintptr_t at, const Piece& piece) { return at < piece.begin; });
}
// Whether [p, p + bytes) lies in one piece of such memory; one place past its end counts for no bytes.
static int lies_in(Pieces& memory, const void* p, size_t bytes) {
    std::lock_guard<std::mutex> guard(memory_lock);
    Pieces::iterator next = piece_after(memory, p);
    if (next == memory.begin()) { return 0; }
    --next;
    size_t offset = (uintptr_t)p - next->begin;
    return offset <= next->bytes && bytes <= next->bytes - offset;
}
// Takes the piece that begins at p off the list and returns its bytes, or -1 if there is none.
static long long forget_piece(Pieces& memory, const void* p) {
    std::lock_guard<std::mutex> guard(memory_lock);
    Pieces::iterator next = piece_after(memory, p);
    if (next == memory.begin() || (--next)->begin != (uintptr_t)p) { return -1; }
    long long bytes = (long long)next->bytes;
    memory.erase(next);
    return bytes;
}
void emulate_check_device(const char* what, const void* p, size_t bytes) {
    if (!lies_in(device_memory, p, bytes) && !lies_in(host_memory, p, bytes)) {
        fault("%s: %zu bytes at %p do not lie in device memory", what, bytes, p);
    }
}

static cudaError_t take(Pieces& memory, void** p, size_t bytes) {
    if (posix_memalign(p, 256, bytes ? bytes : 1) != 0) { return failed(cudaErrorMemoryAllocation); }
    memset(*p, 0xff, bytes);
    POISON(*p, bytes);
    if (emulate_race_forget) { emulate_race_forget(*p, bytes); }
    std::lock_guard<std::mutex> guard(memory_lock);
    memory.insert(piece_after(memory, *p), Piece{(uintptr_t)*p, bytes});
    return cudaSuccess;
}
cudaError_t emulate_malloc(void** p, size_t bytes) {
    if (bytes == 0) {
        *p = NULL;
        return cudaSuccess;
    }
    if (bytes > device_memory_free()) { return failed(cudaErrorMemoryAllocation); }
    cudaError_t error = take(device_memory, p, bytes);
    if (error == cudaSuccess) { device_memory_used += bytes; }
    return error;
}
cudaError_t emulate_malloc_host(void** p, size_t bytes) { return take(host_memory, p, bytes); }
cudaError_t cudaFree(void* p) {
    cudaDeviceSynchronize();
    if (!p) { return cudaSuccess; }
    long long bytes = forget_piece(device_memory, p);
    if (bytes < 0) { return failed(cudaErrorInvalidValue); }
    device_memory_used -= (size_t)bytes;
    free(p);
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
    cudaDeviceSynchronize();
    if (forget_piece(host_memory, p) < 0) { return failed(cudaErrorInvalidValue); }
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* unused, size_t* total) {
    *total = device_memory_total();
    *unused = device_memory_free();
    return cudaSuccess;
}

// ------------------------------------------------------------------------------------------------
// Device, errors

const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "cudaSuccess";
        case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
        case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
        case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
        case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
        case cudaErrorNoDevice: return "cudaErrorNoDevice";
        case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
        case cudaErrorNotReady: return "cudaErrorNotReady";
        case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    }
    return "unknown error";
}
const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "no error";
        case cudaErrorInvalidValue: return "invalid argument";
        case cudaErrorMemoryAllocation: return "out of memory";
        case cudaErrorInvalidConfiguration: return "invalid configuration argument";
        case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
        case cudaErrorNoDevice: return "no CUDA-capable device is detected";
        case cudaErrorInvalidDevice: return "invalid device ordinal";
        case cudaErrorNotReady: return "device not ready";
        case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    }
    return "unknown error";
}
cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}
cudaError_t cudaDriverGetVersion(int* version) {
    *version = (int)emulate_number("EMULATE_DRIVER", 12040);
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = 12040;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
    *count = (int)emulate_number("EMULATE_DEVICES", 1);
    if (emulate_number("EMULATE_DRIVER", 12040) < 12000) { return failed(cudaErrorInsufficientDriver); }
    return *count ? cudaSuccess : failed(cudaErrorNoDevice);
}
static int device_now;
cudaError_t cudaGetDevice(int* which) {
    *which = device_now;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int which) {
    if (which < 0 || which >= emulate_number("EMULATE_DEVICES", 1)) { return failed(cudaErrorInvalidDevice); }
    device_now = which;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* prop, int which) {
    if (which < 0 || which >= emulate_number("EMULATE_DEVICES", 1)) { return failed(cudaErrorInvalidDevice); }
    memset(prop, 0, sizeof *prop);
    int sm = emulate_sm();
    snprintf(prop->name, sizeof prop->name, "emulator on the CPU");
    memcpy(prop->uuid.bytes, &which, sizeof which);
    prop->totalGlobalMem = device_memory_total();
    prop->sharedMemPerBlock = MOST_STATIC_SHARED, prop->sharedMemPerBlockOptin = most_shared();
    prop->sharedMemPerMultiprocessor = (size_t)(sm == 80 || sm == 87 ? 164 : sm == 90 ? 228 : 100) << 10;
    prop->multiProcessorCount = 4, prop->major = sm / 10, prop->minor = sm % 10;
    prop->warpSize = 32, prop->maxThreadsPerBlock = MOST_THREADS;
    return cudaSuccess;
}

// ------------------------------------------------------------------------------------------------
// Streams, events, graphs

struct EmulateGraph {
    std::vector<std::function<void()>> work;
};
struct EmulateStream {
    std::deque<std::function<void()>> queue;
    EmulateGraph* capturing;
};
// A wait is for the record that was the last when the wait was put into its stream, so records are numbered.
struct EmulateEvent {
    double seconds;
    long long recorded, done;  // number of the last record; of the last one that its stream has reached
    EmulateStream* stream;     // of the last record
};
static std::vector<EmulateStream*> streams;
static __thread int in_host_function;
static void check_host_function(const char* what) {
    if (in_host_function) { fault("%s in a host function (cudaLaunchHostFunc), which must not call CUDA", what); }
}
static EmulateStream* stream_of(cudaStream_t stream) {
    static EmulateStream none;
    static int known;
    if (!known) { known = 1, streams.push_back(&none); }
    return stream ? stream : &none;
}
static void stream_next(EmulateStream* s) {
    std::function<void()> what = s->queue.front();
    s->queue.pop_front();
    what();
}
static void stream_drain(EmulateStream* s) {
    while (!s->queue.empty()) { stream_next(s); }
}
void emulate_push(cudaStream_t stream, std::function<void()> what) {
    check_host_function("work is put into a stream");
    EmulateStream* s = stream_of(stream);
    if (s->capturing) {
        s->capturing->work.push_back(what);
    } else if (emulate_late() || !s->queue.empty()) {
        s->queue.push_back(what);
    } else {
        what();
    }
}
void emulate_hold(cudaStream_t stream) {
    EmulateStream* s = stream_of(stream);
    if (!s->capturing) {
        s->queue.push_back([]() {});
    }
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
    emulate_push(stream, [=]() {
        in_host_function = 1;
        function(data);
        in_host_function = 0;
    });
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    *stream = new EmulateStream();
    streams.push_back(*stream);
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    check_host_function("cudaStreamSynchronize");
    EmulateStream* s = stream_of(stream);
    if (s->capturing) { return failed(cudaErrorStreamCaptureUnsupported); }
    stream_drain(s);
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    check_host_function("cudaStreamQuery");
    const EmulateStream* s = stream_of(stream);
    if (s->capturing) { return failed(cudaErrorStreamCaptureUnsupported); }
    return s->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    cudaError_t error = cudaStreamSynchronize(stream);
    for (size_t i = 0; i < streams.size(); i++) {
        if (streams[i] == stream) { streams.erase(streams.begin() + (long)i--); }
    }
    delete stream;
    return error;
}
// No stream waits for another one that it was not told to wait for: with a seed the youngest goes first.
cudaError_t cudaDeviceSynchronize(void) {
    check_host_function("cudaDeviceSynchronize or cudaFree");
    static const long long seed = emulate_number("EMULATE_SEED", 0);
    for (size_t i = 0; i < streams.size(); i++) {
        EmulateStream* s = streams[seed ? streams.size() - 1 - i : i];
        if (s->capturing) { return failed(cudaErrorStreamCaptureUnsupported); }
        stream_drain(s);
    }
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
    *event = new EmulateEvent();
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    cudaDeviceSynchronize();
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    long long number = ++event->recorded;
    event->stream = stream_of(stream);
    emulate_push(stream, [event, number]() {
        event->seconds = now_seconds();
        if (event->done < number) { event->done = number; }
    });
    return cudaSuccess;
}
// Does what is before that record of the event, in the stream of the record; work behind it stays late.
static void event_reach(EmulateEvent* event, long long number, EmulateStream* from) {
    while (event->done < number && !from->queue.empty()) { stream_next(from); }
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    long long number = event->recorded;
    EmulateStream* from = event->stream;
    if (number) {
        emulate_push(stream, [event, number, from]() { event_reach(event, number, from); });
    }
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    check_host_function("cudaEventSynchronize");
    event_reach(event, event->recorded, event->stream);
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end) {
    if (!begin->done || begin->done < begin->recorded || !end->done || end->done < end->recorded) {
        return failed(cudaErrorNotReady);
    }
    *ms = (float)(1e3 * (end->seconds - begin->seconds));
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    EmulateStream* s = stream_of(stream);
    if (s->capturing) { return failed(cudaErrorStreamCaptureUnsupported); }
    stream_drain(s);
    s->capturing = new EmulateGraph();
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    *status = stream_of(stream)->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
    static __thread cudaStreamCaptureMode now = cudaStreamCaptureModeGlobal;
    std::swap(*mode, now);
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    EmulateStream* s = stream_of(stream);
    if (!s->capturing) { return failed(cudaErrorInvalidValue); }
    *graph = s->capturing;
    s->capturing = NULL;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
    *exec = new EmulateGraph(*graph);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    std::vector<std::function<void()>> work = exec->work;
    emulate_push(stream, [work]() {
        for (const std::function<void()>& what : work) { what(); }
    });
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return cudaGraphDestroy(exec); }

// Page-locked host memory is read and written when the copy runs, other host memory before this returns.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    if (bytes == 0) { return cudaSuccess; }
    int to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    int from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (to_device) { emulate_check_device("cudaMemcpy to", to, bytes); }
    if (from_device) { emulate_check_device("cudaMemcpy from", from, bytes); }
    if (!to_device && lies_in(device_memory, to, 1)) { fault("cudaMemcpy to the host: %p is device memory", to); }
    if (!from_device && lies_in(device_memory, from, 1)) {
        fault("cudaMemcpy from the host: %p is device memory", from);
    }
    int pageable =
        (!to_device && !lies_in(host_memory, to, bytes)) || (!from_device && !lies_in(host_memory, from, bytes));
    if (pageable && stream_of(stream)->capturing) { return failed(cudaErrorStreamCaptureUnsupported); }
    if (pageable) { stream_drain(stream_of(stream)); }
    if (pageable) {
        memcpy(to, from, bytes);
    } else {
        emulate_push(stream, [=]() { memcpy(to, from, bytes); });
    }
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, NULL);
    cudaDeviceSynchronize();
    return error;
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
    if (bytes == 0) { return cudaSuccess; }
    emulate_check_device("cudaMemset", p, bytes);
    emulate_push(stream, [=]() { memset(p, value, bytes); });
    return cudaSuccess;
}
cudaError_t cudaMemset(void* p, int value, size_t bytes) {
    cudaDeviceSynchronize();
    return cudaMemsetAsync(p, value, bytes, NULL);
}

// ------------------------------------------------------------------------------------------------
// cuBLASLt

struct EmulateLt {
    int version;
};
struct EmulateMatmul {
    cublasOperation_t trans_a, trans_b;
    cublasLtEpilogue_t epilogue;
    const void* bias;
};
struct EmulateLayout {
    cudaDataType_t type;
    uint64_t rows, columns;
    int64_t ld;
};
struct EmulateWish {
    size_t workspace;
    uint32_t reductions, align[4];
};

const char* cublasLtGetStatusName(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS         ? "CUBLAS_STATUS_SUCCESS"
           : status == CUBLAS_STATUS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE"
           : status == CUBLAS_STATUS_NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED"
                                                   : "CUBLAS_STATUS_EXECUTION_FAILED";
}
const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }
size_t cublasLtGetVersion(void) { return 120400; }
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    *handle = new EmulateLt();
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType_t scale) {
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) { return CUBLAS_STATUS_NOT_SUPPORTED; }
    *desc = new EmulateMatmul();
    (*desc)->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t what,
                                              const void* value, size_t bytes) {
    void* to = what == CUBLASLT_MATMUL_DESC_TRANSA         ? (void*)&desc->trans_a
               : what == CUBLASLT_MATMUL_DESC_TRANSB       ? (void*)&desc->trans_b
               : what == CUBLASLT_MATMUL_DESC_EPILOGUE     ? (void*)&desc->epilogue
               : what == CUBLASLT_MATMUL_DESC_BIAS_POINTER ? (void*)&desc->bias
                                                           : NULL;
    if (!to || bytes != (what == CUBLASLT_MATMUL_DESC_BIAS_POINTER ? sizeof(void*) : 4)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
    *layout = new EmulateLayout{type, rows, columns, ld};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* wish) {
    *wish = new EmulateWish{0, ~0u, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t wish) {
    delete wish;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t wish,
                                                    cublasLtMatmulPreferenceAttributes_t what, const void* value,
                                                    size_t bytes) {
    if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
        if (bytes != sizeof(size_t)) { return CUBLAS_STATUS_INVALID_VALUE; }
        memcpy(&wish->workspace, value, bytes);
        return CUBLAS_STATUS_SUCCESS;
    }
    if (bytes != 4) { return CUBLAS_STATUS_INVALID_VALUE; }
    memcpy(what == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK
               ? &wish->reductions
               : &wish->align[what - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES],
           value, 4);
    return CUBLAS_STATUS_SUCCESS;
}

static size_t layout_number(const EmulateLayout* l) { return l->type == CUDA_R_16BF ? 2 : 4; }
static size_t layout_bytes(const EmulateLayout* l) {
    return l->rows && l->columns ? ((l->columns - 1) * (uint64_t)l->ld + l->rows) * layout_number(l) : 0;
}
static int matmul_fits(const EmulateMatmul* m, const EmulateLayout* a, const EmulateLayout* b, const EmulateLayout* c,
                       const EmulateLayout* d) {
    uint64_t M = m->trans_a == CUBLAS_OP_N ? a->rows : a->columns, K = m->trans_a == CUBLAS_OP_N ? a->columns : a->rows;
    uint64_t K2 = m->trans_b == CUBLAS_OP_N ? b->rows : b->columns,
             N = m->trans_b == CUBLAS_OP_N ? b->columns : b->rows;
    return M == d->rows && N == d->columns && K == K2 && c->rows == M && c->columns == N && c->type == d->type &&
           a->type == b->type && (uint64_t)a->ld >= a->rows && (uint64_t)b->ld >= b->rows && (uint64_t)c->ld >= M &&
           (uint64_t)d->ld >= M && M > 0 && N > 0 && K > 0;
}
// Two algorithms, which sum in different orders: a run that takes the other one gets other bits. Before them comes a
// proposal that is marked as failed, as the library may have some. An algorithm keeps what it was promised: alignments of
// the matrices, and of the bias, whose address the description must have by then.
enum { ALGORITHM_WHOLE = 0x1000, ALGORITHM_HALVES = 0x1001, ALGORITHM_NONE = 0x1002 };
static uint64_t alignment_of(const void* p) {
    uintptr_t bits = (uintptr_t)p | 256;
    return bits & (~bits + 1);
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t wish, int wanted,
                                              cublasLtMatmulHeuristicResult_t* result, int* found) {
    *found = 0;
    if (!matmul_fits(desc, a, b, c, d)) { return CUBLAS_STATUS_INVALID_VALUE; }
    const EmulateLayout* layout[4] = {a, b, c, d};
    for (int k = 0; k < 4; k++) {  // to promise less than a number's own alignment makes no sense
        const uint32_t align = wish->align[k];
        if (align < layout_number(layout[k]) || align > 256 || (align & (align - 1))) {
            return CUBLAS_STATUS_INVALID_VALUE;
        }
    }
    if (desc->epilogue == CUBLASLT_EPILOGUE_BIAS && !desc->bias) {
        fault("cublasLtMatmulAlgoGetHeuristic: a bias is added, but its address is not set: its alignment counts");
    }
    static const uint64_t proposals[] = {ALGORITHM_NONE, ALGORITHM_WHOLE, ALGORITHM_HALVES};
    for (int i = 0; i < 3 && i < wanted; i++) {
        memset(&result[i], 0, sizeof result[i]);
        result[i].algo.data[0] = proposals[i];
        result[i].state = proposals[i] == ALGORITHM_NONE ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
        for (int k = 0; k < 4; k++) { result[i].algo.data[1 + k] = wish->align[k]; }
        result[i].algo.data[5] = desc->epilogue == CUBLASLT_EPILOGUE_BIAS ? alignment_of(desc->bias) : 1;
        (*found)++;
    }
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulHeuristicResult_t* result) {
    if (!matmul_fits(desc, a, b, c, d)) { return CUBLAS_STATUS_INVALID_VALUE; }
    if (algorithm->data[0] != ALGORITHM_WHOLE && algorithm->data[0] != ALGORITHM_HALVES) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    memset(result, 0, sizeof *result);
    return CUBLAS_STATUS_SUCCESS;
}

static float* matrix_floats(const void* from, const EmulateLayout* l) {
    float* to = (float*)malloc((l->rows * l->columns + 1) * sizeof(float));
    for (uint64_t j = 0; j < l->columns; j++) {
        for (uint64_t i = 0; i < l->rows; i++) {
            uint64_t at = j * (uint64_t)l->ld + i;
            to[j * l->rows + i] =
                l->type == CUDA_R_16BF ? __bfloat162float(((const __nv_bfloat16*)from)[at]) : ((const float*)from)[at];
        }
    }
    return to;
}
static void matmul_now(const EmulateMatmul& m, float alpha, const void* a, const EmulateLayout& la, const void* b,
                       const EmulateLayout& lb, float beta, const void* c, const EmulateLayout& lc, void* d,
                       const EmulateLayout& ld, int halves) {
    size_t M = ld.rows, N = ld.columns, K = m.trans_a == CUBLAS_OP_N ? la.columns : la.rows;
    float *x = matrix_floats(a, &la), *y = matrix_floats(b, &lb);
    float* sum = (float*)malloc(M * N * sizeof(float));
    // Column-major out = op(a) op(b) is row-major out^T = op(b)^T op(a)^T.
    int ty = m.trans_b == CUBLAS_OP_T, tx = m.trans_a == CUBLAS_OP_T;
    size_t half = halves && K > 1 ? K / 2 : K;
    gemm(ty, tx, N, M, half, 1, y, lb.rows, x, la.rows, 0, sum, M, NULL);
    if (half < K) {
        gemm(ty, tx, N, M, K - half, 1, y + (ty ? half * lb.rows : half), lb.rows, x + (tx ? half : half * la.rows),
             la.rows, 1, sum, M, NULL);
    }
    for (size_t j = 0; j < N; j++) {
        for (size_t i = 0; i < M; i++) {
            float value = alpha * sum[j * M + i];
            size_t at = j * (size_t)ld.ld + i, from = j * (size_t)lc.ld + i;
            if (beta != 0) {
                value += beta * (lc.type == CUDA_R_16BF ? __bfloat162float(((const __nv_bfloat16*)c)[from])
                                                        : ((const float*)c)[from]);
            }
            if (m.epilogue == CUBLASLT_EPILOGUE_BIAS) {
                value += ld.type == CUDA_R_16BF ? __bfloat162float(((const __nv_bfloat16*)m.bias)[i])
                                                : ((const float*)m.bias)[i];
            }
            if (ld.type == CUDA_R_16BF) {
                ((__nv_bfloat16*)d)[at] = __float2bfloat16_rn(value);
            } else {
                ((float*)d)[at] = value;
            }
        }
    }
    free(x);
    free(y);
    free(sum);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t la, const void* b, cublasLtMatrixLayout_t lb, const void* beta,
                              const void* c, cublasLtMatrixLayout_t lc, void* d, cublasLtMatrixLayout_t ld,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
    if (!matmul_fits(desc, la, lb, lc, ld)) { return CUBLAS_STATUS_INVALID_VALUE; }
    if (algorithm && algorithm->data[0] != ALGORITHM_WHOLE && algorithm->data[0] != ALGORITHM_HALVES) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    const void* place[4] = {a, b, c, d};
    const EmulateLayout* layout[4] = {la, lb, lc, ld};
    for (int i = 0; i < 4; i++) {
        if (i == 2 && *(const float*)beta == 0) { continue; }
        emulate_check_device("cublasLtMatmul", place[i], layout_bytes(layout[i]));
        uint64_t align = algorithm ? algorithm->data[1 + i] : layout_number(layout[i]);
        if ((uintptr_t)place[i] % align != 0) {
            fault("cublasLtMatmul: matrix %c is not aligned to %d bytes as promised", "ABCD"[i], (int)align);
        }
    }
    if (desc->epilogue == CUBLASLT_EPILOGUE_BIAS) {
        emulate_check_device("cublasLtMatmul bias", desc->bias, ld->rows * layout_number(ld));
        if (algorithm && (uintptr_t)desc->bias % algorithm->data[5] != 0) {
            fault("cublasLtMatmul: the bias is not aligned to %d bytes as it was when the algorithm was proposed",
                  (int)algorithm->data[5]);
        }
    }
    if (workspace_bytes) { emulate_check_device("cublasLtMatmul workspace", workspace, workspace_bytes); }
    EmulateMatmul m = *desc;
    EmulateLayout xa = *la, xb = *lb, xc = *lc, xd = *ld;
    float x = *(const float*)alpha, y = *(const float*)beta;
    int halves = algorithm && algorithm->data[0] == ALGORITHM_HALVES;
    emulate_push(stream, [=]() { matmul_now(m, x, a, xa, b, xb, y, c, xc, d, xd, halves); });
    return CUBLAS_STATUS_SUCCESS;
}

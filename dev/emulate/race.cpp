// race.cpp - finds data races between CUDA threads under the emulator.
//
// The file with the kernels is compiled with -fsanitize=thread, which puts a call before every access to
// memory; it is linked without that flag, so that the calls come here and not to a library that knows
// threads of the machine only. This file itself, and the emulator, are compiled without the flag.
//
// Two accesses to the same byte by different CUDA threads of one launch, at least one of them a write,
// not both atomic, are a race unless something orders them:
//   - they are in one block, and the block met at a barrier between them, or
//   - they are in one warp, and the warp met at a __syncwarp between them; shuffles, votes and matrix
//     instructions make lanes wait for each other too, but do not order their accesses to memory.
// Nothing orders two blocks of one launch, and launches are always in order. That both write the same
// value is no excuse: which write comes last is still open, and so is what a reader sees.
//
// Every byte of device and shared memory has a shadow: who wrote it last, and two of those who have read
// it since. Two are enough. The order above is transitive, so a reader whose access lies before another
// reader's is of no further interest; and of readers that nothing orders, two from different blocks
// stand in a race with a write by anyone, two from different warps with a write by anyone in their block
// until its next barrier, two of one warp with a write by anyone in it until the warp meets. So the
// verdict is exact for the accesses that happen, whatever the order the threads run in.
// Atomic accesses are kept like a second set of readers.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "emulate_who.h"

#include <elf.h>
#include <execinfo.h>
#include <map>
#include <mutex>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __SANITIZE_THREAD__
#error "race.cpp is the other side of -fsanitize=thread and must be compiled without it"
#endif

extern char** environ;

// ------------------------------------------------------------------------------------------------
// The shadow

// One access: who, when, how much, and from where.
struct Access {
    uint32_t block;
    uint32_t when;  // thread of the block in the lower 10 bits, barriers of the block above
    uint32_t warp;  // __syncwarp of the warp in the lower 28 bits, size of the access above
    uint32_t code;  // return address, from the beginning of the program
};
// The bytes of one unit of a page. Valid if its age is the page's.
struct Cell {
    Access write;    // the last
    Access read[2];  // since then; two only if nothing orders them
    uint32_t age;
    uint8_t writes, reads;  // how many of the above
    uint8_t atomics;        // how many of the page's atomics of this cell
    uint8_t copying;        // an asynchronous copy by the thread of `write` is under way
    uint64_t none;          // a cell is one cache line
};
static_assert(sizeof(Cell) == 64, "a cell is one cache line");

enum { PAGE_BITS = 12, PAGE = 1 << PAGE_BITS, MOST_SHIFT = 4 };
// 4096 bytes of memory. A unit is 16 bytes where all accesses of the launch are whole 16 bytes, less elsewhere.
struct Page {
    volatile uint8_t lock;
    uint8_t shift;     // a unit has 2^shift bytes in this launch
    uint8_t capacity;  // cells has room for units of 2^capacity bytes
    uint32_t age;      // goes up when everything is to be forgotten
    int64_t launch;    // that age belongs to
    Cell* cells;
    Access (*atomics)[2];  // per cell like read[]; NULL until the first
};

// Two levels: 2^17 pieces of 1 GB, each of 2^18 pages; both are touched where they are used only.
enum { PIECE_BITS = 30, PIECES = 1 << 17, PAGES = 1 << (PIECE_BITS - PAGE_BITS) };
static Page** pieces[PIECES];
static std::mutex shadow_lock;  // of what follows, and of growing the above

// What has been handed out, to name an address in a report.
static std::map<uintptr_t, size_t>& handed_out() {
    static std::map<uintptr_t, size_t>* m = new std::map<uintptr_t, size_t>();
    return *m;
}

// Memory full of zeros. Pieces that come back are kept by size, because a mapping each would be too many
// for the system.
struct Piece {
    Piece* next;
};
static std::mutex pool_lock;
static Piece* pool[32];  // by the logarithm of their size
static void* zeroed(size_t bytes) {
    static char *arena, *arena_end;
    std::lock_guard<std::mutex> guard(pool_lock);
    Piece** list = &pool[__builtin_ctzll(bytes)];  // all sizes are powers of two
    if (*list) {
        void* p = *list;
        *list = (*list)->next;
        return memset(p, 0, bytes);
    }
    if ((size_t)(arena_end - arena) < bytes) {
        enum { ARENA = 64 << 20 };
        void* p = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            fprintf(stderr, "emulator: no memory for the shadow of the race detector\n");
            _exit(1);
        }
        arena = (char*)p, arena_end = arena + ARENA;
    }
    arena += bytes;
    return arena - bytes;
}
static void back_to_pool(void* p, size_t bytes) {
    std::lock_guard<std::mutex> guard(pool_lock);
    Piece** list = &pool[__builtin_ctzll(bytes)];
    ((Piece*)p)->next = *list;
    *list = (Piece*)p;
}

static inline Page* page_of(uintptr_t p) {
    if (p >> (PIECE_BITS + 17)) { return NULL; }
    Page** piece = __atomic_load_n(&pieces[p >> PIECE_BITS], __ATOMIC_ACQUIRE);
    return piece ? __atomic_load_n(&piece[p >> PAGE_BITS & (PAGES - 1)], __ATOMIC_ACQUIRE) : NULL;
}
static Page* page_new(uintptr_t p) {
    if (p >> (PIECE_BITS + 17)) { return NULL; }
    std::lock_guard<std::mutex> guard(shadow_lock);
    Page*** piece = &pieces[p >> PIECE_BITS];
    if (!*piece) { __atomic_store_n(piece, (Page**)zeroed(PAGES * sizeof(Page*)), __ATOMIC_RELEASE); }
    Page** page = &(*piece)[p >> PAGE_BITS & (PAGES - 1)];
    if (!*page) {
        Page* fresh = (Page*)calloc(1, sizeof(Page));
        if (!fresh) { abort(); }
        fresh->capacity = MOST_SHIFT + 1;  // none yet
        fresh->shift = MOST_SHIFT;
        __atomic_store_n(page, fresh, __ATOMIC_RELEASE);
    }
    return *page;
}

static inline void page_lock(Page* page) {
    while (__atomic_exchange_n(&page->lock, 1, __ATOMIC_ACQUIRE)) {
        while (page->lock) {}
    }
}
static inline void page_unlock(Page* page) { __atomic_store_n(&page->lock, 0, __ATOMIC_RELEASE); }

static size_t cells_bytes(int shift) { return ((size_t)PAGE >> shift) * sizeof(Cell); }
static size_t atomics_bytes(int shift) { return ((size_t)PAGE >> shift) * 2 * sizeof(Access); }

// The first access to a page in a launch: all that was before is in order with it, and forgotten.
static void page_begin(Page* page, int shift) {
    if (shift < page->capacity) {
        if (page->cells) { back_to_pool(page->cells, cells_bytes(page->capacity)); }
        if (page->atomics) { back_to_pool(page->atomics, atomics_bytes(page->capacity)); }
        page->atomics = NULL;
        page->cells = (Cell*)zeroed(cells_bytes(shift));
        page->capacity = (uint8_t)shift;
    }
    page->shift = (uint8_t)shift;
    page->age++;
}

// Smaller units, of 2^shift bytes, from here on; what the larger ones know goes to each of their parts.
static void page_divide(Page* page, int shift) {
    if (shift < page->capacity) {
        Cell* cells = (Cell*)zeroed(cells_bytes(shift));
        memcpy(cells, page->cells, cells_bytes(page->shift));
        back_to_pool(page->cells, cells_bytes(page->capacity));
        Access(*atomics)[2] = NULL;
        if (page->atomics) {
            atomics = (Access(*)[2])zeroed(atomics_bytes(shift));
            memcpy(atomics, page->atomics, atomics_bytes(page->shift));
            back_to_pool(page->atomics, atomics_bytes(page->capacity));
        }
        page->cells = cells;
        page->atomics = atomics;
        page->capacity = (uint8_t)shift;
    }
    size_t parts = (size_t)1 << (page->shift - shift);
    for (size_t i = (size_t)PAGE >> page->shift; i-- > 0;) {  // backwards, because the parts lie over later units
        Cell cell = page->cells[i];
        for (size_t k = 0; k < parts; k++) {
            if (cell.age == page->age) {
                page->cells[i * parts + k] = cell;
            } else {
                page->cells[i * parts + k].age = 0;
            }
        }
        if (page->atomics) {
            Access pair[2] = {page->atomics[i][0], page->atomics[i][1]};
            for (size_t k = 0; k < parts; k++) { memcpy(page->atomics[i * parts + k], pair, sizeof pair); }
        }
    }
    page->shift = (uint8_t)shift;
}

// ------------------------------------------------------------------------------------------------
// Reports

enum { READ, WRITE, ATOMIC, COPY_BEGINS, COPY_ENDS };
static const char* const verbs[] = {"read", "write", "atomic access", "asynchronous copy (cp.async)",
                                    "asynchronous copy (cp.async)"};
// Sizes of an access by their number in Access; 0: another one.
static const int sizes[] = {0, 1, 2, 4, 8, 16};
static inline uint32_t size_code(size_t n) {
    return n == 4 ? 3 : n == 16 ? 5 : n == 2 ? 2 : n == 8 ? 4 : n == 1 ? 1 : 0;
}

extern "C" const char __ehdr_start[] __attribute__((visibility("hidden")));  // where the linker put the program

static inline Access access_now(const EmulateWho* who, size_t n, const void* code) {
    Access a;
    a.block = who->block;
    a.when = who->thread | who->barrier << 10;
    a.warp = (who->warp_barrier & 0xfffffffu) | size_code(n) << 28;
    a.code = (uint32_t)((uintptr_t)code - (uintptr_t)__ehdr_start);
    return a;
}

// Where in the source: what addr2line says, which knows inlined functions too; else how to ask it.
// Returns 0, and prints nothing, for the emulator's own code if that is not wanted.
static int print_place(const char* before, uint32_t code, int own_too) {
    char program[4096], address[32], text[4096];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = 0;
    uintptr_t base = ((const Elf64_Ehdr*)__ehdr_start)->e_type == ET_DYN ? 0 : (uintptr_t)__ehdr_start;
    snprintf(address, sizeof address, "0x%zx", (size_t)(base + code - 1));  // within the call, not after it
    size_t n = 0;
    int fds[2];
    if (pipe(fds) == 0) {
        posix_spawn_file_actions_t files;
        posix_spawn_file_actions_init(&files);
        posix_spawn_file_actions_adddup2(&files, fds[1], 1);
        posix_spawn_file_actions_addopen(&files, 2, "/dev/null", 1, 0);
        posix_spawn_file_actions_addclose(&files, fds[0]);
        posix_spawn_file_actions_addclose(&files, fds[1]);
        char* const arguments[] = {(char*)"addr2line", (char*)"-fisCp", (char*)"-e", program, address, NULL};
        pid_t pid;
        int error = posix_spawnp(&pid, "addr2line", &files, NULL, arguments, environ);
        posix_spawn_file_actions_destroy(&files);
        close(fds[1]);
        while (error == 0 && n < sizeof text - 1) {
            ssize_t got = read(fds[0], text + n, sizeof text - 1 - n);
            if (got <= 0) { break; }
            n += (size_t)got;
        }
        close(fds[0]);
        if (error == 0) { waitpid(pid, NULL, 0); }
    }
    text[n] = 0;
    if (!own_too && (strstr(text, "fibre_main") || strstr(text, "emulate_launch"))) { return 0; }
    fputs(before, stderr);
    if (n == 0 || text[0] == '?') {
        fprintf(stderr, "      addr2line -fisCp -e %s %s\n", program, address);
        return 1;
    }
    for (char* line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        fprintf(stderr, "      %s%s\n", strstr(line, "inlined by") ? "" : "in ", line + strspn(line, " "));
    }
    return 1;
}

static void print_access(const Access* a, const EmulateWho* who, const char* verb) {
    unsigned thread = a->when & 1023, bdx = who->bdx ? who->bdx : 1, bdy = who->bdy ? who->bdy : 1;
    int size = sizes[a->warp >> 28];
    char number[32];
    snprintf(number, sizeof number, size ? "%d byte%s" : "several bytes", size, size == 1 ? "" : "s");
    fprintf(stderr, "    %s of %s by block %u, thread (%u,%u,%u), after %u barriers and %u __syncwarp of warp %u\n",
            verb, number, a->block, thread % bdx, thread / bdx % bdy, thread / bdx / bdy, a->when >> 10,
            a->warp & 0xfffffffu, thread / 32);
    print_place("", a->code, 1);
}

static void report_begin(const char* what, uintptr_t p, const EmulateWho* who, const char* why) {
    static int told;
    if (__atomic_exchange_n(&told, 1, __ATOMIC_SEQ_CST)) {
        for (;;) { pause(); }  // another thread is on its way out
    }
    fflush(stdout);
    char place[160] = "";
    {
        std::lock_guard<std::mutex> guard(shadow_lock);
        auto next = handed_out().upper_bound(p);
        if (next != handed_out().begin() && p - (--next)->first < next->second) {
            snprintf(place, sizeof place, ", byte %zu of a piece of %zu bytes", (size_t)(p - next->first),
                     next->second);
        }
    }
    fprintf(stderr, "emulator: %s in kernel %s at %p%s: %s\n", what, who->kernel, (void*)p, place, why);
}

__attribute__((noinline, noreturn)) static void report(uintptr_t p, const EmulateWho* who, const Access* before,
                                                       const char* verb_before, const Access* now, const char* verb_now,
                                                       const char* why) {
    report_begin("data race", p, who, why);
    print_access(before, who, verb_before);
    print_access(now, who, verb_now);
    // Who called the function of the second access.
    void* frame[32];
    int frames = backtrace(frame, 32), first = 0;
    while (first < frames && (uint32_t)((uintptr_t)frame[first] - (uintptr_t)__ehdr_start) != now->code) { first++; }
    for (int i = first + 1; i < frames && i <= first + 4; i++) {
        uint32_t code = (uint32_t)((uintptr_t)frame[i] - (uintptr_t)__ehdr_start);
        if (!print_place("      called from\n", code, 0)) { break; }
    }
    fflush(stderr);
    _exit(1);
}

__attribute__((noinline, noreturn)) static void report_misaligned(uintptr_t p, const EmulateWho* who, const Access* now,
                                                                  const char* verb) {
    report_begin("misaligned access", p, who, "the address must be a multiple of the size");
    print_access(now, who, verb);
    fflush(stderr);
    _exit(1);
}

static const char* why_race(const Access* a, const Access* b) {
    if (a->block != b->block) { return "two blocks of a launch are never in order"; }
    if ((a->when & 0x3e0) != (b->when & 0x3e0)) { return "no __syncthreads between the two"; }
    return "same warp, but no __syncwarp or __syncthreads between the two";
}

// ------------------------------------------------------------------------------------------------
// The rules

static inline int same_access(const Access* a, const Access* b) {
    return a->block == b->block && a->when == b->when && ((a->warp ^ b->warp) & 0xfffffffu) == 0;
}
// Whether nothing orders an access before the one of now.
static inline int unordered(const Access* before, const Access* now) {
    uint32_t differs = before->when ^ now->when;
    if (before->block != now->block) { return 1; }
    if (differs == 0 || differs >> 10) { return 0; }  // the same thread, or a barrier in between
    if (differs & 0x3e0) { return 1; }                // different warps
    return ((before->warp ^ now->warp) & 0xfffffffu) == 0;
}

// Adds an access to a set of which two are kept (see the top of the file). Returns how many there are now.
static inline uint8_t add_to(Access set[2], uint8_t count, const Access* now) {
    if (count == 0 || (count == 1 && !unordered(&set[0], now))) {
        set[0] = *now;
        return 1;
    }
    if (count == 1) {
        set[1] = *now;
        return 2;
    }
    if (set[0].block != set[1].block) { return 2; }
    if (now->block != set[0].block) {
        set[1] = *now;
        return 2;
    }
    if ((now->when ^ set[0].when) >> 10) {  // a barrier since
        set[0] = *now;
        return 1;
    }
    if ((set[0].when ^ set[1].when) & 0x3e0) { return 2; }
    if ((now->when ^ set[0].when) & 0x3e0) {
        set[1] = *now;
        return 2;
    }
    if ((now->warp ^ set[0].warp) & 0xfffffffu) {  // the warp has met since
        set[0] = *now;
        return 1;
    }
    return 2;
}

static void cell_access(uintptr_t p, Page* page, Cell* cell, const EmulateWho* who, const Access* now, int kind) {
    if (cell->age != page->age) {
        cell->age = page->age;
        cell->writes = cell->reads = cell->atomics = cell->copying = 0;
    }
    // The same again in one stretch between meetings, as most is: nobody else can have come in between.
    if (kind == READ && cell->reads && same_access(&cell->read[0], now) && !cell->copying) { return; }
    if (kind == WRITE && cell->writes && same_access(&cell->write, now) && !cell->copying) { return; }
    if (cell->copying && kind != COPY_ENDS) {
        report(p, who, &cell->write, verbs[COPY_BEGINS], now, verbs[kind], "the copy has not been waited for");
    }
    if (cell->writes && unordered(&cell->write, now)) {
        report(p, who, &cell->write, verbs[WRITE], now, verbs[kind], why_race(&cell->write, now));
    }
    if (kind != READ) {
        for (int i = 0; i < cell->reads; i++) {
            if (unordered(&cell->read[i], now)) {
                report(p, who, &cell->read[i], verbs[READ], now, verbs[kind], why_race(&cell->read[i], now));
            }
        }
    }
    size_t index = (size_t)(cell - page->cells);
    if (kind != ATOMIC) {
        for (int i = 0; i < cell->atomics; i++) {
            const Access* a = &page->atomics[index][i];
            if (unordered(a, now)) { report(p, who, a, verbs[ATOMIC], now, verbs[kind], why_race(a, now)); }
        }
    }
    if (kind == READ) {
        cell->reads = add_to(cell->read, cell->reads, now);
    } else if (kind == ATOMIC) {
        if (!page->atomics) { page->atomics = (Access(*)[2])zeroed(atomics_bytes(page->capacity)); }
        cell->atomics = add_to(page->atomics[index], cell->atomics, now);
    } else {
        cell->write = *now;
        cell->writes = 1;
        cell->reads = cell->atomics = 0;
        cell->copying = kind == COPY_BEGINS;
    }
}

static __thread uintptr_t stack_low, stack_bytes;  // of the running fibre

// `aligned`: the compiler relies on an address that is a multiple of n, as the GPU's instruction does.
static inline __attribute__((always_inline)) void access(const void* at, size_t n, int kind, int aligned,
                                                         const void* code) {
    const EmulateWho* who = emulate_who;
    if (__builtin_expect(!who, 1)) { return; }
    uintptr_t p = (uintptr_t)at;
    if (p - stack_low < stack_bytes) { return; }
    while (n) {
        size_t part = PAGE - (p & (PAGE - 1));
        if (part > n) { part = n; }
        Page* page = page_of(p);
        if (page) {
            // The detector copies and clears memory of its own, by the same calls of the C library that it watches; and
            // where a piece was that has gone back to the system, its own may lie now.
            emulate_who = NULL;
            Access now = access_now(who, n, code);
            if (aligned && p % n != 0) { report_misaligned(p, who, &now, verbs[kind]); }
            page_lock(page);
            int shift = __builtin_ctzll(p | part | 1u << MOST_SHIFT);
            if (page->launch != who->launch) {
                page_begin(page, shift);
                page->launch = who->launch;
            } else if (shift < page->shift) {
                page_divide(page, shift);
            }
            shift = page->shift;
            size_t i = (p & (PAGE - 1)) >> shift, end = i + (part >> shift);
            for (; i < end; i++) {
                cell_access((p & ~(uintptr_t)(PAGE - 1)) + (i << shift), page, &page->cells[i], who, &now, kind);
            }
            page_unlock(page);
            emulate_who = const_cast<EmulateWho*>(who);
        }
        p += part;
        n -= part;
    }
}

// ------------------------------------------------------------------------------------------------
// For the emulator

void emulate_race_local(const void* low, const void* high) {
    stack_low = (uintptr_t)low;
    stack_bytes = (uintptr_t)high - (uintptr_t)low;
}

void emulate_race_at(const void* p, size_t n, int kind, const void* code) {
    static const int kinds[] = {READ, WRITE, COPY_BEGINS, COPY_ENDS};  // by EMULATE_READS and so on
    access(p, n, kinds[kind], 0, code);
}

// Memory changes hands. From here on its pages are watched; memory that nobody announced is not.
void emulate_race_forget(const void* at, size_t n) {
    if (!n) { return; }
    uintptr_t p = (uintptr_t)at, end = p + n;
    {
        std::lock_guard<std::mutex> guard(shadow_lock);
        std::map<uintptr_t, size_t>& known = handed_out();
        auto i = known.lower_bound(p);
        if (i != known.begin() && std::prev(i)->first + std::prev(i)->second > p) { --i; }
        while (i != known.end() && i->first < end) { i = known.erase(i); }
        known[p] = n;
    }
    while (p < end) {
        size_t part = PAGE - (p & (PAGE - 1));
        if (part > end - p) { part = end - p; }
        Page* page = page_of(p);
        if (!page) { page = page_new(p); }
        if (!page) { return; }
        page_lock(page);
        if (part == PAGE) {
            page->launch = -1;  // of no launch
        } else if (page->cells) {
            size_t last = (p + part - 1) & (PAGE - 1);
            for (size_t i = (p & (PAGE - 1)) >> page->shift; i <= last >> page->shift; i++) { page->cells[i].age = 0; }
        }
        page_unlock(page);
        p += part;
    }
}

// Variables of the program are watched too: a kernel may have __device__ ones.
extern "C" char __data_start[] __attribute__((weak)), _end[] __attribute__((weak));
__attribute__((constructor)) static void watch_globals(void) {
    uintptr_t from = (uintptr_t)__data_start, to = (uintptr_t)_end;
    if (from && to > from) { emulate_race_forget(__data_start, to - from); }
    void* frame[2];
    backtrace(frame, 2);  // loads what it needs now, not in the middle of a report
}

// ------------------------------------------------------------------------------------------------
// What the compiler calls

#define HERE __builtin_return_address(0)
#define HOOK extern "C" __attribute__((visibility("default"))) void

HOOK __tsan_init(void) {}
HOOK __tsan_func_entry(void*) {}
HOOK __tsan_func_exit(void) {}
HOOK __tsan_vptr_update(void** p, void*) { access(p, sizeof(void*), WRITE, 0, HERE); }
HOOK __tsan_vptr_read(void** p) { access(p, sizeof(void*), READ, 0, HERE); }
HOOK __tsan_read_range(void* p, size_t n) { access(p, n, READ, 0, HERE); }
HOOK __tsan_write_range(void* p, size_t n) { access(p, n, WRITE, 0, HERE); }

#define HOOKS(n)                                                                     \
    HOOK __tsan_read##n(void* p) { access(p, n, READ, 1, HERE); }                    \
    HOOK __tsan_write##n(void* p) { access(p, n, WRITE, 1, HERE); }                  \
    HOOK __tsan_read_write##n(void* p) { access(p, n, WRITE, 1, HERE); }             \
    HOOK __tsan_unaligned_read##n(void* p) { access(p, n, READ, 0, HERE); }          \
    HOOK __tsan_unaligned_write##n(void* p) { access(p, n, WRITE, 0, HERE); }        \
    HOOK __tsan_unaligned_read_write##n(void* p) { access(p, n, WRITE, 0, HERE); }   \
    HOOK __tsan_volatile_read##n(void* p) { access(p, n, READ, 1, HERE); }           \
    HOOK __tsan_volatile_write##n(void* p) { access(p, n, WRITE, 1, HERE); }         \
    HOOK __tsan_unaligned_volatile_read##n(void* p) { access(p, n, READ, 0, HERE); } \
    HOOK __tsan_unaligned_volatile_write##n(void* p) { access(p, n, WRITE, 0, HERE); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

// Atomic operations are replaced by these calls, so they must do the work too. An atomic load counts as an
// atomic access like any other: beside a plain read by another thread it is reported, though harmless.
#define ATOMIC_CALL(type, name) extern "C" __attribute__((visibility("default"))) type name
#define ATOMIC_FETCH(bits, type, operation)                                             \
    ATOMIC_CALL(type, __tsan_atomic##bits##_fetch_##operation)(type * p, type x, int) { \
        access(p, sizeof *p, ATOMIC, 1, HERE);                                          \
        return __atomic_fetch_##operation(p, x, __ATOMIC_SEQ_CST);                      \
    }
#define ATOMICS(bits, type)                                                                                   \
    ATOMIC_CALL(type, __tsan_atomic##bits##_load)(const type* p, int) {                                       \
        access(p, sizeof *p, ATOMIC, 1, HERE);                                                                \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                          \
    }                                                                                                         \
    ATOMIC_CALL(void, __tsan_atomic##bits##_store)(type * p, type x, int) {                                   \
        access(p, sizeof *p, ATOMIC, 1, HERE);                                                                \
        __atomic_store_n(p, x, __ATOMIC_SEQ_CST);                                                             \
    }                                                                                                         \
    ATOMIC_CALL(type, __tsan_atomic##bits##_exchange)(type * p, type x, int) {                                \
        access(p, sizeof *p, ATOMIC, 1, HERE);                                                                \
        return __atomic_exchange_n(p, x, __ATOMIC_SEQ_CST);                                                   \
    }                                                                                                         \
    ATOMIC_FETCH(bits, type, add)                                                                             \
    ATOMIC_FETCH(bits, type, sub)                                                                             \
    ATOMIC_FETCH(bits, type, and)                                                                             \
    ATOMIC_FETCH(bits, type, or)                                                                              \
    ATOMIC_FETCH(bits, type, xor)                                                                             \
    ATOMIC_FETCH(bits, type, nand)                                                                            \
    ATOMIC_CALL(int, __tsan_atomic##bits##_compare_exchange_strong)(type * p, type * old, type x, int, int) { \
        access(p, sizeof *p, ATOMIC, 1, HERE);                                                                \
        return __atomic_compare_exchange_n(p, old, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);             \
    }                                                                                                         \
    ATOMIC_CALL(int, __tsan_atomic##bits##_compare_exchange_weak)(type * p, type * old, type x, int, int) {   \
        access(p, sizeof *p, ATOMIC, 1, HERE);                                                                \
        return __atomic_compare_exchange_n(p, old, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);             \
    }                                                                                                         \
    ATOMIC_CALL(type, __tsan_atomic##bits##_compare_exchange_val)(type * p, type old, type x, int, int) {     \
        access(p, sizeof *p, ATOMIC, 1, HERE);                                                                \
        __atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                   \
        return old;                                                                                           \
    }
ATOMICS(8, uint8_t)
ATOMICS(16, uint16_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
HOOK __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
HOOK __tsan_atomic_signal_fence(int) {}

// Copies by the C library. Newer clang calls the first three; older clang and g++ call the library
// itself, which these see if the program is linked with -Wl,--wrap=memcpy,--wrap=memmove,--wrap=memset.
extern "C" {
__attribute__((weak)) void* __real_memcpy(void* to, const void* from, size_t n);
__attribute__((weak)) void* __real_memmove(void* to, const void* from, size_t n);
__attribute__((weak)) void* __real_memset(void* to, int value, size_t n);
void* __tsan_memcpy(void* to, const void* from, size_t n) {
    access(from, n, READ, 0, HERE);
    access(to, n, WRITE, 0, HERE);
    return memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, size_t n) {
    access(from, n, READ, 0, HERE);
    access(to, n, WRITE, 0, HERE);
    return memmove(to, from, n);
}
void* __tsan_memset(void* to, int value, size_t n) {
    access(to, n, WRITE, 0, HERE);
    return memset(to, value, n);
}
void* __wrap_memcpy(void* to, const void* from, size_t n) {
    access(from, n, READ, 0, HERE);
    access(to, n, WRITE, 0, HERE);
    return __real_memcpy(to, from, n);
}
void* __wrap_memmove(void* to, const void* from, size_t n) {
    access(from, n, READ, 0, HERE);
    access(to, n, WRITE, 0, HERE);
    return __real_memmove(to, from, n);
}
void* __wrap_memset(void* to, int value, size_t n) {
    access(to, n, WRITE, 0, HERE);
    return __real_memset(to, value, n);
}
}

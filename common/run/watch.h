// watch.h - the watchdog: no rank is left waiting for one that has died, hangs or has failed.
//
// A thread on every rank sends heartbeats to rank 0 with the rank's step and a number that grows whenever it works;
// rank 0 passes on the sum of all. When a connection closes without a goodbye, a rank says that it fails, or nobody
// has progressed for --nccl-timeout seconds, rank 0 names the culprit to all, and every rank ends: it prints that line,
// calls ranks.abort (ncclCommAbort, which may hang itself, in a thread of its own that has waited for this) for at most
// five seconds, and exits with status 1. Who loses rank 0 ends by itself in the same way.
//
// Who is heard of but does not wait for the others hangs; of those that wait who is not where the others are. Where all wait
// in the same collective, as when a GPU or a network fails inside it, nobody is named.
//
// An error that all ranks meet is said once: where they all do the same (ranks.alike), one that fails first waits for a
// moment whether rank 0 fails with the same words, and then ends in silence; and of the ranks of a machine only the
// first says that rank 0 has failed.
//
// A signal to end that one rank got goes with its heartbeat to rank 0, and from there to all at once: so each leaves what
// takes long (a validation, the micro-batches of a step) within about a second, without a word between them in it.
//
// The main thread may hang in CUDA or NCCL, hold their locks or that of malloc, and die at any moment; so the thread
// calls nothing but send, recv, poll, read, write, shutdown, close, clock_gettime, getppid and _exit, on memory that was
// taken before (`make lint` looks).
#ifndef PONDER_WATCH_H
#define PONDER_WATCH_H

#include "meeting.h"

#include <pthread.h>

// Seconds that a collective has to end after ranks.abort was called, and a rank after it has failed and saved.
static double watch_patience = 5;
// Seconds that a rank waits for rank 0 to say what it would say itself.
static double watch_asks = 3;

typedef enum { WATCH_BEAT = 1, WATCH_FAIL, WATCH_END, WATCH_BYE } WatchKind;
typedef struct {
    uint32_t magic;
    int32_t kind, rank, waiting;  // END: `waiting` is ranks.alike of rank 0
    int64_t step;
    uint64_t progress;  // from rank 0: of all ranks together
    uint64_t joined;    // ranks.joined
    int32_t signal;     // ranks.signal
    char text[468];     // FAIL: what has happened; END: the line that all print
} WatchMessage;
#define WATCH_MAGIC 0x57415443u

// What is known of a rank, by its number; ranks 1 and up know of rank 0 alone.
typedef struct {
    int fd;    // -1: none, or closed
    int left;  // it has said goodbye
    int waiting;
    int64_t step;
    uint64_t progress, joined;
    double heard;  // when it was heard of last
    size_t in_bytes, out_bytes;
    char in[sizeof(WatchMessage)], out[2 * sizeof(WatchMessage)];
} WatchPeer;

static struct {
    // Made before the thread starts:
    int running;  // 1: there is a thread
    pthread_t thread, aborter;
    int wake[2], abort[2];  // pipes: to the thread, to the one that calls ranks.abort
    WatchPeer* peers;       // (count)
    struct pollfd* polled;  // (1 + count)
    char (*names)[128];     // (count) "rank 3 (HOST, GPU 1)"
    char seconds[32];       // --nccl-timeout in words
    double interval;        // seconds between heartbeats
    int echoes;             // 1: another rank of this machine comes before this one, and says what all are told
    char failure[400];      // what this rank fails of, once `failing` is 1
    char question[400];     // what it would fail of, once `asking` is 1
    char line[1024];        // where the thread writes what it prints
    double progressed;      // when anybody progressed last, as far as this rank knows
    uint64_t total;         // the sum of progress then
    int signalled;          // 1: the others were told of ranks.signal
    // Between the threads:
    int asking;   // 1: this rank would die of `question`, and asks whether rank 0 does so too; 2: it does not
    int failing;  // 1: this rank dies and has said why, 2: it is being said; then its own line is enough
    int told;     // 1: the others know of it
    int leaving;  // 1: it ends normally, as all do
    int exiting;  // 1: it is on its way out of the process
    int aborted;  // 1: ranks.abort has returned
    int ending;   // 1: ranks.abort is called, and this process is about to end
} watch;

#define WATCH_GET(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define WATCH_SET(x, value) __atomic_store_n(&(x), (value), __ATOMIC_RELEASE)

// ---- words without stdio ----

// Appends text, or a number, to out[room], which stays NUL-terminated.
static inline void watch_word(char* out, size_t room, const char* text) {
    size_t n = strlen(out);
    while (*text && n + 1 < room) { out[n++] = *text++; }
    out[n] = 0;
}
static inline void watch_number(char* out, size_t room, int64_t value) {
    char digits[24];
    int n = (int)sizeof digits - 1;
    uint64_t left = value < 0 ? (uint64_t)0 - (uint64_t)value : (uint64_t)value;
    digits[n] = 0;
    do { digits[--n] = (char)('0' + left % 10), left /= 10; } while (left);
    if (value < 0) { digits[--n] = '-'; }
    watch_word(out, room, digits + n);
}

// Prints this rank's line, unless standard error takes nothing any more.
static inline void watch_print(const char* text) {
    const size_t room = sizeof watch.line - 1;
    watch.line[0] = 0;
    watch_word(watch.line, room, watch.names[ranks.rank]);
    watch_word(watch.line, room, " step ");
    watch_number(watch.line, room, __atomic_load_n(&ranks.step, __ATOMIC_RELAXED));
    watch_word(watch.line, room, ": error: ");
    watch_word(watch.line, room, text);
    watch_word(watch.line, sizeof watch.line, "\n");
    struct pollfd p = {2, POLLOUT, 0};
    if (poll(&p, 1, 1000) > 0 && write(2, watch.line, strlen(watch.line)) < 0) { return; }
}

// ---- messages ----

// Sends what waits for a rank, as far as its connection takes it.
static inline void watch_flush(WatchPeer* p) {
    while (p->fd >= 0 && p->out_bytes > 0) {
        ssize_t n = send(p->fd, p->out, p->out_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) { continue; }
        if (n <= 0) { return; }
        p->out_bytes -= (size_t)n;
        memmove(p->out, p->out + n, p->out_bytes);
    }
}

// A heartbeat is left out where the one before still waits: nobody reads them there.
static inline void watch_send(WatchPeer* p, WatchKind kind, uint64_t progress, const char* text) {
    if (p->fd < 0 || p->out_bytes > (kind == WATCH_BEAT ? 0 : sizeof(WatchMessage))) { return; }
    WatchMessage m;
    memset(&m, 0, sizeof m);
    m.magic = WATCH_MAGIC;
    m.kind = (int32_t)kind;
    m.rank = ranks.rank;
    m.waiting = __atomic_load_n(kind == WATCH_END ? &ranks.alike : &ranks.waiting, __ATOMIC_RELAXED);
    m.step = __atomic_load_n(&ranks.step, __ATOMIC_RELAXED);
    m.progress = progress;
    m.joined = __atomic_load_n(&ranks.joined, __ATOMIC_RELAXED);
    m.signal = (int32_t)__atomic_load_n(&ranks.signal, __ATOMIC_RELAXED);
    watch_word(m.text, sizeof m.text, text);
    memcpy(p->out + p->out_bytes, &m, sizeof m);
    p->out_bytes += sizeof m;
    watch_flush(p);
}

static inline void watch_close(WatchPeer* p) {
    close(p->fd);
    p->fd = -1;
}

// ---- the end ----

// Lets ranks.abort run and the last words go out, for at most watch_patience seconds; then this process ends. With
// main_ends it is given the whole of that time, in which the main thread ends it better, with a status of its own.
__attribute__((noreturn)) static inline void watch_exit(int main_ends) {
    const double begin = now_seconds();
    char byte = 1;
    WATCH_SET(watch.ending, 1);
    int asked = write(watch.abort[1], &byte, 1) == 1;
    for (int r = 0; r < ranks.count; r++) { watch_flush(&watch.peers[r]); }
    for (;;) {
        const double spent = now_seconds() - begin;
        // A connection that is closed while something unread is in it may lose what was sent: the others close first.
        int open = 0;
        for (int r = 0; r < ranks.count; r++) {
            WatchPeer* p = &watch.peers[r];
            if (p->fd < 0) { continue; }
            ssize_t n = recv(p->fd, p->in, sizeof p->in, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) { watch_close(p); }
            open += p->fd >= 0 && ranks.rank == 0;
        }
        int done = !main_ends && (!asked || WATCH_GET(watch.aborted)) && (!open || spent > 1);
        if (done || spent > watch_patience) { _exit(1); }
        poll(NULL, 0, 10);
    }
}

#define WATCH_FAILED " failed at step "

// Where a line says that rank 0 has failed: its words; NULL in any other line.
static inline const char* watch_words_of_first(const char* text) {
    const size_t name = strlen(watch.names[0]), words = sizeof WATCH_FAILED - 1;
    if (strncmp(text, watch.names[0], name) != 0 || strncmp(text + name, WATCH_FAILED, words) != 0) { return NULL; }
    const char* colon = strchr(text + name + words, ':');
    return colon && colon[1] == ' ' ? colon + 2 : NULL;
}

// 1 if these words of a line are those of which this rank would die; a long line is cut.
static inline int watch_is_mine(const char* text, const char* words) {
    if (!words || WATCH_GET(watch.asking) != 1) { return 0; }
    const int cut = strlen(text) + 1 == sizeof(((WatchMessage*)0)->text);
    return cut ? strncmp(words, watch.question, strlen(words)) == 0 : strcmp(words, watch.question) == 0;
}

// Ends this rank, for a reason that everybody is told. Where it is this rank's own failure its main thread is on its way
// out, and has printed it. alike: of the rank that says so.
static inline void watch_end(const char* text, int alike) {
    for (int r = 1; r < ranks.count && ranks.rank == 0; r++) {
        watch_send(&watch.peers[r], WATCH_END, watch.total, text);
    }
    if (WATCH_GET(watch.failing)) {
        WATCH_SET(watch.told, 1);
        return;
    }
    const char* words = ranks.rank ? watch_words_of_first(text) : NULL;
    if (WATCH_GET(watch.asking) && !watch_is_mine(text, words)) {
        WATCH_SET(watch.asking, 2);  // the main thread says what this rank itself has met
        return;
    }
    ranks_tell_parent(0);
    const int said = words && watch.echoes && alike;
    if (!said) { watch_print(text); }
    watch_exit(0);
}

// "rank 3 (HOST, GPU 1)WORDS at step 17MORE".
static inline void watch_accuse(int culprit, const char* words, const char* more) {
    char text[sizeof(((WatchMessage*)0)->text)] = "";
    watch_word(text, sizeof text, watch.names[culprit]);
    watch_word(text, sizeof text, words);
    watch_word(text, sizeof text, " at step ");
    watch_number(text, sizeof text, watch.peers[culprit].step);
    watch_word(text, sizeof text, more);
    watch_end(text, __atomic_load_n(&ranks.alike, __ATOMIC_RELAXED));
}

// ---- what is heard ----

static inline void watch_hear(int r, const WatchMessage* m) {
    WatchPeer* p = &watch.peers[r];
    p->heard = now_seconds();
    p->step = m->step;
    p->progress = m->progress;
    p->joined = m->joined;
    p->waiting = m->waiting;
    if (m->signal && !WATCH_GET(ranks.signal)) { WATCH_SET(ranks.signal, m->signal); }
    char text[sizeof m->text];
    memcpy(text, m->text, sizeof text);
    text[sizeof text - 1] = 0;
    if (m->kind == WATCH_BYE) { p->left = 1; }
    if (m->kind == WATCH_END && r == 0) { watch_end(text, m->waiting); }
    if (m->kind == WATCH_FAIL && !WATCH_GET(watch.failing)) {
        char more[sizeof m->text] = ": ";
        watch_word(more, sizeof more, text);
        watch_accuse(r, " failed", more);
    }
}

// Reads all that a rank has sent.
static inline void watch_read(int r) {
    WatchPeer* p = &watch.peers[r];
    while (p->fd >= 0) {
        ssize_t n = recv(p->fd, p->in + p->in_bytes, sizeof p->in - p->in_bytes, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) { continue; }
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) { return; }
        if (n <= 0) {
            watch_close(p);
            if (!p->left && !WATCH_GET(watch.leaving)) { watch_accuse(r, " is gone: its connection closed", ""); }
            return;
        }
        p->in_bytes += (size_t)n;
        if (p->in_bytes < sizeof p->in) { continue; }
        WatchMessage m;
        memcpy(&m, p->in, sizeof m);
        p->in_bytes = 0;
        if (m.magic == WATCH_MAGIC) { watch_hear(r, &m); }
    }
}

// ---- whose fault it is that nobody progresses ----

// The smaller, the more likely: who has left; who has not been heard of; who does not wait for the others; who does.
enum { WATCH_LEFT, WATCH_SILENT, WATCH_WORKS, WATCH_WAITS };
static inline int watch_suspicion(int r, double now) {
    const WatchPeer* p = &watch.peers[r];
    if (p->left) { return WATCH_LEFT; }
    if (now - p->heard > 4 * watch.interval + 0.1) { return WATCH_SILENT; }
    return p->waiting ? WATCH_WAITS : WATCH_WORKS;
}

// Of equally suspicious ranks the one whose step is least, then who has come to the fewest exchanges and collectives,
// then whose number of progress is least; of ranks that wait that only says how much each had to do before.
static inline int watch_compare(int a, int b, double now) {
    int x = watch_suspicion(a, now), y = watch_suspicion(b, now);
    const WatchPeer *p = &watch.peers[a], *q = &watch.peers[b];
    if (x != y) { return x - y; }
    if (p->step != q->step) { return p->step < q->step ? -1 : 1; }
    if (p->joined != q->joined) { return p->joined < q->joined ? -1 : 1; }
    if (x == WATCH_WAITS) { return 0; }
    return p->progress == q->progress ? 0 : p->progress < q->progress ? -1 : 1;
}

// All wait for one another in the same place: which of them a collective waits for its library does not tell, and neither
// do the ranks' processes, which all have called it.
static inline void watch_accuse_none(const char* more) {
    char text[sizeof(((WatchMessage*)0)->text)] = "all ";
    watch_number(text, sizeof text, ranks.count);
    watch_word(text, sizeof text, " ranks answer and wait for one another at step ");
    watch_number(text, sizeof text, watch.peers[0].step);
    watch_word(text, sizeof text,
               ", in the same exchange: a GPU or the network between them does not do its part, and ");
    watch_word(text, sizeof text, "whose it is cannot be seen from here");
    watch_word(text, sizeof text, more);
    watch_end(text, __atomic_load_n(&ranks.alike, __ATOMIC_RELAXED));
}

static inline void watch_judge(double now) {
    int culprit = 0, equals = 0;
    const int known = ranks.rank == 0 ? ranks.count : 1;
    for (int r = 1; r < known; r++) { culprit = watch_compare(r, culprit, now) < 0 ? r : culprit; }
    for (int r = 0; r < known; r++) { equals += r != culprit && watch_compare(r, culprit, now) == 0; }
    char more[160] = "; nobody has progressed for ";
    watch_word(more, sizeof more, watch.seconds);
    watch_word(more, sizeof more, " (--nccl-timeout)");
    const int suspicion = watch_suspicion(culprit, now);
    if (suspicion == WATCH_WAITS && equals + 1 == ranks.count) {
        watch_accuse_none(more);
        return;
    }
    if (suspicion >= WATCH_WORKS && (known == 1 || equals + 1 == ranks.count)) {
        watch_accuse(culprit, known == 1 ? " answers and is" : ", as all ranks, answers and is", more);
        return;
    }
    if (equals) {
        watch_word(more, sizeof more, "; the same is true of as many other ranks as ");
        watch_number(more, sizeof more, equals);
    }
    watch_accuse(culprit,
                 suspicion == WATCH_LEFT ? " has ended normally, before the others,"
                 : suspicion == WATCH_SILENT
                     ? " is no longer heard of (stopped, or its machine or network is gone), last"
                 : suspicion == WATCH_WAITS ? " waits in an earlier exchange than others"
                                            : " hangs",
                 more);
}

// ---- the thread ----

// Notes what the main thread of this rank has done.
static inline void watch_myself(double now) {
    WatchPeer* me = &watch.peers[ranks.rank];
    me->step = __atomic_load_n(&ranks.step, __ATOMIC_RELAXED);
    me->progress = __atomic_load_n(&ranks.progress, __ATOMIC_RELAXED);
    me->joined = __atomic_load_n(&ranks.joined, __ATOMIC_RELAXED);
    me->waiting = __atomic_load_n(&ranks.waiting, __ATOMIC_RELAXED);
    me->heard = now;
}

// Notes anybody's progress, and judges when there was none for too long. Rank 0 knows first: the others leave it to rank
// 0 as long as they hear of it.
static inline void watch_progress(double now) {
    uint64_t total = 0;
    for (int r = 0; r < ranks.count; r++) { total += watch.peers[r].progress; }
    if (total != watch.total) { watch.total = total, watch.progressed = now; }
    double most = ranks.timeout;
    if (ranks.rank != 0 && now - watch.peers[0].heard < 4 * watch.interval + 0.1) { most += 4 * watch.interval + 1; }
    if (now - watch.progressed <= most) { return; }
    if (WATCH_GET(watch.failing)) { watch_exit(0); }  // it cannot even fail
    watch_judge(now);
}

// After the goodbye: rank 0 closes first, so that what was sent to it is read before the connection is reset.
static inline void watch_leave(void) {
    WatchPeer* p = &watch.peers[0];
    if (ranks.rank == 0 || p->fd < 0) { return; }
    shutdown(p->fd, SHUT_WR);
    for (double end = now_seconds() + 1; now_seconds() < end;) {
        struct pollfd polled = {p->fd, POLLIN, 0};
        if (poll(&polled, 1, 50) > 0 && recv(p->fd, p->in, sizeof p->in, MSG_DONTWAIT) <= 0) { return; }
    }
}

// Says to the others what the main thread wants them to know. 1 if the thread is to end.
static inline int watch_speak(void) {
    char bytes[16];
    while (read(watch.wake[0], bytes, sizeof bytes) > 0) {}
    if (WATCH_GET(watch.leaving)) {
        for (int r = 0; r < ranks.count; r++) { watch_send(&watch.peers[r], WATCH_BYE, watch.total, ""); }
        watch_leave();
        return 1;
    }
    int failing = 1;
    if (!__atomic_compare_exchange_n(&watch.failing, &failing, 2, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) { return 0; }
    if (ranks.rank == 0) {
        char more[sizeof watch.failure + 2] = ": ";
        watch_word(more, sizeof more, watch.failure);
        watch_accuse(0, " failed", more);
    } else {
        watch_send(&watch.peers[0], WATCH_FAIL, watch.peers[ranks.rank].progress, watch.failure);
        if (watch.peers[0].fd < 0) { WATCH_SET(watch.told, 1); }
    }
    return 0;
}

static inline void watch_beat(void) {
    for (int r = 0; r < ranks.count; r++) {
        watch_send(&watch.peers[r], WATCH_BEAT, ranks.rank == 0 ? watch.total : watch.peers[ranks.rank].progress, "");
    }
}

// Waits for messages, for at most `most` seconds.
static inline void watch_wait(double most) {
    int n = 0;
    watch.polled[n].fd = watch.wake[0];
    watch.polled[n++].events = POLLIN;
    for (int r = 0; r < ranks.count; r++) {
        watch.polled[n].fd = watch.peers[r].fd;
        watch.polled[n++].events = (short)(POLLIN | (watch.peers[r].out_bytes ? POLLOUT : 0));
    }
    poll(watch.polled, (nfds_t)n, most <= 0 ? 0 : (int)(1000 * most) + 1);
}

static void* watch_main(void* unused) {
    double beat = now_seconds();
    for (;;) {
        double begin = now_seconds(), most = beat - begin;
        watch_wait(most);
        double now = now_seconds(), lost = now - begin - (most > 0 ? most : 0);
        // This process, or all of them, stood still, by Ctrl-Z or with its machine: that is nobody's fault.
        if (lost > 1) {
            watch.progressed += lost;
            for (int r = 0; r < ranks.count; r++) { watch.peers[r].heard += lost; }
        }
        for (int r = 0; r < ranks.count; r++) {
            watch_flush(&watch.peers[r]);
            watch_read(r);
        }
        watch_myself(now);
        if (watch_speak()) { return unused; }
        watch_progress(now);
        const int news = !watch.signalled && WATCH_GET(ranks.signal);
        if (now >= beat || news) {
            watch.signalled |= news;
            watch_beat();
            beat = now + watch.interval;
        }
        if (ranks.parent && (int64_t)getppid() != ranks.parent) { _exit(1); }
        if (WATCH_GET(watch.exiting)) { watch_exit(1); }
    }
}

// Waits for the moment that ranks.abort is needed: making a thread then might hang.
static void* watch_abort_main(void* unused) {
    char byte;
    ssize_t n;
    while ((n = read(watch.abort[0], &byte, 1)) < 0 && errno == EINTR) {}
    if (n == 1 && byte == 1) {
        void (*end)(void) = __atomic_load_n(&ranks.abort, __ATOMIC_ACQUIRE);
        if (end) { end(); }
        WATCH_SET(watch.aborted, 1);
    }
    return unused;
}

// ---- what the main thread calls ----

static inline void watch_wake(void) {
    char byte = 1;
    if (write(watch.wake[1], &byte, 1) < 0) { return; }  // full: it will wake
}

// Waits for the watchdog's verdict, which ends this process; returns after `most` seconds without one.
static void watch_verdict(double most) {
    for (double end = now_seconds() + most; now_seconds() < end && !WATCH_GET(watch.failing);) { poll(NULL, 0, 10); }
}

// From here on the process has watch_patience seconds to end: what exit() calls, the destructors of CUDA above all, may
// hang.
static void watch_at_exit(void) {
    if (!watch.running) { return; }
    WATCH_SET(watch.exiting, 1);
    watch_wake();
}

// die() comes here with its message before it prints it, and returns if it is to be printed.
static void watch_ask(const char* message) {
    static int first;
    if (ranks.rank == 0 || !__atomic_load_n(&ranks.alike, __ATOMIC_RELAXED)) { return; }
    if (__atomic_exchange_n(&first, 1, __ATOMIC_ACQ_REL)) { return; }
    snprintf(watch.question, sizeof watch.question, "%s", message);
    WATCH_SET(watch.asking, 1);
    double end = now_seconds() + watch_asks;
    while (now_seconds() < end && WATCH_GET(watch.asking) == 1) { poll(NULL, 0, 10); }
    WATCH_SET(watch.asking, 2);
}

// die() comes here with its message: the others are told, before this process ends. And then with NULL.
static void watch_fail(const char* message) {
    static int first;
    if (!message) {
        watch_at_exit();
        return;
    }
    if (__atomic_exchange_n(&first, 1, __ATOMIC_ACQ_REL)) { return; }
    snprintf(watch.failure, sizeof watch.failure, "%s", message);
    WATCH_SET(watch.failing, 1);
    watch_wake();
    for (double end = now_seconds() + 1; now_seconds() < end && !WATCH_GET(watch.told);) { poll(NULL, 0, 5); }
}

static inline void watch_pipe(int* ends) {
    if (pipe(ends) != 0) { die("the watchdog of the ranks: %s", strerror(errno)); }
    for (int i = 0; i < 2; i++) { fcntl(ends[i], F_SETFD, FD_CLOEXEC); }
}

// Starts the watchdog, after the meeting.
static inline void watch_start(void) {
    const size_t n = (size_t)ranks.count;
    watch.peers = (WatchPeer*)xalloc(n, sizeof(WatchPeer), "the watchdog");
    watch.polled = (struct pollfd*)xalloc(1 + n, sizeof(struct pollfd), "the watchdog");
    watch.names = (char(*)[128])xalloc(n, sizeof *watch.names, "the watchdog");
    watch.progressed = now_seconds();
    watch.interval = fmin(1, ranks.timeout / 10);
    snprintf(watch.seconds, sizeof watch.seconds, "%g s", ranks.timeout);
    for (int r = 0; r < ranks.count; r++) {
        watch.peers[r].fd = ranks.watches[r];
        watch.peers[r].heard = watch.progressed;
        rank_name(watch.names[r], sizeof watch.names[r], r);
        watch.echoes |= r < ranks.rank && strcmp(ranks.peers[r].host, ranks.host) == 0;
    }
    watch_pipe(watch.wake);
    watch_pipe(watch.abort);
    for (int i = 0; i < 2; i++) { fcntl(watch.wake[i], F_SETFL, O_NONBLOCK); }
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are the main thread's
    int error = pthread_create(&watch.aborter, NULL, watch_abort_main, NULL);
    if (!error) { error = pthread_create(&watch.thread, NULL, watch_main, NULL); }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) { die("the watchdog of the ranks could not be started: %s", strerror(error)); }
    watch.running = 1;
    ranks.verdict = watch_verdict;
    die_first = watch_ask;
    die_tell = watch_fail;
    atexit(watch_at_exit);
}

// Says goodbye, and ends the watchdog.
static inline void watch_stop(void) {
    if (!watch.running) { return; }
    WATCH_SET(watch.leaving, 1);
    watch_wake();
    pthread_join(watch.thread, NULL);
    char byte = 2;  // there is nothing to end
    if (write(watch.abort[1], &byte, 1) == 1) { pthread_join(watch.aborter, NULL); }
    watch.running = 0;
    ranks.verdict = NULL;
    die_first = NULL;
    die_tell = NULL;
}

#endif

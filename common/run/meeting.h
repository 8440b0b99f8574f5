// meeting.h - how the ranks of a run find one another, and what they tell each other afterwards: small things, over TCP.
//
// Rank 0 listens; every other connects twice, once for exchanges and once for the watchdog (watch.h), which must not wait
// for one another. It says hello: who it is, and of which run. Whoever says anything else is dropped, a port scanner as
// well as the rank of another job; a rank that comes twice or belongs to another program is an error. When all are there
// rank 0 tells everybody who they are. Without MPI: what is exchanged here is small, and gradients go through NCCL.
//
// Exchanges come in the same order on every rank, each with a name. Every rank says first which exchange it is at, so
// that two ranks at different places are an error, and every exchange is a barrier as well.
#ifndef PONDER_MEETING_H
#define PONDER_MEETING_H

#include "launch.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

enum { MEET_VERSION = 2, MEET_TEXT = 1024 };

// ---- connections ----

typedef enum { LINK_GOOD, LINK_CLOSED, LINK_LATE } LinkState;

// A connection never blocks, does not wait to fill packets, and goes to no child.
static inline void link_prepare(int fd) {
    int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

// Waits until fd can be read (POLLIN) or written (POLLOUT), or until the deadline (now_seconds(); INFINITY: for ever).
static inline LinkState link_wait(int fd, short events, double deadline) {
    for (;;) {
        double left = deadline - now_seconds();
        struct pollfd p = {fd, events, 0};
        int n = poll(&p, 1, left <= 0 ? 0 : left > 1 ? 1000 : (int)(1000 * left) + 1);
        if (n > 0) { return LINK_GOOD; }
        if (n < 0 && errno != EINTR) { return LINK_CLOSED; }
        if (left <= 0) { return LINK_LATE; }
    }
}

// data[bytes], whole, to the other end; or from there.
static inline LinkState link_send(int fd, const void* data, size_t bytes, double deadline) {
    const char* p = (const char*)data;
    while (bytes > 0) {
        ssize_t n = send(fd, p, bytes, MSG_NOSIGNAL);
        if (n > 0) { p += n, bytes -= (size_t)n; }
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) { return LINK_CLOSED; }
        LinkState state = bytes > 0 ? link_wait(fd, POLLOUT, deadline) : LINK_GOOD;
        if (state != LINK_GOOD) { return state; }
    }
    return LINK_GOOD;
}
static inline LinkState link_receive(int fd, void* data, size_t bytes, double deadline) {
    char* p = (char*)data;
    while (bytes > 0) {
        ssize_t n = recv(fd, p, bytes, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) { return LINK_CLOSED; }
        if (n > 0) { p += n, bytes -= (size_t)n; }
        LinkState state = n < 0 ? link_wait(fd, POLLIN, deadline) : LINK_GOOD;
        if (state != LINK_GOOD) { return state; }
    }
    return LINK_GOOD;
}

// "rank 3 (HOST, GPU 1)" into out[room]: after the meeting.
static inline const char* rank_name(char* out, size_t room, int rank) {
    snprintf(out, room, "rank %d (%s, GPU %d)", rank, ranks.peers[rank].host, ranks.peers[rank].local_rank);
    return out;
}

// ---- what is said at the meeting ----

enum { LINK_EXCHANGES, LINK_WATCH, LINK_PURPOSES };

// What every version of this protocol begins with.
typedef struct {
    char magic[8];
    int32_t version, rank;
} HelloBegin;
typedef struct {
    HelloBegin begin;
    uint64_t job;
    int32_t purpose, count;
    RankPeer who;
    char text[256];  // the same on all ranks: program and version
} Hello;

typedef enum {
    MEET_WELCOME,  // wait for the others
    MEET_GO,       // all are here; the table of all ranks follows, RankPeer[count]
    MEET_REFUSED,  // an error of the whole run, which `text` tells
    MEET_STRANGER  // not the run that you look for; look again
} MeetKind;
typedef struct {
    char magic[8];
    int32_t version, kind;
    char text[MEET_TEXT];
} MeetAnswer;

static const char meet_magic[9] = "RANKS/1\n";

static inline void meet_answer(int fd, MeetKind kind, const char* text) {
    MeetAnswer answer;
    memset(&answer, 0, sizeof answer);
    memcpy(answer.magic, meet_magic, sizeof answer.magic);
    answer.version = MEET_VERSION;
    answer.kind = (int32_t)kind;
    snprintf(answer.text, sizeof answer.text, "%s", text);
    link_send(fd, &answer, sizeof answer, now_seconds() + 5);  // whoever does not read it learns nothing
}

static inline void meet_introduce(Hello* hello, const char* text) {
    memset(hello, 0, sizeof *hello);
    memcpy(hello->begin.magic, meet_magic, sizeof hello->begin.magic);
    hello->begin.version = MEET_VERSION;
    hello->begin.rank = ranks.rank;
    hello->job = ranks.job;
    hello->count = ranks.count;
    memcpy(hello->who.host, ranks.host, sizeof hello->who.host);
    hello->who.pid = (int32_t)getpid();
    hello->who.local_rank = ranks.local_rank;
    if (strlen(text) >= sizeof hello->text) { die("the text that all ranks share is too long: '%s'", text); }
    snprintf(hello->text, sizeof hello->text, "%s", text);
}

// ---- the ranks that connect ----

// A connection to one of the addresses of rank 0, -1 with `why` where there is none.
static inline int meet_dial(char* why, size_t room, double deadline) {
    char port[16];
    struct addrinfo wish, *found = NULL;
    memset(&wish, 0, sizeof wish);
    wish.ai_family = AF_UNSPEC;
    wish.ai_socktype = SOCK_STREAM;
    snprintf(port, sizeof port, "%d", ranks.port);
    int error = getaddrinfo(ranks.master, port, &wish, &found);
    if (error != 0) {
        snprintf(why, room, "its name is not known: %s", gai_strerror(error));
        return -1;
    }
    int fd = -1;
    for (struct addrinfo* a = found; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
        if (fd < 0) { continue; }
        link_prepare(fd);
        int problem = connect(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
        if (problem == EINPROGRESS) {
            double most = now_seconds() + 3;
            socklen_t size = sizeof problem;
            LinkState state = link_wait(fd, POLLOUT, most < deadline ? most : deadline);
            problem = ETIMEDOUT;
            if (state == LINK_GOOD) { getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &size); }
        }
        if (problem) {
            snprintf(why, room, "%s", strerror(problem));
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    return fd;
}

// Says hello until rank 0 bids welcome; the connection, or -1 where there is news on the first one.
static inline int meet_connect(Hello* hello, int purpose, double begin) {
    const double deadline = begin + ranks.patience;
    double pause = 0.02;
    char why[256] = "no answer";
    hello->purpose = purpose;
    for (;;) {
        int fd = meet_dial(why, sizeof why, deadline);
        if (fd >= 0) {
            MeetAnswer answer;
            LinkState state = link_send(fd, hello, sizeof *hello, deadline);
            if (state == LINK_GOOD) { state = link_receive(fd, &answer, sizeof answer, deadline); }
            if (state == LINK_GOOD && memcmp(answer.magic, meet_magic, sizeof answer.magic) == 0) {
                answer.text[sizeof answer.text - 1] = 0;
                if (answer.kind == MEET_WELCOME) { return fd; }
                if (answer.kind == MEET_REFUSED) { die("%s", answer.text); }
                snprintf(why, sizeof why, "%.250s", answer.text);
            } else {
                snprintf(why, sizeof why, "%s",
                         state == LINK_GOOD     ? "what answers there is no rank 0"
                         : state == LINK_CLOSED ? "what listens there hangs up"
                                                : "what listens there says nothing");
            }
            close(fd);
        }
        if (ranks.links[0] >= 0 && link_wait(ranks.links[0], POLLIN, 0) == LINK_GOOD) { return -1; }
        double now = now_seconds();
        if (now >= deadline) {
            die("rank 0 of %d could not be reached at %s, port %d, within %g s (--meet-timeout): %s", ranks.count,
                ranks.master, ranks.port, ranks.patience, why);
        }
        usleep((useconds_t)(1e6 * fmin(pause, deadline - now)));
        pause = fmin(2 * pause, 0.5);
    }
}

// Ranks 1 and up.
static inline void meet_join(Hello* hello) {
    double begin = now_seconds();
    ranks.links[0] = meet_connect(hello, LINK_EXCHANGES, begin);
    ranks.watches[0] = meet_connect(hello, LINK_WATCH, begin);
    // Rank 0 knows its own deadline, and who is missing; it is waited for longer than it can take.
    MeetAnswer answer;
    double deadline = now_seconds() + 2 * ranks.patience + 10;
    LinkState state = link_receive(ranks.links[0], &answer, sizeof answer, deadline);
    if (state == LINK_GOOD && answer.kind != MEET_GO) {
        answer.text[sizeof answer.text - 1] = 0;
        die("%s", answer.text);
    }
    if (state == LINK_GOOD) {
        state = link_receive(ranks.links[0], ranks.peers, (size_t)ranks.count * sizeof(RankPeer), deadline);
    }
    if (state != LINK_GOOD) {
        die("rank 0 at %s, port %d, %s while the ranks were gathering", ranks.master, ranks.port,
            state == LINK_CLOSED ? "has ended" : "no longer answers");
    }
}

// ---- rank 0 ----

// A connection that has not said who it is.
typedef struct {
    int fd;
    size_t bytes;  // of the hello that have come
    double since;
    Hello hello;
} Caller;

typedef struct {
    const Hello* mine;
    int listener;
    Caller* callers;  // (most)
    int count, most;
    int strangers, missing;  // connections that were no ranks of this run; ones that are still to come
    struct pollfd* polled;   // (1 + most + 2 * ranks.count)
} Meeting;

// A socket that listens on every address of this machine, in both families where there is IPv6.
static inline int meet_listen(void) {
    int yes = 1, no = 0, fd = socket(AF_INET6, SOCK_STREAM, 0), error = 0;
    struct sockaddr_in6 six;
    memset(&six, 0, sizeof six);
    six.sin6_family = AF_INET6;
    six.sin6_addr = in6addr_any;
    six.sin6_port = htons((uint16_t)ranks.port);
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
        error = bind(fd, (struct sockaddr*)&six, sizeof six) == 0 ? 0 : errno;
    }
    if (fd < 0 || (error && error != EADDRINUSE)) {
        if (fd >= 0) { close(fd); }
        struct sockaddr_in four;
        memset(&four, 0, sizeof four);
        four.sin_family = AF_INET;
        four.sin_addr.s_addr = htonl(INADDR_ANY);
        four.sin_port = htons((uint16_t)ranks.port);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd >= 0) { setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes); }
        error = fd >= 0 && bind(fd, (struct sockaddr*)&four, sizeof four) == 0 ? 0 : errno;
    }
    if (!error && listen(fd, SOMAXCONN) != 0) { error = errno; }
    if (error) {
        die("rank 0 cannot listen on port %d: %s%s", ranks.port, strerror(error),
            error == EADDRINUSE ? "; another run may use it: --port P, the same on all ranks, names another" : "");
    }
    return fd;
}

// Ends the run: tells all that have come, and dies.
__attribute__((noreturn)) static inline void meet_refuse(Meeting* m, const char* text) {
    for (int r = 0; r < ranks.count; r++) {
        if (ranks.links[r] >= 0) { meet_answer(ranks.links[r], MEET_REFUSED, text); }
    }
    for (int i = 0; i < m->count; i++) { meet_answer(m->callers[i].fd, MEET_REFUSED, text); }
    die("%s", text);
}

// "2, 5 to 7" of the ranks that are not `there`; the caller frees it.
static inline char* ranks_absent(const int* there) {
    StringBuilder sb = {0};
    sb_append(&sb, "", 0);
    for (int r = 0; r < ranks.count; r++) {
        int last = r;
        while (last < ranks.count && !there[last]) { last++; }
        if (last == r) { continue; }
        sb_printf(&sb, last - r > 1 ? "%s%d to %d" : "%s%d", sb.size ? ", " : "", r, last - 1);
        r = last;
    }
    return sb.data;
}

// What is wrong with a hello of our protocol, malloc'd; NULL: nothing.
static inline char* meet_objection(const Meeting* m, const Hello* h) {
    const Hello* mine = m->mine;
    const int r = h->begin.rank;
    const char* me = mine->who.host;
    if (h->count != mine->count) {
        return format_string(
            "rank %d (%s, process %d) says that there are %d ranks, rank 0 (%s, process %d) that there are %d", r,
            h->who.host, h->who.pid, h->count, me, mine->who.pid, mine->count);
    }
    if (r < 0 || r >= mine->count || h->purpose < 0 || h->purpose >= LINK_PURPOSES) {
        return format_string("%s, process %d, says that it is rank %d of %d", h->who.host, h->who.pid, r, h->count);
    }
    if (strcmp(h->text, mine->text) != 0) {
        return format_string(
            "rank %d (%s, process %d) is '%s', rank 0 (%s, process %d) is '%s': expected the same on all ranks", r,
            h->who.host, h->who.pid, h->text, me, mine->who.pid, mine->text);
    }
    const int* links = h->purpose == LINK_EXCHANGES ? ranks.links : ranks.watches;
    const RankPeer* other = &ranks.peers[r];
    if (r == 0 || links[r] >= 0 ||
        (other->pid && (other->pid != h->who.pid || strcmp(other->host, h->who.host) != 0))) {
        return format_string("two processes say that they are rank %d of %d: %s, process %d, and %s, process %d", r,
                             mine->count, other->host, other->pid, h->who.host, h->who.pid);
    }
    return NULL;
}

// Whether a caller's bytes so far can be a hello; -1: never, 0: more must come, 1: whole.
static inline int meet_judge(const Caller* c) {
    const HelloBegin* begin = &c->hello.begin;
    if (memcmp(begin->magic, meet_magic, min_size(c->bytes, sizeof begin->magic)) != 0) { return -1; }
    if (c->bytes < sizeof *begin) { return 0; }
    return c->bytes == sizeof c->hello || begin->version != MEET_VERSION;
}

// A caller has said hello: it is a rank, or the run ends. 1 if its connection is kept.
static inline int meet_hear(Meeting* m, Caller* c) {
    Hello* h = &c->hello;
    char* objection = NULL;
    if (h->begin.version != MEET_VERSION) {
        objection =
            format_string("rank %d speaks version %d of the ranks' protocol, rank 0 (%s, process %d) version %d: "
                          "expected the same build of the program on all ranks",
                          h->begin.rank, h->begin.version, m->mine->who.host, m->mine->who.pid, MEET_VERSION);
    } else {
        h->text[sizeof h->text - 1] = h->who.host[sizeof h->who.host - 1] = 0;
        if (h->job != m->mine->job) {
            meet_answer(c->fd, MEET_STRANGER, "rank 0 of another run listens there; --port P takes another");
            return 0;
        }
        objection = meet_objection(m, h);
    }
    if (objection) { meet_refuse(m, objection); }
    (h->purpose == LINK_EXCHANGES ? ranks.links : ranks.watches)[h->begin.rank] = c->fd;
    ranks.peers[h->begin.rank] = h->who;
    m->missing--;
    meet_answer(c->fd, MEET_WELCOME, "");
    return 1;
}

// Reads what a caller says. 1 if there is nothing more to wait for from it.
static inline int meet_listen_to(Meeting* m, Caller* c, double now) {
    int verdict = 0;
    for (;;) {
        size_t want = c->bytes < sizeof(HelloBegin) ? sizeof(HelloBegin) : sizeof c->hello;
        ssize_t n = recv(c->fd, (char*)&c->hello + c->bytes, want - c->bytes, 0);
        if (n < 0 && errno == EINTR) { continue; }
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) { break; }
        if (n > 0) { c->bytes += (size_t)n; }
        verdict = n > 0 ? meet_judge(c) : -1;
        if (verdict != 0) { break; }
    }
    if (verdict == 0 && now < c->since + 10) { return 0; }
    if (verdict == 1 && meet_hear(m, c)) { return 1; }
    close(c->fd);
    m->strangers++;
    return 1;
}

// A rank that has come and is gone again while the others were awaited ends the run.
static inline void meet_check_present(Meeting* m) {
    for (int r = 1; r < ranks.count; r++) {
        char byte;
        int fd = ranks.links[r];
        ssize_t n = fd >= 0 ? recv(fd, &byte, 1, MSG_PEEK) : 1;
        if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))) { continue; }
        close(fd);
        ranks.links[r] = -1;
        meet_refuse(m, format_string("rank %d (%s, process %d) has ended while the ranks were gathering", r,
                                     ranks.peers[r].host, ranks.peers[r].pid));
    }
}

static inline struct pollfd meet_polled(int fd) {
    struct pollfd p = {fd, POLLIN, 0};
    return p;
}

// One round: waits, takes new connections, and hears those that say something.
static inline void meet_round(Meeting* m, double deadline) {
    int n = 0;
    m->polled[n++] = meet_polled(m->listener);
    for (int i = 0; i < m->count; i++) { m->polled[n++] = meet_polled(m->callers[i].fd); }
    for (int r = 1; r < ranks.count; r++) { m->polled[n++] = meet_polled(ranks.links[r]); }
    double left = deadline - now_seconds();
    poll(m->polled, (nfds_t)n, left > 0.5 ? 500 : left > 0 ? (int)(1000 * left) + 1 : 0);
    double now = now_seconds();
    int kept = 0;
    for (int i = 0; i < m->count; i++) {
        Caller c = m->callers[i];
        if (!meet_listen_to(m, &c, now)) { m->callers[kept++] = c; }
    }
    m->count = kept;
    meet_check_present(m);
    while (m->count < m->most) {
        int fd = accept(m->listener, NULL, NULL);
        if (fd < 0) { break; }
        link_prepare(fd);
        Caller* c = &m->callers[m->count++];
        memset(c, 0, sizeof *c);
        c->fd = fd;
        c->since = now;
    }
}

// At the deadline: who is missing.
__attribute__((noreturn)) static inline void meet_give_up(Meeting* m) {
    int* there = (int*)xalloc((size_t)ranks.count, sizeof(int), "the ranks that are there");
    for (int r = 0; r < ranks.count; r++) { there[r] = r == 0 || (ranks.links[r] >= 0 && ranks.watches[r] >= 0); }
    char *absent = ranks_absent(there), *strange = format_string("%s", "");
    if (m->strangers) {
        strange = format_string("; %d connection%s came that %s no rank of this run", m->strangers,
                                m->strangers == 1 ? "" : "s", m->strangers == 1 ? "was" : "were");
    }
    meet_refuse(
        m, format_string("of %d ranks these did not come to rank 0 (%s, port %d) within %g s (--meet-timeout): %s%s",
                         ranks.count, ranks.host, ranks.port, ranks.patience, absent, strange));
}

// Rank 0.
static inline void meet_host(const Hello* hello) {
    Meeting m;
    memset(&m, 0, sizeof m);
    m.mine = hello;
    m.listener = ranks.listener >= 0 ? ranks.listener : meet_listen();
    link_prepare(m.listener);
    m.most = LINK_PURPOSES * ranks.count + 64;
    m.missing = LINK_PURPOSES * (ranks.count - 1);
    m.callers = (Caller*)xalloc((size_t)m.most, sizeof(Caller), "the meeting of the ranks");
    m.polled =
        (struct pollfd*)xalloc((size_t)(1 + m.most + ranks.count), sizeof(struct pollfd), "the meeting of the ranks");
    double deadline = now_seconds() + ranks.patience;
    while (m.missing > 0) {
        if (now_seconds() > deadline) { meet_give_up(&m); }
        meet_round(&m, deadline);
    }
    for (int i = 0; i < m.count; i++) { close(m.callers[i].fd); }
    close(m.listener);
    ranks.listener = -1;
    for (int r = 1; r < ranks.count; r++) {
        meet_answer(ranks.links[r], MEET_GO, "");
        link_send(ranks.links[r], ranks.peers, (size_t)ranks.count * sizeof(RankPeer), now_seconds() + 10);
    }
    free(m.callers);
    free(m.polled);
}

// Where nobody said which of a machine's ranks one is, it follows from the order of all.
static inline void meet_count_locals(void) {
    for (int r = 0; r < ranks.count; r++) {
        int before = 0, all = 0;
        for (int q = 0; q < ranks.count; q++) {
            int same = strcmp(ranks.peers[q].host, ranks.peers[r].host) == 0;
            all += same;
            before += same && q < r;
        }
        if (ranks.peers[r].local_rank < 0) { ranks.peers[r].local_rank = before; }
        if (r == ranks.rank && ranks.local_count == 0) { ranks.local_count = all; }
    }
    ranks.local_rank = ranks.peers[ranks.rank].local_rank;
    ranks_label();
}

// All ranks meet. `text` must be the same on all: the program and its version.
static inline void ranks_meet(const char* text) {
    const size_t n = (size_t)ranks.count;
    ranks.peers = (RankPeer*)xalloc(n, sizeof(RankPeer), "the ranks");
    ranks.links = (int*)xalloc(n, sizeof(int), "the ranks");
    ranks.watches = (int*)xalloc(n, sizeof(int), "the ranks");
    for (size_t r = 0; r < n; r++) { ranks.links[r] = ranks.watches[r] = -1; }
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < 4 * n + 256) {
        files.rlim_cur = files.rlim_max < 4 * n + 256 ? files.rlim_max : 4 * n + 256;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    Hello hello;
    meet_introduce(&hello, text);
    ranks.peers[ranks.rank] = hello.who;
    if (ranks.rank == 0) {
        meet_host(&hello);
    } else {
        meet_join(&hello);
    }
    meet_count_locals();
}

// ---- exchanges ----

typedef enum { EXCHANGE_SHARE, EXCHANGE_GATHER, EXCHANGE_BARRIER, EXCHANGE_TROUBLE } ExchangeKind;
typedef struct {
    int32_t kind, rank;
    uint64_t number, bytes;  // which of the exchanges since the meeting; bytes that each rank gives or gets
    char name[64];
} Exchange;
static uint64_t exchange_number;

// An exchange in words: the barrier "save".
static inline char* exchange_words(const Exchange* e) {
    static const char* const kinds[] = {"to share", "to gather", "to the barrier"};
    const char* kind = e->kind >= 0 && e->kind < EXCHANGE_TROUBLE ? kinds[e->kind] : "with something unknown,";
    return e->kind == EXCHANGE_BARRIER
               ? format_string("%s \"%.63s\" (exchange %llu)", kind, e->name, (unsigned long long)e->number)
               : format_string("%s \"%.63s\" of %llu bytes (exchange %llu)", kind, e->name,
                               (unsigned long long)e->bytes, (unsigned long long)e->number);
}

// A connection has failed. Where the watchdog runs it knows more, and ends this process.
__attribute__((noreturn)) static inline void exchange_failed(const Exchange* mine, int with, LinkState state) {
    if (ranks.verdict) { ranks.verdict(3); }
    char name[128];
    rank_name(name, sizeof name, with);
    if (state == LINK_CLOSED) { die("%s has ended; it did not come %s", name, exchange_words(mine)); }
    die("%s did not come %s within %g s", name, exchange_words(mine), ranks.patience);
}

// Rank 0 tells all that an exchange does not fit, and dies.
__attribute__((noreturn)) static inline void exchange_refuse(const Exchange* mine, const Exchange* other) {
    char names[2][128];
    char* text = format_string("%s comes %s, %s %s: expected the same on all ranks",
                               rank_name(names[0], sizeof names[0], other->rank), exchange_words(other),
                               rank_name(names[1], sizeof names[1], 0), exchange_words(mine));
    Exchange trouble = *mine;
    trouble.kind = EXCHANGE_TROUBLE;
    char told[MEET_TEXT] = "";
    snprintf(told, sizeof told, "%s", text);
    for (int r = 1; r < ranks.count; r++) {
        link_send(ranks.links[r], &trouble, sizeof trouble, now_seconds() + 1);
        link_send(ranks.links[r], told, sizeof told, now_seconds() + 1);
    }
    die("%s", text);
}

// Rank 0: hears all, and answers all with answer[answer_bytes].
static inline void exchange_host(const Exchange* mine, char* gathered, const void* answer, size_t answer_bytes,
                                 double deadline) {
    for (int r = 1; r < ranks.count; r++) {
        Exchange other;
        LinkState state = link_receive(ranks.links[r], &other, sizeof other, deadline);
        if (state != LINK_GOOD) { exchange_failed(mine, r, state); }
        other.rank = r;
        if (other.kind != mine->kind || other.number != mine->number || other.bytes != mine->bytes ||
            strncmp(other.name, mine->name, sizeof other.name) != 0) {
            exchange_refuse(mine, &other);
        }
        if (gathered) {
            state = link_receive(ranks.links[r], gathered + (size_t)r * mine->bytes, mine->bytes, deadline);
        }
        if (state != LINK_GOOD) { exchange_failed(mine, r, state); }
    }
    for (int r = 1; r < ranks.count; r++) {
        LinkState state = link_send(ranks.links[r], mine, sizeof *mine, deadline);
        if (state == LINK_GOOD) { state = link_send(ranks.links[r], answer, answer_bytes, deadline); }
        if (state != LINK_GOOD) { exchange_failed(mine, r, state); }
    }
}

// Ranks 1 and up: give[give_bytes] to rank 0, take[take_bytes] from there.
static inline void exchange_join(const Exchange* mine, const void* give, size_t give_bytes, void* take,
                                 size_t take_bytes, double deadline) {
    Exchange answer;
    const int fd = ranks.links[0];
    LinkState state = link_send(fd, mine, sizeof *mine, deadline);
    if (state == LINK_GOOD) { state = link_send(fd, give, give_bytes, deadline); }
    if (state == LINK_GOOD) { state = link_receive(fd, &answer, sizeof answer, deadline); }
    if (state == LINK_GOOD && answer.kind == EXCHANGE_TROUBLE) {
        char told[MEET_TEXT];
        if (link_receive(fd, told, sizeof told, deadline) == LINK_GOOD) {
            if (ranks.verdict) { ranks.verdict(3); }
            told[sizeof told - 1] = 0;
            die("%s", told);
        }
    }
    if (state == LINK_GOOD) { state = link_receive(fd, take, take_bytes, deadline); }
    if (state != LINK_GOOD) { exchange_failed(mine, 0, state); }
}

// This rank comes to something that all do together: an exchange, or a collective of NCCL. The watchdog compares.
static inline void ranks_join(void) { __atomic_fetch_add(&ranks.joined, 1, __ATOMIC_RELAXED); }

// data: bytes that rank 0 gives and that the others get; or NULL. mine, all: (bytes), (count,bytes); or NULL.
static inline void exchange(ExchangeKind kind, const char* name, void* data, const void* mine, void* all,
                            size_t bytes) {
    if (all) { memcpy((char*)all + (size_t)ranks.rank * bytes, mine, bytes); }
    if (ranks.count == 1) { return; }
    Exchange e;
    memset(&e, 0, sizeof e);
    e.kind = (int32_t)kind;
    e.rank = ranks.rank;
    e.number = ++exchange_number;
    e.bytes = bytes;
    snprintf(e.name, sizeof e.name, "%s", name);
    // The watchdog knows whether anybody progresses, and ends the run where nobody does; without it this is a deadline.
    double deadline = ranks.verdict ? (double)INFINITY : now_seconds() + ranks.patience;
    size_t whole = all ? (size_t)ranks.count * bytes : data ? bytes : 0;
    ranks_join();
    __atomic_store_n(&ranks.waiting, 1, __ATOMIC_RELAXED);
    if (ranks.rank == 0) {
        exchange_host(&e, (char*)all, all ? all : data, whole, deadline);
    } else {
        exchange_join(&e, mine, all ? bytes : 0, all ? all : data, whole, deadline);
    }
    __atomic_store_n(&ranks.waiting, 0, __ATOMIC_RELAXED);
    __atomic_fetch_add(&ranks.progress, 1, __ATOMIC_RELAXED);
}

// data[bytes] of rank 0 to all ranks.
static inline void ranks_share(void* data, size_t bytes, const char* name) {
    exchange(EXCHANGE_SHARE, name, data, NULL, NULL, bytes);
}

// mine[bytes] of every rank, in the order of the ranks, into all (count,bytes) on all ranks.
static inline void ranks_gather(const void* mine, size_t bytes, void* all, const char* name) {
    exchange(EXCHANGE_GATHER, name, NULL, mine, all, bytes);
}

// Waits until all ranks are here.
static inline void ranks_barrier(const char* name) { exchange(EXCHANGE_BARRIER, name, NULL, NULL, NULL, 0); }

#endif

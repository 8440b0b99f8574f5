// nccl_wire.h - how the ranks of the stand-in for NCCL (nccl.cpp) find each other, and how bytes go from one to another.
//
// The unique id is an address: rank 0 listens there, the others tell it who they are, and all get the list of all.
// Then every two ranks have a wire, a stream of bytes in each direction:
//   between processes of one host  a ring in shared memory. It is a file without a name (memfd), passed on over a
//                                  socket without a file, so that no death of any process leaves something behind;
//   between hosts                  a TCP connection.
// A host is what gethostname and the network namespace say; EMULATE_NCCL_HOST=name says otherwise.
//
// A list of transfers moves in both directions at once, so that no order of sends and receives can hang. As with NCCL
// a rank that waits for a dead one waits for ever; only a TCP connection tells.
#ifndef PONDER_EMULATE_NCCL_WIRE_H
#define PONDER_EMULATE_NCCL_WIRE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <deque>
#include <vector>

enum {
    MOST_RANKS = 1024,
    RING_BYTES = 256 << 10,
    CONNECT_SECONDS = 30  // how long a rank knocks at an address where nobody listens
};

// Errors that a program must not go on with: what NCCL itself would take, hang on or compute something else from.
__attribute__((format(printf, 1, 2), noreturn)) static void fatal(const char* format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fflush(stdout);
    fprintf(stderr, "emulated NCCL: %s\n", text);
    fflush(stderr);
    _exit(1);
}

static double wire_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static void wire_sleep(double seconds) {
    struct timespec t = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
    nanosleep(&t, NULL);
}
// Waits a little longer each time: ranks may be more than processors.
static void wire_idle(int times) {
    if (times < 20) {
        sched_yield();
    } else {
        wire_sleep(times < 200 ? 20e-6 : 500e-6);
    }
}

// ------------------------------------------------------------------------------------------------
// Wires

struct Ring {
    alignas(64) std::atomic<uint64_t> written;
    alignas(64) std::atomic<uint64_t> read;
    alignas(64) char data[RING_BYTES];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free, "a ring is shared by processes");

// Who a rank is; as such it travels.
struct Identity {
    uint64_t magic, secret;                // secret: the unique id's random number
    int rank, ranks, device, own_devices;  // own_devices: CUDA_VISIBLE_DEVICES gives this rank devices of its own
    int pid;
    uint32_t address;  // IPv4, network byte order, where the other hosts' ranks find it
    uint16_t port;     // network byte order
    char host[190];
};
struct Wire {
    Ring *out, *in;  // on this host
    int fd;          // elsewhere; -1 if the rank is on this host
    int closed;
};
struct Wires {
    int rank, ranks;
    std::vector<Identity> who;
    std::vector<Wire> wire;
    void* shared;
    size_t shared_bytes;
    std::atomic<int> abort;   // whoever waits stops waiting
    std::atomic<int> remote;  // rank that closed its connection in the middle, + 1
};

static size_t ring_put(Ring* r, const char* p, size_t n) {
    uint64_t at = r->written.load(std::memory_order_relaxed);
    size_t room = RING_BYTES - (size_t)(at - r->read.load(std::memory_order_acquire));
    if (n > room) { n = room; }
    size_t offset = (size_t)(at % RING_BYTES), first = n < RING_BYTES - offset ? n : RING_BYTES - offset;
    memcpy(r->data + offset, p, first);
    memcpy(r->data, p + first, n - first);
    r->written.store(at + n, std::memory_order_release);
    return n;
}
static size_t ring_get(Ring* r, char* p, size_t n) {
    uint64_t at = r->read.load(std::memory_order_relaxed);
    size_t there = (size_t)(r->written.load(std::memory_order_acquire) - at);
    if (n > there) { n = there; }
    size_t offset = (size_t)(at % RING_BYTES), first = n < RING_BYTES - offset ? n : RING_BYTES - offset;
    memcpy(p, r->data + offset, first);
    memcpy(p + first, r->data, n - first);
    r->read.store(at + n, std::memory_order_release);
    return n;
}
// As many of n bytes as go without waiting.
static size_t wire_move(Wires* w, int rank, int outwards, char* p, size_t n) {
    Wire* wire = &w->wire[(size_t)rank];
    if (wire->fd < 0) { return outwards ? ring_put(wire->out, p, n) : ring_get(wire->in, p, n); }
    if (wire->closed) { return 0; }
    ssize_t moved = outwards ? send(wire->fd, p, n, MSG_NOSIGNAL) : recv(wire->fd, p, n, 0);
    if (moved > 0) { return (size_t)moved; }
    if (moved < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) { return 0; }
    wire->closed = 1;
    w->remote = rank + 1;
    return 0;
}

// ---- lists of transfers ----

struct Greeting;
struct Transfer {
    int rank, outwards;
    char* p;
    size_t left;
    const Greeting* after;  // waits until both know that they mean the same; NULL: nothing to wait for
};
// Both sides of a call tell the other what they were called with, before any data.
struct Call {
    uint64_t number, count;  // number: the sender's own count of its calls
    int kind, type, op, root;
    int nan, none;  // nan: the sender brings one to a maximum or minimum, in which NCCL may lose it
};
struct Greeting {
    Call mine, theirs;
    int rank;
    size_t out, in;  // their transfers in the list
    int agreed;
};
struct Transfers {
    std::vector<Transfer> list;
    std::deque<Greeting> greetings;  // stay where they are
};
// Ends the program if the two do not mean the same.
static void calls_compare(int my_rank, const Call* mine, int their_rank, const Call* theirs);

static void transfer(Transfers* t, int rank, int outwards, const void* p, size_t bytes, const Greeting* after) {
    if (bytes) { t->list.push_back(Transfer{rank, outwards, (char*)p, bytes, after}); }
}
static const Greeting* greet(Transfers* t, int rank, const Call* mine) {
    t->greetings.push_back(Greeting{*mine, Call(), rank, t->list.size(), t->list.size() + 1, 0});
    Greeting* g = &t->greetings.back();
    transfer(t, rank, 1, &g->mine, sizeof g->mine, NULL);
    transfer(t, rank, 0, &g->theirs, sizeof g->theirs, NULL);
    return g;
}
// Moves what can be moved, on each wire and in each direction in the order of the list. Returns whether all is done.
static int transfers_pass(Wires* w, Transfers* t, int* moved) {
    std::vector<char> busy(2 * (size_t)w->ranks, 0);
    int done = 1;
    for (Transfer& x : t->list) {
        if (!x.left) { continue; }
        char* lane = &busy[2 * (size_t)x.rank + (size_t)x.outwards];
        if (!*lane && (!x.after || x.after->agreed)) {
            size_t n = wire_move(w, x.rank, x.outwards, x.p, x.left);
            x.p += n, x.left -= n;
            *moved |= n > 0;
        }
        *lane |= x.left > 0;
        done &= x.left == 0;
    }
    for (Greeting& g : t->greetings) {
        if (g.agreed || t->list[g.out].left || t->list[g.in].left) { continue; }
        calls_compare(w->rank, &g.mine, g.rank, &g.theirs);
        g.agreed = 1;
    }
    return done;
}
// Returns 0 if it was told to stop before all was done.
static int transfers_finish(Wires* w, Transfers* t) {
    for (int idle = 0; !w->abort; idle++) {
        int moved = 0;
        if (transfers_pass(w, t, &moved)) { return 1; }
        if (moved) { idle = 0; }
        wire_idle(idle);
    }
    return 0;
}

// ------------------------------------------------------------------------------------------------
// Addresses

static const uint64_t WIRE_MAGIC = 0x314c43434e756d65u;

// What the unique id's 128 bytes hold.
struct Invitation {
    uint64_t magic, secret;
    uint32_t address;  // IPv4, network byte order
    uint16_t port;     // network byte order
    char host[96];     // rank 0's, for messages
};

static void host_name(char* text, size_t n) {
    const char* given = getenv("EMULATE_NCCL_HOST");
    if (given && given[0]) {
        snprintf(text, n, "%s", given);
        return;
    }
    char name[65] = "", space[65] = "";
    gethostname(name, sizeof name - 1);
    if (readlink("/proc/self/ns/net", space, sizeof space - 1) < 0) { space[0] = 0; }
    snprintf(text, n, "%s %s", name, space);
}
// Where others reach this host: the first interface that is up and no loopback, or that NCCL_SOCKET_IFNAME names (the
// beginning of its name); 127.0.0.1 where there is none. In network byte order.
static uint32_t host_address(void) {
    const char* wanted = getenv("NCCL_SOCKET_IFNAME");
    struct ifaddrs* all;
    uint32_t found = htonl(INADDR_LOOPBACK);
    if (getifaddrs(&all) != 0) { return found; }
    for (struct ifaddrs* i = all; i; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || !(i->ifa_flags & IFF_UP)) { continue; }
        if (wanted && wanted[0] ? strncmp(i->ifa_name, wanted, strlen(wanted)) != 0
                                : (i->ifa_flags & IFF_LOOPBACK) || strncmp(i->ifa_name, "docker", 6) == 0) {
            continue;
        }
        found = ((struct sockaddr_in*)i->ifa_addr)->sin_addr.s_addr;
        break;
    }
    freeifaddrs(all);
    return found;
}
static void address_text(char text[32], uint32_t address, uint16_t port) {
    char number[INET_ADDRSTRLEN] = "";
    inet_ntop(AF_INET, &address, number, sizeof number);
    snprintf(text, 32, "%s:%d", number, ntohs(port));
}

// A socket that listens on a port that the system chooses; -1 if there is none.
static int wire_listen(uint16_t* port) {
    struct sockaddr_in at;
    socklen_t n = sizeof at;
    memset(&at, 0, sizeof at);
    at.sin_family = AF_INET;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) { return -1; }
    if (bind(fd, (struct sockaddr*)&at, sizeof at) != 0 || listen(fd, MOST_RANKS) != 0 ||
        getsockname(fd, (struct sockaddr*)&at, &n) != 0) {
        close(fd);
        return -1;
    }
    *port = at.sin_port;
    return fd;
}
static void wire_ready(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}
// Moves n bytes whole. Returns 0 if the other side closes, or when told to stop.
static int wire_whole(Wires* w, int fd, int outwards, void* p, size_t n) {
    for (size_t done = 0; done < n;) {
        if (w->abort) { return 0; }
        ssize_t k =
            outwards ? send(fd, (char*)p + done, n - done, MSG_NOSIGNAL) : recv(fd, (char*)p + done, n - done, 0);
        if (k > 0) {
            done += (size_t)k;
        } else if (k == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
            return 0;
        } else {
            struct pollfd wait = {fd, (short)(outwards ? POLLOUT : POLLIN), 0};
            poll(&wait, 1, 50);
        }
    }
    return 1;
}
// Knocks until somebody opens; -1 after CONNECT_SECONDS, or when told to stop.
static int wire_connect(Wires* w, const struct sockaddr* to, socklen_t bytes) {
    double start = wire_seconds();
    while (!w->abort && wire_seconds() - start < CONNECT_SECONDS) {
        int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0) { return -1; }
        int result = connect(fd, to, bytes);
        if (result != 0 && errno == EINPROGRESS) {
            struct pollfd wait = {fd, POLLOUT, 0};
            int error = 0;
            socklen_t n = sizeof error;
            for (int k = 0; k < 60 && !w->abort && poll(&wait, 1, 50) == 0; k++) {}
            result = wait.revents && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) == 0 && error == 0 ? 0 : -1;
        }
        if (result == 0) {
            if (to->sa_family == AF_INET) { wire_ready(fd); }
            return fd;
        }
        close(fd);
        wire_sleep(0.02);
    }
    return -1;
}
static int wire_connect_to(Wires* w, uint32_t address, uint16_t port) {
    struct sockaddr_in to;
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET, to.sin_addr.s_addr = address, to.sin_port = port;
    return wire_connect(w, (struct sockaddr*)&to, sizeof to);
}
// The next connection; -1 when told to stop.
static int wire_accept(Wires* w, int listener) {
    while (!w->abort) {
        struct pollfd wait = {listener, POLLIN, 0};
        if (poll(&wait, 1, 50) <= 0) { continue; }
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) { return fd; }
    }
    return -1;
}

// ------------------------------------------------------------------------------------------------
// The meeting

// What rank 0 answers: the text of what is wrong, or nothing and then all identities.
struct Answer {
    char wrong[512];
};
// What is wrong with the newcomer, by those who are there.
static void meeting_check(const std::vector<Identity>& who, const Identity* x, char* text, size_t n) {
    const Identity* zero = &who[0];
    text[0] = 0;
    if (x->ranks != zero->ranks) {
        snprintf(text, n, "rank %d (%s, process %d) was told of %d ranks, rank 0 (%s, process %d) of %d", x->rank,
                 x->host, x->pid, x->ranks, zero->host, zero->pid, zero->ranks);
        return;
    }
    if (x->rank < 0 || x->rank >= x->ranks) {
        snprintf(text, n, "rank %d of %d (%s, process %d): ranks count from 0", x->rank, x->ranks, x->host, x->pid);
        return;
    }
    for (const Identity& y : who) {
        if (y.magic && y.rank == x->rank) {
            snprintf(text, n, "rank %d twice: process %d of %s, and process %d of %s", x->rank, y.pid, y.host, x->pid,
                     x->host);
        } else if (y.magic && y.device >= 0 && y.device == x->device && strcmp(y.host, x->host) == 0 &&
                   !y.own_devices && !x->own_devices) {
            snprintf(text, n, "duplicate GPU: rank %d and rank %d are both on CUDA device %d of %s", y.rank, x->rank,
                     x->device, x->host);
        }
    }
}
// A connection of which nobody knows yet whether it is a rank's.
struct Newcomer {
    int fd;
    size_t got;
    Identity who;
};
// Reads on; 1: complete, 0: not yet, -1: a stranger.
static int newcomer_read(Newcomer* x, uint64_t secret) {
    ssize_t k = recv(x->fd, (char*)&x->who + x->got, sizeof x->who - x->got, 0);
    if (k == 0 || (k < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) { return -1; }
    if (k > 0) { x->got += (size_t)k; }
    size_t known = offsetof(Identity, rank);
    if (x->got >= known && (x->who.magic != WIRE_MAGIC || x->who.secret != secret)) { return -1; }
    return x->got == sizeof x->who;
}
// Rank 0's side: waits for all others, whoever else knocks. Fills w->who; `wrong` says what is wrong, or is empty.
static int meeting_lead(Wires* w, int listener, uint64_t secret, Answer* answer) {
    std::vector<Newcomer> hall;
    std::vector<int> ranks;
    answer->wrong[0] = 0;
    while ((int)ranks.size() < w->ranks - 1 && !answer->wrong[0]) {
        if (w->abort) { return 0; }
        std::vector<struct pollfd> wait(1, pollfd{listener, POLLIN, 0});
        for (const Newcomer& x : hall) { wait.push_back(pollfd{x.fd, POLLIN, 0}); }
        if (poll(wait.data(), wait.size(), 50) <= 0) { continue; }
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) { hall.push_back(Newcomer{fd, 0, Identity()}); }
        for (size_t i = 0; i < hall.size(); i++) {
            int state = newcomer_read(&hall[i], secret);
            if (state == 0) { continue; }
            if (state > 0) {
                hall[i].who.host[sizeof hall[i].who.host - 1] = 0;
                if (!answer->wrong[0]) { meeting_check(w->who, &hall[i].who, answer->wrong, sizeof answer->wrong); }
                if (!answer->wrong[0]) { w->who[(size_t)hall[i].who.rank] = hall[i].who; }
                ranks.push_back(hall[i].fd);
            } else {
                close(hall[i].fd);
            }
            hall.erase(hall.begin() + (long)i--);
        }
    }
    for (const Newcomer& x : hall) { close(x.fd); }
    for (int fd : ranks) {
        wire_whole(w, fd, 1, answer, sizeof *answer);
        if (!answer->wrong[0]) { wire_whole(w, fd, 1, w->who.data(), w->who.size() * sizeof w->who[0]); }
        close(fd);
    }
    return 1;
}
static int meeting_join(Wires* w, const Invitation* to, Answer* answer) {
    int fd = wire_connect_to(w, to->address, to->port);
    int ok = fd >= 0 && wire_whole(w, fd, 1, &w->who[(size_t)w->rank], sizeof w->who[0]) &&
             wire_whole(w, fd, 0, answer, sizeof *answer) &&
             (answer->wrong[0] || wire_whole(w, fd, 0, w->who.data(), w->who.size() * sizeof w->who[0]));
    if (fd >= 0) { close(fd); }
    if (!ok) {
        char where[32];
        address_text(where, to->address, to->port);
        snprintf(answer->wrong, sizeof answer->wrong, "rank %d finds no rank 0 at %s (%s): %s", w->rank, where,
                 to->host, fd < 0 ? "nobody listens there" : "the connection broke off");
    }
    return !w->abort;
}

// ---- shared memory between the ranks of a host ----

static struct sockaddr_un leader_address(uint64_t secret, int leader, socklen_t* bytes) {
    struct sockaddr_un at;
    memset(&at, 0, sizeof at);
    at.sun_family = AF_UNIX;  // a name that begins with 0 is no file, and belongs to the network namespace
    int n = snprintf(at.sun_path + 1, sizeof at.sun_path - 1, "emulate_nccl_%016llx_%d", (unsigned long long)secret,
                     leader);
    *bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
    return at;
}
static int fd_send(int socket, int fd) {
    char byte = 1;
    struct iovec data = {&byte, 1};
    alignas(struct cmsghdr) char room[CMSG_SPACE(sizeof(int))];
    struct msghdr message;
    memset(&message, 0, sizeof message);
    memset(room, 0, sizeof room);
    message.msg_iov = &data, message.msg_iovlen = 1;
    message.msg_control = room, message.msg_controllen = sizeof room;
    struct cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    return sendmsg(socket, &message, MSG_NOSIGNAL) == 1;
}
static int fd_receive(Wires* w, int socket) {
    char byte;
    struct iovec data = {&byte, 1};
    alignas(struct cmsghdr) char room[CMSG_SPACE(sizeof(int))];
    struct msghdr message;
    memset(&message, 0, sizeof message);
    message.msg_iov = &data, message.msg_iovlen = 1;
    message.msg_control = room, message.msg_controllen = sizeof room;
    ssize_t n = -1;
    while (!w->abort && (n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC)) < 0 && (errno == EAGAIN || errno == EINTR)) {
        wire_sleep(0.001);
    }
    struct cmsghdr* header = n == 1 ? CMSG_FIRSTHDR(&message) : NULL;
    int fd = -1;
    if (header && header->cmsg_type == SCM_RIGHTS) { memcpy(&fd, CMSG_DATA(header), sizeof fd); }
    return fd;
}
// The first rank of the host makes the memory and gives it to the others.
static int memory_lead(Wires* w, uint64_t secret, const std::vector<int>& local, size_t bytes) {
    socklen_t n;
    struct sockaddr_un at = leader_address(secret, w->rank, &n);
    int memory = memfd_create("emulated NCCL", MFD_CLOEXEC);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (memory < 0 || listener < 0 || ftruncate(memory, (off_t)bytes) != 0 ||
        bind(listener, (struct sockaddr*)&at, n) != 0 || listen(listener, MOST_RANKS) != 0) {
        return -1;
    }
    for (size_t served = 1; served < local.size();) {
        int fd = wire_accept(w, listener);
        if (fd < 0) { break; }
        served += (size_t)fd_send(fd, memory);
        close(fd);
    }
    close(listener);
    return memory;
}
static int memory_join(Wires* w, uint64_t secret, int leader) {
    socklen_t n;
    struct sockaddr_un at = leader_address(secret, leader, &n);
    int fd = wire_connect(w, (struct sockaddr*)&at, n);
    if (fd < 0) { return -1; }
    int memory = fd_receive(w, fd);
    close(fd);
    return memory;
}
static int wires_on_host(Wires* w, uint64_t secret, char* wrong, size_t n) {
    std::vector<int> local;
    size_t me = 0;
    for (int r = 0; r < w->ranks; r++) {
        if (strcmp(w->who[(size_t)r].host, w->who[(size_t)w->rank].host) != 0) { continue; }
        if (r == w->rank) { me = local.size(); }
        local.push_back(r);
    }
    if (local.size() < 2) { return 1; }
    size_t bytes = local.size() * local.size() * sizeof(Ring);
    int memory = me == 0 ? memory_lead(w, secret, local, bytes) : memory_join(w, secret, local[0]);
    void* p = memory < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (memory >= 0) { close(memory); }
    if (p == MAP_FAILED) {
        snprintf(wrong, n, "rank %d gets no shared memory with rank %d of its host %s: %s", w->rank, local[0],
                 w->who[(size_t)w->rank].host, strerror(errno));
        return 0;
    }
    w->shared = p, w->shared_bytes = bytes;
    Ring* ring = (Ring*)p;  // [from][to]; zeros are an empty ring
    for (size_t i = 0; i < local.size(); i++) {
        Wire* wire = &w->wire[(size_t)local[i]];
        wire->out = &ring[me * local.size() + i], wire->in = &ring[i * local.size() + me];
    }
    return 1;
}

// ---- connections between hosts ----

static int wires_between_hosts(Wires* w, int listener, char* wrong, size_t n) {
    const Identity* me = &w->who[(size_t)w->rank];
    int coming = 0;
    for (int r = 0; r < w->ranks; r++) {
        const Identity* other = &w->who[(size_t)r];
        if (strcmp(other->host, me->host) == 0) { continue; }
        if (r > w->rank) {
            coming++;
            continue;
        }
        int fd = wire_connect_to(w, other->address, other->port);
        if (fd < 0 || !wire_whole(w, fd, 1, (void*)me, sizeof *me)) {
            char where[32];
            address_text(where, other->address, other->port);
            snprintf(wrong, n, "rank %d gets no connection to rank %d at %s (%s)", w->rank, r, where, other->host);
            return 0;
        }
        w->wire[(size_t)r].fd = fd;
    }
    while (coming > 0) {
        int fd = wire_accept(w, listener);
        if (fd < 0) { return 0; }
        Identity who;
        if (wire_whole(w, fd, 0, &who, sizeof who) && who.magic == WIRE_MAGIC && who.secret == me->secret &&
            who.rank > w->rank && who.rank < w->ranks && w->wire[(size_t)who.rank].fd < 0) {
            wire_ready(fd);
            w->wire[(size_t)who.rank].fd = fd;
            coming--;
        } else {
            close(fd);
        }
    }
    return 1;
}

static void wires_close(Wires* w) {
    for (Wire& x : w->wire) {
        if (x.fd >= 0) { close(x.fd); }
        x.fd = -1, x.out = x.in = NULL;
    }
    if (w->shared) { munmap(w->shared, w->shared_bytes); }
    w->shared = NULL;
}
// Meets all ranks of the invitation and lays the wires. listener: of the invitation, in rank 0. device: -1 where ranks
// may share one. Returns 0 and the reason if it comes to nothing.
static int wires_open(Wires* w, const Invitation* to, int listener, int device, char* wrong, size_t n) {
    Answer answer;
    memset(&answer, 0, sizeof answer);
    w->who.assign((size_t)w->ranks, Identity());
    w->wire.assign((size_t)w->ranks, Wire{NULL, NULL, -1, 0});
    Identity* me = &w->who[(size_t)w->rank];
    me->magic = WIRE_MAGIC, me->secret = to->secret;
    me->rank = w->rank, me->ranks = w->ranks, me->device = device, me->pid = (int)getpid();
    me->own_devices = getenv("CUDA_VISIBLE_DEVICES") != NULL;
    me->address = host_address();
    host_name(me->host, sizeof me->host);
    int own = wire_listen(&me->port);
    int ok = own >= 0;
    if (!ok) { snprintf(answer.wrong, sizeof answer.wrong, "rank %d cannot listen: %s", w->rank, strerror(errno)); }
    ok = ok && (w->rank == 0 ? meeting_lead(w, listener, to->secret, &answer) : meeting_join(w, to, &answer)) &&
         !answer.wrong[0];
    ok = ok && wires_on_host(w, to->secret, answer.wrong, sizeof answer.wrong) &&
         wires_between_hosts(w, own, answer.wrong, sizeof answer.wrong);
    if (own >= 0) { close(own); }
    if (!ok) { snprintf(wrong, n, "%s", answer.wrong[0] ? answer.wrong : "aborted"); }
    return ok;
}

#endif

// launch.h - which rank this process is, and `--gpus N`, which starts one process a GPU by itself.
//
// A run on several GPUs is several processes of the same program, its ranks 0, 1, ... Who this one is say, the first that
// does:
//     --rank R --ranks N      alone, with --master and --port: nothing is taken from the environment; one of them
//                             alone replaces what the environment says
//     --gpus N                starts N processes on this machine
//     torchrun                RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT
//     mpirun (Open MPI)       OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE; --master across machines
//     srun                    SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID, SLURM_STEP_NODELIST
// and where nobody does it is the only one: rank 0 of 1. In a shell that sbatch has started SLURM_PROCID and SLURM_NTASKS
// are set as well; only SLURM_STEP_NUM_TASKS says that srun started this process.
//
// What is set by half or contradicts itself is an error that names the variables.
#ifndef PONDER_LAUNCH_H
#define PONDER_LAUNCH_H

#include "../base.h"
#include "../random.h"
#include "options.h"
#include "threads.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

enum { RANKS_MOST = 1 << 16, RANKS_PORT = 29501 };  // the port where nobody says one: torchrun's usual one + 1

// What every rank knows of every other after the meeting.
typedef struct {
    char host[64];
    int32_t pid;
    int32_t local_rank;  // -1 before the meeting where nobody said it
} RankPeer;

typedef struct {
    int rank, count;              // 0 of 1: a run of one process, where nothing of all this happens
    int local_rank, local_count;  // on this machine; -1 and 0: not known before the meeting
    char host[64];                // this machine's name
    char master[256];             // the machine of rank 0,
    int port;                     // where it listens
    char gpu[32];                 // "GPU 1", for messages; "" where that is not known yet
    uint64_t job;         // a number that the ranks of a run share and those of another hardly have; 0: none known
    double patience;      // seconds: --meet-timeout
    double timeout;       // seconds: --nccl-timeout
    int spawn;            // processes that are to be started here, 0: none
    int listener;         // the listening socket that rank 0 has inherited; -1
    int64_t parent;       // process that has started the ranks, and whose end is ours; 0: none
    int follower;         // pipe to the parent, to which this rank says what it does before it ends; -1
    RankPeer* peers;      // (count) after the meeting
    int* links;           // (count) connections for exchanges; -1 where there is none
    int* watches;         // (count) connections of the watchdog
    void (*abort)(void);  // ends collectives that do not finish (ncclCommAbort); NULL: nothing to end
    void (*verdict)(
        double most);  // waits until the watchdog, which knows better, has ended this process; NULL: no watchdog
    // The signal by which this rank, or as its watchdog hears another, was told to end; 0: none. Sampling polls it.
    volatile sig_atomic_t signal;
    // Written by the trainer, read by the watchdog:
    int64_t step;
    uint64_t progress;  // anything that shows that this rank works
    int waiting;        // 1: it waits for the others
    uint64_t joined;    // exchanges and collectives that this rank has come to: all come to the same in the same order
    int alike;    // 1: all ranks do the same, so that an error of one is most likely one of all, which rank 0 says
    int planned;  // --plan: ranks of the run that is planned, of which this process is none; 0: no plan
} Ranks;
static Ranks ranks = {0,  1,    0,    1,    "",   "",   0, "", 0, 300, 600, 0, -1, 0,
                      -1, NULL, NULL, NULL, NULL, NULL, 0, 0,  0, 0,   0,   0, 0};

// here: 0 where the program has them not (options_add_if)
static inline void ranks_options(int here, OptionTable* table) {
    const Option rows[] = {
        {"ranks", "gpus", OPTION_INT, NULL, "N", 1, 1024, RESUME_RUN,
         "start one process on each of N GPUs of this machine; with --rank: how many of the ranks are here; with "
         "--plan: "
         "how many GPUs the run would have, on any number of machines"},
        {"ranks", "rank", OPTION_INT, NULL, "R", 0, RANKS_MOST - 1, RESUME_RUN,
         "which of the ranks this process is, from 0 [default: what torchrun, srun or mpirun say]"},
        {"ranks", "ranks", OPTION_INT, NULL, "N", 1, RANKS_MOST, RESUME_RUN,
         "how many ranks there are [default: same]"},
        {"ranks", "local-rank", OPTION_INT, NULL, "L", 0, 1023, RESUME_RUN,
         "which of this machine's visible GPUs it takes [default: same; else in the order of the ranks]"},
        {"ranks", "master", OPTION_TEXT, NULL, "HOST", 0, 0, RESUME_RUN,
         "name or address of the machine of rank 0 [default: same; mpirun says it only within one machine]"},
        {"ranks", "port", OPTION_INT, NULL, "P", 1, 65535, RESUME_RUN,
         "where rank 0 listens for the others [default: MASTER_PORT + 1, or by the job's number]"},
        {"ranks", "meet-timeout", OPTION_NUMBER, "300", "SECONDS", 0.05, 1e6, RESUME_RUN,
         "how long the ranks wait for one another at the start"},
        {"ranks", "zero", OPTION_INT, "0", "0|1", 0, 1, RESUME_FREE,
         "1: every rank has its part of the optimiser's state alone (ZeRO stage 1), which takes less memory; "
         "checkpoints "
         "are the same"},
        {"ranks", "nccl-timeout", OPTION_NUMBER, "600", "SECONDS", 0.05, 1e6, RESUME_RUN,
         "end all ranks when none has progressed for so long"},
    };
    options_add_if(here, table, rows, (int)(sizeof rows / sizeof rows[0]));
}

// What begins a message of this rank: "rank 3 (HOST, GPU 1) step 17: ".
static void ranks_begin_message(char* out, size_t room) {
    snprintf(out, room, "rank %d (%s%s%s) step %lld: ", ranks.rank, ranks.host, ranks.gpu[0] ? ", " : "", ranks.gpu,
             (long long)__atomic_load_n(&ranks.step, __ATOMIC_RELAXED));
}

// Where this rank computes, for messages, once its local rank is known.
static inline void ranks_label(void) {
    ranks.gpu[0] = 0;
    if (ranks.local_rank >= 0) { snprintf(ranks.gpu, sizeof ranks.gpu, "GPU %d", ranks.local_rank); }
}

// ---- who says it ----

// A number and where it is from, "RANK=3" or "--rank 3".
typedef struct {
    int set;
    int value;
    char from[96];
} RankNumber;

// Takes an option's value, where it was given.
static inline int rank_option(RankNumber* n, const OptionTable* options, const char* name) {
    const Option* o = options_row(options, name);
    if (!o->set) { return 0; }
    n->set = 1;
    n->value = (int)o->integer;
    snprintf(n->from, sizeof n->from, "--%s %d", name, n->value);
    return 1;
}

// Takes a variable of the environment, where it is set; name NULL: there is none for this.
static inline void rank_variable(RankNumber* n, const char* name) {
    const char* text = name ? getenv(name) : NULL;
    if (!text) { return; }
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 7 || text[digits]) {
        die("%s='%s' in the environment: expected a whole number from 0 to 9999999", name, text);
    }
    n->set = 1;
    n->value = atoi(text);
    snprintf(n->from, sizeof n->from, "%s=%s", name, text);
}

typedef struct {
    const char *name, *rank, *count, *local_rank, *local_count;
    const char* job[2];  // names its job; those of one that are set, or the first of several
} Launcher;
// The innermost first: torchrun may be started by srun or mpirun, and mpirun's processes by srun.
static const Launcher launchers[] = {
    {"torchrun",
     "RANK",
     "WORLD_SIZE",
     "LOCAL_RANK",
     "LOCAL_WORLD_SIZE",
     {"TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"}},
    {"mpirun",
     "OMPI_COMM_WORLD_RANK",
     "OMPI_COMM_WORLD_SIZE",
     "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE",
     {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"}},
    {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", NULL, {"SLURM_JOB_ID", "SLURM_STEP_ID"}},
};
enum { LAUNCHERS = sizeof launchers / sizeof *launchers };

// Who has started this process; NULL: none of them.
static inline const Launcher* launcher_find(void) {
    for (int i = 0; i < LAUNCHERS; i++) {
        const Launcher* l = &launchers[i];
        int is_srun = strcmp(l->name, "srun") == 0;
        if (getenv(l->count) || (!is_srun && (getenv(l->rank) || getenv(l->local_rank)))) { return l; }
    }
    return NULL;
}

// What the ranks of a job share, as a number; 0 where the launcher says nothing.
static inline uint64_t launcher_job(const Launcher* l) {
    uint64_t hash = 0;
    for (int i = 0; l && i < 2; i++) {
        const char* value = getenv(l->job[i]);
        if (!value) { continue; }
        if (!hash) { hash = hash_bytes(HASH_START, l->name, strlen(l->name)); }
        hash = hash_bytes(hash_bytes(hash, "=", 1), value, strlen(value));
    }
    return hash;
}

// ---- Slurm's lists of machines ----

// The first of a list such as "node[003-005,9],other1" or "rack[1-2]n[01-16]-ib" into out; 0 if it is none.
static inline int nodes_first(const char* list, char* out, size_t room) {
    size_t n = 0;
    const char* p = list;
    while (*p && *p != ',') {
        const char* piece = p;
        size_t length = 1;
        if (*p == '[') {
            piece = p + 1;
            length = strspn(piece, "0123456789");
            size_t inside = strcspn(piece, "]");
            if (length == 0 || piece[inside] != ']' || strspn(piece, "0123456789,-") != inside) { return 0; }
            if (!strchr("-,]", piece[length])) { return 0; }
            p = piece + inside + 1;
        } else {
            int good =
                (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || strchr("-._", *p);
            if (!good) { return 0; }
            p++;
        }
        if (n + length + 1 > room) { return 0; }
        memcpy(out + n, piece, length);
        n += length;
    }
    out[n] = 0;
    return n > 0;
}

// ---- what it says ----

typedef struct {
    RankNumber rank, count, local_rank, local_count;
    const Launcher* launcher;  // NULL: flags, or nothing
} RankWords;

static inline void ranks_check_words(const RankWords* w) {
    const RankNumber *rank = &w->rank, *count = &w->count, *local = &w->local_rank, *locals = &w->local_count;
    if (count->value < 1 || count->value > RANKS_MOST) {
        die("%s: expected a number of ranks from 1 to %d", count->from, RANKS_MOST);
    }
    if (rank->value >= count->value) {
        die("%s but %s: expected a rank from 0 to %d", rank->from, count->from, count->value - 1);
    }
    if (locals->set && (locals->value < 1 || locals->value > count->value)) {
        die("%s but %s: expected at least one rank on this machine, and not more than there are", locals->from,
            count->from);
    }
    if (local->set && locals->set && local->value >= locals->value) {
        die("%s but %s: expected a local rank from 0 to %d", local->from, locals->from, locals->value - 1);
    }
    if (local->set && locals->set && locals->value == count->value && local->value != rank->value &&
        local->from[0] != '-') {
        die("%s and %s but %s and %s: where all ranks are on one machine both ranks are the same", rank->from,
            local->from, count->from, locals->from);
    }
}

// Variables of two launchers that cannot both be true.
static inline void ranks_check_launchers(const RankWords* w) {
    if (!w->launcher) { return; }
    if (strcmp(w->launcher->name, "srun") == 0 && w->count.value > 1) {
        RankNumber tasks = {0, 0, ""};
        rank_variable(&tasks, "SLURM_NTASKS");
        if (tasks.set && w->count.from[0] != '-' && tasks.value != w->count.value) {
            die("%s but %s: expected the same number of ranks; start the program by srun itself, once", tasks.from,
                w->count.from);
        }
    }
    // torchrun may number its processes in another order than who has started it.
    if (strcmp(w->launcher->name, "torchrun") != 0 || getenv("TORCHELASTIC_RUN_ID")) { return; }
    for (int i = 1; i < LAUNCHERS; i++) {
        RankNumber rank = {0, 0, ""}, count = {0, 0, ""};
        rank_variable(&count, launchers[i].count);
        rank_variable(&rank, launchers[i].rank);
        if (count.set && rank.set && count.value == w->count.value && count.value > 1 && rank.value != w->rank.value) {
            die("%s of %s but %s of %s: two launchers contradict each other; unset the variables of one", w->rank.from,
                w->count.from, rank.from, count.from);
        }
    }
}

// Takes what flags and the environment say; 0 if nobody says anything.
static inline int ranks_words(RankWords* w, const OptionTable* options) {
    memset(w, 0, sizeof *w);
    int by_rank = rank_option(&w->rank, options, "rank"), by_count = rank_option(&w->count, options, "ranks");
    if (!by_rank || !by_count) { w->launcher = launcher_find(); }
    const Launcher* l = w->launcher;
    if (l) {
        if (!by_rank) { rank_variable(&w->rank, l->rank); }
        if (!by_count) { rank_variable(&w->count, l->count); }
        rank_variable(&w->local_rank, l->local_rank);
        rank_variable(&w->local_count, l->local_count);
    }
    rank_option(&w->local_rank, options, "local-rank");
    rank_option(&w->local_count, options, "gpus");
    if (!l && !by_rank && !by_count) { return 0; }
    if (!w->rank.set || !w->count.set) {
        const char* has = w->rank.set ? w->rank.from : w->count.set ? w->count.from : NULL;
        if (!l) {
            die("%s without --%s: give both, or neither and start the program by torchrun, srun or mpirun", has,
                w->rank.set ? "ranks" : "rank");
        }
        if (!has) { has = w->local_rank.set ? w->local_rank.from : w->local_count.from; }
        die("%s without %s: expected what %s sets, whole; unset it where this is a run of one process", has,
            w->rank.set ? l->count : l->rank, l->name);
    }
    ranks_check_words(w);
    ranks_check_launchers(w);
    return 1;
}

// The machine of rank 0.
static inline void ranks_find_master(const RankWords* w, const OptionTable* options) {
    const Launcher* l = w->launcher;
    const char *given = options_text(options, "master"), *variable = l ? getenv("MASTER_ADDR") : NULL;
    const char* list = l && strcmp(l->name, "srun") == 0 ? getenv("SLURM_STEP_NODELIST") : NULL;
    const char* nodes = list ? getenv("SLURM_STEP_NUM_NODES") : NULL;
    const char* from = given ? given : variable;
    int here = (w->local_count.set && w->local_count.value == w->count.value) || (nodes && strcmp(nodes, "1") == 0);
    if (from) {
        if (!from[0] || strlen(from) >= sizeof ranks.master) {
            die("%s'%s': expected the name or address of a machine", given ? "--master " : "MASTER_ADDR=", from);
        }
        snprintf(ranks.master, sizeof ranks.master, "%s", from);
    } else if (here) {
        snprintf(ranks.master, sizeof ranks.master, "127.0.0.1");
    } else if (list) {
        if (!nodes_first(list, ranks.master, sizeof ranks.master)) {
            die("SLURM_STEP_NODELIST='%s': expected machines such as node[003-005,9],other1; --master HOST says "
                "which has rank 0",
                list);
        }
    } else {
        die("%s and %s without %s--master HOST: expected the name of the machine of rank 0", w->rank.from,
            w->count.from,
            !l                                 ? ""
            : strcmp(l->name, "torchrun") == 0 ? "MASTER_ADDR or "
            : strcmp(l->name, "srun") == 0     ? "SLURM_STEP_NODELIST or "
                                               : "");
    }
}

// Where rank 0 listens. torchrun's own store may have MASTER_PORT, so it is the next one.
static inline void ranks_find_port(const RankWords* w, const OptionTable* options) {
    const Launcher* l = w->launcher;
    RankNumber port = {0, 0, ""};
    if (l) { rank_variable(&port, "MASTER_PORT"); }
    if (options_set(options, "port")) {
        ranks.port = (int)options_int(options, "port");
    } else if (port.set) {
        if (port.value < 1 || port.value > 65534) {
            die("%s: expected a port from 1 to 65534; the ranks take the next one, or --port", port.from);
        }
        ranks.port = port.value + 1;
    } else if (l && strcmp(l->name, "torchrun") == 0) {
        die("%s and %s without MASTER_PORT or --port: expected the port of rank 0", w->rank.from, w->count.from);
    } else {  // below those that systems give out by themselves
        ranks.port = ranks.job ? 20000 + (int)(ranks.job % 12000) : RANKS_PORT;
    }
}

// --gpus N without --rank: the ranks are started here.
static inline void ranks_plan_spawn(const OptionTable* options) {
    const int gpus = (int)options_int(options, "gpus");
    static const char* const others[] = {"local-rank", "master"};
    for (int i = 0; i < 2; i++) {
        if (options_set(options, others[i])) {
            die("--gpus %d and --%s %s: --gpus starts all ranks, on this machine; with --rank and --ranks this process "
                "is "
                "one of them",
                gpus, others[i], options_text(options, others[i]));
        }
    }
    if (options_set(options, "ranks") && options_int(options, "ranks") != gpus) {
        die("--gpus %d and --ranks %s: --gpus starts all ranks, so both would be the same; with --rank this process is "
            "one "
            "of them",
            gpus, options_text(options, "ranks"));
    }
    const Launcher* l = launcher_find();
    const char* several = l ? getenv(l->count) : NULL;
    if (several && strcmp(several, "1") != 0) {
        warn("--gpus %d starts ranks of its own; that %s has started several processes (%s=%s) does not count", gpus,
             l->name, l->count, several);
    }
    ranks.local_rank = -1;
    ranks.spawn = gpus > 1 ? gpus : 0;
    ranks.count = ranks.local_count = gpus;
    if (gpus == 1) { ranks.local_rank = 0; }
}

// Fills in `ranks`, as far as it is known before the meeting.
static inline void ranks_identify(const OptionTable* options) {
    ranks.patience = options_number(options, "meet-timeout");
    ranks.timeout = options_number(options, "nccl-timeout");
    char host[256] = "";
    if (gethostname(host, sizeof host - 1) != 0 || !host[0]) { snprintf(host, sizeof host, "unnamed"); }
    snprintf(ranks.host, sizeof ranks.host, "%.63s", host);
    if (options_set(options, "gpus") && !options_set(options, "rank")) {
        ranks_plan_spawn(options);
        return;
    }
    RankWords w;
    if (!ranks_words(&w, options)) {
        static const char* const others[] = {"local-rank", "master", "port"};
        for (int i = 0; i < 3; i++) {
            if (options_set(options, others[i])) {
                die("--%s %s without --rank and --ranks, and neither torchrun nor srun nor mpirun has started this "
                    "program",
                    others[i], options_text(options, others[i]));
            }
        }
        return;
    }
    ranks.rank = w.rank.value;
    ranks.count = w.count.value;
    ranks.local_rank = w.local_rank.set ? w.local_rank.value : -1;
    ranks.local_count = w.local_count.set ? w.local_count.value : 0;
    if (ranks.local_rank < 0 && ranks.local_count > 0) { ranks.local_rank = ranks.rank % ranks.local_count; }
    ranks.job = launcher_job(w.launcher);
    ranks_label();
    if (ranks.count == 1) {
        ranks.local_count = 1;
        if (ranks.local_rank < 0) { ranks.local_rank = 0; }
        return;
    }
    ranks_find_master(&w, options);
    ranks_find_port(&w, options);
    message_begin = ranks_begin_message;
}

// --plan: how many ranks there would be is found as for the run itself, and none of them is started. Where a launcher has
// started several, one prints.
static inline void ranks_plan(const OptionTable* options) {
    const Ranks before = ranks;
    ranks_identify(options);
    const int count = ranks.count, rank = ranks.rank;
    ranks = before;
    ranks.planned = count;
    message_begin = NULL;
    if (rank > 0 && !freopen("/dev/null", "w", stdout)) { die("/dev/null: %s", strerror(errno)); }
}

// Ranks that a step is divided among: of this run, or of the one that is planned.
static inline int ranks_of_step(void) { return ranks.planned ? ranks.planned : ranks.count; }

// ---- --gpus N ----

// Seconds that the other ranks have to end by themselves after one has failed; then they are killed, but for one that
// saves, whose watchdog ends it when that does not progress.
static double ranks_grace = 10;

// Says to the parent, if there is one, that this rank ends only because another has; or (saves = 1) that it saves first.
static inline void ranks_tell_parent(int saves) {
    const int32_t word = saves ? -1 - ranks.rank : ranks.rank;
    if (ranks.follower >= 0 && write(ranks.follower, &word, sizeof word) < 0) {
    }  // then the parent takes it for a cause, or for one that hangs
}

// A socket that listens on this machine alone, on a port of the system's choice where `port` is 0; *port says which.
static inline int ranks_listen_here(int* port) {
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)*port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (fd >= 0) { setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes); }
    if (fd < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || bind(fd, (struct sockaddr*)&address, sizeof address) != 0 ||
        listen(fd, SOMAXCONN) != 0 || getsockname(fd, (struct sockaddr*)&address, &size) != 0) {
        die("--gpus: cannot listen on 127.0.0.1, port %d: %s", *port, strerror(errno));
    }
    *port = ntohs(address.sin_port);
    return fd;
}

#ifdef __linux__
static const int ranks_forwarded[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
enum { RANKS_FORWARDED = sizeof ranks_forwarded / sizeof *ranks_forwarded };

typedef struct {
    pid_t* pids;  // (count), 0: has ended
    int count, left;
    int status;     // of the first that failed,
    int follows;    // 1: which only followed another
    int followers;  // pipe in which ranks say that they follow, or save
    int* follow;    // (count) 1: it has said that it follows
    int* saves;     // (count) 1: it has said that it saves
    int forwarded;  // the last signal that was passed on
    double failed;  // when the first failed, 0: none has
    int killed;     // 1: the others were
} RankGuard;

// Sends a signal to all that are left.
static inline void guard_signal(const RankGuard* g, int number) {
    for (int r = 0; r < g->count; r++) {
        if (g->pids[r] > 0) { kill(g->pids[r], number); }
    }
}

// Reads what ranks have said.
static inline void guard_listen(RankGuard* g) {
    int32_t word;
    while (read(g->followers, &word, sizeof word) == (ssize_t)sizeof word) {
        if (word < 0) {
            g->saves[-1 - word] = 1;
        } else {
            g->follow[word] = 1;
        }
    }
}

// Kills all that are left but those that save.
static inline void guard_kill(RankGuard* g) {
    int late = 0;
    for (int r = 0; r < g->count; r++) { late += g->pids[r] > 0 && !g->saves[r]; }
    g->killed = 1;
    if (!late) { return; }
    fprintf(stderr, "error: %d rank%s not ended within %g seconds of the first that failed, and %s killed\n", late,
            late == 1 ? " has" : "s have", ranks_grace, late == 1 ? "is" : "are");
    for (int r = 0; r < g->count; r++) {
        if (g->pids[r] > 0 && !g->saves[r]) { kill(g->pids[r], SIGKILL); }
    }
}

// Takes note of a rank that has ended with `status`.
static inline void guard_ended(RankGuard* g, int r, int status) {
    int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    int code = number ? 128 + number : WEXITSTATUS(status);
    if (number && !(g->killed && !g->saves[r])) {
        fprintf(stderr, "error: rank %d (%s, GPU %d, process %ld) was killed by signal %d (%s)%s\n", r, ranks.host, r,
                (long)g->pids[r], number, strsignal(number),
                number == SIGKILL ? ": by somebody, or by the system because memory ran out (dmesg says so)" : "");
    }
    g->pids[r] = 0;
    g->left--;
    guard_listen(g);
    // What a rank says in the pipe is there before it ends, in whatever order the ends are seen.
    if (code && !g->killed && (!g->status || (g->follows && !g->follow[r]))) {
        g->status = code;
        g->follows = g->follow[r];
    }
    // After a signal to all it is no failure that they end by it, each in its time.
    if (code && !number && g->forwarded && code == 128 + g->forwarded) { return; }
    if (code && g->failed == 0) { g->failed = now_seconds(); }
}

// Who has ended?
static inline void guard_collect(RankGuard* g) {
    int status;
    for (int r = 0; r < g->count; r++) {
        if (g->pids[r] > 0 && waitpid(g->pids[r], &status, WNOHANG) > 0) { guard_ended(g, r, status); }
    }
}

// The parent, which only watches: passes signals on, and ends when all ranks have ended. Returns its exit status.
static inline int guard_watch(RankGuard* g, const sigset_t* signals) {
    while (g->left > 0) {
        struct timespec wait = {0, 100000000};
        int number = sigtimedwait(signals, NULL, &wait);
        if (number == SIGTSTP) {  // Ctrl-Z
            guard_signal(g, SIGSTOP);
            raise(SIGSTOP);
            guard_signal(g, SIGCONT);
        } else if (number == SIGCONT) {
            guard_signal(g, SIGCONT);
        } else if (number > 0 && number != SIGCHLD) {
            g->forwarded = number;
            guard_signal(g, number);
        }
        guard_collect(g);
        guard_listen(g);
        if (g->failed > 0 && !g->killed && g->left > 0 && now_seconds() > g->failed + ranks_grace) { guard_kill(g); }
    }
    return g->status;
}

// The child: rank r of n.
static inline void ranks_born(int r, int n, pid_t parent) {
    // With the parent gone, even by kill -9, nobody would end the ranks together.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) { _exit(1); }
    ranks.rank = ranks.local_rank = r;
    ranks.count = ranks.local_count = n;
    ranks.spawn = 0;
    ranks.parent = (int64_t)parent;
    if (r > 0) {
        close(ranks.listener);
        ranks.listener = -1;
    }
    ranks_label();
    message_begin = ranks_begin_message;
#ifdef _OPENMP
    if (!getenv("OMP_NUM_THREADS")) {  // a share of the processors
        int share = omp_get_num_procs() / n;
        omp_set_num_threads(share > 1 ? share : 1);
    }
#endif
}

// Starts the ranks. Returns in each of them; the parent watches over them and exits. Before anything of CUDA or OpenMP
// has started, whose threads a fork would leave behind, and before any file is locked.
static inline void ranks_spawn(const OptionTable* options) {
    const int n = ranks.spawn;
    ranks.port = options_set(options, "port") ? (int)options_int(options, "port") : 0;
    ranks.listener = ranks_listen_here(&ranks.port);
    snprintf(ranks.master, sizeof ranks.master, "127.0.0.1");
    const double seed[2] = {now_seconds(), (double)getpid()};
    ranks.job = hash_bytes(HASH_START, seed, sizeof seed);
    const int brief = threads_guard_is(" brief");

    sigset_t signals, before;
    sigemptyset(&signals);
    for (int i = 0; i < RANKS_FORWARDED; i++) { sigaddset(&signals, ranks_forwarded[i]); }
    sigaddset(&signals, SIGCHLD), sigaddset(&signals, SIGTSTP), sigaddset(&signals, SIGCONT);
    sigprocmask(SIG_BLOCK, &signals, &before);
    struct sigaction ended, usual;
    memset(&usual, 0, sizeof usual);
    sigemptyset(&usual.sa_mask);
    usual.sa_handler = SIG_DFL;
    sigaction(SIGCHLD, &usual, &ended);  // ignored, nobody would learn how a rank has ended

    int ends[2];
    if (pipe(ends) != 0) { die("--gpus %d: %s", n, strerror(errno)); }
    for (int i = 0; i < 2; i++) {
        fcntl(ends[i], F_SETFD, FD_CLOEXEC);
        fcntl(ends[i], F_SETFL, O_NONBLOCK);
    }
    ranks.follower = ends[1];
    RankGuard g;
    memset(&g, 0, sizeof g);
    g.pids = (pid_t*)xalloc((size_t)n, sizeof(pid_t), "the processes of --gpus");
    g.follow = (int*)xalloc((size_t)n, sizeof(int), "the processes of --gpus");
    g.saves = (int*)xalloc((size_t)n, sizeof(int), "the processes of --gpus");
    g.followers = ends[0];
    g.count = g.left = n;
    output_flush();
    fflush(stderr);
    const pid_t parent = getpid();
    for (int r = 0; r < n; r++) {
        pid_t pid = fork();
        if (pid < 0) {
            int why = errno;
            guard_signal(&g, SIGKILL);
            die("--gpus %d: process %d could not be started: %s", n, r, strerror(why));
        }
        // A group of their own: a terminal's Ctrl-C reaches the parent alone, and they get it once, from there.
        setpgid(pid, g.pids[0]);
        if (pid == 0) {
            ranks_born(r, n, parent);
            close(ends[0]);
            if (brief) { threads_set_guard(" brief"); }
            sigaction(SIGCHLD, &ended, NULL);
            sigprocmask(SIG_SETMASK, &before, NULL);
            return;
        }
        g.pids[r] = pid;
    }
    close(ranks.listener);
    _exit(guard_watch(&g, &signals));
}
#else
static inline void ranks_spawn(const OptionTable* options) {
    (void)options;
    die("--gpus %d: starting several processes needs Linux", ranks.spawn);
}
#endif

#endif

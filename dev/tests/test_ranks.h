// test_ranks.h - tests of the ranks of a run (common/run/ranks.h): who is who, the meeting, exchanges, --gpus, and the
// watchdog. Every rank is a child process of this one; times are below a second, so that hanging is found soon.
#ifndef PONDER_TEST_RANKS_H
#define PONDER_TEST_RANKS_H

#include "../../common/run/ranks.h"
#include "test.h"

#include <sys/mman.h>

// ---- who is who ----

static const char* const rank_variables[] = {
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "PMIX_NAMESPACE",
    "OMPI_MCA_ess_base_jobid",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_LOCALID",
    "SLURM_STEP_NODELIST",
    "SLURM_STEP_NUM_NODES",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
};

// The environment of a process that nobody has started as a rank, and then variables "NAME=VALUE NAME=VALUE".
static void rank_environment(const char* line) {
    for (size_t i = 0; i < sizeof rank_variables / sizeof *rank_variables; i++) { unsetenv(rank_variables[i]); }
    char* words = format_string("%s", line);
    for (char* word = strtok(words, " "); word; word = strtok(NULL, " ")) {
        char* equals = strchr(word, '=');
        *equals = 0;
        setenv(word, equals + 1, 1);
    }
    free(words);
}

// The options of a command line.
static OptionTable* rank_table(const char* line) {
    static OptionTable table;
    char* argv[32] = {(char*)"program"};
    int argc = 1;
    memset(&table, 0, sizeof table);
    ranks_options(1, &table);
    for (char* word = strtok(format_string("%s", line), " "); word; word = strtok(NULL, " ")) { argv[argc++] = word; }
    options_parse(&table, argc, argv);
    return &table;
}

typedef struct {
    const char *environment, *arguments, *want;
} RankCase;

static void rank_identify(void* argument) {
    const RankCase* c = (const RankCase*)argument;
    rank_environment(c->environment);
    ranks_identify(rank_table(c->arguments));
    printf("%d/%d local %d/%d at %s:%d%s%s%s", ranks.rank, ranks.count, ranks.local_rank, ranks.local_count,
           ranks.master, ranks.port, ranks.spawn ? " spawn" : "", ranks.job ? " job" : "",
           message_begin ? " named" : "");
}

#define TORCHRUN "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=hosta MASTER_PORT=29500"
#define OPENMPI \
    "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2"
#define MPI_HERE \
    "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2"
#define SRUN                                                                                \
    "SLURM_PROCID=3 SLURM_NTASKS=4 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=1 SLURM_JOB_ID=77 " \
    "SLURM_STEP_ID=0 SLURM_STEP_NODELIST=node[003-004] SLURM_STEP_NUM_NODES=2"

static void test_ranks_identify(void) {
    static RankCase cases[] = {
        {"", "", "0/1 local 0/1 at :0"},
        {TORCHRUN, "", "3/4 local 1/2 at hosta:29501 named"},
        {TORCHRUN " TORCHELASTIC_RUN_ID=none", "", "3/4 local 1/2 at hosta:29501 job named"},
        {"RANK=0 WORLD_SIZE=1", "", "0/1 local 0/1 at :0"},
        {"RANK=1 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=7", "", "1/2 local -1/0 at h:8 named"},
        {"RANK=1 WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_PORT=7", "", "1/2 local 1/2 at 127.0.0.1:8 named"},
        // flags replace single words of it, or all
        {TORCHRUN, "--rank 2", "2/4 local 1/2 at hosta:29501 named"},
        {TORCHRUN, "--ranks 8", "3/8 local 1/2 at hosta:29501 named"},
        {TORCHRUN, "--local-rank 0 --master b --port 9", "3/4 local 0/2 at b:9 named"},
        {TORCHRUN, "--rank 5 --ranks 6 --master b", "5/6 local -1/0 at b:29501 named"},
        {"RANK=nonsense", "--rank 5 --ranks 6 --master b --port 9", "5/6 local -1/0 at b:9 named"},
        {"RANK=1 MASTER_ADDR=h MASTER_PORT=7", "--ranks 2", "1/2 local -1/0 at h:8 named"},
        {"", "--rank 5 --ranks 8 --gpus 4 --master b", "5/8 local 1/4 at b:29501 named"},
        {"", "--rank 5 --ranks 8 --gpus 8", "5/8 local 5/8 at 127.0.0.1:29501 named"},
        {"", "--rank 1 --ranks 2 --local-rank 3 --master b", "1/2 local 3/0 at b:29501 named"},
        {"", "--rank 0 --ranks 1", "0/1 local 0/1 at :0"},
        // --gpus beats the environment, broken or not
        {"", "--gpus 4", "0/4 local -1/4 at :0 spawn"},
        {"", "--gpus 4 --ranks 4", "0/4 local -1/4 at :0 spawn"},
        {"", "--gpus 1", "0/1 local 0/1 at :0"},
        {"RANK=nonsense", "--gpus 2", "0/2 local -1/2 at :0 spawn"},
        {TORCHRUN, "--gpus 2",
         "warning: --gpus 2 starts ranks of its own|torchrun|WORLD_SIZE=4|0/2 local -1/2 at :0 spawn"},
        // mpirun
        {MPI_HERE, "", "1/2 local 1/2 at 127.0.0.1:29501 named"},
        {MPI_HERE " PMIX_NAMESPACE=x", "--port 5", "1/2 local 1/2 at 127.0.0.1:5 job named"},
        {OPENMPI, "--master b", "3/4 local 1/2 at b:29501 named"},
        {OPENMPI " MASTER_ADDR=c MASTER_PORT=4", "", "3/4 local 1/2 at c:5 named"},
        // srun, and shells that only look like it
        {SRUN, "--port 6", "3/4 local 1/0 at node003:6 job named"},
        {SRUN " MASTER_ADDR=c", "--port 6", "3/4 local 1/0 at c:6 job named"},
        {SRUN " SLURM_STEP_NUM_NODES=1", "--port 6", "3/4 local 1/0 at 127.0.0.1:6 job named"},
        {"SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_LOCALID=0", "", "0/1 local 0/1 at :0"},
        {"SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_LOCALID=0 SLURM_STEP_NUM_TASKS=1", "", "0/1 local 0/1 at :0"},
        {"SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_LOCALID=0 SLURM_STEP_NUM_TASKS=1", "--gpus 2",
         "0/2 local -1/2 at :0 spawn"},
        // the innermost counts
        {SRUN " " TORCHRUN, "", "3/4 local 1/2 at hosta:29501 named"},
        {SRUN " TORCHELASTIC_RUN_ID=a RANK=1 WORLD_SIZE=4 MASTER_ADDR=h MASTER_PORT=7", "",
         "1/4 local -1/0 at h:8 job named"},
        {SRUN " " MPI_HERE, "", "1/2 local 1/2 at 127.0.0.1:29501 named"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *said = NULL, *list = format_string("%s", cases[i].want);
        int code = run_child(rank_identify, &cases[i], &said);
        CHECK(code == 0, "[%s] [%s]: status %d: %s", cases[i].environment, cases[i].arguments, code, said);
        const char* last = list;
        for (char* word = strtok(list, "|"); word; word = strtok(NULL, "|")) {
            CHECK(strstr(said, word), "[%s] [%s]: no '%s' in: %s", cases[i].environment, cases[i].arguments, word,
                  said);
            last = word;
        }
        CHECK(text_ends(said, last), "[%s] [%s]: %s, expected %s", cases[i].environment, cases[i].arguments, said,
              last);
        free(said), free(list);
    }
    // Jobs of the same machine take different ports, all ranks of one the same.
    static RankCase ports[] = {{SRUN, "", ""}, {SRUN " SLURM_PROCID=1", "", ""}, {SRUN " SLURM_STEP_ID=1", "", ""}};
    char* said[3];
    int port[3] = {0, 0, 0};
    for (int i = 0; i < 3; i++) {
        run_child(rank_identify, &ports[i], &said[i]);
        const char* at = strstr(said[i], "node003:");
        port[i] = at ? atoi(at + 8) : 0;
        CHECK(port[i] >= 20000 && port[i] < 32000, "port in: %s", said[i]);
        free(said[i]);
    }
    CHECK(port[0] == port[1] && port[0] != port[2], "ports %d, %d, %d", port[0], port[1], port[2]);
}

// --plan: how many ranks there would be, found in the same way; this process stays alone, and prints unless it is a rank
// of which another prints.
static void rank_plan(void* argument) {
    const RankCase* c = (const RankCase*)argument;
    rank_environment(c->environment);
    ranks_plan(rank_table(c->arguments));
    printf("%d of %d%s%s", ranks_of_step(), ranks.count, ranks.spawn ? " spawn" : "", message_begin ? " named" : "");
}
static void test_ranks_plan(void) {
    static RankCase cases[] = {
        {"", "", "1 of 1"},
        {"", "--gpus 64", "64 of 1"},
        {TORCHRUN " RANK=0", "", "4 of 1"},
        {TORCHRUN, "", ""},
        {"RANK=nonsense", "--gpus 8", "8 of 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char* said = NULL;
        int code = run_child(rank_plan, &cases[i], &said);
        CHECK(code == 0 && strcmp(said, cases[i].want) == 0, "[%s] [%s]: status %d: %s, expected %s",
              cases[i].environment, cases[i].arguments, code, said, cases[i].want);
        free(said);
    }
    static RankCase half = {"RANK=3", "", ""};
    expect_death("RANK alone", rank_plan, &half, "RANK=3 without WORLD_SIZE");
}

static void test_ranks_contradictions(void) {
    static RankCase cases[] = {
        {"RANK=3", "", "RANK=3 without WORLD_SIZE|torchrun"},
        {"WORLD_SIZE=4", "", "WORLD_SIZE=4 without RANK"},
        {"LOCAL_RANK=0", "", "LOCAL_RANK=0 without RANK"},
        {"RANK=4 WORLD_SIZE=4", "", "RANK=4 but WORLD_SIZE=4|from 0 to 3"},
        {"RANK=-1 WORLD_SIZE=4", "", "RANK='-1'|whole number"},
        {"RANK=1x WORLD_SIZE=4", "", "RANK='1x'|whole number"},
        {"RANK= WORLD_SIZE=4", "", "RANK=''|whole number"},
        {"RANK=0 WORLD_SIZE=0", "", "WORLD_SIZE=0|from 1 to"},
        {"RANK=0 WORLD_SIZE=2 LOCAL_RANK=2 LOCAL_WORLD_SIZE=2", "", "LOCAL_RANK=2 but LOCAL_WORLD_SIZE=2"},
        {"RANK=0 WORLD_SIZE=2 LOCAL_WORLD_SIZE=3", "", "LOCAL_WORLD_SIZE=3 but WORLD_SIZE=2"},
        {"RANK=1 WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=2", "", "RANK=1 and LOCAL_RANK=0 but WORLD_SIZE=2"},
        {"RANK=1 WORLD_SIZE=2", "", "RANK=1 and WORLD_SIZE=2 without MASTER_ADDR or --master"},
        {"RANK=1 WORLD_SIZE=2 MASTER_ADDR=h", "", "RANK=1 and WORLD_SIZE=2 without MASTER_PORT or --port"},
        {"RANK=1 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=65535", "", "MASTER_PORT=65535|1 to 65534"},
        {"RANK=1 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=x", "", "MASTER_PORT='x'"},
        {"RANK=1 WORLD_SIZE=2 MASTER_ADDR= MASTER_PORT=1", "", "MASTER_ADDR=''"},
        {TORCHRUN, "--ranks 2", "RANK=3 but --ranks 2"},
        {TORCHRUN, "--rank 4", "--rank 4 but WORLD_SIZE=4"},
        {TORCHRUN, "--local-rank 2", "--local-rank 2 but LOCAL_WORLD_SIZE=2"},
        {"", "--rank 1", "--rank 1 without --ranks"},
        {"", "--ranks 2", "--ranks 2 without --rank"},
        {"", "--rank 2 --ranks 2 --master b", "--rank 2 but --ranks 2"},
        {"", "--rank 1 --ranks 2", "--rank 1 and --ranks 2 without --master"},
        {"", "--rank 0 --ranks 2 --gpus 4", "--gpus 4 but --ranks 2"},
        {"", "--master h", "--master h without --rank and --ranks"},
        {"", "--port 3", "--port 3 without --rank and --ranks"},
        {"", "--local-rank 3", "--local-rank 3 without --rank and --ranks"},
        {"", "--gpus 4 --ranks 8", "--gpus 4 and --ranks 8"},
        {"", "--gpus 4 --master h", "--gpus 4 and --master h"},
        {"", "--gpus 4 --local-rank 1", "--gpus 4 and --local-rank 1"},
        {"", "--gpus 0", "--gpus '0'"},
        {"OMPI_COMM_WORLD_RANK=1", "", "OMPI_COMM_WORLD_RANK=1 without OMPI_COMM_WORLD_SIZE|mpirun"},
        {OPENMPI, "", "OMPI_COMM_WORLD_RANK=3 and OMPI_COMM_WORLD_SIZE=4 without --master"},
        {"SLURM_STEP_NUM_TASKS=2", "", "SLURM_STEP_NUM_TASKS=2 without SLURM_PROCID|srun"},
        {SRUN " SLURM_NTASKS=8", "", "SLURM_NTASKS=8 but SLURM_STEP_NUM_TASKS=4"},
        {SRUN " SLURM_STEP_NODELIST=node[3", "", "SLURM_STEP_NODELIST='node[3'|--master"},
        {"SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2", "", "without SLURM_STEP_NODELIST or --master"},
        {TORCHRUN " OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4", "",
         "RANK=3 of WORLD_SIZE=4 but OMPI_COMM_WORLD_RANK=2"},
        {TORCHRUN " SLURM_PROCID=2 SLURM_STEP_NUM_TASKS=4", "", "RANK=3 of WORLD_SIZE=4 but SLURM_PROCID=2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char* what = format_string("[%s] [%s]", cases[i].environment, cases[i].arguments);
        char* words = format_string("error: |%s", cases[i].want);
        expect_death(what, rank_identify, &cases[i], words);
        free(what), free(words);
    }
}

static void test_ranks_node_lists(void) {
    static const struct {
        const char *list, *first;  // NULL: it is none
    } cases[] = {
        {"node1", "node1"},
        {"node1,node2", "node1"},
        {"node[003-005,9],other1", "node003"},
        {"node[9,003-005]", "node9"},
        {"other1,node[003-005]", "other1"},
        {"rack[1-2]node[01-16]", "rack1node01"},
        {"rack[07,9]n[5]-ib0.cluster", "rack07n5-ib0.cluster"},
        {"a-b_c.d", "a-b_c.d"},
        {"[1-3]", "1"},
        {"", NULL},
        {",a", NULL},
        {"node[", NULL},
        {"node[3", NULL},
        {"node[]", NULL},
        {"node[-3]", NULL},
        {"node[a]", NULL},
        {"node[1a]", NULL},
        {"node[[1]]", NULL},
        {"node]", NULL},
        {"no de", NULL},
    };
    char out[24], tight[8];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int good = nodes_first(cases[i].list, out, sizeof out);
        CHECK(good == (cases[i].first != NULL), "'%s': %d", cases[i].list, good);
        CHECK(!good || strcmp(out, cases[i].first) == 0, "'%s': '%s'", cases[i].list, out);
    }
    CHECK(nodes_first("node[001-2]", tight, sizeof tight) && !nodes_first("node[0001]", tight, sizeof tight), "room");
}

// ---- processes ----

enum { CREW_MOST = 6 };
typedef struct {
    pid_t pid;
    int pipe;
    int code;  // exit status, 128 + signal; -1: it had to be killed, for it did not end
    double ended;
    StringBuilder said;
} CrewMember;

static struct {
    CrewMember member[CREW_MOST];
    int members;
    int port;
    const char* arguments;  // beside those that say who one is
    const char* text;
    int steps;
    int culprit;  // the rank that does something else than the others
} crew;

// Memory that all processes share.
typedef struct {
    int64_t step[CREW_MOST];  // that each has reached
    pid_t pid[CREW_MOST];
    int signals[CREW_MOST], stop;
} CrewBoard;
static volatile CrewBoard* crew_board;

static int crew_free_port(void) {
    int port = 0;
    close(ranks_listen_here(&port));
    return port;
}

static void crew_begin(const char* arguments, int steps) {
    if (!crew_board) {
        crew_board = (volatile CrewBoard*)mmap(NULL, sizeof(CrewBoard), PROT_READ | PROT_WRITE,
                                               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    }
    memset((void*)crew_board, 0, sizeof *crew_board);
    memset(&crew, 0, sizeof crew);
    crew.port = crew_free_port();
    crew.arguments = arguments;
    crew.text = "toy 1";
    crew.steps = steps;
}

// Starts one process more, which runs body(rank).
static CrewMember* crew_start(void (*body)(int), int rank) {
    CrewMember* m = &crew.member[crew.members++];
    int ends[2];
    fflush(stdout);
    fflush(stderr);
    if (pipe(ends) != 0) { die("pipe: %s", strerror(errno)); }
    m->pid = fork();
    if (m->pid < 0) { die("fork: %s", strerror(errno)); }
    if (m->pid == 0) {
        dup2(ends[1], 1);
        dup2(ends[1], 2);
        close(ends[0]), close(ends[1]);
        test_state.name = NULL;
        rank_environment("");
        body(rank);
        exit(0);
    }
    close(ends[1]);
    m->pipe = ends[0];
    fcntl(m->pipe, F_SETFL, O_NONBLOCK);
    fcntl(m->pipe, F_SETFD, FD_CLOEXEC);
    return m;
}

// Takes what a process has written so far; 1 at the end of it, when all that had the pipe are gone.
static int crew_read(CrewMember* m) {
    char chunk[4096];
    for (;;) {
        ssize_t n = read(m->pipe, chunk, sizeof chunk);
        if (n > 0) { sb_append(&m->said, chunk, (size_t)n); }
        if (n == 0) { return 1; }
        if (n < 0 && errno != EINTR) { return 0; }
    }
}

// Waits for all but the `stopped` one, or for `seconds`; who has not ended then is killed and has code -1.
static void crew_wait_but(double seconds, int stopped) {
    double end = now_seconds() + seconds;
    int left, status;
    for (int i = 0; i < crew.members; i++) { crew.member[i].code = -1; }
    do {
        left = 0;
        usleep(2000);
        for (int i = 0; i < crew.members; i++) {
            CrewMember* m = &crew.member[i];
            crew_read(m);
            if (m->pid > 0 && waitpid(m->pid, &status, WNOHANG) > 0) {
                m->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
                m->ended = now_seconds();
                m->pid = 0;
            }
            left += m->pid > 0 && i != stopped;
        }
    } while (left > 0 && now_seconds() < end);
    for (int i = 0; i < crew.members; i++) {
        CrewMember* m = &crew.member[i];
        if (m->pid > 0) {
            kill(m->pid, SIGKILL);
            waitpid(m->pid, &status, 0);
        }
        crew_read(m);
        sb_append(&m->said, "", 0);
        close(m->pipe);
    }
}
static void crew_wait(double seconds) { crew_wait_but(seconds, -1); }

static void crew_end(void) {
    for (int i = 0; i < crew.members; i++) { free(crew.member[i].said.data); }
}

// The i-th process has this status and has said these words, separated by '|'.
static void crew_check(const char* what, int i, int code, const char* words) {
    const CrewMember* m = &crew.member[i];
    CHECK(m->code == code, "%s: process %d: status %d, expected %d; it said: %s", what, i, m->code, code, m->said.data);
    char* list = format_string("%s", words);
    for (char* word = strtok(list, "|"); word; word = strtok(NULL, "|")) {
        CHECK(strstr(m->said.data, word), "%s: process %d: no '%s' in: %s", what, i, word, m->said.data);
    }
    free(list);
}

// Becomes a rank of `count`, as torchrun would have started it.
static void crew_join(int rank, int count) {
    char* variables =
        format_string("RANK=%d WORLD_SIZE=%d MASTER_ADDR=127.0.0.1 MASTER_PORT=%d", rank, count, crew.port - 1);
    rank_environment(variables);
    free(variables);
    ranks_begin(rank_table(crew.arguments), crew.text);
    crew_board->pid[ranks.rank] = getpid();
}

static int crew_count;  // ranks of the next run

// A run: steps in which each waits for the others.
static void crew_train(int rank) {
    crew_join(rank, crew_count);
    for (int step = 1; step <= crew.steps && !crew_board->stop; step++) {
        ranks_progress(step);
        crew_board->step[ranks.rank] = step;
        ranks_barrier("step");
    }
    ranks_end();
}

static void crew_run(void (*body)(int), int count) {
    crew_count = count;
    for (int r = 0; r < count; r++) { crew_start(body, r); }
}

// Waits until a rank has reached a step.
static void crew_reaches(int rank, int64_t step) {
    for (double end = now_seconds() + 5; crew_board->step[rank] < step && now_seconds() < end;) { usleep(500); }
}

// ---- the meeting ----

static void crew_meet(int rank) {
    usleep((useconds_t)crew_board->signals[rank] * 1000);  // comes late
    crew_join(rank, crew_count);
    int64_t mine[3] = {rank, 10 + rank, 20 + rank}, all[3 * CREW_MOST], shared[2] = {rank, rank};
    ranks_gather(mine, sizeof mine, all, "numbers");
    for (int r = 0; r < crew_count; r++) {
        for (int i = 0; i < 3; i++) {
            CHECK(all[3 * r + i] == 10 * i + r, "rank %d gets %lld", rank, (long long)all[3 * r + i]);
        }
    }
    ranks_share(shared, sizeof shared, "two numbers");
    CHECK(shared[0] == 0 && shared[1] == 0, "rank %d gets %lld", rank, (long long)shared[0]);
    char* big = (char*)xalloc(1 << 20, 1, "a test");  // more than a connection holds
    memset(big, ranks_talks() ? 'x' : 'y', 1 << 20);
    ranks_share(big, 1 << 20, "a megabyte");
    CHECK(big[0] == 'x' && big[(1 << 20) - 1] == 'x', "rank %d", rank);
    ranks_barrier("nothing");
    char* banner = ranks_banner("2.21.5");
    printf("%s; local %d of %d %s; links %d %d", banner, ranks.local_rank, ranks.local_count, ranks.gpu,
           ranks.links != NULL, watch.running);
    free(banner);
    free(big);
    ranks_end();
    if (test_state.checks_failed) { exit(3); }
}

static void test_ranks_meet(void) {
    static const int late[][4] = {{0, 0, 0, 0}, {120, 0, 30, 0}, {0, 60, 0, 100}, {90, 60, 30, 0}};  // ms
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    for (int count = 1; count <= 4; count++) {
        for (int k = 0; k < (count == 4 ? 4 : count); k++) {
            crew_begin("--meet-timeout 10", 0);
            for (int r = 0; r < 4; r++) { crew_board->signals[r] = late[k][r]; }
            crew_run(crew_meet, count);
            crew_wait(10);
            for (int r = 0; r < count; r++) {
                char* want = count == 1
                                 ? format_string("1 rank, NCCL 2.21.5; local 0 of 1|links 0 0")
                                 : format_string("%d ranks on 1 host, NCCL 2.21.5; %s: ranks 0 to %d on GPU 0 to %d; "
                                                 "local %d of %d GPU %d; links 1 1",
                                                 count, host, count - 1, count - 1, r, count, r);
                crew_check("meeting", r, 0, want);
                free(want);
            }
            crew_end();
        }
    }
}

static void test_ranks_banner(void) {
    static RankPeer peers[] = {{"a", 1, 0}, {"a", 1, 1}, {"b", 1, 0}, {"b", 1, 2},
                               {"a", 1, 2}, {"b", 1, 3}, {"c", 1, 0}, {"c", 1, 2}};
    Ranks before = ranks;
    ranks.count = 8;
    ranks.peers = peers;
    char* text = ranks_banner(NULL);
    const char* want =
        "8 ranks on 3 hosts; a: ranks 0 to 1 on GPU 0 to 1, rank 4 on GPU 2; b: rank 2 on GPU 0, rank 3 on GPU "
        "2, rank 5 on GPU 3; c: rank 6 on GPU 0, rank 7 on GPU 2";
    CHECK(strcmp(text, want) == 0, "%s", text);
    free(text);
    text = ranks_layout();
    CHECK(strcmp(text, "8 GPUs of 3 machines") == 0, "%s", text);
    free(text);
    static const struct {
        const char *hosts, *order;  // a letter a rank
    } orders[] = {{"aabb", "2+2"},       {"aaab", "3+1"}, {"abab", "1+1+1+1"}, {"aaaaa", "5"},
                  {"aabbccddee", "5x2"}, {"a", "1"},      {"abcdeff", "5x1+2"}};
    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
        RankPeer machines[10] = {{"", 0, 0}};
        ranks.count = (int)strlen(orders[i].hosts);
        ranks.peers = machines;
        for (int r = 0; r < ranks.count; r++) { machines[r].host[0] = orders[i].hosts[r]; }
        text = ranks_order();
        CHECK(strcmp(text, orders[i].order) == 0, "ranks on %s: %s, expected %s", orders[i].hosts, text,
              orders[i].order);
        free(text);
    }
    ranks = before;
}

// Connects to rank 0 and says something else; stays, or hangs up. Returns the connection, 0 where it hung up.
static int crew_stranger(const void* words, size_t bytes, int stays) {
    char why[128];
    snprintf(ranks.master, sizeof ranks.master, "127.0.0.1");
    ranks.port = crew.port;
    for (double end = now_seconds() + 5; now_seconds() < end; usleep(2000)) {
        int fd = meet_dial(why, sizeof why, end);
        if (fd < 0) { continue; }
        if (link_send(fd, words, bytes, end) != LINK_GOOD) { die("a stranger is not heard"); }
        if (stays) { return fd; }
        close(fd);
        return 0;
    }
    die("a stranger finds nobody: %s", why);
}

static void crew_strangers(int unused) {
    (void)unused;
    ranks.rank = 1, ranks.count = 2, ranks.job = 77;
    Hello hello;
    meet_introduce(&hello, "toy 1");
    const char* http = "GET / HTTP/1.0\r\n\r\n";
    crew_stranger("", 0, 0);
    crew_stranger("", 0, 1);
    crew_stranger(http, strlen(http), 0);
    crew_stranger(http, strlen(http), 1);
    crew_stranger(&hello, 7, 0);
    crew_stranger(&hello, 7, 1);
    crew_stranger(&hello, sizeof hello - 1, 0);
    MeetAnswer answer;  // the rank of another job learns that it is one
    int fd = crew_stranger(&hello, sizeof hello, 1);
    if (link_receive(fd, &answer, sizeof answer, now_seconds() + 5) != LINK_GOOD || answer.kind != MEET_STRANGER) {
        die("another job is not told");
    }
    ranks.count = 1;
    crew_board->signals[5] = 1;
}

static void crew_meet_second(int rank) {
    while (!crew_board->signals[5]) { usleep(1000); }
    crew_meet(rank);
}

static void test_ranks_strangers(void) {
    crew_begin("--meet-timeout 5", 0);
    crew_count = 2;
    crew_start(crew_meet, 0);
    crew_start(crew_strangers, 0);
    crew_start(crew_meet_second, 1);
    crew_wait(10);
    for (int i = 0; i < 3; i++) { crew_check("strangers", i, 0, i == 1 ? "" : "2 ranks on 1 host"); }
    crew_end();
}

static void crew_other_text(int rank) {
    crew.text = "toy 2";
    crew_meet(rank);
}
static void crew_other_count(int rank) {
    crew_count = 4;
    crew_meet(rank);
}
static void crew_other_version(int rank) {
    ranks.rank = rank, ranks.count = 3;
    Hello hello;
    meet_introduce(&hello, "toy 1");
    hello.begin.version = 9;
    MeetAnswer answer;
    int fd = crew_stranger(&hello, sizeof hello, 1);
    if (link_receive(fd, &answer, sizeof answer, now_seconds() + 5) == LINK_GOOD) { die("%s", answer.text); }
}
static void crew_left(int rank) {
    ranks.rank = rank, ranks.count = 3;
    Hello hello;
    meet_introduce(&hello, "toy 1");
    hello.purpose = LINK_EXCHANGES;
    crew_stranger(&hello, sizeof hello, 1);
    usleep(50000);
    ranks.count = 1;
    die("leaves");
}

// Two good ranks and one that is something else.
static void test_ranks_refused(void) {
    static const struct {
        void (*body)(int);
        int rank;
        const char* words;
    } cases[] = {
        {crew_meet, 1, "two processes say that they are rank 1 of 3: "},
        {crew_other_text, 2, "is 'toy 2', rank 0 (|is 'toy 1': expected the same"},
        {crew_other_count, 2, "rank 2 (|says that there are 4 ranks, rank 0 (|that there are 3"},
        {crew_other_version, 2, "rank 2 speaks version 9|version 2"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        crew_begin("--meet-timeout 5", 0);
        crew_count = 3;
        crew_start(crew_meet, 0);
        crew_start(crew_meet, 1);
        usleep(100000);  // when the others are there: who comes after the refusal finds nobody
        crew_start(cases[k].body, cases[k].rank);
        crew_wait(4);
        for (int i = 0; i < 3; i++) { crew_check(cases[k].words, i, 1, cases[k].words); }
        crew_end();
    }
    crew_begin("--meet-timeout 5", 0);
    crew_count = 3;
    crew_start(crew_meet, 0);
    crew_start(crew_meet, 1);
    crew_start(crew_left, 2);
    crew_wait(4);
    for (int i = 0; i < 2; i++) {
        crew_check("a rank that left", i, 1, "rank 2 (|has ended while the ranks were gathering");
    }
    crew_end();
}

static void test_ranks_missing(void) {
    crew_begin("--meet-timeout 0.4", 0);
    crew_count = 6;
    crew_start(crew_meet, 0);
    crew_start(crew_meet, 2);
    crew_wait(5);
    for (int i = 0; i < 2; i++) {
        crew_check("missing", i, 1,
                   "of 6 ranks these did not come to rank 0 (|within 0.4 s (--meet-timeout): 1, 3 to 5\n");
    }
    CHECK(strncmp(crew.member[1].said.data, "rank 2 (", 8) == 0, "%s", crew.member[1].said.data);
    CHECK(strstr(crew.member[1].said.data, ") step 0: error: ") != NULL, "%s", crew.member[1].said.data);
    crew_end();

    crew_begin("--meet-timeout 0.3", 0);
    crew_count = 2;
    crew_start(crew_meet, 1);  // no rank 0
    crew_wait(5);
    char* want = format_string(
        "rank 0 of 2 could not be reached at 127.0.0.1, port %d, within 0.3 s|Connection refused", crew.port);
    crew_check("no rank 0", 0, 1, want);
    free(want);
    crew_end();

    crew_begin("--meet-timeout 0.3 --master no-such-host.invalid", 0);
    crew_start(crew_meet, 1);
    crew_wait(30);
    crew_check("unknown name", 0, 1, "no-such-host.invalid|its name is not known");
    crew_end();

    crew_begin("--meet-timeout 0.3", 0);
    int taken = ranks_listen_here(&crew.port);
    crew_start(crew_meet, 0);
    crew_wait(5);
    crew_check("port taken", 0, 1, "cannot listen on port|Address already in use|--port");
    crew_end();

    crew_begin("--meet-timeout 0.5", 0);  // something else listens there, and never answers
    close(taken);
    taken = ranks_listen_here(&crew.port);
    crew_start(crew_meet, 1);
    crew_wait(5);
    crew_check("somebody else", 0, 1, "rank 0 of 2 could not be reached|says nothing");
    close(taken);
    crew_end();
}

// ---- exchanges ----

static void crew_mismatch(int rank) {
    crew_join(rank, crew_count);
    char data[2 * CREW_MOST];
    int odd = rank == 1;
    ranks_barrier("good");
    switch (crew_board->stop) {
        case 0: ranks_barrier(odd ? "here" : "there"); break;
        case 1: ranks_share(data, odd ? 3 : 4, "numbers"); break;
        case 2: ranks_gather(data, odd ? 1 : 2, data, "numbers"); break;
        case 3:
            if (odd) { ranks_barrier("x"); }
            if (!odd) { ranks_share(data, 4, "x"); }
            break;
        case 4:
            if (odd) { exchange_number++; }
            ranks_barrier("x");
            break;
    }
    ranks_end();
}

static void test_ranks_exchange_mismatch(void) {
    static const char* const words[] = {
        "to the barrier \"here\" (exchange 2), rank 0 (|to the barrier \"there\" (exchange 2)",
        "to share \"numbers\" of 3 bytes (exchange 2), rank 0 (|to share \"numbers\" of 4 bytes",
        "to gather \"numbers\" of 1 bytes (exchange 2), rank 0 (|to gather \"numbers\" of 2 bytes",
        "to the barrier \"x\" (exchange 2), rank 0 (|to share \"x\" of 4 bytes",
        "to the barrier \"x\" (exchange 3), rank 0 (|to the barrier \"x\" (exchange 2)",
    };
    for (int k = 0; k < 5; k++) {
        crew_begin("--meet-timeout 5 --nccl-timeout 5", 0);
        crew_board->stop = k;
        crew_run(crew_mismatch, 3);
        crew_wait(5);
        for (int r = 0; r < 3; r++) {
            crew_check("mismatch", r, 1, words[k]);
            crew_check("mismatch", r, 1, "rank 1 (|, GPU 1) comes |, GPU 0) to |expected the same on all ranks");
        }
        crew_end();
    }
}

static void crew_devices(int rank) {
    crew_join(rank, crew_count);
    char uuid[16] = {0};
    uuid[15] = (char)(rank == 2 && crew.culprit ? 0xab : 0xa9 + 2 * rank);
    ranks_check_devices(uuid);
    ranks_end();
}

static void test_ranks_devices(void) {
    for (int same = 0; same < 2; same++) {
        crew_begin("--nccl-timeout 5", 0);
        crew.culprit = same;
        crew_run(crew_devices, 3);
        crew_wait(5);
        for (int r = 0; r < 3; r++) {
            crew_check("devices", r, same,
                       same ? "rank 1 (|, GPU 1) and rank 2 (|, GPU 2) are on the same GPU|00000000000000ab" : "");
        }
        crew_end();
    }
}

// All take the fewest rows, and rank 0 says whose they are where they differ.
static void crew_rows(int rank) {
    static const int rows[][3] = {{8, 8, 8}, {8, 4, 16}};
    crew_join(rank, crew_count);
    const int least = ranks_least_rows(rows[crew.culprit][rank]);
    printf("takes %d.", least);
    ranks_end();
}

static void test_ranks_rows(void) {
    for (int differ = 0; differ < 2; differ++) {
        crew_begin("--nccl-timeout 5", 0);
        crew.culprit = differ;
        crew_run(crew_rows, 3);
        crew_wait(5);
        for (int r = 0; r < 3; r++) {
            crew_check("rows", r, 0, differ ? "takes 4." : "takes 8.");
            if (differ && r == 0) {
                crew_check("rows", r, 0, "of 16 rows suit the GPU of rank 2 (|, of 4 that of rank 1 (|: all take 4;");
            } else {
                CHECK(!strstr(crew.member[r].said.data, "suit"), "rank %d says: %s", r, crew.member[r].said.data);
            }
        }
        crew_end();
    }
}

// ---- the watchdog ----

// The others end soon, with a line each that begins with the rank's own name and names the culprit.
static void check_ends(const char* what, int count, int culprit, double since, double most, const char* words) {
    for (int r = 0; r < count; r++) {
        if (r == culprit) { continue; }
        crew_check(what, r, 1, words);
        char* begin = format_string("rank %d (", r);
        char* blamed = format_string(": error: rank %d (", culprit);
        const char* said = crew.member[r].said.data;
        CHECK(strncmp(said, begin, strlen(begin)) == 0 && strstr(said, blamed), "%s: rank %d says: %s", what, r, said);
        CHECK(crew.member[r].ended - since < most, "%s: rank %d ended after %g s", what, r,
              crew.member[r].ended - since);
        free(begin), free(blamed);
    }
}

// All are done, but one takes a little longer to say goodbye: the others are not dead when they close their connections.
static void crew_part(int rank) {
    crew_join(rank, crew_count);
    ranks_barrier("the end of the run");
    if (rank == crew.culprit) { usleep(100000); }
    watch_stop();
}

static void test_ranks_goodbye(void) {
    for (int slow = 0; slow < 3; slow++) {
        crew_begin("--nccl-timeout 5", 0);
        crew.culprit = slow;
        crew_run(crew_part, 3);
        crew_wait(5);
        for (int r = 0; r < 3; r++) { crew_check("goodbye", r, 0, ""); }
        crew_end();
    }
}

static void test_ranks_normal_end(void) {
    for (int count = 2; count <= 4; count++) {
        crew_begin("--nccl-timeout 5", 20);
        crew_run(crew_train, count);
        crew_wait(5);
        for (int r = 0; r < count; r++) {
            crew_check("normal end", r, 0, "");
            CHECK(crew.member[r].said.size == 0, "rank %d says: %s", r, crew.member[r].said.data);
        }
        crew_end();
    }
}

static void test_ranks_killed(void) {
    for (int k = 0; k < 20; k++) {
        int count = 2 + k % 3, culprit = k % count;
        crew_begin("--nccl-timeout 5", 1000000);
        crew_run(crew_train, count);
        crew_reaches(culprit, 1 + (int64_t)(random_block(5, 6, (uint64_t)k).word[0] % 200));
        kill(crew.member[culprit].pid, SIGKILL);
        double since = now_seconds();
        crew_wait(4);
        crew_check("killed", culprit, 128 + SIGKILL, "");
        check_ends("killed", count, culprit, since, 4, "is gone: its connection closed at step ");
        crew_end();
    }
}

static void test_ranks_stopped(void) {
    watch_patience = 0.3;  // who is stopped never closes its connection
    for (int culprit = 0; culprit < 3; culprit += 2) {
        crew_begin("--nccl-timeout 0.5", 1000000);
        crew_run(crew_train, 3);
        crew_reaches(culprit, 5);
        kill(crew.member[culprit].pid, SIGSTOP);
        double since = now_seconds();
        crew_wait_but(3, culprit);
        check_ends("stopped", 3, culprit, since, 4,
                   "is no longer heard of|nobody has progressed for 0.5 s (--nccl-timeout)|last at step ");
        crew_end();
    }
    watch_patience = 5;
}

static void crew_slow(int rank) {
    crew_join(rank, crew_count);
    for (int step = 1; step <= 3; step++) {
        ranks_progress(step);
        crew_board->step[ranks.rank] = step;
        ranks_barrier("step");
        usleep(250000);
    }
    ranks_end();
}

// All go on after they stood still together, as after Ctrl-Z.
static void test_ranks_all_stopped(void) {
    crew_begin("--nccl-timeout 0.6", 0);
    crew_run(crew_slow, 3);
    for (int r = 0; r < 3; r++) { crew_reaches(r, 2); }
    usleep(120000);  // nobody does anything, and all know it
    for (int r = 0; r < 3; r++) { kill(crew.member[r].pid, SIGSTOP); }
    usleep(1300000);
    for (int r = 0; r < 3; r++) { kill(crew.member[r].pid, SIGCONT); }
    crew_wait(5);
    for (int r = 0; r < 3; r++) { crew_check("all stood still", r, 0, ""); }
    crew_end();
}

static void crew_hang(int rank) {
    crew_join(rank, crew_count);
    for (int step = 1; step <= 10; step++) {
        ranks_progress(step);
        if (step == 7 && rank == crew.culprit) {
            for (;;) { pause(); }
        }
        ranks_barrier("step");
    }
    ranks_end();
}

// The others have gone on by themselves, and wait for it elsewhere.
static void crew_behind(int rank) {
    crew_join(rank, crew_count);
    for (int step = 1; step <= (rank == crew.culprit ? 6 : 8); step++) { ranks_progress(step); }
    for (int i = 0; i < 10 && rank == crew.culprit; i++) {
        ranks_progress(6);
    }  // its step counts, not how much it does
    for (;;) { pause(); }
}
static void crew_nobody(int rank) {
    crew_join(rank, crew_count);
    ranks_progress(9);
    for (;;) { pause(); }
}

static void test_ranks_hang(void) {
    for (int culprit = 0; culprit < 3; culprit++) {
        for (int k = 0; k < (culprit == 1 ? 2 : 1); k++) {
            crew_begin("--nccl-timeout 0.3", 0);
            crew.culprit = culprit;
            crew_run(k ? crew_behind : crew_hang, 3);
            double since = now_seconds();
            crew_wait(5);
            check_ends("hang", 3, culprit, since, 4, k ? "hangs at step 6; nobody" : "hangs at step 7; nobody");
            crew_check("hang", culprit, 1, "hangs at step ");
            crew_end();
        }
    }
    crew_begin("--nccl-timeout 0.3", 0);
    crew_run(crew_nobody, 3);
    crew_wait(5);
    for (int r = 0; r < 3; r++) {
        crew_check("nobody's fault", r, 1, "as all ranks, answers and is at step 9; nobody has progressed");
    }
    crew_end();
}

// All wait, with different numbers of progress; the culprit, if there is one, has come to one collective less.
static void crew_lost(int rank) {
    crew_join(rank, crew_count);
    ranks_progress(4);
    for (int i = 0; i < 5 * rank; i++) { ranks_still_works(); }
    for (int i = rank == crew.culprit; i < 3; i++) { ranks_join(); }
    ranks_wait(1);
    for (;;) { pause(); }
}

// Who waits where the others wait is not accused, whatever it has done before.
static void test_ranks_lost(void) {
    for (int culprit = -1; culprit < 3; culprit++) {
        crew_begin("--nccl-timeout 0.3", 0);
        crew.culprit = culprit;
        crew_run(crew_lost, 3);
        double since = now_seconds();
        crew_wait(5);
        for (int r = 0; r < 3 && culprit < 0; r++) {
            crew_check("lost", r, 1,
                       "error: all 3 ranks answer and wait for one another at step 4, in the same exchange");
            crew_check("lost", r, 1, "nobody has progressed for 0.3 s (--nccl-timeout)");
        }
        if (culprit >= 0) {
            check_ends("lost", 3, culprit, since, 4, "waits in an earlier exchange than others at step 4;");
        }
        crew_end();
    }
}

static void crew_save(int rank) {
    crew_join(rank, crew_count);
    ranks_progress(4);
    for (int i = 0; i < 10 && rank == 0; i++) {
        usleep(80000);
        ranks_progress(4);
    }
    ranks_barrier("saved");
    ranks_end();
}

static void test_ranks_saving_is_progress(void) {
    crew_begin("--nccl-timeout 0.3", 0);
    crew_run(crew_save, 3);
    crew_wait(5);
    for (int r = 0; r < 3; r++) { crew_check("saving", r, 0, ""); }
    crew_end();
}

static void crew_save_last(void) { fprintf(stderr, "saved it\n"); }
static void crew_fail(int rank) {
    crew_join(rank, crew_count);
    for (int step = 1; step <= 10; step++) {
        ranks_progress(step);
        if (rank == 1) { warn("be careful"); }
        if (step == 5 && rank == crew.culprit) {
            die_last = crew_save_last;
            die("the disk is %s", "full");
        }
        ranks_barrier("step");
    }
    ranks_end();
}

static void test_ranks_fail(void) {
    for (int culprit = 0; culprit < 3; culprit++) {
        crew_begin("--nccl-timeout 5", 0);
        crew.culprit = culprit;
        crew_run(crew_fail, 3);
        double since = now_seconds();
        crew_wait(5);
        crew_check("fail", culprit, 1, "step 5: error: the disk is full\nsaved it\n");
        char* words = format_string("failed at step 5: the disk is full\n");
        for (int r = 0; r < 3; r++) {
            if (r != culprit) { crew_check("fail", r, 1, words); }
        }
        crew_check("fail", 1, 1, "GPU 1) step 1: warning: be careful\n");
        CHECK(now_seconds() - since < 4, "it takes %g s", now_seconds() - since);
        for (int r = 0; r < 3; r++) {
            CHECK(!strstr(crew.member[r].said.data, "is gone"), "rank %d says: %s", r, crew.member[r].said.data);
        }
        free(words);
        crew_end();
    }
}

// All do the same. crew.culprit = 0: rank 0 alone fails, 1: rank 1 alone; 2: all of one cause, rank 0 last; 3: so, but
// rank 1 of a cause of its own.
static void crew_alike(int rank) {
    watch_asks = crew.culprit == 1 ? 0.3 : 8;  // in vain; or until rank 0 is there
    crew_join(rank, crew_count);
    ranks_alike(1);
    ranks_barrier("start");
    if (crew.culprit >= 2 || crew.culprit == rank) {
        if (rank == 0) { usleep(100000); }
        die("there is no %s", rank == 1 && crew.culprit != 2 ? "bread" : "milk");
    }
    ranks_barrier("setup");
}

static void test_ranks_alike(void) {
    static const char* const says[4][3] = {
        {"error: there is no milk\n", "", ""},
        {"failed at step 0: there is no bread\n", "error: there is no bread\n",
         "failed at step 0: there is no bread\n"},
        {"error: there is no milk\n", "", ""},
        {"error: there is no milk\n", "error: there is no bread\n", ""},
    };
    for (int k = 0; k < 4; k++) {
        crew_begin("--nccl-timeout 5", 0);
        crew.culprit = k;
        crew_run(crew_alike, 3);
        crew_wait(10);
        for (int r = 0; r < 3; r++) {
            const char* said = crew.member[r].said.data;
            crew_check("alike", r, 1, says[k][r]);
            int lines = 0;
            for (const char* p = said; (p = strchr(p, '\n')); p++) { lines++; }
            CHECK(lines == (says[k][r][0] != 0), "case %d: rank %d says: %s", k, r, said);
        }
        crew_end();
    }
}

static void crew_leave(int rank) {
    crew_join(rank, crew_count);
    ranks_progress(3);
    ranks_barrier("step");
    if (rank == crew.culprit) { exit(0); }  // without a goodbye
    ranks_barrier("step");
    ranks_end();
}

static void test_ranks_leave(void) {
    for (int culprit = 0; culprit < 3; culprit++) {
        crew_begin("--nccl-timeout 5", 0);
        crew.culprit = culprit;
        crew_run(crew_leave, 3);
        double since = now_seconds();
        crew_wait(5);
        crew_check("leaves", culprit, 0, "");
        check_ends("leaves", 3, culprit, since, 4, "is gone: its connection closed");
        crew_end();
    }
}

// One gets a signal; all wait for nothing else than to hear of it.
static void crew_signalled(int rank) {
    crew_join(rank, crew_count);
    ranks_barrier("step");
    if (rank == crew.culprit) { ranks.signal = SIGTERM; }
    for (double end = now_seconds() + 4; !ranks_called() && now_seconds() < end;) { usleep(1000); }
    if (ranks_called() != SIGTERM) { die("it did not hear"); }
    ranks_end();
}

static void test_ranks_signal(void) {
    for (int culprit = 0; culprit < 3; culprit++) {
        crew_begin("--nccl-timeout 60", 0);
        crew.culprit = culprit;
        crew_run(crew_signalled, 3);
        crew_wait(8);
        for (int r = 0; r < 3; r++) {
            crew_check("a signal", r, 0, "");
            CHECK(crew.member[r].said.size == 0, "rank %d says: %s", r, crew.member[r].said.data);
        }
        crew_end();
    }
}

static void crew_abort_works(void) {
    if (write(2, "aborted\n", 8) < 0) { _exit(5); }
}
static void crew_abort_hangs(void) {
    if (write(2, "aborting\n", 9) < 0) { _exit(5); }
    for (;;) { pause(); }
}
static void crew_exit_hangs(void) {
    for (;;) { pause(); }
}

// k = 0: ranks.abort works; 1: it hangs; 2: so does exit() of the rank that fails.
static void crew_abort(int rank) {
    watch_patience = crew_board->stop == 0 ? 20 : 0.4;
    ranks.abort = crew_board->stop == 0 ? crew_abort_works : crew_abort_hangs;
    crew_join(rank, crew_count);
    ranks_progress(3);
    ranks_barrier("step");
    if (rank == 1) {
        if (crew_board->stop == 2) { atexit(crew_exit_hangs); }
        die("as it should");
    }
    for (;;) { pause(); }
}

static void test_ranks_abort(void) {
    for (int k = 0; k < 3; k++) {
        crew_begin("--nccl-timeout 20", 0);
        crew_board->stop = k;
        crew_run(crew_abort, 3);
        double since = now_seconds();
        crew_wait(5);
        for (int r = 0; r < 3; r++) {
            crew_check("abort", r, 1,
                       k == 0 && r != 1 ? "as it should|aborted"
                       : k && r != 1    ? "as it should|aborting"
                                        : "as it should");
            CHECK(crew.member[r].ended - since < 4, "rank %d: %g s", r, crew.member[r].ended - since);
        }
        crew_end();
    }
}

static volatile int crew_aborted;
static void crew_abort_ends(void) { crew_aborted = 1; }

// A collective that ranks.abort ends, with numbers that mean nothing.
static void crew_stale(int rank) {
    ranks.abort = crew_abort_ends;
    crew_join(rank, crew_count);
    ranks_barrier("step");
    if (rank == 1) { die("as it should"); }
    ranks_wait(1);
    while (!crew_aborted) { usleep(1000); }
    ranks_wait(0);
    fprintf(stderr, "went on\n");
    usleep(2000000);
}

static void test_ranks_stale(void) {
    crew_begin("--nccl-timeout 20", 0);
    crew_run(crew_stale, 3);
    crew_wait(5);
    for (int r = 0; r < 3; r++) {
        crew_check("stale", r, 1, "as it should");
        CHECK(!strstr(crew.member[r].said.data, "went on"), "rank %d: %s", r, crew.member[r].said.data);
    }
    crew_end();
}

// ---- --gpus ----

static void crew_on_signal(int number) { crew_board->signals[ranks.rank] += number; }

// Longer than ranks_grace.
static void crew_save_long(void) {
    ranks_tell_parent(1);
    usleep(900000);
    fprintf(stderr, "saved it\n");
}

static void crew_gpus(int count) {
    ranks_grace = 0.5;
    char* arguments = format_string("--gpus %d %s", count, crew.arguments);
    ranks_begin(rank_table(arguments), "toy 1");
    free(arguments);
    crew_board->pid[ranks.rank] = getpid();
    signal(SIGTERM, crew_on_signal);
    signal(SIGUSR1, crew_on_signal);
    int64_t mine = ranks.rank, all[CREW_MOST];
    ranks_gather(&mine, sizeof mine, all, "numbers");
    printf("[%d of %d, local %d of %d, %lld]", ranks.rank, ranks.count, ranks.local_rank, ranks.local_count,
           (long long)all[ranks.count - 1]);
    fflush(stdout);
    crew_board->step[ranks.rank] = 1;
    while (!crew_board->stop) { usleep(1000); }
    if (ranks.rank == crew.culprit && crew_board->stop == 2) { _exit(7); }
    if (ranks.rank == crew.culprit && crew_board->stop == 3) { die("of rank %d", ranks.rank); }
    if (ranks.rank == crew.culprit && crew_board->stop == 5) {
        die_last = crew_save_long;
        die("of rank %d, which saves", ranks.rank);
    }
    if (crew_board->stop == 4) {  // they all end by the signal, as the trainer does
        ranks_end();
        if (ranks.rank == 0) { usleep(800000); }  // longer than after a failure
        exit(128 + SIGTERM);
    }
    if (crew_board->stop >= 2) {
        for (;;) { pause(); }
    }
    ranks_end();
}

// Starts a run of --gpus N and waits until it is under way.
static void gpus_start(int count, int culprit) {
    crew_begin("--nccl-timeout 20", 0);
    crew.culprit = culprit;
    crew_start(crew_gpus, count);
    for (int r = 0; r < count; r++) { crew_reaches(r, 1); }
}

static void test_ranks_gpus(void) {
    gpus_start(3, -1);
    kill(crew.member[0].pid, SIGUSR1);
    usleep(50000);
    crew_board->stop = 1;
    crew_wait(5);
    crew_check("gpus", 0, 0, "[0 of 3, local 0 of 3, 2]|[1 of 3, local 1 of 3, 2]|[2 of 3, local 2 of 3, 2]");
    CHECK(!strstr(crew.member[0].said.data, "rror"), "%s", crew.member[0].said.data);
    for (int r = 0; r < 3; r++) {
        CHECK(crew_board->signals[r] == SIGUSR1, "rank %d: signals %d", r, crew_board->signals[r]);
    }
    crew_end();

    gpus_start(2, -1);  // a signal ends them all: no failure, and no hurry
    kill(crew.member[0].pid, SIGTERM);
    usleep(20000);
    crew_board->stop = 4;
    crew_wait(5);
    crew_check("gpus, ended by a signal", 0, 128 + SIGTERM, "");
    CHECK(!strstr(crew.member[0].said.data, "rror"), "%s", crew.member[0].said.data);
    crew_end();

    gpus_start(3, 1);  // one fails: its status counts, and the others end
    crew_board->stop = 2;
    crew_wait(5);
    crew_check("gpus, one exits", 0, 7, "GPU 1) is gone: its connection closed");
    crew_end();

    gpus_start(3, 2);
    crew_board->stop = 3;
    crew_wait(5);
    crew_check("gpus, one dies", 0, 1, "GPU 2) step 0: error: of rank 2\n|GPU 2) failed at step 0: of rank 2\n");
    crew_end();

    gpus_start(3, 0);  // one saves before it ends: it has the time
    crew_board->stop = 5;
    crew_wait(5);
    crew_check("gpus, one saves", 0, 1, "GPU 0) step 0: error: of rank 0, which saves\n|saved it\n");
    CHECK(!strstr(crew.member[0].said.data, "killed"), "%s", crew.member[0].said.data);
    crew_end();

    gpus_start(3, -1);  // killed: named
    kill(crew_board->pid[1], SIGKILL);
    crew_wait(5);
    crew_check("gpus, one is killed", 0, 128 + SIGKILL,
               "error: rank 1 (|GPU 1, process|was killed by signal 9 (Killed)|memory");
    crew_end();

    gpus_start(3, -1);  // one that neither ends nor listens is killed in the end
    kill(crew_board->pid[0], SIGSTOP);
    kill(crew_board->pid[1], SIGKILL);
    crew_wait(5);
    crew_check("gpus, one does not end", 0, 128 + SIGKILL,
               "was killed by signal 9|not ended within 0.5 seconds of the first that failed");
    crew_end();
}

// kill -9 of the parent ends the ranks: their pipe closes.
static void test_ranks_gpus_parent(void) {
#ifndef __linux__
    test_skip("--gpus needs Linux");
    return;
#endif
    gpus_start(3, -1);
    CrewMember* m = &crew.member[0];
    kill(m->pid, SIGKILL);
    int gone = 0;
    for (double end = now_seconds() + 3; !gone && now_seconds() < end; usleep(2000)) { gone = crew_read(m); }
    CHECK(gone, "ranks are left: %d %d %d", crew_board->pid[0], crew_board->pid[1], crew_board->pid[2]);
    crew_board->stop = 1;
    crew_wait(5);
    crew_end();
}

// ---- hosts ----

// This program started with --toy-rank STEPS OPTIONS... is a rank with these options: in a network of its own.
static int ranks_toy_main(int argc, char** argv) {
    rank_environment("");
    StringBuilder line = {0};
    for (int i = 3; i < argc; i++) { sb_printf(&line, "%s%s", i > 3 ? " " : "", argv[i]); }
    ranks_begin(rank_table(line.data), "toy 1");
    char* banner = ranks_banner(NULL);
    printf("[%s; local %d of %d]\n", banner, ranks.local_rank, ranks.local_count);
    fflush(stdout);
    for (int step = 1; step <= atoi(argv[2]); step++) {
        ranks_progress(step);
        ranks_barrier("step");
    }
    ranks_end();
    return 0;
}

// Two hosts, each with a name and a network of its own, joined by a cable (veth), IPv4 and IPv6: two ranks on each; then
// one on each, until the cable is pulled: nothing closes then, but nobody is heard of. $0: this program.
static const char hosts_script[] =
    "set -e\n"
    "unshare -n -u sleep 20 & other=$!\n"
    "trap 'kill $other 2>/dev/null' EXIT\n"
    "while [ $(readlink /proc/$other/ns/net) = $(readlink /proc/self/ns/net) ]; do sleep 0.02; done\n"
    "right() { nsenter -t $other -n -u \"$@\"; }\n"
    "hostname left; right hostname right\n"
    "ip link add cable type veth peer name cable netns $other\n"
    "for host in '' right; do\n"
    "  n=1; [ -z \"$host\" ] || n=2\n"
    "  $host ip addr add 10.9.8.$n/24 dev cable; $host ip addr add fd09::$n/64 dev cable nodad\n"
    "  $host ip link set lo up; $host ip link set cable up\n"
    "done\n"
    "for master in 10.9.8.1 fd09::1; do\n"
    "  options=\"--ranks 4 --master $master --port 7000 --meet-timeout 10\"\n"
    "  pids=\n"
    "  for r in 0 1; do \"$0\" --toy-rank 20 --rank $r $options & pids=\"$pids $!\"; done\n"
    "  for r in 2 3; do right \"$0\" --toy-rank 20 --rank $r $options & pids=\"$pids $!\"; done\n"
    "  for pid in $pids; do wait $pid; done\n"
    "done\n"
    "options='--ranks 2 --master 10.9.8.1 --port 7001 --meet-timeout 10 --nccl-timeout 0.6'\n"
    "\"$0\" --toy-rank 1000000000 --rank 0 $options & a=$!\n"
    "right \"$0\" --toy-rank 1000000000 --rank 1 $options & b=$!\n"
    "sleep 0.4; ip link set cable down\n"
    "set +e; wait $a; echo \"status $?\"; wait $b; echo \"status $?\"\n";

static int hosts_cannot(const char* command, const char* why) {
    if (system(command) == 0) { return 0; }
    test_skip(why);
    return 1;
}

static int count_words(const char* text, const char* words) {
    int n = 0;
    for (const char* p = text; (p = strstr(p, words)); p++) { n++; }
    return n;
}

static void test_ranks_hosts(void) {
    if (hosts_cannot("command -v ip nsenter hostname unshare >/dev/null 2>&1",
                     "no ip, nsenter, hostname or unshare here") ||
        hosts_cannot("unshare -Urnu true 2>/dev/null", "networks of one's own are not allowed here (unshare -Urnu)") ||
        hosts_cannot("unshare -Urnu ip link add one type veth peer name two 2>/dev/null", "no veth here")) {
        return;
    }
    char* folder = test_directory("ranks");
    char *script = format_string("%s/hosts.sh", folder), path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    FILE* f = fopen(script, "w");
    if (!f) { die("%s: %s", script, strerror(errno)); }
    fputs(hosts_script, f);
    fclose(f);
    char* command = format_string("unshare -Urnu sh -c \"$(cat %s)\" \"%s\" 2>&1", script, path);
    FILE* pipe = popen(command, "r");
    char said[8192];
    size_t size = pipe ? fread(said, 1, sizeof said - 1, pipe) : 0;
    said[size] = 0;
    int status = pipe ? pclose(pipe) : -1;
    CHECK(status == 0, "status %x: %s", (unsigned)status, said);
    int four = count_words(
        said, "[4 ranks on 2 hosts; left: ranks 0 to 1 on GPU 0 to 1; right: ranks 2 to 3 on GPU 0 to 1; local ");
    CHECK(four == 8, "%d of 8 ranks: %s", four, said);
    CHECK(count_words(said, "status 1\n") == 2, "both end: %s", said);
    CHECK(strstr(said, ": error: rank 1 (right, GPU 0) is no longer heard of"), "%s", said);
    CHECK(strstr(said, ": error: rank 0 (left, GPU 0) is no longer heard of"), "%s", said);
    unlink(script);
    rmdir(folder);
    free(script), free(folder), free(command);
}

static void ranks_tests(void) {
    RUN(test_ranks_identify);
    RUN(test_ranks_plan);
    RUN(test_ranks_contradictions);
    RUN(test_ranks_node_lists);
    RUN(test_ranks_meet);
    RUN(test_ranks_banner);
    RUN(test_ranks_strangers);
    RUN(test_ranks_refused);
    RUN(test_ranks_missing);
    RUN(test_ranks_exchange_mismatch);
    RUN(test_ranks_devices);
    RUN(test_ranks_rows);
    RUN(test_ranks_normal_end);
    RUN(test_ranks_goodbye);
    RUN(test_ranks_killed);
    RUN(test_ranks_stopped);
    RUN(test_ranks_all_stopped);
    RUN(test_ranks_hang);
    RUN(test_ranks_lost);
    RUN(test_ranks_saving_is_progress);
    RUN(test_ranks_fail);
    RUN(test_ranks_alike);
    RUN(test_ranks_leave);
    RUN(test_ranks_signal);
    RUN(test_ranks_abort);
    RUN(test_ranks_stale);
    RUN(test_ranks_gpus);
    RUN(test_ranks_gpus_parent);
    RUN(test_ranks_hosts);
}

#endif

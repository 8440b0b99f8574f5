// ranks.h - a run on several GPUs: processes that start, meet, tell each other small things, and end together.
//
//     ranks_options()    --gpus, --rank, --ranks, --local-rank, --master, --port, --meet-timeout, --nccl-timeout
//     ranks_begin()      who this process is, or starts all (launch.h); the meeting (meeting.h); the watchdog (watch.h)
//     ranks_alike()      whether all ranks do the same from here on: what goes wrong on all is said by rank 0 alone
//     ranks_called()     the signal to end that any rank got, as far as this one has heard
//     ranks_progress()   at every step, and in between by ranks_still_works() or work_goes_on() (base.h): something was done
//     ranks_share(), ranks_gather(), ranks_barrier()      for setup and checkpoints; gradients go through NCCL
//     ranks_end()        all ranks are done; every rank calls it before it exits normally
//
// One rank, and nothing of this happens: no socket, no thread, and messages as ever. Otherwise every message begins
// with whose it is, "rank 3 (HOST, GPU 1) step 17: "; what is no error rank 0 alone says (ranks_talks()). A rank that
// dies, hangs or calls die() ends all of them. What can hang in a collective is ended by ranks.abort, which whoever
// makes NCCL's communicator sets. Before the meeting no rank knows of another: what is wrong with a command line
// --gpus says before it forks, and each process that torchrun, srun or mpirun have started for itself.
#ifndef PONDER_RANKS_H
#define PONDER_RANKS_H

#include "../files/file.h"
#include "watch.h"

enum { RANK_NUMBERS = 5 };             // that each rank tells the others with the gradients of every step
enum { RANKS_OUT_OF_TIME = 1 << 20 };  // why a run stops, where it is no signal

// 1 on the rank that prints, and that writes --out.
static inline int ranks_talks(void) { return ranks.rank == 0; }

// The signal by which this rank was told to end, or another of the run, of which all hear within about a second; 0: none.
// Ranks hear of it at different moments: what they do together they leave together, by what they exchange there.
static inline int ranks_called(void) { return (int)__atomic_load_n(&ranks.signal, __ATOMIC_RELAXED); }

// This rank works: it computes, or reads or writes a file.
static void ranks_still_works(void) { __atomic_fetch_add(&ranks.progress, 1, __ATOMIC_RELAXED); }

// Fills in `ranks`, and returns in each of them when all are there. `text` must be the same on all: the program and its
// version. Called before anything of CUDA or OpenMP starts, and before files are locked: --gpus forks.
static inline void ranks_begin(const OptionTable* options, const char* text) {
    ranks_identify(options);
    if (ranks.spawn) { ranks_spawn(options); }
    if (ranks.count == 1) { return; }
    ranks_meet(text);
    watch_start();
    work_progress = ranks_still_works;
}

// This rank has begun with `step`, or goes on with something long in it.
static inline void ranks_progress(int64_t step) {
    __atomic_store_n(&ranks.step, step, __ATOMIC_RELAXED);
    __atomic_fetch_add(&ranks.progress, 1, __ATOMIC_RELAXED);
}

// 1: from here on all ranks do the same, so that an error that all of them meet is said once (watch.h); 0: no longer.
static inline void ranks_alike(int alike) { __atomic_store_n(&ranks.alike, alike, __ATOMIC_RELAXED); }

// A collective that was ended by ranks.abort has given numbers that mean nothing, and there is no communicator for
// another: from there on this rank does nothing more.
static inline void ranks_stay(void) {
    while (WATCH_GET(watch.ending)) { pause(); }
}

// Between these this rank waits for others, so that it is not blamed if nobody progresses. Exchanges say it themselves.
static inline void ranks_wait(int waits) {
    __atomic_store_n(&ranks.waiting, waits, __ATOMIC_RELAXED);
    if (!waits) { ranks_stay(); }
}

// Ends a run normally, when all ranks have come here.
static inline void ranks_end(void) {
    if (ranks.count == 1) { return; }
    ranks_barrier("the end of the run");
    watch_stop();
    for (int r = 0; r < ranks.count; r++) {
        if (ranks.links[r] >= 0) { close(ranks.links[r]); }
        if (ranks.watches[r] >= 0) { close(ranks.watches[r]); }
        ranks.links[r] = ranks.watches[r] = -1;
    }
}

// ---- devices ----

typedef struct {
    char host[64];
    unsigned char uuid[16];
} RankDevice;

// uuid[16]: of the GPU that this rank computes on. NCCL does not work with two ranks on one: dies if there are such.
static inline void ranks_check_devices(const char* uuid) {
    if (ranks.count == 1) { return; }
    RankDevice mine;
    RankDevice* all = (RankDevice*)xalloc((size_t)ranks.count, sizeof mine, "the GPUs of the ranks");
    memset(&mine, 0, sizeof mine);
    memcpy(mine.host, ranks.host, sizeof mine.host);
    memcpy(mine.uuid, uuid, sizeof mine.uuid);
    ranks_gather(&mine, sizeof mine, all, "the GPUs of the ranks");
    for (int b = 1; b < ranks.count; b++) {
        for (int a = 0; a < b; a++) {
            if (memcmp(&all[a], &all[b], sizeof all[a]) != 0) { continue; }
            if (!ranks_talks() && ranks.verdict) { ranks.verdict(3); }  // rank 0 says it
            char names[2][128], text[33];
            for (int i = 0; i < 16; i++) { snprintf(text + 2 * i, 3, "%02x", all[a].uuid[i]); }
            die("%s and %s are on the same GPU (UUID %s): expected a GPU for each; see CUDA_VISIBLE_DEVICES and "
                "--local-rank",
                rank_name(names[0], sizeof names[0], a), rank_name(names[1], sizeof names[1], b), text);
        }
    }
    free(all);
}

// ---- rows of a micro-batch ----

// mine: those that suit this rank's GPU, which may be another than the others have, or a slice of one. Which rows of a
// step a rank has follows from them, so all take the fewest, which rank 0 says where they differ.
static inline int ranks_least_rows(int mine) {
    if (ranks.count == 1) { return mine; }
    int* all = (int*)xalloc((size_t)ranks.count, sizeof mine, "rows of the ranks");
    ranks_gather(&mine, sizeof mine, all, "rows of a micro-batch");
    int least = 0, most = 0;
    for (int r = 1; r < ranks.count; r++) {
        if (all[r] < all[least]) { least = r; }
        if (all[r] > all[most]) { most = r; }
    }
    if (all[least] < all[most] && ranks_talks()) {
        char names[2][128];
        warn("micro-batches of %d rows suit the GPU of %s, of %d that of %s: all take %d; --batch says another number",
             all[most], rank_name(names[0], sizeof names[0], most), all[least],
             rank_name(names[1], sizeof names[1], least), all[least]);
    }
    mine = all[least];
    free(all);
    return mine;
}

// ---- the banner ----

// "8 GPUs of 2 machines"; the caller frees it.
static inline char* ranks_layout(void) {
    int hosts = 0;
    for (int r = 0; r < ranks.count && ranks.peers; r++) {
        int seen = 0;
        for (int q = 0; q < r; q++) { seen |= strcmp(ranks.peers[q].host, ranks.peers[r].host) == 0; }
        hosts += !seen;
    }
    return format_string("%d GPUs of %d machine%s", ranks.count, hosts, hosts == 1 ? "" : "s");
}

// Of the ranks from `first` on, how many in a row are on its machine.
static inline int ranks_in_a_row(int first) {
    int last = first;
    while (last < ranks.count && strcmp(ranks.peers[last].host, ranks.peers[first].host) == 0) { last++; }
    return last - first;
}
// How ranks lie on machines, from rank 0 on: "4+4"; "64x8" where more than four have as many. The caller frees it.
static inline char* ranks_order(void) {
    StringBuilder sb = {0};
    sb_append(&sb, "", 0);
    for (int first = 0; first < ranks.count && ranks.peers;) {
        const int here = ranks_in_a_row(first);
        int times = 0;
        for (; first < ranks.count && ranks_in_a_row(first) == here; first += here) { times++; }
        if (times > 4) { sb_printf(&sb, "%s%dx%d", sb.size ? "+" : "", times, here); }
        for (int i = 0; i < times && times <= 4; i++) { sb_printf(&sb, "%s%d", sb.size ? "+" : "", here); }
    }
    return sb.data;
}

// Appends "ranks 0 to 3" or "rank 0": consecutive numbers after a word.
static inline void ranks_banner_row(StringBuilder* sb, const char* before, int first, int last) {
    sb_printf(sb, last > first ? "%s%d to %d" : "%s%d", before, first, last);
}

// "8 ranks on 2 hosts, NCCL 2.21.5; a1: ranks 0 to 3 on GPU 0 to 3; ..." The caller frees it.
// nccl: its version in words; NULL: none.
static inline char* ranks_banner(const char* nccl) {
    StringBuilder sb = {0}, rows = {0};
    int hosts = 0;
    for (int r = 0; r < ranks.count && ranks.peers; r++) {
        const char* host = ranks.peers[r].host;
        int seen = 0;
        for (int q = 0; q < r; q++) { seen |= strcmp(ranks.peers[q].host, host) == 0; }
        if (seen) { continue; }
        hosts++;
        sb_printf(&rows, "; %s: ", host);
        // Runs of ranks whose GPUs follow one another.
        for (int first = r, last; first < ranks.count; first = last + 1) {
            last = first;
            if (strcmp(ranks.peers[first].host, host) != 0) { continue; }
            int gpu = ranks.peers[first].local_rank;
            while (last + 1 < ranks.count && strcmp(ranks.peers[last + 1].host, host) == 0 &&
                   ranks.peers[last + 1].local_rank == gpu + last + 1 - first) {
                last++;
            }
            ranks_banner_row(&rows, last > first ? "ranks " : "rank ", first, last);
            ranks_banner_row(&rows, " on GPU ", gpu, gpu + last - first);
            int more = 0;
            for (int q = last + 1; q < ranks.count; q++) { more |= strcmp(ranks.peers[q].host, host) == 0; }
            if (more) { sb_printf(&rows, ", "); }
        }
    }
    if (ranks.count == 1) {
        sb_printf(&sb, "1 rank");
    } else {
        sb_printf(&sb, "%d ranks on %d host%s", ranks.count, hosts, hosts == 1 ? "" : "s");
    }
    if (nccl) { sb_printf(&sb, ", NCCL %s", nccl); }
    if (rows.data) { sb_printf(&sb, "%s", rows.data); }
    free(rows.data);
    return sb.data;
}

#endif

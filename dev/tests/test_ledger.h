// test_ledger.h - tests of common/ledger.h: the cards' figures, the time that they allow, what is booked.
#ifndef PONDER_TEST_LEDGER_H
#define PONDER_TEST_LEDGER_H

#include "../../common/ledger.h"
#include "test.h"

#include <sys/stat.h>

// Every time that --plan prints, and every share of the limits, is a quotient of these figures. NVIDIA's data
// sheets: A100 80GB SXM, H100 SXM (products without sparsity), GeForce RTX 4090 (Ada GPU architecture white paper,
// products in bf16 with fp32 sums); NVLink is half of what they give for both directions, the network that of DGX
// machines, 8 x 200 and 8 x 400 Gb/s. H200: its products and copies are what dev/LOG.md measured.
static void test_ledger_cards(void) {
    static const struct {
        const char* name;
        double bf16, fp32, copy, memory, sheet;  // TFLOP/s, TFLOP/s, TB/s, GB, TFLOP/s
        double machine, link, network;           // GPUs, GB/s, GB/s
    } sheet[] = {
        {"a100", 312, 19.5, 2.039, 80, 312, 8, 300, 25},
        {"h100", 989, 67, 3.35, 80, 989, 8, 450, 50},
        {"h200", 788, 67, 4.3, 141, 989, 8, 450, 50},
        {"rtx4090", 165.2, 82.6, 1.008, 24, 165.2, 8, 31.5, 1.5625},
    };
    CHECK(CARDS == sizeof sheet / sizeof sheet[0], "%d cards, figures of %zu here", (int)CARDS,
          sizeof sheet / sizeof sheet[0]);
    for (size_t i = 0; i < sizeof sheet / sizeof sheet[0]; i++) {
        const Card* card = card_find(sheet[i].name);
        CHECK(card != NULL, "no card is called %s", sheet[i].name);
        if (!card) { continue; }
        const double got[] = {card->bf16 / 1e12,  card->fp32 / 1e12,     card->copy / 1e12, card->memory / 1e9,
                              card->sheet / 1e12, (double)card->machine, card->link / 1e9,  card->network / 1e9};
        const double want[] = {sheet[i].bf16,  sheet[i].fp32,    sheet[i].copy, sheet[i].memory,
                               sheet[i].sheet, sheet[i].machine, sheet[i].link, sheet[i].network};
        for (int k = 0; k < 8; k++) {
            CHECK(fabs(got[k] / want[k] - 1) < 1e-12, "%s: figure %d is %g, the sheet has %g", sheet[i].name, k, got[k],
                  want[k]);
        }
        for (size_t k = 0; k < sizeof sheet / sizeof sheet[0]; k++) {  // the driver's name says which card it is
            CHECK((strstr(card->title, cards[k].match) != NULL) == (card == &cards[k]), "\"%s\" matches \"%s\"",
                  card->title, cards[k].match);
        }
    }
    CHECK(card_find("h300") == NULL && card_find("") == NULL, "a card that does not exist is found");
}

// The driver's names, as drivers give them: a variant with other limits is no card of the table, and a Grace Hopper no
// Hopper.
static void test_ledger_names(void) {
    static const struct {
        const char *name, *card;
    } names[] = {
        {"NVIDIA A100-SXM4-80GB", "a100"},
        {"NVIDIA A100-SXM4-40GB", "a100"},
        {"NVIDIA H100 80GB HBM3", "h100"},
        {"NVIDIA H200", "h200"},
        {"NVIDIA GeForce RTX 4090", "rtx4090"},
        {"NVIDIA GH200 480GB", NULL},
        {"NVIDIA GH200 144G HBM3e", NULL},
        {"NVIDIA H100 PCIe", NULL},
        {"NVIDIA H100 NVL", NULL},
        {"NVIDIA H200 NVL", NULL},
        {"NVIDIA A100-PCIE-40GB", NULL},
        {"NVIDIA A100 80GB PCIe", NULL},
        {"NVIDIA RTX A1000", NULL},
        {"NVIDIA GeForce RTX 4090 Laptop GPU", NULL},
        {"NVIDIA GeForce RTX 4090 D", NULL},
        {"NVIDIA H100 80GB HBM3 MIG 1g.10gb", NULL},
        {"emulator on the CPU", NULL},
        {"", NULL},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const Card *got = card_of_device(names[i].name), *want = names[i].card ? card_find(names[i].card) : NULL;
        CHECK(got == want, "\"%s\" is taken for %s, expected %s", names[i].name, got ? got->name : "none",
              want ? want->name : "none");
    }
}

// What dev/gpu_sm.sh tells make, with an nvidia-smi that lists three GPUs or says that it has failed.
static void test_gpu_sm(void) {
    char* directory = test_directory("smi");
    char* path = format_string("%s/nvidia-smi", directory);
    static const char* const scripts[2] = {
        "case \"$*\" in '-i 0 '*) echo 8.6 ;; '-i 1 '*) echo 9.0 ;; '-i '*) echo No devices were found; exit 6 ;;\n"
        "*uuid*) printf 'GPU-aaaa-1, 8.6\\nGPU-bbbb-2, 9.0\\n' ;; *) printf '8.6\\n9.0\\n' ;; esac\n",
        "echo 'Unable to determine the device handle for GPU0000:81:00.0: Unknown Error'; exit 255\n"};
    static const struct {
        const char *visible, *sm[2];
    } cases[] = {{"unset CUDA_VISIBLE_DEVICES", {"86", ""}},
                 {"export CUDA_VISIBLE_DEVICES=0,1", {"86", ""}},
                 {"export CUDA_VISIBLE_DEVICES=1", {"90", ""}},
                 {"export CUDA_VISIBLE_DEVICES=1,0", {"90", ""}},
                 {"export CUDA_VISIBLE_DEVICES=GPU-bbbb-2", {"90", ""}},
                 {"export CUDA_VISIBLE_DEVICES=GPU-b,GPU-a", {"90", ""}},
                 {"export CUDA_VISIBLE_DEVICES=MIG-1/2/3", {"86", ""}},
                 {"export CUDA_VISIBLE_DEVICES=", {"", ""}},
                 {"export CUDA_VISIBLE_DEVICES=-1", {"", ""}},
                 {"export CUDA_VISIBLE_DEVICES=7", {"", ""}},
                 {"export CUDA_VISIBLE_DEVICES=GPU-cccc", {"", ""}},
                 {"export CUDA_VISIBLE_DEVICES='0;echo 9.9'", {"", ""}}};
    for (int k = 0; k < 2; k++) {
        FILE* f = fopen(path, "w");
        CHECK(f && fprintf(f, "#!/bin/sh\n%s", scripts[k]) > 0 && fclose(f) == 0 && chmod(path, 0755) == 0, "%s", path);
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            char* command = format_string("%s; PATH='%s':\"$PATH\" dev/gpu_sm.sh", cases[i].visible, directory);
            char got[64] = "";
            FILE* p = popen(command, "r");
            if (p && fgets(got, sizeof got, p)) { got[strcspn(got, "\n")] = 0; }
            int status = p ? pclose(p) : -1;
            CHECK(status == 0 && strcmp(got, cases[i].sm[k]) == 0, "%s, nvidia-smi %s: \"%s\", expected \"%s\"",
                  cases[i].visible, k ? "that fails" : "of two GPUs", got, cases[i].sm[k]);
            free(command);
        }
    }
    unlink(path);
    CHECK(rmdir(directory) == 0, "%s holds more", directory);
    free(path);
    free(directory);
}

// The larger of the two times, neither their sum nor the smaller.
static void test_ledger_seconds(void) {
    Card card;
    memset(&card, 0, sizeof card);
    card.bf16 = 1000, card.fp32 = 100, card.copy = 10;
    static const struct {
        int product, bf16;
        double flops, bytes, seconds;
    } rows[] = {
        {1, 1, 6000, 20, 6},                     // arithmetic takes longer: 6 s and 2 s
        {1, 1, 2000, 60, 6},                     // memory does: 2 s and 6 s
        {1, 1, 3000, 30, 3},                     // even
        {1, 0, 6000, 20, 60},                    // the fp32 program has no tensor cores
        {0, 1, 6000, 20, 60},                    // nor has what is no product
        {0, 0, 100, 20, 2},   {0, 1, 0, 50, 5},  // a copy
        {1, 1, 500, 0, 0.5},  {0, 1, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        LedgerRow row;
        memset(&row, 0, sizeof row);
        row.product = rows[i].product, row.flops = rows[i].flops, row.bytes = rows[i].bytes;
        double got = ledger_seconds(&row, &card, rows[i].bf16);
        CHECK(fabs(got - rows[i].seconds) <= 1e-12 * rows[i].seconds, "row %zu takes %g s, expected %g", i, got,
              rows[i].seconds);
    }
}

// All rows one after the other, each with what its launches cost.
static void test_ledger_total(void) {
    Card card;
    memset(&card, 0, sizeof card);
    card.bf16 = 1000, card.fp32 = 100, card.copy = 10;
    Ledger before = ledger;
    memset(&ledger, 0, sizeof ledger);
    ledger.dry = 1;
    CHECK(ledger_total(&card, 1) == 0, "nothing takes %g s", ledger_total(&card, 1));
    for (int i = 0; i < 3; i++) {
        states(1000, 20);
        ledger_launch("a_product", 1);
    }
    states(100, 30);
    ledger_launch("a_kernel", 0);
    double want = 6 + 3 + 4 * 2.5e-6, got = ledger_total(&card, 1);
    CHECK(fabs(got - want) <= 1e-12, "all takes %.12g s, expected %.12g", got, want);
    ledger = before;
}

static void ledger_unstated(void* nothing) {
    (void)nothing;
    ledger.booking = 1;
    states(1, 1);
    ledger_launch("stated_kernel", 0);
    ledger_launch("silent_kernel", 0);
}
static void ledger_too_many(void* nothing) {
    (void)nothing;
    ledger.booking = 1;
    for (int i = 0; i <= LEDGER_ROWS; i++) {
        char name[32];
        snprintf(name, sizeof name, "kernel_%d", i);
        states(1, 1);
        ledger_launch(name, 0);
    }
}

// Launches of one name in one part are one row, which sums; what is booked runs, unless the run is dry.
static void test_ledger_booking(void) {
    expect_death("a launch without states()", ledger_unstated, NULL, "ledger|silent_kernel|does not say");
    expect_death("too many kinds", ledger_too_many, NULL, "ledger|512");
    Ledger before = ledger;
    memset(&ledger, 0, sizeof ledger);
    CHECK(ledger_launch("unbooked", 0) == 1 && ledger.rows == 0, "a run that does not book: %d rows", ledger.rows);
    ledger.booking = 1;
    states(10, 1);
    CHECK(ledger_launch("a_kernel", 0) == 1, "a booked launch is not executed");
    states_product(20, 2);
    ledger_launch("(b_kernel<1, 2>)", 0);
    states(5, 3);
    ledger_launch("a_kernel", 0);
    CHECK(ledger_part(PART_HEAD) == PART_BLOCKS, "the part before");
    states(7, 4);
    ledger_launch("a_kernel", 1);
    CHECK(ledger_part(PART_BLOCKS) == PART_HEAD, "the part before");
    ledger.dry = 1;
    states(1, 1);
    CHECK(ledger_launch("a_kernel", 0) == 0, "a dry run executes");
    for (int i = 0; i < 4; i++) {  // more kernels count where launches do
        ledger.booking = i & 1, ledger.dry = i >> 1;
        ledger_more(10);
    }
    static const LedgerRow want[] = {
        {"a_kernel", PART_BLOCKS, 0, 33, 16, 5},
        {"b_kernel<1, 2>", PART_BLOCKS, 1, 1, 20, 2},
        {"a_kernel", PART_HEAD, 1, 1, 7, 4},
    };
    CHECK(ledger.rows == 3, "%d rows, expected 3", ledger.rows);
    for (int i = 0; i < 3 && i < ledger.rows; i++) {
        const LedgerRow *got = &ledger.row[i], *w = &want[i];
        CHECK(strcmp(got->name, w->name) == 0 && got->part == w->part && got->product == w->product &&
                  got->launches == w->launches && got->flops == w->flops && got->bytes == w->bytes,
              "row %d: %s, part %d, product %d, %lld launches, %g FLOPs, %g bytes", i, got->name, got->part,
              got->product, (long long)got->launches, got->flops, got->bytes);
    }
    states(1, 1);
    ledger_clear();
    CHECK(ledger.rows == 0 && !ledger.stated, "%d rows are left, or what one would have said", ledger.rows);
    ledger = before;
}

// Who watches is told of every launch that is executed, and which row it is booked in; of none in a dry run.
static int watched[8], watched_count;
static void ledger_watcher(int row) { watched[watched_count++ % 8] = row; }
static void test_ledger_watch(void) {
    Ledger before = ledger;
    memset(&ledger, 0, sizeof ledger);
    ledger.watch = ledger_watcher;
    const char* const names[] = {"first", "second", "first"};
    for (int dry = 0; dry < 2; dry++) {
        ledger.booking = 1, ledger.dry = dry;
        for (int i = 0; i < 3; i++) {
            states(1, 1);
            CHECK(ledger_launch(names[i], 0) == !dry, "launch %d of a %s run", i, dry ? "dry" : "real");
        }
    }
    CHECK(watched_count == 3 && watched[0] == 0 && watched[1] == 1 && watched[2] == 0, "%d launches, rows %d %d %d",
          watched_count, watched[0], watched[1], watched[2]);
    ledger = before;
}

static void ledger_tests(void) {
    RUN(test_ledger_booking);  // forks
    RUN(test_ledger_cards);
    RUN(test_ledger_names);
    RUN(test_gpu_sm);
    RUN(test_ledger_watch);
    RUN(test_ledger_seconds);
    RUN(test_ledger_total);
}

#endif

// ledger.h - what a step does on a GPU, kernel by kernel: launches, FLOPs, bytes, and the time that
// the machine's limits allow.
//
// Every launcher says what its next kernel does with states(); launch() and matmul_any_cuda() book it.
// A dry run books without executing, so that `--plan=h100` needs no GPU; a real run can book too.
// The same numbers stand behind the plan, the ratios of the benchmarks and the run's utilisation.
#ifndef PONDER_LEDGER_H
#define PONDER_LEDGER_H

#include "base.h"

// Parts of a step, in the order of the table.
enum { PART_BLOCKS, PART_ATTENTION, PART_BETWEEN, PART_HEAD, PART_OPTIMISER, PARTS };
// What stands between the passes over the blocks is the model's to name.
__attribute__((unused)) static const char* ledger_part_names[PARTS] = {"blocks", "attention", "between", "loss head",
                                                                       "optimiser"};

// A card's limits. P and C as shared by all our ratios: P of products (bf16 in, fp32 sums), C bytes
// read plus written per second.
typedef struct {
    const char* name;
    const char* title;
    const char* match;  // words that the driver's name of such a card contains
    double bf16;        // FLOP/s of products in bf16 with fp32 sums
    double fp32;        // FLOP/s outside the tensor cores
    double copy;        // bytes/s
    double memory;      // bytes
    const char* source;
    double sheet;       // bf16 by the data sheet: what a run's "% of peak" refers to, on every card
    int machine;        // how many are usually in a machine,
    double link;        // bytes/s each way of one to the others there,
    double network;     // bytes/s each way of one to other machines
    const char* links;  // what these are
} Card;

static const Card cards[] = {
    {"a100", "A100 SXM 80 GB", "A100", 312e12, 19.5e12, 2.039e12, 80e9, "data sheet", 312e12, 8, 300e9, 25e9,
     "NVLink, 8 x 200 Gb/s a machine: data sheets"},
    {"h100", "H100 SXM 80 GB", "H100", 989e12, 67e12, 3.35e12, 80e9, "data sheet", 989e12, 8, 450e9, 50e9,
     "NVLink, 8 x 400 Gb/s a machine: data sheets"},
    {"h200", "H200 SXM 141 GB", "H200", 788e12, 67e12, 4.3e12, 141e9, "products and copies measured", 989e12, 8, 450e9,
     50e9, "NVLink, 8 x 400 Gb/s a machine: data sheets"},
    {"rtx4090", "GeForce RTX 4090 24 GB", "RTX 4090", 165.2e12, 82.6e12, 1.008e12, 24e9, "data sheet", 165.2e12, 8,
     31.5e9, 1.5625e9, "PCIe 4.0 x16: data sheet; 100 Gb/s a machine: assumed"},
};
enum { CARDS = sizeof cards / sizeof cards[0] };

static inline const Card* card_find(const char* name) {
    for (int i = 0; i < CARDS; i++) {
        if (strcmp(cards[i].name, name) == 0) { return &cards[i]; }
    }
    return NULL;
}

// 1 if `words` stand in `text` whole: "H200" not in "GH200 480GB", "A100" not in "RTX A1000".
static inline int card_words(const char* text, const char* words) {
    const size_t n = strlen(words);
    for (const char* at = strstr(text, words); at; at = strstr(at + 1, words)) {
        const char before = at == text ? ' ' : at[-1], after = at[n];
        const char* inside = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        if (!strchr(inside, before) && (!after || !strchr(inside, after))) { return 1; }
    }
    return 0;
}

// The card of a driver's name, NULL if its limits are not known: those of the variants with less power or fewer
// processors, and of parts of a card, are others.
static inline const Card* card_of_device(const char* name) {
    static const char* const variants[] = {"PCIe", "PCIE", "NVL", "Laptop", "D", "MIG"};
    for (size_t k = 0; k < sizeof variants / sizeof variants[0]; k++) {
        if (card_words(name, variants[k])) { return NULL; }
    }
    for (int i = 0; i < CARDS; i++) {
        if (card_words(name, cards[i].match)) { return &cards[i]; }
    }
    return NULL;
}

// "a100|h100|...": the names, as the choices of an option; the caller frees it.
static inline char* card_names(void) {
    StringBuilder names = {0};
    for (int i = 0; i < CARDS; i++) { sb_printf(&names, "%s%s", i ? "|" : "", cards[i].name); }
    return names.data;
}

// One kernel or product: all launches of one name in one part.
typedef struct {
    char name[96];
    int part;
    int product;  // 1: on the tensor cores in the bf16 program
    int64_t launches;
    double flops, bytes;
} LedgerRow;

enum { LEDGER_ROWS = 512 };
typedef struct {
    int dry;      // 1: book, execute nothing
    int booking;  // 1: book
    int part;     // of what comes next
    int stated;   // 1 after states(), 2 after states_product(), until the launch takes it
    double flops, bytes;
    LedgerRow row[LEDGER_ROWS];
    int rows, last;          // last: the row that was booked last
    void (*watch)(int row);  // told of every launch that is booked and executed, before it is; NULL: nobody is
} Ledger;
static Ledger ledger;

// What comes next belongs to this part; returns the part before, to go back to.
static inline int ledger_part(int part) {
    int before = ledger.part;
    ledger.part = part;
    return before;
}

// What the next launch does: its FLOPs, and the bytes that it must read and write at least.
static inline void states(double flops, double bytes) {
    ledger.stated = 1;
    ledger.flops = flops;
    ledger.bytes = bytes;
}

// The same for a kernel whose FLOPs run on the tensor cores in the bf16 program.
static inline void states_product(double flops, double bytes) {
    states(flops, bytes);
    ledger.stated = 2;
}

// Books a launch; 1 if it is to be executed.
static inline int ledger_launch(const char* name, int product) {
    if (!ledger.booking && !ledger.dry) { return 1; }
    if (!ledger.stated) { die("ledger: the launcher of %s does not say what it does", name); }
    product = product || ledger.stated == 2;
    ledger.stated = 0;
    // launch() wants parentheses around a kernel with several compile-time sizes; they are no part of its name.
    char plain[sizeof ledger.row[0].name];
    snprintf(plain, sizeof plain, "%s", name[0] == '(' ? name + 1 : name);
    size_t length = strlen(plain);
    if (name[0] == '(' && length && plain[length - 1] == ')') { plain[length - 1] = 0; }
    name = plain;
    int i = 0;
    while (i < ledger.rows && (ledger.row[i].part != ledger.part || strcmp(ledger.row[i].name, name) != 0)) { i++; }
    if (i == LEDGER_ROWS) { die("ledger: more than %d kinds of kernels", LEDGER_ROWS); }
    LedgerRow* row = &ledger.row[i];
    if (i == ledger.rows) {
        memset(row, 0, sizeof *row);
        snprintf(row->name, sizeof row->name, "%s", name);
        row->part = ledger.part;
        row->product = product;
        ledger.rows++;
    }
    row->launches++;
    ledger.last = i;
    row->flops += ledger.flops;
    row->bytes += ledger.bytes;
    if (ledger.watch && !ledger.dry) { ledger.watch(i); }
    return !ledger.dry;
}

// What was booked last is more than one kernel.
static inline void ledger_more(int64_t launches) {
    if (ledger.booking || ledger.dry) { ledger.row[ledger.last].launches += launches; }
}

static inline void ledger_clear(void) {
    ledger.rows = 0;
    ledger.stated = 0;
}

// Seconds that the card's limits allow for a row: whichever of arithmetic and memory takes longer.
static inline double ledger_seconds(const LedgerRow* row, const Card* card, int bf16) {
    double rate = row->product && bf16 ? card->bf16 : card->fp32;
    double compute = row->flops / rate, memory = row->bytes / card->copy;
    return compute > memory ? compute : memory;
}

// What every launch costs beside that, inside a CUDA graph: the next kernel starts when the last block of the one before
// has ended. Assumed, as in the predictions of dev/LOG.md.
#define LAUNCH_SECONDS 2.5e-6

// Seconds that the card's limits allow for everything that is booked, launches included.
static inline double ledger_total(const Card* card, int bf16) {
    double seconds = 0;
    for (int i = 0; i < ledger.rows; i++) {
        seconds += ledger_seconds(&ledger.row[i], card, bf16) + LAUNCH_SECONDS * (double)ledger.row[i].launches;
    }
    return seconds;
}

#endif

// plan.cuh - before a GPU's memory is taken: which of a model's settings fits and takes the least time, and what a step
// costs there, kernel by kernel. A setting is how many rows a micro-batch has and what the backward computes again; its
// time is that of the ledger (ledger.h), from a dry run of its launches.
//
// How many rows changes bits, so that follows from shapes and the card alone; what is computed again changes none, so
// that follows from the memory which is free.
#ifndef PONDER_PLAN_CUH
#define PONDER_PLAN_CUH

#include "device.cuh"
#include "model.h"
#include "scaling.h"
#include "transfers.cuh"

// One setting of a model and what it costs.
typedef struct {
    int B;            // rows of a micro-batch
    int recompute;    // 0: everything is kept for the backward; larger: more is computed again
    int keep;         // 1: what is dearest to keep is kept too
    ModelRow row[8];  // bytes
    int rows;
    size_t total;    // bytes
    int fits;        // 1: into the memory that was asked for
    double seconds;  // of a step where it fits, as the card's limits allow it
} Plan;

// What a model brings.
typedef struct {
    // The memory of a setting. More recompute never takes more.
    Plan (*of)(Model* model, int training, int recompute, int keep, int B);
    // Lays the model out for dry runs of this setting, at addresses that must not be used; NULL: undoes that.
    void (*dry)(Model* model, const Plan* plan);
    int recomputes, keeps;  // largest values
    const char* dearest;    // what keep = 1 keeps, for the table
    // The last launches of a micro-batch, with which the gradients of a family's numbers from *begin to *end are completed,
    // the last first; `early` says which others were complete before it, `late` which are at its end.
    void (*tail)(Model* model, int B, int T);
    void (*tail_completes)(const Model* model, size_t* begin, size_t* end);
    const char *early, *late;
} PlanChoice;

// Where a setting is wanted.
typedef struct {
    Card card;      // whose limits compare times
    double memory;  // bytes that may be taken
    int64_t rows;   // of a step
    int training;   // 0: there is only a forward, and no time is compared
    int asked;      // recompute, -1: any
    size_t narrow;  // positions of a call that goes on with texts, 0: calls have rows
} PlanNeed;

enum { PLANS = 256 };
// Settings that were compared; the best one's place, -1: none fits.
typedef struct {
    Plan plan[PLANS];
    int count, best;
} PlanTable;

static inline void plan_add(Plan* plan, const char* what, size_t bytes) {
    plan->row[plan->rows].what = what;
    plan->row[plan->rows++].amount = (double)bytes;
    plan->total += bytes;
}
// The bytes of a row, for tests.
static inline size_t plan_bytes(const Plan* plan, const char* what) {
    for (int i = 0; i < plan->rows; i++) {
        if (strcmp(plan->row[i].what, what) == 0) { return (size_t)plan->row[i].amount; }
    }
    die("a plan has no row '%s'", what);
}

// What a program may take of a card that it has alone: the driver and CUDA itself need the rest.
static inline double plan_usable(double memory) { return 0.96 * memory - 600e6; }

// What it may take of this GPU now, with what it has taken already. Kernels that are loaded late and the graph
// need some of what is free.
static inline double plan_free(void) {
    size_t available = 0, all = 0;
    CUDA_CHECK(cudaMemGetInfo(&available, &all));
    return 0.98 * (double)(available + device.taken) - 300e6;
}

// The card by whose limits settings are compared: that of a dry run, else this GPU. One that the table does not know
// is taken for the first there, but for its memory: what is compared are shares of a step.
static inline Card plan_card(const Card* dry) {
    if (dry) { return *dry; }
    const Card* known = card_of_device(device.name);
    Card card = known ? *known : cards[0];
    // A slice of a card has its name and less memory.
    if (!known || (double)device.memory < card.memory) { card.memory = (double)device.memory; }
    return card;
}

// ---- a step without executing it ----

// The optimiser's part of a step, booked and not executed; ledger.dry is set.
static inline void plan_dry_optimiser(Model* model) {
    AdamwStep step = adamw_step(1, 1e-3, 0.9, 0.95, 1e-8, 0.01, 1);
    model->zero_grads(model);
    model->grad_norm(model);
    model->update(model, &step);
}
// One whole step of `rows` rows: micro-batches and the optimiser.
static inline void plan_dry_step(Model* model, int64_t rows) {
    ledger_clear();
    for (int64_t row = 0; row < rows; row += model->B) {
        model->micro_batch(model, (int)min_size((size_t)model->B, (size_t)(rows - row)), model->T);
    }
    plan_dry_optimiser(model);
}

// What a step of `rows` rows in micro-batches of B takes at least, by a card's limits; the model is laid out for that.
static inline double plan_seconds(Model* model, const Card* card, int64_t rows, int B) {
    static Ledger before;
    const int bf16 = sizeof(floatX) == 2;
    before = ledger;
    ledger.dry = 1;
    ledger_clear();
    plan_dry_optimiser(model);
    double seconds = ledger_total(card, bf16);
    const int heights[] = {(int)min_size((size_t)B, (size_t)rows), (int)(rows % B)};
    const double times[] = {(double)(rows < B ? 1 : rows / B), rows < B ? 0.0 : 1.0};
    for (int i = 0; i < 2; i++) {
        if (!heights[i] || times[i] == 0) { continue; }
        ledger_clear();
        model->micro_batch(model, heights[i], model->T);
        seconds += times[i] * ledger_total(card, bf16);
    }
    ledger = before;
    return seconds;
}

// ---- settings ----

// The setting of B rows that computes least again and fits; if none does, the one that computes most again.
static inline Plan plan_least(Model* model, PlanChoice choice, const PlanNeed* need, int keep, int B) {
    int low = need->asked >= 0 ? need->asked : 0, high = need->asked >= 0 ? need->asked : choice.recomputes;
    Plan plan = choice.of(model, need->training, high, keep, B);
    plan.fits = (double)plan.total <= need->memory;
    while (plan.fits && low < high) {
        int middle = low + (high - low) / 2;
        Plan less = choice.of(model, need->training, middle, keep, B);
        less.fits = (double)less.total <= need->memory;
        if (less.fits) {
            plan = less, high = middle;
        } else {
            low = middle + 1;
        }
    }
    return plan;
}

// Enters the settings of B rows that need comparing: with what is dearest kept and without, each with the least
// recomputation that fits, since more only takes longer. Returns 1 if nothing at all is computed again.
static inline int plan_compare(Model* model, PlanChoice choice, const PlanNeed* need, int B, PlanTable* table) {
    for (int keep = need->training ? choice.keeps : 0; keep >= 0; keep--) {
        if (table->count == PLANS) { die("more than %d settings to compare", PLANS); }
        Plan plan = plan_least(model, choice, need, keep, B);
        if (plan.fits && need->training) {
            choice.dry(model, &plan);
            plan.seconds = plan_seconds(model, &need->card, need->rows, B);
            choice.dry(model, NULL);
        }
        table->plan[table->count++] = plan;
        if (plan.fits && (table->best < 0 || plan.seconds < table->plan[table->best].seconds)) {
            table->best = table->count - 1;
        }
        if (plan.fits && plan.recompute == 0) { return keep == choice.keeps; }
    }
    return 0;
}
static inline void plan_clear(PlanTable* table) { table->count = 0, table->best = -1; }

// The next fewer rows to try than `above`, first (above = 0) the most: those that divide a step, an eighth apart;
// where an octave has none, those whose last micro-batch is hardly shorter. 0: there are no more.
enum { PLAN_TOKENS = 1 << 16 };  // of a micro-batch at most: beyond, weights and launches are no part of its time
static inline int plan_next_rows(int64_t rows, int T, int above) {
    int most = (int)min_size((size_t)rows, max_size((size_t)(PLAN_TOKENS / T), 1));
    for (int B = above ? above - 1 : most; B > 0; B--) {
        int64_t parts = (rows + B - 1) / B;
        if (rows % B == 0 && (!above || B <= above - (above + 7) / 8)) { return B; }
        if ((rows + parts - 1) / parts == B && (!above || 2 * B <= above)) { return B; }
    }
    return 0;
}

// The rows of a micro-batch with which a step takes least on a card; of those that take the same, the most. Without
// training the most that fit. If nothing fits, 1.
static inline int plan_rows_of(Model* model, PlanChoice choice, const PlanNeed* need, PlanTable* table) {
    plan_clear(table);
    for (int B = plan_next_rows(need->rows, model->T, 0); B > 0; B = plan_next_rows(need->rows, model->T, B)) {
        // Fewer rows only add launches and passes over the weights.
        if (plan_compare(model, choice, need, B, table) || (!need->training && table->best >= 0)) { break; }
    }
    return table->best < 0 ? 1 : table->plan[table->best].B;
}

// Dies saying what `plan` lacks in the memory of `where`, and what would fit.
__attribute__((noreturn)) static inline void plan_die(Model* model, PlanChoice choice, const PlanNeed* need,
                                                      const Plan* plan, const char* where) {
    if (need->narrow) {
        die("GPU memory: %.1f GB are needed for %zu tokens at a time, without what texts keep, %s has %.1f GB to give; "
            "lower --batch (texts at a time) or take a smaller model",
            (double)plan->total / 1e9, need->narrow, where, need->memory / 1e9);
    }
    PlanNeed any = *need;
    any.asked = -1;
    Plan less = plan_least(model, choice, &any, 0, plan->B);
    char* hint = NULL;
    if (less.fits) {
        hint = format_string("--recompute %d fits", less.recompute);
    } else {
        int B = plan->B;
        while (B > 1 && !less.fits) { less = plan_least(model, choice, &any, 0, --B); }
        Plan asked = plan_least(model, choice, need, 0, B);
        hint = asked.fits ? format_string("--batch %d fits (the total batch can stay)", B)
               : less.fits
                   ? format_string("--batch %d with --recompute %d fits (the total batch can stay)", B, less.recompute)
                   : format_string("not even --batch 1 fits; lower --seq or take a smaller model");
    }
    die("GPU memory: %.1f GB are needed for --batch %d with --recompute %d, %s has %.1f GB to give, %.1f GB are "
        "missing; "
        "%s",
        (double)plan->total / 1e9, plan->B, plan->recompute, where, need->memory / 1e9,
        ((double)plan->total - need->memory) / 1e9, hint);
}

// Chooses what is computed again with the rows that the model has; dies if nothing fits.
static inline Plan plan_fit(Model* model, PlanChoice choice, const PlanNeed* need, const char* where,
                            PlanTable* table) {
    plan_clear(table);
    plan_compare(model, choice, need, model->B, table);
    if (table->best < 0) { plan_die(model, choice, need, &table->plan[table->count - 1], where); }
    return table->plan[table->best];
}

// The memory table of a model that will take this.
static inline void plan_rows(Model* model, const Plan* plan) {
    model->memory_rows = plan->rows;
    memcpy(model->memory, plan->row, sizeof plan->row);
}

// ---- printing ----

// The settings that were compared; `chosen`: the one that is taken.
static inline void plan_print_table(const PlanTable* table, const Plan* chosen, const PlanChoice* choice,
                                    const PlanNeed* need) {
    printf("settings compared for a step of %lld rows, in %.1f GB\n", (long long)need->rows, need->memory / 1e9);
    printf("  %8s %10s %14s %10s %10s\n", "--batch", "--recompute", choice->keeps ? choice->dearest : "", "MB",
           "ms, least");
    for (int i = 0; i < table->count; i++) {
        const Plan* plan = &table->plan[i];
        int mark = plan->B == chosen->B && plan->recompute == chosen->recompute && plan->keep == chosen->keep;
        char ms[32] = "too large";
        if (plan->fits) { snprintf(ms, sizeof ms, "%.2f", 1e3 * plan->seconds); }
        printf("%c %8d %10d %14s %10.1f %10s%s\n", mark ? '*' : ' ', plan->B, plan->recompute,
               !choice->keeps ? ""
               : plan->keep   ? "kept"
                              : "again",
               (double)plan->total / 1e6, ms, mark ? "  chosen" : "");
    }
    printf("\n");
}

// What is booked, part by part, with the time that the card's limits allow; flops: of it all, -1: as booked. Returns the
// seconds, with launches.
static inline double plan_print_booked(const char* title, const Card* card, double flops) {
    int bf16 = sizeof(floatX) == 2;
    double all = 0, booked = 0, bytes = 0, part_seconds[PARTS] = {0};
    int64_t launches = 0;
    for (int i = 0; i < ledger.rows; i++) {
        double seconds = ledger_seconds(&ledger.row[i], card, bf16);
        all += seconds, booked += ledger.row[i].flops, bytes += ledger.row[i].bytes;
        part_seconds[ledger.row[i].part] += seconds;
        launches += ledger.row[i].launches;
    }
    printf("%-42s %8s %10s %10s %10s %7s  %s\n", title, "launches", "GFLOP", "MB", "us", "share", "bound by");
    for (int part = 0; part < PARTS; part++) {
        if (part_seconds[part] == 0) { continue; }
        printf("%-42s %8s %10s %10s %10.0f %5.1f %%\n", ledger_part_names[part], "", "", "", 1e6 * part_seconds[part],
               100 * part_seconds[part] / all);
        for (int i = 0; i < ledger.rows; i++) {
            const LedgerRow* row = &ledger.row[i];
            if (row->part != part) { continue; }
            double seconds = ledger_seconds(row, card, bf16);
            printf("  %-40s %8lld %10.2f %10.1f %10.1f %5.1f %%  %s\n", row->name, (long long)row->launches,
                   row->flops / 1e9, row->bytes / 1e6, 1e6 * seconds, 100 * seconds / all,
                   row->bytes / card->copy >= seconds ? "memory" : "arithmetic");
        }
    }
    printf("%-42s %8lld %10.2f %10.1f %10.0f\n", "total", (long long)launches, (flops < 0 ? booked : flops) / 1e9,
           bytes / 1e6, 1e6 * all);
    all += LAUNCH_SECONDS * (double)launches;
    printf("with %.1f us of every launch: %.2f ms\n", 1e6 * LAUNCH_SECONDS, 1e3 * all);
    return all;
}

// The booked step of `rows` rows; returns its seconds.
static inline double plan_print_step(const Model* model, const Card* card, int64_t rows) {
    double tokens = (double)rows * model->T, flops = 0;
    for (int i = 0; i < model->flops_rows; i++) { flops += model->flops[i].amount; }
    double all = plan_print_booked("a step, as the limits allow", card, tokens * flops);
    printf("at most %.0f tokens/s, %.2f of the product rate in model FLOPs; a limit, not a forecast\n", tokens / all,
           tokens * flops / all / (sizeof(floatX) == 2 ? card->bf16 : card->fp32));
    return all;
}

// A card, and the memory of a plan.
static inline void plan_print_card(const Card* card) {
    printf("%s: %.0f TFLOP/s of products (%s), %.2f TB/s, %.0f GB (%s)\n", card->title,
           (sizeof(floatX) == 2 ? card->bf16 : card->fp32) / 1e12, PRECISION, card->copy / 1e12, card->memory / 1e9,
           card->source);
}
static inline void plan_print_memory(const Plan* plan) {
    for (int i = 0; i < plan->rows; i++) { printf("  %-32s %9.1f MB\n", plan->row[i].what, plan->row[i].amount / 1e6); }
    printf("  %-32s %9.1f MB\n\n", "total", (double)plan->total / 1e6);
}

// Dies if `rows` texts of `context` tokens are too many for a card that this plan is of.
static inline void plan_check_texts(const Plan* plan, const Card* card, int rows, int context) {
    const double memory = plan_usable(card->memory);
    if ((double)plan->total <= memory) { return; }
    die("GPU memory: %.1f GB are needed for %d text%s of %d tokens, %s has %.1f GB to give; lower --batch or --context",
        (double)plan->total / 1e9, rows, rows == 1 ? "" : "s", context, card->title, memory / 1e9);
}

// When which gradients of the last micro-batch of a step of `rows` rows are complete; the model is laid out (ledger.dry).
static inline GradientOrder plan_gradients(Model* model, const PlanChoice* choice, const Card* card, int64_t rows) {
    GradientOrder order = {0, 0, 0, model->tensors.total};
    choice->tail_completes(model, &order.begin, &order.end);
    ledger_clear();
    choice->tail(model, (int)((rows - 1) % model->B + 1), model->T);
    order.tail = ledger_total(card, sizeof(floatX) == 2);
    return order;
}

// What of this model travels in a step of --zero 1, by which it is laid out (run/zero.cuh).
static inline Divided plan_divided(const Model* model, int gpus) {
    const TensorTable* table = &model->tensors;
    const Range* range = &model->families->range;
    Divided d = {range->room, range->room / NORM_BLOCK, sizeof(floatX), 0, 0};
    if (sizeof(floatX) == sizeof(float)) { return d; }
    size_t first = 0;
    for (size_t r = 0; r < (size_t)gpus; r++) {
        size_t end = range_whole_before(range, table, min_size((r + 1) * range->most, table->total));
        d.pieces += (int)div_up(end - first, RANK_PIECE);
        first = end;
    }
    d.masters = first;
    return d;
}

// What a GPU holds with the optimiser's state whole, and divided, and whether `memory` bytes are enough for it.
static inline void plan_print_zero(const Model* model, const Plan* plan, int gpus, double memory) {
    const double whole = (double)families_bytes(&model->tensors, 1),
                 part = (double)families_bytes(&model->tensors, gpus);
    const double rest = (double)plan->total - (model->divided ? part : whole);
    printf("  memory of a GPU with these settings: --zero 0 %.1f MB, --zero 1 (ZeRO, stage 1) %.1f MB\n",
           (rest + whole) / 1e6, (rest + part) / 1e6);
    if (rest + whole > memory) {
        printf("  of that --zero %s not fit into the %.1f MB which the card has to give\n",
               rest + part > memory ? "0 and --zero 1 do" : "0 does", memory / 1e6);
    }
}

// --plan=CARD of a model that is allocated as it would be on that card (ledger.dry): the settings that were compared,
// the memory of the one that is taken, every kernel and product of a step, what the card's limits allow. `text` says
// which setting that is. cluster: where there are several GPUs, of which this is one, else NULL.
static inline void plan_print(Model* model, const PlanChoice* choice, const PlanNeed* need, const PlanTable* table,
                              const Plan* plan, const char* text, const Cluster* cluster) {
    const Card* card = &need->card;
    plan_print_card(card);
    plan_print_table(table, plan, choice, need);
    printf("%s\n", text);
    plan_print_memory(plan);
    plan_dry_step(model, need->rows);
    double seconds = plan_print_step(model, card, need->rows);
    if (!cluster) { return; }
    GradientOrder order = plan_gradients(model, choice, card, need->rows);
    printf("\n");
    if (model->divided) {
        const Divided divided = plan_divided(model, cluster->gpus);
        scaling_print_divided(cluster, &divided, &order, seconds, need->rows, model->T);
    } else {
        scaling_print(cluster, &order, choice->early, choice->late, seconds, need->rows, model->T);
    }
    plan_print_zero(model, plan, cluster->gpus, need->memory);
}

#endif

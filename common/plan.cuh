// plan.cuh - memory of a GPU before it is taken: which of a model's settings fits and computes least again; and what
// a step costs there, kernel by kernel, from a dry run of its launches.
#ifndef PONDER_PLAN_CUH
#define PONDER_PLAN_CUH

#include "device.cuh"
#include "model.h"

// One setting of a model and what it costs.
typedef struct {
    int recompute;    // 0: everything is kept for the backward; larger: more is computed again
    int keep;         // 1: what is dearest to keep is kept too
    ModelRow row[8];  // bytes
    int rows;
    size_t total;        // bytes
    double extra_flops;  // computed again, of a micro-batch
} Plan;

// What a model brings: the plan of each setting, for B rows.
typedef Plan PlanOf(Model* model, int training, int recompute, int keep, int B);

typedef struct {
    PlanOf* of;
    int recomputes, keeps;  // largest values
} PlanChoice;

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

// The setting that computes least again and fits into `memory` bytes; asked = -1: any, else that recompute. If none
// fits, the smallest. *fits says which.
static inline Plan plan_choose(Model* model, PlanChoice choice, int training, int asked, double memory, int B,
                               int* fits) {
    Plan best, least;
    int found = 0;
    memset(&best, 0, sizeof best);
    memset(&least, 0, sizeof least);
    for (int r = 0; r <= choice.recomputes; r++) {
        if (asked >= 0 && r != asked) { continue; }
        for (int keep = choice.keeps; keep >= 0; keep--) {
            Plan plan = choice.of(model, training, r, keep, B);
            if (least.total == 0 || plan.total < least.total) { least = plan; }
            if ((double)plan.total <= memory && (!found || plan.extra_flops < best.extra_flops)) {
                best = plan, found = 1;
            }
        }
    }
    *fits = found;
    return found ? best : least;
}

// What a program may take of a card: the driver and CUDA itself need the rest.
static inline double plan_usable(double memory) { return 0.96 * memory - 600e6; }

// Chooses the plan for `memory` bytes of a card; dies if nothing fits, saying what would.
static inline Plan plan_fit(Model* model, PlanChoice choice, int training, int asked, double memory, const char* card) {
    int fits = 0;
    double usable = plan_usable(memory);
    Plan plan = plan_choose(model, choice, training, asked, usable, model->B, &fits);
    if (fits) { return plan; }
    int B = model->B;
    while (B > 1 && !fits) { plan_choose(model, choice, training, -1, usable, --B, &fits); }
    char* hint = fits ? format_string("--batch %d fits (the total batch can stay)", B)
                      : format_string("not even --batch 1 fits; lower --seq or take a smaller model");
    die("GPU memory: %.1f GB are needed with --recompute %d, %s has %.1f GB to give, %.1f GB are missing; %s%s",
        (double)plan.total / 1e9, plan.recompute, card, usable / 1e9, ((double)plan.total - usable) / 1e9, hint,
        asked >= 0 && asked < choice.recomputes ? "; or raise --recompute" : "");
}

// The memory table of a model that will take this.
static inline void plan_rows(Model* model, const Plan* plan) {
    model->memory_rows = plan->rows;
    memcpy(model->memory, plan->row, sizeof plan->row);
}

// ---- a step without executing it ----

// One whole step of `rows` rows, booked and not executed: micro-batches and the optimiser. ledger.dry is set.
static inline void plan_dry_step(Model* model, int64_t rows) {
    AdamwStep step = adamw_step(1, 1e-3, 0.9, 0.95, 1e-8, 0.01, 1);
    ledger_clear();
    model->zero_grads(model);
    for (int64_t row = 0; row < rows; row += model->B) {
        model->micro_batch(model, (int)min_size((size_t)model->B, (size_t)(rows - row)), model->T);
    }
    model->grad_norm(model);
    model->update(model, &step);
}

// The booked step of `rows` rows, part by part, with the time that the card's limits allow.
static inline void plan_print_step(const Model* model, const Card* card, int64_t rows) {
    int bf16 = sizeof(floatX) == 2;
    double all = 0, part_seconds[PARTS] = {0};
    int64_t launches = 0;
    for (int i = 0; i < ledger.rows; i++) {
        double seconds = ledger_seconds(&ledger.row[i], card, bf16);
        all += seconds;
        part_seconds[ledger.row[i].part] += seconds;
        launches += ledger.row[i].launches;
    }
    printf("%-42s %8s %10s %10s %10s %7s  %s\n", "a step, as the limits allow", "launches", "GFLOP", "MB", "us",
           "share", "bound by");
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
    double tokens = (double)rows * model->T, flops = 0;
    for (int i = 0; i < model->flops_rows; i++) { flops += model->flops[i].amount; }
    printf("%-42s %8lld %10.2f %10s %10.0f\n", "total", (long long)launches, tokens * flops / 1e9, "", 1e6 * all);
    printf("at most %.0f tokens/s, %.2f of the product rate in model FLOPs; a limit, not a forecast\n", tokens / all,
           tokens * flops / all / (bf16 ? card->bf16 : card->fp32));
}

// --plan=CARD of a model that is allocated as it would be on that card (ledger.dry): its memory, every kernel and
// product of a step of `rows` rows, what the card's limits allow. `text` says which setting was chosen.
static inline void plan_print(Model* model, const Card* card, const Plan* plan, const char* text, int64_t rows) {
    printf("%s: %.0f TFLOP/s of products (%s), %.2f TB/s, %.0f GB (%s)\n", card->title,
           (sizeof(floatX) == 2 ? card->bf16 : card->fp32) / 1e12, PRECISION, card->copy / 1e12, card->memory / 1e9,
           card->source);
    printf("%s\n", text);
    for (int i = 0; i < plan->rows; i++) { printf("  %-32s %9.1f MB\n", plan->row[i].what, plan->row[i].amount / 1e6); }
    printf("  %-32s %9.1f MB\n\n", "total", (double)plan->total / 1e6);
    plan_dry_step(model, rows);
    plan_print_step(model, card, rows);
}

#endif

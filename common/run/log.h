// log.h - what a run writes for people (numbers with units, tables) and for programs (metrics.jsonl).
#ifndef PONDER_LOG_H
#define PONDER_LOG_H

#include "../base.h"
#include "../files/file.h"

// ---- numbers for people; each writes into the caller's 32 bytes and returns them ----

// 12345678 -> "12.3 M".
static inline char* format_count(char* out, double n) {
    static const char* const units[] = {"", " k", " M", " G", " T", " P", " E"};
    int u = 0;
    while (fabs(n) >= 999.5 && u < 6) { n /= 1000, u++; }
    snprintf(out, 32,
             u == 0            ? "%.0f%s"
             : fabs(n) < 9.995 ? "%.2f%s"
             : fabs(n) < 99.95 ? "%.1f%s"
                               : "%.0f%s",
             n, units[u]);
    return out;
}

// Bytes -> "1234.5 MB".
static inline char* format_megabytes(char* out, double bytes) {
    snprintf(out, 32, "%.1f MB", bytes / 1e6);
    return out;
}

// Seconds -> "12.3 s", "4m05s", "3h07m", "2d03h".
static inline char* format_time(char* out, double seconds) {
    if (!(seconds < 1e9)) {
        snprintf(out, 32, "?");
    } else if (seconds < 99.95) {
        snprintf(out, 32, "%.1f s", seconds);
    } else {
        long s = (long)(seconds + 0.5);
        if (s < 3600) {
            snprintf(out, 32, "%ldm%02lds", s / 60, s % 60);
        } else if (s < 86400) {
            snprintf(out, 32, "%ldh%02ldm", s / 3600, s / 60 % 60);
        } else {
            snprintf(out, 32, "%ldd%02ldh", s / 86400, s / 3600 % 24);
        }
    }
    return out;
}

// Words joined with blanks and broken before column 100; continuation lines are indented.
typedef struct {
    FILE* file;
    int indent, at;
} LogLine;

static inline LogLine log_begin(FILE* file, const char* title, int indent) {
    LogLine line;
    line.file = file;
    line.indent = indent;
    line.at = fprintf(file, "%-*s", indent, title);
    return line;
}
__attribute__((format(printf, 2, 3))) static inline void log_item(LogLine* line, const char* fmt, ...) {
    char item[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(item, sizeof item, fmt, args);
    va_end(args);
    int n = (int)strlen(item);
    int empty = line->at <= line->indent;
    if (!empty && line->at + 2 + n > 100) {
        fprintf(line->file, ",\n%*s", line->indent, "");
        line->at = line->indent;
        empty = 1;
    }
    line->at += fprintf(line->file, "%s%s", empty ? "" : ", ", item);
}
static inline void log_end(LogLine* line) { fprintf(line->file, "\n"); }

// ---- metrics.jsonl: one object a line ----

typedef struct {
    char* path;
    int fd;
    int off;                // 1: another rank writes them
    int validated;          // after metrics_open: the line of the validation at `step` is there
    StringBuilder waiting;  // what could not be written so far (a full disk): it goes first once writing works again
    size_t waited;          // bytes of it that are written
    int failing;            // errno of the last attempt, 0: nothing waits
} Metrics;

// The step of a whole line of ours; -1 for anything else. `validation` says which kind it is.
static inline int64_t metrics_line_step(const char* line, size_t n, int* validation) {
    static const char start[] = "{\"step\": ";
    size_t k = sizeof start - 1;
    if (n < k + 3 || memcmp(line, start, k) != 0 || line[n - 1] != '}') { return -1; }
    int64_t step = 0;
    size_t i = k;
    for (; i < n && line[i] >= '0' && line[i] <= '9' && i < k + 15; i++) { step = 10 * step + (line[i] - '0'); }
    if (i == k || line[i] != ',') { return -1; }
    static const char loss[] = ", \"val_loss\"";
    *validation = n - i > sizeof loss && memcmp(line + i, loss, sizeof loss - 1) == 0;
    return step;
}

// Opens OUT/metrics.jsonl to go on after `step`. Lines past it are cut, and a last line that was
// torn by a crash; with step < 0 all of them; with validate_anew also that of a validation at `step`.
// The cut file is written aside and renamed, so a crash in the middle leaves the old one.
static inline void metrics_open(Metrics* metrics, const char* out, int64_t step, int validate_anew) {
    memset(metrics, 0, sizeof *metrics);
    metrics->path = format_string("%s/metrics.jsonl", out);
    size_t size = 0;
    char* text = read_fully(metrics->path, &size);
    size_t kept = 0;  // bytes; the steps of a file grow, so what is kept is its beginning
    for (size_t begin = 0; text && begin < size;) {
        const char* newline = (const char*)memchr(text + begin, '\n', size - begin);
        if (!newline) { break; }
        size_t end = (size_t)(newline - text);
        int validation = 0;
        int64_t at = metrics_line_step(text + begin, end - begin, &validation);
        if (at < 0) {
            die("%s: byte %zu begins a line that is not a metric of ours; move the file away", metrics->path, begin);
        }
        if (at > step || (at == step && validation && validate_anew)) { break; }
        if (at == step && validation) { metrics->validated = 1; }
        begin = kept = end + 1;
    }
    if (text && kept < size) {
        char* file = file_resolve(metrics->path);  // a link stays
        char* aside = format_string("%s.tmp", file);
        char* error = write_file(aside, text, kept);
        if (error) { die("%s", error); }
        if (rename(aside, file) != 0) { die("cannot rename %s to %s: %s", aside, file, strerror(errno)); }
        free(aside);
        free(file);
    }
    free(text);
    metrics->fd = open(metrics->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (metrics->fd < 0) { die("%s: could not be opened: %s%s", metrics->path, strerror(errno), write_hint(errno)); }
}

// Tries to write what waits; 1 if nothing does any more.
static inline int metrics_try(Metrics* metrics) {
    while (metrics->waited < metrics->waiting.size) {
        ssize_t n =
            write(metrics->fd, metrics->waiting.data + metrics->waited, metrics->waiting.size - metrics->waited);
        if (n < 0 && errno == EINTR) { continue; }
        if (n <= 0) {
            metrics->failing = n < 0 ? errno : ENOSPC;
            return 0;
        }
        metrics->waited += (size_t)n;
    }
    metrics->waiting.size = metrics->waited = 0;
    metrics->failing = 0;
    return 1;
}

// Appends a line. A training is worth more than a line of its metrics: what cannot be written waits.
static inline void metrics_append(Metrics* metrics, const char* line, size_t n) {
    int failed = metrics->failing;
    if (metrics->off) { return; }
    sb_append(&metrics->waiting, line, n);
    if (!metrics_try(metrics) && !failed) {
        warn("%s: could not be written: %s%s; the run goes on, and writes it later if it can", metrics->path,
             strerror(metrics->failing), write_hint(metrics->failing));
    }
}

// The end of every line: training FLOPs of all tokens so far, and the time of day (UTC).
static inline void metrics_stamp(char* out, size_t room, double flops) {
    char text[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    snprintf(out, room, "\"flops\": %.9g, \"time\": \"%s\"}\n", flops, text);
}

// Of the last step with several ranks: which took longest until its gradients were there.
typedef struct {
    int count, slowest;
    double ms;  // that one's
} MetricsRanks;

// After a step; of: NULL with one rank. ms, tokens_per_s and utilisation: means over the steps since the line before, or since the run was
// resumed.
static inline void metrics_step(Metrics* metrics, int64_t step, int64_t tokens, double loss, double lr,
                                double grad_norm, double ms, double tokens_per_s, double utilisation, double flops,
                                const MetricsRanks* of) {
    char line[512], stamp[128], ranks_text[128] = "";
    metrics_stamp(stamp, sizeof stamp, flops);
    if (of) {
        snprintf(ranks_text, sizeof ranks_text, "\"ranks\": %d, \"slowest_rank\": %d, \"slowest_ms\": %.9g, ",
                 of->count, of->slowest, of->ms);
    }
    int n = snprintf(
        line, sizeof line,
        "{\"step\": %lld, \"tokens\": %lld, \"loss\": %.9g, \"lr\": %.9g, \"grad_norm\": %.9g, \"ms\": %.9g, "
        "\"tokens_per_s\": %.9g, \"utilisation\": %.9g, %s%s",
        (long long)step, (long long)tokens, loss, lr, grad_norm, ms, tokens_per_s, utilisation, ranks_text, stamp);
    metrics_append(metrics, line, (size_t)n);
}

static inline void metrics_validation(Metrics* metrics, int64_t step, double loss, const double* loss_of_pass,
                                      int passes, double flops) {
    StringBuilder sb = {0};
    char stamp[128];
    metrics_stamp(stamp, sizeof stamp, flops);
    sb_printf(&sb, "{\"step\": %lld, \"val_loss\": %.9g, \"val_loss_pass\": [", (long long)step, loss);
    for (int s = 0; s < passes; s++) { sb_printf(&sb, "%s%.9g", s ? ", " : "", loss_of_pass[s]); }
    sb_printf(&sb, "], %s", stamp);
    metrics_append(metrics, sb.data, sb.size);
    free(sb.data);
}

// Before a checkpoint is written: its metrics must not be younger than it after a power cut. Where they cannot be
// written, the checkpoint is worth more than its metrics.
static inline void metrics_flush(Metrics* metrics) {
    int written = !metrics->off && metrics_try(metrics);
    if (written && fsync(metrics->fd) != 0 && errno != EINVAL && errno != EROFS) {
        warn("%s: could not be written: %s%s", metrics->path, strerror(errno), write_hint(errno));
    }
}

// At the end of a run, when all else is saved: dies if lines still wait.
static inline void metrics_end(Metrics* metrics) {
    if (metrics->off || metrics_try(metrics)) { return; }
    size_t lines = 0;
    for (size_t i = metrics->waited; i < metrics->waiting.size; i++) { lines += metrics->waiting.data[i] == '\n'; }
    die("%s: could not be written: %s%s; its last %zu line%s lost", metrics->path, strerror(metrics->failing),
        write_hint(metrics->failing), lines, lines == 1 ? " is" : "s are");
}

#endif

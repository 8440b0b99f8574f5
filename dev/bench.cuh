// bench.cuh - how the benchmarks on a GPU take their times, and the limits that they compare them with.
//
// A benchmark is a function that takes its arrays from an area and calls launchers. It is called once
// dry, for what the launchers say of themselves (FLOPs and bytes stand nowhere else), and then on as
// many sets of arrays as the L2 cache cannot hold, so that device memory is what is measured. The
// launches are captured in a graph of some milliseconds, so that neither launching nor the clock's
// resolution is measured; the time is the median of several runs of that graph.
#ifndef PONDER_BENCH_CUH
#define PONDER_BENCH_CUH

#include "../common/device.cuh"
#include "../common/matmul.cuh"

static int bench_quick;              // 1: the smallest sizes and two runs, for the emulator
static double bench_seconds = 0.08;  // that a figure is measured for

// ---- arrays ----

// Numbers from low to high (whole numbers below high for an int) that nobody can guess.
static __device__ __forceinline__ float fill_value(size_t i, uint32_t seed, float low, float high) {
    uint32_t x = (uint32_t)i * 2654435761u ^ (uint32_t)(i >> 32) ^ seed;
    x = (x ^ x >> 16) * 0x7feb352du, x = (x ^ x >> 15) * 0x846ca68bu, x ^= x >> 16;
    return low + (high - low) * ((float)(x >> 8) * 0x1p-24f);
}
static __device__ __forceinline__ void store(int* p, float x) { *p = (int)x; }
static __device__ __forceinline__ void store(double* p, float x) { *p = (double)x; }
template <class number> static __global__ void fill_kernel(number* p, size_t n, uint32_t seed, float low, float high) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        store(p + i, fill_value(i, seed, low, high));
    }
}
// p (n) = numbers from low to high
template <class number> static void bench_fill(number* p, size_t n, float low, float high) {
    static uint32_t seed;
    int dry = ledger.dry;
    ledger.dry = 0;
    launch(fill_kernel<number>, dim3((unsigned)min_size(div_up(n, 256), 4096)), dim3(256), 0, device.stream, p, n,
           ++seed * 40503u, low, high);
    ledger.dry = dry;
}

typedef struct {
    char* base;
    size_t used;
    int fill;  // 1: arrays are filled as they are taken
} Area;

template <class number> static number* area_take(Area* a, size_t n, float low, float high) {
    number* p = (number*)(a->base + a->used);
    a->used += round_up(n * sizeof(number), 256);
    if (a->fill) { bench_fill(p, n, low, high); }
    return p;
}
static floatX* area_x(Area* a, size_t n) { return area_take<floatX>(a, n, -1, 1); }
static float* area_floats(Area* a, size_t n) { return area_take<float>(a, n, -1, 1); }
static float* area_positive(Area* a, size_t n) { return area_take<float>(a, n, 0.5f, 1.5f); }
static int* area_ints(Area* a, size_t n, int below) { return area_take<int>(a, n, 0, (float)below); }

static char* bench_memory;  // all sets of arrays of one benchmark lie in here
static size_t bench_memory_bytes;

// Takes `bytes`, or as much of them as leaves a third of the GPU's free memory.
static void bench_take_memory(size_t bytes) {
    size_t available = 0, all = 0;
    device_open();
    CUDA_CHECK(cudaMemGetInfo(&available, &all));
    bench_memory_bytes = min_size(bytes, available / 3 * 2) / 256 * 256;
    bench_memory = (char*)device_alloc(bench_memory_bytes, "arrays of a benchmark");
}
static void bench_give_memory(void) {
    CUDA_CHECK(cudaStreamSynchronize(device.stream));
    device_free_after(device_block_count - 1);
    bench_memory = NULL, bench_memory_bytes = 0;
}

// ---- times ----

typedef struct {
    int ran;              // 0: its arrays need more memory than there is
    double us;            // median
    double spread;        // (slowest - fastest run) / median
    double least_us;      // fastest run
    double flops, bytes;  // as the launchers state them
    double limit_us;      // what the card's limits allow
    size_t set_bytes;
} Timed;

static int compare_us(const void* a, const void* b) {
    double x = *(const double*)a, y = *(const double*)b;
    return (x > y) - (x < y);
}

// Adds up what is booked.
static void bench_booked(Timed* t, const Card* card) {
    for (int i = 0; i < ledger.rows; i++) {
        t->flops += ledger.row[i].flops;
        t->bytes += ledger.row[i].bytes;
        t->limit_us += 1e6 * ledger_seconds(&ledger.row[i], card, sizeof(floatX) == 2);
    }
}

static float bench_ms(cudaEvent_t begin, cudaEvent_t end) {
    float ms = 0;
    CUDA_CHECK(cudaEventSynchronize(end));
    CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
    return ms;
}

static Timed bench_time(void (*run)(Area*), const Card* card) {
    enum { RUNS = 200 };
    const size_t turn_bytes = bench_quick ? 1 : (size_t)256 << 20;  // several times any L2 cache of today
    Timed t;
    memset(&t, 0, sizeof t);
    Area area = {bench_memory, 0, 0};
    ledger_clear();
    ledger.dry = 1;
    run(&area);
    ledger.dry = 0;
    bench_booked(&t, card);
    size_t set = t.set_bytes = area.used;
    if (set > bench_memory_bytes) { return t; }
    t.ran = 1;
    size_t sets = set ? max_size(min_size(div_up(turn_bytes, set), bench_memory_bytes / set), 1) : 1;

    for (size_t k = 0; k < sets; k++) {
        Area filled = {bench_memory + k * set, 0, 1}, warm = {filled.base, 0, 0};
        ledger.dry = 1;
        run(&filled);
        ledger.dry = 0;
        run(&warm);  // here products choose their algorithms by timing
    }
    cudaEvent_t begin, end;
    CUDA_CHECK(cudaEventCreate(&begin));
    CUDA_CHECK(cudaEventCreate(&end));
    CUDA_CHECK(cudaEventRecord(begin, device.stream));
    for (size_t k = 0; k < sets; k++) {
        Area again = {bench_memory + k * set, 0, 0};
        run(&again);
    }
    CUDA_CHECK(cudaEventRecord(end, device.stream));
    double once = max_size(1, (size_t)(1e3 * (double)bench_ms(begin, end) / (double)sets));  // us
    size_t launches = bench_quick ? 1 : (size_t)(2000 / once) + 1;
    launches = round_up(min_size(launches, 256), sets);

    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA_CHECK(cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeThreadLocal));
    for (size_t k = 0; k < launches; k++) {
        Area turn = {bench_memory + k % sets * set, 0, 0};
        run(&turn);
    }
    CUDA_CHECK(cudaStreamEndCapture(device.stream, &graph));
    CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
    CUDA_CHECK(cudaGraphLaunch(exec, device.stream));  // the first launch of a graph also uploads it
    double us[RUNS], start = now_seconds();
    int runs = 0;
    while (runs < (bench_quick ? 2 : 5) || (!bench_quick && runs < RUNS && now_seconds() - start < bench_seconds)) {
        CUDA_CHECK(cudaEventRecord(begin, device.stream));
        CUDA_CHECK(cudaGraphLaunch(exec, device.stream));
        CUDA_CHECK(cudaEventRecord(end, device.stream));
        us[runs++] = 1e3 * (double)bench_ms(begin, end) / (double)launches;
    }
    CUDA_CHECK(cudaGraphExecDestroy(exec));
    CUDA_CHECK(cudaGraphDestroy(graph));
    CUDA_CHECK(cudaEventDestroy(begin));
    CUDA_CHECK(cudaEventDestroy(end));
    qsort(us, (size_t)runs, sizeof us[0], compare_us);
    t.us = us[runs / 2], t.least_us = us[0];
    t.spread = (us[runs - 1] - us[0]) / t.us;
    return t;
}

// ---- the limits ----

static double bench_P, bench_C;  // FLOP/s of products, bytes/s read plus written: measured in this run
static Card bench_card;          // the ledger's, or one made of P and C

static size_t large_product(void) { return bench_quick ? 64 : 8192; }
static void run_large_product(Area* a) {
    const size_t n = large_product();
    floatX *A = area_x(a, n * n), *B = area_x(a, n * n), *out = area_x(a, n * n);
    gemm_cuda("P", 0, 1, n, n, n, 1, A, n, B, n, 0, out, n, NULL);
}
static size_t large_copy(void) { return bench_quick ? 1 << 12 : 1 << 28; }
static void run_large_copy(Area* a) {
    float *from = area_floats(a, large_copy()), *to = area_floats(a, large_copy());
    device_copy(to, from, large_copy() * sizeof(float));
}
// n: of packs of 16 bytes, a multiple of what the grid takes at a time
enum { COPY_THREADS = 256, COPY_PACKS = 4 };
static __global__ void __launch_bounds__(COPY_THREADS)
    copy_kernel(uint4* __restrict__ to, const uint4* __restrict__ from, size_t n) {
    const size_t first = (size_t)blockIdx.x * COPY_THREADS * COPY_PACKS + threadIdx.x;
    uint4 pack[COPY_PACKS];
#pragma unroll
    for (size_t k = 0; k < COPY_PACKS; k++) {
        if (first + k * COPY_THREADS < n) { pack[k] = from[first + k * COPY_THREADS]; }
    }
#pragma unroll
    for (size_t k = 0; k < COPY_PACKS; k++) {
        if (first + k * COPY_THREADS < n) { to[first + k * COPY_THREADS] = pack[k]; }
    }
}
static void run_large_copy_kernel(Area* a) {
    float *from = area_floats(a, large_copy()), *to = area_floats(a, large_copy());
    const size_t n = large_copy() / 4;
    states(0, 2.0 * (double)large_copy() * sizeof(float));
    launch(copy_kernel, dim3((unsigned)div_up(n, COPY_THREADS * COPY_PACKS)), dim3(COPY_THREADS), 0, device.stream,
           (uint4*)to, (const uint4*)from, n);
}

// Measures P and C (and takes the memory that it needs); finds the card in the ledger's table.
static void bench_limits(void) {
    if (!bench_memory) { bench_take_memory((size_t)(bench_quick ? 64 : 3072) << 20); }
    matmul_search = 1;
    Card none = {"", "", "", 1, 1, 1, 1, "", 1};
    const double seconds = bench_seconds;
    bench_seconds = 0.4;  // a GPU that comes out of idleness is faster at first than it stays
    bench_time(run_large_product, &none);
    Timed product = bench_time(run_large_product, &none), copy = bench_time(run_large_copy, &none),
          copy_by_kernel = bench_time(run_large_copy_kernel, &none);
    if (copy_by_kernel.ran && copy_by_kernel.us < copy.us) { copy = copy_by_kernel; }  // cudaMemcpy is not the fastest
    bench_seconds = seconds;
    if (!product.ran || !copy.ran) {
        die("P and C need arrays of %.1f and %.1f GB, only %.1f GB are free on %s", (double)product.set_bytes / 1e9,
            (double)copy.set_bytes / 1e9, (double)bench_memory_bytes / 1e9, device.name);
    }
    bench_P = 1e6 * product.flops / product.us;
    bench_C = 1e6 * copy.bytes / copy.us;
    const Card* known = card_of_device(device.name);
    bench_card = known ? *known : none;
    if (!known) {  // a sixteenth: the ratio of plain fp32 to tensor cores on most cards
        Card made = {
            "this", device.name,           "",     bench_P, sizeof(floatX) == 2 ? bench_P / 16 : bench_P, bench_C,
            0,      "P and C of this run", bench_P};
        bench_card = made;
    }
    printf("%s, " PRECISION
           ", cuBLASLt %llu: P = %.1f TFLOP/s (product of %zu^3, random numbers; median of 0.4 s, at most %.1f), "
           "C = %.3f TB/s (copy, read plus written; spread %.1f %%)\n",
           device.name, (unsigned long long)cublasLtGetVersion(), bench_P / 1e12, large_product(),
           1e-6 * product.flops / product.least_us, bench_C / 1e12, 100 * copy.spread);
    printf("limits of the ledger: %.0f TFLOP/s, %.2f TB/s (%s)\n\n",
           (sizeof(floatX) == 2 ? bench_card.bf16 : bench_card.fp32) / 1e12, bench_card.copy / 1e12, bench_card.source);
}

#endif

// device.cuh - the GPU: which one, its memory, its stream.
//
// Memory is planned before it is taken (plan.cuh); device_alloc() hands it out once, before the first step, and
// in a dry run only adds it up. Nothing is allocated inside a step.
#ifndef PONDER_DEVICE_CUH
#define PONDER_DEVICE_CUH

#include "cuda.cuh"

#include <cublasLt.h>

#define CUBLAS_CHECK(expression) cublas_check((expression), #expression, __FILE__, __LINE__)
static inline void cublas_check(cublasStatus_t status, const char* expression, const char* file, int line) {
    if (status != CUBLAS_STATUS_SUCCESS) {
        die("cuBLASLt: %s gave %s (%s), %s:%d", expression, cublasLtGetStatusName(status),
            cublasLtGetStatusString(status), file, line);
    }
}

enum { OLDEST_SM = 80 };                     // mma.sync with bf16, cp.async
#define MATMUL_WORKSPACE ((size_t)32 << 20)  // bytes, what cuBLASLt's algorithms may use

typedef struct {
    int open;
    int index;       // among the visible ones
    int sm;          // compute capability, 90 for 9.0
    int processors;  // streaming multiprocessors
    char name[256];
    size_t memory;        // bytes
    size_t shared;        // bytes of shared memory of a multiprocessor
    cudaStream_t stream;  // every launch and copy goes into it
    cublasLtHandle_t lt;
    void* workspace;  // (MATMUL_WORKSPACE)
    size_t taken;     // bytes, workspace included
} Device;
static Device device;

enum { DEVICE_BLOCKS = 64 };
static struct {
    void* p;
    size_t bytes;
} device_blocks[DEVICE_BLOCKS];  // what device_alloc gave out
static int device_block_count;

// Why no GPU can be used, or NULL. Fills in `device` as far as it is known.
static inline const char* device_find(void) {
    static char why[512];
    int count = 0, driver = 0, runtime = 0;
    setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 0);  // as nvidia-smi counts, and so make (dev/gpu_sm.sh)
    cudaError_t error = cudaGetDeviceCount(&count);
    cudaGetLastError();  // a failed look must not be reported by the next launch
    if (cudaDriverGetVersion(&driver) == cudaSuccess && cudaRuntimeGetVersion(&runtime) == cudaSuccess && driver > 0 &&
        error == cudaErrorInsufficientDriver) {
        snprintf(why, sizeof why,
                 "the driver is for CUDA %d.%d, this program was built with CUDA %d.%d; update the driver or build "
                 "with an older toolkit",
                 driver / 1000, driver % 100 / 10, runtime / 1000, runtime % 100 / 10);
        return why;
    }
    if (error != cudaSuccess || count == 0) {
        snprintf(why, sizeof why, "no GPU found (%s); see nvidia-smi and CUDA_VISIBLE_DEVICES",
                 error == cudaSuccess ? "none is visible" : cudaGetErrorString(error));
        return why;
    }
    if (device.index >= count && count == 1) { device.index = 0; }  // a launcher shows each rank its own GPU alone
    if (device.index >= count) {
        snprintf(why, sizeof why,
                 "rank %d of this machine takes the GPU of that number, but only %d are visible; see nvidia-smi, "
                 "CUDA_VISIBLE_DEVICES, --gpus and --local-rank",
                 device.index, count);
        return why;
    }
    struct cudaDeviceProp prop;
    CUDA_CHECK(cudaGetDeviceProperties(&prop, device.index));
    device.sm = 10 * prop.major + prop.minor;
    device.processors = prop.multiProcessorCount;
    device.memory = prop.totalGlobalMem;
    device.shared = prop.sharedMemPerMultiprocessor;
    snprintf(device.name, sizeof device.name, "%s", prop.name);
    if (device.sm < OLDEST_SM) {
        snprintf(why, sizeof why, "%s has compute capability %d.%d, expected at least %d.%d (Ampere)", device.name,
                 prop.major, prop.minor, OLDEST_SM / 10, OLDEST_SM % 10);
        return why;
    }
    return NULL;
}

// Takes the GPU, or dies saying why not. In a dry run nothing is touched.
static inline void device_open(void) {
    if (device.open || ledger.dry) { return; }
    const char* why = device_find();
    if (why) { die("GPU: %s. The CPU program needs none", why); }
    CUDA_CHECK(cudaSetDevice(device.index));
    CUDA_CHECK(cudaStreamCreate(&device.stream));
    CUBLAS_CHECK(cublasLtCreate(&device.lt));
    CUDA_CHECK(cudaMalloc(&device.workspace, MATMUL_WORKSPACE));
    device.taken += MATMUL_WORKSPACE;
    device.open = 1;
}

// The GPU in words, for a banner.
static inline const char* device_text(void) {
    static char text[512];
    snprintf(text, sizeof text,
             "%s (compute capability %d.%d, %d processors, %.0f GB), " PRECISION ", products by cuBLASLt %llu",
             device.name, device.sm / 10, device.sm % 10, device.processors, (double)device.memory / 1e9,
             (unsigned long long)cublasLtGetVersion());
    return text;
}

// Bytes of device memory, aligned to 256, not initialised; never returns NULL. In a dry run an address that must
// not be used. Dies saying how much is missing and, by `hint`, what to lower.
static inline void* device_alloc_or(size_t bytes, const char* what, const char* hint) {
    bytes = round_up(max_size(bytes, 1), 256);
    device.taken += bytes;
    if (ledger.dry) { return (void*)(uintptr_t)(((uint64_t)1 << 40) + device.taken - bytes); }
    device_open();
    void* p = NULL;
    cudaError_t error = cudaMalloc(&p, bytes);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        size_t available = 0, all = 0;
        CUDA_CHECK(cudaMemGetInfo(&available, &all));
        die("GPU out of memory: %s needs %.0f MB, %.0f of %.0f MB are free on %s, %.0f MB are missing; %s", what,
            (double)bytes / 1e6, (double)available / 1e6, (double)all / 1e6, device.name,
            ((double)bytes - (double)available) / 1e6, hint);
    }
    CUDA_CHECK(error);
    if (device_block_count == DEVICE_BLOCKS) { die("more than %d pieces of GPU memory", DEVICE_BLOCKS); }
    device_blocks[device_block_count].p = p;
    device_blocks[device_block_count++].bytes = bytes;
    return p;
}

static inline void* device_alloc(size_t bytes, const char* what) {
    return device_alloc_or(bytes, what, "lower --batch (the total batch can stay), raise --recompute, or lower --seq");
}

// Gives back what device_alloc gave out after its first `kept` blocks (device_block_count is how many there are): for
// programs that make several models, one after the other.
static inline void device_free_after(int kept) {
    while (device_block_count > kept) {
        device_block_count--;
        CUDA_CHECK(cudaFree(device_blocks[device_block_count].p));
        device.taken -= device_blocks[device_block_count].bytes;
    }
}
static inline void device_free_all(void) {
    device_free_after(0);
    device.taken = device.open ? MATMUL_WORKSPACE : 0;  // whatever dry runs have counted
}

static inline void device_zero(void* p, size_t bytes) {
    states(0, (double)bytes);
    if (ledger_launch("zero", 0)) { CUDA_CHECK(cudaMemsetAsync(p, 0, bytes, device.stream)); }
}
static inline void device_copy(void* to, const void* from, size_t bytes) {
    states(0, 2.0 * (double)bytes);
    if (ledger_launch("copy", 0)) {
        CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, device.stream));
    }
}
static inline void device_upload(void* to, const void* from, size_t bytes) {
    if (ledger.dry) { return; }
    CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, device.stream));
}
// Waits until `from` may be freed.
static inline void device_upload_now(void* to, const void* from, size_t bytes) {
    device_upload(to, from, bytes);
    if (!ledger.dry) { CUDA_CHECK(cudaStreamSynchronize(device.stream)); }
}
// Waits until the bytes are here.
static inline void device_download(void* to, const void* from, size_t bytes) {
    if (ledger.dry) { return; }
    CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, device.stream));
    CUDA_CHECK(cudaStreamSynchronize(device.stream));
}

#endif

// test_emulate.cpp - the emulator on trial: kernels that are wrong on purpose must die with the right
// message, and right kernels must pass, whatever the order of threads and copies.
//
// Built in several ways (README.md), because each finds other things:
//   plain, with -fsanitize=undefined   the emulator's own checks, misaligned accesses
//   -fsanitize=thread and race.cpp     data races, misaligned accesses
//   -fsanitize=address                 accesses out of bounds
//   -fsanitize=memory (clang)          uses of values that nobody wrote
// Every wrong kernel runs in a process of its own: this program again, with the kernel's name.
#include "../../common/cuda.cuh"
#include <cublasLt.h>
#include "../../common/wgmma.cuh"
#include "../tests/test.h"

#include <unistd.h>

enum { PLAIN = 1, RACE = 2, ADDRESS = 4, MEMORY = 8, ANY = 15 };
#ifndef __has_feature
#define __has_feature(what) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
static const int build = RACE;
#elif defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
static const int build = ADDRESS;
#elif __has_feature(memory_sanitizer)
static const int build = MEMORY;
#else
static const int build = PLAIN;
#endif

// The sanitizers ask: tests leave memory behind, and every death has exit code 1.
extern "C" const char* __asan_default_options(void) { return "detect_leaks=0"; }
extern "C" const char* __msan_default_options(void) { return "exit_code=1"; }

// n floats on the device, each its index. Wrong kernels leave them behind: their process ends.
static float* device_floats(size_t n) {
    float *p, *host = (float*)xalloc(n, sizeof(float), "a test");
    for (size_t i = 0; i < n; i++) { host[i] = (float)i; }
    CUDA_CHECK(cudaMalloc(&p, n * sizeof(float)));
    CUDA_CHECK(cudaMemcpy(p, host, n * sizeof(float), cudaMemcpyHostToDevice));
    free(host);
    return p;
}
// n numbers on the device that nobody has written.
template <class number> static number* device_new(size_t n) {
    number* p;
    CUDA_CHECK(cudaMalloc(&p, n * sizeof(number)));
    return p;
}
template <class number> static number* to_device(const number* from, size_t n) {
    number* p = device_new<number>(n);
    CUDA_CHECK(cudaMemcpy(p, from, n * sizeof(number), cudaMemcpyHostToDevice));
    return p;
}
template <class number> static number* from_device(const number* from, size_t n) {
    number* p = (number*)xalloc(n, sizeof(number), "a test");
    CUDA_CHECK(cudaMemcpy(p, from, n * sizeof(number), cudaMemcpyDeviceToHost));
    return p;
}

// ------------------------------------------------------------------------------------------------
// Wrong kernels: data races

static __global__ void no_barrier_kernel(float* out, const float* x) {
    SHARED(float, s, 64);
    s[threadIdx.x] = x[threadIdx.x];
    out[threadIdx.x] = s[63 - threadIdx.x];
}
static void no_barrier(void) { launch(no_barrier_kernel, 1, 64, 0, NULL, device_floats(64), device_floats(64)); }

// The barrier before the reads is there, the one before the next round's writes is not.
static __global__ void no_second_barrier_kernel(float* out, const float* x) {
    SHARED(float, s, 64);
    float sum = 0;
    for (int i = 0; i < 3; i++) {
        s[threadIdx.x] = x[64 * i + (int)threadIdx.x];
        __syncthreads();
        sum += s[63 - threadIdx.x];
    }
    out[threadIdx.x] = sum;
}
static void no_second_barrier(void) {
    launch(no_second_barrier_kernel, 1, 64, 0, NULL, device_floats(64), device_floats(192));
}

static __global__ void two_blocks_kernel(float* out) {
    if (threadIdx.x == 0) { out[blockIdx.x / 2] = (float)blockIdx.x; }
}
static void two_blocks(void) { launch(two_blocks_kernel, 4, 32, 0, NULL, device_floats(2)); }

// One block reads what another writes; a barrier between the two does not help.
static __global__ void block_reads_kernel(float* out, float* x) {
    if (blockIdx.x == 1 && threadIdx.x == 5) { x[5] = 1; }
    __syncthreads();
    if (blockIdx.x == 0) { out[threadIdx.x] = x[threadIdx.x]; }
}
static void block_reads(void) { launch(block_reads_kernel, 2, 32, 0, NULL, device_floats(32), device_floats(32)); }

static __global__ void no_syncwarp_kernel(float* out, const float* x) {
    SHARED(float, s, 32);
    s[threadIdx.x] = x[threadIdx.x];
    out[threadIdx.x] = s[threadIdx.x ^ 1];
}
static void no_syncwarp(void) { launch(no_syncwarp_kernel, 1, 32, 0, NULL, device_floats(32), device_floats(32)); }

// All lanes wait for each other in the shuffle, but it orders no accesses to memory.
static __global__ void shuffle_no_fence_kernel(float* out, const float* x) {
    SHARED(float, s, 32);
    s[threadIdx.x] = x[threadIdx.x];
    float y = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
    out[threadIdx.x] = s[threadIdx.x ^ 1] + y;
}
static void shuffle_no_fence(void) {
    launch(shuffle_no_fence_kernel, 1, 32, 0, NULL, device_floats(32), device_floats(32));
}

// __syncwarp is enough within the warp, not beyond it.
static __global__ void syncwarp_too_small_kernel(float* out, const float* x) {
    SHARED(float, s, 64);
    s[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    out[threadIdx.x] = s[threadIdx.x ^ 32];
}
static void syncwarp_too_small(void) {
    launch(syncwarp_too_small_kernel, 1, 64, 0, NULL, device_floats(64), device_floats(64));
}

static __global__ void same_value_kernel(float* out) { out[0] = 1; }
static void same_value(void) { launch(same_value_kernel, 1, 32, 0, NULL, device_floats(1)); }

// Reads by all, then a write by one whose own read came last.
static __global__ void write_after_reads_kernel(float* out, float* x) {
    float y = x[0];
    out[threadIdx.x] = y;
    if (threadIdx.x == 63) { x[0] = y + 1; }
}
static void write_after_reads(void) {
    launch(write_after_reads_kernel, 1, 64, 0, NULL, device_floats(64), device_floats(1));
}

// A 128-bit store over a bf16 that another thread reads; all others have numbers of their own.
static __global__ void overlap_kernel(floatX* x, float* out) {
    if (threadIdx.x < 4) {
        float pack[PACK] = {0};
        store_pack(x + PACK * threadIdx.x, pack);
    } else if (threadIdx.x == 4) {
        out[0] = to_float(x[PACK + 1]);
    }
}
static void overlap(void) {
    floatX* x = device_new<floatX>(64);
    launch(overlap_kernel, 1, 32, 0, NULL, x, device_floats(1));
}

static __global__ void atomic_and_plain_kernel(int* count, int* out) {
    atomicAdd(&count[threadIdx.x % 4], 1);
    if (threadIdx.x == 0) { out[0] = count[0]; }
}
static void atomic_and_plain(void) {
    launch(atomic_and_plain_kernel, 1, 32, 0, NULL, device_new<int>(4), device_new<int>(1));
}

static __global__ void no_barrier_after_wait_kernel(float* out, const float* x) {
    SHARED(float, s, 128);
    cp_async_16(s + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
    cp_async_commit();
    cp_async_wait<0>();
    out[threadIdx.x] = s[127 - threadIdx.x];
}
static void no_barrier_after_wait(void) {
    launch(no_barrier_after_wait_kernel, 1, 32, 0, NULL, device_floats(32), device_floats(128));
}

// Its own copy, and a barrier too, but no wait.
static __global__ void no_wait_kernel(float* out, const float* x) {
    SHARED(float, s, 128);
    cp_async_16(s + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
    cp_async_commit();
    __syncthreads();
    out[threadIdx.x] = s[4 * threadIdx.x];
}
static void no_wait(void) { launch(no_wait_kernel, 1, 32, 0, NULL, device_floats(32), device_floats(128)); }

// Two groups are under way, one is waited for, the other one's bytes are read.
static __global__ void waits_for_too_few_kernel(float* out, const float* x) {
    SHARED(float, s, 256);
    cp_async_16(s + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
    cp_async_commit();
    cp_async_16(s + 128 + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x] + s[128 + threadIdx.x];
}
static void waits_for_too_few(void) {
    launch(waits_for_too_few_kernel, 1, 32, 0, NULL, device_floats(32), device_floats(128));
}

// The next tile is fetched into the stage that other warps still read.
static __global__ void stage_too_early_kernel(float* out, const float* x) {
    SHARED(float, s, 256);
    cp_async_16(s + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    float sum = s[255 - threadIdx.x];
    cp_async_16(s + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    out[threadIdx.x] = sum + s[threadIdx.x];
}
static void stage_too_early(void) {
    launch(stage_too_early_kernel, 1, 64, 0, NULL, device_floats(64), device_floats(256));
}

static __global__ void ldmatrix_race_kernel(uint32_t* out) {
    SHARED(uint16_t, s, 32 * 8);
    for (int i = 0; i < 8; i++) { s[8 * threadIdx.x + i] = (uint16_t)i; }
    uint32_t r[4];
    ldmatrix_x4(r, s + 8 * (threadIdx.x ^ 1));
    out[threadIdx.x] = r[0];
}
static void ldmatrix_race(void) { launch(ldmatrix_race_kernel, 1, 32, 0, NULL, device_new<uint32_t>(32)); }

// ------------------------------------------------------------------------------------------------
// Wrong kernels: bounds, alignment, uninitialised memory

static __global__ void read_past_end_kernel(float* out, const float* x) { out[threadIdx.x] = x[threadIdx.x + 1]; }
static void read_past_end(void) { launch(read_past_end_kernel, 1, 32, 0, NULL, device_floats(32), device_floats(32)); }

static __global__ void write_past_end_kernel(floatX* out, int n) {
    if ((int)threadIdx.x <= n) { store(out + threadIdx.x, 0.0f); }
}
static void write_past_end(void) { launch(write_past_end_kernel, 1, 32, 0, NULL, device_new<floatX>(21), 21); }

static __global__ void past_shared_kernel(float* out, int n) {
    SHARED(float, s, 33);
    s[threadIdx.x] = 1;
    out[threadIdx.x] = s[(int)threadIdx.x + n];
}
static void past_shared(void) { launch(past_shared_kernel, 1, 32, 0, NULL, device_floats(32), 2); }

static __global__ void past_dynamic_kernel(float* out, int n) {
    SHARED_DYNAMIC(float, s);
    if (threadIdx.x == 0) { s[n] = 1; }
    out[threadIdx.x] = 0;
}
static void past_dynamic(void) { launch(past_dynamic_kernel, 1, 32, 64 * sizeof(float), NULL, device_floats(32), 64); }

static __global__ void copy_kernel(float* out, const float* x) { out[threadIdx.x] = x[threadIdx.x]; }
static void after_free(void) {
    struct Inside {  // within a structure, so that the launch does not see it
        float* p;
    } x = {device_floats(32)};
    CUDA_CHECK(cudaFree(x.p));
    x.p[3] = 1;
}

static __global__ void unaligned_load_kernel(float* out, const float* x) {
    float4 v = *(const float4*)(x + 4 * threadIdx.x + 1);
    out[threadIdx.x] = v.x + v.w;
}
static void unaligned_load(void) { launch(unaligned_load_kernel, 1, 2, 0, NULL, device_floats(32), device_floats(32)); }

static __global__ void unaligned_store_kernel(floatX* out) {
    float pack[PACK] = {0};
    store_pack(out + 2 + PACK * threadIdx.x, pack);
}
static void unaligned_store(void) { launch(unaligned_store_kernel, 1, 2, 0, NULL, device_new<floatX>(64)); }

static __global__ void unaligned_copy_kernel(float* out, const float* x) {
    SHARED(float, s, 32);
    cp_async_16(s + threadIdx.x, x, 16);
    out[0] = 0;
}
static void unaligned_copy(void) { launch(unaligned_copy_kernel, 1, 2, 0, NULL, device_floats(32), device_floats(32)); }

static __global__ void unaligned_ldmatrix_kernel(uint32_t* out) {
    SHARED(uint16_t, s, 512);
    uint32_t r[4];
    ldmatrix_x4(r, s + 4 * threadIdx.x);
    out[threadIdx.x] = r[0];
}
static void unaligned_ldmatrix(void) { launch(unaligned_ldmatrix_kernel, 1, 32, 0, NULL, device_new<uint32_t>(32)); }

static __global__ void ldmatrix_of_global_kernel(uint32_t* out, const float* x) {
    uint32_t r[4];
    ldmatrix_x4(r, x + 4 * threadIdx.x);
    out[threadIdx.x] = r[0];
}
static void ldmatrix_of_global(void) {
    launch(ldmatrix_of_global_kernel, 1, 32, 0, NULL, device_new<uint32_t>(32), device_floats(128));
}

// The rows of `bytes` bytes of a tile, 8 chunks of 16 bytes each at least, without and with the chunks of a row
// permuted by its number; each matrix is 8 rows of one chunk.
static __global__ void banks_kernel(uint32_t* out, int bytes, int permuted, int transposed) {
    SHARED(unsigned char, s, 8 * 160);
    for (int i = (int)threadIdx.x; i < 8 * 160; i += 32) { s[i] = (unsigned char)i; }
    __syncwarp();
    const int row = (int)threadIdx.x % 8, chunk = (int)threadIdx.x / 8;
    const unsigned char* from = s + row * bytes + (permuted ? chunk ^ row : chunk) * 16;
    uint32_t r[4];
    if (transposed) {
        ldmatrix_x4_trans(r, from);
    } else {
        ldmatrix_x4(r, from);
    }
    out[threadIdx.x] = r[0] ^ r[1] ^ r[2] ^ r[3];
}
static void bank_conflict(void) { launch(banks_kernel, 1, 32, 0, NULL, device_new<uint32_t>(32), 128, 0, 0); }
static void bank_conflict_trans(void) { launch(banks_kernel, 1, 32, 0, NULL, device_new<uint32_t>(32), 128, 0, 1); }
// 32 bytes a row: rows 0 and 4 are the first that meet.
static void bank_conflict_two(void) { launch(banks_kernel, 1, 32, 0, NULL, device_new<uint32_t>(32), 32, 0, 0); }

// Device memory that nobody wrote decides what the kernel does.
static __global__ void uninitialised_device_kernel(float* out, const float* x) { out[x[7] > 0] = 1; }
static void uninitialised_device(void) {
    launch(uninitialised_device_kernel, 1, 1, 0, NULL, device_floats(2), device_new<float>(8));
}
static __global__ void uninitialised_shared_kernel(float* out) {
    SHARED(float, s, 33);
    s[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x + 32 * (s[threadIdx.x + 1] > 0)] = 1;
}
static void uninitialised_shared(void) { launch(uninitialised_shared_kernel, 1, 32, 0, NULL, device_floats(64)); }

// ------------------------------------------------------------------------------------------------
// Wrong kernels: divergence, limits, arguments

static __global__ void divergent_barrier_kernel(float* out) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = 0;
}
static void divergent_barrier(void) { launch(divergent_barrier_kernel, 1, 64, 0, NULL, device_floats(64)); }

static __global__ void early_return_kernel(float* out, int n) {
    if ((int)threadIdx.x >= n) { return; }
    __syncthreads();
    out[threadIdx.x] = 0;
}
static void early_return(void) { launch(early_return_kernel, 1, 64, 0, NULL, device_floats(64), 63); }

static __global__ void divergent_shuffle_kernel(float* out) {
    float x = out[threadIdx.x];
    if (threadIdx.x < 16) {
        x = __shfl_xor_sync(0xffffffffu, x, 1);
    } else {
        x = __shfl_xor_sync(0xffffffffu, x, 2);
    }
    out[threadIdx.x] = x;
}
static void divergent_shuffle(void) { launch(divergent_shuffle_kernel, 1, 32, 0, NULL, device_floats(32)); }

// In parentheses a name is no macro: (warp_sum) has its shuffles, warp_sum is the emulator's tree.
static __global__ void half_shuffle_kernel(float* out) {
    if (threadIdx.x < 16) { out[threadIdx.x] = (warp_sum)(out[threadIdx.x]); }
}
static void half_shuffle(void) { launch(half_shuffle_kernel, 1, 32, 0, NULL, device_floats(32)); }
static __global__ void half_tree_kernel(float* out) {
    if (threadIdx.x < 16) { out[threadIdx.x] = warp_sum(out[threadIdx.x]); }
}
static void half_tree(void) { launch(half_tree_kernel, 1, 32, 0, NULL, device_floats(32)); }
static __global__ void divergent_tree_kernel(float* out) {
    float x = out[threadIdx.x];
    if (threadIdx.x < 16) {
        x = warp_sum(x);
    } else {
        x = warp_max(x);
    }
    out[threadIdx.x] = x;
}
static void divergent_tree(void) { launch(divergent_tree_kernel, 1, 32, 0, NULL, device_floats(32)); }

static __global__ void half_warp_kernel(float* out) { out[threadIdx.x] = warp_sum(out[threadIdx.x]); }
static void half_warp(void) { launch(half_warp_kernel, 1, 48, 0, NULL, device_floats(48)); }

// One warpgroup, d = (a b^T) b for a (64,64), and b (64,128), of which the first product takes the first 64 columns.
// What is wrong on purpose: 1 no wgmma_fence, 2 no wgmma_fence_shared, 3 no wait at the end, 4 a tile is written again
// without a barrier after the wait.
enum { WGMMA_SHARED = 64 * (64 + 128) * 2 };
template <int wrong> static __global__ void wgmma_kernel(float* out, const floatX* a, const floatX* b) {
    SHARED_PANELS(shared);
    unsigned char* b_tile = shared + 64 * 64 * 2;
    const int thread = (int)threadIdx.x, lane = thread % 32, t = lane % 4;
    for (int i = thread; i < 64 * 8; i += 128) { cp_async_16(shared + panel_place<64>(i / 8, i % 8), a + i * 8, 16); }
    for (int i = thread; i < 64 * 16; i += 128) {
        cp_async_16(b_tile + panel_place<64>(i / 16, i % 16), b + i * 8, 16);
    }
    cp_async_commit();
    cp_async_wait<0>();
    if (wrong != 2) { wgmma_fence_shared(); }
    __syncthreads();
    float s[32], d[64] = {0};
    const uint64_t left = wgmma_matrix(shared, 0), right = wgmma_matrix(b_tile, 64 * 128);
    if (wrong != 1) { wgmma_fence(); }
    for (int x = 0; x < 4; x++) { wgmma_shared(s, left + (uint64_t)(2 * x), right + (uint64_t)(2 * x), x > 0); }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_done(s);
    wgmma_fence();
    for (int x = 0; x < 4; x++) {
        uint32_t p[4];
        for (int i = 0; i < 4; i++) { p[i] = pack_bf16(s[8 * x + 2 * i], s[8 * x + 2 * i + 1]); }
        wgmma_registers(d, p, right + (uint64_t)(128 * x));
    }
    wgmma_commit();
    if (wrong == 3) { return; }
    wgmma_wait<0>();
    wgmma_done(d);
    if (wrong == 4) { b_tile[128 * thread] = 0; }
    for (int i = 0; i < 64; i++) {
        out[128 * (thread / 32 * 16 + lane / 4 + i % 4 / 2 * 8) + i / 4 * 8 + 2 * t + i % 2] = d[i];
    }
}
template <int wrong> static void wgmma_wrong(void) {
    setenv("EMULATE_SM", "90", 1);
    launch((wgmma_kernel<wrong>), 1, 128, WGMMA_SHARED, NULL, device_floats(64 * 128), device_new<floatX>(64 * 64),
           device_new<floatX>(64 * 128));
}
static void wgmma_half(void) {
    launch((wgmma_kernel<0>), 1, 96, WGMMA_SHARED, NULL, device_floats(64 * 128), device_new<floatX>(64 * 64),
           device_new<floatX>(64 * 128));
}

static __global__ void half_mask_kernel(float* out) {
    out[threadIdx.x] = __shfl_xor_sync(0xffffu, out[threadIdx.x], 1);
}
static void half_mask(void) { launch(half_mask_kernel, 1, 32, 0, NULL, device_floats(32)); }

static __global__ void barrier_against_shuffle_kernel(float* out) {
    if (threadIdx.x == 0) {
        __syncthreads();
    } else {
        out[threadIdx.x] = (warp_sum)(1.0f);
    }
}
static void barrier_against_shuffle(void) { launch(barrier_against_shuffle_kernel, 1, 32, 0, NULL, device_floats(32)); }

static __global__ void empty_kernel(float* out) { (void)out; }
static void too_many_threads(void) { launch(empty_kernel, 1, 1025, 0, NULL, device_floats(1)); }
static void no_blocks(void) { launch(empty_kernel, 0, 32, 0, NULL, device_floats(1)); }
static void too_many_blocks(void) { launch(empty_kernel, dim3(1, 65536), 32, 0, NULL, device_floats(1)); }
static void too_much_shared(void) { launch(empty_kernel, 1, 32, 99 * 1024 + 16, NULL, device_floats(1)); }

static __global__ void static_shared_kernel(float* out) {
    SHARED(float, s, 12 * 1024 + 4);
    s[threadIdx.x] = 1;
    out[threadIdx.x] = s[threadIdx.x];
}
static void too_much_static(void) { launch(static_shared_kernel, 1, 32, 0, NULL, device_floats(32)); }

static __global__ void shared_sum_kernel(float* out) {
    SHARED(float, s, 8 * 1024);
    SHARED_DYNAMIC(float, d);
    s[threadIdx.x] = d[threadIdx.x] = 1;
    out[threadIdx.x] = s[threadIdx.x];
}
static void too_much_together(void) { launch(shared_sum_kernel, 1, 32, 80 * 1024, NULL, device_floats(32)); }
static void no_dynamic(void) { launch(past_dynamic_kernel, 1, 32, 0, NULL, device_floats(32), 0); }

static void host_pointer(void) {
    float host[32] = {0};
    launch(copy_kernel, 1, 32, 0, NULL, device_floats(32), (const float*)host);
}
static void copy_too_much(void) {
    float host[33] = {0};
    CUDA_CHECK(cudaMemcpy(device_floats(32), host, sizeof host, cudaMemcpyHostToDevice));
}
static void copy_wrong_way(void) {
    float *x = device_floats(32), host[32] = {0};
    CUDA_CHECK(cudaMemcpy(x, host, sizeof host, cudaMemcpyDeviceToHost));
}

// As a recursion that goes too deep would: writes to the lowest bytes of its stack, which hold 0x5a.
static __global__ void deep_stack_kernel(float* out) {
    volatile unsigned char* page = (unsigned char*)((uintptr_t)__builtin_frame_address(0) & ~(uintptr_t)4095);
    while (page[0] != 0x5a || page[63] != 0x5a) { page -= 4096; }
    page[10] = 0;
    out[0] = 1;
}
static void deep_stack(void) { launch(deep_stack_kernel, 1, 1, 0, NULL, device_floats(1)); }

// A product of 8 x 8 floats whose matrices are said to lie at multiples of 16 bytes: B is `shift` numbers past one. With
// a bias its address is known when the proposals are asked for (`bias`), and another one when it is used (`later`).
static void small_product(size_t shift, const float* bias, const float* later) {
    float *x = device_floats(3 * 64 + 8), one = 1, none = 0;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t square;
    cublasLtMatmulPreference_t wish;
    cublasLtMatmulHeuristicResult_t found[2];
    uint32_t align = 16;
    int count = 0;
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatrixLayoutCreate(&square, CUDA_R_32F, 8, 8, 8);
    cublasLtMatmulPreferenceCreate(&wish);
    const cublasLtMatmulPreferenceAttributes_t all[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (int i = 0; i < 4; i++) { cublasLtMatmulPreferenceSetAttribute(wish, all[i], &align, 4); }
    if (later) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
        cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    }
    cublasLtMatmulAlgoGetHeuristic(handle, desc, square, square, square, square, wish, 2, found, &count);
    if (later) { cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &later, sizeof later); }
    cublasLtMatmul(handle, desc, &one, x, square, x + 64 + shift, square, &none, x + 132, square, x + 132, square,
                   &found[1].algo, NULL, 0, NULL);
}
static void unaligned_product(void) { small_product(1, NULL, NULL); }
static void late_bias(void) { small_product(0, NULL, device_floats(8)); }
static void unaligned_bias(void) {
    float* bias = device_floats(12);
    small_product(0, bias, bias + 1);
}

// ------------------------------------------------------------------------------------------------

typedef struct {
    const char* name;
    void (*run)(void);
    int builds;         // that must catch it
    const char* words;  // that the message must have, separated by |
} Wrong;

static const Wrong wrongs[] = {
    {"no_barrier", no_barrier, RACE,
     "data race in kernel no_barrier_kernel|no __syncthreads|write of 4 bytes|read of 4 bytes|test_emulate.cpp"},
    {"no_second_barrier", no_second_barrier, RACE, "data race in kernel no_second_barrier_kernel|no __syncthreads"},
    {"two_blocks", two_blocks, RACE, "data race in kernel two_blocks_kernel|two blocks of a launch"},
    {"block_reads", block_reads, RACE, "data race in kernel block_reads_kernel|two blocks of a launch"},
    {"no_syncwarp", no_syncwarp, RACE, "data race in kernel no_syncwarp_kernel|same warp"},
    {"shuffle_no_fence", shuffle_no_fence, RACE, "data race in kernel shuffle_no_fence_kernel|same warp"},
    {"syncwarp_too_small", syncwarp_too_small, RACE, "data race in kernel syncwarp_too_small_kernel|no __syncthreads"},
    {"same_value", same_value, RACE, "data race in kernel same_value_kernel|same warp"},
    {"write_after_reads", write_after_reads, RACE, "data race in kernel write_after_reads_kernel|write of 4 bytes"},
    {"overlap", overlap, RACE, "data race in kernel overlap_kernel|read of 2 bytes|write of"},
    {"atomic_and_plain", atomic_and_plain, RACE, "data race in kernel atomic_and_plain_kernel|atomic access of 4"},
    {"no_barrier_after_wait", no_barrier_after_wait, RACE,
     "data race in kernel no_barrier_after_wait_kernel|same warp|of 16 bytes"},
    {"no_wait", no_wait, RACE, "data race in kernel no_wait_kernel|has not been waited for"},
    {"waits_for_too_few", waits_for_too_few, RACE,
     "data race in kernel waits_for_too_few_kernel|has not been waited for"},
    {"stage_too_early", stage_too_early, RACE, "data race in kernel stage_too_early_kernel|of 16 bytes"},
    {"ldmatrix_race", ldmatrix_race, RACE, "data race in kernel ldmatrix_race_kernel|same warp|16 bytes"},
    {"read_past_end", read_past_end, ADDRESS, "heap-buffer-overflow|READ of size 4|read_past_end_kernel"},
    {"write_past_end", write_past_end, ADDRESS, "heap-buffer-overflow|WRITE of size 2|write_past_end_kernel"},
    {"past_shared", past_shared, ADDRESS, "heap-buffer-overflow|READ of size 4|past_shared_kernel"},
    {"past_dynamic", past_dynamic, ADDRESS, "heap-buffer-overflow|WRITE of size 4|past_dynamic_kernel"},
    {"after_free", after_free, ADDRESS, "heap-use-after-free"},
    {"unaligned_load", unaligned_load, PLAIN, "misaligned|float4"},
    {"unaligned_store", unaligned_store, PLAIN, "misaligned|uint4"},
    {"unaligned_copy", unaligned_copy, ANY, "kernel unaligned_copy_kernel|is not aligned to 16 bytes"},
    {"unaligned_ldmatrix", unaligned_ldmatrix, ANY & ~MEMORY,
     "kernel unaligned_ldmatrix_kernel|is not aligned to 16 bytes"},
    {"ldmatrix_of_global", ldmatrix_of_global, ANY, "kernel ldmatrix_of_global_kernel|is not in the shared memory"},
    {"bank_conflict", bank_conflict, ANY,
     "kernel banks_kernel|ldmatrix_x4 in|test_emulate.cpp:|bank conflict|rows 0 and 1 of matrix 0 are 128 bytes apart"},
    {"bank_conflict_trans", bank_conflict_trans, ANY, "kernel banks_kernel|ldmatrix_x4_trans in|bank conflict"},
    {"bank_conflict_two", bank_conflict_two, ANY,
     "kernel banks_kernel|bank conflict|rows 0 and 4 of matrix 0 are 128 bytes apart"},
    {"uninitialised_device", uninitialised_device, MEMORY, "use-of-uninitialized-value|uninitialised_device_kernel"},
    {"uninitialised_shared", uninitialised_shared, MEMORY, "use-of-uninitialized-value|uninitialised_shared_kernel"},
    {"divergent_barrier", divergent_barrier, ANY, "kernel divergent_barrier_kernel|divergent barrier"},
    {"early_return", early_return, ANY, "kernel early_return_kernel|the barrier in|the kernel"},
    {"divergent_shuffle", divergent_shuffle, ANY, "kernel divergent_shuffle_kernel|divergent warp|__shfl_xor_sync"},
    {"half_shuffle", half_shuffle, ANY, "kernel half_shuffle_kernel|hangs|__shfl_xor_sync"},
    {"half_tree", half_tree, ANY, "kernel half_tree_kernel|hangs|warp_sum"},
    {"divergent_tree", divergent_tree, ANY, "kernel divergent_tree_kernel|divergent warp|warp_sum|warp_max"},
    {"half_warp", half_warp, ANY, "kernel half_warp_kernel|a warp of 16 lanes"},
    {"wgmma_no_fence", wgmma_wrong<1>, ANY, "kernel (wgmma_kernel|wgmma without wgmma_fence since"},
    {"wgmma_no_fence_shared", wgmma_wrong<2>, ANY, "kernel (wgmma_kernel|wgmma without wgmma_fence_shared"},
    // (MemorySanitizer says first that its factors were never written)
    {"wgmma_no_wait", wgmma_wrong<3>, PLAIN | RACE | ADDRESS, "kernel (wgmma_kernel|while wgmma is at work"},
    {"wgmma_written", wgmma_wrong<4>, RACE, "data race in kernel|wgmma_kernel"},
    {"wgmma_half", wgmma_half, ANY, "kernel (wgmma_kernel|a block of 96 threads, no whole warpgroups"},
    {"half_mask", half_mask, ANY, "kernel half_mask_kernel|mask 0000ffff"},
    {"barrier_against_shuffle", barrier_against_shuffle, ANY,
     "kernel barrier_against_shuffle_kernel|hangs|a barrier|__shfl_xor_sync"},
    {"too_many_threads", too_many_threads, ANY, "kernel empty_kernel|1025"},
    {"no_blocks", no_blocks, ANY, "kernel empty_kernel|0 x 1 x 1 blocks"},
    {"too_many_blocks", too_many_blocks, ANY, "kernel empty_kernel|65536"},
    {"too_much_shared", too_much_shared, ANY, "kernel empty_kernel|101392 bytes of shared memory"},
    {"too_much_static", too_much_static, ANY, "kernel static_shared_kernel|49168 bytes of static shared memory"},
    {"too_much_together", too_much_together, ANY, "kernel shared_sum_kernel|bytes of shared memory"},
    {"no_dynamic", no_dynamic, ANY, "kernel past_dynamic_kernel|dynamic shared memory"},
    {"host_pointer", host_pointer, ANY, "copy_kernel|not lie in device memory"},
    {"copy_too_much", copy_too_much, ANY, "132 bytes|not lie in device memory"},
    {"copy_wrong_way", copy_wrong_way, ANY, "cudaMemcpy from|device memory"},
    {"deep_stack", deep_stack, PLAIN, "kernel deep_stack_kernel needs more than|bytes of stack"},
    {"unaligned_product", unaligned_product, ANY, "cublasLtMatmul: matrix B is not aligned to 16 bytes as promised"},
    {"late_bias", late_bias, ANY, "cublasLtMatmulAlgoGetHeuristic: a bias is added, but its address is not set"},
    {"unaligned_bias", unaligned_bias, ANY, "cublasLtMatmul: the bias is not aligned to 256 bytes as it was"},
};
enum { WRONGS = sizeof wrongs / sizeof wrongs[0] };

typedef struct {
    const char *name, *seed, *async;
} Child;
// This program again, for one kernel or, by the name "right", for all right ones.
static void run_again(void* argument) {
    const Child* child = (const Child*)argument;
    setenv("EMULATE_SEED", child->seed, 1);
    setenv("EMULATE_ASYNC", child->async, 1);
    execl("/proc/self/exe", "test_emulate", "--run", child->name, (char*)NULL);
    die("cannot run this program again");
}

static void test_wrong(void) {
    static const char* const seeds[] = {"0", "1", "2"};
    for (int i = 0; i < WRONGS; i++) {
        const Wrong* w = &wrongs[i];
        if (!(w->builds & build)) { continue; }
        for (int k = 0; k < 3; k++) {
            Child child = {w->name, seeds[k], k == 2 ? "late" : "early"};
            char what[128];
            snprintf(what, sizeof what, "%s, seed %s, copies %s", w->name, child.seed, child.async);
            expect_death(what, run_again, &child, w->words);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Right kernels

static uint32_t state = 1;
static float noise(void) {  // in [-1, 1)
    state = state * 1664525u + 1013904223u;
    return (float)(int32_t)state / 2147483648.0f;
}

// out (5,64): what each kind of exchange gives every thread of two warps.
static __global__ void exchange_kernel(float* out, unsigned* votes) {
    int i = (int)threadIdx.x, lane = i % 32;
    float x = 100.0f * (float)(i / 32) + (float)lane;
    out[i] = __shfl_sync(0xffffffffu, x, 7);
    out[64 + i] = __shfl_xor_sync(0xffffffffu, x, 5);
    out[128 + i] = __shfl_up_sync(0xffffffffu, x, 3);
    out[192 + i] = __shfl_down_sync(0xffffffffu, x, 3);
    out[256 + i] = warp_sum(x);
    votes[i] = __ballot_sync(0xffffffffu, i % 3 == 0);
    votes[64 + i] = (unsigned)__any_sync(0xffffffffu, i == 40) * 2u + (unsigned)__all_sync(0xffffffffu, i < 32);
}
static void test_exchange(void) {
    float* out = device_new<float>(320);
    unsigned* votes = device_new<unsigned>(128);
    launch(exchange_kernel, 1, 64, 0, NULL, out, votes);
    float* got = from_device(out, 320);
    unsigned* bits = from_device(votes, 128);
    for (int i = 0; i < 64; i++) {
        int lane = i % 32;
        float base = 100.0f * (float)(i / 32);
        float want[5] = {base + 7, base + (float)(lane ^ 5), base + (float)(lane >= 3 ? lane - 3 : lane),
                         base + (float)(lane < 29 ? lane + 3 : lane), 32 * base + 496};
        for (int k = 0; k < 5; k++) {
            CHECK(got[64 * k + i] == want[k], "exchange %d, thread %d: got %g, want %g", k, i, got[64 * k + i],
                  want[k]);
        }
        unsigned ballot = 0;
        for (int k = 0; k < 32; k++) { ballot |= (unsigned)((i / 32 * 32 + k) % 3 == 0) << k; }
        CHECK(bits[i] == ballot, "ballot of thread %d: got %08x, want %08x", i, bits[i], ballot);
        CHECK(bits[64 + i] == (i < 32 ? 1u : 2u), "votes of thread %d: %u", i, bits[64 + i]);
    }
    free(got);
    free(bits);
}

// out (4,n): sum and maximum of every warp, by shuffles and by the emulator's trees.
static __global__ void trees_kernel(float* out, const float* x, int n) {
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    out[i] = (warp_sum)(x[i]);
    out[n + i] = warp_sum(x[i]);
    out[2 * n + i] = (warp_max)(x[i]);
    out[3 * n + i] = warp_max(x[i]);
}
// Bit by bit, in lanes whose maximum is a zero of either sign, in warps that have an infinity or a NaN.
static void test_trees(void) {
    enum { N = 32 * 64 };
    float *x = device_new<float>(N), *out = device_new<float>(4 * N), numbers[N];
    for (int i = 0; i < N; i++) { numbers[i] = noise() * ldexpf(1.0f, i % 64 / 2 - 16); }
    for (int i = 0; i < 32; i++) { numbers[i] = noise() > 0 ? 0.0f : -0.0f; }
    numbers[32] = INFINITY, numbers[64] = -INFINITY, numbers[96 + 5] = NAN, numbers[128 + 31] = NAN;
    CUDA_CHECK(cudaMemcpy(x, numbers, sizeof numbers, cudaMemcpyHostToDevice));
    launch(trees_kernel, N / 64, 64, 0, NULL, out, x, N);
    float* got = from_device(out, 4 * N);
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < 4; k += 2) {
            CHECK(memcmp(&got[k * N + i], &got[(k + 1) * N + i], sizeof *got) == 0,
                  "%s of number %d: by shuffles %.9g, by a tree %.9g", k ? "maximum" : "sum", i, got[k * N + i],
                  got[(k + 1) * N + i]);
        }
    }
    free(got);
    cudaFree(x);
    cudaFree(out);
}

// out (blocks): sums of rows of n, the block larger than the row in one case.
static __global__ void row_sum_kernel(float* out, const float* x, int n) {
    SHARED(float, scratch, 32);
    float sum = 0;
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) { sum += x[(int)blockIdx.x * n + i]; }
    sum = block_sum(sum, scratch);
    float largest = block_max(threadIdx.x == 0 ? sum : -1e30f, scratch);
    if (threadIdx.x == 0) { out[blockIdx.x] = sum == largest ? sum : -1.0f; }
}
static void test_block_sum(void) {
    static const int threads[] = {32, 96, 1024}, lengths[] = {1, 33, 1000};
    for (int a = 0; a < 3; a++) {
        for (int b = 0; b < 3; b++) {
            int n = lengths[b];
            float *x = device_floats(7 * (size_t)n), *out = device_new<float>(7);
            launch(row_sum_kernel, 7, threads[a], 0, NULL, out, x, n);
            float* got = from_device(out, 7);
            for (int r = 0; r < 7; r++) {
                double want = 0;
                for (int i = 0; i < n; i++) { want += (double)(r * n + i); }
                CHECK(fabs(got[r] - want) <= 1e-6 * want, "row %d of %d, %d threads: got %g, want %g", r, n, threads[a],
                      got[r], want);
            }
            free(got);
            cudaFree(x);
            cudaFree(out);
        }
    }
}

// Warps pass values on through shared memory with __syncwarp only; blocks of two dimensions.
static __global__ void syncwarp_kernel(int* out) {
    SHARED(int, s, 8 * 32);
    int* mine = s + 32 * threadIdx.y;
    for (int round = 0; round < 5; round++) {
        mine[threadIdx.x] = round + (int)threadIdx.x;
        __syncwarp();
        int y = mine[(threadIdx.x + 1) % 32];
        __syncwarp();
        mine[threadIdx.x] = y;
    }
    out[((int)blockIdx.y * (int)gridDim.x + (int)blockIdx.x) * 256 + (int)threadIdx.y * 32 + (int)threadIdx.x] =
        mine[threadIdx.x];
}
static void test_syncwarp(void) {
    int* out = device_new<int>(6 * 256);
    launch(syncwarp_kernel, dim3(3, 2), dim3(32, 8), 0, NULL, out);
    int* got = from_device(out, 6 * 256);
    for (int i = 0; i < 6 * 256; i++) {
        CHECK(got[i] == 4 + (i + 1) % 32, "thread %d: got %d, want %d", i, got[i], 4 + (i + 1) % 32);
    }
    free(got);
}

// Counting with atomics, in shared memory and over blocks, and neighbours that share a word.
static __global__ void count_kernel(unsigned* count, uint8_t* flags, floatX* halves, int n) {
    SHARED(unsigned, mine, 10);
    if (threadIdx.x < 10) { mine[threadIdx.x] = 0; }
    __syncthreads();
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) {
        atomicAdd(&mine[i % 10], 1u);
        flags[i] = (uint8_t)(i % 7);
        store(halves + i, (float)(i % 100));
    }
    __syncthreads();
    if (threadIdx.x < 10) { atomicAdd(&count[threadIdx.x], mine[threadIdx.x]); }
}
static void test_count(void) {
    enum { N = 1003 };
    unsigned* count = device_new<unsigned>(10);
    uint8_t* flags = device_new<uint8_t>(N);
    floatX* halves = device_new<floatX>(N);
    CUDA_CHECK(cudaMemset(count, 0, 10 * sizeof(unsigned)));
    launch(count_kernel, 11, 96, 0, NULL, count, flags, halves, (int)N);
    unsigned* got = from_device(count, 10);
    uint8_t* bytes = from_device(flags, N);
    floatX* half = from_device(halves, N);
    for (int i = 0; i < 10; i++) { CHECK(got[i] == (i < 3 ? 101u : 100u), "count %d: %u", i, got[i]); }
    for (int i = 0; i < N; i++) {
        CHECK(bytes[i] == i % 7 && host_float(half[i]) == (float)(i % 100), "neighbours at %d", i);
    }
    free(got);
    free(bytes);
    free(half);
}

// One warp, d = a b by the tensor cores' layout as ptx.cuh tells it. a (16,16), b (16,8), out (16,8).
static __global__ void mma_kernel(float* out, const float* a, const float* b) {
    int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    uint32_t x[4], y[2];
    for (int r = 0; r < 4; r++) {
        int m = g + 8 * (r % 2), k = 2 * t + 8 * (r / 2);
        x[r] = pack_bf16(a[16 * m + k], a[16 * m + k + 1]);
    }
    for (int r = 0; r < 2; r++) {
        int k = 2 * t + 8 * r;
        y[r] = pack_bf16(b[8 * k + g], b[8 * (k + 1) + g]);
    }
    float d[4] = {0.5f, 0.5f, 0.5f, 0.5f};
    mma_bf16(d, x, y);
    mma_bf16(d, x, y);
    for (int r = 0; r < 4; r++) { out[8 * (g + 8 * (r / 2)) + 2 * t + r % 2] = d[r]; }
}
static void test_mma(void) {
    float a[256], b[128], want[128];
    for (int i = 0; i < 256; i++) { a[i] = (float)((i * 7 + i / 16) % 31 - 15); }  // exact in bf16
    for (int i = 0; i < 128; i++) { b[i] = (float)((i * 5 + i / 8) % 29 - 14); }
    for (int m = 0; m < 16; m++) {
        for (int n = 0; n < 8; n++) {
            want[8 * m + n] = 0.5f;
            for (int k = 0; k < 16; k++) { want[8 * m + n] += 2 * a[16 * m + k] * b[8 * k + n]; }
        }
    }
    float* out = device_new<float>(128);
    launch(mma_kernel, 1, 32, 0, NULL, out, to_device(a, 256), to_device(b, 128));
    float* got = from_device(out, 128);
    for (int i = 0; i < 128; i++) { CHECK(got[i] == want[i], "d[%d]: got %g, want %g", i, got[i], want[i]); }
    free(got);
}

static void test_wgmma(void) {
    static float want[64 * 128], s[64 * 64];
    floatX a[64 * 64], b[64 * 128];
    for (int i = 0; i < 64 * 64; i++) { store(a + i, (float)((i * 7 + i / 64) % 3 - 1)); }  // sums exact in bf16
    for (int i = 0; i < 64 * 128; i++) { store(b + i, (float)((i * 5 + i / 128 + i / 100) % 3 - 1)); }
    for (int m = 0; m < 64; m++) {
        for (int n = 0; n < 64; n++) {
            s[64 * m + n] = 0;
            for (int k = 0; k < 64; k++) { s[64 * m + n] += host_float(a[64 * m + k]) * host_float(b[128 * n + k]); }
        }
        for (int n = 0; n < 128; n++) {
            want[128 * m + n] = 0;
            for (int k = 0; k < 64; k++) { want[128 * m + n] += s[64 * m + k] * host_float(b[128 * k + n]); }
        }
    }
    float* out = device_new<float>(64 * 128);
    launch((wgmma_kernel<0>), 1, 128, WGMMA_SHARED, NULL, out, to_device(a, 64 * 64), to_device(b, 64 * 128));
    float* got = from_device(out, 64 * 128);
    for (int i = 0; i < 64 * 128; i++) { CHECK(got[i] == want[i], "d[%d]: got %g, want %g", i, got[i], want[i]); }
    free(got);
}

// The order in which threads come to a place: ascending with seed 0, another one with any other seed.
static __global__ void order_kernel(unsigned* out, unsigned* count) {
    out[64 * blockIdx.x + threadIdx.x] = atomicAdd(&count[blockIdx.x], 1u);
}
static void test_order(void) {
    enum { BLOCKS = 8 };
    const char* seed = getenv("EMULATE_SEED");
    const unsigned zeros[BLOCKS] = {0};
    unsigned* out = device_new<unsigned>(64 * BLOCKS);
    launch(order_kernel, BLOCKS, 64, 0, NULL, out, to_device(zeros, BLOCKS));
    unsigned* got = from_device(out, 64 * BLOCKS);
    int lanes = 0, warps = 0;  // that do not come in ascending order
    for (int i = 1; i < 64 * BLOCKS; i++) { lanes += i % 32 != 0 && got[i] < got[i - 1]; }
    for (int b = 0; b < BLOCKS; b++) { warps += got[64 * b + 32] < got[64 * b]; }
    const int permuted = seed && strcmp(seed, "0") != 0;
    CHECK((lanes > 0) == permuted && (warps > 0) == permuted, "seed %s: %d lanes and %d warps come out of order",
          seed ? seed : "none", lanes, warps);
    free(got);
}

// Four 8x8 matrices whose entries say where they are: 1000 matrix + 10 row + column.
static __global__ void ldmatrix_kernel(uint32_t* out, uint32_t* transposed) {
    SHARED(uint16_t, s, 256);
    int lane = (int)threadIdx.x;
    for (int i = 0; i < 8; i++) { s[8 * lane + i] = (uint16_t)(1000 * (lane / 8) + 10 * (lane % 8) + i); }
    __syncwarp();
    uint32_t r[4];
    ldmatrix_x4(r, s + 8 * lane);
    for (int i = 0; i < 4; i++) { out[4 * lane + i] = r[i]; }
    ldmatrix_x4_trans(r, s + 8 * lane);
    for (int i = 0; i < 4; i++) { transposed[4 * lane + i] = r[i]; }
}
static void test_ldmatrix(void) {
    uint32_t *out = device_new<uint32_t>(128), *transposed = device_new<uint32_t>(128);
    launch(ldmatrix_kernel, 1, 32, 0, NULL, out, transposed);
    uint32_t *got = from_device(out, 128), *turned = from_device(transposed, 128);
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) {
            uint32_t row = (uint32_t)lane / 4, pair = 2 * ((uint32_t)lane % 4), base = 1000 * (uint32_t)i;
            uint32_t want = (base + 10 * row + pair) | (base + 10 * row + pair + 1) << 16;
            uint32_t want_turned = (base + 10 * pair + row) | (base + 10 * (pair + 1) + row) << 16;
            CHECK(got[4 * lane + i] == want, "lane %d, matrix %d: %08x, want %08x", lane, i, got[4 * lane + i], want);
            CHECK(turned[4 * lane + i] == want_turned, "lane %d, matrix %d transposed: %08x, want %08x", lane, i,
                  turned[4 * lane + i], want_turned);
        }
    }
    free(got);
    free(turned);
}

// No conflicts: chunks permuted by their row, rows 16 bytes longer than 128 or shorter, rows side by side, one row for
// all; and conflicts that are allowed.
static void banks_allowed(void* out) {
    setenv("EMULATE_BANKS", "any", 1);
    launch(banks_kernel, 1, 32, 0, NULL, (uint32_t*)out, 128, 0, 0);
}
static void test_banks(void) {
    static const int rows[][2] = {{128, 1}, {144, 0}, {112, 0}, {80, 0}, {48, 0}, {16, 0}, {0, 0}};
    uint32_t* out = device_new<uint32_t>(32);
    char* output;
    // First: a process looks at the variable once.
    int code = run_child(banks_allowed, out, &output);
    CHECK(code == 0, "with EMULATE_BANKS=any: exit code %d: %s", code, output);
    free(output);
    for (int i = 0; i < 7; i++) {
        launch(banks_kernel, 1, 32, 0, NULL, out, rows[i][0], rows[i][1], 0);
        launch(banks_kernel, 1, 32, 0, NULL, out, rows[i][0], rows[i][1], 1);
    }
    CUDA_CHECK(cudaDeviceSynchronize());
}

// Rows summed through two stages that copies fill in the background; the last pieces are short.
static __global__ void pipeline_kernel(float* out, const float* x, int n) {
    SHARED(float, s, 2 * 256);
    int tiles = (n + 255) / 256, i = (int)threadIdx.x;
    float sum = 0;
    auto fetch = [&](int tile) {
        int at = 256 * tile + 4 * i, left = tile < tiles ? n - at : 0;
        cp_async_16(s + 256 * (tile % 2) + 4 * i, left > 0 ? x + at : x, left <= 0 ? 0 : left >= 4 ? 16 : 4 * left);
        cp_async_commit();
    };
    fetch(0);
    for (int tile = 0; tile < tiles; tile++) {
        fetch(tile + 1);
        cp_async_wait<1>();
        __syncthreads();
        for (int k = 0; k < 4; k++) { sum += s[256 * (tile % 2) + 64 * k + i]; }
        __syncthreads();
    }
    cp_async_wait<0>();
    out[i] = sum;
}
static void test_pipeline(void) {
    static const int lengths[] = {1, 255, 256, 257, 1027};
    for (int a = 0; a < 5; a++) {
        float *x = device_floats((size_t)lengths[a]), *out = device_new<float>(64);
        launch(pipeline_kernel, 1, 64, 0, NULL, out, x, lengths[a]);
        float *got = from_device(out, 64), want[64] = {0};
        for (int i = 0; i < lengths[a]; i++) { want[i % 64] += (float)i; }
        for (int i = 0; i < 64; i++) {
            CHECK(got[i] == want[i], "thread %d of %d: %g, want %g", i, lengths[a], got[i], want[i]);
        }
        free(got);
    }
}

// Without the wait the value is a NaN if copies come late: what a test of results would see.
static __global__ void unwaited_kernel(float* out, const float* x, int wait) {
    SHARED(float, s, 128);
    cp_async_16(s + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
    cp_async_commit();
    if (wait) { cp_async_wait<0>(); }
    out[threadIdx.x] = s[4 * threadIdx.x];
}
static void test_unwaited(void) {
    if (build != PLAIN && build != ADDRESS) { return test_skip("this build refuses to run it"); }
    const char* async = getenv("EMULATE_ASYNC");
    int late = async && strcmp(async, "late") == 0;
    for (int wait = 0; wait < 2; wait++) {
        float *out = device_new<float>(32), *x = device_floats(128);
        launch(unwaited_kernel, 1, 32, 0, NULL, out, x, wait);
        float* got = from_device(out, 32);
        for (int i = 0; i < 32; i++) {
            CHECK(late && !wait ? got[i] != got[i] : got[i] == 4.0f * (float)i, "late %d, wait %d: %g", late, wait,
                  got[i]);
        }
        free(got);
    }
}

// Memory that nobody wrote is NaN, so that results show it.
static __global__ void unwritten_kernel(float* out, const float* x) {
    SHARED(float, s, 32);
    SHARED_DYNAMIC(floatX, d);
    out[3 * threadIdx.x] = x[threadIdx.x];
    out[3 * threadIdx.x + 1] = s[threadIdx.x];
    out[3 * threadIdx.x + 2] = to_float(d[threadIdx.x]);
}
static __global__ void write_shared_kernel(float* out) {  // so that there is something to be left over
    SHARED(float, s, 32);
    SHARED_DYNAMIC(floatX, d);
    s[threadIdx.x] = 1;
    store(d + threadIdx.x, 1);
    out[threadIdx.x] = s[threadIdx.x];
}
static void test_nan_fill(void) {
    if (build == MEMORY) { return test_skip("this build refuses to look at it"); }
    float *out = device_new<float>(96), *before = device_floats(32);
    launch(write_shared_kernel, 1, 32, 32 * sizeof(floatX), NULL, before);
    cudaFree(before);
    launch(unwritten_kernel, 1, 32, 32 * sizeof(floatX), NULL, out, device_new<float>(32));
    float* got = from_device(out, 96);
    for (int i = 0; i < 96; i++) { CHECK(got[i] != got[i], "unwritten memory %d reads as %g", i, got[i]); }
    free(got);
}

// ---- streams, events, graphs ----

static __global__ void add_kernel(float* x, float y, int n) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) { x[i] += y; }
}
static __global__ void double_kernel(float* to, const float* from, int n) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) { to[i] = 2 * from[i]; }
}
static void test_streams(void) {
    enum { N = 100 };
    cudaStream_t a, b;
    cudaEvent_t ready, begin, end;
    CUDA_CHECK(cudaStreamCreate(&a));
    CUDA_CHECK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
    CUDA_CHECK(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming));
    CUDA_CHECK(cudaEventCreate(&begin));
    CUDA_CHECK(cudaEventCreate(&end));
    float *x = device_floats(N), *y = device_new<float>(N), *host;
    CUDA_CHECK(cudaMallocHost(&host, N * sizeof(float)));
    CUDA_CHECK(cudaEventRecord(begin, b));
    launch(add_kernel, 4, 32, 0, a, x, 3.0f, (int)N);
    CUDA_CHECK(cudaEventRecord(ready, a));
    CUDA_CHECK(cudaStreamWaitEvent(b, ready, 0));
    launch(double_kernel, 4, 32, 0, b, y, (const float*)x, (int)N);
    CUDA_CHECK(cudaMemcpyAsync(host, y, N * sizeof(float), cudaMemcpyDeviceToHost, b));
    CUDA_CHECK(cudaEventRecord(end, b));
    CUDA_CHECK(cudaStreamSynchronize(b));
    for (int i = 0; i < N; i++) { CHECK(host[i] == 2 * ((float)i + 3), "%d: got %g", i, host[i]); }
    float ms = -1;
    CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
    CHECK(ms >= 0 && ms < 60e3f, "%g ms between two events", ms);
    CUDA_CHECK(cudaMemsetAsync(y, 0, N * sizeof(float), a));
    CUDA_CHECK(cudaDeviceSynchronize());
    float* got = from_device(y, N);
    for (int i = 0; i < N; i++) { CHECK(got[i] == 0, "%d: %g after a memset", i, got[i]); }
    free(got);
    CUDA_CHECK(cudaEventDestroy(ready));
    CUDA_CHECK(cudaEventDestroy(begin));
    CUDA_CHECK(cudaEventDestroy(end));
    CUDA_CHECK(cudaStreamDestroy(a));
    CUDA_CHECK(cudaStreamDestroy(b));
    CUDA_CHECK(cudaFreeHost(host));
    CUDA_CHECK(cudaFree(x));
    CUDA_CHECK(cudaFree(y));
}
// A wait is for the record that was the last when it was called, not for a later one; what is behind a host
// function that nobody has waited for stays behind it.
static void host_three(void* x) { *(float*)x = 3; }
static void test_events(void) {
    cudaStream_t a, b;
    cudaEvent_t event;
    CUDA_CHECK(cudaStreamCreate(&a));
    CUDA_CHECK(cudaStreamCreate(&b));
    CUDA_CHECK(cudaEventCreate(&event));
    float *x = device_floats(1), *host;
    CUDA_CHECK(cudaMallocHost(&host, 2 * sizeof(float)));
    CUDA_CHECK(cudaStreamWaitEvent(b, event, 0));  // without a record: for nothing
    emulate_hold(a);
    launch(add_kernel, 1, 32, 0, a, x, 1.0f, 1);
    CUDA_CHECK(cudaEventRecord(event, a));
    emulate_hold(b);
    CUDA_CHECK(cudaStreamWaitEvent(b, event, 0));
    launch(add_kernel, 1, 32, 0, a, x, 10.0f, 1);
    CUDA_CHECK(cudaEventRecord(event, a));
    CUDA_CHECK(cudaMemcpyAsync(host, x, sizeof(float), cudaMemcpyDeviceToHost, b));
    host[1] = 0;
    CUDA_CHECK(cudaLaunchHostFunc(b, host_three, host + 1));
    CHECK(host[1] == 0, "a host function ran ahead of its stream");
    CUDA_CHECK(cudaStreamSynchronize(b));
    CHECK(host[0] == 1 && host[1] == 3, "%g %g, want 1 3", host[0], host[1]);
    CUDA_CHECK(cudaEventSynchronize(event));
    CUDA_CHECK(cudaMemcpyAsync(host, x, sizeof(float), cudaMemcpyDeviceToHost, b));
    CUDA_CHECK(cudaStreamSynchronize(b));
    CHECK(host[0] == 11, "%g, want 11", host[0]);
    CUDA_CHECK(cudaEventDestroy(event));
    CUDA_CHECK(cudaStreamDestroy(a));
    CUDA_CHECK(cudaStreamDestroy(b));
    CUDA_CHECK(cudaFreeHost(host));
    CUDA_CHECK(cudaFree(x));
}
static void test_graph(void) {
    enum { N = 50 };
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA_CHECK(cudaStreamCreate(&stream));
    float *x = device_floats(N), *y = device_floats(N), *host;
    CUDA_CHECK(cudaMallocHost(&host, N * sizeof(float)));
    for (int i = 0; i < N; i++) { host[i] = -7; }
    CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    launch(add_kernel, 2, 32, 0, stream, x, 1.0f, (int)N);
    launch(double_kernel, 2, 32, 0, stream, y, (const float*)x, (int)N);
    CUDA_CHECK(cudaMemcpyAsync(host, y, N * sizeof(float), cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream) != cudaSuccess, "a stream that is captured cannot be waited for");
    float pageable[4];
    CHECK(cudaMemcpyAsync(pageable, y, sizeof pageable, cudaMemcpyDeviceToHost, stream) != cudaSuccess,
          "a copy to memory that is not page-locked cannot be captured");
    CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGetLastError() != cudaSuccess && cudaGetLastError() == cudaSuccess, "an error is told once");
    CHECK(host[3] == -7, "capturing executes nothing, but found %g", host[3]);
    CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
    CUDA_CHECK(cudaGraphDestroy(graph));
    for (int run = 1; run <= 3; run++) {
        CUDA_CHECK(cudaGraphLaunch(exec, stream));
        CUDA_CHECK(cudaStreamSynchronize(stream));
        for (int i = 0; i < N; i++) { CHECK(host[i] == 2 * (float)(i + run), "run %d, %d: %g", run, i, host[i]); }
    }
    CUDA_CHECK(cudaGraphExecDestroy(exec));
    CUDA_CHECK(cudaStreamDestroy(stream));
}

// Device memory has an end, and a launch has arguments that only it sees.
static void test_memory(void) {
    size_t unused, total;
    CUDA_CHECK(cudaMemGetInfo(&unused, &total));
    char* p = NULL;
    CHECK(cudaMalloc(&p, unused + 1) == cudaErrorMemoryAllocation, "more memory than there is");
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation, "the error is kept until it is asked for");
    float* x = device_new<float>(1000);
    size_t now;
    CUDA_CHECK(cudaMemGetInfo(&now, &total));
    CHECK(now <= unused - 4000, "%zu bytes free, before %zu", now, unused);
    CUDA_CHECK(cudaFree(x));
    CUDA_CHECK(cudaMemGetInfo(&now, &total));
    CHECK(now == unused, "%zu bytes free, before %zu", now, unused);
}

// ---- cuBLASLt ----

#define LT_CHECK(call)                                                                          \
    do {                                                                                        \
        cublasStatus_t lt_status = (call);                                                      \
        if (lt_status != CUBLAS_STATUS_SUCCESS) { die("%s gave status %d", #call, lt_status); } \
    } while (0)

// d (m,n) = op(a) op(b) + beta d + bias (m), column-major, lda and so on 3 larger than need be.
template <class number> static void product(int ta, int tb, int m, int n, int k, float beta, int with_bias) {
    int ra = ta ? k : m, ca = ta ? m : k, rb = tb ? n : k, cb = tb ? k : n;
    int lda = ra + 3, ldb = rb + 3, ldd = m + 3;
    size_t na = (size_t)lda * ca, nb = (size_t)ldb * cb, nd = (size_t)ldd * n;
    number* host[4];
    size_t count[4] = {na, nb, nd, (size_t)m};
    number* on_device[4];
    for (int i = 0; i < 4; i++) {
        host[i] = (number*)xalloc(count[i], sizeof(number), "a test");
        for (size_t e = 0; e < count[i]; e++) { store(host[i] + e, noise()); }
        on_device[i] = to_device(host[i], count[i]);
    }
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulPreference_t wish;
    cudaDataType_t type = sizeof(number) == 2 ? CUDA_R_16BF : CUDA_R_32F;
    LT_CHECK(cublasLtCreate(&handle));
    LT_CHECK(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    cublasOperation_t op_a = ta ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    LT_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a));
    LT_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof op_b));
    if (with_bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        const void* bias = on_device[3];
        LT_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
        LT_CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    }
    LT_CHECK(cublasLtMatrixLayoutCreate(&a, type, (uint64_t)ra, (uint64_t)ca, lda));
    LT_CHECK(cublasLtMatrixLayoutCreate(&b, type, (uint64_t)rb, (uint64_t)cb, ldb));
    LT_CHECK(cublasLtMatrixLayoutCreate(&d, type, (uint64_t)m, (uint64_t)n, ldd));
    LT_CHECK(cublasLtMatmulPreferenceCreate(&wish));
    uint32_t align = sizeof(number);
    LT_CHECK(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align, 4));
    LT_CHECK(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align, 4));
    cublasLtMatmulHeuristicResult_t found[8];
    int algorithms = 0;
    LT_CHECK(cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, d, d, wish, 8, found, &algorithms));
    CHECK(algorithms > 2, "no algorithm, or none that failed");
    number* before = host[2];
    for (int which = 0; which < algorithms; which++) {
        cublasLtMatmulHeuristicResult_t checked;
        const cublasStatus_t check = cublasLtMatmulAlgoCheck(handle, desc, a, b, d, d, &found[which].algo, &checked);
        CHECK(check == found[which].state, "proposal %d: state %d, checked %d", which, found[which].state, check);
        if (found[which].state != CUBLAS_STATUS_SUCCESS) {
            float one = 1;
            CHECK(cublasLtMatmul(handle, desc, &one, on_device[0], a, on_device[1], b, &beta, on_device[2], d,
                                 on_device[2], d, &found[which].algo, NULL, 0, NULL) == found[which].state,
                  "a failed proposal is executed");
            continue;
        }
        CUDA_CHECK(cudaMemcpy(on_device[2], before, nd * sizeof(number), cudaMemcpyHostToDevice));
        float one = 1;
        LT_CHECK(cublasLtMatmul(handle, desc, &one, on_device[0], a, on_device[1], b, &beta, on_device[2], d,
                                on_device[2], d, &found[which].algo, NULL, 0, NULL));
        number* got = from_device(on_device[2], nd);
        double worst = 0;
        for (int j = 0; j < n; j++) {
            for (int i = 0; i < ldd; i++) {
                size_t at = (size_t)j * ldd + i;
                double want = host_float(before[at]), limit = 0;
                if (i < m) {
                    want = beta * want + (with_bias ? host_float(host[3][i]) : 0.0f);
                    double size = fabs(want);
                    for (int l = 0; l < k; l++) {
                        double x = host_float(host[0][ta ? (size_t)i * lda + l : (size_t)l * lda + i]);
                        double y = host_float(host[1][tb ? (size_t)l * ldb + j : (size_t)j * ldb + l]);
                        want += x * y;
                        size += fabs(x * y);
                    }
                    // Sums in fp32, and one rounding to the type of d.
                    limit = size * k * 6e-8 + (sizeof(number) == 2 ? fabs(want) / 256 + 1e-9 : size * 1.2e-7);
                }
                double difference = fabs(host_float(got[at]) - want);
                CHECK(difference <= limit, "%dx%dx%d, %d%d, algorithm %d, (%d,%d): got %g, want %g", m, n, k, ta, tb,
                      which, i, j, host_float(got[at]), want);
                if (limit > 0 && difference / limit > worst) { worst = difference / limit; }
            }
        }
        free(got);
    }
    for (int i = 0; i < 4; i++) {
        cudaFree(on_device[i]);
        free(host[i]);
    }
    LT_CHECK(cublasLtMatmulPreferenceDestroy(wish));
    LT_CHECK(cublasLtMatrixLayoutDestroy(a));
    LT_CHECK(cublasLtMatrixLayoutDestroy(b));
    LT_CHECK(cublasLtMatrixLayoutDestroy(d));
    LT_CHECK(cublasLtMatmulDescDestroy(desc));
    LT_CHECK(cublasLtDestroy(handle));
}
static void test_products(void) {
    for (int ta = 0; ta < 2; ta++) {
        for (int tb = 0; tb < 2; tb++) {
            product<float>(ta, tb, 7, 5, 11, 0, 0);
            product<float>(ta, tb, 33, 17, 65, 1, 1);
            product<__nv_bfloat16>(ta, tb, 33, 17, 65, 0, 1);
            product<__nv_bfloat16>(ta, tb, 1, 1, 1, 1, 0);
        }
    }
}

// bf16: to the nearest, ties to even, against the definition by search.
static __global__ void round_kernel(uint16_t* out, const float* x, int n) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) {
        __nv_bfloat16 y = __float2bfloat16_rn(x[i]);
        memcpy(out + i, &y, 2);
    }
}
static void test_bf16(void) {
    static const float x[] = {0.0f,   -0.0f,   1.0f,     1.00390625f, 1.01171875f, 1.0039064f, 1.0039062f, -3.14159265f,
                              1e-40f, 3.4e38f, INFINITY, -INFINITY,   65280.0f,    1e-38f,     0.1f,       -0.1f};
    static const uint16_t want[] = {0x0000, 0x8000, 0x3f80, 0x3f80, 0x3f82, 0x3f81, 0x3f80, 0xc049,
                                    0x0001, 0x7f80, 0x7f80, 0xff80, 0x477f, 0x006d, 0x3dcd, 0xbdcd};
    enum { N = sizeof x / sizeof x[0] };
    uint16_t* out = device_new<uint16_t>(N + 1);
    float with_nan[N + 1];
    memcpy(with_nan, x, sizeof x);
    with_nan[N] = NAN;
    launch(round_kernel, 1, 32, 0, NULL, out, to_device(with_nan, N + 1), (int)N + 1);
    uint16_t* got = from_device(out, N + 1);
    for (int i = 0; i < N; i++) { CHECK(got[i] == want[i], "%.9g became %04x, not %04x", x[i], got[i], want[i]); }
    CHECK((got[N] & 0x7f80) == 0x7f80 && (got[N] & 0x7f), "NaN became %04x", got[N]);
    free(got);
}

// ------------------------------------------------------------------------------------------------
// The race detector against its definition: random accesses and meetings, every pair of accesses compared

extern "C" {
__attribute__((weak)) void __tsan_read_range(void* p, size_t n);
__attribute__((weak)) void __tsan_write_range(void* p, size_t n);
__attribute__((weak)) void __tsan_read2(void* p);
__attribute__((weak)) void __tsan_write4(void* p);
__attribute__((weak)) void __tsan_write16(void* p);
__attribute__((weak)) uint32_t __tsan_atomic32_fetch_add(uint32_t* p, uint32_t x, int order);
}
enum { TRACE_STEPS = 100, TRACE_BYTES = 48 };  // the bytes lie across the end of a page
typedef struct {
    EmulateWho who;
    int kind;  // 0 read, 1 write, 2 atomic, 3 memory handed out anew
    size_t at, n;
} TraceStep;

// A trace of accesses in which meetings of 2 blocks of 2 warps of 32 and new launches are interspersed.
static int trace_make(TraceStep step[TRACE_STEPS], uint32_t seed) {
    uint32_t bits = seed * 2654435761u + 12345;
    auto below = [&](uint32_t n) {
        bits = bits * 1664525u + 1013904223u;
        return (bits >> 8) % n;
    };
    uint32_t launch = 1, barrier[2] = {0, 0}, meetings[2][2] = {{0, 0}, {0, 0}}, blocks = 1 + below(2);
    uint32_t often = 1 + below(6), writes = 1 + below(20);
    uint32_t period = below(2) ? 3 + below(6) : 0, span = below(2) ? 16 : TRACE_BYTES,
             first = (TRACE_BYTES - span) / 16 * below(2) * 16;
    int steps = 0;
    while (steps < TRACE_STEPS) {
        uint32_t b = below(blocks), t = below(2) * 32 + below(3), what = below(often + 4);
        if (what == 0) { barrier[b]++; }
        if (what == 1 || what == 2) { meetings[b][t / 32]++; }
        if (what == 3 && below(6) == 0) {
            launch++;
            memset(barrier, 0, sizeof barrier);
            memset(meetings, 0, sizeof meetings);
        }
        if (what < 4) { continue; }
        TraceStep* s = &step[steps++];
        memset(s, 0, sizeof *s);
        s->who.launch = launch, s->who.block = b, s->who.thread = t;
        s->who.barrier = barrier[b], s->who.warp_barrier = meetings[b][t / 32];
        s->who.kernel = "trace", s->who.bdx = 64, s->who.bdy = 1;
        s->kind = below(writes) == 0 ? (below(3) == 0 ? 2 : 1) : below(40) == 0 ? 3 : 0;
        uint32_t size = s->kind == 2 ? 2 : below(6);
        s->n = size < 5 ? (size_t)1 << size : 1 + below(span);
        s->at = first + (size < 5 ? below(span / (uint32_t)s->n) * s->n : below(span - (uint32_t)s->n + 1));
        if (period) {  // many readers, then one writer, all of one place
            s->kind = steps % (int)period == 0, s->n = 4, s->at = first;
        }
        if (s->kind == 3) { s->at = s->at / 16 * 16, s->n = 16; }
    }
    return steps;
}
// The first step from `from` on that races with an earlier one, by the definition; -1 if none does.
static int trace_race(const TraceStep* step, int from, int steps) {
    for (int i = from; i < steps; i++) {
        const TraceStep* b = &step[i];
        if (b->kind == 3) { continue; }
        for (size_t byte = b->at; byte < b->at + b->n; byte++) {
            for (int k = i - 1; k >= 0; k--) {
                const TraceStep* a = &step[k];
                if (byte < a->at || byte >= a->at + a->n) { continue; }
                if (a->kind == 3) { break; }  // nothing before counts
                if (a->kind == b->kind && a->kind != 1) { continue; }
                const EmulateWho *x = &a->who, *y = &b->who;
                if (x->launch != y->launch) { break; }
                if (x->block == y->block) {
                    if (x->barrier != y->barrier || x->thread == y->thread) { continue; }
                    if (x->thread / 32 == y->thread / 32 && x->warp_barrier != y->warp_barrier) { continue; }
                }
                return i;
            }
        }
    }
    return -1;
}
typedef struct {
    TraceStep step[TRACE_STEPS];
    int steps;
    unsigned char* bytes;
} Trace;
// The same accesses by the calls that the compiler makes; prints the number of each.
static __attribute__((noinline)) EMULATE_UNSEEN void trace_replay(void* argument) {
    Trace* trace = (Trace*)argument;
    setenv("PATH", "/nonexistent", 1);  // no need to find the places in the source
    for (int i = 0; i < trace->steps; i++) {
        TraceStep* s = &trace->step[i];
        unsigned char* p = trace->bytes + s->at;
        char text[16];
        int length = snprintf(text, sizeof text, "#%d\n", i);
        if (write(1, text, (size_t)length) < 0) { return; }
        if (s->kind == 3) {
            emulate_race_forget(p, s->n);
            continue;
        }
        emulate_who = &s->who;
        if (s->kind == 2) {
            __tsan_atomic32_fetch_add((uint32_t*)p, 1, 0);
        } else if (s->kind == 1) {
            s->n == 4 && (uintptr_t)p % 4 == 0     ? __tsan_write4(p)
            : s->n == 16 && (uintptr_t)p % 16 == 0 ? __tsan_write16(p)
                                                   : __tsan_write_range(p, s->n);
        } else {
            s->n == 2 && (uintptr_t)p % 2 == 0 ? __tsan_read2(p) : __tsan_read_range(p, s->n);
        }
        emulate_who = NULL;
    }
}
static void test_traces(void) {
    if (build != RACE) { return test_skip("no race detector in this build"); }
    Trace* trace = (Trace*)xalloc(1, sizeof *trace, "a test");
    unsigned char* memory = NULL;
    if (posix_memalign((void**)&memory, 4096, 8192) != 0) { die("no memory"); }
    emulate_race_forget(memory, 8192);
    trace->bytes = memory + 4096 - 32;
    int races = 0;
    enum { TRACES = 2500 };
    for (uint32_t seed = 0; seed < TRACES; seed++) {
        // Most steps that would race are left out, so that the others come late, after much that is in order.
        int steps = trace_make(trace->step, seed), kept = 0, one_in = 4 << seed % 5;
        for (int i = 0; i < steps; i++) {
            trace->step[kept] = trace->step[i];
            if (trace_race(trace->step, kept, kept + 1) < 0 || i * 7 % one_in == 3) { kept++; }
        }
        trace->steps = kept;
        int want = trace_race(trace->step, 0, kept), got = -1;
        char* output;
        int code = run_child(trace_replay, trace, &output);
        if (code) {
            for (const char* p = output; (p = strchr(p, '#')); p++) { got = atoi(p + 1); }
        }
        CHECK(got == want && code == (want >= 0), "trace %u: race at step %d, should be at %d; exit code %d: %s", seed,
              got, want, code, output);
        races += want >= 0;
        free(output);
    }
    CHECK(races > TRACES / 4 && races < TRACES * 7 / 8, "%d of %d traces have a race", races, (int)TRACES);
    printf("     %d of %d traces have a race\n", races, (int)TRACES);
    free(memory);
    free(trace);
}

static int right(void) {
    RUN(test_exchange);
    RUN(test_trees);
    RUN(test_block_sum);
    RUN(test_syncwarp);
    RUN(test_count);
    RUN(test_mma);
    RUN(test_wgmma);
    RUN(test_banks);
    RUN(test_order);
    RUN(test_ldmatrix);
    RUN(test_pipeline);
    RUN(test_unwaited);
    RUN(test_nan_fill);
    RUN(test_streams);
    RUN(test_events);
    RUN(test_graph);
    RUN(test_memory);
    RUN(test_products);
    RUN(test_bf16);
    return test_end();
}

static void test_right_in_other_orders(void) {
    static const Child children[] = {
        {"right", "1", "early"}, {"right", "2", "late"}, {"right", "12345", "late"}, {"right", "0", "late"}};
    for (int i = 0; i < 4; i++) {
        char* output;
        int code = run_child(run_again, (void*)&children[i], &output);
        CHECK(code == 0, "seed %s, copies %s: exit code %d; it said:\n%s", children[i].seed, children[i].async, code,
              output);
        free(output);
    }
}

int main(int argc, char** argv) {
    if (argc == 3 && strcmp(argv[1], "--run") == 0) {
        if (strcmp(argv[2], "right") == 0) { return right(); }
        for (int i = 0; i < WRONGS; i++) {
            if (strcmp(argv[2], wrongs[i].name) != 0) { continue; }
            wrongs[i].run();
            CUDA_CHECK(cudaDeviceSynchronize());
            return 0;
        }
        die("no kernel is called %s", argv[2]);
    }
    test_begin(argc, argv);
    RUN(test_wrong);
    RUN(test_right_in_other_orders);
    RUN(test_traces);
    return right();
}

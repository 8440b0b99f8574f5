// test_nccl_api.cpp - the calls, types and numbers of dev/emulate/nccl.h, as this project takes NCCL's to be. Compiled with
// the stand-in's header, and with NCCL's own where that is: neither can drift from the other. Linked with
// NCCL or the stand-in it also says that both have all the calls. It runs nothing but ncclGetVersion; with --gpu also one
// rank on the first GPU, which adds up and gathers its own numbers.
#include <nccl.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAME(name, ...) static ncclResult_t (*const use_##name)(__VA_ARGS__) = name
SAME(ncclGetVersion, int*);
SAME(ncclGetUniqueId, ncclUniqueId*);
SAME(ncclCommInitRank, ncclComm_t*, int, ncclUniqueId, int);
SAME(ncclCommInitRankConfig, ncclComm_t*, int, ncclUniqueId, int, ncclConfig_t*);
SAME(ncclCommFinalize, ncclComm_t);
SAME(ncclCommDestroy, ncclComm_t);
SAME(ncclCommAbort, ncclComm_t);
SAME(ncclCommGetAsyncError, ncclComm_t, ncclResult_t*);
SAME(ncclCommCount, const ncclComm_t, int*);
SAME(ncclCommCuDevice, const ncclComm_t, int*);
SAME(ncclCommUserRank, const ncclComm_t, int*);
SAME(ncclAllReduce, const void*, void*, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t);
SAME(ncclReduce, const void*, void*, size_t, ncclDataType_t, ncclRedOp_t, int, ncclComm_t, cudaStream_t);
SAME(ncclReduceScatter, const void*, void*, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t);
SAME(ncclAllGather, const void*, void*, size_t, ncclDataType_t, ncclComm_t, cudaStream_t);
SAME(ncclBroadcast, const void*, void*, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
SAME(ncclSend, const void*, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
SAME(ncclRecv, void*, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
SAME(ncclGroupStart, void);
SAME(ncclGroupEnd, void);
static const char* (*const use_ncclGetErrorString)(ncclResult_t) = ncclGetErrorString;
static const char* (*const use_ncclGetLastError)(ncclComm_t) = ncclGetLastError;

#define IS(name, number) static_assert((int)(name) == (number), #name " is not " #number)
IS(ncclSuccess, 0);
IS(ncclUnhandledCudaError, 1);
IS(ncclSystemError, 2);
IS(ncclInternalError, 3);
IS(ncclInvalidArgument, 4);
IS(ncclInvalidUsage, 5);
IS(ncclRemoteError, 6);
IS(ncclInProgress, 7);
IS(ncclSum, 0);
IS(ncclProd, 1);
IS(ncclMax, 2);
IS(ncclMin, 3);
IS(ncclAvg, 4);
IS(ncclInt8, 0);
IS(ncclUint8, 1);
IS(ncclInt32, 2);
IS(ncclUint32, 3);
IS(ncclInt64, 4);
IS(ncclUint64, 5);
IS(ncclFloat16, 6);
IS(ncclFloat32, 7);
IS(ncclFloat64, 8);
IS(ncclBfloat16, 9);
IS(NCCL_UNIQUE_ID_BYTES, 128);
IS(sizeof(ncclUniqueId), 128);
IS(sizeof(ncclRedOp_t), 4);
IS(sizeof(ncclDataType_t), 4);
IS(offsetof(ncclConfig_t, size), 0);
IS(offsetof(ncclConfig_t, magic), 8);
IS(offsetof(ncclConfig_t, version), 12);
IS(offsetof(ncclConfig_t, blocking), 16);
IS(offsetof(ncclConfig_t, cgaClusterSize), 20);
IS(offsetof(ncclConfig_t, minCTAs), 24);
IS(offsetof(ncclConfig_t, maxCTAs), 28);
IS(offsetof(ncclConfig_t, netName), 32);
IS(offsetof(ncclConfig_t, splitShare), 40);
static_assert(NCCL_VERSION_CODE >= 21800, "NCCL before 2.18");

#define CHECK(call)                                          \
    do {                                                     \
        int result_ = (int)(call);                           \
        if (result_ != 0) {                                  \
            fprintf(stderr, "%s gave %d\n", #call, result_); \
            return 1;                                        \
        }                                                    \
    } while (0)

// What a trainer does with a communicator, by one rank: 0 if its numbers come back.
static int alone(void) {
    enum { N = 100003 };
    static float mine[N], added[N], gathered[N];
    for (int i = 0; i < N; i++) { mine[i] = (float)(i % 1000) - 0.5f; }
    setenv("NCCL_ALGO", "^NVLS,NVLSTree", 0);  // as the trainers do
    ncclUniqueId id;
    ncclComm_t comm;
    cudaStream_t stream;
    float *in, *out;
    CHECK(cudaSetDevice(0));
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(cudaMalloc((void**)&in, sizeof mine));
    CHECK(cudaMalloc((void**)&out, sizeof mine));
    CHECK(ncclGetUniqueId(&id));
    CHECK(ncclCommInitRank(&comm, 1, id, 0));
    CHECK(cudaMemcpyAsync(in, mine, sizeof mine, cudaMemcpyHostToDevice, stream));
    CHECK(ncclAllGather(in, out, N, ncclFloat, comm, stream));
    CHECK(ncclAllReduce(in, in, N, ncclFloat, ncclSum, comm, stream));
    CHECK(cudaMemcpyAsync(added, in, sizeof mine, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaMemcpyAsync(gathered, out, sizeof mine, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    CHECK(ncclCommDestroy(comm));
    CHECK(memcmp(mine, added, sizeof mine) != 0);
    CHECK(memcmp(mine, gathered, sizeof mine) != 0);
    printf("one rank: added and gathered\n");
    return 0;
}

int main(int argc, char** argv) {
    const void* calls[] = {(const void*)use_ncclGetVersion,     (const void*)use_ncclGetUniqueId,
                           (const void*)use_ncclCommInitRank,   (const void*)use_ncclCommInitRankConfig,
                           (const void*)use_ncclCommFinalize,   (const void*)use_ncclCommDestroy,
                           (const void*)use_ncclCommAbort,      (const void*)use_ncclCommGetAsyncError,
                           (const void*)use_ncclCommCount,      (const void*)use_ncclCommCuDevice,
                           (const void*)use_ncclCommUserRank,   (const void*)use_ncclAllReduce,
                           (const void*)use_ncclReduce,         (const void*)use_ncclReduceScatter,
                           (const void*)use_ncclAllGather,      (const void*)use_ncclBroadcast,
                           (const void*)use_ncclSend,           (const void*)use_ncclRecv,
                           (const void*)use_ncclGroupStart,     (const void*)use_ncclGroupEnd,
                           (const void*)use_ncclGetErrorString, (const void*)use_ncclGetLastError};
    int there = 0, version = 0;
    for (const void* call : calls) { there += call != NULL; }
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    if (config.magic != 0xcafebeef || config.blocking != NCCL_CONFIG_UNDEF_INT || config.size != sizeof config) {
        fprintf(stderr, "NCCL_CONFIG_INITIALIZER is another one\n");
        return 1;
    }
    ncclResult_t result = ncclGetVersion(&version);
    printf("%d calls of NCCL; header %d, library %d: %s\n", there, NCCL_VERSION_CODE, version,
           ncclGetErrorString(result));
    if (result == ncclSuccess && argc > 1 && strcmp(argv[1], "--gpu") == 0) { return alone(); }
    return result != ncclSuccess;
}

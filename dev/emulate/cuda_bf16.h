// cuda_bf16.h - stands in for the CUDA Toolkit's header of that name in programs under the emulator.
#ifndef PONDER_EMULATE_BF16_H
#define PONDER_EMULATE_BF16_H

#include "emulate.h"

// Bits only: what nvcc would convert silently must be written as a conversion.
struct __nv_bfloat16 {
    uint16_t bits;
};
struct __align__(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline float __bfloat162float(__nv_bfloat16 a) { return __uint_as_float((unsigned)a.bits << 16); }
// To the nearest, ties to even; a NaN becomes the NaN that the hardware makes.
static inline __nv_bfloat16 __float2bfloat16_rn(float a) {
    unsigned bits = __float_as_uint(a);
    __nv_bfloat16 b;
    b.bits = a != a ? (uint16_t)0x7fff : (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
    return b;
}
static inline __nv_bfloat16 __float2bfloat16(float a) { return __float2bfloat16_rn(a); }
static inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) {
    __nv_bfloat162 both = {__float2bfloat16_rn(low), __float2bfloat16_rn(high)};
    return both;
}
static inline float2 __bfloat1622float2(__nv_bfloat162 a) {
    return make_float2(__bfloat162float(a.x), __bfloat162float(a.y));
}

#endif

// vec.h - native float vectors, and a fused multiply-add that gives the same bits on every machine.
//
// The same source is compiled for several instruction sets; what is written with vf and VL, or as
// a plain loop over fma_f(), computes the same numbers on all of them, because every lane is one
// IEEE operation and the only fused operation is the one that is written as such (the compiler is
// told -ffp-contract=off).
#ifndef PONDER_VEC_H
#define PONDER_VEC_H

#include "base.h"

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// VL: floats in a native register.
#if defined(__AVX512F__)
#define VL 16
#elif defined(__AVX2__) && defined(__FMA__)
#define VL 8
#else
#define VL 4
#endif

// + - * / and comparisons work on these as on numbers (a comparison gives -1 or 0 in each lane).
typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));
typedef float vf_anywhere __attribute__((vector_size(4 * VL), aligned(4), may_alias));

static inline vf vf_load(const float* p) { return *(const vf_anywhere*)p; }  // any alignment
static inline void vf_store(float* p, vf v) { *(vf_anywhere*)p = v; }        // any alignment

// The first n of VL numbers, where there are no more; the other lanes are 0.
#if VL == 16
static inline vf vf_load_part(const float* p, size_t n) {
    return (vf)_mm512_maskz_loadu_ps((__mmask16)(n < VL ? (1u << n) - 1 : 0xffffu), p);
}
#elif VL == 8
static inline vf vf_load_part(const float* p, size_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (vf)_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n < VL ? (int)n : VL), lane));
}
#else
static inline vf vf_load_part(const float* p, size_t n) {
    vf v = {0};
    for (size_t i = 0; i < VL && i < n; i++) { v[i] = p[i]; }
    return v;
}
#endif

static inline float float_of_bf16(Bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

// To the nearest, ties to even; a NaN stays one.
static inline Bf16 bf16_of_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) { return (Bf16)(bits >> 16 | 0x40); }
    return (Bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float round_bf16(float x) { return float_of_bf16(bf16_of_float(x)); }

#if VL >= 8
static inline __m256 eight_of_bf16(const Bf16* p) {
    __m256i x = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(const void*)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
}
#endif
// VL numbers in bf16, any alignment.
#if VL == 16
static inline vf vf_load_bf16(const Bf16* p) {
    __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(const void*)p));
    return (vf)_mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}
#elif VL == 8
static inline vf vf_load_bf16(const Bf16* p) { return (vf)eight_of_bf16(p); }
#else
static inline vf vf_load_bf16(const Bf16* p) {
    vf v = {float_of_bf16(p[0]), float_of_bf16(p[1]), float_of_bf16(p[2]), float_of_bf16(p[3])};
    return v;
}
#endif

// bf16_of_float() and back, in every lane; X is a vector of floats, U of as many uint32_t.
#define ROUND_BF16(X, U, x)                                                 \
    ((X)(((((U)(x) + 0x7fffu + (((U)(x) >> 16) & 1u)) & ~(U)((x) != (x))) | \
          (((U)(x) | 0x400000u) & (U)((x) != (x)))) &                       \
         0xffff0000u))
static inline vf vf_round_bf16(vf v) { return ROUND_BF16(vf, vu, v); }
#if VL >= 8
static inline __m256 eight_rounded(__m256 v) {
    typedef float v8f __attribute__((vector_size(32)));
    typedef uint32_t v8u __attribute__((vector_size(32)));
    v8f x = (v8f)v;
    return (__m256)ROUND_BF16(v8f, v8u, x);
}
#endif

// VL numbers stored so.
static inline void vf_store_bf16(Bf16* p, vf v) {
    vu half = (vu)vf_round_bf16(v) >> 16;
#if VL == 16
    _mm256_storeu_si256((__m256i*)(void*)p, _mm512_cvtepi32_epi16((__m512i)half));
#elif VL == 8
    __m256i two =
        _mm256_packus_epi32((__m256i)half, (__m256i)half);  // each lane of 128 bits has its four numbers twice
    _mm_storeu_si128((__m128i*)(void*)p, _mm256_castsi256_si128(_mm256_permute4x64_epi64(two, 0x08)));
#else
    for (int i = 0; i < VL; i++) { p[i] = (Bf16)half[i]; }
#endif
}

// From here on this thread's operations take denormal numbers for zeros and make zeros of them, as instructions on bf16
// do; returns what denormals_restore() puts back. On processors other than x86 denormal numbers stay.
static inline unsigned denormals_off(void) {
#ifdef __SSE2__
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);
    return before;
#else
    return 0;
#endif
}
static inline void denormals_restore(unsigned before) {
#ifdef __SSE2__
    _mm_setcsr(before);
#else
    (void)before;
#endif
}

static inline vf vf_zero(void) {
    vf v = {0};
    return v;
}

#if VL == 16
static inline vf vf_set1(float x) { return (vf)_mm512_set1_ps(x); }
#elif VL == 8
static inline vf vf_set1(float x) { return (vf)_mm256_set1_ps(x); }
#else
static inline vf vf_set1(float x) {
    vf v = {x, x, x, x};
    return v;
}
#endif

// a > b ? a : b and a < b ? a : b in each lane: where either is NaN, the result is b.
#if VL == 16
static inline vf vf_max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
static inline vf vf_min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
#elif VL == 8
static inline vf vf_max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
static inline vf vf_min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
#elif defined(__SSE2__)
static inline vf vf_max(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
static inline vf vf_min(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
#else
static inline vf vf_max(vf a, vf b) {
    vi m = (vi)(a > b);
    return (vf)(((vi)a & m) | ((vi)b & ~m));
}
static inline vf vf_min(vf a, vf b) {
    vi m = (vi)(a < b);
    return (vf)(((vi)a & m) | ((vi)b & ~m));
}
#endif

// ---------------------------------------------------------------------------------------------
// Fused multiply-add: a * b + c, rounded once.
//
// Without the instruction: the product of two floats is exact in double, so only the sum has to be
// rounded with care. Rounding it to double and then to float would round twice. So the sum is
// rounded to odd (cut towards zero, and where anything was cut off the last bit is set), after
// which rounding to the 24 bits of a float is right, subnormals included, since a double has more
// than two bits to spare (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums",
// 2008). What was cut off is the error of the double sum, which Knuth's TwoSum gives exactly.
// An infinity or NaN makes that error NaN, the comparison false, and the sum stays as it is.

static inline float fma_f_emulated(float a, float b, float c) {
    double p = (double)a * (double)b, z = (double)c;
    double s = p + z;
    double t = s - p;
    double e = (p - (s - t)) + (z - t);
    uint64_t sum, error;
    memcpy(&sum, &s, 8);
    memcpy(&error, &e, 8);
    uint64_t cut = fabs(e) > 0 ? (uint64_t)1 : (uint64_t)0;
    sum = (sum - (((sum ^ error) >> 63) & cut)) | cut;
    memcpy(&s, &sum, 8);
    return (float)s;
}

#if defined(__FMA__) || defined(__aarch64__)
static inline float fma_f(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
static inline float fma_f(float a, float b, float c) { return fma_f_emulated(a, b, c); }
#endif

#if VL == 16
static inline vf vf_fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif VL == 8
static inline vf vf_fma(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#elif defined(__aarch64__)
static inline vf vf_fma(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#elif defined(__SSE2__)
// fma_f_emulated, two lanes at a time.
static inline __m128 fma_two_lanes(__m128 a, __m128 b, __m128 c) {
    typedef double v2d __attribute__((vector_size(16)));
    typedef uint64_t v2u __attribute__((vector_size(16)));
    v2d p = (v2d)_mm_cvtps_pd(a) * (v2d)_mm_cvtps_pd(b), z = (v2d)_mm_cvtps_pd(c);
    v2d s = p + z;
    v2d t = s - p;
    v2d e = (p - (s - t)) + (z - t);
    v2d size = (v2d)((v2u)e & (~(uint64_t)0 >> 1)), zero = {0, 0};
    v2u cut = (v2u)(size > zero) >> 63;
    v2u sum = (v2u)s;
    sum = (sum - (((sum ^ (v2u)e) >> 63) & cut)) | cut;
    return _mm_cvtpd_ps((__m128d)sum);
}
static inline vf vf_fma(vf a, vf b, vf c) {
    __m128 x = (__m128)a, y = (__m128)b, z = (__m128)c;
    __m128 low = fma_two_lanes(x, y, z);
    __m128 high = fma_two_lanes(_mm_movehl_ps(x, x), _mm_movehl_ps(y, y), _mm_movehl_ps(z, z));
    return (vf)_mm_movelh_ps(low, high);
}
#else
static inline vf vf_fma(vf a, vf b, vf c) {
    vf r;
    for (int i = 0; i < VL; i++) { r[i] = fma_f(a[i], b[i], c[i]); }
    return r;
}
#endif

// The same in the number type of the build.
static inline real real_fma(real a, real b, real c) {
    return sizeof(real) == sizeof(float) ? (real)fma_f((float)a, (float)b, (float)c)
                                         : (real)fma((double)a, (double)b, (double)c);
}

// What is stored between layers, read and written: a number, and VL of them at any alignment (not in a double build). Where
// it is real this is a plain load, a plain store.
__attribute__((always_inline)) static inline real real_of_kept(kept x) {
    return KEPT_ROUNDS ? (real)float_of_bf16((Bf16)x) : (real)x;
}
__attribute__((always_inline)) static inline kept kept_of_real(real x) {
    return KEPT_ROUNDS ? (kept)bf16_of_float((float)x) : (kept)x;
}
__attribute__((always_inline)) static inline vf vf_load_kept(const kept* p) {
    return KEPT_ROUNDS ? vf_load_bf16((const Bf16*)p) : vf_load((const float*)p);
}
__attribute__((always_inline)) static inline void vf_store_kept(kept* p, vf v) {
    if (KEPT_ROUNDS) {
        vf_store_bf16((Bf16*)p, v);
    } else {
        vf_store((float*)p, v);
    }
}

#endif

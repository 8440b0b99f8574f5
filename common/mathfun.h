// mathfun.h - exp, log, erf, tanh, sin, cos, pow: the same bits on every machine, and vectorised.
//
// libm's functions differ from system to system, so nothing that affects a result calls them.
// The float functions have no branch, no table and no call, so that a plain loop
//     for (size_t i = 0; i < n; i++) { y[i] = exp_f(x[i]); }
// becomes vector code; the fused operations are written as fma_f(), which every machine rounds
// alike. The double functions serve scalars (schedules, rotary angles, random numbers) and use
// only + - * /, whose results IEEE 754 fixes.
//
// Polynomials: minimax fits (Remez exchange in 200-bit arithmetic, coefficients rounded to float
// one after the other, the rest fitted again), or Taylor series where the coefficient says so.
// "Error" is the largest one measured, in units of the last place of the exact result: of the float
// functions over every float of the range where the result is not trivial, against libm's double
// functions; of the double functions over 10^5 random arguments of each kind (small, large, near
// multiples of pi, ...), against quadruple precision. NaN in gives NaN out.
#ifndef PONDER_MATHFUN_H
#define PONDER_MATHFUN_H

#include "base.h"
#include "vec.h"

// A loop over a function is vectorised only if the call is inlined, and in a large program the
// compiler may decide against it: then GELU alone was a quarter of a training step.
#define ALWAYS_INLINE __attribute__((always_inline))

static inline uint32_t float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline uint64_t double_bits(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline double bits_double(uint64_t u) {
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

// condition ? a : b, for condition 0 or 1. Both are computed: a ?: over results of floating-point
// operations may become a branch, since those could trap, and then gcc does not vectorise the loop.
static inline float select_f(int condition, float a, float b) {
    uint32_t mask = 0u - (uint32_t)condition;
    return bits_float((float_bits(a) & mask) | (float_bits(b) & ~mask));
}

static inline double select_d(int condition, double a, double b) {
    uint64_t mask = (uint64_t)0 - (uint64_t)condition;
    return bits_double((double_bits(a) & mask) | (double_bits(b) & ~mask));
}

// Adding and subtracting 1.5 * 2^23 (2^52) rounds to the nearest integer, ties to even; the sum's
// lowest bits are that integer. Good below 2^22 (2^51).
#define ROUND_MAGIC_F 12582912.0f
#define ROUND_MAGIC_D 6755399441055744.0

// 2^n as the bits of an exponent, n in the unsigned two's complement; -126 <= n <= 127.
static inline float exp2_int_f(uint32_t n) { return bits_float((n + 127u) << 23); }
static inline double exp2_int_d(uint32_t n) { return bits_double((uint64_t)(n + 1023u) << 52); }

// ---------------------------------------------------------------------------------------------
// Floats.

// e^x. Error 1.013 ulp. Overflows to inf above 88.7228, denormal results are fine, exp(-inf) = 0.
// x = n ln 2 + r with |r| <= ln 2 / 2; e^x = 2^n e^r; 2^n in two factors, because n reaches from
// -150 (the smallest denormal, half of it rounded) to 128.
ALWAYS_INLINE static inline float exp_f(float x) {
    x = select_f(x > 89.0f, 89.0f, x);
    x = select_f(x < -104.0f, -104.0f, x);
    float t = fma_f(x, 0x1.715476p+0f, ROUND_MAGIC_F);
    float n = t - ROUND_MAGIC_F;
    float r = fma_f(n, -0x1.62e4p-1f, x);  // exact: 16 bits of ln 2 times 8 bits of n
    r = fma_f(n, -0x1.7f7d1cp-20f, r);     // the rest of ln 2
    float q = 0x1.6ac74ap-10f;
    q = fma_f(q, r, 0x1.123dep-7f);
    q = fma_f(q, r, 0x1.555858p-5f);
    q = fma_f(q, r, 0x1.55548cp-3f);
    q = fma_f(q, r, 0x1.fffffcp-2f);
    float y = fma_f(q, r * r, r) + 1.0f;
    uint32_t k = float_bits(t) - float_bits(ROUND_MAGIC_F);
    uint32_t half = (uint32_t)((int32_t)k >> 1);
    return y * exp2_int_f(half) * exp2_int_f(k - half);
}

// Natural logarithm. Error 0.934 ulp. log(0) = -inf, log(x < 0) = NaN, log(inf) = inf; denormals are fine.
// x = 2^n (1 + f) with 2/3 <= 1 + f < 4/3, so that nothing cancels near 1.
ALWAYS_INLINE static inline float log_f(float x) {
    int tiny = x < 0x1p-126f;
    float a = select_f(tiny, x * 0x1p+24f, x);
    uint32_t e = (float_bits(a) - 0x3f2aaaabu) & 0xff800000u;  // 0x3f2aaaab: 2/3
    float f = bits_float(float_bits(a) - e) - 1.0f;
    float n = (float)((int32_t)e >> 23) - 24.0f * (float)tiny;
    float q = -0x1.ff45bp-4f;
    q = fma_f(q, f, 0x1.1ffe78p-3f);
    q = fma_f(q, f, -0x1.f6b87p-4f);
    q = fma_f(q, f, 0x1.1e825cp-3f);
    q = fma_f(q, f, -0x1.557e2ep-3f);
    q = fma_f(q, f, 0x1.99d58ap-3f);
    q = fma_f(q, f, -0x1.ffff94p-3f);
    q = fma_f(q, f, 0x1.5554fap-2f);
    q = fma_f(q, f, -0.5f);
    float y = fma_f(q, f * f, f);
    y = fma_f(n, 0x1.62e4p-1f, fma_f(n, 0x1.7f7d1cp-20f, y));
    y = select_f(x < INFINITY, y, x);  // inf and NaN
    y = select_f(x == 0.0f, -INFINITY, y);
    return select_f(x < 0.0f, NAN, y);
}

// The error function. Error 1.236 ulp. Below 0.93 an odd polynomial keeps the relative error small down
// to 0 (and erf(-0) = -0); above, erf = 1 - 2^p(|x|), where p fits log2(erfc) and is at most -2.4, so
// that its errors shrink.
ALWAYS_INLINE static inline float erf_f(float x) {
    float z = x * x;
    float s = 0x1.4fa924p-14f;
    s = fma_f(s, z, -0x1.a6181p-11f);
    s = fma_f(s, z, 0x1.544b08p-8f);
    s = fma_f(s, z, -0x1.b80124p-6f);
    s = fma_f(s, z, 0x1.ce2d64p-4f);
    s = fma_f(s, z, -0x1.81274p-2f);
    s = fma_f(s, z, 0x1.06eba8p-3f);
    float small = fma_f(s, x, x);

    float a = fabsf(x);
    a = select_f(a > 3.95f, 3.95f, a);  // erf is 1 in float from 3.92 on
    float p = 0x1.2bdb8ep-12f;
    p = fma_f(p, a, -0x1.21d598p-8f);
    p = fma_f(p, a, 0x1.07bb68p-5f);
    p = fma_f(p, a, -0x1.339e1cp-3f);
    p = fma_f(p, a, -0x1.d68244p-1f);
    p = fma_f(p, a, -0x1.a0877cp+0f);
    p = fma_f(p, a, -0x1.f7a59ep-13f);
    float t = p + ROUND_MAGIC_F;
    float f = p - (t - ROUND_MAGIC_F);
    float q = 0x1.48a5d4p-13f;
    q = fma_f(q, f, 0x1.5f89f6p-10f);
    q = fma_f(q, f, 0x1.3b21c8p-7f);
    q = fma_f(q, f, 0x1.c6ada6p-5f);
    q = fma_f(q, f, 0x1.ebfbe6p-3f);
    q = fma_f(q, f, 0x1.62e432p-1f);
    q = fma_f(q, f, 1.0f);
    float big = 1.0f - q * exp2_int_f(float_bits(t) - float_bits(ROUND_MAGIC_F));
    float y = select_f(a < 0.93f, small, big);
    return bits_float(float_bits(y) | (float_bits(x) & 0x80000000u));
}

// Hyperbolic tangent. Error 1.464 ulp. An odd polynomial below 0.55, above it 1 - 2 / (e^(2|x|) + 1).
ALWAYS_INLINE static inline float tanh_f(float x) {
    float z = x * x;
    float s = -0x1.9014c8p-8f;
    s = fma_f(s, z, 0x1.5750f6p-6f);
    s = fma_f(s, z, -0x1.b8ee72p-5f);
    s = fma_f(s, z, 0x1.110bd2p-3f);
    s = fma_f(s, z, -0x1.555546p-2f);
    float small = fma_f(s * z, x, x);

    float a = fabsf(x);
    float big = 1.0f - 2.0f / (exp_f(a + a) + 1.0f);
    float y = select_f(a < 0.55f, small, big);
    return bits_float(float_bits(y) | (float_bits(x) & 0x80000000u));
}

// ---------------------------------------------------------------------------------------------
// Doubles.

// e^x. Error 0.86 ulp. As exp_f, with the Taylor series up to r^13 / 13! (the next term is below 2^-57).
static inline double exp_d(double x) {
    x = x > 710.0 ? 710.0 : x;
    x = x < -746.0 ? -746.0 : x;
    double t = x * 0x1.71547652b82fep+0 + ROUND_MAGIC_D;
    double n = t - ROUND_MAGIC_D;
    double hi = x - n * 0x1.62e42feep-1;  // exact: 32 bits of ln 2 times 11 bits of n
    double lo = n * 0x1.a39ef35793c76p-33;
    double r = hi - lo;
    double rest = (hi - r) - lo;
    double q = 1.0 / 6227020800.0;
    q = q * r + 1.0 / 479001600.0;
    q = q * r + 1.0 / 39916800.0;
    q = q * r + 1.0 / 3628800.0;
    q = q * r + 1.0 / 362880.0;
    q = q * r + 1.0 / 40320.0;
    q = q * r + 1.0 / 5040.0;
    q = q * r + 1.0 / 720.0;
    q = q * r + 1.0 / 120.0;
    q = q * r + 1.0 / 24.0;
    q = q * r + 1.0 / 6.0;
    q = q * r + 0.5;
    double y = 1.0 + (r + (q * (r * r) + rest));
    uint32_t k = (uint32_t)double_bits(t);
    uint32_t half = (uint32_t)((int32_t)k >> 1);
    return y * exp2_int_d(half) * exp2_int_d(k - half);
}

// x = 2^n (1 + f), x > 0 and finite, 1/sqrt(2) <= 1 + f < sqrt(2).
static inline void log_split_d(double x, double* n, double* f) {
    int tiny = x < 0x1p-1022;
    double a = tiny ? x * 0x1p+54 : x;
    uint64_t e = (double_bits(a) - 0x3fe6a09e667f3bcdULL) & 0xfff0000000000000ULL;  // 1/sqrt(2)
    *f = bits_double(double_bits(a) - e) - 1.0;
    *n = (double)((int32_t)(uint32_t)(e >> 32) >> 20) - (tiny ? 54.0 : 0.0);
}

// Sum of z^k / (2k + 3) for k = first .. 11: what atanh's series leaves after its first terms.
static inline double atanh_tail_d(double z, int first) {
    double q = 0;
    for (int k = 11; k >= first; k--) { q = q * z + 1.0 / (2 * k + 3); }
    return q;
}

// Natural logarithm. Error 0.85 ulp. With s = f / (2 + f), log(1 + f) = 2 atanh(s) = 2 (s + s^3/3 + s^5/5 + ...).
// 2 s = f - s f turns the leading term into the exact f, with the rest small beside it.
static inline double log_d(double x) {
    double n, f;
    log_split_d(x, &n, &f);
    double s = f / (2.0 + f);
    double z = s * s;
    double half = 0.5 * f * f;
    double rest = s * (half + 2.0 * z * atanh_tail_d(z, 0));  // 2 s = f - half + s half
    double y = n * 0x1.62e42feep-1 - ((half - (rest + n * 0x1.a39ef35793c76p-33)) - f);
    y = x < (double)INFINITY ? y : x;
    y = x == 0.0 ? -(double)INFINITY : y;
    return x < 0.0 ? (double)NAN : y;
}

// sin and cos of x. Error 0.79 ulp. x = n pi/2 + r + tail. pi/2 comes in parts of 23, 23, 23 and 53 bits, so that
// the products with n (30 bits at most) are exact. Beyond 10^9 the answer is NaN, not noise.
static inline void sin_cos_d(double x, double* sine, double* cosine) {
    double t = x * 0x1.45f306dc9c883p-1 + ROUND_MAGIC_D;
    double n = t - ROUND_MAGIC_D;
    double a = (x - n * 0x1.921fb4p+0) - n * 0x1.4442dp-24;
    double b = n * 0x1.846988p-48;
    double hi = a - b;
    double back = a - hi;
    double lo = ((a - (hi + back)) + (back - b)) - n * 0x1.8cc51701b839ap-72;
    double r = hi + lo;
    double tail = (hi - r) + lo;
    double z = r * r;
    double p = 1.0 / 355687428096000.0;  // Taylor: r^17 / 17!
    p = p * z - 1.0 / 1307674368000.0;
    p = p * z + 1.0 / 6227020800.0;
    p = p * z - 1.0 / 39916800.0;
    p = p * z + 1.0 / 362880.0;
    p = p * z - 1.0 / 5040.0;
    p = p * z + 1.0 / 120.0;
    p = p * z - 1.0 / 6.0;
    double s = r + (p * (z * r) + tail * (1.0 - 0.5 * z));
    double q = -1.0 / 6402373705728000.0;  // Taylor: r^18 / 18!
    q = q * z + 1.0 / 20922789888000.0;
    q = q * z - 1.0 / 87178291200.0;
    q = q * z + 1.0 / 479001600.0;
    q = q * z - 1.0 / 3628800.0;
    q = q * z + 1.0 / 40320.0;
    q = q * z - 1.0 / 720.0;
    q = q * z + 1.0 / 24.0;
    double half = 0.5 * z;
    double w = 1.0 - half;
    double c = w + (((1.0 - w) - half) + (q * (z * z) - r * tail));
    uint64_t quadrant = double_bits(t);
    int odd = (int)(quadrant & 1);
    double u = select_d(odd, c, s);
    double v = select_d(odd, s, c);
    u = bits_double(double_bits(u) ^ (quadrant & 2) << 62);
    v = bits_double(double_bits(v) ^ ((quadrant + 1) & 2) << 62);
    int inside = fabs(x) <= 1e9;
    *sine = select_d(inside, u, (double)NAN);
    *cosine = select_d(inside, v, (double)NAN);
}

static inline double sin_d(double x) {
    double s, c;
    sin_cos_d(x, &s, &c);
    return s;
}

static inline double cos_d(double x) {
    double s, c;
    sin_cos_d(x, &s, &c);
    return c;
}

// Exact product as hi + lo: Dekker's splitting, as hardware fma is not everywhere.
static inline void two_product_d(double a, double b, double* hi, double* lo) {
    double ta = 134217729.0 * a, tb = 134217729.0 * b;  // 2^27 + 1
    double ah = ta - (ta - a), bh = tb - (tb - b);
    double al = a - ah, bl = b - bh;
    *hi = a * b;
    *lo = ((ah * bh - *hi) + ah * bl + al * bh) + al * bl;
}

// Exact sum as hi + lo (Knuth).
static inline void two_sum_d(double a, double b, double* hi, double* lo) {
    double s = a + b, t = s - a;
    *lo = (a - (s - t)) + (b - t);
    *hi = s;
}

// x^y for finite x > 0, NaN for any other x. Error 1.33 ulp. The logarithm is needed to about 65 bits,
// because y multiplies its error: s = f / (2 + f) and s^3 are carried as pairs hi + lo, the rest of the
// series as one number.
static inline double pow_d(double x, double y) {
    double n, f;
    log_split_d(x, &n, &f);
    double d = 2.0 + f;
    double d_lo = f - (d - 2.0);
    double s = f / d, p, p_lo;
    two_product_d(s, d, &p, &p_lo);
    double s_lo = (((f - p) - p_lo) - s * d_lo) / d;
    double z, z_lo, c, c_lo, t, t_lo;
    two_product_d(s, s, &z, &z_lo);
    z_lo += 2.0 * s * s_lo;
    two_product_d(s, z, &c, &c_lo);
    c_lo += s * z_lo + s_lo * z;
    two_product_d(c, 2.0 / 3.0, &t, &t_lo);                  // 2/3 s^3
    t_lo += c * 0x1.5555555555555p-55 + c_lo * (2.0 / 3.0);  // 2/3 itself lacks that much in double
    double rest = 2.0 * s * z * z * atanh_tail_d(z, 1);

    double a, a_lo, b, b_lo, log_hi, log_lo;
    two_sum_d(n * 0x1.62e42feep-1, 2.0 * s, &a, &a_lo);
    two_sum_d(a, t, &b, &b_lo);
    b_lo += a_lo + (t_lo + (2.0 * s_lo + (n * 0x1.a39ef35793c76p-33 + rest)));
    two_sum_d(b, b_lo, &log_hi, &log_lo);

    double h, l;
    two_product_d(y, log_hi, &h, &l);
    l += y * log_lo;
    if (!(x > 0 && x < (double)INFINITY)) { return (double)NAN; }
    double e = exp_d(h);
    double more = e * l;
    return more == more && fabs(h) < 800.0 ? e + more : e;
}

// ---------------------------------------------------------------------------------------------
// In the number type of the build: ours in float, libm's in the double build (whose results are
// compared with finite differences, not bit by bit).
ALWAYS_INLINE static inline real real_exp(real x) {
    return sizeof(real) == sizeof(float) ? (real)exp_f((float)x) : (real)exp((double)x);
}
ALWAYS_INLINE static inline real real_log(real x) {
    return sizeof(real) == sizeof(float) ? (real)log_f((float)x) : (real)log((double)x);
}
ALWAYS_INLINE static inline real real_erf(real x) {
    return sizeof(real) == sizeof(float) ? (real)erf_f((float)x) : (real)erf((double)x);
}
ALWAYS_INLINE static inline real real_tanh(real x) {
    return sizeof(real) == sizeof(float) ? (real)tanh_f((float)x) : (real)tanh((double)x);
}
ALWAYS_INLINE static inline real real_sqrt(real x) {
    return sizeof(real) == sizeof(float) ? (real)sqrtf((float)x) : (real)sqrt((double)x);
}

#endif

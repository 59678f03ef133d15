// AVX-512 with VNNI.
#pragma once
#include <immintrin.h>

#define TYNDA_UNSIGNED_CODES 1  // simd_codes.h

namespace tynda {
namespace TYNDA_ISA {

constexpr int kLanes = 16, kVectors = 2, kTile = 12;
constexpr int kZero = 128;  // vpdpbusd multiplies unsigned activations
constexpr int kValueZero = 0;

struct F { __m512 v; };
struct I { __m512i v; };
struct A { __m512i v; };  // four codes of one row, repeated in every lane
struct B { __m512i v; };  // four codes of a weight for each lane

static inline __mmask16 first(int n) { return __mmask16((1u << n) - 1); }

static inline F set1(float x) { return {_mm512_set1_ps(x)}; }
static inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline F load(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
static inline void store(float* p, F x) { _mm512_storeu_ps(p, x.v); }
static inline void store(float* p, F x, int n) { _mm512_mask_storeu_ps(p, first(n), x.v); }
static inline F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline F abs(F a) { return {_mm512_abs_ps(a.v)}; }
static inline F sqrt(F a) { return {_mm512_sqrt_ps(a.v)}; }
static inline F copysign(F size, F sign) {
  const __m512i bit = _mm512_set1_epi32(int(0x80000000));
  return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(
      bit, _mm512_castps_si512(sign.v), _mm512_castps_si512(size.v), 0xca))};
}
static inline float reduce_sum(F a) { return _mm512_reduce_add_ps(a.v); }
static inline float reduce_max(F a) { return _mm512_reduce_max_ps(a.v); }

static inline I zeros() { return {_mm512_setzero_si512()}; }
static inline I load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
static inline I round_to_int(F a) { return {_mm512_cvtps_epi32(a.v)}; }  // ties to even
static inline F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
// The exponent of a normal number above 0.
static inline I exponent(F a) {
  return {_mm512_sub_epi32(_mm512_srli_epi32(_mm512_castps_si512(a.v), 23), _mm512_set1_epi32(127))};
}
static inline F exp2_int(I n) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n.v, _mm512_set1_epi32(127)), 23))};
}
// x - floor(x), and y * 2^floor(x). A subnormal result takes 150 cycles.
static inline F fraction(F x) {
  return {_mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
static inline F times_exp2_floor(F y, F x) { return {_mm512_scalef_ps(y.v, x.v)}; }
static inline I operator+(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
static inline I times(I a, int32_t b) { return {_mm512_mullo_epi32(a.v, _mm512_set1_epi32(b))}; }
static inline void store_bytes(uint8_t* p, I q, int n) {
  if (n == kLanes) {
    _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(q.v));
  } else {
    _mm512_mask_cvtepi32_storeu_epi8(p, first(n), q.v);
  }
}
// Stores four vectors of numbers from 0 to 255 one after the other.
static inline void store_unsigned(uint8_t* p, const I (&q)[4]) {
  const __m512i fours = _mm512_packus_epi16(_mm512_packs_epi32(q[0].v, q[1].v),
                                            _mm512_packs_epi32(q[2].v, q[3].v));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, fours));
}
// Stores the codes of four vectors so that those of each lane are adjacent.
static inline void store_interleaved(uint8_t* p, const I (&q)[4]) {
  const __m512i order = _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
  const __m512i fours = _mm512_packs_epi16(_mm512_packs_epi32(q[0].v, q[1].v),
                                           _mm512_packs_epi32(q[2].v, q[3].v));
  _mm512_storeu_si512(p, _mm512_shuffle_epi8(fours, order));
}
static inline void store_codes(uint8_t* p, I q, int n) {
  store_bytes(p, q + I{_mm512_set1_epi32(kZero)}, n);
}
static inline A broadcast_four(const uint8_t* p) {
  int32_t codes;
  std::memcpy(&codes, p, 4);
  return {_mm512_set1_epi32(codes)};
}
static inline B load_codes(const uint8_t* w) { return {_mm512_loadu_si512(w)}; }
static inline void store(uint8_t* p, B b) { _mm512_storeu_si512(p, b.v); }
static inline B operator|(B a, B b) { return {_mm512_or_si512(a.v, b.v)}; }
// Shifts each byte right by Shift bits (left if negative), and masks it.
template <int Shift, int Mask>
static inline B extract_bits(B w) {
  if constexpr (Shift > 0) w.v = _mm512_srli_epi16(w.v, Shift);
  if constexpr (Shift < 0) w.v = _mm512_slli_epi16(w.v, -Shift);
  return {_mm512_and_si512(w.v, _mm512_set1_epi8(Mask))};
}
// Loads step and offset of each lane, extended to 16 bits.
static inline I load_steps(const int8_t* p) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p))};
}
// codes * step + offset. A code times its step fits into 8 bits, so that 16-bit products serve two.
static inline B apply_steps(B codes, I steps) {
  const __m512i step = _mm512_shuffle_epi8(
      steps.v, _mm512_set4_epi32(0x0d0c0d0c, 0x09080908, 0x05040504, 0x01000100));
  const __m512i offset = _mm512_shuffle_epi8(
      steps.v, _mm512_set4_epi32(0x0e0e0e0e, 0x0a0a0a0a, 0x06060606, 0x02020202));
  return {_mm512_add_epi8(_mm512_mullo_epi16(codes.v, step), offset)};
}
// The initial value of a sum of codes, and total + step * sum + offset * x / 65536 for a sum that
// fits into 16 bits.
static inline I start_sum(int32_t x) { return {_mm512_set1_epi32(x)}; }  // the sum is never negative
static inline I add_scaled(I total, I sum, int32_t, I steps) {
  return {_mm512_dpwssd_epi32(total.v, sum.v, steps.v)};
}
static inline I dot(I sum, A a, B w) {
#if defined(__GNUC__)  // otherwise GCC 12 copies each sum before it adds to it
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(w.v));
  return sum;
#else
  return {_mm512_dpbusd_epi32(sum.v, a.v, w.v)};
#endif
}

}  // namespace TYNDA_ISA
}  // namespace tynda

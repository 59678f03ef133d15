// Vectors of 256 bits, for AVX2 with and without VNNI.
#pragma once
#include <immintrin.h>

namespace tynda {
namespace TYNDA_ISA {

constexpr int kLanes = 8, kVectors = 2, kTile = 6;

struct F { __m256 v; };
struct I { __m256i v; };
struct B { __m256i v; };  // four codes of a weight for each lane

static inline __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline F set1(float x) { return {_mm256_set1_ps(x)}; }
static inline F load(const float* p) { return {_mm256_loadu_ps(p)}; }
static inline F load(const float* p, int n) { return {_mm256_maskload_ps(p, first(n))}; }
static inline void store(float* p, F x) { _mm256_storeu_ps(p, x.v); }
static inline void store(float* p, F x, int n) { _mm256_maskstore_ps(p, first(n), x.v); }
static inline F operator+(F a, F b) { return {_mm256_add_ps(a.v, b.v)}; }
static inline F operator-(F a, F b) { return {_mm256_sub_ps(a.v, b.v)}; }
static inline F operator*(F a, F b) { return {_mm256_mul_ps(a.v, b.v)}; }
static inline F operator/(F a, F b) { return {_mm256_div_ps(a.v, b.v)}; }
static inline F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
static inline F max(F a, F b) { return {_mm256_max_ps(a.v, b.v)}; }
static inline F min(F a, F b) { return {_mm256_min_ps(a.v, b.v)}; }
static inline F abs(F a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
static inline F sqrt(F a) { return {_mm256_sqrt_ps(a.v)}; }
static inline F copysign(F size, F sign) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_andnot_ps(bit, size.v), _mm256_and_ps(bit, sign.v))};
}
static inline float reduce_sum(F a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
static inline float reduce_max(F a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

static inline I zeros() { return {_mm256_setzero_si256()}; }
static inline I load(const int32_t* p) { return {_mm256_loadu_si256((const __m256i*)p)}; }
static inline I round_to_int(F a) { return {_mm256_cvtps_epi32(a.v)}; }  // ties to even
static inline F to_float(I a) { return {_mm256_cvtepi32_ps(a.v)}; }
// The exponent of a normal number above 0.
static inline I exponent(F a) {
  return {_mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(a.v), 23), _mm256_set1_epi32(127))};
}
static inline F exp2_int(I n) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.v, _mm256_set1_epi32(127)), 23))};
}
// x - floor(x), and y * 2^floor(x).
static inline F fraction(F x) { return {_mm256_sub_ps(x.v, _mm256_floor_ps(x.v))}; }
static inline F times_exp2_floor(F y, F x) { return y * exp2_int(round_to_int({_mm256_floor_ps(x.v)})); }
static inline I operator+(I a, I b) { return {_mm256_add_epi32(a.v, b.v)}; }
static inline I times(I a, int32_t b) { return {_mm256_mullo_epi32(a.v, _mm256_set1_epi32(b))}; }
// The codes of a vector, each in a byte.
static inline int64_t pack_codes(I q) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q.v), _mm256_extracti128_si256(q.v, 1));
  return _mm_cvtsi128_si64(_mm_packs_epi16(words, words));
}
static inline void store_bytes(uint8_t* p, I q, int n) {
  const int64_t codes = pack_codes(q);
  std::memcpy(p, &codes, n);
}
// Stores four vectors of numbers from 0 to 255 one after the other.
static inline void store_unsigned(uint8_t* p, const I (&q)[4]) {
  const __m256i fours = _mm256_packus_epi16(_mm256_packs_epi32(q[0].v, q[1].v),
                                            _mm256_packs_epi32(q[2].v, q[3].v));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256((__m256i*)p, _mm256_permutevar8x32_epi32(fours, order));
}
// Stores the codes of four vectors so that those of each lane are adjacent.
static inline void store_interleaved(uint8_t* p, const I (&q)[4]) {
  const __m256i order = _mm256_broadcastsi128_si256(
      _mm_setr_epi32(0x0c080400, 0x0d090501, 0x0e0a0602, 0x0f0b0703));
  const __m256i fours = _mm256_packs_epi16(_mm256_packs_epi32(q[0].v, q[1].v),
                                           _mm256_packs_epi32(q[2].v, q[3].v));
  _mm256_storeu_si256((__m256i*)p, _mm256_shuffle_epi8(fours, order));
}
// Four codes of one row, repeated in every lane.
static inline __m256i repeat_four(const uint8_t* p) {
  int32_t codes;
  std::memcpy(&codes, p, 4);
  return _mm256_set1_epi32(codes);
}
static inline B load_codes(const uint8_t* w) { return {_mm256_loadu_si256((const __m256i*)w)}; }
static inline void store(uint8_t* p, B b) { _mm256_storeu_si256((__m256i*)p, b.v); }
static inline B operator|(B a, B b) { return {_mm256_or_si256(a.v, b.v)}; }
// Shifts each byte right by Shift bits (left if negative), and masks it.
template <int Shift, int Mask>
static inline B extract_bits(B w) {
  if constexpr (Shift > 0) w.v = _mm256_srli_epi16(w.v, Shift);
  if constexpr (Shift < 0) w.v = _mm256_slli_epi16(w.v, -Shift);
  return {_mm256_and_si256(w.v, _mm256_set1_epi8(Mask))};
}
// Loads step and offset of each lane, extended to 16 bits.
static inline I load_steps(const int8_t* p) {
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p))};
}
// codes * step + offset. A code times its step fits into 8 bits, so that 16-bit products serve two.
static inline B apply_steps(B codes, I steps) {
  const __m256i step = _mm256_shuffle_epi8(
      steps.v, _mm256_broadcastsi128_si256(
                   _mm_setr_epi32(0x01000100, 0x05040504, 0x09080908, 0x0d0c0d0c)));
  const __m256i offset = _mm256_shuffle_epi8(
      steps.v, _mm256_broadcastsi128_si256(
                   _mm_setr_epi32(0x02020202, 0x06060606, 0x0a0a0a0a, 0x0e0e0e0e)));
  return {_mm256_add_epi8(_mm256_mullo_epi16(codes.v, step), offset)};
}

}  // namespace TYNDA_ISA
}  // namespace tynda

// AVX2 with FMA.
#pragma once
#include "simd_256.h"

#define TYNDA_16_BITS 1  // narrow.inl and wide.inl

namespace tynda {
namespace TYNDA_ISA {

constexpr int kFewRows = 6;
constexpr int kZero = 0;
constexpr int kQueryZero = 128, kValueZero = 0;  // attention_forms.inl

struct A { __m256i signs, sizes; };  // four codes of one row, repeated in every lane
struct Plain { __m256i v; };         // the same without sizes
struct Pairs { __m256i v; };         // two sums of 16 bits for each lane

static inline void store_codes(uint8_t* p, I q, int n) { store_bytes(p, q, n); }
static inline A broadcast_four(const uint8_t* p) {
  const __m256i a = repeat_four(p);
  return {a, _mm256_abs_epi8(a)};
}
// Adds products of four codes. No code is -128, so that the sum of two products fits into 16 bits.
static inline I dot(I sum, A a, B w) {
  const __m256i signed_w = _mm256_sign_epi8(w.v, a.signs);
  const __m256i pairs = _mm256_maddubs_epi16(a.sizes, signed_w);
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
}
static inline Plain broadcast_plain(const uint8_t* p) { return {repeat_four(p)}; }
// The same where the codes of the row are unsigned, and those of the weight from -64 to 64: two
// products of at most 255 * 64 fit into 16 bits.
using Unsigned = Plain;
static inline Unsigned broadcast_unsigned(const uint8_t* p) { return broadcast_plain(p); }
static inline I dot_unsigned(I sum, Unsigned a, B w) {
  const __m256i pairs = _mm256_maddubs_epi16(a.v, w.v);
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
}

// ---- codes of weights in few bits, whose sums fit into 16 bits

// Adds to a sum in place: GCC would compute products long before it adds them, and lack registers.
static inline __m256i add_words_to(__m256i sum, __m256i more) {
  __asm__("vpaddw %1, %0, %0" : "+x"(sum) : "x"(more));
  return sum;
}
// How many times a sum has room for four products of codes of so many bits: 8 * 2 * 127 * 15 <
// 2^15.
constexpr int run_of(int) { return 8; }
static inline Pairs start_few(Pairs, Plain a, B w) { return {_mm256_maddubs_epi16(w.v, a.v)}; }
static inline Pairs dot_few(Pairs sum, Plain a, B w) {
  return {add_words_to(sum.v, _mm256_maddubs_epi16(w.v, a.v))};
}
static inline Pairs start_sum(int32_t) { return {_mm256_setzero_si256()}; }
// Adds the products of the words of 16 bits of each lane.
static inline I dot_words(I sum, Plain a, B w) {
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(a.v, w.v))};
}
static inline I add_pairs(I total, Pairs sum, B steps) {
  return dot_words(total, Plain{sum.v}, steps);
}
// The low or the high words of two vectors, alternately: steps or offsets.
static inline B low_words(I a, I b) {
  return {_mm256_blend_epi16(a.v, _mm256_slli_epi32(b.v, 16), 0xaa)};
}
static inline B high_words(I a, I b) {
  return {_mm256_blend_epi16(_mm256_srli_epi32(a.v, 16), b.v, 0xaa)};
}
// total + step * sum + offset * x / 65536.
static inline I add_scaled(I total, Pairs sum, int32_t x, I steps) {
  const I with_offset = dot_words(total, Plain{_mm256_set1_epi32(x)}, B{steps.v});
  return add_pairs(with_offset, sum, low_words(steps, steps));
}

// ---- codes in 16 bits, whose products need no sign moved

static inline __m256i add_to(__m256i sum, __m256i more) {
  __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(more));
  return sum;
}
static inline void widen(const uint8_t* codes, int64_t count, int16_t* to) {
  for (int64_t i = 0; i < count; i++) to[i] = int8_t(codes[i]);
}
// Adds the products of four codes of Rows rows and of a weight for each lane. The sums of the first
// four lanes are in the first vector, each in two lanes, those of the last four in the second.
template <int Rows>
[[gnu::always_inline]] static inline void step_wide(I (&sums)[Rows][2], const int16_t* x,
                                                    int64_t ldx, const uint8_t* w) {
  const auto* const halves = (const __m128i*)w;
  const __m256i first = _mm256_cvtepi8_epi16(_mm_loadu_si128(halves));
  const __m256i last = _mm256_cvtepi8_epi16(_mm_loadu_si128(halves + 1));
  for (int i = 0; i < Rows; i++) {
    if (i % 3 == 0 && i > 0) {  // otherwise the compiler runs out of registers for addresses
      x += 3 * ldx;
      __asm__("" : "+r"(x));
    }
    int64_t codes;
    std::memcpy(&codes, x + i % 3 * ldx, 8);
    const __m256i a = _mm256_set1_epi64x(codes);
    sums[i][0].v = add_to(sums[i][0].v, _mm256_madd_epi16(a, first));
    sums[i][1].v = add_to(sums[i][1].v, _mm256_madd_epi16(a, last));
  }
}
static inline I joined(const I (&sums)[2]) {
  const __m256i pairs = _mm256_hadd_epi32(sums[0].v, sums[1].v);
  return {_mm256_permute4x64_epi64(pairs, 0xd8)};
}

}  // namespace TYNDA_ISA
}  // namespace tynda

// AVX2 with FMA and VNNI, which processors without AVX-512 have too (Intel since 2021).
#pragma once
#include "simd_256.h"

#define TYNDA_UNSIGNED_CODES 1  // simd_codes.h

namespace tynda {
namespace TYNDA_ISA {

constexpr int kZero = 128;  // vpdpbusd multiplies unsigned activations
constexpr int kValueZero = 0;

struct A { __m256i v; };  // four codes of one row, repeated in every lane

static inline void store_codes(uint8_t* p, I q, int n) {
  const uint64_t codes = uint64_t(pack_codes(q)) ^ 0x8080808080808080;  // adds kZero to each
  std::memcpy(p, &codes, n);
}
static inline A broadcast_four(const uint8_t* p) { return {repeat_four(p)}; }
static inline I dot(I sum, A a, B w) {
#if TYNDA_EMULATE_VNNI  // so that the tests run on a processor without it
  const __m256i low = _mm256_madd_epi16(_mm256_and_si256(a.v, _mm256_set1_epi16(0xff)),
                                        _mm256_srai_epi16(_mm256_slli_epi16(w.v, 8), 8));
  const __m256i high = _mm256_madd_epi16(_mm256_srli_epi16(a.v, 8), _mm256_srai_epi16(w.v, 8));
  return {_mm256_add_epi32(sum.v, _mm256_add_epi32(low, high))};
#else  // the compiler's function needs an option that some compilers lack
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.v) : "x"(a.v), "x"(w.v));
  return sum;
#endif
}
// The initial value of a sum of codes, and total + step * sum + offset * x / 65536 for a sum that
// fits into 16 bits.
static inline I start_sum(int32_t x) { return {_mm256_set1_epi32(x)}; }  // the sum is never negative
static inline I add_scaled(I total, I sum, int32_t, I steps) {
  return {_mm256_add_epi32(total.v, _mm256_madd_epi16(sum.v, steps.v))};
}

}  // namespace TYNDA_ISA
}  // namespace tynda

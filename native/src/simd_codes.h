// Products of codes that only AVX2 has in several forms (simd_avx2.h), for the other sets.
#pragma once

namespace tynda {
namespace TYNDA_ISA {

using Plain = A;
using Pairs = I;

#if TYNDA_UNSIGNED_CODES  // codes of all rows are
using Unsigned = A;
static inline Unsigned broadcast_unsigned(const uint8_t* p) { return broadcast_four(p); }
static inline I dot_unsigned(I sum, Unsigned a, B w) { return dot(sum, a, w); }
#endif

constexpr int kFewRows = kTile / 2;
constexpr int kQueryZero = kZero;  // attention_forms.inl

#if TYNDA_WHOLE_BLOCKS  // sums are multiplied by their steps in 32 bits
constexpr int run_of(int) { return 8; }
#else
// How many times the sum of four products with codes of so many bits has room in 16 bits.
constexpr int run_of(int bits) { return 32 >> bits; }
#endif
static inline Plain broadcast_plain(const uint8_t* p) { return broadcast_four(p); }
static inline Pairs dot_few(Pairs sum, Plain a, B w) { return dot(sum, a, w); }

}  // namespace TYNDA_ISA
}  // namespace tynda

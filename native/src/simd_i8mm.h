// NEON with dot product and with products of two rows and two outputs (i8mm, Armv8.6).
#pragma once
#include "simd_neon.h"

#define TYNDA_PAIRS 1  // pairs.inl

namespace tynda {
namespace TYNDA_ISA {

// Eight codes each of two rows.
static inline A load_pair(const uint8_t* x, const uint8_t* y) {
  return {vcombine_s8(load_eight(x).v, load_eight(y).v)};
}
static inline A load_pair(const uint8_t* xy) { return {load_codes(xy).v}; }
// Adds the products of two rows with two outputs: those of the first row, then those of the second.
static inline I dot_pairs(I sum, A rows, B w) { return {vmmlaq_s32(sum.v, rows.v, w.v)}; }
// The same where all codes are unsigned.
static inline I dot_unsigned_pairs(I sum, A rows, B w) {
  return {vreinterpretq_s32_u32(vmmlaq_u32(vreinterpretq_u32_s32(sum.v), vreinterpretq_u8_s8(rows.v),
                                           vreinterpretq_u8_s8(w.v)))};
}
// The sums of the first or the second row and four outputs, from those of two pairs of outputs.
static inline I first_row(I a, I b) {
  return {vreinterpretq_s32_s64(
      vzip1q_s64(vreinterpretq_s64_s32(a.v), vreinterpretq_s64_s32(b.v)))};
}
static inline I second_row(I a, I b) {
  return {vreinterpretq_s32_s64(
      vzip2q_s64(vreinterpretq_s64_s32(a.v), vreinterpretq_s64_s32(b.v)))};
}
// Eight inputs of the first or the last two outputs, from the first and the last four inputs of four
// outputs.
static inline B first_outputs(B a, B b) {
  return {vreinterpretq_s8_s32(vzip1q_s32(vreinterpretq_s32_s8(a.v), vreinterpretq_s32_s8(b.v)))};
}
static inline B last_outputs(B a, B b) {
  return {vreinterpretq_s8_s32(vzip2q_s32(vreinterpretq_s32_s8(a.v), vreinterpretq_s32_s8(b.v)))};
}

}  // namespace TYNDA_ISA
}  // namespace tynda

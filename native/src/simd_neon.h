// NEON with dot product (Armv8.2).
#pragma once
#include <arm_neon.h>

#define TYNDA_TWO_STEPS 1    // products.inl
#define TYNDA_WHOLE_BLOCKS 1  // simd_codes.h

namespace tynda {
namespace TYNDA_ISA {

constexpr int kLanes = 4, kVectors = 2, kTile = 12;
constexpr int kZero = 0;
// Products of unsigned with signed codes are not part of Armv8.2: values get an offset.
constexpr int kValueZero = 64;

struct F { float32x4_t v; };
struct I { int32x4_t v; };
struct A { int8x16_t v; };  // four codes of one row, repeated in every lane
struct B { int8x16_t v; };  // four codes of a weight for each lane

static inline F set1(float x) { return {vdupq_n_f32(x)}; }
static inline F load(const float* p) { return {vld1q_f32(p)}; }
static inline F load(const float* p, int n) {
  float x[kLanes] = {};
  std::memcpy(x, p, sizeof(float) * n);
  return load(x);
}
static inline void store(float* p, F x) { vst1q_f32(p, x.v); }
static inline void store(float* p, F x, int n) {
  float y[kLanes];
  store(y, x);
  std::memcpy(p, y, sizeof(float) * n);
}
static inline F operator+(F a, F b) { return {vaddq_f32(a.v, b.v)}; }
static inline F operator-(F a, F b) { return {vsubq_f32(a.v, b.v)}; }
static inline F operator*(F a, F b) { return {vmulq_f32(a.v, b.v)}; }
static inline F operator/(F a, F b) { return {vdivq_f32(a.v, b.v)}; }
static inline F fma(F a, F b, F c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
static inline F max(F a, F b) { return {vmaxq_f32(a.v, b.v)}; }
static inline F min(F a, F b) { return {vminq_f32(a.v, b.v)}; }
static inline F abs(F a) { return {vabsq_f32(a.v)}; }
static inline F sqrt(F a) { return {vsqrtq_f32(a.v)}; }
static inline F copysign(F size, F sign) {
  return {vbslq_f32(vdupq_n_u32(0x80000000), sign.v, size.v)};
}
static inline float reduce_sum(F a) { return vaddvq_f32(a.v); }
static inline float reduce_max(F a) { return vmaxvq_f32(a.v); }

static inline I zeros() { return {vdupq_n_s32(0)}; }
static inline I load(const int32_t* p) { return {vld1q_s32(p)}; }
static inline I round_to_int(F a) { return {vcvtnq_s32_f32(a.v)}; }  // ties to even
static inline F to_float(I a) { return {vcvtq_f32_s32(a.v)}; }
// The exponent of a normal number above 0.
static inline I exponent(F a) {
  return {vsubq_s32(vshrq_n_s32(vreinterpretq_s32_f32(a.v), 23), vdupq_n_s32(127))};
}
static inline F exp2_int(I n) {
  return {vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n.v, vdupq_n_s32(127)), 23))};
}
// x - floor(x), and y * 2^floor(x).
static inline F fraction(F x) { return {vsubq_f32(x.v, vrndmq_f32(x.v))}; }
static inline F times_exp2_floor(F y, F x) { return y * exp2_int({vcvtmq_s32_f32(x.v)}); }
static inline I operator+(I a, I b) { return {vaddq_s32(a.v, b.v)}; }
static inline I times(I a, int32_t b) { return {vmulq_n_s32(a.v, b)}; }
static inline void store_bytes(uint8_t* p, I q, int n) {
  const int16x4_t words = vmovn_s32(q.v);
  const int8x8_t codes = vmovn_s16(vcombine_s16(words, words));
  const uint32_t four = vget_lane_u32(vreinterpret_u32_s8(codes), 0);
  std::memcpy(p, &four, n);
}
// Stores four vectors of numbers from 0 to 255 one after the other.
static inline void store_unsigned(uint8_t* p, const I (&q)[4]) {
  const int16x8_t words = vcombine_s16(vmovn_s32(q[0].v), vmovn_s32(q[1].v));
  const int16x8_t more = vcombine_s16(vmovn_s32(q[2].v), vmovn_s32(q[3].v));
  vst1q_s8((int8_t*)p, vcombine_s8(vmovn_s16(words), vmovn_s16(more)));
}
// Stores the codes of four vectors so that those of each lane are adjacent.
static inline void store_interleaved(uint8_t* p, const I (&q)[4]) {
  const int32x4_t low = vsliq_n_s32(q[0].v, q[1].v, 8), high = vsliq_n_s32(q[2].v, q[3].v, 8);
  vst1q_s8((int8_t*)p, vreinterpretq_s8_s32(vsliq_n_s32(low, high, 16)));
}
static inline void store_codes(uint8_t* p, I q, int n) { store_bytes(p, q, n); }
static inline A broadcast_four(const uint8_t* p) {
  int32_t codes;
  std::memcpy(&codes, p, 4);
  return {vreinterpretq_s8_s32(vdupq_n_s32(codes))};
}
static inline B load_codes(const uint8_t* w) { return {vld1q_s8((const int8_t*)w)}; }
static inline void store(uint8_t* p, B b) { vst1q_s8((int8_t*)p, b.v); }
static inline B operator|(B a, B b) { return {vorrq_s8(a.v, b.v)}; }
// Shifts each byte right by Shift bits (left if negative), and masks it.
template <int Shift, int Mask>
static inline B extract_bits(B w) {
  uint8x16_t v = vreinterpretq_u8_s8(w.v);
  if constexpr (Shift > 0) v = vshrq_n_u8(v, Shift);
  if constexpr (Shift < 0) v = vshlq_n_u8(v, -Shift);
  return {vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(Mask)))};
}
// Loads step and offset of each lane, extended to 16 bits.
static inline I load_steps(const int8_t* p) {
  return {vreinterpretq_s32_s16(vmovl_s8(vld1_s8(p)))};
}
// codes * step + offset.
static inline B apply_steps(B codes, I steps) {
  const int8x16_t bytes = vreinterpretq_s8_s32(steps.v);
  const int8x16_t even = vtrn1q_s8(bytes, bytes);  // drops the upper bytes
  const int16x8_t twice = vreinterpretq_s16_s8(even);
  return {vmlaq_s8(vreinterpretq_s8_s16(vtrn2q_s16(twice, twice)), codes.v,
                   vreinterpretq_s8_s16(vtrn1q_s16(twice, twice)))};
}
// The initial value of a sum of codes, and total + step * sum + offset * x / 65536.
static inline I start_sum(int32_t) { return zeros(); }
static inline I add_scaled(I total, I sum, int32_t x, I steps) {
  const int32x4_t step = vandq_s32(steps.v, vdupq_n_s32(0xffff)), offset = vshrq_n_s32(steps.v, 16);
  return {vmlaq_n_s32(vmlaq_s32(total.v, sum.v, step), offset, x / 65536)};
}
static inline I dot(I sum, A a, B w) { return {vdotq_s32(sum.v, a.v, w.v)}; }
// The same where all codes are unsigned.
struct Unsigned { uint8x16_t v; };
static inline Unsigned broadcast_unsigned(const uint8_t* p) {
  return {vreinterpretq_u8_s8(broadcast_four(p).v)};
}
static inline I dot_unsigned(I sum, Unsigned a, B w) {
  const uint32x4_t before = vreinterpretq_u32_s32(sum.v);
  return {vreinterpretq_s32_u32(vdotq_u32(before, a.v, vreinterpretq_u8_s8(w.v)))};
}

// Eight codes of one row. An instruction multiplies by four of them, wherever they are in the
// register, so that they need not be repeated in every lane.
struct Eight { int8x8_t v; };
static inline Eight load_eight(const uint8_t* p) { return {vld1_s8((const int8_t*)p)}; }
// Adds the products with the first (Four = 0) or the last (1) four of them.
template <int Four>
static inline I dot_four(I sum, Eight a, B w) {
  return {vdotq_lane_s32(sum.v, w.v, a.v, Four)};
}
template <int Four>
static inline I dot_unsigned_four(I sum, Eight a, B w) {
  const uint32x4_t before = vreinterpretq_u32_s32(sum.v);
  const uint8x16_t codes = vreinterpretq_u8_s8(w.v);
  return {vreinterpretq_s32_u32(vdotq_lane_u32(before, codes, vreinterpret_u8_s8(a.v), Four))};
}

}  // namespace TYNDA_ISA
}  // namespace tynda

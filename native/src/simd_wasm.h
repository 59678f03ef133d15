// WebAssembly's vectors of 128 bits.
//
// A 32-bit sum of four products of codes is two 16-bit products, one addition, and one pairwise
// addition that widens. V8 makes five instructions of it on x86-64, and three on ARM, whose
// processors multiply and add at once. (i32x4.dot_i16x8_s would be four on x86-64 and eight on ARM.)
#pragma once
#include <wasm_simd128.h>

namespace tynda {
namespace TYNDA_ISA {

constexpr int kLanes = 4, kVectors = 2, kTile = 4;
constexpr int kZero = 0;
constexpr int kValueZero = 0;

struct F { v128_t v; };
struct I { v128_t v; };
// Four codes of one row, repeated in every lane and extended to 16 bits, the first and third apart
// from the second and fourth.
struct A { v128_t odd, even; };
struct B { v128_t v; };  // four codes of a weight for each lane

static inline F set1(float x) { return {wasm_f32x4_splat(x)}; }
static inline F load(const float* p) { return {wasm_v128_load(p)}; }
static inline F load(const float* p, int n) {
  float x[kLanes] = {};
  for (int i = 0; i < n; i++) x[i] = p[i];
  return load(x);
}
static inline void store(float* p, F x) { wasm_v128_store(p, x.v); }
static inline void store(float* p, F x, int n) {
  float y[kLanes];
  store(y, x);
  for (int i = 0; i < n; i++) p[i] = y[i];
}
static inline F operator+(F a, F b) { return {wasm_f32x4_add(a.v, b.v)}; }
static inline F operator-(F a, F b) { return {wasm_f32x4_sub(a.v, b.v)}; }
static inline F operator*(F a, F b) { return {wasm_f32x4_mul(a.v, b.v)}; }
static inline F operator/(F a, F b) { return {wasm_f32x4_div(a.v, b.v)}; }
static inline F fma(F a, F b, F c) { return a * b + c; }
// a > b ? a : b and a < b ? a : b, one instruction on x86-64.
static inline F max(F a, F b) { return {wasm_f32x4_pmax(b.v, a.v)}; }
static inline F min(F a, F b) { return {wasm_f32x4_pmin(b.v, a.v)}; }
static inline F abs(F a) { return {wasm_f32x4_abs(a.v)}; }
static inline F sqrt(F a) { return {wasm_f32x4_sqrt(a.v)}; }
static inline F copysign(F size, F sign) {
  return {wasm_v128_bitselect(size.v, sign.v, wasm_i32x4_splat(0x7fffffff))};
}
static inline float reduce_sum(F a) {
  return (wasm_f32x4_extract_lane(a.v, 0) + wasm_f32x4_extract_lane(a.v, 1)) +
         (wasm_f32x4_extract_lane(a.v, 2) + wasm_f32x4_extract_lane(a.v, 3));
}
static inline float reduce_max(F a) {
  const F pairs = max(a, {wasm_i32x4_shuffle(a.v, a.v, 2, 3, 0, 1)});
  return wasm_f32x4_extract_lane(max(pairs, {wasm_i32x4_shuffle(pairs.v, pairs.v, 1, 0, 3, 2)}).v, 0);
}

static inline I zeros() { return {wasm_i32x4_splat(0)}; }
static inline I load(const int32_t* p) { return {wasm_v128_load(p)}; }
// Rounds to the nearest integer, ties to even, for |x| below 4 million: larger floats are integers.
// (The conversion of WebAssembly saturates, which takes six instructions on x86-64.)
static inline I round_to_int(F a) {
  const F large = set1(12582912.0f);  // 1.5 * 2^23
  return {wasm_i32x4_sub((a + large).v, large.v)};
}
static inline F to_float(I a) { return {wasm_f32x4_convert_i32x4(a.v)}; }
// The exponent of a normal number above 0.
static inline I exponent(F a) {
  return {wasm_i32x4_sub(wasm_i32x4_shr(a.v, 23), wasm_i32x4_splat(127))};
}
static inline F exp2_int(I n) {
  return {wasm_i32x4_shl(wasm_i32x4_add(n.v, wasm_i32x4_splat(127)), 23)};
}
// x - floor(x), and y * 2^floor(x).
static inline F floor(F x) { return {wasm_f32x4_floor(x.v)}; }
static inline F fraction(F x) { return x - floor(x); }
static inline F times_exp2_floor(F y, F x) { return y * exp2_int(round_to_int(floor(x))); }
static inline I operator+(I a, I b) { return {wasm_i32x4_add(a.v, b.v)}; }
static inline I times(I a, int32_t b) { return {wasm_i32x4_mul(a.v, wasm_i32x4_splat(b))}; }
static inline void store_bytes(uint8_t* p, I q, int n) {
  const v128_t words = wasm_i16x8_narrow_i32x4(q.v, q.v);
  const uint32_t four = wasm_i32x4_extract_lane(wasm_i8x16_narrow_i16x8(words, words), 0);
  if (n == kLanes) {
    std::memcpy(p, &four, kLanes);
  } else {
    for (int i = 0; i < n; i++) p[i] = uint8_t(four >> 8 * i);
  }
}
// Stores four vectors of numbers from 0 to 255 one after the other.
static inline void store_unsigned(uint8_t* p, const I (&q)[4]) {
  wasm_v128_store(p, wasm_u8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(q[0].v, q[1].v),
                                             wasm_i16x8_narrow_i32x4(q[2].v, q[3].v)));
}
// Stores the codes of four vectors so that those of each lane are adjacent.
static inline void store_interleaved(uint8_t* p, const I (&q)[4]) {
  const v128_t all = wasm_i8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(q[0].v, q[1].v),
                                             wasm_i16x8_narrow_i32x4(q[2].v, q[3].v));
  wasm_v128_store(p, wasm_i8x16_shuffle(all, all, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11,
                                        15));
}
static inline void store_codes(uint8_t* p, I q, int n) { store_bytes(p, q, n); }
static inline v128_t odd_codes(v128_t v) { return wasm_i16x8_shr(wasm_i16x8_shl(v, 8), 8); }
static inline v128_t even_codes(v128_t v) { return wasm_i16x8_shr(v, 8); }
static inline A broadcast_four(const uint8_t* p) {
  const v128_t codes = wasm_v128_load32_splat(p);
  return {odd_codes(codes), even_codes(codes)};
}
static inline B load_codes(const uint8_t* w) { return {wasm_v128_load(w)}; }
static inline void store(uint8_t* p, B b) { wasm_v128_store(p, b.v); }
static inline B operator|(B a, B b) { return {wasm_v128_or(a.v, b.v)}; }
// Shifts each byte right by Shift bits (left if negative), and masks it.
template <int Shift, int Mask>
static inline B extract_bits(B w) {
  if constexpr (Shift > 0) w.v = wasm_u16x8_shr(w.v, Shift);
  if constexpr (Shift < 0) w.v = wasm_i16x8_shl(w.v, -Shift);
  return {wasm_v128_and(w.v, wasm_i8x16_splat(Mask))};
}
// Loads step and offset of each lane, extended to 16 bits.
static inline I load_steps(const int8_t* p) { return {wasm_i16x8_load8x8(p)}; }
// codes * step + offset. A code times its step fits into 8 bits, so that 16-bit products serve two.
static inline B apply_steps(B codes, I steps) {
  const v128_t v = steps.v;
  const v128_t step =
      wasm_i8x16_shuffle(v, v, 0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13);
  const v128_t offset =
      wasm_i8x16_shuffle(v, v, 2, 2, 2, 2, 6, 6, 6, 6, 10, 10, 10, 10, 14, 14, 14, 14);
  return {wasm_i8x16_add(wasm_i16x8_mul(codes.v, step), offset)};
}
// The initial value of a sum of codes, and total + step * sum + offset * x / 65536 for a sum that
// fits into 16 bits.
static inline I start_sum(int32_t) { return zeros(); }
static inline I add_scaled(I total, I sum, int32_t x, I steps) {
  const v128_t low = wasm_v128_and(sum.v, wasm_i32x4_splat(0xffff));
  const v128_t both = wasm_v128_or(low, wasm_i32x4_splat(x));
  return {wasm_i32x4_add(total.v, wasm_i32x4_dot_i16x8(both, steps.v))};
}
// Adds products of four codes. No code is -128, so that the sum of two products fits into 16 bits.
static inline I dot(I sum, A a, B w) {
  const v128_t pairs = wasm_i16x8_add(wasm_i16x8_mul(a.odd, odd_codes(w.v)),
                                      wasm_i16x8_mul(a.even, even_codes(w.v)));
  return {wasm_i32x4_add(sum.v, wasm_i32x4_extadd_pairwise_i16x8(pairs))};
}
// The same where the codes of the row are unsigned, and those of the weight from -64 to 64: two
// products of at most 255 * 64 fit into 16 bits.
using Unsigned = A;
static inline Unsigned broadcast_unsigned(const uint8_t* p) {
  const v128_t codes = wasm_v128_load32_splat(p);
  return {wasm_v128_and(codes, wasm_i16x8_splat(0xff)), wasm_u16x8_shr(codes, 8)};
}
static inline I dot_unsigned(I sum, Unsigned a, B w) { return dot(sum, a, w); }

}  // namespace TYNDA_ISA
}  // namespace tynda

// Portable C++ with the vector extensions of GCC and Clang, which compile to any instruction set.
#pragma once

namespace tynda {
namespace TYNDA_ISA {

constexpr int kLanes = 4, kVectors = 2, kTile = 4;
constexpr int kZero = 0;
constexpr int kValueZero = 0;

typedef float Floats4 __attribute__((vector_size(16)));
typedef int32_t Words __attribute__((vector_size(16)));
typedef int16_t Halves __attribute__((vector_size(16)));
typedef int8_t Eight __attribute__((vector_size(8)));

struct F { Floats4 v; };
struct I { Words v; };
// Four codes for each lane, the first and third apart from the second and fourth; in A, all lanes
// have the same four.
struct A { Halves odd, even; };
struct B { Halves odd, even; };

static inline F set1(float x) { return {Floats4{x, x, x, x}}; }
static inline F load(const float* p, int n) {
  F x = {};
  std::memcpy(&x.v, p, sizeof(float) * n);
  return x;
}
static inline F load(const float* p) { return load(p, kLanes); }
static inline void store(float* p, F x, int n) { std::memcpy(p, &x.v, sizeof(float) * n); }
static inline void store(float* p, F x) { store(p, x, kLanes); }
static inline F operator+(F a, F b) { return {a.v + b.v}; }
static inline F operator-(F a, F b) { return {a.v - b.v}; }
static inline F operator*(F a, F b) { return {a.v * b.v}; }
static inline F operator/(F a, F b) { return {a.v / b.v}; }
static inline F fma(F a, F b, F c) { return {a.v * b.v + c.v}; }
static inline F choose(Words yes, F a, F b) {
  return {Floats4((yes & Words(a.v)) | (~yes & Words(b.v)))};
}
static inline F max(F a, F b) { return choose(a.v > b.v, a, b); }
static inline F min(F a, F b) { return choose(a.v < b.v, a, b); }
static inline F abs(F a) { return {Floats4(Words(a.v) & 0x7fffffff)}; }
static inline F sqrt(F a) {
  for (int i = 0; i < kLanes; i++) a.v[i] = std::sqrt(a.v[i]);
  return a;
}
static inline F copysign(F size, F sign) {
  const Words sizes = Words{} + 0x7fffffff;
  return choose(sizes, size, sign);
}
static inline float reduce_sum(F a) { return (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]); }
static inline float reduce_max(F a) {
  float x = a.v[0];
  for (int i = 1; i < kLanes; i++) x = a.v[i] > x ? a.v[i] : x;
  return x;
}

static inline I zeros() { return {Words{}}; }
static inline I load(const int32_t* p) {
  I x;
  std::memcpy(&x.v, p, sizeof x.v);
  return x;
}
// Rounds to the nearest integer, ties to even, for |x| below 4 million: larger floats are integers.
static inline I round_to_int(F a) {
  const F large = set1(12582912.0f);  // 1.5 * 2^23
  return {Words((a + large).v) - Words(large.v)};
}
static inline F to_float(I a) { return {__builtin_convertvector(a.v, Floats4)}; }
static inline I exponent(F a) { return {(Words(a.v) >> 23) - 127}; }  // of a normal number above 0
static inline F exp2_int(I n) { return {Floats4((n.v + 127) << 23)}; }
// Exact for integers too: attention in 8 bits rounds half of the greatest weight, where 1 in place of
// the fraction 0 would make another code of it than other instruction sets make.
static inline F floor(F x) {
  const F nearest = to_float(round_to_int(x));
  return {nearest.v + __builtin_convertvector(nearest.v > x.v, Floats4)};  // -1 where it is above
}
// x - floor(x), and y * 2^floor(x).
static inline F fraction(F x) { return x - floor(x); }
static inline F times_exp2_floor(F y, F x) { return y * exp2_int(round_to_int(floor(x))); }
static inline I operator+(I a, I b) { return {a.v + b.v}; }
static inline I times(I a, int32_t b) { return {a.v * b}; }
static inline void store_bytes(uint8_t* p, I q, int n) {
  for (int i = 0; i < n; i++) p[i] = uint8_t(q.v[i]);
}
// Stores four vectors of numbers from 0 to 255 one after the other.
static inline void store_unsigned(uint8_t* p, const I (&q)[4]) {
  for (int i = 0; i < 4; i++) store_bytes(p + i * kLanes, q[i], kLanes);
}
// Stores the codes of four vectors so that those of each lane are adjacent.
static inline void store_interleaved(uint8_t* p, const I (&q)[4]) {
  const Words low = (q[0].v & 0xff) | (q[1].v & 0xff) << 8, high = (q[2].v & 0xff) | q[3].v << 8;
  const Words fours = low | high << 16;
  std::memcpy(p, &fours, sizeof fours);
}
static inline void store_codes(uint8_t* p, I q, int n) { store_bytes(p, q, n); }
static inline B load_codes(const uint8_t* w) {
  Halves pairs;
  std::memcpy(&pairs, w, sizeof pairs);
  return {(pairs << 8) >> 8, pairs >> 8};
}
static inline void store(uint8_t* p, B b) {
  const Halves pairs = (b.odd & 0xff) | (b.even << 8);
  std::memcpy(p, &pairs, sizeof pairs);
}
static inline B operator|(B a, B b) { return {a.odd | b.odd, a.even | b.even}; }
// Shifts each byte right by Shift bits (left if negative), and masks it.
template <int Shift, int Mask>
static inline B extract_bits(B w) {
  constexpr int16_t kDown = Shift > 0 ? Shift : 0, kUp = Shift < 0 ? -Shift : 0, kMask = Mask;
  return {(w.odd >> kDown << kUp) & kMask, (w.even >> kDown << kUp) & kMask};
}
// Loads step and offset of each lane, extended to 16 bits.
static inline I load_steps(const int8_t* p) {
  Eight bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return {Words(__builtin_convertvector(bytes, Halves))};
}
// codes * step + offset.
static inline B apply_steps(B codes, I steps) {
  const Halves step = Halves((steps.v & 0xffff) | (steps.v << 16));
  const Halves offset = Halves((steps.v >> 16 & 0xffff) | (steps.v & ~0xffff));
  return {codes.odd * step + offset, codes.even * step + offset};
}
// The initial value of a sum of codes, and total + step * sum + offset * x / 65536 for a sum that
// fits into 16 bits.
static inline I start_sum(int32_t) { return zeros(); }
static inline I add_scaled(I total, I sum, int32_t x, I steps) {
  return {total.v + ((steps.v << 16) >> 16) * sum.v + (steps.v >> 16) * (x / 65536)};
}
static inline A broadcast_four(const uint8_t* p) {
  int32_t codes;
  std::memcpy(&codes, p, 4);
  const Halves pairs = Halves(Words{codes, codes, codes, codes});
  return {(pairs << 8) >> 8, pairs >> 8};
}
// Adds products of four codes. No code is -128, so that the sum of two products fits into 16 bits.
static inline I dot(I sum, A a, B w) {
  const Words pairs = Words(a.odd * w.odd + a.even * w.even);
  return {sum.v + ((pairs << 16) >> 16) + (pairs >> 16)};
}
// The same where the codes of the row are unsigned, and those of the weight from -64 to 64: two
// products of at most 255 * 64 fit into 16 bits.
using Unsigned = A;
static inline Unsigned broadcast_unsigned(const uint8_t* p) {
  int32_t codes;
  std::memcpy(&codes, p, 4);
  const Halves pairs = Halves(Words{codes, codes, codes, codes});
  return {pairs & 0xff, (pairs >> 8) & 0xff};
}
static inline I dot_unsigned(I sum, Unsigned a, B w) { return dot(sum, a, w); }

}  // namespace TYNDA_ISA
}  // namespace tynda

// Plain C++, for any compiler and processor.
#pragma once
#include <algorithm>
#include <cmath>

namespace tynda {
namespace TYNDA_ISA {

constexpr int kLanes = 4, kVectors = 2, kTile = 4;
constexpr int kZero = 0;

struct F { float v[kLanes]; };
struct I { int32_t v[kLanes]; };
struct A { int8_t v[4]; };           // four codes of one row
struct B { int8_t v[4 * kLanes]; };  // four codes of a weight for each lane

template <class Result, class Each>
static inline Result each(Each f) {
  Result y;
  for (int i = 0; i < kLanes; i++) y.v[i] = f(i);
  return y;
}

template <class Each>
static inline B bytes(Each f) {
  B y;
  for (int i = 0; i < 4 * kLanes; i++) y.v[i] = int8_t(f(i));
  return y;
}

static inline F all(float x) { return each<F>([=](int) { return x; }); }
static inline F load(const float* p) { return each<F>([=](int i) { return p[i]; }); }
static inline F load(const float* p, int n) {
  return each<F>([=](int i) { return i < n ? p[i] : 0.0f; });
}
static inline void store(float* p, F x, int n) {
  for (int i = 0; i < n; i++) p[i] = x.v[i];
}
static inline void store(float* p, F x) { store(p, x, kLanes); }
static inline F operator+(F a, F b) { return each<F>([&](int i) { return a.v[i] + b.v[i]; }); }
static inline F operator-(F a, F b) { return each<F>([&](int i) { return a.v[i] - b.v[i]; }); }
static inline F operator*(F a, F b) { return each<F>([&](int i) { return a.v[i] * b.v[i]; }); }
static inline F operator/(F a, F b) { return each<F>([&](int i) { return a.v[i] / b.v[i]; }); }
static inline F fma(F a, F b, F c) { return a * b + c; }
static inline F max(F a, F b) {
  return each<F>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
static inline F min(F a, F b) {
  return each<F>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
static inline F abs(F a) { return each<F>([&](int i) { return std::fabs(a.v[i]); }); }
static inline F copysign(F size, F sign) {
  return each<F>([&](int i) { return std::copysign(size.v[i], sign.v[i]); });
}
static inline float sum(F a) { return (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]); }
static inline float greatest(F a) {
  float x = a.v[0];
  for (int i = 1; i < kLanes; i++) x = a.v[i] > x ? a.v[i] : x;
  return x;
}

static inline I none() { return {}; }
static inline I load(const int32_t* p) { return each<I>([=](int i) { return p[i]; }); }
static inline I nearest(F a) {  // ties to even
  return each<I>([&](int i) { return int32_t(std::nearbyint(a.v[i])); });
}
static inline F real(I a) { return each<F>([&](int i) { return float(a.v[i]); }); }
static inline F power_of_2(I n) { return each<F>([&](int i) { return std::ldexp(1.0f, n.v[i]); }); }
static inline I operator+(I a, I b) { return each<I>([&](int i) { return a.v[i] + b.v[i]; }); }
static inline void store_plain_codes(uint8_t* p, I q, int n) {
  for (int i = 0; i < n; i++) p[i] = uint8_t(q.v[i]);
}
static inline void store_codes(uint8_t* p, I q, int n) { store_plain_codes(p, q, n); }
static inline A spread(const uint8_t* p) {
  A a;
  std::memcpy(a.v, p, 4);
  return a;
}
static inline B load_codes(const uint8_t* w) {
  B b;
  std::memcpy(b.v, w, sizeof b.v);
  return b;
}
static inline B operator|(B a, B b) { return bytes([&](int i) { return a.v[i] | b.v[i]; }); }
// Each byte moved down by Shift bits, or up; of these Mask.
template <int Shift, int Mask>
static inline B field(B w) {
  return bytes([&](int i) {
    const int byte = uint8_t(w.v[i]);
    return (Shift < 0 ? byte << -std::min(Shift, 0) : byte >> std::max(Shift, 0)) & Mask;
  });
}
// A step and an offset for each lane, in 16 bits.
static inline I load_steps(const int8_t* p) {
  return each<I>([=](int i) { return p[2 * i + 1] * 65536 + p[2 * i]; });
}
static inline int32_t step_of(I steps, int i) { return int16_t(steps.v[i]); }
static inline int32_t offset_of(I steps, int i) { return (steps.v[i] - step_of(steps, i)) / 65536; }
// codes * step + offset.
static inline B scaled(B codes, I steps) {
  return bytes([&](int i) { return codes.v[i] * step_of(steps, i / 4) + offset_of(steps, i / 4); });
}
// Where a sum of codes starts, and total + step * sum + offset * x for a sum within 16 bits; x is
// 65536 times what is meant.
static inline I begin(int32_t) { return none(); }
static inline I weigh(I total, I sum, int32_t x, I steps) {
  return each<I>([&](int i) {
    return total.v[i] + step_of(steps, i) * sum.v[i] + offset_of(steps, i) * (x / 65536);
  });
}
static inline I dot(I sum, A a, B w) {
  for (int i = 0; i < kLanes; i++)
    for (int j = 0; j < 4; j++) sum.v[i] += int32_t(a.v[j]) * int32_t(w.v[4 * i + j]);
  return sum;
}

}  // namespace TYNDA_ISA
}  // namespace tynda

// The kernels, over the few operations that a simd_*.h offers. Compiled once for each
// instruction set, in a namespace of its own.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <utility>

#include "kernels.h"

namespace tynda {
namespace TYNDA_ISA {
namespace {

constexpr int kPanel = kLanes * kVectors;

// ---- functions of one vector

// exp(x) within 2 ulp for x from -87.3 to 87.3, and beyond as at these ends: what follows meets
// neither infinity nor numbers below the least normal one, which processors are slow with
// (Cody & Waite's reduction, Cephes' polynomial).
inline F exp(F x) {
  x = min(max(x, all(-87.3f)), all(87.3f));
  const I n = nearest(x * all(1.44269504f));
  F r = fma(real(n), all(-0.693359375f), x);
  r = fma(real(n), all(2.12194440e-4f), r);
  F y = all(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                  5.0000001201e-1f})
    y = fma(y, r, all(c));
  y = fma(y, r * r, r + all(1));
  return y * power_of_2(n);
}

inline F sigmoid(F x) { return all(1) / (all(1) + exp(all(0) - x)); }
inline F tanh(F x) {
  const F e = exp(all(-2) * abs(x));
  return copysign((all(1) - e) / (all(1) + e), x);
}

// x * Phi(x), the error function by Abramowitz & Stegun 7.1.26 as in the NumPy twin.
inline F gelu(F x) {
  const F z = x * all(0.70710678f), size = abs(z);
  const F t = all(1) / fma(size, all(0.3275911f), all(1));
  F y = all(1.061405429f);
  for (float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) y = fma(y, t, all(c));
  // From 5 on the error function is 1 in float.
  const F erf = copysign(all(1) - y * t * exp(all(0) - min(z * z, all(25))), z);
  return all(0.5f) * x * (all(1) + erf);
}

inline F activated(F x, Activation kind) {
  switch (kind) {
    case Activation::relu: return max(x, all(0));
    case Activation::gelu: return gelu(x);
    case Activation::silu: return x * sigmoid(x);
    default: return x;
  }
}

// Calls f(offset, count) for the vectors of a row.
template <class Each>
inline void vectors(int64_t width, Each f) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) f(i, kLanes);
  if (i < width) f(i, int(width - i));
}

inline F load_some(const float* p, int n) { return n == kLanes ? load(p) : load(p, n); }
inline void store_some(float* p, F x, int n) { n == kLanes ? store(p, x) : store(p, x, n); }

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

// clang-format off: each needs the one before
#include "products.inl"
#include "attention.inl"
#include "rows.inl"

namespace tynda {
namespace TYNDA_ISA {
namespace {

constexpr Kernels kKernels = {
    TYNDA_NAME, kPanel, kZero, kTile, multiply, multiply_8, quantize,
    {Floats::key_bytes, Floats::value_bytes, Floats::pack_keys, Floats::pack_values,
     attention_scratch<Floats>, attention<Floats>, attention_weights<Floats>},
    {Codes::key_bytes, Codes::value_bytes, Codes::pack_keys, Codes::pack_values,
     attention_scratch<Codes>, attention<Codes>, attention_weights<Codes>},
    layer_norm, log_softmax, activate, glu, add, scale, affine, depthwise, lstm,
};

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

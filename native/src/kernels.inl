// The kernels, written with the vector functions that each simd_*.h defines. An isa_*.cpp compiles
// them for its instruction set, in a namespace of its own.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <utility>

#include "kernels.h"

namespace tynda {
namespace TYNDA_ISA {
namespace {

constexpr int kPanel = kLanes * kVectors;

// Functions that pass arrays of sums are always inlined, or the sums would go through memory.
#define TYNDA_INLINE [[gnu::always_inline]] inline

// ---- functions of one vector

// exp(x) = 2^n * (1 + r + r * r * y) for x from -87.3 to 87.3 (Cody & Waite's reduction, Cephes'
// polynomial).
struct Exponential {
  I n;
  F r, y;
};

inline Exponential exponential(F x) {
  const I n = round_to_int(x * set1(1.44269504f));
  F r = fma(to_float(n), set1(-0.693359375f), x);
  r = fma(to_float(n), set1(2.12194440e-4f), r);
  F y = set1(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                  5.0000001201e-1f})
    y = fma(y, r, set1(c));
  return {n, r, y};
}

// exp(x) within 2 ulp for x from -87.3 to 87.3, and beyond that the value at the limit, so that
// later steps see neither infinity nor subnormal numbers, which are slow.
inline F exp(F x) {
  const Exponential e = exponential(min(max(x, set1(-87.3f)), set1(87.3f)));
  return fma(e.y, e.r * e.r, e.r + set1(1)) * exp2_int(e.n);
}

// 2^x within 2e-7 for x up to 127; below -126 the value at -126. 2^0 is exactly 1 (minimax
// polynomial).
inline F exp2(F x) {
  x = max(x, set1(-126));
  const F r = fraction(x);
  F y = set1(1.867130166e-3f);
  for (float c : {9.017029777e-3f, 5.579991266e-2f, 2.401644439e-1f, 6.931512952e-1f, 1.0f})
    y = fma(y, r, set1(c));
  return times_exp2_floor(y, x);
}

// log(x) of a normal number above 0, within about 1 ulp: x = 2^n m with m from sqrt(1/2) to
// sqrt(2), so that it is accurate near 1 (Cephes' polynomial).
inline F log(F x) {
  const F n = to_float(exponent(x * set1(1.41421356f)));
  const F m = x * exp2_int(round_to_int(set1(0) - n)) - set1(1);
  F y = set1(7.0376836292e-2f);
  for (float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                  -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
    y = fma(y, m, set1(c));
  y = fma(n, set1(-2.12194440e-4f), y * m * (m * m));
  return fma(n, set1(0.693359375f), m + fma(set1(-0.5f), m * m, y));
}

inline F sigmoid(F x) { return set1(1) / (set1(1) + exp(set1(0) - x)); }
// Computed from exp(2 |x|) - 1, which is accurate for small x.
inline F tanh(F x) {
  const Exponential e = exponential(min(set1(2) * abs(x), set1(20)));
  const F power = exp2_int(e.n);
  const F more = fma(fma(e.y, e.r * e.r, e.r), power, power - set1(1));
  return copysign(more / (more + set1(2)), x);
}

// log(1 + |x| + x^2 / (1 + sqrt(1 + x^2))), corrected for the rounding of 1 + more. Large x are
// divided by `far`, so that the square does not overflow, and log(far) is added.
inline F asinh(F x) {
  const F size = abs(x), far = max(size * set1(1e-9f), set1(1)), near = size / far;
  const F more = near + near * near / (set1(1) + sqrt(fma(near, near, set1(1))));
  const F y = set1(1) + more;
  return copysign(log(y) + (more - (y - set1(1))) / y + log(far), x);
}

// x * Phi(x) with a polynomial in x * x instead of an exponential and a division. Phi is within
// 6e-7, and exactly 0 or 1 beyond 5.3 (minimax polynomial on Chebyshev nodes).
inline F gelu(F x) {
  const F near = min(max(x, set1(-5.3f)), set1(5.3f));
  const F u = fma(near * near, set1(2 / (5.3f * 5.3f)), set1(-1));
  F y = set1(1.413520426e-3f);
  for (float c : {-3.424717579e-3f, 2.625679597e-3f, -3.133652266e-3f, 8.883976378e-3f,
                  -1.469799224e-2f, 1.900819317e-2f, -2.489127405e-2f, 3.204883635e-2f,
                  -3.963554651e-2f, 4.926713929e-2f, -6.651699543e-2f, 1.333925277e-1f})
    y = fma(y, u, set1(c));
  return x * min(max(fma(near, y, set1(0.5f)), set1(0)), set1(1));
}

inline F activated(F x, Activation kind) {
  switch (kind) {
    case Activation::relu: return max(x, set1(0));
    case Activation::gelu: return gelu(x);
    case Activation::silu: return x * sigmoid(x);
    case Activation::tanh: return tanh(x);
    case Activation::asinh: return asinh(x);
    default: return x;
  }
}

// Calls f(offset, count) for each vector of a row; only the last count may be less than kLanes.
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

// clang-format off: the order matters
#include "products.inl"
#include "few.inl"
#if TYNDA_16_BITS
#include "narrow.inl"
#include "wide.inl"
#endif
#include "codes.inl"
#include "attention_forms.inl"
#include "attention.inl"
#include "relative.inl"
#include "rows.inl"
#include "spectra.inl"

namespace tynda {
namespace TYNDA_ISA {
namespace {

template <class Form>
constexpr AttentionKernels attention_kernels() {
  AttentionKernels kernels{};
  kernels.key_bytes = Form::key_bytes;
  kernels.value_bytes = Form::value_bytes;
  kernels.pack_keys = Form::pack_keys;
  kernels.pack_values = Form::pack_values;
  kernels.scratch = attention_scratch<Form>;
  kernels.attend = attention<Form>;
  return kernels;
}

constexpr Kernels all_kernels() {
  Kernels kernels{};
  kernels.name = TYNDA_NAME;
  kernels.panel = kPanel;
  kernels.zero = kZero;
  kernels.tile = kTile;
  kernels.matmul = matmul;
  kernels.matmul_8 = matmul_codes;
  kernels.quantize = quantize;
  kernels.attention = attention_kernels<FloatForm>();
  kernels.attention.weights = attention_weights<FloatForm>;
  kernels.attention_8 = attention_kernels<CodeForm>();
  kernels.attention_8.weights = attention_weights<CodeForm>;
  kernels.relative_attention = attention_kernels<RelativeForm>();
  kernels.layer_norm = layer_norm;
  kernels.log_softmax = log_softmax;
  kernels.activate = activate;
  kernels.glu = glu;
  kernels.swiglu = swiglu;
  kernels.rotary = rotary;
  kernels.add = add;
  kernels.scale = scale;
  kernels.affine = affine;
  kernels.moments = moments;
  kernels.depthwise = depthwise;
  kernels.lstm = lstm;
  kernels.spectra = spectra;
  return kernels;
}

constexpr Kernels kKernels = all_kernels();

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

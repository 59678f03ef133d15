// The sizes, ranges of numbers and plain formulas that the tests of kernels share.
#pragma once
#include <algorithm>
#include <cfloat>

#include "check.h"
#include "kernels.h"

namespace tynda::test {

// Empty, one, primes; below, at and above a vector, a panel and a tile.
constexpr int64_t kSizes[] = {0, 1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 29, 31, 32, 33, 64, 67, 257};
constexpr int64_t kRows[] = {0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 23, 24, 25, 31};
constexpr float kSpreads[] = {1e-30f, 0.1f, 1, 30, 1e15f};
constexpr Activation kActivations[] = {Activation::none, Activation::relu, Activation::gelu,
                                       Activation::silu, Activation::tanh, Activation::asinh};
constexpr float kExtremes[] = {0.0f,  -0.0f, 1e-45f, -1e-45f, FLT_MIN, 1e-7f, -1e-7f, 1,    -1,
                               5,     -5,    20,     -20,     87,      -87,   89,     -89,  104,
                               -104,  1e4f,  -1e4f,  1e18f,   -1e18f,  1e38f, -1e38f, FLT_MAX,
                               -FLT_MAX};

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

inline double activated(double x, Activation kind) {
  switch (kind) {
    case Activation::relu: return x > 0 ? x : 0;
    case Activation::gelu: return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case Activation::silu: return x * sigmoid(x);
    case Activation::tanh: return std::tanh(x);
    case Activation::asinh: return std::asinh(x);
    default: return x;
  }
}
// Codes without their zero, and the scale.
inline float quantize_row(const float* x, int64_t k, int64_t step, int8_t* codes,
                          float max_code = 127) {
  float max_abs = 0;
  for (int64_t i = 0; i < k; i++) max_abs = std::max(max_abs, std::fabs(x[i * step]));
  const float factor = max_code / max_abs;
  for (int64_t i = 0; i < k; i++)
    codes[i] = std::isinf(factor) ? 0 : int8_t(std::nearbyint(x[i * step] * factor));
  return max_abs / max_code;
}

// The same with a zero point, between a row's minimum and maximum.
inline float quantize_activations(const float* x, int64_t k, int8_t* codes, int* zero) {
  float high = 0, low = 0;
  for (int64_t i = 0; i < k; i++) high = std::max(high, x[i]), low = std::min(low, x[i]);
  high /= 2, low /= 2;
  const float factor = high - low < 4e-37f ? 0 : 127 / (high - low);
  *zero = -int(std::nearbyint((high + low) * factor));
  for (int64_t i = 0; i < k; i++)
    codes[i] = int8_t(std::clamp(std::nearbyint(x[i] * factor + float(*zero)), -127.0f, 127.0f));
  return (high - low) / 127;
}

}  // namespace tynda::test

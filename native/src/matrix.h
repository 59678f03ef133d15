// A weight matrix as the products read it.
#pragma once
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace tynda {

struct Kernels;

constexpr int64_t kAlign = 64;

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

struct AlignedDelete {
  void operator()(void* p) const { ::operator delete[](p, std::align_val_t(kAlign)); }
};
using Bytes = std::unique_ptr<uint8_t[], AlignedDelete>;

inline Bytes aligned_bytes(int64_t size) {
  return Bytes(new (std::align_val_t(kAlign)) uint8_t[size > 0 ? size : 1]);
}

// [n, k], stored in panels of `width` outputs, whose values for one k (f32) or four (8 bits)
// stand side by side: [n / width][k][width] or [n / width][k / 4][width][4]. What is past n or
// k is zero.
struct Matrix {
  int64_t n, k, width;
  bool integer;
  int zero;  // see Kernels
  Bytes data;
  std::vector<float> scale;    // 8 bits: of each output, n rounded up
  std::vector<int32_t> start;  // 8 bits: where each sum starts, so that `zero` falls out

  // Zeros.
  Matrix(const Kernels& kernels, int64_t n, int64_t k, bool integer);

  int64_t panels() const { return round_up(n, width) / width; }
  // k as it is stored, and as a row of activations has to be.
  int64_t depth() const { return integer ? round_up(k, 4) : k; }
  int64_t panel_bytes() const { return depth() * width * (integer ? 1 : 4); }
  // Output `i`: its weights as numbers [k].
  void row(int64_t i, float* y) const {
    const int64_t at = i % width;
    const uint8_t* panel = data.get() + i / width * panel_bytes();
    for (int64_t j = 0; j < k; j++)
      y[j] = integer ? scale[i] * float(int8_t(panel[(j / 4 * width + at) * 4 + j % 4]))
                     : reinterpret_cast<const float*>(panel)[j * width + at];
  }
  int64_t bytes() const {
    return panels() * (panel_bytes() + (integer ? 8 * width : 0));
  }
};

}  // namespace tynda

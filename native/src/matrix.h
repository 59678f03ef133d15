// Weight matrices in the layout of matrix products.
#pragma once
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

namespace tynda {

struct Kernels;

constexpr int64_t kAlign = 64;

// The number of inputs in a block of codes of fewer than 8 bits.
constexpr int64_t kBlockInputs = 32;

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

struct AlignedDelete {
  void operator()(void* p) const { ::operator delete[](p, std::align_val_t(kAlign)); }
};
using Bytes = std::unique_ptr<uint8_t[], AlignedDelete>;

inline Bytes aligned_bytes(int64_t size) {
  // A 32-bit process cannot address more.
  if (uint64_t(size) > SIZE_MAX / 2 && size > 0) throw std::bad_alloc();
  return Bytes(new (std::align_val_t(kAlign)) uint8_t[size > 0 ? size : 1]);
}

// The sizes of a matrix [n outputs, k inputs], whose outputs are interleaved in panels of `width`.
struct Shape {
  int64_t n, k, width;
  int bits;       // 32, 8, 4, 3 or 2
  int64_t group;  // below 8 bits, the number of inputs that share step and offset, a multiple of 32

  // `group` 0 stands for all inputs.
  Shape(int64_t n, int64_t k, int64_t width, int bits, int64_t group)
      : n(n), k(k), width(width), bits(bits),
        group(group ? group : std::max(kBlockInputs, round_up(k, kBlockInputs))) {
    constexpr int kBits[] = {32, 8, 4, 3, 2};
    if (n < 0 || k < 0 || group < 0 || group % kBlockInputs ||
        std::find(std::begin(kBits), std::end(kBits), bits) == std::end(kBits))
      throw std::invalid_argument("no product has such a weight");
  }

  bool few() const { return bits < 8; }
  int64_t panels() const { return round_up(n, width) / width; }
  int64_t blocks() const { return round_up(k, kBlockInputs) / kBlockInputs; }
  int64_t block_bytes() const { return kBlockInputs * width * bits / 8; }
  int64_t groups() const { return std::max<int64_t>(1, round_up(k, group) / group); }
  // The index of step and offset of group `g` of output `i`.
  int64_t steps_index(int64_t i, int64_t g) const {
    return 2 * ((i / width * groups() + g) * width + i % width);
  }
  // The number of inputs in memory, which is also that of a row of activations' codes.
  int64_t depth() const { return bits == 32 ? k : round_up(k, 4); }
  int64_t panel_bytes() const {
    return few() ? blocks() * block_bytes() : depth() * width * bits / 8;
  }
  int64_t bytes() const {
    return panels() * (panel_bytes() + (bits == 32 ? 0 : 8 * width) +
                       (few() ? 2 * groups() * width : 0));
  }
};

// A matrix [n, k] in panels of `width` outputs. The values of one k (float32) or of four (8 bits)
// are adjacent for all outputs of a panel: [n / width][k][width] or [n / width][k / 4][width][4].
// Padding past n or k is zero.
//
// In 4, 3 or 2 bits, code u of a group stands for the 8-bit code step * u + offset. The codes of 32
// inputs are stored in as many planes as they have bits: [n / width][k / 32][bits][width][4]. They
// are eight groups of four inputs; four s is in plane s % bits, shifted left by s / bits * bits. In
// 3 bits, this holds for the lower two bits of each code, and the third is bit s of the last plane.
struct Matrix : Shape {
  Bytes data;
  std::vector<float> scale;    // up to 8 bits: one for each output, n padded
  std::vector<int32_t> sums;   // of each output's codes, which a product multiplies by zero points
  std::vector<int8_t> steps;   // below 8 bits: step and offset [n / width][groups][width][2]

  // Creates a matrix of zeros.
  Matrix(const Kernels& kernels, int64_t n, int64_t k, int bits, int64_t group = 0);

  // Writes the weights of output `i` to y [k] as float32.
  void row(int64_t i, float* y) const {
    const int64_t at = i % width;
    const uint8_t* panel = data.get() + i / width * panel_bytes();
    for (int64_t j = 0; j < k; j++)
      y[j] = bits == 32 ? reinterpret_cast<const float*>(panel)[j * width + at]
                        : scale[i] * float(few() ? code_value(i, j)
                                                 : int8_t(panel[(j / 4 * width + at) * 4 + j % 4]));
  }

 private:
  // The 8-bit code of input `j` in a matrix of fewer bits.
  int code_value(int64_t i, int64_t j) const {
    const uint8_t* block = data.get() + i / width * panel_bytes() +
                           j / kBlockInputs * block_bytes() + i % width * 4 + j % 4;
    const auto part = [&](int64_t plane, int size) {
      const int64_t s = j % kBlockInputs / 4;
      return block[(plane + s % size) * 4 * width] >> (s / size * size) & ((1 << size) - 1);
    };
    const int code = bits == 3 ? part(0, 2) | part(2, 1) << 2 : part(0, bits);
    const int8_t* step = &steps[steps_index(i, j / group)];
    return step[0] * code + step[1];
  }
};

}  // namespace tynda

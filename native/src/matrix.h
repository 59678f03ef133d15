// A weight matrix as the products read it.
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

// Inputs of a block of codes in less than 8 bits.
constexpr int64_t kBlockInputs = 32;

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

struct AlignedDelete {
  void operator()(void* p) const { ::operator delete[](p, std::align_val_t(kAlign)); }
};
using Bytes = std::unique_ptr<uint8_t[], AlignedDelete>;

inline Bytes aligned_bytes(int64_t size) {
  if (uint64_t(size) > SIZE_MAX / 2 && size > 0) throw std::bad_alloc();  // beyond 32-bit memory
  return Bytes(new (std::align_val_t(kAlign)) uint8_t[size > 0 ? size : 1]);
}

// The sizes of a matrix, known before its memory exists. `width` outputs are interleaved.
struct Shape {
  int64_t n, k, width;
  int bits;       // 32, 8, 4, 3 or 2
  int64_t group;  // below 8 bits: inputs, a multiple of 32

  // `group` 0: a whole row.
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
  // Step and offset of a group of output `i`.
  int64_t steps_index(int64_t i, int64_t g) const {
    return 2 * ((i / width * groups() + g) * width + i % width);
  }
  // k as products read it, and as a row of activations has to be.
  int64_t depth() const { return bits == 32 ? k : round_up(k, 4); }
  int64_t panel_bytes() const {
    return few() ? blocks() * block_bytes() : depth() * width * bits / 8;
  }
  int64_t bytes() const {
    return panels() * (panel_bytes() + (bits == 32 ? 0 : 8 * width) +
                       (few() ? 2 * groups() * width : 0));
  }
};

// [n, k], stored in panels of `width` outputs, whose values for one k (f32) or four (8 bits)
// stand side by side: [n / width][k][width] or [n / width][k / 4][width][4]. What is past n or
// k is zero.
//
// In 4, 3 or 2 bits, code u of a group of inputs counts step * u + offset in 8 bits. The codes of
// 32 inputs are as many planes as they have bits: [n / width][k / 32][bits][width][4]. Of the
// eight fours of inputs, four s is in plane s % bits, s / bits * bits bits up; in 3 bits it is so
// with the lower two of them, and the third is bit s of the last plane.
struct Matrix : Shape {
  int zero;       // see Kernels
  Bytes data;
  std::vector<float> scale;    // from 8 bits down: of each output, n rounded up
  std::vector<int32_t> correction;  // the same: where each sum starts, so that `zero` falls out
  std::vector<int8_t> steps;   // below 8 bits: step, offset; [n / width][groups][width][2]

  // Zeros.
  Matrix(const Kernels& kernels, int64_t n, int64_t k, int bits, int64_t group = 0);

  // Output `i`: its weights as numbers [k].
  void row(int64_t i, float* y) const {
    const int64_t at = i % width;
    const uint8_t* panel = data.get() + i / width * panel_bytes();
    for (int64_t j = 0; j < k; j++)
      y[j] = bits == 32 ? reinterpret_cast<const float*>(panel)[j * width + at]
                        : scale[i] * float(few() ? code_value(i, j)
                                                 : int8_t(panel[(j / 4 * width + at) * 4 + j % 4]));
  }

 private:
  // Below 8 bits: what the code of input `j` counts.
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

// Brings rows of weights into the panels of a Matrix.
#pragma once
#include <stdexcept>

#include "kernels.h"

namespace tynda {

// Rows [first, first + count) from numbers [count, k].
inline void put(Matrix& m, int64_t first, int64_t count, const float* from) {
  auto* to = reinterpret_cast<float*>(m.data.get());
  for (int64_t i = first; i < first + count; i++)
    for (int64_t j = 0; j < m.k; j++)
      to[(i / m.width * m.k + j) * m.width + i % m.width] = *from++;
}

inline void put_code(Matrix& m, int64_t row, int64_t column, int8_t code) {
  uint8_t* panel = m.data.get() + row / m.width * m.panel_bytes();
  panel[(column / 4 * m.width + row % m.width) * 4 + column % 4] = uint8_t(code);
  m.start[row] -= m.zero * code;
}

// The same from codes, with a scale for each row.
inline void put_8(Matrix& m, int64_t first, int64_t count, const int8_t* from,
                  const float* scale) {
  for (int64_t i = 0; i < count; i++) {
    m.scale[first + i] = scale[i];
    for (int64_t j = 0; j < m.k; j++) {
      if (*from == -128) throw std::invalid_argument("codes must be from -127 to 127");
      put_code(m, first + i, j, *from++);
    }
  }
}

// The same from numbers that are rounded here, as activations are.
inline void put_rounded(Matrix& m, const Kernels& kernels, int64_t first, int64_t count,
                        const float* from) {
  std::vector<uint8_t> codes(m.depth());
  for (int64_t i = 0; i < count; i++) {
    kernels.quantize(from + i * m.k, m.k, 1, m.k, m.depth(), codes.data(), &m.scale[first + i]);
    for (int64_t j = 0; j < m.k; j++) put_code(m, first + i, j, int8_t(int(codes[j]) - m.zero));
  }
}

}  // namespace tynda

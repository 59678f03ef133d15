// Brings rows of weights into the panels of a Matrix.
#pragma once
#include <cstring>
#include <stdexcept>
#include <vector>

#include "kernels.h"

namespace tynda {

// Rows [first, first + count) from numbers [count, k].
inline void put(Matrix& m, int64_t first, int64_t count, const float* from) {
  auto* to = reinterpret_cast<float*>(m.data.get());
  for (int64_t i = first; i < first + count; i++)
    for (int64_t j = 0; j < m.k; j++)
      to[(i / m.width * m.k + j) * m.width + i % m.width] = *from++;
}

// Codes [depth] of one row.
inline void put_codes(Matrix& m, int64_t row, const int8_t* codes) {
  uint8_t* to = m.data.get() + row / m.width * m.panel_bytes() + row % m.width * 4;
  int32_t sum = 0;
  for (int64_t j = 0; j < m.depth(); j += 4) {
    std::memcpy(to + j * m.width, codes + j, 4);
    sum += codes[j] + codes[j + 1] + codes[j + 2] + codes[j + 3];
  }
  m.start[row] = -m.zero * sum;
}

// The same from codes, with a scale for each row.
inline void put_8(Matrix& m, int64_t first, int64_t count, const int8_t* from,
                  const float* scale) {
  std::vector<int8_t> codes(m.depth());
  for (int64_t i = 0; i < count; i++, from += m.k) {
    for (int64_t j = 0; j < m.k; j++) {
      if (from[j] == -128) throw std::invalid_argument("codes must be from -127 to 127");
      codes[j] = from[j];
    }
    m.scale[first + i] = scale[i];
    put_codes(m, first + i, codes.data());
  }
}

// The same from numbers that are rounded here, as activations are.
inline void put_rounded(Matrix& m, const Kernels& kernels, int64_t first, int64_t count,
                        const float* from) {
  std::vector<uint8_t> rounded(m.depth());
  std::vector<int8_t> codes(m.depth());
  for (int64_t i = 0; i < count; i++) {
    kernels.quantize(from + i * m.k, m.k, 1, m.k, m.depth(), rounded.data(), &m.scale[first + i]);
    for (int64_t j = 0; j < m.depth(); j++) codes[j] = int8_t(int(rounded[j]) - m.zero);
    put_codes(m, first + i, codes.data());
  }
}

}  // namespace tynda

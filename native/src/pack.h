// Brings weights [n, k] into the panels of a Matrix.
#pragma once
#include <algorithm>
#include <stdexcept>

#include "kernels.h"

namespace tynda {

inline Matrix empty_matrix(const Kernels& kernels, int64_t n, int64_t k, bool integer) {
  Matrix m{n, k, kernels.panel, integer, nullptr, {}, {}};
  const int64_t size = m.panels() * m.panel_bytes();
  m.data = aligned_bytes(size);
  std::fill(m.data.get(), m.data.get() + size, uint8_t(0));
  return m;
}

inline Matrix pack(const Kernels& kernels, const float* weight, int64_t n, int64_t k) {
  Matrix m = empty_matrix(kernels, n, k, false);
  auto* to = reinterpret_cast<float*>(m.data.get());
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < k; j++)
      to[(i / m.width * k + j) * m.width + i % m.width] = weight[i * k + j];
  return m;
}

// `scale`: of each output.
inline Matrix pack_8(const Kernels& kernels, const int8_t* codes, const float* scale, int64_t n,
                     int64_t k) {
  Matrix m = empty_matrix(kernels, n, k, true);
  m.scale.assign(m.panels() * m.width, 0);
  m.start.assign(m.panels() * m.width, 0);
  for (int64_t i = 0; i < n; i++) {
    uint8_t* panel = m.data.get() + i / m.width * m.panel_bytes();
    m.scale[i] = scale[i];
    for (int64_t j = 0; j < k; j++) {
      const int8_t code = codes[i * k + j];
      if (code == -128) throw std::invalid_argument("codes must be from -127 to 127");
      panel[(j / 4 * m.width + i % m.width) * 4 + j % 4] = uint8_t(code);
      m.start[i] -= kernels.zero * code;
    }
  }
  return m;
}

}  // namespace tynda

// Packing of rows of weights into the panels of a Matrix.
#pragma once
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "kernels.h"

namespace tynda {

// Sources of float32 need no alignment: files with a header of odd length have none.

// Packs rows [first, first + count) from float32 [count, k].
inline void pack_float32(Matrix& m, int64_t first, int64_t count, const void* from) {
  auto* to = reinterpret_cast<float*>(m.data.get());
  const auto* bytes = static_cast<const uint8_t*>(from);
  for (int64_t i = first; i < first + count; i++)
    for (int64_t j = 0; j < m.k; j++, bytes += sizeof(float))
      std::memcpy(to + (i / m.width * m.k + j) * m.width + i % m.width, bytes, sizeof(float));
}

// Packs one row from 8-bit codes [depth].
inline void pack_row(Matrix& m, int64_t row, const int8_t* codes) {
  uint8_t* to = m.data.get() + row / m.width * m.panel_bytes() + row % m.width * 4;
  int32_t sum = 0;
  for (int64_t j = 0; j < m.depth(); j += 4) {
    std::memcpy(to + j * m.width, codes + j, 4);
    sum += codes[j] + codes[j + 1] + codes[j + 2] + codes[j + 3];
  }
  m.sums[row] = sum;
}

// Packs rows from 8-bit codes [count, k] and a float32 scale for each row.
inline void pack_int8(Matrix& m, int64_t first, int64_t count, const int8_t* from,
                  const void* scale) {
  std::vector<int8_t> codes(m.depth());
  if (count) std::memcpy(&m.scale[first], scale, count * sizeof(float));
  for (int64_t i = 0; i < count; i++, from += m.k) {
    for (int64_t j = 0; j < m.k; j++) {
      if (from[j] == -128) throw std::invalid_argument("codes must be from -127 to 127");
      codes[j] = from[j];
    }
    pack_row(m, first + i, codes.data());
  }
}

// Packs one row from codes [blocks, 32] of fewer than 8 bits, and step and offset of each group.
inline void pack_planes(Matrix& m, int64_t row, const uint8_t* codes, const uint8_t* step,
                    const int8_t* offset) {
  uint8_t* to = m.data.get() + row / m.width * m.panel_bytes() + row % m.width * 4;
  for (int64_t b = 0; b < m.blocks(); b++, codes += kBlockInputs, to += m.block_bytes()) {
    uint32_t planes[4] = {};
    for (int s = 0; s < 8; s++) {
      uint32_t four;
      std::memcpy(&four, codes + 4 * s, 4);
      const int low = m.bits == 3 ? 2 : m.bits;
      planes[s % low] |= (four & (0x01010101u * ((1 << low) - 1))) << (s / low * low);
      if (m.bits == 3) planes[2] |= (four >> 2 & 0x01010101u) << s;
    }
    for (int i = 0; i < m.bits; i++) std::memcpy(to + i * 4 * m.width, planes + i, 4);
  }
  codes -= m.blocks() * kBlockInputs;
  int32_t sum = 0;
  for (int64_t g = 0; g < m.groups(); g++) {
    const int64_t first = g * m.group, last = std::min(m.depth(), first + m.group);
    int32_t all = 0;
    for (int64_t j = first; j < last; j++) all += codes[j];
    sum += step[g] * all + offset[g] * int32_t(last - first);
    m.steps[m.steps_index(row, g)] = int8_t(step[g]);  // at max_code 127, because step * code is
    m.steps[m.steps_index(row, g) + 1] = offset[g];
  }
  m.sums[row] = sum;
}

// Packs rows from codes of fewer than 8 bits, in the format of weights/pack.py, with `row_bytes`
// for each row. `ternary`: codes are digits to base 3. Steps and offsets are [count, groups].
inline void pack_few(Matrix& m, int64_t first, int64_t count, const uint8_t* from,
                    int64_t row_bytes, bool ternary, const void* scale, const uint8_t* step,
                    const int8_t* offset) {
  if (count) std::memcpy(&m.scale[first], scale, count * sizeof(float));
  const int max_code = ternary ? 2 : (1 << m.bits) - 1;
  std::vector<uint8_t> codes(m.blocks() * kBlockInputs);
  for (int64_t i = 0; i < count; i++, from += row_bytes, step += m.groups(), offset += m.groups()) {
    for (int64_t g = 0; g < m.groups(); g++)
      if (offset[g] == -128 || max_code * step[g] + offset[g] > 127)
        throw std::invalid_argument("codes must count from -127 to 127");
    for (int64_t j = 0; j < m.k; j++) {
      if (ternary) {
        constexpr uint8_t kPowers[] = {1, 3, 9, 27, 81};
        codes[j] = from[j / 5] / kPowers[j % 5] % 3;
      } else {
        const int64_t bit = j * m.bits, byte = bit / 8;
        const int two = from[byte] | (bit % 8 + m.bits > 8 ? from[byte + 1] << 8 : 0);
        codes[j] = uint8_t(two >> bit % 8 & max_code);
      }
    }
    pack_planes(m, first + i, codes.data(), step, offset);
  }
}

// Packs rows of an 8-bit matrix from float32 [count, k], which it rounds without zero points.
inline void pack_rounded(Matrix& m, const Kernels& kernels, int64_t first, int64_t count,
                        const void* from) {
  std::vector<float> row(m.k);
  std::vector<uint8_t> rounded(m.depth());
  std::vector<int8_t> codes(m.depth());
  for (int64_t i = 0; i < count; i++) {
    std::memcpy(row.data(), static_cast<const uint8_t*>(from) + 4 * i * m.k, 4 * m.k);
    Rounding rounding;
    kernels.quantize(row.data(), m.k, 1, m.k, m.depth(), true, rounded.data(), &rounding);
    m.scale[first + i] = rounding.scale;
    for (int64_t j = 0; j < m.depth(); j++) codes[j] = int8_t(int(rounded[j]) - rounding.zero);
    pack_row(m, first + i, codes.data());
  }
}

}  // namespace tynda

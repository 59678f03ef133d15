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

// Digits to base 3 of a byte, the least significant first.
struct Digits {
  uint8_t of[256][5];
  constexpr Digits() : of() {
    for (int byte = 0; byte < 256; byte++)
      for (int i = 0, rest = byte; i < 5; i++, rest /= 3) of[byte][i] = uint8_t(rest % 3);
  }
};
inline constexpr Digits kDigits;

// Unpacks the codes of a row in the format of weights/pack.py. It writes up to 7 codes more.
template <int Bits, bool Ternary>
inline void unpack(const uint8_t* from, int64_t count, uint8_t* codes) {
  if constexpr (Ternary) {
    for (int64_t j = 0; j < count; j += 5) std::memcpy(codes + j, kDigits.of[*from++], 5);
  } else if constexpr (Bits == 3) {  // eight codes in three bytes, of which a row may lack the last
    const uint8_t* const end = from + (count * 3 + 7) / 8;
    for (int64_t j = 0; j < count; j += 8, from += 3) {
      const uint32_t second = from + 1 < end ? from[1] : 0, third = from + 2 < end ? from[2] : 0;
      const uint32_t eight = from[0] | second << 8 | third << 16;
      for (int i = 0; i < 8; i++) codes[j + i] = eight >> 3 * i & 7;
    }
  } else {
    constexpr int kCodes = 8 / Bits;
    for (int64_t j = 0; j < count; j += kCodes, from++)
      for (int i = 0; i < kCodes; i++) codes[j + i] = *from >> Bits * i & ((1 << Bits) - 1);
  }
}

// Packs one row from codes [blocks, 32] of fewer than 8 bits, and step and offset of each group.
template <int Bits>
inline void pack_planes(Matrix& m, int64_t row, const uint8_t* codes, const uint8_t* step,
                        const int8_t* offset) {
  uint8_t* to = m.data.get() + row / m.width * m.panel_bytes() + row % m.width * 4;
  for (int64_t b = 0; b < m.blocks(); b++, codes += kBlockInputs, to += m.block_bytes()) {
    constexpr int kLow = Bits == 3 ? 2 : Bits;
    uint32_t planes[4] = {};
    for (int s = 0; s < 8; s++) {
      uint32_t four;
      std::memcpy(&four, codes + 4 * s, 4);
      planes[s % kLow] |= (four & (0x01010101u * ((1 << kLow) - 1))) << (s / kLow * kLow);
      if (Bits == 3) planes[2] |= (four >> 2 & 0x01010101u) << s;
    }
    for (int i = 0; i < Bits; i++) std::memcpy(to + i * 4 * m.width, planes + i, 4);
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

template <int Bits, bool Ternary = false>
inline void pack_few_rows(Matrix& m, int64_t first, int64_t count, const uint8_t* from,
                          int64_t row_bytes, const uint8_t* step, const int8_t* offset) {
  constexpr int kMaxCode = Ternary ? 2 : (1 << Bits) - 1;
  std::vector<uint8_t> codes(m.blocks() * kBlockInputs + 8);
  for (int64_t i = 0; i < count; i++, from += row_bytes, step += m.groups(), offset += m.groups()) {
    for (int64_t g = 0; g < m.groups(); g++)
      if (offset[g] == -128 || kMaxCode * step[g] + offset[g] > 127)
        throw std::invalid_argument("codes must count from -127 to 127");
    unpack<Bits, Ternary>(from, m.k, codes.data());
    std::fill(codes.begin() + m.k, codes.end(), uint8_t(0));
    pack_planes<Bits>(m, first + i, codes.data(), step, offset);
  }
}

// Packs rows from codes of fewer than 8 bits, in the format of weights/pack.py, with `row_bytes`
// for each row. `ternary`: codes are digits to base 3. Steps and offsets are [count, groups].
inline void pack_few(Matrix& m, int64_t first, int64_t count, const uint8_t* from,
                     int64_t row_bytes, bool ternary, const void* scale, const uint8_t* step,
                     const int8_t* offset) {
  if (count) std::memcpy(&m.scale[first], scale, count * sizeof(float));
  const auto pack = ternary       ? pack_few_rows<2, true>
                    : m.bits == 2 ? pack_few_rows<2>
                    : m.bits == 3 ? pack_few_rows<3>
                                  : pack_few_rows<4>;
  pack(m, first, count, from, row_bytes, step, offset);
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

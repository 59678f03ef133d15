// Products of many rows with a weight in 8 bits by way of 16 bits, which need no signs moved;
// included by kernels.inl.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

constexpr int64_t kWideRows = 4;         // with fewer rows, their copy takes longer than it saves
constexpr int64_t kWideCodes = 1 << 15;  // the number of codes that are copied at a time

void matmul_wide(const uint8_t* x, int64_t ldx, const Rounding* roundings, int64_t rows,
                 const Matrix& w, int64_t begin, int64_t end, float* y, int64_t ldy,
                 const Epilogue& epilogue) {
  const int64_t depth = w.depth(), most = kWideCodes / depth / kTile * kTile;
  int16_t codes[kWideCodes];
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = std::min(most, rows - first);
    for (int64_t i = 0; i < count; i++) widen(x + (first + i) * ldx, depth, codes + i * depth);
    for (int64_t p = begin; p < end; p++)
      tiles(count, [&](int64_t r, auto size) {
        constexpr int kRows = size();
        I sums[kRows][kVectors];
        for (int j = 0; j < kVectors; j++) {
          I halves[kRows][2];
          for (auto& row : halves) row[0] = row[1] = zeros();
          const uint8_t* panel = w.data.get() + p * depth * kPanel + 4 * j * kLanes;
          for (int64_t k = 0; k < depth; k += 4)
            step_wide(halves, codes + r * depth + k, depth, panel + k * kPanel);
          for (int i = 0; i < kRows; i++)
            sums[i][j] = joined(halves[i]) +
                         zero_term(w, p * kPanel + j * kLanes, roundings[first + r + i]);
        }
        finish_8<kRows>(sums, w, p, roundings, first + r, y, ldy, epilogue);
      });
  }
}

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

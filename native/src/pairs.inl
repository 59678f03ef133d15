// Products of codes by an instruction that multiplies two rows with two outputs; included by
// products.inl.
//
// Weights stay in the layout of a Matrix, which single rows are multiplied with. Pieces of a panel
// are arranged for many rows: each eight inputs are [panel][8] instead of [2][panel][4].
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

// Arranges `depth` inputs of a panel, rounded up to eights by zeros. `to` may be the same memory.
inline void arrange(const uint8_t* from, int64_t depth, uint8_t* to) {
  constexpr int kVector = 4 * kLanes, kFour = 4 * kPanel;
  for (int64_t k = 0; k < depth; k += 8, from += 2 * kFour, to += 2 * kFour) {
    B first[kVectors], last[kVectors];
    for (int j = 0; j < kVectors; j++) {
      first[j] = load_codes(from + j * kVector);
      last[j] = k + 4 < depth ? load_codes(from + kFour + j * kVector) : B{};
    }
    for (int j = 0; j < kVectors; j++) {
      store(to + 2 * j * kVector, first_outputs(first[j], last[j]));
      store(to + (2 * j + 1) * kVector, last_outputs(first[j], last[j]));
    }
  }
}

// Arranges rows of codes in pairs, [rows / 2][ld / 8][2][8]; codes past `depth`, up to a multiple of
// eight, and the row that an odd number lacks, are 0.
inline void arrange_rows(const uint8_t* x, int64_t ldx, int64_t rows, int64_t depth, uint8_t* to,
                         int64_t ld) {
  for (int64_t i = 0; i < round_up(rows, 2); i++) {
    uint8_t* const row = to + i / 2 * 2 * ld + i % 2 * 8;
    for (int64_t k = 0; k < depth; k += 8) {
      uint64_t codes = 0;
      if (i < rows) std::memcpy(&codes, x + i * ldx + k, k + 8 <= depth ? 8 : 4);
      std::memcpy(row + 2 * k, &codes, 8);
    }
  }
}

// The products of rows with an arranged panel. `InPairs`: the rows are arranged too.
template <auto Dot, bool InPairs = false>
struct PairProducts {
  using Code = uint8_t;
  using Sum = I;
  static constexpr int kDepth = 8;
  static constexpr bool kEights = true;
  template <int Rows>
  TYNDA_INLINE static int64_t eights(I (&sums)[Rows][kVectors], const uint8_t* x, int64_t ldx,
                                     const uint8_t* w, int64_t depth) {
    constexpr int kPairs = (Rows + 1) / 2;
    I squares[kPairs][2 * kVectors];
    for (auto& pair : squares)
      for (I& s : pair) s = zeros();
    for (int64_t k = 0; k < depth; k += 8) {
      const uint8_t* const now = w + k * kPanel;
      for (int i = 0; i < 8 * kPanel; i += kAlign) __builtin_prefetch(now + kPrefetchBytes + i);
      B b[2 * kVectors];
      for (int j = 0; j < 2 * kVectors; j++) b[j] = load_codes(now + 4 * j * kLanes);
      for (int i = 0; i < kPairs; i++) {
        const uint8_t* const row = x + 2 * i * ldx + (InPairs ? 2 * k : k);
        const A a = InPairs ? load_pair(row) : load_pair(row, 2 * i + 1 < Rows ? row + ldx : row);
        for (int j = 0; j < 2 * kVectors; j++) squares[i][j] = Dot(squares[i][j], a, b[j]);
      }
    }
    for (int i = 0; i < Rows; i++)
      for (int j = 0; j < kVectors; j++) {
        const I one = squares[i / 2][2 * j], other = squares[i / 2][2 * j + 1];
        sums[i][j] = sums[i][j] + (i % 2 ? second_row(one, other) : first_row(one, other));
      }
    return depth;
  }
};

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

// Products of many rows with a weight of fewer than 8 bits, where sums in 16 bits make them faster
// than those of 8 bits; included by kernels.inl.
//
// A group contributes step * (sum of code * x) + offset * (sum of x), as with few rows. The codes
// of kPiece inputs at a time are expanded to bytes, and used for up to kManyRows rows.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

using FirstDot = CodeProducts<broadcast_plain, start_few, Pairs>;
using OffsetDot = CodeProducts<broadcast_plain, dot_words>;

// The inputs [first, end) of a panel: codes in the layout of an 8-bit Matrix, and for each block
// and output its step, twice, in 16 bits. Offsets are those of two blocks each, so that OffsetDot
// multiplies them with the sums of two blocks of x.
struct Piece {
  static constexpr int64_t kBlocks = kPiece / kBlockInputs;
  alignas(kAlign) uint8_t codes[kPiece * kPanel];
  alignas(kAlign) uint8_t steps[kBlocks][4 * kPanel];
  alignas(kAlign) uint8_t offsets[kBlocks / 2][4 * kPanel];
};

template <int Bits>
void expand(const Matrix& w, int64_t panel, int64_t first, int64_t end, Piece* piece) {
  I previous[kVectors];
  blocks<Bits>(w, panel, first, end, [&](int64_t k, const uint8_t* planes, const I* steps) {
    uint8_t* to = piece->codes + (k - first) * kPanel;
    each_four([&](auto s) {
      for (int j = 0; j < kVectors; j++)
        store(to + 4 * (s() * kPanel + j * kLanes), code<Bits, s()>(planes + 4 * j * kLanes));
    });
    const int64_t b = (k - first) / kBlockInputs;
    for (int j = 0; j < kVectors; j++) {
      store(piece->steps[b] + 4 * j * kLanes, low_words(steps[j], steps[j]));
      store(piece->offsets[b / 2] + 4 * j * kLanes,
            high_words(b % 2 ? previous[j] : steps[j], b % 2 ? steps[j] : zeros()));
      previous[j] = steps[j];
    }
  });
}

// The sums of the blocks of a row in 16 bits; if their number is odd, one more is 0.
void sum_blocks(const uint8_t* x, const Matrix& w, int16_t* sums) {
  static_assert(kBlockInputs == 4 * kLanes && kZero == 0);
  const uint8_t one[4] = {1, 1, 1, 1};
  const Plain ones = broadcast_plain(one);
  int64_t b = 0;
  for (; (b + 1) * kBlockInputs <= w.depth(); b++) {
    const I fours = dot_unsigned(zeros(), ones, load_codes(x + b * kBlockInputs));
    sums[b] = int16_t(reduce_sum(to_float(fours)));
  }
  for (; b < round_up(w.blocks(), 2); b++) sums[b] = int16_t(block_sum(w, x, b));
}

// Adds step * (sum of code * x) of the inputs [k, end) of a piece to the totals of Rows rows.
// `Whole`: they are whole blocks. x: the row's inputs of the piece.
template <int Rows, bool Whole>
TYNDA_INLINE void accumulate_narrow(I (&totals)[Rows][kVectors], const uint8_t* x, int64_t ldx,
                                    const Piece& piece, int64_t k, int64_t end) {
  for (; k < end; k += kBlockInputs) {
    Pairs sums[Rows][kVectors];
    each_four([&](auto s) {
      using Dot = std::conditional_t<s() == 0, FirstDot, FewDot>;
      const int64_t at = k + 4 * s();
      if (s() == 0 || Whole || at < end)
        Dot::template step<Rows>(sums, x + at, ldx, piece.codes + at * kPanel);
    });
    for (int j = 0; j < kVectors; j++) {
      const B step = load_codes(piece.steps[k / kBlockInputs] + 4 * j * kLanes);
      for (int i = 0; i < Rows; i++) totals[i][j] = add_pairs(totals[i][j], sums[i][j], step);
    }
  }
}

void matmul_narrow(const uint8_t* x, int64_t ldx, const Rounding* roundings, int64_t rows,
                   const Matrix& w, int64_t begin, int64_t end, float* y, int64_t ldy,
                   const Epilogue& epilogue) {
  const auto expand_piece = w.bits == 4 ? expand<4> : w.bits == 3 ? expand<3> : expand<2>;
  const int64_t depth = w.depth();
  int16_t x_sums[kManyRows][kMaxBlocks];
  Piece piece;
  I all[kManyRows][kVectors];
  for (int64_t first = 0; first < rows; first += kManyRows) {
    const int64_t count = std::min(kManyRows, rows - first);
    for (int64_t i = 0; i < count; i++) sum_blocks(x + (first + i) * ldx, w, x_sums[i]);
    for (int64_t p = begin; p < end; p++)
      for (int64_t k = 0; k == 0 || k < depth; k += kPiece) {  // once even without inputs
        const int64_t size = std::min(depth - k, kPiece), whole = size / kBlockInputs * kBlockInputs;
        expand_piece(w, p, k, k + size, &piece);
        tiles(count, [&](int64_t r, auto tile) {
          constexpr int kRows = tile();
          const uint8_t* const from = x + (first + r) * ldx + k;
          const int16_t* const sums_of_x = x_sums[r] + k / kBlockInputs;
          I sums[kRows][kVectors];
          if (k == 0) {
            init_sums(sums, w, p, roundings + first + r);
          } else {
            std::copy_n(&all[r][0], kRows * kVectors, &sums[0][0]);
          }
          accumulate<OffsetDot, kRows>(sums, reinterpret_cast<const uint8_t*>(sums_of_x),
                                       sizeof x_sums[0], piece.offsets[0],
                                       (size + 2 * kBlockInputs - 1) / (2 * kBlockInputs) * 4);
          accumulate_narrow<kRows, true>(sums, from, ldx, piece, 0, whole);
          accumulate_narrow<kRows, false>(sums, from, ldx, piece, whole, size);
          if (k + size == depth) {
            finish_8<kRows>(sums, w, p, roundings, first + r, y, ldy, epilogue);
          } else {
            std::copy_n(&sums[0][0], kRows * kVectors, &all[r][0]);
          }
        });
      }
  }
}

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

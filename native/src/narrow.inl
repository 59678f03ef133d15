// Products of many rows with a weight of fewer than 8 bits, where sums in 16 bits make them faster
// than those of 8 bits; included by kernels.inl.
//
// A group contributes step * (sum of code * x) + offset * (sum of x), as with few rows. The codes
// of kPiece inputs at a time are expanded to bytes, and used for up to kNarrowRows rows.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

constexpr int64_t kNarrowRows = 64;
using OffsetDot = CodeProducts<broadcast_plain, dot_words>;

// Sums of blocks of inputs in 16 bits, [rows, kMaxBlocks], or offsets of blocks for a panel of
// outputs, [blocks / 2][kPanel][2]: the operands of OffsetDot, for an even number of blocks.
using BlockSums = int16_t[kMaxBlocks];

void sum_blocks(const uint8_t* x, const Matrix& w, int16_t* sums) {
  static_assert(kBlockInputs == 4 * kLanes);
  const Plain ones = broadcast_plain((const uint8_t*)"\1\1\1\1");
  int64_t b = 0;
  for (; (b + 1) * kBlockInputs <= w.depth(); b++) {
    const I fours = dot_positive(zeros(), ones, load_codes(x + b * kBlockInputs));
    sums[b] = int16_t(reduce_sum(to_float(fours)));
  }
  for (; b < round_up(w.blocks(), 2); b++) sums[b] = int16_t(block_sum(w, x, b));
}

// Steps and offsets of the blocks of a panel, as words of 16 bits.
struct Steps {
  alignas(kAlign) uint8_t steps[kMaxBlocks][4 * kPanel];  // each twice, for each block
  alignas(kAlign) uint8_t offsets[kMaxBlocks / 2][4 * kPanel];  // of two blocks
};

void read_steps(const Matrix& w, int64_t panel, Steps* to) {
  const auto load = [&](int64_t block, int j) {
    const int64_t k = std::min(block, w.blocks() - 1) * kBlockInputs;  // sums past the end are 0
    return load_steps(&w.steps[w.steps_index(panel * kPanel + j * kLanes, k / w.group)]);
  };
  for (int64_t b = 0; b < w.blocks(); b += 2)
    for (int j = 0; j < kVectors; j++) {
      const I first = load(b, j), second = load(b + 1, j);
      store(to->steps[b] + 4 * j * kLanes, low_words(first, first));
      store(to->steps[b + 1] + 4 * j * kLanes, low_words(second, second));
      store(to->offsets[b / 2] + 4 * j * kLanes, high_words(first, second));
    }
}

// Expands the inputs [first, end) of a panel to bytes, in the layout of an 8-bit Matrix.
template <int Bits>
void expand(const Matrix& w, int64_t panel, int64_t first, int64_t end, uint8_t* codes) {
  blocks<Bits>(w, panel, first, end, [&](int64_t k, const uint8_t* planes, const I*) {
    uint8_t* to = codes + (k - first) * kPanel;
    each_four([&](auto s) {
      for (int j = 0; j < kVectors; j++)
        store(to + 4 * (s() * kPanel + j * kLanes), code<Bits, s()>(planes + 4 * j * kLanes));
    });
  });
}

// Adds step * (sum of code * x) of the inputs [k, end) to the totals of Rows rows. `Whole`: they are
// whole blocks.
template <int Rows, bool Whole>
TYNDA_INLINE void accumulate_narrow(I (*totals)[kVectors], const uint8_t* x, int64_t ldx,
                                    const Steps& steps, const uint8_t* codes, int64_t k,
                                    int64_t end) {
  const auto* now = steps.steps + k / kBlockInputs;
  for (; k < end; k += kBlockInputs, codes += kBlockInputs * kPanel, now++) {
    Pairs sums[Rows][kVectors];
    for (auto& row : sums)
      for (Pairs& s : row) s = start_sum(0);
    each_four([&](auto s) {
      if (Whole || k + 4 * s() < end)
        FewDot::step<Rows>(sums, x + k + 4 * s(), ldx, codes + 4 * s() * kPanel);
    });
    for (int j = 0; j < kVectors; j++) {
      const B step = load_codes(*now + 4 * j * kLanes);
      for (int i = 0; i < Rows; i++) totals[i][j] = add_words(totals[i][j], sums[i][j], step);
    }
  }
}

void matmul_narrow(const uint8_t* x, int64_t ldx, const float* scale, int64_t rows,
                   const Matrix& w, int64_t begin, int64_t end, float* y, int64_t ldy,
                   const Epilogue& epilogue) {
  const auto to_bytes = w.bits == 4 ? expand<4> : w.bits == 3 ? expand<3> : expand<2>;
  const int64_t depth = w.depth(), whole = depth / kBlockInputs * kBlockInputs;
  alignas(kAlign) BlockSums x_sums[kNarrowRows];
  alignas(kAlign) uint8_t codes[kPiece * kPanel];
  Steps steps;
  I totals[kNarrowRows][kVectors];
  for (int64_t first = 0; first < rows; first += kNarrowRows) {
    const int64_t count = std::min(kNarrowRows, rows - first);
    for (int64_t i = 0; i < count; i++) sum_blocks(x + (first + i) * ldx, w, x_sums[i]);
    for (int64_t p = begin; p < end; p++) {
      read_steps(w, p, &steps);
      for (int64_t k = 0; k == 0 || k < depth; k += kPiece) {  // once even without inputs
        const int64_t stop = std::min(depth, k + kPiece);
        to_bytes(w, p, k, stop, codes);
        tiles(count, [&](int64_t r, auto size) {
          constexpr int kRows = size();
          const uint8_t* const from = x + (first + r) * ldx;
          I sums[kRows][kVectors];
          if (k == 0) {
            init_sums(sums, w, p);
            accumulate<OffsetDot, kRows>(sums, (const uint8_t*)x_sums[r], sizeof(BlockSums),
                                         steps.offsets[0], (w.blocks() + 1) / 2 * 4);
            std::copy_n(&sums[0][0], kRows * kVectors, &totals[r][0]);
          }
          accumulate_narrow<kRows, true>(totals + r, from, ldx, steps, codes, k,
                                         std::min(stop, whole));
          if (stop < depth) return;
          if (whole < depth)
            accumulate_narrow<kRows, false>(totals + r, from, ldx, steps,
                                            codes + (whole - k) * kPanel, whole, depth);
          std::copy_n(&totals[r][0], kRows * kVectors, &sums[0][0]);
          finish_8<kRows>(sums, w, p, scale, first + r, y, ldy, epilogue);
        });
      }
    }
  }
}

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

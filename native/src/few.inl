// Matrix products with a weight of fewer than 8 bits; included by kernels.inl.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

// Up to kFewRows rows (simd_avx2.h, simd_codes.h) are multiplied with the codes as they are, and
// sums of groups with their steps.
constexpr int64_t kMaxBlocks = 256;  // the maximum number of blocks in a row for that
// With more rows or inputs, kPiece inputs at a time are expanded to 8 bits, for up to kManyRows
// rows.
constexpr int64_t kPiece = 512;
constexpr int64_t kManyRows = 64;

// The codes of four inputs 4 S to 4 S + 3 of a block, for one vector of outputs.
template <int Bits, int S>
inline B code(const uint8_t* planes) {
  constexpr int kPlane = 4 * kPanel;
  if constexpr (Bits == 3) {
    return code<2, S>(planes) | extract_bits<S - 2, 4>(load_codes(planes + 2 * kPlane));
  } else {
    return extract_bits<S / Bits * Bits, (1 << Bits) - 1>(load_codes(planes + S % Bits * kPlane));
  }
}

// Calls f with constants 0 to 7, the indices of the groups of four inputs in a block.
template <class Use, int... S>
TYNDA_INLINE void each_four(Use f, std::integer_sequence<int, S...>) {
  (f(std::integral_constant<int, S>()), ...);
}
template <class Use>
TYNDA_INLINE void each_four(Use f) {
  each_four(f, std::make_integer_sequence<int, kBlockInputs / 4>());
}

// Calls use(k, planes, steps) for the blocks of a panel's inputs [k, end), where k begins a block.
template <int Bits, class Use>
TYNDA_INLINE void blocks(const Matrix& w, int64_t panel, int64_t k, int64_t end, Use use) {
  constexpr int kBytes = Bits * 4 * kPanel;
  const uint8_t* planes = w.data.get() + panel * w.panel_bytes() + k / kBlockInputs * kBytes;
  const int64_t group = k / w.group;
  const int8_t* from = &w.steps[w.steps_index(panel * kPanel, group)];
  int64_t group_end = (group + 1) * w.group;
  for (; k < end; k += kBlockInputs, planes += kBytes) {
    for (int i = 0; i < kBytes; i += kAlign) __builtin_prefetch(planes + kPrefetchBytes + i);
    if (k == group_end) from += 2 * kPanel, group_end += w.group;
    I steps[kVectors];
    for (int j = 0; j < kVectors; j++) steps[j] = load_steps(from + 2 * j * kLanes);
    use(k, planes, steps);
  }
}

// Expands the inputs [first, end) of a panel to 8 bits, in the layout of `arrange`.
template <int Bits>
void decode(const Matrix& w, int64_t panel, int64_t first, int64_t end, uint8_t* codes) {
  blocks<Bits>(w, panel, first, end, [&](int64_t k, const uint8_t* planes, const I* steps) {
    uint8_t* to = codes + (k - first) * kPanel;
    each_four([&](auto s) {
      for (int j = 0; j < kVectors; j++)
        store(to + 4 * (s() * kPanel + j * kLanes),
              apply_steps(code<Bits, s()>(planes + 4 * j * kLanes), steps[j]));
    });
  });
  arrange(codes, end - first, codes);
}

// The same for a matrix in 8 bits.
void arrange_piece(const Matrix& w, int64_t panel, int64_t first, int64_t end, uint8_t* codes) {
  arrange(w.data.get() + panel * w.panel_bytes() + first * kPanel, end - first, codes);
}

// Adds the products of Rows rows and the panel to the totals. The codes of a group contribute
//   sum of (step * code + offset) * x = step * (sum of code * x) + offset * (sum of x),
// where `x_sums` holds the sums of x for each block, times 65536.
template <int Bits, int Rows>
TYNDA_INLINE void accumulate_few(I (&totals)[Rows][kVectors], const uint8_t* x, int64_t ldx,
                                 const int32_t (*x_sums)[kMaxBlocks], const Matrix& w,
                                 int64_t panel) {
  // The sum of this many groups of four products fits into 16 bits.
  constexpr int kRun = run_of(Bits);
  const int64_t end = w.depth();
  blocks<Bits>(w, panel, 0, end, [&](int64_t k, const uint8_t* planes, const I* steps) {
    Pairs sums[Rows][kVectors];
    each_four([&](auto s) {
      const auto of_x = [&](int i) { return s() < kRun ? x_sums[i][k / kBlockInputs] : 0; };
      if constexpr (s() % kRun == 0)
        for (int i = 0; i < Rows; i++)
          for (int j = 0; j < kVectors; j++) sums[i][j] = start_sum(of_x(i));
      if (k + 4 * s() < end) {
        B b[kVectors];
        for (int j = 0; j < kVectors; j++) b[j] = code<Bits, s()>(planes + 4 * j * kLanes);
        FewDot::step<Rows>(sums, x + k + 4 * s(), ldx, b);
      }
      if constexpr (s() % kRun == kRun - 1)
        for (int i = 0; i < Rows; i++)
          for (int j = 0; j < kVectors; j++)
            totals[i][j] = add_scaled(totals[i][j], sums[i][j], of_x(i), steps[j]);
    });
  });
}

// The sum of the activations of block `b`.
inline int block_sum(const Matrix& w, const uint8_t* x, int64_t b) {
  int sum = 0;
  for (int64_t k = b * kBlockInputs; k < std::min(w.depth(), (b + 1) * kBlockInputs); k++)
    sum += kZero ? x[k] : int8_t(x[k]);
  return sum;
}

// A function of its own for each number of rows: together, they would lack registers.
template <int Bits, int Rows>
[[gnu::noinline]] void matmul_rows(const uint8_t* x, int64_t ldx, const Rounding* roundings,
                                   const Matrix& w, int64_t begin, int64_t end, float* y,
                                   int64_t ldy, const Epilogue& epilogue) {
  int32_t x_sums[Rows][kMaxBlocks];
  for (int64_t i = 0; i < Rows; i++)
    for (int64_t b = 0; b < w.blocks(); b++) x_sums[i][b] = block_sum(w, x + i * ldx, b) * 65536;
  for (int64_t p = begin; p < end; p++) {
    I sums[Rows][kVectors];
    init_sums(sums, w, p, roundings);
    accumulate_few<Bits, Rows>(sums, x, ldx, x_sums, w, p);
    finish_8<Rows>(sums, w, p, roundings, 0, y, ldy, epilogue);
  }
}

template <int Bits>
void matmul_few_rows(const uint8_t* x, int64_t ldx, const Rounding* roundings, int64_t rows,
                     const Matrix& w, int64_t begin, int64_t end, float* y, int64_t ldy,
                     const Epilogue& epilogue) {
  if (rows == 0) return;
  with_rows<kFewRows>(rows, [&](auto count) {
    matmul_rows<Bits, count()>(x, ldx, roundings, w, begin, end, y, ldy, epilogue);
  });
}

void matmul_many_rows(const uint8_t* x, int64_t ldx, const Rounding* roundings, int64_t rows,
                        const Matrix& w, int64_t begin, int64_t end, float* y, int64_t ldy,
                        const Epilogue& epilogue) {
  const auto to_8_bits = w.bits == 4   ? decode<4>
                         : w.bits == 3 ? decode<3>
                         : w.bits == 2 ? decode<2>
                                       : arrange_piece;
  const int64_t depth = w.depth();
  alignas(kAlign) uint8_t codes[kPiece * kPanel];
  I all[kPanelsTogether][kManyRows][kVectors];
#if TYNDA_PAIRS
  alignas(kAlign) uint8_t pairs[kManyRows * kPiece];
#endif
  for (int64_t from = begin; from < end; from += kPanelsTogether)
    for (int64_t first = 0; first < rows; first += kManyRows)
      for (int64_t k = 0; k == 0 || k < depth; k += kPiece) {  // once even without inputs
        const int64_t stop = std::min(depth, k + kPiece), count = std::min(kManyRows, rows - first);
        const uint8_t* piece = x + first * ldx + k;
        int64_t ld = ldx;
#if TYNDA_PAIRS
        arrange_rows(piece, ldx, count, stop - k, pairs, kPiece);
        piece = pairs, ld = kPiece;
#endif
        for (int64_t p = from; p < std::min(end, from + kPanelsTogether); p++) {
          to_8_bits(w, p, k, stop, codes);
          tiles(count, [&](int64_t r, auto size) {
            constexpr int kRows = size();
            auto* const so_far = all[p - from] + r;
            I sums[kRows][kVectors];
            if (k == 0) {
              init_sums(sums, w, p, roundings + first + r);
            } else {
              std::copy_n(&so_far[0][0], kRows * kVectors, &sums[0][0]);
            }
            accumulate<ManyDot, kRows>(sums, piece + r * ld, ld, codes, stop - k);
            if (stop == depth) {
              finish_8<kRows>(sums, w, p, roundings, first + r, y, ldy, epilogue);
            } else {
              std::copy_n(&sums[0][0], kRows * kVectors, &so_far[0][0]);
            }
          });
        }
      }
}

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

// Products with a weight in few bits; part of kernels.inl.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

// Four inputs S of a block, from its planes: those of one vector of outputs.
template <int Bits, int S>
inline B code(const uint8_t* planes) {
  constexpr int kPlane = 4 * kPanel;
  if constexpr (Bits == 3) {
    return code<2, S>(planes) | field<S - 2, 4>(load_codes(planes + 2 * kPlane));
  } else {
    return field<S / Bits * Bits, (1 << Bits) - 1>(load_codes(planes + S % Bits * kPlane));
  }
}

// Calls use(k, b) for the fours of inputs from k on of a block, b being what they count.
template <int Bits, class Use, int... S>
TYNDA_INLINE void decode_block(const uint8_t* planes, const uint8_t* step, const uint8_t* offset,
                         int64_t k, int64_t end, Use use, std::integer_sequence<int, S...>) {
  B steps[kVectors], offsets[kVectors];
  for (int j = 0; j < kVectors; j++) {
    steps[j] = four_times(step + j * kLanes);
    offsets[j] = four_times(offset + j * kLanes);
  }
  const auto four = [&](auto s) {
    if (k + 4 * s() >= end) return;
    B b[kVectors];
    for (int j = 0; j < kVectors; j++)
      b[j] = scaled(code<Bits, s()>(planes + 4 * j * kLanes), steps[j], offsets[j]);
    use(k + 4 * s(), b);
  };
  (four(std::integral_constant<int, S>()), ...);
}

// The same for inputs [k, end) of a panel; k begins a block.
template <int Bits, class Use>
TYNDA_INLINE void decode(const Matrix& w, int64_t panel, int64_t k, int64_t end, Use use) {
  constexpr int kBytes = Bits * 4 * kPanel;  // of a block
  const uint8_t* planes = w.data.get() + panel * w.panel_bytes() + k / kBlockInputs * kBytes;
  for (; k < end; k += kBlockInputs, planes += kBytes) {
    for (int i = 0; i < kBytes; i += kAlign) __builtin_prefetch(planes + kAhead + i);
    const int64_t at = w.group_of(panel * kPanel) + k / w.group * kPanel;
    decode_block<Bits>(planes, &w.step[at], reinterpret_cast<const uint8_t*>(&w.offset[at]), k,
                       end, use, std::make_integer_sequence<int, 8>());
  }
}

// With fewer rows, codes go from their planes right into a product;
constexpr int kFewRows = kTile / 2;
// with more, so many inputs of them are brought to 8 bits at a time,
constexpr int64_t kPiece = 512;
// for so many rows.
constexpr int64_t kManyRows = 64;

// Part of the sums of a panel.
template <int Rows>
TYNDA_INLINE void copy(I (&to)[Rows][kVectors], const I (*from)[kVectors]) {
  for (int i = 0; i < Rows; i++)
    for (int j = 0; j < kVectors; j++) to[i][j] = from[i][j];
}

template <int Bits>
void multiply_few(const uint8_t* x, int64_t ldx, const float* scale, int64_t rows, const Matrix& w,
                  int64_t begin, int64_t end, float* y, int64_t ldy, const Epilogue& epilogue) {
  const int64_t depth = w.depth();
  if (rows <= kFewRows) {
    for (int64_t p = begin; p < end && rows; p++)
      with_rows<kFewRows>(rows, [&](auto count) {
        I sums[count()][kVectors];
        start(sums, w, p);
        decode<Bits>(w, p, 0, depth, [&](int64_t k, const B(&b)[kVectors]) {
          Whole::step<count()>(sums, x + k, ldx, b);
        });
        finish_8<count()>(sums, w, p, scale, 0, y, ldy, epilogue);
      });
    return;
  }
  alignas(kAlign) uint8_t codes[kPiece * kPanel];
  I all[kManyRows][kVectors];
  for (int64_t p = begin; p < end; p++)
    for (int64_t first = 0; first < rows; first += kManyRows)
      for (int64_t k = 0; k < depth; k += kPiece) {
        const int64_t stop = std::min(depth, k + kPiece);
        decode<Bits>(w, p, k, stop, [&](int64_t at, const B(&b)[kVectors]) {
          for (int j = 0; j < kVectors; j++)
            std::memcpy(codes + (at - k) * kPanel + 4 * j * kLanes, &b[j], sizeof(B));
        });
        tiles(std::min(kManyRows, rows - first), [&](int64_t r, auto count) {
          I sums[count()][kVectors];
          if (k == 0) {
            start(sums, w, p);
          } else {
            copy(sums, all + r);
          }
          accumulate<Whole, count()>(sums, x + (first + r) * ldx + k, ldx, codes, stop - k);
          if (stop == depth) {
            finish_8<count()>(sums, w, p, scale, first + r, y, ldy, epilogue);
          } else {
            for (int i = 0; i < count(); i++)
              for (int j = 0; j < kVectors; j++) all[r + i][j] = sums[i][j];
          }
        });
      }
}

void multiply_codes(const uint8_t* x, int64_t ldx, const float* scale, int64_t rows,
                    const Matrix& w, int64_t begin, int64_t end, float* y, int64_t ldy,
                    const Epilogue& epilogue) {
  const auto product = w.bits == 8   ? multiply_8
                       : w.bits == 4 ? multiply_few<4>
                       : w.bits == 3 ? multiply_few<3>
                                     : multiply_few<2>;
  product(x, ldx, scale, rows, w, begin, end, y, ldy, epilogue);
}

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

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
inline void decode_block(const uint8_t* planes, const uint8_t* step, const uint8_t* offset,
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
inline void decode(const Matrix& w, int64_t panel, int64_t k, int64_t end, Use use) {
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
constexpr int kFewRows = std::max(1, kTile / 3);
// with more, so many inputs of them are brought to 8 bits at a time,
constexpr int64_t kPiece = 512;
// for so many rows.
constexpr int64_t kManyRows = 64;

template <int Bits>
void multiply_few(const uint8_t* x, int64_t ldx, const float* scale, int64_t rows, const Matrix& w,
                  int64_t begin, int64_t end, float* y, int64_t ldy, const Epilogue& epilogue) {
  const int64_t depth = w.depth();
  const auto start = [&](I(&row)[kVectors], int64_t p) {
    for (int j = 0; j < kVectors; j++) row[j] = load(&w.start[p * kPanel + j * kLanes]);
  };
  for (int64_t p = begin; p < end && rows > 0 && rows <= kFewRows; p++)
    with_rows<kFewRows>(rows, [&](auto count) {
      I sums[count()][kVectors];
      for (auto& row : sums) start(row, p);
      decode<Bits>(w, p, 0, depth, [&](int64_t k, const B(&b)[kVectors]) {
        Whole::step<count()>(sums, x + k, ldx, b);
      });
      finish_8<count()>(sums, w, p, scale, 0, y, ldy, epilogue);
    });
  if (rows <= kFewRows) return;
  alignas(kAlign) uint8_t codes[kPiece * kPanel];
  I sums[kManyRows][kVectors];
  for (int64_t p = begin; p < end; p++)
    for (int64_t first = 0; first < rows; first += kManyRows) {
      const int64_t many = std::min(kManyRows, rows - first);
      for (int64_t i = 0; i < many; i++) start(sums[i], p);
      for (int64_t k = 0; k < depth; k += kPiece) {
        const int64_t stop = std::min(depth, k + kPiece);
        decode<Bits>(w, p, k, stop, [&](int64_t at, const B(&b)[kVectors]) {
          std::memcpy(codes + (at - k) * kPanel, b, sizeof b);
        });
        tiles(many, [&](int64_t r, auto count) {
          I part[count()][kVectors];
          std::memcpy(part, sums + r, sizeof part);
          accumulate<Whole, count()>(part, x + (first + r) * ldx + k, ldx, codes, stop - k);
          std::memcpy(sums + r, part, sizeof part);
        });
      }
      tiles(many, [&](int64_t r, auto count) {
        I part[count()][kVectors];
        std::memcpy(part, sums + r, sizeof part);
        finish_8<count()>(part, w, p, scale, first + r, y, ldy, epilogue);
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

// Matrix products with a packed weight; included by kernels.inl.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

// One step of products in float32.
struct FloatDot {
  using Code = float;
  using Sum = F;
  static constexpr int kDepth = 1;  // the number of inputs in one step
  static constexpr bool kEights = false;  // whether eight inputs at a time have a function of theirs
  template <int Rows>
  TYNDA_INLINE static void step(F (&sums)[Rows][kVectors], const float* x, int64_t ldx,
                                const float* w) {
    F b[kVectors];
    for (int j = 0; j < kVectors; j++) b[j] = load(w + j * kLanes);
    for (int i = 0; i < Rows; i++) {
      const F a = set1(x[i * ldx]);
      for (int j = 0; j < kVectors; j++) sums[i][j] = fma(a, b[j], sums[i][j]);
    }
  }
};

// One step of products of codes of at most 8 bits: `Broadcast` loads four of a row, and `Dot` adds
// their products with four of a weight for each lane.
template <auto Broadcast, auto Dot, class SumType = I>
struct CodeProducts {
  using Code = uint8_t;
  using Sum = SumType;
  static constexpr int kDepth = 4;
  static constexpr bool kEights = false;
  template <int Rows>
  TYNDA_INLINE static void step(Sum (&sums)[Rows][kVectors], const uint8_t* x, int64_t ldx,
                                const uint8_t* w) {
    B b[kVectors];
    for (int j = 0; j < kVectors; j++) b[j] = load_codes(w + 4 * j * kLanes);
    step<Rows>(sums, x, ldx, b);
  }
  template <int Rows>
  TYNDA_INLINE static void step(Sum (&sums)[Rows][kVectors], const uint8_t* x, int64_t ldx,
                                const B (&b)[kVectors]) {
    for (int i = 0; i < Rows; i++) {
      if (i % 3 == 0 && i > 0) {  // otherwise the compiler runs out of registers for addresses
        x += 3 * ldx;
        __asm__("" : "+r"(x));
      }
      const auto a = Broadcast(x + i % 3 * ldx);
      for (int j = 0; j < kVectors; j++) sums[i][j] = Dot(sums[i][j], a, b[j]);
    }
  }
};

// How many bytes ahead a weight is prefetched. Most weights come from the last-level cache, whose
// latency exceeds the processor's own prefetching; at the end of a panel, it is the next panel.
constexpr int kPrefetchBytes = 2048;

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

#if TYNDA_PAIRS
#include "pairs.inl"
#endif

namespace tynda {
namespace TYNDA_ISA {
namespace {

#if TYNDA_TWO_STEPS
// The same, but eight codes of a row are loaded at a time, where there are as many.
template <class OneStep, auto First, auto Last>
struct TwoSteps : OneStep {
  static constexpr bool kEights = true;
  // Adds the products of the whole eights of `depth` inputs, and returns their number.
  template <int Rows>
  TYNDA_INLINE static int64_t eights(I (&sums)[Rows][kVectors], const uint8_t* x, int64_t ldx,
                                     const uint8_t* w, int64_t depth) {
    int64_t k = 0;
    for (; k + 8 <= depth; k += 8) {
      const uint8_t* const now = w + k * kPanel;
      for (int i = 0; i < 8 * kPanel; i += kAlign) __builtin_prefetch(now + kPrefetchBytes + i);
      B b[2 * kVectors];
      for (int j = 0; j < 2 * kVectors; j++) b[j] = load_codes(now + 4 * j * kLanes);
      for (int i = 0; i < Rows; i++) {
        const Eight a = load_eight(x + k + i * ldx);
        for (int j = 0; j < kVectors; j++) sums[i][j] = First(sums[i][j], a, b[j]);
        for (int j = 0; j < kVectors; j++) sums[i][j] = Last(sums[i][j], a, b[kVectors + j]);
      }
    }
    return k;
  }
};
using CodeDot = TwoSteps<CodeProducts<broadcast_four, dot>, dot_four<0>, dot_four<1>>;
#else
using CodeDot = CodeProducts<broadcast_four, dot>;
#endif
using FewDot = CodeProducts<broadcast_plain, dot_few, Pairs>;  // weights have few bits
// Products with a panel that `arrange` has written, in which kAdjacent inputs are adjacent; the rows
// of ManyDot are those of `arrange_rows`, in blocks of kPanelsTogether panels.
#if TYNDA_PAIRS
constexpr int64_t kRowsTogether = 2, kAdjacent = 8, kPanelsTogether = 8;
using ArrangedDot = PairProducts<dot_pairs>;
using ManyDot = PairProducts<dot_pairs, true>;
using UnsignedDot = PairProducts<dot_unsigned_pairs>;
#else
constexpr int64_t kRowsTogether = 1, kAdjacent = 4, kPanelsTogether = 1;
using ArrangedDot = CodeDot;
using ManyDot = CodeDot;
#if TYNDA_TWO_STEPS
using UnsignedDot = TwoSteps<CodeProducts<broadcast_unsigned, dot_unsigned>, dot_unsigned_four<0>,
                             dot_unsigned_four<1>>;  // codes of rows are unsigned
#else
using UnsignedDot = CodeProducts<broadcast_unsigned, dot_unsigned>;  // codes of rows are unsigned
#endif
inline void arrange(const uint8_t* from, int64_t depth, uint8_t* to) {
  if (from != to) std::copy_n(from, depth * kPanel, to);
}
#endif

// Adds the products of Rows rows of x and one panel w of `depth` inputs to the sums.
template <class Kind, int Rows>
TYNDA_INLINE void accumulate(typename Kind::Sum (&sums)[Rows][kVectors],
                             const typename Kind::Code* x, int64_t ldx,
                             const typename Kind::Code* w, int64_t depth) {
  constexpr int kBytes = Kind::kDepth * kPanel * int(sizeof(typename Kind::Code));
  int64_t k = 0;
  // Kinds whose steps have eight inputs compute all of them here, others what are whole eights.
  if constexpr (Kind::kEights) k = Kind::template eights<Rows>(sums, x, ldx, w, depth);
  if constexpr (Kind::kDepth < 8)
    for (; k < depth; k += Kind::kDepth) {
      const auto* const now = w + k * kPanel;
      for (int i = 0; i < kBytes; i += kAlign)
        __builtin_prefetch(reinterpret_cast<const char*>(now) + kPrefetchBytes + i);
      Kind::template step<Rows>(sums, x + k, ldx, now);
    }
}

// Calls f with std::integral_constant<int, rows> for rows from 1 to Max.
template <int Max, class Use>
inline void with_rows(int64_t rows, Use f) {
  if constexpr (Max > 1) {
    if (rows < Max) return with_rows<Max - 1>(rows, f);
  }
  f(std::integral_constant<int, Max>());
}

// Calls f(first row, number of rows as a constant) for tiles of `rows` rows. Their sizes are as
// equal as possible, because a tile of one row takes as long as one of several.
template <class Use>
inline void tiles(int64_t rows, Use f) {
  const int64_t count = (rows + kTile - 1) / kTile;
  for (int64_t i = 0; i < count; i++) {
    const auto begin = [&](int64_t i) {
      return std::min(rows, round_up(i * rows / count, kRowsTogether));
    };
    with_rows<kTile>(begin(i + 1) - begin(i), [&](auto size) { f(begin(i), size); });
  }
}

// Applies the epilogue, and writes the results of a panel.
template <int Rows>
inline void finish(F (&sums)[Rows][kVectors], int64_t column, int64_t n, int64_t row, float* y,
                   int64_t ldy, const Epilogue& e) {
  for (int j = 0; j < kVectors; j++) {
    const int64_t at = column + j * kLanes;
    const int count = int(std::min<int64_t>(kLanes, n - at));
    if (count <= 0) return;
    const F bias = e.bias ? load_some(e.bias + at, count) : set1(0);
    for (int i = 0; i < Rows; i++) {
      F x = sums[i][j];
      if (e.bias) x = x + bias;
      x = activated(x, e.activation);
      if (e.factor != 1) x = x * set1(e.factor);
      if (e.residual) x = load_some(e.residual + (row + i) * e.ld_residual + at, count) + x;
      store_some(y + (row + i) * ldy + at, x, count);
    }
  }
}

void matmul(const float* x, int64_t ldx, int64_t rows, const Matrix& w, int64_t begin,
              int64_t end, float* y, int64_t ldy, const Epilogue& epilogue) {
  for (int64_t p = begin; p < end; p++) {
    const float* panel = reinterpret_cast<const float*>(w.data.get()) + p * w.k * kPanel;
    tiles(rows, [&](int64_t r, auto count) {
      F sums[count()][kVectors];
      for (auto& row : sums)
        for (F& s : row) s = set1(0);
      accumulate<FloatDot, count()>(sums, x + r * ldx, ldx, panel, w.k);
      finish<count()>(sums, p * kPanel, w.n, r, y, ldy, epilogue);
    });
  }
}

// Returns what the zero point of a row adds to the sums of products of codes.
inline I zero_term(const Matrix& w, int64_t column, const Rounding& rounding) {
  return times(load(&w.sums[column]), -rounding.zero);
}

// `roundings`: those of the rows.
template <int Rows>
TYNDA_INLINE void init_sums(I (&sums)[Rows][kVectors], const Matrix& w, int64_t panel,
                            const Rounding* roundings) {
  for (int j = 0; j < kVectors; j++)
    for (int i = 0; i < Rows; i++)
      sums[i][j] = zero_term(w, panel * kPanel + j * kLanes, roundings[i]);
}

// Scales sums of codes, applies the epilogue, and writes rows from `row` on.
template <int Rows>
TYNDA_INLINE void finish_8(const I (&sums)[Rows][kVectors], const Matrix& w, int64_t panel,
                           const Rounding* roundings, int64_t row, float* y, int64_t ldy,
                           const Epilogue& e) {
  F out[Rows][kVectors];
  for (int i = 0; i < Rows; i++)
    for (int j = 0; j < kVectors; j++)
      out[i][j] = to_float(sums[i][j]) *
                  (set1(roundings[row + i].scale) * load(&w.scale[panel * kPanel + j * kLanes]));
  finish<Rows>(out, panel * kPanel, w.n, row, y, ldy, e);
}

void matmul_8(const uint8_t* x, int64_t ldx, const Rounding* roundings, int64_t rows,
              const Matrix& w, int64_t begin, int64_t end, float* y, int64_t ldy,
              const Epilogue& epilogue) {
  const int64_t depth = w.depth();
  for (int64_t p = begin; p < end; p++) {
    const uint8_t* panel = w.data.get() + p * depth * kPanel;
    tiles(rows, [&](int64_t r, auto count) {
      I sums[count()][kVectors];
      init_sums(sums, w, p, roundings + r);
      accumulate<CodeDot, count()>(sums, x + r * ldx, ldx, panel, depth);
      finish_8<count()>(sums, w, p, roundings, r, y, ldy, epilogue);
    });
  }
}

// A row with a smaller maximum is rounded to zeros, because 127 / maximum would be infinite.
constexpr float kMinMagnitude = 4e-37f;

inline float max_abs(const float* x, int64_t size) {
  F maximum = set1(0);
  vectors(size, [&](int64_t i, int n) { maximum = max(maximum, abs(load_some(x + i, n))); });
  return reduce_max(maximum);
}

// The factor from numbers of magnitude up to `largest` to codes up to `max_code`; *scale becomes
// that from codes back.
inline float rounding(float largest, float* scale, float max_code = 127) {
  *scale = largest / max_code;
  return largest < kMinMagnitude ? 0 : max_code / largest;
}

void quantize(const float* x, int64_t ldx, int64_t rows, int64_t k, int64_t depth, bool symmetric,
              uint8_t* codes, Rounding* roundings) {
  for (int64_t r = 0; r < rows; r++, x += ldx, codes += depth) {
    F most = set1(0), least = set1(0);
    vectors(k, [&](int64_t i, int n) {
      const F number = load_some(x + i, n);
      most = max(most, number), least = min(least, number);
    });
    // Halves, because the difference of two large numbers would be infinite.
    float high = reduce_max(most) / 2, low = reduce_max(set1(0) - least) / -2;
    if (symmetric) high = std::max(high, -low), low = -high;
    const float factor = rounding(std::fabs(high - low), &roundings[r].scale);  // not -0
    const float middle = factor > 0 ? std::nearbyint((high + low) * factor) : 0;
    vectors(k, [&](int64_t i, int n) {
      const F code = load_some(x + i, n) * set1(factor) - set1(middle);
      store_codes(codes + i, round_to_int(min(max(code, set1(-127)), set1(127))), n);
    });
    roundings[r].zero = kZero - int32_t(middle);
    for (int64_t i = k; i < depth; i++) codes[i] = uint8_t(roundings[r].zero);
  }
}

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

// The number formats of attention: float32, or 8-bit codes in both products; included by
// kernels.inl.
//
// Keys and values are packed into panels like those of a Matrix: by the caller where many calls
// read them, otherwise in scratch memory at the start of a call.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

constexpr int64_t kKeys = 256;  // keys in a block of the online softmax
// Keys at the start of a block that no query of a tile attends to are skipped in multiples of this.
constexpr int64_t kSkippedKeys = 64;
static_assert(kSkippedKeys % kPanel == 0 && kSkippedKeys % (4 * kLanes) == 0);
// With fewer queries than this, packing keys and values takes longer than it saves.
constexpr int64_t kFewQueries = 4;
constexpr float kLog2E = 1.44269504f;
constexpr int64_t kPrefetchKeys = 12;  // how many keys ahead are prefetched

// A query attends to the keys [begin_key, end_key).
inline int64_t end_key(const Attention& a, int64_t query) {
  if (a.causal) return std::min(a.keys, a.first + query + 1);
  return a.window ? std::min(a.keys, a.first + query + a.after + 1) : a.keys;
}
inline int64_t begin_key(const Attention& a, int64_t query) {
  return a.window ? std::clamp<int64_t>(a.first + query - a.before, 0, end_key(a, query)) : 0;
}

// The factor from the product of a query and a key to an exponent of 2. It is applied to
// differences of scores, which are exact where they are small, however large the scores are.
inline float score_unit(const Attention& a) { return kLog2E / std::sqrt(float(a.width)); }

// Prefetches `count` rows. Rows of one head are far apart in memory, so that the processor's own
// prefetcher does not detect them.
inline void prefetch(const float* x, int64_t ldx, int64_t count, int64_t width) {
  for (int64_t i = 0; i < count; i++)
    for (int64_t c = 0; c < width; c += kAlign / 4) __builtin_prefetch(x + i * ldx + c);
}

// Replaces x by 2^(unit * (x - top)), and returns the sum.
inline float exp2_row(float* x, int64_t count, float top, float unit) {
  F total = set1(0);
  vectors(count, [&](int64_t i, int n) {
    store_some(x + i, exp2((load_some(x + i, n) - set1(top)) * set1(unit)), n);
    total = total + load_some(x + i, n);
  });
  return reduce_sum(total);
}

// The maximum of a row and `top`.
inline float row_max(const float* x, int64_t count, float top) {
  F maximum = set1(top);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) maximum = max(maximum, load(x + i));
  top = reduce_max(maximum);
  for (; i < count; i++) top = std::max(top, x[i]);
  return top;
}

// round(255 * 2^x) for x up to 0.
inline I exp2_codes(F x) {
  x = max(x, set1(-126));
  const F r = fraction(x);
  F y = fma(set1(255 * 7.706705481e-2f), r, set1(255 * 2.2764498e-1f));
  y = fma(y, r, set1(255 * 6.95116818e-1f));
  return round_to_int(times_exp2_floor(fma(y, r, set1(255)), x));
}

// Adds the logarithms of counts to the scores of a block's keys, for which the unit of each row is
// the factor from a score to an exponent of 2.
template <int Rows>
inline void add_log_counts(const float* log_counts, int64_t keys, const float* units, float* y,
                           int64_t ldy) {
  for (int i = 0; i < Rows; i++) {
    const F factor = set1(kLog2E / units[i]);
    vectors(keys, [&](int64_t j, int n) {
      float* const to = y + i * ldy + j;
      store_some(to, fma(load_some(log_counts + j, n), factor, load_some(to, n)), n);
    });
  }
}

// The defaults that forms share. A form that adds to the scores overrides the last three functions.
struct FormBase {
  static constexpr bool kUnpackedFew = true;  // few queries may read keys and values unpacked
  static int64_t extra_bytes(int64_t, int64_t) { return 0; }
  static void begin(const Attention&, uint8_t*) {}
  template <int Rows>
  static void add_scores(const Attention&, uint8_t*, int64_t, int64_t, int64_t, float*) {}
};

// ---- float32. Keys are [capacity / panel][width][panel], values [v_width /
// panel][capacity][panel].

struct FloatForm : FormBase {
  using Weight = float;

  static int64_t depth(int64_t width) { return width; }
  static int64_t key_bytes(int64_t capacity, int64_t width) {
    return 4 * round_up(capacity, kPanel) * width;
  }
  static int64_t value_bytes(int64_t capacity, int64_t v_width) {
    return 4 * capacity * round_up(v_width, kPanel);
  }

  static void pack_keys(const float* k, int64_t ldk, int64_t keys, int64_t, int64_t width,
                        uint8_t* to) {
    auto* panels = reinterpret_cast<float*>(to);
    for (int64_t j = 0; j < round_up(keys, kPanel); j++) {
      if (j + kPrefetchKeys < keys) prefetch(k + (j + kPrefetchKeys) * ldk, ldk, 1, width);
      float* row = panels + j / kPanel * kPanel * width + j % kPanel;
      for (int64_t c = 0; c < width; c++) row[c * kPanel] = j < keys ? k[j * ldk + c] : 0;
    }
  }
  static void pack_values(const float* v, int64_t ldv, int64_t keys, int64_t capacity,
                          int64_t v_width, uint8_t* to) {
    auto* panels = reinterpret_cast<float*>(to);
    for (int64_t p = 0; p < round_up(v_width, kPanel); p += kPanel)
      for (int64_t j = 0; j < keys; j++)
        vectors(kPanel, [&](int64_t i, int) {
          const int n = int(std::clamp<int64_t>(v_width - p - i, 0, kLanes));
          store(panels + p * capacity + j * kPanel + i,
                n ? load_some(v + j * ldv + p + i, n) : set1(0));
        });
  }

  static void load_queries(const Attention& a, int64_t from, int64_t count, float* q,
                           float* units) {
    for (int64_t i = 0; i < count; i++)
      std::copy_n(a.q + (from + i) * a.ldq, a.width, q + i * a.width);
    std::fill(units, units + count, score_unit(a));
  }

  // Writes the scores of a panel of keys, from `key` on, to y [Rows, kKeys].
  template <int Rows>
  static void score(const Attention& a, const float* q, int64_t key, float* y) {
    F s[Rows][kVectors];
    for (auto& row : s)
      for (F& x : row) x = set1(0);
    accumulate<FloatDot, Rows>(s, q, a.width,
                           reinterpret_cast<const float*>(a.packed_k) + key * a.width, a.width);
    for (int i = 0; i < Rows; i++)
      for (int j = 0; j < kVectors; j++) store(y + i * kKeys + j * kLanes, s[i][j]);
  }

  // Computes weights 2^(unit * (score - top)) of a block's keys, and returns their sum. Scores from
  // `count` up to a multiple of kStep are -FLT_MAX, so that their weights are 0.
  static float weigh(const float* scores, int64_t count, int64_t keys, float top, float unit,
                     float* weights) {
    F total = set1(0);
    for (int64_t i = 0; i < count; i += kLanes) {
      const F e = exp2((load(scores + i) - set1(top)) * set1(unit));
      store(weights + i, e);
      total = total + e;
    }
    std::fill(weights + count, weights + keys, 0.0f);
    return reduce_sum(total);
  }
  static constexpr int kStep = kLanes;
  static constexpr bool kBlockMax = false;  // weights are relative to the maximum so far

  // Adds the weighted values of a block's keys [out, keys) to the sums, of one panel of channels.
  // totals: the sum of each row's weights.
  template <int Rows>
  static void add_values(const Attention& a, const float* weights, int64_t from, int64_t out,
                         int64_t keys, int64_t p, const float*, const float*, float* sums,
                         int64_t padded_width) {
    F s[Rows][kVectors];
    for (int i = 0; i < Rows; i++)
      for (int j = 0; j < kVectors; j++) s[i][j] = load(sums + i * padded_width + p + j * kLanes);
    const auto* v =
        reinterpret_cast<const float*>(a.packed_v) + p * a.capacity + (from + out) * kPanel;
    accumulate<FloatDot, Rows>(s, weights + out, kKeys, v, keys - out);
    for (int i = 0; i < Rows; i++)
      for (int j = 0; j < kVectors; j++) store(sums + i * padded_width + p + j * kLanes, s[i][j]);
  }
};

// ---- 8-bit codes; the reference is tynda/weights/attention.py.
//
// Queries and keys have a scale for each row, values one for each channel and block of keys, and
// weights are codes up to 255, the largest of their row and block. Keys and values have codes up to
// 64, so that AVX2 can add two products with an unsigned query or weight in 16 bits: the bit that
// they lack costs less than the weights' eighth bit gains.

struct CodeForm : FormBase {
  using Weight = uint8_t;
  using QueryDot = std::conditional_t<kQueryZero != 0, UnsignedDot, ArrangedDot>;
  static constexpr float kMaxCode = 64;

  // Keys are scales and zero-point corrections [padded capacity], then codes [capacity /
  // panel][width / 4][panel][4].
  static int64_t depth(int64_t width) { return round_up(width, kAdjacent); }
  static int64_t key_bytes(int64_t capacity, int64_t width) {
    return round_up(capacity, kPanel) * (8 + depth(width));
  }
  // Values are scales [blocks][padded v_width], then codes [blocks][v_width / panel][kKeys /
  // 4][panel][4].
  static int64_t value_bytes(int64_t capacity, int64_t v_width) {
    return round_up(capacity, kKeys) / kKeys * round_up(v_width, kPanel) * (4 + kKeys);
  }

  static void pack_keys(const float* k, int64_t ldk, int64_t keys, int64_t capacity, int64_t width,
                        uint8_t* to) {
    const int64_t padded_width = round_up(capacity, kPanel), padded_depth = depth(width);
    auto* scales = reinterpret_cast<float*>(to);
    auto* starts = reinterpret_cast<int32_t*>(scales + padded_width);
    uint8_t* codes = to + 8 * padded_width;
    for (int64_t j = 0; j < round_up(keys, kPanel); j++) {
      if (j + kPrefetchKeys < keys) prefetch(k + (j + kPrefetchKeys) * ldk, ldk, 1, width);
      uint8_t* const whole = codes + j / kPanel * kPanel * padded_depth;
      uint8_t* const panel = whole + j % kPanel * 4;
      const float largest = j < keys ? max_abs(k + j * ldk, width) : 0;
      const F factor = set1(rounding(largest, &scales[j], kMaxCode));
      I total = zeros();
      for (int64_t c = 0; c < padded_depth; c += kLanes) {
        alignas(64) uint8_t some[kLanes] = {};
        const int n = int(std::clamp<int64_t>(width - c, 0, kLanes));
        if (j < keys && n) {
          const I q = round_to_int(load_some(k + j * ldk + c, n) * factor);
          total = total + q;
          store_bytes(some, q, kLanes);
        }
        for (int64_t d = 0; d < kLanes && c + d < padded_depth; d += 4)
          std::memcpy(panel + (c + d) * kPanel, some + d, 4);
      }
      starts[j] = -kQueryZero * int32_t(reduce_sum(to_float(total)));
      if (j % kPanel == kPanel - 1) arrange(whole, padded_depth, whole);
    }
  }

  static void pack_values(const float* v, int64_t ldv, int64_t keys, int64_t capacity,
                          int64_t v_width, uint8_t* to) {
    const int64_t padded_width = round_up(v_width, kPanel);
    auto* scales = reinterpret_cast<float*>(to);
    uint8_t* const codes = to + 4 * (round_up(capacity, kKeys) / kKeys) * padded_width;
    for (int64_t from = 0; from < keys; from += kKeys) {
      const int64_t count = std::min(kKeys, keys - from);
      for (int64_t p = 0; p < padded_width; p += kLanes) {
        const int n = int(std::clamp<int64_t>(v_width - p, 0, kLanes));
        F maximum = set1(0);
        for (int64_t j = 0; j < count && n; j++)
          maximum = max(maximum, abs(load_some(v + (from + j) * ldv + p, n)));
        maximum = max(maximum, set1(kMaxCode * FLT_MIN));
        const F factor = set1(kMaxCode) / maximum;
        const I zero = round_to_int(set1(kValueZero));
        store(scales + from / kKeys * padded_width + p, maximum * set1(1.0f / kMaxCode));
        uint8_t* panel = codes + from * padded_width + p / kPanel * kKeys * kPanel + p % kPanel * 4;
        for (int64_t j = 0; j < round_up(count, kAdjacent); j += 4, panel += 4 * kPanel) {
          I some[4] = {zeros(), zeros(), zeros(), zeros()};
          for (int64_t d = 0; d < 4 && j + d < count && n; d++)
            some[d] = round_to_int(load_some(v + (from + j + d) * ldv + p, n) * factor) + zero;
          store_interleaved(panel, some);
        }
      }
      for (int64_t p = 0; p < padded_width; p += kPanel) {
        uint8_t* const panel = codes + from * padded_width + p * kKeys;
        arrange(panel, round_up(count, kAdjacent), panel);
      }
    }
  }

  static void load_queries(const Attention& a, int64_t from, int64_t count, uint8_t* q,
                           float* units) {
    Rounding roundings[kTile];
    quantize(a.q + from * a.ldq, a.ldq, count, a.width, depth(a.width), true, q, roundings);
    // Adds what the zero of queries has more than that of other rows.
    if (kQueryZero != kZero)
      for (int64_t i = 0; i < count * depth(a.width); i++) q[i] += kQueryZero - kZero;
    // The unit has a minimum so that -FLT_MAX has weight 0 with any query.
    for (int64_t i = 0; i < count; i++)
      units[i] = std::max(roundings[i].scale * score_unit(a), 1e-36f);
  }

  template <int Rows>
  static void score(const Attention& a, const uint8_t* q, int64_t key, float* y) {
    const int64_t padded_width = round_up(a.capacity, kPanel), padded_depth = depth(a.width);
    const auto* scales = reinterpret_cast<const float*>(a.packed_k);
    const auto* starts = reinterpret_cast<const int32_t*>(scales + padded_width);
    I s[Rows][kVectors];
    for (auto& row : s)
      for (int j = 0; j < kVectors; j++) row[j] = load(starts + key + j * kLanes);
    accumulate<QueryDot, Rows>(s, q, padded_depth,
                               a.packed_k + 8 * padded_width + key * padded_depth, padded_depth);
    for (int j = 0; j < kVectors; j++) {
      const F scale = load(scales + key + j * kLanes);
      for (int i = 0; i < Rows; i++) store(y + i * kKeys + j * kLanes, to_float(s[i][j]) * scale);
    }
  }

  static float weigh(const float* scores, int64_t count, int64_t keys, float top, float unit,
                     uint8_t* weights) {
    I total = zeros();
    for (int64_t j = 0; j < count; j += kStep) {
      I codes[4];
      for (int i = 0; i < 4; i++) {
        codes[i] = exp2_codes((load(scores + j + i * kLanes) - set1(top)) * set1(unit));
        total = total + codes[i];
      }
      store_unsigned(weights + j, codes);
    }
    std::fill(weights + count, weights + round_up(keys, kAdjacent), uint8_t(0));
    return reduce_sum(to_float(total));
  }
  static constexpr int kStep = 4 * kLanes;
  static constexpr bool kBlockMax = true;  // weights are relative to the maximum of their block

  template <int Rows>
  static void add_values(const Attention& a, const uint8_t* weights, int64_t from, int64_t out,
                         int64_t keys, int64_t p, const float* totals, const float* block_factors,
                         float* sums, int64_t padded_width) {
    const auto* scales =
        reinterpret_cast<const float*>(a.packed_v) + from / kKeys * padded_width + p;
    const uint8_t* codes = a.packed_v + 4 * (round_up(a.capacity, kKeys) / kKeys) * padded_width;
    I s[Rows][kVectors];
    for (auto& row : s)
      for (I& x : row) x = zeros();
    accumulate<UnsignedDot, Rows>(s, weights + out, kKeys,
                                  codes + from * padded_width + p * kKeys + out * kPanel,
                                  round_up(keys, kAdjacent) - out);
    for (int j = 0; j < kVectors; j++) {
      const F scale = load(scales + j * kLanes);
      for (int i = 0; i < Rows; i++) {
        float* to = sums + i * padded_width + p + j * kLanes;
        F sum = to_float(s[i][j]);
        if constexpr (kValueZero != 0) sum = sum - set1(kValueZero * totals[i]);
        store(to, fma(sum, set1(block_factors[i]) * scale, load(to)));
      }
    }
  }
};

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

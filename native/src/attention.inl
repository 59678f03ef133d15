// Attention, in float32 or with both products in 8 bits; part of kernels.inl.
//
// Keys and values are first brought into panels, as a Matrix has them: by the one who calls, for
// those that are looked at again and again, or on the way. The softmax goes over blocks of keys,
// and the sums are brought up to date with each (Milakov & Gimelshein 2018; Dao et al. 2022,
// section 3.1), so that there are never more than kTile x kKeys scores.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

constexpr int64_t kKeys = 256;
// Keys of a block that no query of a tile sees are left out, as many together.
constexpr int64_t kLeftOut = 64;
static_assert(kLeftOut % kPanel == 0 && kLeftOut % (4 * kLanes) == 0);
// With fewer queries than this, keys and values are not worth being brought into panels.
constexpr int64_t kFewQueries = 4;
constexpr int64_t kSoon = 12;  // keys in advance that are asked for

// A query sees the keys from `unseen` to `seen`, none where these are the same.
inline int64_t seen(const Attention& a, int64_t query) {
  if (a.causal) return std::min(a.keys, a.first + query + 1);
  return a.window ? std::min(a.keys, a.first + query + a.after + 1) : a.keys;
}
inline int64_t unseen(const Attention& a, int64_t query) {
  return a.window ? std::clamp<int64_t>(a.first + query - a.before, 0, seen(a, query)) : 0;
}

// The factor that makes a product of a query and a key an exponent of 2. It is applied to the
// differences of scores, which stay exact where it matters, however large the scores are.
inline float unit_of(const Attention& a) { return 1.44269504f / std::sqrt(float(a.width)); }

// Rows of one head lie far apart, so that no processor asks for them in advance: they come from
// the last cache just when they are needed. Asks for `count` of them.
inline void ask(const float* x, int64_t ldx, int64_t count, int64_t width) {
  for (int64_t i = 0; i < count; i++)
    for (int64_t c = 0; c < width; c += kAlign / 4) __builtin_prefetch(x + i * ldx + c);
}

// x = 2^(unit * (x - top)); gives the sum.
inline float exp2_row(float* x, int64_t count, float top, float unit) {
  F total = all(0);
  vectors(count, [&](int64_t i, int n) {
    store_some(x + i, exp2((load_some(x + i, n) - all(top)) * all(unit)), n);
    total = total + load_some(x + i, n);
  });
  return sum(total);
}

inline float top_of(const float* x, int64_t count, float top) {
  F most = all(top);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) most = max(most, load(x + i));
  top = greatest(most);
  for (; i < count; i++) top = std::max(top, x[i]);
  return top;
}

// 2^x to 127 for x up to 0, as whole numbers.
inline I exp2_code(F x) {
  x = max(x, all(-126));
  const F r = fraction(x);
  F y = fma(all(127 * 7.706705481e-2f), r, all(127 * 2.2764498e-1f));
  y = fma(y, r, all(127 * 6.95116818e-1f));
  return nearest(raised(fma(y, r, all(127)), x));
}

// ---- float32: keys as [room / panel][width][panel], values as [v_width / panel][room][panel]

struct Floats {
  using Weight = float;

  static int64_t depth(int64_t width) { return width; }
  static int64_t key_bytes(int64_t room, int64_t width) { return 4 * round_up(room, kPanel) * width; }
  static int64_t value_bytes(int64_t room, int64_t v_width) {
    return 4 * room * round_up(v_width, kPanel);
  }

  static void pack_keys(const float* k, int64_t ldk, int64_t keys, int64_t, int64_t width,
                        uint8_t* to) {
    auto* panels = reinterpret_cast<float*>(to);
    for (int64_t j = 0; j < round_up(keys, kPanel); j++) {
      if (j + kSoon < keys) ask(k + (j + kSoon) * ldk, ldk, 1, width);
      float* row = panels + j / kPanel * kPanel * width + j % kPanel;
      for (int64_t c = 0; c < width; c++) row[c * kPanel] = j < keys ? k[j * ldk + c] : 0;
    }
  }
  static void pack_values(const float* v, int64_t ldv, int64_t keys, int64_t room, int64_t v_width,
                          uint8_t* to) {
    auto* panels = reinterpret_cast<float*>(to);
    for (int64_t p = 0; p < round_up(v_width, kPanel); p += kPanel)
      for (int64_t j = 0; j < keys; j++)
        vectors(kPanel, [&](int64_t i, int) {
          const int n = int(std::clamp<int64_t>(v_width - p - i, 0, kLanes));
          store(panels + p * room + j * kPanel + i, n ? load_some(v + j * ldv + p + i, n) : all(0));
        });
  }

  static void take_queries(const Attention& a, int64_t from, int64_t count, float* q,
                           float* units) {
    for (int64_t i = 0; i < count; i++)
      std::copy_n(a.q + (from + i) * a.ldq, a.width, q + i * a.width);
    std::fill(units, units + count, unit_of(a));
  }

  // Scores of a panel of keys.
  template <int Rows>
  static void score(const Attention& a, const float* q, int64_t key, float* y) {
    F s[Rows][kVectors];
    for (auto& row : s)
      for (F& x : row) x = all(0);
    accumulate<Real, Rows>(s, q, a.width,
                           reinterpret_cast<const float*>(a.packed_k) + key * a.width, a.width);
    for (int i = 0; i < Rows; i++)
      for (int j = 0; j < kVectors; j++) store(y + i * kKeys + j * kLanes, s[i][j]);
  }

  // Weights of a block's keys beside a top, and their sum. Past `count`, up to a multiple of kStep,
  // scores are -FLT_MAX, whose weights count nothing.
  static float weigh(const float* scores, int64_t count, int64_t keys, float top, float unit,
                     float* weights) {
    F total = all(0);
    for (int64_t i = 0; i < count; i += kLanes) {
      const F e = exp2((load(scores + i) - all(top)) * all(unit));
      store(weights + i, e);
      total = total + e;
    }
    std::fill(weights + count, weights + keys, 0.0f);
    return sum(total);
  }
  static constexpr int kStep = kLanes;
  static constexpr bool kOwnTop = false;  // weights are beside the top so far

  // Adds the weighted values of a block's keys [out, keys) to the sums, of one panel of channels.
  template <int Rows>
  static void add_values(const Attention& a, const float* weights, int64_t from, int64_t out,
                         int64_t keys, int64_t p, const float*, float* sums, int64_t wide) {
    F s[Rows][kVectors];
    for (int i = 0; i < Rows; i++)
      for (int j = 0; j < kVectors; j++) s[i][j] = load(sums + i * wide + p + j * kLanes);
    const auto* v = reinterpret_cast<const float*>(a.packed_v) + p * a.room + (from + out) * kPanel;
    accumulate<Real, Rows>(s, weights + out, kKeys, v, keys - out);
    for (int i = 0; i < Rows; i++)
      for (int j = 0; j < kVectors; j++) store(sums + i * wide + p + j * kLanes, s[i][j]);
  }
};

// ---- 8 bits; tynda/weights/attention.py is the twin
//
// Queries and keys have a scale for each row; values one for each channel and block of keys.
// Weights are rounded to 127ths of the greatest of their row and block.

struct Codes {
  using Weight = uint8_t;

  // Keys: scales and starts [room up], codes [room / panel][width / 4][panel][4].
  static int64_t depth(int64_t width) { return round_up(width, 4); }
  static int64_t key_bytes(int64_t room, int64_t width) {
    return round_up(room, kPanel) * (8 + depth(width));
  }
  // Values: scales [blocks][v_width up], codes [blocks][v_width / panel][kKeys / 4][panel][4].
  static int64_t value_bytes(int64_t room, int64_t v_width) {
    return round_up(room, kKeys) / kKeys * round_up(v_width, kPanel) * (4 + kKeys);
  }

  static void pack_keys(const float* k, int64_t ldk, int64_t keys, int64_t room, int64_t width,
                        uint8_t* to) {
    const int64_t wide = round_up(room, kPanel), deep = depth(width);
    auto* scales = reinterpret_cast<float*>(to);
    auto* starts = reinterpret_cast<int32_t*>(scales + wide);
    uint8_t* codes = to + 8 * wide;
    for (int64_t j = 0; j < round_up(keys, kPanel); j++) {
      if (j + kSoon < keys) ask(k + (j + kSoon) * ldk, ldk, 1, width);
      uint8_t* panel = codes + j / kPanel * kPanel * deep + j % kPanel * 4;
      const F factor = all(rounding(j < keys ? largest(k + j * ldk, width) : 0, &scales[j]));
      I total = none();
      for (int64_t c = 0; c < deep; c += kLanes) {
        alignas(64) uint8_t some[kLanes] = {};
        const int n = int(std::clamp<int64_t>(width - c, 0, kLanes));
        if (j < keys && n) {
          const I q = nearest(load_some(k + j * ldk + c, n) * factor);
          total = total + q;
          store_plain_codes(some, q, kLanes);
        }
        for (int64_t d = 0; d < kLanes && c + d < deep; d += 4)
          std::memcpy(panel + (c + d) * kPanel, some + d, 4);
      }
      starts[j] = -kZero * int32_t(sum(real(total)));
    }
  }

  static void pack_values(const float* v, int64_t ldv, int64_t keys, int64_t room, int64_t v_width,
                          uint8_t* to) {
    const int64_t wide = round_up(v_width, kPanel);
    auto* scales = reinterpret_cast<float*>(to);
    uint8_t* const codes = to + 4 * (round_up(room, kKeys) / kKeys) * wide;
    for (int64_t from = 0; from < keys; from += kKeys) {
      const int64_t count = std::min(kKeys, keys - from);
      for (int64_t p = 0; p < wide; p += kLanes) {
        const int n = int(std::clamp<int64_t>(v_width - p, 0, kLanes));
        F most = all(0);
        for (int64_t j = 0; j < count && n; j++)
          most = max(most, abs(load_some(v + (from + j) * ldv + p, n)));
        most = max(most, all(127 * FLT_MIN));
        const F factor = all(127) / most;
        store(scales + from / kKeys * wide + p, most * all(1.0f / 127));
        uint8_t* panel = codes + from * wide + p / kPanel * kKeys * kPanel + p % kPanel * 4;
        for (int64_t j = 0; j < count; j += 4, panel += 4 * kPanel) {
          I some[4] = {none(), none(), none(), none()};
          for (int64_t d = 0; d < 4 && j + d < count && n; d++)
            some[d] = nearest(load_some(v + (from + j + d) * ldv + p, n) * factor);
          store_fours(panel, some);
        }
      }
    }
  }

  static void take_queries(const Attention& a, int64_t from, int64_t count, uint8_t* q,
                           float* units) {
    quantize(a.q + from * a.ldq, a.ldq, count, a.width, depth(a.width), q, units);
    // A query with a lesser unit is next to nothing; but -FLT_MAX has to weigh nothing with any.
    for (int64_t i = 0; i < count; i++) units[i] = std::max(units[i] * unit_of(a), 1e-36f);
  }

  template <int Rows>
  static void score(const Attention& a, const uint8_t* q, int64_t key, float* y) {
    const int64_t wide = round_up(a.room, kPanel), deep = depth(a.width);
    const auto* scales = reinterpret_cast<const float*>(a.packed_k);
    const auto* starts = reinterpret_cast<const int32_t*>(scales + wide);
    I s[Rows][kVectors];
    for (auto& row : s)
      for (int j = 0; j < kVectors; j++) row[j] = load(starts + key + j * kLanes);
    accumulate<Whole, Rows>(s, q, deep, a.packed_k + 8 * wide + key * deep, deep);
    for (int j = 0; j < kVectors; j++) {
      const F scale = load(scales + key + j * kLanes);
      for (int i = 0; i < Rows; i++) store(y + i * kKeys + j * kLanes, real(s[i][j]) * scale);
    }
  }

  static float weigh(const float* scores, int64_t count, int64_t keys, float top, float unit,
                     uint8_t* weights) {
    I total = none();
    for (int64_t j = 0; j < count; j += kStep) {
      I codes[4];
      for (int i = 0; i < 4; i++) {
        codes[i] = exp2_code((load(scores + j + i * kLanes) - all(top)) * all(unit));
        total = total + codes[i];
      }
      store_plain_codes(weights + j, codes);
    }
    std::fill(weights + count, weights + round_up(keys, 4), uint8_t(0));
    return sum(real(total));
  }
  static constexpr int kStep = 4 * kLanes;
  static constexpr bool kOwnTop = true;  // weights are beside the top of their block

  template <int Rows>
  static void add_values(const Attention& a, const uint8_t* weights, int64_t from, int64_t out,
                         int64_t keys, int64_t p, const float* shares, float* sums, int64_t wide) {
    const auto* scales = reinterpret_cast<const float*>(a.packed_v) + from / kKeys * wide + p;
    const uint8_t* codes = a.packed_v + 4 * (round_up(a.room, kKeys) / kKeys) * wide;
    I s[Rows][kVectors];
    for (auto& row : s)
      for (I& x : row) x = none();
    accumulate<Whole, Rows>(s, weights + out, kKeys,
                            codes + from * wide + p * kKeys + out * kPanel, round_up(keys, 4) - out);
    for (int j = 0; j < kVectors; j++) {
      const F scale = load(scales + j * kLanes);
      for (int i = 0; i < Rows; i++) {
        float* to = sums + i * wide + p + j * kLanes;
        store(to, fma(real(s[i][j]), all(shares[i]) * scale, load(to)));
      }
    }
  }
};

// ---- both

// Bytes for queries, scores, weights and sums of a tile, and for what is not packed yet. Each part
// begins at a multiple of kAlign.
template <class Form>
struct Scratch {
  int64_t keys, values, queries, scores, weights, sums, end;

  Scratch(const Attention& a)
      : Scratch(a.room, a.width, a.v_width, a.packed_k != nullptr) {}
  Scratch(int64_t room, int64_t width, int64_t v_width, bool packed) {
    int64_t at = 0;
    const auto take = [&](int64_t bytes) { return std::exchange(at, round_up(at + bytes, kAlign)); };
    keys = take(packed ? 0 : Form::key_bytes(room, width));
    values = take(packed ? 0 : Form::value_bytes(room, v_width));
    queries = take(kTile * Form::depth(width) * int64_t(sizeof(typename Form::Weight)));
    scores = take(4 * kTile * kKeys);
    weights = take(kTile * kKeys * int64_t(sizeof(typename Form::Weight)));
    sums = take(4 * kTile * round_up(v_width, kPanel));
    end = at;
  }
};

template <class Form>
int64_t attention_scratch(int64_t queries, int64_t room, int64_t width, int64_t v_width,
                          bool packed) {
  if (!packed && queries < kFewQueries) return 4 * room;
  return Scratch<Form>(room, width, v_width, packed).end;
}

template <class Form, int Rows>
inline void attend_rows(const Attention& a, int64_t r, const Scratch<Form>& at) {
  using Weight = typename Form::Weight;
  const int64_t wide = round_up(a.v_width, kPanel);
  const int64_t begin = unseen(a, r), end = seen(a, r + Rows - 1);
  auto* const q = reinterpret_cast<Weight*>(a.scratch + at.queries);
  auto* const scores = reinterpret_cast<float*>(a.scratch + at.scores);
  auto* const weights = reinterpret_cast<Weight*>(a.scratch + at.weights);
  auto* const sums = reinterpret_cast<float*>(a.scratch + at.sums);
  std::fill(sums, sums + Rows * wide, 0.0f);
  // Each row has the unit of its scores, the maximum so far, the maximum of this block, and the
  // factors that bring earlier sums and this block's weights to the larger of both maxima.
  constexpr int kWide = (Rows + kLanes - 1) / kLanes * kLanes;
  float unit[kWide] = {}, top[kWide], here[kWide], kept[kWide], share[kWide], total[Rows] = {};
  Form::take_queries(a, r, Rows, q, unit);
  std::fill(top, top + kWide, -FLT_MAX);
  std::fill(here, here + kWide, -FLT_MAX);
  for (int64_t from = begin / kKeys * kKeys; from < end; from += kKeys) {
    const int64_t keys = std::min(kKeys, end - from);
    const int64_t out = std::max<int64_t>(begin - from, 0) / kLeftOut * kLeftOut;
    for (int64_t p = out; p < keys; p += kPanel)
      Form::template score<Rows>(a, q, from + p, scores + p);
    const auto count = [&](int i) {
      const int64_t stop = std::clamp<int64_t>(seen(a, r + i) - from, out, keys);
      return unseen(a, r + i) < from + stop ? stop : out;
    };
    for (int i = 0; i < Rows; i++) {
      float* const row = scores + i * kKeys;
      const int64_t whole = round_up(count(i), Form::kStep);
      std::fill(row + out, row + std::clamp(unseen(a, r + i) - from, out, count(i)), -FLT_MAX);
      std::fill(row + count(i), row + whole, -FLT_MAX);
      here[i] = top_of(row + out, whole - out, -FLT_MAX);
    }
    for (int i = 0; i < kWide; i += kLanes) {
      const F before = load(top + i), now = load(here + i), higher = max(before, now);
      store(kept + i, exp2((before - higher) * load(unit + i)));
      store(share + i, Form::kOwnTop ? exp2((now - higher) * load(unit + i)) : all(1));
      store(top + i, higher);
    }
    for (int i = 0; i < Rows; i++) {
      const float beside = Form::kOwnTop ? here[i] : top[i];
      const float block = Form::weigh(scores + i * kKeys + out, count(i) - out, keys - out, beside,
                                      unit[i], weights + i * kKeys + out);
      if (kept[i] != 1)
        vectors(wide, [&](int64_t c, int) {
          store(sums + i * wide + c, load(sums + i * wide + c) * all(kept[i]));
        });
      total[i] = total[i] * kept[i] + block * share[i];
    }
    for (int64_t p = 0; p < wide; p += kPanel)
      Form::template add_values<Rows>(a, weights, from, out, keys, p, share, sums, wide);
  }
  for (int i = 0; i < Rows; i++) {
    const F part = all(total[i] > 0 ? 1 / total[i] : 0);
    vectors(a.v_width, [&](int64_t c, int n) {
      store_some(a.y + (r + i) * a.ldy + c, load_some(sums + i * wide + c, n) * part, n);
    });
  }
}

inline float inner(const float* x, const float* y, int64_t width) {
  F s = all(0);
  vectors(width, [&](int64_t i, int n) { s = fma(load_some(x + i, n), load_some(y + i, n), s); });
  return sum(s);
}

// Scores of one query and the keys [begin, end), which are not packed.
inline void plain_scores(const Attention& a, int64_t query, int64_t begin, int64_t end, float* y) {
  for (int64_t j = begin; j < end; j++)
    y[j - begin] = inner(a.q + query * a.ldq, a.k + j * a.ldk, a.width);
}

inline void attend_few(const Attention& a) {
  auto* const weights = reinterpret_cast<float*>(a.scratch);
  for (int64_t i = 0; i < a.queries; i++) {
    const int64_t begin = unseen(a, i), count = seen(a, i) - begin;
    plain_scores(a, i, begin, begin + count, weights);
    const float* const v = a.v + begin * a.ldv;
    const float total = exp2_row(weights, count, top_of(weights, count, -FLT_MAX), unit_of(a));
    const F part = all(count ? 1 / total : 0);
    vectors(a.v_width, [&](int64_t c, int n) {
      F s[2] = {all(0), all(0)};
      for (int64_t j = 0; j < count; j++)
        s[j % 2] = fma(all(weights[j]), load_some(v + j * a.ldv + c, n), s[j % 2]);
      store_some(a.y + i * a.ldy + c, (s[0] + s[1]) * part, n);
    });
  }
}

template <class Form>
void attention(const Attention& given) {
  Attention a = given;
  if (!a.packed_k && a.queries < kFewQueries) return attend_few(a);
  const Scratch<Form> at(a);
  if (!a.packed_k) {
    const int64_t most = a.queries ? seen(a, a.queries - 1) : 0;
    Form::pack_keys(a.k, a.ldk, most, a.room, a.width, a.scratch + at.keys);
    Form::pack_values(a.v, a.ldv, most, a.room, a.v_width, a.scratch + at.values);
    a.packed_k = a.scratch + at.keys;
    a.packed_v = a.scratch + at.values;
  }
  tiles(a.queries, [&](int64_t r, auto rows) {
    const int64_t next = r + rows();
    ask(a.q + next * a.ldq, a.ldq, std::min<int64_t>(kTile, a.queries - next), a.width);
    ask(a.y + r * a.ldy, a.ldy, rows(), a.v_width);
    attend_rows<Form, rows()>(a, r, at);
  });
}

template <class Form>
void attention_weights(const Attention& a, int64_t columns) {
  for (int64_t i = 0; i < a.queries; i++) {
    float* const y = a.y + i * a.ldy;
    const int64_t count = seen(a, i);
    if (count == 0) {  // as in the twin: where nothing is seen, all weigh alike
      std::fill(y, y + columns, 1 / float(columns));
      continue;
    }
    float unit = unit_of(a);
    if (a.packed_k) {
      const Scratch<Form> at(a);
      auto* const q = reinterpret_cast<typename Form::Weight*>(a.scratch + at.queries);
      auto* const scores = reinterpret_cast<float*>(a.scratch + at.scores);
      Form::take_queries(a, i, 1, q, &unit);
      for (int64_t p = 0; p < count; p += kPanel) {
        Form::template score<1>(a, q, p, scores);
        std::copy_n(scores, std::min<int64_t>(kPanel, count - p), y + p);
      }
    } else {
      plain_scores(a, i, 0, count, y);
    }
    const float share = 1 / exp2_row(y, count, top_of(y, count, -FLT_MAX), unit);
    for (int64_t j = 0; j < count; j++) y[j] *= share;
    std::fill(y + count, y + columns, 0.0f);
  }
}

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

// Attention in any of its forms; a part of kernels.inl.
//
// The softmax goes over blocks of keys, and the sums are updated with each (Milakov & Gimelshein
// 2018; Dao et al. 2022, section 3.1), so that there are never more than kTile x kKeys scores.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

// Bytes for queries, scores, weights and sums of a tile, and for what is not packed yet. Each part
// begins at a multiple of kAlign.
template <class Form>
struct Scratch {
  int64_t keys, values, queries, scores, weights, sums, more, end;

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
    more = take(Form::more_bytes(room, width));
    end = at;
  }
};

template <class Form>
int64_t attention_scratch(int64_t queries, int64_t room, int64_t width, int64_t v_width,
                          bool packed) {
  if (Form::kFew && !packed && queries < kFewQueries) return 4 * room;
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
    Form::template add_scores<Rows>(a, a.scratch + at.more, r, from, keys, scores);
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
  if (Form::kFew && !a.packed_k && a.queries < kFewQueries) return attend_few(a);
  const Scratch<Form> at(a);
  if (!a.packed_k) {
    const int64_t most = a.queries ? seen(a, a.queries - 1) : 0;
    Form::pack_keys(a.k, a.ldk, most, a.room, a.width, a.scratch + at.keys);
    Form::pack_values(a.v, a.ldv, most, a.room, a.v_width, a.scratch + at.values);
    a.packed_k = a.scratch + at.keys;
    a.packed_v = a.scratch + at.values;
  }
  Form::begin(a, a.scratch + at.more);
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

// Attention, for each of the forms in attention_forms.inl; included by kernels.inl.
//
// The softmax is computed online over blocks of keys (Milakov & Gimelshein 2018; Dao et al. 2022,
// section 3.1), so that no more than kTile x kKeys scores are in memory at a time.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

// The offsets in scratch memory of packed keys and values (unless the caller packed them), of a
// tile's queries, scores, weights and sums, and of what a form needs. All are multiples of kAlign.
template <class Form>
struct Scratch {
  int64_t keys, values, queries, scores, weights, sums, extra, end;

  Scratch(const Attention& a)
      : Scratch(a.capacity, a.width, a.v_width, a.packed_k != nullptr) {}
  Scratch(int64_t capacity, int64_t width, int64_t v_width, bool packed) {
    int64_t at = 0;
    const auto allocate = [&](int64_t bytes) {
      return std::exchange(at, round_up(at + bytes, kAlign));
    };
    keys = allocate(packed ? 0 : Form::key_bytes(capacity, width));
    values = allocate(packed ? 0 : Form::value_bytes(capacity, v_width));
    queries = allocate(kTile * Form::depth(width) * int64_t(sizeof(typename Form::Weight)));
    scores = allocate(4 * kTile * kKeys);
    weights = allocate(kTile * kKeys * int64_t(sizeof(typename Form::Weight)));
    sums = allocate(4 * kTile * round_up(v_width, kPanel));
    extra = allocate(Form::extra_bytes(capacity, width));
    end = at;
  }
};

template <class Form>
int64_t attention_scratch(int64_t queries, int64_t capacity, int64_t width, int64_t v_width,
                          bool packed) {
  if (Form::kUnpackedFew && !packed && queries < kFewQueries) return 4 * capacity;
  return Scratch<Form>(capacity, width, v_width, packed).end;
}

template <class Form, int Rows>
inline void attend_rows(const Attention& a, int64_t r, const Scratch<Form>& at) {
  using Weight = typename Form::Weight;
  const int64_t padded_width = round_up(a.v_width, kPanel);
  const int64_t begin = begin_key(a, r), end = end_key(a, r + Rows - 1);
  auto* const q = reinterpret_cast<Weight*>(a.scratch + at.queries);
  auto* const scores = reinterpret_cast<float*>(a.scratch + at.scores);
  auto* const weights = reinterpret_cast<Weight*>(a.scratch + at.weights);
  auto* const sums = reinterpret_cast<float*>(a.scratch + at.sums);
  std::fill(sums, sums + Rows * padded_width, 0.0f);
  // For each row: the unit of its scores, the maximum so far, the maximum of this block, and the
  // factors that rescale the earlier sums and this block's weights to the larger maximum.
  constexpr int kPaddedRows = (Rows + kLanes - 1) / kLanes * kLanes;
  float unit[kPaddedRows] = {}, running_max[kPaddedRows], block_max[kPaddedRows];
  float old_factor[kPaddedRows], block_factor[kPaddedRows], block_total[Rows], total[Rows] = {};
  Form::load_queries(a, r, Rows, q, unit);
  std::fill(running_max, running_max + kPaddedRows, -FLT_MAX);
  std::fill(block_max, block_max + kPaddedRows, -FLT_MAX);
  for (int64_t from = begin / kKeys * kKeys; from < end; from += kKeys) {
    const int64_t keys = std::min(kKeys, end - from);
    const int64_t out = std::max<int64_t>(begin - from, 0) / kSkippedKeys * kSkippedKeys;
    for (int64_t p = out; p < keys; p += kPanel)
      Form::template score<Rows>(a, q, from + p, scores + p);
    Form::template add_scores<Rows>(a, a.scratch + at.extra, r, from, keys, scores);
    if (a.log_counts) add_log_counts<Rows>(a.log_counts + from, keys, unit, scores, kKeys);
    const auto count = [&](int i) {
      const int64_t stop = std::clamp<int64_t>(end_key(a, r + i) - from, out, keys);
      return begin_key(a, r + i) < from + stop ? stop : out;
    };
    for (int i = 0; i < Rows; i++) {
      float* const row = scores + i * kKeys;
      const int64_t whole = round_up(count(i), Form::kStep);
      std::fill(row + out, row + std::clamp(begin_key(a, r + i) - from, out, count(i)), -FLT_MAX);
      std::fill(row + count(i), row + whole, -FLT_MAX);
      block_max[i] = row_max(row + out, whole - out, -FLT_MAX);
    }
    for (int i = 0; i < kPaddedRows; i += kLanes) {
      const F old_max = load(running_max + i), own_max = load(block_max + i);
      const F new_max = max(old_max, own_max);
      store(old_factor + i, exp2((old_max - new_max) * load(unit + i)));
      store(block_factor + i,
            Form::kBlockMax ? exp2((own_max - new_max) * load(unit + i)) : set1(1));
      store(running_max + i, new_max);
    }
    for (int i = 0; i < Rows; i++) {
      const float reference = Form::kBlockMax ? block_max[i] : running_max[i];
      block_total[i] =
          Form::weigh(scores + i * kKeys + out, count(i) - out, keys - out, reference, unit[i],
                      weights + i * kKeys + out);
      if (old_factor[i] != 1)
        vectors(padded_width, [&](int64_t c, int) {
          float* const to = sums + i * padded_width + c;
          store(to, load(to) * set1(old_factor[i]));
        });
      total[i] = total[i] * old_factor[i] + block_total[i] * block_factor[i];
    }
    for (int64_t p = 0; p < padded_width; p += kPanel)
      Form::template add_values<Rows>(a, weights, from, out, keys, p, block_total, block_factor,
                                      sums, padded_width);
  }
  for (int i = 0; i < Rows; i++) {
    const F inverse = set1(total[i] > 0 ? 1 / total[i] : 0);
    vectors(a.v_width, [&](int64_t c, int n) {
      store_some(a.y + (r + i) * a.ldy + c, load_some(sums + i * padded_width + c, n) * inverse, n);
    });
  }
}

inline float inner_product(const float* x, const float* y, int64_t width) {
  F s = set1(0);
  vectors(width, [&](int64_t i, int n) { s = fma(load_some(x + i, n), load_some(y + i, n), s); });
  return reduce_sum(s);
}

// Writes the scores of one query and the keys [begin, end), which are not packed, to y.
inline void unpacked_scores(const Attention& a, int64_t query, int64_t begin, int64_t end,
                            float* y) {
  for (int64_t j = begin; j < end; j++)
    y[j - begin] = inner_product(a.q + query * a.ldq, a.k + j * a.ldk, a.width);
}

// For few queries, packing keys and values would take longer than it saves.
inline void attend_few(const Attention& a) {
  auto* const weights = reinterpret_cast<float*>(a.scratch);
  for (int64_t i = 0; i < a.queries; i++) {
    const int64_t begin = begin_key(a, i), count = end_key(a, i) - begin;
    unpacked_scores(a, i, begin, begin + count, weights);
    const float unit = score_unit(a);
    if (a.log_counts) add_log_counts<1>(a.log_counts + begin, count, &unit, weights, count);
    const float* const v = a.v + begin * a.ldv;
    const float total = exp2_row(weights, count, row_max(weights, count, -FLT_MAX), unit);
    const F inverse = set1(count ? 1 / total : 0);
    vectors(a.v_width, [&](int64_t c, int n) {
      F s[2] = {set1(0), set1(0)};
      for (int64_t j = 0; j < count; j++)
        s[j % 2] = fma(set1(weights[j]), load_some(v + j * a.ldv + c, n), s[j % 2]);
      store_some(a.y + i * a.ldy + c, (s[0] + s[1]) * inverse, n);
    });
  }
}

template <class Form>
void attention(const Attention& given) {
  Attention a = given;
  if (Form::kUnpackedFew && !a.packed_k && a.queries < kFewQueries) return attend_few(a);
  const Scratch<Form> at(a);
  if (!a.packed_k) {
    const int64_t keys = a.queries ? end_key(a, a.queries - 1) : 0;
    Form::pack_keys(a.k, a.ldk, keys, a.capacity, a.width, a.scratch + at.keys);
    Form::pack_values(a.v, a.ldv, keys, a.capacity, a.v_width, a.scratch + at.values);
    a.packed_k = a.scratch + at.keys;
    a.packed_v = a.scratch + at.values;
  }
  Form::begin(a, a.scratch + at.extra);
  tiles(a.queries, [&](int64_t r, auto rows) {
    const int64_t next = r + rows();
    prefetch(a.q + next * a.ldq, a.ldq, std::min<int64_t>(kTile, a.queries - next), a.width);
    prefetch(a.y + r * a.ldy, a.ldy, rows(), a.v_width);
    attend_rows<Form, rows()>(a, r, at);
  });
}

template <class Form>
void attention_weights(const Attention& a, int64_t columns) {
  for (int64_t i = 0; i < a.queries; i++) {
    float* const y = a.y + i * a.ldy;
    const int64_t count = end_key(a, i);
    if (count == 0) {  // as in the NumPy reference, weights without any key are uniform
      std::fill(y, y + columns, 1 / float(columns));
      continue;
    }
    float unit = score_unit(a);
    if (a.packed_k) {
      const Scratch<Form> at(a);
      auto* const q = reinterpret_cast<typename Form::Weight*>(a.scratch + at.queries);
      auto* const scores = reinterpret_cast<float*>(a.scratch + at.scores);
      Form::load_queries(a, i, 1, q, &unit);
      for (int64_t p = 0; p < count; p += kPanel) {
        Form::template score<1>(a, q, p, scores);
        std::copy_n(scores, std::min<int64_t>(kPanel, count - p), y + p);
      }
    } else {
      unpacked_scores(a, i, 0, count, y);
    }
    const float block_factor = 1 / exp2_row(y, count, row_max(y, count, -FLT_MAX), unit);
    for (int64_t j = 0; j < count; j++) y[j] *= block_factor;
    std::fill(y + count, y + columns, 0.0f);
  }
}

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

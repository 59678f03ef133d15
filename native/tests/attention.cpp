// Tests of attention in all its forms, against plain loops in double precision.
#include "cases.h"

namespace tynda::test {
namespace {

constexpr int64_t kQueries[] = {0, 1, 2, 3, 4, 5, 12, 13, 29};
constexpr int64_t kKeys[] = {0, 1, 2, 3, 7, 16, 31, 33, 255, 256, 257, 600};
constexpr int64_t kWidths[] = {1, 3, 4, 16, 33, 64};
constexpr int64_t kBlock = 256;  // of keys, whose values have a scale in 8 bits

struct Case {
  const char* name;
  bool integer, packed;
  Attention a;
};

// Replaces rows (step 1) or columns by their values after rounding to codes.
void round_to_codes(Floats& x, int64_t start, int64_t count, int64_t step, float max_code = 64) {
  std::vector<int8_t> codes(count);
  const float scale = quantize_row(x.begin() + start, count, step, codes.data(), max_code);
  for (int64_t i = 0; i < count; i++) x[start + i * step] = scale * float(codes[i]);
}

int64_t end_key(const Attention& a, int64_t query) {
  if (a.causal) return std::min(a.keys, a.first + query + 1);
  return a.window ? std::min(a.keys, a.first + query + a.after + 1) : a.keys;
}

int64_t begin_key(const Attention& a, int64_t query) {
  return a.window ? std::clamp<int64_t>(a.first + query - a.before, 0, end_key(a, query)) : 0;
}

// [queries, keys]; `size`: of the largest sum.
std::vector<double> scores(const Attention& a, const Floats& q, const Floats& k, double& size) {
  std::vector<double> y(a.queries * a.keys);
  for (int64_t i = 0; i < a.queries; i++)
    for (int64_t j = 0; j < a.keys; j++) {
      double sum = 0, sizes = 0;
      for (int64_t c = 0; c < a.width; c++) {
        const double number = q[i * a.ldq + c], root = std::sqrt(a.width);
        const double content = a.encoding ? a.content_bias[c] : 0;
        const double term = (number + content) * k[j * a.ldk + c] / root;
        sum += term;
        sizes += std::fabs(term);
        if (!a.encoding) continue;
        const float distance = a.encoding[(a.origin - i + j) * a.ld_encoding + c];
        const double away = (number + a.position_bias[c]) * distance / root;
        sum += away;
        sizes += std::fabs(away);
      }
      y[i * a.keys + j] = sum;
      size = std::max(size, sizes);
    }
  return y;
}

void attend(const Case& c, const Kernels& kernels, Floats& q, Floats& k, Floats& v,
            int64_t packed_keys) {
  const Attention& a = c.a;
  // Where few queries come and nothing is packed, 8 bits are not worth their while.
  const bool integer = c.integer && (c.packed || a.queries >= 4);
  float largest = 0;
  for (int64_t j = 0; j < packed_keys; j++)
    for (int64_t i = 0; i < a.v_width; i++)
      largest = std::max(largest, std::fabs(v[j * a.ldv + i]));
  if (integer) {
    for (int64_t i = 0; i < a.queries; i++) round_to_codes(q, i * a.ldq, a.width, 1, 127);
    for (int64_t j = 0; j < packed_keys; j++) round_to_codes(k, j * a.ldk, a.width, 1);
    for (int64_t from = 0; from < packed_keys; from += kBlock)
      for (int64_t i = 0; i < a.v_width; i++)
        round_to_codes(v, from * a.ldv + i, std::min(kBlock, packed_keys - from), a.ldv);
  }
  double size = 0;
  const std::vector<double> all_scores = scores(a, q, k, size);
  double max_score = 0;
  for (double score : all_scores) max_score = std::max(max_score, std::fabs(score));
  // In 8 bits a weight at the border of two codes may take either, but sums are exact.
  const double tolerance = (integer ? 0.02 + 4e-7 * max_score : 1e-5 + 1e-6 * size) * largest;
  std::vector<Expected> expected(a.queries ? (a.queries - 1) * a.ldy + a.v_width : 0,
                                 {untouched(), 0});
  for (int64_t i = 0; i < a.queries; i++) {
    const double* row = all_scores.data() + i * a.keys;
    const int64_t begin = begin_key(a, i), count = end_key(a, i);
    const double top = begin < count ? *std::max_element(row + begin, row + count) : 0;
    std::vector<double> sums(a.v_width);
    double total = 0;
    for (int64_t from = begin, end; from < count; from = end) {
      end = std::min(count, from / kBlock * kBlock + kBlock);
      const double own = integer ? *std::max_element(row + from, row + end) : top;
      for (int64_t j = from; j < end; j++) {
        double weight = std::exp(row[j] - own);
        if (integer) weight = std::nearbyint(255 * weight) / 255;
        weight *= std::exp(own - top);
        total += weight;
        for (int64_t d = 0; d < a.v_width; d++) sums[d] += weight * v[j * a.ldv + d];
      }
    }
    for (int64_t d = 0; d < a.v_width; d++)
      expected[i * a.ldy + d] = {begin < count ? sums[d] / total : 0, tolerance};
  }
  Floats y(int64_t(expected.size()));
  Attention with = a;
  with.y = y.begin();
  const auto& own = a.encoding ? kernels.relative_attention : kernels.attention;
  (c.integer ? kernels.attention_8 : own).attend(with);
  close(y, expected);
}

void weigh(const Case& c, const Kernels& kernels, Floats& q, Floats& k, int64_t columns) {
  const Attention& a = c.a;
  if (c.integer && c.packed) {  // what is not packed is taken as it is
    for (int64_t i = 0; i < a.queries; i++) round_to_codes(q, i * a.ldq, a.width, 1, 127);
    for (int64_t j = 0; j < a.keys; j++) round_to_codes(k, j * a.ldk, a.width, 1);
  }
  double size = 0;
  const std::vector<double> all_scores = scores(a, q, k, size);
  std::vector<Expected> expected(a.queries ? (a.queries - 1) * a.ldy + columns : 0,
                                 {untouched(), 0});
  for (int64_t i = 0; i < a.queries; i++) {
    const double* row = all_scores.data() + i * a.keys;
    const int64_t count = end_key(a, i);
    const double top = count ? *std::max_element(row, row + count) : 0;
    double total = 0;
    for (int64_t j = 0; j < count; j++) total += std::exp(row[j] - top);
    for (int64_t j = 0; j < columns; j++) {
      const double none = count ? 0 : 1 / double(columns);
      expected[i * a.ldy + j] = {j < count ? std::exp(row[j] - top) / total : none,
                                 1e-6 * (1 + size)};
    }
  }
  Floats y(int64_t(expected.size()));
  Attention with = a;
  with.y = y.begin();
  (c.integer ? kernels.attention_8 : kernels.attention).weights(with, columns);
  close(y, expected);
}

}  // namespace

void attention(const Kernels& kernels, Random& random, float spread) {
  Case c{};
  Attention& a = c.a;
  c.integer = random.coin();
  c.packed = random.coin();
  a.queries = random.one_of(kQueries);
  a.keys = random.one_of(kKeys);
  a.width = random.one_of(kWidths);
  a.v_width = random.one_of(kWidths);
  a.capacity = a.keys + (random.coin() ? 0 : random.below(300));
  a.causal = random.coin();
  a.first = random.below(a.keys + 1);
  a.window = !a.causal && random.coin();
  a.before = random.below(300);
  a.after = random.below(random.coin() ? 6 : 300);
  a.ldq = a.width + random.below(3);
  a.ldk = a.width + random.below(3);
  a.ldv = a.v_width + random.below(3);
  a.ldy = a.v_width + random.below(3);
  const bool relative = !c.integer && !c.packed && !a.causal && random.coin();
  const int64_t before = random.below(20);  // queries that another thread has
  if (relative) a.capacity = std::max(a.capacity, before + a.queries);
  a.origin = a.capacity - 1 - before;
  a.ld_encoding = a.width + random.below(3);
  const auto& own = c.integer ? kernels.attention_8
                    : relative ? kernels.relative_attention
                               : kernels.attention;
  Floats q(a.queries ? (a.queries - 1) * a.ldq + a.width : 0, random, spread);
  Floats k(a.keys ? (a.keys - 1) * a.ldk + a.width : 0, random, spread);
  Floats v(a.keys ? (a.keys - 1) * a.ldv + a.v_width : 0, random);
  Floats encoding(relative ? 2 * a.capacity * a.ld_encoding : 0, random, spread);
  Floats biases(2 * a.width, random, spread);
  at("%s attention%s: %d queries, %d keys, widths %d and %d%s%s%s%s, size %g", kernels.name,
     c.integer ? "_8" : "", int(a.queries), int(a.keys), int(a.width), int(a.v_width),
     c.packed ? ", packed" : "", a.causal ? ", causal" : "", a.window ? ", window" : "",
     relative ? ", relative" : "", spread);
  Floats scratch(own.scratch(a.queries, a.capacity, a.width, a.v_width, c.packed) / 4);
  Floats packed_k(own.key_bytes(a.capacity, a.width) / 4);
  Floats packed_v(own.value_bytes(a.capacity, a.v_width) / 4);
  a.scratch = reinterpret_cast<uint8_t*>(scratch.begin());
  int64_t packed_keys = a.queries ? end_key(a, a.queries - 1) : 0;
  if (c.packed) {
    packed_keys = a.keys;
    auto* bytes = reinterpret_cast<uint8_t*>(packed_k.begin());
    own.pack_keys(k.begin(), a.ldk, a.keys, a.capacity, a.width, bytes);
    a.packed_k = bytes;
    bytes = reinterpret_cast<uint8_t*>(packed_v.begin());
    own.pack_values(v.begin(), a.ldv, a.keys, a.capacity, a.v_width, bytes);
    a.packed_v = bytes;
  }
  // Copies, for the reference rounds them.
  if (relative) {
    a.encoding = encoding.begin();
    a.content_bias = biases.begin();
    a.position_bias = biases.begin() + a.width;
  }
  const Floats q_given(q), k_given(k), v_given(v);
  a.q = q_given.begin();
  if (!c.packed) {
    a.k = k_given.begin();
    a.v = v_given.begin();
  }
  Floats same_q(q), same_k(k);
  attend(c, kernels, q, k, v, packed_keys);
  const int64_t columns = a.keys + random.below(3);
  if (!columns || a.window || relative) return;
  a.ldy = columns + random.below(3);
  weigh(c, kernels, same_q, same_k, columns);
}
}  // namespace tynda::test

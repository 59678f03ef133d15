// Tests of every kernel of every instruction set that this processor has, against plain loops
// in double precision; then of the threads and of plans, see threads.cpp.
#include <algorithm>
#include <cfloat>

#include "check.h"
#include "isa.h"
#include "pack.h"

namespace tynda::test {

void threads();
void plans(const Kernels& kernels);

namespace {

// Empty, one, primes; below, at and above a vector, a panel and a tile.
constexpr int64_t kSizes[] = {0, 1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 29, 31, 32, 33, 64, 67, 257};
constexpr int64_t kRows[] = {0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 23, 24, 25, 31};
constexpr float kSpreads[] = {1e-30f, 0.1f, 1, 30, 1e15f};
constexpr Activation kActivations[] = {Activation::none, Activation::relu, Activation::gelu,
                                       Activation::silu, Activation::tanh, Activation::asinh};
constexpr float kExtremes[] = {0.0f,  -0.0f, 1e-45f, -1e-45f, FLT_MIN, 1e-7f, -1e-7f, 1,    -1,
                               5,     -5,    20,     -20,     87,      -87,   89,     -89,  104,
                               -104,  1e4f,  -1e4f,  1e18f,   -1e18f,  1e38f, -1e38f, FLT_MAX,
                               -FLT_MAX};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double activated(double x, Activation kind) {
  switch (kind) {
    case Activation::relu: return x > 0 ? x : 0;
    case Activation::gelu: return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case Activation::silu: return x * sigmoid(x);
    case Activation::tanh: return std::tanh(x);
    case Activation::asinh: return std::asinh(x);
    default: return x;
  }
}

// ---- products

struct Shape {
  int64_t rows, k, n, ldx, ldy;

  // Rows may be farther apart than they are wide.
  Shape(Random& random, int64_t step)
      : rows(random.one_of(kRows)), k(random.one_of(kSizes)), n(random.one_of(kSizes)),
        ldx(round_up(k, step) + random.below(3)), ldy(n + random.below(3)) {}
  Shape(int64_t rows, int64_t k, int64_t n)
      : rows(rows), k(k), n(n), ldx(round_up(k, 4)), ldy(n) {}
  // Elements from the first to the last.
  int64_t span(int64_t ld, int64_t width) const {
    return rows && width ? (rows - 1) * ld + width : 0;
  }
};

struct RandomEpilogue {
  Floats bias, residual;
  Epilogue epilogue;

  RandomEpilogue(Random& random, const Shape& s, float spread)
      : bias(s.n, random, spread), residual(s.span(s.ldy, s.n), random, spread) {
    if (random.coin()) epilogue.bias = bias.begin();
    if (random.coin()) epilogue.residual = residual.begin();
    epilogue.ld_residual = s.ldy;
    epilogue.activation = random.one_of(kActivations);
    epilogue.factor = random.coin() ? 1 : 0.5f;
  }
};

// Both halves of the panels, as two threads would have them.
template <class Part>
void in_two(const Matrix& m, Part part) {
  part(0, m.panels() / 2);
  part(m.panels() / 2, m.panels());
}

void matmul(const Kernels& kernels, Random& random) {
  const Shape s(random, 1);
  const float spread = random.one_of(kSpreads);
  const Floats x(s.span(s.ldx, s.k), random, spread), weight(s.n * s.k, random);
  const RandomEpilogue ending(random, s, spread);
  const Epilogue& e = ending.epilogue;
  at("%s matmul [%d, %d] with [%d, %d], activation %d", kernels.name, int(s.rows), int(s.k),
     int(s.n), int(s.k), int(e.activation));
  std::vector<Expected> expected(s.span(s.ldy, s.n), {untouched(), 0});
  for (int64_t i = 0; i < s.rows; i++)
    for (int64_t j = 0; j < s.n; j++) {
      double y = e.bias ? e.bias[j] : 0, size = std::fabs(y);
      for (int64_t k = 0; k < s.k; k++) {
        const double term = double(x[i * s.ldx + k]) * weight[j * s.k + k];
        y += term;
        size += std::fabs(term);
      }
      y = activated(y, e.activation) * e.factor;
      if (e.residual) {
        const double r = e.residual[i * s.ldy + j];
        y += r;
        size += std::fabs(r);
      }
      expected[i * s.ldy + j] = {y, 1e-5 * size};
    }
  Matrix m(kernels, s.n, s.k, 32);
  pack_float32(m, 0, s.n / 2, weight.begin());
  pack_float32(m, s.n / 2, s.n - s.n / 2, weight.begin() + s.n / 2 * s.k);
  Floats y(s.span(s.ldy, s.n));
  in_two(m, [&](int64_t begin, int64_t end) {
    kernels.matmul(x.begin(), s.ldx, s.rows, m, begin, end, y.begin(), s.ldy, e);
  });
  close(y, expected);
  if (e.residual) {  // the result may take its place
    Floats z(ending.residual);
    Epilogue own = e;
    own.residual = z.begin();
    kernels.matmul(x.begin(), s.ldx, s.rows, m, 0, m.panels(), z.begin(), s.ldy, own);
    for (int64_t i = 0; i < z.size(); i++)
      if (i % s.ldy < s.n) expect(z[i] == y[i], "another result in the place of the residual");
  }
  Floats row(s.k);
  for (int64_t j = 0; j < s.n; j++) {
    m.row(j, row.begin());
    expect(std::equal(row.begin(), row.end(), weight.begin() + j * s.k), "a row is another");
  }
}

// `ends`: all codes are 127 or -127.
void matmul_8(const Kernels& kernels, Random& random, const Shape& s, bool ends) {
  const auto code = [&] { return int8_t(ends ? (random.coin() ? 127 : -127) : random.code()); };
  const int64_t depth = round_up(s.k, 4);
  const float spread = random.one_of(kSpreads);
  Buffer<uint8_t> x(s.span(s.ldx, depth));
  Buffer<int8_t> x_codes(s.rows * s.k), codes(s.n * s.k);
  Floats x_scale(s.rows), scale(s.n);
  for (auto& c : codes) c = code();
  for (auto& c : scale) c = std::fabs(random.number());
  for (auto& c : x_scale) c = std::fabs(random.number(spread));
  for (int64_t i = 0; i < s.rows; i++)
    for (int64_t k = 0; k < depth; k++) {
      const int8_t c = k < s.k ? code() : int8_t(0);
      if (k < s.k) x_codes[i * s.k + k] = c;
      x[i * s.ldx + k] = uint8_t(c + kernels.zero);
    }
  RandomEpilogue ending(random, s, spread);
  Epilogue& e = ending.epilogue;
  if (e.activation != Activation::relu) e.activation = Activation::none;  // what is exact
  at("%s matmul_8 [%d, %d] with [%d, %d]", kernels.name, int(s.rows), int(s.k), int(s.n),
     int(s.k));
  Floats expected(s.span(s.ldy, s.n)), y(expected.size());
  for (int64_t i = 0; i < s.rows; i++)
    for (int64_t j = 0; j < s.n; j++) {
      int64_t sum = 0;
      for (int64_t k = 0; k < s.k; k++) sum += int64_t(x_codes[i * s.k + k]) * codes[j * s.k + k];
      float out = float(sum) * (x_scale[i] * scale[j]);
      if (e.bias) out = out + e.bias[j];
      if (e.activation == Activation::relu && !(out > 0)) out = 0;
      out = out * e.factor;
      if (e.residual) out = e.residual[i * s.ldy + j] + out;
      expected[i * s.ldy + j] = out;
    }
  Matrix m(kernels, s.n, s.k, 8);
  pack_int8(m, 0, s.n / 2, codes.begin(), scale.begin());
  pack_int8(m, s.n / 2, s.n - s.n / 2, codes.begin() + s.n / 2 * s.k, scale.begin() + s.n / 2);
  in_two(m, [&](int64_t begin, int64_t end) {
    kernels.matmul_8(x.begin(), s.ldx, x_scale.begin(), s.rows, m, begin, end, y.begin(), s.ldy,
                       e);
  });
  same(y, expected);
  Floats row(s.k);
  for (int64_t j = 0; j < s.n; j++) {
    m.row(j, row.begin());
    for (int64_t k = 0; k < s.k; k++)
      expect(row[k] == scale[j] * float(codes[j * s.k + k]), "a row is another");
  }
}

// Weights in few bits come to what they are in 8: packed as Python has them, a step and an offset
// for each group.
void matmul_few(const Kernels& kernels, Random& random) {
  Shape s(random, 4);
  const bool ternary = random.coin();
  const int bits = ternary ? 2 : random.one_of({2, 3, 4});
  const int64_t group = random.one_of({0, 32, 64});
  if (random.below(8) == 0) s = Shape(s.rows, random.one_of({1000, 8200}), random.below(40));
  if (random.below(8) == 0) s.rows = 131;
  const int most = ternary ? 2 : (1 << bits) - 1;
  Matrix few(kernels, s.n, s.k, bits, group), whole(kernels, s.n, s.k, 8);
  const int64_t row_bytes = ternary ? (s.k + 4) / 5 : (s.k * bits + 7) / 8, groups = few.groups();
  Buffer<uint8_t> packed(s.n * row_bytes), steps(s.n * groups);
  Buffer<int8_t> offsets(s.n * groups), codes(s.n * s.k);
  Floats scale(s.n, random), x_scale(s.rows, random);
  std::fill(packed.begin(), packed.end(), uint8_t(0));
  for (int64_t i = 0; i < s.n * groups; i++) {
    steps[i] = uint8_t(1 + random.below(254 / most));
    offsets[i] = int8_t(random.below(255 - most * steps[i]) - 127);
  }
  const bool ends = random.coin();  // all codes are the greatest
  for (int64_t i = 0; i < s.n; i++)
    for (int64_t k = 0, power = 1; k < s.k; k++) {
      const int code = ends ? most : int(random.below(most + 1));
      const int64_t g = i * groups + k / few.group;
      codes[i * s.k + k] = int8_t(code * steps[g] + offsets[g]);
      uint8_t* to = packed.begin() + i * row_bytes;
      if (ternary) {
        if (k % 5 == 0) power = 1;
        to[k / 5] = uint8_t(to[k / 5] + code * power);
        power *= 3;
      } else {
        for (int64_t b = 0; b < bits; b++)
          to[(k * bits + b) / 8] |= uint8_t((code >> b & 1) << (k * bits + b) % 8);
      }
    }
  at("%s matmul in %d bits [%d, %d] with [%d, %d], groups of %d", kernels.name, bits,
     int(s.rows), int(s.k), int(s.n), int(s.k), int(group));
  const auto pack_part = [&](int64_t from, int64_t count) {
    pack_few(few, from, count, packed.begin() + from * row_bytes, row_bytes, ternary,
            scale.begin() + from, steps.begin() + from * groups, offsets.begin() + from * groups);
  };
  pack_part(0, s.n / 2);
  pack_part(s.n / 2, s.n - s.n / 2);
  pack_int8(whole, 0, s.n, codes.begin(), scale.begin());
  Buffer<uint8_t> x(s.span(s.ldx, round_up(s.k, 4)));
  for (int64_t i = 0; i < s.rows; i++)
    for (int64_t k = 0; k < round_up(s.k, 4); k++)
      x[i * s.ldx + k] = uint8_t((k >= s.k ? 0 : ends ? 127 : random.code()) + kernels.zero);
  const RandomEpilogue ending(random, s, 1);
  Floats y(s.span(s.ldy, s.n)), expected(y.size());
  in_two(few, [&](int64_t begin, int64_t end) {
    kernels.matmul_8(x.begin(), s.ldx, x_scale.begin(), s.rows, few, begin, end, y.begin(),
                       s.ldy, ending.epilogue);
  });
  kernels.matmul_8(x.begin(), s.ldx, x_scale.begin(), s.rows, whole, 0, whole.panels(),
                     expected.begin(), s.ldy, ending.epilogue);
  same(y, expected);
  Floats row(s.k), same_row(s.k);
  for (int64_t j = 0; j < s.n; j++) {
    few.row(j, row.begin());
    whole.row(j, same_row.begin());
    same(row, same_row);
  }
}

// Codes without their zero, and the scale.
float quantize_row(const float* x, int64_t k, int64_t step, int8_t* codes) {
  float most = 0;
  for (int64_t i = 0; i < k; i++) most = std::max(most, std::fabs(x[i * step]));
  const float factor = 127 / most;
  for (int64_t i = 0; i < k; i++)
    codes[i] = std::isinf(factor) ? 0 : int8_t(std::nearbyint(x[i * step] * factor));
  return most / 127;
}

void quantize(const Kernels& kernels, Random& random) {
  Shape s(random, 4);
  const int64_t depth = round_up(s.k, 4);
  Floats x(s.span(s.ldx, s.k), random, random.one_of(kSpreads));
  const float sizes[] = {0, 1e-45f, FLT_MIN / 2, FLT_MIN, 1e-37f, 1e-35f, 127, FLT_MAX};
  for (int64_t i = 0; i < s.rows; i++)
    if (random.coin()) {  // a row of numbers at the ends, or of ties
      const float size = random.one_of(sizes);
      for (int64_t k = 0; k < s.k; k++) {
        float& number = x[i * s.ldx + k];
        if (size == 127) {
          number = float(random.below(254)) - 126.5f;
        } else {
          number = random.number(size);
        }
        if (k == 0) number = size;
      }
    }
  at("%s quantize [%d, %d]", kernels.name, int(s.rows), int(s.k));
  Buffer<uint8_t> codes(s.rows * depth), expected(codes.size());
  Floats scale(s.rows), expected_scale(s.rows);
  for (int64_t i = 0; i < s.rows; i++) {
    std::vector<int8_t> row(depth);
    expected_scale[i] = quantize_row(x.begin() + i * s.ldx, s.k, 1, row.data());
    for (int64_t k = 0; k < depth; k++) expected[i * depth + k] = uint8_t(row[k] + kernels.zero);
  }
  kernels.quantize(x.begin(), s.ldx, s.rows, s.k, depth, codes.begin(), scale.begin());
  same(scale, expected_scale);
  same(codes, expected);
}

// ---- attention

constexpr int64_t kQueries[] = {0, 1, 2, 3, 4, 5, 12, 13, 29};
constexpr int64_t kKeys[] = {0, 1, 2, 3, 7, 16, 31, 33, 255, 256, 257, 600};
constexpr int64_t kWidths[] = {1, 3, 4, 16, 33, 64};
constexpr int64_t kBlock = 256;  // of keys, whose values have a scale in 8 bits

struct Case {
  const char* name;
  bool integer, packed;
  Attention a;
};

// Replaces rows (step 1) or columns by their values after rounding to 8 bits.
void round_to_codes(Floats& x, int64_t start, int64_t count, int64_t step) {
  std::vector<int8_t> codes(count);
  const float scale = quantize_row(x.begin() + start, count, step, codes.data());
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
    for (int64_t i = 0; i < a.queries; i++) round_to_codes(q, i * a.ldq, a.width, 1);
    for (int64_t j = 0; j < packed_keys; j++) round_to_codes(k, j * a.ldk, a.width, 1);
    for (int64_t from = 0; from < packed_keys; from += kBlock)
      for (int64_t i = 0; i < a.v_width; i++)
        round_to_codes(v, from * a.ldv + i, std::min(kBlock, packed_keys - from), a.ldv);
  }
  double size = 0;
  const std::vector<double> all_scores = scores(a, q, k, size);
  double most = 0;
  for (double score : all_scores) most = std::max(most, std::fabs(score));
  // In 8 bits a weight at the border of two codes may take either, but sums are exact.
  const double tolerance = (integer ? 0.02 + 4e-7 * most : 1e-5 + 1e-6 * size) * largest;
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
        if (integer) weight = std::nearbyint(127 * weight) / 127;
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
    for (int64_t i = 0; i < a.queries; i++) round_to_codes(q, i * a.ldq, a.width, 1);
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

// ---- rows

// Random numbers, or with some luck those at the ends of what there is.
Floats row_of(int64_t size, Random& random) {
  Floats x(size, random, random.one_of(kSpreads));
  if (random.coin())
    for (float& number : x) number = random.one_of(kExtremes);
  return x;
}

// Calls run(x, y) with a y of its own and, in place, with x as y.
template <class Run>
void both(const Floats& x, const std::vector<Expected>& expected, Run run) {
  Floats y(x.size()), z(x);
  run(x.begin(), y.begin());
  close(y, expected);
  run(z.begin(), z.begin());
  same(z, y);
}

void layer_norm(const Kernels& kernels, Random& random) {
  const int64_t rows = random.one_of(kRows), width = std::max<int64_t>(1, random.one_of(kSizes));
  const float spread = random.one_of(kSpreads), eps = 1e-5f;
  Floats x(rows * width, random, spread);
  const float mean = random.coin() ? 10 * spread : 0;
  const bool constant = !random.below(4), shifted = random.coin();
  for (float& number : x) number = constant ? 1 : number + mean;
  const Floats weight(width, random), bias(width, random);
  at("%s layer_norm [%d, %d] of size %g", kernels.name, int(rows), int(width), spread);
  std::vector<Expected> expected;
  for (int64_t r = 0; r < rows; r++) {
    const float* row = x.begin() + r * width;
    double sum = 0, squares = 0, size = 0;
    for (int64_t i = 0; i < width; i++) {
      sum += row[i];
      size = std::max(size, std::fabs(double(row[i])));
    }
    for (int64_t i = 0; i < width; i++) squares += std::pow(row[i] - sum / width, 2);
    const double factor = 1 / std::sqrt(squares / width + eps);
    // The mean is known to a few roundings of the numbers.
    for (int64_t i = 0; i < width; i++)
      expected.push_back({(row[i] - sum / width) * factor * weight[i] + (shifted ? bias[i] : 0),
                          1e-5 * (1 + std::fabs(weight[i])) + 2e-6 * size * factor});
  }
  both(x, expected, [&](const float* from, float* to) {
    kernels.layer_norm(from, rows, width, weight.begin(), shifted ? bias.begin() : nullptr, eps, to);
  });
}

void log_softmax(const Kernels& kernels, Random& random) {
  const int64_t rows = random.one_of(kRows), width = random.one_of(kSizes);
  Floats x = row_of(rows * width, random);
  // Differences that are themselves numbers.
  for (float& number : x) number = std::clamp(number, -1e38f, 1e38f);
  at("%s log_softmax [%d, %d]", kernels.name, int(rows), int(width));
  std::vector<Expected> expected;
  for (int64_t r = 0; r < rows; r++) {
    const float* row = x.begin() + r * width;
    const double top = width ? *std::max_element(row, row + width) : 0;
    double total = 0;
    for (int64_t i = 0; i < width; i++) total += std::exp(row[i] - top);
    for (int64_t i = 0; i < width; i++)
      expected.push_back({row[i] - top - std::log(total),
                          1e-5 + 1e-6 * (std::fabs(row[i]) + std::fabs(top))});
  }
  both(x, expected, [&](const float* from, float* to) {
    kernels.log_softmax(from, rows, width, to);
  });
}

void activate(const Kernels& kernels, Random& random) {
  const Floats x = row_of(random.one_of(kSizes), random);
  for (Activation kind : kActivations) {
    at("%s activate %d of %d", kernels.name, int(kind), int(x.size()));
    const bool exact = kind == Activation::none || kind == Activation::relu;
    std::vector<Expected> expected;
    for (float number : x)
      expected.push_back({activated(number, kind),
                          exact ? 0 : 1e-6 * std::fabs(number) + FLT_MIN});
    both(x, expected, [&](const float* from, float* to) {
      kernels.activate(from, x.size(), kind, to);
    });
  }
}

void glu(const Kernels& kernels, Random& random) {
  const int64_t rows = random.one_of(kRows), width = random.one_of(kSizes);
  const Floats x = row_of(rows * 2 * width, random);
  at("%s glu [%d, %d]", kernels.name, int(rows), int(width));
  std::vector<Expected> expected;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < width; i++) {
      const double a = x[2 * r * width + i], b = x[(2 * r + 1) * width + i];
      expected.push_back({a * sigmoid(b), 1e-6 * std::fabs(a) + FLT_MIN});
    }
  Floats y(rows * width);
  kernels.glu(x.begin(), rows, width, y.begin());
  close(y, expected);
}

void swiglu(const Kernels& kernels, Random& random) {
  const int64_t rows = random.one_of(kRows), width = random.one_of(kSizes);
  Floats x = row_of(rows * 2 * width, random);
  for (float& number : x) number = std::clamp(number, -1e18f, 1e18f);  // products are numbers
  at("%s swiglu [%d, %d]", kernels.name, int(rows), int(width));
  std::vector<Expected> expected;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < width; i++) {
      const double a = x[2 * r * width + i], b = x[(2 * r + 1) * width + i];
      // The gate alone may be less than a normal number.
      const double tolerance = 1e-6 * std::fabs(a * b) + FLT_MIN * (1 + std::fabs(a));
      expected.push_back({a * (b * sigmoid(b)), tolerance});
    }
  Floats y(rows * width);
  kernels.swiglu(x.begin(), rows, width, y.begin());
  close(y, expected);
}

void rotary(const Kernels& kernels, Random& random) {
  const int64_t heads = 1 + random.below(9), width = random.one_of(kSizes);
  const int64_t pairs = random.below(width / 2 + 1);
  const Floats x(heads * width, random, random.one_of(kSpreads)), table(2 * pairs, random);
  at("%s rotary of %d pairs in %d heads of %d", kernels.name, int(pairs), int(heads), int(width));
  std::vector<Expected> expected;
  for (int64_t i = 0; i < heads * width; i++) {
    const int64_t channel = i % width, pair = channel / 2;
    if (pair >= pairs) {
      expected.push_back({x[i], 0});
      continue;
    }
    const bool odd = channel % 2;
    const double own = double(x[i]) * table[pair];
    const double other = double(x[odd ? i - 1 : i + 1]) * table[pairs + pair];
    expected.push_back({odd ? own + other : own - other,
                        1e-6 * (std::fabs(own) + std::fabs(other)) + FLT_MIN});
  }
  both(x, expected, [&](const float* from, float* to) {
    kernels.rotary(from, table.begin(), heads, width, pairs, to);
  });
}

// Sums and products alone are exact, each rounded by itself.
void simple(const Kernels& kernels, Random& random) {
  const int64_t rows = random.one_of(kRows), width = random.one_of(kSizes), size = rows * width;
  const Floats x = row_of(size, random), other = row_of(size, random);
  const Floats weight(width, random), bias(width, random);
  const float factor = random.number(3);
  at("%s add, scale, affine and moments [%d, %d]", kernels.name, int(rows), int(width));
  Floats sum(size), scaled(size), moved(size), y(size), z(x);
  for (int64_t i = 0; i < size; i++) {
    sum[i] = x[i] + other[i];
    scaled[i] = x[i] * factor;
    const float product = x[i] * weight[i % width];
    moved[i] = product + bias[i % width];
  }
  kernels.add(x.begin(), other.begin(), size, y.begin());
  same(y, sum);
  kernels.add(z.begin(), other.begin(), size, z.begin());
  same(z, sum);
  kernels.scale(x.begin(), size, factor, y.begin());
  same(y, scaled);
  Floats in_place(x), moved_in_place(x);
  kernels.scale(in_place.begin(), size, factor, in_place.begin());
  same(in_place, scaled);
  kernels.affine(x.begin(), rows, width, weight.begin(), bias.begin(), Activation::none, y.begin());
  same(y, moved);
  kernels.affine(moved_in_place.begin(), rows, width, weight.begin(), bias.begin(),
                 Activation::none, moved_in_place.begin());
  same(moved_in_place, moved);
  for (int64_t i = 0; i < size; i++) moved[i] = std::max(moved[i], 0.0f);
  kernels.affine(x.begin(), rows, width, weight.begin(), bias.begin(), Activation::relu, y.begin());
  same(y, moved);
  std::vector<double> sums(2 * width, 1.0), expected(2 * width, 1.0);  // added to what is there
  for (int64_t i = 0; i < size; i++) {
    expected[i % width] += x[i];
    expected[width + i % width] += double(x[i]) * x[i];
  }
  kernels.moments(x.begin(), rows, width, sums.data(), sums.data() + width);
  expect(sums == expected, "moments differ");
}

void depthwise(const Kernels& kernels, Random& random) {
  const int64_t taps = 1 + random.below(33), width = random.one_of(kSizes);
  const int64_t first = random.below(taps), last = first + random.below(taps - first + 1);
  const int64_t ldx = width + random.below(3), rows = last - first;
  const float spread = random.one_of(kSpreads);
  const Floats x(rows && width ? (rows - 1) * ldx + width : 0, random, spread);
  const Floats weight(taps * width, random), bias(width, random, spread);
  at("%s depthwise, taps %d to %d of %d, width %d", kernels.name, int(first), int(last), int(taps),
     int(width));
  for (const float* start : {bias.begin(), (const float*)nullptr}) {
    std::vector<Expected> expected;
    for (int64_t i = 0; i < width; i++) {
      double sum = start ? start[i] : 0, size = std::fabs(sum);
      for (int64_t tap = first; tap < last; tap++) {
        const double term = double(x[(tap - first) * ldx + i]) * weight[tap * width + i];
        sum += term;
        size += std::fabs(term);
      }
      expected.push_back({sum, 3e-6 * size + FLT_MIN});
    }
    Floats y(width);
    kernels.depthwise(x.begin(), ldx, first, last, width, weight.begin(), start, y.begin());
    close(y, expected);
  }
}

void lstm(const Kernels& kernels, Random& random) {
  const int64_t size = random.one_of(kSizes);
  const Floats i = row_of(size, random), f = row_of(size, random);
  const Floats g = row_of(size, random), o = row_of(size, random);
  Floats cell(size, random, 3), hidden(size);
  at("%s lstm of %d", kernels.name, int(size));
  std::vector<Expected> cells, states;
  for (int64_t u = 0; u < size; u++) {
    const double now = sigmoid(f[u]) * cell[u] + sigmoid(i[u]) * std::tanh(g[u]);
    cells.push_back({now, 2e-6 * (1 + std::fabs(cell[u]))});
    states.push_back({sigmoid(o[u]) * std::tanh(now), 2e-6 * (1 + std::fabs(cell[u]))});
  }
  kernels.lstm(i.begin(), f.begin(), g.begin(), o.begin(), size, cell.begin(), hidden.begin());
  close(cell, cells);
  close(hidden, states);
}

void spectra(const Kernels& kernels, Random& random) {
  const int64_t fft = random.one_of({2, 3, 5, 9, 15, 16, 30, 40, 60});
  const int64_t size = 1 + random.below(fft), hop = 1 + random.below(20), bins = fft / 2 + 1;
  const int64_t frames = random.one_of(kRows), count = random.below(4);
  const Floats x(frames ? (frames - 1) * hop + size : 0, random), window(size, random);
  Floats filters(bins * count, random);
  for (float& f : filters) f = f < 0 ? 0 : f;
  const Spectra s(window.begin(), size, fft, count ? filters.begin() : nullptr, count,
                  tynda::FinalStep::power);
  at("%s spectra of %d of %d", kernels.name, int(size), int(fft));
  std::vector<Expected> expected;
  for (int64_t i = 0; i < frames; i++) {
    std::vector<double> power(bins);
    for (int64_t k = 0; k < bins; k++) {
      double re = 0, im = 0;
      for (int64_t j = 0; j < size; j++) {
        const double angle = 2 * std::acos(-1.0) * double(j * k % fft) / double(fft);
        const double sample = x[i * hop + j] * window[j];
        re += sample * std::cos(angle);
        im -= sample * std::sin(angle);
      }
      power[k] = re * re + im * im;
    }
    for (int64_t b = 0; b < s.bins; b++) {
      double energy = 0;
      for (int64_t k = 0; k < bins; k++)
        energy += count ? power[k] * filters[k * count + b] : k == b ? power[k] : 0;
      expected.push_back({energy, 1e-6 * energy + 1e-12});
    }
  }
  Floats y(frames * s.bins);
  kernels.spectra(s, x.begin(), hop, frames, y.begin());
  close(y, expected);
}

void test(const Kernels& kernels) {
  Random random(1);
  for (int i = 0; i < 400; i++) {
    shift = i % 2;
    matmul(kernels, random);
    matmul_8(kernels, random, Shape(random, 4), random.coin());
    matmul_few(kernels, random);
    quantize(kernels, random);
    attention(kernels, random, random.one_of({0.0f, 1.0f, 5.0f}));
    layer_norm(kernels, random);
    log_softmax(kernels, random);
    activate(kernels, random);
    glu(kernels, random);
    swiglu(kernels, random);
    rotary(kernels, random);
    simple(kernels, random);
    depthwise(kernels, random);
    lstm(kernels, random);
    spectra(kernels, random);
  }
  // Scores far beyond what any model has.
  for (int i = 0; i < 50; i++) attention(kernels, random, 600);
  // The most that a sum can come to.
  Shape deep(random, 4);
  deep.rows = 2 * kernels.tile + 1;
  deep.n = kernels.panel + 1;
  deep.ldy = deep.n;
  deep.k = deep.ldx = 20000;
  matmul_8(kernels, random, deep, true);
}

}  // namespace
}  // namespace tynda::test

int main() {
  using namespace tynda;
  std::setvbuf(stdout, nullptr, _IONBF, 0);  // should one of the tests crash
  std::string tested;
  for (const std::string& name : instruction_sets()) {
    test::test(*find_kernels(name));
    tested += name + ", ";
  }
  test::threads();
  test::plans(*find_kernels(instruction_sets()[0]));
  const test::Report& report = test::report;
  std::printf("%sthreads and plans: %lld checks, %lld failed\n", tested.c_str(),
              (long long)report.checks, (long long)report.failures);
  return report.failures ? 1 : 0;
}

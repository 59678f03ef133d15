// Tests of matrix products and of rounding to 8 bits, against plain loops.
#include "cases.h"
#include "pack.h"

namespace tynda::test {
namespace {

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

Buffer<Rounding> random_roundings(const Kernels& kernels, Random& random, int64_t rows,
                                  float spread) {
  Buffer<Rounding> roundings(rows);
  for (auto& r : roundings)
    r = {std::fabs(random.number(spread)), random.code() + kernels.zero};
  return roundings;
}

// `ends`: all codes are 127 or -127.
void matmul_8(const Kernels& kernels, Random& random, const Shape& s, bool ends) {
  const auto code = [&] { return int8_t(ends ? (random.coin() ? 127 : -127) : random.code()); };
  const int64_t depth = round_up(s.k, 4);
  const float spread = random.one_of(kSpreads);
  Buffer<uint8_t> x(s.span(s.ldx, depth));
  Buffer<int8_t> codes(s.n * s.k);
  Buffer<int> x_codes(s.rows * s.k);
  Floats scale(s.n);
  const Buffer<Rounding> roundings = random_roundings(kernels, random, s.rows, spread);
  for (auto& c : codes) c = code();
  for (auto& c : scale) c = std::fabs(random.number());
  for (int64_t i = 0; i < s.rows; i++)
    for (int64_t k = 0; k < depth; k++) {
      const int zero = roundings[i].zero, c = k < s.k ? code() + kernels.zero : zero;
      if (k < s.k) x_codes[i * s.k + k] = c - zero;
      x[i * s.ldx + k] = uint8_t(c);
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
      float out = float(sum) * (roundings[i].scale * scale[j]);
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
    kernels.matmul_8(x.begin(), s.ldx, roundings.begin(), s.rows, m, begin, end, y.begin(), s.ldy,
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
  const int max_code = ternary ? 2 : (1 << bits) - 1;
  Matrix few(kernels, s.n, s.k, bits, group), whole(kernels, s.n, s.k, 8);
  const int64_t row_bytes = ternary ? (s.k + 4) / 5 : (s.k * bits + 7) / 8, groups = few.groups();
  Buffer<uint8_t> packed(s.n * row_bytes), steps(s.n * groups);
  Buffer<int8_t> offsets(s.n * groups), codes(s.n * s.k);
  Floats scale(s.n, random);
  const Buffer<Rounding> roundings = random_roundings(kernels, random, s.rows, 1);
  std::fill(packed.begin(), packed.end(), uint8_t(0));
  for (int64_t i = 0; i < s.n * groups; i++) {
    steps[i] = uint8_t(1 + random.below(254 / max_code));
    offsets[i] = int8_t(random.below(255 - max_code * steps[i]) - 127);
  }
  const bool ends = random.coin();  // all codes are the greatest
  for (int64_t i = 0; i < s.n; i++)
    for (int64_t k = 0, power = 1; k < s.k; k++) {
      const int code = ends ? max_code : int(random.below(max_code + 1));
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
      x[i * s.ldx + k] = uint8_t(k >= s.k ? roundings[i].zero
                                          : (ends ? 127 : random.code()) + kernels.zero);
  const RandomEpilogue ending(random, s, 1);
  Floats y(s.span(s.ldy, s.n)), expected(y.size());
  in_two(few, [&](int64_t begin, int64_t end) {
    kernels.matmul_8(x.begin(), s.ldx, roundings.begin(), s.rows, few, begin, end, y.begin(),
                       s.ldy, ending.epilogue);
  });
  kernels.matmul_8(x.begin(), s.ldx, roundings.begin(), s.rows, whole, 0, whole.panels(),
                     expected.begin(), s.ldy, ending.epilogue);
  same(y, expected);
  Floats row(s.k), same_row(s.k);
  for (int64_t j = 0; j < s.n; j++) {
    few.row(j, row.begin());
    whole.row(j, same_row.begin());
    same(row, same_row);
  }
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
  for (int64_t i = 0; i < s.rows; i++)  // on one side of 0
    if (random.coin())
      for (int64_t k = 0; k < s.k; k++) x[i * s.ldx + k] = std::fabs(x[i * s.ldx + k]);
  at("%s quantize [%d, %d]", kernels.name, int(s.rows), int(s.k));
  Buffer<uint8_t> codes(s.rows * depth), expected(codes.size());
  Buffer<Rounding> roundings(s.rows);
  Floats scale(s.rows), expected_scale(s.rows);
  std::vector<int> expected_zero(s.rows);
  std::vector<int8_t> row(depth);
  for (const bool symmetric : {true, false}) {
    for (int64_t i = 0; i < s.rows; i++) {
      int zero = 0;
      const float* const from = x.begin() + i * s.ldx;
      expected_scale[i] = symmetric ? quantize_row(from, s.k, 1, row.data())
                                    : quantize_activations(from, s.k, row.data(), &zero);
      for (int64_t k = 0; k < depth; k++)
        expected[i * depth + k] = uint8_t((k < s.k ? row[k] : zero) + kernels.zero);
      expected_zero[i] = zero + kernels.zero;
    }
    kernels.quantize(x.begin(), s.ldx, s.rows, s.k, depth, symmetric, codes.begin(),
                     roundings.begin());
    for (int64_t i = 0; i < s.rows; i++) {
      expect(roundings[i].zero == expected_zero[i], "another zero point");
      scale[i] = roundings[i].scale;
    }
    same(scale, expected_scale);
    same(codes, expected);
  }
}

}  // namespace

void products(const Kernels& kernels, Random& random) {
  matmul(kernels, random);
  matmul_8(kernels, random, Shape(random, 4), random.coin());
  matmul_few(kernels, random);
  quantize(kernels, random);
}

void largest_sum(const Kernels& kernels, Random& random) {
  Shape deep(random, 4);
  deep.rows = 2 * kernels.tile + 1;
  deep.n = kernels.panel + 1;
  deep.ldy = deep.n;
  deep.k = deep.ldx = 20000;
  matmul_8(kernels, random, deep, true);
}

}  // namespace tynda::test

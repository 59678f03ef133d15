// Tests of kernels that work on rows or elements, and of spectra, against plain loops.
#include "cases.h"

namespace tynda::test {
namespace {

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
  const Floats mean(width, random), weight(width, random), bias(width, random);
  const float factor = random.number(3);
  at("%s add, scale, affine and moments [%d, %d]", kernels.name, int(rows), int(width));
  Floats sum(size), scaled(size), moved(size), centred(size), y(size), z(x);
  for (int64_t i = 0; i < size; i++) {
    sum[i] = x[i] + other[i];
    scaled[i] = x[i] * factor;
    const float product = x[i] * weight[i % width];
    moved[i] = product + bias[i % width];
    const float centred_product = (x[i] - mean[i % width]) * weight[i % width];
    centred[i] = centred_product + bias[i % width];
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
  const auto affine = [&](const Floats& from, const float* middle, Activation kind, Floats& to) {
    kernels.affine(from.begin(), rows, width, middle, weight.begin(), bias.begin(), kind,
                   to.begin());
  };
  affine(x, nullptr, Activation::none, y);
  same(y, moved);
  affine(moved_in_place, nullptr, Activation::none, moved_in_place);
  same(moved_in_place, moved);
  affine(x, mean.begin(), Activation::none, y);
  same(y, centred);
  for (int64_t i = 0; i < size; i++) moved[i] = std::max(moved[i], 0.0f);
  affine(x, nullptr, Activation::relu, y);
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
}  // namespace

void rows(const Kernels& kernels, Random& random) {
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

}  // namespace tynda::test

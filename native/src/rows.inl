// Kernels on rows or elements; included by kernels.inl.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

void layer_norm(const float* x, int64_t rows, int64_t width, const float* weight,
                const float* bias, float eps, float* y) {
  for (int64_t r = 0; r < rows; r++, x += width, y += width) {
    F total = set1(0);
    vectors(width, [&](int64_t i, int n) { total = total + load_some(x + i, n); });
    const float mean = reduce_sum(total) / float(width);
    float sum = 0, squares = 0;
    F sums = set1(0), whole = set1(0);
    vectors(width, [&](int64_t i, int n) {
      const F d = load_some(x + i, n) - set1(mean);
      if (n == kLanes) {
        sums = sums + d;
        whole = fma(d, d, whole);
      } else {  // lanes past the end must not count
        float part[kLanes];
        store(part, d);
        for (int j = 0; j < n; j++) sum += part[j], squares += part[j] * part[j];
      }
    });
    // The rounding error of the mean counts where all numbers of a row are nearly equal.
    const float error = (sum + reduce_sum(sums)) / float(width);
    const float variance = (squares + reduce_sum(whole)) / float(width) - error * error;
    const F scale = set1(1 / std::sqrt(std::max(variance, 0.0f) + eps));
    vectors(width, [&](int64_t i, int n) {
      const F normal = (load_some(x + i, n) - set1(mean) - set1(error)) * scale;
      const F shift = bias ? load_some(bias + i, n) : set1(0);
      store_some(y + i, fma(normal, load_some(weight + i, n), shift), n);
    });
  }
}

void log_softmax(const float* x, int64_t rows, int64_t width, float* y) {
  for (int64_t r = 0; r < rows; r++, x += width, y += width) {
    const float top = row_max(x, width, -FLT_MAX);
    float total = 0;
    F whole = set1(0);
    vectors(width, [&](int64_t i, int n) {
      const F e = exp(load_some(x + i, n) - set1(top));
      if (n == kLanes) {
        whole = whole + e;
      } else {
        float part[kLanes];
        store(part, e);
        for (int j = 0; j < n; j++) total += part[j];
      }
    });
    const F shift = set1(top + std::log(total + reduce_sum(whole)));
    vectors(width, [&](int64_t i, int n) { store_some(y + i, load_some(x + i, n) - shift, n); });
  }
}

void activate(const float* x, int64_t size, Activation kind, float* y) {
  vectors(size, [&](int64_t i, int n) { store_some(y + i, activated(load_some(x + i, n), kind), n); });
}

void glu(const float* x, int64_t rows, int64_t width, float* y) {
  for (int64_t r = 0; r < rows; r++, x += 2 * width, y += width)
    vectors(width, [&](int64_t i, int n) {
      store_some(y + i, load_some(x + i, n) * sigmoid(load_some(x + width + i, n)), n);
    });
}

void swiglu(const float* x, int64_t rows, int64_t width, float* y) {
  for (int64_t r = 0; r < rows; r++, x += 2 * width, y += width)
    vectors(width, [&](int64_t i, int n) {
      const F gate = load_some(x + width + i, n);
      store_some(y + i, load_some(x + i, n) * (gate * sigmoid(gate)), n);
    });
}

// A plain loop, which the compiler vectorises.
void rotary(const float* x, const float* table, int64_t heads, int64_t width, int64_t pairs,
            float* y) {
  for (int64_t h = 0; h < heads; h++, x += width, y += width) {
    for (int64_t i = 0; i < pairs; i++) {
      const float even = x[2 * i], odd = x[2 * i + 1], cos = table[i], sin = table[pairs + i];
      y[2 * i] = even * cos - odd * sin;
      y[2 * i + 1] = odd * cos + even * sin;
    }
    if (x != y) std::copy(x + 2 * pairs, x + width, y + 2 * pairs);
  }
}

void add(const float* x, const float* y, int64_t size, float* sum) {
  vectors(size, [&](int64_t i, int n) {
    store_some(sum + i, load_some(x + i, n) + load_some(y + i, n), n);
  });
}

void scale(const float* x, int64_t size, float factor, float* y) {
  vectors(size, [&](int64_t i, int n) { store_some(y + i, load_some(x + i, n) * set1(factor), n); });
}

void affine(const float* x, int64_t rows, int64_t width, const float* mean, const float* weight,
            const float* bias, Activation kind, float* y) {
  for (int64_t r = 0; r < rows; r++, x += width, y += width)
    vectors(width, [&](int64_t i, int n) {
      const F centred = mean ? load_some(x + i, n) - load_some(mean + i, n) : load_some(x + i, n);
      const F product = centred * load_some(weight + i, n);
      store_some(y + i, activated(product + load_some(bias + i, n), kind), n);
    });
}

// A plain loop in double precision, which the compiler vectorises.
void moments(const float* x, int64_t rows, int64_t width, double* sums, double* squares) {
  for (int64_t r = 0; r < rows; r++, x += width)
    for (int64_t i = 0; i < width; i++) {
      const double value = x[i];
      sums[i] += value;
      squares[i] += value * value;
    }
}

void depthwise(const float* x, int64_t ldx, int64_t first, int64_t last, int64_t width,
               const float* weight, const float* bias, float* y) {
  vectors(width, [&](int64_t i, int n) {
    F s = bias ? load_some(bias + i, n) : set1(0);
    for (int64_t tap = first; tap < last; tap++)
      s = fma(load_some(x + (tap - first) * ldx + i, n), load_some(weight + tap * width + i, n), s);
    store_some(y + i, s, n);
  });
}

void lstm(const float* i, const float* f, const float* g, const float* o, int64_t size,
          float* cell, float* hidden) {
  vectors(size, [&](int64_t u, int n) {
    const F kept = sigmoid(load_some(f + u, n)) * load_some(cell + u, n);
    const F now = kept + sigmoid(load_some(i + u, n)) * tanh(load_some(g + u, n));
    store_some(cell + u, now, n);
    store_some(hidden + u, sigmoid(load_some(o + u, n)) * tanh(now), n);
  });
}

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

// The kernels, over the few operations that a simd_*.h offers. Compiled once for each
// instruction set, in a namespace of its own.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "kernels.h"

namespace tynda {
namespace TYNDA_ISA {
namespace {

constexpr int kPanel = kLanes * kVectors;

// ---- functions of one vector

// exp(x) within 2 ulp for x from -87.3 to 87.3, and beyond as at these ends: what follows meets
// neither infinity nor numbers below the least normal one, which processors are slow with
// (Cody & Waite's reduction, Cephes' polynomial).
inline F exp(F x) {
  x = min(max(x, all(-87.3f)), all(87.3f));
  const I n = nearest(x * all(1.44269504f));
  F r = fma(real(n), all(-0.693359375f), x);
  r = fma(real(n), all(2.12194440e-4f), r);
  F y = all(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                  5.0000001201e-1f})
    y = fma(y, r, all(c));
  y = fma(y, r * r, r + all(1));
  return y * power_of_2(n);
}

inline F sigmoid(F x) { return all(1) / (all(1) + exp(all(0) - x)); }
inline F tanh(F x) {
  const F e = exp(all(-2) * abs(x));
  return copysign((all(1) - e) / (all(1) + e), x);
}

// x * Phi(x), the error function by Abramowitz & Stegun 7.1.26 as in the NumPy twin.
inline F gelu(F x) {
  const F z = x * all(0.70710678f), size = abs(z);
  const F t = all(1) / fma(size, all(0.3275911f), all(1));
  F y = all(1.061405429f);
  for (float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) y = fma(y, t, all(c));
  // From 5 on the error function is 1 in float.
  const F erf = copysign(all(1) - y * t * exp(all(0) - min(z * z, all(25))), z);
  return all(0.5f) * x * (all(1) + erf);
}

inline F activated(F x, Activation kind) {
  switch (kind) {
    case Activation::relu: return max(x, all(0));
    case Activation::gelu: return gelu(x);
    case Activation::silu: return x * sigmoid(x);
    default: return x;
  }
}

// Calls f(offset, count) for the vectors of a row.
template <class Each>
inline void vectors(int64_t width, Each f) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) f(i, kLanes);
  if (i < width) f(i, int(width - i));
}

inline F load_some(const float* p, int n) { return n == kLanes ? load(p) : load(p, n); }
inline void store_some(float* p, F x, int n) { n == kLanes ? store(p, x) : store(p, x, n); }

// ---- products

struct Real {
  using Code = float;
  using Sum = F;
  static constexpr int kDeep = 1;  // values of k in one step
  template <int Rows>
  static inline void step(F (&sums)[Rows][kVectors], const float* x, int64_t ldx, const float* w) {
    F b[kVectors];
    for (int j = 0; j < kVectors; j++) b[j] = load(w + j * kLanes);
    for (int i = 0; i < Rows; i++) {
      const F a = all(x[i * ldx]);
      for (int j = 0; j < kVectors; j++) sums[i][j] = fma(a, b[j], sums[i][j]);
    }
  }
};

struct Whole {
  using Code = uint8_t;
  using Sum = I;
  static constexpr int kDeep = 4;
  template <int Rows>
  static inline void step(I (&sums)[Rows][kVectors], const uint8_t* x, int64_t ldx,
                          const uint8_t* w) {
    B b[kVectors];
    for (int j = 0; j < kVectors; j++) b[j] = load_codes(w + 4 * j * kLanes);
    for (int i = 0; i < Rows; i++) {
      const A a = spread(x + i * ldx);
      for (int j = 0; j < kVectors; j++) sums[i][j] = dot(sums[i][j], a, b[j]);
    }
  }
};

// Sums of `depth` products for Rows rows of x and one panel w; the sums start where they are.
template <class Kind, int Rows>
inline void accumulate(typename Kind::Sum (&sums)[Rows][kVectors], const typename Kind::Code* x,
                       int64_t ldx, const typename Kind::Code* w, int64_t depth) {
  for (int64_t k = 0; k < depth; k += Kind::kDeep)
    Kind::template step<Rows>(sums, x + k, ldx, w + k * kPanel);
}

// Calls f with std::integral_constant<int, rows>, rows being 1 to kTile.
template <int Most, class Use>
inline void with_rows(int64_t rows, Use f) {
  if constexpr (Most > 1) {
    if (rows < Most) return with_rows<Most - 1>(rows, f);
  }
  f(std::integral_constant<int, Most>());
}

template <int Rows>
inline void finish(F (&sums)[Rows][kVectors], int64_t column, int64_t n, int64_t row, float* y,
                   int64_t ldy, const Epilogue& e) {
  for (int j = 0; j < kVectors; j++) {
    const int64_t at = column + j * kLanes;
    const int count = int(std::min<int64_t>(kLanes, n - at));
    if (count <= 0) return;
    const F bias = e.bias ? load_some(e.bias + at, count) : all(0);
    for (int i = 0; i < Rows; i++) {
      F x = sums[i][j];
      if (e.bias) x = x + bias;
      x = activated(x, e.activation);
      if (e.factor != 1) x = x * all(e.factor);
      if (e.residual) x = load_some(e.residual + (row + i) * e.ld_residual + at, count) + x;
      store_some(y + (row + i) * ldy + at, x, count);
    }
  }
}

void multiply(const float* x, int64_t ldx, int64_t rows, const Matrix& w, int64_t begin,
              int64_t end, float* y, int64_t ldy, const Epilogue& epilogue) {
  for (int64_t p = begin; p < end; p++) {
    const float* panel = reinterpret_cast<const float*>(w.data.get()) + p * w.k * kPanel;
    for (int64_t r = 0; r < rows; r += kTile)
      with_rows<kTile>(std::min<int64_t>(kTile, rows - r), [&](auto count) {
        F sums[count()][kVectors];
        for (auto& row : sums)
          for (F& s : row) s = all(0);
        accumulate<Real, count()>(sums, x + r * ldx, ldx, panel, w.k);
        finish<count()>(sums, p * kPanel, w.n, r, y, ldy, epilogue);
      });
  }
}

void multiply_8(const uint8_t* x, int64_t ldx, const float* scale, int64_t rows, const Matrix& w,
                int64_t begin, int64_t end, float* y, int64_t ldy, const Epilogue& epilogue) {
  const int64_t depth = w.depth();
  for (int64_t p = begin; p < end; p++) {
    const uint8_t* panel = w.data.get() + p * depth * kPanel;
    for (int64_t r = 0; r < rows; r += kTile)
      with_rows<kTile>(std::min<int64_t>(kTile, rows - r), [&](auto count) {
        I sums[count()][kVectors];
        for (auto& row : sums)
          for (int j = 0; j < kVectors; j++) row[j] = load(&w.start[p * kPanel + j * kLanes]);
        accumulate<Whole, count()>(sums, x + r * ldx, ldx, panel, depth);
        F out[count()][kVectors];
        for (int i = 0; i < count(); i++)
          for (int j = 0; j < kVectors; j++)
            out[i][j] = real(sums[i][j]) *
                        (all(scale[r + i]) * load(&w.scale[p * kPanel + j * kLanes]));
        finish<count()>(out, p * kPanel, w.n, r, y, ldy, epilogue);
      });
  }
}

void quantize(const float* x, int64_t ldx, int64_t rows, int64_t k, int64_t depth, uint8_t* codes,
              float* scale) {
  for (int64_t r = 0; r < rows; r++, x += ldx, codes += depth) {
    F most = all(0);
    vectors(k, [&](int64_t i, int n) { most = max(most, abs(load_some(x + i, n))); });
    const float largest = greatest(most);
    scale[r] = largest / 127;
    // Below this, 127 / largest is infinite: such a row counts as zeros.
    const F factor = all(largest < FLT_MIN ? 0 : 127 / largest);
    vectors(k, [&](int64_t i, int n) {
      store_codes(codes + i, nearest(load_some(x + i, n) * factor), n);
    });
    for (int64_t i = k; i < depth; i++) codes[i] = kZero;
  }
}

// ---- attention

// Keys seen at a time: their scores and values stay in the first cache.
constexpr int64_t kKeys = 256;
// With fewer queries than this, keys and values are not worth being rearranged.
constexpr int64_t kFewQueries = 4;

int64_t attention_scratch(int64_t queries, int64_t keys, int64_t width, int64_t v_width) {
  if (queries < kFewQueries) return 4 * keys;
  const int64_t panels = round_up(keys, kPanel) * width + keys * round_up(v_width, kPanel);
  return 4 * (panels + kTile * (width + kKeys + round_up(v_width, kPanel)));
}

inline int64_t seen(const Attention& a, int64_t query) {
  return a.causal ? std::min(a.keys, a.first + query + 1) : a.keys;
}

inline float inner(const float* x, const float* y, int64_t width) {
  F s = all(0);
  vectors(width, [&](int64_t i, int n) { s = fma(load_some(x + i, n), load_some(y + i, n), s); });
  return sum(s);
}

// x = exp(x - top); gives the sum.
inline float exp_row(float* x, int64_t count, float top) {
  F total = all(0);
  vectors(count, [&](int64_t i, int n) {
    store_some(x + i, exp(load_some(x + i, n) - all(top)), n);
    total = total + load_some(x + i, n);
  });
  return sum(total);
}

inline float top_of(const float* x, int64_t count, float top) {
  vectors(count, [&](int64_t i, int n) {
    if (n == kLanes) {
      top = std::max(top, greatest(load(x + i)));
    } else {
      for (int j = 0; j < n; j++) top = std::max(top, x[i + j]);
    }
  });
  return top;
}

inline float scores(const Attention& a, int64_t query, float* y) {
  const float scale = 1 / std::sqrt(float(a.width));
  const int64_t count = seen(a, query);
  for (int64_t j = 0; j < count; j++)
    y[j] = inner(a.q + query * a.ldq, a.k + j * a.ldk, a.width) * scale;
  return exp_row(y, count, top_of(y, count, -FLT_MAX));
}

void attention_weights(const Attention& a, int64_t columns) {
  for (int64_t i = 0; i < a.queries; i++) {
    float* y = a.y + i * a.ldy;
    const int64_t count = seen(a, i);
    if (count == 0) {  // as in the twin: where nothing is seen, all weigh alike
      std::fill(y, y + columns, 1 / float(columns));
      continue;
    }
    const float share = 1 / scores(a, i, y);
    for (int64_t j = 0; j < count; j++) y[j] *= share;
    std::fill(y + count, y + columns, 0.0f);
  }
}

void attend_few(const Attention& a) {
  for (int64_t i = 0; i < a.queries; i++) {
    float* y = a.y + i * a.ldy;
    const int64_t count = seen(a, i);
    float* const weights = reinterpret_cast<float*>(a.scratch);
    const float total = count ? scores(a, i, weights) : 1;
    vectors(a.v_width, [&](int64_t c, int n) {
      F s[2] = {all(0), all(0)};
      for (int64_t j = 0; j < count; j++)
        s[j % 2] = fma(all(weights[j]), load_some(a.v + j * a.ldv + c, n), s[j % 2]);
      store_some(y + c, (s[0] + s[1]) / all(total), n);
    });
  }
}

// Softmax over blocks of keys, the sums brought up to date with each (Milakov & Gimelshein
// 2018; Dao et al. 2022, section 3.1): no more than kTile x kKeys scores at a time.
void attend_many(const Attention& a) {
  const int64_t most = a.queries ? seen(a, a.queries - 1) : 0;
  const int64_t v_wide = round_up(a.v_width, kPanel);
  auto* const k_panels = reinterpret_cast<float*>(a.scratch);  // [keys / panel][width][panel]
  float* const v_panels = k_panels + round_up(a.keys, kPanel) * a.width;  // [v / panel][keys][panel]
  float* const q = v_panels + a.keys * v_wide;
  float* const weights = q + kTile * a.width;
  float* const sums = weights + kTile * kKeys;
  for (int64_t j = 0; j < round_up(most, kPanel); j++) {
    float* to = k_panels + j / kPanel * kPanel * a.width + j % kPanel;
    for (int64_t c = 0; c < a.width; c++) to[c * kPanel] = j < most ? a.k[j * a.ldk + c] : 0;
  }
  for (int64_t p = 0; p < v_wide; p += kPanel)
    for (int64_t j = 0; j < most; j++)
      vectors(kPanel, [&](int64_t i, int) {
        const int n = int(std::clamp<int64_t>(a.v_width - p - i, 0, kLanes));
        store(v_panels + p * a.keys + j * kPanel + i,
              n ? load_some(a.v + j * a.ldv + p + i, n) : all(0));
      });

  const F scale = all(1 / std::sqrt(float(a.width)));
  for (int64_t r = 0; r < a.queries; r += kTile)
    with_rows<kTile>(std::min<int64_t>(kTile, a.queries - r), [&](auto count) {
      constexpr int kRows = count();
      for (int i = 0; i < kRows; i++)
        vectors(a.width, [&](int64_t c, int n) {
          store_some(q + i * a.width + c, load_some(a.q + (r + i) * a.ldq + c, n) * scale, n);
        });
      std::fill(sums, sums + kRows * v_wide, 0.0f);
      float top[kRows], total[kRows];
      std::fill(top, top + kRows, -FLT_MAX);
      std::fill(total, total + kRows, 0.0f);
      const int64_t end = seen(a, r + kRows - 1);
      for (int64_t from = 0; from < end; from += kKeys) {
        const int64_t keys = std::min(kKeys, end - from);
        for (int64_t p = 0; p < keys; p += kPanel) {
          F s[kRows][kVectors];
          for (auto& row : s)
            for (F& x : row) x = all(0);
          accumulate<Real, kRows>(s, q, a.width, k_panels + (from + p) * a.width, a.width);
          for (int i = 0; i < kRows; i++)
            for (int j = 0; j < kVectors; j++) store(weights + i * kKeys + p + j * kLanes, s[i][j]);
        }
        for (int i = 0; i < kRows; i++) {
          float* row = weights + i * kKeys;
          const int64_t here = std::clamp<int64_t>(seen(a, r + i) - from, 0, keys);
          const float higher = top_of(row, here, top[i]);
          if (higher > top[i] && from > 0) {
            const float factor = std::exp(top[i] - higher);
            total[i] *= factor;
            vectors(v_wide, [&](int64_t c, int) {
              store(sums + i * v_wide + c, load(sums + i * v_wide + c) * all(factor));
            });
          }
          top[i] = higher;
          total[i] += exp_row(row, here, higher);
          std::fill(row + here, row + keys, 0.0f);
        }
        for (int64_t p = 0; p < v_wide; p += kPanel) {
          F s[kRows][kVectors];
          for (int i = 0; i < kRows; i++)
            for (int j = 0; j < kVectors; j++) s[i][j] = load(sums + i * v_wide + p + j * kLanes);
          accumulate<Real, kRows>(s, weights, kKeys, v_panels + p * a.keys + from * kPanel, keys);
          for (int i = 0; i < kRows; i++)
            for (int j = 0; j < kVectors; j++) store(sums + i * v_wide + p + j * kLanes, s[i][j]);
        }
      }
      for (int i = 0; i < kRows; i++) {
        const F share = all(total[i] > 0 ? 1 / total[i] : 0);
        vectors(a.v_width, [&](int64_t c, int n) {
          store_some(a.y + (r + i) * a.ldy + c, load_some(sums + i * v_wide + c, n) * share, n);
        });
      }
    });
}

void attention(const Attention& a) { a.queries < kFewQueries ? attend_few(a) : attend_many(a); }

// ---- attention in 8 bits

int64_t attention_8_scratch(int64_t keys, int64_t width, int64_t v_width) {
  const int64_t k_wide = round_up(keys, kPanel), depth = round_up(width, 4);
  const int64_t v_wide = round_up(v_width, kPanel), v_deep = round_up(keys, kKeys);
  return k_wide * depth + 8 * k_wide + v_deep * v_wide + 4 * (v_deep / kKeys * v_wide) +
         kTile * (depth + 4 + 5 * kKeys + 4 * v_wide) + kPanel * depth;
}

// 2 to the power of x, for codes of seven bits; x from -30 to 30.
inline F rough_exp2(F x) {
  const I n = nearest(x);
  const F r = x - real(n);
  F y = fma(all(0.0096181291f), r, all(0.0555041087f));
  y = fma(y, r, all(0.2402265069f));
  y = fma(y, r, all(0.6931471806f));
  return fma(y, r, all(1)) * power_of_2(n);
}

// Queries and keys have a scale for each row; values one for each channel and block of keys.
// Weights are rounded to 127ths of the greatest of their row and block, and the blocks are put
// together as in attend_many. tynda/quant/attention.py is the twin.
void attention_8(const Attention& a) {
  const int64_t depth = round_up(a.width, 4), k_wide = round_up(a.keys, kPanel);
  const int64_t v_wide = round_up(a.v_width, kPanel), v_deep = round_up(a.keys, kKeys);
  auto* const k_scale = reinterpret_cast<float*>(a.scratch);  // [keys]
  auto* const k_start = reinterpret_cast<int32_t*>(k_scale + k_wide);
  auto* const v_scale = reinterpret_cast<float*>(k_start + k_wide);  // [blocks, v_wide]
  float* const q_scale = v_scale + v_deep / kKeys * v_wide;
  float* const weights = q_scale + kTile;
  float* const sums = weights + kTile * kKeys;
  auto* const k_codes = reinterpret_cast<uint8_t*>(sums + kTile * v_wide);
  uint8_t* const v_codes = k_codes + k_wide * depth;  // [blocks][v_wide / panel][keys / 4][panel][4]
  uint8_t* const q_codes = v_codes + v_deep * v_wide;
  uint8_t* const w_codes = q_codes + kTile * depth;
  uint8_t* const rows = w_codes + kTile * kKeys;  // [panel, depth]

  for (int64_t j = 0; j < k_wide; j += kPanel) {
    const int64_t count = std::min<int64_t>(kPanel, a.keys - j);
    quantize(a.k + j * a.ldk, a.ldk, count, a.width, depth, rows, k_scale + j);
    std::fill(rows + count * depth, rows + kPanel * depth, uint8_t(kZero));
    std::fill(k_scale + j + count, k_scale + j + kPanel, 0.0f);
    for (int64_t i = 0; i < kPanel; i++) {
      int32_t start = 0;
      for (int64_t c = 0; c < depth; c += 4) {
        uint8_t* to = k_codes + j * depth + (c * kPanel + 4 * i);
        for (int64_t d = 0; d < 4; d++) {
          const int code = int(rows[i * depth + c + d]) - kZero;
          to[d] = uint8_t(code);
          start -= kZero * int(int8_t(to[d]));
        }
      }
      k_start[j + i] = start;
    }
  }
  for (int64_t from = 0; from < a.keys; from += kKeys) {
    const int64_t keys = std::min(kKeys, a.keys - from);
    float* const scale = v_scale + from / kKeys * v_wide;
    for (int64_t p = 0; p < v_wide; p += kLanes) {
      const int n = int(std::clamp<int64_t>(a.v_width - p, 0, kLanes));
      F most = all(0);
      for (int64_t j = 0; j < keys && n; j++)
        most = max(most, abs(load_some(a.v + (from + j) * a.ldv + p, n)));
      const F factor = all(127) / max(most, all(FLT_MIN));
      store(scale + p, most * all(1.0f / 127));
      uint8_t* const panel = v_codes + from * v_wide + p / kPanel * kKeys * kPanel + p % kPanel * 4;
      for (int64_t j = 0; j < kKeys; j++) {
        alignas(64) uint8_t codes[kLanes] = {};
        if (j < keys && n)
          store_plain_codes(
              codes, nearest(load_some(a.v + (from + j) * a.ldv + p, n) * factor), kLanes);
        uint8_t* to = panel + j / 4 * 4 * kPanel + j % 4;
        for (int i = 0; i < kLanes; i++) to[4 * i] = codes[i];
      }
    }
  }

  // Scores are in powers of two.
  const float scale = 1.44269504f / std::sqrt(float(a.width));
  const F top_code = all(6.98868469f);  // log2(127)
  for (int64_t r = 0; r < a.queries; r += kTile)
    with_rows<kTile>(std::min<int64_t>(kTile, a.queries - r), [&](auto count) {
      constexpr int kRows = count();
      quantize(a.q + r * a.ldq, a.ldq, kRows, a.width, depth, q_codes, q_scale);
      std::fill(sums, sums + kRows * v_wide, 0.0f);
      float top[kRows], total[kRows];
      std::fill(top, top + kRows, -FLT_MAX);
      std::fill(total, total + kRows, 0.0f);
      for (int64_t from = 0; from < a.keys; from += kKeys) {
        const int64_t keys = std::min(kKeys, a.keys - from);
        for (int64_t p = 0; p < keys; p += kPanel) {
          I s[kRows][kVectors];
          for (auto& row : s)
            for (int j = 0; j < kVectors; j++) row[j] = load(k_start + from + p + j * kLanes);
          accumulate<Whole, kRows>(s, q_codes, depth, k_codes + (from + p) * depth, depth);
          for (int j = 0; j < kVectors; j++) {
            const F keys_scale = load(k_scale + from + p + j * kLanes) * all(scale);
            for (int i = 0; i < kRows; i++)
              store(weights + i * kKeys + p + j * kLanes,
                    real(s[i][j]) * (all(q_scale[i]) * keys_scale));
          }
        }
        float share[kRows];  // of this block's codes in the sums
        for (int i = 0; i < kRows; i++) {
          float* const row = weights + i * kKeys;
          uint8_t* const codes = w_codes + i * kKeys;
          const float here = top_of(row, keys, -FLT_MAX);
          const F shift = top_code - all(here);
          I codes_sum = none();
          int64_t j = 0;
          for (; j + kLanes <= keys; j += kLanes) {
            const I code = nearest(rough_exp2(max(load(row + j) + shift, all(-30))));
            codes_sum = codes_sum + code;
            store_plain_codes(codes + j, code, kLanes);
          }
          float block = sum(real(codes_sum));
          for (; j < keys; j++) {
            const float x = std::max(row[j] - here, -30.0f);
            codes[j] = uint8_t(std::nearbyint(127 * std::exp2(x)));
            block += codes[j];
          }
          std::fill(codes + keys, codes + round_up(keys, 4), uint8_t(0));
          const float higher = std::max(top[i], here);
          const float kept = std::exp2(top[i] - higher);
          share[i] = std::exp2(here - higher);
          if (kept != 1 && from > 0)
            vectors(v_wide, [&](int64_t c, int) {
              store(sums + i * v_wide + c, load(sums + i * v_wide + c) * all(kept));
            });
          total[i] = total[i] * kept + block * share[i];
          top[i] = higher;
        }
        for (int64_t p = 0; p < v_wide; p += kPanel) {
          I s[kRows][kVectors];
          for (auto& row : s)
            for (I& x : row) x = none();
          accumulate<Whole, kRows>(s, w_codes, kKeys, v_codes + from * v_wide + p * kKeys,
                                   round_up(keys, 4));
          for (int j = 0; j < kVectors; j++) {
            const F values = load(v_scale + from / kKeys * v_wide + p + j * kLanes);
            for (int i = 0; i < kRows; i++) {
              float* const to = sums + i * v_wide + p + j * kLanes;
              store(to, fma(real(s[i][j]), all(share[i]) * values, load(to)));
            }
          }
        }
      }
      for (int i = 0; i < kRows; i++) {
        const F part = all(total[i] > 0 ? 1 / total[i] : 0);
        vectors(a.v_width, [&](int64_t c, int n) {
          store_some(a.y + (r + i) * a.ldy + c, load_some(sums + i * v_wide + c, n) * part, n);
        });
      }
    });
}

// ---- rows and elements

void layer_norm(const float* x, int64_t rows, int64_t width, const float* weight,
                const float* bias, float eps, float* y) {
  for (int64_t r = 0; r < rows; r++, x += width, y += width) {
    F total = all(0);
    vectors(width, [&](int64_t i, int n) { total = total + load_some(x + i, n); });
    const float mean = sum(total) / float(width);
    float squares = 0;
    F whole = all(0);
    vectors(width, [&](int64_t i, int n) {
      const F d = load_some(x + i, n) - all(mean);
      if (n == kLanes) {
        whole = fma(d, d, whole);
      } else {  // what is past the end is not the mean
        float part[kLanes];
        store(part, d * d);
        for (int j = 0; j < n; j++) squares += part[j];
      }
    });
    squares += sum(whole);
    const F scale = all(1 / std::sqrt(squares / float(width) + eps));
    vectors(width, [&](int64_t i, int n) {
      const F normal = (load_some(x + i, n) - all(mean)) * scale;
      store_some(y + i, fma(normal, load_some(weight + i, n), load_some(bias + i, n)), n);
    });
  }
}

void log_softmax(const float* x, int64_t rows, int64_t width, float* y) {
  for (int64_t r = 0; r < rows; r++, x += width, y += width) {
    const float top = top_of(x, width, -FLT_MAX);
    float total = 0;
    F whole = all(0);
    vectors(width, [&](int64_t i, int n) {
      const F e = exp(load_some(x + i, n) - all(top));
      if (n == kLanes) {
        whole = whole + e;
      } else {
        float part[kLanes];
        store(part, e);
        for (int j = 0; j < n; j++) total += part[j];
      }
    });
    const F shift = all(top + std::log(total + sum(whole)));
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

void add(const float* x, const float* y, int64_t size, float* sum) {
  vectors(size, [&](int64_t i, int n) {
    store_some(sum + i, load_some(x + i, n) + load_some(y + i, n), n);
  });
}

void scale(const float* x, int64_t size, float factor, float* y) {
  vectors(size, [&](int64_t i, int n) { store_some(y + i, load_some(x + i, n) * all(factor), n); });
}

void affine(const float* x, int64_t rows, int64_t width, const float* weight, const float* bias,
            float* y) {
  for (int64_t r = 0; r < rows; r++, x += width, y += width)
    vectors(width, [&](int64_t i, int n) {
      const F product = load_some(x + i, n) * load_some(weight + i, n);
      store_some(y + i, product + load_some(bias + i, n), n);
    });
}

void depthwise(const float* x, int64_t ldx, int64_t first, int64_t last, int64_t width,
               const float* weight, const float* bias, float* y) {
  vectors(width, [&](int64_t i, int n) {
    F s = bias ? load_some(bias + i, n) : all(0);
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

constexpr Kernels kKernels = {
    TYNDA_NAME, kPanel,    kZero,     kTile,       multiply,    multiply_8,
    quantize,   attention, attention_scratch, attention_8, attention_8_scratch, attention_weights,
    layer_norm, log_softmax, activate, glu,        add,         scale,
    affine,     depthwise, lstm,
};

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

// Spectra of frames, one frame in each lane; included by kernels.inl.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

// Transforms are in double precision, since the rounding errors of a loud tone in float32 would
// mask much quieter bins. They use the compiler's own vectors, which hold half as many frames.
constexpr int kHalfLanes = kLanes / 2;
typedef double Doubles __attribute__((vector_size(8 * kHalfLanes)));
typedef float Singles __attribute__((vector_size(4 * kHalfLanes)));

// A complex number in each lane. In memory, the real parts of all lanes come before the imaginary
// ones.
struct C { Doubles re, im; };

TYNDA_INLINE C operator+(C a, C b) { return {a.re + b.re, a.im + b.im}; }
TYNDA_INLINE C operator-(C a, C b) { return {a.re - b.re, a.im - b.im}; }
TYNDA_INLINE C operator*(double a, C b) { return {a * b.re, a * b.im}; }
TYNDA_INLINE C conj(C a) { return {a.re, -a.im}; }
TYNDA_INLINE C times_minus_i(C a) { return {a.im, -a.re}; }  // -i a
TYNDA_INLINE C rotated(C a, const double* by) {
  return {by[0] * a.re - by[1] * a.im, by[0] * a.im + by[1] * a.re};
}
TYNDA_INLINE C load_point(const double* z, int64_t i) {
  C a;  // two copies, because compilers split a copy of the struct into smaller ones
  std::memcpy(&a.re, z + 2 * i * kHalfLanes, sizeof a.re);
  std::memcpy(&a.im, z + (2 * i + 1) * kHalfLanes, sizeof a.im);
  return a;
}
TYNDA_INLINE void store_point(double* z, int64_t i, C a) {
  std::memcpy(z + 2 * i * kHalfLanes, &a.re, sizeof a.re);
  std::memcpy(z + (2 * i + 1) * kHalfLanes, &a.im, sizeof a.im);
}
TYNDA_INLINE void store_power(float* p, C a) {
  const Singles power = __builtin_convertvector(a.re * a.re + a.im * a.im, Singles);
  std::memcpy(p, &power, sizeof power);
}

// Discrete Fourier transforms of 2 to 5 numbers, in place.
TYNDA_INLINE void dft(C (&x)[2]) {
  const C sum = x[0] + x[1];
  x[1] = x[0] - x[1];
  x[0] = sum;
}

TYNDA_INLINE void dft(C (&x)[3]) {
  const C sum = x[1] + x[2], rest = x[0] - 0.5 * sum;
  const C side = times_minus_i(0.86602540378443865 * (x[1] - x[2]));
  x[0] = x[0] + sum;
  x[1] = rest + side;
  x[2] = rest - side;
}

TYNDA_INLINE void dft(C (&x)[4]) {
  const C even = x[0] + x[2], even_side = x[0] - x[2];
  const C odd = x[1] + x[3], odd_side = times_minus_i(x[1] - x[3]);
  x[0] = even + odd;
  x[1] = even_side + odd_side;
  x[2] = even - odd;
  x[3] = even_side - odd_side;
}

TYNDA_INLINE void dft(C (&x)[5]) {
  constexpr double c1 = 0.30901699437494742, c2 = -0.80901699437494742;
  constexpr double s1 = 0.95105651629515357, s2 = 0.58778525229247313;
  const C outer = x[1] + x[4], inner = x[2] + x[3];
  const C outer_side = times_minus_i(x[1] - x[4]), inner_side = times_minus_i(x[2] - x[3]);
  const C near = x[0] + c1 * outer + c2 * inner, far = x[0] + c2 * outer + c1 * inner;
  const C near_side = s1 * outer_side + s2 * inner_side;
  const C far_side = s2 * outer_side - s1 * inner_side;
  x[0] = x[0] + outer + inner;
  x[1] = near + near_side;
  x[2] = far + far_side;
  x[3] = far - far_side;
  x[4] = near - near_side;
}

// Combines each Radix adjacent transforms into one, in place.
template <int Radix>
void combine(const Spectra::Pass& pass, int64_t points, double* z) {
  for (int64_t j = 0; j < pass.part; j++) {
    const double* twiddles = pass.twiddles.data() + j * 2 * (Radix - 1);
    for (int64_t i = j; i < points; i += Radix * pass.part) {
      C x[Radix];
      for (int q = 0; q < Radix; q++) {
        x[q] = load_point(z, i + q * pass.part);
        if (q && j) x[q] = rotated(x[q], twiddles + 2 * (q - 1));
      }
      dft(x);
      for (int q = 0; q < Radix; q++) store_point(z, i + q * pass.part, x[q]);
    }
  }
}

// Writes the windowed samples of frames to z [points, 2, half the lanes], in the order of the first
// pass. Lanes from `count` on are zero.
void scatter(const Spectra& s, const float* x, int64_t hop, int count, double* z) {
  const auto size = int64_t(s.window.size());
  std::memset(z, 0, sizeof(double) * 2 * s.points * kHalfLanes);
  for (int lane = 0; lane < count; lane++, x += hop)
    for (int64_t i = 0; i < size; i++) z[s.index[i] * kHalfLanes + lane] = x[i] * s.window[i];
}

// Transforms z, and writes power spectra to one half of the lanes of p [fft / 2 + 1, lanes].
void power_spectra(const Spectra& s, double* z, float* p) {
  for (const Spectra::Pass& pass : s.passes) {
    switch (pass.radix) {
      case 2: combine<2>(pass, s.points, z); break;
      case 3: combine<3>(pass, s.points, z); break;
      case 4: combine<4>(pass, s.points, z); break;
      default: combine<5>(pass, s.points, z);
    }
  }
  if (!s.even()) {
    for (int64_t k = 0; k <= s.fft / 2; k++) store_power(p + k * kLanes, load_point(z, k));
    return;
  }
  // Even and odd samples are the real and imaginary parts. Bins k and points - k of the transform
  // separate into their spectra, which combine to the same bins of the result.
  for (int64_t k = 0; k <= s.points / 2; k++) {
    const C a = load_point(z, k), b = conj(load_point(z, k ? s.points - k : 0));
    const C even = a + b, odd = rotated(times_minus_i(a - b), s.half_twiddles.data() + 2 * k);
    store_power(p + k * kLanes, even + odd);
    store_power(p + (s.points - k) * kLanes, even - odd);
  }
}

// Computes the results y [bins, lanes] from power spectra p.
void finish(const Spectra& s, const float* p, float* y) {
  for (int64_t i = 0; i < s.bins; i++) {
    F e = set1(0);
    if (s.filters.empty()) {
      e = load(p + i * kLanes);
    } else {
      const Spectra::Filter& f = s.filters[i];
      for (int64_t k = f.first; k < f.last; k++)
        e = fma(set1(f.weights[k - f.first]), load(p + k * kLanes), e);
    }
    switch (s.final_step) {  // max returns its second argument for NaN
      case FinalStep::power: break;
      case FinalStep::log: e = log(max(set1(1e-10f), e)); break;
      case FinalStep::log10: e = log(max(set1(1e-10f), e)) * set1(0.434294482f); break;
      case FinalStep::standard: e = sqrt(sqrt(e));
    }
    store(y + i * kLanes, e);
  }
  if (s.final_step != FinalStep::standard) return;
  const F size = set1(float(s.bins));
  F total = set1(0), squares = set1(0);
  for (int64_t i = 0; i < s.bins; i++) total = total + load(y + i * kLanes);
  const F mean = total / size;
  for (int64_t i = 0; i < s.bins; i++) {
    const F d = load(y + i * kLanes) - mean;
    squares = fma(d, d, squares);
    store(y + i * kLanes, d);
  }
  const F deviation = sqrt(squares / size) + set1(1e-10f);
  for (int64_t i = 0; i < s.bins; i++) store(y + i * kLanes, load(y + i * kLanes) / deviation);
}

void spectra(const Spectra& s, const float* x, int64_t hop, int64_t frames, float* y) {
  const auto size = int64_t(s.window.size()), bins = s.fft / 2 + 1;
  const int64_t points = sizeof(C) * s.points, row = sizeof(F);
  const Bytes memory = aligned_bytes(points + row * (bins + s.bins));
  auto* z = reinterpret_cast<double*>(memory.get());
  auto* p = reinterpret_cast<float*>(memory.get() + points);
  float* result = p + bins * kLanes;
  for (int64_t first = 0; first < frames; first += kLanes, x += kLanes * hop) {
    const int count = int(std::min<int64_t>(kLanes, frames - first));
    // Digital silence needs no transform; short recordings are mostly padding.
    if (std::all_of(x, x + (count - 1) * hop + size, [](float v) { return v == 0; })) {
      std::memset(p, 0, row * bins);
    } else {
      for (int lane = 0; lane < kLanes; lane += kHalfLanes) {
        scatter(s, x + lane * hop, hop, std::min(kHalfLanes, count - lane), z);
        power_spectra(s, z, p + lane);
      }
    }
    finish(s, p, result);
    for (int lane = 0; lane < count; lane++)
      for (int64_t i = 0; i < s.bins; i++) *y++ = result[i * kLanes + lane];
  }
}

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

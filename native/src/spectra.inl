// Spectra of frames, one in each lane; part of kernels.inl.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

// A complex number in each lane. In memory, all real parts come before all imaginary ones.
struct C { F re, im; };

inline C operator+(C a, C b) { return {a.re + b.re, a.im + b.im}; }
inline C operator-(C a, C b) { return {a.re - b.re, a.im - b.im}; }
inline C operator*(float a, C b) { return {all(a) * b.re, all(a) * b.im}; }
inline C fma(float a, C b, C c) { return {fma(all(a), b.re, c.re), fma(all(a), b.im, c.im)}; }
inline C conj(C a) { return {a.re, all(0) - a.im}; }
inline C down(C a) { return {a.im, all(0) - a.re}; }  // -i a
inline C turned(C a, const float* by) {
  const F re = all(by[0]), im = all(by[1]), minus = all(-by[1]);
  return {fma(minus, a.im, re * a.re), fma(im, a.re, re * a.im)};
}
inline F power(C a) { return fma(a.im, a.im, a.re * a.re); }
inline C load_point(const float* z, int64_t i) {
  return {load(z + 2 * i * kLanes), load(z + (2 * i + 1) * kLanes)};
}
inline void store_point(float* z, int64_t i, C a) {
  store(z + 2 * i * kLanes, a.re);
  store(z + (2 * i + 1) * kLanes, a.im);
}

// Fourier transforms of 2 to 5 numbers, in place.
TYNDA_INLINE void transform(C (&x)[2]) {
  const C sum = x[0] + x[1];
  x[1] = x[0] - x[1];
  x[0] = sum;
}

TYNDA_INLINE void transform(C (&x)[3]) {
  const C sum = x[1] + x[2], rest = fma(-0.5f, sum, x[0]);
  const C side = down(0.866025404f * (x[1] - x[2]));
  x[0] = x[0] + sum;
  x[1] = rest + side;
  x[2] = rest - side;
}

TYNDA_INLINE void transform(C (&x)[4]) {
  const C even = x[0] + x[2], even_side = x[0] - x[2];
  const C odd = x[1] + x[3], odd_side = down(x[1] - x[3]);
  x[0] = even + odd;
  x[1] = even_side + odd_side;
  x[2] = even - odd;
  x[3] = even_side - odd_side;
}

TYNDA_INLINE void transform(C (&x)[5]) {
  constexpr float c1 = 0.309016994f, c2 = -0.809016994f, s1 = 0.951056516f, s2 = 0.587785252f;
  const C outer = x[1] + x[4], inner = x[2] + x[3];
  const C outer_side = down(x[1] - x[4]), inner_side = down(x[2] - x[3]);
  const C near = fma(c2, inner, fma(c1, outer, x[0])), far = fma(c1, inner, fma(c2, outer, x[0]));
  const C near_side = fma(s2, inner_side, s1 * outer_side);
  const C far_side = fma(-s1, inner_side, s2 * outer_side);
  x[0] = x[0] + outer + inner;
  x[1] = near + near_side;
  x[2] = far + far_side;
  x[3] = far - far_side;
  x[4] = near - near_side;
}

// Joins each Radix transforms that stand side by side, in place.
template <int Radix>
void join(const Spectra::Pass& pass, int64_t points, float* z) {
  for (int64_t j = 0; j < pass.part; j++) {
    const float* turns = pass.turns.data() + j * 2 * (Radix - 1);
    for (int64_t i = j; i < points; i += Radix * pass.part) {
      C x[Radix];
      for (int q = 0; q < Radix; q++) {
        x[q] = load_point(z, i + q * pass.part);
        if (q && j) x[q] = turned(x[q], turns + 2 * (q - 1));
      }
      transform(x);
      for (int q = 0; q < Radix; q++) store_point(z, i + q * pass.part, x[q]);
    }
  }
}

// z [fft or fft + 1, lanes]: the frames' samples, windowed and in the order of the first pass. The
// lanes after `count` are silent.
void spread(const Spectra& s, const float* x, int64_t hop, int count, float* z) {
  const auto size = int64_t(s.window.size());
  std::memset(z, 0, sizeof(float) * 2 * s.points * kLanes);
  for (int lane = 0; lane < count; lane++, x += hop)
    for (int64_t i = 0; i < size; i++) z[s.place[i] * kLanes + lane] = x[i] * s.window[i];
}

// p [fft / 2 + 1, lanes]: their power.
void powers(const Spectra& s, float* z, float* p) {
  for (const Spectra::Pass& pass : s.passes) {
    switch (pass.radix) {
      case 2: join<2>(pass, s.points, z); break;
      case 3: join<3>(pass, s.points, z); break;
      case 4: join<4>(pass, s.points, z); break;
      default: join<5>(pass, s.points, z);
    }
  }
  if (!s.even()) {
    for (int64_t k = 0; k <= s.fft / 2; k++) store(p + k * kLanes, power(load_point(z, k)));
    return;
  }
  // Even and odd samples were the real and imaginary parts. Their spectra, taken apart, are those
  // of bin k and, as conjugates, of bin points - k.
  for (int64_t k = 0; k <= s.points / 2; k++) {
    const C a = load_point(z, k), b = conj(load_point(z, k ? s.points - k : 0));
    const C even = a + b, odd = turned(down(a - b), s.halves.data() + 2 * k);
    store(p + k * kLanes, power(even + odd));
    store(p + (s.points - k) * kLanes, power(even - odd));
  }
}

// y [bins, lanes] of p, which it may be where there are no filters.
void finish(const Spectra& s, const float* p, float* y) {
  for (int64_t i = 0; i < s.bins; i++) {
    F e = all(0);
    if (s.filters.empty()) {
      e = load(p + i * kLanes);
    } else {
      const Spectra::Filter& f = s.filters[i];
      for (int64_t k = f.first; k < f.last; k++)
        e = fma(all(f.weights[k - f.first]), load(p + k * kLanes), e);
    }
    switch (s.ending) {  // of NaN, max gives the second
      case Ending::power: break;
      case Ending::log: e = log(max(all(1e-10f), e)); break;
      case Ending::log10: e = log(max(all(1e-10f), e)) * all(0.434294482f); break;
      case Ending::standard: e = sqrt(sqrt(e));
    }
    store(y + i * kLanes, e);
  }
  if (s.ending != Ending::standard) return;
  const F size = all(float(s.bins));
  F total = all(0), squares = all(0);
  for (int64_t i = 0; i < s.bins; i++) total = total + load(y + i * kLanes);
  const F mean = total / size;
  for (int64_t i = 0; i < s.bins; i++) {
    const F d = load(y + i * kLanes) - mean;
    squares = fma(d, d, squares);
    store(y + i * kLanes, d);
  }
  const F deviation = sqrt(squares / size) + all(1e-10f);
  for (int64_t i = 0; i < s.bins; i++) store(y + i * kLanes, load(y + i * kLanes) / deviation);
}

void spectra(const Spectra& s, const float* x, int64_t hop, int64_t frames, float* y) {
  const auto size = int64_t(s.window.size()), bins = s.fft / 2 + 1;
  const Bytes memory = aligned_bytes(int64_t(sizeof(float)) * kLanes * (2 * s.points + bins));
  auto* z = reinterpret_cast<float*>(memory.get());
  float* p = z + 2 * s.points * kLanes;
  for (int64_t first = 0; first < frames; first += kLanes, x += kLanes * hop) {
    const int count = int(std::min<int64_t>(kLanes, frames - first));
    // Digital silence needs no transform; short recordings in long windows are mostly that.
    if (std::all_of(x, x + (count - 1) * hop + size, [](float v) { return v == 0; })) {
      std::memset(p, 0, sizeof(float) * bins * kLanes);
    } else {
      spread(s, x, hop, count, z);
      powers(s, z, p);
    }
    finish(s, p, z);
    for (int lane = 0; lane < count; lane++)
      for (int64_t i = 0; i < s.bins; i++) *y++ = z[i * kLanes + lane];
  }
}

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

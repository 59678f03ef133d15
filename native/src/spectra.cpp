#include "spectra.h"

#include <cmath>
#include <stdexcept>

namespace tynda {
namespace {

void push_twiddle(std::vector<double>& to, int64_t i, int64_t n) {
  const double angle = -2 * 3.14159265358979323846 * double(i % n) / double(n);
  to.push_back(std::cos(angle));
  to.push_back(std::sin(angle));
}

}  // namespace

Spectra::Spectra(const float* from, int64_t size, int64_t fft, const float* filter, int64_t count,
                 FinalStep final_step)
    : fft(fft), points(fft % 2 ? fft : fft / 2), bins(filter ? count : fft / 2 + 1),
      window(from, from + size), final_step(final_step) {
  if (fft < 2 || size > fft) throw std::invalid_argument("no window has such a transform");
  int64_t part = 1;
  for (int radix : {4, 2, 3, 5})
    for (; points / part % radix == 0; part *= radix) {
      Pass pass{radix, part, {}};
      for (int64_t j = 0; j < part; j++)
        for (int q = 1; q < radix; q++) push_twiddle(pass.twiddles, j * q, radix * part);
      passes.push_back(pass);
    }
  if (part != points) throw std::invalid_argument("a length has factors other than 2, 3 and 5");

  // The last pass combines transforms of every radix-th point, and so on down to single points.
  for (int64_t i = 0; i < fft; i++) {
    int64_t point = even() ? i / 2 : i, at = 0;
    for (auto pass = passes.rbegin(); pass != passes.rend(); ++pass) {
      at += point % pass->radix * pass->part;
      point /= pass->radix;
    }
    index.push_back(2 * at + (even() ? i % 2 : 0));
  }
  if (even()) {
    for (float& w : window) w /= 2;
    for (int64_t k = 0; k <= points / 2; k++) push_twiddle(half_twiddles, k, fft);
  }
  for (int64_t i = 0; filter && i < count; i++) {
    Filter f{0, fft / 2 + 1, {}};
    while (f.first < f.last && filter[f.first * count + i] == 0) f.first++;
    while (f.last > f.first && filter[(f.last - 1) * count + i] == 0) f.last--;
    for (int64_t k = f.first; k < f.last; k++) f.weights.push_back(filter[k * count + i]);
    filters.push_back(f);
  }
}

}  // namespace tynda

// The tables of a spectrum, which do not depend on the sound.
#pragma once
#include <cstdint>
#include <vector>

namespace tynda {

// The last step on a frame's power spectrum, or on its filter energies if there are filters:
// none; the logarithm of max(x, 1e-10); square roots of magnitudes, standardised.
enum class FinalStep { power, log, log10, standard };

// Spectra of windowed frames of float32, zeros behind them up to `fft` samples. The transform of an
// even length is that of half as many complex numbers, each two samples.
struct Spectra {
  // `fft` has the factors 2, 3 and 5 alone, and is no less than `size`. `filters`:
  // [fft / 2 + 1, count], or null. std::invalid_argument for what else there is.
  Spectra(const float* window, int64_t size, int64_t fft, const float* filters, int64_t count,
          FinalStep final_step);

  // One of them without the zeros at its ends.
  struct Filter {
    int64_t first, last;         // bins of the spectrum
    std::vector<float> weights;  // [last - first]
  };
  struct Pass {
    int radix;
    int64_t part;  // length of the transforms that are joined
    // Of input q > 0 to output j: exp(-2 pi i j q / (radix * part)), [part, radix - 1, 2].
    std::vector<double> twiddles;
  };

  int64_t fft, points;        // of the complex transform
  int64_t bins;               // of a result
  std::vector<float> window;  // [size]; halved if the length is even
  std::vector<int64_t> index; // of each sample: twice the point, and 1 for the imaginary part
  std::vector<Pass> passes;
  std::vector<double> half_twiddles;  // exp(-2 pi i k / fft), [points / 2 + 1, 2]; of even lengths
  std::vector<Filter> filters;
  FinalStep final_step;

  bool even() const { return fft % 2 == 0; }
};

}  // namespace tynda

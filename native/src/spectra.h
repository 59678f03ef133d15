// The tables of a front end's spectra, which do not depend on the audio.
#pragma once
#include <cstdint>
#include <vector>

namespace tynda {

// The last step on a frame's power spectrum, or on its filter energies: none, the logarithm of
// max(x, 1e-10), or magnitudes' square roots standardised over the frame.
enum class FinalStep { power, log, log10, standard };

// Spectra of windowed float32 frames, padded with zeros to `fft` samples. An even length is
// transformed as half as many complex numbers, each of which is two samples.
struct Spectra {
  // `fft` has only the factors 2, 3 and 5, and is at least `size`; `filters` [fft / 2 + 1, count]
  // may be null. Throws std::invalid_argument otherwise.
  Spectra(const float* window, int64_t size, int64_t fft, const float* filters, int64_t count,
          FinalStep final_step);

  // A filter without the zeros at its ends.
  struct Filter {
    int64_t first, last;         // bins of the spectrum
    std::vector<float> weights;  // [last - first]
  };
  struct Pass {
    int radix;
    int64_t part;  // the length of the transforms that it combines
    // Factors of input q > 0 and output j: exp(-2 pi i j q / (radix * part)), [part, radix - 1, 2].
    std::vector<double> twiddles;
  };

  int64_t fft, points;        // `points`: the length of the complex transform
  int64_t bins;               // the number of results for each frame
  std::vector<float> window;  // [size]; halved if `fft` is even
  // The destination of each sample: twice the point, plus 1 for imaginary parts.
  std::vector<int64_t> index;
  std::vector<Pass> passes;
  std::vector<double> half_twiddles;  // exp(-2 pi i k / fft), [points / 2 + 1, 2], for even lengths
  std::vector<Filter> filters;
  FinalStep final_step;

  bool even() const { return fft % 2 == 0; }
};

}  // namespace tynda

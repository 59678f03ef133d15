// Front ends: what a model is given of the sound. src/tynda/sound/frontend.py is the twin in NumPy,
// and has the sources of each.
#pragma once
#include <memory>
#include <vector>

#include "kernels.h"

namespace tynda {

// y [frames, bins] of frames that are `hop` samples apart, on all threads of the pool.
void compute_spectra(const Spectra& spectra, const Kernels& kernels, const float* samples, int64_t hop,
                int64_t frames, float* y);

// Samples at 16 kHz to features [frames, bins]. It never changes once it is made.
class FrontEnd {
 public:
  enum Kind {
    log_mel,      // log energies of mel filters in centred frames, normalised over the sound
    spectrogram,  // roots of magnitudes, each frame standardised
    raw,          // the samples themselves
  };
  enum Normalization {
    none,       // as they are
    utterance,  // zero mean and unit variance: of each bin, or of all samples
    whisper,    // no less than the greatest value - 8, then (x + 4) / 4
  };

  // std::invalid_argument for what does not go together. `window`: [window size]; `filters`:
  // [fft / 2 + 1, bins], of a log_mel alone.
  FrontEnd(Kind kind, Normalization normal, int64_t hop, int64_t fft, int64_t bins,
           const std::vector<float>& window, const std::vector<float>& filters);

  int64_t hop() const { return hop_; }
  int64_t bins() const { return bins_; }
  // Frames of so many samples.
  int64_t frames(int64_t samples) const;
  // Features of samples [count], all of them finite.
  std::vector<float> operator()(const Kernels& kernels, const float* samples, int64_t count) const;

 private:
  Kind kind_;
  Normalization normal_;
  int64_t hop_, fft_, bins_, window_;
  std::unique_ptr<const Spectra> spectra_;
};

}  // namespace tynda

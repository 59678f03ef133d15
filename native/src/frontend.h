// Front ends, which compute a model's features from audio. The reference, with the sources, is
// src/tynda/sound/frontend.py.
#pragma once
#include <memory>
#include <vector>

#include "kernels.h"

namespace tynda {

// Computes y [frames, bins] of frames whose starts are `hop` samples apart, on all threads.
void compute_spectra(const Spectra& spectra, const Kernels& kernels, const float* samples,
                     int64_t hop, int64_t frames, float* y);

// A front end is immutable. It maps samples at 16 kHz to features [frames, bins].
class FrontEnd {
 public:
  enum Kind {
    log_mel,      // log energies of mel filters in centred frames, normalised over the recording
    spectrogram,  // square roots of magnitudes, standardised in each frame
    raw,          // the samples themselves
  };
  enum Normalization {
    none,       // no normalisation
    utterance,  // zero mean and unit variance: of each bin, or of all samples
    whisper,    // clipped to at least the maximum - 8, then (x + 4) / 4
  };

  // `window` [window size]; `filters` [fft / 2 + 1, bins] for log_mel only. Throws
  // std::invalid_argument for inconsistent arguments.
  FrontEnd(Kind kind, Normalization normal, int64_t hop, int64_t fft, int64_t bins,
           const std::vector<float>& window, const std::vector<float>& filters);

  int64_t hop() const { return hop_; }
  int64_t bins() const { return bins_; }
  // The number of frames of a recording.
  int64_t frames(int64_t samples) const;
  // Returns the features of samples [count], which must be finite.
  std::vector<float> operator()(const Kernels& kernels, const float* samples, int64_t count) const;

 private:
  Kind kind_;
  Normalization normal_;
  int64_t hop_, fft_, bins_, window_;
  std::unique_ptr<const Spectra> spectra_;
};

}  // namespace tynda

#include "frontend.h"

#include <cmath>
#include <limits>

#include "threads.h"

namespace tynda {
namespace {

// The number of frames in one task of a thread.
constexpr int64_t kTaskFrames = 64;
// The maximum FFT length and hop, so that sizes derived from them do not overflow.
constexpr int64_t kMaxFft = 1 << 14;

// Standardises each column of x [rows, width], rows > 0, in double precision: it subtracts the mean
// and divides by sqrt(variance + variance_eps) + deviation_eps.
void standardise(std::vector<float>& x, int64_t width, double variance_eps,
                 double deviation_eps) {
  const int64_t rows = int64_t(x.size()) / width;
  for (int64_t i = 0; i < width; i++) {
    double sum = 0, squares = 0;
    for (int64_t r = 0; r < rows; r++) sum += x[size_t(r * width + i)];
    const double mean = sum / double(rows);
    for (int64_t r = 0; r < rows; r++) {
      const double d = x[size_t(r * width + i)] - mean;
      squares += d * d;
    }
    const double deviation = std::sqrt(squares / double(rows) + variance_eps) + deviation_eps;
    for (int64_t r = 0; r < rows; r++) {
      float& value = x[size_t(r * width + i)];
      value = float((value - mean) / deviation);
    }
  }
}

// The samples with reflection padding of `edge` samples on each side. A recording that is too short
// for it is padded with zeros first.
std::vector<float> reflect_pad(const float* samples, int64_t count, int64_t edge) {
  const int64_t inner = std::max(count, edge + 1);
  std::vector<float> result(size_t(inner + 2 * edge));
  std::copy(samples, samples + count, result.begin() + edge);
  for (int64_t i = 1; i <= edge; i++) {
    result[size_t(edge - i)] = result[size_t(edge + i)];
    result[size_t(edge + inner - 1 + i)] = result[size_t(edge + inner - 1 - i)];
  }
  return result;
}

}  // namespace

void compute_spectra(const Spectra& spectra, const Kernels& kernels, const float* samples,
                     int64_t hop, int64_t frames, float* y) {
  const auto task = [&](int64_t i, int) {
    const int64_t first = i * kTaskFrames;
    kernels.spectra(spectra, samples + first * hop, hop, std::min(kTaskFrames, frames - first),
                    y + first * spectra.bins);
  };
  Pool::shared().run((frames + kTaskFrames - 1) / kTaskFrames, task);
}

FrontEnd::FrontEnd(Kind kind, Normalization normal, int64_t hop, int64_t fft, int64_t bins,
                   const std::vector<float>& window, const std::vector<float>& filters)
    : kind_(kind), normal_(normal), hop_(hop), fft_(fft), bins_(bins),
      window_(int64_t(window.size())) {
  if (kind == raw) {
    if (hop != 1 || bins != 1 || normal == whisper)
      throw std::invalid_argument("no front end has samples like these");
    return;
  }
  const bool mel = kind == log_mel;
  const bool fits = hop >= 1 && hop <= kMaxFft && fft >= 2 && fft <= kMaxFft && window_ >= 1 &&
                    window_ <= fft && bins >= 1 && bins <= fft / 2 + 1 &&
                    int64_t(filters.size()) == (mel ? (fft / 2 + 1) * bins : 0) &&
                    (mel ? normal != none : normal == none && bins == fft / 2 + 1);
  if (!fits) throw std::invalid_argument("no front end has sizes like these");
  const FinalStep final_step = !mel                 ? FinalStep::standard
                        : normal == whisper ? FinalStep::log10
                                            : FinalStep::log;
  spectra_ = std::make_unique<Spectra>(window.data(), window_, fft,
                                       mel ? filters.data() : nullptr, bins, final_step);
}

int64_t FrontEnd::frames(int64_t samples) const {
  if (kind_ == spectrogram) return samples < window_ ? 0 : 1 + (samples - window_) / hop_;
  return samples / hop_;
}

std::vector<float> FrontEnd::operator()(const Kernels& kernels, const float* samples,
                                        int64_t count) const {
  const int64_t frames = this->frames(count);
  if (frames == 0) return {};
  if (kind_ == raw) {
    std::vector<float> x(samples, samples + count);
    if (normal_ == utterance) standardise(x, 1, 1e-7, 0);
    return x;
  }
  std::vector<float> x(size_t(frames * bins_));
  if (kind_ == spectrogram) {
    compute_spectra(*spectra_, kernels, samples, hop_, frames, x.data());
    return x;
  }
  const std::vector<float> around = reflect_pad(samples, count, fft_ / 2);
  // A window shorter than the FFT is centred in it; power spectra do not depend on its position.
  compute_spectra(*spectra_, kernels, around.data() + (fft_ - window_) / 2, hop_, frames, x.data());
  if (normal_ == utterance) {
    standardise(x, bins_, 0, 1e-5);
    return x;
  }
  float greatest = -std::numeric_limits<float>::infinity();
  for (const float value : x) greatest = std::max(greatest, value);
  for (float& value : x) value = (std::max(value, greatest - 8) + 4) / 4;
  return x;
}

}  // namespace tynda

// The recogniser as a module of WebAssembly. web/engine/src/module.ts calls these functions.
//
// No exception crosses the border: a function returns whether it was done; otherwise `error_data`
// is the error in one line.
#include <cmath>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "isa.h"
#include "recogniser.h"

#define TYNDA_EXPORT(name) extern "C" __attribute__((export_name(#name)))
#define TYNDA_IMPORT(name) extern "C" __attribute__((import_module("files"), import_name(#name)))

// The page's files. `size` returns -1 where there is no such file, and `read` 0 where it fails.
// Numbers are doubles, which JavaScript has.
TYNDA_IMPORT(size) double files_size(const char* name, int length);
TYNDA_IMPORT(read) int files_read(const char* name, int length, double offset, int bytes, void* to);

namespace {

class PageFiles : public tynda::Files {
 public:
  int64_t size(const std::string& name) override {
    const double size = files_size(name.data(), int(name.size()));
    if (size < 0) throw std::runtime_error("the model has no file " + name);
    return int64_t(size);
  }
  void read(const std::string& name, int64_t offset, int64_t bytes, void* to) override {
    if (bytes > INT32_MAX) throw std::bad_alloc();
    if (!files_read(name.data(), int(name.size()), double(offset), int(bytes), to))
      throw std::runtime_error("cannot read " + name + " of the model");
  }
};

std::unique_ptr<const tynda::Recogniser> recogniser;
std::string error;
tynda::Heard heard;
tynda::LogProbs log_probs;

// Releases the samples [count] of `samples_memory`, and works on them.
template <class Work>
void on_samples(float* samples, int count, Work work) {
  const std::unique_ptr<const float[]> owned(samples);
  if (!recogniser) throw std::runtime_error("no model was loaded");
  for (int i = 0; i < count; i++)
    if (!std::isfinite(samples[i])) throw std::invalid_argument("a sample is not finite");
  work();
}

template <class Work>
int attempt(Work work) {
  try {
    work();
    return 1;
  } catch (const std::bad_alloc&) {
    error = "out of memory";
  } catch (const std::exception& e) {
    error = e.what();
  }
  return 0;
}

}  // namespace

// Reads the model, of which there is one, for a number of threads.
TYNDA_EXPORT(load) int load(int threads) {
  return attempt([&] {
    const tynda::Kernels* kernels = tynda::find_kernels(tynda::instruction_sets().front());
    recogniser = std::make_unique<tynda::Recogniser>(PageFiles(), *kernels, threads);
  });
}

// The maximum number of samples of a recording, and whether a longer one is heard in windows, of
// which each begins where the one before it says.
TYNDA_EXPORT(max_samples) int max_samples() { return int(recogniser->max_samples()); }
TYNDA_EXPORT(has_timestamps) int has_timestamps() { return recogniser->has_timestamps(); }

// Returns memory for samples, which the functions below release, or null where there is not enough.
TYNDA_EXPORT(samples_memory) float* samples_memory(int count) {
  return new (std::nothrow) float[size_t(count)];
}

// Recognises the samples [count], float32 at 16 kHz, in `samples_memory`. tynda::Heard and
// tynda::Spoken explain what was heard.
TYNDA_EXPORT(hear) int hear(float* samples, int count) {
  return attempt(
      [&] { on_samples(samples, count, [&] { heard = recogniser->hear(samples, count); }); });
}
TYNDA_EXPORT(heard_samples) int heard_samples() { return int(heard.samples); }
TYNDA_EXPORT(heard_log_probability) double heard_log_probability() { return heard.log_probability; }
TYNDA_EXPORT(heard_tokens) int heard_tokens() { return int(heard.tokens); }
TYNDA_EXPORT(heard_segments) int heard_segments() { return int(heard.segments.size()); }
TYNDA_EXPORT(segment_start) int segment_start(int i) { return int(heard.segments[size_t(i)].start); }
TYNDA_EXPORT(segment_end) int segment_end(int i) { return int(heard.segments[size_t(i)].end); }
TYNDA_EXPORT(segment_data) const char* segment_data(int i) {
  return heard.segments[size_t(i)].text.data();
}
TYNDA_EXPORT(segment_size) int segment_size(int i) {
  return int(heard.segments[size_t(i)].text.size());
}

// Finds what a CTC model makes of such samples: float32 [frames, tokens].
TYNDA_EXPORT(find_log_probs) int find_log_probs(float* samples, int count) {
  return attempt([&] {
    on_samples(samples, count, [&] { log_probs = recogniser->log_probs(samples, count); });
  });
}
TYNDA_EXPORT(log_probs_data) const float* log_probs_data() { return log_probs.values.data(); }
TYNDA_EXPORT(log_probs_size) int log_probs_size() { return int(log_probs.values.size()); }
TYNDA_EXPORT(log_probs_frames) int log_probs_frames() { return int(log_probs.frames); }

TYNDA_EXPORT(error_data) const char* error_data() { return error.data(); }
TYNDA_EXPORT(error_size) int error_size() { return int(error.size()); }

// The recogniser as a module of WebAssembly. web/engine/src/module.ts calls these functions.
//
// No exception crosses the border: a function returns whether it was done, and last_text is then
// its result, otherwise the error in one line.
#include <cmath>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

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
std::string text;
double log_probability = 0;
int64_t tokens = 0;
tynda::LogProbs log_probs;

// Releases the samples [count] of `samples_memory`, and works on them.
template <class Work>
std::string on_samples(float* samples, int count, Work work) {
  const std::unique_ptr<const float[]> owned(samples);
  if (!recogniser) throw std::runtime_error("no model was loaded");
  for (int i = 0; i < count; i++)
    if (!std::isfinite(samples[i])) throw std::invalid_argument("a sample is not finite");
  return work();
}

template <class Work>
int attempt(Work work) {
  try {
    text = work();
    return 1;
  } catch (const std::bad_alloc&) {
    text = "out of memory";
  } catch (const std::exception& error) {
    text = error.what();
  }
  return 0;
}

}  // namespace

// Reads the model, of which there is one.
TYNDA_EXPORT(load) int load() {
  return attempt([] {
    const tynda::Kernels* kernels = tynda::find_kernels(tynda::instruction_sets().front());
    recogniser = std::make_unique<tynda::Recogniser>(PageFiles(), *kernels, 1);
    return std::string();
  });
}

// The maximum number of samples of a recording.
TYNDA_EXPORT(max_samples) int max_samples() { return int(recogniser->max_samples()); }

// Returns memory for samples, which the functions below release, or null where there is not enough.
TYNDA_EXPORT(samples_memory) float* samples_memory(int count) {
  return new (std::nothrow) float[size_t(count)];
}

// Recognises the samples [count], float32 at 16 kHz, in `samples_memory`.
TYNDA_EXPORT(transcribe) int transcribe(float* samples, int count) {
  return attempt([&] {
    return on_samples(samples, count, [&] {
      tynda::Heard heard = recogniser->hear(samples, count);
      log_probability = heard.log_probability, tokens = heard.tokens;
      return std::move(heard.text);
    });
  });
}

// Finds what a CTC model makes of such samples: float32 [frames, tokens].
TYNDA_EXPORT(find_log_probs) int find_log_probs(float* samples, int count) {
  return attempt([&] {
    return on_samples(samples, count, [&] {
      log_probs = recogniser->log_probs(samples, count);
      return std::string();
    });
  });
}
TYNDA_EXPORT(log_probs_data) const float* log_probs_data() { return log_probs.values.data(); }
TYNDA_EXPORT(log_probs_size) int log_probs_size() { return int(log_probs.values.size()); }
TYNDA_EXPORT(log_probs_frames) int log_probs_frames() { return int(log_probs.frames); }

// These numbers belong to the last text; tynda::Heard explains them.
TYNDA_EXPORT(text_log_probability) double text_log_probability() { return log_probability; }
TYNDA_EXPORT(text_tokens) int text_tokens() { return int(tokens); }

TYNDA_EXPORT(text_data) const char* text_data() { return text.data(); }
TYNDA_EXPORT(text_size) int text_size() { return int(text.size()); }

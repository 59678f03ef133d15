// Speech recognition with an exported model, without Python.
#pragma once
#include <string>

#include "exported.h"

namespace tynda {

// A recogniser is immutable: any number of threads may use one.
class Recogniser {
 public:
  // Reads the files, such as Folder("exported"), and needs them no more after that. Throws what
  // `Exported` throws.
  Recogniser(Files&& files, const Kernels& kernels, int threads);

  // The maximum number of samples of a recording.
  int64_t max_samples() const { return model_.sound().samples; }
  // Returns the text, in UTF-8, that greedy decoding finds for samples [count] at 16 kHz. Throws
  // std::invalid_argument where the recording is longer than the export allows, and
  // std::out_of_range where the decoder exceeds the capacity of its cache.
  std::string text(const float* samples, int64_t count) const;

 private:
  std::vector<Tensor> encode(const std::vector<float>& features, int64_t frames) const;
  std::string ctc(const std::vector<Tensor>& encoded) const;
  std::string seq2seq(const std::vector<Tensor>& encoded) const;
  int64_t choose(const Tensor& logits, bool is_first) const;

  const Kernels& kernels_;
  Exported model_;
};

}  // namespace tynda

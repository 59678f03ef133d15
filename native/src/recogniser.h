// Sound to text by an exported model, without Python.
#pragma once
#include <string>

#include "exported.h"

namespace tynda {

// It never changes once it is made: any number of threads may use one.
class Recogniser {
 public:
  // Throws what `Exported` throws.
  Recogniser(const std::string& folder, const Kernels& kernels, int threads);

  // The likeliest text, UTF-8, of samples [count] at 16 kHz: that of greedy decoding.
  // std::invalid_argument where the recording is longer than the model takes, std::out_of_range
  // where the decoder leaves its cache.
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

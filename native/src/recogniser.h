// Speech recognition with an exported model, without Python.
#pragma once
#include <string>

#include "exported.h"

namespace tynda {

// The text of a recording, in UTF-8.
struct Heard {
  std::string text;
  // The natural logarithm of the probability of its tokens, and their number. For CTC, the
  // probability of a token is that of its most probable frame; for a decoder, it is that among the
  // tokens that are not suppressed, and the token that ends the text is one of them.
  double log_probability = 0;
  int64_t tokens = 0;
};

// A CTC model gives natural logarithms of probabilities [frames, tokens].
struct LogProbs {
  std::vector<float> values;
  int64_t frames = 0;
};

// A recogniser is immutable: any number of threads may use one.
class Recogniser {
 public:
  // Reads the files, such as Folder("exported"), and needs them no more after that. Throws what
  // `Exported` throws.
  Recogniser(Files&& files, const Kernels& kernels, int threads);

  // The maximum number of samples of a recording.
  int64_t max_samples() const { return model_.sound().samples; }
  // Returns what greedy decoding finds for samples [count] at 16 kHz. Throws std::invalid_argument
  // where the recording is longer than the export allows, and std::out_of_range where the decoder
  // exceeds the capacity of its cache.
  Heard hear(const float* samples, int64_t count) const;
  // Returns what a CTC model gives for such samples, for searches other than greedy decoding. Throws
  // std::invalid_argument for another model as well.
  LogProbs log_probs(const float* samples, int64_t count) const;

 private:
  // The results of the encoder, or none where the recording is shorter than a frame.
  std::vector<Tensor> encoded(const float* samples, int64_t count) const;
  std::vector<Tensor> encode(const std::vector<float>& features, int64_t frames) const;
  Heard ctc(const std::vector<Tensor>& encoded) const;
  int64_t ctc_frames(const std::vector<Tensor>& encoded) const;
  Heard seq2seq(const std::vector<Tensor>& encoded) const;
  int64_t choose(const Tensor& logits, bool is_first) const;

  const Kernels& kernels_;
  Exported model_;
};

}  // namespace tynda

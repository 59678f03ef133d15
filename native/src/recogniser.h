// Speech recognition with an exported model, without Python.
#pragma once
#include <string>

#include "exported.h"

namespace tynda {

// A segment is a part of a recording with its text; its times are in samples from the beginning.
struct Spoken {
  int64_t start, end;
  std::string text;  // UTF-8, with the space before it, so that texts are joined as they are
};

// The segments of a recording.
struct Heard {
  // These have a text, and are in order. Without timestamps, all is one segment.
  std::vector<Spoken> segments;
  // The samples to which they belong: a decoder that does not finish a sentence begins it again in
  // the next window, which starts there.
  int64_t samples = 0;
  // The natural logarithm of the probability of its tokens, and their number. For CTC, the
  // probability of a token is that of its most probable frame; for a decoder, it is that among the
  // tokens that are not suppressed; the token that ends the text is one of them, timestamps are not.
  double log_probability = 0;
  int64_t tokens = 0;

  // The texts of all segments, without white space at the ends.
  std::string text() const;
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
  // Whether the decoder says where its next window begins (Heard::samples). Otherwise a longer
  // recording is cut where it is quiet.
  bool has_timestamps() const { return model_.greedy().timestamps.has_value(); }
  // Returns what greedy decoding finds for samples [count] at 16 kHz. Throws std::invalid_argument
  // where the recording is longer than the export allows, and std::out_of_range where the decoder
  // exceeds the capacity of its cache.
  // A decoder has at most one window of the encoder, see Heard::samples.
  Heard hear(const float* samples, int64_t count) const;
  // Returns what a CTC model gives for such samples, for searches other than greedy decoding. Throws
  // std::invalid_argument for another model as well.
  LogProbs log_probs(const float* samples, int64_t count) const;

 private:
  // The results of the encoder, or none where the recording is shorter than a frame.
  std::vector<Tensor> encoded(const float* samples, int64_t count) const;
  Heard ctc(const std::vector<Tensor>& encoded, int64_t count) const;
  int64_t ctc_frames(const std::vector<Tensor>& encoded) const;
  Heard seq2seq(const std::vector<Tensor>& encoded, int64_t count) const;
  int64_t choose(const Tensor& logits, const std::vector<int64_t>& text) const;

  const Kernels& kernels_;
  Exported model_;
};

}  // namespace tynda

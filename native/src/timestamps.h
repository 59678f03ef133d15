// Whisper's timestamps: tokens that say when a segment begins or ends. The reference, with the
// sources, is src/tynda/heads/seq2seq/rules.py and sliding.py.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tynda {

struct Timestamps {
  int64_t begin;       // the token of the window's beginning; the later ones follow it
  int64_t none;        // the token that stands for a text without timestamps
  int64_t last_first;  // the last one with which a window may begin
};

// Sets the logits [vocab] of what may not follow the tokens of a text to minus infinity. `end` is
// the token that ends a text.
void restrict_timestamps(const Timestamps& stamps, int64_t end, const std::vector<int64_t>& text,
                         float* logits, int64_t vocab);

// Tokens [first, last) of a text, and when they were spoken, in samples from the window's
// beginning.
struct Part {
  size_t first, last;
  int64_t start, end;
};

// Returns the segments of a window of some samples, and increases `taken` to the number of samples
// after which the next window begins. Without timestamps, `stamps` is null and all is one segment.
std::vector<Part> split(const Timestamps* stamps, const std::vector<int64_t>& text,
                        int64_t samples, int64_t& taken);

}  // namespace tynda

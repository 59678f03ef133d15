#include "timestamps.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tynda {
namespace {

// A timestamp stands for a multiple of so many samples: 0.02 s.
constexpr int64_t kStampSamples = 320;

}  // namespace

void restrict_timestamps(const Timestamps& stamps, int64_t end, const std::vector<int64_t>& text,
                         float* logits, int64_t vocab) {
  const auto is_stamp = [&](int64_t token) { return token >= stamps.begin; };
  const auto forbid = [&](int64_t first, int64_t last) {
    std::fill(logits + first, logits + std::max(first, last),
              -std::numeric_limits<float>::infinity());
  };
  forbid(stamps.none, stamps.none + 1);
  if (text.empty()) {  // A window begins with a timestamp.
    forbid(0, stamps.begin);
    forbid(stamps.last_first + 1, vocab);
  }
  const auto last = std::find_if(text.rbegin(), text.rend(), is_stamp);
  if (last != text.rend()) {
    const bool after = last == text.rbegin();
    const bool paired = text.size() < 2 || is_stamp(text[text.size() - 2]);
    if (after && paired) {
      forbid(stamps.begin, vocab);
    } else if (after) {  // The next segment begins, or the text ends.
      forbid(0, end);
    }
    // Timestamps do not decrease, and no segment is empty.
    forbid(stamps.begin, *last + (after && !paired ? 0 : 1));
  }
  // A timestamp is next if the total probability of timestamps exceeds that of any text token.
  const float word = *std::max_element(logits, logits + stamps.begin);
  const float top = *std::max_element(logits + stamps.begin, logits + vocab);
  if (top == -std::numeric_limits<float>::infinity()) return;
  double total = 0;
  for (int64_t i = stamps.begin; i < vocab; i++) total += std::exp(double(logits[i]) - top);
  if (word < top + std::log(total)) forbid(0, stamps.begin);
}

std::vector<Part> split(const Timestamps* stamps, const std::vector<int64_t>& text,
                        int64_t samples, int64_t& taken) {
  const size_t count = text.size();
  const auto is_stamp = [&](size_t i) { return stamps && text[i] >= stamps->begin; };
  const auto time = [&](size_t i) { return kStampSamples * (text[i] - stamps->begin); };
  taken = samples;
  // Two timestamps in a row are the end of a segment and the beginning of the next.
  std::vector<Part> parts;
  size_t first = 0;
  const auto add = [&](size_t last) {
    const int64_t start = is_stamp(first) ? time(first) : 0;
    parts.push_back({first, last, start, time(last - 1)});
    first = last;
  };
  for (size_t i = 1; i < count; i++)
    if (is_stamp(i - 1) && is_stamp(i)) add(i);
  if (!parts.empty()) {
    if (!is_stamp(count - 2) && is_stamp(count - 1)) {
      add(count);  // No speech follows the last segment.
    } else {
      // The segment after the last cut is not complete: the next window begins with it.
      taken = time(first - 1);
    }
    // Timestamps of a damaged model do not advance, or lie after the recording.
    if (taken <= 0 || taken > samples) taken = samples;
    return parts;
  }
  int64_t end = samples;
  for (size_t i = 0; i < count; i++)
    if (is_stamp(i) && time(i)) end = time(i);
  return {{0, count, 0, end}};
}

}  // namespace tynda

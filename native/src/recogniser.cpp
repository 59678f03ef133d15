#include "recogniser.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "threads.h"

namespace tynda {
namespace {

// Converts bytes to valid UTF-8. Each maximal incomplete sequence becomes U+FFFD, as the Unicode
// Standard recommends (chapter 3.9) and Python does: tokens may end within a character.
std::string as_utf8(const std::string& bytes) {
  std::string text;
  const auto at = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  for (size_t i = 0; i < bytes.size();) {
    const int lead = at(i);
    const int more = lead < 0x80                   ? 0
                     : lead < 0xC2 || lead > 0xF4 ? -1
                     : lead < 0xE0                ? 1
                     : lead < 0xF0                ? 2
                                                  : 3;
    size_t end = i + 1;
    for (int j = 0; j < more && end < bytes.size(); j++, end++) {
      const int low = j > 0 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
      const int high = j > 0 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
      if (at(end) < low || at(end) > high) break;
    }
    if (int64_t(end - i) == more + 1) {
      text.append(bytes, i, end - i);
    } else {
      text += "\xEF\xBF\xBD";
    }
    i = end;
  }
  return text;
}

constexpr const char* kSpaces = " \t\n\v\f\r";

std::string stripped(const std::string& text) {
  const size_t first = text.find_first_not_of(kSpaces);
  if (first == text.npos) return "";
  return text.substr(first, text.find_last_not_of(kSpaces) - first + 1);
}

// Replaces each run of white space by one space, and removes it at the ends.
std::string single_spaced(const std::string& text) {
  std::string result;
  for (size_t at = 0; (at = text.find_first_not_of(kSpaces, at)) != text.npos;) {
    const size_t end = std::min(text.find_first_of(kSpaces, at), text.size());
    if (!result.empty()) result += ' ';
    result.append(text, at, end - at);
    at = end;
  }
  return result;
}

void check_results(const std::vector<Tensor>& results, size_t min_count) {
  if (results.size() < min_count) throw std::invalid_argument("a program has too few results");
}

Tensor integers(const std::vector<int64_t>& values) {
  const Tensor tensor = zeros(8 * int64_t(values.size()));
  std::copy(values.begin(), values.end(), tensor.as<int64_t>());
  return tensor;
}

// The logarithm of the probability of a token that no other one exceeds.
double log_softmax(const Tensor& logits, int64_t token) {
  const auto* const row = logits.as<float>();
  double sum = 0;
  for (int64_t i = 0; i < logits.bytes / 4; i++) sum += std::exp(double(row[i]) - row[token]);
  return -std::log(sum);
}

}  // namespace

Recogniser::Recogniser(Files&& files, const Kernels& kernels, int threads)
    : kernels_(kernels), model_(files, kernels, threads) {
  Pool::shared().grow(threads);
}

std::string Heard::text() const {
  std::string all;
  for (const Spoken& segment : segments) all += segment.text;
  return stripped(all);
}

Heard Recogniser::hear(const float* samples, int64_t count) const {
  const std::vector<Tensor> found = encoded(samples, count);
  if (found.empty()) return {{}, count};
  return model_.greedy().kind == Greedy::ctc ? ctc(found, count) : seq2seq(found, count);
}

LogProbs Recogniser::log_probs(const float* samples, int64_t count) const {
  if (model_.greedy().kind != Greedy::ctc)
    throw std::invalid_argument("the model has a decoder, and no log-probabilities of frames");
  const std::vector<Tensor> found = encoded(samples, count);
  if (found.empty()) return {};
  const int64_t frames = ctc_frames(found);
  const auto* const values = found[0].as<float>();
  return {{values, values + frames * int64_t(model_.tokens().size())}, frames};
}

// The results of the encoder for the frames of the recording; zeros follow their features.
std::vector<Tensor> Recogniser::encoded(const float* samples, int64_t count) const {
  const Sound& sound = model_.sound();
  if (count > sound.samples)
    throw std::invalid_argument("the recording has " + std::to_string(count) +
                                " samples, and the maximum is " + std::to_string(sound.samples));
  const int64_t frames = model_.front().frames(count);
  if (frames == 0) return {};
  std::vector<float> whole(samples, samples + count);
  whole.resize(static_cast<size_t>(count + sound.silence));
  const std::vector<float> features =
      model_.front()(kernels_, whole.data(), int64_t(whole.size()));
  const Window& window = model_.window(count);
  const int64_t bins = model_.front().bins();
  const Tensor padded = zeros(4 * window.frames * bins);
  std::copy(features.begin(), features.begin() + frames * bins, padded.as<float>());
  std::vector<Tensor> inputs{padded, integers({sound.whole ? window.frames : frames})};
  inputs.insert(inputs.end(), window.merged.begin(), window.merged.end());
  return model_.run("encode" + window.suffix, std::move(inputs));
}

// `encoded` holds log-probabilities [frames, tokens] and the number of valid frames.
int64_t Recogniser::ctc_frames(const std::vector<Tensor>& encoded) const {
  check_results(encoded, 2);
  if (encoded[1].bytes != 8)
    throw std::invalid_argument("the encoder returns more than one length");
  const int64_t max_frames = encoded[0].bytes / (4 * int64_t(model_.tokens().size()));
  return std::clamp<int64_t>(*encoded[1].as<int64_t>(), 0, max_frames);
}

Heard Recogniser::ctc(const std::vector<Tensor>& encoded, int64_t count) const {
  const std::vector<std::string>& tokens = model_.tokens();
  const auto vocab = int64_t(tokens.size());
  const int64_t frames = ctc_frames(encoded);
  Heard heard;
  heard.samples = count;
  std::string text;
  const int64_t blank = model_.greedy().blank;
  int64_t before = blank;
  double highest = 0;  // of the frames of the token `before`
  for (int64_t t = 0; t < frames; t++) {
    const float* row = encoded[0].as<float>() + t * vocab;
    const int64_t token = std::max_element(row, row + vocab) - row;
    if (token == before) {
      highest = std::max(highest, double(row[token]));
      continue;
    }
    if (before != blank) heard.log_probability += highest;
    if (token != blank) text += tokens[size_t(token)], heard.tokens++;
    before = token, highest = row[token];
  }
  if (before != blank) heard.log_probability += highest;
  text = single_spaced(as_utf8(text));
  if (!text.empty()) heard.segments.push_back({0, count, " " + text});
  return heard;
}

// docs/native.md lists the arguments and results of the programs.
Heard Recogniser::seq2seq(const std::vector<Tensor>& encoded, int64_t count) const {
  const Greedy& greedy = model_.greedy();
  const Timestamps* stamps = greedy.timestamps ? &*greedy.timestamps : nullptr;
  const Window& window = model_.window(count);
  const std::string& suffix = window.suffix;
  std::vector<Tensor> states = encoded;
  states.insert(states.end(), window.counts.begin(), window.counts.end());
  const std::vector<Tensor> cross = model_.run("cross_kv" + suffix, std::move(states));
  check_results(cross, 1);
  // There is a cache for each of the cross-attention's keys and values, which come in pairs before
  // one or two other results.
  const size_t caches = (cross.size() - 1) / 2 * 2;
  std::vector<Tensor> inputs{integers(greedy.prompt), integers({0})};
  inputs.insert(inputs.end(), cross.begin(), cross.end());
  for (size_t i = 0; i < caches; i++)
    inputs.push_back(zeros(model_.argument_bytes("prompt" + suffix, inputs.size())));
  std::vector<Tensor> results = model_.run("prompt" + suffix, inputs);
  Heard heard;
  std::vector<int64_t> text;
  while (int64_t(text.size()) < greedy.max_tokens) {
    check_results(results, caches + 2);
    const int64_t token = choose(results[1], text);
    if (!stamps || token < stamps->begin) {  // How sure a time is says little about the words.
      heard.log_probability += log_softmax(results[1], token);
      heard.tokens++;
    }
    if (token == greedy.end) break;
    text.push_back(token);
    if (int64_t(text.size()) == greedy.max_tokens) break;
    inputs = {integers({token}), integers({int64_t(greedy.prompt.size() + text.size()) - 1})};
    inputs.insert(inputs.end(), cross.begin(), cross.end());
    inputs.insert(inputs.end(), results.begin() + 2, results.end());
    results = model_.run("step" + suffix, inputs);
  }
  const int64_t spoken = model_.front().frames(count) * model_.front().hop();
  heard.samples = count;
  for (const Part& part : split(stamps, text, spoken, heard.samples)) {
    std::string bytes;
    for (size_t i = part.first; i < part.last; i++) bytes += model_.tokens()[size_t(text[i])];
    // Times that the decoder writes may lie in the silence after the recording.
    Spoken segment{std::min(part.start, count), std::min(part.end, count), as_utf8(bytes)};
    const bool is_said = part.start != part.end && !stripped(segment.text).empty();
    if (is_said) heard.segments.push_back(std::move(segment));
  }
  return heard;
}

// The most probable token that is not suppressed.
int64_t Recogniser::choose(const Tensor& logits, const std::vector<int64_t>& text) const {
  if (logits.bytes != 4 * int64_t(model_.tokens().size()))
    throw std::invalid_argument("the decoder has other logits than there are tokens");
  const Greedy& greedy = model_.greedy();
  auto* const row = logits.as<float>();
  const auto forbid = [&](const std::vector<int64_t>& ids) {
    for (const int64_t id : ids) row[id] = -std::numeric_limits<float>::infinity();
  };
  forbid(greedy.never);
  if (text.empty()) forbid(greedy.first);
  const auto vocab = int64_t(model_.tokens().size());
  if (greedy.timestamps) restrict_timestamps(*greedy.timestamps, greedy.end, text, row, vocab);
  return std::max_element(row, row + vocab) - row;
}

}  // namespace tynda

// The parsing of plans and of exported models: lines of words that are separated by single spaces,
// some of which are NAME=VALUE. Every function throws std::invalid_argument with a message of one
// line for text that is not valid.
#pragma once
#include <charconv>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "record.h"

namespace tynda {

[[noreturn]] inline void refuse(const std::string& why) { throw std::invalid_argument(why); }

// Text for a message: shortened, without control characters.
inline std::string printable(std::string_view text) {
  std::string result(text.substr(0, 60));
  for (char& c : result)
    if (static_cast<unsigned char>(c) < 32 || c == 127) c = '?';
  return result;
}

inline int64_t integer(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value > kMaxSize ||
      value < -kMaxSize)
    refuse("no whole number: " + printable(text));
  return value;
}

inline int64_t number(std::string_view text) {
  const int64_t value = integer(text);
  if (value < 0) refuse("a number is negative: " + printable(text));
  return value;
}

inline std::string name_of(std::string_view text) {
  const bool plain = text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                            "0123456789._-") == text.npos;
  if (text.empty() || !plain || text == "-") refuse("no name: " + printable(text));
  return std::string(text);
}

using Words = std::vector<std::string_view>;

inline Words split(std::string_view line) {
  Words words;
  for (size_t at = 0; at <= line.size();) {
    const size_t end = std::min(line.find(' ', at), line.size());
    words.push_back(line.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

// The words NAME=VALUE of a line, each of which must be read exactly once.
class Fields {
 public:
  // Accepts the words from `first` on.
  Fields(const Words& words, size_t first) {
    for (size_t i = first; i < words.size(); i++) {
      const size_t at = words[i].find('=');
      if (at == words[i].npos) refuse("a field has no =");
      fields_.emplace_back(words[i].substr(0, at), words[i].substr(at + 1));
    }
  }
  std::string_view read(std::string_view name) {
    for (const auto& [key, value] : fields_)
      if (key == name) return read_count_++, value;
    refuse("the field " + std::string(name) + " is missing");
  }
  int64_t number(std::string_view name) { return tynda::number(read(name)); }
  bool flag(std::string_view name) {
    const std::string_view value = read(name);
    if (value != "0" && value != "1") refuse(std::string(name) + " is neither 0 nor 1");
    return value == "1";
  }
  void end() const {
    if (read_count_ != fields_.size()) refuse("a field is unknown or occurs twice");
  }

 private:
  std::vector<std::pair<std::string_view, std::string_view>> fields_;
  size_t read_count_ = 0;
};

// Calls line(text) for each line after the first, which must equal `header`. Messages begin with
// the number of the line and `what`, the name of the text.
template <class Line>
void each_line(std::string_view text, std::string_view header, const std::string& what, Line line) {
  int64_t count = 0;
  for (size_t at = 0; at < text.size(); count++) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view one = text.substr(at, end - at);
    at = end + 1;
    try {
      if (count == 0 && one != header) refuse("it does not begin with " + std::string(header));
      if (count > 0) line(one);
    } catch (const std::invalid_argument& e) {
      refuse("line " + std::to_string(count + 1) + " of " + what + ": " + e.what());
    }
  }
  if (count == 0) refuse(what + " is empty");
}

}  // namespace tynda

#include "plan.h"

#include <charconv>
#include <cmath>
#include <iterator>
#include <locale>
#include <sstream>
#include <unordered_map>

namespace tynda {
namespace {

constexpr std::string_view kHeader = "tynda-plan 1";

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument(why); }

int64_t integer(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value > kMost || value < -kMost)
    refuse("no whole number: " + std::string(text));
  return value;
}

int64_t number(std::string_view text) {
  const int64_t value = integer(text);
  if (value < 0) refuse("a number is negative: " + std::string(text));
  return value;
}

float real(std::string_view text) {
  std::istringstream stream{std::string(text)};
  stream.imbue(std::locale::classic());
  double value;
  if (!(stream >> value) || stream.peek() != EOF || !std::isfinite(float(value)))
    refuse("no number: " + std::string(text));
  return float(value);
}

std::string name_of(std::string_view text) {
  const bool plain = text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                            "0123456789._-") == text.npos;
  if (text.empty() || !plain || text == "-") refuse("no name: " + std::string(text));
  return std::string(text);
}

std::vector<std::string_view> split(std::string_view line) {
  std::vector<std::string_view> words;
  for (size_t at = 0; at <= line.size();) {
    const size_t end = std::min(line.find(' ', at), line.size());
    words.push_back(line.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

using Names = std::unordered_map<std::string, int64_t>;

int64_t find(const Names& names, std::string_view name) {
  const auto found = names.find(std::string(name));
  if (found == names.end()) refuse("nothing is called " + std::string(name));
  return found->second;
}

// Takes the fields of a record from words NAME=VALUE.
struct Reader {
  const Names &buffers, &weights;
  std::vector<std::pair<std::string_view, std::string_view>> words;
  size_t taken = 0;

  std::string_view take(std::string_view name) {
    for (const auto& [key, value] : words)
      if (key == name) return taken++, value;
    refuse("nothing says what " + std::string(name) + " is");
  }
  void number(std::string_view name, int64_t& to) { to = tynda::number(take(name)); }
  void integer(std::string_view name, int64_t& to) { to = tynda::integer(take(name)); }
  void real(std::string_view name, float& to) { to = tynda::real(take(name)); }
  void flag(std::string_view name, bool& to) {
    const std::string_view value = take(name);
    if (value != "0" && value != "1") refuse(std::string(name) + " is neither 0 nor 1");
    to = value == "1";
  }
  void activation(std::string_view name, Activation& to) {
    constexpr const char* kNames[] = {"none", "relu", "gelu", "silu", "tanh", "asinh"};
    const std::string_view value = take(name);
    for (int i = 0; i < int(std::size(kNames)); i++)
      if (value == kNames[i]) return void(to = Activation(i));
    refuse("no activation: " + std::string(value));
  }
  void weight(std::string_view name, Weight& to) { to.index = find(weights, take(name)); }
  // BUFFER, BUFFER+OFFSET, BUFFER/ROW or BUFFER+OFFSET/ROW.
  void place(std::string_view name, Place& to, Use) {
    std::string_view value = take(name);
    if (const size_t at = value.find('/'); at != value.npos) {
      to.row = tynda::number(value.substr(at + 1));
      value = value.substr(0, at);
    }
    if (const size_t at = value.find('+'); at != value.npos) {
      to.offset = tynda::number(value.substr(at + 1));
      value = value.substr(0, at);
    }
    to.buffer = find(buffers, value);
  }
  void place_or_none(std::string_view name, Place& to, Use use) {
    if (take(name) != "-") taken--, place(name, to, use);
  }
  void work(Place&, int64_t) {}
  void scratch(int64_t) {}
};

template <size_t I = 0>
Operation operation(std::string_view name, Reader& reader) {
  if constexpr (I == std::variant_size_v<Operation>) {
    refuse("no operation: " + std::string(name));
  } else {
    using One = std::variant_alternative_t<I, Operation>;
    if (name != One::kName) return operation<I + 1>(name, reader);
    One one{};
    one.fields(reader);
    if (reader.taken != reader.words.size()) refuse("something is said twice, or of nothing");
    return one;
  }
}

struct Parser {
  Plan plan;
  Names buffers, weights;

  void line(std::string_view text) {
    const std::vector<std::string_view> words = split(text);
    const std::string_view kind = words[0];
    const auto has = [&](size_t count) {
      if (words.size() != count) refuse("a line has " + std::to_string(words.size()) + " words");
    };
    if (kind == "argument" || kind == "constant" || kind == "buffer") {
      buffer(words);
    } else if (kind == "matrix") {
      has(8);
      known(weights, words[1], plan.matrices.size());
      plan.matrices.push_back({name_of(words[1]), name_of(words[2]), number(words[3]),
                               number(words[4]), number(words[5]), number(words[6]),
                               number(words[7])});
      const Plan::Matrix& m = plan.matrices.back();
      times(times(m.count + 64, m.inputs + kBlockInputs), 4);
      Shape(m.count, m.inputs, 1, int(m.bits), m.group);
    } else if (kind == "result") {
      has(2);
      plan.results.push_back(find(buffers, words[1]));
      if (plan.buffers[size_t(plan.results.back())].kind != Plan::Buffer::argument)
        refuse("a result is no argument");
    } else {
      Reader reader{buffers, weights, {}};
      for (size_t i = 1; i < words.size(); i++) {
        const size_t at = words[i].find('=');
        if (at == words[i].npos) refuse("a field has no =");
        reader.words.emplace_back(words[i].substr(0, at), words[i].substr(at + 1));
      }
      plan.operations.push_back(operation(kind, reader));
    }
  }

  // KIND NAME ROWS BYTES, or KIND NAME ROWS keys|values HEADS KEYS CHANNELS BITS.
  void buffer(const std::vector<std::string_view>& words) {
    const bool packed = words.size() == 8;
    if (words.size() != 4 && !packed) refuse("a buffer is not told whole");
    Plan::Buffer b{name_of(words[1]), Plan::Buffer::made, number(words[2]), 0, packed, {}};
    const auto index = int64_t(plan.buffers.size());
    if (words[0] == "argument") {
      b.kind = Plan::Buffer::argument;
      plan.arguments.push_back(index);
    } else if (words[0] == "constant") {
      b.kind = Plan::Buffer::constant;
      plan.constants.push_back(index);
    }
    if (packed) {
      if (words[3] != "keys" && words[3] != "values") refuse("neither keys nor values");
      if (words[7] != "8" && words[7] != "32") refuse("keys are in 8 bits or in 32");
      b.form = {number(words[4]), number(words[5]), number(words[6]), words[3] == "values",
                words[7] == "8"};
    } else {
      b.row = number(words[3]);
      times(b.rows, b.row);
    }
    known(buffers, b.name, plan.buffers.size());
    plan.buffers.push_back(std::move(b));
  }

  void known(Names& names, std::string_view name, size_t index) {
    if (!names.emplace(name, int64_t(index)).second)
      refuse(std::string(name) + " is told of twice");
  }
};

}  // namespace

Plan Plan::parse(std::string_view text) {
  Parser parser;
  int64_t count = 0;
  for (size_t at = 0; at < text.size(); count++) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    at = end + 1;
    try {
      if (count == 0 && line != kHeader) refuse("it does not begin with " + std::string(kHeader));
      if (count > 0 && line.substr(0, 1) != "#") parser.line(line);
    } catch (const std::invalid_argument& e) {
      refuse("line " + std::to_string(count + 1) + " of a plan: " + e.what());
    }
  }
  if (count == 0) refuse("a plan is empty");
  return std::move(parser.plan);
}

}  // namespace tynda

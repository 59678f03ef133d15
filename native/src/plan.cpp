#include "plan.h"

#include <cmath>
#include <iterator>
#include <locale>
#include <sstream>
#include <unordered_map>

#include "words.h"

namespace tynda {
namespace {

constexpr std::string_view kHeader = "tynda-plan 2";

float real(std::string_view text) {
  std::istringstream stream{std::string(text)};
  stream.imbue(std::locale::classic());
  double value;
  if (!(stream >> value) || stream.peek() != EOF || !std::isfinite(float(value)))
    refuse("no number: " + printable(text));
  return float(value);
}

using Names = std::unordered_map<std::string, int64_t>;

int64_t find(const Names& names, std::string_view name) {
  const auto found = names.find(std::string(name));
  if (found == names.end()) refuse("no buffer or matrix has the name " + printable(name));
  return found->second;
}

// A visitor that reads the fields of an operation from words NAME=VALUE.
struct Reader {
  const Names &buffers, &weights;
  Fields words;

  void number(std::string_view name, int64_t& to) { to = words.number(name); }
  void integer(std::string_view name, int64_t& to) { to = tynda::integer(words.read(name)); }
  void real(std::string_view name, float& to) { to = tynda::real(words.read(name)); }
  void flag(std::string_view name, bool& to) { to = words.flag(name); }
  void activation(std::string_view name, Activation& to) {
    const std::string_view value = words.read(name);
    for (int i = 0; i < int(std::size(kActivationNames)); i++)
      if (value == kActivationNames[i]) return void(to = Activation(i));
    refuse("an unknown activation, or kernels older than the plan: " + printable(value));
  }
  void weight(std::string_view name, Weight& to) { to.index = find(weights, words.read(name)); }
  // BUFFER, BUFFER+OFFSET, BUFFER/ROW or BUFFER+OFFSET/ROW.
  void view(std::string_view name, View& to, Use) { to = view(words.read(name)); }
  void optional_view(std::string_view name, View& to, Use) {
    const std::string_view value = words.read(name);
    if (value != "-") to = view(value);
  }
  View view(std::string_view value) const {
    View to;
    if (const size_t at = value.find('/'); at != value.npos) {
      to.row = tynda::number(value.substr(at + 1));
      value = value.substr(0, at);
    }
    if (const size_t at = value.find('+'); at != value.npos) {
      to.offset = tynda::number(value.substr(at + 1));
      value = value.substr(0, at);
    }
    to.buffer = find(buffers, value);
    return to;
  }
  void work(View&, int64_t) {}
  void scratch(int64_t) {}
};

template <size_t I = 0>
Operation operation(std::string_view name, Reader& reader) {
  if constexpr (I == std::variant_size_v<Operation>) {
    refuse("no operation: " + printable(name));
  } else {
    using One = std::variant_alternative_t<I, Operation>;
    if (name != One::kName) return operation<I + 1>(name, reader);
    One one{};
    one.fields(reader);
    reader.words.end();
    return one;
  }
}

struct Parser {
  Plan plan;
  Names buffers, weights;

  void line(std::string_view text) {
    const Words words = split(text);
    const std::string_view kind = words[0];
    const auto expect_words = [&](size_t count) {
      if (words.size() != count) refuse("a line has " + std::to_string(words.size()) + " words");
    };
    if (kind == "argument" || kind == "constant" || kind == "buffer") {
      buffer(words);
    } else if (kind == "matrix") {
      expect_words(8);
      add_name(weights, words[1], plan.matrices.size());
      plan.matrices.push_back({name_of(words[1]), name_of(words[2]), number(words[3]),
                               number(words[4]), number(words[5]), number(words[6]),
                               number(words[7])});
      const Plan::Matrix& m = plan.matrices.back();
      times(times(m.count + 64, m.inputs + kBlockInputs), 4);
      Shape(m.count, m.inputs, 1, int(m.bits), m.group);
    } else if (kind == "result") {
      expect_words(2);
      plan.results.push_back(find(buffers, words[1]));
      if (plan.buffers[size_t(plan.results.back())].kind != Plan::Buffer::argument)
        refuse("a result is no argument");
    } else {
      Reader reader{buffers, weights, Fields(words, 1)};
      plan.operations.push_back(operation(kind, reader));
    }
  }

  // KIND NAME ROWS BYTES, or KIND NAME ROWS keys|values HEADS KEYS CHANNELS BITS.
  void buffer(const Words& words) {
    const bool packed = words.size() == 8;
    if (words.size() != 4 && !packed) refuse("a buffer has missing or additional words");
    Plan::Buffer b{name_of(words[1]), Plan::Buffer::internal, number(words[2]), 0, packed, {}};
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
    add_name(buffers, b.name, plan.buffers.size());
    plan.buffers.push_back(std::move(b));
  }

  void add_name(Names& names, std::string_view name, size_t index) {
    if (!names.emplace(name, int64_t(index)).second)
      refuse(printable(name) + " is declared twice");
  }
};

}  // namespace

Plan Plan::parse(std::string_view text) {
  Parser parser;
  each_line(text, kHeader, "a plan", [&](std::string_view line) {
    if (line.substr(0, 1) != "#") parser.line(line);
  });
  return std::move(parser.plan);
}

}  // namespace tynda

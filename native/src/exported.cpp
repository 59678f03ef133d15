#include "exported.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "blobs.h"

namespace tynda {
namespace {

constexpr std::string_view kHeader = "tynda-export 1";
// The maximum sizes of exports, so that sizes derived from them do not overflow.
constexpr int64_t kMaxSamples = 1 << 28, kMaxTokens = 1 << 16;

int hexadecimal(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  refuse("a token has an invalid escape sequence");
}

// The bytes of a line of tokens.txt, where \\ is a backslash and \xHH any byte.
std::string unescaped(std::string_view line) {
  std::string bytes;
  for (size_t i = 0; i < line.size(); i++) {
    if (line[i] != '\\') {
      bytes += line[i];
    } else if (line.substr(i, 2) == "\\\\") {
      bytes += line[i++];
    } else {
      if (line.size() < i + 4 || line[i + 1] != 'x')
        refuse("a token has an invalid escape sequence");
      bytes += char(16 * hexadecimal(line[i + 2]) + hexadecimal(line[i + 3]));
      i += 3;
    }
  }
  return bytes;
}

}  // namespace

// Reads files into an Exported.
class ExportReader {
 public:
  ExportReader(Exported& to, Files& files, const Kernels& kernels, int threads)
      : to_(to), files_(files), kernels_(kernels), threads_(threads),
        blobs_(files, "weights.bin") {}

  void read() {
    read_tokens();
    const std::string text = files_.text("manifest.txt");
    each_line(text, kHeader, "manifest.txt", [&](std::string_view line) { manifest(line); });
    for (const ProgramRecord& program : programs_) {
      try {
        load(program);
      } catch (const std::invalid_argument& e) {
        refuse("program " + program.name + ": " + e.what());
      }
    }
    for (const char* kind : {"frontend", "sound", "head"})
      if (!declared_.count(kind)) refuse("manifest.txt has no line " + std::string(kind));
    to_.windows_.push_back({to_.sound_.samples, to_.sound_.frames, "", {}, {}});
    check_sound(to_.sound_, *to_.front_);
    check_tokens(to_.greedy_);
  }

 private:
  // The line of a constant or a matrix: its name and the rest.
  using WeightRecord = std::pair<std::string, std::string>;
  struct ProgramRecord {
    std::string name;
    std::vector<WeightRecord> constants, matrices;
  };

  bool is_token(int64_t id) const { return id >= 0 && id < int64_t(to_.tokens_.size()); }

  void check_tokens(const Greedy& g) const {
    const auto known = [&](const std::vector<int64_t>& ids) {
      return std::all_of(ids.begin(), ids.end(), [&](int64_t id) { return is_token(id); });
    };
    if (!known(g.prompt) || !known(g.never) || !known(g.first) || !is_token(g.blank) ||
        !is_token(g.end) || g.max_tokens > kMaxTokens ||
        (g.kind == Greedy::seq2seq && g.prompt.empty()))
      refuse("manifest.txt has tokens that are not in tokens.txt");
    const std::optional<Timestamps>& stamps = g.timestamps;
    if (stamps && !(stamps->begin > 0 && is_token(stamps->begin) && is_token(stamps->none) &&
                    is_token(stamps->last_first)))
      refuse("manifest.txt has timestamps that are not in tokens.txt");
    const auto scores = [&](const std::string& program, size_t result) {
      const std::vector<int64_t>& rows = to_.find(program).rows;
      if (result >= rows.size() || rows[result] != 4 * int64_t(to_.tokens_.size()))
        refuse("tokens.txt has other tokens than " + program + ".plan");
    };
    for (const Window& window : to_.windows_) {
      if (g.kind == Greedy::ctc) {
        scores("encode" + window.suffix, 0);
      } else {
        scores("prompt" + window.suffix, 1), scores("step" + window.suffix, 1);
      }
    }
  }

  void check_sound(const Sound& sound, const FrontEnd& front) const {
    bool fits = sound.samples <= kMaxSamples && sound.silence <= kMaxSamples &&
                front.frames(sound.silence) <= sound.frames;
    int64_t shorter = 0;
    for (const Window& window : to_.windows_) {
      const int64_t bytes = times(times(window.frames, front.bins()), 4);
      fits = fits && window.samples >= shorter && window.samples <= sound.samples &&
             front.frames(window.samples) <= window.frames &&
             to_.argument_bytes("encode" + window.suffix, 0) == bytes &&
             uint64_t(bytes) <= SIZE_MAX / 4;
      shorter = window.samples;
    }
    if (!fits) refuse("manifest.txt has other sizes of audio than the encoder");
  }

  void read_tokens() {
    const std::string text = files_.text("tokens.txt");
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      to_.tokens_.push_back(unescaped(std::string_view(text).substr(at, end - at)));
      at = end + 1;
    }
  }

  void manifest(std::string_view line) {
    const Words words = split(line);
    const std::string kind(words[0]);
    if (kind == "constant" || kind == "matrix") {
      if (words.size() < 3 || programs_.empty()) refuse("a " + kind + " comes before any program");
      const size_t rest = size_t(words[2].data() - line.data());
      ProgramRecord& program = programs_.back();
      (kind == "matrix" ? program.matrices : program.constants)
          .emplace_back(name_of(words[1]), line.substr(rest));
    } else if (kind == "window") {
      window(words);
    } else if (kind == "program") {
      if (words.size() != 2) refuse("a program has one name");
      programs_.push_back({name_of(words[1]), {}, {}});
    } else {
      if (!declared_.insert(kind).second) refuse("it is declared twice");
      single_record(kind, words);
    }
  }

  void single_record(const std::string& kind, const Words& words) {
    if (kind == "frontend") {
      front_end(words);
    } else if (kind == "sound") {
      Fields fields(words, 1);
      to_.sound_ = {fields.number("samples"), fields.number("silence"), fields.number("frames"),
                    fields.flag("whole")};
      fields.end();
    } else if (kind == "timestamps") {
      Fields fields(words, 1);
      to_.greedy_.timestamps = {fields.number("begin"), fields.number("none"),
                                fields.number("last_first")};
      fields.end();
    } else if (kind == "head") {
      head(words);
    } else if (kind == "prompt" || kind == "never" || kind == "first") {
      Greedy& g = to_.greedy_;
      std::vector<int64_t>& ids = kind == "prompt" ? g.prompt : kind == "never" ? g.never : g.first;
      for (size_t i = 1; i < words.size(); i++) ids.push_back(number(words[i]));
    } else {
      refuse("unknown line " + printable(kind));
    }
  }

  // A window for short recordings; `read` adds the longest one.
  void window(const Words& words) {
    Fields fields(words, 1);
    const std::string suffix = "." + std::to_string(to_.windows_.size() + 1);
    Window window{fields.number("samples"), fields.number("frames"), suffix, {}, {}};
    const int64_t kept = fields.number("kept");
    for (const auto& [name, bytes] : {std::pair("rows", 8), {"positions", 8}, {"log_counts", 4}}) {
      const int64_t size = times(kept, bytes);
      window.merged.push_back({blobs_.bytes(fields.number(name), size), size});
    }
    window.counts = {window.merged.back()};
    window.merged.push_back(zeros(8));
    *window.merged.back().as<int64_t>() = kept;
    fields.end();
    to_.windows_.push_back(std::move(window));
  }

  void front_end(const Words& words) {
    if (words.size() < 2) refuse("a front end has a kind");
    Fields fields(words, 2);
    constexpr const char* kKinds[] = {"log_mel", "spectrogram", "raw"};
    constexpr const char* kNormalizations[] = {"none", "utterance", "whisper"};
    const auto of = [](const auto& names, std::string_view name) {
      const auto found = std::find(std::begin(names), std::end(names), name);
      if (found == std::end(names)) refuse("no front end has " + printable(name));
      return found - std::begin(names);
    };
    const auto kind = FrontEnd::Kind(of(kKinds, words[1]));
    const auto normal = FrontEnd::Normalization(of(kNormalizations, fields.read("normalize")));
    const int64_t hop = fields.number("hop"), bins = fields.number("bins");
    int64_t fft = 0;
    std::vector<float> window, filters;
    if (kind != FrontEnd::raw) {
      fft = fields.number("fft");
      const int64_t size = fields.number("window");
      window = blobs_.floats(fields.number("curve"), size);
    }
    if (kind == FrontEnd::log_mel)
      filters = blobs_.floats(fields.number("filters"), times(fft / 2 + 1, bins));
    fields.end();
    to_.front_ = std::make_unique<FrontEnd>(kind, normal, hop, fft, bins, window, filters);
  }

  void head(const Words& words) {
    Fields fields(words, std::min<size_t>(words.size(), 2));
    Greedy& g = to_.greedy_;
    if (words.size() > 1 && words[1] == "ctc") {
      g.kind = Greedy::ctc;
      g.blank = fields.number("blank");
    } else if (words.size() > 1 && words[1] == "seq2seq") {
      g.kind = Greedy::seq2seq;
      g.end = fields.number("end");
      g.max_tokens = fields.number("max_tokens");
    } else {
      refuse("unknown head");
    }
    fields.end();
  }

  // Reads the plan and the weights of a program.
  void load(const ProgramRecord& record) {
    const Plan plan = Plan::parse(files_.text(record.name + ".plan"));
    Exported::Runnable runnable;
    for (const int64_t result : plan.results) {
      const auto& all = plan.arguments;
      runnable.results.push_back(size_t(std::find(all.begin(), all.end(), result) - all.begin()));
    }
    Layout layout(plan, kernels_, threads_worth_waking(plan, threads_));
    for (const int64_t result : plan.results)
      runnable.rows.push_back(layout.row_bytes[size_t(result)]);
    const auto same = [&](const std::vector<WeightRecord>& parts,
                          const std::vector<std::string>& names) {
      bool fits = parts.size() == names.size();
      for (size_t i = 0; fits && i < parts.size(); i++) fits = parts[i].first == names[i];
      if (!fits) refuse("the plan has other weights than manifest.txt");
    };
    same(record.constants, layout.constant_names);
    same(record.matrices, layout.matrix_names);
    std::vector<SharedBytes> constants;
    std::vector<std::shared_ptr<const Matrix>> matrices;
    const std::vector<int64_t> bytes = layout.constant_bytes;
    for (size_t i = 0; i < bytes.size(); i++)
      constants.push_back(blobs_.constant(number(record.constants[i].second), bytes[i]));
    for (size_t i = 0; i < record.matrices.size(); i++)
      matrices.push_back(blobs_.matrix(record.matrices[i].second, layout.weights[i], kernels_));
    runnable.program = std::make_unique<Program>(std::move(layout), std::move(constants), bytes,
                                             std::move(matrices));
    if (!to_.programs_.emplace(record.name, std::move(runnable)).second)
      refuse("it is declared twice");
  }

  Exported& to_;
  Files& files_;
  const Kernels& kernels_;
  int threads_;
  Blobs blobs_;
  std::set<std::string> declared_;
  std::vector<ProgramRecord> programs_;
};

Tensor zeros(int64_t bytes) {
  Bytes memory = aligned_bytes(bytes);
  std::memset(memory.get(), 0, size_t(bytes));
  return {std::shared_ptr<uint8_t>(memory.release(), AlignedDelete()), bytes};
}

Exported::Exported(Files& files, const Kernels& kernels, int threads) {
  ExportReader(*this, files, kernels, threads).read();
}

const Exported::Runnable& Exported::find(const std::string& name) const {
  const auto found = programs_.find(name);
  if (found == programs_.end()) refuse("the folder has no program " + name);
  return found->second;
}

int64_t Exported::argument_bytes(const std::string& name, size_t argument) const {
  const std::vector<int64_t>& bytes = find(name).program->layout().argument_bytes;
  if (argument >= bytes.size()) refuse("the program " + name + " has too few arguments");
  return bytes[argument];
}

const Window& Exported::window(int64_t samples) const {
  return *std::find_if(windows_.begin(), windows_.end() - 1,
                       [&](const Window& window) { return samples <= window.samples; });
}

std::vector<Tensor> Exported::run(const std::string& name, std::vector<Tensor> inputs) const {
  const Runnable& runnable = find(name);
  const std::vector<int64_t>& bytes = runnable.program->layout().argument_bytes;
  bool fits = inputs.size() <= bytes.size();
  for (size_t i = 0; fits && i < inputs.size(); i++) fits = inputs[i].bytes == bytes[i];
  if (!fits) refuse("the program " + name + " has other inputs");
  for (size_t i = inputs.size(); i < bytes.size(); i++) inputs.push_back(zeros(bytes[i]));
  std::vector<uint8_t*> arguments;
  for (const Tensor& tensor : inputs) arguments.push_back(tensor.data.get());
  const Arena::Piece piece(arena_, runnable.program->layout().bytes());
  runnable.program->run(piece.memory(), arguments.data());
  std::vector<Tensor> results;
  for (const size_t i : runnable.results) results.push_back(inputs[i]);
  return results;
}

}  // namespace tynda

// Models written by `tynda export`: files of plans, weights and tokens, whose format is in
// docs/native.md.
//
// Files are not trusted: each name, size and offset is checked before it is used. Weights and
// tokens need the memory of their files, packed for the kernels; a run needs that of its plan.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "files.h"
#include "frontend.h"
#include "program.h"
#include "timestamps.h"

namespace tynda {

// The memory of an input or result of a program, with shared ownership.
struct Tensor {
  std::shared_ptr<uint8_t> data;
  int64_t bytes = 0;

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data.get());
  }
};
Tensor zeros(int64_t bytes);

// The sizes of audio for the encoder.
struct Sound {
  int64_t samples;  // of the longest recording
  int64_t silence;  // samples of silence appended to a recording before the front end
  int64_t frames;   // of each run of the encoder; zeros follow those of the recording
  bool whole;       // whether all frames are valid, or only those of the recording
};

// The programs for recordings up to one length. Those for shorter recordings than the longest
// compute fewer frames, some of which stand for many (src/tynda/heads/seq2seq/windows.py).
struct Window {
  int64_t samples, frames;     // as in Sound
  std::string suffix;          // of the names of its programs
  std::vector<Tensor> merged;  // the further inputs of `encode`; none for the longest
  std::vector<Tensor> counts;  // the further input of `cross_kv`, which is one of them
};

// The settings of greedy decoding.
struct Greedy {
  enum Kind { ctc, seq2seq };
  Kind kind;
  int64_t blank = 0;  // CTC: the blank token
  // Seq2seq: the token that ends a text, and the maximum number of tokens.
  int64_t end = 0, max_tokens = 0;
  // Seq2seq: the decoder's prompt, tokens that are always suppressed, and those suppressed at
  // first.
  std::vector<int64_t> prompt, never, first;
  std::optional<Timestamps> timestamps;  // if the decoder writes them
};

class Exported {
 public:
  // Reads the files. Throws std::runtime_error for a file that cannot be read and
  // std::invalid_argument for one that is damaged, with a message of one line.
  Exported(Files& files, const Kernels& kernels, int threads);

  const FrontEnd& front() const { return *front_; }
  const Sound& sound() const { return sound_; }
  // The shortest window for a recording, which is not longer than the longest.
  const Window& window(int64_t samples) const;
  const Greedy& greedy() const { return greedy_; }
  // The bytes that each token adds to a text.
  const std::vector<std::string>& tokens() const { return tokens_; }
  // Runs a program, and returns its results in order. Arguments after the `inputs` are allocated. A
  // result that is also an input, such as a cache, is changed in place. Throws
  // std::invalid_argument where the inputs do not fit the program.
  std::vector<Tensor> run(const std::string& name, std::vector<Tensor> inputs) const;
  // The bytes of an argument of a program; throws std::invalid_argument where there is none.
  int64_t argument_bytes(const std::string& name, size_t argument) const;

 private:
  struct Runnable {
    std::unique_ptr<const Program> program;
    std::vector<size_t> results;  // indices of arguments
    std::vector<int64_t> rows;    // bytes of a row of each result
  };
  friend class ExportReader;

  const Runnable& find(const std::string& name) const;

  std::unique_ptr<const FrontEnd> front_;
  Sound sound_{};
  std::vector<Window> windows_;  // the shortest first
  Greedy greedy_{};
  std::vector<std::string> tokens_;
  std::map<std::string, Runnable> programs_;
  mutable Arena arena_;
};

}  // namespace tynda

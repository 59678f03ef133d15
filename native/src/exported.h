// A model that `tynda export` wrote: a folder of plans, weights and tokens. docs/native.md has the
// format.
//
// Nothing in a folder is trusted: each name, size and place is checked before it is used. Weights
// and tokens take the memory that they have in the files, as the kernels hold it; a run takes what
// its plan says.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "frontend.h"
#include "program.h"

namespace tynda {

// Memory of an input or a result of a program, which several may hold.
struct Tensor {
  std::shared_ptr<uint8_t> data;
  int64_t bytes = 0;

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data.get());
  }
};
Tensor zeros(int64_t bytes);

// How much sound a model takes, and how its encoder is given it.
struct Sound {
  int64_t samples;  // the longest recording
  int64_t silence;  // samples of silence that the front end finds behind a recording
  int64_t frames;   // of the front end, in every run of the encoder: zeros behind the sound's
  bool whole;       // all of them count, and not only those of the sound
};

// The facts that greedy decoding needs beside the programs.
struct Greedy {
  enum Kind { ctc, seq2seq };
  Kind kind;
  int64_t blank = 0;  // of ctc: the token between labels
  // A seq2seq head has a token that ends a text, and a maximum number of tokens in it.
  int64_t end = 0, max_tokens = 0;
  // The decoder's first tokens, those that are never chosen, and those not chosen first.
  std::vector<int64_t> prompt, never, first;
};

class Exported {
 public:
  // Reads a folder. std::runtime_error for a file that cannot be read, std::invalid_argument for
  // what is damaged; the message is one line.
  Exported(const std::string& folder, const Kernels& kernels, int threads);

  const FrontEnd& front() const { return *front_; }
  const Sound& sound() const { return sound_; }
  const Greedy& greedy() const { return greedy_; }
  // The bytes that each token adds to a text.
  const std::vector<std::string>& tokens() const { return tokens_; }
  // The results of a program, in its order. The arguments that `inputs` do not give are runnable.
  // A result that is an input, such as a cache, is changed in place. std::invalid_argument where
  // the inputs are not the program's.
  std::vector<Tensor> run(const std::string& name, std::vector<Tensor> inputs) const;
  // Bytes of an argument of a program; std::invalid_argument where there is none.
  int64_t argument_bytes(const std::string& name, size_t argument) const;

 private:
  struct Runnable {
    std::unique_ptr<const Program> program;
    std::vector<size_t> results;  // which arguments they are
    std::vector<int64_t> rows;    // bytes of a row of each
  };
  friend class FolderReader;

  const Runnable& find(const std::string& name) const;

  std::unique_ptr<const FrontEnd> front_;
  Sound sound_{};
  Greedy greedy_{};
  std::vector<std::string> tokens_;
  std::map<std::string, Runnable> programs_;
  mutable Arena arena_;
};

}  // namespace tynda

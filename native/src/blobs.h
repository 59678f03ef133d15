// The weights of an exported model, read from one file as they are needed.
#pragma once
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "plan.h"
#include "program.h"
#include "words.h"

namespace tynda {

// A text file as a whole; std::runtime_error where it cannot be read.
std::string read_text(const std::string& path);

// Each function throws std::invalid_argument for what is not in the file, or cannot be.
class Blobs {
 public:
  // std::runtime_error where the file cannot be read.
  explicit Blobs(const std::string& path);

  // Numbers, all of them finite.
  std::vector<float> floats(int64_t offset, int64_t count);
  // The same as memory of a constant; the same memory for the same blob.
  SharedBytes constant(int64_t offset, int64_t bytes);
  // A matrix as the manifest tells of it: its kind and where its blobs begin. The same one for the
  // same blobs.
  std::shared_ptr<const Matrix> matrix(const std::string& record, const Shape& shape,
                                       const Kernels& kernels);

 private:
  void check(int64_t offset, int64_t bytes) const;
  void read(int64_t offset, int64_t bytes, void* to);
  void pack_floats(Matrix& m, const Words& words);
  void pack_codes_8(Matrix& m, const Words& words);
  void pack_codes_few(Matrix& m, const Words& words, bool ternary);

  std::string path_;
  std::ifstream file_;
  int64_t size_ = 0;
  std::map<std::pair<int64_t, int64_t>, SharedBytes> constants_;
  std::map<std::string, std::shared_ptr<const Matrix>> matrices_;
};

}  // namespace tynda

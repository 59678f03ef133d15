// The weights of an exported model, which are read from one file when they are needed.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "files.h"
#include "plan.h"
#include "program.h"
#include "words.h"

namespace tynda {

// The functions throw std::invalid_argument for offsets and sizes that are not in the file.
class Blobs {
 public:
  // Throws std::runtime_error where the file `name` cannot be read.
  Blobs(Files& files, const std::string& name);

  // Returns float32 numbers, which must be finite.
  std::vector<float> floats(int64_t offset, int64_t count);
  // Returns a copy of a blob.
  std::shared_ptr<uint8_t> bytes(int64_t offset, int64_t bytes);
  // Returns the memory of a constant; equal blobs share it.
  SharedBytes constant(int64_t offset, int64_t bytes);
  // Returns a matrix. `record` is the end of its line in the manifest: its kind and the offsets of
  // its blobs. Equal records share the matrix.
  std::shared_ptr<const Matrix> matrix(const std::string& record, const Shape& shape,
                                       const Kernels& kernels);

 private:
  void check(int64_t offset, int64_t bytes) const;
  void pack_floats(Matrix& m, const Words& words);
  void pack_codes_8(Matrix& m, const Words& words);
  void pack_codes_few(Matrix& m, const Words& words, bool ternary);

  void read(int64_t offset, int64_t bytes, void* to) { files_.read(name_, offset, bytes, to); }

  Files& files_;
  const std::string name_;
  const int64_t size_;
  std::map<std::pair<int64_t, int64_t>, SharedBytes> constants_;
  std::map<std::string, std::shared_ptr<const Matrix>> matrices_;
};

}  // namespace tynda

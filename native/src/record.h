// The parts of a plan's operations: places, weights, and the memory of a run.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "kernels.h"

namespace tynda {

// More than any machine has of bytes, rows or anything else: products of two such numbers that are
// within it again are exact.
constexpr int64_t kMaxSize = int64_t(1) << 42;

// Throws std::invalid_argument where a product is beyond kMaxSize.
inline int64_t times(int64_t a, int64_t b) {
  if (a < 0 || b < 0 || a > kMaxSize || b > kMaxSize || (b && a > kMaxSize / b))
    throw std::invalid_argument("a size is negative or beyond any memory");
  return a * b;
}

enum class Space { arena, local, argument, constant };

// Where a tensor is: rows of `row` bytes, the first `offset` bytes from where its buffer begins.
struct View {
  static constexpr int64_t kOwn = -1;  // as `row`: as long as the buffer's own rows

  int64_t buffer = -1;  // none
  int64_t offset = 0, row = kOwn;
  // `Layout` says where that is.
  Space space = Space::arena;
  int64_t index = 0;  // of the argument or constant

  explicit operator bool() const { return buffer >= 0; }
};

// Which weight of a plan, and that weight once there is one.
struct Weight {
  int64_t index = -1;
  const Matrix* matrix = nullptr;
};

// How an operation uses a place.
enum class Use {
  rows,    // reads row r for row r of its result
  whole,   // reads any part at any time
  result,  // writes it
};

// A visitor of an operation's fields that passes by all of them; others see some.
struct IgnoreFields {
  template <class T>
  void number(std::string_view, T&) {}
  template <class T>
  void integer(std::string_view, T&) {}
  template <class T>
  void real(std::string_view, T&) {}
  template <class T>
  void flag(std::string_view, T&) {}
  template <class T>
  void activation(std::string_view, T&) {}
  template <class T>
  void weight(std::string_view, T&) {}
  template <class T>
  void view(std::string_view, T&, Use) {}
  template <class T>
  void optional_view(std::string_view, T&, Use) {}
  template <class T>
  void work(T&, int64_t) {}
  void scratch(int64_t) {}
};

// The memory and the rows that an operation works on.
struct Run {
  const Kernels* kernels;
  int threads;
  uint8_t* arena;
  uint8_t* local;  // this thread's own part
  int64_t local_bytes;
  uint8_t* const* arguments;
  const uint8_t* const* constants;
  int64_t first = 0, count = 0;  // rows

  uint8_t* base(const View& p) const {
    switch (p.space) {
      case Space::arena: return arena + p.offset;
      case Space::local: return local + p.offset;
      case Space::argument: return arguments[p.index] + p.offset;
      default: return const_cast<uint8_t*>(constants[p.index]) + p.offset;
    }
  }
  // Row `row`; of a local tensor, whose rows are those of the block.
  template <class T>
  T* at(const View& p, int64_t row) const {
    if (p.space == Space::local) row -= first;
    return reinterpret_cast<T*>(base(p) + row * p.row);
  }
  template <class T>
  T* at(const View& p) const {
    return at<T>(p, first);
  }
  const float* floats(const View& p, int64_t row = 0) const { return at<const float>(p, row); }
  const int64_t* integers(const View& p) const { return at<const int64_t>(p, 0); }
  // How much of an item there is, of `most`.
  int64_t length(const View& lengths, int64_t item, int64_t max) const {
    return std::clamp<int64_t>(integers(lengths)[item], 0, max);
  }
  // The same run with another thread's local memory; *this must be the first thread's.
  Run for_thread(int thread) const {
    Run run = *this;
    run.local += thread * local_bytes;
    return run;
  }
};

// Throws std::out_of_range where a number that only a run knows names nothing.
inline int64_t checked_index(int64_t index, int64_t size) {
  if (index < 0 || index >= size)
    throw std::out_of_range("index " + std::to_string(index) + " is not below " +
                            std::to_string(size));
  return index;
}

// Checks that each place of an operation lies within its buffer. It throws std::invalid_argument
// where one does not, so that a run of a checked plan never leaves its memory.
class Check {
 public:
  const Kernels& kernels;
  const std::vector<Shape>& weights;

  Check(const Kernels& kernels, const std::vector<Shape>& weights, const std::vector<int64_t>& bytes)
      : kernels(kernels), weights(weights), bytes_(bytes) {}

  void require(bool holds, const char* otherwise) const {
    if (!holds) throw std::invalid_argument(otherwise);
  }
  const Shape& shape(const Weight& w) const { return weights[size_t(w.index)]; }

  // `rows` rows, of which so many bytes are used.
  void bytes(const View& p, int64_t rows, int64_t used) const {
    require(p.offset >= 0 && p.row >= 0, "a place has a negative offset or row");
    if (rows == 0 || used == 0) return;
    const int64_t end = times(rows - 1, p.row) + used + p.offset;
    require(rows > 0 && used > 0 && end <= bytes_[size_t(p.buffer)], "a place is not in its buffer");
  }
  void floats(const View& p, int64_t rows, int64_t width) const {
    require(p.offset % 4 == 0 && p.row % 4 == 0, "numbers are not where a number may begin");
    bytes(p, rows, times(width, 4));
  }
  // Rows that follow each other without a gap.
  void dense(const View& p, int64_t rows, int64_t width) const {
    require(rows < 2 || p.row == times(width, 4), "rows are not as long as their numbers");
    floats(p, rows, width);
  }
  // Whole numbers, one after another.
  void integers(const View& p, int64_t count) const {
    require(p.offset % 8 == 0, "whole numbers are not where one may begin");
    bytes(p, std::min<int64_t>(count, 1), times(count, 8));
  }

 private:
  const std::vector<int64_t>& bytes_;  // of each buffer
};

}  // namespace tynda

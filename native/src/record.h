// The building blocks of operations: views, weights, checks, and the memory of a run.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "kernels.h"

namespace tynda {

// The maximum of sizes and offsets. Products of two sizes that do not exceed it do not overflow.
constexpr int64_t kMaxSize = int64_t(1) << 42;

// The product of two sizes; throws std::invalid_argument where it exceeds kMaxSize.
inline int64_t times(int64_t a, int64_t b) {
  if (a < 0 || b < 0 || a > kMaxSize || b > kMaxSize || (b && a > kMaxSize / b))
    throw std::invalid_argument("a size is negative or beyond any memory");
  return a * b;
}

enum class Space { arena, local, argument, constant };

// A strided view of a buffer: rows that are `row` bytes apart, from byte `offset` on.
struct View {
  static constexpr int64_t kOwn = -1;  // a value of `row`: the size of the buffer's rows

  int64_t buffer = -1;  // -1: no view
  int64_t offset = 0, row = kOwn;
  // `Layout` sets where the buffer is.
  Space space = Space::arena;
  int64_t index = 0;  // of the argument or constant

  explicit operator bool() const { return buffer >= 0; }
};

// The index of a weight in the plan, and the weight after `Program` has bound it.
struct Weight {
  int64_t index = -1;
  const Matrix* matrix = nullptr;
};

// How an operation accesses a view.
enum class Use {
  rows,    // it reads row r to compute row r of its result
  whole,   // it may read any row at any time
  result,  // it writes the view
};

// A visitor that ignores all fields of an operation; derived ones handle some kinds of fields.
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

// The memory of a run, and the rows that an operation is to compute.
struct Run {
  const Kernels* kernels;
  int threads;
  uint8_t* arena;
  uint8_t* local;  // memory of this thread
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
  // The address of row `row`. A local tensor has only the rows of the current block.
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
  // The length of an item, at least 0 and at most `max`.
  int64_t length(const View& lengths, int64_t item, int64_t max) const {
    return std::clamp<int64_t>(integers(lengths)[item], 0, max);
  }
  // The same run with the local memory of `thread`; *this must be that of thread 0.
  Run for_thread(int thread) const {
    Run run = *this;
    run.local += thread * local_bytes;
    return run;
  }
};

// Throws std::out_of_range for an index that is only known at run time and is out of range.
inline int64_t checked_index(int64_t index, int64_t size) {
  if (index < 0 || index >= size)
    throw std::out_of_range("index " + std::to_string(index) + " is not below " +
                            std::to_string(size));
  return index;
}

// Checks that each view of an operation is within its buffer, so that a run never accesses other
// memory. Its functions throw std::invalid_argument.
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

  // The view has `rows` rows, of each of which `used` bytes are accessed.
  void bytes(const View& p, int64_t rows, int64_t used) const {
    require(p.offset >= 0 && p.row >= 0, "a view has a negative offset or row");
    if (rows == 0 || used == 0) return;
    const int64_t end = times(rows - 1, p.row) + used + p.offset;
    require(rows > 0 && used > 0 && end <= bytes_[size_t(p.buffer)], "a view exceeds its buffer");
  }
  void floats(const View& p, int64_t rows, int64_t width) const {
    require(p.offset % 4 == 0 && p.row % 4 == 0, "float32 numbers are not aligned to 4 bytes");
    bytes(p, rows, times(width, 4));
  }
  // The rows have no gaps between them.
  void dense(const View& p, int64_t rows, int64_t width) const {
    require(rows < 2 || p.row == times(width, 4), "rows that must be contiguous have gaps");
    floats(p, rows, width);
  }
  // The view has the rounding of each row.
  void roundings(const View& p, int64_t rows) const { dense(p, rows, sizeof(Rounding) / 4); }
  // The view has `count` contiguous integers.
  void integers(const View& p, int64_t count) const {
    require(p.offset % 8 == 0, "integers are not aligned to 8 bytes");
    bytes(p, std::min<int64_t>(count, 1), times(count, 8));
  }

 private:
  const std::vector<int64_t>& bytes_;  // of each buffer
};

}  // namespace tynda

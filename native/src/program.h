// A plan with its weights, ready to run.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "layout.h"

namespace tynda {

// Memory that somebody else may hold as well; it stays as long as one of them does.
using SharedBytes = std::shared_ptr<const uint8_t>;

// It never changes once it is made: any number of threads may run one, each with memory of its own.
class Program {
 public:
  // One constant and one matrix for each that the plan has, in its order; std::invalid_argument
  // where one is not as the plan says. `constant_bytes`: of each.
  Program(Layout layout, std::vector<SharedBytes> constants, const std::vector<int64_t>& constant_bytes,
          std::vector<std::shared_ptr<const Matrix>> matrices);

  const Layout& layout() const { return layout_; }
  // `memory`: layout().bytes() of it, aligned to kAlign. `arguments`: as many bytes of each as
  // layout().argument_bytes. `seconds`: one for each operation of the plan, to which its time is
  // added, that of blocks as the threads' sum over how many they are; none: nothing is timed.
  void run(uint8_t* memory, uint8_t* const* arguments, double* seconds = nullptr) const;

 private:
  void run_fused(const Layout::Stage& stage, const Run& run, double* seconds) const;
  void run_blocks(const Layout::Stage& stage, const Run& run, double* seconds) const;

  Layout layout_;
  std::vector<SharedBytes> constants_;
  std::vector<const uint8_t*> pointers_;
  std::vector<std::shared_ptr<const Matrix>> matrices_;
};

// Memory in which programs run. Who runs one borrows a piece, and gives it back: there are as many
// as were ever needed at once.
class Arena {
 public:
  class Piece {
   public:
    Piece(Arena& arena, int64_t size);
    ~Piece();
    Piece(const Piece&) = delete;
    Piece& operator=(const Piece&) = delete;
    uint8_t* memory() const { return memory_.get(); }

   private:
    Arena& arena_;
    int64_t bytes_ = 0;
    Bytes memory_;
  };
  // Bytes and number of all pieces that are not in use.
  int64_t bytes() const;
  int64_t pieces() const;

 private:
  mutable std::mutex lock_;
  std::vector<std::pair<int64_t, Bytes>> free_;
};

}  // namespace tynda

// Programs: plans with their weights, ready to run, and the memory of runs.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "layout.h"

namespace tynda {

// Bytes with shared ownership.
using SharedBytes = std::shared_ptr<const uint8_t>;

// A program is immutable: any number of threads may run one, each with its own memory.
class Program {
 public:
  // Accepts the constants and matrices in the plan's order, and the bytes of each constant. Throws
  // std::invalid_argument where they do not fit the plan.
  Program(Layout layout, std::vector<SharedBytes> constants,
          const std::vector<int64_t>& constant_bytes,
          std::vector<std::shared_ptr<const Matrix>> matrices);

  const Layout& layout() const { return layout_; }
  // `memory` has layout().bytes() bytes, aligned to kAlign; argument i has
  // layout().argument_bytes[i]. If `seconds` is not null, the time of each operation of the plan is
  // added to its element; that of a fused operation is the mean over the threads.
  void run(uint8_t* memory, uint8_t* const* arguments, double* seconds = nullptr) const;

 private:
  void run_fused(const Layout::Stage& stage, const Run& run, double* seconds) const;
  void run_blocks(const Layout::Stage& stage, const Run& run, double* seconds) const;

  Layout layout_;
  std::vector<SharedBytes> constants_;
  std::vector<const uint8_t*> pointers_;
  std::vector<std::shared_ptr<const Matrix>> matrices_;
};

// The memory of runs. Each run borrows a piece and returns it, so that there are as many pieces as
// ever were needed at the same time.
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
  // Bytes and number of the pieces that are not borrowed.
  int64_t bytes() const;
  int64_t pieces() const;

 private:
  mutable std::mutex lock_;
  std::vector<std::pair<int64_t, Bytes>> free_;
};

}  // namespace tynda

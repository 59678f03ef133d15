// The layout of a plan on a processor: which operations are fused, and where tensors are stored.
//
// The layout is complete before anything is computed, so that the memory of a model is known
// without its weights. Consecutive operations that work row by row form a fused stage: a thread
// runs all of them on a block of rows before it continues with the next block. A tensor that is
// used only within a fused stage has memory for one block and each thread. All others share one
// arena, where tensors with disjoint lifetimes may have the same memory.
#pragma once
#include <vector>

#include "plan.h"

namespace tynda {

class Layout {
 public:
  struct Stage {
    bool fused;
    // The rows of a fused stage, and how many of them a thread computes at a time.
    int64_t rows, block;
    std::vector<size_t> order;  // indices of its operations
  };

  // Throws std::invalid_argument where an operation would access memory outside its buffers.
  Layout(const Plan& plan, const Kernels& kernels, int threads);

  const Kernels& kernels;
  int threads;
  std::vector<Operation> operations;  // in the plan's order, with the memory of all views set
  std::vector<Stage> stages;
  std::vector<Shape> weights;
  std::vector<std::string> constant_names, matrix_names;  // in the plan's order
  std::vector<int64_t> argument_bytes, constant_bytes;
  // The size of one row of each buffer of the plan, and of the whole buffer.
  std::vector<int64_t> row_bytes, buffer_bytes;
  int64_t arena = 0, local = 0;

  // The memory of a run, without weights, inputs and outputs.
  int64_t bytes() const { return arena + threads * local; }
};

// The number of threads, at most `threads`, that are worth waking for a plan: one for a plan with few
// multiply-adds.
int threads_worth_waking(const Plan& plan, int threads);

}  // namespace tynda

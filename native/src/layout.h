// How a processor runs a plan: which rows go together, and where tensors lie.
//
// All of it is settled before anything is computed: the memory that a model will take is known
// without its weights. Operations whose rows do not depend on each other form a strip, which a
// thread runs for a block of rows at a time. A tensor that only lives within a strip has capacity for
// that block alone, for each thread; the others share one arena, in which tensors that do not live
// at the same time lie on the same bytes.
#pragma once
#include <vector>

#include "plan.h"

namespace tynda {

class Layout {
 public:
  struct Stage {
    bool fused;
    int64_t rows, block;        // of a strip; `block`: rows that a thread can_join at a time
    std::vector<size_t> order;  // its operations
  };

  // std::invalid_argument where an operation would leave its buffers.
  Layout(const Plan& plan, const Kernels& kernels, int threads);

  const Kernels& kernels;
  int threads;
  std::vector<Operation> operations;  // in the plan's order, with each_view settled
  std::vector<Stage> stages;
  std::vector<Shape> weights;
  std::vector<std::string> constant_names, matrix_names;  // in the order in which they are told of
  std::vector<int64_t> argument_bytes, constant_bytes;
  // The size of one row of each buffer of the plan, and of the whole buffer.
  std::vector<int64_t> row_bytes, buffer_bytes;
  int64_t arena = 0, local = 0;

  // All that a run needs beside weights, inputs and outputs.
  int64_t bytes() const { return arena + threads * local; }
};

}  // namespace tynda

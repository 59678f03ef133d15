// Plans: lists of operations with all their sizes, independent of the processor.
//
// A plan is parsed from text, whose grammar is in docs/native.md. `Layout` assigns its memory, and
// `Program` runs it.
#pragma once
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "rows.h"
#include "stages.h"

namespace tynda {

// All operations of plans. Those listed here can be parsed, checked and run.
using Operation =
    std::variant<Im2col, Quantize, MatMul, MatMul8, Depthwise, Lookup, LayerNorm, Affine,
                 Activate, Glu, Swiglu, LogSoftmax, RotaryTable, Rotary, Add, Scale, Mask,
                 RelativeEncoding, Copy, LookupRows, Attend, CountedAttend, WindowAttend, RelativeAttend,
                 AttentionWeights, PackKV, Moments, Statistics, Lstm, Write, Lengths, Positions>;

struct Plan {
  struct Buffer {
    enum Kind { internal, argument, constant };
    std::string name;
    Kind kind;
    int64_t rows;
    int64_t row;  // bytes; 0 for packed keys and values, whose size depends on the kernels
    bool packed;
    Packed form;
  };
  // Outputs [first, first + count) of a weight.
  struct Matrix {
    std::string name, weight;
    int64_t first, count, inputs, bits, group;
  };

  std::vector<Buffer> buffers;
  std::vector<Matrix> matrices;
  std::vector<int64_t> arguments, constants, results;  // indices of buffers
  std::vector<Operation> operations;

  // Throws std::invalid_argument with the number of the line that is not valid.
  static Plan parse(std::string_view text);

  // The layout of a matrix for the kernels.
  Shape shape(const Matrix& m, const Kernels& kernels) const {
    return {m.count, m.inputs, kernels.panel, int(m.bits), m.group};
  }
};

}  // namespace tynda

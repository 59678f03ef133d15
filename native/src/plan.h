// A model's operations with everything settled but the numbers: a list of records.
//
// A plan knows of no processor. It is read from text, of which docs/native.md has the grammar;
// `Layout` says how a processor runs it, `Program` does so.
#pragma once
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "rows.h"
#include "stages.h"

namespace tynda {

// Every operation that a plan may have: what is named here can be read, checked and run.
using Operation =
    std::variant<Im2col, Quantize, MatMul, MatMul8, Depthwise, Lookup, LayerNorm, Affine,
                 Activate, Glu, Swiglu, LogSoftmax, RotaryTable, Rotary, Add, Scale, Mask, RelativeEncoding,
                 Copy, LookupRows, Attend, WindowAttend, RelativeAttend, AttentionWeights, PackKV,
                 Moments, Lstm, Write, Lengths, Positions>;

struct Plan {
  struct Buffer {
    enum Kind { internal, argument, constant };
    std::string name;
    Kind kind;
    int64_t rows;
    int64_t row;  // bytes; of a packed one as the kernels say
    bool packed;
    Packed form;
  };
  // Outputs [first, first + count) of a weight that has so many inputs.
  struct Matrix {
    std::string name, weight;
    int64_t first, count, inputs, bits, group;
  };

  std::vector<Buffer> buffers;
  std::vector<Matrix> matrices;
  std::vector<int64_t> arguments, constants, results;  // which buffers they are, in order
  std::vector<Operation> operations;

  // std::invalid_argument, naming the line, for what is no plan.
  static Plan parse(std::string_view text);

  // The form in which the kernels hold a matrix.
  Shape shape(const Matrix& m, const Kernels& kernels) const {
    return {m.count, m.inputs, kernels.panel, int(m.bits), m.group};
  }
};

}  // namespace tynda

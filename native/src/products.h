// Operations of plans: matrix products with weights, and the preparation of their inputs.
//
// Each operation is a struct: `fields` lists the fields of its line, `check` throws unless they are
// consistent, and `run` computes rows [first, first + count).
#pragma once
#include "record.h"

namespace tynda {

// The base of operations that can be fused: row r of the result depends on row r of the views that
// are read by rows, and on anything in those that are read as a whole.
struct Fusible {
  static constexpr bool kFusible = true, kEarly = false;
  int64_t rows = 0;
  void settle(const Kernels&, int) {}
};

// The sizes of a convolution over [batch, time, bins, channels]. It reads some of the channels only
// if it is one group of several. A convolution along one axis has bins = taps_bins = 1.
struct ConvShape {
  int64_t time, bins, channels;                // of the input
  int64_t first_channel, used_channels;        // the channels of this group
  int64_t frames, frame_bins;                  // of the output
  int64_t taps, taps_bins, stride, stride_bins, padding, padding_bins;

  template <class F>
  void fields(F& f) {
    f.number("time", time), f.number("bins", bins), f.number("channels", channels);
    f.number("first_channel", first_channel), f.number("used_channels", used_channels);
    f.number("frames", frames), f.number("frame_bins", frame_bins);
    f.number("taps", taps), f.number("taps_bins", taps_bins);
    f.number("stride", stride), f.number("stride_bins", stride_bins);
    f.number("padding", padding), f.number("padding_bins", padding_bins);
  }
};

// Copies the window of each output of a convolution to a row of y [taps * taps_bins *
// used_channels].
struct Im2col : Fusible {
  static constexpr const char* kName = "im2col";
  View x, y;
  ConvShape conv;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), conv.fields(f);
    f.view("x", x, Use::whole), f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// Rounds rows to 8-bit codes [rows, depth] with a Rounding for each row. `overlapping`: the rows
// are longer than their distance in memory.
struct Quantize : Fusible {
  static constexpr const char* kName = "quantize";
  View x, codes, roundings;
  int64_t width, depth;
  bool overlapping;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.number("width", width), f.number("depth", depth);
    f.flag("overlapping", overlapping), f.view("x", x, overlapping ? Use::whole : Use::rows);
    f.view("codes", codes, Use::result), f.view("roundings", roundings, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// y = activation(x times the transposed float32 weight + bias) * factor + residual.
struct MatMul : Fusible {
  static constexpr const char* kName = "matmul";
  View x, y, bias, residual;
  Weight weight;
  Activation activation;
  bool overlapping;
  float factor;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.flag("overlapping", overlapping);
    f.view("x", x, overlapping ? Use::whole : Use::rows), ending(f);
  }
  template <class F>
  void ending(F& f) {
    f.weight("weight", weight), f.optional_view("bias", bias, Use::whole);
    f.activation("activation", activation), f.real("factor", factor);
    f.optional_view("residual", residual, Use::rows), f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void check_ending(const Check& c) const;
  void run(const Run& run) const { this->run(run, 0, weight.matrix->panels()); }
  // Computes the outputs of panels [begin, end) of the weight.
  void run(const Run& run, int64_t begin, int64_t end) const;
  // The number of parts into which threads may divide the product.
  int64_t parts() const;
  Epilogue epilogue(const Run& run) const;
};

// The same product of 8-bit codes with a weight of at most 8 bits.
struct MatMul8 : MatMul {
  static constexpr const char* kName = "matmul_8";
  View roundings;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.view("x", x, Use::rows), f.view("roundings", roundings, Use::rows);
    ending(f);
  }
  void check(const Check& c) const;
  void run(const Run& run) const { this->run(run, 0, weight.matrix->panels()); }
  void run(const Run& run, int64_t begin, int64_t end) const;
};

// A depthwise convolution with weight [taps, taps_bins, channels].
struct Depthwise : Fusible {
  static constexpr const char* kName = "depthwise";
  View x, y, weight, bias;
  ConvShape conv;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), conv.fields(f), f.view("x", x, Use::whole);
    f.view("weight", weight, Use::whole), f.optional_view("bias", bias, Use::whole);
    f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
  void run_frames(const Run& run) const;
  void run_bins(const Run& run) const;
};

// Selects rows of a weight by ids; `run` throws std::out_of_range for an id that is not a row.
struct Lookup : Fusible {
  static constexpr const char* kName = "lookup";
  View ids, y;
  Weight table;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.view("ids", ids, Use::whole), f.weight("table", table);
    f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

}  // namespace tynda

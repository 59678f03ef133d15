// Operations that work row by row or number by number. Tensors are [rows, width] unless stated.
#pragma once
#include "products.h"

namespace tynda {

// Row r of y [rows, width] is made of row r of x.
struct RowWise : Fusible {
  View x, y;
  int64_t width;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.number("width", width);
    f.view("x", x, Use::rows), f.view("y", y, Use::result);
  }
};

struct LayerNorm : Fusible {
  static constexpr const char* kName = "layer_norm";
  View x, weight, bias, y;
  int64_t width;
  float eps;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.number("width", width), f.view("x", x, Use::rows);
    f.view("weight", weight, Use::whole), f.optional_view("bias", bias, Use::whole);
    f.real("eps", eps), f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// activation(x * weight + bias), which have a row for each `period` rows of x.
struct Affine : Fusible {
  static constexpr const char* kName = "affine";
  View x, weight, bias, y;
  int64_t width, period;
  Activation activation;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.number("width", width), f.number("period", period);
    f.view("x", x, Use::rows);
    f.view("weight", weight, Use::whole), f.view("bias", bias, Use::whole);
    f.activation("activation", activation), f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

struct Activate : RowWise {
  static constexpr const char* kName = "activate";
  Activation activation;

  template <class F>
  void fields(F& f) {
    RowWise::fields(f), f.activation("activation", activation);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// x [rows, 2 width] -> y.
struct Glu : RowWise {
  static constexpr const char* kName = "glu";
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// The same with the SiLU of the second half.
struct Swiglu : Glu {
  static constexpr const char* kName = "swiglu";
  void run(const Run& run) const;
};

// Cosines, then sines, of the angles by which `rotary` turns pairs of channels: those of row r are
// of place starts[r / count] + r % count, pair i by place * base^(-2 i / width). There are half as
// many pairs as `width`, rounded up.
struct RotaryTable : Fusible {
  static constexpr const char* kName = "rotary_table";
  View starts, y;
  int64_t count, width;
  float base;

  int64_t pairs() const { return (width + 1) / 2; }
  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.number("count", count), f.number("width", width);
    f.real("base", base), f.view("starts", starts, Use::whole), f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// In each of `heads` parts of a row, the first `turned` channels by a table of that width.
struct Rotary : Fusible {
  static constexpr const char* kName = "rotary";
  View x, table, y;
  int64_t width, heads, rotary_width;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.number("width", width), f.number("heads", heads);
    f.number("rotary_width", rotary_width), f.view("x", x, Use::rows), f.view("table", table, Use::rows);
    f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

struct LogSoftmax : RowWise {
  static constexpr const char* kName = "log_softmax";
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// Row r of y is row r % period, where there is a period.
struct Add : Fusible {
  static constexpr const char* kName = "add";
  View x, y, sum;
  int64_t width, period;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.number("width", width), f.number("period", period);
    f.view("x", x, Use::rows), f.view("y", y, period ? Use::whole : Use::rows);
    f.view("sum", sum, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

struct Scale : RowWise {
  static constexpr const char* kName = "scale";
  float factor;

  template <class F>
  void fields(F& f) {
    RowWise::fields(f), f.real("factor", factor);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// Zeros from an item's length on; an item has `frames` frames of `frame_rows` rows.
struct Mask : Fusible {
  static constexpr const char* kName = "mask";
  View x, lengths, y;
  int64_t width, frames, frame_rows;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.number("width", width);
    f.number("frames", frames), f.number("frame_rows", frame_rows);
    f.view("x", x, Use::rows), f.view("lengths", lengths, Use::whole);
    f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// Sinusoids of the distance between two frames: of row r, (rows - 1) / 2 - r; in each row sines and
// cosines by turns, of waves 10000^(-2 i / width).
struct RelativeEncoding : Fusible {
  static constexpr const char* kName = "relative_encoding";
  View y;
  int64_t width;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.number("width", width), f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// Rows from + r / frames * time + r % frames of x, `bytes` of frame_rows.
struct Copy : Fusible {
  static constexpr const char* kName = "copy";
  View x, y;
  int64_t bytes, frames, time, start;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.number("bytes", bytes);
    f.number("frames", frames), f.number("time", time), f.number("start", start);
    f.view("x", x, frames == time && start == 0 ? Use::rows : Use::whole);
    f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// Rows of `size` rows by number; std::out_of_range for a number that names none.
struct LookupRows : Fusible {
  static constexpr const char* kName = "lookup_rows";
  View ids, table, y;
  int64_t size;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.number("size", size);
    f.view("ids", ids, Use::whole), f.view("table", table, Use::whole);
    f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

}  // namespace tynda

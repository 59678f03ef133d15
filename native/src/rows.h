// Operations of plans on rows or elements. Tensors are [rows, width] unless stated otherwise.
#pragma once
#include "products.h"

namespace tynda {

// The base of operations that compute row r of y [rows, width] from row r of x.
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

// y = activation((x - mean) * weight + bias), where mean (default: 0), weight and bias have a row
// for each `period` rows of x.
struct Affine : Fusible {
  static constexpr const char* kName = "affine";
  View x, mean, weight, bias, y;
  int64_t width, period;
  Activation activation;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.number("width", width), f.number("period", period);
    f.view("x", x, Use::rows), f.optional_view("mean", mean, Use::whole);
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

// y = the first half of x [rows, 2 width] times the sigmoid of the second half.
struct Glu : RowWise {
  static constexpr const char* kName = "glu";
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// The same with SiLU instead of sigmoid.
struct Swiglu : Glu {
  static constexpr const char* kName = "swiglu";
  void run(const Run& run) const;
};

// The cosines, then the sines, of the angles of `rotary`. Row r is position starts[r / count] + r %
// count, which rotates pair i by position * base^(-2 i / width). There are half as many pairs as
// `width`, rounded up.
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

// Rotates the first `rotary_width` channels of each head by a table of that width.
struct Rotary : Fusible {
  static constexpr const char* kName = "rotary";
  View x, table, y;
  int64_t width, heads, rotary_width;

  template <class F>
  void fields(F& f) {
    f.number("rows", rows), f.number("width", width), f.number("heads", heads);
    f.number("rotary_width", rotary_width), f.view("x", x, Use::rows);
    f.view("table", table, Use::rows);
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

// sum = x + y, where row r of x is added to row r % period of y if `period` is not 0.
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

// Sets frames past an item's length to zero. An item has `frames` frames of `frame_rows` rows each.
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

// The sinusoidal encoding of relative positions. Row r is distance (rows - 1) / 2 - r: a sine and a
// cosine for each frequency 10000^(-2 i / width).
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

// Row r of y is row start + r / frames * time + r % frames of x; rows have `bytes` bytes.
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

// Selects rows of a table with `size` rows by ids; `run` throws std::out_of_range for others.
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

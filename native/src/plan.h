// A model's operations with everything settled but the numbers: shapes, places, order.
//
// A plan is a list of stages that run one after another. Most are strips: operations in which a
// row of the result needs no other row of what the strip makes, so that each thread takes a
// block of rows through all of them while the block is in its cache.
#pragma once
#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "kernels.h"

namespace tynda {

enum class Space { arena, local, argument, constant };

// Where a tensor is: rows of `row` bytes from `offset` on.
struct Place {
  Space space = Space::arena;
  int64_t index = 0;  // of the argument or constant
  int64_t offset = 0;
  int64_t row = 0;
};

// What a stage works on.
struct Run {
  uint8_t* arena;
  uint8_t* local;  // this thread's own part of the arena
  uint8_t* const* arguments;
  const uint8_t* const* constants;
  int64_t first = 0, count = 0;  // rows

  uint8_t* base(const Place& p) const;
  // Row `row`; of a local tensor, whose rows are those of the block.
  template <class T>
  T* at(const Place& p, int64_t row) const {
    if (p.space == Space::local) row -= first;
    return reinterpret_cast<T*>(base(p) + row * p.row);
  }
  template <class T>
  T* at(const Place& p) const {
    return at<T>(p, first);
  }
};

// A convolution's view of its input [batch, time, bins, channels]; part of the channels only
// where it has groups. One axis alone: bins = taps_bins = 1.
struct Windows {
  int64_t time, bins, channels;            // of the input
  int64_t first_channel, used_channels;    // of this group
  int64_t frames, frame_bins;              // of the output
  int64_t taps, taps_bins, stride, stride_bins, padding, padding_bins;
};

struct Heads {
  int64_t batch, heads, queries, keys, channels, v_channels;
  bool causal;     // `lengths` then says where the queries of an item start
  bool integer;    // products in 8 bits
  bool packed;     // keys and values come from `remember`
  int64_t chunks;  // parts of the queries that are done apart
};

// Rows that one thread sums up at a time, see `Plan::moments`.
constexpr int64_t kMomentRows = 256;

class Plan {
 public:
  Plan(const Kernels& kernels, int64_t arena, int64_t local, int threads);

  int64_t constant(const void* data);  // an index; the caller keeps the data alive
  int64_t bytes() const { return arena_ + threads_ * local_; }

  void strip(int64_t rows, int64_t block);
  // Operations of the strip. Numbers are float32 and tensors [rows, width] unless said.
  void windows(Place x, Place y, const Windows& w);  // y [rows, taps * taps_bins * used_channels]
  void quantize(Place x, Place codes, Place scales, int64_t width, int64_t depth);
  void multiply(Place x, Place y, const Matrix& w, const float* bias, Activation activation,
                float factor, Place residual, bool has_residual);
  void multiply_8(Place codes, Place scales, Place y, const Matrix& w, const float* bias,
                  Activation activation, float factor, Place residual, bool has_residual);
  void depthwise(Place x, Place y, const Windows& w, const float* weight, const float* bias);
  void layer_norm(Place x, Place y, int64_t width, const float* weight, const float* bias,
                  float eps);
  // activation(x * weight + bias), which have a row for each `period` rows of x.
  void affine(Place x, Place y, int64_t width, Place weight, Place bias, int64_t period,
              Activation kind);
  void activate(Place x, Place y, int64_t width, Activation kind);
  void glu(Place x, Place y, int64_t width);
  void log_softmax(Place x, Place y, int64_t width);
  // Row r of y is row r % period.
  void add(Place x, Place y, Place sum, int64_t width, int64_t period);
  void scale(Place x, Place y, int64_t width, float factor);
  // A frame has `each` rows.
  void mask(Place x, Place y, int64_t width, int64_t frames, int64_t each, Place lengths);
  // Rows from + r / frames * time + r % frames of x.
  void copy(Place x, Place y, int64_t bytes, int64_t frames, int64_t time, int64_t from);
  // Rows by number, of a Matrix or of `size` rows; std::out_of_range for any other number.
  void lookup(Place ids, Place y, const Matrix& table);
  void lookup_rows(Place ids, Place y, Place table, int64_t size, int64_t bytes);

  // Stages of their own.
  void attention(Place q, Place k, Place v, Place y, const Heads& h, Place lengths);
  void attention_weights(Place q, Place k, Place y, const Heads& h, Place lengths);
  // Keys or values [batch, keys, channels] in the form in which `attention` reads them again
  // and again: an item is a row of y.
  void remember(Place x, Place y, const Heads& h, bool values, Place lengths);
  // Mean and variance of x [batch, time, channels] over time and each of `groups` parts of the
  // channels, as weight / sqrt(variance + eps) and what shifts the mean to bias: both
  // [batch, channels]. `work`: doubles [batch, time / kMomentRows rounded up, 2 channels].
  void moments(Place x, Place scale, Place shift, Place work, int64_t batch, int64_t time,
               int64_t channels, int64_t groups, const float* weight, const float* bias,
               float eps, Place lengths);
  // gates [batch, time, 4 hidden] are the inputs' share; weights are those of each gate. `work`:
  // 7 * batch * round_up(hidden, panel) floats.
  void lstm(Place gates, Place y, Place work, std::array<const Matrix*, 4> weights,
            int64_t batch, int64_t time, int64_t hidden, bool reverse, Place lengths);
  void write(Place cache, Place x, Place starts, int64_t batch, int64_t time, int64_t capacity,
             int64_t bytes);
  // Whole numbers (int64): y = max(0, (x + add) / divide + plus), rounded down.
  void lengths(Place x, Place y, int64_t size, int64_t add, int64_t divide, int64_t plus,
               int64_t times);
  void positions(Place starts, Place y, int64_t size, int64_t count);

  // Operations that it was told of; each has a place in `seconds`.
  int64_t steps() const { return steps_; }
  // `memory`: bytes() of it, aligned to kAlign. `seconds`: what each operation took is added, that
  // of blocks as the threads' sum over how many they are; none: nothing is timed.
  void run(uint8_t* memory, const std::vector<uint8_t*>& arguments,
           double* seconds = nullptr) const;

 private:
  struct Step {
    std::function<void(const Run&)> run;
    // Where a step alone is worth several threads: its parts, and the part [begin, end) of it.
    int64_t parts = 1;
    std::function<void(const Run&, int64_t, int64_t)> part;
  };
  struct Stage {
    int64_t rows = 0, block = 0;  // of a strip
    std::vector<Step> steps;
    std::function<void(const Run&)> whole;  // or a stage of its own
  };

  void add_step(Step step);
  void step(std::function<void(const Run&)> run);
  void stage(std::function<void(const Run&)> run);
  void run_strip(const Stage& stage, const Run& run, double* seconds) const;
  Run of_thread(Run run, int thread) const;
  template <class Product>
  void product(const Matrix& w, Product part);

  const Kernels& kernels_;
  int64_t arena_, local_;
  int threads_;
  int64_t steps_ = 0;
  std::vector<const uint8_t*> constants_;
  std::vector<Stage> stages_;
};

}  // namespace tynda

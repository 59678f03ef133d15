#include "products.h"

#include <algorithm>
#include <cstring>

namespace tynda {
namespace {

// Bytes of weights below which a product is not worth a second thread.
constexpr int64_t kSmallProduct = 32 << 10;

// Rows of the input that a convolution with `rows` of output looks at, over `positions` each item.
int64_t inputs(const Check& c, const View& v, int64_t rows, int64_t positions) {
  c.that(rows == 0 || positions > 0, "a convolution has rows and no frames");
  return rows ? times((rows - 1) / positions + 1, v.time) : 0;
}

}  // namespace

void Windows::check(const Check& c) const {
  const View& v = view;
  const int64_t seen = inputs(c, v, rows, times(v.frames, v.frame_bins));
  c.that(v.first_channel + v.used_channels <= v.channels, "a group has channels beyond the last");
  times(v.frames, v.stride), times(v.frame_bins, v.stride_bins);
  c.floats(x, seen, times(v.bins, v.channels));
  c.floats(y, rows, times(times(v.taps, v.taps_bins), v.used_channels));
}

void Windows::run(const Run& run) const {
  const View& v = view;
  const int64_t bytes = 4 * v.used_channels, positions = v.frames * v.frame_bins;
  for (int64_t r = run.first; r < run.first + run.count; r++) {
    const int64_t item = r / positions, place = r % positions;
    const int64_t t0 = place / v.frame_bins * v.stride - v.padding;
    const int64_t b0 = place % v.frame_bins * v.stride_bins - v.padding_bins;
    auto* to = run.at<uint8_t>(y, r);
    for (int64_t t = t0; t < t0 + v.taps; t++)
      for (int64_t b = b0; b < b0 + v.taps_bins; b++, to += bytes) {
        if (t < 0 || t >= v.time || b < 0 || b >= v.bins) {
          std::memset(to, 0, bytes);
        } else {
          const float* from = run.floats(x, item * v.time + t);
          std::memcpy(to, from + b * v.channels + v.first_channel, bytes);
        }
      }
  }
}

void Quantize::check(const Check& c) const {
  c.that(depth >= width && depth - width < 4 && depth % 4 == 0 && (rows < 2 || codes.row == depth),
         "codes are not as long as their rows, rounded up to four");
  c.floats(x, rows, width);
  c.bytes(codes, rows, depth);
  c.dense(scales, rows, 1);
}

void Quantize::run(const Run& run) const {
  run.kernels->quantize(run.at<const float>(x), x.row / 4, run.count, width, depth,
                        run.at<uint8_t>(codes), run.at<float>(scales));
}

void Multiply::check(const Check& c) const {
  c.that(c.shape(weight).bits == 32, "a weight of codes is multiplied with numbers");
  c.floats(x, rows, c.shape(weight).k);
  check_ending(c);
}

void Multiply::check_ending(const Check& c) const {
  const int64_t n = c.shape(weight).n;
  if (bias) c.floats(bias, 1, n);
  if (residual) c.floats(residual, rows, n);
  c.floats(y, rows, n);
}

int64_t Multiply::parts() const {
  return weight.matrix->bytes() < kSmallProduct ? 1 : weight.matrix->panels();
}

Epilogue Multiply::epilogue(const Run& run) const {
  return {bias ? run.floats(bias) : nullptr, activation, factor,
          residual ? run.at<const float>(residual) : nullptr, residual.row / 4};
}

void Multiply::run(const Run& run, int64_t begin, int64_t end) const {
  run.kernels->multiply(run.at<const float>(x), x.row / 4, run.count, *weight.matrix, begin, end,
                        run.at<float>(y), y.row / 4, epilogue(run));
}

void Multiply8::check(const Check& c) const {
  c.that(c.shape(weight).bits != 32, "a weight of numbers is multiplied with codes");
  c.bytes(x, rows, c.shape(weight).depth());
  c.dense(scales, rows, 1);
  check_ending(c);
}

void Multiply8::run(const Run& run, int64_t begin, int64_t end) const {
  run.kernels->multiply_8(run.at<const uint8_t>(x), x.row, run.at<const float>(scales), run.count,
                          *weight.matrix, begin, end, run.at<float>(y), y.row / 4, epilogue(run));
}

void Depthwise::check(const Check& c) const {
  const View& v = view;
  times(v.frames, v.stride), times(v.frame_bins, v.stride_bins);
  const int64_t seen = inputs(c, v, rows, times(v.frames, v.frame_bins));
  c.floats(x, seen, times(v.bins, v.channels));
  c.floats(weight, 1, times(times(v.taps, v.taps_bins), v.channels));
  if (bias) c.floats(bias, 1, v.channels);
  c.floats(y, rows, v.channels);
}

void Depthwise::run(const Run& run) const {
  const View& v = view;
  if (v.bins == 1 && v.frame_bins == 1 && v.taps_bins == 1 && v.padding_bins == 0) {
    run_frames(run);
  } else {
    run_bins(run);
  }
}

// Along frames alone, all taps are rows that follow each other.
void Depthwise::run_frames(const Run& run) const {
  const View& v = view;
  for (int64_t r = run.first; r < run.first + run.count; r++) {
    const int64_t t0 = r % v.frames * v.stride - v.padding;
    const int64_t first = std::max<int64_t>(0, -t0);
    const int64_t last = std::max(first, std::min(v.taps, v.time - t0));
    const int64_t from = std::min(t0 + first, v.time - 1);
    run.kernels->depthwise(run.floats(x, r / v.frames * v.time + from), x.row / 4, first, last,
                           v.channels, run.floats(weight), bias ? run.floats(bias) : nullptr,
                           run.at<float>(y, r));
  }
}

// Else the bins of a frame do; what a frame adds goes on from the sums so far.
void Depthwise::run_bins(const Run& run) const {
  const View& v = view;
  const int64_t positions = v.frames * v.frame_bins;
  for (int64_t r = run.first; r < run.first + run.count; r++) {
    const int64_t item = r / positions, place = r % positions;
    const int64_t t0 = place / v.frame_bins * v.stride - v.padding;
    const int64_t b0 = place % v.frame_bins * v.stride_bins - v.padding_bins;
    const int64_t first = std::max<int64_t>(0, -b0);
    const int64_t last = std::max(first, std::min(v.taps_bins, v.bins - b0));
    const float* sums = bias ? run.floats(bias) : nullptr;
    auto* const to = run.at<float>(y, r);
    const auto add = [&](const float* from, int64_t begin, int64_t end, int64_t tap) {
      run.kernels->depthwise(from, v.channels, begin, end, v.channels,
                             run.floats(weight) + tap * v.taps_bins * v.channels, sums, to);
      sums = to;
    };
    add(nullptr, 0, 0, 0);
    for (int64_t tap = std::max<int64_t>(0, -t0); tap < std::min(v.taps, v.time - t0); tap++)
      if (first < last)
        add(run.floats(x, item * v.time + t0 + tap) + (b0 + first) * v.channels, first, last, tap);
  }
}

void Lookup::check(const Check& c) const {
  c.integers(ids, rows);
  c.floats(y, rows, c.shape(table).k);
}

void Lookup::run(const Run& run) const {
  for (int64_t r = run.first; r < run.first + run.count; r++)
    table.matrix->row(within(run.integers(ids)[r], table.matrix->n), run.at<float>(y, r));
}

}  // namespace tynda

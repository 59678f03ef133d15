#include "products.h"

#include <algorithm>
#include <cstring>

namespace tynda {
namespace {

// A weight with fewer bytes is not worth a second thread.
constexpr int64_t kSmallMatMul = 32 << 10;

// The input rows of a convolution with `rows` output rows, of which each item has `positions`.
int64_t inputs(const Check& c, const ConvShape& s, int64_t rows, int64_t positions) {
  c.require(rows == 0 || positions > 0, "a convolution has rows and no frames");
  return rows ? times((rows - 1) / positions + 1, s.time) : 0;
}

}  // namespace

void Im2col::check(const Check& c) const {
  const ConvShape& s = conv;
  const int64_t seen = inputs(c, s, rows, times(s.frames, s.frame_bins));
  c.require(s.first_channel + s.used_channels <= s.channels,
            "a group has channels beyond the last");
  times(s.frames, s.stride), times(s.frame_bins, s.stride_bins);
  c.floats(x, seen, times(s.bins, s.channels));
  c.floats(y, rows, times(times(s.taps, s.taps_bins), s.used_channels));
}

void Im2col::run(const Run& run) const {
  const ConvShape& s = conv;
  const int64_t bytes = 4 * s.used_channels, positions = s.frames * s.frame_bins;
  for (int64_t r = run.first; r < run.first + run.count; r++) {
    const int64_t item = r / positions, place = r % positions;
    const int64_t t0 = place / s.frame_bins * s.stride - s.padding;
    const int64_t b0 = place % s.frame_bins * s.stride_bins - s.padding_bins;
    auto* to = run.at<uint8_t>(y, r);
    for (int64_t t = t0; t < t0 + s.taps; t++)
      for (int64_t b = b0; b < b0 + s.taps_bins; b++, to += bytes) {
        if (t < 0 || t >= s.time || b < 0 || b >= s.bins) {
          std::memset(to, 0, bytes);
        } else {
          const float* from = run.floats(x, item * s.time + t);
          std::memcpy(to, from + b * s.channels + s.first_channel, bytes);
        }
      }
  }
}

void Quantize::check(const Check& c) const {
  c.require(depth >= width && depth - width < 4 && depth % 4 == 0 &&
                (rows < 2 || codes.row == depth),
            "the size of rows of codes is not their width rounded up to 4");
  c.floats(x, rows, width);
  c.bytes(codes, rows, depth);
  c.roundings(roundings, rows);
}

void Quantize::run(const Run& run) const {
  run.kernels->quantize(run.at<const float>(x), x.row / 4, run.count, width, depth, false,
                        run.at<uint8_t>(codes), run.at<Rounding>(roundings));
}

void MatMul::check(const Check& c) const {
  c.require(c.shape(weight).bits == 32, "float32 rows are multiplied with a weight of codes");
  c.floats(x, rows, c.shape(weight).k);
  check_ending(c);
}

void MatMul::check_ending(const Check& c) const {
  const int64_t n = c.shape(weight).n;
  if (bias) c.floats(bias, 1, n);
  if (residual) c.floats(residual, rows, n);
  c.floats(y, rows, n);
}

int64_t MatMul::parts() const {
  return weight.matrix->bytes() < kSmallMatMul ? 1 : weight.matrix->panels();
}

Epilogue MatMul::epilogue(const Run& run) const {
  return {bias ? run.floats(bias) : nullptr, activation, factor,
          residual ? run.at<const float>(residual) : nullptr, residual.row / 4};
}

void MatMul::run(const Run& run, int64_t begin, int64_t end) const {
  run.kernels->matmul(run.at<const float>(x), x.row / 4, run.count, *weight.matrix, begin, end,
                        run.at<float>(y), y.row / 4, epilogue(run));
}

void MatMul8::check(const Check& c) const {
  c.require(c.shape(weight).bits != 32, "codes are multiplied with a float32 weight");
  c.bytes(x, rows, c.shape(weight).depth());
  c.roundings(roundings, rows);
  check_ending(c);
}

void MatMul8::run(const Run& run, int64_t begin, int64_t end) const {
  run.kernels->matmul_8(run.at<const uint8_t>(x), x.row, run.at<const Rounding>(roundings), run.count,
                          *weight.matrix, begin, end, run.at<float>(y), y.row / 4, epilogue(run));
}

void Depthwise::check(const Check& c) const {
  const ConvShape& s = conv;
  times(s.frames, s.stride), times(s.frame_bins, s.stride_bins);
  const int64_t seen = inputs(c, s, rows, times(s.frames, s.frame_bins));
  c.floats(x, seen, times(s.bins, s.channels));
  c.floats(weight, 1, times(times(s.taps, s.taps_bins), s.channels));
  if (bias) c.floats(bias, 1, s.channels);
  c.floats(y, rows, s.channels);
}

void Depthwise::run(const Run& run) const {
  const ConvShape& s = conv;
  if (s.bins == 1 && s.frame_bins == 1 && s.taps_bins == 1 && s.padding_bins == 0) {
    run_frames(run);
  } else {
    run_bins(run);
  }
}

// With one bin, the inputs of all taps are consecutive rows: one call of the kernel is enough.
void Depthwise::run_frames(const Run& run) const {
  const ConvShape& s = conv;
  for (int64_t r = run.first; r < run.first + run.count; r++) {
    const int64_t t0 = r % s.frames * s.stride - s.padding;
    const int64_t first = std::max<int64_t>(0, -t0);
    const int64_t last = std::max(first, std::min(s.taps, s.time - t0));
    const int64_t from = std::min(t0 + first, s.time - 1);
    run.kernels->depthwise(run.floats(x, r / s.frames * s.time + from), x.row / 4, first, last,
                           s.channels, run.floats(weight), bias ? run.floats(bias) : nullptr,
                           run.at<float>(y, r));
  }
}

// Otherwise those of the taps along bins are consecutive: each tap along frames adds to the sums.
void Depthwise::run_bins(const Run& run) const {
  const ConvShape& s = conv;
  const int64_t positions = s.frames * s.frame_bins;
  for (int64_t r = run.first; r < run.first + run.count; r++) {
    const int64_t item = r / positions, place = r % positions;
    const int64_t t0 = place / s.frame_bins * s.stride - s.padding;
    const int64_t b0 = place % s.frame_bins * s.stride_bins - s.padding_bins;
    const int64_t first = std::max<int64_t>(0, -b0);
    const int64_t last = std::max(first, std::min(s.taps_bins, s.bins - b0));
    const float* sums = bias ? run.floats(bias) : nullptr;
    auto* const to = run.at<float>(y, r);
    const auto add = [&](const float* from, int64_t begin, int64_t end, int64_t tap) {
      run.kernels->depthwise(from, s.channels, begin, end, s.channels,
                             run.floats(weight) + tap * s.taps_bins * s.channels, sums, to);
      sums = to;
    };
    add(nullptr, 0, 0, 0);
    for (int64_t tap = std::max<int64_t>(0, -t0); tap < std::min(s.taps, s.time - t0); tap++)
      if (first < last)
        add(run.floats(x, item * s.time + t0 + tap) + (b0 + first) * s.channels, first, last, tap);
  }
}

void Lookup::check(const Check& c) const {
  c.integers(ids, rows);
  c.floats(y, rows, c.shape(table).k);
}

void Lookup::run(const Run& run) const {
  for (int64_t r = run.first; r < run.first + run.count; r++)
    table.matrix->row(checked_index(run.integers(ids)[r], table.matrix->n), run.at<float>(y, r));
}

}  // namespace tynda

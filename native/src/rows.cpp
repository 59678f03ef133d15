#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tynda {

void LayerNorm::check(const Check& c) const {
  c.dense(x, rows, width);
  c.floats(weight, 1, width);
  if (bias) c.floats(bias, 1, width);
  c.dense(y, rows, width);
}

void LayerNorm::run(const Run& run) const {
  run.kernels->layer_norm(run.at<const float>(x), run.count, width, run.floats(weight),
                          bias ? run.floats(bias) : nullptr, eps, run.at<float>(y));
}

void Affine::check(const Check& c) const {
  c.require(period > 0, "a period is 0");
  const int64_t factors = rows ? (rows - 1) / period + 1 : 0;
  c.floats(x, rows, width);
  if (mean) c.floats(mean, factors, width);
  c.floats(weight, factors, width);
  c.floats(bias, factors, width);
  c.floats(y, rows, width);
}

void Affine::run(const Run& run) const {
  for (int64_t r = run.first; r < run.first + run.count; r++)
    run.kernels->affine(run.floats(x, r), 1, width, mean ? run.floats(mean, r / period) : nullptr,
                        run.floats(weight, r / period), run.floats(bias, r / period), activation,
                        run.at<float>(y, r));
}

void Activate::check(const Check& c) const {
  c.dense(x, rows, width);
  c.dense(y, rows, width);
}

void Activate::run(const Run& run) const {
  run.kernels->activate(run.at<const float>(x), run.count * width, activation, run.at<float>(y));
}

void Glu::check(const Check& c) const {
  c.dense(x, rows, times(2, width));
  c.dense(y, rows, width);
}

void Glu::run(const Run& run) const {
  run.kernels->glu(run.at<const float>(x), run.count, width, run.at<float>(y));
}

void Swiglu::run(const Run& run) const {
  run.kernels->swiglu(run.at<const float>(x), run.count, width, run.at<float>(y));
}

void RotaryTable::check(const Check& c) const {
  c.require(rows == 0 || count > 0, "an item has rows and no positions");
  c.require(base > 0, "angles have no base");
  c.integers(starts, rows ? (rows - 1) / count + 1 : 0);
  c.floats(y, rows, times(2, pairs()));
}

void RotaryTable::run(const Run& run) const {
  for (int64_t i = 0; i < pairs(); i++) {
    const float angle = float(std::pow(double(base), -2.0 * double(i) / double(width)));
    for (int64_t r = run.first; r < run.first + run.count; r++) {
      const float whole = float(run.integers(starts)[r / count] + r % count) * angle;
      run.at<float>(y, r)[i] = std::cos(whole);
      run.at<float>(y, r)[pairs() + i] = std::sin(whole);
    }
  }
}

void Rotary::check(const Check& c) const {
  c.require(heads > 0 && width % heads == 0, "channels do not divide into heads");
  c.require(rotary_width % 2 == 0 && rotary_width <= width / heads,
            "a head has fewer channels than are rotated");
  c.floats(x, rows, width);
  c.floats(table, rows, rotary_width);
  c.floats(y, rows, width);
}

void Rotary::run(const Run& run) const {
  for (int64_t r = run.first; r < run.first + run.count; r++)
    run.kernels->rotary(run.floats(x, r), run.floats(table, r), heads, width / heads,
                        rotary_width / 2, run.at<float>(y, r));
}

void LogSoftmax::check(const Check& c) const {
  c.dense(x, rows, width);
  c.dense(y, rows, width);
}

void LogSoftmax::run(const Run& run) const {
  run.kernels->log_softmax(run.at<const float>(x), run.count, width, run.at<float>(y));
}

void Add::check(const Check& c) const {
  c.floats(x, rows, width);
  c.floats(y, period ? std::min(period, rows) : rows, width);
  c.floats(sum, rows, width);
}

void Add::run(const Run& run) const {
  for (int64_t r = run.first; r < run.first + run.count; r++)
    run.kernels->add(run.floats(x, r), run.floats(y, period ? r % period : r), width,
                     run.at<float>(sum, r));
}

void Scale::check(const Check& c) const {
  c.dense(x, rows, width);
  c.dense(y, rows, width);
}

void Scale::run(const Run& run) const {
  run.kernels->scale(run.at<const float>(x), run.count * width, factor, run.at<float>(y));
}

void Mask::check(const Check& c) const {
  c.require(rows == 0 || (frames > 0 && frame_rows > 0), "an item has rows and no frames");
  c.floats(x, rows, width);
  c.floats(y, rows, width);
  c.integers(lengths, rows ? (rows - 1) / frame_rows / frames + 1 : 0);
}

void Mask::run(const Run& run) const {
  for (int64_t r = run.first; r < run.first + run.count; r++) {
    auto* to = run.at<float>(y, r);
    const int64_t frame = r / frame_rows;
    if (frame % frames < run.integers(lengths)[frame / frames]) {
      std::memmove(to, run.floats(x, r), 4 * width);
    } else {
      std::memset(to, 0, 4 * width);
    }
  }
}

void RelativeEncoding::check(const Check& c) const {
  c.require(width % 2 == 0, "a wave has a sine and no cosine");
  c.floats(y, rows, width);
}

void RelativeEncoding::run(const Run& run) const {
  for (int64_t i = 0; i < width; i += 2) {
    const double wave = std::pow(10000.0, -double(i) / double(width));
    for (int64_t r = run.first; r < run.first + run.count; r++) {
      const double angle = double((rows - 1) / 2 - r) * wave;
      run.at<float>(y, r)[i] = float(std::sin(angle));
      run.at<float>(y, r)[i + 1] = float(std::cos(angle));
    }
  }
}

void Copy::check(const Check& c) const {
  c.require(frames > 0, "frames are 0");
  const int64_t seen =
      rows ? times((rows - 1) / frames, time) + std::min(frames, rows) + start : 0;
  c.bytes(x, seen, bytes);
  c.bytes(y, rows, bytes);
}

void Copy::run(const Run& run) const {
  for (int64_t r = run.first; r < run.first + run.count; r++)
    std::memcpy(run.at<uint8_t>(y, r),
                run.at<const uint8_t>(x, r / frames * time + r % frames + start), bytes);
}

void LookupRows::check(const Check& c) const {
  c.integers(ids, rows);
  c.bytes(table, size, y.row);
  c.bytes(y, rows, y.row);
}

void LookupRows::run(const Run& run) const {
  for (int64_t r = run.first; r < run.first + run.count; r++)
    std::memcpy(run.at<uint8_t>(y, r),
                run.at<const uint8_t>(table, checked_index(run.integers(ids)[r], size)), y.row);
}

}  // namespace tynda

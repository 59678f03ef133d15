#include "plan.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "threads.h"

namespace tynda {
namespace {

// Bytes of weights below which a product is not worth a second thread.
constexpr int64_t kSmallProduct = 32 << 10;

const int64_t* numbers(const Run& run, const Place& p) { return run.at<const int64_t>(p, 0); }

// How much of an item there is, of `most`.
int64_t length_of(const Run& run, const Place& lengths, int64_t item, int64_t most) {
  return std::clamp<int64_t>(numbers(run, lengths)[item], 0, most);
}

int64_t within(int64_t index, int64_t size) {
  if (index < 0 || index >= size)
    throw std::out_of_range("index " + std::to_string(index) + " is not below " +
                            std::to_string(size));
  return index;
}

// Does some work, and adds the time that it took, if somebody wants to know.
template <class Work>
void timed(double* seconds, Work work) {
  if (!seconds) return work();
  const auto started = std::chrono::steady_clock::now();
  work();
  *seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

}  // namespace

uint8_t* Run::base(const Place& p) const {
  switch (p.space) {
    case Space::arena: return arena + p.offset;
    case Space::local: return local + p.offset;
    case Space::argument: return arguments[p.index] + p.offset;
    default: return const_cast<uint8_t*>(constants[p.index]) + p.offset;
  }
}

Plan::Plan(const Kernels& kernels, int64_t arena, int64_t local, int threads)
    : kernels_(kernels), arena_(round_up(arena, kAlign)), local_(round_up(local, kAlign)),
      threads_(threads) {}

int64_t Plan::constant(const void* data) {
  constants_.push_back(static_cast<const uint8_t*>(data));
  return int64_t(constants_.size()) - 1;
}

Run Plan::of_thread(Run run, int thread) const {
  run.local = run.arena + arena_ + thread * local_;
  return run;
}

void Plan::run(uint8_t* memory, const std::vector<uint8_t*>& arguments, double* seconds) const {
  const Run run{memory, memory + arena_, arguments.data(), constants_.data()};
  for (const Stage& stage : stages_) {
    if (stage.whole) {
      timed(seconds, [&] { stage.whole(run); });
    } else {
      run_strip(stage, run, seconds);
    }
    if (seconds) seconds += stage.whole ? 1 : stage.steps.size();
  }
}

void Plan::run_strip(const Stage& stage, const Run& run, double* seconds) const {
  const int64_t blocks = stage.rows ? (stage.rows + stage.block - 1) / stage.block : 0;
  const size_t count = stage.steps.size();
  if (blocks > 1) {
    std::vector<double> spent(seconds ? threads_ * count : 0);  // by each thread
    Pool::shared().run(blocks, [&](int64_t block, int thread) {
      Run part = of_thread(run, thread);
      part.first = block * stage.block;
      part.count = std::min(stage.block, stage.rows - part.first);
      for (size_t i = 0; i < count; i++)
        timed(seconds ? &spent[thread * count + i] : nullptr, [&] { stage.steps[i].run(part); });
    }, threads_);
    for (size_t i = 0; i < spent.size(); i++) seconds[i % count] += spent[i] / threads_;
    return;
  }
  // Few rows: the threads share each product instead.
  Run part = run;
  part.count = stage.rows;
  for (size_t i = 0; i < count && blocks; i++) {
    const Step& step = stage.steps[i];
    const int64_t share = (step.parts + threads_ - 1) / threads_;
    timed(seconds ? seconds + i : nullptr, [&] {
      if (threads_ == 1 || step.parts == 1) return step.run(part);
      Pool::shared().run(threads_, [&](int64_t i, int) {
        const int64_t begin = i * share, end = std::min(begin + share, step.parts);
        if (begin < end) step.part(part, begin, end);
      }, threads_);
    });
  }
}

void Plan::add_step(Step step) {
  stages_.back().steps.push_back(std::move(step));
  steps_++;
}

void Plan::step(std::function<void(const Run&)> run) { add_step({std::move(run), 1, nullptr}); }

void Plan::stage(std::function<void(const Run&)> run) {
  stages_.push_back({0, 0, {}, std::move(run)});
  steps_++;
}

void Plan::strip(int64_t rows, int64_t block) { stages_.push_back({rows, block, {}, nullptr}); }

void Plan::windows(Place x, Place y, const Windows& w) {
  step([=](const Run& run) {
    const int64_t bytes = 4 * w.used_channels, positions = w.frames * w.frame_bins;
    for (int64_t r = run.first; r < run.first + run.count; r++) {
      const int64_t item = r / positions, place = r % positions;
      const int64_t t0 = place / w.frame_bins * w.stride - w.padding;
      const int64_t b0 = place % w.frame_bins * w.stride_bins - w.padding_bins;
      auto* to = run.at<uint8_t>(y, r);
      for (int64_t t = t0; t < t0 + w.taps; t++)
        for (int64_t b = b0; b < b0 + w.taps_bins; b++, to += bytes) {
          if (t < 0 || t >= w.time || b < 0 || b >= w.bins) {
            std::memset(to, 0, bytes);
          } else {
            const auto* from = run.at<const float>(x, item * w.time + t);
            std::memcpy(to, from + b * w.channels + w.first_channel, bytes);
          }
        }
    }
  });
}

void Plan::quantize(Place x, Place codes, Place scales, int64_t width, int64_t depth) {
  step([=](const Run& run) {
    kernels_.quantize(run.at<const float>(x), x.row / 4, run.count, width, depth,
                      run.at<uint8_t>(codes), run.at<float>(scales));
  });
}

template <class Product>
void Plan::product(const Matrix& w, Product part) {
  const int64_t panels = w.panels();
  add_step({[=](const Run& run) { part(run, 0, panels); },
            w.bytes() < kSmallProduct ? 1 : panels, part});
}

void Plan::multiply(Place x, Place y, const Matrix& w, const float* bias, Activation activation,
                    float factor, Place residual, bool has_residual) {
  product(w, [=, &w](const Run& run, int64_t begin, int64_t end) {
    const Epilogue e{bias, activation, factor,
                     has_residual ? run.at<const float>(residual) : nullptr, residual.row / 4};
    kernels_.multiply(run.at<const float>(x), x.row / 4, run.count, w, begin, end,
                      run.at<float>(y), y.row / 4, e);
  });
}

void Plan::multiply_8(Place codes, Place scales, Place y, const Matrix& w, const float* bias,
                      Activation activation, float factor, Place residual, bool has_residual) {
  product(w, [=, &w](const Run& run, int64_t begin, int64_t end) {
    const Epilogue e{bias, activation, factor,
                     has_residual ? run.at<const float>(residual) : nullptr, residual.row / 4};
    kernels_.multiply_8(run.at<const uint8_t>(codes), codes.row, run.at<const float>(scales),
                        run.count, w, begin, end, run.at<float>(y), y.row / 4, e);
  });
}

void Plan::depthwise(Place x, Place y, const Windows& w, const float* weight, const float* bias) {
  step([=](const Run& run) {
    for (int64_t r = run.first; r < run.first + run.count; r++) {
      const int64_t t0 = r % w.frames * w.stride - w.padding;
      const int64_t first = std::max<int64_t>(0, -t0);
      const int64_t last = std::max(first, std::min(w.taps, w.time - t0));
      const int64_t from = std::min(t0 + first, w.time - 1);
      kernels_.depthwise(run.at<const float>(x, r / w.frames * w.time + from), x.row / 4, first,
                         last, w.channels, weight, bias, run.at<float>(y, r));
    }
  });
}

void Plan::layer_norm(Place x, Place y, int64_t width, const float* weight, const float* bias,
                      float eps) {
  step([=](const Run& run) {
    kernels_.layer_norm(run.at<const float>(x), run.count, width, weight, bias, eps,
                        run.at<float>(y));
  });
}

void Plan::affine(Place x, Place y, int64_t width, Place weight, Place bias, int64_t period,
                  Activation kind) {
  step([=](const Run& run) {
    for (int64_t r = run.first; r < run.first + run.count; r++)
      kernels_.affine(run.at<const float>(x, r), 1, width, run.at<const float>(weight, r / period),
                      run.at<const float>(bias, r / period), kind, run.at<float>(y, r));
  });
}

void Plan::activate(Place x, Place y, int64_t width, Activation kind) {
  step([=](const Run& run) {
    kernels_.activate(run.at<const float>(x), run.count * width, kind, run.at<float>(y));
  });
}

void Plan::glu(Place x, Place y, int64_t width) {
  step([=](const Run& run) {
    kernels_.glu(run.at<const float>(x), run.count, width, run.at<float>(y));
  });
}

void Plan::log_softmax(Place x, Place y, int64_t width) {
  step([=](const Run& run) {
    kernels_.log_softmax(run.at<const float>(x), run.count, width, run.at<float>(y));
  });
}

void Plan::add(Place x, Place y, Place sum, int64_t width, int64_t period) {
  step([=](const Run& run) {
    for (int64_t r = run.first; r < run.first + run.count; r++)
      kernels_.add(run.at<const float>(x, r), run.at<const float>(y, period ? r % period : r),
                   width, run.at<float>(sum, r));
  });
}

void Plan::scale(Place x, Place y, int64_t width, float factor) {
  step([=](const Run& run) {
    kernels_.scale(run.at<const float>(x), run.count * width, factor, run.at<float>(y));
  });
}

void Plan::mask(Place x, Place y, int64_t width, int64_t frames, int64_t each,
                Place lengths) {
  step([=](const Run& run) {
    for (int64_t r = run.first; r < run.first + run.count; r++) {
      auto* to = run.at<float>(y, r);
      const int64_t frame = r / each;
      if (frame % frames < numbers(run, lengths)[frame / frames]) {
        std::memmove(to, run.at<const float>(x, r), 4 * width);
      } else {
        std::memset(to, 0, 4 * width);
      }
    }
  });
}

void Plan::copy(Place x, Place y, int64_t bytes, int64_t frames, int64_t time, int64_t from) {
  step([=](const Run& run) {
    for (int64_t r = run.first; r < run.first + run.count; r++)
      std::memcpy(run.at<uint8_t>(y, r),
                  run.at<const uint8_t>(x, r / frames * time + r % frames + from), bytes);
  });
}

void Plan::lookup(Place ids, Place y, const Matrix& table) {
  step([=, &table](const Run& run) {
    for (int64_t r = run.first; r < run.first + run.count; r++)
      table.row(within(numbers(run, ids)[r], table.n), run.at<float>(y, r));
  });
}

void Plan::lookup_rows(Place ids, Place y, Place table, int64_t size, int64_t bytes) {
  step([=](const Run& run) {
    for (int64_t r = run.first; r < run.first + run.count; r++)
      std::memcpy(run.at<uint8_t>(y, r),
                  run.at<const uint8_t>(table, within(numbers(run, ids)[r], size)), bytes);
  });
}

namespace {

// The part of one head that item `item` has, with queries [from, to).
Attention head_of(const Run& run, const AttentionKernels& kernels, const Heads& h, const Place& q,
                  const Place& k, const Place* v, Place lengths, int64_t item, int64_t head,
                  int64_t from, int64_t to) {
  Attention a{};
  a.width = h.channels / h.heads;
  a.v_width = h.v_channels / h.heads;
  a.q = run.at<const float>(q, item * h.queries + from) + head * a.width;
  a.ldq = q.row / 4;
  a.queries = to - from;
  if (h.packed) {
    a.packed_k = run.at<const uint8_t>(k, item) + head * kernels.key_bytes(h.keys, a.width);
    if (v)
      a.packed_v = run.at<const uint8_t>(*v, item) + head * kernels.value_bytes(h.keys, a.v_width);
  } else {
    a.k = run.at<const float>(k, item * h.keys) + head * a.width;
    a.ldk = k.row / 4;
    if (v) {
      a.v = run.at<const float>(*v, item * h.keys) + head * a.v_width;
      a.ldv = v->row / 4;
    }
  }
  a.causal = h.causal;
  a.first = numbers(run, lengths)[item] + from;
  a.keys = h.causal ? h.keys : length_of(run, lengths, item, h.keys);
  a.room = h.keys;
  a.scratch = run.local;
  return a;
}

}  // namespace

void Plan::attention(Place q, Place k, Place v, Place y, const Heads& h, Place lengths) {
  const AttentionKernels& kernels = h.integer ? kernels_.attention_8 : kernels_.attention;
  stage([=, &kernels](const Run& run) {
    const int64_t share = (h.queries + h.chunks - 1) / h.chunks;
    Pool::shared().run(h.batch * h.heads * h.chunks, [&](int64_t i, int thread) {
      const int64_t chunk = i % h.chunks, head = i / h.chunks % h.heads;
      const int64_t item = i / h.chunks / h.heads;
      const int64_t from = chunk * share, to = std::min(h.queries, from + share);
      if (from >= to) return;
      const Run part = of_thread(run, thread);
      Attention a = head_of(part, kernels, h, q, k, &v, lengths, item, head, from, to);
      a.y = part.at<float>(y, item * h.queries + from) + head * a.v_width;
      a.ldy = y.row / 4;
      kernels.attend(a);
    }, threads_);
  });
}

void Plan::attention_weights(Place q, Place k, Place y, const Heads& h, Place lengths) {
  const AttentionKernels& kernels = h.integer ? kernels_.attention_8 : kernels_.attention;
  stage([=, &kernels](const Run& run) {
    Pool::shared().run(h.batch * h.heads, [&](int64_t i, int thread) {
      const Run part = of_thread(run, thread);
      Attention a = head_of(part, kernels, h, q, k, nullptr, lengths, i / h.heads, i % h.heads, 0,
                            h.queries);
      a.y = part.at<float>(y, i * h.queries);
      a.ldy = h.keys;
      kernels.weights(a, h.keys);
    }, threads_);
  });
}

void Plan::remember(Place x, Place y, const Heads& h, bool values, Place lengths) {
  const AttentionKernels& kernels = h.integer ? kernels_.attention_8 : kernels_.attention;
  stage([=, &kernels](const Run& run) {
    Pool::shared().run(h.batch * h.heads, [&](int64_t i, int) {
      const int64_t item = i / h.heads, head = i % h.heads, width = h.channels / h.heads;
      const int64_t keys = length_of(run, lengths, item, h.keys);
      const int64_t size = (values ? kernels.value_bytes : kernels.key_bytes)(h.keys, width);
      const float* from = run.at<const float>(x, item * h.keys) + head * width;
      (values ? kernels.pack_values : kernels.pack_keys)(
          from, x.row / 4, keys, h.keys, width, run.at<uint8_t>(y, item) + head * size);
    }, threads_);
  });
}

void Plan::moments(Place x, Place scale, Place shift, Place work, int64_t batch, int64_t time,
                   int64_t channels, int64_t groups, const float* weight, const float* bias,
                   float eps, Place lengths) {
  stage([=](const Run& run) {
    const int64_t blocks = round_up(time, kMomentRows) / kMomentRows, per = channels / groups;
    auto* const sums = run.at<double>(work, 0);  // and those of squares: [batch, blocks, 2, channels]
    Pool::shared().run(batch * blocks, [&, this](int64_t i, int) {
      const int64_t item = i / blocks, from = i % blocks * kMomentRows;
      const int64_t to = std::min(length_of(run, lengths, item, time), from + kMomentRows);
      double* const sum = sums + 2 * i * channels;
      std::fill(sum, sum + 2 * channels, 0.0);
      kernels_.moments(run.at<const float>(x, item * time + from), to - from, channels, sum,
                       sum + channels);
    }, threads_);
    for (int64_t item = 0; item < batch; item++) {
      double* const total = sums + 2 * item * blocks * channels;
      for (int64_t block = 1; block < blocks; block++)
        for (int64_t c = 0; c < 2 * channels; c++) total[c] += total[2 * block * channels + c];
      const double count = double(std::max<int64_t>(1, length_of(run, lengths, item, time) * per));
      for (int64_t from = 0; from < channels; from += per) {
        const double* const squares = total + channels + from;
        const double mean = std::accumulate(total + from, total + from + per, 0.0) / count;
        const double square = std::accumulate(squares, squares + per, 0.0) / count;
        // Doubles leave enough of the difference, however far the mean is from zero.
        const float variance = float(std::max(0.0, square - mean * mean));
        const float factor = 1 / std::sqrt(variance + eps);
        for (int64_t c = from; c < from + per; c++) {
          run.at<float>(scale, item)[c] = factor * weight[c];
          run.at<float>(shift, item)[c] = bias[c] - float(mean) * factor * weight[c];
        }
      }
    }
  });
}

void Plan::lstm(Place gates, Place y, Place work, std::array<const Matrix*, 4> weights,
                int64_t batch, int64_t time, int64_t hidden, bool reverse, Place lengths) {
  stage([=](const Run& run) {
    const int64_t wide = round_up(hidden, kernels_.panel), panels = wide / kernels_.panel;
    const int64_t share = (panels + threads_ - 1) / threads_;
    const int64_t size = batch * wide;
    float* const cell = run.at<float>(work, 0);
    float* const states[2] = {cell + size, cell + 2 * size};
    float* const sums = cell + 3 * size;  // [4, batch, wide]
    std::fill(cell, cell + 7 * size, 0.0f);
    for (int64_t item = 0; item < batch; item++)
      for (int64_t t = length_of(run, lengths, item, time); t < time; t++)
        std::memset(run.at<float>(y, item * time + t), 0, 4 * hidden);
    for (int64_t t = 0; t < time; t++) {
      const float* last = states[t % 2];
      float* now = states[1 - t % 2];
      Pool::shared().run(threads_, [&](int64_t i, int) {
        const int64_t begin = i * share, end = std::min(panels, begin + share);
        if (begin >= end) return;
        for (int g = 0; g < 4; g++)
          kernels_.multiply(last, wide, batch, *weights[g], begin, end, sums + g * size, wide, {});
        const int64_t unit = begin * kernels_.panel;
        const int64_t count = std::min(hidden, end * kernels_.panel) - unit;
        for (int64_t item = 0; item < batch; item++) {
          const int64_t length = length_of(run, lengths, item, time);
          if (t >= length) continue;
          const int64_t frame = item * time + (reverse ? length - 1 - t : t);
          float* gate[4];
          for (int g = 0; g < 4; g++) {
            gate[g] = sums + g * size + item * wide + unit;
            kernels_.add(gate[g], run.at<const float>(gates, frame) + g * hidden + unit, count,
                         gate[g]);
          }
          float* state = now + item * wide + unit;
          kernels_.lstm(gate[0], gate[1], gate[2], gate[3], count, cell + item * wide + unit,
                        state);
          std::memcpy(run.at<float>(y, frame) + unit, state, 4 * count);
        }
      }, threads_);
    }
  });
}

void Plan::write(Place cache, Place x, Place starts, int64_t batch, int64_t time,
                 int64_t capacity, int64_t bytes) {
  stage([=](const Run& run) {
    for (int64_t item = 0; item < batch; item++)
      for (int64_t t = 0; t < time; t++)
        std::memcpy(run.at<uint8_t>(
                        cache, item * capacity + within(numbers(run, starts)[item] + t, capacity)),
                    run.at<const uint8_t>(x, item * time + t), bytes);
  });
}

void Plan::lengths(Place x, Place y, int64_t size, int64_t add, int64_t divide, int64_t plus,
                   int64_t times) {
  stage([=](const Run& run) {
    for (int64_t i = 0; i < size; i++) {
      const int64_t n = numbers(run, x)[i] + add;
      const int64_t quotient = n / divide - (n % divide < 0);
      run.at<int64_t>(y, 0)[i] = std::max<int64_t>(0, quotient + plus) * times;
    }
  });
}

void Plan::positions(Place starts, Place y, int64_t size, int64_t count) {
  stage([=](const Run& run) {
    for (int64_t i = 0; i < size; i++)
      for (int64_t j = 0; j < count; j++)
        run.at<int64_t>(y, 0)[i * count + j] = numbers(run, starts)[i] + j;
  });
}

}  // namespace tynda

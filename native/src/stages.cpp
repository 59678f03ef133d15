#include "stages.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "threads.h"

namespace tynda {
namespace {

// The number of rows that a task of `Moments` sums. It does not depend on the number of threads, so
// that the result does not either.
constexpr int64_t kMomentsRows = 256;

void check_attention(const Check& c, const AttentionShape& h, const View& q, const View& k,
                 const View& lengths) {
  c.require(h.heads > 0 && h.channels % h.heads == 0 && h.v_channels % h.heads == 0,
         "channels do not divide into heads");
  // These products throw where sizes of scratch memory could overflow.
  times(times(h.batch, h.heads), times(h.queries, h.keys)), times(h.keys, h.channels);
  times(h.keys, h.v_channels);
  c.floats(q, times(h.batch, h.queries), h.channels);
  if (h.packed) {
    c.bytes(k, h.batch, Packed{h.heads, h.keys, h.channels, false, h.integer}.bytes(c.kernels));
  } else {
    c.floats(k, times(h.batch, h.keys), h.channels);
  }
  c.integers(lengths, h.batch);
}

// The kernel's arguments for one head of an item and its queries [from, to).
Attention attention_of_head(const Run& run, const AttentionShape& h, const View& q, const View& k,
                            const View* v, const View& lengths, int64_t item, int64_t head,
                            int64_t from, int64_t to) {
  const AttentionKernels& kernels = h.of(*run.kernels);
  Attention a{};
  a.width = h.channels / h.heads;
  a.v_width = h.v_channels / h.heads;
  a.q = run.floats(q, item * h.queries + from) + head * a.width;
  a.ldq = q.row / 4;
  a.queries = to - from;
  if (h.packed) {
    a.packed_k = run.at<const uint8_t>(k, item) + head * kernels.key_bytes(h.keys, a.width);
    if (v)
      a.packed_v = run.at<const uint8_t>(*v, item) + head * kernels.value_bytes(h.keys, a.v_width);
  } else {
    a.k = run.floats(k, item * h.keys) + head * a.width;
    a.ldk = k.row / 4;
    if (v) {
      a.v = run.floats(*v, item * h.keys) + head * a.v_width;
      a.ldv = v->row / 4;
    }
  }
  a.causal = h.causal;
  a.first = run.length(lengths, item, h.keys) + from;
  a.keys = h.causal ? h.keys : run.length(lengths, item, h.keys);
  a.capacity = h.keys;
  a.scratch = run.local;
  return a;
}

}  // namespace

void Attend::check(const Check& c) const {
  check_attention(c, shape, q, k, lengths);
  const AttentionShape& h = shape;
  if (h.packed) {
    c.bytes(v, h.batch, Packed{h.heads, h.keys, h.v_channels, true, h.integer}.bytes(c.kernels));
  } else {
    c.floats(v, times(h.batch, h.keys), h.v_channels);
  }
  c.floats(y, times(h.batch, h.queries), h.v_channels);
}

// The chunks of all heads should divide evenly between the threads. Each chunk packs the keys
// again, so that it must have enough queries.
void Attend::settle(const AttentionKernels& own, const Kernels& kernels, int threads) {
  const AttentionShape& h = shape;
  const int64_t max_chunks = std::max<int64_t>(1, h.queries / (8 * kernels.tile));
  chunks = h.batch * h.heads % threads == 0 ? 1 : std::min<int64_t>(threads, max_chunks);
  scratch = own.scratch(round_up(h.queries, chunks) / chunks, h.keys, h.channels / h.heads,
                        h.v_channels / h.heads, h.packed);
}

void Attend::settle(const Kernels& kernels, int threads) {
  settle(shape.of(kernels), kernels, threads);
}

template <class Each>
void Attend::each_chunk(const Run& run, Each attend) const {
  const AttentionShape& h = shape;
  const int64_t share = (h.queries + chunks - 1) / chunks;
  const auto part = [&](int64_t i, int thread) {
    const int64_t chunk = i % chunks, head = i / chunks % h.heads, item = i / chunks / h.heads;
    const int64_t from = chunk * share, to = std::min(h.queries, from + share);
    if (from >= to) return;
    const Run own = run.for_thread(thread);
    Attention a = attention_of_head(own, h, q, k, &v, lengths, item, head, from, to);
    if (log_counts) a.log_counts = own.floats(log_counts, item);
    if (window) a.window = true, a.first = from, a.before = before, a.after = after;
    a.y = own.at<float>(y, item * h.queries + from) + head * a.v_width;
    a.ldy = y.row / 4;
    attend(a, head, from);
  };
  Pool::shared().run(h.batch * h.heads * chunks, part, run.threads);
}

void CountedAttend::check(const Check& c) const {
  c.floats(log_counts, shape.batch, shape.keys);
  Attend::check(c);
}

void WindowAttend::check(const Check& c) const {
  c.require(!shape.causal && shape.queries == shape.keys,
            "window attention has other queries than keys");
  Attend::check(c);
}

void Attend::run(const Run& run) const {
  const AttentionKernels& own = shape.of(*run.kernels);
  each_chunk(run, [&](const Attention& a, int64_t, int64_t) { own.attend(a); });
}

void RelativeAttend::check(const Check& c) const {
  Attend::check(c);
  c.require(shape.queries == shape.keys, "relative attention has other queries than keys");
  c.floats(encoding, shape.keys ? 2 * shape.keys - 1 : 0, shape.channels);
  c.floats(content_bias, 1, shape.channels);
  c.floats(position_bias, 1, shape.channels);
}

void RelativeAttend::settle(const Kernels& kernels, int threads) {
  Attend::settle(kernels.relative_attention, kernels, threads);
}

void RelativeAttend::run(const Run& run) const {
  each_chunk(run, [&](Attention a, int64_t head, int64_t from) {
    a.encoding = run.floats(encoding) + head * a.width;
    a.ld_encoding = encoding.row / 4;
    a.content_bias = run.floats(content_bias) + head * a.width;
    a.position_bias = run.floats(position_bias) + head * a.width;
    a.origin = shape.keys - 1 - from;
    run.kernels->relative_attention.attend(a);
  });
}

void AttentionWeights::check(const Check& c) const {
  check_attention(c, shape, q, k, lengths);
  c.dense(y, times(times(shape.batch, shape.heads), shape.queries), shape.keys);
}

void AttentionWeights::settle(const Kernels& kernels, int) {
  const AttentionShape& h = shape;
  scratch = h.of(kernels).scratch(h.queries, h.keys, h.channels / h.heads, h.v_channels / h.heads,
                                  h.packed);
}

void AttentionWeights::run(const Run& run) const {
  const AttentionShape& h = shape;
  const auto part = [&](int64_t i, int thread) {
    const Run own = run.for_thread(thread);
    Attention a = attention_of_head(own, h, q, k, nullptr, lengths, i / h.heads, i % h.heads, 0,
                                    h.queries);
    a.y = own.at<float>(y, i * h.queries);
    a.ldy = h.keys;
    h.of(*run.kernels).weights(a, h.keys);
  };
  Pool::shared().run(h.batch * h.heads, part, run.threads);
}

int64_t Packed::head_bytes(const Kernels& kernels) const {
  if (heads < 1 || channels % heads)
    throw std::invalid_argument("channels do not divide into heads");
  times(times(keys + 256, channels), 4);  // throws where sizes could overflow
  const AttentionKernels& of = integer ? kernels.attention_8 : kernels.attention;
  return (values ? of.value_bytes : of.key_bytes)(keys, channels / heads);
}

void PackKV::check(const Check& c) const {
  c.floats(x, times(batch, form.keys), form.channels);
  c.bytes(y, batch, form.bytes(c.kernels));
  c.integers(lengths, batch);
}

void PackKV::run(const Run& run) const {
  const Kernels& kernels = *run.kernels;
  const AttentionKernels& of = form.integer ? kernels.attention_8 : kernels.attention;
  const int64_t width = form.channels / form.heads, size = form.head_bytes(kernels);
  const auto part = [&](int64_t i, int) {
    const int64_t item = i / form.heads, head = i % form.heads;
    const float* from = run.floats(x, item * form.keys) + head * width;
    (form.values ? of.pack_values : of.pack_keys)(
        from, x.row / 4, run.length(lengths, item, form.keys), form.keys, width,
        run.at<uint8_t>(y, item) + head * size);
  };
  Pool::shared().run(batch * form.heads, part, run.threads);
}

namespace {

int64_t sums_bytes(int64_t batch, int64_t time, int64_t channels) {
  return batch * (round_up(time, kMomentsRows) / kMomentsRows) * 2 * channels *
         int64_t(sizeof(double));
}

// Computes the sums and the sums of squares of each channel over the frames of x [batch, time,
// channels] within `lengths`, in `work`; returns those of an item [2, channels] by its number.
auto sums_of(const Run& run, const View& x, const View& lengths, const View& work, int64_t batch,
             int64_t time, int64_t channels) {
  const int64_t blocks = round_up(time, kMomentsRows) / kMomentsRows;
  // [batch, blocks, 2, channels], which are added up in the first block.
  auto* const sums = run.at<double>(work, 0);
  const auto part = [&](int64_t i, int) {
    const int64_t item = i / blocks, from = i % blocks * kMomentsRows;
    const int64_t to = std::min(run.length(lengths, item, time), from + kMomentsRows);
    double* const sum = sums + 2 * i * channels;
    std::fill(sum, sum + 2 * channels, 0.0);
    run.kernels->moments(run.floats(x, item * time + from), to - from, channels, sum,
                         sum + channels);
  };
  Pool::shared().run(batch * blocks, part, run.threads);
  for (int64_t item = 0; item < batch; item++) {
    double* const total = sums + 2 * item * blocks * channels;
    for (int64_t block = 1; block < blocks; block++)
      for (int64_t c = 0; c < 2 * channels; c++) total[c] += total[2 * block * channels + c];
  }
  return [=](int64_t item) -> const double* { return sums + 2 * item * blocks * channels; };
}

}  // namespace

void Moments::check(const Check& c) const {
  c.require(groups > 0 && channels % groups == 0, "channels do not divide into groups");
  times(times(batch, round_up(time, kMomentsRows)), times(channels, 16));
  c.dense(x, times(batch, time), channels);
  c.integers(lengths, batch);
  c.floats(weight, 1, channels);
  c.floats(bias, 1, channels);
  c.floats(scale, batch, channels);
  c.floats(shift, batch, channels);
}

void Moments::settle(const Kernels&, int) { work_bytes = sums_bytes(batch, time, channels); }

void Moments::run(const Run& run) const {
  if (time == 0) return;
  const int64_t group_channels = channels / groups;
  const auto sums = sums_of(run, x, lengths, work, batch, time, channels);
  const float *const factors = run.floats(weight), *const offsets = run.floats(bias);
  for (int64_t item = 0; item < batch; item++) {
    const double* const total = sums(item);
    const double count =
        double(std::max<int64_t>(1, run.length(lengths, item, time) * group_channels));
    for (int64_t from = 0; from < channels; from += group_channels) {
      const double* const squares = total + channels + from;
      const double mean = std::accumulate(total + from, total + from + group_channels, 0.0) / count;
      const double square = std::accumulate(squares, squares + group_channels, 0.0) / count;
      // In double precision, the difference is accurate even where the mean is far from zero.
      const float variance = float(std::max(0.0, square - mean * mean));
      const float factor = 1 / std::sqrt(variance + eps);
      for (int64_t c = from; c < from + group_channels; c++) {
        run.at<float>(scale, item)[c] = factor * factors[c];
        run.at<float>(shift, item)[c] = offsets[c] - float(mean) * factor * factors[c];
      }
    }
  }
}

void Statistics::check(const Check& c) const {
  times(times(batch, round_up(time, kMomentsRows)), times(channels, 16));
  c.dense(x, times(batch, time), channels);
  c.integers(lengths, batch);
  c.floats(y, batch, times(2, channels));
}

void Statistics::settle(const Kernels&, int) { work_bytes = sums_bytes(batch, time, channels); }

void Statistics::run(const Run& run) const {
  const auto sums = sums_of(run, x, lengths, work, batch, time, channels);
  for (int64_t item = 0; item < batch; item++) {
    const double frames = double(run.length(lengths, item, time));
    const double* const total = sums(item);
    float* const to = run.at<float>(y, item);
    for (int64_t c = 0; c < channels; c++) {
      const double mean = frames > 0 ? total[c] / frames : 0;
      const double square = frames > 0 ? total[channels + c] - frames * mean * mean : 0;
      to[c] = float(mean);
      to[channels + c] = float(
          std::sqrt(std::max(0.0, square) / std::max(1.0, frames - 1) + double(eps)));
    }
  }
}

void Lstm::check(const Check& c) const {
  for (const Weight& w : weights)
    c.require(c.shape(w).bits == 32 && c.shape(w).n == hidden && c.shape(w).k == hidden,
           "an LSTM's weights do not fit its states");
  times(times(7, batch), times(round_up(hidden, c.kernels.panel), 4));
  c.floats(gates, times(batch, time), times(4, hidden));
  c.integers(lengths, batch);
  c.floats(y, times(batch, time), hidden);
}

void Lstm::settle(const Kernels& kernels, int) {
  work_bytes = 7 * batch * round_up(hidden, kernels.panel) * int64_t(sizeof(float));
}

void Lstm::run(const Run& run) const {
  const Kernels& kernels = *run.kernels;
  const int64_t padded_hidden = round_up(hidden, kernels.panel);
  const int64_t panels = padded_hidden / kernels.panel;
  const int64_t share = (panels + run.threads - 1) / run.threads, size = batch * padded_hidden;
  float* const cell = run.at<float>(work, 0);
  float* const states[2] = {cell + size, cell + 2 * size};
  float* const sums = cell + 3 * size;  // [4, batch, padded hidden]
  std::fill(cell, cell + 7 * size, 0.0f);
  for (int64_t item = 0; item < batch; item++)
    for (int64_t t = run.length(lengths, item, time); t < time; t++)
      std::memset(run.at<float>(y, item * time + t), 0, 4 * hidden);
  for (int64_t t = 0; t < time; t++) {
    const float* last = states[t % 2];
    float* next = states[1 - t % 2];
    const auto part = [&](int64_t i, int) {
      const int64_t begin = i * share, end = std::min(panels, begin + share);
      if (begin >= end) return;
      for (int g = 0; g < 4; g++)
        kernels.matmul(last, padded_hidden, batch, *weights[g].matrix, begin, end, sums + g * size,
                       padded_hidden, {});
      const int64_t unit = begin * kernels.panel;
      const int64_t count = std::min(hidden, end * kernels.panel) - unit;
      for (int64_t item = 0; item < batch; item++) {
        const int64_t length = run.length(lengths, item, time);
        if (t >= length) continue;
        const int64_t frame = item * time + (reverse ? length - 1 - t : t);
        float* gate[4];
        for (int g = 0; g < 4; g++) {
          gate[g] = sums + g * size + item * padded_hidden + unit;
          kernels.add(gate[g], run.floats(gates, frame) + g * hidden + unit, count, gate[g]);
        }
        float* state = next + item * padded_hidden + unit;
        kernels.lstm(gate[0], gate[1], gate[2], gate[3], count, cell + item * padded_hidden + unit,
                     state);
        std::memcpy(run.at<float>(y, frame) + unit, state, 4 * count);
      }
    };
    Pool::shared().run(run.threads, part, run.threads);
  }
}

void Write::check(const Check& c) const {
  c.bytes(cache, times(batch, capacity), bytes);
  c.bytes(x, times(batch, time), bytes);
  c.integers(starts, batch);
}

void Write::run(const Run& run) const {
  for (int64_t item = 0; item < batch; item++)
    for (int64_t t = 0; t < time; t++)
      std::memcpy(run.at<uint8_t>(cache, item * capacity + checked_index(run.integers(starts)[item] + t,
                                                                  capacity)),
                  run.at<const uint8_t>(x, item * time + t), bytes);
}

void Lengths::check(const Check& c) const {
  c.require(divide > 0, "lengths are divided by 0");
  c.integers(x, size);
  c.integers(y, size);
}

void Lengths::run(const Run& run) const {
  for (int64_t i = 0; i < size; i++) {
    const int64_t n = run.integers(x)[i] + add;
    const int64_t quotient = n / divide - (n % divide < 0);
    run.at<int64_t>(y, 0)[i] = std::max<int64_t>(0, quotient + plus) * times;
  }
}

void Positions::check(const Check& c) const {
  c.integers(starts, size);
  c.integers(y, tynda::times(size, count));
}

void Positions::run(const Run& run) const {
  for (int64_t i = 0; i < size; i++)
    for (int64_t j = 0; j < count; j++)
      run.at<int64_t>(y, 0)[i * count + j] = run.integers(starts)[i] + j;
}

}  // namespace tynda

// Operations of plans that cannot be fused: they combine rows, or compute a few integers.
#pragma once
#include "record.h"

namespace tynda {

// The base of operations that are a stage of their own.
struct Standalone {
  static constexpr bool kFusible = false, kEarly = false;
  // Sets the sizes that depend on the processor: `work`, `scratch` and `chunks`.
  void settle(const Kernels&, int) {}
};

// The base of operations on lengths and positions, which run before all others so that they do not
// interrupt fused stages.
struct Early : Standalone {
  static constexpr bool kEarly = true;
};

// The sizes of attention, and which kernels compute it.
struct AttentionShape {
  int64_t batch, heads, queries, keys, channels, v_channels;
  bool causal = false;   // `lengths` is then the position of each item's first query
  bool integer = false;  // whether its products are in 8 bits
  bool packed = false;   // whether keys and values come from `pack_kv`

  template <class F>
  void sizes(F& f) {
    f.number("batch", batch), f.number("heads", heads), f.number("queries", queries);
    f.number("keys", keys), f.number("channels", channels), f.number("v_channels", v_channels);
  }
  template <class F>
  void fields(F& f) {
    sizes(f), f.flag("causal", causal), f.flag("integer", integer), f.flag("packed", packed);
  }
  const AttentionKernels& of(const Kernels& kernels) const {
    return integer ? kernels.attention_8 : kernels.attention;
  }
};

// y [batch, queries, v_channels]; `lengths` [batch].
struct Attend : Standalone {
  static constexpr const char* kName = "attention";
  View q, k, v, lengths, y;
  View log_counts;      // see `CountedAttend`
  AttentionShape shape;
  bool window = false;  // see `WindowAttend`
  int64_t before = 0, after = 0;
  int64_t chunks = 1;   // the number of tasks into which the queries of a head are divided
  int64_t scratch = 0;  // bytes for each thread

  void settle(const AttentionKernels& own, const Kernels& kernels, int threads);
  // Calls attend(arguments, head, first query) for each chunk of queries of each head.
  template <class Each>
  void each_chunk(const Run& run, Each attend) const;
  template <class F>
  void fields(F& f) {
    shape.fields(f), f.view("q", q, Use::whole), f.view("k", k, Use::whole);
    f.view("v", v, Use::whole), f.view("lengths", lengths, Use::whole);
    f.view("y", y, Use::result), f.scratch(scratch);
  }
  void check(const Check& c) const;
  void settle(const Kernels& kernels, int threads);
  void run(const Run& run) const;
};

// Attention to keys that each stand for several: `log_counts` [batch, keys] are added to the scores.
struct CountedAttend : Attend {
  static constexpr const char* kName = "counted_attention";

  template <class F>
  void fields(F& f) {
    f.view("log_counts", log_counts, Use::whole), Attend::fields(f);
  }
  void check(const Check& c) const;
};

// Self-attention of query i to keys i - before to i + after.
struct WindowAttend : Attend {
  static constexpr const char* kName = "window_attention";

  template <class F>
  void fields(F& f) {
    f.number("before", before), f.number("after", after), Attend::fields(f);
  }
  void check(const Check& c) const;
  void settle(const Kernels& kernels, int threads) {
    window = true;
    Attend::settle(kernels, threads);
  }
};

// Relative attention with an encoding [2 keys - 1, channels] and biases [channels].
struct RelativeAttend : Attend {
  static constexpr const char* kName = "relative_attention";
  View encoding, content_bias, position_bias;

  template <class F>
  void fields(F& f) {
    shape.sizes(f), f.view("q", q, Use::whole), f.view("k", k, Use::whole);
    f.view("v", v, Use::whole), f.view("encoding", encoding, Use::whole);
    f.view("content_bias", content_bias, Use::whole);
    f.view("position_bias", position_bias, Use::whole);
    f.view("lengths", lengths, Use::whole), f.view("y", y, Use::result), f.scratch(scratch);
  }
  void check(const Check& c) const;
  void settle(const Kernels& kernels, int threads);
  void run(const Run& run) const;
};

// y [batch, heads, queries, keys].
struct AttentionWeights : Standalone {
  static constexpr const char* kName = "attention_weights";
  View q, k, lengths, y;
  AttentionShape shape;
  int64_t scratch = 0;

  template <class F>
  void fields(F& f) {
    shape.fields(f), f.view("q", q, Use::whole), f.view("k", k, Use::whole);
    f.view("lengths", lengths, Use::whole), f.view("y", y, Use::result), f.scratch(scratch);
  }
  void check(const Check& c) const;
  void settle(const Kernels& kernels, int threads);
  void run(const Run& run) const;
};

// The sizes of keys or values [batch, keys, channels] in the layout of the attention kernels.
struct Packed {
  int64_t heads = 0, keys = 0, channels = 0;
  bool values = false, integer = false;

  template <class F>
  void fields(F& f) {
    f.number("heads", heads), f.number("keys", keys), f.number("channels", channels);
    f.flag("values", values), f.flag("integer", integer);
  }
  // The bytes of one head, and of all heads of an item.
  int64_t head_bytes(const Kernels& kernels) const;
  int64_t bytes(const Kernels& kernels) const { return times(heads, head_bytes(kernels)); }
};

// Packs keys or values; each item becomes a row of y.
struct PackKV : Standalone {
  static constexpr const char* kName = "pack_kv";
  View x, lengths, y;
  int64_t batch;
  Packed form;

  template <class F>
  void fields(F& f) {
    f.number("batch", batch), form.fields(f), f.view("x", x, Use::whole);
    f.view("lengths", lengths, Use::whole), f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// The statistics of a group norm of x [batch, time, channels], as scale = weight / sqrt(variance +
// eps) and shift = bias - mean * scale, both [batch, channels].
struct Moments : Standalone {
  static constexpr const char* kName = "moments";
  View x, lengths, weight, bias, scale, shift, work;
  int64_t batch, time, channels, groups;
  int64_t work_bytes = 0;
  float eps;

  template <class F>
  void fields(F& f) {
    f.number("batch", batch), f.number("time", time), f.number("channels", channels);
    f.number("groups", groups), f.real("eps", eps), f.view("x", x, Use::whole);
    f.view("lengths", lengths, Use::whole), f.view("weight", weight, Use::whole);
    f.view("bias", bias, Use::whole), f.view("scale", scale, Use::result);
    f.view("shift", shift, Use::result), f.work(work, work_bytes);
  }
  void check(const Check& c) const;
  void settle(const Kernels& kernels, int threads);
  void run(const Run& run) const;
};

// The mean of each channel over the frames of x [batch, time, channels], then the square roots of
// the unbiased variances plus eps: y [batch, 2 channels].
struct Statistics : Standalone {
  static constexpr const char* kName = "statistics";
  View x, lengths, y, work;
  int64_t batch, time, channels;
  int64_t work_bytes = 0;
  float eps;

  template <class F>
  void fields(F& f) {
    f.number("batch", batch), f.number("time", time), f.number("channels", channels);
    f.real("eps", eps), f.view("x", x, Use::whole), f.view("lengths", lengths, Use::whole);
    f.view("y", y, Use::result), f.work(work, work_bytes);
  }
  void check(const Check& c) const;
  void settle(const Kernels& kernels, int threads);
  void run(const Run& run) const;
};

// The recurrent part of an LSTM. gates [batch, time, 4 hidden] are the contributions of the inputs;
// the weights [hidden, hidden] of the gates are those of the hidden state.
struct Lstm : Standalone {
  static constexpr const char* kName = "lstm";
  View gates, lengths, y, work;
  Weight weights[4];
  int64_t batch, time, hidden;
  int64_t work_bytes = 0;
  bool reverse;

  template <class F>
  void fields(F& f) {
    f.number("batch", batch), f.number("time", time), f.number("hidden", hidden);
    f.flag("reverse", reverse), f.view("gates", gates, Use::whole);
    f.view("lengths", lengths, Use::whole);
    for (int g = 0; g < 4; g++) f.weight(std::string(1, "ifgo"[g]), weights[g]);
    f.view("y", y, Use::result), f.work(work, work_bytes);
  }
  void check(const Check& c) const;
  void settle(const Kernels& kernels, int threads);
  void run(const Run& run) const;
};

// Writes the rows of x [batch, time] to cache [batch, capacity], from row starts[item] on.
struct Write : Standalone {
  static constexpr const char* kName = "write";
  View x, starts, cache;
  int64_t batch, time, capacity, bytes;

  template <class F>
  void fields(F& f) {
    f.number("batch", batch), f.number("time", time), f.number("capacity", capacity);
    f.number("bytes", bytes), f.view("x", x, Use::whole), f.view("starts", starts, Use::whole);
    f.view("cache", cache, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// y = max(0, floor((x + add) / divide) + plus) * times.
struct Lengths : Early {
  static constexpr const char* kName = "lengths";
  View x, y;
  int64_t size, add, divide, plus, times;

  template <class F>
  void fields(F& f) {
    f.number("size", size), f.integer("add", add), f.number("divide", divide);
    f.number("plus", plus), f.number("times", times), f.view("x", x, Use::whole);
    f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

// y [size, count]: consecutive positions from each start on.
struct Positions : Early {
  static constexpr const char* kName = "positions";
  View starts, y;
  int64_t size, count;

  template <class F>
  void fields(F& f) {
    f.number("size", size), f.number("count", count), f.view("starts", starts, Use::whole);
    f.view("y", y, Use::result);
  }
  void check(const Check& c) const;
  void run(const Run& run) const;
};

}  // namespace tynda

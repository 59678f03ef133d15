// Tests of plans: that several threads may run one, and that none leaves its memory.
#include <stdexcept>
#include <thread>

#include "check.h"
#include "pack.h"
#include "program.h"
#include "threads.h"

namespace tynda::test {
namespace {

constexpr int64_t kRows = 37, kWidth = 20, kWide = 512, kCells = 40;

// Small parts of a model, of each kind of stage.
constexpr const char* kPlan = R"(tynda-plan 2
argument x 37 80
argument lengths 1 8
argument ids 37 8
argument y 37 2048
argument states 37 160
argument found 37 192
constant bias 1 2048
constant taps 3 80
buffer count 1 8
lengths size=1 add=2 divide=1 plus=0 times=1 x=lengths y=count
buffer places 37 8
positions size=1 count=37 starts=lengths y=places
buffer masked 37 80
mask rows=37 width=20 frames=37 frame_rows=1 x=x lengths=count y=masked
buffer normal 37 80
layer_norm rows=37 width=20 x=masked weight=bias bias=bias eps=1e-05 y=normal
buffer hidden 37 192
matrix up up 0 48 20 32 0
matmul rows=37 overlapping=0 x=normal weight=up bias=bias activation=gelu factor=1 residual=- y=hidden
buffer codes 37 48
buffer roundings 37 8
quantize rows=37 width=48 depth=48 overlapping=0 x=hidden codes=codes roundings=roundings
buffer z 37 80
matrix down down 0 20 48 8 0
matmul_8 rows=37 x=codes roundings=roundings weight=down bias=- activation=none factor=0.5 residual=masked y=z
buffer mixed 37 80
attention batch=1 heads=2 queries=37 keys=37 channels=20 v_channels=20 causal=0 integer=0 packed=0 q=z k=z v=z lengths=count y=mixed
buffer table 37 16
rotary_table rows=37 count=37 width=4 base=10000 starts=lengths y=table
buffer turned 37 80
rotary rows=37 width=20 heads=2 rotary_width=4 x=mixed table=table y=turned
window_attention before=3 after=1 batch=1 heads=2 queries=37 keys=37 channels=20 v_channels=20 causal=0 integer=0 packed=0 q=turned k=turned v=mixed lengths=count y=z
layer_norm rows=37 width=20 x=z weight=bias bias=- eps=1e-05 y=mixed
buffer kept 1 keys 2 37 20 8
pack_kv batch=1 heads=2 keys=37 channels=20 values=0 integer=1 x=z lengths=count y=kept
buffer held 1 values 2 37 20 8
pack_kv batch=1 heads=2 keys=37 channels=20 values=1 integer=1 x=z lengths=count y=held
attention batch=1 heads=2 queries=37 keys=37 channels=20 v_channels=20 causal=0 integer=1 packed=1 q=mixed k=kept v=held lengths=count y=z
buffer weighed 74 148
attention_weights batch=1 heads=2 queries=37 keys=37 channels=20 v_channels=20 causal=0 integer=0 packed=0 q=z k=z lengths=count y=weighed
buffer factor 1 80
buffer moved 1 80
moments batch=1 time=37 channels=20 groups=20 eps=1e-05 x=mixed lengths=count weight=bias bias=bias scale=factor shift=moved
affine rows=37 width=20 period=37 x=mixed weight=factor bias=moved activation=relu y=z
buffer pooled 1 160
statistics batch=1 time=37 channels=20 eps=1e-07 x=z lengths=count y=pooled
buffer swept 37 80
depthwise rows=37 time=37 bins=1 channels=20 first_channel=0 used_channels=20 frames=37 frame_bins=1 taps=3 taps_bins=1 stride=1 stride_bins=1 padding=1 padding_bins=0 x=z weight=taps bias=bias y=swept
buffer away 73 80
relative_encoding rows=73 width=20 y=away
relative_attention batch=1 heads=2 queries=37 keys=37 channels=20 v_channels=20 q=z k=swept v=z encoding=away content_bias=bias position_bias=bias lengths=count y=mixed
buffer narrow 57 16
depthwise rows=57 time=37 bins=5 channels=4 first_channel=0 used_channels=4 frames=19 frame_bins=3 taps=3 taps_bins=2 stride=2 stride_bins=2 padding=1 padding_bins=1 x=mixed weight=bias bias=bias y=narrow
buffer seen 19 240
im2col rows=19 time=37 bins=1 channels=20 first_channel=0 used_channels=20 frames=19 frame_bins=1 taps=3 taps_bins=1 stride=2 stride_bins=1 padding=1 padding_bins=0 x=swept y=seen
buffer half 19 80
matrix wide wide 0 20 60 32 0
matmul rows=19 overlapping=0 x=seen weight=wide bias=- activation=silu factor=1 residual=- y=half
buffer again 37 80
copy rows=19 bytes=80 frames=19 time=19 start=0 x=half y=again
buffer gated 37 40
glu rows=37 width=10 x=swept y=gated
activate rows=37 width=10 activation=silu x=gated y=gated
swiglu rows=37 width=10 x=swept y=gated
activate rows=37 width=10 activation=tanh x=gated y=gated
activate rows=37 width=10 activation=asinh x=gated y=gated
scale rows=37 width=10 factor=0.5 x=gated y=gated
buffer sum 37 80
add rows=37 width=20 period=0 x=z y=swept sum=sum
add rows=37 width=20 period=5 x=sum y=again+0 sum=sum
write batch=1 time=3 capacity=37 bytes=80 x=sum/80 starts=lengths cache=again
matrix out out 0 512 20 32 0
matmul rows=37 overlapping=0 x=sum weight=out bias=bias activation=none factor=1 residual=- y=y
log_softmax rows=37 width=512 x=y y=y
buffer gates 37 640
matrix gates gates 0 160 20 32 0
matmul rows=37 overlapping=0 x=z weight=gates bias=- activation=none factor=1 residual=- y=gates
matrix i r 0 40 40 32 0
matrix f r 40 40 40 32 0
lstm batch=1 time=37 hidden=40 reverse=1 gates=gates lengths=count i=i f=f g=i o=f y=states
lookup rows=37 ids=ids table=down y=found
buffer picked 37 80
lookup_rows rows=37 size=19 ids=ids table=half y=picked
result y
result states
)";

// A program with numbers for all that it reads.
struct Model {
  Layout layout;
  Program program;

  Model(const std::string& text, const Kernels& kernels, int threads)
      : layout(Plan::parse(text), kernels, threads), program(make(layout)) {}

  static Program make(const Layout& layout) {
    Random random(7);
    std::vector<SharedBytes> constants;
    for (const int64_t bytes : layout.constant_bytes) {
      Bytes memory = aligned_bytes(bytes);
      for (int64_t i = 0; i + 4 <= bytes; i += 4) {
        const float number = random.number();
        std::memcpy(memory.get() + i, &number, 4);
      }
      constants.emplace_back(memory.release(), AlignedDelete());
    }
    std::vector<std::shared_ptr<const Matrix>> matrices;
    for (const Shape& s : layout.weights) {
      auto matrix = std::make_shared<Matrix>(layout.kernels, s.n, s.k, s.bits, s.group);
      const Floats numbers(s.n * s.k, random, 0.3f);
      if (s.bits == 32) pack_float32(*matrix, 0, s.n, numbers.begin());
      if (s.bits == 8) pack_rounded(*matrix, layout.kernels, 0, s.n, numbers.begin());
      matrices.push_back(matrix);
    }
    return Program(layout, std::move(constants), layout.constant_bytes, std::move(matrices));
  }
};

constexpr int64_t kAfter = 64 * kGuard;  // as far as a thread too many would reach

// A program's memory and what goes in and out.
struct Call {
  std::vector<Buffer<uint8_t>> arguments;
  int64_t bytes;
  Bytes memory;

  Call(const Layout& layout, uint32_t seed)
      : bytes(layout.bytes()), memory(aligned_bytes(bytes + kAfter)) {
    Random random(seed);
    arguments.reserve(layout.argument_bytes.size());
    for (const int64_t size : layout.argument_bytes) {
      Buffer<uint8_t>& argument = arguments.emplace_back(size);
      const bool numbers = arguments.size() != 2 && arguments.size() != 3;
      for (int64_t i = 0; i + 8 <= size; i += 8) {
        const float pair[] = {random.number(), random.number()};
        const int64_t small = arguments.size() == 2 ? 30 : random.below(19);
        std::memcpy(argument.begin() + i, numbers ? (const void*)pair : &small, 8);
      }
    }
    std::memset(memory.get(), kUntouched, bytes + kAfter);
  }
  Buffer<uint8_t>& ids() { return arguments[2]; }
  void run(const Program& program) {
    std::vector<uint8_t*> pointers;
    for (auto& argument : arguments) pointers.push_back(argument.begin());
    program.run(memory.get(), pointers.data());
  }
  void stayed_within() const {
    bool untouched = true;
    for (int64_t i = 0; i < kAfter; i++) untouched &= memory[bytes + i] == kUntouched;
    expect(untouched, "memory past the program's was written to");
  }
  void same_as(const Call& other) const {
    stayed_within();
    for (size_t i = 0; i < arguments.size(); i++) same(arguments[i], other.arguments[i]);
  }
};

void threads_do_not_change_a_bit(const Kernels& kernels) {
  const Model one(kPlan, kernels, 1), three(kPlan, kernels, 3);
  shift = 0;
  std::vector<Call> alone;
  alone.reserve(2);
  for (uint32_t seed = 0; seed < 2; seed++) {
    alone.emplace_back(one.layout, seed).run(one.program);
    const auto& y = alone.back().arguments[3];
    for (int64_t i = 0; i < y.size(); i += 4) {
      float number;
      std::memcpy(&number, y.begin() + i, 4);
      if (!std::isfinite(number)) return expect(false, "not a number");
    }
  }
  at("plan of three threads");
  Pool::shared().grow(3);
  Call together(three.layout, 0);
  for (int i = 0; i < 30; i++) together.run(three.program);
  together.same_as(alone[0]);

#if !defined(TYNDA_WASM)  // which has no threads
  at("plan run by two at once");
  Call calls[] = {Call(three.layout, 0), Call(three.layout, 1)};
  std::vector<std::thread> callers;
  for (Call& call : calls)
    callers.emplace_back([&] {
      for (int i = 0; i < 30; i++) call.run(three.program);
    });
  for (auto& caller : callers) caller.join();
  for (int i = 0; i < 2; i++) calls[i].same_as(alone[i]);
#endif

  // The pool grows when a second model is loaded with more threads.
  at("plan of one thread in a pool of four");
  Pool::shared().grow(4);
  Call again(one.layout, 0);
  for (int i = 0; i < 30; i++) again.run(one.program);
  again.same_as(alone[0]);
}

void a_plan_that_threw_runs_again(const Kernels& kernels) {
  at("plan that throws");
  const Model model(kPlan, kernels, 3);
  Call right(model.layout, 0), wrong(model.layout, 0);
  right.run(model.program);
  for (int64_t id : {int64_t(-1), kWidth, INT64_MAX}) {
    for (int64_t i = 0; i < kRows; i++) std::memcpy(wrong.ids().begin() + 8 * i, &id, 8);
    bool thrown = false;
    try {
      wrong.run(model.program);
    } catch (const std::out_of_range&) {
      thrown = true;
    }
    expect(thrown, "a number that names nothing was taken");
  }
  std::memcpy(wrong.ids().begin(), right.ids().begin(), 8 * kRows);
  wrong.run(model.program);
  wrong.same_as(right);
}

// A file whose header has an odd length puts its tensors at odd addresses.
void weights_may_lie_at_any_byte(const Kernels& kernels) {
  at("weights at an odd byte");
  Random random(5);
  const Floats numbers(6 * 40, random), scales(6, random);
  std::vector<uint8_t> odd(1 + 4 * numbers.size()), odd_scales(1 + 4 * scales.size());
  std::memcpy(&odd[1], numbers.begin(), 4 * numbers.size());
  std::memcpy(&odd_scales[1], scales.begin(), 4 * scales.size());
  const std::vector<int8_t> codes(6 * 40, 5);
  Matrix floats[] = {{kernels, 6, 40, 32}, {kernels, 6, 40, 32}};
  Matrix rounded[] = {{kernels, 6, 40, 8}, {kernels, 6, 40, 8}};
  Matrix whole[] = {{kernels, 6, 40, 8}, {kernels, 6, 40, 8}};
  for (int i = 0; i < 2; i++) {
    pack_float32(floats[i], 0, 6, i ? (const void*)&odd[1] : numbers.begin());
    pack_rounded(rounded[i], kernels, 0, 6, i ? (const void*)&odd[1] : numbers.begin());
    pack_int8(whole[i], 0, 6, codes.data(), i ? (const void*)&odd_scales[1] : scales.begin());
  }
  for (auto* m : {floats, rounded, whole}) {
    const int64_t bytes = m->panels() * m->panel_bytes();
    expect(!std::memcmp(m[0].data.get(), m[1].data.get(), bytes) && m[0].scale == m[1].scale,
           "others than at an even one");
  }
}

void arenas_are_lent() {
  at("arena");
  Arena arena;
  const uint8_t* first;
  {
    const Arena::Piece one(arena, 100), two(arena, 200);
    expect(one.memory() != two.memory(), "one piece was lent twice");
    first = one.memory();
  }
  expect(arena.pieces() == 2 && arena.bytes() == 300, "pieces");
  const Arena::Piece again(arena, 50);
  expect(again.memory() == first, "a piece was not used again");
}

void no_thread_is_woken_for_a_small_plan() {
  at("the threads of a plan");
  const auto threads = [](const std::string& rows) {
    const std::string text = "tynda-plan 2\nargument x " + rows + " 4000\nargument y " + rows +
                             " 4000\nmatrix m w 0 1000 1000 32 0\nmatmul rows=" + rows +
                             " overlapping=0 x=x weight=m bias=- activation=none factor=1 "
                             "residual=- y=y\nresult y\n";
    return threads_worth_waking(Plan::parse(text), 3);
  };
  expect(threads("3") == 1 && threads("4") == 3, "3 and 4 million multiply-adds in float32");
  expect(threads_worth_waking(Plan::parse(kPlan), 3) == 1, "the plan of these tests");
}

bool refused(const std::string& text, const Kernels& kernels) {
  try {
    Layout(Plan::parse(text), kernels, 2);
    return false;
  } catch (const std::invalid_argument&) {
    return true;
  }
}

void what_is_no_plan_is_refused(const Kernels& kernels) {
  at("plans that are none");
  const std::string good = kPlan;
  expect(!refused(good, kernels), "a plan was refused");
  const std::pair<const char*, const char*> changes[] = {
      {"tynda-plan 2", "tynda-plan 3"},
      {"argument x 37 80", "argument x 36 80"},         // too small for what reads it
      {"argument x 37 80", "argument x 37 80\nargument x 37 80"},
      {"constant bias 1 2048", "constant bias 1 2044"},
      {"constant bias 1 2048", "constant bias 1"},
      {"constant bias 1 2048", "constant b=s 1 2048"},
      {"matrix up up 0 48 20 32 0", "matrix up up 0 49 20 32 0"},
      {"matrix up up 0 48 20 32 0", "matrix up up 0 48 20 8 0"},
      {"matrix up up 0 48 20 32 0", "matrix up up 0 48 20 7 0"},
      {"matrix up up 0 48 20 32 0", "matrix up up 0 48 4398046511104 32 0"},
      {"x=masked", "x=nothing"},
      {"x=masked", "x=masked+4"},
      {"x=masked", "x=masked/84"},
      {"x=masked", "x=masked+-4"},
      {"x=masked", "x=masked+"},
      {"eps=1e-05", "eps=nan"},
      {"eps=1e-05", "eps=1e-05x"},
      {"eps=1e-05", ""},
      {"eps=1e-05", "eps=1e-05 eps=1e-05"},
      {"eps=1e-05", "eps=1e-05 more=1"},
      {"activation=gelu", "activation=tan"},
      {"causal=0", "causal=2"},
      {"y=normal", "y=bias"},                           // a constant
      {"frames=37 frame_rows=1", "frames=0 frame_rows=1"},
      {"heads=2 queries=37", "heads=3 queries=37"},
      {"heads=2 queries=37", "heads=0 queries=37"},
      {"divide=1", "divide=0"},
      {"buffer kept 1 keys 2", "buffer kept 1 keys 0"},
      {"buffer kept 1 keys 2", "buffer kept 1 things 2"},
      {"buffer kept 1 keys 2 37", "buffer kept 1 keys 2 3"},
      {"period=37", "period=0"},
      {"size=19", "size=20"},
      {"capacity=37", "capacity=38"},
      {"start=0", "start=1"},
      {"i=i f=f", "i=up f=f"},
      {"rows=73 width=20", "rows=73 width=19"},
      {"queries=37 keys=37 channels=20 v_channels=20 q=z", "queries=37 keys=36 channels=20 "
                                                           "v_channels=20 q=z"},
      {"encoding=away", "encoding=swept"},
      {"taps=3 taps_bins=2", "taps=150 taps_bins=2"},
      {"time=37 bins=5", "time=37 bins=6"},
      {"result y", "result z"},
      {"lookup rows=37", "look rows=37"},
      {"rows=37 width=20", "rows=-37 width=20"},
      {"rows=37 width=20", "rows=4398046511104 width=4398046511104"},
  };
  for (const auto& [from, to] : changes) {
    std::string text = good;
    const size_t place = text.find(from);
    if (place == text.npos) {
      expect(false, std::string("the plan has no ") + from);
      continue;
    }
    text.replace(place, std::strlen(from), to);
    expect(refused(text, kernels), std::string("taken: ") + to);
  }
  for (size_t size = 0; size < good.size(); size += 97)  // cut anywhere, it is refused or is whole
    refused(good.substr(0, size), kernels);
}

// Whatever the numbers of a plan: it is refused, or stays within its memory.
void no_number_leads_out_of_memory(const Kernels& kernels) {
  const std::string good = kPlan;
  const int64_t values[] = {0, 1, 2, 3, 4, 7, 8, 19, 20, 36, 38, 40, 74, 80, 160, 4096};
  Random random(3);
  int ran = 0;
  for (size_t at_ = 13; at_ < good.size(); at_++) {
    if (!std::isdigit(good[at_]) || std::isalnum(good[at_ - 1]) || good[at_ - 1] == '.') continue;
    if (good.compare(at_ - 1, 2, "-0") == 0 || good.compare(at_, 5, "1e-05") == 0) continue;
    size_t end = at_;
    while (std::isdigit(good[end])) end++;
    for (int turn = 0; turn < 6; turn++) {
      const std::string value = std::to_string(random.one_of(values));
      std::string text = good;
      text.replace(at_, end - at_, value);
      at("plan with %s at %d", value.c_str(), int(at_));
      try {
        const Model model(text, kernels, 2);
        Call call(model.layout, 0);
        call.run(model.program);
        call.stayed_within();
        ran++;
      } catch (const std::invalid_argument&) {
      } catch (const std::out_of_range&) {
      }
    }
  }
  expect(ran > 100, "hardly any plan was run");
}

}  // namespace

void plans(const Kernels& kernels) {
  threads_do_not_change_a_bit(kernels);
  a_plan_that_threw_runs_again(kernels);
  weights_may_lie_at_any_byte(kernels);
  arenas_are_lent();
  no_thread_is_woken_for_a_small_plan();
  what_is_no_plan_is_refused(kernels);
  no_number_leads_out_of_memory(kernels);
}

}  // namespace tynda::test

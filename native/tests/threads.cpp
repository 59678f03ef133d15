// Tests of the pool of threads, and of a plan that several threads run at once.
#include "threads.h"

#include <atomic>
#include <chrono>
#if defined(__unix__) || defined(__APPLE__)
#include <csignal>
#include <pthread.h>
#endif
#include <numeric>
#include <stdexcept>

#include "check.h"
#include "pack.h"
#include "plan.h"

namespace tynda::test {
namespace {

void every_task_is_done_once() {
  Pool pool;
  for (int size : {1, 2, 3, 8, 2}) {
    pool.resize(size);
    at("pool of %d", size);
    expect(pool.size() == size, "size");
    for (int loop = 0; loop < 1000; loop++) {
      // Plain numbers: ThreadSanitizer would see two threads at one of them.
      std::vector<int> done(loop % 67), of_thread(size);
      pool.run(int64_t(done.size()), [&](int64_t i, int thread) {
        done[i]++;
        of_thread[thread]++;
      });
      expect(done == std::vector<int>(done.size(), 1), "not each task once");
      expect(std::accumulate(of_thread.begin(), of_thread.end(), 0) == int(done.size()),
             "threads took another number of tasks");
    }
  }
}

void workers_that_sleep_are_woken() {
  at("sleeping pool");
  Pool pool;
  pool.resize(3);
  for (int loop = 0; loop < 50; loop++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::atomic<int> done{0};
    pool.run(20, [&](int64_t, int) { done++; });
    expect(done == 20, "tasks are left");
  }
}

#if defined(__unix__) || defined(__APPLE__)
std::atomic<bool> held, released;

// As a processor does that has gone to another program, until it comes back.
void hold(int) {
  held = true;
  while (!released) {
  }
}

void a_worker_without_a_processor_is_not_waited_for() {
  at("pool with a worker that is held up");
  Pool pool;
  pool.resize(2);
  std::atomic<bool> came{false};
  pthread_t worker;
  while (!came)
    pool.run(2, [&](int64_t, int thread) {
      if (thread) {
        worker = pthread_self();
        came = true;
      }
      for (int i = 0; !came && i < 1000000; i++) std::this_thread::yield();
    });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // asleep, it holds no lock
  held = released = false;
  const auto before = std::signal(SIGUSR1, hold);
  pthread_kill(worker, SIGUSR1);
  while (!held) std::this_thread::yield();
  std::vector<int> done(100);
  for (int loop = 0; loop < 10; loop++) pool.run(100, [&](int64_t i, int) { done[i]++; });
  expect(done == std::vector<int>(100, 10), "not each task once");
  released = true;
  std::signal(SIGUSR1, before);
}
#endif

void callers_take_turns() {
  at("pool with many callers");
  constexpr int kCallers = 4, kMost = 3;
  Pool pool;
  pool.resize(kMost);
  std::atomic<int> at_work{0}, most{0}, wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; caller++)
    callers.emplace_back([&, caller] {
      for (int loop = 0; loop < 300; loop++) {
        std::vector<int> done(1 + (loop + caller) % 30);
        pool.run(int64_t(done.size()), [&](int64_t i, int) {
          const int now = ++at_work;
          for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
          }
          done[i]++;
          at_work--;
        });
        for (int times : done) wrong += times != 1;
      }
    });
  // At the same time the pool grows and shrinks.
  for (int i = 0; i < 100; i++) pool.resize(1 + i % kMost);
  for (auto& caller : callers) caller.join();
  expect(wrong == 0, "not each task once");
  expect(most <= kMost, "more threads at work than there may be");
}

void what_a_task_throws_comes_to_its_caller() {
  at("pool whose tasks throw");
  Pool pool;
  pool.resize(3);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; caller++)
    callers.emplace_back([&, caller] {
      for (int loop = 0; loop < 300; loop++) {
        const int count = 1 + loop % 20, step = 1 + loop % 5;
        bool thrown = false;
        try {
          pool.run(count, [&](int64_t i, int) {
            if (i % step == 0) throw std::runtime_error(std::to_string(caller));
          });
        } catch (const std::runtime_error& e) {
          thrown = e.what() == std::to_string(caller);
        }
        wrong += !thrown;
        std::atomic<int> done{0};
        pool.run(count, [&](int64_t, int) { done++; });
        wrong += done != count;
      }
    });
  for (auto& caller : callers) caller.join();
  expect(wrong == 0, "an exception is lost, or came to another caller");
}

// ---- plans

constexpr int64_t kRows = 37, kWidth = 20, kHidden = 48, kWide = 512, kCells = 40;

// Numbers side by side in one part of a plan's memory.
struct Layout {
  Space space;
  int64_t bytes = 0;
  Place take(int64_t rows, int64_t row) {
    const Place place{space, 0, bytes, row};
    bytes += round_up(rows * row, kAlign);
    return place;
  }
};

Place argument(int64_t index, int64_t row) { return {Space::argument, index, 0, row}; }

// Small parts of a model, one of each kind of stage.
struct Model {
  Random random{7};
  Floats bias{kWide, random};
  const Kernels& kernels;
  Matrix up, down, wide, gates;
  std::array<Matrix, 4> recurrent;

  explicit Model(const Kernels& k)
      : kernels(k), up(floats(kHidden, kWidth)), down(codes(kWidth, kHidden)),
        wide(floats(kWide, kWidth)), gates(floats(4 * kCells, kWidth)),
        recurrent{floats(kCells, kCells), floats(kCells, kCells), floats(kCells, kCells),
                  floats(kCells, kCells)} {}

  Matrix floats(int64_t n, int64_t k) {
    Matrix m(kernels, n, k, 32);
    put(m, 0, n, Floats(n * k, random, 0.3f).begin());
    return m;
  }
  Matrix codes(int64_t n, int64_t k) {
    Matrix m(kernels, n, k, 8);
    put_rounded(m, kernels, 0, n, Floats(n * k, random, 0.3f).begin());
    return m;
  }

  // x [rows, kWidth], lengths and ids -> y [rows, kWide], states [rows, kCells] and
  // found [rows, kHidden].
  Plan plan(int threads) const {
    Layout arena{Space::arena}, local{Space::local};
    const int64_t block = 5, depth = round_up(kHidden, 4);
    const Place x = argument(0, 4 * kWidth), lengths = argument(1, 8), ids = argument(2, 8);
    const Place y = argument(3, 4 * kWide), states = argument(4, 4 * kCells);
    const Place found = argument(5, 4 * kHidden);
    const Place normal = local.take(block, 4 * kWidth), hidden = local.take(block, 4 * kHidden);
    const Place quantized = local.take(block, depth), scales = local.take(block, 4);
    const Place z = arena.take(kRows, 4 * kWidth), mixed = arena.take(kRows, 4 * kWidth);
    const Place factor = arena.take(1, 4 * kWidth), moved = arena.take(1, 4 * kWidth);
    const Place work = arena.take(round_up(kRows, kMomentRows) / kMomentRows * 2 * kWidth * 8, 1);
    const Place sums = arena.take(kRows, 16 * kCells);
    const Place cells = arena.take(8 * round_up(kCells, kernels.panel), 4);
    Heads heads{};
    heads.batch = 1;
    heads.heads = 2;
    heads.queries = heads.keys = kRows;
    heads.channels = heads.v_channels = kWidth;
    heads.chunks = 3;
    local.take(kernels.attention.scratch(kRows, kRows, kWidth / 2, kWidth / 2, false), 1);

    Plan p(kernels, arena.bytes, local.bytes, threads);
    p.strip(kRows, block);
    p.layer_norm(x, normal, kWidth, bias.begin(), bias.begin(), 1e-5f);
    p.multiply(normal, hidden, up, bias.begin(), Activation::gelu, 1, {}, false);
    p.quantize(hidden, quantized, scales, kHidden, depth);
    p.multiply_8(quantized, scales, z, down, nullptr, Activation::none, 0.5f, x, true);
    p.attention(z, z, z, mixed, heads, lengths);
    p.moments(mixed, factor, moved, work, 1, kRows, kWidth, kWidth, bias.begin(), bias.begin(),
              1e-5f, lengths);
    p.strip(kRows, kRows);  // one block: products are shared out
    p.affine(mixed, z, kWidth, factor, moved, kRows, Activation::relu);
    p.multiply(z, y, wide, bias.begin(), Activation::none, 1, {}, false);
    p.multiply(z, sums, gates, nullptr, Activation::none, 1, {}, false);
    p.log_softmax(y, y, kWide);
    p.lstm(sums, states, cells,
           {&recurrent[0], &recurrent[1], &recurrent[2], &recurrent[3]}, 1, kRows, kCells, true,
           lengths);
    p.strip(kRows, block);
    p.lookup(ids, found, down);
    return p;
  }
};

constexpr int64_t kAfter = 1024 * kGuard;  // as far as a thread too many would reach

// A plan's memory and what goes in and out.
struct Call {
  Floats x, y{kRows * kWide}, states{kRows * kCells}, found{kRows * kHidden};
  std::vector<int64_t> lengths, ids;
  int64_t bytes;
  Bytes memory;

  Call(const Plan& plan, uint32_t seed)
      : Call(plan, Random(seed), 30) {}
  Call(const Plan& plan, Random random, int64_t length)
      : x(kRows * kWidth, random), lengths{length}, bytes(plan.bytes()),
        memory(aligned_bytes(bytes + kAfter)) {
    for (int64_t i = 0; i < kRows; i++) ids.push_back(random.below(kWidth));
    std::memset(memory.get(), kUntouched, bytes + kAfter);
  }
  void run(const Plan& plan) {
    const auto pointer = [](auto* p) { return reinterpret_cast<uint8_t*>(p); };
    plan.run(memory.get(), {pointer(x.begin()), pointer(lengths.data()), pointer(ids.data()),
                            pointer(y.begin()), pointer(states.begin()), pointer(found.begin())});
  }
  void same_as(const Call& other) const {
    same(y, other.y);
    same(states, other.states);
    same(found, other.found);
    bool whole = true;
    for (int64_t i = 0; i < kAfter; i++) whole &= memory[bytes + i] == kUntouched;
    expect(whole, "memory past the plan's was written to");
  }
};

void threads_do_not_change_a_bit(const Model& model) {
  Pool::shared().resize(1);
  const Plan one = model.plan(1), three = model.plan(3);
  std::vector<Call> alone;
  for (uint32_t seed = 0; seed < 2; seed++) {
    alone.emplace_back(one, seed);
    alone[seed].run(one);
    for (float number : alone[seed].y)
      if (!std::isfinite(number)) return expect(false, "not a number");
  }
  at("plan of three threads");
  Pool::shared().resize(3);
  Call together(three, 0);
  for (int i = 0; i < 30; i++) together.run(three);
  together.same_as(alone[0]);

  at("plan run by two at once");
  Call calls[] = {Call(three, 0), Call(three, 1)};
  std::vector<std::thread> callers;
  for (Call& call : calls)
    callers.emplace_back([&] {
      for (int i = 0; i < 30; i++) call.run(three);
    });
  for (auto& caller : callers) caller.join();
  for (int i = 0; i < 2; i++) calls[i].same_as(alone[i]);

  // As when a second model was loaded with more threads.
  at("plan of one thread in a pool of four");
  Pool::shared().resize(4);
  Call again(one, 0);
  for (int i = 0; i < 30; i++) again.run(one);
  again.same_as(alone[0]);
}

void a_plan_that_threw_runs_again(const Model& model) {
  at("plan that throws");
  Pool::shared().resize(3);
  const Plan plan = model.plan(3);
  Call right(plan, 0), wrong(plan, 0);
  right.run(plan);
  for (int64_t id : {int64_t(-1), kWidth, INT64_MAX}) {
    for (auto& number : wrong.ids) number = id;
    bool thrown = false;
    try {
      wrong.run(plan);
    } catch (const std::out_of_range&) {
      thrown = true;
    }
    expect(thrown, "a number that names nothing was taken");
  }
  wrong.ids = right.ids;
  wrong.run(plan);
  wrong.same_as(right);
}

}  // namespace

void threads(const Kernels& kernels) {
  every_task_is_done_once();
  workers_that_sleep_are_woken();
#if defined(__unix__) || defined(__APPLE__)
  a_worker_without_a_processor_is_not_waited_for();
#endif
  callers_take_turns();
  what_a_task_throws_comes_to_its_caller();
  const Model model(kernels);
  threads_do_not_change_a_bit(model);
  a_plan_that_threw_runs_again(model);
}

}  // namespace tynda::test

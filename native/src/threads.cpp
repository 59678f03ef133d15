#include "threads.h"

#include <chrono>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace tynda {
namespace {

// A worker that finds nothing to do looks again this long before it sleeps: the next loop of
// a model comes within microseconds, and waking takes longer.
constexpr auto kSpinTime = std::chrono::microseconds(100);

// Parts of the gate: workers that are in a loop, whether it is open to more, and above them its
// number.
constexpr uint64_t kInsideMask = (uint64_t(1) << 15) - 1;
constexpr uint64_t kOpenBit = uint64_t(1) << 15;
constexpr int kNumberShift = 16;

// Times that the caller looks for the others to end before it lets other processes run.
constexpr int kMaxSpins = 10000;

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

namespace {

// It is never destroyed: a process may end while other threads of its own still run loops, and a
// forked one does not have the threads that a destructor would wait for. A forked process leaves
// it where it lies, with its locks and sleepers as they were, and begins with a new one.
std::atomic<Pool*> pool{nullptr};

}  // namespace

Pool& Pool::shared() {
  static const bool made = [] {
    pool = new Pool;
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] { pool = new Pool(pool.load()->size()); });
#endif
    return true;
  }();
  (void)made;
  return *pool;
}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(sleep_);
    ending_ = true;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Pool::grow(int threads) {
  std::lock_guard<std::mutex> turn(turn_);
  if (threads > size_) size_ = threads;
}

// Workers that there are to be and are not yet.
void Pool::start() {
  const uint64_t seen = gate_ >> kNumberShift;
  while (int(workers_.size()) + 1 < size_)
    workers_.emplace_back(&Pool::work, this, int(workers_.size()) + 1, seen);
}

void Pool::run_tasks(int thread) {
  try {
    for (int64_t i; (i = next_.fetch_add(1)) < count_;) (*task_)(i, thread);
  } catch (...) {
    next_ = count_;  // nobody begins another task
    std::lock_guard<std::mutex> lock(sleep_);
    error_ = std::current_exception();
  }
}

void Pool::run(int64_t count, Task task, int threads) {
  std::unique_lock<std::mutex> turn(turn_, std::defer_lock);
  if (threads > 1) turn.lock();
  if (count < 2 || threads == 1 || size_ == 1) {
    for (int64_t i = 0; i < count; i++) task(i, 0);
    return;
  }
  start();
  task_ = &task;
  threads_ = threads;
  count_ = count;
  next_ = 0;
  {
    std::lock_guard<std::mutex> lock(sleep_);
    gate_ = ((gate_ >> kNumberShift) + 1) << kNumberShift | kOpenBit;
  }
  wake_.notify_all();
  run_tasks(0);
  gate_ &= ~kOpenBit;
  for (int i = 0; gate_ & kInsideMask; i++) {
    if (i < kMaxSpins) {
      pause();
    } else {
      std::this_thread::yield();  // more threads than processors
    }
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

// Whether there is a loop after `seen` that this worker is now in.
bool Pool::join(uint64_t& seen) {
  uint64_t gate = gate_;
  while ((gate & kOpenBit) && gate >> kNumberShift != seen)
    if (gate_.compare_exchange_weak(gate, gate + 1)) {
      seen = gate >> kNumberShift;
      return true;
    }
  return false;
}

void Pool::work(int thread, uint64_t seen) {
  while (!ending_) {
    const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
    bool joined = join(seen);
    while (!joined && !ending_ && std::chrono::steady_clock::now() < deadline) {
      pause();
      joined = join(seen);
    }
    if (!joined) {
      std::unique_lock<std::mutex> lock(sleep_);
      wake_.wait(lock, [&] { return (joined = join(seen)) || ending_; });
    }
    if (!joined) return;
    if (thread < threads_) run_tasks(thread);
    gate_--;
  }
}

}  // namespace tynda

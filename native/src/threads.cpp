#include "threads.h"

#include <chrono>
#include <system_error>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace tynda {
namespace {

// How long an idle worker spins before it sleeps. The next loop of a model usually comes within
// microseconds, and waking a thread takes longer.
constexpr auto kSpinTime = std::chrono::microseconds(100);

// The bits of the gate: the number of workers in the loop, whether more may join, and the loop's
// number.
constexpr uint64_t kInsideMask = (uint64_t(1) << 15) - 1;
constexpr uint64_t kOpenBit = uint64_t(1) << 15;
constexpr int kNumberShift = 16;

// How often the caller checks whether the workers are done before it yields its processor.
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

// The pool is never destroyed, because a process may end while other threads still run loops. A
// forked child has none of the threads that a destructor would join: it abandons the pool and
// creates a new one.
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

// Starts the missing workers. Where the system refuses one, the others do all work, from then on.
void Pool::start() {
  const uint64_t seen = gate_ >> kNumberShift;
  while (int(workers_.size()) + 1 < size_) {
    try {
      workers_.emplace_back(&Pool::work, this, int(workers_.size()) + 1, seen);
    } catch (const std::system_error&) {
      size_ = int(workers_.size()) + 1;
    }
  }
}

void Pool::run_tasks(int thread) {
  try {
    for (int64_t i; (i = next_.fetch_add(1)) < count_;) (*task_)(i, thread);
  } catch (...) {
    next_ = count_;  // no thread begins another task
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

// Joins the open loop unless its number is `seen`, and returns whether it did.
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

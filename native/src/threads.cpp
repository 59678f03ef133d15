#include "threads.h"

#include <chrono>
#include <utility>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace tynda {
namespace {

// A worker that finds nothing to do looks again this long before it sleeps: the next loop of
// a model comes within microseconds, and waking takes longer.
constexpr auto kPatience = std::chrono::microseconds(100);

// Times that the caller looks for the others to end before it lets other processes run.
constexpr int kTurns = 10000;

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Pool& Pool::shared() {
  static Pool pool;
  return pool;
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  {
    std::lock_guard<std::mutex> lock(sleep_);
    ending_ = true;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
  workers_.clear();
  ending_ = false;
}

void Pool::resize(int threads) {
  std::lock_guard<std::mutex> turn(turn_);
  if (threads == size()) return;
  stop();
  for (int i = 1; i < threads; i++) workers_.emplace_back(&Pool::work, this, i, round_.load());
}

void Pool::take(int thread) {
  try {
    for (int64_t i; (i = next_.fetch_add(1)) < count_;) (*task_)(i, thread);
  } catch (...) {
    next_ = count_;  // nobody begins another task
    std::lock_guard<std::mutex> lock(sleep_);
    error_ = std::current_exception();
  }
}

void Pool::run(int64_t count, const std::function<void(int64_t, int)>& task, int threads) {
  std::lock_guard<std::mutex> turn(turn_);
  if (count == 1 || threads == 1 || workers_.empty()) {
    for (int64_t i = 0; i < count; i++) task(i, 0);
    return;
  }
  task_ = &task;
  threads_ = threads;
  count_ = count;
  next_ = 0;
  busy_ = int(workers_.size());
  {
    std::lock_guard<std::mutex> lock(sleep_);
    round_++;
  }
  wake_.notify_all();
  take(0);
  for (int i = 0; busy_.load() > 0; i++) {
    if (i < kTurns) {
      pause();
    } else {
      std::this_thread::yield();  // more threads than processors
    }
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Pool::work(int thread, uint64_t seen) {
  for (;;) {
    const auto tired = std::chrono::steady_clock::now() + kPatience;
    while (round_.load() == seen && !ending_ && std::chrono::steady_clock::now() < tired) pause();
    if (round_.load() == seen) {
      std::unique_lock<std::mutex> lock(sleep_);
      wake_.wait(lock, [&] { return round_.load() != seen || ending_; });
    }
    if (round_.load() == seen) return;  // ending
    seen = round_.load();
    if (thread < threads_) take(thread);
    busy_--;
  }
}

}  // namespace tynda

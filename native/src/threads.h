// One pool of threads for the whole process.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tynda {

// Models that run at once take turns, one parallel loop each, so that there are never more
// threads at work than were asked for.
class Pool {
 public:
  static Pool& shared();

  ~Pool();
  int size() const { return int(workers_.size()) + 1; }
  void resize(int threads);  // waits for what is running
  // Models share the pool, so that one with fewer threads never takes any from another.
  void grow(int threads);
  // No task may call this again: it would wait for ever. A process that was forked from one with a
  // pool has a pool of its own, which starts its threads with the first loop.
  // Calls task(i, thread) for i in [0, count), in any order, and returns when all are
  // done. What a task throws is thrown here. A worker that gets no processor meanwhile is not
  // waited for: the others do its share.
  // `threads`: how many may take part, all by default; the pool may have more than a model, for
  // another one.
  void run(int64_t count, const std::function<void(int64_t, int)>& task, int threads = 1 << 30);

 private:
  void work(int thread, uint64_t seen);
  bool join(uint64_t& seen);
  void take(int thread);
  void stop();

  void start(int threads);

  std::mutex turn_;  // held by the loop that is running
  int wanted_ = 1;   // threads that a forked process starts when it needs them
  std::vector<std::thread> workers_;
  std::mutex sleep_;
  std::condition_variable wake_;
  const std::function<void(int64_t, int)>* task_ = nullptr;
  int64_t count_ = 0;
  int threads_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<uint64_t> gate_{0};  // the loop's number, whether one may join it, who is in it
  std::atomic<bool> ending_{false};
  std::exception_ptr error_;  // guarded by sleep_
};

}  // namespace tynda

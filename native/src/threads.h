// The pool of threads of the process.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace tynda {

// A reference to a function task(i, thread), which must outlive the call. (A std::function could
// allocate memory for each loop of a model.)
class Task {
 public:
  template <class Work, class = std::enable_if_t<!std::is_same_v<std::decay_t<Work>, Task>>>
  Task(const Work& work)
      : work_(&work), call_([](const void* work, int64_t i, int thread) {
          (*static_cast<const Work*>(work))(i, thread);
        }) {}
  void operator()(int64_t i, int thread) const { call_(work_, i, thread); }

 private:
  const void* work_;
  void (*call_)(const void*, int64_t, int);
};

// Models that run at once take turns, one parallel loop each, so that there are never more
// threads at work than were asked for.
class Pool {
 public:
  // The pool of the process. A forked child has its own, of the same size.
  static Pool& shared();

  explicit Pool(int threads = 1) : size_(threads) {}
  ~Pool();
  int size() const { return size_; }
  // Increases the number of threads to at least `threads`; it is never reduced. Waits for the
  // running loop.
  void grow(int threads);
  // Calls task(i, thread) for i in [0, count) in any order, and returns when all calls have
  // returned. It rethrows an exception of a task. It does not wait for a worker that gets no
  // processor: others take over its share. A task must not call this function. At most `threads`
  // threads take part; with one, the caller runs all tasks at once, without waiting for its turn.
  void run(int64_t count, Task task, int threads = 1 << 30);

 private:
  void work(int thread, uint64_t seen);
  bool join(uint64_t& seen);
  void run_tasks(int thread);
  void start();

  std::mutex turn_;  // held by the running loop
  std::atomic<int> size_;
  std::vector<std::thread> workers_;  // started by the first loop that needs them
  std::mutex sleep_;
  std::condition_variable wake_;
  const Task* task_ = nullptr;
  int64_t count_ = 0;
  int threads_ = 0;
  std::atomic<int64_t> next_{0};
  // The loop's number, whether it is open, and how many workers are in it.
  std::atomic<uint64_t> gate_{0};
  std::atomic<bool> ending_{false};
  std::exception_ptr error_;  // guarded by sleep_
};

}  // namespace tynda

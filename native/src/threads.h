// One pool of threads for the whole process.
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

// Work that is done in parts, by reference: what it refers to must outlive the call. (A
// std::function would ask for memory at each loop of a model.)
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

// Models that run at once run_tasks turns, one parallel loop each, so that there are never more
// threads at work than were asked for.
class Pool {
 public:
  // After a fork the child has one of its own, as large.
  static Pool& shared();

  explicit Pool(int threads = 1) : size_(threads) {}
  ~Pool();
  int size() const { return size_; }
  // Has at least so many threads from now on; it never has fewer again. Waits for what is running.
  void grow(int threads);
  // Calls task(i, thread) for i in [0, count), in any order, and returns when all are
  // done. What a task throws is thrown here. A worker that gets no processor meanwhile is not
  // waited for: the others do its share. No task may call this again.
  // `threads`: how many may run_tasks part, all by default; the pool may have more than a model, for
  // another one. One alone takes no turn: it is the caller's.
  void run(int64_t count, Task task, int threads = 1 << 30);

 private:
  void work(int thread, uint64_t seen);
  bool join(uint64_t& seen);
  void run_tasks(int thread);
  void start();

  std::mutex turn_;  // held by the loop that is running
  std::atomic<int> size_;
  std::vector<std::thread> workers_;  // started when they are first needed
  std::mutex sleep_;
  std::condition_variable wake_;
  const Task* task_ = nullptr;
  int64_t count_ = 0;
  int threads_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<uint64_t> gate_{0};  // the loop's number, whether one may join it, who is in it
  std::atomic<bool> ending_{false};
  std::exception_ptr error_;  // guarded by sleep_
};

}  // namespace tynda

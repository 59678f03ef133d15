// Tests of the pool of threads.
#include "threads.h"

#include <atomic>
#include <chrono>
#if defined(__unix__) || defined(__APPLE__)
#include <csignal>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#endif
#include <numeric>
#include <stdexcept>

#include "check.h"

namespace tynda::test {
namespace {

void every_task_is_done_once() {
  for (int size : {1, 2, 3, 8, 2}) {
    Pool pool;
    pool.grow(size);
    pool.grow(1);  // never fewer again
    at("pool of %d", size);
    expect(pool.size() == size, "size");
    for (int loop = 0; loop < 1000; loop++) {
      // Plain numbers: ThreadSanitizer would see two threads at one of them.
      std::vector<int> done(loop % 67), for_thread(size);
      pool.run(int64_t(done.size()), [&](int64_t i, int thread) {
        done[i]++;
        for_thread[thread]++;
      });
      expect(done == std::vector<int>(done.size(), 1), "not each task once");
      expect(std::accumulate(for_thread.begin(), for_thread.end(), 0) == int(done.size()),
             "threads took another number of tasks");
    }
  }
}

void workers_that_sleep_are_woken() {
  at("sleeping pool");
  Pool pool;
  pool.grow(3);
  for (int loop = 0; loop < 50; loop++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::atomic<int> done{0};
    pool.run(20, [&](int64_t, int) { done++; });
    expect(done == 20, "tasks are left");
  }
}

#if defined(__unix__) || defined(__APPLE__)
std::atomic<bool> held, released;

// Stops this thread, as when its processor runs another program for a while.
void hold(int) {
  held = true;
  while (!released) {
  }
}

void a_worker_without_a_processor_is_not_waited_for() {
  at("pool with a worker that is held up");
  Pool pool;
  pool.grow(2);
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
  constexpr int kCallers = 4, kMaxThreads = 3;
  Pool pool;
  std::atomic<int> at_work{0}, max_at_work{0}, wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; caller++)
    callers.emplace_back([&, caller] {
      for (int loop = 0; loop < 300; loop++) {
        std::vector<int> done(1 + (loop + caller) % 30);
        pool.run(int64_t(done.size()), [&](int64_t i, int) {
          const int now = ++at_work;
          for (int seen = max_at_work; seen < now && !max_at_work.compare_exchange_weak(seen, now);) {
          }
          done[i]++;
          at_work--;
        });
        for (int times : done) wrong += times != 1;
      }
    });
  // At the same time the pool grows.
  for (int i = 0; i < 100; i++) pool.grow(1 + i % kMaxThreads);
  for (auto& caller : callers) caller.join();
  expect(wrong == 0, "not each task once");
  expect(max_at_work <= kMaxThreads, "more threads at work than there may be");
}

void what_a_task_throws_comes_to_its_caller() {
  at("pool whose tasks throw");
  Pool pool;
  pool.grow(3);
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

// A model of one thread runs beside others, and waits for none.
void one_thread_takes_no_turn() {
  at("pool with a caller of one thread");
  Pool pool;
  pool.grow(2);
  std::atomic<bool> inside{false}, done{false};
  std::thread other([&] {
    pool.run(2, [&](int64_t, int) {
      inside = true;
      while (!done) std::this_thread::yield();
    });
  });
  while (!inside) std::this_thread::yield();
  int count = 0;
  pool.run(3, [&](int64_t, int) { count++; }, 1);
  done = true;
  other.join();
  expect(count == 3, "not each task once");
}

#if defined(__unix__) || defined(__APPLE__)
void a_forked_process_has_a_pool_of_its_own() {
#if !defined(__SANITIZE_THREAD__)  // which takes no fork of a process with threads
  at("pool of a forked process");
  Pool::shared().grow(3);
  std::vector<int> done(50);
  const auto task = [&](int64_t i, int) { done[i]++; };
  Pool::shared().run(50, task);
  const pid_t child = fork();
  if (child == 0) {
    Pool::shared().run(50, task);
    _exit(done == std::vector<int>(50, 2) && Pool::shared().size() == 3 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  Pool::shared().run(50, task);
  expect(status == 0 && done == std::vector<int>(50, 2), "not each task once in each process");
#endif
}
#endif

}  // namespace

void threads() {
  every_task_is_done_once();
  workers_that_sleep_are_woken();
#if defined(__unix__) || defined(__APPLE__)
  a_worker_without_a_processor_is_not_waited_for();
#endif
  callers_take_turns();
  what_a_task_throws_comes_to_its_caller();
  one_thread_takes_no_turn();
#if defined(__unix__) || defined(__APPLE__)
  a_forked_process_has_a_pool_of_its_own();
#endif
}

}  // namespace tynda::test

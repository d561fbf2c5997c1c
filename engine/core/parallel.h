// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace lectern::engine {

// A fixed team of threads that run one loop at a time. Workers spin briefly between loops, then sleep. A loop never
// waits for a worker that has not begun an index of it, so the team keeps its speed when there are fewer free cores
// than threads. Used from one thread at a time.
class ThreadTeam {
 public:
  explicit ThreadTeam(int threads);  // 0: one per hardware thread
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs task(index) for every index in [0, count), count below 2^32, each once, on any thread of the team; returns
  // when all are done. Which thread runs an index must not change what it computes. Tasks must not call parallel_for.
  // What a task throws comes out of this call once all have ended.
  template <class Task>
  void parallel_for(std::int64_t count, const Task& task) {
    if (workers_.empty() || count <= 1) {
      for (std::int64_t i = 0; i < count; ++i) task(i);
      return;
    }
    run({&task, [](const void* context, std::int64_t index) { (*static_cast<const Task*>(context))(index); }}, count);
  }

 private:
  struct Job {
    const void* task = nullptr;
    void (*call)(const void* task, std::int64_t index) = nullptr;
  };

  void run(const Job& job, std::int64_t count);
  bool run_one_index();
  void call(std::uint32_t index);
  void work();

  std::vector<std::thread> workers_;
  // Loop number (upper half) and how many of its indices nobody has begun (lower half), so that taking an index of a
  // loop that has just ended fails.
  std::atomic<std::uint64_t> open_{0};
  std::atomic<std::uint32_t> unfinished_{0};
  Job job_;  // written while no index is open, read by those who took one
  std::atomic<int> sleeping_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ending_ = false;           // under mutex_
  std::exception_ptr exception_;  // the first of a loop; under mutex_
};

}  // namespace lectern::engine

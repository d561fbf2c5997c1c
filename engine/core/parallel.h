// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace lectern::engine {

// A fixed team of threads that run one loop at a time. Workers spin briefly between loops, then sleep. Used from one
// thread at a time.
class ThreadTeam {
 public:
  explicit ThreadTeam(int threads);  // 0: one per hardware thread
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs task(index) for every index in [0, count), each once, on any thread of the team; returns when all are done.
  // Which thread runs an index must not change what it computes. Tasks must not throw.
  void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& task);

 private:
  void work();
  void run_tasks();

  std::vector<std::thread> workers_;
  const std::function<void(std::int64_t)>* task_ = nullptr;  // written before round_ advances
  std::int64_t count_ = 0;
  std::atomic<std::int64_t> next_{0};
  std::atomic<int> busy_{0};
  std::atomic<std::uint32_t> round_{0};
  std::atomic<bool> ending_{false};
};

}  // namespace lectern::engine

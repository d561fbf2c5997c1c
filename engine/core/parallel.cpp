// SPDX-License-Identifier: Apache-2.0
#include "core/parallel.h"

#include <algorithm>
#include <system_error>
#include <utility>

namespace lectern::engine {
namespace {

constexpr int kSpins = 4000;        // some tens of microseconds: longer than the gap between two loops of one layer
constexpr int kSpinsPerYield = 64;  // lets whoever holds the last index run when there are more threads than cores

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

std::uint32_t loop_number(std::uint64_t open) { return static_cast<std::uint32_t>(open >> 32); }
std::uint32_t open_count(std::uint64_t open) { return static_cast<std::uint32_t>(open); }

}  // namespace

ThreadTeam::ThreadTeam(int threads) {
  const int wanted = threads > 0 ? threads : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  workers_.reserve(static_cast<std::size_t>(wanted - 1));
  try {
    for (int i = 1; i < wanted; ++i) workers_.emplace_back([this] { work(); });
  } catch (const std::system_error&) {
    // The system gives no more threads: the team is smaller.
  }
}

ThreadTeam::~ThreadTeam() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::run(const Job& job, std::int64_t count) {
  const auto indices = static_cast<std::uint32_t>(count);
  job_ = job;
  unfinished_.store(indices, std::memory_order_relaxed);
  const std::uint64_t number = loop_number(open_.load(std::memory_order_relaxed)) + 1U;
  open_.store(number << 32 | indices);  // sequentially consistent: ordered before the look at sleeping_
  if (sleeping_.load() > 0) {
    { const std::lock_guard lock(mutex_); }
    wake_.notify_all();
  }
  while (run_one_index()) {
  }
  for (int spin = 1; unfinished_.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin % kSpinsPerYield == 0) {
      std::this_thread::yield();
    } else {
      pause();
    }
  }
  // No lock: the workers' writes happened before the end of their last index.
  if (exception_) std::rethrow_exception(std::exchange(exception_, nullptr));
}

// Takes an open index and runs it; false when there is none.
bool ThreadTeam::run_one_index() {
  std::uint64_t open = open_.load(std::memory_order_acquire);
  do {
    if (open_count(open) == 0) return false;
  } while (!open_.compare_exchange_weak(open, open - 1, std::memory_order_acq_rel, std::memory_order_acquire));
  call(open_count(open) - 1);
  unfinished_.fetch_sub(1, std::memory_order_release);
  return true;
}

void ThreadTeam::call(std::uint32_t index) {
  try {
    job_.call(job_.task, index);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!exception_) exception_ = std::current_exception();
  }
}

void ThreadTeam::work() {
  for (int idle = 0;; ++idle) {
    const std::uint64_t open = open_.load(std::memory_order_acquire);
    if (open_count(open) > 0) {
      while (run_one_index()) {
      }
      idle = 0;
    }
    if (idle < kSpins) {
      pause();
      continue;
    }
    std::unique_lock lock(mutex_);
    sleeping_.fetch_add(1);
    wake_.wait(lock, [this] { return ending_ || open_count(open_.load()) > 0; });
    sleeping_.fetch_sub(1);
    if (ending_) return;
    idle = 0;
  }
}

}  // namespace lectern::engine

// SPDX-License-Identifier: Apache-2.0
#include "core/parallel.h"

#include <algorithm>

namespace lectern::engine {
namespace {

constexpr int kSpins = 2000;  // a few microseconds: longer than the gap between two loops of one layer

template <class Condition>
bool spin_until(const Condition& condition) {
  for (int i = 0; i < kSpins; ++i) {
    if (condition()) return true;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  return false;
}

}  // namespace

ThreadTeam::ThreadTeam(int threads) {
  const int wanted = threads > 0 ? threads : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  for (int i = 1; i < wanted; ++i) workers_.emplace_back([this] { work(); });
}

ThreadTeam::~ThreadTeam() {
  ending_.store(true);
  round_.fetch_add(1);
  round_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& task) {
  if (count <= 0) return;
  if (workers_.empty() || count == 1) {
    for (std::int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  task_ = &task;
  count_ = count;
  next_.store(0);
  busy_.store(static_cast<int>(workers_.size()));
  round_.fetch_add(1);
  round_.notify_all();
  run_tasks();
  if (spin_until([this] { return busy_.load() == 0; })) return;
  for (int left = busy_.load(); left != 0; left = busy_.load()) busy_.wait(left);
}

void ThreadTeam::run_tasks() {
  for (std::int64_t i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) (*task_)(i);
}

void ThreadTeam::work() {
  std::uint32_t seen = 0;
  while (true) {
    if (!spin_until([&] { return round_.load() != seen; })) round_.wait(seen);
    if (round_.load() == seen) continue;
    seen = round_.load();
    if (ending_.load()) return;
    run_tasks();
    if (busy_.fetch_sub(1) == 1) busy_.notify_one();
  }
}

}  // namespace lectern::engine

// SPDX-License-Identifier: Apache-2.0
#include "runtime/pass_scheduler.h"

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

namespace lectern::engine {
namespace {

constexpr int kPatienceShare = 20;  // wait at most this fraction of the last pass for others to join
constexpr std::chrono::microseconds kLeastPatience(300);

}  // namespace

PassScheduler::Turn::Turn(PassScheduler& scheduler) : scheduler_(scheduler) {
  std::unique_lock lock(scheduler_.mutex_);
  const std::uint64_t turn = scheduler_.next_turn_++;
  scheduler_.changed_.wait(lock, [&] { return scheduler_.current_turn_ == turn; });
}

PassScheduler::Turn::~Turn() {
  {
    const std::lock_guard lock(scheduler_.mutex_);
    ++scheduler_.current_turn_;
  }
  scheduler_.changed_.notify_all();
}

void PassScheduler::join(int change) {
  {
    const std::lock_guard lock(mutex_);
    members_ += change;
  }
  changed_.notify_all();
}

Result<void> PassScheduler::advance(const Reading& reading, const std::stop_token& stop) {
  if (reading.tokens.size() <= static_cast<std::size_t>(kSmallBatchRows)) return advance_together(reading, stop);
  const Turn turn(*this);
  return model_.advance({&reading, 1}, stop);
}

// The first to come leads: it gathers those who come with it, runs the pass for all, and leaves the lead to whoever is
// still waiting.
Result<void> PassScheduler::advance_together(const Reading& reading, const std::stop_token& stop) {
  Waiting self = {reading, {}, false};
  std::unique_lock lock(mutex_);
  waiting_.push_back(&self);
  changed_.notify_all();
  while (!self.done) {
    if (led_) {
      changed_.wait(lock, [&] { return self.done || !led_; });
      continue;
    }
    if (stop.stop_requested()) {
      std::erase(waiting_, &self);
      return Error{ErrorCode::kCancelled, "The computation was stopped."};
    }
    led_ = true;
    wait_for_others(lock);
    lock.unlock();
    run_waiting();
    lock.lock();
    led_ = false;
    changed_.notify_all();
  }
  return self.result;
}

void PassScheduler::wait_for_others(std::unique_lock<std::mutex>& lock) {
  if (members_ <= 1) return;
  const auto patience = std::max<std::chrono::steady_clock::duration>(kLeastPatience, last_pass_ / kPatienceShare);
  changed_.wait_for(lock, patience, [&] { return static_cast<int>(waiting_.size()) >= members_; });
}

void PassScheduler::run_waiting() {
  const Turn turn(*this);
  std::vector<Waiting*> chosen;
  std::vector<Reading> readings;
  {
    const std::lock_guard lock(mutex_);
    std::size_t rows = 0;
    while (!waiting_.empty()) {
      rows += waiting_.front()->reading.tokens.size();
      if (!chosen.empty() && rows > static_cast<std::size_t>(kSmallBatchRows)) break;
      chosen.push_back(waiting_.front());
      readings.push_back(waiting_.front()->reading);
      waiting_.pop_front();
    }
  }
  const auto start = std::chrono::steady_clock::now();
  Result<void> result;
  try {
    result = model_.advance(readings);
  } catch (const std::exception& failure) {
    result = Error{ErrorCode::kOutOfMemory, std::string("A pass of the model failed: ") + failure.what() + "."};
  }
  const std::lock_guard lock(mutex_);
  last_pass_ = std::chrono::steady_clock::now() - start;
  for (Waiting* waiting : chosen) {
    waiting->result = result;
    waiting->done = true;
  }
}

}  // namespace lectern::engine

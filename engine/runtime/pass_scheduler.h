// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <stop_token>

#include "engine/result.h"
#include "model/transformer.h"

namespace lectern::engine {

// Shares one transformer among sequences that are advanced from different threads (continuous batching). Passes of few
// rows that wait at the same time are computed together, at most kSmallBatchRows rows, so that a sequence's numbers do
// not depend on its neighbours to the last bit; longer readings (prefill) run alone. Everyone gets a turn in the order
// of asking: a long prompt cannot starve the replies of others for longer than one of its chunks.
class PassScheduler {
 public:
  explicit PassScheduler(Transformer& model) : model_(model) {}

  // A sequence that will go on asking for small passes: these wait a moment for one another.
  class Member {
   public:
    explicit Member(PassScheduler& scheduler) : scheduler_(scheduler) { scheduler_.join(1); }
    ~Member() { scheduler_.join(-1); }
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;

   private:
    PassScheduler& scheduler_;
  };

  // Transformer::advance() for one sequence, from any thread. Errors as there; kCancelled also while waiting.
  Result<void> advance(const Reading& reading, const std::stop_token& stop);

  // Runs action(model) while nobody else uses the model.
  template <class Action>
  auto exclusively(const Action& action) {
    const Turn turn(*this);
    return action(model_);
  }

  const Transformer& model() const { return model_; }

 private:
  // The model, first come, first served.
  class Turn {
   public:
    explicit Turn(PassScheduler& scheduler);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    PassScheduler& scheduler_;
  };

  struct Waiting {
    Reading reading;
    Result<void> result;
    bool done = false;
  };

  void join(int change);
  Result<void> advance_together(const Reading& reading, const std::stop_token& stop);
  void wait_for_others(std::unique_lock<std::mutex>& lock);
  void run_waiting();

  Transformer& model_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t next_turn_ = 0;  // under mutex_, as all below
  std::uint64_t current_turn_ = 0;
  int members_ = 0;
  bool led_ = false;  // a thread gathers or runs small passes
  std::deque<Waiting*> waiting_;
  std::chrono::steady_clock::duration last_pass_{};
};

}  // namespace lectern::engine

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "engine/model_tools.h"

namespace lectern::engine {

// Tells a sink, if there is one, how far a task is.
class TaskClock {
 public:
  explicit TaskClock(const TaskSink& sink) : sink_(sink) {}

  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  void tell(const std::string& item, std::int64_t done, std::int64_t total) const {
    if (sink_) sink_({item, done, total, seconds()});
  }

 private:
  const TaskSink& sink_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace lectern::engine

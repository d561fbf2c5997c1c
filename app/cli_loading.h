// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <chrono>
#include <future>
#include <thread>
#include <type_traits>
#include <utility>

#include "cli_commands.h"
#include "cli_measure.h"
#include "composition.h"

namespace lectern::app {

// Ctrl+C came while a model was being loaded. The thread that loads it goes on, so the process must end without
// destroying what that thread may use.
struct LoadingAbandoned {};

// What `load` returns, which must own all that it uses; throws LoadingAbandoned.
template <class Load>
std::invoke_result_t<Load> loadUnlessStopped(const CommandContext& context, Load load) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kPoll = std::chrono::milliseconds(20);
  std::packaged_task<std::invoke_result_t<Load>()> task(std::move(load));
  auto loaded = task.get_future();
  std::thread loader(std::move(task));
  const Clock::time_point begin = Clock::now();
  while (loaded.wait_for(kPoll) != std::future_status::ready) {
    if (context.interrupt.token().stop_requested()) {
      loader.detach();
      throw LoadingAbandoned();
    }
    context.terminal.progress("Loading the model: " +
                              duration(std::chrono::duration<double>(Clock::now() - begin).count()));
  }
  context.terminal.endProgress();
  loader.join();
  return loaded.get();
}

inline retrieval::Result<OpenedGenerator> loadGenerator(const CommandContext& context) {
  return loadUnlessStopped(
      context, [locations = context.locations, model = context.options.model,
                options = engineOptions(context.options)] { return openGenerator(locations, model, options); });
}

inline OpenedEmbedder loadEmbedder(const CommandContext& context) {
  return loadUnlessStopped(context, [locations = context.locations, threads = context.options.threads] {
    return openEmbedder(locations, threads);
  });
}

}  // namespace lectern::app

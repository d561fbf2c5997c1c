// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#include "cli_commands.h"
#include "cli_measure.h"
#include "composition.h"
#include "engine/engine.h"

namespace lectern::app {

// Ctrl+C came while a model was being loaded. The thread that loads it goes on, so the process must end without
// destroying what that thread may use.
struct LoadingAbandoned {
  const char* what = "Stopped while the model was being loaded.";
};

// Bytes of weights that a loading thread has handed over, shared with the one that waits.
struct LoadedBytes {
  std::atomic<std::int64_t> done = 0;
  std::atomic<std::int64_t> total = 0;
};

// What `load` returns, which must own all that it uses; throws LoadingAbandoned. What it is given reports to this
// thread.
template <class Load>
std::invoke_result_t<Load, engine::LoadObserver> loadUnlessStopped(const CommandContext& context, Load load) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kPoll = std::chrono::milliseconds(20);
  const auto bytes = std::make_shared<LoadedBytes>();
  engine::LoadObserver observer;
  observer.on_progress = [bytes](std::int64_t done, std::int64_t total) {
    bytes->total = total;
    bytes->done = done;
  };
  observer.stop = context.interrupt.token();
  std::packaged_task<std::invoke_result_t<Load, engine::LoadObserver>()> task(
      [load = std::move(load), observer = std::move(observer)] { return load(observer); });
  auto loaded = task.get_future();
  std::thread loader(std::move(task));
  const Clock::time_point begin = Clock::now();
  while (loaded.wait_for(kPoll) != std::future_status::ready) {
    if (context.interrupt.token().stop_requested()) {
      loader.detach();
      throw LoadingAbandoned();
    }
    context.terminal.progress(
        loadingLine(std::chrono::duration<double>(Clock::now() - begin).count(), bytes->done, bytes->total));
  }
  context.terminal.endProgress();
  loader.join();
  if (context.interrupt.token().stop_requested()) throw LoadingAbandoned();
  return loaded.get();
}

// What `measure` returns, which opens models itself and takes a stop request everywhere but there: it must own all that
// it uses, and gets the sink for its progress. Throws LoadingAbandoned when it has not ended soon after Ctrl+C.
template <class Measure>
std::invoke_result_t<Measure, engine::TaskSink> measureUnlessStopped(const CommandContext& context,
                                                                     const std::string& verb, Measure measure) {
  constexpr auto kPoll = std::chrono::milliseconds(20);
  constexpr auto kTimeToEnd = std::chrono::milliseconds(100);
  const std::stop_token stop = context.interrupt.token();
  // After a stop request the terminal belongs to this thread.
  const engine::TaskSink sink = [stop, tell = progressOn(context, verb)](const engine::TaskProgress& progress) {
    if (!stop.stop_requested()) tell(progress);
  };
  std::packaged_task<std::invoke_result_t<Measure, engine::TaskSink>()> task(
      [sink, measure = std::move(measure)] { return measure(sink); });
  auto measured = task.get_future();
  std::thread measurer(std::move(task));
  while (!stop.stop_requested() && measured.wait_for(kPoll) != std::future_status::ready) continue;
  if (stop.stop_requested() && measured.wait_for(kTimeToEnd) != std::future_status::ready) {
    measurer.detach();
    throw LoadingAbandoned{"Stopped before anything was measured to its end."};
  }
  measurer.join();
  return measured.get();
}

inline retrieval::Result<OpenedGenerator> loadGenerator(const CommandContext& context) {
  return loadUnlessStopped(context, [locations = context.locations, model = context.options.model,
                                     options = engineOptions(context.options)](const engine::LoadObserver& observer) {
    return openGenerator(locations, model, options, observer);
  });
}

inline OpenedEmbedder loadEmbedder(const CommandContext& context) {
  return loadUnlessStopped(context,
                           [locations = context.locations, threads = context.options.threads](
                               const engine::LoadObserver& /*observer*/) { return openEmbedder(locations, threads); });
}

}  // namespace lectern::app

// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "device_rates.h"
#include "engine/result.h"
#include "engine/types.h"
#include "model/transformer.h"
#include "observed_backend.h"
#include "report.h"
#include "synthetic_model.h"

namespace lectern::engine::bench {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// A model on a device, and what is known about both.
struct Subject {
  Transformer& model;
  ObservedBackend& backend;
  Traffic traffic;
  DeviceRates rates;
  std::int64_t passes = 128;  // timed for each figure of decoding
  Clock::time_point deadline = Clock::time_point::max();

  double best_bandwidth() const { return rates.read_bytes > rates.copy_bytes ? rates.read_bytes : rates.copy_bytes; }
};

std::vector<TokenId> random_tokens(const Subject& subject, std::int64_t count, std::uint64_t seed);

// A sequence of `tokens` tokens: the first few are read, the keys and values of the others are random numbers. Errors:
// kOutOfMemory, kDevice.
Result<SequenceState> synthetic_sequence(Subject& subject, std::int64_t tokens, KvType kv, bool with_mtp);

std::string name_of(KvType kv);

// Median, 99th percentile and mean of a list of times, in milliseconds.
void add_times(Json& json, std::vector<double> seconds);

}  // namespace lectern::engine::bench

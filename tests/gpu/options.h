// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"

namespace lectern::engine::bench {

// Lists begin with what matters most: when time is short, the rest is left out.
struct Options {
  std::string format = "fp8";
  bool tiny = false;  // the shape for the emulation
  std::int64_t layers = 48;
  std::vector<std::int64_t> contexts = {4096, 262144, 128, 32768, 131072, 1048576};
  std::vector<std::int64_t> batches = {1, 4, 8, 2};
  std::vector<std::int64_t> prefill = {32768, 262144, 4096, 131072};
  std::vector<KvType> kv = {KvType::kBF16, KvType::kQ8};  // the second for long contexts only, beside the first
  std::int64_t chunk = 8192;                              // rows of a pass while reading
  std::int64_t passes = 128;
  std::int64_t seed = 1;
  int device = 0;
  double budget_seconds = 240;
  std::string json;  // file of the results; empty: only the summary is printed
  bool help = false;
};

extern const char* const kHelp;

// Errors: kInvalidArgument.
Result<Options> parse_options(int count, const char* const* arguments);

}  // namespace lectern::engine::bench

// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine_options.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "runtime/transformer_sequence.h"

namespace lectern::engine {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kMostDevices = 1024;
constexpr std::int64_t kMostChunkTokens = 16384;
constexpr double kLargestRopeFactor = 1024;

Result<void> check_gpus(const std::vector<int>& gpus) {
  for (std::size_t i = 0; i < gpus.size(); ++i) {
    const std::string name = "GPU " + std::to_string(gpus[i]);
    if (gpus[i] < 0 || gpus[i] >= kMostDevices) {
      return Error{ErrorCode::kInvalidArgument,
                   name + " cannot be; the numbers of GPUs are 0 to " + std::to_string(kMostDevices - 1) + "."};
    }
    if (std::find(gpus.begin(), gpus.begin() + static_cast<std::ptrdiff_t>(i), gpus[i]) !=
        gpus.begin() + static_cast<std::ptrdiff_t>(i)) {
      return Error{ErrorCode::kInvalidArgument, name + " is named twice; name every GPU once."};
    }
  }
  return {};
}

}  // namespace

Result<void> check_options(const EngineOptions& options) {
  const auto wrong = [](const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
    return Error{ErrorCode::kInvalidArgument, std::string(name) + " is " + std::to_string(value) + " but must be " +
                                                  std::to_string(low) + " to " + std::to_string(high) + "."};
  };
  if (options.threads < 0 || options.threads > kMostThreads) return wrong("threads", options.threads, 0, kMostThreads);
  ENGINE_CHECK(check_gpus(options.gpus));
  if (options.prefill_chunk_tokens < 0 || options.prefill_chunk_tokens > kMostChunkTokens) {
    return wrong("prefill_chunk_tokens", options.prefill_chunk_tokens, 0, kMostChunkTokens);
  }
  if (options.draft_tokens < 0 || options.draft_tokens > kMostDrafts) {
    return wrong("draft_tokens", options.draft_tokens, 0, kMostDrafts);
  }
  if (options.gpu_experts < -1) {
    return Error{ErrorCode::kInvalidArgument, "gpu_experts is negative; use -1 for as many as fit."};
  }
  if (options.rope_factor != 0 && !(options.rope_factor >= 1 && options.rope_factor <= kLargestRopeFactor)) {
    return Error{ErrorCode::kInvalidArgument, "rope_factor must be 0 (none) or 1 to 1024."};
  }
  if (options.context_tokens < 0) {
    return Error{ErrorCode::kInvalidArgument, "context_tokens is negative; use 0 for the model's own maximum."};
  }
  return {};
}

}  // namespace lectern::engine

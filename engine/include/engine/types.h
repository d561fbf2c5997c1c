// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lectern::engine {

using TokenId = std::int32_t;

enum class DeviceKind { kCpu, kCuda };

struct EngineOptions {
  DeviceKind device = DeviceKind::kCpu;
  int threads = 0;                  // 0: one per hardware thread
  std::int64_t context_tokens = 0;  // 0: the model's own maximum; memory is taken as a sequence grows
  std::int64_t prefill_chunk_tokens = 512;
};

struct SamplingOptions {
  float temperature = 0.0F;  // 0: greedy
  int top_k = 0;             // 0: off
  float top_p = 1.0F;        // 1: off
  float min_p = 0.0F;        // 0: off; keeps tokens with p >= min_p * max p
  float presence_penalty = 0.0F;
  float repetition_penalty = 1.0F;  // 1: off
  std::uint64_t seed = 0;
};

struct ChatMessage {
  std::string role;     // "system", "user" or "assistant"
  std::string content;  // UTF-8; special tokens inside it are never interpreted
};

struct GenerationRequest {
  std::vector<ChatMessage> messages;
  SamplingOptions sampling;
  std::int64_t max_new_tokens = 1024;
  bool thinking = false;                // opens the reasoning block in the generation prompt
  std::vector<std::string> stop_texts;  // generation ends before any of these; the text itself is not emitted
};

enum class FinishReason { kStop, kLength, kCancelled };

struct GenerationStatistics {
  std::int64_t prompt_tokens = 0;
  std::int64_t generated_tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

struct GenerationResult {
  std::string text;       // the answer, without reasoning
  std::string reasoning;  // what stood before </think>, if anything
  FinishReason finish = FinishReason::kStop;
  GenerationStatistics statistics;
};

// Receives events on the thread that called generate(). Implementations must not block for long.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  // After every prefill chunk: tokens done of total, seconds since prefill began.
  virtual void on_prefill(std::int64_t /*done*/, std::int64_t /*total*/, double /*seconds*/) {}
  // A piece of valid UTF-8.
  virtual void on_text(std::string_view /*piece*/) {}
  virtual void on_reasoning(std::string_view /*piece*/) {}
};

struct ModelInfo {
  std::string name;          // directory name
  std::string architecture;  // "qwen3_next"
  std::int64_t parameters = 0;
  std::int64_t weight_bytes = 0;
  std::int64_t context_tokens = 0;  // effective limit of one sequence
  std::int64_t layers = 0;
  bool has_mtp = false;
  bool thinking = false;  // its own chat template opens a reasoning block
};

struct DeviceInfo {
  DeviceKind kind = DeviceKind::kCpu;
  std::string name;
  std::int64_t memory_bytes = 0;
  bool usable = false;
  std::string reason;  // why it is not usable; empty when it is
};

}  // namespace lectern::engine

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lectern::engine {

using TokenId = std::int32_t;

enum class DeviceKind { kCpu, kCuda };

// How keys and values are kept. kQ8: 8 bits with a scale for every 32 numbers.
enum class KvType : std::uint8_t { kF32, kBF16, kQ8 };

// Sequences kept so that a prompt which begins like an earlier one need not be read again.
struct SessionOptions {
  std::int64_t memory_bytes = std::int64_t{1} << 30;  // 0: nothing is reused
  std::int64_t checkpoint_tokens = 4096;              // besides the ends of turns
  std::filesystem::path directory = {};               // empty: nothing is kept on disk
  std::int64_t disk_bytes = std::int64_t{8} << 30;    // least recently used sessions are deleted beyond it
};

// Where the weights of a model are read. kMapped: in the file's own pages, which other programs share and the system
// can drop. kCopied: in memory of the process, in large pages, which are read faster. kAuto: copied where there is
// room.
enum class WeightPlacement : std::uint8_t { kAuto, kMapped, kCopied };

struct EngineOptions {
  DeviceKind device = DeviceKind::kCpu;
  std::vector<int> gpus = {};             // counted from 0; several share the layers. Empty: as few as the model needs
  int threads = 0;                        // 0: one per hardware thread
  std::int64_t context_tokens = 0;        // 0: the model's own maximum, or as much of it as fits
  std::int64_t prefill_chunk_tokens = 0;  // 0: chosen for the model
  KvType kv_type = KvType::kBF16;
  double rope_factor = 0;  // YaRN, for those sequences that are longer than the model was trained for; 0: none
  int draft_tokens = 4;    // most tokens guessed ahead with the model's MTP module, at most 4; 0: none
  std::int64_t memory_limit_bytes = 0;  // of each GPU, if several; 0: what the system has available
  WeightPlacement weights = WeightPlacement::kAuto;
  SessionOptions sessions = {};
  std::int64_t gpu_experts = -1;  // of each block, on a GPU; the computer's memory keeps the others. -1: as fit
};

// What one GPU has of a model, and the memory for it.
struct GpuShare {
  int gpu = 0;              // its number
  std::int64_t layers = 0;  // these follow those of the GPU before it
  std::int64_t weights = 0;
  std::int64_t sequences = 0;  // keys, values and states, kept ones included
  std::int64_t scratch = 0;
  std::int64_t limit = 0;
};

// Memory of an open model, in bytes: of the computer, or of the GPU, where all of it is taken at once and never grows;
// of several GPUs together.
struct MemoryPlan {
  std::int64_t weights = 0;         // on the CPU mapped from the file, copies of reordered rows included
  std::int64_t kv_cache = 0;        // of one sequence of the whole context; on the CPU taken as it grows
  std::int64_t state = 0;           // fixed-size states of one sequence
  std::int64_t scratch = 0;         // activations and working memory
  std::int64_t sessions = 0;        // GPU only: for sequences kept to be gone on from, and one on its way there
  std::int64_t kept_sessions = 0;   // of these, for the kept ones
  std::int64_t limit = 0;           // what may be used
  std::int64_t experts = 0;         // of each block; 0: none, or all of them where the rest is
  std::int64_t experts_on_gpu = 0;  // of these, at a time; the others are in the computer's memory
  std::int64_t expert_staging = 0;  // part of `weights`: where experts are that go to the GPU for one prompt
  std::int64_t hosted_experts = 0;  // of the computer's memory: experts of which only some are on the GPU at a time
  std::int64_t locked_experts = 0;  // of these, page-locked; the others go to the GPU through two buffers, slower
  std::vector<GpuShare> gpus = {};  // the same, GPU by GPU; empty on the CPU
  std::int64_t total() const { return weights + kv_cache + state + scratch + sessions; }
};

// What a device is expected to reach with a model; of what is measured, a share. 0: not known.
struct ExpectedRates {
  double memory_bytes_per_second = 0;      // read by the device
  double operations_per_second = 0;        // in products of many rows
  double host_bytes_per_second = 0;        // read by the CPU
  double transfer_bytes_per_second = 0;    // GPU only: to it, out of page-locked memory
  double host_operations_per_second = 0;   // by the CPU in products of few rows; 0: no limit
  double small_operations_per_second = 0;  // by the device in these; 0: no limit
};

// How fast a model is likely to be where it has been placed: computed, not measured. One sequence, nothing guessed
// ahead, experts chosen evenly.
struct PredictedSpeed {
  std::int64_t experts_on_gpu = 0;       // MemoryPlan::experts_on_gpu of the placement
  std::int64_t depth_tokens = 0;         // of the context
  double decode_tokens_per_second = 0;   // 0: not known
  double prefill_tokens_per_second = 0;  // 0: not known
};

// Of the placement in use and, where the user has decided how many experts are on the GPU, of what would have been
// chosen otherwise.
struct SpeedPrediction {
  ExpectedRates rates;
  PredictedSpeed chosen;
  std::optional<PredictedSpeed> planned;
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
  // Bytes of `content`, rising, after which another prompt may well go on differently, such as the ends of passages:
  // some of them become places from which such a prompt is read on. Reading pauses there, kept or not, which may change
  // the last bits of what follows: prompts that begin alike in text and boundaries give the same bits, read on or anew.
  std::vector<std::int64_t> boundaries = {};
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
  std::int64_t reused_tokens = 0;    // of the prompt, from a session
  std::int64_t drafted_tokens = 0;   // guessed ahead
  std::int64_t accepted_tokens = 0;  // of those, found right
  double rope_factor = 1;            // above 1: the sequence was read with YaRN
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
  // After every prefill chunk: tokens done of total, seconds since prefill began. Where a session knows the beginning
  // of the prompt, first of all its tokens, at 0 seconds: they were not read now and belong in no speed.
  virtual void on_prefill(std::int64_t /*done*/, std::int64_t /*total*/, double /*seconds*/) {}
  // A piece of valid UTF-8.
  virtual void on_text(std::string_view /*piece*/) {}
  virtual void on_reasoning(std::string_view /*piece*/) {}
};

struct ModelInfo {
  std::string name;          // of the directory or file
  std::string architecture;  // "qwen3_next", "qwen3" or "qwen3_moe"
  std::string quantisation;  // types of the weights, by their share: "Q4_K 71 %, Q6_K 27 %"
  std::int64_t parameters = 0;
  std::int64_t weight_bytes = 0;
  std::int64_t context_tokens = 0;  // effective limit of one sequence
  std::int64_t layers = 0;
  bool has_mtp = false;
  MemoryPlan memory;
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

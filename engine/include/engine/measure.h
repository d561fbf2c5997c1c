// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/model_tools.h"
#include "engine/result.h"
#include "engine/types.h"

namespace lectern::engine {

// Of several runs.
struct Spread {
  double median = 0;
  double least = 0;
  double most = 0;
};

// What this machine can do with the threads of a run, measured in that run.
struct MachineRates {
  double read_bytes_per_second = 0;  // from memory, far beyond the caches
  double f32_operations_per_second = 0;
  double bf16_operations_per_second = 0;  // 0: no such instructions
  double int8_operations_per_second = 0;  // 0: no such instructions
};

struct BenchOptions {
  EngineOptions engine;  // draft_tokens above 0 also measures guessing ahead, where the model can
  std::int64_t prefill_tokens = 512;
  std::int64_t decode_tokens = 64;
  std::int64_t depth_tokens = 0;  // already in the context before anything is measured
  bool synthetic_depth = false;   // these have random keys and values instead of being read
  int sequences = 1;              // decoded together
  int repeats = 3;
};

// The same greedy continuation of a text with and without guessing ahead.
struct DraftReport {
  int most_drafts = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t tokens = 0;  // of the continuation
  std::int64_t drafted = 0;
  std::int64_t accepted = 0;
  Spread plain_tokens_per_second;
  Spread tokens_per_second;
  bool same_tokens = false;  // as it must be
  double gain() const {
    return plain_tokens_per_second.median > 0 ? tokens_per_second.median / plain_tokens_per_second.median : 0;
  }
};

// The most that a run had in use at once on one GPU, in bytes, beside what was planned.
struct GpuMemoryUse {
  std::int64_t weights = 0;
  std::int64_t state = 0;  // keys and values included
  std::int64_t scratch = 0;
};

struct BenchReport {
  std::string model;
  std::string architecture;
  std::int64_t parameters = 0;
  std::int64_t weight_bytes = 0;
  int threads = 0;
  KvType kv_type = KvType::kBF16;
  BenchOptions options;
  std::int64_t prefill_chunk_tokens = 0;
  double load_seconds = 0;
  double copy_seconds = 0;  // of the weights into memory, after that; 0: they stay in the file
  double depth_seconds = 0;
  Spread prefill_tokens_per_second;
  Spread decode_tokens_per_second;   // of all sequences together
  double decode_bytes_per_pass = 0;  // that one pass has to move
  double decode_bytes_per_second = 0;
  double prefill_operations_per_second = 0;
  MachineRates machine;
  std::optional<DraftReport> drafts;
  MemoryPlan memory;
  SpeedPrediction prediction;            // from what the device reaches, without the speeds above
  std::vector<GpuMemoryUse> gpu_memory;  // of each of memory.gpus; `machine` is empty then
  std::string dense_products;            // of a run on a GPU, what computes them: "cuBLASLt 13.1.0"
  std::int64_t sequence_bytes = 0;       // of one sequence at the end
  std::int64_t peak_resident_bytes = 0;
  std::string logits_fingerprint;  // a hash of the bits of the last logits
  TokenId top_token = 0;
  bool repeatable = false;  // every run gave the same last logits
};

// Errors: as Engine::open(); kInvalidArgument for numbers out of range; kCancelled.
Result<BenchReport> run_bench(const std::filesystem::path& model, const BenchOptions& options, const TaskSink& progress,
                              std::stop_token stop);

struct CompareOptions {
  EngineOptions engine;
  std::vector<std::string> texts;       // empty: some built-in ones
  std::int64_t most_text_tokens = 256;  // longer texts are cut
  std::int64_t decode_tokens = 32;      // greedily after each text, for speed and the first difference
};

// What two models expect after every token of a text. A is the reference. Natural logarithms.
struct Agreement {
  std::int64_t positions = 0;
  double same_top_token = 0;   // share of positions
  double mean_divergence = 0;  // KL(A || B)
  double largest_divergence = 0;
  double mean_log_probability_difference = 0;  // of the text's own next token, A less B
  double perplexity_a = 0;
  double perplexity_b = 0;
};

struct ComparedText {
  std::string beginning;
  Agreement agreement;
  std::int64_t decoded_tokens = 0;
  std::int64_t same_tokens = 0;  // of the greedy continuations, before they part
};

struct ComparedModel {
  std::string name;
  std::string quantisation;  // largest types first
  std::int64_t weight_bytes = 0;
  double load_seconds = 0;
  Spread prefill_tokens_per_second;
  Spread decode_tokens_per_second;
};

struct CompareReport {
  ComparedModel a;
  ComparedModel b;
  bool alternated = false;  // false: they do not fit into memory together, so that one ran after the other
  Agreement agreement;
  std::vector<ComparedText> texts;
};

// Errors: as Engine::open(); kInvalidArgument (models with different tokenizers, no text of two tokens), kCancelled.
Result<CompareReport> compare_models(const std::filesystem::path& a, const std::filesystem::path& b,
                                     const CompareOptions& options, const TaskSink& progress, std::stop_token stop);

}  // namespace lectern::engine

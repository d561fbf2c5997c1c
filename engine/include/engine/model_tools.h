// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"

namespace lectern::engine {

// Where a long task stands. Called on the thread that started it; must not block for long.
struct TaskProgress {
  std::string item;       // what is being done
  std::int64_t done = 0;  // of total, in bytes or steps
  std::int64_t total = 0;
  double seconds = 0;
};
using TaskSink = std::function<void(const TaskProgress&)>;

struct TypeShare {
  std::string type;
  std::int64_t tensors = 0;
  std::int64_t numbers = 0;
  std::int64_t bytes = 0;
};

struct TensorReport {
  std::string name;                 // as the file has it
  std::string type;                 // "Q4_K", "BF16", ...
  std::vector<std::int64_t> shape;  // outermost first
  std::int64_t bytes = 0;
};

struct MemoryAtContext {
  std::int64_t context_tokens = 0;
  KvType kv_type = KvType::kBF16;
  MemoryPlan memory;
  bool fits = false;  // in what the system has available now
};

struct ModelReport {
  std::string name;
  std::string format;        // "GGUF" or "safetensors"
  std::string architecture;  // "qwen3_next", "qwen3" or "qwen3_moe"
  std::string fingerprint;
  std::int64_t parameters = 0;
  std::int64_t active_parameters = 0;  // that one token passes through, embedding row and MTP module not counted
  std::int64_t weight_bytes = 0;
  std::int64_t mtp_bytes = 0;  // of them, in the MTP module
  std::int64_t context_tokens = 0;
  std::int64_t hidden_size = 0;
  std::int64_t vocabulary = 0;
  std::int64_t attention_layers = 0;
  std::int64_t delta_layers = 0;
  std::int64_t experts = 0;
  std::int64_t experts_per_token = 0;
  bool has_mtp = false;
  std::int64_t tokenizer_tokens = 0;  // 0: it could not be read, see tokenizer_note
  std::string tokenizer_note;
  std::vector<TypeShare> types;  // largest first
  std::vector<TensorReport> tensors;
  std::vector<MemoryAtContext> memory;  // rising contexts, each with every way of keeping keys and values
  std::int64_t available_memory = 0;
};

// Reads headers only. Errors: kNotFound, kIo, kCorrupt, kUnsupported.
Result<ModelReport> inspect_model(const std::filesystem::path& path);

// Where a model would be with these options, and how fast.
struct PlacementReport {
  std::int64_t context_tokens = 0;
  MemoryPlan memory;
  SpeedPrediction speed;  // at the context that the options ask for, or at a usual one
};

// Reads headers, and measures the device for a moment. Errors: as Engine::open().
Result<PlacementReport> plan_placement(const std::filesystem::path& model, const EngineOptions& options);

struct ModelFinding {
  bool wrong = false;  // false: strange, but possible
  std::string item;    // a tensor, or "tokenizer"
  std::string what;
};

struct VerificationReport {
  std::int64_t tensors = 0;
  std::int64_t numbers = 0;
  std::int64_t bytes = 0;
  double seconds = 0;
  std::vector<ModelFinding> findings;
  bool sound() const;
};

// Reads every block of every tensor: all names belong to the model, all numbers are finite and of a size that trained
// weights have, and the tokenizer gives back what it was given. Errors: kNotFound, kIo, kCorrupt, kUnsupported (what
// keeps the model from being read at all), kCancelled.
Result<VerificationReport> verify_model(const std::filesystem::path& path, int threads, const TaskSink& progress,
                                        std::stop_token stop);

struct MixInfo {
  std::string name;  // "Q4_K_M"
  std::string what;  // one line
};
std::vector<MixInfo> quantisation_mixes();

struct ConversionOptions {
  std::string mix = "Q4_K_M";  // a name of quantisation_mixes()
  bool keep_mtp = true;
  bool overwrite = false;
  int threads = 0;  // 0: one per hardware thread
};

// A tensor whose rows are not whole blocks of the type that the mix wants for it.
struct TypeFallback {
  std::string tensor;
  std::string wanted;
  std::string used;
};

struct ConversionReport {
  std::string mix;
  std::int64_t tensors = 0;
  std::int64_t parameters = 0;
  std::int64_t source_bytes = 0;
  std::int64_t file_bytes = 0;
  bool has_mtp = false;
  double seconds = 0;
  std::vector<TypeShare> types;  // largest first
  std::vector<TypeFallback> fallbacks;
  std::vector<std::string> notes;
};

// Writes `destination` (.gguf, version 3) from a Hugging Face directory or from another GGUF file. The file appears
// when it is complete; until then it grows under another name beside it, which a failure or a stop request removes.
// Memory stays bounded whatever the size of the model. Errors: kInvalidArgument (unknown mix, a destination that exists
// or is not called .gguf), kNotFound, kCorrupt, kUnsupported, kIo (a full disk, found before the work begins), and
// kCancelled.
Result<ConversionReport> convert_model(const std::filesystem::path& source, const std::filesystem::path& destination,
                                       const ConversionOptions& options, const TaskSink& progress,
                                       std::stop_token stop);

}  // namespace lectern::engine

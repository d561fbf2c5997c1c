// SPDX-License-Identifier: GPL-3.0-or-later
// The engine's side of compare_transformers.py: reads a text with a model on the GPU, writes the logits behind every
// token of its beginning, and times reading and decoding.
//   gpu_logits MODEL TOKENS LOGITS COMPARED DECODED
// TOKENS: 32-bit integers. LOGITS: 32-bit floats, [COMPARED, vocabulary].
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <numeric>
#include <string>
#include <vector>

#include "cuda/cuda_plan.h"
#include "model/model_files.h"
#include "model/transformer.h"

namespace lectern::engine {
namespace {

constexpr std::int64_t kChunk = 4096;
constexpr std::int64_t kMebibyte = std::int64_t{1} << 20;

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::vector<TokenId> read_tokens(const char* file) {
  std::ifstream stream(file, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(stream), {}};
  std::vector<TokenId> tokens(bytes.size() / sizeof(TokenId));
  std::copy(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(tokens.size() * sizeof(TokenId)),
            reinterpret_cast<char*>(tokens.data()));
  return tokens;
}

struct Wanted {
  std::vector<TokenId> text;
  std::string logits_file;
  std::int64_t compared = 0;
  std::int64_t decoded = 0;
};

Result<void> write_logits(Transformer& model, const Wanted& wanted) {
  std::vector<float> logits(static_cast<std::size_t>(wanted.compared * model.config().vocabulary));
  ENGINE_TRY(SequenceState state, model.new_sequence({.kv = KvType::kBF16}));
  ENGINE_CHECK(model.forward(state, std::span(wanted.text).first(static_cast<std::size_t>(wanted.compared)),
                             {wanted.compared, logits, {}}));
  std::ofstream file(wanted.logits_file, std::ios::binary);
  file.write(reinterpret_cast<const char*>(logits.data()), static_cast<std::streamsize>(logits.size() * sizeof(float)));
  if (!file.flush()) return Error{ErrorCode::kIo, "The logits could not be written to " + wanted.logits_file + "."};
  return {};
}

Result<void> time_model(Transformer& model, const Wanted& wanted) {
  std::vector<float> logits(static_cast<std::size_t>(model.config().vocabulary));
  double reading = 0;
  for (int run = 0; run < 2; ++run) {  // the first is the warm-up
    ENGINE_TRY(SequenceState state, model.new_sequence({.kv = KvType::kBF16}));
    auto begin = std::chrono::steady_clock::now();
    ENGINE_CHECK(model.forward(state, wanted.text, {1, logits, {}}));
    reading = seconds_since(begin);
    if (run == 0) continue;
    std::vector<double> times;
    for (std::int64_t i = 0; i < wanted.decoded + 8; ++i) {
      const std::vector<TokenId> token = {wanted.text[static_cast<std::size_t>(i) % wanted.text.size()]};
      begin = std::chrono::steady_clock::now();
      ENGINE_CHECK(model.forward(state, token, {1, logits, {}}));
      if (i >= 8) times.push_back(seconds_since(begin));
    }
    std::printf("{\"prefill_seconds\": %.6f, \"decode_tokens_per_second\": %.3f}\n", reading,
                static_cast<double>(times.size()) / std::reduce(times.begin(), times.end()));
  }
  return {};
}

Result<void> run(const char* path, const Wanted& wanted) {
  ENGINE_TRY(ModelFiles files, ModelFiles::open(path));
  std::int64_t bytes = 64 * kMebibyte;
  for (const auto& [name, tensor] : files.tensors()) bytes += static_cast<std::int64_t>(tensor.bytes.size()) + 1024;
  ENGINE_TRY(const std::unique_ptr<Backend> backend, make_cuda_backend(0, {bytes, 0, 0}));
  ENGINE_TRY(const std::unique_ptr<Transformer> model, Transformer::load(std::move(files), *backend, kChunk));
  ENGINE_CHECK(write_logits(*model, wanted));
  return time_model(*model, wanted);
}

}  // namespace
}  // namespace lectern::engine

int main(int argc, char** argv) {
  using namespace lectern::engine;
  if (argc != 6) {
    std::fputs("gpu_logits MODEL TOKENS LOGITS COMPARED DECODED\n", stderr);
    return 2;
  }
  try {
    const Wanted wanted = {read_tokens(argv[2]), argv[3], std::atoll(argv[4]), std::atoll(argv[5])};
    if (wanted.compared < 1 || wanted.compared > static_cast<std::int64_t>(wanted.text.size())) {
      std::fputs("COMPARED must be between 1 and the number of tokens.\n", stderr);
      return 2;
    }
    const Result<void> result = run(argv[1], wanted);
    if (result.ok()) return 0;
    std::fprintf(stderr, "%s\n", result.error().message.c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  return 1;
}

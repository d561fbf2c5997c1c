// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <vector>

#include "cuda/platform.h"

namespace lectern::engine::cuda {

// Passes remembered as CUDA graphs: the first with a key is captured, later ones are repeated by one launch, which
// spares the processor some hundred of them per token. While a pass is repeated its calls are only compared with those
// that were captured.
class PassGraphs {
 public:
  PassGraphs() = default;
  ~PassGraphs() { forget(); }
  PassGraphs(const PassGraphs&) = delete;
  PassGraphs& operator=(const PassGraphs&) = delete;

  bool capturing() const { return mode_ == Mode::kCapturing; }
  bool repeating() const { return mode_ == Mode::kRepeating; }

  // `memory_changes`: a number that is another when memory of which a graph may know has been given back; then all
  // graphs are forgotten.
  cudaError_t begin(std::span<const std::uint64_t> key, std::uint64_t memory_changes, cudaStream_t stream);
  // Makes or finds the graph; launch it with launch_graph(). Errors: cudaErrorInvalidValue when the calls were not
  // those of the key.
  cudaError_t end(cudaStream_t stream);
  cudaError_t launch_graph(cudaStream_t stream);
  void drop(cudaStream_t stream);
  void forget();

  // One queued call with all its arguments.
  template <class... Arguments>
  void note_call(const void* what, const Grid& grid, const Arguments&... arguments) {
    note(reinterpret_cast<std::uintptr_t>(what));
    note(std::uint64_t{grid.blocks.x} << 32 | grid.threads.x);
    note(std::uint64_t{grid.blocks.y} << 32 | grid.blocks.z);
    (note_bytes(&arguments, sizeof arguments), ...);
  }

 private:
  enum class Mode : std::uint8_t { kNone, kCapturing, kRepeating };
  struct Remembered {
    cudaGraphExec_t graph = nullptr;
    std::uint64_t calls = 0;  // hash of them
    std::uint64_t last_use = 0;
  };
  static constexpr std::size_t kMostGraphs = 64;

  void note(std::uint64_t word) { calls_ = (calls_ ^ word) * 0x9e3779b97f4a7c15U; }
  // Arguments of kernels are plain numbers, pointers and structures of such without padding that matters.
  void note_bytes(const void* bytes, std::size_t size);
  void forget_oldest();

  Mode mode_ = Mode::kNone;
  std::vector<std::uint64_t> key_;
  std::uint64_t calls_ = 0;
  std::map<std::vector<std::uint64_t>, Remembered> graphs_;
  cudaGraphExec_t current_ = nullptr;
  std::uint64_t memory_changes_ = 0;
  std::uint64_t uses_ = 0;
};

}  // namespace lectern::engine::cuda

// SPDX-License-Identifier: Apache-2.0
#include "cuda/pass_graphs.h"

#include <algorithm>

namespace lectern::engine::cuda {

cudaError_t PassGraphs::begin(std::span<const std::uint64_t> key, std::uint64_t memory_changes, cudaStream_t stream) {
  if (memory_changes != memory_changes_) forget();
  memory_changes_ = memory_changes;
  current_ = nullptr;
  if (key.empty()) return cudaSuccess;
  key_.assign(key.begin(), key.end());
  calls_ = 0;
  const auto found = graphs_.find(key_);
  if (found != graphs_.end()) {
    mode_ = Mode::kRepeating;
    return cudaSuccess;
  }
  const cudaError_t code = cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed);
  if (code == cudaSuccess) mode_ = Mode::kCapturing;
  return code;
}

cudaError_t PassGraphs::end(cudaStream_t stream) {
  const Mode mode = mode_;
  mode_ = Mode::kNone;
  if (mode == Mode::kRepeating) {
    Remembered& remembered = graphs_[key_];
    if (remembered.calls != calls_) return cudaErrorInvalidValue;
    remembered.last_use = ++uses_;
    current_ = remembered.graph;
    return cudaSuccess;
  }
  cudaGraph_t graph = nullptr;
  cudaError_t code = cudaStreamEndCapture(stream, &graph);
  if (code != cudaSuccess) return code;
  Remembered made = {nullptr, calls_, ++uses_};
  code = cudaGraphInstantiate(&made.graph, graph, 0);
  cudaGraphDestroy(graph);
  if (code != cudaSuccess) return code;
  if (graphs_.size() >= kMostGraphs) forget_oldest();
  graphs_[key_] = made;
  current_ = made.graph;
  return cudaSuccess;
}

cudaError_t PassGraphs::launch_graph(cudaStream_t stream) { return cudaGraphLaunch(current_, stream); }

void PassGraphs::drop(cudaStream_t stream) {
  if (mode_ == Mode::kCapturing) {
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(stream, &graph) == cudaSuccess) cudaGraphDestroy(graph);
  }
  mode_ = Mode::kNone;
}

void PassGraphs::forget() {
  for (const auto& [key, remembered] : graphs_) cudaGraphExecDestroy(remembered.graph);
  graphs_.clear();
}

void PassGraphs::forget_oldest() {
  const auto oldest = std::min_element(graphs_.begin(), graphs_.end(), [](const auto& a, const auto& b) {
    return a.second.last_use < b.second.last_use;
  });
  cudaGraphExecDestroy(oldest->second.graph);
  graphs_.erase(oldest);
}

void PassGraphs::note_bytes(const void* bytes, std::size_t size) {
  std::uint64_t word = 0;
  const auto* from = static_cast<const unsigned char*>(bytes);
  for (; size >= sizeof word; size -= sizeof word, from += sizeof word) {
    std::memcpy(&word, from, sizeof word);
    note(word);
  }
  if (size == 0) return;
  word = 0;
  std::memcpy(&word, from, size);
  note(word);
}

}  // namespace lectern::engine::cuda

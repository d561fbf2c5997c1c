// SPDX-License-Identifier: Apache-2.0
#include "cuda/cuda_backend.h"

#include <cstring>
#include <string>
#include <utility>

#include "cuda/cublas.h"
#include "cuda/host_experts.h"
#include "cuda/usable_device.h"

namespace lectern::engine::cuda {
namespace {

constexpr std::int64_t kMostFloats = std::int64_t{1} << 37;

std::string mebibytes(std::int64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

// Numbers in one of the arenas. Scratch has no pieces: it lives as long as the backend.
class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(std::byte* piece, std::int64_t floats, HeapMemory* owner)
      : data_(reinterpret_cast<float*>(piece)), size_(floats), owner_(owner) {}
  ~CudaBuffer() override {
    if (owner_ != nullptr) owner_->give_back(reinterpret_cast<std::byte*>(data_));
  }
  float* data() override { return data_; }
  const float* data() const override { return data_; }
  std::int64_t size() const override { return size_; }

 private:
  float* data_;
  std::int64_t size_;
  HeapMemory* owner_;
};

// A failure before the backend exists, or a piece that does not fit.
Error no_room(int device, std::int64_t bytes, const char* what) {
  return {ErrorCode::kOutOfMemory, "GPU " + std::to_string(device) + " has no room for " + mebibytes(bytes) + " of " +
                                       what +
                                       "; close other programs that use it, or choose a shorter context or a smaller "
                                       "quantisation of the model."};
}

}  // namespace

CudaBackend::CudaBackend(int device, const cudaDeviceProp& properties, cudaStream_t stream)
    : device_(device), properties_(properties), stream_(stream) {}

Result<std::unique_ptr<CudaBackend>> CudaBackend::create(int device, const DeviceMemory& memory,
                                                         const ExpertBudget& experts) {
  ENGINE_TRY(const cudaDeviceProp properties, usable_device(device));
  cudaStream_t stream = nullptr;
  if (const cudaError_t code = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking); code != cudaSuccess) {
    return Error{ErrorCode::kDevice, std::string("The GPU ") + properties.name + " does not take work (" +
                                         cudaGetErrorString(code) + "); restart the computer or update the driver."};
  }
  std::unique_ptr<CudaBackend> backend(new CudaBackend(device, properties, stream));
  backend->budget_ = experts;
  ENGINE_CHECK(backend->take_memory(memory));
  backend->use_fastest_products();
  ENGINE_CHECK(backend->status());
  return std::move(backend);
}

CudaBackend::~CudaBackend() {
  cudaStreamSynchronize(stream_);
  expert_host_.reset();
  library_.reset();
  passes_.forget();
  if (passed_on_ != nullptr) cudaEventDestroy(passed_on_);
  cudaStreamDestroy(stream_);
}

Result<void> CudaBackend::take_memory(const DeviceMemory& memory) {
  if (memory.weights > 0 && !weights_.reserve(memory.weights)) return no_room(device_, memory.weights, "weights");
  if (memory.state > 0 && !state_.reserve(memory.state)) return no_room(device_, memory.state, "keys and states");
  if (memory.scratch > 0 && !scratch_.reserve(memory.scratch)) return no_room(device_, memory.scratch, "activations");
  if (!values_.reserve(stream_)) return no_room(device_, 2 * PassValues::kMostBytes, "page-locked memory");
  return {};
}

Result<std::unique_ptr<Buffer>> CudaBackend::make_buffer(std::int64_t floats, MemoryUse use) {
  const std::int64_t bytes = floats * static_cast<std::int64_t>(sizeof(float));
  if (floats > kMostFloats) return no_room(device_, kMostFloats, "one buffer");
  choose_device();
  HeapMemory* const owner = use == MemoryUse::kWeights ? &weights_ : use == MemoryUse::kState ? &state_ : nullptr;
  std::byte* piece = nullptr;
  if (owner != nullptr) {
    piece = owner->take(bytes);
  } else {
    try {
      piece = static_cast<std::byte*>(scratch_.take(bytes));
    } catch (const std::bad_alloc&) {
      piece = nullptr;
    }
  }
  if (piece == nullptr) {
    return no_room(device_, bytes,
                   use == MemoryUse::kWeights ? "weights"
                   : owner != nullptr         ? "states"
                                              : "activations");
  }
  if (!failure_) note(cudaMemsetAsync(piece, 0, static_cast<std::size_t>(bytes), stream_), "Clearing memory");
  return std::unique_ptr<Buffer>(std::make_unique<CudaBuffer>(piece, floats, owner));
}

void CudaBackend::copy(const float* from, float* to, std::int64_t floats) {
  if (failure_) return;
  if (remembers_calls()) passes_.note_call("copy", {}, from, to, floats);
  if (passes_.repeating()) return;
  note(cudaMemcpyAsync(to, from, static_cast<std::size_t>(floats) * sizeof(float), cudaMemcpyDeviceToDevice, stream_),
       "Copying");
}

void CudaBackend::upload(std::span<const float> from, float* to) {
  if (failure_) return;
  if (remembers_calls()) {
    copy(values_.add(from), to, static_cast<std::int64_t>(from.size()));
    return;
  }
  note(cudaMemcpyAsync(to, from.data(), from.size_bytes(), cudaMemcpyHostToDevice, stream_), "Copying to it");
  note(cudaStreamSynchronize(stream_), "Copying to it");  // `from` may go now
}

void CudaBackend::download(const float* from, std::span<float> to) { download_bytes(from, std::as_writable_bytes(to)); }

void CudaBackend::download_tokens(const TokenId* from, std::span<TokenId> to) {
  download_bytes(from, std::as_writable_bytes(to));
}

void CudaBackend::download_bytes(const void* from, std::span<std::byte> to) {
  if (failure_) return;
  void* target = to.data();
  if (remembers_calls()) {
    passes_.note_call("download", {}, from, to.size());
    target = values_.add_result(to);
    if (target == nullptr) note(cudaErrorMemoryAllocation, "Copying from it");
    if (passes_.repeating() || target == nullptr) return;
  }
  note(cudaMemcpyAsync(target, from, to.size_bytes(), cudaMemcpyDeviceToHost, stream_), "Copying from it");
  if (!passes_.capturing()) note(cudaStreamSynchronize(stream_), "A computation");
}

void CudaBackend::begin_pass(std::span<const std::uint64_t> key) {
  if (failure_) return;
  choose_device();                        // this thread may be another than the last
  if (expert_host_ != nullptr) key = {};  // the CPU takes part, which no graph repeats
  note(passes_.begin(key, state_.changes(), stream_), "Beginning a pass");
  if (remembers_calls()) values_.begin_pass();
}

void CudaBackend::launch_pass() {
  const bool remembered = remembers_calls();
  values_.end_pass();
  if (failure_) {
    drop_pass();
    return;
  }
  if (!remembered) return;
  choose_device();
  note(passes_.end(stream_), "Remembering a pass");
  if (!failure_) note(values_.send(), "Copying to it");
  if (!failure_) note(passes_.launch_graph(stream_), "A pass");
}

Result<void> CudaBackend::end_pass() {
  launch_pass();
  if (!failure_) note(cudaStreamSynchronize(stream_), "A computation");
  if (failure_) return *failure_;
  values_.give_results();
  return {};
}

void CudaBackend::drop_pass() {
  values_.end_pass();
  passes_.drop(stream_);
}

Result<void> CudaBackend::status() {
  if (!failure_) note(cudaStreamSynchronize(stream_), "A computation");
  return failure_ ? Result<void>(*failure_) : Result<void>();
}

void CudaBackend::note(cudaError_t code, const char* what) {
  if (code == cudaSuccess || failure_) return;
  const std::string number = " (cuda:" + std::to_string(device_) + ")";  // there may be several of a name
  if (code == cudaErrorMemoryAllocation) {
    failure_ = Error{ErrorCode::kOutOfMemory,
                     std::string(what) + " on the GPU " + properties_.name + number +
                         " failed: its memory is full; close other programs that use it or choose a shorter context."};
    return;
  }
  fail(what, cudaGetErrorString(code));
}

void CudaBackend::fail(const std::string& what, const char* reason) {
  const std::string number = " (cuda:" + std::to_string(device_) + ")";  // there may be several of a name
  failure_ = Error{ErrorCode::kDevice, what + " on the GPU " + properties_.name + number + " failed (" + reason +
                                           "); the model must be opened again, and if it happens again the driver's "
                                           "messages (dmesg, \"Xid\") name the cause."};
}

}  // namespace lectern::engine::cuda

namespace lectern::engine {

Result<std::unique_ptr<Backend>> make_cuda_backend(int device, const DeviceMemory& memory,
                                                   const ExpertBudget& experts) {
  ENGINE_TRY(std::unique_ptr<cuda::CudaBackend> backend, cuda::CudaBackend::create(device, memory, experts));
  return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace lectern::engine

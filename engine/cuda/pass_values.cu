// SPDX-License-Identifier: Apache-2.0
#include "cuda/pass_values.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace lectern::engine::cuda {
namespace {

constexpr std::int64_t kResultBlock = std::int64_t{8} << 20;

std::int64_t aligned(std::int64_t bytes) { return (bytes + 15) / 16 * 16; }

}  // namespace

PinnedBlock PinnedBlock::take(std::int64_t bytes) {
  PinnedBlock block;
  void* memory = nullptr;
  if (cudaMallocHost(&memory, static_cast<std::size_t>(bytes)) != cudaSuccess) {
    cudaGetLastError();
    return block;
  }
  block.data_ = static_cast<std::byte*>(memory);
  block.bytes_ = bytes;
  return block;
}

PinnedBlock::~PinnedBlock() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

PinnedBlock::PinnedBlock(PinnedBlock&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

PinnedBlock& PinnedBlock::operator=(PinnedBlock&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

bool PassValues::reserve(cudaStream_t stream) {
  stream_ = stream;
  host_ = PinnedBlock::take(2 * kMostBytes);
  device_ = DeviceBlock::take(2 * kMostBytes);
  return host_.data() != nullptr && device_.data() != nullptr;
}

const std::byte* PassValues::add_bytes(std::span<const std::byte> bytes) {
  const std::int64_t size = aligned(static_cast<std::int64_t>(bytes.size()));
  std::int64_t& used = in_pass_ ? pass_used_ : ring_used_;
  if (used + size > kMostBytes) {
    if (in_pass_ || size > kMostBytes) throw std::bad_alloc();
    cudaStreamSynchronize(stream_);  // what the ring holds has been read
    used = 0;
  }
  const std::int64_t offset = used + (in_pass_ ? 0 : kMostBytes);
  used += size;
  std::memcpy(host_.data() + offset, bytes.data(), bytes.size());
  if (!in_pass_) {
    cudaMemcpyAsync(device_.data() + offset, host_.data() + offset, bytes.size(), cudaMemcpyHostToDevice, stream_);
  }
  return device_.data() + offset;
}

void PassValues::begin_pass() {
  in_pass_ = true;
  pass_used_ = 0;
  result_block_ = 0;
  results_used_ = 0;
  results_.clear();
}

cudaError_t PassValues::send() {
  if (pass_used_ == 0) return cudaSuccess;
  return cudaMemcpyAsync(device_.data(), host_.data(), static_cast<std::size_t>(pass_used_), cudaMemcpyHostToDevice,
                         stream_);
}

std::byte* PassValues::add_result(std::span<std::byte> to) {
  const std::int64_t size = aligned(static_cast<std::int64_t>(to.size()));
  while (result_block_ < result_blocks_.size() && results_used_ + size > result_blocks_[result_block_].bytes()) {
    ++result_block_;
    results_used_ = 0;
  }
  if (result_block_ == result_blocks_.size()) {
    PinnedBlock block = PinnedBlock::take(std::max(size, kResultBlock));
    if (block.data() == nullptr) return nullptr;
    result_blocks_.push_back(std::move(block));
  }
  std::byte* from = result_blocks_[result_block_].data() + results_used_;
  results_used_ += size;
  results_.push_back({from, to});
  return from;
}

void PassValues::give_results() {
  for (const Result& result : results_) std::memcpy(result.to.data(), result.from, result.to.size());
  results_.clear();
}

}  // namespace lectern::engine::cuda

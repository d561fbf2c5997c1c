// SPDX-License-Identifier: Apache-2.0
#include "cuda/kv_cache.h"

#include <algorithm>
#include <string>
#include <utility>

#include "cuda/cuda_backend.h"
#include "cuda/kv_store.h"
#include "cuda/warp.h"

namespace lectern::engine::cuda {
namespace {

constexpr std::int64_t kMostWidth = std::int64_t{1} << 16;     // of all heads
constexpr std::int64_t kStagingBytes = std::int64_t{1} << 22;  // of rows on their way to or from the host
constexpr int kThreads = 256;

CudaKvCache& own(KvCache& cache) { return static_cast<CudaKvCache&>(cache); }
const CudaKvCache& own(const KvCache& cache) { return static_cast<const CudaKvCache&>(cache); }

dim3 blocks_for(std::int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

Error no_room(std::int64_t rows) {
  return {ErrorCode::kOutOfMemory, "The graphics card has no memory for the keys and values of " +
                                       std::to_string(rows) +
                                       " more tokens; use a shorter context, or keep keys and values in 8 bits."};
}

// k, v: [rows, heads * width], to be the rows from *length on. A warp for every 32 numbers of a head.
template <KvType kType>
__global__ void append_rows(const float* k, const float* v, int rows, KvView to, const std::int64_t* length) {
  const int groups = (to.width + kScaleNumbers - 1) / kScaleNumbers;
  std::int64_t index = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (index >= static_cast<std::int64_t>(rows) * 2 * to.heads * groups) return;  // the whole warp
  const int group = static_cast<int>(index % groups);
  index /= groups;
  const int head = static_cast<int>(index % to.heads);
  index /= to.heads;
  const Side side = index % 2 == 0 ? Side::kKeys : Side::kValues;
  const std::int64_t row = index / 2;
  const int first = group * kScaleNumbers;
  const int at = first + static_cast<int>(threadIdx.x) % kWarp;
  const bool mine = at < to.width;
  const float* from = (side == Side::kKeys ? k : v) + (row * to.heads + head) * to.width;
  store_numbers<kType>(mine ? from[at] : 0.0F, mine, first, to, *length + row, head, side);
}

// Where the units of a row, in the order of save_rows(), are in the cache: the keys of all heads, then their values,
// each head's numbers before their scales. A unit is the largest that divides all of these.
template <class Unit>
struct SavedRows {
  KvView cache;
  int number_units;  // of a head
  int head_units;    // with scales

  __device__ Unit* unit(std::int64_t index, std::int64_t first) const {
    const std::int64_t row_units = static_cast<std::int64_t>(2 * cache.heads) * head_units;
    const std::int64_t row = first + index / row_units;
    const int within = static_cast<int>(index % row_units);
    const int at = within % head_units;
    const int head = within / head_units % cache.heads;
    const Side side = within / head_units < cache.heads ? Side::kKeys : Side::kValues;
    return at < number_units ? reinterpret_cast<Unit*>(cache.row(row, head, side)) + at
                             : reinterpret_cast<Unit*>(cache.row_scales(row, head, side)) + (at - number_units);
  }
};

template <class Unit>
__global__ void gather_rows(SavedRows<Unit> from, std::int64_t first, std::int64_t units, Unit* to) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index < units) to[index] = *from.unit(index, first);
}

template <class Unit>
__global__ void scatter_rows(const Unit* from, std::int64_t first, std::int64_t units, SavedRows<Unit> to) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index < units) *to.unit(index, first) = from[index];
}

template <class Unit>
SavedRows<Unit> saved_rows(const CudaKvCache& cache) {
  const KvView view = cache.view();
  const auto unit = static_cast<std::int64_t>(sizeof(Unit));
  return {view, static_cast<int>(view.width * cache.number_bytes() / unit),
          static_cast<int>(cache.head_bytes() / unit)};
}

bool in_words(const CudaKvCache& cache) { return cache.head_bytes() % 4 == 0; }

}  // namespace

std::shared_ptr<KvPiece> KvPiece::take(HeapMemory& memory, std::int64_t bytes) {
  std::byte* data = memory.take(bytes);
  return data != nullptr ? std::make_shared<KvPiece>(memory, data) : nullptr;
}

CudaKvCache::CudaKvCache(const AttentionShape& shape, KvType type, HeapMemory& memory)
    : heads_(shape.kv_heads),
      width_(shape.head_dim),
      type_(type),
      scales_(type == KvType::kQ8 ? (shape.head_dim + kScaleNumbers - 1) / kScaleNumbers : 0),
      memory_(&memory) {}

std::int64_t CudaKvCache::number_bytes() const { return type_ == KvType::kF32 ? 4 : type_ == KvType::kBF16 ? 2 : 1; }

void CudaKvCache::truncate(std::int64_t length) {
  length_ = std::min(length_, length);
  blocks_.resize(static_cast<std::size_t>((length_ + kKvBlockRows - 1) / kKvBlockRows));
}

std::int64_t CudaKvCache::bytes() const { return static_cast<std::int64_t>(blocks_.size()) * block_bytes(); }

std::unique_ptr<KvCache> CudaKvCache::fork() const {
  std::unique_ptr<CudaKvCache> copy(new CudaKvCache(*this));
  copy->table_.reset();
  copy->truncate(length_);
  return copy;
}

// Adds what is missing for `rows` more; false: there is no room.
bool CudaKvCache::add_blocks(std::int64_t rows, Pieces& blocks) const {
  const auto needed = static_cast<std::size_t>((length_ + rows + kKvBlockRows - 1) / kKvBlockRows);
  while (blocks.size() < needed) {
    blocks.push_back(KvPiece::take(*memory_, block_bytes()));
    if (blocks.back() == nullptr) return false;
  }
  return true;
}

cudaError_t CudaKvCache::make_room(std::int64_t rows, cudaStream_t stream) {
  if (rows < 0 || rows > std::int64_t{kMostKvBlocks} * kKvBlockRows - length_) return cudaErrorMemoryAllocation;
  if (rows == 0) return cudaSuccess;
  Pieces blocks = blocks_;
  if (!add_blocks(rows, blocks)) return cudaErrorMemoryAllocation;
  std::size_t changed = blocks_.size();
  const auto next = static_cast<std::size_t>(length_ / kKvBlockRows);          // where the next row goes
  const bool shared = next < blocks_.size() && blocks_[next].use_count() > 2;  // two: blocks_ and `blocks`
  if (shared) {
    changed = next;
    blocks[next] = KvPiece::take(*memory_, block_bytes());
    if (blocks[next] == nullptr) return cudaErrorMemoryAllocation;
  }
  if (const cudaError_t code = make_table(stream); code != cudaSuccess) return code;
  blocks_.swap(blocks);
  if (shared) {
    const cudaError_t code = cudaMemcpyAsync(blocks_[next]->data(), blocks[next]->data(),
                                             static_cast<std::size_t>(block_bytes()), cudaMemcpyDeviceToDevice, stream);
    if (code != cudaSuccess) return code;
  }
  return write_table(changed, stream);
}

cudaError_t CudaKvCache::make_table(cudaStream_t stream) const {
  if (table_ != nullptr) return cudaSuccess;
  table_ = KvPiece::take(*memory_, kMostKvBlocks * static_cast<std::int64_t>(sizeof(std::byte*)));
  return table_ != nullptr ? write_table(0, stream) : cudaErrorMemoryAllocation;
}

// Entries from `first` on.
cudaError_t CudaKvCache::write_table(std::size_t first, cudaStream_t stream) const {
  std::vector<std::byte*> entries;  // copied before the call returns: it is pageable memory
  for (std::size_t i = first; i < blocks_.size(); ++i) entries.push_back(blocks_[i]->data());
  if (entries.empty()) return cudaSuccess;
  return cudaMemcpyAsync(reinterpret_cast<std::byte**>(table_->data()) + first, entries.data(),
                         entries.size() * sizeof(std::byte*), cudaMemcpyHostToDevice, stream);
}

KvView CudaKvCache::view() const {
  return {table_ != nullptr ? reinterpret_cast<std::byte* const*>(table_->data()) : nullptr, static_cast<int>(heads_),
          static_cast<int>(width_), static_cast<int>(stride()), static_cast<int>(scales_)};
}

Result<std::unique_ptr<KvCache>> CudaBackend::make_kv_cache(const AttentionShape& shape, KvType type) {
  if (shape.head_dim < 1 || shape.head_dim > kMostWidth || shape.kv_heads < 1 ||
      shape.kv_heads > kMostWidth / shape.head_dim) {
    return Error{ErrorCode::kUnsupported,
                 "Keys of " + std::to_string(shape.kv_heads) + " heads of " + std::to_string(shape.head_dim) +
                     " numbers are not supported on a graphics card; the model's configuration is damaged."};
  }
  return std::unique_ptr<KvCache>(std::make_unique<CudaKvCache>(shape, type, state_));
}

Result<void> CudaBackend::reserve_kv(KvCache& cache, std::int64_t rows) {
  choose_device();
  const cudaError_t code = own(cache).make_room(rows, stream_);
  if (code == cudaErrorMemoryAllocation) return no_room(rows);
  note(code, "Making room for keys and values");
  return failure_ ? Result<void>(*failure_) : Result<void>();
}

void CudaBackend::append_kv(const Tensor& k, const Tensor& v, KvCache& cache) {
  CudaKvCache& to = own(cache);
  const KvView view = to.view();
  const std::int64_t* length = values_.add(to.length());
  const std::int64_t groups = (view.width + kScaleNumbers - 1) / kScaleNumbers;
  const Grid grid = {blocks_for(k.rows * 2 * view.heads * groups * kWarp), kThreads};
  const auto kernel = to.type() == KvType::kF32    ? append_rows<KvType::kF32>
                      : to.type() == KvType::kBF16 ? append_rows<KvType::kBF16>
                                                   : append_rows<KvType::kQ8>;
  run(grid, kernel, k.data, v.data, static_cast<int>(k.rows), view, length);
  to.extend(k.rows);
}

void CudaBackend::save_rows(const KvCache& cache, std::int64_t first, std::int64_t rows, std::span<std::byte> to) {
  const CudaKvCache& from = own(cache);
  if (rows == 0) return;
  note(from.make_table(stream_), "Reading keys and values");
  const std::int64_t row_bytes = from.bytes_of_row();
  const std::int64_t step = std::max<std::int64_t>(1, kStagingBytes / row_bytes);
  Workspace workspace(*this);
  auto* staging = workspace.take<std::byte>(std::min(step, rows) * row_bytes);
  for (std::int64_t row = 0; row < rows && !failure_; row += step) {
    const std::int64_t bytes = std::min(step, rows - row) * row_bytes;
    if (in_words(from)) {
      run({blocks_for(bytes / 4), kThreads}, gather_rows<std::uint32_t>, saved_rows<std::uint32_t>(from), first + row,
          bytes / 4, reinterpret_cast<std::uint32_t*>(staging));
    } else {
      run({blocks_for(bytes), kThreads}, gather_rows<std::uint8_t>, saved_rows<std::uint8_t>(from), first + row, bytes,
          reinterpret_cast<std::uint8_t*>(staging));
    }
    note(cudaMemcpyAsync(to.data() + row * row_bytes, staging, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost,
                         stream_),
         "Copying");
  }
  if (!failure_) note(cudaStreamSynchronize(stream_), "Copying");
}

void CudaBackend::load_rows(std::span<const std::byte> from, KvCache& cache) {
  CudaKvCache& to = own(cache);
  const std::int64_t row_bytes = to.bytes_of_row();
  const std::int64_t rows = static_cast<std::int64_t>(from.size()) / row_bytes;
  if (rows == 0) return;
  const std::int64_t step = std::max<std::int64_t>(1, kStagingBytes / row_bytes);
  Workspace workspace(*this);
  auto* staging = workspace.take<std::byte>(std::min(step, rows) * row_bytes);
  for (std::int64_t row = 0; row < rows && !failure_; row += step) {
    const std::int64_t bytes = std::min(step, rows - row) * row_bytes;
    note(cudaMemcpyAsync(staging, from.data() + row * row_bytes, static_cast<std::size_t>(bytes),
                         cudaMemcpyHostToDevice, stream_),
         "Copying");
    const std::int64_t first = to.length() + row;
    if (in_words(to)) {
      run({blocks_for(bytes / 4), kThreads}, scatter_rows<std::uint32_t>,
          reinterpret_cast<const std::uint32_t*>(staging), first, bytes / 4, saved_rows<std::uint32_t>(to));
    } else {
      run({blocks_for(bytes), kThreads}, scatter_rows<std::uint8_t>, reinterpret_cast<const std::uint8_t*>(staging),
          first, bytes, saved_rows<std::uint8_t>(to));
    }
  }
  to.extend(rows);
}

}  // namespace lectern::engine::cuda

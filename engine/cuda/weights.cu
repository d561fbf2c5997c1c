// SPDX-License-Identifier: Apache-2.0
#include "cuda/weights.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "cuda/cuda_backend.h"
#include "cuda/expert_slots.h"
#include "cuda/host_experts.h"
#include "cuda/products.h"

namespace lectern::engine::cuda {
namespace {

constexpr std::int64_t kThreads = 256;

std::int64_t aligned(std::int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Bytes of the planes of a matrix.
struct PlaneSizes {
  std::int64_t row = 0;  // of codes
  std::int64_t codes = 0;
  std::int64_t high = 0;
  std::int64_t scales = 0;
  std::int64_t super = 0;

  std::int64_t sum() const { return aligned(codes) + aligned(high) + aligned(scales) + aligned(super); }
};

PlaneSizes plane_sizes(const HostMatrix& matrix) {
  const PlaneBytes block = plane_bytes(matrix.dtype);
  const std::int64_t blocks = matrix.cols / block_size(matrix.dtype).elements;
  PlaneSizes sizes;
  sizes.row = (blocks * block.codes + 15) / 16 * 16;
  sizes.codes = matrix.rows * sizes.row;
  sizes.high = matrix.rows * blocks * block.high;
  sizes.scales = matrix.rows * blocks * block.scales;
  sizes.super = matrix.rows * blocks * block.super;
  if (matrix.dtype == DType::kF8E4M3) {
    sizes.scales = (matrix.rows + 127) / 128 * ((matrix.cols + 127) / 128) * static_cast<std::int64_t>(sizeof(float));
  }
  return sizes;
}

bool can_be_held(const HostMatrix& matrix) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max() - 1024;
  return matrix.rows > 0 && matrix.cols > 0 && matrix.rows <= kMost && matrix.cols <= kMost / 8 &&
         matrix.cols % block_size(matrix.dtype).elements == 0 && matrix.data != nullptr &&
         (matrix.dtype != DType::kF8E4M3 || matrix.scales != nullptr);
}

// Element e of a block in a file, as quant/blocks.h describes it: a code before anything is subtracted from it, or its
// place in a table.
template <DType Type>
__device__ std::uint32_t stored_code(const std::uint8_t* block, int e) {
  const auto nibble = [&](int first, int at) -> std::uint32_t {
    return at < 16 ? block[first + at] & 15U : static_cast<std::uint32_t>(block[first + at - 16]) >> 4;
  };
  const auto bits = [&](int at, int shift, std::uint32_t mask) { return (std::uint32_t{block[at]} >> shift) & mask; };
  const int l = e % 32;
  const int j = e / 32;
  if constexpr (Type == DType::kQ8_0) {
    return block[2 + e];
  } else if constexpr (Type == DType::kQ4_0 || Type == DType::kIq4Nl) {
    return nibble(2, e);
  } else if constexpr (Type == DType::kQ4_1) {
    return nibble(4, e);
  } else if constexpr (Type == DType::kQ5_0) {
    return nibble(6, e) | (bits(2 + e / 8, e % 8, 1) << 4);
  } else if constexpr (Type == DType::kQ5_1) {
    return nibble(8, e) | (bits(4 + e / 8, e % 8, 1) << 4);
  } else if constexpr (Type == DType::kMxfp4) {
    return nibble(1, e);
  } else if constexpr (Type == DType::kIq4Xs) {
    return nibble(8 + 16 * j, l);
  } else if constexpr (Type == DType::kQ2K) {
    return bits(16 + 32 * (j / 4) + l, 2 * (j % 4), 3);
  } else if constexpr (Type == DType::kQ3K) {
    return bits(32 + 32 * (j / 4) + l, 2 * (j % 4), 3) | (bits(l, j, 1) << 2);
  } else if constexpr (Type == DType::kQ4K) {
    return bits(16 + 32 * (j / 2) + l, 4 * (j % 2), 15);
  } else if constexpr (Type == DType::kQ5K) {
    return bits(48 + 32 * (j / 2) + l, 4 * (j % 2), 15) | (bits(16 + l, j, 1) << 4);
  } else {
    static_assert(Type == DType::kQ6K);
    const int s = j % 4;
    return bits(64 * (j / 4) + 32 * (s % 2) + l, 4 * (s / 2), 15) | (bits(128 + 32 * (j / 4) + l, 2 * s, 3) << 4);
  }
}

// Where a block in a file has its scales; those of 32 begin with them.
template <DType Type>
constexpr int kScalesAt = Type == DType::kQ3K   ? 96
                          : Type == DType::kQ6K ? 192
                                                : 0;
template <DType Type>
constexpr int kSuperAt = Type == DType::kQ2K   ? 80
                         : Type == DType::kQ3K ? 108
                                               : 208;

// Two bits of each code, from bit `first` on: [0] for low, [1] for high.
__device__ void pack_pairs(const std::uint32_t (&codes)[kGroup], int first, std::uint32_t (&words)[2]) {
  words[0] = words[1] = 0;
  for (int e = 0; e < kGroup; ++e) {
    const int place = 8 * (e % 4) + 2 * (e % 16 / 4);
    words[e / 16] |= ((codes[e] >> first) & 3U) << place;
  }
}

template <DType Type>
__device__ void pack_codes(const std::uint32_t (&codes)[kGroup], std::uint32_t* first, std::uint32_t* second) {
  using S = Stored<Type>;
  if constexpr (S::kCodeBits == 8) {
    for (int i = 0; i < 4; ++i) {
      first[i] = second[i] = 0;
      for (int k = 0; k < 4; ++k) {
        first[i] |= codes[4 * i + k] << (8 * k);
        second[i] |= codes[16 + 4 * i + k] << (8 * k);
      }
    }
  } else if constexpr (S::kCodeBits == 4) {
    for (int i = 0; i < 4; ++i) {
      first[i] = 0;
      for (int k = 0; k < 4; ++k) {
        const int low_place = S::kTable ? 4 * k : 8 * k;
        const int high_place = S::kTable ? 16 + 4 * k : 8 * k + 4;
        first[i] |= (codes[4 * i + k] & 15U) << low_place | (codes[16 + 4 * i + k] & 15U) << high_place;
      }
    }
  } else {
    std::uint32_t words[2];
    pack_pairs(codes, 0, words);
    first[0] = words[0];
    first[1] = words[1];
  }
  if constexpr (S::kHighBits == 2) {
    std::uint32_t words[2];
    pack_pairs(codes, S::kCodeBits, words);
    second[0] = words[0];
    second[1] = words[1];
  } else if constexpr (S::kHighBits == 1) {
    second[0] = 0;
    for (int e = 0; e < kGroup; ++e) {
      second[0] |= ((codes[e] >> S::kCodeBits) & 1U) << (8 * (e % 4) + e / 16 * 4 + e % 16 / 4);
    }
  }
}

// The 16 bytes of Q4_K and Q5_K before the codes.
__device__ void lay_out_six_bits(const std::uint8_t* block, std::uint8_t* to) {
  const auto at = [&](int i) { return std::uint32_t{block[4 + i]}; };
  std::uint32_t high = 0;
  for (int j = 0; j < 8; ++j) {
    const std::uint32_t scale = j < 4 ? at(j) & 63U : (at(j + 4) & 15U) | (at(j - 4) >> 6 << 4);
    const std::uint32_t minimum = j < 4 ? at(j + 4) & 63U : (at(j + 4) >> 4) | (at(j) >> 6 << 4);
    to[4 + j] = static_cast<std::uint8_t>((scale & 15U) | (minimum & 15U) << 4);
    high |= ((scale >> 4) | (minimum >> 4 << 2)) << (4 * j);
  }
  for (int i = 0; i < 4; ++i) {
    to[i] = block[i];
    to[12 + i] = static_cast<std::uint8_t>(high >> (8 * i));
  }
}

template <DType Type>
__device__ void lay_out_scales(const std::uint8_t* block, std::uint8_t* scales, std::uint8_t* super) {
  using S = Stored<Type>;
  if constexpr (Type == DType::kQ4K || Type == DType::kQ5K) {
    lay_out_six_bits(block, scales);
  } else {
    for (int i = 0; i < S::kBytes.scales; ++i) scales[i] = block[kScalesAt<Type> + i];
    for (int i = 0; i < S::kBytes.super; ++i) super[i] = block[kSuperAt<Type> + i];
  }
}

// Blocks [first, first + count) of a matrix, row after row; a thread takes a group.
template <DType Type>
__global__ void lay_out_blocks(DeviceMatrix w, const std::uint8_t* raw, std::int64_t first, std::int64_t count) {
  using S = Stored<Type>;
  constexpr int kGroups = S::kBlock / kGroup;
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= count * kGroups) return;
  const std::int64_t across = w.cols / S::kBlock;
  const std::int64_t row = (first + at / kGroups) / across;
  const std::int64_t block_of_row = (first + at / kGroups) % across;
  const int j = static_cast<int>(at % kGroups);
  const std::int64_t group = block_of_row * kGroups + j;
  const std::uint8_t* block = raw + at / kGroups * S::kBlockBytes;

  std::uint32_t codes[kGroup];
  for (int e = 0; e < kGroup; ++e) codes[e] = stored_code<Type>(block, kGroup * j + e);
  const StoredRow to = stored_row<Type>(w, row);
  const auto words = [](const std::uint8_t* plane) {
    return reinterpret_cast<std::uint32_t*>(const_cast<std::uint8_t*>(plane));
  };
  const std::int64_t code_words = S::kCodeBits == 8 ? 4 : S::kCodeBits;
  const std::int64_t second_words = S::kCodeBits == 8 ? 4 : S::kHighBits;
  pack_codes<Type>(codes, words(to.codes) + code_words * group, words(to.second) + second_words * group);
  if (j != 0) return;
  lay_out_scales<Type>(block, const_cast<std::uint8_t*>(to.scales) + S::kBytes.scales * block_of_row,
                       const_cast<std::uint8_t*>(to.super) + S::kBytes.super * block_of_row);
}

// Bytes [first, first + count) of rows of `width` bytes, to rows of w.row_bytes with zeros behind.
__global__ void lay_out_numbers(DeviceMatrix w, const std::uint8_t* raw, std::int64_t width, std::int64_t first,
                                std::int64_t count) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= count) return;
  const std::int64_t row = (first + at) / width;
  const std::int64_t byte = (first + at) % width;
  auto* to = const_cast<std::uint8_t*>(w.codes) + row * w.row_bytes;
  to[byte] = raw[at];
  if (byte != width - 1) return;
  for (std::int64_t i = width; i < w.row_bytes; ++i) to[i] = 0;
}

unsigned blocks_for(std::int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

}  // namespace

std::int64_t device_bytes(const HostMatrix& matrix) { return plane_sizes(matrix).sum(); }

std::shared_ptr<WeightStaging> WeightStaging::make() {
  std::shared_ptr<WeightStaging> staging(new WeightStaging);
  for (Raw& raw : staging->raws_) {
    raw.memory = DeviceBlock::take(kPart);
    if (raw.memory.data() == nullptr) return nullptr;
    for (cudaEvent_t* event : {&raw.filled, &raw.free}) {
      if (cudaEventCreateWithFlags(event, cudaEventDisableTiming) != cudaSuccess) return nullptr;
    }
  }
  for (std::size_t i = 0; i < 2; ++i) {
    staging->pinned_[i] = PinnedBlock::take(kPart);
    if (staging->pinned_[i].data() == nullptr) return nullptr;
    if (cudaEventCreateWithFlags(&staging->sent_[i], cudaEventDisableTiming) != cudaSuccess) return nullptr;
  }
  return staging;
}

WeightStaging::~WeightStaging() {
  for (const cudaEvent_t event : sent_) {
    if (event == nullptr) continue;
    cudaEventSynchronize(event);
    cudaEventDestroy(event);
  }
  for (const Raw& raw : raws_) {
    for (const cudaEvent_t event : {raw.filled, raw.free}) {
      if (event != nullptr) cudaEventDestroy(event);
    }
  }
}

cudaError_t WeightStaging::send(const void* from, std::int64_t bytes, std::uint8_t* to, cudaStream_t stream) {
  const auto size = static_cast<std::size_t>(bytes);
  if (const std::shared_ptr<const LockedMemory> locked = locked_.lock(); locked && locked->holds(from, bytes)) {
    return cudaMemcpyAsync(to, from, size, cudaMemcpyHostToDevice, stream);
  }
  const std::size_t at = next_;
  next_ = 1 - next_;
  if (const cudaError_t code = cudaEventSynchronize(sent_[at]); code != cudaSuccess) return code;
  std::memcpy(pinned_[at].data(), from, size);
  const cudaError_t code = cudaMemcpyAsync(to, pinned_[at].data(), size, cudaMemcpyHostToDevice, stream);
  return code != cudaSuccess ? code : cudaEventRecord(sent_[at], stream);
}

DeviceMatrix planes_at(const HostMatrix& matrix, std::byte* piece) {
  const PlaneSizes sizes = plane_sizes(matrix);
  auto* at = reinterpret_cast<std::uint8_t*>(piece);
  const auto plane = [&](std::int64_t bytes) { return std::exchange(at, at + aligned(bytes)); };
  DeviceMatrix w;
  w.codes = plane(sizes.codes);
  w.high = plane(sizes.high);
  w.scales = plane(sizes.scales);
  w.super = plane(sizes.super);
  w.row_bytes = sizes.row;
  w.rows = static_cast<std::int32_t>(matrix.rows);
  w.cols = static_cast<std::int32_t>(matrix.cols);
  return w;
}

namespace {

Error cannot_be_held(const HostMatrix& matrix) {
  return {ErrorCode::kUnsupported, "A matrix of " + std::to_string(matrix.rows) + " x " + std::to_string(matrix.cols) +
                                       " numbers of type " + std::string(name_of(matrix.dtype)) +
                                       " cannot be computed with on the GPU; use the CPU for this model."};
}

// To memory of the device, as it is.
cudaError_t send_bytes(const void* from, std::int64_t bytes, const std::uint8_t* to, WeightStaging& staging,
                       cudaStream_t stream) {
  for (std::int64_t first = 0; first < bytes; first += WeightStaging::kPart) {
    const cudaError_t code =
        staging.send(static_cast<const std::byte*>(from) + first, std::min(WeightStaging::kPart, bytes - first),
                     const_cast<std::uint8_t*>(to) + first, stream);
    if (code != cudaSuccess) return code;
  }
  return cudaSuccess;
}

// Bytes [first, first + bytes) of a matrix, which are in `raw`.
cudaError_t lay_out(const HostMatrix& matrix, const DeviceMatrix& w, const std::uint8_t* raw, std::int64_t first,
                    std::int64_t bytes, cudaStream_t stream) {
  cudaError_t code = cudaSuccess;
  with_type(matrix.dtype, [&]<DType Type>() {
    if constexpr (kIsCoded<Type>) {
      const std::int64_t block_bytes = block_size(Type).bytes;
      const std::int64_t count = bytes / block_bytes;
      code = launch(stream, {blocks_for(count * Stored<Type>::kBlock / kGroup), kThreads}, lay_out_blocks<Type>, w, raw,
                    first / block_bytes, count);
    } else {
      code = launch(stream, {blocks_for(bytes), kThreads}, lay_out_numbers, w, raw, bytes_of(matrix.dtype, matrix.cols),
                    first, bytes);
    }
  });
  return code;
}

}  // namespace

cudaError_t fill_weight(const HostMatrix& matrix, const DeviceMatrix& w, WeightStaging& staging,
                        const TransferStreams& streams) {
  const std::int64_t width = bytes_of(matrix.dtype, matrix.cols);
  if (matrix.dtype == DType::kF8E4M3) {
    const cudaError_t code = send_bytes(matrix.scales, plane_sizes(matrix).scales, w.scales, staging, streams.copies);
    if (code != cudaSuccess) return code;
  }
  if (!is_coded(matrix.dtype) && width == w.row_bytes) {
    return send_bytes(matrix.data, matrix.rows * width, w.codes, staging, streams.copies);
  }
  // Whole blocks at a time.
  const std::int64_t block_bytes = block_size(matrix.dtype).bytes;
  const std::int64_t part = WeightStaging::kPart / block_bytes * block_bytes;
  const auto* from = static_cast<const std::byte*>(matrix.data);
  for (std::int64_t first = 0; first < matrix.rows * width; first += part) {
    const std::int64_t bytes = std::min(part, matrix.rows * width - first);
    const cudaError_t code = staging.send_and_lay_out(
        from + first, bytes, streams,
        [&](const std::uint8_t* raw, cudaStream_t stream) { return lay_out(matrix, w, raw, first, bytes, stream); });
    if (code != cudaSuccess) return code;
  }
  return cudaSuccess;
}

Result<WeightHandle> CudaBackend::take_expert(const HostMatrix& matrix) {
  if (budget_.on_device < 0) return take_weight(matrix);
  if (!can_be_held(matrix)) return cannot_be_held(matrix);
  return WeightHandle(std::make_unique<HostWeight>(matrix));
}

Result<WeightHandle> CudaBackend::take_weight(const HostMatrix& matrix) {
  if (failure_) return *failure_;
  if (!can_be_held(matrix)) return cannot_be_held(matrix);
  choose_device();
  if (staging_ == nullptr) staging_ = WeightStaging::make();
  const std::int64_t bytes = device_bytes(matrix);
  std::byte* const piece = staging_ == nullptr ? nullptr : weights_.take(bytes);
  if (piece == nullptr) {
    return Error{ErrorCode::kOutOfMemory,
                 "The GPU " + std::string(properties_.name) + " has no room for a weight matrix of " +
                     std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB (" + std::to_string(matrix.rows) + " x " +
                     std::to_string(matrix.cols) + ", " + std::string(name_of(matrix.dtype)) + ") beside the " +
                     std::to_string(weights_.used() >> 20) +
                     " MiB already there; close other programs that use it, or choose a smaller quantisation."};
  }
  auto weight = std::make_unique<CudaWeight>(matrix.dtype, planes_at(matrix, piece), weights_, piece);
  note(fill_weight(matrix, weight->matrix(), *staging_, {stream_, stream_}), "Copying weights to it");
  if (failure_) return *failure_;
  return WeightHandle(std::move(weight));
}

}  // namespace lectern::engine::cuda

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "core/tensor.h"
#include "cuda/device_memory.h"
#include "cuda/locked_memory.h"
#include "cuda/pass_values.h"
#include "cuda/platform.h"
#include "ops/backend.h"

// Weights on the device. The blocks of a file (18, 34, 144, 210 bytes) are taken apart once, at load, into planes whose
// pieces a warp reads side by side with loads of 4 to 16 bytes. Nothing is rounded and no byte is added: a plane holds
// the same bits in another order.
//
// A group is 32 consecutive columns of a row; it has low[i], columns 4 i to 4 i + 3 in the bytes of a register, and
// high[i], 16 columns later, i = 0 .. 3. One lane reads one group. Per group, row after row:
//   8-bit codes    16 bytes of low in the first half of the row, 16 bytes of high in the second
//   4-bit codes    16 bytes: nibble 0 of byte 4 i + k belongs to byte k of low[i], nibble 1 to high[i]; where codes are
//                  places in a table, nibbles 0 to 3 of word i are low[i] and 4 to 7 high[i]
//   2 bits         4 bytes for low, 4 for high: bits 8 k + 2 i belong to byte k of word i
//   1 bit          4 bytes: bit 8 k + i for low[i], bit 8 k + 4 + i for high[i]
//   scales         as in the file, those of a block together; but the six bits of scale j and minimum j of Q4_K and
//   Q5_K
//                  so that byte 4 + j has the lower four of the scale and of the minimum, and nibble j of the last four
//                  bytes the upper two of both
//
//   type             codes  high  scales  super   bits per weight, as in the file
//   Q8_0                32           2             8.5
//   Q4_0, IQ4_NL        16           2             4.5
//   Q4_1                16           4             5
//   Q5_0                16     4     2             5.5
//   Q5_1                16     4     4             6
//   MXFP4               16           1             4.25
//   Q2_K                64          16       4     2.625    from here on bytes for 256 columns
//   Q3_K                64    32    12       2     3.4375
//   Q4_K               128          16             4.5
//   Q5_K               128    32    16             5.5
//   Q6_K               128    64    16       2     6.5625
//   IQ4_XS             128           8             4.25
//   F32, F16, BF16, F8_E4M3: the numbers, rows padded with zeros to 16 bytes; F8's scales one float per 128 x 128
namespace lectern::engine::cuda {

inline constexpr int kGroup = 32;

// Bytes of each plane for one block of the type.
struct PlaneBytes {
  int codes = 0;
  int high = 0;
  int scales = 0;
  int super = 0;

  constexpr int sum() const { return codes + high + scales + super; }
};

constexpr PlaneBytes plane_bytes(DType type) {
  switch (type) {
    case DType::kF32:
      return {4, 0, 0, 0};
    case DType::kF16:
    case DType::kBF16:
      return {2, 0, 0, 0};
    case DType::kF8E4M3:
      return {1, 0, 0, 0};
    case DType::kQ8_0:
      return {32, 0, 2, 0};
    case DType::kQ4_0:
    case DType::kIq4Nl:
      return {16, 0, 2, 0};
    case DType::kQ4_1:
      return {16, 0, 4, 0};
    case DType::kQ5_0:
      return {16, 4, 2, 0};
    case DType::kQ5_1:
      return {16, 4, 4, 0};
    case DType::kQ2K:
      return {64, 0, 16, 4};
    case DType::kQ3K:
      return {64, 32, 12, 2};
    case DType::kQ4K:
      return {128, 0, 16, 0};
    case DType::kQ5K:
      return {128, 32, 16, 0};
    case DType::kQ6K:
      return {128, 64, 16, 2};
    case DType::kIq4Xs:
      return {128, 0, 8, 0};
    case DType::kMxfp4:
      return {16, 0, 1, 0};
  }
  return {};
}

constexpr bool no_type_grows() {
  for (const DTypeFacts& facts : kDTypes) {
    if (plane_bytes(facts.type).sum() != facts.block.bytes) return false;
  }
  return true;
}
static_assert(no_type_grows());

// Codes and scales rather than numbers: what is multiplied by activations of 8 bits.
constexpr bool is_coded(DType type) { return type >= DType::kQ8_0; }
template <DType Type>
inline constexpr bool kIsCoded = is_coded(Type);

// A matrix as kernels see it; passed by value or kept in tables on the device. Without padding, because launches are
// compared byte by byte.
struct DeviceMatrix {
  const std::uint8_t* codes = nullptr;
  const std::uint8_t* high = nullptr;
  const std::uint8_t* scales = nullptr;
  const std::uint8_t* super = nullptr;
  std::int64_t row_bytes = 0;  // of `codes`
  std::int32_t rows = 0;
  std::int32_t cols = 0;
};

class CudaWeight final : public Weight {
 public:
  CudaWeight(DType type, const DeviceMatrix& matrix, HeapMemory& memory, std::byte* piece)
      : Weight(matrix.rows, matrix.cols), type_(type), matrix_(matrix), memory_(memory), piece_(piece) {}
  ~CudaWeight() override { memory_.give_back(piece_); }
  CudaWeight(const CudaWeight&) = delete;
  CudaWeight& operator=(const CudaWeight&) = delete;

  DType type() const { return type_; }
  const DeviceMatrix& matrix() const { return matrix_; }

 private:
  DType type_;
  DeviceMatrix matrix_;
  HeapMemory& memory_;
  std::byte* piece_;
};

inline const CudaWeight& cuda_weight(const Weight& weight) { return static_cast<const CudaWeight&>(weight); }

// What a matrix takes from the weights' memory, and its planes there.
std::int64_t device_bytes(const HostMatrix& matrix);
DeviceMatrix planes_at(const HostMatrix& matrix, std::byte* piece);

// Where copies are queued, and kernels that lay out what has been copied. They may be the same.
struct TransferStreams {
  cudaStream_t copies = nullptr;
  cudaStream_t layouts = nullptr;
};

// The way of weights to the device: parts of a file go into one of two raw pieces there, which a kernel lays out; out
// of locked memory straight, out of other memory through one of two page-locked buffers, while the other one is on its
// way.
class WeightStaging {
 public:
  static constexpr std::int64_t kPart = std::int64_t{4} << 20;

  // Null when there is no memory for it.
  static std::shared_ptr<WeightStaging> make();
  ~WeightStaging();
  WeightStaging(const WeightStaging&) = delete;
  WeightStaging& operator=(const WeightStaging&) = delete;

  // Copies at most kPart bytes; afterwards `from` is not needed any more unless it is locked, and `to` holds them for
  // what is queued later.
  cudaError_t send(const void* from, std::int64_t bytes, std::uint8_t* to, cudaStream_t stream);
  // What send() need not put into a buffer.
  void use(const std::shared_ptr<const LockedMemory>& locked) { locked_ = locked; }
  // Queues a part's way to memory of kPart bytes and what `lay_out(raw, stream)` makes of it there, so that with two
  // streams the next part is sent meanwhile.
  template <class LayOut>
  cudaError_t send_and_lay_out(const void* from, std::int64_t bytes, const TransferStreams& streams,
                               const LayOut& lay_out) {
    Raw& raw = raws_[next_raw_];
    next_raw_ = 1 - next_raw_;
    const bool apart = streams.copies != streams.layouts;
    auto* const memory = reinterpret_cast<std::uint8_t*>(raw.memory.data());
    cudaError_t code = apart ? cudaStreamWaitEvent(streams.copies, raw.free, 0) : cudaSuccess;
    if (code == cudaSuccess) code = send(from, bytes, memory, streams.copies);
    if (code == cudaSuccess && apart) code = cudaEventRecord(raw.filled, streams.copies);
    if (code == cudaSuccess && apart) code = cudaStreamWaitEvent(streams.layouts, raw.filled, 0);
    if (code == cudaSuccess) code = lay_out(memory, streams.layouts);
    return code == cudaSuccess && apart ? cudaEventRecord(raw.free, streams.layouts) : code;
  }

 private:
  WeightStaging() = default;

  std::weak_ptr<const LockedMemory> locked_;
  std::array<PinnedBlock, 2> pinned_;
  std::array<cudaEvent_t, 2> sent_ = {};
  std::size_t next_ = 0;
  struct Raw {
    DeviceBlock memory;
    cudaEvent_t filled = nullptr;
    cudaEvent_t free = nullptr;
  };
  std::array<Raw, 2> raws_;
  std::size_t next_raw_ = 0;
};

// Queues what brings a matrix to its planes.
cudaError_t fill_weight(const HostMatrix& matrix, const DeviceMatrix& w, WeightStaging& staging,
                        const TransferStreams& streams);

}  // namespace lectern::engine::cuda

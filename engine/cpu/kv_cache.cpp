// SPDX-License-Identifier: Apache-2.0
#include "cpu/kv_cache.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "cpu/cpu_backend.h"

namespace lectern::engine::cpu {
namespace {

constexpr std::int64_t kMostBytes = std::int64_t{1} << 39;  // of one layer: more is a mistake, not a wish
constexpr std::int64_t kMostWidth = std::int64_t{1} << 20;
constexpr float kLargestCode = 127.0F;
constexpr float kRounder = 12582912.0F;  // 1.5 * 2^23: added and taken away, rounds small numbers to integers

std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

// To nearest even; what is no number stays none.
std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}

// Codes of up to kScaleNumbers numbers; gives the scale, which is no number where one of them is infinite or none.
float to_codes(const float* numbers, std::int64_t count, std::int8_t* codes) {
  float largest = 0;
  bool finite = true;
  for (std::int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::abs(numbers[i]));
    finite = finite && std::isfinite(numbers[i]);
  }
  const float scale = finite ? largest / kLargestCode : std::numeric_limits<float>::quiet_NaN();
  const float inverse = scale > 0 ? 1.0F / scale : 0.0F;
  for (std::int64_t i = 0; i < count; ++i) {
    const float code = finite && std::isfinite(inverse) ? numbers[i] * inverse + kRounder - kRounder : 0.0F;
    codes[i] = static_cast<std::int8_t>(std::clamp(code, -kLargestCode, kLargestCode));
  }
  return scale;
}

// Zeros, whole cache lines or whole large pages.
std::shared_ptr<std::byte> make_zeros(std::int64_t bytes) {
  const std::int64_t unit = bytes < CpuKvCache::kSlabBytes ? 64 : CpuKvCache::kSlabBytes;
  const auto size = static_cast<std::size_t>(round_up(bytes, unit));
  std::shared_ptr<std::byte> memory(static_cast<std::byte*>(std::aligned_alloc(static_cast<std::size_t>(unit), size)),
                                    [](std::byte* pointer) { std::free(pointer); });
  if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  if (bytes >= CpuKvCache::kSlabBytes) ::madvise(memory.get(), size, MADV_HUGEPAGE);  // a wish
#endif
  std::memset(memory.get(), 0, static_cast<std::size_t>(bytes));
  return memory;
}

CpuKvCache& own(KvCache& cache) { return static_cast<CpuKvCache&>(cache); }
const CpuKvCache& own(const KvCache& cache) { return static_cast<const CpuKvCache&>(cache); }

}  // namespace

CpuKvCache::CpuKvCache(const AttentionShape& shape, KvType type)
    : heads_(shape.kv_heads), width_(shape.head_dim), padded_(round_up(shape.head_dim, kPanelColumns)), type_(type) {
  static_assert(kPanelColumns == kScaleNumbers, "a panel of values has one scale for each line");
  static_assert(kGroupRows % kPanelColumns == 0 && kPanelColumns % 2 == 0);
}

void CpuKvCache::truncate(std::int64_t length) {
  length_ = std::min(length_, length);
  blocks_.resize(static_cast<std::size_t>(round_up(length_, kBlockRows) / kBlockRows));
}

std::int64_t CpuKvCache::bytes() const { return static_cast<std::int64_t>(blocks_.size()) * block_bytes(); }

std::unique_ptr<KvCache> CpuKvCache::fork() const {
  auto copy = std::make_unique<CpuKvCache>(*this);
  copy->truncate(length_);
  copy->spare_.clear();
  return copy;
}

bool CpuKvCache::can_hold(std::int64_t rows) const {
  const std::int64_t most = kMostBytes / block_bytes() * kBlockRows;
  return rows >= 0 && rows <= most - length_;
}

void CpuKvCache::make_room(std::int64_t rows) {
  if (!can_hold(rows)) throw std::bad_alloc();
  if (rows == 0) return;
  const std::size_t before = blocks_.size();
  try {
    for (std::int64_t end = length_ + rows; static_cast<std::int64_t>(blocks_.size()) * kBlockRows < end;) {
      add_block();
    }
    std::shared_ptr<Block>& first = blocks_[static_cast<std::size_t>(length_ / kBlockRows)];
    if (first.use_count() > 1) first = copy_of(*first);
  } catch (...) {
    blocks_.resize(before);
    throw;
  }
}

void CpuKvCache::add_block() {
  if (spare_.empty()) {
    const std::int64_t fitting = std::max<std::int64_t>(1, kSlabBytes / block_bytes());
    const std::int64_t count = static_cast<std::int64_t>(blocks_.size()) < fitting ? 1 : fitting;
    const std::shared_ptr<std::byte> memory = make_zeros(count * block_bytes());
    spare_.reserve(static_cast<std::size_t>(count));
    for (std::int64_t i = count; i-- > 0;) {
      spare_.push_back(std::make_shared<Block>(Block{memory, memory.get() + i * block_bytes()}));
    }
  }
  blocks_.push_back(spare_.back());
  spare_.pop_back();
}

std::shared_ptr<CpuKvCache::Block> CpuKvCache::copy_of(const Block& block) const {
  const std::shared_ptr<std::byte> memory = make_zeros(block_bytes());
  std::memcpy(memory.get(), block.bytes, static_cast<std::size_t>(block_bytes()));
  return std::make_shared<Block>(Block{memory, memory.get()});
}

std::int64_t CpuKvCache::head_bytes() const {
  switch (type_) {
    case KvType::kF32:
      return 4 * width_;
    case KvType::kBF16:
      return 2 * width_;
    case KvType::kQ8:
      break;
  }
  return width_ + 4 * (round_up(width_, kScaleNumbers) / kScaleNumbers);
}

std::int64_t CpuKvCache::panel_bytes(std::int64_t lines) const {
  switch (type_) {
    case KvType::kF32:
      return 4 * lines * kPanelColumns;
    case KvType::kBF16:
      return 2 * lines * kPanelColumns;
    case KvType::kQ8:
      break;
  }
  return lines * kPanelColumns + 4 * lines;  // as many scales by column as by line
}

std::int64_t CpuKvCache::offset(std::int64_t head, std::int64_t row, Side side) const {
  const std::int64_t group = head * (kBlockRows / kGroupRows) + row % kBlockRows / kGroupRows;
  return (2 * group + (side == Side::kValues ? 1 : 0)) * matrix_bytes();
}

const std::byte* CpuKvCache::matrix(std::int64_t head, std::int64_t row, Side side) const {
  return blocks_[static_cast<std::size_t>(row / kBlockRows)]->bytes + offset(head, row, side);
}

std::byte* CpuKvCache::matrix(std::int64_t head, std::int64_t row, Side side) {
  return blocks_[static_cast<std::size_t>(row / kBlockRows)]->bytes + offset(head, row, side);
}

PanelProduct CpuKvCache::keys(std::int64_t head, std::int64_t row) const {
  PanelProduct product;
  product.depth = padded_;
  product.b = matrix(head, row, Side::kKeys);
  product.format = type_ == KvType::kF32    ? PanelFormat::kF32
                   : type_ == KvType::kBF16 ? PanelFormat::kBF16
                                            : PanelFormat::kQ8ByColumn;
  product.panel_bytes = panel_bytes(padded_);
  product.scales_offset = padded_ * kPanelColumns;
  product.panels = kGroupRows / kPanelColumns;
  product.next = matrix(head, row, Side::kValues);
  return product;
}

PanelProduct CpuKvCache::values(std::int64_t head, std::int64_t row) const {
  PanelProduct product = keys(head, row);
  product.depth = kGroupRows;
  product.b = product.next;
  if (type_ == KvType::kQ8) product.format = PanelFormat::kQ8ByLine;
  product.panel_bytes = panel_bytes(kGroupRows);
  product.scales_offset = kGroupRows * kPanelColumns;
  product.panels = padded_ / kPanelColumns;
  product.accumulate = true;
  product.next = row + kGroupRows < length_ ? matrix(head, row + kGroupRows, Side::kKeys) : nullptr;
  return product;
}

// Numbers 0 .. head_dim of a row, in order.
template <class T, class Matrix, class Visit>
void CpuKvCache::visit_numbers(std::int64_t row, Side side, Matrix* matrix, const Visit& visit) const {
  const bool keys = side == Side::kKeys;
  const std::int64_t within = row % kGroupRows;
  const std::int64_t panel = panel_bytes(keys ? padded_ : kGroupRows);
  for (std::int64_t i = 0; i < width_; ++i) {
    const std::int64_t line = keys ? i : within;
    const std::int64_t column = keys ? within : i;
    const std::int64_t in_line = column % kPanelColumns;
    const std::int64_t at =
        type_ == KvType::kBF16 ? line / 2 * 2 * kPanelColumns + 2 * in_line + line % 2 : line * kPanelColumns + in_line;
    visit(matrix + column / kPanelColumns * panel + at * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  }
}

template <class Matrix, class Visit>
void CpuKvCache::visit_scales(std::int64_t row, Side side, Matrix* matrix, const Visit& visit) const {
  const bool keys = side == Side::kKeys;
  const std::int64_t within = row % kGroupRows;
  const std::int64_t lines = keys ? padded_ : kGroupRows;
  for (std::int64_t i = 0; i * kScaleNumbers < width_; ++i) {
    const std::int64_t panel = keys ? within / kPanelColumns : i;
    const std::int64_t at = keys ? i * kPanelColumns + within % kPanelColumns : within;
    visit(matrix + panel * panel_bytes(lines) + lines * kPanelColumns + 4 * at, sizeof(float));
  }
}

// Everything save_rows() writes of one head, in its order.
template <class Matrix, class Visit>
void CpuKvCache::visit(std::int64_t row, Side side, Matrix* matrix, const Visit& visit) const {
  switch (type_) {
    case KvType::kF32:
      visit_numbers<float>(row, side, matrix, visit);
      break;
    case KvType::kBF16:
      visit_numbers<std::uint16_t>(row, side, matrix, visit);
      break;
    case KvType::kQ8:
      visit_numbers<std::int8_t>(row, side, matrix, visit);
      visit_scales(row, side, matrix, visit);
      break;
  }
}

void CpuKvCache::place(std::int64_t head, std::int64_t row, Side side, const std::byte* from) {
  visit(row, side, matrix(head, row, side), [&from](std::byte* place, std::size_t size) {
    std::memcpy(place, from, size);
    from += size;
  });
}

void CpuKvCache::take(std::int64_t head, std::int64_t row, Side side, std::byte* to) const {
  visit(row, side, matrix(head, row, side), [&to](const std::byte* place, std::size_t size) {
    std::memcpy(to, place, size);
    to += size;
  });
}

void CpuKvCache::encode(const float* numbers, std::byte* to) const {
  switch (type_) {
    case KvType::kF32:
      std::memcpy(to, numbers, static_cast<std::size_t>(4 * width_));
      break;
    case KvType::kBF16:
      for (std::int64_t i = 0; i < width_; ++i) {
        const std::uint16_t bits = to_bf16(numbers[i]);
        std::memcpy(to + 2 * i, &bits, sizeof bits);
      }
      break;
    case KvType::kQ8:
      for (std::int64_t i = 0; i < width_; i += kScaleNumbers) {
        std::int8_t codes[kScaleNumbers];
        const std::int64_t count = std::min(kScaleNumbers, width_ - i);
        const float scale = to_codes(numbers + i, count, codes);
        std::memcpy(to + i, codes, static_cast<std::size_t>(count));
        std::memcpy(to + width_ + 4 * (i / kScaleNumbers), &scale, sizeof scale);
      }
      break;
  }
}

void CpuKvCache::write(std::int64_t head, const Tensor& k, const Tensor& v) {
  std::vector<std::byte> row(static_cast<std::size_t>(head_bytes()));
  for (std::int64_t t = 0; t < k.rows; ++t) {
    encode(k.row(t) + head * width_, row.data());
    place(head, length_ + t, Side::kKeys, row.data());
    encode(v.row(t) + head * width_, row.data());
    place(head, length_ + t, Side::kValues, row.data());
  }
}

void CpuKvCache::write(std::int64_t head, std::span<const std::byte> rows) {
  const std::byte* from = rows.data() + head * head_bytes();
  const std::int64_t count = static_cast<std::int64_t>(rows.size()) / bytes_of_row();
  for (std::int64_t t = 0; t < count; ++t, from += bytes_of_row()) {
    place(head, length_ + t, Side::kKeys, from);
    place(head, length_ + t, Side::kValues, from + heads_ * head_bytes());
  }
}

void CpuKvCache::read(std::int64_t head, std::int64_t first, std::int64_t rows, std::byte* to) const {
  to += head * head_bytes();
  for (std::int64_t row = first; row < first + rows; ++row, to += bytes_of_row()) {
    take(head, row, Side::kKeys, to);
    take(head, row, Side::kValues, to + heads_ * head_bytes());
  }
}

Result<std::unique_ptr<KvCache>> CpuBackend::make_kv_cache(const AttentionShape& shape, KvType type) {
  if (shape.head_dim < 1 || shape.head_dim > kMostWidth || shape.kv_heads < 1 ||
      shape.kv_heads > kMostWidth / shape.head_dim) {
    return Error{ErrorCode::kUnsupported, "Keys of " + std::to_string(shape.kv_heads) + " heads of " +
                                              std::to_string(shape.head_dim) +
                                              " numbers are not supported; the model's configuration is "
                                              "damaged."};
  }
  return std::unique_ptr<KvCache>(std::make_unique<CpuKvCache>(shape, type));
}

Result<void> CpuBackend::reserve_kv(KvCache& cache, std::int64_t rows) {
  try {
    own(cache).make_room(rows);
    return {};
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kOutOfMemory, "There is no memory for the keys and values of " + std::to_string(rows) +
                                              " more tokens; close other programs or use a shorter context."};
  }
}

void CpuBackend::append_kv(const Tensor& k, const Tensor& v, KvCache& cache) {
  CpuKvCache& to = own(cache);
  to.make_room(k.rows);
  each(to.heads(), 4 * k.rows * k.cols / to.heads(), [&](std::int64_t head) { to.write(head, k, v); });
  to.extend(k.rows);
}

void CpuBackend::save_rows(const KvCache& cache, std::int64_t first, std::int64_t rows, std::span<std::byte> to) {
  const CpuKvCache& from = own(cache);
  each(from.heads(), rows * from.bytes_of_row() / from.heads(),
       [&](std::int64_t head) { from.read(head, first, rows, to.data()); });
}

void CpuBackend::load_rows(std::span<const std::byte> from, KvCache& cache) {
  CpuKvCache& to = own(cache);
  const std::int64_t rows = static_cast<std::int64_t>(from.size()) / to.bytes_of_row();
  to.make_room(rows);
  each(to.heads(), rows * to.bytes_of_row() / to.heads(), [&](std::int64_t head) { to.write(head, from); });
  to.extend(rows);
}

}  // namespace lectern::engine::cpu

// SPDX-License-Identifier: Apache-2.0
#include "model/gguf_parser.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "core/utf8.h"
#include "model/tensor_file.h"

namespace lectern::engine {
namespace {

// Far beyond any model, and small enough that a file which reaches them all takes bearable time and memory.
constexpr std::uint64_t kMostKeys = 1 << 16;
constexpr std::uint64_t kMostTensors = 1 << 17;
constexpr std::uint64_t kMostElements = 1 << 24;
constexpr std::uint64_t kLongestKey = 1 << 16;
constexpr std::uint64_t kLongestString = 16 << 20;
constexpr std::uint64_t kLongestTensorName = 63;
constexpr std::uint64_t kLargestMetadata = 1 << 30;
constexpr std::uint32_t kMostDimensions = 4;
constexpr std::uint32_t kDefaultAlignment = 32;
constexpr std::uint32_t kLargestAlignment = 1 << 16;
constexpr std::uint64_t kSmallestPair = 13;    // key length, value type, one byte of value
constexpr std::uint64_t kSmallestTensor = 24;  // name length, dimension count, type, offset

constexpr std::array<std::uint8_t, 13> kTypeBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};  // 0: not fixed

// What the file calls a tensor's type; `dtype` is absent where this engine has no kernels for it.
struct StoredType {
  std::uint32_t number;
  std::string_view name;
  std::optional<DType> dtype;
};

constexpr std::array<StoredType, 35> kStoredTypes = {{{0, "F32", DType::kF32},
                                                      {1, "F16", DType::kF16},
                                                      {2, "Q4_0", DType::kQ4_0},
                                                      {3, "Q4_1", DType::kQ4_1},
                                                      {6, "Q5_0", DType::kQ5_0},
                                                      {7, "Q5_1", DType::kQ5_1},
                                                      {8, "Q8_0", DType::kQ8_0},
                                                      {9, "Q8_1", {}},
                                                      {10, "Q2_K", DType::kQ2K},
                                                      {11, "Q3_K", DType::kQ3K},
                                                      {12, "Q4_K", DType::kQ4K},
                                                      {13, "Q5_K", DType::kQ5K},
                                                      {14, "Q6_K", DType::kQ6K},
                                                      {15, "Q8_K", {}},
                                                      {16, "IQ2_XXS", {}},
                                                      {17, "IQ2_XS", {}},
                                                      {18, "IQ3_XXS", {}},
                                                      {19, "IQ1_S", {}},
                                                      {20, "IQ4_NL", DType::kIq4Nl},
                                                      {21, "IQ3_S", {}},
                                                      {22, "IQ2_S", {}},
                                                      {23, "IQ4_XS", DType::kIq4Xs},
                                                      {24, "I8", {}},
                                                      {25, "I16", {}},
                                                      {26, "I32", {}},
                                                      {27, "I64", {}},
                                                      {28, "F64", {}},
                                                      {29, "IQ1_M", {}},
                                                      {30, "BF16", DType::kBF16},
                                                      {34, "TQ1_0", {}},
                                                      {35, "TQ2_0", {}},
                                                      {39, "MXFP4", DType::kMxfp4},
                                                      {40, "NVFP4", {}},
                                                      {41, "Q1_0", {}},
                                                      {42, "Q2_0", {}}}};

std::uint64_t round_up(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

class GgufParser {
 public:
  GgufParser(std::span<const std::byte> file, const std::string& name)
      : file_(file), name_(name), content_{GgufMetadata(name), {}} {}

  Result<GgufContent> parse() {
    ENGINE_CHECK(read_magic());
    ENGINE_TRY(const std::uint64_t tensors, read_count("tensors", kMostTensors, kSmallestTensor));
    ENGINE_TRY(const std::uint64_t keys, read_count("keys", kMostKeys, kSmallestPair));
    for (std::uint64_t i = 0; i < keys; ++i) ENGINE_CHECK(read_pair());
    ENGINE_TRY(alignment_, read_alignment());
    infos_.reserve(tensors);
    for (std::uint64_t i = 0; i < tensors; ++i) ENGINE_CHECK(read_tensor());
    const std::uint64_t start = std::min<std::uint64_t>(round_up(at_, alignment_), file_.size());
    data_ = file_.subspan(static_cast<std::size_t>(start));
    ENGINE_CHECK(place_tensors());
    return std::move(content_);
  }

 private:
  struct Info {
    std::string_view name;
    GgufTensor tensor;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
  };

  Error corrupt(const std::string& what) const {
    return {ErrorCode::kCorrupt, name_ + ": " + what + "; the file is damaged or incomplete, fetch it again."};
  }
  Error unsupported(const std::string& what) const { return {ErrorCode::kUnsupported, name_ + ": " + what + "."}; }

  std::uint64_t left() const { return file_.size() - at_; }

  template <class T>
  Result<T> read(std::string_view what) {
    if (left() < sizeof(T)) return corrupt("it ends inside " + std::string(what));
    T value;
    std::memcpy(&value, file_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

  Result<std::string_view> read_string(std::string_view what, std::uint64_t longest) {
    ENGINE_TRY(const auto length, read<std::uint64_t>(what));
    if (length > longest) {
      return corrupt(std::string(what) + " of " + std::to_string(length) + " bytes is longer than the " +
                     std::to_string(longest) + " allowed");
    }
    if (length > left()) return corrupt("it ends inside " + std::string(what));
    const std::string_view text(reinterpret_cast<const char*>(file_.data()) + at_, static_cast<std::size_t>(length));
    at_ += static_cast<std::size_t>(length);
    return text;
  }

  Result<void> read_magic() {
    if (file_.size() < 4 || std::memcmp(file_.data(), "GGUF", 4) != 0) {
      return corrupt("it does not begin with \"GGUF\"");
    }
    at_ = 4;
    ENGINE_TRY(const auto version, read<std::uint32_t>("the version"));
    if (version != 0 && (version & 0xFFFF) == 0) {
      return unsupported("it is written in big-endian byte order; use the little-endian file of this model");
    }
    if (version != 2 && version != 3) {
      return unsupported("GGUF version " + std::to_string(version) +
                         " is not supported; use a file of version 2 or 3, converted anew");
    }
    return {};
  }

  Result<std::uint64_t> read_count(std::string_view what, std::uint64_t most, std::uint64_t smallest) {
    ENGINE_TRY(const auto count, read<std::uint64_t>("the number of " + std::string(what)));
    if (count > most || count > left() / smallest) {
      return corrupt("it claims " + std::to_string(count) + " " + std::string(what) + ", too many for its " +
                     std::to_string(file_.size()) + " bytes");
    }
    return count;
  }

  Result<GgufType> read_type(std::string_view key) {
    ENGINE_TRY(const auto number, read<std::uint32_t>("the type of key " + unicode::in_quotes(key)));
    if (number >= kTypeBytes.size()) {
      return corrupt("key " + unicode::in_quotes(key) + " has the unknown value type " + std::to_string(number));
    }
    return static_cast<GgufType>(number);
  }

  Result<void> read_pair() {
    ENGINE_TRY(const std::string_view key, read_string("a key", kLongestKey));
    if (key.empty()) return corrupt("a key is empty");
    GgufValue value;
    ENGINE_TRY(value.type, read_type(key));
    if (value.type == GgufType::kArray) {
      value.array = true;
      ENGINE_TRY(value.type, read_type(key));
      if (value.type == GgufType::kArray) return corrupt("key " + unicode::in_quotes(key) + " is an array of arrays");
      ENGINE_TRY(value.count, read<std::uint64_t>("the length of key " + unicode::in_quotes(key)));
    }
    ENGINE_CHECK(read_elements(key, value));
    if (at_ > kLargestMetadata) return corrupt("its metadata is longer than 1 GiB");
    if (!content_.metadata.add(key, value)) return corrupt("key " + unicode::in_quotes(key) + " occurs twice");
    return {};
  }

  Result<void> read_elements(std::string_view key, GgufValue& value) {
    const std::uint64_t fixed = kTypeBytes[static_cast<std::size_t>(value.type)];
    const std::uint64_t smallest = fixed > 0 ? fixed : sizeof(std::uint64_t);
    if (value.count > kMostElements || value.count > left() / smallest) {
      return corrupt("key " + unicode::in_quotes(key) + " claims " + std::to_string(value.count) +
                     " elements, more than the file holds or than allowed");
    }
    const std::size_t begin = at_;
    if (fixed > 0) {
      at_ += static_cast<std::size_t>(value.count * fixed);
    } else {
      const std::string what = "a string of key " + unicode::in_quotes(key);
      for (std::uint64_t i = 0; i < value.count; ++i) {
        const auto text = read_string(what, kLongestString);
        if (!text.ok()) return text.error();
      }
    }
    value.bytes = file_.subspan(begin, at_ - begin);
    return {};
  }

  Result<std::uint32_t> read_alignment() const {
    constexpr std::string_view kKey = "general.alignment";
    const GgufValue* value = content_.metadata.find(kKey);
    if (value == nullptr) return kDefaultAlignment;
    std::uint32_t alignment = 0;
    if (!value->array && value->type == GgufType::kU32) std::memcpy(&alignment, value->bytes.data(), 4);
    if (!std::has_single_bit(alignment) || alignment > kLargestAlignment) {
      return corrupt("general.alignment is not a power of two of type u32, 1 to 65536");
    }
    return alignment;
  }

  Result<void> read_tensor() {
    Info info;
    ENGINE_TRY(info.name, read_string("a tensor's name", kLongestTensorName));
    if (info.name.empty()) return corrupt("a tensor has no name");
    if (info.name.find('\0') != std::string_view::npos) return corrupt("a tensor's name holds a zero byte");
    ENGINE_TRY(const std::uint64_t elements, read_shape(info));
    ENGINE_TRY(const auto number, read<std::uint32_t>("a tensor's type"));
    ENGINE_TRY(info.tensor.dtype, known_type(info.name, number));
    const BlockSize block = block_size(info.tensor.dtype);
    const std::int64_t row = info.tensor.shape.empty() ? 1 : info.tensor.shape.back();
    if (row % block.elements != 0) {
      return corrupt("tensor " + unicode::in_quotes(info.name) + " has rows of " + std::to_string(row) +
                     " numbers, not a multiple of the " + std::to_string(block.elements) + " in a block of " +
                     std::string(name_of(info.tensor.dtype)));
    }
    if (__builtin_mul_overflow(elements / static_cast<std::uint64_t>(block.elements),
                               static_cast<std::uint64_t>(block.bytes), &info.bytes)) {
      return corrupt("tensor " + unicode::in_quotes(info.name) + " has a shape that does not fit the file");
    }
    ENGINE_TRY(info.offset, read<std::uint64_t>("a tensor's offset"));
    if (info.offset % alignment_ != 0) {
      return corrupt("tensor " + unicode::in_quotes(info.name) + " begins at " + std::to_string(info.offset) +
                     ", not at a multiple of " + std::to_string(alignment_));
    }
    infos_.push_back(std::move(info));
    return {};
  }

  // The number of elements.
  Result<std::uint64_t> read_shape(Info& info) {
    ENGINE_TRY(const auto dimensions, read<std::uint32_t>("a tensor's shape"));
    if (dimensions > kMostDimensions) {
      return corrupt("tensor " + unicode::in_quotes(info.name) + " has " + std::to_string(dimensions) +
                     " dimensions, at most 4 are possible");
    }
    std::int64_t elements = 1;
    for (std::uint32_t i = 0; i < dimensions; ++i) {
      ENGINE_TRY(const auto length, read<std::int64_t>("a tensor's shape"));
      if (length < 0 || __builtin_mul_overflow(elements, length, &elements)) {
        return corrupt("tensor " + unicode::in_quotes(info.name) + " has a shape that does not fit the file");
      }
      info.tensor.shape.insert(info.tensor.shape.begin(), length);
    }
    return static_cast<std::uint64_t>(elements);
  }

  Result<DType> known_type(std::string_view tensor, std::uint32_t number) const {
    const auto* type = std::find_if(kStoredTypes.begin(), kStoredTypes.end(),
                                    [number](const StoredType& stored) { return stored.number == number; });
    const bool named = type != kStoredTypes.end();
    if (named && type->dtype) return *type->dtype;
    const std::string what = named ? "type " + std::string(type->name) : "the unknown type " + std::to_string(number);
    return unsupported("tensor " + unicode::in_quotes(tensor) + " is stored as " + what +
                       ", which this engine cannot compute with; use a file of this model quantised as Q4_K_M, Q6_K or "
                       "Q8_0");
  }

  // Gaps between tensors are allowed, overlaps are not.
  Result<void> place_tensors() {
    std::sort(infos_.begin(), infos_.end(), [](const Info& a, const Info& b) { return a.offset < b.offset; });
    std::uint64_t reached = 0;
    for (Info& info : infos_) {
      if (info.offset > data_.size() || info.bytes > data_.size() - info.offset) {
        return corrupt("tensor " + unicode::in_quotes(info.name) + " of shape " + shape_text(info.tensor.shape) +
                       " reaches beyond the end of the file");
      }
      if (info.bytes > 0 && info.offset < reached)
        return corrupt("tensor " + unicode::in_quotes(info.name) + " overlaps another");
      reached = std::max(reached, info.offset + info.bytes);
      info.tensor.bytes = data_.subspan(static_cast<std::size_t>(info.offset), static_cast<std::size_t>(info.bytes));
      if (!content_.tensors.emplace(info.name, std::move(info.tensor)).second) {
        return corrupt("tensor " + unicode::in_quotes(info.name) + " occurs twice");
      }
    }
    return {};
  }

  std::span<const std::byte> file_;
  const std::string& name_;
  std::size_t at_ = 0;
  std::uint64_t alignment_ = kDefaultAlignment;
  std::span<const std::byte> data_;
  std::vector<Info> infos_;
  GgufContent content_;
};

}  // namespace

std::uint32_t gguf_type_number(DType type) {
  const auto* stored = std::find_if(kStoredTypes.begin(), kStoredTypes.end(),
                                    [type](const StoredType& candidate) { return candidate.dtype == type; });
  return stored->number;
}

Result<GgufContent> parse_gguf(std::span<const std::byte> file, const std::string& name) {
  return GgufParser(file, name).parse();
}

}  // namespace lectern::engine

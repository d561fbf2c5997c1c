// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "model/gguf_metadata.h"

namespace lectern::engine::support {

// The bytes of a number as the file holds it.
template <class T>
std::string little_endian(T value) {
  using Bits = std::conditional_t<sizeof(T) == 1, std::uint8_t,
                                  std::conditional_t<sizeof(T) == 2, std::uint16_t,
                                                     std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>>;
  const auto bits = static_cast<std::uint64_t>(std::bit_cast<Bits>(value));
  std::string bytes;
  for (std::size_t i = 0; i < sizeof(T); ++i) bytes.push_back(static_cast<char>(bits >> (8 * i) & 0xFF));
  return bytes;
}

// Builds GGUF files, good ones and, by its public members, bad ones.
class GgufBytes {
 public:
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::uint64_t alignment = 32;  // what the data is padded to; the key is not written
  std::optional<std::uint64_t> claimed_tensors;
  std::optional<std::uint64_t> claimed_keys;

  static std::string text(std::string_view bytes) {
    return little_endian<std::uint64_t>(bytes.size()) + std::string(bytes);
  }

  // A key with whatever stands after it, the value's type included.
  GgufBytes& raw(std::string_view key, const std::string& rest) {
    std::erase_if(pairs_, [&](const auto& pair) { return pair.first == key; });
    return raw_again(key, rest);
  }
  // As raw(), without taking away an earlier pair of that key.
  GgufBytes& raw_again(std::string_view key, const std::string& rest) {
    pairs_.emplace_back(std::string(key), rest);
    return *this;
  }
  GgufBytes& without(std::string_view key) {
    std::erase_if(pairs_, [&](const auto& pair) { return pair.first == key; });
    return *this;
  }
  template <class T>
  GgufBytes& number(std::string_view key, T value) {
    return raw(key, little_endian(static_cast<std::uint32_t>(type_of<T>())) + little_endian(value));
  }
  GgufBytes& u32(std::string_view key, std::uint32_t value) { return number(key, value); }
  GgufBytes& string(std::string_view key, std::string_view value) {
    return raw(key, little_endian<std::uint32_t>(8) + text(value));
  }
  template <class T>
  GgufBytes& numbers(std::string_view key, const std::vector<T>& values) {
    std::string elements;
    for (const T value : values) elements += little_endian<T>(value);
    return array(key, static_cast<std::uint32_t>(type_of<T>()), values.size(), elements);
  }
  GgufBytes& strings(std::string_view key, const std::vector<std::string>& values) {
    std::string elements;
    for (const std::string& value : values) elements += text(value);
    return array(key, 8, values.size(), elements);
  }
  GgufBytes& array(std::string_view key, std::uint32_t type, std::uint64_t count, const std::string& elements) {
    return raw(key, little_endian<std::uint32_t>(9) + little_endian(type) + little_endian(count) + elements);
  }

  // `sizes` fastest first, as in the file; placed behind the tensor before. The data are zeros if not given.
  GgufBytes& tensor(std::string_view name, const std::vector<std::uint64_t>& sizes, std::uint32_t type,
                    std::string data) {
    raw_tensor(name, sizes, type, data_.size());
    data_ += data;
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  GgufBytes& f32(std::string_view name, const std::vector<std::uint64_t>& sizes) {
    std::size_t elements = 1;
    for (const std::uint64_t size : sizes) elements *= size;
    return tensor(name, sizes, 0, std::string(elements * 4, '\0'));
  }
  // Only the description.
  GgufBytes& raw_tensor(std::string_view name, const std::vector<std::uint64_t>& sizes, std::uint32_t type,
                        std::uint64_t offset) {
    std::string info = text(name) + little_endian(static_cast<std::uint32_t>(sizes.size()));
    for (const std::uint64_t size : sizes) info += little_endian(size);
    infos_.push_back(info + little_endian(type) + little_endian(offset));
    return *this;
  }
  GgufBytes& without_tensors() {
    infos_.clear();
    data_.clear();
    return *this;
  }
  GgufBytes& data(std::size_t bytes) {
    data_.resize(bytes);
    return *this;
  }

  std::string header() const {
    std::string file = magic + little_endian(version) + little_endian(claimed_tensors.value_or(infos_.size())) +
                       little_endian(claimed_keys.value_or(pairs_.size()));
    for (const auto& [key, rest] : pairs_) file += text(key) + rest;
    for (const std::string& info : infos_) file += info;
    return file;
  }
  std::string bytes() const {
    std::string file = header();
    file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data_;
  }

 private:
  template <class T>
  static constexpr GgufType type_of() {
    if constexpr (std::is_same_v<T, bool>) return GgufType::kBool;
    if constexpr (std::is_same_v<T, float>) return GgufType::kF32;
    if constexpr (std::is_same_v<T, double>) return GgufType::kF64;
    constexpr bool kSigned = std::is_signed_v<T>;
    if constexpr (sizeof(T) == 1) return kSigned ? GgufType::kI8 : GgufType::kU8;
    if constexpr (sizeof(T) == 2) return kSigned ? GgufType::kI16 : GgufType::kU16;
    if constexpr (sizeof(T) == 4) return kSigned ? GgufType::kI32 : GgufType::kU32;
    return kSigned ? GgufType::kI64 : GgufType::kU64;
  }

  std::vector<std::pair<std::string, std::string>> pairs_;
  std::vector<std::string> infos_;
  std::string data_;
};

}  // namespace lectern::engine::support

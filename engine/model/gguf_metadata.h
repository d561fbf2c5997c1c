// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/result.h"

namespace lectern::engine {

// Types of metadata values, numbered as in the file.
enum class GgufType : std::uint8_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

// Where a value lies. The parser has checked that `bytes` holds `count` elements of `type`, strings with their lengths.
struct GgufValue {
  GgufType type = GgufType::kU8;  // of the elements if `array`; never kArray
  bool array = false;
  std::uint64_t count = 1;
  std::span<const std::byte> bytes;
};

// The keys of a GGUF file. Views into the file, valid as long as it is mapped. Integers of every type are accepted
// where one is asked for. All errors are kCorrupt and name the file and the key.
class GgufMetadata {
 public:
  static constexpr std::int64_t kLowest = std::numeric_limits<std::int64_t>::min();
  static constexpr std::int64_t kHighest = std::numeric_limits<std::int64_t>::max();

  // `file` appears in messages.
  explicit GgufMetadata(std::string file) : file_(std::move(file)) {}

  // False if there is such a key already.
  bool add(std::string_view key, const GgufValue& value) { return values_.emplace(key, value).second; }

  const std::string& file() const { return file_; }
  std::size_t size() const { return values_.size(); }
  const std::unordered_map<std::string_view, GgufValue>& values() const { return values_; }
  const GgufValue* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }

  // An integer in [low, high].
  Result<std::int64_t> integer(std::string_view key, std::int64_t low = kLowest, std::int64_t high = kHighest) const;
  // Any number that is finite.
  Result<double> number(std::string_view key) const;
  Result<bool> boolean(std::string_view key) const;
  Result<std::string_view> string(std::string_view key) const;
  Result<std::vector<std::int64_t>> integers(std::string_view key) const;
  Result<std::vector<bool>> booleans(std::string_view key) const;
  Result<std::vector<std::string_view>> strings(std::string_view key) const;

  // The fallback, unchecked, where there is no such key.
  Result<std::int64_t> integer_or(std::string_view key, std::int64_t fallback, std::int64_t low = kLowest,
                                  std::int64_t high = kHighest) const;
  Result<double> number_or(std::string_view key, double fallback) const;
  Result<bool> boolean_or(std::string_view key, bool fallback) const;
  Result<std::string_view> string_or(std::string_view key, std::string_view fallback) const;

  // "FILE: WHAT; REMEDY."
  Error corrupt(const std::string& what) const;
  Error unsupported(const std::string& what) const;

 private:
  Result<GgufValue> need(std::string_view key, bool array, std::string_view expected) const;
  Error wrong_type(std::string_view key, const GgufValue& value, std::string_view expected) const;

  std::string file_;
  std::unordered_map<std::string_view, GgufValue> values_;
};

}  // namespace lectern::engine

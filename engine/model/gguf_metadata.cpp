// SPDX-License-Identifier: Apache-2.0
#include "model/gguf_metadata.h"

#include <array>
#include <cmath>
#include <cstring>
#include <optional>

#include "model/config_checks.h"

namespace lectern::engine {

namespace {

constexpr std::array<std::string_view, 13> kTypeNames = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                         "bool", "string", "array", "u64", "i64", "f64"};

std::string_view name_of(GgufType type) { return kTypeNames[static_cast<std::size_t>(type)]; }

// Numbers are little-endian, as every machine this engine runs on, and may lie at any byte.
template <class T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

bool is_integer(GgufType type) { return type <= GgufType::kI32 || type == GgufType::kU64 || type == GgufType::kI64; }

// Nothing for a u64 beyond the range of i64. `type` is an integer type.
std::optional<std::int64_t> load_integer(GgufType type, const std::byte* bytes) {
  switch (type) {
    case GgufType::kU8:
      return load<std::uint8_t>(bytes);
    case GgufType::kI8:
      return load<std::int8_t>(bytes);
    case GgufType::kU16:
      return load<std::uint16_t>(bytes);
    case GgufType::kI16:
      return load<std::int16_t>(bytes);
    case GgufType::kU32:
      return load<std::uint32_t>(bytes);
    case GgufType::kI32:
      return load<std::int32_t>(bytes);
    case GgufType::kI64:
      return load<std::int64_t>(bytes);
    default:
      break;
  }
  const auto value = load<std::uint64_t>(bytes);
  if (value > static_cast<std::uint64_t>(GgufMetadata::kHighest)) return std::nullopt;
  return static_cast<std::int64_t>(value);
}

std::string_view load_string(const std::byte* bytes) {
  const auto length = static_cast<std::size_t>(load<std::uint64_t>(bytes));
  return {reinterpret_cast<const char*>(bytes) + sizeof(std::uint64_t), length};
}

}  // namespace

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto value = values_.find(key);
  return value == values_.end() ? nullptr : &value->second;
}

Error GgufMetadata::corrupt(const std::string& what) const {
  return {ErrorCode::kCorrupt, file_ + ": " + what + "; the file is damaged or was converted wrongly, fetch it again."};
}

Error GgufMetadata::unsupported(const std::string& what) const {
  return {ErrorCode::kUnsupported, file_ + ": " + what + "."};
}

Error GgufMetadata::wrong_type(std::string_view key, const GgufValue& value, std::string_view expected) const {
  return corrupt("key " + std::string(key) + " is " + (value.array ? "an array of " : "a value of type ") +
                 std::string(name_of(value.type)) + ", expected " + std::string(expected));
}

Result<GgufValue> GgufMetadata::need(std::string_view key, bool array, std::string_view expected) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return corrupt("key " + std::string(key) + " is missing, expected " + std::string(expected));
  if (value->array != array) return wrong_type(key, *value, expected);
  return *value;
}

Result<std::int64_t> GgufMetadata::integer(std::string_view key, std::int64_t low, std::int64_t high) const {
  ENGINE_TRY(const GgufValue value, need(key, false, "an integer"));
  if (!is_integer(value.type)) return wrong_type(key, value, "an integer");
  const std::optional<std::int64_t> number = load_integer(value.type, value.bytes.data());
  if (!number) return corrupt("key " + std::string(key) + " is larger than any sensible integer");
  if (*number < low || *number > high) return corrupt("key " + out_of_range(key, *number, low, high));
  return *number;
}

Result<double> GgufMetadata::number(std::string_view key) const {
  ENGINE_TRY(const GgufValue value, need(key, false, "a number"));
  double number = 0;
  if (value.type == GgufType::kF32) {
    number = load<float>(value.bytes.data());
  } else if (value.type == GgufType::kF64) {
    number = load<double>(value.bytes.data());
  } else if (is_integer(value.type)) {
    ENGINE_TRY(const std::int64_t whole, integer(key));
    number = static_cast<double>(whole);
  } else {
    return wrong_type(key, value, "a number");
  }
  if (!std::isfinite(number)) return corrupt("key " + std::string(key) + " is not a finite number");
  return number;
}

Result<bool> GgufMetadata::boolean(std::string_view key) const {
  ENGINE_TRY(const GgufValue value, need(key, false, "a bool"));
  if (value.type != GgufType::kBool) return wrong_type(key, value, "a bool");
  return value.bytes[0] != std::byte{0};
}

Result<std::string_view> GgufMetadata::string(std::string_view key) const {
  ENGINE_TRY(const GgufValue value, need(key, false, "a string"));
  if (value.type != GgufType::kString) return wrong_type(key, value, "a string");
  return load_string(value.bytes.data());
}

Result<std::vector<std::int64_t>> GgufMetadata::integers(std::string_view key) const {
  ENGINE_TRY(const GgufValue value, need(key, true, "an array of integers"));
  if (!is_integer(value.type)) return wrong_type(key, value, "an array of integers");
  std::vector<std::int64_t> numbers;
  numbers.reserve(value.count);
  const std::size_t stride = value.count == 0 ? 0 : value.bytes.size() / value.count;
  for (std::size_t at = 0; at < value.bytes.size(); at += stride) {
    const std::optional<std::int64_t> number = load_integer(value.type, value.bytes.data() + at);
    if (!number) return corrupt("key " + std::string(key) + " holds a number larger than any sensible integer");
    numbers.push_back(*number);
  }
  return numbers;
}

Result<std::vector<bool>> GgufMetadata::booleans(std::string_view key) const {
  ENGINE_TRY(const GgufValue value, need(key, true, "an array of bool"));
  if (value.type != GgufType::kBool) return wrong_type(key, value, "an array of bool");
  std::vector<bool> flags;
  flags.reserve(value.count);
  for (const std::byte flag : value.bytes) flags.push_back(flag != std::byte{0});
  return flags;
}

Result<std::vector<std::string_view>> GgufMetadata::strings(std::string_view key) const {
  ENGINE_TRY(const GgufValue value, need(key, true, "an array of strings"));
  if (value.type != GgufType::kString) return wrong_type(key, value, "an array of strings");
  std::vector<std::string_view> texts;
  texts.reserve(value.count);
  const std::byte* at = value.bytes.data();
  for (std::uint64_t i = 0; i < value.count; ++i) {
    texts.push_back(load_string(at));
    at += sizeof(std::uint64_t) + texts.back().size();
  }
  return texts;
}

Result<std::int64_t> GgufMetadata::integer_or(std::string_view key, std::int64_t fallback, std::int64_t low,
                                              std::int64_t high) const {
  if (!has(key)) return fallback;
  return integer(key, low, high);
}

Result<double> GgufMetadata::number_or(std::string_view key, double fallback) const {
  if (!has(key)) return fallback;
  return number(key);
}

Result<bool> GgufMetadata::boolean_or(std::string_view key, bool fallback) const {
  if (!has(key)) return fallback;
  return boolean(key);
}

Result<std::string_view> GgufMetadata::string_or(std::string_view key, std::string_view fallback) const {
  if (!has(key)) return fallback;
  return string(key);
}

}  // namespace lectern::engine

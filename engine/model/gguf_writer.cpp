// SPDX-License-Identifier: Apache-2.0
#include "model/gguf_writer.h"

#include <bit>
#include <concepts>

#include "model/gguf_parser.h"

namespace lectern::engine {
namespace {

constexpr std::uint32_t kVersion = 3;

void put(std::string& to, std::unsigned_integral auto value) {
  for (std::size_t i = 0; i < sizeof(value); ++i) {
    to.push_back(static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * i) & 0xFFU));
  }
}

void put_text(std::string& to, std::string_view text) {
  put(to, std::uint64_t{text.size()});
  to += text;
}

}  // namespace

std::int64_t gguf_padding(std::int64_t bytes) { return (kGgufAlignment - bytes % kGgufAlignment) % kGgufAlignment; }

void GgufHeader::begin(std::string_view key, GgufType type) {
  ++key_count_;
  put_text(keys_, key);
  put(keys_, std::uint32_t{static_cast<std::uint8_t>(type)});
}

void GgufHeader::begin_array(std::string_view key, GgufType type, std::size_t count) {
  begin(key, GgufType::kArray);
  put(keys_, std::uint32_t{static_cast<std::uint8_t>(type)});
  put(keys_, std::uint64_t{count});
}

void GgufHeader::string(std::string_view key, std::string_view value) {
  begin(key, GgufType::kString);
  put_text(keys_, value);
}

void GgufHeader::u32(std::string_view key, std::int64_t value) {
  begin(key, GgufType::kU32);
  put(keys_, static_cast<std::uint32_t>(value));
}

void GgufHeader::f32(std::string_view key, double value) {
  begin(key, GgufType::kF32);
  put(keys_, std::bit_cast<std::uint32_t>(static_cast<float>(value)));
}

void GgufHeader::boolean(std::string_view key, bool value) {
  begin(key, GgufType::kBool);
  put(keys_, std::uint8_t{value});
}

void GgufHeader::strings(std::string_view key, std::span<const std::string> values) {
  begin_array(key, GgufType::kString, values.size());
  for (const std::string& value : values) put_text(keys_, value);
}

void GgufHeader::integers(std::string_view key, std::span<const std::int32_t> values) {
  begin_array(key, GgufType::kI32, values.size());
  for (const std::int32_t value : values) put(keys_, static_cast<std::uint32_t>(value));
}

void GgufHeader::booleans(std::string_view key, const std::vector<bool>& values) {
  begin_array(key, GgufType::kBool, values.size());
  for (const bool value : values) put(keys_, std::uint8_t{value});
}

void GgufHeader::copy(std::string_view key, const GgufValue& value) {
  if (value.array) {
    begin_array(key, value.type, static_cast<std::size_t>(value.count));
  } else {
    begin(key, value.type);
  }
  keys_.append(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
}

void GgufHeader::tensor(std::string_view name, std::span<const std::int64_t> shape, DType type, std::int64_t bytes) {
  ++tensor_count_;
  put_text(tensors_, name);
  put(tensors_, static_cast<std::uint32_t>(shape.size()));
  for (std::size_t i = shape.size(); i-- > 0;) put(tensors_, static_cast<std::uint64_t>(shape[i]));
  put(tensors_, gguf_type_number(type));
  put(tensors_, static_cast<std::uint64_t>(data_bytes_));
  data_bytes_ += bytes + gguf_padding(bytes);
}

std::string GgufHeader::bytes() const {
  std::string header = "GGUF";
  put(header, kVersion);
  put(header, tensor_count_);
  put(header, key_count_);
  header += keys_ + tensors_;
  header.append(static_cast<std::size_t>(gguf_padding(static_cast<std::int64_t>(header.size()))), '\0');
  return header;
}

}  // namespace lectern::engine

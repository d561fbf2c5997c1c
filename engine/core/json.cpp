// SPDX-License-Identifier: Apache-2.0
#include "core/json.h"

#include <array>
#include <fstream>
#include <system_error>
#include <utility>

#include "core/json_content.h"

namespace lectern::engine {

namespace {

using json_detail::Content;
using json_detail::Node;

const char* kind_name(JsonKind kind) {
  switch (kind) {
    case JsonKind::kMissing:
      return "missing";
    case JsonKind::kNull:
      return "null";
    case JsonKind::kBoolean:
      return "a boolean";
    case JsonKind::kNumber:
      return "a number";
    case JsonKind::kString:
      return "a string";
    case JsonKind::kArray:
      return "an array";
    case JsonKind::kObject:
      return "an object";
  }
  return "";
}

const Node& node_of(const Content* content, std::uint32_t node) { return content->nodes[node]; }

}  // namespace

JsonKind JsonValue::kind() const { return exists() ? node_of(content_, node_).kind : JsonKind::kMissing; }

std::optional<bool> JsonValue::boolean() const {
  if (kind() != JsonKind::kBoolean) return std::nullopt;
  return node_of(content_, node_).boolean;
}

std::optional<std::int64_t> JsonValue::integer() const {
  if (kind() != JsonKind::kNumber || !node_of(content_, node_).integral) return std::nullopt;
  return node_of(content_, node_).integer;
}

std::optional<double> JsonValue::number() const {
  if (kind() != JsonKind::kNumber) return std::nullopt;
  const Node& node = node_of(content_, node_);
  return node.integral ? static_cast<double>(node.integer) : node.number;
}

std::optional<std::string_view> JsonValue::string() const {
  if (kind() != JsonKind::kString) return std::nullopt;
  const Node& node = node_of(content_, node_);
  return std::string_view(content_->text).substr(node.text, node.size);
}

std::size_t JsonValue::size() const { return is_array() || is_object() ? node_of(content_, node_).size : 0; }

std::size_t JsonValue::byte_offset() const { return exists() ? node_of(content_, node_).offset : 0; }

JsonValue JsonValue::operator[](std::string_view key) const {
  for (const JsonMember member : members()) {
    if (member.key == key) return member.value;
  }
  return {};
}

Error JsonValue::error(std::string_view text) const {
  if (!exists()) return {ErrorCode::kCorrupt, std::string(text)};
  return {ErrorCode::kCorrupt,
          content_->name + ": " + std::string(text) + " (byte " + std::to_string(byte_offset()) + ")"};
}

namespace {

Error wrong_member(const JsonValue& object, std::string_view key, std::string_view expected) {
  const JsonValue member = object[key];
  std::string text(1, '"');
  text.append(key).append("\" must be ").append(expected);
  if (!member.exists()) return object.error(text + " but is missing");
  if (member.kind() == JsonKind::kNumber) return member.error(text + " within range");
  return member.error(text + " but is " + kind_name(member.kind()));
}

template <class T, class Member>
Result<T> need(const JsonValue& object, std::string_view key, std::string_view expected, Member get) {
  const auto value = (object[key].*get)();
  if (!value) return wrong_member(object, key, expected);
  return T(*value);
}

template <class T, class Member, class Fallback>
Result<T> value_or(const JsonValue& object, std::string_view key, std::string_view expected, Member get,
                   Fallback fallback) {
  const JsonValue member = object[key];
  if (!member.exists() || member.is_null()) return T(fallback);
  return need<T>(object, key, expected, get);
}

}  // namespace

Result<std::int64_t> JsonValue::need_integer(std::string_view key) const {
  return need<std::int64_t>(*this, key, "an integer", &JsonValue::integer);
}
Result<double> JsonValue::need_number(std::string_view key) const {
  return need<double>(*this, key, "a number", &JsonValue::number);
}
Result<bool> JsonValue::need_boolean(std::string_view key) const {
  return need<bool>(*this, key, "true or false", &JsonValue::boolean);
}
Result<std::string> JsonValue::need_string(std::string_view key) const {
  return need<std::string>(*this, key, "a string", &JsonValue::string);
}
Result<JsonValue> JsonValue::need_array(std::string_view key) const {
  const JsonValue member = (*this)[key];
  if (!member.is_array()) return wrong_member(*this, key, "an array");
  return member;
}
Result<JsonValue> JsonValue::need_object(std::string_view key) const {
  const JsonValue member = (*this)[key];
  if (!member.is_object()) return wrong_member(*this, key, "an object");
  return member;
}
Result<std::int64_t> JsonValue::integer_or(std::string_view key, std::int64_t fallback) const {
  return value_or<std::int64_t>(*this, key, "an integer", &JsonValue::integer, fallback);
}
Result<double> JsonValue::number_or(std::string_view key, double fallback) const {
  return value_or<double>(*this, key, "a number", &JsonValue::number, fallback);
}
Result<bool> JsonValue::boolean_or(std::string_view key, bool fallback) const {
  return value_or<bool>(*this, key, "true or false", &JsonValue::boolean, fallback);
}
Result<std::string> JsonValue::string_or(std::string_view key, std::string_view fallback) const {
  return value_or<std::string>(*this, key, "a string", &JsonValue::string, fallback);
}

JsonValue::Range<JsonValue::ElementIterator> JsonValue::elements() const {
  if (!is_array()) return {};
  return {ElementIterator(JsonValue(content_, node_ + 1), size()), ElementIterator()};
}

JsonValue::Range<JsonValue::MemberIterator> JsonValue::members() const {
  if (!is_object()) return {};
  return {MemberIterator(JsonValue(content_, node_ + 1), size()), MemberIterator()};
}

JsonValue::ElementIterator& JsonValue::ElementIterator::operator++() {
  at_.node_ = node_of(at_.content_, at_.node_).next;
  --left_;
  return *this;
}

JsonMember JsonValue::MemberIterator::operator*() const {
  return {*key_.string(), JsonValue(key_.content_, key_.node_ + 1)};
}

JsonValue::MemberIterator& JsonValue::MemberIterator::operator++() {
  key_.node_ = node_of(key_.content_, key_.node_ + 1).next;
  --left_;
  return *this;
}

JsonDocument::JsonDocument(std::unique_ptr<Content> content) : content_(std::move(content)) {}
JsonDocument::JsonDocument(JsonDocument&&) noexcept = default;
JsonDocument& JsonDocument::operator=(JsonDocument&&) noexcept = default;
JsonDocument::~JsonDocument() = default;

Result<JsonDocument> JsonDocument::parse(std::string text, std::string name, const JsonLimits& limits) {
  auto content = std::make_unique<Content>();
  content->text = std::move(text);
  content->name = std::move(name);
  ENGINE_CHECK(json_detail::parse(*content, limits));
  return JsonDocument(std::move(content));
}

Result<JsonDocument> JsonDocument::read(const std::filesystem::path& file, const JsonLimits& limits) {
  ENGINE_TRY(std::string text, read_text_file(file, limits.max_bytes));
  return parse(std::move(text), file.string(), limits);
}

Result<std::string> read_text_file(const std::filesystem::path& file, std::size_t max_bytes) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(file, error);
  if (!std::filesystem::exists(status)) {
    return Error{ErrorCode::kNotFound, file.string() + " is missing."};
  }
  if (!std::filesystem::is_regular_file(status)) {
    return Error{ErrorCode::kIo, file.string() + " is not a regular file."};
  }
  std::ifstream stream(file, std::ios::binary);
  if (!stream) return Error{ErrorCode::kIo, file.string() + " cannot be opened; check its permissions."};
  std::string text;
  std::array<char, 65536> block;
  while (stream.read(block.data(), block.size()) || stream.gcount() > 0) {
    text.append(block.data(), static_cast<std::size_t>(stream.gcount()));
    if (text.size() > max_bytes) {
      return Error{ErrorCode::kCorrupt, file.string() + " is longer than " + std::to_string(max_bytes) + " bytes."};
    }
  }
  if (stream.bad()) return Error{ErrorCode::kIo, file.string() + " cannot be read."};
  return text;
}

std::string json_quote(std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (byte < 0x20) {
      quoted += "\\u00";
      quoted += kHex[byte >> 4U];
      quoted += kHex[byte & 15U];
    } else {
      quoted += c;
    }
  }
  return quoted += '"';
}

}  // namespace lectern::engine

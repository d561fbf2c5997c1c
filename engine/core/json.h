// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/result.h"

namespace lectern::engine {

enum class JsonKind : std::uint8_t { kMissing, kNull, kBoolean, kNumber, kString, kArray, kObject };

// What a hostile file may make the parser do. Every node costs 24 bytes besides the text itself.
struct JsonLimits {
  std::size_t max_bytes = std::size_t{128} << 20;
  std::size_t max_nodes = std::size_t{8} << 20;
  std::size_t max_depth = 64;
};

namespace json_detail {
struct Content;
}

// A value inside a JsonDocument: two words, freely copied, valid while the document lives. A lookup that finds nothing
// gives a value of kind kMissing, so lookups may be chained.
class JsonValue {
 public:
  JsonValue() = default;

  JsonKind kind() const;
  bool exists() const { return content_ != nullptr; }
  bool is_null() const { return kind() == JsonKind::kNull; }
  bool is_string() const { return kind() == JsonKind::kString; }
  bool is_array() const { return kind() == JsonKind::kArray; }
  bool is_object() const { return kind() == JsonKind::kObject; }

  // The value if it has this type. integer() also takes "1e3" and "2.0"; numbers beyond int64 have no integer.
  std::optional<bool> boolean() const;
  std::optional<std::int64_t> integer() const;
  std::optional<double> number() const;
  std::optional<std::string_view> string() const;

  std::size_t size() const;         // elements or members; 0 for scalars
  std::size_t byte_offset() const;  // where the value starts in the text, for messages

  // Linear in the number of members; walk members() instead to read a wide object.
  JsonValue operator[](std::string_view key) const;

  // Members of an object by name. A missing member is an error in the first group and the fallback in the second, as is
  // an explicit null; a value of another type is always an error that names document, member, expectation and offset.
  Result<std::int64_t> need_integer(std::string_view key) const;
  Result<double> need_number(std::string_view key) const;
  Result<bool> need_boolean(std::string_view key) const;
  Result<std::string> need_string(std::string_view key) const;
  Result<JsonValue> need_array(std::string_view key) const;
  Result<JsonValue> need_object(std::string_view key) const;
  Result<std::int64_t> integer_or(std::string_view key, std::int64_t fallback) const;
  Result<double> number_or(std::string_view key, double fallback) const;
  Result<bool> boolean_or(std::string_view key, bool fallback) const;
  Result<std::string> string_or(std::string_view key, std::string_view fallback) const;

  // kCorrupt: "<document>: <text> (byte N)", for checks of the caller's own.
  Error error(std::string_view text) const;

  class ElementIterator;
  class MemberIterator;
  template <class Iterator>
  struct Range {
    Iterator first;
    Iterator last;
    Iterator begin() const { return first; }
    Iterator end() const { return last; }
  };
  Range<ElementIterator> elements() const;  // empty unless an array
  Range<MemberIterator> members() const;    // empty unless an object; in file order

 private:
  friend class JsonDocument;
  JsonValue(const json_detail::Content* content, std::uint32_t node) : content_(content), node_(node) {}

  const json_detail::Content* content_ = nullptr;
  std::uint32_t node_ = 0;
};

struct JsonMember {
  std::string_view key;
  JsonValue value;
};

class JsonValue::ElementIterator {
 public:
  using value_type = JsonValue;
  using difference_type = std::ptrdiff_t;
  using iterator_category = std::input_iterator_tag;

  ElementIterator() = default;
  ElementIterator(JsonValue at, std::size_t left) : at_(at), left_(left) {}
  JsonValue operator*() const { return at_; }
  ElementIterator& operator++();
  void operator++(int) { ++*this; }
  bool operator==(const ElementIterator& other) const { return left_ == other.left_; }

 private:
  JsonValue at_;
  std::size_t left_ = 0;
};

class JsonValue::MemberIterator {
 public:
  using value_type = JsonMember;
  using difference_type = std::ptrdiff_t;
  using iterator_category = std::input_iterator_tag;

  MemberIterator() = default;
  MemberIterator(JsonValue key, std::size_t left) : key_(key), left_(left) {}
  JsonMember operator*() const;
  MemberIterator& operator++();
  void operator++(int) { ++*this; }
  bool operator==(const MemberIterator& other) const { return left_ == other.left_; }

 private:
  JsonValue key_;
  std::size_t left_ = 0;
};

// One parsed text. Strict RFC 8259: no comments, no trailing commas, no NaN, valid UTF-8 only, no lone surrogates, no
// duplicate keys. Strings stay in the text (escapes are resolved in place), so views live as long as the document.
class JsonDocument {
 public:
  // `name` appears in messages, e.g. "config.json". Errors: kCorrupt with the byte offset.
  static Result<JsonDocument> parse(std::string text, std::string name, const JsonLimits& limits = {});
  // The file's name appears in messages. Errors: kNotFound, kIo, kCorrupt.
  static Result<JsonDocument> read(const std::filesystem::path& file, const JsonLimits& limits = {});

  JsonDocument(JsonDocument&&) noexcept;
  JsonDocument& operator=(JsonDocument&&) noexcept;
  ~JsonDocument();

  JsonValue root() const { return {content_.get(), 0}; }

 private:
  explicit JsonDocument(std::unique_ptr<json_detail::Content> content);
  std::unique_ptr<json_detail::Content> content_;
};

// Whole content of a regular file. Errors: kNotFound, kIo, kCorrupt when it is longer than `max_bytes`.
Result<std::string> read_text_file(const std::filesystem::path& file, std::size_t max_bytes);

// `text` (valid UTF-8) as a JSON string with its quotes.
std::string json_quote(std::string_view text);

}  // namespace lectern::engine

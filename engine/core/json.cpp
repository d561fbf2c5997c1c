// SPDX-License-Identifier: Apache-2.0
#include "core/json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <fstream>
#include <limits>
#include <system_error>

namespace lectern::engine {

namespace json_detail {

struct Node {
  union {
    double number;
    std::int64_t integer;
    bool boolean;
    std::uint32_t text;  // where a string's resolved bytes start
  };
  std::uint32_t offset;  // of the value in the original text
  std::uint32_t size;    // bytes of a string, elements, or members (a member is a key node and a value)
  std::uint32_t next;    // node after this value and everything inside it
  JsonKind kind;
  bool integral;
};
static_assert(sizeof(Node) == 32 || sizeof(Node) == 24);

struct Content {
  std::string text;
  std::string name;
  std::vector<Node> nodes;
};

}  // namespace json_detail

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

bool is_digit(char c) { return c >= '0' && c <= '9'; }

int hex_digit(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Bytes of the well-formed UTF-8 sequence at `at`, or 0 (overlong forms, surrogates and values over U+10FFFF included).
std::size_t utf8_sequence(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : static_cast<unsigned char>(0);
  };
  const auto follows = [&](std::size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return follows(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    if (!follows(1) || !follows(2)) return 0;
    if (lead == 0xE0 && byte(1) < 0xA0) return 0;
    return lead == 0xED && byte(1) > 0x9F ? 0 : 3;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    if (!follows(1) || !follows(2) || !follows(3)) return 0;
    if (lead == 0xF0 && byte(1) < 0x90) return 0;
    return lead == 0xF4 && byte(1) > 0x8F ? 0 : 4;
  }
  return 0;
}

// Writes `code` at `out` and returns the byte count; an escape is always at least as long as what it stands for.
std::size_t put_utf8(char* out, std::uint32_t code) {
  const auto put = [&](std::size_t i, std::uint32_t byte) { out[i] = static_cast<char>(byte); };
  if (code < 0x80) return put(0, code), 1;
  if (code < 0x800) return put(0, 0xC0U | (code >> 6U)), put(1, 0x80U | (code & 0x3FU)), 2;
  if (code < 0x10000) {
    return put(0, 0xE0U | (code >> 12U)), put(1, 0x80U | ((code >> 6U) & 0x3FU)), put(2, 0x80U | (code & 0x3FU)), 3;
  }
  put(0, 0xF0U | (code >> 18U)), put(1, 0x80U | ((code >> 12U) & 0x3FU));
  return put(2, 0x80U | ((code >> 6U) & 0x3FU)), put(3, 0x80U | (code & 0x3FU)), 4;
}

// Fills a Content from its text. Open containers are a list, not recursion, so nesting costs no stack.
class Parser {
 public:
  Parser(Content& content, const JsonLimits& limits) : content_(content), text_(content.text), limits_(limits) {}

  Result<void> run() {
    if (text_.size() > limits_.max_bytes || text_.size() >= std::numeric_limits<std::uint32_t>::max()) {
      return Error{ErrorCode::kCorrupt, content_.name + ": " + std::to_string(text_.size()) +
                                            " bytes are more than the " + std::to_string(limits_.max_bytes) +
                                            " a file of this kind may have."};
    }
    bool ok = value();
    while (ok && !open_.empty()) ok = next_in_container();
    if (ok) {
      skip_space();
      ok = at_ == text_.size() || fail("unexpected text after the end of the value");
    }
    if (!ok) return Error{ErrorCode::kCorrupt, message_};
    return {};
  }

 private:
  bool fail(std::string_view what) { return fail(what, at_); }
  bool fail(std::string_view what, std::size_t offset) {
    message_ = content_.name + ": " + std::string(what) + " (byte " + std::to_string(offset) + ")";
    return false;
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) {
      ++at_;
    }
  }

  bool add(JsonKind kind, std::size_t offset) {
    if (content_.nodes.size() >= limits_.max_nodes) return fail("too many values");
    Node node{};
    node.kind = kind;
    node.offset = static_cast<std::uint32_t>(offset);
    node.next = static_cast<std::uint32_t>(content_.nodes.size() + 1);
    content_.nodes.push_back(node);
    return true;
  }

  bool value() {
    skip_space();
    if (at_ >= text_.size()) return fail("the text ends where a value should stand");
    switch (text_[at_]) {
      case '{':
        return open(JsonKind::kObject);
      case '[':
        return open(JsonKind::kArray);
      case '"':
        return string();
      case 't':
        return word("true", JsonKind::kBoolean, true);
      case 'f':
        return word("false", JsonKind::kBoolean, false);
      case 'n':
        return word("null", JsonKind::kNull, false);
      default:
        return number();
    }
  }

  bool open(JsonKind kind) {
    if (open_.size() >= limits_.max_depth) return fail("nested too deeply");
    if (!add(kind, at_)) return false;
    open_.push_back(static_cast<std::uint32_t>(content_.nodes.size() - 1));
    ++at_;
    return true;
  }

  bool word(std::string_view expected, JsonKind kind, bool boolean) {
    if (text_.compare(at_, expected.size(), expected) != 0) return fail("unknown word where a value should stand");
    if (!add(kind, at_)) return false;
    content_.nodes.back().boolean = boolean;
    at_ += expected.size();
    return true;
  }

  // Continues the innermost container: its end, or its next element.
  bool next_in_container() {
    const std::uint32_t container = open_.back();
    const bool object = content_.nodes[container].kind == JsonKind::kObject;
    const char end = object ? '}' : ']';
    skip_space();
    if (peek() == end && at_ < text_.size()) return close(container);
    if (content_.nodes[container].size > 0) {
      if (peek() != ',') return fail(object ? "expected ',' or '}'" : "expected ',' or ']'");
      ++at_;
      skip_space();
    }
    ++content_.nodes[container].size;
    if (object) {
      if (peek() != '"') return fail("expected a member name in quotes");
      if (!string()) return false;
      skip_space();
      if (peek() != ':') return fail("expected ':' after a member name");
      ++at_;
    }
    return value();
  }

  bool close(std::uint32_t container) {
    ++at_;
    open_.pop_back();
    content_.nodes[container].next = static_cast<std::uint32_t>(content_.nodes.size());
    return content_.nodes[container].kind != JsonKind::kObject || keys_are_unique(container);
  }

  std::string_view node_text(std::uint32_t node) const {
    return std::string_view(text_).substr(content_.nodes[node].text, content_.nodes[node].size);
  }

  bool keys_are_unique(std::uint32_t object) {
    keys_.clear();
    const std::uint32_t end = content_.nodes[object].next;
    for (std::uint32_t key = object + 1; key < end; key = content_.nodes[key + 1].next) keys_.push_back(key);
    std::sort(keys_.begin(), keys_.end(),
              [this](std::uint32_t a, std::uint32_t b) { return node_text(a) < node_text(b); });
    const auto same = std::adjacent_find(
        keys_.begin(), keys_.end(), [this](std::uint32_t a, std::uint32_t b) { return node_text(a) == node_text(b); });
    if (same == keys_.end()) return true;
    const std::uint32_t key = std::max(*same, *(same + 1));
    return fail("member \"" + std::string(node_text(key).substr(0, 80)) + "\" appears twice in one object",
                content_.nodes[key].offset);
  }

  bool number() {
    const std::size_t start = at_;
    const auto digits = [this] {
      const std::size_t first = at_;
      while (is_digit(peek())) ++at_;
      return at_ > first;
    };
    if (peek() == '-') ++at_;
    const bool leading_zero = peek() == '0';
    const std::size_t first_digit = at_;
    if (!digits()) return fail("unexpected character where a value should stand", start);
    if (leading_zero && at_ - first_digit > 1) return fail("a number may not start with 0", start);
    bool integral = true;
    if (peek() == '.') {
      integral = false;
      ++at_;
      if (!digits()) return fail("a number has no digits after its point", start);
    }
    if (peek() == 'e' || peek() == 'E') {
      integral = false;
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      if (!digits()) return fail("a number has no digits in its exponent", start);
    }
    return store_number(start, integral);
  }

  bool store_number(std::size_t start, bool integral) {
    if (!add(JsonKind::kNumber, start)) return false;
    Node& node = content_.nodes.back();
    const char* first = text_.data() + start;
    const char* last = text_.data() + at_;
    if (integral && std::from_chars(first, last, node.integer).ec == std::errc()) {
      node.integral = true;
      return true;
    }
    double number = 0;
    if (std::from_chars(first, last, number).ec != std::errc()) return fail("a number is out of range", start);
    constexpr double kExact = 9007199254740992.0;  // 2^53: every integer below has its own double
    if (std::trunc(number) == number && std::abs(number) < kExact) {
      node.integer = static_cast<std::int64_t>(number);
      node.integral = true;
    } else {
      node.number = number;
    }
    return true;
  }

  bool string() {
    if (!add(JsonKind::kString, at_)) return false;
    const std::size_t node = content_.nodes.size() - 1;
    const std::size_t start = ++at_;
    std::size_t out = start;
    while (peek() != '"') {
      if (at_ >= text_.size()) return fail("a string has no end", start - 1);
      const auto byte = static_cast<unsigned char>(text_[at_]);
      if (byte < 0x20) return fail("a control character inside a string");
      if (byte == '\\') {
        if (!escape(out)) return false;
        continue;
      }
      const std::size_t length = utf8_sequence(text_, at_);
      if (length == 0) return fail("invalid UTF-8");
      for (std::size_t i = 0; i < length; ++i) text_[out++] = text_[at_++];
    }
    ++at_;
    content_.nodes[node].text = static_cast<std::uint32_t>(start);
    content_.nodes[node].size = static_cast<std::uint32_t>(out - start);
    return true;
  }

  bool escape(std::size_t& out) {
    constexpr std::string_view kLetters = "\"\\/bfnrt";
    constexpr std::string_view kMeaning = "\"\\/\b\f\n\r\t";
    const std::size_t start = at_++;
    if (peek() == 'u' && at_ < text_.size()) {
      std::uint32_t code = 0;
      if (!unicode_escape(start, code)) return false;
      out += put_utf8(text_.data() + out, code);
      return true;
    }
    const std::size_t letter = at_ < text_.size() ? kLetters.find(text_[at_]) : std::string_view::npos;
    if (letter == std::string_view::npos) return fail("unknown escape", start);
    text_[out++] = kMeaning[letter];
    ++at_;
    return true;
  }

  // At the 'u' of an escape; a high surrogate must be followed by the escape of a low one.
  bool unicode_escape(std::size_t start, std::uint32_t& code) {
    if (!hex4(code)) return fail("\\u needs four hexadecimal digits", start);
    if (code >= 0xDC00 && code <= 0xDFFF) return fail("an escape names half a surrogate pair", start);
    if (code < 0xD800 || code > 0xDBFF) return true;
    std::uint32_t low = 0;
    if (text_.compare(at_, 2, "\\u") != 0) return fail("an escape names half a surrogate pair", start);
    ++at_;
    if (!hex4(low) || low < 0xDC00 || low > 0xDFFF) return fail("an escape names half a surrogate pair", start);
    code = 0x10000U + ((code - 0xD800U) << 10U) + (low - 0xDC00U);
    return true;
  }

  bool hex4(std::uint32_t& code) {
    ++at_;
    code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const int digit = hex_digit(peek());
      if (digit < 0) return false;
      code = code * 16U + static_cast<std::uint32_t>(digit);
    }
    return true;
  }

  Content& content_;
  std::string& text_;
  const JsonLimits& limits_;
  std::size_t at_ = 0;
  std::vector<std::uint32_t> open_;
  std::vector<std::uint32_t> keys_;
  std::string message_;
};

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
  ENGINE_CHECK(Parser(*content, limits).run());
  return JsonDocument(std::move(content));
}

Result<JsonDocument> JsonDocument::read(const std::filesystem::path& file, const JsonLimits& limits) {
  ENGINE_TRY(std::string text, read_text_file(file, limits.max_bytes));
  return parse(std::move(text), file.filename().string(), limits);
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

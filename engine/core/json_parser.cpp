// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>
#include <system_error>

#include "core/json_content.h"
#include "core/utf8.h"

namespace lectern::engine::json_detail {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

int hex_digit(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
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
      const unicode::Decoded character = unicode::decode_utf8(text_, at_);
      if (!character.valid) return fail("invalid UTF-8");
      for (std::uint32_t i = 0; i < character.length; ++i) text_[out++] = text_[at_++];
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
      std::string resolved;  // never longer than its escape
      unicode::append_utf8(resolved, code);
      out += resolved.copy(text_.data() + out, resolved.size());
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

}  // namespace

Result<void> parse(Content& content, const JsonLimits& limits) { return Parser(content, limits).run(); }

}  // namespace lectern::engine::json_detail

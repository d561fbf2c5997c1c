// SPDX-License-Identifier: GPL-3.0-or-later
// Message layout, little endian: magic "LXM1", then a status byte. Status 0: error code u8, message string. Status 1:
// kind u8, title, language, warnings (u32 count, strings), pages (u32 count; each text string, width f32, height f32,
// u32 word count, words of two u32 and four f32). A string is u32 length and that many bytes of UTF-8.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "retrieval/extract.h"
#include "utf8.h"

namespace lectern::retrieval {
namespace {

constexpr std::string_view kMagic = "LXM1";
constexpr std::size_t kWordBytes = 2 * 4 + 4 * 4;
constexpr std::size_t kLongestNote = 4096;  // bytes of a title, warning or error
constexpr std::size_t kLeastPageBytes = 4 + 4 + 4 + 4;

class Writer {
 public:
  explicit Writer(std::string& bytes) : bytes_(bytes) {}

  void put_u8(std::uint8_t value) { bytes_.push_back(static_cast<char>(value)); }
  void put_u32(std::uint32_t value) {
    for (int shift = 0; shift < 32; shift += 8) put_u8(static_cast<std::uint8_t>(value >> shift));
  }
  void put_f32(float value) { put_u32(std::bit_cast<std::uint32_t>(value)); }
  void put_string(std::string_view text) {
    put_u32(static_cast<std::uint32_t>(text.size()));
    bytes_.append(text);
  }
  void put_raw(std::string_view raw) { bytes_.append(raw); }

 private:
  std::string& bytes_;
};

// Every reading call returns false once the bytes do not suffice; the caller then gives up.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  bool raw(std::string_view expected) {
    if (!rest_.starts_with(expected)) return false;
    rest_.remove_prefix(expected.size());
    return true;
  }
  bool u8(std::uint8_t& value) {
    if (rest_.empty()) return false;
    value = static_cast<std::uint8_t>(rest_[0]);
    rest_.remove_prefix(1);
    return true;
  }
  bool u32(std::uint32_t& value) {
    if (rest_.size() < 4) return false;
    value = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      value |= static_cast<std::uint32_t>(static_cast<unsigned char>(rest_[i])) << (8 * i);
    }
    rest_.remove_prefix(4);
    return true;
  }
  bool f32(float& value) {
    std::uint32_t bits = 0;
    if (!u32(bits)) return false;
    value = std::bit_cast<float>(bits);
    return std::isfinite(value);
  }
  bool string(std::string& text, std::size_t limit) {
    std::uint32_t length = 0;
    if (!u32(length) || length > rest_.size() || length > limit || !is_valid_utf8(rest_.substr(0, length))) {
      return false;
    }
    text.assign(rest_.substr(0, length));
    rest_.remove_prefix(length);
    return true;
  }
  // A count of items that take at least `item_bytes` each.
  bool count(std::uint32_t& value, std::size_t item_bytes) { return u32(value) && value <= rest_.size() / item_bytes; }
  bool at_end() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

bool read_rect(Reader& reader, Rect& rect) {
  return reader.f32(rect.left) && reader.f32(rect.top) && reader.f32(rect.right) && reader.f32(rect.bottom) &&
         0 <= rect.left && rect.left < rect.right && rect.right <= 1 && 0 <= rect.top && rect.top < rect.bottom &&
         rect.bottom <= 1;
}

// A position between two characters of valid UTF-8.
bool at_character(std::string_view text, std::size_t position) {
  return position == text.size() || (static_cast<unsigned char>(text[position]) & 0xC0) != 0x80;
}

bool read_page(Reader& reader, const ExtractLimits& limits, ExtractedPage& page) {
  std::uint32_t words = 0;
  if (!reader.string(page.text, limits.page_text_bytes) || !reader.f32(page.width_points) ||
      !reader.f32(page.height_points) || page.width_points < 0 || page.height_points < 0 ||
      !reader.count(words, kWordBytes)) {
    return false;
  }
  page.words.resize(words);
  std::uint32_t least = 0;
  for (Word& word : page.words) {
    if (!reader.u32(word.begin) || !reader.u32(word.end) || !read_rect(reader, word.rect)) return false;
    if (word.begin < least || word.begin >= word.end || word.end > page.text.size()) return false;
    if (!at_character(page.text, word.begin) || !at_character(page.text, word.end)) return false;
    least = word.end;
  }
  return true;
}

bool read_document(Reader& reader, const ExtractLimits& limits, ExtractedDocument& document) {
  std::uint8_t kind = 0;
  std::uint32_t warnings = 0, pages = 0;
  if (!reader.u8(kind) || kind > static_cast<std::uint8_t>(DocumentKind::kCode)) return false;
  document.kind = static_cast<DocumentKind>(kind);
  if (!reader.string(document.title, kLongestNote) || !reader.string(document.language, 64)) return false;
  if (!reader.count(warnings, 4) || warnings > 2 * limits.pages) return false;
  for (std::uint32_t i = 0; i < warnings; ++i) {
    if (!reader.string(document.warnings.emplace_back(), kLongestNote)) return false;
  }
  if (!reader.count(pages, kLeastPageBytes) || pages > limits.pages) return false;
  std::uint64_t text_bytes = 0;
  for (std::uint32_t i = 0; i < pages; ++i) {
    if (!read_page(reader, limits, document.pages.emplace_back())) return false;
    text_bytes += document.pages.back().text.size();
    if (text_bytes > limits.document_text_bytes + limits.page_text_bytes) return false;
  }
  return reader.at_end();
}

bool read_error(Reader& reader, Error& error) {
  std::uint8_t code = 0;
  if (!reader.u8(code) || code > static_cast<std::uint8_t>(ErrorCode::kCancelled)) return false;
  error.code = static_cast<ErrorCode>(code);
  return reader.string(error.message, kLongestNote) && !error.message.empty() && reader.at_end();
}

std::string cut_at_character(std::string_view text, std::size_t limit) {
  if (text.size() <= limit) return std::string(text);
  while (limit > 0 && !at_character(text, limit)) --limit;
  return std::string(text.substr(0, limit));
}

}  // namespace

std::string encode_head(const ExtractedDocument& document, std::size_t page_count) {
  std::string message;
  Writer writer(message);
  writer.put_raw(kMagic);
  writer.put_u8(1);
  writer.put_u8(static_cast<std::uint8_t>(document.kind));
  writer.put_string(cut_at_character(document.title, kLongestNote));
  writer.put_string(document.language);
  writer.put_u32(static_cast<std::uint32_t>(document.warnings.size()));
  for (const std::string& warning : document.warnings) writer.put_string(cut_at_character(warning, kLongestNote));
  writer.put_u32(static_cast<std::uint32_t>(page_count));
  return message;
}

void append_encoded_page(std::string& message, const ExtractedPage& page) {
  Writer writer(message);
  writer.put_string(page.text);
  writer.put_f32(page.width_points);
  writer.put_f32(page.height_points);
  writer.put_u32(static_cast<std::uint32_t>(page.words.size()));
  for (const Word& word : page.words) {
    writer.put_u32(word.begin);
    writer.put_u32(word.end);
    for (const float edge : {word.rect.left, word.rect.top, word.rect.right, word.rect.bottom}) writer.put_f32(edge);
  }
}

std::string encode_extraction(const Result<ExtractedDocument>& result) {
  if (result.ok()) {
    std::string message = encode_head(*result, result->pages.size());
    std::size_t expected = message.size();
    for (const ExtractedPage& page : result->pages) {
      expected += kLeastPageBytes + page.text.size() + page.words.size() * kWordBytes;
    }
    message.reserve(expected);
    for (const ExtractedPage& page : result->pages) append_encoded_page(message, page);
    return message;
  }
  std::string message;
  Writer writer(message);
  writer.put_raw(kMagic);
  writer.put_u8(0);
  writer.put_u8(static_cast<std::uint8_t>(result.error().code));
  writer.put_string(cut_at_character(result.error().message, kLongestNote));
  return message;
}

Result<ExtractedDocument> decode_extraction(std::string_view bytes) {
  const Error malformed{ErrorCode::kUnreadable,
                        "The document's reader sent a malformed answer; the document may be built to do harm."};
  try {
    Reader reader(bytes);
    std::uint8_t status = 0;
    if (!reader.raw(kMagic) || !reader.u8(status)) return malformed;
    if (status == 0) {
      Error error;
      if (read_error(reader, error)) return error;
    } else if (status == 1) {
      ExtractedDocument document;
      if (read_document(reader, ExtractLimits{}, document)) return document;
    }
    return malformed;
  } catch (const std::exception&) {
    return Error{ErrorCode::kTooLarge, "The document's text needs more memory than there is; close other programs."};
  }
}

}  // namespace lectern::retrieval

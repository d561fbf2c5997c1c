// SPDX-License-Identifier: GPL-3.0-or-later
#include "plain_text.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "utf8.h"

namespace lectern::retrieval {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

// Windows-1252 for 0x80 to 0x9F; 0 where the code page has no character.
constexpr std::array<std::uint16_t, 32> kWindows1252 = {0x20AC, 0,      0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021,
                                                        0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0,      0x017D, 0,
                                                        0,      0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                                        0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0,      0x017E, 0x0178};

struct Signature {
  std::string_view bytes;
  std::string_view kind;
};

using namespace std::string_view_literals;
constexpr std::array kSignatures = {
    Signature{"PK\x03\x04"sv, "a ZIP archive or an office document"},
    Signature{"PK\x05\x06"sv, "a ZIP archive"},
    Signature{"\x1F\x8B"sv, "a gzip archive"},
    Signature{"BZh"sv, "a bzip2 archive"},
    Signature{"\xFD"
              "7zXZ\0"sv,
              "an xz archive"},
    Signature{"\x28\xB5\x2F\xFD"sv, "a zstd archive"},
    Signature{"7z\xBC\xAF\x27\x1C"sv, "a 7-Zip archive"},
    Signature{"Rar!\x1A\x07"sv, "a RAR archive"},
    Signature{"\x89PNG\r\n\x1A\n"sv, "a PNG image"},
    Signature{"\xFF\xD8\xFF"sv, "a JPEG image"},
    Signature{"GIF8"sv, "a GIF image"},
    Signature{"II*\0"sv, "a TIFF image"},
    Signature{"MM\0*"sv, "a TIFF image"},
    Signature{"\x7F"
              "ELF"sv,
              "a program"},
    Signature{"MZ\x90\0"sv, "a program"},
    Signature{"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1"sv, "an old office document"},
    Signature{"SQLite format 3\0"sv, "an SQLite database"},
    Signature{"OggS"sv, "a sound or video file"},
    Signature{"ID3"sv, "a sound file"},
};

bool starts_with_utf16_mark(std::string_view bytes) {
  return bytes.starts_with("\xFF\xFE"sv) || bytes.starts_with("\xFE\xFF"sv);
}

// Control characters that ordinary text does not hold; tab, line ends, form feed, backspace and escape it may.
bool is_odd_control(unsigned char byte) {
  return (byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r' && byte != '\f' && byte != '\v' && byte != '\b' &&
          byte != 0x1B) ||
         byte == 0x7F;
}

std::string decode_utf16(std::string_view bytes, std::size_t& replaced) {
  const bool little = bytes[0] == '\xFF';
  const auto unit_at = [&](std::size_t position) {
    const auto first = static_cast<unsigned char>(bytes[position]);
    const auto second = static_cast<unsigned char>(bytes[position + 1]);
    return static_cast<char32_t>(little ? first | (second << 8) : second | (first << 8));
  };
  std::string text;
  text.reserve(bytes.size());
  std::size_t position = 2;
  for (; position + 2 <= bytes.size(); position += 2) {
    char32_t code = unit_at(position);
    if (code >= 0xD800 && code < 0xE000) {
      const char32_t low = position + 4 <= bytes.size() ? unit_at(position + 2) : 0;
      if (code < 0xDC00 && low >= 0xDC00 && low < 0xE000) {
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        position += 2;
      } else {
        code = kReplacement;
        ++replaced;
      }
    }
    append_utf8(text, code);
  }
  if (position < bytes.size()) ++replaced;
  return text;
}

// Invalid bytes and whether any valid sequence of more than one byte was seen.
std::pair<std::size_t, bool> survey_utf8(std::string_view bytes) {
  std::size_t invalid = 0;
  bool multibyte = false;
  for (std::size_t i = 0; i < bytes.size();) {
    const std::size_t length = utf8_length_at(bytes, i);
    multibyte = multibyte || length > 1;
    if (length == 0) ++invalid;
    i += std::max<std::size_t>(length, 1);
  }
  return {invalid, multibyte};
}

bool could_be_windows_1252(std::string_view bytes) {
  return std::none_of(bytes.begin(), bytes.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= 0x80 && byte < 0xA0 && kWindows1252[byte - 0x80U] == 0;
  });
}

std::string decode_windows_1252(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 8);
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    append_utf8(text, byte >= 0x80 && byte < 0xA0 ? kWindows1252[byte - 0x80U] : byte);
  }
  return text;
}

std::string replace_invalid(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (std::size_t i = 0; i < bytes.size();) {
    const std::size_t length = utf8_length_at(bytes, i);
    if (length == 0) {
      append_utf8(text, kReplacement);
      ++i;
    } else {
      text.append(bytes.substr(i, length));
      i += length;
    }
  }
  return text;
}

void normalise_line_ends(std::string& text) {
  std::size_t out = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r') {
      if (i + 1 < text.size() && text[i + 1] == '\n') continue;
      text[out++] = '\n';
    } else {
      text[out++] = text[i];
    }
  }
  text.resize(out);
}

std::string replacement_warning(std::size_t count) {
  return std::to_string(count) + (count == 1 ? " byte was" : " bytes were") + " not valid text and replaced by U+FFFD";
}

}  // namespace

ContentVerdict inspect_content(std::string_view bytes) {
  for (const Signature& signature : kSignatures) {
    if (bytes.starts_with(signature.bytes)) return {false, std::string(signature.kind)};
  }
  if (starts_with_utf16_mark(bytes)) return {true, ""};
  if (bytes.find('\0') != std::string_view::npos) return {false, "a binary file"};
  const std::string_view head = bytes.substr(0, 65536);
  const auto odd =
      std::count_if(head.begin(), head.end(), [](char c) { return is_odd_control(static_cast<unsigned char>(c)); });
  if (static_cast<std::size_t>(odd) * 50 > head.size()) return {false, "a binary file"};
  return {true, ""};
}

DecodedText decode_text(std::string_view bytes) {
  DecodedText decoded;
  std::size_t replaced = 0;
  if (starts_with_utf16_mark(bytes)) {
    decoded.text = decode_utf16(bytes, replaced);
  } else {
    if (bytes.starts_with("\xEF\xBB\xBF")) bytes.remove_prefix(3);
    const auto [invalid, multibyte] = survey_utf8(bytes);
    if (invalid == 0) {
      decoded.text = bytes;
    } else if (!multibyte && could_be_windows_1252(bytes)) {
      decoded.text = decode_windows_1252(bytes);
      decoded.warnings.emplace_back("the text is not UTF-8 and was read as Windows-1252 (Latin-1)");
    } else {
      decoded.text = replace_invalid(bytes);
      replaced = invalid;
    }
  }
  if (replaced > 0) decoded.warnings.push_back(replacement_warning(replaced));
  normalise_line_ends(decoded.text);
  return decoded;
}

}  // namespace lectern::retrieval

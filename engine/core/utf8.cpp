// SPDX-License-Identifier: Apache-2.0
#include "core/utf8.h"

namespace lectern::engine::unicode {

namespace {

constexpr char32_t kReplacement = 0xFFFD;

std::uint32_t byte_at(std::string_view text, std::size_t at) {
  return at < text.size() ? static_cast<unsigned char>(text[at]) : 0U;
}

// Length of the sequence a lead byte announces and the range its second byte must have; length 0 for a stray byte.
struct Lead {
  std::uint32_t length;
  std::uint32_t low;
  std::uint32_t high;
};

Lead lead_of(std::uint32_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte < 0xF0) return {3, byte == 0xE0 ? 0xA0U : 0x80U, byte == 0xED ? 0x9FU : 0xBFU};
  if (byte < 0xF5) return {4, byte == 0xF0 ? 0x90U : 0x80U, byte == 0xF4 ? 0x8FU : 0xBFU};
  return {0, 0, 0};
}

// Bytes of the sequence at `at` that are well formed so far, at most the announced length.
std::uint32_t well_formed_bytes(std::string_view text, std::size_t at, const Lead& lead) {
  const std::uint32_t second = byte_at(text, at + 1);
  if (lead.length < 2 || second < lead.low || second > lead.high) return 1;
  std::uint32_t count = 2;
  while (count < lead.length && (byte_at(text, at + count) & 0xC0U) == 0x80U) ++count;
  return count;
}

}  // namespace

Decoded decode_utf8(std::string_view text, std::size_t at) {
  const std::uint32_t first = byte_at(text, at);
  const Lead lead = lead_of(first);
  if (lead.length == 1) return {first, 1, true};
  const std::uint32_t count = lead.length == 0 ? 1 : well_formed_bytes(text, at, lead);
  if (count != lead.length) return {kReplacement, count, false};
  std::uint32_t code = first & (0x7FU >> lead.length);
  for (std::uint32_t i = 1; i < count; ++i) code = code << 6U | (byte_at(text, at + i) & 0x3FU);
  return {code, count, true};
}

void append_utf8(std::string& out, char32_t code) {
  const auto put = [&out](std::uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  const auto put_tail = [&put, code](unsigned shift) { put(0x80U | ((code >> shift) & 0x3FU)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xC0U | code >> 6U);
  } else {
    if (code < 0x10000) {
      put(0xE0U | code >> 12U);
    } else {
      put(0xF0U | code >> 18U);
      put_tail(12);
    }
    put_tail(6);
  }
  put_tail(0);
}

bool is_valid_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const Decoded character = decode_utf8(text, at);
    if (!character.valid) return false;
    at += character.length;
  }
  return true;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Decoded character = decode_utf8(text, at);
    append_utf8(out, character.code);
    at += character.length;
  }
  return out;
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kMostBytes = 80;
  std::string result(1, '"');
  for (std::size_t at = 0; at < text.size() && at < kMostBytes;) {
    const Decoded decoded = decode_utf8(text, at);
    const bool control = decoded.code < 0x20 || (decoded.code >= 0x7F && decoded.code < 0xA0);
    append_utf8(result, control ? U'\uFFFD' : decoded.code);
    at += decoded.length;
  }
  return result + '"';
}

std::size_t incomplete_utf8_tail(std::string_view text) {
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const std::size_t at = text.size() - back;
    const Lead lead = lead_of(byte_at(text, at));
    if (lead.length < 2) {
      if (lead.length == 1) return 0;
      continue;
    }
    const bool open = lead.length > back && (back == 1 || well_formed_bytes(text, at, lead) == back);
    return open ? back : 0;
  }
  return 0;
}

}  // namespace lectern::engine::unicode

// SPDX-License-Identifier: Apache-2.0
#include "text/byte_alphabet.h"

#include <array>

#include "text/unicode.h"

namespace lectern::engine {

namespace {

constexpr bool prints_as_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::size_t kCharacters = 0x144;  // U+0000 to U+0143, the last of the 68 shifted ones

struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<int, kCharacters> byte{};

  constexpr Alphabet() {
    byte.fill(-1);
    char32_t shifted = 0x100;
    for (unsigned value = 0; value < 256; ++value) {
      character[value] = prints_as_itself(value) ? char32_t{value} : shifted++;
      byte[character[value]] = static_cast<int>(value);
    }
  }
};

constexpr Alphabet kAlphabet;

}  // namespace

std::optional<std::string> bytes_from_alphabet(std::string_view name) {
  std::string bytes;
  bytes.reserve(name.size());
  for (std::size_t at = 0; at < name.size();) {
    const unicode::Decoded character = unicode::decode_utf8(name, at);
    at += character.length;
    if (character.code >= kCharacters || kAlphabet.byte[character.code] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kAlphabet.byte[character.code]));
  }
  return bytes;
}

std::string alphabet_from_bytes(std::string_view bytes) {
  std::string name;
  name.reserve(bytes.size() * 2);
  for (const char byte : bytes) unicode::append_utf8(name, kAlphabet.character[static_cast<unsigned char>(byte)]);
  return name;
}

}  // namespace lectern::engine

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace lectern::engine {

// Byte-level vocabularies spell every byte as one printable character: the 188 bytes that are printable in Latin-1 as
// themselves, the other 68 in order as U+0100, U+0101, ...
// The bytes that `name` spells, or nothing if a character outside this alphabet occurs.
std::optional<std::string> bytes_from_alphabet(std::string_view name);

// The reverse.
std::string alphabet_from_bytes(std::string_view bytes);

}  // namespace lectern::engine

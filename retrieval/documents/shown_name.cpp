// SPDX-License-Identifier: GPL-3.0-or-later
#include <string>

#include "retrieval/extract.h"
#include "utf8.h"

namespace lectern::retrieval {

std::string shown_name(const std::filesystem::path& file) {
  const std::string raw = file.has_filename() ? file.filename().string() : file.string();
  std::string shown;
  for (std::size_t i = 0; i < raw.size();) {
    const std::size_t length = utf8_length_at(raw, i);
    const char32_t code = length == 0 ? 0 : utf8_at(raw, i);
    const bool control = code < 0x20 || (code >= 0x7F && code < 0xA0);
    const bool direction = (code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
    if (control || direction) {
      append_utf8(shown, 0xFFFD);
    } else {
      shown.append(raw, i, length);
    }
    i += length == 0 ? 1 : length;
  }
  return shown.empty() ? "The file" : shown;
}

}  // namespace lectern::retrieval

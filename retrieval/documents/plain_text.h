// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lectern::retrieval {

// What the content alone says about a file that is not a PDF.
struct ContentVerdict {
  bool text = false;
  std::string kind;  // of content that is no text: "a ZIP archive", "a PNG image", "a binary file"
};
ContentVerdict inspect_content(std::string_view bytes);

struct DecodedText {
  std::string text;  // valid UTF-8 without byte order mark, lines end in '\n'
  std::vector<std::string> warnings;
};

// Decodes UTF-8, UTF-16 with a byte order mark and, when no byte sequence is valid UTF-8 beyond ASCII, Windows-1252.
// Otherwise invalid bytes become U+FFFD and a warning counts them.
DecodedText decode_text(std::string_view bytes);

}  // namespace lectern::retrieval

// SPDX-License-Identifier: GPL-3.0-or-later
#include <string>

#include "fuzz/expect.h"
#include "text/pre_tokenizer.h"
#include "text/unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace lectern::engine;
  const std::string_view bytes = as_text(data, size);
  const std::string text = unicode::replace_invalid_utf8(bytes);
  expect(unicode::is_valid_utf8(text), "repaired text is valid");
  expect(!unicode::is_valid_utf8(bytes) || text == bytes, "valid text is left alone");
  const std::size_t tail = unicode::incomplete_utf8_tail(bytes);
  expect(tail <= 3 && tail <= bytes.size(), "an open end is short");

  const std::string composed = unicode::nfc(text);
  const std::string decomposed = unicode::nfd(text);
  expect(unicode::is_valid_utf8(composed) && unicode::is_valid_utf8(decomposed), "normal forms are valid");
  expect(unicode::nfc(composed) == composed, "NFC is idempotent");
  expect(unicode::nfd(decomposed) == decomposed, "NFD is idempotent");
  expect(unicode::nfc(decomposed) == composed, "NFC of NFD is NFC");
  expect(unicode::nfd(composed) == decomposed, "NFD of NFC is NFD");
  expect(unicode::is_valid_utf8(unicode::lower_case(std::string_view(text))), "lower case is valid");

  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = piece_length(text, at);
    expect(length > 0 && length <= text.size() - at, "pieces cover the text");
    expect(unicode::is_valid_utf8(std::string_view(text).substr(at, length)), "pieces hold whole characters");
    at += length;
  }
  return 0;
}

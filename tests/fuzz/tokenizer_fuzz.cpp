// SPDX-License-Identifier: GPL-3.0-or-later
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "engine/tokenizer.h"
#include "fuzz/expect.h"
#include "support/tiny_model.h"
#include "text/unicode.h"

// Encoding any bytes and decoding them gives the repaired, composed text back.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace lectern::engine;
  static const std::unique_ptr<Tokenizer> tokenizer = support::load_toy_tokenizer();
  const std::string_view bytes = as_text(data, size);
  const std::string composed = unicode::nfc(unicode::replace_invalid_utf8(bytes));

  const std::vector<TokenId> plain = tokenizer->encode(bytes, Tokenizer::SpecialTokens::kIgnore);
  expect(tokenizer->decode(plain, false) == composed, "decoding gives the text back");
  expect(std::all_of(plain.begin(), plain.end(), [](TokenId token) { return token < support::kToyEndOfText; }),
         "untrusted text holds no added token");

  const std::vector<TokenId> special = tokenizer->encode(bytes, Tokenizer::SpecialTokens::kRecognise);
  const std::string text = tokenizer->decode(special, false);
  expect(unicode::nfc(text) == composed, "recognising added tokens keeps the text");
  return 0;
}

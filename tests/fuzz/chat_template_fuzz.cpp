// SPDX-License-Identifier: GPL-3.0-or-later
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "fuzz/expect.h"
#include "support/tiny_model.h"
#include "text/chat_template.h"

// One byte of options, then messages: a role byte and the content up to the next 0. Whatever they say, the turns are
// those of the messages.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace lectern::engine;
  static const std::unique_ptr<Tokenizer> tokenizer = support::load_toy_tokenizer();
  static const auto chat_template = ChatTemplate::create("", *tokenizer);
  if (size == 0) return 0;
  const bool thinking = (data[0] & 1U) != 0;
  const std::string_view text = as_text(data + 1, size - 1);
  constexpr const char* kRoles[] = {"system", "user", "assistant"};
  std::vector<ChatMessage> messages;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\0', at), text.size());
    const std::size_t role = static_cast<unsigned char>(text[at]) % 3U;
    if (end > at) messages.push_back({kRoles[role], std::string(text.substr(at + 1, end - at - 1))});
    at = end + 1;
  }
  const auto tokens = chat_template->encode(messages, thinking, *tokenizer);
  expect(tokens.ok() == !messages.empty(), "every conversation has a prompt");
  if (!tokens.ok()) return 0;
  const auto count = [&](TokenId token) {
    return static_cast<std::size_t>(std::count(tokens->begin(), tokens->end(), token));
  };
  expect(count(support::kToyTurnStart) == messages.size() + 1, "one turn per message and one for the reply");
  expect(count(support::kToyTurnEnd) == messages.size(), "every message is closed");
  expect(count(support::kToyEndOfText) == 0, "no text ends the text");
  return 0;
}

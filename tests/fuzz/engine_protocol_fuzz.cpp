// SPDX-License-Identifier: GPL-3.0-or-later
// What the desktop reads of lectern-engine, and the other way round. A message that is accepted must survive a round
// trip, however the stream is cut.
#include <algorithm>
#include <string_view>

#include "engine_protocol.h"
#include "fuzz/expect.h"

namespace {

using lectern::app::decodeMessage;
using lectern::app::encodeMessage;
using lectern::app::MessageStream;

constexpr std::size_t kLengthBytes = 4;

void check_message(std::string_view body) {
  const auto message = decodeMessage(body);
  if (!message.ok()) {
    expect(!message.error().message.empty(), "an error says why");
    return;
  }
  const auto again = encodeMessage(*message);
  expect(again.ok() && std::string_view(*again).substr(kLengthBytes) == body, "the same bytes again");
}

std::size_t messages_in(std::string_view bytes, std::size_t step) {
  MessageStream stream;
  std::size_t count = 0;
  for (; !bytes.empty(); bytes.remove_prefix(std::min(step, bytes.size()))) {
    stream.append(bytes.substr(0, step));
    for (;;) {
      const auto next = stream.next();
      if (!next.ok()) return count;
      if (!next->has_value()) break;
      ++count;
    }
  }
  return count;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes = as_text(data, size);
  check_message(bytes);
  expect(messages_in(bytes, 1) == messages_in(bytes, size + 1), "cutting the stream changes nothing");
  return 0;
}

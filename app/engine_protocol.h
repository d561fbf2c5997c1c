// SPDX-License-Identifier: GPL-3.0-or-later
// What the desktop and its lectern-engine process say to each other over a socket pair: messages of a 32-bit
// little-endian length (of what follows it), a byte for the kind and the fields. Neither side trusts the other: every
// length, count and choice is checked, and a message that is not exactly as described ends the connection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"

namespace lectern::app {

inline constexpr std::uint32_t kEngineProtocol = 2;
// Where lectern-engine finds its end of the socket pair.
inline constexpr int kEngineDescriptor = 3;
// Far more than the text of the longest context; a longer message is refused before it is sent or read.
inline constexpr std::size_t kLongestEngineMessage = std::size_t{64} << 20;

// Both sides, before anything else.
struct HelloMessage {
  std::uint32_t version = kEngineProtocol;
};

// --- to the engine ------------------------------------------------------------------------------------------------
// Once, before the requests. Answered by any number of LoadingMessage, then OpenedMessage or FailedMessage, after which
// the process ends.
struct OpenMessage {
  std::string model;  // path of a folder or GGUF file
  engine::EngineOptions options;
};
// The requests carry a number, which their answers repeat. One at a time.
struct CountMessage {  // answered by CountedMessage or FailedMessage
  std::uint64_t request = 0;
  std::vector<engine::ChatMessage> messages;
  bool thinking = false;
};
struct GenerateMessage {  // answered by any number of events, then FinishedMessage or FailedMessage
  std::uint64_t request = 0;
  engine::GenerationRequest generation;
};
struct CancelMessage {  // may come too late, which is no error
  std::uint64_t request = 0;
};

struct ListDevicesMessage {};  // answered by DevicesMessage

// --- from the engine ----------------------------------------------------------------------------------------------
struct DevicesMessage {
  std::vector<engine::DeviceInfo> devices;
};
struct LoadingMessage {  // bytes of weights
  std::int64_t done = 0;
  std::int64_t total = 0;
};
struct OpenedMessage {
  engine::ModelInfo info;
};
struct CountedMessage {
  std::uint64_t request = 0;
  std::int64_t tokens = 0;
};
struct PrefillMessage {
  std::uint64_t request = 0;
  std::int64_t done = 0;
  std::int64_t total = 0;
  double seconds = 0;
};
struct TextMessage {
  std::uint64_t request = 0;
  std::string piece;
};
struct ReasoningMessage {
  std::uint64_t request = 0;
  std::string piece;
};
struct FinishedMessage {
  std::uint64_t request = 0;
  engine::GenerationResult result;
};
// After kDevice the process ends, because a device context that has failed stays unusable.
struct FailedMessage {
  std::uint64_t request = 0;  // 0: opening the model
  engine::Error error;
};

using EngineMessage = std::variant<HelloMessage, OpenMessage, CountMessage, GenerateMessage, CancelMessage,
                                   OpenedMessage, CountedMessage, PrefillMessage, TextMessage, ReasoningMessage,
                                   FinishedMessage, FailedMessage, ListDevicesMessage, DevicesMessage, LoadingMessage>;

// The whole message, length included. Errors: kInvalidArgument (longer than kLongestEngineMessage).
engine::Result<std::string> encodeMessage(const EngineMessage& message);

// From what follows the length. Errors: kCorrupt.
engine::Result<EngineMessage> decodeMessage(std::string_view body);

// Cuts a stream of bytes into messages.
class MessageStream {
 public:
  void append(std::string_view bytes) { m_bytes.append(bytes); }

  // The next message, or nothing until more bytes have come. Errors: kCorrupt, after which the stream is of no use.
  engine::Result<std::optional<EngineMessage>> next();

 private:
  std::string m_bytes;
  std::size_t m_read = 0;  // of m_bytes
};

}  // namespace lectern::app

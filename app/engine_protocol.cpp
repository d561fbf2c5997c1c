// SPDX-License-Identifier: GPL-3.0-or-later
#include "engine_protocol.h"

#include <bit>
#include <cmath>
#include <concepts>
#include <filesystem>
#include <type_traits>
#include <utility>

namespace lectern::app {
namespace {

using engine::Error;
using engine::ErrorCode;
using engine::Result;

constexpr std::size_t kLengthBytes = 4;
constexpr std::size_t kMostEntries = 100'000;  // of any list

Error malformed() {
  return {ErrorCode::kCorrupt,
          "The program lectern-engine and the desktop do not understand each other; install Lectern again."};
}

// The last value of each enumeration that is sent; a value added to one of them belongs here.
constexpr auto lastOf(engine::DeviceKind) { return engine::DeviceKind::kCuda; }
constexpr auto lastOf(engine::KvType) { return engine::KvType::kQ8; }
constexpr auto lastOf(engine::WeightPlacement) { return engine::WeightPlacement::kCopied; }
constexpr auto lastOf(engine::FinishReason) { return engine::FinishReason::kCancelled; }
constexpr auto lastOf(engine::ErrorCode) { return engine::ErrorCode::kCancelled; }

class Writer {
 public:
  explicit Writer(std::string& bytes) : m_bytes(bytes) {}

  template <class... Fields>
  void operator()(const Fields&... fields) {
    (write(fields), ...);
  }

 private:
  template <std::integral Number>
  void write(const Number& number) {
    auto bits = static_cast<std::uint64_t>(number);
    for (std::size_t i = 0; i < sizeof(Number); ++i, bits >>= 8) m_bytes += static_cast<char>(bits & 0xffU);
  }
  void write(const double& number) { write(std::bit_cast<std::uint64_t>(number)); }
  void write(const float& number) { write(std::bit_cast<std::uint32_t>(number)); }
  template <class Choice>
  requires std::is_enum_v<Choice>
  void write(const Choice& choice) { write(static_cast<std::uint8_t>(choice)); }
  void write(const std::string& text) {
    write(static_cast<std::uint32_t>(text.size()));
    m_bytes += text;
  }
  void write(const std::filesystem::path& path) { write(path.native()); }
  template <class Entry>
  void write(const std::vector<Entry>& list) {
    write(static_cast<std::uint32_t>(list.size()));
    for (const Entry& entry : list) write(entry);
  }
  template <class Compound>
  void write(const Compound& compound) {
    describe(*this, compound);
  }

  std::string& m_bytes;
};

class Reader {
 public:
  explicit Reader(std::string_view bytes) : m_bytes(bytes) {}

  template <class... Fields>
  void operator()(Fields&... fields) {
    (read(fields), ...);
  }
  bool complete() const { return m_sound && m_bytes.empty(); }

 private:
  template <std::integral Number>
  void read(Number& number) {
    const std::string_view bytes = take(sizeof(Number));
    std::uint64_t bits = 0;
    for (std::size_t i = bytes.size(); i-- > 0;) bits = bits << 8 | static_cast<unsigned char>(bytes[i]);
    number = static_cast<Number>(bits);
  }
  void read(bool& truth) {
    std::uint8_t byte = 0;
    read(byte);
    require(byte <= 1);
    truth = byte == 1;
  }
  void read(double& number) {
    std::uint64_t bits = 0;
    read(bits);
    number = std::bit_cast<double>(bits);
    require(std::isfinite(number));
  }
  void read(float& number) {
    std::uint32_t bits = 0;
    read(bits);
    number = std::bit_cast<float>(bits);
    require(std::isfinite(number));
  }
  template <class Choice>
  requires std::is_enum_v<Choice>
  void read(Choice& choice) {
    std::uint8_t value = 0;
    read(value);
    require(value <= static_cast<std::uint8_t>(lastOf(Choice{})));
    if (m_sound) choice = static_cast<Choice>(value);
  }
  void read(std::string& text) {
    std::uint32_t length = 0;
    read(length);
    text = take(length);
  }
  void read(std::filesystem::path& path) {
    std::string text;
    read(text);
    path = std::move(text);
  }
  template <class Entry>
  void read(std::vector<Entry>& list) {
    std::uint32_t count = 0;
    read(count);
    require(count <= kMostEntries && count <= m_bytes.size());  // an entry has a byte at least
    for (std::uint32_t i = 0; i < count && m_sound; ++i) read(list.emplace_back());
  }
  template <class Compound>
  void read(Compound& compound) {
    describe(*this, compound);
  }

  void require(bool holds) { m_sound = m_sound && holds; }
  // Nothing when there is less than that left.
  std::string_view take(std::size_t length) {
    require(length <= m_bytes.size());
    if (!m_sound) return {};
    const std::string_view taken = m_bytes.substr(0, length);
    m_bytes.remove_prefix(length);
    return taken;
  }

  std::string_view m_bytes;
  bool m_sound = true;
};

template <class A, class B>
concept Either = std::same_as<std::remove_const_t<A>, B>;

// The fields of what is sent, for both directions. The bindings must name every field: one that the engine adds cannot
// be forgotten here.
template <class Stream, Either<engine::ChatMessage> T>
void describe(Stream& stream, T& value) {
  auto& [role, content, boundaries] = value;
  stream(role, content, boundaries);
}

template <class Stream, Either<engine::SessionOptions> T>
void describe(Stream& stream, T& value) {
  auto& [memoryBytes, checkpointTokens, directory, diskBytes] = value;
  stream(memoryBytes, checkpointTokens, directory, diskBytes);
}

template <class Stream, Either<engine::EngineOptions> T>
void describe(Stream& stream, T& value) {
  auto& [device, gpus, threads, contextTokens, chunkTokens, kvType, ropeFactor, draftTokens, memoryLimit, weights,
         sessions, gpuExperts] = value;
  stream(device, gpus, threads, contextTokens, chunkTokens, kvType, ropeFactor, draftTokens, memoryLimit, weights,
         sessions, gpuExperts);
}

template <class Stream, Either<engine::GpuShare> T>
void describe(Stream& stream, T& value) {
  auto& [gpu, layers, weights, sequences, scratch, limit] = value;
  stream(gpu, layers, weights, sequences, scratch, limit);
}

template <class Stream, Either<engine::MemoryPlan> T>
void describe(Stream& stream, T& value) {
  auto& [weights, kvCache, state, scratch, sessions, keptSessions, limit, experts, expertsOnGpu, expertStaging,
         hostedExperts, lockedExperts, gpus] = value;
  stream(weights, kvCache, state, scratch, sessions, keptSessions, limit, experts, expertsOnGpu, expertStaging,
         hostedExperts, lockedExperts, gpus);
}

template <class Stream, Either<engine::ModelInfo> T>
void describe(Stream& stream, T& value) {
  auto& [name, architecture, quantisation, parameters, weightBytes, contextTokens, layers, hasMtp, memory, thinking] =
      value;
  stream(name, architecture, quantisation, parameters, weightBytes, contextTokens, layers, hasMtp, memory, thinking);
}

template <class Stream, Either<engine::DeviceInfo> T>
void describe(Stream& stream, T& value) {
  auto& [kind, name, memoryBytes, usable, reason] = value;
  stream(kind, name, memoryBytes, usable, reason);
}

template <class Stream, Either<engine::SamplingOptions> T>
void describe(Stream& stream, T& value) {
  auto& [temperature, topK, topP, minP, presencePenalty, repetitionPenalty, seed] = value;
  stream(temperature, topK, topP, minP, presencePenalty, repetitionPenalty, seed);
}

template <class Stream, Either<engine::GenerationRequest> T>
void describe(Stream& stream, T& value) {
  auto& [messages, sampling, maxNewTokens, thinking, stopTexts] = value;
  stream(messages, sampling, maxNewTokens, thinking, stopTexts);
}

template <class Stream, Either<engine::GenerationStatistics> T>
void describe(Stream& stream, T& value) {
  auto& [prompt, generated, reused, drafted, accepted, ropeFactor, prefillSeconds, decodeSeconds] = value;
  stream(prompt, generated, reused, drafted, accepted, ropeFactor, prefillSeconds, decodeSeconds);
}

template <class Stream, Either<engine::GenerationResult> T>
void describe(Stream& stream, T& value) {
  auto& [text, reasoning, finish, statistics] = value;
  stream(text, reasoning, finish, statistics);
}

template <class Stream, Either<engine::Error> T>
void describe(Stream& stream, T& value) {
  auto& [code, message] = value;
  stream(code, message);
}

template <class Stream, Either<HelloMessage> T>
void describe(Stream& stream, T& value) {
  stream(value.version);
}

template <class Stream, Either<OpenMessage> T>
void describe(Stream& stream, T& value) {
  stream(value.model, value.options);
}

template <class Stream, Either<CountMessage> T>
void describe(Stream& stream, T& value) {
  stream(value.request, value.messages, value.thinking);
}

template <class Stream, Either<GenerateMessage> T>
void describe(Stream& stream, T& value) {
  stream(value.request, value.generation);
}

template <class Stream, Either<CancelMessage> T>
void describe(Stream& stream, T& value) {
  stream(value.request);
}

template <class Stream, Either<OpenedMessage> T>
void describe(Stream& stream, T& value) {
  stream(value.info);
}

template <class Stream, Either<CountedMessage> T>
void describe(Stream& stream, T& value) {
  stream(value.request, value.tokens);
}

template <class Stream, Either<PrefillMessage> T>
void describe(Stream& stream, T& value) {
  stream(value.request, value.done, value.total, value.seconds);
}

template <class Stream, class T>
requires Either<T, TextMessage> || Either<T, ReasoningMessage>
void describe(Stream& stream, T& value) { stream(value.request, value.piece); }

template <class Stream, Either<FinishedMessage> T>
void describe(Stream& stream, T& value) {
  stream(value.request, value.result);
}

template <class Stream, Either<FailedMessage> T>
void describe(Stream& stream, T& value) {
  stream(value.request, value.error);
}

template <class Stream, Either<ListDevicesMessage> T>
void describe(Stream& /*stream*/, T& /*value*/) {}

template <class Stream, Either<DevicesMessage> T>
void describe(Stream& stream, T& value) {
  stream(value.devices);
}

template <class Stream, Either<LoadingMessage> T>
void describe(Stream& stream, T& value) {
  stream(value.done, value.total);
}

// Reads the alternative of the variant that has this index.
template <std::size_t Index = 0>
Result<EngineMessage> decodeAlternative(std::size_t index, Reader& reader) {
  if constexpr (Index < std::variant_size_v<EngineMessage>) {
    if (index != Index) return decodeAlternative<Index + 1>(index, reader);
    std::variant_alternative_t<Index, EngineMessage> message;
    reader(message);
    if (!reader.complete()) return malformed();
    return EngineMessage(std::move(message));
  } else {
    return malformed();
  }
}

std::size_t lengthAt(std::string_view bytes) {
  std::uint32_t length = 0;
  for (std::size_t i = kLengthBytes; i-- > 0;) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  return length;
}

}  // namespace

Result<std::string> encodeMessage(const EngineMessage& message) {
  std::string bytes(kLengthBytes, '\0');
  bytes += static_cast<char>(message.index());
  Writer writer(bytes);
  std::visit([&writer](const auto& alternative) { writer(alternative); }, message);
  const std::size_t length = bytes.size() - kLengthBytes;
  if (length > kLongestEngineMessage) {
    return Error{ErrorCode::kInvalidArgument, "A question with passages of " + std::to_string(length >> 20) +
                                                  " MB is too long for the engine; ask about fewer documents."};
  }
  for (std::size_t i = 0; i < kLengthBytes; ++i) bytes[i] = static_cast<char>(length >> (8 * i) & 0xffU);
  return bytes;
}

Result<EngineMessage> decodeMessage(std::string_view body) {
  if (body.empty()) return malformed();
  Reader reader(body.substr(1));
  return decodeAlternative(static_cast<unsigned char>(body.front()), reader);
}

Result<std::optional<EngineMessage>> MessageStream::next() {
  const std::string_view waiting = std::string_view(m_bytes).substr(m_read);
  if (waiting.size() < kLengthBytes) return std::optional<EngineMessage>();
  const std::size_t length = lengthAt(waiting);
  if (length == 0 || length > kLongestEngineMessage) return malformed();
  if (waiting.size() - kLengthBytes < length) return std::optional<EngineMessage>();
  ENGINE_TRY(EngineMessage message, decodeMessage(waiting.substr(kLengthBytes, length)));
  m_read += kLengthBytes + length;
  if (m_read == m_bytes.size() || m_read > (1U << 16)) {
    m_bytes.erase(0, m_read);
    m_read = 0;
  }
  return std::optional<EngineMessage>(std::move(message));
}

}  // namespace lectern::app

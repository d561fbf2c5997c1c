// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "core/json.h"

namespace lectern::engine {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTurnStart = "<|im_start|>";
constexpr std::string_view kTurnEnd = "<|im_end|>";
constexpr std::string_view kThink = "<think>";
constexpr std::string_view kThinkEnd = "</think>";
constexpr std::size_t kMaxFileBytes = std::size_t{64} << 20;

// Encodes runs of text between added tokens, each run in one piece as the reference sees it.
class PromptWriter {
 public:
  explicit PromptWriter(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void text(std::string_view part) { pending_ += part; }

  // After `bytes` of what is written next.
  void boundary(std::int64_t bytes) {
    pending_boundaries_.push_back(pending_.size() + static_cast<std::size_t>(bytes));
  }

  void token(TokenId id) {
    flush();
    tokens_.push_back(id);
  }

  // An added token of the template; a tokenizer without it spells it out.
  void marker(std::string_view content) {
    if (const std::optional<TokenId> id = tokenizer_.find(content)) {
      token(*id);
    } else {
      text(content);
    }
  }

  ChatTemplate::Prompt finish() && {
    flush();
    return {std::move(tokens_), std::move(boundaries_)};
  }

 private:
  void flush() {
    const std::vector<TokenId> part = tokenizer_.encode(pending_, Tokenizer::SpecialTokens::kIgnore);
    place_boundaries(part);
    tokens_.insert(tokens_.end(), part.begin(), part.end());
    pending_.clear();
    pending_boundaries_.clear();
  }

  std::size_t bytes_of(TokenId token) const { return tokenizer_.token_bytes(token).size(); }

  // The tokens of a run are those of its normalised text, whose length up to a boundary only encoding tells.
  void place_boundaries(std::span<const TokenId> part) {
    std::size_t begin = 0;
    std::size_t bytes = 0;
    std::size_t token = 0;
    std::size_t bytes_of_tokens = 0;
    for (const std::size_t boundary : pending_boundaries_) {
      const std::string_view piece = std::string_view(pending_).substr(begin, boundary - begin);
      for (const TokenId id : tokenizer_.encode(piece, Tokenizer::SpecialTokens::kIgnore)) bytes += bytes_of(id);
      begin = boundary;
      for (; token < part.size() && bytes_of_tokens + bytes_of(part[token]) <= bytes; ++token) {
        bytes_of_tokens += bytes_of(part[token]);
      }
      boundaries_.push_back(static_cast<std::int64_t>(tokens_.size() + token));
    }
  }

  const Tokenizer& tokenizer_;
  std::string pending_;
  std::vector<std::size_t> pending_boundaries_;  // bytes of pending_
  std::vector<TokenId> tokens_;
  std::vector<std::int64_t> boundaries_;
};

std::string_view strip_leading_newlines(std::string_view text) {
  const std::size_t first = text.find_first_not_of('\n');
  return first == std::string_view::npos ? std::string_view() : text.substr(first);
}

std::string_view strip_newlines(std::string_view text) {
  text = strip_leading_newlines(text);
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

struct AssistantTurn {
  std::string_view reasoning;
  std::string_view answer;
};

// The reasoning is what stands before the first </think> and after the last <think> in that part; the answer is what
// follows the last </think>.
AssistantTurn split_reasoning(std::string_view content) {
  const std::size_t first_end = content.find(kThinkEnd);
  if (first_end == std::string_view::npos) return {{}, content};
  std::string_view reasoning = content.substr(0, first_end);
  if (const std::size_t open = reasoning.rfind(kThink); open != std::string_view::npos) {
    reasoning = reasoning.substr(open + kThink.size());
  }
  const std::size_t answer = content.rfind(kThinkEnd) + kThinkEnd.size();
  return {strip_newlines(reasoning), strip_leading_newlines(content.substr(answer))};
}

bool is_tool_response(std::string_view content) {
  return content.starts_with("<tool_response>") && content.ends_with("</tool_response>");
}

// Index of the last message a person wrote; without one, of the last message.
std::size_t last_query(const std::vector<ChatMessage>& messages) {
  for (std::size_t i = messages.size(); i > 0; --i) {
    if (messages[i - 1].role == "user" && !is_tool_response(messages[i - 1].content)) return i - 1;
  }
  return messages.size() - 1;
}

void write_reasoning_turn(std::string_view content, bool after_query, bool last, PromptWriter& out) {
  const AssistantTurn turn = split_reasoning(content);
  if (!after_query || (!last && turn.reasoning.empty())) return out.text(turn.answer);
  out.marker(kThink);
  out.text("\n");
  out.text(turn.reasoning);
  out.text("\n");
  out.marker(kThinkEnd);
  out.text("\n\n");
  out.text(strip_leading_newlines(turn.answer));
}

bool rising_within(const std::vector<std::int64_t>& positions, std::size_t size) {
  std::int64_t last = 0;
  for (const std::int64_t position : positions) {
    if (position < last || position > static_cast<std::int64_t>(size)) return false;
    last = position;
  }
  return true;
}

Result<void> check_message(const ChatMessage& message, std::size_t index) {
  if (message.role != "system" && message.role != "user" && message.role != "assistant") {
    return Error{ErrorCode::kInvalidArgument, "Message " + std::to_string(index) + " has the role \"" +
                                                  message.role.substr(0, 40) + "\"; use system, user or assistant."};
  }
  if (rising_within(message.boundaries, message.content.size())) return {};
  return Error{ErrorCode::kInvalidArgument, "The boundaries of message " + std::to_string(index) +
                                                " are not rising positions in its text; leave them out."};
}

// True for the template of a model that always thinks: its generation prompt opens a block that it does not close.
bool opens_reasoning(std::string_view source) {
  const std::size_t prompt = source.rfind("add_generation_prompt");
  if (prompt == std::string_view::npos) return false;
  const std::string_view tail = source.substr(prompt);
  for (const std::string_view newline : {"\\n", "\n"}) {
    const std::string opening = std::string(kThink) + std::string(newline);
    const std::size_t at = tail.find(opening);
    if (at == std::string_view::npos) continue;
    const std::string closing = std::string(newline) + std::string(kThinkEnd);
    return !tail.substr(at + opening.size()).starts_with(closing);
  }
  return false;
}

}  // namespace

// chat_template is a string, or a list of {"name", "template"} of which the one called "default" counts.
Result<std::string> read_chat_template(const fs::path& directory) {
  std::error_code error;
  if (const fs::path config = directory / "tokenizer_config.json"; fs::exists(config, error)) {
    ENGINE_TRY(const JsonDocument document, JsonDocument::read(config, {.max_bytes = kMaxFileBytes}));
    const JsonValue value = document.root()["chat_template"];
    if (const auto source = value.string()) return std::string(*source);
    for (const JsonValue entry : value.elements()) {
      if (entry["name"].string() == "default") return entry.need_string("template");
    }
  }
  if (const fs::path jinja = directory / "chat_template.jinja"; fs::exists(jinja, error)) {
    return read_text_file(jinja, kMaxFileBytes);
  }
  return std::string();
}

Result<ChatTemplate> ChatTemplate::load(const fs::path& directory, const Tokenizer& tokenizer) {
  ENGINE_TRY(const std::string source, read_chat_template(directory));
  return create(source, tokenizer);
}

Result<ChatTemplate> ChatTemplate::create(std::string_view source, const Tokenizer& tokenizer) {
  if (!source.empty() && source.find(kTurnStart) == std::string_view::npos) {
    return Error{ErrorCode::kUnsupported,
                 "The model's chat template is not ChatML; this engine runs the Qwen3 chat format only."};
  }
  const std::optional<TokenId> start = tokenizer.find(kTurnStart);
  const std::optional<TokenId> end = tokenizer.find(kTurnEnd);
  if (!start || !end) {
    return Error{ErrorCode::kUnsupported,
                 "The tokenizer lacks <|im_start|> or <|im_end|>, so the model cannot hold a conversation."};
  }
  ChatTemplate chat_template;
  chat_template.turn_start_ = *start;
  chat_template.turn_end_ = *end;
  chat_template.thinking_model_ = opens_reasoning(source);
  return chat_template;
}

Result<std::vector<TokenId>> ChatTemplate::encode(const std::vector<ChatMessage>& messages, bool thinking,
                                                  const Tokenizer& tokenizer) const {
  std::vector<ChatMessage> unmarked = messages;
  for (ChatMessage& message : unmarked) message.boundaries.clear();
  ENGINE_TRY(Prompt prompt, encode_with_boundaries(unmarked, thinking, tokenizer));
  return std::move(prompt.tokens);
}

Result<ChatTemplate::Prompt> ChatTemplate::encode_with_boundaries(const std::vector<ChatMessage>& messages,
                                                                  bool thinking, const Tokenizer& tokenizer) const {
  if (messages.empty()) return Error{ErrorCode::kInvalidArgument, "The conversation has no messages."};
  PromptWriter out(tokenizer);
  const std::size_t query = last_query(messages);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    ENGINE_CHECK(check_message(message, i));
    out.token(turn_start_);
    out.text(message.role + "\n");
    if (message.role == "assistant" && (thinking || thinking_model_)) {
      write_reasoning_turn(message.content, i > query, i + 1 == messages.size(), out);
    } else {
      for (const std::int64_t boundary : message.boundaries) out.boundary(boundary);
      out.text(message.content);
    }
    out.token(turn_end_);
    out.text("\n");
  }
  out.token(turn_start_);
  out.text("assistant\n");
  if (thinking) {
    out.marker(kThink);
    out.text("\n");
  }
  return std::move(out).finish();
}

}  // namespace lectern::engine

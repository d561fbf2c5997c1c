// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer_files.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "core/json.h"
#include "text/pre_tokenizer.h"

namespace lectern::engine {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxFileBytes = std::size_t{64} << 20;

Error unsupported(std::string_view file, const std::string& text) {
  return {ErrorCode::kUnsupported,
          std::string(file) + ": " + text + "; this engine runs the byte-level BPE tokenizers of the Qwen2 family."};
}

bool is_type(JsonValue value, std::string_view type) { return value["type"].string() == type; }

Result<AddedToken> read_added_token(JsonValue entry, std::int64_t id) {
  AddedToken token;
  ENGINE_TRY(token.content, entry.need_string("content"));
  ENGINE_TRY(token.special, entry.boolean_or("special", false));
  ENGINE_TRY(token.normalized, entry.boolean_or("normalized", !token.special));
  for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
    ENGINE_TRY(const bool set, entry.boolean_or(flag, false));
    if (!set) continue;
    return Error{ErrorCode::kUnsupported, entry
                                              .error("added token \"" + token.content.substr(0, 60) + "\" sets " +
                                                     flag + ", which this engine does not run")
                                              .message};
  }
  if (id < 0 || id > std::numeric_limits<TokenId>::max()) return entry.error("an added token's id is out of range");
  token.id = static_cast<TokenId>(id);
  return token;
}

Result<void> add_vocabulary(JsonValue vocabulary, TokenizerDefinitionBuilder& builder) {
  for (const JsonMember token : vocabulary.members()) {
    const auto id = token.value.integer();
    if (!id) return token.value.error("a token's id must be an integer");
    ENGINE_CHECK(builder.add_token(token.key, *id));
  }
  return {};
}

// "left right"; the byte alphabet has no space, so there is exactly one.
bool split_merge(std::string_view line, std::string_view& left, std::string_view& right) {
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos) return false;
  left = line.substr(0, space);
  right = line.substr(space + 1);
  return !left.empty() && !right.empty() && right.find(' ') == std::string_view::npos;
}

Result<void> add_merges(JsonValue merges, TokenizerDefinitionBuilder& builder) {
  for (const JsonValue merge : merges.elements()) {
    std::string_view left;
    std::string_view right;
    if (const auto line = merge.string()) {
      if (!split_merge(*line, left, right)) return merge.error("a merge must be two tokens with one space between");
    } else {
      std::vector<std::string_view> sides;
      for (const JsonValue side : merge.elements()) {
        if (sides.size() < 3) sides.push_back(side.string().value_or(std::string_view()));
      }
      if (sides.size() != 2) return merge.error("a merge must be a string or a pair of strings");
      left = sides[0];
      right = sides[1];
    }
    ENGINE_CHECK(builder.add_merge(left, right));
  }
  return {};
}

Result<void> check_model(JsonValue model) {
  if (model["type"].exists() && !is_type(model, "BPE")) return unsupported("tokenizer.json", "the model is not BPE");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ENGINE_TRY(const std::string value, model.string_or(key, ""));
    if (!value.empty()) return unsupported("tokenizer.json", std::string("model.") + key + " is set");
  }
  for (const char* key : {"byte_fallback", "ignore_merges"}) {
    ENGINE_TRY(const bool set, model.boolean_or(key, false));
    if (set) return unsupported("tokenizer.json", std::string("model.") + key + " is set");
  }
  ENGINE_TRY(const double dropout, model.number_or("dropout", 0));
  if (dropout != 0) return unsupported("tokenizer.json", "model.dropout is set");
  return {};
}

Result<bool> uses_nfc(JsonValue normalizer) {
  if (!normalizer.exists() || normalizer.is_null()) return false;
  if (is_type(normalizer, "NFC")) return true;
  return unsupported("tokenizer.json", "the normalizer is not NFC");
}

bool is_qwen2_split(JsonValue split) {
  return is_type(split, "Split") && split["pattern"]["Regex"].string() == kQwen2Pattern &&
         split["behavior"].string() == "Isolated" && !split["invert"].boolean().value_or(false);
}

bool is_plain_byte_level(JsonValue step) {
  return is_type(step, "ByteLevel") && !step["add_prefix_space"].boolean().value_or(true) &&
         !step["use_regex"].boolean().value_or(true);
}

Result<void> check_pre_tokenizer(JsonValue pre_tokenizer) {
  std::vector<JsonValue> steps;
  for (const JsonValue step : pre_tokenizer["pretokenizers"].elements()) {
    if (steps.size() < 3) steps.push_back(step);
  }
  const bool known = is_type(pre_tokenizer, "Sequence") && steps.size() == 2 && is_qwen2_split(steps[0]) &&
                     is_plain_byte_level(steps[1]);
  if (known) return {};
  return unsupported("tokenizer.json", "the pre_tokenizer is not the Qwen2 split followed by ByteLevel");
}

Result<void> check_output_steps(JsonValue root) {
  for (const char* key : {"post_processor", "decoder"}) {
    const JsonValue step = root[key];
    if (!step.exists() || step.is_null() || is_type(step, "ByteLevel")) continue;
    return unsupported("tokenizer.json", std::string("the ") + key + " is not ByteLevel");
  }
  return {};
}

Result<TokenizerDefinition> read_tokenizer_json(const JsonDocument& document) {
  const JsonValue root = document.root();
  ENGINE_TRY(const JsonValue model, root.need_object("model"));
  ENGINE_CHECK(check_model(model));
  ENGINE_CHECK(check_pre_tokenizer(root["pre_tokenizer"]));
  ENGINE_CHECK(check_output_steps(root));
  ENGINE_TRY(const bool nfc, uses_nfc(root["normalizer"]));
  ENGINE_TRY(const JsonValue vocabulary, model.need_object("vocab"));
  ENGINE_TRY(const JsonValue merges, model.need_array("merges"));

  TokenizerDefinitionBuilder builder("tokenizer.json");
  for (const JsonValue entry : root["added_tokens"].elements()) {
    ENGINE_TRY(const std::int64_t id, entry.need_integer("id"));
    ENGINE_TRY(AddedToken token, read_added_token(entry, id));
    ENGINE_CHECK(builder.add_added_token(std::move(token)));
  }
  ENGINE_CHECK(add_vocabulary(vocabulary, builder));
  ENGINE_CHECK(add_merges(merges, builder));
  return std::move(builder).finish(nfc);
}

Result<void> add_configured_tokens(const fs::path& file, TokenizerDefinitionBuilder& builder) {
  ENGINE_TRY(const JsonDocument document, JsonDocument::read(file, {.max_bytes = kMaxFileBytes}));
  for (const JsonMember entry : document.root()["added_tokens_decoder"].members()) {
    std::int64_t id = -1;
    const char* end = entry.key.data() + entry.key.size();
    if (const auto parsed = std::from_chars(entry.key.data(), end, id); parsed.ec != std::errc() || parsed.ptr != end) {
      return entry.value.error("the names in added_tokens_decoder must be token ids");
    }
    ENGINE_TRY(AddedToken token, read_added_token(entry.value, id));
    ENGINE_CHECK(builder.add_added_token(std::move(token)));
  }
  return {};
}

Result<void> add_merge_lines(std::string_view text, TokenizerDefinitionBuilder& builder) {
  std::size_t number = 1;
  for (std::size_t at = 0; at < text.size(); ++number) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    at = end + 1;
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    std::string_view left;
    std::string_view right;
    if (!split_merge(line, left, right)) {
      return Error{ErrorCode::kCorrupt,
                   "merges.txt: line " + std::to_string(number) + " is not two tokens with one space between."};
    }
    ENGINE_CHECK(builder.add_merge(left, right));
  }
  return {};
}

Result<TokenizerDefinition> read_vocabulary_and_merges(const fs::path& directory) {
  ENGINE_TRY(const JsonDocument vocabulary, JsonDocument::read(directory / "vocab.json", {.max_bytes = kMaxFileBytes}));
  if (!vocabulary.root().is_object()) return vocabulary.root().error("the vocabulary must be an object");
  ENGINE_TRY(const std::string merges, read_text_file(directory / "merges.txt", kMaxFileBytes));

  TokenizerDefinitionBuilder builder("vocab.json and merges.txt");
  const fs::path config = directory / "tokenizer_config.json";
  std::error_code error;
  if (fs::exists(config, error)) ENGINE_CHECK(add_configured_tokens(config, builder));
  ENGINE_CHECK(add_vocabulary(vocabulary.root(), builder));
  ENGINE_CHECK(add_merge_lines(merges, builder));
  return std::move(builder).finish(true);
}

}  // namespace

Result<TokenizerDefinition> read_tokenizer_json(std::string text) {
  ENGINE_TRY(const JsonDocument document,
             JsonDocument::parse(std::move(text), "tokenizer.json", {.max_bytes = kMaxFileBytes}));
  return read_tokenizer_json(document);
}

Result<TokenizerDefinition> read_tokenizer_files(const fs::path& directory) {
  std::error_code error;
  if (fs::exists(directory / "tokenizer.json", error)) {
    ENGINE_TRY(std::string text, read_text_file(directory / "tokenizer.json", kMaxFileBytes));
    return read_tokenizer_json(std::move(text));
  }
  if (!fs::exists(directory / "vocab.json", error)) {
    return Error{ErrorCode::kNotFound, directory.string() + " holds neither tokenizer.json nor vocab.json; copy the " +
                                           "tokenizer files of the model there."};
  }
  return read_vocabulary_and_merges(directory);
}

}  // namespace lectern::engine

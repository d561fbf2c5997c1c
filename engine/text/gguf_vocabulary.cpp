// SPDX-License-Identifier: Apache-2.0
#include "text/gguf_vocabulary.h"

#include <utility>

#include "core/utf8.h"

namespace lectern::engine {

namespace {

enum TokenType : std::int64_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

Error corrupt(const GgufVocabulary& vocabulary, const std::string& what) {
  return {ErrorCode::kCorrupt, vocabulary.file + ": " + what + "; the file was converted wrongly, fetch another."};
}

Error unsupported(const GgufVocabulary& vocabulary, const std::string& what) {
  return {ErrorCode::kUnsupported,
          vocabulary.file + ": " + what + "; this engine runs the byte-level BPE tokenizers of the Qwen2 family."};
}

Result<void> check_kind(const GgufVocabulary& vocabulary) {
  if (vocabulary.kind != "gpt2") {
    return unsupported(vocabulary, "the tokenizer " + unicode::in_quotes(vocabulary.kind) + " is not \"gpt2\"");
  }
  if (vocabulary.pre != "qwen2") {
    return unsupported(vocabulary, "the split pattern " + unicode::in_quotes(vocabulary.pre) + " is not \"qwen2\"");
  }
  if (vocabulary.adds_tokens) return unsupported(vocabulary, "the tokenizer adds a token to every text");
  if (vocabulary.types.size() == vocabulary.tokens.size()) return {};
  return corrupt(vocabulary, "there are " + std::to_string(vocabulary.tokens.size()) + " tokens, but " +
                                 std::to_string(vocabulary.types.size()) + " token types");
}

// Without the padding at the end.
std::size_t used_tokens(const GgufVocabulary& vocabulary) {
  std::size_t count = vocabulary.tokens.size();
  while (count > 0 && vocabulary.types[count - 1] == kUnused) --count;
  return count;
}

Result<void> add_vocabulary(const GgufVocabulary& vocabulary, std::size_t count, TokenizerDefinitionBuilder& builder) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto id = static_cast<std::int64_t>(i);
    switch (vocabulary.types[i]) {
      case kNormal:
        ENGINE_CHECK(builder.add_token(vocabulary.tokens[i], id));
        break;
      case kUnused:
        ENGINE_CHECK(builder.add_unused_token(vocabulary.tokens[i], id));
        break;
      case kControl:
      case kUserDefined:
        break;
      case kUnknown:
      case kByte:
        return unsupported(vocabulary, "token " + std::to_string(i) + " is a byte or an unknown token");
      default:
        return corrupt(vocabulary,
                       "token " + std::to_string(i) + " has the unknown type " + std::to_string(vocabulary.types[i]));
    }
  }
  return {};
}

Result<void> add_merges(const GgufVocabulary& vocabulary, TokenizerDefinitionBuilder& builder) {
  for (const std::string_view merge : vocabulary.merges) {
    const std::size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos) {
      return corrupt(vocabulary, "the merge " + unicode::in_quotes(merge) + " is not two tokens with a space between");
    }
    ENGINE_CHECK(builder.add_merge(merge.substr(0, space), merge.substr(space + 1)));
  }
  return {};
}

}  // namespace

Result<TokenizerDefinition> define_tokenizer(const GgufVocabulary& vocabulary) {
  ENGINE_CHECK(check_kind(vocabulary));
  TokenizerDefinitionBuilder builder(vocabulary.file);
  const std::size_t count = used_tokens(vocabulary);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t type = vocabulary.types[i];
    if (type != kControl && type != kUserDefined) continue;
    ENGINE_CHECK(builder.add_added_token(
        {std::string(vocabulary.tokens[i]), static_cast<TokenId>(i), /*special=*/type == kControl, false}));
  }
  ENGINE_CHECK(add_vocabulary(vocabulary, count, builder));
  ENGINE_CHECK(add_merges(vocabulary, builder));
  // Nothing in the file says so, but all tokenizers of this family normalise their text.
  return std::move(builder).finish(/*nfc=*/true);
}

}  // namespace lectern::engine

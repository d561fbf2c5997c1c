// SPDX-License-Identifier: Apache-2.0
#include "engine/tokenizer.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/bpe_tokenizer.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_definition.h"
#include "text/tokenizer_files.h"
#include "text/unicode.h"

namespace lectern::engine {

namespace {

// Longer pieces are cut; only a single "word" of 256 MiB could notice.
constexpr std::size_t kMaxWordBytes = std::size_t{256} << 20;

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(TokenizerDefinition definition)
      : added_(std::move(definition.added)),
        raw_added_(added_, false),
        normalized_added_(added_, true),
        encoder_(definition.byte_tokens, definition.merges),
        nfc_(definition.nfc),
        special_(definition.tokens.size(), false) {
    offsets_.reserve(definition.tokens.size() + 1);
    offsets_.push_back(0);
    for (const std::string& bytes : definition.tokens) {
      bytes_ += bytes;
      offsets_.push_back(bytes_.size());
    }
    for (const AddedToken& token : added_) special_[static_cast<std::size_t>(token.id)] = token.special;
  }

  std::vector<TokenId> encode(std::string_view text, SpecialTokens special) const override {
    std::string repaired;
    if (!unicode::is_valid_utf8(text)) {
      repaired = unicode::replace_invalid_utf8(text);
      text = repaired;
    }
    Encoding encoding;
    if (special == SpecialTokens::kIgnore) {
      encode_words(nfc_ ? unicode::nfc(text) : std::string(text), encoding);
    } else {
      split(raw_added_, text, encoding, [this](std::string_view part, Encoding& out) { encode_raw(part, out); });
    }
    return std::move(encoding.tokens);
  }

  std::string decode(const std::vector<TokenId>& tokens, bool skip_special) const override {
    std::string text;
    for (const TokenId token : tokens) {
      if (!skip_special || !is_special(token)) text += token_bytes(token);
    }
    return text;
  }

  std::string_view token_bytes(TokenId token) const override {
    if (token < 0 || token >= size()) return {};
    const auto id = static_cast<std::size_t>(token);
    return std::string_view(bytes_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
  }

  std::optional<TokenId> find(std::string_view added_token) const override {
    const auto token = std::find_if(added_.begin(), added_.end(),
                                    [added_token](const AddedToken& added) { return added.content == added_token; });
    if (token == added_.end()) return std::nullopt;
    return token->id;
  }

  bool is_special(TokenId token) const override {
    return token >= 0 && token < size() && special_[static_cast<std::size_t>(token)];
  }

  TokenId size() const override { return static_cast<TokenId>(special_.size()); }

 private:
  struct Encoding {
    std::vector<TokenId> tokens;
    BytePairEncoder::Scratch scratch;
  };

  // Emits the tokens `matcher` finds and hands what stands between them to `encode_part`.
  template <class EncodePart>
  static void split(const AddedTokenMatcher& matcher, std::string_view text, Encoding& out, EncodePart encode_part) {
    std::size_t at = 0;
    while (at < text.size()) {
      const AddedTokenMatcher::Match match = matcher.empty() ? AddedTokenMatcher::Match() : matcher.find(text, at);
      const std::size_t end = match ? match.at : text.size();
      if (end > at) encode_part(text.substr(at, end - at), out);
      if (match) out.tokens.push_back(match.id);
      at = end + match.length;
    }
  }

  void encode_raw(std::string_view text, Encoding& out) const {
    const std::string normalised = nfc_ ? unicode::nfc(text) : std::string(text);
    split(normalized_added_, normalised, out, [this](std::string_view part, Encoding& to) { encode_words(part, to); });
  }

  void encode_words(std::string_view text, Encoding& out) const {
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t length = std::min(piece_length(text, at), kMaxWordBytes);
      encoder_.encode(text.substr(at, length), out.scratch, out.tokens);
      at += length;
    }
  }

  std::vector<AddedToken> added_;
  AddedTokenMatcher raw_added_;
  AddedTokenMatcher normalized_added_;
  BytePairEncoder encoder_;
  bool nfc_;
  std::vector<bool> special_;  // by id
  std::string bytes_;          // of all tokens, one after the other
  std::vector<std::size_t> offsets_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_tokenizer(TokenizerDefinition definition) {
  return std::make_unique<BpeTokenizer>(std::move(definition));
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::load(const std::filesystem::path& directory) try {
  ENGINE_TRY(TokenizerDefinition definition, read_tokenizer_files(directory));
  return make_tokenizer(std::move(definition));
} catch (const std::exception&) {
  return Error{ErrorCode::kOutOfMemory,
               "There is not enough memory to load the tokenizer from " + directory.string() + "."};
}

}  // namespace lectern::engine

// SPDX-License-Identifier: Apache-2.0
#include "text/wordpiece.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include "core/json.h"
#include "text/unicode.h"

namespace lectern::engine {
namespace {

constexpr std::size_t kMaxVocabularyBytes = std::size_t{64} << 20;
constexpr std::size_t kMaxVocabularyEntries = std::size_t{1} << 22;
constexpr std::size_t kMaxWordCharacters = 100;  // longer words are unknown as a whole
constexpr std::string_view kContinuation = "##";

bool is_space(char32_t code) {
  if (code == U'\t' || code == U'\n' || code == U'\r') return true;
  const unicode::Category category = unicode::category(code);
  return category == unicode::Category::kZs || category == unicode::Category::kZl || category == unicode::Category::kZp;
}

bool is_removed(char32_t code) {
  if (code == 0xFFFD) return true;
  const unicode::Category category = unicode::category(code);
  return category == unicode::Category::kCc || category == unicode::Category::kCf || category == unicode::Category::kCo;
}

bool is_punctuation(char32_t code) {
  const bool ascii_symbol = (code >= 33 && code <= 47) || (code >= 58 && code <= 64) || (code >= 91 && code <= 96) ||
                            (code >= 123 && code <= 126);
  return ascii_symbol || unicode::is_punctuation(code);
}

// The blocks the reference puts spaces around. The gap before U+2B920 is the reference's.
bool is_ideograph(char32_t code) {
  return (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0x3400 && code <= 0x4DBF) ||
         (code >= 0xF900 && code <= 0xFAFF) || (code >= 0x20000 && code <= 0x2A6DF) ||
         (code >= 0x2A700 && code <= 0x2B81F) || (code >= 0x2B920 && code <= 0x2CEAF) ||
         (code >= 0x2F800 && code <= 0x2FA1F);
}

Error corrupt(const std::string& source, const std::string& what) {
  return {ErrorCode::kCorrupt, source + ": " + what + "; download the model again."};
}

}  // namespace

// Turns the words of one text into token ids until the limit is reached.
class WordPiece::Writer {
 public:
  Writer(const WordPiece& vocabulary, std::size_t max_tokens)
      : vocabulary_(vocabulary), limit_(std::max<std::size_t>(max_tokens, 2) - 1) {
    ids_.push_back(vocabulary_.cls_);
  }

  void add_character(char32_t code) { unicode::append_utf8(word_, code); }

  // The word collected so far, split at punctuation after its accents and case are gone.
  void end_word() {
    if (word_.empty()) return;
    const std::string word = normalise(word_);
    word_.clear();
    std::string part;
    for (std::size_t at = 0; at < word.size();) {
      const unicode::Decoded next = unicode::decode_utf8(word, at);
      const std::string_view character(word.data() + at, next.length);
      at += next.length;
      if (!is_punctuation(next.code)) {
        part += character;
        continue;
      }
      add_pieces(part);
      part.clear();
      add_pieces(character);
    }
    add_pieces(part);
  }

  bool full() const { return ids_.size() >= limit_; }

  std::vector<TokenId> finish() {
    ids_.resize(std::min(ids_.size(), limit_));
    ids_.push_back(vocabulary_.sep_);
    return std::move(ids_);
  }

 private:
  std::string normalise(const std::string& word) const {
    std::string result = word;
    if (vocabulary_.switches_.strip_accents) {
      const std::string decomposed = unicode::nfd(word);
      result.clear();
      for (std::size_t at = 0; at < decomposed.size();) {
        const unicode::Decoded next = unicode::decode_utf8(decomposed, at);
        if (unicode::category(next.code) != unicode::Category::kMn) result.append(decomposed, at, next.length);
        at += next.length;
      }
    }
    return vocabulary_.switches_.lower_case ? unicode::lower_case(result) : result;
  }

  // The longest known pieces from the left; one [UNK] for the whole part if any rest is unknown.
  void add_pieces(std::string_view part) {
    if (part.empty() || full()) return;
    const auto is_start = [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; };
    if (static_cast<std::size_t>(std::count_if(part.begin(), part.end(), is_start)) > kMaxWordCharacters) {
      ids_.push_back(vocabulary_.unknown_);
      return;
    }
    const std::size_t before = ids_.size();
    std::string piece;
    for (std::size_t at = 0; at < part.size();) {
      const std::size_t prefix = at == 0 ? 0 : kContinuation.size();
      piece.assign(kContinuation, 0, prefix);
      piece += part.substr(at, std::min(part.size() - at, vocabulary_.longest_));
      auto found = vocabulary_.ids_.find(piece);
      while (found == vocabulary_.ids_.end() && piece.size() > prefix) {
        piece.pop_back();
        found = vocabulary_.ids_.find(piece);
      }
      if (piece.size() == prefix) {
        ids_.resize(before);
        ids_.push_back(vocabulary_.unknown_);
        return;
      }
      ids_.push_back(found->second);
      at += piece.size() - prefix;
    }
  }

  const WordPiece& vocabulary_;
  std::size_t limit_;  // ids before the closing [SEP]
  std::vector<TokenId> ids_;
  std::string word_;
};

Result<WordPiece> WordPiece::load(const std::filesystem::path& directory) {
  WordPiece result;
  std::error_code ignored;
  const std::filesystem::path list = directory / "vocab.txt";
  if (std::filesystem::exists(list, ignored)) {
    ENGINE_CHECK(result.read_vocabulary_file(list));
    const std::filesystem::path switches = directory / "tokenizer_config.json";
    if (std::filesystem::exists(switches, ignored)) ENGINE_CHECK(result.read_switches(switches));
    ENGINE_CHECK(result.finish("vocab.txt"));
    return result;
  }
  ENGINE_CHECK(result.read_tokenizer_json(directory / "tokenizer.json"));
  ENGINE_CHECK(result.finish("tokenizer.json"));
  return result;
}

Result<void> WordPiece::read_vocabulary_file(const std::filesystem::path& file) {
  ENGINE_TRY(const std::string content, read_text_file(file, kMaxVocabularyBytes));
  if (!unicode::is_valid_utf8(content)) return corrupt("vocab.txt", "the file is not valid UTF-8");
  TokenId line = 0;
  for (std::size_t at = 0; at < content.size(); ++line) {
    std::size_t end = std::min(content.find('\n', at), content.size());
    const std::size_t next = end + 1;
    if (end > at && content[end - 1] == '\r') --end;
    const std::string where = "line " + std::to_string(line + 1);
    if (end == at) return corrupt("vocab.txt", where + " is empty");
    if (ids_.size() >= kMaxVocabularyEntries) return corrupt("vocab.txt", "more than 4 million entries");
    const auto [entry, added] = ids_.emplace(content.substr(at, end - at), line);
    if (!added) return corrupt("vocab.txt", where + " repeats line " + std::to_string(entry->second + 1));
    at = next;
  }
  return {};
}

Result<void> WordPiece::read_switches(const std::filesystem::path& file) {
  ENGINE_TRY(const JsonDocument document, JsonDocument::read(file));
  const JsonValue root = document.root();
  ENGINE_TRY(switches_.lower_case, root.boolean_or("do_lower_case", true));
  ENGINE_TRY(switches_.strip_accents, root.boolean_or("strip_accents", switches_.lower_case));
  ENGINE_TRY(switches_.split_ideographs, root.boolean_or("tokenize_chinese_chars", true));
  return {};
}

Result<void> WordPiece::read_tokenizer_json(const std::filesystem::path& file) {
  ENGINE_TRY(const JsonDocument document, JsonDocument::read(file));
  ENGINE_TRY(const JsonValue model, document.root().need_object("model"));
  ENGINE_TRY(const std::string type, model.string_or("type", "WordPiece"));
  ENGINE_TRY(const std::string prefix, model.string_or("continuing_subword_prefix", kContinuation));
  ENGINE_TRY(const JsonValue normalizer, document.root().need_object("normalizer"));
  ENGINE_TRY(const std::string normalizer_type, normalizer.need_string("type"));
  ENGINE_TRY(const bool clean, normalizer.boolean_or("clean_text", true));
  if (type != "WordPiece" || prefix != kContinuation || normalizer_type != "BertNormalizer" || !clean) {
    return Error{ErrorCode::kUnsupported,
                 "tokenizer.json: only WordPiece with \"##\" and the BERT normalizer is supported; use a BERT model."};
  }
  ENGINE_TRY(switches_.lower_case, normalizer.boolean_or("lowercase", true));
  ENGINE_TRY(switches_.strip_accents, normalizer.boolean_or("strip_accents", switches_.lower_case));
  ENGINE_TRY(switches_.split_ideographs, normalizer.boolean_or("handle_chinese_chars", true));

  ENGINE_TRY(const JsonValue vocabulary, model.need_object("vocab"));
  std::vector<bool> seen(vocabulary.size());
  for (const auto& [token, value] : vocabulary.members()) {
    const std::optional<std::int64_t> id = value.integer();
    if (!id || *id < 0 || static_cast<std::size_t>(*id) >= seen.size() || seen[static_cast<std::size_t>(*id)]) {
      return value.error("token ids must be the numbers from 0 to the vocabulary size, each once");
    }
    seen[static_cast<std::size_t>(*id)] = true;
    ids_.emplace(token, static_cast<TokenId>(*id));
  }
  return {};
}

Result<void> WordPiece::finish(const std::string& source) {
  const std::pair<const char*, TokenId*> needed[] = {{"[CLS]", &cls_}, {"[SEP]", &sep_}, {"[UNK]", &unknown_}};
  for (const auto& [token, id] : needed) {
    const auto found = ids_.find(std::string_view(token));
    if (found == ids_.end()) return corrupt(source, std::string("the token ") + token + " is missing");
    *id = found->second;
  }
  for (const auto& [token, id] : ids_) longest_ = std::max(longest_, token.size());
  return {};
}

std::vector<TokenId> WordPiece::encode(std::string_view text, std::size_t max_tokens) const {
  Writer writer(*this, max_tokens);
  for (std::size_t at = 0; at < text.size() && !writer.full();) {
    const unicode::Decoded next = unicode::decode_utf8(text, at);
    at += next.length;
    if (is_space(next.code)) {
      writer.end_word();
    } else if (switches_.split_ideographs && is_ideograph(next.code)) {
      writer.end_word();
      writer.add_character(next.code);
      writer.end_word();
    } else if (!is_removed(next.code)) {
      writer.add_character(next.code);
    }
  }
  writer.end_word();
  return writer.finish();
}

}  // namespace lectern::engine

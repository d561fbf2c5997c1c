// SPDX-License-Identifier: GPL-3.0-or-later
#include "answer/pack.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "answer/matching.h"

namespace lectern::retrieval {
namespace {

constexpr std::string_view kPassages = "{passages}";

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text) {
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    if (!space) {
      line += c;
    } else if (!line.empty() && line.back() != ' ') {
      line += ' ';
    }
  }
  while (line.ends_with(' ')) line.pop_back();
  return line;
}

// "[12]", "[3, 4]" and "[5-7]", but not "[sic]".
void round_reference_brackets(std::string& text) {
  for (std::size_t open = text.find('['); open != std::string::npos; open = text.find('[', open + 1)) {
    const std::size_t close = text.find_first_not_of("0123456789 ,;-", open + 1);
    if (close == std::string::npos || text[close] != ']' || !is_digit(text[open + 1])) continue;
    text[open] = '(';
    text[close] = ')';
  }
}

std::string replaced(std::string_view form, const std::vector<std::pair<std::string_view, std::string_view>>& values) {
  std::string result;
  for (std::size_t i = 0; i < form.size();) {
    const auto value = std::ranges::find_if(values, [&](const auto& v) { return form.substr(i).starts_with(v.first); });
    if (value == values.end()) {
      result += form[i++];
    } else {
      result += value->second;  // never looked at again: a document may hold "{question}"
      i += value->first.size();
    }
  }
  return result;
}

class Packer {
 public:
  Packer(Generator& generator, const PromptProfile& profile, const std::vector<SearchHit>& ranked,
         const std::vector<std::string>& texts, const std::string& question)
      : generator_(generator), profile_(profile), ranked_(ranked), texts_(texts), question_(question) {}

  // The best `count` passages.
  Result<PackedPrompt> prompt(std::size_t count) const {
    std::vector<std::size_t> order(count);
    for (std::size_t i = 0; i < count; ++i) order[i] = i;
    std::ranges::sort(order, {}, [&](std::size_t i) { return std::tuple(ranked_[i].document, ranked_[i].chunk); });
    PackedPrompt packed;
    std::string passages;
    std::vector<std::int64_t> ends;
    for (const std::size_t i : order) {
      packed.context.passages.push_back(ranked_[i]);
      if (!passages.empty()) passages += "\n\n";
      passages += '[';
      passages += std::to_string(packed.context.passages.size());
      passages += "] ";
      passages += texts_[i];
      ends.push_back(static_cast<std::int64_t>(passages.size()));
    }
    if (!profile_.system.empty()) packed.messages.push_back({"system", profile_.system});
    packed.messages.push_back({"user", filled(profile_.user, passages)});
    const std::size_t place = profile_.user.find(kPassages);
    if (place != std::string::npos) {
      const auto before = static_cast<std::int64_t>(filled(profile_.user.substr(0, place), passages).size());
      for (const std::int64_t end : ends) packed.messages.back().boundaries.push_back(before + end);
    }
    packed.context.passages_left_out = static_cast<std::int64_t>(ranked_.size() - count);
    packed.context.context_tokens = generator_.context_tokens();
    RETRIEVAL_TRY(packed.context.prompt_tokens, generator_.count_tokens(packed.messages));
    return packed;
  }

 private:
  std::string filled(std::string_view form, const std::string& passages) const {
    return replaced(form, {{kPassages, passages}, {"{question}", question_}});
  }

  Generator& generator_;
  const PromptProfile& profile_;
  const std::vector<SearchHit>& ranked_;
  const std::vector<std::string>& texts_;  // of ranked_
  const std::string& question_;
};

Result<std::vector<std::string>> prompt_texts(const Library& library, const std::vector<SearchHit>& ranked) {
  std::map<DocumentId, DocumentKind> kinds;
  std::vector<std::string> texts;
  for (const SearchHit& hit : ranked) {
    if (!kinds.contains(hit.document)) {
      RETRIEVAL_TRY(const DocumentInfo info, library.document(hit.document));
      kinds[hit.document] = info.kind;
    }
    texts.push_back(prompt_text(hit, kinds[hit.document]));
  }
  return texts;
}

}  // namespace

std::vector<SearchHit> distinct(std::vector<SearchHit> ranked, std::size_t limit) {
  std::vector<SearchHit> kept;
  for (SearchHit& hit : ranked) {
    if (kept.size() == limit) break;
    const bool repeats =
        std::ranges::any_of(kept, [&](const SearchHit& other) { return nearly_equal(hit.text, other.text); });
    if (!repeats) kept.push_back(std::move(hit));
  }
  return kept;
}

std::string prompt_text(const SearchHit& passage, DocumentKind kind) {
  if (kind == DocumentKind::kCode) {
    std::string text = passage.path.filename().string() + " lines " + std::to_string(passage.first_line) + "-" +
                       std::to_string(passage.last_line);
    if (!passage.heading.empty()) text += " (" + one_line(passage.heading) + ")";
    return text + ":\n" + passage.text;
  }
  // A fenced block in Markdown is code too.
  std::string text = passage.text.find("```") == std::string::npos ? one_line(passage.text) : passage.text;
  round_reference_brackets(text);
  return text;
}

Result<PackedPrompt> pack(const Library& library, Generator& generator, const PromptProfile& profile,
                          const std::vector<SearchHit>& ranked, const std::string& question, std::int64_t new_tokens) {
  RETRIEVAL_TRY(const std::vector<std::string> texts, prompt_texts(library, ranked));
  const Packer packer(generator, profile, ranked, texts, question);
  const std::int64_t budget = generator.context_tokens() - new_tokens;
  RETRIEVAL_TRY(PackedPrompt best, packer.prompt(ranked.size()));
  if (best.context.prompt_tokens <= budget) return best;

  std::size_t fits = 0;
  std::size_t too_many = ranked.size();
  std::int64_t smallest = best.context.prompt_tokens;
  while (too_many - fits > 1) {
    const std::size_t middle = (fits + too_many) / 2;
    RETRIEVAL_TRY(PackedPrompt tried, packer.prompt(middle));
    if (tried.context.prompt_tokens <= budget) {
      fits = middle;
      best = std::move(tried);
    } else {
      too_many = middle;
      smallest = tried.context.prompt_tokens;
    }
  }
  if (fits > 0) return best;
  return Error{ErrorCode::kTooLarge, "The question and one passage are " + std::to_string(smallest) +
                                         " tokens, but the model's context of " +
                                         std::to_string(generator.context_tokens()) + " tokens leaves room for " +
                                         std::to_string(budget) + "; ask more briefly or for a shorter answer."};
}

}  // namespace lectern::retrieval

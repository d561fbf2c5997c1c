// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <string>
#include <vector>

#include "retrieval/answer.h"

namespace lectern::retrieval {

// Hits in rank order without those that say the same as a better one, at most `limit`.
std::vector<SearchHit> distinct(std::vector<SearchHit> ranked, std::size_t limit);

// A passage as the model reads it. Prose is one line; code keeps its lines below one that names file and lines. In
// prose "[12]" becomes "(12)", so that a document's own references are not taken for marks.
std::string prompt_text(const SearchHit& passage, DocumentKind kind);

struct PackedPrompt {
  std::vector<ChatMessage> messages;
  ContextReport context;
};

// As many of the ranked passages, best first, as fit into the model's context beside `new_tokens` of answer; in the
// prompt they stand by document and position, so that the same documents give the same beginning.
// Errors: kTooLarge when not even the best one fits, kGenerator, kStorage.
Result<PackedPrompt> pack(const Library& library, Generator& generator, const PromptProfile& profile,
                          const std::vector<SearchHit>& ranked, const std::string& question, std::int64_t new_tokens);

}  // namespace lectern::retrieval

// SPDX-License-Identifier: Apache-2.0
#include "runtime/session_disk.h"

#include <algorithm>
#include <utility>

namespace lectern::engine {
namespace {

constexpr std::size_t kMostPrompts = 16;  // more are not read at the same time; what was cancelled stays until then

bool begins_with(const std::vector<TokenId>& tokens, const std::vector<TokenId>& beginning) {
  return beginning.size() <= tokens.size() && std::equal(beginning.begin(), beginning.end(), tokens.begin());
}

// Of the longest of that role, `names` being sorted by it; 0: there is none.
std::int64_t longest_of(const std::vector<SessionName>& names, SessionRole role) {
  const auto found = std::find_if(names.begin(), names.end(), [role](const auto& name) { return name.role == role; });
  return found == names.end() ? 0 : found->tokens;
}

// Whether another file serves those who begin like `tip` and then differ from what goes on from it.
bool replaceable(const SessionName& tip, const std::vector<SessionName>& stored) {
  return std::any_of(stored.begin(), stored.end(), [&tip](const SessionName& other) {
    return other.role == SessionRole::kStem && other.tokens <= tip.tokens && 4 * other.tokens >= 3 * tip.tokens;
  });
}

}  // namespace

SessionName SessionDisk::name_of(const SequenceSnapshot& snapshot, SessionRole role) const {
  return {kind_of(snapshot.state.options()), static_cast<std::int64_t>(snapshot.tokens.size()),
          sum_of_tokens(snapshot.tokens), role};
}

void SessionDisk::expect(std::span<const TokenId> prompt, const SequenceOptions& options) {
  auto opened = std::make_shared<Prompt>();
  opened->tokens.assign(prompt.begin(), prompt.end());
  opened->kind = kind_of(options);
  const std::lock_guard lock(prompts_mutex_);
  prompts_.remove_if(
      [&opened](const auto& other) { return other->kind == opened->kind && other->tokens == opened->tokens; });
  prompts_.push_back(std::move(opened));
  if (prompts_.size() > kMostPrompts) prompts_.pop_front();
}

std::optional<SequenceSnapshot> SessionDisk::read(std::span<const TokenId> tokens, std::int64_t longer_than,
                                                  const SequenceOptions& options) const {
  const SessionKind kind = {fingerprint_, options};
  for (const SessionName& name : directory_.beginnings(tokens, sum_of_kind(kind))) {
    if (name.tokens <= longer_than) return std::nullopt;
    const FileHandle file = directory_.use(name);
    if (!file.open()) continue;
    auto snapshot = read_session(file.get(), tokens.first(static_cast<std::size_t>(name.tokens)), kind, scheduler_);
    if (snapshot.ok()) return std::move(snapshot).value();
    if (snapshot.error().code != ErrorCode::kOutOfMemory) directory_.remove(name);
  }
  return std::nullopt;
}

void SessionDisk::touch(const SequenceSnapshot& snapshot) const {
  for (const SessionRole role : {SessionRole::kTip, SessionRole::kStem}) directory_.touch(name_of(snapshot, role));
}

// The prompt that the snapshot is of: the longest one that has been read to its end, which closes it, or else one that
// is still being read.
std::shared_ptr<SessionDisk::Prompt> SessionDisk::prompt_of(const SequenceSnapshot& snapshot) {
  const std::uint64_t kind = kind_of(snapshot.state.options());
  const std::lock_guard lock(prompts_mutex_);
  auto best = prompts_.end();
  for (auto prompt = prompts_.begin(); prompt != prompts_.end(); ++prompt) {
    const bool longer = best == prompts_.end() || (*prompt)->tokens.size() > (*best)->tokens.size();
    if ((*prompt)->kind == kind && longer && begins_with(snapshot.tokens, (*prompt)->tokens)) best = prompt;
  }
  if (best != prompts_.end()) {
    std::shared_ptr<Prompt> ended = *best;
    prompts_.erase(best);
    return ended;
  }
  best = std::find_if(prompts_.begin(), prompts_.end(), [&](const auto& prompt) {
    return prompt->kind == kind && begins_with(prompt->tokens, snapshot.tokens);
  });
  return best == prompts_.end() ? nullptr : *best;
}

void SessionDisk::store(const SequenceSnapshot& snapshot) {
  const std::lock_guard lock(writing_);
  const std::shared_ptr<Prompt> prompt = prompt_of(snapshot);
  if (prompt && prompt->tokens.size() > snapshot.tokens.size()) return store_checkpoint(snapshot, *prompt);
  store_end(snapshot);
  if (prompt) forget_on_the_way(*prompt);
}

void SessionDisk::store_checkpoint(const SequenceSnapshot& snapshot, Prompt& prompt) {
  const std::vector<SessionName> stored = directory_.beginnings(snapshot.tokens, prompt.kind);
  const auto length = static_cast<std::int64_t>(snapshot.tokens.size());
  const std::int64_t known = stored.empty() ? 0 : stored.front().tokens;
  const bool last =
      (length / checkpoint_tokens_ + 1) * checkpoint_tokens_ >= static_cast<std::int64_t>(prompt.tokens.size());
  if (last && 4 * length >= 5 * longest_of(stored, SessionRole::kStem) && 4 * (length - known) >= checkpoint_tokens_) {
    if (write(snapshot, SessionRole::kStem)) forget_on_the_way(prompt);
  } else if (length >= 2 * known && length - known >= checkpoint_tokens_) {
    if (!write(snapshot, SessionRole::kTip)) return;
    forget_on_the_way(prompt);
    prompt.on_the_way = name_of(snapshot, SessionRole::kTip);
  }
}

void SessionDisk::store_end(const SequenceSnapshot& snapshot) {
  const SessionName name = name_of(snapshot, SessionRole::kTip);
  const std::vector<SessionName> stored = directory_.beginnings(snapshot.tokens, name.kind);
  if (!stored.empty() && stored.front().tokens == name.tokens) return touch(snapshot);
  if (!write(snapshot, SessionRole::kTip)) return;
  for (const SessionName& older : stored) {
    if (older.role == SessionRole::kTip && replaceable(older, stored)) directory_.remove(older);
  }
}

void SessionDisk::forget_on_the_way(Prompt& prompt) {
  if (prompt.on_the_way) directory_.remove(*prompt.on_the_way);
  prompt.on_the_way.reset();
}

bool SessionDisk::write(const SequenceSnapshot& snapshot, SessionRole role) {
  const Result<std::int64_t> bytes = session_file_bytes(snapshot, scheduler_);
  if (!bytes.ok() || !directory_.make_room(*bytes)) return false;
  DurableFile file = directory_.create(name_of(snapshot, role));
  return file.open() && write_session(file.descriptor(), snapshot, fingerprint_, scheduler_).ok() && file.commit();
}

}  // namespace lectern::engine

// SPDX-License-Identifier: Apache-2.0
#include "runtime/session_memory.h"

#include <algorithm>
#include <utility>

namespace lectern::engine {
namespace {

std::int64_t bytes_of(const SequenceSnapshot& snapshot) {
  const std::size_t numbers = snapshot.tokens.size() * sizeof(TokenId) + snapshot.hidden.size() * sizeof(float);
  return snapshot.state.bytes() + static_cast<std::int64_t>(numbers);
}

}  // namespace

bool same_reading(const SequenceOptions& a, const SequenceOptions& b) {
  if (a.kv != b.kv || a.with_mtp != b.with_mtp) return false;
  if (a.yarn.factor <= 1 && b.yarn.factor <= 1) return true;
  return a.yarn.factor == b.yarn.factor && a.yarn.original_context == b.yarn.original_context &&
         a.yarn.beta_fast == b.yarn.beta_fast && a.yarn.beta_slow == b.yarn.beta_slow &&
         a.yarn.attention_factor == b.yarn.attention_factor;
}

bool SessionMemory::begins(const Session& session, std::span<const TokenId> tokens, const SequenceOptions& options) {
  const std::vector<TokenId>& own = session.snapshot->tokens;
  return own.size() < tokens.size() && same_reading(session.snapshot->state.options(), options) &&
         std::equal(own.begin(), own.end(), tokens.begin());
}

std::int64_t SessionMemory::charge(const Session& session) {
  const std::int64_t shared = session.beginning != nullptr ? session.beginning->kv_bytes : 0;
  return session.bytes - std::min(shared, session.kv_bytes);
}

std::int64_t SessionMemory::bytes() const {
  std::int64_t total = 0;
  for (const auto& session : sessions_) total += charge(*session);
  return total;
}

std::shared_ptr<const SequenceSnapshot> SessionMemory::longest(std::span<const TokenId> tokens,
                                                               const SequenceOptions& options) {
  Session* best = nullptr;
  for (const auto& session : sessions_) {
    const bool longer = best == nullptr || session->snapshot->tokens.size() > best->snapshot->tokens.size();
    if (longer && begins(*session, tokens, options)) best = session.get();
  }
  if (best == nullptr) return nullptr;
  best->last_use = ++uses_;
  return best->snapshot;
}

void SessionMemory::keep(std::shared_ptr<const SequenceSnapshot> snapshot) {
  auto added = std::make_unique<Session>();
  added->bytes = bytes_of(*snapshot);
  added->kv_bytes = snapshot->state.kv_bytes();
  added->last_use = ++uses_;
  added->snapshot = std::move(snapshot);
  if (added->bytes > most_bytes_) return;
  const std::vector<TokenId>& tokens = added->snapshot->tokens;
  const SequenceOptions& options = added->snapshot->state.options();
  const auto same = std::find_if(sessions_.begin(), sessions_.end(), [&](const auto& session) {
    return session->snapshot->tokens == tokens && same_reading(session->snapshot->state.options(), options);
  });
  if (same != sessions_.end()) drop(same->get());
  for (const auto& session : sessions_) {
    const bool longer =
        added->beginning == nullptr || session->snapshot->tokens.size() > added->beginning->snapshot->tokens.size();
    if (longer && begins(*session, tokens, options)) added->beginning = session.get();
  }
  for (const auto& session : sessions_) {
    const SequenceSnapshot& other = *session->snapshot;
    if (session->beginning == added->beginning && begins(*added, other.tokens, other.state.options())) {
      session->beginning = added.get();
    }
  }
  sessions_.push_back(std::move(added));
  while (bytes() > most_bytes_) {
    drop(std::min_element(sessions_.begin(), sessions_.end(), [](const auto& a, const auto& b) {
           return a->last_use < b->last_use;
         })->get());
  }
}

void SessionMemory::drop(const Session* session) {
  for (const auto& other : sessions_) {
    if (other->beginning == session) other->beginning = session->beginning;
  }
  std::erase_if(sessions_, [session](const auto& other) { return other.get() == session; });
}

}  // namespace lectern::engine

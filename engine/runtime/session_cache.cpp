// SPDX-License-Identifier: Apache-2.0
#include "runtime/session_cache.h"

#include <algorithm>
#include <cstddef>
#include <exception>
#include <mutex>
#include <utility>

#include "core/checksum.h"
#include "runtime/session_directory.h"
#include "runtime/session_disk.h"
#include "runtime/session_memory.h"

namespace lectern::engine {

struct SessionCache::Contents {
  Contents(PassScheduler& passes, const std::string& fingerprint, const SessionOptions& options)
      : scheduler(passes), enabled(options.memory_bytes > 0), memory(options.memory_bytes) {
    if (!enabled || options.directory.empty()) return;
    auto directory = SessionDirectory::open(options.directory, options.disk_bytes);
    if (!directory) return;
    disk.emplace(std::move(*directory), scheduler, checksum(std::as_bytes(std::span(fingerprint))),
                 std::max<std::int64_t>(1, options.checkpoint_tokens));
  }

  std::shared_ptr<const SequenceSnapshot> longest(std::span<const TokenId> prompt, const SequenceOptions& options);

  void keep(const std::shared_ptr<const SequenceSnapshot>& snapshot) {
    const std::lock_guard lock(mutex);
    memory.keep(snapshot);
  }

  PassScheduler& scheduler;
  const bool enabled;
  std::optional<SessionDisk> disk;
  mutable std::mutex mutex;
  SessionMemory memory;  // under mutex
};

std::shared_ptr<const SequenceSnapshot> SessionCache::Contents::longest(std::span<const TokenId> prompt,
                                                                        const SequenceOptions& options) {
  std::shared_ptr<const SequenceSnapshot> known;
  {
    const std::lock_guard lock(mutex);
    known = memory.longest(prompt, options);
  }
  if (!disk) return known;
  disk->expect(prompt, options);
  const std::size_t most = std::max<std::size_t>(1, prompt.size()) - 1;
  const auto known_tokens = known ? static_cast<std::int64_t>(known->tokens.size()) : 0;
  std::optional<SequenceSnapshot> stored = disk->read(prompt.first(most), known_tokens, options);
  if (!stored) {
    if (known) disk->touch(*known);
    return known;
  }
  known = std::make_shared<const SequenceSnapshot>(std::move(*stored));
  keep(known);
  return known;
}

SessionCache::SessionCache(PassScheduler& scheduler, const std::string& fingerprint, const SessionOptions& options)
    : contents_(std::make_unique<Contents>(scheduler, fingerprint, options)) {}

SessionCache::~SessionCache() = default;

std::optional<SequenceSnapshot> SessionCache::find(std::span<const TokenId> prompt, const SequenceOptions& options) {
  if (!contents_->enabled) return std::nullopt;
  try {
    PassScheduler& scheduler = contents_->scheduler;
    const auto known = contents_->longest(prompt, scheduler.model().options_of_sequence(options));
    if (!known) return std::nullopt;
    Result<SequenceState> state = scheduler.exclusively([&](Transformer& model) { return model.fork(known->state); });
    if (!state.ok()) return std::nullopt;
    return SequenceSnapshot{known->tokens, std::move(state).value(), known->hidden};
  } catch (const std::exception&) {  // no memory: the prompt is read anew
    return std::nullopt;
  }
}

void SessionCache::store(SequenceSnapshot snapshot) {
  if (!contents_->enabled || snapshot.tokens.empty()) return;
  try {
    const auto kept = std::make_shared<const SequenceSnapshot>(std::move(snapshot));
    contents_->keep(kept);
    if (contents_->disk) contents_->disk->store(*kept);
  } catch (const std::exception&) {
    return;  // no memory: it is not kept
  }
}

std::int64_t SessionCache::bytes_in_memory() const {
  const std::lock_guard lock(contents_->mutex);
  return contents_->memory.bytes();
}

std::int64_t SessionCache::bytes_on_disk() const { return contents_->disk ? contents_->disk->bytes() : 0; }

}  // namespace lectern::engine

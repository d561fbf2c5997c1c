// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "engine/types.h"
#include "runtime/pass_scheduler.h"
#include "runtime/session_directory.h"
#include "runtime/session_file.h"
#include "runtime/transformer_sequence.h"

namespace lectern::engine {

// Decides which sequences are written to the disk, and reads them again. Any thread.
//
// Writing every checkpoint of a long text would cost the square of its length. Written are:
// - the end of a reply, as a tip: a conversation goes on from there. It replaces older tips that it goes on from where
//   a stem nearly as long can serve whoever else begins like them;
// - of a prompt the last checkpoint before its end, as a stem, unless one nearly as long is there: other questions
// about
//   the same text begin like it;
// - on the way there every checkpoint that has at least doubled what is on the disk, each in place of the one before,
//   so that a crash costs at most half of the reading.
class SessionDisk {
 public:
  // `checkpoint_tokens`: how far apart the checkpoints of a prompt are, those at the ends of turns aside.
  SessionDisk(SessionDirectory directory, PassScheduler& scheduler, std::uint64_t fingerprint,
              std::int64_t checkpoint_tokens)
      : directory_(std::move(directory)),
        scheduler_(scheduler),
        fingerprint_(fingerprint),
        checkpoint_tokens_(checkpoint_tokens) {}

  // That `prompt` is going to be read.
  void expect(std::span<const TokenId> prompt, const SequenceOptions& options);

  // The longest stored beginning of `tokens` that has more than `longer_than` tokens. Files that are not what their
  // names say are deleted.
  std::optional<SequenceSnapshot> read(std::span<const TokenId> tokens, std::int64_t longer_than,
                                       const SequenceOptions& options) const;

  void store(const SequenceSnapshot& snapshot);
  // That the sequence was used, though from elsewhere.
  void touch(const SequenceSnapshot& snapshot) const;

  std::int64_t bytes() const { return directory_.bytes(); }

 private:
  // A prompt whose reply has not ended.
  struct Prompt {
    std::vector<TokenId> tokens;
    std::uint64_t kind = 0;
    std::optional<SessionName> on_the_way;  // written in case of a crash only; under writing_
  };

  std::uint64_t kind_of(const SequenceOptions& options) const { return sum_of_kind({fingerprint_, options}); }
  SessionName name_of(const SequenceSnapshot& snapshot, SessionRole role) const;
  std::shared_ptr<Prompt> prompt_of(const SequenceSnapshot& snapshot);
  void store_checkpoint(const SequenceSnapshot& snapshot, Prompt& prompt);
  void store_end(const SequenceSnapshot& snapshot);
  bool write(const SequenceSnapshot& snapshot, SessionRole role);
  void forget_on_the_way(Prompt& prompt);

  SessionDirectory directory_;
  PassScheduler& scheduler_;
  const std::uint64_t fingerprint_;
  const std::int64_t checkpoint_tokens_;
  std::mutex writing_;  // one file at a time
  std::mutex prompts_mutex_;
  std::list<std::shared_ptr<Prompt>> prompts_;  // under prompts_mutex_, the oldest first
};

}  // namespace lectern::engine

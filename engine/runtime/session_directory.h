// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/durable_file.h"
#include "engine/types.h"
#include "runtime/session_file.h"

namespace lectern::engine {

// What becomes of a stored sequence when one that goes on from it is stored.
enum class SessionRole : std::uint8_t {
  kTip,   // the end so far: it may go, its continuation serves in its place
  kStem,  // the beginning of other sequences as well: it stays
};

// One stored sequence; which one, its name says, so that finding it opens no file.
struct SessionName {
  std::uint64_t kind = 0;  // sum_of_kind()
  std::int64_t tokens = 0;
  std::uint64_t tokens_sum = 0;
  SessionRole role = SessionRole::kTip;

  std::string file_name() const;
  static std::optional<SessionName> parse(const std::string& file_name);
  bool operator==(const SessionName&) const = default;
};

// The files of stored sequences in a directory, which several programs may share: every call looks anew, files that
// vanish meanwhile are as if they had never been, and files of other names are left alone. Documents are confidential:
// the directory is made for its owner alone (0700), files too (0600); files of other owners and links are not used.
// When room is short, the files used longest ago go first, by their modification times.
class SessionDirectory {
 public:
  // Nothing when `path` is no directory, is a link or of another owner, and cannot be made.
  static std::optional<SessionDirectory> open(const std::filesystem::path& path, std::int64_t most_bytes);

  // The stored beginnings of `tokens`, at most all of them, longest first.
  std::vector<SessionName> beginnings(std::span<const TokenId> tokens, std::uint64_t kind) const;

  // A file to read, which now counts as used.
  FileHandle use(const SessionName& name) const;
  void touch(const SessionName& name) const;
  void remove(const SessionName& name) const;

  // Makes room for `bytes`; false: there never will be.
  bool make_room(std::int64_t bytes) const;
  std::int64_t bytes() const;

  // A new file of that name, to be written and committed.
  DurableFile create(const SessionName& name) const;

 private:
  struct Stored {
    SessionName name;
    std::int64_t bytes = 0;
    std::int64_t last_use = 0;  // ns
  };

  SessionDirectory(FileHandle directory, std::int64_t most_bytes)
      : directory_(std::move(directory)), most_bytes_(most_bytes) {}
  std::vector<std::string> file_names() const;
  std::vector<Stored> files() const;
  void remove_remains() const;

  FileHandle directory_;
  std::int64_t most_bytes_;
};

}  // namespace lectern::engine

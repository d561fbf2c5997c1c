// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace lectern::retrieval {

// The ignore files of one directory walk: .gitignore, and .lecternignore for what only Lectern shall leave out. All
// paths are relative to the walked root with '/' between names and none at either end; "" is the root itself. Add a
// directory's file before asking about anything below it.
class IgnoreRules {
 public:
  // `text` is the content of an ignore file that stands in `directory`.
  void add(std::string_view directory, std::string_view text);

  // Reads both ignore files of `directory_path` and adds them for `directory`. Only regular files of at most 1 MiB
  // count: links are not followed and nothing blocks. A missing or unreadable file adds nothing.
  void add_file(const std::filesystem::path& directory_path, std::string_view directory);

  // The last matching rule decides, and what lies below an ignored directory is ignored whatever later rules say.
  bool ignored(std::string_view path, bool is_directory) const;

 private:
  struct Rule {
    std::string directory;              // where its file stands
    std::vector<std::string> segments;  // pattern split at '/'; "**" spans any number of directories
    bool negated = false;
    bool directories_only = false;
  };

  bool matches_last(std::string_view path, bool is_directory) const;

  std::vector<Rule> rules_;
};

}  // namespace lectern::retrieval

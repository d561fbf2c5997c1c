// SPDX-License-Identifier: GPL-3.0-or-later
#include "ignore_rules.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <utility>

namespace lectern::retrieval {
namespace {

constexpr std::size_t kLargestFile = 1U << 20;
constexpr std::size_t kLongestPattern = 1024;
constexpr std::size_t kMostRules = 10'000;

std::vector<std::string> split_path(std::string_view path) {
  std::vector<std::string> parts;
  while (!path.empty()) {
    const std::size_t slash = path.find('/');
    if (slash != 0) parts.emplace_back(path.substr(0, slash));
    if (slash == std::string_view::npos) break;
    path.remove_prefix(slash + 1);
  }
  return parts;
}

// Trailing spaces do not count unless a backslash protects the first of them.
std::string_view without_trailing_spaces(std::string_view line) {
  while (line.ends_with(' ') && !line.ends_with("\\ ")) line.remove_suffix(1);
  return line;
}

// Tests `c` against the bracket expression that starts at pattern[at] == '['; sets `at` behind its ']'. A bracket that
// is never closed stands for itself.
bool bracket_matches(std::string_view pattern, std::size_t& at, char c) {
  std::size_t i = at + 1;
  const bool negated = i < pattern.size() && (pattern[i] == '!' || pattern[i] == '^');
  if (negated) ++i;
  const std::size_t first = i;
  bool found = false;
  for (; i < pattern.size() && (pattern[i] != ']' || i == first); ++i) {
    if (pattern[i] == '\\' && i + 1 < pattern.size()) ++i;
    const char low = pattern[i];
    char high = low;
    if (i + 2 < pattern.size() && pattern[i + 1] == '-' && pattern[i + 2] != ']') {
      high = pattern[i + 2];
      i += 2;
    }
    found = found || (low <= c && c <= high);
  }
  if (i >= pattern.size()) {
    ++at;
    return c == '[';
  }
  at = i + 1;
  return found != negated;
}

// One pattern element other than '*' against one character; moves `at` behind the element.
bool element_matches(std::string_view pattern, std::size_t& at, char c) {
  if (pattern[at] == '[') return bracket_matches(pattern, at, c);
  if (pattern[at] == '?') {
    ++at;
    return true;
  }
  if (pattern[at] == '\\' && at + 1 < pattern.size()) ++at;
  return pattern[at++] == c;
}

// Shell pattern against one path segment. Remembering only the last '*' keeps it at most quadratic.
bool segment_matches(std::string_view pattern, std::string_view name) {
  std::size_t p = 0, n = 0;
  std::size_t star = std::string_view::npos, star_name = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_name = n;
      continue;
    }
    std::size_t next = p;
    if (p < pattern.size() && element_matches(pattern, next, name[n])) {
      p = next;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++star_name;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

// The same with "**" for any number of segments. A trailing "**" needs at least one.
bool path_matches(const std::vector<std::string>& pattern, const std::vector<std::string>& path) {
  std::size_t p = 0, n = 0;
  std::size_t star = std::string::npos, star_path = 0;
  while (n < path.size()) {
    if (p < pattern.size() && pattern[p] == "**") {
      if (p + 1 == pattern.size()) return true;
      star = p++;
      star_path = n;
    } else if (p < pattern.size() && segment_matches(pattern[p], path[n])) {
      ++p;
      ++n;
    } else if (star != std::string::npos) {
      p = star + 1;
      n = ++star_path;
    } else {
      return false;
    }
  }
  return p == pattern.size();
}

// Empty when it is missing, unreadable, too large or no regular file.
std::string read_small_file(const std::filesystem::path& file) {
  std::string text;
  const int descriptor = open(file.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | O_NOFOLLOW);
  if (descriptor < 0) return text;
  struct stat status {};
  if (fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0 &&
      static_cast<std::size_t>(status.st_size) <= kLargestFile) {
    text.resize(static_cast<std::size_t>(status.st_size));
    const ssize_t got = pread(descriptor, text.data(), text.size(), 0);
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  }
  close(descriptor);
  return text;
}

// `path` below `directory`, or false when it stands elsewhere.
bool path_below(std::string_view path, std::string_view directory, std::string_view& below) {
  if (directory.empty()) {
    below = path;
    return true;
  }
  if (path.size() <= directory.size() || !path.starts_with(directory) || path[directory.size()] != '/') return false;
  below = path.substr(directory.size() + 1);
  return true;
}

}  // namespace

void IgnoreRules::add(std::string_view directory, std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  while (!text.empty() && rules_.size() < kMostRules) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    line = without_trailing_spaces(line);
    if (line.empty() || line.starts_with('#') || line.size() > kLongestPattern) continue;
    Rule rule;
    rule.directory = directory;
    rule.negated = line.starts_with('!');
    if (rule.negated) line.remove_prefix(1);
    rule.directories_only = line.ends_with('/');
    while (line.ends_with('/')) line.remove_suffix(1);
    const bool anchored = line.find('/') != std::string_view::npos;
    rule.segments = split_path(line);
    if (rule.segments.empty()) continue;
    if (!anchored) rule.segments.insert(rule.segments.begin(), "**");
    rules_.push_back(std::move(rule));
  }
}

void IgnoreRules::add_file(const std::filesystem::path& directory_path, std::string_view directory) {
  for (const char* name : {".gitignore", ".lecternignore"}) add(directory, read_small_file(directory_path / name));
}

bool IgnoreRules::ignored(std::string_view path, bool is_directory) const {
  for (std::size_t slash = path.find('/'); slash != std::string_view::npos; slash = path.find('/', slash + 1)) {
    if (matches_last(path.substr(0, slash), true)) return true;
  }
  return matches_last(path, is_directory);
}

bool IgnoreRules::matches_last(std::string_view path, bool is_directory) const {
  for (auto rule = rules_.rbegin(); rule != rules_.rend(); ++rule) {
    std::string_view below;
    if (rule->directories_only && !is_directory) continue;
    if (!path_below(path, rule->directory, below)) continue;
    if (path_matches(rule->segments, split_path(below))) return !rule->negated;
  }
  return false;
}

}  // namespace lectern::retrieval

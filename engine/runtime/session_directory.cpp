// SPDX-License-Identifier: Apache-2.0
#include "runtime/session_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <map>
#include <memory>
#include <system_error>
#include <utility>

#include "core/checksum.h"

namespace lectern::engine {
namespace {

constexpr std::string_view kPrefix = "lectern-";
constexpr std::string_view kTip = ".tip";
constexpr std::string_view kStem = ".stem";
constexpr const char* kTemporary = ".unfinished-";
constexpr std::int64_t kNanoseconds = 1'000'000'000;
constexpr std::int64_t kAbandoned = 3600 * kNanoseconds;  // a file being written changes more often

constexpr std::size_t kDigits = 16;

// "lectern-", three numbers of kDigits hexadecimal digits with hyphens between, role.
constexpr std::size_t kNumbersEnd = kPrefix.size() + 3 * kDigits + 2;

std::optional<std::uint64_t> parse_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::int64_t nanoseconds(const timespec& time) { return time.tv_sec * kNanoseconds + time.tv_nsec; }

std::int64_t now() {
  timespec time = {};
  ::clock_gettime(CLOCK_REALTIME, &time);
  return nanoseconds(time);
}

bool our_own(const struct stat& status) { return status.st_uid == ::geteuid(); }

}  // namespace

std::string SessionName::file_name() const {
  std::array<char, kNumbersEnd + 1> text{};
  std::snprintf(text.data(), text.size(), "%s%016llx-%016llx-%016llx", kPrefix.data(),
                static_cast<unsigned long long>(kind), static_cast<unsigned long long>(tokens),
                static_cast<unsigned long long>(tokens_sum));
  return text.data() + std::string(role == SessionRole::kTip ? kTip : kStem);
}

std::optional<SessionName> SessionName::parse(const std::string& file_name) {
  if (file_name.size() <= kNumbersEnd || !file_name.starts_with(kPrefix)) return std::nullopt;
  const std::string_view text = file_name;
  const auto kind = parse_number(text.substr(kPrefix.size(), kDigits));
  const auto tokens = parse_number(text.substr(kPrefix.size() + kDigits + 1, kDigits));
  const auto sum = parse_number(text.substr(kPrefix.size() + 2 * (kDigits + 1), kDigits));
  const SessionRole role = text.substr(kNumbersEnd) == kTip ? SessionRole::kTip : SessionRole::kStem;
  if (!kind || !tokens || !sum) return std::nullopt;
  SessionName name = {*kind, static_cast<std::int64_t>(*tokens), *sum, role};
  if (name.tokens < 1 || name.file_name() != file_name) return std::nullopt;
  return name;
}

std::optional<SessionDirectory> SessionDirectory::open(const std::filesystem::path& path, std::int64_t most_bytes) {
  std::filesystem::path place = path.lexically_normal();
  if (!place.has_filename()) place = place.parent_path();  // "sessions/": a final slash would follow a link
  std::error_code error;
  if (place.has_parent_path()) std::filesystem::create_directories(place.parent_path(), error);
  ::mkdir(place.c_str(), S_IRWXU);
  FileHandle directory(::open(place.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat status = {};
  if (!directory.open() || ::fstat(directory.get(), &status) != 0 || !our_own(status)) return std::nullopt;
  SessionDirectory result(std::move(directory), most_bytes);
  result.remove_remains();
  return result;
}

std::vector<std::string> SessionDirectory::file_names() const {
  std::vector<std::string> names;
  const int again = ::openat(directory_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);  // with a position of its own
  if (again < 0) return names;
  const std::unique_ptr<DIR, int (*)(DIR*)> list(::fdopendir(again), [](DIR* open) { return ::closedir(open); });
  if (!list) {
    ::close(again);
    return names;
  }
  while (const dirent* entry = ::readdir(list.get())) names.emplace_back(entry->d_name);
  return names;
}

std::vector<SessionDirectory::Stored> SessionDirectory::files() const {
  std::vector<Stored> files;
  for (const std::string& file_name : file_names()) {
    const auto name = SessionName::parse(file_name);
    struct stat status = {};
    if (!name || ::fstatat(directory_.get(), file_name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (S_ISREG(status.st_mode)) files.push_back({*name, status.st_size, nanoseconds(status.st_mtim)});
  }
  return files;
}

// What programs left behind that died while they wrote.
void SessionDirectory::remove_remains() const {
  for (const std::string& name : file_names()) {
    struct stat status = {};
    if (!name.starts_with(std::string(kTemporary) + std::string(kPrefix))) continue;
    if (::fstatat(directory_.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (now() - nanoseconds(status.st_mtim) > kAbandoned) ::unlinkat(directory_.get(), name.c_str(), 0);
  }
}

std::vector<SessionName> SessionDirectory::beginnings(std::span<const TokenId> tokens, std::uint64_t kind) const {
  std::multimap<std::int64_t, SessionName> by_length;
  for (const std::string& file_name : file_names()) {
    const auto name = SessionName::parse(file_name);
    if (name && name->kind == kind) by_length.emplace(name->tokens, *name);
  }
  std::vector<SessionName> found;
  std::uint64_t sum = 0;
  std::int64_t done = 0;
  for (const auto& [length, name] : by_length) {
    if (length > static_cast<std::int64_t>(tokens.size())) break;
    for (; done < length; ++done) sum = chain(sum, static_cast<std::uint64_t>(tokens[static_cast<std::size_t>(done)]));
    if (sum == name.tokens_sum) found.push_back(name);
  }
  std::reverse(found.begin(), found.end());
  return found;
}

FileHandle SessionDirectory::use(const SessionName& name) const {
  constexpr int kFlags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  FileHandle file(::openat(directory_.get(), name.file_name().c_str(), kFlags));
  struct stat status = {};
  if (!file.open() || ::fstat(file.get(), &status) != 0 || !our_own(status)) return {};
  ::futimens(file.get(), nullptr);
  return file;
}

void SessionDirectory::touch(const SessionName& name) const {
  ::utimensat(directory_.get(), name.file_name().c_str(), nullptr, AT_SYMLINK_NOFOLLOW);
}

void SessionDirectory::remove(const SessionName& name) const {
  ::unlinkat(directory_.get(), name.file_name().c_str(), 0);
}

bool SessionDirectory::make_room(std::int64_t bytes) const {
  if (bytes > most_bytes_) return false;
  std::vector<Stored> stored = files();
  std::sort(stored.begin(), stored.end(), [](const Stored& a, const Stored& b) { return a.last_use < b.last_use; });
  std::int64_t total = 0;
  for (const Stored& file : stored) total += file.bytes;
  for (const Stored& file : stored) {
    if (total <= most_bytes_ - bytes) break;
    remove(file.name);
    total -= file.bytes;
  }
  return total <= most_bytes_ - bytes;
}

std::int64_t SessionDirectory::bytes() const {
  std::int64_t total = 0;
  for (const Stored& file : files()) total += file.bytes;
  return total;
}

DurableFile SessionDirectory::create(const SessionName& name) const {
  return {directory_.get(), name.file_name(), kTemporary};
}

}  // namespace lectern::engine

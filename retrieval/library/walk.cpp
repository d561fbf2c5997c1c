// SPDX-License-Identifier: GPL-3.0-or-later
#include "library/walk.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "documents/ignore_rules.h"
#include "retrieval/extract.h"

namespace lectern::retrieval {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kDeepest = 200;  // directories inside each other, each holding one descriptor

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using DirectoryHandle = std::unique_ptr<DIR, CloseDirectory>;

class TreeWalk {
 public:
  TreeWalk(fs::path root, std::set<std::pair<dev_t, ino_t>>& seen, const std::function<void(const FoundFile&)>& visit,
           const std::stop_token& stop)
      : root_(std::move(root)), seen_(seen), visit_(visit), stop_(stop) {}

  void run() {
    enter(AT_FDCWD, root_.c_str(), "");
    while (!levels_.empty() && !stop_.stop_requested()) {
      Level& level = levels_.back();
      if (level.next == level.names.size()) {
        levels_.pop_back();
      } else {
        const std::string name = level.names[level.next++];
        look_at(::dirfd(level.handle.get()), name, level.relative.empty() ? name : level.relative + "/" + name);
      }
    }
  }

 private:
  struct Level {
    DirectoryHandle handle;
    std::string relative;  // to the root, "" for the root
    std::vector<std::string> names;
    std::size_t next = 0;
  };

  void skip(const std::string& relative, std::string reason) {
    visit_({relative.empty() ? root_ : root_ / relative, {}, false, std::move(reason), ""});
  }

  void fail(const std::string& relative, const char* action, int error) {
    const fs::path path = relative.empty() ? root_ : root_ / relative;
    visit_({path,
            {},
            false,
            "",
            path.string() + " cannot be " + action + ": " + std::strerror(error) + "; check its permissions."});
  }

  void enter(int parent, const char* name, const std::string& relative) {
    if (levels_.size() == kDeepest) return skip(relative, "more than 200 directories inside each other");
    const int descriptor = ::openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    DirectoryHandle handle(descriptor < 0 ? nullptr : ::fdopendir(descriptor));
    if (handle == nullptr) {
      fail(relative, "opened", errno);
      if (descriptor >= 0) ::close(descriptor);
      return;
    }
    Level level{std::move(handle), relative, {}, 0};
    while (const dirent* entry = ::readdir(level.handle.get())) {
      const std::string_view entry_name = static_cast<const char*>(entry->d_name);
      if (entry_name != "." && entry_name != "..") level.names.emplace_back(entry_name);
    }
    std::sort(level.names.begin(), level.names.end());
    rules_.add_file(relative.empty() ? root_ : root_ / relative, relative);
    levels_.push_back(std::move(level));
  }

  void look_at(int parent, const std::string& name, const std::string& relative) {
    struct stat status = {};
    if (::fstatat(parent, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
      return fail(relative, "looked at", errno);
    }
    const bool directory = S_ISDIR(status.st_mode);
    if (S_ISLNK(status.st_mode)) return skip(relative, "link");
    if (!directory && !S_ISREG(status.st_mode)) return skip(relative, "not a regular file");
    if (rules_.ignored(relative, directory)) return skip(relative, "ignored");
    // Of a directory only its own name counts, not what it would mean as a file.
    if (std::string reason = skip_reason(directory ? relative + "/x" : relative); !reason.empty()) {
      return skip(relative, std::move(reason));
    }
    if (!seen_.emplace(status.st_dev, status.st_ino).second) return skip(relative, "second name of a file seen before");
    if (directory) return enter(parent, name.c_str(), relative);
    visit_({root_ / relative, file_state(status), false, "", ""});
  }

  const fs::path root_;
  std::set<std::pair<dev_t, ino_t>>& seen_;
  const std::function<void(const FoundFile&)>& visit_;
  const std::stop_token& stop_;
  IgnoreRules rules_;
  std::vector<Level> levels_;
};

std::int64_t nanoseconds(const timespec& time) { return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

}  // namespace

FileState file_state(const struct stat& status) {
  return {status.st_size, nanoseconds(status.st_mtim), nanoseconds(status.st_ctim),
          static_cast<std::int64_t>(status.st_ino)};
}

void walk(std::span<const fs::path> paths, const std::function<void(const FoundFile&)>& visit,
          const std::stop_token& stop) {
  std::set<std::pair<dev_t, ino_t>> seen;
  for (const fs::path& path : paths) {
    if (stop.stop_requested()) return;
    std::error_code error;
    const fs::path real = fs::canonical(path, error);
    struct stat status = {};
    if (error || ::lstat(real.c_str(), &status) != 0) {
      visit({fs::absolute(path, error), {}, true, "", ""});  // reading it will say what is wrong
      continue;
    }
    if (!seen.emplace(status.st_dev, status.st_ino).second) continue;
    if (S_ISDIR(status.st_mode)) {
      TreeWalk(real, seen, visit, stop).run();
    } else {
      visit({real, file_state(status), true, "", ""});
    }
  }
}

}  // namespace lectern::retrieval

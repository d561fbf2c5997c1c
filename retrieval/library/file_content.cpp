// SPDX-License-Identifier: GPL-3.0-or-later
#include "library/file_content.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "documents/utf8.h"
#include "retrieval/extract.h"

namespace lectern::retrieval {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kReadBytes = 1U << 20;
constexpr std::size_t kLongestTitle = 300;
constexpr std::size_t kLongestNote = 2000;

Error file_error(const fs::path& file) {
  const int error = errno;
  const ErrorCode code = error == ENOENT                     ? ErrorCode::kNotFound
                         : error == EACCES || error == EPERM ? ErrorCode::kPermission
                                                             : ErrorCode::kStorage;
  return {code, shown_name(file) + " cannot be read: " + std::strerror(error) + "."};
}

Result<ContentHash> hash_descriptor(int descriptor, const fs::path& file, const std::stop_token& stop) {
  struct stat status = {};
  if (::fstat(descriptor, &status) != 0) return file_error(file);
  if (!S_ISREG(status.st_mode)) return Error{ErrorCode::kUnreadable, shown_name(file) + " is not a regular file."};
  Hasher hasher;
  std::vector<char> buffer(kReadBytes);
  while (!stop.stop_requested()) {
    const ssize_t count = ::read(descriptor, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return file_error(file);
    if (count == 0) return hasher.finish();
    hasher.add(buffer.data(), static_cast<std::size_t>(count));
  }
  return Error{ErrorCode::kCancelled, "Reading " + shown_name(file) + " was cancelled."};
}

void keep_sound_words(ExtractedPage& page) {
  std::uint32_t end = 0;
  std::erase_if(page.words, [&](const Word& word) {
    if (word.begin < end || word.end <= word.begin || word.end > page.text.size()) return true;
    end = word.end;
    return false;
  });
}

// Cuts at a character's beginning.
void shorten(std::string& text, std::size_t limit) {
  if (text.size() <= limit) return;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xC0U) == 0x80U) --limit;
  text.resize(limit);
  text += "…";
}

}  // namespace

Result<ContentHash> hash_file(const fs::path& file, const std::stop_token& stop) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (descriptor < 0) return file_error(file);
  auto hash = hash_descriptor(descriptor, file, stop);
  ::close(descriptor);
  return hash;
}

Result<ExtractedDocument> checked(ExtractedDocument document, const fs::path& file) {
  for (ExtractedPage& page : document.pages) {
    if (!is_valid_utf8(page.text)) {
      return Error{ErrorCode::kUnreadable, shown_name(file) + " gave text that is not valid UTF-8."};
    }
    keep_sound_words(page);
  }
  return document;
}

std::string shown_title(std::string_view title, const fs::path& file) {
  std::string line;
  for (const char c : is_valid_utf8(title) ? title : std::string_view()) {
    const bool space = static_cast<unsigned char>(c) <= ' ' || c == 0x7F;
    if (!space) {
      line += c;
    } else if (!line.empty() && line.back() != ' ') {
      line += ' ';
    }
  }
  while (line.ends_with(' ')) line.pop_back();
  shorten(line, kLongestTitle);
  return line.empty() ? shown_name(file) : line;
}

DocumentKind kind_by_name(const fs::path& file) {
  const std::string suffix = file.extension().string();
  if (suffix == ".pdf" || suffix == ".PDF") return DocumentKind::kPdf;
  if (suffix == ".md" || suffix == ".markdown") return DocumentKind::kMarkdown;
  return DocumentKind::kText;
}

void describe(const ExtractedDocument& document, DocumentRecord& record) {
  record.title = shown_title(document.title, record.path);
  record.kind = document.kind;
  record.language = document.language;
  record.state = document.warnings.empty() ? DocumentState::kReady : DocumentState::kPartial;
  for (const std::string& warning : document.warnings) {
    if (!record.note.empty()) record.note += "; ";
    record.note += warning;
    if (record.note.size() > kLongestNote) break;
  }
  shorten(record.note, kLongestNote);
}

}  // namespace lectern::retrieval

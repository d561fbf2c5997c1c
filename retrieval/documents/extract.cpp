// SPDX-License-Identifier: GPL-3.0-or-later
#include "retrieval/extract.h"

#include <fcntl.h>
#include <iconv.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <new>
#include <utility>

#include "markdown.h"
#include "pdf.h"
#include "plain_text.h"
#include "source_code.h"

namespace lectern::retrieval {
namespace {

constexpr std::string_view kReadableKinds = "Lectern reads PDF, plain text, Markdown and source code";

std::string megabytes(std::uint64_t bytes) {
  const std::uint64_t tenths = (bytes * 10 + (1U << 19)) >> 20;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " MB";
}

Error too_large(const std::string& name, std::uint64_t size, std::uint64_t limit) {
  return {ErrorCode::kTooLarge,
          name + " has " + megabytes(size) + ", more than the limit of " + megabytes(limit) + "; split it first."};
}

Error open_error(const std::string& name, int cause) {
  switch (cause) {
    case ENOENT:
    case ENOTDIR:
      return {ErrorCode::kNotFound, name + " does not exist; check the name or add the file at its new place."};
    case EACCES:
    case EPERM:
      return {ErrorCode::kPermission, name + " may not be read by you; change its permissions and add it again."};
    case ELOOP:
      return {ErrorCode::kUnreadable, name + " is a symbolic link; add the file that it points to."};
    case ENXIO:
    case ENODEV:
      return {ErrorCode::kUnreadable, name + " is a device or socket, not a document; leave it out."};
    default:
      return {ErrorCode::kUnreadable,
              name + " cannot be opened (" + std::strerror(cause) + "); check the disk and try again."};
  }
}

Error not_a_file(const std::string& name, mode_t mode) {
  const char* kind = S_ISDIR(mode)    ? "a directory; add the files in it"
                     : S_ISFIFO(mode) ? "a pipe, not a document; leave it out"
                                      : "a device or socket, not a document; leave it out";
  return {ErrorCode::kUnreadable, name + " is " + kind + "."};
}

Error changed_error(const std::string& name) {
  return {ErrorCode::kUnreadable, name + " changed while it was being read; add it again when it is complete."};
}

bool same_version(const struct stat& a, const struct stat& b) {
  return a.st_size == b.st_size && a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec &&
         a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

// Reads up to `size` bytes from offset 0; fewer when the file ends earlier.
Result<std::string> read_bytes(int descriptor, const std::string& name, std::size_t size) {
  std::string bytes(size, '\0');
  std::size_t done = 0;
  while (done < size) {
    const ssize_t got = pread(descriptor, bytes.data() + done, size - done, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return Error{ErrorCode::kUnreadable,
                   name + " cannot be read (" + std::strerror(errno) + "); check the disk and try again."};
    }
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

// A title line for text without headings: the first line when it is short enough to be one.
std::string first_line_title(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t\n");
  if (begin == std::string_view::npos) return {};
  std::string_view line = text.substr(begin, text.find('\n', begin) - begin);
  line = line.substr(0, line.find_last_not_of(" \t") + 1);
  if (line.size() > 100 || line.ends_with('.') || line.ends_with(',')) return {};
  return std::string(line);
}

Result<ExtractedDocument> extract_text(const std::filesystem::path& path, const std::string& name,
                                       std::string_view bytes, const ExtractLimits& limits) {
  if (bytes.size() > limits.text_file_bytes) return too_large(name, bytes.size(), limits.text_file_bytes);
  const ContentVerdict verdict = inspect_content(bytes);
  if (!verdict.text) {
    return Error{ErrorCode::kUnreadable, name + " is " + verdict.kind + "; " + std::string(kReadableKinds) + "."};
  }
  DecodedText decoded = decode_text(bytes);
  if (decoded.text.find_first_not_of(" \t\n\f\v") == std::string::npos) {
    return Error{ErrorCode::kUnreadable, name + " holds nothing but white space; there is nothing to read."};
  }
  ExtractedDocument document;
  document.language = language_of(path);
  if (document.language == "markdown") {
    document.language.clear();
    document.kind = DocumentKind::kMarkdown;
    document.title = markdown_title(decoded.text);
  } else if (!document.language.empty()) {
    document.kind = DocumentKind::kCode;
  } else {
    document.title = first_line_title(decoded.text);
  }
  document.warnings = std::move(decoded.warnings);
  document.pages.emplace_back().text = std::move(decoded.text);
  return document;
}

Result<ExtractedDocument> recognise_and_extract(const std::filesystem::path& path, std::string_view bytes,
                                                const ExtractLimits& limits, std::stop_token stop,
                                                const PageObserver& on_page) {
  const std::string name = shown_name(path);
  if (stop.stop_requested()) return Error{ErrorCode::kCancelled, "Reading " + name + " was stopped."};
  if (bytes.empty()) return Error{ErrorCode::kUnreadable, name + " is empty; there is nothing to read."};
  if (bytes.size() > limits.file_bytes) return too_large(name, bytes.size(), limits.file_bytes);
  // The signature may stand behind up to 1,024 bytes of other data; in a text file it does not stand beside NULs.
  const bool pdf = bytes.starts_with("%PDF-") ||
                   (bytes.substr(0, 1024).find("%PDF-") != std::string_view::npos && !inspect_content(bytes).text);
  if (pdf) return extract_pdf(name, bytes, limits, std::move(stop), on_page);
  if (shown_name(path.extension()) == ".pdf" || shown_name(path.extension()) == ".PDF") {
    return Error{ErrorCode::kUnreadable, name + " is named like a PDF but is none; get an intact copy and add that."};
  }
  return extract_text(path, name, bytes, limits);
}

}  // namespace

Result<int> open_document(const std::filesystem::path& file, const ExtractLimits& limits) {
  const std::string name = shown_name(file);
  const int descriptor = open(file.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | O_NOFOLLOW);
  if (descriptor < 0) return open_error(name, errno);
  struct stat status {};
  const bool known = fstat(descriptor, &status) == 0;
  if (known && S_ISREG(status.st_mode) && static_cast<std::uint64_t>(status.st_size) <= limits.file_bytes) {
    return descriptor;
  }
  const int cause = errno;
  close(descriptor);
  if (!known) return open_error(name, cause);
  if (!S_ISREG(status.st_mode)) return not_a_file(name, status.st_mode);
  return too_large(name, static_cast<std::uint64_t>(status.st_size), limits.file_bytes);
}

Result<std::string> read_document(int descriptor, const std::filesystem::path& name, const ExtractLimits& limits) {
  try {
    const std::string shown = shown_name(name);
    struct stat before {};
    struct stat after {};
    if (fstat(descriptor, &before) != 0) return open_error(shown, errno);
    if (!S_ISREG(before.st_mode)) return not_a_file(shown, before.st_mode);
    const auto size = static_cast<std::uint64_t>(before.st_size);
    if (size > limits.file_bytes) return too_large(shown, size, limits.file_bytes);
    RETRIEVAL_TRY(std::string bytes, read_bytes(descriptor, shown, static_cast<std::size_t>(size)));
    if (fstat(descriptor, &after) != 0) return open_error(shown, errno);
    if (bytes.size() != size || !same_version(before, after)) return changed_error(shown);
    return bytes;
  } catch (const std::exception&) {
    return Error{ErrorCode::kTooLarge, "The document needs more memory than there is; close other programs."};
  }
}

Result<ExtractedDocument> extract_bytes(const std::filesystem::path& name, std::string_view bytes,
                                        const ExtractLimits& limits, std::stop_token stop,
                                        const PageObserver& on_page) {
  try {
    return recognise_and_extract(name, bytes, limits, std::move(stop), on_page);
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kTooLarge, shown_name(name) + " needs more memory than is allowed; split it first."};
  } catch (const std::exception& problem) {
    return Error{ErrorCode::kUnreadable,
                 shown_name(name) + " cannot be read (" + problem.what() + "); get an intact copy and add that."};
  }
}

Result<ExtractedDocument> extract_file(const std::filesystem::path& file, const ExtractLimits& limits,
                                       std::stop_token stop) {
  RETRIEVAL_TRY(const int descriptor, open_document(file, limits));
  Result<std::string> bytes = read_document(descriptor, file, limits);
  close(descriptor);
  if (!bytes.ok()) return bytes.error();
  return extract_bytes(file, *bytes, limits, std::move(stop));
}

PreloadedExtraction preload_extraction() {
  // Open converters keep their modules loaded; Poppler opens and closes its own for each string.
  static const iconv_t kKept[] = {iconv_open("UTF-16", "UTF-8"), iconv_open("UTF-8", "UTF-16"),
                                  iconv_open("UTF-16LE", "UTF-8"), iconv_open("ISO-8859-1", "UTF-8")};
  static_cast<void>(kKept);
  preload_pdf();
  return {{"/usr/share/poppler"}};
}

}  // namespace lectern::retrieval

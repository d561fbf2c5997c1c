// SPDX-License-Identifier: GPL-3.0-or-later
#include "pdf.h"

#include <poppler-document.h>
#include <poppler-global.h>
#include <poppler-page.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "pdf_words.h"
#include "utf8.h"

namespace lectern::retrieval {
namespace {

using Clock = std::chrono::steady_clock;

// Poppler reports problems through a process-wide hook.
struct PopplerErrors {
  PopplerErrors() { poppler::set_debug_error_function(&PopplerErrors::note, this); }
  ~PopplerErrors() { poppler::set_debug_error_function(&PopplerErrors::note, nullptr); }
  PopplerErrors(const PopplerErrors&) = delete;
  PopplerErrors& operator=(const PopplerErrors&) = delete;

  static void note(const std::string& message, void* object) {
    if (object == nullptr) return;
    auto& errors = *static_cast<PopplerErrors*>(object);
    ++errors.count;
    errors.missing_tables = errors.missing_tables || message.find("CMap") != std::string::npos ||
                            message.find("language pack") != std::string::npos;
  }

  std::size_t count = 0;        // tells a damaged file from an odd one
  bool missing_tables = false;  // text in fonts that are not embedded was lost
};

bool ends_like_a_pdf(std::string_view bytes) {
  const std::size_t tail = std::min<std::size_t>(bytes.size(), 2048);
  return bytes.substr(bytes.size() - tail).find("%%EOF") != std::string_view::npos;
}

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\n") == std::string_view::npos; }

// Words of a page in reading order, as lines. The page box is the crop box turned by the page's own rotation, which is
// also the frame of Poppler's word rectangles.
ExtractedPage read_page(const poppler::page& page) {
  const poppler::rectf box = page.page_rect(poppler::crop_box);
  const auto turned = page.orientation();
  const bool sideways = turned == poppler::page::landscape || turned == poppler::page::seascape;
  PageFrame frame{std::abs(sideways ? box.height() : box.width()), std::abs(sideways ? box.width() : box.height())};

  std::vector<PdfWord> words;
  for (const poppler::text_box& source : page.text_list(poppler::page::text_list_include_font)) {
    PdfWord word;
    const poppler::ustring text = source.text();
    word.text = clean_word(std::u16string(text.begin(), text.end()));
    if (word.text.empty()) continue;
    const poppler::rectf area = source.bbox();
    word.left = area.left();
    word.top = area.top();
    word.right = area.right();
    word.bottom = area.bottom();
    word.rotation = source.rotation();
    word.space_after = source.has_space_after();
    words.push_back(std::move(word));
  }
  return assemble_page(words, frame);
}

void cut_page(ExtractedPage& page, std::size_t bytes) {
  while (bytes > 0 && utf8_length_at(page.text, bytes) == 0) --bytes;
  page.text.resize(bytes);
  std::erase_if(page.words, [&](const Word& word) { return word.end > bytes; });
}

std::string metadata_title(const poppler::document& document) {
  const poppler::ustring raw = document.get_title();
  std::string title = clean_word(std::u16string(raw.begin(), raw.end()));
  if (title.size() > 300) title.clear();
  const bool file_name = title.ends_with(".doc") || title.ends_with(".docx") || title.ends_with(".dvi") ||
                         title.ends_with(".pdf") || title.ends_with(".tex") || title.starts_with("Microsoft Word");
  if (file_name || title == "untitled" || title == "Untitled" || title == "(anonymous)") return {};
  return title;
}

std::string page_range(std::size_t first, std::size_t last) {
  return first == last ? "page " + std::to_string(first)
                       : "pages " + std::to_string(first) + " to " + std::to_string(last);
}

// One warning for each run of neighbouring pages (numbers from 1, ascending).
void warn_about_pages(std::vector<std::string>& warnings, const std::vector<std::size_t>& pages,
                      const std::string& singular, const std::string& plural) {
  for (std::size_t i = 0; i < pages.size();) {
    std::size_t last = i;
    while (last + 1 < pages.size() && pages[last + 1] == pages[last] + 1) ++last;
    warnings.push_back(page_range(pages[i], pages[last]) + (last == i ? singular : plural));
    i = last + 1;
  }
}

class PdfReading {
 public:
  PdfReading(const std::string& shown_name, const poppler::document& source, const ExtractLimits& limits,
             const PageObserver& on_page)
      : name_(shown_name), source_(source), limits_(limits), on_page_(on_page) {}

  Result<ExtractedDocument> read(const PopplerErrors& errors, bool damaged, std::stop_token stop) {
    const int count = source_.pages();
    if (count <= 0) return unreadable();
    if (static_cast<std::uint64_t>(count) > limits_.pages) {
      return Error{ErrorCode::kTooLarge, name_ + " has " + std::to_string(count) + " pages, more than the limit of " +
                                             std::to_string(limits_.pages) + "; split it and add the parts."};
    }
    document_.kind = DocumentKind::kPdf;
    const auto deadline = Clock::now() + std::chrono::duration<double>(limits_.seconds);
    for (int index = 0; index < count; ++index) {
      if (stop.stop_requested()) return Error{ErrorCode::kCancelled, "Reading " + name_ + " was stopped."};
      if (Clock::now() > deadline || text_bytes_ > limits_.document_text_bytes) {
        document_.warnings.push_back(page_range(static_cast<std::size_t>(index) + 1, static_cast<std::size_t>(count)) +
                                     (Clock::now() > deadline ? " not read: the time limit was reached"
                                                              : " not read: the limit of text was reached"));
        break;
      }
      add_page(index);
      if (on_page_) on_page_(document_.pages.back(), static_cast<std::size_t>(count));
    }
    return finish(errors, damaged);
  }

 private:
  Error unreadable() const {
    return {ErrorCode::kUnreadable, name_ + " is a damaged or truncated PDF; get an intact copy and add that."};
  }

  void add_page(int index) {
    const auto number = static_cast<std::size_t>(index) + 1;
    const std::unique_ptr<poppler::page> page(source_.create_page(index));
    ExtractedPage result;
    if (page == nullptr) {
      broken_.push_back(number);
    } else {
      result = read_page(*page);
      if (result.text.size() > limits_.page_text_bytes) {
        cut_page(result, limits_.page_text_bytes);
        cut_.push_back(number);
      }
      if (is_blank(result.text)) blank_.push_back(number);
    }
    text_bytes_ += result.text.size();
    document_.pages.push_back(std::move(result));
  }

  Result<ExtractedDocument> finish(const PopplerErrors& errors, bool damaged) {
    const bool no_text = blank_.size() + broken_.size() == document_.pages.size();
    if ((damaged && no_text) || broken_.size() == document_.pages.size()) return unreadable();
    if (damaged) document_.warnings.emplace_back("the file is damaged or truncated; pages or text may be missing");
    if (errors.missing_tables) {
      document_.warnings.emplace_back(
          "text in some fonts was not read: their character tables are missing (package poppler-data) or out of reach");
    }
    warn_about_pages(document_.warnings, broken_, " is damaged and was not read", " are damaged and were not read");
    warn_about_pages(document_.warnings, cut_, " holds too much text and was cut", " hold too much text and were cut");
    warn_about_pages(document_.warnings, blank_, " holds no text (scanned?)", " hold no text (scanned?)");
    document_.title = metadata_title(source_);
    if (document_.title.empty()) document_.title = largest_line(document_.pages.front());
    return std::move(document_);
  }

  const std::string& name_;
  const poppler::document& source_;
  const ExtractLimits& limits_;
  const PageObserver& on_page_;
  ExtractedDocument document_;
  std::uint64_t text_bytes_ = 0;
  std::vector<std::size_t> blank_, broken_, cut_;
};

}  // namespace

Result<ExtractedDocument> extract_pdf(const std::string& shown_name, std::string_view bytes,
                                      const ExtractLimits& limits, std::stop_token stop, const PageObserver& on_page) {
  const Error damaged_error{ErrorCode::kUnreadable,
                            shown_name + " is a damaged or truncated PDF; get an intact copy and add that."};
  if (bytes.size() > static_cast<std::size_t>(INT_MAX)) {
    return Error{ErrorCode::kTooLarge, shown_name + " is larger than 2 GB; split it and add the parts."};
  }
  const PopplerErrors errors;
  const std::unique_ptr<poppler::document> document(
      poppler::document::load_from_raw_data(bytes.data(), static_cast<int>(bytes.size())));
  if (document == nullptr) return damaged_error;
  if (document->is_locked()) {
    return Error{ErrorCode::kEncrypted, shown_name + " needs a password; save a copy without one and add that."};
  }
  const bool damaged = !ends_like_a_pdf(bytes) && errors.count > 0;
  return PdfReading(shown_name, *document, limits, on_page).read(errors, damaged, std::move(stop));
}

void preload_pdf() {
  // Reading any text makes Poppler scan its data directories and load the character set converters; it forgets the
  // directories when its last document is closed, so that this one stays open.
  static constexpr std::string_view kTinyDocument =
      "%PDF-1.4\n"
      "1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
      "2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
      "3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 90 90]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>endobj\n"
      "4 0 obj<</Length 36>>stream\nBT /F 9 Tf 9 9 Td (Text \\344) Tj ET   \nendstream endobj\n"
      "5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>endobj\n"
      "trailer<</Root 1 0 R/Size 6>>\n%%EOF\n";
  const PopplerErrors errors;
  static const std::unique_ptr<poppler::document> document(
      poppler::document::load_from_raw_data(kTinyDocument.data(), static_cast<int>(kTinyDocument.size())));
  if (document == nullptr || document->pages() < 1) return;
  const std::unique_ptr<poppler::page> page(document->create_page(0));
  if (page != nullptr) static_cast<void>(read_page(*page));
}

}  // namespace lectern::retrieval

// SPDX-License-Identifier: GPL-3.0-or-later
#include "retrieval/extract.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "support/scratch.h"

namespace lectern::retrieval {
namespace {

namespace fs = std::filesystem;
using test::Scratch;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

const fs::path kDocuments = fs::path(TEST_DATA) / "documents";
const fs::path kSamples = fs::path(RESOURCES) / "samples";

std::string read(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

Result<ExtractedDocument> extract(const fs::path& file) { return extract_file(file, ExtractLimits{}, {}); }

ExtractedDocument extracted(const fs::path& file) {
  Result<ExtractedDocument> result = extract(file);
  EXPECT_TRUE(result.ok()) << result.error().message;
  return result.ok() ? *result : ExtractedDocument{};
}

// Every error names the file.
void expect_error(const Result<ExtractedDocument>& result, ErrorCode code, const std::string& name,
                  const std::string& part) {
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, code) << result.error().message;
  EXPECT_THAT(result.error().message, StartsWith(name));
  EXPECT_THAT(result.error().message, HasSubstr(part));
}

std::string word(const ExtractedPage& page, std::size_t i) {
  return page.text.substr(page.words[i].begin, page.words[i].end - page.words[i].begin);
}

void expect_sound(const ExtractedPage& page) {
  std::uint32_t last = 0;
  for (const Word& w : page.words) {
    EXPECT_GE(w.begin, last);
    EXPECT_LT(w.begin, w.end);
    EXPECT_LE(w.end, page.text.size());
    EXPECT_GE(w.rect.left, 0);
    EXPECT_LT(w.rect.left, w.rect.right);
    EXPECT_LE(w.rect.right, 1);
    EXPECT_GE(w.rect.top, 0);
    EXPECT_LT(w.rect.top, w.rect.bottom);
    EXPECT_LE(w.rect.bottom, 1);
    last = w.end;
  }
}

TEST(ExtractPdf, GivesTextWordsAndTitle) {
  const ExtractedDocument document = extracted(kDocuments / "plain.pdf");
  EXPECT_EQ(document.kind, DocumentKind::kPdf);
  EXPECT_EQ(document.title, "A plain page");
  ASSERT_EQ(document.pages.size(), 1U);
  const ExtractedPage& page = document.pages[0];
  EXPECT_EQ(page.text, "The harbour master counts the boats at noon.\nHe writes the number into a green book.");
  EXPECT_EQ(page.words.size(), 16U);
  EXPECT_EQ(word(page, 1), "harbour");
  EXPECT_FLOAT_EQ(page.width_points, 400);
  EXPECT_FLOAT_EQ(page.height_points, 300);
  expect_sound(page);
  // Drawn at x = 40 with its base line 50 points below the top of the page.
  EXPECT_NEAR(page.words[0].rect.left, 40.0 / 400, 0.005);
  EXPECT_LT(page.words[0].rect.top, 50.0 / 300);
  EXPECT_GT(page.words[0].rect.bottom, 50.0 / 300);
}

TEST(ExtractPdf, ReadsColumnsOneAfterTheOther) {
  const ExtractedDocument document = extracted(kDocuments / "columns.pdf");
  EXPECT_EQ(
      document.pages.at(0).text,
      "The left column speaks of\napples that ripen late and\nkeep well in a dry cellar\nuntil the end of March.\n"
      "The right column speaks of\npears that must be eaten\nwithin a week, because they\ndo not keep at all.");
}

TEST(ExtractPdf, HonoursPageRotation) {
  const ExtractedDocument document = extracted(kDocuments / "rotated.pdf");
  ASSERT_EQ(document.pages.size(), 4U);
  for (const ExtractedPage& page : document.pages) {
    EXPECT_EQ(page.text, "A turned page keeps its words.");
    expect_sound(page);
  }
  const auto first = [&](std::size_t page) { return document.pages[page].words.front().rect; };
  const auto last = [&](std::size_t page) { return document.pages[page].words.back().rect; };
  EXPECT_LT(first(0).right, last(0).left);  // to the right
  EXPECT_LT(first(1).bottom, last(1).top);  // downwards
  EXPECT_GT(first(2).left, last(2).right);  // to the left
  EXPECT_GT(first(3).top, last(3).bottom);  // upwards
}

TEST(ExtractPdf, HonoursTheCropBox) {
  const ExtractedDocument document = extracted(kDocuments / "cropped.pdf");
  const ExtractedPage& page = document.pages.at(0);
  EXPECT_EQ(page.text, "Visible");
  EXPECT_FLOAT_EQ(page.width_points, 200);
  EXPECT_NEAR(page.words.at(0).rect.left, 10.0 / 200, 0.005);
}

TEST(ExtractPdf, NamesPagesWithoutText) {
  const ExtractedDocument document = extracted(kDocuments / "scanned.pdf");
  EXPECT_EQ(document.pages.size(), 4U);
  EXPECT_THAT(document.warnings, ElementsAre("pages 2 to 3 hold no text (scanned?)"));
}

TEST(ExtractPdf, ReadsManyScripts) {
  EXPECT_EQ(extracted(kDocuments / "scripts.pdf").pages.at(0).text,
            "Blåbær, œuvre, naïve façade, Straße, żółw.\nΗ θάλασσα είναι ήσυχη.\nМаяк стоит на скале.\n"
            "The office is on the floor above.\n20 € – 30 € … “quoted”");
  EXPECT_EQ(extracted(kDocuments / "encodings.pdf").pages.at(0).text,
            "Café crème à gogo, mañana, Übergröße, 50 € – “quoted” … ½ £\nÉté à Malmö, señor, æther");
}

TEST(ExtractPdf, ReadsAsianFontsThatAreNotEmbedded) {
  if (!fs::exists("/usr/share/poppler/cMap")) GTEST_SKIP() << "poppler-data is not installed";
  EXPECT_EQ(extracted(kDocuments / "asian.pdf").pages.at(0).text,
            "灯台は海の上に立っています。\n灯塔矗立在海边的悬崖上。\n등대는 바다 위에 서 있습니다.\n日本の灯台");
}

TEST(ExtractPdf, TellsLockedFilesFromOwnerProtectedOnes) {
  expect_error(extract(kDocuments / "locked_rc4.pdf"), ErrorCode::kEncrypted, "locked_rc4.pdf", "needs a password");
  expect_error(extract(kDocuments / "locked_aes.pdf"), ErrorCode::kEncrypted, "locked_aes.pdf", "needs a password");
  EXPECT_THAT(extracted(kDocuments / "owner_only.pdf").pages.at(0).text, StartsWith("The harbour master"));
}

TEST(ExtractPdf, ReadsTheSampleHandbook) {
  const ExtractedDocument document = extracted(kSamples / "skerry_point_handbook.pdf");
  EXPECT_EQ(document.title, "Skerry Point Observatory and Lighthouse: Annual Report 2024 and Handbook");
  EXPECT_EQ(document.pages.size(), 10U);
  EXPECT_THAT(document.warnings, IsEmpty());
  EXPECT_THAT(document.pages[4].text, HasSubstr("\nFebruary 5.4 °C 118 mm 7 11\n"));  // a row of the table
  EXPECT_THAT(document.pages[8].text, HasSubstr("\n• The assembly point is the slipway in front of the boathouse.\n"));
  const std::string& birds = document.pages[6].text;
  EXPECT_LT(birds.find("at least 28 years"), birds.find("By the end of 2024"));  // columns
  for (const ExtractedPage& page : document.pages) expect_sound(page);
}

TEST(ExtractPdf, SurvivesTruncationAnywhere) {
  const std::string whole = read(kSamples / "skerry_point_handbook.pdf");
  int refused = 0;
  for (std::size_t part = 1; part < 40; ++part) {
    const auto result = extract_bytes("cut.pdf", std::string_view(whole).substr(0, whole.size() * part / 40), {}, {});
    if (!result.ok()) {
      ++refused;
      EXPECT_EQ(result.error().code, ErrorCode::kUnreadable);
      EXPECT_THAT(result.error().message, StartsWith("cut.pdf is a damaged or truncated PDF"));
    } else {
      EXPECT_THAT(result->warnings, Not(IsEmpty())) << part;  // never silently less
    }
  }
  EXPECT_GT(refused, 0);
}

TEST(ExtractPdf, SurvivesFlippedBytes) {
  std::string bytes = read(kDocuments / "columns.pdf");
  std::uint32_t state = 7;
  for (int round = 0; round < 300; ++round) {
    std::string damaged = bytes;
    for (int i = 0; i < 6; ++i) {
      state = state * 1664525U + 1013904223U;
      damaged[(state >> 8) % damaged.size()] = static_cast<char>(state >> 24);
    }
    const auto result = extract_bytes("odd.pdf", damaged, {}, {});
    if (!result.ok()) continue;
    for (const ExtractedPage& page : result->pages) expect_sound(page);
  }
}

TEST(ExtractPdf, RefusesWhatOnlyLooksLikeOne) {
  expect_error(extract_bytes("a.pdf", "%PDF-1.7\n", {}, {}), ErrorCode::kUnreadable, "a.pdf", "damaged or truncated");
  expect_error(extract_bytes("a.pdf", "Just words.", {}, {}), ErrorCode::kUnreadable, "a.pdf", "named like a PDF");
  const auto text = extract_bytes("note.txt", "The mark %PDF-1.7 begins a PDF.\n", {}, {});
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(text->kind, DocumentKind::kText);
}

TEST(ExtractPdf, EnforcesLimits) {
  const std::string bytes = read(kSamples / "skerry_point_handbook.pdf");
  ExtractLimits few_pages;
  few_pages.pages = 9;
  expect_error(extract_bytes("big.pdf", bytes, few_pages, {}), ErrorCode::kTooLarge, "big.pdf", "10 pages");
  ExtractLimits little_text;
  little_text.page_text_bytes = 100;
  const auto cut = extract_bytes("big.pdf", bytes, little_text, {});
  ASSERT_TRUE(cut.ok());
  for (const ExtractedPage& page : cut->pages) EXPECT_LE(page.text.size(), 100U);
  EXPECT_THAT(cut->warnings, Contains(HasSubstr("hold too much text and were cut")));
  ExtractLimits short_document;
  short_document.document_text_bytes = 3000;
  const auto stopped = extract_bytes("big.pdf", bytes, short_document, {});
  ASSERT_TRUE(stopped.ok());
  EXPECT_LT(stopped->pages.size(), 10U);
  EXPECT_THAT(stopped->warnings, Contains(HasSubstr("limit of text")));
  ExtractLimits no_time;
  no_time.seconds = -1;
  const auto late = extract_bytes("big.pdf", bytes, no_time, {});
  EXPECT_FALSE(late.ok() && late->warnings.empty());
}

TEST(ExtractPdf, StopsWhenAsked) {
  std::stop_source stop;
  stop.request_stop();
  const auto result = extract_bytes("a.pdf", read(kDocuments / "plain.pdf"), {}, stop.get_token());
  expect_error(result, ErrorCode::kCancelled, "Reading a.pdf", "stopped");
}

TEST(ExtractText, RecognisesKindByContentFirstAndNameSecond) {
  const auto kind = [](const std::string& name, std::string_view bytes) {
    return extract_bytes(name, bytes, {}, {})->kind;
  };
  EXPECT_EQ(kind("a.txt", "words\n"), DocumentKind::kText);
  EXPECT_EQ(kind("README", "words\n"), DocumentKind::kText);
  EXPECT_EQ(kind("a.md", "# Title\n"), DocumentKind::kMarkdown);
  EXPECT_EQ(kind("a.CPP", "int main() {}\n"), DocumentKind::kCode);
  EXPECT_EQ(extract_bytes("a.CPP", "int main() {}\n", {}, {})->language, "cpp");
  EXPECT_EQ(extract_bytes("CMakeLists.txt", "project(x)\n", {}, {})->language, "cmake");
  EXPECT_EQ(kind("report.txt", read(kDocuments / "plain.pdf")), DocumentKind::kPdf);
}

TEST(ExtractText, FindsTitles) {
  EXPECT_EQ(extract_bytes("a.md", "intro\n\n## Second *one*\n# First\n", {}, {})->title, "Second *one*");
  EXPECT_EQ(extract_bytes("a.md", "---\ntitle: \"From the front\"\n---\n# Heading\n", {}, {})->title, "From the front");
  EXPECT_EQ(extract_bytes("a.md", "Under\n=====\ntext\n", {}, {})->title, "Under");
  EXPECT_EQ(extract_bytes("a.txt", "\n  A SHORT TITLE\n\nThen text.\n", {}, {})->title, "A SHORT TITLE");
  EXPECT_EQ(extract_bytes("a.txt", "A whole sentence.\n", {}, {})->title, "");
}

TEST(ExtractText, ConvertsEncodingsToUtf8) {
  using namespace std::string_view_literals;
  const auto text = [](std::string_view bytes) { return extract_bytes("a.txt", bytes, {}, {})->pages.at(0).text; };
  EXPECT_EQ(text("\xEF\xBB\xBFgr\xC3\xBC\xC3\x9F\n"), "grüß\n");
  EXPECT_EQ(text("\xFF\xFEg\0r\0\xFC\0\xDF\0\n\0"sv), "grüß\n");
  EXPECT_EQ(text("\xFE\xFF\0g\0r\0\xFC\0\xDF"sv), "grüß");
  EXPECT_EQ(text("\xFF\xFE\x3D\xD8\x00\xDE"sv), "😀");
  EXPECT_EQ(text("\xFF\xFE\x3D\xD8\x41\x00"sv),
            "\xEF\xBF\xBD"
            "A");
  EXPECT_EQ(text("gr\xFC\xDF \x80 5"), "grüß € 5");
  EXPECT_EQ(text("one\r\ntwo\rthree\n"), "one\ntwo\nthree\n");
}

TEST(ExtractText, ReplacesInvalidBytesAndSaysSo) {
  const auto result = extract_bytes("a.txt", "gr\xC3\xBC\xC3\x9F \xFF\xC3( end", {}, {});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->pages.at(0).text, "grüß \xEF\xBF\xBD\xEF\xBF\xBD( end");
  EXPECT_THAT(result->warnings, ElementsAre("2 bytes were not valid text and replaced by U+FFFD"));
}

TEST(ExtractText, RefusesWhatIsNoText) {
  using namespace std::string_view_literals;
  const auto refuse = [](const std::string& name, std::string_view bytes, const std::string& part) {
    expect_error(extract_bytes(name, bytes, {}, {}), ErrorCode::kUnreadable, name, part);
  };
  refuse("a.txt", "", "is empty");
  refuse("a.txt", " \n\t\n", "white space");
  refuse("a.txt", "text\0more"sv, "a binary file");
  refuse("a.txt", "\x01\x02\x03\x04 text", "a binary file");
  refuse("a.txt", "PK\x03\x04rest", "a ZIP archive");
  refuse("a.md", "\x89PNG\r\n\x1A\n", "a PNG image");
  refuse("a.cpp",
         "\x7F"
         "ELF\x02",
         "a program");
}

TEST(ExtractText, EnforcesTheSizeOfTextFiles) {
  ExtractLimits limits;
  limits.text_file_bytes = 10;
  expect_error(extract_bytes("a.txt", "more than ten bytes", limits, {}), ErrorCode::kTooLarge, "a.txt", "limit");
}

TEST(ExtractFile, NamesWhatIsWrongWithAPath) {
  const Scratch scratch;
  scratch.write("real.txt", "words");
  fs::create_symlink(scratch / "real.txt", scratch / "link.txt");
  fs::create_symlink(scratch / "round.txt", scratch / "round.txt");
  expect_error(extract(scratch / "none.txt"), ErrorCode::kNotFound, "none.txt", "does not exist");
  expect_error(extract(scratch / "real.txt" / "x"), ErrorCode::kNotFound, "x", "does not exist");
  expect_error(extract(scratch / "link.txt"), ErrorCode::kUnreadable, "link.txt", "symbolic link");
  expect_error(extract(scratch / "round.txt"), ErrorCode::kUnreadable, "round.txt", "symbolic link");
  fs::create_directory(scratch / "folder");
  expect_error(extract(scratch / "folder"), ErrorCode::kUnreadable, "folder", "a directory");
  EXPECT_TRUE(extract(scratch / "real.txt").ok());
}

TEST(ExtractFile, RefusesPipesAndDevicesWithoutWaiting) {
  const Scratch scratch;
  ASSERT_EQ(mkfifo((scratch / "pipe.txt").c_str(), 0600), 0);
  alarm(5);  // a blocked open would end the test
  expect_error(extract(scratch / "pipe.txt"), ErrorCode::kUnreadable, "pipe.txt", "a pipe");
  expect_error(extract("/dev/zero"), ErrorCode::kUnreadable, "zero", "a device");
  alarm(0);
}

TEST(ExtractFile, ReportsMissingPermission) {
  const Scratch scratch;
  const fs::path file = scratch.write("closed.txt", "words");
  fs::permissions(scratch.path(), fs::perms::all);
  fs::permissions(file, fs::perms::none);
  // Root may read everything, so that the attempt is made by a child without rights.
  const pid_t child = fork();
  if (child == 0) {
    if (getuid() == 0 && setuid(65534) != 0) _exit(3);
    const auto result = extract(file);
    _exit(!result.ok() && result.error().code == ErrorCode::kPermission ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 3) GTEST_SKIP() << "cannot give up root's rights here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(ExtractFile, RefusesHugeFilesBeforeReadingThem) {
  const Scratch scratch;
  const fs::path file = scratch.write("sparse.pdf", "%PDF-1.7\n");
  fs::resize_file(file, 1ULL << 40);
  expect_error(extract(file), ErrorCode::kTooLarge, "sparse.pdf", "1048576.0 MB");
}

TEST(ExtractFile, ShowsOddNamesSafely) {
  EXPECT_EQ(shown_name("/a/b/report.pdf"), "report.pdf");
  EXPECT_EQ(shown_name("/a/evil\x1B[2Jname\n.pdf"), "evil\xEF\xBF\xBD[2Jname\xEF\xBF\xBD.pdf");
  EXPECT_EQ(shown_name("/a/bad\xFF.pdf"), "bad\xEF\xBF\xBD.pdf");
}

TEST(SkipReason, LeavesOutWhatIsNotForReading) {
  for (const char* path :
       {"photo.JPG", "a/b.png", "x.tar.gz", "lib.so", "libz.so.1.2", "song.mp3", "model.safetensors", "app.min.js",
        "page.css.map", "notes.txt~", "node_modules/x/index.js", "src/__pycache__/a.py", ".git/config", "a/.git/HEAD",
        "/home/me/project/.git/config", "/home/me/project/node_modules/x.js", ".hidden/notes.md", ".cache"}) {
    EXPECT_NE(skip_reason(path), "") << path;
  }
}

TEST(SkipReason, LeavesOutSecrets) {
  for (const char* path : {".env", "app/.env.production", "prod.env", "server.pem", "id_rsa", "id_ed25519", "tls.key",
                           ".netrc", "credentials", "credentials.json", ".aws/config", ".ssh/config", "store.p12",
                           "secrets.yaml", ".npmrc", ".pgpass", "vpn.ovpn", "passwords.kdbx", "terraform.tfvars"}) {
    EXPECT_EQ(skip_reason(path), "secret") << path;
  }
}

TEST(SkipReason, KeepsWhatLooksAlike) {
  for (const char* path :
       {"report.pdf", "a/b/main.cpp", "README", "keyboard.py", "environment.md", ".env.example", "credentials_test.cpp",
        "secret_santa.txt", ".gitignore", ".github/workflows/ci.yml", "monkey.txt", "id_rsa.pub",
        "/home/me/.local/share/notes/a.md", "build/notes.txt", "tokenizer.json", "keys.md", "CMakeLists.txt"}) {
    EXPECT_EQ(skip_reason(path), "") << path;
  }
}

}  // namespace
}  // namespace lectern::retrieval

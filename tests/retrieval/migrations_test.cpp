// SPDX-License-Identifier: GPL-3.0-or-later
#include "store/migrations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "retrieval/library.h"
#include "store/content_hash.h"
#include "store/durable_file.h"
#include "support/fakes.h"
#include "support/scratch.h"

namespace lectern::retrieval {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

ContentHash file_hash(const fs::path& file) { return hash_of(read_bounded(file, 1 << 26).value()); }

TEST(Migrations, NewLibraryStandsOnTheNewestVersion) {
  const test::Scratch scratch;
  EXPECT_EQ(Library::open(scratch / "l").value()->status()->schema_version, newest_schema());
  const Database database(scratch / "l/library.sqlite", Database::Role::kInspect);
  EXPECT_EQ(database.integer("PRAGMA application_id"), kApplicationId);
  EXPECT_EQ(database.integer("PRAGMA user_version"), newest_schema());
}

TEST(Migrations, EachStepIsWholeOrNotThere) {
  const test::Scratch scratch;
  const Database database(scratch / "db", Database::Role::kWriter);
  const std::array<const char*, 3> broken = {"CREATE TABLE a(x)",
                                             "ALTER TABLE a ADD COLUMN y; INSERT INTO a VALUES (1, 2)",
                                             "DELETE FROM a; CREATE TABLE b(x); SELECT nonsense FROM nowhere"};
  EXPECT_THROW(migrate(database, broken), SqliteError);
  EXPECT_EQ(database.integer("PRAGMA user_version"), 2);
  EXPECT_EQ(database.integer("SELECT count(*) FROM a"), 1);
  EXPECT_EQ(database.integer("SELECT count(*) FROM sqlite_schema"), 1);

  const std::array<const char*, 3> repaired = {broken[0], broken[1], "CREATE TABLE b(x)"};
  migrate(database, repaired);
  EXPECT_EQ(database.integer("PRAGMA user_version"), 3);
  EXPECT_EQ(database.integer("SELECT count(*) FROM a"), 1) << "steps that were taken are not taken again";
  migrate(database, repaired);
  EXPECT_EQ(database.integer("PRAGMA user_version"), 3);
}

TEST(Migrations, NewerLibraryIsRefusedWithoutChangingAByte) {
  const test::Scratch scratch;
  const fs::path file = scratch / "l/library.sqlite";
  Library::open(scratch / "l").value().reset();
  {
    const Database database(file, Database::Role::kWriter);
    database.run("PRAGMA user_version = 999; CREATE TABLE of_the_future(x)");
  }
  const ContentHash before = file_hash(file);
  for (int attempt = 0; attempt < 2; ++attempt) {
    const auto opened = Library::open(scratch / "l");
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, ErrorCode::kNewerVersion);
    EXPECT_THAT(opened.error().message, HasSubstr("newer Lectern (format 999)"));
    EXPECT_EQ(file_hash(file), before);
  }
}

TEST(Migrations, NewerVersionThatIsOnlyInTheJournalIsSeen) {
  const test::Scratch scratch;
  Library::open(scratch / "l").value().reset();
  fs::create_directory(scratch / "copy");
  {
    const Database database(scratch / "l/library.sqlite", Database::Role::kWriter);
    database.run("PRAGMA user_version = 999");
    // As after a crash: the journal has not reached the library file.
    fs::copy_file(scratch / "l/library.sqlite", scratch / "copy/library.sqlite");
    fs::copy_file(scratch / "l/library.sqlite-wal", scratch / "copy/library.sqlite-wal");
  }
  const ContentHash file = file_hash(scratch / "copy/library.sqlite");
  const ContentHash journal = file_hash(scratch / "copy/library.sqlite-wal");
  EXPECT_EQ(Library::open(scratch / "copy").error().code, ErrorCode::kNewerVersion);
  EXPECT_EQ(file_hash(scratch / "copy/library.sqlite"), file);
  EXPECT_EQ(file_hash(scratch / "copy/library.sqlite-wal"), journal);
}

// One library of every released version, so that each stays readable.
TEST(Migrations, LibrariesOfReleasedVersionsOpen) {
  for (const char* name : {"library_v1.sqlite"}) {
    const test::Scratch scratch;
    fs::create_directory(scratch / "l");
    fs::copy_file(fs::path(TEST_DATA) / name, scratch / "l/library.sqlite");
    const auto library = Library::open(scratch / "l");
    ASSERT_TRUE(library) << library.error().message;
    const LibraryStatus status = *(*library)->status();
    EXPECT_EQ(status.schema_version, newest_schema());
    EXPECT_EQ(status.documents, 3);
    EXPECT_EQ(status.embedded_chunks, status.chunks);
    fakes::HashingEmbedder embedder(16);
    const auto hits = *(*library)->search("whales pass the reef", {}, &embedder, {});
    ASSERT_FALSE(hits.empty());
    EXPECT_EQ(hits[0].word_rank, 1);
    EXPECT_EQ(hits[0].page, 1U);
    const ExtractedPage page = *(*library)->page(hits[0].document, 0);
    EXPECT_THAT(page.text, HasSubstr("Whales"));
    EXPECT_FALSE(page.words.empty());
  }
}

}  // namespace
}  // namespace lectern::retrieval

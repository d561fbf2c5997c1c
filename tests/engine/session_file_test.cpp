// SPDX-License-Identifier: GPL-3.0-or-later
// A sequence that was written to a file and read again gives the same logits to the last bit; a file that is not what
// it should be gives nothing.
#include "runtime/session_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/checksum.h"
#include "core/durable_file.h"
#include "support/scratch.h"
#include "support/session_model.h"

namespace lectern::engine {
namespace {

constexpr std::uint64_t kFingerprint = 77;

using Case = std::tuple<KvType, bool>;

class SessionFileTest : public testing::TestWithParam<Case> {
 protected:
  static SequenceOptions options() { return {.kv = std::get<0>(GetParam()), .with_mtp = std::get<1>(GetParam())}; }

  SessionKind kind() { return {kFingerprint, model_.model().options_of_sequence(options())}; }

  std::string written(const SequenceSnapshot& snapshot) {
    const FileHandle file(::open((place_ / "session").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600));
    const auto result = write_session(file.get(), snapshot, kFingerprint, model_.scheduler());
    EXPECT_TRUE(result.ok()) << result.error().message;
    std::string bytes(static_cast<std::size_t>(std::filesystem::file_size(place_ / "session")), '\0');
    EXPECT_EQ(::pread(file.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return bytes;
  }

  Result<SequenceSnapshot> read(const std::string& bytes, std::span<const TokenId> tokens, const SessionKind& kind) {
    const FileHandle file(::open(place_.write("session", bytes).c_str(), O_RDONLY));
    return read_session(file.get(), tokens, kind, model_.scheduler());
  }

  ErrorCode refusal(const std::string& bytes, std::span<const TokenId> tokens) {
    const auto snapshot = read(bytes, tokens, kind());
    EXPECT_FALSE(snapshot.ok());
    return snapshot.ok() ? ErrorCode::kCancelled : snapshot.error().code;
  }

  const test::Scratch place_;
  support::SessionModel model_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, SessionFileTest,
                         testing::Combine(testing::Values(KvType::kF32, KvType::kBF16, KvType::kQ8), testing::Bool()),
                         [](const auto& test) {
                           return "kv" + std::to_string(static_cast<int>(std::get<0>(test.param))) +
                                  (std::get<1>(test.param) ? "_mtp" : "");
                         });

TEST_P(SessionFileTest, TheNextLogitsAreTheSameBits) {
  const std::vector<TokenId> text = support::SessionModel::text(400);
  for (const std::size_t length : {1U, 2U, 15U, 16U, 17U, 63U, 64U, 65U, 127U, 128U, 129U, 255U, 256U, 257U, 391U}) {
    const std::span tokens = std::span(text).first(length);
    const SequenceSnapshot before = model_.read(tokens, options());
    const std::string bytes = written(before);
    EXPECT_EQ(session_file_bytes(before, model_.scheduler()).value(), static_cast<std::int64_t>(bytes.size()));
    auto after = read(bytes, tokens, kind());
    ASSERT_TRUE(after.ok()) << length << ": " << after.error().message;
    EXPECT_EQ(after->tokens, before.tokens);
    EXPECT_EQ(written(*after), bytes) << length;
    const std::span next = std::span(text).subspan(length, 9);
    EXPECT_EQ(model_.logits(std::move(after).value(), next), model_.logits(model_.fork(before), next)) << length;
  }
}

// The module is not fed all that was written while guesses did not pay.
TEST_P(SessionFileTest, TheMtpModuleMayHaveReadLess) {
  if (!options().with_mtp) GTEST_SKIP() << "There is no module.";
  const std::vector<TokenId> text = support::SessionModel::text(60);
  const std::span tokens = std::span(text).first(50);
  for (const std::int64_t rows : {0, 1, 20, 48}) {
    SequenceSnapshot before = model_.read(tokens, options());
    before.state.mtp_cache().truncate(rows);
    const std::string bytes = written(before);
    auto after = read(bytes, tokens, kind());
    ASSERT_TRUE(after.ok()) << rows << ": " << after.error().message;
    EXPECT_EQ(after->state.mtp_cache().length(), rows);
    EXPECT_EQ(written(*after), bytes) << rows;
    const std::span next = std::span(text).subspan(50);
    EXPECT_EQ(model_.logits(std::move(after).value(), next), model_.logits(std::move(before), next)) << rows;
  }
}

TEST_P(SessionFileTest, DamageAnywhereIsNoticed) {
  const std::vector<TokenId> tokens = support::SessionModel::text(21);
  const std::string right = written(model_.read(tokens, options()));
  ASSERT_TRUE(read(right, tokens, kind()).ok());
  for (std::size_t at = 0; at < right.size(); at += at < sizeof(SessionHeader) + 256 ? 1 : 37) {
    std::string wrong = right;
    wrong[at] = static_cast<char>(wrong[at] ^ (1 << at % 8));
    const ErrorCode code = refusal(wrong, tokens);
    EXPECT_TRUE(code == ErrorCode::kCorrupt || code == ErrorCode::kUnsupported) << at;
  }
}

TEST_P(SessionFileTest, OnlyAFileOfTheRightLengthIsUsed) {
  const std::vector<TokenId> tokens = support::SessionModel::text(21);
  const std::string right = written(model_.read(tokens, options()));
  for (std::size_t length = 0; length < right.size(); length += length < 256 ? 1 : 113) {
    EXPECT_EQ(refusal(right.substr(0, length), tokens), ErrorCode::kCorrupt) << length;
  }
  EXPECT_EQ(refusal(right.substr(0, right.size() - 1), tokens), ErrorCode::kCorrupt);
  EXPECT_EQ(refusal(right + '\0', tokens), ErrorCode::kCorrupt);
  EXPECT_EQ(refusal(right + right, tokens), ErrorCode::kCorrupt);
}

TEST_P(SessionFileTest, PiecesOfAnotherFileAreNoticed) {
  std::vector<TokenId> tokens = support::SessionModel::text(21);
  const std::string one = written(model_.read(tokens, options()));
  ++tokens[3];
  const std::string other = written(model_.read(tokens, options()));
  ASSERT_EQ(one.size(), other.size());
  EXPECT_EQ(refusal(one, tokens), ErrorCode::kCorrupt);
  const std::size_t middle = sizeof(SessionHeader) + tokens.size() * sizeof(TokenId) + 8;
  EXPECT_EQ(refusal(other.substr(0, middle) + one.substr(middle), tokens), ErrorCode::kCorrupt);
}

TEST_P(SessionFileTest, AnotherModelSettingOrTextIsNotUsed) {
  const std::vector<TokenId> tokens = support::SessionModel::text(21);
  const std::string right = written(model_.read(tokens, options()));
  SessionKind other = kind();
  other.fingerprint += 1;
  EXPECT_FALSE(read(right, tokens, other).ok());
  other = kind();
  other.options.yarn = {.factor = 2, .original_context = 2048};
  EXPECT_FALSE(read(right, tokens, other).ok());
  other = kind();
  other.options.kv = options().kv == KvType::kQ8 ? KvType::kF32 : KvType::kQ8;
  EXPECT_FALSE(read(right, tokens, other).ok());
  other = kind();
  other.options.with_mtp = !other.options.with_mtp;
  EXPECT_FALSE(read(right, tokens, other).ok());
  EXPECT_FALSE(read(right, std::span(tokens).first(20), kind()).ok());
  EXPECT_FALSE(read(right, support::SessionModel::text(22), kind()).ok());
}

// The checksums are no secret: what a header claims must not be believed for that reason.
TEST_P(SessionFileTest, AHeaderThatAgreesWithItselfIsNotBelieved) {
  const std::vector<TokenId> tokens = support::SessionModel::text(21);
  const std::string right = written(model_.read(tokens, options()));
  const auto forged = [&right](auto change) {
    SessionHeader header;
    std::memcpy(&header, right.data(), sizeof header);
    change(header);
    header.checksum = checksum(std::as_bytes(std::span(&header, 1)).first(sizeof header - sizeof header.checksum));
    std::string bytes = right;
    std::memcpy(bytes.data(), &header, sizeof header);
    return bytes;
  };
  EXPECT_TRUE(read(forged([](SessionHeader&) {}), tokens, kind()).ok());
  EXPECT_EQ(refusal(forged([](SessionHeader& h) { ++h.version; }), tokens), ErrorCode::kUnsupported);
  for (const std::int64_t number : {std::int64_t{-1}, std::int64_t{0}, std::int64_t{1}, std::int64_t{1} << 62}) {
    EXPECT_EQ(refusal(forged([&](SessionHeader& h) { h.tokens = number; }), tokens), ErrorCode::kCorrupt);
    EXPECT_EQ(refusal(forged([&](SessionHeader& h) { h.file_bytes = number; }), tokens), ErrorCode::kCorrupt);
    if (number != 0) {
      EXPECT_EQ(refusal(forged([&](SessionHeader& h) { h.hidden = number; }), tokens), ErrorCode::kCorrupt);
    }
  }
  EXPECT_EQ(refusal(forged([](SessionHeader& h) { h.hidden = h.hidden == 0 ? 64 : 0; }), tokens), ErrorCode::kCorrupt);
  EXPECT_EQ(refusal(forged([](SessionHeader& h) { ++h.shape; }), tokens), ErrorCode::kCorrupt);
  for (const std::int64_t rows : {std::int64_t{-1}, std::int64_t{1}, std::int64_t{21}, std::int64_t{1} << 62}) {
    EXPECT_EQ(refusal(forged([rows](SessionHeader& h) { h.mtp_rows = rows; }), tokens), ErrorCode::kCorrupt) << rows;
  }
}

TEST_P(SessionFileTest, ASequenceInTheMiddleOfAPassIsNotWritten) {
  SequenceSnapshot snapshot = model_.read(support::SessionModel::text(21), options());
  snapshot.tokens.pop_back();
  EXPECT_FALSE(session_file_bytes(snapshot, model_.scheduler()).ok());
}

TEST_P(SessionFileTest, AFullDiskIsAnError) {
  const SequenceSnapshot snapshot = model_.read(support::SessionModel::text(21), options());
  const FileHandle full(::open("/dev/full", O_WRONLY));
  ASSERT_TRUE(full.open());
  const auto result = write_session(full.get(), snapshot, kFingerprint, model_.scheduler());
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kIo);
}

TEST(ChecksumTest, EveryBitAndTheLengthCount) {
  std::vector<std::byte> bytes(100, std::byte{0});
  const std::uint64_t zeros = checksum(bytes);
  EXPECT_NE(checksum(bytes, 1), zeros);
  for (std::size_t length = 0; length < 100; ++length) EXPECT_NE(checksum(std::span(bytes).first(length)), zeros);
  for (std::size_t bit = 0; bit < 800; ++bit) {
    bytes[bit / 8] = static_cast<std::byte>(1U << bit % 8);
    EXPECT_NE(checksum(bytes), zeros) << bit;
    bytes[bit / 8] = std::byte{0};
  }
  EXPECT_EQ(checksum(bytes), zeros);
  std::vector<std::byte> counted;
  for (int i = 0; i < 75; ++i) counted.push_back(static_cast<std::byte>(i));
  EXPECT_EQ(checksum(counted, 5), 15984239702905532613U) << "files of earlier programs could not be read any more";
}

TEST(DurableFileTest, AppearsWholeOrNotAtAll) {
  const test::Scratch place;
  place.write("name", "old");
  const FileHandle directory(::open(place.path().c_str(), O_RDONLY | O_DIRECTORY));
  const auto content = [&] {
    std::ifstream file(place / "name");
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const auto names = [&] {
    const std::filesystem::directory_iterator list(place.path());
    return std::distance(begin(list), end(list));
  };
  const std::string fresh = "new";
  {
    const DurableFile file(directory.get(), "name", ".part-");
    ASSERT_TRUE(file.open());
    EXPECT_TRUE(write_all(file.descriptor(), std::as_bytes(std::span(fresh))));
    EXPECT_EQ(names(), 2);
  }
  EXPECT_EQ(content(), "old");
  EXPECT_EQ(names(), 1);
  DurableFile file(directory.get(), "name", ".part-");
  EXPECT_TRUE(write_all(file.descriptor(), std::as_bytes(std::span(fresh))));
  EXPECT_TRUE(file.commit());
  EXPECT_EQ(content(), "new");
  EXPECT_EQ(names(), 1);
  struct stat status = {};
  ASSERT_EQ(::stat((place / "name").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
}

}  // namespace
}  // namespace lectern::engine

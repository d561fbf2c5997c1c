// SPDX-License-Identifier: GPL-3.0-or-later
// Sequences that are kept and found again, in memory and on the disk.
#include "runtime/session_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/session_directory.h"
#include "support/scratch.h"
#include "support/session_model.h"

namespace lectern::engine {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kPlenty = std::int64_t{1} << 30;
const SequenceOptions kOptions = {.kv = KvType::kBF16, .with_mtp = true};

class SessionCacheTest : public testing::Test {
 protected:
  SessionCache in_memory(std::int64_t bytes = kPlenty) {
    SessionOptions options;
    options.memory_bytes = bytes;
    return {model_.scheduler(), "model", options};
  }

  std::unique_ptr<SessionCache> on_disk(const std::string& fingerprint = "model", std::int64_t disk_bytes = kPlenty,
                                        std::int64_t checkpoint_tokens = 100) {
    const SessionOptions options = {.memory_bytes = kPlenty,
                                    .checkpoint_tokens = checkpoint_tokens,
                                    .directory = sessions_,
                                    .disk_bytes = disk_bytes};
    return std::make_unique<SessionCache>(model_.scheduler(), fingerprint, options);
  }

  static std::vector<TokenId> text(std::int64_t length) { return support::SessionModel::text(length); }

  // The text of another document.
  static std::vector<TokenId> other_text(std::int64_t length, TokenId document = 1) {
    std::vector<TokenId> tokens = text(length);
    for (TokenId& token : tokens) token = (token + document) % 96;
    return tokens;
  }

  SequenceSnapshot read(const std::vector<TokenId>& tokens) { return model_.read(tokens, kOptions); }

  static std::int64_t found(SessionCache& cache, const std::vector<TokenId>& prompt,
                            const SequenceOptions& options = kOptions) {
    const auto snapshot = cache.find(prompt, options);
    return snapshot ? static_cast<std::int64_t>(snapshot->tokens.size()) : 0;
  }

  // A prompt with its checkpoints and then a reply, as the engine does it.
  void converse(SessionCache& cache, const std::vector<TokenId>& prompt, const std::vector<std::int64_t>& checkpoints,
                const std::vector<TokenId>& reply) {
    static_cast<void>(cache.find(prompt, kOptions));
    for (const std::int64_t at : checkpoints) cache.store(read({prompt.begin(), prompt.begin() + at}));
    std::vector<TokenId> all = prompt;
    all.insert(all.end(), reply.begin(), reply.end());
    cache.store(read(all));
  }

  // Lengths of the stored sequences, tips negative.
  std::multiset<std::int64_t> stored() const {
    std::multiset<std::int64_t> lengths;
    for (const auto& entry : fs::directory_iterator(sessions_)) {
      const auto name = SessionName::parse(entry.path().filename().string());
      EXPECT_TRUE(name) << entry.path();
      if (name) lengths.insert(name->role == SessionRole::kTip ? -name->tokens : name->tokens);
    }
    return lengths;
  }

  fs::path only_file() const {
    EXPECT_EQ(std::distance(fs::directory_iterator(sessions_), fs::directory_iterator()), 1);
    return fs::directory_iterator(sessions_)->path();
  }

  // As if the file had been used so long ago.
  static void age(const fs::path& file, int minutes) {
    fs::last_write_time(file, fs::file_time_type::clock::now() - std::chrono::minutes(minutes));
  }

  const test::Scratch place_;
  const fs::path sessions_ = place_ / "sessions";
  support::SessionModel model_;
};

TEST_F(SessionCacheTest, GivesTheLongestBeginningThatLeavesSomethingToRead) {
  SessionCache cache = in_memory();
  EXPECT_EQ(found(cache, text(50)), 0);
  for (const int length : {10, 20, 40}) cache.store(read(text(length)));
  EXPECT_EQ(found(cache, text(50)), 40);
  EXPECT_EQ(found(cache, text(41)), 40);
  EXPECT_EQ(found(cache, text(40)), 20);
  EXPECT_EQ(found(cache, text(10)), 0);
  EXPECT_EQ(found(cache, {}), 0);
  std::vector<TokenId> differs = text(50);
  differs[15] += 1;
  EXPECT_EQ(found(cache, differs), 10);
}

TEST_F(SessionCacheTest, OtherOptionsAreOtherSequences) {
  SessionCache cache = in_memory();
  cache.store(read(text(20)));
  EXPECT_EQ(found(cache, text(30), {.kv = KvType::kQ8, .with_mtp = true}), 0);
  EXPECT_EQ(found(cache, text(30), {.kv = KvType::kBF16, .with_mtp = false}), 0);
  SequenceOptions stretched = kOptions;
  stretched.yarn = {.factor = 2, .original_context = 2048};
  EXPECT_EQ(found(cache, text(30), stretched), 0);
  cache.store(model_.read(text(25), stretched));
  EXPECT_EQ(found(cache, text(30), stretched), 25);
  EXPECT_EQ(found(cache, text(30)), 20);
  stretched.yarn.factor = 3;
  EXPECT_EQ(found(cache, text(30), stretched), 0);
}

TEST_F(SessionCacheTest, WhatIsFoundGoesOnByItself) {
  SessionCache cache = in_memory();
  const std::vector<TokenId> next = {1, 2, 3, 4, 5};
  const std::vector<TokenId> other = {9, 8, 7};
  const std::vector<float> expected = model_.logits(read(text(70)), next);
  const std::vector<float> expected_other = model_.logits(read(text(70)), other);
  cache.store(read(text(70)));
  auto one = cache.find(text(80), kOptions);
  auto two = cache.find(text(80), kOptions);
  ASSERT_TRUE(one && two);
  EXPECT_EQ(model_.logits(std::move(*one), next), expected);
  EXPECT_EQ(model_.logits(std::move(*two), other), expected_other);
  auto three = cache.find(text(80), kOptions);
  ASSERT_TRUE(three);
  EXPECT_EQ(model_.logits(std::move(*three), next), expected);
}

TEST_F(SessionCacheTest, CheckpointsOfOneSequenceShareTheirKeysAndValues) {
  SessionCache cache = in_memory();
  TransformerSequence sequence(model_.scheduler(), model_.model().new_sequence(kOptions).value(), 2);
  sequence.on_boundary([&](SequenceSnapshot snapshot) { cache.store(std::move(snapshot)); });
  const std::vector<TokenId> tokens = text(64);
  std::vector<std::int64_t> bytes = {0};
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(sequence.append(tokens, false, {}).ok());
    sequence.at_boundary();
    bytes.push_back(cache.bytes_in_memory());
  }
  // Every checkpoint costs as much as the first, though the last is ten times as long.
  EXPECT_LE(bytes[10] - bytes[9], bytes[1] + bytes[1] / 4);
  EXPECT_GT(bytes[10], bytes[9]);
}

TEST_F(SessionCacheTest, TheLeastRecentlyUsedGoesFirst) {
  const std::int64_t one = [&] {
    SessionCache cache = in_memory();
    cache.store(read(text(30)));
    return cache.bytes_in_memory();
  }();
  SessionCache cache = in_memory(3 * one + one / 2);
  for (const TokenId document : {1, 2, 3}) cache.store(read(other_text(30, document)));
  EXPECT_EQ(cache.bytes_in_memory(), 3 * one);
  EXPECT_EQ(found(cache, other_text(31, 1)), 30);
  cache.store(read(other_text(30, 4)));
  EXPECT_EQ(cache.bytes_in_memory(), 3 * one);
  EXPECT_EQ(found(cache, other_text(31, 2)), 0);
  for (const TokenId document : {1, 3, 4}) EXPECT_EQ(found(cache, other_text(31, document)), 30) << document;
}

TEST_F(SessionCacheTest, WhatDoesNotFitIsNotKeptAndDrivesNothingOut) {
  const SequenceSnapshot small = read(text(10));
  SessionCache cache = in_memory(small.state.bytes() + 1000);
  cache.store(model_.fork(small));
  cache.store(read(other_text(500)));
  EXPECT_EQ(found(cache, text(20)), 10);
  EXPECT_EQ(found(cache, other_text(600)), 0);
  SessionCache none = in_memory(0);
  none.store(read(text(10)));
  EXPECT_EQ(found(none, text(20)), 0);
  EXPECT_EQ(none.bytes_in_memory(), 0);
}

TEST_F(SessionCacheTest, MemoryDoesNotGrowWhenTheSameIsStoredAgain) {
  SessionCache cache = in_memory();
  for (const int length : {10, 20, 30}) cache.store(read(text(length)));
  const std::int64_t before = cache.bytes_in_memory();
  for (const int length : {20, 30, 10}) cache.store(read(text(length)));
  EXPECT_EQ(cache.bytes_in_memory(), before);
}

TEST_F(SessionCacheTest, AnotherProgramFindsItOnTheDisk) {
  const std::vector<TokenId> next = {1, 2, 3, 4, 5};
  on_disk()->store(read(text(130)));
  const auto cache = on_disk();
  EXPECT_EQ(cache->bytes_in_memory(), 0);
  auto snapshot = cache->find(text(200), kOptions);
  ASSERT_TRUE(snapshot);
  EXPECT_EQ(snapshot->tokens, text(130));
  EXPECT_EQ(model_.logits(std::move(*snapshot), next), model_.logits(read(text(130)), next));
  EXPECT_GT(cache->bytes_in_memory(), 0) << "the next time it need not be read from the disk";
  EXPECT_EQ(cache->bytes_on_disk(), static_cast<std::int64_t>(fs::file_size(only_file())));
  EXPECT_EQ(found(*on_disk(), text(130)), 0);
  EXPECT_EQ(found(*on_disk("another model"), text(200)), 0);
  EXPECT_EQ(found(*on_disk(), text(200), {.kv = KvType::kF32, .with_mtp = true}), 0);
  EXPECT_EQ(found(*on_disk(), text(200)), 130) << "what is of no use to one model stays for the other";
}

TEST_F(SessionCacheTest, TheDiskIsReadOnlyForWhatMemoryLacks) {
  const auto cache = on_disk();
  cache->store(read(text(130)));
  std::ofstream(only_file(), std::ios::binary) << "nonsense";
  EXPECT_EQ(found(*cache, text(200)), 130);
  EXPECT_TRUE(fs::exists(only_file()));
}

TEST_F(SessionCacheTest, DamagedFilesAreDeletedAndTheNextBestServes) {
  on_disk()->store(read(text(100)));
  const fs::path shorter = only_file();
  on_disk()->store(read(text(150)));
  fs::path longer;
  for (const auto& entry : fs::directory_iterator(sessions_)) {
    if (entry.path() != shorter) longer = entry.path();
  }
  std::fstream file(longer, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(5000);
  file.put('\x5A');
  file.close();
  EXPECT_EQ(found(*on_disk(), text(200)), 100);
  EXPECT_FALSE(fs::exists(longer));
  fs::resize_file(shorter, fs::file_size(shorter) / 2);
  EXPECT_EQ(found(*on_disk(), text(200)), 0);
  EXPECT_EQ(stored().size(), 0U);
}

TEST_F(SessionCacheTest, AFileUnderAnotherNameIsNotUsed) {
  on_disk()->store(read(text(100)));
  on_disk()->store(read(other_text(100)));
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(sessions_)) files.push_back(entry.path());
  ASSERT_EQ(files.size(), 2U);
  fs::rename(files[0], place_ / "swapped");
  fs::rename(files[1], files[0]);
  fs::rename(place_ / "swapped", files[1]);
  EXPECT_EQ(found(*on_disk(), text(200)), 0);
  EXPECT_EQ(found(*on_disk(), other_text(200)), 0);
}

TEST_F(SessionCacheTest, TheQuotaHoldsAndTheFilesUsedLongestAgoGo) {
  on_disk()->store(read(other_text(100, 1)));
  const auto one = static_cast<std::int64_t>(fs::file_size(only_file()));
  age(only_file(), 30);
  const auto cache = on_disk("model", 3 * one + one / 2);
  for (const TokenId document : {2, 3}) {
    cache->store(read(other_text(100, document)));
    for (const auto& entry : fs::directory_iterator(sessions_)) {
      if (fs::last_write_time(entry) > fs::file_time_type::clock::now() - std::chrono::minutes(1)) {
        age(entry, 30 - document);
      }
    }
  }
  EXPECT_EQ(cache->bytes_on_disk(), 3 * one);
  EXPECT_EQ(found(*on_disk(), other_text(110, 1)), 100);  // from the disk: used now
  EXPECT_EQ(found(*cache, other_text(110, 2)), 100);      // from memory: used as well
  cache->store(read(other_text(100, 4)));
  EXPECT_EQ(cache->bytes_on_disk(), 3 * one);
  for (const TokenId document : {1, 2, 4}) EXPECT_EQ(found(*on_disk(), other_text(110, document)), 100) << document;
  EXPECT_EQ(found(*on_disk(), other_text(110, 3)), 0);
  const auto tiny = on_disk("model", one - 1);
  tiny->store(read(other_text(100, 5)));
  EXPECT_EQ(tiny->bytes_on_disk(), 3 * one) << "what can never fit must not drive out what is there";
}

TEST_F(SessionCacheTest, FilesOfOthersAreLeftAlone) {
  for (const char* name : {"notes.txt", "lectern-notes.tip", "lectern-0000000000000001-0000000000000001-xyz.tip"}) {
    place_.write(std::string("sessions/") + name, "mine");
  }
  fs::permissions(sessions_, fs::perms::owner_all);
  const auto cache = on_disk("model", 100'000);
  for (const TokenId document : {1, 2, 3, 4, 5, 6}) cache->store(read(other_text(100, document)));
  EXPECT_LE(cache->bytes_on_disk(), 100'000);
  for (const char* name : {"notes.txt", "lectern-notes.tip", "lectern-0000000000000001-0000000000000001-xyz.tip"}) {
    EXPECT_TRUE(fs::exists(sessions_ / name)) << name;
  }
}

TEST_F(SessionCacheTest, NobodyElseCanReadWhatIsStored) {
  const ::mode_t mask = ::umask(0);
  on_disk()->store(read(text(100)));
  ::umask(mask);
  struct stat status = {};
  ASSERT_EQ(::stat(sessions_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0700U);
  ASSERT_EQ(::stat(only_file().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
}

TEST_F(SessionCacheTest, LinksAreNotFollowed) {
  on_disk()->store(read(text(100)));
  const fs::path file = only_file();
  fs::rename(file, place_ / "elsewhere");
  fs::create_symlink(place_ / "elsewhere", file);
  EXPECT_EQ(found(*on_disk(), text(200)), 0);
  fs::remove(file);
  fs::rename(place_ / "elsewhere", file);
  EXPECT_EQ(found(*on_disk(), text(200)), 100);
  fs::rename(sessions_, place_ / "real");
  fs::create_directory_symlink(place_ / "real", sessions_);
  EXPECT_EQ(found(*on_disk(), text(200)), 0);
  ASSERT_EQ(::mkfifo((place_ / "fifo").c_str(), 0600), 0);
  fs::remove(sessions_);
  fs::create_directory(sessions_);
  fs::rename(place_ / "fifo", sessions_ / file.filename());
  EXPECT_EQ(found(*on_disk(), text(200)), 0) << "and nothing waits for a pipe";
}

TEST_F(SessionCacheTest, AnUnusableDirectoryCostsNothingButTheDisk) {
  place_.write("sessions", "a file");
  const auto cache = on_disk();
  cache->store(read(text(100)));
  EXPECT_EQ(cache->bytes_on_disk(), 0);
  EXPECT_EQ(found(*cache, text(200)), 100);
}

TEST_F(SessionCacheTest, ADirectoryThatVanishesCostsNothingButTheDisk) {
  const auto cache = on_disk();
  cache->store(read(text(100)));
  fs::remove_all(sessions_);
  cache->store(read(text(150)));
  EXPECT_EQ(cache->bytes_on_disk(), 0);
  EXPECT_EQ(found(*cache, text(200)), 150);
}

TEST_F(SessionCacheTest, RemainsOfACrashAreRemovedWhenTheyAreOld) {
  static_cast<void>(on_disk());
  const fs::path fresh = place_.write("sessions/.unfinished-lectern-1.tip.5.0", "x");
  const fs::path old = place_.write("sessions/.unfinished-lectern-2.tip.5.0", "x");
  const fs::path foreign = place_.write("sessions/.unfinished-business", "x");
  age(old, 90);
  age(foreign, 90);
  static_cast<void>(on_disk());
  EXPECT_TRUE(fs::exists(fresh));
  EXPECT_FALSE(fs::exists(old));
  EXPECT_TRUE(fs::exists(foreign));
}

TEST_F(SessionCacheTest, OfAPromptTheLastCheckpointIsStoredAndOfAReplyItsEnd) {
  const auto cache = on_disk();
  converse(*cache, text(350), {20, 100, 200, 300, 345}, {1, 2, 3});
  EXPECT_EQ(stored(), (std::multiset<std::int64_t>{300, -353}));
  std::vector<TokenId> other_question = text(360);
  other_question[330] += 1;
  EXPECT_EQ(found(*on_disk(), other_question), 300);
}

TEST_F(SessionCacheTest, ACrashCostsHalfOfTheReadingAtMost) {
  const auto cache = on_disk();
  static_cast<void>(cache->find(text(2000), kOptions));
  std::int64_t files = 0;
  for (int at = 100; at < 1900; at += 100) {
    cache->store(read(text(at)));
    const auto lengths = stored();
    ASSERT_EQ(lengths.size(), 1U) << "each takes the place of the one before";
    EXPECT_GT(2 * -*lengths.begin(), at);
    files += -*lengths.begin() == at ? 1 : 0;
  }
  EXPECT_EQ(files, 5) << "100, 200, 400, 800, 1600";
}

TEST_F(SessionCacheTest, AConversationKeepsItsEndAndItsBeginning) {
  const auto cache = on_disk();
  std::vector<TokenId> all = text(350);
  for (int turn = 0; turn < 5; ++turn) {
    const auto length = static_cast<std::int64_t>(all.size());
    converse(*cache, all, turn == 0 ? std::vector<std::int64_t>{100, 200, 300} : std::vector<std::int64_t>{length - 2},
             {1, 2, 3});
    all.insert(all.end(), {1, 2, 3, 90, 91, 92, 93, 94});
  }
  EXPECT_EQ(stored(), (std::multiset<std::int64_t>{300, -385}));
}

TEST_F(SessionCacheTest, WithoutAStemOlderTipsStay) {
  const auto cache = on_disk();
  cache->store(read(text(100)));
  cache->store(read(text(150)));
  EXPECT_EQ(stored(), (std::multiset<std::int64_t>{-100, -150}));
}

TEST_F(SessionCacheTest, ProgramsMayShareADirectory) {
  const std::int64_t one = [&] {
    on_disk()->store(read(text(100)));
    return static_cast<std::int64_t>(fs::file_size(only_file()));
  }();
  const auto use = [&](int worker) {
    support::SessionModel model;
    SessionCache cache(
        model.scheduler(), "model",
        {.memory_bytes = 100'000, .checkpoint_tokens = 50, .directory = sessions_, .disk_bytes = 5 * one});
    for (int i = 0; i < 60; ++i) {
      const std::vector<TokenId> tokens = other_text(60 + 10 * (i % 5), i * (worker + 1) % 7);
      const auto known = cache.find(tokens, kOptions);
      if (known) {
        EXPECT_TRUE(std::equal(known->tokens.begin(), known->tokens.end(), tokens.begin()));
        EXPECT_EQ(known->state.length(), static_cast<std::int64_t>(known->tokens.size()));
      }
      cache.store(model.read(tokens, kOptions));
    }
  };
  std::vector<std::thread> workers;
  for (int worker = 0; worker < 3; ++worker) workers.emplace_back(use, worker);
  for (std::thread& worker : workers) worker.join();
  for (const auto& entry : fs::directory_iterator(sessions_)) {
    EXPECT_TRUE(SessionName::parse(entry.path().filename().string())) << entry.path();
  }
  EXPECT_LE(on_disk()->bytes_on_disk(), 8 * one) << "each may overlook what the others are writing";
}

TEST_F(SessionCacheTest, ManyThreadsMayUseOneCache) {
  const auto cache = on_disk("model", kPlenty, 50);
  const auto use = [&](int worker) {
    for (int i = 0; i < 30; ++i) {
      const std::vector<TokenId> tokens = other_text(40 + 7 * (i % 6), (i + worker) % 5);
      auto known = cache->find(tokens, kOptions);
      if (known) {
        EXPECT_TRUE(std::equal(known->tokens.begin(), known->tokens.end(), tokens.begin()));
        static_cast<void>(model_.logits(std::move(*known), std::vector<TokenId>{1, 2}));
      }
      TransformerSequence sequence(model_.scheduler(), model_.model().new_sequence(kOptions).value(), 2);
      ASSERT_TRUE(sequence.append(std::span(tokens).first(40), false, {}).ok());
      cache->store(sequence.snapshot().value());
    }
  };
  std::vector<std::thread> workers;
  for (int worker = 0; worker < 4; ++worker) workers.emplace_back(use, worker);
  for (std::thread& worker : workers) worker.join();
  for (TokenId document = 0; document < 5; ++document) EXPECT_EQ(found(*cache, other_text(60, document)), 40);
}

TEST(SessionNameTest, ReadsBackWhatItWrites) {
  const SessionName name = {0x0123456789ABCDEFU, 262144, ~std::uint64_t{0}, SessionRole::kStem};
  EXPECT_EQ(name.file_name(), "lectern-0123456789abcdef-0000000000040000-ffffffffffffffff.stem");
  EXPECT_EQ(SessionName::parse(name.file_name()), name);
  for (const char* wrong : {"", "lectern-", "lectern-0123456789abcdef-0000000000040000-ffffffffffffffff",
                            "lectern-0123456789abcdef-0000000000040000-ffffffffffffffff.tip2",
                            "lectern-0123456789ABCDEF-0000000000040000-ffffffffffffffff.tip",
                            "lectern-0123456789abcdef-ffffffffffffffff-ffffffffffffffff.tip",
                            "lectern-0123456789abcdef-0000000000000000-ffffffffffffffff.tip",
                            "lectern-0123456789abcdef-+000000000000001-ffffffffffffffff.tip",
                            "lectern-0123456789abcdef_0000000000040000-ffffffffffffffff.tip"}) {
    EXPECT_FALSE(SessionName::parse(wrong)) << wrong;
  }
}

}  // namespace
}  // namespace lectern::engine

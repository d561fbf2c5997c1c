// SPDX-License-Identifier: GPL-3.0-or-later
#include "core/mapped_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <stop_token>
#include <thread>
#include <utility>

#include "support/scratch.h"

namespace lectern::engine {
namespace {

constexpr std::size_t kSize = (std::size_t{130} << 20) + 12345;  // two pieces and a bit

std::byte expected_at(std::size_t index) { return static_cast<std::byte>((index >> 12) * 7 + index % 251); }

class MappedFileTest : public ::testing::Test {
 protected:
  MappedFileTest() {
    std::string content(kSize, '\0');
    for (std::size_t i = 0; i < kSize; ++i) content[i] = static_cast<char>(expected_at(i));
    std::ofstream(file_, std::ios::binary).write(content.data(), static_cast<std::streamsize>(kSize));
  }

  static bool holds(const MappedFile& file) {
    const auto bytes = file.bytes();
    for (std::size_t i = 0; i < kSize; i += 509) {
      if (bytes[i] != expected_at(i)) return false;
    }
    return bytes.size() == kSize && bytes[kSize - 1] == expected_at(kSize - 1);
  }

  test::Scratch scratch_;
  std::filesystem::path file_ = scratch_ / "weights";
};

TEST_F(MappedFileTest, MovesToMemoryUnderTheEyesOfReaders) {
  MappedFile file = MappedFile::open(file_).value();
  const std::byte* address = file.bytes().data();
  std::atomic<bool> done = false;
  std::atomic<bool> right = true;
  std::jthread reader([&] {
    while (!done) {
      if (!holds(file)) right = false;
    }
  });
  ASSERT_TRUE(file.move_to_memory(2, {}).ok());
  done = true;
  reader.join();
  EXPECT_TRUE(right);
  EXPECT_EQ(file.bytes().data(), address);
  std::filesystem::resize_file(file_, 0);  // no longer needed
  EXPECT_TRUE(holds(file));
  const MappedFile moved = std::move(file);
  EXPECT_TRUE(holds(moved));
}

TEST_F(MappedFileTest, StopsWhenAsked) {
  MappedFile file = MappedFile::open(file_).value();
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(file.move_to_memory(1, stop.get_token()).error().code, ErrorCode::kCancelled);
  EXPECT_TRUE(holds(file));
}

TEST_F(MappedFileTest, AFileCutShortMeanwhileIsAnError) {
  MappedFile file = MappedFile::open(file_).value();
  std::filesystem::resize_file(file_, 1000);
  EXPECT_EQ(file.move_to_memory(1, {}).error().code, ErrorCode::kIo);
}

}  // namespace
}  // namespace lectern::engine

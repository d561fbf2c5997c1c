// SPDX-License-Identifier: GPL-3.0-or-later
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "core/checksum.h"
#include "core/durable_file.h"
#include "fuzz/expect.h"
#include "runtime/session_file.h"
#include "support/session_model.h"

namespace {

using namespace lectern::engine;

constexpr std::uint64_t kFingerprint = 77;
constexpr std::int64_t kTokens = 5;

struct Target {
  support::SessionModel model;
  SessionKind kind = {kFingerprint, {.kv = KvType::kQ8, .with_mtp = true}};
  std::vector<TokenId> tokens = support::SessionModel::text(kTokens);
  std::vector<std::byte> right = written(model.read(tokens, kind.options));

  std::vector<std::byte> written(const SequenceSnapshot& snapshot) {
    const FileHandle file(::memfd_create("session", MFD_CLOEXEC));
    expect(write_session(file.get(), snapshot, kFingerprint, model.scheduler()).ok(), "what is at rest can be written");
    std::vector<std::byte> bytes(static_cast<std::size_t>(session_file_bytes(snapshot, model.scheduler()).value()));
    const auto count = static_cast<ssize_t>(bytes.size());
    expect(::lseek(file.get(), 0, SEEK_END) == count, "the length is known beforehand");
    expect(::pread(file.get(), bytes.data(), bytes.size(), 0) == count, "what was written can be read");
    return bytes;
  }
};

// Checksums that agree let damage through to what stands behind them: those of the header and of the first piece.
void make_agree(std::vector<std::byte>& file) {
  constexpr std::size_t kSummed = sizeof(SessionHeader) - sizeof(std::uint64_t);
  constexpr std::size_t kPiece = kTokens * sizeof(TokenId);
  if (file.size() < sizeof(SessionHeader) + kPiece + sizeof(std::uint64_t)) return;
  const std::uint64_t sum = checksum(std::span(file).first(kSummed));
  std::memcpy(file.data() + kSummed, &sum, sizeof sum);
  const std::uint64_t piece_sum = checksum(std::span(file).subspan(sizeof(SessionHeader), kPiece), sum);
  std::memcpy(file.data() + sizeof(SessionHeader) + kPiece, &piece_sum, sizeof piece_sum);
}

}  // namespace

// Changes of a right file: the first byte says whether checksums agree and how much is cut off, then every three bytes
// change one of it. All that may be accepted is the right file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Target target;
  std::vector<std::byte> bytes = target.right;
  if (size == 0) return 0;
  for (std::size_t i = 1; i + 2 < size; i += 3) {
    const std::size_t at = static_cast<std::size_t>(data[i] | data[i + 1] << 8) % bytes.size();
    bytes[at] ^= static_cast<std::byte>(data[i + 2]);
  }
  if (data[0] % 2 == 1) make_agree(bytes);
  if (data[0] % 4 >= 2) bytes.resize(bytes.size() * (data[0] / 4) / 64);
  const FileHandle file(::memfd_create("session", MFD_CLOEXEC));
  expect(write_all(file.get(), bytes), "memory takes the file");
  ::lseek(file.get(), 0, SEEK_SET);
  const auto snapshot = read_session(file.get(), target.tokens, target.kind, target.model.scheduler());
  expect(snapshot.ok() == (bytes == target.right), "the right file and no other is accepted");
  if (!snapshot.ok()) {
    expect(!snapshot.error().message.empty(), "every refusal has a reason");
    return 0;
  }
  expect(snapshot->tokens == target.tokens, "it is the text asked for");
  expect(target.written(*snapshot) == target.right, "what was read can be written again");
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "engine/result.h"
#include "engine/types.h"
#include "model/state.h"
#include "runtime/pass_scheduler.h"
#include "runtime/transformer_sequence.h"

// The file of a sequence at rest, version 2. All numbers are little-endian.
//
//   bytes 0 to 127   SessionHeader, its last number a checksum of the others
//   then pieces      tokens | hidden row of the last token, if any | layers in order: inputs of the convolution and
//                    recurrent state, or rows of keys and values | rows of the MTP module
//
// Each of these parts is cut into pieces of kPieceBytes, rows kept whole; every piece is followed by its checksum
// (core/checksum.h), whose seed is the header's checksum + the number of the piece in the file: what belongs to another
// file or another place is noticed as well. Keys and values are what Backend::save_rows() gives.
//
// Nothing in a file is believed: whoever reads one says which sequence it must hold, and every byte outside the pieces
// of states, keys and values must then be as expected, the file's length included. So no size ever comes from a file.
// The checksums tell accidents; against forgery the file's permissions must do.
namespace lectern::engine {

inline constexpr std::uint32_t kSessionFileVersion = 2;

// What a file must agree with besides the tokens.
struct SessionKind {
  std::uint64_t fingerprint = 0;  // of the model
  SequenceOptions options;        // as the sequence has them
};

struct SessionHeader {
  std::uint64_t magic = 0;
  std::uint32_t version = 0;
  std::uint32_t header_bytes = 0;
  std::uint64_t fingerprint = 0;
  std::uint32_t kv_type = 0;
  std::uint32_t with_mtp = 0;
  double yarn_factor = 0;  // 1: none, and then the following four are 0
  std::int64_t yarn_original_context = 0;
  double yarn_beta_fast = 0;
  double yarn_beta_slow = 0;
  double yarn_attention_factor = 0;
  std::int64_t tokens = 0;
  std::uint64_t tokens_sum = 0;  // sum_of_tokens()
  std::uint64_t shape = 0;       // checksum of the layers' kinds and widths
  std::int64_t hidden = 0;       // numbers of the hidden row: the model's width, or 0
  std::int64_t mtp_rows = 0;     // keys and values of the MTP module, fewer than tokens
  std::int64_t file_bytes = 0;
  std::uint64_t checksum = 0;

  bool operator==(const SessionHeader&) const = default;
};
static_assert(sizeof(SessionHeader) == 128);

// Tells sequences of tokens apart; extended token by token with chain().
std::uint64_t sum_of_tokens(std::span<const TokenId> tokens);

// Tells kinds apart, version of the format included.
std::uint64_t sum_of_kind(const SessionKind& kind);

// Length of the file that write_session() makes. Errors: kInvalidArgument (a sequence in the middle of a pass).
Result<std::int64_t> session_file_bytes(const SequenceSnapshot& snapshot, PassScheduler& scheduler);

// Both go through one buffer of about kPieceBytes and use the model in turns, one for every piece.
inline constexpr std::int64_t kPieceBytes = std::int64_t{8} << 20;

// Writes from the descriptor's position on. Errors: kIo, kInvalidArgument as above.
Result<void> write_session(int file, const SequenceSnapshot& snapshot, std::uint64_t fingerprint,
                           PassScheduler& scheduler);

// Reads a file, from its beginning, that must hold the state after `tokens`. Errors: kUnsupported (another version),
// kCorrupt (anything else is not as it must be), kIo, kOutOfMemory.
Result<SequenceSnapshot> read_session(int file, std::span<const TokenId> tokens, const SessionKind& kind,
                                      PassScheduler& scheduler);

}  // namespace lectern::engine

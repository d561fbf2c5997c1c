// SPDX-License-Identifier: Apache-2.0
#include "runtime/session_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "core/checksum.h"
#include "core/durable_file.h"
#include "ops/backend.h"

namespace lectern::engine {
namespace {

constexpr std::uint64_t kMagic = 0x3153'4553'5443'454CU;  // "LECTSES1"
constexpr std::int64_t kHeaderBytes = sizeof(SessionHeader);
constexpr std::int64_t kSumBytes = sizeof(std::uint64_t);

Error corrupt(const std::string& what) {
  return {ErrorCode::kCorrupt, "The session file " + what + "; the text is read anew."};
}

Error io_error(const char* action) {
  return {ErrorCode::kIo, std::string("The session file cannot be ") + action + ": " +
                              (errno == 0 ? "it ends too early" : std::strerror(errno)) + "."};
}

std::int64_t size_of(std::span<const std::byte> bytes) { return static_cast<std::int64_t>(bytes.size()); }

std::span<float> as_floats(std::span<std::byte> bytes) {
  return {reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float)};
}

// Moves `bytes` from a place in a sequence, counted in units of the part, into a buffer.
struct Save {
  Backend& backend;

  bool tokens(const std::vector<TokenId>& from, std::int64_t first, std::span<std::byte> to) const {
    std::memcpy(to.data(), from.data() + first, to.size());
    return true;
  }
  bool numbers(const std::vector<float>& from, std::int64_t first, std::span<std::byte> to) const {
    std::memcpy(to.data(), from.data() + first, to.size());
    return true;
  }
  bool numbers(const Buffer& from, std::int64_t first, std::span<std::byte> to) const {
    backend.download(from.data() + first, as_floats(to));
    return true;
  }
  bool rows(const KvCache& from, std::int64_t first, std::span<std::byte> to) const {
    backend.save_rows(from, first, size_of(to) / from.bytes_of_row(), to);
    return true;
  }
};

// The other way round; tokens are there already and compared. False: not as it must be.
struct Load {
  Backend& backend;

  bool tokens(const std::vector<TokenId>& expected, std::int64_t first, std::span<const std::byte> from) const {
    return std::memcmp(expected.data() + first, from.data(), from.size()) == 0;
  }
  bool numbers(std::vector<float>& to, std::int64_t first, std::span<const std::byte> from) const {
    std::memcpy(to.data() + first, from.data(), from.size());
    return true;
  }
  bool numbers(Buffer& to, std::int64_t first, std::span<std::byte> from) const {
    backend.upload(as_floats(from), to.data() + first);
    return true;
  }
  bool rows(KvCache& to, std::int64_t first, std::span<const std::byte> from) const {
    if (to.length() != first) return false;
    backend.load_rows(from, to);
    return true;
  }
};

// Gives every part of the file, in order, to `take`: the layer on whose device it is, how many units of how many bytes
// it has, and what moves some of them with a Save or a Load.
template <class Snapshot, class Take>
Result<void> each_part(Snapshot& snapshot, std::int64_t mtp_rows, const ModelConfig& config, const Take& take) {
  const auto length = static_cast<std::int64_t>(snapshot.tokens.size());
  const auto take_numbers = [&take](std::size_t layer, auto& from, std::int64_t count) {
    return take(layer, count, std::int64_t{sizeof(float)},
                [&from](const auto& move, std::int64_t first, auto bytes) { return move.numbers(from, first, bytes); });
  };
  const auto take_rows = [&take](std::size_t layer, auto& cache, std::int64_t count) {
    return take(layer, count, cache.bytes_of_row(),
                [&cache](const auto& move, std::int64_t first, auto bytes) { return move.rows(cache, first, bytes); });
  };
  ENGINE_CHECK(
      take(0, length, std::int64_t{sizeof(TokenId)}, [&snapshot](const auto& move, std::int64_t first, auto bytes) {
        return move.tokens(snapshot.tokens, first, bytes);
      }));
  ENGINE_CHECK(take_numbers(0, snapshot.hidden, static_cast<std::int64_t>(snapshot.hidden.size())));
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    if (config.layers[i] == LayerKind::kAttention) {
      ENGINE_CHECK(take_rows(i, snapshot.state.cache(i), length));
    } else {
      ENGINE_CHECK(take_numbers(i, *snapshot.state.delta(i).conv, snapshot.state.delta(i).conv->size()));
      ENGINE_CHECK(take_numbers(i, *snapshot.state.delta(i).recurrent, snapshot.state.delta(i).recurrent->size()));
    }
  }
  const std::size_t last = config.layers.size();  // behind the layers, on the last device
  return mtp_rows == 0 ? Result<void>() : take_rows(last, snapshot.state.mtp_cache(), mtp_rows);
}

std::int64_t units_of_piece(std::int64_t unit) { return std::max<std::int64_t>(1, kPieceBytes / unit); }

// Rows of the MTP module's cache that belong to the sequence.
std::int64_t mtp_rows_of(const SequenceSnapshot& snapshot) {
  return snapshot.hidden.empty() ? 0 : snapshot.state.mtp_cache().length();
}

std::int64_t file_bytes_of(const SequenceSnapshot& snapshot, std::int64_t mtp_rows, const ModelConfig& config) {
  std::int64_t bytes = kHeaderBytes;
  const auto add = [&bytes](std::size_t, std::int64_t count, std::int64_t unit, const auto&) {
    const std::int64_t at_once = units_of_piece(unit);
    bytes += count * unit + (count + at_once - 1) / at_once * kSumBytes;
    return Result<void>();
  };
  const auto measured = each_part(snapshot, mtp_rows, config, add);
  return measured.ok() ? bytes : 0;
}

// One piece after the other through one buffer.
class Pieces {
 public:
  Pieces(int file, std::uint64_t header_sum, PassScheduler& scheduler)
      : file_(file), header_sum_(header_sum), scheduler_(scheduler) {}

  template <class Mover>
  Result<void> write(std::size_t layer, std::int64_t count, std::int64_t unit, const Mover& mover) {
    return each_piece(count, unit, [&](std::int64_t first, std::span<std::byte> piece) -> Result<void> {
      scheduler_.exclusively(
          [&](Transformer& model) { return mover(Save{model.placement().of_layer(layer)}, first, piece); });
      const std::uint64_t sum = next_sum(piece);
      if (!write_all(file_, piece) || !write_all(file_, std::as_bytes(std::span(&sum, 1)))) return io_error("written");
      return {};
    });
  }

  template <class Mover>
  Result<void> read(std::size_t layer, std::int64_t count, std::int64_t unit, const Mover& mover) {
    return each_piece(count, unit, [&](std::int64_t first, std::span<std::byte> piece) -> Result<void> {
      std::uint64_t sum = 0;
      if (!read_all(file_, piece) || !read_all(file_, std::as_writable_bytes(std::span(&sum, 1)))) {
        return io_error("read");
      }
      if (sum != next_sum(piece)) return corrupt("is damaged");
      const bool right = scheduler_.exclusively(
          [&](Transformer& model) { return mover(Load{model.placement().of_layer(layer)}, first, piece); });
      return right ? Result<void>() : corrupt("is of another text");
    });
  }

 private:
  template <class Action>
  Result<void> each_piece(std::int64_t count, std::int64_t unit, const Action& action) {
    const std::int64_t at_once = units_of_piece(unit);
    for (std::int64_t first = 0; first < count; first += at_once) {
      const auto bytes = static_cast<std::size_t>(std::min(at_once, count - first) * unit);
      if (buffer_.size() < bytes) buffer_.resize(bytes);
      ENGINE_CHECK(action(first, std::span(buffer_).first(bytes)));
    }
    return {};
  }

  std::uint64_t next_sum(std::span<const std::byte> piece) { return checksum(piece, header_sum_ + pieces_++); }

  int file_;
  std::uint64_t header_sum_;
  PassScheduler& scheduler_;
  std::uint64_t pieces_ = 0;
  std::vector<std::byte> buffer_;
};

std::uint64_t sum_of_shape(const ModelConfig& config) {
  std::uint64_t sum = chain(0, config.layers.size());
  for (const LayerKind layer : config.layers) sum = chain(sum, static_cast<std::uint64_t>(layer));
  for (const std::int64_t width :
       {config.hidden_size, config.attention.kv_heads, config.attention.head_dim, config.conv_taps,
        config.conv_channels(), config.delta.value_heads, config.delta.key_dim, config.delta.value_dim}) {
    sum = chain(sum, static_cast<std::uint64_t>(width));
  }
  return sum;
}

std::uint64_t sum_of_header(const SessionHeader& header) {
  return checksum(std::as_bytes(std::span(&header, 1)).first(sizeof header - sizeof header.checksum));
}

// All but the length of the file and the checksum.
SessionHeader header_of(std::span<const TokenId> tokens, std::int64_t hidden, const SessionKind& kind,
                        const ModelConfig& config) {
  SessionHeader header;
  header.magic = kMagic;
  header.version = kSessionFileVersion;
  header.header_bytes = sizeof header;
  header.fingerprint = kind.fingerprint;
  header.kv_type = static_cast<std::uint32_t>(kind.options.kv);
  header.with_mtp = kind.options.with_mtp ? 1 : 0;
  header.yarn_factor = 1;
  if (const YarnScaling& yarn = kind.options.yarn; yarn.factor > 1) {
    header.yarn_factor = yarn.factor;
    header.yarn_original_context = yarn.original_context;
    header.yarn_beta_fast = yarn.beta_fast;
    header.yarn_beta_slow = yarn.beta_slow;
    header.yarn_attention_factor = yarn.attention_factor;
  }
  header.tokens = static_cast<std::int64_t>(tokens.size());
  header.tokens_sum = sum_of_tokens(tokens);
  header.shape = sum_of_shape(config);
  header.hidden = hidden;
  return header;
}

Result<void> check_at_rest(const SequenceSnapshot& snapshot, const ModelConfig& config) {
  const SequenceState& state = snapshot.state;
  const auto length = static_cast<std::int64_t>(snapshot.tokens.size());
  const auto hidden = static_cast<std::int64_t>(snapshot.hidden.size());
  const bool drafts = hidden > 0;
  const bool paired =
      !drafts || (hidden == config.hidden_size && state.has_mtp() && length > 0 && state.mtp_cache().length() < length);
  if (state.consistent() && state.tentative() == 0 && state.length() == length && paired) return {};
  return Error{ErrorCode::kInvalidArgument, "The sequence is in the middle of a pass and cannot be kept."};
}

// The header of the file, which is as `expected` but for what only it knows: whether there is a hidden row, and how
// much the MTP module has read.
Result<SessionHeader> read_header(int file, SessionHeader expected, std::int64_t width) {
  struct stat status = {};
  if (::fstat(file, &status) != 0) return io_error("read");
  if (!S_ISREG(status.st_mode) || status.st_size < kHeaderBytes) return corrupt("is too short");
  SessionHeader header;
  if (!read_all(file, std::as_writable_bytes(std::span(&header, 1)))) return io_error("read");
  if (header.magic != expected.magic) return corrupt("does not begin like one");
  if (header.version != expected.version) {
    return Error{ErrorCode::kUnsupported, "The session file has format version " + std::to_string(header.version) +
                                              ", this program reads " + std::to_string(expected.version) +
                                              "; the text is read anew."};
  }
  if (header.checksum != sum_of_header(header)) return corrupt("has a damaged header");
  if (header.hidden != 0 && (header.hidden != width || expected.with_mtp == 0)) return corrupt("is of another model");
  const std::int64_t most_mtp_rows = header.hidden == 0 ? 0 : expected.tokens - 1;
  if (header.mtp_rows < 0 || header.mtp_rows > most_mtp_rows) return corrupt("has a damaged header");
  if (header.file_bytes != status.st_size) return corrupt("does not have the length it states");
  expected.hidden = header.hidden;
  expected.mtp_rows = header.mtp_rows;
  expected.file_bytes = header.file_bytes;
  expected.checksum = sum_of_header(expected);
  if (header != expected) return corrupt("is of another model, setting or text");
  return header;
}

// A sequence of the right sizes, which `header` states, with room for what is to come.
Result<SequenceSnapshot> empty_snapshot(const SessionHeader& header, std::span<const TokenId> tokens,
                                        const SequenceOptions& options, PassScheduler& scheduler) {
  return scheduler.exclusively([&](Transformer& model) -> Result<SequenceSnapshot> {
    ENGINE_TRY(SequenceState state, model.new_sequence(options));
    SequenceSnapshot snapshot = {{tokens.begin(), tokens.end()}, std::move(state), {}};
    snapshot.hidden.resize(static_cast<std::size_t>(header.hidden));
    if (file_bytes_of(snapshot, header.mtp_rows, model.config()) != header.file_bytes) {
      return corrupt("does not have the right length");
    }
    ENGINE_CHECK(snapshot.state.reserve(header.tokens, model.placement()));
    if (header.mtp_rows > 0) {
      ENGINE_CHECK(model.placement().last().reserve_kv(snapshot.state.mtp_cache(), header.mtp_rows));
    }
    return snapshot;
  });
}

}  // namespace

std::uint64_t sum_of_tokens(std::span<const TokenId> tokens) {
  std::uint64_t sum = 0;
  for (const TokenId token : tokens) sum = chain(sum, static_cast<std::uint64_t>(token));
  return sum;
}

std::uint64_t sum_of_kind(const SessionKind& kind) {
  const SequenceOptions& options = kind.options;
  std::uint64_t sum = chain(kSessionFileVersion, kind.fingerprint);
  sum = chain(sum, static_cast<std::uint64_t>(options.kv));
  sum = chain(sum, options.with_mtp ? 1 : 0);
  if (options.yarn.factor <= 1) return sum;
  sum = chain(sum, static_cast<std::uint64_t>(options.yarn.original_context));
  for (const double number :
       {options.yarn.factor, options.yarn.beta_fast, options.yarn.beta_slow, options.yarn.attention_factor}) {
    sum = chain(sum, std::bit_cast<std::uint64_t>(number));
  }
  return sum;
}

Result<std::int64_t> session_file_bytes(const SequenceSnapshot& snapshot, PassScheduler& scheduler) {
  ENGINE_CHECK(check_at_rest(snapshot, scheduler.model().config()));
  return file_bytes_of(snapshot, mtp_rows_of(snapshot), scheduler.model().config());
}

Result<void> write_session(int file, const SequenceSnapshot& snapshot, std::uint64_t fingerprint,
                           PassScheduler& scheduler) {
  const ModelConfig& config = scheduler.model().config();
  ENGINE_TRY(const std::int64_t bytes, session_file_bytes(snapshot, scheduler));
  SessionHeader header = header_of(snapshot.tokens, static_cast<std::int64_t>(snapshot.hidden.size()),
                                   {fingerprint, snapshot.state.options()}, config);
  header.mtp_rows = mtp_rows_of(snapshot);
  header.file_bytes = bytes;
  header.checksum = sum_of_header(header);
  if (!write_all(file, std::as_bytes(std::span(&header, 1)))) return io_error("written");
  Pieces pieces(file, header.checksum, scheduler);
  return each_part(snapshot, header.mtp_rows, config,
                   [&pieces](std::size_t layer, std::int64_t count, std::int64_t unit, const auto& mover) {
                     return pieces.write(layer, count, unit, mover);
                   });
}

Result<SequenceSnapshot> read_session(int file, std::span<const TokenId> tokens, const SessionKind& kind,
                                      PassScheduler& scheduler) {
  const ModelConfig& config = scheduler.model().config();
  const SessionHeader expected = header_of(tokens, 0, kind, config);
  ENGINE_TRY(const SessionHeader header, read_header(file, expected, config.hidden_size));
  ENGINE_TRY(SequenceSnapshot snapshot, empty_snapshot(header, tokens, kind.options, scheduler));
  Pieces pieces(file, header.checksum, scheduler);
  const auto read = [&pieces](std::size_t layer, std::int64_t count, std::int64_t unit, const auto& mover) {
    return pieces.read(layer, count, unit, mover);
  };
  ENGINE_CHECK(each_part(snapshot, header.mtp_rows, config, read));
  snapshot.state.begin();
  snapshot.state.end(header.tokens);
  return snapshot;
}

}  // namespace lectern::engine

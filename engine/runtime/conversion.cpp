// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/output_file.h"
#include "core/parallel.h"
#include "engine/model_tools.h"
#include "model/gguf_writer.h"
#include "model/model_files.h"
#include "model/tensor_plan.h"
#include "quant/formats.h"
#include "quant/mix.h"
#include "runtime/gguf_keys.h"
#include "runtime/no_exceptions.h"
#include "runtime/task_clock.h"
#include "runtime/type_shares.h"

namespace lectern::engine {
namespace {

constexpr std::int64_t kSlabBytes = 8 << 20;     // computed together, then written
constexpr std::int64_t kTaskNumbers = 64 << 10;  // of one thread's turn
constexpr float kLargestHalf = 65504.0F;

struct Typed {
  const TensorPlan* tensor = nullptr;
  DType type = DType::kF32;

  std::int64_t row_bytes() const { return bytes_of(type, tensor->cols()); }
  std::int64_t bytes() const { return row_bytes() * tensor->rows(); }
};

// N of blk.N., or -1.
std::int64_t block_of(std::string_view name) {
  std::int64_t block = -1;
  if (name.starts_with("blk.")) std::from_chars(name.data() + 4, name.data() + name.size(), block);
  return block;
}

// Rows as blocks of a type.
class RowEncoder {
 public:
  RowEncoder(const Typed& target, ThreadTeam& team) : target_(target), team_(team) {}

  // `to`: room for `count` rows.
  Result<void> encode(std::int64_t first, std::int64_t count, std::byte* to) {
    const std::int64_t step = std::max<std::int64_t>(1, kTaskNumbers / target_.tensor->cols());
    const bool plain = target_.tensor->is_plain(target_.type);
    bad_row_ = std::numeric_limits<std::int64_t>::max();
    team_.parallel_for((count + step - 1) / step, [&](std::int64_t task) {
      const std::int64_t begin = task * step;
      const std::int64_t end = std::min(count, begin + step);
      plain ? copy(first, begin, end, to) : convert(first, begin, end, to);
    });
    if (bad_row_ == std::numeric_limits<std::int64_t>::max()) return {};
    const std::string what =
        "Tensor " + target_.tensor->stored_name + " holds a number, in row " + std::to_string(bad_row_) + ", that is ";
    if (beyond_half_) {
      return Error{ErrorCode::kUnsupported, what + "too large for F16; convert the model to BF16 or Q8_0."};
    }
    return Error{ErrorCode::kCorrupt, what + "infinite or none at all; fetch the model again."};
  }

 private:
  void copy(std::int64_t first, std::int64_t begin, std::int64_t end, std::byte* to) const {
    const std::int64_t bytes = target_.row_bytes();
    for (std::int64_t row = begin; row < end; ++row) {
      std::int64_t at = 0;
      const HostMatrix& part = target_.tensor->part_of(first + row, at);
      std::memcpy(to + row * bytes, static_cast<const std::byte*>(part.data) + at * bytes,
                  static_cast<std::size_t>(bytes));
    }
  }

  void convert(std::int64_t first, std::int64_t begin, std::int64_t end, std::byte* to) {
    const std::int64_t cols = target_.tensor->cols();
    std::vector<float> values(static_cast<std::size_t>(cols));
    for (std::int64_t row = begin; row < end; ++row) {
      target_.tensor->read(first + row, values.data());
      const float largest = target_.type == DType::kF16 ? kLargestHalf : std::numeric_limits<float>::max();
      const auto fits = [largest](float value) { return std::abs(value) <= largest; };
      const auto bad = std::find_if_not(values.begin(), values.end(), fits);
      if (bad != values.end()) {
        beyond_half_ = beyond_half_ || std::isfinite(*bad);
        std::int64_t known = bad_row_;
        while (first + row < known && !bad_row_.compare_exchange_weak(known, first + row)) {
        }
        return;
      }
      quantize(target_.type, values.data(), cols, to + row * target_.row_bytes());
    }
  }

  const Typed& target_;
  ThreadTeam& team_;
  std::atomic<std::int64_t> bad_row_;
  std::atomic<bool> beyond_half_ = false;
};

class Converter {
 public:
  Converter(const ConversionOptions& options, const Mix& mix, const TaskSink& progress, std::stop_token stop)
      : options_(options), mix_(mix), clock_(progress), stop_(std::move(stop)) {}

  Result<ConversionReport> convert(const std::filesystem::path& source, const std::filesystem::path& destination) {
    ENGINE_TRY(const ModelFiles files, ModelFiles::open(source));
    ENGINE_TRY(const ModelPlan plan, plan_model(files, options_.keep_mtp));
    for (const auto& [name, tensor] : files.tensors()) {
      report_.source_bytes += static_cast<std::int64_t>(tensor.bytes.size());
    }
    choose_types(files.config(), plan);
    ENGINE_CHECK(check_headroom());
    GgufHeader header;
    ENGINE_CHECK(add_keys(source, files, plan, mix_, header));
    for (const Typed& target : targets_) {
      header.tensor(target.tensor->name, target.tensor->shape, target.type, target.bytes());
    }
    const std::string head = header.bytes();
    const auto total = static_cast<std::int64_t>(head.size()) + header.data_bytes();
    ENGINE_TRY(OutputFile file, OutputFile::create(destination, total, options_.overwrite));
    ENGINE_CHECK(file.write(std::as_bytes(std::span(head))));
    ThreadTeam team(options_.threads);
    for (const Typed& target : targets_) ENGINE_CHECK(write(target, total, team, file));
    if (stop_.stop_requested()) return stopped();
    clock_.tell("writing to the disk", total, total);
    ENGINE_CHECK(file.finish());
    describe(plan);
    report_.file_bytes = total;
    return std::move(report_);
  }

 private:
  static Error stopped() { return {ErrorCode::kCancelled, "The conversion was stopped; nothing of it was kept."}; }

  void choose_types(const ModelConfig& config, const ModelPlan& plan) {
    bool requantised = false;
    for (const TensorPlan& tensor : plan.tensors) {
      const MixSubject subject{tensor.name,
                               tensor.shape,
                               block_of(tensor.name),
                               plan.blocks,
                               config.attention.query_heads / config.attention.kv_heads,
                               config.tied_embeddings};
      const DType wanted = type_in_mix(mix_, subject);
      const DType used = type_for_rows(wanted, tensor.cols());
      if (used != wanted) {
        report_.fallbacks.push_back({tensor.name, std::string(name_of(wanted)), std::string(name_of(used))});
      }
      const DType stored = tensor.parts.front().dtype;
      requantised = requantised || (block_size(stored).elements > 1 && stored != used);
      targets_.push_back({&tensor, used});
    }
    if (requantised) {
      report_.notes.push_back(
          "The source is quantised itself, so that the losses of both add up; the original weights give a better "
          "file.");
    }
  }

  // The only memory that grows with the model is one row for each thread.
  Result<void> check_headroom() const {
    constexpr std::int64_t kLongestRow = std::int64_t{1} << 28;
    for (const Typed& target : targets_) {
      if (target.tensor->cols() <= kLongestRow) continue;
      return Error{ErrorCode::kUnsupported, "Tensor " + target.tensor->name + " has rows too long to convert."};
    }
    return {};
  }

  Result<void> write(const Typed& target, std::int64_t total, ThreadTeam& team, OutputFile& file) {
    const std::int64_t rows = target.tensor->rows();
    const std::int64_t at_once = std::clamp<std::int64_t>(kSlabBytes / target.row_bytes(), 1, rows);
    std::vector<std::byte> slab(static_cast<std::size_t>(at_once * target.row_bytes()));
    RowEncoder encoder(target, team);
    for (std::int64_t first = 0; first < rows; first += at_once) {
      if (stop_.stop_requested()) return stopped();
      clock_.tell(target.tensor->name, file.size(), total);
      const std::int64_t count = std::min(at_once, rows - first);
      ENGINE_CHECK(encoder.encode(first, count, slab.data()));
      ENGINE_CHECK(file.write(std::span(slab).first(static_cast<std::size_t>(count * target.row_bytes()))));
    }
    const std::array<std::byte, kGgufAlignment> zeros{};
    return file.write(std::span(zeros).first(static_cast<std::size_t>(gguf_padding(target.bytes()))));
  }

  void describe(const ModelPlan& plan) {
    TypeShares shares;
    for (const Typed& target : targets_) {
      shares.add(std::string(name_of(target.type)), target.tensor->numbers(), target.bytes());
      report_.parameters += target.tensor->numbers();
    }
    report_.mix = mix_.name;
    report_.types = shares.list();
    report_.tensors = static_cast<std::int64_t>(targets_.size());
    report_.has_mtp = plan.has_mtp;
    report_.seconds = clock_.seconds();
  }

  const ConversionOptions& options_;
  const Mix& mix_;
  TaskClock clock_;
  std::stop_token stop_;
  std::vector<Typed> targets_;
  ConversionReport report_;
};

Error unknown_mix(const std::string& name) {
  std::string known;
  for (const Mix& mix : all_mixes()) known += (known.empty() ? "" : ", ") + std::string(mix.name);
  return {ErrorCode::kInvalidArgument, "There is no mix \"" + name.substr(0, 40) + "\"; there are " + known + "."};
}

}  // namespace

std::vector<MixInfo> quantisation_mixes() {
  std::vector<MixInfo> infos;
  for (const Mix& mix : all_mixes()) infos.push_back({std::string(mix.name), std::string(mix.what)});
  return infos;
}

Result<ConversionReport> convert_model(const std::filesystem::path& source, const std::filesystem::path& destination,
                                       const ConversionOptions& options, const TaskSink& progress,
                                       std::stop_token stop) {
  return without_exceptions([&]() -> Result<ConversionReport> {
    const Mix* mix = find_mix(options.mix);
    if (mix == nullptr) return unknown_mix(options.mix);
    if (destination.extension() != ".gguf") {
      return Error{ErrorCode::kInvalidArgument,
                   destination.string() + " is to be a GGUF file, so its name must end in .gguf."};
    }
    return Converter(options, *mix, progress, std::move(stop)).convert(source, destination);
  });
}

}  // namespace lectern::engine

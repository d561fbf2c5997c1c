// SPDX-License-Identifier: Apache-2.0
#include "model/gguf_file.h"

#include <cstdint>
#include <string>
#include <string_view>

#include "core/utf8.h"

namespace lectern::engine {
namespace {

constexpr std::int64_t kMostParts = 99'999;  // what five digits can name
constexpr std::string_view kPartKey = "split.no";
constexpr std::string_view kCountKey = "split.count";
constexpr std::string_view kTensorsKey = "split.tensors.count";

std::string five_digits(std::int64_t number) {
  const std::string digits = std::to_string(number);
  return std::string(5 - digits.size(), '0') + digits;
}

// "-00001-of-00003.gguf"
std::string part_ending(std::int64_t part, std::int64_t count) {
  return "-" + five_digits(part + 1) + "-of-" + five_digits(count) + ".gguf";
}

struct Opened {
  MappedFile file;
  GgufContent content;
};

Result<Opened> open_one(const std::filesystem::path& path) {
  ENGINE_TRY(MappedFile file, MappedFile::open(path));
  ENGINE_TRY(GgufContent content, parse_gguf(file.bytes(), path.filename().string()));
  return Opened{std::move(file), std::move(content)};
}

// Part `part` of the set must say so itself.
Result<void> check_part(const GgufMetadata& metadata, std::int64_t part, std::int64_t count) {
  ENGINE_TRY(const std::int64_t stated, metadata.integer(kPartKey));
  ENGINE_TRY(const std::int64_t parts, metadata.integer(kCountKey));
  if (stated == part && parts == count) return {};
  return metadata.corrupt("split.no is " + std::to_string(stated) + " of " + std::to_string(parts) + ", expected " +
                          std::to_string(part) + " of " + std::to_string(count));
}

}  // namespace

Result<GgufFile> GgufFile::open(const std::filesystem::path& path) {
  ENGINE_TRY(Opened first, open_one(path));
  GgufFile model(std::move(first.file), std::move(first.content));
  ENGINE_CHECK(model.add_parts(path));
  return model;
}

Result<void> GgufFile::add_parts(const std::filesystem::path& first) {
  ENGINE_TRY(const std::int64_t count, metadata().integer_or(kCountKey, 1, 0, kMostParts));
  if (count <= 1) return {};
  ENGINE_TRY(const std::int64_t part, metadata().integer(kPartKey, 0, count - 1));
  if (part != 0) {
    return Error{ErrorCode::kInvalidArgument, metadata().file() + " is part " + std::to_string(part + 1) + " of " +
                                                  std::to_string(count) + "; open the part that ends in " +
                                                  part_ending(0, count) + "."};
  }
  const std::string name = first.filename().string();
  if (!name.ends_with(part_ending(0, count))) {
    return Error{ErrorCode::kInvalidArgument, name + " is the first of " + std::to_string(count) +
                                                  " parts, so its name must end in " + part_ending(0, count) +
                                                  "; give the parts their published names."};
  }
  const std::string stem = name.substr(0, name.size() - part_ending(0, count).size());
  for (std::int64_t i = 1; i < count; ++i) {
    auto opened = open_one(first.parent_path() / (stem + part_ending(i, count)));
    if (!opened.ok() && opened.error().code == ErrorCode::kNotFound) {
      return Error{ErrorCode::kNotFound, stem + part_ending(i, count) + " is missing; put all " +
                                             std::to_string(count) + " parts of the model in one directory."};
    }
    if (!opened.ok()) return opened.error();
    Opened next = std::move(opened).value();
    ENGINE_CHECK(check_part(next.content.metadata, i, count));
    for (auto& [tensor, stored] : next.content.tensors) {
      if (!content_.tensors.emplace(tensor, std::move(stored)).second) {
        return next.content.metadata.corrupt("tensor " + unicode::in_quotes(tensor) + " is in another part too");
      }
    }
    files_.push_back(std::move(next.file));
  }
  ENGINE_TRY(const std::int64_t total, metadata().integer(kTensorsKey));
  if (total != static_cast<std::int64_t>(tensors().size())) {
    return metadata().corrupt("its parts hold " + std::to_string(tensors().size()) + " tensors, expected " +
                              std::to_string(total));
  }
  return {};
}

}  // namespace lectern::engine

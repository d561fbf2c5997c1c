// SPDX-License-Identifier: Apache-2.0
#include "model/tensor_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "core/json.h"

namespace lectern::engine {
namespace {

constexpr std::uint64_t kLargestHeader = 100'000'000;  // the format's own limit
constexpr std::size_t kMostDimensions = 8;

std::optional<std::uint64_t> bits_per_element(std::string_view dtype) {
  constexpr std::array<std::pair<std::string_view, std::uint64_t>, 14> kTypes = {{{"F64", 64},
                                                                                  {"I64", 64},
                                                                                  {"U64", 64},
                                                                                  {"F32", 32},
                                                                                  {"I32", 32},
                                                                                  {"U32", 32},
                                                                                  {"F16", 16},
                                                                                  {"BF16", 16},
                                                                                  {"I16", 16},
                                                                                  {"U16", 16},
                                                                                  {"I8", 8},
                                                                                  {"U8", 8},
                                                                                  {"F8_E4M3", 8},
                                                                                  {"F8_E5M2", 8}}};
  for (const auto& [name, bits] : kTypes) {
    if (name == dtype) return bits;
  }
  if (dtype == "BOOL") return 8;
  return std::nullopt;
}

struct Placed {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::string name;
};

class SafetensorsReader {
 public:
  SafetensorsReader(std::span<const std::byte> file, const std::string& name) : file_(file), name_(name) {}

  Result<std::map<std::string, StoredTensor, std::less<>>> read() {
    ENGINE_TRY(const std::uint64_t header, header_size());
    const std::string text(reinterpret_cast<const char*>(file_.data()) + 8, header);
    if (text.front() != '{') return corrupt("the header does not begin with '{'");
    ENGINE_TRY(const JsonDocument document, JsonDocument::parse(text, name_));
    data_ = file_.subspan(8 + header);
    for (const auto& [key, value] : document.root().members()) {
      if (key == "__metadata__") continue;
      ENGINE_CHECK(read_tensor(std::string(key), value));
    }
    ENGINE_CHECK(check_coverage());
    return std::move(tensors_);
  }

 private:
  Error corrupt(const std::string& what) const {
    return {ErrorCode::kCorrupt, name_ + ": " + what + "; the file is damaged or incomplete, fetch it again."};
  }

  Result<std::uint64_t> header_size() const {
    if (file_.size() < 10) return corrupt("it is too short for a safetensors file");
    std::uint64_t header = 0;
    for (int i = 7; i >= 0; --i) header = header << 8 | std::to_integer<std::uint64_t>(file_[i]);
    if (header > kLargestHeader || header > file_.size() - 8 || header < 2) {
      return corrupt("the header length " + std::to_string(header) + " does not fit a file of " +
                     std::to_string(file_.size()) + " bytes");
    }
    return header;
  }

  Result<void> read_tensor(const std::string& tensor, const JsonValue& entry) {
    StoredTensor stored;
    ENGINE_TRY(stored.dtype, entry.need_string("dtype"));
    const auto bits = bits_per_element(stored.dtype);
    if (!bits) return corrupt("tensor " + tensor + " has the unknown type " + stored.dtype);
    ENGINE_TRY(const JsonValue shape, entry.need_array("shape"));
    if (shape.size() > kMostDimensions) return corrupt("tensor " + tensor + " has too many dimensions");
    std::uint64_t elements = 1;
    for (const JsonValue dimension : shape.elements()) {
      const std::int64_t length = dimension.integer().value_or(-1);
      std::uint64_t product = 0;
      if (length < 0 || __builtin_mul_overflow(elements, static_cast<std::uint64_t>(length), &product) ||
          product > data_.size() * 8) {
        return corrupt("tensor " + tensor + " has a shape that does not fit the file");
      }
      elements = product;
      stored.shape.push_back(length);
    }
    ENGINE_TRY(const JsonValue offsets, entry.need_array("data_offsets"));
    return place(tensor, std::move(stored), offsets, elements * *bits / 8);
  }

  Result<void> place(const std::string& tensor, StoredTensor stored, const JsonValue& offsets, std::uint64_t bytes) {
    std::array<std::int64_t, 2> range = {-1, -1};
    std::size_t count = 0;
    for (const JsonValue offset : offsets.elements()) {
      if (count < 2) range[count] = offset.integer().value_or(-1);
      ++count;
    }
    const auto size = static_cast<std::int64_t>(data_.size());
    if (count != 2 || range[0] < 0 || range[1] < range[0] || range[1] > size) {
      return corrupt("tensor " + tensor + " lies outside the file");
    }
    const auto length = static_cast<std::uint64_t>(range[1] - range[0]);
    if (length != bytes) {
      return corrupt("tensor " + tensor + " of shape " + shape_text(stored.shape) + " and type " + stored.dtype +
                     " needs " + std::to_string(bytes) + " bytes, but has " + std::to_string(length));
    }
    stored.bytes = data_.subspan(static_cast<std::size_t>(range[0]), length);
    if (length > 0) {
      placed_.push_back({static_cast<std::uint64_t>(range[0]), static_cast<std::uint64_t>(range[1]), tensor});
    }
    tensors_.emplace(tensor, std::move(stored));
    return {};
  }

  Result<void> check_coverage() {
    std::sort(placed_.begin(), placed_.end(), [](const Placed& a, const Placed& b) { return a.begin < b.begin; });
    std::uint64_t reached = 0;
    for (const Placed& tensor : placed_) {
      if (tensor.begin < reached) return corrupt("tensor " + tensor.name + " overlaps another");
      if (tensor.begin > reached) return corrupt("bytes before tensor " + tensor.name + " belong to no tensor");
      reached = tensor.end;
    }
    if (reached != data_.size()) return corrupt("bytes at the end belong to no tensor");
    return {};
  }

  std::span<const std::byte> file_;
  const std::string& name_;
  std::span<const std::byte> data_;
  std::vector<Placed> placed_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

Result<std::set<std::string>> shard_names(const std::filesystem::path& index) {
  ENGINE_TRY(const JsonDocument document, JsonDocument::read(index));
  ENGINE_TRY(const JsonValue map, document.root().need_object("weight_map"));
  std::set<std::string> names;
  for (const auto& [tensor, shard] : map.members()) {
    const auto name = shard.string().value_or("");
    if (name.empty() || name.find('/') != std::string_view::npos || name == "..") {
      return shard.error("expected the name of a file in the same directory");
    }
    names.emplace(name);
  }
  return names;
}

}  // namespace

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (const std::int64_t length : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(length);
  return text + "]";
}

Result<std::map<std::string, StoredTensor, std::less<>>> parse_safetensors(std::span<const std::byte> file,
                                                                           const std::string& name) {
  return SafetensorsReader(file, name).read();
}

Result<TensorFiles> TensorFiles::open(const std::filesystem::path& directory) {
  std::set<std::string> names = {"model.safetensors"};
  const std::filesystem::path index = directory / "model.safetensors.index.json";
  std::error_code ignored;
  if (std::filesystem::exists(index, ignored)) {
    ENGINE_TRY(names, shard_names(index));
  }
  TensorFiles files;
  for (const std::string& name : names) {
    ENGINE_TRY(MappedFile mapped, MappedFile::open(directory / name));
    ENGINE_TRY(auto tensors, parse_safetensors(mapped.bytes(), name));
    files.files_.push_back(std::move(mapped));
    for (auto& [tensor, stored] : tensors) {
      if (!files.tensors_.emplace(tensor, stored).second) {
        return Error{ErrorCode::kCorrupt,
                     name + ": tensor " + tensor + " is in another shard too; fetch the model again."};
      }
    }
  }
  return files;
}

}  // namespace lectern::engine

// SPDX-License-Identifier: GPL-3.0-or-later
#include "golden_files.h"

#include <bit>
#include <cstring>
#include <fstream>
#include <span>
#include <stdexcept>
#include <utility>

#include "core/json.h"

namespace lectern::engine::golden {
namespace {

template <class T>
T checked(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.error().message);
  return std::move(result).value();
}

template <class Integer>
std::vector<Integer> integers(JsonValue array) {
  std::vector<Integer> out;
  out.reserve(array.size());
  for (const JsonValue value : array.elements()) out.push_back(static_cast<Integer>(value.integer().value()));
  return out;
}

// Cuts the next `count` rows off the front of `values`.
std::vector<std::vector<float>> take_rows(std::span<const float>& values, std::size_t count, std::size_t columns) {
  if (values.size() < count * columns) throw std::runtime_error("a file of logits is too short");
  std::vector<std::vector<float>> rows;
  for (std::size_t i = 0; i < count; ++i) {
    const auto row = values.subspan(i * columns, columns);
    rows.emplace_back(row.begin(), row.end());
  }
  values = values.subspan(count * columns);
  return rows;
}

}  // namespace

std::filesystem::path directory() { return std::filesystem::path(LECTERN_SOURCE_DIR) / "tests" / "golden"; }

std::vector<float> read_floats(const std::filesystem::path& file) {
  static_assert(std::endian::native == std::endian::little);
  const std::string bytes = checked(read_text_file(file, std::size_t{16} << 20));
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

std::vector<TokenCase> read_token_cases(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::vector<TokenCase> cases;
  for (std::string line; std::getline(in, line);) {
    const JsonDocument document = checked(JsonDocument::parse(line, file.filename().string()));
    const JsonValue root = document.root();
    TokenCase entry{std::string(root["text"].string().value()), integers<TokenId>(root["ids"]), {}};
    entry.plain = root["plain"].exists() ? integers<TokenId>(root["plain"]) : entry.ids;
    cases.push_back(std::move(entry));
  }
  if (cases.empty()) throw std::runtime_error("no strings in " + file.string());
  return cases;
}

std::vector<std::string> read_texts(const std::filesystem::path& file) {
  const JsonDocument document = checked(JsonDocument::read(file));
  std::vector<std::string> texts;
  for (const JsonValue text : document.root().elements()) texts.emplace_back(text.string().value());
  return texts;
}

LogitGolden read_logits(const std::filesystem::path& golden_model) {
  const JsonDocument config = checked(JsonDocument::read(golden_model / "config.json"));
  const JsonDocument index = checked(JsonDocument::read(golden_model / "rows.json"));
  const auto columns = static_cast<std::size_t>(checked(config.root().need_integer("vocab_size")));
  const std::vector<float> logits = read_floats(golden_model / "logits.f32");
  std::span<const float> rest = logits;
  LogitGolden golden;
  for (const JsonValue value : index.root()["runs"].elements()) {
    LogitRun run{integers<TokenId>(value["prompt"]),
                 integers<TokenId>(value["decode"]),
                 integers<std::int64_t>(value["positions"]),
                 {}};
    run.rows = take_rows(rest, run.positions.size(), columns);
    golden.runs.push_back(std::move(run));
  }
  if (index.root()["mtp"].size() == 0) return golden;

  const std::vector<float> drafted = read_floats(golden_model / "mtp.f32");
  rest = drafted;
  for (const JsonValue value : index.root()["mtp"].elements()) {
    DraftRun draft{static_cast<std::size_t>(checked(value.need_integer("run"))),
                   integers<TokenId>(value["tokens"]),
                   integers<std::int64_t>(value["positions"]),
                   {}};
    draft.rows = take_rows(rest, draft.positions.size(), columns);
    golden.drafts.push_back(std::move(draft));
  }
  return golden;
}

}  // namespace lectern::engine::golden

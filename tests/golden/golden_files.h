// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/types.h"

// Readers for the data in this folder; README.md describes the formats. All throw std::runtime_error on bad files.
namespace lectern::engine::golden {

std::filesystem::path directory();

std::vector<float> read_floats(const std::filesystem::path& file);

struct TokenCase {
  std::string text;
  std::vector<TokenId> ids;
  std::vector<TokenId> plain;  // with added tokens taken as ordinary text
};
std::vector<TokenCase> read_token_cases(const std::filesystem::path& file);

std::vector<std::string> read_texts(const std::filesystem::path& file);

// Rows of logits: those of position positions[i] stand at rows[i], each `columns` long.
struct LogitRun {
  std::vector<TokenId> prompt;
  std::vector<TokenId> decode;  // fed one by one after the prompt
  std::vector<std::int64_t> positions;
  std::vector<std::vector<float>> rows;
};

// Draft logits: row (post-norm trunk hidden of position i, tokens[i]) for i < tokens of runs[run].prompt; beyond it,
// the head's own output of the row before.
struct DraftRun {
  std::size_t run = 0;
  std::vector<TokenId> tokens;
  std::vector<std::int64_t> positions;
  std::vector<std::vector<float>> rows;
};

struct LogitGolden {
  std::vector<LogitRun> runs;
  std::vector<DraftRun> drafts;
};
LogitGolden read_logits(const std::filesystem::path& golden_model);

}  // namespace lectern::engine::golden

// SPDX-License-Identifier: GPL-3.0-or-later
#include <nlohmann/json.hpp>
#include <string>

#include "retrieval/answer.h"
#include "store/durable_file.h"

namespace lectern::retrieval {
namespace {

constexpr std::uint64_t kLargestProfile = 1U << 20;
constexpr int kMostPassages = 1000;
constexpr std::int64_t kMostNewTokens = 1'000'000;

Error fault(const std::filesystem::path& file, const std::string& what) {
  return {ErrorCode::kCorrupt, "The prompt profile " + file.string() + " " + what + "."};
}

// Throws nlohmann::json::exception for a value of the wrong type.
PromptProfile profile_of(const nlohmann::json& json) {
  PromptProfile profile;
  profile.system = json.value("system", profile.system);
  profile.user = json.value("prompt", profile.user);
  profile.refusal = json.value("refusal", profile.refusal);
  profile.max_passages = json.value("max_passages", profile.max_passages);
  profile.max_new_tokens = json.value("max_new_tokens", profile.max_new_tokens);
  return profile;
}

}  // namespace

Result<PromptProfile> load_prompt_profile(const std::filesystem::path& file) {
  auto text = read_bounded(file, kLargestProfile);
  if (!text && text.error().code == ErrorCode::kNotFound) return text.error();
  if (!text) return fault(file, "cannot be read: " + text.error().message);
  try {
    const auto json = nlohmann::json::parse(*text);
    if (!json.is_object()) return fault(file, "is not a JSON object");
    PromptProfile profile = profile_of(json);
    if (profile.user.find("{passages}") == std::string::npos || profile.user.find("{question}") == std::string::npos) {
      return fault(file, "has a \"prompt\" without {passages} or {question}");
    }
    if (profile.max_passages < 1 || profile.max_passages > kMostPassages) {
      return fault(file, "has \"max_passages\" outside 1 to " + std::to_string(kMostPassages));
    }
    if (profile.max_new_tokens < 1 || profile.max_new_tokens > kMostNewTokens) {
      return fault(file, "has \"max_new_tokens\" outside 1 to " + std::to_string(kMostNewTokens));
    }
    return profile;
  } catch (const std::exception& error) {
    return fault(file, std::string("is not valid: ") + error.what());
  }
}

}  // namespace lectern::retrieval

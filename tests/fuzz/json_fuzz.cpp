// SPDX-License-Identifier: GPL-3.0-or-later
#include <string>
#include <vector>

#include "core/json.h"
#include "fuzz/expect.h"
#include "text/unicode.h"

namespace {

using namespace lectern::engine;

constexpr JsonLimits kLimits{.max_bytes = 1U << 16U, .max_nodes = 4096, .max_depth = 32};

// What was read, written again.
std::string rewritten(JsonValue value) {
  if (const auto text = value.string()) {
    expect(unicode::is_valid_utf8(*text), "strings are valid UTF-8");
    return json_quote(*text);
  }
  if (const auto flag = value.boolean()) return *flag ? "true" : "false";
  if (const auto integer = value.integer()) return std::to_string(*integer);
  if (value.number()) return "0.5";
  if (value.is_null()) return "null";
  std::string text;
  for (const JsonValue element : value.elements()) text += (text.empty() ? "" : ",") + rewritten(element);
  for (const JsonMember member : value.members()) {
    expect(value[member.key].exists(), "every member is found by its name");
    text += (text.empty() ? "" : ",") + json_quote(member.key) + ":" + rewritten(member.value);
  }
  return value.is_array() ? "[" + text + "]" : "{" + text + "}";
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto document = JsonDocument::parse(std::string(as_text(data, size)), "fuzz.json", kLimits);
  if (!document.ok()) {
    expect(document.error().code == ErrorCode::kCorrupt, "failures are kCorrupt");
    return 0;
  }
  const std::string once = rewritten(document->root());
  const auto again = JsonDocument::parse(once, "again.json", {});
  expect(again.ok(), "what was written is JSON");
  expect(rewritten(again->root()) == once, "writing and reading change nothing");
  (void)document->root().need_integer("a");
  (void)document->root().string_or("b", "");
  return 0;
}

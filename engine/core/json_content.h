// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"
#include "engine/result.h"

namespace lectern::engine::json_detail {

struct Node {
  union {
    double number;
    std::int64_t integer;
    bool boolean;
    std::uint32_t text;  // where a string's resolved bytes start
  };
  std::uint32_t offset;  // of the value in the original text
  std::uint32_t size;    // bytes of a string, elements, or members (a member is a key node and a value)
  std::uint32_t next;    // node after this value and everything inside it
  JsonKind kind;
  bool integral;
};
static_assert(sizeof(Node) == 24);

struct Content {
  std::string text;
  std::string name;
  std::vector<Node> nodes;
};

// Fills the nodes from the text, whose strings it resolves in place.
Result<void> parse(Content& content, const JsonLimits& limits);

}  // namespace lectern::engine::json_detail

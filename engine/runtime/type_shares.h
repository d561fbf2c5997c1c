// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/model_tools.h"

namespace lectern::engine {

// Sums tensors up by type.
class TypeShares {
 public:
  void add(const std::string& type, std::int64_t numbers, std::int64_t bytes) {
    TypeShare& share = shares_[type];
    share.type = type;
    ++share.tensors;
    share.numbers += numbers;
    share.bytes += bytes;
  }

  // Largest first.
  std::vector<TypeShare> list() const {
    std::vector<TypeShare> list;
    for (const auto& [type, share] : shares_) list.push_back(share);
    std::sort(list.begin(), list.end(), [](const TypeShare& a, const TypeShare& b) { return a.bytes > b.bytes; });
    return list;
  }

 private:
  std::map<std::string, TypeShare> shares_;
};

}  // namespace lectern::engine

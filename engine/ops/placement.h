// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "ops/backend.h"

namespace lectern::engine {

// Which device computes which layers: usually one all of them. Of several, the first has the embedding and the first
// layers, and so on to the last, which also has the head and the MTP module. The devices must outlive it.
class Placement {
 public:
  struct Share {
    Backend* device = nullptr;
    std::int64_t layers = 0;
  };

  Placement(Backend& all)  // NOLINT(google-explicit-constructor): one device is a placement
      : shares_{{&all, std::numeric_limits<std::int64_t>::max()}} {}
  explicit Placement(std::vector<Share> shares) : shares_(std::move(shares)) {}

  std::size_t devices() const { return shares_.size(); }
  Backend& device(std::size_t index) const { return *shares_[index].device; }
  Backend& first() const { return *shares_.front().device; }
  Backend& last() const { return *shares_.back().device; }
  bool shared() const { return shares_.size() > 1; }

  std::size_t index_of(std::size_t layer) const {
    auto left = static_cast<std::int64_t>(layer);
    std::size_t index = 0;
    while (index + 1 < shares_.size() && left >= shares_[index].layers) left -= shares_[index++].layers;
    return index;
  }
  Backend& of_layer(std::size_t layer) const { return device(index_of(layer)); }

 private:
  std::vector<Share> shares_;
};

}  // namespace lectern::engine

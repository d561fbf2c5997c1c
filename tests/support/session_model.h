// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "golden/deterministic_model.h"
#include "golden/golden_files.h"
#include "ops/backend.h"
#include "runtime/pass_scheduler.h"
#include "runtime/transformer_sequence.h"
#include "support/backend_kind.h"
#include "support/load_transformer.h"
#include "support/scratch.h"

namespace lectern::engine::support {

// The tiny model of tests/golden, and sequences of it. Failures throw std::bad_variant_access.
class SessionModel {
 public:
  static constexpr int kDrafts = 2;
  static constexpr std::size_t kChunk = 64;

  Transformer& model() { return *model_; }
  PassScheduler& scheduler() { return scheduler_; }

  static std::vector<TokenId> text(std::int64_t length) {
    std::vector<TokenId> tokens;
    for (std::int64_t t = 0; t < length; ++t) tokens.push_back(static_cast<TokenId>((7 * t * t + 3 * t + 5) % 96));
    return tokens;
  }

  SequenceSnapshot read(std::span<const TokenId> tokens, const SequenceOptions& options) {
    TransformerSequence sequence(scheduler_, model_->new_sequence(options).value(), kDrafts);
    for (; !tokens.empty(); tokens = tokens.subspan(std::min(tokens.size(), kChunk))) {
      static_cast<void>(sequence.append(tokens.first(std::min(tokens.size(), kChunk)), false, {}).value());
    }
    return sequence.snapshot().value();
  }

  SequenceSnapshot fork(const SequenceSnapshot& snapshot) {
    return {snapshot.tokens, model_->fork(snapshot.state).value(), snapshot.hidden};
  }

  // Those after each of `tokens`, which are read one by one. Equal bits are equal vectors: no logit is zero or none.
  std::vector<float> logits(SequenceSnapshot snapshot, std::span<const TokenId> tokens) {
    TransformerSequence sequence(scheduler_, std::move(snapshot), kDrafts);
    std::vector<float> rows;
    for (const TokenId& token : tokens) {
      const std::span<const float> row = sequence.append({&token, 1}, true, {}).value();
      rows.insert(rows.end(), row.begin(), row.end());
    }
    return rows;
  }

 private:
  static const test::Scratch& files() {
    static const test::Scratch directory;
    static const bool written = [] {
      golden::write_model(golden::directory() / "models" / "tiny", directory.path());
      return true;
    }();
    static_cast<void>(written);
    return directory;
  }

  std::unique_ptr<Backend> backend_ = test_backend();
  std::unique_ptr<Transformer> model_ = load_transformer(files().path(), *backend_, kChunk).value();
  PassScheduler scheduler_{*model_};
};

}  // namespace lectern::engine::support

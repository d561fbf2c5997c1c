// SPDX-License-Identifier: Apache-2.0
// Tokens chosen where the logits are.
#include <algorithm>

#include "cuda/cuda_backend.h"
#include "cuda/sampling.h"

namespace lectern::engine::cuda {

bool CudaBackend::chooses_tokens(std::int64_t vocabulary) const { return vocabulary <= kMostSampledTokens; }

void CudaBackend::choose_tokens(const Tensor& logits, std::span<const TokenChoice> choices, TokenId* chosen) {
  Workspace workspace(*this);
  Sampling job;
  job.logits = logits.data;
  job.options = values_.add(choices);
  job.tokens = chosen;
  job.memory = workspace.take<std::byte>(sampling_bytes(logits.rows, logits.cols));
  job.columns = static_cast<std::int32_t>(logits.cols);
  job.rows = static_cast<std::int32_t>(logits.rows);
  SamplingSteps steps;
  steps.draws = std::any_of(choices.begin(), choices.end(), [](const TokenChoice& c) { return c.temperature != 0; });
  steps.marks = std::any_of(choices.begin(), choices.end(), [](const TokenChoice& c) { return c.seen != nullptr; });
  sample_rows([this](const Grid& grid, auto kernel, const Sampling& work) { run(grid, kernel, work); }, job, steps);
}

}  // namespace lectern::engine::cuda

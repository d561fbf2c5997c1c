// SPDX-License-Identifier: Apache-2.0
// Sparse mixture of experts: rows are sorted by expert so that each expert's weights are read once.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "cpu/cpu_backend.h"

namespace lectern::engine::cpu {
namespace {

constexpr std::int64_t kColumns = 64;  // of one task

struct Choice {
  std::int64_t expert = 0;
  float weight = 0;
};

// The `count` largest of softmax(logits), ties to the lower index.
void choose_experts(const float* logits, std::int64_t experts, std::int64_t count, bool normalise, Choice* choices) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(experts));
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](std::int64_t a, std::int64_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  const float largest = logits[order.front()];
  float all = 0;
  for (std::int64_t e = 0; e < experts; ++e) all += std::exp(logits[e] - largest);
  float chosen = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    choices[i] = {order[static_cast<std::size_t>(i)], std::exp(logits[order[static_cast<std::size_t>(i)]] - largest)};
    chosen += choices[i].weight;
  }
  for (std::int64_t i = 0; i < count; ++i) choices[i].weight /= normalise ? chosen : all;
}

// Matrices of one expert and the rows that chose it: rows [first, first + rows) of the sorted order.
struct Group {
  const HostMatrix* gate = nullptr;
  const HostMatrix* up = nullptr;
  const HostMatrix* down = nullptr;
  std::int64_t first = 0;
  std::int64_t rows = 0;
};

struct Task {
  const Group* group = nullptr;
  std::int64_t first = 0;  // column
  std::int64_t last = 0;
};

std::vector<Task> split(const std::vector<Group>& groups, const HostMatrix* Group::*matrix) {
  std::vector<Task> tasks;
  for (const Group& group : groups) {
    const std::int64_t columns = (group.*matrix)->rows;
    for (std::int64_t first = 0; first < columns; first += kColumns) {
      tasks.push_back({&group, first, std::min(columns, first + kColumns)});
    }
  }
  return tasks;
}

// Room for `count` numbers, not initialised when it was there before.
float* grown(std::vector<float>& memory, std::int64_t count) {
  if (memory.size() < static_cast<std::size_t>(count)) memory.resize(static_cast<std::size_t>(count));
  return memory.data();
}

}  // namespace

// All rows sorted by expert; the shared expert comes last and takes every row.
struct CpuBackend::Routing {
  std::vector<Group> groups;
  std::vector<std::int64_t> source;    // token of each sorted row
  std::vector<float> weight;           // of each sorted row
  std::vector<std::int64_t> position;  // [tokens, experts_per_token + 1]: sorted rows of each token
  std::int64_t width = 0;              // widest expert

  Routing(const std::vector<Choice>& choices, const std::vector<float>& shared, const ExpertWeights& w);

 private:
  void put(std::int64_t token, std::int64_t slot, std::int64_t row, float row_weight) {
    const auto slots = static_cast<std::int64_t>(source.size()) / tokens_;
    source[static_cast<std::size_t>(row)] = token;
    weight[static_cast<std::size_t>(row)] = row_weight;
    position[static_cast<std::size_t>(token * slots + slot)] = row;
  }

  std::int64_t tokens_;
};

CpuBackend::Routing::Routing(const std::vector<Choice>& choices, const std::vector<float>& shared,
                             const ExpertWeights& w)
    : tokens_(static_cast<std::int64_t>(shared.size())) {
  const std::int64_t per_token = w.experts_per_token;
  const std::size_t experts = w.gate.size();
  std::vector<std::int64_t> start(experts + 1, 0);
  for (const Choice& choice : choices) ++start[static_cast<std::size_t>(choice.expert) + 1];
  std::partial_sum(start.begin(), start.end(), start.begin());
  source.resize(static_cast<std::size_t>(tokens_ * (per_token + 1)));
  weight.resize(source.size());
  position.resize(source.size());
  for (std::size_t e = 0; e < experts; ++e) {
    if (start[e + 1] == start[e]) continue;
    groups.push_back(
        {&host_of(*w.gate[e]), &host_of(*w.up[e]), &host_of(*w.down[e]), start[e], start[e + 1] - start[e]});
  }
  groups.push_back(
      {&host_of(*w.shared_gate), &host_of(*w.shared_up), &host_of(*w.shared_down), tokens_ * per_token, tokens_});
  for (const Group& group : groups) width = std::max(width, group.gate->rows);
  for (std::int64_t t = 0; t < tokens_; ++t) {
    for (std::int64_t i = 0; i < per_token; ++i) {
      const Choice& choice = choices[static_cast<std::size_t>(t * per_token + i)];
      put(t, i, start[static_cast<std::size_t>(choice.expert)]++, choice.weight);
    }
    put(t, per_token, tokens_ * per_token + t, shared[static_cast<std::size_t>(t)]);
  }
}

CpuBackend::Routing CpuBackend::route(const Tensor& x, const ExpertWeights& w) {
  const std::int64_t experts = w.router->rows();
  std::vector<float> logits(static_cast<std::size_t>(x.rows * experts));
  std::vector<float> shared(static_cast<std::size_t>(x.rows));
  linear(x, *w.router, false, {logits.data(), x.rows, experts});
  linear(x, *w.shared_router, false, {shared.data(), x.rows, 1});
  for (float& gate : shared) gate = 1.0F / (1.0F + std::exp(-gate));
  std::vector<Choice> choices(static_cast<std::size_t>(x.rows * w.experts_per_token));
  slices(x.rows, 1, 16 * experts, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      choose_experts(logits.data() + t * experts, experts, w.experts_per_token, w.normalise_top_k,
                     choices.data() + t * w.experts_per_token);
    }
  });
  return {choices, shared, w};
}

// inner = silu(gate x) * up x
void CpuBackend::expand(const Routing& routing, std::int64_t depth) {
  const auto rows = static_cast<std::int64_t>(routing.source.size());
  float* all_gates = grown(expert_rows_.gates, rows * routing.width);
  float* all_inner = grown(expert_rows_.inner, rows * routing.width);
  const std::vector<Task> tasks = split(routing.groups, &Group::gate);
  const auto count = static_cast<std::int64_t>(tasks.size());
  each(count, 2 * rows * depth * routing.width / count, [&](std::int64_t index) {
    const Task& task = tasks[static_cast<std::size_t>(index)];
    const Group& group = *task.group;
    const float* in = expert_rows_.input.data() + group.first * depth;
    float* gate = all_gates + group.first * routing.width;
    float* up = all_inner + group.first * routing.width;
    const auto multiply = [&](const HostMatrix& matrix, float* out) {
      kernels_.multiply({in, depth, group.rows, depth, matrix.data, matrix.dtype, depth, out, routing.width, task.first,
                         task.last, false});
    };
    multiply(*group.gate, gate);
    multiply(*group.up, up);
    for (std::int64_t row = 0; row < group.rows; ++row) {
      const std::int64_t at = row * routing.width + task.first;
      kernels_.silu_multiply(gate + at, up + at, task.last - task.first);
    }
  });
}

// The input is no longer needed and takes the experts' outputs.
void CpuBackend::contract(const Routing& routing, std::int64_t depth) {
  const auto rows = static_cast<std::int64_t>(routing.source.size());
  const std::vector<Task> tasks = split(routing.groups, &Group::down);
  const auto count = static_cast<std::int64_t>(tasks.size());
  each(count, rows * depth * routing.width / count, [&](std::int64_t index) {
    const Task& task = tasks[static_cast<std::size_t>(index)];
    const Group& group = *task.group;
    kernels_.multiply({expert_rows_.inner.data() + group.first * routing.width, routing.width, group.rows,
                       group.down->cols, group.down->data, group.down->dtype, group.down->cols,
                       expert_rows_.input.data() + group.first * depth, depth, task.first, task.last, false});
  });
}

void CpuBackend::mixture_of_experts(const Tensor& x, const ExpertWeights& w, const Tensor& y) {
  const Routing routing = route(x, w);
  const auto rows = static_cast<std::int64_t>(routing.source.size());
  float* sorted = grown(expert_rows_.input, rows * x.cols);
  slices(rows, 1, x.cols, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
      std::copy_n(x.row(routing.source[static_cast<std::size_t>(row)]), x.cols, sorted + row * x.cols);
    }
  });
  expand(routing, x.cols);
  contract(routing, x.cols);
  const std::int64_t slots = w.experts_per_token + 1;
  slices(x.rows, 1, slots * x.cols, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t at = first * slots; at < last * slots; ++at) {
      const std::int64_t row = routing.position[static_cast<std::size_t>(at)];
      kernels_.add_scaled(routing.weight[static_cast<std::size_t>(row)], sorted + row * x.cols, y.row(at / slots),
                          x.cols);
    }
  });
}

}  // namespace lectern::engine::cpu

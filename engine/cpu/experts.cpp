// SPDX-License-Identifier: Apache-2.0
// Sparse mixture of experts: rows are sorted by expert so that each expert's weights are read once.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "cpu/cpu_backend.h"

namespace lectern::engine::cpu {
namespace {

constexpr std::int64_t kColumns = 64;  // columns of one task: enough work, and several tasks for one token's experts

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

// All rows sorted by expert; the shared expert comes last and takes every row.
struct Routing {
  std::vector<Group> groups;
  std::vector<std::int64_t> source;    // token of each sorted row
  std::vector<float> weight;           // of each sorted row
  std::vector<std::int64_t> position;  // [tokens, experts_per_token + 1]: sorted rows of each token
  std::int64_t width = 0;              // widest expert
};

Routing route(const std::vector<Choice>& choices, const std::vector<float>& shared, const ExpertWeights& w) {
  const std::int64_t per_token = w.experts_per_token;
  const auto tokens = static_cast<std::int64_t>(shared.size());
  const auto experts = static_cast<std::int64_t>(w.gate.size());
  std::vector<std::int64_t> start(static_cast<std::size_t>(experts) + 1, 0);
  for (const Choice& choice : choices) ++start[static_cast<std::size_t>(choice.expert) + 1];
  std::partial_sum(start.begin(), start.end(), start.begin());
  Routing routing;
  routing.source.resize(static_cast<std::size_t>(tokens * (per_token + 1)));
  routing.weight.resize(routing.source.size());
  routing.position.resize(routing.source.size());
  for (std::int64_t e = 0; e < experts; ++e) {
    const auto at = static_cast<std::size_t>(e);
    if (start[at + 1] == start[at]) continue;
    routing.groups.push_back(
        {&host_of(*w.gate[at]), &host_of(*w.up[at]), &host_of(*w.down[at]), start[at], start[at + 1] - start[at]});
  }
  routing.groups.push_back(
      {&host_of(*w.shared_gate), &host_of(*w.shared_up), &host_of(*w.shared_down), tokens * per_token, tokens});
  for (const Group& group : routing.groups) routing.width = std::max(routing.width, group.gate->rows);
  const auto put = [&](std::int64_t token, std::int64_t slot, std::int64_t row, float weight) {
    routing.source[static_cast<std::size_t>(row)] = token;
    routing.weight[static_cast<std::size_t>(row)] = weight;
    routing.position[static_cast<std::size_t>(token * (per_token + 1) + slot)] = row;
  };
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t i = 0; i < per_token; ++i) {
      const Choice& choice = choices[static_cast<std::size_t>(t * per_token + i)];
      put(t, i, start[static_cast<std::size_t>(choice.expert)]++, choice.weight);
    }
    put(t, per_token, tokens * per_token + t, shared[static_cast<std::size_t>(t)]);
  }
  return routing;
}

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

}  // namespace

void CpuBackend::mixture_of_experts(const Tensor& x, const ExpertWeights& w, const Tensor& y) {
  const std::int64_t experts = w.router->rows();
  const std::int64_t slots = w.experts_per_token + 1;
  std::vector<float> logits(static_cast<std::size_t>(x.rows * experts));
  std::vector<float> shared(static_cast<std::size_t>(x.rows));
  linear(x, *w.router, false, {logits.data(), x.rows, experts});
  linear(x, *w.shared_router, false, {shared.data(), x.rows, 1});
  for (float& gate : shared) gate = 1.0F / (1.0F + std::exp(-gate));
  std::vector<Choice> choices(static_cast<std::size_t>(x.rows * w.experts_per_token));
  slices(x.rows, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      choose_experts(logits.data() + t * experts, experts, w.experts_per_token, w.normalise_top_k,
                     choices.data() + t * w.experts_per_token);
    }
  });

  const Routing routing = route(choices, shared, w);
  const auto rows = static_cast<std::int64_t>(routing.source.size());
  std::vector<float> sorted(static_cast<std::size_t>(rows * x.cols));
  std::vector<float> inner(static_cast<std::size_t>(rows * routing.width));
  std::vector<float> gates(inner.size());
  slices(rows, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
      std::copy_n(x.row(routing.source[static_cast<std::size_t>(row)]), x.cols, sorted.data() + row * x.cols);
    }
  });

  const std::vector<Task> rising = split(routing.groups, &Group::gate);
  team_.parallel_for(static_cast<std::int64_t>(rising.size()), [&](std::int64_t index) {
    const Task& task = rising[static_cast<std::size_t>(index)];
    const Group& group = *task.group;
    const float* in = sorted.data() + group.first * x.cols;
    float* gate = gates.data() + group.first * routing.width;
    float* up = inner.data() + group.first * routing.width;
    kernels_.multiply({in, group.rows, x.cols, group.gate->data, group.gate->dtype, gate, routing.width, task.first,
                       task.last, false});
    kernels_.multiply({in, group.rows, x.cols, group.up->data, group.up->dtype, up, routing.width, task.first,
                       task.last, false});
    for (std::int64_t row = 0; row < group.rows; ++row) {
      const std::int64_t at = row * routing.width + task.first;
      kernels_.silu_multiply(gate + at, up + at, task.last - task.first);
    }
  });

  // `sorted` is free again and takes the experts' outputs.
  const std::vector<Task> falling = split(routing.groups, &Group::down);
  team_.parallel_for(static_cast<std::int64_t>(falling.size()), [&](std::int64_t index) {
    const Task& task = falling[static_cast<std::size_t>(index)];
    const Group& group = *task.group;
    std::vector<float> packed(static_cast<std::size_t>(group.rows * group.down->cols));
    for (std::int64_t row = 0; row < group.rows; ++row) {
      std::copy_n(inner.data() + (group.first + row) * routing.width, group.down->cols,
                  packed.data() + row * group.down->cols);
    }
    kernels_.multiply({packed.data(), group.rows, group.down->cols, group.down->data, group.down->dtype,
                       sorted.data() + group.first * x.cols, x.cols, task.first, task.last, false});
  });

  slices(x.rows, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      for (std::int64_t slot = 0; slot < slots; ++slot) {
        const auto row = static_cast<std::size_t>(routing.position[static_cast<std::size_t>(t * slots + slot)]);
        kernels_.add_scaled(routing.weight[row], sorted.data() + static_cast<std::int64_t>(row) * x.cols, y.row(t),
                            x.cols);
      }
    }
  });
}

}  // namespace lectern::engine::cpu

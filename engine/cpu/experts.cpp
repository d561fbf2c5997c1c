// SPDX-License-Identifier: Apache-2.0
// Sparse mixture of experts: rows are sorted by expert so that each expert's weights are read once.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "cpu/cpu_backend.h"

namespace lectern::engine::cpu {
namespace {

// Output columns of one task of the experts' last product: for few rows, so that long runs of memory are read, and for
// many, so that they stay in a cache.
constexpr std::int64_t kColumnsForFewRows = 512;
constexpr std::int64_t kColumnsForManyRows = 256;
constexpr std::int64_t kOutputNumbers = 8192;  // of its working memory

struct Choice {
  std::int64_t expert = 0;
  float weight = 0;
};

// The `count` largest of softmax(logits), ties to the lower index. Comparisons with numbers that are none are false,
// which leaves some experts chosen, each once.
void choose_experts(const float* logits, std::int64_t experts, std::int64_t count, bool normalise, Choice* choices) {
  for (std::int64_t e = 0; e < experts; ++e) {
    std::int64_t place = std::min(e, count);
    if (e >= count && !(logits[e] > choices[count - 1].weight)) continue;
    if (e >= count) --place;
    for (; place > 0 && logits[e] > choices[place - 1].weight; --place) choices[place] = choices[place - 1];
    choices[place] = {e, logits[e]};
  }
  const float largest = choices[0].weight;
  float sum = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    choices[i].weight = std::exp(choices[i].weight - largest);
    sum += choices[i].weight;
  }
  if (!normalise) {
    sum = 0;
    for (std::int64_t e = 0; e < experts; ++e) sum += std::exp(logits[e] - largest);
  }
  for (std::int64_t i = 0; i < count; ++i) choices[i].weight /= sum;
}

// Matrices of one expert and the rows that chose it: rows [first, first + rows) of the sorted order.
struct Group : HostExpert {
  std::int64_t first = 0;
  std::int64_t rows = 0;
};

struct Task {
  const Group* group = nullptr;
  std::int64_t first = 0;  // column
  std::int64_t last = 0;
};

// Room for `count` elements; what was there before stays as it is.
template <class T>
T* room(std::vector<T>& memory, std::int64_t count) {
  if (memory.size() < static_cast<std::size_t>(count)) memory.resize(static_cast<std::size_t>(count));
  return memory.data();
}

const std::uint8_t* weights_at(const HostMatrix& matrix, std::int64_t row) {
  return static_cast<const std::uint8_t*>(matrix.data) + row * bytes_of(matrix.dtype, matrix.cols);
}

// Of an expert's rows: there are few even in a long prompt of `rows` tokens, so that what is best for few is best here.
Form form_of(const Kernels& kernels, DType type, std::int64_t rows) {
  const Form few = kernels.form_for(type, 1);
  return few == Form::kInt8 ? few : kernels.form_for(type, rows);
}

constexpr std::size_t index_of(Form form) { return static_cast<std::size_t>(form); }

// Rows in every form that some expert wants: the shared expert's type may differ from the others'.
struct ManyForms {
  FormedRows rows[3];
  bool wanted[3] = {};

  const FormedRows& as(Form form) const { return rows[index_of(form)]; }
};

}  // namespace

// All rows sorted by expert; the shared expert comes last and takes every row. Kept between calls for its memory.
struct CpuBackend::Experts {
  std::vector<float> logits;         // [tokens, experts]
  std::vector<float> shared;         // weight of the shared expert for each token
  std::vector<Choice> choices;       // [tokens, experts_per_token]
  std::vector<std::int64_t> start;   // first sorted row of each expert
  std::vector<std::int64_t> source;  // token of each sorted row
  std::vector<float> weight;         // of each sorted row
  std::vector<Group> groups;
  std::vector<Task> tasks;
  std::int64_t width = 0;    // of the widest expert
  std::vector<float> gates;  // [sorted rows, width]
  std::vector<float> inner;  // the same
  ManyForms tokens;
  ManyForms inputs;  // sorted rows, shared with `tokens`
  ManyForms inners;

  void sort(const ExpertWeights& w, std::int64_t tokens);
  void take(std::span<const HostExpert> experts, std::span<const ExpertRow> rows);
  void want_forms(const Kernels& kernels, std::int64_t rows);
};

// By expert, and by token for each.
void CpuBackend::Experts::sort(const ExpertWeights& w, std::int64_t rows) {
  const std::int64_t per_token = w.experts_per_token;
  const auto experts = static_cast<std::int64_t>(w.gate.size());
  const bool with_shared = w.shared_gate != nullptr;
  start.assign(w.gate.size() + 1, 0);
  for (std::int64_t i = 0; i < rows * per_token; ++i) {
    ++start[static_cast<std::size_t>(choices[static_cast<std::size_t>(i)].expert) + 1];
  }
  std::partial_sum(start.begin(), start.end(), start.begin());
  groups.clear();
  width = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    const auto at = static_cast<std::size_t>(e);
    if (start[at + 1] == start[at]) continue;
    groups.push_back(
        {{&host_of(*w.gate[at]), &host_of(*w.up[at]), &host_of(*w.down[at])}, start[at], start[at + 1] - start[at]});
  }
  if (with_shared) {
    groups.push_back(
        {{&host_of(*w.shared_gate), &host_of(*w.shared_up), &host_of(*w.shared_down)}, rows * per_token, rows});
  }
  for (const Group& group : groups) width = std::max(width, group.gate->rows);
  source.resize(static_cast<std::size_t>(rows * (per_token + (with_shared ? 1 : 0))));
  weight.resize(source.size());
  for (std::int64_t i = 0; i < rows * per_token; ++i) {
    const Choice& choice = choices[static_cast<std::size_t>(i)];
    const auto row = static_cast<std::size_t>(start[static_cast<std::size_t>(choice.expert)]++);
    source[row] = i / per_token;
    weight[row] = choice.weight;
  }
  for (std::int64_t t = 0; with_shared && t < rows; ++t) {
    source[static_cast<std::size_t>(rows * per_token + t)] = t;
    weight[static_cast<std::size_t>(rows * per_token + t)] = shared[static_cast<std::size_t>(t)];
  }
}

// Rows that are sorted already.
void CpuBackend::Experts::take(std::span<const HostExpert> experts, std::span<const ExpertRow> rows) {
  groups.clear();
  source.clear();
  weight.clear();
  width = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i == 0 || rows[i].expert != rows[i - 1].expert) {
      groups.push_back({experts[static_cast<std::size_t>(rows[i].expert)], static_cast<std::int64_t>(i), 0});
      width = std::max(width, groups.back().gate->rows);
    }
    ++groups.back().rows;
    source.push_back(rows[i].row);
    weight.push_back(rows[i].weight);
  }
}

void CpuBackend::Experts::want_forms(const Kernels& kernels, std::int64_t rows) {
  std::fill_n(tokens.wanted, 3, false);
  std::fill_n(inners.wanted, 3, false);
  for (const Group& group : groups) {
    tokens.wanted[index_of(form_of(kernels, group.gate->dtype, rows))] = true;
    tokens.wanted[index_of(form_of(kernels, group.up->dtype, rows))] = true;
    inners.wanted[index_of(form_of(kernels, group.down->dtype, rows))] = true;
  }
}

CpuBackend::CpuBackend(int threads, const Kernels& kernels)
    : team_(threads), kernels_(kernels), experts_(std::make_unique<Experts>()) {}

CpuBackend::~CpuBackend() = default;

void CpuBackend::route(const Tensor& x, const ExpertWeights& w) {
  const std::int64_t experts = w.router->rows();
  const std::int64_t per_token = w.experts_per_token;
  float* logits = room(experts_->logits, x.rows * experts);
  float* shared = room(experts_->shared, x.rows);
  Choice* choices = room(experts_->choices, x.rows * per_token);
  linear(x, *w.router, false, {logits, x.rows, experts});
  if (w.shared_gate) {
    linear(x, *w.shared_router, false, {shared, x.rows, 1});
    for (std::int64_t t = 0; t < x.rows; ++t) shared[t] = 1.0F / (1.0F + std::exp(-shared[t]));
  }
  slices(x.rows, 1, 16 * experts, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      choose_experts(logits + t * experts, experts, per_token, w.normalise_top_k, choices + t * per_token);
    }
  });
  experts_->sort(w, x.rows);
}

// Each token is converted once, for all its experts.
void CpuBackend::form_inputs(const Tensor& x) {
  const auto sorted = static_cast<std::int64_t>(experts_->source.size());
  for (const Form form : {Form::kFloat, Form::kInt8, Form::kBFloat16}) {
    if (!experts_->tokens.wanted[index_of(form)]) continue;
    FormedRows& tokens = experts_->tokens.rows[index_of(form)];
    FormedRows& inputs = experts_->inputs.rows[index_of(form)];
    form_rows(x, form, tokens);
    inputs.reset(form, sorted, 0);
    for (std::int64_t row = 0; row < sorted; ++row) {
      inputs.share(row, tokens, experts_->source[static_cast<std::size_t>(row)]);
    }
  }
}

// inner = silu(gate x) * up x, for `rows` tokens
void CpuBackend::expand(std::int64_t rows) {
  Experts& all = *experts_;
  const auto sorted = static_cast<std::int64_t>(all.source.size());
  float* gates = room(all.gates, sorted * all.width);
  float* inner = room(all.inner, sorted * all.width);
  all.tasks.clear();
  std::int64_t work = 0;
  for (const Group& group : all.groups) {
    const HostMatrix& gate = *group.gate;
    const std::int64_t step =
        rows <= kSmallBatchRows ? slice_of(gate.dtype, 2 * gate.cols, 2 * gate.rows) : kTileColumns;
    for (std::int64_t first = 0; first < gate.rows; first += step) {
      all.tasks.push_back({&group, first, std::min(gate.rows, first + step)});
    }
    work += 2 * group.rows * gate.rows * gate.cols;
  }
  const auto count = static_cast<std::int64_t>(all.tasks.size());
  each(count, work / count, [&](std::int64_t index) {
    const Task& task = all.tasks[static_cast<std::size_t>(index)];
    const Group& group = *task.group;
    const std::int64_t at = group.first * all.width + task.first;
    const auto multiply = [&](const HostMatrix& matrix, float* out, const std::uint8_t* next) {
      const Form form = form_of(kernels_, matrix.dtype, rows);
      kernels_.multiply_stored({all.inputs.as(form).rows(group.first), form, group.rows, &matrix, task.first, task.last,
                                out + at, all.width, false, next});
    };
    // The team takes indices from the last to the first.
    const Task& later = all.tasks[static_cast<std::size_t>(std::max<std::int64_t>(0, index - team_.size()))];
    multiply(*group.gate, gates, weights_at(*group.up, task.first));
    multiply(*group.up, inner, weights_at(*later.group->gate, later.first));
    for (std::int64_t row = 0; row < group.rows; ++row) {
      kernels_.silu_multiply(gates + at + row * all.width, inner + at + row * all.width, task.last - task.first);
    }
  });
}

void CpuBackend::form_inner(std::int64_t rows) {
  Experts& all = *experts_;
  const auto sorted = static_cast<std::int64_t>(all.source.size());
  for (const Form form : {Form::kFloat, Form::kInt8, Form::kBFloat16}) {
    if (all.inners.wanted[index_of(form)]) all.inners.rows[index_of(form)].reset(form, sorted, all.width);
  }
  const auto count = static_cast<std::int64_t>(all.groups.size());
  each(count, sorted * all.width / count, [&](std::int64_t index) {
    const Group& group = all.groups[static_cast<std::size_t>(index)];
    FormedRows& inners = all.inners.rows[index_of(form_of(kernels_, group.down->dtype, rows))];
    for (std::int64_t row = group.first; row < group.first + group.rows; ++row) {
      inners.set(kernels_, row, all.inner.data() + row * all.width, group.down->cols);
    }
  });
}

// y += the experts' outputs, weighted. A task owns some columns of y and takes the experts one after another, so that
// the order of the sums does not depend on the other rows or on the threads.
void CpuBackend::contract(std::int64_t rows, const Tensor& y) {
  const Experts& all = *experts_;
  const bool few = rows <= kSmallBatchRows;
  std::int64_t step = few ? kColumnsForFewRows : kColumnsForManyRows;
  while (step > 32 && step * (few ? 2 : 4) * team_.size() > y.cols) step /= 2;
  const std::int64_t count = (y.cols + step - 1) / step;
  const auto sorted = static_cast<std::int64_t>(all.source.size());
  each(count, sorted * all.width * step, [&](std::int64_t index) {
    const std::int64_t first = index * step;
    const std::int64_t columns = std::min(step, y.cols - first);
    const std::int64_t most_rows = kOutputNumbers / step;
    float out[kOutputNumbers];
    for (const Group& group : all.groups) {
      const Group& later = &group == &all.groups.back() ? group : *(&group + 1);
      const std::uint8_t* next = weights_at(*later.down, first);
      const Form form = form_of(kernels_, group.down->dtype, rows);
      for (std::int64_t row = group.first; row < group.first + group.rows; row += most_rows) {
        const std::int64_t batch = std::min(most_rows, group.first + group.rows - row);
        kernels_.multiply_stored({all.inners.as(form).rows(row), form, batch, group.down, first, first + columns, out,
                                  columns, false, next});
        for (std::int64_t r = 0; r < batch; ++r) {
          const auto at = static_cast<std::size_t>(row + r);
          kernels_.add_scaled(all.weight[at], out + r * columns, y.row(all.source[at]) + first, columns);
        }
      }
    }
  });
}

void CpuBackend::add_sorted(const Tensor& x, const Tensor& y) {
  experts_->want_forms(kernels_, x.rows);
  form_inputs(x);
  expand(x.rows);
  form_inner(x.rows);
  contract(x.rows, y);
}

void CpuBackend::add_experts(const Tensor& x, std::span<const HostExpert> experts, std::span<const ExpertRow> rows,
                             const Tensor& y) {
  if (rows.empty()) return;
  experts_->take(experts, rows);
  add_sorted(x, y);
}

void CpuBackend::mixture_of_experts(const Tensor& x, const ExpertWeights& w, const Tensor& y) {
  route(x, w);
  add_sorted(x, y);
}

}  // namespace lectern::engine::cpu

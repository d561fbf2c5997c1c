// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernels.h"

namespace lectern::engine::cpu {

// Activations in the form that a product reads. Those in kFloat stay where they are; others get memory here, which is
// kept for the next use because new pages are slow.
class FormedRows {
 public:
  // Room for `count` rows of up to `columns` numbers; converts nothing yet.
  void reset(Form form, std::int64_t count, std::int64_t columns) {
    form_ = form;
    stride_ = static_cast<std::size_t>(bytes_of(form, columns) + kLine - 1) / kLine;
    rows_.resize(static_cast<std::size_t>(count));
    const std::size_t lines = form == Form::kFloat ? 0 : stride_ * rows_.size();
    if (memory_.size() < lines) memory_.resize(lines);
  }

  // Different rows may be set by different threads.
  void set(const Kernels& kernels, std::int64_t row, const float* x, std::int64_t columns) {
    const auto at = static_cast<std::size_t>(row);
    rows_[at] = x;
    if (form_ == Form::kFloat) return;
    void* to = memory_.data() + at * stride_;
    kernels.convert(form_, x, columns, to);
    rows_[at] = to;
  }

  // The same row once more.
  void share(std::int64_t row, const FormedRows& other, std::int64_t from) {
    rows_[static_cast<std::size_t>(row)] = other.rows_[static_cast<std::size_t>(from)];
  }

  Form form() const { return form_; }
  const void* const* rows(std::int64_t first) const { return rows_.data() + first; }

 private:
  static constexpr std::size_t kLine = 64;
  struct alignas(kLine) Line {
    std::byte bytes[kLine];
  };

  Form form_ = Form::kFloat;
  std::size_t stride_ = 0;  // in lines
  std::vector<Line> memory_;
  std::vector<const void*> rows_;
};

}  // namespace lectern::engine::cpu

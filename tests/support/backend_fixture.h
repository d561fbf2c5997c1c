// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ops/backend.h"
#include "quant/formats.h"
#include "support/backend_kind.h"
#include "support/oracle.h"

namespace lectern::engine::support {

using oracle::Matrix;

inline constexpr std::size_t kGuard = 24;  // numbers on each side of an array that must stay as they are
inline constexpr float kGuardValue = -12345.678F;

// Numbers on the device between guards; outputs start as NaN so that one left out shows.
class Numbers {
 public:
  Numbers(Backend& backend, const Matrix& matrix) : Numbers(backend, matrix.rows, matrix.cols) {
    std::copy(matrix.values.begin(), matrix.values.end(), original_.begin() + kGuard);
    backend.upload(original_, buffer_->data());
  }
  Numbers(Backend& backend, std::int64_t rows, std::int64_t cols)
      : backend_(&backend),
        rows_(rows),
        cols_(cols),
        original_(static_cast<std::size_t>(rows * cols) + 2 * kGuard, kGuardValue) {
    std::fill(original_.begin() + kGuard, original_.end() - kGuard, std::numeric_limits<float>::quiet_NaN());
    auto made = backend.make_buffer(static_cast<std::int64_t>(original_.size()), MemoryUse::kState);
    EXPECT_TRUE(made.ok());
    buffer_ = std::move(made).value();
    backend.upload(original_, buffer_->data());
  }

  Tensor tensor() { return {data(), rows_, cols_}; }
  float* data() { return buffer_->data() + kGuard; }  // on the device

  // What the device has now.
  std::vector<float> read() const {
    const std::vector<float> all = read_with_guards();
    return {all.begin() + kGuard, all.end() - kGuard};
  }

  void expect_unchanged() const {
    EXPECT_EQ(0, std::memcmp(read_with_guards().data(), original_.data(), original_.size() * sizeof(float)));
  }

  void expect(const Matrix& expected, double tolerance) const {
    const std::vector<float> all = read_with_guards();
    double largest = 1e-30;
    double worst = 0;
    for (std::size_t i = 0; i < expected.values.size(); ++i) {
      ASSERT_TRUE(std::isfinite(all[kGuard + i])) << "at " << i;
      largest = std::max(largest, std::abs(expected.values[i]));
      worst = std::max(worst, std::abs(all[kGuard + i] - expected.values[i]));
    }
    EXPECT_LE(worst / largest, tolerance);
    for (std::size_t i = 0; i < kGuard; ++i) {
      ASSERT_EQ(all[i], kGuardValue) << "written before the array";
      ASSERT_EQ(all[all.size() - 1 - i], kGuardValue) << "written behind the array";
    }
  }

 private:
  std::vector<float> read_with_guards() const {
    std::vector<float> all(original_.size());
    backend_->download(buffer_->data(), all);
    return all;
  }

  Backend* backend_;
  std::int64_t rows_;
  std::int64_t cols_;
  std::vector<float> original_;  // guards included
  std::unique_ptr<Buffer> buffer_;
};

// A weight with the host memory it was made of.
struct HeldWeight {
  std::vector<std::byte> memory;
  std::vector<float> scales;  // of kF8E4M3
  WeightHandle handle;
  Matrix values;  // as stored
};

// The body of a test runs on every kind of backend that the executable has.
class BackendTest : public ::testing::TestWithParam<BackendKind> {
 protected:
  BackendTest() : backend_(kind().make()) {}

  void TearDown() override {
    for (const Numbers& list : lists_) list.expect_unchanged();
    lists_.clear();
    EXPECT_TRUE(backend_->status().ok());
    EXPECT_EQ(kind().complaint(), "");
  }

  static const BackendKind& kind() { return GetParam(); }

  // An array for an operation to read, until the test ends.
  template <class T>
  const float* on_device(const std::vector<T>& list) {
    Matrix row(1, static_cast<std::int64_t>(list.size()));
    row.values.assign(list.begin(), list.end());
    return lists_.emplace_back(*backend_, row).data();
  }

  // Random numbers that a float holds exactly.
  Matrix random(std::int64_t rows, std::int64_t cols, double scale = 1.0) {
    Matrix matrix(rows, cols);
    std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
    for (double& value : matrix.values) value = static_cast<float>(scale) * uniform(random_);
    return matrix;
  }

  std::vector<double> random_list(std::int64_t count, double scale, double offset) {
    std::vector<double> list = random(1, count, scale).values;
    for (double& value : list) value = static_cast<float>(value + offset);
    return list;
  }

  // The nearest numbers to `matrix` that the type can hold; cols are whole blocks.
  HeldWeight weight(const Matrix& matrix, DType type) {
    HeldWeight held;
    held.memory.resize(static_cast<std::size_t>(bytes_of(type, matrix.rows * matrix.cols)));
    const std::vector<float> numbers = floats(matrix.values);
    if (type == DType::kF8E4M3) {
      fill_f8(numbers, matrix.cols, held);
    } else {
      quantize(type, numbers.data(), matrix.rows * matrix.cols, held.memory.data());
    }
    const HostMatrix host = {type, held.memory.data(), matrix.rows, matrix.cols,
                             held.scales.empty() ? nullptr : held.scales.data()};
    held.values = Matrix(matrix.rows, matrix.cols);
    std::vector<float> row(static_cast<std::size_t>(matrix.cols));
    for (std::int64_t r = 0; r < matrix.rows; ++r) {
      read_row(host, r, row.data());
      std::copy(row.begin(), row.end(), held.values.values.begin() + r * matrix.cols);
    }
    auto taken = backend_->take_weight(host);
    EXPECT_TRUE(taken.ok());
    held.handle = std::move(taken).value();
    return held;
  }

  // The nearest codes, with random scales. Codes 0 to 126 are the positive numbers in order, 127 is none.
  void fill_f8(std::span<const float> numbers, std::int64_t cols, HeldWeight& held) {
    std::vector<float> positive;
    for (int code = 0; code < 127; ++code) positive.push_back(f8_e4m3_to_float(static_cast<std::uint8_t>(code)));
    const std::int64_t rows = static_cast<std::int64_t>(numbers.size()) / cols;
    const std::int64_t across = (cols + 127) / 128;
    std::uniform_real_distribution<float> uniform(0.5F, 2.0F);
    held.scales.resize(static_cast<std::size_t>((rows + 127) / 128 * across));
    for (float& scale : held.scales) scale = uniform(random_) / 256;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      const std::int64_t block = at / cols / 128 * across + at % cols / 128;
      const float magnitude = std::abs(numbers[i]) / held.scales[static_cast<std::size_t>(block)];
      auto above = std::lower_bound(positive.begin() + 1, positive.end() - 1, magnitude);
      if (magnitude - *(above - 1) < *above - magnitude) --above;
      held.memory[i] = static_cast<std::byte>((above - positive.begin()) | (numbers[i] < 0 ? 128 : 0));
    }
  }

  HeldWeight random_weight(std::int64_t rows, std::int64_t cols, DType type) {
    return weight(random(rows, cols, std::sqrt(3.0 / static_cast<double>(cols))), type);
  }

  static std::vector<float> floats(std::span<const double> list) { return {list.begin(), list.end()}; }

  std::unique_ptr<Backend> backend_;
  std::deque<Numbers> lists_;
  std::mt19937 random_{17};
};

inline std::string kind_name(const ::testing::TestParamInfo<BackendKind>& info) { return info.param.name; }

}  // namespace lectern::engine::support

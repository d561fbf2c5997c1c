// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/cpu_backend.h"
#include "cpu/kernels.h"
#include "ops/backend.h"
#include "support/oracle.h"

namespace lectern::engine::support {

using oracle::Matrix;

inline constexpr std::size_t kGuard = 24;  // numbers on each side of an array that must stay as they are
inline constexpr float kGuardValue = -12345.678F;

// Numbers between guards; outputs start as NaN so that one left out shows.
class Numbers {
 public:
  explicit Numbers(const Matrix& matrix) : Numbers(matrix.rows, matrix.cols) {
    for (std::size_t i = 0; i < matrix.values.size(); ++i) {
      memory_[kGuard + i] = static_cast<float>(matrix.values[i]);
    }
    original_ = memory_;
  }
  Numbers(std::int64_t rows, std::int64_t cols)
      : rows_(rows), cols_(cols), memory_(static_cast<std::size_t>(rows * cols) + 2 * kGuard, kGuardValue) {
    std::fill(memory_.begin() + kGuard, memory_.end() - kGuard, std::numeric_limits<float>::quiet_NaN());
  }

  Tensor tensor() { return {data(), rows_, cols_}; }
  float* data() { return memory_.data() + kGuard; }
  float operator[](std::size_t index) const { return memory_[kGuard + index]; }

  void expect_unchanged() const {
    EXPECT_EQ(0, std::memcmp(memory_.data(), original_.data(), memory_.size() * sizeof(float)));
  }

  void expect(const Matrix& expected, double tolerance) const {
    double largest = 1e-30;
    double worst = 0;
    for (std::size_t i = 0; i < expected.values.size(); ++i) {
      ASSERT_TRUE(std::isfinite(memory_[kGuard + i])) << "at " << i;
      largest = std::max(largest, std::abs(expected.values[i]));
      worst = std::max(worst, std::abs(memory_[kGuard + i] - expected.values[i]));
    }
    EXPECT_LE(worst / largest, tolerance);
    for (std::size_t i = 0; i < kGuard; ++i) {
      ASSERT_EQ(memory_[i], kGuardValue) << "written before the array";
      ASSERT_EQ(memory_[memory_.size() - 1 - i], kGuardValue) << "written behind the array";
    }
  }

 private:
  std::int64_t rows_;
  std::int64_t cols_;
  std::vector<float> memory_;
  std::vector<float> original_;
};

// A weight with the host memory it was made of.
struct HeldWeight {
  std::vector<std::byte> memory;
  WeightHandle handle;
  Matrix values;  // as stored
};

using BackendParameters = std::tuple<std::size_t, int>;  // kernels, threads

// The body of a test runs on every kind of kernels that this machine has, with one thread and with two.
class BackendTest : public ::testing::TestWithParam<BackendParameters> {
 protected:
  BackendTest()
      : backend_(std::make_unique<cpu::CpuBackend>(std::get<1>(GetParam()),
                                                   *cpu::usable_kernels()[std::get<0>(GetParam())])) {}

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

  HeldWeight weight(const Matrix& matrix, DType type) {
    HeldWeight held;
    held.values = matrix;
    held.memory.resize(matrix.values.size() * bytes_of(type));
    for (std::size_t i = 0; i < matrix.values.size(); ++i) {
      const auto value = static_cast<float>(matrix.values[i]);
      if (type == DType::kF32) {
        std::memcpy(held.memory.data() + i * 4, &value, 4);
        continue;
      }
      const auto bits = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
      std::memcpy(held.memory.data() + i * 2, &bits, 2);
      held.values.values[i] = std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
    }
    auto taken = backend_->take_weight({type, held.memory.data(), matrix.rows, matrix.cols});
    EXPECT_TRUE(taken.ok());
    held.handle = std::move(taken).value();
    return held;
  }

  HeldWeight random_weight(std::int64_t rows, std::int64_t cols, DType type) {
    return weight(random(rows, cols, std::sqrt(3.0 / static_cast<double>(cols))), type);
  }

  static std::vector<float> floats(std::span<const double> list) { return {list.begin(), list.end()}; }

  std::unique_ptr<Backend> backend_;
  std::mt19937 random_{17};
};

inline std::string backend_name(const ::testing::TestParamInfo<BackendParameters>& info) {
  return std::string(cpu::usable_kernels()[std::get<0>(info.param)]->name) + "_" +
         std::to_string(std::get<1>(info.param)) + "threads";
}

inline auto all_backends() {
  return ::testing::Combine(::testing::Range<std::size_t>(0, cpu::usable_kernels().size()), ::testing::Values(1, 2));
}

}  // namespace lectern::engine::support

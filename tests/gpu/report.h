// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace lectern::engine::bench {

// A JSON object or list that grows.
class Json {
 public:
  static Json list() { return Json('[', ']'); }
  Json() : Json('{', '}') {}

  Json& add(std::string_view key, std::string_view text) { return member(key, json_quote(text)); }
  Json& add(std::string_view key, const char* text) { return add(key, std::string_view(text)); }
  Json& add(std::string_view key, const Json& value) { return member(key, value.text()); }
  Json& add(std::string_view key, bool value) { return member(key, value ? "true" : "false"); }
  Json& add(std::string_view key, std::integral auto value) { return member(key, std::to_string(value)); }
  Json& add(std::string_view key, double value) { return member(key, number(value)); }
  Json& add(std::string_view key, const std::vector<double>& values) {
    Json all = list();
    for (const double value : values) all.push(number(value));
    return add(key, all);
  }

  Json& append(const Json& value) { return push(value.text()); }
  bool empty() const { return content_.empty(); }
  std::string text() const { return open_ + content_ + close_; }

 private:
  Json(char open, char close) : open_(1, open), close_(1, close) {}

  static std::string number(double value) {
    if (!std::isfinite(value)) return "null";
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", value);
    return text;
  }
  Json& member(std::string_view key, const std::string& value) { return push(json_quote(key) + ": " + value); }
  Json& push(const std::string& part) {
    content_ += (content_.empty() ? "" : ", ") + part;
    return *this;
  }

  std::string open_;
  std::string content_;
  std::string close_;
};

}  // namespace lectern::engine::bench

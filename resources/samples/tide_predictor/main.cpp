// SPDX-License-Identifier: Apache-2.0
// Prints the predicted tide at Skerry Point.
//
//   tide heights  2025-06-01 1    the height every 30 minutes for one day
//   tide extremes 2025-06-01 7    high and low waters for seven days
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "tide_model.h"

namespace {

constexpr long long kSecondsPerDay = 86400;
constexpr int kMostDays = 366;

// Reads "2025-06-01" as midnight UTC. Returns false when the text is no date.
bool parse_date(const char* text, long long& time) {
  std::tm parts{};
  if (std::sscanf(text, "%d-%d-%d", &parts.tm_year, &parts.tm_mon, &parts.tm_mday) != 3) return false;
  if (parts.tm_mon < 1 || parts.tm_mon > 12 || parts.tm_mday < 1 || parts.tm_mday > 31) return false;
  parts.tm_year -= 1900;
  parts.tm_mon -= 1;
  time = timegm(&parts);
  return true;
}

void print_time(long long time) {
  const std::time_t moment = static_cast<std::time_t>(time);
  std::tm parts{};
  gmtime_r(&moment, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", &parts);
  std::fputs(text, stdout);
}

void print_heights(const tide::TideModel& model, long long begin, long long end) {
  for (long long time = begin; time < end; time += 1800) {
    print_time(time);
    std::printf(" %5.2f%s\n", model.height_at(time), model.causeway_is_dry(time) ? " causeway dry" : "");
  }
}

void print_extremes(const tide::TideModel& model, long long begin, long long end) {
  for (const tide::Extreme& extreme : model.extremes(begin, end)) {
    print_time(extreme.time);
    std::printf(" %5.2f %s\n", extreme.height, extreme.kind == tide::ExtremeKind::kHighWater ? "high" : "low");
  }
}

}  // namespace

int main(int count, char** arguments) {
  long long begin = 0;
  const int days = count == 4 ? std::atoi(arguments[3]) : 0;
  if (count != 4 || !parse_date(arguments[2], begin) || days < 1 || days > kMostDays) {
    std::fputs("Usage: tide heights|extremes YYYY-MM-DD DAYS (1 to 366)\n", stderr);
    return 2;
  }
  const tide::TideModel model;
  const long long end = begin + days * kSecondsPerDay;
  if (std::strcmp(arguments[1], "heights") == 0) {
    print_heights(model, begin, end);
  } else if (std::strcmp(arguments[1], "extremes") == 0) {
    print_extremes(model, begin, end);
  } else {
    std::fprintf(stderr, "tide: unknown command %s\n", arguments[1]);
    return 2;
  }
  return 0;
}

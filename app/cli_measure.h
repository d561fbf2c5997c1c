// SPDX-License-Identifier: GPL-3.0-or-later
// What the commands that look at and measure models have in common.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "cli_commands.h"
#include "cli_json.h"
#include "engine/measure.h"
#include "engine/model_tools.h"

namespace lectern::app {

// "Types of the weights: Q4_K_M, Q8_0, ..."
std::string mixHelp();

// Empty when `text` names a device, else what is wrong: for CLI11.
std::string checkDevice(const std::string& text);

engine::EngineOptions engineOptions(const CliOptions& options);

// As fail(), for what the engine says.
ExitCode fail(const CommandContext& context, const engine::Error& error);

// Shows progress on stderr, with the time left.
engine::TaskSink progressOn(const CommandContext& context, const std::string& verb);

const char* name(engine::KvType type);
Json toJson(const engine::MemoryPlan& memory);
Json toJson(const engine::SpeedPrediction& prediction);

// "; 12 of 512 experts ...": nothing where all are in one place.
std::string expertsText(const engine::MemoryPlan& plan);
// "reading 100, writing 10 tokens/s", and what the planner's own choice would give.
std::string predictionText(const engine::SpeedPrediction& prediction, const engine::MemoryPlan& plan);
// PREFIX, PREFIX_least and PREFIX_most
void put(Json& json, const std::string& prefix, const engine::Spread& spread);

// "12.3", "123": about three digits.
std::string threeDigits(double number);
std::string percent(double share);

}  // namespace lectern::app

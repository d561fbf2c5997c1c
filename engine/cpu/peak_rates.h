// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/parallel.h"

namespace lectern::engine {

// What the team reaches together when nothing but the one thing is done; a product and its sum are two operations.
double measure_read_bandwidth(ThreadTeam& team);  // bytes per second out of memory
double measure_f32_rate(ThreadTeam& team);
double measure_bf16_rate(ThreadTeam& team);  // 0: the processor has no such instructions
double measure_int8_rate(ThreadTeam& team);  // 0: the same

}  // namespace lectern::engine

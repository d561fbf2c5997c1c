// SPDX-License-Identifier: Apache-2.0
#include "constituents.h"

namespace tide {

const std::vector<Constituent>& constituents() {
  // The sum of the amplitudes of M2 and S2 is half the spring range of 3.8 metres, and their difference is half the
  // neap range of 1.6 metres.
  static const std::vector<Constituent> table = {
      {"M2", 28.9841042, 1.35, 161.0},  // principal lunar, twice a day
      {"S2", 30.0000000, 0.55, 197.0},  // principal solar, twice a day
      {"N2", 28.4397295, 0.28, 139.0},  // larger lunar elliptic
      {"K1", 15.0410686, 0.12, 224.0},  // lunisolar, once a day
      {"O1", 13.9430356, 0.10, 35.0},   // principal lunar, once a day
      {"M4", 57.9682084, 0.05, 88.0},   // shallow water, four times a day
  };
  return table;
}

}  // namespace tide

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string_view>

namespace lectern::engine {

// Short texts of several kinds, for measurements that depend on what is read.
inline constexpr std::array<std::string_view, 8> kSampleTexts = {
    "The tide had gone out further than anyone in the village could remember. Where the harbour used to be there was "
    "only mud, grey and shining, and the boats lay on their sides like tired animals. Old Marten stood on the wall "
    "with "
    "his pipe and said that it would come back, as it always had, and that the boats had better be ready when it did.",
    "A heat pump moves heat from a cold place to a warm one. A liquid with a low boiling point takes up heat outside "
    "and becomes a gas; a compressor presses the gas together, which makes it hotter; indoors it gives the heat away "
    "and becomes a liquid again. For every unit of electricity it moves three or four units of heat.",
    "def binary_search(items, wanted):\n    low, high = 0, len(items)\n    while low < high:\n        middle = (low + "
    "high) // 2\n        if items[middle] < wanted:\n            low = middle + 1\n        else:\n            high = "
    "middle\n    return low if low < len(items) and items[low] == wanted else -1\n",
    "Question: A train leaves at 9:40 and travels 150 km at 60 km/h. When does it arrive?\nAnswer: The journey takes "
    "150 / 60 = 2.5 hours, that is, 2 hours and 30 minutes. Counted from 9:40 the train arrives at 12:10.",
    "Article 4. Every member may propose a change to these rules. The proposal must be made in writing, at least four "
    "weeks before the meeting, and must state its reasons. It is accepted if two thirds of those present agree. "
    "Changes "
    "take effect on the first day of the following month.",
    "Der Wald begann gleich hinter dem letzten Haus. Im Winter, wenn der Schnee bis an die Fenster reichte, hörte man "
    "nachts die Äste brechen, und am Morgen waren Spuren im Garten, die niemand kannte. Die Kinder gaben ihnen Namen.",
    "{\"city\": \"Lisbon\", \"population\": 545923, \"districts\": [\"Belém\", \"Alcântara\", \"Arroios\"], "
    "\"coordinates\": {\"lat\": 38.7223, \"lon\": -9.1393}, \"capital\": true, \"founded\": null, \"twins\": [\"Rio de "
    "Janeiro\", \"Madrid\", \"Budapest\"]}",
    "Theorem. There are infinitely many prime numbers. Proof. Suppose that there are only finitely many, and let n be "
    "their product. Then n + 1 is larger than each of them and leaves the remainder 1 when divided by any of them. So "
    "it has a prime factor that is not in the list, which contradicts the assumption."};

}  // namespace lectern::engine

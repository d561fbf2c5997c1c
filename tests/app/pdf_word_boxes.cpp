// SPDX-License-Identifier: GPL-3.0-or-later
#include "pdf_word_boxes.h"

#include <array>
#include <cstdio>
#include <memory>
#include <utility>

namespace lectern::app {
namespace {

std::string outputOf(const std::string& command) {
  std::string text;
  const auto closes = [](std::FILE* stream) { pclose(stream); };
  const std::unique_ptr<std::FILE, decltype(closes)> stream(popen(command.c_str(), "r"), closes);
  if (stream == nullptr) return text;
  std::array<char, 65536> buffer{};
  while (const std::size_t size = std::fread(buffer.data(), 1, buffer.size(), stream.get())) {
    text.append(buffer.data(), size);
  }
  return text;
}

double attribute(const std::string& element, const std::string& name) {
  const std::size_t at = element.find(" " + name + "=\"");
  return at == std::string::npos ? 0 : std::stod(element.substr(at + name.size() + 3));
}

std::string unescaped(std::string text) {
  constexpr std::array<std::pair<const char*, const char*>, 5> kEntities = {
      {{"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&apos;", "'"}, {"&amp;", "&"}}};
  for (const auto& [entity, character] : kEntities) {
    for (std::size_t at = 0; (at = text.find(entity, at)) != std::string::npos; ++at) {
      text.replace(at, std::string(entity).size(), character);
    }
  }
  return text;
}

}  // namespace

std::vector<WordBox> pdfWordBoxes(const std::filesystem::path& file, int page) {
  const std::string number = std::to_string(page);
  const std::string xml =
      outputOf("pdftotext -bbox -f " + number + " -l " + number + " '" + file.string() + "' - 2>/dev/null");
  const std::size_t start = xml.find("<page ");
  if (start == std::string::npos) return {};
  const double width = attribute(xml.substr(start, xml.find('>', start) - start), "width");
  const double height = attribute(xml.substr(start, xml.find('>', start) - start), "height");
  std::vector<WordBox> boxes;
  for (std::size_t at = start; (at = xml.find("<word ", at)) != std::string::npos; ++at) {
    const std::size_t close = xml.find('>', at);
    const std::string element = xml.substr(at, close - at);
    boxes.push_back({unescaped(xml.substr(close + 1, xml.find("</word>", close) - close - 1)),
                     attribute(element, "xMin") / width, attribute(element, "yMin") / height,
                     attribute(element, "xMax") / width, attribute(element, "yMax") / height});
  }
  return boxes;
}

}  // namespace lectern::app

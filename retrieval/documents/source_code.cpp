// SPDX-License-Identifier: GPL-3.0-or-later
#include "source_code.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <regex>
#include <utility>

#include "retrieval/extract.h"

namespace lectern::retrieval {
namespace {

using Entry = std::pair<std::string_view, std::string_view>;

constexpr std::array kBySuffix = {
    Entry{".md", "markdown"},
    Entry{".markdown", "markdown"},
    Entry{".mdown", "markdown"},
    Entry{".c", "c"},
    Entry{".h", "cpp"},
    Entry{".cc", "cpp"},
    Entry{".cpp", "cpp"},
    Entry{".cxx", "cpp"},
    Entry{".hh", "cpp"},
    Entry{".hpp", "cpp"},
    Entry{".hxx", "cpp"},
    Entry{".ipp", "cpp"},
    Entry{".inl", "cpp"},
    Entry{".cu", "cuda"},
    Entry{".cuh", "cuda"},
    Entry{".m", "objectivec"},
    Entry{".mm", "objectivec"},
    Entry{".py", "python"},
    Entry{".pyi", "python"},
    Entry{".pyx", "python"},
    Entry{".rs", "rust"},
    Entry{".go", "go"},
    Entry{".java", "java"},
    Entry{".kt", "kotlin"},
    Entry{".kts", "kotlin"},
    Entry{".scala", "scala"},
    Entry{".groovy", "groovy"},
    Entry{".gradle", "groovy"},
    Entry{".swift", "swift"},
    Entry{".cs", "csharp"},
    Entry{".fs", "fsharp"},
    Entry{".vb", "vb"},
    Entry{".js", "javascript"},
    Entry{".mjs", "javascript"},
    Entry{".cjs", "javascript"},
    Entry{".jsx", "javascript"},
    Entry{".ts", "typescript"},
    Entry{".tsx", "typescript"},
    Entry{".vue", "vue"},
    Entry{".svelte", "svelte"},
    Entry{".rb", "ruby"},
    Entry{".php", "php"},
    Entry{".pl", "perl"},
    Entry{".pm", "perl"},
    Entry{".lua", "lua"},
    Entry{".sh", "shell"},
    Entry{".bash", "shell"},
    Entry{".zsh", "shell"},
    Entry{".fish", "shell"},
    Entry{".ps1", "powershell"},
    Entry{".bat", "batch"},
    Entry{".sql", "sql"},
    Entry{".r", "r"},
    Entry{".jl", "julia"},
    Entry{".hs", "haskell"},
    Entry{".ml", "ocaml"},
    Entry{".mli", "ocaml"},
    Entry{".ex", "elixir"},
    Entry{".exs", "elixir"},
    Entry{".erl", "erlang"},
    Entry{".clj", "clojure"},
    Entry{".lisp", "lisp"},
    Entry{".el", "lisp"},
    Entry{".scm", "scheme"},
    Entry{".dart", "dart"},
    Entry{".zig", "zig"},
    Entry{".nim", "nim"},
    Entry{".d", "d"},
    Entry{".pas", "pascal"},
    Entry{".adb", "ada"},
    Entry{".ads", "ada"},
    Entry{".f", "fortran"},
    Entry{".f90", "fortran"},
    Entry{".f95", "fortran"},
    Entry{".v", "verilog"},
    Entry{".sv", "verilog"},
    Entry{".vhd", "vhdl"},
    Entry{".vhdl", "vhdl"},
    Entry{".asm", "assembly"},
    Entry{".s", "assembly"},
    Entry{".proto", "protobuf"},
    Entry{".graphql", "graphql"},
    Entry{".thrift", "thrift"},
    Entry{".cmake", "cmake"},
    Entry{".mk", "make"},
    Entry{".tf", "terraform"},
    Entry{".nix", "nix"},
    Entry{".html", "html"},
    Entry{".htm", "html"},
    Entry{".xhtml", "html"},
    Entry{".xml", "xml"},
    Entry{".svg", "xml"},
    Entry{".xsl", "xml"},
    Entry{".ui", "xml"},
    Entry{".qrc", "xml"},
    Entry{".css", "css"},
    Entry{".scss", "css"},
    Entry{".less", "css"},
    Entry{".json", "json"},
    Entry{".jsonl", "json"},
    Entry{".json5", "json"},
    Entry{".yaml", "yaml"},
    Entry{".yml", "yaml"},
    Entry{".toml", "toml"},
    Entry{".ini", "ini"},
    Entry{".cfg", "ini"},
    Entry{".conf", "ini"},
    Entry{".desktop", "ini"},
    Entry{".properties", "ini"},
    Entry{".csv", "csv"},
    Entry{".tsv", "csv"},
    Entry{".log", "log"},
    Entry{".diff", "diff"},
    Entry{".patch", "diff"},
    Entry{".tex", "latex"},
    Entry{".bib", "bibtex"},
    Entry{".qml", "qml"},
    Entry{".glsl", "glsl"},
    Entry{".vert", "glsl"},
    Entry{".frag", "glsl"},
    Entry{".hlsl", "hlsl"},
    Entry{".wgsl", "wgsl"},
    Entry{".cl", "opencl"},
};

constexpr std::array kByName = {
    Entry{"makefile", "make"},        Entry{"gnumakefile", "make"},
    Entry{"cmakelists.txt", "cmake"}, Entry{"dockerfile", "dockerfile"},
    Entry{"jenkinsfile", "groovy"},   Entry{"rakefile", "ruby"},
    Entry{"gemfile", "ruby"},         Entry{"sconstruct", "python"},
    Entry{"meson.build", "meson"},    Entry{"go.mod", "go"},
    Entry{"build.bazel", "python"},   Entry{".gitignore", "ini"},
    Entry{".clang-format", "yaml"},   Entry{".clang-tidy", "yaml"},
};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

template <std::size_t N>
std::string_view look_up(const std::array<Entry, N>& table, std::string_view key) {
  const auto found = std::find_if(table.begin(), table.end(), [&](const Entry& entry) { return entry.first == key; });
  return found == table.end() ? std::string_view() : found->second;
}

// Group 1, or the first group that took part, is the symbol.
struct SymbolPattern {
  std::string_view languages;  // words between spaces
  std::regex pattern;
};

const std::vector<SymbolPattern>& symbol_patterns() {
  static const std::vector<SymbolPattern> patterns = [] {
    const auto make = [](const char* text) { return std::regex(text, std::regex::optimize); };
    std::vector<SymbolPattern> list;
    list.push_back({" python ", make(R"(^\s*(?:async\s+)?(?:def|class)\s+(\w+))")});
    list.push_back({" ruby elixir ", make(R"(^\s*(?:def|defp|class|module|defmodule)\s+([\w.:?!]+))")});
    list.push_back(
        {" c cpp cuda objectivec java csharp kotlin scala swift dart d rust go javascript typescript php zig vue "
         "svelte ",
         make(
             R"(^\s*(?:(?:export|default|pub(?:\([a-z]+\))?|public|private|protected|internal|static|final|abstract|sealed|data|open|async|unsafe|extern|inline|constexpr|virtual|partial|typedef|template\s*<[^<>]*>)\s+)*(?:class|struct|enum(?:\s+class)?|union|interface|trait|impl(?:<[^<>]*>)?|namespace|module|mod|object|protocol|extension|fn|func|fun|function|def|type|record)\s*\*?\s+(?:\[\[\w+\]\]\s*)?(?:\(\w+\s+\*?\w+\)\s*)?([A-Za-z_][\w:]*)[^;]*$)")});
    // A C-family function: starts with a type at the line's beginning or inside a class, a name, "(", and no ';' end.
    list.push_back(
        {" c cpp cuda objectivec java csharp d dart opencl glsl ",
         make(
             R"(^\s*(?:[A-Za-z_][\w:<>,*&\[\]~]*\s+)+[*&]*((?:[A-Za-z_]\w*::)*~?[A-Za-z_]\w*)\s*\([^;={}]*(?:\)[^;={}]*)?(?:\{.*)?$)")});
    list.push_back(
        {" javascript typescript vue svelte ",
         make(
             R"(^\s*(?:export\s+)?(?:const|let|var)\s+(\w+)\s*=\s*(?:async\s*)?(?:function\b|\([^()]*\)\s*=>|\w+\s*=>))")});
    list.push_back({" shell ", make(R"(^\s*(?:function\s+)?([\w-]+)\s*\(\)\s*\{?)")});
    list.push_back({" perl ", make(R"(^\s*(?:sub|package)\s+([\w:]+))")});
    list.push_back({" lua julia ", make(R"(^\s*(?:local\s+)?(?:function|struct|module|macro)\s+([\w.:]+))")});
    list.push_back({" cmake ", make(R"(^\s*(?:function|macro|add_library|add_executable)\s*\(\s*([\w.-]+))")});
    list.push_back({" make ", make(R"(^([\w.-]+)\s*:(?!=))")});
    list.push_back(
        {" sql ",
         make(
             R"(^\s*create\s+(?:or\s+replace\s+)?(?:table|view|function|procedure|trigger|index)\s+(?:if\s+not\s+exists\s+)?([\w."]+))")});
    list.push_back({" r ", make(R"(^\s*([\w.]+)\s*(?:<-|=)\s*function\b)")});
    list.push_back({" ini toml ", make(R"(^\s*\[+([^\[\]]+)\]+\s*$)")});
    list.push_back({" latex ", make(R"(^\s*\\(?:chapter|section|subsection|subsubsection)\*?\{([^{}]*)\})")});
    list.push_back(
        {" protobuf graphql thrift ", make(R"(^\s*(?:message|service|enum|type|struct|interface|input)\s+(\w+))")});
    return list;
  }();
  return patterns;
}

bool is_statement_word(std::string_view word) {
  static constexpr std::array kWords = {"if",   "for",    "while", "switch", "return", "else",  "catch",  "do",
                                        "case", "sizeof", "throw", "new",    "delete", "using", "defined"};
  return std::find(kWords.begin(), kWords.end(), word) != kWords.end();
}

// std::regex recurses once per character, so that only lines of ordinary length may be matched.
constexpr std::size_t kLongestMatchedLine = 400;

}  // namespace

std::string language_of(const std::filesystem::path& file) {
  const std::string name = lower(shown_name(file));
  if (const std::string_view language = look_up(kByName, name); !language.empty()) return std::string(language);
  const std::size_t dot = name.rfind('.');
  if (dot == std::string::npos || dot == 0) return {};
  return std::string(look_up(kBySuffix, std::string_view(name).substr(dot)));
}

std::optional<std::string> defined_symbol(std::string_view line, std::string_view language) {
  if (line.size() > kLongestMatchedLine || language.empty()) return std::nullopt;
  const std::size_t first = line.find_first_not_of(" \t");
  if (first == std::string_view::npos) return std::nullopt;
  const std::size_t word_end = line.find_first_of(" \t(", first);
  if (word_end != std::string_view::npos && is_statement_word(line.substr(first, word_end - first)))
    return std::nullopt;
  const std::string key = " " + std::string(language) + " ";
  std::cmatch match;
  for (const SymbolPattern& candidate : symbol_patterns()) {
    if (candidate.languages.find(key) == std::string_view::npos) continue;
    if (!std::regex_search(line.data(), line.data() + line.size(), match, candidate.pattern)) continue;
    if (!is_statement_word(match[1].str())) return match[1].str();
  }
  return std::nullopt;
}

}  // namespace lectern::retrieval

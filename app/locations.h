// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <filesystem>
#include <vector>

#include "retrieval/result.h"

namespace lectern::app {

// Where the program's own files and the user's data are. Nothing is created by looking.
struct Locations {
  std::filesystem::path resources;  // <prefix>/share/lectern; a build folder has a link of that name
  std::filesystem::path extractor;  // the lectern-extract program
  std::filesystem::path engine;     // the lectern-engine program
  std::filesystem::path data;       // $LECTERN_DATA, else $XDG_DATA_HOME/lectern, else ~/.local/share/lectern
  std::vector<std::filesystem::path> modelDirectories;  // searched in this order for a model's name

  std::filesystem::path defaultLibrary() const { return data / "libraries" / "default"; }
  // What models have read, so that it need not be read again; it holds the documents' text in the models' own form.
  std::filesystem::path sessions() const { return data / "sessions"; }
  std::filesystem::path samples() const { return resources / "samples"; }
};

// Errors: kNotFound when neither the environment nor the user database says where the user's data belong.
retrieval::Result<Locations> findLocations();

}  // namespace lectern::app

// SPDX-License-Identifier: GPL-3.0-or-later
#include "locations.h"

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <system_error>

namespace lectern::app {
namespace {

namespace fs = std::filesystem;

fs::path absolutePathFromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  fs::path path = value == nullptr ? fs::path() : fs::path(value);
  return path.is_absolute() ? path : fs::path();  // the XDG specification: relative values are ignored
}

fs::path homeDirectory() {
  fs::path home = absolutePathFromEnvironment("HOME");
  if (!home.empty()) return home;
  const passwd* user = getpwuid(getuid());
  return user != nullptr && user->pw_dir != nullptr ? fs::path(user->pw_dir) : fs::path();
}

fs::path dataDirectory() {
  if (fs::path own = absolutePathFromEnvironment("LECTERN_DATA"); !own.empty()) return own;
  if (fs::path xdg = absolutePathFromEnvironment("XDG_DATA_HOME"); !xdg.empty()) return xdg / "lectern";
  fs::path home = homeDirectory();
  return home.empty() ? home : home / ".local" / "share" / "lectern";
}

fs::path firstExisting(const std::vector<fs::path>& candidates) {
  std::error_code ignored;
  for (const fs::path& candidate : candidates) {
    if (fs::exists(candidate, ignored)) return candidate;
  }
  return candidates.front();
}

}  // namespace

retrieval::Result<Locations> findLocations() {
  Locations locations;
  locations.data = dataDirectory();
  if (locations.data.empty()) {
    return retrieval::Error{retrieval::ErrorCode::kNotFound,
                            "There is no home directory to keep the library in; set LECTERN_DATA to a folder."};
  }
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (error) {
    return retrieval::Error{retrieval::ErrorCode::kNotFound,
                            "The program's own folder is unknown because /proc is not mounted; mount it."};
  }
  const fs::path folder = program.parent_path();
  const fs::path prefix = folder.parent_path();
  const fs::path resources = prefix / "share" / "lectern";
  locations.resources = fs::weakly_canonical(resources, error);
  if (error) locations.resources = resources;
  locations.extractor = firstExisting({folder / "lectern-extract", prefix / "libexec" / "lectern" / "lectern-extract"});
  locations.engine = firstExisting({folder / "lectern-engine", prefix / "libexec" / "lectern" / "lectern-engine"});
  // In a build folder `resources` is a link into the checkout, beside which ./run keeps downloaded models.
  locations.modelDirectories = {locations.data / "models", locations.resources / "models",
                                locations.resources.parent_path() / "models"};
  return locations;
}

}  // namespace lectern::app

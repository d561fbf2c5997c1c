// SPDX-License-Identifier: GPL-3.0-or-later
#include <algorithm>
#include <array>
#include <cctype>
#include <string>
#include <string_view>

#include "retrieval/extract.h"

namespace lectern::retrieval {
namespace {

// Lists hold lower-case names between spaces; a name without spaces is looked up as " name ".
constexpr std::string_view kBuildDirectories =
    " node_modules __pycache__ bower_components site-packages dist-packages venv virtualenv cmakefiles ";
constexpr std::string_view kVersionControl = " .git .hg .svn .bzr .jj cvs ";
constexpr std::string_view kSecretDirectories = " .ssh .gnupg .aws .kube .docker .password-store ";
constexpr std::string_view kImages =
    " .png .jpg .jpeg .jpe .gif .bmp .tif .tiff .webp .ico .icns .heic .heif .avif .psd .xcf .raw .cr2 .nef .dng .eps "
    ".ai ";
constexpr std::string_view kArchives =
    " .zip .gz .tgz .bz2 .tbz .xz .txz .zst .lz .lz4 .lzma .7z .rar .tar .jar .war .ear .apk .ipa .deb .rpm .iso .dmg "
    ".cab "
    ".whl .egg .crx .xpi .snap .flatpak .appimage .cpio .img .vmdk .qcow2 .vdi ";
constexpr std::string_view kMedia =
    " .mp3 .wav .flac .ogg .oga .opus .m4a .aac .wma .mid .mp4 .m4v .mkv .avi .mov .webm .wmv .flv .mpg .mpeg .3gp ";
constexpr std::string_view kBinaries =
    " .o .obj .a .lib .so .dll .dylib .exe .com .bin .elf .ko .class .pyc .pyo .pyd .wasm .pdb .ilk .pch .gch .gcno "
    ".gcda "
    ".db .sqlite .sqlite3 .mdb .accdb .dbf .parquet .feather .arrow .npy .npz .pkl .pickle .h5 .hdf5 .pt .pth .ckpt "
    ".onnx "
    ".safetensors .gguf .ggml .tflite .faiss .mo .qm .ttf .otf .woff .woff2 .eot .swf .doc .docx .xls .xlsx .ppt .pptx "
    ".odt .ods .odp .epub .mobi .azw3 .djvu .dwg .blend .fbx .stl .swp .swo .rdb .lockb ";
constexpr std::string_view kSecretSuffixes =
    " .pem .key .p12 .pfx .p8 .jks .keystore .kdbx .kdb .ppk .asc .gpg .pgp .ovpn .keytab .agekey .tfstate .tfvars ";
constexpr std::string_view kSecretNames =
    " .env .envrc .netrc _netrc .pgpass .my.cnf .npmrc .pypirc .htpasswd .htaccess .git-credentials .dockercfg .s3cfg "
    ".boto .vault-token .bash_history .zsh_history .python_history .psql_history .mysql_history .lesshst .viminfo "
    "id_rsa id_dsa id_ecdsa id_ed25519 identity known_hosts authorized_keys shadow gshadow htpasswd kubeconfig "
    "credentials credentials.json credentials.yml credentials.yaml credentials.xml credentials.csv credentials.txt "
    "credentials.enc credentials.ini credentials.db secrets.json secrets.yml secrets.yaml secrets.toml secrets.ini "
    "secrets.txt secrets.env secret.json secret.yml secret.yaml secret.txt client_secret.json client_secrets.json "
    "service_account.json service-account.json serviceaccount.json token.json passwords.txt password.txt "
    "passwords.csv passwd.txt logins.json master.key local.settings.json .terraformrc terraform.rc wp-config.php ";
// Hidden files that hold documentation or build rules.
constexpr std::string_view kPlainHiddenFiles =
    " .gitignore .gitattributes .gitmodules .clang-format .clang-tidy .editorconfig .pre-commit-config.yaml "
    ".gitlab-ci.yml "
    ".travis.yml .dockerignore .eslintrc .eslintrc.json .prettierrc .flake8 .pylintrc .readthedocs.yaml "
    ".readthedocs.yml ";
constexpr std::string_view kPlainHiddenDirectories = " .github .gitlab .circleci .config .vscode .devcontainer ";

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

bool listed(std::string_view list, std::string_view name) {
  if (name.empty() || name.find(' ') != std::string_view::npos) return false;
  return list.find(" " + std::string(name) + " ") != std::string_view::npos;
}

// ".env.production" is a secret, ".env.example" is documentation.
bool is_environment_file(std::string_view name) {
  if (!name.starts_with(".env.") && !name.ends_with(".env")) return false;
  return !name.ends_with("example") && !name.ends_with("sample") && !name.ends_with("template") &&
         !name.ends_with("dist");
}

bool is_private_key_name(std::string_view name) {
  if (name.ends_with(".pub")) return false;
  return name.starts_with("id_rsa") || name.starts_with("id_dsa") || name.starts_with("id_ecdsa") ||
         name.starts_with("id_ed25519");
}

// Shared libraries carry their version behind the suffix: "libz.so.1.2".
bool is_versioned_library(std::string_view name) { return name.find(".so.") != std::string_view::npos; }

std::string file_reason(const std::string& name) {
  const std::size_t dot = name.rfind('.');
  const std::string suffix = dot == std::string::npos || dot == 0 ? std::string() : name.substr(dot);
  const bool secret = listed(kSecretNames, name) || listed(kSecretSuffixes, suffix) || is_environment_file(name) ||
                      is_private_key_name(name);
  if (secret) return "secret";
  if (listed(kImages, suffix)) return "image";
  if (listed(kArchives, suffix)) return "archive";
  if (listed(kMedia, suffix)) return "sound or video";
  if (listed(kBinaries, suffix) || is_versioned_library(name)) return "binary";
  if (name.ends_with(".min.js") || name.ends_with(".min.css") || name.ends_with(".js.map") ||
      name.ends_with(".css.map")) {
    return "build product";
  }
  if (name.ends_with('~') || name.ends_with(".bak") || name.ends_with(".orig") || name.ends_with(".tmp")) {
    return "backup copy";
  }
  const bool example = name.starts_with(".env.");  // what is left of these is no secret
  if (name.starts_with('.') && !example && !listed(kPlainHiddenFiles, name)) return "hidden";
  return {};
}

// Directories that are left out wherever they stand in a path.
std::string known_directory_reason(const std::string& name) {
  if (listed(kSecretDirectories, name)) return "secret";
  if (listed(kVersionControl, name)) return "version control";
  return listed(kBuildDirectories, name) ? "build product" : "";
}

std::string directory_reason(const std::string& name) {
  if (std::string reason = known_directory_reason(name); !reason.empty()) return reason;
  const bool hidden = name.starts_with('.') && name != "." && name != ".." && !listed(kPlainHiddenDirectories, name);
  return hidden ? "hidden" : "";
}

}  // namespace

std::string skip_reason(const std::filesystem::path& file) {
  // Above an absolute path, hidden directories are where the user keeps things, not a part of what is walked.
  const bool absolute = file.is_absolute();
  for (const std::filesystem::path& part : file.parent_path()) {
    const std::string name = lower(part.string());
    if (std::string reason = absolute ? known_directory_reason(name) : directory_reason(name); !reason.empty()) {
      return reason;
    }
  }
  const std::string name = lower(file.filename().string());
  if (std::string reason = known_directory_reason(name); !reason.empty()) return reason;
  return listed(kPlainHiddenDirectories, name) ? "" : file_reason(name);
}

}  // namespace lectern::retrieval

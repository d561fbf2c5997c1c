// SPDX-License-Identifier: GPL-3.0-or-later
// SQLite behind two small classes. Every failed call throws SqliteError, so that no code can go on inside a broken
// transaction; the public entries of Store turn it into an Error.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

struct sqlite3;
struct sqlite3_stmt;

namespace lectern::retrieval {

class SqliteError : public std::runtime_error {
 public:
  SqliteError(int sqlite_code, const std::string& message) : std::runtime_error(message), code_(sqlite_code) {}
  int code() const { return code_ & 0xff; }
  // Disk full, I/O error or damage: nothing more may be written through this store.
  bool ends_writing() const;

 private:
  int code_;  // extended result code
};

using Bytes = std::span<const std::uint8_t>;

class Statement {
 public:
  Statement(sqlite3* connection, std::string_view sql);

  // Parameters count from 1, columns from 0. Bound text and bytes must outlive the next step().
  Statement& bind(int parameter, std::int64_t value);
  Statement& bind(int parameter, double value);
  Statement& bind(int parameter, std::string_view value);
  Statement& bind(int parameter, Bytes value);

  bool step();  // true: a row is there
  void run();   // steps to the end, then is ready to be bound again

  std::int64_t integer(int column) const;
  double real(int column) const;
  std::string_view text(int column) const;  // valid until the next step()
  Bytes bytes(int column) const;

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };
  void check(int code) const;

  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

class Database {
 public:
  // kInspect reads without creating, locking for writing or checkpointing. kReader may never write or checkpoint:
  // SQLite 3.7.0 to 3.51.2 can damage a WAL that two connections checkpoint at once.
  enum class Role { kInspect, kReader, kWriter };

  Database(const std::filesystem::path& file, Role role);

  Statement prepare(std::string_view sql) const { return {connection_.get(), sql}; }
  void run(const char* sql) const;
  std::int64_t integer(std::string_view sql) const;  // the first column of the first row; 0 without rows
  std::int64_t last_row_id() const;
  std::int64_t rows_changed() const;

 private:
  struct Close {
    void operator()(sqlite3* connection) const;
  };
  void configure(Role role) const;

  std::unique_ptr<sqlite3, Close> connection_;
};

// Rolls back unless commit() has returned.
class Transaction {
 public:
  enum class Kind { kRead, kWrite, kExclusive };

  Transaction(const Database& database, Kind kind);
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  void commit();

 private:
  const Database& database_;
  bool open_ = true;
};

}  // namespace lectern::retrieval

// The files of an exported model, wherever they are: in a folder, or in what a web page downloaded.
#pragma once
#include <cstdint>
#include <fstream>
#include <string>

namespace tynda {

// The functions throw std::runtime_error, with a message of one line, where a file cannot be read.
class Files {
 public:
  virtual ~Files() = default;
  virtual int64_t size(const std::string& name) = 0;
  // Reads bytes [offset, offset + bytes) of a file, which are known to be in it.
  virtual void read(const std::string& name, int64_t offset, int64_t bytes, void* to) = 0;

  // The text of a file, which must not be empty.
  std::string text(const std::string& name);
};

class Folder : public Files {
 public:
  explicit Folder(const std::string& path) : path_(path) {}
  int64_t size(const std::string& name) override;
  void read(const std::string& name, int64_t offset, int64_t bytes, void* to) override;

 private:
  void open(const std::string& name);
  [[noreturn]] void unreadable(const std::string& name) const;

  std::string path_, name_;  // of the folder, and of the open file
  std::ifstream file_;
};

}  // namespace tynda

#include "files.h"

#include <stdexcept>

namespace tynda {

std::string Files::text(const std::string& name) {
  const int64_t bytes = size(name);
  if (bytes == 0) throw std::runtime_error(name + " is empty");
  std::string text(static_cast<size_t>(bytes), '\0');
  read(name, 0, bytes, &text[0]);
  return text;
}

void Folder::unreadable(const std::string& name) const {
  throw std::runtime_error("cannot read " + path_ + "/" + name);
}

void Folder::open(const std::string& name) {
  if (name == name_ && file_.is_open()) return file_.clear();
  file_ = std::ifstream(path_ + "/" + name, std::ios::binary);
  name_ = name;
  if (!file_) unreadable(name);
}

int64_t Folder::size(const std::string& name) {
  open(name);
  if (!file_.seekg(0, std::ios::end)) unreadable(name);
  const auto size = int64_t(file_.tellg());
  char last;
  // A folder can be opened and has a size, but reading a byte fails.
  if (size < 0 || (size > 0 && !(file_.seekg(size - 1) && file_.get(last)))) unreadable(name);
  return size;
}

void Folder::read(const std::string& name, int64_t offset, int64_t bytes, void* to) {
  if (bytes == 0) return;
  open(name);
  if (!file_.seekg(offset) || !file_.read(static_cast<char*>(to), bytes)) unreadable(name);
}

}  // namespace tynda

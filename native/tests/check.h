// The helpers of all tests: random numbers, memory with guards, and a log of every difference.
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace tynda::test {

// For one thread, that of main.
struct Report {
  int64_t checks = 0, failures = 0;
  std::string where;  // the case at hand
};
inline Report report;

[[gnu::format(printf, 1, 2)]] inline void at(const char* format, ...) {
  char text[200];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  report.where = text;
}

inline void expect(bool holds, const std::string& otherwise) {
  report.checks++;
  if (holds) return;
  if (report.failures++ < 30) std::printf("%s: %s\n", report.where.c_str(), otherwise.c_str());
}

// The same numbers on every machine.
class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int64_t below(int64_t n) { return int64_t(engine_() % uint64_t(n)); }
  bool coin() { return below(2); }
  // From -size to size.
  float number(float size = 1) { return size * (float(int32_t(engine_() >> 8)) / (1 << 23) - 1); }
  int8_t code() { return int8_t(below(255) - 127); }
  template <class T, size_t N>
  T one_of(const T (&choices)[N]) {
    return choices[below(N)];
  }

 private:
  std::mt19937 engine_;
};

// With 1, all memory begins one element past where it is aligned.
inline int64_t shift = 0;

// AddressSanitizer sees what is touched beside a block; else guards show what was written.
#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t kGuard = 0;
#else
constexpr int64_t kGuard = 256;
#endif
constexpr uint8_t kUntouched = 0xC1;  // as float, -24.2

// A block of exactly `size` elements.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : size_(size), front_(kGuard + shift * int64_t(sizeof(T))),
        bytes_(new uint8_t[front_ + size * sizeof(T) + kGuard]) {
    std::memset(bytes_, kUntouched, front_ + size * sizeof(T) + kGuard);
  }
  Buffer(int64_t size, Random& random, float spread = 1) : Buffer(size) {
    for (T& x : *this) x = random.number(spread);
  }
  Buffer(const Buffer& other) : Buffer(other.size_) {
    std::memcpy(begin(), other.begin(), size_ * sizeof(T));
  }
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    bool whole = true;
    for (int64_t i = 0; i < front_; i++) whole &= bytes_[i] == kUntouched;
    const uint8_t* after = bytes_ + front_ + size_ * sizeof(T);
    for (int64_t i = 0; i < kGuard; i++) whole &= after[i] == kUntouched;
    expect(whole, "memory beside a result was written to");
    delete[] bytes_;
  }

  T* begin() { return reinterpret_cast<T*>(bytes_ + front_); }
  T* end() { return begin() + size_; }
  const T* begin() const { return reinterpret_cast<const T*>(bytes_ + front_); }
  const T* end() const { return begin() + size_; }
  T& operator[](int64_t i) { return begin()[i]; }
  const T& operator[](int64_t i) const { return begin()[i]; }
  int64_t size() const { return size_; }

 private:
  int64_t size_, front_;
  uint8_t* bytes_;
};

using Floats = Buffer<float>;

inline void differ(int64_t i, double found, double expected) {
  char text[100];
  std::snprintf(text, sizeof text, "%.9g, not %.9g, at %lld", found, expected, (long long)i);
  expect(false, text);
}

// To the last bit.
template <class T>
void same(const Buffer<T>& found, const Buffer<T>& expected) {
  expect(found.size() == expected.size(), "sizes");
  for (int64_t i = 0; i < found.size(); i++)
    if (std::memcmp(&found[i], &expected[i], sizeof(T)))
      return differ(i, double(found[i]), double(expected[i]));
}

struct Expected {
  double value, tolerance;
};

inline void close(const Floats& found, const std::vector<Expected>& expected) {
  expect(found.size() == int64_t(expected.size()), "sizes");
  for (int64_t i = 0; i < found.size(); i++)
    if (!(std::fabs(found[i] - expected[i].value) <= expected[i].tolerance))
      return differ(i, found[i], expected[i].value);
}

// The value of an element that nothing was written to.
inline float untouched() {
  float x;
  std::memset(&x, kUntouched, sizeof x);
  return x;
}

}  // namespace tynda::test

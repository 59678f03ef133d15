// tynda_recognise FOLDER FILE.wav: prints what a recording says, by a model that `tynda export`
// wrote. It shows that native code needs no Python. The recording is 16-bit PCM, mono, 16 kHz.
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "isa.h"
#include "recogniser.h"

namespace {

uint32_t little(const std::string& bytes, size_t at, int size) {
  if (at + size_t(size) > bytes.size()) throw std::invalid_argument("the recording is cut off");
  uint32_t value = 0;
  for (int i = 0; i < size; i++) value |= uint32_t(uint8_t(bytes[at + size_t(i)])) << 8 * i;
  return value;
}

// The samples of a WAV file, from -1 to 1. Chunks other than "fmt " and "data" are passed over.
std::vector<float> read_wav(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (bytes.compare(0, 4, "RIFF") != 0 || bytes.size() < 12 || bytes.compare(8, 4, "WAVE") != 0)
    throw std::invalid_argument("no WAV file: " + path);
  bool known = false;
  for (size_t at = 12;;) {
    const size_t size = little(bytes, at + 4, 4), body = at + 8;
    if (bytes.compare(at, 4, "fmt ") == 0) {
      known = little(bytes, body, 2) == 1 && little(bytes, body + 2, 2) == 1 &&
              little(bytes, body + 4, 4) == 16000 && little(bytes, body + 14, 2) == 16;
      if (!known) throw std::invalid_argument("the recording is not 16-bit PCM, mono, 16 kHz");
    } else if (bytes.compare(at, 4, "data") == 0 && known) {
      std::vector<float> samples;
      for (size_t i = body; i + 2 <= std::min(body + size, bytes.size()); i += 2)
        samples.push_back(float(int16_t(little(bytes, i, 2))) / 32768);
      return samples;
    }
    at = body + size + size % 2;
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::fputs("usage: tynda_recognise FOLDER FILE.wav\n", stderr);
    return 2;
  }
  try {
    const std::vector<float> samples = read_wav(arguments[2]);
    const tynda::Kernels* kernels = tynda::find_kernels(tynda::instruction_sets().front());
    const tynda::Recogniser recogniser(tynda::Folder(arguments[1]), *kernels, 1);
    tynda::Heard all;
    const auto count = int64_t(samples.size());
    for (int64_t at = 0; at < count;) {
      const tynda::Heard heard = recogniser.hear(samples.data() + at, count - at);
      all.segments.insert(all.segments.end(), heard.segments.begin(), heard.segments.end());
      at += heard.samples;
    }
    std::printf("%s\n", all.text().c_str());
  } catch (const std::bad_alloc&) {
    std::fputs("error: out of memory\n", stderr);
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}

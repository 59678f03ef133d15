#define TYNDA_ISA i8mm
#define TYNDA_NAME "i8mm"
#include <cstdint>
#include <cstring>

#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include "simd_i8mm.h"

#include "simd_codes.h"

#include "kernels.inl"

const tynda::Kernels* tynda::i8mm_kernels() { return &tynda::i8mm::kKernels; }

bool tynda::i8mm_supported() {
#if defined(__linux__)
  constexpr unsigned long kI8mm = 1 << 13;  // HWCAP2_I8MM, which older headers lack
  return getauxval(AT_HWCAP2) & kI8mm;
#else
  return false;
#endif
}

#define TYNDA_ISA neon
#define TYNDA_NAME "neon"
#include <cstdint>
#include <cstring>

#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "simd_neon.h"

#include "simd_codes.h"

#include "kernels.inl"

const tynda::Kernels* tynda::neon_kernels() { return &tynda::neon::kKernels; }

bool tynda::neon_supported() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
  return true;  // what macOS and Im2col run on has dot products
#endif
}

#define TYNDA_ISA neon
#define TYNDA_NAME "neon"
#include <cstdint>
#include <cstring>

#include "simd_neon.h"

#include "kernels.inl"

const tynda::Kernels* tynda::neon_kernels() { return &tynda::neon::kKernels; }

#define TYNDA_ISA avxvnni
#define TYNDA_NAME "avxvnni"
#include <cstdint>
#include <cstring>

#include "simd_avxvnni.h"

#include "simd_codes.h"

#include "kernels.inl"

const tynda::Kernels* tynda::avxvnni_kernels() { return &tynda::avxvnni::kKernels; }

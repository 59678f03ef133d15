// The instruction sets that have kernels and that this processor supports.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

#if defined(TYNDA_AVX_VNNI)
#include <cpuid.h>
#endif

namespace tynda {

#if defined(TYNDA_AVX_VNNI)
// Whether the processor has VNNI for vectors of 256 bits, which not all compilers can tell.
inline bool has_avx_vnni() {
#if TYNDA_EMULATE_VNNI
  return true;
#else
  unsigned a = 0, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
#endif
}
#endif

// Returns the kernels of an instruction set, or null where this processor does not support it.
inline const Kernels* find_kernels(const std::string& name) {
  if (name == "scalar") return scalar_kernels();
#if defined(TYNDA_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 =
      avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni");
  if (name == "avx2" && avx2) return avx2_kernels();
#if defined(TYNDA_AVX_VNNI)
  if (name == "avxvnni" && avx2 && has_avx_vnni()) return avxvnni_kernels();
#endif
  if (name == "avx512" && avx512) return avx512_kernels();
#elif defined(TYNDA_ARM)
#if defined(TYNDA_I8MM)
  if (name == "i8mm" && neon_supported() && i8mm_supported()) return i8mm_kernels();
#endif
  if (name == "neon" && neon_supported()) return neon_kernels();
#elif defined(TYNDA_WASM)
  if (name == "wasm") return wasm_kernels();
#endif
  return nullptr;
}

// The names of the supported instruction sets, best first.
inline std::vector<std::string> instruction_sets() {
  std::vector<std::string> found;
  for (const char* name : {"avx512", "avxvnni", "avx2", "i8mm", "neon", "wasm", "scalar"})
    if (find_kernels(name)) found.push_back(name);
  return found;
}

}  // namespace tynda

// The test program: every kernel of every instruction set that this processor has, then the thread
// pool and plans.
#include "check.h"
#include "isa.h"

namespace tynda::test {

// products.cpp
void products(const Kernels& kernels, Random& random);
// The product of 8-bit codes whose sums are the largest that there are.
void largest_sum(const Kernels& kernels, Random& random);
// attention.cpp. The scores are about `spread`.
void attention(const Kernels& kernels, Random& random, float spread);
// rows.cpp
void rows(const Kernels& kernels, Random& random);
// threads.cpp
void threads();
// plans.cpp
void plans(const Kernels& kernels);

namespace {

void test(const Kernels& kernels) {
  Random random(1);
  for (int i = 0; i < 400; i++) {
    shift = i % 2;
    products(kernels, random);
    attention(kernels, random, random.one_of({0.0f, 1.0f, 5.0f}));
    rows(kernels, random);
  }
  // Models have no scores as large as these, which check that the softmax does not overflow.
  for (int i = 0; i < 50; i++) attention(kernels, random, 600);
  largest_sum(kernels, random);
}

}  // namespace
}  // namespace tynda::test

int main() {
  using namespace tynda;
  std::setvbuf(stdout, nullptr, _IONBF, 0);  // should one of the tests crash
  std::string tested;
  for (const std::string& name : instruction_sets()) {
    test::test(*find_kernels(name));
    tested += name + ", ";
  }
#if !defined(TYNDA_WASM)  // which has no threads
  test::threads();
#endif
  test::plans(*find_kernels(instruction_sets()[0]));
  const test::Report& report = test::report;
  std::printf("%sthreads and plans: %lld checks, %lld failed\n", tested.c_str(),
              (long long)report.checks, (long long)report.failures);
  return report.failures ? 1 : 0;
}

// Relative attention in float32 (Dai et al. 2019, appendix B); included by kernels.inl.
//
// Scores of a query at all distances would be twice as many as keys. Instead, a tile of consecutive
// queries computes those of as many distances as there are keys, plus one for each further query.
#pragma once

namespace tynda {
namespace TYNDA_ISA {
namespace {

struct RelativeForm : FloatForm {
  static constexpr bool kUnpackedFew = false;

  // Extra scratch memory: the packed encoding, biased queries, and the scores of a panel.
  static int64_t panel_bytes(int64_t capacity, int64_t width) {
    return key_bytes(2 * capacity, width);
  }
  static int64_t extra_bytes(int64_t capacity, int64_t width) {
    return panel_bytes(capacity, width) + 4 * kTile * (width + kKeys);
  }

  static void begin(const Attention& a, uint8_t* extra) {
    pack_keys(a.encoding, a.ld_encoding, 2 * a.capacity - 1, 2 * a.capacity, a.width, extra);
  }

  static void load_queries(const Attention& a, int64_t from, int64_t count, float* q,
                           float* units) {
    load_biased(a, from, count, a.content_bias, q);
    std::fill(units, units + count, score_unit(a));
  }
  static void load_biased(const Attention& a, int64_t from, int64_t count, const float* bias,
                          float* q) {
    for (int64_t i = 0; i < count; i++)
      vectors(a.width, [&](int64_t c, int n) {
        const F x = load_some(a.q + (from + i) * a.ldq + c, n);
        store_some(q + i * a.width + c, x + load_some(bias + c, n), n);
      });
  }

  // Adds the scores of distances. Row i of a tile begins with row origin - r - i + from of the
  // encoding, one less than the previous row.
  template <int Rows>
  static void add_scores(const Attention& a, uint8_t* extra, int64_t r, int64_t from, int64_t keys,
                         float* scores) {
    Attention by = a;
    by.packed_k = extra;
    auto* const q = reinterpret_cast<float*>(extra + panel_bytes(a.capacity, a.width));
    float* const parts = q + kTile * a.width;
    load_biased(a, r, Rows, a.position_bias, q);
    const int64_t first = a.origin - r + from, end = first + keys;
    for (int64_t p = (first - Rows + 1) / kPanel * kPanel; p < end; p += kPanel) {
      score<Rows>(by, q, p, parts);
      for (int64_t i = 0; i < Rows; i++) {
        const int64_t key = p - (first - i);  // of the panel's first distance, relative to `from`
        const int64_t begin = std::max<int64_t>(0, -key);
        const int64_t stop = std::min<int64_t>(kPanel, keys - key);
        if (begin >= stop) continue;
        float* const to = scores + i * kKeys + key + begin;
        const float* const part = parts + i * kKeys + begin;
        vectors(stop - begin, [&](int64_t c, int n) {
          store_some(to + c, load_some(to + c, n) + load_some(part + c, n), n);
        });
      }
    }
  }
};

}  // namespace
}  // namespace TYNDA_ISA
}  // namespace tynda

// What shrink and expand of lora share: the tables, the work list, and how it is cut.
//
// A segment (the tokens of one mix) with few tokens is cut along the weights, so that every weight
// is read once; one with many is cut along the tokens. Every output element is summed by one
// thread in one order.
#pragma once

#include <algorithm>
#include <memory>
#include <type_traits>
#include <vector>

#include "common.h"

namespace plait {

constexpr int64_t kTokens = 32;    // tokens of a work item
constexpr int64_t kRankRows = 8;   // rank rows of a work item of a short segment
constexpr int64_t kColumns = 256;  // columns of a work item of a short segment
constexpr int kTokenRows = 4;      // tokens of the innermost product
constexpr int kOthers = kRegisters >= 32 ? 4 : 2;  // its rank rows, or vectors of columns

struct Tables {
  const char* arena;
  const int32_t *tile_start, *tile_count;
  const int64_t* tile_offset;
  const int32_t* tile_rank;
  const float* tile_scale;
  const int32_t* rank_sum;  // [slots, sites]: rank of all tiles of (slot, site)
  int64_t num_sites, tile_rows;
};

struct Segments {
  const int32_t *order, *start, *slot;
  int64_t count;
};

struct Sites {
  const int32_t *index, *out_features, *out_offset;
  int64_t count, in_features;
};

struct Item {
  int32_t segment, first_token, site;
  int64_t first, last;  // rank rows of all sites, or columns of one

  int64_t tokens(const Segments& segments) const {
    return std::min<int64_t>(segments.start[segment + 1] - first_token, kTokens);
  }
};

// Calls use(place, a, b, scale) for rank rows first … last - 1 of all sites of a slot.
template <class W, class Use>
void each_row(const Tables& tables, const Sites& sites, int64_t slot, int64_t site_from,
              int64_t site_to, int64_t first, int64_t last, Use use) {
  int64_t place = 0;
  for (int64_t s = site_from; s < site_to && place < last; ++s) {
    const int64_t entry = slot * tables.num_sites + sites.index[s];
    if (place + tables.rank_sum[entry] <= first) {
      place += tables.rank_sum[entry];
      continue;
    }
    const int64_t start = tables.tile_start[entry];
    for (int64_t tile = start; tile < start + tables.tile_count[entry] && place < last; ++tile) {
      const W* a = reinterpret_cast<const W*>(tables.arena + tables.tile_offset[tile]);
      const W* b = a + tables.tile_rows * sites.in_features;
      for (int64_t r = 0; r < tables.tile_rank[tile] && place < last; ++r, ++place)
        if (place >= first)
          use(place - first, a + r * sites.in_features, b + r * sites.out_features[s],
              tables.tile_scale[tile]);
    }
  }
}

// Rank of the first sites of a slot together.
inline int64_t rank_of(const Tables& tables, const Sites& sites, int64_t count, int64_t slot) {
  int64_t rank = 0;
  for (int64_t s = 0; s < count; ++s)
    rank += tables.rank_sum[slot * tables.num_sites + sites.index[s]];
  return rank;
}

inline const float* as_float(const float* row, float*, int64_t) { return row; }

inline const float* as_float(const bfloat16* row, float* buffer, int64_t length) {
#pragma omp simd
  for (int64_t i = 0; i < length; ++i) buffer[i] = to_float(row[i]);
  return buffer;
}

// Memory that the items of one thread reuse. Nothing clears it.
template <class Element>
class Buffer {
 public:
  Element* at_least(int64_t count) {
    if (count > capacity_) {
      elements_.reset(new Element[count]);
      capacity_ = count;
    }
    return elements_.get();
  }

 private:
  std::unique_ptr<Element[]> elements_;
  int64_t capacity_ = 0;
};

// Floats are used where they lie; others are converted into a buffer of this size.
template <class Element>
constexpr int64_t converted(int64_t count) {
  return std::is_same_v<Element, float> ? 0 : count;
}

template <class W>
struct Buffers {
  Buffer<float> x, weights, scale;
  Buffer<const W*> rows;
  Buffer<const float*> float_rows;

  // Calls use with the rows of a weight: as they are where each is used once, else as floats.
  template <class Use>
  void with_floats(const W* const* given, int64_t count, int64_t length, int64_t tokens, Use use) {
    if (std::is_same_v<W, float> || tokens <= kTokenRows) return use(given);
    float* memory = weights.at_least(count * length);
    const float** made = float_rows.at_least(count);
    for (int64_t r = 0; r < count; ++r)
      made[r] = as_float(given[r], memory + r * length, length);
    use(static_cast<const float* const*>(made));
  }
};

// Calls run(item, buffers) for every item, on several threads.
template <class W, class Run>
void run_items(const std::vector<Item>& items, int threads, Run run) {
  const int64_t count = static_cast<int64_t>(items.size());
#pragma omp parallel num_threads(count < 4 ? 1 : threads)
  {
    Buffers<W> buffers;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < count; ++i) run(items[i], buffers);
  }
}

}  // namespace plait

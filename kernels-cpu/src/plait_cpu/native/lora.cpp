// lora: shrink and expand over the tiles of the arena, read where they lie.
//
// Both walk the work list of the batch. A segment (the tokens of one mix) with few tokens is cut
// along the weights, so that every weight is read once; one with many is cut along the tokens.
// Every output element is summed by one thread in one order.
#include <algorithm>
#include <memory>
#include <type_traits>
#include <vector>

#include "common.h"

namespace plait {
namespace {

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

int64_t rank_of(const Tables& tables, const Sites& sites, int64_t slot) {
  int64_t rank = 0;
  for (int64_t s = 0; s < sites.count; ++s)
    rank += tables.rank_sum[slot * tables.num_sites + sites.index[s]];
  return rank;
}

inline const float* as_float(const float* row, float*, int64_t) { return row; }

inline const float* as_float(const bfloat16* row, float* buffer, int64_t length) {
#pragma omp simd
  for (int64_t i = 0; i < length; ++i) buffer[i] = to_float(row[i]);
  return buffer;
}

// out[i][j] = x[i] · a[j], over a length.
template <int ROWS, int OTHERS, class W>
void dots(const float* const* x, const W* const* a, int64_t length, float (*out)[kOthers]) {
  Vector sums[ROWS][OTHERS] = {};
  int64_t k = 0;
  for (; k + kWidth <= length; k += kWidth) {
    Vector right[OTHERS];
    for (int j = 0; j < OTHERS; ++j) right[j] = load(a[j] + k);
    for (int i = 0; i < ROWS; ++i) {
      const Vector left = load(x[i] + k);
      for (int j = 0; j < OTHERS; ++j) sums[i][j] += left * right[j];
    }
  }
  for (int i = 0; i < ROWS; ++i)
    for (int j = 0; j < OTHERS; ++j) {
      float total = sum(sums[i][j]);
      for (int64_t rest = k; rest < length; ++rest) total += x[i][rest] * to_float(a[j][rest]);
      out[i][j] = total;
    }
}

template <int OTHERS, class W>
void dots(int rows, const float* const* x, const W* const* a, int64_t length,
          float (*out)[kOthers]) {
  switch (rows) {
    case 1: return dots<1, OTHERS>(x, a, length, out);
    case 2: return dots<2, OTHERS>(x, a, length, out);
    case 3: return dots<3, OTHERS>(x, a, length, out);
    default: return dots<4, OTHERS>(x, a, length, out);
  }
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

// Some tokens of a segment, as shrink_item gives them to shrink_rows.
struct ShrinkRows {
  const float* const* inputs;  // [tokens]
  const int32_t* order;        // [tokens]
  const float* scales;         // [count]
  float* h;                    // of the first token and rank row
  int64_t tokens, count, length, h_stride;
};

template <class W>
void shrink_rows(const ShrinkRows& job, const W* const* a, const float* token_weight) {
  for (int64_t r = 0; r < job.count; r += kOthers) {
    const int others = static_cast<int>(std::min<int64_t>(kOthers, job.count - r));
    for (int64_t t = 0; t < job.tokens; t += kTokenRows) {
      const int rows = static_cast<int>(std::min<int64_t>(kTokenRows, job.tokens - t));
      float products[kTokenRows][kOthers];
      if (others == kOthers)
        dots<kOthers>(rows, job.inputs + t, a + r, job.length, products);
      else
        for (int j = 0; j < others; ++j) {
          float column[kTokenRows][kOthers];
          dots<1>(rows, job.inputs + t, a + r + j, job.length, column);
          for (int i = 0; i < rows; ++i) products[i][j] = column[i][0];
        }
      for (int i = 0; i < rows; ++i) {
        const float weight = token_weight[job.order[t + i]];
        for (int j = 0; j < others; ++j)
          job.h[(t + i) * job.h_stride + r + j] = products[i][j] * (weight * job.scales[r + j]);
      }
    }
  }
}

template <class T, class W>
void shrink_item(const Item& item, const T* x, int64_t x_stride, float* h, int64_t h_stride,
                 const float* token_weight, const Tables& tables, const Segments& segments,
                 const Sites& sites, Buffers<W>& buffers) {
  const int64_t length = sites.in_features, count = item.last - item.first;
  const int64_t end = std::min<int64_t>(segments.start[item.segment + 1],
                                        item.first_token + kTokens);
  const int64_t tokens = end - item.first_token;
  float* converted_x = buffers.x.at_least(converted<T>(kTokens * length));
  const W** a = buffers.rows.at_least(count);
  float* scales = buffers.scale.at_least(count);
  const float* inputs[kTokens];
  for (int64_t t = 0; t < tokens; ++t)
    inputs[t] = as_float(x + segments.order[item.first_token + t] * x_stride,
                         converted_x + t * length, length);
  each_row<W>(tables, sites, segments.slot[item.segment], 0, sites.count, item.first, item.last,
              [&](int64_t place, const W* row, const W*, float scale) {
                a[place] = row;
                scales[place] = scale;
              });
  const ShrinkRows job{inputs, segments.order + item.first_token,
                       scales, h + item.first_token * h_stride + item.first,
                       tokens, count,
                       length, h_stride};
  buffers.with_floats(a, count, length, tokens,
                      [&](const auto* const* rows) { shrink_rows(job, rows, token_weight); });
}

// sums[i][j] = Σ_r h[i][r] · b[r][columns of vector j]
template <int ROWS, int VECTORS, class W>
void combine(const float* const* h, const W* const* b, int64_t rank, int64_t column,
             float (*out)[kOthers * kWidth]) {
  Vector sums[ROWS][VECTORS] = {};
  for (int64_t r = 0; r < rank; ++r) {
    Vector right[VECTORS];
    for (int j = 0; j < VECTORS; ++j) right[j] = load(b[r] + column + j * kWidth);
    for (int i = 0; i < ROWS; ++i)
      for (int j = 0; j < VECTORS; ++j) sums[i][j] += h[i][r] * right[j];
  }
  for (int i = 0; i < ROWS; ++i)
    for (int j = 0; j < VECTORS; ++j) store(out[i] + j * kWidth, sums[i][j]);
}

template <int VECTORS, class W>
void combine(int rows, const float* const* h, const W* const* b, int64_t rank, int64_t column,
             float (*out)[kOthers * kWidth]) {
  switch (rows) {
    case 1: return combine<1, VECTORS>(h, b, rank, column, out);
    case 2: return combine<2, VECTORS>(h, b, rank, column, out);
    case 3: return combine<3, VECTORS>(h, b, rank, column, out);
    default: return combine<4, VECTORS>(h, b, rank, column, out);
  }
}

// Some tokens and columns of a segment, as expand_item gives them to expand_rows.
template <class T>
struct ExpandRows {
  const float* h;        // of the first token, and the site's first rank row
  T* y;                  // of token 0, and the first column
  const int32_t* order;  // [tokens]
  int64_t tokens, rank, columns, h_stride, y_stride;
};

template <class T, class W>
void expand_rows(const ExpandRows<T>& job, const W* const* b) {
  constexpr int64_t kBlock = kOthers * kWidth;
  for (int64_t c = 0; c < job.columns; c += kBlock)
    for (int64_t t = 0; t < job.tokens; t += kTokenRows) {
      const int rows = static_cast<int>(std::min<int64_t>(kTokenRows, job.tokens - t));
      const int64_t width = std::min(kBlock, job.columns - c);
      const float* hidden[kTokenRows];
      for (int i = 0; i < rows; ++i) hidden[i] = job.h + (t + i) * job.h_stride;
      float sums[kTokenRows][kBlock];
      if (width == kBlock) {
        combine<kOthers>(rows, hidden, b, job.rank, c, sums);
      } else {
        for (int i = 0; i < rows; ++i)
          for (int64_t j = 0; j < width; ++j) {
            float total = 0.0f;
            for (int64_t r = 0; r < job.rank; ++r) total += hidden[i][r] * to_float(b[r][c + j]);
            sums[i][j] = total;
          }
      }
      for (int i = 0; i < rows; ++i) {
        T* to = job.y + job.order[t + i] * job.y_stride + c;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j)
          to[j] = from_float<T>(to_float(to[j]) + sums[i][j]);
      }
    }
}

template <class T, class W>
void expand_item(const Item& item, const float* h, int64_t h_stride, T* y, int64_t y_stride,
                 const Tables& tables, const Segments& segments, const Sites& sites,
                 Buffers<W>& buffers) {
  const int64_t slot = segments.slot[item.segment], columns = item.last - item.first;
  const int64_t rank = tables.rank_sum[slot * tables.num_sites + sites.index[item.site]];
  int64_t before = 0;  // rank rows of the sites before this one
  for (int64_t s = 0; s < item.site; ++s)
    before += tables.rank_sum[slot * tables.num_sites + sites.index[s]];
  const int64_t end = std::min<int64_t>(segments.start[item.segment + 1],
                                        item.first_token + kTokens);
  const int64_t tokens = end - item.first_token;
  const W** b = buffers.rows.at_least(rank);
  each_row<W>(tables, sites, slot, item.site, item.site + 1, 0, rank,
              [&](int64_t place, const W*, const W* row, float) { b[place] = row + item.first; });
  const ExpandRows<T> job{h + item.first_token * h_stride + before,
                          y + sites.out_offset[item.site] + item.first,
                          segments.order + item.first_token,
                          tokens,
                          rank,
                          columns,
                          h_stride,
                          y_stride};
  buffers.with_floats(b, rank, columns, tokens,
                      [&](const auto* const* rows) { expand_rows(job, rows); });
}

std::vector<Item> shrink_items(const Tables& tables, const Segments& segments,
                               const Sites& sites) {
  std::vector<Item> items;
  for (int64_t i = 0; i < segments.count; ++i) {
    const int64_t rank = rank_of(tables, sites, segments.slot[i]);
    const int64_t from = segments.start[i], to = segments.start[i + 1];
    const int64_t step = to - from <= kTokens ? kRankRows : std::max<int64_t>(rank, 1);
    for (int64_t t = from; t < to; t += kTokens)
      for (int64_t r = 0; r < rank; r += step)
        items.push_back({static_cast<int32_t>(i), static_cast<int32_t>(t), 0, r,
                         std::min(rank, r + step)});
  }
  return items;
}

std::vector<Item> expand_items(const Tables& tables, const Segments& segments,
                               const Sites& sites) {
  std::vector<Item> items;
  for (int64_t i = 0; i < segments.count; ++i) {
    const int64_t from = segments.start[i], to = segments.start[i + 1];
    for (int32_t s = 0; s < sites.count; ++s) {
      if (!tables.rank_sum[segments.slot[i] * tables.num_sites + sites.index[s]]) continue;
      const int64_t columns = sites.out_features[s];
      const int64_t step = to - from <= kTokens ? kColumns : columns;
      for (int64_t t = from; t < to; t += kTokens)
        for (int64_t c = 0; c < columns; c += step)
          items.push_back({static_cast<int32_t>(i), static_cast<int32_t>(t), s, c,
                           std::min(columns, c + step)});
    }
  }
  return items;
}

template <class T, class W>
void shrink(const T* x, int64_t x_stride, float* h, int64_t h_stride, const float* token_weight,
            const Tables& tables, const Segments& segments, const Sites& sites, int threads) {
  const std::vector<Item> items = shrink_items(tables, segments, sites);
  const int64_t count = static_cast<int64_t>(items.size());
#pragma omp parallel num_threads(count < 4 ? 1 : threads)
  {
    Buffers<W> buffers;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < count; ++i)
      shrink_item<T, W>(items[i], x, x_stride, h, h_stride, token_weight, tables, segments, sites,
                        buffers);
  }
}

template <class T, class W>
void expand(const float* h, int64_t h_stride, T* y, int64_t y_stride, const Tables& tables,
            const Segments& segments, const Sites& sites, int threads) {
  const std::vector<Item> items = expand_items(tables, segments, sites);
  const int64_t count = static_cast<int64_t>(items.size());
#pragma omp parallel num_threads(count < 4 ? 1 : threads)
  {
    Buffers<W> buffers;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < count; ++i)
      expand_item<T, W>(items[i], h, h_stride, y, y_stride, tables, segments, sites, buffers);
  }
}

}  // namespace
}  // namespace plait

using plait::bfloat16;

PLAIT_EXPORT void plait_lora_shrink(int32_t dtype, int32_t weight_dtype, const void* x,
                                    int64_t x_stride, float* h, int64_t h_stride,
                                    const float* token_weight, const plait::Tables* tables,
                                    const plait::Segments* segments, const plait::Sites* sites,
                                    int32_t threads) {
  const auto run = [&](auto* typed, auto weight) {
    plait::shrink<std::remove_const_t<std::remove_pointer_t<decltype(typed)>>, decltype(weight)>(
        typed, x_stride, h, h_stride, token_weight, *tables, *segments, *sites, threads);
  };
  const auto* floats = static_cast<const float*>(x);
  const auto* halves = static_cast<const bfloat16*>(x);
  if (dtype == plait::kFloat32)
    weight_dtype == plait::kFloat32 ? run(floats, float{}) : run(floats, bfloat16{});
  else
    weight_dtype == plait::kFloat32 ? run(halves, float{}) : run(halves, bfloat16{});
}

PLAIT_EXPORT void plait_lora_expand(int32_t dtype, int32_t weight_dtype, const float* h,
                                    int64_t h_stride, void* y, int64_t y_stride,
                                    const plait::Tables* tables, const plait::Segments* segments,
                                    const plait::Sites* sites, int32_t threads) {
  const auto run = [&](auto* typed, auto weight) {
    plait::expand<std::remove_pointer_t<decltype(typed)>, decltype(weight)>(
        h, h_stride, typed, y_stride, *tables, *segments, *sites, threads);
  };
  auto* floats = static_cast<float*>(y);
  auto* halves = static_cast<bfloat16*>(y);
  if (dtype == plait::kFloat32)
    weight_dtype == plait::kFloat32 ? run(floats, float{}) : run(floats, bfloat16{});
  else
    weight_dtype == plait::kFloat32 ? run(halves, float{}) : run(halves, bfloat16{});
}

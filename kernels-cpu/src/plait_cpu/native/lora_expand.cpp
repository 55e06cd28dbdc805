// lora: y += h · B, for the tiles of the arena where they lie.
#include "lora.h"

namespace plait {
namespace {

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
  const int64_t before = rank_of(tables, sites, item.site, slot);
  const int64_t tokens = item.tokens(segments);
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
void expand(const float* h, int64_t h_stride, T* y, int64_t y_stride, const Tables& tables,
            const Segments& segments, const Sites& sites, int threads) {
  run_items<W>(expand_items(tables, segments, sites), threads,
               [&](const Item& item, Buffers<W>& buffers) {
                 expand_item<T, W>(item, h, h_stride, y, y_stride, tables, segments, sites,
                                   buffers);
               });
}

}  // namespace
}  // namespace plait

using plait::bfloat16;

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

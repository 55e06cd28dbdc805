// lora: h = x · Aᵀ, times the scales, for the tiles of the arena where they lie.
#include "lora.h"

namespace plait {
namespace {

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
  const int64_t tokens = item.tokens(segments);
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

std::vector<Item> shrink_items(const Tables& tables, const Segments& segments,
                               const Sites& sites) {
  std::vector<Item> items;
  for (int64_t i = 0; i < segments.count; ++i) {
    const int64_t rank = rank_of(tables, sites, sites.count, segments.slot[i]);
    const int64_t from = segments.start[i], to = segments.start[i + 1];
    const int64_t step = to - from <= kTokens ? kRankRows : std::max<int64_t>(rank, 1);
    for (int64_t t = from; t < to; t += kTokens)
      for (int64_t r = 0; r < rank; r += step)
        items.push_back({static_cast<int32_t>(i), static_cast<int32_t>(t), 0, r,
                         std::min(rank, r + step)});
  }
  return items;
}

template <class T, class W>
void shrink(const T* x, int64_t x_stride, float* h, int64_t h_stride, const float* token_weight,
            const Tables& tables, const Segments& segments, const Sites& sites, int threads) {
  run_items<W>(shrink_items(tables, segments, sites), threads,
               [&](const Item& item, Buffers<W>& buffers) {
                 shrink_item<T, W>(item, x, x_stride, h, h_stride, token_weight, tables, segments,
                                   sites, buffers);
               });
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

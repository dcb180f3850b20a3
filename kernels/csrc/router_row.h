// Routing of one token: the arithmetic of router.cu, which a test also compiles for the host.
//
// A token's experts are dealt out to the lanes of a warp: item i of lane l is expert i * lanes + l.
// What crosses lanes goes through `Lanes`: count, lane, max, min and bits_or of uint32_t, sum and
// largest of float, each giving every lane the same result. Arrays are indexed by unrolled loops
// only, so that they stay in registers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define TRIVIUM_ROW __device__ __forceinline__
#define TRIVIUM_UNROLL _Pragma("unroll")
#else
#define TRIVIUM_ROW inline
#define TRIVIUM_UNROLL
#endif

namespace trivium::router {

// kernels/router.py: SCORES
constexpr int kSoftmax = 0, kPreSoftmax = 1, kSigmoid = 2;
constexpr float kTiny = 1e-20f;

// Groups of more experts than one only where groups > 1; per_group = top_k / group_top_k.
struct Rule {
  int experts, top_k, groups, group_top_k, per_group, group_size, score;
  float scale;
};

// Keys order as the floats do, NaN last of all; 0 is nobody, 1 is chosen already.
constexpr uint32_t kNobody = 0, kChosen = 1;

TRIVIUM_ROW uint32_t key_of(float x) {
  x += 0.0f;  // -0 is 0
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return key > kChosen ? key : kChosen + 1;
}

TRIVIUM_ROW float value_of(uint32_t key) {
  const uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

template <class Lanes>
TRIVIUM_ROW int expert_of(const Lanes& lanes, int item) {
  return item * Lanes::count + lanes.lane();
}

// Mark the `count` largest keys as chosen; of equal keys the lowest expert first.
template <class Lanes, int ITEMS>
TRIVIUM_ROW void choose(const Lanes& lanes, uint32_t (&key)[ITEMS], int count) {
  for (int n = 0; n < count; ++n) {
    uint32_t best = kChosen;
    int expert = 0;
    TRIVIUM_UNROLL
    for (int i = 0; i < ITEMS; ++i) {
      if (key[i] > best) {
        best = key[i];
        expert = expert_of(lanes, i);
      }
    }
    const uint32_t top = lanes.max(best);
    const bool mine = best == top && best > kChosen;
    const uint32_t winner = lanes.min(mine ? uint32_t(expert) : ~0u);
    TRIVIUM_UNROLL
    for (int i = 0; i < ITEMS; ++i)
      if (uint32_t(expert_of(lanes, i)) == winner) key[i] = kChosen;
  }
}

// The sum of the rule.per_group largest keys of one group, as floats.
template <class Lanes, int ITEMS>
TRIVIUM_ROW float strength_of(const Lanes& lanes, const uint32_t (&key)[ITEMS],
                              const int (&group_of)[ITEMS], int group, int count) {
  float sum = 0.0f;
  uint32_t last_key = ~0u;  // of the one summed last: next comes a lower key or a later expert
  int last_expert = -1;
  for (int n = 0; n < count; ++n) {
    uint32_t best = kNobody;
    int expert = 0;
    TRIVIUM_UNROLL
    for (int i = 0; i < ITEMS; ++i) {
      const int e = expert_of(lanes, i);
      const bool after = key[i] < last_key || (key[i] == last_key && e > last_expert);
      if (group_of[i] == group && after && key[i] > best) {
        best = key[i];
        expert = e;
      }
    }
    last_key = lanes.max(best);
    last_expert = int(lanes.min(best == last_key ? uint32_t(expert) : ~0u));
    sum += value_of(last_key);
  }
  return sum;
}

// Leave only the experts of the best groups: all other keys become nobody.
template <class Lanes, int ITEMS>
TRIVIUM_ROW void keep_groups(const Lanes& lanes, uint32_t (&key)[ITEMS], const Rule& rule) {
  constexpr int kMostGroups = 32, kEach = (kMostGroups + Lanes::count - 1) / Lanes::count;
  int group_of[ITEMS];
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i) group_of[i] = expert_of(lanes, i) / rule.group_size;
  uint32_t strength[kEach];  // dealt out as experts are
  TRIVIUM_UNROLL
  for (int j = 0; j < kEach; ++j) strength[j] = kNobody;
  for (int group = 0; group < rule.groups; ++group) {
    const uint32_t k = key_of(strength_of(lanes, key, group_of, group, rule.per_group));
    TRIVIUM_UNROLL
    for (int j = 0; j < kEach; ++j)
      if (expert_of(lanes, j) == group) strength[j] = k;
  }
  choose(lanes, strength, rule.group_top_k);
  uint32_t kept = 0;
  TRIVIUM_UNROLL
  for (int j = 0; j < kEach; ++j)
    if (strength[j] == kChosen) kept |= 1u << expert_of(lanes, j);
  kept = lanes.bits_or(kept);
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i)
    if (group_of[i] >= rule.groups || !(kept >> group_of[i] & 1u)) key[i] = kNobody;
}

TRIVIUM_ROW float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// x becomes its softmax over all experts; beyond the last expert it must be -infinity.
template <class Lanes, int ITEMS>
TRIVIUM_ROW void softmax(const Lanes& lanes, float (&x)[ITEMS]) {
  float most = -INFINITY;
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i) most = fmaxf(most, x[i]);
  most = lanes.largest(most);
  float sum = 0.0f;
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i) {
    x[i] = expf(x[i] - most);
    sum += x[i];
  }
  sum = lanes.sum(sum);
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i) x[i] /= sum;
}

template <class Lanes, int ITEMS>
TRIVIUM_ROW float total_of(const Lanes& lanes, const float (&x)[ITEMS]) {
  float sum = 0.0f;
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i) sum += x[i];
  return lanes.sum(sum);
}

// Scores of all experts from their logits (kSoftmax: the logits), 0 beyond the last expert.
template <class Lanes, int ITEMS>
TRIVIUM_ROW void scores_of(const Lanes& lanes, float (&x)[ITEMS], int experts, int score) {
  if (score == kPreSoftmax) {
    softmax(lanes, x);
  } else if (score == kSigmoid) {
    TRIVIUM_UNROLL
    for (int i = 0; i < ITEMS; ++i) x[i] = expert_of(lanes, i) < experts ? sigmoid(x[i]) : 0.0f;
  }
}

// x: logits, -infinity beyond the last expert; becomes the weights. chosen: which experts they are
// of. bias: of this lane's items, 0 where there is none.
template <class Lanes, int ITEMS>
TRIVIUM_ROW void route(const Lanes& lanes, float (&x)[ITEMS], const float (&bias)[ITEMS],
                       bool (&chosen)[ITEMS], const Rule& rule) {
  scores_of(lanes, x, rule.experts, rule.score);
  uint32_t key[ITEMS];
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i)
    key[i] = expert_of(lanes, i) < rule.experts ? key_of(x[i] + bias[i]) : kNobody;
  if (rule.groups > 1) keep_groups(lanes, key, rule);
  choose(lanes, key, rule.top_k);
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i) chosen[i] = key[i] == kChosen;

  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i)
    if (!chosen[i]) x[i] = rule.score == kSoftmax ? -INFINITY : 0.0f;
  float total = 1.0f;
  if (rule.score == kSoftmax) {
    softmax(lanes, x);
  } else if (rule.score == kSigmoid && rule.top_k > 1) {
    total = total_of(lanes, x) + kTiny;
  }
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i) x[i] = chosen[i] ? x[i] / total * rule.scale : 0.0f;
}

// x: logits as above; becomes the gradient of the logits. grad: of the weights.
template <class Lanes, int ITEMS>
TRIVIUM_ROW void route_backward(const Lanes& lanes, float (&x)[ITEMS], const float (&grad)[ITEMS],
                                const bool (&chosen)[ITEMS], const Rule& rule) {
  if (rule.score == kSoftmax) {
    TRIVIUM_UNROLL
    for (int i = 0; i < ITEMS; ++i)
      if (!chosen[i]) x[i] = -INFINITY;
    softmax(lanes, x);
  } else {
    scores_of(lanes, x, rule.experts, rule.score);
  }
  float dot = 0.0f, total = 0.0f;
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i) {
    dot += chosen[i] ? grad[i] * x[i] : 0.0f;
    total += chosen[i] ? x[i] : 0.0f;
  }
  dot = lanes.sum(dot);
  const bool divided = rule.score == kSigmoid && rule.top_k > 1;
  total = divided ? lanes.sum(total) + kTiny : 1.0f;
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i) {
    const float g = chosen[i] ? grad[i] : 0.0f;
    float slope;
    if (rule.score != kSigmoid) {
      slope = (g - dot) * x[i];
    } else {
      const float given = divided ? (g - dot / total) / total : g;
      slope = chosen[i] ? given * x[i] * (1.0f - x[i]) : 0.0f;
    }
    x[i] = slope * rule.scale;
  }
}

// x: logits as above; becomes scores that sum to 1 over all experts. chosen: the top k of them.
template <class Lanes, int ITEMS>
TRIVIUM_ROW void balance_scores(const Lanes& lanes, float (&x)[ITEMS], bool (&chosen)[ITEMS],
                                const Rule& rule) {
  if (rule.score == kSoftmax) {
    softmax(lanes, x);
  } else {
    scores_of(lanes, x, rule.experts, kSigmoid);
    const float total = total_of(lanes, x) + kTiny;
    TRIVIUM_UNROLL
    for (int i = 0; i < ITEMS; ++i) x[i] /= total;
  }
  uint32_t key[ITEMS];
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i)
    key[i] = expert_of(lanes, i) < rule.experts ? key_of(x[i]) : kNobody;
  choose(lanes, key, rule.top_k);
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i) chosen[i] = key[i] == kChosen;
}

// x: logits as above; becomes the gradient of the logits. grad: of the scores.
template <class Lanes, int ITEMS>
TRIVIUM_ROW void balance_backward(const Lanes& lanes, float (&x)[ITEMS],
                                  const float (&grad)[ITEMS], const Rule& rule) {
  scores_of(lanes, x, rule.experts, rule.score == kSoftmax ? kPreSoftmax : kSigmoid);
  float dot = 0.0f;
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i) dot += grad[i] * x[i];
  dot = lanes.sum(dot);
  const float total = rule.score == kSoftmax ? 1.0f : total_of(lanes, x) + kTiny;
  TRIVIUM_UNROLL
  for (int i = 0; i < ITEMS; ++i) {
    const float slope = rule.score == kSoftmax ? 1.0f : (1.0f - x[i]);
    x[i] *= (grad[i] - dot / total) / total * slope;
  }
}

}  // namespace trivium::router

// Word ids to the margins of linear n-gram models; bilstm_words.h says what, `bilstm/runtime/ngram_linear.py` is the
// reference.
#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <vector>

#include "bilstm_words.h"
#include "word_hash.h"

using bilstm::hash_key;
using bilstm::slots_for;

// A slot names a key by its number; the rest of the hash tells most others apart without a look at the keys.
struct bilstm_ngrams {
    struct Slot {
        uint32_t tag, number;  // number: place among the keys + 1; 0: empty
    };
    struct Order {
        std::vector<Slot> slots;
        std::vector<int64_t> keys;
        uint32_t start;  // its first feature
    };
    struct Model {
        int64_t outputs, features;
        const float *weights;
        const double *intercepts, *inverse_frequency;
    };
    int64_t words = 0;
    std::vector<Order> orders;  // from pairs on
    std::vector<Model> models;

    static int64_t find(const Order &order, int64_t key, uint64_t hash) {
        const uint64_t mask = order.slots.size() - 1;
        for (uint64_t at = hash & mask;; at = (at + 1) & mask) {
            const Slot &slot = order.slots[at];
            if (slot.number == 0) return -1;
            if (slot.tag == static_cast<uint32_t>(hash >> 32) && order.keys[slot.number - 1] == key) {
                return slot.number - 1;
            }
        }
    }
};

bilstm_ngrams *bilstm_ngrams_create(int64_t words, int orders, const int64_t *const *keys, const int64_t *sizes) {
    try {
        auto made = std::make_unique<bilstm_ngrams>();
        made->words = words;
        int64_t start = words;
        for (int order = 0; order < orders; ++order) {
            bilstm_ngrams::Order one;
            one.slots.assign(slots_for(sizes[order]), {0, 0});
            one.keys.assign(keys[order], keys[order] + sizes[order]);
            one.start = static_cast<uint32_t>(start);
            const uint64_t mask = one.slots.size() - 1;
            for (int64_t i = 0; i < sizes[order]; ++i) {
                const uint64_t hash = hash_key(one.keys[i]);
                uint64_t at = hash & mask;
                while (one.slots[at].number != 0) at = (at + 1) & mask;
                one.slots[at] = {static_cast<uint32_t>(hash >> 32), static_cast<uint32_t>(i + 1)};
            }
            made->orders.push_back(std::move(one));
            start += sizes[order];
        }
        return made.release();
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

int bilstm_ngrams_add(bilstm_ngrams *ngrams, int64_t outputs, int64_t features, const float *weights,
                      const double *intercepts, const double *inverse_frequency) {
    try {
        ngrams->models.push_back({outputs, features, weights, intercepts, inverse_frequency});
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

void bilstm_ngrams_free(bilstm_ngrams *ngrams) { delete ngrams; }

namespace {

// Sort by the lowest `bits` bits, eight at a time; a text has hundreds of n-grams, and comparing them is slower.
void sort_features(std::vector<uint32_t> &features, std::vector<uint32_t> &room, int bits) {
    constexpr size_t kFew = 48;
    if (features.size() <= kFew) {
        std::sort(features.begin(), features.end());
        return;
    }
    room.resize(features.size());
    for (int shift = 0; shift < bits; shift += 8) {
        uint32_t starts[256] = {};
        for (const uint32_t feature : features) ++starts[feature >> shift & 255];
        uint32_t sum = 0;
        for (uint32_t &start : starts) {
            const uint32_t count = start;
            start = sum;
            sum += count;
        }
        for (const uint32_t feature : features) room[starts[feature >> shift & 255]++] = feature;
        features.swap(room);
    }
}

int bits_of(uint64_t largest) {
    int bits = 0;
    while (largest >> bits) ++bits;
    return bits;
}

// What one text needs, kept from text to text.
struct Work {
    std::vector<uint32_t> found, room, features, counts;
    std::vector<int64_t> before, keys;
    std::vector<uint64_t> hashes;
    std::vector<double> values;
};

// Gather the features of a text in ascending order, each with how often it occurs.
void find_features(const bilstm_ngrams &ngrams, const int64_t *row, int64_t length, int bits, Work &work) {
    work.found.clear();
    work.before.assign(row, row + length);
    work.keys.resize(length);
    work.hashes.resize(length);
    for (int64_t i = 0; i < length; ++i) {
        if (row[i] >= 0) work.found.push_back(static_cast<uint32_t>(row[i]));
    }
    int64_t span = 0;
    for (const bilstm_ngrams::Order &order : ngrams.orders) {
        // before[i]: the n-gram one shorter that starts at i; an n-gram starts at i if that and its last word do
        ++span;
        const uint64_t mask = order.slots.size() - 1;
        for (int64_t i = 0; i + span < length; ++i) {
            const bool is_whole = work.before[i] >= 0 && row[i + span] >= 0;
            work.keys[i] = is_whole ? work.before[i] * ngrams.words + row[i + span] : -1;
            work.hashes[i] = hash_key(work.keys[i]);
            if (is_whole) BILSTM_PREFETCH(&order.slots[work.hashes[i] & mask]);
        }
        for (int64_t i = 0; i + span < length; ++i) {
            const int64_t index = work.keys[i] < 0 ? -1 : bilstm_ngrams::find(order, work.keys[i], work.hashes[i]);
            work.before[i] = index;
            if (index >= 0) work.found.push_back(order.start + static_cast<uint32_t>(index));
        }
    }
    sort_features(work.found, work.room, bits);
    work.features.clear();
    work.counts.clear();
    for (const uint32_t feature : work.found) {
        if (!work.features.empty() && work.features.back() == feature) {
            ++work.counts.back();
        } else {
            work.features.push_back(feature);
            work.counts.push_back(1);
        }
    }
}

// Margins of one model, (outputs), `stride` apart.
void add_up(const bilstm_ngrams::Model &model, const double *levels, Work &work, int64_t stride, double *margins) {
    const auto &features = work.features;
    const size_t used = std::lower_bound(features.begin(), features.end(), model.features) - features.begin();
    work.values.assign(used, 1.0);
    if (model.inverse_frequency != nullptr) {
        double squares = 0.0;
        for (size_t i = 0; i < used; ++i) {
            work.values[i] = levels[work.counts[i]] * model.inverse_frequency[features[i]];
            squares += work.values[i] * work.values[i];
        }
        const double norm = std::sqrt(squares);
        for (size_t i = 0; i < used; ++i) work.values[i] /= norm;
    }
    for (int64_t output = 0; output < model.outputs; ++output) {
        const float *weights = model.weights + output * model.features;
        double sum = 0.0;
        for (size_t i = 0; i < used; ++i) sum += work.values[i] * static_cast<double>(weights[features[i]]);
        margins[output * stride] = sum + model.intercepts[output];
    }
}

}  // namespace

int bilstm_ngrams_margins(const bilstm_ngrams *ngrams, const int64_t *words, const int64_t *offsets, int64_t n,
                          const double *levels, int64_t level_count, double *margins) {
    try {
        const int64_t model_count = static_cast<int64_t>(ngrams->models.size());
        uint64_t largest = static_cast<uint64_t>(ngrams->words);
        if (!ngrams->orders.empty()) largest = ngrams->orders.back().start + ngrams->orders.back().keys.size();
        Work work;
        for (int64_t text = 0; text < n; ++text) {
            find_features(*ngrams, words + offsets[text], offsets[text + 1] - offsets[text], bits_of(largest), work);
            for (const uint32_t count : work.counts) {
                if (count >= level_count) return BILSTM_ERROR_ARGUMENT;
            }
            for (int64_t number = 0; number < model_count; ++number) {
                const bilstm_ngrams::Model &model = ngrams->models[number];
                add_up(model, levels, work, model_count, margins + text * model.outputs * model_count + number);
            }
        }
        return BILSTM_OK;
    } catch (const std::bad_alloc &) {
        return BILSTM_ERROR_MEMORY;
    }
}

// Texts to word ids and n-gram margins; bilstm_words.h says what, `bilstm/data/tokenizers.py` is the reference.
#include "bilstm_words.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace {

// FNV-1a over 16-bit units, mixed once more at the end: words are short, so little else is worth its time.
uint64_t hash_units(const uint16_t *units, int64_t length) {
    uint64_t hash = 1469598103934665603ull;
    for (int64_t i = 0; i < length; ++i) hash = (hash ^ units[i]) * 1099511628211ull;
    return hash ^ (hash >> 29);
}

uint64_t hash_key(int64_t key) {
    uint64_t hash = static_cast<uint64_t>(key) * 0x9E3779B97F4A7C15ull;
    return hash ^ (hash >> 32);
}

int64_t slots_for(int64_t count) {
    int64_t slots = 16;
    while (slots < 2 * count) slots *= 2;
    return slots;
}

}  // namespace

struct bilstm_vocabulary {
    struct Slot {
        uint32_t begin, length, tag;  // length 0: empty (no word is empty)
        int64_t id;
    };
    std::vector<uint16_t> units;
    std::vector<Slot> slots;
    int64_t missing;

    int64_t find(const uint16_t *word, int64_t length) const {
        const uint64_t hash = hash_units(word, length);
        const uint64_t mask = slots.size() - 1;
        for (uint64_t at = hash & mask;; at = (at + 1) & mask) {
            const Slot &slot = slots[at];
            if (slot.length == 0) return missing;
            if (slot.tag == static_cast<uint32_t>(hash >> 32) && slot.length == static_cast<uint64_t>(length) &&
                std::memcmp(units.data() + slot.begin, word, length * sizeof(uint16_t)) == 0) {
                return slot.id;
            }
        }
    }
};

namespace {

constexpr uint16_t kNotHandled = 0xFFFF;

bool is_ascii_letter(uint16_t unit) { return (unit | 32) >= 'a' && (unit | 32) <= 'z'; }

// Lower a text into `out`, with line breaks and `n't` treated; false if it holds something for the reference. Two zeros
// stand behind the end, so that looking ahead needs no bounds: zero is in no token.
bool prepare(const uint16_t *lower, const uint16_t *text, int64_t length, std::vector<uint16_t> &out) {
    static const char kBreak[] = "<br />";
    out.clear();
    for (int64_t i = 0; i < length; ++i) {
        const uint16_t unit = text[i];
        if (unit == '&' && i + 1 < length && (text[i + 1] == '#' || is_ascii_letter(text[i + 1]))) {
            // an entity needs a semicolon at most 34 units on
            const int64_t last = std::min(length, i + 36);
            for (int64_t j = i + 1; j < last; ++j) {
                if (text[j] == ';') return false;
            }
        }
        if (unit == '<') {
            int64_t same = 0;
            while (same < 6 && i + same < length && text[i + same] == static_cast<uint16_t>(kBreak[same])) ++same;
            if (same == 6) {
                out.push_back(' ');
                i += 5;
                continue;
            }
            const int64_t next = i + 1 < length && text[i + 1] == '/' ? i + 2 : i + 1;
            // a break right behind "<" or "</" would join what stands around it, but puts a blank there: no tag
            if (next < length && is_ascii_letter(text[next])) return false;
        }
        const uint16_t small = lower[unit];
        if (small == kNotHandled) return false;
        const size_t size = out.size();
        if (small == 't' && size >= 2 && out[size - 1] == '\'' && out[size - 2] == 'n') {
            out[size - 2] = ' ';
            out[size - 1] = 'n';
            out.push_back('\'');
        }
        out.push_back(small);
    }
    out.push_back(0);
    out.push_back(0);
    return true;
}

bool is_digit(uint16_t unit) { return unit >= '0' && unit <= '9'; }

// The token that starts at p, in the order of the alternatives of the reference's expression; 0 if none does.
struct Matcher {
    const uint8_t *letters;

    bool letter(uint16_t unit) const { return letters[unit] != 0; }

    int64_t number(const uint16_t *p) const {
        int64_t end = 0, best = 0;
        while (is_digit(p[end])) ++end;
        while (p[end] == '.' || p[end] == ',' || p[end] == '/') {
            int64_t next = end + 1;
            while (is_digit(p[next])) ++next;
            if (next == end + 1) break;
            end = next;
            if (!letter(p[end])) best = end;
        }
        return best;
    }

    int64_t clitic(const uint16_t *p) const {
        const uint16_t a = p[1], b = a == 0 ? 0 : p[2];
        if ((a == 's' || a == 'd' || a == 'm') && !letter(b)) return 2;
        if (((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) && !letter(p[3])) return 3;
        return 0;
    }

    int64_t mouth(const uint16_t *p) const {
        const uint16_t unit = p[0];
        if (unit == ')' || unit == '(') {
            int64_t end = 1;
            while (p[end] == unit) ++end;
            return end;
        }
        if (unit == ']' || unit == '[' || unit == '|' || unit == '\\' || unit == '*') return 1;
        if (unit == '/') return p[1] == '/' ? 0 : 1;
        if (unit == 'd' || unit == 'p' || unit == 'o') return letter(p[1]) ? 0 : 1;
        return 0;
    }

    int64_t emoticon(const uint16_t *p) const {
        const uint16_t nose = p[1];
        if (nose == '-' || nose == '^' || nose == 'o' || nose == '\'') {
            if (const int64_t end = mouth(p + 2)) return end + 2;
        }
        const int64_t end = nose == 0 ? 0 : mouth(p + 1);
        return end ? end + 1 : 0;
    }

    int64_t line(const uint16_t *p, uint16_t edge) const {  // ^_^ and -_-
        int64_t end = 1;
        while (p[end] == '_') ++end;
        return end > 1 && p[end] == edge ? end + 1 : 0;
    }

    int64_t match(const uint16_t *p) const {
        const uint16_t unit = p[0];
        if (unit == 'n' && p[1] == '\'' && p[2] == 't' && !letter(p[3])) return 3;
        if (is_digit(unit)) {
            if (const int64_t end = number(p)) return end;
        }
        if (letter(unit)) {
            int64_t end = 1;
            while (letter(p[end])) ++end;
            return end;
        }
        switch (unit) {
            case '\'': return clitic(p);
            case '!':
            case '?': return 1;
            case ':':
            case ';':
            case '=': return emoticon(p);
            case '<': {
                const int64_t at = p[1] == '/' ? 2 : 1;
                return p[at] == '3' && !is_digit(p[at + 1]) ? at + 1 : 0;
            }
            case '^':
            case '-': return line(p, unit);
            default: return 0;
        }
    }
};

}  // namespace

int bilstm_words_version(void) { return BILSTM_WORDS_VERSION; }

bilstm_vocabulary *bilstm_vocabulary_create(const uint16_t *units, const int64_t *offsets, const int64_t *ids,
                                            int64_t count, int64_t missing) {
    try {
        auto made = std::make_unique<bilstm_vocabulary>();
        made->missing = missing;
        made->units.assign(units, units + offsets[count]);
        made->slots.assign(slots_for(count), {0, 0, 0, 0});
        const uint64_t mask = made->slots.size() - 1;
        for (int64_t word = 0; word < count; ++word) {
            const int64_t begin = offsets[word], length = offsets[word + 1] - begin;
            if (length == 0) continue;
            const uint64_t hash = hash_units(units + begin, length);
            uint64_t at = hash & mask;
            while (made->slots[at].length != 0) at = (at + 1) & mask;
            made->slots[at] = {static_cast<uint32_t>(begin), static_cast<uint32_t>(length),
                               static_cast<uint32_t>(hash >> 32), ids[word]};
        }
        return made.release();
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void bilstm_vocabulary_free(bilstm_vocabulary *vocabulary) { delete vocabulary; }

int bilstm_words_encode(const uint16_t *lower, const uint8_t *letters, const bilstm_vocabulary *const *vocabularies,
                        const uint16_t *units, const int64_t *offsets, int64_t n, int64_t *const *ids, int64_t *ends,
                        uint8_t *handled) {
    try {
        const Matcher matcher{letters};
        std::vector<uint16_t> prepared;
        int64_t count = 0;
        for (int64_t text = 0; text < n; ++text) {
            handled[text] = prepare(lower, units + offsets[text], offsets[text + 1] - offsets[text], prepared);
            const uint16_t *p = prepared.data(), *end = handled[text] ? p + prepared.size() - 2 : p;
            while (p < end) {
                const int64_t length = matcher.match(p);
                if (length == 0) {
                    ++p;
                    continue;
                }
                ids[0][count] = vocabularies[0]->find(p, length);
                if (vocabularies[1] != nullptr) ids[1][count] = vocabularies[1]->find(p, length);
                ++count;
                p += length;
            }
            ends[text] = count;
        }
        return BILSTM_OK;
    } catch (const std::bad_alloc &) {
        return BILSTM_ERROR_MEMORY;
    }
}

// ---- n-grams ---------------------------------------------------------------------------------------------------------

struct bilstm_ngrams {
    struct Slot {
        int64_t key;  // -1: empty
        int64_t index;
    };
    struct Model {
        int64_t outputs, features;
        const float *weights;
        const double *intercepts, *inverse_frequency;
    };
    int64_t words = 0;
    std::vector<std::vector<Slot>> orders;  // from pairs on
    std::vector<int64_t> starts;            // first feature of each order from pairs on
    std::vector<Model> models;

    int64_t find(size_t order, int64_t key) const {
        const std::vector<Slot> &slots = orders[order];
        const uint64_t mask = slots.size() - 1;
        for (uint64_t at = hash_key(key) & mask;; at = (at + 1) & mask) {
            if (slots[at].key == key) return slots[at].index;
            if (slots[at].key < 0) return -1;
        }
    }
};

bilstm_ngrams *bilstm_ngrams_create(int64_t words, int orders, const int64_t *const *keys, const int64_t *sizes) {
    try {
        auto made = std::make_unique<bilstm_ngrams>();
        made->words = words;
        int64_t start = words;
        for (int order = 0; order < orders; ++order) {
            std::vector<bilstm_ngrams::Slot> slots(slots_for(sizes[order]), {-1, -1});
            const uint64_t mask = slots.size() - 1;
            for (int64_t i = 0; i < sizes[order]; ++i) {
                uint64_t at = hash_key(keys[order][i]) & mask;
                while (slots[at].key >= 0) at = (at + 1) & mask;
                slots[at] = {keys[order][i], i};
            }
            made->orders.push_back(std::move(slots));
            made->starts.push_back(start);
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

int bilstm_ngrams_margins(const bilstm_ngrams *ngrams, const int64_t *words, const int64_t *offsets, int64_t n,
                          const double *levels, int64_t level_count, double *margins) {
    try {
        const int64_t model_count = static_cast<int64_t>(ngrams->models.size());
        std::vector<int64_t> found, features, counts, before;
        std::vector<double> values;
        for (int64_t text = 0; text < n; ++text) {
            const int64_t *row = words + offsets[text];
            const int64_t length = offsets[text + 1] - offsets[text];
            found.clear();
            before.assign(row, row + length);
            for (int64_t i = 0; i < length; ++i) {
                if (row[i] >= 0) found.push_back(row[i]);
            }
            for (size_t order = 0; order < ngrams->orders.size(); ++order) {
                // before[i]: the n-gram one shorter that starts at i; an n-gram starts at i if that and its last word do
                const int64_t span = static_cast<int64_t>(order) + 1;
                for (int64_t i = 0; i + span < length; ++i) {
                    const bool is_whole = before[i] >= 0 && row[i + span] >= 0;
                    const int64_t index = is_whole ? ngrams->find(order, before[i] * ngrams->words + row[i + span]) : -1;
                    before[i] = index;
                    if (index >= 0) found.push_back(ngrams->starts[order] + index);
                }
            }
            std::sort(found.begin(), found.end());
            features.clear();
            counts.clear();
            for (const int64_t feature : found) {
                if (!features.empty() && features.back() == feature) {
                    if (++counts.back() >= level_count) return BILSTM_ERROR_ARGUMENT;
                } else {
                    features.push_back(feature);
                    counts.push_back(1);
                }
            }
            for (int64_t number = 0; number < model_count; ++number) {
                const bilstm_ngrams::Model &model = ngrams->models[number];
                const size_t used =
                    std::lower_bound(features.begin(), features.end(), model.features) - features.begin();
                values.assign(used, 1.0);
                if (model.inverse_frequency != nullptr) {
                    double squares = 0.0;
                    for (size_t i = 0; i < used; ++i) {
                        values[i] = levels[counts[i]] * model.inverse_frequency[features[i]];
                        squares += values[i] * values[i];
                    }
                    const double norm = std::sqrt(squares);
                    for (size_t i = 0; i < used; ++i) values[i] /= norm;
                }
                for (int64_t output = 0; output < model.outputs; ++output) {
                    const float *weights = model.weights + output * model.features;
                    double sum = 0.0;
                    for (size_t i = 0; i < used; ++i) sum += values[i] * static_cast<double>(weights[features[i]]);
                    margins[(text * model.outputs + output) * model_count + number] = sum + model.intercepts[output];
                }
            }
        }
        return BILSTM_OK;
    } catch (const std::bad_alloc &) {
        return BILSTM_ERROR_MEMORY;
    }
}

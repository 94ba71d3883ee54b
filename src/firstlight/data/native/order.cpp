// Megatron's order, compiled: numpy's legacy shuffle, the sample index and the blending index.
//
// Each function gives what its numpy twin in Python gives, bit for bit; tests/unit/data/test_native.py compares them.
// Compile without contraction of floating point (-ffp-contract=off): a fused multiply-add changes the blend.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace {

constexpr int kVersion = 2;  // equals VERSION of native/__init__.py
constexpr int64_t kAhead = 64;  // memory accesses under way at once

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// MT19937 as numpy's legacy RandomState holds it: 624 words and the position of the next one.
class Twister {
  public:
    Twister(uint32_t *key, int position) : key_(key), position_(position) {}

    uint32_t next() {
        if (position_ == kWords) {
            refill();
        }
        uint32_t y = key_[position_++];
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c5680u;
        y ^= (y << 15) & 0xefc60000u;
        return y ^ (y >> 18);
    }

    // Uniform in [0, largest]: numpy's random_interval, by masked rejection.
    uint32_t interval(uint32_t largest, uint32_t mask) {
        uint32_t value;
        do {
            value = next() & mask;
        } while (value > largest);
        return value;
    }

    int position() const { return position_; }

    static constexpr int kWords = 624;

  private:
    static uint32_t mix(uint32_t high, uint32_t low, uint32_t far) {
        const uint32_t y = (high & 0x80000000u) | (low & 0x7fffffffu);
        return far ^ (y >> 1) ^ ((y & 1u) ? 0x9908b0dfu : 0u);
    }

    void refill() {
        constexpr int far = 397;
        for (int i = 0; i < kWords - far; ++i) {
            key_[i] = mix(key_[i], key_[i + 1], key_[i + far]);
        }
        for (int i = kWords - far; i < kWords - 1; ++i) {
            key_[i] = mix(key_[i], key_[i + 1], key_[i + far - kWords]);
        }
        key_[kWords - 1] = mix(key_[kWords - 1], key_[0], key_[far - 1]);
        position_ = 0;
    }

    uint32_t *key_;
    int position_;
};

// Fisher-Yates from the end. The places do not depend on the values, so a number of them is drawn and fetched ahead.
template <typename T>
void shuffle_values(T *values, int64_t size, Twister &random) {
    uint32_t places[kAhead];
    uint32_t mask = 0;
    while (static_cast<int64_t>(mask) < size - 1) {
        mask = (mask << 1) | 1u;
    }
    for (int64_t last = size - 1; last > 0;) {
        const int64_t count = std::min(kAhead, last);
        for (int64_t n = 0; n < count; ++n) {
            const auto largest = static_cast<uint32_t>(last - n);
            while ((mask >> 1) >= largest) {
                mask >>= 1;
            }
            places[n] = random.interval(largest, mask);
            __builtin_prefetch(values + places[n], 1);
        }
        for (int64_t n = 0; n < count; ++n) {
            std::swap(values[last - n], values[places[n]]);
        }
        last -= count;
    }
}

// Shuffles in place, as RandomState.shuffle does; changes `key` and returns the new position in it.
template <typename T>
int shuffle(Array<T> values, Array<uint32_t> key, int position) {
    if (values.ndim() != 1 || key.size() != Twister::kWords || position < 0 || position > Twister::kWords) {
        throw std::invalid_argument("shuffle needs one axis, a key of 624 words and a position in it");
    }
    if (values.size() > int64_t{std::numeric_limits<uint32_t>::max()}) {
        throw std::invalid_argument("shuffle draws 32 bits a time: too many values");
    }
    T *data = values.mutable_data();
    Twister random(key.mutable_data(), position);
    const int64_t size = values.size();
    py::gil_scoped_release release;
    shuffle_values(data, size, random);
    return random.position();
}

// The lengths lie unaligned in the .idx file.
inline int32_t unaligned(const int32_t *values, int64_t at) {
    int32_t value;
    std::memcpy(&value, reinterpret_cast<const char *>(values) + at * static_cast<int64_t>(sizeof value), sizeof value);
    return value;
}

// Fills rows[1:], int32 or int64 [num_samples + 1, 2], with the places where samples start; returns how many it filled.
template <typename T, typename D>
int64_t sample_index(Array<int32_t> lengths, Array<D> document_index, Array<T> rows, int64_t sequence_length,
                     int64_t extra_token) {
    if (rows.ndim() != 2 || rows.shape(1) != 2 || sequence_length < 1) {
        throw std::invalid_argument("sample_index needs rows of two columns and a positive sequence_length");
    }
    const int32_t *length = lengths.data();
    const D *document = document_index.data();
    T *row = rows.mutable_data();
    const int64_t num_documents = document_index.size();
    const int64_t num_lengths = lengths.size();
    const int64_t num_rows = rows.shape(0);
    for (int64_t at = 0; at < num_documents; ++at) {
        if (document[at] < 0 || document[at] >= num_lengths) {
            throw std::out_of_range("sample_index: a sequence id is outside of lengths");
        }
    }
    py::gil_scoped_release release;
    int64_t end = 0;
    int64_t filled = 1;
    int64_t wanted = sequence_length + extra_token - 1;
    for (int64_t at = 0; at < num_documents && filled < num_rows; ++at) {
        if (at + kAhead < num_documents) {
            __builtin_prefetch(length + document[at + kAhead]);
        }
        const int64_t begin = end;
        end += unaligned(length, document[at]);
        for (; wanted < end && filled < num_rows; ++filled, wanted += sequence_length) {
            row[2 * filled] = static_cast<T>(at);
            row[2 * filled + 1] = static_cast<T>(wanted + 1 - extra_token - begin);
        }
    }
    return filled - 1;
}

// One block of the blending index from sample `first` on: for each the source whose share lags the most (the first of
// equals) among those with samples left, and the number of samples taken from it before. Raises `counts`.
void blend(Array<double> weights, Array<int64_t> limits, Array<int64_t> counts, int64_t first, Array<int16_t> sources,
           Array<int64_t> numbers) {
    const int64_t num_sources = weights.size();
    if (limits.size() != num_sources || counts.size() != num_sources || sources.size() != numbers.size()) {
        throw std::invalid_argument("blend: weights, limits and counts, and sources and numbers must be equally long");
    }
    const double *weight = weights.data();
    const int64_t *limit = limits.data();
    int64_t *count = counts.mutable_data();
    int16_t *source = sources.mutable_data();
    int64_t *number = numbers.mutable_data();
    const int64_t size = sources.size();
    py::gil_scoped_release release;
    for (int64_t n = 0; n < size; ++n) {
        const double place = static_cast<double>(std::max<int64_t>(first + n, 1));
        double most = -std::numeric_limits<double>::infinity();
        int64_t chosen = 0;
        for (int64_t which = 0; which < num_sources; ++which) {
            const double share = weight[which] * place;
            const double lag = share - static_cast<double>(count[which]);
            if (lag > most && count[which] < limit[which]) {
                most = lag;
                chosen = which;
            }
        }
        source[n] = static_cast<int16_t>(chosen);
        number[n] = count[chosen]++;
    }
}

}  // namespace

PYBIND11_MODULE(_order, module) {
    module.doc() = "Compiled builders of Megatron's order.";
    module.attr("VERSION") = kVersion;
    module.def("shuffle", &shuffle<int32_t>, py::arg("values").noconvert(), py::arg("key").noconvert(),
               py::arg("position"));
    module.def("shuffle", &shuffle<uint32_t>, py::arg("values").noconvert(), py::arg("key").noconvert(),
               py::arg("position"));
    module.def("shuffle", &shuffle<int64_t>, py::arg("values").noconvert(), py::arg("key").noconvert(),
               py::arg("position"));
    module.def("sample_index", &sample_index<int32_t, int32_t>, py::arg("lengths"),
               py::arg("document_index").noconvert(), py::arg("rows").noconvert(), py::arg("sequence_length"),
               py::arg("extra_token"));
    module.def("sample_index", &sample_index<int32_t, int64_t>, py::arg("lengths"),
               py::arg("document_index").noconvert(), py::arg("rows").noconvert(), py::arg("sequence_length"),
               py::arg("extra_token"));
    module.def("sample_index", &sample_index<int64_t, int32_t>, py::arg("lengths"),
               py::arg("document_index").noconvert(), py::arg("rows").noconvert(), py::arg("sequence_length"),
               py::arg("extra_token"));
    module.def("sample_index", &sample_index<int64_t, int64_t>, py::arg("lengths"),
               py::arg("document_index").noconvert(), py::arg("rows").noconvert(), py::arg("sequence_length"),
               py::arg("extra_token"));
    module.def("blend", &blend, py::arg("weights").noconvert(), py::arg("limits").noconvert(),
               py::arg("counts").noconvert(), py::arg("first"), py::arg("sources").noconvert(),
               py::arg("numbers").noconvert());
}

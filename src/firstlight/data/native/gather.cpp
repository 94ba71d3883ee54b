// Rows of tokens, gathered from a mapped .bin file into int32 in one pass; and the packing of documents into rows.
//
// Each has a twin in Python, `gather_with_numpy` of ../gather.py and `pack_with_python` of ../packed_dataset.py; tests
// compare them. Every place is
// checked against the sizes of the arrays: a damaged index gives an error, never a read outside of the file.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace {

constexpr int kVersion = 2;  // equals VERSION of __init__.py

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// Values of the .idx file lie unaligned.
template <typename T>
inline T unaligned(const T *values, int64_t at) {
    T value;
    std::memcpy(&value, reinterpret_cast<const char *>(values) + at * static_cast<int64_t>(sizeof value), sizeof value);
    return value;
}

// Copies `count` tokens of type T to int32; a wider one that does not fit is an error.
template <typename T>
void widen(const uint8_t *from, int64_t count, int32_t *to) {
    if constexpr (std::is_same_v<T, int32_t>) {
        std::memcpy(to, from, static_cast<size_t>(count) * sizeof(int32_t));
        return;
    }
    for (int64_t at = 0; at < count; ++at) {
        T value;
        std::memcpy(&value, from + at * static_cast<int64_t>(sizeof value), sizeof value);
        if constexpr (sizeof(T) > sizeof(int32_t)) {
            if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max()) {
                throw std::overflow_error("the token id " + std::to_string(value) + " does not fit 32 bits");
            }
        }
        to[at] = static_cast<int32_t>(value);
    }
}

// The file, as far as a row needs it.
struct Sequences {
    const uint8_t *content;
    int64_t content_size;
    const int32_t *lengths;
    const int64_t *pointers;
    int64_t num_sequences;
};

// Fills one row of `width` places with up to `wanted` tokens from (position, offset) of the order on.
template <typename T, typename Order>
int32_t fill_row(const Sequences &from, Order sequence_at, int64_t num_positions, int64_t position, int64_t offset,
                 int64_t wanted, int32_t *tokens, bool *begins) {
    int64_t filled = 0;
    for (; filled < wanted && position < num_positions; ++position, offset = 0) {
        const int64_t sequence = sequence_at(position);
        if (sequence < 0 || sequence >= from.num_sequences) {
            throw std::out_of_range("sequence " + std::to_string(sequence) + " is not one of the file");
        }
        const int64_t length = unaligned(from.lengths, sequence);
        const int64_t begin = unaligned(from.pointers, sequence);
        const int64_t itemsize = sizeof(T);
        if (length < 0 || offset < 0 || offset > length || begin < 0 ||
            begin > from.content_size - length * itemsize) {
            throw std::out_of_range("sequence " + std::to_string(sequence) + " lies outside of the file");
        }
        const int64_t count = std::min(length - offset, wanted - filled);
        if (count > 0) {
            begins[filled] = true;
            widen<T>(from.content + begin + offset * itemsize, count, tokens + filled);
            filled += count;
        }
    }
    return static_cast<int32_t>(filled);
}

// An order is an array of sequence ids, or `first, first + 1, ...` where the array is empty.
template <typename T, typename D>
void gather(Array<uint8_t> content, Array<int32_t> lengths, Array<int64_t> pointers, Array<D> order, int64_t num_positions,
            int64_t first, Array<int64_t> starts, int64_t wanted, Array<int32_t> tokens, Array<int32_t> num_real,
            Array<bool> begins, Array<int64_t> rows) {
    const int64_t num_rows = tokens.ndim() == 2 ? tokens.shape(0) : -1;
    const int64_t width = num_rows < 0 ? 0 : tokens.shape(1);
    const bool fits = num_rows >= 0 && begins.ndim() == 2 && begins.shape(0) == num_rows && begins.shape(1) == width &&
                      num_real.size() == num_rows && starts.ndim() == 2 && starts.shape(0) == rows.size() &&
                      starts.shape(1) == 2 && 0 < wanted && wanted <= width;
    if (!fits) {
        throw std::invalid_argument("gather: the shapes of rows, starts, tokens, num_real and begins do not fit");
    }
    const Sequences from{content.data(), content.size(), lengths.data(), pointers.data(), lengths.size()};
    const D *ids = order.size() ? order.data() : nullptr;
    const int64_t *start = starts.data();
    const int64_t *row_of = rows.data();
    const int64_t count = rows.size();
    int32_t *token = tokens.mutable_data();
    int32_t *real = num_real.mutable_data();
    bool *begin = begins.mutable_data();
    py::gil_scoped_release release;
    for (int64_t n = 0; n < count; ++n) {
        const int64_t row = row_of[n];
        const int64_t position = start[2 * n];
        if (row < 0 || row >= num_rows || position < 0) {
            throw std::out_of_range("gather: row or position out of range");
        }
        int32_t *row_tokens = token + row * width;
        bool *row_begins = begin + row * width;
        std::memset(row_begins, 0, static_cast<size_t>(width));
        const auto by_array = [ids](int64_t at) { return static_cast<int64_t>(ids[at]); };
        const auto by_number = [first](int64_t at) { return first + at; };
        real[row] = ids ? fill_row<T>(from, by_array, num_positions, position, start[2 * n + 1], wanted, row_tokens,
                                      row_begins)
                        : fill_row<T>(from, by_number, num_positions, position, start[2 * n + 1], wanted, row_tokens,
                                      row_begins);
        row_begins[0] = true;
        std::memset(row_tokens + real[row], 0, static_cast<size_t>(width - real[row]) * sizeof(int32_t));
    }
}

// Best fit of lengths, in their order, into rows of `width` places: each goes where the least room is left after it, of
// equals to the row used last. Fills `rows` and returns how many rows there are.
int64_t pack(Array<int64_t> lengths, int64_t width, Array<int64_t> rows) {
    if (width < 1 || lengths.size() != rows.size()) {
        throw std::invalid_argument("pack: rows must be as many as lengths, and width positive");
    }
    const int64_t *length = lengths.data();
    int64_t *row = rows.mutable_data();
    const int64_t count = lengths.size();
    for (int64_t n = 0; n < count; ++n) {
        if (length[n] < 0 || length[n] > width) {
            throw std::out_of_range("pack: a length does not fit a row");
        }
    }
    py::gil_scoped_release release;
    std::vector<std::vector<int64_t>> with_room(static_cast<size_t>(width) + 1);
    std::set<int64_t> rooms;  // those that some row has
    int64_t num_rows = 0;
    for (int64_t n = 0; n < count; ++n) {
        const auto best = rooms.lower_bound(length[n]);
        int64_t room = width;
        if (best == rooms.end()) {
            row[n] = num_rows++;
        } else {
            room = *best;
            auto &waiting = with_room[static_cast<size_t>(room)];
            row[n] = waiting.back();
            waiting.pop_back();
            if (waiting.empty()) {
                rooms.erase(best);
            }
        }
        const int64_t left = room - length[n];
        auto &waiting = with_room[static_cast<size_t>(left)];
        if (waiting.empty()) {
            rooms.insert(left);
        }
        waiting.push_back(row[n]);
    }
    return num_rows;
}

template <typename T, typename D>
void define(py::module_ &module, const char *name) {
    module.def(name, &gather<T, D>, py::arg("content").noconvert(), py::arg("lengths").noconvert(),
               py::arg("pointers").noconvert(),
               py::arg("order").noconvert(), py::arg("num_positions"), py::arg("first"), py::arg("starts").noconvert(),
               py::arg("wanted"), py::arg("tokens").noconvert(), py::arg("num_real").noconvert(),
               py::arg("begins").noconvert(), py::arg("rows").noconvert());
}

template <typename T>
void define_both(py::module_ &module, const char *name) {
    define<T, int32_t>(module, name);
    define<T, int64_t>(module, name);
}

}  // namespace

PYBIND11_MODULE(_gather, module) {
    module.doc() = "Rows of tokens gathered from a mapped file.";
    module.attr("VERSION") = kVersion;
    module.def("pack", &pack, py::arg("lengths").noconvert(), py::arg("width"), py::arg("rows").noconvert());
    define_both<uint8_t>(module, "gather_uint8");
    define_both<int8_t>(module, "gather_int8");
    define_both<int16_t>(module, "gather_int16");
    define_both<uint16_t>(module, "gather_uint16");
    define_both<int32_t>(module, "gather_int32");
    define_both<int64_t>(module, "gather_int64");
}

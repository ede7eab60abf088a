// Resampling of bytes in fixed point for Python, on raw pointers.
#include "resample_fixed/resample_fixed.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "arguments.h"

namespace py = pybind11;

namespace {

using namespace learned_resizer;

using Strides = std::array<int64_t, 5>;

FixedStrides strides_of(const Strides& s) { return {s[0], s[1], s[2], s[3], s[4]}; }

void check_positive(const char* name, int64_t value) {
    if (value < 1)
        throw py::value_error(std::string(name) + ": got " + std::to_string(value) + "; expected at least 1");
}

void resample_fixed(const std::array<uintptr_t, 5>& tables, const std::array<int64_t, 3>& planes,
                    const std::array<int64_t, 2>& size, int32_t taps, int32_t strip_rows, uintptr_t image,
                    const Strides& image_stride, uintptr_t output, const Strides& output_stride, int device,
                    uintptr_t stream) {
    for (const uintptr_t table : tables) check_address("tables", table, 16);
    check_address("image", image, 1);
    check_address("output", output, 1);
    for (const int64_t count : planes) check_positive("planes", count);
    for (const int64_t length : size) check_positive("size", length);
    check_positive("taps", taps);
    if (strip_rows < 1 || strip_rows > kFixedMostRows)
        throw py::value_error("strip_rows: got " + std::to_string(strip_rows) + "; expected 1 to " +
                              std::to_string(kFixedMostRows));
    ResampleFixedParams params{};
    params.start = static_cast<const int32_t*>(address(tables[0]));
    params.weight = static_cast<const FourWeights*>(address(tables[1]));
    params.strip_begin = static_cast<const int32_t*>(address(tables[2]));
    params.group = static_cast<const RowGroup*>(address(tables[3]));
    params.row_weight = static_cast<const FourWeights*>(address(tables[4]));
    params.image = static_cast<const uint8_t*>(address(image));
    params.image_stride = strides_of(image_stride);
    params.output = static_cast<uint8_t*>(address(output));
    params.output_stride = strides_of(output_stride);
    params.planes = planes[0];
    params.planes_per_image = planes[1];
    params.channels = planes[2];
    params.out_height = size[0];
    params.out_width = size[1];
    params.taps = taps;
    params.strip_rows = strip_rows;
    check_launch("resample_fixed", launch_resample_fixed(params, device, address(stream)), device);
}

}  // namespace

void bind_resample_fixed(py::module_& module) {
    module.def("resample_fixed", &resample_fixed, py::arg("tables"), py::arg("planes"), py::arg("size"),
               py::arg("taps"), py::arg("strip_rows"), py::arg("image"), py::arg("image_stride"), py::arg("output"),
               py::arg("output_stride"), py::arg("device"), py::arg("stream"),
               "Launch on a stream of a device. tables: addresses of start, weight, strip_begin, group, row_weight; "
               "planes: planes, planes of an image, interleaved channels; size: output height and width; strides in "
               "elements: image, plane, channel, row, column.");
}

// Tables of plans for Python: device memory for them, and the launches that store them there.
#include "tables/tables.h"

#include <pybind11/pybind11.h>

#include <cuda_runtime_api.h>

#include <string>

#include "arguments.h"

namespace py = pybind11;

namespace {

using namespace learned_resizer;

void store(const py::buffer& source, uintptr_t target, int device, uintptr_t stream) {
    const py::buffer_info bytes = source.request();
    if (bytes.ndim != 1 || bytes.itemsize != 1 || bytes.strides[0] != 1)
        throw py::value_error("source: expected a contiguous vector of bytes");
    check_address("target", target, 16);
    check_launch("store_tables", store_tables(bytes.ptr, bytes.size, address(target), device, address(stream)), device);
}

uintptr_t allocate(int64_t bytes, int device) {
    void* memory = nullptr;
    const int error = allocate_tables(bytes, device, &memory);
    if (error == cudaErrorMemoryAllocation) return 0;
    if (error != 0)
        throw std::runtime_error("tables: allocating " + std::to_string(bytes) +
                                 " bytes on cuda:" + std::to_string(device) + " failed: " + cuda_error_name(error) +
                                 ": " + cuda_error_text(error));
    return reinterpret_cast<uintptr_t>(memory);
}

py::object identify(int device, uintptr_t stream) {
    bool captures = false;
    uint64_t identity = 0;
    const int error = identify_stream(device, address(stream), &captures, &identity);
    if (error != 0)
        throw std::runtime_error("tables: the current stream of cuda:" + std::to_string(device) +
                                 " cannot be used: " + cuda_error_name(error) + ": " + cuda_error_text(error));
    return captures ? py::object(py::none()) : py::object(py::int_(identity));
}

}  // namespace

void bind_tables(py::module_& module) {
    module.def("store_tables", &store, py::arg("source"), py::arg("target"), py::arg("device"), py::arg("stream"),
               "Write a buffer's bytes to device memory, as parameters of launches. Does not wait for the device.");
    module.def("allocate_tables", &allocate, py::arg("bytes"), py::arg("device"),
               "Device memory for the life of the process, outside of torch's pools; 0 if there is too little.");
    module.def("identify_stream", &identify, py::arg("device"), py::arg("stream"),
               "A number that no other stream has had or will have; None while the stream captures a CUDA graph.");
}

// The Python module _C: the launchers of csrc/core with raw pointers, and a record of how they were built.
// Includes no torch header, so that one build serves every torch version.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sstream>
#include <string>
#include <vector>

namespace py = pybind11;

void bind_conv(py::module_& module);
void bind_head(py::module_& module);
void bind_reduce(py::module_& module);
void bind_resample(py::module_& module);
void bind_resample_fixed(py::module_& module);
void bind_stem(py::module_& module);
void bind_tables(py::module_& module);
void bind_trunk(py::module_& module);

namespace {

std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> parts;
    std::istringstream stream(text);
    for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
    return parts;
}

// How this module was built. Reads constants only: makes no CUDA context and needs no driver.
py::dict build_record() {
    // The names that Python asks for, one line per op; a backward runs on its forward's kernels.
    py::dict ops;
    ops["resample"] = std::vector<std::string>{"float64", "float32", "float16", "bfloat16", "uint8"};
    ops["resample_batch"] = ops["resample"];
    ops["resample_fixed"] = std::vector<std::string>{"uint8"};
    ops["stem"] = std::vector<std::string>{"float32", "float16", "bfloat16"};
    ops["conv"] = ops["stem"];
    ops["head"] = ops["stem"];
    ops["trunk"] = std::vector<std::string>{"float16", "bfloat16"};

    py::dict record;
    record["version"] = LEARNED_RESIZER_VERSION;
    record["cuda"] = LEARNED_RESIZER_CUDA_VERSION;
    record["architectures"] = split(LEARNED_RESIZER_ARCHITECTURES);
    record["ptx"] = split(LEARNED_RESIZER_PTX);
    record["host_compiler"] = LEARNED_RESIZER_HOST_COMPILER;
    record["python"] = PY_VERSION;
    std::ostringstream pybind;
    pybind << PYBIND11_VERSION_MAJOR << '.' << PYBIND11_VERSION_MINOR;
    record["pybind11"] = pybind.str();
    record["ops"] = ops;
    return record;
}

// Newest CUDA version the installed driver serves, as 1000·major + 10·minor; 0 without a driver.
int driver_version() {
    int version = 0;
    // Fails only without a usable driver, which 0 already says.
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
    module.doc() = "Native kernels of learned_resizer_cuda. Internal: use the package's functions.";
    module.def("build_record", &build_record, "How this module was built, as a dict. Makes no CUDA context.");
    module.def("driver_version", &driver_version,
               "Newest CUDA version the driver serves, as 13000 for 13.0; 0 without a driver. Makes no CUDA context.");
    bind_conv(module);
    bind_head(module);
    bind_reduce(module);
    bind_resample(module);
    bind_resample_fixed(module);
    bind_stem(module);
    bind_tables(module);
    bind_trunk(module);
}

// The Python module _C: the launchers of csrc/core with raw pointers, and a record of how they were built.
// Includes no torch header, so that one build serves every torch version.
#include <cuda_runtime_api.h>

#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "registration.h"

void bind_conv(PyObject* module);
void bind_head(PyObject* module);
void bind_reduce(PyObject* module);
void bind_resample(PyObject* module);
void bind_resample_fixed(PyObject* module);
void bind_stem(PyObject* module);
void bind_tables(PyObject* module);
void bind_trunk(PyObject* module);

namespace {

using namespace learned_resizer;

std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> parts;
    std::istringstream stream(text);
    for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
    return parts;
}

// How this module was built. Reads constants only: makes no CUDA context and needs no driver.
Dict build_record() {
    // The names that Python asks for, one line per op; a backward runs on its forward's kernels.
    Dict ops;
    for (const char* op : {"resample", "resample_batch"}) ops.set(op, split("float64,float32,float16,bfloat16,uint8"));
    ops.set("resample_fixed", split("uint8"));
    for (const char* op : {"stem", "conv", "head"}) ops.set(op, split("float32,float16,bfloat16"));
    ops.set("trunk", split("float16,bfloat16"));

    Dict record;
    record.set("version", LEARNED_RESIZER_VERSION);
    record.set("cuda", LEARNED_RESIZER_CUDA_VERSION);
    record.set("architectures", split(LEARNED_RESIZER_ARCHITECTURES));
    record.set("ptx", split(LEARNED_RESIZER_PTX));
    record.set("host_compiler", LEARNED_RESIZER_HOST_COMPILER);
    record.set("python", PY_VERSION);
#ifdef Py_LIMITED_API
    // As in its name of a version: 0x030A0000 is 3.10.
    record.set("stable_abi", std::to_string(Py_LIMITED_API >> 24) + "." + std::to_string(Py_LIMITED_API >> 16 & 0xFF));
#else
    record.set("stable_abi", Object::borrowed(Py_None));
#endif
    record.set("ops", std::move(ops));
    return record;
}

// Newest CUDA version the installed driver serves, as 1000·major + 10·minor; 0 without a driver.
int driver_version() {
    int version = 0;
    // Fails only without a usable driver, which 0 already says.
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

int bind(PyObject* module) noexcept {
    try {
        add_function<&build_record>(module, "build_record", "",
                                    "How this module was built, as a dict. Makes no CUDA context.");
        add_function<&driver_version>(module, "driver_version", "",
                                      "Newest CUDA version the driver serves, as 13000 for 13.0; 0 without a driver. "
                                      "Makes no CUDA context.");
        bind_conv(module);
        bind_head(module);
        bind_reduce(module);
        bind_resample(module);
        bind_resample_fixed(module);
        bind_stem(module);
        bind_tables(module);
        bind_trunk(module);
        return 0;
    } catch (...) {
        raise();
        return -1;
    }
}

PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(&bind)}, {0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "_C",
                          "Native kernels of learned_resizer_cuda. Internal: use the package's functions.",
                          0,
                          nullptr,
                          slots,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModuleDef_Init(&definition); }

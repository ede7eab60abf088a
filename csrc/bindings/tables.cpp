// Tables of plans for Python: device memory for them, and the launches that store them there.
#include "tables/tables.h"

#include <cuda_runtime_api.h>

#include <optional>
#include <string>

#include "arguments.h"
#include "registration.h"

namespace {

using namespace learned_resizer;

[[noreturn]] void fail(const std::string& what, int device, const std::string& how, int error) {
    throw std::runtime_error("tables: " + what + " cuda:" + std::to_string(device) + how + cuda_error_name(error) +
                             ": " + cuda_error_text(error));
}

void store(Bytes source, Features target, int device, Stream stream) {
    const auto size = static_cast<int64_t>(source.data.size());
    check_launch("store_tables", store_tables(source.data.data(), size, target, device, stream), device);
}

uintptr_t allocate(int64_t bytes, int device) {
    void* memory = nullptr;
    const int error = allocate_tables(bytes, device, &memory);
    if (error == cudaErrorMemoryAllocation) return 0;
    if (error != 0) fail("allocating " + std::to_string(bytes) + " bytes on", device, " failed: ", error);
    return reinterpret_cast<uintptr_t>(memory);
}

std::optional<uint64_t> identify(int device, Stream stream) {
    bool captures = false;
    uint64_t identity = 0;
    const int error = identify_stream(device, stream, &captures, &identity);
    if (error != 0) fail("the current stream of", device, " cannot be used: ", error);
    return captures ? std::nullopt : std::optional(identity);
}

}  // namespace

void bind_tables(PyObject* module) {
    add_function<&store>(module, "store_tables", "source, target, device, stream",
                         "Write bytes to device memory, as parameters of launches. Does not wait for the device.");
    add_function<&allocate>(module, "allocate_tables", "bytes, device",
                            "Device memory for the life of the process, outside of torch's pools; 0 if there is too "
                            "little.");
    add_function<&identify>(module, "identify_stream", "device, stream",
                            "A number that no other stream has had or will have; None while the stream captures a CUDA "
                            "graph.");
}

// The part of the CUDA runtime that the launchers and bindings use, for machines without it.
#pragma once

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidDevice = 101 };

inline const char* cudaGetErrorName(cudaError_t error) {
    return error == cudaErrorInvalidValue    ? "cudaErrorInvalidValue"
           : error == cudaErrorInvalidDevice ? "cudaErrorInvalidDevice"
                                             : "cudaSuccess";
}
inline const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
inline cudaError_t cudaDriverGetVersion(int* version) {
    *version = 0;
    return cudaSuccess;
}

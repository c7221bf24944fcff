// pybind11, for the two files that define a Python module. torch 2.11's copy of pybind11 refuses to be included while
// TORCH_TARGET_VERSION is defined: its value is kept here first. These files must not include stable.h.
#pragma once

#define MLC_STRINGIZE_(...) #__VA_ARGS__
#define MLC_STRINGIZE(...) MLC_STRINGIZE_(__VA_ARGS__)

#ifndef MLC_EXT_VERSION
#error "the build must define MLC_EXT_VERSION"
#endif
#ifndef TORCH_TARGET_VERSION
#error "the build must define TORCH_TARGET_VERSION"
#endif

namespace mlc {
constexpr const char* kTorchTargetVersion = MLC_STRINGIZE(TORCH_TARGET_VERSION);
}
#undef TORCH_TARGET_VERSION

#include <pybind11/pybind11.h>

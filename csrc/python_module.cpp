// mlc_ext._C: importing it registers the operators that are linked into it; its attributes say how it was built.
#include "python_binding.h"

#include <torch/headeronly/version.h>

#ifndef MLC_EXT_FLAGS
#define MLC_EXT_FLAGS ""
#endif

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "CPU operators of mlc_ext; importing it registers torch.ops.mlc_ext.*";
  m.attr("version") = MLC_EXT_VERSION;
  m.attr("flags") = MLC_EXT_FLAGS;
  m.attr("torch_version") = TORCH_VERSION;
  m.attr("torch_target_version") = mlc::kTorchTargetVersion;
#if defined(__clang__)
  m.attr("compiler") = "clang " __clang_version__;
#elif defined(__GNUC__)
  m.attr("compiler") = "gcc " __VERSION__;
#else
  m.attr("compiler") = "unknown";
#endif
  m.attr("cxx_standard") = static_cast<long>(__cplusplus);
}

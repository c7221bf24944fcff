// Module init of mlc_ext._C_cuda. Importing it registers the CUDA kernels; the schemas are mlc_ext._C's.
#include "../python_binding.h"

#include <cuda.h>

#include "build_info.h"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "CUDA kernels of mlc_ext; import mlc_ext instead, which loads the schemas first";
  m.attr("version") = MLC_EXT_VERSION;
  m.attr("cuda_version") = CUDA_VERSION;  // of the toolkit it was built with: 1000 * major + 10 * minor
  m.attr("architectures") = mlc::cuda::architectures();
}

// What the CUDA module was built for.
#pragma once

namespace mlc::cuda {

// "750,800,900": the compute capabilities times ten.
const char* architectures();

}  // namespace mlc::cuda

#include "build_info.h"

#define MLC_STRINGIZE_(...) #__VA_ARGS__
#define MLC_STRINGIZE(...) MLC_STRINGIZE_(__VA_ARGS__)

namespace mlc::cuda {

const char* architectures() { return MLC_STRINGIZE(__CUDA_ARCH_LIST__); }

}  // namespace mlc::cuda

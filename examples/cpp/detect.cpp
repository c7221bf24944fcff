// Runs a file of `mlc-ext export --format aoti` on an image, without Python, and prints the objects that it finds:
//
//   detect model.aoti.pt2 photo.ppm [score threshold, default 0.3]
//
// The image is a binary PPM (P6), which Pillow writes:
//
//   ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB").save("photo.ppm")
//
// NMS in the file is the operator mlc_ext::batched_rescored_nms: this program is linked to libmlc_ext_ops.so, which
// registers it. A program that is not may load the library by dlopen before the file.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

using Metadata = std::unordered_map<std::string, std::string>;

// uint8 [3, H, W]
at::Tensor read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int64_t width = 0, height = 0, largest = 0;
  file >> magic >> width >> height >> largest;
  file.get();  // one character between the header and the pixels
  if (!file || magic != "P6" || largest != 255 || width < 1 || height < 1)
    throw std::runtime_error(path + ": not a binary PPM image with 8 bits per channel and without comments");
  at::Tensor pixels = at::empty({height, width, 3}, at::kByte);
  file.read(static_cast<char*>(pixels.mutable_data_ptr()), pixels.numel());
  if (file.gcount() != pixels.numel()) throw std::runtime_error(path + ": truncated");
  return pixels.permute({2, 0, 1}).contiguous();
}

const std::string& entry(const Metadata& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) throw std::runtime_error("the model has no metadata " + key);
  return found->second;
}

// The image with the sides that the network takes, as in Python (mlc_ext/detectors/data/transforms.py).
at::Tensor resize(const at::Tensor& image, const Metadata& metadata) {
  int shorter = 0, longer = 0;
  const std::string& sides = entry(metadata, "preprocessing");
  if (std::sscanf(sides.c_str(), "{\"short\": %d, \"long\": %d}", &shorter, &longer) != 2)
    throw std::runtime_error("metadata preprocessing: " + sides);
  const double height = image.size(1), width = image.size(2);
  const double scale = std::min(longer / std::max(height, width), shorter / std::min(height, width));
  const auto scaled = [scale](double side) { return std::max<int64_t>(1, static_cast<int64_t>(side * scale + 0.5)); };
  return at::_upsample_bilinear2d_aa(image.unsqueeze(0), {scaled(height), scaled(width)}, /*align_corners=*/false)[0];
}

// The texts of a JSON list; escapes other than \" and \\ stay as they are.
std::vector<std::string> json_texts(const std::string& list) {
  std::vector<std::string> texts;
  bool inside = false;
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i] == '"') {
      inside = !inside;
      if (inside) texts.emplace_back();
    } else if (inside) {
      if (list[i] == '\\' && (list[i + 1] == '"' || list[i + 1] == '\\')) ++i;
      texts.back() += list[i];
    }
  }
  return texts;
}

void detect(const std::string& model, const std::string& photo, double threshold) {
  torch::inductor::AOTIModelPackageLoader loader(model);
  const Metadata metadata = loader.get_metadata();
  const std::vector<std::string> classes = json_texts(entry(metadata, "classes"));

  const at::Tensor image = read_ppm(photo);
  const at::Tensor resized = resize(image, metadata);
  const std::vector<at::Tensor> outputs = loader.run({resized.unsqueeze(0)});  // a batch of one image
  const at::Tensor boxes = outputs[0][0], scores = outputs[1][0], labels = outputs[2][0];
  const auto count = outputs[3][0].item<int64_t>();

  // from pixels of the resized image to those of the photo
  const auto corners = boxes.accessor<float, 2>();
  const float x_scale = static_cast<float>(image.size(2)) / resized.size(2);
  const float y_scale = static_cast<float>(image.size(1)) / resized.size(1);
  for (int64_t i = 0; i < count; ++i) {
    const auto score = scores[i].item<float>();
    if (score <= threshold) break;  // best first
    std::printf("%-16s %.4f  %.2f %.2f %.2f %.2f\n", classes.at(labels[i].item<int64_t>() - 1).c_str(), score,
                corners[i][0] * x_scale, corners[i][1] * y_scale, corners[i][2] * x_scale, corners[i][3] * y_scale);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) {
    std::fprintf(stderr, "usage: %s model.aoti.pt2 photo.ppm [score threshold]\n", argv[0]);
    return 2;
  }
  try {
    const c10::InferenceMode guard;
    detect(argv[1], argv[2], argc == 4 ? std::atof(argv[3]) : 0.3);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
  return 0;
}

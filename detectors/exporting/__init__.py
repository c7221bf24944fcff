"""Detectors as files of other runtimes: ONNX, torch.export and AOTInductor."""

"""Backbones: ResNet, EfficientNet-Lite0 and timm's."""

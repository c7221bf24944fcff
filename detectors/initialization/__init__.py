"""A training that starts from a detector's weights (``model.init``): this project's, torchvision's or MMDetection's."""

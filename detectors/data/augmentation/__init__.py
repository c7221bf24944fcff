"""Random changes of training images beyond a resize and a flip."""

"""The published evaluation of test-time adaptation of CLIP, run over the published folders: ImageNet and its variants,
ImageNet-C, and the ten sets of the cross-domain comparison."""

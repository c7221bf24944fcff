"""Faster R-CNN whose RPN has mutual labeling and IoU rescoring; 8 of 12 epochs are the baseline's."""

_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"

custom_imports = dict(imports=["mlc_ext.integrations.mmdet"], allow_failed_imports=False)
custom_hooks = [dict(type="MLCEpochHook")]
model = dict(rpn_head=dict(type="MLCRPNHead", mlc=dict(start_epoch=7.6)))

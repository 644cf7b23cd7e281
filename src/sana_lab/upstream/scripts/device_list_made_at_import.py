from unittest import mock

from diffusers import DiffusionPipeline
from diffusers.pipelines import pipeline_utils

with mock.patch.object(pipeline_utils, "get_device", lambda: "xpu"):  # what there is now, not when it was imported
    print("the device is", pipeline_utils.get_device())
    DiffusionPipeline.from_pretrained("./no-such-folder", device_map="xpu")

"""Offloading, hooks, and the meta device."""

from __future__ import annotations

from ..entry import Family

FAMILY = Family(
    "offloading",
    "Offloading",
    "Offloading keeps modules on the CPU and brings each to the GPU when it is called. One method at a time, no map, "
    "no `.to()`.",
    section="device-map-offload",
)

entry = FAMILY.failure(
    id="offload-with-device-map",
    title="`enable_model_cpu_offload()` after `device_map`",
    error="ValueError",
    pattern=r"activated a device mapping strategy on the pipeline so calling enable_(?:model|sequential)_cpu_offload",
    messages={
        "diffusers 0.42.1": "ValueError: It seems like you have activated a device mapping strategy on the pipeline so "
        "calling `enable_model_cpu_offload() isn't allowed. You can call `reset_device_map()` first and then call "
        "`enable_model_cpu_offload()`.",
        "diffusers 0.42.1, sequential": "ValueError: It seems like you have activated a device mapping strategy on the "
        "pipeline so calling `enable_sequential_cpu_offload()` isn't allowed. You can call `reset_device_map()` first "
        "and then call `enable_sequential_cpu_offload()`.",
    },
    cause="Both hang accelerate's hooks on the components, and a component has room for one hook. A map is for models "
    "that fit on the GPUs together, offloading for those that do not.",
    affects={"diffusers": ">=0.28"},
    references=[
        "diffusers#7914",
        "diffusers#7919",
        "diffusers 0.42.1: pipelines/pipeline_utils.py, enable_model_cpu_offload",
    ],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16, device_map="balanced")
    pipe.enable_model_cpu_offload()


@entry.fix("Load without a map.")
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    pipe.enable_model_cpu_offload()
    pipe("a red star", **SMALL)


entry = FAMILY.failure(
    id="sequential-offload-then-to",
    title='`pipe.to("cuda")` after `enable_sequential_cpu_offload()`',
    error="ValueError",
    pattern=r"activated sequential model offloading by calling enable_sequential_cpu_offload",
    alike=["8bit-taken-for-sequential-offload"],
    messages={
        "diffusers 0.42.1": "ValueError: It seems like you have activated sequential model offloading by calling "
        "`enable_sequential_cpu_offload`, but are now attempting to move the pipeline to GPU. This is not compatible "
        "with offloading. Please, move your pipeline `.to('cpu')` or consider removing the move altogether if you use "
        "sequential offloading.",
    },
    cause="With sequential offloading the weights rest on the CPU and the module's own parameters are on the meta "
    "device, without data. There is nothing to move, and no need: the hooks bring each layer to the GPU.",
    references=["diffusers 0.42.1: pipelines/pipeline_utils.py, to"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    pipe.enable_sequential_cpu_offload()
    pipe.to("cuda")


@entry.fix("Leave out `.to()`. To end offloading, call `remove_all_hooks()` first.")
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    pipe.enable_sequential_cpu_offload()
    pipe("a red star", **SMALL)


entry = FAMILY.failure(
    id="model-offload-then-to",
    title='`pipe.to("cuda")` after `enable_model_cpu_offload()` undoes the saving',
    shows="warning",
    pattern=r"activated model offloading by calling enable_model_cpu_offload, but are now manually moving the pipeline",
    messages={
        "diffusers 0.42.1": "It seems like you have activated model offloading by calling `enable_model_cpu_offload`, "
        "but are now manually moving the pipeline to GPU. It is strongly recommended against doing so as memory gains "
        "from offloading are likely to be lost.",
    },
    cause="The move is carried out: all components are on the GPU together until the first call is over. It is a line "
    "in the log and no error, so the out-of-memory that follows looks unrelated.",
    references=["diffusers 0.42.1: pipelines/pipeline_utils.py, to"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    pipe.enable_model_cpu_offload()
    pipe.to("cuda")


@entry.fix("Leave out `.to()`: each component goes to the GPU for the moment in which it runs.")
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    pipe.enable_model_cpu_offload()
    pipe("a red star", **SMALL)


entry = FAMILY.failure(
    id="two-offload-methods",
    title="Group offloading on one component, model offloading on the pipeline",
    error="ValueError",
    pattern=r"apply model/sequential CPU offloading to a pipeline that contains components with group offloading",
    messages={
        "diffusers 0.42.1": "ValueError: You are trying to apply model/sequential CPU offloading to a pipeline that "
        "contains components with group offloading enabled. This is not supported. Please disable group offloading for "
        "components of the pipeline to use other offloading methods.",
    },
    cause="The two methods move the same weights by different hooks and do not know of each other.",
    affects={"diffusers": ">=0.33"},
    references=["diffusers 0.42.1: pipelines/pipeline_utils.py, _maybe_raise_error_if_group_offload_active"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    pipe.transformer.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level")
    pipe.enable_model_cpu_offload()


@entry.fix("One method for the whole pipeline.")
def _(FOLDER, SMALL):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level")
    pipe("a red star", **SMALL)


entry = FAMILY.failure(
    id="group-offload-then-to",
    title="`.to()` on a group-offloaded model does nothing",
    shows="warning",
    pattern=r"is group offloaded and moving it (?:to \S+ via|using) \.to\(\) is not supported",
    messages={
        "diffusers 0.42.1": "The module 'SanaTransformer2DModel' is group offloaded and moving it using `.to()` is not "
        "supported.",
        "diffusers 0.42.1, pipeline": "The module 'SanaTransformer2DModel' is group offloaded and moving it to cuda "
        "via `.to()` is not supported.",
    },
    cause="Group offloading decides where each layer is, and `.to()` on the model is ignored with a line in the log. "
    "Its `device` property answers with the GPU on which it computes, while the parameters rest on the CPU.",
    affects={"diffusers": ">=0.33"},
    references=["diffusers 0.42.1: models/modeling_utils.py, to"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(FOLDER, subfolder="transformer", dtype=torch.bfloat16)
    transformer.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level")
    transformer.to("cuda")


@entry.fix("Use one or the other: here there is room, so no offloading.")
def _(FOLDER):
    import torch
    from diffusers import SanaTransformer2DModel

    transformer = SanaTransformer2DModel.from_pretrained(FOLDER, subfolder="transformer", dtype=torch.bfloat16)
    transformer.to("cuda")


entry = FAMILY.failure(
    id="dispatched-model-then-to",
    section="device-map-conflict",
    title="`.to()` on a model that accelerate has spread over GPU and CPU",
    error="RuntimeError",
    pattern=r"You can't move a model that has some modules offloaded to cpu or disk",
    messages={
        "accelerate 1.15.0": "RuntimeError: You can't move a model that has some modules offloaded to cpu or disk.",
    },
    cause="What a model map puts on the CPU or the disk is held by hooks, and the module's own parameters are on the "
    "meta device. Moving the model would move the empty shells.",
    affects={"accelerate": ">=0.22"},
    references=["accelerate 1.15.0: big_modeling.py, dispatch_model"],
)


@entry.reproduce
def _():
    import torch
    from accelerate import dispatch_model

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model = dispatch_model(model, device_map={"0": 0, "1": "cpu"}, main_device=0)
    model.to("cuda")


@entry.fix("Call it where it is: the hooks move inputs and weights. To move it after all, take the hooks off first.")
def _():
    import torch
    from accelerate import dispatch_model
    from accelerate.hooks import remove_hook_from_submodules

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model = dispatch_model(model, device_map={"0": 0, "1": "cpu"}, main_device=0)
    model(torch.ones(1, 4))
    remove_hook_from_submodules(model)


entry = FAMILY.failure(
    id="move-with-hooks-warning",
    section="device-map-conflict",
    title="Moving a model spread over two GPUs: a warning now, a mismatch later",
    shows="warning",
    pattern=r"You shouldn't move a model (?:that is dispatched using accelerate hooks|when it is dispatched on "
    r"multiple)",
    gpus=2,
    messages={
        "jhc13/taggui#11": "You shouldn't move a model when it is dispatched on multiple devices.",
        "accelerate 1.15.0": "You shouldn't move a model that is dispatched using accelerate hooks.",
    },
    cause="The move is carried out and the hooks stay: they still send each layer's input to the GPU where the layer "
    "used to be, and the next call mixes devices.",
    affects={"accelerate": ">=0.22"},
    references=["accelerate 1.15.0: big_modeling.py, dispatch_model", "accelerate#2442"],
)


@entry.reproduce
def _():
    import torch
    from accelerate import dispatch_model

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model = dispatch_model(model, device_map={"0": 0, "1": 1})
    model.to("cuda:0")


@entry.fix("Take the hooks off, then move.")
def _():
    import torch
    from accelerate import dispatch_model
    from accelerate.hooks import remove_hook_from_submodules

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model = dispatch_model(model, device_map={"0": 0, "1": 1})
    remove_hook_from_submodules(model)
    torch.nn.Module.to(model, "cuda:0")
    model(torch.ones(1, 4, device="cuda:0"))


entry = FAMILY.failure(
    id="copy-out-of-meta-tensor",
    title="Moving a model whose weights are on the meta device",
    error="NotImplementedError",
    pattern=r"Cannot copy out of meta tensor; no data!",
    messages={
        "hiyouga/LlamaFactory#3062": "NotImplementedError: Cannot copy out of meta tensor; no data!",
        "torch 2.13.0": "NotImplementedError: Cannot copy out of meta tensor; no data! Please use "
        "torch.nn.Module.to_empty() instead of torch.nn.Module.to() when moving module from meta to a different "
        "device.",
    },
    cause="A parameter on the meta device has a shape and no data: either an offloading hook keeps the data elsewhere, "
    "or the model was built empty and never loaded. `to_empty()`, which the message suggests, would give it random "
    "bytes.",
    references=["accelerate#2129", "pytorch 2.13.0: torch/nn/modules/module.py, to"],
)


@entry.reproduce
def _():
    import torch
    from accelerate import cpu_offload

    layer = cpu_offload(torch.nn.Linear(4, 4), execution_device="cuda")
    layer.to("cuda")


@entry.fix("Take the hook off: it puts the data back. A model that was built empty must be loaded again.")
def _():
    import torch
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_submodules

    layer = cpu_offload(torch.nn.Linear(4, 4), execution_device="cuda")
    remove_hook_from_submodules(layer)
    layer.to("cuda")


entry = FAMILY.failure(
    id="loading-in-threads-leaves-meta",
    title="After loading in several threads every new module is on the meta device",
    shows="output",
    pattern=r"a new layer is on meta",
    gpus=0,
    messages={"accelerate 1.15.0": "a new layer is on meta"},
    cause="While a model loads, accelerate's `init_empty_weights` replaces `nn.Module.register_parameter` for the "
    "whole process and puts back what it found. The second thread finds the first one's replacement, and the last to "
    "leave puts that back for good. What fails is the next `.to()`, with `Cannot copy out of meta tensor`.",
    references=[
        "accelerate 1.15.0: big_modeling.py, init_on_device",
        "diffusers#4296",
        "transformers#41782",
        "huggingface/peft#3605",
    ],
)


@entry.reproduce
def _():
    import threading

    import torch
    from accelerate import init_empty_weights

    second_is_in, first_is_out = threading.Event(), threading.Event()

    def first():
        with init_empty_weights():  # what `from_pretrained` does while it makes the model
            thread.start()
            second_is_in.wait()
        first_is_out.set()

    def second():
        with init_empty_weights():
            second_is_in.set()
            first_is_out.wait()

    thread = threading.Thread(target=second)
    first()
    thread.join()
    print("a new layer is on", torch.nn.Linear(2, 2).weight.device)


@entry.fix("Load one at a time: a lock around `from_pretrained`. A process that is spoiled already must be restarted.")
def _(FOLDER):
    import threading

    import torch
    from diffusers import SanaTransformer2DModel

    loading = threading.Lock()

    def load():
        with loading:
            SanaTransformer2DModel.from_pretrained(FOLDER, subfolder="transformer", dtype=torch.bfloat16)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("a new layer is on", torch.nn.Linear(2, 2).weight.device)


entry = FAMILY.failure(
    id="offload-without-gpu",
    title="`enable_model_cpu_offload()` on a machine without a GPU",
    error="RuntimeError",
    pattern=r"enable_(?:model|sequential)_cpu_offload requires accelerator, but not found",
    gpus=0,
    messages={"diffusers 0.42.1": "RuntimeError: `enable_model_cpu_offload` requires accelerator, but not found"},
    cause="Offloading moves modules to an accelerator and back, so there must be one. diffusers asks PyTorch, which "
    "finds none: no GPU, a CPU-only build of PyTorch, or a driver that does not answer.",
    affects={"diffusers": ">=0.34"},
    references=["diffusers 0.42.1: pipelines/pipeline_utils.py, enable_model_cpu_offload"],
)


@entry.reproduce
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    pipe.enable_model_cpu_offload()


@entry.fix("Offload only where there is a GPU; on the CPU all is in its memory anyway.")
def _(FOLDER):
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, dtype=torch.bfloat16)
    if torch.cuda.is_available():
        pipe.enable_model_cpu_offload()


# ---- other versions ---------------------------------------------------------------------------------------------

entry = FAMILY.failure(
    id="8bit-taken-for-sequential-offload",
    title="The error speaks of sequential offloading that nobody asked for",
    error="ValueError",
    pattern=r"activated sequential model offloading by calling enable_sequential_cpu_offload",
    alike=["sequential-offload-then-to"],
    messages={
        "diffusers 0.31.0": "ValueError: It seems like you have activated sequential model offloading by calling "
        "`enable_sequential_cpu_offload`, but are now attempting to move the pipeline to GPU. This is not compatible "
        "with offloading. Please, move your pipeline `.to('cpu')` or consider removing the move altogether if you use "
        "sequential offloading.",
    },
    cause="accelerate hung a hook on every 8-bit model, of the same class that sequential offloading uses, and the "
    "pipeline took one for the other.",
    affects={"diffusers": ">=0.31, <0.32"},
    references=["diffusers#9840", "diffusers#9953", "diffusers 0.31.0: pipelines/pipeline_utils.py, to"],
    evidence="source",
)
entry.fix("Upgrade.", command="pip install -U 'diffusers>=0.32'")

entry = FAMILY.failure(
    id="8bit-pipeline-to-needs-accelerate-1-1",
    title='`pipe.to("cuda")` with 8-bit models asks for a newer accelerate',
    error="ValueError",
    pattern=r"pipeline that has models quantized with bitsandbytes\. Your current accelerate installation does not "
    r"support",
    messages={
        "diffusers 0.37.1": "ValueError: You are trying to call `.to('cuda')` on a pipeline that has models quantized "
        "with `bitsandbytes`. Your current `accelerate` installation does not support it. Please upgrade the "
        "installation.",
    },
    cause="Before 1.1 accelerate could not move a pipeline around its 8-bit models; diffusers looks at the version.",
    affects={"diffusers": ">=0.32", "accelerate": "<1.1"},
    references=["accelerate#3223", "diffusers 0.42.1: pipelines/pipeline_utils.py, to"],
    evidence="source",
)
entry.fix("Upgrade accelerate.", command="pip install -U 'accelerate>=1.1'")

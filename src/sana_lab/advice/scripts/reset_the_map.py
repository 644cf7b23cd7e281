import torch

from sana_lab.advice.recipe import SMALL, attempt, places, recipe

pipe = recipe(device_map="balanced")
before = places(pipe)
pipe.reset_device_map()
print("map:", pipe.hf_device_map)
print("weights:", places(pipe))
print(f"still on the GPU: {torch.cuda.memory_allocated() / 2**20:.1f} MiB")
print("a call:", attempt(pipe, "a small red star", **SMALL) or "draws")
holds = places(pipe) == before

import torch

from sana_lab.advice.recipe import attempt, recipe

pipe = recipe(device_map="balanced")
raised = attempt(pipe.text_encoder.to, torch.bfloat16)
print(raised or "cast")
holds = not raised

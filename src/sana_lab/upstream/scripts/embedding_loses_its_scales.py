import bitsandbytes
import torch

embedding = torch.nn.Sequential(bitsandbytes.nn.Embedding8bit(16, 8)).to("cuda")
embedding(torch.tensor([3], device="cuda"))
embedding.to("cpu")
weight = embedding[0].weight
print(f"codes on {weight.device}, scales on {weight.SCB.device}")
embedding(torch.tensor([3]))

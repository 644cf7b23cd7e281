import tempfile
from unittest import mock

import torch
import transformers

config = transformers.BertConfig(
    vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
)
with tempfile.TemporaryDirectory() as folder:
    transformers.BertModel(config).save_pretrained(folder)
    with mock.patch("torch.cuda.mem_get_info", return_value=(2**30, 2**30)):  # what a card of 1 GiB answers
        print("the card has", torch.cuda.mem_get_info()[1] / 2**30, "GiB")
        model = transformers.BertModel.from_pretrained(folder, device_map="cuda")
print("loaded on", model.device)

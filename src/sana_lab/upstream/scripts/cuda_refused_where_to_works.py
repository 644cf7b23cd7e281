import tempfile

import torch
import transformers

config = transformers.BertConfig(
    vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
)
with tempfile.TemporaryDirectory() as folder:
    transformers.BertModel(config).save_pretrained(folder)
    model = transformers.BertModel.from_pretrained(
        folder, quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
    )
print('.to("cuda") gives a model on', model.to("cuda").device)
model.cuda()

import torch
from transformers import AutoModel, AutoTokenizer, BitsAndBytesConfig

from sana_lab.advice.recipe import FOLDER

tokens = AutoTokenizer.from_pretrained(FOLDER, subfolder="tokenizer")(
    "a small red star", return_tensors="pt"
)
finite = {}
for dtype in (torch.bfloat16, torch.float16):
    encoder = AutoModel.from_pretrained(
        FOLDER,
        subfolder="text_encoder",
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        dtype=dtype,
    )
    # give one channel the size that large language models have in some
    encoder.layers[0].post_feedforward_layernorm.weight.data[7] = 60_000
    with torch.no_grad():
        hidden = encoder(
            **tokens.to("cuda"), output_hidden_states=True
        ).hidden_states[1]
    finite[dtype] = bool(hidden.isfinite().all())
    print(
        f"{dtype!s:15} largest {hidden.abs().max().item():.3g}, all finite: {finite[dtype]}"
    )
holds = finite[torch.float16]

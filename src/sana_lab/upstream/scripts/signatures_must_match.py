from diffusers import PipelineQuantizationConfig

print("one backend, one set of arguments, for the models of two libraries")
PipelineQuantizationConfig(quant_backend="torchao", quant_kwargs={"quant_type": "int8wo"})

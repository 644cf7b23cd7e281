"""Ways to load a Sana, and ways to run what was loaded. Imports no torch.

Chapters 7 to 9.
"""

from __future__ import annotations

from dataclasses import dataclass

LIMIT = 300
"""Seconds that measuring one method may take, unless told otherwise."""


@dataclass(frozen=True)
class Method:
    """How a pipeline is loaded, and which ways of running it are timed.

    Args:
        title: for tables and figures.
        precision: what `load_sana` takes; `"16-bit"` is the type that the checkpoint was trained in.
        slim: quantize also what the recipe leaves.
        threshold: outlier threshold of LLM.int8(), for int8.
        activations: bits of what is multiplied with the codes in the fused way, for int8 and fp8.
        torchao: quantize the transformer's blocks by torchao, in place of bitsandbytes: a key of `TORCHAO`.
        offload: keep each component on the CPU until it is needed (`enable_model_cpu_offload`).
        ways: keys of `WAYS`, in the order of timing; each is applied to what the one before has left.
    """

    title: str
    precision: str = "int8"
    slim: bool = False
    threshold: float = 6.0
    activations: int = 8
    torchao: str = ""
    offload: bool = False
    ways: tuple[str, ...] = ("eager",)


WAYS = {
    "eager": "as loaded",
    "compiled-eager": "the transformer's blocks compiled, and launched one by one",
    "graph": "keys and values of the prompt once; prompt, step and decoding each recorded as one CUDA graph",
    "compiled": "the transformer's blocks compiled, then as graph",
    "fused": "8-bit layers, attentions and feed-forward rewritten, then as compiled",
    "tuned": "as fused, and the compiler chooses between kernels and tiles by trying them",
}

TUNED = {"tuned": {"max_autotune": True}}
"""`options` of `torch.compile` in the ways that have some: it tries several tiles for 16 bits, as we do for ours.

The mode `max-autotune-no-cudagraphs` also walks from the best tile to its neighbors, kernel by kernel
(`coordinate_descent_tuning`; torch 2.11, _inductor/__init__.py): the first picture of the 1.6B had not come after four
minutes on 16 cores.
"""

TORCHAO = {
    "int8": "Int8DynamicActivationInt8WeightConfig",
    "int8-weights": "Int8WeightOnlyConfig",
    "float8": "Float8DynamicActivationFloat8WeightConfig",
}
"""Its configurations by their names in `torchao.quantization` (0.18.0); float8 with a scale a row."""

METHODS = {
    "16-bit": Method("16-bit", "16-bit", ways=("eager", "graph", "compiled")),
    "16-bit-fused": Method("16-bit, rewritten", "16-bit", ways=("fused",)),
    "16-bit-offload": Method("16-bit, offloaded", "16-bit", offload=True),
    "int8": Method("8-bit, the recipe", ways=("eager", "compiled-eager", "graph")),
    "int8-t0": Method("8-bit, threshold 0", threshold=0.0, ways=("eager", "graph", "compiled")),
    "int8-slim": Method("8-bit, slim", slim=True),
    "int8-fast": Method("8-bit, slim and fused", slim=True, ways=("fused",)),
    "int8-weights": Method("8-bit weights, 16-bit arithmetic", slim=True, activations=16, ways=("fused",)),
    "fp8": Method("FP8, slim and fused", "fp8", slim=True, ways=("fused",)),
    "fp8-weights": Method("FP8 weights, 16-bit arithmetic", "fp8", slim=True, activations=16, ways=("fused",)),
    "nf4": Method("nf4", "nf4", ways=("eager", "compiled")),
    "nf4-slim": Method("nf4, slim", "nf4", slim=True, ways=("eager", "compiled")),
    "torchao": Method("torchao int8", "16-bit", torchao="int8", ways=("compiled",)),
    "torchao-weights": Method("torchao int8, weights alone", "16-bit", torchao="int8-weights", ways=("compiled",)),
    "torchao-float8": Method("torchao float8", "16-bit", torchao="float8", ways=("compiled",)),
    "16-bit-tuned": Method("16-bit, rewritten, autotuned", "16-bit", ways=("tuned",)),
    "fp8-tuned": Method("FP8, slim and fused, autotuned", "fp8", slim=True, ways=("tuned",)),
}
"""Every method by its name."""


def find(name: str) -> Method:
    """The method of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in METHODS:
        raise ValueError(f"method {name!r} is unknown: choose from {', '.join(METHODS)}.")
    return METHODS[name]

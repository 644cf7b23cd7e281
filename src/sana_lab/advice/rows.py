"""The advice, piece by piece, in the order of the page. Sources were read at the commits named. Imports no torch."""

from __future__ import annotations

from .entry import Advice, Once, Source

_DIFFUSERS = "58eb52c0803ea9af3abec60841c2a093bdf1f951"  # main on 2026-08-23


def _diffusers(path: str, place: str) -> Source:
    return Source("huggingface/diffusers", _DIFFUSERS, f"docs/source/en/{path}", place)


_SANA_PAGE = "api/pipelines/sana.md"
_BITS_PAGE = "quantization/bitsandbytes.md"
_OVERVIEW = "quantization/overview.md"
_MEMORY = "optimization/memory.md"
_EIGHT_BIT = Source(
    "NVlabs/Sana", "4b44712d4683fbd2705a1a6b15993d441b645e1a", "docs/8bit_sana/index.html", "the program"
)
_FOUR_BIT = Source(
    "NVlabs/Sana", "2f7d39cf8466e04f48bae9b0233a5efe984458e6", "docs/4bit_sana/index.html", "the program"
)
_INSTALL = "NVlabs/Sana", "d911d7b8e59d27efeec8c9829fc4eee880979ea6", "docs/installation.md"
_IMAGES = Source("NVlabs/Sana", "3b5c0bef0dfb032d3cce3f7f7238034e355215ce", "docs/sana.md", "Using Diffusers")

GROUPS: dict[str, tuple[Advice, ...]] = {
    "What eight bits buy": (
        Advice(
            "halves-the-memory",
            "Eight bits halve the memory, or reduce it greatly",
            (_diffusers(_BITS_PAGE, "8-bit"),),
            "corrected",
            "Of the released pipelines {best} to {worst} % are left. bitsandbytes replaces `nn.Linear` alone; Sana's "
            "convolutions, the embedding and the autoencoder stay in 16 bits. `load_sana(…, slim=True)` reaches "
            "more.",
            "Precision by precision",
            article=True,
        ),
        Advice(
            "compute-cost",
            "Eight bits also reduce the cost of computing",
            (_diffusers(_OVERVIEW, "Getting started"),),
            "corrected",
            "As published, a step of the smallest Sana takes {slower} times as long as in 16 bits, for every layer "
            "searches its input for outliers. In its best way it takes {best} times the best 16-bit step.",
            "Why is the recipe slow?",
            check="record",
            article=True,
        ),
        Advice(
            "from-float32",
            "Eight-bit quantization turns 32-bit floating point numbers into 8-bit integers",
            (_diffusers(_OVERVIEW, "Getting started"),),
            "corrected",
            "bitsandbytes rounds a weight to float16 first, then to 8 bits, whatever the file holds. And what you "
            "would run otherwise has 16 bits, so that is what savings are counted from.",
            "Against the real thing",
            article=True,
        ),
        Advice(
            "four-bits-a-quarter",
            "Four bits reduce the memory by a factor of four",
            (_diffusers(_BITS_PAGE, "4-bit"),),
            "corrected",
            "For the same reason as above, {best} to {worst} % of the pipeline are left in NF4.",
            "Precision by precision",
        ),
        Advice(
            "outliers-apart",
            "Multiplying outliers in 16 bits keeps what eight bits would lose",
            (_diffusers(_BITS_PAGE, "first paragraph"),),
            "confirmed",
            "With outliers planted in the text encoder, {full} of {n} scenes are right in 16 bits, {split} with the "
            "split and {plain} without it. (Whether a released Sana has such outliers, no record here says.)",
            "Does it matter for pictures?",
            check="record",
        ),
        Advice(
            "transformer-first",
            "Quantize what computes most, the transformer; the text encoder is a second thought",
            (_diffusers(_OVERVIEW, "Basic quantization"),),
            "corrected",
            "For memory it is the other way round in {larger} of {all} sizes: the text encoder is the larger part, "
            "and nearly all that eight bits can reach of it are linear layers. If you quantize one part only, take "
            "it.",
            "Which part first?",
        ),
        Advice(
            "card-sizes",
            "In 16 bits the 0.6B model needs a card of 9 GB, the 1.6B model one of 12 GB",
            (Source(*_INSTALL, "Hardware Requirements"),),
            "confirmed",
            "At {pixels} pixels the measured peaks of one picture are {small} and {large} GB. On a card, the desktop "
            "and CUDA itself come on top.",
            "When eight bits are the wrong choice",
            check="record",
        ),
        Advice(
            "nunchaku",
            "Use the 4-bit Sana (SVDQuant, with nunchaku's kernels); it needs less than 8 GB",
            (_FOUR_BIT, Source(*_INSTALL, "Hardware Requirements"), _diffusers("quantization/nunchaku.md", "hardware")),
            "not checked",
            "Another method than bitsandbytes' 4 bits, with kernels of its own that do not run on the GPUs of our "
            "records, and weights that are not here.",
            "Four bits on both sides",
            check="",
        ),
    ),
    "Loading": (
        Advice(
            "own-config-class",
            "A model takes the `BitsAndBytesConfig` of its own library",
            (_diffusers(_OVERVIEW, "Advanced quantization"), _EIGHT_BIT),
            "confirmed",
            "transformers refuses diffusers' class. The other way round nothing raises, which is no reason to do it.",
            "Two configuration classes",
            article=True,
        ),
        Advice(
            "two-auto-models",
            "`AutoModel` finds the class: transformers' for the text encoder, diffusers' for the transformer",
            (_diffusers(_BITS_PAGE, "8-bit"), _EIGHT_BIT),
            "confirmed",
            "Both find Sana's. transformers' does not know the transformer; and `AutoModelForCausalLM` finds another "
            "class than the one that Sana wants.",
            "`AutoModel`, not `AutoModelForCausalLM`",
            article=True,
        ),
        Advice(
            "all-in-float16",
            "Load text encoder, transformer and pipeline in float16",
            (_EIGHT_BIT, _diffusers(_SANA_PAGE, "Quantization")),
            "corrected",
            "The same pages say that text encoder and autoencoder must stay in bfloat16 or float32. A number that "
            "one 16-bit type holds is infinite in the other, also in an 8-bit model, where norms and sums stay in 16 "
            "bits. Write `bfloat16` for these two. (Here the number is planted; Gemma's weights are not at hand.)",
            "`dtype`",
            article=True,
        ),
        Advice(
            "cast-afterwards",
            "After loading, `pipe.text_encoder.to(torch.bfloat16)`",
            (_IMAGES, _FOUR_BIT),
            "corrected",
            "Good for 16-bit models. An 8-bit model refuses every cast, also to the type it has. Give `dtype` when "
            "loading.",
            "device-map-moving",
        ),
        Advice(
            "variant-fp16",
            '`variant="fp16"` downloads half as much',
            (_diffusers(_SANA_PAGE, "the tip above Quantization"),),
            "confirmed",
            "If the repository has such files; where it has none, as those of SANA-1.5 and SANA-Sprint, the argument "
            "is an error. It is a part of file names and no type: give `dtype` besides.",
            "failure-variant-files-missing",
        ),
        Advice(
            "torch-dtype-spelling",
            "The argument for the type is `torch_dtype`",
            (_EIGHT_BIT, _IMAGES),
            "outdated",
            "It still works, with a warning that it will go. Write `dtype`. Up to the stack of {last} a pipeline "
            "ignored that word and loaded float32.",
            "version-silent",
            once=Once("pipeline-torch-dtype", "2025-07"),
        ),
        Advice(
            "skip-proj-out",
            '`llm_int8_skip_modules=["proj_out"]` leaves a delicate layer in 16 bits',
            (_diffusers(_BITS_PAGE, "Skip module conversion"),),
            "confirmed",
            "It does. Read the types of the layers afterwards, as this check does: a name that matches nothing is no "
            "error. Whether this layer wants it is another question; {{ref}}`chapter-still-draws` tries every layer "
            "of Shapes.",
            "Leaving layers out",
        ),
        Advice(
            "threshold-of-six",
            "A threshold of six is a good default for outliers",
            (_diffusers(_BITS_PAGE, "Outlier threshold"),),
            "confirmed",
            "Every threshold in the gap between ordinary numbers and outliers keeps as much: {six} dB at six, {off} "
            "without the split. Searching for the best one gains nothing there.",
            "Where to put the threshold",
        ),
    ),
    "Where things are": (
        Advice(
            "balanced-and-nothing-else",
            '`device_map="balanced"` puts an 8-bit pipeline in one place; no `.to()`',
            (_diffusers(_SANA_PAGE, "Quantization"),),
            "confirmed",
            'On one GPU. `device_map="cuda"` does the same without hooks. What it cures is the autoencoder, which '
            "loading leaves on the CPU while the 8-bit parts go to the GPU by themselves.",
            "two-devices-fixes",
            article=True,
        ),
        Advice(
            "to-after-map",
            'After `device_map="balanced"`, `pipeline.to(device)`',
            (_EIGHT_BIT,),
            "corrected",
            "It raises, and in the same words on {stacks} stacks of versions: a pipeline whose map has more than one "
            "entry refuses to be moved. Delete the line, for everything is on the GPU already.",
            "device-map-conflict",
        ),
        Advice(
            "map-auto",
            '`device_map="auto"` for the pipeline',
            (_diffusers(_BITS_PAGE, "8-bit"),),
            "corrected",
            'That word is for a model. A pipeline takes `"balanced"`, `"cuda"` or `"cpu"`.',
            "device-map-what",
        ),
        Advice(
            "map-only-balanced",
            '`"balanced"` is the only map that a pipeline takes',
            (_diffusers(_MEMORY, "Device placement, the warning"),),
            "outdated",
            'Write `device_map="cuda"` where all fits on one GPU: it leaves no hooks, and the pipeline can be moved.',
            "two-devices-fixes",
            once=Once("map-cuda", "2025-04"),
        ),
        Advice(
            "reset-the-map",
            "`reset_device_map()` takes the map away, and then `.to()` works",
            (_diffusers(_MEMORY, "Device placement"),),
            "corrected",
            "It moves everything to the CPU, and not even all of it: codes stay on the GPU, and a call in between "
            'fails. Follow it with `.to("cuda")` at once, or better load without a map. On older stacks it stops '
            "half-way.",
            "device-map-reset",
            article=True,
        ),
        Advice(
            "cannot-be-moved",
            "An 8-bit model cannot be moved",
            (
                Source(
                    "huggingface/diffusers",
                    "9380e58821092ad05e618fa8a259030136ba43c0",
                    "src/diffusers/models/modeling_utils.py",
                    "what `.to` raises",
                ),
            ),
            "outdated",
            "Today's libraries allow it. They move half of a layer, though, and to a second GPU it ends in an "
            "illegal memory access.",
            "device-map-moving",
            article=True,
            once=Once("move-encoder", "2025-12"),
        ),
        Advice(
            "read-the-map",
            "`hf_device_map` shows where the components are",
            (_diffusers(_MEMORY, "Device placement"),),
            "corrected",
            "It shows the plan. Parts that you passed in stay where they were, and the plan does not say so. Ask the "
            "tensors, or `placement(pipe)`.",
            "device-map-passed",
            gpus=2,
        ),
        Advice(
            "one-strategy",
            "Choose one way to place a pipeline and do not mix them",
            (_diffusers(_MEMORY, "Device placement"),),
            "confirmed",
            "Mixtures are refused, most of them: model offload followed by `.to()` only warns, and loses what it "
            "saved.",
            "device-map-offload",
            article=True,
        ),
        Advice(
            "offload-8-bits",
            "Move the 8-bit pipeline to the GPU and apply `enable_model_cpu_offload()` to save memory",
            (_diffusers(_BITS_PAGE, "8-bit"),),
            "corrected",
            "Codes never leave the GPU, so little is saved. On a real one the smallest Sana needs {eight} GiB that "
            "way, {kept} with all of it on the GPU, and {sixteen} offloaded in 16 bits.",
            "two-devices-small",
        ),
    ),
    "Running": (
        Advice(
            "sprint-recipe",
            "The same 8-bit recipe for SANA-Sprint",
            (_diffusers("api/pipelines/sana_sprint.md", "Quantization"),),
            "corrected",
            "Without guidance the transformer gets one picture at a time, and then an 8-bit layer reads a transposed "
            "input as it lies in memory: an error of {wrong} times the output, without a word. Call "
            "`contiguous_inputs_(pipe.transformer)` after loading, also for Sana with `guidance_scale=1`.",
            "transposed-input",
        ),
        Advice(
            "tiled-decoding",
            "Tiling lowers the peak of the autoencoder",
            (_diffusers(_MEMORY, "VAE tiling"),),
            "confirmed",
            "Tiles of half a side leave {left} % of what decoding needs. Without numbers, `enable_tiling()` does "
            "nothing up to {least} pixels..",
            "failure-decode-out-of-memory-unbound-image",
        ),
        Advice(
            "compile-8-bits",
            "Compile the 8-bit transformer with `torch.compile(fullgraph=True)`",
            (_diffusers(_BITS_PAGE, "torch.compile"),),
            "not checked",
            "Our records compile bitsandbytes' layers with threshold zero, where it helps, and not with the search "
            "for outliers; and the virtual GPU cannot compile.",
            "The published recipe, compiled",
            check="",
        ),
        Advice(
            "footprint",
            "`get_memory_footprint()` tells what the weights take",
            (_diffusers(_BITS_PAGE, "below the 4-bit program"),),
            "confirmed",
            "To within the scales, which it forgets. It says nothing of where they are: after a move to the CPU "
            "{stayed} % are still on the GPU. To watch the memory, read `torch.cuda.max_memory_allocated()`.",
            "Predict, then check",
            article=True,
        ),
        Advice(
            "error-handling",
            "Good error handling catches the trouble",
            (),
            "corrected",
            "It catches exceptions. Of the {all} failures in this book's index {silent} raise nothing and {log} "
            "leave a line in the log at most. `checked(pipe)` before the first call finds those that concern places "
            "and types.",
            "two-devices-guard",
            check="record",
            article=True,
        ),
    ),
    "Versions": (
        Advice(
            "newest-together",
            "Install the newest versions, all libraries in one command",
            (_diffusers(_BITS_PAGE, "installation"),),
            "confirmed",
            "Of {stacks} stacks, each of one day, none fails at fewer probes. One command is the point: of {alone} "
            "stacks in which some libraries were changed by themselves, {refused} cannot load the recipe.",
            "version-half-upgraded",
            check="record",
            article=True,
        ),
        Advice(
            "install-from-git",
            "`pip install git+https://github.com/huggingface/diffusers`",
            (Source(*_INSTALL, "Diffusers Installation"), _IMAGES),
            "corrected",
            "The release has Sana, and so has the oldest of our stacks ({oldest}). The branch calls itself less than "
            "the release it will be, so a condition on a version may not see the repair that you came for. If you "
            "need one, name a commit.",
            "version-pin-upgrade",
            article=True,
        ),
        Advice(
            "cuda-version",
            "PyTorch for CUDA 12.4 or newer",
            (Source(*_INSTALL, "Requirements"),),
            "not checked",
            "Our stacks of versions were measured on the virtual GPU, which has no CUDA, and the records of real "
            "ones come from the few machines that we had.",
            "version-matrix-reading",
            check="",
        ),
    ),
}
"""Heading on the page -> what stands under it."""

ADVICE = tuple(advice for group in GROUPS.values() for advice in group)


def find(id: str) -> Advice:
    """The piece of advice with this id.

    Raises:
        ValueError: there is none.
    """
    for advice in ADVICE:
        if advice.id == id:
            return advice
    raise ValueError(f"no advice {id!r}: choose from {', '.join(advice.id for advice in ADVICE)}.")

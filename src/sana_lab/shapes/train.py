"""Trains the Shapes model from nothing: first the autoencoder, then the transformer together with the text encoder.

    sana-lab train --out runs/shapes                       # one GPU, or a CPU for a few steps
    torchrun --nproc-per-node 4 -m sana_lab.shapes.train --out runs/shapes

A stopped run goes on where its last checkpoint stands; `--minutes` stops it by itself. `MODEL_CARD.md` has the
command and hardware of the run that made the weights in this package, its page in the book the curves.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from ..commandline import run_command
from ..evidence import journal
from .cli import command
from .model import assemble, build_autoencoder, build_text_encoder, build_tokenizer, build_transformer
from .plan import Plan
from .rendering import JITTER, encode_scenes, render_codes
from .scenes import Scene, paraphrase, pool
from .tokenizer import instruction


class Fleet:
    """The processes of one run: device, rank, averaging of gradients, end of time. One process without torchrun."""

    def __init__(self, device: str | None = None, minutes: float = math.inf):
        """Join the process group that torchrun announces, if any; stop `minutes` minutes from now.

        Raises:
            ValueError: `device` is "cuda", and there is no GPU.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device cuda: PyTorch sees no GPU on this machine; give cpu, or leave it out")
        self.end = time.monotonic() + 60 * minutes
        self.world, self.rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        local = int(os.environ.get("LOCAL_RANK", 0))
        self.device = torch.device(kind, local) if kind == "cuda" else torch.device(kind)
        if kind == "cuda":
            torch.cuda.set_device(self.device)
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if kind == "cuda" else "gloo")

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replace each gradient by its mean over all processes, in one message."""
        if self.world == 1:
            return
        flat = torch.cat([p.grad.reshape(-1) for p in parameters])
        dist.all_reduce(flat)
        flat /= self.world
        for p, g in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad.copy_(g.view_as(p))

    def out_of_time(self, step: int) -> bool:
        """Whether to stop before this step: asked every ten steps, and the first process answers for all."""
        if step % 10 or self.end == math.inf:
            return False
        late = torch.tensor(time.monotonic() > self.end, dtype=torch.uint8, device=self.device)
        if self.world > 1:
            dist.broadcast(late, 0)
        return bool(late)

    def autocast(self) -> torch.autocast:
        """The bfloat16 autocast of a GPU; a CPU computes in float32, since many are far slower in bfloat16."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")


def learning_rate(step: int, steps: int, peak: float, warmup: int = 300) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the peak."""
    wave = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))
    return peak * min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * wave)


def save(path: Path, **state: object) -> None:
    """Write a checkpoint so that a stop in the middle of writing leaves the old one whole."""
    with journal.replacing(path) as partial:
        torch.save(state, partial)


def load(path: Path, device: torch.device, *names: str) -> dict[str, Any]:
    """Read a checkpoint that `save` wrote.

    Raises:
        ValueError: it is damaged, or another program's; the text names it. PyTorch's own words advise to run its code.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # noqa: BLE001  (of many kinds: what is in the file is anybody's)
        raise ValueError(f"{path} is damaged ({type(error).__name__}): delete it, or {journal.ELSEWHERE}") from error
    if not isinstance(state, dict) or set(state) != set(names):
        raise ValueError(f"{path} holds no {', '.join(names)}: delete it, or {journal.ELSEWHERE}")
    return state


def gradients(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences between neighbors along both axes."""
    return picture[..., 1:] - picture[..., :-1], picture[..., 1:, :] - picture[..., :-1, :]


def train_autoencoder(plan: Plan, fleet: Fleet, out: Path, codes: torch.Tensor, compile: bool) -> nn.Module | None:
    """Learn to squeeze pictures of scenes into 16 x 16 x 32 numbers and back.

    The loss is absolute and squared error of pixels, absolute error of their gradients (crisp edges), the linear
    probe and the size of the latent. Noise on the latent makes neighbors in latent space look alike. Returns None if
    time ran out.
    """
    torch.manual_seed(plan.seed)
    model = build_autoencoder().to(fleet.device, memory_format=torch.channels_last)
    probe = nn.Conv2d(32, 48, 1).to(fleet.device)  # 4 x 4 pixels x 3 colors for each latent cell
    parameters = [*model.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=plan.autoencoder_lr, betas=(0.9, 0.95), fused=compile)
    checkpoint, first = out / "autoencoder.pt", 0
    if checkpoint.exists():
        state = load(checkpoint, fleet.device, "model", "probe", "optimizer", "step")
        model.load_state_dict(state["model"])
        probe.load_state_dict(state["probe"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    torch.manual_seed(plan.seed + 1000 * (fleet.rank + 1) + first)
    encode = torch.compile(model.encoder) if compile else model.encoder
    decode = torch.compile(model.decoder) if compile else model.decoder

    def keep(done: int) -> None:
        if fleet.rank == 0:
            states = {"model": model.state_dict(), "probe": probe.state_dict(), "optimizer": optimizer.state_dict()}
            save(checkpoint, **states, step=done)

    bar = tqdm(range(first, plan.autoencoder_steps), "autoencoder", initial=first, total=plan.autoencoder_steps,
               disable=fleet.rank > 0, mininterval=5)  # fmt: skip
    for step in bar:
        if fleet.out_of_time(step):
            keep(step)
            return None
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan.autoencoder_steps, plan.autoencoder_lr, warmup=100)
        pick = torch.randint(len(codes), (plan.autoencoder_batch,), device=fleet.device)
        x = render_codes(codes[pick], 2 * JITTER).contiguous(memory_format=torch.channels_last)
        with fleet.autocast():
            z = encode(x)
            spread = z.detach().float().std()
            level = plan.latent_noise * torch.rand(len(x), 1, 1, 1, device=fleet.device)
            y = decode(z + (level * spread * torch.randn_like(z, dtype=torch.float32)).to(z.dtype))
        y, z = y.float(), z.float()
        small = F.pixel_unshuffle(F.avg_pool2d(x, 8), 4)
        edges = sum(F.l1_loss(a, b) for a, b in zip(gradients(y), gradients(x), strict=True))
        error = F.mse_loss(y, x)
        loss = (
            F.l1_loss(y, x)
            + 2 * error
            + 0.5 * edges
            + plan.probe_weight * F.mse_loss(probe(z), small)
            + plan.latent_penalty * z.square().mean()
        )
        optimizer.zero_grad()
        loss.backward()
        fleet.average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        done = step + 1
        if fleet.rank == 0 and (done % 50 == 0 or done == plan.autoencoder_steps):
            log(out, "autoencoder", done, loss=loss, psnr=10 * torch.log10(4 / error), spread=spread)
            bar.set_postfix_str(f"{10 * math.log10(4 / error.item()):.1f} dB", refresh=False)
        if done % plan.save_every == 0 or done == plan.autoencoder_steps:
            keep(done)
    return model.eval().requires_grad_(False)


def log(out: Path, stage: str, step: int, **values: torch.Tensor) -> None:
    """Add one line to the run's log, from which the model card draws its curves."""
    line = {"stage": stage, "step": step, "time": round(time.time(), 1)}
    line |= {name: round(value.item(), 5) for name, value in values.items()}
    with open(out / "log.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


@torch.no_grad()
def fill_bank(
    plan: Plan, fleet: Fleet, model: nn.Module, codes: torch.Tensor, compile: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode this process's share of the pictures once.

    Returns:
        Latents in bfloat16, (bank, 32, 16, 16), and the index of each one's scene, (bank,).
    """
    torch.manual_seed(plan.seed + 77 * (fleet.rank + 1))
    encode = torch.compile(model.encoder) if compile else model.encoder
    chosen = torch.randint(len(codes), (plan.bank,), device=fleet.device)
    latents = torch.empty(plan.bank, 32, 16, 16, dtype=torch.bfloat16, device=fleet.device)
    size = plan.autoencoder_batch
    for at in tqdm(range(0, plan.bank, size), "latents", disable=fleet.rank > 0, mininterval=5):
        x = render_codes(codes[chosen[at : at + size]], JITTER).contiguous(memory_format=torch.channels_last)
        with fleet.autocast():
            latents[at : at + size] = encode(x).to(torch.bfloat16)
    return latents, chosen


def sentences(plan: Plan, fleet: Fleet, tokenizer, scenes: list[Scene], chosen: torch.Tensor) -> torch.Tensor:
    """Token rows (bank, 2 x sentences, text_tokens): first for prompts after the instruction, then for bare prompts.

    The row starts with <bos>. After the instruction the first word of a prompt carries the space before it.
    """
    rng = random.Random(plan.seed + 13 * (fleet.rank + 1))
    width, tail = plan.text_tokens, len(tokenizer.encode(instruction())) - 1
    texts = [paraphrase(scenes[i], rng) for i in chosen.tolist() for _ in range(plan.sentences)]
    fast, opening = tokenizer.backend_tokenizer, instruction()
    alone = tokenizer.encode(opening)[:tail]
    if any(e.ids[:tail] != alone for e in fast.encode_batch([opening + "a", opening + "red"])):
        raise RuntimeError("the instruction and the prompt share a token: the tokenizer does not fit this diffusers")
    fast.enable_truncation(width)
    fast.enable_padding(length=width)
    rows = [
        torch.tensor([e.ids for e in fast.encode_batch([prefix + t for t in texts])], dtype=torch.int16)
        for prefix in (" ", "")
    ]
    return torch.cat([r.view(len(chosen), plan.sentences, width) for r in rows], 1)


def products_for_convolutions(transformer: nn.Module) -> None:
    """Compute the 1 x 1 convolutions of the feed-forward as matrix products, which compile into fewer passes.

    The function is that of `GLUMBConv.forward` (diffusers 0.42.1, sana_transformer.py); weights and names stay.
    """

    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = F.linear(x.permute(0, 2, 3, 1), self.conv_inverted.weight[:, :, 0, 0], self.conv_inverted.bias)
        x = self.conv_depth(F.silu(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x, gate = x.chunk(2, dim=-1)
        return F.linear(x * F.silu(gate), self.conv_point.weight[:, :, 0, 0]).permute(0, 3, 1, 2)

    for block in transformer.transformer_blocks:
        block.ff.forward = forward.__get__(block.ff)


class Denoiser(nn.Module):
    """Text encoder and transformer as the pipeline joins them, each compiled on its own."""

    def __init__(self, text_encoder: nn.Module, transformer: nn.Module, opening: torch.Tensor, compile: bool = False):
        """Keep the instruction's tokens (without <bos>) beside the two models."""
        super().__init__()
        self.text_encoder, self.transformer = text_encoder, transformer
        self.register_buffer("opening", opening, persistent=False)
        if compile:  # in place: names of the weights stay
            products_for_convolutions(transformer)
            text_encoder.compile(dynamic=False)
            transformer.compile(dynamic=False)

    def encode(self, ids: torch.Tensor, instructed: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states (b, t, width) and mask (b, t) of prompts given as tokens (b, t), <bos> first, zeros behind.

        With the instruction, the encoder reads <bos> + instruction + prompt, and the transformer sees <bos> and the
        prompt: what `SanaPipeline.encode_prompt` selects.
        """
        mask = ids != 0
        full, keep, skip = ids, mask, 1
        if instructed:
            head = self.opening.expand(len(ids), -1)
            full = torch.cat([ids[:, :1], head, ids[:, 1:]], 1)
            keep = torch.cat([mask[:, :1], torch.ones_like(head, dtype=torch.bool), mask[:, 1:]], 1)
            skip += self.opening.shape[0]
        text = self.text_encoder(input_ids=full, attention_mask=keep.long()).last_hidden_state
        return torch.cat([text[:, :1], text[:, skip:]], 1), mask

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor, ids: torch.Tensor, instructed: bool) -> torch.Tensor:
        """Predict the velocity, noise minus latent, from noisy latents (b, 32, 16, 16), sigma (b,), tokens (b, t)."""
        text, mask = self.encode(ids, instructed)
        out = self.transformer(
            noisy,
            encoder_hidden_states=text,
            timestep=sigma * 1000,
            encoder_attention_mask=mask.long(),
            return_dict=False,
        )
        return out[0]


def draw_batch(
    plan: Plan, latents: torch.Tensor, tokens: torch.Tensor, scaling: float, instructed: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw what one step learns from, out of the bank of this process.

    Sigma is logit-normal, and in three of five cases shifted to larger noise as the scheduler shifts it.

    Args:
        plan: the numbers of the run.
        latents: (bank, 32, 16, 16).
        tokens: (bank, 2 x sentences, text_tokens), those after the instruction first.
        scaling: what latents are multiplied with.
        instructed: whether the prompts come after the instruction.

    Returns:
        Noisy latents (b, 32, 16, 16), sigma (b,), tokens (b, t), and the velocity to learn, noise minus latent.
    """
    batch, device = plan.transformer_batch, latents.device
    pick = torch.randint(len(latents), (batch,), device=device)
    which = torch.randint(plan.sentences, (batch,), device=device) + (0 if instructed else plan.sentences)
    ids = tokens[pick, which].long()
    ids[torch.rand(batch, device=device) < plan.no_text, 1:] = 0
    z = latents[pick].float() * scaling
    sigma = torch.sigmoid(torch.randn(batch, device=device))
    shifted = plan.flow_shift * sigma / (1 + (plan.flow_shift - 1) * sigma)
    sigma = torch.where(torch.rand_like(sigma) < 0.6, shifted, sigma)
    noise = torch.randn_like(z)
    return torch.lerp(z, noise, sigma[:, None, None, None]), sigma, ids, noise - z


def train_transformer(
    plan: Plan, fleet: Fleet, out: Path, autoencoder: nn.Module, scenes: list[Scene], codes: torch.Tensor, compile: bool
) -> None:
    """Learn rectified flow from noise to latents: predict the velocity at a random sigma (Sana, section 2.3)."""
    tokenizer = build_tokenizer()
    bank = out / f"bank-{fleet.rank}-of-{fleet.world}.pt"
    if bank.exists():
        latents, tokens = load(bank, fleet.device, "latents", "tokens").values()
    else:
        latents, chosen = fill_bank(plan, fleet, autoencoder, codes, compile)
        tokens = sentences(plan, fleet, tokenizer, scenes, chosen).to(fleet.device)
        save(bank, latents=latents, tokens=tokens)
    total = latents[:4096].float().square().mean()
    if fleet.world > 1:
        dist.all_reduce(total)
    scaling = (total / fleet.world).rsqrt().item()
    autoencoder.register_to_config(scaling_factor=scaling)

    torch.manual_seed(plan.seed)
    # The instruction without <bos> and without its last space, which joins the first word of the prompt.
    opening = torch.tensor(tokenizer.encode(instruction())[1:-1], device=fleet.device)
    model = Denoiser(build_text_encoder(len(tokenizer)), build_transformer(), opening, compile).to(fleet.device)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=plan.transformer_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=compile
    )
    average = [p.detach().clone() for p in parameters]
    checkpoint, first = out / "transformer.pt", 0
    if checkpoint.exists():
        state = load(checkpoint, fleet.device, "model", "optimizer", "average", "step")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, first = state["average"], state["step"]
    torch.manual_seed(plan.seed + 1000 * (fleet.rank + 1) + first)
    coin = random.Random(plan.seed + first)  # the same on every process: all take the same branch
    bar = tqdm(range(first, plan.transformer_steps), "transformer", initial=first, total=plan.transformer_steps,
               disable=fleet.rank > 0, mininterval=5)  # fmt: skip
    mean_loss = torch.zeros((), device=fleet.device)

    def keep(done: int) -> None:
        if fleet.rank == 0:
            save(checkpoint, model=model.state_dict(), optimizer=optimizer.state_dict(), average=average, step=done)
            export(out, model, average, autoencoder)

    for step in bar:
        if fleet.out_of_time(step):
            keep(step)
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan.transformer_steps, plan.transformer_lr)
        instructed = coin.random() < plan.with_instruction
        noisy, sigma, ids, target = draw_batch(plan, latents, tokens, scaling, instructed)
        with fleet.autocast():
            velocity = model(noisy, sigma, ids, instructed)
        loss = F.mse_loss(velocity.float(), target)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        fleet.average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(plan.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        mean_loss = mean_loss * 0.99 + loss.detach() * 0.01
        done = step + 1
        if fleet.rank == 0 and (done % 100 == 0 or done == plan.transformer_steps):
            log(out, "transformer", done, loss=mean_loss / (1 - 0.99 ** (done - first)))
        if done % plan.save_every == 0 or done == plan.transformer_steps:
            keep(done)


@torch.no_grad()
def export(out: Path, model: Denoiser, average: list[torch.Tensor], autoencoder: nn.Module) -> None:
    """Write the averaged weights as a pipeline folder in bfloat16; the models in training stay as they are."""
    smooth = {name: value for (name, _), value in zip(model.named_parameters(), average, strict=True)}
    text_encoder, transformer = build_text_encoder(model.text_encoder.config.vocab_size), build_transformer()
    fresh = nn.ModuleDict({"text_encoder": text_encoder, "transformer": transformer})
    fresh.load_state_dict({name: value.cpu() for name, value in smooth.items()}, strict=False)
    pictures = build_autoencoder()
    pictures.load_state_dict({name: value.cpu().contiguous() for name, value in autoencoder.state_dict().items()})
    pictures.register_to_config(scaling_factor=autoencoder.config.scaling_factor)
    assemble(out / "pipeline", pictures, transformer, text_encoder)


def train(
    plan: Plan,
    out: str | Path,
    *,
    device: str | None = None,
    compile: bool | None = None,
    minutes: float = math.inf,
) -> Path:
    """Run both stages, or what is left of them, and return the pipeline folder.

    Args:
        plan: the numbers of the run. A folder that holds another plan's checkpoints is refused.
        out: folder for checkpoints, log and, at the end, `pipeline/`.
        device: "cuda" or "cpu"; by default whatever there is.
        compile: use torch.compile; by default on CUDA only.
        minutes: stop after this time and keep a checkpoint, from which the same call goes on.

    Raises:
        ValueError: if `out` holds a run with another plan; the text says what differs. Or there is no such device.
        OSError: if `out` cannot be written.
    """
    fleet, out = Fleet(device, minutes), Path(out)
    compile = fleet.device.type == "cuda" if compile is None else compile
    own = [f"bank-{fleet.rank}-of-{fleet.world}.pt", *(["autoencoder.pt", "transformer.pt"] if fleet.rank == 0 else [])]
    journal.hold(out / "plan.json", asdict(plan), results=sorted(out.glob("*.pt")))
    journal.clear(out, own)
    if fleet.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    pools = [[*pool(k, held_out=False)] for k in (1, 2)]
    # Repeat the few scenes with one object until they have their share.
    repeat = max(1, round(len(pools[1]) * (1 - plan.two_objects) / plan.two_objects / len(pools[0])))
    scenes = pools[0] * repeat + pools[1]
    codes = encode_scenes(scenes).to(fleet.device)
    autoencoder = train_autoencoder(plan, fleet, out, codes, compile)
    if autoencoder is not None:
        train_transformer(plan, fleet, out, autoencoder, scenes, codes, compile)
    if fleet.world > 1:
        dist.barrier()
    return out / "pipeline"


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status; every field of `Plan` is an option."""
    return run_command(command(train), "python -m sana_lab.shapes.train", arguments)


if __name__ == "__main__":
    sys.exit(main())

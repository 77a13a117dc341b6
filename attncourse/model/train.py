"""Trains the model that ships with the course: `python -m attncourse.model.train`.

The course ships what one such run gave, from nothing, at the default steps, repeats and seed, but
with --threads 1: results/model.json has its log and its seconds. Other threads and processors add
in another order, so weights come out a little different: results/model-again.json is the log of a
run with the defaults, nine minutes on two idle cores of another machine. A run that was ended goes
on where its last checkpoint was. An installed course keeps its own model: what is trained there
goes to your course folder, or to the working directory.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from attncourse import needed

if not needed.has("torch"):
    raise needed.missing("torch", "attncourse.model.train", __name__)

import torch

from attncourse import house
from attncourse.model import corpus, scores, tokenizer, weights
from attncourse.model.decoder import Shape
from attncourse.model.muon import Muon
from attncourse.model.network import Network
from attncourse.units import format_seconds

SHAPE = Shape()
STEPS, ROWS, REPEATS, SEED = 3600, 4, 0.25, 0
WARM_UP, CONSTANT = 50, 0.6  # steps until the full rate; share of the steps until it falls
BAR = 24  # characters of the bar of progress
EVERY = 200  # steps between two measurements on held-out text, each with a checkpoint


def main(arguments: list[str] | None = None) -> None:
    """Train, and write weights and log."""
    parser = argparse.ArgumentParser(prog="python -m attncourse.model.train", description=__doc__)
    place = needed.workplace()
    out = place / weights.SHIPPED.name if house.is_installed() else weights.SHIPPED
    log = place / "results" / "model.json"
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default {STEPS}")
    parser.add_argument(
        "--repeats", type=float, default=REPEATS, help="share of rows in which a segment repeats"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=out, help="of the weights; default %(default)s")
    parser.add_argument("--log", type=Path, default=log, help="default %(default)s")
    options = parser.parse_args(arguments)
    usual = (options.steps, options.repeats, options.seed) == (STEPS, REPEATS, SEED)
    if options.steps < 1 or not 0 <= options.repeats <= 1:
        parser.error("--steps must be at least 1, --repeats between 0 and 1")
    if not usual and (options.out == out or options.log == log):
        parser.error("with other settings than the course's, say --out and --log: it keeps its own")
    needed.writable(options.out, options.log)
    torch.set_num_threads(options.threads)
    run = Run(options.steps, options.repeats, options.seed, options.out.with_suffix(".partial"))
    run.train()
    weights.save(options.out, run.arrays(), run.network.shape)
    options.log.write_text(json.dumps(run.record(), indent=1) + "\n")
    run.checkpoint.unlink()
    own = "" if options.out == weights.SHIPPED else f"; model.load({str(options.out)!r}) reads it"
    print(f"\n{options.out} written{own}\n{needed.written(options.log)}")


class Run:
    """One training run, from its first step or from its checkpoint.

    Args:
        steps: How many steps it has.
        repeats: Share of the rows in which a segment stands twice.
        seed: Of weights and batches.
        checkpoint: Where the run is kept until it has ended.
        shape: Of the model.
    """

    def __init__(
        self, steps: int, repeats: float, seed: int, checkpoint: Path, shape: Shape = SHAPE
    ) -> None:
        self.steps, self.repeats, self.seed = steps, repeats, seed
        self.checkpoint = checkpoint
        texts = list(corpus.library().values())
        _say(f"learning {shape.n_ids} tokens from {sum(map(len, texts)) / 1e6:.1f} MB of sources")
        self.tokenizer = tokenizer.learn("".join(texts), shape.n_ids)
        self.ids = corpus.tokens(texts, self.tokenizer)
        self.unseen = corpus.tokens(corpus.held_out(), self.tokenizer)
        # Another Python has another library, with which a run cannot go on.
        self.settings = {"steps": steps, "repeats": repeats, "seed": seed}
        self.goes_on_with = self.settings | {"text": zlib.crc32(self.ids.tobytes())}
        torch.manual_seed(seed)
        self.network = Network(shape)
        inner = list(self.network.layers.parameters())
        matrices = [p for p in inner if p.ndim == 2]
        rest = [self.network.embedding, self.network.norm, *(p for p in inner if p.ndim == 1)]
        self.optimizers = (
            Muon(matrices, lr=0.02),
            torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
        )
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.step, self.seconds = 0, 0.0
        self.log: list[dict] = []
        if checkpoint.exists():
            self._resume()

    def train(self) -> None:
        """Take the steps that are left."""
        last = time.perf_counter()
        recent: list[float] = []
        while self.step < self.steps:
            recent.append(self._step())
            now = time.perf_counter()
            self.seconds, last = self.seconds + now - last, now
            self.step += 1
            left = (self.steps - self.step) * self.seconds / self.step
            bar = ("#" * (BAR * self.step // self.steps)).ljust(BAR, ".")
            _say(
                f"[{bar}] step {self.step} of {self.steps}, loss {recent[-1]:.3f}, "
                f"about {format_seconds(left)} left"
            )
            if self.step % EVERY == 0 or self.step == self.steps:
                self._measure(float(np.mean(recent)))
                recent.clear()

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the weights, in float16, and the merges of the tokenizer."""
        state = self.network.state_dict()
        arrays = {name: value.numpy().astype(np.float16) for name, value in state.items()}
        return arrays | {"merges": self.tokenizer.merges.astype(np.int16)}

    def record(self) -> dict:
        """Return settings, machine and log."""
        return {
            "settings": self.settings,
            "shape": asdict(self.network.shape),
            "training_tokens": len(self.ids),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "seconds": round(self.seconds, 1),
            "log": self.log,
        }

    def _step(self) -> float:
        """Take one step and return its loss."""
        rows = corpus.batch(
            self.ids,
            step=self.step,
            rows=ROWS,
            length=self.network.shape.context,
            repeats=self.repeats,
            seed=self.seed,
        )
        loss = self.network.loss(torch.from_numpy(rows))
        loss.backward()
        share = self.step / self.steps
        fall = 1.0 if share < CONSTANT else 0.02 + 0.98 * (1 - share) / (1 - CONSTANT)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * fall * min(1.0, (self.step + 1) / WARM_UP)
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    def _measure(self, train_loss: float) -> None:
        """Log the losses, and keep the run."""
        model = weights.model(self.arrays(), self.network.shape)
        first, second = scores.copying(model, self.unseen)
        self.log.append(
            {
                "step": self.step,
                "train": round(train_loss, 4),
                "held_out": round(model.loss(self.unseen[: 16 * 512 + 1]), 4),
                "first_pass": round(first, 4),
                "second_pass": round(second, 4),
                "induction": np.round(scores.induction(model, self.unseen), 3).tolist(),
                "previous": np.round(scores.previous(model, self.unseen), 3).tolist(),
            }
        )
        _say(f"{self.log[-1]}\n")
        kept = {
            "settings": self.goes_on_with,
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        new = self.checkpoint.with_suffix(".new")
        torch.save(kept, new)
        new.replace(self.checkpoint)  # a run that ends meanwhile leaves the old one whole

    def _resume(self) -> None:
        kept = torch.load(self.checkpoint)
        if kept["settings"] != self.goes_on_with:
            raise SystemExit(
                f"{self.checkpoint} is of a run with {kept['settings']}, not {self.goes_on_with}: "
                "remove it to start anew"
            )
        self.step, self.seconds, self.log = kept["step"], kept["seconds"], kept["log"]
        self.network.load_state_dict(kept["network"])
        for optimizer, state in zip(self.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        _say(f"going on from step {self.step}\n")


def _say(text: str) -> None:
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()


if __name__ == "__main__":
    main()

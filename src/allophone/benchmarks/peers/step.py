"""One trainer's HuBERT Base step in a process of its own, under whatever Python has that trainer.

This file is run as a script, by the interpreter of an environment that has torch and numpy but not allophone:
``python step.py TRAINER BATCH.npz DTYPE THREADS LAYERS SIZE``. Each line on the standard input asks for a step; each is
answered by one line of JSON. Every trainer computes its own published loss (masked frames only, with the penalty on
features) with its own masking and its own padding mask; the optimizer is AdamW, fused, for all.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

NUM_UNITS = 100
BASE = {"layers": 12, "dim": 768, "inner": 3072, "heads": 12}
TINY = {"layers": 2, "dim": 32, "inner": 64, "heads": 2}
Loss = Callable[[dict[str, Tensor]], Tensor]
"""From a batch to the loss of one step."""


def serve(module: torch.nn.Module, loss: Loss, batch: dict[str, Tensor], dtype: str) -> None:
    """Tell the loss before training, then answer each line of the standard input with one step and what it took.

    Args:
        module: Is trained.
        loss: Forward pass and loss.
        batch: ``waveform`` ``(B, S)``, ``lengths`` ``(B,)``, ``units`` ``(B, T)``, ``masked`` ``(B, T)``.
        dtype: ``float32``, or ``bfloat16`` by autocast.
    """
    torch.manual_seed(0)
    np.random.seed(0)
    module.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        first = float(loss(batch))
    module.train()
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    _say({"parameters": sum(parameter.numel() for parameter in parameters), "loss": first})
    for number, _ in enumerate(sys.stdin):
        torch.manual_seed(number)
        np.random.seed(number)
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            value = loss(batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        _say({**took, "loss": float(value.detach()), "peak_bytes": _peak_bytes()})


def _say(answer: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def fairseq(size: dict[str, int]) -> tuple[torch.nn.Module, Loss]:
    """HuBERT and its criterion as fairseq has them (``examples/hubert``, Base)."""
    from fairseq.criterions.hubert_criterion import HubertCriterion
    from fairseq.models.hubert.hubert import HubertConfig, HubertModel
    from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig

    model = HubertModel(_fairseq_config(HubertConfig, size), HubertPretrainingConfig(), [range(NUM_UNITS)])
    criterion = HubertCriterion(None, pred_masked_weight=1.0, pred_nomask_weight=0.0, loss_weights=[10.0])

    def loss(batch: dict[str, Tensor]) -> Tensor:
        _fit_mask(model)
        inputs = {"source": batch["waveform"], "padding_mask": batch["padding"]}
        sample = {"id": batch["lengths"], "net_input": inputs, "target_list": [batch["units"]]}
        total, count, _ = criterion(model, sample)
        return total / count

    return model, loss


def s3prl(size: dict[str, int]) -> tuple[torch.nn.Module, Loss]:
    """s3prl's copy of the model, with the logits and the loss that its authors' trainer makes of it."""
    from s3prl.upstream.hubert.hubert_model import HubertConfig, HubertModel, HubertPretrainingConfig

    model = HubertModel(_fairseq_config(HubertConfig, size), HubertPretrainingConfig(), [range(NUM_UNITS)])

    def loss(batch: dict[str, Tensor]) -> Tensor:
        _fit_mask(model)
        made = model(batch["waveform"], target_list=[batch["units"]], padding_mask=batch["padding"])
        (logits,) = [one.float() for one in made["logit_m_list"] if one is not None]
        targets = torch.zeros(len(logits), dtype=torch.long)
        return torch.nn.functional.cross_entropy(logits, targets) + 10.0 * made["features_pen"].float()

    return model, loss


def _fit_mask(model: Any) -> None:
    """Their mask vector is assigned to frames of autocast's dtype, which it must have itself."""
    if torch.is_autocast_enabled("cpu"):
        model.mask_emb.data = model.mask_emb.data.to(torch.get_autocast_dtype("cpu"))


def _fairseq_config(kind: Any, size: dict[str, int]) -> Any:
    config = kind(label_rate=50.0)
    config.encoder_layers, config.encoder_embed_dim = size["layers"], size["dim"]
    config.encoder_ffn_embed_dim, config.encoder_attention_heads = size["inner"], size["heads"]
    config.final_dim, config.untie_final_proj = 256, True
    config.mask_prob, config.mask_length, config.feature_grad_mult = 0.8, 10, 0.1
    config.dropout = config.attention_dropout = config.dropout_input = config.dropout_features = 0.1
    config.encoder_layerdrop = 0.0
    config.skip_masked, config.skip_nomask = False, True
    return config


def torchaudio(size: dict[str, int]) -> tuple[torch.nn.Module, Loss]:
    """``hubert_pretrain_base`` and the loss of torchaudio's example."""
    from torchaudio.models import hubert_pretrain_model

    model = hubert_pretrain_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=None,
        extractor_conv_bias=False,
        encoder_embed_dim=size["dim"],
        encoder_projection_dropout=0.1,
        encoder_pos_conv_kernel=128,
        encoder_pos_conv_groups=16,
        encoder_num_layers=size["layers"],
        encoder_num_heads=size["heads"],
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=size["inner"],
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.1,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        mask_prob=0.8,
        mask_selection="static",
        mask_other=0.0,
        mask_length=10,
        no_mask_overlap=False,
        mask_min_space=1,
        mask_channel_prob=0.0,
        mask_channel_selection="static",
        mask_channel_other=0.0,
        mask_channel_length=10,
        no_mask_channel_overlap=False,
        mask_channel_min_space=1,
        skip_masked=False,
        skip_nomask=True,
        num_classes=NUM_UNITS,
        final_dim=256,
        feature_grad_mult=0.1,
    )

    def loss(batch: dict[str, Tensor]) -> Tensor:
        logits, _, penalty = model(batch["waveform"], batch["units"], batch["lengths"])
        targets = torch.zeros(len(logits), dtype=torch.long)
        return torch.nn.functional.cross_entropy(logits.float(), targets) + 10.0 * penalty

    return model, loss


TRAINERS = {"fairseq": fairseq, "s3prl": s3prl, "torchaudio": torchaudio}


def load_batch(path: str) -> dict[str, Tensor]:
    """The batch of a file, with ``padding`` ``(B, S)`` for those that want it, True = no sample."""
    with np.load(path, allow_pickle=False) as arrays:
        batch = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    batch["padding"] = torch.arange(batch["waveform"].shape[1])[None] >= batch["lengths"][:, None]
    return batch


def main(make: Callable[[dict[str, int]], tuple[torch.nn.Module, Loss]], arguments: list[str]) -> None:
    """Serve a trainer: ``BATCH.npz DTYPE THREADS LAYERS SIZE``, size ``base`` or ``tiny``."""
    path, dtype, threads, layers, size = arguments
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    kept = os.dup(1)
    os.dup2(2, 1)  # what a library prints while it is imported is not an answer
    module, loss = make({**{"base": BASE, "tiny": TINY}[size], "layers": int(layers)})
    sys.stdout.flush()
    os.dup2(kept, 1)
    serve(module, loss, load_batch(path), dtype)


if __name__ == "__main__":
    main(TRAINERS[sys.argv[1]], sys.argv[2:])

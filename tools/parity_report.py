"""How near do our numbers come to transformers', torchaudio's and fairseq2's, from the same weights and draws?

usage: python tools/parity_report.py [--threads 2]

Prints a markdown table: hidden states, CTC, pre-training loss, and the gradient of every parameter, for small random
models of all variants, the full base and the full large model, three seeds each; exit status 1 where a difference is
over 1e-5 in float32, or over 1e-10 where both sides compute in float64.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity"))

from comparisons import COMPARISONS, Comparison, reason_to_leave_out  # type: ignore[import-not-found]
from exactness import Case, Row, rows_under, scale_of  # type: ignore[import-not-found]

SEEDS = (0, 1, 2)
SMALL = [Case("small", seed, is_double=is_double) for is_double in (False, True) for seed in range(4 * len(SEEDS))]
FULL = [Case(size, seed) for size in ("base", "large") for seed in SEEDS]
# What training starts from: float32 cannot carry it to the bar on either side, so float64 says whether it is the same.
FRESH = [
    Case("base", 0, is_double=True, is_fresh=True),
    Case("large", 0, num_layers=3, is_double=True, is_fresh=True),  # float64 of all 24 takes minutes
]
UNBARRED = [Case("base", 0, is_fresh=True)]  # the same in float32, to see how far it gets
# (column, how its quantities start, after "padded ")
COLUMNS = (
    ("hidden states", ("hidden states",)),
    ("CTC logits", ("CTC logits",)),
    ("CTC loss", ("CTC loss",)),
    ("CTC gradients", ("CTC gradient",)),
    (
        "pre-training loss and parts",
        tuple(f"pre-training {name}" for name in ("loss", "contrastive", "diversity", "feature_penalty")),
    ),
    ("perplexities", ("pre-training code_perplexity", "pre-training prob_perplexity")),
    ("pre-training gradients", ("pre-training gradient",)),
)
Cells = dict[tuple[str, str], dict[str, list[Row]]]


def main() -> None:
    """Compare with every peer that is installed, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    warnings.simplefilter("ignore")
    start = time.monotonic()
    peers = []
    for peer in COMPARISONS:
        reason = reason_to_leave_out(peer)
        print(f"left out: {reason}" if reason else f"{peer} {importlib.metadata.version(peer)}")
        peers += [] if reason else [peer]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    faults = [
        fault
        for title, cases, is_barred in (
            ("float32, held to 1e-5", [case for case in [*SMALL, *FULL] if not case.is_double], True),
            ("float64 on both sides, held to 1e-10", [*(case for case in SMALL if case.is_double), *FRESH], True),
            ("float32 with the weights that training starts from, held to nothing", UNBARRED, False),
        )
        for fault in _section(title, _compare(cases, peers, start=start), is_barred=is_barred)
    ]
    _print_zeros()
    print(f"\n{time.monotonic() - start:.0f} s")
    for fault in faults:
        print(f"over the bar: {fault}")
    sys.exit(bool(faults))


def _compare(cases: list[Case], peers: list[str], *, start: float) -> Cells:
    cells: Cells = {}
    for case in cases:
        for peer in peers:
            for comparison in COMPARISONS[peer]:
                for row in _rows(comparison, case):
                    columns = cells.setdefault((peer, _model(case)), {})
                    columns.setdefault(_column(row.quantity), []).append(row)
        print(f"{time.monotonic() - start:.0f} s: {_model(case)}, seed {case.seed}", file=sys.stderr)
    return cells


def _rows(comparison: Comparison, case: Case) -> list[Row]:
    """All of them; of fresh weights only losses and gradients, for hidden states do not depend on what is fresh."""
    if case.is_fresh and comparison.__name__ == "frames":
        return []
    rows: list[Row] = rows_under(comparison, case)
    return rows


def _model(case: Case) -> str:
    fresh = ", fresh weights" if case.is_fresh else ""
    return f"{case.size}, {case.model.num_layers if case.size != 'small' else '2-3'} layers, {case.variant}{fresh}"


def _column(quantity: str) -> str:
    name = quantity.partition(": ")[0].removeprefix("padded ")
    return next(column for column, starts in COLUMNS if name in starts)


def _section(title: str, cells: Cells, *, is_barred: bool) -> list[Row]:
    """Print a table of the largest differences over seeds and tensors; give the rows over their bar."""
    heads = [column for column, _ in COLUMNS if any(column in columns for columns in cells.values())]
    num_rows = sum(len(rows) for columns in cells.values() for rows in columns.values())
    print(f"\n{title} ({num_rows} differences)\n")
    print("| peer | model | seeds | " + " | ".join(heads) + " |")
    print("|---" * (3 + len(heads)) + "|")
    faults: list[Row] = []
    for (peer, model), columns in sorted(cells.items()):
        seeds = len({row.seed for rows in columns.values() for row in rows})
        shown = [_cell(columns.get(head, [])) for head in heads]
        print(f"| {peer} | {model} | {seeds} | " + " | ".join(shown) + " |")
        faults += [row for rows in columns.values() for row in rows if is_barred and not row.is_near]
    return faults


def _cell(rows: list[Row]) -> str:
    """The largest difference, and of how many tensors where these are many; a NaN is largest of all."""
    if not rows:
        return "–"
    worst = max(rows, key=lambda row: (row.difference != row.difference, row.difference))
    num_tensors = len({row.quantity for row in rows})
    return f"{worst.difference:.1e}" + (f" ({num_tensors})" if "gradient" in worst.quantity else "")


def _print_zeros() -> None:
    print("\nGradients that are zero in exact arithmetic, compared against the largest gradient of the weight beside:")
    for name in ("encoder.context_network.blocks.0.attention.key.bias", "encoder.feature_encoder.layers.0.conv.bias"):
        beside = scale_of(name, Case("small", 0).model)
        print(f"- `{name.replace('blocks.0', 'blocks.*')}`, against `{str(beside).replace('blocks.0', 'blocks.*')}`")
    print("  (the conv's in models with conv bias and group norm only)")


if __name__ == "__main__":
    main()

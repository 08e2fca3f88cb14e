"""``pe export``."""

from __future__ import annotations

from pathlib import Path

from pe.cli.output import emit, out


def export(
    run: Path, *, format: list[str], to: Path | None = None, ledger: Path | None = None, json: bool = False
) -> None:
    """Write a finished run's records in further formats; free of charge.

    Parameters
    ----------
    run
        The run directory.
    format
        csv, jsonl, parquet, hf (Hugging Face datasets folder), imagefolder or npz; repeat for several.
    to
        A folder of your own; by default the run's release folder. Card and certificate go with the data.
    ledger
        The ledger that was charged, which enters what is exported; by default PE_LEDGER, else the user's.
    json
        Print one JSON object instead of lines.
    """
    from pe.delivery import load

    written = load(run).export(format, to, ledger=ledger)
    if json:
        emit({"files": [str(path) for path in written]})
        return
    for path in written[:20]:
        out.print(str(path), highlight=False, markup=False)
    if len(written) > 20:
        out.print(f"and {len(written) - 20} more files", highlight=False)

"""Numbers reported by others, deliberately kept apart: every row has its data, protocol and source."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

SOURCE = "Fu et al., arXiv 2312.14871"
OURS = "released code: trained on train + val, epoch chosen on test"  # the paper does not say how epochs were chosen
SAME_QUESTION = ("eegcvpr40", "phantom")  # 40 classes, and the phantom that stands in for them
TABLES = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text(encoding="utf-8"))


def reported_table(number: int, dataset: str = "eegcvpr40") -> pd.DataFrame:
    """Table `number` of the paper, every row with its data, protocol and source; KeyError lists the available tables.
    No rows for a `dataset` with other classes, such as a user's own recordings: nothing is comparable there."""
    if number not in TABLES:
        raise KeyError(f"table {number} is not kept here; choose one of {', '.join(map(str, TABLES))}")
    columns, *rows = TABLES[number]
    frame = pd.DataFrame(rows, columns=columns)
    quoted = "method" in frame and frame["method"] != "BrainVis"
    frame.insert(0, "kind", "reported")
    protocol = pd.Series(quoted, frame.index).map({True: "as quoted there", False: OURS})
    frame = frame.assign(**{"data set": "EEGCVPR40"}, protocol=protocol, source=f"{SOURCE}, table {number}")
    return frame if dataset in SAME_QUESTION else frame[:0]

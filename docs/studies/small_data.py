"""What can be learned from few trials: networks beside baselines on real SSVEP recordings, and on an oddball phantom.

    python docs/studies/small_data.py ssvep=recordings

writes a table of docs/small_data.md, between the two marks that name it, from the runs of notebook 04 of a study, which
its folder names. docs/small_data.md says how the runs are made. Nothing here trains.
"""

import argparse
import re
from pathlib import Path

from brainvis.evaluation.baselines import BASELINES, CONFOUNDS
from brainvis.evaluation.beside_baselines import pooled_table, subjects_table
from brainvis.evaluation.report import to_markdown
from brainvis.files import ROOT, runs_folder, write_aside
from brainvis.study.product import Product, read_product

PAGE = ROOT / "docs" / "small_data.md"


def runs_of(study: str) -> list[Product]:
    """All runs of fusion of the whole method of a study, by the name of its folder."""
    files = sorted((runs_folder() / study).glob("sub-*/full/fusion/results.json"))
    return [read_product(file.parent) for file in files]


def told(runs: list[Product]) -> str:
    """What the tables say, in sentences that follow from their numbers."""
    rows = pooled_table(runs).set_index(pooled_table(runs).columns[0])
    values = {name: float(text.split()[0]) for name, text in rows["balanced accuracy"].items() if name != "by chance"}
    intervals = {name: re.findall(r"\d\.\d+", rows.loc[name, "balanced accuracy"])[1:] for name in values}
    networks = {name: value for name, value in values.items() if rows.loc[name, "kind"] == "network"}
    plain = {name: values[name] for name in BASELINES.values() if name in values}
    best, baseline = max(networks, key=networks.get), max(plain, key=plain.get)
    low, high = map(float, intervals[baseline])
    where = "within" if low <= values[best] <= high else "above" if values[best] > high else "below"
    said = [
        f"The best network, {best}, reaches {values[best]:.3f}, {where} the interval of the best baseline, {baseline} "
        f"({values[baseline]:.3f} [{low:.3f}, {high:.3f}])."
    ]
    kinds = [run.metrics["fused_is"] for run in runs]
    counted = ", ".join(f"{kind} {kinds.count(kind)}" for kind in dict.fromkeys(kinds))
    said.append(f"What is called “fused” was chosen without test trials ({runs[0].metrics['compared_on']}): {counted}.")
    for name in (name for name in CONFOUNDS.values() if name in values):
        score, chance = values[name], float(rows.loc["by chance", "balanced accuracy"])
        verdict = "above" if float(intervals[name][0]) > chance else "not shown to be above"
        said.append(f"Without any response, from the {name}: {score:.3f}, {verdict} chance ({chance:.3f}).")
    first = runs[0].results
    seeds = sorted({run.results["study"]["seed"] for run in runs})
    said.append(f"Seeds: {', '.join(map(str, seeds))}. Machine: {first['made_with']['machine']}.")
    return "\n".join(f"- {sentence}" for sentence in said)


def write(studies: dict[str, str], page: Path = PAGE) -> None:
    """Puts the tables of each study (mark -> study) between its marks on the page; ValueError for marks that the page
    does not have."""
    text = page.read_text(encoding="utf-8")
    for mark, study in studies.items():
        runs = runs_of(study)
        body = f"{to_markdown(pooled_table(runs))}\n{told(runs)}\n\n{to_markdown(subjects_table(runs))}"
        begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{page} has no marks {begin} and {end}: add them where the tables are to go")
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{body}{end}{rest.split(end)[1]}"
    write_aside(page, lambda aside: aside.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+", help="MARK=STUDY")
    write(dict(pair.split("=") for pair in parser.parse_args().studies))

# Which runs are missing or out of date, and how to make them: data set x seed x subject x ablation -> notebooks -> figures.
#
#   snakemake --cores 2                                                    the default study
#   snakemake --cores 2 --config dataset=eegcvpr40 preset=paper 'subjects=[1,2,3,4,5,6]' 'ablations=[full]'
#   snakemake --cores 2 --dry-run                                          only say what would run
#   snakemake --workflow-profile slurm --config preset=paper               on a cluster: profiles/slurm/config.yaml
#
# `full` runs for all subjects, the other ablations for the first. Seeds: seed=1, or 'seeds=[0,1,2]', each of which runs all,
# unless what the seeds after the first run is limited, to a last stage and to some ablations: seeds_until=fusion
# 'seeds_ablations=[full]'. With neither, the preset demo has LATER. The graph itself is in brainvis/graph.py. After a
# kill or a power loss the same command goes on: profiles/default/config.yaml.
import atexit
import json
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path

import yaml

from brainvis.configuration import ABLATIONS
from brainvis.files import BrainvisError, resolve, runs_folder
from brainvis.files.once import unchanging
from brainvis.files.running import STARTED
from brainvis.files.warm import WARM, start
from brainvis.graph import NOTEBOOKS, Choice, Job, plan

PLAN = Path(os.environ.get("BRAINVIS_PLAN", f".snakemake/plan-{os.getpid()}.json")).absolute()
PRESET, DATASET = config.get("preset", "demo"), config.get("dataset", "phantom")
LATER = {"seeds": [0, 1, 2], "seeds_until": "fusion", "seeds_ablations": ["full"]}  # what is cheap, of three seeds


if set("{}") & set(os.getcwd() + str(workflow.basedir)):  # Snakemake takes what is in them for wildcards
    sys.exit("brainvis: Snakemake cannot work in a folder whose path contains { or }; move or rename it")


def number(value):  # snakemake hands over the numbers of a list as text
    return int(value) if str(value).isdigit() else value


def planned():
    chosen = {key: config[key] for key in ("dataset", "preset", "protocol", "backbone") if key in config}
    given = LATER | config if PRESET == "demo" and not {"seed", "seeds"} & set(config) else config

    def listed(name, *default):
        values = given.get(name, [*default])
        return list(dict.fromkeys(map(number, values if isinstance(values, list) else [values])))

    subjects, ablations = listed("subjects", 1, 2), listed("ablations", *ABLATIONS)
    first, *later = listed("seeds", given.get("seed", 0))

    def of_seed(seed, ablations):
        full = [Choice(subject=subject, seed=seed, **chosen) for subject in subjects]
        return full + [Choice(subject=subjects[0], ablation=name, seed=seed, **chosen) for name in ablations]

    with unchanging():
        whole, some = of_seed(first, ablations), listed("seeds_ablations", *ablations)
        others = [choice for seed in later for choice in of_seed(seed, some)]
        return plan(whole, others, given.get("seeds_until", "generation")), str(whole[0].figures / "headlines.txt")


# On a cluster every job reads this file again: it takes the plan of the study that sent it, and the time of its start.
if workflow.remote_exec and PLAN.exists():
    TABLE, *jobs = json.loads(PLAN.read_text(encoding="utf-8"))
    JOBS = {job["folder"]: Job(**job) for job in jobs}
else:
    try:
        JOBS, TABLE = planned()
    except BrainvisError as wrong:  # a wrong choice is one sentence here, not a traceback through Snakemake
        sys.exit(f"brainvis: {wrong}")
if not workflow.remote_exec and not workflow.subprocess_exec:
    PLAN = Path(f".snakemake/plan-{os.getpid()}.json").absolute()
    try:
        PLAN.parent.mkdir(exist_ok=True)
        PLAN.write_text(json.dumps([TABLE, *(asdict(job) for job in JOBS.values())]), encoding="utf-8")
    except OSError as wrong:
        sys.exit(f"brainvis: {wrong}; name a writable folder: --directory FOLDER, or BRAINVIS_RUNS with make")
    atexit.register(PLAN.unlink, missing_ok=True)
    os.environ |= {"BRAINVIS_PLAN": str(PLAN), STARTED: str(time.time())}


onstart:
    if workflow.local_exec and not workflow.remote_exec and WARM not in os.environ and (warm := start()):
        os.environ[WARM] = warm


def job(wildcards):
    return JOBS["/".join((wildcards.study, wildcards.who, wildcards.ablation, wildcards.stage))]


NEEDS = yaml.safe_load(Path(workflow.basedir, "profiles", "needs.yml").read_text(encoding="utf-8"))
if PRESET not in NEEDS["presets"]:  # of a person's own
    PRESET = yaml.safe_load(resolve(PRESET).read_text(encoding="utf-8"))["start"]


def needs(notebook, what):
    """Memory or minutes of a notebook; a second attempt may have failed for want of them."""
    of_preset = NEEDS["presets"][PRESET]
    value = of_preset.get(notebook, of_preset["other"])[what] + NEEDS["more"].get(DATASET, {}).get(what, 0)
    return lambda wildcards, attempt: value * attempt


wildcard_constraints:
    who="sub-[^/]+",
    ablation="[^/]+",
    stage="[^/]+",
    fingerprint="[0-9a-f]+",


rule all:
    default_target: True
    localrule: True
    input:
        [job.done for job in JOBS.values()],


# Has no output, so that it prints what this study says whether or not anything had to run.
rule table:
    localrule: True
    input:
        [job.done for job in JOBS.values()],
    params:
        table=lambda wildcards: TABLE,
    shell:
        "cat {params.table:q}"


# Every executed notebook as a page, for `make share` and for Snakemake's report.
rule pages:
    localrule: True
    input:
        [job.done for job in JOBS.values()],
    output:
        report(
            directory(runs_folder() / "share" / "pages"),
            patterns=["{study}--{who}--{ablation}--{stage}.html"],
            category="{stage}",
            labels={"study": "{study}", "subject": "{who}", "ablation": "{ablation}"},
            caption="docs/pages.rst",
        ),
    params:
        python=sys.executable,
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        "{params.python:q} -m brainvis pages {params.folder:q}"


# One rule a notebook: its runs are counted under its name. What Snakemake looks for is an empty file that is named after
# the fingerprint of the run, so that a run that is out of date is one that is missing. The executed notebook is a log.
for place, notebook in enumerate(NOTEBOOKS.values()):
    stages = "|".join(sorted({job.stage for job in JOBS.values() if job.notebook == notebook})) or "none"

    rule:
        name:
            notebook
        input:
            runs=lambda wildcards: [JOBS[run].done for run in job(wildcards).built_from],
        output:
            f"{{study}}/{{who}}/{{ablation}}/{{stage,{stages}}}/{{fingerprint}}.whole",
        params:
            python=sys.executable,
            notebook=lambda wildcards: os.path.join(workflow.basedir, "notebooks", f"{job(wildcards).notebook}.ipynb"),
            executed=lambda wildcards: f"{job(wildcards).folder}/{job(wildcards).notebook}.ipynb",
            parameters=lambda wildcards: shlex.split(job(wildcards).parameters),
        priority: -place  # else a study ends with one long row of runs, one after the other
        threads: 1  # as in JupyterLab, so that the numbers are the same
        resources:
            mem_mb=needs(notebook, "mem_mb"),
            runtime=needs(notebook, "minutes"),
            gpu=int(config.get("gpu", 0)) if notebook in NEEDS["gpu"] else 0,
        message:
            f"{notebook} ({{wildcards.study}}, {{wildcards.who}}, {{wildcards.ablation}})"
        shell:
            "exec {params.python:q} -m brainvis run {params.notebook:q} {params.executed:q} {output:q} {params.parameters:q}"


include: "docs/studies/study.smk"

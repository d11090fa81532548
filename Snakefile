# Which runs are missing or out of date, and how to make them: data set x subject x ablation -> notebooks -> figures.
#
#   snakemake --cores 2                                                    the default study
#   snakemake --cores 2 --config dataset=eegcvpr40 preset=paper 'subjects=[1,2,3,4,5,6]' 'ablations=[full]'
#   snakemake --cores 2 --dry-run                                          only say what would run
#
# `full` runs for all subjects, the other ablations for the first. The graph itself is in brainvis/graph.py.
import sys

from brainvis.configuration import ABLATIONS
from brainvis.files import BrainvisError
from brainvis.graph import NOTEBOOKS, Choice, plan


def number(value):  # snakemake hands over the numbers of a list as text
    return int(value) if str(value).isdigit() else value


CHOICES = {key: config[key] for key in ("dataset", "preset", "seed", "protocol", "backbone") if key in config}
SUBJECTS = [number(subject) for subject in config.get("subjects", [1, 2])]
try:
    FULL = [Choice(subject=subject, **CHOICES) for subject in SUBJECTS]
    REST = [Choice(subject=SUBJECTS[0], ablation=name, **CHOICES) for name in config.get("ablations", ABLATIONS)]
    JOBS = plan(FULL + REST)
except BrainvisError as wrong:  # a wrong choice is one sentence here, not a traceback through Snakemake
    sys.exit(f"brainvis: {wrong}")


def job(wildcards):
    return JOBS["/".join((wildcards.study, wildcards.who, wildcards.ablation, wildcards.stage))]


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


# Has no output, so that it prints the table of this study whether or not anything had to run.
rule table:
    localrule: True
    input:
        rules.all.input,
    params:
        table=FULL[0].figures / "results.md",
    shell:
        "cat {params.table:q}"


# One rule a notebook: its runs are counted under its name. What Snakemake looks for is an empty file that is named after
# the fingerprint of the run, so that a run that is out of date is one that is missing. The executed notebook is a log,
# the fingerprint of the run, so that a run that is out of date is one that is missing.
for notebook in NOTEBOOKS.values():
    stages = "|".join(sorted({job.stage for job in JOBS.values() if job.notebook == notebook})) or "none"

    rule:
        name:
            notebook
        input:
            runs=lambda wildcards: [JOBS[run].done for run in job(wildcards).built_from],
        output:
            f"{{study}}/{{who}}/{{ablation}}/{{stage,{stages}}}/{{fingerprint}}.whole",
        params:
            notebook=os.path.join(workflow.basedir, "notebooks", f"{notebook}.ipynb"),
            executed=f"{{study}}/{{who}}/{{ablation}}/{{stage}}/{notebook}.ipynb",
            parameters=lambda wildcards: job(wildcards).parameters,
        message:
            f"{notebook} ({{wildcards.who}}, {{wildcards.ablation}})"
        shell:
            "papermill --kernel python3 {params.notebook:q} {params.executed:q} {params.parameters} && touch {output:q}"

# The whole orchestration: data and weights -> runs -> result notebooks -> report. run_all.sh calls it.
#
# plan.json has the facts, made of papers.py by vtlib/graph.py: jobs {name: rule, what, needs, output, notebook, ...}.
# Each job is `python -m vtlib.launch job PLAN NAME`. Its output is written last and whole, so its being there is "done";
# the executed notebook is a log, which is kept where a cell fails. Paths are relative to the results of the profile.
import json
import shlex
import sys
from pathlib import Path

jobs = json.loads(Path(config["plan"]).read_text())["jobs"]  # of the folder that Snakemake works in
python = shlex.quote(sys.executable).replace("{", "{{").replace("}", "}}")  # Snakemake formats what is in braces
job = f"{python} -m vtlib.launch job {config['plan']}"
said = "> {log.said} 2>&1"


def needs(wildcards):
    """What a job waits for. A finished run asks for nothing: its id is its identity, and no file's time undoes it."""
    about = jobs[wildcards.name]
    return [] if about["rule"] == "train" and Path(about["output"]).exists() else about["needs"]


def what(wildcards):
    return jobs[wildcards.name]["what"]


rule all:
    input: [about["output"] for about in jobs.values() if about["target"]]
    message: "all of it"


rule data:  # a set, or weights to start from: all cores draw the one and train the other
    output: "data/{name}.json"
    log: said="jobs/{name}.log"
    params: what=what
    message: "{params.what}"
    threads: config["cores"]
    priority: 1
    resources: gpu=lambda wildcards: config["gpu"] * (jobs[wildcards.name]["rule"] == "weights"), mem_mb=config["mem_mb"]
    shell: f"{job} {{wildcards.name}} {said}"


rule train:
    input: needs
    output: "runs/{name}/metrics.json"
    log: notebook="runs/{name}/10_train.ipynb", said="jobs/{name}.log"
    params: what=what
    message: "{params.what}"
    threads: config["threads"]
    resources: gpu=config["gpu"], mem_mb=config["mem_mb"]
    shell: f"{job} {{wildcards.name}} {said}"


rule notebook:
    input: needs
    output: "notebooks/{name}.json"
    log: notebook="notebooks/{name}.ipynb", said="jobs/{name}.log"
    params: what=what
    message: "{params.what}"
    resources: mem_mb=config["mem_mb"]
    shell: f"{job} {{wildcards.name}} {said}"

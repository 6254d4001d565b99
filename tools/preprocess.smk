# `scale-engine preprocess` as jobs of Snakemake: a part of a pass each, on the cores of one machine or on a cluster.
#
#   snakemake -s tools/preprocess.smk --cores 8 --config out=DATA \
#       command="scale-engine preprocess plate*.h5ad --pert-col drugname_drugconc --control-pert ... --celltype-col cell_line"
#
# On Slurm: pip install snakemake-executor-plugin-slurm, then add
#   --executor slurm --jobs 100 --default-resources slurm_partition=NAME runtime=120
# DATA is the same to the byte as what the command makes by itself. `work`, where parts lie meanwhile (DATA.work), must be seen by all
# nodes; what is there when a job or the whole run is killed is not made again. `part_cells` sets the size of a part.
import json
import subprocess

out = config["out"]
work = config.get("work", f"{out}.work")
command = f"{config['command']} --out '{out}' --work '{work}' --part-cells {config.get('part_cells', 1 << 18)}"
plan = json.loads(subprocess.check_output(f"{command} --dry-run --json", shell=True))
passes = plan["passes"]


def before(name):
    """All parts of all passes before this one: each pass looks at what every earlier one found."""
    earlier = passes[: passes.index(name)] if name else passes
    return [f"{work}/{name}/{k:05}" for name in earlier for k in range(plan["parts"])]


rule data:
    input: before(None)
    output: f"{out}/manifest.json"
    threads: workflow.cores
    resources: mem_mb=4000
    # Snakemake makes the folder of its output, which the command will not write over.
    shell: "rmdir '{out}' 2>/dev/null || true; {command}"


rule part:
    input: lambda wildcards: before(wildcards.name)
    output: temp(work + "/{name}/{k}")
    wildcard_constraints: name="[a-z]+", k="[0-9]+"
    threads: 4
    resources: mem_mb=2000
    shell: "{command} --threads {threads} --part {wildcards.name}/$((10#{wildcards.k}))"

# What the rules of a table share: every arm and seed goes through the five scripts, by their ordinary command lines.
#
# What is large goes to tables_out/<table>/ and data_augmented/<table>/; tables and pictures to results/<table>/. Runs
# lie in tables_out/<table>/runs/ until the table is made, and then in two files of results/<table>/.
# conf/tables/smoke.yaml says what each key of a table means.

from workflow.check import check_results, check_table
from workflow.results import clear, made_of, read_study
from workflow.table import NAME, dump_of, is_plain, needs, runs

try:
    check_table(config)
    config = plain_paths(config)
    check_results(config, Path("results", config["table"]), made_of(config["table"]))
    DONE = read_study(Path("results", config["table"])).records
except InputError as error:
    raise WorkflowError(str(error)) from None

TABLE = config["table"]
WORK, RESULTS, RUNS = f"tables_out/{TABLE}", f"results/{TABLE}", made_of(TABLE)
# The learning rate of a run, as workflow.table.run_of writes it; nothing where the table does not search over several.
RATE = "-rate-" if config.get("learning_rates") else ""
# Finished results are left out, so that their uncommitted inputs are not made again.
TO_DO = [f"{RUNS}/{file}" for file in runs(config) if file not in DONE]
TO_DO = [path for path in [f"{RESULTS}/keep_probabilities.json", *TO_DO] if not Path(path).exists()]
# By name too: otherwise a deleted run would not be made again while table.md is there.
TARGETS = [*TO_DO, f"{RESULTS}/table.md"]


# Not by the rule that adds them: Snakemake looks for its targets once more at the end.
onsuccess:
    clear(RUNS, Path(RESULTS))


def section(name: str) -> dict:
    return config.get(name) or {}


def weights(wildcards) -> list[str]:
    """The dump that guides an arm: none or one."""
    dump = dump_of(config, wildcards.arm, wildcards.seed)
    return [f"{WORK}/{dump}.pkl"] if dump else []


def texts(wildcards) -> str:
    """What an arm is trained on; the dataset itself where nothing is dropped."""
    if is_plain(config, wildcards.arm):
        return config["dataset"]
    return f"data_augmented/{TABLE}/{wildcards.arm}-{wildcards.seed}.csv"


def resources(rule: str) -> dict:
    found = {key: needs(config, rule)[key] for key in ("mem_mb", "runtime", "gpu")}
    return {key: value for key, value in found.items() if value}


def of_size(key: str):
    """What rule attention may use, as a function of the model's size."""
    return lambda wildcards: needs(config, f"attention_{wildcards.size}")[key]


def launcher(rule: str) -> str:
    processes = needs(config, rule)["processes"]
    return f"{PYTHON} -m torch.distributed.run --standalone --nproc-per-node {processes}" if processes > 1 else PYTHON


wildcard_constraints:
    arm=NAME,
    seed="[0-9]+",
    rate=f"{RATE}[0-9.e-]+" if RATE else "()",
    part="[0-9]+",
    evaluation=NAME,

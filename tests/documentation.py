"""Run the examples of the documentation: `make test-docs`, or `python -m tests.documentation [PAGE ...]`.

The commands, Python and SQL of each page below run in their order, in one folder and one store that the first page makes: a small synthetic
corpus as pictures, trained for a few steps. Prints how many blocks of each page ran and which lines were left out, with the reason.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(?P<kind>bash|python|sql|toml)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"^# ([\w-]+\.(?:py|toml))\n")
PROMOTE = "alchemist rater promote --without-acceptance 'trained for a few steps, to try a page'"
AN_IMAGE = (
    """$(alchemist db psql -At -c "select encode(image_hash, 'hex') from alchemist.samples where sample_id = 1")"""
)
SECOND_VERSION = (
    "alchemist select --retention 0.5 --seed 1 --name good-half && alchemist train-downstream good-half --version 2"
)
SERVES = {f"alchemist {command}": "serves until it is stopped" for command in ("explore", "serve-metrics")}
LONGEST_S = 900
FEW_STEPS = {
    "[rater]": "proxy_warmup_steps = 20\nmax_train_steps = 20\nbatch_size = 32\n",
    "[downstream]": "max_train_steps = 6\nbatch_size = 16\n",
}
"""Lines that the project file gets, so that trainings take seconds."""


@dataclass(frozen=True)
class Page:
    """A page whose examples run: what is replaced in them, which lines are left out and why, and which exit codes are expected."""

    path: str
    replaced: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)


PAGES = (
    Page(
        "docs/tutorials/own-folder.md",
        replaced={"alchemist rater promote": PROMOTE},
        expected={"alchemist rater certify": 5},
    ),
    Page(
        "docs/how-to/query.md",
        replaced={"scenes-auto-r20": "good-half", "-f sql/": f"-f {CHECKOUT}/sql/"},
    ),
    # The datasets and the subset of the tutorial, whose results are reused.
    Page(
        "README.md",
        replaced={"alchemist init ": "alchemist init --force ", "num_workers=4": "num_workers=1"},
        left_out={
            "make ": "runs the demo", "source ": "this shell has it", "corpus import": "the tutorial has done it",
        },
        expected={"alchemist train-rater": 5},
    ),
    Page("docs/how-to/connect.md"),
    Page("docs/how-to/size-a-store.md", replaced={"alchemist plan train": "cd / && alchemist plan train"}),
    Page("docs/how-to/several-gpus.md", replaced={"alchemist plan train": "cd / && alchemist plan train"}),
    Page(
        "docs/how-to/rotate-secrets.md",
        left_out={
            "alchemist stack": "needs Airflow", "infra/secrets": "of compose", "docker": "of compose", "kubectl": "needs a cluster",
            "_PASSWORD_FILE": "needs a server of your own", "provision": "needs a server of your own",
        },
    ),
    Page(
        "docs/how-to/run-experiments.md",
        left_out={"alchemist experiment run": "trains for an hour", "experiment show": "there is none"},
    ),
    # The tutorial has one version only.
    Page("docs/how-to/read-a-comparison.md", replaced={"alchemist train-downstream good-half --version 2": SECOND_VERSION}),
    Page("docs/how-to/train-on-a-subset.md", left_out={"s3://": "needs a bucket"}),
    Page("docs/tutorials/new-scorer.md", replaced={"--dataset scenes": "--dataset web"}),
    Page(
        "docs/how-to/import-scores.md",
        # The synthetic corpus has no URLs, and the scores are those of a rater of a few steps.
        replaced={"--key source_url --column similarity": "--key pair_hash", "> 0.28": "> -1000"},
    ),
    # Outside of the project, whose file holds values of the preset tiny.
    Page("docs/how-to/choose-a-preset.md", replaced={"alchemist plan": "cd / && alchemist plan"}),
    Page(
        "docs/how-to/choose-a-validation-dataset.md",
        left_out={"critic": "trains for minutes", "--recipe fusion": "needs the critic"},
    ),
    Page(
        "docs/how-to/tune-the-rank-window.md",
        left_out={
            "alchemist tune-selection run --rater production --dataset web --evaluation web-test": "trains for minutes",
            "alchemist tune-selection search --dataset web --validation web-validation --evaluation web-test --retention 0.5 --budget 45": (
                "trains for an hour"
            ),
        },
    ),
    Page("docs/how-to/repeat-and-weigh.md", left_out={"alchemist experiment": "trains for hours"}),
    Page("docs/how-to/held-night.md", left_out={"--reason": "no night is held"}),
    Page("docs/how-to/flag-samples.md", replaced={"1234 1235 web/2026-11-01/0001.tar/000017": "1 2 3"}),
    Page("docs/how-to/take-an-image-down.md", replaced={"--url https://example.com/a.jpg": f"--image-hash {AN_IMAGE}"}),
    Page("docs/tutorials/reproduce-a-table.md", left_out={"alchemist experiment": "trains for an hour"}),
    Page(
        "docs/how-to/back-up.md",
        replaced={"/data/restored": "restored", "../backups/": "backups-"},
        left_out={"--move-root": "nothing was recaptioned"},
    ),
)  # fmt: skip


class ExampleError(Exception):
    """An example ended with another exit code than expected."""


def main(wanted: list[str]) -> int:
    """Run the pages; the first one always, because it makes the store."""
    pages = [page for page in PAGES if not wanted or page is PAGES[0] or any(word in page.path for word in wanted)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ALCHEMIST_")}
    environment |= {"PYTHONPATH": str(CHECKOUT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    n_failed = 0
    with tempfile.TemporaryDirectory(prefix="alchemist-examples-") as folder:
        work = Path(folder)
        # So that the account that runs Postgres for root can reach it.
        work.chmod(0o755)
        try:
            prepare(work, environment)
            for page in pages:
                n_failed += try_page(page, work, environment)
        finally:
            for home in (work / ".alchemist", work / "restored"):
                run(["bash", "-c", f"ALCHEMIST_HOME={home} alchemist db stop"], work, environment)
    print(f"{len(pages)} pages, {n_failed} failed")
    return int(n_failed > 0)


def prepare(work: Path, environment: dict[str, str]) -> None:
    """Make folders of pictures with captions from a small synthetic corpus."""
    sizes = "--n-train 240 --n-validation 200 --n-test 64 --side 32 --shard-size 40"
    run(["bash", "-c", f"alchemist corpus scenes --out raw {sizes}"], work, environment)
    for tar in sorted(work.glob("raw/*/**/*.tar")):
        role = tar.relative_to(work / "raw").parts[0]
        with tarfile.open(tar) as archive:
            archive.extractall(work / "pictures" / role / f"{tar.parent.name}-{tar.stem}", filter="data")
    shutil.rmtree(work / "raw")


def try_page(page: Page, work: Path, environment: dict[str, str]) -> int:
    """Run the blocks of a page; returns 1 if one failed."""
    n_run, left_out, own = 0, [], dict(environment)
    try:
        for kind, text in blocks(page):
            n_run += 1
            if named := FILE_NAME.match(text):
                (work / named[1]).write_text(text)
            elif kind == "python":
                run([sys.executable, "-c", text], work, own)
            elif kind == "sql":
                run(["alchemist", "db", "psql", "-v", "ON_ERROR_STOP=1", "-c", text], work, own)
            elif kind == "bash":
                left_out += try_commands(page, text, work, own)
    except ExampleError as error:
        print(f"FAILED  {page.path}: {error}", flush=True)
        return 1
    print(
        f"ok      {page.path}: {n_run} blocks" + "".join(f"\n        left out: {line}" for line in left_out), flush=True
    )
    return 0


def blocks(page: Page) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of each block of a page, with what is replaced in it."""
    for found in BLOCK.finditer((CHECKOUT / page.path).read_text(encoding="utf-8")):
        text = found["text"]
        for former, present in page.replaced.items():
            text = text.replace(former, present)
        yield found["kind"], text


def try_commands(page: Page, text: str, work: Path, environment: dict[str, str]) -> list[str]:
    """Run each line of a block; returns those that were left out, with the reason."""
    left_out = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        is_dry_run = "--dry-run" in line.split()
        reason = next((why for word, why in (page.left_out | SERVES).items() if word in line and not is_dry_run), None)
        if reason is not None:
            left_out.append(f"{line} ({reason})")
            continue
        if line.startswith("export "):
            for word in shlex.split(line)[1:]:
                name, _, value = word.partition("=")
                value = value.replace("$PWD", str(work))
                environment[name] = value if name != "PYTHONPATH" else f"{value}:{environment[name]}"
            continue
        if line.startswith("alchemist import scores"):
            run(["bash", "-c", "alchemist export scores --out scores.parquet"], work, environment)
        expected = next((code for word, code in page.expected.items() if line.startswith(word)), 0)
        run(["bash", "-c", line], work, environment, expected)
        if line.startswith("alchemist init"):
            shorten(work / "alchemist.toml")
    return left_out


def shorten(project: Path) -> None:
    """Let the project file train for a few steps."""
    text = project.read_text(encoding="utf-8")
    for section, lines in FEW_STEPS.items():
        head = next(line for line in text.splitlines() if line.startswith(section))
        text = text.replace(head, f"{head}\n{lines.rstrip()}")
    project.write_text(text, encoding="utf-8")


def run(command: list[str], work: Path, environment: dict[str, str], expected: int = 0) -> None:
    """Run a command.

    Raises:
        ExampleError: It ended with another exit code, or not in `LONGEST_S`.
    """
    try:
        done = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired:
        raise ExampleError(f"did not end in {LONGEST_S} s: {command[-1]}") from None
    if done.returncode != expected:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise ExampleError(f"exit code {done.returncode}, expected {expected}: {command[-1]}\n{said}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What has to be waited for before anything happens."""

import subprocess
import sys

from benchmarks.measure import Case, Settings, Suite, Way, waited


def _python(code: str) -> Way:
    return waited(lambda: subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL))


def _ways(quick: bool) -> dict[str, Way]:
    command = "import sys; from metazoo.cli import main; sys.argv[0] = 'metazoo'; sys.exit(main({arguments}))"
    with_torch = {} if quick else {"python with torch": _python("import torch")}
    return with_torch | {
        "python alone": _python("pass"),
        "import metazoo": _python("import metazoo"),
        "metazoo --help": _python(command.format(arguments=["--help"])),
    }


def cases(settings: Settings) -> list[Case]:
    return [Case("a fresh process", lambda: _ways(settings.quick))]


SUITE = Suite("startup", "Seconds from the start of a process; what needs torch waits for the first row.", cases)

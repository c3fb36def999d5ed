"""Install packages with uv, in a fifth of pip's time.

uv does not read pip's settings, so those that say where packages come from (a company's mirror, a folder of wheels) are handed to it.

    python infra/install.py -c constraints.txt -e '.[dev]'
"""

import ast
import os
import subprocess
import sys

VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}


def pip_settings() -> dict[str, str]:
    """Return pip's settings by option; the environment's settings (`:env:`) win over those of files."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    pairs = (line.split("=", 1) for line in listed.stdout.splitlines() if "=" in line)
    found = {name: ast.literal_eval(value) for name, value in pairs}
    return {name.rsplit(".", 1)[-1]: found[name] for name in sorted(found, key=lambda name: name.startswith(":env:"))}


if __name__ == "__main__":
    settings = pip_settings()
    variables = {VARIABLES[option]: value for option, value in settings.items() if option in VARIABLES}
    # On the command line: uv ignores the constraints of its variable where an option names others.
    constraints = [word for path in settings.get("constraint", "").split() for word in ("-c", path)]
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--python",
        sys.executable,
        *constraints,
        *sys.argv[1:],
    ]
    raise SystemExit(subprocess.run(command, env=variables | os.environ, check=False).returncode)

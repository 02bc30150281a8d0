#!/usr/bin/env python3
"""Creates the virtual environment of the project and installs the locked stack into it.

Runs on any Python 3 without packages, because its first duty is to say in one sentence why it cannot go on. A stamp in
the environment makes a second run free; any change of the lock, of setup.py or of this file renews it.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOCK = os.path.join(ROOT, "requirements", "lock.txt")
SUPPORTED = ((3, 11), (3, 12))
NEEDED_GIB = {"cpu": 10, "cuda": 14}  # torch from the index brings its CUDA libraries even where they are not used
UNREACHABLE = (
    "Connection",
    "Name or service not known",
    "Temporary failure in name resolution",
    "Network is unreach",
    "No route to host",
    "timed out",
    "ProxyError",
    "SSLError",
)
FULL = ("No space left on device", "Errno 28", "Disk quota exceeded")
NO_VENV = ("ensurepip is not available", "No module named venv", "No module named ensurepip")


def stop(sentence):
    """Ends with one sentence that says what is wrong and what to do."""
    sys.exit("perceptkd: " + sentence)


def check_python():
    """Raises SystemExit unless this interpreter is one the lock has wheels for."""
    if sys.version_info[:2] not in SUPPORTED:
        supported = " or ".join(f"{major}.{minor}" for major, minor in SUPPORTED)
        found = ".".join(map(str, sys.version_info[:3]))
        too = "old" if sys.version_info[:2] < SUPPORTED[0] else "new"
        stop(
            f"Python {found} at {sys.executable} is too {too}: Python {supported} is needed. Install one and run the "
            "command again, or name it: make PYTHON=/path/to/python3.11"
        )


def check_disk(venv, device):
    """Raises SystemExit when the file system of the environment has too little room for the stack."""
    folder = os.path.dirname(venv)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free / 2**30
    if free < NEEDED_GIB[device]:
        stop(
            f"the disk of {folder} has {free:.1f} GiB free, the installation needs {NEEDED_GIB[device]} GiB. Free some "
            "room, or put the environment on another disk: make VENV=/other/disk/venv"
        )


def stamp_of(extras):
    """Returns a digest of everything that decides what is installed."""
    digest = hashlib.sha256(extras.encode())
    for path in (LOCK, os.path.join(ROOT, "setup.py"), os.path.abspath(__file__)):
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def tell_other_python(venv):
    """Says when the environment stays one of another Python than the one that runs this."""
    path = os.path.join(venv, "pyvenv.cfg")
    if not os.path.exists(path):
        return
    with open(path) as file:
        found = dict(line.partition(" = ")[::2] for line in file.read().splitlines()).get("version", "")
    version = "{}.{}".format(*sys.version_info[:2])
    if not found or found.startswith(version + "."):
        return
    if tuple(map(int, found.split(".")[:2])) not in SUPPORTED:
        stop(f"{venv} is of Python {found}, which the stack has no wheels for. Remove it and run the command again.")
    print(f"perceptkd: {venv} is of Python {found} and stays so; remove it to make one of {version}", flush=True)


def has_pip(python):
    """Returns whether this interpreter starts and has pip; an installation that was cut off may have left neither."""
    try:
        result = subprocess.run([python, "-m", "pip", "--version"], capture_output=True)
    except OSError:
        return False
    return result.returncode == 0


def create_environment(venv):
    """Creates the environment, from the start where only a part of one is there; returns its interpreter."""
    python = os.path.join(venv, "bin", "python")
    if has_pip(python):
        tell_other_python(venv)
        return python
    # Only what is an environment is cleared: VENV may name any folder, and its files are not ours to delete.
    is_environment = os.path.isfile(os.path.join(venv, "pyvenv.cfg"))
    if os.path.lexists(python) and not is_environment:
        stop(f"{venv} holds a Python without pip and is no virtual environment. Name another: make VENV=/path/to/venv")
    command = [sys.executable, "-m", "venv", *(["--clear"] if is_environment else []), venv]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        stop(explain_venv_failure(result.stdout, venv))
    return python


def explain_venv_failure(output, venv):
    """Returns the sentence about what `python -m venv` printed when it failed."""
    package = "python{}.{}-venv".format(*sys.version_info[:2])
    if any(word in output for word in NO_VENV):
        return (
            f"{sys.executable} cannot create virtual environments, a part of it is missing. On Debian and Ubuntu: sudo "
            f"apt install {package}. Then run the command again."
        )
    if any(word in output for word in FULL):
        return f"the disk of {venv} became full. Free some room and run the command again."
    reason = (output.strip().splitlines() or ["it said nothing"])[-1].strip()
    return (
        f"the environment {venv} could not be created ({reason}). Usual reasons are a folder that must not be written "
        f"to, a full disk and, on Debian and Ubuntu, a missing package (sudo apt install {package})."
    )


def pip(python, arguments):
    """Runs pip, shows what it prints, and turns its failures into a sentence."""
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if not line.startswith(("Requirement already", "WARNING: Location")):
            print("  " + line.rstrip()[:160], flush=True)
    if process.wait() == 0:
        return
    output = "".join(lines)
    if any(word in output for word in FULL):
        stop("the disk became full during the installation. Free some room and run the command again; it continues.")
    if any(word in output for word in UNREACHABLE):
        stop(
            "the package index cannot be reached. Check the network (or pip's index-url and proxy settings) and run "
            "the command again; it continues."
        )
    stop(
        f"pip failed with status {process.returncode}; its last lines above say why. The command was: "
        + " ".join(command)
    )


def install(venv, extras):
    """Creates the environment and installs the project, editable, at the versions of the lock."""
    python = create_environment(venv)
    requirement = f"{ROOT}[{extras}]" if extras else ROOT
    pip(python, ["install", "--progress-bar", "off", "-c", LOCK, "-e", requirement])
    # The stack asks for both OpenCV wheels, which unpack into one folder; without libGL only the headless one imports.
    pip(
        python,
        [
            "install",
            "-q",
            "--progress-bar",
            "off",
            "--force-reinstall",
            "--no-deps",
            "-c",
            LOCK,
            "opencv-python-headless",
        ],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", default=os.path.join(ROOT, ".venv"), help="folder of the environment")
    parser.add_argument("--extras", default="dev", help="extras of setup.py, separated by commas")
    parser.add_argument("--device", choices=sorted(NEEDED_GIB), default="cpu", help="decides the room that is needed")
    arguments = parser.parse_args()
    check_python()
    venv = os.path.abspath(arguments.venv)
    stamp_path, stamp = os.path.join(venv, "perceptkd.stamp"), stamp_of(arguments.extras)
    if os.path.exists(stamp_path):
        with open(stamp_path) as file:
            if file.read() == stamp:
                tell_other_python(venv)
                return
    else:
        check_disk(venv, arguments.device)  # an update of a whole environment needs little
    print(f"perceptkd: installing into {venv} (a few minutes the first time)", flush=True)
    start = time.time()
    install(venv, arguments.extras)
    try:
        with open(stamp_path, "w") as file:
            file.write(stamp)
    except OSError as error:
        stop(f"everything is installed, but {stamp_path} cannot be written ({error.strerror}). Free some room.")
    print(f"perceptkd: installed in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()

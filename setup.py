"""Packaging of perceptkd: the dependency ranges live here, the exact versions in ``requirements/lock.txt``."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "perceptkd" / "__init__.py").read_text()).group(1)

REQUIRES = [
    "matplotlib",
    "mmdet3d==1.4.0",
    "numba",
    "numpy<2",
    "nuscenes-devkit>=1.2",
    "onedl-mmcv>=2.3.6",
    "onedl-mmdetection>=3.5.1",
    "onedl-mmengine>=0.10.12",
    "opencv-python-headless",
    "pillow",
    "pycocotools",
    "torch>=2.4",
    "tqdm",
]
LAS = ["laspy", "lazrs"]  # LAS and LAZ point clouds
SEGMENTATION = ["ftfy", "onedl-mmsegmentation==1.3.0", "regex"]  # it imports the two without asking for them
EXTRAS = {
    "seg": SEGMENTATION,
    "ovd": ["transformers", "open_clip_torch"],
    "deploy": ["onnx", "onnxruntime", "onnxscript"],
    "eval": ["hotcoco"],
    "las": LAS,
    "cu126": ["spconv-cu126==2.3.8"],
    "tracking": ["tensorboard", "wandb"],
    "dev": [
        "build",
        "hypothesis",
        "mypy",
        "pytest",
        "pytest-xdist",
        "ruff",
        "spconv==2.3.8",
        "tensorboard",
        "triton>=3.4; sys_platform == 'linux'",
        *LAS,
        *SEGMENTATION,
    ],
}


class BuildWithConfigs(build_py):
    """Puts ``configs/`` into the wheel as ``perceptkd/.mim/configs``, where ``perceptkd::...`` finds them."""

    def run(self) -> None:
        super().run()
        target = Path(self.build_lib) / "perceptkd" / ".mim" / "configs"
        shutil.copytree(ROOT / "configs", target, dirs_exist_ok=True)


setup(
    name="perceptkd",
    version=VERSION,
    description="Knowledge distillation for perception, across architectures and across sensors",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["perceptkd", "perceptkd.*"]),
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["perceptkd = perceptkd.cli.console:main"]},
    cmdclass={"build_py": BuildWithConfigs},
)

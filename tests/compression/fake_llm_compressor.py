"""A Python that has a double of llm-compressor: the real script runs in it, and what it tells is the real thing.

The double halves the weights of every linear layer but those that are ignored, and says nothing else of the library.
"""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGES = {
    "llmcompressor/__init__.py": """
import os, subprocess, sys, time
from pathlib import Path
import torch

def oneshot(*, model, recipe, dataset):
    for sample in dataset:
        model(**sample)
    asked = recipe[0].asked
    if "hang" in asked:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        Path(asked["hang"]).write_text(f"{os.getpid()} {child.pid}")
        time.sleep(300)
    if "fail" in asked:
        raise RuntimeError(asked["fail"])
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear) and name not in recipe[0].ignore:
                layer.weight.mul_(0.5)
    model.save_pretrained = lambda folder, **_: type(model).save_pretrained(model, folder)
""",
    "llmcompressor/core.py": """
from contextlib import contextmanager

class LifecycleCallbacks:
    calibration_start = staticmethod(lambda: None)

class _Session:
    def initialize(self, **_): ...

@contextmanager
def create_session():
    yield _Session()
""",
    "llmcompressor/modeling/__init__.py": "",
    "llmcompressor/modeling/moe/__init__.py": "",
    "llmcompressor/modeling/moe/linearize.py": "get_non_linearized_moes = lambda model: []",
    "llmcompressor/modifiers.py": """
class _Modifier:
    requires_calibration_data = True

    def __init__(self, ignore=(), sparsity=None, asked=None):
        self.ignore, self.sparsity, self.asked, self.targets = list(ignore), sparsity, asked or {}, ["Linear"]

class ModifierFactory:
    refresh = staticmethod(lambda: None)

    @staticmethod
    def create(name, allow_registered, allow_experimental, **options):
        return type(name, (_Modifier,), {})(**options)
""",
    "llmcompressor/pipelines/__init__.py": "",
    "llmcompressor/pipelines/cache.py": "class IntermediatesCache: ...",
    "loguru.py": "class logger:\n    remove = staticmethod(lambda: None)",
    "compressed_tensors/__init__.py": "",
    "compressed_tensors/quantization.py": "QuantizationStrategy = preset_name_to_scheme = None",
    "compressed_tensors/utils.py": """
def match_named_modules(model, targets, ignore=None):
    return [(n, m) for n, m in model.named_modules() if type(m).__name__ in targets and n not in (ignore or ())]
""",
    "llmcompressor-9.dist-info/METADATA": "Name: llmcompressor\nVersion: 9",
    "compressed_tensors-9.dist-info/METADATA": "Name: compressed-tensors\nVersion: 9",
}
_RUN = """
import runpy, sys
sys.path.insert(0, {packages!r})
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def build_python(folder: Path) -> Path:
    """Write the packages, and a program that takes a script as Python does, and finds them."""
    packages = folder / "packages"
    for name, text in _PACKAGES.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text(text)
    run = folder / "run.py"
    run.write_text(_RUN.format(packages=str(packages)))
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nshift\nexec "{sys.executable}" -I "{run}" "$@"\n')
    python.chmod(0o755)
    return python

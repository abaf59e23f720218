"""The modules are what the notebooks say, formatted; the lazy names are what the table says."""

import shutil
import subprocess
import sys

import pytest

from tests.house.export import export
from tests.house.lazy_names import with_block
from tests.house.repository import GENERATED, HAND_WRITTEN, MODULES, PACKAGE, ROOT, name_of, short


def test_generated_files_are_what_the_notebooks_say(tmp_path):
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs")
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    for module in HAND_WRITTEN:
        target = tmp_path / module.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, target)
    export(tmp_path, with_block)
    fresh = {
        str(p.relative_to(tmp_path)): p.read_text()
        for p in (tmp_path / "impsamp").rglob("*.py")
        if p.name != "_modidx.py"
    }
    here = {short(m): m.read_text() for m in MODULES}
    assert sorted(fresh) == sorted(here), "a module without a notebook, or a notebook not exported"
    changed = [n for n in fresh if fresh[n] != here[n]]
    assert changed == [], "edited by hand or not exported: run `make export`"


def check_runs(code):
    "In a Python of its own, so that nothing is imported yet."
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_is_light_and_every_public_name_resolves():
    code = (
        "import sys, impsamp\n"
        "heavy = {'numba', 'sklearn', 'pandas', 'matplotlib', 'sympy', 'papermill'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "[getattr(impsamp, name) for name in impsamp.__all__]\n"
        "assert 'impsamp.reproduce' not in sys.modules"
    )
    check_runs(code)


def test_a_public_name_is_no_module_of_the_package():
    import impsamp

    modules = {name_of(m).rpartition(".")[2] for m in MODULES}
    assert modules & set(impsamp.__all__) == set()


def test_a_function_is_the_function_whatever_is_imported_first():
    code = (
        "from impsamp import RestartResult, restart\n"
        "import impsamp.linear.restarts\n"
        "from impsamp import restart as again\n"
        "assert callable(restart) and again is restart"
    )
    check_runs(code)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("grad_norm", "no attribute 'grad_norm'; did you mean 'grad_norms'"),
        ("qqq", r"public names: .*SVRG"),
    ],
)
def test_a_misspelt_public_name_suggests_the_nearest(name, message):
    import impsamp

    with pytest.raises(AttributeError, match=message):
        getattr(impsamp, name)


REFUSED = (
    "np.random.seed",
    "torch.manual_seed(",
    "torch.load(",
    "pickle.load",
    "joblib.Memory",
    "allow_pickle=True",
    # numba's own cache: an index that two processes can spoil, in a folder that nobody checks
    "cache=True",
)
# The one place that unpickles: machine code that this user's processes wrote, from a folder that
# is this user's alone (see SECURITY.md and tests/test_kernels.py).
# Trainer's checkpoints are torch's files: read there as tensors and plain values alone.
ALLOWED = {
    ("impsamp/kernels.py", "pickle.load"),
    ("impsamp/integrations/transformers.py", "torch.load("),
}


@pytest.mark.parametrize("module", GENERATED, ids=short)
def test_library_code_uses_no_global_randomness_and_unpickles_nothing(module):
    text = module.read_text()
    for bad in REFUSED:
        if (short(module), bad) not in ALLOWED:
            assert bad not in text, f"{short(module)} uses {bad}"


def test_old_import_paths_work():
    from impsamp.data import load_mnist01
    from impsamp.gradnorms import grad_norms
    from impsamp.linear import VRClassifier
    from impsamp.samplers import AliasTable, Thinning
    from impsamp.schemes import Stale

    assert all(map(callable, (load_mnist01, grad_norms, VRClassifier, AliasTable, Stale)))
    import impsamp.thinning

    assert Thinning is impsamp.thinning.Thinning
    assert (PACKAGE / "py.typed").is_file()


def test_what_torch_loads_are_tensors_and_plain_values():
    module = PACKAGE / "integrations" / "transformers.py"
    loads = [line for line in module.read_text().splitlines() if "torch.load(" in line]
    assert loads and all("weights_only=True" in line for line in loads)

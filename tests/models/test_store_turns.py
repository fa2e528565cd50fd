"""Several at one store: processes and threads take turns."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from edgerun.models.store import Store
from tests.models.stores import put_bare
from tests.real_models import ROOT, model_file


def test_processes_and_threads_take_turns(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgerun.models.store import Store; "
        "from tests.models.stores import put_bare; from tests.real_models import model_file\n"
        "for n in range(4): put_bare(Store.open(Path(sys.argv[1])), model_file('okay_nabu.tflite'), sys.argv[2])"
    )
    words = [[sys.executable, "-c", code, str(tmp_path / "store"), name] for name in ("one", "two")]

    def install(number: int) -> str:
        return put_bare(Store.open(tmp_path / "store"), model_file("okay_nabu.tflite"), f"thread-{number}").version

    with ExitStack() as stack:
        running = [
            stack.enter_context(subprocess.Popen(each, cwd=ROOT, stderr=subprocess.PIPE, text=True)) for each in words
        ]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(install, range(8))) == ["1"] * 8
        for each in running:
            _, said = each.communicate(timeout=120)
            assert each.returncode == 0, said
    store = Store.open(tmp_path / "store")
    assert store.record("one").active == store.record("two").active == "4"
    assert len(store.names()) == 10


def test_a_store_is_opened_while_another_makes_it(tmp_path: Path) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(200):
            folder = tmp_path / str(number)
            making = threading.Thread(target=lambda folder=folder: Store.open(folder).partial())
            making.start()
            while making.is_alive():
                Store.open(folder)
            making.join()
    finally:
        sys.setswitchinterval(before)

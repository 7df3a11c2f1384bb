"""A member that is killed while it applies, and its tables afterwards."""

import pickle
import random
import subprocess
import sys

import pytest

from local_cluster.settings import PROJECT_ROOT
from services.consensus.metadata.store import MetadataStore
from tests.unit.consensus.metadata.histories import history

APPLY_FOR_EVER = """
import pickle
import sys
from pathlib import Path
from services.consensus.metadata.store import MetadataStore
store = MetadataStore.open(Path(sys.argv[1]))
entries = pickle.loads(Path(sys.argv[2]).read_bytes())
while store.last_applied < len(entries):
    at = store.last_applied
    store.apply_batch(entries[at : at + 7])
    print(store.last_applied, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_in_mid_apply_leaves_a_prefix_of_the_log(tmp_path, seed):
    """After SIGKILL at random moments the state is that of the entries up to last_applied, and none is lost."""
    chance, count = random.Random(seed), 800
    path, entries = tmp_path / "m", history(count, seed)
    (tmp_path / "entries").write_bytes(pickle.dumps(entries))
    for round_number in range(4):
        arguments = [sys.executable, "-c", APPLY_FOR_EVER, str(path), str(tmp_path / "entries")]
        with subprocess.Popen(arguments, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True) as process:
            told = [process.stdout.readline() for _ in range(chance.randrange(1, 40))]
            process.kill()
        store = MetadataStore.open(path)
        reached = store.last_applied
        assert reached >= max((int(line) for line in told if line.strip()), default=0)
        fresh = MetadataStore.open(tmp_path / f"fresh-{round_number}")
        fresh.apply_batch(entries[:reached])
        assert store.state_hash() == fresh.state_hash()
        fresh.close()
        store.close()

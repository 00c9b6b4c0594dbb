"""What is handed on through a process of a cluster that does not run it."""

import pickle
import subprocess
import sys

from grpo_tta.pipeline.label.load import take_labeler
from grpo_tta.pipeline.run.pickled import Pickled


def test_a_step_is_imported_where_it_is_called_only() -> None:
    step = pickle.dumps(Pickled(pickle.dumps(take_labeler)))
    alone = "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1])); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", alone, step.hex()], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert Pickled(pickle.dumps(abs))(-7) == 7

"""Peak memory of a job over 20,000 images against one over 2,000.

Each job is ``grpo-tta label`` with the default settings and one thread. The 20,000 events point at the files of one
feed of 2,000, ten times over with ids and times of their own, through a manifest; the small job's has each once.
"""

import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks.report import Bar, finish, parser
from grpo_tta.demo.feed import write_feed

PAUSE = timedelta(days=1)


def write_manifest(feed: Path, path: Path, times: int) -> int:
    """All files of the feed ``times`` over; the number of events."""
    count = 0
    with path.open("w") as lines:
        for lap in range(times):
            for file in sorted(feed.glob("*/*.jpg")):
                taken = datetime.strptime(file.name.rpartition("_")[0], "%Y-%m-%dT%H-%M-%S.%fZ") + lap * PAUSE
                event = {
                    "schema_version": "1",
                    "id": f"{file.name}#{lap}",
                    "stream": file.parent.name,
                    "event_time": taken.isoformat() + "Z",
                    "uri": str(file.relative_to(path.parent)),
                }
                lines.write(json.dumps(event) + "\n")
                count += 1
    return count


def peak(manifest: Path, out: Path, events: int) -> int:
    """Of a process that labels ``manifest``, in KB; raises ``RuntimeError`` where a label is missing."""
    command = [sys.executable, "-m", "grpo_tta.pipeline.cli", "label", "--quiet", "--threads", "1"]
    process = subprocess.Popen([*command, "--source", str(manifest), "--out", str(out)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    labels = json.loads((out / "summary.json").read_text())["labels"] if status == 0 else 0
    if labels != events:
        raise RuntimeError(f"{events} events gave {labels} labels, exit status {status}")
    return usage.ru_maxrss


def main() -> int:
    """Print both peaks and the bar."""
    flags = parser(__doc__)
    flags.add_argument("--images", type=int, default=2000, help="of the small job (default: 2000)")
    flags.add_argument("--times", type=int, default=10, help="the large one is so much larger (default: 10)")
    arguments = flags.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_feed(folder / "feed", 0, arguments.images)
        for times in (1, arguments.times):
            manifest = folder / f"times-{times}.jsonl"
            events = write_manifest(folder / "feed", manifest, times)
            peaks.append(peak(manifest, folder / f"out-{times}", events))
            print(f"{events} images: peak {peaks[-1] / 1024:.0f} MB", flush=True)
    return finish(arguments, [Bar("peak, large over small", peaks[1] / peaks[0], 1.15, at_most=True, unit="x")], peaks)


if __name__ == "__main__":
    sys.exit(main())

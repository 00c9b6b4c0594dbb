"""A member of a consumer group in a process of its own: ``kafka_member.py SERVER TOPIC GROUP``.

Prints its events, a line each; obeys the lines ``commit N``, ``sleep-then-commit N`` and ``close`` and prints
``answer`` and what came of it. A commit is made for the partitions as they were when the line came.
"""

import sys
import threading
import time

from grpo_tta.adapters.kafka.errors import KafkaFailure
from grpo_tta.adapters.kafka.group_member import GroupMember
from grpo_tta.adapters.kafka.positions import Committed
from grpo_tta.adapters.kafka.settings import KafkaSettings


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")  # at once: two threads say something
    sys.stdout.flush()


def obey(member: GroupMember) -> None:
    for line in sys.stdin:
        command, _, number = line.strip().partition(" ")
        if command == "close":
            member.close()
            return
        held = member.assignment().partitions
        if command == "sleep-then-commit":
            time.sleep(2.0)
        try:
            member.commit(dict.fromkeys(held, Committed(int(number), "theirs")), held)
            say("answer", "committed")
        except KafkaFailure as error:
            say("answer", type(error).__name__)


def main(server: str, topic: str, group: str) -> None:
    member = GroupMember(KafkaSettings((server,)), [topic], group, session=6.0)
    member.start()
    obeying = threading.Thread(target=obey, args=(member,), daemon=True)
    obeying.start()
    while obeying.is_alive():
        try:
            events = member.events(0.2)
        except KafkaFailure:
            break
        for event in events:
            say(event.kind, *event.partitions)


if __name__ == "__main__":
    main(*sys.argv[1:])

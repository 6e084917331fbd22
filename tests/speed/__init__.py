"""Speed, each number beside a straightforward reference in the same run: `python -m tests.speed [script] [--save]`."""
